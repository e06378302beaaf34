"""How fast this machine multiplies matrices, and how many operations a work needs:

    python benchmarks/limit.py [--device cuda]

A work needs, of every token that no other row shares, the products with the body's weights; of a pass for gradients
the same once more, since the weights are frozen; attention over what each token sees; and of every state whose next
token is asked for the product with the vocabulary. Of the last layer only keys and values are needed of tokens that are
not asked for. Nothing that is computed twice is counted twice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from rl4nlu.labels import distinguishing
from rl4nlu.tokens import Encoded, micro_batches


def matrix_rate(device: str = "cpu", repeat: int = 15) -> float:
    """GFLOP a second of a square matrix product, in float32 on a CPU, in bfloat16 on a GPU: the best quarter of
    several, which no other process disturbed."""
    gpu = device != "cpu"
    size, dtype = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    spans = []
    for _ in range(repeat):
        start = time.perf_counter()
        torch.mm(a, b)
        if gpu:
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.quantiles(spans, n=4)[0] / 1e9


def weights_of_a_layer(model: Any) -> int:
    """Numbers in the matrices of one layer, adapters not counted."""
    blocks = next(one for one in model.modules() if isinstance(one, torch.nn.ModuleList))
    return sum(w.numel() for name, w in blocks[0].named_parameters() if w.dim() == 2 and "lora_" not in name)


def forward_gflop(policy: Any, rows: Sequence[tuple], max_tokens: int, whole: bool) -> float:
    """Of one pass over rows (prompt, answers) in tokens.

    Args:
        policy: the model.
        rows: as of `micro_batches`.
        max_tokens: of a micro-batch.
        whole: the whole vocabulary is asked for, not only the answers' tokens.
    """
    config = policy.model.config
    D, L, V = config.hidden_size, config.num_hidden_layers, config.vocab_size
    H = config.num_attention_heads
    G = getattr(config, "num_key_value_heads", None) or H
    width = getattr(config, "head_dim", None) or D // H
    keys = 2 * D * G * width
    rest = weights_of_a_layer(policy.model) - keys
    total = 0.0
    for batch in micro_batches(rows, max_tokens, policy.pad):
        tree = batch.tree
        asked = int(tree.source_BKA[batch.answer_mask_BKA].unique().numel())
        N = len(tree.ids_N)
        seen = float((tree.depth_N + 1).sum())
        total += 2 * N * (L * keys + (L - 1) * rest) + 2 * asked * rest
        total += 4 * H * width * seen * (L - 1 + asked / N)
        total += 2 * asked * D * V if whole else 0
    return total / 1e9


def scoring(policy: Any, rows: Sequence[Encoded]) -> float:
    """GFLOP of scoring the labels of rows."""
    return forward_gflop(policy, [(row.ids, distinguishing(row.answers)) for row in rows], 4096, whole=False)


def training(policy: Any, rows: Sequence[Encoded], settings: Any) -> float:
    """GFLOP of training on rows once: SFT, or a rollout (prompts, then answers of random tokens), the reference, and
    the inner epochs."""
    if not hasattr(settings, "estimator"):
        return 2 * forward_gflop(
            policy, [(row.ids, [row.answers[row.gold]]) for row in rows], settings.max_tokens, True
        )
    A, K = settings.answer_tokens, settings.answers
    sampled = [(row.ids, [tuple(range(7 + k, 7 + k + A)) for k in range(K)]) for row in rows]
    one = forward_gflop(policy, sampled, settings.max_tokens, True)  # the rollout needs the same, token by token
    return one * (1 + 1 + 2 * settings.inner_epochs)


def main() -> None:
    """Print the machine's rate."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--device", default="cpu")
    print(json.dumps({"gflop_per_s": matrix_rate(words.parse_args().device)}))


if __name__ == "__main__":
    main()
