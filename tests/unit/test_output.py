"""Commands whose output becomes a member, as it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import storelet
from storelet.source import BLOCK_BYTES

SECRET = "correct horse"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture(params=["spooled", "streamed"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def back_up(way: str, kept: Path, program: str, *more: str, **options: object) -> None:
    """Back up what a Python program prints, and a small file."""
    destination = storelet.Directory(kept)
    streamed = destination if way == "streamed" else None
    with storelet.ZipBackup("example", destination=streamed) as backup:
        backup.include_command([sys.executable, "-c", program, *more], "site.sql", **options)  # type: ignore[arg-type]
        backup.include_file(__file__, "after.py")
        if streamed is None:
            backup.save_to_directory(kept)


def only(kept: Path) -> Path:
    (archive,) = kept.iterdir()
    return archive


@pytest.mark.parametrize(
    "size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7]
)
@pytest.mark.parametrize("encrypted", [False, True])
def test_output_of_any_length_is_a_member(
    way: str, kept: Path, tmp_path: Path, size: int, encrypted: bool
) -> None:
    data = (os.urandom(BLOCK_BYTES // 2) * 8)[:size]
    (tmp_path / "data").write_bytes(data)
    password = storelet.Encryption(SECRET) if encrypted else None
    destination = storelet.Directory(kept)
    streamed = destination if way == "streamed" else None
    with storelet.ZipBackup("example", destination=streamed, encryption=password) as backup:
        backup.include_command(["cat", str(tmp_path / "data")], "dumps/site.sql")
        backup.include_file(__file__, "after.py")
        if streamed is None:
            backup.save_to_directory(kept)
    opened = storelet.open_archive(only(kept), password=SECRET if encrypted else None)
    assert b"".join(opened.stream("dumps/site.sql")) == data
    assert opened.read("after.py") == Path(__file__).read_bytes()
    result = opened.verify()
    assert (result.files, result.refused, opened.problems) == (2, [], [])
    unzipped = subprocess.run(
        ["7z", "t", f"-p{SECRET}", str(only(kept))], capture_output=True, check=False
    )
    assert unzipped.returncode == 0, unzipped.stdout
    if not encrypted:
        for tool in (["unzip", "-tqq"], ["bsdtar", "-tf"]):
            subprocess.run([*tool, str(only(kept))], check=True, capture_output=True)
        with only(kept).open("rb") as pipe:
            read = subprocess.run(
                ["bsdtar", "-xOf", "-", "dumps/site.sql"],
                stdin=pipe,
                capture_output=True,
                check=True,
            )
        assert read.stdout == data


def test_it_is_read_anew_every_time(kept: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3):
        (tree / str(number)).write_bytes(os.urandom(3_000_000))
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = (
        "import sys; path = sys.argv[1]; n = int(open(path).read()) + 1;"
        "open(path, 'w').write(str(n)); sys.stdout.write(str(n) * 2_000_000)"
    )
    for number in (1, 2, 3):
        with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
            backup.include_command([sys.executable, "-c", program, str(counter)], "n")
            backup.include_directory(tree, name="tree")
        newest = max(kept.iterdir())
        opened = storelet.open_archive(newest)
        assert opened.read("n") == str(number).encode() * 2_000_000
        assert opened.verify().refused == []
        subprocess.run(["unzip", "-tqq", newest], check=True, capture_output=True)


def test_the_next_archive_copies_what_stands_behind_it(kept: Path, tmp_path: Path) -> None:
    """The length of a member of which nobody knew it must be known to whoever copies others."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3):
        path = tree / str(number)
        path.write_bytes(os.urandom(3_000_000))
        os.utime(path, (1_000_000_000, 1_000_000_000))
    for _ in range(2):
        events: list[storelet.Event] = []
        policy = {"ctime": False}
        with (
            storelet.observe(events.append),
            storelet.ZipBackup(
                "example", destination=storelet.Directory(kept), change_detection=policy
            ) as backup,
        ):
            backup.include_command([sys.executable, "-c", "print('x' * 5_000_000)"], "dump")
            backup.include_directory(tree, name="tree")
    assert storelet.Reused(files=3) in events
    opened = storelet.open_archive(max(kept.iterdir()))
    assert opened.verify().refused == []


@pytest.mark.parametrize("said", [0, 100, 5 * BLOCK_BYTES])
def test_a_command_that_fails_fails_the_backup_and_nothing_is_kept(
    way: str, kept: Path, said: int
) -> None:
    program = (
        f"import sys; sys.stdout.write('x' * {said}); sys.stdout.flush();"
        "print('no such table', file=sys.stderr); sys.exit(3)"
    )
    with pytest.raises(storelet.SourceError, match=r"site.sql ended with status 3: no such table"):
        back_up(way, kept, program)
    assert list(kept.iterdir()) == []


def test_so_does_one_that_a_signal_ends(way: str, kept: Path) -> None:
    with pytest.raises(storelet.SourceError, match=r"ended with signal 9 \(it said nothing"):
        back_up(way, kept, "import os; print('half', flush=True); os.kill(os.getpid(), 9)")
    assert list(kept.iterdir()) == []


