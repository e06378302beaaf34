"""Pre-training of a small model: its text, its optimizer, its rows, and all of it once at a tiny size."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl4nlu import stop
from rl4nlu.cli import main
from rl4nlu.errors import Diverged, UserError
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
    documents = scripts[0].pretrain_text.documents
    assert list(documents((plain, packed))) == ["one\ntwo\n", "three", "three and a half\n", "four é\n", "five"]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"b\.txt\.xz cannot be read as text"):
        list(documents((packed,)))
    plain.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt cannot be read as text"):
        list(documents((plain,)))


def made_up(pages: int, words: int = 60) -> list[str]:
    """Pages that have nothing in common."""
    rng = np.random.default_rng(7)
    return [
        "\n".join(" ".join("".join(rng.choice(list("abcdefgh"), 5)) for _ in range(10)) for _ in range(words // 10))
        for _ in range(pages)
    ]


def test_what_stands_in_another_document_is_not_held_out(scripts):
    """A second edition and a page of a book that is learnt from do not measure what was learnt; a quotation does not
    spoil a document."""
    whole, other, *rest = made_up(6, words=3000)
    edition = re.sub(r"(\w+ \w+ \w+) (\w+)", lambda found: f"{found[1].title()}, {found[2]}", whole)
    page = " ".join(other.split()[900:1300])
    quoting = rest[0] + "\n" + " ".join(whole.split()[100:125])
    without_twins = scripts[0].pretrain_text.without_twins
    assert without_twins([edition, page, quoting, rest[1], "short"], [whole, other, rest[2]]) == [
        quoting,
        rest[1],
        "short",
    ]
    assert without_twins([], [whole]) == []


def test_tokens_are_made_anew_for_another_text(scripts, tmp_path):
    """A first call that was refused leaves nothing behind that a second one would take for its own."""
    prepare = scripts[0].pretrain_text.prepare
    text, at = tmp_path / "text.txt", tmp_path / "tokens"
    pages = made_up(7)
    text.write_text("\f".join(pages[:3]), encoding="utf-8")
    first = prepare((text,), 300, 2, at)
    assert first.tokenizer.decode(first.unseen.tolist()) == pages[1]
    assert first.seen.tolist().count(2) == 2
    kept = (at / "tokenizer.json").stat().st_mtime_ns
    prepare((text,), 300, 2, at)
    assert (at / "tokenizer.json").stat().st_mtime_ns == kept
    text.write_text("\f".join(pages), encoding="utf-8")
    second = prepare((text,), 300, 2, at)
    assert second.seen.tolist().count(2) == 4
    assert prepare((text,), 280, 2, at).tokenizer.get_vocab_size() == 280
    text.write_text("\f".join([pages[0]] * 4), encoding="utf-8")
    with pytest.raises(UserError, match=r"none is held out \(2 of them stand in others too\)"):
        prepare((text,), 300, 2, at)


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


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_muon_against_singular_values_in_float64(scripts, shape, dtype, error):
    """The iterations act on each singular value alone, and leave the singular vectors."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=shape), rng.normal(size=(3, *shape))
    weights = [torch.nn.Parameter(torch.tensor(start, dtype=torch.float32)) for _ in range(2)]
    muon = scripts[0].Muon(weights, 0.5, dtype)
    muon.param_groups[0]["lr"] = 0.1
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
        np.testing.assert_allclose(weight.detach().numpy(), expected, atol=error)


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
    for schedule in ("linear", "cosine"):
        half = pretrain.Settings(**common, warmup=0.1, schedule=schedule, last_rate=0.5)
        assert [pretrain.rate_at(half, step) for step in (0, 10, 55, 100)] == pytest.approx([0.1, 1, 0.75, 0.5])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"batch": 3000}, "--batch must be a multiple of 4 times --context"),
        ({"batch": 0}, "--batch 0: give at least 1"),
        ({"look_every": 0}, "--look-every 0: give at least 1"),
        ({"heads": 3}, "--width 256 must be a multiple of twice --heads 3"),
        ({"muon_rate": -0.1}, "--muon-rate -0.1: give a rate between 0 and 1"),
        ({"last_rate": 44.4}, "--last-rate 44.4: give at least 0 and less than 1"),
        ({"device": "gpu"}, "--device gpu: no such device; give cpu or cuda"),
        ({"device": "cuda:99"}, "--device cuda:99: torch sees "),
        ({"start": Path("nowhere")}, "--start nowhere holds no model.safetensors"),
        ({"held_out": 1}, "--held-out must be 2 at least"),
        ({"books": 0, "long": 0, "form": 0}, "--books, --long and --form are less than a --batch of 8,192 tokens"),
        ({"context": 32, "short": 32}, "--context 32: the second stage needs rows of 64 tokens"),
        ({"vocabulary": 70_000}, "--vocabulary 70000: it must be more than 259"),
        ({"text": (Path("nowhere.txt"),)}, "no such file: nowhere.txt"),
        ({"sources": Path("list.txt")}, "no such file: list.txt"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(scripts, tmp_path, values, says):
    with pytest.raises(UserError, match=re.escape(says)):
        scripts[0].Settings(**{"text": (), "out": tmp_path, **values})


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        (UserError("no such thing"), 2, "error: no such thing\n"),
        (Diverged("not a number"), 3, "error: not a number\n"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 2, "error: x.txt: No such file or directory\n"),
    ],
)
def test_a_script_ends_in_one_line(scripts, capsys, wrong, code, says):
    from outcome import in_one_line

    with pytest.raises(SystemExit) as ended, in_one_line():
        raise wrong
    assert ended.value.code == code
    assert capsys.readouterr().err == says


