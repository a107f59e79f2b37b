"""Whole backups with a password: what is in the archive, and what is reused night after night.

The archives are read by `tests/zipparser`, which decrypts by its own means and finds every byte
that is not as WinZip's specification has it, and by pyzipper.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import pyzipper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storelet
from storelet import archive
from storelet.archive import Piece, write_members
from storelet.catalogue import Header, find_catalogue, read_headers
from storelet.deflate import count_cores
from storelet.destination.contract import Stored
from storelet.entry import Entry
from storelet.layout import Layout
from storelet.plan import WHOLE_BYTES, Plan
from storelet.source import Source, walk
from storelet.zipformat import ArchiveRecord
from tests.helpers import Bucket
from tests.nights import Nights, archives, contents, contents_of, last
from tests.zipparser import parse_zip

MIB = 1 << 20
PASSWORD = "open sesame"
ENCRYPTION = storelet.Encryption(PASSWORD)
OTHER = storelet.Encryption("open barley")
MARKER = b"a marker that is nowhere but in one file"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture
def nights(tree: Path) -> Nights:
    """Nights of a tree with large files, too, and a link that leads to what is secret."""
    (tree / "large").write_bytes(os.urandom(MIB) + MARKER + b"text " * MIB)
    (tree / "marked").write_bytes(MARKER)
    (tree / "marked link").symlink_to(MARKER.decode())
    return Nights(tree)


def by_pyzipper(path: Path) -> dict[str, bytes]:
    """Return what pyzipper finds in an archive."""
    with pyzipper.AESZipFile(path) as opened:
        opened.setpassword(PASSWORD.encode())
        return {name: opened.read(name) for name in opened.namelist()}


def headers_of(path: Path) -> list[Header]:
    data = path.read_bytes()
    found = find_catalogue(data[-98:])
    assert found is not None
    return list(read_headers(data[found[0] : sum(found)]))


# What is in the archive -------------------------------------------------------------------------


@pytest.mark.parametrize("is_spooled", [True, False], ids=["spooled", "streamed"])
@pytest.mark.parametrize("compression", ["fast", "small", "none"])
def test_all_is_there_with_the_password_and_nothing_without(
    nights: Nights, tree: Path, kept: Path, compression: str, is_spooled: bool
) -> None:
    how = {"compression": compression, "encryption": ENCRYPTION}
    if is_spooled:
        nights.spool(directory=kept, **how)
    else:
        nights.back_up(storelet.Directory(kept), **how)
    (path,) = archives(kept)
    found = parse_zip(path.read_bytes(), password=PASSWORD)
    assert contents(found) == contents_of(tree) == by_pyzipper(path)
    for member in found.members:
        assert member.is_encrypted != member.name.endswith(b"/"), member.name
    assert MARKER not in path.read_bytes()
    crc = zlib.crc32(MARKER).to_bytes(4, "little")
    assert crc not in path.read_bytes()
    nights.back_up(storelet.Directory(kept), compression=compression)
    assert MARKER in archives(kept)[-1].read_bytes(), "else nothing was proved"
    assert crc in archives(kept)[-1].read_bytes()


def test_what_is_stored_is_what_is_reported(nights: Nights, kept: Path) -> None:
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    stored = {member.name.decode(): len(member.stored) for member in last(kept, PASSWORD).members}
    said = {event.member: event.bytes_stored for event in nights.of(storelet.Added)}
    assert said == {name: size for name, size in stored.items() if not name.endswith("/")}
    assert said["nothing"] == 28


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text("abcü", min_size=1, max_size=6),
        st.binary(max_size=300)
        | st.sampled_from(
            [0, 1, WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + 1, 3 * WHOLE_BYTES]
        ).map(os.urandom),
        max_size=5,
    ),
    st.text(min_size=1, max_size=20),
    st.sampled_from(["fast", "small", "none"]),
)
def test_any_files_come_back_with_any_password(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, bytes],
    password: str,
    compression: str,
) -> None:
    top = tmp_path_factory.mktemp("any")
    (top / "source").mkdir()
    (top / "kept").mkdir()
    for name, data in files.items():
        (top / "source" / name).write_bytes(data)
    with storelet.ZipBackup(
        "example", compression=compression, encryption=storelet.Encryption(password)
    ) as backup:
        backup.include_directory(top / "source")
        backup.save_to_directory(top / "kept")
    assert contents(last(top / "kept", password)) == files
    with pyzipper.AESZipFile(archives(top / "kept")[0]) as opened:
        opened.setpassword(password.encode())
        assert opened.testzip() is None


# Helpers ----------------------------------------------------------------------------------------


def helpers() -> Iterator[Path]:
    """Yield the processes that pack for this one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"storelet.packer" in (process / "cmdline").read_bytes():
                yield process
        except OSError:
            continue


