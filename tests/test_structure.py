"""House rules that a machine can keep: imports go one way, no dangerous calls, no file grows past a room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "rl4nlu"
FLOW = [
    "errors",
    "stop",
    "files",
    "seeding",
    "tasks",
    "rows",
    "data",
    "prompts",
    "tokens",
    "memory",
    "guards",
    "settings",
    "config",
    "run",
    "sources",
    "soft_metrics",
    "state",
    "rewards",
    "trained",
    "prepare",
    "forward",
    "models",
    "labels",
    "rollout",
    "actions",
    "advantages",
    "losses",
    "metrics",
    "identity",
    "checkpoint",
    "session",
    "compare",
    "ask",
    "calibrate",
    "collapse",
    "curriculum",
    "evaluate",
    "optim",
    "mixture",
    "selection",
    "card",
    "training",
    "sft",
    "ppo",
    "classifier",
    "classify",
    "predict",
    "submit",
    "tables",
    "report",
    "resume",
    "plan",
    "workers",
    "suite",
    "new",
    "check",
    "demo",
    "commands",
    "cli",
]
MATHS = {"advantages", "losses", "labels", "soft_metrics"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("yaml", "load"), ("pickle", "load"), ("pickle", "loads")}
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_pickle_no_code_from_data(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                assert node.func.id not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                assert (node.func.value.id, node.func.attr) not in FORBIDDEN_ATTRIBUTES, f"{path}:{node.lineno}"
            for keyword in node.keywords:
                assert keyword.arg != "trust_remote_code", f"{path}:{node.lineno}"
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"pickle", "dill", "joblib"}, f"{path}:{node.lineno}"


def test_rooms_stay_small():
    lengths = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 400, {name: n for name, n in lengths.items() if n > 400}


def test_every_public_function_is_documented():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                long = (node.end_lineno or 0) - node.lineno > 12
                assert not long or ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"
