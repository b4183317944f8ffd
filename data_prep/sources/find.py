"""Search for the files that a table's patterns match, and for their format."""

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
_MAX_NAMES = 10  # Names that a message lists.
_FOLDER_RULE = "a folder stands for its regular .parquet, .csv and .csv.gz files"
_IRREGULAR_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class FoundFile:
    """A file of a table.

    Args:
        path: Path or address.
        shown: Name in messages.
        size: Size in bytes.
        partitions: Columns that folder names hold, such as `day=1`.
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
        relative: Path below the listed folder; empty if the file itself was named.
        size: Size in bytes.
        stamp: Stamp of a local file.
        irregular: Kind of an entry that is no regular file, such as `a FIFO`; empty for a regular file.
        remote: Object of a store; None for a local file.
    """

    relative: str
    size: int
    stamp: Stamp = ()
    irregular: str = ""
    remote: Object | None = None


def find_files(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], Format]:
    """Return the files of a table, each once and ordered by `shown`, and their format.

    Args:
        name: `log`, or the name of a side table.
        config: Patterns of the table.
        root: Value of `--from`: folder, address of a store, or one file, which is the log.

    Raises:
        UserError: A pattern matches nothing or names no regular file, the file names do not show the format, or a
            folder cannot be listed.
        DataError: A file is a link to nothing, or a loop of links.
    """
    files, problems = _find(name, config, root)
    if problems:
        raise problems[0]
    return _with_format(_key(name), config, files)


def find_all(
    place: str, tables: Mapping[str, FilesConfig], root: Path | str
) -> dict[str, tuple[list[FoundFile], Format]]:
    """Return what `find_files` returns, for several tables.

    Args:
        place: Name of the configuration in messages.
        tables: Patterns by table.
        root: Value of `--from`.

    Raises:
        UserError: A table has an error of this kind. The message has the errors of all tables.
        DataError: A file is a link to nothing, or a loop of links.
    """
    files_by_table, problems = {}, list[UserError]()
    for name, config in tables.items():
        try:
            files, unmatched = _find(name, config, root)
            problems += unmatched
            if not unmatched:
                files_by_table[name] = _with_format(_key(name), config, files)
        except UserError as error:
            problems.append(error)
    messages = list(dict.fromkeys(map(str, problems)))
    if len(messages) > 1:
        raise ConfigError.of(place, messages)
    if problems:
        raise problems[0]
    return files_by_table


def _key(name: str) -> str:
    return "log.files" if name == "log" else f"sides.{name}.files"


def _find(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], list[UserError]]:
    """Return the files that the patterns of a table match, in order, and an error for each pattern without a match."""
    base = _base(root)
    if not is_address(base) and Path(base).is_file():
        if name == "log":
            return [_file_at(base, Path(base).name, each.size, each.stamp) for each in _local_entries(base, ())], []
        base = str(Path(base).parent)
    matching: dict[str, FoundFile] = {}
    unread_entries: dict[str, str] = {}
    unmatched = []
    for pattern in config.files:
        unread: dict[str, str] = {}
        files = list(_matching(pattern, base, config.format, unread))
        unmatched += [] if files else [_no_match_error(_key(name), pattern, base, str(root), unread)]
        matching.update((file.path, file) for file in files)
        unread_entries |= unread
    for file in matching.values():  # One pattern may name a file that another pattern ignores.
        unread_entries.pop(file.shown, None)
    if unread_entries and not unmatched:
        fix = "move them away, or convert those that belong to the table"
        logger.warning("%s: not read: %s; %s. Fix: %s", _key(name), _names_text(unread_entries), _FOLDER_RULE, fix)
    return sorted(matching.values(), key=lambda file: file.shown), unmatched


