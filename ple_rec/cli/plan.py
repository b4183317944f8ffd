"""`ple-rec plan`."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch, show
from ple_rec.cli.options import Config, Set, each, flag, place, positive, verb
from ple_rec.config.choices import DEVICES, DeviceName, current_preset_name
from ple_rec.errors import UserError
from ple_rec.storage import Location, location
from ple_rec.text.units import parse_count

if TYPE_CHECKING:
    from ple_rec.config.cluster import Cluster
    from ple_rec.config.run import RunConfig

logger = logging.getLogger(__name__)

_DOES_NOT_FIT = 2

app = verb(
    "plan",
    """\
examples:
  ple-rec plan --config tencent-ple --hosts 8 --gpus-per-host 8 --device h100 --out plan.json
  ple-rec plan --config tencent-ple --hosts 2 --ranks-per-host 4 --device cpu --set embeddings.sharding=row_wise
  ple-rec plan --config tencent-ple --device a100-80 --set embeddings.dim=512 --find
  ple-rec plan --config tencent-ple --device h100 --find --samples-per-second 50e6
  ple-rec plan --config tencent-ple --device h100 --rows user_id=300e6 --samples 5e9
  ple-rec plan --compare a.json b.json
  ple-rec train --config tencent-ple --plan plan.json

