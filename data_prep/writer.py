"""The dataset directory: written beside its place, renamed into it when it is complete.

    DIR/schema.toml  DIR/stats.json  DIR/{train,valid,test}/part-*.parquet  DIR/vocab/<table>.parquet  DIR/_SUCCESS

`_SUCCESS` holds `{"recipe": ..., "fingerprint": ...}`. A failure removes what was written: nothing that looks complete
is left behind, and a folder that is not a dataset directory is never touched.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import (
    FINGERPRINT_KEY,
    SCHEMA_FILE,
    STATS_FILE,
    SUCCESS_FILE,
    VOCAB_DIR,
    DatasetSchema,
)
from ple_rec.errors import UserError

COMPRESSION = "zstd"
COMPRESSION_LEVEL = 1
DICTIONARY_LIMIT = 65_536  # distinct values up to which a column is dictionary-encoded


def prepared_recipe(out: Path) -> str | None:
    """The recipe digest of the complete dataset directory at `out`; None where `out` is free.

    Raises:
        UserError: `out` is something else, which must not be touched.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir() or not (out / SUCCESS_FILE).is_file() or not (out / SCHEMA_FILE).is_file():
        raise UserError(
            str(out),
            "exists and is not a dataset directory",
            "prep writes to a new or empty folder and deletes nothing of yours",
            "name another --out, or move what is there",
        )
    try:
        recipe = json.loads((out / SUCCESS_FILE).read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError):
        return ""  # complete, by an unknown recipe
    return str(recipe)


@contextmanager
def staged(out: Path, replace: bool) -> Iterator[Path]:
    """A new folder beside `out` that becomes `out` when the block ends well, and is removed when it does not.

    Args:
        out: The dataset directory.
        replace: Whether a dataset directory that is there already gives way.

    Raises:
        UserError: The disk is full, the place may not be written, or `out` holds more than a dataset.
    """
    stage = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage.mkdir()
        yield stage
        if replace:
            _swap(stage, out)
        else:
            stage.rename(out)
    except OSError as error:
        raise UserError(
            str(out),
            f"could not be written ({error.strerror or error})",
            "it needs a writable place with enough room",
            "free some space or name another --out; nothing was left behind",
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _swap(stage: Path, out: Path) -> None:
    """Put `stage` in the place of a dataset directory, unless that holds a file that no dataset has."""
    known = {SCHEMA_FILE, STATS_FILE, SUCCESS_FILE, VOCAB_DIR, *SPLITS}
    if foreign := sorted(path.name for path in out.iterdir() if path.name not in known):
        raise UserError(
            str(out),
            f"also holds {', '.join(foreign)}",
            "prep deletes nothing of yours",
            "move it, or name another --out",
        )
    old = stage.with_suffix(stage.suffix + "-old")
    out.rename(old)
    try:
        stage.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def write_dataset(
    stage: Path,
    schema: DatasetSchema,
    recipe: str,
    parts: Mapping[Split, pa.Table],
    vocabularies: Mapping[str, pa.Table],
    stats: Mapping[str, Any],
    row_group_rows: int,
) -> None:
    """Write all files of a dataset directory, `_SUCCESS` last.

    Args:
        stage: An empty folder.
        schema: Its fingerprint goes into every part's metadata.
        recipe: Digest of the recipe.
        parts: The rows of every split, in order.
        vocabularies: By table: `raw`, `row`, `count`, ordered by row.
        stats: Content of `stats.json`.
        row_group_rows: Rows of a row group.
    """
    for split, table in parts.items():
        (stage / split).mkdir()
        write_part(stage / split / "part-00000.parquet", table, schema.fingerprint, row_group_rows)
    (stage / VOCAB_DIR).mkdir()
    for name, table in vocabularies.items():
        pq.write_table(
            table, stage / VOCAB_DIR / f"{name}.parquet", compression=COMPRESSION, compression_level=COMPRESSION_LEVEL
        )
    text = json.dumps(stats, indent=1, allow_nan=False)
    (stage / STATS_FILE).write_text(text + "\n", encoding="utf-8")
    fields = schema.model_dump(mode="json", exclude_none=True)
    (stage / SCHEMA_FILE).write_text(tomli_w.dumps(fields), encoding="utf-8")
    success = json.dumps({"recipe": recipe, "fingerprint": schema.fingerprint})
    (stage / SUCCESS_FILE).write_text(success + "\n", encoding="utf-8")


def write_part(path: Path, table: pa.Table, fingerprint: str, row_group_rows: int) -> None:
    """Write one Parquet part; columns of few distinct values are dictionary-encoded, bags are not."""
    table = table.replace_schema_metadata({FINGERPRINT_KEY: fingerprint.encode()})
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    few = [name for name in flat if len(table[name].unique()) <= DICTIONARY_LIMIT]
    pq.write_table(
        table,
        path,
        row_group_size=row_group_rows,
        use_dictionary=few,
        compression=COMPRESSION,
        compression_level=COMPRESSION_LEVEL,
    )


def row_groups(rows: int, row_group_rows: int) -> int:
    """How many row groups `write_part` makes: at least one, even of no rows."""
    return max(1, -(-rows // row_group_rows))
