"""`ple-rec bench serve`: what a server of the reference PLE answers, how fast, and what it does when too much is asked.

Each turn, on the same cores: `predict`'s rate over Parquet, our server asked by so many clients as keep it full and
then at half of that rate, and the usual server likewise. Last, five times the full rate.

Full and half load take turns every two seconds: the speed of a shared machine changes within seconds, and half of what
it could do before is no half of what it can do now.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ple_rec.bench.figures import Figures, Headline, figure_of, ratios
from ple_rec.bench.harness import resident_bytes
from ple_rec.bench.report import Reporter, Results
from ple_rec.bench.serve_client import Asked, Load, joined
from ple_rec.bench.serve_model import PATH, export_reference, requests
from ple_rec.config.precision import AskedPrecision, UsedPrecision
from ple_rec.errors import PleRecError
from ple_rec.parallel.host import usable_cores
from ple_rec.serve.given import Form
from ple_rec.serve.ranker import Ranker, latest
from ple_rec.serve.signature import Signature
from ple_rec.serve.tables import TablePrecision
from ple_rec.text import aligned

_BODIES = 8
_TABLES: tuple[TablePrecision, ...] = ("fp32", "int8", "int4")
_OVERLOAD = 5
_START_SECONDS = 120
_PIECE = 2.0  # seconds of full, then of half load
_SEEDS = 1000  # moments of requests that a turn may have
_PAIRS = 10  # of calls with and without the user's share computed once
_PLACE = re.compile(r"http://127\.0\.0\.1:(\d+)")


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    threads = usable_cores()
    report = Reporter(args, threads)
    with tempfile.TemporaryDirectory() as folder:
        size = (args.users, args.items, args.clients, args.seconds, args.repeats)
        results = measure(Path(folder), *size, report.say, args.dense, args.form)
    report.finish(results, figures(results), headline(results), lines)
    return 0


def measure(
    folder: Path,
    users: int,
    items: int,
    clients: int,
    seconds: float,
    repeats: int,
    say: Callable[[str], None],
    dense: AskedPrecision = "auto",
    form: Form = "columns",
) -> Results:
    """All of it.

    Args:
        folder: For data, run, models and requests.
        users: Rows of the table of users.
        items: Of a request.
        clients: That ask one request after the other, for the full load.
        seconds: Of each load, in pieces of some two seconds.
        repeats: Turns that count, after a short one that does not.
        say: Told of every turn.
        dense: Of our server's matrix products; `predict` and the usual server have fp32.
        form: Of our server's requests; the usual one, whose schema is of rows, has the same items so.
    """
    say(f"a dataset of {users:,} users, a run, and its export in {', '.join(_TABLES)}")
    models = export_reference(folder, users, _TABLES, dense)
    version = latest(models["fp32"])
    signature = Signature.model_validate(_described(models["fp32"])["signature"], strict=False)
    asked = requests(version, signature.inputs, _BODIES, items)
    in_rows = [json.dumps(document) for document in asked]
    in_form = in_rows if form == "rows" else [json.dumps(in_columns(document)) for document in asked]
    bodies = {"ours": _written(folder / "ours", in_form), "plain": _written(folder / "plain", in_rows)}
    ours = [sys.executable, "-P", "-m", "ple_rec", "serve", str(models["fp32"]), "--port", "0"]
    plain = [sys.executable, "-P", "-m", "ple_rec.bench.serve_plain", str(version)]
    turns: list[dict[str, float]] = []

    def load(name: str, port: int, **more: Any) -> Asked:
        return _ask(folder, Load(port, PATH, bodies[name], **more))

    with server(ours) as served, server(plain) as usual:
        used = _used(served[1])
        once = _user_once(Ranker(version, dense=used), asked)
        for turn in range(repeats + 1):
            long = seconds if turn else min(seconds, 1.0)
            found: dict[str, float] = {"predict": _predict_rate(folder, turn)}
            for name, (_, port) in {"ours": served, "plain": usual}.items():
                pieces: dict[str, list[Asked]] = {"full": [], "half": []}
                for part, length in enumerate(_parts(long)):
                    pieces["full"].append(load(name, port, seconds=length, clients=clients))
                    rate, seed = pieces["full"][-1].rate() / 2, turn * _SEEDS + part
                    pieces["half"].append(load(name, port, seconds=length, rate=rate, seed=seed))
                full, half = joined(pieces["full"]), joined(pieces["half"])
                found |= {
                    f"{name} rate": full.rate() * items,
                    f"{name} full p50": full.quantile(0.5),
                    f"{name} full p99": full.quantile(0.99),
                    f"{name} half p50": half.quantile(0.5),
                    f"{name} half p99": half.quantile(0.99),
                    f"{name} failed": 1 - min(full.share(200), half.share(200)),
                }
            if turn:
                turns.append(found)
                say(f"turn {turn} of {repeats}: " + ", ".join(f"{name} {value:,.4g}" for name, value in found.items()))
        rate = statistics.median(found["ours rate"] for found in turns) / items
        process, port = served
        before = resident_bytes("VmRSS", process)
        over = load("ours", port, seconds=seconds, rate=_OVERLOAD * rate)
        after = resident_bytes("VmRSS", process)
        say(f"{_OVERLOAD} x {rate:,.1f} requests/s: {over.share(200):.0%} served, {over.share(503):.0%} refused by 503")
        again = load("ours", port, seconds=min(seconds, 2.0), rate=rate / 2)
    sizes = {name: sum(table["bytes"] for table in _described(path)["tables"]) for name, path in models.items()}
    return {
        "subject": "serve",
        "data": {
            "users": users,
            "items": items,
            "request_bytes": _length(in_form),
            "plain_bytes": _length(in_rows),
        },
        "settings": {"clients": clients, "seconds": seconds, "turns": repeats, "dense": dense, "form": form},
        "dense_used": used,
        "turns": turns,
        "once": once,
        "overload": {
            "asked_per_second": _OVERLOAD * rate,
            "served": over.share(200),
            "refused": over.share(503),
            "other": 1 - over.share(200, 503),
            "served_per_second": over.rate(),
            "p50": over.quantile(0.5),
            "p99": over.quantile(0.99),
            "grown_bytes": after - before,
            "served_after": again.share(200),
        },
        "table_bytes": sizes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


def in_columns(document: dict[str, Any]) -> dict[str, Any]:
    """The request with its items as columns."""
    items = document["items"]
    return document | {"items": {name: [item[name] for item in items] for name in items[0]}}


def _parts(seconds: float) -> list[float]:
    """Seconds of each piece of a load."""
    count = max(1, round(seconds / _PIECE))
    return [seconds / count] * count


def _length(texts: Sequence[str]) -> float:
    """Characters of a text, on average."""
    return statistics.mean(map(len, texts))


def _written(folder: Path, texts: Sequence[str]) -> list[str]:
    """Files of the texts."""
    folder.mkdir()
    files = [folder / f"{i}.json" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return list(map(str, files))


def _user_once(ranker: Ranker, documents: Sequence[Any]) -> dict[str, list[float]]:
    """Milliseconds of a call of the model, with the user's share computed once and for every item, by turns."""
    asked = [ranker.read_rank(document) for document in documents]
    found: dict[str, list[float]] = {"once": [], "each": []}
    for turn in range(_PAIRS + 1):
        for name in found:
            begun = time.perf_counter()
            ranker.scored([asked[turn % len(asked)]], grouped=name == "once")
            if turn:
                found[name].append(1000 * (time.perf_counter() - begun))
    return found


