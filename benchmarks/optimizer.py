"""Measures the cost of an optimizer update, and the steps that each optimizer needs to reach a loss.

python -m benchmarks.optimizer                        ms of an update of 124M parameters, against optax and PyTorch
python -m benchmarks.optimizer --learning             steps to AdamW's loss on tinyshakespeare, a small search for both
python -m benchmarks.optimizer --learning --text FILE --encoder DIR    on other text, with its vocabulary
python -m benchmarks.optimizer --compare momentum=0.9 --compare "momentum=0.9 neuron_beta2=0.95"   changes of the recipe

An update is clipping by the global norm and the optimizer, on existing gradients. --learning trains
configs/shakespeare.json by main.py with AdamW (cosine to a tenth) and with the default recipe (Muon,
warmup-stable-decay). Both are searched alike: learning rates by factors of two until the best has a worse one on
either side, then at that rate the VARIATIONS, as many for each. Then runs of the recipe with fewer steps, each with its
whole schedule, show how few reach the loss that AdamW at its best ended with. --compare trains the recipe with and
without each change, with equal seeds, for --steps.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._report import finish, installed, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import ROOT, Worker, WorkerError, as_a_user_starts_it

FIXTURES = Path(os.environ.get("GPT2_FIXTURES", ROOT.parent / "shared" / "fixtures"))
STEPS = 600
PARTS = (0.4, 0.5, 0.65, 0.8)  # of AdamW's steps, which the other recipe is tried with
FIRST_RATE = {"adam": 0.004, "muon": 0.006}
RECIPES: dict[str, dict[str, Any]] = {
    "adam": {"opt_name": "adam", "schedule": "cosine", "beta2": 0.99, "weight_decay": 0.1},
    "muon": {"opt_name": "muon", "schedule": "wsd", "decay_fraction": 0.5, "beta2": 0.95, "weight_decay": 0.1},
}
VARIATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "adam": (
        {"beta2": 0.95},
        {"schedule": "wsd", "decay_fraction": 0.5, "lr_min": 0.0},
        {"beta1": 0.8, "beta2": 0.95},
    ),
    "muon": (
        {"beta2": 0.99},
        {"decay_fraction": 0.3},
        {"beta2": 0.99, "momentum": 0.9, "neuron_beta2": 0.95},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="124M")
    parser.add_argument("--updates", type=int, default=3, metavar="N", help="of each, besides the first (%(default)s)")
    parser.add_argument("--no_peers", action="store_true", help="ours and optax alone")
    parser.add_argument("--learning", action="store_true", help="steps to a loss, instead of milliseconds")
    parser.add_argument(
        "--compare", action="append", metavar="KEY=VALUE ...", help="what these keys change in the loss"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="for --compare (%(default)s)")
    learned = "for --learning and --compare: "
    parser.add_argument("--text", type=Path, help=f"{learned}text; default: tinyshakespeare.txt, where it is")
    parser.add_argument("--encoder", type=Path, help=f"{learned}its vocabulary (default: bytes)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"{learned}of a run (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"{learned}for main.py")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.updates, arguments.steps = "tiny", 1, 4
    if arguments.learning or arguments.compare:
        learning(arguments)
    else:
        cost(arguments)


def cost(arguments: argparse.Namespace) -> None:
    """The peer's updates are timed again with each of ours."""
    options = {"size": arguments.model}
    ours = Worker("benchmarks._state_workers", "ours", options)
    peer = (
        None
        if arguments.no_peers or not installed("torch")
        else Worker("benchmarks._state_workers", "pytorch", options)
    )
    rows: list[dict[str, Any]] = []
    peer_seconds: list[float] = []
    try:
        machine = ours.ask("describe")
        if peer:
            peer.ask("prepare", variant="torch.AdamW fused")
        for variant in ours.ask("variants"):
            if arguments.smoke and variant not in ("adam", "optax.adamw"):
                continue
            try:
                compiled = ours.ask("prepare", variant=variant)
            except WorkerError as error:
                say(f"{variant}: {error}")
                continue
            name = variant if variant.startswith("optax") else f"ours {variant}"
            seconds = []
            for _ in range(arguments.updates):
                seconds.append(ours.ask("updates", count=1))
                peer_seconds += [peer.ask("updates", count=1)] if peer else []
            rows.append({"optimizer": name, "update_ms": 1e3 * statistics.median(seconds), "first_s": compiled})
            say(f"{name}: {rows[-1]['update_ms']:,.1f} ms (first, with compilation, {compiled:.1f} s)")
    finally:
        for worker in (ours, peer):
            if worker:
                worker.close()
    if peer_seconds:
        rows.append({"optimizer": "torch.AdamW fused", "update_ms": 1e3 * statistics.median(peer_seconds)})
    say("\n" + table(rows))
    found = {row["optimizer"]: row["update_ms"] for row in rows}
    finish(
        "optimizer",
        f"ms of AdamW's update, {arguments.model}",
        found.pop("ours adam"),
        {name: value for name, value in found.items() if "adam" in name.lower()},
        device=machine["kind"] if machine["platform"] != "cpu" else processor(),
        packages=("jax", "jaxlib", "optax", "torch"),
        details={"rows": rows},
        less_is_better=True,
    )


