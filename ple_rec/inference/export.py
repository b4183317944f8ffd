"""Export of a trained run to a version of a model, a folder that a server can use without the run and its dataset.

`export` is called by `ple-rec export` and `Run.export`. It writes these files, and compares the scores of the version
with those of the trained model before it publishes the version:

    versions/v<N>/
      model.json        name, signature (inputs and tasks), tables, precision of matrix products, and the model card
      MODEL_CARD.md     the card as text for people: metrics, fusion, and differences to the trained model
      dense.pt2         the dense layers as a program of torch.export; with --onnx also dense.onnx
      tables/           a file <table>.<precision> for each embedding table
      vectors/          a file <feature>.parquet for each frozen table of vectors
      config.toml       configuration of the run
      schema.toml, prep.toml, stats.json, vocab/    files of the dataset that map raw values to table rows and numbers
      _SUCCESS          empty; readers of a dataset expect it
      raw.json          raw columns of requests, and the queries that compute features from them
      fusion.toml       formula that combines the predictions of all tasks to one score
      examples.json     requests of held-out users (--examples)
      manifest.json     sizes and checksums of the other files, written last

Shape suffixes: R rows and D columns of a table, B scored rows, K tasks.
"""

from __future__ import annotations

import datetime
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchrec.distributed.types import ShardedTensor

from ple_rec import __version__
from ple_rec.config.choices import TablePrecision
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import dump_toml, fingerprint
from ple_rec.config.prep import PREP_FILE
from ple_rec.config.raw_form import RAW_FILE, RawForm
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, SUCCESS_FILE, VECTORS_DIR, VOCAB_DIR
from ple_rec.config.words import spelling_hint
from ple_rec.data.encode import Encoder, RawKind
from ple_rec.data.vocabulary_index import is_text
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.arrays import TABLES
from ple_rec.inference.card import card_text
from ple_rec.inference.export_check import COMPARED_REQUESTS, ExportCheck, check_scores
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.fusion_lookup import dropped_fusion_warning, find_fusion
from ple_rec.inference.held_out import RawHeldOutRows, build_examples, read_held_out
from ple_rec.inference.manifest import MODEL_FILE
from ple_rec.inference.model_dir import VERSIONS, new_version
from ple_rec.inference.program import check_onnx, write_program
from ple_rec.inference.ranker import CONFIG, EXAMPLES, FUSION_FILE, Ranker
from ple_rec.inference.read_back import check_requests
from ple_rec.inference.side_table import PublishedTable, ReadSide, TableSources, choose_sides, write_tables
from ple_rec.inference.signature import build_signature
from ple_rec.inference.tables import check_dim, row_bytes, write_table
from ple_rec.ranking.fusion import exponents_text
from ple_rec.ranking.losses import read_worsened_metrics
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.trained import load_trained_weights, open_trained_run

logger = logging.getLogger(__name__)

