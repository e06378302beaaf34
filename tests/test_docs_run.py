"""Every command of the README and of docs/ is run, every example in Python too.

A page is run from top to bottom in a folder of its own. What its blocks show with a title (```yaml title="own.yaml")
is written there first. `DIR`, and what the hub would give, is a small made-up GLUE and SuperGLUE; models are tiny
random ones of the same class; `shorter` says how runs are shortened, GIVEN and BEFORE what a page takes for granted.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import models_zoo
import official_files
from doc_blocks import PAGES, ROOT, blocks, spans, words_of
from hub_standin import Standin, download, taken_for_the_hub
from rl4nlu import config
from rl4nlu.cli import COMMANDS, main
from rl4nlu.config import names
from rl4nlu.settings import COMMANDS as SETTINGS
from rl4nlu.settings import SuiteSettings

MODELS = {
    "mini": "llama",
    "minilm": "bert",
    "google-bert/bert-base-uncased": "bert",
    "google-bert/bert-large-uncased": "bert",
    "meta-llama/Llama-2-7b-hf": "llama",
    "meta-llama/Llama-2-7b-chat-hf": "llama",
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2",
    "models/my-llama": "llama",
}
"""Models that pages name -> the class of the tiny one in their place."""

RUN = ("rl4nlu", "hf")
"""Programs whose lines are run; of hf what the stand-in of the hub can do."""
LONG = {"docs/cli.md", "docs/results.md", "docs/howto/reproduce-the-paper.md", "docs/howto/run-a-suite.md"}
"""Pages that take more than a quarter of a minute, whose commands others have too."""
OTHERS = {
    "pip install .": "would change the environment that the tests run in",
    "python benchmarks/": "measures for minutes on the official files; that the script is there is checked",
    "python scripts/": "makes a page from the official files; that the script is there is checked",
    "accelerate launch": "starts processes of its own; tests/test_processes.py does",
    "torchrun ": "likewise",
    "lm_eval ": "another program",
    "tensorboard ": "another program, which waits for a browser",
    "sbatch ": "a batch system's",
    "exec rl4nlu ": "the last line of a batch script; that its words are right is seen where they stand alone",
    "ray start ": "a cluster's; tests/test_suite_ray.py has one",
    ".venv/bin/rl4nlu": "the program in the environment that make sets up",
}
"""How the lines of other programs begin -> why they are not run."""

TICKETS = "body,topic\n" + "".join(
    f"{words} {i},{topic}\n"
    for i in range(20)
    for words, topic in (("Charged twice", "billing"), ("Where is it", "delivery"), ("Thank you", "praise"))
)
OWN = "text,label\n" + "".join(f"text {i},{('billing', 'delivery')[i % 2]}\n" for i in range(40))
GIVEN: dict[str, dict[str, str]] = {
    "README.md": {
        "rows.jsonl": '{"sentence": "a fine film"}\n',
        "tickets.csv": TICKETS,
        "new.csv": "body\nWhere is my parcel?\n",
        "study.yaml": (ROOT / "configs" / "study.yaml").read_text(encoding="utf-8"),
    },
    "docs/sharing.md": {"rows.jsonl": '{"sentence": "a fine film"}\n'},
    "docs/cli.md": {
        "rows.jsonl": '{"sentence": "a fine film"}\n',
        "train.csv": OWN,
        "study.yaml": (ROOT / "configs" / "study.yaml").read_text(encoding="utf-8"),
    },
}
"""Page -> files that its reader has already."""
BEFORE = {
    "README.md": ["rl4nlu sft --task glue/rte --model mini --data DIR --out runs/rte-sft"],
    "docs/sharing.md": ["rl4nlu ppo --task glue/sst2 --model mini --data DIR --estimator rloo --out runs/sst2-ppo"],
    "docs/cli.md": [
        "rl4nlu evaluate --task mini/sentiment --model mini --out runs/a",
        "rl4nlu evaluate --task mini/sentiment --model mini --shots 2 --out runs/b",
        "rl4nlu evaluate --task glue/cola --model mini --data DIR --split test --out runs/cola-test",
        "rl4nlu evaluate --task glue/sst2 --model mini --data DIR --split test --out runs/sst2-test",
    ],
}
"""Page -> commands that its reader has given already."""

MOST = {
    "max_steps": 2,
    "batch_size": 4,
    "eval_limit": 8,
    "select_rows": 8,
    "inner_epochs": 2,
    "reason": 4,
    "answer_tokens": 8,
}
LONGEST_SUITE = 8
HUB_MODEL = "some-lab/small-llama"
"""A model that the stand-in of the hub has."""


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Where the made-up data and the tiny models are, and the demo's runs will be."""
    found = {kind: tmp_path_factory.mktemp(kind) for kind in set(MODELS.values())}
    for kind, folder in found.items():
        models_zoo.folder_of(kind, folder)
    return {
        **found,
        "DIR": official_files.make(tmp_path_factory.mktemp("official")),
        "demo": tmp_path_factory.mktemp("demo") / "runs",
    }


