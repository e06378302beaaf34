"""A task of the user's own: tables of every kind against pandas and the csv module, and what is wrong told by line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl4nlu import data
from rl4nlu.errors import UserError
from rl4nlu.prompts import Prompter
from rl4nlu.rows import read_rows
from rl4nlu.tasks import ID, LABEL, Example, find, find_all
from rl4nlu.tasks.own import changed_since, digests, dump, read_task

FRAME = pd.DataFrame(
    {
        "body": ['He said "no, never"', "two\nlines", "Größe – ¿sí? 🙂", "a;b,c\td", " spaces ", "plain"] * 5,
        "note": [None, "x", None, "y", "z", None] * 5,
        "stars": [-1.0, 0.0, 1.0, -1.0, 0.0, 1.0] * 5,
    }
)
TASK = 'train: {}\ntemplate: "{{body}} {{note}}\\nRate it:"\nlabel: stars\nlabels: {{-1: bad, 0: meh, 1: good}}\n'


def write(folder: Path, text: str, name: str = "t.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


WRITERS = {
    "rows.parquet": lambda path: FRAME.to_parquet(path),
    "rows.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True, force_ascii=False),
    "rows.csv": lambda path: FRAME.to_csv(path, index=False, encoding="utf-8-sig"),
    "rows.tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "semicolons.csv": lambda path: FRAME.to_csv(path, index=False, sep=";", lineterminator="\r\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_table(tmp_path, name):
    WRITERS[name](tmp_path / name)
    task = find(str(write(tmp_path, TASK.format(name))))
    train, dev = data.load(task, "train"), data.load(task, "dev")
    rows = sorted([*train, *dev], key=lambda example: int(example.id))
    assert [example.fields["body"] for example in rows] == FRAME["body"].tolist()
    assert [example.fields["note"] for example in rows] == FRAME["note"].fillna("").tolist()
    assert [example.label for example in rows] == [f"{stars:.0f}" for stars in FRAME["stars"]]
    assert (task.name, task.eval_split, task.words["-1"]) == ("own/t", "dev", "bad")
    assert (len(train), len(dev)) == (27, 3)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=6))
def test_what_the_csv_module_writes_comes_back(tmp_path, rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    (tmp_path / "x.csv").write_bytes(buffer.getvalue().encode())
    found = [list(row.values()) for _, row in read_rows(tmp_path / "x.csv")]
    assert found == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_empty_lines_are_no_rows_and_no_header(tmp_path, end):
    text = end.join(["", "", "a;b", "", "1;x,y,z", "", ""])
    (tmp_path / "x.csv").write_bytes(text.encode())
    assert list(read_rows(tmp_path / "x.csv")) == [(f"{tmp_path / 'x.csv'}:5", {"a": "1", "b": "x,y,z"})]


def test_lines_are_those_of_the_file(tmp_path):
    text = 'a,b\n1,"two\nlines"\n\n3,4\n5\n6,7\n'
    (tmp_path / "x.csv").write_text(text)
    found = [(where.rsplit(":", 1)[1], row) for where, row in read_rows(tmp_path / "x.csv")]
    assert [line for line, _ in found] == ["2", "5", "6", "7"]
    assert str(found[2][1]).endswith("x.csv:6: 1 columns, and 2 are needed (a, b); mend or remove this line")
    assert found[3][1] == {"a": "6", "b": "7"}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.csv", b'a,b\n1,"never closed\n2,3\n', r"x.csv:2: not valid CSV .*is a quote missing"),
        ("x.csv", b"a,a\n1,2\n", r"x.csv:1: the column 'a' stands there twice"),
        ("x.csv", b"\n\na,a\n1,2\n", r"x.csv:3: the column 'a' stands there twice"),
        ("x.csv", b"", "the file is empty"),
        ("x.csv", b"a\n\xff\n", "byte 2 is not UTF-8"),
        ("x.txt", b"a\n", "files of this kind cannot be read"),
        ("x.parquet", b"PAR1 or not", "not a parquet file"),
        ("x.jsonl", b'{"a": 1}\n[1]\n', "x.jsonl:2: a JSON list stands here"),
        ("x.jsonl", rb'{"a": "\ud83d\ude00"}' + b"\n" + rb'{"a": ["\uD83D"]}', "x.jsonl:2: half a character"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        read_all(tmp_path / name)


def read_all(path: Path) -> None:
    for _, row in read_rows(path):
        if isinstance(row, UserError):
            raise row


BASE = {"train": "x.csv", "template": "{a} What?", "labels": {"p": "yes", "n": "no"}}


def broken(**changes) -> str:
    values = {**BASE, **changes}
    return yaml.safe_dump({k: v for k, v in values.items() if v is not None}, sort_keys=False)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (broken(train=None), ":1: no rows: name a file at train"),
        (broken(train=None, tain="x.csv"), r":\d: tain: no such entry \(did you mean 'train'\?\)"),
        (broken(template=None), "template is missing: The prompt"),
        (broken(template="no column"), ":2: template: it names no column"),
        (broken(template="{a"), ":2: template: .*literal brace"),
        (broken(template="{a.b}"), ":2: template: a template field is a bare name"),
        (broken(template="{label} {a}"), r":2: template: it shows the label \(label\)"),
        (broken(instruction="Look at {a}"), "instruction: it is the same for every row"),
        (broken(labels={"p": "yes"}), ":3: at least two labels"),
        (broken(labels={"p": "Yes", "n": "yes"}), ":3: labels: 'p' and 'n' have the same word 'yes'"),
        (broken(labels={"p": "yes", "n": " "}), ":3: labels: the word of 'n' is empty"),
        (broken(labels={"p": "yes", "n": None}), ":5: labels.n: input should be a valid string"),
        (broken(labels={"p": "yes", "P": "no"}), "differ in nothing but upper and lower case"),
        (broken(labels=None), "give either labels"),
        (broken(numbers={"low": 0, "high": 5}), ":3: give either labels"),
        (broken(labels=None, numbers={"low": 0, "high": 5, "step": 0.7}), ":3: numbers: from low to high"),
        (broken(labels=None, numbers={"low": 0, "high": "inf"}), ":3: numbers: from low to high"),
        (broken(labels=None, numbers={"low": "nan", "high": 5}), ":3: numbers: from low to high"),
        (broken(labels=None, numbers={"low": -1e308, "high": 1e308}), ":3: numbers: from low to high"),
        (broken(labels=None, numbers={"low": 0, "high": "five"}), ":5: numbers.high: input should be a valid number"),
        (broken(metrics=["acuracy"]), r":6: metrics: no metric is called 'acuracy' \(did you mean 'accuracy'\?\)"),
        (broken(metrics=[]), "name at least one of"),
        (broken(metrics=["spearman"]), "spearman is for numbers"),
        (broken(labels=None, numbers={"low": 0, "high": 5}, metrics=["f1"]), "f1 is for labels"),
        (broken(labels=["a", "b", "c"], metrics=["f1"]), "f1 is for two labels; with more take macro_f1"),
        (broken(name="my task!"), "name: it begins with a letter or a digit"),
        (broken(fields={"text": "a"}), ":6: fields: the template shows no {text}"),
        (broken(free=["A"]), r":6: free: the template shows no {A}"),
        ("x: &x [*x]\n", "an anchor .* stands within itself"),
        (broken(dev_share=1.5), "dev_share: input should be less than 1"),
        ("train: x.csv\ntrain: y.csv\n", ":2: train stands there twice"),
        ("train: [x\n", ":2: not valid YAML"),
        ("- a\n", ":1: a task file holds lines"),
        ("", ":1: a task file holds lines"),
    ],
)
def test_a_task_file_that_is_wrong_is_told_by_line(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint):
        read_task(write(tmp_path, text))


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        read_task(write(tmp_path, broken(template="none", labels={"p": "x", "n": "x"}, metrics=["pearson"])))
    assert [part.split(":")[1] for part in str(caught.value).split("; ")] == ["2", "3", "6"]


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=80)
    | st.dictionaries(st.sampled_from([*BASE, "dev", "x"]), st.text(max_size=5)).map(yaml.safe_dump)
)
def test_no_text_ends_in_a_traceback(tmp_path, text):
    (tmp_path / "t.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_task(tmp_path / "t.yaml").name
    except UserError as wrong:
        found = str(wrong)
    assert found == "own/t" or str(tmp_path / "t.yaml") in found or text.startswith("name")


def test_letters_not_guesses(tmp_path):
    """YAML would read no, yes, on, 1 and 1.0 as something else than what stands there."""
    text = "train: x.csv\ntemplate: '{on}'\nlabel: no\nid: yes\nlabels: {1: off, 1.5: on, null: none, ~: nil}\n"
    with pytest.raises(UserError, match=r"labels\.1 stands there twice"):
        read_task(write(tmp_path, text.replace("1.5: on", "1: on")))
    task = read_task(write(tmp_path, "train: x.csv\ntemplate: '{on}'\nlabel: no\nid: yes\nlabels: {1: off, 1.5: on}\n"))
    assert task.columns == {"on": ("on",), LABEL: ("no",), ID: ("yes",)}
    assert task.words == {"1": "off", "1.5": "on"}
    write(tmp_path, "on,no,yes\nfirst,1,a\nsecond,1.50,b\n", "x.csv")
    rows = [example for split in ("train", "dev") for example in data.load(task, split)]
    assert sorted((e.id, e.fields["on"], e.label) for e in rows) == [("a", "first", "1"), ("b", "second", "1.5")]


def test_rows_that_cannot_be_used(tmp_path, capsys):
    lines = ["a,label", *(f"text {i},{'p' if i % 2 else 'n'}" for i in range(20)), "odd,maybe", ",p", "no label,"]
    write(tmp_path, "\n".join(lines), "x.csv")
    task = read_task(write(tmp_path, broken()))
    with pytest.raises(UserError, match=r"x.csv:22: unknown label 'maybe'; the labels are p, n; .*--max-bad-rows$"):
        data.load(task, "train")
    with pytest.raises(UserError, match=r"x.csv:24: no label, .*\(this is bad row 3; --max-bad-rows 2\)"):
        data.load(task, "train", max_bad_rows=2)
    assert len(data.load(task, "train", max_bad_rows=3)) + len(data.load(task, "dev", max_bad_rows=3)) == 20
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    # each once, though the file is read for two splits
    assert [line.split(":")[2] for line in told] == ["22", "23", "24"], told


def test_a_column_for_the_id_that_is_not_there(tmp_path):
    write(tmp_path, "a,label\n1,p\n2,n\n", "x.csv")
    with pytest.raises(UserError, match=r"x.csv:2: no column 'key'; the columns are a, label"):
        data.load(read_task(write(tmp_path, broken(id="key"))), "train")


@given(count=st.integers(2, 60), share=st.sampled_from([0.1, 0.3, 0.5]))
@settings(deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_in_train_or_dev(tmp_path, count, share):
    write(tmp_path, "a,label\n" + "".join(f"{i},{'pn'[i % 2]}\n" for i in range(count)), "x.csv")
    task = read_task(write(tmp_path, broken(dev_share=share)))
    train, dev = ({e.fields["a"] for e in data.load(task, split)} for split in ("train", "dev"))
    assert not train & dev
    assert train | dev == {str(i) for i in range(count)}
    assert len(dev) == max(1, round(share * count))
    assert dev == {e.fields["a"] for e in data.load(read_task(tmp_path / "t.yaml"), "dev")}


@pytest.mark.parametrize(
    ("rows", "changes", "split", "complaint"),
    [
        ("", {}, "train", "own/t has no train row in x.csv$"),
        ("", {}, "dev", "own/t has no dev row in x.csv$"),
        ("1,p\n", {}, "train", r"no train row in x.csv: of its 1 all are kept apart for dev \(dev_share\)"),
        ("1,p\n2,n\n", {"dev_share": 0.9}, "train", "no train row in x.csv: of its 2 all are kept apart"),
        ("", {"test": "x.csv"}, "test", "own/t has no test row in x.csv$"),
    ],
)
def test_a_table_without_rows_is_no_data(tmp_path, rows, changes, split, complaint):
    write(tmp_path, f"a,label\n{rows}", "x.csv")
    with pytest.raises(UserError, match=complaint):
        data.load(read_task(write(tmp_path, broken(**changes))), split)


def test_the_copy_in_a_run_means_the_same_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", "a,label\n1,p\n2,n\n", "x.csv")
    path = write(tmp_path / "in", broken(free=["a"], instruction="Say.", id="a"), "my task.yaml")
    dump(path, tmp_path / "run" / "tasks" / "my task.yaml")
    monkeypatch.chdir("/")
    copy, original = read_task(tmp_path / "run" / "tasks" / "my task.yaml"), read_task(path)
    assert copy.name == original.name == "own/my-task"
    assert [e.label for e in data.load(copy, "dev")] == [e.label for e in data.load(original, "dev")]
    same = ("columns", "labels", "words", "plain", "ask", "body", "metrics", "free", "numeric", "eval_split")
    assert {name: getattr(copy, name) for name in same} == {name: getattr(original, name) for name in same}


def test_numbers(tmp_path):
    text = broken(labels=None, numbers={"low": -1, "high": 1, "step": 0.25}, metrics=["spearman", "accuracy"])
    task = read_task(write(tmp_path, text))
    assert task.labels == ("-1.00", "-0.75", "-0.50", "-0.25", "0.00", "0.25", "0.50", "0.75", "1.00")
    assert task.label_of("-1") == "-1"  # a number here, though the hub's mark for hidden labels elsewhere
    assert task.label_of("") is None
    assert task.parse("It is -0.5") == "-0.5"
    with pytest.raises(ValueError, match="not a number from -1 to 1"):
        task.label_of("1.5")


def test_a_hub_data_set(tmp_path, monkeypatch):
    import datasets

    labels = datasets.ClassLabel(names=["World", "Sports"])
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: asked.append((args, kw)) or made)
    text = yaml.safe_dump(
        {
            "hub": {"dataset": "some/news", "config": "en", "revision": "abc"},
            "dev": "validation",
            "test": "test",
            "template": "{text}",
            "labels": ["World", "Sports"],
        }
    )
    task = read_task(write(tmp_path, text))
    assert [e.label for e in data.load(task, "test")] == ["Sports", "World", None]
    assert asked == [(("some/news", "en"), {"split": "test", "revision": "abc"})]
    with pytest.raises(UserError, match="some/news:2: no label"):
        data.load(task, "dev")


def test_a_task_file_beside_suites(tmp_path):
    write(tmp_path, "a,label\n1,p\n2,n\n", "x.csv")
    path = write(tmp_path, broken())
    assert [task.name for task in find_all(f"mini/question, {path}")] == ["mini/question", "own/t"]
    task = find(str(path))
    assert data.load(task, "dev", tmp_path / "elsewhere"), "--data of the benchmarks does not hide the file"
    with pytest.raises(UserError, match="no test rows: name a file at test:"):
        data.load(task, "test")
    with pytest.raises(UserError, match=r"x2\.csv: no such file .*; the task's file names it at train:"):
        data.load(read_task(write(tmp_path, broken(train="x2.csv"))), "train")


def test_rows_to_predict_go_by_field_or_by_column(tmp_path):
    task = read_task(write(tmp_path, broken(template="{a} {b}", fields={"a": "Body Text"}, id="no")))
    found = data.example_from_fields(task, {"Body Text": "x", "b": None, "no": 7}, "x.csv:2")
    assert (found.id, found.fields) == ("7", {"a": "x", "b": ""})
    assert data.example_from_fields(task, {"a": "x", "b": "y"}, "x.csv:3").id == "3"
    with pytest.raises(UserError, match=r"x\.csv:2: own/t needs the field 'b'"):
        data.example_from_fields(task, {"a": "x"}, "x.csv:2")
    with pytest.raises(UserError, match="is empty"):
        data.example_from_fields(task, {"a": " ", "b": None}, "x.csv:2")
    json.dumps(dict(found.fields))


def test_two_rows_of_one_id_are_named(tmp_path):
    """Methods are compared row by row, by the id: a second one would stand in for the first."""
    (tmp_path / "rows.csv").write_text("key,body,stars\na,one,1\nb,two,0\na,three,1\n", encoding="utf-8")
    text = 'train: rows.csv\ndev: rows.csv\ntemplate: "{body}"\nlabel: stars\nid: key\nlabels: {0: meh, 1: good}\n'
    task = find(str(write(tmp_path, text)))
    with pytest.raises(UserError, match=r"rows\.csv:4: the id 'a' stands at .*rows\.csv:2 too"):
        data.load(task, "train")
    assert [row.id for row in data.load(task, "train", max_bad_rows=1)] == ["a", "b"]


def test_the_column_that_was_learnt_from_is_the_one_that_is_asked(tmp_path):
    """Whatever other columns a table has; one that is misspelt is not replaced by another."""
    text = "train: rows.csv\ntemplate: '{text}'\nlabel: topic\nlabels: [a, b]\n"
    rows = "text,clean,topic\n" + "".join(f"raw {i},clean {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    task = read_task(write(tmp_path, text + "fields: {text: clean}\n"))
    assert all(row.fields["text"].startswith("clean") for row in data.load(task, "train"))
    asked = data.example_from_fields(task, {"text": "raw 1", "clean": "clean 1"}, "new.csv:2")
    assert asked.fields == {"text": "clean 1"}
    assert data.example_from_fields(task, {"text": "of the template"}, "new.csv:3").fields == {
        "text": "of the template"
    }
    with pytest.raises(UserError, match=r"no column 'claen' \(did you mean 'clean'\?\)"):
        data.load(read_task(write(tmp_path, text + "fields: {text: claen}\n")), "train")


@pytest.mark.parametrize("named", ["", "id: id\n"])
def test_columns_called_id_and_label_may_be_shown(tmp_path, named):
    text = (
        f"train: rows.csv\ntemplate: 'Ticket {{id}} under {{label}}: {{text}}'\nlabel: topic\n{named}labels: [a, b]\n"
    )
    rows = "".join(f"T{i},old {i},text {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(f"id,label,text,topic\n{rows}", encoding="utf-8")
    task = read_task(write(tmp_path, text))
    row = data.load(task, "train")[0]
    number = row.fields["id"].removeprefix("T")
    assert row.fields == {"id": f"T{number}", "label": f"old {number}", "text": f"text {number}"}
    assert row.label == "ab"[int(number) % 2]
    assert (row.id == row.fields["id"]) == bool(named)
    assert Prompter(task).prompt(row).text == f"Ticket T{number} under old {number}: text {number}"


def test_a_csv_that_cannot_be_read_on_is_not_cut_short(tmp_path):
    """A thousand rows behind a stray quote are not one bad row."""
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(1000)]
    rows[3] = '"never closed,a'
    (tmp_path / "rows.csv").write_text("text,topic\n" + "\n".join(rows), encoding="utf-8")
    task = read_task(write(tmp_path, "train: rows.csv\ntemplate: '{text}'\nlabel: topic\nlabels: [a, b]\n"))
    for allowed in (0, 1, 2000):
        with pytest.raises(UserError, match=r"rows\.csv:5: not valid CSV") as wrong:
            data.load(task, "train", max_bad_rows=allowed)
        assert "max-bad-rows" not in str(wrong.value)


def test_two_files_that_a_run_could_not_tell_apart_are_refused(tmp_path):
    text = "train: rows.csv\ntemplate: '{text}'\nlabel: topic\nlabels: [a, b]\n"
    for name, more in (("a/t.yaml", ""), ("b/t.yaml", ""), ("c/t.yaml", "name: other\n"), ("c/u.yaml", "name: t\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + more)
    a, b, c, u = (str(tmp_path / name) for name in ("a/t.yaml", "b/t.yaml", "c/t.yaml", "c/u.yaml"))
    assert [task.name for task in find_all(f"{a},{a}")] == ["own/t"]
    for both in ((a, b), (a, u)):
        with pytest.raises(UserError, match="another file's task is called own/t too"):
            find_all(",".join(both))
    with pytest.raises(UserError, match=r"a run keeps copies of .*a/t\.yaml and .*c/t\.yaml"):
        find_all(f"{a},{c}")
    assert [task.name for task in find_all(f"{c},{u},glue/rte,glue/rte")] == ["own/other", "own/t", "glue/rte"]


def test_what_has_changed_since_a_run_is_named(tmp_path):
    """The task's file, or the rows it names; where they lie does not count."""
    text = "train: rows.csv\ntemplate: '{text}'\nlabel: topic\nlabels: [a, b]\n"
    file, table, run = write(tmp_path, text), tmp_path / "rows.csv", tmp_path / "run"
    table.write_text("text,topic\nx,a\ny,b\n")
    dump(file, run / "tasks" / file.name)
    (run / "environment.json").write_text(json.dumps({"tables": {file.name: digests(file)}}))
    assert changed_since(file, run) == ""
    moved = tmp_path / "moved"
    moved.mkdir()
    for one in (file, table):
        (moved / one.name).write_text(one.read_text())
    assert changed_since(moved / file.name, run) == ""
    table.write_text("text,topic\nx,b\ny,b\n")
    assert changed_since(file, run) == f"the train table of {file}"
    write(tmp_path, text.replace("[a, b]", "{a: good, b: bad}"))
    assert changed_since(file, run) == str(file)


