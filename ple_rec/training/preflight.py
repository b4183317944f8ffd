"""Checks of a training or an evaluation before it starts: configuration, dataset and run directory.

The command line calls `check_training` or `check_evaluation` in one process, before any rank starts and any model is
built, so that a wrong configuration is refused within seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.config.base import Split
from ple_rec.config.diff import disallowed_differences
from ple_rec.config.load import load_config
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.data.slice_columns import slice_columns
from ple_rec.distributed.plan_check import SavedPlan, check_tables
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CONFIG
from ple_rec.runs.state import Resume, decide_action, inspect_directory
from ple_rec.storage import Location
from ple_rec.training.checks import check_loss_weights, check_metrics_defined
from ple_rec.training.loggers import check_installed
from ple_rec.training.model import run_tables
from ple_rec.training.prepared import PreparedRun, prepare_run
from ple_rec.training.profiler.schedule import check_steps
from ple_rec.training.trained import find_trained_checkpoint
from ple_rec.training.warm_start import read_warm_start, resolve_warm_start

# Keys that may differ from the training in an evaluation, which may use other data, slices and hosts.
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


def check_training(
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
    """Check, before any rank starts, that a training can succeed, and return the prepared run.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        resume: True to resume the run of the directory; "auto" to resume a run if the directory has one.
        overwrite: True to replace the run of the directory.
        world_size: Number of ranks.
        init_from: Run and checkpoint to start from; None for random weights.
        plan: File of a sharding plan to use; None for the plan of a resumed run, or for a new plan.
        profile: True to profile some steps.

    Raises:
        UserError: The run directory, the configuration, the plan or the run to start from is refused, a package that
            the run needs is missing, or the run has too few steps for a profile.
        DataError: The dataset, or the run to resume or to start from, is damaged.
    """
    check_installed(config.watch)
    prepared_run = prepare_run(config, world_size)
    check_metrics_defined(config, prepared_run.dataset, prepared_run.selection)
    loader = prepared_run.training_loader(0)
    steps = prepared_run.count_steps(loader)
    if profile:
        check_steps(steps)
    check_loss_weights(config, prepared_run.tasks, steps, -(-steps // loader.steps))
    for split in config.evaluation.splits:
        check_split(prepared_run.dataset, split, prepared_run.selection, world_size)
        slice_columns(prepared_run.dataset, split, config.evaluation.slices)
    if plan is not None:
        saved_plan = SavedPlan(load_plan(plan), str(plan), strict=True)
        tables = run_tables(config, prepared_run.selection)
        kind = config.table_optimizer.kind
        check_tables(saved_plan, tables, config.embeddings, kind, prepared_run.batch_size_per_rank, world_size)
    if decide_action(inspect_directory(config, run_dir), config, resume=resume, overwrite=overwrite) == "begin":
        resolve_warm_start(prepared_run, run_dir, init_from)
    else:
        read_warm_start(run_dir)
    return prepared_run


def check_split(dataset: DatasetDirectory, split: Split, selection: Selection, world_size: int) -> None:
    """Refuse a split that cannot be evaluated on `world_size` ranks.

    Args:
        dataset: Dataset of the run.
        split: Split to evaluate.
        selection: Columns that the run reads.
        world_size: Number of ranks.

    Raises:
        UserError: The split has fewer row groups than ranks.
        DataError: The split is damaged.
    """
    # The loader makes the check when it is created. Any batch size that the number of ranks divides will do.
    Loader(dataset, split, selection, batch_size=world_size, rank=0, world_size=world_size, virtual_shards=world_size)


def load_run_config(run_dir: Location, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of an existing run, with overrides.

    A run that was trained with `runtime.device = "cuda"`, as jobs with GPUs are, gets "auto", since this host may have
    no GPU.

    Args:
        run_dir: Directory of the run.
        overrides: Overrides of keys that an evaluation may change, for example `data.path=DIRECTORY`.

    Raises:
        UserError: There is no run, or an override is invalid or of a key that an evaluation may not change.
    """
    if not (run_dir / CONFIG).is_file():
        raise UserError(str(run_dir), f"no {CONFIG}", "a run directory has one", "name the directory of a trained run")
    trained_config = load_config(RunConfig, run_dir / CONFIG)
    device = ["runtime.device=auto"] if trained_config.runtime.device == "cuda" else []
    config = load_config(RunConfig, run_dir / CONFIG, [*device, *overrides])
    if changed := disallowed_differences(trained_config, config, _MAY_DIFFER):
        key, before, now = changed[0]
        raise UserError(
            f"{Option.OVERRIDES} {key}",
            f"was {before!r}, is {now!r}",
            f"a run is evaluated as it was trained; only {', '.join(_MAY_DIFFER)} may change",
            "leave it out, or train another run",
        )
    return config


def check_evaluation(
    run_dir: Location, splits: Sequence[Split], checkpoint: str, overrides: Sequence[str] = ()
) -> tuple[RunConfig, DatasetDirectory]:
    """Check, before any process starts and any model is built, that an evaluation can succeed.

    Args:
        run_dir: Directory of the run.
        splits: Splits to evaluate.
        checkpoint: `best`, `latest` or `step-<n>`.
        overrides: Overrides of keys that an evaluation may change, for example `data.path=DIRECTORY`.

    Returns:
        Configuration and dataset of the evaluation.

    Raises:
        UserError: There is no such run or checkpoint, the checkpoint was trained neither on the dataset nor on an
            ancestor of it, or a column to slice by is missing.
        DataError: The dataset or the checkpoint's manifest is damaged.
    """
    config = load_run_config(run_dir, overrides)
    dataset = DatasetDirectory(config.data.path)
    # The dataset is checked before its columns, since the error of a missing column would not say that the whole
    # dataset is the wrong one.
    find_trained_checkpoint(config, run_dir, checkpoint, dataset)
    for split in splits:
        slice_columns(dataset, split, config.evaluation.slices)
    return config, dataset
