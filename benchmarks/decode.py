"""Measures generation speed against other programs with the same random weights, in alternation.

python -m benchmarks.decode                      124M, 128 tokens after a prompt of 32, batch 1 and 8, on GPUs 64 too
python -m benchmarks.decode --batch 1            other batches; --model, --length, --prompt, --rounds
python -m benchmarks.decode --variants bf16      of ours and of the peers, those whose names begin so
python -m benchmarks.decode --prompt 512 --length 1      a prompt, to its first token
python -m benchmarks.decode --peer_python /tmp/peers/bin/python     and OpenVINO GenAI and CTranslate2, installed there

Each side is a process of its own and is stopped while another is timed. Decoding is greedy everywhere. Tokens
a second count the whole of a call, its prompt included; the first token is timed in the warm process. Bytes a token are
the weights that it multiplies, against the fastest reading of memory that a framework did in the same run.
"""

import argparse
import statistics
import subprocess
import tempfile
from typing import Any

from benchmarks._report import finish, installed, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import Worker, WorkerError

PEERS = {"transformers": "transformers", "llama.cpp": "llama_cpp"}
ELSEWHERE = {"openvino": "openvino_genai", "ctranslate2": "ctranslate2"}  # packages that want versions of their own
GGUF = ("f32", "f16", "bf16", "q8_0")
WIDTHS = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.0625, "int8": 1.0625}  # bytes of a weight
SAME = {"f16": "bf16", "int8": "q8_0"}  # 16 bits are 16 bits, and 8 are 8
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="124M")
    parser.add_argument("--batch", type=int, nargs="*", metavar="N", help="batch sizes: 1 8, on a GPU 1 8 64")
    parser.add_argument("--prompt", type=int, default=32, metavar="N", help="tokens (%(default)s)")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="new tokens (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="%(default)s")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer_python", metavar="PATH", help=f"Python of an environment with {', '.join(ELSEWHERE)}")
    parser.add_argument("--variants", nargs="*", default=[], metavar="V", help="f32, bf16, f16, q8_0, int8 ...")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.batch, arguments.prompt, arguments.length = "tiny", [1], 8, 8
        arguments.rounds, arguments.peers = 2, arguments.peers[:1]
        arguments.variants = arguments.variants or ["f32"]
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        measure(folder, arguments)


