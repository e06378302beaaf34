"""Whatever stands in a file, a flag, a row or an answer: it works, or it ends in one line that the user can mend.

300 examples a test; RL4NLU_FUZZ=10000 (`make fuzz`) makes it that many, and other ones each time.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import rl4nlu
from rl4nlu import compare, config, data
from rl4nlu.cli import COMMANDS as PROGRAM
from rl4nlu.cli import main
from rl4nlu.errors import UserError
from rl4nlu.plan import make_plan
from rl4nlu.prompts import Prompter
from rl4nlu.reports import collect, differences, write
from rl4nlu.rows import read_rows
from rl4nlu.settings import COMMANDS, SuiteSettings
from rl4nlu.submit import submit
from rl4nlu.tables import print_differences, print_table
from rl4nlu.tasks import TASKS, Example, find
from rl4nlu.tasks.own import read_task
from rl4nlu.tokens import Encoder

USUAL = 300
COUNT = int(os.environ.get("RL4NLU_FUZZ") or USUAL)
fuzz = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=COUNT == USUAL,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
LONGEST_LINE = 20_000


def mended(function: Callable[[], Any]) -> Any:
    """What the function gives, or None where it says in one line what the user can mend. Nothing else may happen."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return function()
    except UserError as wrong:
        line = " ".join(str(wrong).split())
        assert 0 < len(line) < LONGEST_LINE
        line.encode()
        return None


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """One folder to work in, whose files every example writes anew."""
    folder, before = tmp_path_factory.mktemp("fuzz"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


# -- texts and values --------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=30)
ODD = st.sampled_from(
    [
        *(
            "",
            " ",
            "\n",
            "null",
            "~",
            "1e400",
            "-1",
            "0x_",
            "9" * 5000,
            "nan",
            ".inf",
            "1:60",
            "2024-99-99",
            "0b",
            "é",
            "🙂",
        ),
        *(
            "\u2028",
            "\ufeff",
            "\0",
            "..",
            "/",
            "a/b",
            "{x}",
            "{",
            "}}",
            "%s",
            "[/]",
            "hf_" + "a" * 40,
            "=sft",
            "*",
            "&x",
        ),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def near(draw: st.DrawFn, names: list[str]) -> str:
    """A name, or one that is nearly one."""
    name = draw(st.sampled_from(names))
    at = draw(st.integers(0, len(name)))
    return draw(st.sampled_from([name, name, name[:at] + draw(st.sampled_from("_x-.é ")) + name[at:], name[:at]]))


@st.composite
def mutated(draw: st.DrawFn, value: Any, times: int = 3) -> Any:
    """A copy of a JSON value in which a few things are replaced, left out or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, times))):
        inner: Any = value
        while isinstance(inner, dict | list) and inner:
            key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            if not isinstance(inner[key], dict | list) or not inner[key] or draw(st.booleans()):
                how = draw(st.integers(0, 3))
                if how == 0:
                    del inner[key]
                elif how == 1 and isinstance(inner, dict):
                    inner[draw(TEXT)] = inner[key]
                elif how == 1:
                    inner.append(inner[key])
                else:
                    inner[key] = draw(JSON)
                break
            inner = inner[key]
    return value


@st.composite
def damaged(draw: st.DrawFn, text: str | bytes) -> bytes:
    """Bytes in which a few are changed."""
    raw = bytearray(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 5]))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- settings files ----------------------------------------------------------------------------------------------------

# fmt: off
BITS = [*"[]{},|>'\"\\#-.e1=~:\t\0\x85\u00e9", "a", "task", ": ", "\n", "  ", "- ", "&x ", "*x", "<<", "? ", "---"]
KINDS = ("python/name:os.x", "binary", "timestamp", "float", "set", "int", "null", "omap", "bool", "merge", "value")
BITS += ["!x ", "%YAML 9", "null", "0x", "0o", "2024-99-99", "[" * 400, "..."]
BITS += ["lora", *(f"!!{kind} " for kind in KINDS)]
RAW = ["2024-99-99", "99:99", "0x_", "0b", "0o9", "1" * 5000, "[a]", "[[a], {b: 1}]"]
RAW += ["{a: b}", "{1: 2}", "{[a]: 1}"]
RAW += ["{<<: 1}", "{<<: [1]}", "? a", "[" * 400, "{a: " * 400, "'", '"\\', "=", "<<", "~", ".nan", "-.inf", "1e999"]
RAW += ["''"]
RAW += [f"!!{kind} {value}" for kind in KINDS for value in ("a", "[a]", "{a: b}", "9", "''")]
RAW += ['"\\ud800"', '"\\0"', "- a"]
RAW += ["&a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\ntask: [*c,*c,*c,*c,*c,*c]"]
RAW += ["mini", "glue/rte", "gae", "paper", "0.5", "7", "-7", "true", "no", "1_0", "own.yaml", ".."]
RAW += ["none", "default", "|"]
RAW += ["&x [*x]", "{r: 1}", "{r: [1]}", "!x y"]
# fmt: on
METHODS = {
    "sft": {"command": "sft", "learning_rate": [1e-4, 1e-3]},
    "ppo": {"command": "ppo", "init": "sft", "steps": 2},
}
SUITE = {"seeds": [0, 1], "common": {"model": "mini", "select_rows": 9, "max_steps": 5}, "methods": METHODS}
SUITE |= {"tasks": {"mini/sentiment": {"limit": 4}, "glue/rte": {}}}
TASK: dict[str, Any] = {"train": "t.csv", "template": "{body}\nWhat is {note}?", "label": "topic", "dev_share": 0.5}
TASK |= {"labels": {"a": "good", "b": "bad"}, "metrics": ["accuracy", "f1"], "free": ["body"], "fields": {"note": "n"}}
TASK |= {
    "name": "own-1",
    "id": "i",
    "instruction": "Say it.",
    "test": "t.csv",
    "hub": {"dataset": "a/b", "config": "c"},
}


@st.composite
def yaml_file(draw: st.DrawFn, known: list[str], usual: dict[str, Any]) -> bytes:
    """A YAML file with known names and unknown, usual values and odd ones; or its letters in disorder; or bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        return "".join(draw(st.lists(st.sampled_from(BITS) | TEXT, max_size=20))).encode()
    if kind in (2, 3, 4):
        start = yaml.safe_dump(usual) if usual and draw(st.booleans()) else ""
        lines = [f"{draw(near(known))}: {draw(st.sampled_from(RAW))}" for _ in range(draw(st.integers(1, 3)))]
        return draw(damaged(start + "\n".join(lines)))
    values = draw(mutated(usual)) if usual else {}
    if not isinstance(values, dict):
        return draw(damaged(yaml.safe_dump(values)))
    for _ in range(draw(st.integers(0, 3))):
        values[draw(near(known))] = draw(JSON | ODD | st.integers(1, 9))
    try:
        text = yaml.safe_dump(values, allow_unicode=True)
    except (yaml.YAMLError, ValueError):  # what no YAML can hold
        text = dumped(values)
    if kind == 5:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(BITS)) + text[at:]
    return draw(damaged(text))


def top(name: str) -> str:
    return name.split(".")[0]


@fuzz
@given(st.data(), st.sampled_from(sorted(COMMANDS)))
def test_settings_files(place, drawn, command):
    kind, path = COMMANDS[command], place / "s.yaml"
    run = {"task": "mini/sentiment", "model": "mini", "lora": {"r": 4}}
    usual = SUITE if kind is SuiteSettings else run if "lora" in kind.model_fields else {}
    path.write_bytes(drawn.draw(yaml_file(list(kind.model_fields), usual)))
    found = mended(lambda: config.parse(kind, [str(path)], "rl4nlu"))
    if found is not None:
        if kind is SuiteSettings:
            mended(lambda: make_plan(found))
        assert set(config.read_yaml(path)) <= set(kind.model_fields)


@fuzz
@given(st.data())
def test_task_files(place, drawn):
    (place / "t.csv").write_text("body,n,topic,i\n" + "".join(f"x{i},y,{'ab'[i % 2]},{i}\n" for i in range(6)))
    usual = {name: TASK[name] for name in TASK if name not in ("hub",) or drawn.draw(st.integers(0, 3)) == 0}
    (place / "own.yaml").write_bytes(drawn.draw(yaml_file(list(TASK), usual)))
    task = mended(lambda: read_task(place / "own.yaml"))
    if task is not None:
        assert "/" not in task.name.removeprefix("own/")
        if task.table.hub is None:
            mended(lambda: data.load(task, "train"))


@fuzz
@given(st.data(), st.sampled_from(sorted(COMMANDS)), st.text(string.ascii_lowercase + "_.", min_size=1, max_size=12))
def test_what_is_no_setting_is_refused(place, drawn, command, name):
    kind = COMMANDS[command]
    known = {flat for full in config.names(kind) for flat in (full, top(full))}
    name = drawn.draw(st.sampled_from([name, *(f"{one}{name[0]}" for one in sorted(known))]))
    if name not in known:
        (place / "s.yaml").write_text(yaml.safe_dump({name: 1}))
        with pytest.raises(UserError):
            config.parse(kind, [str(place / "s.yaml")], "rl4nlu")
        if name.replace("-", "_").removeprefix("no_") not in known and not {".", "help"} & {name[-1], name}:
            with pytest.raises(UserError):
                config.parse(kind, [f"--{name}", "1"], "rl4nlu")
    if "lora" in kind.model_fields and name not in config.names(kind.model_fields["lora"].annotation):
        (place / "s.yaml").write_text(yaml.safe_dump({"lora": {name: 1}}))
        with pytest.raises(UserError):
            config.parse(kind, [str(place / "s.yaml")], "rl4nlu")


# -- flags -------------------------------------------------------------------------------------------------------------

ARGUMENT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)  # no others can come


@fuzz
@given(st.data(), st.sampled_from(sorted(COMMANDS)))
def test_flags(place, drawn, command):
    kind = COMMANDS[command]
    known = [name.replace("_", "-") for name in config.names(kind)]
    flag = st.builds("--{}".format, near(known)) | st.builds("--no-{}".format, near(known))
    odd = ODD.filter(lambda text: "\0" not in text)
    value = (
        ARGUMENT
        | odd
        | st.integers().map(str)
        | st.floats().map(str)
        | st.sampled_from(["mini", "true", "None", "gae"])
    )
    word = flag | value | st.builds("{}={}".format, flag, value)
    args = drawn.draw(st.lists(word, max_size=5)) if drawn.draw(st.integers(0, 3)) == 0 else []
    for _ in range(drawn.draw(st.integers(0, 2))):
        args += [drawn.draw(flag), drawn.draw(value)]
    with contextlib.suppress(SystemExit):  # of --help
        mended(lambda: config.parse(kind, args, "rl4nlu"))


@fuzz
@given(st.lists(ARGUMENT | ODD.filter(lambda text: "\0" not in text), min_size=1, max_size=3))
def test_what_is_no_command_is_refused(args):
    if args[0] not in (*PROGRAM, "-h", "--help", "--version", "--debug"):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert main(args) == 2
        assert said.getvalue().startswith("error: ")
        assert said.getvalue().count("\n") == 1


# -- rows --------------------------------------------------------------------------------------------------------------

PAIR = {"premise": "A cat sat.", "hypothesis": "A cat.", "label": "entailment", "idx": 0}
ANSWERS = [{"text": "Tom", "label": 1, "idx": 0}, {"text": "Ann", "label": 0, "idx": 1}]
MULTIRC = {"text": "Tom sat.", "questions": [{"question": "Who?", "idx": 0, "answers": ANSWERS}]}
RECORD = {"text": "Tom met Ann.", "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}]}
QUERY = {"query": "@placeholder sat", "idx": 0, "answers": [{"start": 0, "end": 2, "text": "Tom"}]}
WSC = {"span1_index": 0, "span1_text": "Tom", "span2_index": 2, "span2_text": "he"}
WIC = {"word": "sat", "sentence1": "Tom sat.", "sentence2": "He sat.", "start1": 4, "end1": 7, "start2": 3, "end2": 6}
SUPERGLUE: dict[str, dict[str, Any]] = {
    "boolq": {"question": "is it so", "passage": "It is.", "label": True, "idx": 0},
    "cb": PAIR,
    "copa": {"premise": "It fell.", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "idx": 0},
    "multirc": {"passage": MULTIRC, "idx": 0},
    "record": {"source": "x", "passage": RECORD, "qas": [QUERY], "idx": 0},
    "rte": PAIR,
    "wic": {**WIC, "label": False, "idx": 0},
    "wsc": {"text": "Tom said he sat.", "target": WSC, "label": True, "idx": 0},
    "axb": {"sentence1": "a", "sentence2": "b", "label": "entailment", "idx": 0},
    "axg": {**PAIR, "pair_id": 1},
}
LABELS = st.sampled_from(["0", "1", "entailment", "not_entailment", "neutral", "2.5", "-1", "a", "b"])
OWN = {**{k: TASK[k] for k in ("template", "label", "labels", "metrics", "fields", "id")}, "dev_share": 0.3}


def checked(task, split: str, folder: Path, spare: int) -> None:
    """What loads can be asked and answered."""
    rows = mended(lambda: data.load(task, split, folder, max_bad_rows=spare))
    for row in rows or []:
        for template in ("plain", "verdict"):
            prompter = Prompter(task, template)
            gold = prompter.prompt(row).gold
            if gold is not None:
                assert task.judge(prompter.parse(prompter.answers[gold]), row)


@st.composite
def table(draw: st.DrawFn, columns: list[str], separator: str) -> str:
    """Lines of cells: as many as there are columns, mostly."""
    cell = TEXT | ODD | LABELS | LABELS
    lines = [columns if draw(st.integers(0, 9)) else [draw(near(columns)), *columns[1:]]]
    for _ in range(draw(st.integers(0, 4))):
        lines.append([draw(LABELS if "label" in name or name == "topic" else cell) for name in columns])
        if draw(st.integers(0, 9)) == 0:
            lines[-1].append(draw(cell))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    return end.join(separator.join(line) for line in lines) + end * draw(st.integers(0, 2))


@fuzz
@given(st.data(), st.sampled_from([t for t in TASKS.values() if t.suite in ("glue", "superglue")]), st.booleans())
def test_rows_of_the_benchmarks(place, drawn, task, spare):
    split = drawn.draw(st.sampled_from(sorted(task.files.splits)))
    names = task.files.splits[split]
    folder = place / data.SUITE_FOLDERS[task.suite] / task.files.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (names if isinstance(names, str) else names[0])
    if path.suffix == ".jsonl":
        usual = SUPERGLUE[task.name.split("/")[1]]
        text = "\n".join(dumped(row) for row in drawn.draw(st.lists(mutated(usual), max_size=3)))
    else:
        columns = list(task.files.headerless.get(split, [names[0] for names in task.columns.values()]))
        text = drawn.draw(table(columns, "\t"))
    path.write_bytes(drawn.draw(damaged(text)))
    checked(task, split, place, 9 * spare)


@fuzz
@given(st.data(), st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), st.booleans())
def test_rows_of_ones_own(place, drawn, suffix, spare):
    (place / "mine.yaml").write_text(yaml.safe_dump({**OWN, "train": f"mine{suffix}"}))
    columns = ["body", "n", "topic", "i"]
    if suffix == ".jsonl":
        usual = {"body": "x", "n": 1.0, "topic": "a", "i": 3}
        text = "\n".join(dumped(row) for row in drawn.draw(st.lists(mutated(usual), max_size=4)))
    else:
        text = drawn.draw(table(columns, drawn.draw(st.sampled_from([",", ";", "\t"]))))
    (place / f"mine{suffix}").write_bytes(drawn.draw(damaged(text)))
    task = find(str(place / "mine.yaml"))
    checked(task, drawn.draw(st.sampled_from(["train", "dev", "test"])), place, 9 * spare)
    rows = mended(lambda: list(read_rows(place / f"mine{suffix}", quoted=True)))
    for where, row in rows or []:
        mended(lambda where=where, row=row: data.example_from_fields(task, row, where))


# -- prompts and answers -----------------------------------------------------------------------------------------------

TRICKS = [
    "</verdict>",
    "<verdict>",
    "{premise}",
    "{0}",
    "{{",
    "}",
    "\n\n",
    "\r",
    "\t",
    "\0",
    "\x1b[0m",
    "%s",
    "<|endoftext|>",
]
TRICKS += [
    "<s>",
    "</s>",
    "[MASK]",
    "Answer:",
    "yes",
    "no",
    "\u202e",
    "\u200b",
    "é",
    "é",
    "🏳️‍🌈",
    "中文",
    "\x85",
    " ",
    "",
]
FIELD = st.lists(st.sampled_from(TRICKS) | st.text(max_size=20), max_size=8).map("".join)
LONG = st.builds(lambda text, n: text * n, FIELD.filter(bool), st.sampled_from([1, 10, 1000, 10_000]))
PROMPTED = [task for task in TASKS.values() if task.fields]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(Path(rl4nlu.__file__).parent / "assets" / "mini")


@fuzz
@given(st.data(), st.sampled_from(PROMPTED), st.sampled_from(["plain", "verdict"]), st.sampled_from([0, 0, 16]))
def test_prompts(tokenizer, drawn, task, template, reason):
    long = drawn.draw(st.sampled_from([None] * 30 + list(task.fields)))
    fields = {name: drawn.draw(LONG if name == long else FIELD)[:100_000] for name in task.fields}
    label = drawn.draw(st.sampled_from([None, *task.labels]))
    shot = Example("s", {name: drawn.draw(FIELD) for name in task.fields}, task.labels[0])
    shots = (shot,) if drawn.draw(st.integers(0, 4)) == 0 else ()
    encoder = Encoder(
        tokenizer, Prompter(task, template, shots, reason=reason), drawn.draw(st.sampled_from([256, 1024]))
    )
    found = mended(lambda: encoder.encode(Example("1", fields, label)))
    if found is not None:
        assert 0 < len(found.ids) <= encoder.longest_prompt
        assert len(found.answers) == len(task.labels)
        assert all(len(answer) > 0 for answer in found.answers)
        assert len({*found.answers}) == len(task.labels)


WORDS = sorted({word for task in TASKS.values() if not task.numeric for word in task.words.values()})
NUMBERS = ["1", "2.5", "-3", "1e5", "9" * 400, "٣", "²", "1.2.3", ".5", "5.", "0x1", "1_0", "nan", "inf", "½"]
SAID = st.lists(st.sampled_from([*TRICKS, *WORDS, *NUMBERS, " ", "\n"]) | st.text(max_size=10), max_size=8).map("".join)


@fuzz
@given(SAID, st.sampled_from(sorted(TASKS)), st.sampled_from(["plain", "verdict"]))
def test_answers(text, name, template):
    task = TASKS[name]
    prompter = Prompter(task, template)
    assert prompter.finished(text) in (True, False)
    assert prompter.thought(text) in (True, False)
    assert prompter.bridged(text) in (True, False)
    said = prompter.parse(text)
    if task.numeric and said is not None:
        assert float(task.labels[0]) <= float(said) <= float(task.labels[-1])
    elif said is not None:
        assert said in task.labels
    for label in (None, *task.labels[:2]):
        assert task.judge(said, Example("1", {}, label)) in (True, False)


# -- what runs have written --------------------------------------------------------------------------------------------


def a_run(task: str, split: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """results.json and the rows of predictions.jsonl, as runs write them."""
    known = TASKS[task]
    metrics = {"metrics": dict.fromkeys(known.metrics, 0.5), "stderr": dict.fromkeys(known.metrics, 0.1)}
    entry = {
        "task": task,
        "method": "sft",
        "model": "mini",
        "template": "plain",
        "shots": 0,
        "decode": "score",
        "seed": 0,
    }
    entry |= {"split": split, "cut_rows": 0, "n": 4, **metrics, "unparsable": 0, "seconds": 1.0}
    rows = []
    for i in range(4):
        label = known.labels[i % len(known.labels)]
        scores = None if known.numeric else dict.fromkeys(known.labels, -1.0)
        row = {"task": task, "id": str(i), "gold": label, "prediction": label, "scores": scores, "text": None}
        meta = {"superglue/multirc": {"paragraph": 0, "question": i // 2, "answer": i}}
        meta["superglue/record"] = {"query": i // 2, "entity": "Tom", "answers": ["Tom"]}
        rows.append({**row, "group": str(i // 2), "document": "d", "meta": meta.get(task, {})})
    return {"schema": 1, "results": [entry]}, rows


RUNS = ["glue/rte", "glue/cola", "glue/stsb", "glue/wnli", "superglue/cb", "superglue/multirc", "superglue/record"]
STEPS = [{"step": i, "loss": 1.0 / (i + 1)} for i in range(3)]


def write_run(folder: Path, drawn: Any, task: str, split: str) -> None:
    folder.mkdir(exist_ok=True)
    results, rows = a_run(task, split)
    which = drawn.draw(st.sampled_from([0, 1, 2, 3, 5] * 3 + [4]))  # curves are slow to draw
    results = drawn.draw(mutated(results)) if which in (0, 1) else results
    rows = drawn.draw(mutated(rows)) if which in (2, 3) else rows
    steps = drawn.draw(mutated(STEPS)) if which == 4 else []
    texts = {"results.json": dumped(results), "command.txt": "rl4nlu sft", "config.yaml": "task: x"}
    for name, listed in (("predictions.jsonl", rows), ("metrics.jsonl", steps)):
        lines = listed if isinstance(listed, list) else [listed]
        texts[name] = "".join(dumped(row) + "\n" for row in lines)
    for name, text in texts.items():
        (folder / name).write_bytes(drawn.draw(damaged(text)) if which == 5 else text.encode(errors="surrogatepass"))


@fuzz
@given(st.data(), st.sampled_from(RUNS))
def test_the_report_of_what_runs_have_written(place, drawn, task):
    write_run(place / "a", drawn, task, "dev")
    write_run(place / "b", drawn, drawn.draw(st.sampled_from([task, task, "glue/rte"])), "dev")

    def work() -> None:
        runs = collect([place / "a", place / "b"])
        found = differences(runs)
        write(runs, place / "page.html", found)
        print_table([result for run in runs for result in run.results])
        print_differences(found)

    with pytest.MonkeyPatch.context() as few:
        few.setattr(compare, "RESAMPLES", 40)
        mended(work)


@fuzz
@given(st.data(), st.sampled_from(RUNS))
def test_the_submission_of_what_runs_have_written(place, drawn, task):
    write_run(place / "t", drawn, task, "test")
    mended(lambda: submit([place / "t"], place / "out.zip"))
    (place / "out.zip").unlink(missing_ok=True)
