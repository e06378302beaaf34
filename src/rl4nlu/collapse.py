"""Collapse of a policy in training: found in the figures of its steps, named in plain words, with what to change."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from .state import State

WINDOW = 20
"""Steps of which the mean is judged; fewer in a short run."""
NO_ANSWER, ONE_ANSWER, CERTAIN, SMALL_GAIN = 0.99, 0.98, 0.02, 0.02
MARGIN = 0.2
"""By how much the most common answer must be commoner than the most common gold label."""
RUNAWAY_NATS, RUNAWAY_FACTOR = 5.0, 2.0
SOLVED = 0.97


@dataclass(frozen=True)
class Collapse:
    """One way in which training goes wrong."""

    name: str
    what: str
    cure: str


UNPARSABLE = Collapse(
    "unparsable",
    "no answer can be parsed, so every reward is the same",
    "start from an SFT run (--init), let it say label words only (--actions labels), or give more --answer-tokens",
)
SAME_ANSWER = Collapse(
    "one-answer",
    "every row gets the same answer",
    "start from an SFT run (--init) or mix it in (--sft-coef 0.5); with --actions labels: --debias, which takes the "
    "start's bias out, and --entropy-coef 0.1; with free text: --reward matthews; else a lower --learning-rate",
)
KL_RUNAWAY = Collapse(
    "kl-runaway",
    "the policy runs away from its reference and the reward does not rise with it",
    "raise --kl-coef, or give --kl-target 6 to adapt it; lower --learning-rate; --stop-kl 0.05 ends inner epochs early",
)
STUCK = Collapse(
    "stuck",
    "the policy is certain of its answers and the reward stands still, so there is no gradient left",
    "--entropy-coef 0.1 keeps it open, --oversample 4 picks rows of which it is unsure, --sft-coef 0.5 still learns "
    "from rows it gets wrong; or start again with a lower --learning-rate",
)
ALL = (UNPARSABLE, SAME_ANSWER, KL_RUNAWAY, STUCK)
READ = ("accuracy", "unparsable", "most_common", "gold_common", "kl", "entropy")
"""What is read of a step beside its reward."""


class Watch:
    """Sees every step's figures and says once of each collapse that it has come."""

    def __init__(self, steps: int) -> None:
        self.window = max(5, min(WINDOW, steps // 4))
        self.seen: deque[Mapping[str, float]] = deque(maxlen=2 * self.window)
        self.found: list[Collapse] = []

    def see(self, record: Mapping[str, float]) -> list[Collapse]:
        """The collapses that show after this step and did not before.

        Args:
            record: reward, accuracy, unparsable, most_common, gold_common, kl and entropy of a step.
        """
        # the mean of a metric's derivative is zero by construction: what rises is the metric
        known = {name: record[name] for name in READ if name in record}
        self.seen.append({**known, "reward": record.get("metric", record["reward"])})
        new = [one for one in self._showing() if one not in self.found]
        self.found += new
        return new

    def state(self) -> State:
        """What was seen and found, for a checkpoint."""
        return State(values={"seen": list(self.seen), "found": [one.name for one in self.found]})

    def load(self, state: State) -> None:
        """Go on from what was seen and found."""
        self.seen.clear()
        self.seen.extend(state.values["seen"])
        self.found = [one for name in state.values["found"] for one in ALL if one.name == name]

    def _showing(self) -> list[Collapse]:
        rows = list(self.seen)[-self.window :]
        if len(rows) < self.window:
            return []
        mean = {name: fmean(row[name] for row in rows) for name in rows[-1] if all(name in row for row in rows)}
        found = []
        if mean["unparsable"] >= NO_ANSWER:
            found.append(UNPARSABLE)
        elif (
            mean["unparsable"] < 0.5
            and mean["most_common"] >= ONE_ANSWER
            and mean["most_common"] - mean["gold_common"] >= MARGIN
        ):
            found.append(SAME_ANSWER)
        known = [row["entropy"] for row in rows if "entropy" in row]
        # steps whose prompts were all left out have no gradient either, and no entropy to tell
        entropy = fmean(known) if known else (float("inf") if UNPARSABLE in found else 0.0)
        if entropy <= CERTAIN and mean["accuracy"] < SOLVED and self._flat(rows):
            found.append(STUCK)
        if len(self.seen) == 2 * self.window:
            before = list(self.seen)[: self.window]
            kl, reward = fmean(row["kl"] for row in before), fmean(row["reward"] for row in before)
            running = mean["kl"] > RUNAWAY_NATS and mean["kl"] > RUNAWAY_FACTOR * kl
            if running and mean["reward"] <= reward + SMALL_GAIN:
                found.append(KL_RUNAWAY)
        return found

    def _flat(self, rows: list[Mapping[str, float]]) -> bool:
        """Whether the reward of the later half is that of the earlier, but for chance."""
        half = len(rows) // 2
        first, last = ([row["reward"] for row in part] for part in (rows[:half], rows[-half:]))
        error = ((stdev(first) ** 2 + stdev(last) ** 2) / half) ** 0.5
        return abs(fmean(last) - fmean(first)) <= max(SMALL_GAIN, 2 * error)
