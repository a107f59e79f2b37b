"""What ARCHIVE and JOB|URL mean: archives, reached as the caller, with no daemon needed.

    s3://bucket/prefix/NAME.zip, file:///path, a path      that archive
    NAME_YYYYMMDDhhmmss.zip                                one of job NAME, wherever it saves to
    JOB, JOB@latest                                        the newest one of a job
    JOB@2026-11-20, JOB@2026-11-20T12:00                   the newest one begun not after it

A job is known by its file, in the job directory or where the daemon has it; what is called like
one in the current directory is meant by `./NAME`. Where it is a Python module, which alone knows
where it saves, the daemon is asked where its archives are. Secrets that are credentials of the
service are taken from where systemd has them. An archive that is named by path or URL is reached
with the keys and the password of its job, too.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import JOBS, jobs_option
from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import describe_place
from storeletd.ctl.invocation import Invocation, pass_invocation
from storeletd.ctl.keys import find_credentials, find_options_of, read_password
from storeletd.ctl.moments import ARCHIVE_FILE, find_until

if TYPE_CHECKING:
    import storelet
    from storeletd.jobs import Job

__all__ = ["Reach", "find_unfitting", "reaching", "translating"]

_USAGE = 2
_NO_SUCH = 4
_KEYS_SET = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE")  # who sets one has other keys in mind
_KEYS = {"access_key", "secret_key", "aws_session_token"}
_LOOK_BACK = 50  # runs of a Python module, among which one has saved something
_MISSING = "check the name, whether it is mounted, and --endpoint-url"  # it is not to be made
_BUCKET = re.compile(r"s3://[^/]+")


def reaching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options that say where archives are, and first of all a `Reach`."""

    @jobs_option
    @click.option(
        "--endpoint-url", metavar="URL", help="Where the store of an s3:// URL is, if not Amazon's."
    )
    @click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Password of encrypted archives; else the job's, or $STORELET_PASSWORD.",
    )
    @pass_invocation
    def reached(
        invocation: Invocation,
        /,
        directory: Path,
        endpoint_url: str | None,
        password_file: Path | None,
        **more: Any,
    ) -> Any:
        reach = Reach(
            invocation=invocation,
            jobs=directory,
            endpoint_url=endpoint_url,
            password=read_password(password_file),
            is_silent=bool(more.get("as_json")),
        )
        return command(reach, **more)

    reached.__doc__, reached.__name__ = command.__doc__, command.__name__
    return reached


