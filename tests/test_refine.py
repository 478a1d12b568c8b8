"""Pay, credit, then filter, in this order: worked by hand on groups that were never sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from envs.base import Message, Reason, Rejection, Status, Task, Verdict
from selfplay.archive import TaskArchive
from selfplay.config import Acquire, Credit, Critic, Kl, Propose, RoleConfig, Run, Update
from selfplay.experience import experience_metrics
from selfplay.packing import minibatches
from selfplay.records import ROLES, Finish, Group, PolicyRef, Role, Trajectory
from selfplay.refine import Refined, proposal_pay, refine

REF = PolicyRef("main", 0)
PROMPT, OWN = 2, 3
"""Tokens of every prompt, and of every completion."""
MASK = np.arange(PROMPT + OWN) >= PROMPT


class Weights:
    """Stands in for the learner's weights: the same value and reference log-probability at every policy token."""

    def __init__(self, *, value: float = 0.0, reference: float = -1.0) -> None:
        self.value, self.reference = value, reference

    def values(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        return [np.where(t.mask, self.value, 0.0).astype(np.float32) for t in trajectories]

    def reference_logprobs(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        return [np.where(t.mask, self.reference, 0.0).astype(np.float32) for t in trajectories]


def task(n: int) -> Task:
    return Task(
        env="chain", env_version="1", split="train", seed=n, index=-1, mode="solve", difficulty=1, content=f"task {n}",
        family=f"task {n}", prompt=(Message("user", f"{n}?"),), payload={}, origin="proposed",
    )  # fmt: skip


def said(role: Role, status: Status, *, finish: Finish = "eos", parent: str = "") -> Trajectory:
    return Trajectory(
        role=role, policy=REF, ids=np.arange(PROMPT + OWN, dtype=np.int32), mask=MASK.copy(),
        behaviour_logprobs=np.where(MASK, -0.5, 0.0).astype(np.float32), turn_starts=(PROMPT,), finish=(finish,),
        verdict=Verdict(float(status == "ok"), status), text="", parent_key=parent,
    )  # fmt: skip


def attempt(letter: str) -> Trajectory:
    """k = solved, w = wrong, t = cut off and so wrong, e = the environment failed."""
    status: Status = {"k": "ok", "w": "wrong", "t": "wrong", "e": "env_error"}[letter]  # type: ignore[assignment]
    return said("solve", status, finish="length" if letter == "t" else "eos")


def groups(*outcomes: str, parent: str = "ask", proposed: bool = True) -> list[Group]:
    """One group an outcome: "2:kw" = task 2, attempted twice; a reason = a proposal that was rejected for it."""
    out = []
    for row, outcome in enumerate(outcomes):
        name, colon, letters = outcome.partition(":")
        reason: Reason = name  # type: ignore[assignment]
        out.append(
            Group(
                generation=1, step=1, unit=0, row=row, kind="propose" if proposed else "solve", env="chain",
                mode="solve", split="train", seats={"propose": REF, "solve": REF},
                task=task(int(name)) if colon else None, rejection=None if colon else Rejection(reason),
                proposal=said("propose", "ok" if colon else "unparsed", parent=parent) if proposed else None,
                attempts=tuple(map(attempt, letters)),
            )
        )  # fmt: skip
    return out


def make_run(*, solve: Mapping[str, Any] | None = None, **fields: Any) -> Run:
    """A run with group size 2, with other fields of the solver's role and of the run as given."""
    roles = {"propose": RoleConfig(credit=Credit(key=("parent",))), "solve": RoleConfig(**(solve or {}))}
    return Run(**{"acquire": Acquire(group_size=2, tasks_per_unit=8), "roles": roles, **fields})


def refined(found: Sequence[Group], run: Run, weights: Weights | None = None) -> Refined:
    planned: dict[Role, int] = {"propose": len(found), "solve": 2 * len(found)}
    return refine(found, run=run, planned=planned, baselines={}, scorer=weights or Weights())


def by_role(result: Refined, role: Role) -> list[tuple[float, float | None, bool]]:
    """(reward, advantage or None where masked, in the loss) of a role's trajectories, in order."""
    kept = {id(item.trajectory): item for item in result.items}
    return [
        (p.reward, result.advantages.get(i), id(p.trajectory) in kept and kept[id(p.trajectory)].in_loss)
        for i, p in enumerate(result.paid)
        if p.trajectory.role == role
    ]


def test_pay_then_credit_then_filter_by_hand() -> None:
    # p = 0, 1/2, 1 and one invalid proposal: pay 0, 1, 0, -1/2, their mean 1/8.
    result = refined(groups("1:ww", "2:kw", "3:kk", "format"), make_run())
    assert by_role(result, "propose") == [(0, -0.125, True), (1, 0.875, True), (0, -0.125, True), (-0.5, -0.625, True)]
    # Solvers: nothing to learn where all fail or all succeed; +-1/2 where half do.
    assert by_role(result, "solve") == [
        (0, 0, False), (0, 0, False), (1, 0.5, True), (0, -0.5, True), (1, 0, False), (1, 0, False),
    ]  # fmt: skip


def test_a_dropped_attempt_still_counts() -> None:
    run = make_run()
    found = groups("1:ww", "2:kw", "3:kk", "format")
    result = refined(found, run)
    assert [p.trajectory.role for p in result.paid] == [
        "propose", "solve", "solve", "propose", "solve", "solve", "propose", "solve", "solve", "propose",
    ]  # fmt: skip
    assert len(result.items) == 10 and result.planned == {"propose": 4, "solve": 8}
    curves = experience_metrics(result, TaskArchive(9), run)
    assert curves["reward/solve"] == 0.5 and curves["reward/propose"] == 0.125
    assert curves["group/zero_adv_frac"] == pytest.approx(2 / 3) and curves["group/masked_frac"] == 0
    assert curves["solve_rate/chain"] == 0.5 and curves["propose/valid_frac"] == 0.75
    assert curves["propose/reject/format"] == 0.25 and curves["propose/learnability"] == pytest.approx(1 / 3)
    assert (curves["curriculum/p_zero_frac"], curves["curriculum/p_one_frac"]) == (pytest.approx(1 / 3),) * 2
    archive = TaskArchive(9)
    archive.record(result.groups)
    assert [(e.attempts, e.solves) for e in archive] == [(2, 0), (2, 1), (2, 2)]
    # The dropped ones are in no batch, but the denominator is what was planned: 4 proposals, 8 attempts.
    batches = minibatches(
        result.items, policy="main", planned=result.planned, roles=run.roles, update=replace(run.update, minibatches=1),
        seed=0,
    )  # fmt: skip
    [batch] = batches
    assert [int(batch.mask[batch.roles == i].sum()) for i in range(len(ROLES))] == [4 * OWN, 2 * OWN, 0]
    for i, count in enumerate((4, 8)):
        weights = batch.weights[(batch.roles == i) & batch.mask]
        np.testing.assert_allclose(weights, 1 / count, rtol=1e-6)


def test_groups_without_a_task_that_all_fail_leave_only_proposals() -> None:
    result = refined(groups("format", "bounds"), make_run())
    assert by_role(result, "propose") == [(-0.5, 0, False), (-0.5, 0, False)]
    assert by_role(result, "solve") == []


def test_every_copy_of_a_repeat_bears_the_penalty() -> None:
    # Two of four proposals are one task: each pays .2 x 2/4 and the flat .3; all else is paid in full.
    run = make_run(propose=Propose(repeat_penalty=0.2, repeat_flat=0.3))
    found = groups("1:kw", "2:kw", "1:ww", "format")
    assert proposal_pay(found, run) == pytest.approx([1 - 0.1 - 0.3, 1, 0 - 0.1 - 0.3, -0.5])
    assert proposal_pay(found[::-1], run) == pytest.approx(proposal_pay(found, run)[::-1])
    twice = groups("1:kw", "1:kw")
    assert proposal_pay(twice, run) == pytest.approx([1 - 0.2 - 0.3] * 2)  # nothing makes the first one the original


def test_copies_are_counted_by_task_or_by_shape() -> None:
    # Three distinct tasks, the first two of one shape: 2 of 3 proposals are alike.
    found = [replaced(g, shape=s) for g, s in zip(groups("1:kw", "2:kw", "3:kw"), "aab", strict=True)]
    by_shape = make_run(propose=Propose(repeat_by="shape", repeat_penalty=0.3))
    assert proposal_pay(found, by_shape) == pytest.approx([1 - 0.2, 1 - 0.2, 1])
    by_task = make_run(propose=Propose(repeat_by="task", repeat_penalty=0.3))
    assert proposal_pay(found, by_task) == [1, 1, 1]


def test_a_held_out_hit_is_masked_and_never_punished() -> None:
    result = refined(groups("1:kw", "held_out", "format"), make_run())
    # The mean is that of the other two, 1 and -1/2.
    assert by_role(result, "propose") == [(1, 0.75, True), (0, None, False), (-0.5, -0.75, True)]
    curves = experience_metrics(result, TaskArchive(9), make_run())
    assert curves["propose/reject/held_out"] == pytest.approx(1 / 3) and curves["reward/propose"] == 0.25


def test_named_parts_of_the_reward_become_curves() -> None:
    found = groups("1:kkw", "2:we")
    first, second = found
    right, *others = first.attempts
    parted = replaced(right, verdict=Verdict(1.0, "ok", {"style": 0.5, "length": -0.2}))
    curves = experience_metrics(
        refined([replaced(first, attempts=(parted, *others)), second], make_run()), TaskArchive(9), make_run()
    )
    # Four judged attempts, one of them with parts; the one that the environment failed does not count.
    assert curves["reward/part/style"] == pytest.approx(0.125) and curves["reward/part/length"] == pytest.approx(-0.05)


def test_too_few_judged_attempts_mask_the_group_and_its_proposer() -> None:
    run = replace(make_run(), acquire=Acquire(group_size=4, tasks_per_unit=8))
    result = refined(groups("1:keee", "2:kwee", "3:kkww"), run)
    # Half of 4 is 2: one judged attempt is too few, two are enough; env_error itself is always masked.
    assert [m for *_, m in by_role(result, "propose")] == [False, False, False]  # all pay 1: no signal
    assert [a for _, a, _ in by_role(result, "propose")] == [None, 0, 0]
    assert [a for _, a, _ in by_role(result, "solve")] == [None] * 4 + [0.5, -0.5, None, None, 0.5, 0.5, -0.5, -0.5]
    curves = experience_metrics(result, TaskArchive(9), run)
    assert curves["group/masked_frac"] == pytest.approx(1 / 3)
    strict = replace(run, acquire=replace(run.acquire, min_valid=4))
    assert [a for _, a, _ in by_role(refined(result.groups, strict), "propose")] == [None, None, 0]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("wrong", [(1, 2 / 3, True), (0, -1 / 3, True), (0, -1 / 3, True)]),
        ("mask", [(1, 0.5, True), (0, -0.5, True), (0, None, False)]),
        ("penalty", [(1, 1 - 0.2, True), (0, -0.2, True), (-0.4, -0.6, True)]),
    ],
)
def test_truncated_answers(how: str, expected: list[tuple[float, float | None, bool]]) -> None:
    run = make_run(solve={"truncated": how, "truncated_penalty": -0.4})
    result = refined(groups("1:kwt", proposed=False), run)
    for got, want in zip(by_role(result, "solve"), expected, strict=True):
        assert got == pytest.approx(want)
    assert experience_metrics(result, TaskArchive(9), run)["truncated_frac/solve"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("how", "paid"), [("wrong", (-0.5, False)), ("mask", (0.0, True)), ("penalty", (-0.9, False))])
