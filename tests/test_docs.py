"""What the documents say is true: the map, the generated pages, the links. Commands: test_docs_run.py."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rl4nlu.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_map_names_every_file():
    drawn = README.split("## A map of the files")[1].split("```")[1]
    for path in sorted((ROOT / "src" / "rl4nlu").glob("*.py")):
        if not path.name.startswith("__"):
            assert re.search(rf"\b{path.name}\b", drawn), f"{path.name} is not on the README's map"
    places = ("src", "tests", "scripts", "benchmarks")  # not the virtual environment, which has files of every name
    there = {path.stem for place in places for path in (ROOT / place).rglob("*.py")}
    for name in re.findall(r"\b(\w+)\.py\b", drawn):
        assert name in there, f"the README's map shows {name}.py, which is not there"


def test_a_task_of_ones_own_by_the_readme_alone(tmp_path, monkeypatch, capsys):
    """Its YAML as it stands there, a table with all that tables have, and its commands (with a few steps)."""
    monkeypatch.chdir(tmp_path)
    section = README.split("### Your own task")[1].split("###")[0]
    (tmp_path / "tickets.yaml").write_text(
        section.split('```yaml title="tickets.yaml"\n')[1].split("```")[0], encoding="utf-8"
    )
    texts = ['He said: "twice charged", why?', "Where is it?\nIt never came.", "Größe 42 – ¡gracias! 🙂", ""]
    topics = ["billing", "delivery", "praise"]
    with (tmp_path / "tickets.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "channel", "topic"])
        for i in range(60):
            writer.writerow([f"{texts[i % 3]} {i}", "", topics[i % 3]])
        writer.writerows([[texts[3], "", "praise"], ["Who am I?", "", "philosophy"]])
    commands = [line.split("#")[0].strip() for line in section.splitlines() if line.startswith("rl4nlu ")]
    assert [shlex.split(command)[1] for command in commands] == ["new", "check", "sft", "predict"]
    check, sft, predict = ([*shlex.split(command)[1:]] for command in commands[1:])
    assert main(check) == 2
    assert "tickets.csv:82: all that the template shows of this row is empty" in capsys.readouterr().err
    assert main([*check, "--max-bad-rows", "1"]) == 2
    assert "tickets.csv:83: unknown label 'philosophy'" in capsys.readouterr().err
    assert main([*check, "--max-bad-rows", "2"]) == 0
    assert "train: 54 rows" in capsys.readouterr().out
    assert main([*sft, "--max-bad-rows", "2", "--max-steps", "20"]) == 0
    (tmp_path / "new.csv").write_text('body\n"Twice ""charged"",\nwhy?"\n', encoding="utf-8")
    assert main(predict) == 0
    (answer,) = (tmp_path / "topics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(answer)["prediction"] in topics


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "DESIGN.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target} is not there"
