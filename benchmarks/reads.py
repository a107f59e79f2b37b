"""Measure what it costs to look into large archives in S3, in requests and bytes.

    .venv/bin/python benchmarks/reads.py [--files 20000] [--gigabytes 5] [--nights 3] [--work DIR]

A job backs up small files, and beside them large ones that are all but empty on this disk, without
compression: archives of 5 GB in SeaweedFS, one for each night, which is 15 GB of disk. Then
`storeletctl` brings back one small file, lists and searches, through a proxy that counts. It says
how large the catalogue of an archive is, too, for that is what each verb must read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import storelet
from benchmarks.server import Server
from benchmarks.table import name_machine
from benchmarks.workplace import open_workplace
from tests.helpers import CLONE, Bucket
from tests.proxy import Proxy

_SMALL_BYTES = 20_000
_LARGE_BYTES = 100_000_000
_DIRECTORY_FILES = 100
_SETTLING_SECONDS = 3.0  # files younger than 2 s are never reused
_WANTED = "small/0100/10042.txt"
_JOB = """\
schedule: manual
include: [{{directory: {tree}}}]
save: [{{s3: {bucket}}}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Archives in a bucket, and their job, for `storeletctl` to find."""

    jobs: Path
    bucket: Bucket

    @property
    def newest(self) -> storelet.OpenedArchive:
        """The newest archive."""
        return storelet.list_archives(
            f"s3://{self.bucket.name}/", endpoint_url=self.bucket.endpoint
        )[-1]

    def ctl(self, *arguments: str) -> tuple[int, int]:
        """Run a verb, which must end well; return how many requests it made, and bytes it got."""
        with Proxy(self.bucket.endpoint) as proxy:
            subprocess.run(
                [sys.executable, "-m", "storeletd.ctl", *arguments],
                cwd=CLONE,
                env=os.environ | {"AWS_ENDPOINT_URL_S3": proxy.endpoint},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            return len(proxy.requests), sum(proxy.bytes_got)


def main() -> None:
    """Make the archives, and print what each verb costs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--work", type=Path, metavar="DIR", help="for temporary data ($TMPDIR)")
    options = parser.parse_args()
    with open_workplace(options.work) as work:
        tree = _make_tree(work / "tree", options.files, int(options.gigabytes * 1e9))
        with _open_store(work, tree, options.nights) as store:
            _print_figures(store, work)
    print(name_machine())


def _make_tree(tree: Path, files: int, size: int) -> Path:
    """Make a tree of so many files, and bytes; the large ones are holes."""
    for number in range(files):
        path = tree / "small" / f"{number // _DIRECTORY_FILES:04}" / f"{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%05d" % number * (_SMALL_BYTES // 5))
    (tree / "large").mkdir()
    for number in range((size - files * _SMALL_BYTES) // _LARGE_BYTES):
        with (tree / "large" / f"{number}.bin").open("wb") as file:
            file.truncate(_LARGE_BYTES)
    return tree


@contextmanager
def _open_store(work: Path, tree: Path, nights: int) -> Iterator[Store]:
    with Server.start(work / "server") as server:
        bucket = server.make_bucket("reads")
        os.environ.update(bucket.environment)
        for _ in range(nights):
            time.sleep(_SETTLING_SECONDS)
            there = storelet.S3(bucket.name)
            with storelet.ZipBackup("example", destination=there, compression="none") as backup:
                backup.include_directory(tree)
        (work / "jobs").mkdir(mode=0o700)
        (work / "jobs" / "example.yaml").write_text(_JOB.format(tree=tree, bucket=bucket.name))
        yield Store(jobs=work / "jobs", bucket=bucket)


def _print_figures(store: Store, work: Path) -> None:
    archive = store.newest
    members = list(archive.members())
    catalogue = archive.size - max(each.offset + each.stored_size for each in members)
    print(f"{len(members):,} members, {archive.size:,} bytes; {catalogue:,} of them the catalogue")
    (one,) = (each for each in members if each.name == _WANTED)
    print(f"one small member: {one.stored_size:,} bytes\n")
    job = ("--jobs", str(store.jobs))
    for verb in (
        ("dump", archive.url, _WANTED),
        ("restore", archive.url, f"/{_WANTED}", "--target", str(work / "back")),
        ("files", archive.url),
        ("find", *job, "example", f"/{_WANTED}"),
        ("dump", *job, "example", _WANTED),
    ):
        requests, size = store.ctl(*verb)
        named = " ".join(word for word in verb if not word.startswith(("-", "/tmp", str(work))))
        print(f"{named:78} {requests:4} requests {size:12,} bytes")


if __name__ == "__main__":
    main()
