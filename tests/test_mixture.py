"""Which rows a step sees: of one task as before, of several in the shares that the settings say."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import assert_same_gradients
from rl4nlu import data
from rl4nlu.actions import roll_out
from rl4nlu.ask import encode
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.methods import ppo, sft
from rl4nlu.mixture import Mixture, shares
from rl4nlu.models import load_policy
from rl4nlu.prepare import one_task
from rl4nlu.run import Run
from rl4nlu.settings import PpoSettings, SftSettings
from rl4nlu.tasks import Example, find
from rl4nlu.tokens import SPARE


class Rows(list):
    """Rows that need no tokens."""

    def take(self, places):
        return [self[i] for i in places]


def mixture(counts, batch_size=8, seed=0, method="sft", **values) -> Mixture:
    """Rows are (task, number) pairs."""
    questions = [
        SimpleNamespace(task=SimpleNamespace(name=f"task{t}"), rows=Rows((t, i) for i in range(n)))
        for t, n in enumerate(counts)
    ]
    chosen = validate(SftSettings, {"batch_size": batch_size, "seed": seed, **values})
    return Mixture(questions, chosen, method)


@settings(deadline=None, derandomize=True)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_every_epoch_of_one_task_is_a_permutation(count, batch_size, seed):
    one, order = mixture([count], batch_size, seed), []
    for step in range(-(-3 * count // batch_size)):
        batch = one.batch(step)
        assert len(batch) == batch_size
        order += batch
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == [(0, i) for i in range(count)]


def test_order_is_a_function_of_seed_and_step():
    torch.manual_seed(3)
    assert mixture([1000], seed=5).batch(7) == mixture([1000], seed=5).batch(7)
    whole = mixture([1000], 1000, seed=5).batch(0)
    eights = mixture([1000], 8, seed=5)
    assert [row for step in range(125) for row in eights.batch(step)] == whole, "batch size leaves the order alone"
    assert whole != mixture([1000], 1000, seed=6).batch(0)
    assert whole != mixture([1000], 1000, seed=5).batch(1), "each epoch has an order of its own"
    assert whole != mixture([1000], 1000, seed=5, method="ppo").batch(0), "each method has an order of its own"
    assert whole != sorted(whole)


@pytest.mark.parametrize(
    ("mixing", "cap", "expected"),
    [
        ("proportional", None, [900, 100]),
        ("sqrt", None, [750, 250]),  # 30 to 10
        ("equal", None, [500, 500]),
        ("proportional", 300, [300, 100]),
        ("equal", 300, [200, 200]),
    ],
)
def test_shares_by_hand(mixing, cap, expected):
    assert shares([900, 100], mixing, cap) == expected


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.sampled_from(["proportional", "sqrt", "equal"]))
def test_shares_add_up(rows, mixing):
    found = shares(rows, mixing, None)
    assert all(n >= 1 for n in found)
    assert sum(rows) <= sum(found) <= sum(rows) + len(rows)  # a task of next to nothing still gets one row
    if mixing == "proportional":
        assert found == rows


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    mixing=st.sampled_from(["proportional", "sqrt", "equal"]),
    seed=st.integers(0, 99),
)
def test_several_tasks_in_their_shares_and_no_row_twice_before_all_came_once(counts, mixing, seed):
    several = mixture(counts, batch_size=7, seed=seed, mixing=mixing)
    epochs = 4
    seen = [row for step in range(epochs * len(several) // 7) for row in several.batch(step)]
    per_task = Counter(task for task, _ in seen)
    for task, (count, quota) in enumerate(zip(counts, several.quotas, strict=True)):
        assert per_task[task] <= epochs * quota
        assert per_task[task] >= epochs * quota - 7
        times = Counter(row for row in seen if row[0] == task)
        # rows of a permutation may come in any order within an epoch, so two passes may overlap by one
        assert max(times.values()) - min(times.get((task, i), 0) for i in range(count)) <= 2
    for step in range(3):
        tasks = [task for task, _ in several.batch(step)]
        assert tasks == sorted(tasks), "rows of a task stand together"


@pytest.mark.parametrize("method", ["sft", "ppo"])
def test_the_gradient_of_a_mixed_batch_is_that_of_its_rows(method, gradients, tmp_path):
    """Rows of two tasks in one step: micro-batches of any size, each of one task, give the same gradient."""
    for i, max_tokens in enumerate((10_000, 70)):
        kind = {"sft": SftSettings, "ppo": PpoSettings}[method]
        values = {"model": "mini", "batch_size": 12, "max_steps": 1, "max_tokens": max_tokens}
        if method == "ppo":
            # among thousands of words rounding would draw another one now and then
            values |= {"inner_epochs": 1, "answers": 2, "actions": "labels"}
        chosen = validate(kind, values)
        policy = load_policy("mini", lora=chosen.lora)
        tasks = [find("mini/entailment"), find("mini/question")]
        questions = [encode(policy, task, chosen, data.load(task, "train", limit=20)) for task in tasks]
        (tmp_path / str(i)).mkdir()
        if method == "ppo":
            policy.add_value_head()
        loop = {"sft": sft.train, "ppo": ppo.train}[method]
        batch = Mixture(questions, chosen, method).batch(0)
        assert len({row.prompter.task.name for row in batch}) == 2
        loop(policy, Mixture(questions, chosen, method), [], chosen, Run(tmp_path / str(i)))
    assert_same_gradients(*gradients)


def test_sft_of_two_tasks_reports_each(tmp_path):
    values = {"task": "mini/entailment,mini/question", "model": "mini", "max_steps": 2, "batch_size": 8}
    run, results = sft.sft(validate(SftSettings, {**values, "eval_limit": 20, "out": tmp_path / "a run"}))
    assert [result["task"] for result in results] == ["mini/entailment", "mini/question"]
    assert all(result["trained_on"] == ["mini/entailment", "mini/question"] for result in results)
    card = (run.path / "README.md").read_text()
    assert "mini/entailment and mini/question" in card
    folder = shlex.quote(str(run.path))
    assert f"\nrl4nlu evaluate --adapter {folder}\nrl4nlu predict {folder} --task mini/entailment --input" in card


def test_what_task_takes_is_what_predict_offers(tmp_path):
    """Results call a task of one's own own/t; --task takes its file."""
    own = tmp_path / "t.yaml"
    own.write_text("train: x.csv\ntemplate: '{a}'\nlabels: [p, n]\n")
    with pytest.raises(UserError, match=re.escape(f"(mini/sentiment, {own}, glue/rte)")):
        one_task(tmp_path, f"mini/sentiment,{own},glue/rte")