def test_one_that_is_not_there_says_so_without_its_words(way: str, kept: Path) -> None:
    def start(command: object, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/nonexistent", "--password=hunter2"], **options)  # type: ignore[call-overload,no-any-return]

    with pytest.raises(storelet.SourceError, match=r"cannot run the command of site.sql: No such"):
        back_up(way, kept, "", start=start)


def test_the_last_line_that_speaks_of_an_error_says_why(
    way: str, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However much is said before, and whatever behind it."""
    program = """if True:
        import os, sys
        os.close(1)
        for number in range(3_000): print("line", number, file=sys.stderr)
        print("x" * 10_000, file=sys.stderr)
        print("an Error: no such table\\nin line 1", file=sys.stderr)
        os._exit(3)
        """
    with pytest.raises(storelet.SourceError, match=r"status 3: an Error: no such table$"):
        back_up(way, kept, program)
    lines = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert sum("x" in each for each in lines) == 3  # an endless one would fill the memory


def test_what_it_leaves_behind_is_not_waited_for(way: str, kept: Path, running: Path) -> None:
    """A process that holds its standard error, as some that go into the background do."""
    program = f"""if True:
        import subprocess
        left = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
        open({str(running)!r}, "w").write(str(left.pid))
        print("data")
        """
    back_up(way, kept, program)
    os.kill(int(running.read_text()), signal.SIGKILL)  # it is there still


def test_what_it_says_is_a_sign_of_life(way: str, kept: Path) -> None:
    events: list[storelet.Event] = []
    with storelet.observe(events.append):
        back_up(way, kept, "print('x' * 5_000_000, end='')")
    read = [each.bytes_read for each in events if isinstance(each, storelet.Moved)]
    assert sum(read) >= 5_000_000


def test_what_it_says_beside_is_logged_and_no_failure(
    way: str, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    back_up(way, kept, "import sys; print('data'); print('a warning\\n\\ntwo', file=sys.stderr)")
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == ["site.sql: a warning", "site.sql: two"]


def test_it_gets_no_input_and_what_the_caller_says(way: str, kept: Path) -> None:
    start = partial(subprocess.Popen, env={"WHO": "me"}, cwd="/")
    program = "import os, sys; print(sys.stdin.read() + os.environ['WHO'] + os.getcwd(), end='')"
    ours = os.dup(0)
    try:
        with Path(__file__).open() as file:
            os.dup2(file.fileno(), 0)
            back_up(way, kept, program, start=start)
    finally:
        os.dup2(ours, 0)
        os.close(ours)
    opened = storelet.open_archive(only(kept))
    assert opened.read("site.sql") == b"me/"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A file that tells the process id of a command that writes for ever."""
    yield tmp_path / "pid"


@pytest.mark.parametrize("before", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_it_is_ended_where_the_backup_ends_before(kept: Path, running: Path, before: str) -> None:
    class Full(storelet.Directory):
        def open_upload(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            upload = super().open_upload(*arguments, **options)  # type: ignore[arg-type]

            def write(data: bytes) -> None:
                raise KeyboardInterrupt

            upload.write = write  # type: ignore[method-assign,assignment]
            return upload

    program = (
        f"import os, signal, sys; {before}; open({str(running)!r}, 'w').write(str(os.getpid()))\n"
        "while True: sys.stdout.write('x' * 100_000)"
    )
    with (
        pytest.raises(KeyboardInterrupt),
        storelet.ZipBackup("example", destination=Full(kept)) as backup,
    ):
        backup.include_command([sys.executable, "-c", program], "endless")
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.read_text()), 0)


def test_it_is_run_here_however_many_files_are_packed_by_others(kept: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(1_000):
        (tree / str(number)).write_bytes(b"x")
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(tree, name="one")
        backup.include_command(["echo", "hello"], "dump")
        backup.include_directory(tree, name="two")
        planned = time.time_ns()
    opened = storelet.open_archive(only(kept))
    assert opened.read("dump") == b"hello\n"
    result = opened.verify()
    assert (result.planned, result.refused) == (2_001, [])
    (member,) = opened.members(["dump"])
    assert member.mtime_ns >= planned  # when it was run


def test_a_backup_whose_command_has_failed_cannot_be_saved(kept: Path) -> None:
    with (
        pytest.raises(storelet.StoreletError, match="broke off"),
        storelet.ZipBackup("example") as backup,
    ):
        with pytest.raises(storelet.SourceError):
            backup.include_command(["false"], "dump")
        backup.save_to_directory(kept)


def test_nothing_is_included_in_a_backup_that_has_ended(way: str, kept: Path) -> None:
    streamed = storelet.Directory(kept) if way == "streamed" else None
    with storelet.ZipBackup("example", destination=streamed) as backup:
        pass
    with pytest.raises(storelet.UsageError, match="backup example has ended"):
        backup.include_command(["true"], "dump")


def test_a_name_that_is_taken_is_an_error_for_a_dump_must_not_be_missing(
    way: str, kept: Path
) -> None:
    streamed = storelet.Directory(kept) if way == "streamed" else None
    with (
        pytest.raises(storelet.UsageError, match=r"site.sql is taken by .*test_output.py"),
        storelet.ZipBackup("example", destination=streamed) as backup,
    ):
        backup.include_file(__file__, "site.sql")
        backup.include_command(["true"], "site.sql")


def test_one_string_is_no_command(tmp_path: Path) -> None:
    with storelet.ZipBackup("example") as backup, pytest.raises(storelet.UsageError) as caught:
        backup.include_command("pg_dump --password=hunter2", "x")
    assert str(caught.value) == "command is one string (give a list of its words)"


def test_two_destinations_get_the_same_and_it_runs_once(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    counter = tmp_path / "counter"
    with storelet.ZipBackup(
        "example", destination=[storelet.Directory(place) for place in places]
    ) as backup:
        backup.include_command(["sh", "-c", f"echo x >> {counter}; cat {counter}"], "x")
    for place in places:
        with zipfile.ZipFile(only(place)) as opened:
            assert opened.read("x") == b"x\n"
