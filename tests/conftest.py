"""The fixtures all tests share: a clean environment, a tree, buckets, a job directory, a daemon.

Everything is real: files, moto's S3 (in this process or over HTTP), SeaweedFS and, where it is
installed, radosgw, storeletd as a process. What the fixtures hand out is described in
`tests/helpers.py` and `tests/servers.py`.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import boto3
import hypothesis
import pytest
from moto import mock_aws

from tests.helpers import Bucket, Daemon, MotoServer
from tests.servers import RadosGW, SeaweedFS, Server

_CLEARED = (
    "AWS_",
    "STORELET_",
    "COLUMNS",  # from here on: what changes how programs write
    "FORCE_COLOR",
    "LINES",
    "NO_COLOR",
    "PYTHONUNBUFFERED",
    "CREDENTIALS_DIRECTORY",  # from here on: what systemd tells a service
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "WATCHDOG_",
)
_Server = TypeVar("_Server", bound=Server)

# How long something takes is for benchmarks: a machine may be busy.
hypothesis.settings.register_profile("storelet", deadline=None)
hypothesis.settings.load_profile("storelet")
_PROXIES = {"all_proxy", "http_proxy", "https_proxy", "no_proxy"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what could make a test talk to a real store, or to a real service manager."""
    umask = os.umask(0o022)  # where it is 002, every job file a test writes would be refused
    for name in list(os.environ):
        if name.startswith(_CLEARED) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)  # the developer's own profile
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    yield
    os.umask(umask)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a small directory with a bit of everything that an archive must bring back."""
    top = tmp_path / "tree"
    (top / "sub" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "größe ✓").mkdir()
    (top / "hello.txt").write_text("hello\n" * 100)
    (top / "nothing").write_bytes(b"")
    (top / "random.bin").write_bytes(bytes(range(256)) * 400)
    (top / "sub" / "script.sh").write_text("#!/bin/sh\necho hello\n")
    (top / "sub" / "deeper" / "file").write_text("deep\n")
    (top / "größe ✓" / "naïve.txt").write_text("ünicode\n", encoding="utf-8")
    (top / "secret").write_text("for my eyes\n")
    (top / "link").symlink_to("hello.txt")
    (top / "dangling").symlink_to("nowhere/to/be/found")
    (top / "secret").chmod(0o600)
    (top / "sub" / "script.sh").chmod(0o755)
    (top / "sub" / "deeper").chmod(0o700)
    os.utime(top / "hello.txt", (1366561800, 1366561800))
    return top


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """Make a bucket of moto's, inside this process."""
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="my-bucket")
        yield Bucket(name="my-bucket", client=client)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """Run an S3 over HTTP for all tests."""
    server = MotoServer.start()
    yield server
    server.stop()


@pytest.fixture
def s3_server(moto_server: MotoServer) -> Bucket:
    """Make a fresh bucket in an S3 over HTTP, with its endpoint and keys."""
    return moto_server.make_bucket(_new_name())


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[SeaweedFS]:
    """Run SeaweedFS for all tests."""
    yield from _run(SeaweedFS)


@pytest.fixture
def seaweedfs(seaweedfs_server: SeaweedFS) -> Bucket:
    """Make a fresh bucket in SeaweedFS."""
    return seaweedfs_server.make_bucket(_new_name())


@pytest.fixture(scope="session")
def radosgw_server() -> Iterator[RadosGW]:
    """Run radosgw for all tests."""
    yield from _run(RadosGW)


@pytest.fixture
def radosgw(radosgw_server: RadosGW) -> Bucket:
    """Make a fresh bucket in radosgw."""
    return radosgw_server.make_bucket(_new_name())


def _run(kind: type[_Server]) -> Iterator[_Server]:
    if missing := kind.missing():
        pytest.skip(missing)
    server = kind.start()
    yield server
    server.stop()


def _new_name() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    """Make an empty job directory that is its owner's alone."""
    directory = tmp_path / "jobs"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """Make an empty directory for archives."""
    path = tmp_path / "archives"
    path.mkdir()
    return path


@pytest.fixture
def daemon(tmp_path: Path, job_dir: Path) -> Iterator[Daemon]:
    """Run a storeletd; in the end it must stop well and leave no process behind."""
    # A socket's path has at most 107 bytes: tmp_path, with the test's name, may be too long.
    with tempfile.TemporaryDirectory(prefix="storelet-") as run:
        socket = Path(run, "storeletd.sock")
        daemon = Daemon(jobs=job_dir, state=tmp_path / "state", socket=socket)
        try:
            daemon.start()
            yield daemon
            daemon.stop()
            daemon.assert_alone()
        finally:
            daemon.kill()
