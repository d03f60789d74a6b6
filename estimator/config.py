"""Reads and validates the JSON configuration.

Every key belongs to exactly one `Section` (model, optimizer, input, run, prediction). All problems of a file are
reported in one message, each with its fix. Later code reads sections, never dicts.
"""

import difflib
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo
from pydantic.fields import FieldInfo

from estimator import invocation, json_advice, json_text, key_synonyms, storage
from estimator.errors import UserError
from estimator.quantities import numbered
from estimator.storage import user_paths

MAX_DEPTH = 20  # levels of brackets in a JSON file
MAX_INTEGER = 2**31 - 1  # default upper limit: devices count steps and sizes in 32 bits
SURE = 0.7  # least similarity of another program's key whose value is taken over


class Section(BaseModel):
    """Base of the sections: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def function(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a model's values that say which function it computes of weights of the same shapes."""
        return {}

    def conflicts(self) -> Iterator["ConfigError"]:
        """Yields the faults of keys that are valid alone but not together, each with its fix."""
        yield from ()

    @pydantic.model_validator(mode="after")
    def _check_conflicts(self) -> "Section":
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, Section)]
        if found := [problem for kind in kinds if "conflicts" in vars(kind) for problem in kind.conflicts(self)]:
            raise ConfigErrors(found)
        return self

    def __hash__(self) -> int:  # pydantic's fails for keys that are lists or dicts; programs are compiled by section
        return hash(self.model_dump_json())


class ConfigError(ValueError):
    """What is wrong with a key, and the fix."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")


class ConfigErrors(ValueError):
    """Several of them."""

    def __init__(self, problems: Sequence[ConfigError]):
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


def _path_value(value: object, info: ValidationInfo) -> object:
    """`user_paths.expanded` for a path or the paths in a list; other values stay as they are."""
    try:
        return _expanded(value)
    except ValueError as error:
        raise ConfigError(str(info.field_name), str(error)) from None


def _expanded(value: object) -> object:
    if isinstance(value, str):
        return user_paths.expanded(value)
    return [_expanded(item) for item in value] if isinstance(value, list) else value


UserPaths = BeforeValidator(_path_value)  # annotates a key that names files


def file_of(path: str | Path) -> str:
    """The JSON file that a path names, which may be the folder of a run."""
    path = user_paths.config_file(str(path))
    own = os.path.join(path, "config.json")
    return own if os.path.isfile(own) else path


def read(
    path: str | Path,
    overrides: Sequence[str] = (),
    adapt: Callable[[dict[str, Any], str], dict[str, Any]] = lambda values, path: values,
) -> dict[str, Any]:
    """Reads a JSON file, or a run's folder, and applies KEY=VALUE overrides.

    VALUE is parsed as JSON or else taken as a string: lr=0.001, mesh={"data": 4}, model_path=runs/a.
    adapt: (keys, path) -> keys, before the overrides.
    """
    try:
        path = file_of(path)
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder{_near_file(Path(path))}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a JSON file, or a folder with a config.json") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as in UTF-16
        name = "name one, or a run's folder; weights are named by the key init_from in it"
        fix = "save it as one" if b"{" in data.lstrip()[:4] else name
        raise UserError(f"{path} is not a JSON text file in UTF-8; {fix}")
    try:
        values = _parse(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        if not text.lstrip().startswith(("{", "[")) and not str(path).endswith(".json"):
            advice = 'name one with {"KEY": VALUE, ...}, such as configs/tiny.json'
            raise UserError(f"{path} is no JSON file; {advice}") from None
        raise UserError(f"{where}: not valid JSON: {json_advice.of_syntax(text, error) or error.msg}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f'{path} should hold one JSON object: {{"n_layer": 12, ...}}')
    folder, name = os.path.split(path)
    if name == "config.json" and "model_type" in values:
        ours = ((key_synonyms.SYNONYMS.get(key, key), value) for key, value in values.items())
        sizes = {key: value for key, value in ours if key in ("n_layer", "n_embd", "n_head", "n_ctx", "n_vocab")}
        keys = json.dumps({**sizes, "init_from": folder or "."})[1:-1]
        raise UserError(f"{path} is of a model in Hugging Face's format, no run; name it in a JSON file: {keys}")
    values.pop("$schema", None)  # names the schema to editors
    values = adapt(values, str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: expected KEY=VALUE, as in --set lr=0.001")
        try:
            values[key.strip()] = _parse(value)
        except json.JSONDecodeError:
            values[key.strip()] = value
        except ValueError as error:
            raise UserError(f"--set {key}: {error}") from None
    return values


def _parse(text: str) -> Any:
    """Parses JSON. Raises ValueError for repeated keys, deep nesting and overlong numbers."""
    try:
        values = json.loads(text, object_pairs_hook=_no_repeats)
    except RecursionError:
        raise ValueError("nested too deeply; keys hold numbers, strings and short lists") from None
    except json.JSONDecodeError:
        raise
    except ConfigError:
        raise
    except ValueError:  # of Python's limit of digits
        raise ValueError("a number has thousands of digits; write a smaller one") from None
    layer = [values]
    for _ in range(MAX_DEPTH):
        layer = [item for value in layer if isinstance(value, list | dict) for item in _items(value)]
    if layer:
        raise ValueError("nested too deeply; keys hold numbers, strings and short lists")
    return values


def _items(value: list[Any] | dict[str, Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ConfigError(key, "written twice; keep one")
        values[key] = value
    return values


def _near_file(path: Path) -> str:
    """ "; did you mean FILE?" for a JSON file or a run's folder of a similar name, there or in configs/, or ""."""
    folders = [path.parent] if path.parent.is_dir() else []
    folders += [Path("configs")] if not folders or path.name == str(path) else []
    own = [file.relative_to(invocation.ROOT) for file in Path(invocation.ROOT, "configs").glob("*.json")]
    files = own if not folders or Path("configs") in folders else []
    files += [file for folder in folders for file in folder.glob("*.json")]
    files += [file.parent for folder in folders for file in folder.glob("*/config.json")]
    names = {file.name.removesuffix(".json"): file for file in reversed(files)}
    near = difflib.get_close_matches(path.name.removesuffix(".json"), names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""


def parse_sections(
    values: dict[str, Any],
    sections: Sequence[type[Section]],
    *,
    source: str | Path,
    typed: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, str] = MappingProxyType({}),
    also: Sequence[str] = (),
) -> list[Any]:
    """Builds each section from its keys. Raises one UserError that lists every problem.

    source, typed, files: as for `located`. also: problems that are known already.
    """
    owners = {key: section for section in sections for key in section.model_fields}
    assert len(owners) == sum(len(section.model_fields) for section in sections), "two sections own the same key"
    problems = [f"{key}: no such key{advice(key, value, owners)}" for key, value in values.items() if key not in owners]
    problems += also
    filled = []
    for section in sections:
        own = {key: value for key, value in values.items() if owners.get(key) is section}
        refused = {}
        for key, value in own.items():
            try:
                own[key] = _integer(key, value, section.model_fields[key])
                _require_whole(key, value, section.model_fields[key])
            except ConfigError as problem:
                refused[key], own[key] = str(problem), None
        problems += refused.values()
        try:
            filled.append(section(**own))
        except pydantic.ValidationError as error:
            problems += [line for line in described(error, section) if line.partition(":")[0] not in refused]
    if problems:
        raise located(source, problems, typed=typed, files=files)
    return filled


