"""Plans of a run on given hosts, or on the fewest hosts that are enough, and their files.

`ple-rec plan` calls `plan_hosts` or, with `--find`, `find_hosts`, and then `write_plan`. `ple_rec.plan` calls
`plan_hosts`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ple_rec.config.cluster import Cluster
from ple_rec.config.load import with_values
from ple_rec.config.plan import PlanFile, dump_plan
from ple_rec.config.run import RunConfig
from ple_rec.distributed.layouts import ProposalCallback
from ple_rec.distributed.process_group import silence_libraries
from ple_rec.errors import Option, UserError
from ple_rec.planning.plan_input import DatasetDescription, plan_run
from ple_rec.planning.smallest import max_hosts, plan_fewest_hosts
from ple_rec.planning.text import rate_text, tables_in_uvm_by_planner, uvm_text
from ple_rec.reports.page import write_document
from ple_rec.reports.plan.page import write_page
from ple_rec.storage import Location
from ple_rec.text.progress import LINE_SECONDS, create_bar, print_line

logger = logging.getLogger(__name__)

# The planner's progress is shown only for more ranks.
_MANY_RANKS = 64


def plan_hosts(config: RunConfig, described: DatasetDescription, cluster: Cluster) -> PlanFile:
    """Return the plan of a run on its hosts.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Hosts of the run.

    Raises:
        DoesNotFitError: The tables do not fit these hosts.
        UserError: Configuration, dataset and cluster do not fit each other.
    """
    silence_libraries()
    with watch_planner(cluster) as watch:
        return plan_run(config, described, cluster, watch)


def find_hosts(config: RunConfig, described: DatasetDescription, cluster: Cluster, rate: float | None) -> PlanFile:
    """Return the plan of a run on the fewest hosts that are enough.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster with the kind of the hosts; their number does not matter.
        rate: Samples a second that the hosts have to reach; None for any rate.

    Raises:
        UserError: Configuration and dataset do not fit each other, or no number of hosts is enough.
    """
    silence_libraries()
    with watch_planner(cluster) as watch:
        plan = plan_fewest_hosts(config, described, cluster, rate, watch)
        if plan is None:
            raise _no_hosts_error(config, cluster, rate)
        _compare_with_hbm(config, described, cluster, rate, plan, watch)
    return plan


def _compare_with_hbm(
    config: RunConfig,
    described: DatasetDescription,
    cluster: Cluster,
    rate: float | None,
    plan: PlanFile,
    watch: ProposalCallback | None,
) -> None:
    """If the planner has put tables into the hosts' memory, log which, and the fewest hosts with all tables in HBM."""
    in_uvm = tables_in_uvm_by_planner(plan, config.embeddings)
    if not in_uvm:
        return
    fused = with_values(config, {"embeddings.kernel": "fused"})
    logger.info("fewest hosts with every table in HBM:")
    in_hbm = plan_fewest_hosts(fused, described, cluster, rate, watch)
    logger.info(f"\n{_hosts_text(plan)}, with {uvm_text(in_uvm)}; {rate_text(plan)}")
    logger.info(
        f"with every table in HBM, {_considered_text(config, cluster)} are not enough"
        if in_hbm is None
        else f"{_hosts_text(in_hbm)} with every table in HBM (--set embeddings.kernel=fused); {rate_text(in_hbm)}"
    )


def _hosts_text(plan: PlanFile) -> str:
    hosts = plan.cluster.hosts
    return f"{hosts} host{'s' if hosts > 1 else ''}"


def write_plan(plan: PlanFile, name: str, out: Location) -> Location:
    """Write a plan and its page, and return the path of the page.

    Args:
        plan: Plan with its estimate.
        name: Name of the configuration that was planned.
        out: File of the plan, which `check_output` has accepted.

    Raises:
        UserError: The plan or its page cannot be written.
    """
    page = out.with_suffix(".html")
    fix = f"free disk space, make the path writable, or give another {Option.OUT}"
    write_document(dump_plan(plan), out, "a plan is a file that `ple-rec train --plan` takes", fix)
    write_page(page, plan, name)
    return page


def _no_hosts_error(config: RunConfig, cluster: Cluster, rate: float | None) -> UserError:
    at_rate = "" if rate is None else f" at {rate:,.0f} samples/s"
    return UserError(
        "--find",
        f"no number of hosts with {cluster.ranks_per_host} {cluster.hardware.device} each is enough{at_rate}",
        f"{_considered_text(config, cluster)} were considered",
        f"ask for less, or for another {Option.DEVICE}; `ple-rec plan --hosts N` says what bounds the step",
    )


def _considered_text(config: RunConfig, cluster: Cluster) -> str:
    """Return the largest number of hosts that is considered, as text: `up to 4 hosts (32 ranks)`."""
    most = max_hosts(config, cluster)
    ranks = most * cluster.ranks_per_host
    batch = config.train.batch_size
    each = "" if batch is None else f", each with {batch // ranks:,} of the {batch:,} samples of a step"
    return f"up to {most} host{'s' if most > 1 else ''} ({ranks:,} ranks{each})"


@contextmanager
def watch_planner(cluster: Cluster) -> Iterator[Callable[[int], None] | None]:
    """Yield a function that shows how many plans were tried: on a terminal at once, elsewhere every `LINE_SECONDS`.

    For few ranks, whose plan takes a moment, this yields None.
    """
    if cluster.world_size <= _MANY_RANKS:
        yield None
        return
    start = last_line = time.monotonic()
    title = f"planning {cluster.world_size} ranks"
    with create_bar(unit=" plans", title=title) as progress:

        def advance(plans: int) -> None:
            nonlocal last_line
            progress.update()
            now = time.monotonic()
            if progress.disable and now - last_line >= LINE_SECONDS:
                last_line = now
                print_line(f"{title}: {plans} plans tried, {now - start:.0f} s", sys.stderr)

        yield advance
