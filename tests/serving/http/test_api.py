"""What the server answers, and how it refuses what is wrong."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from tests.serving.http.running import Raw, Running


def many(body: dict[str, Any], count: int) -> dict[str, Any]:
    """The request with so many items."""
    items = body["items"]
    return body | {"items": (items * (count // len(items) + 1))[:count]}


def test_items_come_back_in_the_order_of_their_scores(server: Running, request_body: dict[str, Any]) -> None:
    answer = server.post("/v1/rank", many(request_body, 30))
    assert answer.status == 200
    found = answer.json()
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(item["index"] for item in found["items"]) == list(range(30))
    assert server.post("/v1/rank", many(request_body, 30) | {"top": 7}).json()["items"] == found["items"][:7]


def test_columns_are_answered_by_columns(server: Running, request_body: dict[str, Any]) -> None:
    items = many(request_body, 30)["items"]
    columns = {name: [item.get(name) for item in items] for name in {name for item in items for name in item}}
    ranked = server.post("/v1/rank", request_body | {"items": items, "top": 7}).json()
    told = server.post("/v1/rank", request_body | {"items": columns, "top": 7}).json()
    assert told["items"]["index"] == [item["index"] for item in ranked["items"]]
    assert told["items"]["score"] == pytest.approx([item["score"] for item in ranked["items"]], abs=1e-6)
    for task, values in told["items"]["predictions"].items():
        assert values == pytest.approx([item["predictions"][task] for item in ranked["items"]], abs=1e-6)
    columns["nix"] = [1]
    refused = server.post("/v1/rank", request_body | {"items": columns})
    assert (refused.status, refused.json()["error"]["field"]) == (422, "items.nix")


def test_rows_are_scored_as_they_are_ranked(server: Running, request_body: dict[str, Any]) -> None:
    items = request_body["items"]
    rows = [request_body["user"] | item for item in items]
    scored = server.post("/v1/score", {"rows": rows}).json()
    ranked = server.post("/v1/rank", request_body).json()
    by_index = {item["index"]: item for item in ranked["items"]}
    for i, row in enumerate(scored["rows"]):
        assert row["score"] == pytest.approx(by_index[i]["score"], abs=1e-6)
        assert row["predictions"] == pytest.approx(by_index[i]["predictions"], abs=1e-6)
    assert (scored["model"], scored["version"]) == (ranked["model"], ranked["version"])


def test_the_model_says_what_it_takes(server: Running, request_body: dict[str, Any]) -> None:
    model = server.get("/v1/model").json()
    assert model["version"] == server.post("/v1/rank", request_body).json()["version"]
    names = {feature["name"] for feature in model["signature"]["user"]}
    assert set(request_body["user"]) <= names
    assert model["dense"] == {"asked": "fp32", "used": "fp32"}
    assert {task["name"] for task in model["signature"]["tasks"]} == set(model["exponents"]) - {"length"}


def test_examples_are_requests(server: Running) -> None:
    listed = server.get("/v1/examples").json()
    assert listed["version"] == server.get("/v1/model").json()["version"]
    for i, example in enumerate(listed["examples"][:3]):
        found = server.get(f"/v1/examples/{i}").json()
        assert found["name"] == example["name"]
        assert len(found["request"]["items"]) == example["rows"] == len(found["labels"])
        assert server.post("/v1/rank", found["request"]).status == 200


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, "body"),
        (b"", 400, "body"),
        (b'{"user": {}, "items": [{"age": NaN}]}', 400, "body"),
        (b'{"user": {}, "items": [{"age": -Infinity}]}', 400, "body"),
        (b'{"user": {}, "items": [{"user": "\xff"}]}', 400, "body"),
        (b'{"user": {}, "items": [{"user": "\\ud800"}]}', 400, "body"),
        (b'{"user": {}, "items": [{"\\udfff": 1}]}', 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b"[]", 422, "body"),
        (b"{}", 422, "items"),
        (b'{"user": {}, "items": []}', 422, "items"),
        (b'{"user": {}, "items": {}}', 422, "items"),
        (b'{"user": {}, "items": [7]}', 422, "items[0]"),
        (b'{"user": [], "items": [{}]}', 422, "user"),
        (b'{"user": {"nobody": 1}, "items": [{}]}', 422, "user.nobody"),
        (b'{"user": {}, "items": [{}, {"age": {"a": 1}}]}', 422, "items[1].age"),
        (b'{"user": {}, "items": [{}, {"age": "old"}]}', 422, "items[1].age"),
        (b'{"user": {}, "items": [{}], "top": "all"}', 422, "top"),
        (b'{"user": {}, "items": [{}], "top": 0}', 422, "top"),
        (b'{"user": {}, "items": [{}], "explain": 3}', 422, "explain"),
        (b'{"user": {}, "items": [{}], "exponents": {"like": 1}}', 422, "exponents.like"),
        (b'{"user": {}, "items": [{}], "exponents": {"click": "1"}}', 422, "exponents.click"),
        (b'{"user": {}, "items": [{}], "extra": 1}', 422, "extra"),
        (b'{"user": {}, "items": [{"age": ' + b"[" * 900 + b"]" * 900 + b"}]}", 422, "items[0].age"),
        (b'{"user": {}, "items": [{"age": ' + b"7" * 400 + b"}]}", 400, "body"),
        (b'{"user": [' + b"[]," * 200_000 + b"[]]}", 413, "body"),
        (json.dumps({"user": {}, "items": [{}] * 2001}).encode(), 422, "items"),
        (b"\x00" * 10_000_000, 413, "body"),
    ],
)
def test_a_body_that_is_wrong_is_refused_by_its_field(server: Running, body: bytes, status: int, field: str) -> None:
    answer = server.post("/v1/rank", body)
    assert (answer.status, answer.field) == (status, field)


@pytest.mark.parametrize(
    ("body", "value", "rule"),
    [
        (b'{"items": null}', "null", "a list of 1 to 2,000 objects"),
        (b'{"items": [{"age": {"uid": "x"}}]}', '{"uid": "x"}', "a number, or null where it is missing"),
        (b'{"items": [{"age": "old"}]}', '"old"', "a number, or null where it is missing"),
        (b'{"items": [{"age": [true]}]}', "[true]", "a number, or null where it is missing"),
        (b'{"items": [{"age": 1%s}]}' % (b"0" * 60), "1e+60", "a number that fp32 can hold"),
        (b'{"items": [{"age": 1%s}]}' % (b"0" * 400), f"1{'0' * 76}...", "a number is at most 1.8e308 (line 1, col"),
        (b'{"items": [%s]}' % b",".join([b"{}"] * 2001), "2,001 objects", "a list of 1 to 2,000 objects"),
    ],
)
def test_an_error_says_what_stands_there_as_json_has_it(server: Running, body: bytes, value: str, rule: str) -> None:
    error = server.post("/v1/rank", body).json()["error"]
    assert error["value"] == value
    assert rule in error["message"]


def test_a_body_of_too_many_values_is_counted_as_refused(server: Running) -> None:
    before = server.metric('ple_rec_refused_total{reason="size"}')
    error = server.post("/v1/score", b'{"rows": [' + b"{}," * 100_000 + b"{}]}").json()["error"]
    assert (error["field"], error["value"]) == ("body", "200,003 commas and opening brackets")
    assert server.metric('ple_rec_refused_total{reason="size"}') == before + 1


def test_a_path_that_there_is_not_is_told_by_those_there_are(server: Running) -> None:
    error = server.get("/v1/rnk").json()["error"]
    assert error["value"] == "/v1/rnk"
    assert error["message"].startswith('no such path; did you mean "/v1/rank"? paths: /v1/rank, /v1/score, /v1/model, ')
    assert server.post("/v1/scores", {}).json()["error"]["message"].startswith('no such path; did you mean "/v1/score')
    assert server.get("/" + "x" * 60_000).json()["error"]["message"].startswith("no such path; paths: /v1/rank, ")
    assert server.get("/v1/rank").json()["error"]["message"] == "methods of this path: POST"
    assert server.post("/readyz", {}).json()["error"]["message"] == "methods of this path: GET, HEAD"


def test_two_thousand_items_are_not_too_many(server: Running, request_body: dict[str, Any]) -> None:
    assert len(server.post("/v1/rank", many(request_body, 2000)).json()["items"]) == 2000


def test_ids_that_nobody_knows_are_no_error(server: Running, request_body: dict[str, Any]) -> None:
    """Missing, null and unknown are the same row."""
    found = []
    for user in ({}, {"user": None}, {"user": "nobody knows"}):
        found.append(server.post("/v1/rank", {"user": user, "items": request_body["items"]}).json()["items"])
    assert found[0] == found[1] == found[2]
    assert found[0] != server.post("/v1/rank", request_body).json()["items"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "field"),
    [
        ("GET", "/v1/rank", {}, 405, "method"),
        ("DELETE", "/v1/model", {}, 405, "method"),
        ("GET", "/v2/rank", {}, 404, "path"),
        ("GET", "/static/../options.py", {}, 404, "path"),
        ("GET", "/static/..%2f..%2foptions.py", {}, 404, "path"),
        ("GET", "/static/%2fetc%2fpasswd", {}, 404, "path"),
        ("GET", "/v1/examples/-1", {}, 404, "i"),
        ("GET", "/v1/examples/99999999999999999999", {}, 404, "i"),
        ("GET", "/v1/examples/one", {}, 422, "i"),
        ("POST", "/v1/rank", {"Content-Type": "text/plain"}, 415, "Content-Type"),
        ("POST", "/v1/rank", {"Content-Type": ""}, 415, "Content-Type"),
        ("POST", "/v1/rank", {"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
    ],
)
def test_a_head_that_is_wrong_is_refused(
    server: Running, method: str, path: str, headers: dict[str, str], status: int, field: str
) -> None:
    with Raw(server.port) as raw:
        raw.head(method, path, 2 if method == "POST" else None, **headers)
        raw.send(b"{}" if method == "POST" else b"")
        answer = raw.answer()
    assert (answer.status, answer.field) == (status, field)
    assert status != 405 or answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/static/page.js", "/v1/model", "/nowhere"])
def test_a_head_is_that_of_the_whole_answer(server: Running, path: str) -> None:
    whole = server.get(path)
    with Raw(server.port) as raw:
        raw.head("HEAD", path)
        raw.head("GET", "/healthz")
        with raw.socket.makefile("rb") as stream:
            assert int(stream.readline().split()[1]) == whole.status
            headers = http.client.parse_headers(stream)
            assert stream.readline().startswith(b"HTTP/1.1 200")  # of the next answer: no body lies between
    assert {**headers, "date": ""} == {**whole.headers, "date": ""}
    assert int(headers["content-length"]) > 0


def test_what_takes_get_takes_head(server: Running) -> None:
    with Raw(server.port) as raw:
        raw.head("POST", "/healthz", 0)
        assert raw.answer().headers["Allow"] == "GET, HEAD"
        raw.head("HEAD", "/v1/rank")
        with raw.socket.makefile("rb") as stream:
            assert b" 405 " in stream.readline()
            assert http.client.parse_headers(stream)["Allow"] == "POST"


def test_statuses_of_the_interface_stand_in_order(server: Running) -> None:
    for methods in server.get("/openapi.json").json()["paths"].values():
        for of in methods.values():
            assert list(of["responses"]) == sorted(of["responses"])


def test_the_page_is_a_file_of_the_package(server: Running, repository: Path) -> None:
    folder = repository / "ple_rec" / "serving" / "page"
    if not folder.is_dir():
        pytest.skip("the package has no page")
    paths = {"/": "index.html"} | {f"/static/{file.name}": file.name for file in folder.iterdir() if file.is_file()}
    for path, file in paths.items():
        answer = server.get(path)
        assert answer.body == (folder / file).read_bytes()
        assert "default-src 'none'; script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == (
            "nosniff",
            "no-referrer",
        )
        assert server.get(path, If_None_Match=answer.headers["ETag"]).status == 304


def test_metrics_count_what_was_asked(server: Running, request_body: dict[str, Any]) -> None:
    rows, batches = server.metric("ple_rec_rows_total"), server.metric("ple_rec_batch_rows_count")
    assert server.post("/v1/rank", many(request_body, 20)).status == 200
    assert server.metric("ple_rec_rows_total") == rows + 20
    assert server.metric("ple_rec_batch_rows_count") == batches + 1
    assert server.metric('ple_rec_requests_total{path="/v1/rank",status="200"}') >= 1
    assert server.metric("ple_rec_taken_requests") == 0
    assert server.get("/healthz").status == server.get("/readyz").status == 200
