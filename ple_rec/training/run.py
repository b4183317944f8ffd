"""Training of a run from its configuration to its report, and evaluation of a trained run.

The command line and `ple_rec.train` call `train` on every rank: it locks the run directory, builds model and data, runs
the training loop, evaluates the best checkpoint, and writes `metrics.json` and the report. `evaluate_run` evaluates a
checkpoint of a run that exists, and writes nothing. Both return metrics.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from ple_rec.checkpoint.load import find_damage
from ple_rec.config.base import Split
from ple_rec.config.load import dump_toml
from ple_rec.config.metrics import GAUCS
from ple_rec.config.plan import column_wise_remarks, dump_plan, load_plan, load_valid_plan
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.plan_check import SavedPlan
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import DivergedError, Option, PreemptedError, UserError
from ple_rec.runs.checkpoints import prepare_directory, shared_directories
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CONFIG, INIT, METRICS, NAMES_OF_RESULTS, PLAN, REPORT
from ple_rec.runs.overfitting import overfitting_warning
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import format_results
from ple_rec.runs.state import Resume
from ple_rec.runs.warnings import dominant_task
from ple_rec.storage import Location
from ple_rec.training.claim import lock_run_directory
from ple_rec.training.compilation import describe_compilation
from ple_rec.training.context import EvaluationContext, TrainContext, build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.last_checkpoint import use_recorded_threads
from ple_rec.training.loggers import open_loggers
from ple_rec.training.loop import ExtraMetrics, train_steps
from ple_rec.training.precision import saved_precision
from ple_rec.training.preemption import Preemption, StopRequested
from ple_rec.training.preflight import check_evaluation
from ple_rec.training.prepared import PreparedRun, prepare_run
from ple_rec.training.profiler.session import NO_PROFILE, StepProfile
from ple_rec.training.restore import check_resumable
from ple_rec.training.slices import SliceMetrics, find_slicings
from ple_rec.training.state import TrainState
from ple_rec.training.storage_check import check_storage
from ple_rec.training.summary import paper_figures, summary
from ple_rec.training.table_health import table_health
from ple_rec.training.trained import load_trained_weights, open_trained_run
from ple_rec.training.validation import batches_until_stop, warm_start_warning
from ple_rec.training.warm_start import WarmStart

logger = logging.getLogger(__name__)


def train(
    config: RunConfig,
    run_dir: Location,
    *,
    resume: Resume = False,
    overwrite: bool = False,
    init_from: tuple[Location, str] | None = None,
    plan: Location | None = None,
    profile: bool = False,
    extra_metrics: ExtraMetrics | None = None,
    prepared_run: PreparedRun | None = None,
) -> dict[str, Any]:
    """Train a run, evaluate its best checkpoint on the splits of `evaluation`, and write metrics and report.

    Every rank of the launcher's process group calls this function; without a launcher there is a single rank.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run, for example `runs/census`.
        resume: True to resume from the latest checkpoint of the directory. "auto" to resume the run of the directory
            if there is one, to begin a run if there is none, and to do nothing if the run has finished.
        overwrite: True to replace the run of the directory.
        init_from: Directory of a finished run and its checkpoint (`best`, `latest` or `step-<n>`), whose weights and
            optimizer state the run starts from; None for random weights. That run must have been trained on this
            dataset or on an ancestor of it.
        plan: File `plan.json` with the sharding plan of the tables; None for the plan of a resumed run, or for a new
            plan.
        profile: True to time and trace some of the first steps, into `profile/`. With `resume="auto"`, a run with too
            few steps left is trained without a profile; otherwise it is refused.
        extra_metrics: Function called on every rank at each evaluation during training, which reads the weights and
            does not change them. Its result is added to the evaluation's record in `train.jsonl`. None to add nothing.
        prepared_run: Result of `preflight.check_training` in this process; None to prepare the run now.

    Returns:
        Content of `metrics.json`.

    Raises:
        UserError: The configuration, the run directory, the plan or the run to start from is refused.
        DataError: The dataset or a checkpoint is damaged.
        DivergedError: A loss, a gradient or a weight is not finite.
        PreemptedError: A rank received a stop signal.
    """
    auto = resume == "auto"
    with process_group(config.runtime) as ranks, ExitStack() as stack:
        prepare = cache(lambda: prepare_run(config, ranks.world_size) if prepared_run is None else prepared_run)
        locking = lock_run_directory(config, run_dir, prepare, resume=resume, overwrite=overwrite, init_from=init_from)
        run, decision = stack.enter_context(locking)
        resuming, warm_start = decision.is_resuming, decision.warm_start
        if decision.action == "finished":
            metrics = dict(RunFiles(run_dir).metrics)
            if ranks.is_main:
                logger.info(f"{run_dir}: has finished, step {metrics['steps']:,}: nothing is left to do")
            return metrics
        check_storage(shared_directories(config, run_dir), config.data.path, ranks)
        saved_plan = _read_saved_plan(plan, run_dir, resuming=resuming)
        ranks = use_recorded_threads(config, decision.written_by, ranks)
        context = build_context(config, ranks, saved_plan, saved_precision(decision.written_by), prepare())
        # Refusals come before `_write_run_description`, which removes or replaces files of the earlier run.
        if (newest := decision.newest_checkpoint) is not None:
            run_on_rank_zero(lambda: check_resumable(context, run_dir, newest))
        elif overwrite and warm_start is not None and (damage := find_damage(warm_start.path)) is not None:
            raise damage
        run_on_rank_zero(lambda: _write_run_description(context, run, warm_start, resuming=resuming))
        preemption = Preemption(config.checkpoint.grace_seconds)
        with open_loggers(context.config, run, resume=resuming) as loggers, preemption:
            if ranks.is_main:
                logger.info(f"{_introduction(context, run_dir)}\n{loggers.describe()}")
                if saved_plan is not None and context.plan != saved_plan.plan:
                    logger.info(f"{saved_plan.place} does not fit these ranks any more: the tables are planned anew")
            step_profile = StepProfile(context, run, logger.info, strict=not auto) if profile else NO_PROFILE
            with _report_of_divergence(run):
                state = train_steps(
                    context,
                    run,
                    resume=resuming,
                    loggers=loggers,
                    warm_start=warm_start,
                    profile=step_profile,
                    extra_metrics=extra_metrics,
                    preemption=preemption,
                )
            metrics = _evaluate_splits(context, run_dir, "best", config.evaluation.splits, preemption)
            metrics["table_health"] = table_health(context, warm_start)
            metrics |= summary(context, state) | ({} if warm_start is None else {"init_from": vars(warm_start)})
            loggers.finish(metrics, run_on_rank_zero(lambda: _finish(metrics, run, config, state)) or {})
        return metrics


def evaluate_run(
    run_dir: Location, *, splits: Sequence[Split], checkpoint: str, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run, and return its metrics by split, with the name of the checkpoint.

    Args:
        run_dir: Directory of the run.
        splits: Splits to evaluate.
        checkpoint: `best`, `latest` or `step-<n>`.
        overrides: Overrides of keys that an evaluation may change, for example `data.path=DIRECTORY`.

    Raises:
        UserError: There is no such run or checkpoint, an override is refused, or the checkpoint was trained neither on
            the dataset nor on an ancestor of it.
        DataError: The dataset or the checkpoint is damaged.
    """
    config, dataset = check_evaluation(run_dir, splits, checkpoint, overrides)
    with open_trained_run(config, run_dir, checkpoint, dataset) as context:
        return _evaluate_splits(context, run_dir, checkpoint, splits)


