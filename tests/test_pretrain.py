"""Pre-training of a small model: its text, its optimizer, its rows, and all of it once at a tiny size."""

from __future__ import annotations

import json
import lzma
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rl4nlu.cli import main
from rl4nlu.prompts import Prompter
from rl4nlu.seeding import generator
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import Example
from rl4nlu.tokens import Encoder

ROOT = Path(__file__).parents[1]
SENTENCES = (
    "The old man went down to the harbour, and nobody saw him again that winter.",
    "What had become of the letter?",
    "She laughed, shook her head, and closed the door behind her!",
    "In the morning the snow lay deep upon the fields, and the road was gone.",
    "He had a horse, a dog, and a gun, but no friend in the whole country.",
    "Never had the house been so quiet.",
    "It was said in the village that the miller kept his money under the stairs.",
    "Who would have thought that the captain remembered the song?",
)


@pytest.fixture(scope="module")
def scripts():
    """The modules of scripts/ that make the model."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import pretrain
        import pretrain_form as form

        yield pretrain, form
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def pen(scripts):
    return scripts[1].Pen([" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(8)], generator(0, "test/form"))


# -- text -------------------------------------------------------------------------------------------------------------


def test_documents_end_at_form_feeds_wherever_they_stand(scripts, tmp_path):
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.xz"
    plain.write_text("one\ntwo\n\fthree\fthree and a half\n", encoding="utf-8")
    packed.write_bytes(lzma.compress("four é\n\ffive".encode()))
    found = list(scripts[0].pretrain_text.documents((plain, packed)))
    assert found == ["one\ntwo\n", "three", "three and a half\n", "four é\n", "five"]


def test_rows_that_stand_in_the_books_are_counted(scripts):
    """Eight words in a row, whatever their case and the signs between them; seven are not enough."""
    from overlap import Count, count

    book = "It was the best of times, it was the worst of times; it was the age of wisdom."
    rows = [
        ("a", "He wrote: IT WAS (the) best of times - it was, and so on"),
        ("It was the best of times; it too was",),
        ("the age of wisdom it was the worst of times",),
        ("short",),
        ("the worst of times it was the age", "no"),
    ]
    assert count([rows, [], iter(rows[:1])], [book, "another"], 8) == [Count(5, 4, 2), Count(0, 0, 0), Count(1, 1, 1)]
    assert count([rows], [book], 7)[0].met == 3
    assert count([rows], ["x", ""], 8) == [Count(5, 4, 0)]
    assert count([[("a",)]], [book], 8) == [Count(1, 0, 0)]


# -- optimizer and schedule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_muon_against_singular_values_in_float64(scripts, shape):
    """The iterations act on each singular value alone, and leave the singular vectors."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=shape), rng.normal(size=(3, *shape))
    weights = [torch.nn.Parameter(torch.tensor(start, dtype=torch.float32)) for _ in range(2)]
    muon = scripts[0].Muon(weights)
    muon.param_groups[0] |= {"lr": 0.1, "weight_decay": 0.5}
    mean, expected = np.zeros(shape), start.copy()
    for gradient in gradients:
        mean = 0.95 * mean + 0.05 * gradient
        U, s, Vt = np.linalg.svd(0.05 * gradient + 0.95 * mean, full_matrices=False)
        s /= np.sqrt((s**2).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * np.sqrt(max(shape)) * (U * s) @ Vt
        for weight in weights:
            weight.grad = torch.tensor(gradient, dtype=torch.float32)
        muon.step()
    for weight in weights:
        np.testing.assert_allclose(weight.detach().numpy(), expected, atol=2e-5)


def test_the_rate_rises_and_falls_to_nothing(scripts, tmp_path):
    pretrain = scripts[0]
    common = {"text": (), "out": tmp_path, "books": 4096 * 60, "long": 4096 * 20, "form": 4096 * 20, "batch": 4096}
    linear = pretrain.Settings(**common, warmup=0.1)
    assert linear.steps == 100
    assert [pretrain.rate_at(linear, step) for step in (0, 4, 9, 10, 55, 99)] == pytest.approx(
        [0.1, 0.5, 1, 1, 0.5, 1 / 90]
    )
    cosine = pretrain.Settings(**common, warmup=0.1, schedule="cosine")
    assert pretrain.rate_at(cosine, 55) == pytest.approx(0.5)
    assert pretrain.rate_at(cosine, 40) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"batch": 3000}, "error: --batch must be a multiple of twice --context"),
        ({"vocabulary": 70_000}, "error: --vocabulary 70000: it must be more than 259"),
        ({"text": (Path("nowhere.txt"),)}, "error: no such file: nowhere.txt"),
        ({"sources": Path("list.txt")}, "error: no such file: list.txt"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(scripts, tmp_path, capsys, values, says):
    with pytest.raises(SystemExit) as ended:
        scripts[0].Settings(**{"text": (), "out": tmp_path, **values})
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(says)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_every_block_is_read_once_before_any_is_read_again(scripts, tmp_path):
    pretrain = scripts[0]
    settings = pretrain.Settings((), tmp_path, context=8, short=4, batch=16, books=16 * 5, long=16 * 5, form=0)
    text = pretrain.pretrain_text.Text(None, np.arange(8 * 10 + 3, dtype=np.uint16), np.zeros(8), 4.0)
    rows = [ids for step in range(10) for ids, _ in pretrain.batches(settings, text, step)]
    assert [tuple(row.shape) for row in rows] == [(2, 4)] * 10 + [(1, 8)] * 10
    assert sorted(torch.cat([row.flatten() for row in rows[:10]]).tolist()) == list(range(80))
    assert sorted(torch.cat([row.flatten() for row in rows[10:]]).tolist()) == list(range(80))
    assert not torch.equal(torch.cat(rows[:10]).flatten(), torch.cat(rows[10:]).flatten())  # in another order
    again, _ = pretrain.batches(settings, text, 7)[1]
    assert torch.equal(again, rows[15])


def _true(name: str, fields: dict[str, str]) -> int:
    """The right label of a row made by rule, found in another way than it was made."""
    text, first, second = (fields.get(field, "") for field in ("text", "first", "second"))
    match name:
        case "occurs":
            return 0 if fields["word"].lower() in re.findall(r"[a-z]+", text.lower()) else 1
        case "same":
            return 0 if first == second else 1
        case "made-of":
            return 0 if Counter(first.split()) == Counter(second.split()) else 1
        case "first":
            words = re.findall("[a-z]+", text.lower())
            return int(words.index(fields["one"].lower()) > words.index(fields["two"].lower()))
        case "follows":
            return 0 if SENTENCES.index(second) == (SENTENCES.index(first) + 1) % len(SENTENCES) else 1
        case "gap":
            whole = [text.replace("___", fields[name]) for name in ("one", "two")]
            right = [all(sentence in SENTENCES for sentence in SPLIT.split(filled)) for filled in whole]
            assert sum(right) == 1
            return right.index(True)
        case "longer":
            assert len(first) != len(second)
            return int(len(second) > len(first))
        case "mark":
            return ".?!".index(text[-1])
        case "commas":
            return text.count(",")
        case "holds":
            claim = fields["claim"]
            return 0 if claim in text else 2 if claim in SENTENCES else 1
        case "alike":
            pairs = list(zip(first.split(), second.split(), strict=True))
            assert len(pairs) == 25
            return sum(a == b for a, b in pairs)
        case _:
            raise AssertionError(name)


SPLIT = re.compile(r"(?<=[.!?])\s+")
RULES = ("occurs", "same", "made-of", "first", "gap", "follows", "longer", "mark", "commas", "holds", "alike")


@pytest.mark.parametrize("name", RULES)
def test_the_answer_of_a_row_made_by_rule_stands_in_it(scripts, pen, name):
    rule = scripts[1].RULES[name]
    assert set(scripts[1].RULES) == set(RULES)
    for i in range(200):
        label = i % len(rule.words[0])
        fields = rule.draw(pen, label, 40)
        assert _true(name, fields) == label, fields


def test_a_row_is_what_the_program_asks_and_answers(scripts, pen):
    """A row that holds one example is to the token what `Encoder` makes of it; a loss is asked for the answer alone."""
    form = scripts[1]
    tokenizer = AutoTokenizer.from_pretrained(mini_folder())
    seen, real = [], Prompter.prompt

    def spy(self, example, fields=None):
        seen.append((self, example))
        return real(self, example, fields)

    checked = 0
    for _ in range(60):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Prompter, "prompt", spy)
            seen.clear()
            ids, asked = form.row(pen, tokenizer.backend_tokenizer, 256)
        assert 0 < len(ids) == len(asked) <= 256
        assert asked[-1]
        spans = "".join("#" if one else " " for one in asked).split()
        text = tokenizer.decode([i for i, one in zip(ids, asked, strict=True) if one])
        assert len(text.split("</verdict>" if "</verdict>" in text else "\n")) - 1 == len(spans)
        if len(spans) == 1:
            prompter, example = seen[-1] if len(seen) == 1 else (None, None)
            if prompter is None:  # drawn again: the last one of several may be one that did not fit
                continue
            row = Encoder(tokenizer, prompter, 1024).encode(example)
            count = len(row.ids)
            assert tuple(ids[:count]) == row.ids
            assert tuple(ids[count:]) in row.answers
            assert asked == [False] * count + [True] * (len(ids) - count)
            checked += 1
    assert checked > 10


