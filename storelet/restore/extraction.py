"""A restore from beginning to end, after `survey` has decided what is to be done.

1. directories are made, for their owner alone;
2. files are written: small ones, span by span, by helper processes on all cores, large ones in
   threads beside them;
3. hard links are made to what was written, then symbolic links: until then nothing is one;
4. directories get their owners, modes and times, the deepest first.

What concerns one member is reported and the rest goes on; what concerns all, such as a full disk,
raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from threading import Lock

from storelet.catalogue import DamagedError
from storelet.crew import Crew
from storelet.deflate import count_cores
from storelet.errors import RestoreError
from storelet.observer import Refused, Restored, Restoring, report, report_moved
from storelet.restore.comparing import Comparison
from storelet.restore.content import unpack
from storelet.restore.listing import Listing, Read, StoredMember
from storelet.restore.paths import RefusedError
from storelet.restore.reading import Wanted, fetch_ahead, is_small, read_data, spans
from storelet.restore.survey import Survey, Verdict
from storelet.restore.target import Target
from storelet.restore.unpacking import (
    Outcome,
    ShortError,
    Sink,
    pack_task,
    unpack_from,
    unpack_task,
    unpack_to,
)

__all__ = ["Extraction", "Unpacked"]


_LITTLE_BYTES = 16 << 20  # up to here helpers are not worth their start
_FILE_BYTES = 20 << 10  # what a file costs beside its bytes, in bytes that are unpacked


@dataclass(slots=True)
class Unpacked:
    """What became of the members of an archive."""

    files: int = 0  # files and symbolic links that are restored, or right
    size: int = 0  # bytes of their content
    there: int = 0  # members that the target had already
    kept: int = 0  # likewise, newer ones
    refused: list[tuple[str, str]] = field(default_factory=list)  # members, and why
    wanted: int = 0  # members that the patterns fit, directories too
    planned: int = 0  # files and symbolic links that were to be
    compared: int = 0  # files that were compared with their sources
    different: list[tuple[str, str]] = field(default_factory=list)  # from these, and how
    taken: int = 0  # refused ones in whose place something else is, which `overwrite` replaces


class Extraction:
    """The unpacking of what was surveyed; without a root, members are only checked."""

    def __init__(
        self,
        read: Read,
        listing: Listing,
        found: Survey,
        find_path: Callable[[StoredMember], str],
        root: int | None,
        *,
        secret: bytes,
        replace: bool,
    ) -> None:
        self._read = read
        self._secret = secret
        self._listing = listing
        self._found = found
        self._find_path = find_path
        self._root = root
        self._replace = replace
        self._target = None if root is None else Target(root, replace=replace)
        self._directories: list[Wanted] = []
        self._symlinks: list[Wanted] = []
        self._links: list[tuple[Wanted, Wanted]] = []  # each with the one it is a link to
        self._first_links = dict(found.links)
        self._failed: set[int] = set()
        self._counting = Lock()  # large files are unpacked in threads
        self._is_broken_off = False
        self.result = Unpacked(
            there=found.verdicts.count(Verdict.THERE),
            kept=found.verdicts.count(Verdict.KEPT),
            wanted=len(found.verdicts) - found.verdicts.count(Verdict.UNWANTED),
            planned=found.files,
            taken=found.taken,
        )

    def run(self) -> Unpacked:
        """Do it. Raises StoreletError."""
        report(Restoring(files=self._found.files, bytes=self._found.size))
        for name, reason in self._found.refused.values():
            self._refuse(name, reason)
        try:
            with ExitStack() as stack:
                if self._target is not None:
                    stack.enter_context(closing(self._target))
                self._unpack_files()
                self._make_links()
                self._finish_directories()
        except OSError as error:
            raise RestoreError(f"cannot restore: {error.strerror or error}") from error
        return self.result

    def plan(self) -> Unpacked:
        """Only say what would be done."""
        self.result.size = self._found.size
        self.result.refused += self._found.refused.values()
        return self.result

    def _wanted(self) -> Iterator[Wanted]:
        """Yield what is to be restored, in the order of the catalogue."""
        verdicts = self._found.verdicts
        for number, member in self._listing.chosen(lambda n: verdicts[n] == Verdict.RESTORE):
            yield Wanted(number, self._find_path(member), member)

    def _unpack_files(self) -> None:
        """Unpack the files; what else is wanted is put aside for later, but for directories."""
        crew = self._make_crew()
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(count_cores()))
            if self._found.size + self._found.files * _FILE_BYTES > _LITTLE_BYTES:
                stack.enter_context(crew)  # else it has no helpers
            # Else whoever interrupts it waits for all large files, begun or not.
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            stack.push(self._break_off)
            large: list[Future[None]] = []
            small = self._small_files(lambda each: large.append(pool.submit(self._alone, each)))
            fetched = fetch_ahead(self._read, spans(small, self._listing.end))
            work = ((span, pack_task(span, data)) for span, data in fetched)
            packed = (((span, task), task) for span, task in work)
            for (span, task), answer in crew.pack(packed):
                outcomes = (
                    unpack_task(task, self._secret, self._target or Comparison())
                    if answer is None
                    else answer.outcomes
                )
                self._take(span.wanted, outcomes)
            for each in large:
                each.result()

    def _break_off(self, kind: type[BaseException] | None, *_more: object) -> None:
        """Have large files that have been begun end where they are, if something was raised."""
        self._is_broken_off = kind is not None

    def _make_crew(self) -> Crew:
        root = () if self._root is None else (self._root,)
        arguments = (str(self._root) if root else "-", "replace" if self._replace else "keep")
        return Crew("storelet.restore.unpacker", *arguments, descriptors=root, secret=self._secret)

    def _small_files(self, give_large: Callable[[Wanted], object]) -> Iterator[Wanted]:
        """Yield the small files, while the other members go where they belong."""
        for wanted in self._wanted():
            if self._root is not None and self._put_aside(wanted):
                continue
            if is_small(wanted.member):
                yield wanted
            else:
                give_large(wanted)

    def _put_aside(self, wanted: Wanted) -> bool:
        """Make a directory now and links later; tell whether it was one."""
        member = wanted.member
        if member.is_directory:
            self._make_directory(wanted)
            return True
        if member.is_symlink:
            if is_small(member):
                self._symlinks.append(wanted)
            else:
                self._refuse(member.name, "it takes more room than a path can")
            return True
        first = self._first_links.setdefault(member.link, wanted) if member.link else wanted
        if first is wanted or not _is_same_content(first.member, member):
            return False
        self._links.append((wanted, first))
        return True

    def _make_directory(self, wanted: Wanted) -> None:
        assert self._target is not None  # noqa: S101 - there is one
        try:
            self._target.make_directory(wanted.path)
        except RefusedError as error:
            self._refuse(wanted.member.name, str(error))
        else:
            self._directories.append(wanted)

    def _take(self, wanted: Iterable[Wanted], outcomes: Iterable[Outcome]) -> None:
        for each, outcome in zip(wanted, outcomes, strict=True):
            if outcome is not None and outcome[0] == "retry":
                self._alone(each)
            else:
                self._take_one(each, outcome)

    def _take_one(self, wanted: Wanted, outcome: Outcome) -> None:
        became, reason = outcome or ("done", "")
        match became:
            case "fatal":
                raise RestoreError(f"cannot restore {wanted.member.name}: {reason}")
            case "refused":
                self._fail(wanted, reason)
            case _:
                self._report_done(wanted, is_compared=became != "done")
                if became == "different":
                    self.result.different.append((wanted.member.name, reason))

    def _alone(self, wanted: Wanted) -> None:
        """Unpack one member by itself; in any thread."""
        stored = read_data(self._read, wanted.member)
        with closing(self._open_sink()) as sink:
            outcome = unpack_to(
                sink, wanted.path, wanted.member, stored, self._secret, self._follow
            )
        self._take_one(wanted, outcome)

    def _open_sink(self) -> Sink:
        """Return one for one thread."""
        if self._root is None:
            return Comparison()
        return Target(self._root, replace=self._replace, is_for_one=True)

    def _follow(self, content: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what there is, telling that it moves, until all is broken off."""
        for data in content:
            if self._is_broken_off:
                raise RestoreError("broken off")
            yield data
            report_moved(read=len(data))

    def _make_links(self) -> None:
        assert self._target is not None or not self._links  # noqa: S101 - only there
        for wanted, first in self._links:
            if first.number in self._failed or self._target is None:
                self._alone(wanted)
                continue
            try:
                self._target.make_link(wanted.path, first.path)
            except RefusedError:  # such as by a file system without links, or with no more
                self._alone(wanted)
            else:
                self._report_done(wanted)
        for span, data in fetch_ahead(self._read, spans(self._symlinks, self._listing.end)):
            for wanted in span.wanted:
                self._make_symlink(wanted, memoryview(data)[wanted.member.offset - span.offset :])

    def _make_symlink(self, wanted: Wanted, data: memoryview) -> None:
        assert self._target is not None  # noqa: S101 - there is one
        member = wanted.member
        try:
            points_to = self._read_link(member, data)
            try:
                self._target.make_symlink(wanted.path, member, points_to)
            except RefusedError:
                if self._replace or not self._points_there(wanted, points_to):
                    raise
                self.result.there += 1
                return
        except (DamagedError, RefusedError) as error:
            self._fail(wanted, str(error))
        else:
            self._report_done(wanted)

    def _read_link(self, member: StoredMember, data: memoryview) -> bytes:
        with suppress(ShortError):
            return b"".join(unpack_from(data, member, self._secret))
        return b"".join(unpack(read_data(self._read, member), member, self._secret))

    def _points_there(self, wanted: Wanted, points_to: bytes) -> bool:
        assert self._target is not None  # noqa: S101 - there is one
        with suppress(RefusedError):  # it is no link
            return self._target.read_link(wanted.path) == points_to
        return False

    def _finish_directories(self) -> None:
        assert self._target is not None or not self._directories  # noqa: S101 - only there
        # A path is longer than that of what it is in, so the deepest come first.
        for wanted in sorted(self._directories, key=lambda each: each.path, reverse=True):
            try:
                if self._target is not None:
                    self._target.finish_directory(wanted.path, wanted.member)
            except RefusedError as error:
                self._refuse(wanted.member.name, str(error))

    def _report_done(self, wanted: Wanted, *, is_compared: bool = False) -> None:
        with self._counting:
            self.result.files += 1
            self.result.compared += is_compared
            self.result.size += wanted.member.size
        path = "" if self._root is None else wanted.path
        report(Restored(path=path, member=wanted.member.name, bytes=wanted.member.size))

    def _fail(self, wanted: Wanted, reason: str) -> None:
        self._failed.add(wanted.number)
        self._refuse(wanted.member.name, reason)

    def _refuse(self, name: str, reason: str) -> None:
        self.result.refused.append((name, reason))
        report(Refused(member=name, reason=reason))


def _is_same_content(one: StoredMember, other: StoredMember) -> bool:
    return (one.size, one.crc, one.mode) == (other.size, other.crc, other.mode)
