"""`ple-rec train`: flags and input checks; `ple_rec.api.training` starts the training, on one or more ranks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch, show_keys
from ple_rec.cli.options import (
    Argv,
    ConfigSource,
    HelpConfig,
    OverrideFlags,
    Ranks,
    flag,
    location_flag,
    names_text,
    verb_app,
)
from ple_rec.config.choices import recipe_names
from ple_rec.errors import PleRecError, UserError
from ple_rec.runtime.exits import INTERRUPTED, is_under_agent
from ple_rec.storage import Location, location

if TYPE_CHECKING:
    from ple_rec.api.training import TrainOptions
    from ple_rec.config.run import RunConfig

_EXAMPLE = "census-ple"  # Recipe that messages name.

app = verb_app(
    "train",
    f"{names_text('recipes', recipe_names())}\n\nseveral hosts: torchx run launch/components.py:train --help",
    usage="ple-rec train {--config FILE|NAME | --run-dir DIR --resume} [OPTIONS]",
)


@Parameter(name="*")
@dataclass(frozen=True)
class TrainFlags:
    """Flags of `ple-rec train`."""

    _: KW_ONLY
    config: ConfigSource = None
    overrides: OverrideFlags = ()
    run_dir: Annotated[
        Location | None,
        location_flag("run directory or address, s3://...; default: runs/<name of the configuration>", "DIR"),
    ] = None
    resume: Annotated[bool, flag("resume from the latest checkpoint of the run directory")] = False
    auto_resume: Annotated[
        bool,
        flag(
            "resume the run of the run directory, start one if there is none, end with exit code 0 if it has finished: "
            "one command line for the first start and every later one"
        ),
    ] = False
    overwrite: Annotated[bool, flag("replace an existing run")] = False
    init_from: Annotated[
        str | None,
        flag(
            "start from the weights and optimizer state of another run's checkpoint (best, the default, latest or "
            "step-<n>), trained on this dataset or on one of its ancestors; steps, schedule, data position, best "
            "checkpoint and early stopping begin anew",
            "RUN[:CHECKPOINT]",
        ),
    ] = None
    plan: Annotated[
        Location | None, location_flag("plan.json of `ple-rec plan` for the sharding of tables", "FILE")
    ] = None
    profile: Annotated[
        bool,
        flag(
            "measure the parts of a step: after 10 steps of warm-up, time 20 steps and trace 3 more, print the shares "
            "and write them, with a trace of every rank, to profile/ of the run directory, then train on"
        ),
    ] = False
    help_config: Annotated[HelpConfig, flag("list every configuration key, then stop")] = False
    ranks: Ranks = 1

    def read(self) -> tuple[RunConfig, Location, TrainOptions]:
        """Return the configuration, the run directory and the options of training.

        With `--resume` and without `--config`, the configuration is that of the run directory.

        Raises:
            UserError: The configuration is missing or wrong, flags exclude each other, or the run to start from does
                not exist.
        """
        from ple_rec.api.training import check_flags
        from ple_rec.config.load import load_config
        from ple_rec.config.run import RunConfig
        from ple_rec.runs.find import find_run_and_checkpoint

        if self.resume and self.auto_resume:
            rule = "--resume needs an existing run, --auto-resume starts one if there is none"
            raise UserError("--resume --auto-resume", "both given", rule, "choose one")
        resume: bool | Literal["auto"] = "auto" if self.auto_resume else self.resume
        init_from = None if self.init_from is None else find_run_and_checkpoint(self.init_from)
        check_flags(resume, self.overwrite, init_from)
        source = self.config
        if source is None and self.resume and self.run_dir is not None:
            source = str(_config_to_resume(self.run_dir))
        if source is None:
            fix = f"give one, e.g. --config {_EXAMPLE}"
            raise UserError("--config", "missing", "it names a TOML file or a recipe", fix)
        config = load_config(RunConfig, source, self.overrides)
        run_dir = self.run_dir or Path("runs") / config.name
        return (
            config,
            run_dir,
            {
                "resume": resume,
                "overwrite": self.overwrite,
                "init_from": init_from,
                "plan": self.plan,
                "profile": self.profile,
            },
        )


def _config_to_resume(run_dir: Location) -> Location:
    """Return the configuration file of a run to resume.

    Raises:
        UserError: The directory has no such file.
    """
    from ple_rec.checkpoint.listing import finished_steps

    file = run_dir / "config.toml"
    if not file.is_file():
        named_run, steps = Path("runs") / str(run_dir), finished_steps(run_dir / "checkpoints")
        fix = f"did you mean {named_run}?" if (named_run / "config.toml").is_file() else "start it with --config"
        if steps:
            fix = f"give that of a checkpoint: --config {run_dir}/checkpoints/step-{steps[-1]}/config.toml"
        raise UserError(str(run_dir), "holds no run", "--resume goes on with one", fix)
    return file


@app.default
def train(*, options: TrainFlags = TrainFlags(), argv: Argv = ()) -> int:
    """Train the model of a configuration on a dataset directory.

    Writes to runs/<name>/: config.toml, plan.json, train.jsonl, checkpoints/, metrics.json, report.html; tensorboard/
    and mlflow.json if these loggers are on; init_from.json if it starts from another run; profile/ with --profile.
    """
    if options.help_config:
        from ple_rec.config.run import RunConfig

        show_keys(RunConfig)
        return 0
    config, run_dir, train_options = options.read()
    require_torch()
    from ple_rec.api.training import start_training
    from ple_rec.runtime.ranks import run_local_ranks

    try:
        code = start_training(
            config,
            run_dir,
            ranks=options.ranks,
            start_ranks=lambda: run_local_ranks(options.ranks, argv),
            **train_options,
        )
    except KeyboardInterrupt:
        if not is_under_agent():
            _log_how_to_go_on(config, run_dir, options.ranks)
        raise
    if code == INTERRUPTED:
        _log_how_to_go_on(config, run_dir, options.ranks)
    return code


def _log_how_to_go_on(config: RunConfig, run_dir: Location, ranks: int) -> None:
    from ple_rec.training.last_checkpoint import describe_interrupted_run

    with suppress(PleRecError):  # If the store cannot be read, the exit code of the run still counts.
        log(f"ple-rec: {describe_interrupted_run(config, run_dir, ranks)}")


def check(options: TrainFlags, world_size: int) -> None:
    """Refuse input that training would refuse, before its ranks start.

    Args:
        options: Flags of the verb.
        world_size: Number of ranks over all hosts.

    Raises:
        PleRecError: Input or data is wrong.
    """
    from ple_rec.training.preflight import check_training as check_run

    config, run_dir, train_options = options.read()
    check_run(config, run_dir, world_size=world_size, **train_options)


def shared_paths(options: TrainFlags) -> list[Location]:
    """Return the paths that all hosts read or write: run directory, dataset, run to start from, plan.

    Raises:
        UserError: The configuration, which names them, is wrong, or the run to start from does not exist.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.runs.checkpoints import shared_directories

    config, run_dir, train_options = options.read()
    shared: list[Location] = [*shared_directories(config, run_dir), location(config.data.path)]
    if (init_from := train_options["init_from"]) is not None:
        run, _ = init_from
        shared += shared_directories(load_config(RunConfig, run / "config.toml"), run)
    return shared + ([] if options.plan is None else [options.plan])
