"""What a suite with several models, with ranges and with resources means as a plan."""

from __future__ import annotations

import pytest

from rl4nlu.config import parse, validate
from rl4nlu.errors import UserError
from rl4nlu.plan import Range, make_plan
from rl4nlu.settings import Resources, SuiteSettings

BASE = {
    "common": {"select_rows": 64, "max_steps": 10, "batch_size": 8},
    "models": {"mini": {}, "big": {"model": "some/model", "dtype": "bfloat16", "batch_size": 2}},
    "tasks": {"mini/question": {}, "mini/sentiment": {"batch_size": 4}},
    "methods": {
        "zero-shot": {"command": "evaluate"},
        "sft": {"command": "sft", "learning_rate": [1e-4, 1e-3]},
        "ppo": {"command": "ppo", "init": "sft", "learning_rate": "=sft"},
        "bert": {"command": "classify", "model": "some/bert"},
        "asked": {"command": "evaluate", "adapter": "bert"},
    },
}


def plan_of(**changes):
    return make_plan(validate(SuiteSettings, {**BASE, **changes}))


def test_every_method_runs_on_every_model_but_for_one_that_names_its_own(tmp_path):
    plan = plan_of()
    runs = [name for name in plan.jobs if name.endswith("mini-question-s0")]
    assert runs == [
        "runs/bert/mini-question-s0",
        "runs/asked/mini-question-s0",
        *(f"runs/mini/{method}/mini-question-s0" for method in ("zero-shot", "sft", "ppo")),
        *(f"runs/big/{method}/mini-question-s0" for method in ("zero-shot", "sft", "ppo")),
    ]
    assert [name for name in plan.jobs if name.startswith("tuning/big/sft/mini-question")] == [
        "tuning/big/sft/mini-question-learning_rate=0.0001",
        "tuning/big/sft/mini-question-learning_rate=0.001",
    ]
    chosen = {group: {"learning_rate": 1e-4 if "mini)" in group[0] else 1e-3} for group in plan.candidates}
    assert set(chosen) == {(f"sft ({model})", task) for model in ("mini", "big") for task in BASE["tasks"]}

    def settings(name):
        return plan.settings(plan.jobs[name], tmp_path, chosen)

    small, big = (settings(f"runs/{model}/sft/mini-question-s0") for model in ("mini", "big"))
    assert (small.model, small.dtype, small.batch_size, small.learning_rate) == ("mini", "auto", 8, 1e-4)
    assert (big.model, big.dtype, big.batch_size, big.learning_rate) == ("some/model", "bfloat16", 2, 1e-3)
    assert settings("runs/big/sft/mini-sentiment-s0").batch_size == 4  # the task's goes over the model's
    ppo = settings("runs/big/ppo/mini-question-s0")
    assert (ppo.model, ppo.init, ppo.learning_rate) == (None, tmp_path / "runs/big/sft/mini-question-s0", 1e-3)
    assert settings("runs/bert/mini-question-s0").model == "some/bert"
    assert plan.jobs["runs/asked/mini-question-s0"].source == "runs/bert/mini-question-s0"
    assert plan.jobs["runs/big/ppo/mini-question-s0"].method == "ppo (big)"  # as reports call it


def test_a_list_of_models_is_called_by_their_last_names():
    given = validate(SuiteSettings, {"models": ["mini", "Qwen/Qwen2.5-7B"]}).models
    assert given == {"mini": {"model": "mini"}, "Qwen2.5-7B": {"model": "Qwen/Qwen2.5-7B"}}


def test_of_a_search_there_are_as_many_trials_as_it_says():
    sft = {"command": "sft", "learning_rate": {"low": "1e-4", "high": 1e-2, "log": True}, "lora": {"r": [4, 8]}}
    plan = plan_of(methods={"sft": {**sft, "model": "mini"}}, search={"trials": 11})
    trials = [job for job in plan.jobs.values() if job.is_trial and job.task == "mini/question"]
    assert [job.name for job in trials][::10] == [
        "tuning/sft/mini-question-trial-01",
        "tuning/sft/mini-question-trial-11",
    ]
    assert all(job.unknown for job in trials)
    assert plan.spaces["sft", "mini/question"] == {"learning_rate": Range(1e-4, 1e-2, True), "lora.r": [4, 8]}


