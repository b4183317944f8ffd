"""The page in a real browser, on a real server with a model that was exported: what is shown is what numpy says."""

from __future__ import annotations

import random
import re
import sys
from typing import Any

import numpy as np

from tests.serving.http.running import Running
from tests.serving.page.browser import Tab
from tests.serving.page.feeds import READY, answer, example, exponents_of, order_by, paste, shown_order

WORDS = "document.getElementById({!r}).textContent"


def drag(tab: Tab, k: int, *keys: str) -> None:
    """Keys on a slider."""
    tab.evaluate(f"document.getElementById('exponent-{k}').focus()")
    tab.press(*keys)
    tab.settle()


def compare(tab: Tab) -> None:
    """Go to the other view, by keys."""
    tab.evaluate("document.querySelector('input[name=view]:checked').focus()")
    tab.press("ArrowRight")
    tab.settle()


def long_request(server: Running, count: int) -> dict[str, Any]:
    """The first user's, with many items: values of held-out items, drawn anew for each feature."""
    draw = random.Random(0)
    pool = [item for i in range(3) for item in example(server, i)["request"]["items"]]
    items = [{name: draw.choice(pool)[name] for name in pool[0]} for _ in range(count)]
    return {"user": example(server)["request"]["user"], "items": items}


def test_the_feed_is_the_answer(opened: Tab, server: Running) -> None:
    shown = example(server)
    told = answer(server, shown["request"])
    assert shown_order(opened, told) == [item["index"] for item in told["items"]]
    rows = opened.evaluate(
        "[...document.querySelectorAll('#feed button')].map(row => ({score: row.querySelector('.score').textContent, "
        "tasks: [...row.querySelectorAll('.task')].map(task => [task.querySelector('.name').textContent, "
        "task.querySelector('.value').textContent, task.querySelector('.label').textContent])}))"
    )
    kinds = {task["name"]: task["kind"] for task in server.get("/v1/model").json()["signature"]["tasks"]}
    for item, row in zip(told["items"], rows, strict=True):
        assert abs(float(row["score"].split()[-1]) - item["score"]) < 1e-3 * max(1, abs(item["score"]))
        assert [name for name, _, _ in row["tasks"]] == list(item["predictions"])
        for name, value, mark in row["tasks"]:
            prediction, label = item["predictions"][name], shown["labels"][item["index"]][name]
            assert abs(float(value) - prediction) <= 0.051 * abs(prediction)
            if label is None:
                assert mark == "\u00b7 no label"
            elif kinds[name] == "binary":
                assert mark == ("\u25cf did" if label else "\u25cb did not")
            else:
                assert abs(float(mark.removeprefix("label ")) - label) <= 0.051 * abs(label)


def test_a_slider_orders_as_numpy_says_and_asks_nobody(opened: Tab, server: Running) -> None:
    told = answer(server, example(server)["request"])
    before, asked = exponents_of(opened), len(opened.asked())
    assert before == told["exponents"]
    drag(opened, 0, *["ArrowLeft"] * 30)
    assert exponents_of(opened) == before | {next(iter(before)): -0.5}
    assert shown_order(opened, told) == order_by(told, exponents_of(opened))
    drag(opened, 1, "Home", *["ArrowRight"] * 3)
    assert list(exponents_of(opened).values())[:2] == [-0.5, -1.85]
    expected = order_by(told, exponents_of(opened))
    assert expected != order_by(told, before)
    assert shown_order(opened, told) == expected
    assert len(opened.asked()) == asked
    by_server = answer(server, example(server)["request"], exponents=exponents_of(opened))
    assert shown_order(opened, told) == [item["index"] for item in by_server["items"]]


def test_a_field_takes_what_a_slider_cannot_and_no_nonsense(opened: Tab, server: Running) -> None:
    told = answer(server, example(server)["request"])
    field = "document.querySelector('.factor input[type=number]')"
    opened.evaluate(f"{field}.focus(), {field}.select()")
    opened.type("-7.25")
    opened.settle()
    assert next(iter(exponents_of(opened).values())) == -7.25
    assert opened.evaluate("document.getElementById('exponent-0').value") == "-2"
    kept = shown_order(opened, told)
    assert kept == order_by(told, exponents_of(opened))
    opened.evaluate(f"{field}.select()")
    opened.type("1001")
    opened.settle()
    assert opened.evaluate(f"{field}.getAttribute('aria-invalid')") == "true"
    assert shown_order(opened, told) == kept
    opened.evaluate("document.getElementById('reset').click()")
    opened.settle()
    assert exponents_of(opened) == told["exponents"]
    assert opened.evaluate(f"{field}.getAttribute('aria-invalid')") == "false"
    assert shown_order(opened, told) == [item["index"] for item in told["items"]]


