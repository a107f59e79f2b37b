"""Events between worker and runner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storeletd.events import (
    Busy,
    Ended,
    EndedUpload,
    Event,
    Logged,
    Noted,
    OpenedUpload,
    Progress,
    SavedArchive,
    SkippedEntry,
    conclude,
    decode,
    encode,
)

texts = st.text(st.characters(), max_size=50)  # surrogates too: a path may hold any byte
numbers = st.integers(0, 2**63)
outcomes = st.sampled_from(["success", "partial", "failed", "skipped"])
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Logged, level=numbers, message=texts),
    st.builds(
        Progress,
        files=numbers,
        bytes_read=numbers,
        bytes_sent=numbers,
        reused=numbers,
        skipped=numbers,
        current=st.none() | texts,
    ),
    st.builds(Busy, is_busy=st.booleans()),
    st.builds(SkippedEntry, path=texts, reason=texts),
    st.builds(
        SavedArchive,
        url=texts,
        bytes=numbers,
        bytes_reused=numbers,
        bytes_sent=numbers,
        requests=numbers,
    ),
    st.builds(Noted, message=texts),
    st.builds(OpenedUpload, bucket=texts, key=texts, upload_id=texts),
    st.builds(EndedUpload, upload_id=texts),
    st.builds(
        Ended,
        outcome=outcomes,
        message=st.none() | texts,
        hint=st.none() | texts,
        exit_code=st.none() | numbers,
        is_temporary=st.booleans(),
    ),
)


@given(events)
def test_an_event_is_one_line_and_comes_back(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == event


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"event": "Other"}\n',
        b'{"event": "Logged"}\n',
        b'{"event": "Logged", "level": 20, "message": "", "more": 1}\n',
        b"\xff\n",
        b'{"event": "Logged", "level": "x", "message": 1}\n',
        b'{"event": "Ended", "outcome": "banana"}\n',
        b'{"event": "Ended", "outcome": "failed", "is_temporary": 1}\n',
        b'{"event": "EndedUpload", "upload_id": 1}\n',
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


@pytest.mark.parametrize(
    ("status", "saved", "skipped", "outcome"),
    [
        (0, 1, 0, "success"),
        (0, 2, 3, "partial"),
        (3, 1, 0, "partial"),
        (0, 0, 0, "failed"),
        (3, 0, 0, "failed"),
        (75, 1, 1, "skipped"),
        (1, 1, 0, "failed"),
        (137, 1, 0, "failed"),
    ],
)
def test_an_exit_status_and_what_was_saved_are_an_outcome(
    status: int, saved: int, skipped: int, outcome: str
) -> None:
    ended = conclude(status, saved=saved, skipped=skipped)
    assert ended.outcome == outcome
    assert (ended.message is None) == (outcome == "success")
