"""A server under clients that come, go and change their minds: nothing lost, nothing answered by another model.

python -m benchmarks.serve            8 models with memory for 3, 64 clients, 20,000 requests; SIGTERM at the end
python -m benchmarks.serve --speed    tokens a second and first tokens of the engine, against the loop without one and,
                                      over HTTP, against the servers of vLLM and llama-cpp-python

Each model answers with its own letter only, and a swap turns the letter from upper to lower case and back. A client
stays with a model for a while, streams or not, and may go away before the end. Meanwhile models are swapped and
unloaded.
A request is accounted for if it ended with its model's letters, with a status that says why not, or by its client.
"""

import argparse
import asyncio
import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _serve_models, _serve_speed
from benchmarks._report import finish, processor, say
from benchmarks._serve_clients import LETTERS, Tally, converse, disturb, start, stop

ROOM = 3.4  # models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, metavar="N", help="%(default)s")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="clients (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    parser.add_argument("--speed", action="store_true", help="measure the engine, not a server's endurance")
    _serve_speed.add_arguments(parser.add_argument_group("with --speed"))
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.requests, arguments.concurrency = 60, 8
    if arguments.speed:
        _serve_speed.measure(arguments)
        return
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        endure(Path(folder), arguments)


def endure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    process, address = start(_serve_models.write_server(folder, LETTERS, memory_bytes=None))
    nbytes = asyncio.run(model_bytes(address))
    stop(process)
    process, address = start(_serve_models.write_server(folder, LETTERS, memory_bytes=int(ROOM * nbytes)))
    tally = Tally()
    began = time.monotonic()
    events = asyncio.run(drive(process, address, folder, arguments, tally))
    code = process.wait(60)
    seconds = time.monotonic() - began
    if code:
        tally.faults.append(f"the server ended with code {code}")
    quantiles = {name: [_quantile(values, q) for q in (0.5, 0.95, 0.99)]
                 for name, values in (("first_token_s", tally.first), ("whole_s", tally.whole))}  # fmt: skip
    say(f"{sum(tally.outcomes.values()):,} requests in {seconds:,.0f} s: {dict(tally.outcomes)}; {events}")
    for fault in tally.faults[:20]:
        say(f"FAULT: {fault}")
    result = finish(
        "serve", "requests/s, 8 models, memory for 3", sum(tally.outcomes.values()) / seconds, {}, device=processor(),
        packages=("jax", "fastapi", "uvicorn", "starlette"),
        details={"outcomes": dict(tally.outcomes), "faults": len(tally.faults), "p50_p95_p99": quantiles,
                 "process": tally.samples, "events": events, "seconds": seconds, "exit_code": code},
    )  # fmt: skip
    if tally.faults:
        sys.exit(f"{len(tally.faults)} faults")
    return result


async def model_bytes(address: str) -> int:
    """Memory of one of the models, which all have the same shape."""
    import httpx

    async with httpx.AsyncClient(base_url=address, timeout=300) as client:
        return (await client.post(f"/admin/models/{LETTERS[0]}/load")).raise_for_status().json()["bytes"]


async def drive(
    process: subprocess.Popen[str], address: str, folder: Path, arguments: argparse.Namespace, tally: Tally
) -> dict[str, int]:
    import httpx

    numbers = iter(range(arguments.requests))
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        disturber = asyncio.create_task(disturb(client, folder, tally))
        meter = asyncio.create_task(watch(process.pid, arguments.requests, tally))
        jobs = [converse(client, seed, numbers, tally) for seed in range(arguments.concurrency)]
        await asyncio.gather(*jobs)
        disturber.cancel()
        meter.cancel()
        ended = await asyncio.gather(disturber, meter, return_exceptions=True)
        tally.faults += [
            f"not disturbed or measured to the end: {error!r}" for error in ended if isinstance(error, Exception)
        ]
        events = await model_events(client)
        # The last ones are under way when the signal comes.
        last = [asyncio.create_task(converse(client, 10**6 + seed, iter(range(3)), tally)) for seed in range(64)]
        await asyncio.sleep(0.2)
        tally.is_ending = True
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*last)
    return events


async def watch(pid: int, requests: int, tally: Tally) -> None:
    """Memory, files and threads of the server at each eighth of the requests."""
    for eighth in range(1, 9):
        while sum(tally.outcomes.values()) < requests * eighth // 8:
            await asyncio.sleep(0.05)
        status = Path(f"/proc/{pid}/status").read_text()
        tally.samples.append({
            "rss_MB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3,  # type: ignore[index]
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),  # type: ignore[index]
        })  # fmt: skip
        say(f"{eighth}/8: {tally.samples[-1]}, {dict(tally.outcomes)}")


async def model_events(client: Any) -> dict[str, int]:
    """Loads, evictions and swaps, all models together."""
    totals: collections.Counter[str] = collections.Counter()
    for line in (await client.get("/metrics")).text.splitlines():
        if found := re.match(r'gpt2_model_events_total\{event="(\w+)",.*\} (\S+)', line):
            totals[found[1]] += int(float(found[2]))
    return dict(totals)


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[int(q * (len(values) - 1))] if values else float("nan")


if __name__ == "__main__":
    main()
