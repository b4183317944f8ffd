"""A day that is killed in any step and then repeated ends with the same bytes as one that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.days.days import day_name, kill_at, run_in_child, write_feed

TIMED = {"manifest.json", "MODEL_CARD.md"}


def published_bytes(root: Path) -> dict[str, Any]:
    """Dataset and version of day 4, its record, and what is served; without the times at which they were made."""
    files: dict[str, Any] = {"latest": (root / "model" / "latest").read_text()}
    for folder in (root / "chain" / "datasets" / day_name(4), *(root / "model" / "versions").iterdir()):
        for file in folder.rglob("*"):
            # The next export removes the hidden working folder of a killed one.
            is_hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
            if file.is_file() and file.name not in TIMED and not is_hidden:
                files[str(file.relative_to(root))] = file.read_bytes()
    for name in [name for name in files if name.endswith("/model.json")]:
        description = json.loads(files[name])
        del description["card"]["created"]
        files[name] = description
    record = json.loads((root / "chain" / "records" / f"{day_name(4)}.json").read_text())
    # The size of the card and of model.json depends on the time.
    files["record"] = {key: value for key, value in record.items() if key not in ("seconds", "bytes")}
    return files


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain whose first day is published, and the same with day 4, never killed, beside it."""
    root = write_feed(tmp_path_factory.mktemp("killed") / "feed")
    assert run_in_child(root) == 0
    shutil.copytree(root, root.parent / "whole")
    assert run_in_child(root.parent / "whole") == 0
    return root


KILLS = {
    "prepare": ("data_prep.pipeline:finish", 1, True),
    "prepared": ("data_prep.output.stage:publish", 1, False),
    "before_a_step": ("ple_rec.training.run:train", 1, True),
    "in_training": ("ple_rec.training.loop:train_step", 5, True),
    "export": ("ple_rec.inference.export:check_scores", 1, True),
    "gate": ("ple_rec.days.run:compare_versions", 1, False),
    "version": ("ple_rec.inference.publish:_publish", 1, False),
    "published": ("ple_rec.days.run:version_bytes", 1, True),
}


@pytest.mark.parametrize(
    "step",
    [name if name == "in_training" else pytest.param(name, marks=pytest.mark.slow) for name in KILLS],
)
def test_a_killed_day_goes_on(begun: Path, tmp_path: Path, step: str) -> None:
    root = tmp_path / "feed"
    shutil.copytree(begun, root)
    target, calls, before = KILLS[step]
    kill_at(root, target, calls, before=before)
    served = (root / "model" / "latest").read_text().strip()
    assert served == ("v2" if step == "published" else "v1")
    assert run_in_child(root) == 0
    assert published_bytes(root) == published_bytes(begun.parent / "whole")
