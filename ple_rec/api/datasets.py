"""Prepared data: `prepare`, `open_dataset` and `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ple_rec.api.arguments import (
    Overrides,
    PathLike,
    check_choice,
    check_count,
    check_list,
    check_location,
    check_log_source,
    check_text,
    errors_name_arguments,
    override_texts,
    resolve_config,
)
from ple_rec.api.html import Page, block, display_path, line, table
from ple_rec.config.base import SPLITS, Split, TaskKind
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, Remote, explain_errors, names_in
from ple_rec.text.messages import print_messages

if TYPE_CHECKING:
    import pyarrow as pa

    from ple_rec.config.prep import PrepConfig
    from ple_rec.config.schema import DatasetSchema

# Data sets that the command line generates. They have no raw logs.
_SYNTHETIC = ("tencent-synthetic", "mmoe-synthetic")


class Dataset:
    """Dataset directory: rows of table ids, numbers and labels, split into train, valid and test.

    `prepare` and `open_dataset` make it.

    Attributes:
        path: Path of the directory, or its address in a store.
        schema: Content of `schema.toml`: tables, features, tasks, splits.
    """

    path: Location
    schema: DatasetSchema

    def __init__(self, path: Location, schema: DatasetSchema) -> None:
        self.path, self.schema = path.absolute(), schema

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.schema.name

    @property
    def fingerprint(self) -> str:
        """Text that identifies the content; a model takes only the dataset it was trained on or one appended to it."""
        return self.schema.fingerprint

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows, by split."""
        return {split: info.rows for split, info in self.schema.splits.items()}

    @property
    def features(self) -> list[str]:
        """Names of the features: sparse ones, which are ids, then dense ones, which are numbers, vectors, histories."""
        return self.schema.features()

    @property
    def tasks(self) -> dict[str, TaskKind]:
        """Kind of each task, "binary" or "regression", by name."""
        return {task.name: task.kind for task in self.schema.tasks}

    @errors_name_arguments
    def read(self, split: Split = "train", columns: Sequence[str] | None = None) -> pa.Table:
        """Read a split into memory.

        Args:
            split: "train", "valid" or "test".
            columns: Names of columns; None for all.

        Returns:
            A row for each sample. Sparse features are row numbers of their tables (0 stands for a missing value, and
            often for an unknown one), dense ones raw numbers (null is missing). Labels are in the columns that
            `schema.tasks` names, usually `label_<task>`.

        Raises:
            UserError: There is no such split or column, or the store cannot be read.
            DataError: A file is missing or damaged.
        """
        import pyarrow as pa

        from ple_rec.config.words import suggestion
        from ple_rec.storage.arrow import open_parquet

        check_choice("split", split, SPLITS)
        names = None if columns is None else check_list("columns", columns)
        folder = self.path / split
        with explain_errors(folder, "listed", "its rows lie there"):
            files = [folder / name for name in names_in(folder) if name.endswith(".parquet")]
        if split not in self.rows:
            splits = ", ".join(self.rows) or "none"
            raise UserError("split", f'got "{split}"', f"{self.path} has {splits}", "name one of these splits")
        if not files:
            raise DataError(str(folder), "no Parquet files", "its rows lie there", "prepare it again")
        parts = []
        try:
            for file in files:
                with open_parquet(file) as parquet:
                    known = parquet.schema_arrow.names
                    if unknown := [name for name in names or () if name not in known]:
                        fix = "name columns of the dataset's Parquet files"
                        raise UserError("columns", f'got "{unknown[0]}"', suggestion(unknown[0], known), fix)
                    parts.append(parquet.read(columns=names))
            return pa.concat_tables(parts).replace_schema_metadata()
        except (OSError, ValueError, pa.ArrowException) as error:
            place = str(folder)
            raise DataError(place, f"unreadable ({error})", "it holds Parquet files", "prepare it again") from error

    @errors_name_arguments
    def report(self) -> Page:
        """Return the page of statistics that the preparation has written: counts, drift, correlation of labels.

        Raises:
            UserError: The dataset has no such page, since no preparation wrote it.
        """
        from ple_rec.config.schema import STATS_PAGE
        from ple_rec.storage.cache import local_copy

        page = self.path / STATS_PAGE
        if not page.is_file():
            fix = "prepare the dataset by `prepare`"
            raise UserError(display_path(page), "no such file", "a preparation writes it", fix)
        return Page(local_copy(page))

    def __repr__(self) -> str:
        """Return the path, and the numbers of rows and features, and the tasks."""
        rows = ", ".join(f"{split} {count:,}" for split, count in self.rows.items())
        sizes = f"{rows} rows; {len(self.features)} features; tasks {', '.join(self.tasks)}"
        return f"Dataset({display_path(self.path)!r}: {sizes})"

    def _repr_html_(self) -> str:
        sizes = {each.name: each.allocated_rows for each in self.schema.tables}
        features = [
            [each.name, "bag of ids" if each.bag else "ids", f"{sizes[each.table]:,}"] for each in self.schema.sparse
        ]
        features += [[each.name, f"number, {each.normaliser}", ""] for each in self.schema.dense]
        features += [
            [
                each.name,
                f"vector of {each.width}, {each.normaliser}",
                "" if each.table is None else f"{each.table.rows:,}",
            ]
            for each in self.schema.vectors
        ]
        features += [
            [each.name, f"history of {each.length} events: {', '.join(item.feature for item in each.items)}", ""]
            for each in self.schema.histories
        ]
        means = _label_means(self.path)
        tasks = [
            [task.name, task.kind, *(_mean(means, task.name, split) for split in self.rows)]
            for task in self.schema.tasks
        ]
        return block(
            line(self.name, display_path(self.path), f"fingerprint {self.fingerprint[:12]}"),
            table(["", *self.rows], [["rows", *(f"{count:,}" for count in self.rows.values())]]),
            table(["task", "kind", *(f"mean, {split}" for split in self.rows)], tasks),
            table(["feature", "holds", "table rows"], features),
        )