SFT = {"command": "sft", "model": "mini"}
LOW = {"low": 1e-4, "high": 1e-3}
MISTAKES = [
    ({"models": {"a/b": {}}}, "name a model with letters"),
    ({"models": {"a": {"dtyp": "float32"}}}, "models.a.dtyp: no such setting"),
    ({"common": {"model": "x"}}, "common.model: models says which there are"),
    ({"tasks": {"mini/question": {"model": "x"}}}, "tasks.mini/question.model: models says which there are"),
    ({"methods": {**BASE["methods"], "bert": {**SFT, "learning_rate": "=sft"}}}, "sft runs on several models"),
    ({"methods": {"a": {**SFT, "learning_rate": {"low": 1e-3, "high": 1e-4}}}}, "low has to be below high"),
    ({"methods": {"a": {**SFT, "learning_rate": {"low": 1e-3}}}}, "learning_rate: a range is {low: NUMBER"),
    ({"methods": {"a": {**SFT, "learning_rate": {**LOW, "step": 1}}}}, "there is no 'step' in it"),
    ({"methods": {"a": {**SFT, "learning_rate": {**LOW, "log": 3}}}}, "log: true where ratios count"),
    ({"methods": {"a": {**SFT, "warmup": {"low": 0, "high": 0.5, "log": True}}}}, "low has to be above 0"),
    ({"methods": {"a": {**SFT, "warmup": {"low": 0, "high": 5}}}}, "warmup: input should be less than 1 (got 5"),
    ({"methods": {"a": {**SFT, "lora": {"r": {"low": 2, "high": 4.5}}}}}, "lora.r is a whole number"),
    ({"methods": {"a": {**SFT, "schedule": LOW}}}, "schedule has no range; give a list"),
    ({"methods": {"a": {**SFT, "truncate": LOW}}}, "truncate has no range; give a list"),
    ({"methods": {"a": {**SFT, "learning_rate": LOW, "select_rows": 0}}}, "learning_rate has a range, to choose from"),
    ({"methods": {"a": {"command": "classify", "model": "b", "warmup": LOW}}, "common": {}}, "holds out no training"),
    ({"methods": {"a": {**SFT, "resources": {"cpus": 0}}}}, "resources: cpus: input should be greater than"),
    ({"methods": {"a": {**SFT, "resources": {"gpus": 1.5}}}}, "gpus: a part of one, or whole ones"),
    ({"methods": {"a": {**SFT, "resources": {"gpu": 1}}}}, "sft has no such setting (did you mean 'resources.gpus'?)"),
    ({"search": {"trials": 0}}, "search.trials"),
    ({"search": {"sampler": "gp"}}, "search.sampler: no such choice 'gp'"),
    ({"retries": -1}, "retries"),
    ({"ray": "here"}, "ray"),
]


@pytest.mark.parametrize(("changes", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_one_line(changes, says):
    with pytest.raises(UserError) as error:
        plan_of(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_resources_are_settings_of_no_run():
    plan = plan_of(
        common={**BASE["common"], "resources": {"cpus": 2}},
        models={"mini": {}, "big": {"model": "x", "resources": {"gpus": 1}}},
        methods={"sft": {"command": "sft"}, "ppo": {"command": "ppo", "resources": {"cpus": 4}}},
    )
    found = {name: job.resources for name, job in plan.jobs.items() if "question" in name}
    assert found == {
        "runs/mini/sft/mini-question-s0": Resources(cpus=2),
        "runs/mini/ppo/mini-question-s0": Resources(cpus=4),
        "runs/big/sft/mini-question-s0": Resources(cpus=2, gpus=1),
        "runs/big/ppo/mini-question-s0": Resources(cpus=4, gpus=1),
    }
    assert not any(key.startswith("resources") for job in plan.jobs.values() for key in job.values)


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ([], None),
        (["--ray"], "local"),
        (["--ray", "--jobs", "2"], "local"),
        (["--ray", "auto"], "auto"),
        (["--ray=head:6379"], "head:6379"),
        (["--jobs", "2", "--ray", "ray://10.0.0.1:10001"], "ray://10.0.0.1:10001"),
    ],
)
def test_ray_may_stand_alone(flags, address):
    assert parse(SuiteSettings, flags, "rl4nlu suite").ray == address