@pytest.mark.parametrize("password", [PASSWORD, "ü\udcff" * 33], ids=["ASCII", "bytes"])
def test_helpers_encrypt_with_a_password_that_no_other_process_sees(
    tree: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setattr(archive, "_LITTLE_BYTES", 0)
    for number in range(1000):
        (tree / f"s{number:03}").write_bytes(b"small" * number)
    shown: dict[str, bytes] = {}

    def look(_event: storelet.Event) -> None:
        for process in helpers():
            shown[process.name] = b"".join(
                (process / name).read_bytes() for name in ("cmdline", "environ")
            )

    encryption = storelet.Encryption(password)
    with (
        storelet.observe(look),
        storelet.ZipBackup(
            "example", destination=storelet.Directory(kept), encryption=encryption
        ) as backup,
    ):
        backup.include_directory(tree)
    assert len(shown) == count_cores()
    assert all(shown.values())
    assert not [each for each in shown.values() if encryption.secret in each]
    found = last(kept, password)
    assert contents(found) == contents_of(tree)
    assert all(member.is_encrypted for member in found.members if member.size)


# Night after night ------------------------------------------------------------------------------


def test_what_has_not_changed_is_copied_as_it_stands(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    before = {member.name: bytes(member.stored) for member in last(kept, PASSWORD).members}
    (tree / "hello.txt").write_text("changed")
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    assert (nights.read, nights.reasons) == ({"hello.txt"}, [])
    found = last(kept, PASSWORD)
    assert contents(found) == contents_of(tree)
    assert {m.name for m in found.members if before.get(m.name) != m.stored} == {b"hello.txt"}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (ENCRYPTION, OTHER, "has another password"),
        (OTHER, ENCRYPTION, "has another password"),
        (None, ENCRYPTION, "is not encrypted, and the new one is"),
        (ENCRYPTION, None, "is encrypted, and the new one is not"),
    ],
)
@pytest.mark.parametrize("is_spooled", [True, False], ids=["spooled", "streamed"])
def test_another_password_is_a_full_archive_and_is_said_once(
    nights: Nights,
    tree: Path,
    kept: Path,
    before: storelet.Encryption | None,
    after: storelet.Encryption | None,
    reason: str,
    is_spooled: bool,
) -> None:
    nights.back_up(storelet.Directory(kept), encryption=before)
    name = archives(kept)[0].name
    if is_spooled:
        nights.spool(directory=kept, encryption=after)
    else:
        nights.back_up(storelet.Directory(kept), encryption=after)
    assert nights.reasons == [f"{name} {reason}"]
    assert nights.saved.bytes_reused == 0
    found = last(kept, after.password if after else None)
    assert contents(found) == contents_of(tree)
    assert {m.is_encrypted for m in found.members if m.size} == {after is not None}
    nights.back_up(storelet.Directory(kept), encryption=after)
    assert (nights.read, nights.reasons) == (set(), [])


