"""Refuses devices and JAX versions that compute wrong values, before and during a run."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimator import invocation
from estimator.errors import UserError
from estimator.parallel.param_spec import path_name

# The shape at which jaxlib 0.10.2 loses part of the last row on CPUs (jax-ml/jax#39103).
ROWS, WIDTH = 32_769, 3
SIZES = {"cpu": 64}  # of the matrices whose products are exact; elsewhere 1024, so that all units take part
# JAX release and platform -> report, for faults that the computation below does not detect.
KNOWN_WRONG = {("0.11.0", "gpu"): "jax-ml/jax#40633", ("0.11.1", "gpu"): "jax-ml/jax#40633"}
FIX = f"install the version that this repository pins: make setup, or {invocation.install()}"


def check_devices() -> None:
    """Raises UserError naming the device if a small product, squared and summed, differs from its known value."""
    for device in jax.local_devices():
        report = KNOWN_WRONG.get((jax.__version__, device.platform))
        if report:
            raise UserError(
                f"JAX {jax.__version__} computes wrong values on this {device.device_kind} ({report}); {FIX}"
            )
        wrong = _wrong_rows(device)
        if wrong:
            cause = FIX if device.platform == "cpu" else "the device may be faulty: leave it out, or try another driver"
            raise UserError(
                f"{device.device_kind} (device {device.id}) computes wrong values with JAX {jax.__version__}: "
                f"{wrong} of {ROWS} sums are off; {cause}"
            )

    check_products()


def check_products() -> None:
    """Raises UserError naming the device if a product of matrices is not exact.

    Every product and sum of these integers is exact in bfloat16 with float32 sums, in any order, on any device.
    """
    for device in jax.local_devices():
        operands, expected = _known_product(device)
        computed = np.asarray(_products(*operands))
        wrong = int((computed != expected).sum())
        if wrong:
            raise UserError(
                f"{device.device_kind} (device {device.id}, process {device.process_index}) computes wrong values: "
                f"{wrong} of {computed.size} sums of products are off; the device may be faulty: leave "
                "it out. The same command continues from the newest checkpoint"
            )


@functools.cache
def _known_product(device: jax.Device) -> tuple[list[jax.Array], np.ndarray]:
    """Two matrices of integers from -2 to 2 on a device, int8 [size, size], and their product in float32."""
    size, draw = SIZES.get(device.platform, 1024), np.random.default_rng(0)
    a, b = draw.integers(-2, 3, (2, size, size)).astype(np.int8)
    return [jax.device_put(a, device), jax.device_put(b, device)], a.astype(np.float32) @ b.astype(np.float32)


@jax.jit
def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """float32 [2, size, size]: a @ b, with float32 and with bfloat16 operands."""
    kinds = (jnp.float32, jnp.bfloat16)
    return jnp.stack([jnp.matmul(a.astype(of), b.astype(of), preferred_element_type=jnp.float32) for of in kinds])


def check_replicas(values: Any) -> None:
    """Raises UserError naming the devices if copies of an array on several devices differ. A collective.

    values: tree of arrays with a NamedSharding over one mesh.
    """
    leaves = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(values)]
    leaves = [(name, leaf) for name, leaf in leaves if isinstance(leaf.sharding, NamedSharding)]
    if not leaves or leaves[0][1].sharding.mesh.size == 1:
        return
    mesh = leaves[0][1].sharding.mesh
    sums = np.asarray(_sums(mesh, tuple(leaf.sharding.spec for _, leaf in leaves))([leaf for _, leaf in leaves]))
    devices = list(mesh.devices.flat)
    for number, (name, leaf) in enumerate(leaves):
        copies = collections.defaultdict(list)  # of the same part of the array
        for device, part in leaf.sharding.devices_indices_map(leaf.shape).items():
            copies[str(part)].append(device)
        for holders in copies.values():
            by_sum = collections.defaultdict(list)
            for device in holders:
                by_sum[sums[devices.index(device), number]].append(f"{device.id} (process {device.process_index})")
            if len(by_sum) > 1:
                fewest, *others = sorted(by_sum.values(), key=len)
                raise UserError(
                    f"{name} on device {', '.join(fewest)} differs from the copy on device {', '.join(others[-1])}: "
                    "one of them, or the network, is faulty; leave it out. Nothing of this step was saved, and the "
                    "same command continues from the newest checkpoint"
                )


@functools.lru_cache(maxsize=4)
def _sums(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    """The function: arrays -> uint32 [devices, arrays], sums of the bits of each device's part."""

    def here(arrays: list[jax.Array]) -> jax.Array:
        bits = [jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * a.dtype.itemsize}")) for a in arrays]
        return jnp.stack([jnp.sum(each.astype(jnp.uint32), dtype=jnp.uint32) for each in bits])[None]

    sums = jax.shard_map(
        here, mesh=mesh, in_specs=(list(specs),), out_specs=PartitionSpec(mesh.axis_names), check_vma=False
    )
    return jax.jit(sums, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.cache
def _wrong_rows(device: jax.Device) -> int:
    """Counts rows whose squared norm, exactly an integer, is off by more than float32 rounding."""
    first = np.arange(ROWS, dtype=np.float32)
    rows = np.stack([first] + [np.zeros_like(first)] * (WIDTH - 1), axis=1)
    norms = jax.jit(jax.vmap(lambda weights, row: jnp.sum((weights @ row) ** 2), in_axes=(None, 0)))
    computed = np.asarray(norms(*jax.device_put((np.eye(WIDTH, dtype=np.float32), rows), device)))
    tolerance = 1e-4 if device.platform == "cpu" else 1e-2  # accelerators may multiply in TensorFloat-32 or bfloat16
    return int((np.abs(computed - first**2) > tolerance * first**2).sum())
