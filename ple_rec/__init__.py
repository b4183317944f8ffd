"""ple_rec: distributed training of multi-task recommenders on sparse embeddings.

    run = ple_rec.train("census-ple", run_dir="runs/first")
    run.predict()

docs/api.md shows the rest.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ple_rec.api import Comparison as Comparison
    from ple_rec.api import DataError as DataError
    from ple_rec.api import Dataset as Dataset
    from ple_rec.api import DivergedError as DivergedError
    from ple_rec.api import Gates as Gates
    from ple_rec.api import Metrics as Metrics
    from ple_rec.api import Model as Model
    from ple_rec.api import Page as Page
    from ple_rec.api import Plan as Plan
    from ple_rec.api import PleRecError as PleRecError
    from ple_rec.api import PreemptedError as PreemptedError
    from ple_rec.api import Run as Run
    from ple_rec.api import UserError as UserError
    from ple_rec.api import compare as compare
    from ple_rec.api import load_model as load_model
    from ple_rec.api import load_run as load_run
    from ple_rec.api import open_dataset as open_dataset
    from ple_rec.api import plan as plan
    from ple_rec.api import prepare as prepare
    from ple_rec.api import train as train

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "DataError",
    "Dataset",
    "DivergedError",
    "Gates",
    "Metrics",
    "Model",
    "Page",
    "Plan",
    "PleRecError",
    "PreemptedError",
    "Run",
    "UserError",
    "compare",
    "load_model",
    "load_run",
    "open_dataset",
    "plan",
    "prepare",
    "train",
]

# Threads of OpenMP spin while they wait for one another, and take the cores from the one that they wait for where
# another program is busy too. libgomp reads this when torch is imported (docs/training.md#threads has the measurement).
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"


def __getattr__(name: str) -> Any:
    """Import the API with the first name of it that is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ple_rec import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """Return the names of the API among those that are there."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, whose `train` is the function also once the folder of that name has been imported."""

    @property
    def train(self) -> Any:
        """The function of the API."""
        return __getattr__("train")

    @train.setter
    def train(self, folder: ModuleType) -> None:
        """Leave the folder out, which the import system puts here; `from ple_rec.train.x import y` finds it anyway."""


sys.modules[__name__].__class__ = _Package
