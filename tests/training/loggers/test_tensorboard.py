"""Event files as TensorBoard itself reads them: every record once, however often the run was cut off."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.load import dump_toml
from ple_rec.config.run import WatchConfig
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import build_context
from ple_rec.training.loggers import check_installed, make_loggers, open_loggers, tensorboard
from ple_rec.training.loggers.background import BackgroundLogger
from ple_rec.training.loggers.base import Ending, record_scalars
from ple_rec.training.loggers.tensorboard import TensorBoard
from ple_rec.training.loop import train_steps
from ple_rec.training.progress import TrainingProgress
from tests.rank_processes import RankError
from tests.training.small import on_ranks, ranks_of, records, small_config, write_small

CHANGES: dict[str, Any] = {
    "train": {"batch_size": 24, "steps": 14, "report_every": 4},
    "checkpoint": {"every": 5},
}


def read(directory: Path) -> Any:
    """The events of a directory, all of them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def points(directory: Path) -> dict[str, list[tuple[int, float]]]:
    found = read(directory)
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(run_dir: Path) -> dict[str, list[tuple[int, Any]]]:
    """What `train.jsonl` says, in the precision of an event."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for record in records(run_dir, times=True):
        for tag, value in record_scalars(record).items():
            found.setdefault(tag, []).append((record["step"], pytest.approx(value, rel=1e-6, abs=1e-30)))
    return found


def _run(rank: int, world_size: int, data: Path, run_dir: Path, resume: bool, killed_after: int | None) -> None:
    advance, count = TrainingProgress.advance, [0]

    def advance_or_die(self: TrainingProgress) -> None:
        advance(self)
        count[0] += 1
        if count[0] == killed_after and rank == 0:
            for one in self.loggers._loggers:  # what was heard is written; the kill is not a race
                while one._queue:
                    time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingProgress.advance = advance_or_die  # type: ignore[method-assign]
    run_dir.mkdir(parents=True, exist_ok=True)
    job = build_context(small_config(data, CHANGES), ranks_of(rank, world_size))
    with open_loggers(job.config, RunDirectory(run_dir, run_dir), resume=resume) as loggers:
        train_steps(job, RunDirectory(run_dir, run_dir), resume=resume, loggers=loggers)


def test_a_run_on_two_ranks_that_was_killed_leaves_each_record_once(tmp_path: Path) -> None:
    data, run_dir = write_small(tmp_path / "data"), tmp_path / "run"
    with pytest.raises(RankError):
        on_ranks(_run, 2, data, run_dir, False, 13)
    assert points(run_dir / "tensorboard") == expected(run_dir)
    assert records(run_dir)[-1]["step"] == 12  # beyond the last checkpoint, so that it comes again
    on_ranks(_run, 2, data, run_dir, True, None)
    found = points(run_dir / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [4, 5, 8, 9, 10, 12, 14]
    assert [step for step, _ in found["valid/loss"]] == [9, 14]
    assert found == expected(run_dir)
    assert {"train/click/auc", "valid/click/auc", "train/samples_per_second", "train/learning_rate"} <= found.keys()
    assert len(list((run_dir / "tensorboard").iterdir())) == 2  # of rank 0, a start each


METRICS = {"steps": 9, "test": {"tasks": {"click": {"auc": 0.75}}}}


def _record(split: str, step: int, auc: float) -> dict[str, Any]:
    return {"split": split, "step": step, "loss": 1.5, "tasks": {"click": {"auc": auc, "logloss": 0.5}}}


def test_configuration_charts_and_results(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = small_config(Path("data"))
    board = BackgroundLogger(TensorBoard(tmp_path, config, "tensorboard"))
    board.begin(0, [])
    for record in (_record("train", 9, 0.5), _record("valid", 9, 0.625)):
        board.log(record)
    board.end(Ending(7.0, "finished", METRICS))
    board.wait(20)

    found = read(tmp_path)
    (text,) = found.Tensors("config/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert [line.removeprefix("    ") for line in lines] == dump_toml(config).splitlines()
    (layout,) = found.Tensors("custom_scalars__config__")
    charts = Layout.FromString(layout.tensor_proto.string_val[0])
    assert [(c.title, [(m.title, list(m.multiline.tag)) for m in c.chart]) for c in charts.category] == [
        ("all tasks", [("loss", ["(train|valid)/loss$"])]),
        ("click", [("auc", ["(train|valid)/click/auc$"]), ("logloss", ["(train|valid)/click/logloss$"])]),
    ]
    start = HParamsPluginData.FromString(found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert start.session_start_info.hparams["model.variant"].string_value == "ple"
    assert start.session_start_info.hparams["train.steps"].number_value == 4
    experiment = HParamsPluginData.FromString(found.SummaryMetadata("_hparams_/experiment").plugin_data.content)
    assert [info.name.tag for info in experiment.experiment.metric_infos] == ["final/steps", "final/test/click/auc"]
    assert points(tmp_path)["final/test/click/auc"] == [(10, 0.75)]
    assert {event.wall_time for event in found.Scalars("final/test/click/auc")} == {7.0}


def test_results_of_a_run_that_goes_on_replace_the_earlier_ones(tmp_path: Path) -> None:
    for step, past in ((0, []), (9, [_record("train", 9, 0.5)]), (9, [_record("train", 9, 0.5)])):
        board = BackgroundLogger(TensorBoard(tmp_path, small_config(Path("data")), "tensorboard"))
        board.begin(step, past)
        if not past:
            board.log(_record("train", 9, 0.5))
        board.end(Ending(7.0, "finished", METRICS))
        board.wait(20)
    assert points(tmp_path)["final/test/click/auc"] == [(10, 0.75)]
    assert points(tmp_path)["train/loss"] == [(9, 1.5)]


def test_a_run_that_was_not_watched_before_is_caught_up_with(tmp_path: Path) -> None:
    board = BackgroundLogger(TensorBoard(tmp_path, small_config(Path("data")), "tensorboard"))
    board.begin(8, [_record("train", 4, 0.5), _record("train", 8, 0.75)])
    board.log(_record("train", 12, 0.25))
    board.end(Ending(7.0, "failed"))
    board.wait(20)
    assert points(tmp_path)["train/click/auc"] == [(4, 0.5), (8, 0.75), (12, 0.25)]


def test_a_run_that_ends_before_its_first_record_leaves_no_file(tmp_path: Path) -> None:
    board = BackgroundLogger(TensorBoard(tmp_path, small_config(Path("data")), "tensorboard"))
    board.begin(0, [])
    board.end(Ending(7.0, "failed"))
    board.wait(20)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_costs_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.joinpath("tensorboard").write_text("a file")
    board = BackgroundLogger(TensorBoard(tmp_path / "tensorboard", small_config(Path("data")), "tensorboard"))
    board.begin(0, [])
    board.log(_record("train", 4, 0.5))
    board.end(Ending(7.0, "finished", METRICS))
    board.wait(20)
    assert capsys.readouterr().out.splitlines() == [
        f"tensorboard: FileExistsError: [Errno 17] File exists: '{tmp_path}/tensorboard'; training goes on, but "
        "some records may be missing there",
        "tensorboard: did not receive 1 record(s) and the end of the run; train.jsonl and metrics.json hold all "
        "records",
    ]


def test_where_tensorboard_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check_installed(WatchConfig(tensorboard=True))
    assert str(caught.value) == (
        "watch.tensorboard: got true, but tensorboard cannot be imported; tensorboard writes the event files. Fix: "
        "install it (pip install tensorboard), or unset the key by --set watch.tensorboard="
    )
    check_installed(WatchConfig())
    absent = make_loggers(small_config(Path("data")), RunDirectory(Path("run"), Path("run")), resume=False)
    assert absent.describe() == "watched by: tensorboard not installed"


@pytest.mark.parametrize(("wanted", "line"), [(False, "none"), (None, "tensorboard run/tensorboard")])
def test_who_watches(wanted: bool | None, line: str) -> None:
    config = small_config(Path("data"), {"watch": {"tensorboard": wanted}})
    assert (
        make_loggers(config, RunDirectory(Path("run"), Path("run")), resume=False).describe() == f"watched by: {line}"
    )


def _imported(rank: int, world_size: int) -> set[str]:
    return {"tensorboard", "mlflow"} & sys.modules.keys()


def test_it_is_imported_only_where_it_is_used() -> None:
    assert on_ranks(_imported, 1, init=False) == [set()]
