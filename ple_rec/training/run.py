"""A training run from configuration to report, and the evaluation of a finished one."""

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
from ple_rec.config.plan import column_wise_remarks, dump_plan, load_plan, own_plan
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.plan_check import GivenPlan
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import DivergedError, Option, PreemptedError, UserError
from ple_rec.runs.checkpoints import directories_of, take_over
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CONFIG, INIT, LOG, METRICS, OF_RESULTS, PLAN, REPORT
from ple_rec.runs.overfitting import overfitting_warning
from ple_rec.runs.read import RunLog
from ple_rec.runs.results import format_results
from ple_rec.runs.state import Resume
from ple_rec.runs.warnings import dominant_task
from ple_rec.storage import Location
from ple_rec.training.claim import claim_run
from ple_rec.training.context import EvaluationJob, TrainContext, build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.last_checkpoint import with_recorded_threads
from ple_rec.training.loggers import open_loggers
from ple_rec.training.loop import ExtraMetrics, train_steps
from ple_rec.training.precision import saved_precision
from ple_rec.training.preemption import Preemption, StopRequested
from ple_rec.training.preflight import check_evaluation
from ple_rec.training.prepared import PreparedRun, prepare_run
from ple_rec.training.profiler.session import UNPROFILED, StepProfile
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
    """Train, evaluate the best checkpoint on the splits of `evaluation`, write metrics and report.

    Every rank of the launcher's process group calls it; without a launcher it runs as a single rank.

    Args:
        config: The run.
        run_dir: `runs/<name>`.
        resume: Go on from the latest checkpoint of the run directory. "auto": where a run has begun there, else begin;
            nothing is done where it has finished.
        overwrite: Replace the run that is there.
        init_from: Directory of a finished run, and `best`, `latest` or `step-<n>`: start from that checkpoint's weights
            and optimizer state. It was trained on this dataset or on an ancestor of it.
        plan: `plan.json` that the tables are sharded by; None: of `ple-rec plan` as of now, or, where the run goes on,
            its own.
        profile: Find where the time of a step goes: time and trace some of the first steps, into `profile/`. Where
            "auto" goes on with a run, too few steps that are left are no error.
        extra_metrics: Function called on every rank at each evaluation during training, with the weights of that
            moment, which it leaves as they are. Its result joins the evaluation's record of `train.jsonl`.
        prepared: The run as `preflight.check` has prepared it for this process; None to prepare it now.

    Returns:
        What `metrics.json` holds.

    Raises:
        UserError, DataError, DivergedError: see each.
    """
    auto = resume == "auto"
    with process_group(config.runtime) as ranks, ExitStack() as stack:
        prepare = cache(lambda: prepare_run(config, ranks.world_size) if prepared is None else prepared)
        claiming = claim_run(config, run_dir, prepare, resume=resume, overwrite=overwrite, init_from=init_from)
        run, claim = stack.enter_context(claiming)
        resuming, start = claim.resuming, claim.start
        if claim.action == "finished":
            metrics: dict[str, Any] = json.loads((run_dir / METRICS).read_text(encoding="utf-8"))
            if ranks.is_main:
                logger.info(f"{run_dir}: has finished, step {metrics['steps']:,}: nothing is left to do")
            return metrics
        check_storage(directories_of(config, run_dir), config.data.path, ranks)
        given = _plan_to_follow(plan, run_dir, resuming=resuming)
        ranks = with_recorded_threads(config, claim.written_by, ranks)
        job = build_context(config, ranks, given, saved_precision(claim.written_by), prepare())
        if (newest := claim.newest) is not None:  # before the plan and the configuration of the run are written anew
            run_on_rank_zero(lambda: check_resumable(job, run_dir, newest))
        elif overwrite and start is not None and (damage := damage_of(start.path)) is not None:
            raise damage  # before the earlier run is removed
        run_on_rank_zero(lambda: _write_head(job, run, start, resuming=resuming))
        preemption = Preemption(config.checkpoint.grace_seconds)
        with open_loggers(job.config, run, resume=resuming) as loggers, preemption:
            if ranks.is_main:
                logger.info(f"{_introduction(job, run_dir)}\n{loggers.describe()}")
                if given is not None and job.plan != given.plan:
                    logger.info(f"{given.place} does not fit these ranks any more: planned anew")
            told = StepProfile(job, run, logger.info, strict=not auto) if profile else UNPROFILED
            with _report_of_divergence(run):
                position = train_steps(
                    job,
                    run,
                    resume=resuming,
                    loggers=loggers,
                    start=start,
                    profile=told,
                    extra_metrics=extra_metrics,
                    preemption=preemption,
                )
            metrics = _evaluate_splits(job, run_dir, "best", config.evaluation.splits, preemption)
            metrics["table_health"] = table_health(job, start)
            metrics |= summary(job, position) | ({} if start is None else {"init_from": vars(start)})
            loggers.finish(metrics, run_on_rank_zero(lambda: _finish(metrics, run, config, position)) or {})
        return metrics


