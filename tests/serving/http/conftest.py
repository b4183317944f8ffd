"""One exported model for all tests of the server, and a server that none of them stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.trained import train_tiny
from tests.serving.http.running import Running, export, running
from tests.worlds import shared_world


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of a tiny two-level PLE."""
    folder = shared_world(tmp_path_factory, "served", lambda root: export(train_tiny(root), root / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With the usual bounds, for tests that neither fill its queue nor stop it."""
    with running(model_dir, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="session")
def request_body(server: Running) -> dict[str, Any]:
    """Of /v1/rank: the first held-out user."""
    found: dict[str, Any] = server.get("/v1/examples/0").json()["request"]
    return found
