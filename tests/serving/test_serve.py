"""serve.py as a process with a real model, from startup to shutdown."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")

import httpx
import jax
import jax.numpy as jnp
import numpy as np
from conftest import QUICK_COMPILE, ROOT
from helpers.client_programs import python, run
from helpers.tiny_gpt2 import random_params, tiny

import serve
from estimator.errors import UserError
from estimator.tokenization.tokenizer import byte_level_tokenizer
from estimator.training import run_dir
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf
from models.gpt2.decode.sampler import Sampler, Settings
from serving import config as server_config
from serving.api.server import _listen

TOKENIZER = byte_level_tokenizer()
SIZES = {"n_vocab": TOKENIZER.n_vocab, "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2}


def write_run(folder: Path, seed: int) -> Path:
    """Writes the configuration of a run with random weights of scale 0.1 and a byte-level vocabulary."""
    weights = folder / f"weights-{seed}"
    TOKENIZER.save(folder / "encoder")
    hf.write(weights, random_params(model(), seed), model(), encoder=folder / "encoder", dtype="f32")
    values = {**SIZES, "scale_by_in": False, "model_path": str(folder / f"run-{seed}"), "init_from": str(weights),
              "encoder_path": str(folder / "encoder"), "train_batch_size": 1, "max_steps": 1}  # fmt: skip
    path = folder / f"model-{seed}.json"
    path.write_text(json.dumps(values))
    return path


def model():
    return tiny(**SIZES)


@contextlib.contextmanager
def started(*arguments: str, code: int | None = 0):
    """Starts serve.py as a process and yields a client; sends SIGTERM at the end."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "serve.py"), *arguments, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "XLA_FLAGS": QUICK_COMPILE},
    )  # fmt: skip
    notes: list[str] = []
    reader = threading.Thread(target=lambda: notes.extend(process.stderr), daemon=True)
    reader.start()
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:"), "".join(notes)
    try:
        with httpx.Client(base_url=address, timeout=500) as client:
            client.process = process
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) in (code, -signal.SIGKILL)
        reader.join(10)
        assert "Traceback" not in "".join(notes), "".join(notes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def client(folder):
    with started("--model", str(write_run(folder, 0))) as client:
        yield client


def greedy(seed: int, prompt: str, count: int) -> str:
    sampler = Sampler(random_params(model(), seed), model(), n_known=TOKENIZER.n_vocab)
    chunks = sampler.stream([TOKENIZER.encode(prompt)], settings=Settings(0.0), length=count, seed=0, stopped=set())
    return TOKENIZER.decode([token for (tokens,) in chunks for token in tokens])


def scores(seed: int, ids: list[int]) -> np.ndarray:
    """Returns the log-probabilities of all tokens except the first, computed by a plain forward pass."""
    params = random_params(model(), seed)
    hidden, _ = gpt2.forward(params, jnp.asarray([ids]), config=model())
    logits = gpt2.logits(params, hidden[0], config=model())[:, : TOKENIZER.n_vocab]
    return np.asarray(jax.nn.log_softmax(logits, -1))[np.arange(len(ids) - 1), ids[1:]]


def ask(client, prompt, **body):
    answer = client.post("/v1/completions", json={"model": "model-0", "prompt": prompt} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_greedy_answers_are_those_of_main_py(client):
    expected = greedy(0, "The quick brown", 20)
    assert ask(client, "The quick brown", max_tokens=20, temperature=0, ignore_eos=True)["text"] == expected


def test_scores_are_those_of_a_forward_pass(client):
    ids = [TOKENIZER.end_of_text, *TOKENIZER.encode("Pack my box with five dozen liquor jugs.")]
    expected = scores(0, ids)
    lists = ask(client, [ids], max_tokens=1, logprobs=1, echo=True, temperature=0)["logprobs"]
    assert len(lists["token_logprobs"]) == len(ids) + 1
    assert lists["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-5)
    answer = client.post("/score", json={"text": TOKENIZER.decode(ids[1:])}).json()
    assert answer["logprob"] == pytest.approx(float(expected.sum()), abs=1e-4)


def write_task(folder: Path) -> list[dict]:
    """Writes a multiple-choice task, a perplexity task, and a generation task; returns the documents."""
    documents = [
        {"text": f"Question {i}: two and {i}?", "choices": [f" is {i + 2}", f" makes {i}", " no"], "label": i % 3}
        for i in range(4)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
              "test_split": "test"}  # fmt: skip
    choice = {"task": "own_choice", "output_type": "multiple_choice", "doc_to_text": "{{text}}",
              "doc_to_choice": "choices", "doc_to_target": "label", "target_delimiter": "",
              "metric_list": [{"metric": "acc"}]}  # fmt: skip
    rolling = {"task": "own_rolling", "output_type": "loglikelihood_rolling", "doc_to_text": "",
               "doc_to_target": "{{text}}", "metric_list": [{"metric": "bits_per_byte"}]}  # fmt: skip
    answers = {"task": "own_answers", "output_type": "generate_until", "doc_to_text": "{{text}}",
               "doc_to_target": "{{label}}", "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8},
               "metric_list": [{"metric": "exact_match"}]}  # fmt: skip
    for task in (choice, rolling, answers):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(common | task))  # JSON is a subset of YAML
    return documents


def test_lm_evaluation_harness_computes_our_numbers(client, tmp_path):
    interpreter = python("lm_eval")
    documents = write_task(tmp_path)
    model_args = f"model=model-0,base_url={client.base_url}/v1/completions,max_length=64,num_concurrent=2"
    run(
        interpreter, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", model_args, "--tasks",
        "own_choice,own_rolling,own_answers", "--include_path", str(tmp_path), "--output_path",
        str(tmp_path / "out"), "--log_samples", "--batch_size", "2", folder=tmp_path,
    )  # fmt: skip
    samples = {}
    for path in (tmp_path / "out").rglob("samples_*.jsonl"):
        task = path.name.removeprefix("samples_").rpartition("_")[0]
        lines = sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: line["doc_id"])
        samples[task] = [line["resps"] for line in lines]
    for document, choices in zip(documents, samples["own_choice"], strict=True):
        for text, ((logprob, is_greedy),) in zip(document["choices"], choices, strict=True):
            context, ids = TOKENIZER.encode(document["text"]), TOKENIZER.encode(document["text"] + text)
            expected = scores(0, ids)[len(context) - 1 :]
            assert float(logprob) == pytest.approx(float(expected.sum()), abs=2e-5)
            assert str(is_greedy) == "False"
            lists = ask(client, [ids], max_tokens=1, logprobs=1, echo=True, temperature=0)["logprobs"]
            assert float(logprob) == pytest.approx(sum(lists["token_logprobs"][len(context) : -1]), abs=1e-6)
    for document, ((resp,),) in zip(documents, samples["own_rolling"], strict=True):
        expected = scores(0, [TOKENIZER.end_of_text, *TOKENIZER.encode(document["text"])])
        assert float(resp[0] if isinstance(resp, list) else resp) == pytest.approx(float(expected.sum()), abs=2e-5)
    for document, ((text,),) in zip(documents, samples["own_answers"], strict=True):
        assert text == greedy(0, document["text"], 8).partition("\n\n")[0]


def streamed(client, **body):
    """Yields the lines of a stream as they arrive."""
    request = {"model": "model-0", "prompt": "x", "stream": True, "ignore_eos": True} | body
    with client.stream("POST", "/v1/completions", json=request) as answer:
        assert answer.status_code == 200
        yield from (line.removeprefix("data: ") for line in answer.iter_lines() if line)


def test_a_killed_server_serves_again_and_sigterm_lets_a_stream_end(folder):
    path = write_run(folder, 0)
    with started("--model", str(path)) as client:
        ask(client, "The", max_tokens=5)
        client.process.kill()
    with started("--model", str(path)) as client:
        assert ask(client, "The", max_tokens=5, temperature=0, ignore_eos=True)["text"] == greedy(0, "The", 5)
        lines = streamed(client, max_tokens=200)
        next(lines)
        client.process.send_signal(signal.SIGTERM)
        *chunks, done = lines
        assert done == "[DONE]"
        assert json.loads(chunks[-1])["choices"][0]["finish_reason"] == "length"
        assert client.process.wait(200) == 0


def test_what_the_drain_cuts_off_ends_with_an_error(folder):
    write_run(folder, 0)
    values = {"models": [{"key": "model-0", "config": str(folder / "model-0.json")}], "drain": 0}
    (folder / "drain.json").write_text(json.dumps(values))
    with started("--config", str(folder / "drain.json")) as client:
        lines = streamed(client, max_tokens=60_000)
        next(lines)
        client.process.send_signal(signal.SIGTERM)
        *_, last = lines
        assert json.loads(last)["error"]["code"] == "shutdown"
        assert client.process.wait(200) == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [("runs/v1.5", "v1.5"), ("runs/v1.5/config.json", "v1.5"), ("a/story.json", "story"), (".", "model")],
)
def test_a_model_is_named_like_its_runs_folder(path, name):
    arguments = argparse.Namespace(model=path, config=None, set=[], host=None, port=None, keys=None)
    assert serve.read_config(arguments).models[0].key == name


