"""The verb init: a first job file, by asking or by options. It needs no daemon.

1. what was not given by options is asked for, on a terminal only;
2. the place is tried as soon as it is known; what is wrong can be answered again;
3. all files are written at the end, together: keys that were typed in files of their own, then the
   job. Until then nothing is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import JOBS, jobs_option
from storeletd.ctl.console import CommandError
from storeletd.ctl.deposit import write_together
from storeletd.ctl.draft import AnswerError, Bucket, Draft, read_bucket, read_key
from storeletd.ctl.findings import (
    describe_finding,
    exit_code_of,
    print_finding,
    say_whose_rights,
)
from storeletd.ctl.formats import escape
from storeletd.ctl.invocation import Invocation, json_option, pass_invocation
from storeletd.ctl.keys import find_credentials
from storeletd.ctl.reach import translating

if TYPE_CHECKING:
    import storelet

__all__ = ["init"]

_USAGE = 2
_DENIED = 77
_INTERRUPTED = 130
_INVALID = 78
_KEYS_DIRECTORY = "keys"  # in the job directory, where subdirectories are passed over


@click.command()
@click.argument("name", required=False)
@click.option("--include", multiple=True, metavar="PATH", help="What to back up; may be repeated.")
@click.option("--to", metavar="PLACE", help="Where to: s3://BUCKET/PREFIX/ or a directory.")
@click.option("--endpoint-url", metavar="URL", help="Where the store is, if not Amazon's.")
@click.option("--region", metavar="NAME", help="Region of the bucket.")
@click.option("--access-key", metavar="REF", help="env:NAME, file:PATH or credential:NAME.")
@click.option("--secret-key", metavar="REF", help="Likewise; a key itself is refused.")
@click.option("--schedule", metavar="TEXT", help='When: "02:30", "30 2 * * *", manual, …')
@jobs_option
@json_option
@pass_invocation
def init(invocation: Invocation, /, directory: Path, as_json: bool, **given: Any) -> None:
    """Write a first job file, by asking.

    What the options say is not asked for. Where it is to save is tried at once. Nothing is ever
    overwritten, nothing written before the end, and no key shown. Prints the least that the key
    must be allowed. Where there is no terminal nothing is asked: then --include, --to and
    --schedule are needed.
    """
    try:
        _make_job(invocation, directory, _Options(**given), as_json=as_json)
    except (click.Abort, KeyboardInterrupt) as error:
        console.print_line()
        message = "interrupted; nothing was written"
        raise CommandError(message, exit_code=_INTERRUPTED) from error


def _make_job(invocation: Invocation, directory: Path, options: _Options, *, as_json: bool) -> None:
    asks = sys.stdin.isatty() and console.is_terminal() and not as_json
    draft = _take_options(Draft(jobs=_check_directory(directory)), options)
    if asks:
        if options.missing:
            console.print_remark("^C ends this, and leaves everything as it is.")
        draft = _ask_for_rest(draft, options)
    elif options.missing:
        raise CommandError(
            f"there is no terminal to ask on, and {' and '.join(options.missing)} not given",
            hint="storeletctl init --help",
            exit_code=_USAGE,
        )
    draft, findings = _try_place(draft, asks=asks and options.to is None, is_silent=as_json)
    if asks and options.schedule is None:
        from storeletd.ctl.questions import ask_schedule

        draft = ask_schedule(draft)
    _finish(invocation, draft, findings, as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What was given on the command line."""

    name: str | None
    include: Sequence[str]
    to: str | None
    endpoint_url: str | None
    region: str | None
    access_key: str | None
    secret_key: str | None
    schedule: str | None

    @property
    def missing(self) -> list[str]:
        """The options that must be asked for."""
        needed = {"--include": self.include, "--to": self.to, "--schedule": self.schedule}
        return [option for option, value in needed.items() if not value]


def _check_directory(directory: Path) -> Path:
    """Return the job directory, if a job file in it can be written and will be trusted."""
    from storeletd.trust import DistrustedError, open_trusted

    directory = Path(os.path.abspath(directory))
    there = directory if directory.exists() else directory.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise CommandError(
            f"cannot write to {there}, where job files are",
            hint="sudo storeletctl init; or --jobs DIR, where a daemon of your own has its jobs",
            exit_code=_DENIED,
        )
    try:
        with open_trusted(str(there), there.stat().st_uid):
            return directory
    except DistrustedError as error:
        message = f"the daemon would refuse job files there: {error}"
        raise CommandError(message, hint=error.distrust.hint, exit_code=_INVALID) from error


def _take_options(draft: Draft, options: _Options) -> Draft:
    """Return the draft with what was given. Raises CommandError."""
    option = "--include"
    try:
        for path in options.include:
            draft = draft.with_include(path)
        option = "NAME"
        if options.name is not None:
            draft = draft.with_name(options.name)
        option = "--schedule"
        if options.schedule is not None:
            draft = draft.with_schedule(options.schedule)
        option = "--to"
        if options.to is not None:
            bucket = read_bucket(options.to)
            draft = draft.with_place(options.to if bucket is None else bucket)
    except AnswerError as error:
        raise CommandError(
            f"{option}: {error.message}", hint=error.hint, exit_code=_USAGE
        ) from error
    return _take_bucket_options(draft, options)


