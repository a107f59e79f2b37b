"""The jobs that the manual gives to who comes from another program: each is run.

What this machine has not is replaced: directories, the bucket, other programs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.answering import answering
from tests.databases import DatabaseServer, MariaDB, PostgreSQL
from tests.helpers import CLONE, Bucket
from tests.manual import blocks_of, chapter_of
from tests.scripts import make_program
from tests.zipparser import parse_zip

PASSWORD = "a long one, made by chance"
# Commands in the jobs; each says in a file that it was called.
OTHERS = ("docker", "findmnt")
# By item of `include`: a server, and what makes the manual's user there.
DATABASES: dict[str, tuple[Any, ...]] = {
    "mariadb": (
        MariaDB,
        f"CREATE USER backup@localhost IDENTIFIED BY '{PASSWORD}'",
        "GRANT ALL ON *.* TO backup@localhost",
    ),
    "postgresql": (PostgreSQL, f"CREATE ROLE backup SUPERUSER LOGIN PASSWORD '{PASSWORD}'"),
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


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[DatabaseServer | None]:
    """Run the server whose database a job dumps, if it does."""
    kinds = [kind for item in JOBS[request.param]["include"] for kind in DATABASES if kind in item]
    if not kinds:
        yield None
        return
    kind, *statements = DATABASES[kinds[0]]
    if (missing := kind.missing()) is not None:
        pytest.skip(missing)
    with kind() as server:
        for statement in (*statements, "CREATE DATABASE site"):
            server.sql(statement)
        server.sql("CREATE TABLE pages (name TEXT)", "site")
        yield server


@pytest.mark.parametrize(
    ("name", "database"), [(name, name) for name in JOBS], indirect=["database"]
)
def test_a_job_in_place_of_another_programs_runs(
    name: str,
    database: DatabaseServer | None,
    job_dir: Path,
    tmp_path: Path,
    seaweedfs: Bucket,
) -> None:
    log = tmp_path / "log"
    for program in OTHERS:
        make_program(tmp_path / "bin" / program, f'echo "{program} $*" >> {log}')
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **seaweedfs.environment}
    with answering(_Healthchecks) as address:
        job = adapt(JOBS[name], tmp_path, seaweedfs, database, f"http://{address}/check")
        path = job_dir / f"{name}.yaml"
        write_secret(path, yaml.safe_dump(job))
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
    members = [*parse_zip(seaweedfs.read(key), password=PASSWORD).contents()]
    sources = [item for item in job["include"] if "directory" in item]
    assert len([each for each in members if each.endswith("/hello.txt")]) == len(sources)
    dumps = [each for each in members if re.search(r"(^|/)site\.(dump|sql)$", each)]
    assert len(dumps) == (database is not None)
    commands = [each for each in OTHERS if f"{each} " in json.dumps(job)]
    called = [line.split()[0] for line in log.read_text().splitlines()] if commands else []
    assert sorted(set(called)) == commands


def adapt(
    job: Any, tmp_path: Path, bucket: Bucket, database: DatabaseServer | None, ping_url: str
) -> Any:
    """Return a job of the manual with places that there are here."""
    job = json.loads(json.dumps(job))
    for number, item in enumerate(job["include"]):
        if "directory" in item:
            source = tmp_path / f"source {number}"
            source.mkdir()
            (source / "hello.txt").write_text("hello\n")
            item["directory"] = str(source)
        else:
            assert database is not None
            item["host"] = str(getattr(database, "socket", database.top))
            item["password"]["file"] = write_secret(tmp_path / "database", PASSWORD)
    kept = tmp_path / "kept"
    kept.mkdir()
    for item in job["save"]:
        if "directory" in item:
            item["directory"] = str(kept)
        else:
            item |= {"s3": bucket.name, "endpoint_url": bucket.endpoint}
    if "encryption" in job:
        job["encryption"]["password"]["file"] = write_secret(tmp_path / "password", PASSWORD)
    if "healthchecks" in job:
        job["healthchecks"]["file"] = write_secret(tmp_path / "healthchecks-url", ping_url)
    return job


def write_secret(path: Path, text: str) -> str:
    """Write a file that is its owner's alone; return its path."""
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return str(path)


def test_there_is_a_job_for_each_program() -> None:
    titles = re.findall(r"^(\S.*)\n-{4,}$", chapter_of("Coming from"), re.MULTILINE)
    assert titles == ["cron and zip", "borgmatic", "restic", "docker-volume-backup"]
    assert list(JOBS) == ["website", "server", "home", "app"]