def measure(folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    peers = [name for name in arguments.peers if installed(PEERS[name])]
    gguf = [dtype for dtype in GGUF if "llama.cpp" in peers and wanted(dtype, arguments.variants)]
    if gguf and not installed("gguf"):
        peers.remove("llama.cpp")
        gguf = []
    options = {"folder": folder, "size": arguments.model, "prompt": arguments.prompt, "length": arguments.length}
    options |= {"n_ctx": 128 if arguments.model == "tiny" else 1024, "gguf": gguf}
    workers: dict[str, Worker] = {}
    try:
        workers["ours"] = Worker("benchmarks._decode_workers", "ours", options, environment=sharing())
        workers["ours"].ask("write")
        machine = workers["ours"].ask("describe")
        for peer in peers:
            workers[peer] = Worker("benchmarks._decode_workers", peer, options)
        for peer in peers_elsewhere(arguments.peer_python):
            workers[peer] = Worker("benchmarks._decode_peers", peer, options, python=arguments.peer_python)
        gpu = machine["platform"] != "cpu"
        rows: list[dict[str, Any]] = []
        for batch in arguments.batch or ([1, 8, 64] if gpu else [1, 8]):
            rows += batch_rows(workers, batch, arguments)
        read = (1 << 30) if gpu else (1 << 22) if arguments.smoke else (1 << 28)
        readers = [name for name in workers if name in ("ours", "transformers")]
        reads = {name: workers[name].ask("bandwidth", size=read) for name in readers}
        memory = {name: worker.ask("memory") / 1e6 for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    return report(arguments, machine, rows, {"read_bytes_per_s": reads, "peak_MB": memory})


def peers_elsewhere(python: str | None) -> list[str]:
    """Those that are installed in the environment of that Python; says which are left out."""
    found = []
    for name, package in ELSEWHERE.items():
        if python and subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode == 0:
            found.append(name)
        else:
            where = f"not installed in the environment of {python}" if python else "--peer_python names no environment"
            say(f"{name} is left out: {where}; docs/numbers.md says how to install it")
    return found


def sharing() -> dict[str, str]:
    """For ours on a GPU, whose memory others hold too."""
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def wanted(variant: str, beginnings: list[str]) -> bool:
    return not beginnings or any(variant.startswith(beginning) for beginning in beginnings)


def batch_rows(workers: dict[str, Worker], batch: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every side's variants with this batch, in turns."""
    runners: list[dict[str, Any]] = []
    for name, worker in workers.items():
        for variant in worker.ask("variants"):
            if not wanted(variant, arguments.variants):
                continue
            try:
                seconds = worker.ask("prepare", variant=variant, batch=batch)
            except WorkerError as error:
                say(f"{variant}, batch {batch}: {error}")
                continue
            say(f"{name} {variant}, batch {batch}: ready after {seconds:.0f} s")
            runners.append({"side": name, "variant": variant, "batch": batch, "runs": []})
    for number in range(arguments.rounds):
        for runner in runners if number % 2 == 0 else runners[::-1]:
            once = workers[runner["side"]].ask("generate", variant=runner["variant"], batch=batch)
            runner["runs"].append(once)
        rates = [f"{row['side']} {row['variant']} {rate(row, arguments.length, -1):,.1f}" for row in runners]
        say(f"batch {batch}, round {number + 1}: " + ", ".join(rates) + " tokens/s")
    return runners


def rate(row: dict[str, Any], length: int, number: int) -> float:
    return row["batch"] * length / row["runs"][number]["seconds"]


def report(
    arguments: argparse.Namespace, machine: dict[str, Any], runners: list[dict[str, Any]], measured: dict[str, Any]
) -> dict[str, Any]:
    size = SIZES[arguments.model]
    numbers = 12 * size.n_layer * size.n_embd**2 + size.padded_vocab * size.n_embd
    read = max(measured["read_bytes_per_s"].values())
    rows = []
    for runner in runners:
        runs, batch = runner["runs"], runner["batch"]
        seconds = statistics.median(run["seconds"] for run in runs)
        first = statistics.median(run["first"] for run in runs)
        later = batch * (arguments.length - 1) / (seconds - first) if seconds > first else None
        width = WIDTHS.get(runner["variant"].split()[0])
        row: dict[str, Any] = {"side": f"{runner['side']} {runner['variant']}", "batch": batch}
        row |= {"tokens_per_s": batch * arguments.length / seconds, "after_the_first": later, "first_ms": 1e3 * first}
        row |= {"ms_per_step": later and 1e3 * batch / later}
        row |= {"of_bandwidth": width and later and later / batch * numbers * width / read}
        rows.append(row)
    say("\n" + table(rows))
    against = ratios(runners, arguments.length)
    details: dict[str, Any] = {"rows": rows, "same_tokens": agreement(runners), "weights": numbers, **measured}
    details |= {"datasheet_bandwidth": machine["bandwidth"], "ratios": against}
    details |= {"ratio_is": "batch 1, 16 bits: median over the rounds of ours / the best peer at the same width"}
    details |= {"prompt": arguments.prompt, "length": arguments.length, "model": arguments.model}
    batch = runners[0]["batch"]
    kind = "bf16" if any(row["variant"].startswith("bf16") for row in runners) else "f32"
    chosen = {
        row["side"]: row["tokens_per_s"]
        for row, runner in zip(rows, runners, strict=True)
        if runner["batch"] == batch and width_of(runner) == kind
    }
    ours = next((value for side, value in chosen.items() if side.startswith("ours")), None)
    return finish(
        "decode",
        f"tokens/s, {arguments.model}, batch {batch}, {kind}",
        ours,
        {side: value for side, value in chosen.items() if not side.startswith("ours")},
        device=machine["kind"] if machine["platform"] != "cpu" else processor(),
        packages=("jax", "jaxlib", "torch", "transformers", "llama_cpp_python", "gguf", "numpy"),
        details=details,
        ratio=against.get(f"batch {batch} {kind}", {}).get("best"),
    )


def width_of(runner: dict[str, Any]) -> str:
    kind = runner["variant"].split()[0]
    return SAME.get(kind, kind)


def ratios(runners: list[dict[str, Any]], length: int) -> dict[str, dict[str, float]]:
    """Ours against each peer with the same batch and the same width of weights: medians of the rounds' ratios."""
    found: dict[str, dict[str, float]] = {}
    for ours in runners:
        if ours["side"] != "ours":
            continue
        key = f"batch {ours['batch']} {width_of(ours)}"
        for peer in runners:
            if peer["side"] == "ours" or peer["batch"] != ours["batch"] or width_of(peer) != width_of(ours):
                continue
            pairs = [rate(ours, length, i) / rate(peer, length, i) for i in range(len(ours["runs"]))]
            found.setdefault(key, {})[f"{peer['side']} {peer['variant']}"] = statistics.median(pairs)
        if key in found:
            found[key]["best"] = min(found[key].values())
    return found


def agreement(runners: list[dict[str, Any]]) -> dict[str, int]:
    """How many first tokens each has in common with ours in float32 (rounding ends it sooner or later)."""
    reference = next((row["runs"][0]["tokens"] for row in runners if row["side"] == "ours"), [])
    found = {}
    for row in runners:
        tokens = row["runs"][0]["tokens"]
        same = next(
            (i for i, pair in enumerate(zip(reference, tokens, strict=False)) if pair[0] != pair[1]), len(tokens)
        )
        found[f"{row['side']} {row['variant']}, batch {row['batch']}"] = same
    return found


if __name__ == "__main__":
    main()