# Function from a folder with `prep.toml`, the names of all features and those of the user to the raw form of requests.
BuildRawForm = Callable[[Path, Sequence[str], Sequence[str]], RawForm | None]


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
    build_raw_form: BuildRawForm | None = None,
    read_side: ReadSide | None = None,
) -> ExportedVersion:
    """Write a version, check it against the trained model, and write its name into `latest`.

    Args:
        config: Configuration of a finished run, changed to compute its batches in one process.
        metrics: Results of the run.
        run_dir: Directory of the run.
        model_dir: Folder of the model.
        options: Options of the export.
        build_raw_form: Function that returns the raw form of requests from a folder with `prep.toml`, the names of all
            features and those of the user; None to leave the raw form out.
        read_side: Function that reads a side table; None to publish no tables.

    Raises:
        UserError: The options do not fit the run, or scores differ by more than the bounds.
        DataError: A checkpoint or a dataset is damaged, or the export maps a raw value to another table row than the
            dataset.
    """
    with (
        _without_tf32(),
        new_version(model_dir, options.version) as folder,
        open_trained_run(_without_request_grouping(config), run_dir, options.checkpoint) as context,
    ):
        checkpoint = load_trained_weights(context, run_dir, options.checkpoint)
        if options.onnx:
            check_onnx(context.selection.dense)
        user_features = _user_features(context, options, config.data.request_features)
        logger.info(f"checkpoint {checkpoint.name}; the trained model scores held-out rows")
        # The scores that the export is compared with are computed in fp32, whatever precision the training used.
        context.unwrapped_model.without_autocast()
        rows = read_held_out(context, "test", options.check_rows)
        _copy_dataset_files(folder, context)
        encoder = Encoder(folder, context.selection.sparse)
        kinds = {task.name: task.kind for task in context.selection.tasks}
        if user_features is None:
            user_features = rows.constant_within_groups()
        signature = build_signature(
            context.unwrapped_model.widths_by_feature,
            encoder.features,
            context.selection.dense,
            kinds,
            user_features,
            _vector_inputs(context),
        )
        sources = TableSources(options.source, str(context.dataset.path))
        raw_form = None
        if build_raw_form is not None:
            of_user = [each.name for each in signature.inputs_of("user")]
            raw_form = build_raw_form(folder, [each.name for each in signature.inputs], of_user)
            if options.tables:
                choose_sides(raw_form, options.tables, sources, str(run_dir))
            if raw_form is not None:
                (folder / RAW_FILE).write_text(raw_form.model_dump_json(indent=1) + "\n", encoding="utf-8")
        fusion, file = find_fusion(run_dir, options.fusion, context.selection)
        warning = dropped_fusion_warning(model_dir) if file is None else ""
        (folder / FUSION_FILE).write_text(dump_toml(fusion), encoding="utf-8")
        (folder / CONFIG).write_text(dump_toml(config), encoding="utf-8")
        logger.info(f"writing tables in {options.precision}")
        tables = _write_tables(context, folder / TABLES, options.precision)
        logger.info("writing the dense program")
        write_program(context.unwrapped_model, signature, folder, onnx=options.onnx)
        raw = RawHeldOutRows(rows, signature, context.dataset.path, encoder)
        examples = build_examples(raw, signature, max(options.examples, COMPARED_REQUESTS))
        if saved_examples := examples[: options.examples]:
            (folder / EXAMPLES).write_text(json.dumps(saved_examples) + "\n", encoding="utf-8")
        description: dict[str, Any] = {
            "name": config.name,
            "made_by": f"ple_rec {__version__}",
            "signature": signature.model_dump(mode="json"),
            "tables": tables,
            "dense": {"precision": options.dense},
        }
        write_description(folder, description)
        logger.info(f"comparing scores of {len(rows):,} rows of {rows.split}")
        ranker = Ranker(folder, checked=True, dense_precision="bf16" if options.dense == "bf16" else "fp32")
        check_requests(raw, ranker.read_score)
        check = check_scores(ranker, options, rows, examples)
        check.check_bounds()
        # With "auto", bf16 is checked too. If it passes, `check` becomes that in bf16, and the card has both checks.
        fp32_check: ExportCheck | None = None
        if options.dense == "auto":
            logger.info("comparing scores in bf16")
            bf16_check = check_scores(Ranker(folder, checked=True, dense_precision="bf16"), options, rows, examples)
            try:
                bf16_check.check_bounds()
            except UserError as error:
                why = f"{error.place}: {error.value}; {error.rule}"
                description["dense"] = {"precision": "fp32", "asked": "auto", "refused": why}
            else:
                check, fp32_check = bf16_check, check
        published: list[PublishedTable] = []
        if raw_form is not None and read_side is not None:
            # They are published before the version, so that a server which loads it has its rates at once.
            sides = [side for side in raw_form.sides if side.rates or side.name in options.tables]
            published = write_tables(model_dir, folder, raw_form, sides, sources, read_side, keep_newer=True)
        description["card"] = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "licence": options.licence,
            "run": {"fingerprint": fingerprint(config), "checkpoint": checkpoint.name},
            "dataset": {"name": context.dataset.schema.name, "fingerprint": context.dataset.schema.fingerprint},
            "model": {
                "variant": config.model.variant,
                "dense_parameters": context.unwrapped_model.dense_parameters(),
                "flops_per_sample": context.unwrapped_model.flops_per_sample(),
            },
            "fusion": _fusion_text(fusion, file, options, context.selection.group),
            "examples": {"lists": len(saved_examples), "rows": sum(len(each["labels"]) for each in saved_examples)},
            "rates": [
                {"table": info.name, "as_of": info.as_of, "rows": info.rows, "bytes": info.bytes}
                for info in (table.info for table in published)
                if info.rates
            ],
            "metrics": {split: metrics[split] for split in ("valid", "test") if split in metrics},
            "check": {"split": rows.split, "rows": len(rows)}
            | check.to_record()
            | ({} if fp32_check is None else {"fp32": fp32_check.to_record()}),
            "bytes": {
                "tables": sum(table["bytes"] for table in tables),
                "tables_fp32": sum(table["rows"] * row_bytes(table["dim"], "fp32") for table in tables),
            },
        }
        write_description(folder, description)
        (folder / "MODEL_CARD.md").write_text(card_text(description, signature, raw_form), encoding="utf-8")
    if warning:
        logger.info(warning)
    for table in published:
        logger.info(str(table))
    return ExportedVersion(model_dir / VERSIONS / folder.name, description)


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


def _without_request_grouping(config: RunConfig) -> RunConfig:
    """Return the configuration with batches of rows that are not grouped by request."""
    data = config.data.model_copy(update={"request_features": (), "shuffle": "rows"})
    return config.model_copy(update={"data": data})


