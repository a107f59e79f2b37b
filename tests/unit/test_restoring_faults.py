"""Restores that are killed, that meet a full disk, or a file system that cannot do much."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zipfile
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest

import storelet
from storelet.restore.target import Target, open_root
from tests.helpers import CLONE, wait_for
from tests.scripts import AS_PLAIN_USER, REFUSING, run_script, run_with_mounts
from tests.trees import describe_tree, make_strange_tree

MIB = 1 << 20

RESTORE = """
import sys, storelet
result = storelet.open_archive(sys.argv[1]).extract(sys.argv[2], overwrite=sys.argv[3])
assert result.refused == [], result
"""
# What a file system without files that have no name says; and one without links and owners.
NO_TEMPORARY = REFUSING + "refuse(('O_TMPFILE', errno.EOPNOTSUPP))\n"
BARE = REFUSING + (
    "refuse(('O_TMPFILE', errno.EOPNOTSUPP), ('link', errno.EPERM), ('linkat', errno.EPERM),"
    " ('fchown', errno.EPERM), ('fchownat', errno.EPERM))\n"
)
# Kills itself and its helpers, as a power cut does, when so much has been read.
KILLED = """
import os, signal, sys, storelet
class Deadly(storelet.Directory):
    left = int(sys.argv[4])
    def read(self, archive, offset, size):
        self.left -= size
        if self.left < 0:
            os.killpg(0, signal.SIGKILL)
        return super().read(archive, offset, size)
