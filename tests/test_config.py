"""The reader of JSON files: every problem at once, each with its fix."""

import json

import pytest
from pydantic import Field, model_validator

from runtime.config import Problem, Section, divide, read, resolved
from runtime.errors import UserError
from runtime.reference import json_schema, markdown


class Engine(Section):
    """Engine."""

    power: int = Field(gt=0, description="in watts")
    ratio: float = Field(0.5, description="of the gears")
    label: str | None = Field(None, description="name plate")


class Wheels(Section):
    """Wheels."""

    wheels: int = Field(4, gt=0, description="number of wheels")
    driven: int = Field(2, description="wheels that the engine turns")

    @model_validator(mode="after")
    def _check(self) -> "Wheels":
        if self.driven > self.wheels:
            raise Problem("driven", f"{self.driven} is more than the {self.wheels} wheels; write at most {self.wheels}")
        return self


SECTIONS = [Engine, Wheels]


def write(tmp_path, text: str):
    path = tmp_path / "car.json"
    path.write_text(text)
    return path


def test_each_key_goes_to_its_owner_with_defaults(tmp_path):
    engine, wheels = divide(read(write(tmp_path, '{"power": 3, "wheels": 6}')), SECTIONS, source="car.json")
    assert (engine.power, engine.ratio, wheels.wheels, wheels.driven) == (3, 0.5, 6, 2)
    assert resolved([engine, wheels]) == {"power": 3, "ratio": 0.5, "label": None, "wheels": 6, "driven": 2}


def test_all_problems_are_told_at_once():
    values = {"powr": 1, "ratio": "0.5", "wheels": 2, "driven": 3, "label": 7}
    with pytest.raises(UserError) as error:
        divide(values, SECTIONS, source="car.json")
    text = str(error.value)
    for part in (
        "car.json has 5 problems:",
        "powr: no such key; did you mean power?",
        "power: missing; in watts",
        'ratio: input should be a valid number, but it is "0.5"; write it without quotes',
        "label: input should be a valid string, but it is 7",
        "driven: 3 is more than the 2 wheels; write at most 2",
    ):
        assert part in text


@pytest.mark.parametrize("value", [True, 1.5, "1", None, [1], -1])
def test_types_are_strict(value):
    with pytest.raises(UserError, match="power"):
        divide({"power": value}, SECTIONS, source="x")


def test_whole_numbers_may_stand_for_fractions():
    assert divide({"power": 1, "ratio": 2}, SECTIONS, source="x")[0].ratio == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"power": 3,}', "line 1, column 1[23]"),
        ('{"power": 3, "power": 4}', "power: written twice"),
        ("[1]", "should hold one JSON object"),
    ],
)
def test_bad_json_is_located(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, text))


def test_a_missing_file_is_named_with_a_near_one(tmp_path):
    write(tmp_path, "{}")
    with pytest.raises(UserError, match=r"no such file; did you mean .*car\.json"):
        read(tmp_path / "cars.json")
    with pytest.raises(UserError, match="not a JSON text file"):
        read(tmp_path)


def test_overrides_are_json_or_else_strings(tmp_path):
    path = write(tmp_path, '{"power": 3}')
    values = read(path, ["power=5", "ratio=1e-3", "label=a=b", "wheels=null", 'x={"y": 1}'])
    assert values == {"power": 5, "ratio": 1e-3, "label": "a=b", "wheels": None, "x": {"y": 1}}
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        read(path, ["power"])


def test_schema_and_reference_have_every_key():
    schema = json_schema(SECTIONS)
    assert set(schema["properties"]) == {"$schema", "power", "ratio", "label", "wheels", "driven"}
    assert schema["required"] == ["power"]
    json.dumps(schema)
    assert "| `power` | required | in watts |" in markdown(SECTIONS)
    assert "| `ratio` | `0.5` | of the gears |" in markdown(SECTIONS)
