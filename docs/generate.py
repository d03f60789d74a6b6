"""Writes docs/configuration.md and configs/schema.json from the dataclasses that own the keys of a JSON file."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from estimator.corpus import conversations
from estimator.data.config import InputConfig
from estimator.generation.completion import PredictionConfig
from estimator.system import config_docs
from estimator.training.run_config import RunConfig
from models import MODELS
from optimizers import OptimizerConfig
from serving.config import ModelEntry, ServerConfig


def generated() -> dict[Path, str]:
    """The text of each generated file."""
    sections = [MODELS["GPT2"].Config, OptimizerConfig, InputConfig, RunConfig, PredictionConfig]
    server = config_docs.markdown([ServerConfig, ModelEntry]).replace("## ", "### ")
    return {
        **_with_part(ROOT / "docs" / "chat.md", "forms", conversations.markdown()),
        **_with_part(ROOT / "docs" / "serving.md", "keys", f"{server}\n"),
        **_with_part(ROOT / "docs" / "configuration.md", "keys", f"\n{config_docs.markdown(sections)}\n"),
        ROOT / "configs" / "schema.json": json.dumps(_or_a_budget(config_docs.json_schema(sections)), indent=2) + "\n",
    }


def _or_a_budget(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of files that have the required keys, or a budget, which chooses them."""
    choices = [{"required": schema["required"]}, {"required": ["model_path", "budget"]}]
    return {key: value for key, value in schema.items() if key != "required"} | {"anyOf": choices}


def _with_part(path: Path, name: str, part: str) -> dict[Path, str]:
    """A document with a new text between <!-- NAME --> and <!-- end of NAME -->."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = path.read_text(encoding="utf-8").partition(begin)
    return {path: f"{head}{begin}\n{part}{end}{rest.partition(end)[2]}"}


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
