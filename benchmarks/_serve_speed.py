"""The engine of the server against the decode loop without one, in turns in one process; then servers over HTTP.

New prompts in each round, so that nothing is reused; 1, 4 and 16 clients against 1, 4 and 16 rows. The ratio of a round
is engine / loop in tokens a second, prompts included. The first token of a second prompt that begins like an earlier
one is timed against that one's. Servers are compared as `_serve_http` says, ours also with the decode loop, in turns.
"""

import argparse
import asyncio
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _serve_http, _sizes
from benchmarks._report import finish, processor, say, table
from benchmarks._workers import Worker

CLIENTS = (1, 4, 16)


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--size", default="124M", metavar="NAME", help="of the model with random weights")
    parser.add_argument("--variants", nargs="*", default=["bf16", "int8"], metavar="V")
    parser.add_argument("--clients", nargs="*", type=int, default=list(CLIENTS), metavar="N")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens")
    parser.add_argument("--length", type=int, default=64, metavar="N", help="new tokens")
    parser.add_argument("--beginning", type=int, default=512, metavar="N", help="tokens that two prompts share")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    text = "interpreter of a peer's environment (vllm, llama.cpp); this one's without it"
    parser.add_argument("--python", nargs="*", default=[], metavar="PEER=PATH", help=text)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.smoke:
        smallest = {"size": "tiny", "variants": ["f32"], "clients": [2], "prompt": 8, "length": 8, "beginning": 64}
        vars(arguments).update(smallest, rounds=2)
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        options = {"folder": folder, "size": arguments.size, "prompt": arguments.prompt, "length": arguments.length}
        n_ctx = 128 if arguments.size == "tiny" else 1024
        peers = _serve_http.pythons(arguments.python)
        dtypes = _serve_http.VARIANTS["llama.cpp"] if "llama.cpp" in peers else {}
        options |= {"n_ctx": n_ctx, "gguf": [dtypes[variant] for variant in arguments.variants if variant in dtypes]}
        worker = Worker("benchmarks._serve_workers", "ours", options)
        try:
            worker.ask("write")
            rows = [row for variant in arguments.variants for row in _rows(worker, variant, arguments)]
            shared = {variant: _shared(worker, variant, arguments) for variant in arguments.variants}
            http = _over_http(worker, peers, Path(folder), n_ctx, arguments)
        finally:
            worker.close()
    say("\n" + table(rows) + "\n" + table(http))
    details = {"rows": rows, "http": http, "second_first_token_faster": shared, "rounds": arguments.rounds}
    best = max(rows, key=lambda row: row["clients"])
    return finish(
        "serve_speed",
        f"tokens/s, engine, {arguments.size}, {best['clients']} clients, {best['variant']}",
        best["engine_tokens_per_s"],
        {"decode loop": best["loop_tokens_per_s"]},
        device=processor(),
        packages=("jax", "jaxlib", "numpy"),
        details=details,
        ratio=best["ratio"],
    )


def _over_http(
    worker: Worker, peers: dict[str, str], folder: Path, n_ctx: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    options = {name: getattr(arguments, name) for name in ("clients", "prompt", "length", "rounds")}
    keys = _sizes.values(_sizes.SIZES[arguments.size], n_ctx=n_ctx, batch=1)
    rows = []
    for variant in arguments.variants:
        loop = partial(_loop_seconds, worker, variant)
        measured = _serve_http.measure(peers, folder, variant=variant, n_ctx=n_ctx, keys=keys, loop=loop, **options)
        rows += asyncio.run(measured)
    return rows


def _loop_seconds(worker: Worker, variant: str, clients: int) -> float:
    return worker.ask("generate", variant=variant, batch=clients)["seconds"]


def _rows(worker: Worker, variant: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for clients in arguments.clients:
        say(f"{variant}, {clients}: ready after {worker.ask('prepare', variant=variant, batch=clients):.0f} s")
        worker.ask("serve", variant=variant, batch=clients, round_=-1)
        pairs = []
        for number in range(arguments.rounds):
            turns = [("generate", {}), ("serve", {"round_": number})]
            results = {
                what: worker.ask(what, variant=variant, batch=clients, **more)
                for what, more in (turns if number % 2 == 0 else turns[::-1])
            }
            pairs.append((results["generate"], results["serve"]))
        tokens = clients * arguments.length
        loop, engine = ([pair[i]["seconds"] for pair in pairs] for i in (0, 1))
        first = [seconds for _, served in pairs for seconds in served["first"]]
        row = {"variant": variant, "clients": clients, "loop_tokens_per_s": tokens / statistics.median(loop)}
        row |= {"engine_tokens_per_s": tokens / statistics.median(engine)}
        row |= {"ratio": statistics.median(a / b for a, b in zip(loop, engine, strict=True))}
        row |= {"first_p95_s": sorted(first)[int(0.95 * (len(first) - 1))]}
        rows.append(row)
        say(f"{variant}, {clients} clients: engine / loop {row['ratio']:.3f}")
    return rows


def _shared(worker: Worker, variant: str, arguments: argparse.Namespace) -> float:
    """How many times faster the second first token is, median of the rounds."""
    ask = worker.ask
    tokens = arguments.beginning
    pairs = [ask("shared_beginning", variant=variant, tokens=tokens, round_=i) for i in range(-1, arguments.rounds)]
    ratio = statistics.median(first / second for first, second in pairs[1:])
    say(f"{variant}: the first token after {tokens} shared tokens comes {ratio:.1f} times faster the second time")
    return ratio
