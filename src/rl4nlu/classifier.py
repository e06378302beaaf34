"""A model with a classification head: an encoder, or a decoder.

Two texts go in as a pair; a number is a regression; of several candidates each is judged alone and the best one chosen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from . import processes, say, stop
from .artefacts import check_no_adapter
from .ask import Advance, Prediction
from .errors import UserError
from .guards import check_finite
from .loading import cannot_load, check_fits, check_quantised, quiet_transformers, read_weights, written_out
from .memory import Memory
from .models import DTYPES, context_of, device_of, lora_config, misfit, quiet_peft
from .seeding import derive
from .settings import ClassifySettings
from .sources import source_of
from .tasks import Example, Task
from .trained import check_labels, classifier_source, trained_classifier

EVAL_ROWS = 64
"""Texts that go through the model together in evaluation."""
HEADS = ("score", "classifier", "pre_classifier", "pooler", "head", "summary", "logits_proj")
"""What classification heads are called in transformers: they are not quantised, because they are trained whole."""
CHUNK = 512
"""Rows whose texts are put in order of length before their predictions are written."""


@dataclass(frozen=True)
class Classifier:
    """A model with a classification head, and what is needed to ask it."""

    name: str
    model: Any
    tokenizer: Any
    task: Task
    decoder: bool
    max_length: int
    memory: Memory = field(default_factory=Memory)

    def texts(self, example: Example) -> list[tuple[str, ...]]:
        """What the model reads for a row: one text or two; once, or once for each candidate."""
        task = self.task
        fields = {name: text.strip() for name, text in example.fields.items()}
        if not task.candidates:
            return [tuple(segment.format_map(fields) for segment in task.segments)]
        each = [{**fields, "candidate": fields[name]} for name in task.candidates]
        return [tuple(segment.format_map(one) for segment in task.segments) for one in each]

    def encode(self, texts: Sequence[str]) -> dict[str, Any]:
        """Tokens of one text or two, the longer one cut where they are too long together. Two that a decoder reads are
        one text to it, with a line break between them and no mark of a beginning in the middle."""
        if not self.decoder:
            return dict(self.tokenizer(*texts, truncation="longest_first", max_length=self.max_length))
        before, after = self._around
        room = self.max_length - len(before) - len(after)
        ids = [*before, *self._bare(texts, truncation="longest_first", max_length=room), *after]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def excess(self, texts: Sequence[str]) -> int:
        """How many tokens `encode` cuts off them."""
        if not self.decoder:
            return max(0, len(self.tokenizer(*texts, verbose=False)["input_ids"]) - self.max_length)
        before, after = self._around
        return max(0, len(before) + len(self._bare(texts)) + len(after) - self.max_length)

    def refuse_long(self, rows: Sequence[Example]) -> None:
        """Let no row through that would have to be cut (--no-truncate).

        Raises:
            UserError: one would.
        """
        for row in rows:
            if excess := max(map(self.excess, self.texts(row))):
                raise UserError(
                    f"row {row.id} of {self.task.name}: its text is {excess} tokens longer than the {self.max_length} "
                    "that it may have; leave out --no-truncate to have it cut, or give a longer --max-length or a "
                    "model with a longer context"
                )

    def _bare(self, texts: Sequence[str], **cut: Any) -> list[int]:
        """What a decoder reads of one text or two, without what its tokenizer puts around a text."""
        first, *second = texts
        read = [first + "\n", *second] if second else [first]
        found: list[int] = self.tokenizer(*read, add_special_tokens=False, verbose=False, **cut)["input_ids"]
        return found

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text."""
        bare, whole = self._bare(["a"]), self.tokenizer("a")["input_ids"]
        before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:before], whole[before + len(bare) :]

    def targets(self, example: Example) -> list[float | int]:
        """What the head should say of each of the row's texts."""
        if self.task.candidates:
            return [int(label == example.label) for label in self.task.labels]
        if self.task.numeric:
            return [float(example.label or 0)]
        return [self.task.labels.index(example.label or "")]


