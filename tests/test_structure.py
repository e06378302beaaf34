"""House rules that a machine can keep: imports go one way, no dangerous calls, no file grows past a room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from code_rules import faults

SOURCE = Path(__file__).resolve().parents[1] / "src" / "rl4nlu"
FLOW = [
    "similar",
    "errors",
    "redact",
    "names",
    "glossary",
    "yamls",
    "stop",
    "say",
    "processes",
    "files",
    "lock",
    "progress",
    "seeding",
    "tasks",
    "rows",
    "data",
    "prompts",
    "tree",
    "border",
    "tokens",
    "memory",
    "guards",
    "settings",
    "help",
    "mistakes",
    "config",
    "artefacts",
    "track",
    "sources",
    "run",
    "soft_metrics",
    "state",
    "rewards",
    "trained",
    "prepare",
    "forward",
    "room",
    "loading",
    "sharing",
    "models",
    "labels",
    "rollout",
    "actions",
    "advantages",
    "losses",
    "metrics",
    "saved",
    "overview",
    "identity",
    "checkpoint",
    "session",
    "compare",
    "ask",
    "calibrate",
    "collapse",
    "curriculum",
    "optim",
    "mixture",
    "selection",
    "finished",
    "usage",
    "card",
    "classifier",
    "methods",
    "merge",
    "parcel",
    "push",
    "server",
    "submit",
    "tables",
    "reports",
    "reopen",
    "plan",
    "suites",
    "schema",
    "new",
    "shapes",
    "cost",
    "head_cost",
    "timing",
    "check",
    "demo",
    "explain",
    "commands",
    "api",
    "cli",
]
MATHS = {"advantages", "losses", "labels", "soft_metrics"}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = len(path.relative_to(SOURCE).parts) > 1
            if inside and node.level == 1:
                continue  # within the same room
            module = (node.module or "").split(".")[0]
            rooms |= {module} if module else {alias.name for alias in node.names}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    if room(path) in ("__init__", "__main__"):
        return
    assert room(path) in FLOW, f"{path.name} has no place in the flow: add it"
    later = {name for name in imported_rooms(path) if FLOW.index(name) >= FLOW.index(room(path))}
    assert not later, f"{path.name} imports what comes after it: {later}"


@pytest.mark.parametrize("name", sorted(MATHS))
def test_maths_imports_torch_only(name):
    for node in ast.walk(tree_of(SOURCE / f"{name}.py")):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= {"torch"}
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] in {
                "__future__",
                "torch",
                "collections",
                "dataclasses",
                "functools",
                "typing",
            }


def test_rooms_stay_small():
    lengths = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 400, {name: n for name, n in lengths.items() if n > 400}


def test_every_public_function_is_documented():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                long = (node.end_lineno or 0) - node.lineno > 12
                assert not long or ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_pickle_no_code_from_data(path):
    assert not faults(path.read_text(encoding="utf-8"))


def test_one_door_for_other_packages_code():
    """Entry points are loaded in rewards.py alone."""
    doors = [path.name for path in FILES if "entry_points(" in path.read_text(encoding="utf-8")]
    assert doors == ["rewards.py"]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from pickle import loads as l",
        "import dill, os",
        "import joblib.memory",
        "import marshal",
        "import shelve",
        "from cloudpickle import load",
        "eval('1')",
        "f = eval",
        "exec(code)",
        "compile(code, '', 'exec')",
        "__import__('os')",
        "import builtins\nbuiltins.eval('1')",
        "import builtins\ngetattr(builtins, 'ev' + 'al')('1')",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module",
        "import importlib as i\ni.import_module(name)",
        "import importlib.util\nimportlib.util.spec_from_file_location('a', path)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import torch as t\nt.load(path)",
        "from torch import load",
        "from torch import load as fetch",
        "import torch\nf = torch.load",
        "import torch\ngetattr(torch, 'load')(path)",
        "import torch\ngetattr(torch, name)(path)",
        "import numpy as np\nnp.load(path)",
        "from numpy import load",
        "import numpy as np\nnp.savez(path, a, allow_pickle=True)",
        "import yaml\nyaml.load(text, yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import yaml\nyaml.full_load(text)",
        "import yaml\nyaml.compose(text, yaml.UnsafeLoader)",
        "from yaml import unsafe_load as safe_load",
        "import pandas as pd\npd.read_pickle(path)",
        "from pandas import read_pickle",
        "AutoModel.from_pretrained(x, trust_remote_code=True, use_safetensors=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag, use_safetensors=True)",
        "AutoModel.from_pretrained(x, **{'trust_remote_code': True})",
        "AutoModelForCausalLM.from_pretrained(x, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(x)",
        "import transformers\ntransformers.AutoConfig.from_pretrained(x)",
        "import os\nos.system('ls')",
        "from os import system",
        "from os import *",
        "import os\nos.popen('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=flag)",
        "globals()['eval']('1')",
    ],
)
def test_forbidden_code_is_found(code):
    assert faults(code)


def test_what_is_allowed_is_not_found():
    allowed = """
import re, yaml, torch, json, importlib.util
from safetensors.torch import load_file
re.compile("a")
yaml.safe_load("a: 1")
json.load(file)
model.load_state_dict({})
importlib.util.find_spec("a")
getattr(settings, name)
AutoModel.from_pretrained(x, trust_remote_code=False, use_safetensors=True)
AutoTokenizer.from_pretrained(x, trust_remote_code=False)
point.load()
"""
    assert not faults(allowed)
