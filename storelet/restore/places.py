"""What a URL means: an archive, or a place where archives are."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.errors import UsageError

__all__ = ["find_archive_place", "open_destination"]


def open_destination(url: str | os.PathLike[str], **client_options: Any) -> S3 | Directory:
    """Return the destination of a URL: `s3://bucket/prefix`, `file:///path`, or a path.

    `client_options` are those of `S3`. Raises UsageError.
    """
    text = os.fspath(url)
    if "://" not in text:
        return Directory(text)
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Directory(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        # Not unquoted: keys may hold any character, and S3's URLs have them as they are.
        prefix = text[len("s3://") + len(parts.netloc) :].removeprefix("/")
        return S3(parts.netloc, prefix=prefix, **client_options)
    raise UsageError(
        f"not a place for archives: {text}", hint="s3://bucket/prefix, file:///path, or a path"
    )


def find_archive_place(
    url: str | os.PathLike[str], **client_options: Any
) -> tuple[S3 | Directory, str, str | None]:
    """Return the destination of an archive's URL, its file's name, and the id of its version.

    Raises UsageError.
    """
    text = os.fspath(url)
    version = None
    if "://" not in text:
        text = os.path.realpath(text)
    elif text.startswith("s3://") and ".zip?versionId=" in text:
        text, _, version = text.rpartition("?versionId=")
    place, slash, name = text.rpartition("/")
    if not name or place in ("", "s3:/"):
        raise UsageError(f"no archive's URL: {text}", hint="such as s3://bucket/prefix/NAME.zip")
    if text.startswith("file://"):
        name = unquote(name)
    return open_destination(place + slash, **client_options), name, version