def shorter(settings: Any, places: dict[str, Path]) -> Any:
    """The one rule by which what pages run is shortened.

    Numbers are at most those of MOST; training reads 64 rows, evaluation asks 8 (of a test split all, since servers
    want it whole); suites of more runs than LONGEST_SUITE are planned and not carried out; models and rows that would
    be loaded from the hub are those of `places`. And the demo is run once for all pages (`run`).
    """
    kind, changes = type(settings).model_fields, {}
    for name, most in MOST.items():
        given = getattr(settings, name, None)
        if name in kind and (given is not None or name in ("max_steps", "eval_limit")):
            changes[name] = most if given is None else min(given, most)
    if "limit" in kind:
        most = 64 if "max_steps" in kind else 8
        changes["limit"] = None if settings.split == "test" else min(settings.limit or most, most)
    if ("data" in kind and "task" in kind) or isinstance(settings, SETTINGS["check"] | SuiteSettings):
        changes["data"] = settings.data or places["DIR"]
    if getattr(settings, "model", None) in MODELS:
        changes["model"] = str(places[MODELS[settings.model]])
    if isinstance(settings, SuiteSettings):
        runs = len(settings.tasks) * len(settings.methods) * len(settings.seeds) * max(1, len(settings.models))
        changes["ray"] = None  # tests/test_suite_ray.py has a real cluster
        changes["dry_run"] = settings.dry_run or runs > LONGEST_SUITE
    return settings.model_copy(update=changes)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub."""
    with taken_for_the_hub(monkeypatch) as server:
        server.make(HUB_MODEL)
        yield server


@pytest.fixture
def reader(tmp_path, monkeypatch, places) -> Path:
    """The folder of a reader at work, in which all is short."""
    folder = tmp_path / "work"
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "DIR").symlink_to(places["DIR"])
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(places["DIR"])
    monkeypatch.chdir(folder)
    vetted = config.vetted
    monkeypatch.setattr(config, "vetted", lambda settings: shorter(vetted(settings), places))
    return folder


def run(command: str, shown: dict[str, str], demo: Path) -> None:
    """A command line as a reader gives it; after `new` the file is filled in as the page shows it. The demo is copied
    from `demo` if it was run for another page before."""
    words = words_of(command)
    if words[1] == "push" and (Path(words[2]) / "adapter").is_dir() and "--merged" not in words:
        words += ["--base", HUB_MODEL]  # the run names a folder here, where the page's reader has a model of the hub
    if words[1:] == ["demo"] and demo.is_dir():
        shutil.copytree(demo, Path("runs") / "demo-1")
        return
    if words[1] == "new":
        Path(words[3]).unlink(missing_ok=True)
    try:
        code = main(words[1:])
    except SystemExit as left:  # --help
        code = left.code
    assert not code, f"exit code {code}"
    if words[1] == "new" and words[3] in shown:
        Path(words[3]).write_text(shown[words[3]], encoding="utf-8")
    if words[1:] == ["demo"]:
        shutil.copytree(Path("runs") / "demo-1", demo)


def fetch(hub: Standin, command: str, places: dict[str, Path]) -> None:
    """`hf download NAME --local-dir FOLDER`, from the stand-in; its base model is found on this machine."""
    _, _, name, _, folder = words_of(command)
    there = download(hub, Path(folder), name)
    for file in (there / "config.yaml", there / "adapter_config.json"):
        file.write_text(file.read_text(encoding="utf-8").replace(HUB_MODEL, str(places["llama"])), encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if name_of(page) in LONG else page for page in PAGES],
    ids=name_of,
)
def test_a_page_from_top_to_bottom(page, reader, places, hub, capsys):
    found = blocks(page)
    shown = {block.title: block.text for block in found if block.title}
    for name, text in {**GIVEN.get(name_of(page), {}), **shown}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    for command in BEFORE.get(name_of(page), []):
        run(command, {}, places["demo"])
    variables: dict[str, Any] = {"__name__": "__main__"}
    for block in found:
        steps = [(number, command) for number, command in block.commands if words_of(command)[0] in RUN]
        if block.language == "python" and not block.title:
            steps = [(block.line, "")]
        for number, command in steps:
            capsys.readouterr()
            try:
                if command.startswith("hf download"):
                    fetch(hub, command, places)
                elif command:
                    run(command, shown, places["demo"])
                else:
                    exec(compile("\n" * (number - 1) + block.text, str(page), "exec"), variables)
            except (Exception, SystemExit) as wrong:
                said = capsys.readouterr().err.strip() or f"{type(wrong).__name__}: {wrong}"
                pytest.fail(f"{name_of(page)}:{number}: {command or 'this Python'}\n{said}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_other_programs(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = ", project.split("[project.optional-dependencies]")[1].split("\n[")[0], re.MULTILINE)
    for block in blocks(page):
        for number, command in block.commands:
            where, words = f"{name_of(page)}:{number}", words_of(command)
            if words[0] == "make":
                assert words[1] in targets, f"{where}: the Makefile makes no {words[1]}"
            elif extra := re.fullmatch(r"pip install '(?:rl4nlu|\.)\[(\w+)\]'", command):
                assert extra[1] in extras, f"{where}: pyproject.toml has no extra {extra[1]}"
            elif words[0] not in RUN:
                assert any(map(command.startswith, OTHERS)), f"{where}: neither run nor in OTHERS: {command}"
                scripts = [word for word in words if word.endswith(".py")]
                assert all((ROOT / script).is_file() for script in scripts), f"{where}: no such script"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_flags_in_the_text_are_known(page):
    known = {flag: flags_of(kind) for flag, kind in SETTINGS.items()}
    everywhere = set().union(*known.values()) | {"--help", "--help-all", "--json", "--debug", "--version"}
    for span in spans(page):
        if span.startswith("rl4nlu "):
            command = span.split()[1]
            assert command in COMMANDS or command.isupper() or command.startswith("-"), span
        if span.startswith("rl4nlu ") or (span.startswith("--") and page.stem != "benchmarks"):  # scripts' own flags
            for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*", span):
                if "_" in flag:
                    continue  # a launcher's
                assert flag in everywhere, f"{name_of(page)}: no command knows {flag}: {span}"


def flags_of(kind: Any) -> set[str]:
    flat = [name.replace("_", "-") for name in names(kind)]
    return {f"--{name}" for name in flat} | {f"--no-{name}" for name in flat}


def test_no_command_hides_where_it_is_not_run():
    """In an indented block, or in a block of a language that the tests do not run."""
    for page in PAGES:
        hidden = re.findall(
            r"^(?: {4,}|\t)(?:rl4nlu|make|python) \S.*$", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert not hidden, f"{name_of(page)}: put this into a fenced block: {hidden[0].strip()}"
        for block in blocks(page):
            assert block.language in ("", "sh", "text", "python", "yaml", "csv", "json", "toml"), f"{page}:{block.line}"


def test_the_pages_are_found():
    assert {"README.md", "docs/index.md", "docs/tutorial.md", "docs/howto/python.md"} <= set(map(name_of, PAGES))
    assert sum(len(list(block.commands)) for page in PAGES for block in blocks(page)) > 150
