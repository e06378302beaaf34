"""Artefacts made by others: none runs code (a sentinel file does not come into being), each ends in one line and exit
code 2; tokens are nowhere; names stay in their folder."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import rl4nlu
from rl4nlu import names, redact
from rl4nlu.cli import main
from rl4nlu.errors import UserError
from rl4nlu.reports import collect, differences, write
from rl4nlu.run import Run
from rl4nlu.settings import SftSettings

MINI = Path(rl4nlu.__file__).parent / "assets" / "mini"
TOKEN = "hf_" + "aB3dE6gH9j" * 3 + "XyZw"
ROWS = "body,topic\nGood.,good\nBad.,bad\n" * 20
TASK = "train: rows.csv\ntemplate: '{body} Good?'\nlabel: topic\nlabels: {good: yes, bad: no}\n"


class Bomb:
    """Writes the sentinel when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("sentinel").absolute(),))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder to work in; afterwards there must be no sentinel in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked on the terminal"))
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "evil_module.py").write_text("from pathlib import Path\nPath('sentinel').touch()\n")
    yield tmp_path
    assert not list(tmp_path.rglob("sentinel"))


def refused(capsys, *argv: str) -> str:
    """The one line with which a command refuses."""
    assert main(argv) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if line.startswith("error: ")] == said[-1:]
    assert len(said) == 1, said
    assert "Traceback" not in said[0]
    return said[0]


def a_model(folder: Path, weights: bool = True, **config) -> Path:
    """A copy of the bundled model with other entries in its config."""
    shutil.copytree(MINI, folder, ignore=None if weights else shutil.ignore_patterns("*.safetensors"))
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


def an_adapter(folder: Path, weights: bool = True, **config) -> Path:
    """A run folder with an adapter for the bundled model."""
    inside = folder / "adapter"
    inside.mkdir(parents=True)
    (folder / "config.yaml").write_text("task: mini/sentiment\nmodel: mini\n")
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "mini", "r": 2, "lora_alpha": 2}
    (inside / "adapter_config.json").write_text(json.dumps({**usual, "target_modules": ["q_proj"], **config}))
    if weights:
        save_file({"x": torch.zeros(1)}, inside / "adapter_model.safetensors")
    return folder


AUTO_MAP = {"AutoConfig": "code.Evil", "AutoModelForCausalLM": "code.Evil", "AutoTokenizer": ["code.Evil", "code.Evil"]}
EVALUATE = ("evaluate", "--task", "mini/sentiment", "--limit", "2", "--out", "out")


