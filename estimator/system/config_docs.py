"""Generates documentation of the configuration keys: JSON Schema for editors, Markdown for readers."""

import json
from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from estimator.config import Section


def json_schema(sections: Sequence[type[Section]]) -> dict[str, Any]:
    """JSON Schema of a configuration file."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for section in sections:
        schema = section.model_json_schema()
        properties |= schema["properties"]
        required += schema.get("required", [])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "GPT-2 training configuration",
        "type": "object",
        "properties": {"$schema": {"type": "string"}, **properties},
        "required": required,
        "additionalProperties": False,
    }


def markdown(sections: Sequence[type[Section]]) -> str:
    """Markdown reference of all keys, one table per section."""
    parts = []
    for section in sections:
        title, _, _ = (section.__doc__ or section.__name__).partition("\n")
        rows = [
            f"| `{key}` | {_cell(_default(field))} | {_cell(_meaning(field))} |"
            for key, field in section.model_fields.items()
        ]
        parts.append("\n".join([f"## {title.rstrip('.')}", "", "| key | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _meaning(field: FieldInfo) -> str:
    """The description, and the strings to choose from where the type gives several."""
    parts = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else [field.annotation]
    literals = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    names = [f"`{value}`" for value in literals if isinstance(value, str)]
    return f"{field.description}; one of {', '.join(names)}" if len(names) > 1 else str(field.description)


def _cell(text: str) -> str:
    """Escapes the character that would end a cell of a table."""
    return text.replace("|", r"\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.get_default(call_default_factory=True))}`"
