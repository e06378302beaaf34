"""What a report says beside the scores, against scikit-learn, NumPy and cases worked by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from sklearn import metrics as sk

from rl4nlu.cli import main
from rl4nlu.reports import collect, differences, write
from rl4nlu.reports.curves import learning_curves
from rl4nlu.reports.examples import examples_of
from rl4nlu.reports.facts import calibration, changes, confusion, cost
from rl4nlu.reports.views import columns_of
from rl4nlu.tasks import find
from runs_made import make_run

RTE = find("glue/rte").labels
RNG = np.random.default_rng(3)
GOLDS = [RTE[i] for i in RNG.integers(2, size=150)]
SAID = [g if RNG.random() < 0.7 else RTE[1 - RTE.index(g)] for g in GOLDS]
SURE = RNG.uniform(0.5, 0.99, size=150).tolist()


def only(tmp_path, **more):
    """The column of one run on RTE."""
    values = {"said": SAID, "golds": GOLDS, **more}
    make_run(tmp_path / "run", "glue/rte", "sft", **values)
    (column,) = columns_of(collect([tmp_path / "run"]))
    return column


def test_confusion_is_scikit_learns(tmp_path):
    found = confusion(only(tmp_path))
    assert np.array_equal(found.count_GS, sk.confusion_matrix(GOLDS, SAID, labels=list(RTE)))
    assert found.n == 150


def test_confusion_shows_what_cannot_be_parsed_and_adds_seeds(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"{seed}", "glue/rte", "sft", [RTE[0], None, RTE[1]], [RTE[0], RTE[0], RTE[0]], seed)
    (column,) = columns_of(collect([tmp_path]))
    found = confusion(column)
    assert found.said == (*RTE, "not parsable")
    assert found.count_GS == ((2, 2, 2), (0, 0, 0))


def test_confusion_of_numbers_is_in_bins(tmp_path):
    make_run(tmp_path / "run", "glue/stsb", "sft", ["0.4", "5.0", "2.2"], ["0.0", "4.8", "3.0"])
    (column,) = columns_of(collect([tmp_path / "run"]))
    found = confusion(column)
    assert found.gold == ("0 to 1", "1 to 2", "2 to 3", "3 to 4", "4 to 5")
    places = {(i, j): n for i, row in enumerate(found.count_GS) for j, n in enumerate(row) if n}
    assert places == {(0, 0): 1, (4, 4): 1, (3, 2): 1}


def test_calibration_is_numpys_and_scikit_learns(tmp_path):
    found = calibration(only(tmp_path, sure=SURE))
    sure, right = np.array(SURE), np.array([s == g for s, g in zip(SAID, GOLDS, strict=True)], float)
    gap = 0.0
    for low in np.arange(10) / 10:
        here = (sure >= low) & (sure < low + 0.1)
        if here.any():
            gap += here.mean() * abs(right[here].mean() - sure[here].mean())
    assert found.ece == pytest.approx(gap, abs=1e-9)
    of_gold = np.where(right == 1, sure, 1 - sure)
    assert found.log_loss == pytest.approx(sk.log_loss(np.ones(150), of_gold, labels=[0, 1]), abs=1e-5)
    assert sum(found.count_M) == found.n == 150
    # the mean's standard error, which the bootstrap estimates
    assert found.log_loss_error == pytest.approx(np.log(of_gold).std() / math.sqrt(150), rel=0.2)
    assert 0 < found.ece_error < 0.1


def test_an_interval_has_a_width_where_all_are_right(tmp_path):
    found = calibration(only(tmp_path, said=[RTE[0]] * 5, golds=[RTE[0]] * 4 + [RTE[1]], sure=[0.95] * 4 + [0.55]))
    z, n = 1.959964, 4  # Wilson's lower bound at p = 1 is n / (n + z^2)
    assert found.low_M[-1] == pytest.approx(n / (n + z**2), abs=1e-5)
    assert found.high_M[-1] == pytest.approx(1.0)


def test_no_calibration_without_probabilities(tmp_path):
    assert calibration(only(tmp_path)) is None


def test_cost_comes_from_log_and_settings(tmp_path):
    slow = [{"step": i + 1, "examples_per_second": 16.0, "tokens_per_second": 400.0} for i in range(10)]
    make_run(tmp_path / "sft", "glue/rte", "sft", SAID, GOLDS, steps=slow, settings="batch_size: 32\n", seconds=3.0)
    fast = [{"step": i + 1, "examples_per_second": 8.0} for i in range(5)]
    settings = "batch_size: 8\nanswers: 4\ninit: somewhere/else/sft\n"
    make_run(tmp_path / "x" / "ppo", "glue/rte", "ppo", SAID, GOLDS, steps=fast, settings=settings, actions="free")
    runs = collect([tmp_path / "sft", tmp_path / "x" / "ppo"])
    sft, ppo = (cost(column, runs) for column in columns_of(runs))
    assert (sft.steps, sft.examples, sft.seconds, sft.tokens) == (10, 320, 20.0, 8000.0)
    assert (sft.asked, sft.asking, sft.before) == (150, 3.0, None)
    assert (ppo.examples, ppo.answers, ppo.seconds, ppo.tokens) == (40, 160, 5.0, None)
    assert ppo.before is None  # another folder of that name
    (tmp_path / "x" / "ppo" / "config.yaml").write_text(f"batch_size: 8\ninit: {tmp_path / 'sft'}\n")
    runs = collect([tmp_path / "sft", tmp_path / "x" / "ppo"])
    assert cost(columns_of(runs)[1], runs).before == 20.0


def test_changes_between_neighbours(tmp_path):
    golds = [RTE[0]] * 6
    for name, right in (("zero-shot", [1, 1, 0, 0, 0, 0]), ("sft", [1, 0, 1, 1, 0, 0]), ("ppo", [1, 1, 1, 1, 1, 0])):
        make_run(tmp_path / name, "glue/rte", name, [RTE[0] if r else RTE[1] for r in right], golds)
    found = changes(columns_of(collect([tmp_path])))
    assert [(one.before, one.after, one.became_right, one.became_wrong, one.n) for one in found] == [
        ("zero-shot", "sft", 2, 1, 6),
        ("sft", "ppo", 2, 0, 6),
    ]


def test_examples_are_half_mixed_and_prefer_known_prompts(tmp_path):
    golds = [RTE[0]] * 100
    prompts = {str(i): f"row {i}" for i in range(5, 100, 10)}
    for name, wrong_from in (("sft", 30), ("ppo", 60)):
        said = [RTE[0]] * wrong_from + [RTE[1]] * (100 - wrong_from)
        make_run(tmp_path / name, "glue/rte", name, said, golds, prompts=prompts)
    found = examples_of(columns_of(collect([tmp_path])))
    kinds = [one.kind for one in found]
    assert kinds == ["mixed"] * 10 + ["wrong"] * 5 + ["right"] * 5
    assert [one.prompt for one in found[:3]] == ["row 35", "row 45", "row 55"]
    assert {one.id for one in found if one.kind == "mixed"} <= {str(i) for i in range(30, 60)}
    assert [(said.head, said.right) for said in found[0].said] == [("sft", False), ("ppo", True)]


def test_examples_fill_up_where_a_kind_is_short(tmp_path):
    make_run(tmp_path / "a", "glue/rte", "sft", [RTE[0]] * 18 + [RTE[1]] * 2, [RTE[0]] * 20)
    kinds = [one.kind for one in examples_of(columns_of(collect([tmp_path / "a"])))]
    assert kinds == ["wrong"] * 2 + ["right"] * 18


def test_curves_are_means_within_bands_of_the_seeds(tmp_path):
    for seed in (0, 1, 2):
        steps = [{"step": i + 1, "loss": float(10 - i + seed)} for i in range(10)]
        make_run(tmp_path / f"{seed}", "glue/rte", "sft", SAID, GOLDS, seed, steps=steps)
    (curves,) = learning_curves(columns_of(collect([tmp_path])))
    (picture,) = curves.pictures
    assert (curves.task, curves.seeds, picture.title) == ("glue/rte", 3, "loss of glue/rte")
    band, _ = re.findall(r'd="(M[^"]+)"', picture.svg)[:2]
    assert band.count("L") > 15  # there and back
    assert "sans" not in picture.svg  # in the page's font
    assert not re.findall(r'id="(?![mp][0-9a-f]+")', picture.svg)


def test_the_difference_of_the_means_is_the_mean_of_the_differences(tmp_path):
    names = {"glue/rte": RTE, "glue/wnli": find("glue/wnli").labels}
    for name, labels in names.items():
        golds = [labels[0]] * 100
        for method, right in (("sft", 60), ("ppo", 70 if name == "glue/rte" else 80)):
            said = [labels[0]] * right + [labels[1]] * (100 - right)
            make_run(tmp_path / f"{method}-{name[5:]}", name, method, said, golds)
    found = {one.task: one for one in differences(collect([tmp_path]))}
    assert found["average"].delta == pytest.approx((0.1 + 0.2) / 2)
    # rows that only one method has right are 10 and 20 of 100: variances of the two paired means add, over four
    error = math.sqrt((0.1 * 0.9 + 0.2 * 0.8) / 100) / 2
    assert found["average"].high - found["average"].low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found["average"].real


def test_no_mean_over_tasks_that_not_all_methods_have(tmp_path):
    make_run(tmp_path / "a", "glue/rte", "sft", SAID, GOLDS)
    make_run(tmp_path / "b", "glue/rte", "ppo", GOLDS, GOLDS)
    labels = find("glue/wnli").labels
    make_run(tmp_path / "c", "glue/wnli", "sft", [labels[0]], [labels[0]])
    assert [one.task for one in differences(collect([tmp_path]))] == ["glue/rte"]


# -- other forms -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Two methods, one of them with a name that every form has to escape."""
    make_run(tmp_path / "a", "glue/rte", "sft", SAID, GOLDS, name="=a_b & 50 % | {x} \\y <z>")
    make_run(tmp_path / "b", "glue/rte", "ppo", GOLDS, GOLDS, sure=SURE)
    return tmp_path


