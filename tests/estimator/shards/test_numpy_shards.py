"""Token arrays yield the same documents as TFRecord shards for every writer, and corrupt files are rejected."""

import io
import zipfile

import numpy as np
import pytest

from estimator.errors import UserError
from estimator.shards import numpy_shards
from estimator.shards.npy_files import Ends
from estimator.shards.numpy_shards import LONG, NpyWriter, NpzWriter, open_array
from estimator.shards.tfrecord import ShardWriter, open_shard
from estimator.tokenization.tokenizer import load

END = 256
GPT2_END, GPT2_WRITTEN = 50256, (27, 91, 437, 1659, 5239, 91, 29)


def documents(count=300, *, seed=0, longest=400, vocabulary=END):
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, random.integers(1, longest)).tolist() for _ in range(count)]


def texts_of(shard):
    return [shard.tokens(i).tolist() for i in range(len(shard))]


def flat(texts, *, end=END):
    return np.array([token for text in texts for token in [*text, end]])


def write(writer, path, texts, **options):
    with writer(path, end_of_text=END, n_vocab=END + 1, **options) as out:
        for number, text in enumerate(texts):
            out.write(b"%d" % number, np.array(text, np.int32))
    return path


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, ">i4"])
def test_a_flat_array_is_the_documents_between_ends_of_text(tmp_path, dtype):
    texts = documents()
    np.save(tmp_path / "train.npy", flat(texts).astype(dtype))
    shard = open_array(tmp_path / "train.npy", Ends(END))
    assert texts_of(shard) == texts
    assert shard.tokenizer is None
    assert shard.max_id == max(map(max, texts))
    assert shard.tokens(5).dtype == np.int32
    assert shard.tokens(5, 2, 7).tolist() == texts[5][2:7]
    assert shard.tokens(5, 2, 10**9).tolist() == texts[5][2:]
    assert shard.record(7) == (b"", pytest.approx(texts[7]))


def test_documents_have_the_fingerprints_of_tfrecord_shards(tmp_path):
    texts = documents()
    with ShardWriter(tmp_path / "a_0.tfrecords") as writer:
        for text in texts:
            writer.write(b"", np.array(text))
    expected = open_shard(tmp_path / "a_0.tfrecords")
    for path in (
        write(NpyWriter, tmp_path / "a.npy", texts),
        write(NpzWriter, tmp_path / "a.npz", texts),
    ):
        shard = open_array(path, Ends(END), cache=tmp_path / "cache")
        assert np.array_equal(shard.fingerprints, expected.fingerprints)
        assert np.array_equal(shard.token_counts, expected.token_counts)
        assert shard.max_id == expected.max_id


def test_the_division_into_parts_makes_no_difference(tmp_path, monkeypatch):
    texts = [*documents(), [5] * (2 * LONG + 10), [6] * LONG, [7]]
    np.save(tmp_path / "a.npy", flat(texts))
    whole = texts_of(open_array(tmp_path / "a.npy", Ends(END)))
    assert whole == [*texts[:300], [5] * LONG, [5] * LONG, [5] * 10, [6] * LONG, [7]]
    for size in (1, 77, 1000):
        monkeypatch.setattr(numpy_shards, "IDS", size)
        (tmp_path / f"a.npy.{END}.index").unlink()
        few = texts[-4:] if size == 1 else texts
        np.save(tmp_path / "a.npy", flat(few))
        assert texts_of(open_array(tmp_path / "a.npy", Ends(END))) == (whole if size > 1 else whole[299:])


def test_what_stands_after_the_last_end_is_a_document_and_nothing_is_none(tmp_path):
    np.save(tmp_path / "a.npy", np.array([END, END, 1, 2, END, END, 3], np.uint16))
    assert texts_of(open_array(tmp_path / "a.npy", Ends(END))) == [[1, 2], [3]]
    np.save(tmp_path / "empty.npy", np.zeros(0, np.uint16))
    assert len(open_array(tmp_path / "empty.npy", Ends(END))) == 0


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
def test_an_archive_is_its_arrays_in_their_order(tmp_path, save):
    texts = documents(30)
    save(tmp_path / "a.npz", *[flat(texts[:3])[:-1], flat(texts[3:4]), *map(np.array, texts[4:])])
    shard = open_array(tmp_path / "a.npz", Ends(END), cache=tmp_path / "cache")
    assert texts_of(shard) == texts
    assert shard.path == tmp_path / "a.npz"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.npz"]