def test_moves_are_told_against_what_was_kept(opened: Tab, server: Running) -> None:
    told = answer(server, example(server)["request"])
    moves = "[...document.querySelectorAll('#feed .move')].map(move => move.textContent)"
    assert set(opened.evaluate(moves)) == {"="}
    drag(opened, 0, "Home")
    a, b = order_by(told, told["exponents"]), order_by(told, exponents_of(opened))
    places = [a.index(item) - rank for rank, item in enumerate(b)]
    assert opened.evaluate(moves) == [f"\u25b2{p}" if p > 0 else f"\u25bc{-p}" if p else "=" for p in places]
    count = sum(p != 0 for p in places)
    assert f"{count} of {len(b)} items stand elsewhere" in opened.evaluate(WORDS.format("weighting"))
    spoken = opened.wait(f"{WORDS.format('said')}.startsWith('Order changed') && {WORDS.format('said')}")
    assert f"{count} of {len(b)}" in spoken
    opened.evaluate("document.getElementById('keep').click()")
    opened.settle()
    assert set(opened.evaluate(moves)) == {"="}
    assert "you kept" in opened.evaluate(WORDS.format("weighting"))


def test_a_comparison_has_a_line_for_each_item_that_either_side_shows(opened: Tab, server: Running) -> None:
    request = long_request(server, 60)
    paste(opened, request)
    opened.wait("document.querySelectorAll('#feed li').length === 60")
    told = answer(server, request)
    compare(opened)
    drag(opened, 0, "Home")
    a, b = order_by(told, told["exponents"]), order_by(told, exponents_of(opened))
    for depth in (20, 10):
        opened.evaluate(
            f"(depth => {{ depth.value = {depth}; depth.dispatchEvent(new Event('change')); }})"
            "(document.getElementById('depth'))"
        )
        union = {*a[:depth], *b[:depth]}
        kinds = opened.evaluate("[...document.querySelectorAll('#lines path')].map(path => path.className.baseVal)")
        expected = ["up" if a.index(i) > b.index(i) else "down" if a.index(i) < b.index(i) else "same" for i in union]
        assert sorted(kinds) == sorted(expected)
        for side, order in (("a", a), ("b", b)):
            items = opened.evaluate(
                f"[...document.querySelectorAll('#side-{side} button')].map(row => Number(row.dataset.item))"
            )
            assert [told["items"][item]["index"] for item in items] == order[:depth]
    ends = opened.evaluate("[...document.querySelectorAll('#lines path')].map(path => path.getAttribute('d'))")
    assert {tuple(map(float, re.findall(r"^M0 ([\d.]+)C.* 100 ([\d.]+)$", end)[0])) for end in ends} == {
        (a.index(i) + 0.5, b.index(i) + 0.5) for i in union
    }
    opened.evaluate("document.querySelector('#side-b button').focus()")
    assert opened.evaluate("document.querySelectorAll('.compare button.lit, #lines path.lit').length") in (2, 3)


def test_all_of_it_by_keys_alone(opened: Tab, server: Running) -> None:
    here = "(node => node.id || node.closest('ol')?.id || node.name || node.ariaLabel)(document.activeElement)"
    opened.press("Tab")
    walked = [opened.evaluate(here)]
    while len(walked) < 40 and walked[-1] != "feed":
        opened.press("Tab")
        walked.append(opened.evaluate(here) or "summary")
    assert walked[-1] == "feed"
    for name in ("example", "exponent-0", "exponent-1", "reset", "keep", "copy-toml", "copy-curl", "view"):
        assert name in walked
    row = "Number(document.activeElement.querySelector('.position').textContent)"
    count = len(example(server)["request"]["items"])
    assert opened.evaluate(row) == 1
    for keys, rank in ((("ArrowDown",) * 2, 3), (("ArrowUp",), 2), (("End",), count), (("Home",), 1)):
        opened.press(*keys)
        assert opened.evaluate(row) == rank
    opened.press("ArrowDown", "Enter")
    opened.settle()
    assert opened.evaluate("document.querySelector('#feed [aria-current=true] .position').textContent") == "2"
    opened.press("Tab", "Shift+Tab")
    assert opened.evaluate(row) == 2


