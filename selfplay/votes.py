"""What siblings agree on: the most common answer to a task, and its share. No truth is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from selfplay.records import Group


def majority(answers: Sequence[str]) -> tuple[str, float]:
    """The most common answer and its share of all of them; of equally common ones the first. Empty ones do not count.

    Source: self-consistency, arXiv:2203.11171; as a label, TTRL, arXiv:2504.16084, and R-Zero, arXiv:2508.05004.
    """
    found = Counter(a for a in answers if a)
    if not found:
        return "", 0.0
    answer, count = found.most_common(1)[0]
    return answer, count / len(answers)


def vote(group: Group) -> tuple[str, float]:
    """The majority answer of a group's judged attempts, and its share."""
    return majority([a.answer for a in group.valid])


def vote_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """How far the vote agrees with itself and with the truth, which is read here and by no pay.

    excess = mean share of the vote - mean solve rate: what votes claim beyond what is so.
    """
    judged = [g for g in groups if g.valid]
    if not judged:
        return {}
    votes = [vote(g) for g in judged]
    right = [
        any(a.answer == answer and a.verdict.status == "ok" for a in g.valid)
        for g, (answer, _) in zip(judged, votes, strict=True)
    ]
    share = float(np.mean([s for _, s in votes]))
    return {
        "vote/share": share,
        "vote/label_accuracy": float(np.mean(right)),
        "vote/excess": share - float(np.mean([g.solve_rate for g in judged])),
    }
