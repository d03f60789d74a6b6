"""Config parsing: all errors are reported together, each with a suggested fix."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Literal

import pytest
from conftest import ROOT
from pydantic import Field

from estimator import key_synonyms
from estimator.config import ConfigError, Section, UserPaths, parse_sections, read, resolved
from estimator.errors import UserError
from estimator.system.config_docs import json_schema, markdown
from estimator.training.run_config import RunConfig


class Engine(Section):
    """Engine."""

    power: int = Field(gt=0, description="in watts")
    ratio: float = Field(0.5, description="of the gears")
    label: str | None = Field(None, description="name plate")


class Wheels(Section):
    """Wheels."""

    wheels: int = Field(4, gt=0, description="number of wheels")
    driven: int = Field(2, description="wheels that the engine turns")

    def conflicts(self) -> Iterator[ConfigError]:
        if self.driven > self.wheels:
            yield ConfigError(
                "driven", f"{self.driven} is more than the {self.wheels} wheels; write at most {self.wheels}"
            )
        if self.wheels % 2:
            yield ConfigError("wheels", f"{self.wheels} is odd; write {self.wheels + 1}")


SECTIONS = [Engine, Wheels]


def write(tmp_path, text: str):
    path = tmp_path / "car.json"
    path.write_text(text)
    return path


def test_each_key_goes_to_its_owner_with_defaults(tmp_path):
    engine, wheels = parse_sections(read(write(tmp_path, '{"power": 3, "wheels": 6}')), SECTIONS, source="car.json")
    assert (engine.power, engine.ratio, wheels.wheels, wheels.driven) == (3, 0.5, 6, 2)
    assert resolved([engine, wheels]) == {"power": 3, "ratio": 0.5, "label": None, "wheels": 6, "driven": 2}


def test_all_conflicts_and_numbers_that_are_too_large_are_told():
    with pytest.raises(UserError, match=r"has 2 problems:\n  driven: 4 is more than.*\n  wheels: 3 is odd"):
        parse_sections({"power": 1, "wheels": 3, "driven": 4}, SECTIONS, source="car.json")
    with pytest.raises(UserError, match=r"has 2 problems:\n  wheels: 10000000000 is.*\n  driven: 10000000000 is"):
        parse_sections({"power": 1, "wheels": 10**10, "driven": 10**10}, SECTIONS, source="car.json")


def test_keys_of_the_command_line_are_named_as_they_are_written_there():
    typed = {"power": "--set power", "ratio": "--ratio"}
    with pytest.raises(UserError, match=r"^the command line has a problem:\n  --set power: input should"):
        parse_sections({"power": -1}, SECTIONS, source="car.json", typed=typed)
    with pytest.raises(
        UserError, match=r"^car.json with the keys of the command line has 2 .*\n  --ratio: .*\n  driven:"
    ):
        parse_sections({"power": 1, "ratio": "x", "driven": 9}, SECTIONS, source="car.json", typed=typed)


def test_keys_of_several_files_are_named_with_theirs():
    files, typed = {"power": "plan.json", "ratio": "plan.json"}, {"wheels": "--set wheels"}
    with pytest.raises(UserError, match=r"^plan.json has a problem:\n  power: input should"):
        parse_sections({"power": -1}, SECTIONS, source="car.json", files=files)
    with pytest.raises(UserError) as refused:
        parse_sections({"power": -1, "driven": 9, "wheels": 3}, SECTIONS, source="car.json", files=files, typed=typed)
    head, *lines = str(refused.value).split("\n")
    assert head == "car.json with the keys of plan.json and the command line has 3 problems:"
    assert [re.split(r":(?: |$)", line)[0].strip() for line in sorted(lines)] == [
        "--set wheels",
        "car.json",
        "plan.json",
    ]
    assert next(line for line in lines if "power" in line).startswith("  plan.json: power: input should")


def test_sections_are_hashable_whatever_their_keys_hold():
    class Mixed(Section):
        rates: dict[str, float] = Field({})
        names: list[str] = Field([])

    assert len({Mixed(rates={"a": 0.5}), Mixed(rates={"a": 0.5}), Mixed(names=["a"])}) == 2


def test_all_problems_are_told_at_once():
    values = {"powr": 1, "ratio": "0.5", "wheels": 2, "driven": 3, "label": 7}
    with pytest.raises(UserError) as error:
        parse_sections(values, SECTIONS, source="car.json")
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


class Gears(Section):
    """Gears."""

    gears: int | None = Field(None, gt=0, description="number of gears; null: no gears; by hand")
    belts: int | None = Field(None, gt=0, description="number of belts; null is one")
    teeth: int | None = Field(None, gt=0, description="of a gear")


@pytest.mark.parametrize(("key", "null"), [
    ("gears", "; or write null: no gears"), ("belts", "; or write null: one"), ("teeth", ""),
])  # fmt: skip
def test_where_zero_is_refused_null_is_named_with_its_meaning(key, null):
    for value in (0, -1):
        with pytest.raises(UserError, match=f"{key}: input should be greater than 0, but it is {value}{null}$"):
            parse_sections({key: value}, [Gears], source="x")


@pytest.mark.parametrize("key", ["max_tokens", "max_epochs", "save_steps", "save_minutes", "keep_every_steps"])
def test_periods_and_limits_of_zero_are_told_what_turns_them_off(key):
    values = {"model_path": "x", "train_batch_size": 1, "max_steps": 1, key: 0}
    with pytest.raises(UserError, match=f"{key}: .*, but it is 0; or write null: n"):
        parse_sections(values, [RunConfig], source="x")


def test_a_value_alone_is_shown_as_a_list_or_an_object():
    class Mixed(Section):
        """Mixed."""

        rates: dict[str, float] = Field({})
        names: list[str] = Field([])

    with pytest.raises(UserError) as error:
        parse_sections({"rates": 4, "names": "wandb"}, [Mixed], source="x")
    assert 'but it is "wandb"; write ["wandb"]' in str(error.value)
    assert 'but it is 4; write an object, {"KEY": VALUE}' in str(error.value)


@pytest.mark.parametrize("value", [True, 1.5, "1", None, [1], -1])
def test_types_are_strict(value):
    with pytest.raises(UserError, match="power"):
        parse_sections({"power": value}, SECTIONS, source="x")


def test_whole_numbers_may_stand_for_fractions():
    assert parse_sections({"power": 1, "ratio": 2}, SECTIONS, source="x")[0].ratio == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"power": 3,}', "line 1, column 1[23]"),
        ('{"power": 3, "power": 4}', "power: written twice"),
        ('{"power": 3\n,}', r"line 2, column \d: not valid JSON: a comma before the closing bracket"),
        ('{"power": 3, // watts\n}', r"line 1, column 14: not valid JSON: JSON has no comments"),
        ('{"power": 3 # watts\n}', "line 1, column 13: not valid JSON: JSON has no comments"),
        ("{'power': 3}", "column 2: not valid JSON: strings are written with double quotes"),
        ('{"power": True}', "True is Python's; write true"),
        ('{"power": ' + "[" * 100_000 + "}", "nested too deeply"),
        ('{"power": ' + "[" * 50 + "]" * 50 + "}", "nested too deeply"),
        ('{"power": ' + "9" * 5000 + "}", "thousands of digits"),
        ("[1]", "should hold one JSON object"),
        ("", "the file is empty"),
        ('{"power": 3,\n', "line 2, column 1: not valid JSON: the file ends here"),
        ('{"power": 3} {"power": 4}', "column 14: not valid JSON: more after the closing bracket"),
        ("{\u201cpower\u201d: 3}", "column 2: not valid JSON: strings are written with double quotes"),
        ('{\u00a0"power": 3}', "column 2: not valid JSON: .* is no part of JSON outside strings"),
    ],
)
def test_bad_json_is_located(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, text))


def test_a_file_in_another_encoding_than_utf_8_is_named(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (tmp_path / "car.json").write_bytes('{"power": 3}'.encode(encoding))
        with pytest.raises(UserError, match=r"car.json is not a JSON text file in UTF-8"):
            read(tmp_path / "car.json")


def test_weights_and_models_of_hugging_face_are_no_configuration(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0{")
    with pytest.raises(
        UserError, match=r"model\.gguf is not a JSON text file in UTF-8; name one, or a run's folder; wei"
    ):
        read(tmp_path / "model.gguf")
    (tmp_path / "hf").mkdir()
    values = {"model_type": "gpt2", "hidden_size": 8, "n_positions": 16, "n_ctx": 16, "vocab_size": 99, "n_inner": None}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(values))
    keys = f'"n_embd": 8, "n_ctx": 16, "n_vocab": 99, "init_from": "{tmp_path}/hf"'
    for path in (tmp_path / "hf", tmp_path / "hf" / "config.json"):
        with pytest.raises(UserError, match=rf"Hugging Face's format, no run; name it in a JSON file: {keys}$"):
            read(path)


def test_half_a_character_is_refused_but_in_names_of_files():
    class Named(Section):
        """Named."""

        names: list[str] = Field([])
        path: Annotated[str, UserPaths] = Field("")

    with pytest.raises(UserError, match=r"names: .* has half a character"):
        parse_sections({"names": ["\ud800"]}, [Named], source="x")
    assert parse_sections({"path": "a\udcff"}, [Named], source="x")[0].path == "a\udcff"


def test_a_missing_file_is_named_with_a_near_one(tmp_path, monkeypatch):
    write(tmp_path, "{}")
    with pytest.raises(UserError, match=r"no such file or folder; did you mean .*car\.json\?"):
        read(tmp_path / "cars.json")
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no such file or folder; did you mean .*a-run\?"):
        read(tmp_path / "a-runs")
    with pytest.raises(UserError, match=r"no such file or folder$"):
        read(tmp_path / "broom.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"configs/tinny\.json: no such file or folder; did you mean configs/tiny\.json\?"
    ):
        read("configs/tinny.json")
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"tinny: no such file or folder; did you mean configs/tiny\.json\?"):
        read("tinny")
    with pytest.raises(UserError, match=r"README\.md is no JSON file; name one"):
        read("README.md")
    with pytest.raises(UserError, match="is a folder; name a JSON file"):
        read(tmp_path)


def test_a_runs_folder_stands_for_its_config(tmp_path):
    write(tmp_path, '{"power": 3}').rename(tmp_path / "config.json")
    names = []
    assert read(tmp_path, ["power=5"], lambda values, path: names.append(path) or values) == {"power": 5}
    assert names == [str(tmp_path / "config.json")]


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


def test_the_reference_lists_the_strings_to_choose_from():
    class Paint(Section):
        """Paint."""

        color: Literal["red", "blue"] | None = Field(None, description="of the doors; null: bare metal")
        layers: dict[Literal["base", "top"], int] = Field({}, description="in micrometers")

    table = markdown([Paint])
    assert "of the doors; null: bare metal; one of `red`, `blue` |" in table
    assert "in micrometers |" in table


def test_a_bar_in_a_description_ends_no_cell_of_the_reference():
    class Door(Section):
        """Door."""

        label: str = Field("|", description="such as <|x|>")

    assert r"| `label` | `\|` | such as <\|x\|> |" in markdown([Door]).replace('"', "")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    (tmp_path / "car.json").write_bytes(b"\xef\xbb\xbf" + b'{"power": 3}')
    assert read(tmp_path / "car.json") == {"power": 3}


def test_whole_numbers_with_exponents_are_integers_and_endless_ones_are_not():
    (engine,) = parse_sections({"power": 1e5}, [Engine], source="x")
    assert (engine.power, type(engine.power)) == (100_000, int)
    for values, message in (
        ({"power": 10**12}, "power: 1000000000000 is too large"),
        ({"power": 1, "ratio": 10**400}, r"ratio: 10000.* \(401 characters\) is too large"),
        ({"power": 1e300}, "power: 1000.*too large"),
        ({"power": 1.5}, "power: .*integer"),
    ):
        with pytest.raises(UserError, match=message):
            parse_sections(values, [Engine], source="x")


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("learning_rate", 3e-4, '"lr": 0.0003'),
        ("batch_size", 32, '"train_batch_size": 32'),
        ("block_size", 1024, '"n_ctx": 1024'),
        ("Hidden-Size", 768, '"n_embd": 768'),
        ("epochs", 3, '"max_epochs": 3'),
        ("dropout", 0.1, '"embed_dropout": 0.1, "attn_dropout": 0.1, "res_dropout": 0.1'),
        ("lr_decay", "cosine", '"schedule": "cosine"'),
        ("lr_decay", 0.9, 'schedule, such as "cosine"'),
        ("gradient_clipping", 0.5, '"grad_clip": 0.5'),
        ("recompute_grad", True, '"remat": "full"'),
        ("mesh_shape", "x:4,y:2", '"mesh": {"data": 4, "tensor": 2}'),
        ("log_dir", "logs", "nothing: what a run logs is in its folder, model_path"),
        ("datasets", [["pile", None, None, None]], "data_path .*pile"),
        ("activation_function", "gelu_new", '"activation": "gelu_new"'),
        ("tie_word_embeddings", True, '"untied_head": false'),
        ("optim", "adamw_torch_fused", '"opt_name": "adam"'),
        ("decay_lr", True, '"schedule": "cosine"'),
        ("dtype", "float16", '"precision": "float16"'),
        ("fp16", True, '"precision": "float16"'),
        ("fp16", {"enabled": True, "loss_scale": 0}, '"precision": "float16"'),
        ("bf16", {"enabled": True}, '"precision": "bfloat16"'),
        ("bf16", {"enabled": False}, '"precision": "float32"'),
        ("torch_dtype", "auto", '"precision": "auto"'),
        ("wandb_log", True, r'"trackers": \["wandb"\]'),
        ("report_to", ["tensorboard", "mlflow"], r'"trackers": \["mlflow"\]'),
        ("report_to", "none", r'"trackers": \[\]'),
        ("resume_from_checkpoint", True, "nothing: the same command continues a run"),
        ("eval_strategy", "steps", "nothing: train_steps"),
        ("sample_every", 100, '"sample_steps": 100'),
    ],
)
def test_keys_of_other_programs_are_translated_with_their_values(key, value, written):
    with pytest.raises(UserError, match=f"{key}: no such key; write {written}"):
        parse_sections({"power": 1, key: value}, [Engine], source="x")


def test_the_value_of_a_key_that_resembles_another_one_a_little_is_not_taken_over():
    with pytest.raises(UserError, match=r"num_key_value_heads: no such key$"):
        parse_sections({"power": 1, "num_key_value_heads": 4}, [Engine], source="x")


def test_every_synonym_leads_to_a_key_and_is_none():
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())["properties"]
    assert not set(key_synonyms.SAME) - set(schema)
    assert not (set(key_synonyms.SYNONYMS) | set(key_synonyms.CONVERTED)) & set(schema)