def _predict_rate(folder: Path, turn: int) -> float:
    """Rows a second of `ple-rec predict` over the training split, without its start."""
    out = folder / f"predictions-{turn}"
    verb = [sys.executable, "-P", "-m", "ple_rec", "predict", str(folder / "run"), "--split", "train", "--json"]
    verb += ["--set", f"runtime.threads={usable_cores()}"]
    done = subprocess.run([*verb, "--out", str(out)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(json.loads(done.stdout)["rows_per_second"])


@contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A server; its process and port."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            place = _PLACE.search(process.stdout.readline())
            if place is None:
                ended = "it ended before it listened"
                raise PleRecError(command[4], ended, "a benchmark needs both servers", f"run {' '.join(command)}")
            yield process.pid, int(place[1])
        finally:
            process.terminate()
            try:
                process.wait(_START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _used(port: int) -> UsedPrecision:
    """The precision that the server has settled on."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS)
    connection.request("GET", "/v1/model")
    used: UsedPrecision = json.load(connection.getresponse())["dense"]["used"]
    connection.close()
    return used


def _ask(folder: Path, load: Load) -> Asked:
    """A load by a process of its own."""
    order = folder / "order.json"
    order.write_text(json.dumps([asdict(load)]), encoding="utf-8")
    client = [sys.executable, "-P", "-m", "ple_rec.bench.serve_client", str(order)]
    done = subprocess.run(client, check=True, stdout=subprocess.PIPE)
    return Asked(**json.loads(done.stdout)[0])


def _described(model_dir: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((latest(model_dir) / "model.json").read_text(encoding="utf-8"))
    return found


def figures(results: Results) -> Figures:
    """What the final lines say."""
    turns, over, sizes = results["turns"], results["overload"], results["table_bytes"]

    def of(name: str) -> list[float]:
        return [turn[name] for turn in turns]

    return {
        "rows_per_second": figure_of(of("ours rate")).rounded(0),
        "predict_rows_per_second": figure_of(of("predict")).rounded(0),
        "of_predict": ratios(of("ours rate"), of("predict")).rounded(2),
        "half_p50_ms": figure_of(of("ours half p50")).rounded(1),
        "half_p99_ms": figure_of(of("ours half p99")).rounded(1),
        "full_p99_ms": figure_of(of("ours full p99")).rounded(1),
        "overload_served_p99_ms": figure_of([over["p99"]]).rounded(1),
        "overload_refused": figure_of([over["refused"]]).rounded(3),
        "overload_other": figure_of([over["other"]]).rounded(3),
        "over_plain": ratios(of("ours rate"), of("plain rate")).rounded(2),
        "user_once": ratios(results["once"]["each"], results["once"]["once"]).rounded(2),
        "int8_of_fp32": figure_of([sizes["int8"] / sizes["fp32"]]).rounded(4),
        "int4_of_fp32": figure_of([sizes["int4"] / sizes["fp32"]]).rounded(4),
    }


def headline(results: Results) -> Headline:
    """In one line."""
    turns = results["turns"]
    limit = figure_of([turn["predict"] for turn in turns]).value
    measured = figure_of([turn["ours rate"] for turn in turns])
    form = results["settings"]["form"]
    what = f"serve in {results['dense_used']}, {results['data']['items']} items a request in {form}"
    return Headline(what, "rows/s", measured, "predict", limit, results["peak_bytes"])


def lines(results: Results) -> list[str]:
    """A table, and what the overload did."""
    turns, over = results["turns"], results["overload"]
    names = {"rate": "rows a second", "half p50": "half load, p50 ms", "half p99": "half load, p99 ms"}
    names |= {"full p50": "full load, p50 ms", "full p99": "full load, p99 ms", "failed": "not answered by 200"}
    form = results["settings"]["form"]
    ours = f"ple-rec serve, {results['dense_used']}, {form}"
    table = [("median of the turns", ours, "plain torch + FastAPI, fp32, rows")]
    for key, title in names.items():
        digits = ".3f" if key == "failed" else ",.0f" if key == "rate" else ",.1f"
        of_ours, of_plain = (figure_of([turn[f"{who} {key}"] for turn in turns]).value for who in ("ours", "plain"))
        table.append((title, format(of_ours, digits), format(of_plain, digits)))
    asked, quantiles = over["asked_per_second"], f"p50 {over['p50']:,.1f} and p99 {over['p99']:,.1f} ms"
    shares = f"{over['refused']:.1%} refused by 503, {over['other']:.1%} else"
    after = f"{over['grown_bytes'] / 2**20:+,.0f} MiB; half load after it: {over['served_after']:.1%} served"
    return [
        *aligned(table),
        f"{_OVERLOAD} times the full rate, {asked:,.0f} requests/s: {over['served']:.1%} served with {quantiles}",
        f"{shares}; {after}",
    ]