@torch.no_grad()
def ask(
    classifier: Classifier,
    rows: Sequence[Example],
    advance: Advance = lambda count: None,
    first: int = 0,
) -> Iterator[Prediction]:
    """The classifier's answer to every row from the `first` on, a multiple of CHUNK, in their order."""
    classifier.model.eval()
    per_row = max(1, len(classifier.task.candidates))
    for start in range(first, len(rows), CHUNK):
        processes.poll()
        part = rows[start : start + CHUNK]
        mine = [part[i] for i in processes.share(len(part))]
        inputs = [classifier.encode(text) for row in mine for text in classifier.texts(row)]
        order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]["input_ids"]))
        logits: dict[int, list[float]] = {}

        def work(most: int, inputs=inputs, order=order, logits=logits) -> None:
            left = [i for i in order if i not in logits]
            for at in range(0, len(left), most):
                logits.update(_logits_of(classifier, inputs, left[at : at + most]))

        def found(work=work, mine=mine, inputs=inputs, logits=logits) -> list[list[float]]:
            classifier.memory.fitting("scoring", EVAL_ROWS, work, smallest=1)
            numbers = [logits[i] for i in range(len(inputs))]
            check_finite("the logits are", [(classifier.task.name, row) for row in mine], torch.tensor(numbers))
            return numbers

        told = processes.gathered(found)
        for i, row in enumerate(part):
            yield _prediction(classifier.task, row, told[i * per_row : (i + 1) * per_row])
        advance(len(part))


def _logits_of(classifier: Classifier, inputs: Sequence[dict[str, Any]], some: Sequence[int]) -> dict[int, list[float]]:
    stop.poll()
    model = classifier.model
    batch = classifier.tokenizer.pad([inputs[i] for i in some], return_tensors="pt").to(model.device)
    with computing(model):  # as in training
        return dict(zip(some, model(**batch).logits.float().tolist(), strict=True))


def _prediction(task: Task, example: Example, logits: list[list[float]]) -> Prediction:
    if task.numeric:
        low, high = float(task.labels[0]), float(task.labels[-1])
        return Prediction(example, f"{min(max(logits[0][0], low), high):.4f}")
    # of candidates the one with the best odds of being right
    values = [right - wrong for wrong, right in logits] if task.candidates else logits[0]
    logp = torch.tensor(values, dtype=torch.float64).log_softmax(0).tolist()
    scores = dict(zip(task.labels, logp, strict=True))
    return Prediction(example, max(scores, key=lambda label: scores[label]), scores)


def load_classifier(settings: ClassifySettings, task: Task) -> tuple[Classifier, bool]:
    """A base model with a fresh head, and whether LoRA is on it.

    Raises:
        UserError: there is no such model, or it takes no classification head.
    """
    if processes.sharded():
        raise UserError("classify: every process holds the whole model; launch it without --use_fsdp")
    name = settings.model or ""
    place = device_of(settings.device)
    decoder = is_decoder(name)
    lora = settings.tune == "lora" or (settings.tune == "auto" and decoder)
    torch.manual_seed(derive(settings.seed, "head"))
    dtype, quantize = _dtype(settings.dtype, lora, place), settings.quantize or "none"
    if dtype != torch.float32 and not lora:
        say.note(f"note: all weights of {name} are trained, in float32 and not in {settings.dtype}")
        dtype = torch.float32
    if quantize != "none" and not lora:
        raise UserError(f"--quantize {quantize}: all weights of {name} are trained, and stay whole; add --tune lora")
    # a model that is trained whole is small, and its fresh head is to be the same on every device
    kept = _Kept(dtype, place if lora else torch.device("cpu"), quantize)
    classifier, fresh = _load(name, source_of(name), task, decoder, settings.max_length, kept)
    model = classifier.model
    if lora:
        try:
            with quiet_peft():
                model = in_float32(get_peft_model(model, lora_config(settings.lora, "SEQ_CLS", fresh)))
        except ValueError as wrong:
            raise UserError(misfit(settings.lora, name, model, wrong)) from None
    return replace(classifier, model=model if lora else model.to(place)), lora


def _dtype(name: str, lora: bool, place: torch.device) -> torch.dtype:
    """All weights are trained in float32 (with autocast on a GPU); under LoRA the base may be shorter."""
    if name != "auto":
        return DTYPES[name]
    return torch.bfloat16 if lora and place.type == "cuda" else torch.float32


