"""`ple-rec fuse`: search for the exponents that fuse predictions into one score per video (Eq. 1).

The verb parses the flags, reads the run, its predictions and the logged columns of its dataset, and writes the result;
`ple_rec.analysis.fuse` searches. A fusion that the search starts from, or finds, is a `FusionConfig`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch, show
from ple_rec.cli.options import (
    EvaluationOverrideFlags,
    RunName,
    flag,
    last_list,
    non_negative_int,
    positive_float,
    positive_int,
    verb_app,
)
from ple_rec.errors import UserError

if TYPE_CHECKING:
    from ple_rec.analysis.fuse.rows import FusibleRun
    from ple_rec.config.fusion import FusionConfig

app = verb_app(
    "fuse",
    """\
A metric is TASK.gauc, or for the first K places of a list TASK.ndcg@K, TASK.map@K, TASK.hit@K, TASK.mean@K or
TASK.value@K. A list holds the rows of one group (a user or a request). Labels outside of a task's sample space are 0.

TASK.value@K is off-policy: the mean label at the first K places if videos had been shown evenly at random, and not by
the old policy. With --propensity it is the sum of label / propensity over the rows at those places, divided by the sum
of 1 / propensity; with --random, lists hold only rows that were shown at random.

examples:
  ple-rec fuse tencent-ple --target vcr.mean@3
  ple-rec fuse tencent-ple --target vcr.mean@3 --subject-to 'share.mean@3>=0.004' --length video_seconds:log
  ple-rec fuse tencent-ple --target vcr.ndcg@5 --target share.ndcg@5 --exponent comment=0 --calibrate isotonic
  ple-rec fuse tencent-ple --target watch_time.value@3 --value watch_time=vcr*video_seconds --propensity propensity
  ple-rec fuse my-run --target watch_seconds.mean@3 --scale watch_seconds=600

