"""Evaluation: scores by brute force, generated answers, what is counted, and every task of the official files."""

from __future__ import annotations

import json
import math

import pytest
import torch

from rl4nlu import data
from rl4nlu.ask import ask, encode
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.methods import sft
from rl4nlu.methods.evaluate import evaluate
from rl4nlu.models import load_policy
from rl4nlu.prompts import Prompter
from rl4nlu.settings import EvaluateSettings, SftSettings
from rl4nlu.tasks import TASKS, Example, find


@pytest.fixture(scope="module")
def policy():
    return load_policy("mini")


def settings(**values) -> EvaluateSettings:
    return validate(EvaluateSettings, {"model": "mini", **values})


@torch.no_grad()
def plain_logp(policy, text: str, answer: str) -> float:
    """log P(answer | text) by one plain pass."""
    before = policy.tokenizer(text)["input_ids"]
    ids = policy.tokenizer(text + answer)["input_ids"]
    logp = policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logp[i - 1, ids[i]]) for i in range(len(before), len(ids)))


@pytest.mark.parametrize("template", ["plain", "verdict"])
@pytest.mark.parametrize("shots", [0, 3])
def test_label_scores_by_brute_force(policy, template, shots):
    """Label words of one token: the closed set's probabilities are the softmax of the words' log-probabilities."""
    task = find("mini/question")
    chosen = settings(task=task.name, template=template, shots=shots)
    question = encode(policy, task, chosen, data.load(task, "dev", limit=7))
    for prediction in ask(policy, question, "score", chosen):
        text = question.prompter.prompt(prediction.example).text
        words = {label: plain_logp(policy, text, f" {word}") for label, word in task.words.items()}
        norm = math.log(sum(math.exp(value) for value in words.values()))
        for label, value in words.items():
            assert prediction.scores[label] == pytest.approx(value - norm, abs=2e-5)
        assert prediction.label == max(words, key=words.get)


def test_numeric_prediction_is_the_expectation(policy):
    """Scores such as 3.8 have three tokens: the product of renormalised branches, worked out by brute force."""
    task = find("glue/stsb")
    example = Example("0", {"first": "A man is riding a horse.", "second": "A man rides."}, "3.80")
    chosen = settings(task=task.name)
    question = encode(policy, task, chosen, [example])
    (prediction,) = ask(policy, question, "score", chosen)
    text = question.prompter.prompt(example).text

    def branch(so_far: str, tails: list[str]) -> list[float]:
        weights = [math.exp(plain_logp(policy, so_far, tail)) for tail in tails]
        return [weight / sum(weights) for weight in weights]

    # the bundled tokenizer writes 0.x as " ", "0", ".", "x" and the others as " 3", ".", "8"
    first = branch(text, [" ", " 1", " 2", " 3", " 4", " 5"])
    probabilities = {}
    for i in range(5):
        for tenth, p in zip("02468", branch(f"{text} {i}.", list("02468")), strict=True):
            probabilities[f"{i}.{tenth}"] = first[i] * p
    probabilities["5.0"] = first[5]
    assert sum(probabilities.values()) == pytest.approx(1)
    for label, p in probabilities.items():
        assert math.exp(prediction.scores[label]) == pytest.approx(p, rel=1e-3)
    expectation = sum(float(label) * p for label, p in probabilities.items())
    assert float(prediction.label) == pytest.approx(expectation, abs=1e-3)


@pytest.mark.parametrize("decode", ["greedy", "sample"])
def test_generated_answers_are_parsed_and_counted(policy, decode, tmp_path):
    run, (result,) = evaluate(settings(task="mini/sentiment", decode=decode, limit=30, out=tmp_path / "run"))
    rows = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == result["n"] == 30
    task = find("mini/sentiment")
    for row in rows:
        assert row["prediction"] == task.parse(row["text"].strip().split("\n")[0])
    assert result["unparsable"] == sum(row["prediction"] is None for row in rows)
    assert result["metrics"]["accuracy"] == pytest.approx(sum(r["prediction"] == r["gold"] for r in rows) / 30)


def test_what_cannot_be_parsed_may_get_a_random_label(tmp_path, tiny_model):
    """The protocol of the paper's released evaluation: the same texts, a random label where there is none. A random
    model hardly ever says one."""
    common = {"task": "mini/question", "model": str(tiny_model), "decode": "sample", "limit": 120}
    wrong, (first,) = evaluate(settings(**common, out=tmp_path / "wrong"))
    drawn, (second,) = evaluate(settings(**common, unparsable="random", out=tmp_path / "random"))
    again, (third,) = evaluate(settings(**common, unparsable="random", seed=1, out=tmp_path / "seed"))
    task = find("mini/question")

    def rows(run):
        return [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]

    before, after, other = rows(wrong), rows(drawn), rows(again)
    assert [row["text"] for row in before] == [row["text"] for row in after]
    lost = [i for i, row in enumerate(before) if row["prediction"] is None]
    assert len(lost) == first["unparsable"] == second["unparsable"] > 60
    guesses = [after[i]["prediction"] for i in lost]
    assert {label: guesses.count(label) > len(lost) / 10 for label in task.labels} == dict.fromkeys(task.labels, True)
    assert all(before[i] == after[i] for i in range(120) if i not in lost)
    assert (second["unparsable_as"], "unparsable_as" in first) == ("random", False)
    assert second["metrics"]["accuracy"] > first["metrics"]["accuracy"]  # by chance alone: a quarter of the lost rows
    assert [row["prediction"] for row in after] != [row["prediction"] for row in other]
    assert third["seed"] == 1


