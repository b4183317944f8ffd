"""Patterns of paths, by which a configuration names raw files.

`*`, `?` and `[abc]` match inside one name, `**` matches any number of folders, and a pattern that matches a folder
stands for all files below it that are not hidden. Hidden names, such as `.part-0.crc` and `_SUCCESS`, match only a name
in the pattern that begins with the same character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_WILD = re.compile(r"[*?\[]")


def split_pattern(pattern: str) -> tuple[str, tuple[str, ...]]:
    """Return the beginning of a pattern without wildcards, and the names from the first with a wildcard on.

    `log/day=*/x.parquet` becomes (`log`, (`day=*`, `x.parquet`)).
    """
    parts = PurePosixPath(pattern).parts
    wild = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return str(PurePosixPath(*parts[:wild])) if wild else "", parts[wild:]


def is_hidden(name: str) -> bool:
    """Return True for names that listings ignore, such as `.part-0.crc` and `_SUCCESS`, but not `_day=1`."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _matches_name(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) and (not is_hidden(name) or pattern[0] == name[0])


def matches(pattern: Sequence[str], parts: Sequence[str]) -> str | None:
    """Return how a pattern matches a path; both are relative to the same folder.

    Args:
        pattern: Parts of the pattern.
        parts: Parts of the path.

    Returns:
        `name` if the pattern matches the whole path, `folder` if the pattern matches a folder above the path, else
        None.
    """
    if not pattern:
        return "name" if not parts else None if any(map(is_hidden, parts)) else "folder"
    if not parts:
        return None
    head, rest = pattern[0], pattern[1:]
    if head != "**":
        return matches(rest, parts[1:]) if _matches_name(head, parts[0]) else None
    deeper = None if is_hidden(parts[0]) else matches(pattern, parts[1:])
    return matches(rest, parts) or deeper


def may_match_below(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Return True if a file below the folder with the path `parts` may match the pattern."""
    if not parts:
        return True
    if not pattern:
        return not any(map(is_hidden, parts))
    head, rest = pattern[0], pattern[1:]
    if head != "**":
        return _matches_name(head, parts[0]) and may_match_below(rest, parts[1:])
    return may_match_below(rest, parts) or (not is_hidden(parts[0]) and may_match_below(pattern, parts[1:]))
