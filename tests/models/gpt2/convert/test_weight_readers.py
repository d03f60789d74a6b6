"""Weights of other programs: every format yields bit-identical parameters, and foreign models are rejected."""

import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import load_file, save_file

from estimator.errors import UserError
from estimator.interop import safetensors_io, torch_pickle
from estimator.parallel.param_spec import map_specs, named
from models.gpt2 import model
from models.gpt2.convert import hf, name_maps
from models.gpt2.convert.readers import open_source

CONFIG = model.GPT2Config(n_embd=8, n_head=2, n_layer=2, n_ctx=6, n_vocab=20)
SPECS = model.parameters(CONFIG)


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    noise = map_specs(lambda spec: draw.normal(size=spec.used_shape).astype(np.float32), SPECS)
    return map_specs(lambda spec, value: name_maps.padded(value, spec), SPECS, noise)


def read(path):
    source = open_source(str(path))
    name_maps.check(source.shapes, SPECS, source.layout, source=source.name)
    return source, {name: name_maps.read(source.arrays, name, spec, source.layout) for name, spec in named(SPECS)}


def assert_same(params, found):
    for (name, spec), leaf in zip(named(SPECS), jax.tree.leaves(params), strict=True):
        used = leaf[tuple(slice(0, size) for size in spec.used_shape)]
        np.testing.assert_array_equal(found[name], used, err_msg=name)


def test_hdf5_of_dixie(params, tmp_path):
    h5py = pytest.importorskip("h5py", reason="reads hdf5")
    for step in (9, 10):
        with h5py.File(tmp_path / f"model-{step}.hdf5", "w") as file:
            for name, array in name_maps.to_tensorflow(params, SPECS).items():
                file.create_dataset(f"{name}:0", data=array * (step == 10))
    source, found = read(tmp_path)
    assert "model-10" in source.name
    assert_same(params, found)
    (tmp_path / "model-11.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(UserError, match="is no hdf5 file"):
        open_source(str(tmp_path))


def test_hdf5_groups_that_contain_themselves_end_and_other_files_are_not_read(tmp_path):
    h5py = pytest.importorskip("h5py", reason="reads hdf5")
    for name in ("a.hdf5", "b.hdf5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["model/w:0"] = np.zeros(3, np.float32)
            file["model/h0/b:0"] = np.zeros(3, np.float32)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["model/other"] = h5py.ExternalLink("b.hdf5", "/model")
        file["model/again"] = h5py.SoftLink("/model")
    assert set(open_source(str(tmp_path / "a.hdf5")).arrays) == {"model/w", "model/h0/b"}
    with h5py.File(tmp_path / "b.hdf5", "a") as file:
        for number in range(9):
            file[f"model/h0/{number}"] = file["model"]
    with pytest.raises(UserError, match=r"b\.hdf5 is no hdf5 file, or it is damaged \(a group contains itself\)"):
        open_source(str(tmp_path / "b.hdf5"))


def lopuhin(params):
    """Returns the weights with lopuhin's names and PyTorch's [outputs, inputs] layout, written by hand."""
    theirs = {}
    for name, array in name_maps.to_tensorflow(params, SPECS).items():
        path = name.removeprefix("model/").replace("/", ".")
        if path.startswith("h"):
            path = "blocks." + path[1:]
        if path in ("wte", "wpe"):
            path += ".weight"
        elif ".ln_" not in path and not path.startswith("ln_f"):
            path = path[:-1] + {"w": "weight", "b": "bias"}[path[-1]]
        theirs[path] = array[0].T if array.ndim == 3 else array
    return theirs


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_pytorch_files_of_transformer_lm(params, tmp_path, old):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")
    state = {f"module.{name}": torch.tensor(np.ascontiguousarray(array)) for name, array in lopuhin(params).items()}
    file = {"state_dict": state, "seen_tokens": 512}
    torch.save(file, tmp_path / "model.pt", _use_new_zipfile_serialization=not old)
    (tmp_path / "params.json").write_text(json.dumps({"hparams": {"n_head": 2}}))
    source, found = read(tmp_path)
    assert source.settings["n_head"] == 2
    assert_same(params, found)
    whole = (tmp_path / "model.pt").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 200):
        (tmp_path / "model.pt").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"again|no file of"):
            read(tmp_path)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Bad:
        def __reduce__(self):
            return (print, ("it ran",))

    for name in ("old.pt", "new.pt"):
        data = pickle.dumps({"state_dict": Bad()}, protocol=2)
        if name == "new.pt":
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                archive.writestr("archive/data.pkl", data)
        else:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=r"print.*could run anything"):
            torch_pickle.read(tmp_path / name)


def test_an_encrypted_member_of_a_torch_file_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[6] |= 1  # the flag of the member, and of its entry in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pt is no file of torch\.save, or it is damaged \(.*encrypted"):
        torch_pickle.read(tmp_path / "a.pt")


def test_small_torch_files_cannot_take_much_memory(tmp_path):
    """Rejected before allocation: memo entries with a huge index, and compressed archive members."""
    far = b"\x80\x02K\x01r" + (1 << 20).to_bytes(4, "little") + b"."  # a memo index of one million, which is harmless
    assert pickle.loads(far) == 1
    with zipfile.ZipFile(tmp_path / "far.pt", "w") as archive:
        archive.writestr("archive/data.pkl", far)
    with pytest.raises(UserError, match="remembers an object as number"):
        torch_pickle.read(tmp_path / "far.pt")
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": "b" * 9999}))
    with pytest.raises(UserError, match=r"is compressed, which torch\.save never does"):
        torch_pickle.read(tmp_path / "packed.pt")


