"""Calibration of label words: take out of their probabilities what the model says whatever the row.

All three divide each label's probability by a prior and renormalise; they differ in where the prior comes from.

* **contextual**: the mean over prompts whose fields hold no content (Zhao et al. 2021, arXiv 2102.09690, section 5).
* **batch**: the mean over all rows that are asked, whose labels it does not see (Zhou et al. 2024, arXiv 2309.17249,
  equation 5).
* **domain**: the row's cue alone, without its body: pointwise mutual information conditional on the domain (Holtzman et
  al. 2021, arXiv 2104.08315, equation 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import log_softmax, logsumexp

from .ask import Advance, Prediction, Question, label_logp, scored
from .errors import UserError
from .models import Policy
from .settings import PromptSettings

CONTENT_FREE = ("N/A", "[MASK]", "")


def calibrate(logp_NK: np.ndarray, prior_NK: np.ndarray) -> np.ndarray:
    """log softmax_k(log p(k) - log prior(k)), a row of K labels each; the prior may be one row for all."""
    return log_softmax(logp_NK - prior_NK, axis=-1)


def mean_logp(logp_NK: np.ndarray) -> np.ndarray:
    """log of the mean probability of each label over the rows: (1, K)."""
    return logsumexp(logp_NK, axis=0, keepdims=True) - np.log(len(logp_NK))


def ask_calibrated(
    policy: Policy,
    question: Question,
    method: str,
    settings: PromptSettings,
    advance: Advance = lambda count: None,
) -> Iterator[Prediction]:
    """As `ask.ask` with the labels scored, and calibrated by `method`: contextual, batch or domain."""
    rows = question.rows[:]
    prior_NK = None
    if method == "contextual":
        example = rows[0].prompt.example
        empty = [replace(example, fields=dict.fromkeys(example.fields, text)) for text in CONTENT_FREE]
        texts = [question.prompter.prompt(one).text for one in empty]
        # a template that is its field alone asks nothing of an empty one
        prior_NK = mean_logp(np.array(list(_logp_of(policy, question, texts, settings.max_tokens).values())))
    elif method == "domain":
        cues = [question.prompter.cue(row.prompt.example) for row in rows]
        prior = _logp_of(policy, question, list(dict.fromkeys(cues)), settings.max_tokens)
        if not prior.keys() >= set(cues):
            raise UserError(
                f"--calibrate domain: nothing stands behind the last field of {question.task.name}'s template, so that "
                "there is no cue to ask alone; put one there, or give --calibrate batch"
            )
        prior_NK = np.array([prior[cue] for cue in cues])
    logp_NK = np.array(label_logp(policy, rows, settings.max_tokens, advance))
    prior_NK = mean_logp(logp_NK) if prior_NK is None else prior_NK
    for row, logp in zip(rows, calibrate(logp_NK, prior_NK), strict=True):
        yield scored(question.task, row.prompt.example, logp.tolist())


def _logp_of(policy: Policy, question: Question, texts: Sequence[str], max_tokens: int) -> dict[str, list[float]]:
    """Prompt -> log-probability of each label behind it, of those that have a token."""
    encoder, any_row = question.rows.encoder, question.rows[0].prompt
    rows = [(text, encoder.encode_prompt(replace(any_row, text=text))) for text in texts]
    asked = [(text, row) for text, row in rows if len(row.ids)]
    return dict(
        zip((text for text, _ in asked), label_logp(policy, [row for _, row in asked], max_tokens), strict=True)
    )
