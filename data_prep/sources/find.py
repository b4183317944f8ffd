"""Which files a table's patterns mean, and their format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

from data_prep.sources.patterns import matches, may_match_below, split_pattern
from data_prep.sources.remote import SCHEME, is_remote, list_files
from ple_rec.config.prep import FilesConfig
from ple_rec.config.problems import ConfigError
from ple_rec.errors import DataError, UserError

Format = Literal["parquet", "csv"]
_ENDINGS: dict[Format, tuple[str, ...]] = {"parquet": (".parquet", ".parq", ".pq"), "csv": (".csv", ".csv.gz")}
_SOME = 10  # names that a message lists at most


@dataclass(frozen=True)
class FoundFile:
    """A file: its path or address, what messages call it, its size in bytes, and the columns of its folders."""

    path: str
    shown: str
    size: int
    partitions: dict[str, str] = field(hash=False)


def find_files(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], Format]:
    """The files of a table, each once, ordered by `shown`, and their format.

    Args:
        name: `log`, or the name of a side table.
        config: Its patterns.
        root: `--from`: a folder, an `s3://` address, or one file, which then is the log.

    Raises:
        UserError: A pattern matches nothing, or a format cannot be told.
        DataError: A file is a link to nothing.
    """
    files, problems = _listed(name, config, root)
    if problems:
        raise problems[0]
    return _formatted(_key(name), config, files)


def find_all(
    place: str, tables: Mapping[str, FilesConfig], root: Path | str
) -> dict[str, tuple[list[FoundFile], Format]]:
    """`find_files` of several tables.

    Args:
        place: Name of the configuration, for messages.
        tables: Patterns by table.
        root: `--from`.

    Raises:
        UserError: Every pattern that matches nothing and every format that cannot be told, together.
        DataError: A file is a link to nothing.
    """
    found, problems = {}, list[UserError]()
    for name, config in tables.items():
        try:
            files, nothing = _listed(name, config, root)
            problems += nothing
            if not nothing:
                found[name] = _formatted(_key(name), config, files)
        except UserError as error:
            problems.append(error)
    told = list(dict.fromkeys(map(str, problems)))
    if len(told) > 1:
        raise ConfigError.of(place, told)
    if problems:
        raise problems[0]
    return found


def _key(name: str) -> str:
    return "log.files" if name == "log" else f"sides.{name}.files"


def _listed(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], list[UserError]]:
    """The files that the patterns of a table match, in order, and an error for each pattern that matches none."""
    base = _base(root)
    if not is_remote(base) and Path(base).is_file():
        if name == "log":
            return [_found(base, Path(base).name, Path(base).stat().st_size)], []
        base = str(Path(base).parent)
    found: dict[str, FoundFile] = {}
    nothing = []
    for pattern in config.files:
        files = list(_matching(pattern, base, config.format))
        nothing += [] if files else [_nothing(_key(name), pattern, base, str(root))]
        found.update((file.path, file) for file in files)
    return sorted(found.values(), key=lambda file: file.shown), nothing


def find_one(key: str, name: str, root: Path | str) -> FoundFile:
    """The file of that name, or with `.gz` behind it, in a folder or anywhere below.

    Args:
        key: Who needs it, for messages.
        name: Of the file.
        root: `--from`: a folder or an `s3://` address.

    Raises:
        UserError: There is none, or there are several.
    """
    base = _base(root)
    found = [file for end in ("", ".gz") for file in _matching(f"**/{name}{end}", base, "csv")]
    if not found:
        raise _nothing(key, f"**/{name}", base, str(root))
    if len(found) > 1:
        names = " and ".join(file.shown for file in found[:2])
        raise UserError(key, f"{names} are both there", "one of them is read", "move one away")
    return found[0]


def _base(root: Path | str) -> str:
    base = str(root)
    if is_remote(base):
        return base.rstrip("/")
    if not Path(base).exists():
        raise UserError(base, "no such file or folder", "--from names the raw files", "check the path")
    return str(Path(base).absolute())


def _found(path: str, shown: str, size: int) -> FoundFile:
    folders = [part.partition("=") for part in PurePosixPath(shown).parts[:-1]]
    return FoundFile(
        path, shown, size, {unquote(key): unquote(value) for key, is_one, value in folders if key and is_one}
    )


def format_of(name: str) -> Format | None:
    """What a name ends in."""
    return next((kind for kind, endings in _ENDINGS.items() if name.lower().endswith(endings)), None)


def _formatted(key: str, config: FilesConfig, files: list[FoundFile]) -> tuple[list[FoundFile], Format]:
    if config.format is not None:
        return files, config.format
    kinds = {file.shown: format_of(file.shown) for file in files}
    rule = "all files of a table have one format, told by .parquet, .csv or .csv.gz"
    for shown, kind in kinds.items():
        if kind is None:
            raise UserError(f"{key}, {shown}", "its name tells no format", rule, 'set format = "parquet" or "csv"')
        first = next(iter(kinds))
        if kind != kinds[first]:
            fix = f'set format = "{kinds[first]}" to take only those of a folder, or narrow the patterns'
            raise UserError(key, f"{first} is {kinds[first]} but {shown} is {kind}", rule, fix)
    kind = next(iter(kinds.values()))
    assert kind is not None
    return files, kind


def _matching(pattern: str, base: str, only: Format | None) -> Iterator[FoundFile]:
    """The files that one pattern means, in any order."""
    remote = is_remote(pattern) or (is_remote(base) and not pattern.startswith("/"))
    full = _join(base, pattern, remote)
    literal, wild = (full, ()) if not remote and os.path.lexists(full) else split_pattern(full.removeprefix(SCHEME))
    listed = _listed_remote(literal) if remote else _listed_local(literal, wild)
    for relative, size in listed:
        parts = PurePosixPath(relative).parts
        how = matches(wild, parts)
        kind = format_of(relative or literal)
        if how is None or (how == "folder" and (kind is None or kind != (only or kind))):
            continue
        path = "/".join(filter(None, (literal.rstrip("/"), relative)))
        path = f"{SCHEME}{path}" if remote else path
        yield _found(path, path.removeprefix(f"{base.rstrip('/')}/"), size)


def _join(base: str, pattern: str, remote: bool) -> str:
    if not remote:
        return os.path.normpath(Path(base) / pattern)
    return pattern if is_remote(pattern) else f"{base.rstrip('/')}/{pattern.removeprefix('./')}"


def _listed_remote(literal: str) -> Iterator[tuple[str, int]]:
    for file in list_files(f"{SCHEME}{literal}"):
        yield file.relative, file.size


def _listed_local(literal: str, wild: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Files at or below a path, relative to it, with their sizes; links are followed, but not in circles."""
    if Path(literal).is_file():
        yield "", Path(literal).stat().st_size
        return
    seen = set()
    todo: list[tuple[str, ...]] = [()]
    while todo:
        parts = todo.pop()
        folder = Path(literal, *parts)
        real = folder.resolve()
        if real in seen or not folder.is_dir():
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            raise UserError(
                str(folder), "may not be listed", "prep lists the folders of raw files", "chmod it"
            ) from None
        for entry in entries:
            below = (*parts, entry.name)
            if entry.is_dir():
                todo += [below] if may_match_below(wild, below) else []
            elif entry.is_file():
                yield "/".join(below), entry.stat().st_size
            elif entry.is_symlink() and matches(wild, below):
                raise DataError(
                    entry.path, "a link to nothing", "every file of a table is read", "remove or mend the link"
                )


