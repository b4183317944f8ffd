import re
from typing import Any

import pytest

from tests.reports.runs import HEALTH, Page, in_memory, section


def shown(*tables: dict[str, Any]) -> Page:
    return section(in_memory(table_health=list(tables)), "health")


def entry(**changes: Any) -> dict[str, Any]:
    return HEALTH[0] | changes


def norms(**changes: Any) -> dict[str, Any]:
    return HEALTH[0]["norms"] | {key.removeprefix("q").replace("_", "."): value for key, value in changes.items()}


def test_a_row_per_table_with_its_figures_the_largest_first() -> None:
    page = shown(entry(table="small", rows=11, never_touched=1, lookups=12), entry())
    assert (
        "user 46,926,001 16 23,463 0.1 % norms of user: 1 % 0.002, 10 % 0.01, median 0.02, 90 % 0.04, 99 % 0.08; "
        "least 0.001, greatest 0.1 0.0200 0.00200\u20130.0800 199 M 25.0 % small 11 16 1 10.0 %" in page.text
    )
    assert "Worth a look" not in page.text
    assert "not recorded" not in page.text


def test_the_range_plot_spans_the_quantiles_on_the_axis_of_all_tables() -> None:
    page = shown(entry(norms={"0.01": 0.0, "0.1": 1.0, "0.5": 2.0, "0.9": 3.0, "0.99": 4.0}))
    strip = next(svg for svg in page.svgs('svg class="strip" ') if "norms" in (svg.get("aria-label") or ""))
    ends = {line.get("class"): (float(line.get("x1", "")), float(line.get("x2", ""))) for line in strip.iter("line")}
    assert ends["thin"][0] == 6
    assert 6 < ends["thick"][0] < ends["middle"][0] < ends["thick"][1] < ends["thin"][1] < 154
    assert ends["middle"][0] - 6 == pytest.approx((ends["thin"][1] - 6) / 2, abs=0.11)


def test_norms_that_differ_much_get_a_logarithmic_axis() -> None:
    page = shown(entry(), entry(table="long", norms=norms(q0_5=20.0, q0_9=40.0, q0_99=80.0, q1=90.0)))
    assert "norm of rows 0.01 1 100 median" in page.text


@pytest.mark.parametrize(("high", "ticks"), [(0.79, "0 0.84"), (0.81, "0.1 0.2 0.5 1")])
def test_the_axis_is_logarithmic_from_a_ratio_of_eight_on(high: float, ticks: str) -> None:
    quantiles = {"0.01": 0.1, "0.1": 0.2, "0.5": 0.3, "0.9": 0.5, "0.99": high}
    assert f"norm of rows {ticks} median" in shown(entry(norms=quantiles)).text


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"rows": 101, "never_touched": 62},
            "62 % of its rows were never touched; they hold random initial values. A higher frequency threshold in "
            "data preparation, or longer training, would leave fewer.",
        ),
        ({"rows": 101, "never_touched": 100}, "no row was trained; every one still holds its initial values."),
        ({"lookups": 0}, "the training split never looks it up."),
        (
            {"norms": norms(q0_99=0.5, q1=5.02)},
            "its longest row has norm 5.02, 10 times what 99 % of its rows stay below.",
        ),
        (
            {"rows": 50, "never_touched": 0, "norms": norms(q0_5=0.1, q0_9=0.2, q0_99=2.6, q1=5.0)},
            "its longest row has norm 5, 50 times the median of its rows.",
        ),
        (
            {"rows": 100, "never_touched": 0, "norms": norms(q0_5=0.1, q0_99=0.5, q1=4.0)},
            "its longest row has norm 4, 40 times the median of its rows.",
        ),
        (
            {"rows": 101, "never_touched": 0, "norms": norms(q0_5=0.1, q0_99=0.2, q1=4.0)},
            "its longest row has norm 4, 20 times what 99 % of its rows stay below.",
        ),
        ({"norms": norms(q1=8.0)}, "its longest row has norm 8, 100 times what 99 % of its rows stay below."),
        ({"norms": norms(q1=None)}, "some rows are not finite."),
        ({"norms": dict.fromkeys(HEALTH[0]["norms"])}, "some rows are not finite."),
        ({"norms": dict.fromkeys(HEALTH[0]["norms"], 0.0)}, "every row is zero."),
        ({"top_share": 0.95}, "95 % of its look-ups fall on 1 % of the rows; most rows see few samples."),
    ],
)
def test_what_is_odd_is_said_in_plain_words(changes: dict[str, Any], warning: str) -> None:
    assert f"Worth a look user : {warning} table rows" in shown(entry(**changes)).text


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 101, "never_touched": 50},
        {"top_share": 0.9},
        {"rows": 999, "never_touched": 0, "top_share": 0.99},
        {"norms": norms(q0_99=0.5, q1=5.0)},  # ten times what 99 % of the rows stay below, not more
        {"rows": 100, "never_touched": 0, "norms": norms(q0_5=0.5, q0_99=0.5, q1=5.0)},
        {"norms": norms(q0_5=0.0625, q0_99=0.5, q1=5.0)},  # far from the median, which does not count here
    ],
)
def test_what_is_usual_is_not_warned_of(changes: dict[str, Any]) -> None:
    assert "Worth a look" not in shown(entry(**changes)).text


def test_figures_that_are_null_are_dashes_and_the_reason_is_given() -> None:
    page = shown(entry(never_touched=None, norms=None, top_share=None, lookups=None))
    assert "user 46,926,001 16 \u2013 not recorded \u2013 \u2013 \u2013 \u2013" in page.text
    assert page.text.endswith(
        "not recorded: never touched (not compared with the initial values); norms; look-ups and top 1 % (the dataset "
        "has no counts for the table's vocabulary)."
    )


def test_of_many_tables_the_warnings_and_the_worst_are_not_folded_away() -> None:
    tables = [entry(table=f"t{index}", rows=1001, never_touched=index) for index in range(23)]
    page = shown(*tables, entry(table="idle", lookups=0), entry(table="far", norms=norms(q1=0.7)))
    shown_first, _, folded = page.source.partition("<details>")
    assert "Worth a look idle : the training split never looks it up. The 5 to look at first table" in page.text
    assert re.findall(r'scope="row">(\w+)<', shown_first) == ["idle", "t22", "t21", "t20", "t19"]
    assert len(re.findall(r'scope="row">(\w+)<', folded)) == 25
    assert "All 25 tables" in page.text
    assert "<details>" not in shown(*tables, entry()).source


def test_many_warnings_are_folded_beyond_a_dozen() -> None:
    page = shown(*(entry(table=f"t{index}", lookups=0) for index in range(13)))
    first, _, more = page.source.partition("<details>")
    assert (first.count("<li>"), more.count("<li>")) == (12, 1)
    assert "1 more t12 : the training split never looks it up." in page.text
    assert "<details>" not in shown(*(entry(lookups=0) for _ in range(12))).source


def test_an_absent_part_says_why() -> None:
    assert "the run was written by an earlier version" in section(in_memory(test={}), "health").text
    assert "the run did not end" in section(in_memory(), "health").text


@pytest.mark.parametrize("odd", [[None], [3], [{"norms": [1], "rows": "x"}], [{"norms": {"a": 1, "0.5": "b"}}]])
def test_odd_entries_do_not_stop_the_section(odd: list[Any]) -> None:
    assert "not recorded" in shown(*odd).text
