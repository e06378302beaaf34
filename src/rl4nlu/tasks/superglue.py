"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537): eight tasks and the diagnostic sets AX-b and AX-g."""

from __future__ import annotations

from collections.abc import Iterator

from .glue import ENTAILED, NLI_ASK, NLI_BODY, NLI_PLAIN, THREE_WAY
from .task import ID, LABEL, Example, Files, Row, Task, shared_text

JSONL = {"train": "train.jsonl", "dev": "val.jsonl", "test": "test.jsonl"}
YES_NO = {"True": "Yes", "False": "No"}
PASSAGE_QUESTION = "{passage}\nQuestion: {question}\n"

BOOLQ = Task(
    name="superglue/boolq",
    files=Files("BoolQ", JSONL, ("super_glue", "boolq")),
    columns={"passage": ("passage",), "question": ("question",), LABEL: ("label",), ID: ("idx",)},
    labels=("False", "True"),
    words=YES_NO,
    shared="passage",
    plain="{passage}\nQuestion: {question}?\nIs it so?",  # "Answer:" is COPA's, of which the answers are numbers
    ask="Read the passage and answer the question about it.",
    body="Passage: {passage}\nQuestion: {question}?",
    metrics=("accuracy",),
    free=("passage",),
)

CB = Task(
    name="superglue/cb",
    files=Files("CB", JSONL, ("super_glue", "cb")),
    columns={"premise": ("premise",), "hypothesis": ("hypothesis",), LABEL: ("label",), ID: ("idx",)},
    labels=("entailment", "contradiction", "neutral"),
    words=THREE_WAY,
    plain=NLI_PLAIN,
    ask="Read the text and decide whether its author holds the claim to be true. Say Maybe if that stays open.",
    body=NLI_BODY,
    metrics=("accuracy", "macro_f1"),
    free=("premise",),
)

COPA = Task(
    name="superglue/copa",
    files=Files("COPA", JSONL, ("super_glue", "copa")),
    columns={
        "premise": ("premise",),
        "choice1": ("choice1",),
        "choice2": ("choice2",),
        "question": ("question",),
        LABEL: ("label",),
        ID: ("idx",),
    },
    labels=("0", "1"),
    words={"0": "1", "1": "2"},
    plain="{premise} What was the {question}?\n1: {choice1}\n2: {choice2}\nAnswer:",
    ask="Something happened. Of two options choose the one that is more likely its cause or its effect, as asked.",
    body="What happened: {premise}\nAsked for: the {question}\n1: {choice1}\n2: {choice2}",
    metrics=("accuracy",),
    free=("premise",),
    pair=("{premise} What was the {question}?", "{candidate}"),
    candidates=("choice1", "choice2"),
)


def _multirc(task: Task, row: Row) -> Iterator[Example]:
    """One passage with questions and their answers -> one example an answer (the hub's rows are that already)."""
    if "passage" not in row:
        at, flag = row["idx"], row["label"]
        yield _answer(
            task,
            row["paragraph"],
            row["question"],
            row["answer"],
            (at["paragraph"], at["question"], at["answer"]),
            flag,
        )
        return
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            ids = (row["idx"], question["idx"], answer["idx"])
            yield _answer(task, row["passage"]["text"], question["question"], answer["text"], ids, answer.get("label"))


def _answer(task: Task, passage: str, question: str, answer: str, ids: tuple[int, int, int], flag: object) -> Example:
    fields = {"passage": passage, "question": question, "answer": answer}
    meta = dict(zip(("paragraph", "question", "answer"), ids, strict=True))
    return Example("-".join(map(str, ids)), fields, task.label_of(flag), f"{ids[0]}-{ids[1]}", meta, str(ids[0]))


MULTIRC = Task(
    name="superglue/multirc",
    files=Files("MultiRC", JSONL, ("super_glue", "multirc")),
    columns={},
    labels=("False", "True"),
    words=YES_NO,
    plain=PASSAGE_QUESTION + "Answer: {answer}\nIs that right?",
    ask="Read the passage and decide whether the answer given to the question is right.",
    body="Passage: {passage}\nQuestion: {question}\nAnswer: {answer}",
    metrics=("f1a", "exact_match"),
    free=("passage",),
    expand=_multirc,
)


def _record(task: Task, row: Row) -> Iterator[Example]:
    """One passage with queries -> one example for each query and entity that the passage names."""
    if isinstance(row["passage"], str):
        queries = [(row["query"], row["answers"] or None, row["idx"]["query"])]
        text, names, passage = row["passage"], row["entities"], row["idx"]["passage"]
    else:
        text, passage = row["passage"]["text"], row["idx"]
        names = [text[e["start"] : e["end"] + 1] for e in row["passage"]["entities"]]
        queries = [
            (q["query"], [a["text"] for a in q["answers"]] if "answers" in q else None, q["idx"]) for q in row["qas"]
        ]
    for query, answers, idx in queries:
        for i, name in enumerate(dict.fromkeys(names)):
            fields = {"passage": text.replace("\n@highlight\n", " "), "statement": query.replace("@placeholder", name)}
            label = None if answers is None else str(name in answers)
            meta = {"query": idx, "entity": name, "answers": answers}
            yield Example(f"{idx}-{i}", fields, label, str(idx), meta, str(passage))


