"""Whatever a job's code does to its worker: the run has an outcome, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_daemon import finished, jobs, run, started, write_job
from tests.daemon.test_uploads import open_uploads, remembered, write_yaml
from tests.helpers import Bucket, Daemon, wait_for
from tests.proxy import Proxy

SAVE = """\
import atexit, ctypes, io, logging, os, resource, signal, subprocess, sys, threading, time
import storelet
SCHEDULE = "manual"
def save():
    with storelet.ZipBackup("module") as backup:
        backup.include_directory({tree!r})
        backup.save_to_directory({destination!r})
"""
MEGABYTES = """\
for stream in (sys.stdout, sys.stderr):
    stream.buffer.write(b"line\\n" * 50_000)
    for piece in (b"no line end ", bytes(range(256))):
        stream.buffer.write(piece * (3_000_000 // len(piece)))
save()
"""
# Starts what hides from its parent in the ways that there are, and does not want to end.
LEAVING = """\
STUBBORN = ["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done"]
subprocess.Popen(STUBBORN)
subprocess.Popen(STUBBORN, start_new_session=True, stdout=subprocess.DEVNULL)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 1024)
    os.chdir("/")
    while True:
        time.sleep(1)
os.wait()
save()
"""
ELSEWHERE = """\
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.umask(0)
os.mkdir("gone") if os.chdir(os.environ["TMPDIR"]) else os.makedirs("gone")
os.chdir("gone")
os.rmdir("../gone")
os.environ.clear()
save()
"""
DEEP = """\
sys.setrecursionlimit(1 << 30)
nested = []
for _ in range(1_000_000):
    nested = [nested]
repr(nested)
"""


@pytest.fixture(autouse=True)
def no_traces(daemon: Daemon, tmp_path: Path) -> Iterator[None]:
    """Fail a test after which a process or file is left, or the daemon does not go on."""
    before = set(daemon.socket.parent.iterdir())
    yield
    daemon.assert_alone()
    assert set(daemon.socket.parent.iterdir()) == before
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "file").touch()
    text = f"""\
    schedule: manual
    include: [{{file: {tmp_path / "file"}}}]
    save: [{{directory: {kept}}}]
    """
    write_job(daemon, "next.yaml", text)
    assert run(daemon, "next")["outcome"] == "success"
    (archive,) = kept.iterdir()
    assert zipfile.ZipFile(archive).namelist() == ["file"]


@pytest.fixture
def prologue(tree: Path, destination: Path) -> str:
    """Begin a module: `save()` in it saves an archive."""
    return SAVE.format(tree=str(tree), destination=str(destination))


@pytest.mark.parametrize(
    ("code", "outcome", "message", "archives"),
    [
        ("os._exit(0)", "failed", "it saved nothing", 0),
        ("os._exit(1)", "failed", "status 1", 0),
        ("save(); os._exit(1)", "failed", "status 1", 1),
        ("def call(): call()\ncall()", "failed", "RecursionError: maximum recursion depth", 0),
        (DEEP, "failed", "signal 11", 0),
        ("ctypes.string_at(0)", "failed", "signal 11", 0),
        ("save(); os.abort()", "failed", "signal 6", 1),
        ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt", 0),
        ("save()\nraise KeyboardInterrupt", "failed", "KeyboardInterrupt", 1),
        ("class Odd(BaseException): pass\nraise Odd('why')", "failed", "Odd: why", 0),
        ("raise SystemExit('why')", "failed", "status 1", 0),
        ("save()\nraise ValueError('x' * 3_000_000)", "failed", "ValueError: xxx", 1),
        ("save()\nraise storelet.StoreletError(['why'])", "failed", "['why']", 1),
        ("save()\nraise storelet.StoreletError('x' * 3_000_000)", "failed", "xxx", 1),
        ("logging.warning('x' * 3_000_000); save()", "success", None, 1),
        ("atexit.register(os._exit, 4); save()", "failed", "status 4", 1),
        (MEGABYTES, "success", None, 1),
        (LEAVING, "success", None, 1),
        (ELSEWHERE, "success", None, 1),
        ("sys.stdout.close(); save()", "success", None, 1),
        ("sys.stdout = sys.stderr = io.StringIO(); print('x'); save()", "success", None, 1),
        ("sys.stdout = sys.stderr = None; save()", "success", None, 1),
        ("save(); os.close(1); os.close(2)", "success", None, 1),
        ("sys.stderr.close(); 1 / 0", "failed", "ZeroDivisionError: division by zero", 0),
        ("sys.stderr.close()\nraise SystemExit('why')", "failed", "status 1", 0),
        ("sys.stderr = 5; 1 / 0", "failed", "ZeroDivisionError: division by zero", 0),
        ("os.close(2); 1 / 0", "failed", "ZeroDivisionError: division by zero", 0),
        ("os.fork(); save()", "success", None, 1),
        ("save(); os.fork()", "success", None, 1),
        (
            "save(); resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile 1: pass",
            "failed",
            "signal",
            1,
        ),
        (
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(2 << 30)",
            "failed",
            "MemoryError",
            0,
        ),
    ],
)
def test_a_run_has_its_outcome_whatever_the_module_does(
    daemon: Daemon, prologue: str, code: str, outcome: str, message: str | None, archives: int
) -> None:
    write_job(daemon, "module.py", f"{prologue}\n{code}\n")
    done = run(daemon, "module")
    assert done["outcome"] == outcome, done
    assert (message is None) == (done["message"] is None)
    assert (message or "") in (done["message"] or "")
    assert len(done["archives"]) == archives
    assert len(done["message"] or "") < 10_000
    assert max(map(len, done["output"]), default=0) <= 8192
    for archive in done["archives"]:
        path = archive["url"].removeprefix("file://")
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert zipfile.ZipFile(path).testzip() is None


@pytest.mark.parametrize("first", [0, 3])
def test_a_module_that_closes_all_descriptors_gets_nothing_of_ours_into_its_files(
    daemon: Daemon, prologue: str, destination: Path, tmp_path: Path, first: int
) -> None:
    """As daemons do. What it opens then has the number of the pipe to us."""
    code = f"""
os.closerange({first}, 4096)
files = [open({str(tmp_path)!r} + f"/opened{{number}}", "wb") for number in range(16)]
save()
"""
    write_job(daemon, "module.py", prologue + code)
    done = run(daemon, "module")
    assert (done["outcome"], done["exit_code"]) == ("failed", 1)
    assert done["message"] == "it ended with status 1"
    opened = [path.read_bytes() for path in tmp_path.glob("opened*")]
    assert len(opened) == 16
    assert not any(b'"event"' in each for each in opened)
    if first:  # else the standard streams are the module's files, too
        assert any("a descriptor that is not its own" in line for line in done["output"])
    assert list(destination.iterdir()) == []


def test_what_a_dying_worker_prints_is_kept(daemon: Daemon, prologue: str) -> None:
    code = "os.write(2, b'x' * 3000 + b'\\nlast words'); os.kill(os.getpid(), 9)"
    write_job(daemon, "module.py", f"{prologue}\n{code}\n")
    done = run(daemon, "module")
    assert done["message"] == "it was ended by signal 9"
    assert done["output"][-1] == "last words"


def test_a_module_that_hangs_and_does_not_want_to_end_is_killed(
    daemon: Daemon, prologue: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    code = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
open({str(mark)!r}, "w").close()
while True:
    time.sleep(1000)
"""
    write_job(daemon, "module.py", prologue + code)
    run_id = started(daemon, "module", mark)
    daemon.request("POST", f"/runs/{run_id}/cancel")
    done = finished(daemon, run_id)
    assert (done["outcome"], done["exit_code"]) == ("cancelled", 143)


def find_worker(daemon: Daemon) -> int:
    """Return the process id of the worker that runs."""
    (worker,) = (
        int(each.split()[0])
        for each in daemon.processes()
        if "storeletd.worker" in each and "keeper.py" not in each
    )
    return worker


def test_a_worker_that_is_killed_amid_an_upload_leaves_none_after_the_next_run(
    daemon: Daemon, s3_server: Bucket, tmp_path: Path
) -> None:
    restart_with(daemon, s3_server.environment)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "random").write_bytes(os.urandom(20 << 20))
    with Proxy(s3_server.endpoint) as proxy:
        proxy.script = lambda request: "hang" if request.query.get("partNumber") == ["2"] else None
        endpoint = f", endpoint_url: '{proxy.endpoint}'"
        write_yaml(daemon, tmp_path / "large", s3_server.name, endpoint)
        wait_for(lambda: "web" in jobs(daemon), what="the job")
        run_id = daemon.request("POST", "/jobs/web/runs")[1]["run"]["id"]
        wait_for(lambda: proxy.actions.count("UploadPart") > 1, seconds=30, what="a second part")
        os.kill(find_worker(daemon), signal.SIGKILL)
        done = finished(daemon, run_id)
        assert (done["outcome"], done["exit_code"]) == ("failed", 1)
        assert done["message"] == "it was ended by signal 9"
        daemon.assert_alone()
        assert open_uploads(s3_server) == remembered(daemon) != set()
        proxy.script = lambda _request: None
        assert run(daemon, "web")["outcome"] == "success"
    assert open_uploads(s3_server) == remembered(daemon) == set()


def test_a_worker_whose_memory_runs_out_amid_an_upload_aborts_it(
    daemon: Daemon, s3_server: Bucket, tmp_path: Path
) -> None:
    """By its own limit; a kill by the kernel is one by signal 9, as above."""
    restart_with(daemon, s3_server.environment)
    (tmp_path / "random").write_bytes(os.urandom(40 << 20))
    code = f"""\
SCHEDULE = "manual"
import resource
import storelet
def limit(event):
    if isinstance(event, storelet.UploadOpened):
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
from storelet import observer
theirs = observer._observer
with storelet.observe(lambda event: (theirs(event), limit(event))):
    with storelet.ZipBackup("web", destination=storelet.S3({s3_server.name!r})) as backup:
        backup.include_file({str(tmp_path / "random")!r})
"""
    write_job(daemon, "web.py", code)
    done = run(daemon, "web")
    assert done["outcome"] == "failed"
    assert any(said in done["message"] for said in ("MemoryError", "can't start new thread")), done
    assert open_uploads(s3_server) == remembered(daemon) == set()
    assert s3_server.keys() == []


def restart_with(daemon: Daemon, environment: dict[str, Any]) -> None:
    daemon.stop()
    daemon.environment |= environment
    daemon.start()
