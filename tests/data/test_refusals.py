"""Every dataset that is refused, and what the user reads then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.config.base import Split
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.errors import DataError, PleRecError, UserError
from tests.datasets import set_column, write_dataset, write_row_groups

AGAIN = "prepare the dataset again"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A dataset of 4 row groups of 8 rows in 2 parts."""
    write_dataset(tmp_path / "data", rows=32, row_group_rows=8, parts=2)
    return tmp_path / "data"


def refusal(call: Callable[[], Any], kind: type[PleRecError] = DataError) -> str:
    with pytest.raises(PleRecError) as caught:
        call()
    assert type(caught.value) is kind
    assert caught.value.exit_code == {UserError: 2, DataError: 3}[kind]
    return str(caught.value)


def load(path: Path, split: Split = "train", batch_size: int = 8, world_size: int = 1, shards: int = 1) -> list[Batch]:
    dataset = DatasetDirectory(path)
    selection = dataset.select(drop=[], tasks=[])
    one = Loader(
        dataset,
        split,
        selection,
        batch_size=batch_size,
        rank=0,
        world_size=world_size,
        virtual_shards=shards,
        shuffle=False,
    )
    return list(one.epoch(0))


def test_no_directory(tmp_path: Path) -> None:
    assert refusal(lambda: DatasetDirectory(tmp_path / "lost"), UserError) == (
        f"{tmp_path}/lost: no such directory; a dataset directory is needed. "
        f"Fix: make it with `ple-rec prep ... --out {tmp_path}/lost`"
    )


def test_unfinished_directory(path: Path) -> None:
    (path / "_SUCCESS").unlink()
    assert refusal(lambda: DatasetDirectory(path)) == (
        f"{path}: no _SUCCESS file; a dataset directory without it is incomplete. "
        f"Fix: move it away, and make it again with `ple-rec prep ... --out {path}`"
    )


def test_a_folder_of_raw_logs_is_not_told_to_move_away(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "day.csv").write_text("user_id\n1\n")
    assert refusal(lambda: DatasetDirectory(tmp_path / "raw")) == (
        f"{tmp_path}/raw: no schema.toml and no _SUCCESS; it is no dataset directory. Fix: if it holds raw logs, "
        f"prepare them by `ple-rec prep FILE.toml --from {tmp_path}/raw --out DIR`, and name DIR"
    )


def test_split_without_parts(path: Path) -> None:
    for file in (path / "valid").iterdir():
        file.unlink()
    message = (
        f"{path}/valid: no Parquet parts; the valid split is needed here. "
        f"Fix: write its rows there as *.parquet, or {AGAIN}"
    )
    assert refusal(lambda: load(path, "valid"), UserError) == message
    (path / "valid").rmdir()
    assert refusal(lambda: load(path, "valid"), UserError) == message


def test_split_without_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", rows=1)
    assert refusal(lambda: load(tmp_path / "data", "valid"), UserError) == (
        f"{tmp_path}/data/valid: no rows; the valid split is needed here. Fix: prepare more data, or split it "
        "differently"
    )


def test_split_that_the_schema_does_not_have(path: Path) -> None:
    text = (path / "schema.toml").read_text()
    start = text.index("[splits.test]")
    (path / "schema.toml").write_text(text[:start])
    (path / "_SUCCESS").write_text("")  # without digests, as one who writes a dataset by hand leaves it
    assert refusal(lambda: load(path, "test")) == (
        f"{path}/test: 16 rows in its parts; {path}/schema.toml says no such split. Fix: copy the whole dataset "
        "directory; if these are all its rows, write rows = 16 under [splits.test] of schema.toml"
    )


def test_lost_part(path: Path) -> None:
    (path / "train/part-00001.parquet").unlink()
    assert refusal(lambda: load(path)) == (
        f"{path}/train: 16 rows in its parts; {path}/schema.toml says 32 rows. Fix: copy the whole dataset "
        "directory; if these are all its rows, write rows = 16 under [splits.train] of schema.toml"
    )


TOGETHER = "put the parts and the schema.toml of one dataset together"
STAMP = "write it as Parquet metadata `ple_rec.fingerprint`"


@pytest.mark.parametrize(("found", "fix"), [("0123abcd", TOGETHER), ("", STAMP)])
def test_part_of_another_dataset(path: Path, found: str, fix: str) -> None:
    file = path / "train/part-00001.parquet"
    write_row_groups(file, [pq.read_table(file)], found)
    schema = DatasetDirectory(path).schema
    assert refusal(lambda: load(path)) == (
        f"{file}: fingerprint {found or 'missing'}; every part must have the fingerprint of the "
        f"dataset, {schema.fingerprint}. "
        f"Fix: {fix}, or {AGAIN}"
    )