def test_an_archive_is_unpacked_once(tmp_path, capfd):
    np.savez_compressed(tmp_path / "a.npz", *map(np.array, documents(30)))
    open_array(tmp_path / "a.npz", Ends(END), cache=tmp_path / "cache")
    assert "unpacking" in capfd.readouterr().err
    open_array(tmp_path / "a.npz", Ends(END), cache=tmp_path / "cache")
    assert capfd.readouterr().err == ""
    np.savez_compressed(tmp_path / "a.npz", *map(np.array, documents(30, seed=1)))
    assert texts_of(open_array(tmp_path / "a.npz", Ends(END), cache=tmp_path / "cache")) == documents(30, seed=1)


def test_the_name_of_end_of_text_written_as_text_ends_a_document_of_an_archive(tmp_path, gpt2_encoder, monkeypatch):
    """The 2019 fine-tuning scripts joined files with this string before encoding."""
    tokenizer = load(gpt2_encoder)
    texts = ["First file.\n", "Second <|end of| it\n", "The third one\n"]
    ids = np.array(tokenizer.encode("<|endoftext|>".join(texts)))
    assert tuple(tokenizer.encode("<|endoftext|>")) == GPT2_WRITTEN
    np.savez_compressed(tmp_path / "a.npz", ids, np.array(tokenizer.encode("alone")))
    for size in (1, 3, 10, 1 << 18):
        monkeypatch.setattr("estimator.shards.npy_files.IDS", size)
        shard = open_array(tmp_path / "a.npz", Ends(GPT2_END, GPT2_WRITTEN), cache=tmp_path / f"{size}")
        assert [tokenizer.decode(text) for text in texts_of(shard)] == [*texts, "alone"]
    as_text = open_array(tmp_path / "a.npz", Ends(GPT2_END), cache=tmp_path / "cache")
    assert [tokenizer.decode(text) for text in texts_of(as_text)] == ["<|endoftext|>".join(texts), "alone"]


def test_in_our_archives_it_is_text(tmp_path):
    text = [1, 2, *GPT2_WRITTEN, 3]
    with NpzWriter(tmp_path / "a.npz", end_of_text=GPT2_END, n_vocab=50257) as writer:
        writer.write(b"", np.array(text))
    assert texts_of(open_array(tmp_path / "a.npz", Ends(GPT2_END, GPT2_WRITTEN), cache=tmp_path)) == [text]


# Writers.


@pytest.mark.parametrize("writer", [NpyWriter, NpzWriter])
def test_what_is_written_is_read_by_numpy_and_by_us(tmp_path, writer):
    texts, digest = documents(2000), "a" * 64
    path = write(writer, tmp_path / f"a.{writer.__name__[:3].lower()}", texts, tokenizer=digest)
    loaded = np.load(path)
    arrays = [loaded] if writer is NpyWriter else [loaded[name] for name in loaded.files]
    assert {array.dtype for array in arrays} == {np.dtype(np.uint16)}
    assert np.array_equal(np.concatenate(arrays), flat(texts))
    shard = open_array(path, Ends(END), cache=tmp_path / "cache")
    assert (texts_of(shard), shard.tokenizer) == (texts, digest)
    if writer is NpzWriter:
        assert len(arrays) > 3
        assert all(array[-1] == END for array in arrays)


@pytest.mark.parametrize("writer", [NpyWriter, NpzWriter])
def test_equal_documents_make_equal_files(tmp_path, writer):
    paths = [write(writer, tmp_path / f"{name}.x", documents()) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_index_of_the_writer_is_the_one_that_is_made_again(tmp_path):
    path = write(NpyWriter, tmp_path / "a.npy", [*documents(), [3] * (LONG + 1)])
    index = numpy_shards.index_path(path, END)
    written = index.read_bytes()
    index.unlink()
    open_array(path, Ends(END))
    assert index.read_bytes() == written


@pytest.mark.parametrize("writer", [NpyWriter, NpzWriter])
def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path, writer):
    for wrong, match in ((-1, "negative"), (70_000, "does not fit into uint16")):
        with pytest.raises(ValueError, match=match):
            write(writer, tmp_path / "a.x", [range(9), [wrong]])
        assert list(tmp_path.iterdir()) == []


def test_large_vocabularies_are_written_with_four_bytes(tmp_path):
    with NpyWriter(tmp_path / "a.npy", end_of_text=70_000, n_vocab=70_001) as writer:
        writer.write(b"", np.array([65_536, 69_999]))
    assert np.load(tmp_path / "a.npy").dtype == np.uint32
    assert texts_of(open_array(tmp_path / "a.npy", Ends(70_000))) == [[65_536, 69_999]]


