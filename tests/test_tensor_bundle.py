"""TensorFlow checkpoints: real ones of the seed read whole, and every kind of damage named."""

import shutil
import struct

import ml_dtypes
import numpy as np
import pytest
from google_crc32c import value as crc32c

from runtime.errors import UserError
from runtime.tensor_bundle import DTYPES, MAGIC, Bundle, find

RUNS = ["adamw_warmup_cosine", "adafactor_pow"]
NUMBERS = {np.dtype(name): number for number, name in DTYPES.items()} | {np.dtype(ml_dtypes.bfloat16): 14}


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(n: int) -> bytes:
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: dict[bytes, bytes], compression: int = 0) -> bytes:
    body = b"".join(b"\0" + varint(len(k)) + varint(len(v)) + k + v for k, v in entries.items())
    body += struct.pack("<II", 0, 1) + bytes([compression])
    return body + masked(body)


def write_bundle(prefix, arrays, *, compression=0, partitioned=False, dtype=None, magic=MAGIC, header=True):
    """A checkpoint as TensorFlow's format description has it, by other code than the reader's."""
    data, entries = b"", {b"": field(1, 1)} if header else {}
    for name, array in sorted(arrays.items()):
        stored = array.tobytes()
        shape = b"".join(field(2, field(1, n)) for n in array.shape)
        entry = field(1, dtype or NUMBERS[array.dtype]) + field(2, shape) + field(4, len(data))
        entry += field(5, len(stored)) + b"\x35" + masked(stored) + (field(7, b"") if partitioned else b"")
        entries[name.encode()] = entry
        data += stored
    first, meta = block(entries, compression), block({})
    index = block({b"~": varint(0) + varint(len(first) - 5)})
    handles = [len(first), len(meta) - 5, len(first) + len(meta), len(index) - 5]
    footer = b"".join(map(varint, handles)).ljust(40, b"\0") + struct.pack("<Q", magic)
    prefix.with_name(prefix.name + ".index").write_bytes(first + meta + index + footer)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


@pytest.fixture
def copy(fixtures, tmp_path):
    for path in (fixtures / "golden").glob("*.ckpt.*"):
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_real_checkpoints_are_read_and_every_checksum_fits(fixtures, name):
    bundle = Bundle(fixtures / "golden" / f"{name}.ckpt")
    arrays = {key: bundle[key] for key in bundle}
    final = np.load(fixtures / "golden" / f"{name}.npz")
    names = [key.removeprefix("final/") for key in final.files if key.startswith("final/")]
    assert set(names) < set(arrays)
    assert all(bundle.shape(key) == arrays[key].shape for key in arrays)
    for key in names:
        np.testing.assert_array_equal(arrays[key], final[f"final/{key}"])
    assert arrays["global_step"] == 12
    # The entries cover the data file: no byte of it is unchecked.
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
    with pytest.raises(UserError, match="holds text"):
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
