"""Which files a table's patterns mean, and their format."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from data_prep.sources.patterns import matches, may_match_below, split_pattern
from data_prep.sources.remote import identity
from data_prep.sources.table import Stamp, stamp_of
from ple_rec.config.prep import FilesConfig
from ple_rec.config.prep_inputs import Format
from ple_rec.config.problems import ConfigError
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, Remote, explain_errors, is_address, location, names_in
from ple_rec.storage.store import Object, objects_at
from ple_rec.text.suggest import nearest

logger = logging.getLogger(__name__)

_ENDINGS: dict[Format, tuple[str, ...]] = {"parquet": (".parquet", ".parq", ".pq"), "csv": (".csv", ".csv.gz")}
_SOME = 10  # names that a message lists at most
_OF_FOLDERS = "a folder stands for its regular .parquet, .csv and .csv.gz files"
_ODD = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True)
class FoundFile:
    """A file of a table.

    Args:
        path: Path or address.
        shown: Name in messages.
        size: Bytes.
        partitions: Columns that folder names hold.
        stamp: Text that changes when the file does: `stamp_of` of a local file, the identity of an object.
    """

    path: str
    shown: str
    size: int
    partitions: dict[str, str] = field(hash=False)
    stamp: Stamp = ()


class _Entry(NamedTuple):
    """An entry of a listing.

    Args:
        relative: Path below the folder that is listed; empty for a file that is named itself.
        size: Bytes.
        stamp: Stamp of a local file.
        odd: Kind of an entry that is no regular file.
        listed: The object of a store.
    """

    relative: str
    size: int
    stamp: Stamp = ()
    odd: str = ""
    listed: Object | None = None


def find_files(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], Format]:
    """The files of a table, each once, ordered by `shown`, and their format.

    Args:
        name: `log`, or the name of a side table.
        config: Its patterns.
        root: `--from`: a folder, an address of a store, or one file, which then is the log.

    Raises:
        UserError: A pattern matches nothing or names no regular file, a format cannot be told, or a folder cannot be
            listed.
        DataError: A file is a link to nothing, or a loop of links.
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
        UserError: Every error of that kind of every table, together.
        DataError: A file is a link to nothing, or a loop of links.
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
    if not is_address(base) and Path(base).is_file():
        if name == "log":
            return [_found(base, Path(base).name, each.size, each.stamp) for each in _listed_local(base, ())], []
        base = str(Path(base).parent)
    found: dict[str, FoundFile] = {}
    passed_over: dict[str, str] = {}
    nothing = []
    for pattern in config.files:
        odd: dict[str, str] = {}
        files = list(_matching(pattern, base, config.format, odd))
        nothing += [] if files else [_nothing(_key(name), pattern, base, str(root), odd)]
        found.update((file.path, file) for file in files)
        passed_over |= odd
    for file in found.values():  # by one pattern passed over, by another named
        passed_over.pop(file.shown, None)
    if passed_over and not nothing:
        fix = "move them away, or convert those that belong to the table"
        logger.warning("%s: not read: %s; %s. Fix: %s", _key(name), _some_of(passed_over), _OF_FOLDERS, fix)
    return sorted(found.values(), key=lambda file: file.shown), nothing


def _some_of(passed_over: Mapping[str, str]) -> str:
    """Names of entries, with the kind of those that are no regular files; some of them."""
    names = [f"{name} ({kind})" if kind else name for name, kind in sorted(passed_over.items())]
    return ", ".join(names[:_SOME]) + (f" and {len(names) - _SOME} more" if len(names) > _SOME else "")


def find_one(key: str, name: str, root: Path | str) -> FoundFile:
    """The file of that name, or with `.gz` behind it, in a folder or anywhere below.

    Args:
        key: Who needs it, for messages.
        name: Of the file.
        root: `--from`: a folder or an address of a store.

    Raises:
        UserError: There is none, or there are several.
    """
    base = _base(root)
    found = [file for end in ("", ".gz") for file in _matching(f"**/{name}{end}", base, "csv", {})]
    if not found:
        raise _nothing(key, f"**/{name}", base, str(root), {})
    if len(found) > 1:
        names = " and ".join(file.shown for file in found[:2])
        raise UserError(key, f"{names} are both there", "one of them is read", "move one away")
    return found[0]


def _base(root: Path | str) -> str:
    base = str(root)
    if is_address(base):
        return str(location(base))
    found = _status(Path(base))
    if found is None:
        raise UserError(base, "no such file or folder", f"{Option.SOURCE} names the raw files", "check the path")
    if odd := _odd(found):
        raise _no_file(base, odd)
    return str(Path(base).absolute())


def _found(path: str, shown: str, size: int, stamp: Stamp) -> FoundFile:
    folders = [part.partition("=") for part in PurePosixPath(shown).parts[:-1]]
    partitions = {unquote(key): unquote(value) for key, is_one, value in folders if key and is_one}
    return FoundFile(path, shown, size, partitions, stamp)


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
            fix = (
                f'convert one kind to the other, or leave it out: format = "{kinds[first]}" takes only such files of a '
                "folder, and the rows of the others are missing then"
            )
            raise UserError(key, f"{first} is {kinds[first]} but {shown} is {kind}", rule, fix)
    kind = next(iter(kinds.values()))
    assert kind is not None
    return files, kind


