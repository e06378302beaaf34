"""What the documents say is true: the map, the generated pages, and every command in the README."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rl4nlu import config, settings
from rl4nlu.cli import COMMANDS
from rl4nlu.tasks import find_all

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = {
    "evaluate": settings.EvaluateSettings,
    "sft": settings.SftSettings,
    "ppo": settings.PpoSettings,
    "predict": settings.PredictSettings,
    "report": settings.ReportSettings,
}
LINES = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("rl4nlu ")]


def test_the_map_names_every_file():
    drawn = README.split("## A map of the files")[1].split("```")[1]
    for path in sorted((ROOT / "src" / "rl4nlu").glob("*.py")):
        if not path.name.startswith("__"):
            assert re.search(rf"\b{path.name}\b", drawn), f"{path.name} is not on the README's map"
    for name in re.findall(r"\b(\w+)\.py\b", drawn):
        assert list(ROOT.glob(f"**/{name}.py")), f"the README's map shows {name}.py, which is not there"


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_readme_is_understood(line):
    _, command, *args = shlex.split(line)
    assert command in COMMANDS
    if command in SETTINGS:
        while args and not args[0].startswith("-"):
            args.pop(0)  # run folders
        settings = config.parse(SETTINGS[command], args, "rl4nlu", "")
        if getattr(settings, "task", None):
            assert find_all(settings.task)


def test_there_are_commands_in_the_readme():
    assert len(LINES) >= 8


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "DESIGN.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target} is not there"
