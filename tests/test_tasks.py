"""Declarations, parsing and judging, finding tasks by name, the bundled suite. Counts of rows are in test_data.py."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4nlu import data
from rl4nlu.data import HUB
from rl4nlu.errors import UserError
from rl4nlu.metrics import METRICS
from rl4nlu.prompts import OPEN, Prompter
from rl4nlu.tasks import SUITES, TASKS, Example, find, find_all
from rl4nlu.tasks.mini import LEXICONS, ROWS
from rl4nlu.tasks.task import template_fields

OFFICIAL = [name for name, task in TASKS.items() if task.files is not None]
BUNDLED = [name for name, task in TASKS.items() if task.files is None]
WORDED = [name for name, task in TASKS.items() if not task.numeric]
TEMPLATES = ("plain", "verdict")
STSB = TASKS["glue/stsb"]


def nearest_fifth(score: str) -> str:
    """A score rounded to the nearest 0.2, halves up: in decimals, without a float."""
    fifths = (Decimal(score) * 5).quantize(Decimal(1), ROUND_HALF_UP)
    return f"{fifths / 5:.1f}"


def row(task, label):
    return Example("0", dict.fromkeys(task.fields, "text"), label)


# -- declarations ------------------------------------------------------------------------------------------------------


def test_the_suites_are_complete():
    assert SUITES == ("glue", "superglue", "mini")
    assert {name.split("/")[1] for name in TASKS if name.startswith("glue/")} == {
        "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli-mm", "qnli", "rte", "wnli", "ax",
    }  # fmt: skip
    assert {name.split("/")[1] for name in TASKS if name.startswith("superglue/")} == {
        "boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg",
    }  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_every_label_has_a_word_of_its_own(name):
    task = TASKS[name]
    assert set(task.words) == set(task.labels)
    assert len(set(task.labels)) == len(task.labels) >= 2
    words = [task.words[label].casefold() for label in task.labels]
    assert len(set(words)) == len(words)
    for word in words:
        assert word == word.strip() != ""
        inside = [other for other in words if other != word and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", other)]
        assert not inside, f"{word!r} stands in {inside}"
    assert set(task.aliases.values()) <= set(task.labels)
    assert not set(task.aliases) & set(task.labels), "an alias must not be another label's name"


@pytest.mark.parametrize("name", TASKS)
def test_templates_ask_for_fields_that_the_task_has(name):
    task = TASKS[name]
    assert template_fields(task.ask) == ()
    assert set(template_fields(task.plain)) == set(template_fields(task.body)) == set(task.fields)
    if task.expand is None:
        assert set(task.fields) <= set(task.columns), "a template names a field that no column fills"
    assert task.free
    assert set(task.free) <= set(task.fields)
    asked = {"question", "word", "noun", "pronoun", "statement", "answer", "choice1", "choice2"}
    assert not asked & set(task.free) or len(task.fields) == 1, "what is asked must not be cut"
    cue = task.plain.rsplit("\n", 1)[-1]
    assert cue == cue.strip() != "", "answers begin with a space, so the cue must not end with one"


@pytest.mark.parametrize("name", OFFICIAL)
def test_files_metrics_and_teachers_exist(name):
    task = TASKS[name]
    assert set(task.metrics) <= set(METRICS)
    assert task.files.hub[0] in HUB
    assert task.eval_split in task.files.splits
    assert set(task.files.splits) <= {"train", "dev", "test"}
    assert set(task.files.hub_splits) >= set(task.files.splits)
    assert set(task.files.headerless) <= set(task.files.splits)
    teacher = data.training_task(task)
    assert "train" in teacher.files.splits
    assert (teacher is task) == (task.train_task is None)
    assert set(teacher.labels) == set(task.labels)
    assert dict(teacher.words) == dict(task.words)
    assert set(teacher.fields) == set(task.fields)


@pytest.mark.parametrize("name", OFFICIAL)
def test_loader_fills_the_templates(name, real_data):
    task = TASKS[name]
    for split in task.files.splits:
        if data.available(task, split, real_data):
            for example in data.load(task, split, real_data):
                assert set(task.fields) <= set(example.fields)
                assert all(isinstance(text, str) for text in example.fields.values())


@pytest.mark.parametrize("template", ["{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{}", "{0}", "{a b}", "{a", "a}"])
def test_template_with_more_than_bare_names_is_refused(template):
    with pytest.raises(ValueError):  # noqa: PT011 - str.format's own message for unbalanced braces is good enough
        template_fields(template)


def test_template_fields_in_order_with_literal_braces():
    assert template_fields("{b} {{x}} {a}\n{b}") == ("b", "a", "b")
    assert template_fields("none") == ()


# -- gold answers are right, all others wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TASKS)
def test_every_answer_parses_to_its_own_label(name, template):
    task = TASKS[name]
    prompter = Prompter(task, template)
    assert len(set(prompter.answers)) == len(task.labels)
    for answer, label in zip(prompter.answers, task.labels, strict=True):
        assert prompter.finished(answer)
        for text in (answer, answer + "Yes no good bad 3.0", f"{OPEN}{answer}" if template == "verdict" else answer):
            found = prompter.parse(text)
            assert (float(found) == float(label)) if task.numeric else (found == label), (text, found)


def judge_all_rows(task, examples):
    """Gold answer right, every other answer wrong: for each row."""
    for template in TEMPLATES:
        prompter = Prompter(task, template)
        said = [prompter.parse(answer) for answer in prompter.answers]
        for example in examples:
            gold = prompter.prompt(example).gold
            if example.label is None:
                assert gold is None
                assert not any(task.judge(label, example) for label in said)
                continue
            assert task.labels[gold] == (nearest_fifth(example.label) if task.numeric else example.label)
            assert task.judge(said[gold], example)
            if not task.numeric:
                assert [task.judge(label, example) for label in said] == [k == gold for k in range(len(said))]
            assert not task.judge(None, example)


@pytest.mark.parametrize("name", OFFICIAL)
def test_gold_is_right_and_nothing_else_in_every_official_row(name, real_data):
    task = TASKS[name]
    splits = [split for split in task.files.splits if data.available(task, split, real_data)]
    assert splits
    for split in splits:
        judge_all_rows(task, data.load(task, split, real_data))


def test_of_the_26_scores_one_is_right_for_every_official_score(real_data):
    scores = {example.label for split in ("train", "dev") for example in data.load(STSB, split, real_data)}
    assert len(scores) > 100
    for score in scores:
        judged = [label for label in STSB.labels if STSB.judge(label, row(STSB, score))]
        assert judged == [nearest_fifth(score)]


@pytest.mark.parametrize("split", ROWS)
@pytest.mark.parametrize("name", BUNDLED)
def test_gold_is_right_and_nothing_else_in_every_bundled_row(name, split):
    judge_all_rows(TASKS[name], data.load(TASKS[name], split))


def test_scores_are_the_26_fifths_and_halves_go_up():
    assert STSB.labels == tuple(f"{Decimal(i) / 5:.1f}" for i in range(26))
    for thousandths in range(0, 5001, 5):
        score = f"{Decimal(thousandths) / 1000:.3f}"
        assert STSB.nearest(float(score)) == nearest_fifth(score)
    assert [STSB.nearest(x) for x in (0.0, 0.0999, 0.1, 2.5, 3.3, 4.9, 5.0)] == [
        "0.0",
        "0.0",
        "0.2",
        "2.6",
        "3.4",
        "5.0",
        "5.0",
    ]


# -- parsing -----------------------------------------------------------------------------------------------------------

PIECES = [
    *{word for task in TASKS.values() for word in (*task.words.values(), *task.labels)},
    *"\n.,-*'\"_()İß²٣½\x85", " ", "1e", " and ", "<verdict>", "</verdict>",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


@settings(deadline=None, max_examples=500, derandomize=True)
@given(text=TEXTS)
def test_parse_gives_a_label_or_none_for_any_text(text):
    for name in ("glue/rte", "glue/mnli", "glue/sst2", "superglue/copa", "glue/stsb"):
        task = TASKS[name]
        for template in TEMPLATES:
            found = Prompter(task, template).parse(text)
            if task.numeric:
                assert found is None or 0.0 <= float(found) <= 5.0
            else:
                assert found in (None, *task.labels)
            assert task.judge(found, row(task, task.labels[0])) in (True, False)


FRAMES = ("{}", " {}.", "**{}**", "'{}'", '"{}"!', "({})", "{},", "-{}-", "\t{} \r", "Verdict: {}", "{} {}", "{}…")


@pytest.mark.parametrize("name", WORDED)
def test_case_and_punctuation_do_not_matter(name):
    task = TASKS[name]
    for label, word in task.words.items():
        for say in (word, word.upper(), word.lower(), word.title()):
            for text in (
                "{}",
                " {}.",
                "**{}**",
                "'{}'",
                '"{}"!',
                "({})",
                "{},",
                "-{}-",
                "\t{} \r",
                "Verdict: {}",
                "{} {}",
                "{}…",
            ):
                assert task.parse(text.format(say, say)) == label, text.format(say)


@pytest.mark.parametrize("name", WORDED)
def test_two_labels_are_no_answer(name):
    task = TASKS[name]
    for one in task.words.values():
        for other in task.words.values():
            if one != other:
                for text in (
                    f"{one} and {other}",
                    f"{one}/{other}",
                    f"{one}, {other.upper()}",
                    f"{one} or {other} or {one}",
                ):
                    assert task.parse(text) is None


@pytest.mark.parametrize("name", WORDED)
@pytest.mark.parametrize("text", ["", " ", "\n", "?", "perhaps", "xyzzy", "42", "<verdict> </verdict>"])
def test_no_label_is_no_answer(name, text):
    assert TASKS[name].parse(text) is None


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("glue/rte", ("Yesterday", "Nobody", "yesno", "Know", "no1", "no_")),
        ("glue/mnli", ("Maybes", "Notwithstanding")),
        ("glue/sst2", ("goodness", "badly", "abad")),
        ("superglue/copa", ("AB", "Answer", "option1A")),
    ],
)
def test_part_of_a_word_is_no_answer(name, texts):
    assert [TASKS[name].parse(text) for text in texts] == [None] * len(texts)


def test_only_the_first_line_or_what_stands_before_the_tag_counts():
    plain, verdict = Prompter(TASKS["glue/rte"], "plain"), Prompter(TASKS["glue/rte"], "verdict")
    assert plain.parse(" Yes\nNo\nNo") == "entailment"
    assert plain.parse("\n\n No\nYes") == "not_entailment"
    assert plain.parse(" Yes, not No\n") is None
    assert verdict.parse(" No </verdict> Yes </verdict>") == "not_entailment"
    assert verdict.parse("<verdict> Yes </verdict>") == "entailment"
    assert verdict.parse("\nYes\n</verdict>") == "entailment"


def test_when_an_answer_is_finished():
    plain, verdict = Prompter(TASKS["glue/rte"], "plain"), Prompter(TASKS["glue/rte"], "verdict")
    for text, done in (("", False), (" Yes", False), (" \n\n", False), (" Yes\n", True), ("\n Yes\n", True)):
        assert plain.finished(text) == done
    for text, done in ((" Yes </verd", False), (" Yes </verdict>", True), (" </verdict>", True)):
        assert verdict.finished(text) == done


@pytest.mark.parametrize(
    ("words", "text", "label"),
    [
        (("not good", "good"), "It is not good.", "negative"),
        (("not good", "good"), "GOOD", "positive"),
        (("not good", "good"), "not good, but good", None),
        (("C", "C++"), "C++", "positive"),
        (("C", "C++"), "c.", "negative"),
        (("C", "C++"), "C or C++", None),
        (("Fuß", "Straße"), "STRASSE", "positive"),
        (("Fuß", "Straße"), "FUSS.", "negative"),
        (("нет", "да"), "ДА!", "positive"),
        (("нет", "да"), "дано", None),
        (("(.*)", "[a]"), "[A]", "positive"),
        (("(.*)", "[a]"), "anything", None),
    ],
)
def test_words_within_words_and_words_of_any_letters(words, text, label):
    task = replace(TASKS["glue/sst2"], words=dict(zip(("negative", "positive"), words, strict=True)))
    assert task.parse(text) == label


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2.5", 2.5), (" 3\n", 3.0), ("about 4.2.", 4.2), ("0", 0.0), ("5.000", 5.0), ("3.8/", 3.8), ("-0", 0.0)),
        *(("(1.0)", 1.0), ("2.5 2.5", 2.5), ("3.", 3.0), ("03.0", 3.0)),
        *((text, None) for text in ("5.1", "-0.1", "-3", "7", "1000000", "9" * 400, "1e9", "1e0")),
        *((text, None) for text in ("3.0 or 4.0", "0 to 5", "3,5", "3/5", "1.2.3", "v2", "2nd")),
        *((text, None) for text in ("three", "nan", "inf", ".5", "")),
    ],
)
def test_an_answer_to_a_numeric_task_holds_one_number_in_range(text, value):
    found = STSB.parse(text)
    assert (found if found is None else float(found)) == value


@settings(deadline=None, derandomize=True)
@given(number=st.decimals(0, 5, places=3), frame=st.sampled_from(["{}", " {}.", "I say {}\n", "={} of five"]))
def test_a_number_keeps_its_value(number, frame):
    found = STSB.parse(frame.format(number))
    assert found is not None
    assert Decimal(found) == number
    assert STSB.judge(found, row(STSB, nearest_fifth(str(number))))


def test_a_number_of_many_digits_is_not_rounded():
    assert Decimal(STSB.parse("2.0999999")) == Decimal("2.0999999")
    assert STSB.judge(STSB.parse("2.0999999"), row(STSB, "2.0"))


# -- labels of files and hub -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORDED)
def test_labels_are_known_by_name_case_alias_and_hub_number(name):
    task = TASKS[name]
    for number, label in enumerate(task.labels):
        assert task.label_of(number) == label
        for spelling in (label, label.upper(), f" {label} "):
            assert task.label_of(spelling) == label
    for alias, label in task.aliases.items():
        assert task.label_of(alias) == label
    for hidden in (None, "", " ", -1, "-1"):
        assert task.label_of(hidden) is None


@pytest.mark.parametrize("value", ["no such label", 99, -2, "-2", 0.5, [], {}])
def test_unknown_labels_are_refused_with_those_that_are_known(value):
    for task in (TASKS[name] for name in WORDED):
        with pytest.raises(ValueError, match="unknown label") as caught:
            task.label_of(value)
        assert all(label.casefold() in str(caught.value) for label in task.labels)


def test_booleans_are_labels_where_the_labels_are_true_and_false():
    assert [TASKS["superglue/boolq"].label_of(value) for value in (True, False)] == ["True", "False"]
    for name in ("glue/rte", "superglue/copa"):
        with pytest.raises(ValueError, match="unknown label"):
            TASKS[name].label_of(True)


def test_scores_are_kept_as_written_and_checked():
    assert STSB.label_of("4.750") == "4.750"
    assert STSB.label_of(3.8) == "3.8"
    assert STSB.label_of(5) == "5"
    assert [STSB.label_of(hidden) for hidden in (None, -1, -1.0, "-1", "")] == [None] * 5
    for value in ("5.001", "-0.2", "six", "nan", "inf", "1,5"):
        with pytest.raises(ValueError, match="not a number from 0 to 5"):
            STSB.label_of(value)


# -- finding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_by_its_full_name_and_suggested_by_its_short_one(name):
    assert find(name) is TASKS[name]
    with pytest.raises(UserError, match="rl4nlu tasks") as caught:
        find(name.split("/")[1])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("glue/rt", "glue/rte"), ("superglue/bolq", "superglue/boolq"), ("mini/sentimant", "mini/sentiment")],
)
def test_a_slip_is_mended(typo, meant):
    with pytest.raises(UserError, match="did you mean") as caught:
        find(typo)
    assert repr(meant) in str(caught.value)
    assert repr(typo) in str(caught.value)
    with pytest.raises(UserError, match="did you mean"):
        find_all(f"glue/cola,{typo}")


def test_nonsense_gets_no_suggestion():
    with pytest.raises(UserError, match="'zzz'") as caught:
        find("zzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_is_not_one_task(suite):
    with pytest.raises(UserError, match=f"whole suite.*{suite}/"):
        find(suite)


def test_lists_of_tasks_keep_order_and_name_each_once():
    assert [len(find_all(suite)) for suite in SUITES] == [11, 10, 4]
    assert [t.name for t in find_all(" glue/rte ,mini/sentiment,,glue/rte")] == ["glue/rte", "mini/sentiment"]
    assert len(find_all("glue,glue/rte,superglue")) == 21
    assert [t.name for t in find_all("glue/rte,glue")][:2] == ["glue/rte", "glue/cola"]
    for empty in ("", " , "):
        with pytest.raises(UserError, match="--task is empty"):
            find_all(empty)


# -- the bundled suite -------------------------------------------------------------------------------------------------

# written by hand: words that carry grammar, not content
GRAMMAR = {
    *(
        "the",
        "a",
        "an",
        "and",
        "nor",
        "one",
        "it",
        "i",
        "me",
        "we",
        "they",
        "was",
        "is",
        "did",
        "not",
        "that",
        "to",
        "very",
    ),
    *("who", "whom", "whose", "which", "what", "where", "when", "how", "many", "much", "more", "such", "even"),
    *("in", "at", "on", "by", "near", "behind", "before", "from", "with", "for", "of", "last"),
}
# the kinds to which a claim may widen a noun stand in both splits: a kind never seen could not be known
KINDS = {"animal", "bird", "fruit", "piece", "furniture", "clothing"}


def rows_of(name, split):
    return [(e.id, *e.fields.values(), e.label) for e in data.load(TASKS[name], split)]


def words_of(name, split):
    return {
        word for _, *texts, _ in rows_of(name, split) for text in texts for word in re.findall(r"[\w']+", text.lower())
    }


def digest():
    rows = [rows_of(name, split) for name in BUNDLED for split in ROWS]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_bundled_rows_are_the_same_in_every_process():
    assert digest() == digest()
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_tasks import digest; print(digest())"
    command, environment = (
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        {**os.environ, "PYTHONHASHSEED": "7"},
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sizes_balance_and_no_row_twice(name):
    task = TASKS[name]
    assert ROWS == {"train": 1200, "dev": 200}
    seen = set()
    for split, count in ROWS.items():
        examples = data.load(task, split)
        assert [e.id for e in examples] == [str(i) for i in range(count)]
        times = Counter(e.label for e in examples)
        for label in task.labels:  # of two labels each has 40 to 60 percent of the rows
            assert 0.8 <= times[label] * len(task.labels) / count <= 1.2, (split, label)
        for example in examples:
            assert set(example.fields) == set(task.fields)
            key = tuple(example.fields.values())
            assert key not in seen, f"row twice: {key}"
            seen.add(key)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_splits_share_no_word_with_content(name):
    shared = words_of(name, "train") & words_of(name, "dev")
    allowed = GRAMMAR | KINDS if name == "mini/entailment" else GRAMMAR
    assert shared <= allowed, sorted(shared - allowed)


def test_lexicons_share_no_word_with_content():
    train, dev = (
        {
            word
            for words in (x.names, x.nouns, x.places, x.times, x.colours, x.good, x.bad, x.subjects, *x.verbs)
            for entry in words
            for word in entry.lower().split()
        }
        for x in (LEXICONS["train"], LEXICONS["dev"])
    )
    assert train & dev <= GRAMMAR, sorted(train & dev - GRAMMAR)
    for lexicon in LEXICONS.values():
        assert not set(lexicon.good) & set(lexicon.bad)


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("split", ROWS)
def test_bundled_articles_fit_their_nouns(name, split):
    if name == "mini/acceptability":  # half its rows are wrong on purpose
        return
    for example in data.load(TASKS[name], split):
        for text in example.fields.values():
            assert not re.search(r"\b[aA] [aeiou]|\b[aA]n [^aeiou]", text), text
            assert re.fullmatch(r"[A-Z].*[.!?]", text), text


@pytest.mark.parametrize("split", ROWS)
def test_bundled_labels_are_true(split):
    """By rules that do not look at how the rows were made."""
    lexicon = LEXICONS[split]
    for example in data.load(TASKS["mini/sentiment"], split):
        words = set(re.findall(r"\w+", example.fields["sentence"]))
        assert bool(words & set(lexicon.good)) == (example.label == "positive")
        assert bool(words & set(lexicon.bad)) == (example.label == "negative")
    signs = {
        "number": r"\bhow (many|much|far|old|long)\b|\bnumber\b",
        "time": r"\b(when|day|date|hour|month|year)\b",
        "place": r"\b(where|place|town|city|village|country|room)\b",
        "person": r"\b(who|whom|whose|man|woman|girl)\b",
    }
    for example in data.load(TASKS["mini/question"], split):
        question = example.fields["question"].lower()
        assert [label for label, sign in signs.items() if re.search(sign, question)] == [example.label], question
    pasts = [past for _, past in lexicon.verbs]
    parts = (lexicon.names, pasts, ["the"], lexicon.colours, lexicon.nouns, lexicon.places)
    clause = re.compile(" ".join(f"({'|'.join(part)})" for part in parts) + r"\.")
    for example in data.load(TASKS["mini/acceptability"], split):
        assert bool(clause.fullmatch(example.fields["sentence"])) == (example.label == "acceptable")
    for example in data.load(TASKS["mini/entailment"], split):
        name, verb, one, two = re.match(r"(\w+) (\w+) an? (\w+) and an? (\w+) ", example.fields["premise"]).groups()
        true = {f"{name} {verb} {noun}" for thing in (one, two) for noun in (thing, lexicon.kinds.get(thing, thing))}
        claim = re.sub(r" an? ", " ", example.fields["claim"].rstrip("."))
        assert (claim in true) == (example.label == "entailment"), example.fields
