"""The control socket, as somebody meets it who may connect and means no good."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import pwd
import re
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from storeletd.intake import LARGEST_BODY, MOST_CONNECTIONS, read_json
from storeletd.server import ROUTES
from tests.helpers import Daemon, wait_for

Headers = Sequence[tuple[bytes, bytes]]
SECONDS = 5  # an answer takes milliseconds; a loaded machine gets some more

# The daemon with less patience.
IMPATIENT = """
import runpy, storeletd.intake
storeletd.intake.REQUEST_SECONDS = %s
runpy.run_module("storeletd", run_name="__main__")
"""


@pytest.fixture
def web(daemon: Daemon, tree: Path) -> str:
    """Have a job that can be run and has a run."""
    text = f"schedule: manual\ninclude:\n- directory: {tree}\nsave:\n- directory: {daemon.jobs}\n"
    job = daemon.jobs / "web.yaml"
    job.write_text(text)
    daemon.ctl("reload")
    daemon.ctl("run-now", "web")
    return "web"


@contextlib.contextmanager
def connected(daemon: Daemon) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(daemon.socket))
        yield connection


def write_request(method: bytes, target: bytes, headers: Headers = (), body: bytes = b"") -> bytes:
    lines = [b"%s %s HTTP/1.1" % (method, target)]
    if not any(name.lower() == b"host" for name, _ in headers):
        lines.append(b"Host: localhost")
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answer_of(connection: socket.socket, method: str = "GET") -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return answer


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send as much as is taken: who sends too much is not heard to the end."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the daemon has closed it, without waiting for that."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def assert_well(daemon: Daemon) -> None:
    assert daemon.request("GET", "/health")[1]["status"] == "ok"
    assert "Traceback" not in daemon.log()
    assert "[ERROR]" not in daemon.log()


# Who it was


def test_each_changing_request_is_logged_with_who_sent_it(daemon: Daemon, web: str) -> None:
    """Those that are refused, too: every route that takes POST is asked for what is not there."""
    me = f"{pwd.getpwuid(os.geteuid()).pw_name} (uid {os.geteuid()}, pid {os.getpid()})"
    posts = [route for route in ROUTES if route.methods and "POST" in route.methods]
    assert len(posts) >= 3
    for route in posts:
        before = daemon.log().count(me)
        target = route.path.replace("{job}", "nobody").replace("{run}", "4711")
        daemon.request("POST", target)
        assert daemon.log().count(me) == before + 1, route.path
    for said in (
        f"[INFO]: nobody: run-now of nobody by {me}: refused: no such job: nobody",
        f"[INFO]: cancel of run 4711 by {me}: refused: no such run: 4711",
        f"[INFO]: reload by {me}",
    ):
        assert f"{said}\n" in daemon.log()
    assert daemon.request("POST", f"/jobs/{web}/runs")[0] == 202
    assert f"[INFO]: {web}: run-now of {web} by {me}\n" in daemon.log()


def test_requests_that_change_nothing_are_not_logged(daemon: Daemon) -> None:
    before = daemon.log()
    for target in ("/health", "/jobs", "/runs", "/jobs/nobody"):
        daemon.request("GET", target)
    assert daemon.log() == before


def test_who_asks_cannot_forge_lines_of_the_log(daemon: Daemon) -> None:
    name = quote_from_bytes(b"x\n2026-01-01 [INFO]: forged\x1b[2J" + b"y" * 4000)
    daemon.request("POST", f"/jobs/{name}/runs")
    assert "\n2026-01-01 [INFO]: forged" not in daemon.log()
    assert "\x1b" not in daemon.log()
    assert max(map(len, daemon.log().splitlines())) < 1000


# How much


@pytest.mark.parametrize("size", [0, LARGEST_BODY, LARGEST_BODY + 1, 100 * LARGEST_BODY])
@pytest.mark.parametrize("how", ["announced", "chunked", "announced and never sent"])
def test_a_body_is_taken_up_to_64_kib(daemon: Daemon, how: str, size: int) -> None:
    body = b"x" * size
    headers: Headers = [(b"Content-Length", b"%d" % size)]
    if how == "chunked":
        headers = [(b"Transfer-Encoding", b"chunked")]
        body = (b"%x\r\n%s\r\n" % (size, body) if size else b"") + b"0\r\n\r\n"
    if how == "announced and never sent":
        body = b""
        if 0 < size <= LARGEST_BODY:
            pytest.skip("that is half a request, below")
    with connected(daemon) as connection:
        send_all(connection, write_request(b"POST", b"/reload", headers, body))
        answer = answer_of(connection)
        said = json.load(answer)
    if size > LARGEST_BODY:
        assert answer.status == 413
        assert said == {"error": "a request may have 64 KiB", "hint": None, "exit_code": 2}
    else:
        assert answer.status == 200
    assert daemon.log().count("reload by") == (size <= LARGEST_BODY)
    assert_well(daemon)


def test_half_a_request_changes_nothing(daemon: Daemon) -> None:
    with connected(daemon) as connection:
        headers = [(b"Content-Length", b"100")]
        send_all(connection, write_request(b"POST", b"/reload", headers, b"x" * 99))
        assert_well(daemon)  # others are answered meanwhile
    assert_well(daemon)
    assert "reload by" not in daemon.log()


def test_endless_headers_are_refused(daemon: Daemon) -> None:
    with connected(daemon) as connection:
        send_all(connection, b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 1_000_000)
        assert answer_of(connection).status == 400
    assert_well(daemon)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"", {}),
        (b'{"until": "2027-01-01T00:00:00+01:00"}', {"until": "2027-01-01T00:00:00+01:00"}),
        (b"[]", None),
        (b"1", None),
        (b"{", None),
        (b'{"until": ', None),
        (b"\xff", None),
        (b"[" * LARGEST_BODY, None),
        (b'{"until": %s}' % (b"9" * 10_000), None),
    ],
)
def test_json_is_read_or_refused(body: bytes, values: dict[str, object] | None) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    request = Request({"type": "http", "headers": []}, receive)  # type: ignore[arg-type]
    if values is not None:
        assert asyncio.run(read_json(request)) == values
        return
    with pytest.raises(HTTPException) as caught:
        asyncio.run(read_json(request))
    assert (caught.value.status_code, caught.value.detail) == (400, "expected a JSON object")


# In what time


SILENT = {
    "nothing": b"",
    "half a line": b"GET /hea",
    "half the headers": b"POST /reload HTTP/1.1\r\nHost: localhost\r\n",
    "half a body": write_request(b"POST", b"/reload", [(b"Content-Length", b"2")], b"x"),
    "half a chunk": write_request(b"POST", b"/reload", [(b"Transfer-Encoding", b"chunked")], b"5"),
    "one and a half": write_request(b"GET", b"/health") + b"GET /hea",
}


@pytest.mark.parametrize("said", SILENT.values(), ids=SILENT)
def test_who_says_half_of_something_holds_up_nobody(daemon: Daemon, said: bytes) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connected(daemon)) for _ in range(20)]
        for connection in connections:
            connection.sendall(said)
        assert_well(daemon)
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < SECONDS  # the daemon waits for none of them
        assert "Traceback" not in daemon.log()
        assert "[ERROR]" not in daemon.log()


@pytest.mark.parametrize("said", SILENT.values(), ids=SILENT)
def test_who_says_half_of_something_is_left(daemon: Daemon, said: bytes) -> None:
    daemon.stop()
    daemon.start(program=IMPATIENT % 0.5)
    with connected(daemon) as connection:
        connection.sendall(said)
        if said.startswith(b"GET /health"):
            answer_of(connection).read()
        wait_for(lambda: is_closed(connection), what="an end of the connection")
    assert_well(daemon)


def test_who_says_a_byte_now_and_then_is_left_as_well(daemon: Daemon) -> None:
    daemon.stop()
    daemon.start(program=IMPATIENT % 0.5)

    def is_over(connection: socket.socket) -> bool:
        try:
            connection.send(b"x")
        except OSError:
            return True
        return False

    with connected(daemon) as connection:
        wait_for(lambda: is_over(connection), what="an end of the connection")
    assert_well(daemon)


def test_who_follows_a_run_may_be_silent(daemon: Daemon, tmp_path: Path) -> None:
    """An answer that goes on is no request that does not come."""
    daemon.stop()
    daemon.start(program=IMPATIENT % 0.5)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = f'SCHEDULE = "manual"\nopen({str(gate)!r}).read()\nraise SystemExit(75)\n'
    (daemon.jobs / "waits.py").write_text(code)
    daemon.ctl("reload")
    run_id = daemon.request("POST", "/jobs/waits/runs")[1]["run"]["id"]
    with connected(daemon) as following, connected(daemon) as silent:
        following.sendall(write_request(b"GET", b"/runs/%d/events" % run_id))
        answer = answer_of(following)
        wait_for(lambda: is_closed(silent), what="an end of who connected later")
        gate.write_text("")
        assert b"event: finished" in answer.read()


def test_a_thousand_connections_leave_descriptors_for_runs(daemon: Daemon, web: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    most = 0
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1500):
                stack.enter_context(connected(daemon))
                most = max(most, len(os.listdir(f"/proc/{daemon.pid}/fd")))
        assert MOST_CONNECTIONS < most < MOST_CONNECTIONS + 200  # those it is about to close
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    daemon.ctl("run-now", web)
    assert_well(daemon)


# Anything at all


TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
segments = st.one_of(
    st.sampled_from([b"web", b"1", b"0", b"..", b".", b"", b"9" * 18, b"9" * 19, b"-1", b"%00"]),
    st.binary(max_size=20).map(lambda data: quote_from_bytes(data).encode()),
    st.text(max_size=10).map(lambda text: quote_from_bytes(text.encode(errors="replace")).encode()),
)
templates = st.sampled_from(
    [
        *(route.path.encode() for route in ROUTES),
        b"/",
        b"//",
        b"/jobs/",
        b"/nowhere",
        b"*",
        b"web:1",
    ]
)


@st.composite
def targets(draw: st.DrawFn) -> bytes:
    target = re.sub(rb"\{\w+\}", lambda _: draw(segments), draw(templates))
    query = b"&".join(
        draw(st.sampled_from([b"job", b"limit", b"x", b""])) + b"=" + draw(segments)
        for _ in range(draw(st.integers(0, 3)))
    )
    return (target + (b"?" + query if query else draw(st.sampled_from([b"", b"?", b"#x"])))) or b"/"


methods = st.one_of(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"get"]),
    st.from_regex(TOKEN, fullmatch=True),
)
values = st.one_of(
    st.sampled_from([b"0", b"-1", b"close", b"upgrade", b"websocket", b"chunked", b"[", b"gzip"]),
    st.sampled_from([b"100-continue", b"bytes=0-", b"*/*", b"identity", b"a:99999", b"\xff"]),
    st.binary(max_size=30).map(lambda data: re.sub(rb"[\0\r\n]", b"", data).strip()),
)
names = st.one_of(
    st.sampled_from([b"Host", b"Connection", b"Upgrade", b"Content-Length", b"Transfer-Encoding"]),
    st.sampled_from(
        [b"Expect", b"Accept", b"Range", b"Content-Type", b"Cookie", b"X-Forwarded-For"]
    ),
    st.from_regex(TOKEN, fullmatch=True),
)
headers = st.lists(st.tuples(names, values), max_size=4)
bodies = st.one_of(
    st.just(b""), st.binary(max_size=200), st.just(b'{"until": null}'), st.just(b"[" * 70_000)
)
fuzz = settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def hasty(daemon: Daemon, web: str) -> Daemon:
    """A daemon that closes at once what nothing comes from."""
    daemon.stop()
    daemon.start(program=IMPATIENT % 0.05)
    return daemon


def talk(daemon: Daemon, data: bytes) -> bytes:
    """Send it and return what comes back until the daemon closes, as it must."""
    with connected(daemon) as connection:
        send_all(connection, data)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                said += piece
    return said


def test_no_request_is_a_500_or_a_hang(hasty: Daemon) -> None:
    @fuzz
    @example(b"GET", b"/jobs/", [(b"Host", b"[")], b"")
    @example(b"GET", b"/jobs/", [(b"Host", b"a:b:c/")], b"")
    @example(b"GET", b"/runs?job=%00", [], b"")
    @example(b"GET", b"/jobs/web?", [], b"x")
    @example(b"GET", b"/runs?limit=x", [], b"")
    @example(b"POST", b"/jobs/web/runs", [], b"[" * 65_000)
    @example(b"POST", b"/reload", [], b"[" * 70_000)
    @example(b"PUT", b"/reload", [], b"")
    @example(b"POST", b"/jobs/%ff/runs", [], b"")
    @example(b"HEAD", b"/runs/1/events", [], b"")
    @given(methods, targets(), headers, bodies)
    def ask(method: bytes, target: bytes, more: Headers, body: bytes) -> None:
        if not {b"content-length", b"transfer-encoding"} & {name.lower() for name, _ in more}:
            more = [*more, (b"Content-Length", b"%d" % len(body))]
        request = write_request(method, target, more, body)
        said = talk(hasty, request)
        statuses.update(re.findall(rb"HTTP/1.1 ([0-9]+)", said))
        assert b"HTTP/1.1 5" not in said, request

    statuses: set[bytes] = set()
    ask()
    assert {b"200", b"202", b"400", b"404", b"405", b"413"} <= statuses  # it came everywhere
    assert_well(hasty)


def test_no_bytes_are_a_500_or_a_hang(hasty: Daemon) -> None:
    pieces = st.one_of(
        st.binary(max_size=100),
        st.sampled_from([b"GET ", b"POST ", b"/jobs", b" HTTP/1.1", b" HTTP/9.9", b"\r\n", b"\n"]),
        st.sampled_from([b"Host: x\r\n", b"Content-Length: 5\r\n", b"\r\n\r\n", b"PRI * HTTP/2.0"]),
        st.sampled_from(
            [b"Transfer-Encoding: chunked\r\n", b"fffffffffffffffff\r\n", b"0\r\n\r\n"]
        ),
        st.just(write_request(b"POST", b"/jobs/web/runs")),
        st.just(write_request(b"GET", b"/health") * 20),
    )

    @fuzz
    @given(st.lists(pieces, max_size=8).map(b"".join))
    def say(data: bytes) -> None:
        assert b"HTTP/1.1 5" not in talk(hasty, data), data

    say()
    assert_well(hasty)
