"""The fewest hosts on which a run fits, or trains so many samples a second: a bound first, then bisection."""

from __future__ import annotations

import logging
from bisect import bisect_left
from functools import cache

from ple_rec.config.cluster import MAX_RANKS, Cluster
from ple_rec.config.plan import FEWEST_SAMPLES, Plan
from ple_rec.config.run import RunConfig
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.distributed.layouts import Watch
from ple_rec.distributed.planner import PlanningInputs, is_hopeless
from ple_rec.planning.estimate import Work, highest_rate
from ple_rec.planning.plan_input import Described, meta_model, plan_run, request_of, work_of
from ple_rec.planning.text import rate_text
from ple_rec.training.checks import select
from ple_rec.training.model import sizes_of

logger = logging.getLogger(__name__)


def smallest_hosts(
    config: RunConfig,
    described: Described,
    cluster: Cluster,
    samples_per_second: float | None,
    watch: Watch | None = None,
) -> Plan | None:
    """Return the plan with the fewest hosts like those of `cluster`, of at most 1,024 ranks; None if none is enough.

    Hosts are doubled from `fewest_hosts` until they are enough, then what lies between is bisected; fewer hosts are
    taken to be no better there.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster of such hosts; how many it has does not matter.
        samples_per_second: Rate to reach; None where it is enough that the tables fit.
        watch: Called at every proposal that the planner tries.

    Raises:
        UserError: the configuration cannot be planned.
    """
    most = most_hosts(config, cluster, samples_per_second)
    tried: dict[int, Plan] = {}

    def enough(hosts: int) -> bool:
        what = f"{hosts} host{'s' if hosts > 1 else ''}"
        try:
            plan = plan_run(config, described, cluster.model_copy(update={"hosts": hosts}), watch)
        except DoesNotFitError:
            logger.info(f"{what}: does not fit")
            return False
        assert plan.estimate is not None
        tried[hosts] = plan
        logger.info(f"{what}: {rate_text(plan)}")
        return samples_per_second is None or plan.estimate.samples_per_second >= samples_per_second

    first = fewest_hosts(config, described, cluster, samples_per_second, most)
    if first is None:
        return None
    logger.info(f"at least {first} host{'s' if first > 1 else ''}, by the sizes of tables and dense layers alone")
    low, high = first - 1, first  # the last that is not enough, the first that may be
    while not enough(high):
        if high == most:
            return None
        low, high = high, min(most, high * 2)
    return tried[bisect_left(range(high), True, lo=low + 1, key=enough)]


def most_hosts(config: RunConfig, cluster: Cluster, samples_per_second: float | None) -> int:
    """Return the largest number of hosts that is considered: up to 1,024 ranks, each with a sample a step.

    Where a rate is to be reached, each rank has enough samples for a rate to be estimated.

    Args:
        config: Configuration of the run.
        cluster: Cluster of such hosts; how many it has does not matter.
        samples_per_second: Rate to reach; None where it is enough that the tables fit.
    """
    samples = 1 if samples_per_second is None else FEWEST_SAMPLES
    ranks = MAX_RANKS if config.train.batch_size is None else config.train.batch_size // samples
    return max(1, min(MAX_RANKS, ranks) // cluster.ranks_per_host)


def fewest_hosts(
    config: RunConfig, described: Described, cluster: Cluster, samples_per_second: float | None, most: int
) -> int | None:
    """Return a number of hosts below which no plan can be enough, by sizes of tables and dense layers alone.

    Args:
        config: Configuration of the run.
        described: Dataset of the run.
        cluster: Cluster of such hosts; how many it has does not matter.
        samples_per_second: Rate to reach; None where it is enough that the tables fit.
        most: Largest number of hosts that is considered.

    Returns:
        The number; None if not even `most` hosts are enough.

    Raises:
        UserError: the configuration cannot be planned.
    """
    sizes = sizes_of(config, select(config, described))

    @cache
    def work() -> Work:  # The model is built only once its sizes are known to fit some hosts.
        return work_of(config, described, meta_model(config, described, cuda=cluster.cuda), cluster)

    def request(hosts: int) -> PlanningInputs:
        return request_of(config, described, cluster.model_copy(update={"hosts": hosts}))

    def too_slow(hosts: int) -> bool:
        at = request(hosts)
        return (
            samples_per_second is not None
            and highest_rate(at.cluster, work(), at.batch_size_per_rank) < samples_per_second
        )

    def hopeless(hosts: int) -> bool:
        return is_hopeless(sizes, request(hosts)) or too_slow(hosts)

    if not is_hopeless(sizes, request(most)) and too_slow(most):
        return None
    least = max((host + 1 for own in config.embeddings.tables.values() for host in own.hosts or ()), default=1)
    doubled = [least]
    while doubled[-1] < most:
        doubled.append(min(most, doubled[-1] * 2))
    high = next((hosts for hosts in doubled if not hopeless(hosts)), None)
    if high is None:  # the memory of batches grows with the ranks: what is enough may lie between two doublings
        return next((hosts for hosts in range(least, most + 1) if not hopeless(hosts)), None)
    low = max((hosts for hosts in doubled if hosts < high), default=least - 1)
    return bisect_left(range(high), True, lo=low + 1, key=lambda hosts: not hopeless(hosts))
