"""Clients of the serve benchmarks: they ask, stay with a model for a while, and leave; models are swapped meanwhile."""

import asyncio
import collections
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import _serve_models

LETTERS = "ABCDEFGH"
STAY = 40  # requests of a client to one model, on average


@dataclass
class Tally:
    """What became of the requests."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    is_ending: bool = False


def start(config: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, str(Path(__file__).parent.parent / "serve.py"), "--config", str(config)]
    with open(config.parent / "server.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    address = process.stdout.readline().strip()
    if not address:
        sys.exit((config.parent / "server.log").read_text())
    return process, address


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


async def converse(client: Any, seed: int, numbers: Any, tally: Tally, letters: str = LETTERS) -> None:
    """One client: requests after each other, most of them to the model of the moment."""
    draw = random.Random(seed)
    letter = draw.choice(letters)
    for _ in numbers:
        if draw.random() < 1 / STAY:
            letter = draw.choice(letters)
        outcome = await ask(client, letter, draw, tally)
        tally.outcomes[outcome] += 1


async def ask(client: Any, letter: str, draw: random.Random, tally: Tally) -> str:
    import httpx

    length, is_stream = draw.randint(1, 24), draw.random() < 0.6
    leaves_after = draw.uniform(0, 0.3) if draw.random() < 0.1 else None  # seconds
    body = {"model": letter, "prompt": "x" * draw.randint(1, 60), "max_tokens": length, "stream": is_stream}
    body |= {"temperature": 0} if draw.random() < 0.5 else {"temperature": 0.01, "seed": draw.randrange(100)}
    began = time.monotonic()
    try:
        async with asyncio.timeout(leaves_after):
            if is_stream:
                return await read_stream(client, letter, body, began, tally)
            answer = await client.post("/v1/completions", json=body)
            if answer.status_code != 200:
                return refused(answer.status_code, answer.json(), tally)
            tally.whole.append(time.monotonic() - began)
            choice = answer.json()["choices"][0]
            return check(letter, choice["text"], choice["finish_reason"], length, tally)
    except TimeoutError:
        return "left by its client"
    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
        if tally.is_ending:
            return "not connected after SIGTERM"
        tally.faults.append(f"{letter}: lost: {error!r}")
        return "LOST"


async def read_stream(client: Any, letter: str, body: dict[str, Any], began: float, tally: Tally) -> str:
    text, reason = "", None
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            return refused(answer.status_code, json.loads(await answer.aread()), tally)
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if not data or data.startswith(":"):
                continue
            if data == "[DONE]":
                break
            event = json.loads(data)
            if "error" in event:
                return refused(0, event, tally)
            if not text:
                tally.first.append(time.monotonic() - began)
            text += event["choices"][0]["text"]
            reason = event["choices"][0]["finish_reason"] or reason
    tally.whole.append(time.monotonic() - began)
    return check(letter, text, reason, body["max_tokens"], tally)


def refused(status: int, body: Any, tally: Tally) -> str:
    code = body.get("error", {}).get("code")
    is_expected = code in ("queue_full", "model_unavailable", "shutdown", "model_closed") or status == 429
    if not is_expected or (not tally.is_ending and code != "queue_full"):
        tally.faults.append(f"status {status}: {body}")
    return f"refused: {status or 'stream'} {code}"


def check(letter: str, text: str, reason: str | None, length: int, tally: Tally) -> str:
    """Letters of the model alone: upper or lower case, but not both, as one version answers."""
    if text not in (letter * length, letter.lower() * length) or reason != "length":
        tally.faults.append(f"{letter}: {text!r}, {reason}, of {length} tokens")
        return "WRONG"
    return "answered"


async def disturb(client: Any, folder: Path, tally: Tally, letters: str = LETTERS) -> None:
    """Swaps and unloads models while they are used; after a swap, the new version answers."""
    draw = random.Random(0)
    lower = dict.fromkeys(letters, False)
    for number in itertools.count():
        await asyncio.sleep(draw.uniform(0, 2))
        letter = draw.choice(letters)
        if number % 3 == 0:
            await client.post(f"/admin/models/{letter}/unload")
            continue
        lower[letter] = not lower[letter]
        version = letter.lower() if lower[letter] else letter
        await asyncio.to_thread(_serve_models.write_weights, folder / letter, version)
        answer = await client.post(f"/admin/models/{letter}/swap")
        if answer.status_code != 200:
            tally.faults.append(f"swap of {letter}: {answer.text}")
            continue
        answer = await client.post("/v1/completions", json={"model": letter, "prompt": "x", "max_tokens": 3})
        if answer.status_code != 200 or answer.json()["choices"][0]["text"] != version * 3:
            tally.faults.append(f"after the swap of {letter} to {version}: {answer.text}")
