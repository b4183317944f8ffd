"""Preparation of a dataset directory by a recipe or a TOML file: `ple-rec prep` and `ple_rec.prepare`.

A recipe is a configuration that comes with the package, such as that of Ali-CCP. `prepare` loads the configuration and
finds the raw files. The fingerprint of a dataset is the digest of both (in `data_prep.output`, the recipe digest); the
file `_SUCCESS` of a directory holds it. If the directory has the same fingerprint, `prepare` reuses it. Otherwise it
runs the passes of `data_prep.pipeline`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from data_prep.append import append_config, parse_day
from data_prep.datasets.ali_ccp import find_ali_ccp_tables
from data_prep.datasets.census import CENSUS
from data_prep.engines.base import Engine
from data_prep.output.dataset_diff import describe_difference
from data_prep.output.parent import Parent
from data_prep.output.stage import dataset_directory, dataset_exists
from data_prep.output.summary import Summary
from data_prep.output.writer import existing_recipe_digest
from data_prep.pipeline import PHASES, Pipeline, fingerprint
from data_prep.progress import Progress
from data_prep.sources.files import RawTable, discover
from data_prep.sources.find import find_all
from data_prep.sources.table import RawTables
from data_prep.transforms.resolve import Resolved, expression_problems, resolve
from ple_rec.config.choices import ConfigKind
from ple_rec.config.load import load_config
from ple_rec.config.prep import FilesConfig, FoundValues, PrepConfig
from ple_rec.errors import Option, UserError
from ple_rec.runtime.versions import find_spark_problem
from ple_rec.storage import Location, free_bytes, is_address, is_remote, location
from ple_rec.storage.cache import CACHE_VARIABLE
from ple_rec.text.suggest import did_you_mean
from ple_rec.text.units import short_bytes

logger = logging.getLogger(__name__)

RECIPES = resources.files("data_prep") / "recipes"
PREP_CONFIGS = ConfigKind("preparation", "prep", RECIPES)
EngineName = Literal["duckdb", "spark"]
MIN_MEMORY = 64 << 20  # Smallest value of `Options.memory`; it suffices for a small log.
_PROGRESS_BYTES = 100_000_000  # Smaller tables are read in a moment, so nothing is said about them.


@dataclass(frozen=True)
class Options:
    """Options of a preparation.

    Args:
        source: Folder or address of the raw files (`--from`); None for the working directory, or for a download if the
            recipe has one.
        overwrite: True to replace a dataset directory of other content, or a damaged one.
        engine: Name of the engine.
        master: URL of Spark's master; None for a local Spark.
        memory: Bytes that a run with DuckDB or with a local Spark may use; None for the engine's default.
        threads: Number of threads of DuckDB or of a local Spark without `master`; None for one per core.
        append: Day to append to `parent`, such as `day=9` or `day=2022-05-08`; None to prepare a whole log.
        parent: Dataset directory to which a day is appended, and whose ids the day keeps; None without `append`.
        overrides: Settings `key=value` that replace values of the configuration.
    """

    source: str | None = None
    overwrite: bool = False
    engine: EngineName = "duckdb"
    master: str | None = None
    memory: int | None = None
    threads: int | None = None
    append: str | None = None
    parent: Location | None = None
    overrides: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UserError: `parent` is given without `append`, or `master` for another engine than Spark.
        """
        if self.parent is not None and self.append is None:
            fix = f"give {Option.APPEND.with_value('day=N')}, or drop it"
            raise UserError(Option.PARENT, f"no {Option.APPEND}", "it names the dataset to which a day is added", fix)
        if self.engine != "spark" and self.master is not None:
            raise UserError(
                Option.MASTER,
                f"{Option.ENGINE} {self.engine}",
                "only Spark has a master",
                f"add {Option.ENGINE.with_value('spark')}",
            )


