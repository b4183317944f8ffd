"""The model of a configuration on the meta device, by the schema of its dataset or of one that is not there yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ple_rec.config.choices import faster_precision
from ple_rec.config.cluster import Cluster
from ple_rec.config.load import described_schema
from ple_rec.config.plan import Plan
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema, SplitInfo, Table
from ple_rec.config.words import suggestion
from ple_rec.data.columns import Selection, select_columns
from ple_rec.data.dataset import Dataset
from ple_rec.distributed.layouts import Watch
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.planner import PlanningInputs, check_sizes, make_plan
from ple_rec.errors import Option, UserError
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.planning.estimate import Work, estimate
from ple_rec.storage import explain_errors, location
from ple_rec.training.checks import global_batch_size, select
from ple_rec.training.model import model_of, sizes_of

_ANY = {"mean": 0.0, "std": 1.0, "log_mean": 0.0, "log_std": 1.0, "quantiles": [0.0, 1.0]}  # sizes follow from no value


@dataclass(frozen=True)
class Described:
    """What planning needs to know of a dataset.

    Args:
        schema: Its tables, features and tasks.
        ids_per_sample: Mean ids of a sample, by feature, where known.
        place: Where that stands, for people.
    """

    schema: DatasetSchema
    ids_per_sample: Mapping[str, float]
    place: str

    def select(self, *, drop: Sequence[str], tasks: Sequence[str]) -> Selection:
        """What a run reads; raises UserError for a name that the dataset does not have."""
        return select_columns(self.schema, self.place, drop, tasks)

    def with_sizes(self, rows: Mapping[str, int], samples: int | None) -> Described:
        """Return the dataset as it will be.

        Args:
            rows: Rows of its tables, by name; the others keep theirs.
            samples: Samples of the training split; None: as many as now.

        Raises:
            UserError: the dataset has no such table.
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


def describe(config: RunConfig, schema: str | None = None) -> Described:
    """The dataset of a run: `schema`, else the directory where it is there, else what `data.described_by` names.

    Args:
        config: The run.
        schema: A `schema.toml`, or the name of one that comes with the package, whatever directories there are.

    Raises:
        UserError: neither is there.
        DataError: it breaks the rules of a schema.
    """
    if schema is not None:
        return Described(described_schema(schema), {}, f"the schema {schema}")
    folder = location(config.data.path)
    with explain_errors(folder, "read", "a plan follows from the rows of its tables"):
        there = folder.is_dir()
    if there:
        dataset = Dataset(folder)
        return Described(dataset.schema, dataset.ids_per_sample(dataset.schema.sparse), config.data.path)
    if config.data.described_by is None:
        raise UserError(
            "data.path",
            f"no dataset directory {config.data.path}",
            "a plan follows from the rows of its tables",
            "prepare it with `ple-rec prep`, or name a schema.toml by data.described_by",
        )
    place = f"the schema {config.data.described_by} ({config.data.path} is not there)"
    return Described(described_schema(config.data.described_by), {}, place)


def plan_run(config: RunConfig, described: Described, cluster: Cluster, watch: Watch | None = None) -> Plan:
    """Return the plan of a run on a cluster, with its estimate.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Hosts that are planned for.
        watch: Called at every proposal that the planner tries.

    Raises:
        DoesNotFitError: no plan keeps every rank below its memory.
        UserError: configuration, dataset and cluster do not fit each other.
    """
    request = request_of(config, described, cluster)
    check_sizes(sizes_of(config, select(config, described)), request)
    model = meta_model(config, described, cuda=cluster.cuda)
    plan = make_plan(model, request, watch)
    found = estimate(plan, work_of(config, described, model, cluster))
    return plan.model_copy(update={"estimate": found, "rows_of": described.place})


def request_of(config: RunConfig, described: Described, cluster: Cluster) -> PlanningInputs:
    """What to plan for.

    Raises:
        UserError: fewer samples a step than ranks.
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


def work_of(config: RunConfig, described: Described, model: MultiTaskModel, cluster: Cluster) -> Work:
    """What the dense part of the run asks of a rank; `precision = "auto"` is decided by the peaks of the hardware."""
    splits, asked, hardware = described.schema.splits, config.train.precision, cluster.hardware
    auto = faster_precision(hardware.fp32_tflops, hardware.bf16_tflops)
    return Work(
        flops_per_sample=model.flops_per_sample(),
        dense_parameters=model.dense_parameters(),
        precision=auto if asked == "auto" else asked,
        epoch_samples=max(1, splits["train"].rows) if "train" in splits else 1,
    )


def meta_model(config: RunConfig, described: Described, *, cuda: bool) -> MultiTaskModel:
    """The model with parameters that have sizes and no memory, and its tables' optimizer.

    Raises:
        UserError: the configuration names what the dataset does not have, or an optimizer that the device lacks.
    """
    selection = select(config, described)
    statistics = {feature.name: {"train": _ANY} for feature in selection.dense}
    with torch.device("meta"):  # nothing is drawn, however large the dense layers are
        model = model_of(config, selection, statistics, torch.device("meta"))
    attach_table_optimizer(model, config.table_optimizer, torch.device("cuda" if cuda else "cpu"))
    return model
