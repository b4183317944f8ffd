"""What the page does when a token is asked for, the server is busy, gone or has a new version, or has no users."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ple_rec.inference.manifest import write_manifest
from ple_rec.inference.model_dir import latest_version
from tests.analysis.trained import train_tiny
from tests.inference.exported import export_run, set_latest
from tests.serving.http.running import Raw, Running, running
from tests.serving.page.browser import Browser, Tab
from tests.serving.page.feeds import READY, exponents_of, paste
from tests.training.small import write_small

NOTICE = "!document.getElementById('notice').hidden && document.getElementById('notice').textContent"
TOKEN = "a-token-of-the-test"
FUSION = """
[tasks.like]
exponent = -1.5
[tasks.watch]
exponent = 1.6524655619463622
link = "sigmoid"
[length]
feature = "minutes"
transform = { kind = "sigmoid", center = 0.0, width = 1.0 }
missing = 0.0
exponent = 3.0
"""


@pytest.fixture(scope="module")
def guarded(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a token that takes one request at a time, of a model with a length and other exponents."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "fusion.toml").write_text(FUSION)
    (folder / "token").write_text(TOKEN)
    export_run(feed / "run", folder / "model", "--fusion", str(folder / "fusion.toml"))
    with running(folder / "model", folder, "--token-file", str(folder / "token"), "--queue", "1") as found:
        yield found


@pytest.fixture
def let_in(browser: Browser, guarded: Running) -> Iterator[Tab]:
    """The page after its token was typed in."""
    with browser.tab(guarded.url) as tab:
        tab.wait("document.activeElement.id === 'token'")
        tab.type(TOKEN)
        tab.press("Enter")
        tab.wait(READY)
        yield tab


def words(tab: Tab, name: str) -> str:
    found: str = tab.evaluate(f"document.getElementById({name!r}).textContent")
    return found


def waits(server: Running, seconds: float = 5) -> bool:
    """Whether a request is being read, now or soon."""
    end = time.monotonic() + seconds
    while "ple_rec_taken_requests 1.0" not in server.get("/metrics", Authorization=f"Bearer {TOKEN}").body.decode():
        if time.monotonic() > end:
            return False
    return True


def test_a_token_is_asked_for_until_it_is_right(browser: Browser, guarded: Running) -> None:
    with browser.tab(guarded.url) as tab:
        assert "asks for its token" in tab.wait(NOTICE)
        assert tab.evaluate("document.getElementById('desk').hidden")
        tab.wait("document.activeElement.id === 'token'")
        tab.type("another")
        tab.press("Enter")
        tab.wait("document.getElementById('notice').textContent.includes('not the server')")
        tab.type(TOKEN)
        tab.press("Enter")
        tab.wait(READY)
        assert not tab.evaluate(NOTICE)
        assert all("status of 401" in complaint for complaint in tab.complaints())
        assert TOKEN not in tab.evaluate("document.documentElement.outerHTML + JSON.stringify({...localStorage})")


def test_exponents_of_the_model_are_the_first(let_in: Tab) -> None:
    assert exponents_of(let_in) == {"like": -1.5, "watch": 1.652, "length": 3.0}
    limits = "[...document.querySelectorAll('[type=range]')].map(range => [range.min, range.max, range.value])"
    assert let_in.evaluate(limits) == [["-6", "6", "-1.5"], ["-6", "6", "1.65"], ["-6", "6", "3"]]


def test_what_is_copied_can_be_used(let_in: Tab, guarded: Running, tmp_path: Path) -> None:
    let_in.evaluate("document.getElementById('exponent-2').focus()")
    let_in.press("Home")
    let_in.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    )  # as on other hosts without TLS
    copied = "document.getElementById('copied').open && document.getElementById('copied-text').value"
    let_in.evaluate("document.getElementById('copy-toml').click()")
    found = tomllib.loads(let_in.wait(copied))
    exponents = {name: task["exponent"] for name, task in found["tasks"].items()}
    assert exponents == {"like": -1.5, "watch": 1.6524655619463622}  # all digits, where four are shown
    assert found["length"] == {"exponent": -6.0}
    let_in.evaluate("document.getElementById('copied').close(), document.getElementById('copy-curl').click()")
    command = shlex.split(let_in.wait(copied))
    assert TOKEN not in " ".join(command)
    assert command[:2] == ["curl", "-sS"]
    if shutil.which("curl") is None:
        pytest.skip("needs curl to run the command that was copied")
    script = tmp_path / "copied.sh"
    script.write_text(let_in.evaluate(copied))
    done = subprocess.run(["sh", str(script)], env={"PLE_REC_TOKEN": TOKEN}, capture_output=True, text=True, check=True)
    rows = let_in.evaluate("[...document.querySelectorAll('#feed .score')].map(score => score.textContent)")
    scores = [item["score"] for item in json.loads(done.stdout)["items"]]
    assert len(scores) == len(rows)
    assert all(
        abs(float(row.split()[-1]) - score) <= 0.051 * abs(score) for row, score in zip(rows, scores, strict=True)
    )


def test_a_busy_server_is_asked_again(let_in: Tab, guarded: Running) -> None:
    let_in.forget()
    with Raw(guarded.port) as slow:
        slow.head("POST", "/v1/rank", 100, Authorization=f"Bearer {TOKEN}")
        assert waits(guarded)
        let_in.evaluate("document.getElementById('next').click()")
        said = let_in.wait(NOTICE)
        assert "busy" in said
        assert "repeated in 1 s" in said
    let_in.wait(
        f"{READY} && document.getElementById('notice').hidden && document.getElementById('example').value === '1'"
    )


def test_a_new_version_is_noticed_with_its_examples(let_in: Tab, guarded: Running) -> None:
    """It has two, and the page showed the third of the last version's."""
    model_dir = guarded.log.parent / "model"
    assert "version v1" in words(let_in, "facts")
    for place in "12":
        let_in.evaluate("document.getElementById('next').click()")
        let_in.wait(f"{READY} && document.getElementById('example').value === '{place}'")
    version = shutil.copytree(model_dir / "versions" / "v1", model_dir / "versions" / "v2")
    examples = [json.loads((version / "examples.json").read_text())[0] | {"name": name} for name in ("one", "other")]
    (version / "examples.json").write_text(json.dumps(examples))
    write_manifest(version)
    set_latest(model_dir, "v2")
    guarded.signal(signal.SIGHUP)
    assert guarded.said("v2")
    let_in.evaluate("document.getElementById('next').click()")
    let_in.wait(f"{READY} && document.getElementById('facts').textContent.includes('version v2')")
    listed = "[...document.getElementById('example').options].map(option => option.textContent)"
    assert let_in.evaluate(listed) == [f"{each['name']}, {len(each['labels'])} items" for each in examples]
    assert let_in.evaluate("document.getElementById('example').value") == "1"
    assert let_in.evaluate("['next', 'previous'].map(id => document.getElementById(id).disabled)") == [True, False]


