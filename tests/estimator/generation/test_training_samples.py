"""Samples during training: they use the current weights and the seed, and do not affect the training."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from helpers.main_runs import call, final_parameters, options
from helpers.processes import finish, start_two
from helpers.sampling import generate

from estimator.generation.training_samples import TrainingSamples
from estimator.hashing import key_of
from estimator.tokenization import tokenizer as tokenizers
from models import gpt2
from models.gpt2.decode.sampler import Sampler, Settings

KEYS = {"sample_steps": 4, "sample_prompts": ["The quick", ""], "sample_length": 9, "iterations": 3, "top_k": 5}


def samples(folder, step: int) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "samples" / f"{step}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def sampled(corpus, tmp_path_factory):
    """Trains on two devices and counts the programs that each call of the sampler compiles."""
    folder, compiled = tmp_path_factory.mktemp("sampled"), []
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(jax, "devices", partial(jax.devices()[:2].copy))
    seconds: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: seconds.append(name) if name.endswith("backend_compile_duration") else None
    )
    call_sampler = TrainingSamples.__call__

    def counted(*arguments):
        before = len(seconds)
        found = call_sampler(*arguments)
        compiled.append(len(seconds) - before)
        return found

    monkeypatch.setattr(TrainingSamples, "__call__", counted)
    call(monkeypatch, options(corpus, folder, **KEYS))
    yield folder, compiled
    monkeypatch.undo()


def test_samples_are_those_of_the_checkpoint_and_the_seed(sampled, corpus, monkeypatch):
    folder, _ = sampled
    lines = samples(folder, 12)
    assert [(line["step"], line["prompt"]) for line in lines] == [(12, "The quick"), (12, "")]
    assert [len(samples(folder, step)) for step in (4, 8)] == [2, 2]
    step, params = final_parameters(monkeypatch, options(corpus, folder))
    tokenizer = tokenizers.load(folder / "run" / "vocabulary")
    config = json.loads((folder / "run" / "config.json").read_text())
    model = gpt2.Config(**{key: value for key, value in config.items() if key in gpt2.Config.model_fields})
    sampler = Sampler(params, model, end_of_text=tokenizer.end_of_text, n_known=tokenizer.n_vocab)
    prompts = [tokenizer.encode("The quick"), [tokenizer.end_of_text]]
    expected = generate(sampler, prompts, Settings(top_k=5), length=9, seed=key_of(0, step) % 2**32)
    assert [line["text"] for line in lines] == [tokenizer.decode(tokens) for tokens in expected]


def test_nothing_is_compiled_after_the_first_samples(sampled):
    first, second, *_ = sampled[1]  # during the third call, another thread may compile checkpoint checksums
    assert first > 0
    assert second == 0


def test_tensorboards_reader_finds_the_texts(sampled):
    pytest.importorskip("tensorboardX", reason="no tensorboardX; pip install -r requirements-dev.txt")
    from tensorboardX.proto.event_pb2 import Event

    folder, _ = sampled
    (path,) = (folder / "run").glob("events.*")
    data, events = path.read_bytes(), []
    while data:  # TFRecord: length, CRC of the length, event, CRC of the event
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    values = [(event.step, value) for event in events for value in event.summary.value if "samples" in value.tag]
    assert {(step, value.tag) for step, value in values} == {
        (step, tag) for step in (4, 8, 12) for tag in ("samples/0", "samples/1")
    }
    for step, value in values:
        assert value.metadata.plugin_data.plugin_name == "text"
        assert value.tensor.dtype == 7
        line = samples(folder, step)[int(value.tag[-1])]
        (text,) = value.tensor.string_val
        assert text.decode().replace("\n    ", "\n")[4:] == line["prompt"] + line["text"]


def test_the_training_has_the_same_bits_without_samples(sampled, corpus, tmp_path, monkeypatch):
    folder, _ = sampled
    call(monkeypatch, options(corpus, tmp_path, iterations=3))
    assert not (tmp_path / "run" / "samples").exists()
    (_, ours), (_, plain) = (final_parameters(monkeypatch, options(corpus, where)) for where in (folder, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_samples_that_a_kill_prevented_are_made_up_for(sampled, corpus, monkeypatch):
    folder, _ = sampled
    first = samples(folder, 12)
    (folder / "run" / "samples" / "12.jsonl").unlink()
    call(monkeypatch, options(corpus, folder, **KEYS, max_steps=13))
    assert samples(folder, 12) == first


def test_two_processes_write_the_samples_once(corpus, tmp_path):
    arguments = options(corpus, tmp_path, **KEYS, num_samples=2, temperature=0.0, max_steps=4)
    outputs = finish(start_two(arguments))
    first, second, *_ = samples(tmp_path, 4)
    assert first == second  # greedy decoding is deterministic
    assert [output.count("sample: The quick") for output in outputs] == [2, 0]

    outputs = finish(start_two([*arguments, "--predict_text", "A box", "--set", "temperature=1", "--num_samples", "1"]))
    assert [output.count("SAMPLE 0") for output in outputs] == [1, 0]
    assert (tmp_path / "samples.txt").read_text().count("SAMPLE 0") == 1
