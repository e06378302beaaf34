"""The model card: README.md of a run, of a merged model, of a repository on the hub, with nothing left to fill in."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import yaml

from . import files
from .artefacts import read_json
from .data import HUB
from .finished import Finished, licence_of
from .run import Run
from .settings import Settings
from .sources import LABEL_BIAS, hub_name
from .tasks import Task
from .usage import Place, usage

METRICS = {"matthews": "matthews_correlation", "spearman": "spearmanr", "pearson": "pearsonr"}
"""Metric -> its name on the hub, where that is another one."""


def write_card(run: Run, settings: Settings, results: list[dict[str, Any]]) -> None:
    """Write README.md: what was trained on what, how well it does, how to use it and how to run it again."""
    first = results[0]
    whole = first.get("tune") == "full"
    weights = run.path / ("model" if whole else "adapter")
    found = Finished(run.path, first["method"], settings, results, weights, whole)
    command = (run.path / "command.txt").read_text(encoding="utf-8").strip()
    text = card(found, Place(str(run.path), str(weights), found.base), command, licence_of(found.base))
    files.write_text(run.path / "README.md", text)


def card(found: Finished, place: Place, command: str, licence: Mapping[str, str]) -> str:
    """The text of a model card.

    Args:
        found: what was trained.
        place: where a reader finds it, and its base model.
        command: gives the run again.
        licence: entries on the base model's licence, where it is known.
    """
    first, method = found.results[0], found.method
    names = [f"`{_plain(result['task'])}`" for result in found.results]
    title = (
        " and ".join(_plain(result["task"]) for result in found.results) if len(names) < 4 else f"{len(names)} tasks"
    )
    model = _plain(place.base)
    asked = "" if found.classifier else f"template `{_plain(first['template'])}`, "
    lines = [
        f"---\n{yaml.safe_dump(_head(found, place, licence), sort_keys=False, allow_unicode=True)}---",
        f"# {title} by {method} on {model}",
        f"{_kind(found, model)}, trained with rl4nlu by {method} on {first.get('train_rows', '?')} rows of "
        f"{', '.join(names)} in {first.get('steps', '?')} steps ({asked}seed {found.settings.seed}).",
        "## Results",
        _table(found),
        "## Use",
        *usage(found, place),
        *_notes(found, place),
        "## Run again",
        f"```\n{command}\n```",
        "All settings are in `config.yaml`, the versions of the libraries in `environment.json`.",
    ]
    return "\n\n".join(lines) + "\n"


def _kind(found: Finished, model: str) -> str:
    """What lies there, in words."""
    kind = f"A LoRA adapter for `{model}`"
    if found.merged:
        kind = f"`{model}` with a LoRA adapter merged into its weights"
    elif found.whole:
        kind = f"`{model}`, all of its weights"
    return f"{kind}, with a classification head" if found.classifier else kind


def _table(found: Finished) -> str:
    """What was measured, with standard errors; labels of a test split are not known."""
    rows = [
        f"| {_plain(result['task'])} | {name} | {100 * value:.1f} ± {100 * result['stderr'][name]:.1f} | "
        f"{result['n']} | {result['split']} |"
        for result in found.results
        for name, value in result["metrics"].items()
    ]
    if not rows:
        return "None: the rows that were asked have no gold labels."
    head = "| task | metric | value | n | split |\n|---|---|---|---|---|"
    return "\n".join([head, *rows]) + "\n\nIn percent, ± standard error; n is the number of rows."


def _notes(found: Finished, place: Place) -> list[str]:
    """What else a user should know."""
    notes, first = [], found.results[0]
    task = found.tasks.get(first["task"])
    if found.classifier and task is not None and not task.numeric:
        labels = ("wrong", "right") if task.candidates else task.labels
        notes.append(
            f"The logits are in the order of the labels: {', '.join(f'`{_plain(label)}`' for label in labels)}."
        )
    if found.biased:
        mend = (
            "no weight can hold that, so that this model has it in again" if found.whole else "other programs have to"
        )
        notes.append(
            f"`{LABEL_BIAS}`: what this policy takes out of the label words' log-probabilities before it renormalises "
            f"them; {mend if found.whole else f'rl4nlu does so by itself, {mend}'}."
        )
    if found.merged and (dtype := read_json(found.weights / "config.json").get("dtype")) in ("bfloat16", "float16"):
        notes.append(
            f"The weights are {dtype}: after this rounding, single answers may differ from those measured above."
        )
    if first.get("collapse"):
        notes.append(f"Collapses seen in training: {', '.join(first['collapse'])}.")
    return notes


def _plain(name: str) -> str:
    """A name that says the same on the page, and nothing else: it opens no link, no tag and no code."""
    return html.escape(re.sub(r"[`|\[\]\s]+", " ", name), quote=False)


def _head(found: Finished, place: Place, licence: Mapping[str, str]) -> dict[str, Any]:
    """What the hub reads."""
    method, base = found.method, hub_name(place.base)
    results = [_entry(result, found.tasks.get(result["task"])) for result in found.results if result["metrics"]]
    datasets = dict.fromkeys(entry["dataset"]["type"] for entry in results if "revision" in entry["dataset"])
    head: dict[str, Any] = {**licence, "library_name": "transformers" if found.whole else "peft"}
    if base:
        head |= {"base_model": base, "base_model_relation": "finetune" if found.whole else "adapter"}
    head["pipeline_tag"] = "text-classification" if found.classifier else "text-generation"
    if datasets:
        head["datasets"] = list(datasets)
    tasks = [result["task"] for result in found.results]
    head["tags"] = ["rl4nlu", method, *([] if found.whole else ["lora"]), *dict.fromkeys(tasks)]
    if results:
        head["model-index"] = [{"name": place.name.rstrip("/").rpartition("/")[2] or "rl4nlu", "results": results}]
    return head


def _entry(result: Mapping[str, Any], task: Task | None) -> dict[str, Any]:
    """One task's entry of the model index; its data set as on the hub, where there is a copy."""
    name, split = result["task"], result["split"]
    dataset = {"name": name, "type": name, "split": split}
    if task is not None and task.files is not None:
        suite, config = task.files.hub
        repository, revision = HUB[suite]
        dataset |= {"type": repository, "config": config, "split": task.files.hub_splits.get(split, split)}
        dataset["revision"] = revision
    elif task is not None and task.table is not None and task.table.hub is not None:
        repository, own_config, own_revision = task.table.hub
        dataset |= {
            "type": repository,
            "split": task.table.splits.get(split, split),
            "revision": own_revision or "main",
        }
        dataset |= {"config": own_config} if own_config else {}
    metrics = [
        {
            "type": METRICS.get(metric, metric),
            "value": round(value, 6),
            "name": metric,
            "args": {"stderr": round(result["stderr"][metric], 6), "n": result["n"]},
        }
        for metric, value in result["metrics"].items()
    ]
    return {"task": {"type": "text-classification", "name": name}, "dataset": dataset, "metrics": metrics}
