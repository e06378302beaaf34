"""Free text as actions: every token that the model writes. Shapes and masks: see the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from .. import processes
from ..forward import Beginning, Entropy, Scores, begin, score, take_part
from ..guards import check_finite
from ..models import Policy
from ..prompts import Prompter
from ..rewards import Reward
from ..rollout import begin_all, sample, think, uniforms
from ..settings import PpoSettings
from ..tokens import Batch, Encoded, pad_right
from .record import Kept, Rollout, in_parts, keep, shared_stats


@torch.no_grad()
def write_text(
    policy: Policy, chosen: list[Encoded], settings: PpoSettings, step: int, longest: int, reward: Reward
) -> Rollout:
    """Let the policy write its answers to each prompt, and reward them; arguments as of `roll_out`."""
    K = settings.answers
    own = processes.share(len(chosen))
    mine = [chosen[b] for b in own]
    begun = _begun(policy, mine, settings, longest)
    written = _write_all(policy, chosen, own, settings, step, longest, begun)
    rows = [(row.ids, [one.tokens for one in written[b * K : b * K + K]]) for b, row in enumerate(chosen)]
    place_NA, mask_NA = pad_right([one.places for one in written], 0)
    place_NA, mask_NA = place_NA.to(policy.device), mask_NA.to(policy.device)
    my_rows, here = [rows[b] for b in own], slice(own.start * K, own.stop * K)
    asked_rows = with_gold_answers(my_rows, mine) if settings.sft_coef else my_rows
    kept = keep(policy, asked_rows, mine, settings, lambda batch: score_with_entropy(policy, batch, settings, begun))
    actions = (my_rows, mine, place_NA[here], mask_NA[here], settings.max_tokens)
    logp_NA, value_NA = _score_all(policy, *actions, True, kept)
    with policy.as_reference():
        alike = _alike(policy, kept, begun, settings)
        ref_logp_NA, _ = _score_all(policy, *actions, False, alike)
    asked = [row for row in chosen for _ in range(K)]
    parsed = [row.prompter.parse(one.verdict) for row, one in zip(asked, written, strict=True)]
    judged = [(row.prompter.task, label, row.prompt.example) for row, label in zip(asked, parsed, strict=True)]
    reward.observe([(task, example) for task, _, example in judged], [{label: 1.0} for label in parsed])
    score_N = torch.tensor([reward(*one) for one in judged], device=logp_NA.device)
    stats = {
        **shared_stats(reward, chosen, parsed),
        "reward": float(score_N.mean()),
        "accuracy": sum(task.judge(label, example) for task, label, example in judged) / len(written),
        "unparsable": sum(p is None for p in parsed) / len(written),
        "kl": float((logp_NA - ref_logp_NA).sum(1).mean()),  # nats an answer, the k1 estimator
        "answer_tokens": float(mask_NA.sum(1).float().mean()),
    }
    numbers = (logp_NA, ref_logp_NA, value_NA, score_N)
    return Rollout(chosen, rows, place_NA, mask_NA, *numbers, stats, mine=own, kept=kept)


def _write_all(
    policy: Policy,
    chosen: Sequence[Encoded],
    own: Sequence[int],
    settings: PpoSettings,
    step: int,
    longest: int,
    begun: Beginning | None,
) -> list[_Written]:
    """K answers to each prompt, of which this process writes those to its `own`."""
    uniform = uniforms(len(chosen), settings.answers, settings.reason + longest, settings.seed, "rollout", step)

    def work() -> list[tuple]:
        found: list[_Written] = []
        for _, part in groupby(range(len(chosen)), key=lambda i: id(chosen[i].prompter)):
            of_one = list(part)
            at = [i for i in of_one if i in own]
            if at or processes.sharded():
                prompter, rows = chosen[of_one[0]].prompter, [chosen[i] for i in at]
                # beside a task of longer answers a prompt may have left less room: it was cut for its own. All
                # processes see all rows here, so that each cuts alike.
                before = max(len(chosen[i].ids) + len(chosen[i].bridge) for i in of_one) + settings.reason
                room = min(longest, policy.context_length - before)
                found += _write(policy, prompter, rows, room, settings.max_tokens, uniform[at], begun)
        return [astuple(one) for one in found]

    return [_Written(tuple(tokens), tuple(places), verdict) for tokens, places, verdict in processes.gathered(work)]


def _begun(policy: Policy, chosen: list[Encoded], settings: PpoSettings, longest: int) -> Beginning | None:
    """The prompts, read once for sampling and for the first inner epoch, where all goes through the model at once."""
    if in_parts(settings) or settings.reason or len({id(row.prompter) for row in chosen}) > 1:
        return None
    prompts = [row.ids for row in chosen]

    def once(most: int) -> Beginning | None:
        return begin_all(policy, prompts, settings.answers, longest, most)

    return policy.memory.fitting("update", settings.max_tokens, once)


def _alike(policy: Policy, kept: list[Kept], begun: Beginning | None, settings: PpoSettings) -> list[Kept]:
    """The policy of now in the form of a pass that was kept: equal weights then give equal numbers, to the last bit."""

    def once(most: int) -> list[Kept]:
        if most < settings.max_tokens or begun is None or not kept:
            return []
        again = begin(policy.model, begun.batch, goes_on=True)
        return [Kept(one.batch, score(policy.model, one.batch, True, beginning=again), one.with_gold) for one in kept]

    return policy.memory.fitting("rollout", settings.max_tokens, once)


@dataclass(frozen=True)
class _Written:
    """One answer of free text: what the model wrote first and the bridge, if any, and the verdict."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Which of them are the model's own."""
    verdict: str


