"""What leaves this machine in a push: the weights as they are, and texts without folders, names of machines and
tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from . import config, yamls
from .artefacts import read_json
from .card import card
from .data import SPLITS
from .errors import UserError
from .finished import Finished, licence_of
from .redact import redact
from .settings import Settings
from .sources import LABEL_BIAS, MINI, MINILM, hub_name
from .tasks.own import is_file
from .usage import Place, code_of

MANIFEST = "rl4nlu.json"
"""In the repository: which files are this program's, and the digest of the card as it wrote it."""
CARD = "README.md"
PREDICTIONS = "predictions.jsonl"
OF_MODELS = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Endings of the files that a model or an adapter is made of."""
OF_RUNS = ("results.json", "environment.json", "identity.json", "status.json", "command.txt", MANIFEST)
"""What may lie beside a merged model and is written anew, or stays here."""
PLACES = ("base_model_name_or_path", "_name_or_path", "name_or_path", "tokenizer_file", "vocab_file")
"""Entries of models' and tokenizers' files that may name a folder of this machine."""
Content = bytes | Path


@dataclass(frozen=True)
class Parcel:
    """The files of a repository, by their paths there."""

    repo: str
    found: Finished
    code: list[str]
    """Loads it."""
    files: dict[str, Content]

    def size(self, path: str) -> int:
        """Bytes of a file."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def base_of_parcel(found: Finished, base: str | None) -> str:
    """The name on the hub of the base model that an adapter goes onto; of a whole model it may be empty.

    Raises:
        UserError: an adapter's base model has none.
    """
    if base is not None and (base in (MINI, MINILM) or not hub_name(base)):
        raise UserError(f"--base {base}: no name on the hub; give one as meta-llama/Llama-3.2-1B, or leave it out")
    name = base or hub_name(found.base)
    if name or found.whole:
        return name
    what = (
        f"{found.base}, which is bundled with a package" if found.base in (MINI, MINILM) else f"the folder {found.base}"
    )
    raise UserError(
        f"the adapter in {found.path} is for {what}, where nobody else finds it: give --merged to send the whole "
        "model, or --base NAME if the same model is on the hub"
    )


def pack(found: Finished, repo: str, base: str, licence: Mapping[str, str], predictions: Path | None = None) -> Parcel:
    """The files to send.

    Args:
        found: the run, or the folder of a merged model.
        repo: OWNER/NAME on the hub.
        base: the base model's name there; of a whole model it may be empty.
        licence: what its card says of the licence.
        predictions: a file of predictions to send too.

    Raises:
        UserError: a text names the user's home folder in a place where it cannot be taken out, or a file is a link.
    """
    model = base or PurePosixPath(found.base).name
    settings = _portable(found.settings, model)
    found = replace(found, settings=settings)
    files = _weights(found, model)
    files["config.yaml"] = _yaml(settings.model_dump(mode="json"))
    command = config.command_line(found.method, settings)
    files["command.txt"] = f"{command}\n".encode()
    results = [{**result, "model": model} for result in found.results]
    files["results.json"] = _json({"schema": 1, "results": _without_folders(results)})
    environment = _object(found.path / "environment.json")
    for name in ("folder", "tables"):
        environment.pop(name, None)
    files["environment.json"] = _json(_without_folders(environment))
    for file in found.task_files:
        values = yamls.values(file, file.read_text(encoding="utf-8"))
        # where rows lie is private; a label word or a line of a template that looks like a path is none
        files[f"tasks/{file.name}"] = _yaml({k: _last(v) if k in SPLITS else v for k, v in values.items()})
    if found.biased:
        files[LABEL_BIAS] = _json(_object(found.path / LABEL_BIAS))
    if predictions is not None:
        files[PREDICTIONS] = predictions.read_bytes()
    place = Place(repo, repo, base or found.base, hub=True)
    files[CARD] = card(found, place, command, licence or licence_of(base or found.base)).encode()
    files = {path: _clean(path, content) for path, content in sorted(files.items())}
    card_bytes = files[CARD]
    assert isinstance(card_bytes, bytes)
    manifest = {"rl4nlu": metadata.version("rl4nlu"), "card": digest(card_bytes), "files": [*files, MANIFEST]}
    return Parcel(repo, found, code_of(found, place), {**files, MANIFEST: _json(manifest)})


def digest(content: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _weights(found: Finished, model: str) -> dict[str, Content]:
    """The files of adapter or model, each at the top, where peft and transformers look for them."""
    files: dict[str, Content] = {}
    for file in sorted(found.weights.iterdir()):
        beside = file.name in (*OF_RUNS, LABEL_BIAS) or file.name.startswith("value_head")
        if not file.is_file() or file.suffix not in OF_MODELS or beside:
            continue
        if file.is_symlink():
            raise UserError(f"{file} is a link, and what it leads to is not sent: put the file itself there")
        files[file.name] = file
        if file.suffix == ".json" and (places := {k: v for k, v in _object(file).items() if k in PLACES and v}):
            own = {key: model if key == "base_model_name_or_path" else _last(value) for key, value in places.items()}
            files[file.name] = _json({**_object(file), **own})
    return files


def _portable(settings: Settings, model: str) -> Settings:
    """Settings without the places of this machine: of what lay in files the name stays."""
    names = [part.strip() for part in (settings.task or "").split(",")]
    changes: dict[str, Any] = {"data": None, "out": None, "model": model}
    changes["task"] = ",".join(Path(name).name if is_file(name) else name for name in names) or None
    if getattr(settings, "init", None) is not None:
        changes["init"] = Path(settings.init.name)  # type: ignore[attr-defined]
    return settings.model_copy(update=changes)


def _without_folders(value: Any) -> Any:
    """Plain values with the last name alone of what is a path from the root."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return _last(value) if isinstance(value, str) else value


def _last(value: Any) -> Any:
    """The last name of a path from the root, or of one into a home folder; anything else as it is."""
    if not isinstance(value, str) or "\n" in value:
        return value
    rooted = value.startswith("~") or PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    return PureWindowsPath(value).name if rooted else value


def _clean(path: str, content: Content) -> Content:
    """A file without tokens.

    Raises:
        UserError: the user's home folder stands in it.
    """
    if isinstance(content, Path):
        return content
    text = redact(content.decode("utf-8"))
    home = str(Path.home())
    if len(home) > 1 and path != PREDICTIONS and f"{home}/" in text:
        raise UserError(f"{path} would tell others of {home}/ on this machine; take it out of the run's files first")
    return text.encode()


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def _yaml(values: Any) -> bytes:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
