"""Run of a day: from which run it started, whether it may go on, and which versions are of it."""

from __future__ import annotations

from ple_rec.analysis.finished import load_finished_run
from ple_rec.config.load import fingerprint
from ple_rec.config.run import RunConfig
from ple_rec.days.served import Version
from ple_rec.errors import UserError
from ple_rec.runs.checkpoints import full_address
from ple_rec.runs.layout import METRICS
from ple_rec.runs.state import inspect_directory, resume_refusal
from ple_rec.storage import Location
from ple_rec.training.trained import single_process_config
from ple_rec.training.warm_start import read_warm_start


def started_from(run: Location) -> str | None:
    """Return the run and the checkpoint from which a run started, `RUN:CHECKPOINT`; None for random weights."""
    warm_start = read_warm_start(run)
    return None if warm_start is None else f"{warm_start.run}:{warm_start.checkpoint}"


def check_run(run: Location, config: RunConfig, start: tuple[Location, str] | None) -> None:
    """Refuse a run of the day that was begun with another configuration, or from another run or checkpoint.

    Args:
        run: Directory of the run, which need not exist.
        config: Configuration of the day's run.
        start: Run and checkpoint of the served version; None for random weights.

    Raises:
        UserError: The run cannot go on with this configuration and start.
    """
    state = inspect_directory(config, run)
    if not state.has_config:
        return
    if (refusal := resume_refusal(state, config)) is not None:
        raise UserError(
            refusal.place,
            refusal.value,
            "the run of this day was begun with another configuration",
            f"remove {run} to train the day anew, or undo the change",
        )
    warm_start = read_warm_start(run)
    first = None if warm_start is None else (full_address(warm_start.run_dir), warm_start.checkpoint)
    if first != (None if start is None else (full_address(start[0]), start[1])):
        raise UserError(
            str(run),
            f"the run of this day started from {started_from(run) or 'random weights'}",
            f"the served version now is of {'another chain' if start is None else f'{start[0]}:{start[1]}'}",
            f"remove {run} to train the day anew",
        )


def made_version(run: Location, dataset: str, version: Version) -> bool:
    """Return True if a version was exported from a run.

    Args:
        run: Directory of the run, which need not exist.
        dataset: Fingerprint of its dataset.
        version: Version of the model.
    """
    if not (run / METRICS).is_file():
        return False
    config = single_process_config(*load_finished_run(run))
    return (version.dataset, version.run) == (dataset, fingerprint(config))
