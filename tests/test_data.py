"""Official files row by row, small files with every trap and every fault, the hub's schemas."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from official_files import make
from rl4nlu import data
from rl4nlu.errors import UserError
from rl4nlu.tasks import TASKS, find

# -- the official files ------------------------------------------------------------------------------------------------

# rows by label, from the data sets' papers and from counting their official files; None: the labels are hidden
LABELS = {
    ("glue/cola", "train"): {"acceptable": 6023, "unacceptable": 2528},
    ("glue/cola", "dev"): {"acceptable": 721, "unacceptable": 322},
    ("glue/cola", "test"): {None: 1063},
    ("glue/sst2", "train"): {"positive": 37569, "negative": 29780},
    ("glue/sst2", "dev"): {"positive": 444, "negative": 428},
    ("glue/sst2", "test"): {None: 1821},
    ("glue/mrpc", "train"): {"same": 2474, "different": 1194},
    ("glue/mrpc", "dev"): {"same": 279, "different": 129},
    ("glue/mrpc", "test"): {None: 1725},
    ("glue/stsb", "test"): {None: 1379},
    ("glue/qnli", "dev"): {"entailment": 2702, "not_entailment": 2761},
    ("glue/qnli", "test"): {None: 5463},
    ("glue/rte", "train"): {"entailment": 1249, "not_entailment": 1241},
    ("glue/rte", "dev"): {"entailment": 146, "not_entailment": 131},
    ("glue/rte", "test"): {None: 3000},
    ("glue/wnli", "train"): {"entailment": 312, "not_entailment": 323},
    ("glue/wnli", "dev"): {"entailment": 31, "not_entailment": 40},
    ("glue/wnli", "test"): {None: 146},
    ("glue/ax", "test"): {"entailment": 460, "neutral": 386, "contradiction": 258},
    ("superglue/boolq", "dev"): {"True": 2033, "False": 1237},
    ("superglue/boolq", "test"): {None: 3245},
    ("superglue/cb", "train"): {"entailment": 115, "contradiction": 119, "neutral": 16},
    ("superglue/cb", "dev"): {"entailment": 23, "contradiction": 28, "neutral": 5},
    ("superglue/cb", "test"): {None: 250},
    ("superglue/copa", "train"): {"0": 195, "1": 205},
    ("superglue/copa", "dev"): {"0": 55, "1": 45},
    ("superglue/copa", "test"): {None: 500},
    ("superglue/multirc", "train"): {"True": 12025, "False": 15218},
    ("superglue/multirc", "dev"): {"True": 2075, "False": 2773},
    ("superglue/multirc", "test"): {None: 9693},
    ("superglue/rte", "train"): {"entailment": 1249, "not_entailment": 1241},
    ("superglue/rte", "dev"): {"entailment": 146, "not_entailment": 131},
    ("superglue/rte", "test"): {None: 3000},
    ("superglue/wic", "train"): {"True": 2714, "False": 2714},
    ("superglue/wic", "dev"): {"True": 319, "False": 319},
    ("superglue/wic", "test"): {None: 1400},
    ("superglue/wsc", "train"): {"True": 259, "False": 295},
    ("superglue/wsc", "dev"): {"True": 38, "False": 66},
    ("superglue/wsc", "test"): {None: 146},
    ("superglue/axb", "test"): {"entailment": 460, "not_entailment": 644},
    ("superglue/axg", "test"): {"entailment": 178, "not_entailment": 178},
}
# rows of the splits without fixed label counts: of a subset where one may be at hand, then the official ones
ROWS = {
    ("glue/stsb", "train"): (5749,),
    ("glue/stsb", "dev"): (1500,),
    ("glue/qqp", "train"): (20000, 363846),
    ("glue/qqp", "dev"): (3497, 40430),
    ("glue/qnli", "train"): (320, 104743),
    ("glue/mnli", "train"): (240, 392702),
    ("glue/mnli", "dev"): (240, 9815),
    ("glue/qqp", "test"): (390965,),
    ("glue/mnli", "test"): (9796,),
    ("superglue/boolq", "train"): (64, 9427),
}
DECLARED = [(name, split) for name, task in TASKS.items() if task.files for split in task.files.splits]


def official(real_data, name, split):
    if not data.available(TASKS[name], split, real_data):
        pytest.skip(f"the data at hand has no {split} rows of {name}")
    return data.load(TASKS[name], split, real_data)


@pytest.mark.parametrize(("name", "split"), LABELS)
def test_official_rows_by_label(name, split, real_data):
    examples = official(real_data, name, split)
    assert Counter(example.label for example in examples) == LABELS[name, split]
    assert len({example.id for example in examples}) == len(examples)


@pytest.mark.parametrize(("name", "split"), ROWS)
def test_rows_of_the_other_splits(name, split, real_data):
    examples = official(real_data, name, split)
    assert len(examples) in ROWS[name, split]
    assert split == "test" or None not in {example.label for example in examples}


def test_no_split_of_the_real_data_is_left_unchecked(real_data):
    at_hand = {(name, split) for name, split in DECLARED if data.available(TASKS[name], split, real_data)}
    elsewhere = {"superglue/record", "glue/mnli-mm"}  # ReCoRD below; mismatched MNLI trains on MNLI's own file
    assert {pair for pair in at_hand if pair[0] not in elsewhere} <= LABELS.keys() | ROWS.keys()
    assert at_hand >= LABELS.keys()


@pytest.mark.parametrize("split", ["train", "dev"])
def test_stsb_scores_equal_the_original_benchmark(split, real_data):
    original = real_data / "glue" / "STS-B" / "original" / f"sts-{split}.tsv"
    if not original.is_file():
        pytest.skip("the original STS benchmark is not at hand")
    lines = [line.split("\t") for line in original.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    examples = official(real_data, "glue/stsb", split)
    assert [example.label for example in examples] == [cells[4] for cells in lines]
    assert [example.fields["first"] for example in examples] == [cells[5].strip() for cells in lines]


def test_cola_equals_the_original_release(real_data):
    raw = real_data / "glue" / "CoLA" / "original" / "raw"
    if not raw.is_dir():
        pytest.skip("the original CoLA release is not at hand")
    for split, parts in (("train", ["in_domain_train"]), ("dev", ["in_domain_dev", "out_of_domain_dev"])):
        text = "\n".join((raw / f"{part}.tsv").read_text("utf-8").rstrip("\n") for part in parts)
        original = [line.split("\t") for line in text.split("\n")]
        examples = official(real_data, "glue/cola", split)
        assert [e.fields["sentence"] for e in examples] == [cells[3] for cells in original]
        assert [e.label == "acceptable" for e in examples] == [cells[1] == "1" for cells in original]


def test_both_suites_tell_the_same_rte_and_diagnostics(real_data):
    for split in ("train", "dev"):
        glue, superglue = (official(real_data, f"{suite}/rte", split) for suite in ("glue", "superglue"))
        assert [e.label for e in glue] == [e.label for e in superglue]
    three, two = official(real_data, "glue/ax", "test"), official(real_data, "superglue/axb", "test")
    assert [e.label == "entailment" for e in three] == [e.label == "entailment" for e in two]


def test_mrpc_keeps_quotes_and_loses_the_mark(real_data):
    first = official(real_data, "glue/mrpc", "dev")[0]
    assert first.fields == {
        "first": "He said the foodservice pie business doesn't fit the company's long-term growth strategy.",
        "second": '"The foodservice pie business does not fit our long-term growth strategy.',
    }
    assert first.label == "same"


def test_multirc_groups_are_questions(real_data):
    for split, (passages, questions) in {"train": (456, 5131), "dev": (83, 953), "test": (166, 1820)}.items():
        examples = official(real_data, "superglue/multirc", split)
        assert len({example.group for example in examples}) == questions
        assert len({example.meta["paragraph"] for example in examples}) == passages
        same = defaultdict(set)
        for example in examples:
            same[example.group].add((example.fields["passage"], example.fields["question"]))
        assert {len(texts) for texts in same.values()} == {1}


@pytest.mark.parametrize("split", ["train", "dev"])
def test_record_has_a_row_for_each_query_and_entity(split, real_data):
    examples = official(real_data, "superglue/record", split)
    file = real_data / "superglue" / "ReCoRD" / {"train": "train.jsonl", "dev": "val.jsonl"}[split]
    groups = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    queries = 0
    for line in file.read_text("utf-8").rstrip("\n").split("\n"):
        story = json.loads(line)
        text = story["passage"]["text"]
        names = {text[e["start"] : e["end"] + 1] for e in story["passage"]["entities"]}
        for query in story["qas"]:
            queries += 1
            group, gold = groups[str(query["idx"])], {answer["text"] for answer in query["answers"]}
            assert {e.meta["entity"] for e in group} == names
            assert len(group) == len(names)
            assert {e.meta["entity"] for e in group if e.label == "True"} == gold & names != set()
            for e in group:
                assert e.fields["statement"] == query["query"].replace("@placeholder", e.meta["entity"])
                assert "@" not in e.fields["statement"] or "@" in query["query"].replace("@placeholder", "")
    assert len(groups) == queries


def test_axg_pairs_differ_in_gender_only(real_data):
    neuter = {"he": "it", "she": "it", "him": "it", "her": "it", "his": "it", "herself": "himself"}
    pairs = defaultdict(list)
    for example in official(real_data, "superglue/axg", "test"):
        words = [re.findall(r"\w+", example.fields[name].lower()) for name in ("premise", "hypothesis")]
        pairs[example.group].append((example.label, [[neuter.get(word, word) for word in text] for text in words]))
    assert len(pairs) == 178
    for pair in pairs.values():
        assert len(pair) == 2
        assert pair[0] == pair[1]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_wsc_marks_both_spans_and_changes_nothing_else(split, real_data):
    file = real_data / "superglue" / "WSC" / {"train": "train.jsonl", "dev": "val.jsonl", "test": "test.jsonl"}[split]
    rows = [json.loads(line) for line in file.read_text("utf-8").rstrip("\n").split("\n")]
    marked_where_told = 0
    for example, row in zip(official(real_data, "superglue/wsc", split), rows, strict=True):
        marked, words = example.fields["text"], row["text"].split()
        assert marked.count("*") - row["text"].count("*") == 4
        assert marked.replace("*", "").split() == row["text"].replace("*", "").split()
        spans = [(row["target"][f"span{n}_index"], row["target"][f"span{n}_text"].split()) for n in (1, 2)]
        if all(words[i : i + len(span)] == span for i, span in spans):
            for i, span in spans:
                words[i] = "*" + words[i]
                words[i + len(span) - 1] += "*"
            assert marked == " ".join(words)
            marked_where_told += 1
    assert marked_where_told > len(rows) / 2


# -- small files -------------------------------------------------------------------------------------------------------

RTE, COLA, BOOLQ, STSB, MULTIRC = (
    TASKS[n] for n in ("glue/rte", "glue/cola", "superglue/boolq", "glue/stsb", "superglue/multirc")
)
HEAD = "index\tsentence1\tsentence2\tlabel\n"
GOOD = "7\tIt rains.\tIt is wet.\tentailment\n"
QUESTION = {"question": "is it wet", "passage": "It rains.", "idx": 0, "label": True}


def write(root: Path, name: str, content: str | bytes) -> Path:
    """A file below an official layout; returns the layout's root."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return root


