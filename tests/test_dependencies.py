"""The requirement files beside the budget of CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_budget_counts_the_packages(repository: Path) -> None:
    rows = re.findall(
        r"^\| `requirements/(\S+)` \| (\d+) \|", (repository / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    files = (repository / "requirements").glob("*.txt")
    lines = {file.name: file.read_text().splitlines() for file in files}
    pins = {name: sum("==" in line for line in text) for name, text in lines.items()}
    assert {name: int(number) for name, number in rows} == pins
    assert all(len(text) == pins[name] + 1 for name, text in lines.items())  # a comment, and pins alone


def test_what_comes_without_its_requirements_has_a_hash(repository: Path) -> None:
    for file in (repository / "requirements").glob("*-no-deps.txt"):
        assert all(" --hash=sha256:" in line for line in file.read_text().splitlines()[1:])
