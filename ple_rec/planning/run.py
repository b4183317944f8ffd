"""`ple-rec plan`: plan, say it, write it; or say why it does not fit and what would."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ple_rec.config.cluster import MAX_RANKS, PRESETS, Cluster, Device
from ple_rec.config.load import load_config
from ple_rec.config.plan_file import dump_plan, load_plan
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.parallel.process_group import quiet
from ple_rec.parallel.shortfall import DoesNotFitError
from ple_rec.planning.compare import format_comparison
from ple_rec.planning.page import write_page
from ple_rec.planning.smallest import smallest_hosts
from ple_rec.planning.subject import describe, plan_run
from ple_rec.planning.text import format_plan
from ple_rec.planning.ways_out import describe_ways, ways_out
from ple_rec.train.progress import say
from ple_rec.train.run_dir import write_text

_LONG = 64  # ranks past which the planner is watched
_DOES_NOT_FIT = 2


@dataclass(frozen=True)
class Options:
    """Of the command line.

    Args:
        config: A TOML file or a recipe.
        overrides: `a.b=c` each.
        hosts: Number of hosts.
        ranks_per_host: L.
        device: Preset, or None for that of `[topology]`.
        out: `plan.json` to write; the page goes beside it.
        find: Whether the fewest hosts are looked for.
        samples_per_second: That they are to reach.
        everything: Print every table and rank.
        json: Print the plan itself.
    """

    config: str
    overrides: Sequence[str]
    hosts: int
    ranks_per_host: int
    device: Device | None
    out: Path | None
    find: bool
    samples_per_second: float | None
    everything: bool
    json: bool


def plan(options: Options) -> int:
    """Plan a run; the exit code, 2 where it does not fit.

    Raises:
        UserError: configuration, dataset, cluster or file are not as they must be.
    """
    quiet()
    config = load_config(RunConfig, options.config, options.overrides)
    if options.out is not None:
        check_out(options.out)
    cluster = cluster_from(config, options)
    described = describe(config)
    note = _say_aside if options.json else say
    try:
        with _watched(cluster) as watch:
            if options.find:
                found = smallest_hosts(config, described, cluster, options.samples_per_second, watch, note)
                if found is None:
                    raise _no_size(options, cluster)
            else:
                found = plan_run(config, described, cluster, watch)
    except DoesNotFitError as error:
        sys.stderr.write(f"ple-rec: {error}\n")
        with _watched(cluster) as watch:
            ways = ways_out(config, described, cluster, _say_aside, watch)
        note(describe_ways(ways))
        return _DOES_NOT_FIT
    if options.json:
        sys.stdout.write(dump_plan(found))
    else:
        say(format_plan(found, config.name, everything=options.everything))
    if options.out is not None:
        page = options.out.with_suffix(".html")
        write_text(options.out, dump_plan(found))
        write_page(page, found, config.name)
        note(f"\nplan: {options.out}\npage: {page}")
    return 0


def compare(a: Path, b: Path) -> int:
    """Say how two plans differ.

    Raises:
        UserError: one is no plan.
    """
    say(format_comparison(load_plan(a), load_plan(b), (str(a), str(b))))
    return 0


def cluster_from(config: RunConfig, options: Options) -> Cluster:
    """The cluster that is asked for.

    Raises:
        UserError: no device, two of them, or too many ranks.
    """
    own = config.topology
    device = options.device or (own.device if own is not None else None)
    if device is None:
        raise UserError("--device", "missing", "a plan is for hosts of a kind", "give a100, h100, h200 or cpu")
    if own is not None and own.device is not None and own.device != device:
        raise UserError(
            "--device",
            f"got {device}; [topology] of {options.config} says {own.device}",
            "its figures are of that device",
            f"leave out --device, or --set topology.device={device}",
        )
    if (world := options.hosts * options.ranks_per_host) > MAX_RANKS:
        raise UserError(
            f"--hosts {options.hosts}",
            f"{world:,} ranks",
            f"up to {MAX_RANKS:,} ranks are planned for",
            "give fewer hosts, or fewer ranks on each",
        )
    hardware = PRESETS[device] if own is None else own.over(PRESETS[device])
    return Cluster(hosts=options.hosts, ranks_per_host=options.ranks_per_host, hardware=hardware)


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
            raise UserError(
                str(out), "is there, and is no plan", "only a plan is written over", "give another --out"
            ) from error


def _no_size(options: Options, cluster: Cluster) -> UserError:
    wanted = "" if options.samples_per_second is None else f" at {options.samples_per_second:,.0f} samples/s"
    most = max(1, MAX_RANKS // cluster.ranks_per_host)
    return UserError(
        "--find",
        f"no number of hosts with {cluster.ranks_per_host} {cluster.hardware.device} each is enough{wanted}",
        f"up to {most} hosts ({MAX_RANKS:,} ranks) were considered",
        "ask for less, or for another --device; `ple-rec plan --hosts N` says what bounds the step",
    )


def _say_aside(text: str) -> None:
    """A line beside the result, and above the counter of plans."""
    tqdm.write(text, file=sys.stderr)


@contextmanager
def _watched(cluster: Cluster) -> Iterator[Callable[[int], None] | None]:
    """Show how many plans the planner has tried, where that takes long."""
    if cluster.world_size <= _LONG:
        yield None
        return
    interval = 0.5 if sys.stderr.isatty() else 10.0
    with tqdm(desc=f"planning {cluster.world_size} ranks", unit=" plans", mininterval=interval, leave=False) as bar:

        def advance(tried: int) -> None:
            bar.update()

        yield advance
