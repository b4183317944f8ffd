"""Latency of `ple-rec serve` while it takes deltas of a model, beside no new versions and whole ones.

    python -m benchmarks.delta_requests [--users N] [--changed SHARE] [--items N] [--seconds S] [--repeats N]

Three servers have the reference PLE (`benchmarks.reference`) with tables in int8:

    none     `latest` stays
    delta    in each turn, `latest` names `--versions` new deltas; each changes the share `--changed` of rows and values
    whole    the same with whole versions

They take turns of `--seconds` on the same cores, under the load of `--clients` clients, each of which sends one request
after the other. A new version is named at equal intervals of a turn. After a turn, the command waits until the last one
is served. p50 and p99 are medians over the turns. "seconds" is the median time from the moment when `latest` names a
version until it is served; a server looks at `latest` once a second, so that half a second of it is waiting.

`--users 5300000` gives tables of 5 million users; the other tables grow with them. A chain of deltas should change at
most a quarter of the rows, so (repeats + 1) * versions * changed should be below .25.

Shape suffix: E changed rows.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.harness import conditions, parser, say, scratch_folder
from benchmarks.load import LoadResult, post_requests
from benchmarks.serve import PATH, export_reference, make_requests, start_server
from ple_rec.config.load import load_schema
from ple_rec.config.schema import VOCAB_DIR
from ple_rec.data.encode import Encoder
from ple_rec.data.vocabulary_changes import VocabularyChanges
from ple_rec.inference.delta import (
    DeltaInfo,
    changed_rows_file,
    manifest_digest,
    vocabulary_changes_file,
    write_changed_rows,
    write_vocabulary_changes,
)
from ple_rec.inference.manifest import MANIFEST, MODEL_FILE, write_manifest
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.tables import ChangedRows
from ple_rec.storage import write_text
from ple_rec.text import align_columns

_BODIES = 8  # Number of different requests, which the clients send again and again.
_VOCABULARY_ROWS = 1_000  # Smallest number of rows of a table that gets a vocabulary.
_CASES = ("none", "delta", "whole")
_VERSION = re.compile(r'ple_rec_model_info\{[^}]*version="(v[0-9]+)"')
_POLL_SECONDS, _LIMIT_SECONDS = 0.05, 600.0


@dataclass
class CaseResult:
    """Measured turns of a server.

    Args:
        turns: Answers of each turn.
        seconds: Seconds until each new version was served.
    """

    turns: list[LoadResult] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def add_vocabularies(version: Path) -> None:
    """Give each large table of the exported version a vocabulary, as tables of real logs have one.

    The reference dataset has none, so the raw value of a row is its number.
    """
    schema = load_schema(version)
    description = json.loads((version / MODEL_FILE).read_text(encoding="utf-8"))
    used = {table["name"] for table in description["tables"]}
    for table in schema.tables:
        if table.name in used and table.rows >= _VOCABULARY_ROWS:
            rows = np.arange(1, table.rows, dtype=np.int32)
            columns = {"raw": pa.array(rows, pa.int64()), "row": rows}
            pq.write_table(pa.table(columns), version / VOCAB_DIR / f"{table.name}.parquet")
    # An export has the indices of its vocabularies, which this encoder builds.
    Encoder(version, [feature for feature in schema.sparse if feature.table in used])
    write_manifest(version)


def write_deltas(versions: Path, ranker: Ranker, count: int, share: float) -> int:
    """Write deltas v2, v3, ... of the whole version v1, each of the one before, and return the bytes of the last one.

    A changed row gets the content of another row, and the values of changed rows change places.

    Args:
        versions: Folder of the versions.
        ranker: Version v1 in memory.
        count: Number of deltas.
        share: Share of the rows of each table that a delta changes; no row changes twice.
    """
    random = np.random.default_rng(0)
    orders = {name: random.permutation(table.rows).astype(np.int32) for name, table in ranker.arrays.tables.items()}
    for number in range(count):
        base, folder = versions / f"v{number + 1}", versions / f"v{number + 2}"
        folder.mkdir()
        for file in (versions / "v1").iterdir():
            if file.is_file() and file.name != MANIFEST:
                shutil.copyfile(file, folder / file.name)
        (folder / "tables").mkdir()
        (folder / "vocab").mkdir()
        description = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        for entry in description["tables"]:
            name = entry["name"]
            table, size = ranker.arrays.tables[name], max(1, int(share * entry["rows"]))
            rows_E = np.sort(orders[name][number * size : (number + 1) * size])
            contents_E = torch.from_numpy(random.integers(0, table.rows, len(rows_E), np.int32))
            changes = ChangedRows(torch.from_numpy(rows_E), table.stored_rows(contents_E))
            entry["changed"], entry["file"] = len(rows_E), changed_rows_file(name, entry["precision"])
            write_changed_rows(folder / "tables" / entry["file"], changes)
            if (vocabulary := ranker.arrays.encoder.vocabularies.get(name)) is not None:
                rows_E = rows_E[(rows_E > 0) & (rows_E <= len(vocabulary))]
                values_E = pa.array(vocabulary.values(rows_E.tolist()))
                moved_E = values_E.take(pa.array(np.roll(np.arange(len(rows_E)), 1)))
                moved = VocabularyChanges(rows_E, moved_E, values_E)
                write_vocabulary_changes(folder / "vocab" / vocabulary_changes_file(name), moved)
        description["delta"] = vars(DeltaInfo(base.name, manifest_digest(base), (number + 1) * share))
        (folder / MODEL_FILE).write_text(json.dumps(description) + "\n", encoding="utf-8")
        write_manifest(folder)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def copy_models(model: Path, folder: Path, versions: int) -> dict[str, Path]:
    """Return the folders of the three models, which share the files of v1; that of "whole" has copies of v1.

    Args:
        model: Exported model with the version v1.
        folder: Folder in which the models are written.
        versions: Number of the last version.
    """
    models = {name: folder / name for name in _CASES}
    for name, path in models.items():
        (path / "versions").mkdir(parents=True)
        for number in range(1, (versions if name == "whole" else 1) + 1):
            # The tables are large, so the whole versions are links to the same files.
            shutil.copytree(model / "versions/v1", path / f"versions/v{number}", copy_function=_link)
        write_text(path / "latest", "v1")
    return models


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def served_version(port: int) -> str:
    """Return the name of the version that a server uses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    match = _VERSION.search(text)
    assert match is not None
    return match[1]


