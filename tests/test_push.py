"""Pushing to a stand-in of the hub: exactly which files with which bytes arrive, that they work there, what never
leaves this machine, and that whatever goes wrong is one line and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
import yaml
from huggingface_hub import ModelCard, constants
from peft import PeftModel

from hub_standin import TOKEN, download, taken_for_the_hub
from rl4nlu.classifier import restore
from rl4nlu.cli import main
from rl4nlu.config import validate
from rl4nlu.methods import classify
from rl4nlu.models import load_policy
from rl4nlu.settings import ClassifySettings
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import find
from runs_zoo import train

REPO = "somebody/tickets"
TICKETS = 'train: tickets.csv\ntemplate: "{body}\\nAbout?"\nlabel: topic\nlabels: {billing: money, praise: thanks}\n'
BASE = "some-lab/small-llama"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Somebody's home folder, with a model, a task and a run in it."""
    place = tmp_path_factory.mktemp("home") / "ann-private"
    shutil.copytree(mini_folder(), place / "model")
    lines = [f"{('I paid twice', 'Well done')[i % 2]} {i},{('billing', 'praise')[i % 2]}" for i in range(60)]
    (place / "tickets.csv").write_text("\n".join(["body,topic", *lines]) + "\n")
    (place / "tickets.yaml").write_text(TICKETS)
    train(place / "model", place / "run", task=str(place / "tickets.yaml"), data=str(place), max_steps=2)
    return place


@pytest.fixture
def hub(home, monkeypatch):
    """The stand-in, which the client takes for the hub; nobody's settings of this machine count."""
    with taken_for_the_hub(monkeypatch) as server:
        monkeypatch.setenv("HOME", str(home))
        server.make(BASE)
        yield server


def push(home: Path, *args: str, repo: str = REPO) -> int:
    return main(["push", str(home / "run"), repo, "--base", BASE, *args])


def test_what_arrives_is_what_is_meant(home, hub, tmp_path, capsys):
    assert push(home, "--private") == 0
    repo = hub.repos[REPO]
    assert repo["private"]
    assert set(repo["files"]) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "command.txt",
        "config.yaml",
        "environment.json",
        "results.json",
        "rl4nlu.json",
        "tasks/tickets.yaml",
    }
    files = repo["files"]
    assert files["adapter_model.safetensors"] == (home / "run/adapter/adapter_model.safetensors").read_bytes()
    ours = json.loads((home / "run/adapter/adapter_config.json").read_text())
    assert json.loads(files["adapter_config.json"]) == {**ours, "base_model_name_or_path": BASE}
    before = yaml.safe_load((home / "run/config.yaml").read_text())
    places = {"data": None, "out": None, "task": "tickets.yaml", "model": BASE}
    assert yaml.safe_load(files["config.yaml"]) == {**before, **places}
    command = files["command.txt"].decode().split()
    assert command[:6] == ["rl4nlu", "sft", "--task", "tickets.yaml", "--model", BASE]
    assert yaml.safe_load(files["tasks/tickets.yaml"])["train"] == "tickets.csv"
    ours = json.loads((home / "run/environment.json").read_text())
    del ours["folder"], ours["tables"]  # where it was, and what the rows were
    assert json.loads(files["environment.json"]) == ours
    for path, content in files.items():
        if path.endswith(".safetensors"):  # a machine's name of two letters stands among the numbers by chance
            content = content[: 8 + int.from_bytes(content[:8], "little")]
        for private in (b"ann-private", str(home).encode(), os.uname().nodename.encode() + b'"', TOKEN.encode()):
            assert private not in content, (path, private)
    assert repo["title"] == "sft on tickets.yaml, by rl4nlu"
    card = ModelCard(files["README.md"].decode(), ignore_metadata_errors=False)
    assert (card.data.base_model, card.data.eval_results[0].dataset_name) == (BASE, "own/tickets")
    assert hashlib.sha256(files["README.md"]).hexdigest() == json.loads(files["rl4nlu.json"])["card"]
    said = capsys.readouterr().out
    assert f"is at {hub.url}/{REPO}" in said
    assert f'model = PeftModel.from_pretrained(base, "{REPO}")' in said
    assert hub.repos[REPO]["commits"] == 2, "one commit, and that of the new repository"


