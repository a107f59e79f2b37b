"""What it costs to get something back from S3, in requests and in bytes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import storelet
from tests.helpers import CLONE, Bucket
from tests.proxy import Proxy
from tests.trees import describe_tree

FILES = 3_000  # their catalogue is larger than the end of an archive, which is read at first
WANTED = "small/1234"
ONE_HEADER = 256  # bytes that may be read of a member beside its own
JOB = """\
schedule: manual
include: [{{directory: /srv}}]
save: [{{s3: {bucket}}}]
"""


class Store:
    """Archives of a job in a bucket, and `storeletctl`, whose requests are counted."""

    def __init__(self, path: Path, bucket: Bucket, proxy: Proxy) -> None:
        self.path, self.bucket, self.proxy = path, bucket, proxy
        self.jobs = path / "jobs"
        self.jobs.mkdir(mode=0o700)
        (self.jobs / "example.yaml").write_text(JOB.format(bucket=bucket.name))

    def back_up(self, tree: Path | None = None) -> str:
        """Return the archive's URL."""
        tree = tree or self.path / "tree"
        if not tree.exists():
            (tree / "small").mkdir(parents=True)
            for number in range(FILES):
                (tree / "small" / str(number)).write_text(f"{number}\n" * 100)
            (tree / "large").write_bytes(os.urandom(10 << 20))
        there = storelet.S3(
            self.bucket.name,
            self.bucket.access_key,
            self.bucket.secret_key,
            endpoint_url=self.bucket.endpoint,
            region_name="us-east-1",
        )
        with storelet.ZipBackup("example", destination=there) as backup:
            backup.include_directory(tree)
        return f"s3://{self.bucket.name}/{self.bucket.keys()[-1]}"

    def catalogue_bytes(self, url: str) -> int:
        data = self.bucket.read(url.rpartition("/")[2])
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return len(data) - archive.start_dir

    def ctl(self, *arguments: str | Path) -> str:
        self.proxy.requests.clear()
        self.proxy.bytes_got.clear()
        done = subprocess.run(
            [sys.executable, "-m", "storeletd.ctl", *arguments],
            cwd=CLONE,
            env=os.environ | self.bucket.environment | {"AWS_ENDPOINT_URL_S3": self.proxy.endpoint},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def store(tmp_path: Path, seaweedfs: Bucket) -> Iterator[Store]:
    with Proxy(seaweedfs.endpoint) as proxy:
        yield Store(tmp_path, seaweedfs, proxy)


def test_one_file_costs_its_own_bytes_and_the_catalogue(store: Store) -> None:
    """It is asked for, then its end, the catalogue before that, and the member are read."""
    url = store.back_up()
    most = store.catalogue_bytes(url) + len("1234\n" * 100) + ONE_HEADER
    target = store.path / "target"
    assert store.ctl("dump", url, WANTED) == "1234\n" * 100
    assert store.proxy.actions == ["HeadObject", "GetObject", "GetObject", "GetObject"]
    assert sum(store.proxy.bytes_got) <= most
    store.ctl("restore", url, f"/{WANTED}", "--target", target)
    assert (target / WANTED).read_text() == "1234\n" * 100
    assert store.proxy.actions == ["HeadObject", "GetObject", "GetObject", "GetObject"]
    assert sum(store.proxy.bytes_got) <= most
    store.ctl("dump", "--jobs", store.jobs, "example", WANTED)
    assert store.proxy.actions == ["ListObjectsV2", "GetObject", "GetObject", "GetObject"]


def test_a_large_file_is_read_once(store: Store) -> None:
    url = store.back_up()
    store.ctl("restore", url, "/large", "--target", store.path / "target")
    assert store.proxy.actions == ["HeadObject", *["GetObject"] * 5]  # 4 MiB at a time
    most = store.catalogue_bytes(url) + (10 << 20) + (10 << 10) + ONE_HEADER
    assert sum(store.proxy.bytes_got) <= most


def test_symbolic_links_are_read_together(store: Store) -> None:
    tree, target = store.path / "links", store.path / "target"
    tree.mkdir()
    for number in range(300):
        (tree / f"{number}").symlink_to(f"nowhere/{number}")
    store.ctl("restore", store.back_up(tree), "--target", target)
    assert describe_tree(target) == describe_tree(tree)
    assert store.proxy.actions == ["HeadObject", "GetObject", "GetObject"]


def test_what_an_archive_holds_costs_its_catalogue(store: Store) -> None:
    url = store.back_up()
    listed = store.ctl("files", url)
    assert listed.count("small/") == FILES + 1
    assert store.proxy.actions == ["HeadObject", "GetObject", "GetObject"]
    assert sum(store.proxy.bytes_got) == store.catalogue_bytes(url)


def test_the_versions_of_a_file_cost_a_list_and_the_catalogues(store: Store) -> None:
    urls = [store.back_up(), store.back_up()]
    found = store.ctl("find", "--jobs", store.jobs, "example", f"/{WANTED}")
    assert found.split()[-1] == WANTED
    assert store.proxy.actions == ["ListObjectsV2", *["GetObject"] * 4]
    listing, *read = store.proxy.bytes_got
    assert listing < 4096
    assert sum(read) == sum(map(store.catalogue_bytes, urls))


def test_a_catalogue_in_zip64_costs_no_more(store: Store) -> None:
    with io.BytesIO() as made:
        with zipfile.ZipFile(made, "w") as archive:
            for number in range(66_000):
                archive.writestr(f"{number}", b"")
        store.bucket.client.put_object(Bucket=store.bucket.name, Key="a.zip", Body=made.getvalue())
    url = f"s3://{store.bucket.name}/a.zip"
    assert store.ctl("files", url).count("\n") == 66_000
    assert store.proxy.actions == ["HeadObject", "GetObject", "GetObject"]
    assert sum(store.proxy.bytes_got) == store.catalogue_bytes(url)