def faults_of_value(section: type[Section], key: str, value: Any) -> list[str]:
    """A line for each problem that a value of a key has whatever the other keys are."""
    try:
        value = _integer(key, value, section.model_fields[key])
        _require_whole(key, value, section.model_fields[key])
        section(**{key: value})
    except ConfigError as problem:
        return [str(problem)]
    except pydantic.ValidationError as error:
        own = [problem for problem in error.errors() if problem["loc"][:1] == (key,)]
        return [line for problem in own for line in _describe(problem, section)]
    return []


def described(error: pydantic.ValidationError, section: type[Section]) -> list[str]:
    """A line for each problem of a section's keys, with its fix."""
    return [line for problem in error.errors() for line in _describe(problem, section)]


def located(
    source: str | Path,
    problems: Sequence[str],
    *,
    typed: Mapping[str, str],
    files: Mapping[str, str] = MappingProxyType({}),
) -> UserError:
    """`faulty`, naming for each problem the place where its key is written.

    source: the file. typed: how keys that the command line sets are written there, such as --set lr. files: of keys
    that are in other files, their names.
    """
    keys = [problem.partition(":")[0] for problem in problems]
    in_files = list(dict.fromkeys(files.get(key, str(source)) for key in keys if key not in typed))
    if not in_files:
        named, also = "the command line", []
    else:
        named = in_files[0] if len(in_files) == 1 else str(source)
        also = [file for file in in_files if file != named] + ["the command line"] * bool(typed)
    written = dict(typed)
    if len(in_files) > 1:
        written = {key: f"{files.get(key, source)}: {key}" for key in keys} | written
    lines = [written.get(key, key) + line.removeprefix(key) for key, line in zip(keys, problems, strict=True)]
    return faulty(f"{named} with the keys of {' and '.join(also)}" if also else named, lines)