def _take_bucket_options(draft: Draft, options: _Options) -> Draft:
    given = {
        "--endpoint-url": options.endpoint_url,
        "--region": options.region,
        "--access-key": options.access_key,
        "--secret-key": options.secret_key,
    }
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return draft
    if not isinstance(draft.place, Bucket):
        raise CommandError(f"{names[0]} goes with --to s3://…", exit_code=_USAGE)
    option = "--access-key"
    try:
        access = None if options.access_key is None else read_key(options.access_key)
        option = "--secret-key"
        secret = None if options.secret_key is None else read_key(options.secret_key)
        option = " and ".join(names)
        bucket = replace(
            draft.place,
            endpoint_url=options.endpoint_url,
            region_name=options.region,
            access_key=access,
            secret_key=secret,
        )
        return draft.with_place(bucket)
    except AnswerError as error:
        raise CommandError(
            f"{option}: {error.message}", hint=error.hint, exit_code=_USAGE
        ) from error


def _ask_for_rest(draft: Draft, options: _Options) -> Draft:
    from storeletd.ctl.questions import ask_include, ask_name, ask_place

    if not options.include:
        draft = ask_include(draft)
    if options.name is None:
        draft = ask_name(draft)
    if options.to is None:
        draft = ask_place(draft)
    return draft


def _try_place(
    draft: Draft, *, asks: bool, is_silent: bool
) -> tuple[Draft, list[storelet.Finding]]:
    """Try where the draft saves to, and ask again where it will not do.

    Raises CommandError where nobody can be asked, or wants to be.
    """
    while True:
        findings = _look_at_place(draft, is_silent=is_silent)
        if not any(each.state == "failed" for each in findings):
            return draft, findings
        answer = "stop"
        if asks:
            from storeletd.ctl.questions import ask_place, ask_what_now

            answer = ask_what_now()
        if answer == "write":
            return draft, findings
        if answer == "stop":
            failed = next(each for each in findings if each.state == "failed")
            code = exit_code_of(findings)
            raise CommandError(
                f"nothing was written: {failed.message}", hint=failed.hint, exit_code=code
            )
        draft = ask_place(draft)


def _look_at_place(draft: Draft, *, is_silent: bool) -> list[storelet.Finding]:
    from storeletd.checkup import check_places

    find_credentials()
    findings = []
    with translating():
        for _, finding in check_places(draft.job(), quick=True):
            findings.append(finding)
            if not is_silent:
                print_finding(finding)
    return findings


def _finish(
    invocation: Invocation, draft: Draft, findings: Sequence[storelet.Finding], *, as_json: bool
) -> None:
    """Write the files, and say what there is now and what to do next."""
    from storeletd.checkup import least_policy

    with translating():
        policy = least_policy(draft.job())
    files = _write(draft)
    steps = _find_next_steps(invocation, draft)
    if as_json:
        console.print_json(
            {
                "job": draft.name,
                "path": str(draft.path),
                "keys": [str(path) for path in files],
                "findings": [describe_finding(each) for each in findings],
                "policy": policy,
                "next": [command for command, _ in steps],
            }
        )
        return
    console.print_line(f"Wrote {escape(str(draft.path))}")
    for path in files:
        console.print_line(f"Wrote {escape(str(path))}, which only its owner can read")
    if policy is not None:
        console.print_line("\nThe least that the key must be allowed, as an IAM policy:\n")
        console.print_line(json.dumps(policy, indent=2))
    console.print_line("\nNext:")
    width = max(len(command) for command, _ in steps)
    console.print_all(f"  {escape(command):{width}}  {meaning}" for command, meaning in steps)
    say_whose_rights(invocation)


def _write(draft: Draft) -> list[Path]:
    """Write the job and its keys; return the files of keys. Raises CommandError."""
    typed = draft.place.typed if isinstance(draft.place, Bucket) else {}
    keys = draft.jobs / _KEYS_DIRECTORY
    files = {name: keys / f"{draft.name}-{name.replace('_', '-')}" for name in typed}
    texts = [(files[name], f"{key}\n") for name, key in typed.items()]
    try:
        write_together(draft.jobs, [*texts, (draft.path, draft.text(files))])
    except FileExistsError as error:
        there = error.filename2 or error.filename
        raise CommandError(f"{there} is there already; nothing was written") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(f"cannot write {error.filename}: {reason}") from error
    return list(files.values())


def _find_next_steps(invocation: Invocation, draft: Draft) -> list[tuple[str, str]]:
    jobs = f" --jobs {draft.jobs}" if str(draft.jobs) != JOBS else ""
    steps = [(f"storeletctl doctor {draft.name}{jobs}", "look at all that could go wrong")]
    try:
        invocation.client().health()
    except CommandError as error:
        if error.exit_code != _DENIED:
            once = (f"storeletctl run {draft.path}", "back up now, without the daemon")
            return [once, *steps, ("systemctl enable --now storeletd", "start the daemon")]
    return [(f"storeletctl run-now {draft.name}", "back up now"), *steps]
