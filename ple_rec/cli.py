"""`ple-rec <verb>`: parse, check, call. Modules that need torch are imported by the verb that needs them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ple_rec.cli_compare import compare
from ple_rec.cli_parser import parser
from ple_rec.errors import PleRecError, UserError
from ple_rec.exits import drop_output, end_with_agent, guarded, under_agent
from ple_rec.imports import large_imports

if TYPE_CHECKING:
    from ple_rec.config.run import RunConfig

_SOME_FAILED = 5
_INTERRUPTED = 130
_CONFIGURED = ("train", "plan", "repeat")  # verbs whose --set may be of any key of a run
_FIRST = "census-ple"  # the recipe that messages name


def _doctor(args: argparse.Namespace) -> int:
    from ple_rec.doctor import run

    return run()


def _prep(args: argparse.Namespace) -> int:
    from ple_rec.cli_prep import prep

    text, code = prep(args)
    _show(text)
    return code


def _verify(args: argparse.Namespace) -> int:
    from ple_rec.cli_prep import verify

    text, code = verify(args.dataset)
    _show(text)
    return code


def _plan(args: argparse.Namespace) -> int:
    from ple_rec.cli_plan import plan

    return plan(args, _need_torch)


def _checkpoint(args: argparse.Namespace) -> int:
    from ple_rec.cli_checkpoint import checkpoint

    text, code = checkpoint(args, _need_torch)
    _show(text)
    return code


def _load(args: argparse.Namespace) -> RunConfig:
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    if args.config is None and args.resume and args.run_dir is not None:
        args.config = str(args.run_dir / "config.toml")
        if not Path(args.config).is_file():
            near, kept = Path("runs") / args.run_dir, next(args.run_dir.glob("checkpoints/step-*/config.toml"), None)
            fix = f"did you mean {near}?" if (near / "config.toml").is_file() else "start it with --config"
            if kept is not None:
                fix = f"--config {kept}, as a checkpoint has it"
            raise UserError(str(args.run_dir), "holds no run", "--resume goes on with one", fix)
    if args.config is None:
        raise UserError("--config", "missing", "it names a TOML file or a recipe", f"give one, e.g. --config {_FIRST}")
    return load_config(RunConfig, args.config, args.overrides)


def _run_dir(args: argparse.Namespace, config: RunConfig) -> Path:
    run_dir: Path = args.run_dir or Path("runs") / config.name
    if run_dir.parts[:1] and run_dir.parts[0].endswith(":"):  # as of s3://bucket/run
        rule = "a run directory is a folder; what lies in a store are its checkpoints"
        raise UserError("--run-dir", f"got the address {run_dir.parts[0]}//...", rule, "give it as checkpoint.path")
    return run_dir


def _init_from(args: argparse.Namespace) -> tuple[Path, str] | None:
    """The run and the checkpoint of --init-from RUN[:CHECKPOINT]."""
    from ple_rec.analysis.find_runs import is_folder, named_run

    if args.init_from is None:
        return None
    run, colon, checkpoint = args.init_from.rpartition(":")
    if not colon or is_folder(Path(args.init_from)):
        run, checkpoint = args.init_from, "best"
    return named_run(run), checkpoint


def _resume(args: argparse.Namespace) -> bool | Literal["auto"]:
    if args.overwrite and (args.resume or args.auto_resume):
        flags = f"--{'resume' if args.resume else 'auto-resume'} --overwrite"
        raise UserError(flags, "both given", "one keeps the run, the other removes it", "choose one")
    if args.resume and args.auto_resume:
        rule = "the one insists on a run that is there, the other begins one where there is none"
        raise UserError("--resume --auto-resume", "both given", rule, "choose one")
    return "auto" if args.auto_resume else bool(args.resume)


def _check_train(args: argparse.Namespace, world_size: int) -> None:
    from ple_rec.train.run import check

    resume, config = _resume(args), _load(args)
    check(
        config,
        _run_dir(args, config),
        resume=resume,
        overwrite=args.overwrite,
        world_size=world_size,
        init_from=_init_from(args),
        plan=args.plan,
        profile=args.profile,
    )


def _finished_run(args: argparse.Namespace) -> Path:
    """The run directory that is meant: a path, or a name under runs/ as of `ple-rec runs`."""
    from ple_rec.analysis.find_runs import named_run

    run_dir: Path = args.run_dir
    return run_dir if (run_dir / "config.toml").is_file() else named_run(str(run_dir))


def _check_evaluate(args: argparse.Namespace, world_size: int) -> None:
    from ple_rec.train.run import check_evaluation

    check_evaluation(_finished_run(args), [args.split], args.checkpoint, args.overrides)


_CHECKS: dict[str, Callable[[argparse.Namespace, int], None]] = {"train": _check_train, "evaluate": _check_evaluate}


def paths_of(argv: Sequence[str]) -> list[Path]:
    """What all hosts of a distributed verb read or write: run directory, dataset, what a run starts from, its plan.

    Of another verb, nothing.

    Raises:
        UserError: the configuration, which names them, is wrong, or there is no run to start from.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.train.checkpoints import directories_of

    args = parse(argv)
    if args.verb == "train":
        config = _load(args)
        paths = [*directories_of(config, _run_dir(args, config)), Path(config.data.path)]
        if (init_from := _init_from(args)) is not None:
            start, _ = init_from
            paths += directories_of(load_config(RunConfig, start / "config.toml"), start)
        return paths + ([] if args.plan is None else [args.plan])
    if args.verb != "evaluate":
        return []
    run_dir = _finished_run(args)
    config = load_config(RunConfig, run_dir / "config.toml", args.overrides)
    return [*directories_of(config, run_dir), Path(config.data.path)]


