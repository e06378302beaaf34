"""Settings: precedence, the frozen list of names, complete files, and no surprise in what a name means."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rl4nlu import config, settings
from rl4nlu.config import command_line, names, parse, validate
from rl4nlu.errors import UserError
from rl4nlu.settings import EvaluateSettings, PpoSettings, SftSettings

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").rglob("*.yaml"))
KINDS = [
    EvaluateSettings,
    SftSettings,
    PpoSettings,
    settings.ClassifySettings,
    settings.PredictSettings,
    settings.SubmitSettings,
    settings.MergeSettings,
    settings.PushSettings,
    settings.CheckSettings,
    settings.ReportSettings,
    settings.DemoSettings,
    settings.SuiteSettings,
    settings.ResumeSettings,
]

# A new setting is added here on purpose: every one is a promise to keep.
COMMON = "task model data limit max_bad_rows seed split device dtype quantize max_length truncate out"
PROMPT = f"{COMMON} template chat shots shots_seed reason max_tokens"
LORA = "lora.r lora.alpha lora.dropout lora.rslora lora.target"
TRAIN = (
    f"{PROMPT} init preset epochs max_steps batch_size learning_rate optimizer schedule warmup weight_decay "
    f"max_grad_norm select_rows save_every eval_limit track mixing mixture_cap {LORA}"
)
PPO_ONLY = (
    "estimator actions group_std answers answer_tokens reward inner_epochs "
    "minibatch clip value_clip value_coef entropy_coef gamma lam kl_coef "
    "kl_target kl_horizon format_penalty metric_window sft_coef stop_kl whiten skip_flat critic_warmup oversample "
    "debias on_collapse"
)
CLASSIFY = (
    f"{COMMON} preset tune epochs max_steps batch_size learning_rate schedule warmup weight_decay max_grad_norm "
    f"save_every eval_limit track {LORA}"
)


def given_args(kind, *args):
    return parse(kind, args, "rl4nlu test")


def test_the_names_are_a_contract():
    assert names(EvaluateSettings) == f"{PROMPT} preset adapter decode answer_tokens unparsable calibrate".split()
    assert names(settings.ClassifySettings) == CLASSIFY.split()
    assert names(SftSettings) == TRAIN.split()
    assert sorted(names(PpoSettings)) == sorted(f"{TRAIN} {PPO_ONLY}".split())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_meaning_and_a_default(kind):
    def check(model: type[BaseModel]) -> None:
        for name, info in model.model_fields.items():
            inner = info.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                check(inner)
            else:
                assert info.description, f"{model.__name__}.{name} has no docstring"
                assert not info.is_required(), f"{model.__name__}.{name} has no default"

    check(kind)


def test_flags_over_file_over_preset_over_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: paper\nbatch_size: 7\nlora:\n  r: 4\nlearning_rate: 1e-5\n")
    settings = given_args(PpoSettings, str(file), "--kl-coef", "0.3", "--lora.alpha", "8")
    assert settings.kl_coef == 0.3  # flag
    assert settings.lora.alpha == 8  # nested flag
    assert (settings.batch_size, settings.lora.r, settings.learning_rate) == (7, 4, 1e-5)  # file
    assert (settings.optimizer, settings.kl_target, settings.template) == ("adafactor", 6.0, "verdict")  # preset
    assert (settings.clip, settings.lora.rslora) == (0.2, True)  # default
    assert given_args(PpoSettings, "--preset", "paper").kl_coef == 0.2
    assert given_args(PpoSettings, "--preset=paper", "--kl-target", "None").kl_target is None


def test_a_group_in_the_file_keeps_the_rest_of_the_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: paper\nlora:\n  r: 4\n")
    settings = given_args(SftSettings, str(file))
    assert (settings.lora.r, settings.lora.dropout) == (4, 0.05)


def test_the_paper_preset_is_the_paper():
    """arXiv 2410.11020 and its released code."""
    ppo = given_args(PpoSettings, "--preset", "paper")
    assert (ppo.lora.r, ppo.lora.alpha, ppo.lora.rslora) == (16, 32, True)
    assert (ppo.learning_rate, ppo.optimizer, ppo.schedule, ppo.warmup) == (9e-6, "adafactor", "constant", 0.0)
    assert (ppo.batch_size, ppo.epochs, ppo.inner_epochs) == (16, 3, 4)
    assert (ppo.kl_coef, ppo.kl_target, ppo.kl_horizon) == (0.2, 6.0, 10_000)
    assert (ppo.clip, ppo.value_clip, ppo.value_coef, ppo.gamma, ppo.lam) == (0.2, 0.2, 0.1, 1.0, 0.95)
    assert ppo.reward == "paper"
    assert ppo.answers == 1
    sft = given_args(SftSettings, "--preset", "paper")
    assert (sft.learning_rate, sft.epochs, sft.batch_size, sft.lora.dropout) == (9e-6, 1, 24, 0.05)
    asked = given_args(EvaluateSettings, "--preset", "paper")
    assert (asked.template, asked.decode, asked.unparsable) == ("verdict", "sample", "random")


def test_the_bert_presets_are_the_usual_settings():
    """Devlin et al. 2019, appendix A.3: batches of 16 or 32, rates of 2e-5 to 5e-5, 2 to 4 epochs."""
    for size in ("base", "large"):
        bert = given_args(settings.ClassifySettings, "--preset", f"bert-{size}", "--task", "glue/rte")
        assert bert.model == f"google-bert/bert-{size}-uncased"
        assert (bert.epochs, bert.batch_size, bert.learning_rate, bert.tune) == (3, 32, 2e-5, "full")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--decode", "greedy", "--calibrate", "batch"],
            "--calibrate works on scored labels: leave out --decode greedy",
        ),
        (["--unparsable", "random"], "--unparsable random is for generated answers: add --decode sample or greedy"),
    ],
)
def test_settings_that_contradict_each_other_are_named(flags, complaint):
    with pytest.raises(UserError) as caught:
        given_args(EvaluateSettings, *flags)
    assert str(caught.value).split("; see: ")[0] == complaint


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_complete_run_is_valid_and_opens_with_its_command(path):
    command = path.read_text().splitlines()[0].removeprefix("# ").split()
    kind = settings.COMMANDS[command[1]]
    assert command[0] == "rl4nlu"
    assert Path(command[2]).name == path.name
    given = given_args(kind, str(path), *command[3:])
    assert given.tasks if command[1] == "suite" else given.task


def test_saved_settings_and_command_give_the_same_settings(tmp_path):
    settings = given_args(
        PpoSettings, "--task", "glue/rte", "--lora.no-rslora", "--chat", "--value-clip", "None", "--clip", "0.1"
    )
    config.save(settings, tmp_path / "config.yaml")
    assert given_args(PpoSettings, str(tmp_path / "config.yaml")) == settings
    assert given_args(PpoSettings, *command_line("ppo", settings).split()[2:]) == settings


@pytest.mark.parametrize(
    ("kind", "command", "flags"),
    [
        (PpoSettings, "ppo", "--epochs 1 --kl-coef 0.05 --answers 4 --optimizer adamw --select-rows 256"),
        (PpoSettings, "ppo", "--kl-target None --answer-tokens None"),
        (EvaluateSettings, "evaluate", "--decode score --unparsable wrong"),
        (SftSettings, "sft", "--lora.dropout 0 --warmup 0.1"),
    ],
)
def test_what_was_set_back_to_the_default_over_a_preset_is_in_the_command(kind, command, flags):
    settings = given_args(kind, "--task", "glue/rte", "--model", "mini", "--preset", "paper", *flags.split())
    assert settings != given_args(kind, "--task", "glue/rte", "--model", "mini", "--preset", "paper")
    assert given_args(kind, *command_line(command, settings).split()[2:]) == settings


def test_a_preset_of_free_text_goes_with_labels_too():
    """What the preset says of answers was not said by the user."""
    for flags in (["--actions", "labels"], ["--estimator", "expected"]):
        assert given_args(PpoSettings, "--task", "glue/rte", "--preset", "paper", *flags).over_labels
    with pytest.raises(UserError, match="--answer-tokens is about free text"):
        given_args(
            PpoSettings, "--task", "glue/rte", "--preset", "paper", "--actions", "labels", "--answer-tokens", "8"
        )


@pytest.mark.parametrize("name", ["oversample", "limit", "kl_coef", "critic_warmup", "eval_limit"])
def test_yes_is_no_number(name):
    with pytest.raises(UserError, match=f"{name}: .*a number stands here, and no yes or no"):
        config.validate(PpoSettings, {name: True})
    assert config.validate(PpoSettings, {"debias": True, "estimator": "expected"}).debias


def outcome(function, *args):
    """What a function returns, or its message to the user; anything else it raises fails the test."""
    try:
        return function(*args)
    except UserError as wrong:
        return str(wrong)


@given(st.dictionaries(st.text(max_size=12), st.none() | st.text(max_size=8) | st.floats() | st.lists(st.integers())))
def test_no_settings_file_ends_in_a_traceback(values):
    found = outcome(validate, SftSettings, values)
    assert isinstance(found, str) or set(values) <= set(SftSettings.model_fields), "an unknown key was accepted"


@given(st.text(max_size=60))
def test_no_yaml_text_ends_in_a_traceback(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(text, encoding="utf-8")
    found = outcome(config.read_yaml, path)
    assert isinstance(found, str) or found == {} or isinstance(yaml.safe_load(text), dict)


WORDS = ["--task", "--limit", "--lora.r", "x", "3", "-1", "--no-chat", "--", "=", "--seed=1"]


@given(st.lists(st.sampled_from(WORDS), max_size=5))
def test_no_flags_end_in_a_traceback(args):
    found = outcome(given_args, SftSettings, *args)
    assert isinstance(found, SftSettings) or "\n" not in found.strip()


ODD = ["seed: 2024-99-99", "seed: !!bool 9", "seed: !!int ''", "seed: !!timestamp a", "preset: [a]", "? [a]\n: b"]
ODD += ["a: " + "[" * 3000, f"seed: {'9' * 5000}", "lora: &x {r: *x}", "model: a\nmodel: b", "seed: !!float a"]
BILLION = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize("text", [*ODD, BILLION])
def test_odd_yaml_is_one_line(tmp_path, text):
    """What fuzzing found: PyYAML lets other errors through than its own, and anchors that name each other grow without
    end."""
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        parse(SftSettings, [str(tmp_path / "odd.yaml")], "rl4nlu")
    assert len(str(error.value)) < 5000