def rte(root: Path, content: str | bytes, split: str = "train"):
    return data.load(RTE, split, write(root, f"glue/RTE/{split}.tsv", content))


def boolq(root: Path, content: str | bytes, split: str = "train"):
    return data.load(BOOLQ, split, write(root, f"superglue/BoolQ/{split}.jsonl", content))


@pytest.mark.parametrize(
    ("before", "end", "final"),
    [
        (b"", "\n", True),
        (b"\xef\xbb\xbf", "\n", True),
        (b"", "\r\n", True),
        (b"\xef\xbb\xbf", "\r\n", False),
        (b"", "\n", False),
    ],
    ids=["plain", "mark", "crlf", "mark-crlf-no-final", "no-final"],
)
def test_marks_and_line_ends_change_nothing(before, end, final, tmp_path):
    text = (HEAD + GOOD + GOOD.replace("7", "8")).replace("\n", end)
    examples = rte(tmp_path, before + (text if final else text.removesuffix(end)).encode())
    assert [e.id for e in examples] == ["7", "8"]
    assert {e.label for e in examples} == {"entailment"}
    assert examples[0].fields == {"premise": "It rains.", "hypothesis": "It is wet."}
    line = json.dumps(QUESTION)
    both = boolq(tmp_path, before + (line + end + line + (end if final else "")).encode())
    assert [(e.label, e.fields["passage"]) for e in both] == [("True", "It rains.")] * 2


