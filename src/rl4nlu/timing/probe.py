"""This machine, measured in about a second: a few layers of the run's own sizes read a few tokens and many, forward and
backward, and sample some.

The layers are a Llama's of the same widths, whatever the model's class; on a CPU no wider than WIDEST, since wider
matrices are multiplied at the same rate. What a layer costs without tokens, and what a token costs, come from two
micro-batches of different size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from ..forward import begin, more, score
from ..forward.projection import token_logp
from ..models import lora_config, quiet_peft
from ..settings import LoraSettings
from ..tokens import Batch, micro_batches
from .machine import GPUS, Machine
from .sizes import Sizes
from .work import Pass, decoding, pass_of, reading

WIDEST = 768
"""Width of the layers that are tried out on a CPU."""
DEPTH = 3
FEW, MOST = 16, 1024
"""Tokens of the small micro-batch, and at most of the large one."""
BUDGET = 6e9
"""Operations of the large micro-batch on a CPU, at most."""
BATCH = 2e-3
"""Seconds that a micro-batch costs beside its layers: embedding, positions, states that are picked."""
SHARED, OWN = 32, 48
"""Tokens that rows begin with alike, and their own."""
SPAN = 0.2
"""Seconds for one measurement, repetitions together."""
START, DISK = 10.7, 300e6
"""Seconds until the libraries are there, and bytes a second of weights being loaded and looked through: of the machine
that docs/scale.md was measured on."""


@lru_cache(maxsize=8)
def probe(sizes: Sizes, device: str, dtype: torch.dtype, tokens: int = MOST) -> Machine:
    """Measure this machine for models of these sizes.

    Args:
        sizes: of the model; of its adapter the rank is that of a usual one.
        device: cpu, cuda, cuda:1.
        dtype: of the weights.
        tokens: of a usual micro-batch: speed falls where they leave the processor's cache.
    """
    gpu = not device.startswith("cpu")
    small = _fitting(sizes, gpu)
    model = _layers(small, torch.device(device), dtype)
    most = MOST if gpu else int(BUDGET / (2 * DEPTH * small.layer))
    many = min(max(most, 8 * FEW), MOST, max(tokens, 8 * FEW))
    memory = _memory(device, gpu)
    rates = _solve(model, small, _made_up(FEW, device), _made_up(many, device), gpu)
    # that weights are read for every token is counted by the bytes
    rates["decode_call"] = max(rates["decode_call"] - small.layer * small.bytes / memory, 0.0)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "this machine"
    known = next((one for key, one in GPUS.items() if key in name.replace(" ", "")), None)
    found = Machine(
        name=name,
        **rates,
        attention=_attention(small, device, dtype, gpu),
        vocabulary=_vocabulary(sizes, device, dtype, gpu),
        memory=memory,
        row=_row(),
        text=6e-5,
        tensor=6e-6 if gpu else 4e-5,
        start=START,
        disk=DISK,
        link=known.link / 2 if known else 1e9,
        latency=5e-5 if gpu else 1e-3,
        cores_shared=not gpu,
        capacity=float(torch.cuda.get_device_properties(device).total_memory) if device.startswith("cuda") else 0.0,
    )
    del model
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # a suite's own process measures, and its workers need the memory
    return found


def _fitting(sizes: Sizes, gpu: bool) -> Sizes:
    """The sizes that are tried out."""
    share = 1.0 if gpu else min(1.0, WIDEST / sizes.width)

    def of(x: float, multiple: int) -> int:
        return max(multiple, round(x * share / multiple) * multiple)

    each = 64 if sizes.attention % 64 == 0 else 32 if sizes.attention % 32 == 0 else 2
    heads = of(sizes.attention, each) // each
    groups = max(1, heads // max(1, round(sizes.attention / max(1, sizes.kept // 2))))
    while heads % groups:
        groups -= 1
    width, inner, attention, kept = of(sizes.width, 2), of(sizes.inner, 2), heads * each, 2 * groups * each
    layer = 2 * width * attention + width * kept + 3 * width * inner
    adapter = 0
    if sizes.adapter:
        adapter = 16 * DEPTH * (2 * (width + attention) + 2 * width + kept + 3 * (width + inner))
    small = replace(sizes, layers=DEPTH, layer=layer, keys=width * kept, width=width, inner=inner, kept=kept)
    return replace(small, attention=attention, vocabulary=1024, adapter=adapter, wanted_only=True, whole=False)


def _layers(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Any:
    each = 64 if sizes.attention % 64 == 0 else 32 if sizes.attention % 32 == 0 else 2
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.inner,
        num_hidden_layers=DEPTH,
        num_attention_heads=sizes.attention // each,
        num_key_value_heads=sizes.kept // 2 // each,
        head_dim=each,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch_state = torch.random.get_rng_state()  # the run's own randomness is left as it is
    with torch.device(device):
        base: Any = LlamaForCausalLM._from_config(config, dtype=dtype)
    base.requires_grad_(False)
    if sizes.adapter:
        with quiet_peft():
            base = get_peft_model(base, lora_config(LoraSettings()))
    torch.random.set_rng_state(torch_state)
    base.get_input_embeddings().weight.requires_grad_(not sizes.adapter)  # so that there is a way back to go
    return base.eval()


def _made_up(tokens: int, device: str) -> Batch:
    """A micro-batch of about so many tokens: rows that begin alike, or two short ones."""
    drawn = np.random.default_rng(0)
    count = (tokens - SHARED) // OWN
    shared, own = (SHARED, OWN) if count > 1 else (0, tokens // 2)
    head = drawn.integers(3, 1000, shared).tolist()
    rows = [((*head, *drawn.integers(3, 1000, own).tolist()), ((5,), (6,))) for _ in range(max(count, 2))]
    return next(micro_batches(rows, 1 << 30, 0, device))


STEPS, ANSWERS = 12, 4
"""Tokens that are sampled, of so many answers to each row."""


@torch.no_grad()
def _step(model: Any, batch: Batch, gpu: bool) -> float:
    """Seconds of one more token of ANSWERS answers to each row."""
    begun = begin(model, batch, ANSWERS, STEPS)
    wanted = torch.ones((len(batch.rows), ANSWERS), dtype=torch.bool, device=begun.logits_BV.device)
    tokens = torch.full_like(wanted, 5, dtype=torch.long)
    spans = []
    for _ in range(STEPS):
        start = time.perf_counter()
        more(model, begun.branches, tokens, wanted)
        if gpu:
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - start)
    return min(spans)


def _solve(model: Any, sizes: Sizes, few: Batch, many: Batch, gpu: bool) -> dict[str, float]:
    """The machine's constants of a layer: t(N) = call + operations(N) / rate."""

    @torch.no_grad()
    def there(batch: Batch) -> object:
        return score(model, batch, True, closed=True)

    def both(batch: Batch) -> object:
        return score(model, batch, True, closed=True).logp_BKA.sum().backward()

    def line(spans: Sequence[float], flop: Sequence[float]) -> tuple[float, float]:
        """Seconds of a layer without tokens, and operations a second: of few tokens nearly all is the former."""
        fixed = max(spans[0] - spans[1] * flop[0] / flop[1], 0.0)
        return fixed / DEPTH, flop[1] / max(spans[1] - fixed, 0.3 * spans[1])

    forward = [seconds(partial(there, b), gpu) - BATCH for b in (few, many)]
    whole = [seconds(partial(both, b), gpu) - BATCH for b in (few, many)]
    back = [max(one - before, 0.5 * before) for one, before in zip(whole, forward, strict=True)]
    steps = [_step(model, b, gpu) - BATCH for b in (few, many)]
    reads = [reading(sizes, pass_of(b), back=True, words=False) for b in (few, many)]
    writes = [decoding(sizes, b, ANSWERS, STEPS) for b in (few, many)]
    call, rate = line(forward, [one.forward for one in reads])
    back_call, back_rate = line(back, [one.backward for one in reads])
    decode_call, decode_rate = line(steps, [one.decoded / (STEPS - 1) for one in writes])
    return {
        "forward": rate,
        "backward": back_rate,
        "decoding": decode_rate,
        "call": call,
        "back_call": back_call,
        "decode_call": decode_call,
        "batch": BATCH,
    }