def _nothing(key: str, pattern: str, base: str, root: str) -> UserError:
    """The error of a pattern that matches nothing: what stands where its match should have been."""
    remote = is_remote(pattern) or (is_remote(base) and not pattern.startswith("/"))
    full = _join(base, pattern, remote)
    literal, wild = split_pattern(full.removeprefix(SCHEME))
    at, missing = PurePosixPath(literal), list(wild)
    names = _names(at, remote)
    while not names and at.parent != at:
        missing.insert(0, at.name)
        at = at.parent
        names = _names(at, remote)
    near = get_close_matches(missing[0], names, 1) if missing else []
    where = f"{SCHEME}{at}" if remote else str(at)
    has = ", ".join(names[:_SOME]) + (f" and {len(names) - _SOME} more" if len(names) > _SOME else "")
    if near:
        right = "/".join(filter(None, (where, near[0], *missing[1:]))).removeprefix(f"{base.rstrip('/')}/")
        fix = f"did you mean {right!r}?"
    else:
        fix = "correct the pattern, or --from; a folder stands for its .parquet, .csv and .csv.gz files"
    return UserError(key, f"nothing matches {pattern!r} below {root}", f"{where} has {has or 'nothing'}", fix)


def _names(at: PurePosixPath, remote: bool) -> list[str]:
    if not remote:
        return sorted(entry.name for entry in Path(at).iterdir()) if Path(at).is_dir() else []
    return sorted({PurePosixPath(file.relative).parts[0] for file in list_files(f"{SCHEME}{at}") if file.relative})
