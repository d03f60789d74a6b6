#!/usr/bin/env bash
# cattrs 26.2.1 and mashumaro 3.23: structuring {"resume": "false", "layers": 3.7} gives resume=True and layers=3.
#
# Expected: an error, as for "layers": "many", or False for "false". The types are declared, and both libraries are
#   used to check what a file or an environment variable has against them.
# Observed: the declared type is called with the value: bool("false") and bool("0") are True, int(3.7) is 3, and
#   str(1.10) is "1.1". cattrs makes "None" of a null for a str. Pydantic 2.14.4 reads "false" as False and refuses
#   3.7 for an int; msgspec 0.23.0 refuses both. cattrs documents that primitives are converted by calling them.
# Why it matters: environment variables, forms and query strings are texts. A run that must not resume, or must not
#   push its model, does; a model of 3.7 layers, a mistake for 37, is trained with 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q cattrs==26.2.1 mashumaro==3.23 pydantic==2.14.4 \
  msgspec==0.23.0
"$folder/venv/bin/python" - <<'PY'
import dataclasses
from importlib.metadata import version

import cattrs
import msgspec
import pydantic
from mashumaro import DataClassDictMixin

print({name: version(name) for name in ("cattrs", "mashumaro", "pydantic", "msgspec")})


@dataclasses.dataclass
class Run(DataClassDictMixin):
    resume: bool
    layers: int
    name: str


config = {"resume": "false", "layers": 3.7, "name": 1.10}
for library, read in (("cattrs", lambda values: cattrs.structure(values, Run)), ("mashumaro", Run.from_dict)):
    found = read(config)
    print(f"{library}: {config} is {found}")
    assert found == Run(resume=True, layers=3, name="1.1"), "the behavior has changed"
    assert read(config | {"resume": "0"}).resume is True, "the behavior has changed"
    try:
        read(config | {"layers": "many"})
    except Exception as error:
        print(f"{library}, layers 'many': {type(error).__name__}")
    else:
        raise SystemExit("the behavior has changed")
assert cattrs.structure(config | {"name": None}, Run).name == "None", "the behavior has changed"
assert pydantic.TypeAdapter(bool).validate_python("false") is False
refused = 0
for convert in (
    lambda: pydantic.TypeAdapter(int).validate_python(3.7),
    lambda: msgspec.convert("false", bool),
    lambda: msgspec.convert(3.7, int),
):
    try:
        convert()
    except (pydantic.ValidationError, msgspec.ValidationError):
        refused += 1
assert refused == 3
PY
