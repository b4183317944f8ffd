"""A person chooses by what items are named and which features stand beside it; the choice is the model's, and stays."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.http.running import Running
from tests.serving.page.browser import Browser, Tab
from tests.serving.page.feeds import READY, answer, example

BOXES = "Object.fromEntries([...document.querySelectorAll('#boxes input')].map(box => [box.value, box.checked]))"
RELOADED = "performance.getEntriesByType('navigation')[0].type === 'reload'"
NO_STORAGE = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"


def rows(tab: Tab) -> list[list[str]]:
    """Name and columns of every row, in full."""
    found: list[list[str]] = tab.evaluate(
        "[...document.querySelectorAll('#feed button')].map(row => [row.querySelector('b').textContent, "
        "...[...row.querySelectorAll('.details small')].map(cell => cell.title)])"
    )
    return found


def expected(server: Running, i: int, title: str, *details: str) -> list[list[str]]:
    """What rows of a held-out user's feed hold, where items are named by one feature and some stand beside it."""
    request = example(server, i)["request"]

    def shown(item: dict[str, Any], name: str) -> str:
        value = item[name]
        if value is None:
            return f"{name} \u2013"
        return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"

    found = []
    for index in (each["index"] for each in answer(server, request)["items"]):
        item = request["items"][index]
        named = f"no. {index + 1} of the request" if item[title] is None else shown(item, title)
        found.append([named, *(shown(item, name) for name in details)])
    return found


def another(tab: Tab) -> None:
    """Go to the second user."""
    tab.evaluate("document.getElementById('next').click()")
    tab.wait(f"{READY} && document.getElementById('example').value === '1'")


def choose(tab: Tab) -> None:
    """Name items by their price's bin, and show hour and price alone, by keys."""
    tab.evaluate("document.querySelector('.columns summary').focus()")
    tab.press("Enter", "Tab")
    assert tab.evaluate("document.activeElement.labels[0].innerText.startsWith('An item is named by')")
    # A select opens a list of the system, which a headless browser does not have.
    tab.evaluate(
        "(select => { select.value = 'price_bin'; select.dispatchEvent(new Event('change', {bubbles: true})); })"
        "(document.activeElement)"
    )
    for name, checked in tab.evaluate(BOXES).items():
        tab.press("Tab")
        assert tab.evaluate("document.activeElement.labels[0].innerText") == name
        if checked != (name in ("hour", "price")):
            tab.press(" ")


def test_items_are_named_by_their_raw_id(opened: Tab, server: Running) -> None:
    features = server.get("/v1/model").json()["signature"]["items"]
    single = [each for each in features if not each.get("bag") and not each.get("dense")]
    identity = max(single, key=lambda each: each["rows"])["name"]
    assert [row[0] for row in rows(opened)] == [row[0] for row in expected(server, 0, identity)]
    assert opened.evaluate("document.getElementById('title-by').value") == identity
    assert [name for name, checked in opened.evaluate(BOXES).items() if checked]


def test_chosen_columns_stay_for_another_request_and_after_a_reload(opened: Tab, server: Running) -> None:
    automatic = rows(opened)
    asked = len(opened.asked())
    choose(opened)
    assert rows(opened) == expected(server, 0, "price_bin", "hour", "price")
    assert len(opened.asked()) == asked
    first = opened.evaluate("document.querySelector('#feed b').textContent")
    assert opened.evaluate("document.getElementById('chosen-title').textContent") == first
    another(opened)
    assert rows(opened) == expected(server, 1, "price_bin", "hour", "price")
    opened.call("Page.reload")
    opened.wait(f"{RELOADED} && {READY}")
    assert rows(opened) == expected(server, 0, "price_bin", "hour", "price")
    assert [name for name, checked in opened.evaluate(BOXES).items() if checked] == ["hour", "price"]
    opened.evaluate("document.getElementById('automatic').click()")
    assert rows(opened) == automatic
    assert opened.evaluate("localStorage.length") == 0


@pytest.mark.parametrize(
    ("model", "stored", "shown"),
    [
        (True, '{"title": "price_bin", "details": ["gone", "hour"]}', True),
        (False, '{"title": "price_bin", "details": ["hour"]}', False),
        (True, '{"title": "gone", "details": 3}', False),
        (True, "{", False),
        (True, "7", False),
    ],
    ids=["a feature is gone", "another model", "no list", "cut off", "no choice"],
)
def test_only_a_choice_for_this_model_is_taken(
    opened: Tab, server: Running, model: bool, stored: str, shown: bool
) -> None:
    automatic = rows(opened)
    name = server.get("/v1/model").json()["name"] if model else "another"
    opened.evaluate(f"localStorage.setItem({f'ple-rec.columns:{name}'!r}, {stored!r})")
    opened.call("Page.reload")
    opened.wait(f"{RELOADED} && {READY}")
    assert rows(opened) == (expected(server, 0, "price_bin", "hour") if shown else automatic)


def test_a_choice_holds_where_the_browser_stores_nothing(browser: Browser, server: Running) -> None:
    with browser.tab(server.url) as tab:
        tab.wait(READY)
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=NO_STORAGE)
        tab.call("Page.reload")
        tab.wait(f"{RELOADED} && {READY}")
        choose(tab)
        another(tab)
        assert rows(tab) == expected(server, 1, "price_bin", "hour", "price")
        assert tab.complaints() == []
