"""What counts only beside something else: a setting that would do nothing is refused where somebody gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .ask import EvaluateSettings, PredictSettings
from .base import SOURCES, Frozen, PromptSettings
from .presets import PRESETS
from .tools import SuiteSettings
from .train import ClassifySettings, PpoSettings, TrainSettings


class Rule(NamedTuple):
    """When settings count."""

    kind: type[Frozen]
    names: str
    """Settings, with blanks between; of a group with a dot."""
    counts: Callable[[Any], bool]
    why: str
    """Why not, and what to do; {flag} is the setting's, {estimator} and so on are values."""


def _has_lambda(s: PpoSettings) -> bool:
    return s.estimator == "gae" and not s.over_labels


def _updates_again(s: PpoSettings) -> bool:
    """Whether a step's rollouts are gone over by a policy that has moved since."""
    return s.inner_epochs > 1 or (s.minibatch or s.batch_size) < s.batch_size


LEAVE = "leave it out"
RULES = (
    Rule(
        TrainSettings,
        "weight_decay",
        lambda s: s.optimizer == "adamw",
        f"{{flag}} is of AdamW: {LEAVE}, or give --optimizer adamw",
    ),
    Rule(
        PpoSettings,
        "lam",
        _has_lambda,
        f"{{flag}} shares out an answer's advantage among its tokens, by GAE and in free text: {LEAVE}",
    ),
    Rule(
        PpoSettings,
        "gamma",
        lambda s: _has_lambda(s) or (s.estimator == "reinforce++" and not s.over_labels),
        f"{{flag}} discounts later tokens, for gae and reinforce++ and in free text: {LEAVE}",
    ),
    Rule(
        PpoSettings,
        "value_coef value_clip",
        lambda s: s.estimator == "gae",
        "--estimator {estimator} has no critic: leave out {flag}",
    ),
    Rule(
        PpoSettings,
        "value_clip",
        lambda s: s.value_coef > 0,
        f"{{flag}} is of the critic, whose weight --value-coef is 0: {LEAVE}",
    ),
    Rule(
        PpoSettings,
        "clip value_clip",
        _updates_again,
        f"{{flag}} bounds a step's later updates, and there is one: give --inner-epochs 2 or more, or {LEAVE}",
    ),
    Rule(PpoSettings, "group_std", lambda s: s.estimator == "grpo", f"{{flag}} is of --estimator grpo: {LEAVE}"),
    Rule(
        PpoSettings,
        "skip_flat",
        lambda s: s.estimator in ("rloo", "grpo"),
        f"{{flag}}: --estimator {{estimator}} compares no answers to a prompt: {LEAVE}",
    ),
    Rule(
        PpoSettings,
        "kl_horizon",
        lambda s: s.kl_target is not None,
        f"{{flag}} is how fast --kl-target is followed: add that, or {LEAVE}",
    ),
    Rule(
        PpoSettings,
        "metric_window",
        lambda s: s.reward not in ("paper", "exact"),
        f"{{flag}} is of a reward that is a metric's derivative: add --reward metric, or {LEAVE}",
    ),
    Rule(
        PpoSettings,
        "minibatch",
        lambda s: s.minibatch <= s.batch_size,
        f"{{flag}} {{minibatch}} is more than the {{batch_size}} prompts of a step: give fewer, or {LEAVE}",
    ),
    Rule(PpoSettings, "lora.dropout", lambda s: s.init is not None, f"{{flag}}: PPO trains without: {LEAVE}"),
    Rule(
        EvaluateSettings,
        "answer_tokens",
        lambda s: s.decode != "score",
        f"{{flag}} is of generated answers: add --decode greedy or sample, or {LEAVE}",
    ),
    Rule(
        PromptSettings,
        "shots_seed",
        lambda s: bool(s.shots or any(getattr(s, source, None) for source in SOURCES)),
        f"{{flag}} chooses examples, and there are none: add --shots, or {LEAVE}",
    ),
    Rule(
        ClassifySettings,
        "lora.r lora.alpha lora.dropout lora.rslora lora.target",
        lambda s: s.tune != "full",
        f"{{flag}}: all weights are trained: add --tune lora, or {LEAVE}",
    ),
    Rule(
        ClassifySettings,
        "dtype",
        lambda s: s.tune != "full" or s.dtype == "float32",
        f"{{flag}}: all weights are trained, which takes float32: {LEAVE}, or add --tune lora",
    ),
    Rule(
        PredictSettings,
        "seed",
        lambda s: s.decode == "sample",
        f"{{flag}} is of sampled answers: add --decode sample, or {LEAVE}",
    ),
    Rule(
        SuiteSettings,
        "search.batch",
        lambda s: s.search.sampler == "tpe",
        f"search.batch: all trials of search.sampler random are drawn together: {LEAVE}",
    ),
)


def idle(settings: Frozen) -> dict[str, str]:
    """Setting -> why it does nothing here, of those that somebody gave and that are neither the default nor the
    preset's. For the others nobody can be blamed: a file of all settings has them too."""
    preset = PRESETS.get(type(settings), {}).get(getattr(settings, "preset", ""), {})
    found: dict[str, str] = {}
    for name, rule in _of(type(settings)):
        group, _, last = name.rpartition(".")
        one = getattr(settings, group) if group else settings
        value, usual = getattr(one, last), type(one).model_fields[last].default
        of_preset = (preset.get(group, {}) if group else preset).get(last, usual)
        if last in one.model_fields_set and value not in (None, usual, of_preset) and not rule.counts(settings):
            negated = "no-" if value is False else ""
            flag = f"--{group + '.' if group else ''}{negated}{last.replace('_', '-')}"
            found.setdefault(name, rule.why.format(flag=flag, **dict(settings)))
    return found


def without_idle(settings: Frozen) -> dict[str, Any]:
    """The settings that somebody gave, as plain values, without those that do nothing: what a suite says of many runs
    need not count in each."""
    names, values = idle(settings), settings.model_dump(exclude_unset=True)
    for name in names:
        group, _, last = name.rpartition(".")
        del (values[group] if group else values)[last]
    return values


def _of(kind: type[Frozen]) -> Iterator[tuple[str, Rule]]:
    for rule in RULES:
        if issubclass(kind, rule.kind):
            yield from ((name, rule) for name in rule.names.split())