def test_chunks_and_micro_batches_change_nothing(policy, monkeypatch):
    task = find("mini/entailment")
    examples = data.load(task, "dev", limit=40)
    chosen, small = settings(task=task.name), settings(task=task.name, max_tokens=64)
    a = list(ask(policy, encode(policy, task, chosen, examples), "score", chosen))
    monkeypatch.setattr("rl4nlu.ask.CHUNK", 7)
    b = list(ask(policy, encode(policy, task, small, examples), "score", small))
    for one, other in zip(a, b, strict=True):
        assert one.example == other.example
        for label, value in one.scores.items():
            assert other.scores[label] == pytest.approx(value, abs=2e-5)


def test_an_adapter_is_asked_as_it_was_trained(tmp_path):
    values = {"task": "mini/question", "model": "mini", "max_steps": 8, "template": "verdict", "eval_limit": 50}
    values |= {"shots": 2, "seed": 3, "select_rows": 16}
    run, (trained,) = sft.sft(validate(SftSettings, {**values, "out": tmp_path / "sft"}))
    _, (again,) = evaluate(validate(EvaluateSettings, {"adapter": run.path, "limit": 50, "out": tmp_path / "again"}))
    assert again["method"] == "sft"
    assert (again["template"], again["shots"]) == ("verdict", 2)
    assert again["metrics"] == trained["metrics"]


def test_too_long_prompts_are_cut_and_counted(policy):
    task = find("superglue/boolq")
    long = Example(
        "0", {"passage": "Once upon a time. " * 400, "question": "is the end of this question still there"}, "True"
    )
    short = Example("1", {"passage": "The sky is blue.", "question": "is the sky blue"}, "True")
    question = encode(policy, task, settings(task=task.name, max_length=200), [long, short])
    assert question.rows.cut == 1
    cut, whole = question.rows
    assert len(cut.ids) + max(map(len, cut.answers)) <= 200
    assert len(cut.ids) > 150
    assert "still there?\nIs it so?" in cut.prompt.text
    assert not whole.prompt.cut


def test_without_truncation_a_long_prompt_is_refused(policy):
    settings = EvaluateSettings(max_length=100)
    rows = [
        Example(str(i), {"premise": "It rains. " * n, "hypothesis": "It is wet."}, "entailment")
        for i, n in enumerate((2, 90))
    ]
    excess = len(policy.tokenizer(Prompter(find("glue/rte")).prompt(rows[1]).text)["input_ids"])
    excess -= encode(policy, find("glue/rte"), settings, rows[:1]).rows.encoder.longest_prompt
    with pytest.raises(UserError) as caught:
        encode(policy, find("glue/rte"), settings.model_copy(update={"truncate": False}), rows)
    assert f"row 1 of glue/rte: the prompt is {excess} tokens longer" in str(caught.value)
    for cure in ("leave out --no-truncate", "fewer --shots", "a longer --max-length"):
        assert cure in str(caught.value)
    assert encode(policy, find("glue/rte"), settings, rows).rows.cut == 1


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("decode", ["score", "greedy"])
def test_every_task_with_rows(name, decode, real_data, tmp_path):
    task = find(name)
    if not data.available(task, task.eval_split, real_data):
        pytest.skip(f"{name} has no {task.eval_split} rows in {real_data}")
    values = {"task": name, "data": real_data, "decode": decode, "limit": 5, "max_length": 192, "out": tmp_path / "run"}
    _, (result,) = evaluate(settings(**values))
    assert result["n"] == 5
    assert set(result["metrics"]) == set(task.metrics) == set(result["stderr"])


def test_a_suite_leaves_out_what_has_no_rows(tmp_path, capsys):
    folder = tmp_path / "data" / "glue" / "RTE"
    folder.mkdir(parents=True)
    rows = "index\tsentence1\tsentence2\tlabel\n0\tA cat sat.\tA cat sat down.\tentailment\n"
    (folder / "dev.tsv").write_text(rows)
    _, results = evaluate(settings(task="glue", data=tmp_path / "data", out=tmp_path / "run"))
    assert [result["task"] for result in results] == ["glue/rte"]
    assert "glue/cola: no dev rows" in capsys.readouterr().out
