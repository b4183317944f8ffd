"""`ple-rec prep`: preparation of a dataset directory by a recipe or a TOML file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from data_prep.append import appended, parse_day
from data_prep.datasets.ali_ccp import ali_ccp
from data_prep.datasets.census import CENSUS
from data_prep.engines.base import Engine
from data_prep.output.dataset_diff import what_differs
from data_prep.output.parent import Parent
from data_prep.output.stage import dataset_directory, is_there
from data_prep.output.summary import Summary
from data_prep.output.writer import prepared_recipe
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
from ple_rec.runtime.versions import spark_lacks
from ple_rec.storage import Location, free_bytes, is_address, is_remote, location
from ple_rec.storage.cache import CACHE
from ple_rec.text.suggest import did_you_mean
from ple_rec.text.units import short_bytes

logger = logging.getLogger(__name__)

RECIPES = resources.files("data_prep") / "recipes"
PREPARATIONS = ConfigKind("preparation", "prep", RECIPES)
EngineName = Literal["duckdb", "spark"]
LEAST_MEMORY = 64 << 20  # So many bytes suffice to prepare a small log.
_LOUD_BYTES = 100_000_000  # Progress is shown from this size of a table on, since fewer bytes are read at once.


@dataclass(frozen=True)
class Options:
    """Options of a preparation.

    Args:
        source: Folder or address of the raw files (`--from`); None for the working directory, or to fetch a data set.
        overwrite: True to replace a dataset directory of other content, or a damaged one.
        engine: Name of the engine.
        master: URL of the master of Spark; None for a local one.
        memory: Bytes that the run may use; None for most of the machine's memory.
        threads: Number of threads; None for one per core.
        append: Day to add to `parent`, a number or a date.
        parent: Dataset directory whose ids the appended day keeps.
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
        """Refuse options that do not go together.

        Raises:
            UserError: Two options contradict each other, or one lacks another.
        """
        if self.parent is not None and self.append is None:
            fix = f"give {Option.APPEND.to('day=N')}, or drop it"
            raise UserError(Option.PARENT, f"no {Option.APPEND}", "it names the dataset to which a day is added", fix)
        if self.engine != "spark" and self.master is not None:
            raise UserError(
                Option.MASTER, f"{Option.ENGINE} {self.engine}", "it is Spark's", f"add {Option.ENGINE.to('spark')}"
            )


class RawFiles(Protocol):
    """Function that turns the files of a data set into tables."""

    def __call__(
        self, resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
    ) -> RawTables:
        """Find, check and stage the files; `digest` is False if their digests are not needed."""


@runtime_checkable
class KnownFiles(RawFiles, Protocol):
    """Files whose content is known in advance, so that an existing dataset is recognised before they are fetched."""

    def known(self) -> RawTables:
        """Return the tables, without the paths of their files."""


def from_files(
    resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
) -> RawTables:
    """Return the tables of the files that the configuration names."""
    root = source if source is not None else "."
    tables: dict[str, FilesConfig] = {"log": resolved.config.log, **resolved.config.sides}
    # All files are found before any is read, so that a missing one is reported at once.
    files = find_all(resolved.place, tables, root)

    def table(name: str) -> RawTable:
        loud = sum(file.size for file in files[name][0]) >= _LOUD_BYTES
        say = progress.say if loud else None
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


BUILT_IN: Mapping[str, RawFiles] = {"ali-ccp": ali_ccp, "census": CENSUS}


def prepare(
    what: str | Path, out: str | Location, options: Options = Options(), *, progress: Progress | None = None
) -> Summary:
    """Prepare a dataset directory.

    Args:
        what: Name of a recipe, or path of a TOML file (`ple_rec.config.prep.PrepConfig`).
        out: Path or address of the dataset directory: new, empty, or already prepared.
        options: Options of the preparation.
        progress: Progress that is shown to the user; None to show none.

    Returns:
        Summary of the directory.

    Raises:
        UserError: The configuration, a path or the machine is not usable.
        DataError: The raw files break a rule.
    """
    config, place, files = read_recipe(str(what), options.overrides)
    return prepare_config(config, place, location(out), options, files, progress)


def read_recipe(what: str, overrides: Sequence[str] = ()) -> tuple[PrepConfig, str, RawFiles]:
    """Return the configuration of a recipe or a file, its name in messages, and the function that finds its files."""
    path = find_recipe(what)
    files = BUILT_IN.get(what, from_files)
    config = load_config(PrepConfig, path, overrides, more=expression_problems, recipes=PREPARATIONS)
    return config, path.name, files


