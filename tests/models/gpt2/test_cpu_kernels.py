"""C++ kernels for CPUs compared with the formulas and their autodiff gradients; and their compilation."""

import os
import platform
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import draw, draw_tokens, with_gradients
from helpers.tiny_gpt2 import random_params, tiny

from estimator.system import compiler, native_build
from models.gpt2 import cpu_kernels, layers, model
from models.gpt2.attention import reference
from models.gpt2.attention.select_backend import choose
from models.gpt2.decode import kv_cache
from models.gpt2.tile_product import tile_product


@pytest.fixture(autouse=True)
def _compiled():
    if obstacle := cpu_kernels.obstacle():
        pytest.skip(obstacle)


def assert_close(found, expected, *, tolerance):
    """Checks the maximum difference of each array, relative to the array's largest magnitude."""
    for ours, theirs in zip(found, expected, strict=True):
        size = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=0, atol=tolerance * size)


@pytest.fixture
def tiles():
    """Skips tests of products in tiles where there are none."""
    if not cpu_kernels.has_tiles():
        pytest.skip("this processor does not multiply bfloat16, or the compiler does not know how")


@pytest.fixture(params=[True, False], ids=["tiles", "vectors"])
def in_tiles(request, monkeypatch):
    """Whether bfloat16 is multiplied in tiles."""
    if request.param:
        request.getfixturevalue("tiles")
    monkeypatch.setattr(cpu_kernels, "has_tiles", lambda: request.param)
    return request.param


# Attention.


