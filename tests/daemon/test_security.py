"""Who may do what: users, capabilities, secrets and what others may do to them, for real."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storeletd import keeper
from tests.helpers import CLONE, Daemon, wait_for

NOBODY = "nobody"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become others")


def write_job_file(daemon: Daemon, name: str, text: str) -> Path:
    path = daemon.jobs / name
    path.write_text(textwrap.dedent(text))
    path.chmod(0o644)
    return path


def write_job(daemon: Daemon, name: str, text: str) -> Path:
    path = write_job_file(daemon, name, text)
    daemon.ctl("reload")
    return path


def run_by(*command: str) -> str:
    """Return a program for `Daemon.start` that becomes the command, with the daemon's options."""
    return f"import os, sys; os.execvp({command[0]!r}, {list(command)} + sys.argv[1:])"


def run(daemon: Daemon, name: str) -> dict[str, Any]:
    """Run a job to its end and return the run with its output."""
    done = daemon.ctl("run-now", "--json", name, check=False)
    answer = json.loads(done.stdout)
    (run_id,) = [each["id"] for each in answer["runs"]]
    found: dict[str, Any] = daemon.request("GET", f"/runs/{run_id}")[1]
    return found


def only_archive(directory: Path) -> zipfile.ZipFile:
    (archive,) = directory.glob("*.zip")
    return zipfile.ZipFile(archive)


# Users and capabilities, with places and a Python that nobody can reach


@pytest.fixture
def place() -> Iterator[Path]:
    """Make a directory that everybody can reach; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="storelet-", dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def python(place: Path) -> str:
    """Find a Python that others than root can reach, with all that Storelet needs."""
    if os.geteuid() != 0:
        pytest.skip("only root may become others")
    if _runs_storelet(sys.executable):
        return sys.executable
    system = Path("/usr/bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if not system.exists():
        pytest.skip(f"{sys.executable} is not for others, and there is no {system}")
    made = place / "python"
    subprocess.run([system, "-m", "venv", "--without-pip", made], check=True)
    (packages,) = made.glob("lib/python*/site-packages")
    paths = [CLONE, *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "storelet.pth").write_text("".join(f"{path}\n" for path in paths))
    python = str(made / "bin" / "python")
    if not _runs_storelet(python):
        pytest.skip("this clone, or what it needs, is not for others to read")
    return python


def _runs_storelet(python: str) -> bool:
    command = [python, "-P", "-c", "import storeletd.worker, boto3"]
    try:
        done = subprocess.run(
            command, user=NOBODY, group=pwd.getpwnam(NOBODY).pw_gid, extra_groups=[], cwd="/",
            capture_output=True,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def running(place: Path, *command: str) -> Iterator[Daemon]:
    """Run a storeletd by a command; the name of the socket's directory is what tells it apart."""
    own = place / "daemon"
    own.mkdir(mode=0o711)
    jobs = place / "jobs"
    jobs.mkdir(mode=0o755)
    daemon = Daemon(jobs=jobs, state=own / "state", socket=own / "storeletd.sock")
    (own / "temporary").mkdir()
    (own / "temporary").chmod(0o1777)
    daemon.environment["TMPDIR"] = str(own / "temporary")
    program = run_by(*command)
    if command[0] == "setpriv":
        shutil.chown(own, NOBODY)
    try:
        daemon.start(program=program)
        yield daemon
        daemon.stop()
        daemon.assert_alone()
        assert os.listdir(own / "temporary") == []
    finally:
        daemon.kill()


@pytest.fixture
def as_shipped(python: str) -> list[str]:
    """Return a command as the shipped unit has it: it may read every file, and nothing else."""
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv, of util-linux")
    user = pwd.getpwnam(NOBODY)
    become = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    capability = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    bounds = "--bounding-set=-all,+dac_read_search"
    return ["setpriv", *become, *capability, bounds, python, "-P", "-m", "storeletd"]


@pytest.fixture
def unprivileged(place: Path, as_shipped: list[str]) -> Iterator[Daemon]:
    """Run one as the shipped unit does."""
    with running(place, *as_shipped) as daemon:
        yield daemon


@pytest.fixture
def of_root(place: Path, python: str) -> Iterator[Daemon]:
    """Run one as root, whose workers others can be."""
    with running(place, python, "-P", "-m", "storeletd") as daemon:
        yield daemon


