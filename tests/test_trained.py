"""What a run brings along where it is started from or asked, and what is said instead."""

from __future__ import annotations

import shlex

import pytest
import yaml

from rl4nlu.config import command_line, parse, validate, with_preset
from rl4nlu.errors import UserError
from rl4nlu.methods import sft
from rl4nlu.settings import EvaluateSettings, LoraSettings, PpoSettings, SftSettings
from rl4nlu.trained import continue_from, follow, other_than

BROUGHT = {"chat": True, "shots": 2, "reason": 4, "seed": 3}
KINDS = {"evaluate": EvaluateSettings, "ppo": PpoSettings}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """A run whose settings are not the defaults: the rest of it does not matter here."""
    values = {"task": "mini/question", "model": str(tiny_model), "max_steps": 1, "batch_size": 4, "eval_limit": 4}
    values |= {"select_rows": 0, "lora": {"r": 4}, "out": tmp_path_factory.mktemp("trained") / "run"}
    made, _ = sft.sft(validate(SftSettings, values))
    config = made.path / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **BROUGHT}))
    return made.path


def asked(command, run, words):
    flag = "--adapter" if command == "evaluate" else "--init"
    settings = parse(KINDS[command], [flag, str(run), *words.split()], f"rl4nlu {command}")
    return follow(run, settings) if command == "evaluate" else continue_from(settings)


@pytest.mark.parametrize("command", KINDS)
@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("", {}),
        ("--no-chat", {"chat": False}),
        ("--reason 0", {"reason": 0}),
        ("--shots 0", {"shots": 0, "shots_seed": None}),
        ("--shots 5", {"shots": 5}),
        ("--shots-seed 7", {"shots_seed": 7}),
        ("--shots=1 --shots-seed=0", {"shots": 1, "shots_seed": 0}),
        ("--seed 0", {"seed": 0}),
        ("--no-chat --shots 0 --reason 0", {"chat": False, "shots": 0, "shots_seed": None, "reason": 0}),
    ],
)
def test_what_is_said_wins_a_default_too(run, command, words, instead):
    """And the command that is noted says it as well, so that it makes the same run."""
    found = asked(command, run, words)
    own = {} if command == "evaluate" else {"seed": 0}  # a training has a seed of its own
    wanted = {**BROUGHT, "shots_seed": 3, **own, **instead}
    assert {name: getattr(found, name) for name in wanted} == wanted
    line = shlex.split(command_line(command, found, found.model_fields_set))
    again = parse(KINDS[command], line[2:], "rl4nlu")
    again = follow(run, again) if command == "evaluate" else continue_from(again)
    assert again == found
    assert words or "--no-chat" not in line


def test_a_file_of_all_settings_is_taken_as_it_stands(run, tmp_path):
    found = asked("ppo", run, "--no-chat")
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(found.model_dump(mode="json")))
    assert continue_from(parse(PpoSettings, [str(file)], "rl4nlu ppo")) == found


def test_lora_settings_are_the_adapters(run):
    """Also where one is given that is the default, and another the adapter's."""
    assert asked("ppo", run, "--lora.r 4").lora.r == 4
    assert asked("ppo", run, "").lora.r == 4
    with pytest.raises(UserError, match=r"lora\.r: that of the adapter in .* is 4; leave it out"):
        asked("ppo", run, "--lora.r 16")


def test_what_a_preset_says_and_dropout_for_ppo_are_no_wish_for_another_adapter():
    """As in a suite whose common settings are of all runs: the next call compares the same way."""
    of_sft = validate(SftSettings, with_preset(SftSettings, {"preset": "paper", "lora": {"r": 16}}))
    assert of_sft.lora.dropout == 0.05
    ppo = validate(PpoSettings, {"lora": {"r": 16, "dropout": 0.1}})
    for settings in (of_sft, ppo):
        assert other_than(settings, LoraSettings(r=16, dropout=0.0)) == ""
        assert other_than(settings, LoraSettings(r=8)) == "r"
    assert other_than(validate(SftSettings, {"lora": {"dropout": 0.1}}), LoraSettings()) == "dropout"


def test_what_counts_as_said_is_what_stands_in_file_flags_and_preset(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("task: mini/question\nshots: 0\nlora: {r: 16}\n")
    found = parse(SftSettings, [str(file), "--no-chat", "--lora.no-rslora", "--max-steps=3", "--preset", "paper"], "x")
    preset = {"template", "epochs", "batch_size", "learning_rate", "schedule", "warmup", "select_rows"}
    assert found.model_fields_set - preset == {"task", "shots", "lora", "chat", "max_steps", "preset"}
    assert found.lora.model_fields_set == {"r", "rslora", "dropout"}
