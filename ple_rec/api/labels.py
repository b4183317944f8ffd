"""Labels and sample spaces of a dataset beside the predictions of its rows, for a metric of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ple_rec.api.predictions import PredictOptions
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from ple_rec.config.schema import Task


def ids_and_tasks(config: RunConfig, options: PredictOptions) -> tuple[Sequence[str], Sequence[Task]]:
    """Return the columns that predictions carry along, and the tasks whose labels stand in the dataset.

    Args:
        config: Configuration of the run.
        options: Options of the prediction.

    Raises:
        UserError: raw logs are predicted, whose labels are not computed.
    """
    from ple_rec.data.dataset import Dataset
    from ple_rec.inference.predict.inputs import default_ids
    from ple_rec.training.checks import select

    if options.raw:
        fix = 'prepare the logs and give the dataset, or carry columns of theirs along, such as ids=["clicked"]'
        raise UserError("labels", "got True for raw logs", "a prediction of raw logs computes no labels", fix)
    dataset = Dataset(options.data or config.data.path)
    ids = default_ids(dataset.schema) if options.ids is None else options.ids
    return list(dict.fromkeys(ids)), select(config, dataset).tasks


def with_labels(table: pa.Table, ids: Sequence[str], carried: Sequence[str], tasks: Sequence[Task]) -> pa.Table:
    """Return predictions with `label_<task>` and `in_space_<task>` behind them.

    Args:
        table: Predictions, which begin with the columns that were carried along.
        ids: Columns that the caller wants to have carried along.
        carried: Columns that were carried along: `ids`, then those of labels and sample spaces.
        tasks: Tasks of the run.
    """
    columns = {name: table.column(i) for i, name in enumerate(carried)}
    table = table.select([i for i in range(table.num_columns) if not len(ids) <= i < len(carried)])
    for task in tasks:
        named = {f"label_{task.name}": columns[task.label]}
        if task.space is not None:
            named[f"in_space_{task.name}"] = columns[task.space].cast("bool")
        for name, column in named.items():
            if name not in ids:
                table = table.append_column(name, column)
    return table
