"""Calls on their way, several at once, in threads; their results in the order of the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

__all__ = ["Sending"]

Result = TypeVar("Result")


class Sending(Generic[Result]):
    """Makes up to `at_once` calls at a time.

    In daemon threads: one that hangs must not keep a script from ending, as a pool's would.
    """

    def __init__(self, at_once: int) -> None:
        self.done: list[Result] = []  # results of calls that have ended, in order
        self._at_once = at_once
        self._threads = 0
        self._waiting: deque[Future[Result]] = deque()
        self._calls: SimpleQueue[tuple[Future[Result], Callable[[], Result]] | None] = SimpleQueue()

    @property
    def count(self) -> int:
        """How many calls were started."""
        return len(self.done) + len(self._waiting)

    def start(self, call: Callable[[], Result]) -> None:
        """Make a call as soon as there is room for it."""
        if self._threads < self._at_once:
            self._threads += 1
            Thread(target=self._work, name=f"storelet {self._threads}", daemon=True).start()
        future: Future[Result] = Future()
        self._waiting.append(future)
        self._calls.put((future, call))

    def collect(self, left: int = 0) -> None:
        """Wait until no more than `left` are on their way. Raises what a call raised."""
        while len(self._waiting) > left:
            self.done.append(self._waiting[0].result())
            self._waiting.popleft()

    def look(self) -> None:
        """Raise what a call has raised, without waiting."""
        while self._waiting and self._waiting[0].done():
            self.collect(len(self._waiting) - 1)

    def stop(self, seconds: float) -> None:
        """Drop calls that have not begun; wait for the others, so long. May be called twice."""
        for future in self._waiting:
            future.cancel()
        wait(self._waiting, timeout=seconds)
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (task := self._calls.get()) is not None:
            future, call = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised where the result is collected
                future.set_exception(error)
