"""Measures training speed against PyTorch and transformers on the same machine at the same time.

python -m benchmarks.train_step                     6 layers, 384 wide, 8 x 256 tokens; on a GPU 124M, 64 x 1024
python -m benchmarks.train_step --model 124M        also 355M, 774M, 1558M, tiny; --n_ctx and --batch: other tokens
python -m benchmarks.train_step --set KEY=VALUE     with another key in our JSON file
python -m benchmarks.train_step --peers pytorch     without transformers; --peers with nothing: ours alone

A step is forward, backward, clipping and AdamW. Each side lives in a process of its own and is stopped while another is
timed. First each finds its best variant (precision, compiled or not, attention; on a GPU the batch too), then the sides
take turns: what counts is the median of the rounds, and of the rounds' ratios.
"""

import argparse
import statistics
import time
from typing import Any

from benchmarks._report import finish, installed, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import Worker, WorkerError

PEERS = {"pytorch": "torch", "transformers": "transformers"}
ROUNDS = 9
ROUND_SECONDS = 2.0  # of one side in one round, about
GPU_SHARE = "0.45"  # of its memory for ours, while the others hold theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, help="small; on a GPU 124M")
    parser.add_argument("--n_ctx", type=int, metavar="N", help="tokens of a sequence")
    parser.add_argument("--batch", type=int, metavar="N", help="sequences of a step; no other is tried")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="%(default)s")
    parser.add_argument("--round_seconds", type=float, default=ROUND_SECONDS, metavar="S", help="%(default)s")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--variants", nargs="*", default=[], metavar="V", help='of PyTorch, as "compile bf16"')
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of ours; repeatable")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.rounds, arguments.round_seconds = "tiny", 2, 0.05
        arguments.peers, arguments.variants = arguments.peers[:1], ["eager f32"]
        arguments.set.append("precision=float32")
    measure(arguments)


