"""`SchemaNode`: what a configuration class accepts at a place, read from the JSON schema that pydantic makes of it.

Overrides, listings and messages walk these nodes along the keys of a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from pydantic import BaseModel

from ple_rec.config.base import json_type


@dataclass(frozen=True)
class SchemaNode:
    """Rule for the value at one place of a configuration: a node of the class's JSON schema.

    `X | None` has the node of `X`: TOML has no null, so the key is left out instead.

    Args:
        schema: JSON schema of the place with references resolved. Its key `ref` is the name of the definition that they
            lead to; a schema without a reference has no such key.
        definitions: Definitions of the whole JSON schema, by name.
    """

    schema: Mapping[str, Any]
    definitions: Mapping[str, Any]

    @staticmethod
    @cache
    def of_class(cls: type[BaseModel]) -> SchemaNode:
        """Return the root node of a configuration class."""
        schema = cls.model_json_schema()
        return SchemaNode({}, schema.get("$defs", {})).resolve(schema)

    def resolve(self, schema: Mapping[str, Any]) -> SchemaNode:
        """Return the node of a JSON schema, with references resolved. Keys beside a reference override its target's."""
        while True:
            if "$ref" in schema:
                name = schema["$ref"].rpartition("/")[2]
                target, link = {**self.definitions[name], "ref": name}, "$ref"
            elif len(members := [m for m in schema.get("anyOf", ()) if m.get("type") != "null"]) == 1:
                target, link = members[0], "anyOf"
            else:
                return SchemaNode(schema, self.definitions)
            schema = {**target, **{key: value for key, value in schema.items() if key != link}}

    @cached_property
    def tag(self) -> str | None:
        """Key whose value selects a variant of a tagged union; None for any other node."""
        name: str | None = self.schema.get("discriminator", {}).get("propertyName")
        return name

    @cached_property
    def variants(self) -> dict[str, SchemaNode]:
        """Node of each variant of a tagged union, by tag in alphabetical order; empty for any other node."""
        mapping = self.schema.get("discriminator", {}).get("mapping", {})
        return {tag: self.resolve({"$ref": mapping[tag]}) for tag in sorted(mapping)}

    @cached_property
    def members(self) -> list[SchemaNode]:
        """Alternatives of a union without a tag; empty for any other node."""
        if self.tag is not None:
            return []
        members = self.schema.get("oneOf") or self.schema.get("anyOf", ())
        return [self.resolve(member) for member in members if member.get("type") != "null"]

    @cached_property
    def keys(self) -> dict[str, SchemaNode]:
        """Node of each key of a table with fixed keys; empty for any other node."""
        return {key: self.resolve(schema) for key, schema in self.schema.get("properties", {}).items()}

    @cached_property
    def required(self) -> frozenset[str]:
        """Keys without a default."""
        return frozenset(self.schema.get("required", ()))

    @cached_property
    def closed(self) -> bool:
        """True for a table that accepts no keys but `keys`."""
        return self.schema.get("type") == "object" and "properties" in self.schema and self.values is None

    @cached_property
    def values(self) -> SchemaNode | None:
        """Node of every value of a table whose keys the user names; None for any other node."""
        patterns = list(self.schema.get("patternProperties", {}).values())
        schema = patterns[0] if patterns else self.schema.get("additionalProperties")
        return self.resolve(schema) if isinstance(schema, Mapping) else None

    @cached_property
    def items(self) -> SchemaNode | None:
        """Node of every item of an array of any length; None for any other node."""
        schema = self.schema.get("items")
        return self.resolve(schema) if isinstance(schema, Mapping) else None

    @cached_property
    def slots(self) -> list[SchemaNode]:
        """Node of each item of an array of fixed length; empty for any other node."""
        return [self.resolve(schema) for schema in self.schema.get("prefixItems", ())]

    @cached_property
    def choices(self) -> list[Any]:
        """Values of a literal or an enumeration; empty for any other node."""
        return [self.schema["const"]] if "const" in self.schema else list(self.schema.get("enum", ()))

    @cached_property
    def names(self) -> list[str] | None:
        """All keys that a table may have; None if they are not fixed, and for any other node."""
        if self.closed:
            return list(self.keys)
        rule = self.key_rule
        return [str(choice) for choice in rule.choices] or None if rule is not None else None

    @cached_property
    def key_rule(self) -> SchemaNode | None:
        """Node with the rule for the keys of a table whose keys the user names; None if any key is allowed."""
        if patterns := list(self.schema.get("patternProperties", {})):
            return SchemaNode({"type": "string", "pattern": patterns[0]}, self.definitions)
        names = self.schema.get("propertyNames")
        return self.resolve(names) if names else None

    def child(self, key: str | int) -> SchemaNode | None:
        """Return the node under a key of a table or an index of an array; None if the class has no such place."""
        if isinstance(key, int):
            slots = self.slots
            return slots[key] if key < len(slots) else self.items
        return self.keys.get(key, self.values)

    def narrow(self, value: object) -> SchemaNode:
        """Return the alternative of a union that a value belongs to; else, or if that is not clear, the node itself."""
        if self.tag is not None:
            tag = value.get(self.tag) if isinstance(value, dict) else None
            return self.variants.get(tag, self) if isinstance(tag, str) else self
        kind = json_type(value)
        matches = [m for m in self.members if m.schema.get("type", "object" if m.tag else None) == kind]
        return matches[0].narrow(value) if len(matches) == 1 else self

    def paths_to(self, key: str, prefix: str = "", enclosing: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield every place below this node that has a key, such as `train.steps` or `tasks[].weight`.

        Tables whose keys the user names are not searched.

        Args:
            key: Key to look for.
            prefix: Place of this node, such as `train.`.
            enclosing: Names of the definitions around this node, which are not searched again: a class may contain
                itself.
        """
        ref = self.schema.get("ref")
        if ref in enclosing:
            return
        enclosing |= {ref} if ref else set()
        for alternative in (*self.variants.values(), *self.members):
            yield from alternative.paths_to(key, prefix, enclosing)
        for name, node in self.keys.items():
            if name == key:
                yield prefix + name
            yield from node.paths_to(key, f"{prefix}{name}.", enclosing)
        if self.items is not None:
            yield from self.items.paths_to(key, f"{prefix.removesuffix('.')}[].", enclosing)