def test_a_member_that_is_not_encrypted_is_never_among_those_that_are(
    nights: Nights, tree: Path, kept: Path
) -> None:
    """As somebody may have put it there who wants to be read by who cannot decrypt."""
    path = kept / "example_20261124023000.zip"
    write_mixed(tree, path)
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    assert nights.reasons == [f"{path.name} is not encrypted, and the new one is"]
    assert contents(last(kept, PASSWORD)) == contents_of(tree)
    archives(kept)[-1].unlink()
    nights.back_up(storelet.Directory(kept))
    assert nights.reasons == [f"{path.name} is encrypted, and the new one is not"]
    assert contents(last(kept)) == contents_of(tree)


def write_mixed(source: Path, path: Path) -> None:
    """Write an archive of which one file is not encrypted."""
    started_ns = time.time_ns() + 3_600_000_000_000  # so that nothing is too new to be trusted
    with path.open("wb") as file:
        layout = Layout(file, ArchiveRecord(job="example", host="here", started_ns=started_ns))
        entries = [each for each in walk(Source(path=str(source))) if isinstance(each, Entry)]
        for some, encryption in ((entries[1:], ENCRYPTION), (entries[:1], None)):
            plan = Plan()
            for entry in some:
                plan.add(entry)
            batches = [batch for shelf in plan.shelves for batch in shelf.batches()]
            write_members((Piece(batch, [layout]) for batch in batches), "fast", encryption)
        file.writelines(layout.catalogue())


def test_an_archive_of_directories_is_copied_from_whatever_the_password(
    kept: Path, tmp_path: Path
) -> None:
    """They are never encrypted, so there is nothing to tell by, and nothing to mix."""
    (tmp_path / "source" / "empty").mkdir(parents=True)
    nights = Nights(tmp_path / "source")
    for encryption in (None, ENCRYPTION, OTHER, None):
        nights.back_up(storelet.Directory(kept), encryption=encryption)
        assert nights.reasons == []
        assert nights.saved.bytes_reused > 0 or nights.day == 1