@pytest.fixture
def archives(place: Path) -> Path:
    path = place / "archives"
    path.mkdir()
    shutil.chown(path, NOBODY)
    return path


@pytest.fixture
def roots(place: Path) -> Path:
    """Make a directory with a file that is root's alone."""
    path = place / "roots"
    path.mkdir()
    (path / "secret").write_text("for root")
    (path / "secret").chmod(0o600)
    return path


@pytest.mark.parametrize("privileged", [False, True])
def test_a_command_loses_the_capability_unless_it_is_to_keep_it(
    unprivileged: Daemon, roots: Path, archives: Path, privileged: bool
) -> None:
    """The run itself keeps it, and so do its helpers: what is only root's is in the archive."""
    for number in range(3000):  # enough for the helper processes
        (roots / f"file {number}").write_text(f"{number}\n" * 500)
        (roots / f"file {number}").chmod(0o600)
    write_job(
        unprivileged,
        "web.yaml",
        f"""\
        schedule: manual
        log_files: false
        include:
        - new_dir: made
          run: cat {roots}/secret > read; grep Cap /proc/self/status > capabilities; true
          privileged: {str(privileged).lower()}
        - directory: {roots}
        - new_dir: later
          run: cat {roots}/secret > read; true
        save:
        - directory: {archives}
        """,
    )
    done = run(unprivileged, "web")
    assert (done["outcome"], done["files"]["skipped"]) == ("success", 0), done
    with only_archive(archives) as archive:
        assert archive.read("made/read") == (b"for root" if privileged else b"")
        assert archive.read("later/read") == b""
        assert archive.read("secret") == b"for root"
        assert archive.read("file 2999") == b"2999\n" * 500
        said = archive.read("made/capabilities").decode().split()
    capability = "0000000000000004" if privileged else "0000000000000000"
    held = dict(zip(said[::2], said[1::2], strict=True))
    assert {held["CapPrm:"], held["CapEff:"], held["CapAmb:"]} == {capability}
    refused = [line for line in done["output"] if "Permission denied" in line]
    assert len(refused) == (1 if privileged else 2)


WHO = """\
    import json, os, pathlib, sys
    own = pathlib.Path(os.environ["TMPDIR"])
    status = pathlib.Path("/proc/self/status").read_text()
    try:
        os.setuid(0)
    except PermissionError:
        root = False
    else:
        root = True
    print(json.dumps({
        "ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "root": root,
        "capabilities": [line.split()[1] for line in status.splitlines() if line.startswith("Cap")],
        "environment": {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")},
        "temporary": [own.stat().st_uid, own.stat().st_mode & 0o777],
    }))
"""


def said_by(done: dict[str, Any]) -> dict[str, Any]:
    (line,) = [line for line in done["output"] if line.startswith('{"ids"')]
    found: dict[str, Any] = json.loads(line)
    return found


def assert_is_nobody(said: dict[str, Any]) -> None:
    user = pwd.getpwnam(NOBODY)
    assert said["ids"] == [user.pw_uid] * 3 + [user.pw_gid] * 3
    assert said["groups"] == os.getgrouplist(NOBODY, user.pw_gid)
    assert not said["root"]
    assert {int(each, 16) for each in said["capabilities"][1:3]} == {0}  # permitted, effective
    assert int(said["capabilities"][4], 16) == 0  # ambient
    assert said["environment"] == {"HOME": user.pw_dir, "USER": NOBODY, "LOGNAME": NOBODY}
    assert said["temporary"] == [user.pw_uid, 0o700]


def test_a_job_runs_as_its_user_and_is_ended_and_removed_all_the_same(
    of_root: Daemon, place: Path
) -> None:
    mark = place / "marks"
    mark.mkdir(mode=0o1777)
    mark.chmod(0o1777)
    write_job(
        of_root,
        "who.py",
        'SCHEDULE = "manual"\nUSER = "nobody"\n'
        + textwrap.dedent(WHO)
        + textwrap.dedent(
            f"""\
            import subprocess, time
            (own / "deep" / "closed").mkdir(parents=True)
            (own / "deep" / "closed" / "file").touch()
            (own / "deep").chmod(0)
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            sys.stdout.flush()
            open({str(mark / "on")!r}, "w").close()
            time.sleep(1000)
            """
        ),
    )
    run_id = of_root.request("POST", "/jobs/who/runs")[1]["run"]["id"]
    wait_for((mark / "on").exists, seconds=20)
    of_root.ctl("cancel", "who")

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = of_root.request("GET", f"/runs/{run_id}")[1]
        return found if found["state"] == "finished" else None

    done = wait_for(look, seconds=20)
    assert done["outcome"] == "cancelled"
    assert_is_nobody(said_by(done))


