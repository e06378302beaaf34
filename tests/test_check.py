"""check and new: what they say and write."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from rl4nlu import config
from rl4nlu.check import check
from rl4nlu.errors import UserError
from rl4nlu.new import write_new
from rl4nlu.settings import RUNS
from rl4nlu.tasks.own import read_task

RL4NLU = (sys.executable, "-m", "rl4nlu")


@pytest.mark.parametrize("command", RUNS)
def test_a_new_settings_file_is_the_defaults(tmp_path, command):
    path = tmp_path / "run.yaml"
    write_new(command, path)
    found = config.parse(RUNS[command], [str(path)], "rl4nlu")
    assert found == RUNS[command](task="mini/sentiment", model="mini")
    # and with the # of every entry taken away it is still the same
    entries = re.sub(r"^# ( *[a-z_]+:)", r"\1", path.read_text(), flags=re.M)
    path.write_text(entries)
    assert config.parse(RUNS[command], [str(path)], "rl4nlu") == found


def test_a_new_task_file_is_valid(tmp_path):
    path = tmp_path / "my.yaml"
    write_new("task", path)
    task = read_task(path)
    assert task.words == {"billing": "money", "delivery": "parcel"}
    (tmp_path / "train.csv").write_text("text,label\n" + "pay me,billing\nno box,delivery\n" * 10)
    assert check(path)[1].startswith("train: 18 rows")
    with pytest.raises(UserError, match="is there already"):
        write_new("task", path)


def test_what_check_tells_of_a_task(tmp_path):
    rows = "".join(f"text {i},{'' if i % 4 else 'x'},{'ab'[i % 2]}\n" for i in range(8))
    (tmp_path / "train.csv").write_text("body,note,label\n" + rows)
    (tmp_path / "dev.csv").write_text("body,note,label\ntext 0,x,a\nnew,y,b\n")
    text = 'train: train.csv\ndev: dev.csv\ntemplate: "{body} {note}\\nKind?"\nlabels: [a, b, c]\n'
    (tmp_path / "t.yaml").write_text(text)
    assert check(tmp_path / "t.yaml") == [
        f"{tmp_path / 't.yaml'}: own/t",
        "train: 8 rows; a 4, b 4",
        "note: note is empty in 6 train rows",
        "dev: 2 rows; a 1, b 1",
        "note: no training row has the label c, so it cannot be learnt",
        "note: 1 dev rows stand in train too, so the score will be too good",
        "the first row as the model sees it, with its answer:",
        "  | text 0 x",
        "  | Kind? a",
    ]


def test_a_word_that_cannot_be_read_back_is_told(tmp_path):
    (tmp_path / "train.csv").write_text("body,label\n" + "x,a\ny,b\n" * 5)
    (tmp_path / "t.yaml").write_text("train: train.csv\ntemplate: '{body}'\nlabels: {a: '</verdict>', b: good}\n")
    with pytest.raises(UserError, match="its own answer '</verdict>' cannot be read back"):
        check(tmp_path / "t.yaml")


def test_settings_that_are_wrong(tmp_path):
    (tmp_path / "a.yaml").write_text("task: mini/question\nmodel: mini\nkl_coef: -1\n")
    with pytest.raises(UserError, match="kl_coef: input should be greater than or equal to 0"):
        check(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("task: mini/question\ntune: full\n")
    assert check(tmp_path / "b.yaml")[0].endswith("settings of classify")
    (tmp_path / "c.yaml").write_text("task: mini/question\nkl_cof: 1\n")
    with pytest.raises(UserError, match="kl_cof: no such setting"):
        check(tmp_path / "c.yaml")


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


MORE = ("sft", "ppo", "ppo estimator: expected", "classify", "evaluate", "evaluate decode: greedy")
SLOW = [pytest.param(given, marks=pytest.mark.slow) for given in MORE]


@pytest.mark.parametrize("given", SLOW)
def test_the_memory_that_training_takes_is_foreseen(tmp_path, given):
    """Within a quarter of the peak of the process that trains."""
    command, _, more = given.partition(" ")
    path = tmp_path / "run.yaml"
    sizes = "batch_size: 64\nmax_steps: 2\nlimit: 200\neval_limit: 32\n" if command != "evaluate" else "limit: 200\n"
    sizes += "max_tokens: 2048\n" if command != "classify" else ""
    sizes += "select_rows: 0\n" if command in ("sft", "ppo") else ""
    values = f"task: mini/entailment\nmodel: mini\ndevice: cpu\nout: {tmp_path / 'run'}\n"
    inner = "inner_epochs: 1\n" if command == "ppo" else ""
    path.write_text(f"# {command}\n{values}{sizes}{inner}{more}\n")
    said = subprocess.run([*RL4NLU, "check", str(path)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"about ([\d.]+) ([MG]B) at the peak", said)
    assert found, said
    foreseen = float(found[1]) * {"MB": 1e6, "GB": 1e9}[found[2]]
    # a process of its own starts it: the peak of a child is at least what its parent held when it was made
    measured = subprocess.run(
        [sys.executable, "-c", PEAK, *RL4NLU, command, str(path)], capture_output=True, text=True, check=True
    )
    peak = int(measured.stdout.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)
    print(f"\n{given}: {foreseen / 1e6:.0f} MB foreseen, {peak / 1e6:.0f} MB taken")
    assert 0.75 < foreseen / peak < 1.25


def test_memory_that_cannot_be_foreseen_is_no_mistake(tmp_path):
    (tmp_path / "a.yaml").write_text("# sft\ntask: mini/question\nmodel: nobody/has-this\n")
    assert check(tmp_path / "a.yaml")[-1].startswith("note: how much memory nobody/has-this needs is not known: ")


def test_what_is_alive_is_counted():
    """By hand: two tensors of 4,000 bytes at a time; a view is none."""
    import torch

    from rl4nlu.shapes import Counting

    with Counting() as counting:
        one = torch.empty(1000, device="meta")
        two = one + 1
        del two
        view = one.view(10, 100)
        three = one * 2
    assert counting.peak == 8000
    del one, view, three
    assert counting.small == 0
