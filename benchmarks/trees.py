"""The trees that are backed up, and what a day does to them: always the same, by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Churn", "churn", "files_in", "make_tree"]

_SEED = 20_130_421
_TEXT_FILES = 66_000
_CHANGED_SHARE = 0.01  # of all files, a night
_REWRITTEN_BYTES = 1 << 20  # in the middle of one large file, as a database does


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """What a day did to a tree; paths are below the tree."""

    changed: tuple[Path, ...]
    added: tuple[Path, ...]
    deleted: tuple[Path, ...]
    size_bytes: int  # of the files changed and added


def make_tree(tree: Path, scale: float) -> Path:
    """Make a tree: many small text files, large binaries, incompressible data.

    At scale 1 about 1.5 GB in 66,033 files, in directories of 100.
    """
    chance = random.Random(_SEED)  # noqa: S311 - it shall be foreseeable
    for number in range(round(_TEXT_FILES * scale)):
        path = tree / f"text{number // 4_000:02}" / f"{number % 4_000 // 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_some_text(chance))
    (tree / "large").mkdir(parents=True)
    for number in range(max(1, round(22 * scale))):
        blocks = [chance.choice((_mix_text, _mix_few))(chance) for _ in range(20)]
        (tree / "large" / f"{number}.bin").write_bytes(b"".join(blocks))
    for number in range(max(1, round(11 * scale))):
        (tree / "large" / f"{number}.random").write_bytes(chance.randbytes(10 << 20))
    return tree


def churn(tree: Path, night: int) -> Churn:
    """Change a hundredth of the small files, clustered by directory, and a piece of a large one.

    In each directory that is touched, half of the files change, a twentieth is deleted and as
    many are added.
    """
    chance = random.Random(f"{_SEED} {night}")  # noqa: S311 - as above
    changed: list[Path] = []
    added: list[Path] = []
    deleted: list[Path] = []
    directories = sorted(tree.glob("text*/*"))
    goal = sum(1 for _ in tree.glob("text*/*/*")) * _CHANGED_SHARE
    for directory in chance.sample(directories, len(directories)):
        if len(changed) >= goal:
            break
        files = sorted(directory.iterdir())
        chance.shuffle(files)
        few = max(1, len(files) // 20)
        deleted += files[:few]
        changed += files[few : few + max(1, len(files) // 2)]
        added += [directory / f"added-{night}-{number}.txt" for number in range(few)]
    for path in deleted:
        path.unlink()
    for path in changed + added:
        path.write_bytes(_some_text(chance))
    changed.append(_rewrite_a_piece(tree / "large", chance))
    return Churn(
        changed=tuple(path.relative_to(tree) for path in changed),
        added=tuple(path.relative_to(tree) for path in added),
        deleted=tuple(path.relative_to(tree) for path in deleted),
        size_bytes=sum(path.stat().st_size for path in changed + added),
    )


def _rewrite_a_piece(large: Path, chance: random.Random) -> Path:
    path = chance.choice(sorted(large.iterdir()))
    with path.open("r+b") as file:
        file.seek(chance.randrange(path.stat().st_size - _REWRITTEN_BYTES))
        file.write(chance.randbytes(_REWRITTEN_BYTES))
    return path


def files_in(tree: Path) -> Iterator[Path]:
    """Yield the regular files."""
    return (path for path in tree.rglob("*") if path.is_file())


def _some_text(chance: random.Random) -> bytes:
    size = min(int(chance.lognormvariate(8.6, 1.4)), 900_000)
    start = chance.randrange(len(_text()) - size)
    return _text()[start : start + size]


def _mix_text(chance: random.Random) -> bytes:
    """Return a megabyte of text that is nowhere else, so that there is nothing to deduplicate."""
    starts = [chance.randrange(len(_text()) - 4096) for _ in range(256)]
    return b"".join(_text()[start : start + 4096] for start in starts)


def _mix_few(chance: random.Random) -> bytes:
    """Return a megabyte of no more than 24 values."""
    return chance.randbytes(1 << 20).translate(bytes(value % 24 for value in range(256)))


@cache
def _text() -> bytes:
    chance = random.Random(_SEED)  # noqa: S311 - as above
    words = [f"word{chance.randrange(50_000)}" for _ in range(8_000)]
    return " ".join(chance.choice(words) for _ in range(400_000)).encode()
