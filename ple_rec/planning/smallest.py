"""Search for the fewest hosts on which a run fits, or reaches a rate: a lower bound, doubling, then bisection."""

from __future__ import annotations

import logging
from bisect import bisect_left
from functools import cache

from ple_rec.config.cluster import MAX_RANKS, Cluster
from ple_rec.config.plan import PlanFile
from ple_rec.config.run import RunConfig
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.distributed.layouts import ProposalCallback
from ple_rec.distributed.planner import is_hopeless
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.planning.estimate import DenseWork, highest_rate
from ple_rec.planning.plan_input import DatasetDescription, dense_work, meta_model, plan_run, planning_inputs
from ple_rec.planning.text import rate_text
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import model_sizes

logger = logging.getLogger(__name__)


def plan_fewest_hosts(
    config: RunConfig,
    described: DatasetDescription,
    cluster: Cluster,
    samples_per_second: float | None,
    watch: ProposalCallback | None = None,
) -> PlanFile | None:
    """Return the plan with the fewest hosts of the kind of `cluster` that are enough; None if not even `max_hosts` are.

    The number of hosts is doubled from `min_hosts` until it is enough. Bisection between this number and the one before
    then finds the smallest that is enough. It assumes that adding hosts never makes enough hosts too few.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster with the kind of the hosts; their number does not matter.
        samples_per_second: Rate to reach; None if the tables only have to fit.
        watch: Function, if any, that is called with the number of proposals that the planner has tried.

    Raises:
        UserError: The configuration cannot be planned.
    """
    most = max_hosts(config, cluster)
    tried: dict[int, PlanFile] = {}

    def is_enough(hosts: int) -> bool:
        count = f"{hosts} host{'s' if hosts > 1 else ''}"
        try:
            plan = plan_run(config, described, cluster.model_copy(update={"hosts": hosts}), watch)
        except DoesNotFitError:
            logger.info(f"{count}: does not fit")
            return False
        # `plan_run` gives every plan an estimate.
        assert plan.estimate is not None
        tried[hosts] = plan
        logger.info(f"{count}: {rate_text(plan)}")
        return samples_per_second is None or plan.estimate.samples_per_second >= samples_per_second

    first = min_hosts(config, described, cluster, samples_per_second, most)
    if first is None:
        return None
    logger.info(f"at least {first} host{'s' if first > 1 else ''}, by bounds that need no plan")
    # `low` hosts are not enough, and `high` hosts may be.
    low, high = first - 1, first
    while not is_enough(high):
        if high == most:
            return None
        low, high = high, min(most, high * 2)
    # The number that bisection returns was tried: by bisection itself, or as `high` before it.
    return tried[bisect_left(range(high), True, lo=low + 1, key=is_enough)]


def max_hosts(config: RunConfig, cluster: Cluster) -> int:
    """Return the largest number of hosts to consider: up to `MAX_RANKS` ranks, each with a sample or more in a step.

    Args:
        config: Configuration of the run.
        cluster: Cluster with the kind of the hosts; their number does not matter.
    """
    ranks = MAX_RANKS if config.train.batch_size is None else min(MAX_RANKS, config.train.batch_size)
    return max(1, ranks // cluster.ranks_per_host)


def min_hosts(
    config: RunConfig, described: DatasetDescription, cluster: Cluster, samples_per_second: float | None, most: int
) -> int | None:
    """Return a number of hosts below which sizes of tables, sizes of dense layers or the rate rule out every plan.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster with the kind of the hosts; their number does not matter.
        samples_per_second: Rate to reach; None if the tables only have to fit.
        most: Largest number of hosts to consider.

    Returns:
        The number, or None if every number of hosts up to `most` is ruled out.

    Raises:
        UserError: The configuration cannot be planned.
    """
    sizes = model_sizes(config, select_run_columns(config, described))

    # Building the model takes time, so it is built when it is first needed: after its sizes are known to fit.
    @cache
    def dense_layers() -> DenseWork:
        return dense_work(config, described, meta_model(config, described, cuda=cluster.cuda), cluster)

    def inputs(hosts: int) -> PlanningInputs:
        return planning_inputs(config, described, cluster.model_copy(update={"hosts": hosts}))

    def is_too_slow(hosts: int) -> bool:
        planned = inputs(hosts)
        return (
            samples_per_second is not None
            and highest_rate(planned.cluster, dense_layers(), planned.batch_size_per_rank) < samples_per_second
        )

    def is_ruled_out(hosts: int) -> bool:
        return is_hopeless(sizes, inputs(hosts)) or is_too_slow(hosts)

    # The highest rate grows with the hosts: if `most` hosts are too slow, so are fewer. Memory is different; see below.
    if not is_hopeless(sizes, inputs(most)) and is_too_slow(most):
        return None
    # The configuration may put tables on hosts by their indices, so these hosts have to exist.
    least = max((host + 1 for table in config.embeddings.tables.values() for host in table.hosts or ()), default=1)
    doubled = [least]
    while doubled[-1] < most:
        doubled.append(min(most, doubled[-1] * 2))
    high = next((hosts for hosts in doubled if not is_ruled_out(hosts)), None)
    # The memory of batches grows with the ranks, so a model that fits on some hosts may not fit on more. If every
    # number above is ruled out, one between two of them may still be enough, so each is tried.
    if high is None:
        return next((hosts for hosts in range(least, most + 1) if not is_ruled_out(hosts)), None)
    low = max((hosts for hosts in doubled if hosts < high), default=least - 1)
    return bisect_left(range(high), True, lo=low + 1, key=lambda hosts: not is_ruled_out(hosts))
