"""Keeper and worker: nothing of a run outlives it, and everything it says arrives."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storeletd.events import EVENTS_FD
from storeletd.process import EVENT_BYTES, LINE_BYTES, WorkerProcess
from tests.helpers import CLONE, wait_for

KEEPER = CLONE / "storeletd" / "keeper.py"
LONG = 60.0  # a grace that no test waits for

# Starts a process that hides, as a daemon does, marks that both are there, and never ends.
HIDING = """
import os, signal, sys, time
from pathlib import Path
if sys.argv[2:] == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
hides = os.fork() == 0
if hides:
    os.setsid()
    if os.fork():
        os._exit(0)
Path(sys.argv[1], "hiding" if hides else "worker").touch()
while True:
    time.sleep(1)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    status: int
    events: list[bytes]
    output: list[str]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Name a temporary directory that is still to be made."""
    return tmp_path / "temporary"


@pytest.fixture(autouse=True)
def no_traces(directory: Path) -> Iterator[None]:
    """Fail a test that leaves a process, a temporary directory or a descriptor."""
    before = os.listdir("/proc/self/fd")
    yield
    wait_for(lambda: not find_processes(directory), what="the run's processes to be gone")
    assert not os.path.lexists(directory)
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def find_processes(directory: Path) -> list[int]:
    """Return the processes whose TMPDIR is `directory`: keeper, worker, all that came of it."""
    variable = f"TMPDIR={directory}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-I", "-c", textwrap.dedent(code), *map(str, arguments)]


def shell(code: str) -> list[str]:
    return ["/bin/sh", "-c", code]


def hiding(marks: Path, *arguments: str) -> list[str]:
    return python(HIDING, marks, *arguments)


def hides_in(marks: Path) -> Callable[[], bool]:
    return lambda: {"hiding", "worker"} <= {path.name for path in marks.iterdir()}


async def start(
    command: Sequence[str],
    directory: Path,
    *,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    grace_seconds: float = LONG,
) -> WorkerProcess:
    return await WorkerProcess.start(
        command,
        stdin=stdin,
        environment={"PATH": os.environ["PATH"]} if environment is None else environment,
        grace_seconds=grace_seconds,
        temporary_directory=directory,
    )


async def see_out(process: WorkerProcess) -> Done:
    events: list[bytes] = []
    output: list[str] = []
    _, _, status = await asyncio.gather(
        process.read_events(events.append), process.read_output(output.append), process.wait()
    )
    return Done(status=status, events=events, output=output)


def run(command: Sequence[str], directory: Path, **options: Any) -> Done:
    async def do() -> Done:
        return await see_out(await start(command, directory, **options))

    return asyncio.run(do())


def run_until(
    ready: Callable[[], object],
    command: Sequence[str],
    directory: Path,
    end: Callable[[WorkerProcess], object] = WorkerProcess.terminate,
    **options: Any,
) -> Done:
    """Run a command, and end it once it is ready."""

    async def do() -> Done:
        process = await start(command, directory, **options)
        seen_out = asyncio.create_task(see_out(process))
        await asyncio.to_thread(wait_for, ready, what="the command")
        end(process)
        return await seen_out

    return asyncio.run(do())


# How it ends


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ],
)
def test_the_workers_status_is_the_runs(code: str, status: int, directory: Path) -> None:
    assert run(shell(code), directory).status == status


@pytest.mark.parametrize(("name", "status"), [("/nowhere/to/be/found", 127), (os.devnull, 126)])
def test_a_command_that_cannot_be_started_says_why(name: str, status: int, directory: Path) -> None:
    done = run([name], directory)
    assert done.status == status
    assert name in done.output[0]


def test_a_directory_that_is_there_already_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    with pytest.raises(FileExistsError):
        run(["true"], directory)
    directory.rmdir()


def test_wait_may_be_cancelled_and_called_again(directory: Path) -> None:
    async def do() -> int:
        process = await start(["sleep", "1000"], directory)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.1)
        process.terminate()
        process.terminate()
        assert await process.wait() == 143
        process.terminate()
        return await process.wait()

    assert asyncio.run(do()) == 143


def test_all_is_let_go_of_though_nobody_waits(directory: Path) -> None:
    async def do() -> None:
        before = len(os.listdir("/proc/self/fd"))
        await start(["true"], directory)
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 - only the loop knows
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(do(), 20))


# What it gets


def test_the_environment_is_what_was_given(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    done = run(["/usr/bin/env"], directory, environment={"A": "größe", "B": "x=y", "C": ""})
    got = dict(line.split("=", 1) for line in done.output)
    assert got.pop(EVENTS_FD).isdigit()
    assert got == {"A": "größe", "B": "x=y", "C": "", "TMPDIR": str(directory)}


@pytest.mark.parametrize("size", [0, 1, 10_000_000])
def test_input_arrives_whole(size: int, directory: Path) -> None:
    done = run(["sha256sum"], directory, stdin=b"x" * size)
    again = subprocess.run(["sha256sum"], input=b"x" * size, capture_output=True, check=True)
    assert done.output == [again.stdout.decode().strip()]


def test_input_that_nobody_reads_holds_nothing_up(directory: Path) -> None:
    assert run(["true"], directory, stdin=b"x" * 10_000_000).status == 0


def test_the_worker_gets_events_and_standard_streams_only(directory: Path) -> None:
    code = f"import os; print(*os.listdir('/proc/self/fd'), os.environ['{EVENTS_FD}'])"
    *descriptors, events = run(python(code), directory).output[0].split()
    listing = {str(min(set(range(99)) - {0, 1, 2, int(events)}))}
    assert set(descriptors) == {"0", "1", "2", events} | listing


def test_only_the_keeper_holds_the_lifeline(directory: Path) -> None:
    code = "import time; print('ready', flush=True); time.sleep(1000)"
    output: list[str] = []

    async def do() -> None:
        process = await start(python(code), directory)
        reading = asyncio.create_task(process.read_output(output.append))
        await asyncio.to_thread(wait_for, lambda: output, what="the worker")
        keeper, worker = sorted(find_processes(directory), key=lambda each: each != process.pid)
        pipes = find_pipes(keeper)
        lifeline = pipes[int(read_arguments(keeper)[4])]
        assert keeper == process.pid
        assert lifeline in find_pipes(os.getpid()).values()
        assert lifeline not in find_pipes(worker).values()
        process.terminate()
        await asyncio.gather(reading, process.wait())

    asyncio.run(do())


def find_pipes(process: int) -> dict[int, str]:
    """Return what each descriptor of a process that is a pipe leads to."""
    directory = Path(f"/proc/{process}/fd")
    return {int(fd.name): os.readlink(fd) for fd in directory.iterdir() if fd.is_fifo()}


def read_arguments(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")


def test_the_worker_starts_with_no_signal_ignored_or_blocked(directory: Path) -> None:
    done = run(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"], directory)
    assert [line.split()[1].strip("0") for line in done.output] == ["", ""]


def test_the_worker_leads_a_session_of_its_own(directory: Path) -> None:
    code = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid() != os.getppid())"
    assert run(python(code), directory).output == ["True"]


def test_the_temporary_directory_is_the_workers_alone(directory: Path) -> None:
    code = "import os; print(oct(os.stat(os.environ['TMPDIR']).st_mode))"
    assert run(python(code), directory).output == [oct(stat.S_IFDIR | 0o700)]


# What it says


def test_events_arrive_line_by_line(directory: Path) -> None:
    code = f"""\
    import os
    pipe = open(int(os.environ["{EVENTS_FD}"]), "wb", buffering=0)
    pipe.write(b"first\\n\\nsec")
    pipe.write(b"ond\\n" + b"x" * {EVENT_BYTES} + b"\\nlast")
    """
    done = run(python(code), directory)
    assert done.events == [b"first", b"", b"second", b"x" * EVENT_BYTES, b"last"]


def test_events_arrive_while_the_worker_runs(directory: Path) -> None:
    events: list[bytes] = []

    async def do() -> None:
        process = await start(shell(f"echo now >/dev/fd/${EVENTS_FD}; sleep 1000"), directory)
        reading = asyncio.create_task(process.read_events(events.append))
        await asyncio.to_thread(wait_for, lambda: events, what="the event")
        process.terminate()
        await asyncio.gather(reading, process.wait())

    asyncio.run(do())
    assert events == [b"now"]


def test_output_arrives_from_both_streams(directory: Path) -> None:
    done = run(shell("echo one; echo two >&2; printf 'a\\377b\\n\\nno newline'"), directory)
    assert sorted(done.output) == sorted(
        ["one", "two", "a\N{REPLACEMENT CHARACTER}b", "", "no newline"]
    )


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (LINE_BYTES - 1, [LINE_BYTES - 1]),
        (LINE_BYTES, [LINE_BYTES]),
        (LINE_BYTES + 1, [LINE_BYTES, 1]),
        (2 * LINE_BYTES, [LINE_BYTES, LINE_BYTES]),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_line_too_long_goes_on_as_another(
    size: int, pieces: list[int], at_once: bool, directory: Path
) -> None:
    code = f"""\
    import sys
    for piece in {["x" * size + chr(10) + "next"] if at_once else ["x" * size, chr(10), "next"]}:
        print(piece, end="", flush=True)
        sys.stdin.read()
    """
    done = run(python(code), directory)
    assert [len(line) for line in done.output] == [*pieces, 4]


def test_megabytes_without_a_newline_are_taken_in_bounded_lines(directory: Path) -> None:
    done = run(shell("head -c 20000000 /dev/zero | tr '\\0' x"), directory)
    assert sum(map(len, done.output)) == 20_000_000
    assert max(map(len, done.output)) == LINE_BYTES


def test_a_worker_may_close_its_outputs(directory: Path) -> None:
    marks = directory.parent / "marks"
    done = run(shell(f"exec >&- 2>&- ; sleep 0.3; touch {marks}; exit 5"), directory)
    assert (done.status, marks.exists()) == (5, True)


def test_several_runs_do_not_meet(tmp_path: Path) -> None:
    async def do() -> list[Done]:
        codes = [f"echo {n} >/dev/fd/${EVENTS_FD}; echo {n}; exit {n}" for n in range(10)]
        runs = [start(shell(code), tmp_path / f"{n}") for n, code in enumerate(codes)]
        return await asyncio.gather(*map(see_out, await asyncio.gather(*runs)))

    for number, done in enumerate(asyncio.run(do())):
        said = str(number)
        assert done == Done(status=number, events=[said.encode()], output=[said])
    assert list(tmp_path.iterdir()) == []


# How it is ended


def test_a_worker_that_is_told_to_end_may_do_so_in_order(directory: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"""\
    import pathlib, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    pathlib.Path({str(mark)!r}).touch()
    try:
        time.sleep(1000)
    finally:
        print("in order")
    """
    done = run_until(mark.exists, python(code), directory)
    assert (done.status, done.output) == (7, ["in order"])


def test_what_hides_is_told_too(directory: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    assert run_until(hides_in(marks), hiding(marks), directory).status == 143


def test_what_does_not_end_when_told_is_killed(directory: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    command = hiding(marks, "stubborn")
    assert run_until(hides_in(marks), command, directory, grace_seconds=0.3).status == 137


def test_what_is_stopped_is_woken_to_end(directory: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"(kill -STOP $$; sleep 0.1; touch {mark}) & wait"
    assert run_until(mark.exists, shell(code), directory).status == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_the_keeper_ends_the_run(number: int, directory: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    done = run_until(
        hides_in(marks), hiding(marks), directory, end=lambda each: os.kill(each.pid, number)
    )
    assert done.status == 143


def test_what_a_worker_leaves_behind_is_ended(directory: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"setsid sh -c 'touch {mark}; sleep 1000' & until [ -e {mark} ]; do :; done; exit 4"
    assert run(shell(code), directory).status == 4


def test_what_flees_by_forking_is_caught(directory: Path, tmp_path: Path) -> None:
    """A process that is another one every moment: each forks and ends."""
    mark = tmp_path / "mark"
    code = f"""\
    import os, pathlib, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path({str(mark)!r}).touch()
    if os.fork():
        time.sleep(1000)
    os.setsid()
    while True:
        if os.fork():
            os._exit(0)
    """
    done = run_until(mark.exists, python(code), directory, grace_seconds=0.3)
    assert done.status == 137


def test_many_zombies_and_orphans_are_collected(directory: Path) -> None:
    code = """\
    import os
    for _ in range(300):
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
    print(len(os.listdir("/proc")) > 300)
    """
    done = run(python(code), directory)
    assert (done.status, done.output) == (0, ["True"])


DAEMON = """
import asyncio, sys
from pathlib import Path
from storeletd.process import WorkerProcess
async def main():
    directory, marks, *command = sys.argv[1:]
    process = await WorkerProcess.start(
        command, stdin=b"", environment={}, grace_seconds=0.3, temporary_directory=Path(directory)
    )
    while not (Path(marks, "hiding").exists() and Path(marks, "worker").exists()):
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    if sys.stdin.read() == "break off":
        raise SystemExit(5)
