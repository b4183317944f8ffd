"""A headless browser that a test drives: the DevTools protocol by a pipe, which needs no further package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)
# The browser reads commands from 3 and writes answers to 4.
START = "import os, sys; a, b, *c = sys.argv[1:]; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execv(c[0], c)"
# Key: code, Windows' virtual key code.
KEYS = {
    "Tab": ("Tab", 9),
    "Enter": ("Enter", 13),
    " ": ("Space", 32),
    "PageUp": ("PageUp", 33),
    "PageDown": ("PageDown", 34),
    "End": ("End", 35),
    "Home": ("Home", 36),
    "ArrowLeft": ("ArrowLeft", 37),
    "ArrowUp": ("ArrowUp", 38),
    "ArrowRight": ("ArrowRight", 39),
    "ArrowDown": ("ArrowDown", 40),
}


class Pipe:
    """Both ends of the protocol: JSON, each message ended by a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(60)
            assert answer is not None, f"{method}: no answer"
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def listen(self, seconds: float) -> None:
        """Take events for at most so long, one at least."""
        if (event := self._read(seconds)) is not None:
            self.events.append(event)

    def _read(self, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Tab:
    """A page that is open.

    Args:
        pipe: To the browser.
        session: Of the page.
    """

    def __init__(self, pipe: Pipe, session: str) -> None:
        self._pipe, self._session = pipe, session
        self._first = len(pipe.events)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A method of the protocol."""
        return self._pipe.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, awaited; what it throws fails the test."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"])[:600]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Until what was asked of the next frame has been done."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def wait(self, expression: str, seconds: float = 10) -> Any:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, (
                f"never: {expression}; page: {self.evaluate('document.body.innerText')[:400]}"
            )
            self._pipe.listen(0.02)
        return value

    def press(self, *keys: str) -> None:
        """Keys as a person presses them."""
        for key in keys:
            shift, name = key.startswith("Shift+"), key.removeprefix("Shift+")
            code, number = KEYS[name]
            text = {"Enter": "\r", " ": " "}.get(name, "")
            of_key = {"key": name, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
            down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.call("Input.dispatchKeyEvent", **of_key, **down)
            self.call("Input.dispatchKeyEvent", **of_key, type="keyUp")

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screen(self, width: int, height: int, scheme: str = "light", *, calm: bool = True) -> None:
        """Its size and colours; `calm`: as for people who want no motion."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce" if calm else "no-preference"}
        self.call("Emulation.setEmulatedMedia", features=[{"name": k, "value": v} for k, v in features.items()])

    def shot(self, file: Path, *, whole: bool = False) -> None:
        """What is seen, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def events(self, method: str) -> list[Mapping[str, Any]]:
        """What the page has told so far."""
        told = self._pipe.events[self._first :]
        return [
            event["params"] for event in told if event["method"] == method and event.get("sessionId") == self._session
        ]

    def complaints(self) -> list[str]:
        """Errors and warnings on its console, and what was thrown."""
        found = [event["entry"]["text"] for event in self.events("Log.entryAdded")]
        found += [event["exceptionDetails"]["text"] for event in self.events("Runtime.exceptionThrown")]
        said = [event for event in self.events("Runtime.consoleAPICalled") if event["type"] in ("error", "warning")]
        return found + [str(event["args"]) for event in said]

    def forget(self) -> None:
        """Take no more account of what it has told so far."""
        self._first = len(self._pipe.events)

    def asked(self) -> list[str]:
        """The addresses of all requests."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]


class Browser:
    """A browser without a window, and its profile in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        assert BROWSER is not None
        read_commands, self._to = os.pipe()
        self._from, write_answers = os.pipe()
        ends = [
            fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read_commands, write_answers)
        ]  # neither 3 nor 4
        command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        wrapper = [sys.executable, "-ISc", START, *map(str, ends), *command]
        with (folder / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(wrapper, pass_fds=ends, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for end in (read_commands, write_answers, *ends):
            os.close(end)
        self._pipe = Pipe(self._to, self._from)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._pipe.call("Browser.close")
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._to)
            os.close(self._from)

    @contextmanager
    def tab(self, address: str, width: int = 1280, height: int = 900, **screen: Any) -> Iterator[Tab]:
        """Open a page, close it afterwards."""
        context = self._pipe.call("Target.createBrowserContext")["browserContextId"]
        target = self._pipe.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self._pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self._pipe, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.screen(width, height, **screen)
        gone = tab.call("Page.navigate", url=address)
        assert "errorText" not in gone, gone["errorText"]
        tab.wait("document.readyState === 'complete'")
        yield tab
        self._pipe.call("Target.disposeBrowserContext", browserContextId=context)
