"""What is planned, for `ple-rec plan` and `ple_rec.plan`, checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import MAX_RANKS, PRESETS, Cluster, Device
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.config.words import either
from ple_rec.errors import Option, UserError, settings
from ple_rec.storage import Location, explain_errors

_GPUS = 8  # of a host


@dataclass(frozen=True)
class Options:
    """What is planned, and what is printed of it.

    Args:
        config: Configuration of the run.
        cluster: Hosts of the plan; with `find`, one of them.
        schema: Schema of the tables; None for that of the dataset directory, else of `data.described_by`.
        rows: Rows of tables in the place of the schema's, by name.
        samples: Samples of an epoch in the place of the schema's.
        out: File of the plan; its page goes beside it.
        find: True to look for the fewest hosts.
        samples_per_second: Rate that these hosts have to reach.
        everything: True to print every table and rank.
        roofline: True to print the roofline, too.
        json: True to print the plan as JSON.
    """

    config: RunConfig
    cluster: Cluster
    schema: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    samples: int | None = None
    out: Location | None = None
    find: bool = False
    samples_per_second: float | None = None
    everything: bool = False
    roofline: bool = False
    json: bool = False


def cluster_from(
    config: RunConfig, source: str, hosts: int, ranks_per_host: int | None, preset: Device | None
) -> Cluster:
    """Return the hosts of a plan.

    Args:
        config: Configuration of the run, with `[topology]` where it has one.
        source: Name of the configuration in messages.
        hosts: Number of hosts.
        ranks_per_host: Ranks of a host; None for one a GPU of eight, and 1 on CPUs.
        preset: Kind of the hosts; None for that of `[topology]`.

    Raises:
        UserError: no device, two of them, or too many ranks.
    """
    own = config.topology
    device = preset or (own.device if own is not None else None)
    if device is None:
        raise UserError(Option.DEVICE, "missing", "a plan is for hosts of a kind", f"give {either(DEVICES)}")
    if own is not None and own.device is not None and own.device != device:
        raise UserError(
            Option.DEVICE,
            f"got {device}; [topology] of {source} says {own.device}",
            "its figures are of that device",
            f"leave out {Option.DEVICE}, or {settings(f'topology.device={device}')}",
        )
    ranks = ranks_per_host or (1 if device == "cpu" else _GPUS)
    if (world := hosts * ranks) > MAX_RANKS:
        raise UserError(
            f"{Option.HOSTS} {hosts}",
            f"{world:,} ranks",
            f"up to {MAX_RANKS:,} ranks are planned for",
            "give fewer hosts, or fewer ranks on each",
        )
    hardware = PRESETS[device] if own is None else own.over(PRESETS[device])
    return Cluster(hosts=hosts, ranks_per_host=ranks, hardware=hardware)


def check_out(out: Location) -> None:
    """Refuse to write over a file that is no plan.

    Raises:
        UserError: it is one, or there is no such folder, or a store cannot be read.
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
        there, page_there = out.exists(), page.exists()
    if there:
        try:
            load_plan(out)
        except UserError as error:
            value = f"is there, and is no plan ({error.value})"
            raise UserError(str(out), value, "only a plan is written over", f"give another {Option.OUT}") from error
    elif page_there:
        raise UserError(
            str(page),
            "is there without its plan",
            "a plan's page is written over with its plan alone",
            f"give another {Option.OUT}",
        )
