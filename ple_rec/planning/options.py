"""Hosts and output file of a plan, checked before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import MAX_RANKS, PRESETS, Cluster, Device
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.config.words import either
from ple_rec.errors import Option, UserError, settings
from ple_rec.storage import Location, explain_errors

# A host has this many GPUs unless the user says otherwise.
_GPUS_PER_HOST = 8


def cluster_from(
    config: RunConfig, source: str, hosts: int, ranks_per_host: int | None, preset: Device | None
) -> Cluster:
    """Return the hosts of a plan.

    Args:
        config: Configuration of the run, whose `[topology]`, if any, takes precedence over the preset.
        source: Name of the configuration in messages.
        hosts: Number of hosts.
        ranks_per_host: Number of ranks of a host; None for 8, one for each GPU, or for 1 on CPUs.
        preset: Kind of the hosts; None for that of `[topology]`.

    Raises:
        UserError: There is no device, or there are two that differ, or there are too many ranks.
    """
    own = config.topology
    device = preset or (own.device if own is not None else None)
    if device is None:
        raise UserError(Option.DEVICE, "missing", "a plan needs the kind of its hosts", f"give {either(DEVICES)}")
    if own is not None and own.device is not None and own.device != device:
        raise UserError(
            Option.DEVICE,
            f"got {device}; [topology] of {source} says {own.device}",
            "the figures of [topology] are those of that device",
            f"leave out {Option.DEVICE}, or {settings(f'topology.device={device}')}",
        )
    ranks = ranks_per_host or (1 if device == "cpu" else _GPUS_PER_HOST)
    if (world := hosts * ranks) > MAX_RANKS:
        raise UserError(
            f"{Option.HOSTS} {hosts}",
            f"{world:,} ranks",
            f"up to {MAX_RANKS:,} ranks are planned for",
            "give fewer hosts, or fewer ranks on each",
        )
    hardware = PRESETS[device] if own is None else own.apply_to(PRESETS[device])
    return Cluster(hosts=hosts, ranks_per_host=ranks, hardware=hardware)


def check_out(out: Location) -> None:
    """Refuse an output file that exists and is no plan.

    Raises:
        UserError: The file exists and is no plan, its folder does not exist, or a store cannot be read.
    """
    if isinstance(out, Path) and not out.parent.is_dir():
        raise UserError(
            str(out), f"no folder {out.parent}", "the plan goes into a folder that exists", "make it, or give another"
        )
    if out.suffix != ".json":
        raise UserError(
            str(out),
            f'ends in "{out.suffix}"',
            "a plan is a .json file, its page the .html beside it",
            "give FILE.json",
        )
    page = out.with_suffix(".html")
    with explain_errors(out, "read", "a plan is written there"):
        plan_exists, page_exists = out.exists(), page.exists()
    if plan_exists:
        try:
            load_plan(out)
        except UserError as error:
            value = f"is there, and is no plan ({error.value})"
            raise UserError(str(out), value, "only a plan is written over", f"give another {Option.OUT}") from error
    elif page_exists:
        raise UserError(
            str(page),
            "is there without its plan",
            "a plan's page is written over with its plan alone",
            f"give another {Option.OUT}",
        )
