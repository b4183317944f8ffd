"""Rate and latency of `ple-rec serve` with the reference PLE, by candidates per request, beside a usual server.

    python -m benchmarks.serve [--items N ...] [--dense P] [--other NAME=COMMAND ...]

The usual server (`benchmarks.plain_server`) is FastAPI with a pydantic body and one call of the model per request. Both
serve the same model: the usual server all in fp32, ours with fp32 tables and dense layers in the precision `--dense`.
Each client sends one request after the other. The servers take turns of a few seconds on the same cores. `--other` adds
a server, such as an older version of ours: its command gets the folder of the model as last argument, and has to print
its address in its first line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.feed import SHARED_FEATURES, write_feed
from benchmarks.harness import conditions, parser, say, scratch_folder
from benchmarks.load import LoadResult, post_requests
from benchmarks.reference import RECIPE, run_overrides
from ple_rec.config.choices import TablePrecision
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.data.encode import Encoder
from ple_rec.errors import PleRecError
from ple_rec.inference.export import export
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.ranker import latest_version
from ple_rec.inference.signature import InputFeature, Signature
from ple_rec.text import align_columns
from ple_rec.training.run import train

PATH = "/v1/rank"
_BODIES = 8  # Number of different requests, which the clients send again and again.
_OURS, _PLAIN = "ple-rec serve, columns", "plain torch + FastAPI, fp32, rows"
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


def export_reference(folder: Path, users: int, dense: Any, precision: TablePrecision = "fp32") -> Path:
    """Train the reference model for one step, export it, and return the folder of the exported model.

    Args:
        folder: Folder in which dataset, run and exported model are written.
        users: Approximate number of rows of the user table.
        dense: Precision of the dense layers: "fp32", "bf16" or "auto".
        precision: Precision of the tables.
    """
    write_feed(folder / "data", users, 65_536)
    overrides = run_overrides(
        folder / "data", 1, "train.precision=fp32", "train.steps=1", "train.batch_size_per_rank=4096"
    )
    config = load_config(RunConfig, RECIPE, overrides)
    with contextlib.redirect_stdout(sys.stderr):
        train(config, folder / "run")
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    # The weights are nearly random, so what a lower precision costs in AUC means nothing; these limits allow any cost.
    bounds: dict[str, Any] = {"check_rows": 2_000, "tolerance": 1.0, "auc_loss": 1.0}
    options = ExportOptions(precision, dense, user_features=SHARED_FEATURES, **bounds)
    export(config, metrics, folder / "run", folder / "model", options)
    return folder / "model"


def make_requests(version: Path, signature: Sequence[InputFeature], count: int, items: int) -> list[dict[str, Any]]:
    """Return request bodies with a random value for each feature of the user and of the items, which are columns.

    Args:
        version: Folder of a version of the exported model.
        signature: Features of a request.
        count: Number of requests.
        items: Number of candidates of each request.
    """
    random, schema = np.random.default_rng(0), load_schema(version)
    rows, sparse = schema.table_rows(), {feature.name: feature for feature in schema.sparse}
    encoder = Encoder(version, [sparse[each.name] for each in signature if not each.dense], sealed=True)

    def values(feature: InputFeature, number: int) -> list[Any]:
        if feature.dense:
            return [float(x) for x in np.round(random.gamma(2.0, 20.0, number), 2)]
        # Row 0 of a table stands for missing and unknown values.
        return encoder.example_values(
            feature.name, random.integers(1, rows[sparse[feature.name].table], number).tolist()
        )

    return [
        {
            "user": {feature.name: values(feature, 1)[0] for feature in signature if feature.of == "user"},
            "items": {feature.name: values(feature, items) for feature in signature if feature.of == "item"},
        }
        for _ in range(count)
    ]


@contextmanager
def start_server(command: Sequence[str]) -> Iterator[int]:
    """Start a server, yield its port, and end it after the block.

    Raises:
        PleRecError: The first line of its output has no address.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            if (address_match := _ADDRESS.search(process.stdout.readline())) is None:
                raise PleRecError(
                    shlex.join(command),
                    "printed no address in its first line",
                    "a server first prints http://127.0.0.1:PORT",
                    "run the command by hand",
                )
            yield int(address_match[1])
        finally:
            process.terminate()


