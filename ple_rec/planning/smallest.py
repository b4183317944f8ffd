"""Search for the fewest hosts on which a run fits, or reaches a rate: a lower bound first, then bisection."""

from __future__ import annotations

import logging
from bisect import bisect_left
from functools import cache

from ple_rec.config.cluster import MAX_RANKS, Cluster
from ple_rec.config.plan import FEWEST_SAMPLES, PlanFile
from ple_rec.config.run import RunConfig
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.distributed.layouts import Watch
from ple_rec.distributed.planner import PlanningInputs, is_hopeless
from ple_rec.planning.estimate import DenseWork, highest_rate
from ple_rec.planning.plan_input import DatasetDescription, meta_model, plan_run, planning_inputs, work_of
from ple_rec.planning.text import rate_text
from ple_rec.training.checks import select
from ple_rec.training.model import sizes_of

logger = logging.getLogger(__name__)


def smallest_hosts(
    config: RunConfig,
    described: DatasetDescription,
    cluster: Cluster,
    samples_per_second: float | None,
    watch: Watch | None = None,
) -> PlanFile | None:
    """Return the plan with the fewest hosts like those of `cluster`, or None if 1,024 ranks are not enough.

    The number of hosts is doubled from `fewest_hosts` until it is enough. Bisection then finds the smallest number
    since the last doubling, and assumes that fewer hosts are never better.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster of such hosts, whose number does not matter.
        samples_per_second: Rate to reach; None if the tables only have to fit.
        watch: Function that is called with the number of proposals that the planner has tried.

    Raises:
        UserError: The configuration cannot be planned.
    """
    most = most_hosts(config, cluster, samples_per_second)
    tried: dict[int, PlanFile] = {}

    def enough(hosts: int) -> bool:
        count = f"{hosts} host{'s' if hosts > 1 else ''}"
        try:
            plan = plan_run(config, described, cluster.model_copy(update={"hosts": hosts}), watch)
        except DoesNotFitError:
            logger.info(f"{count}: does not fit")
            return False
        assert plan.estimate is not None
        tried[hosts] = plan
        logger.info(f"{count}: {rate_text(plan)}")
        return samples_per_second is None or plan.estimate.samples_per_second >= samples_per_second

    first = fewest_hosts(config, described, cluster, samples_per_second, most)
    if first is None:
        return None
    logger.info(f"at least {first} host{'s' if first > 1 else ''}, by the sizes of tables and dense layers alone")
    # `low` hosts are not enough, and `high` hosts may be.
    low, high = first - 1, first
    while not enough(high):
        if high == most:
            return None
        low, high = high, min(most, high * 2)
    return tried[bisect_left(range(high), True, lo=low + 1, key=enough)]


def most_hosts(config: RunConfig, cluster: Cluster, samples_per_second: float | None) -> int:
    """Return the largest number of hosts to consider: up to 1,024 ranks, each with at least a sample in each step.

    If a rate is to be reached, each rank has enough samples for an estimate of the rate.

    Args:
        config: Configuration of the run.
        cluster: Cluster of such hosts, whose number does not matter.
        samples_per_second: Rate to reach; None if the tables only have to fit.
    """
    samples = 1 if samples_per_second is None else FEWEST_SAMPLES
    ranks = MAX_RANKS if config.train.batch_size is None else config.train.batch_size // samples
    return max(1, min(MAX_RANKS, ranks) // cluster.ranks_per_host)


def fewest_hosts(
    config: RunConfig, described: DatasetDescription, cluster: Cluster, samples_per_second: float | None, most: int
) -> int | None:
    """Return a number of hosts below which the sizes of tables and dense layers rule out every plan.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster of such hosts, whose number does not matter.
        samples_per_second: Rate to reach; None if the tables only have to fit.
        most: Largest number of hosts to consider.

    Returns:
        The number, or None if not even `most` hosts are enough.

    Raises:
        UserError: The configuration cannot be planned.
    """
    sizes = sizes_of(config, select(config, described))

    # The model is built only once its sizes are known to fit some number of hosts.
    @cache
    def work() -> DenseWork:
        return work_of(config, described, meta_model(config, described, cuda=cluster.cuda), cluster)

    def inputs(hosts: int) -> PlanningInputs:
        return planning_inputs(config, described, cluster.model_copy(update={"hosts": hosts}))

    def too_slow(hosts: int) -> bool:
        planned = inputs(hosts)
        return (
            samples_per_second is not None
            and highest_rate(planned.cluster, work(), planned.batch_size_per_rank) < samples_per_second
        )

    def hopeless(hosts: int) -> bool:
        return is_hopeless(sizes, inputs(hosts)) or too_slow(hosts)

    if not is_hopeless(sizes, inputs(most)) and too_slow(most):
        return None
    least = max((host + 1 for own in config.embeddings.tables.values() for host in own.hosts or ()), default=1)
    doubled = [least]
    while doubled[-1] < most:
        doubled.append(min(most, doubled[-1] * 2))
    high = next((hosts for hosts in doubled if not hopeless(hosts)), None)
    # The memory of batches grows with the ranks, so only a number between two doublings may be enough.
    if high is None:
        return next((hosts for hosts in range(least, most + 1) if not hopeless(hosts)), None)
    low = max((hosts for hosts in doubled if hosts < high), default=least - 1)
    return bisect_left(range(high), True, lo=low + 1, key=lambda hosts: not hopeless(hosts))