def seconds(once: Callable[[], object], gpu: bool = False) -> float:
    """Of one repetition: the quickest of those that fit into SPAN, at least four, the first left out, since another
    process may disturb any of them."""
    once()
    spans: list[float] = []
    while len(spans) < 4 or (sum(spans) < SPAN and len(spans) < 20):
        if gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        once()
        if gpu:
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - start)
    return min(spans)


def _attention(sizes: Sizes, device: str, dtype: torch.dtype, gpu: bool) -> float:
    """Operations a second of attention with a mask, one block of OWN tokens a row, both ways."""
    each = 64 if sizes.attention % 64 == 0 else 32 if sizes.attention % 32 == 0 else 2
    n, heads, T, S = 16, sizes.attention // each, 2 * OWN, 2 * OWN + SHARED
    q = torch.randn((n, heads, T, each), device=device, dtype=dtype, requires_grad=True)
    k, v = (torch.randn((n, heads, S, each), device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    mask = torch.zeros((n, 1, T, S), device=device, dtype=dtype)
    span = seconds(lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward(), gpu)
    return 4.0 * n * heads * each * T * S * 3.5 / span


def _vocabulary(sizes: Sizes, device: str, dtype: torch.dtype, gpu: bool) -> float:
    """Operations a second of the projection with its sums."""
    states, words, width = 64, min(max(sizes.vocabulary, 512), 16384), min(sizes.width, 4096 if gpu else WIDEST)
    head = nn.Linear(width, words, bias=False, device=device, dtype=dtype).requires_grad_(False)
    hidden = torch.randn((states, width), device=device, dtype=dtype, requires_grad=True)
    at = torch.arange(states, device=device)
    span = seconds(lambda: token_logp(hidden, head, at, at), gpu)
    return 4.0 * states * width * words / span


def _memory(device: str, gpu: bool) -> float:
    """Bytes a second: one array is read, another written."""
    size = (1 << 28) if gpu else (1 << 24)
    one = torch.ones(size // 4, device=device)
    other = torch.empty_like(one)
    return 2.0 * size / seconds(lambda: other.copy_(one), gpu)


def _row() -> float:
    """Seconds of Python for a row in a micro-batch: sorted, merged with others, laid out as a tree; and as much again
    for its prompt and its tokens."""
    drawn = np.random.default_rng(1)
    head = drawn.integers(3, 1000, SHARED).tolist()
    rows = [((*head, *drawn.integers(3, 1000, OWN).tolist()), ((5,), (6,))) for _ in range(32)]

    def once() -> list[Pass]:
        return [pass_of(batch) for batch in micro_batches(rows, 4096, 0)]

    return 2.0 * seconds(once) / len(rows)
