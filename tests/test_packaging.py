"""What is shipped beside the packages: the demo, the examples, the unit, the scripts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from storeletd.metrics import METRICS
from tests.helpers import CLONE, Bucket
from tests.terminal import on_terminal

SYSTEMD = CLONE / "packaging" / "systemd"
EXAMPLES = CLONE / "packaging" / "examples"
RULES = CLONE / "packaging" / "prometheus" / "storelet.rules.yml"
SCRIPTS = ["dev", "packaging/demo", "packaging/debian/build", ".ci/run", "tests/systemd/boot.sh"]


def run(
    *command: str | Path, cwd: Path = CLONE, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"{program} is not installed")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy what the demo backs up to a place whose path is too long for a unix socket."""
    programs = Path(sysconfig.get_path("scripts"))
    if not (programs / "storeletd").exists():
        pytest.skip(f"Storelet is not installed in {sys.prefix}: ./dev setup")
    copy = tmp_path / ("a rather deep place/" * 6) / "clone"
    copy.mkdir(parents=True)
    for name in ("packaging", "storelet", "storeletd"):
        shutil.copytree(CLONE / name, copy / name)
    shutil.copy(CLONE / "README.rst", copy)
    (copy / ".venv").symlink_to(programs.parent)
    return copy


def test_demo_makes_archives_that_unzip_opens(clone: Path) -> None:
    need("unzip")
    done = run(clone / "packaging" / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    archives = sorted(path.name for path in (clone / ".demo" / "archives").iterdir())
    assert [name.split("_")[0] for name in archives] == ["documents", "project"]
    assert done.stdout.count("No errors detected") == 2
    listed = run("unzip", "-Z1", clone / ".demo" / "archives" / archives[1]).stdout.splitlines()
    assert {"README.rst", "library/backup.py", "daemon/runner.py", "machine/uname.txt"} <= {*listed}
    assert not processes_that_name(clone)


def test_demo_output_fits_a_narrow_terminal(clone: Path) -> None:
    shown = on_terminal(
        lambda slave: subprocess.Popen(
            [clone / "packaging" / "demo"],
            env={**os.environ, "NO_COLOR": "1", "TERM": "dumb"},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
    )
    assert "NAME" in shown
    # The clone's own path is as long as it is; storeletctl prints it in the archives' URLs.
    ours = [line for line in shown.splitlines() if "clone" not in line]
    assert [line for line in ours if len(line) > 80] == []


def test_commands_the_demo_proposes_work(clone: Path) -> None:
    said = run(clone / "packaging" / "demo").stdout.replace("\\\n", "")
    proposed = re.findall(r"^ {2}((?:unzip|export|\.venv/\S+) .*)", said, re.MULTILINE)
    assert len(proposed) >= 5
    starts = next(line for line in proposed if "/storeletd " in line)
    others = [line for line in proposed if line != starts]
    script = [
        "set -e",
        f"{starts} 2>/dev/null & daemon=$!",
        "trap 'kill $daemon; wait' EXIT",
        "for _ in {1..100}; do [ -S .demo/storeletd.sock ] && break; sleep 0.1; done",
        *others,
    ]
    done = run("bash", "-c", "\n".join(script), cwd=clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not processes_that_name(clone)


def test_demo_saves_to_a_bucket_too(clone: Path, s3_server: Bucket) -> None:
    need("unzip")
    bucket = {
        "STORELET_S3_ENDPOINT": s3_server.endpoint or "",
        "STORELET_S3_BUCKET": s3_server.name,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }
    done = run(clone / "packaging" / "demo", environment=bucket)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(s3_server.keys()) == 2
    assert done.stdout.count("No errors detected") == 4


def test_demo_leaves_a_running_daemon_alone(clone: Path) -> None:
    assert run(clone / "packaging" / "demo").returncode == 0
    script = """
        options="--jobs .demo/jobs --state .demo/state --socket .demo/storeletd.sock"
        .venv/bin/storeletd $options 2>/dev/null & daemon=$!
        trap 'kill $daemon; wait' EXIT
        until [ -S .demo/storeletd.sock ]; do sleep 0.1; done
        packaging/demo
    """
    done = run("bash", "-c", script, cwd=clone)
    assert done.returncode == 1
    assert "a storeletd still runs" in done.stderr
    assert list((clone / ".demo" / "archives").iterdir())


def test_demo_runs_in_a_clone_that_others_may_write(clone: Path) -> None:
    clone.chmod(0o775)
    done = run(clone / "packaging" / "demo", environment={"TMPDIR": str(clone.parents[6])})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept outside" in done.stdout
    assert len(list((clone / ".demo" / "archives").iterdir())) == 2


def test_demo_that_fails_leaves_no_process(clone: Path) -> None:
    job = clone / "packaging" / "examples" / "documents.py"
    job.write_text(job.read_text() + "\nraise SystemExit('no')\n")
    done = run(clone / "packaging" / "demo")
    assert done.returncode == 1
    assert "job documents did not end well" in done.stderr
    assert not processes_that_name(clone)


def processes_that_name(path: Path) -> list[str]:
    """List processes whose command or directory is below `path`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(path)):
                found.append(process.name + " " + (process / "cmdline").read_text())
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.*")), ids=lambda path: path.name)
def test_examples_are_valid_job_files(example: Path) -> None:
    done = run(sys.executable, "-m", "storeletd.ctl", "validate", example)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_is_content(script: str) -> None:
    done = run(need("shellcheck"), script)
    assert done.returncode == 0, done.stdout


def test_dev_explains_itself_when_misused() -> None:
    done = run(CLONE / "dev", "frobnicate")
    assert done.returncode == 2
    assert "usage: ./dev" in done.stderr


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Copy the unit, with a program that is there in the place of ours."""
    text = (SYSTEMD / "storeletd.service").read_text()
    changed = text.replace("ExecStart=/opt/storelet/bin/storeletd", "ExecStart=/bin/true")
    assert changed != text
    path = tmp_path / "storeletd.service"
    path.write_text(changed)
    return path


@pytest.mark.parametrize("drop_in", [None, *sorted(SYSTEMD.glob("*.conf"))], ids=str)
def test_unit_is_correct(unit: Path, drop_in: Path | None) -> None:
    if drop_in is not None:
        directory = unit.with_name(f"{unit.name}.d")
        directory.mkdir()
        shutil.copy(drop_in, directory)
    # Its manual pages come with a package.
    done = run(need("systemd-analyze"), "verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_is_little_exposed(unit: Path) -> None:
    # The threshold is ten times the exposure that the report ends with.
    done = run(
        need("systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=20", unit
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_user_and_directories_are_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a user, be it in a directory")
    (tmp_path / "etc").mkdir()
    made = run(need("systemd-sysusers"), f"--root={tmp_path}", SYSTEMD / "storelet.sysusers")
    assert made.returncode == 0, made.stderr
    assert re.search("^storelet:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)
    made = run(
        need("systemd-tmpfiles"), "--create", f"--root={tmp_path}", SYSTEMD / "storelet.tmpfiles"
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "etc" / "storelet.d").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc" / "storelet").stat().st_mode & 0o777 == 0o700


def test_alert_rules_are_correct() -> None:
    done = run(need("promtool"), "check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    cases = CLONE / "tests" / "alerts.yml"
    done = run(need("promtool"), "test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert [each for each in alerts if f'alertname="{each}"' not in cases.read_text()] == []


def test_alerts_are_about_metrics_that_there_are() -> None:
    named = set(re.findall(r"\bstorelet_\w+", RULES.read_text()))
    assert named
    assert named - METRICS.keys() == set()
