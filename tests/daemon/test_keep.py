"""A job with `keep`: its archives are pruned after a success, and only then."""

from __future__ import annotations

import time
from pathlib import Path

from tests.daemon.test_daemon import run, write_yaml
from tests.helpers import Daemon

_NAME_SECONDS = 1.1  # so that the next archive has a name of its own


def test_a_success_prunes_and_nothing_else_does(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, "keep: {last: 2}\n")
    for _ in range(3):
        assert run(daemon, "web")["outcome"] == "success"
        time.sleep(_NAME_SECONDS)
    before = set(destination.iterdir())
    assert len(before) == 2
    assert "no rule keeps it" in daemon.log()
    taken = tree.parent / "taken"
    taken.mkdir()
    (taken / "twice").write_text("a")
    (tree / "twice").write_text("b")
    more = f"keep: {{last: 2}}\ninclude:\n- directory: {tree}\n- directory: {taken}\n"
    path = write_yaml(daemon, "web", tree, destination)
    path.write_text(f"schedule: manual\n{more}save: [{{directory: {destination}}}]\n")
    daemon.ctl("reload")
    done = run(daemon, "web")
    assert done["outcome"] == "partial"
    assert "not pruned: the newest archive is not whole" in done["notes"]
    assert before < set(destination.iterdir())
