import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ple_rec.reports.charts import bucket_series, calibration_plot, learning_curve, roc_curve, step_chart
from ple_rec.reports.svg import TRAIN, panel_axes, render_svg
from ple_rec.runs.log import Series

EMPTY = Series(np.empty(0), np.empty(0))


def series(values: list[float], every: int = 100) -> Series:
    steps = [every * count for count in range(1, len(values) + 1)]
    return Series(np.array(steps, dtype=float), np.array(values, dtype=float))


def words(svg: str | None) -> list[str]:
    assert svg is not None
    return [node.text or "" for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_every_colour_is_a_variable_of_the_page_and_every_font_its_own() -> None:
    svg = learning_curve("c", "NE", series([1.0, 0.8, 0.7]), series([0.9, 0.8, 0.75]), 200)
    assert svg is not None
    assert {"var(--train)", "var(--valid)", "var(--best)", "var(--muted)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert not re.search(r"#[0-9a-fA-F]{6}\b|font-family|DejaVu|<style|<metadata|<!--", svg)


def test_ids_and_their_uses_carry_the_key() -> None:
    svg = learning_curve("curve-3", "NE", series([1.0, 0.8]), EMPTY, None)
    assert svg is not None
    ids = re.findall(r'\bid="([^"]+)"', svg)
    uses = re.findall(r'(?:href="|url\()#([^")]+)', svg)
    assert ids
    assert uses
    assert all(name.startswith("curve-3-") for name in ids)
    assert len(set(ids)) == len(ids)
    assert set(uses) <= set(ids)


def test_a_title_of_any_text_is_escaped() -> None:
    with panel_axes() as axes:
        axes.plot([0, 1], [0, 1], color=TRAIN)
        svg = render_svg(axes, "k", '<b> & "$x^$')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == '<b> & "$x^$'
    assert root.findtext("{http://www.w3.org/2000/svg}title") == '<b> & "$x^$'


def test_nothing_to_draw_is_none() -> None:
    nothing = series([np.nan, np.nan])
    assert learning_curve("c", "t", nothing, EMPTY, None) is None
    assert step_chart("c", "t", nothing) is None
    assert calibration_plot("c", "t", [np.nan], [0.5], [1.0]) is None
    assert roc_curve("c", "t", []) is None


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [np.nan, 0.5], [0.0, 0.0, 0.0], [np.nan] * 500 + [0.5]])
def test_odd_series_draw_without_a_warning(values: list[float]) -> None:
    assert learning_curve("c", "t", series(values), EMPTY, 100) is not None
    assert learning_curve("c", "t", EMPTY, series(values), 100) is not None
    assert step_chart("c", "t", series(values), percent=True) is not None


def test_a_wild_start_does_not_set_the_scale() -> None:
    calm = [0.5 + 0.01 * (i % 2) for i in range(60)]
    labels = words(learning_curve("c", "t", series([90.0, 40.0, *calm]), EMPTY, None))
    heights = [float(label) for label in labels[labels.index("step") + 1 :]]
    assert len(heights) >= 3
    assert 0.49 < min(heights) < max(heights) < 0.52


def test_the_best_checkpoint_leaves_the_only_evaluation_visible() -> None:
    svg = learning_curve("c", "t", series([0.5, 0.4]), Series(np.array([200.0]), np.array([0.45])), 200)
    assert svg is not None
    valid, best = re.findall(r'<use href="[^"]+" x="([^"]+)" y="([^"]+)" style="([^"]+)"', svg)[-2:]
    assert valid[:2] == best[:2]
    assert "fill: var(--valid)" in valid[2]
    assert "fill-opacity: 0" in best[2]
    assert "stroke: var(--best)" in best[2]


def test_one_finite_evaluation_among_many_is_a_dot() -> None:
    svg = learning_curve("c", "t", EMPTY, series([np.nan] * 50 + [0.5]), None)
    assert svg is not None
    assert svg.count('style="fill: var(--valid)') == 1


def test_square_panels_have_one_frame_whatever_their_labels() -> None:
    panels = [
        calibration_plot("c", "t", [1e-5, 1e-4, 0.01], [0.0, 1e-4, 0.01], [1.0, 1.0, 1.0]),
        calibration_plot("c", "t", [0.1, 0.9], [0.1, 0.9], [1.0, 1.0]),
        roc_curve("c", "t", [[0, 0], [0.1, 0.8], [1, 1]]),
    ]
    frames = {tuple(re.findall(r'id="c-patch_\d+">\s*<path d="([^"]+)"', svg or "")[-2:]) for svg in panels}
    assert frames == {("M 56 198 \nL 56 8 \n", "M 56 198 \nL 246 198 \n")}


def test_tiny_rates_get_logarithmic_axes_and_an_empty_bucket_a_place() -> None:
    labels = words(calibration_plot("c", "t", [1e-5, 1e-4, 1e-3, 0.05], [0.0, 2e-4, 1e-3, 0.04], [9.0, 5.0, 2.0, 1.0]))
    assert {"0.0001", "0.001", "0.01"} <= set(labels)
    plain = words(calibration_plot("c", "t", [0.1, 0.5, 0.9], [0.12, 0.5, 0.8], [1.0, 1.0, 1.0]))
    assert {"0.2", "0.4", "0.6", "0.8"} <= set(plain)
    assert calibration_plot("c", "t", [0.3], [0.3], [0.0]) is not None


def test_narrow_rates_have_plain_labels_on_logarithmic_axes() -> None:
    labels = words(calibration_plot("c", "t", [0.008, 0.011, 0.016], [0.006, 0.01, 0.04], [1.0, 1.0, 1.0]))
    assert {"0.005", "0.01", "0.02", "0.05"} <= set(labels)
    assert not [label for label in labels if "$" in label]
    assert len(words(calibration_plot("c", "t", [0.0061], [0.006], [1.0]))) >= 4


def test_tick_labels_share_their_decimals() -> None:
    labels = words(step_chart("c", "t", series([0.02, 0.034], every=10_000), percent=True))
    assert labels == ["0", "5 k", "10 k", "15 k", "20 k", "step", "0 %", "1 %", "2 %", "3 %"]


def test_buckets_hold_the_mean_and_the_range() -> None:
    values = [float(i % 10) for i in range(1000)]
    steps, mean, low, high = bucket_series(series(values, every=1), limit=100)
    np.testing.assert_allclose(steps[:2], [5.5, 15.5])
    np.testing.assert_allclose(mean, 4.5)
    assert (low == 0).all()
    assert (high == 9).all()


def test_short_series_are_kept_but_for_undefined_values() -> None:
    steps, mean, low, _ = bucket_series(series([1.0, np.nan, 3.0], every=1), limit=3)
    assert (steps.tolist(), mean.tolist()) == ([1, 3], [1, 3])
    assert low is mean


@pytest.mark.parametrize("split", ["train", "valid"])
def test_values_between_undefined_ones_are_drawn(split: str) -> None:
    """A task without positives in every second report or evaluation has an AUC in the others."""
    values = {"train": EMPTY, "valid": EMPTY} | {split: series([0.5, np.nan] * 60)}
    svg = learning_curve("c", "t", values["train"], values["valid"], None)
    line = re.search(rf'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(--{split}\)', svg or "")
    assert line is not None
    assert line[1].count("L ") == 59
