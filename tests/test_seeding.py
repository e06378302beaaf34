"""Seeds: what test_optim.py leaves open. More pinned values, and that no two purposes meet."""

from __future__ import annotations

import numpy as np
import pytest

from rl4nlu.seeding import derive, generator


@pytest.mark.parametrize(
    ("seed", "purpose", "step", "digest"),
    [
        # first 16 hex digits of `printf SEED/PURPOSE/STEP | sha256sum`; these must never change
        (0, "order", 0, "6dcae06b2febca6e"),
        (123, "data", 0, "ce017c4aafecd498"),
        (0, "bootstrap/glue/mrpc", 0, "6f548c373357ef11"),
    ],
)
def test_values_stay_for_ever(seed, purpose, step, digest):
    value = int(digest, 16) >> 1
    assert derive(seed, purpose, step) == value
    # the raw stream, which NumPy promises to keep; its distributions it does not
    raw = generator(seed, purpose, step).bit_generator.random_raw(4)
    assert raw.tolist() == np.random.PCG64(value).random_raw(4).tolist()


def test_step_zero_is_the_default():
    assert derive(3, "order") == derive(3, "order", 0)


def test_no_two_purposes_meet():
    """Digits and slashes in a purpose must not run into the seed or the step."""
    purposes = ("order", "order/1", "order/11", "rollout", "minibatch/0", "minibatch/1", "1", "1/1", "")
    given = [(seed, purpose, step) for seed in (0, 1, 11) for purpose in purposes for step in (0, 1, 11)]
    values = {derive(*one) for one in given}
    assert len(values) == len(given)
    assert all(0 <= value < 2**63 for value in values)  # what torch.manual_seed and NumPy both take
    assert len({tuple(generator(*one).random(3)) for one in given}) == len(given)
