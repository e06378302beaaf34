"""Settings: defaults, then a preset, then a YAML file, then flags. Unknown names and bad values end in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from . import files, yamls
from .errors import UserError, did_you_mean, did_you_mean_path
from .mistakes import of_flags, of_parser, of_value
from .redact import redact
from .settings import BROUGHT, PRESETS, SOURCES, Frozen, Settings, SuiteFlags, SuiteSettings, idle
from .settings.describe import names

__all__ = ["command_line", "counted", "names", "parse", "read_yaml", "save", "validate", "vetted", "with_preset"]

S = TypeVar("S", bound=Frozen)
ALONE = {"ray": "local"}
"""Flags that may stand without a value, and what that means."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse(kind: type[S], args: Sequence[str], prog: str) -> S:
    """Settings from `[FILE.yaml] --flag value ...`: flags over file over preset over defaults.

    Args:
        kind: the settings.
        args: the words behind the command.
        prog: program and command, for messages.

    Raises:
        UserError: the file or a flag is not what the settings take.
    """
    rest, where = _with_values(args), ""
    values: dict[str, Any] = {}
    if rest and not rest[0].startswith("-"):
        where = f"{rest[0]}: "
        values = read_yaml(Path(rest.pop(0)))
    values = with_preset(kind, values, _flag(rest, "preset"))
    try:
        base = validate(kind, values)
    except UserError as wrong:
        raise UserError(f"{where}{wrong}") from None
    return counted(_flags_over(kind, base, rest, prog))


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
        near = did_you_mean_path(path)
        raise UserError(f"{path}: no such settings file{near}; flags start with --, e.g. --task glue/rte") from None
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
        raise UserError("; ".join(of_value(kind, error) for error in wrong.errors())) from None


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


def counted(settings: S) -> S:
    """The settings, if each that somebody gave does something.

    Raises:
        UserError: one does not, beside the others.
    """
    if waste := idle(settings):
        raise UserError("; ".join(waste.values()))
    return settings


def save(settings: Settings, path: Path) -> None:
    """Write settings as YAML that `parse` reads back."""
    files.write_text(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def command_line(command: str, settings: Frozen, said: Collection[str] = ()) -> str:
    """The command that gives these settings: every flag that differs from its default, or its preset's; and those of
    `said` that would come from the run that it starts from if they were not said."""
    kind = type(settings)
    usual, preset = kind(), getattr(settings, "preset", "default")
    if preset != "default":  # what the user has set back to the default differs from the preset
        usual = validate(kind, with_preset(kind, {}, preset)).model_copy(update={"preset": "default"})
    started = any(getattr(settings, source, None) for source in SOURCES)
    kept = set(said) & set(BROUGHT) if started else set()
    return shlex.join(["rl4nlu", command, *_changed(settings, usual, "--", kept)])


def _changed(settings: BaseModel, default: BaseModel, prefix: str, kept: Collection[str] = ()) -> list[str]:
    words: list[str] = []
    for name in type(settings).model_fields:
        value, usual = getattr(settings, name), getattr(default, name)
        flag = prefix + name.replace("_", "-")
        if isinstance(value, BaseModel):
            words += _changed(value, usual, f"{flag}.")
        elif value != usual or name in kept:
            negated = prefix + "no-" + name.replace("_", "-")
            words += [flag if value else negated] if isinstance(value, bool) else [flag, str(value)]
    return words


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, group by group."""
    both = {name: _merge(under[name], value) for name, value in over.items() if _are_dicts(under.get(name), value)}
    return {**under, **over, **both}


def _are_dicts(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _with_values(args: Sequence[str]) -> list[str]:
    """The words, with the value of a flag that may stand alone."""
    found = list(args)
    for i in range(len(args) - 1, -1, -1):
        name = args[i].removeprefix("--")
        if name in ALONE and args[i].startswith("--") and (i + 1 == len(args) or args[i + 1].startswith("--")):
            found.insert(i + 1, ALONE[name])
    return found


def _flag(args: Sequence[str], name: str) -> str | None:
    for i, arg in enumerate(args):
        if arg == f"--{name}" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"--{name}="):
            return arg.split("=", 1)[1]
    return None


def _named(kind: type[Frozen], args: Sequence[str]) -> set[str]:
    """The settings that flags give, with the group in front of those in one."""
    known = set(names(kind))
    flags = [arg[2:].partition("=")[0].replace("-", "_") for arg in args if arg.startswith("--")]
    return {flag if flag in known else flag.replace("no_", "", 1) for flag in flags}


def _as_said(found: S, base: S, named: set[str]) -> S:
    """Settings in which what was said counts as set, and what is a default does not: the parser sets all of them."""
    values: dict[str, Any] = {}
    for name in type(found).model_fields:
        value = getattr(found, name)
        inner = {one.partition(".")[2] for one in named if one.startswith(f"{name}.")}
        values[name] = _as_said(value, getattr(base, name), inner) if isinstance(value, Frozen) else value
    said = base.model_fields_set | {name.partition(".")[0] for name in named}
    return cast("S", type(found).model_construct(said, **values))


def _flags_over(kind: type[S], base: S, args: list[str], prog: str) -> S:
    if not args:
        return vetted(base)
    if complaint := of_flags(kind, args):
        raise UserError(f"{complaint}; see: {prog} --help")
    import tyro  # not for help, which comes at once

    said = io.StringIO()
    shown: type[Any] = SuiteFlags if kind is SuiteSettings else kind
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "2000"
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(shown, default=base, args=args, prog=prog)
        given = {name: getattr(found, name) for name in shown.model_fields}
        return vetted(_as_said(found, base, _named(kind, args)) if shown is kind else base.model_copy(update=given))
    except SystemExit:
        raise UserError(f"{of_parser(said.getvalue())}; see: {prog} --help") from None
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
