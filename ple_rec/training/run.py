"""Training of a run from its configuration to its report, and evaluation of a trained run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from ple_rec.checkpoint.load import damage_of
from ple_rec.config.base import Split
from ple_rec.config.load import dump_toml
from ple_rec.config.plan import column_wise_remarks, dump_plan, load_plan, plan_or_none
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.plan_check import SavedPlan
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import DivergedError, Option, PreemptedError, UserError
from ple_rec.runs.checkpoints import directories_of, prepare_directory
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CONFIG, INIT, METRICS, OF_RESULTS, PLAN, REPORT
from ple_rec.runs.overfitting import overfitting_warning
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import format_results
from ple_rec.runs.state import Resume
from ple_rec.runs.warnings import dominant_task
from ple_rec.storage import Location
from ple_rec.training.claim import claim_run
from ple_rec.training.context import EvaluationContext, TrainContext, build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.last_checkpoint import with_recorded_threads
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
from ple_rec.training.trained import load_checkpoint, open_trained_run
from ple_rec.training.validation import no_better_than_start, until_stop
from ple_rec.training.warm_start import Start

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
    prepared: PreparedRun | None = None,
) -> dict[str, Any]:
    """Train a run, evaluate its best checkpoint on the splits of `evaluation`, and write metrics and report.

    Every rank of the launcher's process group calls this function; without a launcher there is a single rank.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run, for example `runs/census`.
        resume: True to resume from the latest checkpoint of the directory. "auto" to resume a run if the directory has
            one, to begin if it has none, and to do nothing if the run has finished.
        overwrite: True to replace the run of the directory.
        init_from: Directory of a finished run and its checkpoint (`best`, `latest` or `step-<n>`), whose weights and
            optimizer state the run starts from. That run was trained on this dataset or on an ancestor of it.
        plan: File `plan.json` with the plan of the tables; None for the plan of a resumed run, or for a new plan.
        profile: True to time and trace some of the first steps, into `profile/`. With `resume="auto"`, a run with too
            few steps left is trained without a profile.
        extra_metrics: Function called on every rank at each evaluation during training, which reads the weights and
            does not change them. Its result joins the evaluation's record of `train.jsonl`.
        prepared: The run as `preflight.check` has prepared it for this process; None to prepare it now.

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
        prepare = cache(lambda: prepare_run(config, ranks.world_size) if prepared is None else prepared)
        claiming = claim_run(config, run_dir, prepare, resume=resume, overwrite=overwrite, init_from=init_from)
        run, claim = stack.enter_context(claiming)
        resuming, start = claim.resuming, claim.start
        if claim.action == "finished":
            metrics = dict(RunFiles(run_dir).metrics)
            if ranks.is_main:
                logger.info(f"{run_dir}: has finished, step {metrics['steps']:,}: nothing is left to do")
            return metrics
        check_storage(directories_of(config, run_dir), config.data.path, ranks)
        given_plan = _plan_to_follow(plan, run_dir, resuming=resuming)
        ranks = with_recorded_threads(config, claim.written_by, ranks)
        context = build_context(config, ranks, given_plan, saved_precision(claim.written_by), prepare())
        # Refusals come before `_write_head`, which removes or replaces files of the earlier run.
        if (newest := claim.newest) is not None:
            run_on_rank_zero(lambda: check_resumable(context, run_dir, newest))
        elif overwrite and start is not None and (damage := damage_of(start.path)) is not None:
            raise damage
        run_on_rank_zero(lambda: _write_head(context, run, start, resuming=resuming))
        preemption = Preemption(config.checkpoint.grace_seconds)
        with open_loggers(context.config, run, resume=resuming) as loggers, preemption:
            if ranks.is_main:
                logger.info(f"{_introduction(context, run_dir)}\n{loggers.describe()}")
                if given_plan is not None and context.plan != given_plan.plan:
                    logger.info(f"{given_plan.place} does not fit these ranks any more: planned anew")
            step_profile = StepProfile(context, run, logger.info, strict=not auto) if profile else NO_PROFILE
            with _report_of_divergence(run):
                state = train_steps(
                    context,
                    run,
                    resume=resuming,
                    loggers=loggers,
                    start=start,
                    profile=step_profile,
                    extra_metrics=extra_metrics,
                    preemption=preemption,
                )
            metrics = _evaluate_splits(context, run_dir, "best", config.evaluation.splits, preemption)
            metrics["table_health"] = table_health(context, start)
            metrics |= summary(context, state) | ({} if start is None else {"init_from": vars(start)})
            loggers.finish(metrics, run_on_rank_zero(lambda: _finish(metrics, run, config, state)) or {})
        return metrics