def test_a_yaml_job_of_a_user_has_his_rights_and_no_more(
    of_root: Daemon, roots: Path, archives: Path
) -> None:
    (roots / "public").write_text("for all")
    write_job(
        of_root,
        "web.yaml",
        f"""\
        schedule: manual
        user: nobody
        include:
        - directory: {roots}
        - new_dir: made
          run: id -un > who
        save:
        - directory: {archives}
        """,
    )
    done = run(of_root, "web")
    assert (done["outcome"], done["exit_code"]) == ("partial", 3)
    assert [each["path"] for each in done["skipped_entries"]] == [str(roots / "secret")]
    with only_archive(archives) as archive:
        assert archive.read("public") == b"for all"
        assert archive.read("made/who") == b"nobody\n"
        assert archive.filename is not None
        assert Path(archive.filename).owner() == NOBODY


def test_a_command_runs_as_its_user_in_a_directory_that_is_his(
    of_root: Daemon, roots: Path, archives: Path, place: Path, python: str
) -> None:
    """By its path, too, though that leads through a directory of the run's own."""
    (place / "who.py").write_text(textwrap.dedent(WHO))
    write_job(
        of_root,
        "web.yaml",
        f"""\
        schedule: manual
        include:
        - new_dir: made
          run: |
            {python} {place}/who.py && umask 077 && id -un > "{{dir}}/who" && mkdir {{dir}}/closed
            echo in it > closed/file; chmod 0 closed; mktemp > /dev/null
            ls "$(dirname {{dir}})"; cat {roots}/secret; true
          user: nobody
        - new_dir: ours
          run: id -un > who; stat -c %a "$TMPDIR" > mode
        - directory: {roots}
        save:
        - directory: {archives}
        """,
    )
    done = run(of_root, "web")
    assert done["outcome"] == "success", done
    assert_is_nobody(said_by(done))
    assert sum("Permission denied" in line for line in done["output"]) == 2
    with only_archive(archives) as archive:
        assert archive.read("made/who") == b"nobody\n"
        assert archive.read("made/closed/file") == b"in it\n"
        assert archive.read("ours/who") == b"root\n"
        assert archive.read("ours/mode") == b"700\n"
        assert archive.read("secret") == b"for root"


@pytest.mark.parametrize("under_systemd", [False, True])
@pytest.mark.parametrize("whose", ["job", "command"])
def test_a_daemon_that_may_not_become_others_says_so_and_what_to_do(
    place: Path, python: str, archives: Path, whose: str, under_systemd: bool
) -> None:
    user = pwd.getpwnam(NOBODY)
    become = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    more = ["env", "INVOCATION_ID=0"] if under_systemd else []
    with running(place, "setpriv", *become, *more, python, "-P", "-m", "storeletd") as daemon:
        write_job(
            daemon,
            "web.yaml",
            f"""\
            schedule: manual
            {"user: daemon" if whose == "job" else ""}
            include:
            - new_dir: made
              run: touch file
              {"user: daemon" if whose == "command" else ""}
            save:
            - directory: {archives}
            """,
        )
        done = run(daemon, "web")
    assert (done["outcome"], done["exit_code"]) == ("failed", 77)
    said = {
        "job": "the run may not become user daemon: Operation not permitted",
        "command": "a command may not be run as user daemon: Operation not permitted",
    }
    assert done["message"] == said[whose]
    if under_systemd:
        assert done["hint"] == (
            "`systemctl edit storeletd`, there [Service], User=root,"
            " CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID"
            " CAP_SETUID and SystemCallFilter=@chown @setuid"
        )
    else:
        assert done["hint"] == "for that, storeletd must be root"
    assert list(archives.iterdir()) == []


