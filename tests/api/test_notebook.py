"""What a notebook shows of objects and pages."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ple_rec
from ple_rec.api.html import Page, block, line, shares_table, table
from tests.serving.page.browser import Browser

pytestmark = pytest.mark.usefixtures("no_charts")


def test_links_of_a_page_stay_in_its_frame(run: ple_rec.Run, browser: Browser, tmp_path: Path) -> None:
    notebook, own = tmp_path / "notebook.html", ple_rec.load_run(shutil.copytree(str(run.path), tmp_path / "run"))
    notebook.write_text(f"<title>notebook</title>{own.report()._repr_html_()}")
    with browser.tab(notebook.as_uri()) as tab:
        frame = "document.querySelector('iframe').contentDocument"
        tab.wait(f"{frame}?.querySelector('a[href^=\"#\"]') !== null")
        tab.evaluate(f"{frame}.querySelector('a[href^=\"#\"]').click()")
        tab.settle()
        assert tab.evaluate(f"{frame}.title") != "notebook"
        assert tab.evaluate(f"{frame}.querySelectorAll('table').length") > 0
        assert tab.complaints() == []


class _Checker(HTMLParser):
    """Counts what is opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(html: str) -> str:
    checker = _Checker()
    checker.feed(html)
    assert checker.open == []
    return checker.text


def test_what_a_notebook_shows(
    run: ple_rec.Run, model: ple_rec.Model, feed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(feed)
    plan = ple_rec.plan(run.config, device="h100")
    shown = {
        "finished": run,
        "mean, train": run.dataset,
        "checkpoint step-": run.metrics,
        "mean weight of each expert on test": run.gates(),
        "differs from its run": model,
        "bound by": plan,
    }
    for words, value in shown.items():
        html = value._repr_html_()  # type: ignore[attr-defined]
        assert words in checked(html)
        assert " >" not in html
        assert len(html) < 20_000
        assert "<script" not in html
        assert repr(value)


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>"
    html = block(line(bad, bad), table([bad], [[bad]], bad), shares_table([bad], [(bad, [0.5, None])], bad))
    assert "<script" not in html
    assert checked(html).count(bad) == 8
    file = tmp_path / "page.html"
    file.write_text('<p title="a">"quoted" & <b>bold</b></p>')
    frame = Page(file)._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&quot;quoted&quot; &amp;amp;' not in frame
    assert frame.count("<") == 2
    assert repr(Page(file)) == f"Page({str(file)!r})"
    assert Path(Page(file)) == file
