"""How fast a machine is, in a few numbers; of known GPUs from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from .work import Work


@dataclass(frozen=True)
class Machine:
    """What it does in a second, and what everything costs that does not depend on how much there is to do."""

    name: str
    forward: float
    """Operations a second of the layers, on the way there."""
    backward: float
    """The same on the way back."""
    attention: float
    """The same of attention."""
    vocabulary: float
    """The same of the projection onto the vocabulary."""
    decoding: float
    """The same of the layers for tokens that are sampled."""
    call: float
    """Seconds that a layer costs however few tokens it reads."""
    back_call: float
    decode_call: float
    batch: float
    """Seconds that a micro-batch costs beside its layers."""
    memory: float
    """Bytes a second."""
    row: float
    """Seconds of the processor for a row: its tokens, and its place in a micro-batch."""
    text: float
    """Seconds for a sampled token to be looked at as text."""
    tensor: float
    """Seconds for the optimizer to begin with a tensor."""
    start: float
    """Seconds until the libraries are there, and from the last row to the end."""
    disk: float
    """Bytes a second of weights being loaded."""
    link: float = 0.0
    """Bytes a second from one process to the next."""
    latency: float = 0.0
    """Seconds until the first of them is there."""
    cores_shared: bool = False
    """Processes side by side have no more to compute with than one: all of them are on the same processor."""
    capacity: float = 0.0
    """Bytes of memory; 0: not known."""

    def seconds(self, work: Work, processes: int = 1) -> float:
        """How long some work takes.

        Args:
            work: of one process.
            processes: that work at the same time.
        """
        slower = processes if self.cores_shared else 1
        computing = slower * (
            work.forward / self.forward
            + work.backward / self.backward
            + work.attention / self.attention
            + work.vocabulary / self.vocabulary
            + max(work.decoded / self.decoding, work.moved / self.memory)
            + work.updated / self.memory
        )
        waiting = (
            work.calls * self.call
            + work.back_calls * self.back_call
            + work.decode_calls * self.decode_call
            + work.passes * self.batch
            + work.rows * self.row
            + work.texts * self.text
            + work.tensors * self.tensor
        )
        apart = work.reduced / self.link + work.messages * self.latency if work.messages else 0.0
        fetching = work.gathered / self.link if work.gathered else 0.0
        # a layer's weights are fetched while the layer before it works
        return max(computing + waiting, fetching) + apart


@dataclass(frozen=True)
class Gpu:
    """What its data sheet says."""

    flops: float
    """bfloat16 operations a second of dense matrices with sums in float32 (of a T4 float16)."""
    memory: float
    """Bytes a second."""
    capacity: float
    """Bytes."""
    link: float
    """Bytes a second in one direction between two of them in one machine: NVLink, else PCIe."""


GPUS = {
    "H200": Gpu(989e12, 4.8e12, 141e9, 450e9),
    "H100": Gpu(989e12, 3.35e12, 80e9, 450e9),
    "A100-80": Gpu(312e12, 2.039e12, 80e9, 300e9),
    "A100-40": Gpu(312e12, 1.555e12, 40e9, 300e9),
    "L40S": Gpu(362e12, 0.864e12, 48e9, 32e9),
    "A10": Gpu(125e12, 0.6e12, 24e9, 32e9),
    "L4": Gpu(121e12, 0.3e12, 24e9, 32e9),
    "RTX4090": Gpu(165e12, 1.008e12, 24e9, 32e9),
    "RTX3090": Gpu(71e12, 0.936e12, 24e9, 32e9),
    "T4": Gpu(65e12, 0.32e12, 16e9, 16e9),
}
"""NVIDIA's data sheets: SXM boards of H200, H100 and A100; the others with PCIe."""

MATRICES, ATTENTION, WORDS, MEMORY, LINK = 0.45, 0.15, 0.35, 0.6, 0.6
"""Assumed, not measured: the share of the data sheet's figure that is reached by the products of a layer with LoRA, by
attention with a mask, by the vocabulary, by reading memory, between processes."""
CALL, BACK_CALL, DECODE_CALL = 1.5e-3, 1.5e-3, 2.0e-3
"""Assumed, not measured: seconds that a layer with LoRA costs however few tokens it reads, a hundred kernels begun one
by one from Python; the same on the way back; the same for one more token."""


def of_gpu(name: str) -> Machine:
    """A machine with such a GPU.

    Args:
        name: of `GPUS`.

    Raises:
        KeyError: it is not known.
    """
    gpu = GPUS[name]
    rate = MATRICES * gpu.flops
    return Machine(
        name=name,
        forward=rate,
        backward=rate,
        attention=ATTENTION * gpu.flops,
        vocabulary=WORDS * gpu.flops,
        decoding=rate,
        call=CALL,
        back_call=BACK_CALL,
        decode_call=DECODE_CALL,
        batch=5e-3,
        memory=MEMORY * gpu.memory,
        row=5e-4,
        text=5e-5,
        tensor=5e-6,
        start=30.0,
        disk=1e9,
        link=LINK * gpu.link,
        latency=5e-5,
        capacity=gpu.capacity,
    )
