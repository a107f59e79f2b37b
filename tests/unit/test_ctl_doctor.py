"""The verb doctor: a job's sources, keys and places, looked at as the caller."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Bucket
from tests.scripts import AS_PLAIN_USER, ctl, run_script
from tests.servers import STRANGER


def write_job(job_dir: Path, *lines: str) -> Path:
    path = job_dir / "website.yaml"
    path.write_text("\n".join(["schedule: manual", *lines]) + "\n")
    path.chmod(0o600)
    return path


def save_to(bucket: Bucket) -> str:
    return (
        f"save: [{{s3: {bucket.name}, prefix: web/, endpoint_url: '{bucket.endpoint}', "
        "region_name: us-east-1, access_key: {env: KEY}, secret_key: {env: SECRET}}]"
    )


def keys_of(bucket: Bucket) -> dict[str, str]:
    return {"KEY": bucket.access_key, "SECRET": bucket.secret_key}


def states(document: dict[str, Any]) -> dict[str, str]:
    return {each["check"]: each["state"] for each in document["findings"]}


def test_a_job_that_can_run_is_said_to_one_line_a_check(
    job_dir: Path, tree: Path, destination: Path, seaweedfs: Bucket
) -> None:
    write_job(
        job_dir,
        f"include: [{{directory: {tree}}}, {{file: {tree}/hello.txt}}]",
        save_to(seaweedfs).removesuffix("]") + f", {{directory: {destination}}}]",
    )
    done = ctl("doctor", "website", "--jobs", str(job_dir), **keys_of(seaweedfs))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "sources",
        f"bucket {seaweedfs.name}, web/",
        f"directory {destination}",
        "A run can go well: 20 checks",
    ]
    assert f"  ok       source       {tree}" in lines
    assert "  ok       list         no archive of website yet" in lines
    assert seaweedfs.keys() == []
    assert os.listdir(destination) == []


def test_it_is_one_document_with_the_policy(job_dir: Path, tree: Path, seaweedfs: Bucket) -> None:
    path = write_job(job_dir, f"include: [{{directory: {tree}}}]", save_to(seaweedfs))
    done = ctl("doctor", str(path), "--json", **keys_of(seaweedfs))
    document = json.loads(done.stdout)
    assert (document["job"], document["exit_code"], done.returncode) == ("website", 0, 0)
    assert states(document)["copy"] == "ok"
    assert document["findings"][0] == {
        "about": "sources",
        "check": "source",
        "state": "ok",
        "message": str(tree),
        "hint": None,
    }
    done = ctl("doctor", str(path), "--policy", **keys_of(seaweedfs))
    assert json.loads(done.stdout) == document["policy"]


@pytest.mark.parametrize(
    ("more", "actions"),
    [
        ("reuse: true", ["s3:GetObject", "s3:DeleteObject"]),
        ("reuse: false", []),
        ("reuse: false\nverify: {every: 1w}", ["s3:GetObject"]),
        ("reuse: false\nkeep: {last: 3}", ["s3:GetObject", "s3:DeleteObject"]),
    ],
)
def test_the_policy_is_what_the_job_needs_and_no_more(
    job_dir: Path, more: str, actions: list[str]
) -> None:
    path = write_job(job_dir, "include: [{directory: /srv}]", "save: [{s3: a}, {s3: b}]", more)
    policy = json.loads(ctl("doctor", str(path), "--policy").stdout)
    archives = [each for each in policy["Statement"] if each["Sid"].startswith("Archives")]
    assert [each["Sid"] for each in archives] == ["Archives", "Archives2"]
    assert archives[1]["Action"] == ["s3:PutObject", "s3:AbortMultipartUpload", *actions]
    assert archives[1]["Resource"] == "arn:aws:s3:::b/website_*"


@pytest.mark.parametrize(
    ("key", "secret", "bucket_name", "code"),
    [
        ("AKIANOSUCHKEY", None, None, 12),
        (None, "wrong", None, 12),
        (STRANGER, None, None, 77),
        (None, None, "no-such-bucket", 10),
        (None, "", None, 12),
    ],
)
def test_what_fails_has_its_exit_code(
    job_dir: Path,
    tree: Path,
    seaweedfs: Bucket,
    key: str | None,
    secret: str | None,
    bucket_name: str | None,
    code: int,
) -> None:
    saving = save_to(seaweedfs).replace(seaweedfs.name, bucket_name or seaweedfs.name)
    path = write_job(job_dir, f"include: [{{directory: {tree}}}]", saving)
    keys = {
        "KEY": seaweedfs.access_key if key is None else key,
        "SECRET": seaweedfs.secret_key if secret is None else secret,
    }
    done = ctl("doctor", str(path), **keys)
    assert done.returncode == code
    assert "  failed   " in done.stdout
    assert " failed" in done.stdout.splitlines()[-1]
    assert seaweedfs.secret_key not in done.stdout + done.stderr
    assert json.loads(ctl("doctor", str(path), "--json", **keys).stdout)["exit_code"] == code


def test_sources_that_are_missing_empty_or_not_to_be_read_are_said(
    job_dir: Path, tree: Path, destination: Path
) -> None:
    path = write_job(
        job_dir,
        f"include: [{{directory: {tree}/empty}}, {{directory: {tree}/gone}}, {{file: {tree}/sub}},"
        " {new_dir: dump, run: [no-such-program]}]",
        f"save: [{{directory: {destination}}}]",
    )
    done = ctl("doctor", str(path), "--json")
    found = json.loads(done.stdout)["findings"][:4]
    assert [each["state"] for each in found] == ["warning", "failed", "failed", "warning"]
    assert found[1]["message"] == f"{tree}/gone is not there"
    assert done.returncode == 1


def test_a_source_that_this_user_may_not_read_is_said() -> None:
    script = AS_PLAIN_USER.replace("import os,", "import storeletd.checkup, os,") + (
        "with tempfile.TemporaryDirectory() as place:\n"
        "    os.chmod(place, 0o300)\n"
        "    print(storeletd.checkup.examine_source(place, is_directory=True).error)\n"
    )
    said = run_script(script).stdout
    assert said.startswith("cannot read /tmp")
    assert said.endswith(": Permission denied\n")


def test_a_secret_that_is_not_to_be_had_is_said(
    job_dir: Path, tree: Path, destination: Path
) -> None:
    path = write_job(
        job_dir,
        f"include: [{{directory: {tree}}}]",
        f"save: [{{directory: {destination}}}]",
        "encryption: {password: {file: /no/such/file}}",
    )
    done = ctl("doctor", str(path), "--json")
    assert (done.returncode, states(json.loads(done.stdout))["password"]) == (12, "failed")


def test_keys_of_this_shell_are_noted(job_dir: Path, tree: Path, seaweedfs: Bucket) -> None:
    saving = f"save: [{{s3: {seaweedfs.name}}}]"
    path = write_job(job_dir, f"include: [{{directory: {tree}}}]", saving)
    done = ctl("doctor", str(path), "--json", **seaweedfs.environment)
    assert (done.returncode, states(json.loads(done.stdout))["keys"]) == (0, "note")


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("website.yaml", "schedule: never\n", 78),
        ("website.py", 'SCHEDULE = "manual"\n', 2),
        ("other.yaml", "", 4),
    ],
)
def test_what_is_no_job_that_can_be_looked_at(
    job_dir: Path, name: str, text: str, code: int
) -> None:
    (job_dir / name).write_text(text)
    done = ctl("doctor", "website", "--jobs", str(job_dir))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("Error: ")


def test_it_says_as_whom_where_the_daemon_is_another_user(
    job_dir: Path, tree: Path, destination: Path, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file another user's")
    socket = tmp_path / "socket"
    socket.touch()
    os.chown(socket, 65534, 65534)
    path = write_job(
        job_dir, f"include: [{{directory: {tree}}}]", f"save: [{{directory: {destination}}}]"
    )
    said = "Checked as root; storeletd is nobody, who has other rights\n"
    assert ctl("--socket", str(socket), "doctor", str(path)).stderr == said
    options = ("--include", str(tree), "--to", str(destination), "--schedule", "manual")
    done = ctl("--socket", str(socket), "init", "x", *options, "--jobs", str(job_dir))
    assert done.stderr == said
