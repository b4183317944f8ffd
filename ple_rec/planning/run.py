"""`ple-rec plan`: plan, say it, write it; or say why it does not fit and what would."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ple_rec.config.cluster import Cluster
from ple_rec.config.load import with_values
from ple_rec.config.plan import FEWEST_SAMPLES, Plan, dump_plan
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.distributed.layouts import Watch
from ple_rec.distributed.process_group import quiet
from ple_rec.errors import Option, UserError
from ple_rec.planning.options import Options
from ple_rec.planning.plan_input import Described, describe, plan_run
from ple_rec.planning.roofline import format_roofline, roofline
from ple_rec.planning.smallest import most_hosts, smallest_hosts
from ple_rec.planning.suggestions import describe_ways, suggestions
from ple_rec.planning.text import format_plan, rate_text, tables_in_uvm_by_planner, uvm_text
from ple_rec.planning.workload import workload_of
from ple_rec.reports.page import write_document
from ple_rec.reports.plan.page import write_page
from ple_rec.storage import Location
from ple_rec.text.messages import messages
from ple_rec.text.progress import LINE_SECONDS, bar, print_line

logger = logging.getLogger(__name__)

_LONG = 64  # ranks past which the planner is watched
_DOES_NOT_FIT = 2


def plan(options: Options) -> int:
    """Plan a run; the exit code, 2 where it does not fit.

    Raises:
        UserError: configuration, dataset, cluster or file are not as they must be.
    """
    config, cluster = options.config, options.cluster
    described = described_run(options)
    try:
        found = made_plan(options, described)
    except DoesNotFitError as error:
        sys.stderr.write(f"ple-rec: {error}\n")
        with messages("stderr"), _watched(cluster) as watch:
            ways = suggestions(config, described, cluster, watch)
        logger.info(describe_ways(ways))
        return _DOES_NOT_FIT
    if options.json:
        sys.stdout.write(dump_plan(found))
    else:
        print_line(format_plan(found, config, everything=options.everything))
        if options.rows:
            capacities = ", ".join(f"tables.{name}.capacity = {rows}" for name, rows in options.rows.items())
            print_line(f"\nto train with so many rows, prepare the dataset with {capacities} in its prep.toml")
    if options.roofline:
        peak = roofline(workload_of(config, described, found.cluster), found.cluster, found.batch_size_per_rank)
        print_line(f"\n{format_roofline(peak)}")
    if options.out is not None:
        logger.info(f"\nplan: {options.out}\npage: {write_plan(found, config.name, options.out)}")
    return 0


def described_run(options: Options) -> Described:
    """Return the dataset to plan for, with the sizes that the options give it.

    Raises:
        UserError: there is neither a dataset nor a schema, or it has no such table.
    """
    return describe(options.config, options.schema).with_sizes(options.rows, options.samples)


def made_plan(options: Options, described: Described) -> Plan:
    """Return the plan of a run on its hosts, or with `find` on the fewest that do.

    Args:
        options: Run and hosts that are planned.
        described: Its dataset, as `described_run` returns it.

    Raises:
        DoesNotFitError: the tables do not fit these hosts.
        UserError: configuration and dataset do not fit each other, or no number of hosts is enough.
    """
    quiet()
    with _watched(options.cluster) as watch:
        if not options.find:
            return plan_run(options.config, described, options.cluster, watch)
        _check_rate(options)
        found = smallest_hosts(options.config, described, options.cluster, options.samples_per_second, watch)
        if found is None:
            raise _no_size(options, options.cluster)
        _compare_with_hbm(options, described, found, watch)
    return found


def _check_rate(options: Options) -> None:
    """Refuse a rate that no plan can be held to, since each rank has too few samples a step.

    Raises:
        UserError: so it is.
    """
    train, ranks = options.config.train, options.cluster.ranks_per_host
    samples = train.batch_size_per_rank or (None if train.batch_size is None else train.batch_size // ranks)
    if options.samples_per_second is not None and samples is not None and samples < FEWEST_SAMPLES:
        raise UserError(
            "--samples-per-second",
            f"asked of {samples} samples a rank",
            f"below {FEWEST_SAMPLES} most of a step is latency, which no estimate counts",
            "raise the batch size, or ask without a rate",
        )


def _compare_with_hbm(options: Options, described: Described, plan: Plan, watch: Watch | None) -> None:
    """Tell how much a plan puts into the hosts' memory unasked, and the fewest hosts that do without."""
    in_uvm = tables_in_uvm_by_planner(plan, options.config.embeddings)
    if not in_uvm:
        return
    config = with_values(options.config, {"embeddings.kernel": "fused"})
    logger.info("the same with every table in HBM:")
    in_hbm = smallest_hosts(config, described, options.cluster, options.samples_per_second, watch)
    logger.info(f"\n{_hosts(plan)}, with {uvm_text(in_uvm)}; {rate_text(plan)}")
    logger.info(
        f"with every table in HBM none is enough of {_considered(options, options.cluster)}"
        if in_hbm is None
        else f"{_hosts(in_hbm)} with every table in HBM (--set embeddings.kernel=fused); {rate_text(in_hbm)}"
    )


def _hosts(plan: Plan) -> str:
    hosts = plan.cluster.hosts
    return f"{hosts} host{'s' if hosts > 1 else ''}"


def write_plan(plan: Plan, name: str, out: Location) -> Location:
    """Write a plan and its page; return the page.

    Args:
        plan: The plan.
        name: Name of the configuration that was planned.
        out: File of the plan, which `check_out` has let through.

    Raises:
        UserError: they cannot be written.
    """
    page = out.with_suffix(".html")
    fix = f"free disk space, make the path writable, or give another {Option.OUT}"
    write_document(dump_plan(plan), out, "a plan is a file that `ple-rec train --plan` takes", fix)
    write_page(page, plan, name)
    return page


def _no_size(options: Options, cluster: Cluster) -> UserError:
    wanted = "" if options.samples_per_second is None else f" at {options.samples_per_second:,.0f} samples/s"
    return UserError(
        "--find",
        f"no number of hosts with {cluster.ranks_per_host} {cluster.hardware.device} each is enough{wanted}",
        f"{_considered(options, cluster)} were considered",
        f"ask for less, or for another {Option.DEVICE}; `ple-rec plan --hosts N` says what bounds the step",
    )


def _considered(options: Options, cluster: Cluster) -> str:
    """Return the hosts that `--find` looks at, and why there are no more: `up to 4 hosts (32 ranks)`."""
    most = most_hosts(options.config, cluster, options.samples_per_second)
    ranks = most * cluster.ranks_per_host
    batch = options.config.train.batch_size
    each = "" if batch is None else f", each with {batch // ranks:,} of the {batch:,} samples of a step"
    return f"up to {most} host{'s' if most > 1 else ''} ({ranks:,} ranks{each})"


@contextmanager
def _watched(cluster: Cluster) -> Iterator[Callable[[int], None] | None]:
    """Show how many plans were tried, where that takes long: on a terminal at once, elsewhere every 10 seconds."""
    if cluster.world_size <= _LONG:
        yield None
        return
    begun = said = time.monotonic()
    title = f"planning {cluster.world_size} ranks"
    with bar(unit=" plans", title=title) as shown:

        def advance(tried: int) -> None:
            nonlocal said
            shown.update()
            now = time.monotonic()
            if shown.disable and now - said >= LINE_SECONDS:
                said = now
                print_line(f"{title}: {tried} plans tried, {now - begun:.0f} s", sys.stderr)

        yield advance
