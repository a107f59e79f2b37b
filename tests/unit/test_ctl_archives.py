"""The verbs about archives: storeletctl as a process, with no daemon anywhere."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import storelet
from tests.helpers import ACCESS_KEY, CLONE, SECRET_KEY, Bucket
from tests.proxy import Proxy
from tests.scripts import ctl
from tests.trees import describe_tree, make_strange_tree

JOB = """\
schedule: manual
include: [{{directory: {source}, name: www}}]
save: [{{directory: {kept}}}]
"""


SSE_KEY = base64.b64encode(b"k" * 32).decode()


class Nights:
    """A job, and its archives of two nights; `storeletctl` finds them by the job's file alone."""

    def __init__(self, path: Path) -> None:
        self.source, self.kept, self.jobs = path / "source", path / "kept", path / "jobs"
        self.kept.mkdir()
        self.jobs.mkdir(mode=0o700)
        job = JOB.format(source=self.source, kept=self.kept)
        (self.jobs / "website.yaml").write_text(job)
        make_strange_tree(self.source)
        self.first = self.back_up()
        (self.source / "added").write_text("new")
        (self.source / "random").unlink()
        (self.source / "empty dir").mkdir()
        (self.source / "directory" / "plain").write_text("changed")
        (self.source / "large").chmod(0o600)
        self.second = self.back_up()

    def back_up(self) -> str:
        before = set(self.kept.iterdir())
        with storelet.ZipBackup("website", destination=storelet.Directory(self.kept)) as backup:
            backup.include_directory(self.source, name="www")
        (made,) = set(self.kept.iterdir()) - before
        return str(made)

    def ctl(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return ctl(verb, "--jobs", str(self.jobs), *arguments)

    def json(self, verb: str, *arguments: str) -> Any:
        return json.loads(self.ctl(verb, *arguments, "--json").stdout)


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_archives_of_a_job_and_of_a_place(nights: Nights) -> None:
    of_job = nights.ctl("archives", "website")
    assert of_job.stdout.split()[-1] == nights.second
    assert of_job.stdout == ctl("archives", f"{nights.kept}/").stdout
    found = nights.json("archives", "website")["archives"]
    assert [each["url"] for each in found] == [
        Path(nights.first).as_uri(),
        Path(nights.second).as_uri(),
    ]
    assert {each["job"] for each in found} == {"website"}


def test_a_place_that_is_gone_does_not_keep_the_others_archives_from_being_found(
    nights: Nights,
) -> None:
    path = nights.jobs / "website.yaml"
    gone = nights.kept.parent / "gone"
    path.write_text(path.read_text().replace("save: [", f"save: [{{directory: {gone}}}, "))
    found = nights.ctl("files", "website", "www/added")
    assert (found.returncode, found.stdout.split()[-1]) == (0, "www/added")
    assert found.stderr.startswith(f"Not looked at: no such directory: {gone}")
    for archive in Path(nights.kept).iterdir():
        archive.unlink()
    nothing = nights.ctl("files", "website", "www/added")
    assert nothing.returncode == 10
    assert f"no such directory: {gone}" in nothing.stderr


def test_files_are_listed_as_ls_does(nights: Nights) -> None:
    listed = nights.ctl("files", "website", "www/directory/plain")
    uid, gid = os.getuid(), os.getgid()
    assert listed.stdout.split()[:4] == ["-rw-r-----", str(uid), str(gid), "7"]
    assert listed.stdout.endswith(" www/directory/plain\n")
    every = nights.json("files", "website")["members"]
    assert {each["name"] for each in every} >= {"www/", "www/added", "www/nothing in it/"}
    nothing = nights.ctl("files", "website", "*.nowhere")
    assert (nothing.returncode, nothing.stdout) == (4, "")
    assert "fits *.nowhere" in nothing.stderr


def test_an_archive_is_named_in_many_ways(nights: Nights) -> None:
    today = datetime.now().astimezone()
    names = [
        nights.second,
        Path(nights.second).as_uri(),
        Path(nights.second).name,
        "website",
        "website@latest",
        f"website@{today:%Y-%m-%d}",
        f"website@{today + timedelta(days=400):%Y-%m-%dT%H:%M}",
    ]
    for name in names:
        assert nights.json("files", name)["archive"] == Path(nights.second).as_uri(), name
    second = storelet.open_archive(nights.second).started
    assert second is not None
    before = (second - timedelta(microseconds=1)).isoformat()
    assert nights.json("files", f"website@{before}")["archive"] == Path(nights.first).as_uri()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("nowhere", 4, "no such job or archive: nowhere"),
        ("website@2001-01-01", 4, "no archive from 2001-01-01 or before"),
        ("website@yesterday", 2, "no time: yesterday"),
        ("website_20010101000000.zip", 4, "no such archive"),
        ("/nowhere/website_20010101000000.zip", 4, "no such"),
        ("../../nowhere", 4, "no such"),
        ("http://example.org/x.zip", 2, "not a place for archives"),
    ],
)
def test_what_names_no_archive_is_said_in_a_line(
    nights: Nights, name: str, code: int, said: str
) -> None:
    done = nights.ctl("files", name)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_what_is_called_like_a_job_does_not_hide_it(nights: Nights, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "website").mkdir(parents=True)
    listed = ctl("files", "website", "--jobs", str(nights.jobs), "--json", cwd=here)
    assert json.loads(listed.stdout)["archive"] == Path(nights.second).as_uri()
    (here / "nightly").mkdir()
    shutil.copy(nights.first, here / "nightly")
    for place in ("./website", "nightly", "s3://my-bucket", "s3://my-bucket/web/"):
        done = ctl("files", place, cwd=here)
        assert done.returncode == 2
        assert f"{place} is a place for archives, not an archive" in done.stderr
    hint = (
        ctl("files", "nightly", cwd=here).stderr.splitlines()[1].removeprefix("Try: storeletctl ")
    )
    assert Path(nights.first).name in ctl(*hint.split(), cwd=here).stdout


