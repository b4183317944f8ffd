"""Export of a trained run to a version of a model, which serves without the run.

versions/v<N>/
model.json       name, signature, tables, card          MODEL_CARD.md   the card for people
dense.pt2        the dense program (and dense.onnx)     tables/<table>.<precision>
config.toml      configuration of the run               schema.toml  prep.toml  stats.json   of its dataset
vocab/           raw value -> row, with its index       fusion.toml     Eq. 1
examples.json    held-out users (--examples)            manifest.json   checksums, written last
"""

from __future__ import annotations

import datetime
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.distributed.types import ShardedTensor

from ple_rec import __version__
from ple_rec.config.choices import TablePrecision, UsedPrecision
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import dump_toml, fingerprint
from ple_rec.config.prep import PREP_FILE
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, SUCCESS_FILE, VOCAB_DIR
from ple_rec.config.words import spelling_hint
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.card import card_text
from ple_rec.inference.export_check import ErrorBounds, TaskCheck, compare_scores, refuse_losses, to_record, units
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.fusion_lookup import dropped_fusion, fusion_of
from ple_rec.inference.held_out import HeldOutRows, RawHeldOutRows, examples_of, read_held_out
from ple_rec.inference.model_dir import VERSIONS, new_version
from ple_rec.inference.program import check_onnx, write_program
from ple_rec.inference.ranker import CONFIG, EXAMPLES, FUSION_FILE, MODEL_FILE, TABLES, Ranker
from ple_rec.inference.read_back import check_requests
from ple_rec.inference.signature import signature_of
from ple_rec.inference.tables import check_dim, row_bytes, write_table
from ple_rec.ranking.fusion import exponents_text
from ple_rec.ranking.losses import losses_of
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.trained import load_checkpoint, open_trained_run

logger = logging.getLogger(__name__)

# Number of users whose lists are scored both with the user's columns multiplied once and with them multiplied for
# every item.
_CHECKED_LISTS = 4


@dataclass(frozen=True)
class ExportedVersion:
    """Version that an export has written.

    Args:
        version: Folder of the version.
        description: Content of `model.json`.
    """

    version: Location
    description: Mapping[str, Any]


def export(
    config: RunConfig,
    metrics: Mapping[str, Any],
    run_dir: Location,
    model_dir: Location,
    options: ExportOptions,
) -> ExportedVersion:
    """Write a version, check it against the trained model, and write its name into `latest`.

    Args:
        config: Configuration of a finished run, with its batches in one process.
        metrics: Results of the run.
        run_dir: Directory of the run.
        model_dir: Folder of the model.
        options: Options of the export.

    Raises:
        UserError: The options do not fit the run, or scores differ by more than the bounds.
        DataError: A checkpoint or a dataset is damaged, or the export maps a raw value to another table row than the
            dataset.
    """
    with (
        _without_tf32(),
        new_version(model_dir, options.version) as folder,
        open_trained_run(_without_requests(config), run_dir, options.checkpoint) as context,
    ):
        checkpoint = load_checkpoint(context, run_dir, options.checkpoint)
        if options.onnx:
            check_onnx(context.selection.dense)
        shared = _user_features(context, options)
        logger.info(f"checkpoint {checkpoint.name}; held-out rows by the trained model")
        # The scores to compare with are computed in fp32, whatever the precision of the training.
        context.bare.without_autocast()
        rows = read_held_out(context, "test", options.check_rows)
        _copy(folder, context)
        encoder = Encoder(folder, context.selection.sparse)
        kinds = {task.name: task.kind for task in context.selection.tasks}
        if shared is None:
            shared = rows.constant_within_groups()
        signature = signature_of(context.bare.columns, encoder.features, context.selection.dense, kinds, shared)
        fusion, file = fusion_of(run_dir, options.fusion, context.selection)
        warning = dropped_fusion(model_dir) if file is None else ""
        (folder / FUSION_FILE).write_text(dump_toml(fusion), encoding="utf-8")
        (folder / CONFIG).write_text(dump_toml(config), encoding="utf-8")
        logger.info(f"tables in {options.precision}")
        tables = _write_tables(context, folder / TABLES, options.precision)
        logger.info("dense program")
        write_program(context.bare, signature, folder, onnx=options.onnx)
        raw = RawHeldOutRows(rows, signature, context.dataset.path, encoder)
        examples = examples_of(raw, signature, max(options.examples, _CHECKED_LISTS))
        if written := examples[: options.examples]:
            (folder / EXAMPLES).write_text(json.dumps(written) + "\n", encoding="utf-8")
        description: dict[str, Any] = {
            "name": config.name,
            "made_by": f"ple_rec {__version__}",
            "signature": signature.model_dump(mode="json"),
            "tables": tables,
            "dense": {"precision": options.dense},
        }
        write_description(folder, description)
        logger.info(f"check on {len(rows):,} rows of {rows.split}")
        ranker = Ranker(folder, checked=True, dense="bf16" if options.dense == "bf16" else "fp32")
        check_requests(raw, ranker.read_score)
        check = _check(ranker, options, rows, examples)
        check.refuse_losses()
        # Check in fp32, if the card has one beside that in bf16.
        in_fp32: _Check | None = None
        if options.dense == "auto":
            logger.info("check in bf16")
            in_bf16 = _check(Ranker(folder, checked=True, dense="bf16"), options, rows, examples)
            try:
                in_bf16.refuse_losses()
            except UserError as error:
                why = f"{error.place}: {error.value}; {error.rule}"
                description["dense"] = {"precision": "fp32", "asked": "auto", "refused": why}
            else:
                check, in_fp32 = in_bf16, check
        description["card"] = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "licence": options.licence,
            "run": {"fingerprint": fingerprint(config), "checkpoint": checkpoint.name},
            "dataset": {"name": context.dataset.schema.name, "fingerprint": context.dataset.schema.fingerprint},
            "model": {
                "variant": config.model.variant,
                "dense_parameters": context.bare.dense_parameters(),
                "flops_per_sample": context.bare.flops_per_sample(),
            },
            "fusion": _source(fusion, file, options, context.selection.group),
            "examples": {"lists": len(written), "rows": sum(len(each["labels"]) for each in written)},
            "metrics": {split: metrics[split] for split in ("valid", "test") if split in metrics},
            "check": {"split": rows.split, "rows": len(rows)}
            | check.to_record()
            | ({} if in_fp32 is None else {"fp32": in_fp32.to_record()}),
            "bytes": {
                "tables": sum(table["bytes"] for table in tables),
                "tables_fp32": sum(table["rows"] * row_bytes(table["dim"], "fp32") for table in tables),
            },
        }
        write_description(folder, description)
        (folder / "MODEL_CARD.md").write_text(card_text(description, signature), encoding="utf-8")
    if warning:
        logger.info(warning)
    return ExportedVersion(model_dir / VERSIONS / folder.name, description)


