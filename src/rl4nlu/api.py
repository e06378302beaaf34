"""The program in Python: its commands as functions, for a script or a notebook.

    import rl4nlu

    sft = rl4nlu.sft("mini/question", max_steps=25)
    ppo = rl4nlu.ppo("mini/question", init=sft, max_steps=25)
    print(ppo)
    rl4nlu.report([sft, ppo], "report.html")

Settings are those of the command line, as keywords with `_` for `-`; groups are dicts (`lora={"r": 8}`). What the
command line says in one line is raised as `UserError`. Models are loaded, and torch is imported, by the functions that
need them.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import stop
from .commands.common import make_run, need
from .config import counted, validate, with_preset
from .errors import UserError
from .files import Log
from .settings import RUNS, PredictSettings, ResumeSettings
from .sources import MINI


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end.

    Printed it is the table of its scores.
    """

    path: Path
    """Its folder."""
    results: list[dict[str, Any]]
    """As in results.json: one entry a task."""

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Task -> metric -> value."""
        return {result["task"]: dict(result["metrics"]) for result in self.results}

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """As in predictions.jsonl: one entry a row."""
        return [row for _, row in Log(self.path / "predictions.jsonl").lines()]

    def predict(self, rows: Iterable[Mapping[str, Any]], **settings: Any) -> list[dict[str, Any]]:
        """See `rl4nlu.predict`."""
        return predict(self, rows, **settings)

    def __str__(self) -> str:
        from .tables import print_table

        with contextlib.redirect_stdout(io.StringIO()) as text:
            print_table(self.results)
        return f"{text.getvalue().rstrip()}\n{self.path}"

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from .reports import collect
        from .reports.export import markdown

        return f"{markdown(collect([self.path]), [])}\n`{self.path}`"


def evaluate(task: str | None = None, model: Any = None, *, adapter: Any = None, **settings: Any) -> Finished:
    """Ask a model every row of a split: zero-shot, few-shot (`shots=5`), or with a trained run (`adapter=`).

    Args:
        task: e.g. "glue/rte", "glue", or a file of your own; of an adapter its own task, if None.
        model: "mini" (if None), a folder, or a name on the hub.
        adapter: a run, or its folder.
        settings: as of `rl4nlu evaluate`.

    Raises:
        UserError: something is not as it should be; the message says how to mend it.
    """
    model = MINI if model is None and adapter is None else model
    return _run("evaluate", task=task, model=model, adapter=adapter, **settings)


def sft(task: str, model: Any = None, **settings: Any) -> Finished:
    """Supervised fine-tuning with LoRA on the gold answers.

    Args:
        task: e.g. "glue/rte", several with commas between, or a file of your own.
        model: "mini" (if None and there is no `init`), a folder, or a name on the hub.
        settings: as of `rl4nlu sft`.

    Raises:
        UserError: as `evaluate`.
    """
    return _run("sft", task=task, model=_model(model, settings), **settings)


def ppo(task: str, model: Any = None, **settings: Any) -> Finished:
    """PPO with LoRA and its kin (`estimator=`), from the base model or another run (`init=`).

    Args:
        task: as `sft`.
        model: as `sft`.
        settings: as of `rl4nlu ppo`.

    Raises:
        UserError: as `evaluate`.
    """
    return _run("ppo", task=task, model=_model(model, settings), **settings)


def classify(task: str, model: Any = None, **settings: Any) -> Finished:
    """A classification head on an encoder, or on a decoder with LoRA.

    Args:
        task: one task.
        model: a folder, or a name on the hub; None where `preset=` names one.
        settings: as of `rl4nlu classify`.

    Raises:
        UserError: as `evaluate`.
    """
    return _run("classify", task=task, model=model, **settings)


def predict(run: Any, rows: Iterable[Mapping[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    """Answer new rows.

    Args:
        run: a trained run, or its folder.
        rows: the task's fields by name, one mapping a row; or a pandas data frame.
        settings: as of `rl4nlu predict`, but for input and output.

    Returns:
        For each row its id, the prediction, and where labels were scored their log-probabilities.

    Raises:
        UserError: as `evaluate`.
    """
    for name in ("input", "output"):
        if name in settings:
            raise UserError(f"{name}: rows are given, and answers returned; files are for `rl4nlu predict`")
    from .methods.predict import predict as run_it

    with tempfile.TemporaryDirectory() as place:
        given, answers = Path(place) / "rows.jsonl", Path(place) / "answers.jsonl"
        lines = [json.dumps(_plain(row, number)) + "\n" for number, row in enumerate(_rows(rows))]
        given.write_text("".join(lines), encoding="utf-8")
        if isinstance(settings.get("model"), Path):
            settings["model"] = str(settings["model"])
        run_it(_path(run), counted(validate(PredictSettings, {**settings, "input": given, "output": answers})))
        return [row for _, row in Log(answers).lines()]


def resume(run: Any, **settings: Any) -> Finished:
    """Go on with a run that was stopped or killed.

    Raises:
        UserError: as `evaluate`.
    """
    from .reopen import resume as run_it

    path = _path(run)
    with _interruptible():
        return Finished(path, run_it(path, validate(ResumeSettings, settings)))


def load(run: Any) -> Finished:
    """A run that is there already.

    Raises:
        UserError: the folder holds no results.
    """
    from .run import read_results

    return Finished(_path(run), read_results(_path(run)))


def report(runs: Any, *out: str | Path) -> list[Path]:
    """Runs side by side: a page (.html), or tables (.md, .tex, .csv, .json), as the files' names say.

    Args:
        runs: runs, or their folders, or one of them; a folder that holds runs stands for all of them.
        out: files to write; report.html, if none is named.

    Returns:
        The files.

    Raises:
        UserError: as `evaluate`.
    """
    from .reports import collect, differences, kind_of, write

    files = [Path(_text(one)) for one in out or ("report.html",)]
    for file in files:
        kind_of(file)
    several = [runs] if isinstance(runs, str | Path | Finished) else list(runs)
    if not several:
        raise UserError("report: no run is given")
    views = collect([_path(run) for run in several])
    found = differences(views)
    for file in files:
        write(views, file, found)
    return files


PLACES = ("task", "model", "adapter", "init", "preset")
"""Arguments of which None means that none is given."""


def _run(command: str, **values: Any) -> Finished:
    given = {name: value.path if isinstance(value, Finished) else value for name, value in values.items()}
    # of a setting None is a value too: no clipping, no target
    known = {name: value for name, value in given.items() if value is not None or name not in PLACES}
    if isinstance(known.get("model"), Path):
        known["model"] = str(known["model"])
    if isinstance(known.get("task"), list | tuple | Path):
        tasks = [known["task"]] if isinstance(known["task"], Path) else known["task"]
        known["task"] = ",".join(map(str, tasks))
    settings = counted(validate(RUNS[command], with_preset(RUNS[command], known)))
    need(settings, None if known.get("adapter") else "task")
    with _interruptible():
        run, results = make_run(command, settings)
    return Finished(run.path, results)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, and a notebook's stop button, save a checkpoint."""
    try:
        with stop.heeded():
            yield
    except stop.Interrupted as signal:
        go_on = f"; go on: rl4nlu.resume({str(signal.run)!r})" if signal.run else ""
        raise KeyboardInterrupt(f"stopped by {signal}{go_on}") from None


