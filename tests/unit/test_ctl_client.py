"""Server-sent events as storeletctl reads them, and a daemon that cannot be reached."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from storeletd.ctl.client import Client, ServerEvent, parse_events
from storeletd.ctl.console import CommandError


def test_an_event_has_a_name_and_data() -> None:
    lines = b'event: progress\ndata: {"files": 3}\n\n'.splitlines(keepends=True)
    assert list(parse_events(lines)) == [ServerEvent(name="progress", data={"files": 3})]


def test_comments_and_events_without_data_are_passed_over() -> None:
    lines = b': keep-alive\n\nevent: state\n\nevent: log\ndata: "x"\n\n'.splitlines(keepends=True)
    assert list(parse_events(lines)) == [ServerEvent(name="log", data="x")]


def test_data_may_have_several_lines_and_any_line_end() -> None:
    lines = b"id: 7\r\nevent: log\r\ndata: [1,\r\ndata:2]\r\n\r\n".splitlines(keepends=True)
    assert list(parse_events(lines)) == [ServerEvent(name="log", data=[1, 2])]


def test_an_event_that_breaks_off_is_none() -> None:
    assert list(parse_events([b"event: finished\n", b"data: {}\n"])) == []


def test_no_socket_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"not reachable at .*no such socket") as caught:
        Client(str(tmp_path / "storeletd.sock")).jobs()
    assert caught.value.exit_code == 69
    assert caught.value.hint is not None
    assert "systemctl status storeletd" in caught.value.hint


def test_a_socket_nobody_listens_on_is_not_reachable(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    with pytest.raises(CommandError, match="nobody listens") as caught:
        Client(str(tmp_path / "s")).jobs()
    assert caught.value.exit_code == 69


def test_a_path_too_long_for_a_socket_is_not_reachable(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="too long") as caught:
        Client(str(tmp_path / ("x" * 120))).jobs()
    assert caught.value.exit_code == 69


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_that_may_not_be_opened_is_not_permitted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        (tmp_path / "s").chmod(0)
        with pytest.raises(CommandError, match="permission denied") as caught:
            Client(str(tmp_path / "s")).jobs()
    assert caught.value.exit_code == 77
    assert caught.value.hint is not None
    assert "usermod -aG storelet" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
    ],
    ids=["silence", "no HTTP", "no JSON", "half an answer"],
)
def test_who_does_not_speak_as_the_daemon_is_not_reachable(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        threading.Thread(target=_answer_once, args=(listener, answer)).start()
        with pytest.raises(CommandError, match="not reachable") as caught:
            Client(str(tmp_path / "s")).jobs()
    assert caught.value.exit_code == 69


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
