"""Example -> prompt text and answers; which training rows are shown as examples; the chat template around it.

A prompt is `prefix + body + cue`: the prefix (instruction, few-shot examples) is the same for every row, the body
holds the row's fields, the cue (the template's last line; of one line, what follows its last field) is where the answer
starts. The same template and label words serve training and evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Literal

from .errors import UserError
from .seeding import generator
from .tasks import Example, Task

TemplateName = Literal["plain", "verdict"]
OPEN, CLOSE = "<verdict>", "</verdict>"
REASONING = "Reasoning:"
TODAY = date(2024, 7, 26)
"""The day that chat templates are told, where they ask; it is what those of Llama 3.1 and 3.2 say themselves."""
NO_CHAT_TEMPLATE = "--chat: this model's tokenizer has no chat template; leave --chat out"


@dataclass(frozen=True)
class Prompt:
    """One example, written out."""

    example: Example
    text: str
    """Everything up to the answer."""
    gold: int | None
    """Index of the right answer among the prompter's answers; None where the label is unknown."""
    cut: bool = False
    """Whether a field was shortened to fit the model's context."""


@dataclass(frozen=True)
class Prompter:
    """Writes the prompts of one task."""

    task: Task
    template: TemplateName = "plain"
    shots: tuple[Example, ...] = ()
    chat: Callable[[str], str] | None = None
    """Wraps a user message in the model's chat template, up to where the assistant speaks."""
    reason: int = 0
    """Tokens of free text that the model may write between prompt and answer."""

    @property
    def close(self) -> str:
        """What ends an answer."""
        return "\n" if self.template == "plain" else f" {CLOSE}"

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The closed set of whole answers, one a label, in the order of `task.labels`."""
        return tuple(f" {self.task.words[label]}{self.close}" for label in self.task.labels)

    @property
    def bridge(self) -> str:
        """What leads from the model's own text to its answer; empty where it writes none."""
        if not self.reason:
            return ""
        return "\nAnswer:" if self.template == "plain" else f"\n{OPEN}"

    @cached_property
    def prefix(self) -> str:
        """Instruction and few-shot examples."""
        parts = [self._instruction] if self._instruction else []
        for shot in self.shots:
            body, cue = self._body(shot.fields)
            label = self.task.gold(shot)
            assert label is not None, "a few-shot example needs a label"
            parts.append(body + cue + self.answers[self.task.labels.index(label)].rstrip("\n"))
        return "".join(part + "\n\n" for part in parts)

    def prompt(self, example: Example, fields: Mapping[str, str] | None = None) -> Prompt:
        """The prompt for an example; `fields` stands in for its own where they had to be shortened."""
        body, cue = self._body(fields or example.fields)
        text = self.prefix + body
        if self.chat is not None:
            text = self.chat(text.rstrip("\n"))
        if self.reason:  # the question stands in front of the model's text; a tag in front of the answer alone
            cue = f"{cue}\n{REASONING}" if self.template == "plain" else REASONING
        gold = self.task.gold(example)
        return Prompt(example, text + cue, None if gold is None else self.task.labels.index(gold), fields is not None)

    def cue(self, example: Example) -> str:
        """The prompt without the row's body: instruction, few-shot examples, and the line behind which the answer
        follows. What the model says here it says of any row of this kind (the domain premise of DC-PMI)."""
        text, cue = self.prefix, self._body(example.fields)[1]
        return (self.chat(text.rstrip("\n")) if self.chat is not None else text) + cue

    def fitted(self, example: Example, length: Callable[[str], int], limit: int, truncate: bool = True) -> Prompt:
        """The prompt, with its longest free field cut at the end until it has at most `limit` tokens.

        Args:
            example: the example.
            length: number of tokens of a text.
            limit: tokens that a prompt may have.
            truncate: whether anything may be cut at all.

        Raises:
            UserError: prefix, question and the rest that may not be cut are too long already.
        """
        prompt = self.prompt(example)
        excess = length(prompt.text) - limit
        if excess <= 0:
            return prompt
        if not truncate:
            raise UserError(
                f"row {example.id} of {self.task.name}: the prompt is {excess} tokens longer than the {limit} that "
                "it may have; leave out --no-truncate to have it cut, or use fewer --shots, a longer --max-length or a "
                "model with a longer context"
            )
        fields = {name: text.strip() for name, text in example.fields.items()}
        while excess > 0:
            cuttable = [name for name in self.task.free if len(fields[name]) > 1]
            if not cuttable:
                raise UserError(
                    f"row {example.id} of {self.task.name}: the prompt is {excess} tokens longer than the model's "
                    "context although all that may be cut is cut; use fewer --shots, a longer --max-length or a model "
                    "with a longer context"
                )
            name = max(cuttable, key=lambda name: length(fields[name]))
            tokens = length(fields[name])
            keep = max(1, tokens - excess) / tokens
            cut = fields[name][: max(1, int(len(fields[name]) * keep))]
            fields[name] = cut.rsplit(None, 1)[0] if len(cut.split()) > 1 else cut[:-1] or cut
            prompt = self.prompt(example, fields)
            excess = length(prompt.text) - limit
        return prompt

    def parse(self, text: str) -> str | None:
        """Label that a generated answer states: what stands before the closing tag or the end of the line."""
        return self.task.parse(text.split(CLOSE)[0].strip().split("\n")[0])

    def finished(self, text: str) -> bool:
        """Whether a generated answer is complete: it holds the closing tag, or a line that is not empty has ended."""
        return CLOSE in text or "\n" in text.lstrip()

    def thought(self, text: str) -> bool:
        """Whether the text in front of an answer is complete: its line has ended, or the answer's tag has begun."""
        return OPEN in text or "\n" in text.lstrip()

    def bridged(self, text: str) -> bool:
        """Whether the model has opened its answer itself."""
        return self.template == "verdict" and text.endswith(OPEN)

    @property
    def _instruction(self) -> str:
        if self.template == "plain":
            return ""
        words = list(dict.fromkeys(self.task.words[label] for label in self.task.labels))
        options = f"a number from {words[0]} to {words[-1]}" if self.task.numeric else " or ".join(words)
        form = f"{OPEN} {options} {CLOSE}"
        return f"{self.task.ask}\nReply with your verdict between tags, in this form and no other:\n{form}"

    def _body(self, fields: Mapping[str, str]) -> tuple[str, str]:
        template = self.task.plain if self.template == "plain" else f"{self.task.body}\n{OPEN}"
        # of a template of one line the cue is what stands behind the row's last field
        start = template.rfind("\n") + 1 or template.rfind("}") + 1
        stripped = {name: text.strip() for name, text in fields.items()}
        return template[:start].format_map(stripped), template[start:].format_map(stripped)