@errors_name_arguments
def prepare(
    config: PathLike | Mapping[str, Any] | PrepConfig,
    out: PathLike | Remote,
    *,
    source: PathLike | Remote | None = None,
    overrides: Overrides = (),
    overwrite: bool = False,
    append: str | None = None,
    parent: PathLike | Remote | Dataset | None = None,
    engine: Literal["duckdb", "spark"] = "duckdb",
    master: str | None = None,
    memory: int | None = None,
    threads: int | None = None,
) -> Dataset:
    """Prepare raw logs, Parquet or CSV files, as a dataset directory, as `ple-rec prep` does.

    A finished dataset is not prepared again, and an interrupted preparation is resumed.

    Args:
        config: Name of a data set that comes with the package ("census"), path of a TOML file, its content as a dict,
            or a `PrepConfig`; docs/prep.md has its keys.
        out: Directory to write, or its address in a store, "s3://bucket/census". A dataset for a store is written to
            the cache folder of this machine, and then uploaded.
        source: Folder of the raw files, or "s3://..."; None for a download if the data set has one, or for the working
            directory.
        overrides: Changes of the configuration: `{"split.valid_share": 0.3}`, or texts "key=value".
        overwrite: True to replace an existing dataset that has other content or is damaged.
        append: Further day, "day=9" or "day=2022-05-08", that is prepared with the ids of `parent`; None for all rows.
        parent: Dataset whose ids are kept, which `append` needs; None without `append`.
        engine: "duckdb", which runs in this process, or "spark".
        master: Address of Spark's master; None for a local one.
        memory: Approximate number of bytes to use, at least 64 MiB; None for most of the machine's memory.
        threads: Number of threads; None for all cores.

    Raises:
        UserError: The configuration or a path is invalid, or the machine lacks something.
        DataError: The raw files break a rule.
    """
    if isinstance(config, str) and config in _SYNTHETIC:
        rule = "synthetic data is generated only on the command line"
        raise UserError("config", f'got "{config}"', rule, f"run `ple-rec prep {config} --out {out}`")
    from data_prep.progress import stderr_progress
    from data_prep.run import MIN_MEMORY, PREP_CONFIGS, Options, find_configured_tables, prepare, prepare_config
    from data_prep.transforms.resolve import expression_problems
    from ple_rec.config.prep import PrepConfig

    check_choice("engine", engine, ("duckdb", "spark"))
    threads = None if threads is None else check_count("threads", threads)
    memory = None if memory is None else check_count("memory", memory)
    if memory is not None and memory < MIN_MEMORY:
        raise UserError("memory", f"got {memory} (int)", "at least 64 MiB is needed", f"give for example {4 << 30}")
    for name, text in (("append", append), ("master", master)):
        if text is not None:
            check_text(name, text)
    folder = check_location("out", out)
    options = Options(
        source=None if source is None else check_log_source("source", source),
        overwrite=overwrite,
        engine=engine,
        master=master,
        memory=memory,
        threads=threads,
        append=append,
        parent=None
        if parent is None
        else check_location("parent", parent.path if isinstance(parent, Dataset) else parent),
        overrides=tuple(override_texts(overrides)),
    )
    options.check()
    with print_messages("stderr"):
        if isinstance(config, str | Path):
            prepare(config, folder, options, progress=stderr_progress())
        else:
            chosen = resolve_config(PrepConfig, config, overrides, PREP_CONFIGS, more_problems=expression_problems)
            prepare_config(chosen, "config", folder, options, find_configured_tables, stderr_progress())
    return open_dataset(folder)


@errors_name_arguments
def open_dataset(path: PathLike | Remote) -> Dataset:
    """Open a dataset directory that `prepare`, `ple-rec prep` or `data_prep.write_tables` has written.

    Args:
        path: Path of the directory, or its address in a store, "s3://bucket/census".

    Raises:
        UserError: There is no such directory, or its store cannot be reached.
        DataError: The dataset is incomplete or damaged.
    """
    from ple_rec.config.load import load_schema
    from ple_rec.config.schema import SCHEMA_FILE
    from ple_rec.data.integrity import Digests

    folder = check_location("path", path)
    schema = load_schema(folder)
    Digests.read(folder).check(SCHEMA_FILE)
    return Dataset(folder, schema)


def _label_means(path: Location) -> Mapping[str, Any]:
    """Return the statistics of labels in `stats.json`, by task; empty if the file is missing or has none."""
    import json

    from ple_rec.config.schema import STATS_FILE
    from ple_rec.text.json_values import as_mapping

    try:
        return as_mapping(as_mapping(json.loads((path / STATS_FILE).read_text(encoding="utf-8"))).get("tasks"))
    except (OSError, ValueError):
        return {}


def _mean(means: Mapping[str, Any], task: str, split: str) -> str:
    from ple_rec.text.json_values import as_mapping, as_number

    mean = as_number(as_mapping(as_mapping(means.get(task)).get(split)).get("mean"))
    return "" if mean is None else f"{mean:.4f}"
