"""Stand-ins for the calls by which threads select a CUDA device."""

from __future__ import annotations

import threading

import pytest
import torch


def record_device_selections(monkeypatch: pytest.MonkeyPatch, device: int) -> list[tuple[str, int]]:
    """Make `device` the current one of this process, and return a list that gets (thread, device) of each selection."""
    selections: list[tuple[str, int]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: device)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda number: selections.append((threading.current_thread().name, number))
    )
    return selections
