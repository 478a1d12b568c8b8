"""The plan against the compiled programs, and its arithmetic by hand; mistakes are one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfplay import recipe
from selfplay.caches import Rows, cache_bytes
from selfplay.cli import main
from selfplay.config import Lora, RoleConfig, Update
from selfplay.errors import UserError
from selfplay.footprint import SCRATCH, Scratch, Subject, compiled_scratch, device_bytes, model_bytes, shortened
from selfplay.models import ModelConfig
from selfplay.models.decoder import abstract_params, prefill
from selfplay.models.kv_cache import empty_cache
from selfplay.models.lora import with_adapter
from selfplay.models.sharding import batch_sharding, make_mesh, parameter_shardings
from selfplay.plan import GIB, MOMENTS, Limits, Plan, config_of, plan_command
from selfplay.plan_table import WORDS, table, to_json
from selfplay.sampler_programs import segment

CONFIGS = Path(__file__).parent.parent / "docs" / "configs"
ROLES = {"propose": RoleConfig(), "solve": RoleConfig()}
SMALL = ModelConfig(
    family="qwen3", vocab_size=64, hidden_size=32, layers=4, heads=4, kv_heads=2, head_dim=8, intermediate_size=64,
    qk_norm=True, sliding_layers=(0, 1, 2), sliding_window=8,
)  # fmt: skip


def subject(config: ModelConfig, fsdp: int = 1, tensor: int = 1, **fields) -> Subject:
    return Subject(config, Update(**fields), ROLES, make_mesh(fsdp=fsdp, tensor=tensor), "float32")


@pytest.fixture(scope="module", autouse=True)
def line():
    """Compilations are what takes time here: a scratch of 1,000 bytes a row and token, unless a test asks XLA."""
    patched = pytest.MonkeyPatch()
    patched.setitem(SCRATCH, "compiled", lambda _, layers, rows, width: layers * rows * width * 1000)
    yield
    patched.undo()


@lru_cache
def planned(*flags: str, gib: float = 1.0, devices: int = 1, mesh: bool = False) -> Plan:
    run = recipe.resolve("quickstart", flags)
    return plan_command(run, Limits(devices=devices, memory_gib=gib), given_mesh=mesh)


# ---------------------------------------------------------------- against the compiled programs


@pytest.mark.parametrize(
    ("shape", "lora"), [((1, 1), 0), ((4, 2), 0), ((8, 1), 4)], ids=["alone", "fsdp x tensor", "LoRA"]
)
def test_what_lasts_is_what_the_compiled_programs_hold(shape, lora):
    one = subject(with_adapter(replace(SMALL, layers=1), Lora(rank=lora)), *shape)
    updater, rows = one.updater(), 2 * shape[0]
    shapes = updater.programs.shapes(rows, 32)
    state, frozen, slabs, _ = shapes
    total = updater.programs.total_shapes(shapes)
    init = updater.programs.lower("init", rows, 32).compile().memory_analysis()
    assert device_bytes(state) == pytest.approx(init.output_size_in_bytes, rel=0.03)  # 8 bytes an array
    move, follow = (updater.programs.lower(p, rows, 32).compile().memory_analysis() for p in ("move", "follow"))
    assert device_bytes((state, total)) == pytest.approx(move.argument_size_in_bytes, rel=0.03)
    assert device_bytes((state.opt_state, total[:2])) == pytest.approx(follow.argument_size_in_bytes, rel=0.03)
    add = updater.programs.lower("add", rows, 32).compile().memory_analysis()
    held = device_bytes((state.params, frozen, total))
    count = 4  # of slabs; what this loss does not read of them is left out
    assert held < add.argument_size_in_bytes <= held + device_bytes(slabs) + count


def test_an_optimizer_step_works_in_place():
    wide = replace(SMALL, layers=1, vocab_size=512, hidden_size=256, intermediate_size=512)
    updater = subject(wide).updater()
    weights = device_bytes(updater.programs.shapes(1, 32).state.params)
    used = [updater.programs.lower(p, 1, 32).compile().memory_analysis() for p in ("move", "follow")]
    assert [x.temp_size_in_bytes < weights / 50 for x in used] == [True, True]
    assert used[0].alias_size_in_bytes == pytest.approx(2 * weights, rel=0.03)  # weights and clipped gradient
    assert used[1].alias_size_in_bytes == pytest.approx(2 * weights, rel=0.03)  # both moments


def test_scratch_from_two_depths_is_that_of_the_whole_program(monkeypatch):
    monkeypatch.setitem(SCRATCH, "compiled", compiled_scratch)
    one = subject(replace(SMALL, layers=3, sliding_layers=()), logit_chunk=16)
    whole = compiled_scratch(one, 3, 2, 64)
    assert Scratch(one, "compiled", 2, 64).asked() == pytest.approx(whole, rel=0.15)


@pytest.mark.proof
@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("model", ["tiny", "gemma-3-270m"])
def test_scratch_of_real_models(model, remat, monkeypatch):
    """Within 15 %: rows in one chunk of logits and beyond, and rows that were not looked at but lie on the line."""
    monkeypatch.setitem(SCRATCH, "compiled", compiled_scratch)
    config = config_of(model if model == "tiny" else str(CONFIGS / f"{model}.json"))
    one = subject(config, remat=remat)
    scratch = Scratch(one, "compiled", 4, 256)
    for rows, width in ((1, 256), (6, 256)):
        whole = compiled_scratch(one, config.layers, rows, width)
        assert scratch.line(rows) == pytest.approx(whole, rel=0.15)


def test_the_cache_is_that_of_the_sampler():
    params = abstract_params(SMALL)
    ids, lengths = jax.ShapeDtypeStruct((16, 96), jnp.int32), jax.ShapeDtypeStruct((16,), jnp.int32)
    _, cache = jax.eval_shape(lambda *a: prefill(SMALL, *a, slots=128), params, ids, lengths)
    held, most = cache_bytes(SMALL, rows=13, tokens=100, dtype="float32")  # 13 rows are 16, 100 tokens 128 slots
    assert held == device_bytes(cache)
    assert most == held * (16 + 8) // 16  # and may shrink to 8
    with_places = cache_bytes(SMALL, rows=29, tokens=100, dtype="float32", places=16)  # 32 rows keep one, 16 decode
    assert with_places == (held * (32 + 16) // 16, held * (32 + 16 + 8) // 16)


@pytest.mark.parametrize("tensor", [1, 2])
def test_weights_that_a_decode_gathers_are_counted(tensor):
    """What `fsdp` splits is gathered before the loop over tokens, all layers at once: 1 / tensor of them a device.

    Without `tensor` devices exchange nothing else.
    """
    config, mesh, rows = replace(SMALL, hidden_size=128, intermediate_size=512), make_mesh(fsdp=4, tensor=tensor), 8
    params, by_rows = abstract_params(config), batch_sharding(mesh)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, parameter_shardings(params, mesh)
    )

    def split(*shape: int, dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=by_rows)

    shapes = jax.eval_shape(lambda: empty_cache(config, rows, 64, "float32"))
    cache = jax.tree.map(lambda x: split(*x.shape), shapes)
    numbers = split(rows, dtype=jnp.int32)
    state = Rows(numbers, numbers, split(rows, 32), split(rows, dtype=jnp.bool_), cache)
    arguments = state, np.ones(rows, bool), np.zeros(rows, np.int32), 8, 32, np.float32(1)
    compiled = segment.lower(config, mesh, (2,), 0, 1.0, params, *arguments).compile()
    held = compiled.memory_analysis().temp_size_in_bytes
    assert model_bytes(config, "float32") / tensor == pytest.approx(held - device_bytes(cache), rel=0.15)
    exchanges = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", compiled.as_text())
    gathered = sum("fsdp" in s.spec for s in jax.tree.leaves(parameter_shardings(abstract_params(config), mesh)))
    assert tensor > 1 or exchanges == ["all-gather"] * gathered


# ---------------------------------------------------------------- by hand


def test_parts_of_the_embedded_model():
    """460,000 float32 parameters: 4 bytes each for master, gradient and sampler, 8 for the moments."""
    plan = planned()
    params = sum(x.size for x in jax.tree.leaves(abstract_params(config_of("tiny"))))
    assert plan.bytes["parameters"] == plan.bytes["base"] == plan.bytes["sampler_weights"] == 4 * params
    assert plan.bytes["moments"] == pytest.approx(8 * params, abs=100)
    assert plan.bytes["gradients"] == pytest.approx(4 * params, abs=1000)
    # 24 proposals x 8 attempts of 32 + 96 tokens; 2 x 3 layers x 2 heads x 32 x 4 bytes a token
    assert plan.sampled_rows == 192 and plan.row_tokens == 128
    assert plan.bytes["kv_cache"] == 192 * 128 * 1536
    assert plan.bytes["kv_set_aside"] == (128 + 64 + 32) * 128 * 1536
    assert set(plan.bytes) == set(WORDS) == {part for held in MOMENTS.values() for part in held}
    assert plan.fits and not plan.problems


def test_halves_on_two_devices_sampler_included():
    one, two = planned(), planned(devices=2)
    assert two.mesh == {"data": 1, "fsdp": 2, "tensor": 1} and two.chosen_mesh
    for part in ("parameters", "moments", "gradients", "base", "sampler_weights", "kv_cache"):
        assert two.bytes[part] == pytest.approx(one.bytes[part] / 2, rel=0.01)


def test_the_largest_batch_and_response_fill_the_memory_and_no_more():
    """The scratch is a line here, so that both limits follow by division."""
    plan = planned(gib=0.2)
    budget, scratch = 0.9 * 0.2 * GIB, 3 * 1000 * 128
    row = scratch + plan.bytes["slab"] // 4
    fixed = plan.moments["update"] - plan.bytes["scratch"] - plan.bytes["slab"]
    assert plan.largest_micro_rows == (budget - fixed) // row
    tokens = (budget - fixed - plan.bytes["slab"]) // (4 * 3 * 1000) // 64 * 64
    assert plan.largest_response == min(tokens, 256) - plan.prompt_tokens  # 512 slots of cache do not fit


def test_lora_and_bfloat16_are_smaller():
    full, lora = planned(), planned("--policies.main.lora.rank", "4")
    assert lora.bytes["moments"] + lora.bytes["gradients"] < 0.2 * (full.bytes["moments"] + full.bytes["gradients"])
    half = planned("--policies.main.dtype", "bfloat16")
    for part in ("sampler_weights", "base", "kv_cache"):
        assert 2 * half.bytes[part] == full.bytes[part]
    assert half.bytes["parameters"] == full.bytes["parameters"]  # the master copy


def test_what_does_not_fit_is_named_with_a_remedy():
    plan = planned(gib=0.05)
    assert not plan.fits and len(plan.problems) == 1
    assert "sample needs 0.09 GiB of 0.05: most is kv set aside" in plan.problems[0]
    assert "bfloat16" in plan.problems[0] and "acquire.tasks_per_unit" in plan.problems[0]
    assert "does not fit: sample needs" in table(plan)
    nothing = planned(gib=0.004)
    assert nothing.largest_micro_rows == nothing.largest_response == 0


def test_fewer_blocks_keep_both_kinds():
    assert shortened(SMALL, 2).sliding_layers == (0,)
    assert shortened(replace(SMALL, sliding_layers=()), 2).sliding_layers == ()
    assert shortened(replace(SMALL, sliding_layers=(0, 1, 2, 3)), 2).sliding_layers == (0, 1)


def test_the_abstract_scratch_grows_with_rows_and_shrinks_with_remat():
    looks = {remat: SCRATCH["abstract"](subject(SMALL, remat=remat), 2, 16, 128) for remat in ("none", "block")}
    assert looks["block"] < 0.9 * looks["none"]
    assert SCRATCH["abstract"](subject(SMALL), 2, 32, 128) > 1.6 * looks["none"]


# ---------------------------------------------------------------- models and mistakes


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen3-0.6b", 0.596), ("qwen3-8b", 8.19), ("llama-3.1-70b", 70.55), ("gemma-3-270m", 0.268)]
)
def test_the_configs_of_the_docs_have_the_published_sizes(name, billions):
    config = config_of(str(CONFIGS / f"{name}.json"))
    one, two = (model_bytes(shortened(replace(config, sliding_layers=()), n), "float32") / 4 for n in (1, 2))
    assert one + (config.layers - 1) * (two - one) == pytest.approx(billions * 1e9, rel=0.002)


def test_a_mesh_with_as_little_tensor_as_divides():
    """A width of 128 does not divide over 256 devices; a 5 divides nothing."""
    mesh = planned(devices=8).mesh
    assert mesh == {"data": 1, "fsdp": 8, "tensor": 1}
    with pytest.raises(UserError, match="no mesh of fsdp x tensor = 5 devices splits this model: parameter"):
        planned(devices=5)


BAD = {
    "no memory": ("quickstart", "--memory-gib"),
    "no recipe": ("--memory-gib 8", "RECIPE"),
    "unknown model": ("quickstart --memory-gib 8 --policies.main.model nowhere", "model 'nowhere': no such folder"),
    "no devices": ("quickstart --memory-gib 8 --devices 0", "--devices must be >= 1, got 0"),
    "mesh": ("quickstart --memory-gib 8 --devices 8 --mesh.fsdp 4", "needs 4 devices, and --devices is 8"),
    "heads": ("quickstart --memory-gib 8 --devices 8 --mesh.tensor 8", "4 attention heads do not divide over mesh.t"),
    "memory": ("quickstart --memory-gib -1", "--memory-gib must be > 0, got -1"),
    "reserve": ("quickstart --memory-gib 1 --reserve 1", "--reserve must be in [0, 1), got 1"),
    "prompt": ("quickstart --memory-gib 1 --prompt-tokens 0", "--prompt-tokens must be >= 1, got 0"),
    "scratch": ("quickstart --memory-gib 1 --scratch guess", "--scratch must be one of compiled, abstract"),
    "field": ("quickstart --memory-gib 1 --update.micro-row 1", "did you mean update.micro_rows"),
    "all rows": ("quickstart --memory-gib 1 --update.micro-rows 0", "update.micro_rows = 0 (the whole minibatch)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line(case, capsys, monkeypatch):
    for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "1")
    flags, expected = BAD[case]
    assert main(["plan", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and expected in err, err


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
    for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "1")
    line = ["plan", "quickstart", "--memory-gib", "1"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert shown == table(planned()) + "\n" and "mesh: one device (chosen here)" in shown and "all fits" in shown
    assert main([*line, "--json"]) == 0
    assert capsys.readouterr().out == to_json(planned()) + "\n"
    assert json.loads(to_json(planned()))["bytes"]["parameters"] == planned().bytes["parameters"]
