"""Multipart uploads that killed runs leave are aborted, and never anybody else's."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from tests.daemon.test_daemon import SOON, finished, jobs, run, started, write_job
from tests.helpers import Bucket, Daemon, wait_for
from tests.proxy import Proxy

# Opens an upload, sends a part, reports it as the library does, and then never ends.
OPENING = """\
SCHEDULE = "manual"
import os, time
import boto3
from storelet.observer import UploadOpened, report
target = {{"Bucket": "{bucket}", "Key": "{key}"}}
client = boto3.client("s3")
upload_id = client.create_multipart_upload(**target)["UploadId"]
report(UploadOpened(bucket="{bucket}", key="{key}", upload_id=upload_id))
client.upload_part(**target, UploadId=upload_id, PartNumber=1, Body=b"x" * 1000)
open("{mark}", "w").close()
time.sleep(1000)
"""
KEY = "web/web_20260328120000.zip"
ABORTING = """\
SCHEDULE = "manual"
import storelet
storelet.S3("{bucket}", prefix="web/").abort_abandoned()
raise SystemExit(75)
"""


@pytest.fixture
def lost(daemon: Daemon, s3_server: Bucket, tmp_path: Path) -> str:
    """Kill a daemon and all processes of its run while an upload is open; return its id."""
    daemon.stop()
    daemon.environment |= s3_server.environment
    daemon.start()
    mark = tmp_path / "mark"
    text = OPENING.format(bucket=s3_server.name, key=KEY, mark=mark)
    write_job(daemon, "web.py", text)
    started(daemon, "web", mark)
    daemon.kill()
    for process in daemon.processes():
        with suppress(ProcessLookupError):  # the keeper ends what it still can
            os.kill(int(process.split()[0]), signal.SIGKILL)
    daemon.assert_alone()
    (upload_id,) = open_uploads(s3_server)
    return upload_id


@pytest.fixture
def foreign(s3_server: Bucket) -> str:
    """Open an upload of another host: of the same job, to the same bucket."""
    answer = s3_server.client.create_multipart_upload(Bucket=s3_server.name, Key=KEY)
    return answer["UploadId"]


def open_uploads(bucket: Bucket) -> set[str]:
    answer = bucket.client.list_multipart_uploads(Bucket=bucket.name)
    return {each["UploadId"] for each in answer.get("Uploads", ())}


def remembered(daemon: Daemon) -> set[str]:
    """Return the uploads that the history knows of."""
    with sqlite3.connect(daemon.state / "history.sqlite") as database:
        found = {upload_id for (upload_id,) in database.execute("SELECT upload_id FROM upload")}
    database.close()
    return found


def write_yaml(daemon: Daemon, tree: Path, bucket: str, more: str = "") -> None:
    (daemon.jobs / "web.py").unlink(missing_ok=True)
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {tree}}}]
        save: [{{s3: {bucket}, prefix: web/{more}}}]
        """,
    )


def test_a_yaml_jobs_lost_upload_is_aborted_at_the_start(
    daemon: Daemon, s3_server: Bucket, tree: Path, lost: str, foreign: str
) -> None:
    assert open_uploads(s3_server) == {lost, foreign}
    write_yaml(daemon, tree, s3_server.name)
    daemon.start()
    wait_for(lambda: lost not in open_uploads(s3_server), seconds=30, what="the upload's end")
    assert open_uploads(s3_server) == {foreign}
    wait_for(lambda: "Lost uploads of web: 1 aborted" in daemon.log(), what="a line in the log")
    runs = daemon.request("GET", "/runs?job=web")[1]["runs"]
    assert [each["outcome"] for each in runs] == ["lost"]  # that was no run
    assert remembered(daemon) == set()


