"""`ple-rec evaluate`: flags, and the checks before ranks start; `ple_rec.training.run` evaluates."""

from __future__ import annotations

import json
import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ple_rec.cli.console import require_torch
from ple_rec.cli.options import Argv, Checkpoint, EvaluationOverrideFlags, Ranks, RunName, flag, verb_app
from ple_rec.runtime.exits import is_under_agent
from ple_rec.storage import Location, location

app = verb_app("evaluate")


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluateFlags:
    """Flags of `ple-rec evaluate`."""

    _: KW_ONLY
    split: Annotated[Literal["train", "valid", "test"], flag("split to evaluate; default: test")] = "test"
    checkpoint: Checkpoint = "best"
    json: Annotated[bool, flag("print JSON instead of a table")] = False
    overrides: EvaluationOverrideFlags = ()
    ranks: Ranks = 1


@app.default
def evaluate(run: RunName, /, *, options: EvaluateFlags = EvaluateFlags(), argv: Argv = ()) -> int:
    """Evaluate a checkpoint of a run."""
    require_torch()
    if options.ranks > 1 and not is_under_agent():
        from ple_rec.runtime.ranks import run_local_ranks

        check(run, options)
        return run_local_ranks(options.ranks, argv)
    from ple_rec.runs.results import format_results
    from ple_rec.text.messages import print_messages
    from ple_rec.training.run import evaluate_run

    with print_messages("stderr" if options.json else "stdout"):
        result = evaluate_run(
            _run_dir(run), splits=[options.split], checkpoint=options.checkpoint, overrides=options.overrides
        )
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result, indent=1) if options.json else format_results(result, options.split))
    return 0


def check(run: str, options: EvaluateFlags) -> None:
    """Refuse input that the evaluation would refuse, before its ranks start.

    Raises:
        UserError: The run or checkpoint does not exist, or other input is wrong.
    """
    from ple_rec.training.preflight import check_evaluation

    check_evaluation(_run_dir(run), [options.split], options.checkpoint, options.overrides)


def shared_paths(run: str, options: EvaluateFlags) -> list[Location]:
    """Return the paths that all hosts read: checkpoints and dataset.

    Raises:
        UserError: The run does not exist, or its configuration is wrong.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.runs.checkpoints import shared_directories

    run_dir = _run_dir(run)
    config = load_config(RunConfig, run_dir / "config.toml", options.overrides)
    return [*shared_directories(config, run_dir), location(config.data.path)]


def _run_dir(run: str) -> Location:
    """Return the directory of a run, by its path or its name under runs/."""
    from ple_rec.runs.find import find_run

    run_dir = Path(run)
    return run_dir if (run_dir / "config.toml").is_file() else find_run(run)
