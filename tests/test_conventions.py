"""The conventions of the paper's models, end to end: chat templates, tokens that are missing or filled up, biases,
fused and tied weights; and every file of configs/ against a tiny model of its class."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers as tf
import yaml

import conventions
from rl4nlu import cost
from rl4nlu.check import check
from rl4nlu.config import validate
from rl4nlu.forward import score
from rl4nlu.merge import merge
from rl4nlu.models import load_policy
from rl4nlu.plan import make_plan
from rl4nlu.prompts import Prompter, chat_wrapper
from rl4nlu.rollout import sample, uniforms
from rl4nlu.settings import LoraSettings, SuiteSettings
from rl4nlu.tokens import Encoder, micro_batches
from runs_zoo import train
from tokenizers_zoo import TASK, TEMPLATES, made_up

KINDS = ["llama", "qwen2", "qwen2 tied", "mpt"]
CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").rglob("*.yaml"))
CLASSES = {"meta-llama/": "llama", "Qwen/": "qwen2", "mosaicml/": "mpt", "google-bert/": "bert", "mini": "mini"}
OFTEN = {"sft", "bert-base", "study"}
"""Files that are tried each time; the others are slow."""
LINES = 16
"""Of each official file that are checked."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, request):
    """Kind -> the folder of its model, made when it is asked for."""
    home, found = tmp_path_factory.mktemp("models"), {}

    def of(kind):
        data = request.getfixturevalue("real_data") if kind == "llama" else Path()
        if kind not in found:
            found[kind] = conventions.made(kind, home / kind.replace(" ", "-"), data)
        return found[kind]

    return of


def rows_of(policy, template):
    """A few rows behind the chat template, in tokens; each with the tokens of its answers."""
    prompter = Prompter(TASK, template, chat=chat_wrapper(policy.tokenizer))
    encoder = Encoder(policy.tokenizer, prompter, 1024)
    return [encoder.encode(made_up(TASK, f"It rains {i}.")) for i in range(3)]


