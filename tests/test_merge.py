"""A merged model says what base and adapter say, loads without peft, and is there whole or not at all."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers as tf

from rl4nlu import data, files, merge
from rl4nlu.classifier import ask, restore
from rl4nlu.cli import main
from rl4nlu.config import validate
from rl4nlu.errors import NoSpace, UserError
from rl4nlu.methods import classify
from rl4nlu.models import load_policy
from rl4nlu.settings import ClassifySettings
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import find
from runs_zoo import folder_of, train

VOCABULARY = len(tf.AutoTokenizer.from_pretrained(mini_folder()))
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    **SMALL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**LLAMA),
    "gpt2": lambda: tf.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=512),  # tied, and Conv1D
    "tied llama, LoRA on the output": lambda: tf.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "tied llama, LoRA on the input": lambda: tf.LlamaConfig(**LLAMA, tie_word_embeddings=True),
}
TARGETS = {
    "tied llama, LoRA on the output": "q_proj,lm_head",
    "tied llama, LoRA on the input": "q_proj,embed_tokens",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny Llama and a run on it."""
    place = tmp_path_factory.mktemp("merge")
    model = folder_of(CONFIGS["llama"](), place / "llama")
    train(model, place / "run")
    return place


def log_probabilities(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits.float().log_softmax(-1)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")  # peft's, of its own choice
@pytest.mark.parametrize("kind", CONFIGS)
def test_it_says_what_base_and_adapter_say(kind, tmp_path, monkeypatch):
    """Among them a class with tied weights, and LoRA on one end of tied weights; the files are several."""
    model = folder_of(CONFIGS[kind](), tmp_path / "model")
    run = train(model, tmp_path / "run", lora={"target": TARGETS.get(kind, "all-linear")})
    policy = load_policy(str(model), adapter=run.path)
    ids = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))
    with policy.model.disable_adapter():
        base = log_probabilities(policy.model, ids)
    ours = log_probabilities(policy.model, ids)
    assert (ours - base).abs().max() > 0.01, "an adapter that changes nothing proves nothing"

    monkeypatch.setattr(merge, "SHARD", "600KB")
    made = merge.merge(run.path, tmp_path / "merged")
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert (log_probabilities(plain, ids) - ours).abs().max() <= 1e-5
    assert made.difference <= 1e-5
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) > 1
    assert not list((tmp_path / "merged").glob("*value_head*"))
    again = tf.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert again("Where is it?")["input_ids"] == policy.tokenizer("Where is it?")["input_ids"]


