import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ple_rec.errors import UserError
from ple_rec.reports.run.page import write_report
from tests.reports.rich import write_rich_run
from tests.reports.runs import CONFIG, METRICS, TEST, VALID, Page, make_run, report
from tests.reports.samples import HOSTILE, write_hostile_run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report(make_run(tmp_path_factory.mktemp("runs") / "census"))


def test_every_chart_is_well_formed_and_named(page: Page) -> None:
    svgs = page.svgs()
    names = [svg.get("aria-label") for svg in svgs]
    assert names == [
        "Loss of income over training steps",
        "NE of income over training steps",
        "AUC of income over training steps",
        "Loss of vcr over training steps",
        "MSE of vcr over training steps",
        "RMSE of vcr over training steps",
        "Calibration of income",
        "ROC curve of income",
        "Samples per second",
        "Data wait",
        "Learning rate",
    ]
    assert [svg.findtext("{http://www.w3.org/2000/svg}title") for svg in svgs] == names


@pytest.mark.parametrize(("factor", "panels"), [(1.0, ["MSE"]), (0.5, ["Loss", "MSE"])], ids=["mse", "huber"])
def test_a_loss_that_is_no_mse_does_not_stand_beside_one(factor: float, panels: list[str], tmp_path: Path) -> None:
    log: list[dict[str, Any]] = []
    for step in (10, 20):
        head = {"step": step, "epoch": 0, "samples": step, "seconds": step, "loss": 1.0}
        log.append({"split": "train", **head, "tasks": {"vcr": {"loss": factor * 0.2, "mse": 0.2, "weight": 1.0}}})
        log.append({"split": "valid", **head, "tasks": {"vcr": {"mse": 0.25}}, "best": True})
    names = [svg.get("aria-label") or "" for svg in report(make_run(tmp_path, log=log)).svgs()]
    assert [name.split()[0] for name in names if "of vcr over" in name] == panels


def test_ids_are_unique_and_every_reference_is_inside_the_page(page: Page) -> None:
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    links = page.attributes("href")
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {link for link in links if not link.startswith("#")} == {"data:,"}