def run_turn(
    model: Path, port: int, bodies: list[bytes], new: list[str], args: argparse.Namespace
) -> tuple[LoadResult, list[float]]:
    """Send requests for the duration of a turn while new versions are named, and wait until the last one is served.

    Args:
        model: Folder of the model.
        port: Port of the server.
        bodies: Bodies of the requests.
        new: Names of the new versions.
        args: Arguments of the benchmark.

    Returns:
        Answers, and the seconds until each version was served.
    """
    seconds = list[float]()
    begun = time.perf_counter()

    def name_versions() -> None:
        for i, name in enumerate(new):
            time.sleep(max(0.0, begun + (i + 0.25) * args.seconds / len(new) - time.perf_counter()))
            write_text(model / "latest", name)
            named = time.perf_counter()
            while served_version(port) != name:
                if time.perf_counter() - named > _LIMIT_SECONDS:
                    raise TimeoutError(f"{name} is not served")
                time.sleep(_POLL_SECONDS)
            seconds.append(time.perf_counter() - named)

    thread = threading.Thread(target=name_versions)
    thread.start()
    answers = post_requests(port, PATH, bodies, seconds=args.seconds, clients=args.clients)
    thread.join()
    return answers, seconds


def measure(folder: Path, args: argparse.Namespace) -> tuple[dict[str, CaseResult], dict[str, int]]:
    """Return the results by case, and the bytes of a whole version and of a delta."""
    count = (args.repeats + 1) * args.versions
    exported = export_reference(folder, args.users, "fp32", "int8")
    version = exported / "versions/v1"
    add_vocabularies(version)
    models = copy_models(exported, folder, count + 1)
    ranker = Ranker(version, 1)
    sizes = {"whole": sum(file.stat().st_size for file in version.rglob("*") if file.is_file())}
    sizes["delta"] = write_deltas(models["delta"] / "versions", ranker, count, args.changed)
    documents = make_requests(version, ranker.signature.inputs, _BODIES, args.items)
    del ranker
    bodies = [json.dumps(document).encode() for document in documents]
    results = {name: CaseResult() for name in _CASES}
    with ExitStack() as stack:
        ports = {}
        for name, model in models.items():
            command = [sys.executable, "-m", "ple_rec", "serve", str(model), "--port", "0"]
            ports[name] = stack.enter_context(start_server(command))
        for turn in range(args.repeats + 1):
            first = turn * args.versions + 2
            for name, port in ports.items():
                new = [] if name == "none" else [f"v{first + i}" for i in range(args.versions)]
                answers, seconds = run_turn(models[name], port, bodies, new, args)
                if turn:  # Turn 0 is a warm-up.
                    results[name].turns.append(answers)
                    results[name].seconds += seconds
                say(f"turn {turn}: {name} p99 {answers.quantile(0.99):.1f} ms, versions {seconds}")
    return results, sizes


def table_rows(results: dict[str, CaseResult]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the printed table."""
    yield "new versions", "requests/s", "p50 ms", "p99 ms", "max ms", "not 200", "seconds"
    for name, result in results.items():
        rate = statistics.median(turn.per_second for turn in result.turns)
        p50, p99 = (statistics.median(turn.quantile(q) for turn in result.turns) for q in (0.5, 0.99))
        longest = max(turn.quantile(1.0) for turn in result.turns)
        failed = sum(len(turn.statuses) - turn.statuses.count(200) for turn in result.turns)
        seconds = f"{statistics.median(result.seconds):.2f}" if result.seconds else ""
        yield name, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", f"{longest:.1f}", f"{failed}", seconds


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--users", type=int, default=100_000, metavar="N", help="rows of the users' table")
    arguments.add_argument("--changed", type=float, default=0.02, metavar="SHARE", help="share of rows; default .02")
    arguments.add_argument("--items", type=int, default=100, metavar="N", help="candidates of a request; default 100")
    arguments.add_argument("--clients", type=int, default=2, metavar="N", help="clients at a time; default 2")
    arguments.add_argument("--seconds", type=float, default=4.0, metavar="S", help="duration of a turn; default 4")
    arguments.add_argument("--versions", type=int, default=2, metavar="N", help="new versions in a turn; default 2")
    args = arguments.parse_args()
    with scratch_folder() as folder:
        results, sizes = measure(Path(folder), args)
    lines = [
        *align_columns(list(table_rows(results)), left_columns=(0,)),
        "",
        f"bytes: whole {sizes['whole']:,}, delta {sizes['delta']:,}",
        *(f"{key}: {value}" for key, value in conditions(args).items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if args.json is not None:
        measured: dict[str, Any] = {
            name: {"turns": [vars(turn) for turn in each.turns], "seconds": each.seconds}
            for name, each in results.items()
        }
        record = {"conditions": conditions(args), "bytes": sizes, "measured": measured}
        args.json.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