def evaluate_run(
    run_dir: Location, *, splits: Sequence[Split], checkpoint: str, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run.

    Args:
        run_dir: Directory of the run.
        splits: Which to evaluate.
        checkpoint: `best`, `latest` or `step-<n>`.
        overrides: `a.b=c`, for example `data.path=...` to evaluate another dataset directory.

    Raises:
        UserError: as `check_evaluation`.
    """
    config = check_evaluation(run_dir, splits, checkpoint, overrides)
    with open_trained_run(config, run_dir, checkpoint) as job:
        return _evaluate_splits(job, run_dir, checkpoint, splits)


def _plan_to_follow(plan: Location | None, run_dir: Location, *, resuming: bool) -> GivenPlan | None:
    """Return the plan that is named, or else that of the run that is resumed, on rank 0 (a collective).

    A plan of the run that was written by another version of this program is left alone.
    """

    def read() -> GivenPlan | None:
        if plan is not None:
            return GivenPlan(load_plan(plan), str(plan), insist=True)
        own = own_plan(run_dir / PLAN) if resuming else None
        return None if own is None else GivenPlan(own, str(run_dir / PLAN), insist=False)

    return run_on_rank_zero(read)


@contextmanager
def _report_of_divergence(run: RunDirectory) -> Iterator[None]:
    """Write the report of a run that diverges in the block, which every rank finds at the same step."""

    def report() -> None:
        with suppress(UserError):  # what went wrong first is what is said
            run.push()
            _write_report(run)
            logger.info(f"report: {run / REPORT}")

    try:
        yield
    except DivergedError:
        run_on_rank_zero(report)  # the others wait: the first rank to end ends them all
        raise


def _write_head(job: TrainContext, run: RunDirectory, start: Start | None, *, resuming: bool) -> None:
    take_over(job.config, run, resuming=resuming)
    if start is not None:  # first: a run that was killed before its first checkpoint starts from there again
        run.write_json(INIT, vars(start))
    run.write_text(CONFIG, dump_toml(job.config))
    run.write_text(PLAN, dump_plan(job.plan))


def _introduction(job: TrainContext, run_dir: Location) -> str:
    ranks, tables = job.ranks, job.plan.tables
    rows = sum(table.rows for table in tables)
    known = len(job.dataset.schema.tasks)
    of_dataset = f" of {known}" if len(job.tasks) < known else ""
    return (
        f"{job.config.name}: {job.config.model.variant}, {len(job.tasks)}{of_dataset} task(s), "
        f"{job.bare.dense_parameters():,} dense parameters, {len(tables)} table(s) of {rows:,} rows, "
        f"{job.bare.flops_per_sample():,} FLOPs/sample\n"
        f"{ranks.world_size} rank(s) on {ranks.device.type}, {ranks.threads} thread(s) each, global batch "
        f"{job.batch_size:,}, {job.loader.rows:,} training samples, {job.total_steps:,} steps -> {run_dir}"
        + (f"\n{precision}" if (precision := job.precision.describe()) else "")
        + "".join(f"\n{remark}" for remark in column_wise_remarks(job.plan))
        + _never_early(job)
    )


def _never_early(job: TrainContext) -> str:
    """A warning where early stopping is asked for and cannot happen."""
    early = job.config.early_stopping
    evaluations = -(-job.total_steps // (job.config.train.evaluate_every or job.loader.steps))
    if early is None or early.patience < evaluations:
        return ""
    return (
        f"\nearly_stopping.patience = {early.patience} is never reached: the run has {evaluations} evaluation(s); "
        "lower it, or evaluate more often (train.evaluate_every)"
    )


def _evaluate_splits(
    job: EvaluationJob,
    run_dir: Location,
    checkpoint: str,
    splits: Sequence[Split],
    preemption: Preemption | None = None,
) -> dict[str, Any]:
    results: dict[str, Any] = {"checkpoint": load_checkpoint(job, run_dir, checkpoint).name}
    try:
        for split in splits:
            results[split] = _evaluate_split(job, split, preemption)
    except StopRequested:
        kept, fix = "training is done and saved", f"run it again with {Option.RESUME} for the results"
        raise PreemptedError(str(run_dir), "asked to stop in the last evaluation", kept, fix) from None
    paper = paper_figures(job.dataset.schema.name, [task.name for task in job.tasks])
    return results | ({"paper": paper} if paper else {})


def _evaluate_split(job: EvaluationJob, split: Split, preemption: Preemption | None = None) -> dict[str, Any]:
    wanted, exact = job.config.evaluation, job.config.train.exact_auc_limit
    tasks, device = job.selection.tasks, job.ranks.device
    slicings = find_slicings(job.dataset, split, wanted.slices, wanted.slice_values)
    loader = job.evaluation_loader(split, slicings)
    slices = SliceMetrics(slicings, tasks, device, rows=loader.rows, exact_limit=exact) if slicings else None
    batches: Iterable[Batch] = job.ranks.watch.each(loader.epoch(0), "an evaluation")
    if preemption is not None:
        batches = until_stop(batches, preemption, device)
    return evaluate(job.model, batches, tasks, device, exact_limit=exact, legends=job.legends, slices=slices)


def _finish(metrics: dict[str, Any], run: RunDirectory, config: RunConfig, position: TrainState) -> dict[str, str]:
    """Write the results, print those of the last split; return the files that hold them, content by name."""
    split = config.evaluation.splits[-1]
    run.remove(OF_RESULTS)  # They are stale, and results without a report are made again.
    run.push()
    run.write_json(METRICS, metrics)
    report = _write_report(run)
    records = [json.loads(line) for line in (run.folder / LOG).read_text(encoding="utf-8").splitlines()]
    last = next((record for record in reversed(records) if record["split"] == "train"), None)
    told = [format_results(metrics, split, None if last is None else dominant_task(last))]
    if warning := no_better_than_start(config.train.best_metric, records, position):
        told.append(warning)
    log = RunLog()
    for record in records:
        log.add(record)
    losses, stops_early = (log.series(split, "loss") for split in ("train", "valid")), config.early_stopping is not None
    if overfits := overfitting_warning(*losses, stops_early=stops_early):
        told.append(overfits)
    logger.info("\n".join([f"\n{split} split, checkpoint {metrics['checkpoint']}", *told, f"\nreport: {run / REPORT}"]))
    return {METRICS: json.dumps(metrics, indent=1) + "\n", REPORT: report}


def _write_report(run: RunDirectory) -> str:
    from ple_rec.reports.run.page import run_page  # matplotlib: half a second that no other rank has to pay
    from ple_rec.runs.read import read_run

    page = run_page(read_run(run.address))
    run.write_bytes(REPORT, page.encode("utf-8", "replace"))
    return page