def test_the_long_template_shows_what_the_last_line_holds(tmp_path):
    """A cue with data of the row cannot be left out; one without can."""
    for cue, body in (("Question: {note} Answer:", "{body}\nQuestion: {note} Answer:"), ("Rate it:", "{body}")):
        task = read_task(write(tmp_path, yaml.safe_dump({**yaml.safe_load(broken()), "template": f"{{body}}\n{cue}"})))
        assert task.body == body
        row = Example("0", {"body": "Fine.", "note": "Why?"}, None)
        assert ("Why?" in Prompter(task, "verdict").prompt(row).text) == ("{note}" in cue)


def test_cells_that_are_no_text(tmp_path):
    """Bytes are read as UTF-8; a list would be shown as Python writes it."""
    task = read_task(write(tmp_path, broken()))
    names = [columns[0] for name, columns in task.columns.items() if name not in (LABEL, ID)]
    example = data.example_from_fields(task, dict.fromkeys(names, "Größe".encode()), "a.parquet:2")
    assert set(example.fields.values()) == {"Größe"}
    for odd in (["a", "b"], {"a": 1}):
        with pytest.raises(UserError, match=r"a\.parquet:2: .*stands where a text or a number belongs"):
            data.example_from_fields(task, dict.fromkeys(names, odd), "a.parquet:2")
    for nothing in (None, float("nan")):
        row = {**dict.fromkeys(names, "x"), "id": nothing}
        assert data.example_from_fields(task, row, "a.parquet:7").id == "7"


def test_blanks_around_a_label_word_do_not_count(tmp_path):
    """An answer is read without them; two words that differ in nothing else are one."""
    task = read_task(write(tmp_path, broken(labels={"p": " yes", "n": "no"})))
    prompter = Prompter(task)
    assert [prompter.parse(answer) for answer in prompter.answers] == ["p", "n"]
    with pytest.raises(UserError, match="have the same word 'yes'"):
        read_task(write(tmp_path, broken(labels={"p": "yes ", "n": "yes"})))