@pytest.mark.parametrize(
    "char", ['"', "'", '""', "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x00", "\r", "\\n", "{x}", "🙂"]
)
def test_no_character_but_tab_and_line_feed_divides(char, tmp_path):
    inside = f"It{char}rains {char}."
    (example,) = rte(tmp_path, HEAD + f"0\t{inside}\t{char}Wet\tnot_entailment\n")
    assert example.fields == {"premise": inside, "hypothesis": f"{char}Wet"}
    assert example.label == "not_entailment"
    (example,) = boolq(tmp_path, json.dumps({**QUESTION, "passage": inside}, ensure_ascii=False) + "\n")
    assert example.fields["passage"] == inside


def test_cola_train_has_no_header_and_test_has_one(tmp_path):
    write(tmp_path, "glue/CoLA/train.tsv", "gj04\t1\t\tWe left.\ngj04\t0\t*\tWe leaved to.")
    write(tmp_path, "glue/CoLA/test.tsv", "index\tsentence\n5\tWe left.\n")
    train, test = (data.load(COLA, split, tmp_path) for split in ("train", "test"))
    assert [(e.id, e.fields["sentence"], e.label) for e in train] == [
        ("0", "We left.", "acceptable"),
        ("1", "We leaved to.", "unacceptable"),
    ]
    assert [(e.id, e.fields["sentence"], e.label) for e in test] == [("5", "We left.", None)]


def test_further_columns_and_another_order_are_harmless(tmp_path):
    (example,) = rte(tmp_path, "label\tnote\tsentence2\tsentence1\nENTAILMENT\t\tIt is wet.\tIt rains.\n")
    assert example.fields == {"premise": "It rains.", "hypothesis": "It is wet."}
    assert (example.id, example.label) == ("0", "entailment")


