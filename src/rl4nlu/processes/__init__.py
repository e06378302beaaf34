"""Several processes that make one run together, as `accelerate launch` or `torchrun` starts them.

Every process reads the same settings and rows and takes the same steps; of the rows of a batch each works on its share
(`share`). What is then known of the rows is gathered, once a row (`gathered`), and gradients are added up (`added`), so
that all go on with the same numbers, and the result does not depend on how many there are. The main process alone
writes and talks.

Whatever one process alone decides (where the run folder is, which checkpoint is whole, that a signal came) the others
take from it: nobody may wait for what the others do not do. Where the base model is shared out among them (FSDP2), a
forward pass of one is a forward pass of all: those that have nothing left to do take part without rows (`rounds`).

A process that ends before its time is seen at once by all others, for each holds a connection to the main one.
"""

from .start import announced, ending, join, may_work, reshards
from .together import (
    added,
    alike,
    from_main,
    gathered,
    gathered_rows,
    go_on,
    in_step,
    own,
    poll,
    share,
    tensors_from_main,
)
from .world import count, is_main, rank, sharded, writing

__all__ = [
    "added",
    "alike",
    "announced",
    "count",
    "ending",
    "from_main",
    "gathered",
    "gathered_rows",
    "go_on",
    "in_step",
    "is_main",
    "join",
    "may_work",
    "own",
    "poll",
    "rank",
    "reshards",
    "sharded",
    "share",
    "tensors_from_main",
    "writing",
]
