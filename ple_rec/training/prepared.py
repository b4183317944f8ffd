"""Description of a run before its model is built: configuration, dataset, columns, tasks, losses and batch size.

`prepare_run` opens the dataset once and returns a `PreparedRun`, which checks, training and evaluation share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.config.schema import age_table
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.models.losses import LOSSES, Loss
from ple_rec.training.checks import chosen_tasks, global_batch_size, loss_names, select_run_columns


@dataclass(frozen=True)
class PreparedRun:
    """Run whose configuration fits its dataset, before its model is built.

    Args:
        config: Configuration of the run.
        dataset: Dataset that the run reads.
        selection: Columns of the dataset that the run reads.
        tasks: Tasks with the weights of their losses, in the order of the logits.
        losses: Loss function of each task.
        world_size: Number of ranks.
        batch_size: Number of samples of a step over all ranks.
    """

    config: RunConfig
    dataset: DatasetDirectory
    selection: Selection
    tasks: tuple[TaskConfig, ...]
    losses: tuple[Loss, ...]
    world_size: int
    batch_size: int

    @property
    def batch_size_per_rank(self) -> int:
        """Number of samples of a step on one rank, rounded up."""
        return -(-self.batch_size // self.world_size)

    @property
    def id_dropout(self) -> dict[str, float]:
        """Share of the ids that training replaces by row 0, by name of the feature; without features that keep all."""
        embeddings = self.config.embeddings
        shares = {name: table.id_dropout for name, table in embeddings.tables.items() if table.id_dropout is not None}
        # Ages are always known, so they are dropped only if the configuration names their table.
        ages = {age_table(history.name) for history in self.selection.histories}
        by_feature = {
            f.name: shares.get(f.table, 0.0 if f.table in ages else embeddings.id_dropout)
            for f in self.selection.sparse
        }
        return {name: share for name, share in by_feature.items() if share > 0}

    def training_loader(self, rank: int) -> Loader:
        """Return the loader of the training split, whose order depends on the run's seed.

        A task with `samples = "all"` is trained on all rows, so the loader does not restrict it to its sample space.
        Groups are left out, since only evaluations read them.

        Args:
            rank: Rank that reads the batches.

        Raises:
            UserError: There are more ranks than row groups, or the batch size is not a multiple of the virtual shards,
                or these are not a multiple of the ranks.
        """
        config = self.config
        tasks_on_all_rows = {task.name for task in config.tasks if task.samples == "all"}
        tasks = (
            t.model_copy(update={"space": None}) if t.name in tasks_on_all_rows else t for t in self.selection.tasks
        )
        return Loader(
            self.dataset,
            "train",
            replace(self.selection, tasks=tuple(tasks), group=None, subgroup=None),
            batch_size=self.batch_size,
            rank=rank,
            world_size=self.world_size,
            virtual_shards=config.data.virtual_shards,
            seed=config.seed,
            by_request=config.data.shuffle == "requests",
            id_dropout=self.id_dropout,
            prefetch=config.data.prefetch,
            buffer_bytes=config.data.buffer_mib << 20,
        )

    def count_steps(self, loader: Loader) -> int:
        """Return the number of steps of the run: `train.steps`, or else the steps of `train.epochs` (default 1).

        Args:
            loader: Batches of the training split.
        """
        return self.config.train.steps or loader.steps * (self.config.train.epochs or 1)


def prepare_run(config: RunConfig, world_size: int, dataset: DatasetDirectory | None = None) -> PreparedRun:
    """Open the dataset of a run, and select the columns, tasks and losses of the run.

    Args:
        config: Configuration of the run.
        world_size: Number of ranks.
        dataset: Dataset of the run, if this process has opened it; None to open it.

    Raises:
        UserError: The configuration does not fit the dataset.
        DataError: The dataset is damaged.
    """
    dataset = dataset or DatasetDirectory(config.data.path)
    selection = select_run_columns(config, dataset)
    tasks = chosen_tasks(config, selection)
    names = loss_names(config, selection, tasks)
    losses = tuple(LOSSES[name](task) for name, task in zip(names, tasks, strict=True))
    return PreparedRun(config, dataset, selection, tasks, losses, world_size, global_batch_size(config, world_size))
