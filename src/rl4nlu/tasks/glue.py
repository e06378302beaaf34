"""GLUE (Wang et al. 2019, arXiv 1804.07461): nine tasks, mismatched MNLI and the diagnostic set AX."""

from __future__ import annotations

from .task import ID, LABEL, Files, Task

TSV = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
ENTAILED = {"entailment": "Yes", "not_entailment": "No"}
THREE_WAY = {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"}
SCORES = tuple(f"{i / 5:.1f}" for i in range(26))
NLI_PLAIN = "{premise}\nClaim: {hypothesis}\nDoes the claim follow?"
NLI_ASK = "Read the text and decide whether the claim must be true if the text is true."
NLI_BODY = "Text: {premise}\nClaim: {hypothesis}"
MNLI_ASK = NLI_ASK + " Say Maybe if the text leaves it open."

COLA = Task(
    name="glue/cola",
    files=Files(
        "CoLA",
        TSV,
        ("glue", "cola"),
        headerless=dict.fromkeys(("train", "dev"), ("source", "label", "star", "sentence")),
    ),
    columns={"sentence": ("sentence",), LABEL: ("label",), ID: ("index", "idx")},
    labels=("unacceptable", "acceptable"),
    aliases={"0": "unacceptable", "1": "acceptable"},
    words={"acceptable": "Yes", "unacceptable": "No"},
    plain="{sentence}\nIs this good English?",
    ask="Decide whether the sentence is well-formed English, as a native speaker would judge its grammar.",
    body="Sentence: {sentence}",
    metrics=("matthews",),
    free=("sentence",),
)

SST2 = Task(
    name="glue/sst2",
    files=Files("SST-2", TSV, ("glue", "sst2")),
    columns={"sentence": ("sentence",), LABEL: ("label",), ID: ("index", "idx")},
    labels=("negative", "positive"),
    aliases={"0": "negative", "1": "positive"},
    words={"negative": "bad", "positive": "good"},
    plain="{sentence}\nThe film was",
    ask="Decide whether this piece of a film review speaks well or ill of the film.",
    body="Review: {sentence}",
    metrics=("accuracy",),
    free=("sentence",),
)

MRPC = Task(
    name="glue/mrpc",
    files=Files("MRPC", TSV, ("glue", "mrpc")),
    columns={
        "first": ("#1 String", "sentence1"),
        "second": ("#2 String", "sentence2"),
        LABEL: ("Quality", "label"),
        ID: ("index", "idx"),
    },
    labels=("different", "same"),
    aliases={"0": "different", "1": "same"},
    words={"same": "Yes", "different": "No"},
    plain="{first}\n{second}\nDo both say the same?",
    ask="Two sentences come from news reports. Decide whether they state the same thing.",
    body="First: {first}\nSecond: {second}",
    metrics=("f1", "accuracy"),
    free=("first", "second"),
)

STSB = Task(
    name="glue/stsb",
    files=Files("STS-B", TSV, ("glue", "stsb")),
    columns={"first": ("sentence1",), "second": ("sentence2",), LABEL: ("score", "label"), ID: ("index", "idx")},
    labels=SCORES,
    words={score: score for score in SCORES},
    plain="{first}\n{second}\nHow alike are they, from 0.0 to 5.0?",
    ask="Rate how close two sentences are in meaning, from 0.0 (nothing in common) to 5.0 (the same meaning).",
    body="First: {first}\nSecond: {second}",
    metrics=("spearman", "pearson"),
    free=("first", "second"),
    numeric=True,
)

QQP = Task(
    name="glue/qqp",
    # the official file holds some lines of three columns, and questions of no words
    files=Files("QQP", TSV, ("glue", "qqp"), torn={"train": 50, "dev": 50}),
    columns={
        "first": ("question1",),
        "second": ("question2",),
        LABEL: ("is_duplicate", "label"),
        ID: ("id", "idx"),
    },
    labels=("different", "duplicate"),
    aliases={"0": "different", "1": "duplicate"},
    words={"duplicate": "Yes", "different": "No"},
    may_be_empty=("first", "second"),
    plain="{first}\n{second}\nDo both ask the same?",
    ask="Two questions were asked on a web site. Decide whether one answer would serve both.",
    body="First question: {first}\nSecond question: {second}",
    metrics=("f1", "accuracy"),
    free=("first", "second"),
)


def _mnli(name: str, files: Files, **other) -> Task:
    """MNLI, its mismatched half and the diagnostic set differ in their rows only."""
    return Task(
        name=name,
        files=files,
        columns={
            "premise": ("sentence1", "Premise", "premise"),
            "hypothesis": ("sentence2", "Hypothesis", "hypothesis"),
            LABEL: ("gold_label", "Label", "label"),
            ID: ("index", "idx"),
        },
        labels=("entailment", "neutral", "contradiction"),
        words=THREE_WAY,
        plain=NLI_PLAIN,
        ask=MNLI_ASK,
        body=NLI_BODY,
        free=("premise", "hypothesis"),
        **{"metrics": ("accuracy",), **other},
    )


MNLI = _mnli(
    "glue/mnli",
    Files(
        "MNLI",
        {"train": "train.tsv", "dev": "dev_matched.tsv", "test": "test_matched.tsv"},
        ("glue", "mnli"),
        hub_splits={"train": "train", "dev": "validation_matched", "test": "test_matched"},
    ),
)
MNLI_MM = _mnli(
    "glue/mnli-mm",
    Files(
        "MNLI",
        {"train": "train.tsv", "dev": "dev_mismatched.tsv", "test": "test_mismatched.tsv"},
        ("glue", "mnli"),
        hub_splits={"train": "train", "dev": "validation_mismatched", "test": "test_mismatched"},
    ),
    train_task="glue/mnli",
)
AX = _mnli(
    "glue/ax",
    Files(
        "AX",
        {"test": ("diagnostic-full.tsv", "diagnostic.tsv", "../diagnostic/diagnostic.tsv")},
        ("glue", "ax"),
        hub_splits={"test": "test"},
    ),
    metrics=("matthews",),
    eval_split="test",
    train_task="glue/mnli",
)

QNLI = Task(
    name="glue/qnli",
    files=Files("QNLI", TSV, ("glue", "qnli")),
    columns={"question": ("question",), "sentence": ("sentence",), LABEL: ("label",), ID: ("index", "idx")},
    labels=("entailment", "not_entailment"),
    words=ENTAILED,
    plain="{sentence}\nQuestion: {question}\nIs it answered here?",
    ask="Decide whether the sentence holds the answer to the question.",
    body="Question: {question}\nSentence: {sentence}",
    metrics=("accuracy",),
    free=("sentence",),
)

RTE = Task(
    name="glue/rte",
    files=Files("RTE", TSV, ("glue", "rte")),
    columns={"premise": ("sentence1",), "hypothesis": ("sentence2",), LABEL: ("label",), ID: ("index", "idx")},
    labels=("entailment", "not_entailment"),
    words=ENTAILED,
    plain=NLI_PLAIN,
    ask=NLI_ASK,
    body=NLI_BODY,
    metrics=("accuracy",),
    free=("premise", "hypothesis"),
)

WNLI = Task(
    name="glue/wnli",
    files=Files("WNLI", TSV, ("glue", "wnli")),
    columns={"premise": ("sentence1",), "hypothesis": ("sentence2",), LABEL: ("label",), ID: ("index", "idx")},
    labels=("not_entailment", "entailment"),
    aliases={"0": "not_entailment", "1": "entailment"},
    words=ENTAILED,
    shared="premise",
    plain=NLI_PLAIN,
    ask="Read the text, find out whom or what its pronoun means, and decide whether the claim follows.",
    body=NLI_BODY,
    metrics=("accuracy",),
    free=("premise", "hypothesis"),
)

GLUE = (COLA, SST2, MRPC, STSB, QQP, MNLI, MNLI_MM, QNLI, RTE, WNLI, AX)
