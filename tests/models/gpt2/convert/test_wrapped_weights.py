"""GPT-2 weights in formats of other programs give the same parameters; dropped or unreadable parts are reported."""

import json
import struct
from typing import NamedTuple

import jax
import numpy as np
import pytest

from estimator.errors import UserError
from estimator.interop import safetensors_io
from estimator.parallel.param_spec import map_specs, named
from models.gpt2 import model
from models.gpt2.convert import hf, name_maps
from models.gpt2.convert.init_from import Initializer
from models.gpt2.convert.readers import open_source
from tests.helpers.tf_bundles import field, write_bundle

SIZES = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_ctx": 6, "n_vocab": 20}
CONFIG = model.GPT2Config(**SIZES)
SPECS = model.parameters(CONFIG)


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    noise = map_specs(lambda spec: draw.normal(size=spec.used_shape).astype(np.float32), SPECS)
    return map_specs(lambda spec, value: name_maps.padded(value, spec), SPECS, noise)


class Read(NamedTuple):
    source: object
    left_out: list
    arrays: dict


def read(path):
    source = open_source(str(path))
    left_out = name_maps.check(source.shapes, SPECS, source.layout, source=source.name)
    arrays = {name: name_maps.read(source.arrays, name, spec, source.layout) for name, spec in named(SPECS)}
    return Read(source, [*source.left_out, *left_out], arrays)


def assert_same(params, found, *, biases=True):
    for (name, spec), leaf in zip(named(SPECS), jax.tree.leaves(params), strict=True):
        used = leaf[tuple(slice(0, size) for size in spec.used_shape)]
        expected = used if biases or not name.endswith("/b") else np.zeros_like(used)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def save(path, arrays):
    shapes = {name: array.shape for name, array in arrays.items()}
    safetensors_io.write(path, shapes, arrays.__getitem__, dtype="F32", metadata={})


def linear(params):
    """Returns the weights with nanoGPT's names and [outputs, inputs] layout."""
    arrays = name_maps.to_arrays(params, SPECS, hf.layout("transformer."))
    return {
        name: np.ascontiguousarray(array.T) if ".c_" in name and array.ndim == 2 else array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    "prefix",
    ["", "transformer.", "_orig_mod.", "module.transformer.", "model.", "base_model.model.transformer.",
     "pretrained_model.transformer.", "_forward_module._orig_mod.module.transformer.", "gpt2."],
)  # fmt: skip
def test_any_prefix_and_head(params, tmp_path, prefix):
    arrays = name_maps.to_arrays(params, SPECS, hf.layout(prefix))
    heads = {"score.weight": 3,
             "classifier.bias": 1, "v_head.summary.weight": 2, "multiple_choice_head.summary.bias": 4,
             "summary.weight": 5, "module.value_head.weight": 6}  # fmt: skip
    extra = {name: np.full((2, size), 1, np.float32) for name, size in heads.items()}
    tied = {f"{prefix.removesuffix('transformer.')}lm_head.decoder.weight": arrays[f"{prefix}wte.weight"]}
    save(tmp_path / "model.safetensors", arrays | extra | tied)
    found = read(tmp_path)
    assert_same(params, found.arrays)
    assert set(found.left_out) == set(heads)
    assert not found.source.untied


def test_two_models_in_one_file_and_adapters_are_refused(params, tmp_path):
    arrays = name_maps.to_arrays(params, SPECS, hf.layout("a.")) | name_maps.to_arrays(params, SPECS, hf.layout("b."))
    save(tmp_path / "model.safetensors", arrays)
    with pytest.raises(UserError, match=r"holds several GPT-2s, under 'a\.', 'b\.'"):
        read(tmp_path)
    save(tmp_path / "model.safetensors", {"base_model.model.h.0.attn.c_attn.lora_A.weight": np.ones((2, 8), "f4")})
    with pytest.raises(UserError, match=r"merge_and_unload\(\) and save_pretrained\(\), and name that folder$"):
        read(tmp_path)
    save(tmp_path / "model.safetensors", {"base_model.model.wte.lora_embedding_A": np.ones((2, 8), "f4")})
    with pytest.raises(UserError, match="merged, that of wte changes the output, too"):
        read(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"an adapter of peft.*merge_and_unload"):
        read(tmp_path)


