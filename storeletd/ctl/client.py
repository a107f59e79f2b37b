"""HTTP on the control socket: one method for each route, answers as `replies` has them.

Every failure is a CommandError with an exit code: 69 when the daemon cannot be reached or goes
away, 77 when its socket may not be opened, else what the daemon answers. Server-sent events are
read by hand: three fields of a format of four need no library.
"""

from __future__ import annotations

import difflib
import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast
from urllib.parse import quote, urlencode

from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import describe_problem
from storeletd.ctl.replies import Health, Job, JobDetails, Jobs, Reload, Run, RunDetails

__all__ = ["BrokenJobError", "Client", "ServerEvent", "parse_events"]

_NO_SUCH_JOB = 4
_NOT_REACHABLE = 69
_NOT_PERMITTED = 77
_INVALID = 78

_ANSWER_SECONDS = 60.0  # a reload of a thousand job files answers within a few
_SILENCE_SECONDS = 60.0  # the daemon sends a comment line every 15 s


class BrokenJobError(CommandError):
    """The job's file is broken and no older version of it is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One event of a run's stream."""

    name: str  # state, progress, log, finished
    data: Any  # the JSON that came with it


class Client:
    """Speaks to the daemon; holds nothing open between calls."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path

    def health(self) -> Health:
        """Return the state of the daemon itself."""
        return cast(Health, self._ask("GET", "/health"))

    def jobs(self) -> Jobs:
        """Return all jobs, without their runs, and problems."""
        return cast(Jobs, self._ask("GET", "/jobs"))

    def job(self, name: str) -> JobDetails:
        """Return a job with its settings and last runs."""
        return cast(JobDetails, self._ask_for_job(name, "GET", f"/jobs/{_quote(name)}"))

    def start_run(self, name: str) -> Run:
        """Start a run of a job and return it; exit code 11 if it is queued or running."""
        path = f"/jobs/{_quote(name)}/runs"
        return cast(Run, self._ask_for_job(name, "POST", path)["run"])

    def start_verification(self, name: str, sample: str) -> Run:
        """Likewise start a verification of a sample, such as 5%."""
        path, body = f"/jobs/{_quote(name)}/verify", {"sample": sample}
        return cast(Run, self._ask_for_job(name, "POST", path, body)["run"])

    def pause(self, name: str, until: str | None) -> Job:
        """Pause a job, and return it."""
        body = None if until is None else {"until": until}
        return cast(Job, self._ask_for_job(name, "POST", f"/jobs/{_quote(name)}/pause", body))

    def resume(self, name: str) -> Job:
        """End a job's pause, and return it."""
        return cast(Job, self._ask_for_job(name, "POST", f"/jobs/{_quote(name)}/resume"))

    def resume_prune(self, name: str) -> Job:
        """Let archives of a job be pruned again, and return it."""
        return cast(Job, self._ask_for_job(name, "POST", f"/jobs/{_quote(name)}/resume-prune"))

    def runs(self, job: str | None = None, *, limit: int) -> list[Run]:
        """Return the last runs of a job, or of all, newest first."""
        query = {"limit": limit} if job is None else {"job": job, "limit": limit}
        path = f"/runs?{urlencode(query, errors='surrogateescape')}"
        answer = self._ask("GET", path) if job is None else self._ask_for_job(job, "GET", path)
        return cast("list[Run]", answer["runs"])

    def run(self, run_id: int) -> RunDetails:
        """Return a run with its skipped entries and output."""
        return cast(RunDetails, self._ask("GET", f"/runs/{run_id}"))

    def cancel(self, run_id: int) -> Run:
        """Ask for the end of a run."""
        return cast(Run, self._ask("POST", f"/runs/{run_id}/cancel")["run"])

    def reload(self) -> Reload:
        """Let the daemon read the job directory now."""
        return cast(Reload, self._ask("POST", "/reload"))

    def events(self, run_id: int) -> Iterator[ServerEvent]:
        """Yield a run's events: those so far, then as they happen, until it is finished.

        Raises CommandError 69 when the stream breaks off before the event `finished`.
        """
        path = f"/runs/{run_id}/events"
        with self._open("GET", path, timeout=_SILENCE_SECONDS) as response:
            _check(response)
            try:
                for event in parse_events(response):
                    yield event
                    if event.name == "finished":
                        return
            except (OSError, ValueError, http.client.HTTPException):
                pass  # what follows says it
        raise CommandError(
            f"storeletd went away while run {run_id} was followed",
            hint=f"storeletctl history --run {run_id}, when it is back",
            exit_code=_NOT_REACHABLE,
        )

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        with self._open(method, path, body, timeout=_ANSWER_SECONDS) as response:
            _check(response)
            try:
                return json.load(response)
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error

    def _ask_for_job(self, name: str, method: str, path: str, body: object = None) -> Any:
        try:
            return self._ask(method, path, body)
        except CommandError as error:
            if error.exit_code != _NO_SUCH_JOB:
                raise
            raise self._missing_job(name) from None

    def _missing_job(self, name: str) -> CommandError:
        """Say why there is no such job: its file is broken, or it is called otherwise."""
        answer = self.jobs()
        problems = [
            each
            for each in answer["problems"]
            if PurePath(each["file"]).stem == name and not each["loaded"]
        ]
        if problems:
            first, *more = problems
            told = f" (and {len(more)} more)" if more else ""
            return BrokenJobError(
                f"job {name} is not loaded: {describe_problem(first)}{told}",
                hint=f"storeletctl validate {first['file']}" if more else first["hint"],
                exit_code=_INVALID,
            )
        near = difflib.get_close_matches(name, [job["name"] for job in answer["jobs"]], n=1)
        hint = f"{near[0]}, or storeletctl list" if near else "storeletctl list"
        return CommandError(f"no such job: {name}", hint=hint, exit_code=_NO_SUCH_JOB)

    @contextmanager
    def _open(
        self, method: str, path: str, body: object = None, *, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and hand out the begun answer."""
        with closing(_UnixConnection(self.socket_path, timeout)) as connection:
            try:
                text = None if body is None else json.dumps(body)
                connection.request(method, path, text, headers={"Connection": "close"})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            with response:
                yield response

    def _unreachable(self, error: Exception) -> CommandError:
        match error:
            case PermissionError():
                return CommandError(
                    f"{self.socket_path} may not be opened: permission denied",
                    hint="use sudo, or become a member of its group:"
                    " sudo usermod -aG storelet $USER, then log in again",
                    exit_code=_NOT_PERMITTED,
                )
            case FileNotFoundError():
                reason = "there is no such socket"
            case ConnectionRefusedError():
                reason = "nobody listens there"
            case TimeoutError():
                reason = "it does not answer"
            case _:
                reason = str(error) or type(error).__name__
        return CommandError(
            f"storeletd is not reachable at {self.socket_path}: {reason}",
            hint="systemctl status storeletd; without systemd:"
            f" storeletd --jobs DIR --state DIR --socket {self.socket_path}",
            exit_code=_NOT_REACHABLE,
        )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, socket_path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _quote(name: str) -> str:
    """Return a name as a part of a path, also one whose bytes are not UTF-8."""
    return quote(name, safe="", errors="surrogateescape")


def _check(response: http.client.HTTPResponse) -> None:
    """Raise the daemon's error, if the answer is one."""
    if response.status < 400:
        return
    try:
        answer = json.load(response)
        error = CommandError(answer["error"], hint=answer["hint"], exit_code=answer["exit_code"])
    except (ValueError, KeyError, TypeError):
        error = CommandError(f"storeletd answers {response.status} {response.reason}")
    if response.status == 404:  # also of a name with a slash, which is no route
        error.exit_code = _NO_SUCH_JOB
    raise error


def parse_events(lines: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Read server-sent events (WHATWG HTML, section 9.2) whose data is JSON.

    Comments and events without data are passed over, as the standard wants it. Raises
    ValueError when data is no JSON.
    """
    name, data = "message", list[bytes]()
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data.append(value)
        elif not line.strip():
            if data:
                yield ServerEvent(name=name, data=json.loads(b"\n".join(data)))
            name, data = "message", []
