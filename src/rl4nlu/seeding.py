"""Randomness is derived, never saved: every random choice is a function of (seed, purpose, step)."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed for one purpose at one step; the same on every machine and in every Python."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """NumPy generator for one purpose at one step."""
    return np.random.default_rng(derive(seed, purpose, step))
