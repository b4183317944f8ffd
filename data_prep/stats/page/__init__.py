"""`stats.html`: what a dataset holds, on one self-contained page, from `stats.json` and the schema alone.

A section is a function from `View` to HTML, listed in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.stats.page.columns import dense_columns, sparse_columns
from data_prep.stats.page.correlation import correlation
from data_prep.stats.page.days import days
from data_prep.stats.page.drift import drift
from data_prep.stats.page.head import header, key_figures
from data_prep.stats.page.origin import dropped, source
from data_prep.stats.page.tasks import tasks
from data_prep.stats.page.view import View
from ple_rec.config.schema import DatasetSchema
from ple_rec.html.page import Part, document, write_document

SECTIONS: tuple[tuple[str, str, Callable[[View], str]], ...] = (
    ("tasks", "Tasks", tasks),
    ("correlation", "Correlation of labels", correlation),
    ("days", "By day", days),
    ("sparse", "Sparse columns", sparse_columns),
    ("dense", "Dense columns", dense_columns),
    ("drift", "Drift from train to valid and test", drift),
    ("dropped", "Rows left out", dropped),
    ("source", "Source files", source),
)


def write_page(
    stats: Mapping[str, Any], schema: DatasetSchema, path: Path, spaces: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write the page of a dataset; equal arguments give equal bytes.

    Args:
        stats: Content of `stats.json`, of version 2.
        schema: Of the dataset.
        path: Of the HTML file.
        spaces: Conditions that columns of sample spaces stand for, by column; else the page names the columns.

    Raises:
        UserError: It cannot be written.
    """
    view = View(stats, schema, spaces)
    style = resources.files("data_prep.stats.page").joinpath("stats.css").read_text(encoding="utf-8")
    page = document(
        f"{schema.name} - dataset",
        header(view),
        key_figures(view),
        [Part(anchor, heading, content(view)) for anchor, heading, content in SECTIONS],
        "Made by ple-rec prep from stats.json and schema.toml. No figure is weighted.",
        style=style,
    )
    rule = "the page of a dataset is a file beside its statistics"
    write_document(page, path, rule, "free disk space, or make the path writable; then prepare again")
