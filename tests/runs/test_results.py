import math
from typing import Any

import pytest

from ple_rec.runs.metrics import group_by_kind, paper_sources
from ple_rec.runs.results import format_results, slice_name
from ple_rec.runs.warnings import Dominant
from ple_rec.text.json_values import as_number
from ple_rec.text.units import metric_text, short_bytes, short_count, short_duration

INCOME = {"auc": 0.95831, "auc_error_bound": 0.0, "ne": 0.57123, "logloss": 0.12163, "calibration": 1.00412}
MARRIED = {"auc": 0.99512, "auc_error_bound": 1.2e-5, "ne": 0.12094, "logloss": 0.08312, "calibration": 0.99306}
PAPER_ENTRY = {"model": "PLE", "table": "Table 5"}


def metrics(**tasks: dict[str, Any]) -> dict[str, Any]:
    return {"test": {"tasks": tasks}}


def test_binary_and_regression_tasks_with_the_papers_figures() -> None:
    run = metrics(
        income=INCOME | {"samples": 49881},
        never_married=MARRIED | {"samples": 49881},
        vcr={"mse": 0.13071, "rmse": 0.36154, "mae": 0.28013, "samples": 1234567},
    )
    run["paper"] = {"income": {"auc": 0.9522, **PAPER_ENTRY}, "never_married": {"auc": 0.9945, **PAPER_ENTRY}}
    assert format_results(run) == (
        "test              AUC   paper      NE  log loss  calibration  samples\n"
        "income         0.9583  0.9522  0.5712    0.1216       1.0041   49,881\n"
        "never_married  0.9951  0.9945  0.1209    0.0831       0.9931   49,881\n"
        "\n"
        "test     MSE    RMSE     MAE    samples\n"
        "vcr   0.1307  0.3615  0.2801  1,234,567\n"
        "paper: PLE, Table 5\n"
        "AUC from a histogram, error at most: never_married +-1.2e-05"
    )


def test_figures_of_few_samples_are_named_with_the_reason() -> None:
    run = metrics(
        click={"auc": 0.7, "samples": 5000, "positives": 800},
        buy={"auc": 0.9, "samples": 5000, "positives": 3},
        refund={"auc": None, "samples": 5000, "positives": 0},
        watch={"mse": 0.5, "samples": 12},
    )
    assert format_results(run).splitlines()[-3:] == [
        "buy: few samples: 3 positives; its figures say little",
        "refund: one class only; its figures say little",
        "watch: few samples; its figures say little",
    ]


def test_a_gauc_over_few_groups_is_named() -> None:
    click = {"auc": 0.7, "gauc": 0.65, "samples": 5000, "positives": 800, "gauc_groups": 13}
    assert format_results(metrics(click=click)).splitlines()[-1] == "click: few groups: 13; its GAUC says little"
    assert "say" not in format_results(metrics(click=click | {"gauc_groups": 30}))


WORSE = (
    "Fix: look at its curves in report.html: where valid rises while train falls, stop earlier (early_stopping) or "
    "take a smaller embeddings.dim; where both still fall, train longer; where it jumps, lower the learning rates"
)


def test_tasks_that_a_constant_predicts_better_are_told_below_the_table() -> None:
    run = metrics(
        click={"ne": 253231.0, "logloss": 170584.2},
        like={"ne": 1.0, "logloss": 0.5},  # as good as the constant
        watch={"mse": 5.0, "r2": -1.5},
        stars={"mse": 5.0, "r2": 0.01},
        dwell={"mse": 0.0226, "r2": -0.0099},  # within 1 %: the two figures would read the same
        rare={"ne": None, "logloss": 9.0},
        same={"mse": 9.0, "r2": None},
        old={"mse": 9.0},  # of an earlier version
    )
    told = [line for line in format_results(run).splitlines() if "warning" in line]
    above = "on test is above the"
    assert told == [
        f"warning: click: log loss 1.706e+05 {above} 0.6736 of always predicting its rate there. {WORSE}",
        f"warning: watch: MSE 5.0000 {above} 2.0000 of always predicting its mean there. {WORSE}",
    ]


def test_beside_a_task_that_is_the_whole_loss_its_label_is_what_to_mend() -> None:
    run = metrics(click={"ne": 1.5, "logloss": 0.9}, watch={"mse": 9.0e5, "r2": 0.1})
    told = format_results(run, dominant=Dominant("watch", 0.99994))
    assert told.splitlines()[-1] == (
        "warning: click: log loss 0.9000 on test is above the 0.6000 of always predicting its rate there. Fix: watch "
        "is 99.99% of the loss: prepare its label in a larger unit, so that its size is near 1, or train it with a "
        "smaller weight (tasks.weight)"
    )


