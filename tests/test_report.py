"""Tables: which results share a cell, several seeds, averages, and which differences are called real."""

from __future__ import annotations

import re

import pytest
from scipy import stats

from rl4nlu.compare import AVERAGES
from rl4nlu.errors import UserError
from rl4nlu.reports import collect, differences, write
from rl4nlu.reports.examples import examples_of
from rl4nlu.reports.facts import changes
from rl4nlu.reports.views import columns_of
from rl4nlu.tables import averages, grid, heads, print_differences, print_table
from rl4nlu.tasks import find
from runs_made import make_run, result


def test_columns_tell_methods_apart():
    rows = [
        result(method="zero-shot"),
        result(method="few-shot", shots=5, calibrate="batch"),
        result(method="zero-shot", decode="sample", unparsable_as="random", template="verdict"),
        result(method="classify", model="google-bert/bert-base-uncased"),
        result(method="sft", trained_on=["glue/rte", "glue/mrpc"]),
        result(method="ppo", estimator="gae", actions="free"),
        result(method="ppo", estimator="grpo", actions="labels"),
        result(method="ppo", estimator="expected", actions="labels"),
    ]
    assert heads(rows) == [
        "zero-shot",
        "few-shot (5 shots, batch calibration)",
        "zero-shot (verdict, sample, unparsable random)",
        "classify (bert-base-uncased)",
        "sft (multi-task)",
        "ppo",
        "ppo (grpo, labels)",
        "ppo (expected)",
    ]
    assert heads([result(), result(model="/models/llama")]) == ["sft (mini)", "sft (llama)"]


def test_seeds_give_a_mean_and_students_interval():
    values = [0.70, 0.74, 0.69]
    _, table = grid([result(value=value, seed=seed) for seed, value in enumerate(values)])
    cell = table["glue/rte"]["sft"]
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert cell.text == f"71.0 [{100 * low:.1f}, {100 * high:.1f}] (3 seeds)"
    assert grid([result()])[1]["glue/rte"]["sft"].text == "70.0 ± 3.0"


def test_the_same_state_measured_twice_is_no_second_seed():
    same = [result(run="a"), result(run="b")]
    assert grid(same)[1]["glue/rte"]["sft"].text == "70.0 ± 3.0"
    other = [result(run="a"), result(run="b", value=0.8)]  # one seed, two scores: two different runs
    assert heads(other) == ["sft (a)", "sft (b)"]
    assert heads([result(run="a", shots=2), result(run="b", value=0.8, shots=2)]) == [
        "sft (2 shots, a)",
        "sft (2 shots, b)",
    ]


def test_averages_need_every_task():
    names = ("boolq", "copa", "rte", "wic", "wsc")
    rows = [result(f"superglue/{name}", value=0.8) for name in names]
    # five independent errors of 3 points
    assert averages(rows)["average"]["sft"].text == f"80.0 ± {3 / 5**0.5:.1f}"
    assert set(averages(rows)) == {"average"}
    pairs = {"cb": ("accuracy", "macro_f1"), "multirc": ("f1a", "exact_match"), "record": ("record_f1", "record_em")}
    for name, metrics in pairs.items():
        values, errors = dict(zip(metrics, (0.6, 0.4), strict=True)), dict.fromkeys(metrics, 0.03)
        rows.append(result(f"superglue/{name}", metrics=values, stderr=errors))
    found = averages(rows)
    # five at 80 and three at the mean of 60 and 40; eight independent errors of 3
    assert found["SuperGLUE"]["sft"].text == f"{(5 * 80 + 3 * 50) / 8:.1f} ± {3 / 8**0.5:.1f}"
    assert "GLUE" not in found


@pytest.fixture
def runs(tmp_path):
    """RTE, 200 rows: sft has 60 more right than zero-shot, ppo 2 more than sft."""
    labels = find("glue/rte").labels
    golds = [labels[i % 2] for i in range(200)]
    wrong = [labels[1 - i % 2] for i in range(200)]
    return collect(
        [
            make_run(tmp_path / name, "glue/rte", name, golds[:right] + wrong[right:], golds)
            for name, right in (("zero-shot", 100), ("sft", 160), ("ppo", 162))
        ]
    )


def test_differences_from_predictions(runs):
    found = {(one.a, one.b): one for one in differences(runs)}
    assert set(found) == {("sft", "zero-shot"), ("ppo", "zero-shot"), ("ppo", "sft")}
    assert found["ppo", "sft"].delta == pytest.approx(0.01)
    assert found["ppo", "sft"].p == pytest.approx(0.5)  # two rows, both ways equally likely
    assert not found["ppo", "sft"].real
    assert found["sft", "zero-shot"].real
    assert found["sft", "zero-shot"].p == pytest.approx(2 * 2 * 0.5**60)  # Holm: the second smallest of three


