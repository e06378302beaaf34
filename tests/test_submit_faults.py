"""Server files: faults that must end in one line, and MultiRC's passages."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from rl4nlu.errors import UserError
from rl4nlu.server import check_zip
from rl4nlu.submit import submit

WNLI = "index\tprediction\n" + "".join(f"{i}\t1\n" for i in range(146))


def make_zip(path: Path, name: str, text: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return path


def make_run(folder: Path, task: str, rows: list[dict], **result) -> Path:
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps({"task": task, **row}) + "\n" for row in rows))
    entry = {"task": task, "split": "test", "n": len(rows), **result}
    (folder / "results.json").write_text(json.dumps({"schema": 1, "results": [entry]}))
    return folder


def rows(prediction, n=146, **other) -> list[dict]:
    return [{"id": str(i), "prediction": prediction, "scores": None, **other} for i in range(n)]


@pytest.mark.parametrize(
    ("task", "bad"),
    [
        ("glue/wnli", rows("maybe")),
        ("glue/stsb", rows("high")),
        ("superglue/wsc", [{**row, "id": "a" + row["id"]} for row in rows("True")]),
        ("superglue/multirc", rows("True")),
        ("superglue/record", rows("True", meta={"query": 0})),
        ("superglue/record", [{"prediction": "True", "meta": {"query": 0, "entity": "x"}}]),
        ("superglue/record", rows("True", meta={"query": [0], "entity": "x"})),
        ("superglue/multirc", rows("True", meta={"paragraph": [0], "question": 0, "answer": 0})),
        ("glue/wnli", [{"id": float("inf"), "prediction": "entailment"}]),
    ],
)
def test_predictions_that_no_server_file_can_be_made_of_are_named_by_line(tmp_path, task, bad):
    with pytest.raises(UserError, match=r"predictions.jsonl:1: this line is not a prediction"):
        submit([make_run(tmp_path / "run", task, bad)], tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_predictions_in_another_encoding(tmp_path):
    run = make_run(tmp_path / "run", "glue/wnli", rows("entailment"))
    (run / "predictions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="byte 0 is not UTF-8"):
        submit([run], tmp_path / "a.zip")


def test_a_result_without_a_split_is_no_test_result(tmp_path):
    run = make_run(tmp_path / "run", "glue/wnli", rows("entailment"), split=None)
    result = json.loads((run / "results.json").read_text())
    del result["results"][0]["split"]
    (run / "results.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="--split test"):
        submit([run], tmp_path / "a.zip")


def test_out_below_a_file(tmp_path):
    run = make_run(tmp_path / "run", "glue/wnli", rows("entailment"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        submit([run], tmp_path / "file" / "a.zip")


def test_a_run_named_twice_is_one_run(tmp_path):
    run = make_run(tmp_path / "run", "glue/wnli", rows("entailment"))
    assert submit([run, run], tmp_path / "a.zip").tasks == {"glue/wnli": run}
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("WNLI.tsv").decode() == WNLI


def test_damaged_bytes(tmp_path):
    content = bytearray(make_zip(tmp_path / "a.zip", "WNLI.tsv", WNLI).read_bytes())
    start = content.index(b"WNLI.tsv") + len("WNLI.tsv")
    for i in range(start, start + 60):
        content[i] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="not a zip that can be read"):
        check_zip(tmp_path / "a.zip")


@pytest.mark.parametrize("index", ["5" * 5000, "٥", "-5", "5.0", ""])
def test_an_index_that_is_no_number(tmp_path, index):
    text = WNLI.replace("\n5\t", f"\n{index}\t")
    problems, _ = check_zip(make_zip(tmp_path / "a.zip", "WNLI.tsv", text))
    assert problems[0] == f"WNLI.tsv:7: the index {index!r} is not a whole number"
    assert problems[1:] == ["WNLI.tsv: 145 rows, and the test split has 146", "WNLI.tsv: the row 5 is missing"]


def test_a_name_in_the_wrong_case(tmp_path):
    problems, _ = check_zip(make_zip(tmp_path / "a.zip", "wnli.tsv", WNLI))
    assert problems == ["wnli.tsv: the servers know no file of this name (did you mean 'WNLI.tsv'?)"]


@pytest.fixture
def multirc(real_data) -> list[dict]:
    """What the server wants, made of the official file itself."""
    made = []
    for line in (real_data / "superglue" / "MultiRC" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        questions = [
            {"idx": q["idx"], "answers": [{"idx": a["idx"], "label": 0} for a in q["answers"]]}
            for q in row["passage"]["questions"]
        ]
        made.append({"idx": row["idx"], "passage": {"questions": questions}})
    return made


def problems_of(tmp_path: Path, passages: list[dict]) -> list[str]:
    text = "".join(json.dumps(row) + "\n" for row in passages)
    return check_zip(make_zip(tmp_path / "a.zip", "MultiRC.jsonl", text))[0]


def test_multirc_passages(tmp_path, multirc):
    assert problems_of(tmp_path, multirc) == []
    first, second, *others = multirc
    merged = {"idx": 1, "passage": {"questions": [p for row in (first, second) for p in row["passage"]["questions"]]}}
    assert problems_of(tmp_path, [merged, *others]) == ["MultiRC.jsonl: the passage 0 is missing"]
    assert problems_of(tmp_path, [{**first, "idx": 500}, second, *others]) == [
        "MultiRC.jsonl: the passage 0 is missing",
        "MultiRC.jsonl: there is no passage 500 in the test split",
    ]
    *head, last = first["passage"]["questions"]
    halves = [{"idx": 0, "passage": {"questions": part}} for part in (head, [last])]
    assert problems_of(tmp_path, [*halves, second, *others]) == [
        "MultiRC.jsonl:2: the passage 0 stands at line 1 already; it needs one line"
    ]
