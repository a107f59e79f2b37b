"""`storeletctl run`, as cron or a systemd timer calls it: one job file, no daemon, nothing kept."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import CLONE, Bucket, Daemon, wait_for
from tests.proxy import Proxy

WAITING = """\
SCHEDULE = "manual"
import pathlib, time
pathlib.Path({mark!r}).touch()
time.sleep(1000)
"""


class OneShot:
    """Runs storeletctl in an environment and with temporary files of its own."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.environment = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary)}

    def run(self, *arguments: str | Path, cwd: Path = CLONE) -> subprocess.CompletedProcess[str]:
        """Run a job file; all that was there for the run must be gone when that has ended."""
        with self.start(*arguments, cwd=cwd) as process:
            stdout, stderr = process.communicate()
        self.assert_gone()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    @contextmanager
    def start(
        self, *arguments: str | Path, cwd: Path = CLONE, output: int = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a job file beside the test; after a minute it is killed, so that nobody waits on."""
        # A shell's background jobs ignore SIGINT, and so would what such a test run starts.
        python = ["env", "--default-signal=INT", sys.executable]
        with subprocess.Popen(
            [*python, "-m", "storeletd.ctl", "run", *arguments],
            cwd=cwd,
            env=self.environment | {"PYTHONPATH": str(CLONE), "TERM": "xterm", "COLUMNS": "80"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            timer = threading.Timer(60, process.kill)
            timer.start()
            try:
                yield process
            finally:
                timer.cancel()
                process.kill()

    def is_gone(self) -> bool:
        """Whether there is neither a process nor a temporary file of any run."""
        own = str(self.temporary).encode()
        alive = [path for path in Path("/proc").glob("[0-9]*/environ") if own in _read(path)]
        return not alive and not list(self.temporary.iterdir())

    def assert_gone(self) -> None:
        assert self.is_gone()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""


@pytest.fixture
def oneshot(tmp_path: Path) -> OneShot:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return OneShot(temporary)


def write_yaml(job_dir: Path, tree: Path, save: str, more: str = "") -> Path:
    path = job_dir / "web.yaml"
    path.write_text(f"schedule: manual\ninclude: [{{directory: {tree}}}{more}]\nsave: [{save}]\n")
    return path


def write_module(job_dir: Path, code: str) -> Path:
    path = job_dir / "web.py"
    path.write_text(code if "SCHEDULE" in code else f'SCHEDULE = "manual"\n{code}\n')
    return path


def to_directory(destination: Path) -> str:
    return f"{{directory: {destination}}}"


def test_a_run_saves_an_archive_says_so_and_leaves_nothing(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path
) -> None:
    job = write_yaml(job_dir, tree, to_directory(destination))
    done = oneshot.run(job)
    (archive,) = destination.iterdir()
    assert done.stdout.startswith("web: success in ")
    assert done.stdout.splitlines()[1:] == [f"  {archive}"]
    assert (done.returncode, done.stderr) == (0, "")
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("sub/deeper/file") == b"deep\n"
    assert sorted(job_dir.iterdir()) == [job]


def test_its_lines_are_shown_where_they_are_asked_for(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path
) -> None:
    job = write_yaml(job_dir, tree, to_directory(destination))
    first, *_, last, _archive = oneshot.run("-v", job).stdout.splitlines()
    assert first.startswith("Added ")
    assert last.startswith("web: success in ")


def test_as_json_it_is_a_run_as_run_now_prints_it_and_all_that_the_history_would_know(
    oneshot: OneShot, daemon: Daemon, job_dir: Path, tree: Path, destination: Path
) -> None:
    job = write_yaml(job_dir, tree, to_directory(destination))
    daemon.ctl("reload")
    theirs = json.loads(daemon.ctl("run-now", "--json", "web").stdout)
    kept = json.loads(daemon.ctl("history", "--json", "--run", "1").stdout)
    ours = json.loads(oneshot.run("--json", job).stdout)
    assert ours.keys() == theirs.keys()
    (run,) = ours["runs"]
    assert run.keys() == kept.keys() > theirs["runs"][0].keys()
    assert run["files"]["seen"] == theirs["runs"][0]["files"]["seen"]
    assert (run["outcome"], run["exit_code"], run["state"]) == ("success", 0, "finished")
    assert run["output"][-1].startswith("Saved ")


def test_the_directory_it_is_started_in_is_backed_up_as_any_other(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path
) -> None:
    job = write_yaml(job_dir, tree, to_directory(destination))
    here = tree / "sub"
    before = sorted(here.iterdir())
    assert oneshot.run(os.path.relpath(job, here), cwd=here).returncode == 0
    (archive,) = destination.iterdir()
    with zipfile.ZipFile(archive) as opened:
        assert "sub/deeper/file" in opened.namelist()
    assert sorted(here.iterdir()) == before


def test_a_partial_run_names_all_that_is_not_in_the_archive(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path
) -> None:
    again = f", {{directory: {tree}}}"  # every file's name is taken then
    job = write_yaml(job_dir, tree, to_directory(destination), again)
    done = oneshot.run(job)
    outcome, _archive, *skipped = done.stdout.splitlines()
    assert done.returncode == 3
    count = re.search(r"(\d+) skipped", outcome)
    assert count and len(skipped) == int(count[1]) > 5  # more than run-now shows
    assert {line[:10] for line in skipped} == {"  skipped "}


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("raise SystemExit(1)", 1, "web: failed in .*: it ended with status 1"),
        ("raise SystemExit(75)", 75, "web: skipped in "),
        ("raise OSError('no such luck')", 1, "web: failed in .*: OSError: no such luck"),
        ("TIMEOUT = '1s'\nimport time\ntime.sleep(1000)", 124, "web: timeout in .*timeout of 0:00"),
        ("IDLE_TIMEOUT = '1s'\nimport time\ntime.sleep(1000)", 124, "web: timeout in "),
    ],
)
def test_the_exit_code_is_the_outcomes(
    oneshot: OneShot, job_dir: Path, code: str, exit_code: int, said: str
) -> None:
    done = oneshot.run(write_module(job_dir, code))
    assert done.returncode == exit_code
    assert re.match(said, done.stdout)
    assert done.stderr == ""


def test_a_run_that_failed_says_what_to_do_and_ends_with_the_code_of_the_error(
    oneshot: OneShot, job_dir: Path, tree: Path, tmp_path: Path
) -> None:
    done = oneshot.run(write_yaml(job_dir, tree, to_directory(tmp_path / "nowhere")))
    outcome, hint = done.stdout.splitlines()
    assert done.returncode == 10
    assert outcome.startswith("web: failed in ")
    assert hint.startswith("  Try: is it mounted? to make it: mkdir -p ")


def test_a_run_is_not_repeated(oneshot: OneShot, job_dir: Path, tree: Path, bucket: Bucket) -> None:
    with Proxy(script=lambda _request: "reset") as proxy:
        save = f"{{s3: {bucket.name}, endpoint_url: '{proxy.endpoint}'}}"
        oneshot.environment |= bucket.environment
        job = write_yaml(job_dir, tree, save)
        job.write_text(job.read_text() + "retries: 3\nretry_wait: 1s\n")
        done = oneshot.run("--json", job)
    (run,) = json.loads(done.stdout)["runs"]
    assert (done.returncode, run["outcome"]) == (run["exit_code"], "failed")
    assert (run["attempt"], run["retry_at"]) == (1, None)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("schedule: manual\n", "include", "storeletctl validate "),
        ('schedule: "61 2 * * *"\ninclude: []\nsav: 1\n', r"web\.yaml:\d: .*\(and \d more\)", "s"),
    ],
)
def test_a_broken_job_file_is_not_run(
    oneshot: OneShot, job_dir: Path, text: str, said: str, hint: str
) -> None:
    job = job_dir / "web.yaml"
    job.write_text(text)
    done = oneshot.run(job)
    error, *more = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (78, "")
    assert re.search(said, error)
    assert all(line.startswith(f"Try: {hint}") for line in more)
    document = json.loads(oneshot.run("--json", job).stderr)
    assert document["exit_code"] == 78
    assert f"Error: {document['error']}" == error


def test_a_job_file_that_others_may_write_is_not_run(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path, tmp_path: Path
) -> None:
    job = write_yaml(job_dir, tree, to_directory(destination))
    link = tmp_path / "web.yaml"
    link.symlink_to(job)
    for path, mode in ((job, 0o666), (job_dir, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        for named in (job, link):
            done = oneshot.run(named)
            assert done.returncode == 78
            assert f"is writable by everybody (mode {mode:04o})" in done.stderr
            assert f"Try: chmod go-w {path}" in done.stderr
        path.chmod(before)
    assert list(destination.iterdir()) == []
    assert oneshot.run(link).returncode == 0


def test_a_file_that_is_not_there_or_no_job_is_not_run(oneshot: OneShot, job_dir: Path) -> None:
    (job_dir / "web.txt").write_text("hello\n")
    for path, said in (
        (job_dir / "nowhere.yaml", "no such file"),
        (job_dir / "web.txt", "expected a file"),
        (job_dir, "this is a directory"),
    ):
        done = oneshot.run(path)
        assert done.returncode == 78
        assert said in done.stderr


@pytest.mark.parametrize(
    ("number", "exit_code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "told to end by SIGTERM")],
)
def test_a_signal_ends_it_in_order_and_aborts_its_upload(
    oneshot: OneShot,
    job_dir: Path,
    tmp_path: Path,
    seaweedfs: Bucket,
    number: signal.Signals,
    exit_code: int,
    said: str,
) -> None:
    with _uploading(oneshot, job_dir, tmp_path, seaweedfs) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert process.returncode == exit_code
    assert re.fullmatch(rf"web: cancelled in \S+: {said}\n", stdout)
    assert stderr == ""
    assert open_uploads(seaweedfs) == []
    assert seaweedfs.keys() == []
    oneshot.assert_gone()


def test_what_it_has_started_ends_in_order_though_it_is_killed_itself(
    oneshot: OneShot, job_dir: Path, tmp_path: Path, seaweedfs: Bucket
) -> None:
    with _uploading(oneshot, job_dir, tmp_path, seaweedfs) as process:
        process.kill()
        wait_for(oneshot.is_gone, seconds=20, what="the end of the run")
    assert open_uploads(seaweedfs) == []


@contextmanager
def _uploading(
    oneshot: OneShot, job_dir: Path, tmp_path: Path, bucket: Bucket
) -> Iterator[subprocess.Popen[str]]:
    """Start a run and wait until its upload is open, and goes no further."""
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "random").write_bytes(os.urandom(20 << 20))
    oneshot.environment |= bucket.environment
    with Proxy(bucket.endpoint) as proxy:
        proxy.script = lambda request: "hang" if request.query.get("partNumber") == ["2"] else None
        save = f"{{s3: {bucket.name}, endpoint_url: '{proxy.endpoint}'}}"
        with oneshot.start(write_yaml(job_dir, tmp_path / "large", save)) as process:
            wait_for(lambda: proxy.actions.count("UploadPart") > 1, seconds=30, what="two parts")
            assert len(open_uploads(bucket)) == 1
            yield process


def open_uploads(bucket: Bucket) -> list[str]:
    answer = bucket.client.list_multipart_uploads(Bucket=bucket.name)
    return [each["UploadId"] for each in answer.get("Uploads", ())]


def test_a_job_is_not_run_twice_at_once(oneshot: OneShot, job_dir: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    job = write_module(job_dir, WAITING.format(mark=str(mark)))
    with oneshot.start(job) as process:
        wait_for(mark.exists, what="the first one")
        with oneshot.start("--json", job) as second:
            stdout, stderr = second.communicate()
        assert (second.returncode, stdout) == (11, "")
        assert json.loads(stderr)["error"].startswith("job web is running already")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    mark.unlink()
    job.write_text('SCHEDULE = "manual"\nraise SystemExit(75)\n')
    assert oneshot.run(job).returncode == 75  # it is held no longer


def test_a_full_disk_under_its_output_ends_no_backup(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path, tmp_path: Path
) -> None:
    """The line that cannot be written comes before the archive does."""
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    os.mkfifo(gate)
    produced = f", {{new_dir: produced, run: 'echo said; touch {mark}; cat {gate} >file'}}"
    job = write_yaml(job_dir, tree, to_directory(destination), produced)
    full = os.open("/dev/full", os.O_WRONLY)
    with oneshot.start("-v", job, output=full) as process:
        os.close(full)
        wait_for(mark.exists, what="the command")
        gate.write_text("go\n")
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 1
    assert said == "Error: standard output: No space left on device\n"
    (archive,) = destination.iterdir()
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("produced/file") == b"go\n"
    oneshot.assert_gone()


def test_on_a_terminal_a_line_lives_while_it_runs(
    oneshot: OneShot, job_dir: Path, tree: Path, destination: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    produced = f", {{new_dir: produced, run: 'cat {gate} >file'}}"
    job = write_yaml(job_dir, tree, to_directory(destination), produced)
    master, slave = pty.openpty()
    with oneshot.start(job, output=slave) as process:
        os.close(slave)
        shown = b""
        while b"web  0 files" not in shown:
            shown += os.read(master, 65536)
        gate.write_text("go\n")
        while b"success" not in shown:
            shown += os.read(master, 65536)
        assert process.wait() == 0
    os.close(master)
