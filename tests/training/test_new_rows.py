"""No row is read for another id, over chains of ten days against a dictionary from raw ids to vectors.

Each day a stand-in for training adds to the rows of the ids of that day, and some days are not trained. So a checkpoint
may be several days older than the dataset on which a warm start or an evaluation loads it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from ple_rec.config.load import dump_toml, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.distributed.table_init import initial_bound, uniform_rows_
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import TrainContext, build_context, build_evaluation_context
from ple_rec.training.loop import checkpoint_store, save_checkpoint
from ple_rec.training.progress import ReportWindow
from ple_rec.training.state import TrainState
from ple_rec.training.trained import load_table_rows, load_trained_weights
from ple_rec.training.warm_start import WarmStart, load_warm_start
from tests.training.growing_feed import CAPACITY, HASH_ROWS, write_feed
from tests.training.small import on_ranks, ranks_of, small_config, whole_sharded, whole_state

SEED, DIM = 3, 4
# Positions of the days that are trained, by seed of a chain; evaluations load the newest checkpoint on each later day.
TRAINED = {1: (0, 1, 2, 4, 7), 2: (0, 3, 4, 6, 7)}
WEIGHT = "model.embeddings.embedding_bags.{0}.weight".format
SQUARES = "optimizer.embeddings.embedding_bags.{0}.weight.{0}.momentum1".format
Feed = tuple[list[Path], tuple[int, ...]]
State = dict[str, Tensor]
Key = Any  # Raw id, or ("row", r) for a row that values share.


class Chain(NamedTuple):
    """States of a chain by position of the day.

    Args:
        loaded: Whole state before the training of a day.
        trained: Whole state after it.
        evaluated: Whole state in which an evaluation of the checkpoint of a day reads the dataset of a later one.
    """

    loaded: dict[int, State]
    trained: dict[int, State]
    evaluated: dict[tuple[int, int], State]


def config_of(data: Path, seed: int = SEED) -> RunConfig:
    # Row-wise tables have row 0 and the hash rows on different ranks.
    return small_config(data, {"seed": seed, "embeddings": {"dim": DIM, "sharding": "row_wise"}})


def addition(name: str, key: Key, day: int) -> float:
    """Number that the training of a day adds to the row of an id."""
    return zlib.crc32(f"{name}/{key}/{day}".encode()) / 2**32


def keys_by_row(data: Path, name: str) -> dict[int, Key]:
    vocabulary = pq.read_table(data / "vocab" / f"{name}.parquet").to_pydict()
    first_hash_row = CAPACITY[name] - HASH_ROWS[name]
    shared = {row: ("row", row) for row in (0, *range(first_hash_row, CAPACITY[name]))}
    return shared | {row: raw for row, raw in zip(vocabulary["row"], vocabulary["raw"], strict=True) if raw is not None}


def rows_of_day(data: Path, name: str) -> list[int]:
    return sorted(set(pq.read_table(data / "train", columns=[name])[name].to_pylist()))


def train_day(job: TrainContext, data: Path, day: int) -> None:
    """Add to the weights and to the optimizer state of the rows that the day has."""
    job.optimizers.init_state()
    state = {"model": job.model.state_dict(), "optimizer": job.optimizers.combined.state_dict()}
    for name in CAPACITY:
        keys = keys_by_row(data, name)
        added_R = torch.zeros(CAPACITY[name])
        for row in rows_of_day(data, name):
            added_R[row] = addition(name, keys[row], day)
        parameter = f"embeddings.embedding_bags.{name}.weight"
        for tensor in (state["model"][parameter], *state["optimizer"]["state"][parameter].values()):
            assert isinstance(tensor, ShardedTensor)
            for piece in tensor.local_shards():
                first, rows = piece.metadata.shard_offsets[0], len(piece.tensor)
                own = added_R[first : first + rows]
                piece.tensor += own if piece.tensor.dim() == 1 else own[:, None]
    job.model.load_state_dict(state["model"])
    job.optimizers.combined.load_state_dict(state["optimizer"])


def run_chain(rank: int, world_size: int, folder: Path, datasets: list[Path], trained_days: tuple[int, ...]) -> Chain:
    """Train and evaluate the chain on some ranks."""
    chain, last = Chain({}, {}, {}), None
    for day, data in enumerate(datasets):
        ranks = ranks_of(rank, world_size)
        if last is not None:
            context = build_evaluation_context(config_of(data, SEED + last), ranks)
            load_trained_weights(context, folder / f"run-{last}", "latest")
            chain.evaluated[last, day] = whole_state_of_model(context.model.state_dict())
        if day not in trained_days:
            continue
        config, run_dir = config_of(data, SEED + day), folder / f"run-{day}"
        job = build_context(config, ranks)
        if last is not None:
            fingerprint = load_schema(datasets[last]).fingerprint
            load_warm_start(job, WarmStart(str(folder / f"run-{last}"), "step-1", fingerprint, SEED, 1.0))
        chain.loaded[day] = whole_state(job)
        train_day(job, data, day)
        chain.trained[day] = whole_state(job)
        if rank == 0:
            run_dir.mkdir()
            (run_dir / "config.toml").write_text(dump_toml(config))
        store = checkpoint_store(job, RunDirectory(run_dir, run_dir))
        window = ReportWindow(job.selection.tasks, job.ranks.device)
        save_checkpoint(job, store, TrainState(step=1), window, best=True)
        store.close()
        last = day
    return chain


def whole_state_of_model(state: Mapping[str, Any]) -> State:
    return whole_sharded({f"model.{key}": value for key, value in state.items() if isinstance(value, ShardedTensor)})


class Dictionary:
    """Vector and optimizer state of each raw id of a table, as the trainings so far have left them.

    A value that loses its row is forgotten.

    Args:
        name: Name of the table.
        datasets: Dataset of each day.
    """

    def __init__(self, name: str, datasets: list[Path]) -> None:
        self.name = name
        self.keys = [keys_by_row(data, name) for data in datasets]
        self.datasets = datasets
        self.initial = torch.empty(CAPACITY[name], DIM)
        bound = initial_bound(CAPACITY[name], 1.0)
        uniform_rows_(self.initial, bound, seed=SEED, table=name, first_row=0, first_column=0, dim=DIM)
        self.vectors: dict[Key, tuple[Tensor, Tensor]] = {}
        self.day: int | None = None
        self.seen: set[Key] = set()
        self.counts: Counter[str] = Counter()

    def own(self, key: Key, day: int) -> tuple[Tensor, Tensor] | None:
        """Return vector and state of an id if it has had its row since the day of the newest training."""
        if self.day is None or not all(key in self.keys[each].values() for each in range(self.day, day + 1)):
            return None
        return self.vectors[key]

    def warm_start(self, day: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the vector and the state of each row that a run of a day begins with."""
        expected = {}
        for row, key in self.keys[day].items():
            own = self.own(key, day)
            expected[row] = own or (self.initial[row], torch.tensor(0.0))
            if self.day is not None:
                self.counts["own" if own else "back" if key in self.seen else "new"] += 1
                self.counts["reused"] += own is None and row in self.keys[self.day]
        self.seen |= set(self.keys[day].values())
        return expected

    def train(self, day: int, rows: dict[int, tuple[Tensor, Tensor]]) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the vector and the state of each row after the training of a day, and remember them by id."""
        rows = dict(rows)
        for row in rows_of_day(self.datasets[day], self.name):
            added = torch.tensor(addition(self.name, self.keys[day][row], day))
            rows[row] = (rows[row][0] + added, rows[row][1] + added)
        self.vectors = {self.keys[day][row]: value for row, value in rows.items()}
        self.day = day
        return rows

    def evaluation(self, day: int) -> dict[int, Tensor]:
        """Return the vector that an evaluation of the newest training reads for each id of a dataset."""
        return {row: (self.own(key, day) or self.vectors[self.unknown(key)])[0] for row, key in self.keys[day].items()}

    def unknown(self, key: Key) -> Key:
        """Return the key of the row that an unknown id shares."""
        if not HASH_ROWS[self.name]:
            return ("row", 0)
        hashed = int(hashlib.md5(str(key).encode()).hexdigest()[:7], 16)
        return ("row", CAPACITY[self.name] - HASH_ROWS[self.name] + hashed % HASH_ROWS[self.name])


@pytest.fixture(scope="module", params=TRAINED)
def feed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return write_feed(tmp_path_factory.mktemp("feed"), request.param), TRAINED[request.param]


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_id_has_its_own_vector(feed: Feed, world_size: int, tmp_path: Path) -> None:
    datasets, trained_days = feed
    chain = on_ranks(run_chain, world_size, tmp_path, datasets, trained_days)[0]
    assert len(chain.evaluated) == len(datasets) - 1
    assert tuple(chain.trained) == trained_days
    for name in CAPACITY:
        dictionary = Dictionary(name, datasets)
        for day in range(len(datasets)):
            if day:
                assert dictionary.day is not None
                unknown = dictionary.evaluation(day)
                evaluated = chain.evaluated[dictionary.day, day][WEIGHT(name)]
                config, run_dir = config_of(datasets[day], SEED + dictionary.day), tmp_path / f"run-{dictionary.day}"
                for tensor in (evaluated, load_table_rows(config, run_dir, "latest", name)):
                    assert [row for row, vector in unknown.items() if not torch.equal(tensor[row], vector)] == []
            if day in trained_days:
                first = dictionary.warm_start(day)
                for state, rows in ((chain.loaded[day], first), (chain.trained[day], dictionary.train(day, first))):
                    for row, (vector, squares) in rows.items():
                        assert torch.equal(state[WEIGHT(name)][row], vector), (day, row)
                        assert torch.equal(state[SQUARES(name)][row], squares), (day, row)
        # Rows of each kind occur: of ids that keep theirs, of new ones, of those that come back, and of others before.
        assert all(dictionary.counts[kind] > 2 for kind in ("own", "new", "back", "reused")), dictionary.counts