def test_csv_has_every_metric_of_every_run(two, monkeypatch):
    monkeypatch.chdir(two)
    assert main(["report", "a", "b", "--out", "page.html", "t.csv"]) == 0
    rows = list(csv.DictReader(io.StringIO((two / "t.csv").read_text())))
    assert [(row["task"], row["metric"], row["n"], row["run"]) for row in rows] == [
        ("glue/rte", "accuracy", "150", "a"),
        ("glue/rte", "accuracy", "150", "b"),
    ]
    assert float(rows[1]["value"]) == 1.0
    assert rows[0]["method"].startswith("'=")  # no formula
    assert (two / "page.html").is_file()


def test_json_has_what_the_page_shows(two):
    runs = collect([two])
    write(runs, two / "r.json", differences(runs))
    found = json.loads((two / "r.json").read_text())
    assert {one["method"]: one["value"] for one in found["scores"]}["ppo"] == 1.0
    assert found["differences"][0]["real"] is True
    of_ppo = next(one for one in found["methods"] if one["method"] == "ppo")
    assert of_ppo["calibration"]["n"] == 150
    assert sum(map(sum, of_ppo["confusion"]["count_GS"])) == 150
    assert len(found["results"]) == 2


def test_latex_escapes_and_keeps_its_columns(two):
    runs = collect([two])
    write(runs, two / "r.tex", differences(runs))
    text = (two / "r.tex").read_text()
    assert r"=a\_b \& 50 \% | \{x\} \textbackslash{}y \textless{}z\textgreater{}" in text
    assert r"\textbf{100.0 $\pm$ 3.0}" in text
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        kinds, body = table
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(kinds) - 1 for row in rows)
        rules = [line for line in body.split() if line.startswith((r"\top", r"\mid", r"\bottom"))]
        assert (rules[0], rules[-1]) == (r"\toprule", r"\bottomrule")


def test_markdown_keeps_its_columns(two):
    runs = collect([two])
    write(runs, two / "r.md", differences(runs))
    scores, compared = (two / "r.md").read_text().strip().split("\n\n")
    for table in (scores, compared):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "**100.0 ± 3.0**" in scores
    assert r"a\_b & 50 % \| {x} \\y \<z\>" in scores


def test_a_report_of_another_kind_is_refused(two, capsys, monkeypatch):
    monkeypatch.chdir(two)
    assert main(["report", "a", "--out", "page.htm"]) == 2
    assert "did you mean '.html'" in capsys.readouterr().err
    assert not (two / "page.htm").exists()