docs/planning.md explains every figure.
""",
    usage="ple-rec plan {--config FILE|NAME | --compare A B} [OPTIONS]",
)


def _number(text: str) -> float:
    value = parse_count(text)
    if value is None:
        raise ValueError(f"got {text!r}; a number above 0 reads 20e6 or 20M")
    return value


def _count(text: str) -> int:
    value = round(_number(text))
    if value < 1:
        raise ValueError(f"got {text!r}; expected 1 or more")
    return value


def _table_rows(text: str) -> tuple[str, int]:
    table, _, rows = text.partition("=")
    if not table or not rows:
        raise ValueError(f"got {text!r}; rows read TABLE=N, e.g. user_id=300e6")
    return table, _count(rows)


def _device(text: str) -> DeviceName:
    name: DeviceName = current_preset_name(text)
    if name not in DEVICES:
        raise ValueError(f"got {text!r}; known: {', '.join(DEVICES)}")
    return name


@Parameter(name="*")
@dataclass(frozen=True)
class PlanFlags:
    """Flags of `ple-rec plan`."""

    _: KW_ONLY
    config: Config = None
    overrides: Set = ()
    hosts: Annotated[int | None, flag("number of hosts; default 1", "N", positive)] = None
    ranks_per_host: Annotated[
        int | None,
        flag(
            "ranks of each host, one per GPU; default 8, and 1 on CPUs",
            "N",
            positive,
            name=("--gpus-per-host", "--ranks-per-host"),
        ),
    ] = None
    device: Annotated[
        DeviceName | None,
        flag("kind of the hosts; for another kind take the nearest, and set its figures in [topology]", "", _device),
    ] = None
    schema: Annotated[
        str | None,
        flag(
            "source of the tables' rows: a schema.toml, or tencent; default: dataset directory, else data.described_by",
            "FILE|NAME",
        ),
    ] = None
    rows: Annotated[
        tuple[tuple[str, int], ...],
        flag(
            "rows of a table, instead of those of the schema, e.g. user_id=300e6 (repeatable)",
            "TABLE=N",
            converter=each(_table_rows),
            n_tokens=1,
        ),
    ] = ()
    samples: Annotated[
        int | None, flag("samples of an epoch, instead of those of the schema, e.g. 5e9", "N", _count)
    ] = None
    out: Annotated[Location | None, place("plan.json to write, with plan.html beside it", "FILE")] = None
    find: Annotated[bool, flag("find the least number of hosts on which the tables fit")] = False
    samples_per_second: Annotated[
        float | None, flag("with --find: rate that the hosts must reach, e.g. 20e6", "N", _number)
    ] = None
    all: Annotated[bool, flag("print every table and every rank")] = False
    roofline: Annotated[bool, flag("also print the lower bound of a step on GPUs at their peaks: FLOPs, bytes")] = False
    json: Annotated[bool, flag("print the plan as JSON instead of tables")] = False
    compare: Annotated[
        tuple[Location, Location] | None,
        flag("print the differences of two plans, then stop", "A B", converter=each(location), accepts_keys=False),
    ] = None


@app.default
def plan(*, options: PlanFlags = PlanFlags()) -> int:
    """Plan which rank holds which rows of which table.

    TorchRec's planner and cost model run without the hosts and without a GPU. Prints tables, ranks and the estimated
    step; writes plan.json and its page. If the tables do not fit, prints which limit is exceeded, and up to three
    changes that were tried and fit.
    """
    if options.compare is not None:
        return _compare(options, options.compare)
    config, cluster = check(options=options)
    require_torch()
    from ple_rec.text.messages import messages

    with messages("stderr" if options.json else "stdout"):
        return _plan(config, cluster, options)


def _plan(config: RunConfig, cluster: Cluster, options: PlanFlags) -> int:
    """Print and write the plan, or print why it does not fit, and return the exit code."""
    from ple_rec.config.plan import dump_plan
    from ple_rec.distributed.capacity import DoesNotFitError
    from ple_rec.planning.plan_input import describe
    from ple_rec.planning.roofline import format_roofline, roofline
    from ple_rec.planning.run import find_hosts, plan_hosts, watch_planner, write_plan
    from ple_rec.planning.suggestions import describe_suggestions, suggestions
    from ple_rec.planning.text import format_plan
    from ple_rec.planning.workload import workload_of
    from ple_rec.text.messages import messages

    rows = dict(options.rows)
    described = describe(config, options.schema).with_sizes(rows, options.samples)
    try:
        if options.find:
            plan = find_hosts(config, described, cluster, options.samples_per_second)
        else:
            plan = plan_hosts(config, described, cluster)
    except DoesNotFitError as error:
        log(f"ple-rec: {error}")
        with messages("stderr"), watch_planner(cluster) as watch:
            ways = suggestions(config, described, cluster, watch)
        logger.info(describe_suggestions(ways))
        return _DOES_NOT_FIT
    if options.json:
        show(dump_plan(plan).removesuffix("\n"))
    else:
        show(format_plan(plan, config, everything=options.all))
        if rows:
            capacities = ", ".join(f"tables.{name}.capacity = {count}" for name, count in rows.items())
            show(f"\nto train with so many rows, prepare the dataset with {capacities} in its prep.toml")
    if options.roofline:
        peak = roofline(workload_of(config, described, plan.cluster), plan.cluster, plan.batch_size_per_rank)
        show(f"\n{format_roofline(peak)}")
    if options.out is not None:
        page = write_plan(plan, config.name, options.out)
        logger.info(f"\nplan: {options.out}\npage: {page}")
    return 0


def check(*, options: PlanFlags) -> tuple[RunConfig, Cluster]:
    """Return the run and the hosts to plan for, without torch.

    Raises:
        UserError: Flags exclude each other, the configuration is wrong, or the file cannot be written.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.config.words import either
    from ple_rec.planning.options import check_out, cluster_from

    if options.config is None:
        fix = "give one, e.g. --config tencent-ple"
        raise UserError("--config", "missing", "it names a TOML file or a recipe", fix)
    if options.samples_per_second is not None and not options.find:
        raise UserError(
            "--samples-per-second",
            f"{options.samples_per_second:g} without --find",
            "it is what --find is to reach",
            "add --find, or leave it out; a plan says its rate",
        )
    if options.roofline and options.json:
        raise UserError("--roofline", "with --json", "it is text beside the plan's tables", "leave one of them out")
    if options.find and options.hosts is not None:
        raise UserError(
            "--find", f"with --hosts {options.hosts}", "it looks for the number of hosts", "leave out --hosts"
        )
    config = load_config(RunConfig, options.config, options.overrides)
    cluster = cluster_from(config, options.config, options.hosts or 1, options.ranks_per_host, options.device)
    if options.roofline and not cluster.cuda:
        raise UserError(
            "--roofline",
            f"for {cluster.describe()}",
            "it is of GPUs",
            f"give --device {either([device for device in DEVICES if device != 'cpu'])}, or leave it out",
        )
    if options.out is not None:
        check_out(options.out)
    return config, cluster


def _compare(options: PlanFlags, plans: tuple[Location, Location]) -> int:
    from ple_rec.config.plan import load_plan
    from ple_rec.planning.compare import format_comparison

    names = ("config", "device", "hosts", "out", "find", "all", "roofline", "json", "schema", "rows", "samples")
    flags = {f"--{name}": getattr(options, name) for name in names}
    flags |= {"--set": options.overrides, "--gpus-per-host": options.ranks_per_host}
    flags |= {"--samples-per-second": options.samples_per_second}
    if odd := [flag for flag, value in flags.items() if value]:
        raise UserError(
            f"--compare {odd[0]}", "both given", "--compare reads two plans and says how they differ", "leave one out"
        )
    a, b = plans
    show(format_comparison(load_plan(a), load_plan(b), (str(a), str(b))))
    return 0
