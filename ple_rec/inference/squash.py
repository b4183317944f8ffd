"""Squashing of a delta: a new version that is whole, and that has the scores of a delta and its chain, bit for bit.

A delta needs all versions of its chain. Once it is squashed, the older versions can be removed, and with them the ids
that have left the vocabularies.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ple_rec.config.load import load_schema
from ple_rec.config.raw_form import RAW_FILE, RawForm
from ple_rec.config.schema import VECTORS_DIR, VOCAB_DIR
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.arrays import TABLES
from ple_rec.inference.card import CARD_FILE, card_text
from ple_rec.inference.delta import version_chain
from ple_rec.inference.delta_export import read_chain_values
from ple_rec.inference.export import ExportedVersion, write_description
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.manifest import MANIFEST, MODEL_FILE
from ple_rec.inference.model_dir import VERSIONS, find_version, latest_version, new_version
from ple_rec.inference.publish import LATEST
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.remote_model import local_version
from ple_rec.inference.tables import StoredTable, row_bytes
from ple_rec.inference.vocabulary_files import write_vocabulary
from ple_rec.storage import Location

# Number of rows of a table that are written at a time.
_CHUNK_ROWS = 1 << 18
# Number of items, all without values, in a request that both versions have to answer alike.
_COMPARED_ITEMS = 40


def squash(model_dir: Location, name: str, new_name: str | None = None) -> ExportedVersion:
    """Write the served delta as a whole version, and write the name of that version into `latest`.

    Args:
        model_dir: Folder of the model.
        name: Name of the delta, which is the version that `latest` names.
        new_name: Name of the whole version; None for the number after the last version.

    Raises:
        UserError: There is no such version, it is whole already, or another version is served.
        DataError: A version of the chain is missing or damaged.
    """
    version = find_version(model_dir, name, Option.SQUASH)
    ranker = load_ranker(version)
    if "delta" not in ranker.description:
        rule = "only a delta is made whole"
        raise UserError(Option.SQUASH, f"{name} is whole already", rule, "name a delta, or serve this version")
    if (served := latest_version(model_dir).name) != name:
        rule = "the whole version is served from now on, so it has the scores of the version that is served now"
        fix = f"give {Option.SQUASH.with_value(served)}, or write {name} into {model_dir / LATEST} first"
        raise UserError(Option.SQUASH, f"got {name}, but {served} is served", rule, fix)
    chain = [local_version(each) for each in version_chain(version)]
    with new_version(model_dir, new_name) as folder:
        _copy_files(chain, folder)
        schema = load_schema(folder)
        table_of = {feature.name: feature.table for feature in schema.sparse}
        for table in dict.fromkeys(table_of[each.name] for each in ranker.signature.sparse):
            if (chain[0] / VOCAB_DIR / f"{table}.parquet").exists():
                write_vocabulary(folder / VOCAB_DIR / f"{table}.parquet", read_chain_values(chain, table))
        used = {each.name for each in ranker.signature.sparse}
        # The encoder builds the indices of the vocabularies beside them, so that a server need not.
        Encoder(folder, [feature for feature in schema.sparse if feature.name in used])
        description = _describe(ranker.description, name)
        for entry in description["tables"]:
            _write_stored_rows(ranker.arrays.tables[entry["name"]], folder / TABLES / entry["file"])
        write_description(folder, description)
        raw = folder / RAW_FILE
        raw_form = RawForm.model_validate_json(raw.read_text(encoding="utf-8")) if raw.exists() else None
        (folder / CARD_FILE).write_text(card_text(description, ranker.signature, raw_form), encoding="utf-8")
        _check_answers(ranker, Ranker(folder, checked=True, dense_precision=ranker.dense_precision))
    return ExportedVersion(model_dir / VERSIONS / folder.name, description)


def _copy_files(chain: list[Path], folder: Path) -> None:
    """Copy the files that a delta has whole, and create the folders of the others."""
    changed = {TABLES, VOCAB_DIR, VECTORS_DIR, MANIFEST, MODEL_FILE, CARD_FILE}
    for file in chain[-1].iterdir():
        if file.name not in changed:
            shutil.copyfile(file, folder / file.name)
    for name in (TABLES, VOCAB_DIR):
        (folder / name).mkdir()
    # A later version of the chain overwrites the frozen tables of an earlier one.
    for version in chain:
        if (version / VECTORS_DIR).is_dir():
            (folder / VECTORS_DIR).mkdir(exist_ok=True)
            for file in (version / VECTORS_DIR).iterdir():
                shutil.copyfile(file, folder / VECTORS_DIR / file.name)


def _describe(delta: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the content of `model.json` of the whole version.

    Args:
        delta: Content of `model.json` of the delta.
        name: Name of the delta.
    """
    tables = []
    for table in delta["tables"]:
        whole = {key: value for key, value in table.items() if key != "changed"}
        size = table["rows"] * row_bytes(table["dim"], table["precision"])
        tables.append(whole | {"file": f"{table['name']}.{table['precision']}", "bytes": size})
    card = {key: value for key, value in delta["card"].items() if key != "delta"} | {"squashed": name}
    return {key: value for key, value in delta.items() if key != "delta"} | {"tables": tables, "card": card}


def _write_stored_rows(table: StoredTable, file: Path) -> None:
    with file.open("wb") as out:
        for begin in range(0, table.rows, _CHUNK_ROWS):
            rows_N = torch.arange(begin, min(begin + _CHUNK_ROWS, table.rows), dtype=torch.int32)
            out.write(table.stored_rows(rows_N).contiguous().numpy().data)


def _check_answers(delta: Ranker, whole: Ranker) -> None:
    """Refuse a whole version that answers a request differently than the delta.

    Raises:
        DataError: An answer differs.
    """
    bodies = [{"items": [{}] * _COMPARED_ITEMS}, *(each["request"] for each in delta.examples)]
    if _scores(delta, bodies) != _scores(whole, bodies):
        rule = f"a whole version has the scores of {delta.version}"
        raise DataError(whole.version, "its scores differ", rule, "report this as a bug")


def _scores(ranker: Ranker, bodies: Iterable[object]) -> list[Any]:
    return [ranker.answer([ranker.read_rank(body)])[0]["items"] for body in bodies]
