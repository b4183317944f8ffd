"""Checks that a run goes on with the configuration and the data that its checkpoints were trained with.

The manifest of a checkpoint records them. The functions here compare the present ones with the record, and describe
differences for messages.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.checkpoint.manifest import Manifest, check_content
from ple_rec.config.diff import disallowed_differences
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema
from ple_rec.data.columns import Selection
from ple_rec.errors import UserError
from ple_rec.runs.layout import CONFIG
from ple_rec.storage import Location, explain_errors

# Largest number of names of each kind in a message.
_MOST_SHOWN = 4

# Keys and tables of the configuration that may change when a run is resumed, since they do not change the meaning of
# what it has learned: its length, reports, checkpoints and hosts, and the place of its data.
_CHANGEABLE = (
    "name",
    "data.path",
    "data.prefetch",
    "data.buffer_mib",
    "data.described_by",
    "topology",
    "embeddings.tables.*.hosts",
    "embeddings.tables.*.ids_per_sample",
    # `training/restore.py` refuses another number of samples a step over all ranks.
    "train.batch_size",
    "train.batch_size_per_rank",
    "train.epochs",
    "train.steps",
    "train.report_every",
    "train.evaluate_every",
    "train.exact_auc_limit",
    # All pipelines compute the same bits.
    "train.pipeline",
    # A compiled graph computes the same function, with other rounding.
    "train.compile",
    "evaluation",
    "checkpoint.every",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    "checkpoint.keep_every",
    "checkpoint.asynchronous",
    "checkpoint.grace_seconds",
    "early_stopping",
    "watch",
    "runtime",
)


def changeable_keys(config: RunConfig) -> list[str]:
    """Return the keys and tables of the configuration that may change when a run is resumed.

    The length of a run may change only if the learning rate has no decay, since a decay ends at the last step.
    """
    length = () if config.schedule.decay == "none" else ("train.epochs", "train.steps")
    return [key for key in _CHANGEABLE if key not in length]


def check_checkpoint_config(config: RunConfig, run_dir: Location, path: Location, manifest: Manifest) -> None:
    """Refuse a run whose `config.toml` differs from the configuration that a checkpoint of it was trained with.

    A checkpoint of an early version has no configuration, and that of another version may not be readable. Both are
    accepted without a check.

    Args:
        config: Configuration in the run directory.
        run_dir: Directory of the run.
        path: Directory of the checkpoint.
        manifest: Manifest of the checkpoint.

    Raises:
        UserError: A key differs that may not change when a run is resumed.
        DataError: The configuration of the checkpoint is damaged.
    """
    if CONFIG not in manifest.files:
        return
    with explain_errors(path):
        check_content(path, CONFIG, manifest.files[CONFIG])
        text = (path / CONFIG).read_text(encoding="utf-8")
    try:
        before = RunConfig.model_validate_json(json.dumps(tomllib.loads(text)))
    except (ValueError, TypeError, RecursionError):
        return
    # A moved directory of checkpoints has another path.
    if changes := disallowed_differences(before, config, [*changeable_keys(before), "checkpoint.path"]):
        listed = "; ".join(f"{key} was {old!r}, is {new!r}" for key, old, new in changes[:_MOST_SHOWN])
        raise UserError(
            str(run_dir / CONFIG),
            listed + (f"; and {len(changes) - _MOST_SHOWN} more" if len(changes) > _MOST_SHOWN else ""),
            f"{path} was trained with the old values, and the new ones would change its meaning",
            f"copy {path / CONFIG} to this file, or train another run",
        )


def describe_inputs(selection: Selection) -> dict[str, list[str]]:
    """Return the tasks and inputs of a model in their order, with their kinds, for the manifest of a checkpoint."""
    sparse = [
        f"{f.name} (table {f.table}{', bag' if f.bag else ''}{', weights' if f.weights else ''})"
        for f in selection.sparse
    ]
    dense = [f"{feature.name} ({feature.normaliser})" for feature in selection.dense]
    vectors = [f"{feature.name} (vector of {feature.width}, {feature.normaliser})" for feature in selection.vectors]
    tasks = [f"{task.name} ({task.kind})" for task in selection.tasks]
    return {"tasks": tasks, "inputs": sparse + dense + vectors}


def describe_data(schema: DatasetSchema, selection: Selection) -> dict[str, Any]:
    """Return the entries of a manifest about the data."""
    return {"dataset": schema.fingerprint, "table_rows": dict(selection.table_rows), **describe_inputs(selection)}


def input_changes(recorded: Mapping[str, Any], selection: Selection) -> list[str]:
    """Return a text about the tasks and one about the inputs, each only if a manifest records different ones."""
    return [
        text
        for kind, now in describe_inputs(selection).items()
        for text in _describe_change(kind, recorded.get(kind), now)
    ]


def describe_differences(recorded: Mapping[str, Any], selection: Selection) -> str:
    """Return a short text on how a dataset differs from that of a manifest with another fingerprint."""
    before, now = recorded.get("table_rows"), selection.table_rows
    differences = input_changes(recorded, selection)
    # Removed and new tables are listed with the inputs that read them.
    if isinstance(before, Mapping):
        resized = [name for name in before if name in now and before[name] != now[name]]
        differences += [
            f"table {name} had {before[name]:,} rows, has {now[name]:,} rows" for name in resized[:_MOST_SHOWN]
        ]
        if len(resized) > _MOST_SHOWN:
            differences.append(f"{len(resized) - _MOST_SHOWN} more tables differ in rows")
    return "; ".join(differences) or "tasks, features and tables are alike, rows and vocabularies are not"


def _describe_change(kind: str, before: object, now: Sequence[str]) -> list[str]:
    if not isinstance(before, list) or before == now:
        return []
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if not gone and not new:
        return [f"{kind} were {', '.join(before)}, are {', '.join(now)}"]
    lists = (("gone", gone), ("new", new))
    return [f"{kind}: {'; '.join(f'{word}: {_abbreviate(names)}' for word, names in lists if names)}"]


def _abbreviate(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more
