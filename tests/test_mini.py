"""scripts/mini.py, which holds two small models against each other, and the blocks it writes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl4nlu.errors import Halted, UserError
from runs_made import result


@pytest.fixture(scope="module")
def mini():
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    try:
        import mini

        yield mini
    finally:
        sys.path.pop(0)


def test_bits_of_a_model_that_knows_nothing(mini, tiny_model, tmp_path, monkeypatch):
    """Log2 of its vocabulary for each token that is counted, over the bytes of these; é has two."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["The café was closed.", "Nobody came; 🙂 so what?"]
    tokens = [tokenizer(text).input_ids for text in texts]
    bytes_behind = [
        len(text.encode()) - len(tokenizer.decode(ids[:1]).encode()) for text, ids in zip(texts, tokens, strict=True)
    ]
    expected = math.log2(model.config.vocab_size) * sum(len(ids) - 1 for ids in tokens) / sum(bytes_behind)
    assert mini.bits_per_byte(tmp_path, texts) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(mini, "LEAD", 6)
    behind = [" was closed.", " came; 🙂 so what?"]  # from the first blank behind six characters on
    assert [text.encode()[mini.begin(text) :].decode() for text in texts] == behind
    counts = [len(tokenizer(text).input_ids) for text in behind]
    expected = math.log2(model.config.vocab_size) * sum(counts) / sum(len(text.encode()) for text in behind)
    assert mini.bits_per_byte(tmp_path, texts) == pytest.approx(expected, rel=1e-5)


def test_bits_are_not_made_up_for_other_tokenizers(mini, tiny_model, tmp_path, monkeypatch):
    real = AutoTokenizer.from_pretrained(tiny_model)
    monkeypatch.setattr(type(real), "convert_ids_to_tokens", lambda self, ids: ["x"] * len(ids))
    with pytest.raises(UserError, match="its tokenizer is not a byte-level BPE"):
        mini.bits_per_byte(tiny_model, ["Some text."])


def test_pieces_are_spread_over_the_text(mini):
    text = "".join(chr(97 + i % 26) * mini.CHUNK for i in range(3 * mini.CHUNKS))
    parts = mini.chunks(text)
    assert len(parts) == mini.CHUNKS
    assert [part[0] for part in parts[:3]] == ["a", "d", "g"]
    assert mini.chunks("short\fer") == ["short\ner"]


def folder(path: Path, results: list[dict]) -> None:
    path.mkdir(parents=True)
    (path / "results.json").write_text(json.dumps({"schema": 1, "results": results}))


def test_the_share_of_answers_without_a_label(mini, tmp_path):
    for template, count in (("plain", 3), ("verdict", 0)):
        folder(
            tmp_path / f"now-{template}",
            [result(task="glue/rte", n=250, unparsable=count), result(task="superglue/cb", n=56, unparsable=0)],
        )
    lines = mini.unparsable({"now": "mini"}, tmp_path)
    assert lines[2:5] == [
        "| glue/rte | 1.2 | 0.0 |",
        "| superglue/cb | 0.0 | 0.0 |",
        "| the worst | 1.2 | 0.0 |",
    ]
    missing = lines[-1].removeprefix("Without rows here: ").removesuffix(".").split(", ")
    assert {"glue/sst2", "superglue/rte"} < set(missing)
    assert not {"glue/rte", "superglue/cb"} & set(missing)


def test_runs_of_other_weights_are_not_taken_for_these(mini, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    models = {"before": str(tmp_path / "a"), "now": str(tmp_path / "b")}
    mini.check_weights(models, tmp_path / "runs")
    mini.check_weights(models, tmp_path / "runs")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"new")
    with pytest.raises(UserError, match="are of other weights"):
        mini.check_weights(models, tmp_path / "runs")


def test_a_run_that_fails_ends_the_comparison(mini, tmp_path, monkeypatch):
    """What is finished is not run again, what is stopped goes on."""
    done = []
    monkeypatch.setattr(mini, "status_of", lambda at: {"a-plain": "finished", "a-verdict": "stopped"}.get(at.name, ""))
    code = {"resume": 0, "suite": 3}
    monkeypatch.setattr(
        mini.subprocess,
        "run",
        lambda words, check: done.append(words[3:]) or mini.subprocess.CompletedProcess(words, code[words[3]]),
    )
    with pytest.raises(Halted, match=r"ended with code 3; run this command again$"):
        mini.run_all({"a": "mini"}, tmp_path, tmp_path)
    assert done == [
        ["resume", str(tmp_path / "a-verdict")],
        ["suite", str(tmp_path / "sft.yaml"), "--out", str(tmp_path / "sft"), "--jobs", "2"],
    ]
    code["suite"] = 2
    with pytest.raises(Halted, match=r"ended with code 2$"):
        mini.run_all({"a": "mini"}, tmp_path, tmp_path)


def test_a_block_is_replaced_between_its_marks(mini, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n")
    mini.replace_block(page, "x", "make x", ["one"])
    page.write_text(page.read_text() + "behind\n")
    mini.replace_block(page, "x", "make x", ["two", "three"])
    whole = "before\n\n<!-- x: made by `make x` -->\n\ntwo\nthree\n\n<!-- end of x -->\nbehind\n"
    assert page.read_text() == whole
    page.write_text(whole.replace("<!-- end of x -->", ""))
    with pytest.raises(UserError, match=r"the block 'x' has no end"):
        mini.replace_block(page, "x", "make x", ["four"])
    assert "two" in page.read_text()
