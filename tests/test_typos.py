"""What people mistype is understood: the right name is suggested in nine of ten cases at least."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from rl4nlu.cli import main
from rl4nlu.settings import PpoSettings
from rl4nlu.settings.describe import names
from rl4nlu.similar import nearest, nearest_path
from rl4nlu.sources import KNOWN_MODELS
from rl4nlu.tasks import TASKS

RUN = "--task mini/sentiment --model mini"
TYPOS = {
    "command": [
        ("evalute", "evaluate"),
        ("eval", "evaluate"),
        ("xyzzy", None),
        ("pp", "ppo"),
        ("clasify", "classify"),
        ("clssify", "classify"),
        ("task", "tasks"),
        ("Suite", "suite"),
        ("chekc", "check"),
        ("reprot", "report"),
        ("new tsk a.yaml", "task"),
        ("new siute a.yaml", "suite"),
        ("schema pppo", "ppo"),
    ],
    "flag": [
        (f"ppo {RUN} --lerning-rate 1e-4", "--learning-rate"),
        (f"ppo {RUN} --learning_rat 1e-4", "--learning-rate"),
        (f"ppo {RUN} --lr 1e-4", "--learning-rate"),
        (f"ppo {RUN} --batchsize 4", "--batch-size"),
        (f"ppo {RUN} --batch 4", "--batch-size"),
        (f"ppo {RUN} --steps 4", "--max-steps"),
        (f"ppo {RUN} --maxsteps 4", "--max-steps"),
        (f"ppo {RUN} --epoch 4", "--epochs"),
        (f"ppo {RUN} --lora-r 4", "--lora.r"),
        (f"ppo {RUN} --rank 4", "--lora.r"),
        (f"ppo {RUN} --lora.ranl 4", "--lora.r"),
        (f"ppo {RUN} --lora.alhpa 4", "--lora.alpha"),
        (f"ppo {RUN} --dropout 0.1", "--lora.dropout"),
        (f"ppo {RUN} --kl 0.1", "--kl-coef"),
        (f"ppo {RUN} --kl-ceof 0.1", "--kl-coef"),
        (f"ppo {RUN} --estimater gae", "--estimator"),
        (f"ppo {RUN} --answer 4", "--answers"),
        (f"ppo {RUN} --num-generations 4", "--answers"),
        (f"ppo {RUN} --rewrad exact", "--reward"),
        (f"ppo {RUN} --output_dir a", "--out"),
        (f"evaluate {RUN} --shot 4", "--shots"),
        (f"evaluate {RUN} --num-fewshot 4", "--shots"),
        (f"evaluate {RUN} --decoding greedy", "--decode"),
        (f"evaluate {RUN} --sead 4", "--seed"),
        (f"evaluate {RUN} --no-truncat", "--truncate"),
        (f"evaluate {RUN} --clip 0.1", "ppo"),
        (f"sft {RUN} --calibrate batch", "evaluate"),
        (f"sft {RUN} -limit 5", "--limit"),
        ("suite suite.yaml --dryrun", "--dry-run"),
    ],
    "key": [
        ("batchsize: 4", "batch_size"),
        ("lora: {ranl: 4}", "lora.r"),
        ("lora: {rank: 4}", "lora.r"),
        ("lora: {alfa: 4}", "lora.alpha"),
        ("lora: {targets: q_proj}", "lora.target"),
        ("lora_r: 4", "lora.r"),
        ("learning-rate: 1e-4", "learning_rate"),
        ("learningRate: 1e-4", "learning_rate"),
        ("lr: 1e-4", "learning_rate"),
        ("num_train_epochs: 1", "epochs"),
        ("per_device_train_batch_size: 4", "batch_size"),
        ("warm_up: 0.1", "warmup"),
        ("weigth_decay: 0.1", "weight_decay"),
        ("max_grad_nrom: 1", "max_grad_norm"),
        ("ent_coef: 0.1", "entropy_coef"),
        ("entropy: 0.1", "entropy_coef"),
        ("kl_traget: 6", "kl_target"),
        ("ppo_epochs: 2", "inner_epochs"),
        ("cliprange: 0.1", "clip"),
        ("lambda: 0.9", "lam"),
        ("templat: plain", "template"),
        ("calibrate: batch", "evaluate"),
        ("tune: full", "classify"),
    ],
    "choice": [
        (f"ppo {RUN} --estimator geo", "gae"),
        (f"ppo {RUN} --estimator reinforce", "reinforce++"),
        (f"ppo {RUN} --estimator gpro", "grpo"),
        (f"ppo {RUN} --estimator=exepcted", "expected"),
        (f"ppo {RUN} --actions label", "labels"),
        (f"ppo {RUN} --preset papper", "paper"),
        (f"ppo {RUN} --reward exakt", "exact"),
        (f"ppo {RUN} --reward mathews", "matthews"),
        (f"evaluate {RUN} --decode gredy", "greedy"),
        (f"evaluate {RUN} --decode scores", "score"),
        (f"evaluate {RUN} --template verdikt", "verdict"),
        (f"evaluate {RUN} --dtype bf16", "bfloat16"),
        (f"evaluate {RUN} --calibrate contextal", "contextual"),
        ("classify --task mini/sentiment --model mini --preset bert-bse", "bert-base"),
        ("classify --task mini/sentiment --model mini --tune ful", "full"),
    ],
    "task": [
        ("rte", "glue/rte' or 'superglue/rte"),
        ("glue/rtee", "glue/rte"),
        ("Glue/RTE", "glue/rte"),
        ("sst2", "glue/sst2"),
        ("sst-2", "glue/sst2"),
        ("glue/SST-2", "glue/sst2"),
        ("cola", "glue/cola"),
        ("glue/mrcp", "glue/mrpc"),
        ("sts-b", "glue/stsb"),
        ("mnli_mm", "glue/mnli-mm"),
        ("glue/boolq", "superglue/boolq"),
        ("glue/cb", "superglue/cb"),
        ("super_glue/wic", "superglue/wic"),
        ("superglu/wic", "superglue/wic"),
        ("boolqq", "superglue/boolq"),
        ("multi_rc", "superglue/multirc"),
        ("sentiment", "mini/sentiment"),
        ("mini/sentimant", "mini/sentiment"),
        ("mini/questions", "mini/question"),
        ("gleu", "glue"),
        ("superGLEU", "superglue"),
        ("tikets.yaml", "tickets.yaml"),
        ("tickets.yml", "tickets.yaml"),
        ("tickets", "tickets.yaml"),
    ],
    "model": [
        ("minni", "mini"),
        ("Mini", "mini"),
        ("minilmm", "minilm"),
        ("Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("Llama2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1"),
        ("gemma-2b", "google/gemma-2b"),
        ("bert-base", "google-bert/bert-base-uncased"),
        ("bert-base-uncasd", "google-bert/bert-base-uncased"),
        ("roberta-bse", "FacebookAI/roberta-base"),
        ("deberta-v3-base", "microsoft/deberta-v3-base"),
        ("gpt-2", "openai-community/gpt2"),
        ("./modles/llama", "models/llama"),
        ("./models/lama", "models/llama"),
        ("./models/llama-", "models/llama"),
    ],
    "path": [
        ("predict runs/sst2-ftf --input rows.csv --output o.jsonl", "runs/sst2-sft"),
        ("predict run/sst2-sft --input rows.csv --output o.jsonl", "runs/sst2-sft"),
        ("resume runs/sst2sft", "runs/sst2-sft"),
        ("resume runs/sst2-pp", "runs/sst2-ppo"),
        ("report runs/ss2-sft", "runs/sst2-sft"),
        (f"ppo {RUN} --init runs/sst2_sft", "runs/sst2-sft"),
        ("evaluate --adapter runs/sst-sft", "runs/sst2-sft"),
        ("sft runn.yaml", "run.yaml"),
        ("suite siute.yaml", "suite.yaml"),
        ("suite suite.yml", "suite.yaml"),
        ("evaluate --task glue/rte --model mini --data dta", "data"),
        ("submit runs/sst2-stf --out a.zip", "runs/sst2-sft"),
    ],
    "own": [
        ("templte: x", "template"),
        ("numbers: {lo: 0, high: 5}", "numbers.low"),
        ("hub: {datset: a/b}", "hub.dataset"),
        ("metric: [accuracy]", "metrics"),
        ("metrics: [acuracy]", "accuracy"),
        ("metrics: [macro-f1]", "macro_f1"),
        ("metrics: [mathews]", "matthews"),
        ("free: [bdy]", "body"),
        ("instructions: Say it.", "instruction"),
        ("dev_shares: 0.2", "dev_share"),
        ("label: topik", "topic"),
        ("template: '{boddy}'", "body"),
    ],
}
OWN = {"train": "rows.csv", "template": "'{body}'", "label": "topic", "labels": "[cat, dog]"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with a task, its rows, settings, a suite, runs and a model."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/sst2-sft", "runs/sst2-ppo", "runs/rte-sft", "models/llama", "data/glue"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "rows.csv").write_text("body,topic\n" + "A cat.,cat\nA dog.,dog\n" * 5)
    (tmp_path / "tickets.yaml").write_text("".join(f"{key}: {value}\n" for key, value in OWN.items()))
    (tmp_path / "run.yaml").write_text("task: mini/sentiment\nmodel: mini\n")
    (tmp_path / "suite.yaml").write_text("tasks: [mini/sentiment]\nmethods: {a: {command: evaluate}}\n")
    return tmp_path


def line_of(world, kind: str, typed: str) -> list[str]:
    """The command that a mistyped word is part of."""
    if kind == "task":
        return ["evaluate", "--task", typed, "--model", "mini"]
    if kind == "model":
        return ["evaluate", "--task", "mini/sentiment", "--model", typed]
    if kind == "key":
        (world / "typed.yaml").write_text(f"task: mini/sentiment\nmodel: mini\n{typed}\n")
        return ["ppo", "typed.yaml"]
    if kind == "own":
        rest = {key: value for key, value in OWN.items() if key != typed.split(":")[0]}
        rest = {key: value for key, value in rest.items() if not (typed.startswith("numbers") and key == "labels")}
        (world / "typed.yaml").write_text("".join(f"{key}: {value}\n" for key, value in rest.items()) + typed + "\n")
        return ["check", "typed.yaml"]
    return typed.split()


def test_what_people_mistype_is_understood(world, capsys):
    """One line each, exit code 2; of each kind, and of all, nine in ten with the right name."""
    missed: dict[str, list[str]] = defaultdict(list)
    for kind, cases in TYPOS.items():
        for typed, meant in cases:
            assert main(line_of(world, kind, typed)) == 2, typed
            error = capsys.readouterr().err.strip()
            assert error.startswith("error: "), typed
            assert "\n" not in error, typed
            if meant is None:
                assert "did you mean" not in error, error
                continue
            found = f"'{meant}'" in error or f"belongs to {meant}" in error or f"dashes: {meant}" in error
            missed[kind] += [] if found else [f"{typed}: {error}"]
    counts = {kind: len(cases) for kind, cases in TYPOS.items()}
    print("\n" + "\n".join(line for lines in missed.values() for line in lines))
    print({kind: f"{counts[kind] - len(missed[kind])}/{counts[kind]}" for kind in counts})
    assert sum(counts.values()) >= 60
    assert all(len(missed[kind]) <= counts[kind] / 10 for kind in counts), missed


def mistyped(name: str, dice: random.Random) -> str:
    """A letter left out, doubled, exchanged with its neighbour, or another."""
    at = dice.randrange(1, len(name) - 1)
    return dice.choice(
        [
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :],
            name[:at] + dice.choice("aeinrst") + name[at + 1 :],
        ]
    )


@pytest.mark.parametrize("known", [names(PpoSettings), list(TASKS), list(KNOWN_MODELS)], ids=["key", "task", "model"])
def test_one_wrong_letter(known):
    """Of names of four letters and more. A sister may be as near: pythia-1b is one letter from pythia-1.4b."""
    dice = random.Random(0)
    right = total = 0
    for name in (name for name in known if len(name) >= 4):
        for _ in range(10):
            typed = mistyped(name, dice)
            if typed in known:
                continue
            total += 1
            right += name in nearest(typed, known)[:2]
    print(f"\n{right} of {total}")
    assert right / total >= 0.9


@pytest.mark.parametrize("name", ["", "qwertzuiop", "x" * 5000, "🙂", "\x00"])
def test_what_is_like_nothing_is_left_alone(name, tmp_path):
    assert nearest(name, TASKS) == []
    (tmp_path / "other.yaml").write_text("")
    assert nearest_path(tmp_path / name.replace("\x00", "?") / "a.yaml") is None or not name
