"""Search for the raw files that the patterns of a configuration match, on a disk or in an object store.

A table is the log (the impressions) or a side table (such as the users); its patterns are the key `files` of its
section in the configuration. `find_files` returns the files of one table, `find_all` those of several tables.
"""

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
from ple_rec.storage.store import StoredObject, objects_at
from ple_rec.text.suggest import nearest_name

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
    """A raw file of a table.

    Args:
        path: Absolute path, or address in an object store.
        display_name: Name in messages: the path relative to `--from`, or the full path of a file that lies elsewhere.
        size: Size in bytes.
        partitions: Values of the columns that folder names give, by column: `day=1` gives {"day": "1"}.
        stamp: Values that change when the file does: `stamp_of` of a local file, the digest of an object in a store.
    """

    path: str
    display_name: str
    size: int
    partitions: dict[str, str] = field(hash=False)
    stamp: Stamp = ()


class _Entry(NamedTuple):
    """Entry of a listing of a folder or a store: a file, or anything else that is not a folder.

    Args:
        relative: Path below the listed folder; empty if the listed path is the file itself.
        size: Size in bytes.
        stamp: Stamp of a local file.
        irregular: Kind of an entry that is no regular file, such as `a FIFO`; empty for a regular file.
        remote: Object of a store; None for a local file.
    """

    relative: str
    size: int
    stamp: Stamp = ()
    irregular: str = ""
    remote: StoredObject | None = None


def find_files(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], Format]:
    """Return the files of a table, each once and sorted by `display_name`, and their format.

    Args:
        name: `log`, or the name of a side table.
        config: Patterns of the table.
        root: Value of `--from`: folder, address of a store, or one file, which is the log.

    Raises:
        UserError: A pattern matches nothing or names no regular file, the file names do not show the format or are not
            UTF-8, or a folder cannot be listed.
        DataError: A file is a link to nothing, or a loop of links.
    """
    files, problems = _find(name, config, root)
    if problems:
        raise problems[0]
    return _determine_format(_config_key(name), config, files)


def find_all(
    place: str, tables: Mapping[str, FilesConfig], root: Path | str
) -> dict[str, tuple[list[FoundFile], Format]]:
    """Return what `find_files` returns, by table.

    Args:
        place: Name of the configuration in messages.
        tables: Patterns by table.
        root: Value of `--from`.

    Raises:
        UserError: A table has an error that `find_files` raises. The message lists the errors of all tables.
        DataError: A file is a link to nothing, or a loop of links.
    """
    files_by_table, problems = {}, list[UserError]()
    for name, config in tables.items():
        try:
            files, unmatched = _find(name, config, root)
            problems += unmatched
            if not unmatched:
                files_by_table[name] = _determine_format(_config_key(name), config, files)
        except UserError as error:
            problems.append(error)
    messages = list(dict.fromkeys(map(str, problems)))
    if len(messages) > 1:
        raise ConfigError.from_problems(place, messages)
    if problems:
        raise problems[0]
    return files_by_table


def _config_key(name: str) -> str:
    return "log.files" if name == "log" else f"sides.{name}.files"


def _find(name: str, config: FilesConfig, root: Path | str) -> tuple[list[FoundFile], list[UserError]]:
    """Return the files that the patterns of a table match, in order, and an error for each pattern without a match.

    If `--from` names a single file, this file is the log, and the patterns of side tables are relative to its folder.
    """
    base = _resolve_root(root)
    if not is_address(base) and Path(base).is_file():
        if name == "log":
            return [_make_file(base, Path(base).name, each.size, each.stamp) for each in _local_entries(base, ())], []
        base = str(Path(base).parent)
    matching: dict[str, FoundFile] = {}
    unread_entries: dict[str, str] = {}
    unmatched = []
    for pattern in config.files:
        unread: dict[str, str] = {}
        files = list(_matching(pattern, base, config.format, unread))
        unmatched += [] if files else [_no_match_error(_config_key(name), pattern, base, str(root), unread)]
        matching.update((file.path, file) for file in files)
        unread_entries |= unread
    for file in matching.values():  # One pattern may name a file that another pattern ignores.
        unread_entries.pop(file.display_name, None)
    if unread_entries and not unmatched:
        fix = "move them away, or convert those that belong to the table"
        logger.warning(
            "%s: not read: %s; %s. Fix: %s", _config_key(name), _names_text(unread_entries), _FOLDER_RULE, fix
        )
    return sorted(matching.values(), key=lambda file: file.display_name), unmatched


