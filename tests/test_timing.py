"""The time of a run: its work against torch's own counter and cases worked by hand, what it grows with, its parts."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config

from rl4nlu.config import validate
from rl4nlu.forward import score
from rl4nlu.models import quiet_peft
from rl4nlu.settings import ClassifySettings, EvaluateSettings, LoraSettings, PpoSettings, SftSettings
from rl4nlu.timing import Estimate, Plan, Sizes, Work, estimate, of_gpu, run_seconds, sizes_of
from rl4nlu.timing.methods import Counter, Row
from rl4nlu.timing.probe import probe
from rl4nlu.timing.sizes import of_config
from rl4nlu.timing.work import decoding, pass_of, passes, reading

ROOT = Path(__file__).resolve().parents[1]
SMALL = LlamaConfig(
    vocab_size=500,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)
QWEN = Qwen2Config(
    vocab_size=500,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    use_sliding_window=False,
)
HAND = Sizes(2, 100, 20, 8, 8, 8, 16, 50, 300, wanted_only=True)
"""Two layers of 100 numbers, 20 of them of keys and values; width 8, 50 words."""


def made_up(count: int, shared: int = 20, own: int = 10, answers: int = 2) -> list[Row]:
    head = tuple(range(100, 100 + shared))
    return [
        Row((*head, *range(200 + i * own, 200 + (i + 1) * own)), tuple((k, 5, 6) for k in range(answers)))
        for i in range(count)
    ]


def test_sizes_are_those_of_the_real_model():
    """Counted on a model with weights."""
    model = LlamaForCausalLM(SMALL)
    with quiet_peft():
        adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    found = of_config(SMALL, LoraSettings())
    lora = [p for name, p in adapted.named_parameters() if "lora_" in name]
    assert found.adapter == sum(p.numel() for p in lora)
    assert found.tensors == len(lora)
    assert found.weights == sum(p.numel() for p in adapted.parameters()) - found.adapter
    assert (found.layers, found.vocabulary, found.kept, found.keys) == (4, 500, 2 * 2 * 16, 64 * 64)
    assert found.layer == 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160
    only_two = of_config(SMALL, LoraSettings(r=8, target="q_proj,v_proj"))
    assert only_two.adapter == 4 * 8 * ((64 + 64) + (64 + 32))
    assert sizes_of("mini").weights == 6_917_376  # as its card says


def test_a_pass_worked_by_hand():
    """Two rows of 20 tokens that they share and 10 of their own, labels of one token that tells them apart."""
    (batch,) = passes([(row.ids, ((1,), (2,))) for row in made_up(2)], 1000)
    one = pass_of(batch)
    assert (one.tokens, one.wanted, one.rows) == (40, 2, 2)
    # the beginning sees itself, each row the beginning and itself; every block in full
    assert one.seen == 20 * 20 + 2 * 10 * (20 + 10)
    work = reading(HAND, one)
    # of the last layer 80 numbers are there for the two wanted tokens alone
    assert work.forward == 2 * (2 * 100 * 40 - 80 * 38)
    assert work.vocabulary == 2 * 2 * 8 * 50
    assert reading(HAND, one, back=True).backward == work.forward  # frozen weights are gone through once more
    whole = reading(replace(HAND, whole=True), one, back=True)
    assert whole.backward == 2 * whole.forward  # trained ones twice
    alone = pass_of(batch, shared=False)
    assert (alone.tokens, alone.wanted) == (2 * 2 * 31, 4)
    grown = decoding(HAND, batch, 3, 5)  # 3 answers to 2 rows, the first token of 5 comes with the prompts
    assert grown.texts == 2 * 3 * 5
    assert grown.decode_calls == 2 * 4
    assert grown.decoded == 2 * 6 * 4 * 200 + 4 * 8 * 2 * 32.5 * 6 * 4


@pytest.mark.parametrize("config", [SMALL, QWEN], ids=["llama", "qwen2"])
def test_operations_are_those_that_torch_counts(config):
    """On the real forward pass, with attention as plain products so that the counter sees it."""
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    rows = [(row.ids, ((1,), (2,))) for row in made_up(6, shared=40, own=25)]
    (batch,) = passes(rows, 10_000)
    sizes, one = of_config(config), pass_of(batch)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted, torch.no_grad():
        score(model, batch, True, closed=True)
    work = reading(sizes, one, words=False)
    assert work.forward + work.attention == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_operations_on_the_way_back_are_those_that_torch_counts():
    with quiet_peft():
        model = get_peft_model(
            LlamaForCausalLM(SMALL), LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    (batch,) = passes([(row.ids, ((1,), (2,))) for row in made_up(6, shared=40, own=25)], 10_000)
    sizes, one = of_config(SMALL, LoraSettings()), pass_of(batch)
    with FlopCounterMode(display=False) as counted:
        score(model, batch, True, closed=True).logp_BKA.sum().backward()
    seen = counted.get_flop_counts()["Global"]
    products = sum(flop for kind, flop in seen.items() if "mm" in str(kind))
    work = reading(sizes, one, back=True, words=False)
    # below the first layer nothing has a gradient: torch leaves a few products out
    assert products == pytest.approx(work.forward + work.backward, rel=0.06)
    assert products <= work.forward + work.backward


PPO = {"task": "mini/question", "model": "mini", "batch_size": 8}


@pytest.mark.parametrize(
    "settings",
    [
        validate(SftSettings, PPO),
        validate(PpoSettings, PPO),
        validate(PpoSettings, {**PPO, "estimator": "expected"}),
        validate(PpoSettings, {**PPO, "estimator": "rloo", "minibatch": 4}),
        validate(PpoSettings, {**PPO, "reason": 16}),
        validate(PpoSettings, {**PPO, "oversample": 2, "sft_coef": 0.5}),
    ],
    ids=["sft", "gae", "expected", "minibatches", "reason", "oversample"],
)
def test_a_step_grows_with_rows_tokens_and_the_model(settings):
    machine, sizes = of_gpu("A100-80"), sizes_of("mini", LoraSettings())
    counter = Counter(sizes, 4096)

    def seconds(counter: Counter, rows: list[Row]) -> float:
        return machine.seconds(counter.step(rows, settings))

    usual = seconds(counter, made_up(8))
    assert 0 < usual < seconds(counter, made_up(16))
    assert usual < seconds(counter, made_up(8, own=40))
    assert usual < seconds(replace(counter, sizes=replace(sizes, layers=12)), made_up(8))
    assert usual < seconds(replace(counter, sizes=replace(sizes, layer=4 * sizes.layer)), made_up(8))
    assert usual < seconds(replace(counter, max_tokens=16), made_up(8))  # every row alone
    assert counter.step(made_up(16), settings).flop > 1.5 * counter.step(made_up(8), settings).flop


def test_a_policy_that_has_learnt_to_end_writes_less():
    counter, settings = Counter(HAND, 4096), validate(PpoSettings, {**PPO, "answers": 2})
    taught, untaught = (replace(counter, taught=t).step(made_up(4), settings) for t in (True, False))
    assert taught.texts == 4 * 2 * 3  # the longest label
    assert untaught.texts == 4 * 2 * 7  # and the four tokens of room
    longer = settings.model_copy(update={"answer_tokens": 32})
    assert replace(counter, taught=False).step(made_up(4), longer).texts == 4 * 2 * 32


def test_inner_epochs_and_passes_add_up():
    """By hand: rows in several micro-batches are read for the reference, for the old log-probabilities, and in every
    inner epoch; in one micro-batch the old ones come with the first epoch."""
    settings = validate(PpoSettings, {**PPO, "estimator": "expected", "inner_epochs": 3})
    apart = Counter(HAND, 16).step(made_up(4), settings)
    assert apart.calls == 2 * 4 * (1 + 1 + 3)
    assert apart.back_calls == 2 * 4 * 3
    assert apart.tensors == 0  # made-up sizes have none
    together = Counter(HAND, 4096).step(made_up(4), settings)
    assert together.calls == 2 * (1 + 3)
    sft = Counter(HAND, 16).step(made_up(4), validate(SftSettings, PPO))
    assert (sft.calls, sft.back_calls) == (2 * 4, 2 * 4)


def test_processes_share_the_work():
    settings = validate(SftSettings, {**PPO, "optimizer": "adamw"})
    sizes = sizes_of("mini", LoraSettings())
    one, two = (Counter(sizes, 4096, processes=n).step(made_up(32, shared=0), settings) for n in (1, 2))
    assert two.forward == pytest.approx(one.forward / 2, rel=0.01)
    assert (two.messages, two.reduced) == (1, 4 * sizes.adapter)  # 2 (n - 1) / n of the gradients
    assert (one.messages, one.reduced) == (0, 0)
    machine = replace(of_gpu("H100"), call=0, back_call=0, batch=0, row=0, tensor=0, latency=0, link=1e30)
    without = replace(two, updated=0), replace(one, updated=0)
    assert machine.seconds(without[0], 2) == pytest.approx(machine.seconds(without[1]) / 2, rel=0.01)
    on_one_processor = replace(machine, cores_shared=True)
    assert on_one_processor.seconds(without[0], 2) == pytest.approx(machine.seconds(without[1]), rel=0.01)


def test_shared_weights_are_fetched_in_every_pass():
    counter = Counter(replace(HAND, bytes=2), 4096, processes=4, sharded=True)
    work = counter.step(made_up(8), validate(SftSettings, PPO))
    assert work.gathered == 2 * (2 * 100 * 2) * 3 / 4  # there and back: both layers, three quarters from elsewhere
    machine = replace(of_gpu("H100"), link=1.0, latency=0.0)
    assert machine.seconds(work, 4) == pytest.approx(work.gathered + work.reduced)  # the link is slower than all work
    assert replace(counter, processes=1).step(made_up(8), validate(SftSettings, PPO)).gathered == 0


def test_work_adds_up_and_multiplies():
    one = Work(**{field.name: float(i + 1) for i, field in enumerate(fields(Work))})
    assert one + one == one * 2
    assert one + one * -1 == Work()


def test_parts_of_an_estimate():
    plan = Plan(HAND, 7, Work(forward=1e15), Work(forward=2e15), Work(forward=3e15), 10)
    machine = replace(of_gpu("H100"), start=5.0, disk=1e30, forward=1e14)
    found = plan.on(machine)
    assert found.training == pytest.approx(10 * 1.01)
    assert (found.held, found.evaluation) == (pytest.approx(20), pytest.approx(30))
    assert found.total == found.start + found.training + found.held + found.evaluation
    shown = Estimate(5.0, 7300.0, 20.0, 0.0, 1200, "a machine")
    assert str(shown) == "time on a machine: about 2.0 h (5.0 s to start, 2.0 h for 1,200 steps, 20 s held-out rows)"


COMMANDS = [
    ("evaluate", EvaluateSettings, {}),
    ("evaluate", EvaluateSettings, {"decode": "greedy", "shots": 2}),
    ("sft", SftSettings, {}),
    ("sft", SftSettings, {"task": "mini", "mixing": "sqrt"}),
    ("ppo", PpoSettings, {}),
    ("ppo", PpoSettings, {"estimator": "expected"}),
    ("classify", ClassifySettings, {}),
    ("classify", ClassifySettings, {"tune": "full"}),
]


@pytest.mark.parametrize(("command", "kind", "more"), COMMANDS, ids=lambda x: x if isinstance(x, str) else None)
def test_every_command_has_a_time(command, kind, more):
    machine = of_gpu("L4")
    values = {"task": "mini/question", "model": "mini", "device": "cpu", **more}
    found = estimate(command, validate(kind, values), machine=machine)
    assert found.evaluation > 0
    assert found.start > machine.start
    if command != "evaluate":
        half, whole = (
            estimate(command, validate(kind, {**values, "max_steps": steps}), machine=machine) for steps in (20, 40)
        )
        assert (half.steps, whole.steps) == (20, 40)
        assert whole.training == pytest.approx(2 * half.training)
    # rows are extrapolated: twice as many take twice as long
    less = estimate(
        command, validate(kind, {**values, "eval_limit" if command != "evaluate" else "limit": 100}), machine=machine
    )
    assert less.evaluation < found.evaluation


def test_an_adapter_that_is_still_to_come(tmp_path):
    """A suite asks for the time of PPO before there is the SFT run that it starts from."""
    values = {"task": "mini/question", "model": "mini", "device": "cpu", "max_steps": 3, "init": tmp_path / "sft"}
    assert run_seconds("ppo", validate(PpoSettings, values)) > 0


def test_a_model_that_is_not_there():
    with pytest.raises(OSError, match="files"):
        run_seconds("sft", validate(SftSettings, {"task": "mini/question", "model": "nobody/has-this"}))


def test_this_machine_is_measured():
    """All constants are positive numbers that a computer may have."""
    found = probe(sizes_of("mini", LoraSettings()), "cpu", torch.float32, 256)
    for name in ("forward", "backward", "attention", "vocabulary", "decoding"):
        assert 1e8 < getattr(found, name) < 1e14, name
    assert 1e8 < found.memory < 1e13
    assert found.call > 0
    assert found.cores_shared


def test_known_gpus_are_ordered_as_their_data_sheets_are():
    sizes = sizes_of("mini", LoraSettings())
    work = Counter(sizes, 4096).step(made_up(32), validate(PpoSettings, PPO)) * 1000
    slow = [of_gpu(name).seconds(work) for name in ("H100", "A100-80", "L4")]
    assert slow == sorted(slow)
    sheets = {"H100": 80e9, "A100-80": 80e9, "A100-40": 40e9, "L4": 24e9}
    assert {name: of_gpu(name).capacity for name in sheets} == sheets


# -- the paper's plan --------------------------------------------------------------------------------------------------


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import paper_plan as module

    yield module
    sys.modules.pop("paper_plan", None)


def test_the_runs_of_the_paper(scale):
    found = scale.jobs()
    assert len(set(found)) == len(found) == 18 * 3 * 4 * 5
    for job in found:
        first = scale.before(job)
        assert first is None or first in found
    assert sum(scale.before(job) is None for job in found) == 3 * 5 * (18 * 2 + 17)  # without SFT there is no PPO


def test_runs_on_several_machines(scale):
    """By hand."""
    alone: dict[str, str | None] = {"a": None, "b": None, "c": None, "d": None}
    hours = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    assert [scale.wall_clock(hours, alone, n) for n in (1, 2, 3, 9)] == [10, 5, 4, 4]
    # d waits for c: c, the longer chain, comes before b
    chained = {**alone, "d": "c"}
    assert scale.wall_clock({"a": 2.0, "b": 2.5, "c": 2.0, "d": 3.0}, chained, 2) == 5.0
    assert scale.wall_clock({"a": 1.0, "b": 1.0, "c": 2.0, "d": 3.0}, {**chained, "c": "a"}, 9) == 6.0


def test_made_up_rows_are_as_long_as_the_tasks(scale):
    asked = scale.TASKS["glue/rte"]
    rows = scale.rows_of(asked, 400, 0)
    mean = sum(len(row.ids) for row in rows) / len(rows)
    assert mean == pytest.approx(asked.shared + sum(asked.own) / 10, rel=0.05)
    multirc = scale.TASKS["superglue/multirc"]
    together = scale.rows_of(multirc, 58, 0, together=multirc.together)
    assert len({row.ids[: multirc.shared + 100] for row in together}) == 1
