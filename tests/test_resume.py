"""`rl4nlu resume`: by row, from another folder, past broken checkpoints; and what cannot be gone on with is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from models_zoo import bert_folder
from outcomes import assert_same_outcome
from rl4nlu import files, stop
from rl4nlu.ask import CHUNK
from rl4nlu.cli import main
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.run import Run, status_of
from rl4nlu.settings import SftSettings
from rl4nlu.suites import work as workers

SFT = (
    "sft --task mini/question --batch-size 8 --limit 100 --eval-limit 20 --max-steps 6 --save-every 1 --select-rows 10"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sft(model: Path, out: str) -> int:
    return main([*SFT.split(), "--model", str(model), "--out", out])


def interrupt_at(step: int, monkeypatch) -> None:
    """A signal comes when this step has been logged."""
    log = Run.log

    def logging(self, row):
        log(self, row)
        if row["step"] == step:
            stop._State.asked = 15

    monkeypatch.setattr(Run, "log", logging)


def begun(model: Path, out: str, monkeypatch, step: int = 4) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        assert sft(model, out) == 143
    assert status_of(Path(out)) == "stopped"


def said(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("decode", ["score", "greedy", "sample"])
def test_evaluation_goes_on_by_row(here, tiny_model, monkeypatch, decode):
    """However many rows are there, the last one torn or not: the same predictions, file and scores."""
    monkeypatch.setattr("rl4nlu.ask.CHUNK", 32)
    monkeypatch.setattr("rl4nlu.methods.evaluate.CHUNK", 32)
    command = f"evaluate --task mini --limit 90 --decode {decode} --template verdict --model {tiny_model}"
    extra = ["--unparsable", "random"] if decode != "score" else []
    assert main([*command.split(), *extra, "--out", "whole"]) == 0
    text, predict = Path("whole/predictions.jsonl").read_bytes(), Run.predict
    lines = text.splitlines(keepends=True)
    results = json.loads(Path("whole/results.json").read_text())
    points = [(0, 0), (31, 0), (32, 0), (90, 0), (95, 1), (360, 3), (360, 4)]
    if decode == "score":  # the quickest
        points += [(1, 0), (89, 0), (90, 1), (300, 3)]
    for rows, tasks in points:
        shutil.rmtree("r", ignore_errors=True)
        shutil.copytree("whole", "r")
        Path("r/predictions.jsonl").write_bytes(b"".join(lines[:rows]) + lines[min(rows, 359)][:20])
        if tasks < 4:
            status = {"state": "running"}
            Path("r/status.json").write_text(json.dumps(status))
        if tasks:
            Path("r/results.json").write_text(json.dumps({**results, "results": results["results"][:tasks]}))
        else:
            Path("r/results.json").unlink()
        asked = []

        def noting(self, row, asked=asked):
            asked.append(row)
            predict(self, row)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "predict", noting)
            assert main(["resume", "r"]) == 0
        if tasks < 4:
            assert Path("r/predictions.jsonl").read_bytes() == text
            assert len(asked) <= 360 - rows + 31, "more than one group was asked again"
            assert_same_outcome(Path("whole"), Path("r"))
    assert CHUNK == 512


def test_the_guessed_labels_of_a_calibrated_run(here, tiny_model):
    """Calibration needs all rows at once: what is there is asked again."""
    command = f"evaluate --task mini/question --limit 40 --calibrate batch --model {tiny_model} --out whole"
    assert main(command.split()) == 0
    shutil.copytree("whole", "r")
    lines = Path("r/predictions.jsonl").read_bytes().splitlines(keepends=True)
    Path("r/predictions.jsonl").write_bytes(b"".join(lines[:25]))
    Path("r/results.json").unlink()
    Path("r/status.json").write_text('{"state": "running"}')
    assert main(["resume", "r"]) == 0
    assert_same_outcome(Path("whole"), Path("r"))


def test_a_broken_checkpoint_is_named_and_the_one_before_used(here, tiny_model, monkeypatch, capsys):
    assert sft(tiny_model, "whole") == 0
    begun(tiny_model, "r", monkeypatch)
    weights = Path("r/checkpoints/step-000004/adapter.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["resume", "r"]) == 0
    error = capsys.readouterr().err
    assert "warning: r/checkpoints/step-000004: adapter.safetensors has" in error
    assert "it is passed over" in error
    assert "Traceback" not in error
    assert_same_outcome(Path("whole"), Path("r"))
    assert sorted(path.name for path in Path("r/checkpoints").iterdir()) == ["step-000005", "step-000006"]


def test_no_whole_checkpoint_is_no_reason_to_begin_anew(here, tiny_model, monkeypatch, capsys):
    begun(tiny_model, "r", monkeypatch)
    for manifest in Path("r/checkpoints").glob("*/manifest.json"):
        manifest.write_text("{}")
    log = Path("r/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["resume", "r"]) == 2
    assert "r/checkpoints: no checkpoint is whole; remove r and make the run again" in said(capsys)
    assert Path("r/metrics.jsonl").read_bytes() == log


def test_an_encoder_that_is_trained_whole_ends_as_if_nothing_had_been(here, monkeypatch):
    """All weights, and BERT's own dropout, drawn anew for each step."""
    Path("bert").mkdir()
    bert_folder(Path("bert"))
    words = "classify --task mini/question --model bert --tune full --batch-size 8 --limit 100 --eval-limit 20"
    words = [*words.split(), "--max-steps", "6", "--save-every", "1", "--out"]
    assert main([*words, "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        assert main([*words, "run"]) == 143
    assert main(["resume", "run"]) == 0
    assert_same_outcome(Path("whole"), Path("run"))


def test_from_another_folder_with_data_that_has_moved(here, tiny_model, monkeypatch, capsys):
    """A run over the user's own table, begun with relative paths, goes on from anywhere, also when it was moved."""
    begin = here / "begin"
    begin.mkdir()
    monkeypatch.chdir(begin)
    shutil.copytree(tiny_model, "model")
    rows = "".join(f"who is {i}?,{'person' if i % 2 else 'place'}\n" for i in range(60))
    Path("rows.csv").write_text("body,label\n" + rows)
    Path("own.yaml").write_text("train: rows.csv\ntemplate: '{body} Which?'\nlabels: [person, place]\n")
    command = "sft --task own.yaml --model model --batch-size 4 --max-steps 6 --save-every 1"
    assert main([*command.split(), "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        assert main([*command.split(), "--out", "r"]) == 143
    Path("own.yaml").unlink()  # the run has kept it
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    shutil.move(begin / "r", "moved")
    assert main(["resume", "moved"]) == 0
    # what differs is the name of the model: it is found by the folder in which the run was begun
    assert_same_outcome(begin / "whole", Path("moved"), but=("results.json",))
    (one,), (other,) = (
        json.loads((run / "results.json").read_text())["results"] for run in (begin / "whole", Path("moved"))
    )
    assert one["metrics"] == other["metrics"]


@pytest.mark.parametrize(
    ("make", "words", "says"),
    [
        (None, "resume", "resume needs the folder of a"),
        (None, "resume nowhere", "nowhere: no such run folder"),
        (None, "resume som", "did you mean 'some'"),
        ("some/notes.txt", "resume some", "holds no run that could be gone on with"),
        ("s/suite.json", "resume s", "is the folder of a suite: give its command again"),
        (None, "resume some --learning-rate 3", "no such flag"),
    ],
)
def test_what_cannot_be_gone_on_with(here, capsys, make, words, says):
    Path("some").mkdir()
    if make is not None:
        Path(make).parent.mkdir(exist_ok=True)
        Path(make).touch()
    assert main(words.split()) == 2
    assert says in said(capsys)


def test_other_threads_are_said(here, tiny_model, monkeypatch, capsys):
    import torch

    begun(tiny_model, "r", monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    capsys.readouterr()
    assert main(["resume", "r", "--max-tokens", "512"]) == 0
    error = capsys.readouterr().err
    assert "note: the rest may differ in the last bits" in error
    assert "then, 77 now" in error


def test_a_run_folder_says_how_to_go_on(here, tiny_model, monkeypatch, capsys):
    begun(tiny_model, "r", monkeypatch)
    error = said(capsys)
    assert error == "stopped by SIGTERM; 4 of 6 steps are saved; go on: rl4nlu resume r"
    assert sft(tiny_model, "r") == 2
    assert "r is not empty: name another folder, or go on with it (rl4nlu resume r)" in said(capsys)
    assert main(["resume", "r"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("r").rglob("*")}
    assert main(["resume", "r"]) == 0
    assert "r is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("r").rglob("*")} == before


def test_a_run_without_checkpoints_is_not_trained_anew(here, tiny_model, monkeypatch, capsys):
    """Neither one whose checkpoints somebody has removed, nor one of an older version."""
    begun(tiny_model, "r", monkeypatch)
    shutil.rmtree("r/checkpoints")
    log = Path("r/metrics.jsonl").read_bytes()
    assert main(["resume", "r"]) == 2
    assert "no checkpoint is whole; remove r and make the run again" in said(capsys)
    assert Path("r/metrics.jsonl").read_bytes() == log
    assert status_of(Path("r")) == "stopped"
    assert sft(tiny_model, "old") == 0
    for name in ("status.json", "identity.json", "run.lock"):
        Path("old", name).unlink()
    before = {path: path.read_bytes() for path in Path("old").rglob("*") if path.is_file()}
    assert main(["resume", "old"]) == 2
    assert "a run of an older version" in said(capsys)
    assert {path: path.read_bytes() for path in before} == before


def test_what_could_not_be_gone_on_with_stays_what_it_was(here, tiny_model, monkeypatch, capsys):
    """Refused because something has changed: once it is put back, the run goes on where it was."""
    assert sft(tiny_model, "whole") == 0
    begun(tiny_model, "r", monkeypatch)
    identity = Path("r/identity.json").read_text()
    Path("r/identity.json").write_text(identity.replace('"rows": "', '"rows": "0'))
    assert main(["resume", "r"]) == 2
    assert "the rows that the run works on have changed since" in said(capsys)
    assert status_of(Path("r")) == "stopped"
    Path("r/identity.json").write_text(identity)
    assert main(["resume", "r"]) == 0
    assert_same_outcome(Path("whole"), Path("r"))


def test_leftovers_of_a_kill_between_two_renames_are_swept(here, tiny_model, monkeypatch):
    begun(tiny_model, "r", monkeypatch)
    for name in ("adapter.old-77", "adapter.tmp-77"):
        Path("r", name).mkdir()
        Path("r", name, "weights").write_text("x")
    Path("r/results.json.part").write_text("{")
    assert main(["resume", "r"]) == 0
    assert not [path for path in Path("r").iterdir() if "-77" in path.name or path.suffix == ".part"]


def test_a_reader_that_leaves_does_not_end_a_run(here, tiny_model, monkeypatch):
    """`rl4nlu sft ... 2>&1 | head`: every line to stderr fails from now on."""

    class Closed:
        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def isatty(self):
            return False

    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Closed())
        assert sft(tiny_model, "r") == 0
    assert status_of(Path("r")) == "finished"


def test_the_metric_of_tasks_that_a_batch_lacks(here, tiny_model, monkeypatch):
    """A reward that is a metric's derivative remembers the metric of every task, seen in this step or not."""
    command = "ppo --task mini --reward metric --actions labels --batch-size 2 --answers 2 --limit 60 --max-steps 8"
    command += f" --save-every 1 --eval-limit 4 --select-rows 0 --model {tiny_model}"
    assert main([*command.split(), "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        assert main([*command.split(), "--out", "r"]) == 143
    assert main(["resume", "r"]) == 0
    assert_same_outcome(Path("whole"), Path("r"))


def test_a_suite_does_not_touch_a_run_at_work_and_goes_on_with_one_that_failed(here, tiny_model, monkeypatch):
    assert sft(tiny_model, "whole") == 0
    begun(tiny_model, "r", monkeypatch)
    values = {"task": "mini/question", "model": str(tiny_model), "batch_size": 8, "limit": 100, "eval_limit": 20}
    values |= {"max_steps": 6, "save_every": 1, "select_rows": 10, "out": "r"}
    work = workers.Work("r", "r", "sft", "sft", validate(SftSettings, values), None, Path("log.txt"))
    busy = Run(Path("r"), reopened=True)
    busy.note("running")
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="another process is at work there"):
        workers.make_run(work)
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before
    busy.note("failed", "CUDA error")
    busy.close()
    steps = []
    log = Run.log
    monkeypatch.setattr(Run, "log", lambda self, row: (steps.append(row["step"]), log(self, row)))
    workers.make_run(work)
    assert steps == [5, 6]
    assert_same_outcome(Path("whole"), Path("r"))


def test_a_suite_does_not_throw_a_stopped_run_away(here, tiny_model, monkeypatch):
    """Another folder's name, less memory and a tracker change nothing of it; what does is named, and it is kept."""
    assert sft(tiny_model, "whole") == 0
    begun(tiny_model, "r", monkeypatch)
    Path("r").rename("moved")
    values = {"task": "mini/question", "model": str(tiny_model), "batch_size": 8, "limit": 100, "eval_limit": 20}
    values |= {"max_steps": 6, "save_every": 3, "select_rows": 10, "max_tokens": 2000, "out": "moved"}

    def work(**changed):
        settings = validate(SftSettings, {**values, **changed})
        return workers.Work("moved", "moved", "sft", "sft", settings, None, Path("log.txt"))

    before = {path: path.read_bytes() for path in Path("moved").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"made with learning_rate .* now: put the setting back, or remove it"):
        workers.make_run(work(learning_rate=0.5))
    assert {path: path.read_bytes() for path in Path("moved").rglob("*") if path.is_file()} == before
    steps = []
    log = Run.log
    monkeypatch.setattr(Run, "log", lambda self, row: (steps.append(row["step"]), log(self, row)))
    workers.make_run(work())
    assert steps == [5, 6]
    for path in Path("moved", "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    files.write_json(Path("moved/status.json"), {"state": "stopped"})
    workers.make_run(work(learning_rate=0.01))  # nothing would be lost
    assert steps[2:] == [1, 2, 3, 4, 5, 6]


def test_a_run_of_another_user_that_was_killed_is_not_taken_for_one_at_work(here, tiny_model, monkeypatch):
    """Its lock cannot be written to, and says all the same that nobody holds it."""
    begun(tiny_model, "r", monkeypatch)
    files.write_json(Path("r/status.json"), {"state": "running"})
    real = os.open

    def reading(path, flags, *more, **named):
        if Path(path).name == "run.lock" and flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", reading)
    assert status_of(Path("r")) == "killed"
    monkeypatch.setattr(os, "open", real)
    busy = Run(Path("r"), reopened=True)
    monkeypatch.setattr(os, "open", reading)
    assert status_of(Path("r")) == "running"
    busy.close()
