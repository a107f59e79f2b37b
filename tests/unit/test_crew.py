"""The crew: many small files packed on all cores are the archive that one core makes."""

from __future__ import annotations

import marshal
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import freezegun
import pytest

import storelet
from storelet import archive
from storelet.archive import Piece, write_members
from storelet.catalogue import read_headers, relocate
from storelet.crew import Crew
from storelet.deflate import count_cores
from storelet.entry import Entry
from storelet.layout import Layout
from storelet.observer import report
from storelet.plan import Plan
from storelet.source import Source, walk
from storelet.zipformat import ArchiveRecord
from tests.helpers import CLONE, wait_for
from tests.zipparser import parse_zip

RECORD = ArchiveRecord(job="example", host="host", started_ns=0)


class Bytes:
    """A sink."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data


@pytest.fixture
def many(tree: Path) -> Path:
    """A tree with all kinds of entries, enough of them for several batches in each helper."""
    for number in range(1_500):
        directory = tree / f"d{number % 40:02}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number:04}").write_bytes(os.urandom(20) + b"text " * (number * 7 % 900))
    (tree / "d03" / "large").write_bytes(b"large " * 400_000)
    (tree / "d05" / "whole").write_bytes(os.urandom(1 << 20))
    os.link(tree / "d07" / "f0007", tree / "d09" / "linked")
    os.mkfifo(tree / "d11" / "fifo")
    Path(os.fsdecode(bytes(tree / "d13") + b"/n\xff")).write_text("not UTF-8")
    return tree


@pytest.fixture
def on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with helpers at once."""
    monkeypatch.setattr(archive, "_LITTLE_BYTES", 0)


def entries(path: Path) -> list[Entry]:
    return [each for each in walk(Source(path=str(path))) if isinstance(each, Entry)]


def write(found: list[Entry]) -> tuple[bytes, list[storelet.Event]]:
    sink = Bytes()
    events: list[storelet.Event] = []
    with (
        freezegun.freeze_time("2026-11-24", real_asyncio=True),
        storelet.observe(events.append),
    ):
        layout = write_to(sink, found)
        return bytes(sink.data + b"".join(layout.catalogue())), events


def write_to(sink: Bytes, found: list[Entry]) -> Layout:
    """Plan entries and write them to a sink."""
    layout, plan = Layout(sink, RECORD), Plan()
    for entry in found:
        skipped = plan.add(entry)
        if skipped is not None:
            report(skipped)
    batches = [batch for shelf in plan.shelves for batch in shelf.batches()]
    write_members((Piece(batch, [layout]) for batch in batches), "fast")
    return layout


def helpers(of: int | None = None) -> list[int]:
    """The helpers of this process, or another, which are its children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (
                parent == (of or os.getpid())
                and b"storelet.packer" in (process / "cmdline").read_bytes()
            ):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_the_archive_is_byte_for_byte_that_of_one_core(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = entries(many)
    twice = [*found, *found[:300]]  # directories merge, and names are taken
    monkeypatch.setattr(archive, "_LITTLE_BYTES", 1 << 60)
    alone = write(twice)
    monkeypatch.setattr(archive, "_LITTLE_BYTES", 0)
    together = write(twice)
    # read_at, by the helpers' own clocks, is all that differs
    assert len(together[0]) == len(alone[0])
    assert together[1] == alone[1]
    one, other = parse_zip(alone[0]), parse_zip(together[0])
    assert one.names == other.names
    assert [each.data for each in one.members] == [each.data for each in other.members]
    assert sum(isinstance(each, storelet.Skipped) for each in together[1]) > 200


@pytest.mark.usefixtures("on_all_cores")
def test_helpers_are_gone_when_the_archive_is_done(many: Path) -> None:
    seen = set()
    with storelet.observe(lambda _: seen.update(helpers())):
        write_to(Bytes(), entries(many))
    assert len(seen) == count_cores()
    assert helpers() == []


def test_a_little_is_packed_without_helpers(tree: Path) -> None:
    seen = []
    with storelet.observe(lambda _: seen.append(helpers())):
        write_to(Bytes(), entries(tree))
    assert len(seen) > 5
    assert not any(seen)


@pytest.mark.usefixtures("on_all_cores")
def test_without_helpers_one_core_does_it_all_and_that_is_said(
    many: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    data, events = write(entries(many))
    assert "one core does it all" in caplog.text
    assert sum(isinstance(each, storelet.Added) for each in events) > 1_500
    assert len(parse_zip(data).members) > 1_500


@pytest.mark.usefixtures("on_all_cores")
def test_files_that_vanish_or_change_meanwhile_are_reported(many: Path, tmp_path: Path) -> None:
    events: list[storelet.Event] = []
    (tmp_path / "kept").mkdir()
    destination = storelet.Directory(tmp_path / "kept")
    with (
        storelet.observe(events.append),
        storelet.ZipBackup("example", destination=destination) as backup,
    ):
        backup.include_directory(many)
        (many / "d20" / "f0020").unlink()
        (many / "d21" / "f0021").unlink()
        (many / "d21" / "f0021").symlink_to("elsewhere")
    reasons = {e.path: e.reason for e in events if isinstance(e, storelet.Skipped)}
    assert reasons == {
        str(many / "d20" / "f0020"): "it vanished",
        str(many / "d21" / "f0021"): "it is a symbolic link now",
    }
    (kept,) = (tmp_path / "kept").iterdir()
    with zipfile.ZipFile(kept) as opened:
        assert opened.testzip() is None
        assert opened.read("d22/f0022") == (many / "d22" / "f0022").read_bytes()


@pytest.mark.usefixtures("on_all_cores")
def test_files_that_grow_beyond_what_a_helper_has_room_for_are_packed_all_the_same(
    tmp_path: Path,
) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.mkdir()
    kept.mkdir()
    for number in range(200):
        (source / f"{number:03}").write_bytes(b"small")
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(source)
        for number in range(200):
            (source / f"{number:03}").write_bytes(os.urandom(200_000))
    (path,) = kept.iterdir()
    with zipfile.ZipFile(path) as opened:
        assert len(opened.namelist()) == 200
        for name in opened.namelist():
            assert opened.read(name) == (source / name).read_bytes()


@pytest.mark.usefixtures("on_all_cores")
def test_a_helper_that_is_killed_ends_the_backup_and_nothing_is_saved(
    many: Path, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()

    def kill(event: storelet.Event) -> None:
        if isinstance(event, storelet.Added) and (found := helpers()):
            os.kill(found[0], signal.SIGKILL)

    with (
        storelet.observe(kill),
        pytest.raises(storelet.StoreletError, match="helper process ended with status -9"),
        storelet.ZipBackup("example", destination=storelet.Directory(tmp_path / "kept")) as backup,
    ):
        backup.include_directory(many)
    assert list((tmp_path / "kept").iterdir()) == []
    assert helpers() == []


@pytest.mark.usefixtures("on_all_cores")
def test_helpers_end_when_what_takes_the_archive_raises(many: Path) -> None:
    class Broken(Bytes):
        def write(self, data: bytes | memoryview) -> None:
            super().write(data)
            if len(self.data) > 200_000:
                raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_to(Broken(), entries(many))
    wait_for(lambda: not helpers(), what="the end of the helpers")


def test_helpers_end_when_their_process_is_killed(many: Path, tmp_path: Path) -> None:
    program = f"""