# -- rows -------------------------------------------------------------------------------------------------------------


def test_every_block_is_read_once_before_any_is_read_again(scripts, tmp_path):
    pretrain = scripts[0]
    settings = pretrain.Settings((), tmp_path, context=8, short=4, batch=32, books=32 * 5, long=32 * 5, form=0)
    text = pretrain.pretrain_text.Text(None, np.arange(8 * 20 + 3, dtype=np.uint16), np.zeros(8), 4.0)
    past = pretrain.Past({})
    rows = [ids for step in range(10) for ids, _ in pretrain.batches(settings, text, step, past)]
    assert [tuple(row.shape) for row in rows] == [(8, 4)] * 5 + [(4, 8)] * 5
    assert sorted(torch.cat([row.flatten() for row in rows[:5]]).tolist()) == list(range(160))
    assert sorted(torch.cat([row.flatten() for row in rows[5:]]).tolist()) == list(range(160))
    assert not torch.equal(torch.cat(rows[:5]).flatten(), torch.cat(rows[5:]).flatten())  # in another order
    again, _ = pretrain.batches(settings, text, 7, past)[0]
    assert torch.equal(again, rows[7])


def test_the_second_stage_goes_on_in_the_books_beside_its_prompts(scripts, tmp_path, monkeypatch):
    """Where the first stage has left off, block by block."""
    pretrain = scripts[0]
    made = []
    monkeypatch.setattr(pretrain.pretrain_form, "batch", lambda *given: made.append(given[2:5]) or "rows")
    settings = pretrain.Settings((), tmp_path, context=64, short=32, batch=256, books=256 * 3, long=256, form=256 * 4)
    text = pretrain.pretrain_text.Text(None, np.arange(64 * 29, dtype=np.uint16), np.zeros(8), 4.0)
    assert (settings.first_of_form, settings.steps) == (4, 8)
    parts = [pretrain.batches(settings, text, step, pretrain.Past({})) for step in range(8)]
    assert [len(step) for step in parts] == [1] * 4 + [2] * 4
    assert [step[1] for step in parts[4:]] == ["rows"] * 4
    assert made == [(step, 64, 64) for step in (4, 5, 6, 7)]
    assert [tuple(step[0][0].shape) for step in parts] == [(8, 32)] * 3 + [(4, 64)] + [(6, 32)] * 4
    read = torch.cat([step[0][0].flatten() for step in parts])
    assert len(read) == 64 * 28 == settings.read == len(read.unique())  # no block is left out, or read twice