def segments(n_tokens):
    ends = jnp.array([[n_tokens // 3, n_tokens // 2], [1, n_tokens - 2]])
    return (jnp.arange(n_tokens) >= ends[:, :1]).astype(jnp.int32) + (jnp.arange(n_tokens) >= ends[:, 1:])


WIDTHS = (8, 20, 64)  # narrower than a vector, uneven, several vectors
CHOICES = ("plain", "segments", "dropout")


def every_pair(lengths):
    """Returns (length, width, choice): each length with each width, and each of both with each choice, are in one."""
    return [(n, width, CHOICES[(i + j) % 3]) for i, n in enumerate(lengths) for j, width in enumerate(WIDTHS)]


# Less than one block of queries, one block, one more, several.
@pytest.mark.parametrize(("n_tokens", "width", "choices"), every_pair([5, 48, 49, 300]))
def test_attention_and_its_gradient_are_those_of_the_formula(n_tokens, width, choices):
    *arguments, dy = (draw(2, n_tokens, 3, width, seed=seed) for seed in range(4))
    options = {
        "plain": {},
        "segments": {"segments_BT": segments(n_tokens)},
        "dropout": {"dropout": 0.25, "key": jax.random.key(5)},  # bitwise the same mask
    }[choices]
    found, expected = (
        with_gradients(lambda q, k, v, f=function: f(q, k, v, **options), arguments, dy)
        for function in (cpu_kernels.attention, reference.attention)
    )
    assert_close(found, expected, tolerance=1e-5)  # sums of up to 300 float32 terms in a different order


def test_attention_in_bfloat16_is_nearer_to_float32_than_by_blocks(in_tiles):
    """Inputs, results, and the incoming gradient have 8 bits; in tiles also weights and gradients of scores."""
    *arguments, dy = (draw(2, 256, 2, 64, seed=seed).astype(jnp.bfloat16).astype(jnp.float32) for seed in range(4))
    exact = with_gradients(reference.attention, arguments, dy)
    low = [x.astype(jnp.bfloat16) for x in arguments]
    found, by_blocks = (
        with_gradients(lambda q, k, v, name=name: model.attention(q, k, v, implementation=name), low, dy)
        for name in ("native", "blocked")
    )
    assert_close(found, exact, tolerance=2**-7)
    errors = [[float(jnp.abs(x.astype(jnp.float32) - y).mean()) for x, y in zip(side, exact, strict=True)]
              for side in (found, by_blocks)]  # fmt: skip
    for ours, theirs in zip(*errors, strict=True):
        assert ours < (1.002 if in_tiles else 1) * theirs


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("n_tokens", "width", "choices"), every_pair([5, 32, 65, 300]))
def test_attention_in_tiles_is_that_of_the_formula(n_tokens, width, choices):
    *arguments, dy = (draw(2, n_tokens, 3, width, seed=seed, dtype=jnp.bfloat16) for seed in range(4))
    options = {
        "plain": {},
        "segments": {"segments_BT": segments(n_tokens)},
        "dropout": {"dropout": 0.25, "key": jax.random.key(5)},
    }[choices]
    found, expected = (
        with_gradients(lambda q, k, v, name=name: model.attention(q, k, v, implementation=name, **options), *given)
        for name, given in (
            ("native", (arguments, dy)),
            ("reference", ([x.astype(jnp.float32) for x in arguments], dy.astype(jnp.float32))),
        )
    )
    assert all(x.dtype == jnp.bfloat16 for x in found)
    # 2^-9 for each rounding: of weights, results, and the gradient of the scores, in which results cancel.
    assert_close(found, expected, tolerance=2**-6)


def test_large_scores_do_not_overflow():
    q, k, v = (100 * draw(1, 64, 1, 16, seed=seed) for seed in range(3))
    found, expected = (with_gradients(f, (q, k, v), v) for f in (cpu_kernels.attention, reference.attention))
    assert_close(found[:1], expected[:1], tolerance=1e-4)  # scores of 1e5 exceed float32 precision
    assert all(np.isfinite(np.asarray(x)).all() for x in found)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [16, 24, 80])
def test_tokens_are_put_into_their_slots_and_see_them_up_to_their_own(width, dtype):
    tokens, heads, slots, length = 3, 2, 5, 37
    q, new_k, new_v = (draw(tokens, 1, heads, width, seed=seed, dtype=dtype) for seed in range(3))
    k, v = (draw(slots, heads, length, width, seed=seed, dtype=dtype) for seed in (3, 4))
    slots_B, positions = jnp.asarray([4, 0, 2], jnp.int32), jnp.asarray([[0], [20], [36]], jnp.int32)
    rows_k, rows_v = (kv_cache._put(x[slots_B], new, positions) for x, new in ((k, new_k), (v, new_v)))
    expected = kv_cache.reference(*(x.astype(jnp.float32) for x in (q, rows_k, rows_v)), positions_BT=positions)
    beyond = (jnp.arange(length) > positions)[:, None, :, None]
    k, v = (x.at[slots_B].set(jnp.where(beyond, jnp.nan, x[slots_B])) for x in (k, v))
    found, *caches = kv_cache.cached_attention(q, new_k, new_v, k, v, slots_B=slots_B, positions_BT=positions)
    assert found.dtype == dtype
    rounding = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=10 * rounding, atol=rounding)
    for cache, before, rows in zip(caches, (k, v), (rows_k, rows_v), strict=True):
        cache, before = cache.astype(jnp.float32), before.astype(jnp.float32)
        np.testing.assert_array_equal(cache[slots_B], jnp.where(beyond, jnp.nan, rows).astype(jnp.float32))
        np.testing.assert_array_equal(cache[jnp.asarray([1, 3])], before[jnp.asarray([1, 3])])


@pytest.mark.usefixtures("in_tiles")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [16, 24])
def test_prompts_in_pieces_have_the_bits_of_whole_ones(width, dtype):
    n_tokens, heads = 150, 2
    q, k, v = (draw(2, n_tokens, heads, width, seed=seed, dtype=dtype) for seed in range(3))
    whole = np.asarray(cpu_kernels.attention(q, k, v))
    caches = [jnp.full((3, heads, 160, width), jnp.nan, dtype)] * 2
    done = [0, 0]  # tokens processed of each prompt; the prompts use slots 2 and 0
    for counts in ((7, 90), (143, 0), (0, 1), (0, 59)):
        places = [(row, done[row] + i) for row, count in enumerate(counts) for i in range(count)]
        row, position = (jnp.asarray(x, jnp.int32) for x in zip(*places, strict=True))
        tokens = [jnp.pad(x[row, position], ((0, 3), (0, 0), (0, 0)))[:, None] for x in (q, k, v)]
        slots = jnp.pad(jnp.asarray([2, 0], jnp.int32)[row], (0, 3), constant_values=-1)
        place = {"slots_B": slots, "positions_BT": jnp.pad(position, (0, 3))[:, None], "is_prompt": True}
        found, *caches = kv_cache.cached_attention(*tokens, *caches, **place)
        np.testing.assert_array_equal(found[: len(places), 0], whole[row, position])
        done = [a + b for a, b in zip(done, counts, strict=True)]
    assert done == [n_tokens, n_tokens]


