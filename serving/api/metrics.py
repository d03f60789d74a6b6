"""Measurements for Prometheus: what GET /metrics answers."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.registry import Registry, State

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        own = self._own = CollectorRegistry()
        self.requests = Counter("gpt2_requests", "answers by route and status", ["route", "status"], registry=own)
        self.request_seconds = Histogram(
            "gpt2_request_seconds", "whole request", ["route"], buckets=SECONDS, registry=own
        )
        self.first_token = Histogram(
            "gpt2_first_token_seconds", "until the first token", ["model"], buckets=SECONDS, registry=own
        )
        self.token = Histogram(
            "gpt2_token_seconds", "per token after the first", ["model"], buckets=SECONDS, registry=own
        )
        self.prompt_tokens = Counter("gpt2_prompt_tokens", "tokens of prompts", ["model"], registry=own)
        self.completion_tokens = Counter("gpt2_completion_tokens", "tokens of answers", ["model"], registry=own)
        self.ended = Counter("gpt2_generations", "by outcome: done, error, gone", ["model", "outcome"], registry=own)
        self.events = Counter("gpt2_model_events", "load, failure, eviction, swap", ["event", "model"], registry=own)

    def watch(self, registry: Registry) -> None:
        """Adds the registry's and its engines' states, read when they are asked for."""
        self._own.register(_States(registry))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._own)


class _States(Collector):
    def __init__(self, registry: Registry):
        self._registry = registry

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("gpt2_model_state", "1 for the state that a model is in", labels=["model", "state"])
        gauges = {
            name: GaugeMetricFamily(f"gpt2_{name}", text, labels=["model"])
            for name, text in {
                "model_bytes": "memory of a loaded model", "queued": "requests that wait for a slot",
                "running": "requests that are decoded", "slots": "requests that can be decoded together",
                "waiting": "requests that wait for the model to be loaded",
                "prefix_bytes": "keys and values held for common beginnings",
            }.items()
        }  # fmt: skip
        for key, entry in self._registry.entries.items():
            for each in State:
                state.add_metric([key, each], float(entry.state is each))
            gauges["waiting"].add_metric([key], len(entry.waiting))
            if version := entry.version:
                stats = version.model.engine.stats()
                gauges["model_bytes"].add_metric([key], version.nbytes)
                for name in ("queued", "running", "slots", "prefix_bytes"):
                    gauges[name].add_metric([key], getattr(stats, name))
        budget = GaugeMetricFamily("gpt2_memory_budget_bytes", "of all models", value=self._registry.memory_bytes)
        return iter([state, budget, *gauges.values()])
