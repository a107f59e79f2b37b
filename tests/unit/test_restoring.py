"""The way back: an archive is listed, read and restored, and is what was backed up."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import storelet
from storelet.restore.content import find_data
from storelet.restore.listing import StoredMember
from tests.trees import describe_tree, make_strange_tree


@pytest.fixture
def archive(tmp_path: Path) -> storelet.OpenedArchive:
    """Back up a strange tree and open what came of it."""
    source, kept = tmp_path / "source", tmp_path / "kept"
    kept.mkdir()
    make_strange_tree(source)
    with storelet.ZipBackup("strange", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(source)
    (made,) = kept.iterdir()
    return storelet.open_archive(made)


def test_a_restored_tree_is_the_tree(archive: storelet.OpenedArchive, tmp_path: Path) -> None:
    result = archive.extract(tmp_path / "target")
    assert result.refused == []
    assert describe_tree(tmp_path / "target") == describe_tree(tmp_path / "source")


def test_a_restore_goes_on_where_it_stopped(
    archive: storelet.OpenedArchive, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    first = archive.extract(target)
    gone = target / "directory" / "plain"
    gone.unlink()
    again = archive.extract(target)
    assert again.refused == []
    assert again.files == 1
    assert again.there == first.files - 1
    assert describe_tree(target) == describe_tree(tmp_path / "source")


def test_nothing_that_is_there_is_replaced_unasked(
    archive: storelet.OpenedArchive, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    (target / "directory").mkdir(parents=True)
    other = target / "directory" / "plain"
    other.write_text("another one")
    result = archive.extract(target)
    assert result.refused == [("directory/plain", "something else is there already")]
    assert other.read_text() == "another one"
    newer = archive.extract(target, overwrite="if-newer")
    assert (newer.kept, other.read_text()) == (1, "another one")
    os.utime(other, (1, 1))
    archive.extract(target, overwrite="if-newer")
    assert describe_tree(target) == describe_tree(tmp_path / "source")
    other.write_text("another one")
    assert archive.extract(target, overwrite="always").refused == []
    assert describe_tree(target) == describe_tree(tmp_path / "source")


def test_what_differs_in_its_mode_alone_is_another_file(
    archive: storelet.OpenedArchive, tmp_path: Path
) -> None:
    archive.extract(tmp_path / "target")
    (tmp_path / "target" / "random").chmod(0o600)
    reason = "something else is there already"
    assert archive.extract(tmp_path / "target").refused == [("random", reason)]


def test_directories_that_are_there_become_as_the_archive_has_them(
    archive: storelet.OpenedArchive, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o711)
    for name in ("directory", "deep", "theirs"):
        (target / name).mkdir(mode=0o700)
    (target / "deep" / "of theirs").touch()
    others = describe_tree(target)
    archive.extract(target, ["/deep/"])
    found, expected = describe_tree(target), describe_tree(tmp_path / "source")
    assert found["deep"] == expected["deep"]
    assert found["directory"] == others["directory"]  # no pattern fits it
    archive.extract(target)
    kept = {name: others[name] for name in ("theirs", "deep/of theirs")}
    assert describe_tree(target) == expected | kept
    assert stat.S_IMODE(target.stat().st_mode) == 0o711


def test_a_dry_run_writes_nothing(archive: storelet.OpenedArchive, tmp_path: Path) -> None:
    target = tmp_path / "target"
    result = archive.extract(target, dry_run=True)
    assert result.planned > 0
    assert not target.exists()


def test_patterns_choose_members(archive: storelet.OpenedArchive, tmp_path: Path) -> None:
    target = tmp_path / "target"
    archive.extract(target, ["plain"])
    found = [path for path in target.rglob("*") if not path.is_dir()]
    assert [path.name for path in found] == ["plain"]
    assert stat.S_IMODE(found[0].stat().st_mode) == 0o640


def test_one_member_is_read_by_itself(archive: storelet.OpenedArchive, tmp_path: Path) -> None:
    assert archive.read("directory/plain") == (tmp_path / "source/directory/plain").read_bytes()
    assert archive.read("large") == (tmp_path / "source/large").read_bytes()
    with pytest.raises(storelet.MemberMissingError, match="no member nowhere"):
        archive.read("nowhere")


def test_there_must_be_an_archive(tmp_path: Path) -> None:
    with pytest.raises(storelet.ArchiveMissingError, match="no such archive"):
        storelet.open_archive(tmp_path / "missing.zip")


def test_in_place_follows_links_to_a_source_and_guesses_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("moved", "twice", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").write_text(name)
    (tmp_path / "link").symlink_to("moved")
    kept = storelet.Directory(tmp_path / "kept")
    with storelet.ZipBackup("placed", destination=kept) as backup:
        backup.include_directory(tmp_path / "link", name="linked")
        backup.include_directory(tmp_path / "twice", name="both")
        backup.include_directory(tmp_path / "two", name="both")
        with backup.include_new_dir("made") as made:
            Path(made.path, "of made").write_text("made")
    (archive,) = storelet.list_archives(kept)
    for name in ("moved", "twice", "two"):
        (tmp_path / name / f"of {name}").unlink()
    refused = dict(archive.extract_in_place(["of *"]).refused)
    assert (tmp_path / "moved" / "of moved").read_text() == "moved"
    several = "it may have come from several places; restore it to a target"
    assert refused == {
        "both/of twice": several,
        "both/of two": several,
        "made/of made": "it was made for the backup and has no place of its own",
    }
    assert not [name for name in ("twice", "two") if any((tmp_path / name).iterdir())]


@pytest.fixture
def encrypted(tmp_path: Path) -> Path:
    """Back up a strange tree, encrypted."""
    source, kept = tmp_path / "source", tmp_path / "kept"
    kept.mkdir()
    make_strange_tree(source)
    with storelet.ZipBackup(
        "strange",
        destination=storelet.Directory(kept),
        encryption=storelet.Encryption("pässword"),
    ) as backup:
        backup.include_directory(source)
    (made,) = kept.iterdir()
    return made


def test_an_encrypted_tree_comes_back_by_its_password(encrypted: Path, tmp_path: Path) -> None:
    archive = storelet.open_archive(encrypted, password="pässword")
    assert archive.read("large") == (tmp_path / "source/large").read_bytes()
    assert archive.extract(tmp_path / "target").refused == []
    assert describe_tree(tmp_path / "target") == describe_tree(tmp_path / "source")
    assert archive.extract(tmp_path / "target").files == 0


def test_what_is_there_is_no_encrypted_member_unless_size_and_time_are_its(
    encrypted: Path, tmp_path: Path
) -> None:
    """It has no CRC to compare."""
    archive = storelet.open_archive(encrypted, password="pässword")
    target = tmp_path / "target"
    archive.extract(target)
    time_ns = (target / "random").stat().st_mtime_ns
    os.utime(target / "large", (1, 1))
    os.truncate(target / "random", 299_999)
    os.utime(target / "random", ns=(time_ns, time_ns))
    reason = "something else is there already"
    assert dict(archive.extract(target).refused) == {"large": reason, "random": reason}
    assert archive.extract(target, overwrite="always").files == 2
    assert describe_tree(target) == describe_tree(tmp_path / "source")


@pytest.mark.parametrize("password", [None, "", "another"])
def test_without_the_password_nothing_is_written(
    encrypted: Path, tmp_path: Path, password: str | None
) -> None:
    archive = storelet.open_archive(encrypted, password=password)
    assert [member.name for member in archive.members(["plain"])] == ["directory/plain"]
    with pytest.raises(storelet.CredentialsError, match="password") as caught:
        archive.extract(tmp_path / "target")
    assert caught.value.exit_code == 12
    assert list((tmp_path / "target").iterdir()) == []
    with pytest.raises(storelet.CredentialsError, match="password"):
        archive.read("large")


def test_a_changed_bit_of_an_encrypted_member_is_found(encrypted: Path, tmp_path: Path) -> None:
    data = bytearray(encrypted.read_bytes())
    member = next(storelet.open_archive(encrypted).members(["random"]))
    data[member.offset + 200_000] ^= 1
    encrypted.write_bytes(data)
    result = storelet.open_archive(encrypted, password="pässword").extract(tmp_path / "target")
    assert [name for name, _ in result.refused] == ["random"]
    assert not (tmp_path / "target" / "random").exists()


def find_encrypted(path: Path) -> list[StoredMember]:
    members = [each for each in storelet.open_archive(path).members() if each.encryption]
    return sorted(members, key=lambda member: member.offset)


def test_a_member_whose_salt_is_damaged_keeps_no_other_from_its_place(
    encrypted: Path, tmp_path: Path
) -> None:
    members = find_encrypted(encrypted)
    data = bytearray(encrypted.read_bytes())
    for member in members[:3]:
        data[member.offset + find_data(data[member.offset :], member)] ^= 1
    encrypted.write_bytes(data)
    archive = storelet.open_archive(encrypted, password="pässword")
    damaged = {member.name: "it has another password, or is damaged" for member in members[:3]}
    assert dict(archive.verify().refused) == damaged
    result = archive.extract(tmp_path / "target")
    assert dict(result.refused) == damaged
    assert result.files == len(members) - 3
    wrong = storelet.open_archive(encrypted, password="another")
    with pytest.raises(storelet.CredentialsError, match="another password"):
        wrong.extract(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_wrong_password_is_told_though_the_first_members_are_gone(
    encrypted: Path, tmp_path: Path
) -> None:
    data = bytearray(encrypted.read_bytes())
    for member in find_encrypted(encrypted)[:3]:
        data[member.offset : member.offset + 4] = bytes(4)
    encrypted.write_bytes(data)
    archive = storelet.open_archive(encrypted, password="another")
    for read_back in (archive.verify, lambda: archive.extract(tmp_path / "target")):
        with pytest.raises(storelet.CredentialsError, match="another password"):
            read_back()
    assert list((tmp_path / "target").iterdir()) == []


def test_a_whole_archive_is_right(archive: storelet.OpenedArchive) -> None:
    result = archive.verify()
    assert result.refused == []
    assert result.files == len(list(archive.members()))


def test_samples_in_turn_check_everything(archive: storelet.OpenedArchive) -> None:
    checked: list[str] = []

    def note(event: storelet.Event) -> None:
        if isinstance(event, storelet.Restored):
            checked.append(event.member)

    with storelet.observe(note):
        for start in (0.75, 0, 0.25, 0.5):
            archive.verify(sample=0.25, start=start)
    assert sorted(checked) == sorted(member.name for member in archive.members())
    assert 0 < archive.verify(sample=0.5, start=0).files < len(checked)
    with pytest.raises(storelet.UsageError, match="not a part"):
        archive.verify(sample=0)


def test_what_is_not_right_is_named(archive: storelet.OpenedArchive, tmp_path: Path) -> None:
    (path,) = (tmp_path / "kept").iterdir()
    data = bytearray(path.read_bytes())
    members = {member.name: member for member in archive.members()}
    for name in ("random", "large", "directory/plain", "points"):
        data[members[name].offset + members[name].stored_size // 2 + 90] ^= 0x55
    path.write_bytes(data)
    result = storelet.open_archive(path).verify()
    assert {name for name, _ in result.refused} >= {"random", "large"}
    assert result.files + len(result.refused) == len(members)