def test_the_papers_figure_stands_beside_the_metric_it_compares_with() -> None:
    run = metrics(vtr={"auc": 0.7, "samples": 1000}, vcr={"mse": 0.13, "mae": 0.25, "samples": 1000})
    run["paper"] = {"vcr": {"mse": 0.1307, "model": "PLE", "table": "Table 1"}}
    assert format_results(run) == (
        "test     AUC  samples\n"
        "vtr   0.7000    1,000\n"
        "\n"
        "test     MSE   paper     MAE  samples\n"
        "vcr   0.1300  0.1307  0.2500    1,000\n"
        "paper: PLE, Table 1"
    )


def test_a_task_without_a_paper_figure_and_an_undefined_metric_are_dashes() -> None:
    run = metrics(ctr={"auc": 0.61, "ne": 0.9, "samples": 100}, cvr={"auc": None, "ne": math.nan, "samples": 7})
    run["paper"] = {"ctr": {"auc": 0.6112, **PAPER_ENTRY}}
    assert format_results(run) == (
        "test     AUC   paper      NE  samples\n"
        "ctr   0.6100  0.6112  0.9000      100\n"
        "cvr        -       -       -        7\n"
        "paper: PLE, Table 5\n"
        "cvr: AUC undefined; its figures say little"
    )


def test_another_split_and_one_that_is_absent() -> None:
    run = {"valid": {"tasks": {"ctr": {"auc": 0.5}}}}
    assert format_results(run, "valid") == "valid     AUC\nctr    0.5000"
    assert format_results(run) == "test: no metrics"


def test_gauc_says_over_how_many_groups() -> None:
    exact = {"gauc_groups": 1203, "gauc_excluded_groups": 0, "gauc_ungrouped": 0, "gauc_interval": None}
    sampled = {"gauc_groups": 900, "gauc_excluded_groups": 1700, "gauc_ungrouped": 4, "gauc_interval": [0.61, 0.63]}
    sampled["gauc_oversized_groups"] = 2
    run = metrics(ctr={"auc": 0.7, "gauc": 0.65} | exact, cvr={"auc": 0.8, "gauc": 0.62} | sampled)
    assert format_results(run) == (
        "test     AUC    GAUC\n"
        "ctr   0.7000  0.6500\n"
        "cvr   0.8000  0.6200\n"
        "GAUC over groups with both classes: ctr 1,203; cvr 900 (without 1,700 of one class and 2 too large for the "
        "sample and 4 rows of no group), within 0.6100 to 0.6300"
    )
    assert "GAUC" not in format_results(metrics(ctr={"auc": 0.7}))


def test_gauc_by_subgroup_stands_beside_gauc_and_both_say_by_what() -> None:
    counts = {"gauc_groups": 1203, "subgroup_gauc_groups": 29, "subgroup_gauc_ungrouped": 4}
    run = metrics(ctr={"auc": 0.7, "gauc": 0.65, "subgroup_gauc": 0.625} | counts)
    run["gauc_by"] = {"gauc": "user_id", "subgroup_gauc": "user_id, time.day"}
    assert format_results(run) == (
        "test     AUC    GAUC  subgroup GAUC\n"
        "ctr   0.7000  0.6500         0.6250\n"
        "GAUC by user_id over groups with both classes: ctr 1,203\n"
        "subgroup GAUC by user_id, time.day over groups with both classes: ctr 29 (without 4 rows of no group)\n"
        "ctr: few groups: 29; its subgroup GAUC says little"
    )


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"value": "NL"}, "NL"),
        ({"value": True}, "true"),
        ({"value": None, "missing": True}, "(missing)"),
        ({"value": None, "other": True}, "(other)"),
        ({"value": None}, "(no value)"),
        ({"value": ""}, "(empty text)"),
        ({"value": "(missing)"}, '"(missing)"'),
        ({"value": "(other)"}, '"(other)"'),
        ({"value": "(empty text)"}, '"(empty text)"'),
        ({"value": '"(missing)"'}, '""(missing)""'),
        ({"value": "(a)"}, "(a)"),
        ({"value": "\x1b[2Ja\nb\u202e"}, "\\x1b[2Ja\\nb\\u202e"),
        ({"value": "x" * 99 + "y" * 99}, "x" * 19 + "..." + "y" * 18),
        ({"value": "z" * 40}, "z" * 40),
    ],
)
def test_how_the_value_of_a_slice_reads(entry: dict[str, Any], text: str) -> None:
    assert slice_name(entry) == text


