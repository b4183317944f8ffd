"""A trained run -> a version of a model that serves without it: tables, dense program, vocabularies, fusion, card.

versions/v<N>/
model.json       name, signature, tables, card          MODEL_CARD.md   the card for people
dense.pt2        the dense program (and dense.onnx)     tables/<table>.<precision>
config.toml      the run                                schema.toml  prep.toml  stats.json   of its dataset
vocab/           raw value -> row, with its index       fusion.toml     Eq. 1
examples.json    held-out users, where asked for        manifest.json   checksums, written last
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
from ple_rec.config.words import meant
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.card import card_text
from ple_rec.inference.export_check import Bounds, TaskCheck, compare_scores, refuse_losses, to_record, units
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.fusion_lookup import dropped_fusion, fusion_of
from ple_rec.inference.held_out import HeldOut, RawHeldOutRows, examples_of, held_out
from ple_rec.inference.model_dir import VERSIONS, new_version
from ple_rec.inference.program import check_onnx, write_program
from ple_rec.inference.ranker import CONFIG, EXAMPLES, FUSION_FILE, MODEL_FILE, TABLES, Ranker
from ple_rec.inference.read_back import check_requests
from ple_rec.inference.signature import signature_of
from ple_rec.inference.tables import check_dim, row_bytes, write_table
from ple_rec.ranking.fusion import exponents_text
from ple_rec.ranking.losses import losses_of
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationJob
from ple_rec.training.trained import load_checkpoint, open_trained_run

logger = logging.getLogger(__name__)

_CHECKED_LISTS = 4  # lists of one user that are scored with the user's share computed once and for every item


@dataclass(frozen=True)
class Exported:
    """A version that was written.

    Args:
        version: Folder of the version.
        described: Content of `model.json`.
    """

    version: Location
    described: Mapping[str, Any]


def export(
    config: RunConfig,
    metrics: Mapping[str, Any],
    run_dir: Location,
    model_dir: Location,
    options: ExportOptions,
) -> Exported:
    """Write a version, check it against the trained model, and let `latest` name it.

    Args:
        config: Configuration of a finished run, with its batches in one process.
        metrics: Results of the run.
        run_dir: Directory of the run.
        model_dir: Folder of the model.
        options: Options of the export.

    Raises:
        UserError: The options do not fit the run, or scores differ by more than is let through.
        DataError: A checkpoint or a dataset is damaged, or the export reads raw values as others.
    """
    with (
        _without_tf32(),
        new_version(model_dir, options.version) as folder,
        open_trained_run(_without_requests(config), run_dir, options.checkpoint) as job,
    ):
        checkpoint = load_checkpoint(job, run_dir, options.checkpoint)
        if options.onnx:
            check_onnx(job.selection.dense)
        shared = _user_features(job, options)
        logger.info(f"checkpoint {checkpoint.name}; held-out rows by the trained model")
        job.bare.without_autocast()  # what the export is held to is fp32, whatever the run was trained in
        rows = held_out(job, "test", options.check_rows)
        _copy(folder, job)
        encoder = Encoder(folder, job.selection.sparse)
        kinds = {task.name: task.kind for task in job.selection.tasks}
        if shared is None:
            shared = rows.constant_within_groups()
        signature = signature_of(job.bare.columns, encoder.features, job.selection.dense, kinds, shared)
        fusion, file = fusion_of(run_dir, options.fusion, job.selection)
        warning = dropped_fusion(model_dir) if file is None else ""
        (folder / FUSION_FILE).write_text(dump_toml(fusion), encoding="utf-8")
        (folder / CONFIG).write_text(dump_toml(config), encoding="utf-8")
        logger.info(f"tables in {options.precision}")
        tables = _write_tables(job, folder / TABLES, options.precision)
        logger.info("dense program")
        write_program(job.bare, signature, folder, onnx=options.onnx)
        raw = RawHeldOutRows(rows, signature, job.dataset.path, encoder)
        examples = examples_of(raw, signature, max(options.examples, _CHECKED_LISTS))
        if written := examples[: options.examples]:
            (folder / EXAMPLES).write_text(json.dumps(written) + "\n", encoding="utf-8")
        described: dict[str, Any] = {
            "name": config.name,
            "made_by": f"ple_rec {__version__}",
            "signature": signature.model_dump(mode="json"),
            "tables": tables,
            "dense": {"precision": options.dense},
        }
        write_described(folder, described)
        logger.info(f"check on {len(rows):,} rows of {rows.split}")
        ranker = Ranker(folder, checked=True, dense="bf16" if options.dense == "bf16" else "fp32")
        check_requests(raw, ranker.read_score)
        check = _check(ranker, options, rows, examples)
        check.refuse_losses()
        in_fp32: _Check | None = None  # beside that in bf16
        if options.dense == "auto":
            logger.info("check in bf16")
            in_bf16 = _check(Ranker(folder, checked=True, dense="bf16"), options, rows, examples)
            try:
                in_bf16.refuse_losses()
            except UserError as error:
                why = f"{error.place}: {error.value}; {error.rule}"
                described["dense"] = {"precision": "fp32", "asked": "auto", "refused": why}
            else:
                check, in_fp32 = in_bf16, check
        described["card"] = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "licence": options.licence,
            "run": {"fingerprint": fingerprint(config), "checkpoint": checkpoint.name},
            "dataset": {"name": job.dataset.schema.name, "fingerprint": job.dataset.schema.fingerprint},
            "model": {
                "variant": config.model.variant,
                "dense_parameters": job.bare.dense_parameters(),
                "flops_per_sample": job.bare.flops_per_sample(),
            },
            "fusion": _source(fusion, file, options, job.selection.group),
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
        write_described(folder, described)
        (folder / "MODEL_CARD.md").write_text(card_text(described, signature), encoding="utf-8")
    if warning:
        logger.info(warning)
    return Exported(model_dir / VERSIONS / folder.name, described)


@dataclass(frozen=True)
class _Check:
    """The check of an export whose matrix products are in one precision.

    Args:
        tables: Precision of the tables.
        dense: Precision of the matrix products.
        bounds: Largest differences that are let through.
        tasks: Differences by task.
        user_once: Largest difference that computing the user's share once makes; None where no list was tried.
    """

    tables: TablePrecision
    dense: UsedPrecision
    bounds: Bounds
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


def _check(ranker: Ranker, options: ExportOptions, rows: HeldOut, examples: Sequence[Mapping[str, Any]]) -> _Check:
    dense, kinds = ranker.dense, ranker.signature.kinds
    checks = compare_scores(rows, _scores(ranker, rows), kinds)
    once_K = _user_once(ranker, examples) / np.array(units(rows, kinds))
    if dense == "bf16":  # where the order of a sum is not all: requests round once more
        more = dict(zip(checks, once_K.tolist(), strict=True))
        checks = {name: replace(task, largest=task.largest + more[name]) for name, task in checks.items()}
    bounds = Bounds.of(options.precision, dense, options.tolerance, options.auc_loss)
    return _Check(options.precision, dense, bounds, checks, float(once_K.max()) if examples else None)


def write_described(folder: Path, described: Mapping[str, Any]) -> None:
    """Write `model.json`."""
    (folder / MODEL_FILE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Multiply matrices in fp32 where a process has turned TF32 on; afterwards as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _without_requests(config: RunConfig) -> RunConfig:
    """Return the configuration with batches of single rows, each with all of its ids."""
    data = config.data.model_copy(update={"request_features": (), "shuffle": "rows"})
    return config.model_copy(update={"data": data})


def _copy(folder: Path, job: EvaluationJob) -> None:
    """Copy those files of the dataset that turn raw values into the model's inputs.

    Raises:
        DataError: A file is not the one that was prepared.
    """
    dataset = job.dataset
    for name in (SCHEMA_FILE, PREP_FILE):
        if (dataset.path / name).exists():
            shutil.copyfile(dataset.digests.local_copy(name), folder / name)
    (folder / SUCCESS_FILE).touch()  # a version has a manifest with digests of its own
    dense = {feature.name for feature in job.selection.dense}
    statistics = dataset.statistics() if dense else {}
    kept = {name: {"train": column.get("train", {})} for name, column in statistics.items() if name in dense}
    (folder / STATS_FILE).write_text(json.dumps({"columns": kept}, indent=1) + "\n", encoding="utf-8")
    (folder / VOCAB_DIR).mkdir()
    for table in dict.fromkeys(feature.table for feature in job.selection.sparse):
        name = f"{VOCAB_DIR}/{table}.parquet"
        if (dataset.path / name).exists():
            shutil.copyfile(dataset.digests.local_copy(name), folder / name)


def _user_features(job: EvaluationJob, options: ExportOptions) -> tuple[str, ...] | None:
    """Return the features of the user that options or configuration name; None where neither does.

    Raises:
        UserError: The model has no such feature.
    """
    names = [*job.bare.columns, *(feature.name for feature in job.selection.dense)]
    if options.user_features is None:
        return tuple(job.config.data.request_features) or None
    if unknown := [name for name in options.user_features if name not in names]:
        rule = f"features of the model: {', '.join(names)}"
        raise UserError(
            Option.USER_FEATURES, f'got "{unknown[0]}"', rule, meant(unknown[0], names) or "name some of them"
        )
    return tuple(options.user_features)


def _source(fusion: FusionConfig, file: Location | None, options: ExportOptions, group: str | None) -> str:
    """Return where a fusion comes from, its exponents and what its order loses, for the card."""
    if file is None and group is None:
        return "every exponent 1: `ple-rec fuse` needs lists (--by COLUMN), as the dataset has no group column"
    if file is None:
        return "every exponent 1: the run has no fusion (`ple-rec fuse` searches for one)"
    source = "searched by `ple-rec fuse`" if options.fusion is None else f"given: {file.name}"
    source += f"; exponents {exponents_text(fusion)}"
    lost = losses_of(fusion, file)
    return f"{source}; a loss: {', '.join(lost)}" if lost else source


def _write_tables(job: EvaluationJob, folder: Path, precision: TablePrecision) -> list[dict[str, Any]]:
    """Write a file for each table, of the shards that this process holds: all of them."""
    folder.mkdir()
    tables = []
    for key, value in job.model.state_dict().items():
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
    """Return the pieces of a table, whole rows in their order."""
    if not isinstance(value, ShardedTensor):
        return [value]
    shards = sorted(value.local_shards(), key=lambda shard: shard.metadata.shard_offsets)
    columns = {tuple(shard.metadata.shard_offsets)[1] for shard in shards}
    if columns != {0} or sum(len(shard.tensor) for shard in shards) != value.size(0):
        raise DataError(key, f"shards at columns {sorted(columns)}", "one process holds whole rows", "this is a bug")
    return [shard.tensor for shard in shards]


def _scores(ranker: Ranker, rows: HeldOut) -> NDArray[np.float32]:
    return np.concatenate([ranker.scored([each], grouped=False).scores_BK.numpy() for each in rows.requests()])


def _user_once(ranker: Ranker, examples: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the largest difference that computing the user's share once makes to a score of each task."""
    requests = [ranker.read_rank(example["request"]) for example in examples[:_CHECKED_LISTS]]
    if not requests:
        return np.zeros(len(ranker.signature.tasks))
    once_BK, whole_BK = (ranker.scored(requests, grouped=grouped).scores_BK for grouped in (True, False))
    return (once_BK - whole_BK).double().abs().amax(0).numpy()
