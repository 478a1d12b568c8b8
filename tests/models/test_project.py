import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfplay.models.project import FEW_ROWS, project


def test_by_hand():
    # rows of the weight are outputs: [1, 2] . [3, 4] = 11, [1, 2] . [5, 6] = 17, [1, 2] . [7, 8] = 23
    weight = jnp.array([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    assert project(jnp.array([[1.0, 2.0]]), weight).tolist() == [[11.0, 17.0, 23.0]]


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_few_rows_and_many_have_one_result_and_one_gradient(rows):
    x, weight, up = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((rows, 24), (40, 24), (rows, 40))))
    y, pull = jax.vjp(project, x, weight)
    np.testing.assert_allclose(y, x @ weight.T, atol=1e-5)
    for got, want in zip(pull(up), (up @ weight, up.T @ x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("rows", [2, FEW_ROWS + 2])
def test_the_type_asked_for_is_summed_in(rows):
    x, weight = jnp.full((rows, 3), 1 / 3, jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16)
    assert project(x, weight).dtype == jnp.bfloat16
    wide = project(x, weight, jnp.float32)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, 3 * float(x[0, 0]), rtol=1e-6)
