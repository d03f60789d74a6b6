"""Servers over HTTP with the same weights, in turns: `serve.py`, and those of vLLM and llama-cpp-python.

Clients stream completions of prompts, new ones in each round. A server whose turn it is not is
stopped (SIGSTOP). All clients share one process, which takes its part of the machine from each server alike.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._decode_workers import ENCODER, HUGGING_FACE
from benchmarks._report import say
from benchmarks._workers import ROOT, WorkerError, cores

START_SECONDS = 600
PEERS = {"llama.cpp": "llama_cpp.server", "vllm": "vllm.entrypoints.openai.api_server"}
VARIANTS = {"llama.cpp": {"f32": "f32", "bf16": "bf16", "int8": "q8_0"}, "vllm": {"f32": "float32", "bf16": "bfloat16"}}
"""The name of ours in the peer's words; a peer is not asked for the others."""


class Served:
    """A server in a process group of its own. variant: f32, bf16 or int8, of the weights in `folder`."""

    def __init__(self, kind: str, variant: str, folder: Path, *, n_ctx: int, keys: dict[str, Any], python: str):
        self.kind, self.log = kind, folder / f"{kind}-{variant}.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        listen = ["--host", "127.0.0.1", "--port", str(self.port)]
        if kind == "ours":
            command = [python, str(ROOT / "serve.py"), "--model", str(_run(folder, variant, keys)), *listen]
        elif kind == "vllm":
            command = [
                python,
                "-m",
                PEERS[kind],
                "--model",
                str(folder / HUGGING_FACE),
                "--skip-tokenizer-init",
                *listen,
            ]
            command += ["--dtype", VARIANTS[kind][variant], "--max-model-len", str(n_ctx), "--no-enable-prefix-caching"]
        else:
            model = str(folder / f"{VARIANTS[kind][variant]}.gguf")
            command = [python, "-m", PEERS[kind], "--model", model, "--n_ctx", str(n_ctx), *listen]
            # A new request would otherwise end the one that it is answering.
            command += ["--n_threads", str(cores()), "--verbose", "False", "--interrupt_requests", "False"]
        variables = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2"}
        with open(self.log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, process_group=0)

    async def start(self) -> str:
        """Waits until it answers; returns its model's name."""
        import httpx

        until = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=START_SECONDS) as client:
            while time.monotonic() < until and self._process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get("/v1/models")
                    if answer.status_code == 200:
                        return answer.json()["data"][0]["id"]
                await asyncio.sleep(0.5)
        raise WorkerError(f"{self.kind} does not answer: {' '.join(self.log.read_text()[-500:].split())}")

    def wake(self, number: int = signal.SIGCONT) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def sleep(self) -> None:
        self.wake(signal.SIGSTOP)

    def close(self) -> None:
        self.wake(signal.SIGKILL)
        self._process.wait()

    def resident_megabytes(self) -> float:
        """Of all processes of the server."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(status.parent.name)) == self._process.pid:
                    total += sum(int(line.split()[1]) for line in status.read_text().splitlines() if "VmRSS" in line)
        return total / 1e3


def _run(folder: Path, variant: str, keys: dict[str, Any]) -> Path:
    precision = {"f32": "float32", "bf16": "bfloat16"}.get(variant, variant)
    values = keys | {"init_from": str(folder / HUGGING_FACE), "encoder_path": str(folder / ENCODER)}
    values |= {"model_path": str(folder / "run"), "predict_precision": precision}
    path = folder / f"{variant}.json"
    path.write_text(json.dumps(values))
    return path


def pythons(given: list[str]) -> dict[str, str]:
    """The interpreter of each peer's environment; a peer is left out, with the reason, where it is not installed."""
    chosen = dict.fromkeys(PEERS, sys.executable) | {text.partition("=")[0]: text.partition("=")[2] for text in given}
    found = {}
    for kind, python in chosen.items():
        package = PEERS[kind].partition(".")[0]
        probe = f"import importlib.util as u; raise SystemExit(u.find_spec({package!r}) is None)"
        if subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode:
            say(f"{kind}: skipped, {package} is not installed for {python} (name another by --python {kind}=PATH)")
        else:
            found[kind] = python
    return found


