"""What users have on disk, on the wire and on the command line, as JSON documents that two versions can be held to."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.golden.doors import succeed
from tests.golden.steps import LAST, VERSION, plan

_PAGES = (".html",)  # of people: no program reads them
_PROSE = {"title", "summary", "description", "example", "examples"}
_NAMES = {"paths", "schemas", "properties", "responses"}  # keys of these are names, not words of the format
_OTHERS = {"versions", "card"}  # keys below depend on what is installed, or are those of model.json again


def keys(document: Any) -> dict[str, str]:
    """Return every key of a document, such as `tables[].shards[].rank`, with the types of its values."""
    found: dict[str, set[str]] = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, dict) and place.rpartition(".")[2] not in _OTHERS:
            for key, each in value.items():
                walk(each, f"{place}.{key}" if place else key)
        elif isinstance(value, list):
            for each in value:
                walk(each, f"{place}[]")
        if place:
            found.setdefault(place, set()).add(_type(value))

    walk(document, "")
    return {place: " or ".join(sorted(types)) for place, types in sorted(found.items())}


def _type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "text", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(file.read_text())


def read_lines(file: Path) -> list[Any]:
    """Return the records of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def files(folder: Path) -> list[str]:
    """Return the names of all files below a folder, but those of pages and locks."""
    found = (file for file in folder.rglob("*") if file.is_file() and not file.name.endswith("lock"))
    return sorted(str(file.relative_to(folder)) for file in found if file.suffix not in _PAGES)


def dataset(path: Path) -> dict[str, Any]:
    """Return the SHA-256 of every file of a dataset directory, and what `_SUCCESS` says beside such digests.

    Parquet files name the pyarrow that wrote them, so its version is told too.
    """
    success = read_json(path / "_SUCCESS")
    entries = success.pop("files")
    named = {name: sorted(entry) for name, entry in entries.items() if not name.endswith(_PAGES)}
    digests = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in files(path)}
    del digests["_SUCCESS"]  # it has the digest of the page
    return {"pyarrow": pa.__version__, "sha256": digests, "_SUCCESS": success, "_SUCCESS.files": named}


def run(path: Path) -> dict[str, Any]:
    """Return the files of a run directory and the keys of each, as training has left it."""
    records = read_lines(path / "train.jsonl")
    splits = sorted({record["split"] for record in records})
    checkpoint = path / "checkpoints" / f"step-{LAST}"
    return {
        "files": files(path),
        "config.toml": keys(tomllib.loads((path / "config.toml").read_text())),
        "train.jsonl": {split: keys([r for r in records if r["split"] == split]) for split in splits},
        "metrics.json": keys(read_json(path / "metrics.json")),
        "plan.json": keys(read_json(path / "plan.json")),
        "manifest.json": keys(read_json(checkpoint / "manifest.json")),
        "latest": (path / "checkpoints" / "latest").read_text(),
    }


def checkpoint(path: Path, at: Path) -> dict[str, Any]:
    """Return name, shape, type and number of pieces of every tensor of a run's last checkpoint.

    Args:
        path: The run directory, relative to `at`.
        at: The working directory.
    """
    tensors = json.loads(succeed("checkpoint", "show", str(path), "--json", at=at))
    return {each["key"]: [each["shape"], each["dtype"], each["pieces"]] for each in tensors}


def fusion(path: Path) -> dict[str, Any]:
    """Return the keys of what `ple-rec fuse` has written to a folder."""
    toml, report = tomllib.loads((path / "fusion.toml").read_text()), read_json(path / "fusion.json")
    return {"files": files(path), "fusion.toml": keys(toml), "fusion.json": keys(report)}


def model(path: Path) -> dict[str, Any]:
    """Return the files of a model directory, the keys of each, and the sizes of those that hold numbers alone."""
    version = path / VERSION.relative_to("models/golden")
    signature, numbers = (
        read_json(version / "model.json"),
        [*version.glob("tables/*"), *version.glob("vocab/*.index/*")],
    )
    return {
        "files": files(path),
        "latest": (path / "latest").read_text(),
        "model.json": keys(signature),
        "card": keys(signature["card"]),
        "manifest.json": keys(read_json(version / "manifest.json")),
        "examples.json": keys(read_json(version / "examples.json")),
        "bytes": {str(file.relative_to(version)): file.stat().st_size for file in sorted(numbers)},
    }


