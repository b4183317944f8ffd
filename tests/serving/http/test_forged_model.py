"""A version whose manifest fits and whose files do not ends `serve` with a message, and reads nothing outside of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ple_rec.cli import main
from ple_rec.errors import PleRecError
from ple_rec.inference.manifest import write_manifest
from ple_rec.inference.model_dir import latest_version
from ple_rec.serving.http.reload import load

Forge = Callable[[dict[str, Any]], object]


def put(name: str, value: object) -> Forge:
    return lambda model: model.update({name: value})


DESCRIBED: dict[str, Forge] = {
    "no name": lambda model: model.pop("name"),
    "half a character": put("name", "\ud800"),
    "no tables": put("tables", []),
    "other table": lambda model: model["tables"][0].update(name="other"),
    "other precision": lambda model: model["tables"][0].update(precision="fp64"),
    "other task": lambda model: model["signature"]["tasks"][0].update(name="other"),
    "no dense": put("dense", None),
}
FILES = {
    "model.json": ["[]", "{"],
    "examples.json": ["x", "[5]", "[" * 100_000],
    "stats.json": ["[]", "{}"],
    "fusion.toml": ["[tasks.other]\nexponent = 1.0\n"],
}


@pytest.fixture
def version(feed_model: Path, tmp_path: Path) -> Path:
    """A version that the test may change."""
    return shutil.copytree(latest_version(feed_model), tmp_path / "model/versions/v1")


def check_refused(version: Path) -> str:
    """Refuse the version as it is now, and return why."""
    (version / "manifest.json").unlink()
    write_manifest(version)
    with pytest.raises(PleRecError) as refused:
        load(version, 1)
    return str(refused.value)


@pytest.mark.parametrize("forge", DESCRIBED.values(), ids=DESCRIBED)
def test_a_forged_description_is_refused(version: Path, forge: Forge) -> None:
    model = json.loads((version / "model.json").read_text())
    forge(model)
    (version / "model.json").write_text(json.dumps(model))
    assert str(version) in check_refused(version)


@pytest.mark.parametrize(("name", "content"), [(name, text) for name, texts in FILES.items() for text in texts])
def test_a_forged_file_is_refused(version: Path, name: str, content: str) -> None:
    (version / name).write_text(content)
    assert str(version) in check_refused(version)


def test_vocabularies_that_lack_are_told(version: Path) -> None:
    shutil.rmtree(version / "vocab")
    assert str(version) in check_refused(version)


def test_a_table_outside_of_the_version_is_not_read(version: Path, tmp_path: Path) -> None:
    model = json.loads((version / "model.json").read_text())
    table = model["tables"][0]
    secret = tmp_path / "secret"
    secret.write_bytes(b"S" * table["bytes"])
    for place in (str(secret), "../../../../secret"):
        table["file"] = place
        (version / "model.json").write_text(json.dumps(model))
        assert "No such file" in check_refused(version)


def test_serve_ends_without_a_traceback(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (version / "stats.json").write_text("[]")
    (version / "manifest.json").unlink()
    write_manifest(version)
    (version.parent.parent / "latest").write_text("v1\n")
    assert main(["serve", str(version.parent.parent), "--port", "0"]) == 3
    assert "cannot be loaded (TypeError" in capsys.readouterr().err
