"""`ple-rec plan`: flags, input checks and output; `ple_rec.planning` plans the placement of tables."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch, show
from ple_rec.cli.options import ConfigSource, OverrideFlags, flag, location_flag, parse_each, positive_int, verb_app
from ple_rec.config.choices import DEVICES, DeviceName, current_preset_name
from ple_rec.errors import UserError
from ple_rec.storage import Location, location
from ple_rec.text.units import parse_count

if TYPE_CHECKING:
    from ple_rec.config.calibration import Calibration
    from ple_rec.config.cluster import Cluster
    from ple_rec.config.run import RunConfig

logger = logging.getLogger(__name__)

_DOES_NOT_FIT = 2  # Exit code; the same as for wrong input.

app = verb_app(
    "plan",
    """\
examples:
  ple-rec plan --config tencent-ple --hosts 8 --gpus-per-host 8 --device h100 --out plan.json
  ple-rec plan --config tencent-ple --hosts 2 --ranks-per-host 4 --device cpu --set embeddings.sharding=row_wise
  ple-rec plan --config tencent-ple --device a100-80 --set embeddings.dim=512 --find
  ple-rec plan --config tencent-ple --device h100 --find --samples-per-second 50e6
  ple-rec plan --config tencent-ple --device h100 --rows user_id=300e6 --samples 5e9
  ple-rec plan --config tencent-ple --device h100 --calibration runs/gpu-smoke/calibration.json
  ple-rec plan --compare a.json b.json
  ple-rec train --config tencent-ple --plan plan.json

