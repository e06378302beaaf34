"""Search for values in ranges by Optuna. What is tried next is a function of the seed and of what was found so far, and
of nothing else: not of how many runs there are at a time, nor of when the suite was stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..plan import Group, Range
from ..plan.values import FIGURES
from ..settings import SearchSettings

Space = Mapping[str, Range | list[Any]]
Tried = tuple[Mapping[str, Any], float | None]
"""Values, and their score; None: it did not get through."""


def batch_size(search: SearchSettings) -> int:
    """How many trials are drawn together: what one finds is of use to those behind them."""
    return search.trials if search.sampler == "random" else search.batch


def propose(
    search: SearchSettings, space: Space, group: Group, seed: int, tried: Sequence[Tried]
) -> list[Mapping[str, Any]]:
    """The values of the next batch.

    Args:
        search: how many, and by which sampler.
        space: setting -> what may be chosen.
        group: for which method and task; others draw other values.
        seed: of the suite.
        tried: all trials of the batches before, in their order.

    Raises:
        UserError: Optuna is not installed.
    """
    optuna = _optuna()
    kinds = {key: _distribution(optuna, values) for key, values in space.items()}
    mark = hashlib.sha256("\0".join([*group, str(seed), str(len(tried))]).encode()).digest()
    study = optuna.create_study(direction="maximize", sampler=_sampler(optuna, search, int.from_bytes(mark[:4])))
    for values, score in tried:
        state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
        params = {key: _place(space[key], value) for key, value in values.items()}
        study.add_trial(optuna.create_trial(state=state, value=score, params=params, distributions=kinds))
    count = min(batch_size(search), search.trials - len(tried))
    return [{key: _value(space[key], x) for key, x in study.ask(kinds).params.items()} for _ in range(count)]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("a range is searched by Optuna, which is not installed: pip install 'rl4nlu[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _sampler(optuna: Any, search: SearchSettings, seed: int) -> Any:
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # trials of one batch do not know each other's scores: the liar keeps them apart
    startup = max(1, search.trials // 3)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def _distribution(optuna: Any, values: Range | list[Any]) -> Any:
    """Lists by the number of the place, so that any values may stand in one."""
    if isinstance(values, list):
        return optuna.distributions.CategoricalDistribution(range(len(values)))
    if values.whole:
        return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _place(values: Range | list[Any], value: Any) -> Any:
    return values.index(value) if isinstance(values, list) else value


def _value(values: Range | list[Any], drawn: Any) -> Any:
    """As it stands in a run's settings: with no more digits than one would type."""
    if isinstance(values, list):
        return values[drawn]
    if isinstance(drawn, int):
        return drawn
    return min(max(float(f"{drawn:.{FIGURES}g}"), values.low), values.high)
