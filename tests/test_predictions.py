"""Prompts and samples: what is typed or generated is always written, in the seed's layout."""

from text.predictions import write_samples


def test_a_prompt_that_is_no_utf8_is_written_with_the_replacement_character(tmp_path):
    shown = []
    path = tmp_path / "samples.txt"
    prompt = b"caf\xe9 ".decode("utf-8", "surrogateescape")  # as the command line gives bytes that are not UTF-8
    write_samples(prompt, iter(["is open"]), path=str(path), show=shown.append)
    assert "caf\ufffd is open\n" in shown[0]
    assert path.read_text(encoding="utf-8") == shown[0]
