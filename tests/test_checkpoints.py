"""Checkpoints: copies that training may overwrite, and checksums that are the same however they are computed."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from runtime import checkpoints
from runtime.checkpoints import Checkpoints


def bits(shape, dtype):
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    drawn = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return jnp.asarray(drawn.view(jnp.dtype(dtype)).reshape(shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(), (7,), (16, 3, 5)])
def test_checksums_on_the_host_are_those_of_the_devices(shape, dtype):
    tree = {"x": bits(shape, dtype)}
    expected = np.asarray(checkpoints._checksums_on_devices(tree)["x"])
    assert np.array_equal(checkpoints._checksum_here(tree["x"]), expected)
    if shape and shape[0] % len(jax.devices()) == 0:
        mesh = jax.make_mesh((len(jax.devices()),), ("data",))
        divided = jax.device_put(tree["x"], NamedSharding(mesh, PartitionSpec("data")))
        assert np.array_equal(checkpoints._checksum_here(divided), expected)


def test_what_is_saved_stays_as_it_was_while_training_overwrites_it(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    placed = NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(jnp.zeros((512, 1024)), placed)
    with closing(Checkpoints(tmp_path, writer=True)) as written:
        for number in range(1, 4):
            x = step(x)
            written.save(number, {"params": {"x": x}})
            for _ in range(5):
                x = step(x)
        written.wait()
        template = {"params": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed)}}
        for number, value in ((1, 1.0), (2, 7.0), (3, 13.0)):
            read = written.restore(template, step=number)["params"]["x"]
            assert np.all(np.asarray(read) == value)