docs/planning.md explains every figure.
""",
    usage="ple-rec plan {--config FILE|NAME | --compare A B} [OPTIONS]",
)


def _parse_positive_number(text: str) -> float:
    value = parse_count(text)
    if value is None:
        raise ValueError(f"got {text!r}; expected a number above 0, e.g. 20e6 or 20M")
    return value


def _parse_whole_number(text: str) -> int:
    value = round(_parse_positive_number(text))
    if value < 1:
        raise ValueError(f"got {text!r}; expected 1 or more")
    return value


def _parse_table_rows(text: str) -> tuple[str, int]:
    table, _, rows = text.partition("=")
    if not table or not rows:
        raise ValueError(f"got {text!r}; expected TABLE=N, e.g. user_id=300e6")
    return table, _parse_whole_number(rows)


def _parse_device(text: str) -> DeviceName:
    name: DeviceName = current_preset_name(text)
    if name not in DEVICES:
        raise ValueError(f"got {text!r}; known: {', '.join(DEVICES)}")
    return name


@Parameter(name="*")
@dataclass(frozen=True)
class PlanFlags:
    """Flags of `ple-rec plan`."""

    _: KW_ONLY
    config: ConfigSource = None
    overrides: OverrideFlags = ()
    hosts: Annotated[int | None, flag("number of hosts; default 1", "N", positive_int)] = None
    ranks_per_host: Annotated[
        int | None,
        flag(
            "ranks of each host, one per GPU; default 8, and 1 on CPUs",
            "N",
            positive_int,
            name=("--gpus-per-host", "--ranks-per-host"),
        ),
    ] = None
    device: Annotated[
        DeviceName | None,
        flag(
            "kind of the hosts; if yours is not listed, give the nearest, and set its figures in [topology]",
            "",
            _parse_device,
        ),
    ] = None
    schema: Annotated[
        str | None,
        flag(
            "source of the numbers of rows and samples: a schema.toml, or tencent; default: dataset directory, "
            "else data.described_by",
            "FILE|NAME",
        ),
    ] = None
    rows: Annotated[
        tuple[tuple[str, int], ...],
        flag(
            "number of rows of a table, instead of that of the schema, e.g. user_id=300e6 (repeatable)",
            "TABLE=N",
            converter=parse_each(_parse_table_rows),
            n_tokens=1,
        ),
    ] = ()
    samples: Annotated[
        int | None,
        flag("number of samples of an epoch, instead of that of the schema, e.g. 5e9", "N", _parse_whole_number),
    ] = None
    calibration: Annotated[
        Location | None,
        location_flag(
            "measurements of such a host, by `python -m benchmarks.calibrate`, in place of assumed figures", "FILE"
        ),
    ] = None
    out: Annotated[Location | None, location_flag("plan.json to write, with plan.html beside it", "FILE")] = None
    find: Annotated[bool, flag("find the least number of hosts on which the tables fit")] = False
    samples_per_second: Annotated[
        float | None, flag("with --find: rate that the hosts must reach, e.g. 20e6", "N", _parse_positive_number)
    ] = None
    all: Annotated[bool, flag("print every table and every rank")] = False
    roofline: Annotated[bool, flag("also print the lower bound of a step on GPUs at their peaks: FLOPs, bytes")] = False
    json: Annotated[bool, flag("print the plan as JSON instead of tables")] = False
    compare: Annotated[
        tuple[Location, Location] | None,
        flag(
            "print the differences of two plans, then stop", "A B", converter=parse_each(location), accepts_keys=False
        ),
    ] = None


@app.default
def plan(*, options: PlanFlags = PlanFlags()) -> int:
    """Plan which rank holds which rows of which table.

    TorchRec's planner and cost model run without the hosts and without a GPU. Prints tables, ranks and the estimated
    time of a step; with --out, also writes plan.json and a page. If the tables do not fit, prints which limit is
    exceeded, and up to three changes that were tried and fit.
    """
    if options.compare is not None:
        return _compare_plans(options, options.compare)
    config, cluster, calibration = check(options=options)
    require_torch()
    from ple_rec.text.messages import print_messages

    # Messages of the log go to stdout too, unless it is for the JSON alone.
    with print_messages("stderr" if options.json else "stdout"):
        return _run_plan(config, cluster, calibration, options)


def _run_plan(config: RunConfig, cluster: Cluster, calibration: Calibration | None, options: PlanFlags) -> int:
    """Print the plan, and write it with `--out`, or print why the tables do not fit; return the exit code."""
    from ple_rec.config.plan import dump_plan
    from ple_rec.distributed.capacity import DoesNotFitError
    from ple_rec.planning.calibrate import calibrated
    from ple_rec.planning.plan_input import describe_dataset
    from ple_rec.planning.roofline import format_roofline, roofline
    from ple_rec.planning.run import find_hosts, plan_hosts, watch_planner, write_plan
    from ple_rec.planning.suggestions import describe_suggestions, suggestions
    from ple_rec.planning.text import format_plan
    from ple_rec.planning.workload import sample_work
    from ple_rec.text.messages import print_messages

    if calibration is not None:
        cluster = calibrated(cluster, calibration, str(options.calibration), config.topology)
    rows_by_table = dict(options.rows)
    described = describe_dataset(config, options.schema).with_sizes(rows_by_table, options.samples)
    try:
        if options.find:
            plan = find_hosts(config, described, cluster, options.samples_per_second)
        else:
            plan = plan_hosts(config, described, cluster)
    except DoesNotFitError as error:
        log(f"ple-rec: {error}")
        # The progress of the search goes to stderr, as the error does.
        with print_messages("stderr"), watch_planner(cluster) as watch:
            fitting_changes = suggestions(config, described, cluster, watch)
        logger.info(describe_suggestions(fitting_changes))
        return _DOES_NOT_FIT
    if options.json:
        show(dump_plan(plan).removesuffix("\n"))
    else:
        show(format_plan(plan, config, show_all=options.all))
        if rows_by_table:
            capacities = ", ".join(f"tables.{name}.capacity = {count}" for name, count in rows_by_table.items())
            show(f"\nto train with so many rows, prepare the dataset with {capacities} in its prep.toml")
    if options.roofline:
        peak = roofline(sample_work(config, described, plan.cluster), plan.cluster, plan.batch_size_per_rank)
        show(f"\n{format_roofline(peak)}")
    if options.out is not None:
        page = write_plan(plan, config.name, options.out)
        logger.info(f"\nplan: {options.out}\npage: {page}")
    return 0


def check(*, options: PlanFlags) -> tuple[RunConfig, Cluster, Calibration | None]:
    """Check the flags without torch, and return the configuration, the hosts to plan for, and their measurements.

    Raises:
        UserError: Flags exclude each other, the configuration is wrong, the file of `--calibration` cannot be used, or
            the file of `--out` cannot be written.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.config.words import join_or
    from ple_rec.planning.options import check_output, cluster_from, read_calibration

    if options.config is None:
        fix = "give one, e.g. --config tencent-ple"
        raise UserError("--config", "missing", "it names a TOML file or a recipe", fix)
    if options.samples_per_second is not None and not options.find:
        raise UserError(
            "--samples-per-second",
            f"{options.samples_per_second:g} without --find",
            "it is the rate that the hosts of --find must reach",
            "add --find, or leave it out; every plan shows its own rate",
        )
    if options.roofline and options.json:
        raise UserError("--roofline", "with --json", "it adds text to the plan's tables", "leave one of them out")
    if options.find and options.hosts is not None:
        raise UserError(
            "--find", f"with --hosts {options.hosts}", "it searches for the number of hosts", "leave out --hosts"
        )
    config = load_config(RunConfig, options.config, options.overrides)
    cluster = cluster_from(config, options.config, options.hosts or 1, options.ranks_per_host, options.device)
    if options.roofline and not cluster.cuda:
        raise UserError(
            "--roofline",
            f"for {cluster.describe()}",
            "it is the lower bound of a step on GPUs",
            f"give --device {join_or([device for device in DEVICES if device != 'cpu'])}, or leave it out",
        )
    calibration = None if options.calibration is None else read_calibration(options.calibration, cluster)
    if options.out is not None:
        check_output(options.out)
    return config, cluster, calibration


def _compare_plans(options: PlanFlags, plans: tuple[Location, Location]) -> int:
    from ple_rec.config.plan import load_plan
    from ple_rec.planning.compare import format_comparison

    names = (
        "config",
        "device",
        "hosts",
        "calibration",
        "out",
        "find",
        "all",
        "roofline",
        "json",
        "schema",
        "rows",
        "samples",
    )
    flags = {f"--{name}": getattr(options, name) for name in names}
    flags |= {"--set": options.overrides, "--gpus-per-host": options.ranks_per_host}
    flags |= {"--samples-per-second": options.samples_per_second}
    if excluded := [flag for flag, value in flags.items() if value]:
        raise UserError(
            f"--compare {excluded[0]}",
            "both given",
            "--compare only reads two plans and prints how they differ",
            "leave one out",
        )
    a, b = plans
    show(format_comparison(load_plan(a), load_plan(b), (str(a), str(b))))
    return 0