class FindTables(Protocol):
    """Function that finds the raw files of a recipe, and returns them as the log and its side tables."""

    def __call__(
        self, resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
    ) -> RawTables:
        """Find and check the raw files, and convert text files to Parquet.

        Args:
            resolved: Configuration with its parsed expressions.
            source: Value of `--from`; None if it is not given.
            staging: Folder for converted files.
            progress: Progress that is shown to the user.
            digest: False if the digests of the files are not needed, as in a dry run.
        """


@runtime_checkable
class FindKnownTables(FindTables, Protocol):
    """Function for files whose digests the package knows, so that an existing dataset is recognised without them."""

    def known_tables(self) -> RawTables:
        """Return the tables with their digests, but without the paths of files."""


def find_configured_tables(
    resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
) -> RawTables:
    """Return the tables of the files that the configuration names."""
    root = source if source is not None else "."
    tables: dict[str, FilesConfig] = {"log": resolved.config.log, **resolved.config.sides}
    # The files of all tables are found before one is read, so that a missing file is reported without a wait.
    files = find_all(resolved.place, tables, root)

    def table(name: str) -> RawTable:
        is_large = sum(file.size for file in files[name][0]) >= _PROGRESS_BYTES
        say = progress.say if is_large else None
        return discover(
            name,
            tables[name],
            root,
            staging,
            say,
            listing=files[name],
            check=resolved.check_columns,
            digest=digest,
            inferred=resolved.config.found.types.get(name, {}),
        )

    sides = {name: table(name) for name in resolved.config.sides}
    return RawTables(table("log"), sides)


# Functions that find the raw files of recipes with a layout of their own, by recipe.
BUILT_IN: Mapping[str, FindTables] = {"ali-ccp": find_ali_ccp_tables, "census": CENSUS}


def prepare(
    recipe: str | Path, out: str | Location, options: Options = Options(), *, progress: Progress | None = None
) -> Summary:
    """Prepare a dataset directory.

    Args:
        recipe: Name of a recipe, or path of a TOML file (`ple_rec.config.prep.PrepConfig`).
        out: Path or address of the dataset directory: new, empty, or already prepared.
        options: Options of the preparation.
        progress: Progress that is shown to the user; None to show none.

    Returns:
        Summary of the directory.

    Raises:
        UserError: The configuration, a path or the machine is not usable, or `out` holds another dataset and
            `options.overwrite` is False.
        DataError: The raw files break a rule.
    """
    config, place, find_tables = read_recipe(str(recipe), options.overrides)
    return prepare_config(config, place, location(out), options, find_tables, progress)


def read_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[PrepConfig, str, FindTables]:
    """Load the configuration of a recipe or a TOML file.

    Returns:
        Configuration, its name in messages, and the function that finds its raw files.

    Raises:
        UserError: The recipe is unknown, or the configuration has an error.
    """
    path = find_recipe(recipe)
    find_tables = BUILT_IN.get(recipe, find_configured_tables)
    config = load_config(PrepConfig, path, overrides, more_problems=expression_problems, kind=PREP_CONFIGS)
    return config, path.name, find_tables


