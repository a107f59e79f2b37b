"""What comes in by the control socket: from whom, how much, in what time.

Whoever may connect may also do so and then say nothing, half of something or far too much: none
of that holds up anybody else, the daemon's end, or takes the descriptors that runs need.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from storelet import StoreletError
from storeletd import journal
from storeletd.jobs import make_printable

__all__ = ["LARGEST_BODY", "BoundedBodies", "Protocol", "changing", "read_json"]

_log = logging.getLogger("storeletd.server")

LARGEST_BODY = 64 << 10  # bytes; headers may have 16 KiB, h11's own limit
REQUEST_SECONDS = 10.0  # from connecting, or the last answer, until a request is whole
MOST_CONNECTIONS = 100
_NAME, _MORE = 200, 500  # characters in the log

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says: SO_PEERCRED of unix(7)."""

    pid: int
    uid: int

    def __str__(self) -> str:
        """Name him; where users come from the network that may take its time."""
        try:
            name = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}, pid {self.pid}"
        return f"{name} (uid {self.uid}, pid {self.pid})"


class Protocol(H11Protocol):
    """HTTP of uvicorn's that knows its peer, and has done with one who does not come to the point.

    A request's `state.peer` is the Peer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take in a connection, and who it is, unless there are too many."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        end: socket.socket = transport.get_extra_info("socket")
        credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _gid = struct.unpack("iII", credentials)
        self.app_state = {**self.app_state, "peer": Peer(pid, uid)}
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        super().data_received(data)
        self._set_deadline()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        self._clear_deadline()

    def shutdown(self) -> None:
        """End, but for an answer that is under way."""
        if self._deadline is None:
            super().shutdown()
        else:
            self.transport.abort()

    def _set_deadline(self) -> None:
        """Let the time run while no request is whole: a byte must not win more of it."""
        cycle = self.cycle
        is_whole = cycle is not None and not (cycle.more_body or cycle.response_complete)
        if is_whole or self.transport.is_closing():
            self._clear_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class BoundedBodies:
    """Takes in each request whole before anything is done about it, and refuses large ones."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        request = Request(scope, receive)
        try:
            body = await _read_body(request)
        except ClientDisconnect:
            return
        if body is None:
            error = f"a request may have {LARGEST_BODY >> 10} KiB"
            answer = JSONResponse(
                {"error": error, "hint": None, "exit_code": 2},
                status_code=413,
                headers={"connection": "close"},  # the rest is not even read
            )
            await answer(scope, receive, send)
            return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body}]

        async def receive_again() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        await self._app(scope, receive_again, send)


async def _read_body(request: Request) -> bytes | None:
    """Return the body, or None where it is too large. Raises ClientDisconnect."""
    announced = request.headers.get("content-length", "")  # h11 has seen that it is a number
    if announced and int(announced) > LARGEST_BODY:
        return None
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            return None
    return body


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object that a request's body holds; an empty body is an empty one.

    Raises HTTPException with 400 for anything else.
    """
    body = await request.body()
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError):  # not UTF-8, no JSON; nested too deeply
        values = None
    if not isinstance(values, dict):
        raise HTTPException(400, "expected a JSON object")
    return values


def changing(verb: str, endpoint: Endpoint) -> Endpoint:
    """Make an endpoint that logs who asked for it; `verb` is storeletctl's."""

    async def answer(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except StoreletError as error:
            await _log_request(request, verb, f": refused: {error.message}")
            raise
        except HTTPException as error:
            await _log_request(request, verb, f": refused: {error.detail}")
            raise
        await _log_request(request, verb)
        return response

    return answer


async def _log_request(request: Request, verb: str, more: str = "") -> None:
    # A path may be as long as all headers, and hold anything.
    asked = {name: make_printable(each)[:_NAME] for name, each in request.path_params.items()}
    on = "".join(f" of {'run ' if name == 'run' else ''}{each}" for name, each in asked.items())
    who = await asyncio.to_thread(str, request.state.peer)
    said = f"{verb}{on} by {who}{make_printable(more)[:_MORE]}"
    _log.info("%s", said, extra=journal.fields(job=asked.get("job")))
