"""How long the worst request of each size keeps small ones waiting.

    python -m ple_rec.bench.serve_worst MODEL_DIR

A server of the model is asked small requests, one after the other, while bodies that were made to be slow are sent:
some are refused, some are answered. What a small request takes at most is how long another can hold the server.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ple_rec.bench.serve import server
from ple_rec.serve.given import MAX_ITEMS
from ple_rec.serve.http.body import MAX_PIECES
from ple_rec.serve.model_dir import latest
from ple_rec.serve.signature import Input, Signature
from ple_rec.serve.values import MAX_BAG, MAX_VALUES
from ple_rec.text import aligned

SIZES = {"1 kB": 1_000, "100 kB": 100_000, "1 MB": 1_000_000, "4 MiB": 4 << 20}
_TIMES = 5  # that each body is sent
_QUIET = 300  # small requests before the others
_FOUR_BYTES = "\U0001f600"  # in UTF-8


class Held(NamedTuple):
    """Small requests beside one body.

    Args:
        kind: Kind of the body.
        status: Status of its answers.
        answered: Milliseconds to its answer, the longest.
        small: Milliseconds of each small request.
    """

    kind: str
    status: int
    answered: float
    small: list[float]


def bodies(signature: Signature, size: int) -> Iterator[tuple[str, bytes]]:
    """Return bodies of `/v1/rank` that take long for their bytes, by kind.

    Args:
        signature: Inputs of the model.
        size: Bytes of a body, at most.
    """
    of_items = signature.of("item") or signature.inputs
    single = _first(of_items, "text", bag=False) or of_items[0]
    bag = _first(of_items, "text", bag=True) or _first(of_items, "int", bag=True)
    room = size - 200 - sum(len(each.name) + 10 for each in of_items)
    items = min(MAX_ITEMS, room // 6)
    rows = f'"items": [{",".join(["{}"] * items)}]'
    yield "one text", f'{{"items": [{{"{single.name}": "{"x" * room}"}}]}}'.encode()
    yield "one text, four bytes a letter", f'{{"items": [{{"{single.name}": "{_FOUR_BYTES * (room // 4)}"}}]}}'.encode()
    yield "a text of all items", f'{{"user": {{"{single.name}": "{"x" * (room - 3 * items)}"}}, {rows}}}'.encode()
    yield "a number", f'{{"items": [{{"{single.name}": {"1" * room}}}]}}'.encode()
    yield "a name", f'{{"items": [{{"{"x" * room}": 1}}]}}'.encode()
    yield "names", _listed([f'"{i:x}": 1' for i in range(min(room // 12, MAX_PIECES - 9))], '{"user": {', "}}")
    pieces = {"numbers": "7", "lists": "[]", "objects": '{"a": 1}', "nested lists": "[" * 500 + "]" * 500}
    for kind, piece in pieces.items():
        count = room // (len(piece) + 1)
        taken = min(count, (MAX_PIECES - 9) // (1 + piece.count("[") + piece.count("{")))
        yield f"{kind} for a user", _listed([piece] * taken, '{"user": [', "]}")
        yield f"{kind}, as many as fit", _listed([piece] * count, '{"user": [', "]}")
    columns = [each for each in of_items if each.type == "int" and not each.bag]
    count = max(1, min(MAX_ITEMS, room // (22 * max(1, len(columns)))))
    ids = json.dumps([str(9_100_000_000_000_000_000 + i) for i in range(count)])
    yield "ids as text", _listed([f'"{each.name}": {ids}' for each in columns], '{"items": {', "}}")
    if bag is not None:
        texts = [f'"{i:07x}"' if bag.type == "text" else str(10**9 + i) for i in range(min(room // 11, MAX_VALUES))]
        bags = [f"[{','.join(texts[i : i + MAX_BAG])}]" for i in range(0, len(texts), MAX_BAG)]
        yield "bags of unknown values", f'{{"items": {{"{bag.name}": [{",".join(bags)}]}}}}'.encode()
        of_all = f"[{','.join(texts[: min(MAX_BAG, room // 22)])}]"
        yield "a bag of all items", f'{{"user": {{"{bag.name}": {of_all}}}, {rows}}}'.encode()


def _first(inputs: Sequence[Input], kind: str, *, bag: bool) -> Input | None:
    return next((each for each in inputs if (each.type, each.bag, each.weighted) == (kind, bag, False)), None)


def _listed(pieces: Sequence[str], begin: str, end: str) -> bytes:
    return f"{begin}{','.join(pieces)}{end}".encode()


def beside(port: int, sent: Sequence[tuple[str, bytes]]) -> Iterator[Held]:
    """Send each body some times, and small requests all the while.

    Args:
        port: Port of the server.
        sent: Kind and content of each body.
    """
    small: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            while not over.is_set():
                small.append(_ask(connection, b'{"items": [{}]}')[1])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        while len(small) < _QUIET:
            time.sleep(0.01)
        yield Held("nothing", 0, 0.0, small[_QUIET // 3 :])
        for kind, body in sent:
            begin = len(small)
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                answers = [_ask(connection, body) for _ in range(_TIMES)]
            end = len(small) + 1
            while len(small) < end:  # what was on its way
                time.sleep(0.001)
            yield Held(kind, answers[0][0], max(took for _, took in answers), small[begin:end])
    finally:
        over.set()
        asking.join()


def _ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, float]:
    """Return status and milliseconds of one request."""
    begun = time.perf_counter()
    connection.request("POST", "/v1/rank", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status, 1000 * (time.perf_counter() - begun)


def lines(held: dict[str, list[Held]]) -> list[str]:
    """Return a table: of each size what a small request took, and the body beside which it took longest."""
    table: list[tuple[str, ...]] = [("body", "small p50 ms", "p99", "longest", "beside", "status", "its own ms")]
    for size, each in held.items():
        worst = max(each, key=lambda one: max(one.small))
        every = sorted(took for one in each for took in one.small)
        quantiles = (statistics.median(every), every[int(0.99 * (len(every) - 1))], every[-1])
        told = (worst.kind, str(worst.status), f"{worst.answered:.1f}")
        table.append((size, *(f"{value:.1f}" for value in quantiles), *(told if worst.status else ("", "", ""))))
    return aligned(table)


def main(model_dir: Path) -> None:
    """Measure, print."""
    described = json.loads((latest(model_dir) / "model.json").read_text(encoding="utf-8"))
    signature = Signature.model_validate(described["signature"], strict=False)
    held: dict[str, list[Held]] = {"none": []}
    with server([sys.executable, "-P", "-m", "ple_rec", "serve", str(model_dir), "--port", "0"]) as (_, port):
        for name, size in SIZES.items():
            quiet, *held[name] = beside(port, list(bodies(signature, size)))
            held["none"].append(quiet)
    sys.stdout.write("\n".join(lines(held)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