def test_truncated_proposals(how: str, paid: tuple[float, bool]) -> None:
    run = make_run()
    propose = replace(run.roles["propose"], truncated=how, truncated_penalty=-0.9)  # type: ignore[arg-type]
    run = replace(run, roles={**run.roles, "propose": propose})
    cut, other = groups("format", "format")
    assert cut.proposal is not None
    cut = msgspec.structs.replace(cut, proposal=msgspec.structs.replace(cut.proposal, finish=("length",)))
    result = refined([cut, other], run)
    assert [(p.reward, p.masked) for p in result.paid] == [paid, (-0.5, False)]
    assert experience_metrics(result, TaskArchive(9), run)["truncated_frac/propose"] == 0.5


def test_kl_in_the_reward_by_hand() -> None:
    # -coef (log pi - log ref) a token: log pi = -1/2, log ref = -1, 3 tokens: -.1 x .5 x 3 = -.15, for solvers alone.
    kl = Kl(place="reward", estimator="k1", coef={"solve": 0.1, "propose": 0.0})
    run = replace(make_run(solve={"credit": Credit(centre="none")}), update=Update(kl=kl))
    result = refined(groups("1:kw", "format"), run, Weights(reference=-1.0))
    assert [a for _, a, _ in by_role(result, "solve")] == pytest.approx([1 - 0.15, -0.15])
    assert [r for r, *_ in by_role(result, "solve")] == [1, 0]  # what was paid is the verdict's
    assert [a for _, a, _ in by_role(result, "propose")] == [0.75, -0.75]
    for item in result.items:  # the reference is not asked about a role without a coefficient
        if item.trajectory.role == "solve":
            np.testing.assert_array_equal(item.reference_logprobs, np.where(MASK, -1, 0))
        else:
            assert item.reference_logprobs is None


