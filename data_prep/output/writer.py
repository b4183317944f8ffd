"""The final place of a dataset directory: what it holds, how a new dataset gets there, and the files written last.

    DIR/schema.toml  DIR/prep.toml  DIR/stats.json  DIR/stats.html  DIR/_SUCCESS
    DIR/{train,valid,test}/part-*.parquet  DIR/vocab/<table>.parquet  DIR/vectors/<feature>.parquet
    DIR/rates/<table>.parquet  DIR/histories/<history>.parquet  DIR/histories/<history>/<column>.npy

The recipe of a dataset is all that determines its content, such as the configuration and the raw files. `_SUCCESS`
holds the digest of the recipe, the fingerprint of the dataset, which each `part-*.parquet` repeats, and the digests of
all other files, which `ple_rec.data.integrity` reads. Recipe digest and fingerprint are equal except for synthetic
data. A folder that holds other files is never changed.
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
from ple_rec.config.schema import (
    HISTORIES_DIR,
    RATES_DIR,
    SCHEMA_FILE,
    STATS_FILE,
    STATS_PAGE,
    SUCCESS_FILE,
    VECTORS_DIR,
    VOCAB_DIR,
    DatasetSchema,
)
from ple_rec.data.integrity import Digests, digest_files
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, names_in, short_message

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"  # End of the name of a file that is not complete.
_OLD = ".old-"  # Part of the name of a dataset directory that is being replaced.
UPLOAD_FILE = "_UPLOAD"  # File that stands at an address while a dataset is uploaded there.
PROBE_FILE = "_PROBE"  # File that is written and removed to check that a store permits writing.
# Names of the files and folders of a dataset directory.
DATASET_NAMES = frozenset(
    (
        *(SCHEMA_FILE, STATS_FILE, STATS_PAGE, PREP_FILE, SUCCESS_FILE),
        *(VOCAB_DIR, VECTORS_DIR, RATES_DIR, HISTORIES_DIR, *SPLITS),
    )
)


def existing_recipe_digest(out: Location) -> str | None:
    """Return the recipe digest of the dataset directory at `out`; an empty text if `_SUCCESS` does not hold it.

    The result is None if there is no dataset yet: `out` does not exist, is empty, or holds an unfinished upload.

    Raises:
        UserError: `out` holds files that are not a complete dataset, or its store cannot be reached.
    """
    try:
        if _is_free(out):
            return None
        digest = complete_recipe_digest(out)
    except OSError as error:
        value = f"cannot be read ({error.strerror or short_message(error)})"
        rule = "prep checks the place before it writes"
        raise UserError(str(out), value, rule, f"name another {Option.OUT}, or make it readable") from error
    if digest is None:
        raise UserError(
            str(out),
            "exists and is not a dataset directory",
            "prep writes to a new or empty folder, and deletes no files of yours",
            f"name another {Option.OUT}, or move the files",
        )
    return digest


def _is_free(out: Location) -> bool:
    """Return True if `out` does not exist or is empty; an address may hold an unfinished upload."""
    if isinstance(out, Path):
        return not out.exists() or (out.is_dir() and not any(out.iterdir()))
    names = set(names_in(out)) - {PROBE_FILE}
    return SUCCESS_FILE not in names if UPLOAD_FILE in names else not names


def complete_recipe_digest(folder: Location) -> str | None:
    """Return the recipe digest of a complete dataset directory; None for any other folder.

    The digest is empty if `_SUCCESS` does not hold it.
    """
    if not (folder / SUCCESS_FILE).is_file() or not (folder / SCHEMA_FILE).is_file():
        return None
    try:
        digest = json.loads((folder / SUCCESS_FILE).read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(digest)


def is_damaged(folder: Location) -> bool:
    """Return True if a file of a complete dataset directory differs from its digest, or `_SUCCESS` cannot be read."""
    try:
        return any(True for _ in Digests.read(folder).find_changes())
    except DataError:
        return True


def publish(stage: Path, out: Path, *, replace: bool) -> None:
    """Move a complete dataset directory to its final place.

    All files are flushed to the disk first, so after a power cut `out` holds the whole dataset or none.

    Args:
        stage: Complete dataset directory, in the same folder as `out`.
        out: Final path of the dataset directory.
        replace: True to replace an existing dataset directory.

    Raises:
        UserError: The existing directory, which is to be replaced, holds a file that does not belong to a dataset.
        OSError: The directory cannot be moved.
    """
    sync(stage)
    if not replace or not out.exists():
        stage.rename(out)
        _sync_path(out.parent)
        return
    refuse_foreign(out, names_in(out))
    old = out.with_name(f".{out.name}{_OLD}{secrets.token_hex(4)}")
    out.rename(old)
    try:
        stage.rename(out)
    except OSError:
        old.rename(out)
        raise
    _sync_path(out.parent)
    _remove_old(old)


def refuse_foreign(out: Location, names: Iterable[str]) -> None:
    """Refuse a place that holds files which do not belong to a dataset directory.

    Args:
        out: Path or address of the dataset directory.
        names: Names of the files and folders that it holds.

    Raises:
        UserError: A name does not belong to a dataset directory.
    """
    if foreign := sorted(set(names) - DATASET_NAMES):
        raise UserError(
            str(out),
            f"also holds {', '.join(foreign)}",
            "prep deletes no files of yours",
            f"move them, or name another {Option.OUT}",
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
        logger.warning("%s: the dataset that has been replaced cannot be removed (%s). Fix: remove it", old, reason)


def sync(folder: Path) -> None:
    """Flush the files below a folder, and the folder's own entries, to the disk.

    Raises:
        OSError: A file cannot be flushed.
    """
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_path(Path(path, name))
        _sync_path(Path(path))


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some file systems do not flush folders.
            raise
    finally:
        os.close(descriptor)


def recover(out: Path) -> None:
    """Complete or undo a replacement of `out` during which a run was killed.

    The old dataset directory is moved back if `out` does not exist. It is removed if `out` exists, or if a part of it
    has been removed already.

    Args:
        out: Dataset directory, which no other run may be writing.
    """
    for old in sorted(out.parent.glob(f".{glob.escape(out.name)}{_OLD}*")):
        if out.exists() or complete_recipe_digest(old) is None:
            _remove_old(old)
        else:
            old.rename(out)


def finish(folder: Path, schema: DatasetSchema, recipe_digest: str, stats: Mapping[str, Any]) -> None:
    """Write `stats.json`, `schema.toml` and then `_SUCCESS`; create `vocab/` if it is missing.

    Args:
        folder: Dataset directory with its Parquet files.
        schema: Content of `schema.toml`.
        recipe_digest: Digest of the recipe, which `existing_recipe_digest` will return.
        stats: Content of `stats.json`.
    """
    (folder / VOCAB_DIR).mkdir(exist_ok=True)
    write_atomically(folder / STATS_FILE, json.dumps(stats, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / SCHEMA_FILE, tomli_w.dumps(schema.model_dump(mode="json", exclude_none=True)))
    success = {"recipe": recipe_digest, "fingerprint": schema.fingerprint, "files": digest_files(folder)}
    write_atomically(folder / SUCCESS_FILE, json.dumps(success) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that gets its name when it is complete."""
    unfinished = path.with_suffix(path.suffix + UNFINISHED)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