def test_the_page_loads_nothing(page: Page) -> None:
    assert not page.attributes("src")
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert set(re.findall(r"https?://[^\"\s]*", page.source)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page.source
    assert re.findall(r"url\((?!#)", page.source) == []
    policies = [attributes.get("content") for _, attributes in page.elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_results_show_every_task_and_value(page: Page) -> None:
    for value in (
        "0.9583 \u00b12e-05 0.9522 0.5712 0.1216 1.0041 49,881 3,093",
        "income test 0.0620",
        "0.9571",
        "0.5800",
    ):
        assert value in page.text
    for value in ("vcr test 0.1307 0.3615 0.2801 49,882", "valid 0.1322"):
        assert value in page.text
    assert "Paper: PLE, Table 5." in page.text


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write_rich_run(tmp_path_factory.mktemp("rich"))).read_text(encoding="utf-8")


@pytest.mark.parametrize("section", ["results", "curves", "calibration", "slices"])
def test_every_metric_is_explained_where_it_stands(section: str, rich: str) -> None:
    (part,) = re.findall(rf'<section id="{section}">(.*?)</section>', rich, flags=re.DOTALL)
    explained = set(re.findall(r"<dt>(.*?)</dt><dd>[^<]{10,}</dd>", part))
    heads = set(re.findall(r'<th scope="col">([^<]+)</th>', part))  # those of metrics: names of rows are "text"
    if section == "curves":
        heads = set(re.findall(r"<figcaption>(.*?) <small>", part))
    if section == "calibration":
        heads = {"calibration", "AUC"}
    assert len(heads) > 1
    assert heads - {"paper"} == explained


def test_a_number_that_has_no_explanation_is_shown(tmp_path: Path) -> None:
    metrics = {"test": {"tasks": {"income": {**TEST["income"], "lift_at_5": 3.25}}}}
    section = report(make_run(tmp_path, metrics, log=[])).section("results")
    assert "mean label lift at 5 income test 0.0620 3.2500" in section
    assert section.count("lift at 5") == 1


def test_a_task_of_few_samples_is_named_below_the_results(tmp_path: Path) -> None:
    rare = METRICS["test"] | {"tasks": {**TEST, "income": TEST["income"] | {"positives": 3}}}
    make_run(tmp_path, metrics={**METRICS, "test": rare})
    assert "test: income: few samples: 3 positives; its figures say little." in report(tmp_path).text


def test_gauc_stands_beside_auc_with_its_interval_and_groups(tmp_path: Path) -> None:
    gauc = {"gauc": 0.64123, "gauc_groups": 8120, "gauc_excluded_groups": 412, "gauc_interval": [0.638, 0.6441]}
    metrics = {"test": {"tasks": {"income": {**TEST["income"], **gauc}}}}
    page = report(make_run(tmp_path, metrics, log=[]))
    assert "0.6412 0.6380\u20130.6441 0.5712" in page.section("results")
    assert "mean label groups groups of one class income test 0.0620 8,120 412" in page.section("results")


def test_curves_carry_the_figure_that_they_come_to(page: Page) -> None:
    assert "income calibration 1.0041 Calibration of income" in page.section("calibration")
    assert "income ROC, AUC 0.9583 ROC curve of income" in page.section("calibration")


def test_a_section_without_content_is_left_out_of_page_and_navigation(page: Page) -> None:
    assert "#weights" not in page.attributes("href")
    assert "weights" not in page.attributes("id")


def test_damaged_parts_of_metrics_are_named_and_left_out(tmp_path: Path) -> None:
    test = {"tasks": TEST, "curves": [1], "gates": {"level": 1}, "slices": "x"}
    page = report(make_run(tmp_path, {**METRICS, "test": test, "table_health": {"user": 3}}, log=[]))
    assert "metrics.json holds curves, gates, slices, table_health in an unexpected form; left out." in page.text
    for section in ("calibration", "gates", "health"):
        assert "Not recorded" in page.section(section)


def test_slices_that_were_asked_for_and_are_absent_are_named(tmp_path: Path) -> None:
    config = CONFIG + '[evaluation]\nslices = ["sex"]\n'
    page = report(make_run(tmp_path, METRICS, log=[], config=config))
    assert "metrics.json has no metrics by slice." in page.text
    assert page.section("slices") == "Metrics by slice Not recorded."


def test_head_and_key_figures(page: Page) -> None:
    for fact in (
        "finished variant ple data data/census seed 7 log written",
        "Steps 500 best checkpoint at 300, mean.auc 0.9062",
    ):
        assert fact in page.text
    for figure in (
        "Samples seen 2.05 M epoch 3",
        "Training time 4 min 10 s",
        "Samples per second 132 k data wait 2.0 %",
        "Peak memory 1.82 GiB",
        "Dense parameters 412 k and 794 M in tables",
        "FLOPs per sample 823 k",
        "Ranks 2",
    ):
        assert figure in page.text
    assert "missing or odd" not in page.text


def test_placement_lists_the_largest_table_first_with_a_total(page: Page) -> None:
    assert (
        "user 46,926,000 16 2.80 GiB row_wise fused 0-2, 5 state 51 16 3.19 KiB table_wise fused 1 "
        "2 tables 46,926,051 2.80 GiB" in page.text
    )


def test_config_and_versions_stand_at_the_end(page: Page) -> None:
    assert " ".join(CONFIG.split()) in page.text
    assert "details" in {tag for tag, _ in page.elements}
    assert "torch 2.13.0+cpu config fingerprint 6b1f0c2d9a3e dataset fingerprint a95a29a5430d" in page.text


def test_learning_curves_name_the_value_at_the_best_checkpoint(page: Page) -> None:
    assert f"NE valid {0.55 + 0.4 * math.exp(-300 / 200):.4f} at best" in page.text
    assert "best checkpoint at 300" in page.text


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    for directory in (first, second):
        os.utime(directory / "train.jsonl", (1_800_000_000, 1_800_000_000))
    pages = [write_report(directory).read_bytes() for directory in (first, second)]
    assert pages[0] == pages[1]
    assert b"log written 2027-01-15 08:00 UTC" in pages[0]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = report(write_hostile_run(tmp_path))
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) > 20
    assert f"NE of {HOSTILE} over training steps" in [svg.get("aria-label") for svg in page.svgs()]


