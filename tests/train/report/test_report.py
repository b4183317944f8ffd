import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ple_rec.errors import UserError
from ple_rec.train.report.page import write_report

VOID = {"meta", "link", "br"}
HOSTILE = "<script>alert('$x^2$')</script>&\"quoted\""

CONFIG = """name = "census-ple"
seed = 7

[model]
variant = "ple"

[data]
path = "data/census"
"""
PLAN = {
    "version": 1,
    "world_size": 2,
    "tables": [
        {
            "table": "state",
            "rows": 51,
            "dim": 16,
            "bytes": 3264,
            "sharding": "table_wise",
            "kernel": "fused",
            "ranks": [1],
        },
        {
            "table": "user",
            "rows": 46_926_000,
            "dim": 16,
            "bytes": 3_003_264_000,
            "sharding": "row_wise",
            "kernel": "fused",
            "ranks": [0, 1, 2, 5],
        },
    ],
}
TEST = {
    "income": {
        "auc": 0.95831,
        "auc_error_bound": 2e-5,
        "ne": 0.57123,
        "logloss": 0.12163,
        "calibration": 1.00412,
        "samples": 49881,
        "positives": 3093,
        "mean_label": 0.06201,
    },
    "vcr": {"mse": 0.13071, "rmse": 0.36154, "mae": 0.28013, "samples": 49882},
}
VALID = {"income": {"auc": 0.95712, "ne": 0.58001}, "vcr": {"mse": 0.13222}}
GATES = [
    {
        "level": 1,
        "outputs": ["income", "shared"],
        "experts": ["income.0", "vcr.0", "shared.0"],
        "mean": [[0.25, None, 0.75], [0.125, 0.5, 0.375]],
        "std": [[0.0625, None, 0.0625], [0.01, 0.02, 0.03]],
    }
]
METRICS: dict[str, Any] = {
    "valid": {"tasks": VALID},
    "test": {
        "tasks": TEST,
        "curves": {
            "income": {
                "calibration": [{"predicted": p, "observed": 1.1 * p, "weight": 10.0} for p in (1e-4, 1e-3, 1e-2, 0.2)],
                "roc": [[0, 0], [0.1, 0.8], [1, 1]],
            }
        },
        "gates": GATES,
    },
    "samples_per_second": 131876.2,
    "config_fingerprint": "6b1f0c2d9a3e",
    "dataset_fingerprint": "a95a29a5430d",
    "parameters": {"dense": 412345, "tables": 793728992},
    "flops_per_sample": 823456,
    "best_step": 300,
    "versions": {"torch": "2.13.0+cpu"},
    "paper": {"income": {"auc": 0.9522, "model": "PLE", "table": "Table 5"}},
}


def records() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(100, 600, 100):
        ne = 0.55 + 0.4 * math.exp(-step / 200)
        income = {"loss": ne / 4, "ne": ne, "auc": 1 - ne / 10, "weight": 1.0}
        rows.append(
            {
                "split": "train",
                "step": step,
                "epoch": step // 250,
                "samples": step * 4096,
                "seconds": step * 0.5,
                "loss": 0.4,
                "learning_rate": 1e-3,
                "tasks": {"income": income, "vcr": {"loss": 0.13, "weight": 1.0}},
                "samples_per_second": 130_000 + step,
                "data_wait": 0.02,
                "peak_bytes": 1_950_000_000,
            }
        )
        evaluation = {"income": {"auc": 0.95, "ne": ne, "logloss": ne / 4}, "vcr": {"mse": 0.14, "rmse": 0.37}}
        rows.append({"split": "valid", "step": step, "tasks": evaluation})
    return rows


def make_run(
    directory: Path,
    metrics: Any = METRICS,
    log: list[dict[str, Any]] | None = None,
    config: str = CONFIG,
    plan: Any = PLAN,
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(config)
    (directory / "plan.json").write_text(json.dumps(plan))
    (directory / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (records() if log is None else log))
    )
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return directory


class Page(HTMLParser):
    """A parsed report: its elements, its text, and a check that every tag is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def svgs(self) -> list[ET.Element]:
        return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.source, flags=re.DOTALL)]

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


def report(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


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
        "RMSE of vcr over training steps",
        "Calibration of income",
        "ROC curve of income",
        "Samples per second",
        "Data wait",
        "Learning rate",
    ]
    assert [svg.findtext("{http://www.w3.org/2000/svg}title") for svg in svgs] == names


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
    for value in ("0.9583 \u00b12e-05 0.9522 0.5712 0.1216 1.0041 49,881 3,093 0.0620", "0.9571", "0.5800"):
        assert value in page.text
    for value in ("vcr test 0.1307 0.3615 0.2801 49,882", "valid 0.1322"):
        assert value in page.text
    assert "Paper: PLE, Table 5." in page.text


def test_head_and_key_figures(page: Page) -> None:
    for fact in ("finished variant ple data data/census seed 7 log written", "Steps 500 best checkpoint at 300"):
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


def test_gates_show_mean_and_deviation_and_leave_unread_experts_blank(page: Page) -> None:
    titles = page.attributes("title")
    assert "income reads shared.0: mean 0.7500, standard deviation 0.0625" in titles
    assert "income does not read vcr.0" in titles
    assert "Level 1 output income vcr shared 0 0 0 income 0.250 \u00b10.062 0.750 \u00b10.062 shared 0.125" in page.text
    shades = [style for style in page.attributes("style") if style.startswith("--w:")]
    assert shades == ["--w:25.0%", "--w:75.0%", "--w:12.5%", "--w:50.0%", "--w:37.5%"]


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
    log = [{**row, "tasks": {HOSTILE: row["tasks"]["income"]}} for row in records()]
    gate = {"level": HOSTILE, "outputs": [HOSTILE], "experts": [HOSTILE + ".0"], "mean": [[1.0]], "std": [[0.0]]}
    metrics = {
        "test": {
            "tasks": {HOSTILE: {**TEST["income"], HOSTILE: 3}},
            "curves": {HOSTILE: METRICS["test"]["curves"]["income"]},
            "gates": [gate],
        },
        HOSTILE: {"tasks": {HOSTILE: {"auc": 0.5}}},
        "versions": {HOSTILE: HOSTILE},
        "paper": {HOSTILE: {"auc": 0.9, "model": HOSTILE, "table": HOSTILE}},
    }
    words = json.dumps(HOSTILE)
    config = f"name = {words}\n[model]\nvariant = {words}\n[data]\npath = {words}\n"
    plan = {"tables": [{"table": HOSTILE, "sharding": HOSTILE, "kernel": HOSTILE, "ranks": HOSTILE}]}
    page = report(make_run(tmp_path, metrics, log, config, plan))
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
    assert len(page.svgs()) == 8


def test_absent_parts_of_metrics_are_named(tmp_path: Path) -> None:
    page = report(make_run(tmp_path, {"valid": {"tasks": VALID}}, log=[]))
    assert "metrics.json has no test results, no calibration and ROC curves, no gate weights." in page.text
    assert "not evaluated on test" in page.text
    assert "Calibration and ROC Not recorded. Expert gates Not recorded." in page.text
    assert "Versions Not recorded." in page.text


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
    assert "40 tables, 6.25 KiB" in page.text
    assert [tag for tag, _ in page.elements].count("details") == 2


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
    code = "import sys, ple_rec.train.report.page; print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["False", "False"]
