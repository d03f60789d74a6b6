"""Models in memory: loaded on demand, evicted by least recent use, and reloaded without dropping requests."""

import asyncio
import random

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")

from helpers.serving import CountingEngine, Models, configured, loaded

from serving import registry as registries
from serving.registry import Registry, State, Unavailable, UnknownModel


def opened(models: Models, *, memory_bytes: int = 10**9, load: str = "first_use", **options) -> Registry:
    loader = models.loader(memory_bytes)
    options = {"load_timeout": 5, "max_waiting": 100, "note": lambda text: None} | options
    return Registry(
        configured(*models.models, load=load).models, load=loader.load, estimate=loader.estimate,
        newest_step=loader.newest_step, memory_bytes=memory_bytes, **options,
    )  # fmt: skip


def made(*keys: str, seconds: float = 0.0) -> Models:
    return Models(**{key: (lambda key=key: loaded(key, CountingEngine(seconds=seconds))) for key in keys})


def run(work):
    return asyncio.run(asyncio.wait_for(work, 30))


def states(registry: Registry) -> dict[str, State]:
    return {key: entry.state for key, entry in registry.entries.items()}


async def ask(registry: Registry, key: str) -> str:
    async with registry.use(key) as model:
        return model.key


def test_a_model_is_loaded_at_its_first_use_and_once():
    async def work():
        models = made("a", "b")
        registry = opened(models)
        assert set(states(registry).values()) == {State.UNLOADED}
        assert await asyncio.gather(*(ask(registry, "a") for _ in range(20))) == ["a"] * 20
        assert models.loads == ["a"]
        assert states(registry) == {"a": State.READY, "b": State.UNLOADED}
        with pytest.raises(UnknownModel):
            await ask(registry, "c")

    run(work())


def test_the_least_recently_used_that_is_idle_is_evicted():
    async def work():
        models, events = made("a", "b", "c", "d"), []
        registry = opened(models, memory_bytes=300, on_event=lambda event, key: events.append((event, key)))
        for key in "abcab":
            await ask(registry, key)
        async with registry.use("c"):
            await ask(registry, "a")
            await ask(registry, "d")  # c is in use, and b was used less recently than a
        assert ("eviction", "b") in events
        assert states(registry) == {"a": "ready", "b": "unloaded", "c": "ready", "d": "ready"}
        assert registry.used_bytes == 300

    run(work())


def test_a_model_in_use_is_drained_before_it_is_evicted_and_comes_back():
    async def work():
        registry = opened(made("a", "b"), memory_bytes=100)
        async with registry.use("a") as model:
            other = asyncio.create_task(ask(registry, "b"))
            await asyncio.sleep(0.05)
            assert states(registry)["a"] == State.DRAINING
            assert not model.engine.is_closed
            again = asyncio.create_task(ask(registry, "a"))  # waits for the next load instead of jumping the queue
            await asyncio.sleep(0.05)
        assert await other == "b"
        assert await again == "a"
        assert model.engine.is_closed

    run(work())


def test_a_model_larger_than_the_budget_says_so_and_harms_no_other():
    async def work():
        registry = opened(made("a"), memory_bytes=99)
        with pytest.raises(Unavailable, match="needs 100 bytes, but memory_bytes is 99"):
            await ask(registry, "a")

    run(work())


def test_a_model_that_fails_says_why_and_is_tried_again_later(monkeypatch):
    async def work():
        models = Models(a=loaded("a"), b="b.json: no such file")
        registry = opened(models)
        for _ in range(3):
            with pytest.raises(Unavailable, match="no such file"):
                await ask(registry, "b")
        assert models.loads == ["b"]
        assert registry.entries["b"].describe()["error"] == "b.json: no such file"
        assert await ask(registry, "a") == "a"
        models.models["b"] = loaded("b")
        monkeypatch.setattr(registries, "RETRY_SECONDS", 0)
        assert await ask(registry, "b") == "b"

    run(work())


def test_all_problems_of_a_file_are_told():
    async def work():
        registry = opened(Models(b="b.json has 2 problems:\n  n_ctx: not a number\n  n_embd: missing"))
        with pytest.raises(Unavailable, match="2 problems: n_ctx: not a number n_embd: missing"):
            await ask(registry, "b")

    run(work())