def test_hidden_labels_are_allowed_in_test_only(tmp_path):
    hidden = "index\tsentence1\tsentence2\n7\tIt rains.\tIt is wet.\n"
    (example,) = rte(tmp_path, hidden, "test")
    assert example.label is None
    for split in ("train", "dev"):
        with pytest.raises(UserError, match=rf"{split}\.tsv:2: no label"):
            rte(tmp_path, hidden, split)


def test_diagnostic_set_prefers_the_file_with_labels(tmp_path):
    write(tmp_path, "glue/AX/diagnostic.tsv", "index\tsentence1\tsentence2\n4\tA.\tB.\n")
    assert [(e.id, e.label) for e in data.load(TASKS["glue/ax"], "test", tmp_path)] == [("4", None)]
    write(tmp_path, "glue/AX/diagnostic-full.tsv", "Logic\tPremise\tHypothesis\tLabel\n\tA.\tB.\tneutral\n")
    assert [(e.id, e.label) for e in data.load(TASKS["glue/ax"], "test", tmp_path)] == [("0", "neutral")]


def test_wsc_spans_that_miss_their_index(tmp_path):
    target = {"span1_text": "The cat", "span1_index": 0, "span2_text": "it", "span2_index": 7}
    row = {"text": "The cat saw it , and it ran off.", "target": target, "idx": 3, "label": False}
    write(tmp_path, "superglue/WSC/train.jsonl", json.dumps(row))
    (example,) = data.load(TASKS["superglue/wsc"], "train", tmp_path)
    assert example.fields["text"] == "*The cat* saw it , and *it* ran off."
    assert (example.fields["noun"], example.fields["pronoun"], example.label, example.id) == (
        "The cat",
        "it",
        "False",
        "3",
    )


def test_limit_takes_the_first_rows(tmp_path):
    text = HEAD + "".join(GOOD.replace("7", str(i)) for i in range(5))
    write(tmp_path, "glue/RTE/train.tsv", text)
    for limit, count in ((1, 1), (3, 3), (5, 5), (9, 5), (None, 5)):
        assert [e.id for e in data.load(RTE, "train", tmp_path, limit)] == [str(i) for i in range(count)]
    passage = {
        "text": "P",
        "questions": [
            {"idx": q, "question": "Q?", "answers": [{"idx": a, "text": "A", "label": 1} for a in range(3)]}
            for q in range(2)
        ],
    }
    write(tmp_path, "superglue/MultiRC/train.jsonl", json.dumps({"idx": 9, "passage": passage}))
    assert [e.id for e in data.load(MULTIRC, "train", tmp_path, limit=4)] == ["9-0-0", "9-0-1", "9-0-2", "9-1-0"]
    mini = TASKS["mini/entailment"]
    assert data.load(mini, "dev", limit=7) == data.load(mini, "dev")[:7]


# -- bad files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("", None, "empty"),
        (b"\xef\xbb\xbf", None, "empty"),
        (HEAD.encode() + b"7\tIt r\xe4ins.\tWet\tentailment\n", None, "UTF-8"),
        (HEAD.encode("utf-16"), None, "UTF-8"),
        (HEAD + GOOD + "8\tIt rains.\tentailment\n", 3, "3 columns, and 4"),
        (HEAD + GOOD.replace(".\t", ".\t\t"), 2, "columns, and 4"),
        (HEAD + GOOD + "\n" + GOOD, 3, "1 columns, and 4"),
        ("index\tsentence1\tlabel\n7\tIt rains.\tentailment\n", 2, "'sentence2'"),
        (HEAD.replace("\t", ",") + GOOD.replace("\t", ","), 2, "'sentence1'"),
        (HEAD + GOOD + GOOD.replace("entailment", "perhaps"), 3, "unknown label 'perhaps'"),
        (HEAD + GOOD.replace("entailment", "1"), 2, "unknown label '1'"),
        (HEAD + GOOD.replace("entailment", ""), 2, "no label"),
        (HEAD + GOOD.replace("entailment", "-1"), 2, "no label"),
        (HEAD + GOOD.replace("It rains.", " "), 2, "'premise' is empty"),
        (HEAD + GOOD.replace("It is wet.", ""), 2, "'hypothesis' is empty"),
    ],
    ids=range(15),
)
def test_bad_tsv_is_named_by_file_line_and_fault(content, line, says, tmp_path):
    with pytest.raises(UserError) as caught:
        rte(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "glue" / "RTE" / "train.tsv") + (f":{line}: " if line else "") in message
    assert says in message


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("", None, "empty"),
        (b'{"question": "\xff"}', None, "UTF-8"),
        (json.dumps(QUESTION) + "\n{'question': 1}\n", 2, "not a JSON object"),
        (json.dumps(QUESTION)[:-1], 1, "not a JSON object"),
        (json.dumps(QUESTION) * 2, 1, "not a JSON object"),
        (json.dumps(QUESTION) + "\n\n" + json.dumps(QUESTION), 2, "not a JSON object"),
        (json.dumps([QUESTION], indent=1), 1, "not a JSON object"),
        ('{"idx": ' + "1" * 5000 + "}", 1, "JSON"),  # beyond Python's limit of digits
        ("[" * 100_000, 1, "JSON"),  # beyond its limit of recursion
        (json.dumps([QUESTION]), 1, "list"),
        ('"text"', 1, "str"),
        ("null", 1, "an object is needed"),
        (json.dumps({**QUESTION, "label": "perhaps"}), 1, "unknown label 'perhaps'"),
        (json.dumps({**QUESTION, "label": None}), 1, "no label"),
        (json.dumps({**QUESTION, "label": 2}), 1, "unknown label '2'"),
        (json.dumps({**QUESTION, "passage": None}), 1, "'passage'"),
        (json.dumps({**QUESTION, "passage": ["a"]}), 1, "'passage'"),
        (json.dumps({**QUESTION, "question": ""}), 1, "'question' is empty"),
        (json.dumps({"question": "is it", "label": True}), 1, "'passage'"),
        (json.dumps({"question": "is it", "passage": "It is."}), 1, "no label"),
    ],
    ids=range(20),
)
def test_bad_jsonl_is_named_by_file_line_and_fault(content, line, says, tmp_path):
    with pytest.raises(UserError) as caught:
        boolq(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "superglue" / "BoolQ" / "train.jsonl") + (f":{line}: " if line else "") in message
    assert says in message