@pytest.mark.parametrize("command", ["evaluate", "classify", "sft"])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("kind", ["pickle", "code"])
def test_a_model_folder_with_a_pickle_or_code(world, capsys, kind, weights, command):
    if kind == "pickle":
        folder = a_model(world / "model", weights=False)
        if weights:  # a pickle beside a name that looks like safetensors
            (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    else:
        folder = a_model(world / "model", weights, model_type="evil", auto_map=AUTO_MAP, architectures=["Evil"])
        (folder / "code.py").write_text("from pathlib import Path\nPath('sentinel').touch()\n")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    said = refused(capsys, command, *EVALUATE[1:], "--model", "model")
    if not weights:
        assert "no *.safetensors weights" in said
    elif kind == "code":
        assert "needs Python code that comes with it (auto_map), which is never run" in said
    assert not (world / "out").exists()


def test_code_beside_a_model_of_a_known_kind_is_left_alone(world, capsys):
    """Many models on the hub bring code that transformers has long taken over: they load, and the code is not run."""
    folder = a_model(world / "model", auto_map=AUTO_MAP)
    (folder / "code.py").write_text("from pathlib import Path\nPath('sentinel').touch()\n")
    assert main([*EVALUATE, "--model", "model"]) == 0


def test_a_tokenizer_with_code(world, capsys):
    folder = a_model(world / "model")
    file = folder / "tokenizer_config.json"
    config = {
        **json.loads(file.read_text()),
        "tokenizer_class": "Evil",
        "auto_map": {"AutoTokenizer": ["code.Evil"] * 2},
    }
    file.write_text(json.dumps(config))
    (folder / "code.py").write_text("from pathlib import Path\nPath('sentinel').touch()\n")
    code = main([*EVALUATE, "--model", "model"])  # the fast tokenizer of tokenizer.json is data, and may do
    said = capsys.readouterr().err
    assert code in (0, 2)
    assert code == 0 or "never run" in said
    (folder / "tokenizer.json").unlink()
    refused(capsys, *EVALUATE[:-1], "other", "--model", "model")


def test_a_model_folder_that_is_an_adapter(world, capsys):
    """transformers would load the base model that the adapter names, and take the adapter as its file says."""
    folder = a_model(world / "model")
    shutil.copytree(an_adapter(world / "run") / "adapter", folder, dirs_exist_ok=True)
    assert "adapter_config.json" in refused(capsys, *EVALUATE, "--model", "model")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"megatron_config": {"x": 1}, "megatron_core": "evil_module"}, "megatron_core names code"),
        ({"megatron_core": "evil_module"}, "megatron_core names code"),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil_module"}}, "auto_mapping names code"),
        ({"auto_mapping": "evil_module"}, "auto_mapping names code"),
        ({"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}}, "only LoRA is loaded"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "bomb.bin"}, "only LoRA"),
        ({"peft_type": "evil_module"}, "only LoRA is loaded"),
        ({"target_modules": {"a": 1}}, "cannot be loaded"),
        ({"r": "evil"}, "cannot be loaded"),
    ],
)
def test_an_adapter_that_names_code(world, capsys, changes, says):
    (world / "bomb.bin").write_bytes(pickle.dumps(Bomb()))
    an_adapter(world / "run", **changes)
    assert says in refused(capsys, "evaluate", "--adapter", "run", "--limit", "2", "--out", "out")
    refused(capsys, "predict", "run", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert "evil_module" not in sys.modules


def test_an_adapter_of_a_pickle_alone(world, capsys):
    an_adapter(world / "run", weights=False)
    (world / "run/adapter/adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    said = refused(capsys, "evaluate", "--adapter", "run", "--limit", "2")
    assert "only safetensors weights are loaded" in said
    (world / "run/adapter/adapter_model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(capsys, "evaluate", "--adapter", "run", "--limit", "2")
    for text in ("[1]", "{", '"x"', '{"base_model_name_or_path": ["a"]}', "[" * 5000):
        (world / "run/adapter/adapter_config.json").write_text(text)
        refused(capsys, "evaluate", "--adapter", "run", "--limit", "2")


APPLY = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [sentinel]]"
NAMED = "!!python/object/new:evil_module.X []"


@pytest.mark.parametrize("evil", [APPLY, NAMED, "!!python/name:evil_module.x", "!!python/module:evil_module", "!x y"])
@pytest.mark.parametrize(
    ("file", "text", "argv"),
    [
        ("sft.yaml", "task: mini/sentiment\nmodel: {}\n", ("sft", "sft.yaml")),
        ("own.yaml", TASK + "free: {}\n", ("check", "own.yaml")),
        ("own.yaml", TASK.replace("rows.csv", "{}"), ("sft", "--task", "own.yaml", "--model", "mini")),
        ("suite.yaml", "tasks: [mini/sentiment]\nmethods:\n  a: {}\n", ("suite", "suite.yaml", "--dry-run")),
        ("run/config.yaml", "task: {}\n", ("evaluate", "--adapter", "run")),
    ],
)
def test_a_yaml_file_that_asks_for_objects(world, capsys, file, text, argv, evil):
    an_adapter(world / "run")
    (world / file).write_text(text.replace("{}", evil))
    said = refused(capsys, *argv)
    assert "plain values are read only" in said
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("field", ["body.__class__", "body[0]", "body!r", "body:>99999999999", "0", "", "a.b[c]"])
def test_a_template_that_reaches_into_objects(world, capsys, field):
    (world / "own.yaml").write_text(TASK.replace("{body}", "{body} {" + field + "}"))
    assert "bare name in braces" in refused(capsys, "check", "own.yaml")


def test_a_reward_by_its_path(world, capsys):
    (world / "ppo.yaml").write_text("task: mini/sentiment\nmodel: mini\nreward: evil_module.reward\n")
    assert "no such reward" in refused(capsys, "ppo", "ppo.yaml", "--max-steps", "1", "--out", "out")
    assert "no such reward" in refused(capsys, "ppo", "ppo.yaml", "--reward", "evil_module:x", "--out", "out")
    assert "evil_module" not in sys.modules


# -- names that become paths -------------------------------------------------------------------------------------------

PATHS = [
    "..",
    "../x",
    "/tmp/x",
    "a/b",
    "a\\b",
    "-x",
    ".x",
    "x" * 300,
    "con",
    "NUL.txt",
    "a:b",
    "a*",
    "a\nb",
    "x.",
    "",
    " ",
]


@pytest.mark.parametrize("name", [*PATHS, "a\0b", "ä" * 60])
def test_names_that_leave_their_folder(world, capsys, name):
    assert names.problem(name)
    (world / "own.yaml").write_text(TASK + yaml.safe_dump({"name": name}))
    assert re.search("name: |YAML", refused(capsys, "check", "own.yaml"))
    (world / "s.yaml").write_text(yaml.safe_dump({"tasks": ["mini/sentiment"], "methods": {name: {"command": "sft"}}}))
    assert "methods" in refused(capsys, "suite", "s.yaml", "--dry-run")
    (world / "s.yaml").write_text(yaml.safe_dump({"tasks": [name], "methods": {"a": {"command": "sft"}}}))
    refused(capsys, "suite", "s.yaml", "--dry-run")
    assert {path.name for path in world.iterdir()} <= {"rows.csv", "task.yaml", "evil_module.py", "own.yaml", "s.yaml"}


def test_long_names_are_cut_and_stay_apart(world):
    settings = SftSettings(task=",".join(["mini/sentiment"] * 40), model="mini")
    run = Run.create("sft", settings)
    assert run.path.is_dir()
    assert len(run.path.name) < 130
    assert names.short("a" * 200) != names.short("a" * 201)
    assert names.short("usual") == "usual"
    assert len(names.short("é" * 90).encode()) <= names.LONGEST


@pytest.mark.parametrize("value", ["a\0b", "a\nb", "\x1b[31m"])
def test_settings_hold_no_control_characters(world, capsys, value):
    (world / "sft.yaml").write_text(yaml.safe_dump({"task": "mini/sentiment", "model": "mini", "out": value}))
    assert "control characters" in refused(capsys, "sft", "sft.yaml")
    assert "control characters" in refused(capsys, "sft", "--task", "mini/sentiment", "--model", value)


# -- what others' runs may put on the page -----------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "{% include 'x' %}",
    "javascript:alert(1)",
    "' onmouseover='x",
    "</table></body>",
    "<!--",
    "&lt;b&gt;",
    "[/red]",
    "<svg/onload=x>",
]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def a_run(folder: Path, bad: str = "fine", **result) -> Path:
    """A run folder in which every text that may be is `bad`."""
    folder.mkdir()
    metrics = {"metrics": {bad: 0.5}, "stderr": {bad: 0.1}, "unparsable": 0, "cut_rows": 0, "seconds": 1.0}
    entry = {"task": bad, "method": bad, "model": bad, "shots": 0, "decode": bad, "seed": 0, "n": 2, "split": bad}
    (folder / "results.json").write_text(json.dumps({"schema": 1, "results": [{**entry, **metrics, **result}]}))
    row = {"task": bad, "id": bad, "gold": bad, "prediction": bad + "x", "scores": {bad: -1.0}, "text": None}
    rows = [row, {**row, "text": bad}, {**row, "gold": bad + "x", "reasoning": bad}]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1 / (i + 1)}) + "\n" for i in range(3))
    )
    (folder / "command.txt").write_text(bad)
    (folder / "config.yaml").write_text(bad)
    return folder