def test_an_interrupted_run_shows_its_last_evaluation(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "plan.json").unlink()
    with (tmp_path / "train.jsonl").open("a") as log:
        log.write('{"split": "train", "st')
    page = report(tmp_path)
    assert "interrupted or still running" in page.text
    assert "The last evaluation in the log, at step 500." in page.text
    assert "income valid 0.9500 0.5828" in page.text
    for note in (
        "plan.json is missing: the placement of the embedding tables is unknown.",
        "metrics.json is missing: the run was interrupted or still goes on, so there are no final results.",
        "The last line of train.jsonl is cut off (the run was killed while writing it); skipped.",
    ):
        assert note in page.text
    assert len(page.svgs()) == 9


def test_absent_parts_of_metrics_are_named(tmp_path: Path) -> None:
    page = report(make_run(tmp_path, {"valid": {"tasks": VALID}}, log=[]))
    missing = "no test results, no calibration and ROC curves, no gate weights, no table health"
    assert f"metrics.json has {missing}." in page.text
    assert "not evaluated on test" in page.text
    for section in ("calibration", "gates", "health"):
        assert "Not recorded" in page.section(section)
    assert "Versions Not recorded." in page.text


def test_a_run_that_is_not_to_be_tested_is_finished(tmp_path: Path) -> None:
    config = CONFIG + "[evaluation]\ntest = false\n"
    page = report(make_run(tmp_path, {"valid": {"tasks": VALID}}, log=[], config=config))
    assert "finished; not evaluated on test" in page.text
    assert "no test results" not in page.text


@pytest.mark.parametrize("name", ["config.toml", "plan.json", "train.jsonl", "metrics.json"])
def test_any_single_file_makes_a_page(tmp_path: Path, name: str) -> None:
    make_run(tmp_path)
    for path in tmp_path.iterdir():
        if path.name != name:
            path.unlink()
    page = report(tmp_path)
    assert f"{name} is missing" not in page.text
    assert page.text.count("is missing:") == 3


def test_a_model_without_gates_or_tables_says_so(tmp_path: Path) -> None:
    metrics = {**METRICS, "test": {"tasks": TEST, "gates": [], "curves": {}}}
    page = report(make_run(tmp_path, metrics, log=[], plan={"version": 1, "world_size": 1, "tables": []}))
    assert "This model has no gates." in page.text
    assert "The model has no embedding tables." in page.text


def test_parts_of_an_unexpected_shape_do_not_stop_the_page(tmp_path: Path) -> None:
    metrics = {"test": {"tasks": {"income": None, "vcr": {"mse": "low"}}, "curves": {"income": None}, "gates": [{}]}}
    log = [{"split": "train", "step": 1, "tasks": {"income": 3, "vcr": {"loss": None}}, "samples": math.nan}]
    page = report(make_run(tmp_path, {**metrics, "parameters": None}, log, "name = 3\nmodel = 4\n", {"tables": None}))
    assert "finished" in page.text
    assert "vcr test \u2013" in page.text


def test_many_tables_are_folded_away(tmp_path: Path) -> None:
    tables = [{"table": f"t{i}", "rows": 10, "dim": 4, "bytes": 160, "ranks": [0]} for i in range(40)]
    page = report(make_run(tmp_path, log=[], plan={"world_size": 1, "tables": tables}))
    assert "<details><summary>40 tables, 6.25 KiB</summary>" in page.source


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    make_run(tmp_path, metrics={}, log=[])
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError) as error:
        write_report(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'report.html'}: cannot be written (Is a directory); the report is a file in the run directory. "
        "Fix: free disk space, or make the path writable; the run's other files are untouched"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.toml",
        "metrics.json",
        "plan.json",
        "report.html",
        "train.jsonl",
    ]


def test_torch_is_not_imported() -> None:
    code = "import sys, ple_rec.reports.run.page; print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["False", "False"]


def test_overfitting_is_a_note(tmp_path: Path) -> None:
    losses = {"train": [0.6, 0.5, 0.4, 0.3], "valid": [0.5, 0.52, 0.54, 0.6]}
    log = [
        {"split": split, "step": 100 * (i + 1), "loss": loss, "tasks": {}}
        for split, values in losses.items()
        for i, loss in enumerate(values)
    ]
    text = report(make_run(tmp_path, log=log)).text
    assert "the model overfits: the validation loss rose from 0.5000 at step 100 to 0.6000" in text
