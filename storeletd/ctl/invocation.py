"""What every verb is given: where the daemon listens, and the options that all verbs share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from storeletd.ctl.client import Client

__all__ = ["Invocation", "default_socket", "json_option", "pass_invocation"]

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of storeletctl."""

    socket_path: str

    def client(self) -> Client:
        """Return a client of the daemon; nothing is opened yet."""
        # http.client takes 30 ms, which verbs that need no daemon save
        from storeletd.ctl.client import Client

        return Client(self.socket_path)


def default_socket() -> str:
    """Return where the daemon listens when nobody says otherwise."""
    # systemd lists several runtime directories with colons; ours is the first
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"{runtime or '/run/storelet'}/storeletd.sock"


pass_invocation = click.make_pass_decorator(Invocation)


def json_option(command: _Command) -> _Command:
    """Give a verb the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