def _read_saved_plan(plan: Location | None, run_dir: Location, *, resuming: bool) -> SavedPlan | None:
    """Return, on rank 0, the plan that the user gave, or else the plan of the resumed run, if any (a collective).

    The plan of the resumed run is ignored if its file is missing, damaged or of another version of the format. The
    other ranks get None.
    """

    def read() -> SavedPlan | None:
        if plan is not None:
            return SavedPlan(load_plan(plan), str(plan), strict=True)
        run_plan = load_valid_plan(run_dir / PLAN) if resuming else None
        return None if run_plan is None else SavedPlan(run_plan, str(run_dir / PLAN), strict=False)

    return run_on_rank_zero(read)


@contextmanager
def _report_of_divergence(run: RunDirectory) -> Iterator[None]:
    """Write the report of a run if the block raises a DivergedError, which all ranks raise at the same step."""

    def report() -> None:
        # An error of writing must not hide the DivergedError.
        with suppress(UserError):
            run.push()
            _write_report(run)
            logger.info(f"report: {run / REPORT}")

    try:
        yield
    except DivergedError:
        # The other ranks wait until rank 0 has written the report, because the first rank that exits ends all ranks.
        run_on_rank_zero(report)
        raise


def _write_run_description(
    context: TrainContext, run: RunDirectory, warm_start: WarmStart | None, *, resuming: bool
) -> None:
    """Prepare the run directory, and write the run's warm start, configuration and plan into it."""
    prepare_directory(context.config, run, resuming=resuming)
    # A run that is killed before its first checkpoint reads its warm start from this file, so it is written first.
    if warm_start is not None:
        run.write_json(INIT, vars(warm_start))
    run.write_text(CONFIG, dump_toml(context.config))
    run.write_text(PLAN, dump_plan(context.plan))