@pytest.mark.parametrize("bad", HOSTILE)
def test_the_page_shows_hostile_texts_as_they_are(world, capsys, bad):
    safe, hostile, named = Page(), Page(), bad.replace("/", "_")
    a_run(world / "safe")
    a_run(world / named, bad)
    a_run(world / f"{named}2", bad, name=bad)
    for page, folders in ((safe, ["safe"]), (hostile, [named, f"{named}2"])):
        runs = collect([world / folder for folder in folders])
        write(runs, world / "page.html", differences(runs))
        page.feed((world / "page.html").read_text())
    assert hostile.tags <= safe.tags
    assert {name for name, _ in hostile.attributes} <= {name for name, _ in safe.attributes}
    assert bad in hostile.text
    assert "49" not in hostile.text or bad != "{{7*7}}"
    assert main(["report", *(f"./{folder}" for folder in (named, f"{named}2")), "--out", "page.html"]) == 0
    assert bad in capsys.readouterr().out.replace("\n", " ")


def test_the_page_asks_for_nothing_and_runs_nothing(world):
    a_run(world / "run")
    write(collect([world / "run"]), world / "page.html", [])
    page = Page()
    page.feed((world / "page.html").read_text())
    assert not page.tags & {"img", "iframe", "object", "embed", "link", "form", "base", "image"}
    (script,) = re.findall(r"<script>(.*?)</script>", (world / "page.html").read_text(), flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'", "base-uri 'none'"]
    assert policy == "; ".join([*rules, "form-action 'none'"])
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset")]
    links = [value for name, value in page.attributes if name.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import", (world / "page.html").read_text())


@pytest.mark.parametrize("model", ["a\n---\nlicense: evil\n---\n", "m: [x", "<b>`x`</b>", "a|b", "[x](javascript:y)"])
def test_a_model_card_keeps_its_form(world, model):
    from rl4nlu.card import write_card

    (world / "card").mkdir()
    (world / "card/command.txt").write_text("rl4nlu sft\n")
    settings = SftSettings.model_construct(**{**SftSettings().model_dump(), "model": model})
    entry = {"task": "own/x", "method": "sft", "template": "plain", "train_rows": 1, "steps": 1, "split": "dev", "n": 1}
    write_card(Run(world / "card"), settings, [{**entry, "metrics": {"f1": 0.1}, "stderr": {"f1": 0.1}}])
    _, head, body = re.split(r"^---$", (world / "card/README.md").read_text(), maxsplit=2, flags=re.MULTILINE)
    assert set(yaml.safe_load(head)) == {"library_name", "pipeline_tag", "tags", "model-index"}  # no name on the hub
    title = body.strip().splitlines()[0]
    assert title.startswith("# own/x by sft on ")
    assert not set("<`|[]") & set(title)


BAD_RESULTS = [
    b"\xff",
    b"[" * 100_000,
    b'{"schema": 1, "results": 5}',
    b'{"schema": 1, "results": [5]}',
    b'{"schema": 1, "results": [{"task": "glue/rte"}]}',
    b'{"schema": 1, "results": [{"task": ["x"], "split": "test"}]}',
    b'{"schema": ' + b"1" * 5000 + b"}",
    json.dumps({"schema": 1, "results": [{"task": "\ud800", "split": "test"}]}).encode(),
]
BAD_ROWS = [
    b"\xff",
    b"[" * 100_000,
    b"5",
    b"{}",
    b'{"task": "glue/wnli", "id": "0", "gold": "x", "prediction": 7}',
    b"{",
]


@pytest.mark.parametrize("bad", BAD_RESULTS)
def test_hostile_results(world, capsys, bad):
    a_run(world / "run")
    (world / "run/results.json").write_bytes(bad)
    refused(capsys, "report", "run", "--out", "x.html")
    refused(capsys, "submit", "run", "--out", "x.zip")
    assert not list(world.glob("x.*"))


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_hostile_predictions(world, capsys, bad):
    a_run(world / "run", task="glue/wnli", split="test")
    (world / "run/predictions.jsonl").write_bytes(bad)
    refused(capsys, "report", "run", "--out", "x.html")
    refused(capsys, "submit", "run", "--out", "x.zip")
    assert not list(world.glob("x.*"))


def test_a_zip_that_unpacks_without_end(world, capsys):
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("RTE.tsv", b"\0" * (10**8 + 1))
    assert "larger than any submission" in refused(capsys, "check", "bomb.zip")


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_redact():
    assert redact.redact(f"a {TOKEN} b") == "a *** b"
    assert redact.redact("see https://me:secret@host/x and http://k@h") == "see https://***@host/x and http://***@h"
    usual = "https://huggingface.co/a/b?c=d@e hf_hub hf_transfer me@example.org 3 @ 4"
    assert redact.redact(usual) == usual


def everything(folder: Path) -> str:
    return "".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("where", ["environment", "file"])
def test_tokens_are_nowhere(world, capsys, monkeypatch, where):
    """Neither the user's own token, whatever its form, nor one in a name."""
    own = "my-own-secret-token"
    if where == "environment":
        monkeypatch.setenv("HF_TOKEN", own)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        (world.parent / f"{world.name}-token").write_text(own + "\n")
        monkeypatch.setenv("HF_TOKEN_PATH", str(world.parent / f"{world.name}-token"))
    said = ""
    for model in (TOKEN, own, f"https://user:{own}@hub/model", f"nobody/{TOKEN}", "nobody/no-such-model"):
        for command in ("sft", "evaluate", "classify"):
            assert main([command, "--task", "mini/sentiment", "--model", model, "--limit", "2", "--out", "bad"]) == 2
    short = ("--task", "mini/sentiment", "--model", "mini", "--limit", "8")
    assert main(["evaluate", *short, "--out", "evaluated"]) == 0
    assert main(["sft", *short, "--max-steps", "1", "--eval-limit", "4", "--batch-size", "4", "--out", "trained"]) == 0
    said = "".join(capsys.readouterr())
    for secret in (own, TOKEN):
        assert secret not in said
        assert secret not in everything(world)
    assert not (world / "bad").exists()


def test_workers_logs_hold_no_token(world, monkeypatch):
    """What Python says, what C libraries say, a traceback, and the outcome."""
    from rl4nlu.suites import work as workers

    def fails(work):
        print(f"using {TOKEN[:9]}", end="")
        print(TOKEN[9:])
        os.write(2, f"from C: {TOKEN}\n".encode())
        raise RuntimeError(f"401 for {TOKEN}")

    monkeypatch.setattr(workers, "make_run", fails)
    settings = SftSettings(out=world / "run")
    outcome = workers.perform(workers.Work("a", "a", "a", "sft", settings, None, world / "log.txt"))
    assert outcome.error == "RuntimeError: 401 for ***"
    assert TOKEN not in everything(world)
    log = (world / "log.txt").read_text()
    assert "from C: ***" in log
    assert "Traceback" in log


def test_settings_refuse_a_token():
    from rl4nlu.config import validate

    with pytest.raises(UserError, match="model: an access token"):
        validate(SftSettings, {"model": f"nobody/{TOKEN}"})