EARLY = """
import signal, sys, uvicorn
run = uvicorn.Server.run
def early(*arguments, **options):
    signal.raise_signal(signal.SIGTERM)
    run(*arguments, **options)
uvicorn.Server.run = early
import serve
sys.exit(serve.main())
"""


def test_a_signal_right_after_the_address_ends_the_server(folder):
    write_run(folder, 0)
    models = [{"key": str(n), "config": str(folder / "model-0.json"), "load": "request"} for n in range(2)]
    (folder / "early.json").write_text(json.dumps({"models": models, "port": 0}))
    command = [sys.executable, "-c", EARLY, "--config", str(folder / "early.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_drain_with_an_error_in_each_stream(folder, second):
    write_run(folder, 0)
    values = {"models": [{"key": "model-0", "config": str(folder / "model-0.json")}], "drain": 3600}
    (folder / "second.json").write_text(json.dumps(values))
    with started("--config", str(folder / "second.json")) as client:
        lines = streamed(client, max_tokens=60_000)
        next(lines)
        client.process.send_signal(signal.SIGINT)
        with contextlib.suppress(httpx.TransportError):  # after the first signal, the server stops listening
            while httpx.get(f"{client.base_url}/health"):
                pass
        client.process.send_signal(second)
        *_, last = lines
        assert json.loads(last)["error"]["code"] == "shutdown"
        assert client.process.wait(200) == 0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"models": [{"key": "a"}]}', r"models\[0\]: name a run's JSON file or folder as config"),
        ('{"models": [{"key": "a", "config": "x"}, {"key": "a", "config": "y"}]}', "several models have the key a"),
        ('{"models": [{"key": "a", "confg": "x"}]}', r"models\[0\].confg: no such key; did you mean config\?"),
        ('{"models": [], "prot": 1}', r"2 problems:\n(.*\n)?.*prot: no such key; did you mean port\?"),
        ('{"models": [{"key": "a", "config": "x"}], "alexa": {"skills": {"i": "b"}}}', "no model has the key b"),
        ('{"models": [{"key": "a", "config": "x"}], "alexa": {"skils": {}}}', "alexa.skils: .* did you mean skills"),
        (
            '{"models": [{"key": "a", "config": "x", "sanitizer": [{"rule": "urls", "kep": "host"}]}]}',
            r"has a problem:\n  models\[0\].sanitizer\[0\].kep: no such key; did you mean keep\?$",
        ),
        ('{"models": [{"key": "a", "config": "x", "sanitizer": 5}]}', r"problem:\n  models\[0\].sanitizer: .*it is 5$"),
        ('{"models": [{"key": "a", "config": "x"}], "slots": true}', "slots: .*integer, but it is true$"),
        (
            '{"models": [{"key": "a", "config": "x", "set": ["lr"]}]}',
            r"models\[0\].set: 'lr' is no override; write KEY",
        ),
        ('{"models": [{"key": "a", "config": "x"}], "cors": ["a.com/b"]}', "cors: .*; write https://a.com, without a"),
        ('{"models": [{"key": "a", "config": "x"}], "cors": ["file://"]}', "cors: 'file://' is not .* https://HOST, "),
    ],
)
def test_what_is_wrong_with_a_servers_file_is_said_with_its_place(tmp_path, text, fault):
    (tmp_path / "server.json").write_text(text)
    with pytest.raises(UserError, match=fault):
        server_config.read(str(tmp_path / "server.json"), {})


