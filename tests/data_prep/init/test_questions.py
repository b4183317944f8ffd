"""Columns that `ple-rec init` asks about, since a guess would be wrong in silence; and what its answers do."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.init.json_fields import with_json_fields
from data_prep.init.roles import guess_roles
from ple_rec.cli import main
from ple_rec.errors import UserError
from tests.data_prep.init.guess_logs import accepted, init, names_of, small

ROWS = 600
NAMES = {"user_id", "hour"}  # features of every log here


def log_with(**columns: Any) -> pa.Table:
    return pa.table(small(ROWS) | columns)


def question(table: pa.Table, column: str) -> str:
    """Return what is asked about a column, of which no feature may be."""
    roles = guess_roles(table)
    assert {feature.name for feature in roles.features} == NAMES
    assert column not in {each.name for each in roles.columns}
    assert list(roles.questions) == [column]
    return roles.questions[column]


def test_commas_before_three_digits_are_asked_about() -> None:
    views = ["51,494" if i % 9 == 0 else str(300 + i) for i in range(ROWS)]
    assert question(log_with(views=views), "views") == (
        "'51,494' means 51494 or 51.494; read it by cast(replace(views, ',', '') as double), or by "
        "cast(replace(views, ',', '.') as double)"
    )
    for example, number in (("1,234,567", "1234567"), ("1,234.50", "1234.50")):
        said = question(log_with(views=[example, *views[1:]]), "views")
        assert said == f"{example!r} is text; if it means {number}, read it by cast(replace(views, ',', '') as double)"


@pytest.mark.parametrize("text", ["$1,234.50", " 51,494", "51,494 EUR", "-$1,234"])
def test_a_number_with_a_sign_or_a_unit_is_no_list(text: str) -> None:
    asked = question(log_with(views=[text if i % 3 else "$7" for i in range(ROWS)]), "views")
    assert asked == f"{text!r} is text with a number and more; write the column as numbers"


def test_empty_texts_do_not_hide_thousands() -> None:
    views = [("51,494", "", "323")[i % 3] for i in range(ROWS)]
    assert question(log_with(views=views), "views").startswith("'51,494' means 51494 or 51.494; ")


def decimals(first: int, kind: pa.DataType) -> pa.Array:
    return pa.array([Decimal(first + i % 40) for i in range(ROWS)], kind)


def test_decimals_without_a_fraction_are_integers() -> None:
    roles = guess_roles(log_with(shop_id=decimals(2**53 + 1, pa.decimal128(20, 0))))
    (shop,) = (feature for feature in roles.features if feature.name == "shop_id")
    assert (shop.is_dense, dict(shop.keys), roles.questions) == (False, {}, {})
    asked = question(log_with(shop_id=decimals(2**63, pa.decimal128(20, 0))), "shop_id")
    assert asked.startswith(f"decimal128(20, 0) as large as {2**63 + 39}, and prep reads integers up to 2^63 - 1; ")


@pytest.mark.parametrize("text", ["3,5", "12,75", "1234,567", "0,512"])
def test_a_comma_that_stands_before_decimals_alone_is_one(text: str) -> None:
    prices = [text if i % 7 == 0 else f"{1 + i},{100 + i % 900}" for i in range(ROWS)]
    roles = guess_roles(log_with(price=prices))
    (price,) = (feature for feature in roles.features if feature.is_dense)
    assert price.keys["value"] == "\"cast(replace(price, ',', '.') as double)\""
    assert not roles.questions


@pytest.mark.usefixtures("here", "no_charts")
def test_either_answer_about_commas_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    columns = small(ROWS) | {"views": ["51,494" if i % 3 == 0 else "323" for i in range(ROWS)]}
    pq.write_table(pa.table(columns), "log.parquet")
    init(capsys, "log", "--from", "log.parquet")
    file = Path("log/prep.toml")
    asked = next(line for line in file.read_text().splitlines() if line.startswith("#   views  ask: "))
    text = file.read_text()
    for answer, largest in zip(asked.partition("; read it by ")[2].split(", or by "), (51494.0, 323.0), strict=True):
        file.write_text(f"{text}\n[[dense]]\nname = 'views'\nvalue = {json.dumps(answer)}\n")
        assert main(["prep", str(file), "--from", "log.parquet", "--out", f"data/{largest}"]) == 0
        values = pq.read_table(next(Path(f"data/{largest}/train").glob("*.parquet")))["views"].to_pylist()
        assert max(values) == largest


def test_a_label_with_commas_is_named_where_none_else_is_found() -> None:
    table = log_with(revenue=["51,494" if i % 3 == 0 else "323" for i in range(ROWS)])
    with pytest.raises(UserError) as refused:
        guess_roles(table.drop_columns(["click"]))
    assert "; or mend revenue: '51,494' means 51494 or 51.494; " in refused.value.fix
    with pytest.raises(UserError) as refused:
        guess_roles(table, ["revenue"])
    assert (refused.value.place, refused.value.value) == ("--label", "revenue is not read")
    assert refused.value.rule.startswith("'51,494' means 51494 or 51.494; ")


def test_ids_that_are_rounded_already_are_asked_about() -> None:
    large = [float(2**62 + 2**12 * (i % 50)) for i in range(ROWS)]
    said = question(log_with(device=large), "device")
    assert said.startswith(
        "floats as large as 4.612e+18 do not hold every whole number beyond 2^53: ids lost their last "
    )
    assert said.endswith("Write the column as integers or text; if it counts something, add it as [[dense]]")
    said = question(log_with(device=pa.array([2.0**24 + 2 * (i % 50) for i in range(ROWS)], pa.float32())), "device")
    assert "beyond 2^24" in said
    users = guess_roles(log_with(user_id=[None, *large[1:]], place=["a", "b", "c"] * 200))
    assert (users.user, list(users.questions)) == (None, ["user_id"])
    exact = guess_roles(log_with(device=[float(2**52 + i % 50) for i in range(ROWS)]))
    assert exact.features[1].keys == {"value": '"cast(device as int)"'}


@pytest.mark.parametrize("label", ["revenue", "device"])
def test_a_label_of_any_size_is_one(label: str) -> None:
    table = log_with(**{label: [float(2**62 + 2**12 * (i % 50)) for i in range(ROWS)]})
    roles = guess_roles(table, [] if label == "revenue" else [label])
    assert label in [each.column.name for each in roles.labels]
    assert not roles.questions


@pytest.mark.usefixtures("here", "no_charts")
def test_uint64_beyond_int64_is_asked_about_and_works_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    large = pa.array([2**64 - 1 - i % 50 for i in range(ROWS)], pa.uint64())
    said = question(log_with(device=large), "device")
    assert said == f"uint64 as large as {2**64 - 1}, and prep reads integers up to 2^63 - 1; write the column as text"
    lists = pa.array([[2**64 - 1, i % 50] for i in range(ROWS)], pa.list_(pa.uint64()))
    assert question(log_with(seen=lists), "seen") == said
    config = accepted(small(ROWS) | {"device": large.cast(pa.string())}, capsys)
    assert names_of(config, "sparse")["device"] == "device"
    fitting = guess_roles(log_with(device=pa.array([2**63 - 1 - i % 50 for i in range(ROWS)], pa.uint64())))
    assert "device" in {feature.name for feature in fitting.features}


def test_integers_beyond_2_to_53_are_ids() -> None:
    (device,) = (
        f for f in guess_roles(log_with(zork=[2**62 + i % 100 for i in range(ROWS)])).features if f.name == "zork"
    )
    assert not device.is_dense
    assert device.why.endswith(", some of them beyond 2^53: ids, not amounts")


def test_json_without_fields_is_asked_about() -> None:
    for texts in ([str({"a": i % 5}) for i in range(ROWS)], [json.dumps({"a": [i % 5]}) for i in range(ROWS)]):
        said = question(with_json_fields(log_with(context=texts)), "context")
        assert said.startswith(f"texts such as {texts[0]!r} look like JSON, but no field was found that is a number, ")
    said = question(log_with(seen=[json.dumps([{"a": i % 5}]) for i in range(ROWS)]), "seen")
    assert said.endswith(
        " are lists that no expression cuts; write the lists as a|b, and split them by split(seen, '|')"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("is_bot", "it tells bots from people"),
        ("User-Agent", "device, system and browser in one text"),
        ("position", "the place in the list at which the item was shown is decided by the ranking itself and unknown"),
    ],
)
def test_what_its_name_says_is_no_feature(name: str, reason: str) -> None:
    values = [i % 20 for i in range(ROWS)] if name == "position" else ["a", "b", "c"] * 200
    table = log_with(**{name: values})
    roles = guess_roles(table)
    assert roles.left_out[name].startswith(reason)
    assert roles.user is not None
    assert roles.user.name == "user_id"
    assert guess_roles(table.drop_columns(["user_id"])).user is None
    assert "position_ms" not in guess_roles(log_with(position_ms=[i % 90 for i in range(ROWS)])).left_out


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("12,50", "13.75"), "'12,50' stands beside '13.75'; if both marks separate decimals, read it by {decimals}"),
        (
            ("12,50", "1.375"),
            "'12,50' stands beside '1.375'; if both marks separate decimals, read it by {decimals}; if the dot "
            "separates thousands, by {thousands}",
        ),
        (("1.234,50", "7,5"), "'1.234,50' is text; if it means 1234.50, read it by {thousands}"),
        (
            ("12,5", "13", "14", "15"),
            "'12,5' stands beside '13'; if the comma separates decimals, read it by {decimals}; if it separates items, "
            "by split(price, ','), with bag = true",
        ),
    ],
)
def test_commas_beside_dots_and_commas_in_few_rows_are_asked_about(texts: tuple[str, ...], said: str) -> None:
    decimals = "cast(replace(price, ',', '.') as double)"
    thousands = "cast(replace(replace(price, '.', ''), ',', '.') as double)"
    asked = question(log_with(price=[texts[i % len(texts)] for i in range(ROWS)]), "price")
    assert asked == said.format(decimals=decimals, thousands=thousands)


def test_lists_of_numbers_are_no_numbers() -> None:
    for texts in ("1.5,2.5", "3,4,5"), ("1.2.3", "1.2.4"), ("a,b", "c.d"):
        assert not guess_roles(log_with(seen=[texts[i % 2] for i in range(ROWS)])).questions
