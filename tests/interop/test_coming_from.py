"""The jobs that the manual gives to who comes from another program: each is run.

What this machine has not is replaced: directories, the bucket, other programs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.answering import answering
from tests.helpers import CLONE, Bucket
from tests.manual import blocks_of, chapter_of
from tests.scripts import make_program
from tests.zipparser import parse_zip

PASSWORD = "a long one, made by chance"
# Commands that the jobs call, and by what they do; each says so in a file.
OTHERS = {
    "docker": '"docker ',
    "findmnt": '"findmnt ',
    "mysqldump": '"mysql": ',
    "pg_dump": '"postgresql": ',
    "pg_dumpall": '"postgresql": ',
    "psql": '"postgresql": ',
}
JOBS = {
    re.match(r"# /etc/storelet.d/(\w+)\.yaml", block)[1]: yaml.safe_load(block)  # type: ignore[index]
    for block in blocks_of(chapter_of("Coming from"), "yaml")
}


class _Healthchecks(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()


@pytest.mark.parametrize("name", JOBS)
def test_a_job_in_place_of_another_programs_runs(
    name: str, job_dir: Path, tmp_path: Path, seaweedfs: Bucket
) -> None:
    log = tmp_path / "log"
    for program in OTHERS:
        make_program(tmp_path / "bin" / program, f'echo "{program} $1" | tee -a {log}')
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **seaweedfs.environment}
    with answering(_Healthchecks) as address:
        job = adapt(JOBS[name], tmp_path, seaweedfs, f"http://{address}/check")
        path = job_dir / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        path.chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-m", "storeletd.ctl", "run", "--json", str(path)],
            cwd=CLONE,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert not [note for note in run["notes"] if "no archive of this backup yet" not in note]
    assert len(run["archives"]) == len(job["save"])
    (key,) = seaweedfs.keys()
    members = parse_zip(seaweedfs.read(key), password=PASSWORD).contents()
    sources = [item for item in job["include"] if "directory" in item]
    assert len([each for each in members if each.endswith("/hello.txt")]) == len(sources)
    for item in job["include"]:
        if "new_dir" in item:
            assert [each for each in members if each.startswith(f"{item['new_dir']}/")]
    commands = [each for each, sign in OTHERS.items() if sign in json.dumps(job)]
    called = [line.split()[0] for line in log.read_text().splitlines()] if commands else []
    assert sorted(set(called)) == commands


def adapt(job: Any, tmp_path: Path, bucket: Bucket, ping_url: str) -> Any:
    """Return a job of the manual with places that there are here."""
    job = json.loads(json.dumps(job))
    for number, item in enumerate(job["include"]):
        if "directory" in item:
            source = tmp_path / f"source {number}"
            source.mkdir()
            (source / "hello.txt").write_text("hello\n")
            item["directory"] = str(source)
    kept = tmp_path / "kept"
    kept.mkdir()
    for item in job["save"]:
        if "directory" in item:
            item["directory"] = str(kept)
        else:
            item |= {"s3": bucket.name, "endpoint_url": bucket.endpoint}
    if "encryption" in job:
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        (tmp_path / "password").chmod(0o600)
        job["encryption"]["password"]["file"] = str(tmp_path / "password")
    for item in job["include"]:
        if "password" in item:
            item["password"]["file"] = str(tmp_path / "password")
    if "healthchecks" in job:
        (tmp_path / "healthchecks-url").write_text(f"{ping_url}\n")
        (tmp_path / "healthchecks-url").chmod(0o600)
        job["healthchecks"]["file"] = str(tmp_path / "healthchecks-url")
    return job


def test_there_is_a_job_for_each_program() -> None:
    titles = re.findall(r"^(\S.*)\n-{4,}$", chapter_of("Coming from"), re.MULTILINE)
    assert titles == ["cron and zip", "borgmatic", "restic", "docker-volume-backup"]
    assert list(JOBS) == ["website", "server", "home", "app"]
