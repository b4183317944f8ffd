"""Patterns over paths: `*`, `?` and `[abc]` inside a name, `**` for any folders, a folder stands for its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_WILD = re.compile(r"[*?\[]")


def split_pattern(pattern: str) -> tuple[str, tuple[str, ...]]:
    """`log/day=*/x.parquet` -> (`log`, (`day=*`, `x.parquet`)): the part without wildcards, and the others."""
    parts = PurePosixPath(pattern).parts
    wild = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return str(PurePosixPath(*parts[:wild])) if wild else "", parts[wild:]


def is_hidden(name: str) -> bool:
    """Whether listings pass a name by, such as `.part-0.crc`, `_SUCCESS` and `_temporary`; not so `_day=1`."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) and (not is_hidden(name) or pattern[0] == name[0])


def matches(pattern: Sequence[str], parts: Sequence[str]) -> str | None:
    """How a file is meant: `name` (the whole of it matches), `folder` (it lies in a folder that matches) or not."""
    if not pattern:
        return "name" if not parts else None if any(map(is_hidden, parts)) else "folder"
    if not parts:
        return None
    head, rest = pattern[0], pattern[1:]
    if head != "**":
        return matches(rest, parts[1:]) if _fits(head, parts[0]) else None
    deeper = None if is_hidden(parts[0]) else matches(pattern, parts[1:])
    return matches(rest, parts) or deeper


def may_match_below(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a folder may hold a file that is meant."""
    if not parts:
        return True
    if not pattern:
        return not any(map(is_hidden, parts))
    head, rest = pattern[0], pattern[1:]
    if head != "**":
        return _fits(head, parts[0]) and may_match_below(rest, parts[1:])
    return may_match_below(rest, parts) or (not is_hidden(parts[0]) and may_match_below(pattern, parts[1:]))
