"""Exported model in memory: `load_model` and `Model`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ple_rec.api.arguments import PathLike, check_count, check_dict, check_location, errors_name_arguments
from ple_rec.api.frames import columns_and_selector
from ple_rec.api.html import block, display_path, line, table
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.errors import UserError
from ple_rec.text.suggest import nearest_name

if TYPE_CHECKING:
    import pyarrow as pa

    from ple_rec.config.base import TaskKind
    from ple_rec.inference.ranker import Ranker

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
        return (self.path / "MODEL_CARD.md").read_text(encoding="utf-8")

    @errors_name_arguments
    def rank(
        self,
        user: Mapping[str, Any],
        items: Rows | pa.Table,
        exponents: Mapping[str, float] | None = None,
        *,
        top: int | None = None,
    ) -> pa.Table:
        """Rank the items of one request, the best first.

        Args:
            user: Raw values by name of the user's features, and of item features that all items share.
            items: Raw values of the items' features: a list of dicts, a dict of columns, or a table. A missing feature
                counts as a missing value. Columns of a table that the model does not read are left out.
            exponents: Exponents of some factors, in place of the model's.
            top: Number of items to return; None for all.

        Returns:
            A row for each returned item, the best first: `index`, its position in `items`, `score`, the logarithm of
            the fused score, and a column for each task.

        Raises:
            UserError: A name is no feature, or a value has the wrong type; the message says where.
        """
        import numpy as np
        import pyarrow as pa

        plain_user = _plain(user)
        if not isinstance(plain_user, dict):
            rule = "it holds the values of one user, by feature"
            raise UserError("user", f"got a {type(user).__name__}", rule, 'give for example {"user_id": 7}')
        if top is not None:
            check_count("top", top)
        body = {"user": plain_user, **_exponents(exponents)}
        pieces, begin = [], 0
        bags = [each for each in self._ranker.signature.inputs if each.bag]
        # A request may hold a limited number of bag values. Item features in `user` count once for each item, too.
        values_per_item = sum(_bag_size(plain_user.get(each.name)) for each in bags if each.of == "item")
        request_values = sum(_bag_size(plain_user.get(each.name)) for each in bags)
        for piece, count in self._pieces("items", items, request_values, values_per_item):
            answer = self._answer("rank", body | {"items": piece}, begin)
            answer["index"] = [index + begin for index in answer["index"]]
            pieces.append(answer)
            begin += count
        ranked = self._table(pieces, "index")
        # The answer for each piece is sorted by itself, so sort the rows of all pieces.
        order_N = np.argsort(-ranked["score"].to_numpy(), kind="stable")
        return ranked.take(pa.array(order_N[:top]))

    @errors_name_arguments
    def score(self, rows: Rows | pa.Table, exponents: Mapping[str, float] | None = None) -> pa.Table:
        """Score rows, each with all of its features.

        Args:
            rows: Raw values of features: a list of dicts, a dict of columns, or a table. A missing feature counts as a
                missing value. Columns of a table that the model does not read are left out.
            exponents: Exponents of some factors, in place of the model's.

        Returns:
            A row for each input row, in the same order: `score`, the logarithm of the fused score, and a column for
            each task.

        Raises:
            UserError: A name is no feature, or a value has the wrong type; the message says where.
        """
        body, pieces, begin = _exponents(exponents), [], 0
        for piece, count in self._pieces("rows", rows):
            pieces.append(self._answer("score", body | {"rows": piece}, begin))
            begin += count
        return self._table(pieces)

    def _pieces(
        self, name: str, rows: object, request_values: int = 0, values_per_row: int = 0
    ) -> Iterator[tuple[Rows, int]]:
        """Yield the rows in pieces that are small enough for one request, each with its number of rows.

        A bag is a feature with several values.

        Args:
            name: Name of the argument with the rows, for messages.
            rows: Value of that argument.
            request_values: Number of bag values that a request has beside its rows.
            values_per_row: Number of bag values that each row takes from the request.
        """
        from ple_rec.inference.feature_parsing import MAX_VALUES, MAX_VECTOR_NUMBERS
        from ple_rec.inference.request_rows import MAX_ITEMS

        numbers = sum(feature.vector or 0 for feature in self._ranker.signature.inputs)
        max_items = max(1, min(MAX_ITEMS, MAX_VECTOR_NUMBERS // max(1, numbers)))
        plain = _plain_rows(name, rows, [each.name for each in self._ranker.signature.inputs])
        bags = [feature.name for feature in self._ranker.signature.inputs if feature.bag]
        if isinstance(plain, list):
            sizes = [sum(_bag_size(row.get(bag)) for bag in bags) if isinstance(row, dict) else 0 for row in plain]
        else:
            sizes = [0] * len(next(iter(plain.values()), ()))
            for bag in plain.keys() & bags:
                sizes = [size + _bag_size(value) for size, value in zip(sizes, plain[bag], strict=True)]
        begin, end = 0, 0
        # Without rows, one empty piece is yielded, so that the model refuses it with the message of the server.
        while True:
            values = request_values
            while end < len(sizes) and end - begin < max_items:
                values += values_per_row + sizes[end]
                if values > MAX_VALUES and end > begin:
                    break
                end += 1
            piece = slice(begin, end)
            yield (
                plain[piece] if isinstance(plain, list) else {key: cells[piece] for key, cells in plain.items()},
                end - begin,
            )
            if end == len(sizes):
                return
            begin = end

    def _answer(self, kind: str, body: Mapping[str, Any], begin: int) -> dict[str, Any]:
        """Return the columns of an answer; `begin` is the index of its first row among all rows."""
        from ple_rec.inference.request_error import RequestError

        read = self._ranker.read_rank if kind == "rank" else self._ranker.read_score
        try:
            (answer,) = self._ranker.answer([replace(read(body), form="columns")])
        except RequestError as error:
            behind = f" (of rows from {begin:,} on)" if begin else ""
            fix = "correct the value, or leave it out; `model.features` lists what the model reads"
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
            cache of this machine.

    Raises:
        UserError: The folder has no exported model, or the store cannot be read.
        DataError: The version is damaged.
    """
    from ple_rec.inference.manifest import MANIFEST, explain_unreadable
    from ple_rec.inference.model_dir import latest_version

    folder = check_location("path", path)
    with explain_unreadable(folder):
        version = folder if (folder / MANIFEST).is_file() else latest_version(folder)
    with preserve_torch_state(with_group=False):
        from ple_rec.inference.load_version import load_ranker
        from ple_rec.inference.remote_model import local_version

        ranker = load_ranker(version)
        return Model(local_version(version), ranker)