path, name = os.path.split(sys.argv[1])
kept = Deadly(path)
storelet.OpenedArchive(kept, kept.find_archive(name)).extract(sys.argv[2], overwrite=sys.argv[3])
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Back up many small files, large ones, and all that is strange."""
    top = tmp_path_factory.mktemp("restored")
    source = top / "source"
    make_strange_tree(source)
    dice = random.Random(7)  # noqa: S311 - no secret
    for number in range(400):
        path = source / f"d{number % 9}" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dice.randbytes(number * 40))
    for number in range(3):
        (source / f"huge{number}").write_bytes(dice.randbytes(9 * MIB + number))
    (source / "d1").chmod(0o555)
    (top / "kept").mkdir()
    with storelet.ZipBackup("tree", destination=storelet.Directory(top / "kept")) as backup:
        backup.include_directory(source)
    (path,) = (top / "kept").iterdir()
    return path


def source_of(archive: Path) -> Path:
    return archive.parent.parent / "source"


def kill_restore(before: str, archive: Path, target: Path, overwrite: str, after: int) -> None:
    """Restore until so many bytes have been read, and not a step further."""
    done = subprocess.run(
        [sys.executable, "-c", before + KILLED, archive, target, overwrite, str(after)],
        env={**os.environ, "PYTHONPATH": str(CLONE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
    )
    assert done.returncode == -9, done.stdout + done.stderr


@pytest.mark.parametrize("before", ["", NO_TEMPORARY], ids=["nameless files", "temporary names"])
@pytest.mark.parametrize("overwrite", ["never", "always"])
def test_a_restore_that_was_killed_goes_on(
    archive: Path, tmp_path: Path, before: str, overwrite: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    left: set[str] = set()
    for after in (MIB, 6 * MIB, 9 * MIB, 6 * MIB):
        kill_restore(before, archive, target, overwrite, after)
        left |= {path.name for path in target.rglob(".storelet-*")}
        whole = {path.name: path for path in source_of(archive).glob("huge*")}
        for path in target.glob("huge*"):
            assert path.read_bytes() == whole[path.name].read_bytes()
    assert bool(left) == bool(before), "it was killed amid a file"
    run_script(before + RESTORE, archive, target, overwrite)
    assert describe_tree(target) == describe_tree(source_of(archive))


def test_what_another_restore_is_writing_is_left_to_it(archive: Path, tmp_path: Path) -> None:
    """The first one stops amid a file; the second finds it locked and does all else."""
    target, go_on = tmp_path / "target", tmp_path / "go on"
    target.mkdir()
    wait = f"while not os.path.exists({os.fspath(go_on)!r}): time.sleep(0.02)"
    waiting = KILLED.replace("os.killpg(0, signal.SIGKILL)", wait).replace(
        "import os", "import os, time"
    )
    with subprocess.Popen(
        [sys.executable, "-c", NO_TEMPORARY + waiting, archive, target, "never", str(15 * MIB)],
        env={**os.environ, "PYTHONPATH": str(CLONE)},
        stderr=subprocess.DEVNULL,
    ) as first:
        wait_for(lambda: is_begun(target))
        again = RESTORE.replace("assert result.refused == []", "print(result.refused)")
        second = run_script(NO_TEMPORARY + again, archive, target, "never")
        assert "another restore is writing it" in second.stdout
        go_on.touch()
    assert first.returncode == 0
    run_script(NO_TEMPORARY + RESTORE, archive, target, "never")
    found, expected = describe_tree(target), describe_tree(source_of(archive))
    assert found.keys() == expected.keys()
    # Where both came to a file at once, its hard link may have become a file of its own.
    assert {name for name in expected if found[name] != expected[name]} <= {"linked"}


def is_begun(target: Path) -> bool:
    """Tell whether a large file is being written."""
    with suppress(FileNotFoundError):  # some are whole by now
        return any(path.stat().st_size > MIB for path in target.glob(".storelet-*"))
    return False


def test_a_file_system_without_links_and_owners_gets_what_it_can_have(
    archive: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    for overwrite in ("never", "always"):
        run_script(BARE + RESTORE, archive, target, overwrite)
        found, expected = describe_tree(target), describe_tree(source_of(archive))
        assert found.keys() == expected.keys()
        differing = {name for name in expected if found[name] != expected[name]}
        assert differing <= {"linked"}  # a file of its own now
        assert (target / "linked").read_bytes() == (target / "directory" / "plain").read_bytes()


def test_what_is_interrupted_begins_no_other_file(tmp_path: Path) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.mkdir()
    kept.mkdir()
    (source / "a small one").write_bytes(b"small")
    for number in range(40):
        (source / f"huge{number}").write_bytes(bytes(MIB + 1))
    with storelet.ZipBackup("tree", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(source)
    interrupted = Event()

    class Waiting(storelet.Directory):
        def read(self, archive: Any, offset: int, size: int) -> bytes:
            if current_thread().name.startswith("ThreadPool"):  # that of a large file
                assert interrupted.wait(60)
            return super().read(archive, offset, size)

    def interrupt(event: storelet.Event) -> None:
        if isinstance(event, storelet.Restored) and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    destination = Waiting(kept)
    (stored,) = destination.list_archives("tree")
    with pytest.raises(KeyboardInterrupt), storelet.observe(interrupt):
        storelet.OpenedArchive(destination, stored).extract(tmp_path / "target")
    assert len(list((tmp_path / "target").glob("huge*"))) < 20


def test_directories_that_nobody_may_enter_are_closed_after_those_in_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "closed.zip", "w") as packed:
        for name in ("closed/", *(f"closed/{number}/" for number in range(200))):
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o040000 if name == "closed/" else 0o040700) << 16
            packed.writestr(info, b"")
    done = run_script(
        AS_PLAIN_USER
        + f"""
data = bytes.fromhex({(tmp_path / "closed.zip").read_bytes().hex()!r})
with tempfile.TemporaryDirectory() as top:
    with open(top + "/closed.zip", "wb") as file:
        file.write(data)
    print(storelet.open_archive(top + "/closed.zip").extract(top + "/target").refused)
    print(oct(os.stat(top + "/target/closed").st_mode))
    os.chmod(top + "/target/closed", 0o700)
