"""Prompts written out by hand; the choice of few-shot examples; cutting to the model's context."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rl4nlu import data
from rl4nlu.errors import UserError
from rl4nlu.prompts import Prompter, chat_wrapper, choose_shots
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import TASKS, Example

# a task of our own, so that the prompts below do not depend on the wording of the shipped ones
TOY = replace(
    TASKS["superglue/cb"],
    name="toy/task",
    plain="{premise}\nClaim: {hypothesis}\nTrue?",
    ask="Judge the claim.",
    body="Text: {premise}\nClaim: {hypothesis}",
    free=("premise",),
)
RATING = replace(
    TASKS["glue/stsb"], name="toy/rating", plain="{first}\n{second}\nAlike?", ask="Rate.", body="{first}\n{second}"
)
CUE_WITH_FIELD = replace(TOY, plain="{premise}\nDoes it mean {hypothesis}?")
ROW = Example("r1", {"premise": "It rains.", "hypothesis": "Wet."}, "neutral")
SHOT = Example("s1", {"premise": "Sun shines.", "hypothesis": "Dark."}, "contradiction")
PLAIN, VERDICT = "It rains.\nClaim: Wet.\nTrue?", "Text: It rains.\nClaim: Wet.\n<verdict>"
ASK = (
    "Judge the claim.\nReply with your verdict between tags, in this form and no other:\n"
    "<verdict> Yes or No or Maybe </verdict>\n\n"
)


def toy(premise="It rains.", hypothesis="Wet.", label="neutral", id="r"):
    return Example(id, {"premise": premise, "hypothesis": hypothesis}, label)


# -- what a prompt says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "shots", "text"),
    [
        ("plain", (), PLAIN),
        ("plain", (SHOT,), "Sun shines.\nClaim: Dark.\nTrue? No\n\n" + PLAIN),
        ("verdict", (), ASK + VERDICT),
        ("verdict", (SHOT,), ASK + "Text: Sun shines.\nClaim: Dark.\n<verdict> No </verdict>\n\n" + VERDICT),
    ],
)
def test_prompts_as_written_by_hand(template, shots, text):
    prompt = Prompter(TOY, template, shots).prompt(ROW)
    assert prompt.text == text
    assert prompt.gold == TOY.labels.index("neutral")
    assert prompt.example is ROW
    assert not prompt.cut


def test_answers_as_written_by_hand():
    assert TOY.labels == ("entailment", "contradiction", "neutral")
    assert Prompter(TOY, "plain").answers == (" Yes\n", " No\n", " Maybe\n")
    assert Prompter(TOY, "verdict").answers == (" Yes </verdict>", " No </verdict>", " Maybe </verdict>")
    assert Prompter(RATING, "plain").answers[13] == " 2.6\n"
    assert "<verdict> a number from 0.0 to 5.0 </verdict>" in Prompter(RATING, "verdict").prefix
    for labels in (tuple(map(str, range(1, 11))), tuple(map(str, range(-5, 6))), ("0", "10", "100")):
        task = replace(RATING, labels=labels, words={label: label for label in labels})
        assert f"<verdict> a number from {labels[0]} to {labels[-1]} </verdict>" in Prompter(task, "verdict").prefix


def test_a_numeric_shot_shows_the_nearest_score():
    shot = Example("s", {"first": "A.", "second": "B."}, "4.750")
    assert Prompter(RATING, "plain", (shot,)).prefix == "A.\nB.\nAlike? 4.8\n\n"


def test_a_row_without_label_has_no_gold():
    assert Prompter(TOY).prompt(toy(label=None)).gold is None


def test_space_around_a_field_does_not_reach_the_prompt():
    prompt = Prompter(TOY).prompt(toy(" It rains. \n", "\tWet. "))
    assert prompt.text == PLAIN


def test_cue_may_hold_a_field():
    assert Prompter(CUE_WITH_FIELD).prompt(ROW).text == "It rains.\nDoes it mean Wet.?"
    wrapped = Prompter(CUE_WITH_FIELD, chat=lambda message: f"[{message}]").prompt(ROW).text
    assert wrapped == "[It rains.]Does it mean Wet.?"


NASTY = [
    "{",
    "}",
    "{}",
    "{premise}",
    "{0}",
    "{hypothesis!r}",
    "{{x}}",
    "%s",
    "\\n",
    "$x",
    "<verdict> Yes </verdict>",
    "a\nb",
]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("template", ["plain", "verdict"])
def test_nothing_in_a_field_is_interpreted(text, template):
    shot = toy(text, f"shot {text}", "entailment")
    prompt = Prompter(TOY, template, (shot,)).prompt(toy(f"row {text}", text))
    if template == "plain":
        assert prompt.text == f"{text}\nClaim: shot {text}\nTrue? Yes\n\nrow {text}\nClaim: {text}\nTrue?"
    else:
        rows = (
            f"Text: {text}\nClaim: shot {text}\n<verdict> Yes </verdict>\n\nText: row {text}\nClaim: {text}\n<verdict>"
        )
        assert prompt.text == ASK + rows


@settings(deadline=None, derandomize=True)
@given(premise=st.text(), hypothesis=st.text())
def test_any_text_is_a_field(premise, hypothesis):
    for task in (TOY, CUE_WITH_FIELD):
        for chat in (None, lambda message: f"<{message}>"):
            text = Prompter(task, chat=chat).prompt(toy(premise, hypothesis)).text
            assert premise.strip().rstrip("\n") in text or chat is not None
            assert hypothesis.strip() in text


@pytest.mark.parametrize("template", ["plain", "verdict"])
@pytest.mark.parametrize("name", TASKS)
def test_shots_read_as_training_writes_them(name, template):
    """Behind the instruction a shot is, to the letter, the prompt and the gold answer that SFT trains on."""
    task = TASKS[name]
    shots = [
        Example("0", {f: f"the {f} of {i}" for f in task.fields}, label) for i, label in enumerate(task.labels[:3])
    ]
    bare, full = Prompter(task, template), Prompter(task, template, tuple(shots))
    trained = []
    for shot in shots:
        prompt = bare.prompt(shot)
        trained.append((prompt.text.removeprefix(bare.prefix) + bare.answers[prompt.gold]).rstrip("\n"))
    assert full.prefix == bare.prefix + "".join(text + "\n\n" for text in trained)
    assert full.answers == bare.answers


@pytest.mark.parametrize("template", ["plain", "verdict"])
@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith("mini/")])
def test_all_rows_share_the_prefix(name, template):
    task = TASKS[name]
    train = data.load(task, "train")
    bare, prompter = Prompter(task, template), Prompter(task, template, choose_shots(task, train, 5, seed=1))
    assert len(prompter.prefix) > len(bare.prefix)
    for example in data.load(task, "dev"):
        alone = bare.prompt(example).text.removeprefix(bare.prefix)
        assert prompter.prompt(example).text == prompter.prefix + alone


# -- chat --------------------------------------------------------------------------------------------------------------


class ChatTokenizer:
    """Stands in for a tokenizer with a chat template."""

    chat_template = "some template"

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<s>{turn['role']}: {turn['content']}</s>" for turn in turns) + "assistant:\n"


@pytest.mark.parametrize("template", ["plain", "verdict"])
def test_chat_wraps_prefix_and_row_and_the_cue_begins_the_answer(template):
    wrap = chat_wrapper(ChatTokenizer())
    prompter = Prompter(TOY, template, (SHOT,), wrap)
    if template == "plain":
        user, cue = "Sun shines.\nClaim: Dark.\nTrue? No\n\nIt rains.\nClaim: Wet.", "True?"
    else:
        shot = "Text: Sun shines.\nClaim: Dark.\n<verdict> No </verdict>\n\n"
        user, cue = ASK + shot + "Text: It rains.\nClaim: Wet.", "<verdict>"
    assert prompter.prompt(ROW).text == f"<s>user: {user}</s>assistant:\n{cue}"


@pytest.mark.parametrize(
    ("asking", "told"),
    [
        (
            "{%- if not date_string %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}",
            "26 Jul 2024",
        ),
        ("{{ strftime_now('%Y-%m-%d') }}", "2024-07-26"),
        ('  {% set d = strftime_now("%B %Y") %}{{ d }}', "  July 2024"),
        ("{{ date_string }}", "26 Jul 2024"),
    ],
)
def test_a_chat_template_that_asks_for_the_day_gets_the_same_one_every_day(asking, told):
    tokenizer = AutoTokenizer.from_pretrained(mini_folder())
    tokenizer.chat_template = asking + "|{{ messages[0]['content'] }}|"
    assert chat_wrapper(tokenizer)("Hello") == f"{told}|Hello|"


def test_a_template_of_one_line_ends_behind_its_last_field():
    """Its cue is the same for every row, and a chat's user says the row."""
    task = replace(TOY, plain="{premise} Also: {hypothesis} Right?")
    assert Prompter(task).prompt(ROW).text == "It rains. Also: Wet. Right?"
    assert Prompter(task).cue(ROW) == " Right?"
    assert Prompter(task, chat=lambda text: f"<{text}>").prompt(ROW).text == "<It rains. Also: Wet.> Right?"


