"""Faults that a refactor could bring in, each named by its meaning, with the tests that should catch it.

`tests/test_mutations.py` holds that every text still stands once in its file. Where code was renamed or moved, write
the same fault for what the code has become; do not drop it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A wrong change of the code.

    Args:
        name: Meaning of the fault.
        file: Path of the file, from the root of the tree.
        text: Text that is replaced; it stands once in the file.
        instead: Text that takes its place.
        tests: Files or folders of the fast tests that should fail.
    """

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]

    def count(self, root: Path) -> int:
        """Return how often the text stands in the file below `root`; 0 where the file is gone."""
        path = root / self.file
        return path.read_text(encoding="utf-8").count(self.text) if path.is_file() else 0

    def changed(self, source: str) -> str:
        """Return the source of the file with the fault."""
        return source.replace(self.text, self.instead)


_MODELS = ("tests/modules", "tests/models")
_LOSSES = ("tests/models/test_losses.py", "tests/models/test_objective.py", "tests/models/test_weighting.py")
_ORDER = ("tests/data/test_order.py", "tests/data/test_loader.py", "tests/data/test_collate.py")
_HISTORIES = ("tests/data/test_histories.py",)
_METRICS = ("tests/metrics",)
_STORE = ("tests/checkpoint/test_store.py",)
_RESUME = ("tests/training/test_resume.py",)
_SHARDING = ("tests/distributed/test_sharding.py", "tests/distributed/test_table_init.py")
_OVERWRITE = ("tests/distributed/test_table_overwrite.py",)
_NEW_ROWS = ("tests/training/test_new_rows.py",)
_PLANS = ("tests/planning/test_bytes.py", "tests/planning/test_planner.py")
_PREP = ("tests/data_prep/test_feed.py", "tests/data_prep/vocabulary/test_vocabulary.py")
_TURNOVER = ("tests/data_prep/vocabulary/test_turnover.py",)
_HISTORIES = ("tests/data_prep/test_histories.py",)
_HISTORY_APPEND = ("tests/data_prep/test_history_append.py",)
_RANKER = ("tests/inference/test_ranker.py",)
_DELTA_EXPORT = ("tests/inference/test_delta_export.py",)
_VOCABULARY_FILES = ("tests/inference/test_vocabulary_files.py",)
_DELTA = ("tests/inference/test_delta.py",)
_LAUNCHES = ("tests/gpu_proofs/test_launches.py",)
_TRANSFERS = ("tests/gpu_proofs/test_transfers.py",)
_BACKGROUND = ("tests/checkpoint/test_background.py",)
_DEVICES = ("tests/gpu_proofs/test_devices.py",)
_ONE_GRAPH = ("tests/gpu_proofs/test_one_graph.py",)
_COLLECTIVES = ("tests/gpu_proofs/test_collectives.py",)
_STREAMS = ("tests/gpu_proofs/test_streams.py",)
_DAYS = ("tests/days/test_daily.py",)
_GATE = ("tests/days/test_gate.py",)

