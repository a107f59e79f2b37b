"""A store that fails in every way a store can: each run has an outcome, and nothing is left there.

Behind the proxy that injects the faults is a real store, SeaweedFS.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_daemon import finished, jobs, run, write_job
from tests.daemon.test_uploads import open_uploads, remembered
from tests.helpers import Bucket, Daemon, wait_for
from tests.proxy import Answer, Fault, Proxy, error_answer, inject

ERROR = error_answer(500, "InternalError", "We encountered an internal error.")
SLOW_DOWN = error_answer(503, "SlowDown", "Please reduce your request rate.")
EXPIRED = error_answer(400, "ExpiredToken", "The provided token has expired.")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make what goes in four parts."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "random").write_bytes(os.urandom(28 << 20))
    os.utime(directory / "random", (0, 0))  # what is younger than the archive is not reused
    return directory


@pytest.fixture
def proxy(daemon: Daemon, seaweedfs: Bucket, source: Path) -> Iterator[Proxy]:
    """Run a store that fails as told, and a daemon with a job that saves to it.

    In the end the store is well: the next run must be, too, and leave no upload and no process.
    """
    daemon.stop()
    daemon.environment |= seaweedfs.environment
    daemon.start()
    before = set(daemon.socket.parent.iterdir())
    with Proxy(seaweedfs.endpoint) as proxy:
        write_job(
            daemon,
            "web.yaml",
            f"""\
            schedule: manual
            include: [{{directory: {source}}}]
            save: [{{s3: {seaweedfs.name}, prefix: web/, endpoint_url: '{proxy.endpoint}'}}]
            change_detection: {{ctime: false}}
            """,
        )
        wait_for(lambda: "web" in jobs(daemon), what="the job")
        yield proxy
        proxy.script = lambda _request: None
        count = len(seaweedfs.keys())
        assert run(daemon, "web")["outcome"] == "success"
        assert len(archives(seaweedfs, source)) == count + 1
        assert open_uploads(seaweedfs) == remembered(daemon) == set()
        daemon.assert_alone()
        assert set(daemon.socket.parent.iterdir()) == before


def archives(bucket: Bucket, source: Path) -> list[str]:
    """Return the keys of all archives, each of which must be whole."""
    keys = bucket.keys()
    for key in keys:
        with zipfile.ZipFile(io.BytesIO(bucket.read(key))) as archive:
            assert archive.read("random") == (source / "random").read_bytes()
    return keys


def start(daemon: Daemon) -> int:
    run_id: int = daemon.request("POST", "/jobs/web/runs")[1]["run"]["id"]
    return run_id


def shape(done: dict[str, Any]) -> tuple[Any, Any]:
    return done["outcome"], done["exit_code"]


@pytest.mark.parametrize(
    "said",
    [ERROR, SLOW_DOWN, "reset", "lose", "cut"],
    ids=["500", "SlowDown", "reset", "lose", "cut"],
)
def test_one_fault_of_each_kind_of_request_is_survived(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, source: Path, said: Answer | str
) -> None:
    first = {"ListObjectsV2", "HeadObject", "UploadPart", "CompleteMultipartUpload"}
    # An upload whose id nobody has learned is the bucket's lifecycle rule's to abort.
    first |= set() if said in ("lose", "cut") else {"CreateMultipartUpload"}
    for actions in (first, first | {"GetObject", "UploadPartCopy"}):
        proxy.requests.clear()
        proxy.script = inject(*(Fault(said=said, action=each, last=1) for each in actions))
        done = run(daemon, "web")
        assert done["outcome"] == "success"
        assert actions <= set(proxy.actions)
        (source / "new").write_bytes(b"new")
    assert done["notes"] == []
    assert len(archives(seaweedfs, source)) == 2
    assert open_uploads(seaweedfs) == set()


@pytest.mark.parametrize("said", [ERROR, SLOW_DOWN, "reset"], ids=["500", "SlowDown", "reset"])
@pytest.mark.parametrize("action", ["CreateMultipartUpload", "UploadPart"])
def test_a_fault_that_lasts_fails_the_run_and_leaves_nothing(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, said: Answer | str, action: str
) -> None:
    proxy.script = inject(Fault(said=said, action=action, first=2 if action == "UploadPart" else 1))
    done = run(daemon, "web")
    assert shape(done) == ("failed", 1)
    assert f"bucket {seaweedfs.name}" in done["message"]
    assert seaweedfs.keys() == []
    assert open_uploads(seaweedfs) == remembered(daemon) == set()


def test_a_store_that_dies_between_parts_fails_the_run_and_the_next_cleans_up(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket
) -> None:
    dead = Fault(said="reset", first=100)

    def die(request: Any) -> Answer | str | None:
        nonlocal dead
        if request.query.get("partNumber") == ["2"]:
            dead = Fault(said="reset")
        return "reset" if dead.first == 1 else None

    proxy.script = die
    done = run(daemon, "web")
    assert shape(done) == ("failed", 1)
    assert done["message"].startswith(f"cannot reach bucket {seaweedfs.name}")
    assert "AbortMultipartUpload" in proxy.actions
    assert open_uploads(seaweedfs) == remembered(daemon) != set()
    assert seaweedfs.keys() == []


def test_a_store_whose_answer_to_the_end_is_lost_has_one_archive(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, source: Path
) -> None:
    proxy.script = inject(Fault(said="lose", action="CompleteMultipartUpload", last=1))
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    (key,) = archives(seaweedfs, source)
    assert [each["url"] for each in done["archives"]] == [f"s3://{seaweedfs.name}/{key}"]
    assert open_uploads(seaweedfs) == remembered(daemon) == set()


def test_a_store_that_dies_with_its_last_answer_fails_the_run_and_loses_nothing(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, source: Path
) -> None:
    """Nobody can know then that the archive is there; it is whole, and the next one's previous."""
    is_dead = False

    def die(request: Any) -> str | None:
        nonlocal is_dead
        if is_dead:
            return "reset"
        is_dead = request.action == "CompleteMultipartUpload"
        return "lose" if is_dead else None

    proxy.script = die
    done = run(daemon, "web")
    assert shape(done) == ("failed", 1)
    assert done["archives"] == []
    assert len(archives(seaweedfs, source)) == 1


