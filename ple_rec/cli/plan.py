"""`ple-rec plan`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ple_rec.cli.console import require_torch, show
from ple_rec.cli.options import Config, Set, each, flag, place, positive, verb
from ple_rec.config.choices import DEVICES, DeviceName, current_preset_name
from ple_rec.errors import UserError
from ple_rec.storage import Location, location
from ple_rec.text.units import parse_count

if TYPE_CHECKING:
    from ple_rec.planning.options import Options as PlanOptions

app = verb(
    "plan",
    """\
examples:
  ple-rec plan --config tencent-ple --hosts 8 --gpus-per-host 8 --device h100 --out plan.json
  ple-rec plan --config tencent-ple --hosts 2 --ranks-per-host 4 --device cpu --set embeddings.sharding=row_wise
  ple-rec plan --config tencent-ple --device a100-80 --set embeddings.dim=512 --find
  ple-rec plan --config tencent-ple --device h100 --find --samples-per-second 50e6
  ple-rec plan --config tencent-ple --device h100 --rows user_id=300e6 --samples 5e9
  ple-rec plan --compare a.json b.json
  ple-rec train --config tencent-ple --plan plan.json

docs/planning.md explains every figure.
""",
    usage="ple-rec plan {--config FILE|NAME | --compare A B} [OPTIONS]",
)


def _number(text: str) -> float:
    value = parse_count(text)
    if value is None:
        raise ValueError(f"got {text!r}; a number above 0 reads 20e6 or 20M")
    return value


def _count(text: str) -> int:
    value = round(_number(text))
    if value < 1:
        raise ValueError(f"got {text!r}; expected 1 or more")
    return value


def _table_rows(text: str) -> tuple[str, int]:
    table, _, rows = text.partition("=")
    if not table or not rows:
        raise ValueError(f"got {text!r}; rows read TABLE=N, e.g. user_id=300e6")
    return table, _count(rows)


def _device(text: str) -> DeviceName:
    name: DeviceName = current_preset_name(text)
    if name not in DEVICES:
        raise ValueError(f"got {text!r}; known: {', '.join(DEVICES)}")
    return name


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Flags of `ple-rec plan`."""

    _: KW_ONLY
    config: Config = None
    overrides: Set = ()
    hosts: Annotated[int | None, flag("number of hosts; default 1", "N", positive)] = None
    ranks_per_host: Annotated[
        int | None,
        flag(
            "ranks of each host, one a GPU; default 8, and 1 on CPUs",
            "N",
            positive,
            name=("--gpus-per-host", "--ranks-per-host"),
        ),
    ] = None
    device: Annotated[
        DeviceName | None,
        flag("kind of the hosts; for another kind take the nearest, and give its figures in [topology]", "", _device),
    ] = None
    schema: Annotated[
        str | None,
        flag(
            "rows of the tables: a schema.toml, or tencent; default: of the dataset directory, else data.described_by",
            "FILE|NAME",
        ),
    ] = None
    rows: Annotated[
        tuple[tuple[str, int], ...],
        flag(
            "rows of a table in the place of the schema's, e.g. user_id=300e6 (repeatable)",
            "TABLE=N",
            converter=each(_table_rows),
            n_tokens=1,
        ),
    ] = ()
    samples: Annotated[int | None, flag("samples of an epoch in the place of the schema's, e.g. 5e9", "N", _count)] = (
        None
    )
    out: Annotated[Location | None, place("write plan.json there, and plan.html beside it", "FILE")] = None
    find: Annotated[bool, flag("look for the fewest hosts on which the tables fit")] = False
    samples_per_second: Annotated[
        float | None, flag("with --find: the fewest that reach this rate, e.g. 20e6", "N", _number)
    ] = None
    all: Annotated[bool, flag("print every table and every rank")] = False
    roofline: Annotated[bool, flag("print what bounds a step on GPUs at their peaks too: FLOPs, bytes")] = False
    json: Annotated[bool, flag("print the plan as JSON instead of tables")] = False
    compare: Annotated[
        tuple[Location, Location] | None,
        flag("say how two plans differ, then stop", "A B", converter=each(location), accepts_keys=False),
    ] = None


@app.default
def plan(*, options: Options = Options()) -> int:
    """Decide which rank holds which rows of which table.

    By TorchRec's planner and cost model; needs neither the hosts nor a GPU. Prints tables, ranks and the estimated
    step; writes plan.json and its page. Where the tables do not fit, says which breaks which limit, and up to three
    changes that were tried and fit.
    """
    if options.compare is not None:
        return _compare(options, options.compare)
    planned = check(options=options)
    require_torch()
    from ple_rec.planning import run
    from ple_rec.text.messages import messages

    with messages("stderr" if options.json else "stdout"):
        return run.plan(planned)


def check(*, options: Options) -> PlanOptions:
    """Return what is to be planned; needs no torch.

    Raises:
        UserError: flags that do not go together, a configuration that is wrong, a file that cannot be written.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.config.words import either
    from ple_rec.planning.options import Options as PlanOptions
    from ple_rec.planning.options import check_out, cluster_from

    if options.config is None:
        fix = "give one, e.g. --config tencent-ple"
        raise UserError("--config", "missing", "it names a TOML file or a recipe", fix)
    if options.samples_per_second is not None and not options.find:
        raise UserError(
            "--samples-per-second",
            f"{options.samples_per_second:g} without --find",
            "it is what --find is to reach",
            "add --find, or leave it out; a plan says its rate",
        )
    if options.roofline and options.json:
        raise UserError("--roofline", "with --json", "it is text beside the plan's tables", "leave one of them out")
    if options.find and options.hosts is not None:
        raise UserError(
            "--find", f"with --hosts {options.hosts}", "it looks for the number of hosts", "leave out --hosts"
        )
    config = load_config(RunConfig, options.config, options.overrides)
    cluster = cluster_from(config, options.config, options.hosts or 1, options.ranks_per_host, options.device)
    if options.roofline and not cluster.cuda:
        raise UserError(
            "--roofline",
            f"for {cluster.describe()}",
            "it is of GPUs",
            f"give --device {either([device for device in DEVICES if device != 'cpu'])}, or leave it out",
        )
    if options.out is not None:
        check_out(options.out)
    return PlanOptions(
        config=config,
        cluster=cluster,
        schema=options.schema,
        rows=dict(options.rows),
        samples=options.samples,
        out=options.out,
        find=options.find,
        samples_per_second=options.samples_per_second,
        everything=options.all,
        roofline=options.roofline,
        json=options.json,
    )


def _compare(options: Options, plans: tuple[Location, Location]) -> int:
    from ple_rec.config.plan import load_plan
    from ple_rec.planning.compare import format_comparison

    names = ("config", "device", "hosts", "out", "find", "all", "roofline", "json", "schema", "rows", "samples")
    flags = {f"--{name}": getattr(options, name) for name in names}
    flags |= {"--set": options.overrides, "--gpus-per-host": options.ranks_per_host}
    flags |= {"--samples-per-second": options.samples_per_second}
    if odd := [flag for flag, value in flags.items() if value]:
        raise UserError(
            f"--compare {odd[0]}", "both given", "--compare reads two plans and says how they differ", "leave one out"
        )
    a, b = plans
    show(format_comparison(load_plan(a), load_plan(b), (str(a), str(b))))
    return 0