@contextmanager
def translating() -> Iterator[None]:
    """Raise the library's errors as CommandError; what it logs, the verbs say in their words."""
    import logging

    import storelet

    for name in ("storelet", "storeletd"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        yield
    except storelet.StoreletError as error:
        is_missing = isinstance(error, storelet.DestinationMissingError)
        hint = _MISSING if is_missing else error.hint
        raise CommandError(error.message, hint=hint, exit_code=error.exit_code) from error


def find_unfitting(archive: storelet.OpenedArchive, patterns: Sequence[str]) -> list[str]:
    """Return those of several patterns that no member fits; mistyped, they go unseen in others."""
    if len(patterns) < 2:
        return []
    with translating():
        return [
            pattern
            for pattern in patterns
            if not pattern.startswith("!") and next(archive.members([pattern]), None) is None
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What an archive is looked for with. Methods raise CommandError."""

    invocation: Invocation
    jobs: Path  # the job directory
    endpoint_url: str | None
    password: str | None = field(repr=False)  # that was given; else a job's own is taken
    is_silent: bool  # makes no remarks, since nothing but JSON is to be written

    def is_with_daemon(self, text: str) -> bool:
        """Tell whether it is a job of the daemon's, in words that mean nothing else.

        A Python module's archives are not known to the daemon well enough to read them.
        """
        is_job = not (re.search("[/@]", text) or os.path.exists(text))
        if not is_job or self.endpoint_url or self.password is not None:
            return False
        try:
            return self.invocation.client().job(text)["language"] == "yaml"
        except CommandError:  # then it is looked for without one
            return False

    def archive(self, text: str) -> storelet.OpenedArchive:
        """Return the archive that ARCHIVE means."""
        name, _, when = text.partition("@")
        with translating():
            if "://" in text or (os.path.exists(text) and self._find_file(name) is None):
                return self._open(text)
            named = ARCHIVE_FILE.fullmatch(text.rpartition("/")[2])
            if named is not None and self._find_file(named[1]) is not None:
                return self._by_file_name(named[0], named[1], text)
            if self._find_file(name) is None:
                raise self._no_such(text)
            found = self._of_job(name)
            if not found:
                hint = f"storeletctl history {shlex.quote(name)}"
                message = f"job {name} has no archive yet"
                raise CommandError(message, hint=hint, exit_code=_NO_SUCH)
            found = self._leave_out_bad(found)
            if when in ("", "latest"):
                return found[-1]
            return find_until(found, when, name, self.command("archives", name))

    def archives(self, text: str, *, versions: bool = False) -> list[storelet.OpenedArchive]:
        """Return the archives that JOB|URL means, the oldest first, or the one ARCHIVE means."""
        import storelet

        with translating():
            if self._is_one(text):
                return [self.archive(text)]
            if "://" in text or "/" in text:
                how: Any = {**self._client_options(), "versions": versions}
                found = storelet.list_archives(text, **how)
                if not found and text.startswith("s3://") and not text.endswith("/"):
                    found = storelet.list_archives(f"{text}/", **how)
                return found
            return self._of_job(text, versions=versions)

    def places_below(self, text: str) -> list[str]:
        """Return the places below an s3:// URL, which is one that has no archives itself."""
        import storelet

        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if not text.startswith("s3://") or not bucket:
            return []
        prefix = os.path.join(prefix, "") if prefix else ""
        with translating():
            place = storelet.S3(bucket, prefix=prefix, **self._client_options())
            return [f"s3://{bucket}/{each}" for each in place.list_prefixes()]

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command line that reaches what this one does."""
        options = ["--jobs", str(self.jobs)] if str(self.jobs) != JOBS else []
        if self.endpoint_url:
            options += ["--endpoint-url", self.endpoint_url]
        if any(argument.startswith("-") for argument in arguments):
            return shlex.join(["storeletctl", verb, *options, "--", *arguments])
        return shlex.join(["storeletctl", verb, *arguments, *options])

    def nothing_found(
        self, text: str, archive: storelet.OpenedArchive, patterns: Sequence[str] = ()
    ) -> CommandError:
        """Return the error for patterns that no member fits of the archive that `text` named."""
        fits = f" fits {' '.join(patterns)}" if patterns else ""
        if not archive.problems:
            message = f"nothing in {archive.name}{fits}"
            return CommandError(message, hint=self.command("files", text), exit_code=_NO_SUCH)
        left = f"that is left of {archive.name}{fits}" if fits else f"is left of {archive.name}"
        hint = None
        if archive.backup is not None:
            names = (text.partition("@")[0], archive.backup)
            there = describe_place(archive.url).rpartition("/")[0] + "/"
            hint = self.command("archives", next(filter(self._find_file, names), there))
        return CommandError(f"nothing {left}: {archive.problems[0]}", hint=hint)

    def job(self, name: str) -> Job:
        """Return a job by its name; see `job_of`."""
        path = self._find_file(name)
        if path is None:
            raise self._no_such(name)
        return self.job_of(path)

    def job_of(self, path: Path) -> Job:
        """Return the job of a file, and set the environment that it gives.

        Credentials of the service can be resolved from then on.
        """
        from storeletd.destinations import set_environment
        from storeletd.jobfile import read_job
        from storeletd.jobs import JobFileError

        try:
            job = read_job(path)
        except JobFileError as error:
            raise CommandError(str(error), hint=error.hint, exit_code=78) from error
        find_credentials()
        set_environment(job)
        return job

    def job_named(self, text: str, archive: storelet.OpenedArchive) -> Job:
        """Return the job of an archive that `text` named."""
        name = text.partition("@")[0]
        if not self._find_file(name):
            if archive.backup is None:
                hint = "name it as it was, JOB_YYYYMMDDhhmmss.zip"
                message = f"nobody knows of which job {archive.name} is"
                raise CommandError(message, hint=hint, exit_code=_NO_SUCH)
            name = archive.backup
        return self.job(name)

    def _find_file(self, name: str) -> Path | None:
        """Return the file of a job; None where there is none of that name."""
        if "/" in name:
            return None
        from storeletd.jobfile import SUFFIXES

        paths = (self.jobs / f"{name}{suffix}" for suffix in SUFFIXES)
        return next((path for path in paths if path.exists()), None) or self._ask_for_file(name)

    def _ask_for_file(self, name: str) -> Path | None:
        """Return where the daemon has a job's file, unless somebody says where job files are."""
        path = None
        if str(self.jobs) == JOBS:
            with suppress(CommandError):
                path = Path(self.invocation.client().job(name)["path"])
        return path if path and path.exists() else None

    def _is_one(self, text: str) -> bool:
        """Tell whether an archive is meant, where a job or a place may be."""
        if "@" in text and "/" not in text:
            return self._find_file(text.partition("@")[0]) is not None
        return text.endswith(".zip") and self._find_file(text) is None

    def _no_such(self, text: str) -> CommandError:
        hint = f"jobs are files in {self.jobs}; an archive may also be a path or an s3:// URL"
        return CommandError(f"no such job or archive: {text}", hint=hint, exit_code=_NO_SUCH)

    def _open(self, text: str) -> storelet.OpenedArchive:
        """Return the archive of a path or URL; its job, if that is at hand, has keys and password.

        Keys that the environment gives come first: those of a job may be for writing alone.
        """
        import storelet

        if os.path.isdir(text) or text.endswith("/") or _BUCKET.fullmatch(text):
            hint = self.command("archives", os.path.join(text, ""))
            raise CommandError(
                f"{text} is a place for archives, not an archive", hint=hint, exit_code=_USAGE
            )
        options, password = self._client_options(), self.password
        has_keys = any(name in os.environ for name in _KEYS_SET)
        job = self._job_of(text)
        if job is not None:
            password = self._password_of(job)
            if not options:
                options = find_options_of(job, text)
            if has_keys:
                options = {name: options[name] for name in options.keys() - _KEYS}
        return storelet.open_archive(text, password=password, **options)

    def _job_of(self, text: str) -> Job | None:
        """Return the job that an archive is named after, if its file is at hand and readable."""
        named = ARCHIVE_FILE.match(text.rpartition("/")[2])
        if named is None or self._find_file(named[1]) is None:
            return None
        with suppress(CommandError):
            return self.job(named[1])
        return None

    def _leave_out_bad(
        self, archives: list[storelet.OpenedArchive]
    ) -> list[storelet.OpenedArchive]:
        """Return the archives that are not marked as bad, or all where they all are."""
        for each in archives:
            if each.is_bad and not self.is_silent:
                console.print_remark(f"{each.name} is marked bad: it has failed a verification")
        return [each for each in archives if not each.is_bad] or archives

    def _password_of(self, job: Job) -> str | None:
        """Return the password of a job's archives, where it is to be had; few verbs need one."""
        import storelet
        from storeletd.destinations import resolve_password

        if self.password is not None:
            return self.password
        try:
            return resolve_password(job.settings)
        except storelet.CredentialsError:
            return None

    def _client_options(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint_url} if self.endpoint_url else {}

    def _by_file_name(self, file: str, name: str, text: str) -> storelet.OpenedArchive:
        for archive in self._of_job(name):
            if archive.name == file and archive.url.endswith(text):
                return archive
        hint = self.command("archives", name)
        raise CommandError(f"no such archive: {text}", hint=hint, exit_code=_NO_SUCH)

    def _of_job(self, name: str, *, versions: bool = False) -> list[storelet.OpenedArchive]:
        import storelet

        job = self.job(name)
        password = self._password_of(job)
        how: Any = {**self._client_options(), "password": password, "versions": versions}
        found: list[storelet.OpenedArchive] = []
        failures: list[storelet.StoreletError] = []
        for place, backup in self._places(job):
            try:
                found += storelet.list_archives(place, backup, **how)
            except storelet.StoreletError as error:  # the others may have what is looked for
                failures.append(error)
        if failures and not found:
            raise failures[0]
        self._pass_over(failures)
        return sorted(found, key=lambda archive: (archive.modified, archive.name))

    def _places(self, job: Job) -> Sequence[tuple[Any, str]]:
        """Return where a job saves, and what its archives are named after."""
        from storeletd.destinations import make_destinations

        if job.language == "python":
            return self._places_of_runs(job.name)
        destinations, failures = make_destinations(job)
        if failures and not destinations:
            raise failures[0]
        self._pass_over(failures)
        return [(each, job.name) for each in destinations]

    def _pass_over(self, failures: Sequence[storelet.StoreletError]) -> None:
        """Say which places were not looked at."""
        if not self.is_silent:
            for failure in failures:
                console.print_remark(f"Not looked at: {failure}")

    def _places_of_runs(self, name: str) -> Sequence[tuple[str, str]]:
        """Return where the runs of a job have saved, as the daemon remembers it."""
        runs = self.invocation.client().runs(job=name, limit=_LOOK_BACK)
        places: dict[tuple[str, str], None] = {}
        for archive in (archive for run in runs for archive in run["archives"]):
            place, _, file = archive["url"].rpartition("/")
            named = ARCHIVE_FILE.fullmatch(file)
            if named is not None:
                places[f"{place}/", named[1]] = None
        if not places:
            raise CommandError(
                f"where job {name} saves is known to its code alone, and it has saved nothing yet",
                hint="give the archive's path or s3:// URL",
                exit_code=_NO_SUCH,
            )
        return list(places)
