"""The model card: what the hub's own parser makes of it, and that its code and commands work as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index
from safetensors.torch import load_file, save_file

from rl4nlu import merge
from rl4nlu.card import card, write_card
from rl4nlu.cli import main
from rl4nlu.config import validate
from rl4nlu.finished import Finished, finished, licence_in
from rl4nlu.methods import classify
from rl4nlu.models import load_policy
from rl4nlu.run import Run
from rl4nlu.settings import ClassifySettings, SftSettings
from rl4nlu.sources import mini_folder
from rl4nlu.usage import Place
from runs_zoo import train

TICKETS = """
train: tickets.csv
template: "{body}\\nWhat is this about?"
label: topic
labels: {billing: money, praise: thanks}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a bundled task and one of the user's own, in a folder with a space."""
    place = tmp_path_factory.mktemp("card")
    lines = [f"{('I paid twice', 'Well done')[i % 2]} {i},{('billing', 'praise')[i % 2]}" for i in range(60)]
    (place / "tickets.csv").write_text("\n".join(["body,topic", *lines]) + "\n")
    (place / "tickets.yaml").write_text(TICKETS)
    return train("mini", place / "a run", task=f"mini/question,{place}/tickets.yaml")


def parsed(text: str) -> tuple[ModelCard, dict]:
    """The card as the hub's client reads it, and the head that it has."""
    found = ModelCard(text, ignore_metadata_errors=False)
    return found, yaml.safe_load(text.split("---")[1])


def results_of(*names: str, **more) -> list[dict]:
    usual = {"method": "sft", "template": "plain", "shots": 0, "train_rows": 9, "steps": 2, "split": "dev", "n": 50}
    return [
        {**usual, "task": name, "metrics": {"accuracy": 0.5}, "stderr": {"accuracy": 0.0707}, **more} for name in names
    ]


def text_of(tmp_path, model: str, results: list[dict], **settings) -> str:
    chosen = SftSettings(model=model, task=",".join(result["task"] for result in results), **settings)
    found = Finished(tmp_path, results[0]["method"], chosen, results, tmp_path / "adapter", False)
    return card(found, Place("runs/x", "runs/x/adapter", model), "rl4nlu sft", {"license": "mit"})


def test_the_hubs_parser_takes_it(tmp_path):
    results = results_of("glue/mrpc", "superglue/boolq", "mini/question")
    results[0] |= {"metrics": {"f1": 0.8, "accuracy": 0.7}, "stderr": {"f1": 0.03, "accuracy": 0.02}, "n": 408}
    found, head = parsed(text_of(tmp_path, "meta-llama/Llama-2-7b-hf", results))
    assert eval_results_to_model_index("x", found.data.eval_results) == head["model-index"]
    first, second, third, fourth = found.data.eval_results
    assert isinstance(first, EvalResult)
    assert (first.dataset_type, first.dataset_config, first.dataset_split) == ("nyu-mll/glue", "mrpc", "validation")
    assert (first.metric_type, first.metric_value) == ("f1", 0.8)
    assert first.metric_args == {"stderr": 0.03, "n": 408}
    assert (second.metric_type, second.metric_value) == ("accuracy", 0.7)
    assert (third.dataset_type, third.dataset_config) == ("aps/super_glue", "boolq")
    assert (fourth.dataset_type, fourth.dataset_revision) == ("mini/question", None)
    assert found.data.datasets == ["nyu-mll/glue", "aps/super_glue"]
    assert (found.data.base_model, found.data.license) == ("meta-llama/Llama-2-7b-hf", "mit")
    assert (found.data.library_name, found.data.pipeline_tag) == ("peft", "text-generation")


@pytest.mark.parametrize(
    ("task", "metric", "on_hub", "config", "split"),
    [
        ("glue/cola", "matthews", "matthews_correlation", "cola", "validation"),
        ("glue/stsb", "spearman", "spearmanr", "stsb", "validation"),
        ("glue/mnli-mm", "accuracy", "accuracy", "mnli", "validation_mismatched"),
        ("superglue/wsc", "accuracy", "accuracy", "wsc.fixed", "validation"),
    ],
)
def test_names_are_the_hubs(task, metric, on_hub, config, split, tmp_path):
    found, _ = parsed(text_of(tmp_path, "gpt2", results_of(task, metrics={metric: 0.25}, stderr={metric: 0.1})))
    (result,) = found.data.eval_results
    assert (result.metric_type, result.dataset_config, result.dataset_split) == (on_hub, config, split)


def test_a_reader_sees_errors_and_numbers_of_rows(tmp_path):
    text = text_of(tmp_path, "gpt2", results_of("glue/rte", metrics={"accuracy": 0.725}, stderr={"accuracy": 0.0316}))
    assert "| glue/rte | accuracy | 72.5 ± 3.2 | 50 | dev |" in text


