"""Several real processes make the run that one makes (gloo, on this machine's cores)."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from models_zoo import folder_of
from rl4nlu.cli import main
from rl4nlu.errors import UserError
from rl4nlu.sharing import layers_of
from several import SHARING, carry_out, start
from zygote import until

TASKS = "mini/sentiment,mini/question"
COMMON = ["--batch-size", "7", "--max-steps", "3", "--max-tokens", "160", "--eval-limit", "21", "--limit", "60"]
PPO = ["ppo", "--task", "mini/sentiment", "--select-rows", "5", "--answers", "2", "--inner-epochs", "2", *COMMON]
RUNS = {
    "sft": ["sft", "--task", TASKS, "--select-rows", "6", *COMMON],
    "gae": [*PPO, "--init", "{init}", "--minibatch", "3"],
    "gae-whole": [*PPO, "--max-tokens", "4096", "--sft-coef", "0.5", "--kl-target", "6"],
    "rloo": [*PPO, "--estimator", "rloo", "--entropy-coef", "0.1"],
    "grpo": [*PPO, "--estimator", "grpo", "--actions", "labels", "--debias"],
    "reinforce++": [*PPO, "--estimator", "reinforce++", "--reason", "3", "--reward", "matthews"],
    "expected": [*PPO, "--estimator", "expected", "--oversample", "2"],
    "one-prompt": [*PPO, "--batch-size", "1"],
    "classify": ["classify", "--task", "mini/sentiment", *COMMON[:4], *COMMON[6:]],
    "zero-shot": ["evaluate", "--task", TASKS, "--limit", "23", "--max-tokens", "160"],
    "sampled": ["evaluate", "--task", "mini/entailment", "--limit", "5", "--decode", "sample", "--reason", "4"],
    "one-row": ["evaluate", "--task", "mini/entailment", "--limit", "1", "--decode", "greedy", "--shots", "2"],
    "calibrated": ["evaluate", "--task", "mini/entailment", "--limit", "9", "--calibrate", "domain"],
}
SPEEDS = {"examples_per_second", "tokens_per_second"}


OFTEN = ("sft", "gae", "expected", "zero-shot")
"""What is tried each time; the rest is slow."""
RARELY = tuple(name for name in RUNS if name not in OFTEN)


def commands(model: Path, folder: Path, names: Sequence[str]) -> list[list[str]]:
    """These runs, in a folder."""
    found = []
    for name in names:
        start = [] if "{init}" in RUNS[name] else ["--model", str(model)]
        found.append([*(one.format(init=folder / "sft") for one in RUNS[name]), *start, "--out", str(folder / name)])
    return found


@pytest.fixture(scope="module", params=[OFTEN, pytest.param(RARELY, marks=pytest.mark.slow)], ids=["often", "rarely"])
def alone(request, tiny_model, tmp_path_factory) -> tuple[Path, Sequence[str]]:
    """The runs by one process, and their names."""
    folder = tmp_path_factory.mktemp("alone")
    for argv in commands(tiny_model, folder, request.param):
        assert main(argv) == 0
    return folder, request.param


@pytest.fixture(scope="module", params=["whole", pytest.param("sharded", marks=pytest.mark.slow)])
def both(request, alone, tiny_model, tmp_path_factory) -> tuple[Path, Path, Sequence[str]]:
    """The runs by one process, the same by two, and their names."""
    (one, names), folder = alone, tmp_path_factory.mktemp(request.param)
    if request.param == "sharded":
        names = [name for name in names if name != "classify"]  # each process has a classifier of its own
    carry_out(2, folder, commands(tiny_model, folder, names), **(SHARING if request.param == "sharded" else {}))
    return one, folder, names


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def close(a, b) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


def test_training_is_that_of_one_process(both):
    alone, together, names = both
    for name in (name for name in names if RUNS[name][0] != "evaluate"):
        one, two = rows(alone / name / "metrics.jsonl"), rows(together / name / "metrics.jsonl")
        assert len(one) == len(two) == 3
        for before, after in zip(one, two, strict=True):
            assert before.keys() == after.keys()
            for key in before.keys() - SPEEDS:
                same = close(before[key], after[key]) if isinstance(before[key], float) else before[key] == after[key]
                assert same, (name, key, before[key], after[key])
        weights, others = (load_file(path / name / "adapter/adapter_model.safetensors") for path in (alone, together))
        assert weights.keys() == others.keys()
        for key, weight in weights.items():
            assert (weight - others[key]).abs().max() < 1e-5, (name, key)


def test_every_row_is_there_once_and_answered_alike(both):
    alone, together, names = both
    for name in names:
        one, two = rows(alone / name / "predictions.jsonl"), rows(together / name / "predictions.jsonl")
        assert [(row["task"], row["id"]) for row in one] == [(row["task"], row["id"]) for row in two], name
        for before, after in zip(one, two, strict=True):
            assert before["text"] == after["text"], name
            assert before["prediction"] == after["prediction"], name
            for label, logp in (before["scores"] or {}).items():
                assert abs(logp - after["scores"][label]) < 2e-5, name
        results, others = (json.loads((path / name / "results.json").read_text()) for path in (alone, together))
        for result in (*results["results"], *others["results"]):
            del result["seconds"]
        assert results == others, name


def test_one_process_writes_and_talks(both):
    alone, together, names = both
    for name in names:
        files = [
            {str(path.relative_to(folder)) for path in (folder / name).rglob("*") if path.is_file()}
            for folder in (alone, together)
        ]
        assert files[0] == files[1]
    assert (together / "said-1.txt").read_text() == ""


@pytest.mark.slow
def test_every_class_says_the_same_where_its_layers_are_shared_out(tmp_path):
    kinds = ["llama", "qwen2", "mpt", "gpt_neox", "gemma2", "gpt2", "bloom"]
    folders = [folder_of(kind, tmp_path / kind) for kind in kinds]
    carry_out(2, tmp_path / "out", [["compare", str(folder)] for folder in folders], **SHARING)
    for kind in kinds:
        held = []
        for rank in (0, 1):
            found = json.loads((tmp_path / "out" / f"compared-{kind}-{rank}.json").read_text())
            assert found["difference"] < 1e-5, kind
            assert found["same_fingerprint"], kind  # so a run may go on with its layers shared out or not
            assert found["shared"][0] == found["shared"][1]
            whole, share = found["sizes"]
            held.append(share)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
        layers = sum(weight.numel() for weight in layers_of(model).parameters())
        assert sum(held) == 2 * whole - layers, kind  # of the layers each weight is in one process


LONG = [
    "sft",
    "--task",
    "mini/sentiment",
    "--batch-size",
    "4",
    "--max-steps",
    "60",
    "--eval-limit",
    "9",
    "--limit",
    "60",
]
LONG += ["--lora.dropout", "0.1", "--save-every", "7"]


@pytest.fixture(scope="module", params=[{}, SHARING], ids=["whole", "sharded"])
def undisturbed(request, tiny_model, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A run left alone, and how its processes were started."""
    folder, how = tmp_path_factory.mktemp("undisturbed"), request.param
    carry_out(2, folder, [[*LONG, "--model", str(tiny_model), "--out", str(folder / "run")]], **how)
    return folder / "run", how


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_and_nothing_is_lost(tiny_model, tmp_path, undisturbed, victim):
    (reference, how), run = undisturbed, tmp_path / "run"
    processes = start(2, tmp_path, [[*LONG, "--model", str(tiny_model), "--out", str(run)]], **how)
    until(lambda: (run / "metrics.jsonl").exists() and len(rows(run / "metrics.jsonl")) >= 10, 120)
    processes[victim].kill()
    begun = time.monotonic()
    codes = [process.wait(60) for process in processes]
    assert time.monotonic() - begun < 30
    assert codes[1 - victim] == 6
    said = (tmp_path / f"said-{1 - victim}.txt").read_text()
    assert f"error: process {victim} of 2 is gone" in said
    assert "Traceback" not in said
    assert f"rl4nlu resume {run}" in said
    carry_out(2, tmp_path / "again", [["resume", str(run)]], **how)
    one, two = rows(reference / "metrics.jsonl"), rows(run / "metrics.jsonl")
    assert [{k: v for k, v in row.items() if k not in SPEEDS} for row in one] == [
        {k: v for k, v in row.items() if k not in SPEEDS} for row in two
    ]
    weights = [path / "adapter" / "adapter_model.safetensors" for path in (reference, run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_another_number_goes_on(tiny_model, tmp_path):
    argv = [*LONG, "--lora.dropout", "0", "--model", str(tiny_model), "--out"]
    assert main([*argv, str(tmp_path / "alone")]) == 0
    run = tmp_path / "run"
    processes = start(2, tmp_path, [[*argv, str(run)]], **SHARING)
    until(lambda: (run / "metrics.jsonl").exists() and len(rows(run / "metrics.jsonl")) >= 10, 120)
    processes[1].terminate()
    assert [process.wait(60) for process in processes] == [143, 143]
    assert "steps are saved; go on: rl4nlu resume" in (tmp_path / "said-0.txt").read_text()
    assert main(["resume", str(run)]) == 0
    one, two = rows(tmp_path / "alone" / "metrics.jsonl"), rows(run / "metrics.jsonl")
    assert len(one) == len(two) == 60
    assert all(close(before["loss"], after["loss"]) for before, after in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "--use_fsdp --fsdp_version 2 instead of --use_deepspeed"),
        ({"ACCELERATE_USE_FSDP": "true"}, "launch with --fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "launch with --fsdp_version 2"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "--fsdp_offload_params true: not done here"),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "1"}, "--fsdp_activation_checkpointing true: not"),
        ({"FSDP_VERSION": "2"}, None),
    ],
)
def test_what_a_launcher_asks_for_is_done_or_refused(monkeypatch, told, says):
    from rl4nlu.processes.start import _asked_to_share

    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_VERSION"):
        monkeypatch.delenv(name, raising=False)
    assert _asked_to_share() is False
    for name, value in ({"ACCELERATE_USE_FSDP": "true"} | told if "FSDP_VERSION" in told else told).items():
        monkeypatch.setenv(name, value)
    if says is None:
        assert _asked_to_share()
        return
    with pytest.raises(UserError, match=re.escape(says)):
        _asked_to_share()
