"""JSON schemas of the files that users write, for editors that complete names and tell mistakes: made from the models
that check those files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from .plan import COMMANDS, OURS, SOURCES
from .settings import RUNS, Resources, SuiteSettings
from .sources import KNOWN_MODELS
from .tasks import SUITES, TASKS
from .tasks.own import TaskFile

Schema = dict[str, Any]
KINDS = ("task", "suite", *RUNS)
"""Kinds of files."""
DRAFT = "http://json-schema.org/draft-07/schema#"
"""What all editors know."""
RANGE: Schema = {
    "type": "object",
    "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "log": {"type": "boolean"}},
    "required": ["low", "high"],
    "additionalProperties": False,
    "description": "A range, in which values are searched; log: true where ratios count.",
}


def text_of(kind: str) -> str:
    """The schema of a kind of file, as a file."""
    return json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"


def schema_of(kind: str) -> Schema:
    """The schema of a task file, a suite, or the settings of a command."""
    found = _of_task() if kind == "task" else _of_suite() if kind == "suite" else _of_model(RUNS[kind])
    return {"$schema": DRAFT, "$comment": mark(kind), **found}


def mark(kind: str) -> str:
    """How a schema says where it comes from."""
    return f"made by: rl4nlu schema {kind}"


def _of_model(kind: type[BaseModel]) -> Schema:
    found = kind.model_json_schema()
    found = _plain(found, found.pop("$defs", {}))
    examples = {"task": [*TASKS, *SUITES], "model": list(KNOWN_MODELS)}
    for name, values in examples.items():
        if name in found["properties"]:
            found["properties"][name]["examples"] = values
    return found


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema without what helps no editor: titles made of names, references into it, formats of paths."""
    if isinstance(node, list):
        return [_plain(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].split("/")[-1]], **{key: node[key] for key in node if key != "$ref"}}
    found = {}
    for key, value in node.items():
        if key == "properties":
            found[key] = {name: _plain(one, definitions) for name, one in value.items()}
        elif key not in ("title", "format", "default") or (key == "default" and value not in (None, {})):
            found[key] = _plain(value, definitions)
    return found


def _of_task() -> Schema:
    """A task file is read in the letters of the file, so that any plain value may stand where a text is wanted."""
    return _any_plain_value(_of_model(TaskFile))


def _any_plain_value(node: Any) -> Any:
    if isinstance(node, list):
        return [_any_plain_value(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {key: _any_plain_value(value) for key, value in node.items()}
    return (
        found | {"type": ["string", "number", "boolean"]}
        if node.get("type") == "string" and "enum" not in node
        else found
    )


def _of_suite() -> Schema:
    """A suite: its own settings, those of all runs and of a task, and a method by its command."""
    found = _of_model(SuiteSettings)
    told = {name: found["properties"][name]["description"] for name in ("common", "models", "tasks", "methods")}
    definitions: Schema = {}
    needs: Schema = {**_of_model(Resources), "description": "What each of the runs needs."}
    of_runs: Schema = {}
    methods = []
    for command in COMMANDS:
        inherited = {
            name: _shared(definitions, name, command, _to_choose(one))
            for name, one in _of_model(RUNS[command])["properties"].items()
            if name not in (*OURS, *SOURCES)
        }
        inherited["resources"] = needs
        of_runs = {**inherited, **of_runs}
        known = RUNS[command].model_fields
        own: Schema = {"command": {"const": command, "description": "What the method is."}, **inherited}
        own |= {
            name: {"type": "string", "description": "The method to start from."} for name in SOURCES if name in known
        }
        if "max_steps" in known:
            own["steps"] = {"type": "number", "exclusiveMinimum": 0, "description": "Times max_steps."}
        methods.append(_closed(own, required=["command"]))
    definitions["settings"] = _closed(of_runs)
    settings: Schema = {"$ref": "#/definitions/settings"}
    some = {"anyOf": [settings, {"type": "null"}]}
    names = [*TASKS, *SUITES]
    listed: Schema = {"type": "array", "items": {"type": "string", "examples": names}, "minItems": 1}
    by_name: Schema = {"type": "object", "properties": dict.fromkeys(names, some), "additionalProperties": some}
    by_model: Schema = {"type": "object", "additionalProperties": some}
    models: Schema = {"type": "array", "items": {"type": "string", "examples": list(KNOWN_MODELS)}}
    by_method: Schema = {"type": "object", "additionalProperties": {"anyOf": methods}, "minProperties": 1}
    found["properties"] |= {
        "common": {"description": told["common"], "allOf": [settings]},
        "models": {"description": told["models"], "anyOf": [models, by_model]},
        "tasks": {"description": told["tasks"], "anyOf": [listed, {**by_name, "minProperties": 1}]},
        "methods": {"description": told["methods"], **by_method},
    }
    return {**found, "required": ["tasks", "methods"], "definitions": definitions}


def _shared(definitions: Schema, name: str, command: str, one: Schema) -> Schema:
    """A reference to a setting, which stands once for all commands that have it alike."""
    key = name if definitions.setdefault(name, one) == one else f"{name}-{command}"
    definitions[key] = one
    return {"$ref": f"#/definitions/{key}"}


def _closed(properties: Schema, required: list[str] | None = None) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _to_choose(one: Schema) -> Schema:
    """A setting in a suite: its value, a list to choose from, a range to search, or that of another method."""
    if one.get("type") == "object":
        return {**one, "properties": {name: _to_choose(inner) for name, inner in one["properties"].items()}}
    about: Schema = {key: one[key] for key in ("description", "examples") if key in one}
    value = {key: inner for key, inner in one.items() if key not in (*about, "default")}
    several = {"type": "array", "items": value, "minItems": 1}
    kinds = {one.get("type") for one in (value, *value.get("anyOf", ()))}
    ranges = [RANGE] if kinds & {"number", "integer"} else []
    return {**about, "anyOf": [value, several, *ranges, {"type": "string", "pattern": "^="}]}
