"""What the shared fixtures hand out: a bucket, an S3 over HTTP, a running daemon."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import boto3
import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    *("ACCESS_KEY", "CLONE", "SECRET_KEY"),
    *("Bucket", "Daemon", "MotoServer", "make_once", "wait_for"),
]

CLONE = Path(__file__).resolve().parent.parent
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

Found = TypeVar("Found")


def wait_for(
    look: Callable[[], Found | None], *, seconds: float = 10.0, what: str = "what was expected"
) -> Found:
    """Poll until `look` returns something true, and return it; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that `make` has filled, once for all processes that run tests."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory, making = shared / name, shared / f"{name}.making"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(directory)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket, and how to look into it past Storelet."""

    name: str
    client: S3Client
    endpoint: str | None = None  # None: inside this process
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @classmethod
    def make(cls, name: str, endpoint: str) -> Bucket:
        """Make an empty one in a server."""
        client = boto3.client(
            "s3",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            endpoint_url=endpoint,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return cls(name=name, client=client, endpoint=endpoint)

    def keys(self) -> list[str]:
        """List the keys of all objects, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which boto3's own chain finds it."""
        found = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return found | ({"AWS_ENDPOINT_URL_S3": self.endpoint} if self.endpoint else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class MotoServer:
    """Moto's S3 as a process of its own, over HTTP; any key will do."""

    endpoint: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls) -> MotoServer:
        """Start it on a free port, which its log says."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        running = wait_for(
            lambda: re.search(rb"Running on (http://\S+)", os.pread(log.fileno(), 65536, 0)),
            seconds=30,
            what="moto's server",
        )
        return cls(endpoint=running[1].decode(), process=process, log=log)

    def make_bucket(self, name: str) -> Bucket:
        """Make an empty bucket."""
        return Bucket.make(name, self.endpoint)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


class Daemon:
    """A storeletd of this Python, as a process; it may be stopped, killed and started again."""

    process: subprocess.Popen[bytes]

    def __init__(self, *, jobs: Path, state: Path, socket: Path) -> None:
        self.jobs = jobs
        self.state = state
        self.socket = socket
        self.environment = {"TMPDIR": str(socket.parent)}  # beside the test's own
        self._log_path = socket.parent / "log"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def start(self, *options: str, program: str | None = None) -> None:
        """Start it, or a Python program that runs it, and wait until it answers."""
        command = [sys.executable, *(["-m", "storeletd"] if program is None else ["-c", program])]
        places = {"--jobs": self.jobs, "--state": self.state, "--socket": self.socket}
        for option, path in places.items():
            command += [option, str(path)]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--log-to", "stderr", *options],
                cwd=CLONE,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, seconds=20, what="storeletd to answer")

    def stop(self) -> None:
        """Ask it to end, as systemd does; it must end well. Nothing happens if it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(30) == 0, self.log()

    def kill(self) -> None:
        """End it as a power cut would, where it still runs."""
        self.process.kill()
        self.process.wait(10)

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run storeletctl on it; with `check`, its exit code must be 0."""
        done = subprocess.run(
            [sys.executable, "-m", "storeletd.ctl", "--socket", str(self.socket), *arguments],
            cwd=CLONE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}{self.log()}"
        return done

    def request(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        """Speak HTTP with it; return the status and the JSON of the answer."""
        status, text = self.ask(method, path, body)
        return status, json.loads(text)

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        """Speak HTTP with it; return the status and the text of the answer."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.socket))
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def log(self) -> str:
        """Return what it wrote to standard error so far."""
        return self._log_path.read_text(errors="replace")

    def processes(self) -> list[str]:
        """Name the processes that came from it: keepers, workers and what these started.

        They are known by its directories, in their arguments or (TMPDIR) their environment.
        """
        own = str(self.socket.parent).encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            command = _read(process / "cmdline")
            if own in command + _read(process / "environ") and int(process.name) != self.pid:
                text = command.replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{process.name} {text}")
        return found

    def assert_alone(self) -> None:
        """Fail if anything that came from it is still there a moment later."""
        wait_for(lambda: not self.processes(), seconds=15, what=f"an end of {self.processes()}")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile, or is another user's
        return b""
