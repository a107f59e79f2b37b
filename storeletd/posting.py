"""Posting: letters are sent by a worker, to each URL of a job's `notify`, by Apprise."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import apprise

import storelet
from storeletd import secrets
from storeletd.jobs import Job
from storeletd.troubles import Letter

__all__ = ["post_letters"]

_log = logging.getLogger("storeletd.posting")


class NotSentError(storelet.StoreletError):
    """Nobody could be told."""

    is_temporary = True


def post_letters(job: Job, letters: Iterable[Letter]) -> None:
    """Send letters to every URL. Raises StoreletError where one of them reached nobody."""
    assert job.settings.notify is not None  # noqa: S101 - else nobody is to be told
    services = []
    for number, url in enumerate(job.settings.notify.urls):
        service = apprise.Apprise.instantiate(secrets.resolve(url), suppress_exceptions=True)
        if service is None:
            _log.error("notify.urls[%d] is no URL that Apprise knows", number)
        else:
            services.append(service)
    for letter in letters:
        kind = "success" if letter.word == "recovered" else "failure"
        sent = [
            service.notify(title=letter.title, body=letter.body, notify_type=kind)
            for service in services
        ]
        if not any(sent):
            raise NotSentError(f"no service took {letter.title}")