def _names_text(unread: Mapping[str, str]) -> str:
    """Return the first names of entries as text, each with its kind unless it is a regular file."""
    names = [f"{name} ({kind})" if kind else name for name, kind in sorted(unread.items())]
    return ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def find_one(key: str, name: str, root: Path | str) -> FoundFile:
    """Return the file of a name, or of that name and `.gz`, in a folder or anywhere below it.

    Args:
        key: Name of the dataset in messages.
        name: Name of the file.
        root: Value of `--from`: folder or address of a store.

    Raises:
        UserError: There is no such file, or there are several.
    """
    base = _base(root)
    candidates = [file for end in ("", ".gz") for file in _matching(f"**/{name}{end}", base, "csv", {})]
    if not candidates:
        raise _no_match_error(key, f"**/{name}", base, str(root), {})
    if len(candidates) > 1:
        names = " and ".join(file.shown for file in candidates[:2])
        raise UserError(key, f"{names} are both there", "one of them is read", "move one away")
    return candidates[0]


def _base(root: Path | str) -> str:
    base = str(root)
    if is_address(base):
        return str(location(base))
    status = _status(Path(base))
    if status is None:
        raise UserError(base, "no such file or folder", f"{Option.SOURCE} names the raw files", "check the path")
    if kind := _irregular_kind(status):
        raise _irregular_error(base, kind)
    return str(Path(base).absolute())


def _file_at(path: str, shown: str, size: int, stamp: Stamp) -> FoundFile:
    folders = [part.partition("=") for part in PurePosixPath(shown).parts[:-1]]
    partitions = {unquote(key): unquote(value) for key, is_one, value in folders if key and is_one}
    return FoundFile(path, shown, size, partitions, stamp)


def format_of(name: str) -> Format | None:
    """Return the format that the ending of a file name shows; None if it shows none."""
    return next((kind for kind, endings in _ENDINGS.items() if name.lower().endswith(endings)), None)


def _with_format(key: str, config: FilesConfig, files: list[FoundFile]) -> tuple[list[FoundFile], Format]:
    if config.format is not None:
        return files, config.format
    kinds = {file.shown: format_of(file.shown) for file in files}
    rule = "all files of a table have one format, shown by .parquet, .csv or .csv.gz"
    for shown, kind in kinds.items():
        if kind is None:
            raise UserError(f"{key}, {shown}", "its name shows no format", rule, 'set format = "parquet" or "csv"')
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


def _matching(pattern: str, base: str, only: Format | None, unread: dict[str, str]) -> Iterator[FoundFile]:
    """Yield the files that one pattern matches, in any order.

    Args:
        pattern: Path, glob or address.
        base: Absolute path or address that relative patterns start at.
        only: Format of the files that are read from a folder; None for any.
        unread: Mapping that receives the entries of folders that are not read: name in messages, and kind unless it is
            a regular file.
    """
    full = _join(base, pattern)
    literal, wild = (full, ()) if not is_address(full) and os.path.lexists(full) else _split_address(full)
    for entry in _remote_entries(literal) if is_address(full) else _local_entries(literal, wild):
        how = matches(wild, PurePosixPath(entry.relative).parts)
        if how is None:
            continue
        path = "/".join(filter(None, (literal.rstrip("/"), entry.relative)))
        shown = path.removeprefix(f"{base.rstrip('/')}/")
        kind = format_of(entry.relative or literal)
        if how == "name" and entry.irregular:
            raise _irregular_error(shown, entry.irregular)
        if not _is_utf8(path):
            value, rule = "its name is not UTF-8", "engines open files by such names"
            raise UserError(
                os.fsencode(path).decode(errors="backslashreplace"), value, rule, "rename it, or its folder"
            )
        if how == "folder" and (entry.irregular or kind is None):
            unread[shown] = entry.irregular
        elif how == "name" or kind == (only or kind):
            stamp = entry.stamp if entry.remote is None else (identity(path, entry.remote),)
            yield _file_at(path, shown, entry.size, stamp)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # Python holds a byte of another encoding as a surrogate.
        return False
    return True


def _join(base: str, pattern: str) -> str:
    if is_address(pattern):
        return pattern
    if is_address(base) and not pattern.startswith("/"):
        return f"{base}/{pattern.removeprefix('./')}"
    return os.path.normpath(Path(base) / pattern)


