"""ple_rec: distributed training of multi-task recommenders on sparse embeddings.

    run = ple_rec.train("census-ple", run_dir="runs/first")
    run.predict()

docs/api.md describes the whole API. The module of a name is imported when the name is first used, so that
`import ple_rec` is fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ple_rec.api.comparisons import Comparison as Comparison
    from ple_rec.api.comparisons import compare as compare
    from ple_rec.api.daily import Day as Day
    from ple_rec.api.daily import daily as daily
    from ple_rec.api.datasets import Dataset as Dataset
    from ple_rec.api.datasets import open_dataset as open_dataset
    from ple_rec.api.datasets import prepare as prepare
    from ple_rec.api.html import Page as Page
    from ple_rec.api.models import Model as Model
    from ple_rec.api.models import load_model as load_model
    from ple_rec.api.models import publish_tables as publish_tables
    from ple_rec.api.models import squash_version as squash_version
    from ple_rec.api.plans import Plan as Plan
    from ple_rec.api.plans import plan as plan
    from ple_rec.api.results import Gates as Gates
    from ple_rec.api.results import Metrics as Metrics
    from ple_rec.api.runs import Run as Run
    from ple_rec.api.runs import load_run as load_run
    from ple_rec.api.training import train as train
    from ple_rec.errors import DataError as DataError
    from ple_rec.errors import DivergedError as DivergedError
    from ple_rec.errors import PleRecError as PleRecError
    from ple_rec.errors import PreemptedError as PreemptedError
    from ple_rec.errors import UserError as UserError

__version__ = "0.5.0"

_MODULES = {  # Module that defines each name of the API.
    "Comparison": "api.comparisons",
    "DataError": "errors",
    "Dataset": "api.datasets",
    "Day": "api.daily",
    "DivergedError": "errors",
    "Gates": "api.results",
    "Metrics": "api.results",
    "Model": "api.models",
    "Page": "api.html",
    "Plan": "api.plans",
    "PleRecError": "errors",
    "PreemptedError": "errors",
    "Run": "api.runs",
    "UserError": "errors",
    "compare": "api.comparisons",
    "daily": "api.daily",
    "load_model": "api.models",
    "load_run": "api.runs",
    "open_dataset": "api.datasets",
    "plan": "api.plans",
    "prepare": "api.datasets",
    "publish_tables": "api.models",
    "squash_version": "api.models",
    "train": "api.training",
}
__all__ = list(_MODULES)

# Threads of OpenMP spin while they wait for one another. If another program is busy too, they take the core from the
# thread for which they wait, so they may spin 1000 times only (measured in docs/training.md#threads). libgomp reads the
# variable when torch is imported.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"


def __getattr__(name: str) -> Any:
    """Return a name of the API, whose module is imported if it has not been."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ple_rec.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names of this module, those of the API included."""
    return sorted({*globals(), *__all__})