# Layer norm and GELU.


def plain_layer_norm(x, gain, bias):
    x = x.astype(jnp.float32)
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain + bias


@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 6, 16), (3, 50, 100)])  # one, one, and three tasks
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-7)])
def test_layer_norm_and_its_gradient(shape, dtype, tolerance):
    x, dy = (draw(*shape) + 30).astype(dtype), draw(*shape, seed=5).astype(dtype)
    arguments = [x.astype(jnp.float32), 1 + draw(shape[-1], seed=1), draw(shape[-1], seed=2)]
    expected = with_gradients(plain_layer_norm, arguments, dy.astype(jnp.float32))
    found = with_gradients(cpu_kernels.layer_norm, [x, *arguments[1:]], dy)
    assert [each.dtype for each in found] == [dtype, dtype, jnp.float32, jnp.float32]
    assert_close(found, expected, tolerance=3 * tolerance)


@pytest.mark.parametrize("count", [1, 16, 37, 50_000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 5e-6), (jnp.bfloat16, 2**-8)])
def test_gelu_and_its_gradient(count, dtype, tolerance):
    x, dy = (4 * draw(count)).astype(dtype), draw(count, seed=5).astype(dtype)
    expected = with_gradients(
        lambda x: jax.nn.gelu(x, approximate=True), [x.astype(jnp.float32)], dy.astype(jnp.float32)
    )
    assert_close(with_gradients(cpu_kernels.gelu, [x], dy), expected, tolerance=2 * tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_of_extremes(dtype):
    x = jnp.asarray([-1e30, -100, -10, -0.0, 0, 10, 100, 1e30, jnp.inf, jnp.nan], dtype)
    y, dx = with_gradients(cpu_kernels.gelu, [x], jnp.ones_like(x))
    expected = np.asarray([0, 0, 0, 0, 0, 10, 100, 1e30, np.inf, np.nan])
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-7)
    np.testing.assert_allclose(np.asarray(dx, np.float64)[1:7], [0, 0, 0.5, 0.5, 1, 1], atol=1e-7)


def test_attention_to_infinite_scores_is_not_a_number():
    q, k, v = (draw(1, 40, 2, 16, seed=seed) for seed in range(3))
    k = k.at[0, 20, 1].set(jnp.where(q[0, 30, 1] > 0, 1e38, -1e38))  # the scores of query 30 are infinite
    q = 1000 * q
    found, expected = (model.attention(q, k, v, implementation=name) for name in ("native", "reference"))
    assert jnp.isnan(expected[0, 30, 1]).all()
    np.testing.assert_array_equal(jnp.isnan(found), jnp.isnan(expected))


# Products in tiles.


