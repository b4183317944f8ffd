"""`ple-rec tables`: flags and summary; `ple_rec.inference.side_table` publishes side tables of an exported model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import Parameter

from ple_rec.cli.console import show
from ple_rec.cli.options import flag, last_list, location_flag, verb_app
from ple_rec.storage import Location

app = verb_app(
    "tables",
    """\
examples:
  ple-rec tables models/feed --from logs/
  ple-rec tables models/feed --tables video --from logs/2022-05-08
  ple-rec tables s3://models/feed --tables user video --from s3://logs/feed
  ple-rec tables models/feed --dataset data/feed-9

docs/export.md explains requests that have keys in place of the columns of side tables.
""",
)


@Parameter(name="*")
@dataclass(frozen=True)
class TablesFlags:
    """Flags of `ple-rec tables`."""

    _: KW_ONLY
    # Both are optional here, so that a wrong name of a table is reported before a missing folder.
    source: Annotated[
        str | None, flag("raw files of side tables: a folder, a file or s3://...", "DIR", name="--from")
    ] = None
    dataset: Annotated[
        str | None, flag("dataset of the model, or one with days appended to it, whose rates are published", "DIR")
    ] = None
    tables: Annotated[
        tuple[str, ...],
        flag(
            "side tables of prep.toml, or tables of rates, such as by_video_id; default: all that the model's features "
            "read, of raw files with --from, of rates with --dataset",
            "NAME [NAME ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ] = ()


@app.default
def tables(
    model_dir: Annotated[Location, location_flag("folder or address of a model of `ple-rec export`", name="MODEL_DIR")],
    /,
    *,
    options: TablesFlags = TablesFlags(),
) -> int:
    """Publish side tables for the version of a model that `latest` names: MODEL_DIR/tables/NAME/v<N>.

    A running server loads them without loading the model again.
    """
    from data_prep.inputs.side_tables import read_side_table
    from ple_rec.inference.side_table import TableSources, publish_tables
    from ple_rec.text.messages import print_messages

    with print_messages("stderr"):
        sources = TableSources(options.source, options.dataset)
        published = publish_tables(model_dir, options.tables, sources, read_side_table)
    for each in published:
        show(str(each))
    return 0
