"""What the library reports while it works, and the figures of a run."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

import storelet
from storelet import (
    Added,
    Event,
    Figures,
    NotReused,
    Passed,
    Reused,
    Saved,
    Skipped,
    Truncated,
)
from storelet.observer import report

EVENTS: list[Event] = [
    Added(path="/a", member="a", bytes_read=10, bytes_stored=5),
    Added(path="/b", member="b", bytes_read=100, bytes_stored=100, changed=True),
    Truncated(path="/b", reason="truncated at 100: Input/output error"),
    Skipped(path="/c", reason="it vanished"),
    Passed(path="/d", reason="it is a FIFO"),
    Reused(files=7),
    NotReused(destination="directory /k", reason="it has no archive yet", is_first=True),
    NotReused(destination="bucket bucket", reason="it refuses copies"),
    Saved(url="s3://bucket/x.zip", destination="bucket bucket", bytes=200),
]


def test_the_figures_of_a_run_are_counted_from_its_events() -> None:
    figures = Figures()
    for event in EVENTS:
        figures.count(event)
    assert (figures.files, figures.bytes_read, figures.skipped) == (2, 110, 2)
    assert figures.reused == 7
    assert figures.archives == [EVENTS[-1]]


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
    added, skipped, not_reused, saved = noted
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