@pytest.mark.parametrize("score", ["5.1", "-0.5", "high", "nan", ""])
def test_scores_out_of_range_are_named(score, tmp_path):
    write(
        tmp_path, "glue/STS-B/train.tsv", f"index\tsentence1\tsentence2\tscore\n0\tA.\tB.\t5.000\n1\tA.\tB.\t{score}\n"
    )
    with pytest.raises(UserError, match=r"STS-B/train\.tsv:3: .*a number from 0(\.0)? to 5") as caught:
        data.load(STSB, "train", tmp_path)
    assert (repr(score) if score else "no label") in str(caught.value)


def test_a_header_without_rows_is_no_data(tmp_path):
    with pytest.raises(UserError, match="no train row") as caught:
        rte(tmp_path, HEAD)
    assert str(tmp_path) in str(caught.value)
    assert "glue/rte" in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder") as caught:
        data.load(RTE, "train", tmp_path / "nowhere")
    assert "glue/RTE" in str(caught.value)
    with pytest.raises(UserError, match="no such file") as caught:
        data.load(RTE, "train", tmp_path)
    assert str(tmp_path / "glue" / "RTE" / "train.tsv") in str(caught.value)
    (tmp_path / "glue" / "RTE" / "train.tsv").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        data.load(RTE, "train", tmp_path)
    assert str(tmp_path / "glue" / "RTE" / "train.tsv") in str(caught.value)
    with pytest.raises(UserError, match="is a folder"):
        data.read_rows(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        data.read_rows(tmp_path / "rows.tsv")


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("glue/rte", "validation", "choose train, dev or test"),
        ("glue/ax", "train", "glue/mnli"),
        ("superglue/axg", "dev", "superglue/rte"),
        ("mini/sentiment", "test", "train and dev"),
    ],
)
def test_splits_that_a_task_does_not_have(name, split, says, tmp_path):
    with pytest.raises(UserError, match="split") as caught:
        data.load(TASKS[name], split, tmp_path)
    assert says in str(caught.value)
    assert repr(split) in str(caught.value) or split in str(caught.value)


# rows of the tasks whose files are not read one row an example
NESTED = {
    "superglue/multirc": {
        "idx": 1,
        "passage": {
            "text": "P.",
            "questions": [{"idx": 2, "question": "Q?", "answers": [{"idx": 3, "text": "A", "label": 1}]}],
        },
    },
    "superglue/record": {
        "idx": 1,
        "passage": {"text": "Ann left.", "entities": [{"start": 0, "end": 2}]},
        "qas": [{"idx": 2, "query": "@placeholder left.", "answers": [{"start": 0, "end": 2, "text": "Ann"}]}],
    },
    "superglue/wsc": {
        "idx": 1,
        "text": "Ann said she left.",
        "target": {"span1_index": 0, "span1_text": "Ann", "span2_index": 2, "span2_text": "she"},
        "label": True,
    },
    "superglue/axg": {"idx": 1, "premise": "P.", "hypothesis": "H.", "label": "entailment"},
}