def test_a_load_that_fails_unexpectedly_leaves_the_others_alone():
    async def work():
        models = Models(a=loaded("a"), b=lambda: {}["lost"])
        registry = opened(models)
        with pytest.raises(Unavailable, match="KeyError: 'lost'"):
            await ask(registry, "b")
        assert states(registry)["b"] is State.FAILED
        assert await ask(registry, "a") == "a"

    run(work())


def test_a_swap_drops_no_request():
    async def work():
        step = iter(range(1, 10))
        models = Models(a=lambda: loaded("a", step=next(step)))
        registry = opened(models)
        async with registry.use("a") as old:
            assert await registry.request("swap", "a") == ""
            async with registry.use("a") as new:
                assert (old.step, new.step) == (1, 2)
                assert not old.engine.is_closed
                assert registry.used_bytes == 200
        while registry.used_bytes > 100:
            await asyncio.sleep(0.01)
        assert old.engine.is_closed
        assert not new.engine.is_closed

    run(work())


def test_a_swap_without_room_for_both_loads_after_the_old_one():
    async def work():
        step = iter(range(1, 10))
        registry = opened(Models(a=lambda: loaded("a", step=next(step))), memory_bytes=150)
        await ask(registry, "a")
        assert await registry.request("swap", "a") == ""
        async with registry.use("a") as new:
            assert new.step == 2

    run(work())


def test_a_swap_to_a_checkpoint_that_cannot_be_read_keeps_the_old_one():
    async def work():
        models = made("a")
        registry = opened(models)
        await ask(registry, "a")
        models.models["a"] = "damaged"
        assert await registry.request("swap", "a") == "damaged"
        assert await ask(registry, "a") == "a"

    run(work())


def test_newer_checkpoints_are_swapped_in():
    async def work():
        models = Models(a=lambda: loaded("a", step=models.newest["a"]))
        models.newest["a"] = 1
        registry = opened(models)
        await ask(registry, "a")
        poll = asyncio.create_task(registry.poll(0.01))
        models.newest["a"] = 5
        while registry.entries["a"].version.model.step != 5:
            await asyncio.sleep(0.01)
        poll.cancel()

    run(work())


def test_one_that_stops_waiting_for_a_load_leaks_nothing():
    async def work():
        registry = opened(made("a", "b"), memory_bytes=100)
        draw = random.Random(0)
        for _ in range(100):
            tasks = [asyncio.create_task(ask(registry, draw.choice("ab"))) for _ in range(8)]
            await asyncio.sleep(draw.random() * 0.003)
            for task in draw.sample(tasks, 4):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert all(entry.version is None or not entry.version.in_use for entry in registry.entries.values())
        assert not any(entry.waiting for entry in registry.entries.values())

    run(work())


def test_an_engine_that_has_failed_is_given_up(monkeypatch):
    async def work():
        models = made("a")
        registry = opened(models)
        async with registry.use("a") as model:
            model.engine.error = "the device is gone"
        with pytest.raises(Unavailable, match="the device is gone"):
            await ask(registry, "a")
        monkeypatch.setattr(registries, "RETRY_SECONDS", 0)
        assert await ask(registry, "a") == "a"

    run(work())


def test_only_an_administrator_loads_a_model_on_request():
    async def work():
        registry = opened(made("a"), load="request")
        with pytest.raises(Unavailable, match="administrator"):
            await ask(registry, "a")
        assert await registry.request("load", "a") == ""
        assert await ask(registry, "a") == "a"
        assert await registry.request("unload", "a") == ""
        assert states(registry) == {"a": State.UNLOADED}

    run(work())


def test_closing_refuses_who_waits_and_who_comes():
    async def work():
        registry = opened(made("a", "b"), memory_bytes=100)
        async with registry.use("a") as model:
            waiting = asyncio.create_task(ask(registry, "b"))
            await asyncio.sleep(0.05)
            await registry.close(0)
            with pytest.raises(Unavailable, match="shutting down"):
                await waiting
            with pytest.raises(Unavailable, match="shutting down"):
                await ask(registry, "a")
        assert model.engine.is_closed

    run(work())