def test_origins_are_written_as_browsers_do():
    values = {"models": [{"key": "a", "config": "x"}], "cors": ["https://Ann.example/", "http://localhost:3000", "*"]}
    cors = server_config.checked(values, {}, source="x").cors
    assert cors == ["https://ann.example", "http://localhost:3000", "*"]


DIXIE = """{
  "host": "0.0.0.0",
  "port": 12345,
  "debug": 1,
  "models": [
    {
      "key": "chatbot",
      "model_name": "chatbot",
      "restore_from": "checkpoint/run1"%s
      "sanitizer": "sanitizers.chatbot"
    }
  ]
}
"""


def test_the_file_of_xeb_gpt_2_is_read_and_its_missing_comma_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "server_config.json"
    path.write_text(DIXIE % "")
    with pytest.raises(UserError, match="line 10, column 7: not valid JSON: a comma is missing before it"):
        server_config.read(str(path), {})
    path.write_text(DIXIE % ",")
    config = server_config.read(str(path), {"port": 0})
    assert (config.host, config.port) == ("0.0.0.0", 0)
    with pytest.raises(UserError, match=r"^the command line has a problem:\n  --port: "):
        server_config.read(str(path), {"port": 99_999})
    (entry,) = config.models
    assert entry.cleaner().clean("0|ann|Hi there <EOM>") == "Hi there"
    with pytest.raises(UserError, match=r"models/chatbot/hparams.json is missing"):
        entry.source()