RECORD = Task(
    name="superglue/record",
    files=Files("ReCoRD", JSONL, ("super_glue", "record")),
    columns={},
    labels=("False", "True"),
    words=YES_NO,
    plain="{passage}\nStatement: {statement}\nIs that right?",
    ask="Read the news story and decide whether the statement about it, in which one name was filled in, is right.",
    body="Story: {passage}\nStatement: {statement}",
    metrics=("record_f1", "record_em"),
    free=("passage",),
    expand=_record,
)

RTE = Task(
    name="superglue/rte",
    files=Files("RTE", JSONL, ("super_glue", "rte")),
    columns={"premise": ("premise",), "hypothesis": ("hypothesis",), LABEL: ("label",), ID: ("idx",)},
    labels=("entailment", "not_entailment"),
    words=ENTAILED,
    plain=NLI_PLAIN,
    ask=NLI_ASK,
    body=NLI_BODY,
    metrics=("accuracy",),
    free=("premise", "hypothesis"),
)

WIC = Task(
    name="superglue/wic",
    files=Files("WiC", JSONL, ("super_glue", "wic")),
    columns={"word": ("word",), "first": ("sentence1",), "second": ("sentence2",), LABEL: ("label",), ID: ("idx",)},
    labels=("False", "True"),
    words=YES_NO,
    plain="{first}\n{second}\nDoes {word} mean the same in both?",
    ask="Decide whether the given word has the same meaning in both sentences.",
    body="Word: {word}\nFirst: {first}\nSecond: {second}",
    metrics=("accuracy",),
    free=("first", "second"),
    pair=("{word}: {first}", "{second}"),
)


def _wsc(task: Task, row: Row) -> Iterator[Example]:
    """Both spans stand between asterisks in the text; an index that misses its span goes to the nearest match."""
    target = row.get("target", row)
    words = row["text"].split()
    for n in ("1", "2"):
        start, stop = _span(words, target[f"span{n}_text"].split(), int(target[f"span{n}_index"]))
        words[start] = "*" + words[start]
        words[stop - 1] += "*"
    fields = {"text": " ".join(words), "noun": target["span1_text"], "pronoun": target["span2_text"]}
    document = shared_text(row["text"])  # there are several of some, about other spans
    yield Example(str(row["idx"]), fields, task.label_of(row.get("label")), document=document)


def _span(words: list[str], span: list[str], index: int) -> tuple[int, int]:
    """Start and stop of `span` among `words`: the match nearest to `index`, or `index` itself if there is none."""

    def bare(items: list[str]) -> list[str]:
        return [item.strip(".,;:!?'\"*()").casefold() for item in items]

    n = len(span)
    starts = [i for i in range(len(words) - n + 1) if bare(words[i : i + n]) == bare(span)]
    start = min(starts, key=lambda i: abs(i - index), default=min(index, len(words) - 1))
    return start, min(start + n, len(words))


WSC = Task(
    name="superglue/wsc",
    files=Files("WSC", JSONL, ("super_glue", "wsc.fixed")),
    columns={},
    labels=("False", "True"),
    words=YES_NO,
    plain="{text}\nDoes {pronoun} mean {noun}?",
    ask="Two spans of the text stand between asterisks. Decide whether the pronoun refers to the other span.",
    body="Text: {text}\nPronoun: {pronoun}\nRefers to: {noun}",
    metrics=("accuracy",),
    free=("text",),
    expand=_wsc,
)

AXB = Task(
    name="superglue/axb",
    files=Files("AX-b", {"test": "AX-b.jsonl"}, ("super_glue", "axb"), hub_splits={"test": "test"}),
    columns={"premise": ("sentence1",), "hypothesis": ("sentence2",), LABEL: ("label",), ID: ("idx",)},
    labels=("entailment", "not_entailment"),
    words=ENTAILED,
    plain=NLI_PLAIN,
    ask=NLI_ASK,
    body=NLI_BODY,
    metrics=("matthews",),
    free=("premise", "hypothesis"),
    eval_split="test",
    train_task="superglue/rte",
)


def _axg(task: Task, row: Row) -> Iterator[Example]:
    """Neighbouring rows differ only in the gender of a pronoun: they are one group (`pair_id` is unique a row)."""
    fields = {"premise": row["premise"], "hypothesis": row["hypothesis"]}
    yield Example(str(row["idx"]), fields, task.label_of(row.get("label")), str(int(row["idx"]) // 2))


AXG = Task(
    name="superglue/axg",
    files=Files("AX-g", {"test": "AX-g.jsonl"}, ("super_glue", "axg"), hub_splits={"test": "test"}),
    columns={},
    labels=("entailment", "not_entailment"),
    words=ENTAILED,
    plain=NLI_PLAIN,
    ask=NLI_ASK,
    body=NLI_BODY,
    metrics=("accuracy", "gender_parity"),
    free=("premise", "hypothesis"),
    eval_split="test",
    train_task="superglue/rte",
    expand=_axg,
)

SUPERGLUE = (BOOLQ, CB, COPA, MULTIRC, RECORD, RTE, WIC, WSC, AXB, AXG)
