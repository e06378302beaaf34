"""SFT: its loss against transformers' own, its invariances, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

from policies import assert_same_gradients
from rl4nlu import data
from rl4nlu.ask import encode
from rl4nlu.config import validate
from rl4nlu.forward import score
from rl4nlu.losses import sft_loss
from rl4nlu.methods import sft
from rl4nlu.models import load_policy
from rl4nlu.settings import SftSettings
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import find
from rl4nlu.tokens import micro_batches


def settings(**values) -> SftSettings:
    return validate(SftSettings, {"task": "mini/entailment", "model": "mini", "select_rows": 16, **values})


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("template", ["plain", "verdict"])
def test_loss_is_that_of_transformers_on_answer_tokens(template):
    chosen = settings(template=template, limit=6)
    policy = load_policy("mini")
    task = find(chosen.task)
    question = encode(policy, task, chosen, data.load(task, "train", limit=6))
    pairs = [(row.ids, [row.answers[row.prompt.gold]]) for row in question.rows]
    count = sum(len(answer) for _, (answer,) in pairs)
    found = 0.0
    for batch in micro_batches(pairs, 10_000, pad=0):
        logp = score(policy.model, batch, policy.shared).logp_BKA[:, 0]
        found += sft_loss(logp, batch.answer_mask_BKA[:, 0], count).total.item()
    total = 0.0
    for example in data.load(task, "train", limit=6):
        answer = f" {task.words[example.label]}" + ("\n" if template == "plain" else " </verdict>")
        text = question.prompter.prompt(example).text
        ids = policy.tokenizer(text + answer, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[0, : len(policy.tokenizer(text)["input_ids"])] = -100
        tokens = int((labels != -100).sum())
        total += policy.model(input_ids=ids, labels=labels).loss.item() * tokens
    assert found == pytest.approx(total / count, rel=1e-5, abs=1e-5)


def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path):
    common = {"max_steps": 3, "batch_size": 8, "eval_limit": 8}
    for name, extra in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        sft.sft(settings(**common, **extra, out=tmp_path / name))
    a, b, c = (adapter(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.allclose(a[k], c[k], atol=1e-5) for k in a), "another seed is another run"


def test_micro_batches_leave_the_gradient_alone(tmp_path, gradients):
    for name, max_tokens in (("a", 10_000), ("b", 64)):
        sft.sft(settings(max_steps=1, batch_size=12, eval_limit=8, max_tokens=max_tokens, out=tmp_path / name))
    assert_same_gradients(*gradients)


def test_dropout_is_a_function_of_seed_and_step(tmp_path):
    for name in "ab":
        sft.sft(settings(max_steps=3, batch_size=8, eval_limit=8, lora={"dropout": 0.3}, out=tmp_path / name))
        torch.rand(7)  # whatever else draws random numbers
    sft.sft(settings(max_steps=3, batch_size=8, eval_limit=8, out=tmp_path / "c"))
    a, b, c = (adapter(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.allclose(a[k], c[k], atol=1e-5) for k in a), "without it is another run"


def test_it_learns_and_the_adapter_loads_with_plain_peft(tmp_path):
    run, (result,) = sft.sft(settings(task="mini/question", max_steps=30, eval_limit=150, out=tmp_path / "run"))
    assert result["metrics"]["accuracy"] >= 0.7  # four labels: 0.25 by chance
    logged = [json.loads(line)["loss"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert sum(logged[-5:]) < 0.2 * sum(logged[:5])

    base = transformers.AutoModelForCausalLM.from_pretrained(mini_folder(), dtype=torch.float32)
    plain = peft.PeftModel.from_pretrained(base, run.path / "adapter").eval()
    ours = load_policy("mini", adapter=run.path)
    ids = torch.tensor([[5, 80, 300, 7, 9]])
    assert torch.equal(plain(input_ids=ids).logits, ours.model(input_ids=ids).logits)
    config = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert (config["bias"], config["r"], config["use_rslora"]) == ("none", 16, True)
    card = (run.path / "README.md").read_text()
    assert "model-index" in card
    assert "More Information Needed" not in card


@pytest.mark.slow
def test_sst2_with_the_bundled_model(tmp_path, real_data):
    """Done-when line of the first issue: 600 steps reach 0.74, and PPO on top does not lower it."""
    from rl4nlu.methods import ppo
    from rl4nlu.settings import PpoSettings

    common = {"task": "glue/sst2", "model": "mini", "data": real_data, "select_rows": 256}
    run, (first,) = sft.sft(settings(**common, max_steps=600, out=tmp_path / "sft"))
    assert first["metrics"]["accuracy"] >= 0.74
    values = {**common, "init": run.path, "max_steps": 100, "out": tmp_path / "ppo"}
    _, (second,) = ppo.ppo(validate(PpoSettings, values))
    assert second["metrics"]["accuracy"] >= first["metrics"]["accuracy"] - 1e-9