@pytest.mark.parametrize("key", ["model", "model_state_dict", "state_dict", "module"])
@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".pkl", ".bin", ""])
def test_torch_files_under_any_key_and_ending(params, tmp_path, key, ending):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")
    arrays = name_maps.to_arrays(params, SPECS, hf.layout())
    state = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
    contents = {key: state, "epoch": 3, "hyper_parameters": torch.device("cpu"), "type": torch.float16}
    torch.save(contents, tmp_path / f"weights{ending}")
    assert_same(params, read(tmp_path / f"weights{ending}").arrays)


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt(params, tmp_path, bias):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")
    arrays = {name: array for name, array in linear(params).items() if bias or not name.endswith("bias")}
    state = {f"_orig_mod.{name}": torch.tensor(np.array(array)) for name, array in arrays.items()}
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    arguments = {"n_layer": 2, "n_head": 4, "n_embd": 8, "block_size": 6, "bias": bias, "vocab_size": 20}
    torch.save({"model": state, "model_args": arguments, "iter_num": 5}, tmp_path / "ckpt.pt")
    found = read(tmp_path)
    assert_same(params, found.arrays, biases=bias)
    assert found.source.settings["n_head"] == 4
    # The files do not specify which GELU to use, so the configuration must.
    config = model.GPT2Config(**SIZES | {"n_head": 4})
    with pytest.raises(UserError, match=r'activation: .* does not say which it computed; write "gelu" or "gelu_new"'):
        Initializer(config, "adam", None, None)._refuse_other_sizes(found.source)
    for activation in ("gelu", "gelu_new"):
        config = model.GPT2Config(**SIZES | {"n_head": 4, "activation": activation})
        Initializer(config, "adam", None, None)._refuse_other_sizes(found.source)