def test_the_command_gives_a_model_with_the_runs_predictions(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", str(world / "run"), "--out", "merged"]) == 0
    said = capsys.readouterr().out
    *_, last = said.splitlines()
    assert last == "next: rl4nlu evaluate --model merged --task mini/question"
    assert main([*last.split()[2:], "--limit", "24", "--out", "model"]) == 0
    assert main(["evaluate", "--adapter", str(world / "run"), "--limit", "24", "--out", "adapter"]) == 0
    rows = [
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("model", "adapter")
    ]
    assert len(rows[0]) == 24
    for one, other in zip(*rows, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["scores"] == pytest.approx(other["scores"], abs=2e-5)


def test_how_it_was_asked_is_in_the_command(tmp_path):
    run = train("mini", tmp_path / "run", template="verdict", shots=2, seed=5, max_length=300)
    made = merge.merge(run.path, tmp_path / "merged")
    asked = "--template verdict --shots 2 --seed 5 --max-length 300"
    assert made.ask == f"rl4nlu evaluate --model {tmp_path}/merged --task mini/question {asked}"


@pytest.mark.parametrize(("dtype", "size"), [("base", 2), ("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_the_type_of_the_numbers(dtype, size, tmp_path):
    run = train("mini", tmp_path / "run", max_steps=1)
    made = merge.merge(run.path, tmp_path / "merged", dtype)
    weights = sum(file.stat().st_size for file in (tmp_path / "merged").glob("*.safetensors"))
    assert weights == pytest.approx(made.size, rel=0.01)
    layer = 4 * 256 * 256 + 3 * 256 * 704 + 2 * 256  # attention, feed-forward, norms
    assert made.size == size * (8192 * 256 + 6 * layer + 256)  # tied weights count, and are written, once
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["dtype"] == {"base": "bfloat16"}.get(dtype, dtype)
    assert ("after this rounding" in (tmp_path / "merged/README.md").read_text()) == (size == 2)


def test_settings_of_generation_stay_as_they_are(world, tmp_path):
    """Many models have a temperature and no sampling, which transformers refuses to write."""
    model = folder_of(CONFIGS["llama"](), tmp_path / "model")
    said = {"temperature": 0.6, "do_sample": False, "eos_token_id": [2, 5]}
    (model / "generation_config.json").write_text(json.dumps(said))
    run = train(model, tmp_path / "run", max_steps=1)
    merge.merge(run.path, tmp_path / "merged")
    assert said.items() <= json.loads((tmp_path / "merged/generation_config.json").read_text()).items()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_classifier_with_lora(kind, tmp_path, capsys):
    config = tf.BertConfig(**SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    tokenizer = tf.AutoTokenizer.from_pretrained(mini_folder())
    model = tmp_path / "model"
    if kind == "bert":
        torch.manual_seed(0)
        tf.BertForMaskedLM(config).save_pretrained(model)
        tokenizer.save_pretrained(model)
    else:
        folder_of(CONFIGS["gpt2"](), model)
    values = {"task": "mini/entailment", "model": str(model), "tune": "lora", "max_steps": 3, "eval_limit": 20}
    values |= {"learning_rate": 0.02, "batch_size": 8}
    run, _ = classify.classify(validate(ClassifySettings, {**values, "out": tmp_path / "run"}))
    made = merge.merge(run.path, tmp_path / "merged")
    assert made.difference <= 1e-5
    task = find("mini/entailment")
    rows = data.load(task, "dev", limit=12)
    before = list(ask(restore(run.path, task, "cpu"), rows))
    after = list(ask(restore(tmp_path / "merged", task, "cpu"), rows))
    plain = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert list(plain.config.id2label.values()) == list(task.labels)
    for one, other in zip(before, after, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-5)
    assert main([*made.ask.split()[1:], "--limit", "20", "--out", str(tmp_path / "again")]) == 0
    again, first = (json.loads((p / "results.json").read_text())["results"][0] for p in (tmp_path / "again", run.path))
    assert again["metrics"] == first["metrics"]


def test_what_cannot_be_merged_is_said(world, tmp_path, capsys):
    model = folder_of(CONFIGS["gpt2"](), tmp_path / "model")
    values = {"task": "mini/entailment", "model": str(model), "tune": "full", "max_steps": 1, "eval_limit": 8}
    full, _ = classify.classify(validate(ClassifySettings, {**values, "batch_size": 2, "out": tmp_path / "full"}))
    merge.merge(world / "run", tmp_path / "merged")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("mine")
    run = str(world / "run")
    assert main(["evaluate", "--adapter", run, "--limit", "4", "--out", str(tmp_path / "asked")]) == 0
    capsys.readouterr()
    for args, said in [
        ([str(full.path), "--out", str(tmp_path / "x")], "is a whole model already"),
        ([str(tmp_path / "merged"), "--out", str(tmp_path / "x")], "is a whole model already"),
        ([run, "--out", str(tmp_path / "there")], "is not empty"),
        ([run], "--out is missing"),
        ([str(tmp_path / "asked"), "--out", str(tmp_path / "x")], "holds an evaluation, which has no weights"),
        ([str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")], "no such run folder"),
        ([run, "--out", str(tmp_path / "x"), "--dtype", "int4"], "dtype"),
    ]:
        assert main(["merge", *args]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "there/file").read_text() == "mine"


def test_a_run_that_is_not_finished(world, tmp_path):
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run/status.json").write_text(json.dumps({"state": "stopped"}))
    with pytest.raises(UserError, match="the run is stopped and not finished; go on with it first: rl4nlu resume"):
        merge.merge(tmp_path / "run", tmp_path / "x")


def test_a_label_bias_is_said_to_be_missing(world, tmp_path, capsys):
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run/label_bias.json").write_text(json.dumps({"mini/question": [-1, -2, -1, -1]}))
    assert main(["merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged")]) == 0
    assert "takes a bias out of the label words, which no weight can hold" in capsys.readouterr().out
    assert "no weight can hold that" in (tmp_path / "merged/README.md").read_text()


def test_no_room_is_found_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match=r"the model needs about \d+ MB and 0 MB are free"):
        merge.merge(world / "run", tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_after_all_leaves_nothing(world, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.LlamaForCausalLM, "save_pretrained", full)
    with pytest.raises(NoSpace):
        merge.merge(world / "run", tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_merge_that_says_something_else_is_refused(world, tmp_path, monkeypatch):
    from peft import PeftModel

    real = PeftModel.__getattr__

    def without_adapter(self, name):
        return (lambda safe_merge: self.unload()) if name == "merge_and_unload" else real(self, name)

    monkeypatch.setattr(PeftModel, "__getattr__", without_adapter)
    with pytest.raises(UserError, match="the adapter says something else"):
        merge.merge(world / "run", tmp_path / "merged")
    assert not list(tmp_path.iterdir())