def check_input(argv: Sequence[str], world_sizes: Callable[[], Sequence[int]]) -> int:
    """Check a distributed verb's input before its ranks start.

    Args:
        argv: Of `ple-rec`.
        world_sizes: Numbers of ranks over all hosts that there may be, first the one that is meant; called once torch
            is known to load.

    Returns:
        0, or the exit code of what is wrong, which has been said.
    """

    def check() -> None:
        args = parse(argv)
        if args.verb not in _CHECKS:
            raise UserError(
                "ple_rec.agent",
                f"got the verb {args.verb!r}",
                f"it starts the ranks of {' and '.join(_CHECKS)}",
                f"run `ple-rec {args.verb}`, which is one process",
            )
        _need_torch()
        wanted, *others = world_sizes()
        _CHECKS[args.verb](args, wanted)
        if others and args.verb == "train":
            _check_elastic(args, wanted, others)

    return guarded(check)


def _check_elastic(args: argparse.Namespace, wanted: int, others: Sequence[int]) -> None:
    """Refuse a run that could not go on when hosts are lost."""
    train = _load(args).train
    if train.batch_size is None:
        batch = (train.batch_size_per_rank or 0) * wanted
        raise UserError(
            "train.batch_size_per_rank",
            f"with {others[-1]} to {wanted} ranks",
            "a run goes on with as many samples a step as it began with, however many ranks are left",
            f"--set train.batch_size={batch} --set train.batch_size_per_rank=",
        )
    for world_size in others:
        try:
            _check_train(args, world_size)
        except PleRecError as error:
            place = f"on {world_size} ranks, where hosts are lost: {error.place}"
            fix = f"{error.fix}; it has to do for every number of ranks, or ask for other hosts (--min_nnodes)"
            raise type(error)(place, error.value, error.rule, fix) from error


def _spawns(args: argparse.Namespace) -> bool:
    """Whether this process is to start ranks; one that the agent has started is a rank, whatever its arguments say."""
    return args.ranks > 1 and not under_agent()


def _spawn(args: argparse.Namespace) -> int:
    from ple_rec.ranks import run_ranks

    _CHECKS[args.verb](args, args.ranks)
    return run_ranks(["--standalone", "--nproc-per-node", str(args.ranks)], args.argv)


def _train(args: argparse.Namespace) -> int:
    if args.help_config:
        from ple_rec.config.describe import describe
        from ple_rec.config.run import RunConfig

        print("base: a TOML file or a recipe to start from, optional: say only what differs\n")
        print(describe(RunConfig))
        return 0
    _need_torch()
    if _spawns(args):
        code = _spawn(args)
        if code == _INTERRUPTED:
            _say_how_to_go_on(args)
        return code
    from ple_rec.train.run import train

    if "WORLD_SIZE" not in os.environ:
        _check_train(args, 1)
    config = _load(args)
    run_dir, init_from = _run_dir(args, config), _init_from(args)
    try:
        train(
            config,
            run_dir,
            resume=_resume(args),
            overwrite=args.overwrite,
            init_from=init_from,
            plan=args.plan,
            profile=args.profile,
        )
    except KeyboardInterrupt:
        if not under_agent():
            _say_how_to_go_on(args)
        raise
    return 0


def _say_how_to_go_on(args: argparse.Namespace) -> None:
    from ple_rec.train.last_checkpoint import describe_interrupted

    with suppress(PleRecError):  # a store that cannot be read does not change how the run has ended
        config = _load(args)
        print(f"ple-rec: {describe_interrupted(config, _run_dir(args, config), args.ranks)}", file=sys.stderr)


def _evaluate(args: argparse.Namespace) -> int:
    _need_torch()
    if _spawns(args):
        return _spawn(args)
    import json

    from ple_rec.train.results import format_results
    from ple_rec.train.run import evaluate_run

    run_dir = _finished_run(args)
    result = evaluate_run(run_dir, splits=[args.split], checkpoint=args.checkpoint, overrides=args.overrides)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result, indent=1) if args.json else format_results(result, args.split))
    return 0


