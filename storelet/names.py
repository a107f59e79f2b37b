"""Which member names of an archive are taken, and by which entries.

One name is one file, and a file's name is no directory's; directories of one name merge. Names are
compared as readers see them: two that are not UTF-8 may look the same.

Files are kept by directory, a short name each: of a million entries this is most of what must
stay in memory.
"""

from __future__ import annotations

from storelet.entry import Entry
from storelet.zipformat import portable_name

__all__ = ["Names"]

# APPNOTE 4.4.10 and 4.4.11: a record's name and extra fields have 16 bits together, and a name
# that is not UTF-8 stands among the latter once more.
_NAME_BYTES = 0x7000
_IMPLIED = -1  # a directory that is no member itself, but has one in it


class Names:
    """Member names, each with the number it was taken under."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, int]] = {"": {}}  # directory without `/` -> its files
        self._directories: dict[str, int] = {"": _IMPLIED}

    def take(self, entry: Entry, number: int) -> str | int | None:
        """Take the entry's name under `number`, and return None.

        Where it cannot be had, return the reason, or the number of the file that has it.
        """
        name = portable_name(entry.name)
        if len(name) > _NAME_BYTES // 4 and len(name.encode()) >= _NAME_BYTES:
            return "its path is too long for a zip"
        parent, _, base = name.rstrip("/").rpartition("/")
        files = self._files.get(parent)
        if files is None:
            taken = self._imply(parent)
            if taken is not None:
                return taken
            files = self._files[parent]
        if base in files:
            return files[base]
        if entry.is_directory:
            self._directories[name[:-1]] = number
            self._files.setdefault(name[:-1], {})
        elif name in self._directories:
            return f"{name} is a directory in the archive; give another name="
        else:
            files[base] = number
        return None

    def find(self, name: str) -> int | None:
        """Return the number that a member name, with `/` at a directory's end, is taken under."""
        if name.endswith("/"):
            number = self._directories.get(name[:-1], _IMPLIED)
            return None if number == _IMPLIED else number
        parent, _, base = name.rpartition("/")
        files = self._files.get(parent)
        return None if files is None else files.get(base)

    def _imply(self, name: str) -> int | None:
        """Let there be a directory; return the number of a file that stands in the way."""
        parents = [name]
        while (parent := parents[-1].rpartition("/")[0]) not in self._files:
            parents.append(parent)
        for each in reversed(parents):
            parent, _, base = each.rpartition("/")
            if (taken := self._files[parent].get(base)) is not None:
                return taken
            self._directories[each] = _IMPLIED
            self._files[each] = {}
        return None
