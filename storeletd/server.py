"""HTTP on the control socket, for storeletctl: JSON both ways, one route a thing.

Errors are `{"error", "hint", "exit_code"}`, the last as storeletctl ends with. Times are ISO 8601
with offset. Who may connect is decided by the socket's owner, group and mode.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from storelet import StoreletError
from storeletd.answers import (
    NoSuchRunError,
    describe_job,
    describe_problems,
    find_run_whole,
)
from storeletd.daemon import Daemon, NoSuchJobError
from storeletd.exporter import get_metrics
from storeletd.intake import changing, read_json
from storeletd.listener import Listener
from storeletd.messages import describe_message, describe_run
from storeletd.run import Message
from storeletd.runner import AlreadyRunningError, NotRunningError
from storeletd.serving import HttpServer
from storeletd.values import read_part

__all__ = ["Server"]

_log = logging.getLogger("storeletd.server")

KEEP_ALIVE_SECONDS = 15  # a comment in an event stream, so that both ends notice a dead one
CHECK_SECONDS = 2  # between looks whether the socket is still in its place

_STATUS = {
    NoSuchJobError: 404,
    NoSuchRunError: 404,
    AlreadyRunningError: 409,
    NotRunningError: 409,
}


async def get_health(request: Request) -> Response:
    """Say that the daemon is there, and how it is."""
    daemon = _daemon(request)
    active = daemon.runner.active()
    return JSONResponse(
        {
            "status": "ok",
            "version": version("storelet"),
            "pid": os.getpid(),
            "started": daemon.started.astimezone().isoformat(timespec="seconds"),
            "jobs_directory": str(daemon.directory),
            "state_directory": str(daemon.history.path.parent),
            "jobs": len(daemon.jobs),
            "problems": len(daemon.problems),
            "running": sum(run.state == "running" for run in active),
            "queued": sum(run.state == "queued" for run in active),
        }
    )


async def get_jobs(request: Request) -> Response:
    """List the jobs, and what is wrong with their files."""
    daemon = _daemon(request)
    jobs = [describe_job(daemon, job) for job in daemon.jobs.values()]
    return JSONResponse({"jobs": jobs, "problems": describe_problems(daemon)})


async def get_job(request: Request) -> Response:
    """Show one job, its effective settings and its last runs."""
    daemon = _daemon(request)
    job = daemon.job(request.path_params["job"])
    problems = [each for each in describe_problems(daemon) if each["file"] == job.path]
    described = describe_job(daemon, job, runs=5)
    return JSONResponse({**described, "settings": job.describe(), "problems": problems})


async def post_job_run(request: Request) -> Response:
    """Start a run."""
    daemon = _daemon(request)
    run = daemon.runner.run_now(daemon.job(request.path_params["job"]))
    return JSONResponse({"run": describe_run(run)}, status_code=202)


async def post_job_verify(request: Request) -> Response:
    """Start a verification of a `sample`, such as 5%; left out, of what the job says."""
    daemon = _daemon(request)
    job = daemon.job(request.path_params["job"])
    if job.language != "yaml":
        raise HTTPException(400, f"where {job.name} saves is known to its code alone")
    sample = (await read_json(request)).get("sample")
    try:
        part = None if sample is None else read_part(sample)
    except ValueError as error:
        raise HTTPException(400, f"sample: {error}") from error
    run = daemon.runner.run_now(job, "verify", part)
    return JSONResponse({"run": describe_run(run)}, status_code=202)


async def post_job_pause(request: Request) -> Response:
    """Start no run that is due from now on; `until` ends that, in ISO 8601 with offset."""
    daemon = _daemon(request)
    job = daemon.job(request.path_params["job"])
    text = (await read_json(request)).get("until")
    daemon.pause(job, None if text is None else _future_time(text))
    return JSONResponse(describe_job(daemon, job))


async def post_job_resume(request: Request) -> Response:
    """End a pause."""
    daemon = _daemon(request)
    job = daemon.job(request.path_params["job"])
    daemon.resume(job)
    return JSONResponse(describe_job(daemon, job))


async def post_job_resume_prune(request: Request) -> Response:
    """Let archives be pruned again."""
    daemon = _daemon(request)
    job = daemon.job(request.path_params["job"])
    daemon.resume_prune(job)
    return JSONResponse(describe_job(daemon, job))


async def get_runs(request: Request) -> Response:
    """List runs, the newest first."""
    daemon = _daemon(request)
    job = request.query_params.get("job")
    limit = _number(request.query_params.get("limit", "50"), "limit")
    runs = daemon.history.runs(job=job, limit=limit)
    if job is not None and not runs:
        daemon.job(job)
    return JSONResponse({"runs": [describe_run(daemon.runner.find(r.id) or r) for r in runs]})


async def get_run(request: Request) -> Response:
    """Show one run."""
    daemon = _daemon(request)
    return JSONResponse(find_run_whole(daemon, _run_id(request)))


async def get_run_events(request: Request) -> Response:
    """Follow a run: server-sent events."""
    daemon = _daemon(request)
    run_id = _run_id(request)
    find_run_whole(daemon, run_id)
    messages = daemon.runner.follow(run_id)
    return StreamingResponse(_stream(messages), media_type="text/event-stream")


async def post_run_cancel(request: Request) -> Response:
    """End a run."""
    daemon = _daemon(request)
    run_id = _run_id(request)
    find_run_whole(daemon, run_id)
    run = daemon.runner.cancel(run_id, "cancelled by storeletctl")
    return JSONResponse({"run": describe_run(run)}, status_code=202)


async def post_reload(request: Request) -> Response:
    """Bring the jobs up to date with the job directory."""
    daemon = _daemon(request)
    change = await daemon.reload()
    return JSONResponse(
        {
            "added": change.added,
            "changed": change.changed,
            "removed": change.removed,
            "problems": describe_problems(daemon),
        }
    )


ROUTES = [
    Route("/health", get_health, methods=["GET"]),
    Route("/jobs", get_jobs, methods=["GET"]),
    Route("/jobs/{job}", get_job, methods=["GET"]),
    Route("/jobs/{job}/runs", changing("run-now", post_job_run), methods=["POST"]),
    Route("/jobs/{job}/verify", changing("verify", post_job_verify), methods=["POST"]),
    Route("/jobs/{job}/pause", changing("pause", post_job_pause), methods=["POST"]),
    Route("/jobs/{job}/resume", changing("resume", post_job_resume), methods=["POST"]),
    Route(
        "/jobs/{job}/resume-prune",
        changing("resume-prune", post_job_resume_prune),
        methods=["POST"],
    ),
    Route("/metrics", get_metrics, methods=["GET"]),
    Route("/runs", get_runs, methods=["GET"]),
    Route("/runs/{run}", get_run, methods=["GET"]),
    Route("/runs/{run}/events", get_run_events, methods=["GET"]),
    Route("/runs/{run}/cancel", changing("cancel", post_run_cancel), methods=["POST"]),
    Route("/reload", changing("reload", post_reload), methods=["POST"]),
]


class Server:
    """Serves one daemon on a socket that listens already, and keeps the socket in its place."""

    def __init__(self, daemon: Daemon, listener: Listener) -> None:
        app = Starlette(
            routes=ROUTES,
            exception_handlers={StoreletError: _answer_error, HTTPException: _answer_error},
        )
        app.state.daemon = daemon
        self._server = HttpServer(app, name="control socket")
        self._listener = listener
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve from now on."""
        await self._server.start(self._listener.socket)
        self._keeping = asyncio.create_task(self._keep_place(), name="keep the socket's place")

    async def stop(self) -> None:
        """Serve no more."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._server.stop()

    async def _keep_place(self) -> None:
        """Serve on another socket when somebody has removed this one."""
        said = ""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                if self._listener.renew():
                    await self._server.move(self._listener.socket)
                    _log.warning(
                        "The control socket was gone; %s is a new one", self._listener.path
                    )
                said = ""
            except (StoreletError, OSError) as error:  # backups go on without it
                if str(error) != said:
                    _log.error("The control socket is not in its place any more: %s", error)
                said = str(error)


def _daemon(request: Request) -> Daemon:
    daemon: Daemon = request.app.state.daemon
    return daemon


def _run_id(request: Request) -> int:
    return _number(request.path_params["run"], "run")


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise HTTPException(400, f"{what} is not a number: {text[:40]}")
    return int(text)


def _future_time(value: object) -> datetime:
    text = str(value)[:40]
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError("no offset")
        time = time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise HTTPException(400, f"until is no time in ISO 8601 with offset: {text}") from error
    if time <= datetime.now(UTC):
        raise HTTPException(400, f"until is not in the future: {text}")
    return time


async def _stream(messages: AsyncIterator[Message]) -> AsyncIterator[bytes]:
    """Write messages as server-sent events, with a comment when it is quiet."""
    pending = asyncio.ensure_future(anext(messages, None))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield b": keep-alive\n\n"
                continue
            message = pending.result()
            if message is None:
                return
            data = json.dumps(describe_message(message))
            yield f"event: {message.kind}\ndata: {data}\n\n".encode()
            pending = asyncio.ensure_future(anext(messages, None))
    finally:
        pending.cancel()


async def _answer_error(_request: Request, error: Exception) -> Response:
    """Answer a StoreletError, or starlette's own about routes and methods."""
    match error:
        case StoreletError(message=message, hint=hint, exit_code=exit_code):
            status = _STATUS.get(type(error), 500)
        case HTTPException(status_code=status, detail=detail):
            message, hint, exit_code = detail.lower(), None, 2
        case _:
            raise error
    return JSONResponse(
        {"error": message, "hint": hint, "exit_code": exit_code}, status_code=status
    )
