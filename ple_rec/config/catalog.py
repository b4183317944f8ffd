"""Recipes that come with a package, by kind; a help text lists them, so that nothing large is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

RECIPES: Traversable = resources.files("ple_rec") / "recipes"
SCHEMAS: Traversable = RECIPES / "schemas"  # of datasets that are not there, for planning


@dataclass(frozen=True)
class Kind:
    """A kind of configurations, of which some come with a package.

    Args:
        name: Word of messages for what is configured, such as "run".
        verb: Verb that takes it.
        folder: Folder of the recipes; a text is one below the recipes of runs.
    """

    name: str
    verb: str
    folder: str | Traversable

    @property
    def files(self) -> Traversable:
        """Folder of the recipes."""
        if not isinstance(self.folder, str):
            return self.folder
        return RECIPES / self.folder if self.folder else RECIPES


RUNS, COMPARISONS = Kind("run", "train", ""), Kind("comparison", "compare", "compare")


def recipe_names(kind: Kind = RUNS) -> list[str]:
    """Return the names of the recipes of a kind, sorted."""
    files = kind.files.iterdir() if kind.files.is_dir() else ()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))