def faulty(source: str | Path, problems: Sequence[str]) -> UserError:
    """An error that lists the problems of a file."""
    noun = "a problem" if len(problems) == 1 else numbered(len(problems), "problem")
    return UserError(f"{source} has {noun}:\n" + "\n".join(f"  {problem}" for problem in problems))


def _integer(key: str, value: Any, field: FieldInfo) -> Any:
    """1e5 as 100000 where the key takes integers; raises ConfigError for integers out of range."""
    kinds = set(_members(field.annotation))
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        value = int(value)
    has_limit = any(hasattr(limit, "le") or hasattr(limit, "lt") for limit in field.metadata)
    if type(value) is int and int in kinds and not has_limit and value > MAX_INTEGER:
        raise ConfigError(key, f"{short(value)} is too large; write at most {MAX_INTEGER:,}")
    if type(value) is int and abs(value) > sys.float_info.max:  # as a fraction it would be infinite
        raise ConfigError(key, f"{short(value)} is too large")
    return value


def _require_whole(key: str, value: Any, field: FieldInfo) -> None:
    """Raises ConfigError for half a character, which no file and no tokenizer can take; names of files may be so."""
    if UserPaths in field.metadata:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            key, f"{short(value)} has half a character, \\ud800 to \\udfff; write the whole one"
        ) from None


def _members(annotation: Any) -> list[Any]:
    """Member types of a union; the type itself otherwise."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in _members(part)]
    return [annotation]


def short(value: Any) -> str:
    """A value as JSON, or its beginning."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:60]} ... ({len(text):,} characters)"


def advice(key: str, value: Any, known: Iterable[str]) -> str:
    """Suggests a replacement for an unknown key: another program's name for it, or a similar spelling of either."""
    if instead := key_synonyms.hint(key, value):
        return f"; write {instead}"
    known = list(known)
    near = _nearest(key, [*key_synonyms.NAMES, *known])
    if near not in known and not difflib.get_close_matches(key.lower(), [near], cutoff=SURE):
        return did_you_mean(key, known)
    instead = key_synonyms.hint(near, value)
    return f"; did you mean {near}? write {instead}" if instead else did_you_mean(key, [near])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean KNOWN?" or ""."""
    near = _nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def _nearest(word: str, known: Iterable[str]) -> str:
    """The known name with the most similar spelling, or ""."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.6)
    return names[near[0]] if near else ""


def _describe(problem: Any, section: type[Section]) -> list[str]:
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigErrors):
        return list(map(str, cause.problems))
    if isinstance(cause, ConfigError):
        return [str(cause)]
    key = str(problem["loc"][0]) if problem["loc"] else "?"
    if problem["type"] == "extra_forbidden":
        return [f"{key}: no such key{did_you_mean(key, section.model_fields)}"]
    if problem["type"] == "missing":
        return [f"{key}: missing; {section.model_fields[key].description}"]
    given = short(problem["input"])
    message = problem["msg"][0].lower() + problem["msg"][1:]
    advice = ""
    if any(kind in message for kind in ("number", "integer", "boolean")) and _is_json(problem["input"]):
        advice = "; write it without quotes"
    elif problem["type"] == "greater_than" and (without := _meaning_of_null(section, key)):
        advice = f"; or write null: {without}"
    elif "valid boolean" in message:
        advice = "; write true or false"
    elif key == "dataset":
        advice = f"; write [[{given}, 1.0]]"
    elif "valid list" in message:
        advice = f"; write [{given}]"
    elif "valid dictionary" in message:
        advice = '; write an object, {"KEY": VALUE}'
    return [f"{key}: {message}, but it is {given}{advice}"]


def _meaning_of_null(section: type[Section], key: str) -> str:
    """What the description of a key says that null means, or ""."""
    found = re.search(r"\bnull(?: is|:)? ([^;]*)", section.model_fields[key].description or "")
    return found[1] if found else ""


def _is_json(text: object) -> bool:
    """Whether a value is a string that holds another one, as "0.1" does."""
    try:
        return isinstance(text, str) and not isinstance(json_text.loads(text), str)
    except ValueError:
        return False


def resolved(sections: Sequence[Section], *, defaults: bool = True) -> dict[str, Any]:
    """All keys with their values, as stored in a run's config.json. defaults: also those that are at their default."""
    dumps = [section.model_dump(mode="json", exclude_defaults=not defaults) for section in sections]
    return {key: value for values in dumps for key, value in values.items()}
