"""Pre-trains a small Llama from text files and writes it as a Hugging Face folder with a model card.

    python scripts/pretrain.py --text ../shared/data/corpora/books-*.txt.xz --out build/mini

Text (plain or .xz; one paragraph a line, a form feed between documents) -> byte-level BPE -> packed tokens -> a Llama
trained from scratch, or with --start from another training's weights: `books` tokens in short rows, `long` tokens in
rows as long as the context, `form` tokens of the second stage (scripts/pretrain_form.py), which teaches how a question
is put and answered. One learning rate over all of it: a linear warm-up, then a fall to zero, or to --last-rate of it.
Every step is a function of the settings and its number: given again, the command goes on where it was stopped, on a CPU
to the bit as if it had not been.

Weight matrices are trained by Muon (Jordan et al. 2024: momentum, made orthogonal by five Newton-Schulz iterations),
which needs about half the tokens that AdamW needs; embeddings and norms by AdamW.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pretrain_card
import pretrain_form
import pretrain_text
import torch
import tyro
from outcome import in_one_line
from pretrain_muon import Muon
from pretrain_past import Part, Past, start_of
from pretrain_settings import ASKED, Settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rl4nlu import files, stop
from rl4nlu.errors import Diverged, UserError
from rl4nlu.lock import lock
from rl4nlu.seeding import derive, generator

UNSEEN = -100
"""The label of a token that no loss is asked for."""


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    """In which order the blocks of the books are read."""
    return generator(seed, "pretrain/order", epoch).permutation(blocks)


def batches(settings: Settings, text: pretrain_text.Text, step: int, past: Past) -> list[tuple[Tensor, Tensor]]:
    """The parts of a step: (ids, labels), each of B rows of T tokens. Text is read in blocks of the context's length,
    in an order of their own, behind the tokens that were read before; a short row is a part of a block. The second
    stage has two parts, text and prompts."""
    start, alone = step * settings.batch, settings.first_of_form * settings.batch
    asked = settings.batch // ASKED if start >= alone else 0
    length = settings.context if settings.books <= start < alone else settings.short
    count, blocks = settings.batch - asked, len(text.seen) // settings.context
    first = past.read + (start if start < alone else alone + (start - alone) // settings.batch * count)
    picked = []
    for i in range(first // settings.context, (first + count) // settings.context):
        at = order(settings.seed, i // blocks, blocks)[i % blocks] * settings.context
        picked.append(text.seen[at : at + settings.context])
    ids = torch.from_numpy(np.stack(picked).astype(np.int64)).view(-1, length)
    parts = [(ids, ids)]
    if asked:
        parts.append(pretrain_form.batch(text, settings.seed, past.steps + step, asked, settings.context, UNSEEN))
    return parts


def rate_at(settings: Settings, step: int) -> float:
    """Share of the peak learning rate."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return (step + 1) / warm
    left = (settings.steps - step) / (settings.steps - warm)
    above = left if settings.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return settings.last_rate + (1 - settings.last_rate) * above


