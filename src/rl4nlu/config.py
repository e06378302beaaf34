"""Settings: defaults, then a preset, then a YAML file, then flags. Unknown names and bad values end in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ValidationError

from . import files, yamls
from .errors import UserError, did_you_mean
from .redact import redact
from .settings import PRESETS, Frozen, Settings

S = TypeVar("S", bound=Frozen)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse(kind: type[S], args: Sequence[str], prog: str, description: str) -> S:
    """Settings from `[FILE.yaml] --flag value ...`: flags over file over preset over defaults.

    Raises:
        UserError: the file or a flag is not what the settings take.
        SystemExit: after `--help` (code 0).
    """
    rest, where = list(args), ""
    values: dict[str, Any] = {}
    if rest and not rest[0].startswith("-"):
        where = f"{rest[0]}: "
        values = read_yaml(Path(rest.pop(0)))
    values = with_preset(kind, values, _flag(rest, "preset"))
    try:
        base = validate(kind, values)
    except UserError as wrong:
        raise UserError(f"{where}{wrong}") from None
    return _flags_over(kind, base, rest, prog, description)


def with_preset(kind: type[Frozen], values: dict[str, Any], preset: str | None = None) -> dict[str, Any]:
    """Values over those of a preset: the one given, else the one that the values name.

    Raises:
        UserError: there is no such preset.
    """
    preset = preset or values.get("preset", "default")
    presets = {"default": {}, **PRESETS.get(kind, {})}
    if not isinstance(preset, str) or preset not in presets:
        near = did_you_mean(str(preset), presets)
        raise UserError(f"preset: no such preset {preset!r}{near}; choose {' or '.join(presets)}")
    return _merge(presets[preset], values)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file. Numbers such as 1e-5, which YAML takes for text, are read by the settings' types."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such settings file; flags start with --, e.g. --task glue/rte") from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise UserError(f"{path}: cannot be read as a settings file ({wrong})") from None
    values = yamls.values(path, text)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: settings are lines of `name: value`, and a {type(values).__name__} stands here")
    return {str(name): value for name, value in values.items()}


def validate(kind: type[S], values: dict[str, Any]) -> S:
    """Settings from plain values; all that is wrong in one message."""
    try:
        return vetted(kind.model_validate(values))
    except ValidationError as wrong:
        raise UserError("; ".join(_explain(kind, error) for error in wrong.errors())) from None


def vetted(settings: S) -> S:
    """The settings, if they can be written down as they are: into a run folder, a log, a path.

    Raises:
        UserError: one holds an access token, which stays out of all files, or letters that no name has.
    """
    for name, value in _texts(settings.model_dump(mode="json")):
        if _CONTROL.search(value):
            raise UserError(f"{name}: line breaks and other control characters have no place here (got {value[:80]!r})")
        if redact(value) != value:
            raise UserError(
                f"{name}: an access token or a password stands here, and settings are kept in files: "
                "put the token into the environment (HF_TOKEN) and leave it out here"
            )
    return settings


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts in plain values, names among them, each with the name of its setting."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield name, str(key)
            yield from _texts(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)


def save(settings: Settings, path: Path) -> None:
    """Write settings as YAML that `parse` reads back."""
    files.write_text(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def command_line(command: str, settings: Frozen) -> str:
    """The command that gives these settings: every flag that differs from its default."""
    return shlex.join(["rl4nlu", command, *_changed(settings, type(settings)(), "--")])


def _changed(settings: BaseModel, default: BaseModel, prefix: str) -> list[str]:
    words: list[str] = []
    for name in type(settings).model_fields:
        value, usual = getattr(settings, name), getattr(default, name)
        flag = prefix + name.replace("_", "-")
        if isinstance(value, BaseModel):
            words += _changed(value, usual, f"{flag}.")
        elif value != usual:
            negated = prefix + "no-" + name.replace("_", "-")
            words += [flag if value else negated] if isinstance(value, bool) else [flag, str(value)]
    return words


def names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """All setting names, nested ones with a dot."""
    found: list[str] = []
    for name, info in kind.model_fields.items():
        inner = info.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += names(inner, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return found


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, group by group."""
    both = {name: _merge(under[name], value) for name, value in over.items() if _are_dicts(under.get(name), value)}
    return {**under, **over, **both}


def _are_dicts(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _explain(kind: type[BaseModel], error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if not where:  # a rule over several settings says all itself
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting{did_you_mean(where, names(kind))}"
    return f"{where}: {error['msg'][0].lower() + error['msg'][1:]} (got {error['input']!r})"


def _flag(args: Sequence[str], name: str) -> str | None:
    for i, arg in enumerate(args):
        if arg == f"--{name}" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"--{name}="):
            return arg.split("=", 1)[1]
    return None


def _flags_over(kind: type[S], base: S, args: list[str], prog: str, description: str) -> S:
    known = {name for flat in names(kind) for name in (flat, flat.replace("_", "-"))}
    for arg in args:
        name = arg[2:].split("=")[0]
        if arg.startswith("--") and name not in known and not _negates(name, known) and name != "help":
            hint = did_you_mean(name, sorted(known - {n for n in known if "_" in n}))
            raise UserError(f"--{name}: no such flag{hint}; see: {prog} --help")
    said = io.StringIO()
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100" if {"-h", "--help"} & set(args) else "2000"
    try:
        with contextlib.redirect_stderr(said):
            return vetted(tyro.cli(kind, default=base, args=args, prog=prog, description=description))
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UserError(f"{_condense(said.getvalue())}; see: {prog} --help") from None
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width


def _negates(name: str, known: set[str]) -> bool:
    group, _, last = name.rpartition(".")
    return last.startswith("no-") and ".".join(filter(None, (group, last[3:]))) in known


def _condense(box: str) -> str:
    """The parser's framed, many-line message as one line: its first paragraph, without frame and jargon."""
    lines = [re.sub(r"^[│╭╰|+]+|[│╮╯|+]+$", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line.strip("─- ")][1:]  # the first line is the frame's title
    text = " ".join(line for line in lines if "For full helptext" not in line)
    text = text.split("Argument helptext:")[0].split("Got errors:")[0]
    pydantic = re.search(r"validation error[s]? for \w+ (\S+) (.*?) \[type=\w+, input_value=(.*?), input_type", text)
    if rule := re.search(r"validation error for \w+ Value error, (.*?) \[type=value_error", text):
        return rule.group(1)  # a rule over several settings says all itself
    if pydantic:
        name, message, given = pydantic.groups()
        text = f"--{name.replace('_', '-')}: {message[0].lower() + message[1:]} (got {given})"
    text = re.sub(r"no type matching (\S+) could be instantiated from \['?(.*?)'?\]", r"\2 is not a \1", text)
    text = text.replace("{None}|", "").replace("Error parsing ", "").strip(" .")
    return text[0].lower() + text[1:] if text else "the flags cannot be read"
