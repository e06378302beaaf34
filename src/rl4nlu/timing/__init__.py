"""How long a run will take, before it is begun and without its weights.

    seconds = work / machine

* work (work.py): what the run's own rows ask for, counted micro-batch by micro-batch as the run will make them:
  floating-point operations of the layers, of attention and of the vocabulary, calls of a layer, bytes that are moved;
* machine (machine.py): how many of each it does in a second; measured here in about a second (probe.py), or of a known
  GPU from its data sheet;
* sizes (sizes.py): layers, widths and words, read from the model's configuration.

estimate.py puts them together for a run's settings.
"""

from __future__ import annotations

from .estimate import Estimate, Plan, estimate, run_seconds
from .machine import GPUS, Machine, of_gpu
from .sizes import Sizes, sizes_of
from .work import Work

__all__ = ["GPUS", "Estimate", "Machine", "Plan", "Sizes", "Work", "estimate", "of_gpu", "run_seconds", "sizes_of"]
