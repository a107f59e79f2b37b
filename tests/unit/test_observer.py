"""What the library reports while it works, and the figures of a run."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import storelet
from storelet import (
    Added,
    Event,
    Figures,
    Filling,
    Moved,
    NotReused,
    Passed,
    Reused,
    Saved,
    Skipped,
    Truncated,
    observer,
)
from storelet.observer import report, report_moved
from tests.helpers import Bucket

SIGN_OF_LIFE = Moved(bytes_read=0, bytes_sent=0)
EVENTS: list[Event] = [
    Added(path="/a", member="a", bytes_read=10, bytes_stored=5),
    Added(path="/b", member="b", bytes_read=100, bytes_stored=100, changed=True),
    Truncated(path="/b", reason="truncated at 100: Input/output error"),
    Skipped(path="/c", reason="it vanished"),
    Passed(path="/d", reason="it is a FIFO"),
    Reused(files=7),
    NotReused(destination="directory /k", reason="it has no archive yet", is_first=True),
    NotReused(destination="bucket bucket", reason="it refuses copies"),
    Moved(bytes_read=7, bytes_sent=8),
    Filling(is_over=False),
    Saved(url="s3://bucket/x.zip", destination="bucket bucket", bytes=200),
]


def test_the_figures_of_a_run_are_counted_from_its_events() -> None:
    figures = Figures()
    for event in EVENTS:
        figures.count(event)
    assert (figures.files, figures.bytes_read, figures.skipped) == (2, 110, 2)
    assert figures.reused == 7
    assert figures.archives == [EVENTS[-1]]


def test_what_is_read_of_a_large_file_is_counted_before_it_is_whole_and_not_twice() -> None:
    figures = Figures()
    for _ in range(3):
        figures.count(Moved(bytes_read=10, bytes_sent=4))
    assert (figures.bytes_read, figures.bytes_underway, figures.bytes_sent) == (0, 30, 12)
    figures.count(Added(path="/a", member="a", bytes_read=35, bytes_stored=12))
    assert (figures.bytes_read, figures.bytes_underway) == (35, 0)
    figures.count(Moved(bytes_read=5, bytes_sent=0))  # the last of it, told late
    figures.count(Saved(url="", destination="", bytes=0))
    assert (figures.bytes_read, figures.bytes_underway) == (35, 0)


def test_bytes_that_move_make_few_events_that_say_all() -> None:
    """A million blocks must not be a million events: each costs a worker a write to a pipe."""
    noted: list[Event] = []
    with storelet.observe(noted.append):
        for _ in range(10_000):
            report_moved(read=3, sent=2)
        report(EVENTS[-1])
    moved = moves(noted)
    assert noted == [*moved, EVENTS[-1]]
    assert moved[0] == Moved(bytes_read=3, bytes_sent=2)
    assert len(moved) < 100
    assert sum(each.bytes_read for each in moved) == 30_000
    assert sum(each.bytes_sent for each in moved) == 20_000


def test_what_moved_before_is_no_matter_of_the_next_observer() -> None:
    with storelet.observe(lambda _event: None):
        report_moved(read=1)
        report_moved(read=1)
    noted: list[Event] = []
    with storelet.observe(noted.append):
        report_moved(read=5)
    assert noted == [Moved(bytes_read=5, bytes_sent=0)]


def moves(events: list[Event]) -> list[Moved]:
    return [each for each in events if isinstance(each, Moved)]


@pytest.fixture
def every_move(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    """Note all events, also of what moves in quick succession."""
    monkeypatch.setattr(observer, "_MOVED_SECONDS", 0)
    noted: list[Event] = []
    with storelet.observe(noted.append):
        yield noted


def test_a_large_file_is_heard_of_while_it_is_read_and_sent(
    tmp_path: Path, every_move: list[Event]
) -> None:
    (source := tmp_path / "source").mkdir()
    (kept := tmp_path / "kept").mkdir()
    (source / "large").write_bytes(data := os.urandom(5 << 20))
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(source)
    added = next(n for n, each in enumerate(every_move) if isinstance(each, Added))
    (saved,) = (each for each in every_move if isinstance(each, Saved))
    before = moves(every_move[:added])
    assert sum(each.bytes_read for each in before) == len(data)
    assert len([each for each in before if each.bytes_sent]) >= 5
    assert sum(each.bytes_sent for each in moves(every_move)) == saved.bytes_sent


def test_a_tree_is_heard_of_while_it_is_walked(tmp_path: Path, every_move: list[Event]) -> None:
    """A walk of millions of files takes longer than anybody should be silent."""
    for number in range(5):
        (tmp_path / "source" / str(number)).mkdir(parents=True)
    with storelet.ZipBackup("example", destination=storelet.Directory(tmp_path)) as backup:
        before = len(every_move)
        backup.include_directory(tmp_path / "source")
        assert every_move[before:] == [SIGN_OF_LIFE] * 6


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_what_a_destination_copies_and_gives_is_heard_of(
    tmp_path: Path, s3_server: Bucket, every_move: list[Event], kind: str
) -> None:
    destination: storelet.S3 | storelet.Directory = storelet.Directory(tmp_path)
    if kind == "s3":
        destination = storelet.S3(s3_server.name, "key", "secret", endpoint_url=s3_server.endpoint)
    (source := tmp_path / "source").mkdir()
    (source / "file").write_bytes(os.urandom(6 << 20))
    with storelet.ZipBackup("example", destination=destination) as backup:
        backup.include_directory(source)
    (stored,) = destination.list_archives("example")
    every_move.clear()
    destination.read(stored, 0, 1 << 20)
    assert SIGN_OF_LIFE in every_move
    upload = destination.open_upload("other_20270101000000.zip", {})
    every_move.clear()
    upload.copy(stored, [(0, 5 << 20), (0, 1 << 20)])
    upload.commit()
    assert every_move.count(SIGN_OF_LIFE) == 2


def test_a_new_directory_says_from_when_to_when_it_is_filled() -> None:
    noted: list[Event] = []
    with storelet.observe(noted.append), storelet.ZipBackup("example") as backup:
        with backup.include_new_dir("d"):
            assert noted == [Filling(is_over=False)]
        assert noted[1] == Filling(is_over=True)
        noted.clear()
        with pytest.raises(ValueError, match="in the block"), backup.include_new_dir("d"):
            raise ValueError("in the block")
        assert noted == [Filling(is_over=False), Filling(is_over=True)]


def test_a_backup_reports_what_it_added_skipped_and_saved(tree: Path, tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    noted: list[Event] = []
    figures = Figures()
    with storelet.observe(noted.append), storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "hello.txt", name="x")
        backup.include_file(tree / "secret", name="x")
        url = backup.save_to_directory(kept)
    for event in noted:
        figures.count(event)
    added, skipped, not_reused, saved = (each for each in noted if not isinstance(each, Moved))
    assert added == Added(
        path=f"{tree}/hello.txt", member="x", bytes_read=600, bytes_stored=added.bytes_stored
    )
    assert isinstance(skipped, Skipped)
    assert isinstance(not_reused, NotReused)
    assert not_reused.is_first
    size = next(kept.iterdir()).stat().st_size
    assert saved == Saved(url=url, destination=f"directory {kept}", bytes=size, bytes_sent=size)
    assert (figures.files, figures.bytes_read, figures.skipped) == (1, 600, 1)


def test_without_an_observer_events_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for event in EVENTS:
        report(event)
    assert caplog.record_tuples == [
        ("storelet.files", logging.INFO, "Added file /a"),
        ("storelet.files", logging.INFO, "Added file /b"),
        ("storelet", logging.WARNING, "/b changed while it was read; kept as read"),
        ("storelet", logging.WARNING, "/b is truncated at 100: Input/output error"),
        ("storelet", logging.WARNING, "Skipped /c: it vanished"),
        ("storelet", logging.INFO, "Passed over /d: it is a FIFO"),
        ("storelet", logging.INFO, "Reused 7 files that have not changed"),
        ("storelet", logging.WARNING, "Nothing is reused from bucket bucket: it refuses copies"),
        ("storelet", logging.INFO, "Saved s3://bucket/x.zip to bucket bucket (200 bytes)"),
    ]


def test_an_observer_is_for_its_block_alone_and_blocks_nest() -> None:
    outer: list[Event] = []
    inner: list[Event] = []
    report(EVENTS[0])
    with storelet.observe(outer.append):
        report(EVENTS[1])
        with pytest.raises(ValueError, match="in the block"), storelet.observe(inner.append):
            report(EVENTS[2])
            raise ValueError("in the block")
        report(EVENTS[3])
    report(EVENTS[4])
    assert outer == [EVENTS[1], EVENTS[3]]
    assert inner == [EVENTS[2]]


def test_threads_of_a_script_are_observed_too() -> None:
    noted: list[Event] = []
    with storelet.observe(noted.append):
        thread = threading.Thread(target=report, args=[EVENTS[0]])
        thread.start()
        thread.join()
    assert noted == [EVENTS[0]]
