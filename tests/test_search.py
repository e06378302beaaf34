"""Search in ranges: the same suite tries the same values, whatever happens to it; dev labels change nothing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import yaml

from rl4nlu.cli import main
from rl4nlu.errors import UserError
from rl4nlu.plan import Range
from rl4nlu.settings import SearchSettings
from rl4nlu.suites.search import propose

pytest.importorskip("optuna", reason="needs: make test's environment (optuna)")

SPACE = {"learning_rate": Range(1e-4, 1e-1, log=True), "lora.r": Range(2, 64, True, whole=True), "shots": [0, 4]}


def score(values) -> float:
    """Best at a rate of 1e-3."""
    return -abs(math.log10(values["learning_rate"]) + 3)


def searched(search: SearchSettings, seed: int = 0, task: str = "t", diverged: int | None = None) -> list:
    tried: list = []
    while len(tried) < search.trials:
        batch = propose(search, SPACE, ("sft", task), seed, tried)
        tried += [(v, None if len(tried) + i == diverged else score(v)) for i, v in enumerate(batch)]
    return tried


def test_values_are_in_their_ranges_and_as_one_would_type_them():
    tried = searched(SearchSettings(trials=30))
    assert len(tried) == 30
    for values, _ in tried:
        assert 1e-4 <= values["learning_rate"] <= 1e-1
        assert float(f"{values['learning_rate']:.3e}") == values["learning_rate"]
        assert isinstance(values["lora.r"], int)
        assert 2 <= values["lora.r"] <= 64
        assert values["shots"] in (0, 4)
    halves = [
        sum(values["learning_rate"] < 10**-2.5 for values, _ in searched(SearchSettings(trials=200, sampler="random")))
    ]
    assert 70 < halves[0] < 130  # as many below the middle of the ratios as above


def test_the_same_suite_tries_the_same_values_and_others_do_not():
    search = SearchSettings(trials=10)
    assert searched(search) == searched(search)
    assert searched(search)[0] != searched(search, seed=1)[0]
    assert searched(search)[0] != searched(search, task="u")[0]


def test_what_was_found_leads_the_search():
    """Of 24 trials the last 12 are nearer to the best rate than the first 8, which know nothing."""
    mean = {"tpe": [], "random": []}
    for sampler, found in mean.items():
        for seed in range(4):
            tried = searched(SearchSettings(trials=24, sampler=sampler), seed)
            found.append(sum(one for _, one in tried[12:]) / 12)
    assert sum(mean["tpe"]) / 4 > sum(mean["random"]) / 4 + 0.1


def test_a_trial_that_diverged_is_passed_over():
    assert len(searched(SearchSettings(trials=8), diverged=2)) == 8


# -- in a suite whose runs take no time (the stand-ins of test_suite) --------------------------------------------------

from test_suite import world  # noqa: E402, F401

SEARCH = {
    "seeds": [0],
    "search": {"trials": 6, "batch": 2},
    "common": {"model": "mini", "select_rows": 64, "max_steps": 10},
    "tasks": ["mini/sentiment"],
    "methods": {"sft": {"command": "sft", "learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True}}},
}


def run(out: str, *flags: str, **changes) -> int:
    Path("search.yaml").write_text(yaml.safe_dump({**SEARCH, **changes}, sort_keys=False))
    return main(["suite", "search.yaml", "--out", out, *flags])


def trials(out: str) -> list[tuple[float, float]]:
    chosen = json.loads(Path(out, "suite.json").read_text())["chosen"]["sft"]["mini/sentiment"]
    return [(one["settings"]["learning_rate"], one["held_out"]) for one in chosen["candidates"]]


def test_a_search_that_was_stopped_goes_on_to_the_same_end(world, capsys):  # noqa: F811
    made, wrong = world
    assert run("whole", "--dry-run") == 0
    assert "7 runs in whole: 0 done already, 7 to do" in capsys.readouterr().out
    assert run("whole", "--jobs", "2") == 0
    assert [name for name in made if name.startswith("tuning")] == [
        f"tuning/sft/mini-sentiment-trial-{i}" for i in range(1, 7)
    ]
    assert made[-1] == "runs/sft/mini-sentiment-s0"
    made.clear()
    wrong["tuning/sft/mini-sentiment-trial-4"] = OSError("disk full")
    assert run("part") == 1
    states = {one["name"][-7:]: one["state"] for one in json.loads(Path("part/suite.json").read_text())["runs"]}
    assert states == {**{f"trial-{i}": "done" for i in (1, 2, 3)}, "trial-4": "failed", "trial-5": "skipped",
                      "trial-6": "skipped", "ment-s0": "skipped"}  # fmt: skip
    wrong.clear()
    made.clear()
    assert run("part", "--jobs", "3") == 0
    assert made == ["tuning/sft/mini-sentiment-trial-4", *(f"tuning/sft/mini-sentiment-trial-{i}" for i in (5, 6)),
                    "runs/sft/mini-sentiment-s0"]  # fmt: skip
    assert trials("whole") == trials("part")
    assert run("part") == 0
    assert len(made) == 4
    assert run("part", search={"trials": 6, "batch": 3}) == 2  # other values would have been tried
    assert "the suite now says" in capsys.readouterr().err


def test_scores_on_dev_do_not_matter(world, monkeypatch):  # noqa: F811
    """Every run gets other scores on dev; what was tried and chosen is the same."""
    from rl4nlu.run import Run

    assert run("one") == 0
    write, draw = Run.write_results, random.Random(5)

    def other(self, results):
        write(self, [{**one, "metrics": {"accuracy": draw.random()}} for one in results])

    monkeypatch.setattr(Run, "write_results", other)
    assert run("other") == 0
    assert trials("one") == trials("other")
    scores = [json.loads(next(Path(out).glob("tuning/*/*1/results.json")).read_text()) for out in ("one", "other")]
    assert scores[0]["results"][0]["metrics"] != scores[1]["results"][0]["metrics"]


def test_without_optuna_it_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'rl4nlu\[search\]'"):
        propose(SearchSettings(), SPACE, ("a", "b"), 0, [])


# -- for real ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_labels_of_dev_that_are_mixed_up_choose_the_same_values(tmp_path, monkeypatch):
    """Real runs on one task whose dev labels are right, and on one whose dev labels are the other ones."""
    draw = random.Random(0)
    words = {"good": ("fine", "lovely", "great"), "bad": ("dull", "awful", "poor")}
    rows = [(f"{draw.choice(words[label])} {draw.choice(('film', 'play', 'song'))} {i}", label) for i in range(240)
            for label in words]  # fmt: skip
    swap = {"good": "bad", "bad": "good"}
    methods = {"sft": {"command": "sft", "learning_rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True}}}
    for name, told in (("right", lambda label: label), ("mixed", swap.get)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("train.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows[:400]))
        Path("dev.csv").write_text("text,label\n" + "".join(f"{t},{told(label)}\n" for t, label in rows[400:]))
        Path("task.yaml").write_text(
            "train: train.csv\ndev: dev.csv\ntemplate: '{text} It is'\nlabel: label\nlabels: {good: good, bad: bad}\n"
        )
        content = {**SEARCH, "common": {**SEARCH["common"], "max_steps": 6}, "tasks": ["task.yaml"],
                   "search": {"trials": 4, "batch": 2}, "methods": methods}  # fmt: skip
        Path("search.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        assert main(["suite", "search.yaml", "--out", "s"]) == 0
    folders = [tmp_path / name / "s" for name in ("right", "mixed")]
    found = [json.loads((folder / "suite.json").read_text())["chosen"]["sft"] for folder in folders]
    (right,), (mixed,) = (list(one.values()) for one in found)
    assert right == mixed
    dev = [json.loads(next((folder / "tuning").rglob("*1/results.json")).read_text()) for folder in folders]
    assert dev[0]["results"][0]["metrics"] != dev[1]["results"][0]["metrics"]