@pytest.mark.parametrize("template", [None, ""])
def test_without_chat_template_no_chat(template):
    tokenizer = ChatTokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="--chat"):
        chat_wrapper(tokenizer)
    with pytest.raises(UserError, match="--chat"):
        chat_wrapper(object())


# -- choosing shots ----------------------------------------------------------------------------------------------------


def pool(*counts):
    labels = [label for label, count in zip(TOY.labels, counts, strict=True) for _ in range(count)]
    return [toy(f"premise {i}", label=label, id=str(i)) for i, label in enumerate(labels)]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.tuples(*[st.integers(0, 7)] * 3), st.integers(0, 25), st.integers(0, 2**40))
def test_shots_are_given_rows_balanced_over_the_labels(counts, count, seed):
    rows = pool(*counts)
    if count > len(rows):
        with pytest.raises(UserError, match=f"--shots {count}.*{len(rows)} training rows"):
            choose_shots(TOY, rows, count, seed)
        return
    chosen = choose_shots(TOY, rows, count, seed)
    assert len(chosen) == count
    assert len({shot.id for shot in chosen}) == count
    assert all(any(shot is row for row in rows) for shot in chosen)
    times = Counter(shot.label for shot in chosen)
    most = max(times.values(), default=0)
    for label, there in zip(TOY.labels, counts, strict=True):  # a label with fewer shots than another has no row left
        assert times[label] >= min(most - 1, there)


