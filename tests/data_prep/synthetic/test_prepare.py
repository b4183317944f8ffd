"""Synthetic dataset directories: the same bytes by any number of processes, readable, trainable, in flat memory."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import Options, prepare
from data_prep.output.stage import STATE_FILE
from data_prep.output.summary import Summary
from data_prep.synthetic import prepare_synthetic, write_raw
from data_prep.synthetic.columns import HIDDEN, NORMALISERS, TASKS
from data_prep.synthetic.mmoe import Mmoe
from data_prep.synthetic.outcomes import describe
from data_prep.synthetic.prepare import make_design, prepare_design
from data_prep.synthetic.tencent import Tencent
from data_prep.synthetic.world import World
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import FINGERPRINT_KEY
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import DataError, UserError
from ple_rec.training.evaluate import evaluate
from tests.data_prep.feed_logs import folder_of
from tests.data_prep.output.test_tables import documented_keys
from tests.training.small import on_ranks, small_config, train_small

TENCENT, MMOE = "tencent-synthetic", "mmoe-synthetic"
ROWS = 40_000


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tencent(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return prepare_synthetic(TENCENT, tmp_path_factory.mktemp("tencent") / "d", rows=ROWS, seed=2)


@pytest.fixture(scope="module")
def mmoe(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return prepare_design(Mmoe(1000, 0.75, dim=20), tmp_path_factory.mktemp("mmoe") / "d")


def rows_of(summary: Summary, split: str) -> pa.Table:
    files = sorted((folder_of(summary) / split).iterdir())
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files])


def test_it_is_made_once(tencent: Summary) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder_of(tencent).rglob("*")}
    again = prepare_synthetic(TENCENT, tencent.out, rows=ROWS, seed=2, processes=3)
    assert again.reused
    assert again.schema == tencent.schema
    assert {path: path.stat().st_mtime_ns for path in folder_of(tencent).rglob("*")} == before
    with pytest.raises(UserError, match="was prepared with other arguments"):
        prepare_synthetic(TENCENT, tencent.out, rows=ROWS, seed=3)


def test_overwriting(tmp_path: Path) -> None:
    first = prepare_design(Mmoe(1000, 0.75, dim=4), tmp_path / "d")
    second = prepare_design(Mmoe(1001, 0.75, dim=4), tmp_path / "d", overwrite=True)
    assert first.schema.fingerprint != second.schema.fingerprint
    assert sum(info.rows for info in second.schema.splits.values()) == 1001
    (second.out / "stats.html").unlink()  # damage, of which the recipe does not tell
    assert not prepare_design(Mmoe(1001, 0.75, dim=4), tmp_path / "d", overwrite=True).reused
    assert (second.out / "stats.html").exists()


def test_splits(tencent: Summary) -> None:
    dataset = DatasetDirectory(tencent.out)
    selection = dataset.select(drop=(), tasks=())
    for split in SPLITS:
        groups = dataset.row_groups(split, selection.column_names())
        assert len(groups) >= 16
    parts = {split: rows_of(tencent, split) for split in SPLITS}
    assert len(parts["train"]) == ROWS * 875 // 1000
    users = {split: parts[split]["user_id"].to_numpy() for split in SPLITS}
    assert not set(users["valid"]) & set(users["test"])
    assert len(set(users["valid"])) == pytest.approx(len(set(users["test"])), rel=0.2)
    for split in ("valid", "test"):
        assert (np.diff(users[split]) >= 0).all()
        starts: list[int] = []
        for file in sorted((folder_of(tencent) / split).iterdir()):
            with pq.ParquetFile(file) as opened:
                for i in range(opened.num_row_groups):
                    group = opened.read_row_group(i, columns=["user_id"])["user_id"].to_pylist()
                    assert not starts or group[0] > starts[-1]  # cut at users
                    starts.append(group[-1])


def test_hidden_columns_are_not_read(tencent: Summary) -> None:
    assert set(HIDDEN) <= set(rows_of(tencent, "train").column_names)
    assert not set(HIDDEN) & set(tencent.schema.columns())
    assert len(tencent.schema.sparse) == 24
    assert len(tencent.schema.dense) == 8
    assert tencent.schema.group == "user_id"


def test_statistics_are_those_of_the_rows(tencent: Summary) -> None:
    stats = tencent.stats
    for split in SPLITS:
        rows = rows_of(tencent, split)
        assert stats["rows"][split] == len(rows)
        gender = rows["gender"].to_numpy()
        found = stats["columns"]["gender"][split]
        assert (found["rows"], found["oov"]) == (len(rows), int((gender == 0).sum()))
        days = rows["user_register_days"].drop_null().to_numpy().astype(float)
        found = stats["columns"]["user_register_days"][split]
        assert found["nulls"] == len(rows) - len(days) > 0
        assert found["mean"] == pytest.approx(days.mean())
        assert found["std"] == pytest.approx(days.std())
        assert found["quantiles"][::500] == pytest.approx(np.quantile(days, [0, 0.5, 1]).tolist())
        completion = rows["completion"].to_numpy().astype(float)
        found = stats["tasks"]["vcr"][split]
        assert (found["samples"], found["mean"]) == (len(rows), pytest.approx(completion.mean(), abs=1e-6))
        click = rows["is_click"].to_numpy(zero_copy_only=False)
        share = rows["is_share"].to_numpy()[click]
        found = stats["tasks"]["share"][split]
        assert (found["samples"], found["positives"]) == (len(share), int(share.sum()))
        assert found["outside"] == {"rows": len(rows) - len(share), "positives": 0}


def test_statistics_show_why_gates_are_needed(tencent: Summary) -> None:
    assert [day["day"] for day in tencent.stats["days"]] == [f"2020-03-{day:02d}" for day in range(2, 10)]
    (slice_,) = (each for each in tencent.stats["slices"] if each["column"] == "auto_play")
    related = {
        each["value"]: {(pair["a"], pair["b"]): pair["r"] for pair in each["correlation"]}[("vtr", "vcr")]
        for each in slice_["values"]
    }
    assert related[1] > related[2] + 0.08  # chosen by the user; started by itself
    assert tencent.stats["values"]["network"]["1"] == "wifi"


def test_the_reachable_is_told(tencent: Summary, mmoe: Summary) -> None:
    test = tencent.stats["reachable"]["test"]
    assert list(test) == [task.name for task in TASKS]
    assert test["vtr"]["samples"] == tencent.schema.splits["test"].rows
    assert 0.66 < test["vtr"]["auc"] < 0.78
    assert 0.12 < test["vcr"]["mse"] < 0.16 < test["vcr"]["variance"] < 0.18
    assert describe(test).startswith(f"vtr auc {test['vtr']['auc']:.4f}, vcr mse {test['vcr']['mse']:.4f}, share auc ")
    assert mmoe.stats["reachable"]["test"]["task1"]["mse"] == pytest.approx(0.01, rel=0.5)


def test_mmoe_statistics(mmoe: Summary) -> None:
    rows = rows_of(mmoe, "train")
    x = rows["x017"].to_numpy().astype(float)
    found = mmoe.stats["columns"]["x017"]["train"]
    assert [found[key] for key in ("mean", "std", "min", "max", "nulls", "rows")] == pytest.approx(
        [x.mean(), x.std(), x.min(), x.max(), 0, 800], abs=1e-8
    )
    process = mmoe.stats["process"]
    assert {key: process[key] for key in ("correlation", "seed", "dim", "noise_variance")} == {
        **{"correlation": 0.75, "seed": 0, "dim": 20},
        "noise_variance": 0.01,
    }
    assert (process["alpha"], process["beta"]) == Mmoe().waves
    labels = [rows[name].to_numpy().astype(float) for name in ("y1", "y2")]
    (pair,) = mmoe.stats["correlation"]["train"]
    assert pair["r"] == pytest.approx(np.corrcoef(*labels)[0, 1], abs=1e-6)
    found = mmoe.stats["tasks"]["task2"]["train"]
    assert found["samples"] == 800
    assert found["mean"] == pytest.approx(rows["y2"].to_numpy().astype(float).mean(), abs=1e-5)


def test_both_have_the_page_and_the_keys_of_every_dataset(tencent: Summary, mmoe: Summary) -> None:
    for summary in (tencent, mmoe):
        made_by = ["process"] if summary is mmoe else []
        assert list(summary.stats) == [*documented_keys(), "reachable", *made_by]
        sparse, dense = summary.schema.sparse, summary.schema.dense
        assert list(summary.stats["drift"]) == [*(feature.name for feature in sparse), *(each.name for each in dense)]
        page = (summary.out / "stats.html").read_text()
        assert all(f'id="{section}"' in page for section in ("tasks", "correlation", "dense"))
    assert mmoe.stats["drift"]["x000"] == {"psi": None, "chance": None, "ks": None}
    assert "x019" in (mmoe.out / "stats.html").read_text()


@pytest.mark.slow
def test_raw_logs_by_the_recipe_are_the_same_data(tencent: Summary, tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", ROWS, 2)
    raw = prepare("tencent", tmp_path / "d", Options(source=str(tmp_path / "raw")))
    assert raw.schema.splits["train"].rows == tencent.schema.splits["train"].rows
    for task in TASKS:
        ours, theirs = (each.stats["tasks"][task.name]["train"] for each in (tencent, raw))
        assert ours["samples"] == theirs["samples"]
        assert ours["mean"] == pytest.approx(theirs["mean"], rel=1e-6)
    columns = [tencent.stats["columns"], raw.stats["columns"]]
    for name in NORMALISERS:
        ours, theirs = (each[name]["train"] for each in columns)
        assert ours == theirs
    for name in ("gender", "city", "music_kind"):
        ours, theirs = (each[name]["train"] for each in columns)
        assert ours["oov"] == theirs["oov"] > 0
    assert set(HIDDEN) <= set(rows_of(raw, "test").column_names)


MEMORY = """
import resource
from data_prep.synthetic.tencent import Tencent
from data_prep.synthetic.feed import World
design = Tencent(World({rows}))
rows = sum(len(table) for part in design.tables(design.parts()) for _, table in part)
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_is_flat(repository: Path) -> None:
    found = []
    for rows in (200_000, 2_000_000):
        code = MEMORY.format(rows=rows)
        done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
        made, mebibytes = map(int, done.stdout.split())
        assert made == rows
        found.append(mebibytes)
    assert found[1] < found[0] + 100  # the rows themselves have 200 bytes each: 400 MiB