def test_rows_are_a_function_of_seed_and_step(scripts):
    form, text = scripts[1], scripts[0].pretrain_text
    tokenizer = Tokenizer.from_file(str(mini_folder() / "tokenizer.json"))
    tokens = np.array(tokenizer.encode(" ".join(SENTENCES) * 40).ids, dtype=np.uint16)
    books = text.Text(tokenizer, tokens, tokens, 4.0)
    shapes = []
    for step in range(4):
        ids, labels = form.batch(books, 0, step, 2048, 1024, -100)
        again, _ = form.batch(books, 0, step, 2048, 1024, -100)
        other, _ = form.batch(books, 1, step, 2048, 1024, -100)
        assert torch.equal(ids, again)
        assert not torch.equal(ids, other)
        assert torch.equal(labels[labels >= 0], ids[labels >= 0])
        assert (labels >= 0).any(dim=1).all()
        shapes.append(tuple(ids.shape))
    assert shapes == [(16, 128), (8, 256), (4, 512), (2, 1024)]
    assert form.lengths_of(256) == (128, 128, 128, 256)
    assert form.lengths_of(64) == (64, 64, 64, 64)


def test_the_programs_own_tasks_get_every_label_whatever_their_text(scripts, pen):
    """An answer by lot: no label is told from the text, and none is left out."""
    form = scripts[1]
    seen = {task.name: Counter() for task in form.OWN}
    for _ in range(2500):
        task, draw = form.own(pen, 30)
        fields, label = draw()
        assert set(fields) >= set(task.fields)
        seen[task.name][label] += 1
        for template in ("plain", "verdict"):
            prompter = Prompter(task, template)
            assert prompter.prompt(Example("", fields, None)).text.startswith(prompter.prefix)
            assert prompter.parse(prompter.answers[label]) is not None
    for task in form.OWN:
        if not task.numeric:
            assert len(seen[task.name]) == len(task.labels)
            assert min(seen[task.name].values()) > 0.5 * max(seen[task.name].values())


