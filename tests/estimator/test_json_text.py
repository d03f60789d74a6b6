import json

import pytest

from estimator import json_text


@pytest.mark.parametrize("text", ['{"a": [1, {"b": null}]}', b"[1.5, [], {}]", '"a"', "[" * 100 + "]" * 100])
def test_json_is_parsed_as_json_does(text):
    assert json_text.loads(text) == json.loads(text)


@pytest.mark.parametrize("depth", [101, 500, 3000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_a_value_error(depth, begin, end):
    for text in (begin * depth, begin * depth + "0" + end * depth):
        with pytest.raises(ValueError):
            json_text.loads(text)