def test_page_and_terminal_say_which_are_real(runs, tmp_path, capsys):
    found = differences(runs)
    write(runs, tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text()
    section = page.split("Which differences are real")[1].split("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in section.split("<tr>")[2:]]
    assert [row[-1] == "real" for row in rows] == [False, True, True]
    print_table([result for run in runs for result in run.results])
    print_differences(found)
    out = capsys.readouterr().out
    assert "may be chance" in out
    assert "+30.0" in out


def test_a_broken_run_among_others_is_left_out_by_name(tmp_path, capsys):
    """Found below a folder, it stops nothing; asked for by name, it does."""
    for name in ("a", "b", "c"):
        make_run(tmp_path / "runs" / name, "mini/sentiment", name, ["positive"], ["positive"])
    broken = tmp_path / "runs" / "b" / "results.json"
    broken.write_text(broken.read_text()[:40])
    assert [run.path.name for run in collect([tmp_path / "runs"])] == ["a", "c"]
    said = capsys.readouterr().err
    assert str(broken.parent) in said
    assert "the report is without it" in " ".join(said.split())
    with pytest.raises(UserError, match="not a results file"):
        collect([tmp_path / "runs" / "a", broken.parent])


def test_runs_of_one_name_and_runs_of_one_score_stay_apart(tmp_path):
    golds = [find("glue/rte").labels[0]] * 10
    other = find("glue/rte").labels[1]
    made = {"A/sft": 8, "B/sft": 6, "C/sft": 6, "D/sft": 8}
    for name, right in made.items():
        said = golds[:right] + [other] * (10 - right)
        make_run(tmp_path / name, "glue/rte", "sft", said[::-1] if name.startswith("C") else said, golds)
    runs = collect([tmp_path / name for name in made])
    # D gives A's answers: the same state measured twice; B and C are as good, and not the same
    found = {column.head: column.results[0]["metrics"]["accuracy"] for column in columns_of(runs)}
    assert found == {"sft (A/sft)": 0.8, "sft (B/sft)": 0.6, "sft (C/sft)": 0.6, "sft (D/sft)": 0.8}
    same = collect([tmp_path / "A" / "sft", tmp_path / "D" / "sft"])
    assert [column.head for column in columns_of(same)] == ["sft"]


def test_rows_without_gold_labels_beside_some_with(tmp_path):
    golds = [find("glue/rte").labels[0]] * 10
    make_run(tmp_path / "dev", "glue/rte", "sft", golds, golds)
    make_run(tmp_path / "test", "glue/rte", "sft", golds, golds, metrics={}, stderr={})
    runs = collect([tmp_path / "dev", tmp_path / "test"])
    for kind in (".html", ".json", ".md", ".csv", ".tex"):
        write(runs, tmp_path / f"r{kind}", differences(runs))
    assert [column.head for column in columns_of(runs)] == ["sft"]


def test_seeds_on_other_rows_are_a_column_of_their_own():
    assert heads([result(seed=0), result(seed=1), result(seed=2, n=10, value=0.5)]) == [
        "sft (100 rows)",
        "sft (100 rows)",
        "sft (10 rows)",
    ]


def test_an_average_of_one_seed_and_of_several():
    rows = [result("glue/rte", value=v, seed=s) for s, v in enumerate((0.6, 0.7, 0.8))]
    rows.append(result("glue/wnli", value=0.7, stderr={"accuracy": 0.03}))
    cell = averages(rows)["average"]["sft"]
    a, b = 0.1**2 / 3, 0.03**2  # variances of the two means; two degrees of freedom behind the first
    df = (a + b) ** 2 / (a**2 / 2)
    assert cell.error == pytest.approx(stats.t.ppf(0.975, df) * ((a + b) ** 0.5) / 2)
    assert cell.text.startswith("70.0 [")


def test_methods_on_other_rows_are_not_compared(runs, tmp_path):
    golds = [find("glue/rte").labels[0]] * 50
    few = collect([make_run(tmp_path / "few", "glue/rte", "few-shot", golds, golds)])
    assert all("few-shot" not in (one.a, one.b) for one in differences([*runs, *few]))


def test_other_splits_than_dev_are_told_apart():
    """A method on training rows beside one on dev rows, and a task that has test rows alone."""
    found = [
        result("glue/rte", "zero-shot"),
        result("glue/rte", "sft"),
        result("glue/rte", "sft", split="train", seed=1),
        result("superglue/axb", "sft", split="test"),
    ]
    assert heads(found) == ["zero-shot", "sft", "sft (train rows)", "sft"]


def test_a_benchmarks_average_is_of_its_own_tasks():
    """Seeds of another task do not make it one of several seeds; two metrics of the same rows are one measurement."""
    keys = [key for term in AVERAGES["GLUE"] for key in term]
    names = dict.fromkeys(name for name, _ in keys)

    def glue(seed, value):
        of = {name: [metric for task, metric in keys if task == name] for name in names}
        return [
            result(name, seed=seed, metrics=dict.fromkeys(of[name], value), stderr=dict.fromkeys(of[name], 0.01))
            for name in names
        ]

    one = averages(glue(0, 0.7))["GLUE"]["sft"]
    others = [result("mini/question", value=v, seed=s) for s, v in enumerate((0.3, 0.6, 0.9))]
    assert averages([*glue(0, 0.7), *others])["GLUE"]["sft"] == one
    assert one.seeds == 1
    several = averages([*glue(0, 0.7), *glue(1, 0.8)])["GLUE"]["sft"]
    terms = len(AVERAGES["GLUE"])  # each varies by the same, with one degree of freedom
    se = 0.05 / terms**0.5
    assert several.se == pytest.approx(se)
    assert several.error == pytest.approx(stats.t.ppf(0.975, terms) * se)


def test_other_settings_are_no_other_seed(tmp_path):
    """Two runs of other rates are two columns, whatever their seeds; two seeds of one rate are one."""
    golds = ["entailment", "not_entailment"] * 5
    for name, seed, rate in (("a", 0, 1e-3), ("b", 1, 1e-3), ("c", 2, 1e-2)):
        settings = f"task: glue/rte\nout: runs/{name}\nseed: {seed}\nlearning_rate: {rate}\n"
        make_run(tmp_path / name, "glue/rte", "sft", golds[seed:] + golds[:seed], golds, seed, settings=settings)
    assert [column.head for column in columns_of(collect([tmp_path / "a", tmp_path / "b"]))] == ["sft"]
    assert len(columns_of(collect([tmp_path]))) == 3


def test_an_evaluation_of_an_adapter_is_marked_as_its_training(tmp_path):
    golds = ["entailment", "not_entailment"] * 5
    for name, seed, rate in (("a", 0, 1e-3), ("b", 1, 1e-3), ("c", 2, 1e-2)):
        said = golds[seed:] + golds[:seed]
        settings = f"task: glue/rte\nseed: {seed}\nlearning_rate: {rate}\n"
        trained = make_run(tmp_path / "trained" / name, "glue/rte", "sft", said, golds, seed, settings=settings)
        asked = make_run(
            tmp_path / "asked" / name,
            "glue/rte",
            "sft",
            said,
            golds,
            seed,
            settings=f"adapter: {trained}\nsplit: dev\n",
        )
        (asked / "command.txt").write_text(f"rl4nlu evaluate --adapter {trained}\n")
    (column,) = columns_of(collect([tmp_path / one / name for one in ("trained", "asked") for name in "ab"]))
    assert len(column.runs) == 2
    assert len(columns_of(collect([tmp_path / "asked" / name for name in "ab"]))) == 1
    assert len(columns_of(collect([tmp_path / "asked"]))) == 3


def test_zero_shot_has_no_seeds():
    rows = [result(method="zero-shot", seed=seed) for seed in range(3)]
    assert grid(rows)[1]["glue/rte"]["zero-shot"].text == "70.0 ± 3.0"
    sampled = [result(method="zero-shot", decode="sample", seed=seed) for seed in range(3)]
    assert "(3 seeds)" in grid(sampled)[1]["glue/rte"]["zero-shot (sample)"].text


def test_a_model_without_scores_changes_no_column():
    """A test split without labels has none: its model is no second one of the table."""
    rows = [result(method="zero-shot"), result(method="zero-shot", model="other", split="test", metrics={}, stderr={})]
    assert heads(rows)[0] == "zero-shot"


def test_one_name_and_two_tasks_are_told_apart(tmp_path):
    golds = ["p", "n"] * 4
    for name, labels in (("a", "[p, n]"), ("b", "[p, n, x]")):
        run = make_run(tmp_path / name, "own/t", "sft", golds, golds)
        (run / "tasks").mkdir()
        (run / "tasks/t.yaml").write_text(f"train: t.csv\ntemplate: '{{x}}'\nlabels: {labels}\n")
    with pytest.raises(UserError, match="own/t has other labels in"):
        collect([tmp_path])


def test_tasks_told_by_other_metrics_first_are_reported_apart(tmp_path):
    for name, first in (("a", "accuracy"), ("b", "macro_f1")):
        scores = dict.fromkeys([first, "accuracy", "macro_f1"], 0.5)
        make_run(tmp_path / name, "superglue/cb", "sft", ["neutral"], ["neutral"], metrics=scores, stderr=scores)
    with pytest.raises(UserError, match="report them apart"):
        collect([tmp_path])


def test_rows_of_two_splits_are_not_set_beside_each_other(tmp_path):
    golds = ["entailment", "not_entailment"] * 5
    for name, split in (("a", "dev"), ("b", "train")):
        make_run(tmp_path / name, "glue/rte", "zero-shot", golds, golds[::-1] if split == "dev" else golds, split=split)
    columns = columns_of(collect([tmp_path]))
    assert len(columns) == 2
    assert changes(columns) == []
    assert all(len(shown.said) == 1 for shown in examples_of(columns))