def test_gates_of_an_item_are_those_of_the_model(opened: Tab, server: Running) -> None:
    request = example(server)["request"]
    told = answer(server, request)
    cells = (
        "[...document.querySelectorAll('#gates table')].map(table => [...table.tBodies[0].rows].map(row => "
        "[...row.cells].map(cell => cell.textContent)))"
    )
    for rank in (0, 2):
        opened.evaluate(f"document.querySelectorAll('#feed button')[{rank}].click()")
        alone = request | {"items": [request["items"][told["items"][rank]["index"]]]}
        gates = answer(server, alone)["gates"]
        assert len(gates) == 2
        expected = [
            [
                [expert, *(f"{row[e]:.2f}" if row[e] else "\u00b7not read" for row in gate["weights"])]
                for e, expert in enumerate(gate["experts"])
            ]
            for gate in gates
        ]
        title = opened.evaluate(f"document.querySelectorAll('#feed b')[{rank}].textContent")
        opened.wait("!document.getElementById('gates').textContent.includes('asking')")
        assert opened.evaluate(WORDS.format("chosen-title")) == title
        found = opened.evaluate(cells)
        for level, wanted in zip(found, expected, strict=True):
            for row, of in zip(level, wanted, strict=True):
                assert row[0] == of[0]
                for cell, weight in zip(row[1:], of[1:], strict=True):
                    assert cell == weight or abs(float(cell) - float(weight)) < 0.011


def test_another_user_keeps_the_weighting(opened: Tab, server: Running) -> None:
    drag(opened, 0, "Home")
    opened.evaluate("document.getElementById('next').focus()")
    opened.press("Enter")
    told = answer(server, example(server, 1)["request"])
    opened.wait(f"{READY} && document.getElementById('example').value === '1'")
    opened.settle()
    assert next(iter(exponents_of(opened).values())) == -2
    assert shown_order(opened, told) == order_by(told, exponents_of(opened))
    assert opened.evaluate("document.getElementById('previous').disabled") is False


def test_the_mean_labels_are_those_of_the_first_ten(opened: Tab, server: Running) -> None:
    labels = example(server)["labels"]
    told = answer(server, example(server)["request"])
    drag(opened, 0, "Home")
    rows = opened.evaluate(
        "[...document.querySelector('#got tbody').rows].map(r => [...r.cells].map(c => c.textContent))"
    )
    for row, exponents in zip(rows, (told["exponents"], exponents_of(opened)), strict=True):
        top = order_by(told, exponents)[:10]
        for text, name in zip(row[1:], labels[0], strict=True):
            mean = np.mean([labels[i][name] or 0 for i in top])
            assert abs(float(text) - mean) <= 0.051 * abs(mean)


def test_what_a_server_says_is_text(opened: Tab) -> None:
    evil = "<img src=x onerror=document.title='taken'>"
    paste(opened, {"items": [{evil: 1}]})
    words = opened.wait("!document.getElementById('notice').hidden && document.getElementById('notice').textContent")
    assert "(422)" in words
    assert evil in words
    assert opened.evaluate("document.images.length") == 0
    (complaint,) = opened.complaints()
    assert "status of 422" in complaint
    opened.forget()


def test_two_hundred_items_are_ordered_within_a_frame(opened: Tab, server: Running) -> None:
    opened.screen(1280, 900, calm=False)
    paste(opened, long_request(server, 200))
    opened.wait("document.querySelectorAll('#feed li').length === 200")
    opened.evaluate(
        "window.taken = []; new PerformanceObserver(list => "
        "taken.push(...list.getEntries().map(entry => entry.duration))).observe({entryTypes: ['measure']})"
    )
    for _ in range(30):
        drag(opened, 0, "ArrowLeft")
    taken = opened.wait("taken.length >= 30 && taken")
    sys.stdout.write(f"200 items ordered in {np.median(taken):.1f} ms of script, at most {max(taken):.1f} ms\n")
    assert max(taken) < 250  # what it should be is a frame, 16 ms; this is against a loop gone wrong
