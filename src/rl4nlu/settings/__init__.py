"""All settings: names, types, ranges, meanings, and the presets. `config.py` reads them from files and flags."""

from __future__ import annotations

from .ask import EvaluateSettings, PredictSettings
from .base import BESIDE, BROUGHT, ELSEWHERE, MEMORY, SOURCES, Frozen, LoraSettings, PromptSettings, Settings
from .idle import idle, without_idle
from .presets import PRESETS
from .tools import (
    CheckSettings,
    DemoSettings,
    MergeSettings,
    PushSettings,
    ReportSettings,
    Resources,
    ResumeSettings,
    SearchSettings,
    SubmitSettings,
    SuiteFlags,
    SuiteSettings,
)
from .train import ClassifySettings, PpoSettings, SftSettings, TrainSettings

__all__ = [
    "BESIDE",
    "BROUGHT",
    "COMMANDS",
    "ELSEWHERE",
    "MEMORY",
    "PRESETS",
    "RUNS",
    "SOURCES",
    "CheckSettings",
    "ClassifySettings",
    "DemoSettings",
    "EvaluateSettings",
    "Frozen",
    "LoraSettings",
    "MergeSettings",
    "PpoSettings",
    "PredictSettings",
    "PromptSettings",
    "PushSettings",
    "ReportSettings",
    "Resources",
    "ResumeSettings",
    "SearchSettings",
    "Settings",
    "SftSettings",
    "SubmitSettings",
    "SuiteFlags",
    "SuiteSettings",
    "TrainSettings",
    "idle",
    "without_idle",
]

COMMANDS: dict[str, type[Frozen]] = {
    "demo": DemoSettings,
    "evaluate": EvaluateSettings,
    "sft": SftSettings,
    "ppo": PpoSettings,
    "classify": ClassifySettings,
    "predict": PredictSettings,
    "resume": ResumeSettings,
    "submit": SubmitSettings,
    "merge": MergeSettings,
    "push": PushSettings,
    "report": ReportSettings,
    "check": CheckSettings,
    "suite": SuiteSettings,
}
"""Commands that have settings."""
RUNS: dict[str, type[Settings]] = {name: kind for name, kind in COMMANDS.items() if issubclass(kind, Settings)}
"""Commands that make a run, and take a settings file."""