def prepare_config(
    config: PrepConfig,
    place: str,
    out: Location,
    options: Options = Options(),
    find_tables: FindTables = find_configured_tables,
    progress: Progress | None = None,
) -> Summary:
    """Prepare a dataset directory by a configuration that is already loaded; see `prepare`.

    Args:
        config: Configuration of the preparation.
        place: Name of the configuration in messages.
        out: Path or address of the dataset directory.
        options: Options of the preparation.
        find_tables: Function that finds the raw files.
        progress: Progress that is shown to the user; None to show none.
    """
    progress = progress or Progress()
    progress.name = config.name
    check_engine(options.engine)
    check_executors(out, options)
    resolved, parent = resolve_with_parent(config, place, options)
    config = resolved.config
    if parent is not None and existing_recipe_digest(out) is not None and _is_same_directory(out, parent.path):
        raise UserError(
            f"{Option.OUT} {out}",
            f"is {Option.PARENT}",
            "a day is prepared beside the dataset whose ids it keeps",
            f"name another {Option.OUT}",
        )
    parent_schema = None if parent is None else parent.schema
    parent_fingerprint = None if parent_schema is None else parent_schema.fingerprint

    def is_prepared(raw: RawTables) -> bool:
        """Return whether `out` holds the dataset of these files; refuse another dataset that may not be replaced."""
        new_fingerprint = fingerprint(config, raw, parent_fingerprint)

        def refusal(existing: str) -> UserError:
            return _stale_error(out, existing, new_fingerprint, describe_difference(out, config, raw, parent))

        return dataset_exists(out, new_fingerprint, overwrite=options.overwrite, refusal=refusal)

    # A dataset of such files is recognised before they are searched for or downloaded.
    if isinstance(find_tables, FindKnownTables) and is_prepared(find_tables.known_tables()):
        return Summary.read(out, reused=True, parent=parent_schema)
    with dataset_directory(out, overwrite=options.overwrite, say=progress.say) as stage:
        raw = find_tables(resolved, options.source, stage.staging, progress)
        if not is_prepared(raw):
            new_fingerprint = fingerprint(config, raw, parent_fingerprint)
            stage.begin(new_fingerprint)
            if stage.is_continued:
                progress.say("going on where a run for the same files and configuration was stopped")
            if is_remote(out):
                _report_space(out, stage.folder, raw, progress)
            if not stage.is_complete:
                with progress.running(PHASES, raw.log.rows), open_engine(options, stage.work) as engine:
                    Pipeline(engine, resolved, raw, stage, new_fingerprint, parent, progress).run()
    return Summary.read(out, reused=not stage.has_begun, parent=parent_schema)


def _report_space(out: Location, folder: Path, raw: RawTables, progress: Progress) -> None:
    """Say in which local folder a remote dataset is made before its upload, and warn if it may not fit there."""
    size = sum(file.size for file in raw.files)  # A dataset is about as large as its raw files.
    free = free_bytes(folder)
    room = "" if free is None else f", {short_bytes(free)} are free"
    progress.say(f"{out} is made in {folder} first: it needs about {short_bytes(size)} there{room}")
    if free is not None and free < size:
        logger.warning(
            "%s: %s are free, the raw files have %s; the dataset is made there before it is uploaded. "
            "Fix: free some space, or name a folder elsewhere by PLE_REC_CACHE",
            folder,
            short_bytes(free),
            short_bytes(size),
        )


def check_executors(out: Location, options: Options) -> None:
    """Refuse to make a remote dataset on a Spark cluster unless its executors share the folder for the upload.

    Raises:
        UserError: `out` is an address, the master is not local, and PLE_REC_CACHE names no folder.
    """
    master = options.master or "local"
    if (
        is_remote(out)
        and options.engine == "spark"
        and not master.startswith("local")
        and not os.environ.get(CACHE_VARIABLE)
    ):
        raise UserError(
            f"{Option.OUT} {out}",
            f"{Option.MASTER} {master}, and no {CACHE_VARIABLE}",
            "executors write the parts into a folder that they all see, from which they are uploaded",
            f"let {CACHE_VARIABLE} name a folder on shared storage",
        )


def _is_same_directory(out: Location, other: Location) -> bool:
    return out.samefile(other) if isinstance(out, Path) and isinstance(other, Path) else out == other


def _stale_error(out: Location, existing: str, new: str, difference: str) -> UserError:
    """Return the error of a directory that holds another dataset.

    Args:
        out: Path or address of the directory.
        existing: Fingerprint of the dataset in it; empty if it is unknown.
        new: Fingerprint of the dataset that was to be made.
        difference: Description of what differs.
    """
    return UserError(
        str(out),
        f"holds a dataset of another configuration or other raw files ({existing[:12] or 'unknown'}, now {new[:12]})",
        f"{difference}; a dataset directory is replaced on request only",
        f"pass {Option.OVERWRITE}, or name another {Option.OUT}",
    )


