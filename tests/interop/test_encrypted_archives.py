"""Encrypted archives, read by programs that are not Storelet, and theirs by ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import storelet
from storelet.encryption import CODE_BYTES, HEAD_BYTES, Decryptor
from tests.interop.readers import look

PASSWORD = "open sesame"
needs_7z = pytest.mark.skipif(not shutil.which("7z"), reason="7z is not installed")
needs_bsdtar = pytest.mark.skipif(not shutil.which("bsdtar"), reason="bsdtar is not installed")
needs_unzip = pytest.mark.skipif(not shutil.which("unzip"), reason="unzip is not installed")


@pytest.fixture
def encrypted(tree: Path, tmp_path: Path) -> Path:
    """Back the tree up, with a large file and one that does not shrink; return the archive."""
    (tree / "large").write_bytes(b"large " * 500_000)
    (tree / "large and random").write_bytes(os.urandom(3_000_000))
    (tmp_path / "kept").mkdir()
    with storelet.ZipBackup(
        "example",
        destination=storelet.Directory(tmp_path / "kept"),
        encryption=storelet.Encryption(PASSWORD),
    ) as backup:
        backup.include_directory(tree)
    (archive,) = (tmp_path / "kept").iterdir()
    return archive


def run(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


@needs_7z
def test_7z_opens_it_with_the_password(encrypted: Path, tree: Path, tmp_path: Path) -> None:
    assert run("7z", "t", "-bd", f"-p{PASSWORD}", encrypted).returncode == 0
    into = tmp_path / "into"
    done = run("7z", "x", "-y", "-bd", f"-p{PASSWORD}", f"-o{into}", encrypted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: (each.kind, each.content) for name, each in look(into).items()} == {
        name: (each.kind, each.content) for name, each in look(tree).items()
    }


@needs_7z
def test_7z_finds_each_file_closed_with_another_password_or_tampered_with(encrypted: Path) -> None:
    done = run("7z", "t", "-bd", "-popen barley", encrypted)
    assert done.returncode != 0
    with zipfile.ZipFile(encrypted) as opened:
        files = [each for each in opened.infolist() if not each.is_dir()]
    assert done.stderr.count(b"Wrong password") == len(files)
    data = bytearray(encrypted.read_bytes())
    data[len(data) // 2] ^= 1  # in one of the large ones
    encrypted.write_bytes(data)
    assert run("7z", "t", "-bd", f"-p{PASSWORD}", encrypted).returncode != 0


@needs_7z
@pytest.mark.parametrize(("strength", "bits"), [(1, 128), (2, 192), (3, 256)])
@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_what_7z_encrypted_is_decrypted(
    tmp_path: Path, strength: int, bits: int, size: int
) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    archive = tmp_path / "of-7z.zip"
    how = ("-tzip", "-mx=0", f"-mem=AES{bits}", f"-p{PASSWORD}")
    assert run("7z", "a", "-bd", *how, archive, tmp_path / "file").returncode == 0
    with zipfile.ZipFile(archive) as opened:
        (info,) = opened.infolist()
    whole = archive.read_bytes()
    start = 30 + int.from_bytes(whole[26:28], "little") + int.from_bytes(whole[28:30], "little")
    stored = whole[start : start + info.compress_size]
    head = HEAD_BYTES[strength]
    decryptor = Decryptor(PASSWORD.encode(), stored[:head])
    assert decryptor.update(stored[head:-CODE_BYTES]) == data
    decryptor.finish(stored[-CODE_BYTES:])


@needs_bsdtar
@pytest.mark.parametrize("read", [Path.read_bytes, None], ids=["from a pipe", "from a file"])
def test_bsdtar_opens_all_but_symbolic_links(
    encrypted: Path, tree: Path, tmp_path: Path, read: Callable[[Path], bytes] | None
) -> None:
    """Its 3.6 has no way to decrypt a link's target, whoever encrypted it."""
    into = tmp_path / "into"
    into.mkdir()
    done = subprocess.run(
        ["bsdtar", "--passphrase", PASSWORD, "-xf", "-" if read else encrypted, "-C", into],
        input=read(encrypted) if read else b"",
        capture_output=True,
    )
    links = {name for name, each in look(tree).items() if each.kind == "link"}
    found = {name: each.content for name, each in look(into).items() if name not in links}
    assert found == {n: each.content for n, each in look(tree).items() if n not in links}
    assert done.returncode == 0 or b"link entry" in done.stderr


@needs_unzip
def test_unzip_says_that_it_cannot(encrypted: Path) -> None:
    done = run("unzip", "-P", PASSWORD, "-t", encrypted, "hello.txt")
    assert done.returncode != 0
    assert b"5.1" in done.stdout + done.stderr or b"99" in done.stdout + done.stderr