# -- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_model_learns_and_goes_on_to_the_bit(tmp_path):
    """On this repository's own pages: the loss falls, a run that was stopped ends in the same weights, and the
    folder loads and answers. `make pretrain-smoke`."""
    text = tmp_path / "text.txt"
    pages = sorted((ROOT / "docs").rglob("*.md")) + [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LICENSE")
    ]
    text.write_text("\f".join(page.read_text(encoding="utf-8") for page in pages), encoding="utf-8")
    tiny = "--about pages --vocabulary 1024 --layers 2 --width 64 --hidden 128 --heads 2 --context 256 --short 64"
    tiny += " --batch 1024"
    tiny += " --books 61440 --long 10240 --form 10240 --held-out 10 --look-every 20 --device cpu --no-compile"

    def train(name: str, *more: str, code: int = 0) -> str:
        command = [sys.executable, str(ROOT / "scripts" / "pretrain.py"), "--text", str(text), "--out"]
        done = subprocess.run([*command, str(tmp_path / name), *tiny.split(), *more], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    train("whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60, 80]
    assert lines[2]["held_out"] < lines[0]["held_out"] - 0.3
    assert lines[2]["loss"] < lines[0]["loss"] - 0.5
    train("parts", "--stop-at", "45")
    train("parts")
    whole, parts = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert "holds a training with other settings" in train("parts", "--seed", "1", code=2)

    model = tmp_path / "whole" / "model"
    words = f"evaluate --task mini/sentiment --model {model} --limit 8 --out {tmp_path / 'run'}"
    assert main(words.split()) == 0
    card = (model / "README.md").read_text()
    assert "python scripts/pretrain.py --text" in card
    assert "--vocabulary 1024" in card
    assert "# A small Llama, pre-trained on pages" in card
    assert "--device cpu --no-compile" in card
    lone = tmp_path / "lone.txt"
    lone.write_text("A single document.\n", encoding="utf-8")
    text = lone
    assert "of 1 documents none is held out" in train("lone", code=2)
