"""`chain`: worked by hand, the normal form is sound, and nothing a model writes breaks it."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.base import SPLITS, EnvUserError, Proposable, Rejection, Task, digest, split_of
from envs.chain import Chain
from envs.chain_rules import GUESS_STATES, LAST, OPERATORS, VALUE, guess_share, idle, normal_form, run

COMPACT = Chain()
WORDS = Chain(form="words")
WORDS_10 = Chain(form="words", modulus=10)
BRIEF = Chain(form="brief")
NARROW = Chain(
    form="brief", operators=["sort", "largest", "last", "increment"], values=[0, 9], digits=[1, 3],
    propose_digits=[1, 3], propose_operators=[1, 2], guess_limit=0.5,
)  # fmt: skip

programs = st.text(alphabet=OPERATORS, min_size=1, max_size=14)


def admitted(env: Chain, text: str) -> Task:
    """The task of a proposal, whatever its split: the tests below choose their cases by hand, not by hash."""
    found = env.form.read_problem(text)
    assert found is not None
    state, program = found
    normal = normal_form(program, len(state), env.modulus)
    return env._task("solve", "train", 0, -1, state, program, normal, "any")


@pytest.mark.parametrize(
    ("problem", "worked"),
    [
        ("3142rsi", "2413si=1234i=2345"),  # the brief's own example
        ("3142r", "2413"),
        ("3142s", "1234"),
        ("3142l", "1423"),
        ("3142x", "2143"),
        ("3192i", "4203"),  # 9 + 1 = 0 modulo 10
        ("3192d", "6284"),  # 2 * 9 = 18 -> 8
        ("3192c", "6807"),
        ("907lx", "079x=970"),
        ("98215dc", "86420c=13579"),
    ],
)
def test_every_operator_by_hand(problem: str, worked: str) -> None:
    task = admitted(COMPACT, problem)
    assert task.prompt[0].text == problem + "=" and task.prompt[0].role == "user"
    assert COMPACT.gold(task) == worked
    assert COMPACT.verify(task, worked).reward == 1.0


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("2345", "ok"),
        ("2413si=1234i=2345", "ok"),
        ("nonsense=2345", "ok"),  # steps are not judged
        ("2413si=1234i= 2345 \n", "ok"),
        ("2413si=1234i=2346", "wrong"),
        ("02345", "wrong"),
        ("2345=", "unparsed"),
        ("2345i", "unparsed"),
        ("", "unparsed"),
        ("\u0662\u0663\u0664\u0665", "unparsed"),  # Arabic-Indic digits
    ],
)
def test_verdicts_by_hand(text: str, status: str) -> None:
    task = admitted(COMPACT, "3142rsi")
    verdict = COMPACT.verify(task, text)
    assert (verdict.status, verdict.reward) == (status, float(status == "ok"))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("reverse: [5, 8, 3]\nlargest: 8\n<answer>8</answer>", "ok"),
        ("8", "ok"),
        ("The result is 8.", "ok"),
        ("largest = 8", "ok"),
        ("<answer>8</answer> of [5, 8, 3]", "ok"),
        ("<answer>3</answer> no, <answer>8</answer>", "ok"),  # the last tag counts
        ("<answer>8</answer> no, <answer>3</answer>", "wrong"),
        ("[8]", "wrong"),
        ("-8", "wrong"),
        ("eight", "unparsed"),
        ("<answer></answer>", "unparsed"),
        ("9" * 5000, "unparsed"),
    ],
)
def test_verdicts_in_words(text: str, status: str) -> None:
    task = admitted(WORDS, "reverse [3, 8, 5], then largest")
    assert WORDS.verify(task, text).status == status


def test_words_by_hand() -> None:
    task = admitted(WORDS, "sort [30, 8, 99], then increment, then double, then sum")
    # sorted 8 30 99; +1: 9 31 0 (99 wraps); doubled: 18 62 0; sum 80
    assert WORDS.gold(task) == (
        "sort: [8, 30, 99]\nincrement: [9, 31, 0]\ndouble: [18, 62, 0]\nsum: 80\n<answer>80</answer>"
    )
    assert "sort [30, 8, 99], then increment, then double, then sum." in task.prompt[0].text
    assert WORDS.verify(admitted(WORDS, "rotate [3, 8, 5]"), "I get [8,5,3]").status == "ok"


def test_brief_by_hand() -> None:
    task = admitted(BRIEF, "reverse [3, 8, 5], then sum")
    assert task.prompt[0].text == "reverse [3, 8, 5], then sum" and BRIEF.gold(task) == "[5, 8, 3] -> 16"
    for problem, gold in (
        ("sort [3, 1, 2]", "[1, 2, 3]"), ("last [4, 9, 1]", "1"), ("first [4, 9, 1]", "4"), ("increment [9]", "[10]"),
        ("largest [4, 9, 1]", "9"), ("sort [4, 9, 1], then first", "[1, 4, 9] -> 1"),
    ):  # fmt: skip
        assert BRIEF.gold(admitted(BRIEF, problem)) == gold
        assert BRIEF.verify(admitted(BRIEF, problem), f" {gold}").reward == 1
        assert BRIEF.verify(admitted(BRIEF, problem), "7").reward == 0
    assert BRIEF.ask("solve", (), 0)[0].text == "new task"
    assert BRIEF.ask("solve", [task], 0)[0].text == "new task, other than: reverse [3, 8, 5], then sum"
    assert task.key == admitted(WORDS, "reverse [3, 8, 5], then sum").key


def test_options_narrow_tasks_and_proposals_alike() -> None:
    tasks = [NARROW.task(split, i, 0, difficulty=1) for split in SPLITS for i in range(20)]
    assert {t.payload["program"] for t in tasks} == {"s", "g", "e", "i"}
    assert all(1 <= len(t.payload["state"]) <= 3 and max(t.payload["state"]) <= 9 for t in tasks)
    for task in tasks:
        found = NARROW.admit("solve", NARROW.offer(task), (), 0)
        assert (found.key == task.key) if isinstance(found, Task) else (found.reason, task.split != "train") == (
            "held_out", True,
        )  # fmt: skip
    assert outcome(NARROW, "reverse [3, 1, 2]") == "bounds"  # not in use
    assert outcome(NARROW, "sort [3, 10, 2]") == "bounds" and outcome(NARROW, "sort [3, 1, 2, 0]") == "bounds"
    assert Chain(form="brief", operators=["largest", "last"]).spec.difficulties == (1,)  # nothing to put before them
    said = Chain(form="words", operators=["sort"], values=(1, 9)).ask("solve", (), 0)[0].text
    assert "this kind: sort [3, 8, 5]\n" in said and "from 1 to 9" in said and "reverse" not in said


def test_the_guess_share_is_over_the_numbers_in_use() -> None:
    largest = normal_form("g", 3, 100)
    # P(max of three digits = 9) = 1 - .9^3 = .271; of three numbers below 100, P(99) = .03
    assert guess_share(largest, 100, (0, 9)) == pytest.approx(0.271, abs=0.08)
    assert guess_share(largest, 100) < 0.1
    assert outcome(Chain(form="brief", values=(0, 9)), "largest [7, 1, 2]") == "guessable"


def test_prompts_for_proposals() -> None:
    shown = [admitted(COMPACT, "3142rsi"), admitted(COMPACT, "98215dc")]
    assert COMPACT.ask("solve", (), 0)[0].text == "?"
    assert COMPACT.ask("solve", shown, 0)[0].text == "3142rsi?98215dc?"
    assert COMPACT.offer(shown[0]) == "3142rsi" and COMPACT.shape(shown[0]) == "irs"
    said = WORDS.ask("solve", [admitted(WORDS, "sort [3, 1, 2]")], 0)[0].text
    assert "\nsort [3, 1, 2]\n" in said and "3 to 6 whole numbers from 0 to 99" in said


@given(
    programs,
    st.sampled_from(["", *LAST]),
    st.sampled_from([10, 100]),
    st.lists(st.integers(0, 9), min_size=1, max_size=7),
)
def test_the_normal_form_computes_what_the_program_does(
    program: str, last: str, modulus: int, state: list[int]
) -> None:
    text = program + last
    normal = normal_form(text, len(state), modulus)
    assert normal.apply(tuple(state), modulus) == run(tuple(state), text, modulus)[-1]


@given(programs, programs, st.integers(3, 5), st.integers(0, 2**32))
def test_equal_normal_forms_agree_everywhere(one: str, two: str, length: int, seed: int) -> None:
    if normal_form(one, length, 10) == normal_form(two, length, 10):
        rng = random.Random(seed)
        for _ in range(20):
            state = tuple(rng.randrange(10) for _ in range(length))
            assert run(state, one, 10)[-1] == run(state, two, 10)[-1]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("srr", "s"), ("scc", "s"), ("sxx", "s"), ("ss", "s"), ("rs", "s"), ("xs", "s"), ("ls", "s"), ("ils", "is"),
        ("iiiiiiiiiii", "i"), ("ir", "ri"), ("dl", "ld"), ("cx", "xc"), ("sis", "is"), ("llll", "rr"), ("rlr", "lll"),
        ("rlrl", "xx"), ("dsis", "dis"), ("lsc", "sc"),
        ("rf", "e"), ("xe", "f"), ("lllf", "e"), ("le", "f"), ("rie", "if"),
    ],
)  # fmt: skip
def test_aliases_share_a_family(one: str, two: str) -> None:
    assert normal_form(one, 4, 10) == normal_form(two, 4, 10)


def test_what_does_not_commute_has_another_family() -> None:
    for one, two in (("si", "is"), ("id", "di"), ("sr", "rs"), ("rl", "lr"), ("xl", "lx"), ("ic", "ci")):
        assert normal_form(one, 4, 10) != normal_form(two, 4, 10)


def test_the_key_ignores_the_surface_form() -> None:
    compact, words = admitted(COMPACT, "3142rsi"), admitted(WORDS_10, "reverse [3, 1, 4, 2], then sort, then increment")
    assert compact.key == words.key and compact.prompt != words.prompt
    wide = admitted(WORDS, "reverse [3, 1, 4, 2], then sort, then increment")
    assert wide.key != words.key  # 9 + 1 is 10 there
    assert admitted(WORDS, "reverse [3, 1, 4, 2]").key == admitted(COMPACT, "3142r").key  # nothing wraps
    assert compact.key != admitted(COMPACT, "3142ris").key


@pytest.mark.parametrize(
    "env", [COMPACT, WORDS, WORDS_10, BRIEF, Chain(digits=(2, 8))], ids=["compact", "words", "mod10", "brief", "wide"]
)
def test_tasks(env: Chain) -> None:
    assert isinstance(env, Proposable)
    families: dict[str, set[str]] = {}
    for split in SPLITS:
        families[split] = set()
        for index in range(60):
            difficulty = 1 + index % 10
            task = env.task(split, index, 5, difficulty=difficulty)
            assert (task.split, task.index, task.difficulty) == (split, index, difficulty)
            assert len(task.payload["program"]) == difficulty
            assert split_of("chain", task.family) == split
            gold = env.gold(task)
            assert env.verify(task, gold).reward == 1.0
            assert env.verify(task, env.offer(task)).reward == 0.0
            assert len(gold) + 1 <= env.spec.max_new_tokens and len(env.offer(task)) + 1 <= env.spec.propose_tokens
            copy = msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Task)
            assert copy == task and env.verify(copy, gold).reward == 1.0
            families[split].add(task.family)
    assert not families["train"] & families["test"] and not families["train"] & families["dev"]
    assert not families["dev"] & families["test"]


def test_the_longest_answer_just_fits() -> None:
    task = COMPACT.task("train", 0, 0, difficulty=10)
    assert len(COMPACT.gold(task)) + 1 == COMPACT.spec.max_new_tokens == 95  # 4*10 digits, 45 operators, 9 signs, 1 end


def test_a_place_is_one_task_and_another_place_another() -> None:
    assert COMPACT.task("test", 3, 7) == Chain().task("test", 3, 7)
    keys = {COMPACT.task("train", index, seed, difficulty=6).key for index in range(50) for seed in range(2)}
    assert len(keys) == 100
    assert {COMPACT.task("train", index, 0).difficulty for index in range(200)} == set(range(1, 11))


def test_known_keys_never_move() -> None:
    """A change of these numbers is a change of every run: raise spec.version then."""
    assert admitted(COMPACT, "3142rsi").content == "3 1 4 2|rsi|mod 10"
    assert [COMPACT.task("test", i, 0, difficulty=3).content for i in range(3)] == KNOWN


KNOWN = ["7 3 4 3|ixx|mod 10", "3 3 0 7|idd|mod 10", "5 0 7 7|xrx"]


def outcome(env: Chain, text: str) -> str:
    found = env.admit("solve", text, (), 0)
    return found.reason if isinstance(found, Rejection) else "task"


@pytest.mark.parametrize(
    ("env", "text", "reason"),
    [
        (COMPACT, "", "format"),
        (COMPACT, "3142", "format"),
        (COMPACT, "rsi", "format"),
        (COMPACT, "3142rsi=", "format"),
        (COMPACT, "3142rsi?1234r", "format"),
        (COMPACT, "3142rsg", "format"),  # largest is only said in words
        (COMPACT, "31r", "bounds"),
        (COMPACT, "3142314r", "bounds"),
        (COMPACT, "3142" + "i" * 13, "bounds"),
        (COMPACT, "3142rr", "answer_in_prompt"),
        (COMPACT, "3333r", "bounds"),
        (COMPACT, "1234cc", "answer_in_prompt"),
        (WORDS, "reverse [3, 8, 500]", "bounds"),
        (WORDS, "reverse [3, 8]", "bounds"),
        (WORDS, "reverse [3, 8, 5], then sum, then sort", "format"),
        (WORDS, "reverse [3, , 5]", "format"),
        (WORDS, "explode [3, 8, 5]", "format"),
        (WORDS, "largest [7, 7, 7]", "answer_in_prompt"),
        (WORDS_10, "sort [7, 1, 2, 4, 5], then largest", "guessable"),  # 9 is there in 41 % of lists
        (WORDS_10, "double [7, 1, 2], then largest", "guessable"),  # 8 in 49 %
    ],
)
def test_rejections_by_name(env: Chain, text: str, reason: str) -> None:
    assert outcome(env, text) == reason


@given(st.text(max_size=40))
def test_a_split_follows_the_digest_of_env_and_family(family: str) -> None:
    u = int(digest("split", "chain", family)[:12], 16) / 16**12
    assert split_of("chain", family) == ("dev" if u < 0.1 else "test" if u < 0.2 else "train")


def test_admission_follows_the_split_of_the_family() -> None:
    outcomes = dict.fromkeys(SPLITS, 0)
    aliases = ("di", "rdir", "dicc", "ldilll")
    numbers = [n for n in range(1000, 1600) if all(idle(tuple(map(int, str(n))), a, 10) is None for a in aliases)]
    for number in numbers:
        family = f"{' '.join(str(number))}|2v+1 mod 10"  # double, increment: 2 v + 1
        split = split_of("chain", family)
        outcomes[split] += 1
        for alias in aliases:  # an alias of a held-out task is held out too
            found = COMPACT.admit("solve", f" {number}{alias}\n", (), 9)
            if split == "train":
                assert isinstance(found, Task) and found.family == family
                assert (found.origin, found.index, found.split) == ("proposed", -1, "train")
                assert found.difficulty == len(alias)
            else:
                assert isinstance(found, Rejection) and found.reason == "held_out"
    assert min(outcomes.values()) > 10


def test_parents_are_the_shown_tasks() -> None:
    shown = [COMPACT.task("train", i, 0) for i in range(2)]
    own = COMPACT.task("train", 9, 0)
    found = COMPACT.admit("solve", COMPACT.offer(own), shown, 4)
    assert isinstance(found, Task)
    assert found.parents == tuple(task.key for task in shown) and found.key == own.key and found.seed == 4


@given(programs)
@settings(max_examples=30)
def test_the_guess_share_is_that_of_the_program_itself(program: str) -> None:
    """Leaving out the last constant and the order does not change how well a constant does."""
    normal = normal_form(program, 3, 10)
    rng = random.Random(1)
    states = [tuple(rng.randrange(10) for _ in range(3)) for _ in range(4000)]
    answers = [normal.apply(state, 10) for state in states]
    share = max(answers.count(answer) for answer in set(answers[:50])) / len(states)
    assert abs(guess_share(normal, 10) - share) < 0.06
    assert guess_share(normal, 10) >= 1 / GUESS_STATES


def test_a_stricter_guess_limit_refuses_more() -> None:
    strict = Chain(form="words", guess_limit=0.0)
    assert outcome(strict, "reverse [3, 8, 5]") == "guessable"


junk = st.text(max_size=80) | st.text(alphabet=OPERATORS + "0123456789=?[], <>/answer", max_size=80)


@given(junk)
@settings(max_examples=150)
def test_verify_and_admit_are_total(text: str) -> None:
    for env in (COMPACT, WORDS):
        task = env.task("train", 0, 0, difficulty=4)
        verdict = env.verify(task, text)
        assert verdict.status in ("ok", "wrong", "unparsed")
        assert (verdict.reward == 1.0) == (env.parse(task, text) == task.payload["answer"])
        found = env.admit("solve", text, (), 0)
        if isinstance(found, Task):
            assert env.verify(found, env.gold(found)).reward == 1.0
            again = env.admit("solve", env.offer(found), (), 1)
            assert isinstance(again, Task) and again.key == found.key


@given(st.lists(st.integers(0, 9), min_size=3, max_size=6), programs.filter(lambda p: len(p) <= 12))
def test_what_is_well_formed_is_admitted_or_turned_down_by_name(state: list[int], program: str) -> None:
    text = "".join(map(str, state)) + program
    found = COMPACT.admit("solve", text, (), 0)
    if isinstance(found, Task):
        assert COMPACT.offer(found) == text
    else:
        if idle(tuple(state), program, 10) is not None:
            assert found.reason == "bounds" and "changes nothing" in found.detail
        else:
            assert found.reason in ("guessable", "answer_in_prompt", "held_out")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"form": "word"}, "chain: option form must be one of compact, words, brief, got 'word'; did you mean words?"),
        ({"digits": 4}, "chain: option digits must be two whole numbers from 2 to 12, the smaller first, got 4"),
        ({"digits": [5, 4]}, "the smaller first, got [5, 4]"),
        ({"digits": [1, 4]}, "from 2 to 12"),
        ({"operators": ["sort", "largets"], "form": "brief"}, "got 'largets'; did you mean largest"),
        ({"operators": "first", "form": "words"}, "option operators must be one of reverse, sort,"),
        ({"operators": [], "form": "words"}, "option operators must name at least one of reverse,"),
        ({"values": [0, 100], "form": "words"}, "option values must be two whole numbers from 0 to 99"),
        ({"modulus": 100}, "chain: option modulus must be one of 10, got 100"),
        ({"guess_limit": 2}, "chain: option guess_limit must be a number from 0 to 1, got 2"),
        ({"propose_operators": [0, 3]}, "chain: option propose_operators must be two whole numbers from 1 to 24"),
        ({"numbers": 3}, "chain: unknown option 'numbers'"),
        ({"digit": [4, 4]}, "did you mean digits"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)) as raised:
        envs.make("chain", **options)
    assert "\n" not in str(raised.value)


def test_wrong_places_are_one_line() -> None:
    with pytest.raises(EnvUserError, match="no difficulty 11"):
        COMPACT.task("train", 0, 0, difficulty=11)
    with pytest.raises(EnvUserError, match="no mode 'slove'; did you mean solve"):
        COMPACT.task("train", 0, 0, mode="slove")
    with pytest.raises(EnvUserError, match="index must be 0 or more"):
        COMPACT.task("train", -1, 0)


def test_value_operators_stay_within_the_modulus() -> None:
    for modulus in (10, 100):
        for f in VALUE.values():
            assert {f(v, modulus) for v in range(modulus)} <= set(range(modulus))
