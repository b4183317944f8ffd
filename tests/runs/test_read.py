import json
from pathlib import Path

import numpy as np
import pytest

from ple_rec.errors import UserError
from ple_rec.runs.read import read_run


def train(step: int, loss: float = 0.5) -> str:
    return json.dumps({"split": "train", "step": step, "tasks": {"ctr": {"loss": loss}}})


def valid(step: int, auc: float = 0.6) -> str:
    return json.dumps({"split": "valid", "step": step, "tasks": {"ctr": {"auc": auc}}})


def write_log(directory: Path, *lines: str, end: str = "\n") -> None:
    (directory / "train.jsonl").write_text("\n".join(lines) + end)


def test_a_series_follows_its_path_and_marks_what_is_undefined(tmp_path: Path) -> None:
    write_log(tmp_path, train(100, 0.5), json.dumps({"split": "train", "step": 200, "tasks": None}), train(300, 0.25))
    series = read_run(tmp_path).log.series("train", "tasks", "ctr", "loss")
    np.testing.assert_array_equal(series.steps, [100, 200, 300])
    np.testing.assert_array_equal(series.values, [0.5, np.nan, 0.25])
    assert series.at(300) == 0.25
    assert series.at(200) is None
    assert series.at(250) is None
    assert not read_run(tmp_path).log.series("train", "tasks", "ctr", "ne")


def test_a_resumed_run_replaces_the_records_of_the_attempt_before(tmp_path: Path) -> None:
    lines = [train(100, 1.0), valid(100, 0.6), train(200, 2.0), valid(200, 0.7), train(300, 3.0), train(200, 4.0)]
    write_log(tmp_path, *lines, valid(200, 0.8))
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.log.series("train", "tasks", "ctr", "loss").values, [1.0, 4.0])
    np.testing.assert_array_equal(run.log.series("valid", "tasks", "ctr", "auc").values, [0.6, 0.8])
    assert "The run was resumed: records from step 200 on replace those of the attempt before." in run.notes


def test_an_evaluation_of_an_earlier_step_drops_no_training_record(tmp_path: Path) -> None:
    write_log(tmp_path, train(100), valid(100, 0.6), train(200), valid(100, 0.7))
    run = read_run(tmp_path)
    assert run.log.series("train", "tasks", "ctr", "loss").steps.tolist() == [100, 200]
    assert run.log.series("valid", "tasks", "ctr", "auc").values.tolist() == [0.7]


def test_the_best_step_is_the_final_one_else_the_last_that_the_log_marks(tmp_path: Path) -> None:
    marked = [
        json.dumps({"split": "valid", "step": step, "best": best}) for step, best in ((1, True), (2, True), (3, False))
    ]
    write_log(tmp_path, *marked)
    assert read_run(tmp_path).best_step() == 2
    (tmp_path / "metrics.json").write_text('{"best_step": 1}')
    assert read_run(tmp_path).best_step() == 1
    write_log(tmp_path, train(100), valid(100))
    (tmp_path / "metrics.json").unlink()
    assert read_run(tmp_path).best_step() is None


def test_a_cut_off_last_line_and_damaged_lines_are_told_apart(tmp_path: Path) -> None:
    write_log(tmp_path, train(100), "{oops", '{"step": "x", "split": "train"}', train(200), '{"split": "tr', end="")
    run = read_run(tmp_path)
    assert len(run.log.splits["train"]) == 2
    assert "The last line of train.jsonl is cut off (the run was killed while writing it); skipped." in run.notes
    assert "2 damaged line(s) of train.jsonl were skipped: line 2, 3." in run.notes


def test_every_absent_file_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, end="")
    assert read_run(tmp_path).notes == [
        "config.toml is missing: variant, data set and configuration are unknown.",
        "plan.json is missing: the placement of the embedding tables is unknown.",
        "train.jsonl has no records yet: there are no learning curves and no throughput.",
        "metrics.json is missing: the run was interrupted or still goes on, so there are no final results.",
    ]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("name = ")
    (tmp_path / "plan.json").write_text("[]")
    (tmp_path / "init_from.json").write_text("")
    (tmp_path / "metrics.json").write_text('{"test": {')
    run = read_run(tmp_path)
    assert run.config_text == "name = "
    assert run.notes[2].endswith(" and was left out: where its first weights came from is unknown.")
    assert [note.split(":")[0] for note in run.notes] == [
        "config.toml is damaged (Invalid value (at end of document)); it is shown as it stands.",
        "plan.json is damaged (it holds a list, not an object), and was left out",
        "init_from.json is damaged (Expecting value",
        "train.jsonl is missing",
        "metrics.json is damaged (Expecting property name enclosed in double quotes",
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("9" * 5000, "Exceeds the limit (4300 digits) for integer string conversion"),
        ("[" * 100_000 + "]" * 100_000, "maximum recursion depth exceeded"),
    ],
    ids=["digits", "nesting"],
)
def test_what_no_parser_takes_is_damage(tmp_path: Path, value: str, why: str) -> None:
    write_log(tmp_path, train(100), f'{{"split": "train", "step": 150, "loss": {value}}}', train(200))
    (tmp_path / "config.toml").write_text(f"name = {value}")
    for name in ("plan.json", "metrics.json"):
        (tmp_path / name).write_text(f'{{"a": {value}}}')
    run = read_run(tmp_path)
    assert [len(run.config), len(run.plan), len(run.metrics), len(run.log.splits["train"])] == [0, 0, 0, 2]
    config, plan, log, metrics = run.notes
    assert config.startswith(f"config.toml is damaged ({why}")
    assert plan.startswith(f"plan.json is damaged ({why}")
    assert plan.endswith("and was left out: the placement of the embedding tables is unknown.")
    assert log == "1 damaged line(s) of train.jsonl were skipped: line 2."
    assert metrics.startswith(f"metrics.json is damaged ({why}")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_run(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: holds none of config.toml, plan.json, train.jsonl, metrics.json; a report is made from a run "
        "directory. Fix: give the directory that training wrote, such as runs/<name>"
    )
    with pytest.raises(UserError, match="nowhere: is not a directory; a report is made from a run directory"):
        read_run(tmp_path / "nowhere")
