"""Log-probs equal those of transformers' torch implementation: golden files made by tests/models/golden/make.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from selfplay.models import decode_step, forward, load, logits, prefill, printable_ascii
from selfplay.models.config import FAMILIES, from_hf, to_hf
from tests.models.golden.weights import tensor

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "gemma270m")
TOLERANCE = 2e-4  # nats


def write(case: str, folder: Path) -> dict:
    """The golden file, and its model as a folder of transformers' own names and config."""
    golden = json.loads((GOLDEN / f"{case}.json").read_text())
    (folder / "config.json").write_text(json.dumps(golden["config"]))
    printable_ascii().save(folder)
    gemma = "gemma" in golden["config"]["model_type"]
    tensors = {k: tensor(k, shape, seed=golden["seed"], gemma=gemma) for k, shape in golden["shapes"].items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return golden


def logprobs(config, params, ids):
    """log p [B T-1] of every token after the first, by one forward pass."""
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    hidden = forward(config, params, ids, positions, jnp.ones_like(ids))
    z = jax.nn.log_softmax(logits(config, params, hidden))
    return jnp.take_along_axis(z[:, :-1], ids[:, 1:, None], axis=-1)[..., 0]


def decoded(config, params, ids, prompt):
    """The same from position `prompt` on, by prefill and decode steps over the cache."""
    lengths = jnp.full(len(ids), prompt)
    hidden, cache = prefill(config, params, ids[:, :prompt], lengths, slots=ids.shape[1])

    def step(carry, token):
        hidden, position, cache = carry
        z = jax.nn.log_softmax(logits(config, params, hidden))
        logprob = jnp.take_along_axis(z, token[:, None], axis=-1)[:, 0]
        hidden, cache = decode_step(config, params, token, position, cache)
        return (hidden, position + 1, cache), logprob

    return jax.lax.scan(step, (hidden, lengths, cache), ids[:, prompt:].T)[1].T


@pytest.mark.parametrize("case", CASES)
def test_logprobs_are_those_of_transformers_whole_and_token_by_token(case, tmp_path):
    golden = write(case, tmp_path)
    model, ids = load(tmp_path), np.asarray(golden["ids"], np.int32)
    expected = np.array([row[1:] for row in golden["logprobs"]])
    assert expected.std() > 1, "a uniform model would hide mistakes"
    ours = jax.jit(logprobs, static_argnums=0)(model.config, model.params, ids)
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)
    by_step = jax.jit(decoded, static_argnums=(0, 3))(model.config, model.params, ids, 4)
    np.testing.assert_allclose(by_step, expected[:, 3:], atol=TOLERANCE, rtol=0)
    assert from_hf(to_hf(model.config)) == model.config


def test_the_golden_files_cover_every_family_and_switch():
    configs = [from_hf(json.loads((GOLDEN / f"{case}.json").read_text())["config"]) for case in CASES]
    assert {c.family for c in configs} == set(FAMILIES)
    for family in FAMILIES:
        assert len({c.tie_embeddings for c in configs if c.family == family}) == 2 or family == "gemma2"
        assert any(c.sliding_layers for c in configs if c.family == family) or family == "llama"
    for switch in ("qkv_bias", "output_bias", "mlp_bias", "qk_norm", "rope_scaling", "attn_softcap", "logit_softcap",
                   "post_norms", "local_rope_theta", "query_scale"):  # fmt: skip
        assert {bool(getattr(c, switch)) for c in configs} == {True, False}, switch


@pytest.mark.skipif("SELFPLAY_GEMMA" not in os.environ, reason="SELFPLAY_GEMMA names no folder with Gemma 3 270M")
def test_gemma_270m_is_that_of_transformers():
    from selfplay.score import score

    golden = json.loads((GOLDEN / "gemma270m.json").read_text())
    model = load(os.environ["SELFPLAY_GEMMA"])
    ids = [np.asarray(row, np.int32) for row in golden["ids"]]
    for ours, theirs in zip(score(model.config, model.params, ids), golden["logprobs"], strict=True):
        np.testing.assert_allclose(ours, theirs[1:], atol=TOLERANCE, rtol=0)
