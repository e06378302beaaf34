"""JSON Schema (draft 7) as far as this project's schemas go: what is wrong with a value. Another keyword is an error,
so that nothing is passed over."""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
SAYS_NOTHING = {"$schema", "$comment", "description", "default", "examples", "definitions"}


def wrong(value: Any, schema: Any, root: Any = None) -> list[str]:
    """All that a value lacks of its schema."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return [] if schema else [f"{value!r} may not stand here"]
    if "$ref" in schema:  # in draft 7 nothing beside it counts
        return wrong(value, root["definitions"][schema["$ref"].removeprefix("#/definitions/")], root)
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword not in SAYS_NOTHING:
            found += KEYWORDS[keyword](value, wanted, schema, root)
    return found


def is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])


def _type(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    kinds = [wanted] if isinstance(wanted, str) else wanted
    return [] if any(is_of(value, kind) for kind in kinds) else [f"{value!r} is not {wanted}"]


def _properties(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [why for name, inner in wanted.items() if name in value for why in wrong(value[name], inner, root)]


def _additional(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    more = [name for name in value if name not in schema.get("properties", {})]
    return [f"{name}: {why}" for name in more for why in wrong(value[name], wanted, root)]


def _required(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    return [f"{name} is missing" for name in wanted if isinstance(value, dict) and name not in value]


def _items(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    return [why for one in value for why in wrong(one, wanted, root)] if isinstance(value, list) else []


def _any_of(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    each = [wrong(value, one, root) for one in wanted]
    return [] if any(not one for one in each) else [f"none of: {each}"]


def _one_of(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    fit = sum(not wrong(value, one, root) for one in wanted)
    return [] if fit == 1 else [f"{fit} of {wanted} fit"]


def _all_of(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
    return [why for one in wanted for why in wrong(value, one, root)]


def _bound(holds: Any) -> Any:
    def check(value: Any, wanted: Any, schema: Any, root: Any) -> list[str]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return [f"{value} is out of range ({wanted})"] if number and not holds(value, wanted) else []

    return check


KEYWORDS: dict[str, Any] = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "items": _items,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "allOf": _all_of,
    "const": lambda value, wanted, schema, root: [] if value == wanted else [f"{value!r} is not {wanted!r}"],
    "enum": lambda value, wanted, schema, root: [] if value in wanted else [f"{value!r} is none of {wanted}"],
    "pattern": lambda value, wanted, schema, root: (
        [f"{value!r} does not match"] if isinstance(value, str) and not re.search(wanted, value) else []
    ),
    "minItems": lambda value, wanted, schema, root: (
        ["too few"] if isinstance(value, list) and len(value) < wanted else []
    ),
    "minProperties": lambda value, wanted, schema, root: (
        ["too few"] if isinstance(value, dict) and len(value) < wanted else []
    ),
    "minimum": _bound(lambda value, bound: value >= bound),
    "maximum": _bound(lambda value, bound: value <= bound),
    "exclusiveMinimum": _bound(lambda value, bound: value > bound),
    "exclusiveMaximum": _bound(lambda value, bound: value < bound),
}
