"""Shared by all tests: no network, the real data where it is at hand, tiny random models."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, see cli.main
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

pytest.register_assert_rewrite("outcomes")

REAL_DATA = Path(os.environ.get("RL4NLU_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


hypothesis.settings.register_profile("rl4nlu", deadline=None)  # the first example may have to import torch
hypothesis.settings.load_profile("rl4nlu")


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not (REAL_DATA / "glue").is_dir():
        pytest.skip(f"the official GLUE and SuperGLUE files are not at {REAL_DATA} (set RL4NLU_DATA)")
    return REAL_DATA


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a tiny random Llama and the bundled tokenizer."""
    from models_zoo import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def gradients(monkeypatch):
    """The gradients at every optimizer step from now on, as a list of lists of tensors."""
    from rl4nlu import optim

    seen, real = [], optim.apply

    def spy(optimizer, weights, rate, max_norm, rows=()):
        seen.append([w.grad.detach().clone() if w.grad is not None else w.detach() * 0 for w in weights])
        return real(optimizer, weights, rate, max_norm, rows)

    monkeypatch.setattr(optim, "apply", spy)
    return seen


@pytest.fixture(scope="session", params=["mini", "llama2"])
def tokenizer(request):
    """Real ones: of the bundle, and Llama-2's where it is."""
    from tokenizers_zoo import llama2, mini

    if request.param == "mini":
        return mini()
    return llama2(request.getfixturevalue("real_data") / "models" / "llama2-tokenizer")
