"""How the processes of a run meet, and how each one's end is told to the others."""

from __future__ import annotations

import atexit
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from .. import say, stop
from ..errors import Halted, PeerLost, UserError
from .together import from_main
from .watch import Watch
from .world import World, passing, talking

HOURS = 6
"""How long a process may wait for another that lives: while one loads or writes what the others need."""
TOGETHER = ("sft", "ppo", "classify", "evaluate", "predict", "resume")
"""Commands that several processes carry out together."""
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE")


def announced() -> tuple[int, int]:
    """Rank and number of processes, as whoever started this one says. Read without torch."""
    for first, second in (
        ("RANK", "WORLD_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),
    ):
        if first in os.environ and second in os.environ:
            return int(os.environ[first]), int(os.environ[second])
    return 0, 1


def join(device: str) -> None:
    """Meet the other processes, if there are any; from here on the main one alone talks.

    Args:
        device: auto, cpu or cuda, as of the settings.

    Raises:
        UserError: the launcher was told something that is not done here.
    """
    me, number = announced()
    if number == 1 or World.count > 1:
        return
    if me:
        say.silence()
    sharing = _asked_to_share()
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if not on_cpu and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
        raise UserError("launched with --cpu on a machine with a GPU: add --device cpu")
    if not on_cpu and "LOCAL_RANK" not in os.environ:
        raise UserError("which GPU is whose is not said (no LOCAL_RANK): start it with accelerate launch or torchrun")
    if ":" in device:
        raise UserError(f"--device {device}: each of several processes takes a GPU of its own; leave --device out")
    if not on_cpu and (here := int(os.environ.get("LOCAL_RANK", 0))) >= torch.cuda.device_count():
        raise UserError(
            f"process {here + 1} of this machine finds no GPU of its own: there are {torch.cuda.device_count()}; give "
            "that many --num_processes, or --device cpu"
        )
    if on_cpu and "OMP_NUM_THREADS" not in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", number))
        torch.set_num_threads(max(1, torch.get_num_threads() // here))
    PartialState(cpu=on_cpu, timeout=timedelta(hours=HOURS))
    if not dist.is_initialized():
        raise UserError(f"{number} processes were started that do not find each other; start them with torchrun")
    World.group = dist.new_group(backend="gloo", timeout=timedelta(hours=HOURS))
    World.rank, World.count, World.sharded = dist.get_rank(), dist.get_world_size(), sharing
    stop.together()
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    port, token = from_main(lambda: (Watch.listen(host), secrets.token_hex(8)))
    World.watch = Watch(World.rank, World.count, host, port, token)
    atexit.register(_part)
    how = "the base model's layers shared out (FSDP2)" if sharing else "each with the whole base model"
    say.note(f"{number} processes, {how}")


def _asked_to_share() -> bool:
    """Whether the launcher was told to share out the model, in a way that is known here.

    Raises:
        UserError: it was told of another way.
    """

    def told(name: str) -> bool:
        return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")

    if told("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "DeepSpeed: what is trained here is LoRA, and the frozen base model is shared out by FSDP2 alone; launch "
            "with --use_fsdp --fsdp_version 2 instead of --use_deepspeed"
        )
    if not told("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("FSDP: version 1 mixes LoRA's float32 with the base model's type; launch with --fsdp_version 2")
    for name, flag in (
        ("FSDP_OFFLOAD_PARAMS", "--fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "--fsdp_activation_checkpointing"),
    ):
        if told(name):
            raise UserError(f"{flag} true: not done here; leave it out, and give a smaller --max-tokens to save memory")
    return True


def reshards() -> bool:
    """Whether a layer that was gathered for the forward pass is given up until the backward pass needs it."""
    return os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() not in ("0", "false", "no", "off")


@contextmanager
def ending() -> Iterator[None]:
    """Around the whole program: how this process ends is told to the others, who end with it."""
    try:
        with passing():
            yield
    except stop.Interrupted as signal:
        if signal.agreed:  # the main process saves: whoever left before would have it ended
            with suppress(PeerLost), talking():
                _barrier()
        _leave(str(signal))
        raise
    except (UserError, Halted) as error:
        _leave(str(error))
        raise
    except BaseException as error:
        _leave(f"{type(error).__name__}: {error}")
        raise
    if World.count > 1:
        with talking():
            _barrier()


def _leave(why: str = "") -> None:
    if World.watch is not None:
        World.watch.leave(why)
        World.watch = None


def _part() -> None:
    """At the end of this process."""
    import torch.distributed as dist

    whole = World.watch is not None and not World.watch.lost()
    _leave()
    if whole:  # else it would wait for those that are gone
        dist.destroy_process_group()


def _barrier() -> None:
    import torch.distributed as dist

    dist.barrier(group=World.group)


def may_work(words: Sequence[str]) -> bool:
    """Whether this process has anything to do for a command: of most commands the main one does all, and what it
    starts knows nothing of the others."""
    me, number = announced()
    if me and number > 1 and World.count == 1:
        say.silence()
    _warn_if_alone()
    command = next((word for word in words if not word.startswith("-")), "")
    if number == 1 or not command or command in TOGETHER:
        return True
    for name in TOLD:
        os.environ.pop(name, None)
    return me == 0


def _warn_if_alone() -> None:
    """Say so where `accelerate launch --cpu` was asked for several processes and starts one."""
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ and announced()[1] == 1:
        say.note(
            "note: one process: accelerate starts several on CPUs through mpirun alone; torchrun --nproc-per-node 2 -m "
            f"rl4nlu {' '.join(sys.argv[1:2])} ... starts two"
        )
