"""The TPU flash attention kernel on several devices, each with its own examples and heads."""

import jax
import numpy as np
import pytest
from helpers.gradients import draw
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimator.parallel.mesh import AXES, with_mesh
from models.gpt2.model import attention

B, T, H, K = 2, 128, 2, 64
SEGMENTS = np.stack([np.repeat([0, 1, 2], [1, 90, 37]), np.repeat([5, 6], [64, 64])]).astype(np.int32)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["whole", "segments"])
@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 1, 2), (1, 2, 2)])
def test_flash_attention_on_a_mesh_equals_the_reference(sizes, segments):
    """Runs in Pallas's interpreter."""
    tpu = pytest.importorskip("jax.experimental.pallas.tpu")
    mesh = Mesh(np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes), AXES)
    q, k, v = (draw(B, T, H, K, seed=seed) for seed in range(3))

    def squares(implementation):
        return lambda q, k, v: (attention(q, k, v, implementation=implementation, segments_BT=segments) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(squares("reference"), argnums=(0, 1, 2)))(q, k, v)
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor", None))
    parts = jax.device_put((q, k, v), place)
    step = jax.jit(with_mesh(mesh, jax.value_and_grad(squares("flash"), argnums=(0, 1, 2))))
    with tpu.force_tpu_interpret_mode():
        actual = step(*parts)
    assert all(each.sharding.is_equivalent_to(place, each.ndim) for each in actual[1])
    # Sums of 128 float32 terms in a different order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5), actual, expected)
