"""A server of a model in an object store takes new versions from there, and goes on while the store is away."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.storage import location
from tests.inference.exported import set_latest
from tests.object_store import free_port, object_store, put_folder, use_store
from tests.serving.http.running import Running, running

MODEL = "s3://bucket/model"


def answer(server: Running, body: dict[str, Any]) -> tuple[str, list[float]]:
    """Return the version that answers a request, and its scores."""
    found = server.post("/v1/rank", body).json()
    return found["version"], [item["score"] for item in found["items"]]


def test_a_new_version_is_taken_from_a_store_that_was_away(
    model_dir: Path, tmp_path: Path, request_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    use_store(f"http://127.0.0.1:{port}", monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    export = ["export", str(model_dir.parent / "run"), "--out", MODEL, "--user-features", "user"]
    store = ExitStack()
    store.enter_context(object_store("bucket", port))
    with store:
        assert main([*export, "--examples", "24"]) == 0
        with running(location(MODEL), tmp_path) as server:
            version, scores = answer(server, request_body)
            assert version == "v1"
            assert main([*export, "--precision", "fp16"]) == 0
            assert server.said("event=reload version=v2", 30)
            version, rounded = answer(server, request_body)
            assert version == "v2"
            assert rounded == pytest.approx(scores, abs=0.01)

            store.close()
            assert server.said(f'why="{MODEL}/latest: cannot be reached (', 30)
            time.sleep(4)  # some more looks
            assert server.log.read_text().count("event=reload_refused") == 1
            assert answer(server, request_body)[0] == "v2"

            store.enter_context(object_store("bucket", port))
            shutil.copytree(model_dir, tmp_path / "model")
            (tmp_path / "model/versions/v1").rename(tmp_path / "model/versions/v3")
            set_latest(tmp_path / "model", "v3")
            put_folder(tmp_path / "model", "bucket/model")
            assert server.said("event=reload version=v3", 30)
            assert answer(server, request_body) == ("v3", scores)
