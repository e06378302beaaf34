"""Pre-trains a small Llama from text files and writes it as a Hugging Face folder with a model card.

    python scripts/pretrain.py --text ../shared/data/corpora/books-*.txt.xz --out build/mini

Text (plain or .xz; one paragraph a line, a form feed between documents) -> byte-level BPE -> packed tokens -> a Llama
trained from scratch: `books` tokens in short rows, `long` tokens in rows as long as the context, `form` tokens of the
second stage (scripts/pretrain_form.py), which teaches how a question is put and answered. One learning rate over all
of it: a linear warm-up, then a fall to zero. Every step is a function of the settings and its number: given again, the
command goes on where it was stopped, as if it had not been.

Weight matrices are trained by Muon (Jordan et al. 2024: momentum, made orthogonal by five Newton-Schulz iterations),
which needs about half the tokens that AdamW needs; embeddings and norms by AdamW.
"""

from __future__ import annotations

import json
import lzma
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pretrain_card
import pretrain_form
import pretrain_text
import torch
import tyro
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rl4nlu.seeding import derive, generator

BESIDE = ("about", "licence", "sources", "look_every", "stop_at")
"""Settings that the model does not depend on."""
UNSEEN = -100
"""The label of a token that no loss is asked for."""


def refuse(message: str) -> NoReturn:
    """End with one line about what is wrong."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


@dataclass(frozen=True)
class Settings:
    """What makes a model; the same settings give the same model."""

    text: tuple[Path, ...]
    """Text files, plain or .xz; one paragraph a line, a form feed between documents."""
    out: Path
    """Folder of tokens, checkpoints, log and, in `model`, the result."""
    about: str = "documents"
    """What the text is, for the card."""
    licence: str = "apache-2.0"
    """Of the model."""
    sources: Path | None = None
    """A list of the documents, kept beside the card as SOURCES.txt."""
    vocabulary: int = 8192
    layers: int = 6
    width: int = 256
    hidden: int = 704
    """Width inside the MLPs."""
    heads: int = 4
    context: int = 1024
    """Tokens of a row of the long stage; what the model may read."""
    short: int = 256
    """Tokens of a row before it."""
    books: int = 18_000_000
    """Tokens read in short rows."""
    long: int = 2_500_000
    """Tokens read in long rows."""
    form: int = 3_000_000
    """Tokens of the second stage."""
    batch: int = 8192
    """Tokens of a step."""
    muon_rate: float = 8e-3
    adamw_rate: float = 4e-3
    schedule: Literal["linear", "cosine"] = "linear"
    warmup: float = 0.02
    """Share of the tokens."""
    weight_decay: float = 0.05
    held_out: int = 50
    """One document of so many is held out."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """On a GPU the forward pass computes in bfloat16, on a CPU in float32."""
    compile: bool = True
    """Faster; on a CPU it needs a C++ compiler."""
    look_every: int = 100
    """Steps between looks at the held-out loss, and between checkpoints."""
    stop_at: int | None = None
    """Stop after this step, as if interrupted."""

    def __post_init__(self) -> None:
        if self.batch % (2 * self.context) or self.context % self.short:
            refuse("--batch must be a multiple of twice --context, and --context one of --short")
        if self.held_out < 2:
            refuse("--held-out must be 2 at least: all but one document of so many are learnt from")
        if self.steps < 1:
            refuse(f"--books, --long and --form are less than a --batch of {self.batch:,} tokens")
        if not 259 < self.vocabulary <= 65_536:
            refuse(
                f"--vocabulary {self.vocabulary}: it must be more than 259 (bytes and special tokens), at most 65,536"
            )
        for path in (*self.text, *([self.sources] if self.sources else [])):
            if not path.is_file():
                refuse(f"no such file: {path}")

    @property
    def first_of_form(self) -> int:
        """The first step of the second stage."""
        return math.ceil((self.books + self.long) / self.batch)

    @property
    def steps(self) -> int:
        return (self.books + self.long + self.form) // self.batch


class Muon(torch.optim.Optimizer):
    """Momentum of Nesterov's kind, made orthogonal, at the size of an AdamW step (Jordan et al. 2024; the scale of
    Liu et al. 2025, arXiv 2502.16982). torch's own computes in bfloat16, which most CPUs can only imitate."""

    def __init__(self, weights: list[torch.nn.Parameter]) -> None:
        super().__init__(weights, {"lr": 0.0, "weight_decay": 0.0, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients; matrices of one shape go through the iterations together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                tall = ahead.shape[0] > ahead.shape[1]
                ahead = ahead.T if tall else ahead
                shapes.setdefault(tuple(ahead.shape), []).append((weight.T if tall else weight, ahead))
            for shape, pairs in shapes.items():
                X = torch.stack([ahead for _, ahead in pairs])
                X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
                for _ in range(5):
                    A = X @ X.mT
                    X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
                for (weight, _), change in zip(pairs, X, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(change, alpha=group["lr"] * 0.2 * math.sqrt(max(shape)))


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    """In which order the blocks of the books are read."""
    return generator(seed, "pretrain/order", epoch).permutation(blocks)


def batches(settings: Settings, text: pretrain_text.Text, step: int) -> list[tuple[Tensor, Tensor]]:
    """The two halves of a step: (ids, labels), each of B rows of T tokens. Books are read in blocks of the context's
    length, in an order of their own; a short row is a part of a block. In the second stage one half is books still."""
    half, start, alone = settings.batch // 2, step * settings.batch, settings.first_of_form * settings.batch
    reads = [start, start + half] if start < alone else [alone + (start - alone) // 2]
    length = settings.short if start < settings.books else settings.context
    blocks = len(text.seen) // settings.context
    parts = []
    for read in reads:
        picked = []
        for i in range(read // settings.context, (read + half) // settings.context):
            at = order(settings.seed, i // blocks, blocks)[i % blocks] * settings.context
            picked.append(text.seen[at : at + settings.context])
        ids = torch.from_numpy(np.stack(picked).astype(np.int64)).view(-1, length)
        parts.append((ids, ids))
    if start >= alone:
        parts.append(pretrain_form.batch(text, settings.seed, step, half, settings.context, UNSEEN))
    return parts


def rate_at(settings: Settings, step: int) -> float:
    """Share of the peak learning rate."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return (step + 1) / warm
    left = (settings.steps - step) / (settings.steps - warm)
    return left if settings.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


class Training:
    """Model, optimizers, log; steps are counted from 0."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.text = pretrain_text.prepare(
            settings.text, settings.vocabulary, settings.held_out, settings.out / "tokens"
        )
        if min(len(self.text.seen), len(self.text.unseen)) < settings.context:
            refuse(f"too little text: {len(self.text.seen):,} tokens to learn from, {len(self.text.unseen):,} held out")
        torch.manual_seed(derive(settings.seed, "pretrain/init"))
        config = LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.width,
            intermediate_size=settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=settings.context,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        model: Any = LlamaForCausalLM(config)  # its `to` is typed for models alone
        self.model = model.to(settings.device)
        for name, weight in self.model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                torch.nn.init.zeros_(weight)  # every layer begins as the identity
        weights = dict(self.model.named_parameters())
        matrices = [w for name, w in weights.items() if w.dim() == 2 and "layers" in name]
        others = [w for name, w in weights.items() if not (w.dim() == 2 and "layers" in name)]
        self.optimizers = (
            (Muon(matrices), settings.muon_rate),
            (torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, lr=0.0), settings.adamw_rate),
        )
        self.optimizers[0][0].param_groups[0]["weight_decay"] = settings.weight_decay
        self.compiled = torch.compile(self.summed, dynamic=False) if settings.compile else self.summed
        self.step, self.seconds = 0, 0.0

    def summed(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the tokens that it is asked for."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.settings.device.startswith("cuda")):
            states = self.model.model(ids).last_hidden_state[:, :-1]
            logits = self.model.lm_head(states)
        return cross_entropy(
            logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=UNSEEN, reduction="sum"
        )

    def train_step(self) -> float:
        """One step; returns the loss in nats a token, the mean over both halves."""
        parts = batches(self.settings, self.text, self.step)
        total = 0.0
        for ids, labels in parts:
            count = int((labels[:, 1:] != UNSEEN).sum())
            loss = self.compiled(ids.to(self.settings.device), labels.to(self.settings.device)) / count / len(parts)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate_at(self.settings, self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return total

    @torch.no_grad()
    def held_out(self) -> float:
        """Loss in nats a token over 128 rows, spread evenly over the held-out documents."""
        width = self.settings.short
        count = len(self.text.unseen) // width
        at = [i * count // 128 for i in range(128)]
        ids = torch.from_numpy(np.stack([self.text.unseen[i * width :][:width] for i in at]).astype(np.int64))
        parts = ids.to(self.settings.device).split(max(1, self.settings.batch // width))
        return sum(float(self.summed(part, part)) for part in parts) / (128 * (width - 1))

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        names = {id(w): name for name, w in self.model.named_parameters()}
        found = {f"weight/{name}": weight.detach() for name, weight in self.model.named_parameters()}
        for optimizer, _ in self.optimizers:
            for weight, values in optimizer.state.items():
                found |= {f"{key}/{names[id(weight)]}": torch.as_tensor(value) for key, value in values.items()}
        return found

    def save(self) -> None:
        """A checkpoint that replaces the one before it only when it is whole."""
        new = self.settings.out / "checkpoint.new"
        save_file(self.state(), new, {"step": str(self.step), "seconds": str(self.seconds)})
        os.replace(new, self.settings.out / "checkpoint.safetensors")

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.settings.out / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            noted = file.metadata()
        self.step, self.seconds = int(noted["step"]), float(noted["seconds"])
        weights = dict(self.model.named_parameters())
        owner = {
            weight: optimizer for optimizer, _ in self.optimizers for weight in optimizer.param_groups[0]["params"]
        }
        for full, value in load_file(path).items():
            key, name = full.split("/", 1)
            if key == "weight":
                weights[name].data.copy_(value)
            else:  # AdamW counts its steps on the CPU
                owner[weights[name]].state[weights[name]][key] = (
                    value if key == "step" else value.to(self.settings.device)
                )

    def run(self) -> None:
        """Train to the end, or to `stop_at`; a line every ten steps, one in log.jsonl every `look_every`."""
        log = self.settings.out / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        lines = [line for line in lines if json.loads(line)["step"] <= self.step]
        last = min(self.settings.stop_at or self.settings.steps, self.settings.steps)
        recent, since, told = [], time.perf_counter(), time.perf_counter()
        while self.step < last:
            recent.append(self.train_step())
            if self.step % 10 == 0:
                rate = 10 / (time.perf_counter() - told)
                told = time.perf_counter()
                print(
                    f"step {self.step:,} of {self.settings.steps:,}: loss {recent[-1]:.3f}, "
                    f"{rate * self.settings.batch:,.0f} tokens a second, "
                    f"{(last - self.step) / rate / 3600:.2f} hours to go",
                    flush=True,
                )
            if self.step % self.settings.look_every == 0 or self.step == last:
                held_out = self.held_out()
                self.seconds += time.perf_counter() - since
                since = time.perf_counter()
                line = {"step": self.step, "tokens": self.step * self.settings.batch, "loss": sum(recent) / len(recent)}
                lines.append(json.dumps(line | {"held_out": held_out, "seconds": round(self.seconds, 1)}))
                print(f"held-out loss {held_out:.3f}", flush=True)
                recent = []
                new = log.with_suffix(".new")
                new.write_text("\n".join(lines) + "\n", encoding="utf-8")
                os.replace(new, log)  # before the checkpoint: lines behind it are dropped, missing ones would be lost
                self.save()

    def write(self) -> Path:
        """The model in bfloat16, its tokenizer and its card, as a Hugging Face folder."""
        folder = self.settings.out / "model"
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=self.text.tokenizer,
            pad_token=pretrain_text.PAD,
            bos_token=pretrain_text.BOS,
            eos_token=pretrain_text.EOS,
            model_max_length=self.settings.context,
        )
        self.model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        weights = sum(weight.numel() for weight in self.model.parameters())
        if self.settings.sources:
            shutil.copyfile(self.settings.sources, folder / "SOURCES.txt")
        (folder / "README.md").write_text(pretrain_card.write(self.settings, self.text, weights), encoding="utf-8")
        return folder


def main() -> None:
    """Train what the flags say and write it."""
    settings = tyro.cli(Settings, description=__doc__)
    kept = settings.out / "settings.json"
    counted = {name: value for name, value in asdict(settings).items() if name not in BESIDE}
    counted["bytes"] = [path.stat().st_size for path in settings.text]
    noted = json.loads(json.dumps(counted, default=str))
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != noted:
        refuse(f"{settings.out} holds a training with other settings ({kept}); give another --out")
    torch.set_flush_denormal(True)
    try:
        training = Training(settings)
    except (lzma.LZMAError, EOFError, ValueError) as wrong:
        refuse(f"{wrong} (text: {', '.join(map(str, settings.text))})")
    kept.write_text(json.dumps(noted, indent=2), encoding="utf-8")
    training.restore()
    try:
        training.run()
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on from the last checkpoint in {settings.out}", file=sys.stderr)
        raise SystemExit(130) from None
    if training.step == settings.steps:
        print(training.write())


if __name__ == "__main__":
    main()
