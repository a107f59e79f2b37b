"""Pings: the URL of a job's `healthchecks` hears of each backup, by the API of healthchecks.io.

`URL/start` when it begins, `URL` when it was a success, `URL/fail` with the last lines of its log
when it went wrong; `rid` tells which belong together. Of a run that is skipped, cancelled or lost
it hears no end: it is there to notice that no success comes.
"""

from __future__ import annotations

import http.client
import socket
import time
import uuid
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import storelet
from storeletd import secrets
from storeletd.jobs import Job
from storeletd.order import Summary

__all__ = ["ping_end", "ping_start"]

_SECONDS = 10.0  # for each attempt
_WAITS = (0.0, 1.0, 2.0)  # seconds before each; all of it fits into a hurried aftermath
_BODY_BYTES = 10_000
_ENDINGS = {"success": "", "failed": "/fail", "partial": "/fail", "timeout": "/fail"}


def ping_start(job: Job, summary: Summary) -> str | None:
    """Say that a backup begins, once: it must not wait long; return why nobody heard it."""
    return _ping(job, summary, "/start", attempts=1)


def ping_end(job: Job, summary: Summary) -> str | None:
    """Say how a backup has ended; return why nobody heard it."""
    if summary.outcome not in _ENDINGS:
        return None
    body = b"" if summary.outcome == "success" else _write_body(summary)
    return _ping(job, summary, _ENDINGS[summary.outcome], body)


def _ping(
    job: Job, summary: Summary, what: str, body: bytes = b"", attempts: int = len(_WAITS)
) -> str | None:
    if job.settings.healthchecks is None or summary.kind != "backup":
        return None
    try:
        url = secrets.resolve(job.settings.healthchecks).rstrip("/")
    except storelet.StoreletError as error:
        return f"healthchecks: {error.message}"
    if not url.startswith(("http://", "https://")):
        return "healthchecks: expected a URL that begins with http:// or https://"
    name = f"{socket.gethostname()}/{job.name}/{summary.run_id}"
    rid = uuid.uuid5(uuid.NAMESPACE_URL, name)
    why: str | None = None
    for wait in _WAITS[:attempts]:
        time.sleep(wait)
        why, may_pass = _post(f"{url}{what}?rid={rid}", body)
        if not may_pass:
            break
    return why and f"healthchecks: not told of {what.lstrip('/') or 'success'}: {why}"


def _post(url: str, body: bytes) -> tuple[str | None, bool]:
    """Post once; return why it was not taken, never with the URL, and whether that may pass."""
    try:
        request = Request(url, body, {"Content-Type": "text/plain; charset=utf-8"})  # noqa: S310
        with urlopen(request, timeout=_SECONDS):  # noqa: S310 - it is http, as was looked at
            return None, False
    except HTTPError as error:
        return f"the answer is {error.code}", error.code >= 500
    except URLError as error:
        return str(error.reason), True
    except OSError as error:
        return error.strerror or str(error), True
    except (ValueError, http.client.HTTPException):
        return "it is no URL, or no answer of HTTP", False


def _write_body(summary: Summary) -> bytes:
    head = f"{summary.outcome}: {summary.message}\n\n".encode(errors="replace")[: _BODY_BYTES // 2]
    body = head + summary.log.encode(errors="replace")[-(_BODY_BYTES - len(head)) :]
    return body.decode(errors="ignore").encode()  # what was cut through is left out
