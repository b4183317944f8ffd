"""The schema of a dataset directory, and every reason to refuse one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ple_rec.config.load import SchemaError, dump_toml, load_schema
from ple_rec.config.schema import DatasetSchema, DenseFeature, SparseFeature, SplitInfo, Table, Task
from ple_rec.errors import DataError, UserError

SCHEMA = DatasetSchema(
    version=1,
    name="census",
    fingerprint="0123456789abcdef",
    tables=(Table(name="job", rows=10),),
    sparse=(SparseFeature(name="job", table="job"),),
    dense=(DenseFeature(name="age"),),
    tasks=(Task(name="income", kind="binary", label="income"),),
    splits={"train": SplitInfo(rows=5, row_groups=1)},
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "schema.toml").write_text(dump_toml(SCHEMA))
    (tmp_path / "_SUCCESS").touch()
    return tmp_path


def refusal(dataset: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_schema(dataset)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_round_trip(dataset: Path) -> None:
    assert load_schema(dataset) == load_schema(str(dataset)) == SCHEMA


@pytest.mark.parametrize(("name", "value"), [("lost", "no such directory"), ("schema.toml", "not a directory")])
def test_no_directory(dataset: Path, name: str, value: str) -> None:
    folder = dataset / name
    with pytest.raises(UserError) as caught:
        load_schema(folder)
    assert str(caught.value) == (
        f"{folder}: {value}; a dataset directory is needed. Fix: make it with `ple-rec prep ... --out {folder}`"
    )


def test_not_complete(dataset: Path) -> None:
    (dataset / "_SUCCESS").unlink()
    assert refusal(dataset) == (
        f"{dataset}: no _SUCCESS file; a dataset directory without it is incomplete. "
        f"Fix: move it away, and make it again with `ple-rec prep ... --out {dataset}`"
    )


def test_no_schema(dataset: Path) -> None:
    (dataset / "schema.toml").unlink()
    assert refusal(dataset) == (
        f"{dataset}/schema.toml: No such file or directory; a readable TOML file is needed. "
        f"Fix: move it away, and make it again with `ple-rec prep ... --out {dataset}`"
    )


def test_not_toml(dataset: Path) -> None:
    (dataset / "schema.toml").write_text("version = 1\nname = x\n")
    assert refusal(dataset) == (
        f"{dataset}/schema.toml, line 2, column 8: `name = x` is not TOML; invalid value. "
        f"Fix: move it away, and make it again with `ple-rec prep ... --out {dataset}`"
    )


def test_another_version(dataset: Path) -> None:
    (dataset / "schema.toml").write_text("version = 2\n")
    assert refusal(dataset) == (
        f"{dataset}/schema.toml: version 2; this ple_rec reads version 1. "
        f"Fix: move it away, and make it again with `ple-rec prep ... --out {dataset}`"
    )


def test_problems_of_the_content(dataset: Path) -> None:
    file = dataset / "schema.toml"
    file.write_text(dump_toml(SCHEMA).replace("rows = 10", "rows = 0").replace('"binary"', '"binry"'))
    with pytest.raises(SchemaError):
        load_schema(dataset)
    assert refusal(dataset) == (
        f"{file}: 2 problems\n"
        "  tables[0].rows: got 0; must be > 0\n"
        '  tasks[0].kind: got "binry"; did you mean "binary"? (known: binary, regression)'
    )


def test_problems_between_tables(dataset: Path) -> None:
    file = dataset / "schema.toml"
    file.write_text(dump_toml(SCHEMA).replace('table = "job"', 'table = "jobs"'))
    assert refusal(dataset) == (
        f"{file}: 1 problem\n  sparse feature 'job' reads table 'jobs', which is not among ['job']"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rows": 10, "capacity": 9},
            "capacity = 9 is too small for 10 rows; it must be at least 10",
        ),
        (
            {"rows": 10, "capacity": 12, "hash_rows": 3},
            "capacity = 12 is too small for 10 rows and 3 hash_rows; it must be at least 13",
        ),
        (
            {"rows": 10, "hash_rows": 3},
            "hash_rows = 3 without capacity; they are its last rows. Give a capacity",
        ),
    ],
)
def test_a_capacity_holds_all_its_rows(dataset: Path, changes: dict[str, int], message: str) -> None:
    fields = ", ".join(f"{key} = {value}" for key, value in changes.items())
    text = dump_toml(SCHEMA).replace('"binary"', '"binry"').replace("rows = 10, hash_rows = 0", fields)
    (dataset / "schema.toml").write_text(text)
    choices = 'tasks[0].kind: got "binry"; did you mean "binary"? (known: binary, regression)'
    assert refusal(dataset) == f"{dataset / 'schema.toml'}: 2 problems\n  tables[0]: {message}\n  {choices}"


def test_ids_are_bound_by_the_capacity() -> None:
    table = Table(name="job", rows=10, capacity=16, hash_rows=2)
    assert SCHEMA.model_copy(update={"tables": (table,)}).table_rows() == {"job": 16}
    assert (table.free_rows, Table(name="job", rows=10).free_rows) == (range(10, 14), range(10, 10))
    assert Table(name="job", rows=10, capacity=12, hash_rows=2).free_rows == range(10, 10)


def test_ancestors_begin_with_the_parent(dataset: Path) -> None:
    assert SCHEMA.lineage() == (SCHEMA.fingerprint,)
    assert SCHEMA.model_copy(update={"parent": "a"}).lineage() == (SCHEMA.fingerprint, "a")
    child = DatasetSchema.model_validate(SCHEMA.model_dump() | {"parent": "a", "ancestors": ("a", "b")})
    (dataset / "schema.toml").write_text(dump_toml(child))
    assert load_schema(dataset).lineage() == (SCHEMA.fingerprint, "a", "b")

    text = dump_toml(SCHEMA).replace("ancestors = []", f'parent = "x"\nancestors = ["a", "{SCHEMA.fingerprint}", "a"]')
    (dataset / "schema.toml").write_text(text)
    assert refusal(dataset) == (
        f"{dataset / 'schema.toml'}: 3 problems\n"
        "  parent is 'x', and the first of ancestors 'a'; they are the same\n"
        f"  fingerprint '{SCHEMA.fingerprint}' is also that of an ancestor; every dataset has its own\n"
        "  ancestor 'a' is named twice"
    )
    (dataset / "schema.toml").write_text(dump_toml(SCHEMA).replace("ancestors = []", 'ancestors = ["a"]'))
    assert "  parent is missing, and the first of ancestors 'a'; they are the same" in refusal(dataset)


def test_days_of_the_lineage_descend(dataset: Path) -> None:
    days = {"day": "2024-05-09", "ancestor_days": ("2024-05-08",)}
    child = DatasetSchema.model_validate(SCHEMA.model_dump() | {"parent": "a", "ancestors": ("a", "b")} | days)
    (dataset / "schema.toml").write_text(dump_toml(child))
    assert load_schema(dataset).lineage_days() == {SCHEMA.fingerprint: "2024-05-09", "a": "2024-05-08"}
    assert SCHEMA.lineage_days() == {}
    assert "day" not in SCHEMA.model_dump()

    def refused(changes: dict[str, Any]) -> str:
        raw = child.model_dump(mode="json", exclude_none=True) | changes
        (dataset / "schema.toml").write_text(tomli_w.dumps(raw))
        return refusal(dataset).partition("\n")[2]

    assert refused({"day": "9 May"}) == "  day and ancestor_days are 9 May, 2024-05-08; write each day as YYYY-MM-DD"
    more = ["2024-05-08", "2024-05-07", "2024-05-06"]
    assert refused({"ancestor_days": more}) == "  3 ancestor_days for 2 ancestors; drop some"
    assert refused({"day": "2024-05-08"}) == (
        "  day and ancestor_days are 2024-05-08, 2024-05-08; each day comes after the one that follows it"
    )


def test_a_label_is_no_feature() -> None:
    fields = SCHEMA.model_dump() | {
        "dense": ({"name": "income"}, {"name": "clicked"}),
        "tasks": ({"name": "income", "kind": "binary", "label": "income", "space": "clicked"},),
    }
    with pytest.raises(ValueError, match="Value error") as caught:
        DatasetSchema.model_validate(fields)
    assert "column 'income' is both a feature and a label; a model must not read it" in str(caught.value)
    assert "column 'clicked' is both a feature and a sample space; a model must not read it" in str(caught.value)
