"""The trees that are backed up, and what a day does to them: always the same, by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

__all__ = [
    "Churn",
    "change_anywhere",
    "change_together",
    "churn",
    "files_in",
    "make_large_files",
    "make_small_files",
    "make_tree",
    "rewrite_pieces",
]

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
    _write_texts(tree, round(_TEXT_FILES * scale), chance)
    (tree / "large").mkdir(parents=True)
    for number in range(max(1, round(22 * scale))):
        blocks = [_make_block(chance) for _ in range(20)]
        (tree / "large" / f"{number}.bin").write_bytes(b"".join(blocks))
    for number in range(max(1, round(11 * scale))):
        (tree / "large" / f"{number}.random").write_bytes(chance.randbytes(10 << 20))
    return tree


def make_small_files(tree: Path, scale: float) -> Path:
    """Make a tree of small text files: at scale 1 13,200 of 14 kB, in directories of 100."""
    _write_texts(tree, round(13_200 * scale), random.Random(_SEED))  # noqa: S311 - as above
    return tree


def make_large_files(tree: Path, scale: float) -> Path:
    """Make a tree of large files, half text and half binaries: at scale 1 40 of 20 to 60 MB."""
    chance = random.Random(_SEED)  # noqa: S311 - as above
    tree.mkdir()
    for number in range(max(1, round(40 * scale))):
        blocks = [_make_block(chance) for _ in range(20 + number % 40)]
        (tree / f"{number}.bin").write_bytes(b"".join(blocks))
    return tree


def churn(tree: Path, night: int) -> Churn:
    """Change a hundredth of the small files, clustered by directory, and a piece of a large one.

    In each directory that is touched, half of the files change, a twentieth is deleted and as
    many are added.
    """
    chance = _chance_of(night)
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
    changed.append(_rewrite_a_piece(tree / "large", chance, _make_random))
    return Churn(
        changed=tuple(path.relative_to(tree) for path in changed),
        added=tuple(path.relative_to(tree) for path in added),
        deleted=tuple(path.relative_to(tree) for path in deleted),
        size_bytes=sum(path.stat().st_size for path in changed + added),
    )


def change_together(tree: Path, night: int, share: float) -> int:
    """Change a share of the small files, half of all in a directory; return how many bytes."""
    chance = _chance_of(night)
    directories = sorted(tree.glob("text*/*"))
    chance.shuffle(directories)
    halves = (path for each in directories for path in _some_half(each, chance))
    return _change(list(islice(halves, _share_of(tree, share))), night, chance)


def change_anywhere(tree: Path, night: int, share: float) -> int:
    """Change a share of the small files, each as likely as any; return how many bytes."""
    chance = _chance_of(night)
    files = sorted(tree.glob("text*/*/*"))
    return _change(chance.sample(files, _share_of(tree, share)), night, chance)


def rewrite_pieces(tree: Path, night: int, share: float) -> int:
    """Rewrite a share of the bytes of large files, a megabyte here and there; return how many."""
    chance = _chance_of(night)
    size = sum(path.stat().st_size for path in tree.iterdir())
    pieces = max(1, round(size * share / _REWRITTEN_BYTES))
    for _ in range(pieces):
        _rewrite_a_piece(tree, chance, _make_block)
    return pieces * _REWRITTEN_BYTES


def _chance_of(night: int) -> random.Random:
    return random.Random(f"{_SEED} {night}")  # noqa: S311 - it shall be foreseeable


def _share_of(tree: Path, share: float) -> int:
    return max(1, round(sum(1 for _ in tree.glob("text*/*/*")) * share))


def _some_half(directory: Path, chance: random.Random) -> list[Path]:
    files = sorted(directory.iterdir())
    return chance.sample(files, -(-len(files) // 2))


def _change(files: list[Path], night: int, chance: random.Random) -> int:
    """Give files other contents; one in ten is deleted, and another one is added beside it."""
    size_bytes = 0
    for number, path in enumerate(files):
        text = _some_text(chance)
        if number % 10 == 9:
            path.unlink()
            path.with_name(f"added-{night}-{number}.txt").write_bytes(text)
        else:
            path.write_bytes(text)
        size_bytes += len(text)
    return size_bytes


def _rewrite_a_piece(
    large: Path, chance: random.Random, make: Callable[[random.Random], bytes]
) -> Path:
    path = chance.choice(sorted(large.iterdir()))
    with path.open("r+b") as file:
        file.seek(chance.randrange(path.stat().st_size - _REWRITTEN_BYTES))
        file.write(make(chance))
    return path


def files_in(tree: Path) -> Iterator[Path]:
    """Yield the regular files."""
    return (path for path in tree.rglob("*") if path.is_file())


def _write_texts(tree: Path, count: int, chance: random.Random) -> None:
    for number in range(count):
        path = tree / f"text{number // 4_000:02}" / f"{number % 4_000 // 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_some_text(chance))


def _some_text(chance: random.Random) -> bytes:
    size = min(int(chance.lognormvariate(8.6, 1.4)), 900_000)
    start = chance.randrange(len(_text()) - size)
    return _text()[start : start + size]


def _make_random(chance: random.Random) -> bytes:
    return chance.randbytes(_REWRITTEN_BYTES)


def _make_block(chance: random.Random) -> bytes:
    """Return a megabyte of what large files are made of."""
    return chance.choice((_mix_text, _mix_few))(chance)


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