"""
    )
    assert done.stdout == "[]\n0o40000\n"


def test_what_is_interrupted_ends_a_large_file_where_it_is(tmp_path: Path) -> None:
    source, kept, target = tmp_path / "source", tmp_path / "kept", tmp_path / "target"
    source.mkdir()
    kept.mkdir()
    (source / "a small one").write_bytes(b"small")
    with (source / "huge").open("wb") as file:
        file.truncate(512 * MIB)  # takes a second
    with storelet.ZipBackup("tree", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(source)
    (archive,) = storelet.list_archives(kept)

    def interrupt(event: storelet.Event) -> None:
        if isinstance(event, storelet.Restored):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), storelet.observe(interrupt):
        archive.extract(target)
    assert [path.name for path in target.iterdir()] == ["a small one"]


def test_a_target_that_cannot_be_read_is_named(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(storelet.RestoreError, match=r"cannot restore to .*file: Not a directory"):
        storelet.open_archive(archive).extract(tmp_path / "file")
    done = run_script(
        AS_PLAIN_USER
        + """
with tempfile.TemporaryDirectory() as top:
    with zipfile.ZipFile(top + "/any.zip", "w") as packed:
        packed.writestr("any", "content")
    os.mkdir(top + "/target", 0o300)
    try:
        storelet.open_archive(top + "/any.zip").extract(top + "/target")
    except storelet.RestoreError as error:
        print(error)
"""
    )
    assert done.stdout.endswith("target: Permission denied\n")


def test_deep_directories_take_few_file_descriptors(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", tmp_path / "target"], check=True))
    contents = {f"small/{number}": b"%d" % number for number in range(900)}  # for helpers, too
    for top in "abcdef":
        deep = f"{top}/" + "deeper/" * 550
        contents |= {f"{deep}small": top.encode(), f"{deep}large": top.encode() * (MIB + 1)}
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    few = """
import resource, sys
most = 64 + 8 * int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
"""
    target = tmp_path / "target"
    for _ in range(2):  # the second one looks at what is there
        arguments = tmp_path / "deep.zip", target, "never", str(os.cpu_count())
        run_script(few + RESTORE, *arguments)
    for top in "abcdef":
        deep = target / top / ("deeper/" * 550)
        assert (deep / "small").read_bytes() == top.encode()
        assert (deep / "large").read_bytes() == top.encode() * (MIB + 1)


def test_large_files_on_many_cores_take_one_directory_each(tmp_path: Path) -> None:
    root = open_root(os.fspath(tmp_path), make=False)
    before = len(os.listdir("/proc/self/fd"))
    with closing(Target(root, replace=False, is_for_one=True)) as target:
        target.make_directory("a/b/c/d")
        assert len(os.listdir("/proc/self/fd")) == before + 1
    os.close(root)


def test_a_full_disk_ends_it_and_more_room_lets_it_go_on(archive: Path, tmp_path: Path) -> None:
    script = """
import os, storelet, sys
archive = storelet.open_archive(sys.argv[1])
filler = sys.argv[2] + "/filler"
def fill(event):
    if isinstance(event, storelet.Restored) and not os.path.exists(filler):
        try:
            with open(filler, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass
def restore(patterns):
    try:
        with storelet.observe(fill):
            archive.extract(sys.argv[2], patterns)
    except storelet.RestoreError as error:
        print(error)
restore(["/huge*"])
restore(["/d*/", "/huge1"])
print([name for name in os.listdir(sys.argv[2]) if name.endswith(".part")])
os.unlink(filler)
open(filler, "wb").close()
result = archive.extract(sys.argv[2], ["/d*/", "/huge1"])
assert os.path.getsize(sys.argv[2] + "/huge1") == 9 * (1 << 20) + 1
print(result.refused)
"""
    done = run_with_mounts('mount -t tmpfs -o size=20m none "$2"', script, archive, tmp_path)
    no_room, full, left, refused = done.stdout.splitlines()
    assert "there is no room for 28,311,5" in no_room
    assert full.startswith("cannot restore")
    assert full.endswith("No space left on device")
    assert (left, refused) == ("[]", "[]")
