"""Pictures of a report, each an SVG that stands in the page: learning curves, reliability diagrams."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .facts import Calibration
from .views import Column

CURVES = {
    "reward": "reward",
    "accuracy": "accuracy",
    "loss": "loss",
    "held_out": "held-out score",
    "kl": "KL from the reference",
    "entropy": "entropy",
    "unparsable": "unparsable share",
    "clipfrac": "clipped share",
}
"""Logged quantity -> its title."""
POINTS, ALL_POINTS = 50, 16_000
"""Of a curve, at most; and of all on a page, of which none has fewer than 15."""
COLOURS = ("#0067a5", "#c4440b", "#00735c", "#8a3d9e", "#3d3d3d", "#8a6100", "#c2185b", "#0f7f8c", "#5c6f00", "#6b4226")
DASHES = ("", "5 2", "1.5 1.5", "6 2 1.5 2")
INK = "#1b2430"


@dataclass(frozen=True)
class Line:
    """How a method is drawn."""

    head: str
    colour: str
    dash: str
    """As in SVG: lengths of strokes and gaps; empty for a whole line."""


@dataclass(frozen=True)
class Picture:
    """One SVG, and what it shows in words."""

    title: str
    svg: str


@dataclass(frozen=True)
class Curves:
    """The learning curves of one task."""

    task: str
    lines: tuple[Line, ...]
    pictures: tuple[Picture, ...]
    seeds: int
    """Most runs behind a line."""


def line_of(heads: Sequence[str]) -> dict[str, Line]:
    """A colour and a dash for each method: no two alike as far as there are enough, the same on the whole page."""
    return {
        head: Line(head, COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, head in enumerate(heads)
    }


def learning_curves(columns: Sequence[Column], most: int = len(CURVES)) -> list[Curves]:
    """For each task the curves of its trained methods: of several seeds the mean, and a band from the lowest to the
    highest.

    Args:
        columns: the methods.
        most: quantities of which curves are drawn, in the order of CURVES.
    """
    trained = [column for column in columns if any(run.steps for run in column.runs)]
    style, found = line_of(list(dict.fromkeys(column.head for column in columns))), []
    points = max(15, min(POINTS, ALL_POINTS // (len(CURVES) * max(1, len(trained)))))
    for task in dict.fromkeys(column.task for column in trained):
        here = [column for column in trained if column.task == task]
        pictures = []
        for name, title in list(CURVES.items())[:most]:
            drawn = [
                (style[column.head], bands) for column in here if (bands := _bands(column, name, points)) is not None
            ]
            if drawn:
                pictures.append(Picture(f"{title} of {task}", _curve(drawn, title, f"{task}/{name}")))
        if pictures:
            seeds = max(len(column.runs) for column in here)
            found.append(Curves(task, tuple(style[column.head] for column in here), tuple(pictures), seeds))
    return found


def _bands(column: Column, name: str, points: int) -> np.ndarray | None:
    """Rows of step, mean, lowest, highest over the seeds; each seed's curve is a running mean of what was logged."""
    curves = [curve for run in column.runs if (curve := _smooth(run.steps, name))]
    if not curves:
        return None
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not shared:
        return None
    thin = [shared[i] for i in sorted({round(i) for i in np.linspace(0, len(shared) - 1, min(points, len(shared)))})]
    values = [[curve[step] for curve in curves] for step in thin]
    return np.array([(s, statistics.fmean(v), min(v), max(v)) for s, v in zip(thin, values, strict=True)])


def _smooth(steps: Sequence[Mapping[str, Any]], name: str) -> dict[float, float]:
    known = [(row["step"], float(row[name])) for row in steps if _plottable(row.get(name))]
    window = max(1, len(known) // 20)
    values = [value for _, value in known]
    return {step: statistics.fmean(values[max(0, i - window + 1) : i + 1]) for i, (step, _) in enumerate(known)}


def _plottable(value: Any) -> bool:
    """Whether a curve can go through it: a number, and none that the axes could not hold."""
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e30


def _curve(drawn: Sequence[tuple[Line, np.ndarray]], title: str, salt: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1, 2.2))
    axis = _axis(figure, title, "step")
    figure.subplots_adjust(left=0.17, right=0.97, bottom=0.19, top=0.89)
    for line, bands in drawn:
        dash = (0, tuple(float(part) for part in line.dash.split())) if line.dash else "-"
        step, mean, low, high = bands.T
        if (low < high).any():
            axis.fill_between(step, low, high, color=line.colour, alpha=0.2, linewidth=0)
        marker = "o" if len(step) < 8 else None
        axis.plot(step, mean, color=line.colour, linewidth=1.5, linestyle=dash, marker=marker, markersize=3)
    return _svg(figure, salt)


def reliability(found: Calibration, head: str, colour: str, salt: str) -> Picture:
    """Accuracy against confidence in ten bins, with 95 % intervals of the accuracy; grey bars: the share of the rows in
    a bin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2, 2.2))
    axis = _axis(figure, head, "probability of the answer", "accuracy")
    figure.subplots_adjust(left=0.23, right=0.97, bottom=0.2, top=0.89)
    accuracy_M = np.array(found.accuracy_M)
    axis.plot([0, 1], [0, 1], color="#8b95a3", linewidth=0.8, linestyle="--")
    axis.bar(found.confidence_M, np.array(found.count_M) / found.n, width=0.06, color="#d3dae3")
    spans = [accuracy_M - found.low_M, found.high_M - accuracy_M]
    axis.errorbar(
        found.confidence_M, accuracy_M, np.maximum(spans, 0), fmt=".-", markersize=5, color=colour, linewidth=1.2
    )
    axis.set_xlim(0, 1.03)
    axis.set_ylim(0, 1.03)
    return Picture(f"reliability of {head}", _svg(figure, salt))


def _axis(figure: Any, title: str, x: str, y: str = "") -> Any:
    """Axes as all pictures of a page have them; names are shown as they are, no mathematics is read into them."""
    figure.patch.set_visible(False)
    axis = figure.subplots()
    axis.patch.set_visible(False)
    axis.set_title(title if len(title) < 30 else f"{title[:28]}…", fontsize=9, color=INK, parse_math=False)
    axis.set_xlabel(x, fontsize=8, color=INK)
    axis.set_ylabel(y, fontsize=8, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.locator_params(nbins=4)
    return axis


def _svg(figure: Any, salt: str) -> str:
    """The figure as an SVG element: the same bytes each time, no name that two pictures of a page could share, in the
    page's own font, and without what nobody sees."""
    import matplotlib

    with io.StringIO() as text, matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for unseen in (
        r"<metadata>.*?</metadata>",
        r"<!--.*?-->",
        r' font-family: [^";]*;',
        r' transform="rotate\(-0 [^"]*"',
    ):
        svg = re.sub(unseen, "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found.group(0) if found.group(1) in used else "", svg)
    # in tags only: what stands between them are the numbers at the axes
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag.group()), svg)
    svg = re.sub(r' ?\n(?=[LMCQz"])', "", svg)
    return re.sub(r">\s+<", "><", svg).strip()
