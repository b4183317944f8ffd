"""JSON columns for `ple-rec init`: their fields become features and labels, which prep and training take."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from data_prep.init.json_fields import json_column, source_expression, with_json_fields
from data_prep.init.roles import guess_roles
from tests.data_prep.init.guess_logs import init, run, small

ROWS = 3_000


def contexts(rows: int = ROWS) -> list[str | None]:
    """JSON texts with nested fields of every kind; some are null, some are cut off."""
    draw = random.Random(1)
    texts: list[str | None] = []
    for i in range(rows):
        document = {
            "net": {"mbps": round(draw.uniform(1, 50), 1) if i % 3 else draw.randrange(50), "type": draw.choice("345")},
            "app": {
                "version": draw.randrange(5),
                "beta": draw.random() < 0.1,
                "tags": ["a"],
                "a": {"b": {"c": {"d": 1}}},
            },
            "odd name": f"x{draw.randrange(9)}",
            "purchase": int(draw.random() < 0.3),
            "trace": {"id": f"{i:032x}"},
            "sent": 1_714_521_600 + i * 100,
            "rare": None if i % 50 else 5,
            "none": None,
            "price": f"{draw.randrange(90)},{draw.randrange(10)}",
        }
        text = json.dumps(document)
        texts.append(None if i % 100 == 7 else text[:-1] if i % 100 == 8 else text)
    return texts


def test_fields_are_columns_with_the_expressions_that_read_them() -> None:
    rows = with_json_fields(pa.table({"x": [1] * ROWS, "context": contexts()}))
    expressions = {field.name: source_expression(field) for field in rows.schema if json_column(field) == "context"}
    assert expressions == {
        "context.net.mbps": "cast(json(context, '$.net.mbps') as double)",
        "context.net.type": "json(context, '$.net.type')",
        "context.app.version": "cast(json(context, '$.app.version') as int)",
        "context.app.beta": "cast(json(context, '$.app.beta') as boolean)",
        "context.odd name": "json(context, '$.\"odd name\"')",
        "context.purchase": "cast(json(context, '$.purchase') as int)",
        "context.trace.id": "json(context, '$.trace.id')",
        "context.sent": "cast(json(context, '$.sent') as int)",
        "context.price": "json(context, '$.price')",
    }
    documents = [json.loads(text) if text is not None and text.endswith("}") else {} for text in contexts()]
    assert rows["context.app.version"].to_pylist() == [each.get("app", {}).get("version") for each in documents]
    assert rows["context.net.type"].to_pylist() == [each.get("net", {}).get("type") for each in documents]
    assert [source_expression(field) for field in rows.schema][:2] == ["x", "context"]


def test_a_column_of_the_log_keeps_its_name() -> None:
    rows = pa.table({"context.a": ["own"] * 5, "context": ['{"a": 1, "b": 2}'] * 5})
    assert with_json_fields(rows).column_names == ["context.a", "context", "context.b"]


def test_few_texts_that_look_like_json_and_lists_are_left_alone() -> None:
    rows = pa.table({"title": ["{x}", "a", "b"], "list": ["[1, 2]"] * 3, "n": [1, 2, 3]})
    assert with_json_fields(rows) is rows


def test_the_fields_that_occur_most_often_are_taken() -> None:
    document = {f"f{i}": i for i in range(60)}
    texts = [json.dumps(document if i % 2 else {f"f{i}": 0 for i in range(30, 60)}) for i in range(50)]
    names = with_json_fields(pa.table({"c": texts})).column_names[1:]
    assert len(names) == 40
    assert {f"c.f{i}" for i in range(30, 60)} <= set(names)


def test_a_name_that_no_path_can_write_and_deep_nesting_are_left_out() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    texts = [f'{{"a\\"b": 1, "c": {i}, "*": 2, "d": {deep if i == 1 else 0}}}' for i in range(9)]
    assert with_json_fields(pa.table({"context": texts})).column_names == ["context", "context.c", "context.d"]


def roles_of(**fields: list[Any]) -> Any:
    """Return the roles in a log whose column `context_user` has some fields."""
    rows = len(next(iter(fields.values())))
    texts = [json.dumps({name: values[i] for name, values in fields.items()}) for i in range(rows)]
    return guess_roles(with_json_fields(pa.table(small(rows) | {"context_user": texts})))


def test_outcomes_and_users_are_known_by_the_names_of_fields_not_of_the_column() -> None:
    roles = roles_of(age=[20 + i % 50 for i in range(600)], liked=[i % 2 for i in range(600)])
    assert roles.user.name == "user_id"
    assert "context_user_liked" in {label.column.feature for label in roles.labels}
    assert "context_user_age" in {feature.name for feature in roles.features}
    assert roles.left_out["context_user"] == "JSON, of which 2 fields are read"


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_prep_and_training_take_what_init_writes_of_a_json_column(
    here: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    table = pa.table(small(ROWS) | {"context": contexts()})
    if form == "csv":
        csv.write_csv(table, here / "log.csv")
    else:
        pq.write_table(table, here / "log.parquet")
    config, commands = init(capsys, "shop", "--from", f"log.{form}")
    sparse = {each["name"]: each.get("value") for each in config["sparse"]}
    assert sparse == {
        "user_id": None,
        "context_net_type": "json(context, '$.net.type')",
        "context_app_version": "cast(json(context, '$.app.version') as int)",
        "context_app_beta": "cast(cast(json(context, '$.app.beta') as boolean) as int)",
        "context_odd_name": "json(context, '$.\"odd name\"')",
        "hour": "time.hour",
    }
    assert {each["name"]: each["value"] for each in config["dense"]} == {
        "context_net_mbps": "cast(json(context, '$.net.mbps') as double)",
        "context_price": "cast(replace(json(context, '$.price'), ',', '.') as double)",
    }
    label = "cast(json(context, '$.purchase') as int)"
    assert config["tasks"][1] == {
        "name": "context_purchase",
        "kind": "binary",
        "label": label,
        "space": f"{label} is not null",
    }
    text = Path("shop/prep.toml").read_text()
    assert "#   context  guess: JSON, of which 9 fields are read" in text
    assert "#   context.trace.id  guess: its name is that of a key, which few rows share" in text
    assert "#   context.sent  guess: another time" in text
    assert "context_purchase" in run(capsys, commands)


def test_a_user_and_a_split_within_json(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    rows = {
        "click": [i % 2 for i in range(600)],
        "context": [json.dumps({"uid": i % 90, "v": i % 7}) for i in range(600)],
    }
    pq.write_table(pa.table(rows), here / "log.parquet")
    config, commands = init(capsys, "shop", "--from", "log.parquet")
    assert config["group"] == config["split"]["value"] == "cast(json(context, '$.uid') as int)"
    assert run(capsys, commands)
