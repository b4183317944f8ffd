"""The runs of a series, which is one configuration or several with some seeds each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ple_rec.config.load import with_values
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError


def config_of_run(config: RunConfig, seed: int) -> RunConfig:
    """Return the configuration of one run: with its seed, and with `<name>-seed-<n>` for `{run}` in `checkpoint.path`.

    Its directory is named `seed-<n>`, as that of every other configuration of the series.

    Args:
        config: Configuration of all seeds, whose name no other one of the series bears.
        seed: Seed of the run.
    """
    values: dict[str, object] = {"seed": seed}
    if (path := config.checkpoint.path) is not None:
        values["checkpoint.path"] = path.replace("{run}", f"{config.name}-seed-{seed}")
    return with_values(config, values)


def check_checkpoints_apart(runs: Iterable[RunConfig]) -> None:
    """Refuse runs that would keep their checkpoints in one place.

    Args:
        runs: Configuration of every run, as `config_of_run` returns it.

    Raises:
        UserError: two runs have the same `checkpoint.path`.
    """
    seen: dict[str, str] = {}
    for run in runs:
        name, path = f"{run.name} seed {run.seed}", run.checkpoint.path
        if path is None:
            continue
        place = path.rstrip("/") if "://" in path else str(Path(path).resolve())
        if (other := seen.setdefault(place, name)) != name:
            raise UserError(
                "checkpoint.path",
                f'got "{path}" for {other} and {name}',
                "each run of a series has a place of its own for its checkpoints",
                f'give "{path.rstrip("/")}/{{run}}", in which {{run}} stands for NAME-seed-N',
            )