def _exponents(exponents: Mapping[str, float] | None) -> dict[str, Any]:
    return {} if exponents is None else {"exponents": _plain(check_dict("exponents", exponents))}


def _bag_size(value: object) -> int:
    """Return the number of values of a bag, which may have weights; 0 for a single value."""
    if isinstance(value, dict):
        return max((len(part) for part in value.values() if isinstance(part, list)), default=0)
    return len(value) if isinstance(value, list) else 0


def _plain_rows(name: str, rows: object, features: Sequence[str]) -> list[Any] | dict[str, list[Any]]:
    """Return rows as dicts or columns of Python values.

    Columns of a table or a DataFrame that are no features are left out. But a column whose name is close to that of a
    missing feature is kept, so that the model refuses it as misspelt. In dicts, the model refuses every unknown name.

    Args:
        name: Name of the argument with the rows, for messages.
        rows: Value of that argument.
        features: Names of the features of the model.

    Raises:
        UserError: The value has another form than rows, or its columns have different lengths.
    """
    import pyarrow as pa

    if isinstance(rows, list | tuple):
        return [_plain(row) for row in rows]
    if isinstance(rows, Mapping):
        columns = {str(key): _plain(values) for key, values in rows.items()}
    else:
        keys, pick = columns_and_selector(rows)
        lacking = [feature for feature in features if feature not in keys]
        read = [key for key in keys if key in features or nearest_name(str(key), lacking, cutoff=0.8)]
        if twice := [key for key, count in Counter(read).items() if count > 1]:
            raise UserError(
                f"{name}.{twice[0]}", "two columns", "column names are unique", "rename or drop one of them"
            )
        try:
            arrow = pa.table(pick(read))
        except (TypeError, ValueError, pa.ArrowException):
            rule = "rows are a list of dicts, a dict of columns, or a table"
            raise UserError(name, f"got a {type(rows).__name__}", rule, "give one of these") from None
        # The index of a DataFrame comes along as a column.
        columns = {key: _plain(values) for key, values in arrow.to_pydict().items() if key in features or key in read}
    if odd := [key for key, values in columns.items() if not isinstance(values, list)]:
        value = f"got a {type(columns[odd[0]]).__name__}"
        raise UserError(f"{name}.{odd[0]}", value, "a column is a list of values", "give a list, one value a row")
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        value = ", ".join(f"{key} has {count:,} values" for key, count in lengths.items())
        rule = "columns have the same length, a value for each row"
        raise UserError(name, value, rule, "give each column a value for every row")
    return columns


def _plain(value: Any) -> Any:
    """Return a value converted to JSON types, from NumPy or Arrow arrays and scalars; NaN, NaT and NA become None."""
    for method in ("to_pylist", "as_py", "tolist"):
        if hasattr(value, method):
            value = getattr(value, method)()
            break
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    missing = (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NaTType", "NAType")
    return None if missing else value


def _difference(check: Mapping[str, Any]) -> str:
    largest = check.get("largest")
    return "" if largest is None else f"{largest:.1e}"
