"""A fault: a wrong change of the code that a test should catch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A wrong change of the code.

    Args:
        name: Meaning of the fault.
        file: Path of the file, from the root of the tree.
        text: Text that is replaced; it stands once in the file.
        instead: Text that takes its place.
        tests: Files or folders of the fast tests that should fail.
    """

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]

    def count(self, root: Path) -> int:
        """Return how often the text stands in the file below `root`; 0 where the file is gone."""
        path = root / self.file
        return path.read_text(encoding="utf-8").count(self.text) if path.is_file() else 0

    def changed(self, source: str) -> str:
        """Return the source of the file with the fault."""
        return source.replace(self.text, self.instead)