docs/ranking.md explains all of it.
""",
)


@Parameter(name="*")
@dataclass(frozen=True)
class FuseFlags:
    """Flags of `ple-rec fuse`."""

    _: KW_ONLY
    target: Annotated[
        list[str],
        flag(
            "metric to maximise; with several (repeatable), the settings are shown that no other beats in all of them",
            "METRIC",
        ),
    ]
    subject_to: Annotated[list[str], flag("bound of a metric, >= or <= (repeatable)", "METRIC>=X")] = field(
        default_factory=list
    )
    tell: Annotated[list[str], flag("metric to show beside the targets (repeatable)", "METRIC")] = field(
        default_factory=list
    )
    fusion: Annotated[
        Path | None,
        flag(
            "fusion.toml to start from, with its scales, links, calibrations, length and exponents",
            "FILE",
        ),
    ] = None
    tasks: Annotated[
        list[str] | None,
        flag(
            "tasks to fuse; the others get exponent 0; default: all tasks of the run",
            "TASK [TASK ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ] = None
    length: Annotated[
        str | None,
        flag(
            "dense feature of the video's length, and f: identity, log, power, quantiles; default f: log",
            "FEATURE[:F]",
        ),
    ] = None
    exponent: Annotated[
        list[str],
        flag(
            "range of the exponent of a task or of `length`; NAME=X fixes it; default 0:2, length -1:1 (repeatable)",
            "NAME=LOW:HIGH",
        ),
    ] = field(default_factory=list)
    calibrate: Annotated[
        Literal["none", "platt", "isotonic"],
        flag("calibration of probabilities, fitted on the split of the search; default none"),
    ] = "none"
    scale: Annotated[
        list[str] | None,
        flag(
            "scale of a regression in the label's unit, such as 600 for seconds: prediction / VALUE is mapped to a p "
            "in (0, 1]; default 1, or the scale in --fusion (repeatable)",
            "TASK=VALUE",
        ),
    ] = None
    value: Annotated[
        list[str],
        flag(
            "product of a label and a dense feature, such as seconds watched, for metrics of NAME (repeatable)",
            "NAME=TASK*FEATURE",
        ),
    ] = field(default_factory=list)
    by: Annotated[
        str | None,
        flag("column whose rows of one value form a list; default: subgroup of the dataset, else group", "COLUMN"),
    ] = None
    users: Annotated[
        str | None,
        flag(
            "column of the user: intervals resample users with all of their lists; default: the group column", "COLUMN"
        ),
    ] = None
    propensity: Annotated[str | None, flag("probability with which a row was shown, for value@K", "COLUMN")] = None
    random: Annotated[
        str | None, flag("column that is 1 for rows shown evenly at random, to compute value@K on them alone", "COLUMN")
    ] = None
    clip: Annotated[
        float | None, flag("greatest weight in value@K, in units of the mean; default: no limit", "W", positive_float)
    ] = None
    split: Annotated[Literal["valid", "test"], flag("split of the search; default valid")] = "valid"
    told_on: Annotated[Literal["valid", "test"], flag("split of the results; default test")] = "test"
    grid: Annotated[int, flag("number of settings drawn at random first; default 1024", "N", positive_int)] = 1024
    trials: Annotated[int, flag("number of settings that Optuna then proposes; default 256", "N", non_negative_int)] = (
        256
    )
    seed: Annotated[int, flag("seed of the draws and of Optuna; default 0", "N", non_negative_int)] = 0
    out: Annotated[Path | None, flag("directory to write; default: RUN/fusion", "DIR")] = None
    overwrite: Annotated[bool, flag("replace an existing fusion with other options")] = False
    install: Annotated[
        bool, flag("let export and predict use the exponents even if they show no gain over the previous ones")
    ] = False
    json: Annotated[bool, flag("print fusion.json instead of tables")] = False
    overrides: EvaluationOverrideFlags = ()

    def result_options(self) -> dict[str, object]:
        """Return the options on which the result depends, in the form of `fusion.json`."""
        options = asdict(self) | {"overrides": list(self.overrides)}
        return {name: value for name, value in options.items() if name not in ("out", "overwrite", "install", "json")}


@app.default
def fuse(run: RunName, /, *, options: FuseFlags) -> int:
    """Search for the exponents that fuse a run's predictions into one score per video (Eq. 1).

    The score is the product of p^exponent over the tasks, times f(video length)^exponent. Writes fusion.json and
    fusion.html to RUN/fusion. If the exponents show a gain, also writes fusion.toml, which export and predict use.
    """
    require_torch()
    from ple_rec.analysis.fuse.arguments import RowValue, fit_length, parse_length_feature, parse_scales, with_scales
    from ple_rec.analysis.fuse.fuse import FusionLogs, FusionSearch, check_output_folder, initial_fusion, search_fusion
    from ple_rec.analysis.fuse.rows import LogColumns, load_fusible_run, predict_splits, read_log
    from ple_rec.config.load import fingerprint
    from ple_rec.data.dataset import DatasetDirectory
    from ple_rec.ranking.fusion import LENGTH_FACTOR, check_length
    from ple_rec.ranking.losses import FUSION_FILE
    from ple_rec.ranking.metrics import MetricName
    from ple_rec.ranking.search import Constraint, ExponentRange
    from ple_rec.reports.fusion.page import write_fusion
    from ple_rec.reports.fusion.text import format_fusion
    from ple_rec.runs.checkpoints import full_address
    from ple_rec.runs.directory import hold_to_add
    from ple_rec.runs.find import find_run
    from ple_rec.text.messages import print_messages
    from ple_rec.text.plain import json_text

    run_dir = find_run(run)
    finished = load_fusible_run(run_dir, options.overrides)
    fusion = _load_fusion(options.fusion, options, finished) if options.fusion else None
    kinds: dict[str, str] = dict(finished.kinds)  # Kind of each task; those of --value are added below.
    fused_tasks = list(fusion.tasks) if fusion else options.tasks or list(kinds)
    if unknown := [task for task in fused_tasks if task not in kinds]:
        raise UserError("--tasks", f'got "{unknown[0]}"', f"the run has {', '.join(kinds)}", "name tasks of the run")
    # Without --fusion, the search starts from exponent 1 for every task of the run. Tasks that are not fused are in the
    # result with exponent 0, so that the start and the result are compared over the same tasks.
    tasks = fused_tasks if fusion else list(kinds)
    scales = parse_scales(options.scale or [], [task for task in fused_tasks if kinds[task] == "regression"])
    feature = parse_length_feature(options.length) if options.length else None
    if fusion is not None and fusion.length is not None:
        feature = fusion.length.feature
    check_length(fused_tasks, feature is not None, "--length")
    median_length = finished.median(feature) if feature and not fusion else None
    names = [*tasks, *([LENGTH_FACTOR] if feature else [])]
    ranges = {(parsed := ExponentRange.parse(text, names)).name: parsed for text in options.exponent}
    default_ranges = {name: ExponentRange(name, 0.0, 2.0 if name in fused_tasks else 0.0) for name in names}
    if feature:
        default_ranges[LENGTH_FACTOR] = ExponentRange(LENGTH_FACTOR, -1.0, 1.0)
    values = RowValue.parse_all(options.value, kinds, finished.dense)
    kinds |= {value.name: "regression" for value in values}
    targets = [MetricName.parse(text, kinds, "--target") for text in dict.fromkeys(options.target)]
    constraints = [Constraint.parse(text, kinds) for text in options.subject_to]
    also = [MetricName.parse(text, kinds, "--tell") for text in options.tell]
    finished.check_lists(options.by)
    columns = LogColumns(options.by, options.users, options.propensity, options.random, options.clip)
    columns.check(any(m.kind == "value" for m in [*targets, *(c.metric for c in constraints), *also]))
    fusion_dir = run_dir / "fusion"
    out = options.out or fusion_dir
    writes_to_run = full_address(out) == full_address(fusion_dir)
    if options.install and not writes_to_run:
        raise UserError(
            "--install", f"given with --out {out}", f"a run has one fusion, in {fusion_dir}", "leave out one of the two"
        )
    # fusion.json holds these options, so that a later search with other options does not replace it unasked.
    search_record = (
        {"run": finished.config.name} | options.result_options() | {"fusion": fusion and fingerprint(fusion)}
    )
    if not options.overwrite:
        check_output_folder(out, search_record)
    dataset, splits = DatasetDirectory(finished.config.data.path), list(dict.fromkeys([options.split, options.told_on]))
    logs = FusionLogs(
        columns=columns,
        logs={split: read_log(dataset, split, columns) for split in splits},
        features={split: {value: value.read_feature(finished, split) for value in values} for split in splits},
    )
    predictions = predict_splits(finished, splits, feature)
    rows = predictions.rows[options.split]
    if fusion is None:
        length = None
        if options.length is not None and median_length is not None and rows.length_N is not None:
            length = fit_length(options.length, rows.length_N, median_length)
        fusion = initial_fusion(predictions, tasks, length, options.calibrate, rows)
    search = FusionSearch(
        start=with_scales(fusion, scales),
        ranges=[ranges.get(name, default_ranges[name]) for name in names],
        targets=targets,
        constraints=constraints,
        further_metrics=also,
        grid=options.grid,
        trials=options.trials,
        seed=options.seed,
        options=search_record,
    )
    with print_messages("stderr"):
        result = search_fusion(predictions, logs, search, options.split, options.told_on)
    # In the run, fusion.toml is what export and predict use. Without a gain, only fusion.json and the page are written.
    report_only = writes_to_run and not options.install and not result.shows_gain
    result.record["installed"] = writes_to_run and not report_only
    with hold_to_add(run_dir) if writes_to_run else nullcontext():
        page = write_fusion(result.record, out, None if report_only else result.fusion)
    outcome = f"fusion: {out / FUSION_FILE}"
    if report_only:
        fusion_in_use = f"the previous {out / FUSION_FILE}" if (out / FUSION_FILE).exists() else "every exponent 1"
        outcome = (
            f"not installed: no gain is shown, so export and predict go on with {fusion_in_use}. "
            "Fix: pass --install to use these exponents all the same"
        )
    if options.json:
        show(json_text(result.record))
        if report_only:
            log(outcome)
    else:
        show(f"{format_fusion(result.record)}\n\n{outcome}\npage: {page}")
    return 0


def _load_fusion(file: Path, options: FuseFlags, run: FusibleRun) -> FusionConfig:
    """Return the fusion in the file of `--fusion`, after a check that it fits the run and the other flags.

    Raises:
        UserError: Another flag excludes the file, there is no such file, or its fusion is wrong or unfit for the run.
    """
    from ple_rec.config.fusion import FusionConfig
    from ple_rec.config.load import load_config
    from ple_rec.ranking.fusion import check_fusion

    if conflicts := [flag for flag in ("tasks", "length") if getattr(options, flag)] + ["calibrate"] * (
        options.calibrate != "none"
    ):
        rule = "a file of --fusion has tasks, length and calibrations of its own"
        raise UserError(f"--{conflicts[0]}", "given beside --fusion", rule, "change the file, or leave --fusion out")
    if not file.is_file():
        raise UserError(
            "--fusion", f"{file} is no file", "it must be a fusion.toml", "give one that `fuse` has written"
        )
    fusion = load_config(FusionConfig, file)
    check_fusion(fusion, run.kinds, dict.fromkeys(run.dense), str(file))
    return fusion
