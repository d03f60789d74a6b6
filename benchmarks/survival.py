"""Kills workers of a run repeatedly, and compares its final bits with those of an undisturbed run.

python -m benchmarks.survival              --tpu local:2, 3 times SIGKILL to one of the workers, at random moments
python -m benchmarks.survival --kills 20   the same 20 times in a row; takes minutes
"""

import argparse
import json
import os
import platform
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from benchmarks._workers import Recorded
from estimator.launch import run_store
from estimator.launch.job import Job
from estimator.launch.local_hosts import LocalHost

ROOT = Path(__file__).resolve().parent.parent
KILLS = 3
STEPS_OF_A_KILL = 60  # at least so many steps are trained for each kill, so that there is something to kill
TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.\n"
VALUES = {
    "model": "GPT2", "input": "text", "n_vocab": 300, "n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1,
    "scale_by_in": False, "opt_name": "adam", "lr": 0.003, "warmup_steps": 2, "train_batch_size": 8,
    "train_steps": 100000, "eval_steps": 1, "log_steps": 10, "save_steps": 10, "keep_checkpoints": 2,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the moments, and of who is killed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        os.environ["GPT2_CLUSTER"] = f"{folder}/cluster"
        result = survive(Path(folder), kills=arguments.kills, workers=arguments.workers, seed=arguments.seed)
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    print(json.dumps(result | {"device": platform.machine(), "versions": versions}))


def survive(folder: Path, *, kills: int, workers: int, seed: int) -> dict[str, Any]:
    """Both runs in `folder`, and how they compare."""
    steps = STEPS_OF_A_KILL * (kills + 1)
    place = f"local:{workers}"
    start = time.monotonic()
    finished(launched(written(folder, "whole", max_steps=steps), place))
    whole = time.monotonic() - start
    start = time.monotonic()
    process = launched(path := written(folder, "killed", max_steps=steps), place)
    run = known(place, path)
    draw = random.Random(seed)
    dead = [kill_one(run, workers, draw) for _ in range(kills)]
    output = finished(process)
    attempts = run_store.read(run.folder / "run.json").attempt
    equal = same(final_state(folder / "whole", steps), final_state(folder / "killed", steps))
    details = {
        "kills": dead,
        "attempts": attempts,
        "steps": steps,
        "continued_from": [int(step) for step in re.findall(r"again from step (\d+)", output)],
        "seconds_undisturbed": round(whole, 1),
        "seconds": round(time.monotonic() - start, 1),
    }
    return {
        "name": "survival", "unit": "1 where the final state is bit-identical", "ours": int(equal), "peers": {},
        "ratio": None, "details": details,
    }  # fmt: skip


def written(folder: Path, name: str, **changes: Any) -> Path:
    """The JSON file of a run in folder/name; the text and its vocabulary are there for all runs of the folder."""
    text = folder / "text"
    if not text.exists():
        text.mkdir()
        draw = random.Random(0)
        for i in range(40):
            words = TEXT.split()
            draw.shuffle(words)
            (text / f"{i:02}.txt").write_text(" ".join(words) + "\n" + TEXT * draw.randint(1, 5))
    paths = {"model_path": str(folder / name), "data_path": str(text), "predict_path": str(folder / "samples.txt")}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(VALUES | paths | changes))
    return path


def launched(path: Path, place: str, *more: str, **environment: str) -> Recorded:
    """main.py --model path --tpu place."""
    command = [sys.executable, str(ROOT / "main.py"), "--model", str(path), "--tpu", place, *more]
    return Recorded(command, env={**os.environ, "JAX_PLATFORMS": "cpu", **environment})


def finished(process: Recorded, *, code: int = 0, seconds: float = 3600) -> str:
    """What the launcher showed until it ended."""
    [output] = process.outputs(seconds)
    assert process.returncode == code, f"code {process.returncode}\n{output}"
    return output


def known(place: str, path: Path) -> run_store.StoredRun:
    """The run of a JSON file, once its launcher has written it down."""
    while True:
        for run in run_store.known(place):
            if run.model == str(path) and run.attempt:
                return run
        time.sleep(0.1)


def kill_one(run: run_store.StoredRun, workers: int, draw: random.Random) -> str:
    """SIGKILL to one worker of the attempt that is running, some time after its start: in between, it has trained, or
    has not yet begun to."""
    reached = newest(run)
    while run_store.read(run.folder / "run.json").status != "running":
        time.sleep(0.05)
    attempt = run_store.read(run.folder / "run.json").attempt
    index = draw.randrange(workers)
    job = Job(LocalHost(index), run.id)
    # One in four dies while it starts, the others after a checkpoint.
    if draw.random() < 0.25:
        time.sleep(draw.uniform(0, 3))
    else:
        while newest(run) <= reached:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
    os.kill(int(Path(job.folder, "pid").read_text()), signal.SIGKILL)
    while run_store.read(run.folder / "run.json").attempt == attempt:
        time.sleep(0.05)
    return f"worker {index} of attempt {attempt} after step {newest(run)}"


def newest(run: run_store.StoredRun) -> int:
    """Step of the newest checkpoint; -1 without any."""
    return max(
        (int(path.name) for path in Path(run.model_path, "checkpoints").glob("[0-9]*") if path.name.isdigit()),
        default=-1,
    )


def final_state(folder: Path, step: int) -> Any:
    """Parameters, optimizer's state and checksums of a checkpoint, as arrays of this process."""
    checkpointer = ocp.training.Checkpointer(folder / "checkpoints")
    saved = checkpointer.metadata(step).metadata
    place = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), saved)
    return jax.device_get(checkpointer.load(step, template))


def same(a: Any, b: Any) -> bool:
    """Whether all bits of two trees are the same."""
    leaves = [jax.tree.leaves_with_path(tree) for tree in (a, b)]
    assert [path for path, _ in leaves[0]] == [path for path, _ in leaves[1]]
    return all(np.array_equal(x, y) for (_, x), (_, y) in zip(*leaves, strict=True))


if __name__ == "__main__":
    main()
