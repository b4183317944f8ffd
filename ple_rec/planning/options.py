"""What the command line of `ple-rec plan` asks for, checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import MAX_RANKS, PRESETS, Cluster, Device
from ple_rec.config.plan_file import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.config.words import either
from ple_rec.errors import UserError


@dataclass(frozen=True)
class Options:
    """Of the command line.

    Args:
        config: The run.
        cluster: Planned for; with `find`, one host of it.
        schema: By which to plan, whatever dataset directories there are.
        rows: Rows of tables in the place of the schema's, by name.
        samples: Samples of an epoch in the place of the schema's.
        out: `plan.json` to write; the page goes beside it.
        find: Whether the fewest hosts are looked for.
        samples_per_second: That they are to reach.
        everything: Print every table and rank.
        roofline: Print the roofline too.
        json: Print the plan itself.
    """

    config: RunConfig
    cluster: Cluster
    schema: str | None
    rows: Mapping[str, int]
    samples: int | None
    out: Path | None
    find: bool
    samples_per_second: float | None
    everything: bool
    roofline: bool
    json: bool


def cluster_from(config: RunConfig, source: str, hosts: int, ranks_per_host: int, wanted: Device | None) -> Cluster:
    """The cluster that is asked for.

    Args:
        config: With `[topology]`, where it has one.
        source: Of the configuration, for messages.
        hosts: Number of hosts.
        ranks_per_host: L.
        wanted: Preset, or None for that of `[topology]`.

    Raises:
        UserError: no device, two of them, or too many ranks.
    """
    own = config.topology
    device = wanted or (own.device if own is not None else None)
    if device is None:
        raise UserError("--device", "missing", "a plan is for hosts of a kind", f"give {either(DEVICES)}")
    if own is not None and own.device is not None and own.device != device:
        raise UserError(
            "--device",
            f"got {device}; [topology] of {source} says {own.device}",
            "its figures are of that device",
            f"leave out --device, or --set topology.device={device}",
        )
    if (world := hosts * ranks_per_host) > MAX_RANKS:
        raise UserError(
            f"--hosts {hosts}",
            f"{world:,} ranks",
            f"up to {MAX_RANKS:,} ranks are planned for",
            "give fewer hosts, or fewer ranks on each",
        )
    hardware = PRESETS[device] if own is None else own.over(PRESETS[device])
    return Cluster(hosts=hosts, ranks_per_host=ranks_per_host, hardware=hardware)


def check_out(out: Path) -> None:
    """Refuse to write over a file that is no plan.

    Raises:
        UserError: it is one, or there is no such folder.
    """
    if not out.parent.is_dir():
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
    if out.exists():
        try:
            load_plan(out)
        except UserError as error:
            value = f"is there, and is no plan ({error.value})"
            raise UserError(str(out), value, "only a plan is written over", "give another --out") from error
    elif (page := out.with_suffix(".html")).exists():
        raise UserError(
            str(page),
            "is there without its plan",
            "a plan's page is written over with its plan alone",
            "give another --out",
        )
