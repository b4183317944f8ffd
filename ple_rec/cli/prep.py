"""`ple-rec prep`."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from ple_rec.cli.console import show
from ple_rec.cli.options import HelpConfig, Set, flag, integer, place, size, verb
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.text.suggest import nearest

if TYPE_CHECKING:
    from data_prep.run import Options as FileOptions

SYNTHETIC = ("tencent-synthetic", "mmoe-synthetic")
LEAST_MEMORY = 64 << 20  # Bytes with which the engine can prepare small logs.
_SYNTHETIC_FLAGS = ("rows", "seed", "correlation", "dim", "raw")
_OF_SYNTHETIC = Group("synthetic data sets", sort_key=2)

app = verb(
    "prep",
    """\
data sets by name:
  census             Census-Income (KDD); fetched unless --from is given
  kuairand           KuaiRand feed logs: --from the folder of the public files
  ali-ccp            Ali-CCP: --from the folder of sample_skeleton_*.csv and common_features_*.csv
  tencent-synthetic  the paper's world: 46.9 M users, 2.7 M videos, 995 M rows of 8 days, or --rows fewer
  mmoe-synthetic     two regressions of a chosen --correlation (the MMoE paper's process)
or a TOML file of your own; `ple-rec prep --help-config` lists its keys and the functions of its expressions.

examples:
  ple-rec prep feed.toml --from logs/ --out data/feed --dry-run
  ple-rec prep feed.toml --from logs/ --out data/feed --memory 8GiB
  ple-rec prep feed.toml --from s3://logs/feed --out s3://data/feed
  ple-rec prep feed.toml --from /shared/logs --out /shared/feed --engine spark --master spark://host:7077
  ple-rec prep feed.toml --from logs/ --out data/feed-9 --append day=9 --parent data/feed
""",
    usage="ple-rec prep NAME|FILE --out DIR [OPTIONS]",
)


def _memory(text: str) -> int:
    bytes_ = size(text)
    if bytes_ < LEAST_MEMORY:
        hint = f"; did you mean {text}GiB?" if text.isdigit() else ""
        raise ValueError(f"got {text!r}; at least 64MiB is needed{hint}")
    return bytes_


def _count(text: str) -> int:
    try:
        value = float(text) if re.fullmatch(r"\d+(\.\d+)?[eE]\d+", text) else int(text.replace("_", ""))
        count = int(value)
    except (ValueError, OverflowError):  # 1e400 is infinite.
        value = count = 0
    if count < 1 or value != count:
        raise ValueError(f"got {text!r}; expected a positive int")
    return count


@Parameter(name="*")
@dataclass(frozen=True)
class PrepFlags:
    """Flags of `ple-rec prep`."""

    _: KW_ONLY
    source: Annotated[
        str | None, flag("raw files: a folder, a file or s3://...; default: here", "DIR", name="--from")
    ] = None
    out: Annotated[
        Location | None,
        place(
            "dataset directory to write; for an address (s3://...) it is built in the cache first, ~/.cache/ple_rec or "
            "$PLE_REC_CACHE, which needs room for the raw files and the engine's temporary files",
            "DIR",
        ),
    ] = None
    overwrite: Annotated[bool, flag("replace an existing dataset")] = False
    dry_run: Annotated[bool, flag("read schemas and a sample, print what would be done, then stop")] = False
    append: Annotated[
        str | None, flag("prepare one more day, day=9 or day=2022-05-08, with the ids of --parent", "DAY")
    ] = None
    parent: Annotated[Location | None, place("dataset directory whose ids --append keeps", "DIR")] = None
    engine: Annotated[Literal["duckdb", "spark"], flag("engine; default: duckdb, in this process")] = "duckdb"
    master: Annotated[str | None, flag("address of Spark; default: a local one", "URL")] = None
    memory: Annotated[
        int | None, flag("approximate memory to use, e.g. 4GiB; default: most of it", "SIZE", _memory)
    ] = None
    threads: Annotated[int | None, flag("number of threads; default: all cores", "N", _count)] = None
    overrides: Annotated[
        Set, flag("override a key of the configuration, e.g. on_bad_row=drop, 'log.files=[\"a\"]' (repeatable)")
    ] = ()
    help_config: HelpConfig = False
    rows: Annotated[
        int | None, flag("rows of all splits together; default: the paper's", "N", _count, group=_OF_SYNTHETIC)
    ] = None
    seed: Annotated[int | None, flag("seed of the world; default 0", "N", integer, group=_OF_SYNTHETIC)] = None
    correlation: Annotated[
        float | None, flag("correlation of mmoe-synthetic's tasks; default 0.5", "P", group=_OF_SYNTHETIC)
    ] = None
    dim: Annotated[int | None, flag("inputs of mmoe-synthetic; default 512", "N", _count, group=_OF_SYNTHETIC)] = None
    raw: Annotated[
        bool, flag("tencent-synthetic: write raw logs to --out, for the recipe tencent", group=_OF_SYNTHETIC)
    ] = False


_Name = Annotated[str | None, flag("name of a data set, or a TOML file", name="NAME|FILE")]


@app.default
def prep(name: _Name = None, /, *, options: PrepFlags = PrepFlags()) -> int:
    """Turn raw logs into a dataset directory."""
    from ple_rec.text.messages import messages

    if options.help_config:
        show(_help_config())
        return 0
    name = _check_words(name, options)
    with messages("stderr"):
        if name in SYNTHETIC:
            show(_synthetic(name, options))
            return 0
        return _files(name, options)


def check(name: str | None = None, /, *, options: PrepFlags) -> None:
    """Refuse input that the verb would refuse before it opens a raw file.

    Raises:
        UserError: Flags, name, configuration, engine or parent are wrong, or raw files do not exist.
    """
    name = _check_words(name, options)
    if name in SYNTHETIC:
        _check_synthetic(name, options)
        return
    from data_prep.run import check_before

    check_before(name, _file_options(name, options))


def _check_words(name: str | None, options: PrepFlags) -> str:
    """Return the name of the data set; refuse a command line without it or without `--out`."""
    if name is not None and name not in SYNTHETIC:
        _check_name(name)
    missing = [] if name is not None else ["NAME|FILE"]
    if options.out is None and not options.dry_run:
        missing.append("--out")
    if name is None or missing:
        rule = "it needs both" if len(missing) == 2 else "it needs one"
        raise UserError("ple-rec prep", f"{' and '.join(missing)} missing", rule, "see `ple-rec prep --help`")
    return name


def _present(options: PrepFlags, names: Sequence[str]) -> str:
    """Return the flags among some that are on the command line: `--from, --set`."""
    flags = {"source": "--from", "overrides": "--set", "dry_run": "--dry-run"}
    values = {name: getattr(options, name) for name in names}
    present = [name for name, value in values.items() if value is not None and value is not False and value != ()]
    return ", ".join(flags.get(name, f"--{name}") for name in present)


def _file_options(name: str, options: PrepFlags) -> FileOptions:
    from data_prep.run import Options as FileOptions

    if present := _present(options, _SYNTHETIC_FLAGS):
        raise UserError(f"ple-rec prep {name}", f"got {present}", "synthetic data sets take them", "drop it")
    file_options = FileOptions(
        source=options.source,
        overwrite=options.overwrite,
        engine=options.engine,
        master=options.master,
        memory=options.memory,
        threads=options.threads,
        append=options.append,
        parent=options.parent,
        overrides=options.overrides,
    )
    file_options.check()
    return file_options


def _files(name: str, options: PrepFlags) -> int:
    from data_prep.progress import standard
    from data_prep.run import prepare

    file_options = _file_options(name, options)
    if options.dry_run:
        from data_prep.dry_run import dry_run

        rehearsal = dry_run(name, options.out, file_options, progress=standard())
        show(str(rehearsal))
        return DataError.exit_code if rehearsal.refused else 0
    out = _out(options)
    with _ending_on_sigterm(out):
        show(str(prepare(name, out, file_options, progress=standard())))
    return 0


@contextmanager
def _ending_on_sigterm(out: Location) -> Iterator[None]:
    """Handle SIGTERM in the block as Ctrl-C: partial files are removed, and a message says how to go on."""
    from data_prep.output.stage import keeps

    def stop(number: int, frame: FrameType | None) -> None:
        # Python drops an exception in a finaliser, and the run would go on, so the signal is sent again after it.
        if any(outer.f_code.co_name == "__del__" for outer, _ in walk_stack(frame)):
            timer = threading.Timer(0.01, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
            return
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        name = signal.Signals(number).name
        outcome = "the same command goes on from what is finished" if keeps(out) else "nothing was finished"
        sys.stderr.write(f"ple-rec: stopped by {name}; {outcome}\n")
        raise SystemExit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_name(name: str) -> None:
    """Refuse a name that is neither a data set nor a file, with a suggestion."""
    from data_prep.run import recipe_names

    known = sorted((*recipe_names(), *SYNTHETIC))
    if name in known or Path(name).is_file():
        return
    is_path = name.endswith(".toml") or "/" in name
    value = f"no such file in {Path.cwd()}" if is_path and not Path(name).is_absolute() else "no such file"
    if Path(f"{name}.toml").is_file():
        near: str | None = f"{name}.toml"
    elif is_path:
        neighbours = sorted(file.name for file in Path(name).parent.glob("*.toml"))
        nearest_file = nearest(Path(name).name, neighbours)
        near = None if nearest_file is None else str(Path(name).with_name(nearest_file))
    else:
        near = nearest(name, known)
    fix = f"did you mean {near!r}?" if near else "name one of them, or the path of a TOML file of your own"
    raise UserError(
        name if is_path else "prep",
        value if is_path else f"unknown data set {name!r}",
        f"{'it is a TOML file, or one of' if is_path else 'known are'} {', '.join(known)}",
        fix,
    )


def _check_synthetic(name: str, options: PrepFlags) -> None:
    if present := _present(options, ["source", "append", "parent", "master", "overrides"]):
        raise UserError(f"ple-rec prep {name}", f"got {present}", "it is generated, not read", "drop it")
    if options.engine == "spark":
        raise UserError(f"ple-rec prep {name}", "got --engine spark", "it is generated on one machine", "drop it")
    if name != SYNTHETIC[1] and (present := _present(options, ["correlation", "dim"])):
        raise UserError(present, name, f"only {SYNTHETIC[1]} has one", "drop it")


def _out(options: PrepFlags) -> Location:
    """Return `--out`, which `_check_words` requires."""
    assert options.out is not None
    return options.out


def _synthetic(name: str, options: PrepFlags) -> str:
    from data_prep.progress import standard
    from data_prep.synthetic.outcomes import describe
    from data_prep.synthetic.prepare import prepare_synthetic

    _check_synthetic(name, options)
    if options.raw:
        return _raw(name, options)
    world: dict[str, Any] = {
        "rows": options.rows,
        "seed": options.seed or 0,
        "correlation": options.correlation,
        "dim": options.dim,
    }
    if options.dry_run:
        from data_prep.dry_run import dry_run_synthetic

        return str(dry_run_synthetic(name, **world))
    progress = standard(name)

    def reach(done: int, total: int) -> None:
        progress.reach(done, total)
        if done == total:
            progress.phase("describe")

    with progress.running({"generate": 4.0, "describe": 1.0}, 0):
        progress.phase("generate")
        summary = prepare_synthetic(
            name,
            _out(options),
            **world,
            overwrite=options.overwrite,
            processes=_processes(options),
            memory=options.memory,
            progress=reach,
        )
    last = f"  best reachable on test: {describe(summary.stats['reachable']['test'])}"
    if name == SYNTHETIC[1]:
        last += f"; correlation of the labels {summary.stats['correlation']['test'][0]['r']:.4f}"
    return f"{summary}\n{last}"


def _raw(name: str, options: PrepFlags) -> str:
    from data_prep.progress import standard
    from data_prep.synthetic.tencent import write_raw
    from data_prep.synthetic.world import PAPER_ROWS

    if name != SYNTHETIC[0]:
        raise UserError("--raw", name, f"only {SYNTHETIC[0]} has raw logs", "drop it")
    if present := _present(options, ["overwrite", "memory", "dry_run"]):
        raise UserError("--raw", f"got {present}", "raw logs are written a block at a time, over nothing", "drop it")
    progress = standard(name)
    out, rows = _out(options), PAPER_ROWS if options.rows is None else options.rows
    if not isinstance(out, Path):
        raise UserError("--out", str(out), "raw logs are written to this machine", "name a folder, and copy it")
    with progress.running({"generate": 1.0}, rows):
        progress.phase("generate")
        files = write_raw(out, rows, options.seed or 0, processes=_processes(options), progress=progress.advance)
    return f"{out}: {rows:,} rows in {len(files)} files; next: ple-rec prep tencent --from {out} --out DIR"


def _processes(options: PrepFlags) -> int:
    return options.threads or len(os.sched_getaffinity(0))


def _help_config() -> str:
    from data_prep.expressions import describe as functions
    from ple_rec.config.describe import describe
    from ple_rec.config.prep import PrepConfig

    return f"{describe(PrepConfig)}\n\nexpressions\n{functions()}"