@pytest.mark.parametrize("kept", [0, 3, 500, -1])
def test_part_that_is_cut_off(path: Path, kept: int) -> None:
    file = path / "train/part-00001.parquet"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises((pa.ArrowInvalid, OSError)) as reason:
        pq.read_metadata(file)
    assert (
        refusal(lambda: load(path))
        == f"{file}: unreadable ({reason.value}); a part is a Parquet file. Fix: copy it again, or {AGAIN}"
    )


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
def test_part_with_damaged_rows_is_refused_where_they_are_read(path: Path, filler: bytes) -> None:
    file = path / "train/part-00001.parquet"
    group = pq.read_metadata(file).row_group(1)
    start = min(group.column(i).dictionary_page_offset or group.column(i).data_page_offset for i in range(5))
    content = bytearray(file.read_bytes())
    content[start : start + 200] = filler * 200
    file.write_bytes(content)
    dataset = DatasetDirectory(path)
    one = Loader(
        dataset,
        "train",
        dataset.select(drop=[], tasks=[]),
        batch_size=8,
        rank=0,
        world_size=1,
        virtual_shards=1,
        shuffle=False,
    )
    batches = one.epoch(0)
    assert [next(batches).rows for _ in range(3)] == [8, 8, 8]
    message = refusal(lambda: next(batches))
    assert message.startswith(f"{file}, row group 1: unreadable (")
    assert message.endswith(f"); a part is a whole Parquet file. Fix: copy it again, or {AGAIN}")


def test_part_with_damaged_column_names(path: Path) -> None:
    file = path / "train/part-00001.parquet"
    content = file.read_bytes()
    place = content.index(b"\x18\x07request")  # in the footer, behind the field's type and length
    file.write_bytes(content[: place + 2] + b"\xce" + content[place + 3 :])
    assert refusal(lambda: load(path)) == (
        f"{file}: unreadable ('utf-8' codec can't decode byte 0xce in position 0: invalid continuation byte); "
        f"a part is a Parquet file. Fix: copy it again, or {AGAIN}"
    )


def test_part_without_a_column(path: Path) -> None:
    file = path / "train/part-00001.parquet"
    table = pq.read_table(file)
    write_row_groups(
        file, [table.drop_columns(["item", "tag_weights", "watched"])], DatasetDirectory(path).schema.fingerprint
    )
    assert refusal(lambda: load(path)) == (
        f"{file}: no column item, tag_weights, watched; schema.toml lists them. "
        "Fix: write the column, or remove it from schema.toml"
    )
    write_row_groups(file, [table.rename_columns({"click": "clicked"})], DatasetDirectory(path).schema.fingerprint)
    assert refusal(lambda: load(path)) == (
        f"{file}: no column click; schema.toml lists it. "
        "Fix: did you mean 'clicked'? else write the column, or remove it from schema.toml"
    )


def test_columns_that_the_run_does_not_read_may_be_missing(path: Path) -> None:
    dataset = DatasetDirectory(path)
    for file in (path / "train").iterdir():
        write_row_groups(file, [pq.read_table(file).drop_columns(["item", "watched"])], dataset.schema.fingerprint)
    selection = dataset.select(drop=["item"], tasks=["click"])
    one = Loader(dataset, "train", selection, batch_size=8, rank=0, world_size=1, virtual_shards=1)
    assert sum(batch.rows for batch in one.epoch(0)) == 32


FOREIGN_ID = "prepare the dataset again, since its schema and its Parquet files do not belong together"
BAD_LABEL = (
    "correct the label's definition, or exclude the row by the task's sample-space column, "
    "and prepare the dataset again"
)
WEIGHTS = "correct the weights and prepare the dataset again"
LOGS = "correct the logs, or replace such values by null, and prepare the dataset again"
NAN, INF = float("nan"), float("inf")

# column, value put into row 5 of the second row group, value and rule of the message, fix
BAD_VALUES = [
    ("user", 24, "id 24", "table 'user' has rows 0 to 23", FOREIGN_ID),
    ("user", -1, "id -1", "table 'user' has rows 0 to 23", FOREIGN_ID),
    ("last_item", 2**31 - 1, "id 2147483647", "table 'item' has rows 0 to 39", FOREIGN_ID),
    ("history", [1, 40, 2], "id 40", "table 'item' has rows 0 to 39", FOREIGN_ID),
    ("history", [1, 2, -7], "id -7", "table 'item' has rows 0 to 39", FOREIGN_ID),
    ("click", 0.5, "label 0.5 of task 'click'", "a binary label is 0 or 1", BAD_LABEL),
    ("click", -1.0, "label -1.0 of task 'click'", "a binary label is 0 or 1", BAD_LABEL),
    ("click", 2.0, "label 2.0 of task 'click'", "a binary label is 0 or 1", BAD_LABEL),
    ("click", INF, "label inf of task 'click'", "a binary label is 0 or 1", BAD_LABEL),
    ("click", None, "no label of task 'click'", "a binary label is 0 or 1", BAD_LABEL),
    ("click", NAN, "no label of task 'click'", "a binary label is 0 or 1", BAD_LABEL),
    ("age", INF, "got inf", "values must be finite or null", LOGS),
    ("score", -INF, "got -inf", "values must be finite or null", LOGS),
    ("weight", -0.25, "sample weight -0.25", "a sample weight is finite and at least 0", WEIGHTS),
    ("weight", INF, "sample weight inf", "a sample weight is finite and at least 0", WEIGHTS),
    ("weight", None, "no sample weight", "a sample weight is finite and at least 0", WEIGHTS),
]


