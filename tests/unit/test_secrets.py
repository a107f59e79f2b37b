"""References to secrets: what may stand in a job file, and what becomes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from storelet.errors import CredentialsError, StoreletError
from storeletd.secrets import SecretReference, parse_reference, resolve


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_credential_is_what_its_file_holds_without_the_newline(tmp_path: Path, ending: str) -> None:
    (tmp_path / "s3-key").write_bytes(b" p\xc3\xa4ss word " + ending.encode())
    reference = parse_reference({"credential": "s3-key"})
    assert resolve(reference, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == " päss word "


def test_credentials_directory_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3-key").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert resolve(parse_reference({"credential": "s3-key"})) == "secret"


def test_variable_and_file_and_plain_secret_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    assert resolve(parse_reference({"env": "KEY"}), {"KEY": "from a variable"}) == "from a variable"
    assert resolve(parse_reference({"file": str(tmp_path / "key")}), {}) == "from a file"
    assert resolve(SecretStr("plain"), {}) == "plain"


@pytest.mark.parametrize("name", ["../shadow", "a/b", "/etc/shadow", "", ".", "..", "a\0b"])
def test_credential_cannot_lead_out_of_its_directory(name: str) -> None:
    with pytest.raises(ValueError, match="name of a credential"):
        parse_reference({"credential": name})


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        {},
        {"credential": "a", "env": "hunter2"},
        {"creds": "hunter2"},
        {"env": 5},
        {"env": "hunter2="},
        {"env": ""},
        {"file": "hunter2"},
        ["hunter2"],
        None,
    ],
)
def test_anything_else_is_no_reference_and_is_not_shown(value: object) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        parse_reference(value)
    assert "hunter2" not in str(raised.value)


def test_reference_shows_as_it_is_written() -> None:
    assert str(SecretReference(kind="env", name="KEY")) == "{env: KEY}"


def test_missing_credential_names_the_reference_and_how_to_give_it(tmp_path: Path) -> None:
    reference = parse_reference({"credential": "s3-key"})
    for environment in ({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}):
        with pytest.raises(StoreletError, match=r"\{credential: s3-key\}") as raised:
            resolve(reference, environment)
        assert "systemctl edit storeletd" in str(raised.value.hint)
        assert "LoadCredential=s3-key:/" in str(raised.value.hint)
        assert raised.value.exit_code == 12


@pytest.mark.parametrize("environment", [{}, {"KEY": ""}])
def test_missing_or_empty_variable_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(CredentialsError, match=r"\{env: KEY\}") as raised:
        resolve(parse_reference({"env": "KEY"}), environment)
    assert raised.value.hint


@pytest.mark.parametrize("data", [b"hunter2\xff", b"hunter2" * 200_000, b"", b"\n"])
def test_file_that_holds_no_secret_is_an_error_that_shows_nothing(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(CredentialsError, match="no secret for") as raised:
        resolve(parse_reference({"file": str(tmp_path / "key")}), {})
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in repr(error)
        error = error.__cause__ or error.__context__


def test_fifo_and_directory_do_not_block_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "directory"):
        with pytest.raises(CredentialsError, match="no secret for"):
            resolve(parse_reference({"file": str(tmp_path / name)}), {})
