"""Encryption of one member: as WinZip has it, both ways, and every wrong bit seen."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile

import pytest
import pyzipper
from hypothesis import given
from hypothesis import strategies as st

import storelet
from storelet.catalogue import DamagedError
from storelet.encryption import CODE_BYTES, HEAD_BYTES, OVERHEAD, Decryptor, Encryptor

SECRET = b"open sesame"


def encrypt(*pieces: bytes, secret: bytes = SECRET) -> bytes:
    """Return what is stored of a member's data."""
    encryptor = Encryptor(secret)
    return encryptor.head + b"".join(map(encryptor.update, pieces)) + encryptor.finish()


def decrypt(stored: bytes, strength: int = 3, secret: bytes = SECRET, step: int = 1 << 20) -> bytes:
    """Return the data of a member that is stored so."""
    head = HEAD_BYTES[strength]
    decryptor = Decryptor(secret, stored[:head])
    data = stored[head:-CODE_BYTES]
    pieces = [decryptor.update(data[at : at + step]) for at in range(0, len(data), step)]
    decryptor.finish(stored[-CODE_BYTES:])
    return b"".join(pieces)


@given(st.lists(st.binary(max_size=100), max_size=8), st.integers(1, 40))
def test_what_was_encrypted_in_any_pieces_is_decrypted_in_any(
    pieces: list[bytes], step: int
) -> None:
    stored = encrypt(*pieces)
    assert len(stored) == sum(map(len, pieces)) + OVERHEAD
    assert decrypt(stored, step=step) == b"".join(pieces)


def test_large_data_are_counted_through_beyond_each_byte_of_the_counter() -> None:
    data = bytes(17 << 20)  # more than 1 << 16 blocks, and than 1 << 20
    stored = encrypt(data)
    blocks = {stored[at : at + 16] for at in range(HEAD_BYTES[3], HEAD_BYTES[3] + len(data), 16)}
    assert len(blocks) == len(data) // 16, "no part of the key stream comes twice"
    assert decrypt(stored) == data


@pytest.mark.parametrize(("strength", "bits"), [(1, 128), (2, 192), (3, 256)])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("data", [b"", b"x", b"made by another program" * 3000])
def test_what_another_program_encrypted_is_decrypted(
    strength: int, bits: int, version: int, data: bytes
) -> None:
    archive = io.BytesIO()
    with pyzipper.AESZipFile(archive, "w") as opened:
        opened.setpassword(SECRET)
        opened.setencryption(pyzipper.WZ_AES, nbits=bits, force_wz_aes_version=version)
        opened.writestr("file", data)
    assert decrypt(stored_in(archive), strength) == data


def stored_in(archive: io.BytesIO) -> bytes:
    """Return the data of an archive's only member as they stand."""
    with zipfile.ZipFile(archive) as opened:
        (info,) = opened.infolist()
    whole = archive.getvalue()
    start = info.header_offset + 30 + sum(struct.unpack_from("<HH", whole, info.header_offset + 26))
    return whole[start : start + info.compress_size]


def test_no_two_members_are_encrypted_alike() -> None:
    one, other = encrypt(b"the same"), encrypt(b"the same")
    assert one[: HEAD_BYTES[3]] != other[: HEAD_BYTES[3]]
    assert one[HEAD_BYTES[3] :] != other[HEAD_BYTES[3] :]


def test_each_bit_that_is_not_what_was_written_is_seen() -> None:
    stored = encrypt(b"a secret")
    for number in range(len(stored) * 8):
        changed = bytearray(stored)
        changed[number // 8] ^= 1 << number % 8
        with pytest.raises((DamagedError, storelet.WrongPasswordError)):
            decrypt(bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 9, 11, 17, 19])
def test_a_head_of_another_length_is_damage(length: int) -> None:
    with pytest.raises(DamagedError):
        Decryptor(SECRET, bytes(length))


def test_a_wrong_password_is_told_before_anything_is_read() -> None:
    with pytest.raises(storelet.WrongPasswordError) as raised:
        Decryptor(b"open barley", encrypt(b"")[: HEAD_BYTES[3]])
    assert raised.value.exit_code == 12
    assert isinstance(raised.value, storelet.CredentialsError)


def test_a_wrong_password_that_looks_right_is_told_in_the_end() -> None:
    stored = bytearray(encrypt(b"a secret"))
    wrong = b"open barley"
    stored[16:18] = hashlib.pbkdf2_hmac("sha1", wrong, bytes(stored[:16]), 1000, 66)[64:]
    with pytest.raises(DamagedError):
        decrypt(bytes(stored), secret=wrong)


# The password -----------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["", None, "x" * 100, "ü" * 50])
def test_a_password_that_is_none_or_that_others_do_not_take_is_refused(password: str) -> None:
    with pytest.raises(storelet.CredentialsError) as raised:
        storelet.Encryption(password)
    assert raised.value.exit_code == 12
    assert not password or password not in str(raised.value)


def test_a_password_is_its_bytes_in_utf_8_or_those_of_the_environment() -> None:
    assert storelet.Encryption("x" * 99).secret == b"x" * 99
    assert storelet.Encryption("größe").secret == "größe".encode()
    assert storelet.Encryption("gr\udcf6\udcdfe").secret == b"gr\xf6\xdfe"


def test_a_password_is_not_shown() -> None:
    encryption = storelet.Encryption(password="open sesame")
    assert "sesame" not in repr(encryption) + str(encryption) + f"{encryption}"
