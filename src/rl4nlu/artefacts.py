"""Models and adapters made by others: what would run their code, or load another thing than was named, is refused
before a library sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import UserError

LIBRARIES = ("transformers", "peft")
"""Where the class of an adapter's base model may be from."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that belongs to a model.

    Raises:
        UserError: it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as wrong:
        raise UserError(f"{path}: this JSON cannot be read ({str(wrong)[:200]}); copy the folder again") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: a JSON object is needed, and a {type(content).__name__} stands here; copy the folder again"
        )
    return content


def check_kind(folder: Path) -> dict[str, Any]:
    """The settings of an adapter that runs no code: LoRA, on modules of the model itself.

    peft would import whatever module `megatron_core` names, and of other kinds of adapter load tokenizers with
    arguments that the file chooses (`tokenizer_kwargs`), or pickles.

    Raises:
        UserError: it is of another kind, or names code.
    """
    path = folder / "adapter_config.json"
    values = read_json(path)
    if str(values.get("peft_type", "LORA")).upper() != "LORA":
        raise UserError(f"{path}: an adapter of kind {values['peft_type']!r}, and only LoRA is loaded; train one here")
    mapping = values.get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    if mapping and str(library).split(".")[0] not in LIBRARIES:
        raise UserError(f"{path}: auto_mapping names code ({library!r}), which is never run; remove this entry")
    core = values.get("megatron_core", "megatron.core")
    if values.get("megatron_config") is not None or core not in (None, "megatron.core"):
        raise UserError(f"{path}: megatron_core names code ({core!r}), which is never run; remove this entry")
    return values


def check_no_adapter(name: str, source: str) -> None:
    """Whether a folder, or a name on the hub, is a model and no adapter: transformers would load the model that an
    adapter names in its stead, and let the adapter's own file say how.

    Raises:
        UserError: it is an adapter.
    """
    from transformers.utils import find_adapter_config_file

    try:
        adapter = find_adapter_config_file(source)
    except Exception:  # the hub client raises many kinds; loading the model will tell the user what is wrong
        adapter = None
    if adapter is not None:
        raise UserError(f"--model {name}: there is an adapter (adapter_config.json) in it, and a base model is needed")


def needs_code(name: str, wrong: Exception) -> str:
    """What to say if a model could not be loaded because its own code was not run; else an empty string."""
    if "trust_remote_code" not in str(wrong) and "custom code" not in str(wrong):
        return ""
    return (
        f"--model {name}: it needs Python code that comes with it (auto_map), which is never run; "
        "take a model of a kind that transformers knows itself"
    )
