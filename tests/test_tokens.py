"""Tokens at the border of prompt and answer with real tokenizers; micro-batches; the order of the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4nlu import data
from rl4nlu.border import common_prefix
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.prompts import Prompter
from rl4nlu.settings import EvaluateSettings, PpoSettings, SftSettings
from rl4nlu.tasks import TASKS, Example
from rl4nlu.tokens import EncodedRows, Encoder, micro_batches, pad_right
from rl4nlu.tree import WORTH
from tokenizers_zoo import NASTY, TASK, TEMPLATES, Greedy, llama2, made_up, mini


class Counting:
    """A tokenizer that fails after too many calls: a loop without end is found, not waited for."""

    def __init__(self, tokenizer, calls=2000):
        self.tokenizer, self.calls = tokenizer, calls

    def __call__(self, *args, **kwargs):
        self.calls -= 1
        if self.calls < 0:
            pytest.fail("the encoder does not come to an end")
        return self.tokenizer(*args, **kwargs)


def assert_reads_as_one_text(tokenizer, encoded, prompter, special=True):
    """Prompt and answer tokens side by side are the tokens of both texts in one."""
    whole = tokenizer([encoded.prompt.text + answer for answer in prompter.answers], add_special_tokens=special)[
        "input_ids"
    ]
    assert [list(encoded.ids + answer) for answer in encoded.answers] == whole
    assert len(encoded.ids) > 0
    assert all(encoded.answers)
    assert len(set(encoded.answers)) == len(encoded.answers)


# -- the border of prompt and answer -----------------------------------------------------------------------------------


def test_llama2_is_converted_rightly(real_data):
    folder = real_data / "models" / "llama2-tokenizer"
    tokenizer = llama2(folder)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in ("The film was good\n", "Is it?\nAnswer: Yes\n", "<verdict> No </verdict>", "a\n\nb  c 🙂"):
        assert tokenizer(text)["input_ids"] == [1, *model.encode(text)]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TASKS)
def test_prompt_and_answer_tokens_are_those_of_the_whole_text(name, template, tokenizer):
    task = TASKS[name]
    shots = tuple(made_up(task, f"Shot {i}.", label) for i, label in enumerate(task.labels[:2]))
    for prompter in (Prompter(task, template), Prompter(task, template, shots)):
        encoder = Encoder(tokenizer, prompter, 2048)
        for text in NASTY:
            encoded = encoder.encode(made_up(task, text))
            assert_reads_as_one_text(tokenizer, encoded, prompter)
            alone = tokenizer(encoded.prompt.text)["input_ids"]
            assert list(encoded.ids) == alone[: len(encoded.ids)]
            assert len(alone) - len(encoded.ids) <= 1, "the answers took more than a token off the prompt"


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.files is not None])
def test_official_rows_read_as_one_text(name, tokenizer, real_data):
    task = TASKS[name]
    splits = [split for split in ("dev", "train", "test") if data.available(task, split, real_data)]
    for template in TEMPLATES:
        prompter = Prompter(task, template)
        encoder = Encoder(tokenizer, prompter, 4096)
        for example in data.load(task, splits[0], real_data, limit=8):
            assert_reads_as_one_text(tokenizer, encoder.encode(example), prompter)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(text=st.text(max_size=30))
def test_any_text_reads_as_one_text(text):
    tokenizer = mini()
    for template in TEMPLATES:
        prompter = Prompter(TASK, template)
        encoded = Encoder(tokenizer, prompter, 512).encode(Example("r", {"premise": "P.", "hypothesis": text}, None))
        assert_reads_as_one_text(tokenizer, encoded, prompter)


def test_a_chat_template_brings_its_own_beginning(tokenizer):
    begin = tokenizer.bos_token
    prompter = Prompter(TASK, chat=lambda message: f"{begin}[INST] {message} [/INST]\n")
    encoded = Encoder(tokenizer, prompter, 512).encode(made_up(TASK))
    assert encoded.ids.count(tokenizer.bos_token_id) == 1
    assert encoded.ids[0] == tokenizer.bos_token_id
    assert_reads_as_one_text(tokenizer, encoded, prompter, special=False)


@pytest.mark.parametrize(
    "pieces", [["? Yes"], ["? Y", "? N"], ["w? No\n", "ow?"], ["follow? ", "follow?"], [" Yes\n", " No\n"], [" "]]
)
def test_a_token_across_the_border_belongs_to_the_answers(pieces):
    tokenizer, prompter = Greedy(*pieces), Prompter(TASK)
    encoded = Encoder(tokenizer, prompter, 512).encode(made_up(TASK))
    for ids, answer in zip(encoded.answers, prompter.answers, strict=True):
        assert tokenizer.text(encoded.ids + ids) == encoded.prompt.text + answer
    assert encoded.prompt.text.startswith(tokenizer.text(encoded.ids))
    assert all(encoded.answers)


# -- prompts that are too long -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [56, 64, 100, 200])
@pytest.mark.parametrize("name", ["glue/rte", "superglue/boolq", "glue/stsb", "superglue/copa"])
def test_long_prompts_are_cut_to_the_context(name, length, tokenizer):
    task = TASKS[name]
    long = "It rained for days, 日本 🙂 and everything was wet indeed; " * 20
    fields = {field: long if field in task.free else f"the {field}" for field in task.fields}
    for template in TEMPLATES:
        prompter = Prompter(task, template)
        encoder = Encoder(Counting(tokenizer), prompter, length)
        try:
            encoded = encoder.encode(Example("r", fields, task.labels[0]))
        except UserError:
            bare = prompter.prompt(Example("r", {**fields, **dict.fromkeys(task.free, "It")}, None))
            assert len(tokenizer(bare.text)["input_ids"]) > encoder.longest_prompt
            continue
        assert encoded.prompt.cut
        assert len(encoded.ids) + max(map(len, encoded.answers)) <= length
        assert len(encoded.ids) >= 0.6 * length, "cut far more than it must"
        assert_reads_as_one_text(tokenizer, encoded, prompter)
        assert all(f"the {field}" in encoded.prompt.text for field in task.fields if field not in task.free)


@pytest.mark.parametrize(
    "text", ["It rains.", "x", "🙂", "𒀀", "w" * 300], ids=["words", "letter", "smile", "cuneiform", "long-word"]
)
def test_a_prompt_that_cannot_be_cut_is_an_error_at_once(text, tokenizer):
    task = TASKS["superglue/boolq"]
    row = Example("r7", {"passage": text, "question": "is this question too long for so short a context " * 3}, None)
    with pytest.raises(UserError, match="row r7 of superglue/boolq"):
        EncodedRows(Encoder(Counting(tokenizer), Prompter(task), 32), [row])


def test_no_prompt_that_may_be_too_long_is_missed(tokenizer):
    """The quick look at the bytes must never pass a prompt with more tokens than there is room for."""
    prompter = Prompter(TASK)
    for text in (*NASTY, "\x00" * 40, "🙂" * 40, " " * 40, "\n" * 40, "﷽" * 10, "Ǆ" * 20):
        prompt = prompter.prompt(Example("r", {"premise": f"a{text}b", "hypothesis": "h"}, None))
        count = len(tokenizer(prompt.text)["input_ids"])
        for room in range(count - 3, count):  # too long by one token or more
            encoder = Encoder(tokenizer, prompter, 0)
            encoder.longest_prompt = room
            assert encoder.may_be_too_long(prompt)


class Noting:
    """Notes which prompts are tokenised."""

    def __init__(self, tokenizer):
        self.tokenizer, self.seen = tokenizer, []

    def __call__(self, texts, **kwargs):
        self.seen += texts
        return self.tokenizer(texts, **kwargs)


def test_rows_are_encoded_when_asked_for_and_once():
    noting = Noting(mini())
    examples = [made_up(TASK, f"Row {i}.") for i in range(30)]
    examples[3] = made_up(TASK, "Row 3. " * 99)
    encoder = Encoder(noting, Prompter(TASK), 256)
    noting.seen.clear()
    rows = EncodedRows(encoder, examples)

    def seen():
        """Rows whose whole prompts were read, and how often."""
        found = Counter(int(text.split("Row ")[1].split(".")[0]) for text in noting.seen if "Row " in text)
        noting.seen.clear()
        return found

    assert len(rows) == 30
    assert rows.cut == 1
    assert set(seen()) == {3}, "only what may be too long is read before the first step"
    assert rows[1] is rows[1]
    assert seen() == {1: 4}, "alone, and both ways as one of the first"
    assert rows.take([5, -2, 1, 5]) == [rows[5], rows[28], rows[1], rows[5]]
    assert set(seen()) == {5, 28}
    assert [row.prompt.example for row in rows] == examples
    found = seen()
    assert set(found) == set(range(30)) - {1, 3, 5, 28}
    assert all(found[i] == 1 for i in range(10, 30) if i != 28), "once, for its last line was met before"
    assert [row.prompt.example for row in rows[1:4]] == examples[1:4]
    assert [row.prompt.cut for row in rows] == [i == 3 for i in range(30)]
    assert not seen()
    assert [rows[i] for i in range(30)] == encoder.encode_all(examples)
    for outside in (30, -31):
        with pytest.raises(IndexError):
            rows[outside]


# -- common prefix, padding --------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2), max_size=6)


@settings(deadline=None, derandomize=True)
@given(st.lists(IDS, min_size=1, max_size=5))
def test_common_prefix_is_the_longest(rows):
    found = common_prefix(rows)
    assert all(tuple(row[: len(found)]) == found for row in rows)
    further = {tuple(row[: len(found) + 1]) for row in rows}
    assert len(further) > 1 or min(map(len, rows)) == len(found)


@settings(deadline=None, derandomize=True)
@given(st.lists(IDS, max_size=4), st.integers(0, 9))
def test_padding_on_the_right(rows, pad):
    ids, mask = pad_right(rows, pad)
    assert ids.dtype == torch.long
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows), default=0))
    for row, padded, real in zip(rows, ids, mask, strict=True):
        assert padded.tolist() == row + [pad] * (ids.shape[1] - len(row))
        assert real.tolist() == [True] * len(row) + [False] * (ids.shape[1] - len(row))


# -- micro-batches -----------------------------------------------------------------------------------------------------

TOKEN = st.integers(1, 3)


@st.composite
def batches(draw, ragged):
    """Prompts that may share a beginning, with the same number of answers each, and a bound of tokens."""
    shared = draw(st.lists(TOKEN, max_size=40))
    tails = draw(st.lists(st.lists(TOKEN, max_size=24), min_size=1, max_size=9))
    count, width = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    size = st.integers(1, 6) if ragged else st.just(width)
    rows = []
    for tail in tails:
        answers = [draw(st.lists(TOKEN, min_size=(n := draw(size)), max_size=n)) for _ in range(count)]
        rows.append(((shared + tail) or [9], answers))
    return rows, draw(st.integers(1, 120))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(batches(ragged=True))
def test_every_row_is_in_one_batch_and_whole(case):
    rows, max_tokens = case
    seen = []
    for batch in micro_batches(rows, max_tokens, pad=5):
        seen += batch.rows
        for i, row in enumerate(batch.rows):
            prompt, answers = rows[row]
            assert list(batch.prompts[i]) == list(prompt)
            assert [list(answer) for answer in batch.answers[i]] == answers
            assert [
                a[m].tolist() for a, m in zip(batch.answer_BKA[i], batch.answer_mask_BKA[i], strict=True)
            ] == answers
        assert (batch.answer_BKA[~batch.answer_mask_BKA] == 5).all()
    assert sorted(seen) == list(range(len(rows)))


def tokens(batch):
    """What goes through the model, and the last token of every answer, which is predicted only."""
    return len(batch.tree.ids_N) + batch.answer_BKA.shape[0] * batch.answer_BKA.shape[1]


@settings(deadline=None, max_examples=500, derandomize=True)
@given(batches(ragged=False))
def test_batches_keep_the_bound_unless_a_row_is_alone(case):
    rows, max_tokens = case
    for batch in micro_batches(rows, max_tokens, pad=0):
        assert tokens(batch) <= max_tokens or len(batch.rows) == 1


@settings(deadline=None, max_examples=500, derandomize=True)
@given(batches(ragged=True))
def test_batches_keep_the_bound_with_answers_of_any_length(case):
    rows, max_tokens = case
    for batch in micro_batches(rows, max_tokens, pad=0):
        assert tokens(batch) <= max_tokens or len(batch.rows) == 1


def test_rows_share_a_batch_where_there_is_room():
    rows = [([*range(30), i], [[1, 2], [3]]) for i in range(40, 50)]
    (batch,) = micro_batches(rows, 30 + 10 * (1 + 3), pad=0)
    assert tokens(batch) == 30 + 10 * (1 + 1) + 10 * 2
    assert batch.answer_BKA.shape == (10, 2, 2)
    assert len(list(micro_batches(rows, 1, pad=0))) == 10
    assert list(micro_batches([], 100, pad=0)) == []


def test_rows_that_share_a_passage_come_together():
    passages = [[100 * p + i for i in range(40 + p)] for p in range(4)]
    rows = [(list(range(20)) + passages[i % 4] + [900 + i, 7], [[1]]) for i in range(24)]
    batches = list(micro_batches(rows, 20 + 44 + 6 * 3 + 5 * (WORTH - 1), pad=0))
    for batch in batches:
        assert len({row % 4 for row in batch.rows}) <= 2
        assert tokens(batch) <= 20 + 44 + 44 + 6 * (2 + 1)
    in_order = [row % 4 for batch in batches for row in batch.rows]
    assert in_order == [3] * 6 + [2] * 6 + [1] * 6 + [0] * 6, "the longest first"


def test_longest_rows_come_first():
    """So that a batch that does not fit into memory is met at once."""
    rows = [([i] * (5 + i % 7), [[1]]) for i in range(1, 30)]
    lengths = [len(rows[row][0]) for batch in micro_batches(rows, 60, pad=0) for row in batch.rows]
    assert lengths == sorted(lengths, reverse=True)


def test_context_is_measured_with_room_for_the_longest_answer(tokenizer):
    task = replace(TASK, words={"entailment": "Yes", "not_entailment": "Not in the least by any means"})
    encoder = Encoder(tokenizer, Prompter(task), 100)
    encoded = encoder.encode(made_up(task))
    assert encoder.longest_answer >= max(map(len, encoded.answers))
    assert encoder.longest_prompt == 100 - encoder.longest_answer


def test_context_has_room_for_what_is_generated(tokenizer):
    """A model of learned positions has none behind the last: a prompt is cut for as many tokens as may be written."""
    longest = Encoder(tokenizer, Prompter(TASK), 100).longest_answer
    for generated, room in ((0, longest), (None, longest + 4), (1, longest), (32, 32)):
        encoder = Encoder(tokenizer, Prompter(TASK), 100, generated=generated)
        assert encoder.longest_prompt == 100 - room
        assert len(encoder.encode(made_up(TASK, "word " * 300)).ids) <= 100 - room
    ask = {"task": "glue/rte", "model": "mini"}
    for settings_type, values, expected in (
        (SftSettings, {}, 0),
        (EvaluateSettings, {}, 0),
        (EvaluateSettings, {"decode": "greedy"}, None),
        (EvaluateSettings, {"decode": "sample", "answer_tokens": 9}, 9),
        (PpoSettings, {}, None),
        (PpoSettings, {"answer_tokens": 7}, 7),
        (PpoSettings, {"actions": "labels"}, 0),
    ):
        assert validate(settings_type, {**ask, **values}).generated == expected
