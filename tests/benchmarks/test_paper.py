"""The paper's parts: what they name is there, and Fig. 7's number is of points that can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.__main__ import _parser, chosen_parts, comparisons_on_same_data
from benchmarks.paper.figure7 import charts, mse_table, summary
from benchmarks.paper.parts import PaperPart, all_parts, quick_parts, select_parts
from ple_rec.config.choices import COMPARISON_CONFIGS
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import load_config
from ple_rec.errors import UserError


def results(mmoe: float, ple: float, missing: int = 0) -> dict[str, Any]:
    """compare.json of one task, with the gains of two variants."""

    def variant(gain: float | None) -> dict[str, Any]:
        told = None if gain is None else {"mean": gain, "seed_interval": (gain - 0.01, gain + 0.01)}
        return {"failed": {}, "tasks": {"task1": {"mean": 0.2, "gain": told}}}

    variants = {"single_task": variant(None), "mmoe": variant(mmoe), "ple": variant(ple)}
    return {"missing": missing, "tasks": {"task1": {"kind": "regression", "metric": "mse"}}, "variants": variants}


def test_the_mean_gain_of_ple_over_that_of_mmoe() -> None:
    points = [(0.0, results(0.01, 0.02)), (1.0, results(0.03, 0.05))]
    assert summary(points).endswith("PLE over MMoE: +75.0% (the paper: +87.2%)")


def test_a_correlation_that_lacks_runs_is_left_out_of_the_means() -> None:
    points = [(0.0, results(0.01, 0.02)), (1.0, results(0.05, 0.01, missing=1))]
    assert "of the correlations that have all their runs: 0\n" in summary(points)
    assert summary(points).endswith("PLE over MMoE: +100.0% (the paper: +87.2%)")
    assert summary(points[1:]) == "no correlation has all its runs yet"


def test_a_ratio_to_a_loss_is_undefined() -> None:
    assert "PLE over MMoE: undefined, since MMoE gains -0.01000" in summary([(0.5, results(-0.01, 0.02))])


def test_the_figure_and_its_table_have_every_variant() -> None:
    points = [(0.0, results(0.01, 0.02)), (1.0, results(0.03, 0.05))]
    (chart,) = charts(points)
    svg = chart.to_panel().svg
    assert "mmoe" in svg
    assert "ple" in svg
    assert len(mse_table(points).splitlines()) == 1 + 3


def test_comparisons_may_be_chosen_by_themselves() -> None:
    chosen = select_parts(all_parts(), ["fig7-0.4", "tencent", "table5-tuned", "fig7-0"])
    assert [part.name for part in chosen] == ["table5", "fig7", "tencent"]
    assert [comparison.name for comparison in chosen[0].comparisons] == ["table5-tuned"]
    assert chosen[1].correlations == (0.0, 0.4)
    assert chosen[2] in all_parts()
    with pytest.raises(UserError, match=r'--parts: got "fig8"; .*choose of table5, table5-as-published'):
        select_parts(all_parts(), ["fig8"])


def test_smaller_figures_have_folders_of_their_own() -> None:
    asked = _parser(all_parts()).parse_args(["--parts", "fig7", "--fig7-size", "200000x128", "--seeds", "1"])
    (part,) = chosen_parts(asked)
    first = part.comparisons[0]
    assert (first.name, str(first.data), first.seeds) == ("fig7-0-200000x128", "data/mmoe-synthetic-0-200000x128", 1)
    assert first.prepare[3:7] == ("--rows", "200000", "--dim", "128")
    whole = select_parts(all_parts(), ["fig7"])[0].comparisons
    assert {each.name for each in part.comparisons}.isdisjoint(each.name for each in whole)


@pytest.mark.parametrize("size", ["200000", "200000x", "x128", "0x128", "200000x128x2"])
def test_a_size_is_two_numbers(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser(all_parts()).parse_args(["--fig7-size", size])
    assert (
        f"argument --fig7-size: got '{size}'; expected samples and inputs, such as 200000x128"
        in capsys.readouterr().err
    )


def test_comparisons_on_the_same_data_share_their_runs(tmp_path: Path) -> None:
    (published, equal, tuned), (ablation,) = (
        select_parts(all_parts(), [name])[0].comparisons for name in ("table5", "ablation")
    )
    for comparison in (published, tuned, ablation):
        (tmp_path / comparison.name).mkdir()
        (tmp_path / comparison.name / "compare.toml").touch()
    assert comparisons_on_same_data(tuned, tmp_path) == [tmp_path / published.name]
    assert comparisons_on_same_data(equal, tmp_path) == [tmp_path / published.name, tmp_path / tuned.name]


def test_quick_has_a_size_of_its_own() -> None:
    with pytest.raises(UserError, match=r"--fig7-size: given with --quick"):
        chosen_parts(_parser(all_parts()).parse_args(["--quick", "--fig7-size", "200000x128"]))


@pytest.mark.parametrize("parts", [all_parts(), quick_parts()], ids=["all", "quick"])
def test_parts_name_recipes_and_variants_that_are_there(parts: list[PaperPart]) -> None:
    for part in parts:
        assert len(part.correlations) in (0, len(part.comparisons))
        for comparison in part.comparisons:
            recipe = load_config(CompareConfig, comparison.recipe, kind=COMPARISON_CONFIGS)
            assert set(comparison.variants) <= set(recipe.variants)
    names = [comparison.name for part in parts for comparison in part.comparisons]
    assert len(set(names)) == len(names)