def spoil(path: Path, changes: dict[str, Any]) -> None:
    """A dataset of 3 row groups with other values in row 5 of the second."""

    def edit(split: Split, table: pa.Table) -> pa.Table:
        if split == "train":
            for name, value in changes.items():
                values = table[name].to_pylist()
                values[15] = value
                table = set_column(table, name, values)
        return table

    write_dataset(path, rows=30, row_group_rows=10, edit=edit)


@pytest.mark.parametrize(("column", "value", "found", "rule", "fix"), BAD_VALUES)
def test_bad_value(tmp_path: Path, column: str, value: object, found: str, rule: str, fix: str) -> None:
    spoil(tmp_path / "data", {column: value})
    assert refusal(lambda: load(tmp_path / "data")) == (
        f"{tmp_path}/data/train/part-00000.parquet, row group 1, column {column!r}, row 5: {found}; {rule}. Fix: {fix}"
    )


@pytest.mark.parametrize(
    ("label", "found"), [(None, "no label of task 'watch'"), (INF, "label inf of task 'watch'")], ids=["null", "inf"]
)
def test_bad_regression_label_inside_its_space(tmp_path: Path, label: float | None, found: str) -> None:
    spoil(tmp_path / "data", {"watch_time": label, "watched": True})
    assert refusal(lambda: load(tmp_path / "data")) == (
        f"{tmp_path}/data/train/part-00000.parquet, row group 1, column 'watch_time', row 5: {found}; "
        f"a regression label is finite. Fix: {BAD_LABEL}"
    )


@pytest.mark.parametrize("label", [None, INF, NAN])
@pytest.mark.parametrize("space", [False, None])
def test_any_label_goes_outside_its_space(tmp_path: Path, label: float | None, space: bool | None) -> None:
    spoil(tmp_path / "data", {"watch_time": label, "watched": space})
    batch = load(tmp_path / "data", batch_size=10)[1]
    assert (batch.labels_BK[5, 1].item(), batch.in_space_BK[5, 1].item()) == (0, 0)


def test_label_of_a_regression_task_without_a_space(tmp_path: Path) -> None:
    def edit(split: Split, table: pa.Table) -> pa.Table:
        return set_column(table, "watch_time", [None] * len(table))

    write_dataset(tmp_path / "data", rows=20, space=False, edit=edit)
    assert refusal(lambda: load(tmp_path / "data")) == (
        f"{tmp_path}/data/train/part-00000.parquet, row group 0, column 'watch_time', row 0: no label of task 'watch'; "
        f"a regression label is finite. Fix: {BAD_LABEL}"
    )


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ([0.5], "1 weight(s) for 2 id(s) of 'tags'"),
        ([0.5, 1.0, 2.0], "3 weight(s) for 2 id(s) of 'tags'"),
        (None, "0 weight(s) for 2 id(s) of 'tags'"),
    ],
)
def test_bag_with_another_number_of_weights(tmp_path: Path, weights: Sequence[float] | None, found: str) -> None:
    spoil(tmp_path / "data", {"tags": [3, 4], "tag_weights": weights})
    assert refusal(lambda: load(tmp_path / "data")) == (
        f"{tmp_path}/data/train/part-00000.parquet, row group 1, column 'tag_weights', row 5: {found}; "
        f"a weighted bag has one weight per id. Fix: {AGAIN}"
    )


@pytest.mark.parametrize(("weight", "found"), [(INF, "inf"), (-INF, "-inf"), (NAN, "nan")])
def test_bag_weight_that_is_not_finite(tmp_path: Path, weight: float, found: str) -> None:
    spoil(tmp_path / "data", {"tags": [3, 4, 5], "tag_weights": [0.5, 1.0, weight]})
    assert refusal(lambda: load(tmp_path / "data")) == (
        f"{tmp_path}/data/train/part-00000.parquet, row group 1, column 'tag_weights', row 5: got {found}; "
        f"the weights of a bag are finite, or null, which means 1. Fix: {WEIGHTS}"
    )


