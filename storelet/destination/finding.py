"""What an examination of a destination finds out: a `Finding` for each thing that is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storelet.errors import PermissionDeniedError, StoreletError

__all__ = ["Finding", "State", "attempt"]

# ok; note: worth knowing; warning: backups go on, but cost more or are less safe; failed: none can.
State = Literal["ok", "note", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one thing is at a destination."""

    check: str  # what was looked at, in a word: `write`, `clock`
    state: State
    message: str
    hint: str | None = None  # what to do
    error: StoreletError | None = None  # that a backup would meet, too

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.state}: {self.check}: {self.message}{hint}"


def attempt(check: str, call: Callable[[], str], *, denied: State = "failed") -> Finding:
    """Return what `call` says is well, or why it is not; `denied`: how bad it is if it may not."""
    try:
        return Finding(check=check, state="ok", message=call())
    except StoreletError as error:
        state = denied if isinstance(error, PermissionDeniedError) else "failed"
        return Finding(
            check=check,
            state=state,
            message=error.message,
            hint=error.hint,
            error=error if state == "failed" else None,
        )