@pytest.mark.parametrize("version", [1, 3, 5])
def test_llm_c(params, tmp_path, version):
    """Written according to train_gpt2.py: the header, then each parameter stacked over all layers."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    names = linear(params)
    rows = 20 if version == 1 else 128
    header = [20240326, version, 6, 20, 2, 2, 8, rows]
    data = struct.pack("<256i", *header, *[0] * 248)
    wte = np.zeros((rows, 8), np.float32)
    wte[:20] = names["transformer.wte.weight"]
    tensors = [wte, names["transformer.wpe.weight"]]
    for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        for kind in ("weight", "bias"):
            tensors += [names[f"transformer.h.{layer}.{part}.{kind}"] for layer in range(2)]
    tensors += [names["transformer.ln_f.weight"], names["transformer.ln_f.bias"]]
    dtype = ml_dtypes.bfloat16 if version == 5 else np.float32
    (tmp_path / "gpt2.bin").write_bytes(data + b"".join(tensor.astype(dtype).tobytes() for tensor in tensors))
    found = read(tmp_path)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), params)
    assert_same(rounded, found.arrays)
    assert found.source.settings["n_head"] == 2
    whole = (tmp_path / "gpt2.bin").read_bytes()
    for damaged in (whole[:-1], whole[:500], whole + b"\0", whole[:4] + b"\7" + whole[5:]):
        (tmp_path / "gpt2.bin").write_bytes(damaged)
        with pytest.raises(UserError, match="copy it again"):
            read(tmp_path)
    (tmp_path / "gpt2.bin").write_bytes(struct.pack("<256i", 20240520, 1, *[0] * 254))
    with pytest.raises(UserError, match=r"a file of tokens of llm\.c"):
        read(tmp_path)


@pytest.mark.parametrize("scope", ["", "gpt2/"])
def test_tensorflow_variables_that_are_no_model(params, tmp_path, scope):
    arrays = {scope + name: array for name, array in name_maps.to_tensorflow(params, SPECS).items()}
    slots = {f"{name}/Momentum": array for name, array in arrays.items()}
    slots |= {f"{name}/ExponentialMovingAverage": array for name, array in arrays.items()}
    others = {"loss_scale": np.ones((), np.float32), f"{scope}model/reward/w": np.ones((8, 1), np.float32)}
    write_bundle(tmp_path / "model.ckpt-7", arrays | slots | others | {"global_step": np.asarray(7, np.int64)})
    found = read(tmp_path)
    assert_same(params, found.arrays)
    assert len(found.left_out) == len(slots | others)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    assert read(tmp_path / "checkpoint").source.step == 7
    write_bundle(tmp_path / "model.ckpt-7", arrays | {"model/h0/extra/w": np.ones(3, np.float32)})
    if not scope:
        with pytest.raises(UserError, match="model/h0/extra/w is not a variable of this model"):
            read(tmp_path)


def test_other_checkpoints_of_tensorflow_are_named(params, tmp_path):
    keras = {"layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.ones(3, np.float32)}
    write_bundle(tmp_path / "ckpt-1", keras)
    with pytest.raises(UserError, match="object-based checkpoint of TensorFlow 2 or Keras"):
        read(tmp_path / "ckpt-1")
    arrays = name_maps.to_tensorflow(params, SPECS)
    for number, kind in ((8, "complex64"), (29, "int4"), (24, "float8_e5m2"), (21, "iterator"), (99, "number 99")):
        write_bundle(tmp_path / "other", {"model/wte": np.ones(24, np.uint8)}, dtype=number)
        with pytest.raises(UserError, match=f"has the type .*{kind}"):
            open_source(str(tmp_path / "other")).arrays["model/wte"]
    folder = tmp_path / "first"
    folder.mkdir()
    write_bundle(folder / "model.ckpt", arrays)
    (folder / "model.ckpt.index").rename(folder / "model.ckpt")  # version 1 is a single table file
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    for where in (folder, folder / "model.ckpt"):
        with pytest.raises(UserError, match=r"TensorFlow checkpoint of version 1.*SaverDef\.V2"):
            read(where)
    assert field(1, 1) == b"\x08\x01"


def test_folders_of_the_hub_and_of_a_trainer(params, tmp_path):
    arrays = name_maps.to_arrays(params, SPECS, hf.layout())
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save(snapshot / "model.safetensors", arrays)
    assert_same(params, read(tmp_path / "models--org--name").arrays)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    (tmp_path / "models--org--name" / "snapshots" / "old").mkdir()
    assert_same(params, read(tmp_path / "models--org--name").arrays)
    for step in (500, 1000):
        folder = tmp_path / "trainer" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save(folder / "model.safetensors", {name: array * (step == 1000) for name, array in arrays.items()})
        (folder / "optimizer.pt").write_bytes(b"\x80\x02N.")
    assert_same(params, read(tmp_path / "trainer").arrays)


def test_shards_may_be_named_by_one_of_them(params, tmp_path):
    arrays = name_maps.to_arrays(params, SPECS, hf.layout())
    names = sorted(arrays)
    for part, chosen in enumerate((names[:9], names[9:]), 1):
        save(tmp_path / f"model-{part:05d}-of-00002.safetensors", {name: arrays[name] for name in chosen})
    for where in (tmp_path, tmp_path / "model-00002-of-00002.safetensors"):
        assert_same(params, read(where).arrays)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors is missing"):
        read(tmp_path)


def test_config_json_under_transformers_other_names(params, tmp_path):
    save(tmp_path / "model.safetensors", name_maps.to_arrays(params, SPECS, hf.layout()))

    def heads(**values):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **values}))
        return read(tmp_path).source.settings.get("n_head")

    assert heads(num_attention_heads=4) == heads(n_head=4) == heads(n_head=4, num_attention_heads=4) == 4
    assert heads() == 12  # transformers' default
    with pytest.raises(UserError, match="num_attention_heads is 2 and n_head is 4"):
        heads(n_head=4, num_attention_heads=2)
    heads(num_attention_heads=4)
    source = open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"n_head: 2 here, 4 in .* write 4"):
        Initializer(CONFIG, "adam", None, None)._refuse_other_sizes(source)
    for contents in ("[]", "3", '"gpt2"', "null", "[" * 9999, '{"n_head": true}'):
        (tmp_path / "config.json").write_text(contents)
        with pytest.raises(UserError, match=r"config\.json"):
            read(tmp_path)
    (tmp_path / "config.json").unlink()
    notes = []
    start = Initializer(CONFIG, "adam", None, None)
    start._tell_left_out(read(tmp_path).source, ["score.weight"], notes.append)
    assert any(note.startswith("left out of") and "score.weight" in note for note in notes)
    assert any(note.startswith("n_head: nothing in") for note in notes)


def test_float8_and_complex_tensors_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="writes PyTorch's files")
    from estimator.interop import torch_pickle

    values = torch.tensor([0.5, -1.0, 2.0, 16.0])
    tensors = {str(kind): values.to(kind) for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64)}
    tensors["u16"] = torch.tensor([1, 65535], dtype=torch.uint16)
    torch.save(tensors, tmp_path / "a.pt")
    found = torch_pickle.state_dict(torch_pickle.read(tmp_path / "a.pt"), tmp_path / "a.pt")
    assert found["u16"].tolist() == [1, 65535]
    for name in list(tensors)[:3]:
        np.testing.assert_array_equal(found[name], values.numpy())
