"""The verbs from predictions to a ranked feed: what `fuse` calls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ple_rec.cli_words import above_zero, add_set, count, positive
from ple_rec.errors import UserError

if TYPE_CHECKING:
    from ple_rec.analysis.fuse.rows import Fusible
    from ple_rec.config.fusion import FusionConfig

_NO_OPTIONS = ("verb", "verbs", "argv", "out", "overwrite", "json")  # of `args`: they change no result
_EPILOG = """\
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
"""


def add_fuse(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec fuse`."""
    verb.description = (
        "Search for the exponents by which a trained run's predictions become one score per video (Eq. 1):\n"
        "the product of p^exponent over the tasks, times f(video length)^exponent. Writes fusion.toml, fusion.json\n"
        "and fusion.html to RUN/fusion."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("run", metavar="RUN", help="run directory, or its name under runs/")
    verb.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="METRIC",
        help="to be made greatest; of several, the settings that no other beats in all of them are told",
    )
    verb.add_argument(
        "--subject-to", action="append", default=[], metavar="METRIC>=X", help="or <=: what has to be kept (repeatable)"
    )
    verb.add_argument("--tell", action="append", default=[], metavar="METRIC", help="also told of (repeatable)")
    verb.add_argument(
        "--fusion",
        type=Path,
        metavar="FILE",
        help="a fusion.toml to start from: its scales, links, calibrations, length, and exponents in the place of 1",
    )
    verb.add_argument("--tasks", nargs="+", metavar="TASK", help="that are fused; default: all of the run")
    verb.add_argument(
        "--length",
        metavar="FEATURE[:F]",
        help="dense feature that holds the video's length, and f: identity, log, power, quantiles; default f: log",
    )
    verb.add_argument(
        "--exponent",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH",
        help="range of a task's exponent, or of `length`; NAME=X holds it; default 0:2, of length -1:1 (repeatable)",
    )
    verb.add_argument(
        "--calibrate",
        choices=["none", "platt", "isotonic"],
        default="none",
        help="make probabilities frequencies first, fitted on the split of the search; default none",
    )
    verb.add_argument(
        "--scale",
        action="append",
        metavar="TASK=VALUE",
        help="scale of a regression, in the label's unit, such as 600 of seconds: prediction / VALUE is what becomes a "
        "p in (0, 1]; default 1, or that of --fusion (repeatable)",
    )
    _add_log(verb)
    verb.add_argument("--split", choices=["valid", "test"], default="valid", help="of the search; default valid")
    verb.add_argument("--told-on", choices=["valid", "test"], default="test", help="of the results; default test")
    verb.add_argument("--grid", type=positive, default=1024, metavar="N", help="settings at random; default 1024")
    verb.add_argument(
        "--trials", type=count, default=256, metavar="N", help="then asked of Optuna; default 256, 0: none"
    )
    verb.add_argument("--seed", type=count, default=0, metavar="N", help="of both; default 0")
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/fusion")
    verb.add_argument("--overwrite", action="store_true", help="replace the fusion of other options that is there")
    verb.add_argument("--json", action="store_true", help="print fusion.json instead of tables")
    add_set(verb, "override a configuration key that an evaluation may change, e.g. data.path=... (repeatable)")


def _add_log(verb: argparse.ArgumentParser) -> None:
    """Columns of the dataset's parts."""
    verb.add_argument(
        "--value",
        action="append",
        default=[],
        metavar="NAME=TASK*FEATURE",
        help="a label times a dense feature, such as seconds watched; metrics name it as a task (repeatable)",
    )
    verb.add_argument(
        "--by", metavar="COLUMN", help="rows of one value are a list; default: the dataset's group column"
    )
    verb.add_argument(
        "--users",
        metavar="COLUMN",
        help="whose a list is: intervals resample users with all of their lists; default: the group column",
    )
    verb.add_argument("--propensity", metavar="COLUMN", help="probability with which a row was shown, for value@K")
    verb.add_argument(
        "--random", metavar="COLUMN", help="value@K on the rows alone where this is 1: exposed at random, alike"
    )
    verb.add_argument(
        "--clip", type=above_zero, metavar="W", help="greatest weight of value@K, in units of the mean; default: none"
    )


