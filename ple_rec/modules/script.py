"""TorchScript: what runs without the interpreter and its lock.

Torch maintains it no more, but what torch.export writes runs in the interpreter, and AOTInductor needs a compiler where
it is used.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


def scripted(function_or_module: Any) -> Any:
    """It as a script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function_or_module)
