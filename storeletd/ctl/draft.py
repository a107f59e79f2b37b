"""A first job as far as it has been said, and its text as a job file.

What somebody says becomes part of it where a job file may say it, too: each answer is tried in a
whole file. Keys that were typed stand in no file but their own.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storeletd.jobs import Job

__all__ = ["KEYS", "AnswerError", "Bucket", "Draft", "Key", "read_bucket", "read_key"]

KEYS = ("access_key", "secret_key")
_REFERENCE = re.compile(r"(credential|env|file):(.+)", re.DOTALL)
# What means itself in YAML, but for some words.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9._/-]*(:[A-Za-z0-9._/-]+)*")
_WORDS = re.compile("true|false|yes|no|on|off|null|y|n", re.IGNORECASE)

_HEAD = """\
# Made by `storeletctl init`. A change counts within seconds of being saved; to see whether it is
# right: storeletctl validate FILE. More is in the manual, and in: storeletctl schema

"""
_TAIL = """\

# All archives are kept, unless it is said which:
#keep: {last: 3, daily: 7, weekly: 4, monthly: 12}
# Tell somebody when a run fails (by mail, ntfy, Slack, …), or when there was no archive for long:
#notify: {urls: [{credential: ntfy-url}]}
#max_age: 26h
# Read the archives back, a tenth of the files each week:
#verify: {every: 1w, sample: 10%}
# Encrypt what files hold. Who loses the password has lost the archives:
#encryption: {password: {credential: backup-password}}
"""

Key = str | Mapping[str, str]  # typed; or where it is to be found: {"env": "NAME"}


class AnswerError(Exception):
    """What was said cannot be; it never holds a key."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A place in S3 to save to; what is None is left to boto3."""

    name: str
    prefix: str = ""
    endpoint_url: str | None = None
    region_name: str | None = None
    access_key: Key | None = field(default=None, repr=False)
    secret_key: Key | None = field(default=None, repr=False)

    @property
    def typed(self) -> dict[str, str]:
        """The keys that were typed, by their settings."""
        keys = {name: getattr(self, name) for name in KEYS}
        return {name: key for name, key in keys.items() if isinstance(key, str)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What has been said; what has not has a value that will do in a job file."""

    jobs: Path  # the job directory
    name: str = "job"
    include: tuple[str, ...] = ()
    place: Bucket | str | None = None  # a str: a directory
    schedule: str = "manual"

    @property
    def path(self) -> Path:
        """Where the job file is to be."""
        return self.jobs / f"{self.name}.yaml"

    def with_include(self, text: str) -> Draft:
        """Return it with one more directory or file, which must be there. Raises AnswerError."""
        path = os.path.abspath(os.path.expanduser(_require(text)))
        try:
            os.stat(path)
        except OSError as error:
            raise AnswerError(f"cannot include {path}: {(error.strerror or '').lower()}") from error
        return self._tried(replace(self, include=(*self.include, path)))

    def with_name(self, text: str) -> Draft:
        """Return it with a name that no job has yet. Raises AnswerError."""
        if "/" in text:  # it would lead out of the job directory
            raise AnswerError("expected a job's name, without a path")
        from storeletd.jobfile import SUFFIXES

        named = self._tried(replace(self, name=_require(text)))
        for suffix in SUFFIXES:
            path = self.jobs / f"{named.name}{suffix}"
            if os.path.lexists(path):
                raise AnswerError(f"there is a job {named.name} already: {path}")
        return named

    def with_place(self, place: Bucket | str) -> Draft:
        """Return it with where it saves to. Raises AnswerError."""
        if isinstance(place, str):
            place = os.path.abspath(os.path.expanduser(_require(place)))
        return self._tried(replace(self, place=place))

    def with_schedule(self, text: str) -> Draft:
        """Return it with its schedule. Raises AnswerError."""
        return self._tried(replace(self, schedule=_require(text)))

    def job(self) -> Job:
        """Return the job that it is, keys in it as they were typed. Raises AnswerError."""
        from storeletd.jobfile import parse_job
        from storeletd.jobs import JobFileError

        try:
            return parse_job(self.path, self.text({}).encode())
        except JobFileError as error:
            problem = error.problems[0]
            raise AnswerError(problem.message, problem.hint) from None
        except UnicodeEncodeError:
            raise AnswerError("expected text that UTF-8 can hold") from None

    def text(self, files: Mapping[str, Path]) -> str:
        """Return the job file; `files` are those that hold the keys that were typed.

        Without them the keys are in it themselves, and it is to be written nowhere.
        """
        lines = [f"schedule: {json.dumps(self.schedule, ensure_ascii=False)}", "include:"]
        for path in self.include or ("/",):
            lines += _describe_source(path)
        lines += ["save:", *self._describe_place(files)]
        return _HEAD + "\n".join(lines) + "\n" + _TAIL

    def _describe_place(self, files: Mapping[str, Path]) -> list[str]:
        if not isinstance(self.place, Bucket):
            return [f"  - directory: {_quote(self.place or '/')}"]
        lines = [f"  - s3: {_quote(self.place.name)}"]
        for name in ("prefix", "endpoint_url", "region_name"):
            if value := getattr(self.place, name):
                lines.append(f"    {name}: {_quote(value)}")
        for name in KEYS:
            key = getattr(self.place, name)
            if name in files:
                key = {"file": str(files[name])}
            if isinstance(key, str):
                lines.append(f"    {name}: {json.dumps(key, ensure_ascii=False)}")
            elif key is not None:
                ((kind, where),) = key.items()
                lines.append(f"    {name}: {{{kind}: {_quote(where)}}}")
        return lines

    def _tried(self, draft: Draft) -> Draft:
        draft.job()
        return draft


def read_bucket(text: str) -> Bucket | None:
    """Read s3://BUCKET/PREFIX; None: it is the path of a directory. Raises AnswerError."""
    if not text.startswith("s3://"):
        if "://" in text:
            raise AnswerError("expected s3://BUCKET/PREFIX or the path of a directory")
        return None
    name, _, prefix = text.removeprefix("s3://").partition("/")
    if not name:
        raise AnswerError("expected s3://BUCKET/PREFIX: the name of the bucket is missing")
    # A prefix is text before the name; who writes a path means a directory.
    return Bucket(name=name, prefix=os.path.join(prefix, "") if prefix else "")


def read_key(text: str) -> Key:
    """Read where a key is to be found. Raises AnswerError, without the text: it may be the key."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise AnswerError(
            "expected env:NAME, file:PATH or credential:NAME",
            "a key itself has no place on a command line, where others see it",
        )
    kind, where = found.groups()
    return {kind: os.path.abspath(where) if kind == "file" else where}


def _require(text: str) -> str:
    if not text.strip():
        raise AnswerError("expected something")
    return text


def _describe_source(path: str) -> Sequence[str]:
    """Return the lines for a source; in the archive it keeps its whole path."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        return [f"  - file: {_quote(path)}", f"    name: {_quote(path.lstrip('/'))}"]
    lines = [f"  - directory: {_quote(path)}", "    preserve_paths: true"]
    if path == "/":
        return [*lines, "    one_file_system: true  # without /proc, /dev and the like"]
    return [*lines, '    #exclude: ["*.tmp", "cache/"]']


def _quote(text: str) -> str:
    """Write a text as YAML reads it; what JSON reads so, YAML does, too."""
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=False)
