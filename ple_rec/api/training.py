"""Training in this process or in several: `train`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from ple_rec.api.arguments import (
    Overrides,
    PathLike,
    check_choice,
    check_count,
    check_location,
    errors_name_arguments,
    resolve_config,
)
from ple_rec.api.plans import Plan, plan_file
from ple_rec.api.runs import Run
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location
from ple_rec.text.messages import print_messages


@errors_name_arguments
def train(
    config: PathLike | Mapping[str, object] | RunConfig,
    *,
    run_dir: PathLike | None = None,
    ranks: int = 1,
    overrides: Overrides = (),
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    init_from: Run | PathLike | None = None,
    plan: Plan | PathLike | None = None,
    profile: bool = False,
) -> Run:
    """Train a model, evaluate it and write its report, as `ple-rec train` does.

    One rank trains in this process. Several ranks are processes of their own, whose output this process prints. Ctrl-C,
    or the notebook's stop button, stops all ranks. With `resume=True` the same call resumes from the last checkpoint.

    Args:
        config: Name of a recipe ("census-ple"), path of a TOML file, its content as a dict, or a `RunConfig`;
            docs/training.md has its keys.
        run_dir: Directory of the run; None for `runs/<name of the configuration>`.
        ranks: Number of processes on this host: one for each GPU; on a CPU, more than 1 are slower for a small model.
        overrides: Changes of the configuration: `{"train.epochs": 2}`, or texts "key=value".
        resume: True to resume from the run's last checkpoint; "auto" to resume if there is a checkpoint, begin if there
            is none, and do nothing if the run has finished.
        overwrite: True to replace an existing run.
        init_from: Run whose weights and optimizer state the training starts from: a `Run`, its path or name, or
            "RUN:CHECKPOINT"; without a checkpoint, the best one. None to start from random weights.
        plan: Plan of the tables, its file or its address; None to plan them now.
        profile: True to time and trace some of the first steps, and write the profile to `profile/` of the run.

    Returns:
        The finished run.

    Raises:
        UserError: The configuration, the dataset or the run directory is invalid, and nothing was trained.
        DataError: The dataset or a checkpoint is damaged.
        DivergedError: A loss, a gradient or a weight is not finite.
        PreemptedError: A signal asked the process to stop, and it has saved the run.
        KeyboardInterrupt: The user pressed Ctrl-C.
    """
    from ple_rec.runs.find import find_run_and_checkpoint

    ranks = check_count("ranks", ranks)
    check_choice("resume", resume, (False, True, "auto"))
    chosen = resolve_config(RunConfig, config, overrides)
    folder = Path("runs") / chosen.name if run_dir is None else check_location("run_dir", run_dir)
    start: tuple[Location, str] | None = None
    if isinstance(init_from, Run):
        start = init_from.path, "best"
    elif init_from is not None:
        start = find_run_and_checkpoint(str(check_location("init_from", init_from)))
    check_flags(resume, overwrite, start)
    with plan_file(plan) as plan_path, preserve_torch_state(), print_messages():

        def start_ranks() -> None:
            from ple_rec.api.ranks import train_on_ranks

            switches = {"--overwrite": overwrite, "--resume": resume is True, "--auto-resume": resume == "auto"}
            switches["--profile"] = profile
            flags = [flag for flag, is_set in switches.items() if is_set]
            flags += [] if start is None else ["--init-from", f"{start[0]}:{start[1]}"]
            flags += [] if plan_path is None else ["--plan", str(plan_path)]
            train_on_ranks(chosen, folder, ranks, flags)

        start_training(
            chosen,
            folder,
            ranks=ranks,
            start_ranks=start_ranks,
            resume=resume,
            overwrite=overwrite,
            init_from=start,
            plan=plan_path,
            profile=profile,
        )
    return Run(folder)


class TrainOptions(TypedDict):
    """Options of a training beside its configuration: arguments of `ple_rec.training.run.train`."""

    resume: bool | Literal["auto"]
    overwrite: bool
    init_from: tuple[Location, str] | None
    plan: Location | None
    profile: bool


def start_training(
    config: RunConfig,
    run_dir: Location,
    *,
    ranks: int,
    start_ranks: Callable[[], int | None],
    **options: Unpack[TrainOptions],
) -> int:
    """Check the input, then train in this process or on several ranks.

    A process that a launcher, such as torchrun, has started as a rank trains as that rank without this check, which
    would otherwise be repeated on every rank.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        ranks: Number of ranks.
        start_ranks: Function that starts several ranks and waits for them; it may return their exit code.
        options: Options of the training.

    Returns:
        Exit code of the ranks; 0 for a training in this process.

    Raises:
        PleRecError: The input or the data is invalid, or the training has failed.
    """
    from ple_rec.runtime.exits import is_under_agent
    from ple_rec.training import preflight, run

    several = ranks > 1 and not is_under_agent()
    prepared = None
    if several or "WORLD_SIZE" not in os.environ:
        prepared = preflight.check_training(config, run_dir, world_size=ranks, **options)
    if several:
        return start_ranks() or 0
    run.train(config, run_dir, prepared_run=prepared, **options)
    return 0


def check_flags(resume: bool | Literal["auto"], overwrite: bool, init_from: tuple[Location, str] | None) -> None:
    """Refuse options that exclude each other.

    Args:
        resume: True to resume the run of the directory; "auto" to resume it if there is one.
        overwrite: True to replace the run of the directory.
        init_from: Run and checkpoint to start from; None to start from random weights.

    Raises:
        UserError: The existing run is to be both resumed and replaced, or resumed and started from another run.
    """
    if resume and overwrite:
        flags = f"{Option.AUTO_RESUME if resume == 'auto' else Option.RESUME} {Option.OVERWRITE}"
        raise UserError(flags, "both given", "one keeps the run, the other removes it", "choose one")
    if resume is True and init_from is not None:
        raise UserError(
            f"{Option.RESUME} {Option.INIT_FROM}",
            "both given",
            "a resumed run has its own weights; its init_from.json says from which run it started",
            f"leave out {Option.INIT_FROM}, or start another {Option.RUN_DIR}",
        )