def _model(model: Any, settings: Mapping[str, Any]) -> Any:
    return MINI if model is None and settings.get("init") is None else model


def _rows(rows: Any) -> Sequence[Any]:
    """Rows one by one, of a data frame too.

    Raises:
        UserError: they are none.
    """
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return rows.to_dict("records")
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise UserError(f"rows are a list of mappings, one a row; this is a {type(rows).__name__}")
    return list(rows)


def _plain(row: Any, number: int) -> dict[str, Any]:
    """A row as JSON holds it: NumPy's numbers are numbers, and what else there is is its text.

    Raises:
        UserError: it is no row, or a value in it is missing.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"row {number}: a mapping from fields to texts is wanted; this is a {type(row).__name__}")
    found = {}
    for name, value in row.items():
        value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
        if not isinstance(value, str) and (value is None or str(value) in ("nan", "<NA>", "NaT")):
            raise UserError(f"row {number}: {name} is missing (None or NaN); give an empty text, or leave the row out")
        found[str(name)] = value if isinstance(value, str | int | float | bool | list | dict) else str(value)
    return found


def _text(out: Any) -> str | Path:
    if isinstance(out, str | Path):
        return out
    raise UserError(f"a file to write is named by a text or a path; this is a {type(out).__name__}")


def _path(run: Any) -> Path:
    if isinstance(run, Finished):
        return run.path
    if isinstance(run, str | Path):
        return Path(run)
    raise UserError(f"a run is what sft, ppo, ... return, or a folder; this is a {type(run).__name__}")
