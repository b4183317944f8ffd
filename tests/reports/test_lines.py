"""Names of lines and points: apart, nearest to what they name, and where they cover least."""

from __future__ import annotations

from itertools import combinations, islice, pairwise

import numpy as np
import pytest

from ple_rec.reports.lines import draw_lines, line_styles, name_points, spread_apart
from ple_rec.reports.svg import INK, LIGHT, VALID, panel_axes


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([0.0, 0.0], [-0.5, 0.5]),
        ([0.0, 0.0, 10.0], [-0.5, 0.5, 10.0]),  # what stands apart stays
        ([0.0, 0.2, 0.4], [-0.8, 0.2, 1.2]),
        ([0.0, 0.2, 1.0, 1.0], [-0.95, 0.05, 1.05, 2.05]),  # two pools become one
        ([], []),
    ],
)
def test_places_are_the_nearest_ones_that_are_apart(values: list[float], places: list[float]) -> None:
    assert spread_apart(values, 1.0) == pytest.approx(places)
    assert spread_apart(places, 1.0) == pytest.approx(places)


def test_looks_differ_and_neighbours_differ_in_both() -> None:
    first = list(islice(line_styles(), 33))
    assert len(set(first[:32])) == 32
    assert first[32] == first[0]
    assert all(a.colour != b.colour and a.dashes != b.dashes for a, b in pairwise(first))


def test_every_line_has_its_name_in_ink_at_its_end_and_one_without_points_keeps_its_look() -> None:
    nothing = np.empty(0), np.empty(0)
    x = np.arange(3.0)
    with panel_axes(200, 300, LIGHT) as axes:
        draw_lines(axes, lambda colour: LIGHT.get(colour, colour), {"none": nothing, "a": (x, x), "b": (x, x)})
        assert [text.get_text().strip() for text in axes.texts] == ["a", "b"]
        assert {text.get_color() for text in axes.texts} == {LIGHT[INK]}
        low, high = (text.get_position()[1] for text in axes.texts)
        assert high - low > 0.05  # the two lines are the same one
        assert axes.lines[0].get_color() == LIGHT[VALID] == LIGHT[list(islice(line_styles(), 2))[1].colour]
        assert axes.get_xlim()[1] < axes.texts[0].get_position()[0]


def test_one_evaluation_stands_at_the_right_end() -> None:
    once = np.array([63.0]), np.array([0.5])
    with panel_axes(200, 300, LIGHT) as axes:
        draw_lines(axes, lambda colour: LIGHT.get(colour, colour), {"a": once}, from_zero=True)
        left, right = axes.get_xlim()
    assert left == 0
    assert 63 < right < 66


def test_names_of_points_do_not_cover_one_another() -> None:
    points = {"cross_stitch": (0.5, 0.5), "sluice": (0.52, 0.5), "mmoe": (0.5, 0.51), "far": (0.99, 0.99)}
    with panel_axes(300, 400, LIGHT) as axes:
        axes.set(xlim=(0, 1), ylim=(0, 1))
        name_points(axes, lambda colour: LIGHT.get(colour, colour), points)
        axes.figure.get_figure(root=True).draw_without_rendering()
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        frame = axes.get_window_extent()
    assert boxes.keys() == points.keys()
    assert not any(a.overlaps(b) for a, b in combinations(boxes.values(), 2))
    assert boxes["far"].x1 <= frame.x1


def test_a_name_is_nearest_to_its_own_point() -> None:
    at = {"cross_stitch": (5.6, 3.6), "mmoe": (4.9, 3.6), "ml_mmoe": (4.2, 1.7), "cgc": (3.7, 0.9), "base": (0.0, 0.0)}
    points = {"ple": (3.3, 2.4), "customized": (2.1, 0.8), "asymmetric": (1.3, -0.7), **at}
    with panel_axes(340, 460, LIGHT) as axes:
        axes.set(xlim=(-2.4, 7.7), ylim=(-8.0, 6.6), xlabel="gain on one", ylabel="gain on another")
        name_points(axes, lambda colour: LIGHT.get(colour, colour), points)
        axes.figure.get_figure(root=True).draw_without_rendering()
        for text in axes.texts:
            box, dots = text.get_window_extent(), {name: axes.transData.transform(xy) for name, xy in points.items()}
            gaps = {
                name: np.hypot(*np.maximum(0.0, [box.x0 - x, y - box.y1]) + np.maximum(0.0, [x - box.x1, box.y0 - y]))
                for name, (x, y) in dots.items()
            }
            assert min(gaps, key=gaps.__getitem__) == text.get_text()