def _matching(pattern: str, base: str, only: Format | None, passed_over: dict[str, str]) -> Iterator[FoundFile]:
    """The files that one pattern means, in any order.

    Args:
        pattern: Path, glob or address.
        base: `--from`.
        only: Format of the files that are taken of a folder; None for any.
        passed_over: Receives the entries of folders that are not read: name in messages, and kind unless regular.
    """
    full = _join(base, pattern)
    literal, wild = (full, ()) if not is_address(full) and os.path.lexists(full) else _split(full)
    for entry in _listed_remote(literal) if is_address(full) else _listed_local(literal, wild):
        how = matches(wild, PurePosixPath(entry.relative).parts)
        if how is None:
            continue
        path = "/".join(filter(None, (literal.rstrip("/"), entry.relative)))
        shown = path.removeprefix(f"{base.rstrip('/')}/")
        kind = format_of(entry.relative or literal)
        if how == "name" and entry.odd:
            raise _no_file(shown, entry.odd)
        if not _is_utf8(path):
            value, rule = "its name is not UTF-8", "engines open files by such names"
            raise UserError(
                os.fsencode(path).decode(errors="backslashreplace"), value, rule, "rename it, or its folder"
            )
        if how == "folder" and (entry.odd or kind is None):
            passed_over[shown] = entry.odd
        elif how == "name" or kind == (only or kind):
            stamp = entry.stamp if entry.listed is None else (identity(path, entry.listed),)
            yield _found(path, shown, entry.size, stamp)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # Python keeps a byte of another encoding as a surrogate
        return False
    return True


def _join(base: str, pattern: str) -> str:
    if is_address(pattern):
        return pattern
    if is_address(base) and not pattern.startswith("/"):
        return f"{base}/{pattern.removeprefix('./')}"
    return os.path.normpath(Path(base) / pattern)


def _split(full: str) -> tuple[str, tuple[str, ...]]:
    """Return the part of a path or address without wildcards, and the other parts."""
    scheme, separator, rest = full.rpartition("://")
    literal, wild = split_pattern(rest)
    return (str(location(f"{scheme}://{literal}")) if separator else literal), wild


def _listed_remote(literal: str) -> Iterator[_Entry]:
    for found in objects_at(Remote(literal.rstrip("/"))):
        yield _Entry(found.name, found.size, listed=found)


def _listed_local(literal: str, wild: Sequence[str]) -> Iterator[_Entry]:
    """What lies at or below a path and is no folder; links are followed, but not in circles."""
    seen = set()
    todo: list[tuple[str, ...]] = [()]
    while todo:
        parts = todo.pop()
        path = Path(literal, *parts)
        try:
            found = _status(path)
        except DataError:
            if not parts or matches(wild, parts):
                raise
            continue  # a link that leads nowhere, and is not meant
        if found is None:
            continue
        if not stat.S_ISDIR(found.st_mode):
            yield _Entry("/".join(parts), found.st_size, stamp_of(found), _odd(found))
        elif (place := (found.st_dev, found.st_ino)) not in seen:
            seen.add(place)
            below = [(*parts, name) for name in _names_in(path)]
            todo += [each for each in below if matches(wild, each) or may_match_below(wild, each)]


def _status(path: Path) -> os.stat_result | None:
    """The status of what a path leads to; None where nothing has that name.

    Raises:
        UserError: The system does not tell.
        DataError: It is a link to nothing, or a loop of links.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            value = "a loop of symbolic links"
        elif not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _unreadable(path, error) from error
        elif path.is_symlink():
            value = "a link to nothing"
        else:
            return None
        raise DataError(str(path), value, "every file of a table is read", "remove or mend the link") from error


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    rule = "prep lists the folders of raw files"
    return UserError(str(path), f"cannot be read ({error.strerror})", rule, "make it readable, or name another path")


def _odd(found: os.stat_result) -> str:
    """The kind of what is neither a regular file nor a folder; else nothing."""
    return _ODD.get(stat.S_IFMT(found.st_mode), "")


def _no_file(shown: str, kind: str) -> UserError:
    rule = "raw files are regular files, for they are read more than once"
    return UserError(shown, f"is {kind}", rule, "write its content to a file, and name that")


def _nothing(key: str, pattern: str, base: str, root: str, passed_over: Mapping[str, str]) -> UserError:
    """Return the error of a pattern that matches nothing.

    It tells what was passed over, or what stands where a match should have been, and proposes a pattern that matches.
    """
    value = f"nothing matches {pattern!r} below {root}"
    if passed_over:
        rule = f"not read: {_some_of(passed_over)}; {_OF_FOLDERS}"
        return UserError(key, value, rule, f"convert them, or correct the pattern, or {Option.SOURCE}")
    literal, wild = _split(_join(base, pattern))
    at, missing = location(literal), list(wild)
    names = _names(at)
    while not names and at.parent != at and str(at) != base:
        missing.insert(0, at.name)
        at = at.parent
        names = _names(at)
    near = nearest(missing[0], [name for name in names if name != missing[0]]) if missing else None
    where = str(at)
    has = ", ".join(names[:_SOME]) + (f" and {len(names) - _SOME} more" if len(names) > _SOME else "")
    right = "/".join(filter(None, (where, near or "", *missing[1:]))).removeprefix(f"{base.rstrip('/')}/")
    if near and any(_matching(right, base, None, {})):
        fix = f"did you mean {right!r}?"
    else:
        fix = f"correct the pattern, or {Option.SOURCE}; {_OF_FOLDERS}"
    return UserError(key, value, f"{where} has {has or 'nothing'}", fix)


def _names(at: Location) -> list[str]:
    with explain_errors(at, "listed", "prep lists the folders of raw files"):
        return names_in(at)
