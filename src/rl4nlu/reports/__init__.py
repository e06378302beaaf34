"""Runs side by side: their paired tests, one HTML page, and tables for papers and programs."""

from __future__ import annotations

from .views import RunView, collect, differences, outcomes_of
from .write import kind_of, write

__all__ = ["RunView", "collect", "differences", "kind_of", "outcomes_of", "write"]
