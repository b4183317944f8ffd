"""`ple-rec fuse`: from predictions to a ranked feed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch, show
from ple_rec.cli.options import EvaluationSet, Run, above_zero, count, flag, last_list, positive, verb
from ple_rec.errors import UserError

if TYPE_CHECKING:
    from ple_rec.analysis.fuse.rows import Fusible
    from ple_rec.config.fusion import FusionConfig

app = verb(
    "fuse",
    """\
A metric is TASK.gauc, or of the first K places TASK.ndcg@K, TASK.map@K, TASK.hit@K, TASK.mean@K or TASK.value@K, in
lists of one group (users or requests) each. Labels outside of a task's sample space count as 0.

TASK.value@K is off-policy: the label of a video that is drawn evenly from all that could be shown, and not as the old
policy did, and is put among the first K of its list by the fusion. With --propensity it is the sum of label /
propensity over the rows at those places, by that of 1 / propensity; with --random, lists hold rows exposed at random.

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
class Options:
    """Flags of `ple-rec fuse`."""

    _: KW_ONLY
    target: Annotated[
        list[str],
        flag(
            "metric to maximise; of several (repeatable), the settings that no other beats in all of them are shown",
            "METRIC",
        ),
    ]
    subject_to: Annotated[list[str], flag("bound that the fusion has to keep, >= or <= (repeatable)", "METRIC>=X")] = (
        field(default_factory=list)
    )
    tell: Annotated[list[str], flag("metric to show beside the targets (repeatable)", "METRIC")] = field(
        default_factory=list
    )
    fusion: Annotated[
        Path | None,
        flag(
            "a fusion.toml to start from: its scales, links, calibrations, length, and exponents in the place of 1",
            "FILE",
        ),
    ] = None
    tasks: Annotated[
        list[str] | None,
        flag(
            "tasks that are fused, the others have exponent 0; default: all of the run",
            "TASK [TASK ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ] = None
    length: Annotated[
        str | None,
        flag(
            "dense feature that holds the video's length, and f: identity, log, power, quantiles; default f: log",
            "FEATURE[:F]",
        ),
    ] = None
    exponent: Annotated[
        list[str],
        flag(
            "range of a task's exponent, or of `length`; NAME=X holds it; default 0:2, of length -1:1 (repeatable)",
            "NAME=LOW:HIGH",
        ),
    ] = field(default_factory=list)
    calibrate: Annotated[
        Literal["none", "platt", "isotonic"],
        flag("make probabilities frequencies first, fitted on the split of the search; default none"),
    ] = "none"
    scale: Annotated[
        list[str] | None,
        flag(
            "scale of a regression, in the label's unit, such as 600 of seconds: prediction / VALUE is what "
            "becomes a p in (0, 1]; default 1, or that of --fusion (repeatable)",
            "TASK=VALUE",
        ),
    ] = None
    value: Annotated[
        list[str],
        flag(
            "a label times a dense feature, such as seconds watched; metrics name it as a task (repeatable)",
            "NAME=TASK*FEATURE",
        ),
    ] = field(default_factory=list)
    by: Annotated[
        str | None, flag("column whose rows of one value form a list; default: the dataset's group column", "COLUMN")
    ] = None
    users: Annotated[
        str | None,
        flag("user of a list: intervals resample users with all of their lists; default: the group column", "COLUMN"),
    ] = None
    propensity: Annotated[str | None, flag("probability with which a row was shown, for value@K", "COLUMN")] = None
    random: Annotated[
        str | None, flag("value@K on the rows alone where this is 1: exposed at random, alike", "COLUMN")
    ] = None
    clip: Annotated[
        float | None, flag("greatest weight of value@K, in units of the mean; default: none", "W", above_zero)
    ] = None
    split: Annotated[Literal["valid", "test"], flag("split of the search; default valid")] = "valid"
    told_on: Annotated[Literal["valid", "test"], flag("split of the results; default test")] = "test"
    grid: Annotated[int, flag("settings drawn at random first; default 1024", "N", positive)] = 1024
    trials: Annotated[int, flag("settings that Optuna then proposes; default 256, 0: none", "N", count)] = 256
    seed: Annotated[int, flag("seed of the draws and of Optuna; default 0", "N", count)] = 0
    out: Annotated[Path | None, flag("default: RUN/fusion", "DIR")] = None
    overwrite: Annotated[bool, flag("replace the fusion of other options that is there")] = False
    install: Annotated[
        bool, flag("let export and predict take the exponents, also where no gain over those before is shown")
    ] = False
    json: Annotated[bool, flag("print fusion.json instead of tables")] = False
    overrides: EvaluationSet = ()

    def of_result(self) -> dict[str, object]:
        """Return what changes the result, as `fusion.json` keeps it."""
        options = asdict(self) | {"overrides": list(self.overrides)}
        return {name: value for name, value in options.items() if name not in ("out", "overwrite", "install", "json")}


@app.default
def fuse(run: Run, /, *, options: Options) -> int:
    """Search for the exponents by which a trained run's predictions become one score per video (Eq. 1).

    The score is the product of p^exponent over the tasks, times f(video length)^exponent. Writes fusion.json and
    fusion.html to RUN/fusion; and fusion.toml, which export and predict take, if a gain is shown.
    """
    require_torch()
    from ple_rec.analysis.fuse.arguments import Valued, feature_of, length_of, scales_of, with_scales
    from ple_rec.analysis.fuse.fuse import Asked, Logged, check_out, fused, start_of, write_fusion
    from ple_rec.analysis.fuse.rows import LogColumns, fusible, predicted, read_log
    from ple_rec.analysis.fuse.text import format_fusion, shows_gain
    from ple_rec.config.load import fingerprint
    from ple_rec.data.dataset import Dataset
    from ple_rec.ranking.fusion import LENGTH, check_length
    from ple_rec.ranking.losses import FUSION_FILE
    from ple_rec.ranking.metrics import Measured
    from ple_rec.ranking.search import Constraint, Range
    from ple_rec.runs.checkpoints import identity
    from ple_rec.runs.directory import hold_to_add
    from ple_rec.runs.find import named_run
    from ple_rec.text.messages import messages
    from ple_rec.text.plain import json_text

    run_dir = named_run(run)
    finished = fusible(run_dir, options.overrides)
    fusion = _fusion(options.fusion, options, finished) if options.fusion else None
    kinds: dict[str, str] = dict(finished.kinds)
    named = list(fusion.tasks) if fusion else options.tasks or list(kinds)
    if unknown := [task for task in named if task not in kinds]:
        raise UserError("--tasks", f'got "{unknown[0]}"', f"the run has {', '.join(kinds)}", "name tasks of the run")
    # A task that is not named has exponent 1 before the fusion, as export and predict have it, and 0 in it.
    tasks = named if fusion else list(kinds)
    scales = scales_of(options.scale or [], [task for task in named if kinds[task] == "regression"])
    feature = feature_of(options.length) if options.length else None
    if fusion is not None and fusion.length is not None:
        feature = fusion.length.feature
    check_length(named, feature is not None, "--length")
    missing = finished.median(feature) if feature and not fusion else None
    names = [*tasks, *([LENGTH] if feature else [])]
    ranges = {(parsed := Range.parse(text, names)).name: parsed for text in options.exponent}
    default = {name: Range(name, 0.0, 2.0 if name in named else 0.0) for name in names}
    if feature:
        default[LENGTH] = Range(LENGTH, -1.0, 1.0)
    valued = Valued.parse_all(options.value, kinds, finished.dense)
    kinds |= {each.name: "regression" for each in valued}
    targets = [Measured.parse(text, kinds, "--target") for text in dict.fromkeys(options.target)]
    constraints = [Constraint.parse(text, kinds) for text in options.subject_to]
    also = [Measured.parse(text, kinds, "--tell") for text in options.tell]
    finished.check_lists(options.by)
    columns = LogColumns(options.by, options.users, options.propensity, options.random, options.clip)
    columns.check(any(m.kind == "value" for m in [*targets, *(c.measured for c in constraints), *also]))
    own = run_dir / "fusion"
    out = options.out or own
    is_own = identity(out) == identity(own)
    if options.install and not is_own:
        raise UserError(
            "--install", f"given with --out {out}", f"a run has one fusion, in {own}", "leave out one of the two"
        )
    record = {"run": finished.config.name} | options.of_result() | {"fusion": fusion and fingerprint(fusion)}
    if not options.overwrite:
        check_out(out, record)
    dataset, splits = Dataset(finished.config.data.path), list(dict.fromkeys([options.split, options.told_on]))
    logged = Logged(
        columns=columns,
        logs={split: read_log(dataset, split, columns) for split in splits},
        factors={split: {each: each.factor(finished, split) for each in valued} for split in splits},
    )
    predictions = predicted(finished, splits, feature)
    rows = predictions.rows[options.split]
    if fusion is None:
        length = None
        if options.length is not None and missing is not None and rows.length_N is not None:
            length = length_of(options.length, rows.length_N, missing)
        fusion = start_of(predictions, tasks, length, options.calibrate, rows)
    search = Asked(
        start=with_scales(fusion, scales),
        ranges=[ranges.get(name, default[name]) for name in names],
        targets=targets,
        constraints=constraints,
        also=also,
        grid=options.grid,
        trials=options.trials,
        seed=options.seed,
        options=record,
    )
    with messages("stderr"):
        done = fused(predictions, logged, search, options.split, options.told_on)
    report_only = is_own and not options.install and not shows_gain(done.record)
    done.record["installed"] = is_own and not report_only
    with hold_to_add(run_dir) if is_own else nullcontext():
        page = write_fusion(out, done, report_only=report_only)
    outcome = f"fusion: {out / FUSION_FILE}"
    if report_only:
        before = f"{out / FUSION_FILE} of before" if (out / FUSION_FILE).exists() else "every exponent 1"
        outcome = (
            f"not installed: no gain is shown, so export and predict go on with {before}. "
            "Fix: pass --install to use these exponents all the same"
        )
    if options.json:
        show(json_text(done.record))
        if report_only:
            log(outcome)
    else:
        show(f"{format_fusion(done.record)}\n\n{outcome}\npage: {page}")
    return 0


def _fusion(file: Path, options: Options, run: Fusible) -> FusionConfig:
    """Return the fusion of `--fusion`, which fits the run."""
    from ple_rec.config.fusion import FusionConfig
    from ple_rec.config.load import load_config
    from ple_rec.ranking.fusion import check_fusion

    if beside := [flag for flag in ("tasks", "length") if getattr(options, flag)] + ["calibrate"] * (
        options.calibrate != "none"
    ):
        rule = "a file of --fusion has tasks, length and calibrations of its own"
        raise UserError(f"--{beside[0]}", "given beside --fusion", rule, "change the file, or leave --fusion out")
    if not file.is_file():
        raise UserError("--fusion", f"{file} is no file", "it is a fusion.toml", "give one that `fuse` has written")
    fusion = load_config(FusionConfig, file)
    check_fusion(fusion, run.kinds, dict.fromkeys(run.dense), str(file))
    return fusion
