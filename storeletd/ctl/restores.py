"""The verbs that read archives back: restore, verify. As the caller; they need no daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storeletd.ctl import console
from storeletd.ctl.console import CommandError
from storeletd.ctl.databases import restore_database
from storeletd.ctl.formats import (
    describe_bytes,
    describe_count,
    describe_elapsed,
    describe_place,
    escape,
)
from storeletd.ctl.invocation import json_option
from storeletd.ctl.meter import showing_progress
from storeletd.ctl.names import ARCHIVE
from storeletd.ctl.reach import Reach, find_unfitting, reaching, translating
from storeletd.ctl.runs import follow

if TYPE_CHECKING:
    import storelet

__all__ = ["restore", "verify"]

_PARTIAL = 3
_INTERRUPTED = 130
_SHOWN = 20  # members that were not restored


def _read_name(text: str) -> str:
    """Return a name that is one. Raises BadParameter."""
    if not text.strip():
        raise click.BadParameter("the name is empty: is a variable of the shell not set?")
    return text


def _read_target(text: str) -> Path:
    """Return what files may be restored to. Raises BadParameter."""
    return Path(_read_name(text))


@click.command()
@click.argument("archive", type=ARCHIVE, metavar="ARCHIVE")
@click.argument("patterns", nargs=-1, metavar="[GLOB]...")
@click.option("--target", type=_read_target, metavar="DIR", help="Where to.")
@click.option("--in-place", is_flag=True, help="Put everything where it came from.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be restored.")
@click.option(
    "--overwrite",
    is_flag=False,
    flag_value="always",
    default="never",
    type=click.Choice(["always", "if-newer", "never"]),
    show_default=True,
    help="Replace files that are there; if-newer: where the archive's is newer.",
)
@click.option(
    "--database",
    type=_read_name,
    metavar="NAME",
    help="Feed back a dump of this database instead.",
)
@click.option(
    "--as", "name", type=_read_name, metavar="NAME", help="With --database: under this name."
)
@json_option
@reaching
def restore(
    reach: Reach,
    archive: str,
    patterns: Sequence[str],
    target: Path | None,
    in_place: bool,
    database: str | None,
    name: str | None,
    dry_run: bool,
    overwrite: Any,
    as_json: bool,
) -> int:
    """Restore an archive, or the files that fit, to a directory.

    ARCHIVE is a path, a URL, JOB, JOB@latest, or JOB@2026-11-20 for the newest one not after that
    day. GLOB is as in a .gitignore: `*.conf`, `/etc/ssh/`, `www/**/*.php`.

    With --database a dump that the job has made of a database goes back into it; one that is there
    and not empty stays as it is.

    Files that are there stay as they are. A restore that was broken off goes on where it stopped
    when it is called again. Exit code 3 says that something could not be restored, or that
    nothing fits one of several patterns.
    """
    if database is not None:
        if patterns or target or in_place or overwrite == "if-newer":
            raise click.UsageError("--database goes with --as, --overwrite and --dry-run alone")
        how: Any = {"overwrite": overwrite == "always", "dry_run": dry_run, "as_json": as_json}
        restore_database(reach, archive, database, name, **how)
        return 0
    if name is not None or (target is None) == (not in_place):
        raise click.UsageError("give either --target DIR, --in-place or --database NAME")
    opened = reach.archive(archive)
    begun = time.monotonic()
    live = console.is_terminal() and not as_json
    with _interruptible(), translating(), showing_progress(live=live):
        how = {"overwrite": overwrite, "dry_run": dry_run}
        if target is None:
            result = opened.extract_in_place(patterns, **how)
        else:
            result = opened.extract(target, patterns, **how)
        problems = opened.problems
    took = time.monotonic() - begun
    if (patterns or problems) and not result.wanted:
        raise reach.nothing_found(archive, opened, patterns)
    unfitting = find_unfitting(opened, patterns)
    if as_json:
        described = _describe(opened, result, dry_run=dry_run)
        console.print_json({**described, "unfitting": unfitting})
    else:
        where = "where it came from" if target is None else str(target)
        _print_result(opened, result, where, took, dry_run=dry_run)
        for pattern in unfitting:
            console.print_remark(f"Nothing fits {pattern}")
    return _PARTIAL if result.refused or problems or unfitting else 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say what becomes of a restore that is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        console.print_remark("")  # the terminal has shown ^C
        hint = "the same command again; it goes on where it stopped"
        raise CommandError("interrupted", hint=hint, exit_code=_INTERRUPTED) from None


@click.command()
@click.argument("archive", type=ARCHIVE, metavar="ARCHIVE")
@click.option(
    "--sample", default="100%", show_default=True, metavar="PART", help="How much of it: 5%, say."
)
@json_option
@reaching
def verify(reach: Reach, archive: str, sample: str, as_json: bool) -> int:
    """Read an archive back and check every file in it.

    Its place, name, size and CRC are checked. With --sample only that part of the files. Exit code
    1 says that something is not right; then an archive of Storelet's is marked as bad by a small
    file beside it, so that nothing is copied from it any more. Where ARCHIVE is a JOB of a daemon
    that is there, the daemon does it, everywhere the job saves to, and remembers it; a sample then
    takes up where the last one ended.
    """
    part = _read_part(sample)
    if reach.is_with_daemon(archive):
        client = reach.invocation.client()
        run = client.start_verification(archive, sample)
        run = follow(client, run, verbose=False, as_json=as_json)
        if as_json:
            console.print_json(run)
        return run["exit_code"] or 0
    begun = time.monotonic()
    opened = reach.archive(archive)
    with translating(), showing_progress(live=console.is_terminal() and not as_json):
        result = opened.verify(sample=part)
    is_right = not (opened.problems or result.refused)
    if as_json:
        console.print_json({**_describe(opened, result, dry_run=False), "right": is_right})
    else:
        checked = f"{describe_count(result.files, 'member')}, {describe_bytes(result.size)}"
        took = describe_elapsed(time.monotonic() - begun)
        console.print_line(
            f"Checked {checked} of {escape(opened.name)} in {took}: all right"
            if is_right
            else f"{escape(opened.name)} is damaged; {checked} of it are right"
        )
        _print_refused(opened, result, "Not right")
    if not is_right and opened.backup is not None:
        _mark_bad(opened, result)
    return 0 if is_right else 1


def _mark_bad(opened: storelet.OpenedArchive, result: storelet.Unpacked) -> None:
    reasons = [*opened.problems, *(f"{name}: {reason}" for name, reason in result.refused)]
    with translating():
        opened.mark_bad(reasons[0])
    console.print_remark(f"Marked as bad by {describe_place(opened.url)}.bad")


def _read_part(text: str) -> float:
    """Return a part such as 5% as a number. Raises BadParameter."""
    from storeletd.values import read_part

    try:
        return read_part(text)
    except ValueError as error:
        raise click.BadParameter(f"{text}: {error}", param_hint="--sample") from error


def _print_result(
    opened: storelet.OpenedArchive,
    result: storelet.Unpacked,
    where: str,
    took: float,
    *,
    dry_run: bool,
) -> None:
    if dry_run:
        files = f"{describe_count(result.planned, 'file')}, {describe_bytes(result.size)}"
        console.print_line(f"Would restore {files} to {escape(where)}")
    else:
        files = f"{describe_count(result.files, 'file')}, {describe_bytes(result.size)}"
        console.print_line(f"Restored {files} to {escape(where)} in {describe_elapsed(took)}")
    if result.there:
        console.print_line(f"{describe_count(result.there, 'file')} there already")
    if result.kept:
        console.print_line(f"{describe_count(result.kept, 'file')} newer there, and kept")
    _print_refused(opened, result, "Not restored")
    if result.taken:
        console.print_remark(
            "Try: --overwrite, or where the archive's is newer --overwrite=if-newer"
        )


def _print_refused(opened: storelet.OpenedArchive, result: storelet.Unpacked, what: str) -> None:
    for problem in opened.problems:
        console.print_remark(f"{opened.name}: {problem}")
    lines = list(dict.fromkeys(f"{what}: {name}: {reason}" for name, reason in result.refused))
    for line in lines[:_SHOWN]:
        console.print_remark(line)
    if len(lines) > _SHOWN:
        console.print_remark(f"… and {len(lines) - _SHOWN:,} more (--json has them all)")


def _describe(
    opened: storelet.OpenedArchive, result: storelet.Unpacked, *, dry_run: bool
) -> dict[str, Any]:
    return {
        "archive": opened.url,
        "dry_run": dry_run,
        "files": result.planned if dry_run else result.files,
        "bytes": result.size,
        "there": result.there,
        "kept": result.kept,
        "refused": [{"name": name, "reason": reason} for name, reason in result.refused],
        "problems": opened.problems,
    }