def predictions(path: Path) -> dict[str, Any]:
    """Return the columns of a folder of predictions and the keys of what says how they were made."""
    (part,) = path.glob("*.parquet")
    columns = {field.name: str(field.type) for field in pq.read_schema(part)}
    return {"files": files(path), "columns": columns, "_predict.json": keys(read_json(path / "_predict.json"))}


def outputs(at: Path) -> dict[str, Any]:
    """Return the keys of what verbs print with `--json`, for programs.

    Args:
        at: A folder with `runs/one`, `runs/two`, `plan.json` and the dataset.
    """
    printed = {
        "plan": plan(at, "again.json"),
        "evaluate": succeed("evaluate", "runs/one", "--split", "valid", "--json", at=at),
        "runs": succeed("runs", "--json", at=at),
        "diff": succeed("diff", "runs/one", "runs/two", "--json", at=at),
        "checkpoint list": succeed("checkpoint", "list", "runs/one", "--json", at=at),
    }
    return {verb: keys(json.loads(text)) for verb, text in printed.items()}


def server(address: str) -> dict[str, Any]:
    """Return what a server of `models/golden` speaks: OpenAPI, statuses, keys of answers, names of its metrics."""
    example = ask(f"{address}/v1/examples/0")[1]
    ranked = example["request"] | {"top": 2, "explain": True}
    rows = [example["request"]["user"] | item for item in example["request"]["items"][:2]]
    asked: dict[str, tuple[str, Any]] = {
        "GET /healthz": ("/healthz", None),
        "GET /readyz": ("/readyz", None),
        "GET /v1/model": ("/v1/model", None),
        "GET /v1/examples": ("/v1/examples", None),
        "GET /v1/examples/0": ("/v1/examples/0", None),
        "GET /v1/examples/99": ("/v1/examples/99", None),
        "POST /v1/rank": ("/v1/rank", ranked),
        "POST /v1/score": ("/v1/score", {"rows": rows}),
        "POST /v1/score of columns": ("/v1/score", {"rows": {name: [row[name] for row in rows] for name in rows[0]}}),
        "POST /v1/score of a feature that is none": ("/v1/score", {"rows": [{"nothing": 1}]}),
    }
    answers = {name: ask(f"{address}{path}", body) for name, (path, body) in asked.items()}
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        metrics = answer.read().decode()
    return {
        "openapi": without_prose(ask(f"{address}/openapi.json")[1]),
        "answers": {name: {"status": status, "keys": keys(content)} for name, (status, content) in answers.items()},
        "metrics": metric_names(metrics),
    }


def ranked(address: str) -> dict[str, Any]:
    """Return the first of the server's examples as a request, and how it is ranked."""
    request = ask(f"{address}/v1/examples/0")[1]["request"]
    return {"request": request, "answer": ask(f"{address}/v1/rank", request)[1]}


def ask(url: str, body: Any = None) -> tuple[int, Any]:
    """Return status and content of a JSON answer; with a body it is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def metric_names(text: str) -> dict[str, Any]:
    """Return type and labels of every metric of a Prometheus page."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for line in text.splitlines():
        name = re.sub(r"_(bucket|sum|count)$", "", re.split(r"[{ ]", line)[0])
        if name in labels:
            labels[name] |= set(re.findall(r'(\w+)="', line))
    return {name: {"type": types[name], "labels": sorted(labels[name])} for name in types}


def without_prose(document: Any, names: bool = False) -> Any:
    """Return an OpenAPI document without what is written for people.

    Args:
        document: It, or a part of it.
        names: Whether the keys of this part are names, such as those of paths or properties.
    """
    if isinstance(document, dict):
        kept = {key: value for key, value in document.items() if names or key not in _PROSE}
        return {key: without_prose(value, key in _NAMES and not names) for key, value in kept.items()}
    return [without_prose(value) for value in document] if isinstance(document, list) else document
