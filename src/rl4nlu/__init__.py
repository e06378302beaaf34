"""Make a decoder language model good at natural-language understanding. `rl4nlu.api` says how to use it from Python."""

from .api import Finished, classify, evaluate, load, ppo, predict, report, resume, sft, tasks
from .errors import Diverged, OutOfMemory, UserError

__all__ = [
    "Diverged",
    "Finished",
    "OutOfMemory",
    "UserError",
    "classify",
    "evaluate",
    "load",
    "ppo",
    "predict",
    "report",
    "resume",
    "sft",
    "tasks",
]