@pytest.mark.slow
def test_one_adapter_for_all_mini_tasks(tmp_path):
    """As many rows of each task: the adapter for all comes within 3 points of four single ones."""
    common = {"model": "mini", "seed": 0}
    single = {}
    for name in ("sentiment", "acceptability", "entailment", "question"):
        task = f"mini/{name}"
        _, (result,) = sft.sft(validate(SftSettings, {**common, "task": task, "max_steps": 75, "out": tmp_path / name}))
        single[task] = result["metrics"]["accuracy"]
    _, results = sft.sft(validate(SftSettings, {**common, "task": "mini", "max_steps": 300, "out": tmp_path / "all"}))
    together = {result["task"]: result["metrics"]["accuracy"] for result in results}
    assert sum(together.values()) / 4 >= sum(single.values()) / 4 - 0.03, (single, together)


def test_an_answer_stays_within_the_context_beside_a_task_of_longer_ones(monkeypatch):
    """A prompt is cut for the answers of its own task; STS-B's are longer than BoolQ's."""
    chosen = validate(PpoSettings, {"model": "mini", "batch_size": 2, "answers": 2, "max_length": 128})
    policy = load_policy("mini", lora=chosen.lora)
    policy.add_value_head()
    policy.model.config.max_position_embeddings = 128
    tasks = [find("superglue/boolq"), find("glue/stsb")]
    fields = [{"passage": "so " * 199, "question": "was it so"}, {"first": "It was.", "second": "It is."}]
    rows = [Example("0", one, label) for one, label in zip(fields, ("True", "2.0"), strict=True)]
    questions = [encode(policy, task, chosen, [row]) for task, row in zip(tasks, rows, strict=True)]
    own, longer = (question.rows.encoder.longest_answer for question in questions)
    assert own < longer
    batch = [question.rows[0] for question in questions]
    assert 128 - longer - SPARE < len(batch[0].ids) <= 128 - own - SPARE
    monkeypatch.setattr(type(batch[0].prompter), "finished", lambda self, text: False)
    rollout = roll_out(policy, batch, chosen, 0, longer + SPARE)
    lengths = [[len(ids) + len(answer) for answer in answers] for ids, answers in rollout.rows]
    assert max(map(max, lengths)) == 128
    assert {len(answer) for answer in rollout.rows[1][1]} == {longer + SPARE}
