"""The benchmarks run at their smallest sizes and end with the promised lines of JSON."""

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from conftest import QUICK_COMPILE, ROOT

from benchmarks import _gpu_checks, _sizes, _workers, recipe
from benchmarks._report import finish, table
from benchmarks.decode import ratios
from benchmarks.optimizer import best_rate, crossing
from benchmarks.train_step import Contender
from models.gpt2 import cpu_kernels

KEYS = {"name", "unit", "ours", "peers", "ratio", "device", "versions", "details"}


class Here:
    """A worker in this process, which avoids importing everything again in a new one."""

    def __init__(self, module: str, kind: str, options: dict[str, Any], *, environment: Any = None):
        self.side = importlib.import_module(module).SIDES[kind](**options)

    def ask(self, what: str, **arguments: Any) -> Any:
        return json.loads(json.dumps(getattr(self.side, what)(**arguments)))

    def close(self) -> None:
        if hasattr(self.side, "close"):
            self.side.close()


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    """Returns run(name of a benchmark, arguments) -> the parsed lines of JSON."""

    def run(name: str, *arguments: str) -> list[dict[str, Any]]:
        program = importlib.import_module(f"benchmarks.{name}")
        if hasattr(program, "Worker"):
            monkeypatch.setattr(program, "Worker", Here)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.chdir(tmp_path)
        program.main()
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert lines, f"benchmarks.{name} printed no line of JSON"
        for line in lines:
            assert line.keys() == KEYS
            assert math.isfinite(line["ours"])
            assert all(math.isfinite(value) for value in line["peers"].values())
            assert (line["ratio"] is None) == (not line["peers"])
            assert line["versions"]["python"]
            assert line["device"]
        return lines

    jax.config.update("jax_disable_most_optimizations", True)  # most programs run only a few times
    # Threads that wait for each other are slow on busy cores.
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    threads = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    yield run
    if torch:
        torch.set_num_threads(threads)
    jax.config.update("jax_disable_most_optimizations", False)


def peers(*names: str) -> list[str]:
    """Returns the peers that are installed."""
    return [name for name in names if importlib.util.find_spec({"pytorch": "torch"}.get(name, name))]


def test_loss_law(bench):
    (line,) = bench("loss_law")
    in_use, again = line["details"]["rows"]
    assert again["rms %"] <= in_use["rms %"] < 2
    assert line["details"]["others"]["most %"] < 5


def test_train_step(bench):
    (line,) = bench("train_step", "--smoke")
    assert line["peers"].keys() == {f"{name} eager f32" for name in peers("pytorch")}
    rows = line["details"]["rows"]
    assert all(row["tokens_per_s"] > 0 and row["step_ms"] > 0 and row["peak_MB"] > 0 for row in rows)
    assert line["details"]["peaks_G_per_s"]["ours"]["matmul_bfloat16"] > 0
    first = {row["side"]: row["first_loss"] for row in line["details"]["tried"]}
    # With random weights, all models assign about the same probability to every token.
    assert all(loss == pytest.approx(math.log(512), abs=0.3) for loss in first.values())


def test_decode(bench):
    (line,) = bench("decode", "--smoke")
    wanted = {f"transformers f32 {cache}" for cache in ("dynamic", "static") if peers("transformers")}
    assert line["peers"].keys() == wanted
    same = line["details"]["same_tokens"]
    assert all(same[f"{side}, batch 1"] == 8 for side in line["peers"])


def test_products(bench):
    if obstacle := cpu_kernels.obstacle():
        pytest.skip(obstacle)
    (line,) = bench("products", "--smoke")
    assert [(row["storage"], row["rows"], "XLA" in row) for row in line["details"]["rows"]] == [
        (storage, rows, storage != "int8") for rows in (1, 3) for storage in ("float32", "bfloat16", "int8")
    ]
    assert all(row["ours"] > 0 for row in line["details"]["rows"])
    assert [row["position"] for row in line["details"]["attention"]] == [64, "a prompt"]