def test_a_hint_can_be_copied(nights: Nights, tmp_path: Path) -> None:
    for name in ("website", f"website@{datetime.now().astimezone():%Y-%m-%d}", nights.second):
        done = nights.ctl("files", name, "*.nowhere")
        hint = done.stderr.splitlines()[1].removeprefix("Try: ")
        assert hint == f"storeletctl files {name} --jobs {nights.jobs}"
        assert "www/added" in ctl(*hint.split()[1:]).stdout
    done = nights.ctl("files", "website@2001-01-01")
    hint = done.stderr.splitlines()[1].removeprefix("Try: ").partition(";")[0]
    assert nights.second in ctl(*hint.split()[1:]).stdout
    (nights.source / "-rf").touch()
    nights.back_up()
    hint = nights.ctl("dump", "website", "--", "-rf").stderr.splitlines()[1].removeprefix("Try: ")
    assert ctl(*hint.split()[1:]).stdout.endswith(" www/-rf\n")


def test_a_url_is_reached_with_the_keys_of_its_job(seaweedfs: Bucket, tmp_path: Path) -> None:
    place = storelet.S3(
        seaweedfs.name, ACCESS_KEY, SECRET_KEY, prefix="web/", endpoint_url=seaweedfs.endpoint
    )
    encryption = storelet.Encryption("password")
    make_strange_tree(tmp_path / "tree")
    with storelet.ZipBackup("website", destination=place, encryption=encryption) as backup:
        backup.include_directory(tmp_path / "tree")
    (url,) = (each.url for each in storelet.list_archives(place))
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o700)
    for name, text in (("key", ACCESS_KEY), ("secret", SECRET_KEY), ("password", "password")):
        (tmp_path / name).write_text(text)
    (jobs / "website.yaml").write_text(f"""\
schedule: manual
include: [{{directory: /}}]
encryption: {{password: {{file: {tmp_path}/password}}}}
save:
  - s3: {seaweedfs.name}
    prefix: web/
    endpoint_url: {seaweedfs.endpoint}
    access_key: {{file: {tmp_path}/key}}
    secret_key: {{file: {tmp_path}/secret}}
""")
    where = ("--jobs", str(jobs))
    done = ctl("dump", url, "directory/plain", *where)
    assert (done.stdout, done.stderr) == ("plain text\n" * 100, "")
    # A key of the environment comes first: that of the job may be for writing alone.
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "wrong"}
    assert ctl("dump", url, "directory/plain", *where, **wrong).returncode
    right = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    (tmp_path / "secret").write_text("wrong")
    assert ctl("dump", url, "directory/plain", *where, **right).returncode == 0


