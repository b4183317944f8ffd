"""Faults of models, losses, batches and metrics."""

from __future__ import annotations

from tests.mutations.fault import Fault

_MODELS = ("tests/modules", "tests/models")
_LOSSES = ("tests/models/test_losses.py", "tests/models/test_objective.py", "tests/models/test_weighting.py")
_ORDER = ("tests/data/test_order.py", "tests/data/test_loader.py", "tests/data/test_collate.py")
_HISTORIES = ("tests/data/test_histories.py",)
_METRICS = ("tests/metrics",)

FAULTS = (
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
        "selector_O=(SELECT_BY_X,) * len(outputs),",
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
)