def evaluate_run(
    run_dir: Location, *, splits: Sequence[Split], checkpoint: str, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run.

    Args:
        run_dir: Directory of the run.
        splits: Splits to evaluate.
        checkpoint: `best`, `latest` or `step-<n>`.
        overrides: Overrides of keys that an evaluation may change, for example `data.path=DIRECTORY`.

    Raises:
        UserError: There is no such run or checkpoint, or the dataset is not that of the run.
    """
    config, dataset = check_evaluation(run_dir, splits, checkpoint, overrides)
    with open_trained_run(config, run_dir, checkpoint, dataset) as context:
        return _evaluate_splits(context, run_dir, checkpoint, splits)


def _plan_to_follow(plan: Location | None, run_dir: Location, *, resuming: bool) -> SavedPlan | None:
    """Return, on rank 0, the plan of the user or else that of a resumed run (a collective).

    The run's plan is ignored if another version of this program wrote it.
    """

    def read() -> SavedPlan | None:
        if plan is not None:
            return SavedPlan(load_plan(plan), str(plan), strict=True)
        own = plan_or_none(run_dir / PLAN) if resuming else None
        return None if own is None else SavedPlan(own, str(run_dir / PLAN), strict=False)

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
        # The other ranks wait for rank 0, because the first rank that exits ends them all.
        run_on_rank_zero(report)
        raise


def _write_head(context: TrainContext, run: RunDirectory, start: Start | None, *, resuming: bool) -> None:
    prepare_directory(context.config, run, resuming=resuming)
    # A run that is killed before its first checkpoint reads its start from this file, so the file is written first.
    if start is not None:
        run.write_json(INIT, vars(start))
    run.write_text(CONFIG, dump_toml(context.config))
    run.write_text(PLAN, dump_plan(context.plan))


def _introduction(context: TrainContext, run_dir: Location) -> str:
    ranks, tables = context.ranks, context.plan.tables
    rows = sum(table.rows for table in tables)
    known = len(context.dataset.schema.tasks)
    of_dataset = f" of {known}" if len(context.tasks) < known else ""
    return (
        f"{context.config.name}: {context.config.model.variant}, {len(context.tasks)}{of_dataset} task(s), "
        f"{context.bare.dense_parameters():,} dense parameters, {len(tables)} table(s) of {rows:,} rows, "
        f"{context.bare.flops_per_sample():,} FLOPs/sample\n"
        f"{ranks.world_size} rank(s) on {ranks.device.type}, {ranks.threads} thread(s) each, global batch "
        f"{context.batch_size:,}, {context.loader.rows:,} training samples, {context.total_steps:,} steps -> {run_dir}"
        + (f"\n{precision}" if (precision := context.precision.describe()) else "")
        + "".join(f"\n{remark}" for remark in column_wise_remarks(context.plan))
        + _patience_warning(context)
    )


def _patience_warning(context: TrainContext) -> str:
    """Return a warning if early stopping is configured and cannot happen; else an empty text."""
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
    results: dict[str, Any] = {"checkpoint": load_checkpoint(context, run_dir, checkpoint).name}
    try:
        for split in splits:
            results[split] = _evaluate_split(context, split, preemption)
    except StopRequested:
        rule, fix = "training is done and saved", f"run it again with {Option.RESUME} for the results"
        raise PreemptedError(str(run_dir), "asked to stop in the last evaluation", rule, fix) from None
    paper = paper_figures(context.dataset.schema.name, [task.name for task in context.tasks])
    return results | ({"paper": paper} if paper else {})


def _evaluate_split(context: EvaluationContext, split: Split, preemption: Preemption | None = None) -> dict[str, Any]:
    config, exact = context.config.evaluation, context.config.train.exact_auc_limit
    tasks, device = context.selection.tasks, context.ranks.device
    slicings = find_slicings(context.dataset, split, config.slices, config.slice_values)
    loader = context.evaluation_loader(split, slicings)
    slices = SliceMetrics(slicings, tasks, device, rows=loader.rows, exact_limit=exact) if slicings else None
    batches: Iterable[Batch] = context.ranks.watch.each(loader.epoch(0), "an evaluation")
    if preemption is not None:
        batches = until_stop(batches, preemption, device)
    return evaluate(
        context.model, batches, tasks, device, exact_limit=exact, gate_labels=context.gate_labels, slices=slices
    )


def _finish(metrics: dict[str, Any], run: RunDirectory, config: RunConfig, state: TrainState) -> dict[str, str]:
    """Write metrics and report, print the results of the last split, and return the texts of the files by name."""
    split = config.evaluation.splits[-1]
    # A process that is killed between two files must not leave old results beside new ones.
    run.remove(OF_RESULTS)
    run.push()
    run.write_json(METRICS, metrics)
    report = _write_report(run)
    log = RunFiles(run.folder).log
    last = log.last("train")
    lines = [format_results(metrics, split, dominant_task(last) if last else None)]
    if warning := no_better_than_start(config.train.best_metric, log, state):
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
