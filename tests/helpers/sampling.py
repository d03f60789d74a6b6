"""Generates text with a tiny model."""

from models.gpt2.decode.sampler import Settings


def generate(sampler, prompts, settings, **options):
    rows = [[] for _ in prompts]
    options = {"seed": 0, "stopped": set()} | options
    for chunk in sampler.stream(prompts, settings=settings, **options):
        for row, new in zip(rows, chunk, strict=True):
            row.extend(new)
    return rows


GREEDY = Settings(temperature=0.0)
