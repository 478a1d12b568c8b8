"""Clusters of like texts by their n-grams: a bucket that needs nothing from the environment, beside its own `shape`."""

from __future__ import annotations

import re
from math import ceil

N = 3
"""Characters of an n-gram."""
ALIKE = 0.5
"""Least share of n-grams that a text has in common with the leader of its cluster."""

_NUMBER = re.compile(r"\d+")
_SPACE = re.compile(r"\s+")

Grams = frozenset[str]


def grams(text: str) -> Grams:
    """The set of n-grams of a text, each number read as 0 and each gap as one space; a shorter text is its own gram."""
    plain = _SPACE.sub(" ", _NUMBER.sub("0", text)).strip()
    return frozenset(plain[i : i + N] for i in range(max(len(plain) - N + 1, 1)))


def resemblance(a: Grams, b: Grams) -> float:
    """J = |A & B| / |A | B|. Source: Broder 1997, "On the resemblance and containment of documents"."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class Clusters:
    """Leader clustering: a text joins the cluster whose leader it resembles most, if by ALIKE or more, or leads one.

    Every member resembles its leader by ALIKE at least, and no leader resembles an earlier one so much. What leads
    depends on the order in which texts come. A cluster lasts for as long as it has members, its leader or not.
    Source: the leader algorithm, Hartigan 1975, "Clustering Algorithms", chapter 3.
    """

    def __init__(self) -> None:
        self.leaders: dict[str, str] = {}
        """Name of a cluster -> the text that leads it."""
        self._grams: dict[str, Grams] = {}
        self._sizes: dict[str, int] = {}
        self._places: dict[str, dict[str, None]] = {}  # n-gram -> the leaders that have it

    def find(self, text: str) -> str | None:
        """The name of the cluster that a text would join; None = it would lead its own."""
        mine = grams(text)
        found = [(-resemblance(mine, self._grams[name]), name) for name in self._candidates(mine)]
        best = min(found, default=(0.0, ""))
        return best[1] if -best[0] >= ALIKE else None

    def join(self, name: str, leader: str) -> None:
        """One member more in a cluster, made here with the text of its leader if there is none of this name."""
        if name not in self.leaders:
            self.leaders[name], self._grams[name] = leader, grams(leader)
            for gram in self._grams[name]:
                self._places.setdefault(gram, {})[name] = None
        self._sizes[name] = self._sizes.get(name, 0) + 1

    def leave(self, name: str) -> None:
        """One member less; an empty cluster is forgotten."""
        self._sizes[name] -= 1
        if self._sizes[name]:
            return
        del self._sizes[name], self.leaders[name]
        for gram in self._grams.pop(name):
            del self._places[gram][name]
            if not self._places[gram]:
                del self._places[gram]

    def size(self, name: str | None) -> int:
        """Members of a cluster; 0 = there is none of this name."""
        return self._sizes.get(name or "", 0)

    @property
    def sizes(self) -> list[int]:
        """Members of each cluster."""
        return list(self._sizes.values())

    def _candidates(self, mine: Grams) -> set[str]:
        """Every leader that may resemble a text by ALIKE, found by the rarest of its n-grams.

        J >= t needs |A & B| >= t |A|: a leader lacks at most |A| - ceil(t |A|) of the text's n-grams, so it has one of
        any that many and one more. Source: prefix filtering, Bayardo, Ma & Srikant 2007, "Scaling up all pairs
        similarity search".
        """
        rarest = sorted(mine, key=lambda gram: len(self._places.get(gram, ())))
        enough = len(mine) - ceil(ALIKE * len(mine)) + 1
        return {name for gram in rarest[:enough] for name in self._places.get(gram, ())}
