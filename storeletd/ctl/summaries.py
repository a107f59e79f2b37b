"""A run in words: its row among others, its outcome in a line or two, all that is kept of it.

Pure: returns lines, fit to be printed (what comes from elsewhere is escaped, outcomes may have
a colour).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from storeletd.ctl.console import colour
from storeletd.ctl.formats import (
    describe_bytes,
    describe_count,
    describe_elapsed,
    describe_place,
    describe_time,
    escape,
)
from storeletd.ctl.replies import Run, RunDetails, SkippedEntry
from storeletd.ctl.tables import Column, align_cells

__all__ = [
    "describe_begin",
    "describe_outcome",
    "describe_run",
    "describe_runs",
    "describe_skipped",
    "describe_state",
    "describe_took",
    "find_took",
]

_FEW = 5  # skipped entries and lines of output shown where a run is not all there is to see

_COLUMNS = (
    Column(title="", right=True),
    Column(title=""),
    Column(title=""),
    Column(title="", right=True),
    Column(title=""),
)


def describe_begin(run: Run) -> str:
    """Return when the run began, was due (if it never ran) or was asked for."""
    due = run["due"]
    return describe_time(run["begun_at"] or (due["last"] if due else run["queued_at"]))


def describe_state(run: Run) -> str:
    """Return its outcome, or how it stands; of a verification so that it is known as one."""
    state = run["outcome"] or run["state"]
    if run["kind"] == "backup":
        return state
    return "verified" if state == "success" else f"verify {state}"


def describe_took(run: Run) -> str:
    """Return how long the run took; nothing for one that never ran or is not over."""
    took = find_took(run)
    return "" if took is None else describe_elapsed(took)


def find_took(run: Run) -> float | None:
    """Return how many seconds the run took; None for one that never ran or is not over."""
    if run["begun_at"] is None or run["finished_at"] is None:
        return None
    took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["begun_at"])
    return took.total_seconds()


def describe_runs(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a line for each run with its result, and its hint beneath."""
    rows = [
        (
            str(run["id"]),
            describe_begin(run),
            describe_state(run),
            describe_took(run),
            _describe_result(run),
        )
        for run in runs
    ]
    for run, cells in zip(runs, align_cells(_COLUMNS, rows), strict=True):
        cells[2] = colour(cells[2], describe_state(run))
        yield "  ".join(cells).rstrip()
        if run["hint"]:
            yield f"{' ' * len(cells[0])}  Try: {escape(run['hint'])}"


def describe_outcome(run: Run) -> Iterator[str]:
    """Yield how a finished run ended, in one line, and each of its archives, to be copied whole."""
    outcome = describe_state(run)
    has_figures = bool(run["archives"]) or run["kind"] == "verify"
    parts = [_describe_figures(run)] if has_figures else []
    parts += _explain(run)
    took = describe_took(run)
    head = f"{escape(run['job'])}: {colour(outcome)}" + (f" in {took}" if took else "")
    yield ": ".join([head, ", ".join(parts)]) if parts else head
    for archive in run["archives"]:
        yield f"  {escape(describe_place(archive['url']))}"


def describe_skipped(run: Run, entries: Sequence[SkippedEntry], *, most: int = _FEW) -> list[str]:
    """Return a line for each of the first skipped entries, and one for those left out.

    That one says where they are, if they are kept.
    """
    lines = [f"skipped {escape(entry['path'])}: {escape(entry['reason'])}" for entry in entries]
    left = run["files"]["skipped"] - min(len(lines), most)
    where = f": storeletctl history --run {run['id']}" if len(lines) > most else ""
    more = [f"and {left:,} more{where}"] if left > 0 else []
    return lines[:most] + more


def describe_run(run: RunDetails, *, brief: bool = False) -> Iterator[str]:
    """Yield all that is kept of a run, or (`brief`) the first skipped entries and last lines."""
    yield from _describe_facts(run)
    entries, output = run["skipped_entries"], run["output"]
    for line in describe_skipped(run, entries, most=_FEW if brief else len(entries)):
        yield f"  {line}"
    if output:
        yield "  output:" if len(output) <= _FEW or not brief else "  output, last lines:"
        for line in output[-_FEW:] if brief else output:
            yield f"    {escape(line.expandtabs())}"


