"""The table of what was measured: medians, and their ratios."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.contenders import Contender
from benchmarks.measuring import Run, read_text
from benchmarks.server import find_weed

__all__ = ["format_table", "name_machine", "name_versions"]

_REFERENCE = "storelet fast"  # whose ratio is 1; where it takes no part, the first that does


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    title: str
    value: Callable[[Run], float]


_WALL = _Column(title="wall s", value=lambda run: run.wall_seconds)
_CPU = _Column(title="CPU s", value=lambda run: run.cpu_seconds)
_MEMORY = _Column(title="mem. MB", value=lambda run: run.peak_bytes / 1e6)
_WRITTEN = _Column(title="disk MB", value=lambda run: run.written_bytes / 1e6)
_SENT = _Column(title="sent MB", value=lambda run: run.sent_bytes / 1e6)
_RECEIVED = _Column(title="got MB", value=lambda run: run.received_bytes / 1e6)
_LEFT = _Column(title="left MB", value=lambda run: run.left_bytes / 1e6)


def format_table(
    runs: Mapping[str, Sequence[Run]], *, to: Literal["directory", "S3"], is_restore: bool
) -> str:
    """Return medians by contender, each beside its ratio to Storelet's, in reStructuredText."""
    if to == "S3":
        moved = [_RECEIVED] if is_restore else [_SENT, _LEFT]
    else:
        moved = [_WRITTEN] if is_restore else [_WRITTEN, _LEFT]
    columns = [_WALL, _CPU, _MEMORY, *moved]
    reference = runs.get(_REFERENCE) or next(iter(runs.values()))
    rule = "=" * 18 + f" {'=' * 8} {'=' * 6}" * len(columns)
    title = f"{chr(92):18}" + "".join(f" {column.title:>8} {'ratio':>6}" for column in columns)
    rows = [
        f"{name:18}" + "".join(_format_cell(column, each, reference) for column in columns)
        for name, each in runs.items()
    ]
    return "\n".join([rule, title, rule, *rows, rule])


def _format_cell(column: _Column, runs: Sequence[Run], reference: Sequence[Run]) -> str:
    value, one = (statistics.median(map(column.value, each)) for each in (runs, reference))
    return f" {_format_number(value):>8} {_format_number(value / one) if one else '':>6}"


def _format_number(number: float) -> str:
    """Show about three digits."""
    decimals = 3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"


def name_machine() -> str:
    """Say where and when it was measured."""
    cores = len(os.sched_getaffinity(0))
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in read_text(Path("/proc/cpuinfo")).splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, {cores} cores of {cpu}, Linux {platform.release()}"


def name_versions(contenders: Iterable[Contender]) -> str:
    """Say which programs ran."""
    asked = {
        "zip": ("zip", "-v"),
        "7z": ("7z", "i"),
        "aws": ("aws", "--version"),
        "restic": ("restic", "version"),
        "borg": ("borg", "--version"),
        "rclone": ("rclone", "version"),
        "weed": (find_weed() or "weed", "version"),
    }
    needed = {need for each in contenders for need in each.needs}
    if any(each.to == "S3" for each in contenders):
        needed.add("weed")
    said = [f"Python {platform.python_version()}"]
    for program, command in asked.items():
        if program in needed:
            done = subprocess.run(command, capture_output=True, text=True)
            version = re.search(r"\d+\.\d[\d.]*", done.stdout)
            said.append(f"{program} {version[0] if version else '?'}")
    return ", ".join(said)