async def ask(server: Served, model: str, prompts: Sequence[str | list[int]], length: int) -> dict[str, Any]:
    """Seconds until the last of the clients has its answer, and until each first token.

    The clients use aiohttp: httpx takes four times the processor time for a chunk, a tenth of this machine with 16
    clients, which the server then lacks.
    """
    import aiohttp

    async def client(prompt: str | list[int], http: aiohttp.ClientSession) -> float:
        body = {"model": model, "prompt": prompt, "max_tokens": length, "temperature": 0, "stream": True}
        body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        began, first, usage = time.perf_counter(), None, None
        async with http.post("/v1/completions", json=body) as answer:
            if answer.status != 200:
                raise WorkerError(f"{server.kind}: {(await answer.read())[:300]!r}")
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "choices" not in event:
                    raise WorkerError(f"{server.kind}: {line[:300]!r}")
                if event["choices"] and first is None:
                    first = time.perf_counter() - began
                usage = event.get("usage") or usage
        if usage and usage["completion_tokens"] != length:
            raise WorkerError(f"{server.kind}: {usage['completion_tokens']} tokens in place of {length}")
        return first or time.perf_counter() - began

    address, limits = f"http://127.0.0.1:{server.port}", aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(START_SECONDS)
    async with aiohttp.ClientSession(address, connector=limits, timeout=patience) as http:
        start = time.perf_counter()
        first = await asyncio.gather(*(client(prompt, http) for prompt in prompts))
        return {"seconds": time.perf_counter() - start, "first": sorted(first)}


def prompts(kind: str, round_: int, clients: int, tokens: int) -> list[str] | list[list[int]]:
    """Unlike those of other rounds and numbers of clients. llama-cpp-python takes text: a token a letter."""
    ids = np.random.default_rng((round_ + 1, clients)).integers(0, 26, (clients, tokens)).tolist()
    return ["".join(chr(65 + i) for i in row) for row in ids] if kind == "llama.cpp" else ids


async def measure(
    kinds: dict[str, str], folder: Path, *, variant: str, clients: list[int], prompt: int, length: int, rounds: int,
    n_ctx: int, keys: dict[str, Any], loop: Callable[[int], float],
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each number of clients: tokens a second and the first token's 95th percentile of each server.

    loop: seconds of the decode loop without a server for so many rows, measured in each round.
    """
    servers: dict[str, tuple[Served, str]] = {}
    try:
        for kind, python in {"ours": sys.executable, **kinds}.items():
            if kind != "ours" and variant not in VARIANTS[kind]:
                continue
            server = Served(kind, variant, folder, n_ctx=n_ctx, keys=keys, python=python)
            try:
                servers[kind] = server, await server.start()
            except WorkerError as error:
                server.close()
                if kind == "ours":
                    raise
                say(f"{kind}: skipped, {error}")
            server.sleep()
        return [await _row(servers, loop, variant, n, prompt, length, rounds) for n in clients]
    finally:
        for server, _ in servers.values():
            server.close()


async def _row(
    servers: dict[str, tuple[Served, str]], loop: Callable[[int], float], variant: str, clients: int, prompt: int,
    length: int, rounds: int,
) -> dict[str, Any]:  # fmt: skip
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in servers}
    alone = []
    for number in range(-1, rounds):  # the first round compiles and is not counted
        alone.append(loop(clients))
        order = list(servers) if number % 2 == 0 else list(servers)[::-1]
        for kind in order:
            server, model = servers[kind]
            server.wake()
            try:
                results[kind].append(await ask(server, model, prompts(kind, number, clients, prompt), length))
            except WorkerError as error:
                if kind == "ours":
                    raise
                say(f"left out: {error}")
                servers.pop(kind)[0].close()
                del results[kind]
                continue
            server.sleep()
    ratios = [seconds / answer["seconds"] for seconds, answer in zip(alone[1:], results["ours"][1:], strict=True)]
    row: dict[str, Any] = {"variant": variant, "clients": clients, "ours / loop": statistics.median(ratios)}
    for kind, answers in results.items():
        seconds = sorted(answer["seconds"] for answer in answers[1:])
        first = sorted(value for answer in answers[1:] for value in answer["first"])
        row[f"{kind} tokens/s"] = clients * length / seconds[len(seconds) // 2]
        row[f"{kind} first_p95_s"] = first[int(0.95 * (len(first) - 1))]
        row[f"{kind} MB"] = servers[kind][0].resident_megabytes()
    say(
        f"{variant}, {clients} clients over HTTP: "
        + ", ".join(f"{kind} {row[f'{kind} tokens/s']:.0f}" for kind in results)
        + f"; ours / loop {row['ours / loop']:.3f}"
    )
    return row