def test_text_group(tmp_path: Path) -> None:
    def edit(split: Split, table: pa.Table) -> pa.Table:
        return set_column(table, "request", [f"r{i}" for i in range(len(table))], pa.string())

    write_dataset(tmp_path / "data", rows=20, edit=edit)
    assert refusal(lambda: load(tmp_path / "data")) == (
        f"{tmp_path}/data/train/part-00000.parquet, row group 0, column 'request': type string; "
        f"it must be int64 or convert to it (only numbers convert). Fix: {AGAIN}"
    )


@pytest.mark.parametrize(
    ("drop", "tasks", "place", "found", "fix"),
    [
        (["usr"], [], "data.drop", "usr", "did you mean 'user'?"),
        (["age", "tag_weights"], [], "data.drop", "tag_weights", "use one of these"),
        (["zzz"], [], "data.drop", "zzz", "use one of these"),
        ([], ["clik"], "tasks", "clik", "did you mean 'click'?"),
        ([], ["watch", "buy"], "tasks", "buy", "use one of these"),
    ],
)
def test_unknown_names(path: Path, drop: list[str], tasks: list[str], place: str, found: str, fix: str) -> None:
    known = "click, watch" if place == "tasks" else "user, history, item, tags, last_item, age, price, score, bias"
    assert refusal(lambda: DatasetDirectory(path).select(drop=drop, tasks=tasks), UserError) == (
        f"{place}: got {found!r}; {path} has {known}. Fix: {fix}"
    )


def test_nothing_left(path: Path) -> None:
    features = ["user", "history", "item", "tags", "last_item", "age", "price", "score", "bias"]
    assert refusal(lambda: DatasetDirectory(path).select(drop=features, tasks=[]), UserError) == (
        "data.drop: lists all features; a model needs at least one. Fix: remove a feature from the list"
    )


def test_selection_follows_the_run(path: Path) -> None:
    selection = DatasetDirectory(path).select(drop=["item", "price"], tasks=["watch", "click"])
    assert [f.name for f in selection.sparse] == ["user", "last_item", "history", "tags"]
    assert [f.name for f in selection.dense] == ["age", "score", "bias"]
    assert [task.name for task in selection.tasks] == ["watch", "click"]
    everything = [*("user", "last_item", "history", "tags", "age", "score", "bias"), "tag_weights"]
    assert selection.column_names() == [*everything, "watch_time", "watched", "click", "weight", "request"]


def test_more_ranks_than_row_groups(path: Path) -> None:
    assert refusal(lambda: load(path, world_size=5, shards=5), UserError) == (
        f"{path}/train: 4 row group(s) for 5 ranks; each rank must read at least one row group. "
        "Fix: use fewer ranks, or prepare the dataset with smaller row groups"
    )


@pytest.mark.parametrize(
    ("batch_size", "world_size", "shards", "message"),
    [
        (
            8,
            2,
            3,
            "data.virtual_shards: got 3 with 2 ranks; it must be a multiple of the number of ranks, so that "
            "all ranks read equally many shards. Fix: set data.virtual_shards = 4, or use another number of ranks",
        ),
        (
            10,
            2,
            4,
            "train.batch_size: got 10 samples over all ranks with data.virtual_shards = 4; it must be a "
            "multiple of the virtual shards, since a batch takes equally many samples from each of them. Fix: use a "
            "global batch of "
            "8, or another data.virtual_shards",
        ),
    ],
)
def test_sizes_that_do_not_divide(path: Path, batch_size: int, world_size: int, shards: int, message: str) -> None:
    assert refusal(lambda: load(path, "train", batch_size, world_size, shards), UserError) == message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{", "unreadable (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("{}", "no key 'columns'"),
        ("[]", "unreadable (list indices must be integers or slices, not str)"),
        (None, "unreadable ([Errno 2] No such file or directory: {file!r})"),
    ],
)
def test_bad_statistics(path: Path, text: str | None, value: str) -> None:
    file = path / "stats.json"
    file.unlink() if text is None else file.write_text(text)
    (path / "_SUCCESS").write_text("")
    assert refusal(DatasetDirectory(path).statistics) == (
        f"{file}: {value.format(file=str(file))}; the normalisation of dense features needs it. Fix: write the "
        f"statistics of the dense features there, as docs/data.md says, or {AGAIN}"
    )


def test_random_damage_is_refused_or_read(path: Path) -> None:
    """No bytes of a part end a run in anything but a message."""
    file = path / "train/part-00001.parquet"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 20):
            content[place] = rng.integers(256)
        file.write_bytes(content)
        try:
            load(path)
        except DataError:
            refused += 1
    assert refused >= 30
