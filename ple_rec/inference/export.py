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

A delta (`delta_export.py`) has only what differs from an older version.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ple_rec import __version__
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import dump_toml, fingerprint, load_config
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.raw_form import RAW_FILE, RawForm
from ple_rec.config.run import RunConfig
from ple_rec.config.side_table import SideTableInfo
from ple_rec.config.words import spelling_hint
from ple_rec.data.encode import RawKind
from ple_rec.data.vocabulary_index import is_text
from ple_rec.errors import Option, UserError
from ple_rec.inference.card import CARD_FILE, card_text
from ple_rec.inference.delta_export import DeltaVersion
from ple_rec.inference.examples import build_examples
from ple_rec.inference.export_check import COMPARED_REQUESTS, ExportCheck, check_scores
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.fusion_lookup import dropped_fusion_warning, find_fusion
from ple_rec.inference.held_out import RawHeldOutRows, read_held_out
from ple_rec.inference.manifest import MODEL_FILE
from ple_rec.inference.model_dir import VERSIONS, new_version
from ple_rec.inference.program import check_onnx, write_program
from ple_rec.inference.ranker import CONFIG, EXAMPLES, FUSION_FILE, Ranker
from ple_rec.inference.read_back import check_requests
from ple_rec.inference.side_table import PublishedTable, ReadSide, TableSources, choose_sides, write_tables
from ple_rec.inference.signature import build_signature
from ple_rec.inference.tables import row_bytes
from ple_rec.inference.version_files import VersionFiles, WholeVersion
from ple_rec.ranking.fusion import exponents_text
from ple_rec.ranking.losses import read_worsened_metrics
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.trained import load_trained_weights, open_trained_run

logger = logging.getLogger(__name__)

# Function from a folder with `prep.toml`, the names of all features and those of the user to the raw form of requests.
BuildRawForm = Callable[[Path, Sequence[str], Sequence[str]], RawForm | None]
# Function that gets the checked ranker of a version and the held-out rows, and raises an error to refuse the version.
Accept = Callable[[Ranker, RawHeldOutRows], None]


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
    accept: Accept | None = None,
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
        accept: Function that may refuse the version after its check, by an error; nothing is published then. With
            `--dense auto` it gets the ranker in fp32. None to accept every version that passes the check.

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
        files: VersionFiles = WholeVersion(folder, context, options.precision)
        if options.delta is not None:
            files = DeltaVersion(folder, context, model_dir, options)
        checkpoint = load_trained_weights(context, run_dir, options.checkpoint)
        if options.onnx:
            check_onnx(context.selection.dense)
        user_features = _user_features(context, options, config.data.request_features)
        logger.info(f"checkpoint {checkpoint.name}; the trained model scores held-out rows")
        # The scores that the export is compared with are computed in fp32, whatever precision the training used.
        context.unwrapped_model.without_autocast()
        rows = read_held_out(context, "test", options.check_rows)
        encoder = files.write_dataset_files()
        kinds = {task.name: task.kind for task in context.selection.tasks}
        if user_features is None:
            user_features = rows.constant_within_groups()
        if options.user_features is None:
            user_features = (*user_features, *_user_histories(context, folder, user_features))
        signature = build_signature(
            [name for name in context.unwrapped_model.widths_by_feature if name in encoder.features],
            encoder.features,
            context.selection.dense,
            kinds,
            user_features,
            _vector_inputs(context),
            context.selection.histories,
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
        tables = files.write_tables()
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
        } | files.describe()
        write_description(folder, description)
        logger.info(f"comparing scores of {len(rows):,} rows of {rows.split}")
        ranker = files.open_ranker("bf16" if options.dense == "bf16" else "fp32")
        check_requests(raw, ranker.read_score)
        check = check_scores(ranker, options, rows, examples)
        check.check_bounds()
        # With "auto", bf16 is checked too. If it passes, `check` becomes that in bf16, and the card has both checks.
        fp32_check: ExportCheck | None = None
        if options.dense == "auto":
            logger.info("comparing scores in bf16")
            bf16_check = check_scores(files.open_ranker("bf16"), options, rows, examples)
            try:
                bf16_check.check_bounds()
            except UserError as error:
                why = f"{error.place}: {error.value}; {error.rule}"
                description["dense"] = {"precision": "fp32", "asked": "auto", "refused": why}
            else:
                check, fp32_check = bf16_check, check
        if accept is not None:
            accept(ranker, raw)
        published: list[PublishedTable] = []
        if raw_form is not None and read_side is not None:
            # They are published before the version, so that a server which loads it has its rates at once.
            sides = [side for side in raw_form.sides if side.is_from_dataset or side.name in options.tables]
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
            "rates": _published_values(table.info for table in published if table.info.rates),
            "metrics": {split: metrics[split] for split in ("valid", "test") if split in metrics},
            "check": {"split": rows.split, "rows": len(rows)}
            | check.to_record()
            | ({} if fp32_check is None else {"fp32": fp32_check.to_record()}),
            "bytes": {
                "tables": sum(table["rows"] * row_bytes(table["dim"], table["precision"]) for table in tables),
                "tables_fp32": sum(table["rows"] * row_bytes(table["dim"], "fp32") for table in tables),
            },
        } | files.describe_on_card()
        if events := _published_values(table.info for table in published if table.info.history is not None):
            description["card"]["events"] = events
        write_description(folder, description)
        (folder / CARD_FILE).write_text(card_text(description, signature, raw_form), encoding="utf-8")
    if warning:
        logger.info(warning)
    for table in published:
        logger.info(str(table))
    return ExportedVersion(model_dir / VERSIONS / folder.name, description)


def _published_values(tables: Iterable[SideTableInfo]) -> list[dict[str, Any]]:
    """Return what the card says of side tables whose values are as of a day."""
    return [{"table": each.name, "as_of": each.as_of, "rows": each.rows, "bytes": each.bytes} for each in tables]


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


def _user_histories(context: EvaluationContext, folder: Path, user_features: Sequence[str]) -> list[str]:
    """Return the names of the histories that belong to the user.

    Rows of one group often have different histories, as their times differ, so they are not compared. But all items of
    a request have its time, and the history of its user.

    Args:
        context: Opened run.
        folder: Folder with the `prep.toml` of the dataset, if it has one.
        user_features: Names of the other features that belong to the user.
    """
    histories = [history.name for history in context.selection.histories]
    if not (folder / PREP_FILE).exists():
        return histories
    of_items = histories_of_items(load_config(PrepConfig, folder / PREP_FILE), user_features)
    return [name for name in histories if name not in of_items]


def histories_of_items(prep: PrepConfig, user_features: Collection[str]) -> set[str]:
    """Return the names of the histories whose key reads a feature of the items, as `concat(user_id, author_id)` does.

    Args:
        prep: Configuration of the dataset.
        user_features: Names of the features that belong to the user.
    """
    # The run may have dropped the feature of the group, such as the id of the user.
    sources = {feature.source for feature in prep.sparse if feature.name not in user_features}
    sources -= set(prep.group_entries)

    def words(text: str) -> set[str]:
        """Return the words of an expression, with those of the derived columns among them."""
        named = set(re.findall(r"[^\W\d][\w.]*", text))
        return named.union(*(words(prep.derived[word]) for word in named & prep.derived.keys()))

    return {each.name for each in prep.histories if sources & {each.key, *words(each.key)}}


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
