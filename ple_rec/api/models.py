"""Exported model in memory, `load_model` and `Model`, and its side tables, `publish_tables`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ple_rec.api.arguments import (
    PathLike,
    check_count,
    check_dict,
    check_list,
    check_location,
    check_text,
    errors_name_arguments,
)
from ple_rec.api.html import block, display_path, line, table
from ple_rec.api.request_rows import (
    InputNames,
    known_values,
    plain_rows,
    plain_values,
    request_pieces,
    warn_of_unread,
)
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.errors import UserError
from ple_rec.storage import Location
from ple_rec.text.messages import print_messages

if TYPE_CHECKING:
    import pyarrow as pa

    from ple_rec.config.base import TaskKind
    from ple_rec.inference.ranker import Ranker

logger = logging.getLogger(__name__)

# Forms of rows of Python values. `Model.rank` and `Model.score` also take a table, a DataFrame and the like.
Rows = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]


class Model:
    """Version of an exported model in memory, with the answers of `ple-rec serve`. `load_model` makes it.

    Several threads may use a model at once, also during a training.

    Attributes:
        path: Folder of the version; for a version in a store, its copy in the cache of this machine.
    """

    path: Path

    def __init__(self, path: Path, ranker: Ranker) -> None:
        self.path, self._ranker = path.absolute(), ranker

    @property
    def name(self) -> str:
        """Name of the model, which is that of its run's configuration."""
        return self._ranker.name

    @property
    def version(self) -> str:
        """Name of the version, "v<N>"."""
        return self._ranker.version

    @property
    def tasks(self) -> dict[str, TaskKind]:
        """Kind of each task, "binary" or "regression", by name."""
        return self._ranker.signature.kinds

    @property
    def exponents(self) -> dict[str, float]:
        """Exponent of each factor, a task or a feature, of the fused score; `rank` and `score` may take others."""
        from ple_rec.ranking.fusion import exponent_array

        return dict(zip(self._ranker.factors, exponent_array(self._ranker.fusion).tolist(), strict=True))

    @cached_property
    def card(self) -> str:
        """Model card in Markdown: origin of the model, and its differences from its run."""
        from ple_rec.inference.card import CARD_FILE

        return (self.path / CARD_FILE).read_text(encoding="utf-8")

    @errors_name_arguments
    def rank(
        self,
        user: Mapping[str, Any],
        items: Rows | pa.Table,
        exponents: Mapping[str, float] | None = None,
        *,
        top: int | None = None,
        form: Literal["features", "raw"] = "features",
    ) -> pa.Table:
        """Rank the items of one request, the best first.

        Args:
            user: Values by name of the user's features, and of item features that all items share.
            items: Values of the items' features: a list of dicts, a dict of columns, or a table. A missing feature
                counts as a missing value. Columns of a table that the model does not read are left out.
            exponents: Exponents of some factors, in place of the model's.
            top: Number of items to return; None for all.
            form: "features" if `user` and `items` have the features of the model (`features`), "raw" if they have the
                columns of the log (`raw_columns`), from which the model computes its features. Raw columns that no
                feature reads are left out with a warning.

        Returns:
            A row for each returned item, the best first: `index`, its position in `items`, `score`, the logarithm of
            the fused score, and a column for each task.

        Raises:
            UserError: A name is no feature, or a value has the wrong type; the message says where.
        """
        import numpy as np
        import pyarrow as pa

        plain_user = plain_values(user)
        if not isinstance(plain_user, dict):
            rule = "it holds the values of one user, by feature"
            raise UserError("user", f"got a {type(user).__name__}", rule, 'give for example {"user_id": 7}')
        if top is not None:
            check_count("top", top)
        inputs = self._inputs(form)
        rows = plain_rows("items", items, inputs)
        left_out = [*rows.left_out, *(key for key in plain_user if inputs.raw and key not in inputs.names)]
        warn_of_unread(list(dict.fromkeys(left_out)), inputs)
        plain_user = known_values(plain_user, inputs.names) if inputs.raw else plain_user
        body = {"user": plain_user, "form": form, **_exponents(exponents)}
        answers, begin = [], 0
        for piece, count in request_pieces(rows.values, inputs, plain_user):
            answer = self._answer("rank", body | {"items": piece}, begin)
            answer["index"] = [index + begin for index in answer["index"]]
            answers.append(answer)
            begin += count
        ranked = self._table(answers, "index")
        # The answer for each piece is sorted by itself, so sort the rows of all pieces.
        order_N = np.argsort(-ranked["score"].to_numpy(), kind="stable")
        return ranked.take(pa.array(order_N[:top]))

    @errors_name_arguments
    def score(
        self,
        rows: Rows | pa.Table,
        exponents: Mapping[str, float] | None = None,
        *,
        form: Literal["features", "raw"] = "features",
    ) -> pa.Table:
        """Score rows, each with all of its features.

        Args:
            rows: Values of features: a list of dicts, a dict of columns, or a table. A missing feature counts as a
                missing value. Columns of a table that the model does not read are left out.
            exponents: Exponents of some factors, in place of the model's.
            form: "features" if the rows have the features of the model, "raw" if they have the columns of the log; see
                `rank`.

        Returns:
            A row for each input row, in the same order: `score`, the logarithm of the fused score, and a column for
            each task.

        Raises:
            UserError: A name is no feature, or a value has the wrong type; the message says where.
        """
        inputs = self._inputs(form)
        plain = plain_rows("rows", rows, inputs)
        warn_of_unread(plain.left_out, inputs)
        body, answers, begin = {"form": form, **_exponents(exponents)}, [], 0
        for piece, count in request_pieces(plain.values, inputs, {}):
            answers.append(self._answer("score", body | {"rows": piece}, begin))
            begin += count
        return self._table(answers)

    def _inputs(self, form: str) -> InputNames:
        """Return the names that requests of a form have.

        Raises:
            UserError: The form is unknown, or the model does not have the raw form.
        """
        if form not in ("features", "raw"):
            rule = "rows have the features of the model, or the raw columns of the log"
            raise UserError("form", f"got {form!r}", rule, 'give "features" or "raw"')
        from ple_rec.inference.feature_parsing import MAX_VECTOR_NUMBERS
        from ple_rec.inference.raw_columns import FLOAT_LISTS
        from ple_rec.inference.request_rows import MAX_ITEMS

        if form == "features":
            inputs = self._ranker.signature.inputs
            numbers = sum(each.vector or 0 for each in inputs)
            return InputNames(
                names=[each.name for each in inputs],
                large=[each.name for each in inputs if each.bag],
                large_of_items=[each.name for each in inputs if each.bag and each.of == "item"],
                raw=False,
                max_rows=max(1, min(MAX_ITEMS, MAX_VECTOR_NUMBERS // max(1, numbers))),
            )
        raw_form = self._ranker.raw_form
        if raw_form is None:
            rule = "the dataset of the model does not record the types of raw columns"
            raise UserError("form", 'got "raw"', rule, "prepare the dataset again, train and export, or give features")
        columns = self._ranker.raw_columns
        large = [name for name, column in columns.items() if column.type.startswith(("list", "string"))]
        of_items = () if raw_form.item is None else raw_form.item.columns
        return InputNames(
            names=list(columns),
            large=large,
            large_of_items=[name for name in large if name in of_items],
            raw=True,
            max_rows=MAX_ITEMS,
            float_lists=[name for name, column in columns.items() if column.type in FLOAT_LISTS],
        )

    def _answer(self, kind: str, body: Mapping[str, Any], begin: int) -> dict[str, Any]:
        """Return the columns of an answer; `begin` is the index of its first row among all rows."""
        from ple_rec.inference.request_error import RequestError

        read = self._ranker.read_rank if kind == "rank" else self._ranker.read_score
        try:
            (answer,) = self._ranker.answer([replace(read(body), form="columns")])
        except RequestError as error:
            behind = f" (of rows from {begin:,} on)" if begin else ""
            names = "raw_columns" if body["form"] == "raw" else "features"
            fix = f"correct the value, or leave it out; `model.{names}` lists what the model reads"
            raise UserError(f"{error.field}{behind}", f"got {error.value}", error.rule, fix) from None
        columns: dict[str, Any] = answer["items" if kind == "rank" else "rows"]
        return columns

    def _table(self, pieces: Sequence[Mapping[str, Any]], *first: str) -> pa.Table:
        """Return the answers for all pieces as one table.

        Its columns are the integer columns that `first` names, `score`, and a column for each task.
        """
        import pyarrow as pa

        def joined(name: str) -> list[Any]:
            return list(chain.from_iterable(piece[name] for piece in pieces))

        columns = {name: pa.array(joined(name), pa.int64()) for name in first}
        columns["score"] = pa.array(joined("score"), pa.float64())
        for task in self.tasks:
            values = list(chain.from_iterable(piece["predictions"][task] for piece in pieces))
            columns[task] = pa.array(values, pa.float32())
        return pa.table(columns)

    @property
    def raw_columns(self) -> pa.Table:
        """Columns of the log that requests of the raw form have, a row for each; empty without this form.

        Columns of side tables need not be sent if `side_tables` has the table. Without the table, columns that only its
        keys read are left out.

        The columns of the frame are `name`, `type` of a value, `of` ("user" or "item"), `required`, True if every row
        needs a value, and `features`, the features that are computed from the column.
        """
        import pyarrow as pa

        columns = self._ranker.raw_columns.values()
        types = {"name": pa.string(), "type": pa.string(), "of": pa.string(), "required": pa.bool_()}
        frame = {key: pa.array([getattr(each, key) for each in columns], kind) for key, kind in types.items()}
        features = pa.array([list(each.features) for each in columns], pa.list_(pa.string()))
        return pa.table(frame | {"features": features})

    @property
    def side_tables(self) -> pa.Table:
        """Side tables that fill columns of requests of the raw form, a row for each.

        The columns of the frame are `name`, `version`, `rows`, `bytes` in memory, `latest_day`, the newest day of a
        dated table, and `as_of`, the day for whose rows the values of a table of rates hold.
        """
        import pyarrow as pa

        kinds = {"name": pa.string(), "version": pa.string(), "rows": pa.int64(), "bytes": pa.int64()}
        schema = pa.schema(kinds | {"latest_day": pa.string(), "as_of": pa.string()})
        return pa.Table.from_pylist([each.describe() for each in self._ranker.side_tables.values()], schema)

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """JSON schemas of requests and answers of `ple-rec serve`, by name.

        They are "RankRequest", "Ranked", "ScoreRequest" and "Scored"; with the raw form also "RawRankRequest" and
        "RawScoreRequest".
        """
        return self._ranker.schemas()

    @property
    def features(self) -> pa.Table:
        """Features that the model reads, a row for each.

        Its columns are `name`, `type` of a value, `of` ("user" or "item"), and `bag`, True if the feature has several
        values.
        """
        import pyarrow as pa

        inputs = self._ranker.signature.inputs
        return pa.table({key: [getattr(each, key) for each in inputs] for key in ("name", "type", "of", "bag")})

    def __repr__(self) -> str:
        """Return the name, version, path and tasks."""
        return f"Model({self.name} {self.version}, {display_path(self.path)!r}: tasks {', '.join(self.tasks)})"

    def _repr_html_(self) -> str:
        checks = self._ranker.description.get("card", {}).get("check", {}).get("tasks", {})
        exponents = self.exponents
        tasks = [
            [name, kind, f"{exponents[name]:g}" if name in exponents else "", _difference(checks.get(name, {}))]
            for name, kind in self.tasks.items()
        ]
        features = []
        for each in self._ranker.signature.inputs:
            rows = self._ranker.table_rows.get(each.name)
            size = "" if rows is None else f"{rows:,}"
            kind = f"list of {each.type}" if each.bag else each.type
            if each.vector is not None:
                kind = f"vector of {each.vector}" + ("" if each.type == "number" else f", or {each.type}")
            features.append([each.name, each.of, kind, size])
        return block(
            line(
                f"{self.name} {self.version}",
                f"matrix products in {self._ranker.dense_precision}",
                display_path(self.path),
            ),
            table(["task", "kind", "exponent", "differs from its run by at most"], tasks),
            table(["feature", "of", "type", "table rows"], features),
        )


@errors_name_arguments
def load_model(path: PathLike) -> Model:
    """Load an exported model into memory.

    Args:
        path: Folder that `Run.export` or `ple-rec export` has written, from which the version that `latest` names is
            loaded; or the folder of a version. A model in a store, such as "s3://bucket/model", is copied into the
            cache of this machine. The side tables of the model are loaded, too.

    Raises:
        UserError: The folder has no exported model, or the store cannot be read.
        DataError: The version or a side table is damaged.
    """
    from ple_rec.inference.manifest import MANIFEST, explain_unreadable
    from ple_rec.inference.model_dir import latest_version

    folder = check_location("path", path)
    with explain_unreadable(folder):
        if not (folder / MANIFEST).is_file():
            version = latest_version(folder)
        else:
            # Bases and side tables are searched in the parents of the folder, which "." and a link do not have.
            version = folder.resolve() if isinstance(folder, Path) else folder
    with preserve_torch_state(with_group=False):
        from ple_rec.inference.load_version import load_ranker, load_side_tables
        from ple_rec.inference.remote_model import local_version

        ranker, misfits = load_side_tables(load_ranker(version), version)
        for misfit in misfits:
            logger.warning(misfit)
        return Model(local_version(version), ranker)


@errors_name_arguments
def publish_tables(
    model: PathLike, tables: Sequence[str] = (), *, source: PathLike | None = None, dataset: PathLike | None = None
) -> list[Location]:
    """Write new versions of side tables of an exported model, as `ple-rec tables` does.

    A running server loads them without loading the model again. `load_model` loads the newest versions.

    Args:
        model: Folder of the model, or its address.
        tables: Names of side tables of `prep.toml`, or of tables of rates, such as "by_video_id"; empty for all that
            the model's features read: those of raw files with `source`, those of rates with `dataset`.
        source: Folder of the raw files of side tables.
        dataset: Dataset of the model, or one with days appended to it, whose rates are published.

    Returns:
        Folder of each new version.

    Raises:
        UserError: There is no model, its features read no such table, a file does not exist, or the dataset is not one
            of the model's lineage, or has other rates.
        DataError: A file does not fit the preparation of the model's dataset, or a key occurs in several rows.
    """
    from data_prep.inputs.side_tables import read_side_table
    from ple_rec.inference.side_table import TableSources
    from ple_rec.inference.side_table import publish_tables as publish

    names, folder = check_list("tables", tables), check_location("model", model)
    with print_messages():
        sources = TableSources(
            files=None if source is None else str(check_location("source", source)),
            dataset=None if dataset is None else str(check_location("dataset", dataset)),
        )
        published = publish(folder, names, sources, read_side_table)
    return [each.folder for each in published]


@errors_name_arguments
def squash_version(model: PathLike, version: str) -> Model:
    """Write a delta of a model as a whole version with the same scores, and load it, as `ple-rec export --squash` does.

    Args:
        model: Folder of the model, or its address; its `latest` will name the new version.
        version: Name of the delta, "v<N>".

    Raises:
        UserError: There is no such version, or it is whole already.
        DataError: A version of the chain is missing or damaged.
    """
    from ple_rec.inference.squash import squash

    folder = check_location("model", model)
    check_text("version", version)
    with preserve_torch_state(), print_messages():
        done = squash(folder, version)
    return load_model(str(done.version))


def _exponents(exponents: Mapping[str, float] | None) -> dict[str, Any]:
    return {} if exponents is None else {"exponents": plain_values(check_dict("exponents", exponents))}


def _difference(check: Mapping[str, Any]) -> str:
    largest = check.get("largest")
    return "" if largest is None else f"{largest:.1e}"