@dataclass(frozen=True)
class _Check:
    """Check of an export whose matrix products are in one precision.

    Args:
        tables: Precision of the tables.
        dense: Precision of the matrix products.
        bounds: Largest differences that are allowed.
        tasks: Differences by task.
        user_once: Largest difference that multiplying the user's columns once makes; None without lists.
    """

    tables: TablePrecision
    dense: UsedPrecision
    bounds: ErrorBounds
    tasks: Mapping[str, TaskCheck]
    user_once: float | None

    def refuse_losses(self) -> None:
        refuse_losses(self.tasks, self.tables, self.dense, self.bounds)

    def to_record(self) -> dict[str, Any]:
        return {
            "dense": self.dense,
            "tolerance": self.bounds.tolerance,
            "auc_loss": self.bounds.auc_loss,
            "tasks": to_record(self.tasks),
            "user_once": self.user_once,
        }


def _check(ranker: Ranker, options: ExportOptions, rows: HeldOutRows, examples: Sequence[Mapping[str, Any]]) -> _Check:
    dense, kinds = ranker.dense, ranker.signature.kinds
    checks = compare_scores(rows, _scores(ranker, rows), kinds)
    once_K = _user_once(ranker, examples) / np.array(units(rows, kinds))
    # In bf16, multiplying the user's columns once rounds a sum once more; in fp32 only the order of a sum changes.
    if dense == "bf16":
        once = dict(zip(checks, once_K.tolist(), strict=True))
        checks = {name: replace(task, largest=task.largest + once[name]) for name, task in checks.items()}
    bounds = ErrorBounds.of(options.precision, dense, options.tolerance, options.auc_loss)
    return _Check(options.precision, dense, bounds, checks, float(once_K.max()) if examples else None)


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write `model.json`."""
    (folder / MODEL_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Turn TF32 off inside the block, so that matrices are multiplied in fp32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _without_requests(config: RunConfig) -> RunConfig:
    """Return the configuration with batches of rows that are not grouped by request."""
    data = config.data.model_copy(update={"request_features": (), "shuffle": "rows"})
    return config.model_copy(update={"data": data})


def _copy(folder: Path, context: EvaluationContext) -> None:
    """Copy the files of the dataset that turn raw values into inputs of the model.

    Raises:
        DataError: A file has changed since the dataset was prepared.
    """
    dataset = context.dataset
    for name in (SCHEMA_FILE, PREP_FILE):
        if (dataset.path / name).exists():
            shutil.copyfile(dataset.digests.local_copy(name), folder / name)
    # Readers of a dataset expect this file; the digests of a version are in its manifest.
    (folder / SUCCESS_FILE).touch()
    dense = {feature.name for feature in context.selection.dense}
    statistics = dataset.statistics() if dense else {}
    columns = {name: {"train": column.get("train", {})} for name, column in statistics.items() if name in dense}
    (folder / STATS_FILE).write_text(json.dumps({"columns": columns}, indent=1) + "\n", encoding="utf-8")
    (folder / VOCAB_DIR).mkdir()
    for table in dict.fromkeys(feature.table for feature in context.selection.sparse):
        name = f"{VOCAB_DIR}/{table}.parquet"
        if (dataset.path / name).exists():
            shutil.copyfile(dataset.digests.local_copy(name), folder / name)


def _user_features(context: EvaluationContext, options: ExportOptions) -> tuple[str, ...] | None:
    """Return the features of the user that the options or the configuration name; None if neither names any.

    Raises:
        UserError: The model has no such feature.
    """
    names = [*context.bare.columns, *(feature.name for feature in context.selection.dense)]
    if options.user_features is None:
        return tuple(context.config.data.request_features) or None
    if unknown := [name for name in options.user_features if name not in names]:
        rule = f"features of the model: {', '.join(names)}"
        raise UserError(
            Option.USER_FEATURES, f'got "{unknown[0]}"', rule, spelling_hint(unknown[0], names) or "name some of them"
        )
    return tuple(options.user_features)


def _source(fusion: FusionConfig, file: Location | None, options: ExportOptions, group: str | None) -> str:
    """Return a text about a fusion for the card: its source, its exponents and the losses of its order."""
    if file is None and group is None:
        return "every exponent 1: `ple-rec fuse` needs lists (--by COLUMN), as the dataset has no group column"
    if file is None:
        return "every exponent 1: the run has no fusion (`ple-rec fuse` searches for one)"
    source = "searched by `ple-rec fuse`" if options.fusion is None else f"given: {file.name}"
    source += f"; exponents {exponents_text(fusion)}"
    losses = losses_of(fusion, file)
    return f"{source}; a loss: {', '.join(losses)}" if losses else source


def _write_tables(context: EvaluationContext, folder: Path, precision: TablePrecision) -> list[dict[str, Any]]:
    """Write a file for each table, whose shards are all in this process."""
    folder.mkdir()
    tables = []
    for key, value in context.model.state_dict().items():
        if ".embedding_bags." not in key:
            continue
        table = key.split(".")[-2]
        pieces = _pieces(key, value)
        rows, dim = sum(len(piece) for piece in pieces), pieces[0].shape[1]
        check_dim(table, dim, precision)
        file = f"{table}.{precision}"
        with (folder / file).open("wb") as stream:
            for piece_RD in pieces:
                write_table(stream, piece_RD.detach().cpu(), precision)
        size = (folder / file).stat().st_size
        tables.append({"name": table, "file": file, "rows": rows, "dim": dim, "precision": precision, "bytes": size})
    return tables


def _pieces(key: str, value: Any) -> list[torch.Tensor]:
    """Return the pieces of a table, which are consecutive whole rows."""
    if not isinstance(value, ShardedTensor):
        return [value]
    shards = sorted(value.local_shards(), key=lambda shard: shard.metadata.shard_offsets)
    columns = {tuple(shard.metadata.shard_offsets)[1] for shard in shards}
    if columns != {0} or sum(len(shard.tensor) for shard in shards) != value.size(0):
        raise DataError(key, f"shards at columns {sorted(columns)}", "one process holds whole rows", "this is a bug")
    return [shard.tensor for shard in shards]


def _scores(ranker: Ranker, rows: HeldOutRows) -> NDArray[np.float32]:
    return np.concatenate([ranker.score_rows([each], grouped=False).scores_BK.numpy() for each in rows.requests()])


def _user_once(ranker: Ranker, examples: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the largest difference that multiplying the user's columns once makes to a score of each task."""
    requests = [ranker.read_rank(example["request"]) for example in examples[:_CHECKED_LISTS]]
    if not requests:
        return np.zeros(len(ranker.signature.tasks))
    once_BK, whole_BK = (ranker.score_rows(requests, grouped=grouped).scores_BK for grouped in (True, False))
    return (once_BK - whole_BK).double().abs().amax(0).numpy()