import os, time, storelet
from storelet import archive
archive._LITTLE_BYTES = 0
def stop(event):
    if os.path.exists({str(tmp_path / "go")!r}) is False and isinstance(event, storelet.Added):
        open({str(tmp_path / "mark")!r}, "w").close()
        time.sleep(1000)
with storelet.observe(stop), storelet.ZipBackup("example") as backup:
    backup.include_directory({str(many)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=CLONE)
    wait_for((tmp_path / "mark").exists, seconds=20, what="the first file")
    left = helpers(process.pid)
    assert len(left) == count_cores()
    process.kill()
    process.wait()

    def is_there(helper: int) -> bool:
        try:
            return b"storelet.packer" in Path(f"/proc/{helper}/cmdline").read_bytes()
        except OSError:
            return False

    wait_for(lambda: not any(map(is_there, left)), seconds=10, what="the end of the helpers")


def test_a_helper_never_hears_what_interrupts_all() -> None:
    with Crew("storelet.packer", "fast") as crew:
        for helper in crew._helpers:  # of which nobody knows how far they are
            status = Path(f"/proc/{helper._process.pid}/status").read_text()
            masks = [
                int(mask, 16) for mask in re.findall(r"^Sig(?:Blk|Ign):\s*(\w+)", status, re.M)
            ]
            assert any(mask >> signal.SIGINT - 1 & 1 for mask in masks)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_helper_whose_process_is_gone_says_nothing() -> None:
    script = """
import os, socket, storelet.crew
theirs, ours = socket.socketpair()
memory = os.memfd_create("storelet")
os.ftruncate(memory, storelet.crew.SLOTS * storelet.crew.SLOT_BYTES)
theirs.sendall(storelet.crew._SECRET.pack(0) + storelet.crew._TASK.pack(0, 0))
def end():
    theirs.close()
    return 0, 0, 0
storelet.crew.serve(ours.fileno(), memory, lambda secret: lambda room, size: end())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CLONE, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_answers_come_in_the_order_of_the_work_with_what_has_none_in_between(
    tmp_path: Path,
) -> None:
    files = []
    for number in range(60):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x" * number)
        files.append(Entry.of(str(path), path.name, path.lstat()))

    def work() -> Iterator[tuple[int, bytes | None]]:
        for number, entry in enumerate(files):
            yield number, marshal.dumps([tuple(entry)]) if number % 3 else None

    with Crew("storelet.packer", "fast") as crew:
        order = []
        for number, answer in crew.pack(work()):
            order.append(number)
            assert (answer is None) == (number % 3 == 0)
            if answer is not None:
                ((read, _, changed, broken_off),) = answer.outcomes
                assert (read, changed, broken_off) == (number, False, None)
    assert order == list(range(60))


def test_central_headers_move_beyond_4_gib(tree: Path) -> None:
    sink = Bytes()
    layout = write_to(sink, entries(tree))
    headers = b"".join(layout.headers())
    written = parse_zip(bytes(sink.data) + b"".join(layout.catalogue())).members
    for base in (0, 1, (1 << 32) - 2_000, (1 << 32) - 1, 1 << 40):
        moved, count = relocate(headers, base)
        assert relocate(headers, 0) == (headers, count)
        assert count == len(written)
        wide = sum(member.offset + base >= 0xFFFFFFFF for member in written)
        assert len(moved) - len(headers) == 12 * wide
        offsets = [header.offset for header in read_headers(moved)]
        assert offsets == [member.offset + base for member in written]