def resolve_with_parent(config: PrepConfig, place: str, options: Options) -> tuple[Resolved, Parent | None]:
    """Return the configuration of the run with its parsed expressions, and the parent dataset if a day is appended.

    Without `append` the second is None. With it, the configuration is that of the appended day.

    Raises:
        UserError: An expression cannot be parsed, `append` has no parent, or the day cannot be appended.
    """
    if options.append is None:  # Values of `[found]` that an earlier preparation took from another log are dropped.
        return resolve(config.model_copy(update={"found": FoundValues()}), place), None
    if options.parent is None:
        raise UserError(
            f"{Option.APPEND} {options.append}",
            f"no {Option.PARENT}",
            "a day is appended to an existing dataset",
            f"name it: {Option.PARENT.with_value('DIR')}",
        )
    parent = Parent.read(options.parent)
    return resolve(append_config(parent, config, parse_day(options.append)), place, is_from_dataset=True), parent


def check_request(recipe: str, options: Options) -> None:
    """Run the checks of `prepare` that open no raw file, as when a job is submitted.

    Of a remote source only the scheme is checked, and for the recipes in `BUILT_IN` only that a given source exists.

    Raises:
        UserError: The configuration, the engine or the parent is not usable, a raw file does not exist, or the scheme
            of an address is unknown.
    """
    config, place, find_tables = read_recipe(recipe, options.overrides)
    check_engine(options.engine)
    resolved, _ = resolve_with_parent(config, place, options)
    source = options.source
    if source is not None and is_address(source):
        location(source)
        return
    if find_tables is find_configured_tables:
        find_all(place, {"log": resolved.config.log, **resolved.config.sides}, "." if source is None else source)
    elif source is not None and not Path(source).exists():
        raise UserError(
            Option.SOURCE, f"no {source} in {Path.cwd()}", "it is the folder of the raw files", "give their folder"
        )


def check_engine(name: EngineName) -> None:
    """Check that an engine can run on this machine.

    Raises:
        UserError: PySpark or Java is missing.
    """
    if name == "spark" and (problem := find_spark_problem()):
        raise UserError(f"{Option.ENGINE} spark", problem[0], "Spark is PySpark and a Java that runs it", problem[1])


@contextmanager
def open_engine(options: Options, work: Path) -> Iterator[Engine]:
    """Open the engine that the options name, and close it after the block.

    Args:
        options: Options of the preparation.
        work: Folder for temporary files of the engine.
    """
    engine: Engine
    if options.engine == "spark":
        from data_prep.engines.spark import SparkEngine

        engine = SparkEngine(work, master=options.master, memory=options.memory, threads=options.threads)
    else:
        from data_prep.engines.duck import DuckEngine

        engine = DuckEngine(work, memory=options.memory, threads=options.threads)
    try:
        yield engine
    finally:
        engine.close()


def find_recipe(recipe: str) -> Path:
    """Return the TOML file of a recipe, or the given path itself, which is not checked to exist.

    Args:
        recipe: Name of a recipe, or path of a TOML file.

    Raises:
        UserError: The text is no name of a recipe, has no `/` and does not end in `.toml`.
    """
    known = recipe_names()
    if recipe in known:
        return Path(str(RECIPES / f"{recipe}.toml"))
    if recipe.endswith(".toml") or "/" in recipe:
        return Path(recipe)
    fix = did_you_mean(recipe, known) or "name one of them, or a TOML file"
    raise UserError("prep", f"unknown data set {recipe!r}", f"known are {', '.join(known)}", fix)


def recipe_names() -> list[str]:
    """Return the names of the recipes of the package."""
    return sorted(file.name.removesuffix(".toml") for file in RECIPES.iterdir() if file.name.endswith(".toml"))