def _split_address(full: str) -> tuple[str, tuple[str, ...]]:
    """Return the part of a path or address without wildcards, and the other parts."""
    scheme, separator, rest = full.rpartition("://")
    literal, wild = split_pattern(rest)
    return (str(location(f"{scheme}://{literal}")) if separator else literal), wild


def _remote_entries(literal: str) -> Iterator[_Entry]:
    for entry in objects_at(Remote(literal.rstrip("/"))):
        yield _Entry(entry.name, entry.size, remote=entry)


def _local_entries(literal: str, wild: Sequence[str]) -> Iterator[_Entry]:
    """Yield the entries at or below a path that are no folders. Links are followed, but not in circles."""
    seen = set()
    todo: list[tuple[str, ...]] = [()]
    while todo:
        parts = todo.pop()
        path = Path(literal, *parts)
        try:
            status = _status(path)
        except DataError:
            if not parts or matches(wild, parts):
                raise
            continue  # The pattern does not match this broken link.
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield _Entry("/".join(parts), status.st_size, stamp_of(status), _irregular_kind(status))
        elif (place := (status.st_dev, status.st_ino)) not in seen:
            seen.add(place)
            below = [(*parts, name) for name in _names_in(path)]
            todo += [each for each in below if matches(wild, each) or may_match_below(wild, each)]


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a path, with links followed; None if nothing has that name.

    Raises:
        UserError: The system refuses to tell the status.
        DataError: The path is a link to nothing, or a loop of links.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            value = "a loop of symbolic links"
        elif not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _unreadable_error(path, error) from error
        elif path.is_symlink():
            value = "a link to nothing"
        else:
            return None
        raise DataError(str(path), value, "every file of a table is read", "remove or mend the link") from error


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable_error(folder, error) from error


def _unreadable_error(path: Path, error: OSError) -> UserError:
    rule = "prep lists the folders of raw files"
    return UserError(str(path), f"cannot be read ({error.strerror})", rule, "make it readable, or name another path")


def _irregular_kind(status: os.stat_result) -> str:
    """Return the kind of an entry that is neither a regular file nor a folder; an empty text for the others."""
    return _IRREGULAR_KINDS.get(stat.S_IFMT(status.st_mode), "")


def _irregular_error(shown: str, kind: str) -> UserError:
    rule = "raw files are regular files, for they are read more than once"
    return UserError(shown, f"is {kind}", rule, "write its content to a file, and name that")


def _no_match_error(key: str, pattern: str, base: str, root: str, unread: Mapping[str, str]) -> UserError:
    """Return the error of a pattern that matches nothing.

    It lists entries that were not read, or else the names that stand where a match should be. It proposes a pattern
    that matches.
    """
    value = f"nothing matches {pattern!r} below {root}"
    if unread:
        rule = f"not read: {_names_text(unread)}; {_FOLDER_RULE}"
        return UserError(key, value, rule, f"convert them, or correct the pattern, or {Option.SOURCE}")
    literal, wild = _split_address(_join(base, pattern))
    at, missing = location(literal), list(wild)
    names = _names_below(at)
    while not names and at.parent != at and str(at) != base:
        missing.insert(0, at.name)
        at = at.parent
        names = _names_below(at)
    near = nearest(missing[0], [name for name in names if name != missing[0]]) if missing else None
    where = str(at)
    has = ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
    right = "/".join(filter(None, (where, near or "", *missing[1:]))).removeprefix(f"{base.rstrip('/')}/")
    if near and any(_matching(right, base, None, {})):
        fix = f"did you mean {right!r}?"
    else:
        fix = f"correct the pattern, or {Option.SOURCE}; {_FOLDER_RULE}"
    return UserError(key, value, f"{where} has {has or 'nothing'}", fix)


def _names_below(at: Location) -> list[str]:
    with explain_errors(at, "listed", "prep lists the folders of raw files"):
        return names_in(at)
