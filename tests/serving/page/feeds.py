"""What the page shows, read from it, and what numpy makes of the server's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.serving.http.running import Running
from tests.serving.page.browser import Tab

READY = "document.querySelector('#feed li') && !document.body.hasAttribute('aria-busy')"


def answer(server: Running, request: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Of /v1/rank, with factors and gates."""
    found: dict[str, Any] = server.post("/v1/rank", {**request, "explain": True, **more}).json()
    return found


def example(server: Running, i: int = 0) -> dict[str, Any]:
    """A held-out user."""
    found: dict[str, Any] = server.get(f"/v1/examples/{i}").json()
    return found


def order_by(told: Mapping[str, Any], exponents: Mapping[str, float]) -> list[int]:
    """Indices of the request's items, best first, by factors of an answer and other exponents."""
    items = sorted(told["items"], key=lambda item: item["index"])
    factors_NK = np.array([[item["factors"][name] for name in exponents] for item in items])
    order: list[int] = np.argsort(-(factors_NK @ np.array(list(exponents.values()))), kind="stable").tolist()
    return order


def shown_order(tab: Tab, told: Mapping[str, Any]) -> list[int]:
    """The rows of the page from top to bottom, as indices of the request's items; their positions count from 1."""
    rows = tab.evaluate(
        "[...document.querySelectorAll('#feed button')].map(row => [Number(row.dataset.item), "
        "row.querySelector('.position').textContent])"
    )
    assert [position for _, position in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    return [told["items"][item]["index"] for item, _ in rows]


def paste(tab: Tab, request: Mapping[str, Any]) -> None:
    """Rank a request of one's own, by hand."""
    tab.evaluate("document.getElementById('own').open = true; document.getElementById('body').value = ''")
    tab.evaluate("document.getElementById('body').focus()")
    tab.type(json.dumps(request))
    tab.press("Tab", "Enter")


def exponents_of(tab: Tab) -> dict[str, float]:
    """The number beside every slider."""
    found: dict[str, float] = tab.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.factor')].map(row => "
        "[row.querySelector('label').textContent, row.querySelector('[type=number]').valueAsNumber]))"
    )
    return found
