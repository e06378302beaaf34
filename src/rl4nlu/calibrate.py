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
    logp_NK = np.array(label_logp(policy, rows, settings.max_tokens, advance))
    if method == "batch":
        prior_NK = mean_logp(logp_NK)
    elif method == "contextual":
        example = rows[0].prompt.example
        empty = [replace(example, fields=dict.fromkeys(example.fields, text)) for text in CONTENT_FREE]
        # a template that is its field alone asks nothing of an empty one
        texts = [text for text in (question.prompter.prompt(one).text for one in empty) if text]
        prior_NK = mean_logp(_logp_of(policy, question, texts, settings.max_tokens))
    else:
        cues = [question.prompter.cue(row.prompt.example) for row in rows]
        once = list(dict.fromkeys(cues))
        if "" in once:
            raise UserError(
                f"--calibrate domain: nothing stands behind the last field of {question.task.name}'s template, so that "
                "there is no cue to ask alone; put one there, or give --calibrate batch"
            )
        prior = dict(zip(once, _logp_of(policy, question, once, settings.max_tokens), strict=True))
        prior_NK = np.array([prior[cue] for cue in cues])
    for row, logp in zip(rows, calibrate(logp_NK, prior_NK), strict=True):
        yield scored(question.task, row.prompt.example, logp.tolist())


def _logp_of(policy: Policy, question: Question, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """Log-probability of each label behind these prompts."""
    encoder, any_row = question.rows.encoder, question.rows[0].prompt
    rows = [encoder.encode_prompt(replace(any_row, text=text)) for text in texts]
    return np.array(label_logp(policy, rows, max_tokens))
