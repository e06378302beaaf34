"""Tiny random models of the classes of the paper, with tokenizers that keep the conventions of the real ones."""

from __future__ import annotations

from pathlib import Path

import tokenizers as tk
import torch
import transformers as tf

from models_zoo import bert_folder
from tokenizers_zoo import llama2

TEXT = [
    "Does the claim follow? Answer: Yes or No. Is the sentence correct, the question answered?",
    "Reply with your verdict between tags, in this form and no other: <verdict> Yes </verdict>",
    "Text: It rains in the street. Claim: The street is wet. positive negative true false entailment",
]
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PADDED = 64
"""Rows of the embeddings that no token has."""


def byte_level(size: int, special: list[str]) -> tk.Tokenizer:
    """Byte-level BPE, as GPT-2's and its kin's: no word is unknown, none begins the text."""
    made = tk.Tokenizer(tk.models.BPE())
    made.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tk.decoders.ByteLevel()
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    trainer = tk.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXT * 3, trainer)
    made.add_special_tokens(special)
    return made


def qwen2(folder: Path, tied: bool = False) -> Path:
    """Qwen2.5-Instruct: no BOS, a pad token beside EOS, biases in attention, a vocabulary that is filled up."""
    raw = byte_level(400, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    config = tf.Qwen2Config(
        **_sizes(len(tokenizer) + PADDED),
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return _saved(config, tokenizer, folder)


def mpt(folder: Path) -> Path:
    """MPT: GPT-NeoX's tokenizer, one token for all that is special and none to pad with; tied, fused, ALiBi."""
    raw = byte_level(400, ["<|endoftext|>"])
    end = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=raw, **end)
    tokenizer.chat_template = CHATML
    size = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 16_384}
    return _saved(tf.MptConfig(vocab_size=len(tokenizer) + PADDED, **size), tokenizer, folder)


def llama(folder: Path, vocabulary: Path) -> Path:
    """Llama-2-chat: its SentencePiece vocabulary, BOS in front, no pad token."""
    tokenizer = llama2(vocabulary)
    tokenizer.chat_template = INST
    config = tf.LlamaConfig(**_sizes(32_000), max_position_embeddings=16_384, bos_token_id=1, eos_token_id=2)
    return _saved(config, tokenizer, folder)


def made(kind: str, folder: Path, data: Path) -> Path:
    """A model of a kind: llama, qwen2, qwen2 tied, mpt or bert."""
    folder.mkdir(parents=True)
    if kind == "llama":
        return llama(folder, data / "models" / "llama2-tokenizer")
    if kind == "bert":
        return bert_folder(folder)
    return mpt(folder) if kind == "mpt" else qwen2(folder, tied=kind.endswith("tied"))


def _sizes(vocabulary: int) -> dict[str, int]:
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4}
    return {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, **heads}


def _saved(config: tf.PretrainedConfig, tokenizer: tf.PreTrainedTokenizerFast, folder: Path) -> Path:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(4)
            elif name.endswith("bias"):
                weight.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
