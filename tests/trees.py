"""Trees of files: one with all that is strange in it, and what a tree is made of."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path
from typing import Any

__all__ = ["describe_tree", "make_strange_tree"]

_OLD_NS = 1_234_567_890_123_456_789


def make_strange_tree(root: Path) -> None:
    """Make a tree of everything that a backup takes: modes, times, links, names."""
    root.mkdir()
    dice = random.Random(6)  # noqa: S311 - no secret
    directory = root / "directory"
    directory.mkdir()
    _write(directory / "plain", b"plain text\n" * 100, 0o640)
    _write(directory / "empty", b"", 0o400)
    _write(root / "random", dice.randbytes(300_000), 0o755)
    _write(root / "large", b"".join(dice.randbytes(500) * 40 for _ in range(300)), 0o644)
    _write(root / "ümläut und blank", b"x", 0o600)
    _write(Path(os.fsdecode(os.fsencode(root) + b"/not-utf8-\xff\xfe")), b"bytes", 0o644)
    _write(root / "back\\slash", b"y", 0o644)
    _write(root / "setuid", b"z", 0o4755)
    os.link(directory / "plain", root / "linked")
    (root / "points").symlink_to("directory/plain")
    (root / "dangling").symlink_to("/nowhere/at/all")
    deep = root / "deep" / "er" / "est"
    deep.mkdir(parents=True)
    (root / "nothing in it").mkdir(mode=0o711)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(_OLD_NS, _OLD_NS + len(path.name)), follow_symlinks=False)
    deep.chmod(0o555)
    deep.parent.chmod(0o1777)


def describe_tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return what a tree is made of: of each path all that must come back."""
    described: dict[str, tuple[Any, ...]] = {}
    links: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        name = str(path.relative_to(root))
        mark: Any = None
        if stat.S_ISLNK(found.st_mode):
            mark = os.readlink(path)
        elif stat.S_ISREG(found.st_mode):
            mark = path.read_bytes(), links.setdefault(found.st_ino, name)
        described[name] = (
            stat.filemode(found.st_mode),
            found.st_mtime_ns,
            found.st_uid,
            found.st_gid,
            mark,
        )
    return described


def _write(path: Path, data: bytes, mode: int) -> None:
    path.write_bytes(data)
    path.chmod(mode)
