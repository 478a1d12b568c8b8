"""What rows have drawn so far, on the host: tokens, log-probabilities, and where each of them stopped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfplay.models.tokenizer import Tokenizer
from selfplay.records import Finish, SamplingSpec

LEAD = 4
"""Tokens kept before the longest stop text: a decoder may treat the first one otherwise (it drops a leading space)."""


@dataclass(frozen=True)
class Completion:
    """What the policy wrote in one row."""

    ids: np.ndarray
    """[n] int32: the drawn tokens, the end-of-sequence token included when it was drawn."""
    logprobs: np.ndarray
    """[n] float32, nats, of the distribution drawn from: after temperature, top-k and top-p."""
    finish: Finish
    """`abandoned` = a hole: nothing was asked of this row."""


class Written:
    """What each row of a call has drawn so far, on the host."""

    def __init__(self, rows: int, spec: SamplingSpec, tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> None:
        self.tokens = np.zeros((rows, spec.max_new_tokens), np.int32)
        self.logprobs = np.zeros((rows, spec.max_new_tokens), np.float32)
        self.count = np.zeros(rows, np.int64)
        self.stopped = np.zeros(rows, bool)
        self.reach = max((len(s.encode()) for s in spec.stop), default=0) + LEAD
        self.tails: list[list[int]] = [[] for _ in range(rows)]
        """The last tokens of each row that give text: as many as a stop text still to come can begin in."""
        self.spec, self.tokenizer, self.eos_ids = spec, tokenizer, eos_ids

    def add(self, rows: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Take in the next tokens [n T] of some rows [n], of each the first `drawn` [n], and none after its end.

        Returns which of them go on, [n] bool.
        """
        before, steps = self.count[rows], np.arange(tokens.shape[1])
        most = np.minimum(drawn, self.spec.max_new_tokens - before)
        ended = np.isin(tokens, self.eos_ids) & (steps < most[:, None])
        counted = np.where(ended.any(1), ended.argmax(1) + 1, most)
        within = steps < counted[:, None]
        place = np.broadcast_to(rows[:, None], within.shape)[within], (before[:, None] + steps)[within]
        self.tokens[place], self.logprobs[place] = tokens[within], logprobs[within]
        self.count[rows] = before + counted
        going: np.ndarray = ~ended.any(1) & (self.count[rows] < self.spec.max_new_tokens)
        if self.spec.stop:
            for row, start in zip(rows, before, strict=True):
                self._stop(row, start)
            going &= ~self.stopped[rows]
        return going

    def completions(self, asked: np.ndarray) -> list[Completion]:
        """One a row, in row order."""
        done = []
        for row, n in enumerate(self.count):
            ids = self.tokens[row, :n].copy()
            finish: Finish = "length"
            if not asked[row]:
                finish = "abandoned"
            elif self.stopped[row]:
                finish = "stop"
            elif n and ids[-1] in self.eos_ids:
                finish = "eos"
            done.append(Completion(ids, self.logprobs[row, :n].copy(), finish))
        return done

    def _stop(self, row: int, at: int) -> None:
        """Cut a row right after the first token with which its text holds a stop text.

        A token that gives text gives a byte or more, so the stop text lies in the last `reach` such tokens: what is
        decoded for a token does not grow with the row.
        """
        new = self.tokens[row, at : self.count[row]].tolist()
        tail = self.tails[row]
        if self._holds_stop(tail + new):
            for n in range(1, len(new) + 1):
                if self._holds_stop(tail + new[:n]):
                    self.count[row], self.stopped[row] = at + n, True
                    return
        self.tails[row] = [t for t in tail + new if not self.tokenizer.silent(t)][-self.reach :]

    def _holds_stop(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(ids)
        return any(stop in text for stop in self.spec.stop)
