"""Configuration of a comparison, with the changes of its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.config.choices import COMPARISONS, Match
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import ConfigError, load_config
from ple_rec.config.words import suggestion
from ple_rec.errors import Option, UserError


def load_comparison(
    source: str | Path | Mapping[str, Any],
    *,
    seeds: int | None = None,
    match: Match | None = None,
    trials: int | None = None,
    variants: Sequence[str] | None = None,
) -> tuple[CompareConfig, Path]:
    """Return a comparison, and the folder that relative paths of its variants start from.

    Args:
        source: Path of a TOML file, the name of a comparison's recipe, or the content of such a file.
        seeds: Number of seeds; None for that of the file.
        match: Cost that all variants share; None for that of the file.
        trials: Number of trials of each variant; None for that of the file.
        variants: Names of the variants that will be trained, which the file must have.

    Raises:
        UserError: There is no such file or recipe, its content is wrong, or it lacks a variant.
    """
    try:
        compare = load_config(CompareConfig, source, recipes=COMPARISONS)
    except ConfigError as error:
        if _is_of_a_run(error):
            raise UserError(
                error.place if isinstance(source, Mapping) else str(source),
                "the configuration of a run",
                "a comparison is a file of its own, which names runs in [variants.NAME] tables",
                "write one, with this file as the base of a variant; `ple-rec compare --help` shows the smallest",
            ) from None
        raise
    changes: dict[str, Any] = {} if seeds is None else {"seeds": seeds}
    if match is not None:
        changes["match"] = match
    if trials is not None:
        changes["tune"] = compare.tune.model_copy(update={"trials": trials})
    if unknown := [name for name in variants or () if name not in compare.variants]:
        known = suggestion(unknown[0], list(compare.variants))
        place = compare.name if isinstance(source, Mapping) else source
        raise UserError(Option.VARIANTS, f'got "{unknown[0]}"', known, f"name variants of {place}")
    own_file = not isinstance(source, Mapping) and Path(source).is_file()
    folder = Path(str(source)).parent if own_file else Path()
    return compare.model_copy(update=changes), folder


def _is_of_a_run(error: UserError) -> bool:
    """Return True if the errors of a comparison name `model` and `variants`, as they do for the file of a run."""
    keys = {line.strip().partition(":")[0] for line in error.rule.splitlines()}
    return {"model", "variants"} <= keys