def test_startup(bench, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", QUICK_COMPILE)  # use the real devices, as in a user's program
    (line,) = bench("startup", "--smoke", "--no_peers")
    assert line["details"]["seconds"].keys() == {"ours, first step again"}


def test_checkpoint(bench):
    (line,) = bench("checkpoint", "--smoke")
    seconds = line["details"]["seconds"]
    assert 0 < seconds["ours"]["call"] <= seconds["ours"]["durable"]
    assert line["details"]["bytes"] > 0


def test_optimizer(bench):
    (line,) = bench("optimizer", "--smoke")
    assert {"optax.adamw"} <= line["peers"].keys()
    assert line["unit"] == "ms of AdamW's update, tiny"


def test_optimizer_compares_runs_of_one_seed(bench, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times.\n" * 200)
    keys = ["--set", "n_layer=1", "--set", "n_embd=32", "--seeds", "1", "--text", str(text)]
    (line,) = bench(
        "optimizer", "--smoke", "--compare", "momentum=0.9 neuron_beta2=0.95", "--compare", "lr=0.006", *keys
    )
    changed, same = line["details"]["rows"]
    assert changed["difference"] != same["difference"] == 0  # 0.006 is the learning rate of the recipe


def test_recipe(bench, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times.\n" * 200)
    (line,) = bench("recipe", "--smoke", "--text", str(text))
    assert line["details"]["losses"].keys() == {"ours", "all"}
    assert all(0 < loss < 2 * math.log(257) for (loss,) in line["details"]["losses"].values())


def test_the_recipe_repeats_what_its_changes_say():
    batches = recipe.restarting(np.arange(101), rows=2, n_ctx=10, period=3)
    assert [batches(step)["tokens"][:, 0].tolist() for step in range(4)] == [[0, 10], [20, 30], [40, 50], [0, 10]]
    assert batches(0)["tokens"][0].tolist() == list(range(11))
    params = {"wte": jax.numpy.ones((200, 50)), "wpe": jax.numpy.ones((100, 50)), "h": jax.numpy.ones(3)}
    seen = recipe.with_table_dropout(lambda params, batch, key: params)(params, None, jax.random.key(0))
    assert seen["h"].tolist() == [1, 1, 1]
    for table_ in (seen["wte"], seen["wpe"]):
        assert float((table_ == 0).mean()) == pytest.approx(0.1, abs=0.02)
        assert float(table_.max()) == pytest.approx(1 / 0.9)
    assert recipe.with_table_dropout(lambda params, batch, key: params)(params, None, None) is params


def test_growth(bench, tmp_path):
    pytest.importorskip("matplotlib", reason="a figure is drawn by matplotlib")
    (line,) = bench("growth", "--smoke", "--out", str(tmp_path / "grown"))
    assert [row["value"] for row in line["details"]["rows"]] == [2]
    assert (tmp_path / "grown" / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "grown" / "growth.json").read_text())[0]["tokens_per_s"] > 0


def test_serve(bench, monkeypatch):
    pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")
    monkeypatch.setattr("benchmarks._serve_speed.Worker", Here)
    (line,) = bench("serve", "--smoke", "--speed")
    (row,) = line["details"]["http"]
    assert row["ours tokens/s"] > 0


def test_gpu_checks_and_variants(bench, monkeypatch):
    monkeypatch.setattr(_gpu_checks, "whole_program", lambda small: [])  # tested elsewhere
    lines = bench("gpu", "--smoke", "--part", "correctness", "train")
    assert [line["name"] for line in lines] == ["gpu_correctness", "gpu_train"]
    assert lines[0]["details"]["rows"]
    assert lines[0]["details"]["wrong"] == []


def test_gpu_kernels_and_decoding(bench):
    lines = bench("gpu", "--smoke", "--part", "profile", "decode")
    assert [line["name"] for line in lines] == ["gpu_profile", "gpu_decode"]
    assert lines[0]["details"]["kernels"]
    assert all(row["differs"] < 1e-2 for row in lines[0]["details"]["embedding_gradient"])


def test_a_worker_answers_is_stopped_between_and_says_what_failed():
    options = {"folder": "", "size": "tiny", "n_ctx": 16, "prompt": 1, "length": 1, "gguf": ["f32"]}
    worker = _workers.Worker("benchmarks._decode_workers", "llama.cpp", options)
    try:
        assert worker.ask("variants") == ["f32"]
        state = f"/proc/{worker._process.pid}/stat"
        with open(state) as file:
            assert file.read().rpartition(")")[2].split()[0] in ("T", "R", "S")
        with pytest.raises(_workers.WorkerError, match=r"llama\.cpp: ValueError: its Python interface"):
            worker.ask("generate", variant="f32", batch=2)
    finally:
        worker.close()


def test_peers_elsewhere_need_numpy_alone_of_our_packages():
    code = "import sys; import benchmarks._decode_peers; print(*{name.split('.')[0] for name in sys.modules})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    assert "numpy" in names
    assert names & {"jax", "google_crc32c", "pydantic", "filelock", "tqdm"} == set()


def test_the_fewest_steps_are_read_off_between_two_runs():
    assert crossing([(50, 3.0), (100, 2.0)], 2.5) == 75
    assert crossing([(50, 2.0), (100, 1.0)], 2.5) == 50
    assert crossing([(50, 3.0), (100, 2.6)], 2.5) is None


@pytest.mark.parametrize("lowest", [0.5, 1, 4, 8])
def test_rates_are_tried_until_the_best_has_worse_neighbours(lowest):
    tried = []

    def loss_of(rate):
        tried.append(rate)
        return abs(math.log2(rate / lowest))

    assert best_rate(loss_of, 2.0) == (0.0, lowest)
    assert {lowest / 2, lowest * 2} <= set(tried)
    assert len(tried) == len(set(tried)) <= 5


def test_ratios_compare_only_the_same_width_and_batch():
    def runner(side: str, variant: str, seconds: float, batch: int = 1) -> dict[str, Any]:
        return {"side": side, "variant": variant, "batch": batch, "runs": [{"seconds": seconds}] * 2}

    runners = [runner("ours", "bf16", 1.0), runner("a", "f16", 2.0), runner("a", "f32", 9.0)]
    assert ratios(runners, 8) == {"batch 1 bf16": {"a f16": 2.0, "best": 2.0}}


def test_the_ratio_is_above_1_where_ours_is_better(capsys):
    rest: dict[str, Any] = {"device": "d", "packages": (), "details": {}}
    assert finish("n", "u", 4.0, {"a": 1.0, "b": 2.0}, **rest)["ratio"] == 2.0
    assert finish("n", "u", 4.0, {"a": 8.0, "b": 12.0}, less_is_better=True, **rest)["ratio"] == 2.0
    assert finish("n", "u", 4.0, {}, **rest)["ratio"] is None


def test_flops_of_a_token_are_the_models_own():
    from models import gpt2 as model
    from models.gpt2 import flops

    size = _sizes.SIZES["124M"]
    keys = _sizes.values(size, n_ctx=1024, batch=1)
    config = model.Config(**{key: value for key, value in keys.items() if key in model.Config.model_fields})
    assert size.flops_per_token(1024) == flops.flops_per_token(config)


def test_a_table_has_a_column_for_every_key():
    assert table([{"a": "x", "b": 1.5}, {"a": "yy", "c": 2}]).splitlines() == ["a     b  c", "x   1.5", "yy       2"]


def test_a_contender_that_fails_everywhere_is_left_out(monkeypatch):
    class Failing(Here):
        def __init__(self, *arguments: Any, **options: Any):
            pass

        def ask(self, what: str, **arguments: Any) -> Any:
            if what == "prepare":
                raise _workers.WorkerError("too large")

    monkeypatch.setattr("benchmarks.train_step.Worker", Failing)
    contender = Contender("pytorch", ["eager f32"], {})
    contender.qualify("tiny", 16, [2, 4], 0.01)
    assert contender.best == {}
    assert contender.tried[0]["error"] == "too large"