# Less than a pair of tiles, whole ones, one more; more inputs than a part has; either side with more indices.
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    ("shape", "form", "dtype"),
    [
        (shape, form, (jnp.float32, jnp.bfloat16)[(i + j) % 2])  # each dtype with each shape and each form
        for i, shape in enumerate([(1, 1, 1), (32, 64, 32), (33, 17, 31), (70, 300, 2100), (300, 40, 4133)])
        for j, form in enumerate(["ab,bc->ac", "ba,bc->ac", "ab,cb->ac", "ba,cb->ac"])
    ],
)
def test_products_in_tiles_are_those_of_float64(shape, form, dtype):
    sizes = dict(zip("acb", shape, strict=True))
    a, b = (draw(*(sizes[dim] for dim in dims), seed=len(dims), dtype=jnp.bfloat16)
            for dims in form.partition("->")[0].split(","))  # fmt: skip
    bias, has_sums = draw(sizes["c"], seed=3), form.endswith(",bc->ac")
    found, sums = tile_product(form, a, b, bias, dtype=dtype, has_sums=has_sums)
    a64, b64 = np.asarray(a, np.float64), np.asarray(b, np.float64)
    expected = np.einsum(form, a64, b64) + np.asarray(bias, np.float64)
    error = 2e-6 * np.einsum(form, np.abs(a64), np.abs(b64)) + 1e-6  # of float32 sums
    error += np.abs(expected) * (2**-8 if dtype == jnp.bfloat16 else 0)
    assert (np.abs(np.asarray(found, np.float64) - expected) <= error).all()
    if has_sums:
        np.testing.assert_allclose(sums, b64.sum(0), atol=1e-6 * np.abs(b64).sum(0).max())
    with jax.disable_jit():
        some = a[: len(a) // 2 + 1] if form.startswith("ab") else a[:, : a.shape[1] // 2 + 1]
        again, _ = tile_product(form, some, b, bias, dtype=dtype)
    np.testing.assert_array_equal(again, found[: len(again)])  # a row has the same bits in any batch


@pytest.mark.usefixtures("tiles")
def test_products_of_several_dims_in_tiles():
    arrays = [draw(2, 5, 3, 8), draw(3, 8, 12, seed=1), draw(2, 5, 12, seed=2)]
    low = [array.astype(jnp.bfloat16) for array in arrays]
    b = draw(12, seed=3)

    def of(products, x, w, dy):
        gradients = products.product_and_sums("bthk,btd->hkd", x, dy, n_dims=1)
        return [products.product("bthk,hkd->btd", x, w, b), products.product("btd,hkd->bthk", dy, w), *gradients]

    expected = of(layers.XLA, *(array.astype(jnp.float32) for array in low))
    assert_close(of(layers.NATIVE, *low), expected, tolerance=2**-8)


# Loss.


@pytest.mark.parametrize(("n_vocab", "padded"), [(50, 64), (64, 64), (1, 64), (1000, 1024)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-6)])
def test_loss_and_its_gradient(n_vocab, padded, dtype, tolerance, in_tiles):
    """Padding gets no gradient. bfloat16 rounds inputs, the gradient of the scores, and results of 64-term sums."""
    hidden, head = 3 * draw(2, 6, 16).astype(dtype), draw(padded, 16, seed=1)
    targets = draw_tokens(n_vocab, 2, 6, seed=9)
    dy = draw(2, 6, seed=5)

    def plain(hidden, head):
        scores = jnp.where(jnp.arange(padded) < n_vocab, hidden @ head.T, -jnp.inf)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], axis=-1)[..., 0]

    rounded = [hidden.astype(jnp.float32), head.astype(dtype).astype(jnp.float32)]
    expected = with_gradients(plain, rounded, dy)
    found = with_gradients(lambda *a: cpu_kernels.nll(*a, targets, n_vocab), [hidden, head], dy)
    for ours, theirs in zip(found, expected, strict=True):
        size = max(float(jnp.abs(theirs).max()), 1e-3)
        np.testing.assert_allclose(np.float32(ours), theirs, rtol=0, atol=tolerance * size)
    assert not np.asarray(found[2])[n_vocab:].any()


@pytest.mark.usefixtures("tiles")
def test_a_loss_in_tiles_takes_the_tokens_in_turns(monkeypatch):
    hidden, head, dy = draw(2, 90, 48, dtype=jnp.bfloat16), draw(128, 48, seed=1), draw(2, 90, seed=5)
    targets = draw_tokens(100, 2, 90, seed=9)
    whole, in_turns = (
        (monkeypatch.setattr(cpu_kernels, "TILE_SCORES", scores),
         with_gradients(lambda *a: cpu_kernels.nll(*a, targets, 100), [hidden, head], dy))[1]
        for scores in (1 << 21, 1)
    )  # fmt: skip
    for ours, theirs in zip(in_turns, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Model.


@pytest.mark.parametrize("choices", [{}, {"precision": "bfloat16"}, {"remat": "full"}, {"scan_layers": True}])
def test_a_model_with_kernels_is_the_model(choices, in_tiles):
    config = tiny(n_embd=48, n_head=3, n_ctx=32, **choices)
    params = random_params(config)
    batch = {"tokens": draw_tokens(config.n_vocab, 3, 33)}

    def loss(params, implementation):
        total, weight = model.loss(params, batch, None, config=config, implementation=implementation)
        return total / weight

    found, expected = (
        jax.tree.leaves(jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, implementation))
        for implementation in ("native", "reference")
    )
    # bfloat16: 2^-8 for each of about ten roundings on the path through two blocks and back.
    assert_close(found, expected, tolerance=2**-4 if config.precision == "bfloat16" else 1e-5)


