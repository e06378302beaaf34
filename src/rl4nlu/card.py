"""The model card of a run: README.md in its folder, with nothing left to fill in."""

from __future__ import annotations

import html
import re
import shlex
from typing import Any

import yaml

from . import files
from .models import LABEL_BIAS
from .run import Run
from .settings import Settings


def write_card(run: Run, settings: Settings, results: list[dict[str, Any]]) -> None:
    """Write README.md: what was trained on what, how well it does, how to use it and how to run it again."""
    first = results[0]
    tasks = ", ".join(f"`{result['task']}`" for result in results)
    model = _plain(settings.model or "")
    whole = first.get("tune") == "full"
    kind = "A classifier" if first["method"] == "classify" else "A LoRA adapter"
    asked = "" if first["method"] == "classify" else f"template `{first['template']}`, "
    folder = shlex.quote(str(run.path))
    # results call a task of the user's own own/NAME, which is no name on the command line
    named = [result["task"] for result in results if not result["task"].startswith("own/")]
    which = "" if len(results) == 1 else f" --task {named[0] if named else 'TASK.yaml'}"
    head = {
        "library_name": "transformers" if whole else "peft",
        "base_model": settings.model,
        "tags": ["rl4nlu", first["method"], *([] if whole else ["lora"]), *[result["task"] for result in results]],
        "model-index": [{"name": run.path.name, "results": [_index_entry(result) for result in results]}],
    }
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {' and '.join(result['task'] for result in results)} by {first['method']} on {model}",
        f"{kind} for `{model}`, trained with rl4nlu by {first['method']} on "
        f"{first['train_rows']} rows of {tasks} in {first['steps']} steps ({asked}seed {settings.seed}).",
        "## Results",
        "| task | split | n | metric | value | standard error |\n|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, value in result["metrics"].items():
            error = result["stderr"][name]
            lines[-1] += (
                f"\n| {result['task']} | {result['split']} | {result['n']} | {name} | {value:.4f} | {error:.4f} |"
            )
    lines += [
        "## Use",
        f"```\nrl4nlu evaluate --adapter {folder}\n"
        f"rl4nlu predict {folder}{which} --input rows.jsonl --output answers.jsonl\n```",
        "`model/` is a whole model: `AutoModelForSequenceClassification.from_pretrained('model')`."
        if whole
        else "`adapter/` is a plain peft adapter: `PeftModel.from_pretrained(base, 'adapter')`.",
        *(
            [
                f"`{LABEL_BIAS}`: what this policy takes out of the label words' log-probabilities before it "
                "renormalises them; rl4nlu does so by itself, other programs have to."
            ]
            if (run.path / LABEL_BIAS).is_file()
            else []
        ),
        *([f"Collapses seen in training: {', '.join(first['collapse'])}."] if first.get("collapse") else []),
        "## Run again",
        f"```\n{(run.path / 'command.txt').read_text(encoding='utf-8').strip()}\n```",
        "All settings are in `config.yaml`, the versions of the libraries in `environment.json`.",
    ]
    files.write_text(run.path / "README.md", "\n\n".join(lines) + "\n")


def _plain(name: str) -> str:
    """A name that says the same on the page, and nothing else: it opens no link, no tag and no code."""
    return html.escape(re.sub(r"[`|\[\]\s]+", " ", name), quote=False)


def _index_entry(result: dict[str, Any]) -> dict[str, Any]:
    suite, name = result["task"].split("/")
    return {
        "task": {"type": "text-classification", "name": result["task"]},
        "dataset": {"name": result["task"], "type": suite, "config": name, "split": result["split"]},
        "metrics": [{"type": metric, "value": value} for metric, value in result["metrics"].items()],
    }
