"""What a step's experience looks like: the curves and transcripts of acquisition and refinement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from envs.base import REASONS, STATUSES
from selfplay.archive import TaskArchive
from selfplay.config import Run
from selfplay.metrics.files import Sample, TaskLine
from selfplay.models import Model
from selfplay.records import ROLES, SEATS, Group, Trajectory
from selfplay.refine import Paid, Refined
from selfplay.standing import STANDINGS
from selfplay.votes import vote_metrics

NAN = float("nan")


def experience_metrics(refined: Refined, archive: TaskArchive, run: Run) -> dict[str, float]:
    """Curves of a step, names as in docs/metrics.md; `archive` as it was before this step."""
    groups = [g for g in refined.groups if not g.round]
    proposed = [g for g in groups if g.proposal is not None]
    judged = [g for g in groups if g.valid and not g.players]
    values: dict[str, float] = {}
    if "solve" in run.used_roles:
        values |= _solve_metrics(judged, run)
    for env in sorted({g.env for g in groups if g.players}):
        values |= _game_metrics([g for g in groups if g.env == env], env)
    values |= _role_metrics(refined)
    statuses = Counter(a.verdict.status for g in groups for a in g.attempts)
    for status in STATUSES:
        values[f"outcome/{status}"] = statuses[status] / max(statuses.total(), 1)
    attempts = [a for g in groups for a in g.valid]
    for name in sorted({name for a in attempts for name in a.verdict.parts}):
        values[f"reward/part/{name}"] = _mean([a.verdict.parts.get(name, 0.0) for a in attempts])
    if any(role.judge == "vote" for role in run.roles.values()):
        values |= vote_metrics(groups)
    again = [g for g in refined.groups if g.round]
    if again:
        values |= {
            "retry/tasks": len({g.task.key for g in again if g.task}),
            "retry/solve_rate": _mean([g.solve_rate for g in again if g.valid]),
        }
    return values | (_proposal_metrics(proposed, archive) if proposed else {})


def _solve_metrics(judged: Sequence[Group], run: Run) -> dict[str, float]:
    values = {f"solve_rate/{env}": _mean([g.solve_rate for g in judged if g.env == env]) for env in run.envs}
    rates = np.array([g.solve_rate for g in judged])
    low, high = run.propose.band
    return values | {
        "curriculum/p_zero_frac": _mean(rates == 0),
        "curriculum/p_one_frac": _mean(rates == 1),
        "curriculum/p_band_frac": _mean((rates >= low) & (rates <= high)),
    }


def _game_metrics(groups: Sequence[Group], env: str) -> dict[str, float]:
    """How the games of a step went, whoever sat there; the same rows on every side count in both seats."""
    games = [game for g in groups for game in g.games if all(v.status != "env_error" for v in game.verdicts)]
    statuses = [verdict.status for game in games for verdict in game.verdicts]
    moves = sum(game.moves for game in games)
    values = {
        "illegal_rate": statuses.count("illegal") / moves if moves else NAN,
        "moves": _mean([game.moves for game in games]),
    }
    for seat, name in enumerate(SEATS):
        rewards = np.array([game.verdicts[seat].reward for game in games])
        best = np.array([max(v.reward for v in game.verdicts) for game in games])
        level = np.array([len({v.reward for v in game.verdicts}) == 1 for game in games], bool)
        values |= {
            f"{name}_reward": _mean(rewards),
            f"{name}_win": _mean((rewards == best) & ~level),
            f"{name}_draw": _mean(level),
        }
    return {f"game/{env}/{name}": value for name, value in values.items()}


def _role_metrics(refined: Refined) -> dict[str, float]:
    values: dict[str, float] = {}
    for role in ROLES:
        mine = [(i, p) for i, p in enumerate(refined.paid) if p.trajectory.role == role and not _again(refined, p)]
        if not mine:
            continue
        values[f"reward/{role}"] = _mean([p.reward for _, p in mine if not p.masked])
        values[f"length/{role}"] = _mean([int(p.trajectory.mask.sum()) for _, p in mine])
        values[f"truncated_frac/{role}"] = _mean([p.trajectory.truncated for _, p in mine])
        advantages = [refined.advantages[i] for i, p in mine if not p.masked]
        values[f"advantage/{role}_std"] = float(np.std(advantages)) if advantages else NAN
    signal: dict[int, bool] = {}
    for i, p in enumerate(refined.paid):
        if p.trajectory.role != "propose" and not p.masked and not _again(refined, p):
            signal[p.group] = signal.get(p.group, False) or refined.advantages[i] != 0
    values["group/zero_adv_frac"] = _mean([not s for s in signal.values()])
    with_attempts = {p.group for p in refined.paid if p.trajectory.role != "propose" and not _again(refined, p)}
    values["group/masked_frac"] = 1 - len(signal) / len(with_attempts) if with_attempts else NAN
    return values


def _again(refined: Refined, paid: Paid) -> bool:
    """Whether it is of a follow-up round, which has curves of its own."""
    return refined.groups[paid.group].round > 0


def _proposal_metrics(proposed: Sequence[Group], archive: TaskArchive) -> dict[str, float]:
    admitted = [g for g in proposed if g.task is not None]
    tasks = [g.task for g in proposed if g.task is not None]
    reasons = Counter(g.rejection.reason for g in proposed if g.rejection is not None)
    shapes = Counter(g.shape for g in admitted)
    rates = np.array([g.solve_rate for g in admitted if g.valid])
    values = {f"propose/reject/{reason}": reasons[reason] / len(proposed) for reason in REASONS}
    return values | {
        "propose/valid_frac": len(admitted) / len(proposed),
        "propose/leaked_frac": _mean(["leaked" in g.proposal.verdict.parts for g in proposed if g.proposal]),
        "propose/learnability": _mean(4 * rates * (1 - rates)),
        "propose/unique_frac": len({t.key for t in tasks}) / len(tasks) if tasks else NAN,
        "propose/largest_cluster_frac": max(shapes.values()) / len(admitted) if admitted else NAN,
        "propose/novel_frac": _mean([archive.count(t.key) == 0 for t in tasks]),
        "propose/novel_shape_frac": _mean(
            [archive.shape_count(g.shape, env=t.env) == 0 for g, t in zip(admitted, tasks, strict=True)]
        ),
        "propose/novel_cluster_frac": _mean([archive.cluster_count(t) == 0 for t in tasks]),
        "propose/difficulty_mean": _mean([t.difficulty for t in tasks]),
    }


def archive_metrics(archive: TaskArchive) -> dict[str, float]:
    """Curves of what is remembered after a step."""
    clusters, standings = archive.clusters, archive.standings
    return {
        "archive/size": len(archive),
        **{f"archive/{name}": standings[name] for name in STANDINGS[1:]},
        "archive/clusters": len(clusters),
        "archive/largest_cluster_frac": max(clusters) / len(archive) if clusters else NAN,
    }


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else NAN


def task_lines(groups: Sequence[Group]) -> list[TaskLine]:
    """The admitted tasks of a step, for tasks.jsonl."""
    return [
        TaskLine(step=g.step, unit=g.unit, row=g.row, task=g.task, solve_rate=g.solve_rate if g.valid else None)
        for g in groups
        if g.task is not None and not g.round and not g.players
    ]


def samples(refined: Refined, models: Mapping[str, Model], *, limit: int) -> list[Sample]:
    """Transcripts of some groups of a step, of every unit in turn: the proposal and the first two attempts.

    A prompt is written as the policy read it, special tokens and examples included.
    """
    out: list[Sample] = []
    taken: Counter[tuple[int, str]] = Counter()
    shown = _spread(refined.groups, limit)
    for i, p in enumerate(refined.paid):
        if p.group not in shown:
            continue
        t, group = p.trajectory, refined.groups[p.group]
        taken[p.group, t.role] += 1
        if taken[p.group, t.role] <= 2:
            out.append(
                Sample(
                    step=group.step,
                    generation=group.generation,
                    unit=group.unit,
                    row=group.row,
                    role=t.role,
                    env=group.env,
                    task_key=t.task_key,
                    difficulty=group.task.difficulty if group.task else None,
                    prompt=_prompt_text(t, models),
                    text=t.text,
                    finish=t.finish,
                    status=t.verdict.status,
                    verdict_reward=t.verdict.reward,
                    reward=p.reward,
                    advantage=refined.advantages.get(i),
                )
            )
    return out


def _spread(groups: Sequence[Group], limit: int) -> set[int]:
    """Indices of `limit` groups: the first of each unit, then the second of each, ..."""
    seen: Counter[int] = Counter()
    ranked = []
    for index, group in enumerate(groups):
        ranked.append((seen[group.unit], group.unit, index))
        seen[group.unit] += 1
    return {index for _, _, index in sorted(ranked)[:limit]}


def _prompt_text(t: Trajectory, models: Mapping[str, Model]) -> str:
    """What a policy read before it wrote its (first) turn."""
    return models[t.policy.policy].tokenizer.decode(t.ids[: t.turn_starts[0]], special=True)


def panels(refined: Refined, archive: TaskArchive, models: Mapping[str, Model]) -> Mapping[str, str]:
    """Text panels of a generation: its best-paid task, the oldest task nobody solved, one failure."""
    out: dict[str, str] = {}
    proposals = [p for p in refined.paid if p.trajectory.role == "propose" and refined.groups[p.group].task]
    if proposals:
        best = max(proposals, key=lambda p: p.reward)
        out["best_paid_task"] = f"paid {best.reward:.2f}\n\n" + _transcript(refined.groups[best.group], models)
    oldest = next((e for e in archive if e.attempts and not e.solves), None)
    if oldest is not None:
        shown = "\n".join(m.text for m in oldest.task.prompt)
        out["oldest_unsolved"] = f"step {oldest.first_step}, {oldest.attempts} attempts\n\n" + _quoted(shown)
    failed = next((g for g in refined.groups if any(a.verdict.status != "ok" for a in g.attempts)), None)
    if failed is not None:
        out["failure"] = _transcript(failed, models)
    return out


def _transcript(group: Group, models: Mapping[str, Model]) -> str:
    task = group.task
    if task is None:
        return "rejected"
    lines = [_quoted(_prompt_text(a, models)) for a in group.attempts[:1]]
    for a in group.attempts:
        cut = ", cut off" if a.truncated else ""
        lines.append(f"{a.verdict.status}{cut} ({a.verdict.reward:g})\n\n" + _quoted(a.text))
    return f"{task.env} difficulty {task.difficulty}\n\n" + "\n\n".join(lines)


def _quoted(text: str) -> str:
    """Model text as an indented block, so that nothing in it is read as markup."""
    return "\n".join("    " + line for line in text[:2000].splitlines() or [""])


def staleness(refined: Refined, version: int) -> float:
    """Mean number of versions between `version` and those that the trained trajectories were sampled with."""
    ages = [version - p.trajectory.policy.version for p in refined.paid if p.trajectory.trainable]
    return float(np.mean(ages)) if ages else 0.0


def baseline_curves(baselines: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Moving baselines by role and key."""
    return {f"baseline/{role}/{key}": value for role, kept in baselines.items() for key, value in kept.items()}
