"""The questions that `init` asks on a terminal: each until its answer will do.

Paths are completed by Tab; keys are read without being shown.
"""

from __future__ import annotations

import os
import re
import readline
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import click

from storeletd.ctl import console
from storeletd.ctl.draft import AnswerError, Bucket, Draft, read_bucket
from storeletd.ctl.formats import describe_time, escape

__all__ = ["ask_include", "ask_name", "ask_place", "ask_schedule", "ask_what_now"]

_USUAL_SCHEDULE = "02:30"
_CHOICES = ("again", "write", "stop")


def ask_include(draft: Draft) -> Draft:
    """Ask what to back up, until there is no more."""
    while True:
        more = bool(draft.include)
        question = "One more (Enter: no more)" if more else "Directory or file to back up"
        text = _ask(question, may_be_empty=more, paths=True)
        if not text:
            return draft
        try:
            draft = draft.with_include(text)
        except AnswerError as error:
            _say(error)


def ask_name(draft: Draft) -> Draft:
    """Ask for the name of the job."""
    base = os.path.basename(draft.include[0]) or socket.gethostname()
    usual = re.sub("[^A-Za-z0-9._-]+", "-", base).strip("-.")
    try:
        draft.with_name(usual)
    except AnswerError:  # it is taken, say
        usual = ""
    return _ask_until("Name of the job", draft.with_name, usual=usual)


def ask_place(draft: Draft) -> Draft:
    """Ask where to save to; what was said before is the usual answer."""
    before = draft.place
    usual = before if isinstance(before, str) else ""
    if isinstance(before, Bucket):
        usual = f"s3://{before.name}/{before.prefix}"

    def read(text: str) -> Draft:
        bucket = read_bucket(text)
        return draft.with_place(text if bucket is None else bucket)

    question = "Where to, s3://BUCKET/PREFIX/ or a directory"
    draft = _ask_until(question, read, usual=usual, paths=True)
    if isinstance(draft.place, Bucket):
        known = before if isinstance(before, Bucket) else Bucket(name="")
        return _ask_bucket(draft, draft.place, known)
    return draft


def ask_schedule(draft: Draft) -> Draft:
    """Ask when the job is due, and say what the answer means."""
    question = 'When (as in "Mon..Fri 02:30", "30 2 * * *", "every 6h", manual)'
    draft = _ask_until(question, draft.with_schedule, usual=_USUAL_SCHEDULE)
    from storeletd.schedule import local_timezone, next_due

    due = next_due(draft.job().settings.schedule, local_timezone(), datetime.now(UTC))
    if due is not None:
        console.print_remark(f"  next {describe_time(due, exact=True)}")
    return draft


def ask_what_now() -> str:
    """Ask what to do about a place that will not do: `again`, `write` or `stop`."""
    question = "Answer again, write the job all the same, or stop (again, write, stop)"
    answer: str = click.prompt(question, "again", type=click.Choice(_CHOICES), show_choices=False)
    return answer


def _ask_bucket(draft: Draft, bucket: Bucket, known: Bucket) -> Draft:
    """Ask what there is to ask of a bucket; `known` is what was said before."""

    def read_endpoint(text: str) -> Draft:
        if text and "://" not in text:
            text = f"https://{text}"
        return draft.with_place(replace(bucket, endpoint_url=text or None))

    question = "URL of the store (Enter: Amazon S3)"
    draft = _ask_until(question, read_endpoint, usual=known.endpoint_url or "", may_be_empty=True)
    region = _ask("Region (Enter: boto3 knows)", usual=known.region_name or "", may_be_empty=True)
    assert isinstance(draft.place, Bucket)  # noqa: S101 - it was made just now
    bucket = replace(draft.place, region_name=region or None)
    access = _ask_key("Access key (not shown; Enter: boto3 finds keys)", known.access_key)
    if access is None:
        return draft.with_place(bucket)
    secret = None
    while secret is None:
        secret = _ask_key("Secret key (not shown)", known.secret_key)
    return draft.with_place(replace(bucket, access_key=access, secret_key=secret))


def _ask_key(question: str, known: object) -> str | None:
    """Ask for a key without showing it; Enter is for the one that was said before."""
    is_known = isinstance(known, str)
    if is_known:
        question = re.sub(r"\(.*\)", "(not shown; Enter: as before)", question)
    text = click.prompt(question, "", hide_input=True, show_default=False).strip()
    return text or (known if isinstance(known, str) else None)


def _ask_until(
    question: str,
    read: Callable[[str], Draft],
    *,
    usual: str = "",
    may_be_empty: bool = False,
    paths: bool = False,
) -> Draft:
    """Ask until `read` takes the answer."""
    while True:
        text = _ask(question, usual=usual, may_be_empty=may_be_empty, paths=paths)
        try:
            return read(text)
        except AnswerError as error:
            _say(error)


def _ask(question: str, *, usual: str = "", may_be_empty: bool = False, paths: bool = False) -> str:
    """Ask once; Tab completes paths where they are meant."""
    readline.set_completer_delims("\n")
    readline.parse_and_bind(f"tab: {'complete' if paths else 'tab-insert'}")
    default = usual if usual or may_be_empty else None
    answer: str = click.prompt(question, default, show_default=bool(usual))
    return answer.strip()


def _say(error: AnswerError) -> None:
    console.print_remark(f"  {escape(error.message)}")
    if error.hint:
        console.print_remark(f"  Try: {escape(error.hint)}")
