"""What `classify` will take of memory at its peak, before it is begun and without its weights; as in cost.py.

All weights that are trained are there four times: themselves, their gradients, the optimizer's two moments. On a GPU
they are computed with in bfloat16, so that a copy of them is there besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from .classifier import EVAL_ROWS, HEADS, Classifier, is_decoder
from .cost import STEPS, WORKING, Cost, dtype_of, on_gpu, resident
from .loading import quantised_layers, size_of
from .methods.classify import batch_of
from .models import context_of, lora_config, quiet_peft
from .prepare import ClassifyRows
from .settings import ClassifySettings
from .shapes import META, Counting, fused
from .sources import source_of
from .tasks import Example, Task

COPIES = 4
"""Of what is trained: weights, gradients, moments."""
ATTENTION = "rl4nlu_shapes"


def classify_cost(settings: ClassifySettings, rows: ClassifyRows, gpu: bool | None = None) -> Cost:
    """The estimate for `classify`.

    Args:
        settings: of the run.
        rows: what it works on (`prepare.prepare_classify`).
        gpu: whether it is on a GPU, which need not be here; None: as its `device` says.

    Raises:
        Exception: of whatever kind the libraries raise where there is no such model, or it cannot be built or run
            without weights.
    """
    gpu = on_gpu(settings.device) if gpu is None else gpu
    name = settings.model or ""
    decoder = is_decoder(name)
    lora = settings.tune == "lora" or (settings.tune == "auto" and decoder)
    dtype = dtype_of(settings.dtype, gpu and lora)
    short = gpu and not lora and dtype == torch.float32
    classifier = _classifier(settings, rows.task, decoder, torch.bfloat16 if short else dtype)
    model, quantize = classifier.model, settings.quantize or "none"
    weights = size_of(model, dtype, quantize, HEADS)
    more = 0
    if quantize != "none":
        matrices = [weight for layer in quantised_layers(model, HEADS) for weight in layer.parameters()]
        more = max((weight.numel() * dtype.itemsize for weight in matrices), default=0)
    if lora:
        with META, quiet_peft():
            model = get_peft_model(model, lora_config(settings.lora, "SEQ_CLS", [_head_of(model)]))
        learnt = sum(weight.numel() * 4 for weight in model.parameters() if weight.requires_grad)
        trained = COPIES * learnt
    else:
        trained = (COPIES - 1) * weights + short * weights // 2
    program = 0 if gpu else resident() + WORKING
    counting = Counting([*model.parameters(), *model.buffers()])
    tokens = 0
    with counting:
        for inputs in _batches(settings, classifier, rows.train):
            tokens = max(tokens, _pass(model, inputs, grad=True))
        most = sorted((_length(classifier, text) for row in rows.dev for text in classifier.texts(row)), reverse=True)
        _pass(model, most[:EVAL_ROWS], grad=False)
    work = (counting.peak if gpu else counting.most) + more
    return Cost(program, weights, trained, work, tokens, gpu, lever="--batch-size or --max-length")


def _classifier(settings: ClassifySettings, task: Task, decoder: bool, dtype: torch.dtype) -> Classifier:
    """The classifier without its weights."""
    source = source_of(settings.model or "")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    config.num_labels = 2 if task.candidates else 1 if task.numeric else len(task.labels)
    if tokenizer.pad_token_id is None or (decoder and tokenizer.pad_token_id >= config.vocab_size):
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    AttentionInterface.register(ATTENTION, _attend)
    with META:
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=dtype, trust_remote_code=False)
    if getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(ATTENTION)
    context = context_of(config, 512)
    longest = min(settings.max_length or context, context, tokenizer.model_max_length)
    return Classifier(settings.model or "", model.train(), tokenizer, task, decoder, int(longest))


def _head_of(model: Any) -> str:
    """The name of the classification head."""
    return next(name for name, _ in model.named_children() if name != model.base_model_prefix)


def _length(classifier: Classifier, texts: Sequence[str]) -> int:
    return len(classifier.encode(texts)["input_ids"])


def _batches(settings: ClassifySettings, classifier: Classifier, rows: Sequence[Example]) -> list[list[int]]:
    """Lengths of the inputs of the first steps."""
    texts = [text for row in rows for text in classifier.texts(row)]
    batches = [batch_of(len(texts), settings.batch_size, settings.seed, step) for step in range(STEPS)]
    return [[_length(classifier, texts[i]) for i in batch] for batch in batches]


def _pass(model: Any, lengths: Sequence[int], grad: bool) -> int:
    """The forward pass of inputs side by side, and the backward pass; how many tokens that is."""
    if not lengths:
        return 0
    ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.long, device=META)
    # a mask that is given whole spares the models a look at its numbers, which there are none of
    mask = torch.zeros((len(lengths), 1, ids.shape[1], ids.shape[1]), dtype=model.dtype, device=META)
    with torch.set_grad_enabled(grad):
        logits = model(input_ids=ids, attention_mask=mask, **_positions(model, ids)).logits.float()
    if grad:
        logits.sum().backward()
        for weight in model.parameters():
            weight.grad = None
    return ids.numel()


def _positions(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Positions, for the models that take them: otherwise some look at the numbers of the tokens."""
    return {} if model.config.model_type == "mpt" else {"position_ids": ids}


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Attention of sizes only."""
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    return fused(query, key, value).transpose(1, 2).contiguous(), None