def _describe_facts(run: Run) -> Iterator[str]:
    outcome = describe_state(run)
    due, took = run["due"], describe_took(run)
    yield f"run {run['id']} of {escape(run['job'])}: {colour(outcome)}"
    yield f"  cause:    {escape(run['cause'])}" + (f", {_describe_due(run)}" if due else "")
    if run["begun_at"]:
        yield f"  begun:    {describe_time(run['begun_at'])}" + (f", took {took}" if took else "")
    if run["repeats"]:
        yield f"  repeats:  run {run['repeats']}, attempt {run['attempt']}"
    if run["message"]:
        yield f"  message:  {escape(run['message'])}"
    if run["retry_at"]:
        yield f"  again at: {describe_time(run['retry_at'], exact=True)}"
    if run["hint"]:
        yield f"  Try:      {escape(run['hint'])}"
    if run["begun_at"]:
        yield f"  files:    {_describe_files(run)}"
    if run["archives"]:
        yield f"  sent:     {_describe_sent(run)}"
    for archive in run["archives"]:
        yield f"  archive:  {escape(archive['url'])} ({describe_bytes(archive['bytes'])})"
    for note in run["notes"]:
        yield f"  note:     {escape(note)}"


def _describe_due(run: Run) -> str:
    due = run["due"]
    if due is None:
        return ""
    if due["count"] == 1:
        return f"due {describe_time(due['last'])}"
    first, last = describe_time(due["first"]), describe_time(due["last"])
    return f"{describe_count(due['count'], 'due time')} from {first} to {last}"


def _describe_result(run: Run) -> str:
    """Return what a run brought or why it did not, without its hint."""
    parts: list[str] = []
    if run["outcome"] in ("success", "partial") or run["state"] == "running":
        parts.append(_describe_figures(run, brief=True))
    parts += _explain(run)
    if run["due"] and run["due"]["count"] > 1:
        parts.append(describe_count(run["due"]["count"], "due time"))
    return ", ".join(parts)


def _explain(run: Run) -> list[str]:
    """Return why the run is no success, where its figures do not say it."""
    skipped = run["files"]["skipped"]
    told = run["outcome"] == "success" or (run["outcome"] == "partial" and skipped)
    return [escape(run["message"])] if run["message"] and not told else []


def _describe_figures(run: Run, *, brief: bool = False) -> str:
    """Return what had to be read and sent, of how much; `brief` for a row of 80 columns."""
    files, size = run["files"], run["bytes"]
    if run["kind"] == "verify":
        return f"checked {describe_count(files['read'], 'member')}, {describe_bytes(size['read'])}"
    if brief:
        parts = [f"read {files['read']:,} of {files['seen']:,}"]
    else:
        parts = [f"read {files['read']:,} of {describe_count(files['seen'], 'file')}"]
    if run["archives"]:
        of = "" if brief else f" of {describe_bytes(size['archive'])}"
        parts.append(f"sent {describe_bytes(size['sent'])}{of}")
    if files["skipped"]:
        parts.append(f"{files['skipped']:,} skipped")
    return ", ".join(parts)


def _describe_files(run: Run) -> str:
    """Return all there is to know of the run's files."""
    files, read = run["files"], describe_bytes(run["bytes"]["read"])
    if run["kind"] == "verify":
        return _describe_figures(run)
    return (
        f"{files['seen']:,} seen: {files['reused']:,} reused,"
        f" {files['read']:,} read ({read}), {files['skipped']:,} skipped"
    )


def _describe_sent(run: Run) -> str:
    """Return all there is to know of the bytes of the run's archives."""
    size, requests = run["bytes"], run["requests"]
    by = f" in {describe_count(requests, 'request')}" if requests else ""
    return (
        f"{describe_bytes(size['sent'])} of {describe_bytes(size['archive'])}{by},"
        f" {describe_bytes(size['reused'])} reused"
    )
