"""What a run's directory holds: finished, unfinished, failed, of other settings, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ple_rec.analysis.series import FAILED, SeriesRun, inspect_run
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from tests.runs.written_runs import final_metrics, write_checkpoint, write_run
from tests.tiny import CONFIG

DATASET = "0123456789abcdef"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    file = tmp_path / "tiny.toml"
    file.write_text(CONFIG)
    return load_config(RunConfig, file)


def test_every_kind(tmp_path: Path, config: RunConfig) -> None:
    run = tmp_path / "seed-0"

    def look(dataset: str = DATASET, *files: str) -> SeriesRun:
        return inspect_run(run, config, dataset, files)

    assert look().kind == "absent"
    write_run(run)
    assert look().kind == "absent"  # a start that came to no checkpoint leaves nothing to lose
    failure = run.with_name(run.name + FAILED)
    failure.write_text("step 3: loss nan\n")
    assert (look().kind, look().reason) == ("failed", "step 3: loss nan")
    failure.unlink()
    write_checkpoint(run, 8)
    assert look("another").kind == "unfinished"  # training itself refuses to go on with other data
    metrics = final_metrics(config=config)
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert (look().kind, look().metrics) == ("finished", metrics)
    assert look(DATASET, "test_rows.npz").kind == "unfinished"
    assert look("another").kind == "foreign"


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_other_settings_is_foreign_whatever_is_said_beside_it(
    tmp_path: Path, config: RunConfig, finished: bool
) -> None:
    run = write_run(tmp_path / "seed-0", "embeddings.dim=8", metrics=final_metrics() if finished else None)
    write_checkpoint(run, 8)
    run.with_name(run.name + FAILED).write_text("out of memory")
    state = inspect_run(run, config, DATASET)
    assert (state.kind, state.metrics) == ("foreign", {})
    with pytest.raises(UserError, match=rf"holds {'a finished' if finished else 'an unfinished'} run of another conf"):
        state.refuse_foreign()
