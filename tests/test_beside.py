"""What `beside` asks of both, and what it makes of their answers."""

from __future__ import annotations

import json
import sys

import pytest
from test_imports import imports

from benchmarks import beside
from benchmarks.__main__ import COMMANDS, main
from benchmarks.peers import PACKAGES, PEERS
from selfplay.errors import UserError

PYTHON = ["--peer-python", sys.executable]


def figure(median: float) -> dict[str, float]:
    return {"median": median, "min": median / 2, "max": median * 2}


def test_a_ratio_is_of_one_round_and_above_one_where_ours_is_faster():
    # 30 / 10, 20 / 10 and 40 / 8 tokens a second: 3, 2 and 5.
    rounds = [
        {"ours": {"tokens_per_s": figure(ours)}, "theirs": {"tokens_per_s": figure(theirs)}}
        for ours, theirs in ((30, 10), (20, 10), (40, 8))
    ]
    found = beside.summary("rollout", rounds)
    assert found["ratios"] == [3, 2, 5] and found["ratio"] == {"median": 3, "min": 2, "max": 5}
    assert found["ours"]["tokens_per_s"] == {"median": 30, "min": 20, "max": 40}
    # A step of 1 s beside one of 4 s is four times as fast; what only one of them has is left out.
    ours = {"s_per_step": figure(1), "verify_s": figure(0.1), "peak_bytes": 5}
    found = beside.summary("step", [{"ours": ours, "theirs": {"s_per_step": figure(4)}}])
    assert found["ratios"] == [4] and set(found["ours"]) == {"s_per_step", "peak_bytes"}
    assert found["ours"]["peak_bytes"] == 5 and found["theirs"]["peak_bytes"] is None


def test_the_object_is_the_last_line():
    assert beside.last_object('Loading {...}\n{"a": 1}\n{"b": 2}\n\n') == {"b": 2}
    for said in ("", "Loading", '{"a": 1}\nbye', "[1]"):
        with pytest.raises(UserError, match="must end with one JSON object"):
            beside.last_object(said)


def test_both_are_asked_for_the_same_work():
    args = beside._parse(["update-grouped", "--peer", "transformers", *PYTHON, "--tasks", "2", "--micro-rows", "0"])
    ours, theirs = beside.our_command(args, "folder"), beside.peer_command(args, "folder")
    pairs = [dict(zip(c[c.index("--model") :: 2], c[c.index("--model") + 1 :: 2], strict=True)) for c in (ours, theirs)]
    assert pairs[0].pop("--micro-rows") == "0" and "--row-tokens" not in pairs[0]
    assert pairs[0] == pairs[1] and pairs[0]["--tasks"] == "2" and pairs[0]["--model"] == "folder"


@pytest.mark.parametrize("work", [("rollout", "tunix"), ("update", "transformers"), ("step", "tunix")])
def test_devices_are_ours_alone(work):
    args = beside._parse([work[0], "--peer", work[1], *PYTHON, "--devices", "2"])
    ours, theirs = beside.our_command(args, "folder"), beside.peer_command(args, "folder")
    assert ours[ours.index("--devices") + 1] == "2" and "--devices" not in theirs


def test_rollout_packs_no_rows():
    with pytest.raises(UserError, match="rollout has no size --row-tokens"):
        beside._parse(["rollout", "--peer", "tunix", *PYTHON, "--row-tokens", "64"])


def test_sizes_of_a_peer_are_those_of_ours():
    assert set(PACKAGES) == set(PEERS)
    for commands in PEERS.values():
        for name, sizes in commands.items():
            assert {k: v for k, v in sizes.items() if k != "micro_rows"}.items() <= COMMANDS[name].options.items()


def test_peers_need_nothing_of_ours():
    """A peer's environment has the peer and NumPy, nothing that selfplay depends on."""
    files = [*(beside.ROOT / "benchmarks" / "peers").glob("*.py"), beside.ROOT / "benchmarks" / "figures.py"]
    assert len(files) > 4
    for file in files:
        for module in imports(file):
            assert module.split(".")[0] not in ("selfplay", "envs", "msgspec"), file
            if module.startswith("benchmarks"):
                assert module == "benchmarks.figures" or module.startswith("benchmarks.peers"), file


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["update", "--peer", "tunix", *PYTHON], "--peer tunix does rollout, step, not update"),
        (["rollout", "--peer", "tunix", "--peer-python", "nowhere"], "--peer-python nowhere: no such program"),
        (["rollout", "--peer", "tunix", *PYTHON, "--model", "nowhere"], "--model 'nowhere': no such folder"),
        (["rollout", "--peer", "tunix", *PYTHON, "--tasks", "3"], "rollout has no size --tasks"),
        (["rollout", "--peer", "tunix", *PYTHON, "--rounds", "0"], "--rounds must be >= 1, got 0"),
        (["rollout", "--peer", "vllm", *PYTHON], "invalid choice: 'vllm'"),
    ],
)
def test_bad_input_is_one_line(args, said, capsys):
    assert main(["beside", *args]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and said in err


def test_a_command_that_fails_is_named_with_its_last_line():
    with pytest.raises(UserError, match="ended with 3: no such peer"):
        beside.run([sys.executable, "-c", "import sys; print('no such peer', file=sys.stderr); sys.exit(3)"])
    assert json.loads(beside.run([sys.executable, "-c", "print('{}')"])) == {}
