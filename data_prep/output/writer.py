"""The place of a dataset directory: checks of its content, publication, and the last files.

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
UPLOAD_FILE = "_UPLOAD"  # An address holds it while a dataset is uploaded.
PROBE_FILE = "_PROBE"  # It is written to an address and removed, to check that the store permits writing.
KNOWN = frozenset((SCHEMA_FILE, STATS_FILE, STATS_PAGE, PREP_FILE, SUCCESS_FILE, VOCAB_DIR, *SPLITS))


def prepared_recipe(out: Location) -> str | None:
    """Return the recipe digest of the complete dataset directory at `out`; None if nothing stands at `out`.

    Raises:
        UserError: `out` holds other files, which must not be touched, or its store cannot be reached.
    """
    try:
        if _is_free(out):
            return None
        recipe = complete_recipe(out)
    except OSError as error:
        value = f"cannot be read ({error.strerror or short(error)})"
        rule = "prep checks the place before it writes"
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
    """Return the recipe digest of a complete dataset directory; None for any other folder."""
    if not (folder / SUCCESS_FILE).is_file() or not (folder / SCHEMA_FILE).is_file():
        return None
    try:
        recipe = json.loads((folder / SUCCESS_FILE).read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError):
        return ""  # The dataset is complete, but its recipe is unknown.
    return str(recipe)


def is_damaged(folder: Location) -> bool:
    """Return whether a file of a complete dataset directory differs from its digest."""
    try:
        return any(True for _ in Digests.read(folder).changes())
    except DataError:  # `_SUCCESS` cannot be read.
        return True


def publish(stage: Path, out: Path, *, replace: bool) -> None:
    """Move a complete dataset directory to its place.

    All files are flushed to the disk first, so a power cut leaves the whole dataset or none.

    Args:
        stage: Complete dataset directory beside `out`.
        out: Place of the dataset directory.
        replace: True to replace an existing dataset directory.

    Raises:
        UserError: `out` holds a file that no dataset has.
        OSError: The directory cannot be moved.
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
    """Refuse a place that holds files of no dataset directory.

    Args:
        out: Path or address of the dataset directory.
        names: Names of its files and folders.

    Raises:
        UserError: A name is none of a dataset directory.
    """
    if foreign := sorted(set(names) - KNOWN):
        raise UserError(
            str(out),
            f"also holds {', '.join(foreign)}",
            "prep deletes nothing of yours",
            f"move it, or name another {Option.OUT}",
        )


def _remove_old(old: Path) -> None:
    """Remove a dataset directory that was replaced; warn if that is not permitted."""
    try:
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("%s: the dataset that was replaced cannot be removed (%s). Fix: remove it", old, reason)


def sync(folder: Path) -> None:
    """Flush the files below a folder, and the folder's own entries, to the disk.

    Raises:
        OSError: A file cannot be flushed.
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
        if error.errno != errno.EINVAL:  # Some file systems do not flush folders.
            raise
    finally:
        os.close(descriptor)


def recover(out: Path) -> None:
    """Complete or undo the replacement of `out` in which a run was killed.

    The old dataset directory is moved back if `out` does not exist, and removed if it does.

    Args:
        out: Dataset directory, which no other run may be writing.
    """
    for old in sorted(out.parent.glob(f".{glob.escape(out.name)}{_OLD}*")):
        if out.exists() or complete_recipe(old) is None:
            _remove_old(old)
        else:
            old.rename(out)


def finish(folder: Path, schema: DatasetSchema, recipe: str, stats: Mapping[str, Any]) -> None:
    """Write `stats.json`, `schema.toml` and then `_SUCCESS`.

    Args:
        folder: Dataset directory with its parts.
        schema: Content of `schema.toml`.
        recipe: Digest of the recipe, as `prepared_recipe` returns it.
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
