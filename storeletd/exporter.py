"""The metrics for whoever asks: on the control socket, and by TCP on a port that has nothing else.

Nobody says who he is there, and whoever reaches the port may read them; nothing else is answered,
and nothing can be changed.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from storelet import StoreletError
from storeletd.daemon import Daemon
from storeletd.metrics import METRICS_TYPE, describe_metrics
from storeletd.serving import HttpServer

__all__ = ["Address", "Exporter", "get_metrics", "open_port", "read_address"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen by TCP."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Address:
    """Read `HOST:PORT`, of IPv6 in brackets. Raises ValueError."""
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(f"not HOST:PORT, or [IPV6]:PORT: {text}")
    return Address(found[1] or found[2], int(found[3]))


@contextlib.contextmanager
def open_port(address: Address) -> Iterator[socket.socket]:
    """Listen at an address until the block ends. Raises StoreletError."""
    try:
        listening = _listen(address)
    except OSError as error:
        raise StoreletError(
            f"cannot listen on {address}: {error.strerror or error}",
            hint="give --metrics another address",
        ) from error
    with listening:
        yield listening


def _listen(address: Address) -> socket.socket:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, place = found[0]
    # "[::]" is everybody's, by IPv4 too.
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(place[:2], family=family, dualstack_ipv6=both)


async def get_metrics(request: Request) -> Response:
    """Return what a Prometheus server asks for."""
    return Response(describe_metrics(request.app.state.daemon), media_type=METRICS_TYPE)


class Exporter:
    """Answers GET /metrics, and nothing else, on a socket that listens already."""

    def __init__(self, daemon: Daemon, listening: socket.socket) -> None:
        app = Starlette(
            routes=[Route("/metrics", get_metrics, methods=["GET"])],
            exception_handlers={StoreletError: _answer_error},
        )
        app.state.daemon = daemon
        self._server = HttpServer(app, name="metrics")
        self._listening = listening

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._listening.getsockname()[:2]
        return f"http://{Address(host, port)}/metrics"

    async def start(self) -> None:
        """Serve from now on."""
        await self._server.start(self._listening)

    async def stop(self) -> None:
        """Serve no more."""
        await self._server.stop()


async def _answer_error(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status_code=500)
