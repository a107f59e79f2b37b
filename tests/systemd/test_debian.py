"""The Debian package in a bare Debian: installed, used, upgraded, removed, purged."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.helpers import CLONE, make_once, wait_for
from tests.systemd.debian import build_package, find_root, raise_version
from tests.systemd.machine import Machine, NoMachineError, do_without
from tests.systemd.service import Service

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install"
ARCHIVES = "/var/lib/storelet/archives"
MOST_MEMORY = 70 << 10  # KiB, of an idle daemon


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        directory = make_once(tmp_path_factory, "package", build_package)
    except NoMachineError as error:
        do_without("Debian package", error)
    return next(directory.glob("*.deb"))


@pytest.fixture
def debian() -> Iterator[Machine]:
    """Boot a bare Debian with nothing of Storelet's, nor Python."""
    try:
        machine = Machine.boot_bare(find_root())
    except NoMachineError as error:
        do_without("bare Debian", error)
    try:
        yield machine
    finally:
        machine.stop()


def test_lintian_is_content(package: Path) -> None:
    lintian = shutil.which("lintian") or pytest.skip("lintian is not installed")
    command = [lintian, "--fail-on=error,warning", "--allow-root", package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "")


def test_package_names_no_place_it_was_built_in(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True, timeout=60)
    program = tmp_path / "usr" / "lib" / "storelet" / "bin" / "storeletctl"
    assert program.read_text().startswith("#!/usr/lib/storelet/bin/python3\n")
    files = (path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink())
    places = re.compile(rb"/tmp/storelet-deb|debian/storelet/usr")
    assert [path for path in files if places.search(path.read_bytes())] == []


def test_package_lives_and_goes(debian: Machine, package: Path, tmp_path: Path) -> None:
    service = Service(debian)
    shutil.copy(package, debian.path("/var/tmp/storelet.deb"))
    shutil.copy(raise_version(package, tmp_path), debian.path("/var/tmp/newer.deb"))
    debian.shell(f"apt-get -qq update; {INSTALL} /var/tmp/storelet.deb")
    check_installation(service)
    use(service)
    upgrade_while_it_runs(service)
    debian.reboot()
    assert service.show("ActiveState") == "active"
    remove(debian)
    purge(debian)


def check_installation(service: Service) -> None:
    debian = service.machine
    compiled = debian.shell("find /usr/lib/storelet -path '*/storeletd/*.pyc'").splitlines()
    assert len(compiled) > len(list((CLONE / "storeletd").glob("*.py")))  # nobody has run it yet
    assert debian.shell("storeletctl --version") == debian.shell("storeletd --version").replace(
        "storeletd", "storeletctl"
    )
    assert (service.show("ActiveState"), service.show("UnitFileState")) == ("active", "enabled")
    status = debian.path(f"/proc/{service.show('MainPID')}/status").read_text()
    resident = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert resident and int(resident[1]) < MOST_MEMORY
    directories = debian.shell("stat -c '%U %a %n' /etc/storelet /etc/storelet.d /var/lib/storelet")
    assert directories.splitlines() == [
        "root 700 /etc/storelet",
        "root 755 /etc/storelet.d",
        "storelet 700 /var/lib/storelet",
    ]
    for page in ("man1/storeletctl.1", "man5/storelet.d.5", "man8/storeletd.8"):
        assert debian.path(f"/usr/share/man/{page}.gz").exists()
    for path in (
        "fish/vendor_completions.d/storeletctl.fish",
        "zsh/vendor-completions/_storeletctl",
    ):
        assert "storeletctl" in debian.path(f"/usr/share/{path}").read_text()
    completed = debian.shell("""
        source /usr/share/bash-completion/completions/storeletctl
        COMP_WORDS=(storeletctl resume-) COMP_CWORD=1
        _storeletctl_completion storeletctl resume- storeletctl
        echo "${COMPREPLY[@]}"
    """)
    assert completed.split() == ["resume-prune"]
    # Of botocore's services, only some are there; all that credentials may come from must be.
    python = "/usr/lib/storelet/bin/python3"
    services = debian.shell(f"""{python} -c '
import boto3, certifi
for name in ("s3", "sts", "sso", "sso-oidc"):
    print(boto3.client(name, region_name="us-east-1").meta.service_model.service_name)
print(open(certifi.where()).name, len(open(certifi.where()).read()) > 1000)
'""")
    assert services.split()[:4] == ["s3", "sts", "sso", "sso-oidc"]
    assert services.split()[5] == "True"


