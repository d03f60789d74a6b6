"""Device self-check: devices that compute wrong values are reported by name, and those of this machine pass."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from estimator.errors import UserError
from estimator.parallel import auto_mesh, device_check
from tests.estimator.test_estimator import train


@pytest.fixture(autouse=True)
def _not_cached():
    device_check._wrong_rows.cache_clear()
    yield
    device_check._wrong_rows.cache_clear()


def test_the_devices_here_are_right():
    device_check.check_devices()


def test_a_device_that_loses_part_of_the_last_row_is_named(monkeypatch):
    """Simulates jaxlib 0.10.2, which lost 0.2% of the last sum of 32,769."""
    put = jax.device_put

    def wrong(values, device):
        weights, rows = values
        rows[-1] *= np.float32(0.999)
        return put((weights, rows), device)

    monkeypatch.setattr(jax, "device_put", wrong)
    with pytest.raises(
        UserError, match=r"\(device 0\) computes wrong values with JAX .*: 1 of 32769 sums are off.*make"
    ):
        device_check.check_devices()


def test_releases_that_are_known_to_be_wrong_are_refused(monkeypatch):
    monkeypatch.setitem(device_check.KNOWN_WRONG, (jax.__version__, "cpu"), "a report")
    with pytest.raises(UserError, match=r"computes wrong values on this cpu \(a report\); install the version"):
        device_check.check_devices()


def test_a_device_whose_products_are_off_is_named(monkeypatch):
    device_check.check_products()
    (a, b), expected = device_check._known_product(device := jax.local_devices()[5])
    np.testing.assert_array_equal(expected, np.asarray(a, np.int64) @ np.asarray(b, np.int64))
    a = a.at[7, 9].add(1)
    monkeypatch.setattr(device_check, "_known_product", lambda at: ([a, b], expected))
    # Only row 7 is wrong, in both precisions, and only where row 9 of the other matrix is not 0.
    count = 2 * np.count_nonzero(np.asarray(b)[9])
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    with pytest.raises(UserError, match=rf"\(device 5, process 0\).*: {count} of 8192 sums of products are off"):
        device_check.check_products()


def copies(sizes: dict[str, int], spec: PartitionSpec, *, wrong: int | None = None) -> jax.Array:
    """Returns a float32 [8, 4] array over a mesh of eight devices, optionally with a wrong value on one of them."""
    mesh = auto_mesh.make_mesh(sizes, jax.devices())
    sharding = NamedSharding(mesh, spec)
    whole = np.arange(32, dtype=np.float32).reshape(8, 4)
    parts = []
    for device, part in sharding.addressable_devices_indices_map(whole.shape).items():
        values = whole[part].copy()
        if device.id == wrong:
            values.view(np.uint32)[0, 0] ^= 1
        parts.append(jax.device_put(values, device))
    return jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)


@pytest.mark.parametrize(
    ("sizes", "spec"),
    [({"data": 8}, PartitionSpec()), ({"data": 2, "fsdp": 4}, PartitionSpec("fsdp")),
     ({"data": 4, "tensor": 2}, PartitionSpec(None, "tensor"))],
)  # fmt: skip
def test_a_device_with_another_copy_of_the_parameters_is_named(sizes, spec):
    full = {"data": 1, "fsdp": 1, "tensor": 1} | sizes
    device_check.check_replicas({"w": copies(full, spec)})
    with pytest.raises(UserError, match=r"layer/w on device .*\b6 \(process 0\).*is faulty"):
        device_check.check_replicas({"layer": {"w": copies(full, spec, wrong=6), "b": copies(full, PartitionSpec())}})


def test_arrays_without_copies_have_nothing_to_compare():
    full = {"data": 1, "fsdp": 8, "tensor": 1}
    device_check.check_replicas({"w": copies(full, PartitionSpec("fsdp"), wrong=3)})
    device_check.check_replicas({"w": jax.numpy.ones(3)})


def test_a_run_compares_the_copies_at_its_start_every_check_steps_and_before_each_checkpoint(tmp_path, monkeypatch):
    compared, products = [], []
    monkeypatch.setattr(device_check, "check_replicas", lambda params: compared.append(np.asarray(params["w"]).copy()))
    monkeypatch.setattr(device_check, "check_products", lambda: products.append(len(compared)))
    changes = {"check_steps": 2, "save_steps": 3, "train_steps": 9}
    train(tmp_path / "copies", 5, devices=jax.devices(), **changes)
    assert len(compared) == 5  # at the start, at steps 2 and 4, before the checkpoints of 3 and 5
    assert len({values.tobytes() for values in compared}) == 5
    assert products == [1, 3]
