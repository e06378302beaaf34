"""The tree of a micro-batch: every row's path reads as the row, nothing is there twice that need not be."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4nlu.tree import WORTH, plant

TOKEN = st.integers(1, 3)


@st.composite
def forests(draw):
    """Prompts of which some begin alike, some are the same, with answers of which some begin alike."""
    stems = draw(st.lists(st.lists(TOKEN, max_size=50), min_size=1, max_size=3))
    count = draw(st.integers(0, 4))
    prompts, answers = [], []
    for _ in range(draw(st.integers(1, 7))):
        prompt = draw(st.sampled_from(stems)) + draw(st.lists(TOKEN, max_size=20))
        prompts.append(tuple(prompt or [1]))
        answers.append(tuple(tuple(draw(st.lists(TOKEN, min_size=1, max_size=4))) for _ in range(count)))
    return prompts, answers


def sees(tree, i):
    """The tokens in front of token i on its path, itself included, by their place."""
    return [j for j in range(len(tree.ids_N)) if j <= i < int(tree.end_N[j])]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(forests())
def test_paths_are_the_rows(case):
    prompts, answers = case
    tree = plant(prompts, answers)
    for b, prompt in enumerate(prompts):
        path = sees(tree, int(tree.last_B[b]))
        assert tree.ids_N[path].tolist() == list(prompt)
        assert tree.depth_N[path].tolist() == list(range(len(prompt)))
        assert [i for start, stop in tree.paths[b] for i in range(start, stop)] == path
        assert path[: tree.shared] == list(range(tree.shared))
        for k, answer in enumerate(answers[b]):
            for a in range(len(answer)):
                read = sees(tree, int(tree.source_BKA[b, k, a]))
                assert tree.ids_N[read].tolist() == [*prompt, *answer[:a]]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(forests())
def test_blocks_cover_every_token_once_and_know_what_it_sees(case):
    tree = plant(*case)
    biases = [tree.bias(group, None, torch.float32) for group in tree.groups]
    found = {}
    slot = 0
    for group, bias in zip(tree.groups, biases, strict=True):
        above = [i for start, stop in group.path for i in range(start, stop)]
        n, T = group.token_nT.shape
        for row in range(n):
            for t in range(T):
                token = int(group.token_nT[row, t])
                if group.real_nT[row, t]:
                    assert int(tree.slot_N[token]) == slot
                    if bias is None:
                        assert group.causal
                        seen = group.token_nT[row, : t + 1].tolist()
                    else:
                        keys = above + group.token_nT[row].tolist()
                        seen = [keys[s] for s in range(len(keys)) if bias[row, 0, t, s] == 0]
                    assert token not in found
                    found[token] = seen
                elif bias is not None:
                    assert (bias[row, 0, t] == 0).any(), "a query that sees nothing is not a number"
                slot += 1
    assert found == {i: sees(tree, i) for i in range(len(tree.ids_N))}


@settings(deadline=None, max_examples=200, derandomize=True)
@given(forests(), st.integers(1, 60))
def test_windows(case, window):
    tree = plant(*case)
    for group in tree.groups:
        bias = tree.bias(group, window, torch.float32)
        above = [i for start, stop in group.path for i in range(start, stop)]
        n, T = group.token_nT.shape
        for row, t in ((row, t) for row in range(n) for t in range(T) if group.real_nT[row, t]):
            token = int(group.token_nT[row, t])
            expected = [j for j in sees(tree, token) if tree.depth_N[token] - tree.depth_N[j] < window]
            keys = above + group.token_nT[row].tolist()
            if bias is None:
                assert len(tree.ids_N) <= window or tree.deepest < window
            else:
                assert [keys[s] for s in range(len(keys)) if bias[row, 0, t, s] == 0] == expected


@settings(deadline=None, max_examples=200, derandomize=True)
@given(forests())
def test_what_is_alike_is_there_once(case):
    prompts, answers = case
    tree = plant(prompts, answers)
    once = {prompt[: i + 1] for prompt in prompts for i in range(len(prompt))}
    own = {(b, answer[: a + 1]) for b, row in enumerate(answers) for answer in row for a in range(len(answer) - 1)}
    assert len(once) + len(own) <= len(tree.ids_N) <= len(once) + len(own) + (WORTH - 1) * (len(prompts) - 1)


def test_a_passage_is_a_second_level():
    task, passages = tuple(range(20)), [tuple(range(100 * p, 100 * p + 30)) for p in (1, 2)]
    prompts = [task + passages[i % 2] + (900 + i,) for i in range(6)]
    tree = plant(prompts, [((1,), (2,))] * 6)
    assert len(tree.ids_N) == 20 + 2 * 30 + 6
    assert tree.shared == 20
    assert sorted(len(group.path) for group in tree.groups) == [0, 1, 2, 2]


def test_one_row_is_plainly_causal():
    tree = plant([(1, 2, 3)], [((4, 5),)])
    (group,) = tree.groups
    assert group.causal
    assert not plant([(1, 2, 3)], [((4, 5), (6, 7))]).groups[0].causal