JOB = f"""\
schedule: manual
include: [{{directory: /etc}}]
save: [{{directory: {ARCHIVES}}}]
"""
# Once /run/awake is there no run sleeps.
SLEEPY = f"""\
timezone: UTC
include: [{{new_dir: made, run: touch made; test -e /run/awake || exec sleep 1000}}]
save: [{{directory: {ARCHIVES}}}]
"""


def use(service: Service) -> None:
    """Make an archive in the service's own directory, which it may write to as it is."""
    service.machine.shell(f"install -d -o storelet -g storelet -m 0700 {ARCHIVES}")
    service.write_job("example.yaml", JOB)
    run = service.run("example")
    assert run["outcome"] in ("success", "partial"), run


def upgrade_while_it_runs(service: Service) -> None:
    debian = service.machine
    soon = datetime.now(UTC) + timedelta(seconds=10)
    service.write_job("sleepy.yaml", f'schedule: "{soon:%H:%M:%S}"\n{SLEEPY}')
    wait_for(lambda: "sleep 1000" in commands(service), seconds=30, what="a run that sleeps")
    before = service.show("MainPID")
    debian.shell(f"touch /run/awake; {INSTALL} /var/tmp/newer.deb")
    assert debian.shell("dpkg-query -W -f '${Version}' storelet").endswith("+newer")
    assert service.show("ActiveState") == "active"
    assert service.show("MainPID") != before
    check_downtime(service)
    assert service.jobs() == {"example", "sleepy"}
    assert [run["outcome"] for run in service.runs("example")] in (["success"], ["partial"])
    *_, ended = service.runs("sleepy")
    assert (ended["outcome"], ended["cause"]) == ("cancelled", "schedule")
    wait_for(
        lambda: [run for run in service.runs("sleepy") if run["repeats"] == ended["id"]],
        seconds=30,
        what="the run that the upgrade ended to be run again",
    )
    wait_for(lambda: service.runs("sleepy")[0]["outcome"] == "success", what="its success")
    debian.shell("rm /etc/storelet.d/sleepy.yaml")
    wait_for(lambda: service.jobs() == {"example"}, what="the job to go")


def check_downtime(service: Service) -> None:
    """See that no file was replaced under a daemon that ran."""
    names = ("InactiveEnterTimestamp", "ActiveEnterTimestamp")
    show = "systemctl show --timestamp=unix --value storeletd --property"
    stopped, started = (int(service.machine.shell(f"{show}={name}").strip("@\n")) for name in names)
    unpacked = service.machine.path("/usr/lib/storelet/pyvenv.cfg").stat().st_ctime
    assert stopped <= unpacked <= started + 1


def commands(service: Service) -> set[str]:
    """Return the command lines of the service's processes."""
    paths = (service.machine.path(f"/proc/{pid}/cmdline") for pid in service.processes())
    return {path.read_text().replace("\0", " ").strip() for path in paths if path.exists()}


def remove(debian: Machine) -> None:
    """Remove it: job files, history and archives stay."""
    debian.shell("apt-get -qq -y remove storelet")
    assert not debian.path("/usr/lib/storelet").exists()
    assert not debian.path("/usr/bin/storeletctl").is_symlink()
    assert debian.path("/etc/storelet.d/example.yaml").exists()
    assert debian.path("/var/lib/storelet/history.sqlite").exists()
    state = debian.run("systemctl", "is-active", "storeletd", check=False).stdout.strip()
    assert state in ("inactive", "failed") and "storelet" not in debian.shell("systemctl --failed")


def purge(debian: Machine) -> None:
    """Purge it: what somebody wrote, and archives, stay; then nothing does but the user."""
    debian.shell("apt-get -qq -y purge storelet; rm /var/tmp/*.deb")
    left = set(debian.shell("find / -xdev -ipath '*storelet*' -not -type d").split())
    archives = {path for path in left if path.startswith(ARCHIVES)}
    assert archives
    assert left - archives == {"/etc/storelet.d/example.yaml"}
    debian.shell(f"rm -r {ARCHIVES} /etc/storelet.d/example.yaml")
    left = set(debian.shell("find / -xdev -ipath '*storelet*'").split())
    assert left == {"/etc/storelet.d", "/var/lib/storelet"}
    assert debian.shell("id -un storelet").strip() == "storelet"