def test_shots_are_a_function_of_the_seed_alone():
    rows = pool(20, 20, 20)
    first = choose_shots(TOY, rows, 6, seed=3)
    random.seed(1)
    np.random.seed(1)  # the global state must not matter
    assert choose_shots(TOY, rows, 6, seed=3) == first
    assert len({tuple(shot.id for shot in choose_shots(TOY, rows, 6, seed)) for seed in range(20)}) >= 19
    assert choose_shots(replace(TOY, name="toy/other"), rows, 6, seed=3) != first
    assert choose_shots(TOY, rows, 0, seed=3) == ()


def test_shots_come_in_no_fixed_order_of_labels():
    orders = {tuple(shot.label for shot in choose_shots(TOY, pool(9, 9, 9), 3, seed)) for seed in range(60)}
    assert len(orders) == 6
    singles = {choose_shots(TOY, pool(9, 9, 9), 1, seed)[0].label for seed in range(30)}
    assert singles == set(TOY.labels), "which label has one more is drawn too"


@pytest.mark.parametrize("count", [1, 2, 5, 10, 26])
def test_numeric_shots_spread_over_the_scores(count):
    rows = [Example(str(i), {"first": "A", "second": "B"}, f"{i * 5 / 99:.3f}") for i in range(100)]
    random.Random(0).shuffle(rows)
    for seed in range(5):
        chosen = choose_shots(RATING, rows, count, seed)
        assert chosen == choose_shots(RATING, rows, count, seed)
        scores = sorted(float(shot.label) for shot in chosen)
        for i, score in enumerate(scores):  # one from each of `count` equal parts of the sorted scores
            assert 5 * i / count - 0.06 <= score <= 5 * (i + 1) / count + 0.06


# -- fitting -----------------------------------------------------------------------------------------------------------


class Length:
    """Tokens of a text, counted so that a loop without end is found."""

    def __init__(self, count, begin=0):
        self.count, self.begin, self.calls = count, begin, 0

    def __call__(self, text):
        self.calls += 1
        if self.calls > 3000:
            pytest.fail("fitted() does not come to an end")
        return self.begin + self.count(text)


def by_words(text):
    return len(text.split())


def by_bytes(text):
    return len(text.encode())


LENGTHS = {"words": (by_words, 0), "letters": (len, 0), "bytes": (by_bytes, 0), "bytes-and-begin": (by_bytes, 1)}
TWO_FREE = replace(TOY, free=("premise", "hypothesis"))


