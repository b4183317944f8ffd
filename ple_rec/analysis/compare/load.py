"""Reader of a comparison's configuration, for `ple-rec compare` and `ple_rec.compare`.

`load_comparison` reads a TOML file, a recipe or a mapping, and applies the options of its caller, such as `--seeds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.config.choices import COMPARISON_CONFIGS, Match
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
    """Return the configuration of a comparison, and the folder to which relative paths in it are relative.

    This is the folder of the file, or the working directory for a recipe or a mapping.

    Args:
        source: Path of a TOML file, the name of a comparison's recipe, or the content of such a file.
        seeds: Number of seeds; None for that of the file.
        match: Cost that all variants share; None for that of the file.
        trials: Number of trials of each variant; None for that of the file.
        variants: Names of variants that the configuration must have; None to check no names.

    Raises:
        UserError: There is no such file or recipe, its content is invalid, or it lacks a variant.
    """
    try:
        compare = load_config(CompareConfig, source, kind=COMPARISON_CONFIGS)
    except ConfigError as error:
        if _looks_like_run_file(error):
            raise UserError(
                error.place if isinstance(source, Mapping) else str(source),
                "the configuration of a run",
                "a comparison has a file of its own, with a table [variants.NAME] for each model",
                "write one that names this file as the base of a variant; `ple-rec compare --help` shows the smallest",
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


def _looks_like_run_file(error: UserError) -> bool:
    """Return True if the file is that of a run: the errors name both `model` (unknown) and `variants` (missing)."""
    keys = {line.strip().partition(":")[0] for line in error.rule.splitlines()}
    return {"model", "variants"} <= keys
