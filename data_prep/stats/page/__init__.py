"""`stats.html`: a page about the content of a dataset, from `stats.json` and the schema alone.

Each section in `SECTIONS` has a function from `View` to the content of its block in
`ple_rec/reports/templates/statistics.html.j2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.stats.page.columns import dense_columns, sparse_columns
from data_prep.stats.page.overview import days, drift, dropped, facts, key_figures, source
from data_prep.stats.page.tasks import correlation, tasks
from data_prep.stats.page.view import View
from ple_rec.config.schema import DatasetSchema
from ple_rec.reports.page import Part, render, write_document

SECTIONS: tuple[tuple[str, str, Callable[[View], object]], ...] = (
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
        stats: Content of `stats.json` in version 2.
        schema: Schema of the dataset.
        path: Path of the HTML file.
        spaces: Condition of each column of a sample space, by column. Without it, the page names the column.

    Raises:
        UserError: The file cannot be written.
    """
    view = View(stats, schema, spaces)
    page = render(
        "statistics",
        [Part(anchor, heading, section(view)) for anchor, heading, section in SECTIONS],
        name=schema.name,
        facts=facts(view),
        figures=key_figures(view),
        splits=view.splits(),
    )
    rule = "the page of a dataset is a file beside its statistics"
    write_document(page, path, rule, "free disk space, or make the path writable; then prepare again")
