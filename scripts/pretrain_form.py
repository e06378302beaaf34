"""The second stage of pre-training (scripts/pretrain.py): rows that teach how a question is put and answered, without
the answers to any evaluated task.

    python scripts/pretrain_form.py --tokens build/mini/tokens [--rows 5]      # prints some

About six rows of ten are of the program's own tasks: their templates, filled with sentences of the books, and an answer
drawn by lot, so that nothing can be learnt but the form, and that every label is possible. The others are made by rule
(pretrain_rules.py) from the same sentences; most of their answers stand in the text, so that looking there pays. No row
of GLUE, SuperGLUE or the bundled suite is read, and the rules' lines are named otherwise than those of the tasks. Half
of the rows hold one example, the others as many as fit, like a few-shot prompt; a loss is asked for the answers alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from pretrain_rules import RULES, Pen
from pretrain_text import Text, read
from tokenizers import Tokenizer
from torch import Tensor

from rl4nlu.prompts import Prompter, TemplateName
from rl4nlu.seeding import generator
from rl4nlu.tasks import Example, Task, find_all

PARTS = (8, 4, 2, 1)
"""Rows are of one of these parts of the context a step, in turn, but not below SHORTEST."""
SHORTEST = 128
ALONE = 0.5
"""Share of the rows that hold a single example, as a zero-shot prompt does."""
REASONED = 0.1
"""Share of the rows in which some text stands before the answer, as with --reason."""
OWN_SHARE = 0.6
"""Of rows."""
THEN = {"superglue/boolq": "{passage}\nQuestion: {question}?\nAnswer:"}
"""Templates that have changed since the bundled model was made, as they were: its commands are to make it again."""
OWN = tuple(
    replace(task, plain=THEN.get(task.name, task.plain))
    for suite in ("glue", "superglue", "mini")
    for task in find_all(suite)
)
ASKING = ("What", "Why", "How", "Did", "Can", "Is it so that", "Should we say that")
"""How a question begins that gives no hint of an answer of one kind."""


# -- the program's tasks ----------------------------------------------------------------------------------------------


def fields_of(task: Task, pen: Pen, words: int) -> dict[str, str]:
    """Texts for the fields of one of the program's tasks, which know nothing of its question."""
    found: dict[str, str] = {}
    for name in task.fields:
        if name in ("word", "noun", "pronoun"):
            found[name] = pen.word(found.get("text") or found.get("first") or pen.sentence())
        elif name == "question" and task.candidates:
            found[name] = pen.one(("cause", "effect"))
        elif name == "question":
            question = f"{pen.one(ASKING)} {' '.join(pen.sentence().split()[1:9]).rstrip('.!?,;')}"
            found[name] = pen.one((question, question.lower())) + ("" if "{question}?" in task.plain else "?")
        elif name == "answer":
            found[name] = " ".join(pen.sentence().split()[: int(pen.rng.integers(1, 9))])
        elif name == "text":  # of WSC, with its two spans between asterisks
            marked = pen.passage(words).split()
            for at in pen.rng.choice(len(marked), 2, replace=False).tolist():
                marked[at] = f"*{marked[at]}*"
            found[name] = " ".join(marked)
        elif name in ("passage", "premise"):
            found[name] = pen.rough(pen.passage(words))
        else:
            found[name] = pen.rough(pen.sentence())
    return found


Draw = Callable[[], tuple[dict[str, str], int]]
"""Draws an example of a task: its fields and the number of its label."""


def own(pen: Pen, words: int) -> tuple[Task, Draw]:
    """One of the program's tasks, and what draws its examples: the answer by lot."""
    task = pen.one(OWN)
    return task, lambda: (fields_of(task, pen, words), int(pen.rng.integers(len(task.labels))))


