"""Ids that JavaScript would round go to the page and come back as they are."""

from __future__ import annotations

import json
from typing import Any

from ple_rec.inference.ranker import Ranker
from tests.inference.feed import FIRST_USER
from tests.serving.http.running import Running
from tests.serving.page.browser import Tab
from tests.serving.page.feeds import answer, example, paste


def test_an_example_has_large_ids_as_text(server: Running, ranker: Ranker) -> None:
    stored = ranker.examples[1]["request"]
    user = stored["user"]["user_id"]
    assert user > FIRST_USER
    request = example(server, 1)["request"]
    assert request == stored | {"user": stored["user"] | {"user_id": str(user)}}
    assert answer(server, request) == answer(server, stored)
    rounded = stored["user"] | {"user_id": int(float(user))}
    assert answer(server, request)["items"] != answer(server, request, user=rounded)["items"]


def sent(tab: Tab) -> Any:
    """The user's id in the first body that the page has posted."""
    posted = [event["request"] for event in tab.events("Network.requestWillBeSent")]
    body = json.loads(next(each["postData"] for each in posted if each["url"].endswith("/v1/rank")))
    return body["user"]["user_id"]


def test_the_page_asks_for_the_user_of_the_example(opened: Tab, server: Running) -> None:
    user = example(server)["request"]["user"]["user_id"]
    assert sent(opened) == user
    assert user in opened.evaluate("document.getElementById('user').textContent")


def test_the_page_asks_for_the_user_that_is_pasted(opened: Tab, ranker: Ranker) -> None:
    request = ranker.examples[1]["request"]
    opened.forget()
    paste(opened, request)
    opened.wait(f"document.querySelectorAll('#feed li').length === {len(request['items'])}")
    assert sent(opened) == str(request["user"]["user_id"])
