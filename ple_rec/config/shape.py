"""The tree of keys that a configuration model accepts, read from its JSON schema: keys, variants, alternatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from pydantic import BaseModel

from ple_rec.config.base import json_type


@dataclass(frozen=True)
class SchemaNode:
    """What may stand at one place of a configuration: a node of the model's JSON schema.

    `X | None` is the shape of `X`, for TOML has no null: the key is left out instead.

    Args:
        node: The JSON schema of the place, references followed; `ref` names the definition it came from, if any.
        definitions: Every definition of the document's schema, by name.
    """

    node: Mapping[str, Any]
    definitions: Mapping[str, Any]

    @staticmethod
    @cache
    def of(model: type[BaseModel]) -> SchemaNode:
        """Return the shape of a whole document of `model`."""
        schema = model.model_json_schema()
        return SchemaNode({}, schema.get("$defs", {})).at(schema)

    def at(self, node: Mapping[str, Any]) -> SchemaNode:
        """Return the shape of a schema node; what stands beside a reference goes before what the target says."""
        while True:
            if "$ref" in node:
                name = node["$ref"].rpartition("/")[2]
                target, link = {**self.definitions[name], "ref": name}, "$ref"
            elif len(some := [n for n in node.get("anyOf", ()) if n.get("type") != "null"]) == 1:
                target, link = some[0], "anyOf"
            else:
                return SchemaNode(node, self.definitions)
            node = {**target, **{key: value for key, value in node.items() if key != link}}

    @cached_property
    def tag(self) -> str | None:
        """The key that picks a variant of a tagged union; None for anything else."""
        name: str | None = self.node.get("discriminator", {}).get("propertyName")
        return name

    @cached_property
    def variants(self) -> dict[str, SchemaNode]:
        """Tag -> shape of a tagged union, in alphabetical order; empty for anything else."""
        mapping = self.node.get("discriminator", {}).get("mapping", {})
        return {tag: self.at({"$ref": mapping[tag]}) for tag in sorted(mapping)}

    @cached_property
    def members(self) -> list[SchemaNode]:
        """Alternatives of a union without a tag; empty for anything else."""
        if self.tag is not None:
            return []
        members = self.node.get("oneOf") or self.node.get("anyOf", ())
        return [self.at(node) for node in members if node.get("type") != "null"]

    @cached_property
    def keys(self) -> dict[str, SchemaNode]:
        """Key -> shape of a table with fixed keys; empty for anything else."""
        return {key: self.at(node) for key, node in self.node.get("properties", {}).items()}

    @cached_property
    def required(self) -> frozenset[str]:
        """Keys without a default."""
        return frozenset(self.node.get("required", ()))

    @cached_property
    def closed(self) -> bool:
        """Whether this is a table that refuses other keys than `keys`."""
        return self.node.get("type") == "object" and "properties" in self.node and self.values is None

    @cached_property
    def values(self) -> SchemaNode | None:
        """The shape of every value of a table of free keys; None for anything else."""
        patterns = list(self.node.get("patternProperties", {}).values())
        node = patterns[0] if patterns else self.node.get("additionalProperties")
        return self.at(node) if isinstance(node, Mapping) else None

    @cached_property
    def items(self) -> SchemaNode | None:
        """The shape of every item of an array of any length; None for anything else."""
        node = self.node.get("items")
        return self.at(node) if isinstance(node, Mapping) else None

    @cached_property
    def slots(self) -> list[SchemaNode]:
        """The shapes of the items of an array of fixed length; empty for anything else."""
        return [self.at(node) for node in self.node.get("prefixItems", ())]

    @cached_property
    def choices(self) -> list[Any]:
        """The values of a literal or an enumeration; empty for anything else."""
        return [self.node["const"]] if "const" in self.node else list(self.node.get("enum", ()))

    @cached_property
    def names(self) -> list[str] | None:
        """The keys that a table may have; None where any other key may stand there too, and for anything else."""
        if self.closed:
            return list(self.keys)
        rule = self.key_rule
        return [str(choice) for choice in rule.choices] or None if rule is not None else None

    @cached_property
    def key_rule(self) -> SchemaNode | None:
        """What the keys of a table of free keys must be; None where any will do."""
        if patterns := list(self.node.get("patternProperties", {})):
            return SchemaNode({"type": "string", "pattern": patterns[0]}, self.definitions)
        names = self.node.get("propertyNames")
        return self.at(names) if names else None

    def child(self, key: str | int) -> SchemaNode | None:
        """Return the shape under a key or an index of a table or an array; None where the model knows none."""
        if isinstance(key, int):
            slots = self.slots
            return slots[key] if key < len(slots) else self.items
        return self.keys.get(key, self.values)

    def narrow(self, value: object) -> SchemaNode:
        """Return the alternative of a union that `value` belongs to; the shape itself where that cannot be told."""
        if self.tag is not None:
            tag = value.get(self.tag) if isinstance(value, dict) else None
            return self.variants.get(tag, self) if isinstance(tag, str) else self
        kind = json_type(value)
        fitting = [m for m in self.members if m.node.get("type", "object" if m.tag else None) == kind]
        return fitting[0].narrow(value) if len(fitting) == 1 else self

    def places(self, key: str, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield every place of the tree that has that key, as `train.steps` or `tasks[].weight`."""
        ref = self.node.get("ref")
        if ref in above:  # a model that holds itself
            return
        above |= {ref} if ref else set()
        for shape in (*self.variants.values(), *self.members):
            yield from shape.places(key, prefix, above)
        for name, shape in self.keys.items():
            if name == key:
                yield prefix + name
            yield from shape.places(key, f"{prefix}{name}.", above)
        if self.items is not None:
            yield from self.items.places(key, f"{prefix.removesuffix('.')}[].", above)
