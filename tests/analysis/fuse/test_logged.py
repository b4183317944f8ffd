"""`ple-rec fuse` with columns that no model reads: lists, users, propensities, and labels times features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ple_rec.analysis.fuse.rows import users_by_list
from ple_rec.cli import main
from ple_rec.config.base import Split
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import load_config
from ple_rec.errors import UserError
from ple_rec.ranking.lists import CandidateLists
from tests.training.small import write_small

SMALL = ["--grid", "16", "--trials", "0"]
EVEN = 0.25


def _log(split: Split, table: pa.Table) -> pa.Table:
    """Pairs of requests are a visitor's; even and uneven propensities; every other row was exposed at random."""
    row = np.arange(len(table))
    request = table["request"].to_numpy()
    columns = {
        "visitor": request // 2,
        "page": request,
        "alone": row if split == "test" else request,
        "even": np.full(len(row), EVEN, np.float32),
        "shown_by": ((row % 9 + 1) / 10).astype(np.float32),
        "explored": row % 2 == 0,
        "never": np.zeros(len(row), np.int8),
        "rarely": row % 101 == 0,
        "certain": np.where(row == 5, 1.5, 0.5),
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the run, with more columns."""
    folder = tmp_path_factory.mktemp("logged") / "data"
    write_small(folder, edit=_log)
    return folder


class Fuse:
    """Runs the verb on the data."""

    def __init__(self, run: Path, data: Path, out: Path) -> None:
        self.run, self.data, self.out = run, data, out

    def code(self, *argv: str) -> int:
        to = ["--out", str(self.out), "--overwrite"]
        return main(["fuse", str(self.run), *to, "--set", f"data.path={self.data}", *SMALL, *argv])

    def record(self, *argv: str) -> dict[str, Any]:
        assert self.code(*argv) == 0
        found: dict[str, Any] = json.loads((self.out / "fusion.json").read_text())
        return found


@pytest.fixture
def fuse(tiny_run: Path, data: Path, tmp_path: Path) -> Fuse:
    return Fuse(tiny_run, data, tmp_path / "out")


def test_lists_by_another_column_with_the_same_values_are_the_same(fuse: Fuse) -> None:
    asked = ["--target", "click.ndcg@3", "--tell", "watch.mean@2"]
    plain, named = fuse.record(*asked), fuse.record(*asked, "--by", "page", "--users", "page")
    assert (plain["listed_by"], plain["resampled"]) == ("request", "request")
    assert (named["listed_by"], named["resampled"]) == ("page", "page")
    assert plain["counterfactual"] is None
    assert named["metrics"] == plain["metrics"]  # so rows read beside the batches stand in their order
    assert named["exponents"] == plain["exponents"]


def test_intervals_resample_users(fuse: Fuse, capsys: pytest.CaptureFixture[str]) -> None:
    found = fuse.record("--target", "click.ndcg@3", "--users", "visitor")["metrics"]["click.ndcg@3"]
    assert found["users"] < found["lists"]
    assert "95 % over visitor" in capsys.readouterr().out
    assert "95 % over visitor" in (fuse.out / "fusion.html").read_text()
    one = fuse.record("--target", "click.ndcg@3", "--by", "visitor", "--users", "visitor")["metrics"]["click.ndcg@3"]
    assert one["users"] == one["lists"] <= found["users"]


def test_even_propensities_weight_nothing(fuse: Fuse) -> None:
    even = fuse.record("--target", "click.value@1", "--tell", "click.mean@1", "--propensity", "even")
    value, mean = (even["metrics"][f"click.{kind}@1"] for kind in ("value", "mean"))
    assert value["value"] == pytest.approx(mean["value"])  # one row of each list, all alike
    assert value["interval"] == pytest.approx(mean["interval"])
    assert value["effective_rows"] == pytest.approx(value["weighted_rows"])
    assert value["weighted_rows"] == value["lists"]
    assert (mean["effective_rows"], mean["weighted_rows"]) == (None, None)
    assert even["counterfactual"] == {
        "estimator": "self-normalised inverse propensity",
        "equation": "sum of w y / sum of w over the rows at the first K places, w = 1 / propensity",
        "propensity": "even",
        "random": None,
        "clip": None,
        "clipped": 0.0,
    }


def test_what_is_estimated_is_said_wherever_it_is_told(fuse: Fuse, capsys: pytest.CaptureFixture[str]) -> None:
    record = fuse.record("--target", "click.value@2", "--propensity", "shown_by", "--clip", "1.5")
    found = record["metrics"]["click.value@2"]
    assert 1 < found["effective_rows"] < found["weighted_rows"]
    assert 0 < record["counterfactual"]["clipped"] < 1
    estimate = "click.value@2 estimates the click of a video drawn evenly from all that could be shown"
    weights = "w = 1 / shown_by in units of its mean, at most 1.5 (so clipped: "
    for told in (capsys.readouterr().out, (fuse.out / "fusion.html").read_text(), _toml(fuse.out)):
        assert estimate.lower() in told.lower()
        assert weights in told
    assert load_config(FusionConfig, fuse.out / "fusion.toml").tasks["click"].exponent == record["exponents"]["click"]


def test_rows_exposed_at_random_stand_in_lists_of_their_own(fuse: Fuse, capsys: pytest.CaptureFixture[str]) -> None:
    record = fuse.record("--target", "click.value@1", "--tell", "click.mean@1", "--random", "explored")
    value, mean = (record["metrics"][f"click.{kind}@1"] for kind in ("value", "mean"))
    assert value["weighted_rows"] == value["lists"] <= mean["lists"]
    assert value["value"] != mean["value"]
    assert record["counterfactual"]["estimator"] == "replay"
    told = capsys.readouterr().out
    assert "drawn from those exposed at random (explored) and put among the first 1 of its list" in told
    assert "warning: click.value@1 rests on" in told  # a few dozen lists


def test_a_label_times_a_feature(fuse: Fuse) -> None:
    asked = ["--target", "worth.mean@2", "--tell", "click.mean@2", "--exponent", "click=1", "--exponent", "watch=1"]
    once = fuse.record(*asked, "--value", "worth=click*bias")
    row = once["metrics"]
    assert 0 < row["worth.mean@2"]["value"] < row["click.mean@2"]["value"]  # of a feature that is 0 or 1
    assert once["values"] == {"worth": "click * bias"}
    missing = fuse.record(*asked, "--value", "worth=click*age")  # of which a tenth is null, and counts as the median
    assert 25 < missing["metrics"]["worth.mean@2"]["value"] / row["click.mean@2"]["value"] < 55


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["click.value@1"], 2, "value@K: neither --propensity nor --random; it needs to know with which propensity"),
        (["click.mean@1", "--propensity", "even"], 2, '--propensity: got "even"; only value@K uses it'),
        (["click.mean@1", "--clip", "2"], 2, "--clip: given without --propensity"),
        (["click.value@1", "--propensity", "evn"], 2, 'has no such column. Fix: did you mean "even"?'),
        (["click.value@1", "--propensity", "certain"], 3, "column 'certain', row 5: got 1.5; a propensity is the"),
        (["click.value@1", "--random", "never"], 2, "--random never: 0 of "),
        (
            ["click.value@1", "--random", "rarely"],
            2,
            "valid, no two of them in one list; values are estimated on lists",
        ),
        (["click.mean@1", "--by", "alone", "--users", "alone"], 2, "/test, lists by alone: no list has 2 rows or more"),
        (["click.mean@1", "--by", "item"], 2, "lists have rows of several users; intervals resample users with all"),
        (["click.mean@1", "--value", "worth=click+age"], 2, '--value: got "worth=click+age"; it is NAME=TASK*FEATURE'),
        (["click.mean@1", "--value", "watch=click*age"], 2, "watch is a task of the run"),
        (["click.mean@1", "--value", "worth=like*age"], 2, "the tasks are click, watch"),
        (["click.mean@1", "--value", "worth=click*size"], 2, "the dense features are age"),
        (["click.mean@1", "--value", "x=click*age", "--value", "x=watch*age"], 2, "--value: two values are named x"),
        (["worth.gauc", "--value", "worth=click*age"], 2, "gauc needs labels of 0 and 1"),
    ],
)
def test_what_does_not_fit_the_log_is_refused(
    fuse: Fuse, argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse.code("--target", *argv) == code
    assert message in capsys.readouterr().err
    assert not fuse.out.exists()


def test_lists_of_nobody_known_are_each_another_ones() -> None:
    lists = CandidateLists.from_groups(np.repeat(np.arange(4), 3))
    assert len(set(users_by_list(lists, np.repeat([7, -1, 7, -1], 3)).tolist())) == 3
    with pytest.raises(UserError, match=r"--users: 1 of 4 lists have rows of several users"):
        users_by_list(lists, np.append(np.repeat([1, 2, 3], 3), [4, 4, 5]))


def _toml(out: Path) -> str:
    return (out / "fusion.toml").read_text()
