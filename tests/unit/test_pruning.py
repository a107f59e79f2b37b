"""Pruning at a destination: what retention lets go is deleted, and nothing else is touched."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

import storelet
from storelet.errors import PermissionDeniedError
from tests.helpers import Bucket
from tests.scripts import ctl

NIGHTS = 12
START = datetime(2024, 11, 1, 2, 30, tzinfo=UTC)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("content")
    return path


def back_up(destination: Any, source: Path, night: int, name: str = "website") -> None:
    with (
        freeze_time(START + timedelta(days=night)),
        storelet.ZipBackup(name, destination=destination) as backup,
    ):
        backup.include_directory(source)


@pytest.fixture
def kept(tmp_path: Path, source: Path) -> Path:
    path = tmp_path / "kept"
    path.mkdir()
    for night in range(NIGHTS):
        back_up(storelet.Directory(path), source, night)
    return path


def days(path: Path) -> list[int]:
    """Return the days of November that have an archive."""
    names = [each.name for each in path.iterdir() if each.name.startswith("website_")]
    return sorted(int(name[len("website_202411") :][:2]) for name in names)


def test_what_no_rule_keeps_is_deleted(kept: Path) -> None:
    keep = storelet.Keep(last=2, weekly=2)
    found = storelet.prune(storelet.Directory(kept), "website", keep, zone=UTC)
    assert days(kept) == [10, 11, 12]  # 10 is a Sunday
    assert [each.is_kept for each in found] == [n in (12, 11, 10) for n in range(12, 0, -1)]
    assert all(each.is_deleted != each.is_kept for each in found)
    assert found[0].reasons == ("last 1", "weekly 2024-W46")
    storelet.prune(storelet.Directory(kept), "website", keep, zone=UTC)
    assert days(kept) == [10, 11, 12]


def test_a_dry_run_deletes_nothing(kept: Path) -> None:
    found = storelet.prune(storelet.Directory(kept), "website", storelet.Keep(), dry_run=True)
    assert sum(not each.is_kept for each in found) == NIGHTS - 3
    assert not any(each.is_deleted for each in found)
    assert len(days(kept)) == NIGHTS


def test_only_what_this_host_made_for_this_backup_is_deleted(
    kept: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept / "website_20200101000000.zip").write_bytes(b"somebody else's")
    (kept / "website_20200102000000.zip").write_bytes(b"")
    back_up(storelet.Directory(kept), source, 0, name="websites")
    other = next(each for each in kept.iterdir() if each.name.startswith("websites_"))
    other.rename(kept / "website_20200103000000.zip")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        for night in range(20, 25):  # later than all of this one's
            back_up(storelet.Directory(kept), source, night)
    found = storelet.prune(storelet.Directory(kept), "website", storelet.Keep(last=1))
    reasons = {each.name[8:16]: each.reasons[0] for each in found if not each.is_deleted}
    assert reasons == {
        "20200101": "no archive of Storelet's",
        "20200102": "no archive of Storelet's",
        "20200103": f"made by host {socket.gethostname()} for websites",
        "20241112": "last 1",
        **{f"202411{21 + n}": "made by host elsewhere for website" for n in range(5)},
    }


class ReadOnly(storelet.Directory):
    """A directory whose user may not delete."""

    tries = 0

    def delete_archives(self, archives: Any) -> None:
        self.tries += 1
        raise PermissionDeniedError("the key may not delete")


def test_a_key_that_may_not_delete_is_reported_once(kept: Path) -> None:
    events: list[storelet.Event] = []
    place = ReadOnly(kept)
    with storelet.observe(events.append):
        found = storelet.prune(place, "website", storelet.Keep())
    (event,) = [each for each in events if isinstance(each, storelet.NotPruned)]
    assert event.reason == "the key may not delete"
    assert place.tries == 1
    assert sum(not each.is_kept for each in found) == NIGHTS - 3
    assert not any(each.is_deleted for each in found)


def test_a_bucket_is_pruned(seaweedfs: Bucket, source: Path) -> None:
    place = storelet.S3(
        seaweedfs.name,
        seaweedfs.access_key,
        seaweedfs.secret_key,
        prefix="web/",
        endpoint_url=seaweedfs.endpoint,
    )
    for _ in range(5):  # a store refuses requests that are dated wrong: these are of now
        with storelet.ZipBackup("website", destination=place) as backup:
            backup.include_directory(source)
    found = storelet.prune(place, "website", storelet.Keep(last=2))
    assert [each.is_deleted for each in found] == [False, False, True, True, True]
    assert seaweedfs.keys() == sorted(f"web/{each.name}" for each in found[:2])


@pytest.fixture
def jobs(tmp_path: Path, kept: Path, source: Path) -> Iterator[Path]:
    path = tmp_path / "jobs"
    path.mkdir(mode=0o700)
    (path / "website.yaml").write_text(
        f"schedule: manual\ntimezone: UTC\ninclude: [{{directory: {source}}}]\n"
        f"save: [{{directory: {kept}}}]\nkeep: {{last: 2, weekly: 2}}\n"
    )
    return path


def test_storeletctl_prunes_and_says_why(jobs: Path, kept: Path) -> None:
    dry = ctl("prune", "website", "--dry-run", "--jobs", str(jobs))
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "last 1, weekly 2024-W46" in dry.stdout
    assert "Would delete 9 of 12 archives" in dry.stdout
    assert len(days(kept)) == NIGHTS
    done = ctl("prune", "website", "--jobs", str(jobs), "--json")
    (place,) = json.loads(done.stdout)["places"]
    assert sum(each["deleted"] for each in place["archives"]) == 9
    assert days(kept) == [10, 11, 12]


def test_a_job_without_keep_is_not_pruned(jobs: Path, kept: Path) -> None:
    path = jobs / "website.yaml"
    path.write_text(path.read_text().replace("keep: {last: 2, weekly: 2}\n", ""))
    done = ctl("prune", "website", "--jobs", str(jobs))
    assert (done.returncode, done.stdout) == (78, "")
    assert "keeps all its archives" in done.stderr
    assert len(days(kept)) == NIGHTS


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete everywhere")
def test_what_may_not_be_deleted_is_told(jobs: Path, kept: Path) -> None:
    kept.chmod(0o500)
    done = ctl("prune", "website", "--jobs", str(jobs))
    assert done.returncode == 77
    assert "not deleted" in done.stdout
