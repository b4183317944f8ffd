"""The dataset directory: what is at its place, how it gets there, and its last files.

    DIR/schema.toml  DIR/stats.json  DIR/{train,valid,test}/part-*.parquet  DIR/vocab/<table>.parquet  DIR/_SUCCESS

`_SUCCESS` holds the digest of the recipe, the fingerprint, and the digests of all other files, as
`ple_rec.data.integrity` reads them. A folder that is not a dataset directory is never touched.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from ple_rec.config.base import SPLITS
from ple_rec.config.prep import PREP_FILE
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, STATS_PAGE, SUCCESS_FILE, VOCAB_DIR, DatasetSchema
from ple_rec.data.integrity import Digests, digest_files
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, names_in, short

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
_OLD = ".old-"
UPLOAD_FILE = "_UPLOAD"  # at an address, while a dataset is uploaded
PROBE_FILE = "_PROBE"  # at an address, for a moment, to see that it can be written
KNOWN = frozenset((SCHEMA_FILE, STATS_FILE, STATS_PAGE, PREP_FILE, SUCCESS_FILE, VOCAB_DIR, *SPLITS))


def prepared_recipe(out: Location) -> str | None:
    """Return the recipe digest of the complete dataset directory at `out`; None where `out` is free.

    Raises:
        UserError: `out` is something else, which must not be touched, or its store cannot be reached.
    """
    try:
        if _is_free(out):
            return None
        recipe = complete_recipe(out)
    except OSError as error:
        value = f"cannot be read ({error.strerror or short(error)})"
        rule = "prep looks at what is there before it writes"
        raise UserError(str(out), value, rule, f"name another {Option.OUT}, or make it readable") from error
    if recipe is None:
        raise UserError(
            str(out),
            "exists and is not a dataset directory",
            "prep writes to a new or empty folder and deletes nothing of yours",
            f"name another {Option.OUT}, or move what is there",
        )
    return recipe


def _is_free(out: Location) -> bool:
    if isinstance(out, Path):
        return not out.exists() or (out.is_dir() and not any(out.iterdir()))
    names = set(names_in(out)) - {PROBE_FILE}
    return SUCCESS_FILE not in names if UPLOAD_FILE in names else not names


def complete_recipe(folder: Location) -> str | None:
    """Return the recipe digest of a folder that is a complete dataset directory, else None."""
    if not (folder / SUCCESS_FILE).is_file() or not (folder / SCHEMA_FILE).is_file():
        return None
    try:
        recipe = json.loads((folder / SUCCESS_FILE).read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError):
        return ""  # complete, by an unknown recipe
    return str(recipe)


def is_damaged(folder: Location) -> bool:
    """Whether a file of a complete dataset directory is not what was prepared, as far as it holds digests."""
    try:
        return any(True for _ in Digests.read(folder).changes())
    except DataError:  # of `_SUCCESS`
        return True


def publish(stage: Path, out: Path, *, replace: bool) -> None:
    """Put a complete dataset directory in its place, when all of it is on the disk: a power cut leaves it or nothing.

    Args:
        stage: The directory, beside `out`.
        out: Its place, free or a dataset directory.
        replace: Whether a dataset directory that is there gives way.

    Raises:
        UserError: `out` holds a file that no dataset has.
        OSError: It could not be moved.
    """
    sync(stage)
    if not replace or not out.exists():
        stage.rename(out)
        _sync_one(out.parent)
        return
    refuse_foreign(out, names_in(out))
    old = out.with_name(f".{out.name}{_OLD}{secrets.token_hex(4)}")
    out.rename(old)
    try:
        stage.rename(out)
    except OSError:
        old.rename(out)
        raise
    _sync_one(out.parent)
    _remove_old(old)


def refuse_foreign(out: Location, names: Iterable[str]) -> None:
    """Refuse a place that holds what no dataset directory has.

    Args:
        out: The place.
        names: Names of what lies there.

    Raises:
        UserError: It does.
    """
    if foreign := sorted(set(names) - KNOWN):
        raise UserError(
            str(out),
            f"also holds {', '.join(foreign)}",
            "prep deletes nothing of yours",
            f"move it, or name another {Option.OUT}",
        )


def _remove_old(old: Path) -> None:
    """Remove what gave way to another dataset directory; a warning is all that comes of it where that is forbidden."""
    try:
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("%s: the dataset that was replaced cannot be removed (%s). Fix: remove it", old, reason)


def sync(folder: Path) -> None:
    """Wait until the files below a folder and their names are on the disk.

    Raises:
        OSError: They cannot be.
    """
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_one(Path(path, name))
        _sync_one(Path(path))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that does not do this for folders
            raise
    finally:
        os.close(descriptor)


def recover(out: Path) -> None:
    """End what a run that was killed while it replaced `out` had begun.

    What it was about to remove comes back where nothing else is in its place, and goes where the new one is.

    Args:
        out: The dataset directory; no other run may be writing it.
    """
    for old in sorted(out.parent.glob(f".{glob.escape(out.name)}{_OLD}*")):
        if out.exists() or complete_recipe(old) is None:
            _remove_old(old)
        else:
            old.rename(out)


def finish(folder: Path, schema: DatasetSchema, recipe: str, stats: Mapping[str, Any]) -> None:
    """Write what stands beside the parts, `_SUCCESS` last.

    Args:
        folder: Of a dataset directory, with its parts.
        schema: Content of `schema.toml`.
        recipe: Digest of what the directory was made from, as `prepared_recipe` gives it.
        stats: Content of `stats.json`.
    """
    (folder / VOCAB_DIR).mkdir(exist_ok=True)
    write_whole(folder / STATS_FILE, json.dumps(stats, indent=1, allow_nan=False) + "\n")
    write_whole(folder / SCHEMA_FILE, tomli_w.dumps(schema.model_dump(mode="json", exclude_none=True)))
    success = {"recipe": recipe, "fingerprint": schema.fingerprint, "files": digest_files(folder)}
    write_whole(folder / SUCCESS_FILE, json.dumps(success) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears when it is complete."""
    unfinished = path.with_suffix(path.suffix + UNFINISHED)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