def test_who_knows_only_the_bucket_is_led_to_the_archives(seaweedfs: Bucket) -> None:
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with storelet.ZipBackup("website") as backup:
        backup.include_file(__file__)
        store: dict[str, Any] = {"endpoint_url": seaweedfs.endpoint, "prefix": "a host/web/"}
        made = backup.save_to_s3(seaweedfs.name, ACCESS_KEY, SECRET_KEY, **store)
    arguments = ["archives", f"s3://{seaweedfs.name}", "--endpoint-url", str(seaweedfs.endpoint)]
    for below in ("a host/", "a host/web/"):
        done = ctl(*arguments, **keys)
        assert (done.returncode, done.stdout) == (0, "")
        remark, hint = done.stderr.splitlines()
        assert remark == "no archives"
        arguments = shlex.split(hint.removeprefix("Try: storeletctl "))
        assert arguments[1] == f"s3://{seaweedfs.name}/{below}"
    assert ctl(*arguments, **keys).stdout.endswith(f"{made}\n")


def test_why_there_is_no_archive_is_said(seaweedfs: Bucket) -> None:
    with storelet.ZipBackup("sealed") as backup:
        backup.include_file(__file__)
        key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": SSE_KEY}
        store: dict[str, Any] = {"endpoint_url": seaweedfs.endpoint, "upload": key}
        sealed = backup.save_to_s3(seaweedfs.name, ACCESS_KEY, SECRET_KEY, **store)
    where = ("--endpoint-url", str(seaweedfs.endpoint))
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    for url, more, code, said in (
        (f"s3://{seaweedfs.name}/x.zip", {}, 4, "Error: no such archive: "),
        (sealed, {}, 77, "is it encrypted with an SSECustomerKey?"),
        ("s3://no-such-bucket/x.zip", {}, 10, "Error: no such bucket: no-such-bucket\n"),
        (f"s3://{seaweedfs.name}/x.zip", {"AWS_SECRET_ACCESS_KEY": "x"}, 12, "refuses the key"),
    ):
        done = ctl("files", url, *where, **{**keys, **more})
        assert done.returncode == code
        assert said in done.stderr
        assert "make it" not in done.stderr


def test_each_command_of_the_manual_works_as_it_is_typed(nights: Nights, tmp_path: Path) -> None:
    (nights.source / "index.php").write_text("<?php")
    newest = nights.back_up()
    chapter = (CLONE / "README.rst").read_text().split("\nGetting your files back\n===")[1]
    blocks = chapter.split("\nIn a script\n")[0].split(".. code-block:: console\n\n")[1:]
    lines = [line for block in blocks for line in re.findall(r"^    \$ (.*)", block, re.M)]
    here = {
        "2026-11-20 ": f"{datetime.now().astimezone():%Y-%m-%d} ",
        "s3://my-bucket/web/website_20261120023000.zip": newest,
        "s3://my-bucket/web/": f"{nights.kept}/",
        "/tmp/back": str(tmp_path / "back"),
        "/srv/back": str(tmp_path / "new"),
    }
    verbs = []
    for line in lines:
        for there, instead in here.items():
            line = line.replace(there, instead)
        command, verb, *arguments = shlex.split(line, comments=True)
        if command != "storeletctl":
            continue
        done = nights.ctl(verb, *arguments)
        assert done.returncode == 0, line + done.stderr
        assert done.stdout or verb == "diff"
        verbs.append(verb)
    assert set(verbs) == {"archives", "find", "files", "dump", "diff", "restore"}
    assert describe_tree(tmp_path / "back" / "www") == describe_tree(nights.source)
    assert describe_tree(tmp_path / "new" / "www") == describe_tree(nights.source)


def test_versions_of_a_file_are_found(nights: Nights) -> None:
    versions = nights.json("find", "website", "plain")["versions"]
    assert sorted((each["bytes"], len(each["archives"])) for each in versions) == [
        (7, 1),
        (1100, 1),
    ]
    (same,) = nights.json("find", "website", "www/setuid")["versions"]
    assert len(same["archives"]) == 2
    assert nights.ctl("find", "website", "nowhere").returncode == 1