def test_views_and_types_of_pytorch_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"turned": base.T, "part": base[1:3, 2:], "half": base.half(), "brain": base.bfloat16(),
               "whole": torch.arange(3), "yes": torch.tensor([True, False]), "scalar": torch.tensor(2.5),
               "parameter": torch.nn.Parameter(base)}  # fmt: skip
    for zipped in (True, False):
        torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        found = torch_pickle.state_dict(torch_pickle.read(tmp_path / "a.pt"), "a.pt")
        for name, tensor in tensors.items():
            expected = tensor.detach().float().numpy() if name == "brain" else tensor.detach().numpy()
            np.testing.assert_array_equal(found[name], expected)


def test_models_of_another_architecture_are_refused_with_the_reason(params, tmp_path):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")

    def refused(state, message):
        torch.save(state, tmp_path / "model.pth")
        with pytest.raises(UserError, match=message):
            read(tmp_path / "model.pth")

    refused({"model": {"transformers.0.attn.proj_q.weight": torch.ones(2)}}, "affjljoo3581/GPT2.*Swish")
    state = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in lopuhin(params).items()}
    refused(state | {"in_proj.weight": torch.ones(2)}, r"in_proj\.weight is not a variable of this model")
    refused({name: value for name, value in state.items() if name != "wpe.weight"}, r"wpe\.weight is missing")
    refused(state | {"blocks.1.extra": torch.ones(2)}, r"blocks\.1\.extra is not a variable of this model")
    refused(state | {"ln_f.g": torch.ones(9)}, r"ln_f.g has shape \[9\], which does not hold \[8\]")

    arrays = name_maps.to_arrays(params, SPECS, hf.layout())
    folder = tmp_path / "hf"
    folder.mkdir()

    def put(extra):
        shapes = {name: array.shape for name, array in (arrays | extra).items()}
        safetensors_io.write(folder / "model.safetensors", shapes, (arrays | extra).get, dtype="F32", metadata={})

    put({"lm_head.weight": arrays["transformer.wte.weight"]})
    assert_same(params, read(folder)[1])
    put({"lm_head.weight": arrays["transformer.wte.weight"] + 1})
    assert read(folder)[0].untied
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')
    with pytest.raises(UserError, match=r"lm_head\.weight differs.*config\.json ties them"):
        read(folder)
    put({})
    (folder / "config.json").write_text('{"tie_word_embeddings": false}')
    with pytest.raises(UserError, match=r"has no lm_head\.weight, and config\.json unties"):
        read(folder)
    for key, value in (("activation_function", "laplace"), ("model_type", "llama"), ("n_head", "2")):
        (folder / "config.json").write_text(json.dumps({key: value}))
        with pytest.raises(UserError, match=f"another architecture.*{key}"):
            read(folder)


def test_every_type_of_safetensors_is_read(tmp_path):
    """Written by the library; types of one and two bytes are interleaved with others."""
    draw = np.random.default_rng(0)
    arrays = {dtype: draw.integers(0, 2, (3, 5)).astype(stored) for dtype, stored in safetensors_io.DTYPES.items()}
    save_file({name: array for name, array in arrays.items() if not name.startswith("F8")}, tmp_path / "a.safetensors")
    serialized = {  # not supported by the library's NumPy writer
        name: TensorSpec(dtype=dtype, shape=[3, 5], data_ptr=arrays[name].ctypes.data, data_len=arrays[name].nbytes)
        for name, dtype in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"))
    }
    serialize_file(serialized, tmp_path / "b.safetensors")
    found = safetensors_io.SafeTensors([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array.astype("<f4") if array.dtype.isbuiltin == 2 else array)


def test_damaged_safetensors_are_told(tmp_path):
    path = tmp_path / "a.safetensors"
    draw = np.random.default_rng(0)
    arrays = {"a": draw.normal(size=(3, 4)).astype(np.float32), "b": np.zeros((0, 2), np.float32)}
    shapes = {name: array.shape for name, array in arrays.items()}
    safetensors_io.write(path, shapes, arrays.__getitem__, dtype="F32", metadata={"format": "pt"})
    found = safetensors_io.SafeTensors([path])
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(load_file(path)["a"], arrays["a"])
    whole = path.read_bytes()
    damaged_files = [whole[:size] for size in (0, 4, 20, len(whole) - 1)]
    for contents in (*damaged_files, whole + b"x", b"<!doctype html>" * 9):
        path.write_bytes(contents)
        with pytest.raises(UserError, match=r"not a whole one \(.*download it again"):
            safetensors_io.SafeTensors([path])
    for place in range(8, 8 + int.from_bytes(whole[:8], "little"), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        path.write_bytes(damaged)
        try:
            tensors = safetensors_io.SafeTensors([path])
            [tensors[name] for name in tensors]  # only a name or the metadata can be affected
        except UserError:
            pass
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(UserError, match=r"gone\.safetensors is missing"):
        open_source(str(tmp_path))