def test_a_read_only_destination_hints_at_the_units_lines(daemon: Daemon, tmp_path: Path) -> None:
    """Of two destinations the one it is about; a path as systemd reads it."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode != 0:
        pytest.skip("needs mounts of its own, which this machine lets nobody have")
    closed, other = tmp_path / 'a 5% "nas"', tmp_path / "other"
    closed.mkdir()
    other.mkdir()
    daemon.stop()
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(closed)]
    command += [sys.executable, "-m", "storeletd"]
    text = (
        f"schedule: manual\ninclude:\n- new_dir: made\n  run: touch file\nsave:\n"
        f"- directory: {other}\n- directory: '{closed}'\n"
    )
    write_job_file(daemon, "web.yaml", text)
    hints = []
    for invocation in ({}, {"INVOCATION_ID": "0"}):
        daemon.environment |= invocation
        daemon.start(program=run_by(*command))
        done = run(daemon, "web")
        assert (done["outcome"], done["exit_code"]) == ("failed", 77)
        assert f"cannot write to directory {closed}: Read-only file system" in done["message"]
        hints.append(done["hint"])
        daemon.stop()
    path = str(closed).replace("%", "%%").replace('"', '\\"')
    assert "systemctl edit" not in hints[0]
    assert hints[1] == f'`systemctl edit storeletd`, there [Service] and ReadWritePaths="{path}"'
    daemon.start()


def test_a_destination_of_somebody_elses_hints_at_its_owner(
    unprivileged: Daemon, as_shipped: list[str], roots: Path
) -> None:
    text = (
        f"schedule: manual\ninclude:\n- new_dir: made\n  run: touch file\nsave:\n"
        f"- directory: {roots}\n"
    )
    write_job(unprivileged, "web.yaml", text)
    assert run(unprivileged, "web")["hint"] == f"see: ls -ld {roots}"
    unprivileged.stop()
    unprivileged.environment["INVOCATION_ID"] = "0"
    unprivileged.start(program=run_by(*as_shipped))
    hint = run(unprivileged, "web")["hint"]
    assert hint.startswith(f"chown nobody {roots}; or `systemctl edit storeletd`, there [Service],")


@pytest.mark.parametrize("whose", ["job", "command"])
def test_a_user_who_is_not_there_is_a_clear_failure(
    daemon: Daemon, tmp_path: Path, whose: str
) -> None:
    of_job, of_command = ("user: nosuch", "") if whose == "job" else ("", "user: nosuch")
    write_job(
        daemon,
        "web.yaml",
        f"schedule: manual\n{of_job}\ninclude:\n- new_dir: made\n  run: touch file\n"
        f"  {of_command}\nsave:\n- directory: {tmp_path}\n",
    )
    done = run(daemon, "web")
    assert (done["outcome"], done["message"]) == ("failed", "no such user: nosuch")
    assert done["hint"] == "see: getent passwd"


def test_a_job_of_the_daemons_own_user_needs_no_rights(daemon: Daemon, tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    (tmp_path / "archives").mkdir()
    write_job(
        daemon,
        "web.yaml",
        f"schedule: manual\nuser: {me}\ninclude:\n- new_dir: made\n  run: id -un > who\n"
        f"  user: {me}\nsave:\n- directory: {tmp_path / 'archives'}\n",
    )
    assert run(daemon, "web")["outcome"] == "success"
    with only_archive(tmp_path / "archives") as archive:
        assert archive.read("made/who").decode() == f"{me}\n"


def test_the_keeper_goes_through_no_link_put_in_the_place_of_what_it_found(tmp_path: Path) -> None:
    """A user whose run a keeper of root's cleans up after may still have other processes."""
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True, mode=0o755)
    (precious / "sub" / "file").touch()
    own = tmp_path / "own"
    (own / "a" / "sub").mkdir(parents=True)
    place = (str(own),)
    assert keeper._empty(place) == [(*place, "a")]
    assert keeper._empty((*place, "a")) == [(*place, "a", "sub")]
    (own / "a").rename(own / "b")
    (own / "a").symlink_to(precious)  # now, with both found already
    before = (precious / "sub").stat()
    assert keeper._empty((*place, "a")) == []
    assert keeper._empty((*place, "a", "sub")) == []
    with pytest.raises(NotADirectoryError):
        keeper._remove_empty((*place, "a", "sub"))
    assert (precious / "sub").stat() == before
    assert (precious / "sub" / "file").exists()