def _names_text(unread: Mapping[str, str]) -> str:
    """Return the first names of entries as text, each with its kind unless it is a regular file."""
    names = [f"{name} ({kind})" if kind else name for name, kind in sorted(unread.items())]
    return ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def find_one(key: str, name: str, root: Path | str) -> FoundFile:
    """Return the file with a name, or with that name and the ending `.gz`, in a folder or anywhere below the folder.

    Args:
        key: Name of the dataset in messages.
        name: Name of the file.
        root: Value of `--from`: folder or address of a store.

    Raises:
        UserError: There is no such file, or there are several.
    """
    base = _resolve_root(root)
    candidates = [file for end in ("", ".gz") for file in _matching(f"**/{name}{end}", base, "csv", {})]
    if not candidates:
        raise _no_match_error(key, f"**/{name}", base, str(root), {})
    if len(candidates) > 1:
        names = " and ".join(file.display_name for file in candidates[:2])
        raise UserError(key, f"{names} both exist", "only one of them is read", "move one away")
    return candidates[0]


def _resolve_root(root: Path | str) -> str:
    """Return the value of `--from` as an absolute path or an address, and refuse a path that cannot hold raw files."""
    base = str(root)
    if is_address(base):
        return str(location(base))
    status = _status(Path(base))
    if status is None:
        raise UserError(base, "no such file or folder", f"{Option.SOURCE} names the raw files", "check the path")
    if kind := _irregular_kind(status):
        raise _irregular_error(base, kind)
    return str(Path(base).absolute())


def _make_file(path: str, display_name: str, size: int, stamp: Stamp) -> FoundFile:
    folders = [part.partition("=") for part in PurePosixPath(display_name).parts[:-1]]
    partitions = {unquote(key): unquote(value) for key, has_value, value in folders if key and has_value}
    return FoundFile(path, display_name, size, partitions, stamp)


def format_of(name: str) -> Format | None:
    """Return the format that the ending of a file name shows; None if it shows none."""
    return next((kind for kind, endings in _ENDINGS.items() if name.lower().endswith(endings)), None)


def _determine_format(key: str, config: FilesConfig, files: list[FoundFile]) -> tuple[list[FoundFile], Format]:
    """Return the files unchanged, and their format: the configured one, or the one that all file names show."""
    if config.format is not None:
        return files, config.format
    kinds = {file.display_name: format_of(file.display_name) for file in files}
    rule = "all files of a table have one format, shown by .parquet, .csv or .csv.gz"
    format_key = f"{key.removesuffix('.files')}.format"
    for name, kind in kinds.items():
        if kind is None:
            fix = f'set {format_key} = "parquet" or "csv"'
            raise UserError(f"{key}, {name}", "its name shows no format", rule, fix)
        first = next(iter(kinds))
        if kind != kinds[first]:
            fix = (
                f'convert one kind to the other, or read one kind only: {format_key} = "{kinds[first]}" skips all '
                "other files of a folder, with their rows"
            )
            raise UserError(key, f"{first} is {kinds[first]} but {name} is {kind}", rule, fix)
    kind = next(iter(kinds.values()))
    assert kind is not None  # The loop above has refused it.
    return files, kind


