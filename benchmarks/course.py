"""The course: a place for every contender, beginning empty and keeping its history.

In every scene all run in turn, on the same tree and against the same S3 server, so that a machine
whose speed drifts is fair to all. Of whole archives only the newest is kept from night to night,
or the disk would be full.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from benchmarks.contenders import Contender, Nights, Place
from benchmarks.measuring import Requests, Run, measure
from benchmarks.server import Server
from benchmarks.trees import files_in
from benchmarks.wire import Wire
from tests.helpers import CLONE, Bucket, Daemon

__all__ = ["Course"]

_JOB = """\
schedule: "0 0 1 1 *"
include:
  - directory: {place.tree}
save:
  - s3: {place.kept}
    endpoint_url: {place.endpoint}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """A contender at its place."""

    contender: Contender
    place: Place
    environment: dict[str, str]
    server: Server | None  # of S3; None where it keeps a directory
    bucket: Bucket | None
    wire: Wire | None
    daemon: Daemon | None

    @property
    def kept_bytes(self) -> int:
        """The size of all that it keeps."""
        if self.bucket is None:
            return sum(path.stat().st_size for path in files_in(Path(self.place.kept)))
        pages = self.bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self.place.kept)
        return sum(each["Size"] for page in pages for each in page.get("Contents", ()))

    def measure(self, command: tuple[str, ...]) -> Run:
        """Run a command of its contender, and say what it took."""
        before = self._count_requests()
        run = measure(
            self.place.fill_in(command),
            self.environment,
            self.place.own / "log",
            wire=self.wire,
            daemon=self.daemon.pid if self.daemon else None,
        )
        return replace(run, requests=self._count_requests() - before)

    def _count_requests(self) -> Requests:
        if self.server is None:
            return Requests(writing=0, reading=0)
        return self.server.count_requests(self.place.kept)

    def thin(self) -> None:
        """Delete all archives but the newest; what is no zip at the top is not ours to touch."""
        if self.bucket is None:
            archives = sorted(
                Path(self.place.kept).glob("*.zip"), key=lambda path: path.stat().st_mtime_ns
            )
            for path in archives[:-1]:
                path.unlink()
            return
        found = self.bucket.client.list_objects_v2(Bucket=self.place.kept, Delimiter="/")
        zips = [each for each in found.get("Contents", ()) if each["Key"].endswith(".zip")]
        for each in sorted(zips, key=itemgetter("LastModified"))[:-1]:
            self.bucket.client.delete_object(Bucket=self.place.kept, Key=each["Key"])


class Course:
    """Lets all contenders run; to be opened by `Course.open`."""

    def __init__(self, posts: Sequence[_Post], server: Server | None) -> None:
        self._posts = posts
        self._server = server

    @classmethod
    @contextmanager
    def open(cls, work: Path, tree: Path, contenders: Sequence[Contender]) -> Iterator[Course]:
        """Prepare all places in a new directory; it is gone when the block ends."""
        with ExitStack() as stack:
            work.mkdir()
            stack.callback(shutil.rmtree, work)
            server = None
            if any(each.to == "S3" for each in contenders):
                server = stack.enter_context(Server.start(work / "server"))
            posts = []
            for number, contender in enumerate(contenders):
                own = work / f"{number}"
                own.mkdir()
                place = Place(
                    tree=tree, kept=str(own / "kept"), endpoint=None, own=own, source=tree, night=0
                )
                posts.append(_make_post(stack, contender, place, server))
            yield cls(posts, server)

    def back_up(self, night: int) -> Iterator[tuple[Contender, Run]]:
        """Let all back up, or from night 1 on those that do otherwise than at first."""
        for post in self._posts:
            if night and not post.contender.is_nightly:
                continue
            tonight = replace(post, place=replace(post.place, night=night))
            before = post.kept_bytes
            run = tonight.measure(post.contender.back_up)
            yield post.contender, replace(run, left_bytes=post.kept_bytes - before)
            post.thin()
        if self._server:
            self._server.reclaim()

    def keep(self, kept: Nights, gone: Nights) -> Iterator[tuple[Contender, int]]:
        """Have those that keep a repository keep some nights only; yield its size in bytes."""
        for post in self._posts:
            if post.contender.keep:
                post.measure(post.contender.keep(kept, gone))
                yield post.contender, post.kept_bytes

    def restore(self, night: int, source: Path) -> Iterator[tuple[Contender, Run]]:
        """Let all that can restore the tree, or one file of it, and compare what comes back."""
        for post in self._posts:
            contender = post.contender
            place = replace(post.place, night=night, source=source)
            command = contender.restore_one if source.is_file() else contender.restore_all
            if command is None:
                continue
            place.into.mkdir()
            run = replace(post, place=place).measure(command)
            restored = place.into / source.relative_to("/")
            if subprocess.run(["diff", "-r", source, restored]).returncode:
                sys.exit(f"{contender.name} restored something else than {source}")
            shutil.rmtree(place.into)
            yield contender, run


def _make_post(
    stack: ExitStack, contender: Contender, place: Place, server: Server | None
) -> _Post:
    bucket = wire = daemon = None
    if server and contender.to == "S3":
        bucket = server.make_bucket(f"bench-{place.own.name}")
        wire = stack.enter_context(Wire.open(server.port))
        place = replace(place, kept=bucket.name, endpoint=f"http://127.0.0.1:{wire.port}")
    else:
        Path(place.kept).mkdir()
    environment = _environment_of(place, bucket)
    if contender.set_up:
        command = place.fill_in(contender.set_up)
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    if contender.is_daemon:
        daemon = _start_daemon(place, environment)
        stack.callback(daemon.stop)
    return _Post(
        contender=contender,
        place=place,
        environment=environment,
        server=server if bucket else None,
        bucket=bucket,
        wire=wire,
        daemon=daemon,
    )


def _environment_of(place: Place, bucket: Bucket | None) -> dict[str, str]:
    """Give a contender caches and temporary files of its own, and the way to its bucket."""
    (place.own / "tmp").mkdir()
    ours = {
        "PYTHONPATH": str(CLONE),
        "TMPDIR": str(place.own / "tmp"),
        "RESTIC_PASSWORD": "bench",
        "RESTIC_CACHE_DIR": str(place.own / "cache"),
        "BORG_BASE_DIR": str(place.own),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "RCLONE_CONFIG": "/notfound",  # its word for none
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
        "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
        "RCLONE_CONFIG_BENCH_ENDPOINT": str(place.endpoint),
        "AWS_CONFIG_FILE": os.devnull,
    }
    if bucket:
        ours |= bucket.environment | {"AWS_ENDPOINT_URL_S3": str(place.endpoint)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | ours


def _start_daemon(place: Place, environment: dict[str, str]) -> Daemon:
    jobs = place.own / "jobs"
    jobs.mkdir(mode=0o700)
    (jobs / "bench.yaml").write_text(_JOB.format(place=place))
    daemon = Daemon(jobs=jobs, state=place.own / "state", socket=place.own / "socket")
    daemon.environment = environment
    daemon.start()
    return daemon