FAULTS: tuple[Fault, ...] = (
    # Models
    Fault(
        "attention weighs the target by the wrong columns",
        "ple_rec/modules/history.py",
        "event_HW + F.pad(product_HQ * target_BQ[:, None], (0, self.age_width))",
        "event_HW + F.pad(product_HQ * target_BQ[:, None], (self.age_width, 0))",
        _MODELS,
    ),
    Fault(
        "attention forgets the target outside of products",
        "ple_rec/modules/history.py",
        "F.linear(target_BQ, target_HQ, first.bias)[:, None]",
        "F.linear(0 * target_BQ, target_HQ, first.bias)[:, None]",
        _MODELS,
    ),
    Fault(
        "a shared history has the events of later requests",
        "ple_rec/models/multitask.py",
        "offsets = torch.cat([offsets.index_select(0, batch.requests.first_R), offsets[-1:]])",
        "offsets = torch.cat([offsets[:1], offsets.index_select(0, batch.requests.first_R)])",
        _MODELS,
    ),
    Fault(
        "samples of a request lose the target that they share",
        "ple_rec/models/multitask.py",
        "if requests is None or feature not in self.request_features:",
        "if True:",
        _MODELS,
    ),
    Fault(
        "bags of a history's table lose their weights",
        "ple_rec/models/embeddings.py",
        "per_sample_weights=ids.weights_or_none(),",
        "per_sample_weights=None,",
        _MODELS,
    ),
    Fault(
        "a gate of a higher level of PLE reads x instead of its own stream",
        "ple_rec/models/variants.py",
        "selector_O=tuple(streams[o] for o in outputs),",
        "selector_O=(X,) * len(outputs),",
        _MODELS,
    ),
    Fault(
        "the shared output of a level does not read the tasks' experts",
        "ple_rec/models/variants.py",
        "e == o or SHARED in (e, o)",
        "e == o or e == SHARED",
        _MODELS,
    ),
    Fault(
        "a gate weighs its experts in the reverse order",
        "ple_rec/modules/mixing.py",
        "for gate, o in enumerate(gated) for e in reads[o]]",
        "for gate, o in enumerate(gated) for e in reversed(reads[o])]",
        _MODELS,
    ),
    Fault(
        "the mean of a weighted bag divides by the number of its ids",
        "ple_rec/models/embeddings.py",
        "weights = sparse.weights_or_none()",
        "weights = None",
        _MODELS,
    ),
    Fault(
        "a missing dense value is normalised like a 0",
        "ple_rec/modules/normalise.py",
        "dense_BF = dense_BF.to(self.mean_F.dtype)",
        "dense_BF = torch.nan_to_num(dense_BF.to(self.mean_F.dtype))",
        _MODELS,
    ),
    # Losses and their weighting
    Fault(
        "the counts that divide the losses are not reduced over the ranks",
        "ple_rec/training/non_finite_guard.py",
        "dist.all_reduce(self._packed, async_op=True)",
        "dist.all_reduce(self._packed[len(self.tasks) :], async_op=True)",
        ("tests/training/test_non_finite_guard.py", "tests/training/test_equivalence.py"),
    ),
    Fault(
        "a rank's part of the loss is not multiplied by the number of ranks",
        "ple_rec/models/objective.py",
        "losses_K = ranks * sums_K / counts_K.clamp(min=TINY)\n    total",
        "losses_K = sums_K / counts_K.clamp(min=TINY)\n    total",
        _LOSSES,
    ),
    Fault(
        "rows outside a task's sample space count in its loss where rows have weights",
        "ple_rec/models/losses.py",
        "in_space_BK * sample_weight_B.unsqueeze(1)",
        "sample_weight_B.unsqueeze(1).expand_as(in_space_BK)",
        _LOSSES,
    ),
    Fault(
        "the uncertainty of a task moves in batches without its samples",
        "ple_rec/models/weighting.py",
        "scheduled_K * present_K * self.log_variance_K / 2",
        "scheduled_K * self.log_variance_K / 2",
        _LOSSES,
    ),
    Fault(
        "the schedule of the tasks' weights is one step ahead",
        "ple_rec/training/loop.py",
        "if by_epoch else state.step)\n",
        "if by_epoch else state.step + 1)\n",
        ("tests/training/test_loss_weighting.py", "tests/training/test_equivalence.py", "tests/training/test_loop.py"),
    ),
    # Order of samples, batches, labels
    Fault(
        "labels are shifted by a row",
        "ple_rec/data/columns.py",
        "labels_NK=_stack(self.labels, self.rows, rows_N, np.float32)",
        "labels_NK=np.roll(_stack(self.labels, self.rows, rows_N, np.float32), 1, axis=0)",
        _ORDER,
    ),
    Fault(
        "rows within a row group come in the same order in every epoch",
        "ple_rec/data/order.py",
        "default_rng([seed, epoch, row_group + 1])",
        "default_rng([seed, 0, row_group + 1])",
        _ORDER,
    ),
    Fault(
        "an epoch that goes on gives its last batch again",
        "ple_rec/data/loader.py",
        "rows_to_skip = start_step * self.rows_per_step",
        "rows_to_skip = max(0, start_step - 1) * self.rows_per_step",
        _ORDER,
    ),
    Fault(
        "padding repeats the first row and counts",
        "ple_rec/data/collate.py",
        "array[rows:] = 0\n",
        "array[rows:] = array[0]\n",
        _ORDER,
    ),
    Fault(
        "rows with the same events and other times are one request, so all of them have the ages of the first",
        "ple_rec/data/columns.py",
        "for x_N in (each.begin_N, each.end_N, each.time_N)",
        "for x_N in (each.begin_N, each.end_N)",
        _HISTORIES,
    ),
    Fault(
        "an event as old as a boundary is in the bucket below it",
        "ple_rec/data/histories.py",
        'age_V, side="right"',
        'age_V, side="left"',
        _HISTORIES,
    ),
    Fault(
        "the row of an event has no part in id dropout, so rows of all times lose the same items",
        "ple_rec/data/histories.py",
        "row_time_V.view(np.uint64) * _TIME_FACTOR + key",
        "key",
        _HISTORIES,
    ),
    Fault(
        "a history is summed where its tables pool by sum, so it grows with the number of events",
        "ple_rec/models/embeddings.py",
        "feature.name in columns or pooling",
        "pooling",
        ("tests/training/test_mean_histories.py",),
    ),
    # Metrics
    Fault(
        "a tie of a positive and a negative counts as a pair in the right order",
        "ple_rec/metrics/scores.py",
        "(below_G + negative_G / 2)",
        "(below_G + negative_G)",
        _METRICS,
    ),
    Fault(
        "the sums of metrics are not reduced over the ranks",
        "ple_rec/metrics/accumulator.py",
        "received = iter(all_reduce(torch.cat(parts), group).tolist())",
        "received = iter(torch.cat(parts).tolist())",
        _METRICS,
    ),
    Fault(
        "every group counts alike in GAUC",
        "ple_rec/metrics/group_auc.py",
        "return (self.positive_KG + self.negative_KG) * self.mixed_KG",
        "return self.mixed_KG.double()",
        _METRICS,
    ),
    Fault(
        "calibration is upside down",
        "ple_rec/metrics/binary.py",
        'accumulator.ratio(sums["prediction"], sums["positive_weight"])',
        'accumulator.ratio(sums["positive_weight"], sums["prediction"])',
        _METRICS,
    ),
    Fault(
        "a group that crosses ranks counts on each of them, too",
        "ple_rec/metrics/gauc.py",
        "(group_id := int(rows.group_N[0])) not in shared_groups:",
        "(group_id := int(rows.group_N[0])) is not None:",
        _METRICS,
    ),
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
    # Preparation of data
    Fault(
        "the most frequent value gets row 0, which stands for what is missing or unknown",
        "data_prep/vocabulary/numbering.py",
        "ibis.row_number().over(order) + (per_vocabulary(counts, last_rows) + 1)",
        "ibis.row_number().over(order) + per_vocabulary(counts, last_rows)",
        _PREP,
    ),
    Fault(
        "a value that occurs min_count times is too rare",
        "data_prep/vocabulary/numbering.py",
        'counted["count"] >= min_count',
        'counted["count"] > min_count',
        _PREP,
    ),
    Fault(
        "a value expires a day early",
        "data_prep/vocabulary/turnover.py",
        "counts[COUNTED_DAY] > day - spec.expire.unseen_days",
        "counts[COUNTED_DAY] > day - spec.expire.unseen_days + 1",
        _TURNOVER,
    ),
    Fault(
        "new values get the rows after the last one while lower ones are free",
        "data_prep/vocabulary/numbering.py",
        'joined["freed_row"].fill_null(later_row)',
        "later_row",
        _TURNOVER,
    ),
    Fault(
        "the counts of the days before are forgotten",
        "data_prep/vocabulary/turnover.py",
        "day - spec.counted_days + 1, sums_older_days=False",
        "day, sums_older_days=False",
        _TURNOVER,
    ),
    Fault(
        "rows that were assigned on the day of a checkpoint's dataset count as assigned after it",
        "ple_rec/data/row_assignments.py",
        "pc.greater(days, after)",
        "pc.greater_equal(days, after)",
        ("tests/data_prep/test_append.py",),
    ),
    Fault(
        "a freed row is found by the value that stands for it in the index",
        "ple_rec/data/vocabulary_index.py",
        "(first + raw.is_valid().to_numpy(zero_copy_only=False).nonzero()[0])",
        "(first + np.arange(len(raw)))",
        ("tests/data/test_lookup.py",),
    ),
    Fault(
        "the days of a split are counted from 0",
        "data_prep/transforms/arithmetic.py",
        "return day_1 + day - 1",
        "return day_1 + day",
        _PREP,
    ),
    Fault(
        "a number at an edge lies in the bucket below it",
        "data_prep/transforms/encode.py",
        "return (value >= floating(edges[0]))",
        "return (value > floating(edges[0]))",
        _PREP,
    ),
    Fault(
        "a label is cut at the threshold of the lowest part that its row has passed",
        "data_prep/transforms/labels.py",
        "for edge, value in reversed(list(steps))]",
        "for edge, value in steps]",
        (*_PREP, "tests/data_prep/transforms/test_thresholds.py"),
    ),
    Fault(
        "a key may stand twice in a side table",
        "data_prep/transforms/side_tables.py",
        'counted["__rows"] > 1',
        'counted["__rows"] > 2',
        ("tests/data_prep/transforms/test_side_tables.py", "tests/data_prep/test_bad_input.py"),
    ),
    # Serving
    Fault(
        "a served number at an edge lies in the bucket below it",
        "ple_rec/data/encode.py",
        'x_N, side="right")',
        'x_N, side="left")',
        ("tests/data/test_encode.py",),
    ),
    Fault(
        "of two deltas that change one row, the older one holds",
        "ple_rec/inference/tables.py",
        "rows = torch.cat([self.rows_E, older.rows_E]).numpy()",
        "self, older = older, self; rows = torch.cat([self.rows_E, older.rows_E]).numpy()",
        ("tests/inference/test_tables.py",),
    ),
    Fault(
        "a delta is put on any version in memory, from whichever it was made",
        "ple_rec/inference/delta.py",
        "if info.manifest != manifest:",
        "if info.manifest == manifest == None:",
        _DELTA,
    ),
    Fault(
        "a version in memory is found in a chain by its name alone",
        "ple_rec/inference/load_version.py",
        "if folder.name == older.arrays.version and manifest_digest(folder) == older.arrays.manifest:",
        "if folder.name == older.arrays.version:",
        _DELTA,
    ),
    Fault(
        "a value that has lost its row in a delta keeps it",
        "ple_rec/data/vocabulary_changes.py",
        "pa.concat_arrays([changes.raw_E.filter(has_value_E), without_row])",
        "pa.concat_arrays([changes.raw_E.filter(has_value_E), without_row[:0]])",
        ("tests/data/test_vocabulary_changes.py",),
    ),
    Fault(
        "the predictions of ranked items stay in the order of the request",
        "ple_rec/inference/ranker.py",
        '"predictions": (names, scores_NK[chosen])',
        '"predictions": (names, scores_BK[: len(chosen)])',
        _RANKER,
    ),
    Fault(
        "a request without exponents is fused by 1 instead of by the exponents of the model",
        "ple_rec/inference/ranker.py",
        "dict(zip(factors.names, exponent_array(self.fusion).tolist(), strict=True))",
        "dict.fromkeys(factors.names, 1.0)",
        _RANKER,
    ),
    Fault(
        "a prediction is brought within bounds before its calibration and scale instead of after",
        "ple_rec/ranking/fusion.py",
        "_clip(_linked_or_calibrated(values_N, kinds[name], task))",
        "(_linked_or_calibrated(_clip(values_N)[0], kinds[name], task), _clip(values_N)[1])",
        ("tests/ranking",),
    ),
    Fault(
        "a request is computed after its deadline",
        "ple_rec/serving/http/batching.py",
        "if pending.answer.cancelled():",
        "if not pending.request.rows:",
        ("tests/serving/http/test_batching.py",),
    ),
    # Chains of days
    Fault(
        "the gate judges by the unfavourable end of the interval",
        "ple_rec/days/gate.py",
        "each.interval[1] < -each.margin",
        "each.interval[0] < -each.margin",
        _GATE,
    ),
    Fault(
        "a task with few positives counts",
        "ple_rec/days/gate.py",
        " and each.positives >= gate.min_positives",
        "",
        _GATE,
    ),
    Fault(
        "a refused candidate is published",
        "ple_rec/days/run.py",
        "                if reasons:\n                    raise _Refused\n",
        "",
        _DAYS,
    ),
    Fault(
        "the day after a refusal starts from the day before it in the chain",
        "ple_rec/days/served.py",
        "start = chain.find(served.dataset)",
        "start = chain.find(before.fingerprint)",
        _DAYS,
    ),
    Fault(
        "the candidate is compared with itself",
        "ple_rec/days/validation.py",
        "served_scores_NK = _score(served, raw, rows_N)",
        "served_scores_NK = scores_NK",
        _DAYS,
    ),
    Fault(
        "a day that was killed after its publication is published again",
        "ple_rec/days/run.py",
        'if record is not None and record.verdict == "accepted" and record.version is not None:',
        "if False:",
        _DAYS,
    ),
    Fault(
        "a run that started from another version goes on",
        "ple_rec/days/day_run.py",
        "if first != (None",
        "if False and first != (None",
        ("tests/days/test_state.py",),
    ),
    # GPU
    Fault(
        "the loss of each task takes an operator more",
        "ple_rec/models/losses.py",
        "(loss(logit_B, label_B) *",
        "(loss(logit_B, label_B).abs() *",
        _LAUNCHES,
    ),
    Fault(
        "the metrics of every step are computed at once on a GPU",
        "ple_rec/training/progress.py",
        'return 1 << 16 if device.type == "cuda" else 1',
        "return 1",
        _LAUNCHES,
    ),
    Fault(
        "batches do not carry the number of ids of each feature, so it is read from the device",
        "ple_rec/data/collate.py",
        "length_per_key=length_per_key,",
        "length_per_key=None,",
        _TRANSFERS,
    ),
    Fault(
        "the norm of the gradients is read from the device at each step",
        "ple_rec/training/step.py",
        "guard.record(step + 1, sums_K, gradient_norm)",
        "guard.record(step + 1, sums_K, gradient_norm * (gradient_norm.item() > 0))",
        _TRANSFERS,
    ),
    Fault(
        "the weights of the tasks are copied to the device from memory that is not pinned",
        "ple_rec/training/step.py",
        'torch.tensor(weights_K, pin_memory=device.type == "cuda").to(device, non_blocking=True)',
        "torch.tensor(weights_K, device=device)",
        _TRANSFERS,
    ),
    Fault(
        "the ids of the next batch are exchanged on the stream of the model",
        "ple_rec/distributed/sparse_prefetch.py",
        """        with on_stream(self._streams.exchange):
            self._ids = self._counts.wait()""",
        "        self._ids = self._counts.wait()",
        _TRANSFERS,
    ),
    Fault(
        "the index of the columns of pooled rows is built and copied at each step",
        "ple_rec/models/multitask.py",
        "self._column_order is None or",
        "True or",
        _TRANSFERS,
    ),
    Fault(
        "a machine for GPUs, of which torch sees none, trains on its CPU",
        "ple_rec/distributed/process_group.py",
        '(kind == "auto" and not has_gpu_kernels)',
        '(kind == "auto" and not (has_gpu_kernels and torch.cuda.is_available()))',
        ("tests/distributed/test_process_group.py",),
    ),
    Fault(
        "doctor is content with FBGEMM's CUDA wheel where torch sees no GPU",
        "ple_rec/runtime/doctor.py",
        '"" if missing_gpu is None or CUDA_WHEEL not in versions else missing_gpu.fix',
        '""',
        ("tests/runtime/test_doctor.py",),
    ),
    Fault(
        "a job with GPUs may run on CPUs",
        "launch/jobs.py",
        "verb = _require_gpu(verb, resource.gpu)",
        "verb = list(verb)",
        ("tests/launch/test_train_job.py",),
    ),
    Fault(
        "a buffer of saves stays registered with CUDA after it is freed",
        "ple_rec/checkpoint/background.py",
        "weakref.finalize(buffer, unpin_memory, buffer.data_ptr()).atexit = False",
        "pass",
        _BACKGROUND,
    ),
    Fault(
        "the thread of a save begins on GPU 0 on every rank",
        "ple_rec/checkpoint/background.py",
        "target=on_current_device(run)",
        "target=run",
        _BACKGROUND,
    ),
    Fault(
        "the thread of the loader begins on GPU 0 on every rank",
        "ple_rec/data/ahead.py",
        "target=on_current_device(_fill)",
        "target=_fill",
        ("tests/data/test_ahead.py",),
    ),
    Fault(
        "the mask of the samples that have a weight is on the CPU",
        "ple_rec/models/losses.py",
        "has_weight_BK = weights_BK > 0",
        "has_weight_BK = weights_BK.cpu() > 0",
        _DEVICES,
    ),
    Fault(
        "the mask of the bags without a total weight is on the CPU",
        "ple_rec/models/embeddings.py",
        "is_zero_B1 = total_B1 == 0",
        "is_zero_B1 = torch.zeros(total_B1.shape, dtype=torch.bool)",
        _DEVICES,
    ),
    Fault(
        "the experts that a gate reads are a tensor that stays on the CPU",
        "ple_rec/modules/mixing.py",
        'self.register_buffer("edges", torch.tensor(edges, dtype=torch.long), persistent=False)',
        "self.edges = torch.tensor(edges, dtype=torch.long)",
        _DEVICES,
    ),
    Fault(
        "requests to stop or save are copied to the device from memory that is not pinned",
        "ple_rec/training/non_finite_guard.py",
        "self._requests[2 * stop + save]",
        "torch.tensor([float(stop), float(save)]).to(self.device, non_blocking=True)",
        _DEVICES,
    ),
    Fault(
        "the host decides by the norm of the gradients whether they are clipped",
        "ple_rec/distributed/optimizers.py",
        "if self.clip_norm is not None:",
        "if self.clip_norm is not None and norm.item() > self.clip_norm:",
        _DEVICES,
    ),
    Fault(
        "copies of table shards for a save beside training say that they lie on the GPU",
        "ple_rec/checkpoint/background.py",
        "_without_device(shard.metadata)",
        "shard.metadata",
        _DEVICES,
    ),
    Fault(
        "the scorer branches on the values of a batch",
        "ple_rec/modules/mixing.py",
        "if not self.has_all_edges:",
        "if not self.has_all_edges or logits_BN.isnan().any():",
        _ONE_GRAPH,
    ),
    Fault(
        "the last batch of an epoch is not padded",
        "ple_rec/data/loader.py",
        """                    [part for reader in readers for part in reader.next_rows(self.rows_per_step)],
                    self.selection,
                    self.batch_size,""",
        """                    (parts := [part for reader in readers for part in reader.next_rows(self.rows_per_step)]),
                    self.selection,
                    sum(part.stop - part.start for part in parts),""",
        _ONE_GRAPH,
    ),
    Fault(
        "the gradients of dense layers are not averaged over the ranks",
        "ple_rec/training/step.py",
        "context.optimizers.average_gradients()",
        "pass",
        ("tests/distributed/test_gradients.py",),
    ),
    Fault(
        "one rank skips an evaluation",
        "ple_rec/training/loop.py",
        "self._context.config.train.evaluate_every) and self._evaluate())",
        "self._context.config.train.evaluate_every) and self._context.ranks.rank != 3 and self._evaluate())",
        _COLLECTIVES,
    ),
    Fault(
        "rank 0 alone asks whether the weights of other ranks are finite",
        "ple_rec/training/finite.py",
        "    dist.all_reduce(flags, dist.ReduceOp.MAX)",
        "    if context.ranks.is_main:\n        dist.all_reduce(flags, dist.ReduceOp.MAX)",
        _COLLECTIVES,
    ),
    Fault(
        "a rank whose loss is not finite stops alone before a report",
        "ple_rec/training/non_finite_guard.py",
        "        dist.all_reduce(flags)\n",
        "",
        _COLLECTIVES,
    ),
    Fault(
        "the thread that saves uses the process group of the training steps",
        "ple_rec/checkpoint/store.py",
        "dist.gather_object(writer.written_files, files_of_ranks, dst=0, group=group)",
        "dist.gather_object(writer.written_files, files_of_ranks, dst=0)",
        _COLLECTIVES,
    ),
    Fault(
        "tables with fewer rows than ranks are cut by rows",
        "ple_rec/distributed/layouts.py",
        "return -(-rows // shard_count) * (shard_count - 1) >= rows",
        "return False",
        _COLLECTIVES,
    ),
    Fault(
        "a step begins before its batch has been copied to the device",
        "ple_rec/training/batch_feeder.py",
        "wait_for_stream(self._streams.copy, batch)",
        "pass",
        _STREAMS,
    ),
    Fault(
        "ids are exchanged before they have been copied to the device",
        "ple_rec/distributed/sparse_prefetch.py",
        "wait_for_stream(streams.copy, ids)",
        "pass",
        _STREAMS,
    ),
    Fault(
        "cache lines are unlocked while an evaluation still reads them",
        "ple_rec/distributed/sparse_prefetch.py",
        "wait_for_stream(torch.cuda.default_stream(streams.prefetch.device))",
        "pass",
        _STREAMS,
    ),
    Fault(
        "the memory of a batch's vectors may be given away during its step",
        "ple_rec/data/batch.py",
        "            self.vectors_BW,\n",
        "",
        _STREAMS,
    ),
    # Deltas of exported models
    Fault(
        "the share of a delta forgets the values that a server holds",
        "ple_rec/inference/delta_export.py",
        "self._overlay_bytes += lookups[table].overlay_bytes",
        "self._overlay_bytes += 0",
        _DELTA_EXPORT,
    ),
    Fault(
        "a value of a delta keeps its row in the base besides its new one",
        "ple_rec/data/lookup.py",
        "left_N = (rows_N > 0) & ~np.isin(rows_N, changes.rows_E)",
        "left_N = (rows_N < 0) & ~np.isin(rows_N, changes.rows_E)",
        ("tests/data/test_vocabulary_changes.py",),
    ),
    Fault(
        "the share of a delta forgets the rows that earlier deltas have changed",
        "ple_rec/inference/delta_export.py",
        "before.with_changes(changes).overlay_bytes",
        "changes.rows_E.nbytes + changes.stored_EP.nbytes",
        _DELTA_EXPORT,
    ),
    Fault(
        "a row is left out of a delta if one of its bytes is that of the base",
        "ple_rec/inference/delta_export.py",
        "(chunk_NP != before_NP).any(1)",
        "(chunk_NP != before_NP).all(1)",
        _DELTA_EXPORT,
    ),
    Fault(
        "a delta of a dataset of another lineage is exported",
        "ple_rec/inference/delta_export.py",
        "if trained_on not in schema.lineage():",
        "if not schema.lineage():",
        _DELTA_EXPORT,
    ),
    Fault(
        "a value that has lost its row is not among the changes of a vocabulary",
        "ple_rec/inference/vocabulary_files.py",
        "pc.or_(differ, pc.xor(new_values.is_null(), old_values.is_null()))",
        "pc.or_(differ, pc.and_not(new_values.is_valid(), old_values.is_valid()))",
        _VOCABULARY_FILES,
    ),
    Fault(
        "of two changes of a row by a chain of deltas, the older one is read",
        "ple_rec/inference/vocabulary_files.py",
        "for each in changes:\n        begin, end",
        "for each in reversed(changes):\n        begin, end",
        _VOCABULARY_FILES,
    ),
    Fault(
        "an error of the caller's gate does not stop an export",
        "ple_rec/inference/export.py",
        "accept(ranker, raw)",
        "pass",
        _DELTA_EXPORT,
    ),
    Fault(
        "users of the example logs who stay away never return",
        "docs/examples/feed_logs.py",
        "& ~(pauses & ((day + week) % 14 < 7))",
        "& ~(pauses & (day > 7))",
        ("tests/test_feed_logs.py",),
    ),
    Fault(
        "videos of the example logs are shown for ever",
        "docs/examples/feed_logs.py",
        "SHOWN_DAYS = 5 if args.come_and_go else DAYS",
        "SHOWN_DAYS = DAYS",
        ("tests/test_feed_logs.py",),
    ),
    Fault(
        "a freed row counts as used in the table of the ten days",
        "benchmarks/daily.py",
        "used = len(raw) - raw.null_count",
        "used = len(raw)",
        ("tests/benchmarks/test_daily.py",),
    ),
    Fault(
        "the ways of ten days are compared without pairing their days",
        "benchmarks/daily.py",
        'zip(means[way], means["warm"], strict=True)]',
        'zip(means[way], sorted(means["warm"]), strict=True)]',
        ("tests/benchmarks/test_daily.py",),
    ),
    Fault(
        "no user of the day that the benchmark of deltas appends is new",
        "benchmarks/delta.py",
        "np.where(i < new, users + i,",
        "np.where(i < 0, users + i,",
        ("tests/benchmarks/test_delta.py",),
    ),
    Fault(
        "a row sees events at its own time",
        "data_prep/transforms/histories.py",
        "order_by=[EVENT_TIME, _IS_EVENT]",
        "order_by=[EVENT_TIME, ibis.desc(_IS_EVENT)]",
        _HISTORIES,
    ),
    Fault(
        "a history ignores its delay",
        "data_prep/transforms/histories.py",
        "moments[EVENT_TIME] - delay",
        "moments[EVENT_TIME]",
        _HISTORIES,
    ),
    Fault(
        "a history has an event too many",
        "data_prep/transforms/histories.py",
        "end - history.length",
        "end - history.length - 1",
        _HISTORIES,
    ),
    Fault(
        "bad rows that are dropped are events",
        "data_prep/transforms/histories.py",
        "if resolved.config.on_bad_row ==",
        "if resolved.config.name ==",
        ("tests/data_prep/test_history_oracle.py",),
    ),
    Fault(
        "a run that goes on does without an array of events",
        "data_prep/output/histories.py",
        "if file is None or not all(array.exists() for array in sink.arrays.values()):",
        "if file is None:",
        _HISTORIES,
    ),
    Fault(
        "events of equal time are stored in any order",
        "data_prep/transforms/history_values.py",
        "return [EVENT_KEY, EVENT_TIME, MISSING, *map(item_column, history.items)]",
        "return [EVENT_KEY, EVENT_TIME]",
        _HISTORIES,
    ),
    Fault(
        "events of the parent's last day are added to an appended day once more",
        "data_prep/transforms/histories.py",
        "rows[DAY] > after",
        "rows[DAY] >= after",
        _HISTORY_APPEND,
    ),
    Fault(
        "an appended day keeps one event too few of each key",
        "data_prep/transforms/history_append.py",
        'ranked["__newer_events"] < history.length',
        'ranked["__newer_events"] < history.length - 1',
        _HISTORY_APPEND,
    ),
    Fault(
        "an appended day keeps events from UTC midnight on",
        "data_prep/transforms/history_append.py",
        "- time.offset_seconds",
        "",
        _HISTORY_APPEND,
    ),
    Fault(
        "a delay hides events from a dataset that later days can see",
        "data_prep/transforms/history_append.py",
        "- history.delay_seconds",
        "",
        _HISTORY_APPEND,
    ),
    Fault(
        "rows of a log that the dataset has are events once more when they are predicted",
        "data_prep/inputs/histories.py",
        "log_events(engine, derived, resolved, i, stored.last_day, None)",
        "log_events(engine, derived, resolved, i, None, None)",
        ("tests/data_prep/inputs/test_histories.py",),
    ),
)
