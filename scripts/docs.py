"""Write docs/tasks.md, cli.md, words.md and api.md from the code; with --check, only tell whether they are true."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import rl4nlu
from rl4nlu.commands import COMMANDS, summary_of
from rl4nlu.glossary import ESTIMATORS, EXIT_CODES, FILES, LOGGED, METRICS, REPORT, RESULTS, STATES
from rl4nlu.settings import COMMANDS as SETTINGS
from rl4nlu.settings.describe import grouped
from rl4nlu.tasks import TASKS

DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "<!-- made by scripts/docs.py; `make fix` brings it up to date -->"

EVENTS = {
    "progress": "`title`, `done`, `total`, `seconds` since the start, `left` (seconds, or null), and figures such as "
    "`loss`, `reward`, `accuracy`, `kl`; at most one a second, and the last",
    "note": "`text`: what is said beside the work, warnings too",
    "result": "an entry of results.json; of a report also `run`, `state` (the same number for the same answers) and "
    "`setup` (a mark of the settings of its training)",
    "difference": "of `report` and `suite`: task, methods `a` and `b`, `delta`, its interval, `p`, whether `real`",
    "task": "of `tasks`: a task; of `submit`: from which run it comes",
    "meaning": "of `explain`: `word`, `kind`, `text`",
    "schema": "of `schema`: `kind`, `schema`",
    "run": "of `runs` and `show`: what is known of a run; of `suite`: one that has begun or ended, its `state`",
    "broken": "of `runs`: why a folder cannot be read",
    "check": "of `check`: `text`",
    "plan": "of `suite`: what is done of a task and method",
    "failed": "of `suite`: a run that failed",
    "end": "the last one: `run` and `next`, a command to try (both may be null), `exit_code`, and where it is what was "
    "written (`output`, `page`, `files`)",
    "error": "the last one instead: `message`, `exit_code`; the same line is on stderr",
}


def tasks_page() -> str:
    """Every task with both of its templates as they are rendered."""
    lines = [MADE, "# Tasks", "Templates are shown with their fields in braces; an answer is a label word.", ""]
    lines += [
        "Without `--data` rows come from the hub. With `--data DIR` they are read from the official files as they are"
    ]
    lines += ["unpacked, below `DIR/glue` (<https://gluebenchmark.com/tasks>) and `DIR/superglue`"]
    lines += [
        "(<https://super.gluebenchmark.com/tasks>), each task from the folder and the files that stand with it.",
        "",
    ]
    for task in TASKS.values():
        words = [f"{label} → `{task.words[label]}`" for label in task.labels]
        if task.numeric:
            words = [f"numbers from {task.labels[0]} to {task.labels[-1]} in steps of 0.2"]
        lines += [f"## {task.name}", ""]
        lines += [f"Metrics: {', '.join(task.metrics)}. Evaluated on: {task.eval_split}.", ""]
        lines += [f"Labels: {', '.join(words)}.", ""]
        if task.files:
            names = [name if isinstance(name, str) else name[0] for name in task.files.splits.values()]
            folder = f"{task.name.split('/')[0]}/{task.files.folder}"
            lines += [f"Files: `DIR/{folder}/` with `{'`, `'.join(names)}`.", ""]
        lines += ["```", task.plain, "```", ""]
        lines += ["Template `verdict`:", "", "```", task.ask, "", task.body, "<verdict>", "```", ""]
    return "\n".join(lines)


def cli_page() -> str:
    """Every command with all of its settings."""
    lines = [MADE, "# Commands and settings", ""]
    lines += ["`rl4nlu COMMAND [FILE.yaml] [--flags]`: flags over file over preset over defaults. `rl4nlu new COMMAND"]
    lines += ["FILE.yaml` writes a file with all settings, `rl4nlu COMMAND --help-all` tells what stands here.", ""]
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
            cells = (f"`{entry.name}`", entry.kind, entry.usual, " ".join(entry.meaning.split()))
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |".replace("|  |", "| |"))
        lines.append("")
    return lines


def words_page() -> str:
    """What the columns of the log, the entries of the results, states and exit codes mean."""
    lines = [MADE, "# Words in logs and results", "", "Each is also told by `rl4nlu explain WORD`.", ""]
    for title, words in {
        "Columns of metrics.jsonl": LOGGED,
        "Entries of results.json": RESULTS,
        "Metrics": METRICS,
        "Reports": REPORT,
        "Files of a run": FILES,
        "States of a run": STATES,
        "Exit codes": EXIT_CODES,
        "Estimators": ESTIMATORS,
    }.items():
        lines += [f"## {title}", "", "| word | meaning |", "|---|---|"]
        lines += [f"| `{word}` | {meaning.replace('|', '/')} |" for word, meaning in words.items()]
        lines += [""]
    return "\n".join(lines)


def api_page() -> str:
    """Every public name of the package, with its signature and docstring."""
    lines = [
        MADE,
        "# Python",
        "",
        "What `import rl4nlu` gives. A tour of it: [Use it from Python](howto/python.md).",
        "",
    ]
    public = {name: getattr(rl4nlu, name) for name in rl4nlu.__all__}
    for name, thing in sorted(public.items(), key=lambda one: (inspect.isclass(one[1]), one[0])):
        lines += [f"## {name}", ""]
        if not inspect.isclass(thing):
            lines += _function(f"rl4nlu.{name}", thing)
        elif issubclass(thing, BaseException):
            lines += [f"An exception. {_text(thing)}", ""]
        else:
            lines += [_text(thing), "", *_members(thing)]
    return "\n".join(lines)


def _text(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "").replace("\n\n", " ").replace("\n", " ")


def _members(kind: type) -> Iterator[str]:
    """Attributes with the string below each in the source, properties, methods."""
    source = inspect.getsource(kind)
    yield from ("| attribute | type | |", "|---|---|---|")
    for name, said in re.findall(r'^    (\w+): [^\n]+\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL):
        yield f"| `{name}` | `{_typed(kind.__annotations__[name])}` | {' '.join(said.split())} |"
    methods = []
    for name, member in vars(kind).items():
        if isinstance(member, property):
            given = _typed(inspect.signature(member.fget or len).return_annotation)
            yield f"| `{name}` | `{given}` | {_text(member)} |"
        elif inspect.isfunction(member) and not name.startswith("_"):
            methods += [f"### {kind.__name__}.{name}", "", *_function(f"{kind.__name__.lower()}.{name}", member)]
    yield from ("", *methods)


def _typed(annotation: Any) -> str:
    return str(annotation).replace("|", "or")  # a bar would end the table's cell


def _function(name: str, function: Any) -> list[str]:
    """Signature, what it does, and its arguments, returns and errors as lists."""
    signature = inspect.signature(function)
    shown = [one for one in signature.parameters.values() if one.name != "self"]
    words = [str(one).replace("'", "") for one in shown]
    named_only = [i for i, one in enumerate(shown) if one.kind is one.KEYWORD_ONLY]
    if named_only and not any(one.kind is one.VAR_POSITIONAL for one in shown):
        words.insert(named_only[0], "*")
    broad = len(", ".join(words)) > 40  # then one argument a line
    inside = "\n    " + ",\n    ".join(words) + "\n" if broad else ", ".join(words)
    lines = ["```text", f"{name}({inside}) -> {signature.return_annotation}", "```", ""]
    doc = inspect.cleandoc(function.__doc__ or "")
    first, *parts = re.split(r"^(Args|Returns|Raises):\n", doc, flags=re.MULTILINE)
    lines += [first.strip(), ""]
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        lines += [f"{head}:", ""]
        entries = re.sub(r"\n {5,}", " ", inspect.cleandoc(body)).splitlines()
        named = [re.sub(r"^(\w+): ", r"`\1`: ", entry) for entry in entries if entry.strip()]
        lines += [*(f"- {entry}" for entry in named), ""] if head != "Returns" else [" ".join(entries), ""]
    return lines


def main() -> int:
    """Write or check the pages. Returns 1 if --check finds one out of date."""
    stale = []
    pages = {"tasks.md": tasks_page(), "cli.md": cli_page(), "words.md": words_page(), "api.md": api_page()}
    for path, text in ((DOCS / name, text) for name, text in pages.items()):
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
