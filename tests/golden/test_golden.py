"""This version reads what an earlier one has written, and writes the same: datasets, runs, models, plans, answers."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.golden import command_line, facts, steps
from tests.golden.compare import fail, far, far_tensors, hold, tensors
from tests.golden.doors import REPOSITORY, RULE, serving, succeed
from tests.golden.steps import ARTEFACTS, LAST, MIDDLE, NEWER, RANKS, VERSION

_FOLDERS = re.compile(rb"/(?:home|root|tmp|work|Users|mnt)/[a-zA-Z0-9]")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the artefacts; tests write beside what is there."""
    at = tmp_path_factory.mktemp("golden") / "old"
    shutil.copytree(ARTEFACTS, at)
    steps.copy_configurations(at)
    return at


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old raw logs, and the datasets that this version makes of them."""
    at = tmp_path_factory.mktemp("golden") / "new"
    shutil.copytree(ARTEFACTS / "raw", at / "raw")
    steps.copy_configurations(at)
    steps.prepare(at)
    return at


@pytest.fixture
def trained_on(tmp_path: Path) -> Path:
    """A folder with the old dataset, on which the old runs were trained."""
    shutil.copytree(ARTEFACTS / "data", tmp_path / "data")
    steps.copy_configurations(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server(old: Path) -> Iterator[str]:
    """Address of a server of the old model."""
    with serving("models/golden", old) as address:
        yield address


@pytest.fixture(scope="module")
def exported(old: Path) -> Path:
    """A model that this version exports of the old run."""
    steps.export(old, "models/again")
    return old / "models" / "again"


def results(run: Path) -> Any:
    return facts.read_json(run / "metrics.json")


# It reads what is there.


def test_an_old_dataset_and_old_checkpoints_verify(old: Path) -> None:
    succeed("verify", "data/golden", at=old)
    for version in NEWER:
        steps.copy_newer(version, old / version.name)
        succeed("verify", f"{version.name}/data/golden", at=old)
    for run in RANKS:
        succeed("checkpoint", "verify", f"runs/{run}", at=old)


@pytest.mark.parametrize("run", RANKS)
def test_an_old_run_evaluates_to_its_metrics(old: Path, run: str) -> None:
    was = results(old / "runs" / run)
    for split in ("valid", "test"):
        now = json.loads(succeed("evaluate", f"runs/{run}", "--split", split, "--json", at=old))
        fail(far(was[split]["tasks"], now[split]["tasks"]), f"runs/{run}, {split}")


@pytest.mark.parametrize("run", RANKS)
def test_an_old_run_goes_on_from_its_middle_to_its_end(old: Path, run: str) -> None:
    was, resumed = old / "runs" / run, old / "later" / run
    shutil.copytree(was, resumed)
    shutil.rmtree(resumed / "checkpoints" / f"step-{LAST}")  # as if the run had been killed before
    for name in ("latest", "best"):
        (resumed / "checkpoints" / name).write_text(f"step-{MIDDLE}")
    (resumed / "metrics.json").unlink()
    assert f"checkpoints/step-{MIDDLE}" in succeed("train", "--resume", "--run-dir", f"later/{run}", at=old)
    for split in ("valid", "test"):
        fail(far(results(was)[split]["tasks"], results(resumed)[split]["tasks"]), f"{split} of a resumed {run}")
    fail(far(losses(was), losses(resumed)), f"train.jsonl of a resumed {run}")


def losses(run: Path) -> list[Any]:
    """Split, step and losses of every record, without how fast it was."""
    records = facts.read_lines(run / "train.jsonl")
    return [{key: record[key] for key in ("split", "step", "epoch", "samples", "loss", "tasks")} for record in records]


def test_an_old_dataset_is_appended_to_and_an_old_run_trains_on(old: Path) -> None:
    steps.append(old)
    hold(facts.dataset(old / "data" / "next"), "dataset", "next", exact=True)
    start = ("--init-from", f"runs/one:step-{LAST}", "--plan", "runs/one/plan.json")
    further = ("--set", "data.path=data/next", "--set", "train.steps=2", "--run-dir", "later/further")
    succeed("train", "--config", "ple.toml", *start, *further, at=old)


def test_an_old_run_is_exported_as_it_was(old: Path, exported: Path) -> None:
    hold(facts.model(exported), "model")
    version = exported / VERSION.relative_to("models/golden")
    for was in sorted((old / VERSION / "tables").iterdir()):
        assert (version / "tables" / was.name).read_bytes() == was.read_bytes(), f"{was.name}: other bytes. {RULE}"


def test_an_old_model_is_served_with_its_scores(server: str) -> None:
    was = facts.read_json(ARTEFACTS / "expected" / "ranked.json")
    status, now = facts.ask(f"{server}/v1/rank", was["request"])
    assert status == 200, now
    fail(far(was["answer"], now), "/v1/rank")


def test_an_old_run_and_fusion_predict_their_scores(old: Path) -> None:
    steps.predict(old, "predictions-again")
    was, now = (pq.read_table(next((old / name).glob("*.parquet"))) for name in ("predictions", "predictions-again"))
    fail(far(was.to_pydict(), now.to_pydict()), "predictions")
    hold(facts.predictions(old / "predictions-again"), "predictions")
    raw = ("--data", "raw/next", "--from", "raw", "--fusion", "runs/one/fusion/fusion.toml", "--out", "predictions-raw")
    succeed("predict", "runs/one", *raw, at=old)


def test_an_old_run_is_fused(old: Path) -> None:
    shutil.move(old / "runs" / "one" / "fusion", old / "fusion")
    try:
        steps.fuse(old)
        hold(facts.fusion(old / "runs" / "one" / "fusion"), "fusion")
    finally:
        shutil.rmtree(old / "runs" / "one" / "fusion", ignore_errors=True)
        shutil.move(old / "fusion", old / "runs" / "one" / "fusion")


def test_old_plans_and_runs_are_compared(old: Path) -> None:
    hold(facts.outputs(old), "outputs")
    assert "every table lies where it did" in succeed("plan", "--compare", "plan.json", "again.json", at=old)
    succeed("report", "runs/one", at=old)
    assert (old / "runs" / "one" / "report.html").is_file()


def test_no_file_of_a_version_is_that_of_the_version_before(tmp_path: Path) -> None:
    for version, before in itertools.pairwise(NEWER):
        steps.copy_newer(before, tmp_path / before.name)
        for file in version.rglob("*"):
            older = tmp_path / before.name / file.relative_to(version)
            if file.is_file() and older.is_file():
                assert file.read_bytes() != older.read_bytes(), f"{file} equals that of {before.name}: remove it"


def test_a_golden_that_does_not_exist_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no expected/preparation\.json .*python -m tests\.golden\.make"):
        hold({}, "preparation")
    with pytest.raises(AssertionError, match=r"expected/dataset\.json has no 'shop', only csv, golden, next"):
        hold({}, "dataset", "shop")


def test_no_artefact_names_a_folder_of_a_machine(exported: Path) -> None:
    files = [file for folder in (ARTEFACTS, exported) for file in folder.rglob("*") if file.is_file()]
    assert [str(file) for file in files if _FOLDERS.search(file.read_bytes())] == []
    assert [str(file) for file in files if str(REPOSITORY).encode() in file.read_bytes()] == []


# It writes the same.


@pytest.mark.parametrize("name", ["golden", "csv"])
def test_prep_writes_the_same_bytes(prepared: Path, name: str) -> None:
    hold(facts.dataset(prepared / "data" / name), "dataset", name, exact=True)


@pytest.mark.slow
@pytest.mark.spark
def test_prep_on_spark_writes_the_same_bytes(tmp_path: Path) -> None:
    shutil.copytree(ARTEFACTS / "raw", tmp_path / "raw")
    steps.copy_configurations(tmp_path)
    steps.prepare(tmp_path, "--engine", "spark")
    for name in ("golden", "csv"):
        hold(facts.dataset(tmp_path / "data" / name), "dataset", name, exact=True)


def check_run(run: str, at: Path, scratch: Path) -> None:
    hold(facts.run(at / "runs" / run), "run", run)
    hold(facts.checkpoint(Path("runs") / run, at), "checkpoint", run, exact=True)
    was, now = (folder / "runs" / run for folder in (ARTEFACTS, at))
    for split in ("valid", "test"):
        fail(far(results(was)[split]["tasks"], results(now)[split]["tasks"]), f"{split} of a new {run}")
    for step in (MIDDLE, LAST):
        saved = (tensors(folder / "checkpoints" / f"step-{step}", scratch) for folder in (was, now))
        fail(far_tensors(*saved), f"step-{step} of a new {run}")


def test_a_run_writes_the_same_keys_tensors_and_weights(trained_on: Path) -> None:
    steps.train("one", trained_on)
    check_run("one", trained_on, trained_on)


@pytest.mark.slow
def test_a_run_of_two_ranks_writes_the_same_keys_tensors_and_weights(trained_on: Path) -> None:
    steps.train("two", trained_on)
    check_run("two", trained_on, trained_on)


def test_the_server_speaks_the_same(server: str) -> None:
    hold(facts.server(server), "server")


def test_verbs_take_the_same_options_and_keys(tmp_path: Path) -> None:
    hold(command_line.options(tmp_path), "options")
    hold(command_line.configuration_keys(tmp_path), "configuration")


def test_the_program_reads_the_same_variables() -> None:
    there = command_line.words()
    gone = [f"  {name}: is gone" for name in facts.read_json(ARTEFACTS / "expected" / "environment.json")]
    fail([line for line in gone if line.split(":")[0].strip() not in there], "variables of the environment")


def test_verbs_end_with_the_same_exit_codes(old: Path) -> None:
    hold(command_line.exit_codes(old), "exit_codes", "of one process")


@pytest.mark.slow
def test_verbs_of_many_runs_end_with_the_same_exit_codes(old: Path) -> None:
    hold(command_line.exit_codes_of_many_runs(old), "exit_codes", "of many runs")