def places(value, path=()):
    """Every place in a nested JSON value but the root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(value, path, new):
    """A deep copy with `new` at `path`, or without that place where `new` is ..."""
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return copy


@pytest.mark.parametrize("name", NESTED)
def test_a_fault_anywhere_in_a_nested_row_is_named_or_harmless(name, tmp_path):
    """Whatever stands in a row: a message with file and line, or examples whose fields are all text."""
    task, split = TASKS[name], "test" if name == "superglue/axg" else "train"
    file = f"superglue/{task.files.folder}/{task.files.splits[split]}"
    assert data.load(task, split, write(tmp_path, file, json.dumps(NESTED[name])))
    faults = []
    for path in places(NESTED[name]):
        for new in (..., None, 5, "text", [], {}):
            write(tmp_path, file, json.dumps(changed(NESTED[name], path, new)))
            try:
                examples = data.load(task, split, tmp_path)
            except UserError as wrong:
                if f"{file}:1: " not in str(wrong) and f"no {split} row" not in str(wrong):
                    faults.append(f"{path} = {new!r}: {wrong}")
            except Exception as wrong:
                faults.append(f"{path} = {new!r}: {type(wrong).__name__}: {wrong}")
            else:
                if not all(isinstance(text, str) for e in examples for text in e.fields.values()):
                    faults.append(f"{path} = {new!r}: {examples[0].fields}")
    assert not faults, "\n".join(faults)


def test_an_empty_answer_is_no_fault():
    """The official MultiRC files hold four."""
    row = changed(NESTED["superglue/multirc"], ("passage", "questions", 0, "answers", 0, "text"), "")
    (example,) = MULTIRC.expand(MULTIRC, row)
    assert example.fields["answer"] == ""


# -- what is there, who teaches ----------------------------------------------------------------------------------------


def test_available(tmp_path):
    write(tmp_path, "glue/RTE/dev.tsv", HEAD + GOOD)
    assert data.available(RTE, "dev", tmp_path)
    assert not data.available(RTE, "train", tmp_path)
    assert not data.available(RTE, "dev", tmp_path / "nowhere")
    assert data.available(RTE, "train", None)
    assert not data.available(TASKS["glue/ax"], "train", None)
    assert data.available(TASKS["mini/sentiment"], "dev", tmp_path)
    assert not data.available(TASKS["mini/sentiment"], "test", None)


def test_training_task():
    teachers = {name: data.training_task(task).name for name, task in TASKS.items()}
    other = {name: teacher for name, teacher in teachers.items() if name != teacher}
    assert other == {
        "glue/mnli-mm": "glue/mnli",  # the same training rows
        "glue/ax": "glue/mnli",
        "superglue/axb": "superglue/rte",
        "superglue/axg": "superglue/rte",
    }


def test_rows_to_predict_name_the_template_fields():
    example = data.example_from_fields(RTE, {"premise": "P", "hypothesis": "H", "note": 1}, "in.jsonl:4")
    assert (example.id, example.fields, example.label) == ("4", {"premise": "P", "hypothesis": "H"}, None)
    assert data.example_from_fields(RTE, {"premise": "P", "hypothesis": "H", "id": 0}, "in.jsonl:4").id == "0"
    for row in ({"premise": "P"}, {"premise": "P", "hypothesis": " "}, {"premise": "P", "hypothesis": None}, {}):
        with pytest.raises(UserError, match=r"in\.jsonl:4: .*(hypothesis|premise)"):
            data.example_from_fields(RTE, row, "in.jsonl:4")


def test_a_number_to_predict_may_be_zero():
    example = data.example_from_fields(TASKS["superglue/wic"], {"word": 0, "first": "a 0", "second": 0}, "in.jsonl:1")
    assert example.fields == {"word": "0", "first": "a 0", "second": "0"}


# -- the hub -----------------------------------------------------------------------------------------------------------


def hub_rows(count, **columns):
    """Rows in a schema of the hub, one label number each."""
    return [{**columns, "label": i, "idx": i} for i in range(count)]


PAIR = {"sentence1": "One.", "sentence2": "Two."}
NLI = {"premise": "One.", "hypothesis": "Two."}
# task -> configuration, rows with every label number in order, the labels that these numbers mean on the hub's cards
SCHEMAS = {
    "glue/cola": ("cola", hub_rows(2, sentence="One."), ["unacceptable", "acceptable"]),
    "glue/sst2": ("sst2", hub_rows(2, sentence="One."), ["negative", "positive"]),
    "glue/mrpc": ("mrpc", hub_rows(2, **PAIR), ["different", "same"]),
    "glue/qqp": ("qqp", hub_rows(2, question1="One?", question2="Two?"), ["different", "duplicate"]),
    "glue/mnli": ("mnli", hub_rows(3, **NLI), ["entailment", "neutral", "contradiction"]),
    "glue/mnli-mm": ("mnli", hub_rows(3, **NLI), ["entailment", "neutral", "contradiction"]),
    "glue/ax": ("ax", hub_rows(3, **NLI), ["entailment", "neutral", "contradiction"]),
    "glue/qnli": ("qnli", hub_rows(2, question="One?", sentence="Two."), ["entailment", "not_entailment"]),
    "glue/rte": ("rte", hub_rows(2, **PAIR), ["entailment", "not_entailment"]),
    "glue/wnli": ("wnli", hub_rows(2, **PAIR), ["not_entailment", "entailment"]),
    "superglue/boolq": ("boolq", hub_rows(2, question="is it", passage="One."), ["False", "True"]),
    "superglue/cb": ("cb", hub_rows(3, **NLI), ["entailment", "contradiction", "neutral"]),
    "superglue/copa": (
        "copa",
        hub_rows(2, premise="One.", choice1="Two.", choice2="Three.", question="cause"),
        ["0", "1"],
    ),
    "superglue/rte": ("rte", hub_rows(2, **NLI), ["entailment", "not_entailment"]),
    "superglue/wic": (
        "wic",
        hub_rows(2, word="one", **PAIR, start1=0, start2=0, end1=3, end2=3),
        ["False", "True"],
    ),
    "superglue/wsc": (
        "wsc.fixed",
        hub_rows(2, text="Ann said she left.", span1_index=0, span2_index=2, span1_text="Ann", span2_text="she"),
        ["False", "True"],
    ),
    "superglue/axb": ("axb", hub_rows(2, **PAIR), ["entailment", "not_entailment"]),
    "superglue/axg": ("axg", hub_rows(2, **NLI), ["entailment", "not_entailment"]),
}  # fmt: skip
MULTIRC_ROWS = [
    {
        "paragraph": "P.",
        "question": "Q?",
        "answer": f"A{a}",
        "label": a,
        "idx": {"paragraph": 4, "question": 7, "answer": a},
    }
    for a in range(2)
]
RECORD_ROW = {
    "passage": "Ann met Bob.\n@highlight\nAnn left",
    "query": "@placeholder left.",
    "entities": ["Ann", "Bob", "Ann"],
    "entity_spans": {"text": ["Ann", "Bob", "Ann"], "start": [0, 8, 13], "end": [3, 11, 16]},
    "answers": ["Ann"],
    "idx": {"passage": 2, "query": 5},
}


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers with the rows put into it and notes what it was asked."""

    class Hub:
        rows: list = []
        asked: list = []

        def load_dataset(self, path, name=None, *, split, revision):
            self.asked.append((path, name, split, revision))
            return self.rows

    fake = Hub()
    fake.asked = []
    monkeypatch.setattr("datasets.load_dataset", fake.load_dataset)
    return fake


