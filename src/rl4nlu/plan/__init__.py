"""Tasks x models x methods x seeds as a plan of runs: what each run is, what has to come before it, and which of its
settings are still to be chosen. Nothing is read or run here.

    seeds: [0, 1, 2]
    common: {data: DIR, select_rows: 256, max_steps: 100}  # for all runs whose command knows them
    models:                                                # over common; without it, common has the model
      mini: {}
      qwen: {model: Qwen/Qwen2.5-7B, dtype: bfloat16}
    tasks:
      glue/sst2: {max_steps: 200}                          # over the model
      glue/rte: {}
    methods:                                               # over the task
      zero-shot: {command: evaluate}
      sft: {command: sft, learning_rate: [3e-4, 1e-3]}     # a list: one is chosen per task, by held-out training rows
      sft-half: {command: sft, steps: 0.5, learning_rate: =sft}   # half of max_steps; the value chosen for sft
      ppo: {command: ppo, init: sft-half}                  # from that method's run on the same task with the same seed
      rloo: {command: ppo, estimator: rloo, learning_rate: {low: 1e-4, high: 1e-3, log: true}}   # a range: searched
"""

from __future__ import annotations

from .job import Chosen, Group, Job, Pick, Plan
from .make import make_plan
from .methods import COMMANDS, OURS, SOURCES
from .values import Range, show

__all__ = [
    "COMMANDS",
    "OURS",
    "SOURCES",
    "Chosen",
    "Group",
    "Job",
    "Pick",
    "Plan",
    "Range",
    "make_plan",
    "show",
]
