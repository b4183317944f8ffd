"""Signature of an exported model: its input features and its tasks, as they are stored in `model.json`.

A feature belongs to the user or to an item, its owner: one request ranks many items for one user. A history is a
feature whose value is a list of events; the model reads it as several columns of table rows, one for each item of an
event and one for the ages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field

from ple_rec.config.base import Config, Name, PositiveInt, TaskKind
from ple_rec.config.schema import DenseFeature, HistoryFeature, age_table
from ple_rec.data.encode import RawFeature, RawKind

Owner = Literal["user", "item"]
OWNERS: tuple[Owner, ...] = get_args(Owner)


class EventItem(Config):
    """Value of each event of a history.

    Args:
        name: Name of the sparse feature that has the same values.
        type: Type of a raw value.
    """

    name: Name
    type: RawKind


class EventList(Config):
    """Events of a history.

    Args:
        items: Values of each event.
        length: Most events that the model reads; of a longer list, it reads the last ones.
        age_edges: Boundaries of the buckets of ages, in seconds.
    """

    items: tuple[EventItem, ...]
    length: PositiveInt
    age_edges: tuple[PositiveInt, ...]


@dataclass(frozen=True)
class TableColumn:
    """Column of table rows that a model reads: a sparse feature, or the lists of an item or of the ages of a history.

    Args:
        name: Name of the feature, or of the column of the history.
        of: Owner of the feature.
        bag: True if a value is a list.
        weighted: True if the values of a list have weights.
    """

    name: str
    of: Owner
    bag: bool
    weighted: bool = False


class InputFeature(Config):
    """Input feature of a model.

    Args:
        name: Name of the feature.
        type: Type of a raw value: "int", "text", or "number"; "events" for a history.
        of: Owner of the feature: "user" if all items of a request share its value, "item" if each has its own.
        dense: True if the model reads the number itself; False if it reads a table row.
        bag: True if a value is a list.
        weighted: True if the values of a bag have weights.
        vector: Number of components of a vector; None for another feature. A value is a list of as many numbers; if
            `type` is "int" or "text", it may also be a key of the feature's frozen table.
        events: Events of a history, the oldest first; None for another feature.
    """

    name: Name
    type: RawKind | Literal["events"]
    of: Owner
    dense: bool = False
    bag: bool = False
    weighted: bool = False
    vector: PositiveInt | None = None
    events: EventList | None = Field(None, exclude_if=lambda events: events is None)

    @property
    def table_columns(self) -> tuple[TableColumn, ...]:
        """Columns of table rows: one of a sparse feature; one for each item of a history, then that of the ages."""
        if self.events is not None:
            names = [*(f"{self.name}.{item.name}" for item in self.events.items), age_table(self.name)]
            return tuple(TableColumn(name, self.of, bag=True) for name in names)
        if self.dense or self.vector is not None:
            return ()
        return (TableColumn(self.name, self.of, self.bag, self.weighted),)


class AnsweredTask(Config):
    """Task for which an answer has a number: a probability if its kind is "binary", a prediction if "regression"."""

    name: Name
    kind: TaskKind


class Signature(Config):
    """Input features and tasks of a model.

    Args:
        inputs: Sparse features in the order of the columns of the network's input x, then the dense ones, then vectors,
            then histories.
        tasks: Tasks in the order of the logits.
    """

    inputs: tuple[InputFeature, ...]
    tasks: tuple[AnsweredTask, ...]

    def inputs_of(self, owner: Owner) -> tuple[InputFeature, ...]:
        """Return the inputs that belong to an owner."""
        return tuple(each for each in self.inputs if each.of == owner)

    @property
    def sparse(self) -> tuple[InputFeature, ...]:
        """Inputs that read a table, without histories."""
        return tuple(each for each in self.inputs if not each.dense and each.vector is None and each.events is None)

    @property
    def dense(self) -> tuple[InputFeature, ...]:
        """Inputs that are numbers."""
        return tuple(each for each in self.inputs if each.dense)

    @property
    def vectors(self) -> tuple[InputFeature, ...]:
        """Inputs that are vectors."""
        return tuple(each for each in self.inputs if each.vector is not None)

    @property
    def histories(self) -> tuple[InputFeature, ...]:
        """Inputs that are histories."""
        return tuple(each for each in self.inputs if each.events is not None)

    @property
    def table_columns(self) -> dict[str, TableColumn]:
        """Columns of table rows by name, those of histories last."""
        return {column.name: column for each in self.inputs for column in each.table_columns}

    @property
    def kinds(self) -> dict[str, TaskKind]:
        """Kind of each task, by name."""
        return {task.name: task.kind for task in self.tasks}

    def describe_inputs(self, table_rows: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Return the inputs as JSON values, `{"user": [...], "items": [...]}`, for `/v1/model`.

        Args:
            table_rows: Number of rows of each sparse feature's table, by the feature's name.
        """
        return {
            f"{owner}s" if owner == "item" else owner: [
                each.model_dump(exclude={"of"}, exclude_defaults=True)
                | ({"rows": table_rows[each.name]} if each.name in table_rows else {})
                for each in self.inputs_of(owner)
            ]
            for owner in OWNERS
        }


def build_signature(
    sparse_names: Collection[str],
    raw_features: Mapping[str, RawFeature],
    dense: Collection[DenseFeature],
    tasks: Mapping[str, TaskKind],
    user_features: Collection[str],
    vectors: Mapping[str, tuple[int, RawKind]],
    histories: Collection[HistoryFeature] = (),
) -> Signature:
    """Return the signature of a model.

    Args:
        sparse_names: Names of the sparse features, in the order of their columns in the network's input x.
        raw_features: Sparse features with the types of their raw values, by name.
        dense: Dense features of the model.
        tasks: Kind of each task, in the order of the logits.
        user_features: Names of the features that belong to the user.
        vectors: Width of each vector feature, and the type of its keys, or "number" if it has no table with one key.
        histories: Histories of the model.
    """

    def owner(name: str) -> Owner:
        return "user" if name in user_features else "item"

    sparse = [
        InputFeature(
            name=name,
            type=raw_features[name].kind,
            of=owner(name),
            bag=raw_features[name].feature.bag,
            weighted=raw_features[name].feature.weights is not None,
        )
        for name in sparse_names
    ]
    numbers = [InputFeature(name=each.name, type="number", of=owner(each.name), dense=True) for each in dense]
    answered_tasks = tuple(AnsweredTask(name=name, kind=kind) for name, kind in tasks.items())
    lists = [
        InputFeature(name=name, type=kind, of=owner(name), vector=width) for name, (width, kind) in vectors.items()
    ]
    events = [
        InputFeature(
            name=each.name,
            type="events",
            of=owner(each.name),
            events=EventList(
                items=tuple(EventItem(name=item.feature, type=raw_features[item.feature].kind) for item in each.items),
                length=each.length,
                age_edges=each.age_edges,
            ),
        )
        for each in histories
    ]
    return Signature(inputs=(*sparse, *numbers, *lists, *events), tasks=answered_tasks)
