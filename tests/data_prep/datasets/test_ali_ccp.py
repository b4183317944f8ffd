"""The recipe `ali-ccp`: raw files to a dataset directory to a few steps of training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq
import pytest

from data_prep import Options, Summary, prepare
from data_prep.datasets.ali_ccp import max_entries_by_field
from data_prep.engines.duck import DuckEngine
from data_prep.run import prepare_config, read_recipe
from data_prep.sources.files import POSITION
from data_prep.transforms.resolve import resolve
from ple_rec.cli import main
from ple_rec.config.base import SPLITS, Split
from ple_rec.errors import DataError, UserError
from tests.data_prep.datasets.ali_ccp_files import Impression, users, write_ali_ccp
from tests.data_prep.feed_logs import folder_of, only

ROWS = 2_000
MIN_COUNT = 10
SMALL = ("embeddings.dim=4", "train.batch_size=64", "train.epochs=2", "runtime.device=cpu", "data.virtual_shards=1")


@pytest.fixture(scope="module")
def kept() -> dict[str, ibis.Schema]:
    """What the engine keeps on disk while `ali` is made."""
    return {}


@pytest.fixture(scope="module")
def ali(
    tmp_path_factory: pytest.TempPathFactory, kept: dict[str, ibis.Schema]
) -> tuple[Summary, dict[Split, list[Impression]]]:
    """A dataset directory, and the impressions of each split in the order of its parts."""
    folder = tmp_path_factory.mktemp("ali")
    written = write_ali_ccp(folder / "raw", ROWS)
    materialize = DuckEngine.materialize

    def watched(engine: DuckEngine, name: str, rows: ir.Table) -> ir.Table:
        kept[name] = rows.schema()
        return materialize(engine, name, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DuckEngine, "materialize", watched)
        summary = prepare("ali-ccp", folder / "data" / "ali-ccp", Options(source=str(folder / "raw")))
    held = [row for row in written["train"] if held_out(row.user)]
    train = [row for row in written["train"] if not held_out(row.user)]
    by_user: dict[Split, list[Impression]] = {"valid": held, "test": written["test"]}
    splits: dict[Split, list[Impression]] = {"train": train}
    for split, rows in by_user.items():
        splits[split] = sorted(rows, key=lambda row: row.user)
    return summary, splits


def held_out(user: int) -> bool:
    """Of a user of `users`."""
    return (5_000 + user) % 1_000_003 * 1_597_334_677 % 2_147_483_647 < 107_374_182


def read(out: Path, split: Split) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(out / split).to_pydict()
    return columns


@pytest.mark.parametrize("split", SPLITS)
def test_rows_labels_and_spaces(ali: tuple[Summary, dict[Split, list[Impression]]], split: Split) -> None:
    summary, splits = ali
    rows, found = splits[split], read(folder_of(summary), split)
    assert len(rows) > 0
    assert found["group"] == [5_000 + row.user for row in rows]
    assert found["label_ctr"] == [row.click for row in rows]
    assert found["label_cvr"] == [row.buy for row in rows]
    assert {task.name: task.space for task in summary.schema.tasks} == {"ctr": None, "cvr": "space_cvr"}
    assert found["space_cvr"] == [row.click == 1 for row in rows]


@pytest.mark.parametrize("split", SPLITS)
def test_features_of_items_and_of_users(ali: tuple[Summary, dict[Split, list[Impression]]], split: Split) -> None:
    summary, splits = ali
    rows, found, profile = splits[split], read(folder_of(summary), split), users()

    def rows_of(feature: str, field: str, *, common: bool, bag: bool = False) -> tuple[list[Any], list[Any]]:
        """What the column holds as raw ids, and what it should."""
        vocabulary = pq.read_table(summary.out / "vocab" / f"{feature}.parquet").to_pydict()
        raw = dict(zip(vocabulary["row"], vocabulary["raw"], strict=True))

        def entries(row: Impression) -> list[int]:
            return [of for name, of, _ in (profile[row.user] if common else row.entries) if name == field][:32]

        counts = Counter(of for row in splits["train"] for of in entries(row))
        ids = [[of if counts[of] >= MIN_COUNT else None for of in entries(row)] for row in rows]
        if bag:
            return [[raw.get(i) for i in items] for items in found[feature]], ids
        return [raw.get(i) for i in found[feature]], [of[0] if of else None for of in ids]

    for feature, field, common, bag in (
        ("item_id", "205", False, False),
        ("gender", "124", True, False),
        ("user_id", "101", True, False),
        ("match_shop", "509", False, True),
        ("history_brands", "127_14", True, True),
    ):
        of_column, expected = rows_of(feature, field, common=common, bag=bag)
        assert of_column == expected, feature
    weights = [[w for name, _, w in profile[row.user] if name == "127_14"][:32] for row in rows]
    assert found["history_brands_weights"] == weights
    assert any(len(bag) == 32 for bag in weights)


def test_the_held_out_users_are_in_no_other_split(ali: tuple[Summary, dict[Split, list[Impression]]]) -> None:
    summary, _ = ali
    groups = {split: set(read(folder_of(summary), split)["group"]) for split in SPLITS}
    assert groups["train"] & groups["valid"] == set()
    assert groups["train"] | groups["valid"] == {5_000 + user for user in range(60)}
    assert summary.oov_rates("valid")["user_id"] == 1.0


@pytest.mark.slow
def test_the_recipes_are_compared(
    ali: tuple[Summary, dict[Split, list[Impression]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, splits = ali
    monkeypatch.chdir(folder_of(summary).parent.parent)
    small = [word for setting in SMALL for word in ("--set", setting)]
    asked = ["--config", "ali-ccp-compare", "--variants", "ple", "--seeds", "1", "--jobs", "1", "--runs", str(tmp_path)]
    assert main(["compare", *asked, *small]) == 0
    found = json.loads((tmp_path / "ali-ccp-compare" / "compare.json").read_text())
    assert list(found["variants"]) == ["single_task", "ple"]
    assert all(set(variant["tasks"]) == {"ctr", "cvr"} for variant in found["variants"].values())
    metrics = json.loads((tmp_path / "ali-ccp-compare" / "ple" / "seed-0" / "metrics.json").read_text())
    tasks = metrics["test"]["tasks"]
    assert tasks["ctr"]["samples"] == ROWS
    assert tasks["cvr"]["samples"] == sum(row.click for row in splits["test"])
    assert tasks["ctr"]["logloss"] < 0.7


def test_ctcvr_instead_of_cvr(tmp_path: Path) -> None:
    written = write_ali_ccp(tmp_path / "raw", 100)
    config, place, source = read_recipe("ali-ccp", ("tasks[1].name=ctcvr", "tasks[1].space=", "tables={}"))
    options = Options(source=str(tmp_path / "raw"))
    summary = prepare_config(only(config, "item_id", "gender"), place, tmp_path / "out", options, source)
    assert {task.name: task.space for task in summary.schema.tasks} == {"ctr": None, "ctcvr": None}
    counts = summary.stats["tasks"]["ctcvr"]
    bought = sum(row.buy for row in written["train"])
    assert sum(counts[split]["positives"] for split in ("train", "valid")) == bought
    assert counts["test"]["samples"] == 100


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), {"109_14": 32, "110_14": 32, "127_14": 32, "150_14": 32}),
        (("sparse[19].max_length=100",), {"109_14": 100, "110_14": 32, "127_14": 32, "150_14": 32}),
        (("sparse[19].keep=last",), {"110_14": 32, "127_14": 32, "150_14": 32}),
        (("carry.visits=length(common.f127_14)",), {"109_14": 32, "110_14": 32, "150_14": 32}),
    ],
)
def test_a_history_is_cut_to_what_is_read(overrides: tuple[str, ...], expected: dict[str, int]) -> None:
    config, place, _ = read_recipe("ali-ccp", overrides)
    assert max_entries_by_field(resolve(config, place)) == expected


def test_it_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^ali-ccp: no --from; ple-rec does not download its files\. Fix: download them, and "
    ):
        prepare("ali-ccp", tmp_path / "out")


def test_a_feature_of_a_field_that_is_not_there(tmp_path: Path) -> None:
    write_ali_ccp(tmp_path / "raw", 10)
    options = Options(source=str(tmp_path / "raw"), overrides=("sparse[0].value=common.f102",))
    with pytest.raises(DataError, match=r"column 'f102': there is no such column; ali-ccp\.toml: sides\.common needs"):
        prepare("ali-ccp", tmp_path / "out", options)


@pytest.mark.usefixtures("ali")
def test_no_history_is_kept_beside_an_impression(kept: dict[str, ibis.Schema]) -> None:
    columns = kept["linked"]
    assert {"common.f101", "click", "f210"} <= set(columns)
    assert [name for name in columns if name.startswith("common.") and columns[name].is_array()] == []
    assert [name for name in columns if "_14" in name] == []
    histories = [f"history_{name}" for name in ("categories", "shops", "brands", "intentions")]
    assert set(kept["bags_common_0"]) == {POSITION, *histories, *(f"{name}_weights" for name in histories)}
