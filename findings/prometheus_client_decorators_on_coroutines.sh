#!/usr/bin/env bash
# prometheus_client 0.26.0: on an async function, @histogram.time() measures a microsecond and count_exceptions counts none.
#
# Expected: the decorators measure the calls of the function they are put on: time() the seconds, track_inprogress() the
#   calls that run, count_exceptions() those that raise, as they do for other functions; or they refuse such a function.
# Observed: calling an async function only makes a coroutine, and that is what is measured. A call of 0.2 s is observed
#   as 1 us, all in the lowest bucket; the gauge is back at its old value before the body begins; exceptions pass
#   uncounted. _count is right, so the panels look alive. Generators that stream an answer are the same. Used as
#   `with histogram.time():` inside of the function all three are right. README and docstrings show both forms and say
#   nothing of async; only the tracker does, since 2015 (prometheus/client_python#48, #535).
# Why it matters: handlers of FastAPI, aiohttp and Starlette are async functions. The latency of a server of GPT-2 is
#   reported as zero, its queue as empty and its error rate as 0 %, so that the alarms on them stay silent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q prometheus-client==0.26.0
"$folder/venv/bin/python" - <<'PY'
import asyncio
import contextlib
import time
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

print("prometheus_client", version("prometheus_client"))
SECONDS = 0.2
registry = CollectorRegistry()
latency = Histogram("latency", "seconds", ["kind"], registry=registry)
running = Gauge("running", "calls", ["kind"], registry=registry)
errors = Counter("errors", "exceptions", ["kind"], registry=registry)
seen = {}


def observed(kind: str) -> tuple[float, float, float, float]:
    """The number of calls, their seconds, how many ran meanwhile, and how many raised."""
    names = "latency_count", "latency_sum", "errors_total"
    count, seconds, failed = (registry.get_sample_value(name, {"kind": kind}) for name in names)
    print(f"{kind}: {count:.0f} call of {seconds:.6f} s, running meanwhile {seen[kind]:.0f}, exceptions {failed:.0f}")
    return count, seconds, seen[kind], failed


def body(kind: str) -> None:
    """What all functions do."""
    seen[kind] = registry.get_sample_value("running", {"kind": kind})
    raise ValueError("no such model")


def decorated(kind: str, function: object) -> object:
    """The function with all three decorators."""
    counted = errors.labels(kind).count_exceptions()(function)
    return latency.labels(kind).time()(running.labels(kind).track_inprogress()(counted))


def plain() -> None:
    time.sleep(SECONDS)
    body("function")


async def handler() -> None:
    await asyncio.sleep(SECONDS)
    body("async function")


def stream():
    yield "first"
    time.sleep(SECONDS)
    body("generator")


async def within() -> None:
    kind = "with"
    with latency.labels(kind).time(), running.labels(kind).track_inprogress(), errors.labels(kind).count_exceptions():
        await asyncio.sleep(SECONDS)
        body(kind)


with contextlib.suppress(ValueError):
    decorated("function", plain)()
with contextlib.suppress(ValueError):
    asyncio.run(decorated("async function", handler)())
with contextlib.suppress(ValueError):
    list(decorated("generator", stream)())
with contextlib.suppress(ValueError):
    asyncio.run(within())
for kind in ("function", "with"):
    count, seconds, calls, failed = observed(kind)
    assert count == 1 and seconds >= SECONDS and calls == 1 and failed == 1
for kind in ("async function", "generator"):
    count, seconds, calls, failed = observed(kind)
    assert count == 1 and seconds < SECONDS / 10 and calls == 0 and failed == 0, "the behavior has changed"
PY