def _write(
    policy: Policy,
    prompter: Prompter,
    rows: list[Encoded],
    longest: int,
    max_tokens: int,
    uniform_BKA: Tensor,
    begun: Beginning | None,
) -> list[_Written]:
    """K answers to each prompt of one prompter, in the order of the prompts."""
    K = uniform_BKA.shape[1]
    thoughts: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = [[((), ())] * K for _ in rows]
    prompts, uniform = [row.ids for row in rows], uniform_BKA
    if prompter.reason:  # every text then is a prompt of its own, with one verdict
        thoughts = think(policy, prompter, rows, max_tokens, uniform_BKA[:, :, : prompter.reason])
        prompts = [row.ids + own + bridge for row, texts in zip(rows, thoughts, strict=True) for own, bridge in texts]
        uniform = uniform_BKA[:, :, prompter.reason :].flatten(0, 1)[:, None]
    found = sample(policy, prompts, prompter.finished, longest, max_tokens, uniform, begun)
    answers = [one for texts in found for one in texts]
    written = []
    for n, answer in enumerate(answers):
        own, bridge = thoughts[n // K][n % K]
        start = len(own) + len(bridge)
        places = (*range(len(own)), *range(start, start + len(answer.tokens)))
        written.append(_Written(own + bridge + answer.tokens, places, answer.text))
    return written


def _score_all(
    policy: Policy,
    rows: Sequence,
    chosen: Sequence[Encoded],
    place_NA: Tensor,
    mask_NA: Tensor,
    max_tokens: int,
    with_value: bool,
    kept: Sequence[Kept] = (),
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and values of every action, in the order of the rows: (N, A), zero where the mask is False. The
    arguments are about this process's rows, and what is given about those of all."""
    N, A = mask_NA.shape
    K = N // max(1, len(rows))
    logp_NA = torch.zeros((N, A), device=policy.device)
    value_NA = torch.zeros((N, A), device=policy.device)
    head = policy.value_head if with_value else None
    kinds = [row.prompter.task.name for row in chosen]

    def note(batch: Batch, scores: Scores) -> None:
        at = torch.tensor([row * K + k for row in batch.rows for k in range(K)], device=policy.device)
        logp_NA[at] = torch.where(mask_NA[at], at_places(scores.logp_BKA[:, :K].flatten(0, 1), place_NA[at]), 0.0)
        if scores.value_BKA is not None:
            value_NA[at] = torch.where(mask_NA[at], at_places(scores.value_BKA[:, :K].flatten(0, 1), place_NA[at]), 0.0)

    def work(batch: Batch) -> None:
        note(batch, score(policy.model, batch, policy.shared, value_head=head))

    def found() -> list[None]:
        for one in kept:
            assert isinstance(one.scores, Scores)
            note(one.batch, one.scores)
        if not kept:
            idle = partial(take_part, policy.model, policy.shared)
            policy.memory.each("rollout", rows, max_tokens, work, policy.pad, policy.device, kinds, idle)
        what = "the log-probabilities or values of the answers are"
        check_finite(what, [row.source for row in chosen], logp_NA, value_NA)
        return []

    processes.gathered(found)  # nothing: but whether it went well everywhere
    return processes.gathered_rows(logp_NA), processes.gathered_rows(value_NA)


def score_with_entropy(policy: Policy, batch: Batch, settings: PpoSettings, begun: Beginning | None = None) -> Scores:
    """All that the forward pass can say; the entropy's gradient only if the loss has an entropy term."""
    entropy: Entropy = "gradient" if settings.entropy_coef else "value"
    return score(policy.model, batch, policy.shared, entropy, policy.value_head, beginning=begun)


def with_gold_answers(rows: Sequence, chosen: Sequence[Encoded]) -> list:
    """(prompt, answers) in tokens, the gold answer behind those that were sampled."""
    return [(ids, [*answers, one.answers[one.gold]]) for (ids, answers), one in zip(rows, chosen, strict=True)]


def at_places(x_nT: Tensor, place_nA: Tensor) -> Tensor:
    """The numbers at the tokens that are actions; anything where a row has fewer."""
    return x_nT.gather(1, place_nA.clamp(max=x_nT.shape[1] - 1))