def _repeat(args: argparse.Namespace) -> int:
    _need_torch()
    from ple_rec.analysis.repeat import format_summaries, repeat
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.ranks import run_verb

    def start(file: Path, run_dir: Path) -> int:
        verb = ["train", "--config", str(file), "--run-dir", str(run_dir), "--overwrite", "--ranks", str(args.ranks)]
        return run_verb(verb)

    configs = [load_config(RunConfig, source, args.overrides) for source in args.config]
    summaries, failed = repeat(configs, range(args.seeds), args.runs, start, overwrite=args.overwrite)
    print(f"\n{format_summaries(summaries)}")
    if failed:
        print(f"ple-rec: failed: {', '.join(failed)}; the others are kept, run again to retry", file=sys.stderr)
    return _SOME_FAILED if failed else 0


def _compare(args: argparse.Namespace) -> int:
    _need_torch()
    return compare(args)


def _runs(args: argparse.Namespace) -> int:
    from ple_rec.cli_analysis import runs

    return _show(runs(args))


def _diff(args: argparse.Namespace) -> int:
    from ple_rec.cli_analysis import diff

    return _show(diff(args))


def _report(args: argparse.Namespace) -> int:
    from ple_rec.cli_analysis import report

    return _show(report(args))


def _analyze(args: argparse.Namespace) -> int:
    from ple_rec.cli_analysis import analyze

    _need_torch()
    return _show(analyze(args))


def _fuse(args: argparse.Namespace) -> int:
    from ple_rec.cli_ranking import fuse

    _need_torch()
    return _show(fuse(args))


def _predict(args: argparse.Namespace) -> int:
    from ple_rec.cli_predict import predict

    _need_torch()
    return _show(predict(args))


def _export(args: argparse.Namespace) -> int:
    from ple_rec.cli_export import export

    _need_torch()
    return _show(export(args))


def _serve(args: argparse.Namespace) -> int:
    from ple_rec.cli_serving import serve

    return serve(args, _need_torch)


def _show(text: str) -> int:
    """Print a verb's result; a reader that has seen enough, as in `| head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()
    return 0


_CALLS: dict[str, Callable[[argparse.Namespace], int]] = {
    "doctor": _doctor,
    "prep": _prep,
    "verify": _verify,
    "plan": _plan,
    "train": _train,
    "evaluate": _evaluate,
    "checkpoint": _checkpoint,
    "runs": _runs,
    "diff": _diff,
    "report": _report,
    "analyze": _analyze,
    "repeat": _repeat,
    "compare": _compare,
    "fuse": _fuse,
    "predict": _predict,
    "export": _export,
    "serve": _serve,
}


def _need_torch() -> None:
    if sys.modules.get("torchrec") is not None:
        return
    try:
        with large_imports():
            import torch  # noqa: F401
            import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        raise UserError(
            "torch and torchrec",
            f"cannot be loaded ({error})",
            "training and evaluation need them",
            "run `ple-rec doctor`, which says what to install",
        ) from error


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; words that it does not know are refused with what may have been meant.

    Raises:
        UserError: an unknown verb or argument.
        SystemExit: a value that a flag refuses, with the usage, and after --help.
    """
    top = parser()
    verbs: dict[str, argparse.ArgumentParser] = top.get_default("verbs")
    if not argv:
        top.print_help(sys.stderr)
        raise SystemExit(2)
    if not argv[0].startswith("-") and argv[0] not in verbs:
        raise _unknown("command line", "verb", argv[0], list(verbs), "run `ple-rec --help`")
    args, unknown = top.parse_known_args(argv)
    if unknown:
        verb, words = args.verb, verbs[args.verb]
        if "subject" in args:
            verb, words = f"{verb} {args.subject}", args.subjects[args.subject]
        flags = re.findall(r"--[a-z-]+", words.format_usage())
        setting = "=" in unknown[0] and "--set" in flags and not unknown[0].startswith("-")
        fix = f"write --set {unknown[0]}" if setting else f"run `ple-rec {verb} --help`"
        if "--config" in flags and (unknown[0].endswith(".toml") or unknown[0] in _recipes()):
            fix = f"write --config {unknown[0]}"
        if verb in _CONFIGURED and unknown[0].startswith("--"):
            from ple_rec.config.describe import setting_of
            from ple_rec.config.run import RunConfig

            fix = setting_of(RunConfig, unknown[0], hidden=["topology"]) or fix  # `plan` has flags of these
        raise _unknown(verb, "argument", unknown[0], flags, fix)
    args.argv = list(argv)
    return args


def _recipes() -> list[str]:
    from ple_rec.config.recipes import recipe_names

    return recipe_names()


def _unknown(place: str, what: str, word: str, known: Sequence[str], fix: str) -> UserError:
    from ple_rec.config.words import suggestion

    return UserError(place, f'unknown {what} "{word}"', suggestion(word, known), fix)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ple-rec`; returns the exit code."""

    def run() -> int:
        args = parse(sys.argv[1:] if argv is None else argv)
        if under_agent():
            end_with_agent()
        from ple_rec.text.messages import messages

        with messages():
            return _CALLS[args.verb](args)

    return guarded(run)