@pytest.mark.parametrize("compression", ["fast", "none"])
@pytest.mark.parametrize("size", [0, 100, MIB, MIB + 1, 3 * MIB])
def test_a_wrong_password_that_looks_right_is_told(
    kept: Path, tmp_path: Path, size: int, compression: str
) -> None:
    """One in 65,536 does; no member is so large that nothing else were looked at."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(os.urandom(size // 2) + bytes(size - size // 2))
    nights = Nights(tmp_path / "source")
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION, compression=compression)
    (path,) = archives(kept)
    let_look_right(path, OTHER)
    nights.back_up(storelet.Directory(kept), encryption=OTHER, compression=compression)
    assert nights.reasons == [f"{path.name} has another password"]
    assert contents(last(kept, OTHER.password)) == contents_of(tmp_path / "source")


def let_look_right(path: Path, encryption: storelet.Encryption) -> None:
    """Change what an archive's members have of their password to another one's."""
    data = bytearray(path.read_bytes())
    for header in headers_of(path):
        start = header.offset + 30 + sum(struct.unpack_from("<HH", data, header.offset + 26))
        salt = bytes(data[start : start + 16])
        keys = hashlib.pbkdf2_hmac("sha1", encryption.secret, salt, 1000, 66)
        data[start + 16 : start + 18] = keys[64:]
    path.write_bytes(data)


def test_the_password_is_proved_by_one_small_read(nights: Nights, tree: Path, kept: Path) -> None:
    (tree / "a").write_bytes(os.urandom(500_000))  # the first file
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    read: list[int] = []

    class Watched(storelet.Directory):
        def read(self, archive: Stored, offset: int, size: int) -> bytes:
            read.append(size)
            return super().read(archive, offset, size)

    nights.back_up(Watched(kept), encryption=OTHER)
    (_catalogue, proof) = read
    assert proof < 200


@pytest.mark.parametrize("where", ["the code", "the data", "the salt"])
def test_bytes_that_rotted_in_the_archive_before_are_seen_where_they_are_looked_at(
    tree: Path, kept: Path, where: str
) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (tree / "a").write_bytes(b"the shortest")
    (tree / "b").write_bytes(os.urandom(1000))
    nights = Nights(tree)
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    (path,) = archives(kept)
    (header,) = [each for each in headers_of(path) if each.name == "b"]
    data = bytearray(path.read_bytes())
    end = header.offset + header.length
    data[{"the code": end - 1, "the data": end - 500, "the salt": end - 1020}[where]] ^= 1
    path.write_bytes(data)
    nights.back_up(storelet.Directory(kept), encryption=ENCRYPTION)
    assert nights.reasons == ["b in it is not what was copied"]
    assert contents(last(kept, PASSWORD)) == contents_of(tree)
    assert len(archives(kept)) == 2, "what was put together from it is gone"


# From a temporary file --------------------------------------------------------------------------


def test_a_spooled_archive_copies_what_has_not_changed_since(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.spool(directory=kept, encryption=ENCRYPTION)
    before = {member.name: bytes(member.stored) for member in last(kept, PASSWORD).members}
    (tree / "hello.txt").write_text("changed")
    found = (tree / "large").stat()
    (tree / "large").write_bytes(os.urandom(found.st_size))
    os.utime(tree / "large", ns=(found.st_atime_ns, found.st_mtime_ns))  # only the ctime tells
    nights.spool(directory=kept, encryption=ENCRYPTION)
    assert nights.reasons == []
    assert nights.saved.bytes_reused > 0
    after = last(kept, PASSWORD)
    assert contents(after) == contents_of(tree)
    assert {m.name for m in after.members if before[m.name] != m.stored} == {b"hello.txt", b"large"}


def test_what_a_spooled_archive_read_in_the_moment_of_a_change_is_sent_again(
    tree: Path, kept: Path
) -> None:
    """On the real clock, where all of the tree has just been made."""
    events: list[storelet.Event] = []
    with storelet.observe(events.append):
        for _ in range(2):
            with storelet.ZipBackup("example", encryption=ENCRYPTION) as backup:
                backup.include_file(tree / "hello.txt")
                backup.save_to_directory(kept)
    assert [event.bytes_reused for event in events if isinstance(event, storelet.Saved)] == [0, 0]


# To S3 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["bucket", "s3_server"])
@pytest.mark.parametrize("is_spooled", [True, False], ids=["spooled", "streamed"])
def test_nights_in_s3(
    tree: Path, which: str, is_spooled: bool, request: pytest.FixtureRequest
) -> None:
    bucket: Bucket = request.getfixturevalue(which)
    s3 = storelet.S3(
        bucket.name, bucket.access_key, bucket.secret_key, endpoint_url=bucket.endpoint
    )
    for number in range(20):
        (tree / f"n-{number:02}").write_bytes(os.urandom(320_000))
    (tree / "z").write_bytes(os.urandom(6 * MIB))
    nights = Nights(tree)
    sent = []
    for encryption in (ENCRYPTION, ENCRYPTION, OTHER, OTHER):
        (tree / "hello.txt").write_text(f"night {nights.day}")
        if is_spooled:
            with nights.next(), storelet.ZipBackup("example", encryption=encryption) as backup:
                backup.include_directory(tree)
                backup._way.save(s3)
        else:
            nights.back_up(s3, encryption=encryption)
        sent.append(nights.saved.bytes_sent > 12 * MIB)
        assert [" has another password" in each for each in nights.reasons] == [True] * (
            len(sent) == 3
        )
        found = parse_zip(bucket.read(bucket.keys()[-1]), password=encryption.password)
        assert contents(found) == contents_of(tree)
    assert sent == [True, False, True, False]
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


# What cannot be ---------------------------------------------------------------------------------


def test_a_password_alone_is_refused_and_not_shown(kept: Path) -> None:
    with pytest.raises(storelet.UsageError) as raised:
        storelet.ZipBackup("example", encryption=PASSWORD)  # type: ignore[arg-type]
    assert PASSWORD not in f"{raised.value}{raised.value!r}"
    assert "storelet.Encryption" in str(raised.value)
