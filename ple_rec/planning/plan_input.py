"""Plan of a run on a cluster, and its inputs: the dataset's schema, and the model on the meta device.

The schema may exist without the dataset. `plan_run` returns the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ple_rec.config.choices import faster_precision
from ple_rec.config.cluster import Cluster
from ple_rec.config.load import load_described_schema
from ple_rec.config.plan import PlanFile
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema, SplitInfo, Table
from ple_rec.config.words import suggestion
from ple_rec.data.columns import Selection, select_columns
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.distributed.layouts import ProposalCallback
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.planner import check_sizes, make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.errors import Option, UserError
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.planning.estimate import DenseWork, estimate_step
from ple_rec.storage import explain_errors, location
from ple_rec.training.checks import global_batch_size, select_run_columns
from ple_rec.training.model import build_unsharded_model, model_sizes

# The sizes of a model do not depend on the statistics of its dense features, so all features get these.
_STATISTICS = {"mean": 0.0, "std": 1.0, "log_mean": 0.0, "log_std": 1.0, "quantiles": [0.0, 1.0]}


@dataclass(frozen=True)
class DatasetDescription:
    """Schema of a dataset that may not exist yet.

    Args:
        schema: Tables, features, tasks and splits of the dataset.
        ids_per_sample: Mean number of ids of a sample by feature name, for the features whose number is known.
        place: Description of where the schema comes from, for messages.
    """

    schema: DatasetSchema
    ids_per_sample: Mapping[str, float]
    place: str

    def select(self, *, drop: Sequence[str], tasks: Sequence[str], vectors: Sequence[str] | None = None) -> Selection:
        """Return the columns that a run reads. `select_run_columns` calls it, or `DatasetDirectory.select`.

        Args:
            drop: Names of features to leave out.
            tasks: Names of tasks in the run's order; empty for all tasks.
            vectors: Names of the vector features to read; None for all.

        Raises:
            UserError: A name in `drop`, `vectors` or `tasks` is not in the dataset, or no feature is left.
        """
        return select_columns(self.schema, self.place, drop, tasks, vectors)

    def with_sizes(self, rows: Mapping[str, int], samples: int | None) -> DatasetDescription:
        """Return the description of a dataset with other sizes.

        Args:
            rows: New numbers of rows by table name; other tables keep their number.
            samples: New number of samples of the training split; None to keep it.

        Raises:
            UserError: `rows` names a table that the dataset does not have.
        """
        schema, known = self.schema, self.schema.table_rows()
        for name in rows:
            if name not in known:
                raise UserError(
                    Option.ROWS, f'got "{name}"', suggestion(name, list(known)), "name a table of the dataset"
                )
        changes = [f"{count:,} for {name}" for name, count in rows.items()]
        tables = tuple(Table(name=t.name, rows=rows[t.name]) if t.name in rows else t for t in schema.tables)
        splits = dict(schema.splits)
        if samples is not None:
            splits["train"] = SplitInfo(rows=samples, row_groups=1)
            changes.append(f"{samples:,} samples")
        place = f"{self.place}, but {', '.join(changes)}" if changes else self.place
        return replace(self, schema=schema.model_copy(update={"tables": tables, "splits": splits}), place=place)


def describe_dataset(config: RunConfig, schema: str | None = None) -> DatasetDescription:
    """Return the description of a run's dataset.

    It comes from `schema` if that is not None, else from the dataset directory if it exists, else from the schema that
    `data.described_by` names.

    Args:
        config: Configuration of the run.
        schema: Path of a `schema.toml`, or name of a schema that comes with the package; None for that of the run.

    Raises:
        UserError: There is neither a dataset nor a schema, or one cannot be read.
        DataError: The dataset is damaged, or the schema breaks its rules.
    """
    if schema is not None:
        return _describe_schema(schema, f"the schema {schema}")
    folder = location(config.data.path)
    with explain_errors(folder, "read", "a plan needs the number of rows of each table"):
        exists = folder.is_dir()
    if exists:
        dataset = DatasetDirectory(folder)
        columns = (*dataset.schema.sparse, *dataset.schema.history_columns())
        return DatasetDescription(dataset.schema, dataset.ids_per_sample(columns), config.data.path)
    if config.data.described_by is None:
        raise UserError(
            "data.path",
            f"no dataset directory {config.data.path}",
            "a plan needs the number of rows of each table",
            "prepare it with `ple-rec prep`, or name a schema.toml by data.described_by",
        )
    place = f"the schema {config.data.described_by} ({config.data.path} is not there)"
    return _describe_schema(config.data.described_by, place)


def _describe_schema(name: str, place: str) -> DatasetDescription:
    """Return the description of a dataset that does not exist; each of its histories is assumed to be full."""
    schema = load_described_schema(name)
    lengths = {column.name: float(history.length) for history in schema.histories for column in history.columns()}
    return DatasetDescription(schema, lengths, place)


def plan_run(
    config: RunConfig, described: DatasetDescription, cluster: Cluster, watch: ProposalCallback | None = None
) -> PlanFile:
    """Return the plan of a run on a cluster, with its estimate.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Hosts that are planned for.
        watch: Function, if any, that is called with the number of proposals that the planner has tried.

    Raises:
        DoesNotFitError: No plan keeps every rank below its memory.
        UserError: Configuration, dataset and cluster do not fit each other.
    """
    inputs = planning_inputs(config, described, cluster)
    # A model that is too large under every plan is refused before it is built, since building it could fail.
    check_sizes(model_sizes(config, select_run_columns(config, described)), inputs)
    model = meta_model(config, described, cuda=cluster.cuda)
    plan = make_plan(model, inputs, watch)
    step = estimate_step(plan, dense_work(config, described, model, cluster))
    return plan.model_copy(update={"estimate": step, "rows_of": described.place})


def planning_inputs(config: RunConfig, described: DatasetDescription, cluster: Cluster) -> PlanningInputs:
    """Return the planner's inputs for a run on a cluster.

    Raises:
        UserError: A step has fewer samples than there are ranks.
    """
    world = cluster.world_size
    batch = global_batch_size(config, world)
    if batch < world:
        raise UserError(
            "train.batch_size",
            f"got {batch} on {world} ranks",
            "every rank needs a sample in each step",
            "give train.batch_size_per_rank, or fewer ranks",
        )
    # A batch that the ranks do not divide is rounded up.
    return PlanningInputs(
        config.embeddings,
        config.table_optimizer.kind,
        cluster,
        -(-batch // world),
        described.ids_per_sample,
        select_run_columns(config, described).frozen_bytes,
    )


def dense_work(config: RunConfig, described: DatasetDescription, model: MultiTaskModel, cluster: Cluster) -> DenseWork:
    """Return the inputs of the step estimate for the dense layers.

    With `train.precision = "auto"`, the precision is the faster one of the hardware. `epoch_samples` is 1 if the
    training split is missing or empty, since the estimate needs a positive number.
    """
    splits, precision, hardware = described.schema.splits, config.train.precision, cluster.hardware
    faster = faster_precision(hardware.fp32_tflops, hardware.bf16_tflops)
    return DenseWork(
        flops_per_sample=model.flops_per_sample(),
        dense_parameters=model.dense_parameters(),
        precision=faster if precision == "auto" else precision,
        epoch_samples=max(1, splits["train"].rows) if "train" in splits else 1,
    )


def meta_model(config: RunConfig, described: DatasetDescription, *, cuda: bool) -> MultiTaskModel:
    """Return the model with parameters that take no memory, and with the tables' optimizer attached.

    Raises:
        UserError: The configuration names a column that the dataset lacks, or an optimizer that the device lacks.
    """
    selection = select_run_columns(config, described)
    statistics = {feature.name: {"train": _STATISTICS} for feature in selection.dense}
    statistics |= {
        vector.name: {"train": {"mean": [0.0] * vector.width, "std": [1.0] * vector.width}}
        for vector in selection.vectors
    }
    # On the meta device no initial values are drawn, which would take long for large dense layers.
    with torch.device("meta"):
        model = build_unsharded_model(config, selection, statistics, torch.device("meta"))
    attach_table_optimizer(model, config.table_optimizer, torch.device("cuda" if cuda else "cpu"))
    return model
