"""Job files: a file of the job directory read into a `Job`, with all that is wrong with it.

Owns the file as such: opening it without ever blocking, its size and encoding, the job's name.
`yamlfile` and `modulefile` read the two languages, `declaration` checks what they found. Whether
a file may be trusted is `jobdir`'s matter. No job file is ever imported or executed here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from storeletd.declaration import Declaration, check_declaration
from storeletd.jobs import Job, JobFileError, JobProblem
from storeletd.modulefile import read_module
from storeletd.settings import Language
from storeletd.yamlfile import read_yaml

__all__ = [
    "SUFFIXES",
    "check_regular",
    "explain_os_error",
    "open_job_file",
    "parse_job",
    "read_job",
    "read_opened",
]

SUFFIXES: dict[str, Language] = {".yaml": "yaml", ".yml": "yaml", ".py": "python"}

_LARGEST_BYTES = 1 << 20
_MOST_PROBLEMS = 50  # told of one file
_LONGEST_MESSAGE = 500  # characters of one
# In URLs, in journal fields, and in an archive's name, which is 19 characters longer.
_JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def read_job(path: Path) -> Job:
    """Read a job file. Raises JobFileError with all that is wrong with it."""
    with open_job_file(path) as descriptor:
        data = read_opened(descriptor, path)
    return parse_job(path, data)


@contextmanager
def open_job_file(path: Path, directory: int | None = None) -> Iterator[int]:
    """Open a regular file for reading. Raises JobFileError.

    A symbolic link is followed; but not in a `directory`, a descriptor, where the file is then
    looked for by the name in its path alone.
    """
    follow = directory is None
    name = path if follow else path.name
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Asked first, as opening a device may do something; again afterwards, for good.
        check_regular(os.stat(name, dir_fd=directory, follow_symlinks=follow), path)
        descriptor = os.open(name, flags | (0 if follow else os.O_NOFOLLOW), dir_fd=directory)
    except OSError as error:
        raise _fail(path, explain_os_error(path, error)) from error
    try:
        check_regular(os.fstat(descriptor), path)
        yield descriptor
    finally:
        os.close(descriptor)


def read_opened(descriptor: int, path: Path) -> bytes:
    """Return the content of an opened job file. Raises JobFileError."""
    try:
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise _fail(path, explain_os_error(path, error)) from error
    if len(data) > _LARGEST_BYTES:
        raise _fail(path, "larger than 1 MiB")
    return data


def parse_job(path: Path, data: bytes) -> Job:
    """Make the job of the file `path` that holds `data`.

    Raises JobFileError with all that is wrong with it.
    """
    problems = _check_name(path)
    language = SUFFIXES.get(path.suffix)
    if language is None:
        raise JobFileError(problems)
    try:
        source = _decode(path, data)
        declaration = _read(language, source, str(path))
    except JobFileError as error:
        raise JobFileError(_first([*problems, *error.problems])) from error.__cause__
    settings, found = check_declaration(declaration)
    if settings is None or problems or found:
        raise JobFileError(_first([*problems, *found]))
    return Job(
        name=path.stem,
        path=os.path.abspath(path),
        language=language,
        settings=settings,
        source=source,
        lines={str(key[0]): at.line for key, at in declaration.marks.items() if len(key) == 1},
    )


def _first(problems: list[JobProblem]) -> list[JobProblem]:
    """Return as much as anybody reads: a file may have a hundred thousand, or a long value."""
    told = [
        each
        if len(each.message) <= _LONGEST_MESSAGE
        else replace(each, message=f"{each.message[:_LONGEST_MESSAGE]}…")
        for each in problems[:_MOST_PROBLEMS]
    ]
    more = len(problems) - len(told)
    if more:
        told.append(JobProblem(file=problems[0].file, message=f"{more} more problems"))
    return told


def _read(language: Language, source: str, file: str) -> Declaration:
    return read_yaml(source, file) if language == "yaml" else read_module(source, file)


def _check_name(path: Path) -> list[JobProblem]:
    if path.suffix not in SUFFIXES:
        return [JobProblem(file=str(path), message=f"expected a file {_LIST_OF_SUFFIXES}")]
    if not _JOB_NAME.fullmatch(path.stem):
        message = (
            "expected a job's name before the suffix: letters, digits, `.`, `_` and `-`,"
            " not `.` or `-` first, at most 200"
        )
        return [JobProblem(file=str(path), message=message, hint="rename the file")]
    return []


_LIST_OF_SUFFIXES = ", ".join(f"*{suffix}" for suffix in SUFFIXES)


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        problem = JobProblem(
            file=str(path),
            line=before.count("\n") + 1,
            column=len(before) - before.rfind("\n"),
            message="not UTF-8 text",
        )
        raise JobFileError([problem]) from error


def check_regular(found: os.stat_result, path: Path) -> None:
    """Raise JobFileError where what was found is no regular file."""
    if not stat.S_ISREG(found.st_mode):
        what = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise _fail(path, f"expected a job file, this is {what}")


def explain_os_error(path: Path, error: OSError) -> str:
    """Say why a job file cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        is_link = os.path.islink(path)
        return f"a link to nowhere: {os.readlink(path)}" if is_link else "no such file"
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _fail(path: Path, message: str) -> JobFileError:
    return JobFileError([JobProblem(file=str(path), message=message)])
