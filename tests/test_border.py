"""The border of prompt and answer: the short way to it is the exact one, for every task, text and tokenizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4nlu import data
from rl4nlu.border import WORTH, Border, Head
from rl4nlu.prompts import Prompter
from rl4nlu.tasks import TASKS
from rl4nlu.tokens import EncodedRows, Encoder
from tokenizers_zoo import NASTY, TASK, TEMPLATES, Greedy, made_up, mini


def rows_of(task, count):
    """Rows of the bundle, if the task has such, or made up; then rows whose fields end in nasty texts."""
    shown = data.load(task, "dev")[:count] if task.generate else [made_up(task, f"Row {i}.") for i in range(count)]
    last = task.fields[-1]
    return [*shown, *(replace(shown[0], fields={**shown[0].fields, last: f"It rains. {text}"}) for text in NASTY)]


def assert_split_exactly(tokenizer, prompter, examples):
    """What an encoder makes of the rows is what tokenising each prompt with each answer makes of them."""
    encoder = Encoder(tokenizer, prompter, 4096)
    slow = Encoder(tokenizer, prompter, 4096)._border
    texts = [prompter.prompt(example).text for example in examples]
    found = [(list(row.ids), row.answers) for row in encoder.encode_all(examples)]
    assert found == slow.slowly(texts)
    return encoder


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TASKS)
def test_the_short_way_to_the_border_is_exact(name, template, tokenizer):
    task = TASKS[name]
    examples = rows_of(task, 12)
    encoder = assert_split_exactly(tokenizer, Prompter(task, template, (examples[0],)), examples)
    assert encoder._border._trusted
    texts = [encoder.prompter.prompt(example).text for example in examples]
    short = encoder._border._short(texts, encoder._border.ids(texts))
    assert sum(one is None for one in short) <= len(texts) // 4, "hardly any row needs the exact way"


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.files is not None])
def test_the_short_way_is_exact_on_official_rows(name, tokenizer, real_data):
    task = TASKS[name]
    splits = [split for split in ("dev", "train", "test") if data.available(task, split, real_data)]
    examples = data.load(task, splits[0], real_data, limit=40)
    for template in TEMPLATES:
        assert_split_exactly(tokenizer, Prompter(task, template), examples)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    texts=st.lists(st.text(max_size=12) | st.sampled_from(NASTY), min_size=1, max_size=4),
    line=st.text(max_size=9) | st.sampled_from([*NASTY, "Answer:", "x " * 60, "a" * 200]),
    ends=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3, unique=True),
)
def test_the_short_way_is_exact_whatever_the_line(texts, line, ends):
    tokenizer = mini()
    border = Border(lambda texts: tokenizer(texts)["input_ids"], lambda texts: tokenizer(texts)["input_ids"], ends)
    border._probes = 0
    prompts = [f"{text}\n{line}" for text in texts]
    assert border.split(prompts, border.ids(prompts)) == border.slowly(prompts)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    pieces=st.lists(st.text("ab \n?", min_size=2, max_size=6), max_size=8, unique=True),
    texts=st.lists(st.text("ab \n?", max_size=30), min_size=1, max_size=20),
    line=st.text("ab ?", min_size=8, max_size=12),
)
def test_the_short_way_is_exact_with_tokens_across_words(pieces, texts, line):
    ids = Greedy(*pieces).tokenize
    border = Border(ids, ids, [" a\n", " b\n"])
    border._probes = 0
    prompts = [f"{text}\n{line}" for text in texts]
    assert border.split(prompts, ids(prompts)) == border.slowly(prompts)


def test_tails_are_not_trusted_where_the_first_prompts_come_out_otherwise():
    def contrary(texts):
        """The last token of a text with an answer is its length."""
        return [[*map(ord, text[:-1]), 1000 + len(text) if text[-1] == "\n" else 9] for text in texts]

    prompts = [f"{'a' * i}\nDoes it follow?" for i in range(1, 20)]
    border = Border(contrary, contrary, [" Yes\n", " No\n"])
    found = border.split(prompts, contrary(prompts))
    assert found == border.slowly(prompts)
    assert not border._trusted
    other = Border(mini_ids, lambda texts: [[9] * len(text) for text in texts], [" Yes\n", " No\n"])
    found = other.split(prompts, other.ids(prompts))
    assert found == other.slowly(prompts), "nor is a quick tokenizer that makes other tokens"
    assert other.ids(prompts) == mini_ids(prompts)


def mini_ids(texts):
    return mini()(texts)["input_ids"]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    pieces=st.lists(st.text("ab \n?", min_size=2, max_size=6), max_size=8, unique=True),
    head=st.text("ab \n?", min_size=WORTH, max_size=WORTH + 60),
    texts=st.lists(st.text("ab \n?", max_size=30), min_size=1, max_size=9),
    joined=st.lists(st.booleans(), min_size=9, max_size=9),
)
def test_texts_that_begin_alike_come_out_as_alone(pieces, head, texts, joined):
    tokenize = Greedy(*pieces).tokenize
    texts = [(head if begins else "") + text for text, begins in zip(texts, joined, strict=False)]
    assert Head(head, tokenize).ids(texts) == tokenize(texts)


@pytest.mark.parametrize("name", ["glue/rte", "superglue/boolq", "superglue/copa", "mini/sentiment"])
def test_few_shot_examples_are_tokenised_once(name, tokenizer):
    task = TASKS[name]
    examples = rows_of(task, 30)
    read = []

    def tokenize(texts):
        read.extend(texts)
        return tokenizer(list(texts))["input_ids"]

    for template in TEMPLATES:
        prompter = Prompter(task, template, tuple(examples[-6:]))
        texts = [prompter.prompt(example).text for example in examples]
        read.clear()
        found = Head(prompter.prefix, tokenize).ids(texts)
        assert sum(text.startswith(prompter.prefix) for text in read) == 1
        assert found == tokenize(texts)


@pytest.mark.parametrize("reason", [0, 8])
def test_rows_in_one_go_are_rows_one_by_one(reason, tokenizer):
    """Cut ones and whole ones, with a chat template and without."""
    long = "It rained for days, and everything was wet indeed; "
    examples = [made_up(TASK, long * (i % 9), TASK.labels[i % 2]) for i in range(40)]
    for chat in (None, lambda message: f"[INST] {message} [/INST]\n"):
        prompter = Prompter(TASK, "verdict", chat=chat, reason=reason)
        rows = EncodedRows(Encoder(tokenizer, prompter, 200), examples)
        one_by_one = [Encoder(tokenizer, prompter, 200).encode(example) for example in examples]
        assert rows[:] == one_by_one
        assert 0 < rows.cut == sum(row.prompt.cut for row in one_by_one) < 40
        assert [rows[i] for i in range(40)] == one_by_one