class Training:
    """Model, optimizers, log; steps are counted from 0."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.text = pretrain_text.prepare(
            settings.text, settings.vocabulary, settings.held_out, settings.out / "tokens"
        )
        if min(len(self.text.seen), len(self.text.unseen)) < settings.context:
            raise UserError(
                f"too little text: {len(self.text.seen):,} tokens to learn from, {len(self.text.unseen):,} held out"
            )
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
        self.past = Past(self.text.made_of)
        if settings.start:
            self.past = start_of(settings.start, settings.noted(), self.text, self.model)
        weights = dict(self.model.named_parameters())
        matrices = [w for name, w in weights.items() if w.dim() == 2 and "layers" in name]
        others = [w for name, w in weights.items() if not (w.dim() == 2 and "layers" in name)]
        dtype = torch.bfloat16 if settings.bfloat16 else torch.float32
        self.optimizers = (
            (Muon(matrices, settings.weight_decay, dtype), settings.muon_rate),
            (torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, lr=0.0), settings.adamw_rate),
        )
        self.compiled = torch.compile(self.summed, dynamic=False) if settings.compile else self.summed
        self.step, self.seconds = 0, 0.0
        self.recent: list[float] = []
        """Losses of the steps since the log's last line."""

    def embedded(self, ids: Tensor) -> Tensor:
        """The first layer's input. It is not compiled: what Inductor makes of its gradient adds up in whatever order
        the threads come, so that no two trainings would end in the same weights."""
        return self.model.model.embed_tokens(ids)

    def summed(self, embedded: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the tokens that it is asked for: (B, T, width), (B, T) -> ()."""
        with torch.autocast(embedded.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            states = self.model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
            logits = self.model.lm_head(states)
        return cross_entropy(
            logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=UNSEEN, reduction="sum"
        )

    def train_step(self) -> float:
        """One step; returns the loss in nats a token, each part weighted by its tokens.

        Raises:
            Diverged: the loss or a gradient is not finite; no weight was changed.
        """
        parts = batches(self.settings, self.text, self.step, self.past)
        total = 0.0
        for ids, labels in parts:
            count = int((labels[:, 1:] != UNSEEN).sum())
            ids, labels = ids.to(self.settings.device), labels.to(self.settings.device)
            embedded = self.embedded(ids)
            leaf = embedded.detach().requires_grad_()  # where the compiled part begins
            loss = self.compiled(leaf, labels) / count * (ids.numel() / self.settings.batch)
            loss.backward()
            embedded.backward(leaf.grad)
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        if not math.isfinite(total + norm):
            raise Diverged(
                f"step {self.step:,}: the loss is {total}, the gradients' norm {norm}; nothing was kept of it. Begin "
                "again, in another --out, with a lower --muon-rate and --adamw-rate"
            )
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
        return sum(float(self.summed(self.embedded(part), part)) for part in parts) / (128 * (width - 1))

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
        path = self.settings.out / "checkpoint.safetensors"
        new = path.with_suffix(".new")
        noted = {"step": str(self.step), "seconds": str(self.seconds), "recent": json.dumps(self.recent)}
        state = self.state()
        with files.room_for(new, sum(value.nbytes for value in state.values())):
            save_file(state, new, noted)
        files.sync(new)
        os.replace(new, path)
        files.sync_folder(path.parent)

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.settings.out / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            noted = file.metadata()
        self.step, self.seconds = int(noted["step"]), float(noted["seconds"])
        self.recent = json.loads(noted["recent"])
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
        """Train to the end; a line every ten steps, one in log.jsonl every `look_every`, and a checkpoint with it.

        Raises:
            stop.Interrupted: a signal has come; what was trained is saved.
        """
        log = self.settings.out / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        lines = [line for line in lines if json.loads(line)["step"] <= self.step]
        steps, since, told = self.settings.steps, time.perf_counter(), (self.step, time.perf_counter())

        def keep() -> None:
            nonlocal since
            now = time.perf_counter()
            self.seconds, since = self.seconds + now - since, now
            self.save()

        while self.step < steps:
            self.recent.append(self.train_step())
            if self.step % 10 == 0:
                speed = (self.step - told[0]) / (time.perf_counter() - told[1])  # steps a second
                told = (self.step, time.perf_counter())
                print(
                    f"step {self.step:,} of {steps:,}: loss {self.recent[-1]:.3f}, "
                    f"{speed * self.settings.batch:,.0f} tokens a second, "
                    f"{(steps - self.step) / speed / 3600:.2f} hours to go",
                    flush=True,
                )
            if self.step % self.settings.look_every == 0 or self.step == steps:
                mean, held_out = sum(self.recent) / len(self.recent), self.held_out()
                self.recent = []
                seconds = round(self.seconds + time.perf_counter() - since, 1)
                line = {"step": self.step, "tokens": self.step * self.settings.batch, "loss": mean}
                lines.append(json.dumps({**line, "held_out": held_out, "seconds": seconds}))
                print(f"held-out loss {held_out:.3f}", flush=True)
                # before the checkpoint: lines behind it are dropped, missing ones would be lost
                files.write_text(log, "\n".join(lines) + "\n")
                keep()
            elif stop.asked() is not None:
                keep()
            stop.poll()

    def write(self) -> Path:
        """The model in bfloat16, its tokenizer and its card, as a Hugging Face folder."""
        settings, folder = self.settings, self.settings.out / "model"
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=self.text.tokenizer,
            pad_token=pretrain_text.PAD,
            bos_token=pretrain_text.BOS,
            eos_token=pretrain_text.EOS,
            model_max_length=settings.context,
        )
        weights = sum(weight.numel() for weight in self.model.parameters())
        with files.folder_in_one_step(folder, 2 * weights) as part:
            self.model.to(torch.bfloat16).save_pretrained(part)
            tokenizer.save_pretrained(part)
            named = part / "tokenizer_config.json"  # by the name that transformers 4 knows too
            text = named.read_text(encoding="utf-8")
            named.write_text(text.replace("TokenizersBackend", "PreTrainedTokenizerFast"), encoding="utf-8")
            if settings.sources:
                shutil.copyfile(settings.sources, part / "SOURCES.txt")
            log = [json.loads(line) for line in (settings.out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
            made_with = pretrain_card.made_with(settings.device)
            here = Part(
                pretrain_card.command(settings), settings.noted(), settings.read, settings.steps, made_with, log
            )
            past = Past(self.past.made_of, (*self.past.parts, here))
            past.write(part)
            card = pretrain_card.write(settings, self.text, weights, past)
            (part / "README.md").write_text(card, encoding="utf-8")
        return folder


def train(settings: Settings) -> Path:
    """Begin, or go on with, the training of these settings.

    Raises:
        UserError: the folder holds another training, or another process works in it; the text cannot be used.
        Diverged: see `Training.train_step`.
        stop.Interrupted: see `Training.run`.
    """
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {settings.out} is not a folder") from None
    kept = settings.out / "settings.json"
    held = lock(settings.out)
    try:
        noted = {**settings.noted(), "sha256": [files.digest(path) for path in settings.text]}
        if settings.start:
            noted["start"] = files.digest(settings.start / "model.safetensors")
        if kept.exists() and files.read_json(kept) != noted:
            raise UserError(f"{settings.out} holds a training with other settings ({kept}); give another --out")
        training = Training(settings)
        if not kept.exists():
            files.write_json(kept, noted)
        training.restore()
        with stop.deferred():
            training.run()
        return training.write()
    finally:
        if held is not None:
            os.close(held)


def main() -> None:
    """Train what the flags say and write it."""
    torch.set_flush_denormal(True)
    with in_one_line("; the same command goes on"):
        print(train(tyro.cli(Settings, description=__doc__)))


if __name__ == "__main__":
    main()