@pytest.mark.parametrize("name", SCHEMAS)
def test_hub_schemas_and_label_numbers(name, hub):
    config, hub.rows, labels = SCHEMAS[name]
    task = TASKS[name]
    examples = data.load(task, task.eval_split)
    assert [e.label for e in examples] == labels
    assert [e.id for e in examples] == [str(i) for i in range(len(labels))]
    for example in examples:
        assert set(task.fields) <= set(example.fields)
        assert all(text.strip() for text in example.fields.values())
    repository = {"glue": "nyu-mll/glue", "superglue": "aps/super_glue"}[task.suite]
    split = {"glue/mnli": "validation_matched", "glue/mnli-mm": "validation_mismatched"}.get(name)
    split = split or {"dev": "validation", "test": "test"}[task.eval_split]
    ((path, asked, of, revision),) = hub.asked
    assert (path, asked, of) == (repository, config, split)
    assert re.fullmatch("[0-9a-f]{40}", revision), "what is loaded must not change under the user's feet"


@pytest.mark.parametrize("name", SCHEMAS)
def test_hub_hides_test_labels_behind_minus_one(name, hub):
    hub.rows = [{**row, "label": -1} for row in SCHEMAS[name][1]]
    assert {e.label for e in data.load(TASKS[name], "test")} == {None}
    if "dev" in TASKS[name].files.splits:
        with pytest.raises(UserError, match=r":0: no label"):
            data.load(TASKS[name], "dev")


def test_hub_multirc_rows_are_flat(hub):
    hub.rows = MULTIRC_ROWS
    examples = data.load(MULTIRC, "dev")
    assert [(e.id, e.group, e.label) for e in examples] == [("4-7-0", "4-7", "False"), ("4-7-1", "4-7", "True")]
    assert examples[1].fields == {"passage": "P.", "question": "Q?", "answer": "A1"}
    assert examples[1].meta == {"paragraph": 4, "question": 7, "answer": 1}
    hub.rows = [{**MULTIRC_ROWS[0], "label": -1}]
    assert data.load(MULTIRC, "test")[0].label is None


def test_hub_record_rows_are_flat(hub):
    hub.rows = [RECORD_ROW]
    task = TASKS["superglue/record"]
    examples = data.load(task, "dev")
    assert [(e.meta["entity"], e.label, e.group) for e in examples] == [("Ann", "True", "5"), ("Bob", "False", "5")]
    assert [e.fields["statement"] for e in examples] == ["Ann left.", "Bob left."]
    assert "@highlight" not in examples[0].fields["passage"]
    hub.rows = [{**RECORD_ROW, "answers": []}]
    assert {e.label for e in data.load(task, "test")} == {None}


def test_hub_scores_are_floats(hub):
    hub.rows = [{**PAIR, "label": score, "idx": i} for i, score in enumerate((3.799999952316284, 0.0, 5.0))]
    examples = data.load(STSB, "dev")
    assert [STSB.gold(e) for e in examples] == ["3.8", "0.0", "5.0"]
    hub.rows = [{**PAIR, "label": -1.0, "idx": 0}]
    assert data.load(STSB, "test")[0].label is None


