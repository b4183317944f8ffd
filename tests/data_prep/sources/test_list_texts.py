"""Lists and JSON in the text of cells: the expressions that cut them, and what prep and init say of such columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.expressions import parse
from data_prep.run import Options
from data_prep.sources.list_texts import structured_text
from ple_rec.cli import main
from tests.data_prep.init.guess_logs import init, small
from tests.data_prep.sources.test_csv_columns import CSV, csv_logs

WORDS = [["new york", "a,b"], [], [f"v{i}" for i in range(40)], ["x"], ["user's"[:4], "日本"]]
NUMBERS = [[1, 23, 456], [], [*range(-5, 60)], [7]]


def numpy_text(items: list[Any]) -> str:
    """Return what pandas writes into a CSV file for an array."""
    return str(np.array(items))


def json_text(items: list[Any]) -> str:
    return json.dumps(items, ensure_ascii=False)


def compact_text(items: list[Any]) -> str:
    return json.dumps(items, ensure_ascii=False, separators=(",", ":"))


WRITERS = [numpy_text, str, json_text, compact_text]


@pytest.mark.parametrize("lists", [WORDS, NUMBERS])
@pytest.mark.parametrize("write", WRITERS)
def test_lists_as_text_are_cut_into_their_items(write: Callable[[list[Any]], str], lists: list[list[Any]]) -> None:
    texts = [write(items) for items in lists]
    structure = structured_text(pa.array(texts))
    assert structure is not None
    assert structure.cut is not None
    column = ibis.memtable(pa.table({"odd name": texts}))
    value = parse(structure.cut.expression('"odd name"'), "value").build({"odd name": column["odd name"]})
    cut = column.select(items=value).to_pyarrow()["items"].to_pylist()
    assert cut == [[str(item) for item in items] for items in lists]
    assert structure.cut.items(pa.array(texts)).to_pylist() == [str(item) for items in lists for item in items]


@pytest.mark.parametrize(
    "texts",
    [
        [str(np.arange(2_000))],  # numpy writes ... in place of most items
        ["[\"it's\" 'b']"],
        ["[0.5 1.25]"],
        ["[[1 2]\n [3 4]]"],
        [json.dumps(["日本"])],  # an escape, as no other column has it
        ["['a' None]"],
    ],
)
def test_lists_that_no_expression_cuts_are_lists(texts: list[str]) -> None:
    structure = structured_text(pa.array(texts))
    assert structure is not None
    assert (structure.kind, structure.cut) == ("list", None)


def test_titles_with_brackets_are_no_lists() -> None:
    assert structured_text(pa.array(["[Official] Song", "[INFO]", "{name}", "(1, 2)", "a|b", "['a']"])) is None
    assert structured_text(pa.array([], pa.string())) is None


def warnings_of(logs: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    dry_run(str(logs.toml), None, Options(source=str(logs.raw)))
    return [record.message for record in caplog.records]


def test_prep_warns_of_lists_and_takes_the_fix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def cell(row: int) -> str:
        return numpy_text([f"v{row % 5}", f"v{row % 7}"])

    logs = csv_logs(tmp_path, {"video_id": cell})
    (said,) = warnings_of(logs, caplog)
    assert said.startswith(
        "day1.csv, column 'video_id': cells such as \"['v0' 'v0']\" are lists as text, and sparse feature video_id "
        "uses each as one id. Fix: cut them: value = "
    )
    value = said.partition("value = ")[2].partition(", with bag = true")[0]
    logs.toml.write_text(CSV.replace('name = "video_id"', f'name = "video_id"\nvalue = {value}\nbag = true'))
    assert not warnings_of(logs, caplog)
    assert main(["prep", str(logs.toml), "--from", str(logs.raw), "--out", str(tmp_path / "out")]) == 0
    assert sorted(pq.read_table(tmp_path / "out/vocab/video_id.parquet")["raw"].to_pylist()) == [
        f"v{i}" for i in range(7)
    ]


@pytest.mark.parametrize(
    ("cell", "kind", "fix", "mended"),
    [
        ("[0.5 1.25]", "lists", "write the lists as a|b, and split them by split(video_id, '|')", "0.5|1.25"),
        (
            '{"a": 1}',
            "JSON",
            "read its fields, such as json(video_id, '$.name'), or write them as columns of their own",
            None,
        ),
    ],
)
def test_prep_says_how_to_write_what_no_expression_cuts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cell: str, kind: str, fix: str, mended: str | None
) -> None:
    logs = csv_logs(tmp_path, {"video_id": lambda row: cell})
    (said,) = warnings_of(logs, caplog)
    assert f"cells such as {cell!r} are {kind} as text, " in said
    assert said.endswith(f" Fix: {fix}")
    if mended is not None:
        logs = csv_logs(tmp_path / "mended", {"video_id": lambda row: mended})
        bag = 'name = "video_id"\nvalue = "split(video_id, \'|\')"\nbag = true'
        logs.toml.write_text(CSV.replace('name = "video_id"', bag))
        assert not warnings_of(logs, caplog)


def test_prep_warns_of_lists_in_side_tables_and_parquet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    side = '\n[sides.users]\nfiles = ["users.parquet"]\non = {user_id = "user_id"}\n'
    feature = '\n[[sparse]]\nname = "tags"\nvalue = "users.tags"\n'
    logs = csv_logs(tmp_path, {}, CSV + side + feature)
    users = {"user_id": [*range(7)], "tags": [str([f"t{i % 3}"]) for i in range(7)]}
    pq.write_table(pa.table(users), logs.raw / "users.parquet")
    (said,) = warnings_of(logs, caplog)
    assert said.startswith("users.parquet, column 'tags': cells such as \"['t0']\" are lists as text, ")
    assert 'value = "split(replace(replace(replace(replace(users.tags, ' in said


@pytest.mark.parametrize("cell", ["['a' 'b']", "[1 2]"])
def test_prep_warns_of_lists_in_every_expression_and_takes_the_fix(
    cell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label = "label = \"contains(video_id, '1')\""
    text = CSV.replace('name = "video_id"', 'name = "hour"\nvalue = "time.hour"').replace('label = "is_like"', label)
    assert label in text
    logs = csv_logs(tmp_path, {"video_id": lambda row: cell}, text)
    (said,) = warnings_of(logs, caplog)
    assert said.startswith(
        f"day1.csv, column 'video_id': cells such as {cell!r} are lists as text, and tasks[0].label reads each as one "
        "text. Fix: cut them: write split("
    )
    cut = said.partition("cut them: write ")[2].removesuffix(" in place of video_id")
    logs.toml.write_text(text.replace(label, f"label = {json.dumps(label[9:-1].replace('video_id', cut))}"))
    assert not warnings_of(logs, caplog)


@pytest.mark.parametrize("text", ["video_id is not null", "length(replace(video_id, '[', '')) > 3"])
def test_no_warning_of_lists_where_they_are_taken_apart(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toml = CSV.replace('name = "video_id"', 'name = "hour"\nvalue = "time.hour"')
    toml = toml.replace('label = "is_like"', f'label = "{text}"')
    assert not warnings_of(csv_logs(tmp_path, {"video_id": lambda row: "[1 2]"}, toml), caplog)


@pytest.mark.usefixtures("here", "no_charts")
def test_init_cuts_lists(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    rows = small(600)
    lists = [[f"place {i % 9}", f"place {i % 4}"] for i in range(600)]
    columns = rows | {
        "place": [f"place {i % 9}" for i in range(600)],
        "seen": [numpy_text(items) for items in lists],
        "codes": [numpy_text([i % 30, i % 7]) for i in range(600)],
    }
    pq.write_table(pa.table(columns), "log.parquet")
    config, commands = init(capsys, "log", "--from", "log.parquet")
    features = {each["name"]: each for each in config["sparse"]}
    assert features["seen"]["table"] == "place"
    assert features["codes"]["bag"] is True
    assert main(commands[0][:-1]) == 0
    assert not [record.message for record in caplog.records if "lists as text" in record.message]
    assert pq.read_metadata("data/log/vocab/place.parquet").num_rows == 9
    text = Path("log/prep.toml").read_text()
    assert "name = \"codes\"  # guess: lists as text, such as '[0 0]'" in text
