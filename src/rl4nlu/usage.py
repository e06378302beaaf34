"""How to use what was trained: the lines of a model card that work as they stand."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from .finished import Finished
from .sources import MINI, MINILM, mini_folder, minilm_folder
from .tasks.own import SUFFIXES

HARNESS = {
    **{f"glue/{name}": name for name in ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli")},
    **{f"superglue/{name}": name for name in ("boolq", "cb", "copa", "multirc", "record", "wic", "wsc")},
    "glue/mnli-mm": "mnli_mismatch",
    "superglue/rte": "sglue_rte",
}
"""Task -> its name in lm-evaluation-harness."""
OTHER = "arc_easy"
"""What the harness is asked where it does not have the run's tasks."""


@dataclass(frozen=True)
class Place:
    """Where a user of the card finds the weights."""

    name: str
    """The folder, or the name on the hub."""
    weights: str
    """What `from_pretrained` takes."""
    base: str
    """The base model."""
    hub: bool = False


def usage(found: Finished, place: Place) -> list[str]:
    """Paragraphs with commands and code, each of which works as it stands; none if a name has letters that do not go
    into code.

    Args:
        found: what was trained.
        place: where it is.
    """
    if not all(name.isprintable() and "`" not in name for name in (place.name, place.weights, place.base)):
        return []
    title = "With transformers:" if found.whole else "With peft:"
    blocks = [_own_lines(found, place), _fence(title, code_of(found, place), "python")]
    if not found.classifier:
        blocks.append(_harness(found, place))
    return [block for block in blocks if block]


def _fence(title: str, lines: list[str], language: str = "") -> str:
    return f"{title}\n\n```{language}\n" + "\n".join(lines) + "\n```" if lines else ""


def _own_lines(found: Finished, place: Place) -> str:
    """This program's commands."""
    local = place.name.rpartition("/")[2] if place.hub else place.name
    folder = shlex.quote(local)
    lines = [f"hf download {place.name} --local-dir {folder}"] if place.hub else []
    if found.whole and not found.classifier:
        if not has_rows(found, place):
            return ""
        return _fence("With rl4nlu, asked as it was trained:", [*lines, evaluation_of(found, local, local)])
    if has_rows(found, place):
        lines.append(f"rl4nlu evaluate --adapter {folder}")
    first = found.task_argument(local).split(",")[0]
    if Path(first).suffix not in SUFFIXES:
        first = found.results[0]["task"]  # a whole suite has one name, its tasks have others
    which = "" if len(found.results) == 1 else f" --task {shlex.quote(first)}"
    lines.append(f"rl4nlu predict {folder}{which} --input rows.jsonl --output answers.jsonl")
    if not found.whole:
        lines.append(f"rl4nlu merge {folder} --out {shlex.quote(f'{local}-merged')}  # a model without peft")
    return _fence("With rl4nlu:", lines)


def has_rows(found: Finished, place: Place) -> bool:
    """Whether the rows to evaluate on are within reach of whoever reads the card."""
    if not place.hub:
        return True
    tasks = [found.tasks.get(result["task"]) for result in found.results]
    return all(task and (task.files or task.generate or (task.table and task.table.hub)) for task in tasks)


def evaluation_of(found: Finished, model: str, folder: str) -> str:
    """The command that asks a whole model as the run was trained.

    Args:
        found: the run.
        model: what --model takes.
        folder: where tasks/ is, with the user's own task files.
    """
    settings, first = found.settings, found.results[0]
    words = ["rl4nlu", "evaluate", "--model", model, "--task", found.task_argument(folder)]
    if settings.data is not None:
        words += ["--data", str(settings.data)]
    if first.get("template", "plain") != "plain":
        words += ["--template", first["template"]]
    if getattr(settings, "chat", False):
        words.append("--chat")
    if first.get("shots"):  # the very examples
        words += ["--shots", str(first["shots"]), "--seed", str(settings.seed)]
        if (chosen := getattr(settings, "shots_seed", None)) is not None:
            words += ["--shots-seed", str(chosen)]
    if first.get("reason"):
        words += ["--reason", str(first["reason"])]
    if settings.max_length is not None:
        words += ["--max-length", str(settings.max_length)]
    return shlex.join(words)


def code_of(found: Finished, place: Place) -> list[str]:
    """Code that loads the model with transformers, with peft where it is an adapter; none where a classifier's labels
    are not known."""
    kind = "AutoModelForSequenceClassification" if found.classifier else "AutoModelForCausalLM"
    weights = json.dumps(place.weights)
    if found.whole:
        return [
            f"from transformers import {kind}, AutoTokenizer",
            "",
            f"model = {kind}.from_pretrained({weights})",
            f"tokenizer = AutoTokenizer.from_pretrained({weights})",
        ]
    head = ""
    if found.classifier:
        task = found.tasks.get(found.results[0]["task"])
        if task is None:
            return []
        head = f", num_labels={2 if task.candidates else 1 if task.numeric else len(task.labels)}"
    bundled = {MINI: "mini_folder", MINILM: "minilm_folder"}.get(place.base)
    base = f"{bundled}()" if bundled else json.dumps(place.base)
    return [
        "from peft import PeftModel",
        f"from transformers import {kind}, AutoTokenizer",
        *([f"from rl4nlu.sources import {bundled}"] if bundled else []),
        "",
        f"base = {kind}.from_pretrained({base}{head})",
        f"model = PeftModel.from_pretrained(base, {weights})",
        f"tokenizer = AutoTokenizer.from_pretrained({weights if found.classifier else base})",
    ]


def _harness(found: Finished, place: Place) -> str:
    """The command of lm-evaluation-harness."""
    base = str({MINI: mini_folder, MINILM: minilm_folder}[place.base]()) if place.base in (MINI, MINILM) else place.base
    places = [place.weights] if found.whole else [base, place.weights]
    if any(set(",=") & set(name) for name in places):
        return ""  # it splits its arguments there
    known = [HARNESS[result["task"]] for result in found.results if result["task"] in HARNESS]
    what = "pretrained={}" if found.whole else "pretrained={},peft={}"
    words = ["lm_eval", "--model", "hf", "--model_args", what.format(*places), "--tasks", ",".join(known or [OTHER])]
    if getattr(found.settings, "chat", False):
        words.append("--apply_chat_template")
    title = "With lm-evaluation-harness, which has prompts of its own, so that its numbers are others:"
    return _fence(title, [shlex.join(words)])