asyncio.run(main())
"""


@pytest.mark.parametrize("behaviour", ["", "stubborn"])
@pytest.mark.parametrize("end", ["is killed", "breaks off"])
def test_a_daemon_leaves_nothing_that(
    end: str, behaviour: str, directory: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DAEMON, str(directory), str(tmp_path)]
    daemon = subprocess.Popen(
        [*command, *hiding(tmp_path, behaviour)],
        cwd=CLONE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with daemon:
        assert daemon.stdout
        assert daemon.stdout.readline() == b"ready\n"
        assert len(find_processes(directory)) == 3
        if end == "is killed":
            daemon.kill()
        else:
            daemon.communicate(b"break off")
    assert daemon.returncode == (-9 if end == "is killed" else 5)
    wait_for(lambda: not find_processes(directory), what="the end of the run")
    assert not directory.exists()


def test_a_killed_keepers_worker_is_told_to_end(directory: Path) -> None:
    async def do() -> Done:
        process = await start(["sleep", "1000"], directory)
        look = lambda: len(find_processes(directory)) == 2  # noqa: E731
        await asyncio.to_thread(wait_for, look, what="the worker")
        os.kill(process.pid, signal.SIGKILL)
        return await see_out(process)

    assert asyncio.run(do()).status == 137


# What it leaves


def test_the_temporary_directory_is_removed_with_all_in_it(directory: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    code = f"""\
    cd "$TMPDIR"
    mkdir -p a/b/c 'not for me/sub' d
    touch a/b/c/file 'not for me/sub/file' "$(printf 'bad \\377 name')"
    mkfifo d/pipe
    ln -s {precious} d/link
    chmod 0 'not for me/sub' 'not for me' d
    """
    done = run(shell(code), directory)
    assert (done.status, done.output) == (0, [])
    assert (precious / "file").exists()


def test_a_link_in_the_directorys_place_is_not_followed(directory: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    run(shell(f'rmdir "$TMPDIR" && ln -s {precious} "$TMPDIR"'), directory)
    assert (precious / "file").exists()


def test_what_is_mounted_in_the_directory_is_left_alone(directory: Path, tmp_path: Path) -> None:
    """The keeper runs where mounts are its own; a job's may be the very files it backs up."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"]).returncode != 0:
        pytest.skip("this machine lets nobody have mounts of his own")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    directory.mkdir(mode=0o700)
    point = directory / "mount point"
    code = f"mkdir '{point}' && mount --bind {precious} '{point}'; touch {directory}/other"
    lifeline, end = os.pipe()
    keeper = [sys.executable, "-I", "-S", str(KEEPER), str(lifeline), "1", str(directory), "--"]
    done = subprocess.run(
        [*namespace, *keeper, *shell(code)], pass_fds=[lifeline], capture_output=True, text=True
    )
    os.close(lifeline)
    os.close(end)
    assert done.returncode == 0, done.stderr
    assert f"cannot remove {point}" in done.stderr
    assert (precious / "file").exists()
    assert list(directory.iterdir()) == [point]  # here nothing is mounted on it
    shutil.rmtree(directory)