def _true(name: str, fields: dict[str, str]) -> int:
    """The right label of a row made by rule, found in another way than it was made."""
    text, first, second = (fields.get(field, "") for field in ("text", "first", "second"))
    match name:
        case "occurs":
            return 0 if fields["word"].lower() in re.findall(r"[a-z]+", text.lower()) else 1
        case "asked":
            word = fields["sought"].lower()
            return 0 if word in re.findall(r"[a-z]+", text.lower()) else 1
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
RULES = ("occurs", "asked", "same", "made-of", "first", "gap", "follows", "longer", "mark", "commas", "holds", "alike")


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

    checked = Counter()
    for _ in range(100):
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
            answer = tuple(i for i, one in zip(ids, asked, strict=True) if one)
            behind = (*row.bridge, *answer)
            assert answer in row.answers
            assert tuple(ids[-len(behind) :]) == behind
            thought = ids[count : len(ids) - len(behind)]
            assert bool(thought) == bool(prompter.reason)
            if thought:
                assert tokenizer.decode(thought).strip() in SENTENCES
            checked[prompter.reason] += 1
    assert checked[0] > 10
    assert checked[1] > 2


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


@pytest.fixture
def small(scripts, tmp_path):
    """(name of the folder, other settings) -> settings of a training of eight steps."""
    text = tmp_path / "text.txt"
    text.write_text("\f".join(made_up(12, words=200)), encoding="utf-8")
    values = {"vocabulary": 300, "layers": 1, "width": 16, "hidden": 16, "heads": 2, "context": 128, "short": 32}
    values |= {"batch": 512, "books": 512 * 4, "long": 512 * 2, "form": 512 * 2, "held_out": 3, "look_every": 3}
    values |= {"device": "cpu", "compile": False}
    return lambda name, **more: scripts[0].Settings(**{"text": (text,), "out": tmp_path / name, **values, **more})


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_training(one: Path, other: Path) -> None:
    """To the bit, and in all that is told of it."""
    assert log_of(one) == log_of(other)
    first, second = (load_file(folder / "checkpoint.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_signal_at_any_step_changes_nothing(scripts, small, monkeypatch):
    """Neither does a log that is ahead of its checkpoint, as after a power cut between the two."""
    pretrain = scripts[0]
    step = pretrain.Training.train_step
    pretrain.train(small("whole"))
    whole = small("whole").out
    assert [line["step"] for line in log_of(whole)] == [3, 6, 8]

    def signalled(training) -> float:
        loss = step(training)
        if training.step in at:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(pretrain.Training, "train_step", signalled)
    for number, at in enumerate(({1, 5, 7}, {3, 4})):
        parts = small(f"parts-{number}")
        for _ in at:
            with pytest.raises(stop.Interrupted), stop.heeded():
                pretrain.train(parts)
            with (parts.out / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": 99, "tokens": 0, "loss": 0.0, "held_out": 0.0}) + "\n")
        pretrain.train(parts)
        assert_same_training(whole, parts.out)


def test_what_is_not_finite_is_not_kept(scripts, small):
    pretrain = scripts[0]
    settings = small("broken", look_every=1)
    with pytest.raises(Diverged, match="step 0: the loss is nan"):
        training = pretrain.Training(settings)
        with torch.no_grad():
            training.model.model.norm.weight[0] = float("nan")
        before = {name: value.clone() for name, value in training.state().items()}
        training.run()
    assert all(torch.equal(value, before[name]) for name, value in training.state().items() if name != nan(before))
    assert not (settings.out / "checkpoint.safetensors").exists()


def nan(values: dict[str, torch.Tensor]) -> str:
    """The one that holds a NaN, which equals nothing."""
    (name,) = (name for name, value in values.items() if value.isnan().any())
    return name


def test_one_training_in_a_folder_at_a_time(scripts, small):
    pretrain = scripts[0]
    settings = small("one")
    settings.out.mkdir()
    held = pretrain.lock(settings.out)
    with pytest.raises(UserError, match="is in use by another process"):
        pretrain.train(settings)
    os.close(held)
    pretrain.train(settings)
    with pytest.raises(UserError, match="holds a training with other settings"):
        pretrain.train(small("one", seed=1))
    path = small("file").out
    path.touch()
    with pytest.raises(UserError, match="file is not a folder"):
        pretrain.train(small("file"))


def test_the_folder_and_its_card(scripts, small):
    """The card's command is the one that makes the model; transformers loads the folder; anybody may read it."""
    pretrain = scripts[0]
    settings = small("made", about="made-up words, 12 pages", seed=3, warmup=0.25, compile=False)
    folder = pretrain.train(settings)
    card = (folder / "README.md").read_text()
    command = shlex.split(re.search(r"```\n(python .*)\n```", card)[1])
    assert command[:2] == ["python", "scripts/pretrain.py"]
    assert pretrain.tyro.cli(pretrain.Settings, args=command[2:]) == settings
    assert hashlib.sha256(settings.text[0].read_bytes()).hexdigest() in card
    assert "Made-up words, 12 pages: 8 documents of" in card
    assert f"{log_of(settings.out)[-1]['held_out']:.3f} nats a token" in card
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert "PreTrainedTokenizerFast" in (folder / "tokenizer_config.json").read_text()
    assert tokenizer("bad head", add_special_tokens=True).input_ids == tokenizer.encode("bad head")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_a_training_goes_on_from_the_weights_of_another(scripts, small, tmp_path):
    """Where the other left off reading; its card tells both commands and the losses of both."""
    pretrain = scripts[0]
    first = pretrain.train(small("first", long=0, form=0, last_rate=0.5))
    second = small("second", start=first, look_every=1)
    training = pretrain.Training(second)
    (ids, _), *_ = pretrain.batches(second, training.text, 0, training.past)
    blocks = len(training.text.seen) // 128
    order = [pretrain.order(0, i // blocks, blocks)[i % blocks] for i in range(16, 20)]
    read = [training.text.seen[at * 128 :][:128] for at in order]
    assert ids.tolist() == np.stack(read).reshape(-1, 32).tolist()
    longer = tmp_path / "longer.txt"
    longer.write_text("\f".join(made_up(13, words=200)), encoding="utf-8")
    start = load_file(first / "model.safetensors")
    assert all(torch.equal(weight, start[name].float()) for name, weight in training.model.named_parameters())
    folder = pretrain.train(second)
    card, past = (folder / "README.md").read_text(), json.loads((folder / "pretraining.json").read_text())
    commands = [part["command"] for part in past["parts"]]
    assert f"## Training\n\n```\n{commands[0]}\n{commands[1]}\n```" in card
    assert pretrain.tyro.cli(pretrain.Settings, args=shlex.split(commands[1])[2:]) == second
    assert "| training | from scratch, in 2 parts |" in card
    assert (
        "| 1 | 2,048, 32 each | 0, 128 each | 0 | 0.008, 0.004; linear to 0.5 of that | 2% | 4 of 512 tokens |" in card
    )
    assert "The second stage" in card
    assert "rows of up to 128" in card
    alone = (first / "README.md").read_text()
    assert "| training | from scratch |" in alone
    assert "second stage (" not in alone
    assert "rows of up to 32" in alone
    # 4 steps of 512 tokens, then 6 and 2 more with 384 of text
    assert [part["read"] for part in past["parts"]] == [4 * 512, 6 * 512 + 2 * 384]
    assert "| 12 | 6,144 |" in card
    with pytest.raises(UserError, match="holds a training with other settings"):
        pretrain.train(small("second", look_every=1))
    for other, says in (
        ({"start": first.parent}, "holds no model.safetensors"),
        ({"start": first, "vocabulary": 290}, "was made with --vocabulary 300; give the same"),
        ({"start": first, "heads": 4, "seed": 3}, "was made with --heads 2, --seed 0; give the same"),
        ({"start": first, "text": (longer,)}, "was made of other text"),
    ):
        with pytest.raises(UserError, match=says):
            pretrain.train(small(f"third-{len(says)}", **other))
    for name, says in (("tokenizer.json", "cannot be read"), ("pretraining.json", "holds no model that this script")):
        (first / name).write_text("{")
        with pytest.raises(UserError, match=says):
            pretrain.train(small("fourth", start=first))


@pytest.mark.slow
def test_a_tiny_model_learns_and_goes_on_to_the_bit(tmp_path):
    """On this repository's own pages: the loss falls, a run that was stopped, and one that was killed, ends in the same
    weights, and the folder loads and answers. `make pretrain-smoke`."""
    text = tmp_path / "text.txt"
    pages = sorted((ROOT / "docs").rglob("*.md")) + [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LICENSE")
    ]
    text.write_text("\f".join(page.read_text(encoding="utf-8") for page in pages), encoding="utf-8")
    tiny = "--about pages --vocabulary 1024 --layers 2 --width 64 --hidden 128 --heads 2 --context 256 --short 64"
    tiny += " --batch 1024"
    tiny += " --books 61440 --long 10240 --form 10240 --held-out 10 --look-every 20 --device cpu --no-compile"

    def train(name: str, *more: str, until: str = "", how: int = 0, code: int = 0) -> str:
        """Everything it said; a signal is sent as soon as it has said `until`."""
        command = [sys.executable, str(ROOT / "scripts" / "pretrain.py"), "--text", str(text), "--out"]
        command += [str(tmp_path / name), *tiny.split(), *more]
        said = ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                said += line
                if until and until in line:
                    process.send_signal(how)
        assert process.returncode == code, said
        return said

    train("whole")
    lines = log_of(tmp_path / "whole")
    assert [line["step"] for line in lines] == [20, 40, 60, 80]
    assert lines[2]["held_out"] < lines[0]["held_out"] - 0.3
    assert lines[2]["loss"] < lines[0]["loss"] - 0.5
    told = train("parts", until="step 30", how=signal.SIGTERM, code=128 + signal.SIGTERM)
    assert "stopped by SIGTERM; the same command goes on" in told
    train("parts", until="step 50", how=signal.SIGKILL, code=-signal.SIGKILL)
    train("parts")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
    assert "holds a training with other settings" in train("parts", "--seed", "1", code=2)
    words = f"evaluate --task mini/sentiment --model {tmp_path / 'whole' / 'model'} --limit 8 --out {tmp_path / 'run'}"
    assert main(words.split()) == 0
    text = tmp_path / "lone.txt"
    text.write_text("A single document.\n", encoding="utf-8")
    assert "of 1 documents none is held out" in train("lone", code=2)


@pytest.mark.slow
def test_compiled_too_the_same_settings_give_the_same_weights(scripts, small):
    """On all threads: sums whose order is left to chance would differ in their last bits within a few steps."""
    pretrain = scripts[0]
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")
    common = {"compile": True, "books": 8192 * 12, "long": 0, "form": 0, "batch": 8192, "context": 256, "short": 256}
    common |= {"width": 64, "hidden": 128, "look_every": 12}
    folders = [small(name, **common) for name in ("one", "two")]
    for settings in folders:
        pretrain.train(settings)
    assert_same_training(*(settings.out for settings in folders))
