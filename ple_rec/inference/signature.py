"""Signature of an exported model: its input features with their owners, and its tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from ple_rec.config.base import Config, Name, TaskKind
from ple_rec.config.schema import DenseFeature
from ple_rec.data.encode import RawFeature, RawKind

Owner = Literal["user", "item"]
OWNERS: tuple[Owner, ...] = get_args(Owner)


class InputFeature(Config):
    """Input feature of a model.

    Args:
        name: Name of the feature.
        type: Type of a raw value: "int", "text", or "number".
        of: Owner of the feature: all items of a request share a value of the "user"; each "item" has its own.
        dense: True if the model reads the number itself; False if it reads a table row.
        bag: True if a value is a list.
        weighted: True if the values of a bag have weights.
    """

    name: Name
    type: RawKind
    of: Owner
    dense: bool = False
    bag: bool = False
    weighted: bool = False


class AnsweredTask(Config):
    """Task of a model; the answer for a "binary" task is a probability, that for a "regression" its prediction."""

    name: Name
    kind: TaskKind


class Signature(Config):
    """Input features and tasks of a model.

    Args:
        inputs: Sparse features in the order of x, then the dense ones.
        tasks: Tasks in the order of the logits.
    """

    inputs: tuple[InputFeature, ...]
    tasks: tuple[AnsweredTask, ...]

    def of(self, owner: Owner) -> tuple[InputFeature, ...]:
        """Return the inputs of an owner."""
        return tuple(each for each in self.inputs if each.of == owner)

    @property
    def sparse(self) -> tuple[InputFeature, ...]:
        """Inputs that read a table."""
        return tuple(each for each in self.inputs if not each.dense)

    @property
    def dense(self) -> tuple[InputFeature, ...]:
        """Inputs that are numbers."""
        return tuple(each for each in self.inputs if each.dense)

    @property
    def kinds(self) -> dict[str, TaskKind]:
        """Kind of each task, by name."""
        return {task.name: task.kind for task in self.tasks}

    def by_owner(self, rows: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Return the inputs of the user and of an item as plain values, for a person.

        Args:
            rows: Number of rows of the table of each sparse feature.
        """
        return {
            f"{owner}s" if owner == "item" else owner: [
                each.model_dump(exclude={"of"}, exclude_defaults=True)
                | ({} if each.dense else {"rows": rows[each.name]})
                for each in self.of(owner)
            ]
            for owner in OWNERS
        }


def signature_of(
    columns: Collection[str],
    raw: Mapping[str, RawFeature],
    dense: Collection[DenseFeature],
    tasks: Mapping[str, TaskKind],
    shared: Collection[str],
) -> Signature:
    """Return the signature of a model.

    Args:
        columns: Names of its sparse features, in the order of x.
        raw: Sparse features with the types of their raw values, by name.
        dense: Dense features of the model.
        tasks: Kind of each task, in the order of the logits.
        shared: Names of the features of the user.
    """

    def owner(name: str) -> Owner:
        return "user" if name in shared else "item"

    sparse = [
        InputFeature(
            name=name,
            type=raw[name].kind,
            of=owner(name),
            bag=raw[name].feature.bag,
            weighted=raw[name].feature.weights is not None,
        )
        for name in columns
    ]
    numbers = [InputFeature(name=each.name, type="number", of=owner(each.name), dense=True) for each in dense]
    answered_tasks = tuple(AnsweredTask(name=name, kind=kind) for name, kind in tasks.items())
    return Signature(inputs=(*sparse, *numbers), tasks=answered_tasks)