def test_what_the_library_has_opened_is_aborted_after_a_kill(
    daemon: Daemon, s3_server: Bucket, tmp_path: Path, foreign: str
) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "random").write_bytes(os.urandom(20 << 20))
    daemon.stop()
    daemon.environment |= s3_server.environment
    daemon.start()
    with Proxy(s3_server.endpoint) as proxy:
        proxy.script = lambda request: "hang" if request.query.get("partNumber") == ["2"] else None
        endpoint = f", endpoint_url: '{proxy.endpoint}'"
        write_yaml(daemon, tmp_path / "large", s3_server.name, endpoint)
        wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
        daemon.request("POST", "/jobs/web/runs")
        wait_for(lambda: proxy.actions.count("UploadPart") > 1, seconds=30, what="a second part")
        assert len(open_uploads(s3_server)) == 2
        daemon.kill()
        for process in daemon.processes():
            with suppress(ProcessLookupError):
                os.kill(int(process.split()[0]), signal.SIGKILL)
    write_yaml(daemon, tmp_path / "large", s3_server.name)
    daemon.start()
    wait_for(lambda: open_uploads(s3_server) == {foreign}, seconds=30, what="the upload's end")
    assert s3_server.keys() == []
    assert run(daemon, "web")["outcome"] == "success"


def test_a_modules_lost_upload_is_aborted_by_its_next_run(
    daemon: Daemon, s3_server: Bucket, lost: str, foreign: str
) -> None:
    write_job(daemon, "web.py", ABORTING.format(bucket=s3_server.name))
    daemon.start()
    run(daemon, "web")
    assert open_uploads(s3_server) == {foreign}
    assert remembered(daemon) == set()
    runs = daemon.request("GET", "/runs?job=web")[1]["runs"]
    assert [each["outcome"] for each in runs] == ["skipped", "lost"]


def test_an_upload_that_is_gone_already_is_forgotten(
    daemon: Daemon, s3_server: Bucket, tree: Path, lost: str
) -> None:
    s3_server.client.abort_multipart_upload(Bucket=s3_server.name, Key=KEY, UploadId=lost)
    write_yaml(daemon, tree, s3_server.name)
    daemon.start()
    wait_for(lambda: not remembered(daemon), seconds=30, what="it to be forgotten")


def test_an_upload_that_cannot_be_aborted_is_said_and_tried_again(
    daemon: Daemon, s3_server: Bucket, tree: Path, lost: str
) -> None:
    write_yaml(daemon, tree, "another-bucket")
    daemon.start()
    message = f"A lost upload of {KEY} to bucket {s3_server.name} was not aborted"
    wait_for(lambda: message in daemon.log(), seconds=30, what="a warning")
    daemon.stop()
    assert open_uploads(s3_server) == {lost}
    write_yaml(daemon, tree, s3_server.name)
    daemon.start()
    wait_for(lambda: not open_uploads(s3_server), seconds=30, what="the upload's end")


def test_a_store_that_does_not_answer_keeps_nothing_from_running_or_ending(
    daemon: Daemon, s3_server: Bucket, tree: Path, lost: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        write_yaml(daemon, tree, s3_server.name, f", endpoint_url: '{url}'")
        write_job(daemon, "other.py", 'SCHEDULE = "manual"\nraise SystemExit(75)\n')
        daemon.start()
        silent.settimeout(30)
        with silent.accept()[0]:  # somebody wants to abort the upload
            assert run(daemon, "other")["outcome"] == "skipped"
            daemon.stop()
            daemon.assert_alone()
    assert open_uploads(s3_server) == remembered(daemon) == {lost}


def test_what_one_job_left_is_no_matter_of_another(
    daemon: Daemon, s3_server: Bucket, lost: str
) -> None:
    write_job(daemon, "other.py", ABORTING.format(bucket=s3_server.name))
    daemon.start()
    run(daemon, "other")
    assert open_uploads(s3_server) == {lost}


def test_the_upload_of_a_run_that_is_on_is_left_alone(
    daemon: Daemon, s3_server: Bucket, tmp_path: Path, lost: str
) -> None:
    """Only what runs that are over have left is named to the next one."""
    mark = tmp_path / "another mark"
    text = OPENING.format(bucket=s3_server.name, key=KEY, mark=mark)
    write_job(daemon, "web.py", text)
    daemon.start()
    run_id = started(daemon, "web", mark)
    assert len(open_uploads(s3_server)) == 2
    daemon.request("POST", f"/runs/{run_id}/cancel")
    assert finished(daemon, run_id)["outcome"] == "cancelled"
    write_job(daemon, "web.py", ABORTING.format(bucket=s3_server.name))
    daemon.request("POST", "/reload")
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    run(daemon, "web")
    assert open_uploads(s3_server) == set()
