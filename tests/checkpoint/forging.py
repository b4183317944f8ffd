"""A finished run whose checkpoint a forger changes, with a manifest that fits again."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex

from ple_rec.checkpoint.manifest import MANIFEST, read_file_info
from ple_rec.cli import main

STEP = Path("runs/tiny/checkpoints/step-16")
KEY = "model.towers.0.layers.1.bias"  # which every door that loads a model loads
DOORS = {
    "evaluate": ["evaluate", "tiny"],
    "export": ["export", "tiny", "--out", "model"],
    "predict": ["predict", "tiny", "--out", "predictions"],
    "resume": ["train", "--run-dir", "runs/tiny", "--resume"],
    "init-from": ["train", "--config", "tiny.toml", "--run-dir", "runs/next", "--init-from", "runs/tiny"],
}
SHOW = ["checkpoint", "show", "tiny"]


def read_metadata() -> Any:
    """Return the checkpoint's metadata."""
    return pickle.loads((STEP / ".metadata").read_bytes())


def write_metadata(metadata: object) -> None:
    """Write other metadata, and make the manifest fit."""
    (STEP / ".metadata").write_bytes(pickle.dumps(metadata))
    reseal()


def reseal() -> None:
    """Make the manifest fit the files."""
    change_manifest(lambda raw: raw.update(files={name: vars(read_file_info(STEP / name)) for name in raw["files"]}))


def change_manifest(change: Callable[[dict[str, Any]], object]) -> None:
    """Let `change` have its way with the JSON of the manifest."""
    raw = json.loads((STEP / MANIFEST).read_text())
    change(raw)
    (STEP / MANIFEST).write_text(json.dumps(raw))


def append(metadata: Any, index: MetadataIndex, content: object) -> None:
    """Save something into the checkpoint's data, and let an index refer to it."""
    saved = io.BytesIO()
    torch.save(content, saved)
    data = STEP / "__0_0.distcp"
    metadata.storage_data[index] = _StorageInfo(data.name, data.stat().st_size, len(saved.getvalue()))
    with data.open("ab") as file:
        file.write(saved.getvalue())


def forge_value(key: str, content: object) -> None:
    """Replace the value, or the only piece of the tensor, under a key."""
    metadata = read_metadata()
    index = next(index for index in metadata.storage_data if index.fqn == key)
    append(metadata, index, content)
    write_metadata(metadata)


def run(argv: list[str], capfd: Any) -> tuple[int, str]:
    """Run a verb; its exit code and what it writes to stderr."""
    capfd.readouterr()
    code = main(argv)
    return code, capfd.readouterr().err