# Compilation.


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Returns sources that compile quickly, with their own cache."""
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "gpt2" / "native"
    folder.mkdir(parents=True)
    (folder / "native.cc").write_text('#include "vectors.h"\nextern "C" int width() { return WIDTH; }\n')
    (folder / "vectors.h").write_text("#define WIDTH 8\n")
    return folder


def load(folder):
    native_build.load.cache_clear()
    native_build.library.cache_clear()
    return native_build.load(folder, "native.cc", ())


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for processors of x86")
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512", "icelake-client", "cooperlake", "sapphirerapids"])
def test_the_kernels_compile_with_the_instructions_of_a_processor(processor):
    """If this fails, the library is compiled without these instructions and is slow."""
    program = next(filter(None, map(shutil.which, compiler.COMPILERS)))
    known = [program, f"-march={processor}", "-E", "-x", "c++", os.devnull]
    if subprocess.run(known, capture_output=True, check=False).returncode:
        pytest.skip(f"{program} is older than {processor}")
    command = [program, *compiler.FLAGS, "-O0", f"-march={processor}", f"-I{jax.ffi.include_dir()}", "-c"]
    command += [str(cpu_kernels.SOURCES / "native.cc"), "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_sources_are_compiled_once_for_each_state_of_them(sources, tmp_path, capsys):
    assert load(sources) is None
    assert "compiling the C++ for this processor, once" in capsys.readouterr().err
    (made,) = (tmp_path / "cache").rglob("*.so")
    before = made.stat().st_mtime_ns
    assert load(sources) is None
    assert made.stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""
    with (sources / "vectors.h").open("a") as file:
        file.write("// changed\n")
    assert load(sources) is None
    assert len(list((tmp_path / "cache").rglob("*.so"))) == 2
    assert not list((tmp_path / "cache").rglob("tmp*"))


def test_a_library_that_was_cut_off_is_compiled_again(sources, tmp_path):
    """Loading a truncated library would crash the process, so it is never loaded."""
    assert load(sources) is None
    (library,) = (tmp_path / "cache").rglob("*.so")
    whole = library.read_bytes()
    library.unlink()  # this process has the file mapped
    library.write_bytes(whole[: len(whole) // 2])
    assert load(sources) is None
    assert library.read_bytes() == whole


def test_what_a_killed_compilation_left_is_removed_when_it_is_old(sources, tmp_path):
    assert load(sources) is None
    (library,) = (tmp_path / "cache").rglob("*.so")
    left, in_use = library.parent / "tmpleft", library.parent / "tmpused"
    for folder in (left, in_use):
        folder.mkdir()
        (folder / library.name).write_bytes(b"half")
    os.utime(left, (1000, 1000))
    library.unlink()
    assert load(sources) is None
    assert in_use.exists()
    assert not left.exists()


def test_on_a_full_disk_it_is_tried_once(sources, tmp_path, monkeypatch):
    program = tmp_path / "full-c++"
    program.write_text(
        '#!/bin/sh\necho >> "$0.calls"\necho "ld: final link failed: No space left on device" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    assert str(load(sources)).endswith("No space left on device")
    assert len((tmp_path / "full-c++.calls").read_text().splitlines()) == 1


def test_what_hinders_it_is_said(sources, tmp_path, monkeypatch):
    (sources / "native.cc").write_text("this is no C++\n")
    assert "cannot be compiled by " in load(sources)
    assert not list((tmp_path / "cache").rglob("*.so"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load(sources) == "needs a C++ compiler (no-such-compiler)"
    monkeypatch.setenv("CXX", "")
    assert load(sources) == "needs a C++ compiler (CXX is empty)"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("GPT2_CACHE", "/proc/nothing")
    assert "/proc/nothing" in load(sources)


def test_without_a_compiler_attention_goes_by_blocks(monkeypatch):
    monkeypatch.setattr(native_build, "load", lambda *arguments: "needs a C++ compiler (c++)")
    wanted = {"platform": "cpu", "dtype": jnp.float32, "head_width": 64, "n_ctx": 1024, "dropout": 0.0}
    choice = choose("auto", **wanted)
    assert str(choice) == "attention: blocked (native needs a C++ compiler (c++))"
    assert cpu_kernels.obstacle("gpu") == "needs a CPU, and this is gpu"
