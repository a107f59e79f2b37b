"""An S3 that misbehaves as told: in front of a real one, or all by itself."""

from __future__ import annotations

import http.client
import math
import os
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Answer", "Fault", "Proxy", "Request", "error_answer", "inject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def action(self) -> str:
        """What S3's API calls it, as far as Storelet calls it."""
        match self.method, sorted(set(self.query) & {"uploadId", "uploads"}):
            case "POST", [] if "delete" in self.query:
                return "DeleteObjects"
            case "POST", ["uploads"]:
                return "CreateMultipartUpload"
            case "PUT", ["uploadId"]:
                is_copy = "x-amz-copy-source" in self.headers
                return "UploadPartCopy" if is_copy else "UploadPart"
            case "POST", ["uploadId"]:
                return "CompleteMultipartUpload"
            case "DELETE", ["uploadId"]:
                return "AbortMultipartUpload"
            case "PUT", []:
                return "PutObject"
            case "HEAD", []:
                return "HeadObject"
            case "GET", [] if "versions" in self.query:
                return "ListObjectVersions"
            case "GET", []:
                return "ListObjectsV2" if "list-type" in self.query else "GetObject"
            case "DELETE", []:
                return "DeleteObject"
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is answered."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Script = Callable[[Request], "Answer | str | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is said to the requests of a kind, from the `first` to the `last`, counted from 1."""

    said: Answer | str
    action: str | None = None  # None: of every kind, counted together
    first: int = 1
    last: float = math.inf


def inject(*faults: Fault) -> Script:
    """Return a script that injects faults; where several fit, the first is said."""
    counts: Counter[str | None] = Counter()
    counting = threading.Lock()  # parts come side by side

    def script(request: Request) -> Answer | str | None:
        with counting:
            counts.update([request.action, None])
            now = dict(counts)
        for fault in faults:
            is_meant = fault.action in (None, request.action)
            if is_meant and fault.first <= now[fault.action] <= fault.last:
                return fault.said
        return None

    return script


def error_answer(status: int, code: str, message: str = "because") -> Answer:
    """Answer an error as S3 does."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status=status, body=body.encode())


class Proxy:
    """Answers as `script` says to each request: an `Answer`, or None to ask the S3 behind it.

    "lose" asks it and loses the answer; "cut" loses half of the answer's body; "reset" resets the
    connection and "hang" leaves it as it is until the end; neither asks. A script may change the
    request's headers. With `tls`, it speaks HTTPS. Use it as a context manager.
    """

    def __init__(
        self,
        behind: str | None = None,
        script: Script = lambda _request: None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.bytes_got: list[int] = []  # of the bodies of what the S3 behind it has answered
        self._behind = urlsplit(behind).netloc if behind else None
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def actions(self) -> list[str]:
        """What was asked for, in order."""
        return [request.action for request in self.requests]

    def answer(self, request: Request) -> Answer | str | None:
        """Answer a request; None: not at all. Or say what becomes of the connection."""
        self.requests.append(request)
        said = self.script(request)
        if said == "hang":
            self._ended.wait(60)
            return None
        if isinstance(said, Answer) or said == "reset":
            return said
        answer = self._ask(request)
        if said == "cut":
            size = answer.headers.get("Content-Length") or str(len(answer.body))
            half = answer.body[: len(answer.body) // 2]
            return replace(answer, body=half, headers={**answer.headers, "Content-Length": size})
        return None if said == "lose" else answer

    def _ask(self, request: Request) -> Answer:
        assert self._behind, f"nothing to ask about {request}"
        connection = http.client.HTTPConnection(self._behind, timeout=30)
        # The host stays as it was: it is among what the client signed.
        dropped = ("expect", "transfer-encoding")
        passed = {k: v for k, v in request.headers.items() if k not in dropped}
        try:
            connection.request(request.method, request.path, request.body or None, passed)
            got = connection.getresponse()
            answer = Answer(status=got.status, body=got.read(), headers=dict(got.getheaders()))
            self.bytes_got.append(len(answer.body))
            return answer
        finally:
            connection.close()

    def _make_handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client went away
                    self.close_connection = True

            def _serve(self) -> None:
                answer = proxy.answer(
                    Request(
                        method=self.command,
                        path=self.path,
                        query=parse_qs(urlsplit(self.path).query, keep_blank_values=True),
                        headers={k.lower(): v for k, v in self.headers.items()},
                        body=_read_body(self.rfile, self.headers),
                    )
                )
                if not isinstance(answer, Answer):
                    self.close_connection = True
                    if answer == "reset":  # socket(7), SO_LINGER
                        now = struct.pack("ii", 1, 0)
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                        os.close(self.connection.detach())
                    else:
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("content-length", "date", "server", "connection"):
                        self.send_header(name, value)
                is_head = self.command == "HEAD"
                size = answer.headers.get("Content-Length") or str(len(answer.body))
                self.send_header("Content-Length", size)
                self.close_connection = not is_head and size != str(len(answer.body))
                self.end_headers()
                if not is_head:
                    self.wfile.write(answer.body)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        return Handler


def _read_body(stream: BufferedIOBase, headers: Message) -> bytes:
    """Read what follows a request's headers: RFC 9112, sections 6.2 and 7.1."""
    if headers.get("Transfer-Encoding") != "chunked":
        return stream.read(int(headers.get("Content-Length") or 0))
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body
