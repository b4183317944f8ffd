"""A process that trains finds out once what its run is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.training import prepared
from tests.tiny import write_tiny


@pytest.mark.usefixtures("no_charts")
def test_a_training_opens_its_dataset_and_resolves_its_configuration_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    calls = count_calls(monkeypatch)
    once = {"__init__": 1, "select_run_columns": 1, "chosen_tasks": 1, "loss_names": 1, "global_batch_size": 1}
    assert main(["train", "--config", "tiny.toml"]) == 0
    assert calls == once
    calls.clear()
    assert main(["evaluate", "runs/tiny"]) == 0
    assert calls == once


def count_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what opens a dataset and what resolves a configuration."""
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        before: Callable[..., Any] = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return before(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    count(DatasetDirectory, "__init__")
    for name in ("select_run_columns", "chosen_tasks", "loss_names", "global_batch_size"):
        count(prepared, name)
    return calls
