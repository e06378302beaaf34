"""Help: a screen that opens with an example, all settings behind it, at once and without heavy imports."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from rl4nlu.cli import main
from rl4nlu.commands import COMMANDS, GROUPS, summary_of
from rl4nlu.help import page
from rl4nlu.settings import COMMANDS as SETTINGS
from rl4nlu.settings import PpoSettings
from rl4nlu.settings.describe import entries, names
from rl4nlu.settings.groups import ALSO_CALLED, FIRST
from rl4nlu.settings.groups import GROUPS as SETTING_GROUPS

HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "datasets", "pandas", "tyro", "rl4nlu.config")


def said(capsys, *args: str) -> list[str]:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_screen_that_opens_with_an_example(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = said(capsys, command, "--help")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= min(width, 100)
    example = " ".join(line.strip(" \\") for line in lines[: lines.index("")])
    assert example == summary_of(COMMANDS[command])[1]
    assert example.startswith(f"rl4nlu {command}")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f│╭]", "".join(lines)), (
        "colours and frames have no place in a pipe"
    )
    if command in SETTINGS:
        assert lines[-1].endswith(f"rl4nlu {command} --help-all, docs/cli.md")


@pytest.mark.parametrize("width", [80, 100])
def test_the_help_of_all_is_a_screen(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rl4nlu demo")
    assert len(lines) <= 44
    assert max(map(len, lines)) <= width
    for command in COMMANDS:
        assert any(line.startswith(f"  {command} ") for line in lines)
    assert [name for name in GROUPS if f"{name}:" in lines] == list(GROUPS)


@pytest.mark.parametrize("command", SETTINGS)
def test_everything_is_told_on_demand(command, capsys):
    lines = said(capsys, command, "--help-all")
    text = "\n".join(lines)
    for entry in entries(SETTINGS[command]):
        assert entry.name in text.replace("[no-]", "").replace("-", "_"), entry.name
        assert all(choice in text for choice in entry.choices)
    assert max(map(len, lines)) <= 100
    assert "docs/cli.md" in lines[-1]


def test_help_says_default_range_and_choices():
    text = " ".join(page("ppo", "rl4nlu ppo", "PPO.", PpoSettings, whole=True).split())
    assert "--lam X Lambda of GAE. (number >= 0, <= 1) [0.95]" in text
    assert "(gae, rloo, grpo, reinforce++ or expected) [gae]" in text
    assert "--value-clip X Range of the value's change. (number > 0, or none) [0.2]" in text
    assert "--[no-]chat Wrap prompts in the tokenizer's chat template. (yes or no) [no]" in text
    short = page("ppo", "rl4nlu ppo", "PPO.", PpoSettings)
    assert re.search(r"^  --batch-size N +Prompts a step \[32\]$", short, re.M)
    assert "--lam " not in short


def test_every_setting_is_in_one_group_and_help_shows_what_there_is():
    all_names = {name for kind in SETTINGS.values() for name in names(kind)}
    grouped = [name for within in SETTING_GROUPS.values() for name in within.split()]
    assert sorted(grouped) == sorted(all_names)
    for command, shown in FIRST.items():
        assert set(shown.split()) <= set(names(SETTINGS[command])), command
    assert set(ALSO_CALLED.values()) <= all_names


def test_every_setting_says_what_it_is():
    """A docstring, a default, and of a number a range or its choices."""

    def check(model: type[BaseModel]) -> int:
        count = 0
        for name, info in model.model_fields.items():
            where = f"{model.__name__}.{name}"
            assert info.description, f"{where} has no docstring"
            assert not info.is_required(), f"{where} has no default"
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                count += check(info.annotation)
                continue
            if any(kind in (int, float) for kind in kinds_of(info.annotation)):
                metadata = [*info.metadata, *inner_metadata(info.annotation)]
                bounds = [one for one in metadata if any(hasattr(one, sign) for sign in ("gt", "ge", "lt", "le"))]
                assert bounds, f"{where} is a number without a range"
            count += 1
        return count

    assert sum(check(kind) for kind in SETTINGS.values()) >= 150


def kinds_of(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return []
    inner = [kind for one in get_args(annotation) for kind in kinds_of(one)]
    return inner or [annotation]


def inner_metadata(annotation: Any) -> list[Any]:
    own = [more for one in getattr(annotation, "__metadata__", ()) for more in getattr(one, "metadata", [one])]
    return own + [more for one in get_args(annotation) for more in inner_metadata(one)]


def test_help_imports_nothing_heavy():
    """Not even the parser of flags, of all commands together."""
    code = (
        "import sys\nfrom rl4nlu.cli import main\nfrom rl4nlu.commands import COMMANDS\nmain(['--help'])\n"
        "for command in COMMANDS:\n    try: main([command, '--help'])\n    except SystemExit: pass\n"
        f"found = set({HEAVY!r}) & set(sys.modules)\nassert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