def test_no_name_from_a_file_reaches_the_terminal_raw() -> None:
    bad = "\x1b[31m\r\n" + "t" * 300
    values = {"auc": 0.5, "auc_error_bound": 0.1, "gauc_groups": 3, "gauc_interval": None, "samples": 1}
    run = metrics(**{bad: values, bad + "u": values})
    run["paper"] = {name: {"auc": 0.5, "model": f"PLE {name[-1]}\x07"} for name in (bad, bad + "u")}
    run["test"]["slices"] = [{"column": bad, "values": [{"value": bad, "samples": 3, "tasks": {bad: values}}]}]
    text = format_results(run)
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    starts = [r"\x1b[31m\r\nt"] * 2 + [r"paper: PLE t\x07 (\x1b[31m\r\nt", r"paper: PLE u\x07 (\x1b[31m\r\nt"]
    starts += [r"AUC from a histogram, error at most: \x1b[31m\r\nt", r"GAUC over groups with both classes: \x1b[31m\r"]
    starts += [r"\x1b[31m\r\nt"] * 2  # few samples
    starts += [r"by \x1b[31m\r\nt", r"\x1b[31m\r\nt"]
    told = [line for line in lines if "x1b[31m" in line]
    assert all(line.startswith(start) for line, start in zip(told, starts, strict=True))
    assert "t" * 40 not in text


def test_different_sources_name_their_tasks() -> None:
    run = metrics(ctr={"auc": 0.6}, cvr={"auc": 0.7}, vtr={"auc": 0.8})
    run["paper"] = {
        "ctr": {"auc": 0.61, **PAPER_ENTRY},
        "cvr": {"auc": 0.62, **PAPER_ENTRY},
        "vtr": {"auc": 0.68, "model": "CGC", "table": "Table 1"},
    }
    assert paper_sources(run, ["ctr", "cvr", "vtr"]) == {"PLE, Table 5": ["ctr", "cvr"], "CGC, Table 1": ["vtr"]}
    assert format_results(run).splitlines()[-2:] == ["paper: PLE, Table 5 (ctr, cvr)", "paper: CGC, Table 1 (vtr)"]


def test_groups_keep_the_order_of_tasks() -> None:
    assert group_by_kind({"r": {"mse": 1}, "b": {"auc": 1}, "a": {}}) == [["b", "a"], ["r"]]
    assert group_by_kind({"r": {"mse": None}}) == [["r"]]


@pytest.mark.parametrize("value", [None, "0.5", True, math.nan, math.inf, [1.0], 10**400])
def test_what_is_no_finite_number_counts_as_absent(value: object) -> None:
    assert as_number(value) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.95831, "0.9583"), (0.0, "0.0000"), (0.00012, "1.200e-04"), (-3.5, "-3.5000"), (123456.0, "1.235e+05")],
)
def test_metric_text(value: float, text: str) -> None:
    assert metric_text(value) == text


def test_short_texts() -> None:
    assert [short_count(v) for v in (0, 987, 0.25, 999.6, 1234, 46_926_000, 1.2e12)] == [
        "0",
        "987",
        "0.25",
        "1.00 k",
        "1.23 k",
        "46.9 M",
        "1.20 T",
    ]
    assert [short_bytes(v) for v in (512, 1 << 20, 1_589_000_000)] == ["512 B", "1.00 MiB", "1.48 GiB"]
    assert [short_duration(v) for v in (12.34, 59.97, 245, 3599.6, 12_000, 187_200)] == [
        "12.3 s",
        "1 min 00 s",
        "4 min 05 s",
        "1 h 00 min",
        "3 h 20 min",
        "2 d 04 h",
    ]


def test_the_papers_figures_are_of_test_data_alone() -> None:
    run = {
        "valid": {"tasks": {"income": INCOME | {"samples": 1000}}},
        "paper": {"income": {"auc": 0.9522, **PAPER_ENTRY}},
    }
    assert format_results(run, "valid") == (
        "valid      AUC      NE  log loss  calibration  samples\nincome  0.9583  0.5712    0.1216       1.0041    1,000"
    )
