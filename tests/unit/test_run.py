"""A run as its followers see it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from storeletd.database import Database
from storeletd.events import Ended
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.run import ActiveRun, Message
from storeletd.settings import Settings


def test_who_follows_a_run_in_the_moment_of_its_end_is_told(tmp_path: Path) -> None:
    """It has been told already, and is still among those that are on: nothing more would come."""
    settings = Settings.model_validate({"schedule": "manual"})
    job = Job(name="web", path="/web.py", language="python", settings=settings, source="", lines={})
    database = Database(tmp_path / "history.sqlite")

    async def main() -> tuple[ActiveRun, list[Message]]:
        history = History(database)
        now = datetime(2026, 11, 24, tzinfo=UTC)
        run = ActiveRun(job, history.begin(job="web", cause="manual", due=None, now=now), history)
        run.finish(Ended(outcome="skipped"))
        async with asyncio.timeout(30):
            return run, [message async for message in run.follow()]

    try:
        run, (message,) = asyncio.run(main())
    finally:
        database.close()
    assert (message.kind, message.data) == ("finished", run.run)
