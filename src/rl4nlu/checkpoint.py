"""Checkpoints: folders of safetensors and JSON that are whole or not there at all.

`checkpoints/step-000120/` holds one file of tensors for each part of the training (adapter, value head, optimizer,
best state, ...), `state.json` with all that is no tensor, and `manifest.json`: step, size and SHA-256 of every file,
what the run is about (settings, data, base model), and the versions it was made with. Nothing random is in it: every
random choice is a function of (seed, purpose, step).

A checkpoint is written into a folder beside its place, flushed to the disk, renamed, read back and compared with its
hashes; only then are older ones removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from . import files, processes
from .errors import Diverged, UserError
from .run import check_same
from .state import State, Stateful, same_names

SCHEMA = 1
KEEP = 2
"""Checkpoints of a run that are kept. Each holds the best state so far, so that this one is never lost."""
NAME = re.compile(r"step-(\d{6,})")
MANIFEST, VALUES = "manifest.json", "state.json"


@dataclass(frozen=True)
class Snapshot:
    """A training after so many steps."""

    step: int
    parts: Mapping[str, State]
    log_bytes: int
    """Size of metrics.jsonl then."""
    environment: Mapping[str, Any] = field(default_factory=dict)


class Broken(Exception):
    """A checkpoint is not what was written."""


def take(step: int, parts: Mapping[str, Stateful], log_bytes: int, copy: bool = False) -> Snapshot:
    """A snapshot of all parts, in main memory.

    Args:
        step: how many steps are done.
        parts: name -> part.
        log_bytes: size of metrics.jsonl.
        copy: the training goes on while the snapshot is kept.
    """
    states = {}
    for name, part in parts.items():
        state = part.state()
        again = copy and not state.fixed
        tensors = {key: x.detach().to("cpu", copy=again).contiguous() for key, x in state.tensors.items()}
        states[name] = State(tensors, json.loads(json.dumps(state.values)) if copy else state.values)
    return Snapshot(step, states, log_bytes)


def give(snapshot: Snapshot, parts: Mapping[str, Stateful]) -> None:
    """Put a snapshot back into all parts.

    Raises:
        UserError: it has other parts, or a part does not know it: another version of the program has written it.
    """
    try:
        if set(snapshot.parts) != set(parts):
            raise ValueError(f"it holds {', '.join(snapshot.parts)}, and {', '.join(parts)} are needed")
        for name, part in parts.items():
            part.load(snapshot.parts[name])
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as wrong:
        raise UserError(
            f"the checkpoint of step {snapshot.step} does not fit this version of rl4nlu ({wrong}); go on with the "
            "version that is named in its manifest.json, or start the run again"
        ) from None


def to_all(find: Callable[[], Snapshot | None]) -> Snapshot | None:
    """What is found in the main process, which alone reads the run folder, in all processes that make the run.

    Raises:
        UserError: as `find`.
    """
    if processes.count() == 1:
        return find()
    found: list[Snapshot] = []

    def told() -> dict[str, Any] | None:
        snapshot = find()
        if snapshot is None:
            return None
        found.append(snapshot)
        values = {name: state.values for name, state in snapshot.parts.items()}
        keys = [[name, key] for name, state in snapshot.parts.items() for key in state.tensors]
        facts = {"step": snapshot.step, "log_bytes": snapshot.log_bytes, "environment": snapshot.environment}
        return {**facts, "values": values, "keys": keys}

    facts = processes.from_main(told)
    if facts is None:
        return None
    states = {name: (dict[str, Tensor](), values) for name, values in facts["values"].items()}
    mine = [found[0].parts[name].tensors[key] for name, key in facts["keys"]] if found else []
    tensors = processes.tensors_from_main({str(i): tensor for i, tensor in enumerate(mine)})
    for i, (name, key) in enumerate(facts["keys"]):
        states[name][0][key] = tensors[str(i)]
    parts = {name: State(*state) for name, state in states.items()}
    return Snapshot(facts["step"], parts, facts["log_bytes"], facts["environment"])


def save(folder: Path, snapshot: Snapshot, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> Path:
    """Write a checkpoint, verify it, then remove older ones.

    Args:
        folder: of all checkpoints of the run.
        snapshot: what to write.
        identity: what the run is about; `newest` gives only checkpoints of the same.
        environment: what the numbers may depend on.

    Raises:
        NoSpace: the disk is full. The older checkpoints are as they were.
        Diverged: a tensor is not finite. Likewise.
        Broken: what was read back is not what was written. Likewise.
    """
    path = folder / f"step-{snapshot.step:06d}"
    with contextlib.suppress(Broken):
        there = _verified(path)
        if (there["identity"], there["log_bytes"]) == (json.loads(json.dumps(identity)), snapshot.log_bytes):
            return path  # the same step of the same run gives the same state
    for name, state in snapshot.parts.items():
        for key, tensor in state.tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise Diverged(f"{name}: {key} is not finite at step {snapshot.step}, so no checkpoint was written")
    tensors = [x for state in snapshot.parts.values() for x in state.tensors.values()]
    written: dict[str, dict[str, Any]] = {}
    with files.folder_in_one_step(path, sum(x.numel() * x.element_size() for x in tensors)) as part:

        def put(name: str, content: bytes) -> None:
            files.write(part / name, content)
            written[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        for name, state in snapshot.parts.items():  # one after the other: no more than one is in memory twice
            if state.tensors:
                put(f"{name}.safetensors", bytes_of(dict(state.tensors)))
        values = {name: state.values for name, state in snapshot.parts.items()}
        put(VALUES, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())
        manifest = {
            "schema": SCHEMA,
            "step": snapshot.step,
            "log_bytes": snapshot.log_bytes,
            "files": dict(written),
            "identity": identity,
            "environment": environment,
        }
        manifest["sha256"] = _hash_of(manifest)
        put(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    _verified(path)
    prune(folder, path)
    return path


def prune(folder: Path, newest: Path) -> None:
    """Remove all checkpoints but the newest, which has just been verified, and those right before it; and what
    interrupted saves have left."""
    before = sorted(path for path in _steps(folder) if path < _step(newest))
    kept = {newest.name, *(_steps(folder)[step].name for step in before[len(before) - KEEP + 1 :])}
    for path in folder.iterdir():
        if path.is_dir() and path.name.startswith("step-") and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path, identity: Mapping[str, Any], log: files.Log) -> tuple[Snapshot | None, dict[Path, str]]:
    """The newest checkpoint that is whole, if there is any; and those that were passed over, with what is wrong.

    Args:
        folder: of all checkpoints of the run.
        identity: what the run is about.
        log: metrics.jsonl; a checkpoint of a longer one, or of another one, would leave a gap in it.

    Raises:
        UserError: it is of a run with other settings, data or model.
    """
    wrong: dict[Path, str] = {}
    found = _steps(folder)
    for step in sorted(found, reverse=True):
        try:
            manifest, snapshot = _read(found[step])
            if not log.ends_at(snapshot.log_bytes):
                raise Broken(f"metrics.jsonl had {snapshot.log_bytes:,} bytes then, and has no such line now")
        except Broken as reason:
            wrong[found[step]] = str(reason)
            continue
        check_same(found[step], manifest["identity"], identity)
        return snapshot, wrong
    return None, wrong


def _steps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    matches = ((NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return {int(match[1]): path for match, path in matches if match}


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _verified(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, of which every byte is as it was written.

    Raises:
        Broken: it is not.
    """
    manifest = _manifest(path)
    if manifest["step"] != _step(path):
        raise Broken(f"it is the checkpoint of step {manifest['step']} under another name")
    for name, written in manifest["files"].items():
        try:
            with (path / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as wrong:
            raise Broken(f"{name} cannot be read ({wrong.strerror})") from None
        if size != written["bytes"]:
            raise Broken(f"{name} has {size:,} bytes, and {written['bytes']:,} were written")
        if digest != written["sha256"]:
            raise Broken(f"{name} is not what was written (its SHA-256 differs)")
    return manifest


def _read(path: Path) -> tuple[dict[str, Any], Snapshot]:
    """Manifest and snapshot of a checkpoint.

    Raises:
        Broken: it is not what was written.
    """
    manifest = _verified(path)
    try:
        values = json.loads((path / VALUES).read_bytes())
        tensors = {
            name: load_file(path / f"{name}.safetensors") if f"{name}.safetensors" in manifest["files"] else {}
            for name in values
        }
    except (OSError, ValueError, SafetensorError) as wrong:
        raise Broken(f"it cannot be read ({wrong})") from None
    parts = {name: State(tensors[name], values[name]) for name in values}
    return manifest, Snapshot(manifest["step"], parts, manifest["log_bytes"], manifest["environment"])


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest, which vouches for itself and for all other files.

    Raises:
        Broken: it is missing, or is not what was written.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        given = manifest.pop("sha256")
        if given != _hash_of(manifest):
            raise Broken(f"{MANIFEST} is not what was written (its SHA-256 differs)")
    except OSError as wrong:
        raise Broken(f"{MANIFEST} cannot be read ({wrong.strerror})") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Broken(f"{MANIFEST} is not what was written") from None
    if manifest["schema"] != SCHEMA:
        raise Broken(f"{MANIFEST} has the schema {manifest['schema']}, and this version of rl4nlu reads {SCHEMA}")
    return manifest


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# -- parts that every training has -------------------------------------------------------------------------------------


class Weights:
    """Parameters and buffers by name."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.named = dict(named)

    def state(self) -> State:
        return State({name: weight.detach() for name, weight in self.named.items()})

    @torch.no_grad()
    def load(self, state: State) -> None:
        same_names(state.tensors, self.named)
        for name, weight in self.named.items():
            if state.tensors[name].shape != weight.shape:
                raise ValueError(f"{name} has the shape {tuple(state.tensors[name].shape)}")
            weight.copy_(state.tensors[name])


class OptimizerState:
    """What an optimizer remembers of each parameter: moments, and numbers."""

    def __init__(self, optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> None:
        self.optimizer, self.named = optimizer, dict(named)

    def state(self) -> State:
        tensors, values = {}, {}
        for name, weight in self.named.items():
            for key, kept in self.optimizer.state.get(weight, {}).items():
                if isinstance(kept, Tensor):
                    tensors[f"{name}/{key}"] = kept
                else:
                    values[f"{name}/{key}"] = kept
        return State(tensors, values)

    def load(self, state: State) -> None:
        self.optimizer.state.clear()
        for path, kept in (*state.tensors.items(), *state.values.items()):
            name, _, key = path.rpartition("/")
            weight = self.named[name]
            if isinstance(kept, Tensor):
                # the number of steps stays where torch keeps it
                kept = kept.clone() if kept.ndim == 0 else kept.to(weight.device, copy=True)
            self.optimizer.state[weight][key] = kept
