"""`--against`: what is compared, what is noise, what is refused, what is warned of; final values and their spread."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from ple_rec.bench.against import arguments_of, compare, noise_of, read_earlier, short, verdict
from ple_rec.bench.figures import Figure, Headline, figure_of, ratios, spreads, values
from ple_rec.bench.report import Reporter
from ple_rec.cli import main
from ple_rec.cli_parser import parser
from ple_rec.errors import UserError

ARGUMENTS = {"threads": 2, "precision": "fp32"}
RESULT: dict[str, Any] = {
    "subject": "dense",
    "arguments": ARGUMENTS,
    "data": {"rows": 10},
    "settings": {"precision": "fp32", "turns": 3},
    "conditions": {"cpu": "Fast 3000", "cores": 2},
    "values": {"rate": 100.0, "steady": 50.0, "bytes": 7, "gone": 1.0},
    "spreads": {"rate": [90.0, 110.0], "steady": [50.0, 50.5]},
}
NOW = RESULT | {
    "values": {"rate": 115.0, "steady": 60.0, "bytes": 9},
    "spreads": {"rate": [110.0, 116.0], "steady": [59.0, 60.0]},
}


def written(folder: Path, content: object) -> Path:
    file = folder / "earlier.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_ratio_is_weighed_against_the_repeats(tmp_path: Path) -> None:
    earlier = read_earlier(written(tmp_path, RESULT), "dense", ARGUMENTS)
    assert compare(earlier, NOW) == [
        "        before  now  ratio  noise",
        "rate       100  115  1.150  1.222  within the noise",
        "steady      50   60  1.200  1.017  more than the noise",
        "bytes        7    9  1.286      -  measured once",
        "only one of both has gone",
    ]


def test_a_slower_result_is_weighed_alike() -> None:
    assert verdict(1 / 1.3, 1.2) == "more than the noise"
    assert verdict(1 / 1.1, 1.2) == "within the noise"
    assert verdict(1.0, None) == "the same"
    assert verdict(None, 1.2) == verdict(-1.0, 1.2) == ""
    assert noise_of([1.0, 2.0], [1.0, 3.0]) == 3
    assert noise_of(None, [0.0, 3.0]) is None
    assert compare(RESULT | {"values": {"rate": 0}}, NOW)[1].split() == ["rate", "0", "115", "-", "1.222"]


def test_another_machine_and_other_data_are_warned_of() -> None:
    settings = {"precision": "bf16", "turns": 5}
    told = compare(
        RESULT | {"data": {"rows": 11}, "settings": settings, "conditions": {"cpu": "Slow 1", "cores": 2}}, NOW
    )
    assert [line for line in told if line.startswith("WARNING")] == [
        "WARNING: processor then: Slow 1, now: Fast 3000; a ratio says nothing of the program",
        "WARNING: data differ: rows 11 then, 10 now",
        "WARNING: settings differ: precision 'bf16' then, 'fp32' now",
    ]


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (RESULT | {"subject": "train"}, "a result of 'train', not of 'dense'"),
        (RESULT | {"arguments": {"threads": 4, "precision": "fp32"}}, "measured with --threads 4, not 2"),
        (RESULT | {"arguments": ARGUMENTS | {"batch_size": 8}}, "measured with --batch-size 8, not None"),
        ({"a": 1}, "JSON of something else"),
        ("rate=3", "no JSON (Expecting value: line 1 column 1 (char 0))"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, content: object, value: str) -> None:
    with pytest.raises(UserError) as refused:
        read_earlier(written(tmp_path, content), "dense", ARGUMENTS)
    assert refused.value.value == value
    assert refused.value.place == f"--against {tmp_path / 'earlier.json'}"


def test_it_is_refused_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.json"
    for subject in ("loader", "prep"):
        assert main(["bench", subject, "--against", str(file)]) == 2
        assert f"--against {file}: No such file or directory; " in capsys.readouterr().err


def test_arguments_say_what_is_measured() -> None:
    args = parser().parse_args(["bench", "loader", "--data", "d", "--repeats", "7", "--json"])
    assert arguments_of(vars(args)) == {"data": "d", "rows": 1 << 21, "batch_size": 4096, "shards": 16}


def test_a_result_can_be_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {"subject": "loader", "data": {"rows": 1}, "settings": {"batch_size": 2}}
    figures = {"rate": figure_of([3.0, 1.0, 2.0]), "bytes": Figure(5)}
    line = Headline("reading", "rows/s", figures["rate"], "pyarrow", 4.0, 5)
    asked = argparse.Namespace(subject="loader", json=True, against=None, rows=3)
    Reporter(asked, threads=2).finish(results, figures, line, lambda _: ["a table"])
    first = json.loads(capsys.readouterr().out)
    assert first["values"] == {"rate": 2.0, "bytes": 5}
    assert first["spreads"] == {"rate": [1.0, 3.0]}
    assert first["headline"]["fraction"] == 0.5
    assert first["conditions"]["threads"] == 2
    assert set(first["conditions"]["neighbours"]) <= {"steal", "others"}
    asked = argparse.Namespace(subject="loader", json=False, against=written(tmp_path, first), rows=3)
    Reporter(asked, threads=2).finish(results, figures, line, lambda _: ["a table"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "a table"
    assert ["rate", "2", "2", "1.000", "3.000", "the", "same"] in [line.split() for line in said]
    assert said[-2:] == ["rate=2.0", "bytes=5"]


def test_figures() -> None:
    figures = {"a": figure_of([4.0, 1.0, 3.0]), "b": Figure(7.0)}
    assert values(figures) == {"a": 3.0, "b": 7.0}
    assert spreads(figures) == {"a": [1.0, 4.0]}
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == (2.0, 1.0, 3.0)
    assert Figure(2.0, 1.0, 4.0).inverse(8.0) == (4.0, 2.0, 8.0)
    assert Figure(2.0).inverse(8.0) == (4.0, None, None)
    assert Figure(1.26, 1.24, 1.5).rounded(1) == (1.3, 1.2, 1.5)
    assert isinstance(Figure(1.26).rounded(0).value, int)
    assert (short(1234.5), short(0.123456)) == ("1,234", "0.1235")
