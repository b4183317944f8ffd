"""`ple-rec bench tables`: slices of a feed with tables of full size, real ranks on them, claims, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.columns import DAY_COLUMN
from data_prep.synthetic.tencent import Tencent
from ple_rec.bench.figures import values
from ple_rec.bench.harness import conditions
from ple_rec.bench.report import Results, format_lines
from ple_rec.bench.tables import measure, train
from ple_rec.bench.tables_claims import claims_of
from ple_rec.bench.tables_plan import Plan, available_bytes, check_dim, shortage, too_large
from ple_rec.bench.tables_slice import FULL_USERS, Slice, world_of, write_slice
from ple_rec.bench.tables_text import figures, headline, lines
from ple_rec.cli import main
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from ple_rec.parallel.host import usable_memory_bytes

SMALL = Plan(20_000, batch_size=64, warm_up=1, steps=3, turns=2, lookups=2)
HUGE = Plan(20_000, dim=1 << 24, ranks=1)
ROWS = 96_512  # of the 24 tables of a feed of 20,000 users: 20,001 users and authors each, 55,361 videos, small ones


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("tables")
    told: list[str] = []
    measured = measure(folder, [SMALL], HUGE, told.append)
    assert [line.partition(",")[0] for line in told[-3:-1]] == ["turn 1 of 2", "turn 2 of 2"]
    return measured | {"conditions": conditions(), "values": values(figures(measured))}


def test_a_slice_reads_all_rows_of_tables_of_full_size(tmp_path: Path) -> None:
    write_slice(tmp_path / "feed", FULL_USERS, 16_000)
    dataset = Dataset(tmp_path / "feed")
    rows = dataset.schema.table_rows()
    assert (rows["user_id"], rows["video_id"]) == (46_926_001, 2_682_001)
    names = dataset.select(drop=[], tasks=[]).column_names()
    assert sum(group.rows for group in dataset.row_groups("train", names)) == 16_000
    train_rows = pq.read_table(tmp_path / "feed" / "train")
    for table, many in (("user_id", 15_000), ("video_id", 10_000)):
        ids = train_rows[table].to_numpy()
        assert ids.min() > 0
        assert 0.95 * rows[table] < ids.max() < rows[table]
        assert len(np.unique(ids)) > many
    assert pc.count_distinct(train_rows[DAY_COLUMN]).as_py() == 7
    for split in ("valid", "test"):
        assert dataset.row_groups(split, names)
    statistics = dataset.statistics()
    assert all(statistics[dense.name]["train"]["std"] > 0 for dense in dataset.schema.dense)


def test_a_slice_of_more_rows_than_the_world_has_is_the_world() -> None:
    world = world_of(1_000)
    parts = Slice(Tencent(world), 10**7).parts()
    assert [part.splits for part in parts] == [("train",), ("valid", "test")]
    places = np.concatenate([np.arange(block.start, block.stop) for block in parts[0].blocks])
    assert len(np.unique(places)) == len(places)
    rest = len(parts[0].blocks[0]) - 1  # of each day, at most
    assert world.day_start(7) - 7 * rest <= len(places) <= world.day_start(7)


def test_shards_and_state_are_the_tables_divided(results: Results) -> None:
    (size,) = results["sizes"]
    assert len(size["shard_bytes"]) == SMALL.ranks
    assert sum(size["shard_bytes"]) == ROWS * 16 * 4
    assert sum(size["state_bytes"]) == ROWS * 4
    assert size["shard_bytes"][0] + size["state_bytes"][0] == SMALL.shard_bytes()
    assert size["user_share"] == -(-20_001 // 2) / 20_001
    assert size["largest_share"]["share"] == 2 / 3  # of gender, which has 3 rows


def test_every_figure_is_of_this_run(results: Results) -> None:
    (size,) = results["sizes"]
    assert size["threads"] >= 1
    assert len(size["step_ms"]["medians"]) == SMALL.turns
    assert 0 < size["tables_ms"]["min"] <= size["tables_ms"]["median"]
    assert 0 < size["step_ms"]["min"] <= size["step_ms"]["median"] <= size["step_ms"]["max"]
    assert 0 < size["assembled_seconds"] < size["startup_seconds"]
    assert size["cpu_ms"]["min"] > 0
    assert size["peak_bytes"] > 100 << 20  # torch alone takes more
    most = max(a + b for a, b in zip(size["shard_bytes"], size["state_bytes"], strict=True))
    assert (1 << 30) + most < size["bound_bytes"] <= (1 << 30) + 1.15 * most


def text_of(results: Results) -> str:
    return format_lines(results | {"values": values(figures(results))}, lines(results))


def test_values_and_text_have_the_claims(results: Results) -> None:
    parsed = json.loads(json.dumps(results))
    names = ["largest_share_of_a_table", "peak_of_bound", "startup_seconds"]  # one size says nothing of flatness
    assert [claim["name"] for claim in parsed["claims"]] == names
    assert parsed["values"]["largest_share_of_a_table"] == 0.6667
    assert parsed["values"]["largest_share_of_a_table_holds"] == 1
    text = text_of(results)
    assert "holds: no rank holds a whole table: at most 0.667 of one (gender) and 0.500 of the users'" in text
    shards = parsed["values"]["rows_20000_dim_16_ranks_2_shard_bytes"]
    assert f"\nrows_20000_dim_16_ranks_2_shard_bytes={shards}\n" in text


def test_the_last_run_is_skipped_where_it_does_not_fit(results: Results) -> None:
    assert results["wide"] is None
    # 96,512 rows of 64 MiB and 4 bytes, and 1 GiB beside them
    (line,) = results["skipped"]
    assert line.startswith("20,000 user rows x 16777216 on 1 rank(s): skipped, needs 6033.0 GiB of ")
    assert line in text_of(results)


def test_the_limit_is_copying_the_rows(results: Results) -> None:
    (size,) = results["sizes"]
    assert size["sample_bytes"] == 24 * 16 * 4 * 3
    found = headline(results)
    assert found.measured.value == 1e3 * SMALL.batch_size * SMALL.ranks / size["tables_ms"]["median"]
    share = results["values"]["rows_20000_dim_16_ranks_2_share_of_bandwidth"]
    assert share == round(found.record()["fraction"], 4)
    assert 0 < share < 1


def test_claims_that_do_not_hold_are_told(results: Results) -> None:
    (size,) = results["sizes"]
    slow: dict[str, Any] = size | {
        "users": 40_000,
        "step_ms": size["step_ms"] | {"median": size["step_ms"]["median"] * 1.3},
        "startup_seconds": 61.0,
        "peak_bytes": size["bound_bytes"] * 2,
        "largest_share": {"table": "user_id", "share": 1.0},
        "user_table_bytes": 2 << 30,
    }
    claims = claims_of([size, slow])
    assert {claim["name"]: claim["value"] for claim in claims} == {
        "largest_share_of_a_table": 1.0,
        "peak_of_bound": 2.0,
        "startup_seconds": 61.0,
        "step_ratio": 1.3,
    }
    assert not any(claim["holds"] for claim in claims)
    text = text_of(results | {"claims": claims})
    assert text.count("DOES NOT HOLD: ") == 4
    assert "61.0 s at most, at 40,000 x 16 on 2 rank(s)" in text
    assert "is NO LESS than the users' table alone, 2.00 GiB" in text
    assert "step_ratio_holds=0" in text


def test_flat_is_flat(results: Results) -> None:
    (size,) = results["sizes"]
    near = size | {"users": 40_000, "step_ms": size["step_ms"] | {"median": size["step_ms"]["median"] / 1.19}}
    claim = claims_of([size, near])[-1]
    assert (claim["name"], claim["value"], claim["holds"]) == ("step_ratio", 1.19, True)


def test_a_size_beyond_memory_is_refused_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(2_000_000_000, dim=1024)
    assert main(["bench", "tables", "--rows", "2000000000", "--dim", "1024"]) == 2
    # 2,002,703,152 rows of 4,096 + 4 bytes are 7,647.2 GiB, on two ranks with 1 GiB beside each half
    message = capsys.readouterr().err
    assert "--rows: 2,000,000,000 user rows x 1024 on 2 rank(s) needs 7649.2 GiB of " in message
    assert "a rank of this one has shards of 3823.6 GiB" in message
    assert shortage(SMALL.needed_bytes()) is None
    assert too_large(plan, "needs 3 GiB of 2").value.endswith("needs 3 GiB of 2")


def test_memory_that_others_use_is_not_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99999999 kB\nMemAvailable:    1234 kB\n")
    assert available_bytes(meminfo) == 1234 * 1024
    meminfo.write_text("MemTotal: 99999999 kB\n")
    assert available_bytes(meminfo) == usable_memory_bytes()


@pytest.mark.parametrize(("users", "value"), [(100, "got 100 user rows, a feed of 2,120 impressions"), (10**10, None)])
def test_a_world_of_too_few_or_too_many_is_refused(users: int, value: str | None) -> None:
    with pytest.raises(UserError, match="--rows: got") as refused:
        world_of(users)
    assert refused.value.value == (value or "got 10,000,000,000 user rows, a feed of 212,035,971,529 impressions")


def test_no_impression_is_read_twice() -> None:
    # A pass to warm up, two turns of 3 steps and of 5 that are repeated, two look-ups: 19, of 64 rows on two ranks
    assert SMALL.samples == 2_432


def test_a_dim_that_no_kernel_takes_is_refused() -> None:
    with pytest.raises(UserError, match=r"--dim: got 10; .* Fix: use 12"):
        check_dim(10)


@pytest.mark.slow
def test_the_error_of_a_rank_is_that_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        train(tmp_path, [Plan(20_000, ranks=1)], print)
    assert refused.value.place == str(tmp_path / "data-20000")
