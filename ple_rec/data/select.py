"""What a run reads of a dataset, from its schema alone."""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.config.schema import DatasetSchema, Task
from ple_rec.data.columns import Selection
from ple_rec.errors import UserError
from ple_rec.text.suggest import did_you_mean


def select_columns(schema: DatasetSchema, place: str, drop: Sequence[str], tasks: Sequence[str]) -> Selection:
    """The features, tasks and other columns that a run reads.

    Args:
        schema: Of the dataset.
        place: Of the dataset, for messages.
        drop: Features to leave out.
        tasks: Tasks by name, in the run's order; empty for all.

    Raises:
        UserError: a name that the dataset does not have, or no feature left.
    """
    features = [f.name for f in schema.sparse] + [f.name for f in schema.dense]
    _known("data.drop", drop, features, place)
    known = {task.name: task for task in schema.tasks}
    _known("tasks", tasks, list(known), place)
    sparse = [f for f in schema.sparse if f.name not in drop]
    chosen: tuple[Task, ...] = tuple(known[name] for name in tasks) or schema.tasks
    selection = Selection(
        single=tuple(f for f in sparse if not f.bag),
        bags=tuple(f for f in sparse if f.bag),
        dense=tuple(f for f in schema.dense if f.name not in drop),
        tasks=chosen,
        table_rows=schema.table_rows(),
        sample_weight=schema.sample_weight,
        group=schema.group,
    )
    if not selection.sparse and not selection.dense:
        raise UserError("data.drop", "names every feature", "a model reads at least one", "drop fewer")
    return selection


def _known(place: str, names: Sequence[str], known: Sequence[str], dataset: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                place,
                f"got {name!r}",
                f"{dataset} has {', '.join(known)}",
                did_you_mean(name, known) or "use one of these",
            )