def _introduction(context: TrainContext, run_dir: Location) -> str:
    """Return the first lines of the log: model, tables, ranks, samples and steps, remarks and warnings."""
    ranks, tables = context.ranks, context.plan.tables
    rows = sum(table.rows for table in tables)
    dataset_tasks = len(context.dataset.schema.tasks)
    of_dataset = f" of {dataset_tasks}" if len(context.tasks) < dataset_tasks else ""
    return (
        f"{context.config.name}: {context.config.model.variant}, {len(context.tasks)}{of_dataset} task(s), "
        f"{context.unwrapped_model.dense_parameters():,} dense parameters, {len(tables)} table(s) of {rows:,} rows, "
        f"{context.unwrapped_model.flops_per_sample():,} FLOPs/sample\n"
        f"{ranks.world_size} rank(s) on {ranks.device.type}, {ranks.threads} thread(s) each, global batch "
        f"{context.batch_size:,}, {context.loader.rows:,} training samples, {context.total_steps:,} steps -> {run_dir}"
        + (f"\n{precision}" if (precision := context.precision.describe()) else "")
        + (f"\n{compilation}" if (compilation := describe_compilation(context.eager_reason, ranks.device)) else "")
        + "".join(f"\n{remark}" for remark in column_wise_remarks(context.plan))
        + _patience_warning(context)
    )


def _patience_warning(context: TrainContext) -> str:
    """Return a warning if early stopping is configured but has too few evaluations to happen; else an empty text."""
    early = context.config.early_stopping
    evaluations = -(-context.total_steps // (context.config.train.evaluate_every or context.loader.steps))
    if early is None or early.patience < evaluations:
        return ""
    return (
        f"\nearly_stopping.patience = {early.patience} is never reached: the run has {evaluations} evaluation(s); "
        "lower it, or evaluate more often (train.evaluate_every)"
    )


def _evaluate_splits(
    context: EvaluationContext,
    run_dir: Location,
    checkpoint: str,
    splits: Sequence[Split],
    preemption: Preemption | None = None,
) -> dict[str, Any]:
    """Return the metrics of a checkpoint by split, with its name and, for the paper's datasets, the paper's results."""
    results: dict[str, Any] = {"checkpoint": load_trained_weights(context, run_dir, checkpoint).name}
    try:
        for split in splits:
            results[split] = _evaluate_split(context, split, preemption)
    except StopRequested:
        rule, fix = "training is done and saved", f"run it again with {Option.RESUME} to evaluate it"
        raise PreemptedError(str(run_dir), "a stop signal interrupted the last evaluation", rule, fix) from None
    if context.selection.group_names is not None:
        results["gauc_by"] = dict(zip(GAUCS, context.selection.group_names, strict=True))
    paper = paper_figures(context.dataset.schema.name, [task.name for task in context.tasks])
    return results | ({"paper": paper} if paper else {})


def _evaluate_split(context: EvaluationContext, split: Split, preemption: Preemption | None = None) -> dict[str, Any]:
    config, exact_limit = context.config.evaluation, context.config.train.exact_auc_limit
    tasks, device = context.selection.tasks, context.ranks.device
    slicings = find_slicings(context.dataset, split, config.slices, config.slice_values)
    loader = context.evaluation_loader(split, slicings)
    slices = SliceMetrics(slicings, tasks, device, rows=loader.rows, exact_limit=exact_limit) if slicings else None
    batches: Iterable[Batch] = context.ranks.watch.mark_each(loader.epoch(0), "an evaluation")
    if preemption is not None:
        batches = batches_until_stop(batches, preemption, device)
    return evaluate(
        context.model, batches, tasks, device, exact_limit=exact_limit, gate_labels=context.gate_labels, slices=slices
    )


def _finish(metrics: dict[str, Any], run: RunDirectory, config: RunConfig, state: TrainState) -> dict[str, str]:
    """Write metrics and report, print the results of the last split, and return the texts of the files by name."""
    split = config.evaluation.splits[-1]
    # Old results are removed first, so that a process that is killed between two files leaves none beside new ones.
    run.remove(NAMES_OF_RESULTS)
    run.push()
    run.write_json(METRICS, metrics)
    report = _write_report(run)
    log = RunFiles(run.folder).log
    last_report = log.last("train")
    lines = [format_results(metrics, split, dominant_task(last_report) if last_report else None)]
    if warning := warm_start_warning(config.train.best_metric, log, state):
        lines.append(warning)
    losses, stops_early = (log.series(split, "loss") for split in ("train", "valid")), config.early_stopping is not None
    if overfitting := overfitting_warning(*losses, stops_early=stops_early):
        lines.append(overfitting)
    logger.info(
        "\n".join([f"\n{split} split, checkpoint {metrics['checkpoint']}", *lines, f"\nreport: {run / REPORT}"])
    )
    return {METRICS: json.dumps(metrics, indent=1) + "\n", REPORT: report}


def _write_report(run: RunDirectory) -> str:
    # The page imports matplotlib, which takes half a second; only rank 0 needs it.
    from ple_rec.reports.run.page import run_page
    from ple_rec.runs.read import read_run

    page = run_page(read_run(run.address))
    run.write_bytes(REPORT, page.encode("utf-8", "replace"))
    return page
