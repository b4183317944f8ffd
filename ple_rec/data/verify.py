"""Full check of a dataset directory, down to every byte of its files."""

from __future__ import annotations

from collections.abc import Iterator

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import VOCAB_DIR
from ple_rec.data.dataset import DatasetDirectory, read_row_group
from ple_rec.data.vocabulary_index import check_vocabulary
from ple_rec.errors import DataError, PleRecError
from ple_rec.storage import Location


def dataset_problems(path: Location) -> Iterator[PleRecError]:
    """Yield an error for each problem of a dataset directory that training or serving would refuse or misread.

    First, files are compared with their digests in `_SUCCESS`, if it has any. Then every row of every part is checked
    as in training, and every vocabulary as in serving. A file whose digest differs is not checked further.

    Raises:
        UserError: There is no such directory.
    """
    try:
        dataset = DatasetDirectory(path)
    except DataError as error:
        yield error
        return
    bad = set()
    for change in dataset.digests.changes():
        bad.add(change.place)
        yield change
    for table in dataset.schema.tables:
        file = dataset.path / VOCAB_DIR / f"{table.name}.parquet"
        if file.is_file() and str(file) not in bad:
            yield from _problem_of_vocabulary(file)
    for split in SPLITS:
        yield from _problems_of_split(dataset, split, bad)


def _problem_of_vocabulary(file: Location) -> Iterator[PleRecError]:
    try:
        check_vocabulary(file)
    except PleRecError as error:
        yield error


def _problems_of_split(dataset: DatasetDirectory, split: Split, bad: set[str]) -> Iterator[PleRecError]:
    selection = dataset.select(drop=(), tasks=())
    try:
        groups = dataset.row_groups(split, selection.all_column_names())
    except PleRecError as error:
        if error.place not in bad:
            yield error
        return
    for group in groups:
        if str(group.file) in bad:
            continue
        try:
            read_row_group(group, selection)
        except PleRecError as error:
            yield error
