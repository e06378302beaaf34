"""Server files: made from the official test rows, checked line by line; every kind of damage is named."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest

from rl4nlu import data
from rl4nlu.errors import UserError
from rl4nlu.server import BY_TASK, check_zip
from rl4nlu.submit import submit
from rl4nlu.tasks import TASKS, find

GLUE = ["cola", "sst2", "mrpc", "stsb", "qnli", "rte", "wnli", "ax"]
SUPERGLUE = ["boolq", "cb", "copa", "multirc", "rte", "wic", "wsc", "axb", "axg"]


def said(task, i: int) -> str:
    """A made-up prediction: the labels in turn; of STS-B numbers."""
    return f"{i % 51 / 10:.4f}" if task.numeric else task.labels[i % len(task.labels)]


def make_run(folder: Path, name: str, rows, split="test", unparsable=()) -> Path:
    """A run folder as `evaluate --split test` leaves it, written by hand."""
    task = find(name)
    folder.mkdir(parents=True)
    with (folder / "predictions.jsonl").open("w") as file:
        for i, row in enumerate(rows):
            places = {"group": row.group, "document": row.document, "meta": row.meta}
            line = {"task": name, "id": row.id, "gold": None, "prediction": None if i in unparsable else said(task, i)}
            file.write(
                json.dumps({**line, "scores": None, "text": None, **{k: v for k, v in places.items() if v}}) + "\n"
            )
    result = {"task": name, "split": split, "n": len(rows), "metrics": {}, "stderr": {}, "method": "sft"}
    (folder / "results.json").write_text(json.dumps({"schema": 1, "results": [result]}))
    return folder


@pytest.fixture(scope="module")
def runs(real_data, tmp_path_factory) -> Path:
    """One run a task, on all official test rows at hand."""
    folder = tmp_path_factory.mktemp("runs")
    for suite, names in (("glue", GLUE), ("superglue", SUPERGLUE)):
        for name in names:
            rows = data.load(find(f"{suite}/{name}"), "test", real_data)
            make_run(folder / suite / name, f"{suite}/{name}", rows)
    return folder


@pytest.fixture(scope="module")
def zips(runs) -> dict[str, Path]:
    for suite in ("glue", "superglue"):
        submit([runs / suite], runs / f"{suite}.zip")
    return {suite: runs / f"{suite}.zip" for suite in ("glue", "superglue")}


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def lines_of(path: Path, name: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode().splitlines()


def test_the_table_knows_every_task_with_a_server():
    assert set(BY_TASK) == {name for name, task in TASKS.items() if task.suite in ("glue", "superglue")}


def test_all_official_rows_pass_and_what_is_missing_is_named(zips, runs):
    assert check_zip(zips["glue"]) == ([], ["glue/qqp", "glue/mnli", "glue/mnli-mm"])
    assert check_zip(zips["superglue"]) == ([], ["superglue/record"])
    made = submit([runs / "glue"], runs / "again.zip")
    assert made.missing == ["glue/qqp", "glue/mnli", "glue/mnli-mm"]
    assert made.filled == 0
    assert (runs / "again.zip").read_bytes() == zips["glue"].read_bytes(), "the same predictions give the same bytes"


OFFICIAL = {
    "CoLA.tsv": ("glue/CoLA/test.tsv", {"unacceptable": "0", "acceptable": "1"}),
    "SST-2.tsv": ("glue/SST-2/test.tsv", {"negative": "0", "positive": "1"}),
    "MRPC.tsv": ("glue/MRPC/test.tsv", {"different": "0", "same": "1"}),
    "QNLI.tsv": ("glue/QNLI/test.tsv", {"entailment": "entailment", "not_entailment": "not_entailment"}),
    "RTE.tsv": ("glue/RTE/test.tsv", {"entailment": "entailment", "not_entailment": "not_entailment"}),
    "WNLI.tsv": ("glue/WNLI/test.tsv", {"not_entailment": "0", "entailment": "1"}),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_glue_files_against_the_official_ones(zips, real_data, name):
    path, numbers = OFFICIAL[name]
    task = next(find(task) for task, file in BY_TASK.items() if file.name == name)
    with (real_data / path).open(encoding="utf-8-sig", newline="") as file:
        official = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    expected = [f"{row['index']}\t{numbers[said(task, i)]}" for i, row in enumerate(official)]
    assert lines_of(zips["glue"], name) == ["index\tprediction", *expected]


def test_stsb_and_ax(zips):
    stsb = lines_of(zips["glue"], "STS-B.tsv")
    assert stsb[:4] == ["index\tprediction", "0\t0.000", "1\t0.100", "2\t0.200"]
    assert len(stsb) == 1 + 1379
    ax = lines_of(zips["glue"], "AX.tsv")
    assert ax[1:4] == ["0\tentailment", "1\tneutral", "2\tcontradiction"]
    assert len(ax) == 1 + 1104


@pytest.mark.parametrize(
    ("name", "folder", "first", "second"),
    [
        ("BoolQ.jsonl", "BoolQ/test", "false", "true"),
        ("CB.jsonl", "CB/test", "entailment", "contradiction"),
        ("COPA.jsonl", "COPA/test", 0, 1),
        ("RTE.jsonl", "RTE/test", "entailment", "not_entailment"),
        ("WiC.jsonl", "WiC/test", "false", "true"),
        ("WSC.jsonl", "WSC/test", "False", "True"),
        ("AX-b.jsonl", "AX-b/AX-b", "entailment", "not_entailment"),
        ("AX-g.jsonl", "AX-g/AX-g", "entailment", "not_entailment"),
    ],
)
def test_superglue_files_against_the_official_ones(zips, real_data, name, folder, first, second):
    official = read_jsonl(real_data / "superglue" / f"{folder}.jsonl")
    found = [json.loads(line) for line in lines_of(zips["superglue"], name)]
    assert [row["idx"] for row in found] == [int(row["idx"]) for row in official]
    assert [row["label"] for row in found[:2]] == [first, second]
    assert [type(row["label"]) for row in found[:2]] == [type(first), type(second)]


def test_multirc_has_the_official_shape(zips, real_data):
    official = read_jsonl(real_data / "superglue" / "MultiRC" / "test.jsonl")
    found = [json.loads(line) for line in lines_of(zips["superglue"], "MultiRC.jsonl")]

    def ids(passages):
        return [
            (p["idx"], q["idx"], a["idx"]) for p in passages for q in p["passage"]["questions"] for a in q["answers"]
        ]

    assert ids(found) == ids(official)
    labels = [a["label"] for p in found for q in p["passage"]["questions"] for a in q["answers"]]
    assert labels == [i % 2 for i in range(9693)]


def test_record_answers_with_the_entity_believed_most(tmp_path):
    rows = []
    for query in range(10_000):
        for i, (entity, logp) in enumerate([("Oslo", -2.0), ("Bergen", -0.5 if query % 2 else -3.0)]):
            scores = {"False": -0.3, "True": logp}
            meta = {"query": query, "entity": entity, "answers": None}
            row = {"task": "superglue/record", "id": f"{query}-{i}", "gold": None, "prediction": "False"}
            rows.append(json.dumps({**row, "scores": scores, "text": None, "group": str(query), "meta": meta}))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions.jsonl").write_text("\n".join(rows))
    result = {"task": "superglue/record", "split": "test", "n": len(rows), "metrics": {}}
    (tmp_path / "run" / "results.json").write_text(json.dumps({"schema": 1, "results": [result]}))
    submit([tmp_path / "run"], tmp_path / "a.zip")
    found = [json.loads(line) for line in lines_of(tmp_path / "a.zip", "ReCoRD.jsonl")]
    assert found[:2] == [{"idx": 0, "label": "Oslo"}, {"idx": 1, "label": "Bergen"}]


def test_what_cannot_be_parsed_gets_the_first_label_and_is_counted(tmp_path, real_data):
    rows = data.load(find("glue/wnli"), "test", real_data)
    made = submit([make_run(tmp_path / "run", "glue/wnli", rows, unparsable={1, 3})], tmp_path / "a.zip")
    assert made.filled == 2
    assert lines_of(tmp_path / "a.zip", "WNLI.tsv")[1:5] == ["0\t0", "1\t0", "2\t0", "3\t0"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [(50, "WNLI.tsv: 50 rows, and the test split has 146"), (0, "WNLI.tsv: 0 rows")],
)
def test_a_run_on_some_of_the_rows_is_refused_and_nothing_is_left(tmp_path, real_data, rows, complaint):
    some = data.load(find("glue/wnli"), "test", real_data)[:rows]
    run = make_run(tmp_path / "run", "glue/wnli", some)
    with pytest.raises(UserError, match=complaint):
        submit([run], tmp_path / "a.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_does_not_go_together(tmp_path, real_data):
    wnli = data.load(find("glue/wnli"), "test", real_data)
    copa = data.load(find("superglue/copa"), "test", real_data)
    first, second = (make_run(tmp_path / name, "glue/wnli", wnli) for name in ("first", "second"))
    other = make_run(tmp_path / "other", "superglue/copa", copa)
    dev = make_run(tmp_path / "dev", "glue/wnli", wnli, split="dev")
    with pytest.raises(UserError, match=r"first and .*second both hold test predictions of glue/wnli"):
        submit([first, second], tmp_path / "a.zip")
    with pytest.raises(UserError, match="a server each"):
        submit([first, other], tmp_path / "a.zip")
    with pytest.raises(UserError, match="--split test"):
        submit([dev], tmp_path / "a.zip")
    with pytest.raises(UserError, match="is there already"):
        submit([first], tmp_path / "dev")
    with pytest.raises(UserError, match="cannot be written"):
        submit([first], tmp_path / "nowhere" / "a.zip")


# -- damage ------------------------------------------------------------------------------------------------------------


def damaged(zips, tmp_path, suite, name, change, new_name=None) -> list[str]:
    """The problems of a zip in which one file was changed."""
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(zips[suite]) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            target.writestr(
                new_name if new_name and member == name else member, change(content) if member == name else content
            )
    return check_zip(path)[0]


def line(number, *texts):
    """Put these lines in place of one, counted from 1."""

    def apply(content: bytes) -> bytes:
        lines = content.split(b"\n")
        lines[number - 1 : number] = [text.encode() for text in texts]
        return b"\n".join(lines)

    return apply


def same(content: bytes) -> bytes:
    return content


GONE = "the row {} is missing"
COUNT = "{} rows, and the test split has {}"
SHORT = f": {COUNT.format(1103, 1104)}"
DAMAGE = [
    ("RTE.tsv", line(7), [f": {GONE.format(5)}", f": {COUNT.format(2999, 3000)}"]),
    ("RTE.tsv", line(1, "id\tlabel"), [":1: the header is 'id\\tlabel', and 'index\\tprediction' is needed"]),
    ("CoLA.tsv", line(3, "1\tacceptable"), [":3: the label 'acceptable' is none of '0', '1'"]),
    ("STS-B.tsv", line(2, "0\t5.1"), [":2: the prediction '5.1' is not a number from 0 to 5"]),
    ("STS-B.tsv", line(2, "0\tnan"), [":2: the prediction 'nan' is not a number from 0 to 5"]),
    ("STS-B.tsv", line(2, "0\t1_0e-1"), [":2: the prediction '1_0e-1' is not a number from 0 to 5"]),
    ("STS-B.tsv", line(2, "0\t\u0663"), [":2: the prediction '\u0663' is not a number from 0 to 5"]),
    ("STS-B.tsv", line(2, "0\t 3 "), [":2: the prediction ' 3 ' is not a number from 0 to 5"]),
    (
        "AX.tsv",
        line(2, "0"),
        [":2: 1 columns, and 2 are needed", f": {GONE.format(0)}", f": {COUNT.format(1103, 1104)}"],
    ),
    (
        "WNLI.tsv",
        line(4, "1\t0"),
        [":4: the row 1 stands at line 3 already", f": {GONE.format(2)}", f": {COUNT.format(145, 146)}"],
    ),
    (
        "WNLI.tsv",
        line(147, "145\t0", "146\t0"),
        [":148: there is no row 146 in the test split", f": {COUNT.format(147, 146)}"],
    ),
    ("MRPC.tsv", lambda content: content.replace(b"index", b"\xff\xfe"), [": byte 0 is not UTF-8"]),
    (
        "CB.jsonl",
        line(1, '{"idx": 0, "label": "Entailment"}'),
        [":1: the label 'Entailment' is none of 'entailment', 'contradiction', 'neutral'"],
    ),
    ("BoolQ.jsonl", line(2, '{"idx": 1, "label": "True"}'), [":2: the label 'True' is none of 'false', 'true'"]),
    ("COPA.jsonl", line(2, '{"idx": 1, "label": true}'), [":2: the label True is none of 0, 1"]),
    ("WSC.jsonl", line(2, '{"idx": 1, "label": "true"}'), [":2: the label 'true' is none of 'False', 'True'"]),
    (
        "WiC.jsonl",
        line(2, '{"idx": 1, "label":'),
        [":2: not a JSON object", f": {GONE.format(1)}", f": {COUNT.format(1399, 1400)}"],
    ),
    (
        "AX-b.jsonl",
        line(2, '{"id": 1, "label": "entailment"}'),
        [
            ":2: the keys are id, label, and idx and label are needed",
            f": {GONE.format(1)}",
            f": {COUNT.format(1103, 1104)}",
        ],
    ),
]


@pytest.mark.parametrize(("name", "change", "expected"), DAMAGE)
def test_damage_is_named_by_file_and_line(zips, tmp_path, name, change, expected):
    suite = "glue" if name.endswith(".tsv") else "superglue"
    assert sorted(damaged(zips, tmp_path, suite, name, change)) == sorted(name + text for text in expected)


def test_multirc_damage_is_named(zips, tmp_path):
    def lose_an_answer(content: bytes) -> bytes:
        lines = content.decode().split("\n")
        passage = json.loads(lines[2])
        lost = passage["passage"]["questions"][0]["answers"].pop()
        lines[2] = json.dumps(passage)
        lose_an_answer.row = lost["idx"]
        return "\n".join(lines).encode()

    found = damaged(zips, tmp_path, "superglue", "MultiRC.jsonl", lose_an_answer)
    assert found == [
        "MultiRC.jsonl: 9692 rows, and the test split has 9693",
        f"MultiRC.jsonl: the row {lose_an_answer.row} is missing",
    ]
    found = damaged(zips, tmp_path, "superglue", "MultiRC.jsonl", line(1, '{"idx": 0, "label": 1}'))
    assert found[0] == "MultiRC.jsonl:1: not of the form idx, passage: questions: idx, answers: idx, label"


def test_wrong_names(zips, tmp_path):
    (found,) = damaged(zips, tmp_path, "glue", "SST-2.tsv", same, "SST2.tsv")
    assert found == "SST2.tsv: the servers know no file of this name (did you mean 'SST-2.tsv'?)"
    (found,) = damaged(zips, tmp_path, "glue", "SST-2.tsv", same, "glue/SST-2.tsv")
    assert found == "glue/SST-2.tsv: the servers know no file of this name; files must not lie in a folder"
    problems = damaged(
        zips, tmp_path, "glue", "RTE.tsv", lambda _: lines_of(zips["superglue"], "CB.jsonl")[0].encode(), "CB.jsonl"
    )
    assert "files of GLUE and of SuperGLUE are in one zip, and each has a server of its own" in problems


def test_many_problems_of_a_file_are_counted(zips, tmp_path):
    found = damaged(zips, tmp_path, "glue", "RTE.tsv", lambda content: content.replace(b"not_entailment", b"no"))
    assert len(found) == 6
    assert found[-1] == "RTE.tsv: and 1495 more like these"


def test_no_zip_and_an_empty_one(tmp_path):
    (tmp_path / "a.zip").write_text("index\tprediction\n")
    with pytest.raises(UserError, match="not a zip that can be read"):
        check_zip(tmp_path / "a.zip")
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "b.zip").write_bytes(buffer.getvalue())
    assert check_zip(tmp_path / "b.zip")[0] == ["there is no file in it"]
    with pytest.raises(UserError, match="no such file"):
        check_zip(tmp_path / "nowhere.zip")


@pytest.mark.parametrize(
    ("task", "name", "rows", "first"),
    [
        ("glue/mnli", "MNLI-m.tsv", 9796, ["0\tentailment", "1\tneutral", "2\tcontradiction"]),
        ("glue/mnli-mm", "MNLI-mm.tsv", 9847, ["0\tentailment", "1\tneutral", "2\tcontradiction"]),
        ("glue/qqp", "QQP.tsv", 390_965, ["0\t0", "1\t1", "2\t0"]),
    ],
)
def test_the_large_files_of_glue(tmp_path, task, name, rows, first):
    """The official rows are not at hand; how many there are, and what a line says, the server's own sample tells."""
    assert (BY_TASK[task].name, BY_TASK[task].rows) == (name, rows)
    if task == "glue/qqp":
        assert dict(BY_TASK[task].labels) == {"different": "0", "duplicate": "1"}
        return
    labels = ("entailment", "neutral", "contradiction")
    run = make_run(tmp_path / "run", task, [data.Example(str(i), {}, None) for i in range(rows)])
    lines = (run / "predictions.jsonl").read_text().splitlines()
    turned = [json.dumps({**json.loads(line), "prediction": labels[i % 3]}) for i, line in enumerate(lines)]
    (run / "predictions.jsonl").write_text("\n".join(turned) + "\n")
    submit([run], tmp_path / "glue.zip")
    with zipfile.ZipFile(tmp_path / "glue.zip") as file:
        written = file.read(name).decode().splitlines()
    assert written[:4] == ["index\tprediction", *first]
    assert len(written) == rows + 1
