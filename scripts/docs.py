"""Write docs/tasks.md and docs/cli.md from the code; with --check, only tell whether they are true."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel

from rl4nlu.commands import COMMANDS, summary_of
from rl4nlu.settings import COMMANDS as SETTINGS
from rl4nlu.settings.describe import grouped
from rl4nlu.tasks import TASKS

DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "<!-- made by scripts/docs.py; `make fix` brings it up to date -->"

EVENTS = {
    "progress": "`title`, `done`, `total`, `seconds` since the start, `left` (seconds, or null), and figures such as "
    "`loss`, `reward`, `accuracy`, `kl`; at most one a second, and the last",
    "note": "`text`: what is said beside the work, warnings too",
    "result": "an entry of results.json",
    "difference": "of `report` and `suite`: task, methods `a` and `b`, `delta`, its interval, `p`, whether `real`",
    "task": "of `tasks`: a task; of `submit`: from which run it comes",
    "run": "of `runs` and `show`: what is known of a run",
    "broken": "of `runs`: why a folder cannot be read",
    "check": "of `check`: `text`",
    "plan": "of `suite`: what is done of a task and method",
    "failed": "of `suite`: a run that failed",
    "end": "the last one: `run` and `next`, a command to try (both may be null), `exit_code`, and where it is what was "
    "written (`output`, `page`)",
    "error": "the last one instead: `message`, `exit_code`; the same line is on stderr",
}


def tasks_page() -> str:
    """Every task with both of its templates as they are rendered."""
    lines = [MADE, "# Tasks", "Templates are shown with their fields in braces; an answer is a label word.", ""]
    for task in TASKS.values():
        words = [f"{label} → `{task.words[label]}`" for label in task.labels]
        if task.numeric:
            words = [f"numbers from {task.labels[0]} to {task.labels[-1]} in steps of 0.2"]
        lines += [f"## {task.name}", ""]
        lines += [f"Metrics: {', '.join(task.metrics)}. Evaluated on: {task.eval_split}.", ""]
        lines += [f"Labels: {', '.join(words)}.", "", "```", task.plain, "```", ""]
        lines += ["Template `verdict`:", "", "```", task.ask, "", task.body, "<verdict>", "```", ""]
    return "\n".join(lines)


def cli_page() -> str:
    """Every command with all of its settings."""
    lines = [MADE, "# Commands and settings", ""]
    lines += ["`rl4nlu COMMAND [FILE.yaml] [--flags]`: flags over file over preset over defaults. `rl4nlu new COMMAND"]
    lines += ["FILE.yaml` writes a file with all settings, `rl4nlu COMMAND --help-all` tells what stands here.", ""]
    lines += ["`rl4nlu COMMAND [FILE.yaml] [--flags]`: flags over file over preset over defaults.", ""]
    lines += ["`--debug` shows the traceback of a mistake. `--json` is for other programs: stdout then holds one JSON"]
    lines += ["object a line and nothing else; what libraries print goes to stderr. `event` says what it is:", ""]
    lines += [
        "| event | what else it holds |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in EVENTS.items()),
    ]
    lines += [""]
    for name, function in COMMANDS.items():
        text, example = summary_of(function)
        lines += [f"## {name}", "", text, "", "```", example, "```", ""]
        if name in SETTINGS:
            lines += _settings(SETTINGS[name])
    return "\n".join(lines)


def _settings(kind: type[BaseModel]) -> list[str]:
    lines = []
    groups = grouped(kind)
    for group, members in groups.items():
        lines += [f"{group.capitalize()}:", ""] if len(groups) > 1 else []
        lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
        for entry in members:
            cells = (f"`{entry.name}`", entry.kind, entry.usual, entry.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |".replace("|  |", "| |"))
        lines.append("")
    return lines


def main() -> int:
    """Write or check the pages. Returns 1 if --check finds one out of date."""
    stale = []
    for path, text in ((DOCS / "tasks.md", tasks_page()), (DOCS / "cli.md", cli_page())):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run `make fix`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
