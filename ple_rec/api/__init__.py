"""The Python face of the package: what `import ple_rec` gives, and what `ple-rec` stands on. docs/api.md shows it.

The names of `__all__`, their arguments and the public attributes of their objects are a promise (docs/api.md, Promise);
everything else in the package may change with any version. torch is imported by what needs it.
"""

from __future__ import annotations

from ple_rec.api.comparisons import Comparison, compare
from ple_rec.api.datasets import Dataset, open_dataset, prepare
from ple_rec.api.html import Page
from ple_rec.api.models import Model, load_model
from ple_rec.api.plans import Plan, plan
from ple_rec.api.results import Gates, Metrics
from ple_rec.api.runs import Run, load_run
from ple_rec.api.training import train
from ple_rec.errors import DataError, DivergedError, PleRecError, PreemptedError, UserError

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
