"""Faults of served models and of chains of days."""

from __future__ import annotations

from tests.mutations.fault import Fault

_RANKER = ("tests/inference/test_ranker.py",)
_DELTA_EXPORT = ("tests/inference/test_delta_export.py",)
_VOCABULARY_FILES = ("tests/inference/test_vocabulary_files.py",)
_DELTA = ("tests/inference/test_delta.py",)
_DAYS = ("tests/days/test_daily.py",)
_GATE = ("tests/days/test_gate.py",)

FAULTS = (
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
        '"predictions": (names, scores_NK[: len(chosen)])',
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
)
