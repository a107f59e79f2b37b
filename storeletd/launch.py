"""The start of a worker: its command, its environment, its order."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

from storeletd.jobs import Job
from storeletd.order import Order
from storeletd.process import WorkerProcess
from storeletd.rights import hint_at_root

__all__ = ["start_worker"]

GRACE_SECONDS = 10.0  # from TERM to KILL; an upload is aborted in less

# What a worker gets of the daemon's environment; a proxy's name may be in either case.
_PASSED_ON = {"CREDENTIALS_DIRECTORY", "HOME", "INVOCATION_ID", "LANG", "PATH", "TZ"}
_PASSED_ON_PREFIXES = ("AWS_", "LC_")
_PROXIES = {"all_proxy", "http_proxy", "https_proxy", "no_proxy"}


async def start_worker(order: Order, state: Path | None) -> WorkerProcess:
    """Start a worker under a keeper and tell it the order; `state` is the state directory, if any.

    Raises OSError.
    """
    user = order.job.settings.user
    temporary = Path(tempfile.gettempdir(), f"storelet-{secrets.token_hex(8)}")
    return await WorkerProcess.start(
        # -P: what lies in the current directory must not be imported instead of Storelet.
        [sys.executable, "-P", "-m", "storeletd.worker"],
        stdin=order.to_json().encode(),
        environment=_make_environment(order.job, state or temporary),
        grace_seconds=GRACE_SECONDS,
        temporary_directory=temporary,
        user=None if user is None else (user, hint_at_root()),
    )


def _make_environment(job: Job, state: Path) -> dict[str, str]:
    """Return what a worker gets of our environment, by name, and what it never includes."""
    wanted = _PASSED_ON | job.environment_names
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in wanted or name.startswith(_PASSED_ON_PREFIXES) or name.lower() in _PROXIES
    }
    return environment | {"STATE_DIRECTORY": str(state)}
