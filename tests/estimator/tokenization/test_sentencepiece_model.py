"""The .model file: its contents, and the error message for any other file."""

import io
import random
import sys

import pytest

from estimator.errors import UserError
from estimator.tokenization import sentencepiece_model
from estimator.tokenization.sentencepiece_model import Type

sentencepiece = pytest.importorskip("sentencepiece", reason="SentencePiece is an optional package")
from sentencepiece import sentencepiece_model_pb2  # noqa: E402


@pytest.fixture(scope="module")
def data() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox", "jumps over \u65e5\u672c"] * 20), model_writer=model,
        vocab_size=340, byte_fallback=True, control_symbols=["<c>"], user_defined_symbols=["<u>"], minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    return model.getvalue()


def test_pieces_and_rules_are_those_of_the_library_and_its_training(data):
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    kinds = {
        Type.UNKNOWN: library.is_unknown,
        Type.CONTROL: library.is_control,
        Type.UNUSED: library.is_unused,
        Type.BYTE: library.is_byte,
    }
    ours = sentencepiece_model.parse(data, source="x")
    assert len(ours.pieces) == library.get_piece_size()
    for i, piece in enumerate(ours.pieces):
        assert (piece.text, piece.score) == (library.id_to_piece(i), library.get_score(i))
        kind = next((kind for kind, applies in kinds.items() if applies(i)), Type.NORMAL)
        assert piece.type is (Type.USER_DEFINED if piece.text == "<u>" else kind)
    assert ours.charsmap
    assert (ours.dummy_prefix, ours.squeezes, ours.escapes) == (True, True, True)
    assert (ours.model_type, ours.byte_fallback, ours.suffix) == ("unigram", True, False)
    truth = sentencepiece_model_pb2.ModelProto.FromString(data)
    spec = truth.normalizer_spec
    spec.add_dummy_prefix, truth.trainer_spec.model_type, truth.trainer_spec.byte_fallback = False, 2, False
    truth.trainer_spec.treat_whitespace_as_suffix = True
    changed = sentencepiece_model.parse(truth.SerializeToString(), source="x")
    assert (changed.dummy_prefix, changed.model_type, changed.byte_fallback, changed.suffix) == (
        False,
        "BPE",
        False,
        True,
    )


def test_control_pieces_are_added_at_the_end(data):
    more = sentencepiece_model.with_control_pieces(data, ["<|user|>", "x" * 200])
    before, after = (sentencepiece_model.parse(d, source="x").pieces for d in (data, more))
    assert after[:-2] == before
    assert after[-2:] == [("<|user|>", 0.0, Type.CONTROL), ("x" * 200, 0.0, Type.CONTROL)]
    assert sentencepiece.SentencePieceProcessor(model_proto=more).piece_to_id("<|user|>") == len(before)


def test_written_anew_only_control_symbols_differ(data):
    before = sentencepiece_model.parse(data, source="x")
    after = sentencepiece_model.parse(sentencepiece_model.without_control_pieces(before), source="x")
    assert after[1:] == before[1:]
    changed = [(a, b) for a, b in zip(before.pieces, after.pieces, strict=True) if a != b]
    assert [(a.type, b.type, b.score) for a, b in changed] == [(Type.CONTROL, Type.UNUSED, 0.0)] * 3
    assert len(before.pieces) == len(after.pieces)


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"\x80\x02", b"\x0a\x00", b"\x0a\x03\x0a\x01\xff", b"PK\x03\x04", b"\x0a\xff\xff\xff\xff\x0f"]
)
def test_junk_is_refused_by_name(junk):
    with pytest.raises(UserError, match=r"junk\.model: not a SentencePiece model"):
        sentencepiece_model.parse(junk, source="junk.model")


def test_the_missing_library_is_named(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"x\.model: SentencePiece needs a library: pip install"):
        sentencepiece_model.parse(data, source="x.model")


def test_random_damage_never_raises_anything_but_a_message(data):
    draw = random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        try:
            sentencepiece_model.parse(
                bytes(broken[: draw.choice([len(broken), draw.randrange(len(broken))])]), source="x"
            )
        except UserError:
            continue
