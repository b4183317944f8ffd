"""Faults of checkpoints, plans and sharded tables."""

from __future__ import annotations

from tests.mutations.fault import Fault

_STORE = ("tests/checkpoint/test_store.py",)
_RESUME = ("tests/training/test_resume.py",)
_SHARDING = ("tests/distributed/test_sharding.py", "tests/distributed/test_table_init.py")
_OVERWRITE = ("tests/distributed/test_table_overwrite.py",)
_NEW_ROWS = ("tests/training/test_new_rows.py",)
_PLANS = ("tests/planning/test_bytes.py", "tests/planning/test_planner.py")

FAULTS = (
    # Checkpoints and resuming
    Fault(
        "the checksum of a file of a checkpoint is not compared",
        "ple_rec/checkpoint/manifest.py",
        "expected.crc32 is not None and actual.crc32 != expected.crc32",
        "expected.crc32 is not None and actual.bytes != expected.bytes",
        _STORE,
    ),
    Fault(
        "the manifest is written before all files are seen to be there",
        "ple_rec/checkpoint/store.py",
        "            _check_files_visible(path, full_manifest)\n            self._before_commit()\n"
        "            self._write_text(path / MANIFEST, full_manifest.to_json())\n",
        "            self._write_text(path / MANIFEST, full_manifest.to_json())\n"
        "            _check_files_visible(path, full_manifest)\n            self._before_commit()\n",
        _STORE,
    ),
    Fault(
        "the best checkpoint is removed when newer ones come",
        "ple_rec/checkpoint/store.py",
        "| (set() if best is None else {best.name})",
        "| set()",
        _STORE,
    ),
    Fault(
        "a run that goes on does a step of its checkpoint again",
        "ple_rec/training/loop.py",
        "divmod(self.state.step, loader.steps)",
        "divmod(max(0, self.state.step - 1), loader.steps)",
        _RESUME,
    ),
    Fault(
        "a run that goes on draws dropout from another random state",
        "ple_rec/training/restore.py",
        'torch.set_rng_state(tensors[f"rng.{context.ranks.rank}"])',
        "torch.manual_seed(_seed(context, state.step))",
        _RESUME,
    ),
    # Plans and sharding
    Fault(
        "the pooled rows of a batch are counted for one rank instead of all",
        "ple_rec/config/plan_table.py",
        "if unpooled else world * features",
        "if unpooled else features",
        _PLANS,
    ),
    Fault(
        "an unpooled table takes the memory of sums",
        "ple_rec/config/plan_table.py",
        "id_batches * ids if unpooled else world * features",
        "world * features",
        ("tests/planning/test_unpooled_plans.py",),
    ),
    Fault(
        "the ids of unpooled tables are not exchanged ahead of their step",
        "ple_rec/distributed/sparse_prefetch.py",
        "kinds = (ShardedEmbeddingBagCollection, ShardedEmbeddingCollection)",
        "kinds = (ShardedEmbeddingBagCollection,)",
        ("tests/distributed/test_unpooled.py",),
    ),
    Fault(
        "the tables of a run with another kind of history are looked for under the keys of this run",
        "ple_rec/training/warm_start.py",
        "unpooled=table_of_key(key) in unpooled)",
        'unpooled=key.startswith("sequences."))',
        ("tests/training/test_history_warm_start.py",),
    ),
    Fault(
        "the dense layers take no memory from the tables",
        "ple_rec/config/plan.py",
        "self.cluster.hbm_bytes - self.reserved.hbm_bytes - self.reserved.dense_bytes",
        "self.cluster.hbm_bytes - self.reserved.hbm_bytes",
        _PLANS,
    ),
    Fault(
        "a rank's share of a row-wise table is rounded down",
        "ple_rec/distributed/capacity.py",
        '"row_wise": (cluster.world_size, -(-rows // cluster.world_size), dim)',
        '"row_wise": (cluster.world_size, rows // cluster.world_size, dim)',
        _PLANS,
    ),
    Fault(
        "every shard of a table starts from the same rows",
        "ple_rec/distributed/sharding.py",
        "first_row=row, first_column=column",
        "first_row=0, first_column=column",
        _SHARDING,
    ),
    Fault(
        "a row that is reset keeps the state of its optimizer",
        "ple_rec/distributed/table_overwrite.py",
        "piece.tensor[local_N] = 0",
        "piece.tensor[local_N] += 0",
        _OVERWRITE,
    ),
    Fault(
        "only the first column shard of row-wise Adagrad's state is reset",
        "ple_rec/distributed/table_overwrite.py",
        "piece.metadata.shard_offsets[0] % origins[table].rows",
        "piece.metadata.shard_offsets[0]",
        _OVERWRITE,
    ),
    Fault(
        "an unknown value of a table with hash rows is read as row 0",
        "ple_rec/data/unknown_rows.py",
        "if not table.hash_rows or not len(row_R):",
        "if True:",
        ("tests/data/test_unknown_rows.py",),
    ),
    Fault(
        "a warm start draws new rows with the seed of the new run",
        "ple_rec/training/warm_start.py",
        "warm_start.dataset, table_origins(context, warm_start)",
        "warm_start.dataset, table_origins(context, None)",
        _NEW_ROWS,
    ),
    Fault(
        "an evaluation on a newer dataset reads rows that were not trained for their values",
        "ple_rec/training/trained.py",
        "read_new_rows_as_unknown(context, state, _trained_dataset(path))",
        "read_new_rows_as_unknown(context, state, context.dataset.schema.fingerprint)",
        _NEW_ROWS,
    ),
    Fault(
        "the features of a sharded model stand in the order of its plan",
        "ple_rec/models/multitask.py",
        "return self._column_order.permute(pooled.values())",
        "return pooled.values()",
        ("tests/models/test_multitask.py", "tests/training/test_equivalence.py"),
    ),
)