def fuse(args: argparse.Namespace) -> str:
    """Run the verb; what it prints.

    Raises:
        UserError: there is no finished run, or what is asked does not fit it.
        DataError: a damaged checkpoint or dataset.
    """
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.fuse.fuse import Asked, Logged, fused, start_of
    from ple_rec.analysis.fuse.length import feature_of, length_of
    from ple_rec.analysis.fuse.logged import LogColumns, read_log
    from ple_rec.analysis.fuse.output import check_out, write_fusion
    from ple_rec.analysis.fuse.rows import fusible, predicted
    from ple_rec.analysis.fuse.scale import scales_of, with_scales
    from ple_rec.analysis.fuse.text import format_fusion
    from ple_rec.analysis.fuse.valued import Valued
    from ple_rec.analysis.plain import json_text
    from ple_rec.config.load import fingerprint
    from ple_rec.data.dataset import Dataset
    from ple_rec.ranking.fusion import LENGTH, check_length
    from ple_rec.ranking.losses import FUSION_FILE
    from ple_rec.ranking.metrics import Measured
    from ple_rec.ranking.search import Constraint, Range
    from ple_rec.text.messages import messages

    run_dir = named_run(args.run)
    run = fusible(run_dir, args.overrides)
    given = _given(args, run) if args.fusion else None
    kinds: dict[str, str] = dict(run.kinds)
    tasks = list(given.tasks) if given else args.tasks or list(kinds)
    if unknown := [task for task in tasks if task not in kinds]:
        raise UserError("--tasks", f'got "{unknown[0]}"', f"the run has {', '.join(kinds)}", "name tasks of the run")
    scales = scales_of(args.scale or [], [task for task in tasks if kinds[task] == "regression"])
    feature = feature_of(args.length) if args.length else None
    if given is not None and given.length is not None:
        feature = given.length.feature
    check_length(tasks, feature is not None, "--length")
    missing = run.median(feature) if feature and not given else None
    names = [*tasks, *([LENGTH] if feature else [])]
    asked_ranges = {(parsed := Range.parse(text, names)).name: parsed for text in args.exponent}
    default = {name: Range(name, -1.0, 1.0) if feature and name == LENGTH else Range(name, 0.0, 2.0) for name in names}
    valued = Valued.parse_all(args.value, kinds, run.dense)
    kinds |= {each.name: "regression" for each in valued}
    targets = [Measured.parse(text, kinds, "--target") for text in dict.fromkeys(args.target)]
    constraints = [Constraint.parse(text, kinds) for text in args.subject_to]
    also = [Measured.parse(text, kinds, "--tell") for text in args.tell]
    run.check_lists(args.by)
    columns = LogColumns(args.by, args.users, args.propensity, args.random, args.clip)
    columns.check(any(m.kind == "value" for m in [*targets, *(c.measured for c in constraints), *also]))
    out = args.out or run_dir / "fusion"
    options = {key: value for key, value in vars(args).items() if key not in _NO_OPTIONS}
    options |= {"run": run.config.name, "fusion": given and fingerprint(given)}
    if not args.overwrite:
        check_out(out, options)
    dataset, splits = Dataset(run.config.data.path), list(dict.fromkeys([args.split, args.told_on]))
    logged = Logged(
        columns=columns,
        logs={split: read_log(dataset, split, columns) for split in splits},
        factors={split: {each: each.factor(run, split) for each in valued} for split in splits},
    )
    found = predicted(run, splits, feature)
    rows = found.rows[args.split]
    if given is None:
        length = None if missing is None or rows.length_N is None else length_of(args.length, rows.length_N, missing)
        given = start_of(found, tasks, length, args.calibrate, rows)
    asked = Asked(
        start=with_scales(given, scales),
        ranges=[asked_ranges.get(name, default[name]) for name in names],
        targets=targets,
        constraints=constraints,
        also=also,
        grid=args.grid,
        trials=args.trials,
        seed=args.seed,
        options=options,
    )
    with messages("stderr"):
        done = fused(found, logged, asked, args.split, args.told_on)
    page = write_fusion(out, done)
    if args.json:
        return json_text(done.record)
    return f"{format_fusion(done.record)}\n\nfusion: {out / FUSION_FILE}\npage: {page}"


def _given(args: argparse.Namespace, run: Fusible) -> FusionConfig:
    """The fusion of `--fusion`, once it was seen to fit the run."""
    from ple_rec.config.fusion import FusionConfig
    from ple_rec.config.load import load_config
    from ple_rec.ranking.fusion import check_fusion

    if beside := [flag for flag in ("tasks", "length") if getattr(args, flag)] + ["calibrate"] * (
        args.calibrate != "none"
    ):
        rule = "a file of --fusion has tasks, length and calibrations of its own"
        raise UserError(f"--{beside[0]}", "given beside --fusion", rule, "change the file, or leave --fusion out")
    if not args.fusion.is_file():
        raise UserError(
            "--fusion", f"{args.fusion} is no file", "it is a fusion.toml", "give one that `fuse` has written"
        )
    given = load_config(FusionConfig, args.fusion)
    check_fusion(given, run.kinds, dict.fromkeys(run.dense), str(args.fusion))
    return given