def test_a_prompt_that_fits_is_left_alone():
    prompter = Prompter(TOY)
    for limit in (by_words(PLAIN), by_words(PLAIN) + 1, 10_000):
        assert prompter.fitted(ROW, by_words, limit) == prompter.prompt(ROW)


def test_the_free_field_is_cut_at_its_end_and_no_more_than_it_must():
    premise = " ".join(f"w{i:03}" for i in range(400))
    prompter = Prompter(TOY, "verdict", (SHOT,))
    bare = by_words(prompter.prompt(toy("", "What is asked.")).text)
    prompt = prompter.fitted(toy(premise, "What is asked."), Length(by_words), bare + 100)
    kept = prompt.text.removeprefix(prompter.prefix).removeprefix("Text: ").split("\nClaim: ")[0]
    assert prompt.cut
    assert premise.startswith(kept + " ")
    assert 95 <= by_words(kept) <= 100
    assert prompt.text == f"{prompter.prefix}Text: {kept}\nClaim: What is asked.\n<verdict>"
    assert prompt.example.fields["premise"] == premise


def test_the_longest_free_field_is_cut_first():
    long, short = " ".join(["long"] * 60), " ".join(["short"] * 10)
    for premise, hypothesis in ((long, short), (short, long)):
        text = Prompter(TWO_FREE).fitted(toy(premise, hypothesis), Length(by_words), 40).text
        assert short in text
        assert 20 <= text.count("long") <= 28  # 40 less 10 short words, "Claim:" and "True?"


FITTED = {"words": st.text("ab \n", max_size=60), "any": st.text(max_size=40), "wide": st.text("🙂é ", max_size=20)}


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    premise=st.one_of(*FITTED.values()),
    hypothesis=st.one_of(*FITTED.values()),
    limit=st.integers(0, 80),
    length=st.sampled_from(sorted(LENGTHS)),
    task=st.sampled_from([TOY, TWO_FREE]),
)
def test_fitting_cuts_free_fields_only_or_says_that_it_cannot(premise, hypothesis, limit, length, task):
    count = Length(*LENGTHS[length])
    prompter, row = Prompter(task), toy(f"p{premise}", f"h{hypothesis}")
    # the shortest that it can become: one letter of each free field
    least = {name: text.strip()[:1] if name in task.free else text for name, text in row.fields.items()}
    try:
        prompt = prompter.fitted(row, count, limit)
    except UserError:
        assert count(prompter.prompt(row, least).text) > limit
        return
    assert count(prompt.text) <= limit
    before, after = prompt.text.removesuffix("\nTrue?"), row.fields["hypothesis"].strip()
    if "hypothesis" in task.free:
        assert "\nClaim: h" in before
        return
    assert before.endswith(f"\nClaim: {after}"), "what is asked must stay whole"
    kept = before.removesuffix(f"\nClaim: {after}")
    assert row.fields["premise"].strip().startswith(kept)
    assert kept
    assert prompt.cut == (kept != row.fields["premise"].strip())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "premise", ["x", "🙂", "🙂🙂🙂", "word " * 30, "w" * 100], ids=["letter", "smile", "smiles", "words", "long-word"]
)
def test_a_prompt_that_cannot_fit_is_an_error_at_once(premise, length):
    with pytest.raises(UserError, match=r"row r of toy/task: .* tokens longer .*--shots"):
        Prompter(TOY).fitted(toy(premise, "This question is too long by itself."), Length(*LENGTHS[length]), 3)


def test_the_question_stays_whole_in_every_shipped_task_that_has_one():
    long = "word " * 300
    for name, kept in (
        ("superglue/boolq", ["question"]),
        ("superglue/multirc", ["question", "answer"]),
        ("superglue/record", ["statement"]),
        ("superglue/copa", ["question", "choice1", "choice2"]),
        ("superglue/wic", ["word"]),
        ("superglue/wsc", ["noun", "pronoun"]),
        ("glue/qnli", ["question"]),
        ("superglue/cb", ["hypothesis"]),
    ):
        task = TASKS[name]
        fields = {field: f"the whole {field}" if field in kept else long for field in task.fields}
        for template in ("plain", "verdict"):
            prompt = Prompter(task, template).fitted(Example("r", fields, None), Length(by_words), 120)
            assert by_words(prompt.text) <= 120
            assert all(f"the whole {field}" in prompt.text for field in kept), name
