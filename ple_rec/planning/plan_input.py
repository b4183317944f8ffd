"""Inputs of a plan: the dataset's schema, which may exist without the dataset, and the model on the meta device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ple_rec.config.choices import faster_precision
from ple_rec.config.cluster import Cluster
from ple_rec.config.load import described_schema
from ple_rec.config.plan import PlanFile
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema, SplitInfo, Table
from ple_rec.config.words import suggestion
from ple_rec.data.columns import Selection, select_columns
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.distributed.layouts import Watch
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.planner import PlanningInputs, check_sizes, make_plan
from ple_rec.errors import Option, UserError
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.planning.estimate import DenseWork, estimate
from ple_rec.storage import explain_errors, location
from ple_rec.training.checks import global_batch_size, select
from ple_rec.training.model import model_of, sizes_of

# Sizes of a model do not depend on the statistics of a dense feature, so these stand for all of them.
_STATISTICS = {"mean": 0.0, "std": 1.0, "log_mean": 0.0, "log_std": 1.0, "quantiles": [0.0, 1.0]}


@dataclass(frozen=True)
class DatasetDescription:
    """Schema of a dataset that may not exist yet.

    Args:
        schema: Tables, features, tasks and splits of the dataset.
        ids_per_sample: Mean number of ids of a sample by feature name, for the features whose number is known.
        place: Source of the schema, for messages.
    """

    schema: DatasetSchema
    ids_per_sample: Mapping[str, float]
    place: str

    def select(self, *, drop: Sequence[str], tasks: Sequence[str]) -> Selection:
        """Return the columns that a run reads; raise UserError for a name that the dataset does not have."""
        return select_columns(self.schema, self.place, drop, tasks)

    def with_sizes(self, rows: Mapping[str, int], samples: int | None) -> DatasetDescription:
        """Return the description of a dataset with other sizes.

        Args:
            rows: Number of rows of a table, by table name; the other tables keep theirs.
            samples: Number of samples of the training split; None for as many as now.

        Raises:
            UserError: The dataset has no table of such a name.
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


def describe(config: RunConfig, schema: str | None = None) -> DatasetDescription:
    """Return the description of a run's dataset.

    It comes from `schema` if that is not None, else from the dataset directory if it exists, else from the schema that
    `data.described_by` names.

    Args:
        config: Configuration of the run.
        schema: Path of a `schema.toml`, or name of a schema that comes with the package.

    Raises:
        UserError: There is neither a dataset nor a schema.
        DataError: The schema breaks its rules.
    """
    if schema is not None:
        return DatasetDescription(described_schema(schema), {}, f"the schema {schema}")
    folder = location(config.data.path)
    with explain_errors(folder, "read", "a plan follows from the rows of its tables"):
        exists = folder.is_dir()
    if exists:
        dataset = DatasetDirectory(folder)
        return DatasetDescription(dataset.schema, dataset.ids_per_sample(dataset.schema.sparse), config.data.path)
    if config.data.described_by is None:
        raise UserError(
            "data.path",
            f"no dataset directory {config.data.path}",
            "a plan follows from the rows of its tables",
            "prepare it with `ple-rec prep`, or name a schema.toml by data.described_by",
        )
    place = f"the schema {config.data.described_by} ({config.data.path} is not there)"
    return DatasetDescription(described_schema(config.data.described_by), {}, place)


def plan_run(
    config: RunConfig, described: DatasetDescription, cluster: Cluster, watch: Watch | None = None
) -> PlanFile:
    """Return the plan of a run on a cluster, with its estimate.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Hosts that are planned for.
        watch: Called at every proposal that the planner tries.

    Raises:
        DoesNotFitError: No plan keeps every rank below its memory.
        UserError: Configuration, dataset and cluster do not fit each other.
    """
    inputs = planning_inputs(config, described, cluster)
    check_sizes(sizes_of(config, select(config, described)), inputs)
    model = meta_model(config, described, cuda=cluster.cuda)
    plan = make_plan(model, inputs, watch)
    step = estimate(plan, work_of(config, described, model, cluster))
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
            "every rank has a sample a step",
            "give train.batch_size_per_rank, or fewer ranks",
        )
    return PlanningInputs(
        config.embeddings, config.table_optimizer.kind, cluster, -(-batch // world), described.ids_per_sample
    )


def work_of(config: RunConfig, described: DatasetDescription, model: MultiTaskModel, cluster: Cluster) -> DenseWork:
    """Return the work of the dense layers; `precision = "auto"` is the one in which the hardware is faster."""
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
    selection = select(config, described)
    statistics = {feature.name: {"train": _STATISTICS} for feature in selection.dense}
    # On the meta device no initial values are drawn, which would take long for large dense layers.
    with torch.device("meta"):
        model = model_of(config, selection, statistics, torch.device("meta"))
    attach_table_optimizer(model, config.table_optimizer, torch.device("cuda" if cuda else "cpu"))
    return model