def test_references_are_asked_for_only_where_needed() -> None:
    class Silent(Weights):
        def reference_logprobs(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
            raise AssertionError("nobody needs a reference here")

    for kl in (Kl(), Kl(place="loss", estimator="full")):
        result = refined(groups("1:kw"), replace(make_run(), update=Update(kl=kl)), Silent())
        assert all(item.reference_logprobs is None for item in result.items)


def test_a_critic_by_hand() -> None:
    # V = 1/4 before every token, lambda = gamma = 1: A = r - 1/4 at each token, the return is r.
    run = replace(make_run(), update=Update(critic=Critic(kind="shared")))
    credit = Credit(centre="critic")
    run = replace(run, roles={r: replace(c, credit=credit) for r, c in run.roles.items()})
    result = refined(groups("1:kw", "format"), run, Weights(value=0.25))
    solved, wrong = (i for i in result.items if i.trajectory.role == "solve")
    np.testing.assert_allclose(solved.advantages, np.where(MASK, 0.75, 0))
    np.testing.assert_allclose(wrong.advantages, np.where(MASK, -0.25, 0))
    np.testing.assert_allclose(solved.returns, MASK.astype(float))
    np.testing.assert_allclose(solved.old_values, np.where(MASK, 0.25, 0))
    assert [a for _, a, _ in by_role(result, "propose")] == pytest.approx([0.75, -0.75])


def test_filters() -> None:
    found = groups("1:kw", "2:kk", proposed=False)
    kept = {
        name: [m for *_, m in by_role(refined(found, replace(make_run(), update=Update(filter=name))), "solve")]
        for name in ("nonzero_advantage", "solved_only", "none")
    }
    assert kept["nonzero_advantage"] == [True, True, False, False]
    assert kept["none"] == [True] * 4
    # Without a centre every solved attempt has A = 1: the whole of what likelihood training keeps.
    plain = make_run(solve={"credit": Credit(centre="none")}, update=Update(filter="solved_only", loss="nll"))
    assert [m for *_, m in by_role(refined(found, plain), "solve")] == [True, False, True, True]


def test_moving_baselines_go_on_from_the_step_before() -> None:
    credit = Credit(centre="ema", key=("role", "env"), ema_decay=0.5)
    run = make_run(solve={"credit": credit})
    first = refined(groups("1:kw", proposed=False), run)
    name = "role=solve|env=chain"
    # b: 0, then .5; after the second attempt .25.
    assert [a for _, a, _ in by_role(first, "solve")] == [1, -0.5] and first.baselines["solve"] == {name: 0.25}
    after = refine(
        groups("1:kk", proposed=False), run=run, planned=first.planned, baselines=first.baselines, scorer=Weights()
    )
    assert [a for _, a, _ in by_role(after, "solve")] == [0.75, 0.375]
    assert first.baselines["solve"] == {name: 0.25}  # not changed in place


outcome = st.one_of(
    st.sampled_from(["format", "bounds", "guessable", "held_out"]),
    st.tuples(st.integers(1, 3), st.text("kwte", min_size=4, max_size=4)).map(lambda x: f"{x[0]}:{x[1]}"),
)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), outcome), min_size=1, max_size=8),
    st.sampled_from(["wrong", "mask", "penalty"]),
    st.sampled_from(["one", "group_std"]),
)
def test_advantages_under_a_group_mean_sum_to_zero(found: list[tuple[str, str]], truncated: str, scale: str) -> None:
    run = make_run(solve={"truncated": truncated, "credit": Credit(scale=scale)})
    run = replace(run, acquire=Acquire(group_size=4, tasks_per_unit=8))
    step = [replaced(g, row=i) for i, (ask, o) in enumerate(found) for g in groups(o, parent=ask)]
    result = refined(step, run)
    sums: dict[str, float] = {}
    for i, p in enumerate(result.paid):
        assert (i in result.advantages) != p.masked
        name = p.trajectory.parent_key if p.trajectory.role == "propose" else f"task {p.group}"
        sums[name] = sums.get(name, 0.0) + result.advantages.get(i, 0.0)
    np.testing.assert_allclose(list(sums.values()), 0, atol=1e-6)
    for item in result.items:
        assert item.in_loss == bool(np.any(item.advantages))
        assert not np.any(item.advantages[~MASK])