def learning(arguments: argparse.Namespace) -> None:
    text = arguments.text or FIXTURES / "tinyshakespeare.txt"
    if not text.is_file():
        say(f"optimizer: left out, because {text} is not here; name a text with --text")
        return
    with tempfile.TemporaryDirectory(prefix="optimizer-") as name:
        folder, content = Path(name), text.read_bytes()
        (folder / "text").mkdir()
        cut = len(content) * 9 // 10
        (folder / "text" / "train.txt").write_bytes(content[:cut])
        (folder / "text" / "valid.txt").write_bytes(content[cut:])
        if arguments.compare:
            compare(folder, arguments)
        else:
            steps_to_loss(folder, arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Losses of the recipe, and differences of each change from the run with the same seed."""
    recipe = RECIPES["muon"] | {"lr": FIRST_RATE["muon"]}
    losses: dict[str, list[float]] = {change: [] for change in ("", *arguments.compare)}
    for number, (seed, change) in enumerate(itertools.product(range(arguments.seeds), losses)):
        keys = [*arguments.set, f"seed={seed}", f"data_seed={seed}", *change.split()]
        changed = argparse.Namespace(**vars(arguments) | {"set": keys})
        losses[change].append(final_loss(folder, number, recipe, steps=arguments.steps, arguments=changed))
        say(f"seed {seed}, {change or 'the recipe'}: {losses[change][-1]:.4f} nats per token")
    base = losses.pop("")
    rows = []
    for change, found in losses.items():
        differences = [loss - other for loss, other in zip(found, base, strict=True)]
        spread = statistics.stdev(differences) if len(differences) > 1 else None
        rows.append({"change": change, "difference": statistics.mean(differences), "deviation": spread})
    say("\n" + table(rows))
    finish(
        "optimizer_compare",
        f"nats per token of the recipe after {arguments.steps} steps",
        statistics.mean(base),
        {},
        device=processor(),
        packages=("jax", "optax"),
        details={"rows": rows, "losses": losses | {"": base}, "text": str(arguments.text or "")},
        less_is_better=True,
    )


def steps_to_loss(folder: Path, arguments: argparse.Namespace) -> None:
    tried: list[dict[str, Any]] = []

    def train(recipe: str, keys: dict[str, Any], steps: int) -> float:
        loss = final_loss(folder, len(tried), RECIPES[recipe] | keys, steps=steps, arguments=arguments)
        tried.append({"recipe": recipe, "steps": steps, "loss": loss} | keys)
        chosen = ", ".join(f"{key} {value}" for key, value in keys.items())
        say(f"{recipe}, {chosen}, {steps} steps: {loss:.4f} nats per token")
        return loss

    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for recipe, first in FIRST_RATE.items():
        loss, lr = best_rate(lambda lr, recipe=recipe: train(recipe, {"lr": lr}, arguments.steps), first)
        best[recipe] = (loss, {"lr": lr})
        for variation in VARIATIONS[recipe]:
            keys = {"lr": lr} | variation
            best[recipe] = min(best[recipe], (train(recipe, keys, arguments.steps), keys), key=lambda each: each[0])
    target = best["adam"][0]
    reached = [(arguments.steps, best["muon"][0])]
    for part in sorted(PARTS, reverse=True):
        steps = round(part * arguments.steps)
        reached.append((steps, train("muon", best["muon"][1], steps)))
        if reached[-1][1] > target:
            break
    needed = crossing(reached[::-1], target)
    finish(
        "optimizer_learning",
        f"steps until AdamW's loss of {target:.4f} after {arguments.steps} steps",
        needed,
        {"adamw": float(arguments.steps)},
        device=processor(),
        packages=("jax", "optax"),
        details={
            "tried": tried,
            "tokens_share": needed and needed / arguments.steps,
            "text": str(arguments.text or ""),
        },
        less_is_better=True,
    )


def best_rate(loss_of: Callable[[float], float], first: float) -> tuple[float, float]:
    """The lowest loss and its learning rate, among rates that differ by factors of two around the first, when the ones
    next to it on both sides are worse."""
    losses = {rate: loss_of(rate) for rate in (first, first / 2, first * 2)}
    while (best := min(losses, key=lambda rate: losses[rate])) in (min(losses), max(losses)):
        further = best / 2 if best == min(losses) else best * 2
        losses[further] = loss_of(further)
    return losses[best], best


def crossing(points: list[tuple[int, float]], target: float) -> float | None:
    """Steps at which the loss reaches the target, by the line between the points around it; the fewest steps tried
    where all reach it, None where none does. points: (steps, loss), in the order of the steps."""
    if points[0][1] <= target:
        return float(points[0][0])
    for (fewer, worse), (more, better) in itertools.pairwise(points):
        if better <= target:
            return fewer + (more - fewer) * (worse - target) / (worse - better)
    return None


def final_loss(
    folder: Path, number: int, recipe: dict[str, Any], *, steps: int, arguments: argparse.Namespace
) -> float:
    """Of the evaluation at the end of a run of main.py."""
    path = folder / f"run{number}"
    keys = json.loads((ROOT / "configs" / "shakespeare.json").read_text())
    keys |= {"max_steps": steps, "train_steps": steps, "warmup_steps": max(1, steps // 20)}
    keys |= {"lr_min": 0.1 * recipe["lr"] if recipe["schedule"] == "cosine" else 0.0} | recipe
    keys |= {"model_path": str(path), "data_path": str(folder / "text"), "save_minutes": None}
    if arguments.encoder:
        from estimator.tokenization import tokenizer

        keys |= {"encoder_path": str(arguments.encoder), "n_vocab": tokenizer.load(arguments.encoder).n_vocab}
    file = folder / f"run{number}.json"
    file.write_text(json.dumps(keys))
    command = [sys.executable, "main.py", "--model", str(file)]
    for change in arguments.set:
        command += ["--set", change]
    command, environment = as_a_user_starts_it(command, dict(os.environ))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"main.py ended with {done.returncode}:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "eval"][-1]


if __name__ == "__main__":
    main()
