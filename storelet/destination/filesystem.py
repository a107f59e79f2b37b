"""The file system under a directory for archives: how it copies, its room, what is mounted."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress

from storelet.destination.finding import Finding

__all__ = ["examine_file_system"]

_FICLONE = 0x40049409  # ioctl_ficlone(2), <linux/fs.h>
_BLOCK = b"\0" * 4096
_MOUNT_POINTS = ("/mnt/", "/media/", "/run/media/")
_GIB = 1 << 30


def examine_file_system(path: str, archive_size: int | None) -> Iterator[Finding]:
    """Yield what there is to say of the file system of a directory that can be written.

    `archive_size` is that of its newest archive, in bytes; None: there is none.
    """
    yield from _look_at_mount(path)
    yield _look_at_room(path, archive_size)
    with suppress(OSError):  # writing there has said why not
        yield Finding(check="file system", state="ok", message=_describe_copies(path))


def _look_at_mount(path: str) -> Iterator[Finding]:
    with suppress(OSError):
        is_root = os.stat(path).st_dev == os.stat("/").st_dev
        if is_root and os.path.realpath(path).startswith(_MOUNT_POINTS):
            yield Finding(
                check="mount",
                state="warning",
                message=f"{path} is on the root file system",
                hint="is a disk to be mounted there? `before` in a job can see to that",
            )


def _look_at_room(path: str, archive_size: int | None) -> Finding:
    try:
        found = os.statvfs(path)
    except OSError as error:
        return Finding(check="room", state="note", message=f"not known: {error.strerror}")
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    said = f"{free / _GIB:,.1f} GiB free of {size / _GIB:,.1f}"
    if archive_size is not None and free < archive_size:
        said += f", and the newest archive has {archive_size / _GIB:,.1f}"
        return Finding(
            check="room", state="warning", message=said, hint="make room, or say `keep` in the job"
        )
    return Finding(check="room", state="ok", message=said)


def _describe_copies(path: str) -> str:
    """Say how files are copied there. Raises OSError."""
    with tempfile.TemporaryFile(dir=path) as source, tempfile.TemporaryFile(dir=path) as target:
        source.write(_BLOCK)
        source.flush()
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            try:
                os.copy_file_range(source.fileno(), target.fileno(), len(_BLOCK), 0)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                return "copies are read and written, in this process"
            return "copies are made inside the kernel, and take room of their own"
        return "copies share their room with what they are copied from"