def by_rule(pen: Pen, words: int, template: TemplateName) -> tuple[Task, Draw]:
    """A task made by rule, and what draws its examples. The short template goes with one set of label words, for it
    does not name them; the long one with any, half of the time with words by lot, which stand nowhere but in the
    instruction, so that they must be read there."""
    name = pen.one(tuple(RULES))
    rule = RULES[name]
    words_of = rule.words[0] if template == "plain" else pen.one(rule.words)
    if template == "verdict" and not rule.numeric and pen.coin():
        found: dict[str, None] = {}
        while len(found) < len(words_of):
            found[pen.word(pen.sentence()).lower()] = None
        words_of = tuple(found)
    labels = words_of if rule.numeric else tuple(map(str, range(len(words_of))))
    lines = rule.body.split("\n")
    plain = "\n".join(line if line[0] in "12Q" else line.split(": ", 1)[1] for line in lines if "{word}" not in line)
    task = Task(
        name=f"form/{name}",
        files=None,
        columns={},
        labels=labels,
        words=dict(zip(labels, words_of, strict=True)),
        plain=f"{plain}\n{rule.cue}",
        ask=pen.one(rule.asks),
        body=rule.body,
        metrics=("accuracy",),
        free=(),
        numeric=rule.numeric,
    )

    def draw() -> tuple[dict[str, str], int]:
        label = int(pen.rng.integers(len(words_of)))
        return rule.draw(pen, label, words), label

    return task, draw


# -- rows -------------------------------------------------------------------------------------------------------------


def row(pen: Pen, tokenizer: Tokenizer, length: int) -> tuple[list[int], list[bool]]:
    """Examples of one task behind each other: tokens, and which of them belong to an answer."""
    while True:
        template: TemplateName = "plain" if pen.coin() else "verdict"
        words = max(15, int((length - 100) / 1.6 * pen.rng.uniform(0.1, 1)))
        task, draw = own(pen, words) if pen.coin(OWN_SHARE) else by_rule(pen, words, template)
        prompter, alone = Prompter(task, template, reason=int(pen.coin(REASONED))), pen.coin(ALONE)
        ids: list[int] = []
        asked: list[bool] = []
        misses = 0
        while misses < 8 and not (ids and alone):
            fields, label = draw()
            prompt = prompter.prompt(Example("", fields, None)).text
            if ids:
                prompt = ("\n" if template == "plain" else "\n\n") + prompt[len(prompter.prefix) :]
            thought = f" {pen.sentence()}{prompter.bridge}" if prompter.reason else ""
            texts = (prompt, thought, prompter.answers[label])
            question, between, answer = (tokenizer.encode(t, add_special_tokens=False).ids for t in texts)
            question += between
            if len(ids) + len(question) + len(answer) > length:
                misses += 8 if ids else 1  # the row is full; a first example that is too long is drawn again
                continue
            ids += question + answer
            asked += [False] * len(question) + [True] * len(answer)
        if ids:
            return ids, asked


def lengths_of(context: int) -> tuple[int, ...]:
    """Of the rows."""
    return tuple(max(min(SHORTEST, context), context // part) for part in PARTS)


def batch(text: Text, seed: int, step: int, count: int, context: int, unseen: int) -> tuple[Tensor, Tensor]:
    """Rows of a step.

    Args:
        text: the tokenizer, and the tokens from which sentences are drawn.
        seed: with `step`, what the rows are a function of.
        step: of the training.
        count: tokens, padding included.
        context: of the model.
        unseen: label of what no loss is asked for.

    Returns:
        ids and labels, both of B rows of T tokens, with T one of `lengths_of(context)`, in turn, and B * T = `count`.
    """
    rng = generator(seed, "pretrain/form", step)
    length = lengths_of(context)[step % len(PARTS)]
    size = min(2000, len(text.seen) // 2)
    at = rng.integers(len(text.seen) - size, size=12).tolist()
    pen = Pen([text.tokenizer.decode(text.seen[i : i + size].tolist()) for i in at], rng)
    ids = torch.zeros(count // length, length, dtype=torch.long)
    labels = torch.full_like(ids, unseen)
    for i in range(len(ids)):
        found, asked = row(pen, text.tokenizer, length)
        ids[i, : len(found)] = torch.tensor(found)
        labels[i, : len(found)] = torch.where(torch.tensor(asked), ids[i, : len(found)], unseen)
    return ids, labels


def main() -> None:
    """Print some rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=5)
    flags = parser.parse_args()
    text = read(flags.tokens)
    for step in range(flags.rows):
        ids, labels = batch(text, 0, step, 1024, 1024, -100)
        print(text.tokenizer.decode(ids[0][ids[0] > 0].tolist()))
        print(f"-- {len(ids)} rows of {ids.shape[1]}, {int((labels >= 0).sum())} tokens of answers")


if __name__ == "__main__":
    main()