# Rejected files.


def headed(text):
    """An array of four ids with another header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)


def refused(path, match, **options):
    with pytest.raises(UserError, match=match):
        open_array(path, Ends(END), **options)


def test_what_is_no_array_of_ids_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    for array, match in [
        (np.zeros((3, 4), np.uint16), r"shape \[3, 4\]; token ids are integers in one row"),
        (np.array(3), r"shape \[\]"),
        (np.zeros(4), "array of float64"),
        (np.array(["a"]), "array of <U1"),
        (np.array([{}]), "holds Python objects, which are not read"),
        (np.array([1, -2]), "token id -2, which is negative"),
        (np.array([1, 2**40]), "token id 1099511627776"),
    ]:
        np.save(path, array, allow_pickle=True)
        refused(path, match)
        np.savez(tmp_path / "a.npz", array)
        refused(tmp_path / "a.npz", "token id" if array.dtype == np.int64 else match, cache=tmp_path / "cache")
    path.write_bytes(b"Hello, this is text.")
    refused(path, "no .npy array, or its first bytes are damaged")
    path.write_bytes(b"\x93NUMPY\x01\x00\x08\x00{'''    ")
    refused(path, "first bytes are damaged")
    np.save(path, np.arange(4, dtype="<u2"))
    whole = path.read_bytes()
    for damaged, reason in [
        (whole.replace(b"'<u2'", b"',u2'"), "invalid syntax"),
        (whole[:7] + b"h" + whole[8:], r"its version is 1\.104"),
        (whole[:6] + b"\x02\x00" + (20_000).to_bytes(4, "little") + bytes(20_000), "its header has more than 10,000"),
        (headed("{'descr': ('<u2',), 'fortran_order': False, 'shape': (4,)}"), "tuple index out of range"),
        (headed("{b'descr': '<u2', 'fortran_order': False, 'shape': (4,)}"), "'<' not supported"),
        (headed("{'descr': '<u2', 'fortran_order': False, 'shape': (" + "-" * 4000 + "4,)}"), "recursion|Memory"),
    ]:
        path.write_bytes(damaged)
        refused(path, f"first bytes are damaged.*{reason}")
    path.write_bytes(b"")
    refused(path, "no .npy array")
    (tmp_path / "a.npz").write_bytes(b"Hello")
    refused(tmp_path / "a.npz", "a.npz: cannot be unpacked")


def test_damaged_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", flat(documents()).astype(np.uint16))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-100])
    refused(tmp_path / "a.npy", f"has {len(whole) - 100} bytes, but {len(whole)} by its header .* cut off; copy")
    (tmp_path / "a.npy").write_bytes(whole + b"xx")
    refused(tmp_path / "a.npy", "longer than that")
    np.savez_compressed(tmp_path / "a.npz", flat(documents()))
    packed = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(packed[: len(packed) // 2])
    refused(tmp_path / "a.npz", "cannot be unpacked", cache=tmp_path / "cache")
    middle = len(packed) // 2
    (tmp_path / "a.npz").write_bytes(packed[:middle] + b"damaged" + packed[middle + 7 :])
    refused(tmp_path / "a.npz", "cannot be unpacked", cache=tmp_path / "cache")
    place = packed.rindex(b"PK\x05\x06") + 16  # directory offset; a wrong one gives a negative start
    moved = (int.from_bytes(packed[place : place + 4], "little") + 1000).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(packed[:place] + moved + packed[place + 4 :])
    refused(tmp_path / "a.npz", r"a\.npz: cannot be unpacked", cache=tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").iterdir() if file.suffix == ".tmp"]
    short = io.BytesIO()
    np.save(short, np.arange(100))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as out:
        out.writestr("arr_0.npy", short.getvalue()[:-8])
    refused(tmp_path / "b.npz", "b.npz, array arr_0 is cut off", cache=tmp_path / "cache")


def test_a_file_that_is_shortened_while_it_is_read_is_named(tmp_path):
    path = write(NpyWriter, tmp_path / "a.npy", documents())
    shard = open_array(path, Ends(END))
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"a\.npy has become shorter"):
        shard.tokens(299)


def test_another_array_of_the_same_size_gets_its_own_index(tmp_path):
    for seed in (0, 1):
        texts = [text[:9] + [1] * (9 - len(text)) for text in documents(seed=seed)]
        np.save(tmp_path / "a.npy", flat(texts))
        assert texts_of(open_array(tmp_path / "a.npy", Ends(END))) == texts
    assert texts_of(open_array(tmp_path / "a.npy", Ends(3)))[0] != texts[0]
