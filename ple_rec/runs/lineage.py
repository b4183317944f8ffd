"""What a checkpoint was trained on and with, as it says itself, and what is different now."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.checkpoint.manifest import Manifest, check_content
from ple_rec.config.diff import changed_beyond
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema
from ple_rec.data.columns import Selection
from ple_rec.errors import UserError
from ple_rec.runs.layout import CONFIG
from ple_rec.storage import Location, explain_errors

_SHOWN = 4  # names that a message lists at most, of each kind

# What may change when a run goes on: how long, how it is watched, and where it runs.
_MAY_CHANGE = (
    "name",
    "data.path",
    "data.prefetch",
    "data.buffer_mib",
    "data.described_by",
    "topology",
    "embeddings.tables.*.hosts",
    "embeddings.tables.*.ids_per_sample",
    "train.batch_size",  # as long as a step has as many samples over all ranks
    "train.batch_size_per_rank",
    "train.epochs",
    "train.steps",
    "train.report_every",
    "train.evaluate_every",
    "train.exact_auc_limit",
    "train.pipeline",  # the same bits
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


def may_change(config: RunConfig) -> list[str]:
    """Return the keys, and whole tables, that may have other values when a run goes on.

    A decay ends at the last step: another number of steps would be another schedule from there on.
    """
    length = () if config.schedule.decay == "none" else ("train.epochs", "train.steps")
    return [key for key in _MAY_CHANGE if key not in length]


def check_trained_with(config: RunConfig, run_dir: Location, path: Location, manifest: Manifest) -> None:
    """Refuse a run whose `config.toml` is another one than a checkpoint of it was trained with.

    Checkpoints of early versions hold no configuration, and that of another version may not be readable here.

    Args:
        config: Configuration of the run, as its directory has it.
        run_dir: Directory of the run.
        path: Directory of the checkpoint.
        manifest: Manifest of the checkpoint.

    Raises:
        UserError: a key differs that does not change when a run goes on.
        DataError: the checkpoint's configuration is damaged.
    """
    if CONFIG not in manifest.files:
        return
    with explain_errors(path):
        check_content(path, CONFIG, manifest.files[CONFIG])
        text = (path / CONFIG).read_text()
    try:
        before = RunConfig.model_validate_json(json.dumps(tomllib.loads(text)))
    except (ValueError, TypeError, RecursionError):
        return
    # Checkpoints that were moved are found by another path.
    if changed := changed_beyond(before, config, [*may_change(before), "checkpoint.path"]):
        listed = "; ".join(f"{key} was {old!r}, is {new!r}" for key, old, new in changed[:_SHOWN])
        raise UserError(
            str(run_dir / CONFIG),
            listed + (f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""),
            f"{path} was trained with what it was, and means something else under what it is",
            f"copy {path / CONFIG} there, or train another run",
        )


def described(selection: Selection) -> dict[str, list[str]]:
    """Tasks and inputs of a model in their order, each with what makes it another one, for a checkpoint's manifest."""
    sparse = [
        f"{f.name} (table {f.table}{', bag' if f.bag else ''}{', weights' if f.weights else ''})"
        for f in selection.sparse
    ]
    dense = [f"{feature.name} ({feature.normaliser})" for feature in selection.dense]
    return {"tasks": [f"{task.name} ({task.kind})" for task in selection.tasks], "inputs": sparse + dense}


def data_head(schema: DatasetSchema, selection: Selection) -> dict[str, Any]:
    """All that a manifest says of the data."""
    return {"dataset": schema.fingerprint, "table_rows": dict(selection.table_rows), **described(selection)}


def changed(recorded: Mapping[str, Any], selection: Selection) -> list[str]:
    """What of tasks and inputs is not as a manifest says; nothing where it says nothing of them."""
    return [text for what, now in described(selection).items() for text in _names(what, recorded.get(what), now)]


def what_differs(recorded: Mapping[str, Any], selection: Selection) -> str:
    """Between the dataset that a manifest is of and another one, whose fingerprints differ, in a few words."""
    before, now = recorded.get("table_rows"), selection.table_rows
    found = changed(recorded, selection)
    if isinstance(before, Mapping):  # a table that is gone or new shows by the inputs that read it
        resized = [name for name in before if name in now and before[name] != now[name]]
        found += [f"table {name} had {before[name]:,} rows, has {now[name]:,} rows" for name in resized[:_SHOWN]]
        found += [f"{len(resized) - _SHOWN} more tables differ in rows"] if len(resized) > _SHOWN else []
    return "; ".join(found) or "tasks, features and tables are alike, rows and vocabularies are not"


def _names(what: str, before: object, now: Sequence[str]) -> list[str]:
    if not isinstance(before, list) or before == now:
        return []
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if not gone and not new:
        return [f"{what} were {', '.join(before)}, are {', '.join(now)}"]
    lists = (("gone", gone), ("new", new))
    return [f"{what}: {'; '.join(f'{word}: {_some(names)}' for word, names in lists if names)}"]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
