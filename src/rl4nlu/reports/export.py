"""The tables of a report for papers and programs: Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..compare import Difference
from ..tables import Cell, averages, best_of, grid, heads, main_metric, p_text, rows_text
from .facts import calibration, confusion, cost
from .views import RunView, columns_of


def _scores(runs: Sequence[RunView]) -> tuple[list[str], list[tuple[str, str, str, dict[str, Cell], set[str]]]]:
    """Columns; and of each row: task or average, metric, n, its cells, and which of them are best."""
    results = [result for run in runs for result in run.results if result["metrics"]]
    columns, table = grid(results)
    metric = {result["task"]: main_metric(result) for result in results}
    rows = [(task, metric[task], rows_text(row), dict(row), best_of(row)) for task, row in table.items()]
    return columns, [*rows, *((name, "", "", dict(row), best_of(row)) for name, row in averages(results).items())]


def markdown(runs: Sequence[RunView], found: Sequence[Difference]) -> str:
    """Scores in percent and their differences as Markdown tables; the best of a row is bold."""
    columns, rows = _scores(runs)
    lines = _markdown_row(["task", "metric", "n", *columns])
    lines += "|---|---|---:" + "|---:" * len(columns) + "|\n"
    for name, metric, n, cells, best in rows:
        texts = [
            f"**{cells[head].text}**" if head in best else cells[head].text if head in cells else "" for head in columns
        ]
        lines += _markdown_row([name, metric, n, *texts])
    if found:
        lines += "\n" + _markdown_row(["task", "method", "against", "difference", "95 % interval", "p", ""])
        lines += "|---|---|---|---:|---:|---:|---|\n"
        for one in found:
            span = f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"
            verdict = "real" if one.real else "may be chance"
            lines += _markdown_row([one.task, one.a, one.b, f"{100 * one.delta:+.1f}", span, p_text(one.p), verdict])
    return lines


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(re.sub(r"([\\`|<>\[\]_])", r"\\\1", text) for text in texts) + " |\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex_text(text: str) -> str:
    """A text as LaTeX writes it."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(runs: Sequence[RunView], found: Sequence[Difference]) -> str:
    """Scores in percent and their differences as two tables for `booktabs`; the best of a row is bold."""
    columns, rows = _scores(runs)
    lines = [r"% \usepackage{booktabs}", r"\begin{tabular}{llr" + "r" * len(columns) + "}", r"\toprule"]
    lines += [_latex_row(["task", "metric", "$n$", *map(latex_text, columns)]), r"\midrule"]
    for i, (name, metric, n, cells, best) in enumerate(rows):
        if not metric and i and rows[i - 1][1]:
            lines.append(r"\midrule")
        texts = [latex_text(cells[head].text) if head in cells else "" for head in columns]
        marked = [f"\\textbf{{{t}}}" if head in best else t for head, t in zip(columns, texts, strict=True)]
        lines.append(_latex_row([latex_text(name), latex_text(metric), n.replace("-", "--"), *marked]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if found:
        lines += ["", r"\begin{tabular}{lllrrrl}", r"\toprule"]
        lines += [_latex_row(["task", "method", "against", "difference", r"95\,\% interval", "$p$", ""]), r"\midrule"]
        for one in found:
            span = f"$[{100 * one.low:+.1f}, {100 * one.high:+.1f}]$"
            p = f"${p_text(one.p)}$"
            names = [latex_text(name) for name in (one.task, one.a, one.b)]
            verdict = "real" if one.real else "may be chance"
            lines.append(_latex_row([*names, f"${100 * one.delta:+.1f}$", span, p, verdict]))
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def comma_separated(runs: Sequence[RunView], _: Sequence[Difference]) -> str:
    """One line for each metric of each result of each run, as a spreadsheet or pandas reads it."""
    results = [(run, result) for run in runs for result in run.results]
    with io.StringIO(newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["task", "method", "model", "seed", "metric", "value", "stderr", "n", "unparsable", "seconds", "run"]
        )
        for (run, result), head in zip(results, heads([result for _, result in results]), strict=True):
            for metric, value in result["metrics"].items():
                known = [result["n"], result["unparsable"], result["seconds"], str(run.path)]
                row = [result["task"], head, result["model"], result["seed"], metric, value, result["stderr"][metric]]
                writer.writerow([_no_formula(cell) for cell in (*row, *known)])
        return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula, marked as text."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def json_text(runs: Sequence[RunView], found: Sequence[Difference]) -> str:
    """Everything that the page shows as numbers: cells, averages, differences, confusion, calibration, cost."""
    columns, rows = _scores(runs)
    cells = [
        {
            "task": column.task,
            "method": column.head,
            "runs": [str(run.path) for run in column.runs],
            "confusion": _plain(confusion(column)),
            "calibration": _plain(calibration(column)),
            "cost": _plain(cost(column, runs)),
        }
        for column in columns_of(runs)
    ]
    scores = [
        {"task": name, "metric": metric or None, "method": head, **_cell(cells_of[head]), "best": head in best}
        for name, metric, _, cells_of, best in rows
        for head in columns
        if head in cells_of
    ]
    compared = [one.facts for one in found]
    results = [{**result, "run": str(run.path)} for run in runs for result in run.results]
    content = {"schema": 1, "scores": scores, "differences": compared, "methods": cells, "results": results}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(cell: Cell) -> dict[str, Any]:
    kind = "stderr" if cell.seeds == 1 else "half_of_95_interval"
    return {"value": cell.value, kind: cell.error, "n": cell.n or None, "seeds": cell.seeds}


def _plain(found: Any) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