def test_a_server_that_is_gone_is_missed(let_in: Tab, guarded: Running) -> None:
    guarded.signal(signal.SIGKILL)
    guarded.code()
    rows = let_in.evaluate("document.querySelectorAll('#feed li').length")
    let_in.evaluate("document.getElementById('next').click()")
    assert "does not answer" in let_in.wait(NOTICE)
    assert let_in.evaluate("document.querySelectorAll('#feed li').length") == rows  # what is there can still be ordered
    let_in.evaluate("document.querySelector('#notice button').click()")
    assert "does not answer" in let_in.wait(NOTICE)


@pytest.mark.usefixtures("same_program")
def test_without_users_a_request_can_be_pasted(browser: Browser, feed: Path, feed_model: Path, tmp_path: Path) -> None:
    (example, *_) = json.loads((latest_version(feed_model) / "examples.json").read_text())
    export_run(feed / "run", tmp_path / "model", "--examples", "0")
    with running(tmp_path / "model", tmp_path) as server, browser.tab(server.url) as tab:
        tab.wait("document.activeElement.id === 'body'")
        assert tab.evaluate("document.getElementById('example').disabled")
        assert "Paste the request of a user" in tab.evaluate("document.getElementById('invitation').innerText")
        skeleton = json.loads(tab.evaluate("document.getElementById('body').placeholder"))
        assert server.post("/v1/rank", skeleton).status == 200
        tab.type('{"items": [')
        tab.press("Tab", "Enter")
        assert "no JSON" in tab.wait(NOTICE)
        for items in (None, {}, {"a": 3}, {"a": [1], "b": [1, 2]}):
            paste(tab, {"user": {}, "items": items})
            assert "no items" in tab.wait(NOTICE)
        paste(tab, example["request"] | {"exponents": {"like": -0.3}, "top": 2})
        tab.wait(READY)
        assert exponents_of(tab)["like"] == -0.3
        assert tab.evaluate("document.querySelectorAll('#feed li').length") == len(example["request"]["items"])
        assert (
            tab.evaluate("document.querySelectorAll('.label').length && document.querySelector('.label').textContent")
            == ""
        )
        assert tab.complaints() == []


def test_lists_that_are_nobodys_are_called_so(browser: Browser, tmp_path: Path) -> None:
    write_small(tmp_path / "data", group=False)
    export_run(train_tiny(tmp_path), tmp_path / "model")
    with running(tmp_path / "model", tmp_path) as server, browser.tab(server.url) as tab:
        tab.wait(READY)
        assert words(tab, "whose") == "List"
        assert tab.evaluate("document.getElementById('next').ariaLabel") == "Next list"
        assert tab.evaluate("document.getElementById('about').hidden")
        assert "\u25cf label 1\u25cb label 0" in words(tab, "legend")
        titles = "[...new Set([...document.querySelectorAll('.label:not(.number)')].map(mark => mark.title))]"
        assert set(tab.evaluate(titles)) <= {"label 1", "label 0", "outside of the task's sample space"}
