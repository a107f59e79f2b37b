"""Encryption of members with a password: WinZip's AES, method 99; pure.

"AES Encryption Information: Encryption Specification AE-1 and AE-2" of WinZip, 1.04. In place of
a member's data stand a salt and two bytes that tell a wrong password, the data encrypted, and a
code that tells a change of a single bit:

1. PBKDF2 makes of password and salt a key for AES, one for the code, and those two bytes;
2. AES runs in counter mode, its counter little-endian and from 1 on;
3. the code is the beginning of the HMAC-SHA1 of what is encrypted.

Written is AES-256 in the form AE-2, which has no CRC; 128 and 192 bits are read as well. A salt is
never used twice: two members under one key would give each other away.

The libraries are imported when something is first encrypted; they let go of the GIL.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from typing import Any, Protocol

from storelet.catalogue import DamagedError
from storelet.errors import CredentialsError, WrongPasswordError

__all__ = ["CODE_BYTES", "HEAD_BYTES", "OVERHEAD", "Decryptor", "Encryption", "Encryptor"]

HEAD_BYTES = {1: 10, 2: 14, 3: 18}  # salt and verifier, by the strength in the extra field
CODE_BYTES = 10
OVERHEAD = HEAD_BYTES[3] + CODE_BYTES  # bytes that a member of ours grows by

_VERIFIER_BYTES = 2
_ROUNDS = 1000
_LONGEST_BYTES = 99


class _Cipher(Protocol):
    """AES in counter mode, of Cryptodome's."""

    def encrypt(self, plaintext: bytes | memoryview) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Encryption:
    """That archives are encrypted, and with which password: text of at most 99 bytes in UTF-8.

    Raises CredentialsError for none, or one that other programs do not take.
    """

    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.password:
            raise CredentialsError(
                "the password to encrypt with is empty", hint="leave out encryption= to do without"
            )
        if len(self.secret) > _LONGEST_BYTES:
            raise CredentialsError(
                f"the password to encrypt with has more than {_LONGEST_BYTES} bytes",
                hint="7-Zip takes no longer one",
            )

    @property
    def secret(self) -> bytes:
        """The password as Encryptor and Decryptor take it; any bytes, where os.environ had them."""
        return self.password.encode(errors="surrogateescape")


class Encryptor:
    """Encrypts one member; `head`, salt and verifier, stands before its data."""

    def __init__(self, secret: bytes) -> None:
        salt = os.urandom(HEAD_BYTES[3] - _VERIFIER_BYTES)
        self._cipher, self._code, verifier = _derive(secret, salt)
        self.head = salt + verifier

    def update(self, data: bytes | memoryview) -> bytes:
        """Return the next of the data encrypted, as many bytes."""
        encrypted = self._cipher.encrypt(data)
        self._code.update(encrypted)
        return encrypted

    def finish(self) -> bytes:
        """Return the code that stands behind the data."""
        return self._code.digest()[:CODE_BYTES]


class Decryptor:
    """Decrypts one member; `head` is its salt and verifier, 10, 14 or 18 bytes.

    Raises WrongPasswordError for 65,535 of 65,536 wrong passwords; the rest `finish` finds.
    """

    def __init__(self, secret: bytes, head: bytes) -> None:
        if len(head) not in HEAD_BYTES.values():
            raise DamagedError("its salt is of no known length")
        salt, expected = head[:-_VERIFIER_BYTES], head[-_VERIFIER_BYTES:]
        self._cipher, self._code, verifier = _derive(secret, salt)
        if verifier != expected:
            raise WrongPasswordError(
                "the archive has another password", hint="give the one it was made with"
            )

    def update(self, data: bytes | memoryview) -> bytes:
        """Return the next of the data decrypted; not to be believed before `finish`."""
        self._code.update(data)
        return self._cipher.encrypt(data)  # in counter mode it is both ways the same

    def finish(self, code: bytes) -> None:
        """Raise DamagedError where `code`, from behind the data, is not theirs."""
        if not hmac.compare_digest(self._code.digest()[:CODE_BYTES], code):
            raise DamagedError("it is not what was encrypted, or with another password")


def _derive(secret: bytes, salt: bytes) -> tuple[_Cipher, hmac.HMAC, bytes]:
    """Return what encrypts, what makes the code, and the verifier."""
    # Two libraries, as measured: Cryptodome counts at 1.3 GB/s. cryptography only counts
    # big-endian; what makes up for that goes 0.4 GB/s, with the GIL. But its OpenSSL derives a
    # key in 0.45 ms, and Python's own (3.0, Debian 12) in 0.83: most of what small files cost.
    from Cryptodome.Cipher import AES
    from Cryptodome.Util import Counter
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    # After ISA-L the upper halves of the AVX registers are in use, and the processor's SHA-1 takes
    # three times as long (1.36 ms a key, not 0.47). OpenSSL's SHA-512 clears them (VZEROUPPER).
    hashlib.sha512(b"").digest()
    key_bytes = 2 * len(salt)
    length = 2 * key_bytes + _VERIFIER_BYTES
    keys = PBKDF2HMAC(SHA1(), length, salt, _ROUNDS).derive(secret)  # noqa: S303 - as specified
    counter: Any = Counter.new(128, initial_value=1, little_endian=True)
    return (
        AES.new(keys[:key_bytes], AES.MODE_CTR, counter=counter),
        hmac.new(keys[key_bytes : 2 * key_bytes], digestmod="sha1"),
        keys[2 * key_bytes :],
    )
