"""Every message of `messages.toml`, word for word."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.base import Config
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PrepConfig
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError

TABLE = tomllib.loads((Path(__file__).parent / "messages.toml").read_text(encoding="utf-8"))
MODELS: dict[str, type[Config]] = {"run": RunConfig, "toml": RunConfig, "prep": PrepConfig, "compare": CompareConfig}


def load(kind: str, document: str, overrides: list[str]) -> None:
    if kind == "schema":
        Path("ds").mkdir()
        Path("ds/_SUCCESS").touch()
        Path("ds/schema.toml").write_text(document, encoding="utf-8")
        load_schema("ds")
        return
    Path("base.toml").write_text(TABLE["base"], encoding="utf-8")
    head = 'base = "base.toml"\n' if kind == "run" else ""
    Path("run.toml").write_text(head + document, encoding="utf-8")
    load_config(MODELS[kind], "run.toml", overrides)


@pytest.mark.parametrize("case", TABLE["case"], ids=lambda case: " ".join([case["kind"], *case.get("overrides", [])]))
def test_message(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PleRecError) as caught:
        load(case["kind"], case.get("document", ""), case.get("overrides", []))
    assert str(caught.value) == case["message"]