class Contender:
    """One side: a process, its variants and what they took."""

    def __init__(self, kind: str, chosen: list[str], environment: dict[str, str], **options: Any):
        self.kind, self.chosen = kind, chosen
        self.worker = Worker("benchmarks._train_workers", kind, options, environment=environment)
        self.n_ctx = 0
        self.tried: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.seconds: list[float] = []

    def qualify(self, size: str, n_ctx: int, batches: list[int], seconds: float) -> None:
        """Tries each variant with the first batch and the best of them with the others, and gets the winner ready."""
        self.n_ctx = n_ctx
        self.worker.ask("work", size=size, n_ctx=n_ctx)
        for variant in self.chosen or self.worker.ask("variants"):
            self._try(variant, batches[0], seconds)
        for batch in batches[1:] if self.best else []:
            self._try(self.best["variant"], batch, seconds)
        if self.best and self.tried[-1] is not self.best:
            self.worker.ask("prepare", variant=self.best["variant"], batch=self.best["batch"])

    def _try(self, variant: str, batch: int, seconds: float) -> None:
        start = time.perf_counter()
        row: dict[str, Any] = {"side": self.kind, "variant": variant, "batch": batch}
        self.tried.append(row)
        try:
            ready = self.worker.ask("prepare", variant=variant, batch=batch)
            once = self.worker.ask("steps", count=1)["seconds"]
            row["step_ms"] = 1e3 * self.worker.ask("steps", count=max(1, round(seconds / once)))["seconds"]
        except WorkerError as error:
            say(f"{self.kind} {variant}, batch {batch}: {error}")
            row["error"] = str(error)
            return
        row |= {"tokens_per_s": batch * self.n_ctx / row["step_ms"] * 1e3, "first_s": ready["seconds"]}
        row |= {"first_loss": ready["loss"], "peak_MB": self.worker.ask("memory") / 1e6}
        told = "; ".join(ready.get("told", []))
        speed = f"{row['step_ms']:,.1f} ms a step, {row['tokens_per_s']:,.0f} tokens/s"
        say(f"{self.kind} {variant}, batch {batch}: {speed} ({time.perf_counter() - start:.0f} s) {told}")
        if not self.best or row["tokens_per_s"] > self.best["tokens_per_s"]:
            self.best = row

    @property
    def name(self) -> str:
        return f"{self.kind} {self.best['variant']}"

    def round(self, seconds: float) -> None:
        count = max(1, round(seconds / self.best["step_ms"] * 1e3))
        self.seconds.append(self.worker.ask("steps", count=count)["seconds"])

    def rates(self) -> list[float]:
        return [self.best["batch"] * self.n_ctx / seconds for seconds in self.seconds]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": GPU_SHARE, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    threads = {"OMP_NUM_THREADS": "1"} if arguments.smoke else {}
    sides = [Contender("ours", [], share, changes=arguments.set)]
    try:
        machine = sides[0].worker.ask("describe")
        gpu = machine["platform"] != "cpu"
        name = arguments.model or ("124M" if gpu else "small")
        batch, n_ctx = SIZES[name].gpu if gpu else SIZES[name].cpu
        batch, n_ctx = arguments.batch or batch, arguments.n_ctx or n_ctx
        batches = [batch] if arguments.batch or not gpu else [batch, batch // 2, batch * 3 // 2]
        for peer in arguments.peers:
            if installed(PEERS[peer]) and installed("torch"):
                sides.append(Contender(peer, arguments.variants if peer == "pytorch" else [], threads))
        for side in sides:
            side.qualify(name, n_ctx, batches, arguments.round_seconds)
        able = [side for side in sides if side.best]
        for number in range(arguments.rounds):
            for side in able if number % 2 == 0 else able[::-1]:
                side.round(arguments.round_seconds)
            say(
                f"round {number + 1}: "
                + ", ".join(f"{side.kind} {side.rates()[-1]:,.0f}" for side in able)
                + " tokens/s"
            )
        for side in able:
            side.best["peak_MB"] = side.worker.ask("memory") / 1e6
        n, copied = (8192, 1 << 30) if gpu else (512, 1 << 22) if arguments.smoke else (2048, 1 << 28)
        peaks = {side.kind: side.worker.ask("peaks", n=n, copied=copied) for side in able[:2]}
    finally:
        for side in sides:
            side.worker.close()
    return report(name, n_ctx, sides, able, peaks, machine)


def report(
    name: str, n_ctx: int, sides: list[Contender], able: list[Contender], peaks: dict[str, Any], machine: dict[str, Any]
) -> dict[str, Any]:
    flops = SIZES[name].flops_per_token(n_ctx)
    reached = max((value for found in peaks.values() for key, value in found.items() if "matmul" in key), default=None)
    rows = []
    for side in able:
        rate = statistics.median(side.rates())
        row = {"side": side.name, "batch": side.best["batch"], "tokens_per_s": rate}
        row |= {"step_ms": 1e3 * statistics.median(side.seconds), "TFLOP_per_s": rate * flops / 1e12}
        row |= {"mfu_datasheet": rate * flops / machine["peak"] if machine.get("peak") else None}
        row |= {"mfu_measured_matmul": rate * flops / reached if reached else None}
        row |= {"peak_MB": side.best["peak_MB"], "first_step_s": side.best["first_s"]}
        rows.append(row)
    say("\n" + table(rows))
    say(
        table(
            [{"framework": kind, **{key: value / 1e9 for key, value in found.items()}} for kind, found in peaks.items()]
        )
    )
    ours = [side for side in able if side.kind == "ours"]
    peers = {side.name: statistics.median(side.rates()) for side in able if side.kind != "ours"}
    ratio = None
    if ours and peers:
        pairs = [
            statistics.median(a / b for a, b in zip(ours[0].rates(), side.rates(), strict=True))
            for side in able
            if side.kind != "ours"
        ]
        ratio = min(pairs)
    details = {
        "model": name,
        "n_ctx": n_ctx,
        "flops_per_token": flops,
        "rows": rows,
        "peak_MB": {row["side"]: row["peak_MB"] for row in rows},
        "peaks_G_per_s": {kind: {key: value / 1e9 for key, value in found.items()} for kind, found in peaks.items()},
        "tried": [row for side in sides for row in side.tried],
        "rounds_tokens_per_s": {side.name: [round(rate) for rate in side.rates()] for side in able},
        "ratio_is": "median over the rounds of ours / peer, the least of all peers",
    }
    return finish(
        "train_step",
        f"tokens/s of training, {name}, {n_ctx} tokens a sequence",
        statistics.median(ours[0].rates()) if ours else None,
        peers,
        device=machine["kind"] if machine["platform"] != "cpu" else processor(),
        packages=("jax", "jaxlib", "optax", "torch", "transformers", "numpy"),
        details=details,
        ratio=ratio,
    )


if __name__ == "__main__":
    main()
