"""The work of a step of each method, and of asking rows, from the rows' tokens: the loops of methods/, actions/ and
ask.py without their numbers.

How many tokens a policy writes is not known before. A policy that has been taught (it starts from an adapter) is taken
to write as many as the task's longest label has; one that has not, all that it may.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..labels import distinguishing
from ..settings import PpoSettings, TrainSettings
from ..tokens import SPARE, Batch
from .sizes import Sizes
from .work import Pass, Rows, Work, decoding, decoding_anew, pass_of, passes, reading, total, updating

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A prompt in tokens with its answers, as `tokens.Encoded`."""

    ids: Ids
    answers: tuple[Ids, ...]
    gold: int = 0
    bridge: int = 0
    """Tokens between what the model writes first and its answer."""
    kind: str = ""
    """Its task."""


@dataclass(frozen=True)
class Counter:
    """Counts the work of one process."""

    sizes: Sizes
    max_tokens: int
    shared: bool = True
    """The model reads what rows share once."""
    taught: bool = True
    """The policy knows how an answer ends."""
    processes: int = 1
    """That share the rows of every step."""
    sharded: bool = False
    """Each holds a part of the frozen weights and fetches the rest layer by layer (FSDP)."""

    # -- passes --------------------------------------------------------------------------------------------------------

    def batches(self, rows: Rows, kinds: Sequence[str]) -> list[Batch]:
        """The micro-batches of some rows."""
        return passes(rows, self.max_tokens, kinds)

    def read(self, batches: Iterable[Batch], back: bool = False, words: bool = True) -> Work:
        """All of them are read."""
        return total(reading(self.sizes, pass_of(batch, self.shared), back, words) for batch in batches)

    def write(self, rows: Sequence[Row], answers: int, tokens: int, room: int, begun: bool = False) -> Work:
        """Answers are sampled, so many to each prompt.

        Args:
            rows: the prompts.
            answers: to each.
            tokens: of an answer.
            room: that an answer may have, by which micro-batches are made.
            begun: the prompts are read already.
        """
        laid_out = [(row.ids, [(0,) * room] * answers) for row in rows]
        found = Work()
        for batch in passes(laid_out, self.max_tokens):
            if not self.shared:
                found += decoding_anew(self.sizes, batch, answers, tokens)
                continue
            if not begun:
                found += reading(self.sizes, pass_of(batch, prompts=True), words=False)
            found += decoding(self.sizes, batch, answers, tokens)
        return found

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, rows: Sequence[Row], decode: str = "score", room: int | None = None, reason: int = 0) -> Work:
        """Every row is asked, labels are scored or answers written: `ask.ask`."""
        rows, found = rows[:: self.processes], Work()
        if reason:
            found += self.write(rows, 1, reason, reason)
            rows = [replace(row, ids=row.ids + (0,) * (reason + row.bridge)) for row in rows]
        if decode == "score":
            pairs = [(row.ids, distinguishing(row.answers)) for row in rows]
            return self._apart(found + self.read(self.batches(pairs, [row.kind for row in rows]), words=False))
        longest = _longest(rows)
        most = room or longest + SPARE
        return self._apart(found + self.write(rows, 1, min(longest, most) if self.taught else most, most))

    # -- steps of training ---------------------------------------------------------------------------------------------

    def step(self, rows: Sequence[Row], settings: TrainSettings) -> Work:
        """One step of `sft` or `ppo`.

        Args:
            rows: of the step, of all processes; with `oversample` N times as many.
            settings: of the run.
        """
        mine = rows[:: self.processes]
        found = self._ppo(mine, settings) if isinstance(settings, PpoSettings) else self._sft(mine, settings)
        return self._apart(found)

    def _sft(self, rows: Sequence[Row], settings: TrainSettings) -> Work:
        pairs = [(row.ids, [row.answers[row.gold]]) for row in rows]
        return self.read(self.batches(pairs, _kinds(rows)), back=True) + self._update(settings)

    def _ppo(self, rows: Sequence[Row], settings: PpoSettings) -> Work:
        found = Work()
        if settings.oversample > 1:
            pairs = [(row.ids, distinguishing(row.answers)) for row in rows]
            found += self.read(self.batches(pairs, _kinds(rows)), words=False)
            rows = rows[:: settings.oversample]
        if settings.over_labels:
            written: Rows = [(row.ids, distinguishing(row.answers)) for row in rows]
            learnt, words = written, False
        else:
            found += self._rollout(rows, settings)
            length = self._length(rows, settings)
            answers = [[(k, *(0,) * (length - 1)) for k in range(settings.answers)] for _ in rows]
            written, words = [(row.ids, a) for row, a in zip(rows, answers, strict=True)], True
            learnt = written
            if settings.sft_coef:
                learnt = [(row.ids, [*a, row.answers[row.gold]]) for row, a in zip(rows, answers, strict=True)]
        whole = self.batches(written, _kinds(rows))
        found += self.read(whole, words=words)  # the reference
        parts = self._minibatches(rows, settings)
        updates = [self.batches([learnt[i] for i in part], [rows[i].kind for i in part]) for part in parts]
        epoch = total(self.read(batches, back=True, words=words) for batches in updates)
        found += epoch * settings.inner_epochs
        if len(updates) > 1 or len(updates[0]) > 1:  # else the old log-probabilities are those of the first epoch
            found += self.read(whole, words=words)
        if self._begun(rows, settings) and len(whole) == 1:  # and the prompts were read for sampling
            found += reading(self.sizes, pass_of(whole[0], prompts=True), words=False) * -1
        return found + self._update(settings) * (settings.inner_epochs * len(updates))

    def _rollout(self, rows: Sequence[Row], settings: PpoSettings) -> Work:
        """Answers are written, of which `_length` tells how long they are."""
        found, K, room = Work(), settings.answers, self._room(rows, settings)
        if not settings.reason:
            return self.write(rows, K, self._own(rows, settings), room)
        found += self.write(rows, K, settings.reason, settings.reason)
        thought = [replace(row, ids=row.ids + (k,) * (settings.reason + row.bridge)) for row in rows for k in range(K)]
        return found + self.write(thought, 1, self._own(rows, settings), room)

    def _begun(self, rows: Sequence[Row], settings: PpoSettings) -> bool:
        """Whether the prompts are read once for sampling and for gradients (`actions.text`)."""
        if settings.over_labels or settings.reason or not self.shared or len(set(_kinds(rows))) > 1:
            return False
        laid_out = [(row.ids, [(0,) * self._room(rows, settings)] * settings.answers) for row in rows]
        return len(self._minibatches(rows, settings)) == 1 and len(passes(laid_out, self.max_tokens)) == 1

    def _minibatches(self, rows: Sequence[Row], settings: PpoSettings) -> list[range]:
        size = max(1, (settings.minibatch or self.processes * len(rows)) // self.processes)
        return [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]

    def _room(self, rows: Sequence[Row], settings: PpoSettings) -> int:
        return settings.answer_tokens or _longest(rows) + SPARE

    def _own(self, rows: Sequence[Row], settings: PpoSettings) -> int:
        """Tokens of an answer alone."""
        room = self._room(rows, settings)
        return min(_longest(rows), room) if self.taught else room

    def _length(self, rows: Sequence[Row], settings: PpoSettings) -> int:
        """Tokens of all that is written to a prompt, and of the bridge."""
        before = settings.reason + max(row.bridge for row in rows) if settings.reason else 0
        return self._own(rows, settings) + before

    def _update(self, settings: TrainSettings) -> Work:
        return self.updated(settings.optimizer)

    def updated(self, optimizer: str) -> Work:
        """One step of the optimizer; before it processes add up their gradients, on a ring."""
        found = updating(self.sizes, optimizer)
        if self.processes == 1:
            return found
        around = 2 * (self.processes - 1) / self.processes
        return replace(found, reduced=4.0 * self.sizes.trained * around, messages=1.0)

    def _apart(self, found: Work) -> Work:
        """With what is fetched from other processes, where weights are shared out among them."""
        if not self.sharded or self.processes == 1:
            return found
        elsewhere = self.sizes.layer * self.sizes.bytes * (self.processes - 1) / self.processes
        return replace(found, gathered=elsewhere * (found.calls + found.back_calls + found.decode_calls))

    # -- classification heads ------------------------------------------------------------------------------------------

    def classify(self, lengths: Sequence[int], back: bool, at_once: int | None = None) -> Work:
        """Texts of these lengths in tokens, padded to the longest that goes through the model with them.

        Args:
            lengths: of the texts.
            back: a step of training; else they are put in order and only read.
            at_once: texts that go through the model together.
        """
        mine = list(lengths[:: self.processes]) if back else sorted(lengths[:: self.processes], reverse=True)
        size, found = at_once or max(1, len(mine)), Work()
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            n, T = len(part), max(part)
            found += reading(self.sizes, Pass(n * T, n, n * T * T, n * T, n), back, words=False)
        return self._apart(found + (self.updated("adamw") if back else Work()))


def _kinds(rows: Sequence[Row]) -> list[str]:
    return [row.kind for row in rows]


def _longest(rows: Sequence[Row]) -> int:
    return max(len(answer) for row in rows for answer in row.answers)