def choose_shots(task: Task, examples: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """`count` training examples to show in every prompt: chosen by seed, balanced over the labels, then shuffled.

    For a numeric task the labels are cut into `count` equal ranges of the sorted training scores, one example each.

    Raises:
        UserError: there are fewer training examples than shots.
    """
    if count > len(examples):
        raise UserError(f"--shots {count}: {task.name} has only {len(examples)} training rows; give fewer")
    rng = generator(seed, f"shots/{task.name}")
    order = [examples[i] for i in rng.permutation(len(examples))]
    if task.numeric:
        order.sort(key=lambda example: float(example.label or 0))
        chosen = [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]
    else:
        by_label = {
            label: [e for e in order if e.label == label] for label in rng.permutation(list(task.labels)).tolist()
        }
        chosen = []
        while len(chosen) < count:
            chosen += [rows.pop() for rows in by_label.values() if rows]
        chosen = chosen[:count]
    return tuple(chosen[i] for i in rng.permutation(len(chosen)))


def chat_wrapper(tokenizer: Any) -> Callable[[str], str]:
    """A function that wraps a user message in the tokenizer's chat template.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(NO_CHAT_TEMPLATE)

    # some templates tell the model what day it is: a prompt is to be the same on every day
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else tokenizer.get_chat_template()
    known = {"date_string": TODAY.strftime("%d %b %Y")} if "date_string" in template else {}
    if "strftime_now" in template:
        forms = set(re.findall(r"""strftime_now\(\s*['"]([^'"]*)['"]""", template))
        days = json.dumps({form: TODAY.strftime(form) for form in forms})
        today = f"{{{{- {days}.get(form, '{TODAY}') -}}}}"
        known["chat_template"] = f"{{%- macro strftime_now(form) %}}{today}{{% endmacro %}}{template}"

    def wrap(message: str) -> str:
        turns = [{"role": "user", "content": message}]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **known)

    return wrap
