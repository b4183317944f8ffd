"""`stats.html`, a page about the content of a dataset, which is made from `stats.json` and the schema.

For each section in `SECTIONS` a function turns a `View`, the statistics and the schema, into the values that a block of
`ple_rec/reports/templates/statistics.html.j2` reads. It returns None to leave the section out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.stats.page.columns import dense_columns, history_columns, sparse_columns, vector_columns
from data_prep.stats.page.overview import days, drift, dropped, facts, key_figures, source
from data_prep.stats.page.tasks import correlation, tasks
from data_prep.stats.page.view import View
from ple_rec.config.schema import DatasetSchema
from ple_rec.reports.page import Section, render_page, write_document

# Anchor, heading and function of each section, in the order of the page.
SECTIONS: tuple[tuple[str, str, Callable[[View], object]], ...] = (
    ("tasks", "Tasks", tasks),
    ("correlation", "Correlation of labels", correlation),
    ("days", "By day", days),
    ("sparse", "Sparse columns", sparse_columns),
    ("dense", "Dense columns", dense_columns),
    ("vectors", "Vectors", vector_columns),
    ("histories", "Histories", history_columns),
    ("drift", "Drift from train to valid and test", drift),
    ("dropped", "Rows left out", dropped),
    ("source", "Source files", source),
)


def write_page(
    stats: Mapping[str, Any], schema: DatasetSchema, path: Path, spaces: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write the page of a dataset. Equal arguments give equal bytes.

    Args:
        stats: Content of `stats.json` in version 2.
        schema: Schema of the dataset.
        path: Path of the HTML file.
        spaces: Conditions of sample spaces, by column. For a column without a condition, the page shows its name.

    Raises:
        UserError: The file cannot be written.
    """
    view = View(stats, schema, spaces)
    page = render_page(
        "statistics",
        [Section(anchor, heading, make_values(view)) for anchor, heading, make_values in SECTIONS],
        name=schema.name,
        facts=facts(view),
        figures=key_figures(view),
        splits=view.splits(),
    )
    rule = "the page of a dataset is a file beside its statistics"
    write_document(page, path, rule, "free disk space, or make the path writable; then prepare again")
