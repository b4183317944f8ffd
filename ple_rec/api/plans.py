"""Sharding plan of the embedding tables on hosts that need not exist: `plan` and `Plan`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ple_rec.api.arguments import (
    Overrides,
    PathLike,
    check_choice,
    check_count,
    check_dict,
    check_location,
    errors_name_arguments,
    resolve_config,
)
from ple_rec.api.html import block, line, table
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.config.choices import DEVICES, DeviceName, current_preset_name
from ple_rec.config.run import RunConfig
from ple_rec.storage import Location
from ple_rec.text.messages import print_messages
from ple_rec.text.units import short_bytes, short_count

if TYPE_CHECKING:
    import pyarrow as pa

    from ple_rec.config.plan import PlanFile, StepEstimate

# A notebook shows this many of the largest tables.
_MOST_TABLES = 12


class Plan:
    """Placement of every table on the ranks of some hosts, with an estimate of a step. `plan` makes it.

    Attributes:
        content: Content of `plan.json`.
    """

    content: PlanFile

    def __init__(self, content: PlanFile, config: RunConfig) -> None:
        self.content, self._config = content, config

    @property
    def step_ms(self) -> float:
        """Estimated milliseconds of a step."""
        return self._estimate.step_ms

    @property
    def samples_per_second(self) -> float:
        """Estimated rate of all ranks together."""
        return self._estimate.samples_per_second

    @property
    def bound(self) -> str:
        """Part that bounds a step: "host", "lookup", "communication", "dense", "gradients" or "loader"."""
        return self._estimate.bound

    @property
    def _estimate(self) -> StepEstimate:
        # Only a `plan.json` may lack the estimate; `plan` always computes it.
        assert self.content.estimate is not None
        return self.content.estimate

    def table(self) -> pa.Table:
        """Return a row for each table.

        Its columns are `table`, `rows`, `dim`, `bytes`, `sharding`, `kernel`, `ranks` (a list of ranks), and `ms`
        (estimated milliseconds a step).
        """
        import pyarrow as pa

        tables = self.content.tables
        return pa.table(
            {key: [getattr(each, key) for each in tables] for key in ("table", "rows", "dim", "bytes")}
            | {key: [getattr(each, key) for each in tables] for key in ("sharding", "kernel")}
            | {
                "ranks": [list(self.content.ranks_of(each)) for each in tables],
                "ms": [each.costs_ms.total() for each in tables],
            }
        )

    @errors_name_arguments
    def write(self, path: PathLike) -> Location:
        """Write the plan as JSON, which `train` takes, and an HTML page of the same name beside it.

        Files of an earlier plan are replaced.

        Args:
            path: File to write, a `.json`, or its address in a store.

        Raises:
            UserError: A file that is no plan, or a page without its plan, is already there; the suffix is not .json; or
                the plan cannot be written.
        """
        from ple_rec.planning.options import check_output
        from ple_rec.planning.run import write_plan

        file = check_location("path", path)
        check_output(file)
        write_plan(self.content, self._config.name, file)
        return file

    def __repr__(self) -> str:
        """Return the text that `ple-rec plan` prints."""
        from ple_rec.planning.text import format_plan

        return format_plan(self.content, self._config)

    def _repr_html_(self) -> str:
        content = self.content
        rows = []
        largest = sorted(content.tables, key=lambda each: -each.bytes)
        for each in largest[:_MOST_TABLES]:
            ranks, ms = f"{len(set(content.ranks_of(each))):,}", f"{each.costs_ms.total():.3f}"
            size = short_bytes(each.bytes)
            rows.append([each.table, f"{each.rows:,}", str(each.dim), size, each.sharding, each.kernel, ranks, ms])
        return block(
            line(self._config.name, content.cluster.describe(), f"{content.batch_size_per_rank:,} samples a rank"),
            line(
                f"{self.step_ms:.2f} ms a step",
                f"bound by {self.bound}",
                f"{short_count(round(self.samples_per_second))} samples/s (estimated)",
            ),
            table(["table", "rows", "dim", "bytes", "sharding", "kernel", "ranks", "ms a step"], rows),
            line("", f"and {len(largest) - _MOST_TABLES} smaller tables") if len(largest) > _MOST_TABLES else "",
        )


@errors_name_arguments
def plan(
    config: PathLike | Mapping[str, object] | RunConfig,
    hosts: int = 1,
    device: DeviceName | None = None,
    *,
    ranks_per_host: int | None = None,
    schema: PathLike | None = None,
    rows: Mapping[str, int] | None = None,
    samples: int | None = None,
    calibration: PathLike | None = None,
    overrides: Overrides = (),
) -> Plan:
    """Place every row of every table on the ranks of some hosts, as `ple-rec plan` does.

    This needs neither the hosts nor a GPU.

    Args:
        config: Name of a recipe, path of a TOML file, its content as a dict, or a `RunConfig`.
        hosts: Number of hosts.
        device: Kind of the hosts, such as "h100" or "cpu"; None for that of `[topology]`.
        ranks_per_host: Number of ranks of each host; None for 8 on GPU hosts (one for each GPU) and 1 on CPU hosts.
        schema: Path of a `schema.toml`, or name of a schema that comes with the package, which has the numbers of rows
            of the tables; None for that of the dataset directory, or else of `data.described_by`.
        rows: Number of rows of some tables, by name, in place of those of the schema.
        samples: Number of samples of an epoch; None for that of the schema.
        calibration: File of measurements of such a host, which `python -m benchmarks.calibrate` writes, in place of
            assumed figures; None to assume them.
        overrides: Changes of the configuration.

    Raises:
        UserError: The tables do not fit these hosts, and the message says what breaks which limit. Or configuration,
            dataset and hosts do not fit each other.
    """
    from ple_rec.planning.options import cluster_from, read_calibration

    hosts = check_count("hosts", hosts)
    ranks_per_host = None if ranks_per_host is None else check_count("ranks_per_host", ranks_per_host)
    samples = None if samples is None else check_count("samples", samples)
    rows = {name: check_count(f"rows[{name!r}]", count) for name, count in check_dict("rows", rows or {}).items()}
    kind = None if device is None else check_choice("device", current_preset_name(str(device)), DEVICES)
    chosen = resolve_config(RunConfig, config, overrides)
    cluster = cluster_from(chosen, "the configuration", hosts, ranks_per_host, kind)
    file = None if calibration is None else check_location("calibration", calibration)
    measured = None if file is None else read_calibration(file, cluster)
    with preserve_torch_state(with_group=False), print_messages():
        from ple_rec.planning.calibrate import calibrated
        from ple_rec.planning.plan_input import describe_dataset
        from ple_rec.planning.run import plan_hosts

        if measured is not None:
            cluster = calibrated(cluster, measured, str(file), chosen.topology)
        described = describe_dataset(chosen, None if schema is None else str(schema)).with_sizes(rows, samples)
        return Plan(plan_hosts(chosen, described, cluster), chosen)


@contextmanager
def plan_file(plan: Plan | PathLike | None) -> Iterator[Location | None]:
    """Yield the file of a plan, or None for None. A `Plan` is written to a temporary folder, which the block may use.

    Raises:
        UserError: The argument is neither a plan nor a path.
    """
    if plan is None:
        yield None
    elif isinstance(plan, Plan):
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
            from ple_rec.config.plan import dump_plan

            file = Path(folder) / "plan.json"
            file.write_text(dump_plan(plan.content), encoding="utf-8")
            yield file
    else:
        yield check_location("plan", plan)
