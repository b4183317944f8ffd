"""`ple-rec prep`: flags, input checks and output; `data_prep` makes datasets from raw logs, and synthetic ones."""

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
from ple_rec.cli.options import HelpConfig, OverrideFlags, any_int, byte_size, flag, location_flag, verb_app
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.text.suggest import nearest_name

if TYPE_CHECKING:
    from data_prep.run import Options as FileOptions

_TENCENT, _MMOE = SYNTHETIC = ("tencent-synthetic", "mmoe-synthetic")
LEAST_MEMORY = 64 << 20  # Bytes; enough for the engine to prepare small logs.
_SYNTHETIC_FLAGS = ("rows", "seed", "correlation", "dim", "raw")
_SYNTHETIC_GROUP = Group("synthetic data sets", sort_key=2)

app = verb_app(
    "prep",
    """\
data sets by name:
  census             Census-Income (KDD); fetched unless --from is given
  kuairand           KuaiRand feed logs: --from the folder of the public files
  ali-ccp            Ali-CCP: --from the folder of sample_skeleton_*.csv and common_features_*.csv
  tencent-synthetic  data of the paper's size (46.9 M users, 2.7 M videos, 995 M rows of 8 days), or of --rows
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


def _parse_memory(text: str) -> int:
    size = byte_size(text)
    if size < LEAST_MEMORY:
        hint = f"; did you mean {text}GiB?" if text.isdigit() else ""
        raise ValueError(f"got {text!r}; at least 64MiB is needed{hint}")
    return size


def _parse_count(text: str) -> int:
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
        location_flag(
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
    parent: Annotated[Location | None, location_flag("dataset directory whose ids --append keeps", "DIR")] = None
    engine: Annotated[
        Literal["duckdb", "spark"], flag("engine that reads and joins the logs; default: duckdb, in this process")
    ] = "duckdb"
    master: Annotated[str | None, flag("address of a Spark cluster; default: Spark on this machine", "URL")] = None
    memory: Annotated[
        int | None, flag("approximate memory to use, e.g. 4GiB; default: most of it", "SIZE", _parse_memory)
    ] = None
    threads: Annotated[int | None, flag("number of threads; default: all cores", "N", _parse_count)] = None
    overrides: Annotated[
        OverrideFlags,
        flag("override a key of the configuration, e.g. on_bad_row=drop, 'log.files=[\"a\"]' (repeatable)"),
    ] = ()
    help_config: HelpConfig = False
    rows: Annotated[
        int | None, flag("rows of all splits together; default: the paper's", "N", _parse_count, group=_SYNTHETIC_GROUP)
    ] = None
    seed: Annotated[int | None, flag("seed of synthetic data; default 0", "N", any_int, group=_SYNTHETIC_GROUP)] = None
    correlation: Annotated[
        float | None, flag("correlation of mmoe-synthetic's tasks; default 0.5", "P", group=_SYNTHETIC_GROUP)
    ] = None
    dim: Annotated[
        int | None, flag("inputs of mmoe-synthetic; default 512", "N", _parse_count, group=_SYNTHETIC_GROUP)
    ] = None
    raw: Annotated[
        bool, flag("tencent-synthetic: write raw logs to --out, for the recipe tencent", group=_SYNTHETIC_GROUP)
    ] = False


_DatasetName = Annotated[str | None, flag("name of a data set, or a TOML file", name="NAME|FILE")]


@app.default
def prep(name: _DatasetName = None, /, *, options: PrepFlags = PrepFlags()) -> int:
    """Turn raw logs into a dataset directory."""
    from ple_rec.text.messages import print_messages

    if options.help_config:
        show(_help_config_text())
        return 0
    name = _require_name_and_out(name, options)
    with print_messages("stderr"):
        if name in SYNTHETIC:
            show(_prepare_synthetic(name, options))
            return 0
        return _prepare_files(name, options)


def check(name: str | None = None, /, *, options: PrepFlags) -> None:
    """Refuse input that the verb would refuse before it opens a raw file.

    Raises:
        UserError: Flags, name, configuration, engine or parent are wrong, or raw files do not exist.
    """
    name = _require_name_and_out(name, options)
    if name in SYNTHETIC:
        _check_synthetic(name, options)
        return
    from data_prep.run import check_request

    check_request(name, _file_options(name, options))


def _require_name_and_out(name: str | None, options: PrepFlags) -> str:
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


def _given_flags(options: PrepFlags, names: Sequence[str]) -> str:
    """Return the flags among `names` that the command line gives, as text: `--from, --set`."""
    flags = {"source": "--from", "overrides": "--set", "dry_run": "--dry-run"}
    values = {name: getattr(options, name) for name in names}
    present_names = [name for name, value in values.items() if value is not None and value is not False and value != ()]
    return ", ".join(flags.get(name, f"--{name}") for name in present_names)


def _file_options(name: str, options: PrepFlags) -> FileOptions:
    from data_prep.run import Options as FileOptions

    if present := _given_flags(options, _SYNTHETIC_FLAGS):
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


def _prepare_files(name: str, options: PrepFlags) -> int:
    from data_prep.progress import stderr_progress
    from data_prep.run import prepare

    file_options = _file_options(name, options)
    if options.dry_run:
        from data_prep.dry_run import dry_run

        rehearsal = dry_run(name, options.out, file_options, progress=stderr_progress())
        show(str(rehearsal))
        return DataError.exit_code if rehearsal.refused else 0
    out = _required_out(options)
    with _ending_on_sigterm(out):
        show(str(prepare(name, out, file_options, progress=stderr_progress())))
    return 0


@contextmanager
def _ending_on_sigterm(out: Location) -> Iterator[None]:
    """End the block on SIGTERM as on Ctrl-C: print whether the same command can go on from what is finished, and exit.

    Raises:
        SystemExit: A signal ended the block; the exit code is 128 + its number.
    """
    from data_prep.output.stage import has_stage

    def stop(number: int, frame: FrameType | None) -> None:
        # Python ignores an exception in a finaliser, and the preparation would go on. So the signal is sent again, a
        # moment later.
        if any(outer.f_code.co_name == "__del__" for outer, _ in walk_stack(frame)):
            timer = threading.Timer(0.01, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
            return
        raise KeyboardInterrupt(number)

    previous_handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        name = signal.Signals(number).name
        outcome = "the same command goes on from what is finished" if has_stage(out) else "nothing was finished"
        sys.stderr.write(f"ple-rec: stopped by {name}; {outcome}\n")
        raise SystemExit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _check_name(name: str) -> None:
    """Refuse a name that is neither a data set nor a file; the error suggests a similar one."""
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
        nearest_file = nearest_name(Path(name).name, neighbours)
        near = None if nearest_file is None else str(Path(name).with_name(nearest_file))
    else:
        near = nearest_name(name, known)
    fix = f"did you mean {near!r}?" if near else "name one of them, or the path of a TOML file of your own"
    raise UserError(
        name if is_path else "prep",
        value if is_path else f"unknown data set {name!r}",
        f"{'it is a TOML file, or one of' if is_path else 'known are'} {', '.join(known)}",
        fix,
    )


def _check_synthetic(name: str, options: PrepFlags) -> None:
    if present := _given_flags(options, ["source", "append", "parent", "master", "overrides"]):
        raise UserError(f"ple-rec prep {name}", f"got {present}", "it is generated, not read", "drop it")
    if options.engine == "spark":
        raise UserError(f"ple-rec prep {name}", "got --engine spark", "it is generated on one machine", "drop it")
    if name != _MMOE and (present := _given_flags(options, ["correlation", "dim"])):
        raise UserError(present, name, f"only {_MMOE} has one", "drop it")


def _required_out(options: PrepFlags) -> Location:
    """Return `--out` of a command without `--dry-run`, for which `_require_name_and_out` requires it."""
    assert options.out is not None
    return options.out


def _prepare_synthetic(name: str, options: PrepFlags) -> str:
    from data_prep.progress import stderr_progress
    from data_prep.synthetic.outcomes import describe
    from data_prep.synthetic.prepare import prepare_synthetic

    _check_synthetic(name, options)
    if options.raw:
        return _write_raw_logs(name, options)
    data_options: dict[str, Any] = {
        "rows": options.rows,
        "seed": options.seed or 0,
        "correlation": options.correlation,
        "dim": options.dim,
    }
    if options.dry_run:
        from data_prep.dry_run import dry_run_synthetic

        return str(dry_run_synthetic(name, **data_options))
    progress = stderr_progress(name)

    def report_progress(done: int, total: int) -> None:
        progress.set_done(done, total)
        if done == total:
            progress.begin_phase("describe")

    with progress.running({"generate": 4.0, "describe": 1.0}, 0):  # Relative durations of the two phases.
        progress.begin_phase("generate")
        summary = prepare_synthetic(
            name,
            _required_out(options),
            **data_options,
            overwrite=options.overwrite,
            processes=_processes(options),
            memory=options.memory,
            progress=report_progress,
        )
    last_line = f"  best reachable on test: {describe(summary.stats['reachable']['test'])}"
    if name == _MMOE:
        last_line += f"; correlation of the labels {summary.stats['correlation']['test'][0]['r']:.4f}"
    return f"{summary}\n{last_line}"


def _write_raw_logs(name: str, options: PrepFlags) -> str:
    from data_prep.progress import stderr_progress
    from data_prep.synthetic.tencent import write_raw
    from data_prep.synthetic.world import PAPER_ROWS

    if name != _TENCENT:
        raise UserError("--raw", name, f"only {_TENCENT} has raw logs", "drop it")
    if present := _given_flags(options, ["overwrite", "memory", "dry_run"]):
        raise UserError("--raw", f"got {present}", "raw logs are written in blocks to a new folder", "drop it")
    progress = stderr_progress(name)
    out, rows = _required_out(options), PAPER_ROWS if options.rows is None else options.rows
    if not isinstance(out, Path):
        raise UserError("--out", str(out), "raw logs are written to this machine", "name a local folder, and copy it")
    with progress.running({"generate": 1.0}, rows):
        progress.begin_phase("generate")
        files = write_raw(out, rows, options.seed or 0, processes=_processes(options), progress=progress.advance)
    return f"{out}: {rows:,} rows in {len(files)} files; next: ple-rec prep tencent --from {out} --out DIR"


def _processes(options: PrepFlags) -> int:
    return options.threads or len(os.sched_getaffinity(0))


def _help_config_text() -> str:
    from data_prep.expressions import describe as describe_functions
    from ple_rec.config.describe import describe
    from ple_rec.config.prep import PrepConfig

    return f"{describe(PrepConfig)}\n\nexpressions\n{describe_functions()}"