def measure(folder: Path, args: argparse.Namespace) -> dict[str, dict[int, list[LoadResult]]]:
    """Return the results of the turns that count, by name of the server and number of candidates."""
    model = export_reference(folder, args.users, args.dense)
    version = latest_version(model)
    described = json.loads((version / "model.json").read_text(encoding="utf-8"))
    signature = Signature.model_validate(described["signature"], strict=False)
    commands = {
        _OURS: [sys.executable, "-m", "ple_rec", "serve", str(model), "--port", "0"],
        _PLAIN: [sys.executable, "-m", "benchmarks.plain_server", str(version)],
    }
    for other in args.other:
        name, _, command = other.partition("=")
        commands[name] = [*shlex.split(command), str(model)]
    results: dict[str, dict[int, list[LoadResult]]] = {name: {items: [] for items in args.items} for name in commands}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(start_server(command)) for name, command in commands.items()}
        for items in args.items:
            documents = make_requests(version, signature.inputs, _BODIES, items)
            bodies = {name: [json.dumps(document).encode() for document in documents] for name in ports}
            bodies[_PLAIN] = [json.dumps(with_items_as_rows(document)).encode() for document in documents]
            for turn in range(args.repeats + 1):
                for name, port in ports.items():
                    answers = post_requests(port, PATH, bodies[name], seconds=args.seconds, clients=args.clients)
                    if turn:  # Turn 0 is a warm-up.
                        results[name][items].append(answers)
                    say(f"{items} items, turn {turn}: {name} {answers.per_second * items:,.0f} rows/s")
    return results


def with_items_as_rows(document: dict[str, Any]) -> dict[str, Any]:
    """Return a request whose items are columns with its items as rows, as the usual server reads them."""
    columns = document["items"]
    return document | {"items": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--items", type=int, nargs="+", default=[1, 16, 64, 250, 500], metavar="N")
    arguments.add_argument("--users", type=int, default=100_000, metavar="N", help="rows of the users' table")
    arguments.add_argument("--clients", type=int, default=4, metavar="N", help="clients at a time; default 4")
    arguments.add_argument("--seconds", type=float, default=2.0, metavar="S", help="duration of a turn; default 2")
    arguments.add_argument("--dense", choices=["fp32", "bf16", "auto"], default="auto", help="precision; default auto")
    arguments.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND", help="another server")
    args = arguments.parse_args()
    with scratch_folder() as folder:
        results = measure(Path(folder), args)
    rows = [("candidates", "server", "rows/s", "of plain", "p50 ms", "p99 ms", "not 200")]
    record = []
    for items in args.items:
        plain = [answers.per_second for answers in results[_PLAIN][items]]
        for name in results:
            turns = results[name][items]
            rate = statistics.median(answers.per_second for answers in turns)
            ratio = statistics.median(a.per_second / max(b, 1e-9) for a, b in zip(turns, plain, strict=True))
            p50, p99 = (statistics.median(answers.quantile(q) for answers in turns) for q in (0.5, 0.99))
            failed = sum(len(answers.statuses) - answers.statuses.count(200) for answers in turns)
            rows.append(
                (f"{items}", name, f"{rate * items:,.0f}", f"{ratio:.2f}", f"{p50:.1f}", f"{p99:.1f}", f"{failed}")
            )
            record.append({"items": items, "server": name, "requests": [vars(answers) for answers in turns]})
    lines = [
        *align_columns(rows, left_columns=(1,)),
        "",
        *(f"{key}: {value}" for key, value in conditions(args).items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps({"conditions": conditions(args), "measured": record}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
