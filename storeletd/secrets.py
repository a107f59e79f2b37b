"""Secrets: what a job file may say instead of a secret, and how it becomes one.

Owns the three references `{credential: NAME}`, `{env: NAME}` and `{file: PATH}`. Only a worker
resolves them: the daemon and its job model carry references, never what they stand for. No
message ever holds a secret, only the reference that was to give it; what others say, such as a
store that repeats what it was sent, goes through `mask`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from storelet.errors import CredentialsError

__all__ = ["REFERENCES", "REFERENCE_FORMS", "SecretReference", "mask", "parse_reference", "resolve"]

REFERENCES: Mapping[str, str] = {
    "credential": "Name of a systemd credential: a file in $CREDENTIALS_DIRECTORY.",
    "env": "Name of a variable of the worker's environment.",
    "file": "Absolute path of a file that holds the secret and nothing else.",
}

REFERENCE_FORMS = "one of {credential: NAME}, {env: NAME}, {file: PATH}"
_SHORTEST_MASKED = 6  # characters; shorter ones are in words that mean something else
_resolved: set[str] = set()  # in this process

_LARGEST_BYTES = 1 << 20  # systemd's own limit for a credential


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """Where a secret is to be found."""

    kind: Literal["credential", "env", "file"]
    name: str  # of the credential or the variable, or the file's absolute path

    def __str__(self) -> str:
        return f"{{{self.kind}: {self.name}}}"


def parse_reference(value: object) -> SecretReference:
    """Read a reference from a mapping. Raises ValueError, without anything of the value."""
    match value:
        case {"credential": str(name), **rest} if not rest:
            # A name with a slash would lead out of the credentials' directory.
            if name in {"", ".", ".."} or "/" in name or "\0" in name:
                raise ValueError("expected the name of a credential, without `/`")
            return SecretReference(kind="credential", name=name)
        case {"env": str(name), **rest} if not rest:
            if not name or "=" in name or "\0" in name:
                raise ValueError("expected the name of an environment variable")
            return SecretReference(kind="env", name=name)
        case {"file": str(name), **rest} if not rest:
            if not name.startswith("/") or "\0" in name:
                raise ValueError("expected the absolute path of a file with the secret")
            return SecretReference(kind="file", name=name)
        case _:
            raise ValueError(f"expected {REFERENCE_FORMS}")


def resolve(
    secret: SecretReference | SecretStr, environment: Mapping[str, str] = os.environ
) -> str:
    """Return the secret itself; of what a file holds, without the newline at its end.

    Raises CredentialsError, which names the reference.
    """
    value = _find(secret, environment)
    _resolved.add(value)
    return value


def mask(text: str) -> str:
    """Return the text without the secrets that were resolved in this process."""
    for value in sorted(_resolved, key=len, reverse=True):
        if len(value) >= _SHORTEST_MASKED:
            text = text.replace(value, "***")
    return text


def _find(secret: SecretReference | SecretStr, environment: Mapping[str, str]) -> str:
    if isinstance(secret, SecretStr):
        return secret.get_secret_value()
    match secret.kind:
        case "credential":
            return _read_credential(secret, environment)
        case "env":
            return _read_variable(secret, environment)
        case "file":
            hint = f"put the secret into {secret.name}, readable for the daemon's user alone"
            return _read_file(secret, secret.name, hint)


def _read_credential(reference: SecretReference, environment: Mapping[str, str]) -> str:
    name = reference.name
    hint = f"`systemctl edit storeletd`, there [Service] and LoadCredential={name}:/path/to/file"
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise CredentialsError(f"no secret for {reference}: no credentials were given", hint=hint)
    return _read_file(reference, os.path.join(directory, name), hint)


def _read_variable(reference: SecretReference, environment: Mapping[str, str]) -> str:
    value = environment.get(reference.name)
    if not value:
        what = "not set" if value is None else "empty"
        raise CredentialsError(
            f"no secret for {reference}: the variable is {what}",
            hint=f"set {reference.name} in the daemon's environment, or use {{credential: NAME}}",
        )
    return value


def _read_file(reference: SecretReference, path: str, hint: str) -> str:
    """Read a secret from a regular file; a FIFO in its place must not block the run."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CredentialsError(f"no secret for {reference}: not a regular file", hint=hint)
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise CredentialsError(f"no secret for {reference}: {reason.lower()}", hint=hint) from error
    if len(data) > _LARGEST_BYTES:
        raise CredentialsError(f"no secret for {reference}: larger than 1 MiB", hint=hint)
    value = _decode(data)
    if value is None:
        raise CredentialsError(f"no secret for {reference}: not UTF-8 text", hint=hint)
    if not value:
        raise CredentialsError(f"no secret for {reference}: it is empty", hint=hint)
    return value


def _decode(data: bytes) -> str | None:
    """Return the text; its own function, so that no error with the secret in it is chained."""
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
