"""A forged `dense.pt2` runs nothing, though `torch.export.load` would run it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.errors import DataError
from ple_rec.inference.program import PROGRAM, read_weights


class Payload:
    """An object that makes a directory where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save(Payload(tmp_path / "ran"), saved)
    described = {
        "dtype": 7,
        "sizes": [{"as_int": 1}],
        "strides": [{"as_int": 1}],
        "storage_offset": {"as_int": 1 << 20},
    }
    weight = {"path_name": "weight_0", "use_pickle": True, "tensor_meta": described}  # torch's sign for a pickle
    with zipfile.ZipFile(tmp_path / PROGRAM, "w") as archive:
        archive.writestr("dense/data/weights/weight_0", saved.getvalue())
        archive.writestr("dense/data/weights/model_weights_config.json", json.dumps({"config": {"w": weight}}))
    with pytest.raises(DataError, match=r"dense\.pt2: unreadable"):
        read_weights(tmp_path)
    assert not (tmp_path / "ran").exists()
    torch.load(io.BytesIO(saved.getvalue()), weights_only=False)
    assert (tmp_path / "ran").exists()
