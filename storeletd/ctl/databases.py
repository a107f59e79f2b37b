"""What `restore --database` does: a dump in a job's archive becomes a database again.

It goes back to where the job says it came from, by the same tools, as the caller. What a database
holds is replaced only where that is asked for, and in one transaction where there is such a thing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storeletd.ctl import console
from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import describe_bytes, describe_elapsed, escape
from storeletd.ctl.meter import showing_progress
from storeletd.ctl.reach import Reach, translating

if TYPE_CHECKING:
    import storelet
    from storeletd.dumps import Call
    from storeletd.includes import IncludeSqlite, Server
    from storeletd.jobs import Job

__all__ = ["restore_database"]

_NO_SUCH = 4
_PATIENCE_SECONDS = 60.0  # with who has locked a database of SQLite
_CONFLICT = "--as NAME restores it beside; --overwrite replaces what is there"

Feed = Callable[[Iterator[bytes]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dump:
    """A dump in an archive, and where it goes back to."""

    database: str | None  # None: all of a server
    member: storelet.StoredMember
    place: Server | IncludeSqlite


def restore_database(
    reach: Reach,
    text: str,
    database: str,
    target: str | None,
    *,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a dump in the archive that `text` means the database `target`, or what it was.

    Raises CommandError.
    """
    from storeletd.includes import IncludeSqlite

    opened = reach.archive(text)
    with translating():
        job = reach.job_named(text, opened)
        dump = _find(job, opened, database)
        if isinstance(dump.place, IncludeSqlite):
            target = os.path.abspath(target or dump.place.sqlite)
            feed = _prepare_file(dump.place, Path(target), overwrite=overwrite)
        else:
            source = dump.database or database
            target = target or source
            feed = _prepare_server(job, dump.place, source, target, overwrite=overwrite)
        begun = time.monotonic()
        if not dry_run:
            with showing_progress(live=console.is_terminal() and not as_json) as observe:
                feed(_follow(opened.stream(dump.member), dump.member.size, observe))
        took = time.monotonic() - begun
    if as_json:
        console.print_json(
            {
                "archive": opened.url,
                "member": dump.member.name,
                "database": target,
                "bytes": dump.member.size,
                "dry_run": dry_run,
            }
        )
        return
    what = f"{escape(dump.member.name)} of {escape(opened.name)}"
    size = describe_bytes(dump.member.size)
    if dry_run:
        console.print_line(f"Would restore {what}, {size}, to database {escape(target)}")
    else:
        console.print_line(
            f"Restored {what}, {size}, to database {escape(target)} in {describe_elapsed(took)}"
        )


def _find(job: Job, opened: storelet.OpenedArchive, wanted: str) -> _Dump:
    """Return the dump of a database, by its name or the dump's own. Raises CommandError."""
    dumps = list(_list_dumps(job, opened))
    fitting = [each for each in dumps if wanted in (each.database, each.member.name)]
    fitting = fitting or [each for each in dumps if each.database is None]
    if not fitting:
        raise CommandError(
            f"no database {wanted} in {opened.name}",
            hint=f"there is {', '.join(each.member.name for each in dumps) or 'none at all'}",
            exit_code=_NO_SUCH,
        )
    if len(fitting) > 1:
        names = " or ".join(each.member.name for each in fitting)
        raise CommandError(
            f"{opened.name} has several databases {wanted}", hint=f"--database {names}"
        )
    return fitting[0]


def _list_dumps(job: Job, opened: storelet.OpenedArchive) -> Iterator[_Dump]:
    """Yield what the archive has of the databases that its job includes."""
    from storeletd.includes import IncludeMongodb, IncludeSqlite, Server

    stored = {member.name: member for member in opened.members()}
    for include in job.settings.include:
        if isinstance(include, IncludeSqlite):
            if include.place in stored:
                name = os.path.basename(include.sqlite)
                yield _Dump(database=name, member=stored[include.place], place=include)
        elif isinstance(include, Server):
            for name, member in stored.items():
                if (found := include.database_of(name)) is not None:
                    is_all = isinstance(include, IncludeMongodb) and name == include.member(None)
                    database = None if is_all else found
                    yield _Dump(database=database, member=member, place=include)


def _prepare_server(
    job: Job, place: Server, database: str, target: str, *, overwrite: bool
) -> Feed:
    """Return what feeds a dump to a server. Raises CommandError where that must not be."""
    import storelet
    from storeletd.dumping import ask, feed, open_server
    from storeletd.dumps import rename_database

    server = open_server(job, place)

    def is_so(call: Call | None) -> bool:
        return call is not None and ask(server.starter, call).strip() not in ("", "0")

    is_there = is_so(server.tools.find(target))
    if is_there and not overwrite and is_so(server.tools.count(target)):
        raise CommandError(f"database {target} is there, and not empty", hint=_CONFLICT)
    back = server.tools.bring_back(database, target, is_there=is_there, overwrite=overwrite)

    def restore(blocks: Iterator[bytes]) -> None:
        if back.prepare is not None:
            ask(server.starter, back.prepare)
        try:
            said = feed(
                server.starter,
                back.feed,
                rename_database(blocks, database, target) if back.renames else blocks,
            )
            if said:  # mongorestore ends well, too, where it has found nothing to restore
                console.print_remark(escape(said))
        except BaseException:
            leaves_half = back.leaves_half
            if back.undo is not None:
                try:
                    ask(server.starter, back.undo)
                except storelet.StoreletError:
                    leaves_half = True
            if leaves_half:
                console.print_remark(f"Only a part of database {escape(target)} is restored")
            raise

    return restore


def _prepare_file(sqlite: IncludeSqlite, target: Path, *, overwrite: bool) -> Feed:
    """Return what makes a dump the file `target`. Raises CommandError where that must not be."""
    is_there = target.exists()
    if is_there and target.stat().st_size and not overwrite:
        raise CommandError(f"{target} is there, and not empty", hint=_CONFLICT)

    def restore(blocks: Iterator[bytes]) -> None:
        try:
            with tempfile.NamedTemporaryFile(prefix=".storelet-", dir=target.parent) as copy:
                for block in blocks:
                    copy.write(block)
                copy.flush()
                if is_there:
                    _replace_content(Path(copy.name), target)
                    return
                os.fsync(copy.fileno())
                if sqlite.user is not None:
                    shutil.chown(copy.name, sqlite.user)
                os.link(copy.name, target)
        except (OSError, sqlite3.Error) as error:
            raise CommandError(f"cannot restore to {target}: {error}") from error

    return restore


def _replace_content(source: Path, target: Path) -> None:
    """Replace what a database holds in one transaction, whoever has it open."""
    from storeletd.sqlitecopy import copy_database

    with closing(sqlite3.connect(source)) as copy, closing(sqlite3.connect(target)) as database:
        copy_database(copy, database, _PATIENCE_SECONDS)


def _follow(blocks: Iterator[bytes], size: int, observe: storelet.Observer) -> Iterator[bytes]:
    """Pass blocks on, and tell the meter."""
    import storelet

    observe(storelet.Restoring(files=1, bytes=size))
    for block in blocks:
        yield block
        observe(storelet.Moved(bytes_read=len(block), bytes_sent=0))