def test_one_file_is_dumped(nights: Nights) -> None:
    assert nights.ctl("dump", "website", "www/directory/plain").stdout == "changed"
    assert nights.ctl("dump", nights.first, "/www/directory/plain").stdout == "plain text\n" * 100
    missing = nights.ctl("dump", "website", "plain")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert missing.stderr.startswith("Error: no file plain in website_")
    hint = missing.stderr.splitlines()[1].removeprefix("Try: ").split()
    assert "www/directory/plain" in ctl(*hint[1:]).stdout


def test_that_an_archive_is_damaged_is_said_wherever_something_is_not_found(
    nights: Nights, tmp_path: Path
) -> None:
    Path(nights.second).write_bytes(b"no zip")
    damage = "it is no zip"
    target = str(tmp_path / "target")
    for arguments in (
        ("files", "website"),
        ("files", "website", "added"),
        ("restore", "website", "--target", target),
        ("restore", "website", "added", "--target", target),
        ("dump", "website", "www/added"),
    ):
        done = nights.ctl(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        said, hint = done.stderr.splitlines()
        assert said.startswith("Error: nothing")
        assert damage in said
        assert hint == f"Try: storeletctl archives website --jobs {nights.jobs}"
    done = nights.ctl("diff", nights.first, "website")
    assert done.returncode == 3
    assert damage in done.stderr
    assert damage in nights.json("diff", nights.first, "website")["problems"][0]
    (tmp_path / "other.zip").write_bytes(b"")
    done = ctl("files", str(tmp_path / "other.zip"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_differences_are_told(nights: Nights) -> None:
    changes = {
        e["name"]: e["change"] for e in nights.json("diff", nights.first, "website")["changes"]
    }
    assert {name: changes.get(name) for name in ("www/added", "www/random", "www/large")} == {
        "www/added": "+",
        "www/random": "-",
        "www/large": "m",
    }
    assert changes["www/directory/plain"] == "M"
    assert changes["www/empty dir/"] == "+"
    assert "www/setuid" not in changes
    assert nights.json("diff", "website", "website")["changes"] == []


def test_a_job_is_restored(nights: Nights, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = nights.ctl("restore", "website", "--target", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Restored ")
    assert describe_tree(target / "www") == describe_tree(nights.source)
    again = nights.ctl("restore", "website", "--target", str(target))
    assert "Restored 0 files" in again.stdout
    assert "there already" in again.stdout


def test_what_is_there_is_named_and_kept(nights: Nights, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "www").mkdir(parents=True)
    (target / "www" / "added").write_text("another")
    done = nights.ctl("restore", "website", "--target", str(target))
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "Not restored: www/added: something else is there already",
        "Try: --overwrite, or where the archive's is newer --overwrite=if-newer",
    ]
    assert (target / "www" / "added").read_text() == "another"
    done = nights.ctl("restore", "website", "www/added", "--overwrite", "--target", str(target))
    assert done.returncode == 0
    assert (target / "www" / "added").read_text() == "new"


def test_a_secret_that_is_missing_is_said_once(nights: Nights, tmp_path: Path) -> None:
    job = nights.jobs / "website.yaml"
    missing = tmp_path / "missing"
    s3 = f"{{s3: bucket, access_key: {{file: {missing}}}, secret_key: {{file: {missing}}}}}"
    job.write_text(job.read_text().replace("save: [", f"save: [{s3}, "))
    done = nights.ctl("archives", "website")
    assert done.stdout.split()[-1] == nights.second
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"Not looked at: no secret for {{file: {missing}}}")
    job.write_text(job.read_text().replace(f", {{directory: {nights.kept}}}", ""))
    done = nights.ctl("archives", "website")
    assert done.returncode == 12
    assert done.stderr.count("no secret for") == 1


def test_remarks_are_neither_json_nor_worth_to_end_for(nights: Nights) -> None:
    storelet.open_archive(nights.second).mark_bad("a test")
    assert "is marked bad" in nights.ctl("files", "website", "www/added").stderr
    done = nights.ctl("files", "website", "*.nowhere", "--json")
    assert json.loads(done.stderr)["exit_code"] == 4
    with Path("/dev/full").open("w") as full:
        arguments = ("dump", "--jobs", str(nights.jobs), "website", "www/directory/plain")
        done = subprocess.run(
            [sys.executable, "-m", "storeletd.ctl", *arguments],
            cwd=CLONE,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, "plain text\n" * 100)


def test_a_pattern_that_nothing_fits_is_named(nights: Nights, tmp_path: Path) -> None:
    target = str(tmp_path / "target")
    patterns = ("www/added", "www/adedd", "!*.tmp")
    done = nights.ctl("restore", "website", *patterns, "--target", target)
    assert (done.returncode, done.stderr) == (3, "Nothing fits www/adedd\n")
    assert done.stdout.startswith("Restored 1 file, ")
    assert nights.json("restore", "website", *patterns, "--target", target)["unfitting"] == [
        "www/adedd"
    ]
    done = nights.ctl("files", "website", *patterns)
    assert (done.returncode, done.stderr) == (4, "Nothing fits www/adedd\n")
    assert done.stdout.endswith(" www/added\n")


def test_a_line_about_what_is_not_restored_is_said_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as made:
        made.writestr("twice", "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("twice", "2")
    done = ctl("restore", str(tmp_path / "twice.zip"), "--target", str(tmp_path / "target"))
    assert done.stderr == "Not restored: twice: another member has the same name\n"


def test_a_target_without_a_name_is_none(nights: Nights, tmp_path: Path) -> None:
    done = ctl("restore", nights.first, "--target", "", cwd=tmp_path)
    assert done.returncode == 2
    assert "is a variable of the shell not set?" in done.stderr
    assert not (tmp_path / "www").exists()


def test_in_place_puts_things_where_they_came_from(nights: Nights) -> None:
    before = describe_tree(nights.source)
    (nights.source / "added").unlink()
    (nights.source / "points").unlink()
    dry = nights.json("restore", "website", "--in-place", "--dry-run")
    assert dry["files"] == 2
    assert not (nights.source / "added").exists()
    done = nights.ctl("restore", "website", "--in-place")
    assert (done.returncode, done.stderr) == (0, "")
    assert describe_tree(nights.source) == before


def test_a_target_is_given_one_way(nights: Nights, tmp_path: Path) -> None:
    for arguments in ([], ["--in-place", "--target", str(tmp_path)]):
        done = nights.ctl("restore", "website", *arguments)
        assert done.returncode == 2
        assert "either --target DIR, --in-place or --database NAME" in done.stderr


def test_from_s3_one_small_member_costs_its_bytes_and_the_catalogue(
    seaweedfs: Bucket, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3_000):
        (tree / f"file {number:04}").write_text(os.urandom(50).hex() * (number % 7 + 1))
    (tree / "huge").write_bytes(os.urandom(60_000_000))
    store: dict[str, Any] = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    with storelet.ZipBackup(
        "example",
        destination=storelet.S3(
            seaweedfs.name, prefix="web/", endpoint_url=seaweedfs.endpoint, **store
        ),
    ) as backup:
        backup.include_directory(tree)
    (key,) = seaweedfs.keys()
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    assert seaweedfs.endpoint is not None
    with Proxy(seaweedfs.endpoint) as proxy:
        where = ("--endpoint-url", proxy.endpoint)
        done = ctl("dump", f"s3://{seaweedfs.name}/{key}", "file 1234", *where, **keys)
        assert (done.returncode, done.stderr) == (0, "")
        reads = [each for each in proxy.requests if each.method == "GET"]
        ranges = [each.headers["range"].removeprefix("bytes=").split("-") for each in reads]
        cost = sum(int(last) - int(first) + 1 for first, last in ranges)
        assert len(proxy.requests) <= 6
        assert cost < 3_001 * 200 + 10_000
        listed = ctl("archives", f"s3://{seaweedfs.name}/web", *where, **keys)
        assert listed.stdout.split()[-1] == f"s3://{seaweedfs.name}/{key}"
        target = str(tmp_path / "target")
        done = ctl("restore", f"s3://{seaweedfs.name}/{key}", "--target", target, *where, **keys)
        assert (done.returncode, done.stderr) == (0, "")
    assert describe_tree(tmp_path / "target") == describe_tree(tree)


def test_an_encrypted_archive_takes_its_password_from_the_job_a_file_or_the_environment(
    nights: Nights, tmp_path: Path
) -> None:
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("pässword\n")
    wrong.write_text("another\n")
    with storelet.ZipBackup(
        "website",
        destination=storelet.Directory(nights.kept),
        encryption=storelet.Encryption("pässword"),
    ) as backup:
        backup.include_directory(nights.source, name="www")
    archive = str(max(nights.kept.iterdir()))
    what = ("dump", archive, "www/added")
    none = ctl(*what)
    assert (none.returncode, none.stdout) == (12, "")
    assert "encrypted, and no password" in none.stderr
    assert ctl(*what, "--password-file", str(wrong)).returncode == 12
    assert ctl(*what, "--password-file", str(secret)).stdout == "new"
    assert ctl(*what, STORELET_PASSWORD="pässword").stdout == "new"
    target = tmp_path / "target"
    refused = nights.ctl("restore", "website", "--target", str(target))
    assert refused.returncode == 12
    assert list(target.iterdir()) == []
    job = nights.jobs / "website.yaml"
    job.write_text(job.read_text() + f"encryption: {{password: {{file: {secret}}}}}\n")
    assert nights.ctl("dump", "website", "www/added").stdout == "new"
    assert nights.ctl("restore", "website", "--target", str(target)).returncode == 0
    assert describe_tree(target / "www") == describe_tree(nights.source)


def test_an_archive_is_verified(nights: Nights) -> None:
    done = nights.ctl("verify", "website")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": all right\n")
    assert nights.json("verify", "website", "--sample", "40%")["right"]
    path = Path(nights.second)
    data = bytearray(path.read_bytes())
    member = next(storelet.open_archive(path).members(["added"]))
    data[data.index(b"new", member.offset)] ^= 0xFF
    path.write_bytes(data)
    broken = nights.ctl("verify", "website")
    assert broken.returncode == 1
    said = "Not right: www/added: its CRC is not that of its catalogue\n"
    assert broken.stdout.endswith(" of it are right\n")
    assert broken.stderr == f"{said}Marked as bad by {path}.bad\n"
    assert [each["bad"] for each in nights.json("archives", "website")["archives"]] == [False, True]
    newest = nights.ctl("files", "website", "--json")
    assert json.loads(newest.stdout)["archive"] == Path(nights.first).as_uri()
    assert newest.stderr == ""
    nights.back_up()
    assert nights.ctl("verify", "website").returncode == 0
    for part in ("0%", "101%", "half", "0.5"):
        assert nights.ctl("verify", "website", "--sample", part).returncode == 2


@pytest.mark.parametrize("store", ["s3_server", "seaweedfs"])
def test_a_deleted_archive_is_restored_while_its_version_lives(
    request: pytest.FixtureRequest, store: str, tmp_path: Path
) -> None:
    bucket: Bucket = request.getfixturevalue(store)
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    tree = tmp_path / "tree"
    make_strange_tree(tree)
    place = storelet.S3(
        bucket.name,
        bucket.access_key,
        bucket.secret_key,
        prefix="web/",
        endpoint_url=bucket.endpoint,
        region_name="us-east-1",
    )
    with storelet.ZipBackup("website", destination=place) as backup:
        backup.include_directory(tree)
    (key,) = bucket.keys()
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    keys = {
        "AWS_ACCESS_KEY_ID": bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": bucket.endpoint or "",
    }
    url = f"s3://{bucket.name}/web/"
    assert ctl("archives", url, **keys).stdout == ""
    done = ctl("archives", url, "--versions", "--json", **keys)
    (deleted,) = json.loads(done.stdout)["archives"]
    assert deleted["deleted"]
    assert deleted["url"].startswith(f"s3://{bucket.name}/{key}?versionId=")
    restored = ctl("restore", deleted["url"], "--target", str(tmp_path / "target"), **keys)
    assert (restored.returncode, restored.stderr) == (0, "")
    assert describe_tree(tmp_path / "target") == describe_tree(tree)
    assert ctl("files", f"s3://{bucket.name}/{key}", **keys).returncode == 4