def test_it_loads_with_plain_peft_and_with_this_program(home, hub, tmp_path, capsys, monkeypatch):
    assert push(home) == 0
    there = download(hub, tmp_path / "there", REPO)
    base = tf.AutoModelForCausalLM.from_pretrained(home / "model", dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, there).eval()
    ours = load_policy(str(home / "model"), adapter=home / "run")
    ids = torch.tensor([[5, 80, 300, 7, 9]])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, ours.model(input_ids=ids).logits)
    monkeypatch.chdir(tmp_path)
    args = ["--adapter", "there", "--model", str(home / "model"), "--data", str(home), "--out", "again"]
    assert main(["evaluate", *args]) == 0
    again = json.loads((tmp_path / "again/results.json").read_text())["results"][0]
    assert again["metrics"] == json.loads((home / "run/results.json").read_text())["results"][0]["metrics"]


def test_plain_peft_reads_it_off_the_hub(home, hub, tmp_path):
    """With the client's own download, as the printed code does."""
    assert push(home) == 0
    code = (
        "import sys, transformers, peft\n"
        "base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "model = peft.PeftModel.from_pretrained(base, sys.argv[2])\n"
        "print(type(model).__name__, model.peft_config['default'].base_model_name_or_path)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(home / "model"), REPO], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["PeftModelForCausalLM", BASE], done.stderr


def test_the_whole_program_pushes(home, hub, tmp_path):
    """As a process of its own with nothing patched, and without torch being read."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    code = "import sys; from rl4nlu.cli import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", code, "push", str(home / "run"), REPO, "--base", BASE],
        env={**environment, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "adapter_model.safetensors" in hub.repos[REPO]["files"]


def test_a_merged_model(home, hub, tmp_path):
    assert main(["push", str(home / "run"), REPO, "--merged"]) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(
        hub.repos[REPO]["files"]
    )
    assert not [path for path in hub.repos[REPO]["files"] if "adapter" in path]
    assert not [path for path in (home / "run").iterdir() if path.name.startswith("merged")]
    there = download(hub, tmp_path / "there", REPO)
    plain = tf.AutoModelForCausalLM.from_pretrained(there).eval()
    assert plain.config.model_type == "llama"
    text = (there / "README.md").read_text()
    assert f'AutoModelForCausalLM.from_pretrained("{REPO}")' in text
    assert not [path for path, content in hub.repos[REPO]["files"].items() if b"ann-private" in content]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_classifier(tune, hub, tmp_path, capsys):
    values = {"task": "mini/question", "model": "mini", "tune": tune, "max_steps": 1, "batch_size": 4, "eval_limit": 8}
    run, _ = classify.classify(validate(ClassifySettings, {**values, "out": tmp_path / "run"}))
    more = [] if tune == "full" else ["--merged"]
    assert main(["push", str(run.path), REPO, *more]) == 0
    there = download(hub, tmp_path / "there", REPO)
    tf.pipeline("text-classification", str(there))("Where is it?")
    ours = restore(run.path, find("mini/question"), "cpu", "float32").model
    theirs = restore(there, find("mini/question"), "cpu", "float32").model
    ids = torch.tensor([[5, 80, 300, 7, 9]])
    with torch.no_grad():
        close = {"full": 0, "lora": 0.1}[tune]  # merged in bfloat16, as the bundled model is
        assert (ours(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max() <= close
    assert main(["evaluate", "--adapter", str(there), "--limit", "8", "--out", str(tmp_path / "again")]) == 0


def test_an_adapter_for_what_is_not_on_the_hub_is_refused(home, hub, tmp_path, capsys):
    run = train("mini", tmp_path / "run", max_steps=1)
    for path, what in ((run.path, "mini, which is bundled"), (home / "run", f"the folder {home}/model")):
        capsys.readouterr()
        assert main(["push", str(path), REPO]) == 2
        error = capsys.readouterr().err
        assert what in error
        assert "give --merged to send the whole model, or --base NAME" in error
    assert main(["push", str(run.path), REPO, "--base", "mini"]) == 2
    assert not hub.asked


@pytest.mark.parametrize("merged", [False, True])
def test_predictions_are_sent_if_asked_for(merged, home, hub):
    how = ["--merged"] if merged else ["--base", BASE]
    assert main(["push", str(home / "run"), REPO, "--predictions", *how]) == 0
    sent = hub.repos[REPO]["files"]["predictions.jsonl"]
    assert sent == (home / "run/predictions.jsonl").read_bytes()


def test_a_dry_run_tells_and_asks_nobody(home, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(home, "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"{(home / 'run/adapter/adapter_model.safetensors').stat().st_size:,} bytes" in said
    assert "tasks/tickets.yaml" in said
    assert "nothing was sent" in said
    assert not hub.asked


def test_the_base_models_licence_is_asked_of_the_hub(home, hub):
    hub.make(BASE, card={"license": "gemma"})
    assert push(home) == 0
    assert ModelCard(hub.repos[REPO]["files"]["README.md"].decode()).data.license == "gemma"


def test_a_base_model_that_the_hub_does_not_know(home, hub, capsys):
    del hub.repos[BASE]
    assert push(home) == 2
    assert f"the hub has no model {BASE}, which the adapter goes onto" in capsys.readouterr().err
    assert not hub.repos


def test_a_label_bias_goes_with_the_adapter(home, hub, tmp_path, capsys):
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run/label_bias.json").write_text(json.dumps({"own/tickets": [-1.0, -0.5]}))
    assert main(["push", str(tmp_path / "run"), REPO, "--base", BASE]) == 0
    there = download(hub, tmp_path / "there", REPO)
    policy = load_policy(str(home / "model"), adapter=there)
    assert policy.label_bias == {"own/tickets": [-1.0, -0.5]}
    capsys.readouterr()
    assert main(["push", str(tmp_path / "run"), REPO, "--merged"]) == 0
    assert "which no weight can hold" in " ".join(capsys.readouterr().err.split())
    assert b"no weight can hold that" in hub.repos[REPO]["files"]["README.md"]


def test_a_link_is_not_followed(home, hub, tmp_path, capsys):
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run/adapter/notes.txt").symlink_to(home / "tickets.csv")
    assert main(["push", str(tmp_path / "run"), REPO, "--base", BASE]) == 2
    assert "notes.txt is a link" in capsys.readouterr().err
    assert REPO not in hub.repos


# -- what is there already ---------------------------------------------------------------------------------------------


def test_the_same_again_changes_what_has_changed(home, hub):
    assert push(home, "--predictions") == 0
    hub.repos[REPO]["files"]["mine.txt"] = b"a file of the user's"
    before = dict(hub.repos[REPO]["files"])
    assert push(home) == 0
    after = hub.repos[REPO]["files"]
    assert set(before) - set(after) == {"predictions.jsonl"}, "what an earlier push sent and this one does not is gone"
    assert after["mine.txt"] == b"a file of the user's"
    assert after["README.md"] == before["README.md"]


def test_an_edited_card_is_not_written_over(home, hub, capsys):
    assert push(home) == 0
    hub.repos[REPO]["files"]["README.md"] += b"\nThanks to my colleagues!\n"
    before = dict(hub.repos[REPO]["files"])
    assert push(home) == 2
    assert "a README.md that was edited since: name another repository, or give --force" in capsys.readouterr().err
    assert hub.repos[REPO]["files"] == before
    assert push(home, "--force") == 0
    assert b"colleagues" not in hub.repos[REPO]["files"]["README.md"]


@pytest.mark.parametrize("name", ["README.md", "model.bin"])
def test_a_repository_of_others_is_left_alone(name, home, hub, capsys):
    hub.make(REPO, **{name: b"mine"})
    assert push(home) == 2
    assert f"holds files that rl4nlu did not put there ({name})" in capsys.readouterr().err
    assert hub.repos[REPO]["files"] == {".gitattributes": b"", name: b"mine"}
    assert push(home, "--force") == 0
    assert (hub.repos[REPO]["files"][name] == b"mine") == (name != "README.md")


def test_an_empty_repository_is_taken(home, hub):
    hub.make(REPO)
    assert push(home) == 0


def test_private_means_private(home, hub, capsys):
    hub.make(REPO)
    assert push(home, "--private") == 2
    assert "is there already, and public" in capsys.readouterr().err
    assert set(hub.repos[REPO]["files"]) == {".gitattributes"}


def test_a_manifest_of_others_is_not_believed_where_it_is_none(home, hub):
    for content in (b"[]", b"{", b'{"files": 5}', b'{"files": [[1]]}'):
        hub.repos.pop(REPO, None)
        hub.make(REPO, **{"rl4nlu.json": content})
        assert push(home) == 2


# -- what goes wrong ---------------------------------------------------------------------------------------------------

CREATE, PREUPLOAD, COMMIT = "repos/create", "preupload", "/commit/main"


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        (CREATE, 401, "the hub does not take your access token (401)"),
        (CREATE, 403, "your access token may not write there (403)"),
        (CREATE, 409, "which your access token may not see (409)"),
        (CREATE, 500, "the hub has trouble of its own (500): try again later; nothing was changed there"),
        ("GET /api/models/somebody", 500, "(500): try again later; nothing was changed there"),
        (PREUPLOAD, 403, "may not write there (403)"),
        ("objects/batch", 429, "too many requests (429)"),
        ("PUT /lfs", 403, "may not write there (403)"),
        (COMMIT, 412, "somebody else has changed it this very moment (412)"),
        (COMMIT, 500, "it is there and empty, and the same command goes on"),
        (COMMIT, 400, "the hub refused"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_half_of_nothing(where, status, said, home, hub, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries some again
    hub.fails[where] = status
    assert push(home) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert set(hub.repos.get(REPO, {"files": {".gitattributes"}})["files"]) == {".gitattributes"}
    hub.fails.clear()
    assert push(home) == 0


def test_an_unknown_token(home, hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "unknown" * 4)
    assert push(home) == 2
    error = capsys.readouterr().err
    assert "does not take your access token (401)" in error
    assert "hf_unknown" not in error
    assert REPO not in hub.repos


def test_nobody_is_logged_in(home, hub, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert push(home) == 2
    error = capsys.readouterr().err
    assert "no access token of the hub is at hand" in error
    assert "hf auth login" in error
    assert not hub.asked


def test_nobody_answers(home, hub, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert push(home) == 2
    assert "the hub cannot be reached" in capsys.readouterr().err


def test_offline_is_offline(home, hub, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(home) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_a_storage_that_fails_is_one_line(home, hub, capsys, monkeypatch):
    """hf_xet, which sends large files past the hub's own API, finds no storage behind the stand-in."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert push(home) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"error: {REPO}: ")
    assert "Traceback" not in error
    assert set(hub.repos[REPO]["files"]) == {".gitattributes"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tickets"], "is no name of a repository; give OWNER/NAME"),
        (["a/b/c"], "is no name of a repository"),
        ([REPO, "--base", "a b"], "no name on the hub"),
        ([REPO, "--base", BASE, "--merged"], "leave one of them out"),
        ([], "push needs the folder of a finished run, and OWNER/NAME"),
        ([REPO, "--privat"], "did you mean"),
    ],
)
def test_mistakes_are_told_at_once(args, said, home, hub, capsys):
    assert main(["push", str(home / "run"), *args]) == 2
    assert said in capsys.readouterr().err
    assert not hub.asked


def test_the_card_tells_how_to_get_it(home, hub):
    """Its commands name what is there; rows of the user's own are not, so it does not offer to evaluate on them."""
    assert push(home) == 0
    lines = hub.repos[REPO]["files"]["README.md"].decode().splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith(("hf ", "rl4nlu "))]
    assert commands[0] == ["hf", "download", REPO, "--local-dir", "tickets"]
    assert commands[1][:3] == ["rl4nlu", "predict", "tickets"]
    assert commands[2] == ["rl4nlu", "merge", "tickets", "--out", "tickets-merged"]


def test_a_home_folder_that_cannot_be_taken_out_stays_here(home, hub, tmp_path, capsys):
    """In the middle of a text nothing is changed."""
    shutil.copytree(home / "run", tmp_path / "run")
    with (tmp_path / "run/tasks/tickets.yaml").open("a") as file:
        file.write(f"instruction: As in {home}/notes.txt.\n")
    assert main(["push", str(tmp_path / "run"), REPO, "--base", BASE]) == 2
    assert f"tasks/tickets.yaml would tell others of {home}/ on this machine" in capsys.readouterr().err
    assert not [line for line in hub.asked if "POST" in line]