def _matching(pattern: str, base: str, required_format: Format | None, unread: dict[str, str]) -> Iterator[FoundFile]:
    """Yield the files that one pattern matches, in any order.

    Args:
        pattern: Path, glob or address.
        base: Absolute path or address to which a pattern may be relative.
        required_format: Format of the files that are read from a folder; None for any.
        unread: Mapping to which entries of matched folders are added that are no regular Parquet or CSV files: name in
            messages, and kind of the entry, such as `a FIFO`, which is empty for a regular file.
    """
    full = _join(base, pattern)
    # A path that exists is meant literally, even if its name holds wildcards.
    literal, wild = (full, ()) if not is_address(full) and os.path.lexists(full) else _split_address(full)
    for entry in _remote_entries(literal) if is_address(full) else _local_entries(literal, wild):
        # "name": the pattern names the entry itself. "folder": the pattern names a folder above the entry.
        match = matches(wild, PurePosixPath(entry.relative).parts)
        if match is None:
            continue
        path = "/".join(filter(None, (literal.rstrip("/"), entry.relative)))
        display_name = path.removeprefix(f"{base.rstrip('/')}/")
        kind = format_of(entry.relative or literal)
        if match == "name" and entry.irregular:
            raise _irregular_error(display_name, entry.irregular)
        if not _is_utf8(path):
            value, rule = "its name is not UTF-8", "engines open files by names in UTF-8"
            raise UserError(
                os.fsencode(path).decode(errors="backslashreplace"), value, rule, "rename it, or its folder"
            )
        if match == "folder" and (entry.irregular or kind is None):
            unread[display_name] = entry.irregular
        elif match == "name" or kind == (required_format or kind):
            stamp = entry.stamp if entry.remote is None else (identity(path, entry.remote),)
            yield _make_file(path, display_name, entry.size, stamp)


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
    """Yield the entries at or below a path that are no folders and that `wild` may match.

    Links are followed, and a folder that is reached twice is listed once.
    """
    seen = set()  # Devices and inodes of the folders.
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        path = Path(literal, *parts)
        try:
            status = _status(path)
        except DataError:
            if not parts or matches(wild, parts):
                raise
            continue  # The pattern does not match the broken link itself.
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield _Entry("/".join(parts), status.st_size, stamp_of(status), _irregular_kind(status))
        elif (inode := (status.st_dev, status.st_ino)) not in seen:
            seen.add(inode)
            children = [(*parts, name) for name in _names_in(path)]
            pending += [child for child in children if matches(wild, child) or may_match_below(wild, child)]


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
        raise DataError(str(path), value, "every file of a table is read", "remove or correct the link") from error


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


def _irregular_error(display_name: str, kind: str) -> UserError:
    rule = "raw files are regular files, since they are read more than once"
    return UserError(display_name, f"is {kind}", rule, "write its content to a file, and name that")


def _no_match_error(key: str, pattern: str, base: str, root: str, unread: Mapping[str, str]) -> UserError:
    """Return the error of a pattern that matches nothing.

    The error lists the entries of the folder that were not read. If there are none, it lists the names in the deepest
    existing folder of the pattern, and proposes a similar name if the pattern matches with it.
    """
    value = f"nothing matches {pattern!r} below {root}"
    if unread:
        rule = f"not read: {_names_text(unread)}; {_FOLDER_RULE}"
        return UserError(key, value, rule, f"convert them, or correct the pattern or {Option.SOURCE}")
    literal, wild = _split_address(_join(base, pattern))
    folder, missing = location(literal), list(wild)
    names = _names_below(folder)
    while not names and folder.parent != folder and str(folder) != base:
        missing.insert(0, folder.name)
        folder = folder.parent
        names = _names_below(folder)
    similar = nearest_name(missing[0], [name for name in names if name != missing[0]]) if missing else None
    where = str(folder)
    content = ", ".join(names[:_MAX_NAMES]) + (
        f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    )
    proposal = "/".join(filter(None, (where, similar or "", *missing[1:]))).removeprefix(f"{base.rstrip('/')}/")
    if similar and any(_matching(proposal, base, None, {})):
        fix = f"did you mean {proposal!r}?"
    else:
        fix = f"correct the pattern or {Option.SOURCE}; {_FOLDER_RULE}"
    return UserError(key, value, f"{where} has {content or 'nothing'}", fix)


def _names_below(folder: Location) -> list[str]:
    with explain_errors(folder, "listed", "prep lists the folders of raw files"):
        return names_in(folder)
