"""The environment of all templates: what it escapes, what it refuses, and that the package holds every template."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from ple_rec.reports.page import Section, render_page
from tests.reports.samples import HOSTILE


def test_every_value_is_escaped_and_a_part_without_a_view_is_left_out() -> None:
    parts = [Section("exponents", "Exponents", [(HOSTILE, "1", "1")]), Section("front", HOSTILE, None)]
    page = render_page("fusion", parts, name=HOSTILE, facts=[HOSTILE])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert") == 4  # title, head, fact, cell
    assert page.count("<section") == page.count("<a href") == 1


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'told_on' is undefined"):
        render_page("fusion", [Section("metrics", "Metrics", {})], name="a", facts=[])


def test_every_template_and_style_sheet_is_in_the_package(repository: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    folder = repository / "ple_rec"
    patterns = setup["options.package_data"]["ple_rec"].split()
    held = {file for pattern in patterns for file in folder.glob(pattern)}
    templates = set((folder / "reports" / "templates").iterdir())
    assert len(templates) > 10
    assert templates <= held


def test_jinja2_is_imported_by_what_renders_alone() -> None:
    code = "import sys, ple_rec.reports.page, data_prep.stats.page; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
