"""`ple-rec bench requests`: the data, both ways by turns, and figures of given turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ple_rec.bench import requests
from ple_rec.bench.requests_data import SHARED, repeated
from ple_rec.cli import main


def test_impressions_of_a_request_have_the_shared_features_of_its_first() -> None:
    table = pa.table({name: list(range(10)) for name in (*SHARED, "video_id")})
    found = repeated(table, 4)
    assert found.schema == table.schema
    assert found["video_id"] == table["video_id"]
    for name in SHARED:
        assert found[name].to_pylist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert repeated(table, 1) == table


@pytest.mark.slow
def test_both_ways_take_turns(tmp_path: Path) -> None:
    found = requests.measure(tmp_path, [16], 1, 256, "fp32", 1, 2, print, users=20_000)
    assert found["settings"]["turns"] == 2
    assert {len(rates) for key in ("rates", "cpu_rates") for rates in found[key].values()} == {2}
    assert set(found["ids"]) == {"16 without", "16 with"}
    assert found["ids"]["16 without"] == 24 * 256
    assert found["ids"]["16 with"] == 10 * 256 + 14 * 256 / 16
    named = requests.figures(found)
    assert named["train_16_ratio"].value > 0
    assert requests.headline(found).measured.value == pytest.approx(named["train_16_samples_per_second"].value, abs=1)
    assert len(requests.lines(found)) == 3


def test_ratios_are_of_the_same_turn() -> None:
    rates = {"train 4 without": [10.0, 20.0], "train 4 with": [20.0, 60.0]}
    rates |= {"predict 4 without": [30.0, 30.0], "predict 4 with": [60.0, 90.0]}
    results: dict[str, Any] = {"impressions": [4], "rates": rates, "cpu_rates": rates}
    named = requests.figures(results | {"ids": {}})
    assert named["train_4_ratio"] == named["train_4_cpu_ratio"] == (2.5, 2.0, 3.0)
    assert named["predict_4_samples_per_second"] == (75, 60, 90)


def test_the_verb_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "requests", "--help"])
    said = capsys.readouterr().out
    assert "--impressions" in said
    assert "--against" in said