def restore(
    run: Path,
    task: Task,
    device: str,
    dtype: str = "auto",
    quantize: str | None = None,
    model: str | None = None,
    max_length: int | None = None,
    in_full: bool = False,
) -> Classifier:
    """The classifier that a run has trained; under LoRA its base is quantised as it was then, unless told otherwise.
    For `model` see `classifier_source`; `in_full`: a quantised base with the weights that its own stand for.

    Raises:
        UserError: the run holds none, or the task has other labels than those it was trained on.
    """
    check_labels(run, task)
    trained = trained_classifier(run)
    name, (source, adapter) = model or trained.model or "", classifier_source(run, model)
    place = device_of(device)
    precision = _dtype(dtype, adapter is not None, place)
    quantize = "none" if adapter is None else quantize or trained.quantize or "none"
    kept = _Kept(precision, place, quantize)
    classifier, _ = _load(name, source, task, is_decoder(source), max_length or trained.max_length, kept)
    if adapter is None:
        return classifier
    if in_full and quantize != "none":
        classifier = replace(classifier, model=written_out(classifier.model, precision))
    with quiet_peft():
        return replace(classifier, model=in_float32(PeftModel.from_pretrained(classifier.model, adapter)))


def in_float32(model: Any) -> Any:
    """All that stands beside the base model's weights in float32, the head too, which peft leaves as the base is."""
    for name, weight in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            weight.data = weight.data.float()
    return model


def computing(model: Any) -> contextlib.AbstractContextManager[Any]:
    """In which passes compute: in bfloat16 on a GPU, and wherever the weights are not all of float32."""
    kind = model.device.type
    mixed = kind == "cuda" or any(w.is_floating_point() and w.dtype != torch.float32 for w in model.parameters())
    return torch.autocast(kind, torch.bfloat16, enabled=mixed)


@dataclass(frozen=True)
class _Kept:
    """How weights are kept, and where."""

    dtype: torch.dtype
    place: torch.device
    quantize: str


def _load(
    name: str, source: str, task: Task, decoder: bool, max_length: int | None, kept: _Kept
) -> tuple[Classifier, list[str]]:
    """The classifier, and the names of its modules that have no trained weights yet."""
    quiet_transformers()
    labels = ("wrong", "right") if task.candidates else ("score",) if task.numeric else task.labels
    check_no_adapter(name, source)
    check_quantised(name, kept.quantize, kept.place)
    check_fits(name, source, AutoModelForSequenceClassification, kept.dtype, kept.place, kept.quantize, HEADS)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, loaded = read_weights(
            AutoModelForSequenceClassification,
            source,
            kept.dtype,
            kept.place,
            kept.quantize,
            HEADS,
            output_loading_info=True,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            problem_type="regression" if task.numeric else "single_label_classification",
        )
    except Exception as wrong:  # of a model made by others anything may be wrong, and libraries raise many kinds
        raise UserError(cannot_load(name, wrong, "a classifier")) from None
    padding = tokenizer.pad_token_id  # of some decoders' tokenizers it is behind the last embedding
    if padding is None or (decoder and padding >= model.get_input_embeddings().weight.shape[0]):
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if decoder:
        model.config.pad_token_id = tokenizer.pad_token_id  # its head looks for the last token that is none
    context = context_of(model.config, 512) - _first_position(model)
    longest = min(max_length or context, context, tokenizer.model_max_length)
    fresh = sorted({key.rpartition(".")[0] for key in loaded["missing_keys"]})
    return Classifier(name, model, tokenizer, task, decoder, int(longest)), fresh


def _first_position(model: Any) -> int:
    """Where RoBERTa and its kin begin to count: behind the padding's number."""
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    padding = [getattr(table, "padding_idx", None) for table in tables]
    return next((index + 1 for index in padding if index is not None), 0)


def is_decoder(name: str) -> bool:
    """Whether a model is known as a causal language model only: BERT and its kin are known as masked ones too.

    Raises:
        UserError: there is no such model.
    """
    try:
        config = AutoConfig.from_pretrained(source_of(name), trust_remote_code=False)
    except Exception as wrong:  # as above
        raise UserError(cannot_load(name, wrong, "a classifier")) from None
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
