"""Full check of a dataset directory: every digest, every row of the parts, every vocabulary, frozen table and event.

A run checks only what it reads. `dataset_problems` reads all files, before a dataset is copied or published.
"""

from __future__ import annotations

from collections.abc import Iterator

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import VOCAB_DIR
from ple_rec.data.dataset import DatasetDirectory, read_row_group
from ple_rec.data.histories import HistoryEvents
from ple_rec.data.vectors import FrozenTable
from ple_rec.data.vocabulary_index import check_vocabulary
from ple_rec.errors import DataError, PleRecError
from ple_rec.storage import Location


def dataset_problems(path: Location) -> Iterator[PleRecError]:
    """Yield an error for each problem of a dataset directory that training or serving would refuse or misread.

    First, files are compared with their digests in `_SUCCESS`, if it has any. Then every vocabulary is checked as in
    serving, and the events of every history and every row of every part (a Parquet file of a split) as in training. A
    file that differs from its digest is not checked further. A row group gives one error at most. If the row groups of
    a split cannot be listed, none of them is checked. If `_SUCCESS` or `schema.toml` cannot be used, that is the only
    error.

    Raises:
        UserError: There is no such directory.
    """
    try:
        dataset = DatasetDirectory(path)
    except DataError as error:
        yield error
        return
    changed_files = set()
    for change in dataset.digests.find_changes():
        changed_files.add(change.place)
        yield change
    for table in dataset.schema.tables:
        file = dataset.path / VOCAB_DIR / f"{table.name}.parquet"
        if file.is_file() and str(file) not in changed_files:
            yield from _problem_of_vocabulary(file)
    for frozen in dataset.vector_tables.values():
        if str(frozen.file) not in changed_files:
            yield from _problem_of_frozen_table(frozen)
    for events in dataset.history_events.values():
        for problem in _problem_of_events(events):
            if problem.place not in changed_files:
                changed_files.add(problem.place)
                yield problem
    for split in SPLITS:
        yield from _problems_of_split(dataset, split, changed_files)


def _problem_of_vocabulary(file: Location) -> Iterator[PleRecError]:
    try:
        check_vocabulary(file)
    except PleRecError as error:
        yield error


def _problem_of_frozen_table(table: FrozenTable) -> Iterator[PleRecError]:
    try:
        table.keys()
        _ = table.values_RW
    except PleRecError as error:
        yield error


def _problem_of_events(events: HistoryEvents) -> Iterator[PleRecError]:
    try:
        events.check()
    except PleRecError as error:
        yield error


def _problems_of_split(dataset: DatasetDirectory, split: Split, changed_files: set[str]) -> Iterator[PleRecError]:
    selection = dataset.select(drop=(), tasks=())  # No names of tasks select all tasks.
    try:
        groups = dataset.row_groups(split, selection.all_column_names())
    except PleRecError as error:
        if error.place not in changed_files:
            yield error
        return
    for group in groups:
        if str(group.file) in changed_files:
            continue
        try:
            read_row_group(group, selection)
        except PleRecError as error:
            # A problem of a frozen table or of a file of events was reported above.
            if error.place not in changed_files:
                yield error
