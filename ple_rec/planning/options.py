"""Cluster and output file of a plan, from options of the command line, checked before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from ple_rec.config.calibration import Calibration, load_calibration
from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import MAX_RANKS, PRESETS, Cluster, Device
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.config.words import join_or
from ple_rec.errors import Option, UserError, overrides_text
from ple_rec.storage import Location, explain_errors

# Number of GPUs of a host if the user does not give one.
_GPUS_PER_HOST = 8


def cluster_from(
    config: RunConfig, source: str, hosts: int, ranks_per_host: int | None, preset: Device | None
) -> Cluster:
    """Return the cluster that is planned for.

    Args:
        config: Configuration of the run, whose `[topology]`, if any, takes precedence over the preset.
        source: Name of the configuration in messages.
        hosts: Number of hosts.
        ranks_per_host: Number of ranks of a host; None for 8, one for each GPU, or 1 on CPUs.
        preset: Kind of the hosts; None for that of `[topology]`.

    Raises:
        UserError: Neither `preset` nor configuration names the device, they name different ones, or there are too many
            ranks.
    """
    topology = config.topology
    device = preset or (topology.device if topology is not None else None)
    if device is None:
        raise UserError(Option.DEVICE, "missing", "a plan needs the kind of its hosts", f"give {join_or(DEVICES)}")
    if topology is not None and topology.device is not None and topology.device != device:
        raise UserError(
            Option.DEVICE,
            f"got {device}; [topology] of {source} says {topology.device}",
            "the figures of [topology] are those of that device",
            f"leave out {Option.DEVICE}, or {overrides_text(f'topology.device={device}')}",
        )
    ranks = ranks_per_host or (1 if device == "cpu" else _GPUS_PER_HOST)
    if (world := hosts * ranks) > MAX_RANKS:
        raise UserError(
            f"{Option.HOSTS} {hosts}",
            f"{world:,} ranks",
            f"up to {MAX_RANKS:,} ranks are planned for",
            "give fewer hosts, or fewer ranks on each",
        )
    hardware = PRESETS[device] if topology is None else topology.apply_to(PRESETS[device])
    return Cluster(hosts=hosts, ranks_per_host=ranks, hardware=hardware)


def read_calibration(path: Location, cluster: Cluster) -> Calibration:
    """Return the measurements in a file, which have to be those of the cluster's device.

    Raises:
        UserError: The file cannot be read, or is of another device.
        ConfigError: The content of the file has problems.
    """
    calibration = load_calibration(path)
    if calibration.device != cluster.hardware.device:
        raise UserError(
            str(path),
            f"measured on {calibration.device} ({calibration.device_name}); the plan is for {cluster.hardware.device}",
            "a plan takes measurements of its own device only",
            f"measure on such a host, plan with {Option.DEVICE} {calibration.device}, or leave out "
            f"{Option.CALIBRATION}",
        )
    return calibration


def check_output(out: Location) -> None:
    """Check that a plan and its page may be written: only a plan and the page beside it are overwritten.

    Raises:
        UserError: The file exists and is no plan, or only its page exists, the suffix is not .json, the folder does not
            exist, or the store cannot be read.
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
            value = f"exists and is no plan ({error.value})"
            raise UserError(str(out), value, "only a plan is overwritten", f"give another {Option.OUT}") from error
    elif page_exists:
        raise UserError(
            str(page),
            "exists without its plan",
            "a page is only overwritten together with its plan",
            f"give another {Option.OUT}",
        )