def test_a_store_that_dies_before_the_end_is_asked_again(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, source: Path
) -> None:
    proxy.script = inject(Fault(said="reset", action="CompleteMultipartUpload", last=2))
    assert run(daemon, "web")["outcome"] == "success"
    assert len(archives(seaweedfs, source)) == 1


@pytest.mark.parametrize("with_abort", [False, True], ids=["parts hang", "all hangs"])
def test_a_run_whose_store_hangs_can_be_cancelled(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, with_abort: bool
) -> None:
    faults = [Fault(said="hang", action="UploadPart", first=2)]
    if with_abort:
        faults.append(Fault(said="hang", action="AbortMultipartUpload"))
    proxy.script = inject(*faults)
    run_id = start(daemon)
    wait_for(lambda: proxy.actions.count("UploadPart") > 1, seconds=30, what="a second part")
    daemon.request("POST", f"/runs/{run_id}/cancel")
    assert shape(finished(daemon, run_id)) == ("cancelled", 143)
    daemon.assert_alone()
    assert open_uploads(seaweedfs) == remembered(daemon)
    assert bool(open_uploads(seaweedfs)) == with_abort


def test_a_run_whose_store_hangs_ends_by_its_timeout(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket
) -> None:
    path = daemon.jobs / "web.yaml"
    text = path.read_text()
    path.write_text(text + "timeout: 3s\n")
    daemon.request("POST", "/reload")
    proxy.script = inject(Fault(said="hang", action="UploadPart", first=2))
    assert shape(run(daemon, "web")) == ("timeout", 124)
    assert open_uploads(seaweedfs) == remembered(daemon) == set()
    path.write_text(text)
    daemon.request("POST", "/reload")


@pytest.mark.parametrize("action", ["UploadPart", "UploadPartCopy", "CompleteMultipartUpload"])
def test_a_key_that_expires_in_the_middle_is_said_in_one_line(
    daemon: Daemon, proxy: Proxy, seaweedfs: Bucket, source: Path, action: str
) -> None:
    if action == "UploadPartCopy":
        assert run(daemon, "web")["outcome"] == "success"
        (source / "new").write_bytes(b"new")
    has_expired = False

    def expire(request: Any) -> Answer | None:
        nonlocal has_expired
        is_late = action != "UploadPart" or request.query.get("partNumber") == ["2"]
        has_expired = has_expired or (request.action == action and is_late)
        if not has_expired:
            return None
        return Answer(status=400) if request.method == "HEAD" else EXPIRED

    proxy.script = expire
    done = run(daemon, "web")
    assert shape(done) == ("failed", 12)
    assert done["message"] == (
        f"bucket {seaweedfs.name} refuses the key, which has expired: "
        "The provided token has expired."
    )
    assert "role" in done["hint"]
    assert len([line for line in done["output"] if line.startswith(done["message"])]) == 1
    assert "AbortMultipartUpload" in proxy.actions
    assert open_uploads(seaweedfs) == remembered(daemon) != set()
