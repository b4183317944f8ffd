"""Faults of the data preparation."""

from __future__ import annotations

from tests.mutations.fault import Fault

_PREP = ("tests/data_prep/test_feed.py", "tests/data_prep/vocabulary/test_vocabulary.py")
_TURNOVER = ("tests/data_prep/vocabulary/test_turnover.py",)
_HISTORY_APPEND = ("tests/data_prep/test_history_append.py",)
_HISTORY_ORACLE = ("tests/data_prep/test_history_oracle.py",)

FAULTS = (
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
    Fault(
        "a row sees events at its own time",
        "data_prep/transforms/histories.py",
        "order_by=[EVENT_TIME, _IS_EVENT]",
        "order_by=[EVENT_TIME, ibis.desc(_IS_EVENT)]",
        _HISTORY_ORACLE,
    ),
    Fault(
        "a history ignores its delay",
        "data_prep/transforms/histories.py",
        "moments[EVENT_TIME] - delay",
        "moments[EVENT_TIME]",
        _HISTORY_ORACLE,
    ),
    Fault(
        "a history has an event too many",
        "data_prep/transforms/histories.py",
        "end - history.length",
        "end - history.length - 1",
        _HISTORY_ORACLE,
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
        ("tests/data_prep/test_histories.py",),
    ),
    Fault(
        "events of equal time are stored in any order",
        "data_prep/transforms/history_values.py",
        "return [EVENT_KEY, EVENT_TIME, MISSING, *map(item_column, history.items)]",
        "return [EVENT_KEY, EVENT_TIME]",
        _HISTORY_ORACLE,
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
