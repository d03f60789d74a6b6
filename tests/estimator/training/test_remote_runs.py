"""Runs with all paths in a bucket, over an unreliable network: same results as a local run, or a clear error."""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
from conftest import QUICK_COMPILE, ROOT, one_device
from helpers import fresh_caches

from benchmarks._workers import Recorded
from estimator import storage
from estimator.errors import UserError
from estimator.shards.tfrecord import ShardWriter
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import metrics_log
from estimator.training.checkpoint_reader import restore

KEYS = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 32, "n_vocab": 257, "input": "packed", "train_batch_size": 4,
    "max_steps": 8, "train_steps": 4, "eval_steps": 2, "log_steps": 1, "save_steps": 4, "eval_split": [1],
}  # fmt: skip
PATHS = {"data_path": "data", "encoder_path": "encoder", "model_path": "runs/a", "predict_path": "out/predictions.txt"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Returns a directory with shards, their vocabulary, the configuration of a run, and the completed run."""
    folder = tmp_path_factory.mktemp("here")
    tokenizer = tokenizers.byte_level_tokenizer()
    tokenizer.save(folder / "encoder")
    (folder / "data").mkdir()
    draw = np.random.default_rng(0)
    for i in range(2):
        with ShardWriter(folder / "data" / f"a_{i}.tfrecords", tokenizer=tokenizer.digest) as shard:
            for document in range(20):
                shard.write(str(document).encode(), draw.integers(97, 110, draw.integers(50, 200)))
    write_config(str(folder))
    run(folder, f"--model {folder}/run.json")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CACHE", str(fresh_caches.make(tmp_path / "cache")))


def copied(here, root):
    """Copies the directory to a bucket."""
    for name in ("data", "encoder"):
        for path in (here / name).iterdir():
            storage.upload(path, f"{root}/{name}/{path.name}")
    write_config(root)


def write_config(root):
    values = KEYS | {key: storage.join(root, path) for key, path in PATHS.items()}
    storage.write_bytes_atomic(storage.join(root, "run.json"), json.dumps(values).encode())


# Runs several commands of main.py in one process to save startup time; + separates commands.
COMMANDS = """
import itertools, os, sys
sys.path.insert(0, os.getcwd())
import main
for is_end, command in itertools.groupby(sys.argv[1:], lambda word: word == "+"):
    if not is_end:
        sys.argv = ["main.py", *command]
        main.main()
        print("finished")
"""


def start(here, *commands):
    words = " + ".join(commands).split()
    command = [sys.executable, "-c", COMMANDS, *words]
    environment = os.environ | {
        "XLA_FLAGS": QUICK_COMPILE,
        # Processes share compiled programs.
        "JAX_COMPILATION_CACHE_DIR": str(here / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return Recorded(command, merged=False, cwd=ROOT, env=environment)


def run(here, *commands):
    """Returns the output of each command."""
    process = start(here, *commands)
    out, err = process.outputs(300)
    assert process.returncode == 0, err
    return out.split("finished\n")


def losses(root):
    records = metrics_log.read(storage.join(str(root), "runs/a/metrics.jsonl"))
    return [(record["split"], record["step"], record["loss"]) for record in records if "loss" in record]


@pytest.mark.slow
def test_a_run_in_a_bucket_has_the_losses_of_one_on_this_machine_whatever_the_network_does(bucket, here, cache):
    root = "gs://bucket/some/where"
    copied(here, root)
    bucket.rate = 0.02
    train = f"--model {root}/run.json"
    process = start(here, train)
    while process.poll() is None and not storage.is_file(f"{root}/runs/a/checkpoints/4/commit_success.txt"):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    predict = f"{train} --predict_text abc --seed 1 --length 4 --num_samples 2"
    out = run(here, train, f"{train} --evaluate", predict)
    assert losses(root) == losses(here)
    assert f"step 8: loss {losses(here)[-1][2]:.4f}" in out[1]
    assert storage.read_bytes(f"{root}/out/predictions.txt").decode() == out[2]
    assert json.loads(storage.read_bytes(f"{root}/runs/a/config.json"))["max_steps"] == 8
    assert not storage.exists(f"{root}/runs/a/lock")
    assert sum(bucket.made.values()) >= 5


@pytest.mark.slow
def test_a_run_in_s3_has_them_too(s3_bucket, here, cache, tmp_path, monkeypatch):
    root = "s3://bucket/some/where"
    copied(here, root)
    s3_bucket.rate = 0.02
    run(here, f"--model {root}/run.json")
    assert losses(root) == losses(here)
    monkeypatch.setenv("GPT2_CACHE", str(fresh_caches.make(tmp_path / "elsewhere")))  # as on another machine
    out = run(here, f"--model {root}/run.json --evaluate")[0]
    assert f"step 8: loss {losses(here)[-1][2]:.4f}" in out


def test_visualize_reads_a_run_in_a_bucket(bucket, tmp_path):
    record = {"step": 1, "tokens": 1, "split": "train", "loss": 2.0, "time": 0.0, "step_seconds": 1.0}
    storage.write_bytes_atomic("gs://bucket/run/metrics.jsonl", json.dumps(record).encode() + b"\n")
    from estimator.plots import runs

    for path in ("gs://bucket/run", "gs://bucket/run/metrics.jsonl"):
        [run] = runs.load_groups([path], by_seed=False)[0].runs
        assert (run.label, run.train["loss"].tolist()) == ("run", [2.0])
    assert runs.labels(["gs://bucket/a/run", str(tmp_path / "b" / "run")]) == ["a", "b"]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_checkpoint_that_was_damaged_in_the_bucket_is_refused(scheme, request, tmp_path, monkeypatch):
    request.getfixturevalue("bucket" if scheme == "gs" else "s3_bucket")
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    folder, state, template = f"{scheme}://bucket/run/checkpoints", *small_state()
    save(folder, 1, state)
    save(folder, 2, state)
    assert restored(folder, template)["params"]["w"][3] == 3
    files = {path: storage.size(path) for path in storage.listing(f"{folder}/2")}
    data = next(path for path, size in files.items() if size > 30_000)
    contents = storage.read_bytes(data)
    for damaged in (contents[:-1000], contents[:20_000] + bytes(100) + contents[20_100:]):
        storage.write_bytes_atomic(data, damaged)
        monkeypatch.setenv("GPT2_CACHE", str(tmp_path / f"cache-{len(damaged)}-{damaged[20_001]}"))
        with pytest.raises(UserError, match="/2"):
            restored(folder, template)
    storage.remove(f"{folder}/2")
    assert restored(folder, template)["params"]["w"][3] == 3


@pytest.mark.parametrize(
    "mark",
    [
        b"", b"[1]", b"{}", b"[" * 3000, b'{"a": 1}', b'{"a": [1e999, 1]}',
        b'{"../a": [1, 1]}', b'{"/a": [1, 1]}', rb'{"a\u0000": [1, 1]}', rb'{"\ud800": [1, 1]}',
    ],
)  # fmt: skip
def test_a_mark_that_lists_no_files_of_the_checkpoint_is_refused(mark, s3_bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    state, template = small_state()
    save("s3://bucket/m/checkpoints", 1, state)
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "empty"))
    storage.write_bytes_atomic("s3://bucket/m/checkpoints/1/complete.json", mark)
    with pytest.raises(UserError, match=r"checkpoints/1/complete\.json is damaged"):
        restored("s3://bucket/m/checkpoints", template)


def test_a_checkpoint_without_its_mark_does_not_count(bucket, s3_bucket, tmp_path, monkeypatch):
    from estimator.launch import query_run_dir
    from estimator.training.checkpoints import Checkpoints

    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    state, _ = small_state()
    for folder, mark in (
        ("gs://bucket/c/checkpoints", "commit_success.txt"),
        ("s3://bucket/c/checkpoints", "complete.json"),
    ):
        save(folder, 1, state)
        save(folder, 2, state)
        storage.remove(f"{folder}/2/{mark}")
        checkpoints = Checkpoints(folder)
        assert checkpoints.latest_step == query_run_dir.newest(folder.removesuffix("/checkpoints")) == 1
        checkpoints.close()


def test_copies_of_a_run_that_was_begun_anew_elsewhere_are_not_taken_for_it(s3_bucket, tmp_path, monkeypatch):
    state, template = small_state()
    for cache, value in (("here", 1.0), ("elsewhere", 2.0)):
        monkeypatch.setenv("GPT2_CACHE", str(tmp_path / cache))
        storage.remove("s3://bucket/c")
        for step in (1, 2, 3)[: 3 if cache == "here" else 2]:
            save("s3://bucket/c", step, state | {"params": {"w": state["params"]["w"] * value}})
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "here"))
    for _ in range(2):
        assert restored("s3://bucket/c", template)["params"]["w"][3] == 6
    save("s3://bucket/c", 4, state)  # as a writer that continues this run
    assert restored("s3://bucket/c", template)["params"]["w"][3] == 3
    assert {path.split("/")[4] for path in storage.listing("s3://bucket/c")} == {"1", "2", "4"}


def small_state():
    import jax
    import jax.numpy as jnp

    from estimator.parallel import mesh

    everywhere = mesh.replicated(jax.sharding.Mesh(np.array(one_device()), ("data",)))
    state = {"params": {"w": jax.random.normal(jax.random.key(0), (10_000,)).at[3].set(3)}, "step": jnp.int32(1)}
    state = jax.device_put(state, everywhere)
    return state, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), state)


def save(folder, step, state):
    import jax
    import jax.numpy as jnp

    from estimator.training.checkpoints import Checkpoints

    checkpoints = Checkpoints(folder, writer=True)
    checkpoints.save(step, state | {"step": jax.device_put(jnp.int32(step), state["step"].sharding)})
    checkpoints.close()


def restored(folder, template):
    from estimator.training.checkpoints import Checkpoints

    checkpoints = Checkpoints(folder)
    try:
        return restore(checkpoints, template)
    finally:
        checkpoints.close()
