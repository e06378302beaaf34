"""Tiny random models of the classes that users bring."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as tf

from rl4nlu.sources import mini_folder

V = 97
_COMMON = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GROUPED = dict(**_COMMON, num_key_value_heads=2)

CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**_GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**_GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**_GROUPED, head_dim=8),
    "mpt": lambda: tf.MptConfig(vocab_size=V, d_model=32, n_layers=3, n_heads=4, max_seq_len=256),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**_COMMON),
    "gpt2": lambda: tf.GPT2Config(vocab_size=V, n_embd=32, n_layer=3, n_head=4, n_positions=256),
    "gemma2": lambda: tf.Gemma2Config(**_GROUPED, head_dim=8, sliding_window=128),
    "gemma2_window": lambda: tf.Gemma2Config(**_GROUPED, head_dim=8, sliding_window=12),
    "mistral": lambda: tf.MistralConfig(**_GROUPED, sliding_window=128),
    "mistral_window": lambda: tf.MistralConfig(**_GROUPED, sliding_window=12),
    "cohere": lambda: tf.CohereConfig(**_GROUPED),  # scales its logits
    "granite": lambda: tf.GraniteConfig(**_GROUPED, logits_scaling=3.0),
    "bloom": lambda: tf.BloomConfig(vocab_size=V, hidden_size=32, n_layer=3, n_head=4),  # ALiBi
    "falcon_alibi": lambda: tf.FalconConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
}
FALLS_BACK = {"bloom", "falcon_alibi"}


def tiny(name: str, seed: int = 0) -> tf.PreTrainedModel:
    """A random model with weights large enough that attention and position matter."""
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model


def tiny_folder(folder: Path) -> Path:
    """A tiny random Llama with the bundled model's tokenizer, as a folder that --model takes."""
    tokenizer = tf.AutoTokenizer.from_pretrained(mini_folder())
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny random model as a folder that --model takes: of a class in CONFIGS, with the bundled tokenizer and a chat
    template; or of class bert."""
    if kind == "bert":
        return bert_folder(folder)
    tokenizer = tf.AutoTokenizer.from_pretrained(mini_folder())
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config.update({"vocab_size": len(tokenizer), "max_position_embeddings": 1024, **ends})
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert_folder(folder: Path) -> Path:
    """A random BERT of two layers, with a WordPiece vocabulary of the letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"-"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    tf.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    tf.BertModel(config).save_pretrained(folder)
    return folder
