"""What is refused before a training or an evaluation starts: by its input, its dataset and its run directory."""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.config.base import Split
from ple_rec.config.diff import changed_beyond
from ple_rec.config.load import load_config
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import Dataset
from ple_rec.data.loader import Loader
from ple_rec.data.slice_columns import slice_columns
from ple_rec.distributed.plan_check import GivenPlan, check_tables
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

# What may differ when a run is evaluated: on which data, how it is told, and where it runs.
_OF_EVALUATION = (
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
    """Refuse a training before any process starts, for all that can be known by then, and return it prepared.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        resume: True to resume the run of the directory; "auto" to resume one where there is one.
        overwrite: True to replace the run of the directory.
        world_size: Number of ranks.
        init_from: Run and checkpoint to start from.
        plan: File of a plan.
        profile: True to profile some steps.

    Raises:
        UserError: the run directory, the configuration, the plan or the run to start from does not do, or a package
            that the run needs is missing.
        DataError: the dataset, or the run to resume or to start from, is damaged.
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
        given = GivenPlan(load_plan(plan), str(plan), insist=True)
        tables = table_configs(config.embeddings, run.selection.sparse, run.selection.table_rows)
        kind = config.table_optimizer.kind
        check_tables(given, tables, config.embeddings, kind, run.batch_size_per_rank, world_size)
    if decide(inspect(config, run_dir), config, resume=resume, overwrite=overwrite) == "begin":
        starting_point(run, run_dir, init_from)
    else:
        recorded_start(run_dir)
    return run


def check_split(dataset: Dataset, split: Split, selection: Selection, world_size: int) -> None:
    """Refuse a split that cannot be evaluated on so many ranks.

    Raises:
        UserError: it has fewer row groups than ranks.
        DataError: it is damaged.
    """
    Loader(dataset, split, selection, batch_size=world_size, rank=0, world_size=world_size, virtual_shards=world_size)


def check_run(run_dir: Location, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a run that exists.

    Args:
        run_dir: Directory of the run.
        overrides: `a.b=c` each, of what an evaluation may change.

    Raises:
        UserError: there is no run, or an override is wrong, or makes no difference to an evaluation.
    """
    if not (run_dir / CONFIG).is_file():
        raise UserError(str(run_dir), f"no {CONFIG}", "a run directory has one", "name the directory of a trained run")
    config = load_config(RunConfig, run_dir / CONFIG, overrides)
    if changed := changed_beyond(load_config(RunConfig, run_dir / CONFIG), config, _OF_EVALUATION):
        key, before, now = changed[0]
        raise UserError(
            f"{Option.OVERRIDES} {key}",
            f"was {before!r}, is {now!r}",
            f"an evaluation is of the run as it was trained; only {', '.join(_OF_EVALUATION)} may change",
            "leave it out, or train another run",
        )
    return config


def check_evaluation(
    run_dir: Location, splits: Sequence[Split], checkpoint: str, overrides: Sequence[str] = ()
) -> RunConfig:
    """Refuse an evaluation before any process starts and any model is built; return the configuration to evaluate.

    Args:
        run_dir: Directory of the run.
        splits: Splits to evaluate.
        checkpoint: `best`, `latest` or `step-<n>`.
        overrides: `a.b=c` each, of what an evaluation may change.

    Raises:
        UserError: no such run or checkpoint, another dataset than the run's, or no such column to slice by.
    """
    config = check_run(run_dir, overrides)
    dataset = Dataset(config.data.path)
    trained_checkpoint(config, run_dir, checkpoint, dataset)  # first: what another dataset lacks is no help
    for split in splits:
        slice_columns(dataset, split, config.evaluation.slices)
    return config