def prepare_config(
    config: PrepConfig,
    place: str,
    out: Location,
    options: Options = Options(),
    files: RawFiles = from_files,
    progress: Progress | None = None,
) -> Summary:
    """Prepare a dataset directory by a configuration, whose name in messages is `place`; see `prepare`."""
    progress = progress or Progress()
    progress.name = config.name
    check_engine(options.engine)
    check_executors(out, options)
    resolved, parent = planned(config, place, options)
    config = resolved.config
    if parent is not None and prepared_recipe(out) is not None and _is_same(out, parent.path):
        raise UserError(
            f"{Option.OUT} {out}",
            f"is {Option.PARENT}",
            "a day is prepared beside the dataset whose ids it keeps",
            f"name another {Option.OUT}",
        )
    before = None if parent is None else parent.schema
    lineage = None if before is None else before.fingerprint

    def is_made(raw: RawTables) -> bool:
        mark = fingerprint(config, raw, lineage)

        def refusal(existing: str) -> UserError:
            return _stale(out, existing, mark, what_differs(out, config, raw, parent))

        return is_there(out, mark, overwrite=options.overwrite, refusal=refusal)

    if isinstance(files, KnownFiles) and is_made(files.known()):
        return Summary.read(out, reused=True, parent=before)
    with dataset_directory(out, overwrite=options.overwrite, say=progress.say) as stage:
        raw = files(resolved, options.source, stage.staging, progress)
        if not is_made(raw):
            mark = fingerprint(config, raw, lineage)
            stage.begin(mark)
            if stage.continued:
                progress.say("going on where a run for the same files and configuration was stopped")
            if is_remote(out):
                _report_room(out, stage.folder, raw, progress)
            if not stage.complete:
                with progress.running(PHASES, raw.log.rows), open_engine(options, stage.work) as engine:
                    Pipeline(engine, resolved, raw, stage, mark, parent, progress).run()
    return Summary.read(out, reused=not stage.begun, parent=before)


def _report_room(out: Location, folder: Path, raw: RawTables, progress: Progress) -> None:
    """Report the folder in which a dataset is made before it is uploaded, and warn if it may not fit there."""
    size = sum(file.size for file in raw.files)  # A dataset takes about as much room as its raw files.
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
    """Refuse a cluster of Spark whose executors do not share the folder from which a dataset is uploaded.

    Raises:
        UserError: `out` is an address, the master is not local, and PLE_REC_CACHE names no folder.
    """
    master = options.master or "local"
    if is_remote(out) and options.engine == "spark" and not master.startswith("local") and not os.environ.get(CACHE):
        raise UserError(
            f"{Option.OUT} {out}",
            f"{Option.MASTER} {master}, and no {CACHE}",
            "executors write the parts into a folder that they all see, from which they are uploaded",
            f"let {CACHE} name a folder on shared storage",
        )


def _is_same(out: Location, other: Location) -> bool:
    return out.samefile(other) if isinstance(out, Path) and isinstance(other, Path) else out == other


def _stale(out: Location, existing: str, mark: str, differs: str) -> UserError:
    """Return the error of a directory that holds another dataset."""
    return UserError(
        str(out),
        f"holds a dataset of another configuration or other raw files ({existing[:12] or 'unknown'}, now {mark[:12]})",
        f"{differs}; a dataset directory is replaced on request only",
        f"pass {Option.OVERWRITE}, or name another {Option.OUT}",
    )


def planned(config: PrepConfig, place: str, options: Options) -> tuple[Resolved, Parent | None]:
    """Return the configuration of the run, with its expressions, and the parent of an appended day.

    Raises:
        UserError: An expression cannot be read, or the day cannot be added.
    """
    if options.append is None:  # Values that an earlier preparation took from another log are dropped.
        return resolve(config.model_copy(update={"found": FoundValues()}), place), None
    if options.parent is None:
        raise UserError(
            f"{Option.APPEND} {options.append}",
            f"no {Option.PARENT}",
            "a day is added to a dataset that is there",
            f"name it: {Option.PARENT.to('DIR')}",
        )
    parent = Parent.read(options.parent)
    return resolve(appended(parent, config, parse_day(options.append)), place, prepared=True), parent


def check_before(what: str, options: Options) -> None:
    """Run the checks of `prepare` that need no raw file to be opened; a remote source is not looked up.

    Raises:
        UserError: The configuration, the engine or the parent is not usable, a raw file does not exist, or the scheme
            of an address is unknown.
    """
    config, place, files = read_recipe(what, options.overrides)
    check_engine(options.engine)
    resolved, _ = planned(config, place, options)
    source = options.source
    if source is not None and is_address(source):
        location(source)
        return
    if files is from_files:
        find_all(place, {"log": resolved.config.log, **resolved.config.sides}, "." if source is None else source)
    elif source is not None and not Path(source).exists():
        raise UserError(
            Option.SOURCE, f"no {source} in {Path.cwd()}", "it is where the raw files are", "give their folder"
        )


def check_engine(name: EngineName) -> None:
    """Check that an engine can run on this machine.

    Raises:
        UserError: PySpark or Java is missing.
    """
    if name == "spark" and (lacks := spark_lacks()):
        raise UserError(f"{Option.ENGINE} spark", lacks[0], "Spark is PySpark and a Java that runs it", lacks[1])


@contextmanager
def open_engine(options: Options, work: Path) -> Iterator[Engine]:
    """Open the engine that the options name."""
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


def find_recipe(what: str) -> Path:
    """Return the file of a recipe, or the TOML file itself.

    Args:
        what: Name of a recipe, or path of a TOML file.

    Raises:
        UserError: The name is neither a recipe nor a path.
    """
    known = recipe_names()
    if what in known:
        return Path(str(RECIPES / f"{what}.toml"))
    if what.endswith(".toml") or "/" in what:
        return Path(what)
    fix = did_you_mean(what, known) or "name one of them, or a TOML file"
    raise UserError("prep", f"unknown data set {what!r}", f"known are {', '.join(known)}", fix)


def recipe_names() -> list[str]:
    """Return the names of the recipes of the package."""
    return sorted(file.name.removesuffix(".toml") for file in RECIPES.iterdir() if file.name.endswith(".toml"))