def _train(rank: int, world_size: int, data: Path, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    job = train_small(rank, world_size, small_config(data, changes), folder)
    loader = job.evaluation_loader("test").epoch(0)
    labels = job.gate_labels
    return evaluate(job.model, loader, job.selection.tasks, job.ranks.device, exact_limit=100_000, gate_labels=labels)


@pytest.mark.parametrize("name", [TENCENT, MMOE])
def test_a_model_trains(name: str, tencent: Summary, mmoe: Summary, tmp_path: Path) -> None:
    data = (tencent if name == TENCENT else mmoe).out
    changes = {"train": {"batch_size": 1200, "steps": 40 if name == TENCENT else 4, "report_every": 20}}
    (said,) = on_ranks(_train, 1, data, tmp_path / "run", changes)
    if name == TENCENT:
        assert 0.55 < said["tasks"]["vtr"]["auc"] < 0.75
        assert said["tasks"]["vtr"]["samples"] == tencent.schema.splits["test"].rows
    else:
        assert said["tasks"]["task2"]["samples"] == 100


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "tencent",
            {},
            "prep: unknown synthetic data set 'tencent'; known are tencent-synthetic, mmoe-synthetic. Fix: use one",
        ),
        (TENCENT, {"correlation": 0.5}, "correlation: got 0.5; only mmoe-synthetic has this option. Fix: remove it"),
        (TENCENT, {"dim": 8}, "dim: got 8; only mmoe-synthetic has this option. Fix: remove it"),
        (
            TENCENT,
            {"rows": 10},
            "rows: got 10; the synthetic feed has 10000 to 45000000000 impressions. "
            "Fix: set a number in this range; the paper has 995000000",
        ),
    ],
)
def test_wrong_arguments(name: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare_synthetic(name, tmp_path / "d", **arguments)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_names() -> None:
    assert make_design(MMOE, rows=2000, seed=4, correlation=0.25, dim=8) == Mmoe(2000, 0.25, 4, 8)
    assert make_design(MMOE) == Mmoe(1_400_000, 0.5, 0, 512)
    assert make_design(TENCENT) == Tencent(World(995_000_000, 0))


def in_turn(
    work: Callable[..., Iterator[Any]], fixed: tuple[Any, ...], tasks: Sequence[Any], processes: int
) -> Iterator[Any]:
    """`run_shares`, whose own tests have real processes, in this one."""
    for share in range(processes):
        yield from work(*fixed, tasks[share::processes])


def test_shares_of_two_processes_are_the_same_bytes_and_a_stopped_run_goes_on(
    tencent: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that are finished stay for the next run, but one that is cut short and one that is gone."""
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out, stage = tmp_path / "d", tmp_path / ".d.partial"
    with monkeypatch.context() as patched:
        patched.setattr("data_prep.synthetic.prepare.statistics", full)
        patched.setattr("data_prep.synthetic.prepare.run_shares", in_turn)
        with pytest.raises(UserError, match=r"no space left .*; the parts .* are kept for the next run"):
            prepare_synthetic(TENCENT, out, rows=ROWS, seed=2, processes=2, progress=progress)
    assert told[-1] == (ROWS, ROWS)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert not out.exists()
    kept = parts_of(stage)
    first, *_, last = sorted(name for name in kept if name.startswith("train/"))
    (stage / first).write_bytes(b"PAR1")  # cut short by the system
    (stage / last).unlink()
    del kept[first], kept[last]
    assert digests(folder_of(prepare_synthetic(TENCENT, out, rows=ROWS, seed=2))) == digests(folder_of(tencent))
    assert kept.items() <= parts_of(out).items()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_refusal_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.synthetic.prepare.statistics", fail)
    with pytest.raises(DataError, match="refused"):
        prepare_design(Mmoe(1000, 0.75, dim=4), tmp_path / "d")
    assert not list(tmp_path.iterdir())


def fail(*arguments: object) -> NoReturn:
    raise DataError("here", "it", "refused", "nothing")


def parts_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished part."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.glob("*/part-*.parquet")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


RUN = """
from pathlib import Path
from data_prep.synthetic.prepare import prepare_synthetic
prepare_synthetic("tencent-synthetic", Path({out!r}), rows={rows}, seed=2, processes={processes})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "parts"), [(1, 2), (2, 3)])
def test_a_killed_run_goes_on(processes: int, parts: int, tencent: Summary, repository: Path, tmp_path: Path) -> None:
    out, stage = tmp_path / "d", tmp_path / ".d.partial"
    code = RUN.format(out=str(out), rows=ROWS, processes=processes)
    child = subprocess.Popen([sys.executable, "-c", code], cwd=repository)
    end = time.monotonic() + 60
    while len(parts_of(stage)) < parts and child.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert not out.exists()
    if processes > 1:
        time.sleep(0.5)  # children of a killed parent end at their next part
    (stage / "train" / "part-00000.parquet").write_bytes(b"PAR1")  # cut short by the system
    kept = parts_of(stage)
    assert len(kept) >= parts
    del kept["train/part-00000.parquet"]
    assert digests(folder_of(prepare_synthetic(TENCENT, out, rows=ROWS, seed=2))) == digests(folder_of(tencent))
    whole = {
        name for name in kept if {name.replace(a, b) for a, b in (("valid", "test"), ("test", "valid"))} <= kept.keys()
    }
    assert {name: kept[name] for name in whole}.items() <= parts_of(out).items()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_parts_of_another_recipe_do_not_stay(tmp_path: Path, mmoe: Summary) -> None:
    stage, design = tmp_path / ".d.partial", Mmoe(1000, 0.75, seed=9, dim=20)
    shutil.copytree(folder_of(mmoe), stage)
    (stage / "_SUCCESS").unlink()
    recipe = json.dumps(design.recipe(), sort_keys=True).encode()
    (stage / STATE_FILE).write_text(json.dumps({"fingerprint": hashlib.sha256(recipe).hexdigest()}))
    other = prepare_design(design, tmp_path / "d")
    assert len(list(other.out.glob("*/part-*.parquet"))) >= 3
    for path in other.out.glob("*/part-*.parquet"):
        assert pq.read_metadata(path).metadata[FINGERPRINT_KEY] == other.schema.fingerprint.encode()


def test_stats_are_json_without_nan(tencent: Summary) -> None:
    text = (tencent.out / "stats.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == tencent.stats
