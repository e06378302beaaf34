"""Loading: bounded memory, what does not fit is said, quantised weights."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers as tf

from models_zoo import folder_of
from rl4nlu import loading, merge, room
from rl4nlu.cli import main
from rl4nlu.errors import UserError
from rl4nlu.forward import score
from rl4nlu.models import load_policy
from rl4nlu.settings import LoraSettings
from rl4nlu.sources import mini_folder
from rl4nlu.tokens import micro_batches
from runs_zoo import train

CPU, GPU = torch.device("cpu"), torch.device("cuda")
QUANTISED = ["4bit", "8bit"]

# -- memory ------------------------------------------------------------------------------------------------------------

LOAD = """
import sys, torch, transformers.models.llama.modeling_llama
from rl4nlu.loading import load_base
def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))
load_base(sys.argv[2], torch.bfloat16)  # what loading itself takes at first
for dtype in (torch.bfloat16, torch.float32):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
    before = status("VmRSS")
    model, _ = load_base(sys.argv[1], dtype)
    peak = status("VmHWM") - before
    print(peak, sum(float(weight.detach().double().sum()) for weight in model.parameters()))
    del model
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """214 MB of bfloat16 in 9 files; the sum of the weights, and the largest of them, in numbers."""
    folder = tmp_path_factory.mktemp("sharded")
    size = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 7, "num_attention_heads": 8}
    torch.manual_seed(0)
    config = tf.LlamaConfig(vocab_size=8192, **size)
    model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="30MB")
    tf.AutoTokenizer.from_pretrained(mini_folder()).save_pretrained(folder)
    weights = list(model.parameters())
    total = sum(float(weight.detach().double().sum()) for weight in weights)
    return folder, sum(map(torch.numel, weights)), max(map(torch.numel, weights)), total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_host_needs_the_weights_and_little_besides(sharded):
    """By the peak of the process. Reading takes one part of a file at a time, and a tensor in each of four threads."""
    folder, numbers, largest, total = sharded
    command = [sys.executable, "-c", LOAD, str(folder), str(mini_folder())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for size, line in zip((2, 4), done.stdout.splitlines(), strict=True):
        peak, found = map(float, line.split())
        print(f"{peak / 1e6:.0f} MB for {numbers * size / 1e6:.0f} MB of weights of {size} bytes")
        assert found == total, "other weights than in the files"
        # with all files mapped to the end it would be 213 MB more, of float32
        assert peak < numbers * size + loading.PART + 4 * largest * 2 + 10e6


def test_free_memory_is_the_least_of_machine_and_groups(tmp_path, monkeypatch):
    def put(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    monkeypatch.setattr(room, "SYSTEM", tmp_path)
    assert room.free_memory(CPU) is None
    put("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert room.free_memory(CPU) == 8_192_000
    put("proc/self/cgroup", "0::/job/step\n")
    put("sys/fs/cgroup/job/step/memory.max", "max\n")
    put("sys/fs/cgroup/job/step/memory.current", "100\n")
    put("sys/fs/cgroup/job/memory.max", "5000000\n")
    put("sys/fs/cgroup/job/memory.current", "3000000\n")
    put("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 1000000\n")
    assert room.free_memory(CPU) == 3_000_000
    put("proc/self/cgroup", "1:name=systemd:/x\n4:cpu,memory:/a\n0::/none\n")
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "700000\n")
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "200000\n")
    put("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 50000\n")
    assert room.free_memory(CPU) == 550_000


# -- what does not fit -------------------------------------------------------------------------------------------------

MINI = 8192 * 256 + 6 * (4 * 256 * 256 + 3 * 256 * 704 + 2 * 256) + 256  # tied weights are there once
LINEAR = 6 * (4 * 256 * 256 + 3 * 256 * 704)


def refusal(monkeypatch, free, place=CPU, dtype=torch.float32, quantize="none", kind=tf.AutoModelForCausalLM):
    monkeypatch.setattr(loading, "free_memory", lambda place: free)
    try:
        loading.check_fits("mini", str(mini_folder()), kind, dtype, place, quantize)
    except UserError as wrong:
        return str(wrong)
    return ""


def test_what_does_not_fit_is_said_with_what_would(monkeypatch):
    assert refusal(monkeypatch, MINI * 4) == ""
    assert refusal(monkeypatch, None) == ""
    assert refusal(monkeypatch, MINI * 4 - 1) == (
        "--model mini: its weights take 28 MB (float32) and 28 MB of memory are free; "
        "give --dtype bfloat16 (14 MB), or a smaller model"
    )
    assert refusal(monkeypatch, MINI, dtype=torch.bfloat16).endswith(
        "and 7 MB of memory are free; give a smaller model"
    )


def test_on_a_gpu_fewer_bits_and_several_gpus_are_ways_too(monkeypatch):
    by_hand = {
        "8bit": (MINI - LINEAR) * 2 + LINEAR + 4 * 6 * (4 * 256 + 3 * 704),  # a scale for each output
        "4bit": (MINI - LINEAR) * 2 + LINEAR / 2 + LINEAR / 64 + 4 * LINEAR / 64 / 256,
    }
    model = loading.without_weights(tf.AutoModelForCausalLM, str(mini_folder()), torch.bfloat16)
    for how, size in by_hand.items():
        assert loading.size_of(model, torch.bfloat16, how) == pytest.approx(size, rel=2e-3)
    free = int(by_hand["8bit"] * 1.01)
    said = refusal(monkeypatch, free, GPU)
    assert said.endswith(
        "of memory of cuda are free; give --quantize 8bit --dtype bfloat16 (9 MB), 4 GPUs that share it "
        "(accelerate launch --use_fsdp --fsdp_version 2 --num_processes 4 ...), or a smaller model"
    )
    said = refusal(monkeypatch, int(by_hand["4bit"] * 1.01), GPU, torch.bfloat16, "8bit")
    assert said.endswith("give --quantize 4bit --dtype bfloat16 (7 MB), or a smaller model")
    assert refusal(monkeypatch, int(by_hand["4bit"] * 1.01), GPU, torch.bfloat16, "4bit") == ""


@pytest.mark.parametrize("command", ["evaluate", "classify"])
def test_the_command_says_it_in_one_line_and_reads_no_weight(command, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "free_memory", lambda place: 1000)
    monkeypatch.setattr(loading, "read_weights", None)
    monkeypatch.chdir(tmp_path)
    assert main([command, "--task", "mini/question", "--model", str(tiny_model), "--limit", "8"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "its weights take" in said


def test_a_device_that_is_asked_for_gets_the_weights_itself():
    """With a map of devices, as on a GPU; the same numbers."""
    model = loading.read_weights(tf.AutoModelForCausalLM, str(mini_folder()), torch.float32, torch.device("cpu", 0))
    plain = tf.AutoModelForCausalLM.from_pretrained(mini_folder(), dtype=torch.float32)
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other), name


# -- quantised weights -------------------------------------------------------------------------------------------------


def test_without_bitsandbytes_it_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rl4nlu.sources.importlib.util", SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.chdir(tmp_path)
    assert main(["sft", "--task", "mini/question", "--model", "mini", "--quantize", "4bit"]) == 2
    assert capsys.readouterr().err == "error: --quantize 4bit needs bitsandbytes: pip install 'rl4nlu[quantize]'\n"


def test_where_it_cannot_be_it_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(loading, "check_quantiser", lambda quantize: None)
    with pytest.raises(UserError, match="bitsandbytes cannot work on mps"):
        loading.check_quantised("mini", "8bit", torch.device("mps"))
    monkeypatch.chdir(tmp_path)
    wrong = ["classify", "--task", "mini/question", "--model", "mini", "--quantize", "4bit", "--tune", "full"]
    assert main(wrong) == 2
    assert "weights that are trained stay whole; add --tune lora" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bits():
    return pytest.importorskip("bitsandbytes")


def written(policy):
    """The same numbers as a model without bitsandbytes."""
    return loading.written_out(policy, torch.float32).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mpt", "gpt2"])
@pytest.mark.parametrize("how", QUANTISED)
def test_quantised_models_say_what_their_weights_stand_for(how, kind, tmp_path, bits):
    folder = folder_of(kind, tmp_path)
    policy = load_policy(str(folder), "cpu", lora=LoraSettings(), quantize=how)
    names = {type(module).__name__ for module in policy.model.modules()}
    assert ("Linear4bit" if how == "4bit" else "Linear8bitLt") in names
    assert type(policy.model.get_output_embeddings()) is torch.nn.Linear
    assert policy.shared, "rows that share a beginning would be read one by one"
    base, _ = loading.load_base(str(folder), torch.float32, CPU, how)
    meta = loading.without_weights(tf.AutoModelForCausalLM, str(folder), torch.float32)
    rows = [([5, 9, 11, 30, *range(i, i + 7)], [[40, 41], [50]]) for i in range(12, 15)]
    batch = next(micro_batches(rows, 10_000, 0))
    found = score(policy.model, batch, policy.shared)
    plain = score(written(base), batch, shared=False)
    # eight bits round the activations too
    assert (found.logp_BKA - plain.logp_BKA).abs().max() < (1e-4 if how == "4bit" else 0.05)
    found.logp_BKA.sum().backward()
    lora = [w.grad for name, w in policy.model.named_parameters() if "lora_B" in name]
    assert lora
    assert all(bool(grad.abs().sum() > 0) for grad in lora)
    assert all(not w.requires_grad for name, w in policy.model.named_parameters() if "lora" not in name)
    kept = loading.size_of(meta, torch.float32, how)
    taken = sum(w.numel() * w.element_size() for name, w in policy.model.named_parameters() if "lora" not in name)
    assert 0 <= kept - taken < 0.2 * kept, "scales are all that is beside the weights"


@pytest.mark.parametrize("how", QUANTISED)
def test_a_run_on_quantised_weights(how, tmp_path, bits, monkeypatch, capsys):
    """Trained, gone on with by PPO whose reference is the adapter switched off, evaluated, merged, pushed on."""
    model = tmp_path / "model"
    model.mkdir()
    folder_of("gpt2", model)
    run = train(model, tmp_path / "run", quantize=how)
    again = load_policy(str(model), "cpu", adapter=run.path, quantize=how)
    ids = torch.randint(90, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = again.model(input_ids=ids).logits.log_softmax(-1)
        with again.as_reference():
            before = again.model(input_ids=ids).logits.log_softmax(-1)
    assert (ours - before).abs().max() > 0.01, "an adapter that changes nothing proves nothing"
    monkeypatch.chdir(tmp_path)
    short = ["--limit", "16", "--max-steps", "1", "--batch-size", "4", "--select-rows", "0", "--eval-limit", "4"]
    assert main(["ppo", "--task", "mini/question", "--init", "run", "--out", "ppo", *short]) == 0
    assert f"quantize: {how}" in (tmp_path / "ppo/config.yaml").read_text()
    assert f'"quantize": "{how}"' in (tmp_path / "ppo/identity.json").read_text()
    assert json.loads((tmp_path / "ppo/metrics.jsonl").read_text().splitlines()[0])["kl"] == 0
    assert main(["evaluate", "--adapter", "run", "--limit", "4", "--out", "evaluated"]) == 0
    assert f"quantize: {how}" in (tmp_path / "evaluated/config.yaml").read_text()
    capsys.readouterr()
    made = merge.merge(run.path, tmp_path / "merged")
    assert f"trained on weights of {how}" in " ".join(merge.notes(made))
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert not getattr(plain.config, "quantization_config", None)
    with torch.no_grad():
        found = plain(input_ids=ids).logits.log_softmax(-1)
    assert (found - ours).abs().max() < (1e-4 if how == "4bit" else 0.05)


def test_a_classifier_on_quantised_weights(tmp_path, bits, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    folder_of("qwen2", tmp_path / "model")
    (tmp_path / "bert").mkdir()
    folder_of("bert", tmp_path / "bert")
    short = ["--task", "mini/question", "--limit", "16", "--max-steps", "1", "--eval-limit", "4", "--quantize", "4bit"]
    assert main(["classify", "--model", "model", "--out", "run", *short]) == 0
    assert main(["evaluate", "--adapter", "run", "--limit", "4", "--out", "evaluated"]) == 0
    assert main(["merge", "run", "--out", "merged", "--dtype", "float32"]) == 0
    assert main(["evaluate", "--adapter", "merged", "--limit", "4", "--out", "whole-evaluated"]) == 0
    assert main(["classify", "--model", "bert", "--out", "bert-run", "--tune", "lora", *short]) == 0
    capsys.readouterr()
    assert main(["classify", "--model", "bert", "--out", "whole", *short]) == 2
    assert "all weights of bert are trained, and stay whole; add --tune lora" in capsys.readouterr().err