def test_rows_without_gold_labels_have_no_results(tmp_path):
    found, head = parsed(text_of(tmp_path, "gpt2", results_of("glue/ax", metrics={}, stderr={}, split="test")))
    assert "model-index" not in head
    assert "have no gold labels" in found.text


def test_many_tasks_have_a_short_title(tmp_path):
    text = text_of(tmp_path, "gpt2", results_of("glue/rte", "glue/cola", "glue/sst2", "glue/mrpc"))
    assert "\n# 4 tasks by sft on gpt2\n" in text
    assert "--tasks rte,cola,sst2,mrpc" in text


@pytest.mark.parametrize("model", ["./here", "mini", "a/b/c", "no such"])
def test_what_is_no_name_on_the_hub_is_not_given_as_one(model, tmp_path):
    _, head = parsed(text_of(tmp_path, model, results_of("glue/rte")))
    assert "base_model" not in head


def test_the_licence_is_the_base_models(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/README.md").write_text("---\nlicense: other\nlicense_name: llama2\nfoo: [1]\n---\n# Hello\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/command.txt").write_text("rl4nlu sft\n")
    write_card(Run(tmp_path / "run"), SftSettings(model=str(tmp_path / "m")), results_of("glue/rte"))
    _, head = parsed((tmp_path / "run/README.md").read_text())
    assert (head["license"], head["license_name"]) == ("other", "llama2")
    assert licence_in("# no head\n---\nlicense: x\n---\n") == {}
    assert licence_in("---\n- a\n---\n") == {}


def code_of(text: str) -> str:
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def commands_of(text: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("rl4nlu ")]


def ran(code: str) -> dict:
    """What names stand for after a card's code."""
    found: dict = {}
    exec(code, found)
    return found


def test_the_code_and_commands_of_a_run_work(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (run.path / "README.md").read_text()
    _, head = parsed(text)
    assert [one["dataset"]["name"] for one in head["model-index"][0]["results"]] == ["mini/question", "own/tickets"]
    for gap in ("More Information Needed", "TODO", "TASK", "None", "nan"):
        assert gap not in text
    loaded = ran(code_of(text))
    policy = load_policy("mini", dtype="bfloat16", adapter=run.path)
    ids = loaded["tokenizer"]("Where is it?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded["model"].eval()(input_ids=ids).logits, policy.model(input_ids=ids).logits)
    evaluate, predict, merging, again = commands_of(text)
    assert main([*evaluate[1:], "--limit", "4", "--out", "again"]) == 0
    (tmp_path / "rows.jsonl").write_text(json.dumps(dict.fromkeys(("text", "question", "sentence"), "Who was it?")))
    assert predict[2:5] == [str(run.path), "--task", "mini/question"]
    assert main(predict[1:]) == 0
    assert json.loads((tmp_path / "answers.jsonl").read_text())["task"] == "mini/question"
    assert main(merging[1:]) == 0
    assert again[:2] == ["rl4nlu", "sft"]
    shutil.rmtree(merging[-1])


def test_the_code_and_commands_of_a_merged_model_work(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge.merge(run.path, tmp_path / "merged")
    text = (tmp_path / "merged/README.md").read_text()
    _, head = parsed(text)
    assert (head["library_name"], head["license"]) == ("transformers", "apache-2.0")
    assert ran(code_of(text))["model"].config.model_type == "llama"
    evaluate, _ = commands_of(text)
    assert evaluate[4:6] == ["--task", f"mini/question,{tmp_path}/merged/tasks/tickets.yaml"]
    assert main([*evaluate[1:], "--limit", "4", "--out", "again"]) == 0


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_code_and_commands_of_a_classifier_work(tune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"task": "mini/question", "model": "mini", "tune": tune, "max_steps": 1, "batch_size": 4, "eval_limit": 8}
    run, _ = classify.classify(validate(ClassifySettings, {**values, "out": tmp_path / "run"}))
    text = (run.path / "README.md").read_text()
    _, head = parsed(text)
    assert head["pipeline_tag"] == "text-classification"
    assert "in the order of the labels: `person`, `place`, `time`, `number`" in text
    loaded = ran(code_of(text))
    ids = loaded["tokenizer"]("Where is it?", return_tensors="pt")
    assert loaded["model"](**ids).logits.shape == (1, 4)
    evaluate, _, *merging, _ = commands_of(text)
    assert main([*evaluate[1:], "--limit", "4", "--out", "again"]) == 0
    assert len(merging) == (tune == "lora")


def test_the_harness_command_names_what_there_is(run):
    """The harness itself is run in test_harness.py, where it is installed."""
    line = next(line for line in (run.path / "README.md").read_text().splitlines() if line.startswith("lm_eval"))
    words = shlex.split(line)
    assert words[4] == f"pretrained={mini_folder()},peft={run.path}/adapter"


def test_a_run_that_was_moved_works_the_same(tmp_path, monkeypatch):
    """Model and rows lie in folders that were named relative to where the run was made."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mini_folder(), tmp_path / "base")
    lines = [f"{('I paid twice', 'Well done')[i % 2]} {i},{('billing', 'praise')[i % 2]}" for i in range(60)]
    (tmp_path / "tickets.csv").write_text("\n".join(["body,topic", *lines]) + "\n")
    (tmp_path / "tickets.yaml").write_text(TICKETS)
    run = train("base", tmp_path / "run", task="tickets.yaml", max_steps=1)
    first = json.loads((run.path / "results.json").read_text())["results"][0]
    (tmp_path / "else/where").mkdir(parents=True)
    shutil.move(tmp_path / "run", tmp_path / "else/where/moved")
    monkeypatch.chdir(tmp_path / "else")
    assert main(["evaluate", "--adapter", "where/moved", "--out", "again"]) == 0
    again = json.loads((tmp_path / "else/again/results.json").read_text())["results"][0]
    assert again["metrics"] == first["metrics"]
    (tmp_path / "rows.csv").write_text("body\nI paid\n")
    assert main(["predict", "where/moved", "--input", "../rows.csv", "--output", "answers.jsonl"]) == 0
    assert main(["merge", "where/moved", "--out", "merged"]) == 0
    assert finished(tmp_path / "else/merged").whole


def test_a_base_model_that_was_moved_is_named(tmp_path, monkeypatch, capsys):
    shutil.copytree(mini_folder(), tmp_path / "base")
    run = train(tmp_path / "base", tmp_path / "run", max_steps=1)
    shutil.move(tmp_path / "base", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", "--adapter", str(run.path), "--out", "a"]) == 2
    assert "no such model folder" in capsys.readouterr().err
    assert main(["evaluate", "--adapter", str(run.path), "--model", "moved", "--limit", "8", "--out", "b"]) == 0
    assert "moved is taken for it" in " ".join(capsys.readouterr().err.split())
    shutil.copytree(tmp_path / "moved", tmp_path / "base")
    values = {"task": "mini/question", "model": str(tmp_path / "base"), "max_steps": 1, "batch_size": 4}
    classify.classify(validate(ClassifySettings, {**values, "eval_limit": 8, "out": tmp_path / "head"}))
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text('{"question": "Who came?"}\n')
    for name in ("run", "head"):
        predict = ["predict", name, "--input", "rows.jsonl", "--output", f"{name}.jsonl"]
        assert main(predict) == 2
        assert main([*predict, "--model", "moved"]) == 0
        assert main(["merge", name, "--out", f"{name}-merged", "--model", "moved"]) == 0
    assert main(["evaluate", "--adapter", "head", "--model", "moved", "--limit", "4", "--out", "d"]) == 0
    capsys.readouterr()
    assert main(["predict", "head-merged", "--input", "rows.jsonl", "--output", "x.jsonl", "--model", "moved"]) == 2
    assert "holds a whole model; leave --model out" in " ".join(capsys.readouterr().err.split())
    shutil.copytree(tmp_path / "moved", tmp_path / "base")
    assert main(["evaluate", "--adapter", str(run.path), "--model", "moved", "--out", "c"]) == 2
    assert "leave --model out" in capsys.readouterr().err


def test_an_adapter_does_not_go_onto_other_weights_of_its_models_name(tmp_path, tiny_model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "base")
    train = ["--task", "mini/question", "--model", "base", "--max-steps", "1", "--batch-size", "4", "--eval-limit", "4"]
    assert main(["sft", *train, "--select-rows", "0", "--out", "run"]) == 0
    assert main(["classify", *train, "--tune", "lora", "--out", "head"]) == 0
    shutil.move("base", "old")
    weights = load_file("old/model.safetensors")
    shutil.copytree("old", "base")
    save_file({name: weight + 0.01 for name, weight in weights.items()}, "base/model.safetensors", {"format": "pt"})
    shutil.copytree("base", "third")
    Path("rows.jsonl").write_text('{"question": "Who came?"}\n')
    short = ["--limit", "2", "--out"]
    for run in ("run", "head"):
        for words in (
            ["evaluate", "--adapter", run, *short, "a"],
            ["predict", run, "--input", "rows.jsonl", "--output", "a.jsonl"],
            ["merge", run, "--out", "a"],
        ):
            capsys.readouterr()
            assert main(words) == 2
            assert "trained on other weights than those that base has now" in " ".join(capsys.readouterr().err.split())
            assert main([*words, "--model", "third"]) == 2
            assert "not the weights that the adapter" in " ".join(capsys.readouterr().err.split())
            shutil.move("base", "elsewhere")
            assert main([*words, "--model", "third"]) == 2
            assert "not the weights that the adapter" in " ".join(capsys.readouterr().err.split())
            shutil.move("elsewhere", "base")
        assert main(["evaluate", "--adapter", run, "--model", "old", *short, f"{run}-old"]) == 0
    capsys.readouterr()
    assert main(["ppo", "--init", "run", *train[:2], "--max-steps", "1", "--out", "ppo"]) == 2
    assert "trained on other weights" in " ".join(capsys.readouterr().err.split())
