"""Errands: what a worker does for the daemon beside runs, such as to ask destinations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from storeletd.events import Ended, Event, decode
from storeletd.launch import start_worker
from storeletd.order import Order

__all__ = ["do_errand", "why_not_done"]


async def do_errand(
    order: Order,
    state: Path | None,
    take: Callable[[Event], None],
    take_output: Callable[[str], None],
) -> Ended | None:
    """Have a worker do what is ordered; return its last word, None where it had none.

    `state` is the state directory, if any; `take` gets what else it reports. Raises OSError, and
    ValueError where the worker says what is no event.
    """
    endings: list[Ended] = []

    def take_event(line: bytes) -> None:
        event = decode(line)
        if isinstance(event, Ended):
            endings.append(event)
        else:
            take(event)

    worker = await start_worker(order, state)
    await worker.see_through(take_event, take_output)
    return endings[0] if endings else None


def why_not_done(ended: Ended | None) -> str | None:
    """Return why an errand was not done; None where it was."""
    if ended is None:
        return "its worker died"
    return None if ended.outcome == "success" else ended.message
