"""The verbs that look into archives: archives, files, find, dump, diff. They write nothing.

They read as the caller, by ranged reads, and need no daemon.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from storeletd.ctl import console
from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import (
    describe_bytes,
    describe_count,
    describe_place,
    describe_time,
    escape,
)
from storeletd.ctl.invocation import json_option
from storeletd.ctl.names import ARCHIVE
from storeletd.ctl.reach import Reach, find_unfitting, reaching, translating
from storeletd.ctl.tables import Column, print_table

if TYPE_CHECKING:
    import storelet

__all__ = ["diff", "dump", "find", "list_archives", "list_files"]

_PLACES = 20  # that are shown
_PARTIAL = 3
_NO_SUCH = 4

# Control characters, but for those of text, and C1 in UTF-8.
_STEERS = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")

_ARCHIVES = (
    Column(title="MADE"),
    Column(title="SIZE", right=True),
    Column(title="IS", words=True),
    Column(title="ARCHIVE"),
)
_FOUND = (
    Column(title="CHANGED"),
    Column(title="SIZE", right=True),
    Column(title="IN", right=True),
    Column(title="NEWEST ARCHIVE"),
    Column(title="FILE"),
)


@click.command("archives")
@click.argument("what", type=ARCHIVE, metavar="JOB|URL")
@click.option("--versions", is_flag=True, help="Deleted ones, too, whose bucket keeps versions.")
@json_option
@reaching
def list_archives(reach: Reach, what: str, versions: bool, as_json: bool) -> None:
    """List the archives of a job, or at a place, the oldest first.

    A place is a path or URL: s3://bucket/prefix/, file:///path. An archive's own path or URL, and
    JOB@2026-11-20, are that one alone. One that IS bad has failed a verification. Needs no daemon.
    """
    found = reach.archives(what, versions=versions)
    if as_json:
        console.print_json({"archives": list(map(_describe_archive, found))})
    elif not found:
        console.print_remark("no archives")
        for place in reach.places_below(what)[:_PLACES]:
            console.print_remark(f"Try: {reach.command('archives', place)}")
    else:
        print_table(
            _ARCHIVES,
            (
                (
                    describe_time(each.modified),
                    describe_bytes(each.size),
                    "deleted" if each.is_deleted else "bad" if each.is_bad else "",
                    describe_place(each.url),
                )
                for each in found
            ),
        )


@click.command("files")
@click.argument("archive", type=ARCHIVE, metavar="ARCHIVE")
@click.argument("patterns", nargs=-1, metavar="[GLOB]...")
@json_option
@reaching
def list_files(
    reach: Reach,
    archive: str,
    patterns: Sequence[str],
    as_json: bool,
) -> int:
    """List the files in an archive, as `ls -l` does.

    All, or those that fit a GLOB, as in a .gitignore: `*.conf`, `/etc/ssh/`, `www/**/*.php`.
    ARCHIVE is a path, a URL, JOB, JOB@latest, or JOB@2026-11-20 for the newest one not after that
    day. Exit code 3 says that the archive is damaged and some of it is not listed, 4 that nothing
    fits a pattern.
    """
    opened = reach.archive(archive)
    with translating():
        if (patterns or opened.problems) and next(opened.members(patterns), None) is None:
            raise reach.nothing_found(archive, opened, patterns)
        unfitting = find_unfitting(opened, patterns)
        if as_json:
            members = list(map(_describe_member, opened.members(patterns)))
            about = {"problems": opened.problems, "unfitting": unfitting}
            console.print_json({"archive": opened.url, "members": members, **about})
        else:
            for member in opened.members(patterns):
                console.print_line(_format_member(member))
            for problem in opened.problems:
                console.print_remark(f"{opened.name}: {problem}")
            for pattern in unfitting:
                console.print_remark(f"Nothing fits {pattern}")
    return _PARTIAL if opened.problems else _NO_SUCH if unfitting else 0


@click.command()
@click.argument("what", type=ARCHIVE, metavar="JOB|URL")
@click.argument("pattern", metavar="GLOB")
@json_option
@reaching
def find(
    reach: Reach,
    what: str,
    pattern: str,
    as_json: bool,
) -> int:
    """Find each version of files in all archives of a job.

    Or in those at a place, or in one of them.

    GLOB is as in a .gitignore: `index.php` is such a file anywhere, `/www/*.php` only there.
    IN says how many archives have that version. Exit code 1 says that there is none.
    """
    versions: dict[tuple[Any, ...], list[storelet.OpenedArchive]] = {}
    problems: list[str] = []
    with translating():
        for opened in reach.archives(what):
            for member in opened.members([pattern]):
                if not member.is_directory:
                    key = (member.name, member.mtime_ns, member.size, member.crc)
                    versions.setdefault(key, []).append(opened)
            problems += (f"{opened.name}: {problem}" for problem in opened.problems)
    if as_json:
        described = [_describe_version(*each) for each in versions.items()]
        console.print_json({"versions": described, "problems": problems})
        return 0 if versions else 1
    for problem in problems:
        console.print_remark(problem)
    if versions:
        ordered = sorted(versions.items(), key=lambda each: each[0][:2])
        print_table(
            _FOUND,
            (
                (_time(mtime), describe_bytes(size), str(len(found)), found[-1].name, name)
                for (name, mtime, size, _), found in ordered
            ),
        )
    else:
        console.print_remark("no such file in any archive")
    return 0 if versions else 1


@click.command()
@click.argument("archive", type=ARCHIVE, metavar="ARCHIVE")
@click.argument("member", metavar="MEMBER")
@reaching
def dump(reach: Reach, archive: str, member: str) -> None:
    """Write one file of an archive to standard output.

    MEMBER is its name as `files` shows it. What is written is only known to be right when it has
    ended with exit code 0. To a terminal only text is written.
    """
    import storelet

    opened = reach.archive(archive)
    with translating():
        try:
            found = opened.find(member.removeprefix("/"))
        except storelet.MemberMissingError as error:
            raise _no_member(reach, archive, opened, member) from error
        for piece in opened.stream(found):
            if console.is_terminal() and _STEERS.search(piece):
                raise CommandError(
                    f"{member} is no text: it could steer the terminal",
                    hint=f"{reach.command('dump', archive, member)} > FILE",
                )
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _no_member(
    reach: Reach, text: str, archive: storelet.OpenedArchive, member: str
) -> CommandError:
    """Return the error for a name that no member has; it may be that of one elsewhere."""
    if archive.problems:
        return reach.nothing_found(text, archive, [member])
    hint = reach.command("files", text, member.rstrip("/").rpartition("/")[2])
    return CommandError(f"no file {member} in {archive.name}", hint=hint, exit_code=_NO_SUCH)


@click.command()
@click.argument("one", type=ARCHIVE, metavar="ARCHIVE")
@click.argument("other", type=ARCHIVE, metavar="ARCHIVE")
@json_option
@reaching
def diff(
    reach: Reach,
    one: str,
    other: str,
    as_json: bool,
) -> int:
    """Show what differs between two archives.

    Only their catalogues are read.

    An ARCHIVE is a path, a URL, JOB, JOB@latest, or JOB@2026-11-20.

    + is added, - is removed, M has another content, m has another mode, owner or time. Exit code 3
    says that one is damaged, and what it lacks may be missing for that alone.
    """
    both = reach.archive(one), reach.archive(other)
    with translating():
        changes = list(_compare(*both))
        problems = [f"{each.name}: {problem}" for each in both for problem in each.problems]
    if as_json:
        described = [{"change": change, "name": name} for change, name in changes]
        console.print_json({"changes": described, "problems": problems})
        return _PARTIAL if problems else 0
    console.print_all(f"{change}  {escape(name)}" for change, name in changes)
    counts = {sign: sum(change == sign for change, _ in changes) for sign in "+-Mm"}
    console.print_remark(
        f"{counts['+']:,} added, {counts['-']:,} removed, {counts['M']:,} changed,"
        f" {describe_count(counts['m'], 'file')} with another mode, owner or time"
    )
    for problem in problems:
        console.print_remark(problem)
    return _PARTIAL if problems else 0


def _compare(
    one: storelet.OpenedArchive, other: storelet.OpenedArchive
) -> Iterator[tuple[str, str]]:
    """Yield changes, sorted by name."""
    before = {member.name: _marks(member) for member in one.members()}
    after = {member.name: _marks(member) for member in other.members()}
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield "+", name
        elif name not in after:
            yield "-", name
        elif before[name][0] != after[name][0]:
            yield "M", name
        elif before[name][1] != after[name][1]:
            yield "m", name


def _marks(member: storelet.StoredMember) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return what tells another content, and what tells other metadata.

    Encrypted members have no CRC: a file of another time counts as another content there.
    """
    content: tuple[Any, ...] = (member.size, stat.S_IFMT(member.mode), member.crc)
    if not member.has_crc:
        content += (member.mtime_ns,)
    metadata: tuple[Any, ...] = (member.mode, member.uid, member.gid)
    return content, metadata if member.is_directory else (*metadata, member.mtime_ns)


