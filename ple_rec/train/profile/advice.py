"""One sentence on what to look at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.train.profile.breakdown import EXCHANGES

_BEHIND = 1.25  # times the work of the rank that has least


def advice(found: Mapping[str, Any], config: RunConfig) -> str:
    """What to look at, by the shares of a step.

    Args:
        found: Of `breakdown`.
        config: Of the run.
    """
    share = {region: values["share"] for region, values in found["regions"].items()}
    exchange = sum(share[region] for region in EXCHANGES)
    tables = share["lookup"] + share["table update"]
    dense = share["dense forward"] + share["dense backward"]
    work = [rank["own_ms"] for rank in found["ranks"]]
    train = config.train

    if share["data wait"] >= 0.1:
        return (
            f"data wait is {_pct(share['data wait'])}: the reading thread does not keep up; prepare larger row groups, "
            "give a rank one more core than threads, or, where it only stutters, raise data.prefetch (now "
            f"{config.data.prefetch})"
        )
    if (apart := max(work) / min(work)) >= _BEHIND:
        return (
            f"rank {found['rank']} on {found['host']} has {apart:.2f} times the work of the rank that has least, and "
            f"the others wait for it, up to {found['step_ms'] - min(work):.0f} ms a step: look at its host, and at "
            "which tables lie there (plan.json)"
        )
    if exchange >= 0.2:
        ahead = 'set train.pipeline = "sparse_dist", ' if train.pipeline == "none" else ""
        return (
            f"exchanges are {_pct(exchange)}: {ahead}send fewer bytes (embeddings.qcomms), or raise the batch, whose "
            "waits for the other ranks are the same at any size"
        )
    if share["logging"] >= 0.05:
        return f"logging is {_pct(share['logging'])}: raise train.report_every (now {train.report_every})"
    if share["metrics"] >= 0.1:
        return f"metrics are {_pct(share['metrics'])}: their cost is by the sample and the task; choose fewer tasks"
    if share["optimizers"] >= 0.15:
        return (
            f"optimizers are {_pct(share['optimizers'])}: their cost is by the parameter and not by the sample; raise "
            "the batch"
        )
    if share["copy to device"] >= 0.1 and train.pipeline == "none":
        return f'copies to the device are {_pct(share["copy to device"])}: set train.pipeline = "sparse_dist"'
    if tables >= 0.3:
        return (
            f"lookup and table update are {_pct(tables)}: they read and write one row per id, so shorter bags, "
            "narrower rows (embeddings.dim) and memory nearer to the rank help"
        )
    if share["other"] >= 0.2:
        return f"other is {_pct(share['other'])}: Python between the parts, the same at any size; raise the batch"
    lower = ', the precision (train.precision = "auto" measures it)' if _is_fp32(config) else ""
    return (
        f"the dense layers are {_pct(dense)}, where the time should go: what is left to change is their size{lower} "
        "and the threads (runtime.threads)"
    )


def _pct(share: float) -> str:
    return f"{100 * share:.0f} %"


def _is_fp32(config: RunConfig) -> bool:
    return config.train.precision == "fp32"
