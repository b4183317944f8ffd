"""One finished run for all tests of what is made of such runs; those that change it copy it first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.trained import train_tiny

KEPT = {"evaluate_every": 2, "steps": 6}  # three checkpoints


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-level PLE over `data/` beside it, whose configuration slices by `user`."""
    changes = {"train": KEPT, "checkpoint": {"keep": 5}, "evaluation": {"slices": ["user"]}}
    return train_tiny(tmp_path_factory.mktemp("tiny"), changes)