def _describe_archive(archive: storelet.OpenedArchive) -> dict[str, Any]:
    return {
        "url": archive.url,
        "name": archive.name,
        "job": archive.backup,
        "bytes": archive.size,
        "bad": archive.is_bad,
        "deleted": archive.is_deleted,
        "made": archive.modified.astimezone().isoformat(timespec="seconds"),
    }


def _describe_member(member: storelet.StoredMember) -> dict[str, Any]:
    return {
        "name": member.name,
        "mode": stat.filemode(member.mode),
        "uid": member.uid,
        "gid": member.gid,
        "bytes": member.size,
        "bytes_stored": member.stored_size,
        "mtime": _moment(member.mtime_ns, lambda each: each.isoformat()),
        "encrypted": bool(member.encryption),
        "whole": member.is_whole,
    }


def _describe_version(
    key: tuple[Any, ...], found: Sequence[storelet.OpenedArchive]
) -> dict[str, Any]:
    name, mtime_ns, size, _ = key
    return {
        "name": name,
        "bytes": size,
        "mtime": _moment(mtime_ns, lambda each: each.isoformat()),
        "archives": [each.url for each in found],
    }


def _format_member(member: storelet.StoredMember) -> str:
    uid = "-" if member.uid is None else str(member.uid)
    gid = "-" if member.gid is None else str(member.gid)
    note = "" if member.is_whole else "  (truncated when it was backed up)"
    return (
        f"{stat.filemode(member.mode)} {uid:>5} {gid:>5} {member.size:>12} "
        f"{_time(member.mtime_ns)} {escape(member.name)}{note}"
    )


def _time(ns: int) -> str:
    return _moment(ns, lambda each: each.strftime("%Y-%m-%d %H:%M"))


def _moment(ns: int, form: Callable[[datetime], str]) -> str:
    """Return a member's time as text, `-` for a year that datetime has not."""
    try:
        return form(datetime.fromtimestamp(ns // 1_000_000_000).astimezone())
    except (OverflowError, ValueError, OSError):
        return "-"
