"""Checks of a training or an evaluation before it starts: configuration, dataset and run directory."""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.config.base import Split
from ple_rec.config.diff import changed_beyond
from ple_rec.config.load import load_config
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.data.slice_columns import slice_columns
from ple_rec.distributed.plan_check import SavedPlan, check_tables
from ple_rec.errors import Option, UserError
from ple_rec.models.embeddings import table_configs
from ple_rec.runs.layout import CONFIG
from ple_rec.runs.state import Resume, decide, inspect
from ple_rec.storage import Location
from ple_rec.training.checks import check_defined, check_loss_weights
from ple_rec.training.loggers import check_installed
from ple_rec.training.prepared import PreparedRun, prepare_run
from ple_rec.training.profiler.schedule import check_steps
from ple_rec.training.trained import trained_checkpoint
from ple_rec.training.warm_start import recorded_start, starting_point

# An evaluation may use other data, other metrics by slice and other hosts.
_MAY_DIFFER = (
    "data.path",
    "data.prefetch",
    "data.buffer_mib",
    "evaluation",
    "runtime",
    "train.batch_size",
    "train.batch_size_per_rank",
    "train.exact_auc_limit",
    "train.precision",
    "topology",
    "embeddings.sharding",
    "embeddings.kernel",
    "embeddings.cache_load_factor",
    "embeddings.qcomms",
)


def check(
    config: RunConfig,
    run_dir: Location,
    *,
    resume: Resume,
    overwrite: bool,
    world_size: int,
    init_from: tuple[Location, str] | None = None,
    plan: Location | None = None,
    profile: bool = False,
) -> PreparedRun:
    """Refuse a training that cannot succeed before any rank starts, and return the prepared run.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        resume: True to resume the run of the directory; "auto" to resume a run if the directory has one.
        overwrite: True to replace the run of the directory.
        world_size: Number of ranks.
        init_from: Run and checkpoint to start from.
        plan: File of a plan to use; None to plan at the start of the run.
        profile: True to profile some steps.

    Raises:
        UserError: The run directory, the configuration, the plan or the run to start from is refused, or a package
            that the run needs is missing.
        DataError: The dataset, or the run to resume or to start from, is damaged.
    """
    check_installed(config.watch)
    run = prepare_run(config, world_size)
    check_defined(config, run.dataset, run.selection)
    loader = run.training_loader(0)
    steps = run.steps_of(loader)
    if profile:
        check_steps(steps)
    check_loss_weights(config, run.tasks, steps, -(-steps // loader.steps))
    for split in config.evaluation.splits:
        check_split(run.dataset, split, run.selection, world_size)
        slice_columns(run.dataset, split, config.evaluation.slices)
    if plan is not None:
        given_plan = SavedPlan(load_plan(plan), str(plan), strict=True)
        tables = table_configs(config.embeddings, run.selection.sparse, run.selection.table_rows)
        kind = config.table_optimizer.kind
        check_tables(given_plan, tables, config.embeddings, kind, run.batch_size_per_rank, world_size)
    if decide(inspect(config, run_dir), config, resume=resume, overwrite=overwrite) == "begin":
        starting_point(run, run_dir, init_from)
    else:
        recorded_start(run_dir)
    return run


def check_split(dataset: DatasetDirectory, split: Split, selection: Selection, world_size: int) -> None:
    """Refuse a split that cannot be evaluated on so many ranks.

    Args:
        dataset: Dataset of the run.
        split: Split to evaluate.
        selection: Columns that the run reads.
        world_size: Number of ranks.

    Raises:
        UserError: The split has fewer row groups than ranks.
        DataError: The split is damaged.
    """
    Loader(dataset, split, selection, batch_size=world_size, rank=0, world_size=world_size, virtual_shards=world_size)


def check_run(run_dir: Location, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a run that exists.

    Args:
        run_dir: Directory of the run.
        overrides: Overrides of keys that an evaluation may change, for example `data.path=DIRECTORY`.

    Raises:
        UserError: There is no run, or an override is invalid or of a key that an evaluation may not change.
    """
    if not (run_dir / CONFIG).is_file():
        raise UserError(str(run_dir), f"no {CONFIG}", "a run directory has one", "name the directory of a trained run")
    config = load_config(RunConfig, run_dir / CONFIG, overrides)
    if changed := changed_beyond(load_config(RunConfig, run_dir / CONFIG), config, _MAY_DIFFER):
        key, before, now = changed[0]
        raise UserError(
            f"{Option.OVERRIDES} {key}",
            f"was {before!r}, is {now!r}",
            f"an evaluation is of the run as it was trained; only {', '.join(_MAY_DIFFER)} may change",
            "leave it out, or train another run",
        )
    return config


def check_evaluation(
    run_dir: Location, splits: Sequence[Split], checkpoint: str, overrides: Sequence[str] = ()
) -> tuple[RunConfig, DatasetDirectory]:
    """Refuse an evaluation before any process starts and any model is built.

    Args:
        run_dir: Directory of the run.
        splits: Splits to evaluate.
        checkpoint: `best`, `latest` or `step-<n>`.
        overrides: Overrides of keys that an evaluation may change, for example `data.path=DIRECTORY`.

    Returns:
        Configuration and dataset of the evaluation.

    Raises:
        UserError: There is no such run or checkpoint, the dataset is not that of the run, or a column to slice by is
            missing.
    """
    config = check_run(run_dir, overrides)
    dataset = DatasetDirectory(config.data.path)
    # Another dataset would lack columns, too; the error says that it is another one.
    trained_checkpoint(config, run_dir, checkpoint, dataset)
    for split in splits:
        slice_columns(dataset, split, config.evaluation.slices)
    return config, dataset
