"""TensorFlow checkpoints: real ones are read completely, and every kind of corruption is reported."""

import hashlib
import shutil

import numpy as np
import pytest
from conftest import GOLDEN
from helpers.tf_bundles import NUMBERS, write_bundle

from estimator.errors import UserError
from estimator.interop.tf_checkpoint import Bundle, find

# SHA-256 of the names and bytes of the variables, as saved by TensorFlow.
RUNS = {
    "adamw_warmup_cosine": "222020298491cef7c52cc07dc2a1e9640ccb71c58e2add2b3c3e951e7441b825",
    "adafactor_pow": "b9823a595ef7961fcc4865b473c1d261acedff489233ba271187c87303aef287",
}


@pytest.fixture
def copy(tmp_path):
    for path in GOLDEN.glob("*.ckpt.*"):
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_real_checkpoints_are_read_and_every_checksum_fits(name):
    bundle = Bundle(GOLDEN / f"{name}.ckpt")
    arrays = {key: bundle[key] for key in bundle}
    assert all(bundle.shape(key) == arrays[key].shape for key in arrays)
    names = [key.removeprefix("init/") for key in np.load(GOLDEN / f"{name}.npz") if key.startswith("init/")]
    assert set(names) < set(arrays)
    digest = hashlib.sha256(b"".join(key.encode() + arrays[key].tobytes() for key in sorted(names)))
    assert digest.hexdigest() == RUNS[name]
    assert arrays["global_step"] == 12
    # The entries cover the whole data file, so every byte is verified by a checksum.
    covered = sum(entry.size for entry in bundle.entries.values())
    assert covered == bundle.files[0].stat().st_size


def test_types_and_shapes_come_back(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {f"a{i}": draw.integers(0, 2, (2, i + 1)).astype(dtype) for i, dtype in enumerate(NUMBERS)}
    arrays |= {"scalar": np.float32(3.5), "empty": np.zeros((0, 4), np.float32), "long": np.zeros(200_000, np.int64)}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    write_bundle(tmp_path / "m", arrays)
    bundle = Bundle(tmp_path / "m")
    assert set(bundle) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(bundle[name], array.astype(np.float32) if array.dtype.kind == "V" else array)
        assert bundle.shape(name) == array.shape


@pytest.mark.parametrize("name", RUNS)
def test_every_byte_of_an_index_is_guarded(copy, name):
    index = copy / f"{name}.ckpt.index"
    whole = index.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        index.write_bytes(damaged)
        with pytest.raises(UserError, match=r"\.index"):
            Bundle(copy / f"{name}.ckpt")
    for size in (0, 20, 48, len(whole) // 2):
        index.write_bytes(whole[:size])
        with pytest.raises(UserError, match="again"):
            Bundle(copy / f"{name}.ckpt")


def test_a_changed_byte_of_the_data_names_file_tensor_and_offset(copy):
    data = copy / "adafactor_pow.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    bundle = Bundle(copy / "adafactor_pow.ckpt")
    for name in ("global_step", "model/wte", "model/h1/ln_2/g"):
        entry = bundle.entries[name]
        damaged = bytearray(whole)
        damaged[entry.offset + entry.size // 2] ^= 0x10
        data.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"data-00000-of-00001: {name}, .* from byte {entry.offset}.*checksum"):
            Bundle(copy / "adafactor_pow.ckpt")[name]
    data.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cut off"):
        Bundle(copy / "adafactor_pow.ckpt")
    data.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001 is missing"):
        Bundle(copy / "adafactor_pow.ckpt")


BAD = [
    ({"compression": 1}, "compressed"),
    ({"partitioned": True}, "partitioned"),
    ({"magic": 1}, "not the index of a TensorFlow checkpoint"),
    ({"header": False}, "no header"),
    ({"dtype": 2}, "cannot take"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[next(iter(options)) for options, _ in BAD])
def test_what_cannot_be_read_is_one_message(tmp_path, options, message):
    write_bundle(tmp_path / "m", {"model/wte": np.ones((2, 3), np.float32)}, **options)
    with pytest.raises(UserError, match=message):
        Bundle(tmp_path / "m")


def test_text_is_refused_only_when_it_is_asked_for(tmp_path):
    write_bundle(tmp_path / "m", {"graph": np.zeros(5, np.uint8)}, dtype=7)
    bundle = Bundle(tmp_path / "m")
    with pytest.raises(UserError, match="has the type text, which is not read"):
        bundle["graph"]


def test_a_checkpoint_is_found_by_prefix_file_or_folder(tmp_path):
    for step in (9, 10):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"a": np.ones(2, np.float32)})
    newest = tmp_path / "model.ckpt-10"
    for path in (newest, f"{newest}.index", f"{newest}.data-00000-of-00001", f"{newest}.meta", tmp_path):
        assert find(path) == newest
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/old/machine/model.ckpt-9"\n')
    assert find(tmp_path) == tmp_path / "model.ckpt-9"
    assert find(tmp_path / "nothing") is None
    (tmp_path / "empty").mkdir()
    assert find(tmp_path / "empty") is None