def _copy_dataset_files(folder: Path, context: EvaluationContext) -> None:
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
    numbers = {feature.name for feature in (*context.selection.dense, *context.selection.vectors)}
    statistics = dataset.statistics() if numbers else {}
    columns = {name: {"train": column.get("train", {})} for name, column in statistics.items() if name in numbers}
    (folder / STATS_FILE).write_text(json.dumps({"columns": columns}, indent=1) + "\n", encoding="utf-8")
    (folder / VOCAB_DIR).mkdir()
    for table in dict.fromkeys(feature.table for feature in context.selection.sparse):
        name = f"{VOCAB_DIR}/{table}.parquet"
        if (dataset.path / name).exists():
            shutil.copyfile(dataset.digests.local_copy(name), folder / name)

    frozen = [feature for feature in context.selection.vectors if feature.table is not None]
    if frozen:
        (folder / VECTORS_DIR).mkdir()
    for feature in frozen:
        name = dataset.vector_tables[feature.name].name
        shutil.copyfile(dataset.digests.local_copy(name), folder / name)


def _vector_inputs(context: EvaluationContext) -> dict[str, tuple[int, RawKind]]:
    """Return the width of each vector feature, and the type of its keys; "number" if a value is always a list."""
    kinds: dict[str, tuple[int, RawKind]] = {}
    for feature in context.selection.vectors:
        kind: RawKind = "number"
        if feature.table is not None and len(feature.table.keys) == 1:
            keys = context.dataset.vector_tables[feature.name].keys()
            kind = "text" if is_text(keys.schema.types[0]) else "int"
        kinds[feature.name] = (feature.width, kind)
    return kinds


def _user_features(
    context: EvaluationContext, options: ExportOptions, request_features: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Return the names of the user's features from the options, else from the configuration; None if neither has any.

    An empty list in the options means that the user has no features.

    Args:
        context: Opened run.
        options: Options of the export.
        request_features: `data.request_features` of the run; `context` has none, since it reads rows one by one.

    Raises:
        UserError: The model has no such feature.
    """
    names = context.selection.features()
    if options.user_features is None:
        return request_features or None
    if unknown := [name for name in options.user_features if name not in names]:
        rule = f"features of the model: {', '.join(names)}"
        raise UserError(
            Option.USER_FEATURES, f'got "{unknown[0]}"', rule, spelling_hint(unknown[0], names) or "name some of them"
        )
    return tuple(options.user_features)


def _fusion_text(fusion: FusionConfig, file: Location | None, options: ExportOptions, group: str | None) -> str:
    """Return a text about a fusion for the card: its source, its exponents and the metrics that it makes worse.

    Args:
        fusion: Fusion of the version.
        file: File that the fusion was read from; None if every exponent is 1.
        options: Options of the export.
        group: Column of the dataset that names each row's group; None if the dataset has no such column.
    """
    if file is None and group is None:
        return "every exponent 1: `ple-rec fuse` needs lists (--by COLUMN), as the dataset has no group column"
    if file is None:
        return "every exponent 1: the run has no fusion (`ple-rec fuse` searches for one)"
    source = "searched by `ple-rec fuse`" if options.fusion is None else f"given: {file.name}"
    source += f"; exponents {exponents_text(fusion)}"
    losses = read_worsened_metrics(fusion, file)
    return f"{source}; worse than before: {', '.join(losses)}" if losses else source


def _write_tables(context: EvaluationContext, folder: Path, precision: TablePrecision) -> list[dict[str, Any]]:
    """Write a file for each table, and return the entries of `model.json` about them.

    The run is loaded in one process, so all shards of a table are local.
    """
    folder.mkdir()
    tables = []
    for key, value in context.model.state_dict().items():
        if ".embedding_bags." not in key:
            continue
        table = key.split(".")[-2]
        shards_RD = _row_shards(key, value)
        rows, dim = sum(len(shard_RD) for shard_RD in shards_RD), shards_RD[0].shape[1]
        check_dim(table, dim, precision)
        file = f"{table}.{precision}"
        with (folder / file).open("wb") as stream:
            for shard_RD in shards_RD:
                write_table(stream, shard_RD.detach().cpu(), precision)
        size = (folder / file).stat().st_size
        tables.append({"name": table, "file": file, "rows": rows, "dim": dim, "precision": precision, "bytes": size})
    return tables


def _row_shards(key: str, value: Any) -> list[torch.Tensor]:
    """Return the local shards of a table in the order of its rows; each shard has whole rows."""
    if not isinstance(value, ShardedTensor):
        return [value]
    shards = sorted(value.local_shards(), key=lambda shard: shard.metadata.shard_offsets)
    columns = {tuple(shard.metadata.shard_offsets)[1] for shard in shards}
    if columns != {0} or sum(len(shard.tensor) for shard in shards) != value.size(0):
        raise DataError(
            key,
            f"shards at columns {sorted(columns)}",
            "in one process, shards have whole rows",
            "report this as a bug",
        )
    return [shard.tensor for shard in shards]
