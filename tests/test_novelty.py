"""Clusters of like texts: numbers do not tell them apart, and what is found is what a search of all leaders finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.novelty import ALIKE, Clusters, grams, resemblance

texts = st.lists(st.text("abc", max_size=8), max_size=25)


def clustered(given_: list[str]) -> tuple[Clusters, list[str]]:
    """Clusters named by the place of their leader, and the cluster of each text."""
    clusters, names = Clusters(), []
    for place, text in enumerate(given_):
        name = clusters.find(text) or str(place)
        clusters.join(name, text)
        names.append(name)
    return clusters, names


def test_grams_by_hand() -> None:
    assert grams("12 345|ab") == {"0 0", " 0|", "0|a", "|ab"}
    assert grams("a \n\t b") == {"a b"} and grams("ab") == {"ab"} and grams("") == {""}


def test_resemblance_by_hand() -> None:
    assert resemblance(grams("abcd"), grams("abce")) == pytest.approx(1 / 3)  # abc | bcd, bce
    assert resemblance(grams("abcd"), grams("abcd")) == 1 and resemblance(grams("abc"), grams("xyz")) == 0


def test_numbers_and_gaps_do_not_tell_texts_apart_and_programs_do() -> None:
    programs = ["8 3 9 6|cdx|mod 10", "17 4 4 0|cdx|mod 7", "8  3 9 6|cdx|mod  10", "8 3 9 6|rls|mod 10"]
    assert clustered(programs)[1] == ["0", "0", "0", "3"]


def test_the_leader_most_alike_wins_and_an_empty_cluster_is_forgotten() -> None:
    clusters, names = clustered(["abcdef", "cdefgh", "abcdeg"])
    assert names == ["0", "1", "0"]  # with abcdef it shares 3 of 5 n-grams, with cdefgh 1 of 7
    assert sorted(clusters.sizes) == [1, 2] and clusters.size("0") == 2 and clusters.size(None) == 0
    clusters.leave("0")
    assert clusters.find("abcdef") == "0"  # the text of the leader still leads
    clusters.leave("0")
    assert clusters.find("abcdef") is None and clusters.size("0") == 0 and clusters.leaders == {"1": "cdefgh"}


@given(texts)
def test_members_are_like_their_leader_and_leaders_unlike_each_other(given_: list[str]) -> None:
    clusters, names = clustered(given_)
    for text, name in zip(given_, names, strict=True):
        assert resemblance(grams(text), grams(given_[int(name)])) >= ALIKE
    leading = [grams(text) for text in clusters.leaders.values()]
    assert all(resemblance(a, b) < ALIKE for i, a in enumerate(leading) for b in leading[:i])
    assert sum(clusters.sizes) == len(given_)


@given(texts, st.text("abc", max_size=8))
def test_the_rarest_grams_find_what_a_search_of_all_finds(given_: list[str], asked: str) -> None:
    clusters, _ = clustered(given_)
    ranked = sorted((-resemblance(grams(asked), grams(text)), name) for name, text in clusters.leaders.items())
    best = ranked[0] if ranked else (0.0, "")
    assert clusters.find(asked) == (best[1] if -best[0] >= ALIKE else None)