def test_a_folder_of_dixie_is_served(folder, tmp_path, monkeypatch):
    """hparams.json, the vocabulary, and the checkpoint in the layout of the original GPT-2 programs.

    A bias on an id that the vocabulary lacks ends the loading, since each answer would be an error.
    """
    from serving import load_model
    from serving.config import ModelEntry, ServerConfig

    monkeypatch.chdir(tmp_path)
    write_run(folder, 0)
    (tmp_path / "models" / "bot").mkdir(parents=True)
    TOKENIZER.save(tmp_path / "models" / "bot")
    (tmp_path / "models" / "bot" / "hparams.json").write_text(json.dumps(SIZES))
    entry = ModelEntry(key="chatbot", model_name="bot", restore_from=str(folder / "weights-0"), sanitizer="x")
    setup = load_model.read_setup(entry)
    assert setup.model_config.n_ctx == 64
    _, params = setup.estimator().restore()
    assert np.array_equal(np.asarray(params["wte"]), np.asarray(random_params(model(), 0)["wte"]))
    server = ServerConfig(models=[entry], slots=32, prefix_bytes=2**20)
    for precision, more in (("float32", 0), ("bfloat16", 2)):  # weights are float32 while they are read
        entry = entry.model_copy(update={"set": [f"predict_precision={precision}"]})
        estimate, held = load_model.estimated_bytes(entry, server), load_model.load(entry, server).engine.nbytes
        assert 0.9 * held < estimate <= held + more * sum(map(np.size, jax.tree.leaves(params)))  # held: with padding
    with pytest.raises(UserError, match="logit_bias: token 999 is not one of the vocabulary's"):
        load_model.opened(entry.model_copy(update={"set": ['logit_bias={"999": 1}']}))


def test_connections_send_small_packets_at_once():
    """Else an answer's body waits until the client has confirmed the headers, 40 ms."""

    async def accepted() -> int:
        connections: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        listener = _listen("127.0.0.1", 0)
        async with await asyncio.start_server(lambda _, writer: connections.put_nowait(writer), sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            server = await connections.get()
            value = server.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()
            server.close()
        return value

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        assert runner.run(accepted())


def test_others_than_this_machine_are_not_served_without_a_key(folder):
    command = [sys.executable, str(ROOT / "serve.py"), "--model", str(write_run(folder, 0)), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--new_key NAME" in done.stderr


def test_a_model_that_is_not_there_is_said_before_anything_is_served(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "serve.py"), "--model", str(tmp_path / "x.json")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "x.json: no such file" in done.stderr
    assert done.stdout == ""


def test_another_vocabulary_than_the_runs_is_said_before_anything_is_served(tmp_path):
    path = write_run(tmp_path, 0)
    (tmp_path / "run-0").mkdir()
    run_dir.begin(tmp_path / "run-0", json.loads(path.read_text()), vocabulary="0" * 64)
    done = subprocess.run(
        [sys.executable, str(ROOT / "serve.py"), "--model", str(path), "--port", "0"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "was trained with another vocabulary" in done.stderr
