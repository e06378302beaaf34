"""How long rows take to be ready for a model, and how much memory: read from a file, written as prompts, tokenised.

python benchmarks/prepare.py --data DIR [--task glue/mnli] [--rows 400000] [--shots 0]

DIR holds the benchmarks' files (glue/MNLI/train.tsv and so on); their rows are repeated until there are enough.
Peak memory is that of the whole process, with the imports of torch and transformers.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from transformers import AutoTokenizer

from rl4nlu import data
from rl4nlu.prompts import Prompter, choose_shots
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import Task, find
from rl4nlu.tokens import CHUNK, EncodedRows, Encoder


def repeated(task: Task, source: Path, folder: Path, rows: int) -> None:
    """Write a training file of so many lines, in the layout that `data.load` reads."""
    assert task.files is not None
    name = str(task.files.splits["train"])
    place = Path(task.suite) / task.files.folder / name
    header, *lines = (source / place).read_text(encoding="utf-8").rstrip("\n").split("\n")
    (folder / place).parent.mkdir(parents=True)
    with (folder / place).open("w", encoding="utf-8") as file:
        file.write(header + "\n")
        file.writelines(line + "\n" for line in islice(cycle(lines), rows))


def main() -> None:
    """Time each part and print it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--task", default="glue/mnli")
    arguments.add_argument("--rows", type=int, default=400_000)
    arguments.add_argument("--shots", type=int, default=0)
    given = arguments.parse_args()
    task = find(given.task)
    tokenizer = AutoTokenizer.from_pretrained(mini_folder())
    begin = start = time.perf_counter(), time.process_time()

    def done(what: str) -> None:
        nonlocal start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"{what:22} {seconds:6.1f} s ({cpu:.1f} s of processor time), peak {peak:.2f} GiB", flush=True)
        start = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        repeated(task, given.data, Path(folder), given.rows)
        begin = start = time.perf_counter(), time.process_time()
        examples = data.load(task, "train", folder)
    done(f"{len(examples)} rows read")
    prompter = Prompter(task, shots=choose_shots(task, examples, given.shots, seed=0))
    rows = EncodedRows(Encoder(tokenizer, prompter, 1024), examples)
    done("prompts looked at")
    tokens = 0
    for place in range(0, len(rows), CHUNK):
        tokens += sum(len(row.ids) for row in rows[place : place + CHUNK])
    done(f"{tokens} tokens")
    start = begin
    done("all")


if __name__ == "__main__":
    main()