def test_hub_limit_reads_no_further(hub):
    hub.rows = [*SCHEMAS["glue/rte"][1], {"not": "a row"}]
    assert len(data.load(RTE, "dev", limit=2)) == 2
    with pytest.raises(UserError, match=r"nyu-mll/glue/rte:2: .*'sentence1'"):
        data.load(RTE, "dev")


def test_hub_without_rows_or_split(hub):
    hub.rows = []
    with pytest.raises(UserError, match="no dev row in the hub copy"):
        data.load(RTE, "dev")
    with pytest.raises(UserError, match="no test split on the hub"):
        data.load(replace(RTE, files=replace(RTE.files, hub_splits={})), "test")


@pytest.mark.parametrize(
    "error",
    [ConnectionError("no route\nsecond line"), FileNotFoundError("gone"), ValueError(), RuntimeError("x" * 999)],
)
def test_a_failing_hub_is_one_line_with_the_other_way_in(error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(UserError) as caught:
        data.load(RTE, "dev")
    message = str(caught.value)
    assert all(part in message for part in ("glue/rte", "nyu-mll/glue", "--data"))
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "content", ["a\tb\n1\t2\n", "\ufeffa\tb\r\n1\u2028\t\x0c2\r\n\r", "a\tb\n1\t\r2", "a\tb\n\n1\t2\n\n"]
)
def test_lines_end_by_line_feeds_alone(content, tmp_path):
    """Read line by line it is what it is as a whole."""
    path = tmp_path / "x.tsv"
    path.write_bytes(content.encode())
    lines = [line.removesuffix("\r") for line in content.removeprefix("\ufeff").split("\n")]
    header, *rest = lines[:-1] if not lines[-1] else lines
    found = list(data.read_rows(path))
    assert [where for where, _ in found] == [f"{path}:{i}" for i in range(2, 2 + len(rest))]
    for (_, row), line in zip(found, rest, strict=True):
        cells = line.split("\t")
        assert (
            isinstance(row, UserError) if len(cells) != 2 else row == dict(zip(header.split("\t"), cells, strict=True))
        )


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"a\n\xc3\xa9\n"])
def test_the_byte_that_is_no_text_is_named(before, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(before + b"ab\xff\n")
    with pytest.raises(UserError, match=f"byte {len(before) + 2} is not UTF-8"):
        data.read_rows(path)


def test_the_official_question_pairs_are_read_as_everybody_reads_them(tmp_path, capsys):
    """The benchmark's file has lines of too few columns, and questions without words: the first are left out and
    counted, the others are rows. Neither is so in other files."""
    folder = make(tmp_path)
    file = folder / "glue" / "QQP" / "train.tsv"
    file.write_text(file.read_text() + "81\tonly this\t0\n82\tA question?\t\t1\n83\ttorn\n84\t \tAnother?\t0\n")
    rows = data.load(find("glue/qqp"), "train", folder)
    assert len(rows) == 82
    assert (rows[-2].fields, rows[-2].label) == ({"first": "A question?", "second": ""}, "duplicate")
    assert "glue/qqp: 2 torn lines of the train file are left out" in " ".join(capsys.readouterr().err.split())
    file.write_text(file.read_text() + "85\t\t\t0\n")
    with pytest.raises(UserError, match="all that the template shows of this row is empty"):
        data.load(find("glue/qqp"), "train", folder)
    other = folder / "glue" / "RTE" / "train.tsv"
    other.write_text(other.read_text() + "81\tonly this\n")
    with pytest.raises(UserError, match="2 columns, and 4 are needed"):
        data.load(find("glue/rte"), "train", folder)


def test_the_diagnostic_set_is_found_where_the_download_script_puts_it(tmp_path):
    folder = make(tmp_path)
    rows = data.load(find("glue/ax"), "test", folder)
    (folder / "glue" / "diagnostic").mkdir()
    (folder / "glue" / "AX" / "diagnostic-full.tsv").rename(folder / "glue" / "diagnostic" / "diagnostic.tsv")
    (folder / "glue" / "AX").rmdir()
    assert data.load(find("glue/ax"), "test", folder) == rows


@pytest.mark.parametrize(
    ("name", "text_of"),
    [
        ("glue/wnli", lambda fields: fields["premise"]),
        ("superglue/wsc", lambda fields: fields["text"].replace("*", "")),
        ("superglue/boolq", lambda fields: fields["passage"]),
    ],
)
def test_rows_about_one_text_are_one_document(real_data, name, text_of):
    """As in the official files: a standard error takes them together, and none is held out without the others."""
    rows = data.load(find(name), "dev", real_data)
    texts, documents = [text_of(row.fields) for row in rows], [row.document for row in rows]
    assert len(set(zip(texts, documents, strict=True))) == len(set(texts)) == len(set(documents)) < len(rows)
    assert max(map(len, documents)) <= 12