def plainly(model, prompt, answer):
    """The log-probability of an answer by transformers alone: one sequence, no padding, all of the vocabulary."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0].float().log_softmax(-1)
    at = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return logp[at, ids[0, len(prompt) :]]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_chat_template_an_answer_is_what_plain_transformers_says(kind, template, folders):
    """With its end, which is also what MPT has to pad with."""
    policy = load_policy(str(folders(kind)), "cpu")
    plain = tf.AutoModelForCausalLM.from_pretrained(folders(kind), dtype=torch.float32).eval()
    tokenizer, end = policy.tokenizer, policy.tokenizer.eos_token_id
    rows = rows_of(policy, template)
    for row in rows:
        message = tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=False
        )
        assert row.prompt.text.startswith(message.split("?")[0])
        assert row.ids.count(1) == 1 if kind == "llama" else tokenizer.bos_token_id not in row.ids
        prompter = row.prompter
        for answer, ids in zip(prompter.answers, row.answers, strict=True):
            text = row.prompt.text + answer
            assert [*row.ids, *ids] == tokenizer(text, add_special_tokens=False)["input_ids"]
    answers = [[(*ids, end) for ids in row.answers] for row in rows]
    batch = next(micro_batches([(row.ids, a) for row, a in zip(rows, answers, strict=True)], 10_000, end))
    for shared in {policy.shared, False}:
        with torch.no_grad():
            found = score(policy.model, batch, shared).logp_BKA
        for place, row in enumerate(batch.rows):
            for k, answer in enumerate(answers[row]):
                said = plainly(plain, rows[row].ids, answer)
                assert (found[place, k, : len(answer)] - said).abs().max() < 1e-4
    assert policy.shared, "the shared way is exact for these classes"


@pytest.mark.parametrize("kind", ["qwen2", "mpt"])
def test_ids_that_no_token_has_are_never_written(kind, folders):
    """They have most of the probability here."""
    policy = load_policy(str(folders(kind)), "cpu")
    words = len(policy.tokenizer)
    assert policy.model.get_output_embeddings().weight.shape[0] == words + conventions.PADDED
    head, before = policy.model.get_output_embeddings(), policy.model.get_output_embeddings().forward

    def tilted(hidden):
        logits = before(hidden)
        logits[..., words:] += 30.0
        return logits

    head.forward = tilted
    prompts = [row.ids for row in rows_of(policy, "plain")]
    for uniform in (None, uniforms(len(prompts), 4, 12, 0, "test", 0)):
        for answers in sample(policy, prompts, lambda text: False, 12, 4096, uniform):
            assert all(token < words for answer in answers for token in answer.tokens)


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("mpt", {"Wqkv", "out_proj", "up_proj", "down_proj"}),
        ("qwen2", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_lora_is_on_all_linear_layers(kind, modules, folders):
    policy = load_policy(str(folders(kind)), "cpu", lora=LoraSettings())
    found = {name.split(".lora_A")[0].rpartition(".")[2] for name in policy.named_trainable() if "lora_A" in name}
    assert found == modules
    assert not any("bias" in name for name in policy.named_trainable()), "biases stay, so that off is the base model"


@pytest.mark.parametrize("kind", ["qwen2 tied", "mpt"])
def test_tied_and_filled_up_embeddings_are_merged(kind, folders, tmp_path):
    run = train(folders(kind), tmp_path / "run", chat=True, template="verdict")
    policy = load_policy(str(folders(kind)), "cpu", adapter=run.path)
    merge(run.path, tmp_path / "merged")
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    base = tf.AutoModelForCausalLM.from_pretrained(folders(kind), dtype=torch.float32).eval()
    assert plain.config.vocab_size == base.config.vocab_size
    ids = torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs, before = (m(input_ids=ids).logits.log_softmax(-1) for m in (policy.model, plain, base))
    assert (ours - theirs).abs().max() < 1e-4
    assert (ours - before).abs().max() > 0.01


# -- configs/ ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beginning(real_data, tmp_path_factory):
    """The first lines of every official file."""
    home = tmp_path_factory.mktemp("data")
    for path in [*real_data.glob("glue/*/*"), *real_data.glob("superglue/*/*")]:
        if path.suffix in (".tsv", ".jsonl"):
            there = home / path.relative_to(real_data)
            there.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as file:
                there.write_bytes(b"".join(line for _, line in zip(range(LINES), file, strict=False)))
    yield home
    shutil.rmtree(home)


def models_of(values):
    """The models that a file names."""
    named = [values.get("model"), values.get("common", {}).get("model")]
    named += [one.get("model") for one in values.get("methods", {}).values()]
    return {name for name in named if name}


@pytest.mark.parametrize(
    "path",
    [path if path.stem in OFTEN else pytest.param(path, marks=pytest.mark.slow) for path in CONFIGS],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_file_passes_check_with_a_model_of_its_class(path, folders, beginning, tiny_model, monkeypatch):
    monkeypatch.setattr(cost, "STEPS", 1)
    monkeypatch.setattr(cost, "MOST", 1)
    monkeypatch.setattr(cost, "ROWS", 8)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if values.get("quantize"):
        pytest.importorskip("bitsandbytes")
    names = models_of(values) or {"meta-llama/"}
    (kind,) = {next(kind for begins, kind in CLASSES.items() if name.startswith(begins)) for name in names}
    said = check(path, beginning, 9, str(tiny_model if kind == "mini" else folders(kind)))
    assert path.read_text(encoding="utf-8").split()[2] in said[0].split(": ")[1]
    assert any("train: " in line for line in said)
    # of methods whose values are still to be chosen nothing is known
    known = [line for line in said if "memory of this machine in" in line]
    assert known
    assert not [line for line in said if "is not known" in line]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_suite_can_be_planned(path):
    """Without data and models: every setting is one that its command takes."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "methods" not in values:
        pytest.skip("settings of one run")
    jobs = make_plan(validate(SuiteSettings, values)).jobs.values()
    assert {job.method for job in jobs} == set(values["methods"])


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.name == "paper"], ids=lambda path: path.stem)
def test_a_file_opens_with_its_command_hardware_and_memory(path):
    first, *head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert first.startswith(f"# rl4nlu {first.split()[2]} configs/paper/{path.name} --data DIR")
    (card,) = (int(line.split()[-2]) for line in head if line.startswith("# hardware: one GPU of "))
    needed = [float(line.split(" GB")[0].split()[-1]) for line in head if line.startswith("# memory: ")]
    assert needed
    assert max(needed) < 0.9 * card, "the hardware does not hold it"
    assert max(map(len, head)) <= 120
