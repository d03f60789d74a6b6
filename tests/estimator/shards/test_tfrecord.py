"""TFRecord shards: compatible with TensorFlow in both directions, and all corruption is detected."""

import gzip
import json
import os
import shutil
import struct
import threading
import tracemalloc
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from estimator.errors import UserError
from estimator.shards import tf_example as example_module
from estimator.shards.build_index import PIECE_BYTES, load_index
from estimator.shards.shard import END_BYTES, decode
from estimator.shards.tfrecord import ShardWriter, index_path, open_shard

EDGES = [0, 1, 127, 128, 16383, 16384, 50256, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**31 - 1]


# An independent serializer, byte by byte.


def varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value, wire=2):
    return varint(number << 3 | wire) + (varint(len(value)) if wire == 2 else b"") + value


def feature_entry(name, feature):
    return field(1, field(1, name) + field(2, feature))


def bytes_feature(value):
    return field(1, field(1, value))


def int_feature(ids, *, is_packed=True):
    if is_packed:
        return field(3, field(1, b"".join(map(varint, ids))) if len(ids) else b"")
    return field(3, b"".join(field(1, varint(value), wire=0) for value in ids))


def example(*entries):
    return field(1, b"".join(entries))


def document(name, ids, **options):
    return example(feature_entry(b"hash", bytes_feature(name)), feature_entry(b"text", int_feature(ids, **options)))


def masked(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(data):
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def write_raw(path, *records):
    path.write_bytes(b"".join(map(frame, records)))
    return path


def write(path, documents, **options):
    with ShardWriter(path, **options) as writer:
        for number, ids in enumerate(documents):
            writer.write(b"%05d" % number, np.array(ids, np.int32))
    return path


def read(path, **options):
    shard = open_shard(path, **options)
    return [shard.tokens(i).tolist() for i in range(len(shard))]


def some_documents(count=20, *, longest=60, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 50257, random.integers(0, longest)).tolist() for _ in range(count)]


# Formats.


def test_shards_of_the_2019_script_read_as_recorded(fixtures, tmp_path):
    expected = json.loads((fixtures / "tfrecords" / "expected.json").read_text())
    assert expected
    for name, facts in expected.items():
        shard = open_shard(shutil.copy(fixtures / "tfrecords" / name, tmp_path))
        assert (len(shard), int(shard.token_counts.sum())) == (facts["records"], facts["tokens"])
        for number, (record, count, first) in ((0, facts["first"]), (len(shard) - 1, facts["last"])):
            document, ids = shard.record(number)
            assert (document.decode(), len(ids), ids[:8].tolist()) == (record, count, first)


def test_writing_them_again_gives_the_same_bytes(fixtures, tmp_path):
    """Identical except for the order of the two features, which was random in the original script."""
    source = Path(shutil.copy(fixtures / "tfrecords" / "shakespeare_2.tfrecords", tmp_path))
    shard, copy = open_shard(source), tmp_path / "copy.tfrecords"
    with ShardWriter(copy) as writer:
        for number in range(len(shard)):
            writer.write(*shard.record(number))
    theirs, ours = source.read_bytes(), copy.read_bytes()
    assert len(theirs) == len(ours)
    offsets = [load_index(index_path(copy)).row(i)[:2] for i in range(len(shard))]
    same = sum(theirs[a:b] == ours[a:b] for a, b in offsets)
    hash_first = sum(theirs[a:b].find(b"hash") < theirs[a:b].find(b"text") for a, b in offsets)
    assert same == hash_first > 20


@pytest.mark.parametrize("ids", [[], [0], [0, 0, 5], EDGES, [50256] * 1000, list(range(300))], ids=str)
def test_a_record_is_what_tensorflow_would_serialise(tmp_path, ids):
    path = write(tmp_path / "a.tfrecords", [ids])
    assert path.read_bytes() == frame(document(b"00000", ids))


@pytest.mark.parametrize("largest", [50256, 2**31 - 1])
def test_documents_that_end_with_a_block_of_ids_are_told_apart(tmp_path, largest):
    block = example_module._TOGETHER
    random = np.random.default_rng(0)
    lengths = [0, block - 1, 1, 0, block, 0, 5, 2 * block - 5, 0, 0]
    documents = [(2 ** random.uniform(0, np.log2(largest), length)).astype(int).tolist() for length in lengths]
    path = write(tmp_path / "a.tfrecords", documents)
    assert path.read_bytes() == b"".join(frame(document(b"%05d" % i, ids)) for i, ids in enumerate(documents))


def test_tensorflow_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    tf = pytest.importorskip("tensorflow")
    documents = [ids for ids in some_documents() if ids]
    path = write(tmp_path / "ours.tfrecords", documents)
    features = {"hash": tf.io.VarLenFeature(tf.string), "text": tf.io.VarLenFeature(tf.int64)}
    for number, serialised in enumerate(tf.data.TFRecordDataset(str(path))):
        parsed = tf.io.parse_single_example(serialised, features)
        assert parsed["text"].values.numpy().tolist() == documents[number]
        assert parsed["hash"].values.numpy()[0] == b"%05d" % number
    theirs = tmp_path / "theirs.tfrecords"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for number, ids in enumerate(documents):
            name = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"%05d" % number]))
            text = tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
            whole = tf.train.Example(features=tf.train.Features(feature={"hash": name, "text": text}))
            writer.write(whole.SerializeToString())
    assert read(theirs) == documents


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    documents = [*some_documents(200), EDGES, [], [0], list(range(5000))]
    shard = open_shard(write(tmp_path / f"a_0.tfrecords{suffix}", documents, tokenizer="f" * 64))
    assert len(shard) == len(documents)
    assert shard.token_counts.tolist() == [len(ids) for ids in documents]
    assert (shard.tokenizer, shard.max_id) == ("f" * 64, 2**31 - 1)
    for number, ids in enumerate(documents):
        name, tokens = shard.record(number)
        assert (name, tokens.dtype, tokens.tolist()) == (b"%05d" % number, np.int32, ids)
        assert shard.tokens(number).tolist() == ids
        assert shard.tokens(number, 3, 17).tolist() == ids[3:17]
        assert shard.tokens(number, 17).tolist() == ids[17:]
    rebuilt = open_shard(shutil.copy(tmp_path / f"a_0.tfrecords{suffix}", tmp_path / f"b_0.tfrecords{suffix}"))
    assert rebuilt.fingerprints.tolist() == shard.fingerprints.tolist()
    spans = [span for number in range(len(documents)) for span in (rebuilt.span(number), rebuilt.span(number, 3, 17))]
    assert [ids.tolist() for ids in decode(spans)] == [part for ids in documents for part in (ids, ids[3:17])]


def test_other_ways_to_write_the_same_document(tmp_path):
    ids = [5, 300, 70000, 0]
    text, name = feature_entry(b"text", int_feature(ids)), feature_entry(b"hash", bytes_feature(b"n"))
    halves = field(3, field(1, b"".join(map(varint, ids[:2]))) + b"".join(field(1, varint(i), wire=0) for i in ids[2:]))
    other = feature_entry(b"url", bytes_feature(b"text")) + feature_entry(b"score", field(2, field(1, b"\0" * 4)))
    records = [
        example(name, text),
        example(text, name),
        example(other, text, other, name),
        document(b"n", ids, is_packed=False),
        example(feature_entry(b"text", halves), name),
        field(1, text) + field(1, name),  # repeated occurrences of a submessage are merged
        field(9, b"unknown") + field(8, varint(7), wire=0) + field(7, b"\1" * 8, wire=1) + example(name, text),
        example(feature_entry(b"text", field(3, field(1, b"\x85\x00\xac\x02\xf0\xa2\x04\x80\x80\x80\x80\x00"))), name),
    ]
    shard = open_shard(write_raw(tmp_path / "a.tfrecords", *records))
    for number in range(len(records)):
        assert shard.tokens(number).tolist() == ids, number
        assert shard.record(number)[0] == b"n", number
    spans = [shard.span(number) for number in range(len(records))]
    assert [tokens.tolist() for tokens in decode(spans)] == [ids] * len(records)
    assert len(set(shard.fingerprints.tolist())) == 1
    assert open_shard(write_raw(tmp_path / "b.tfrecords", example(text))).record(0)[0] == b""


def test_fingerprints_tell_texts_and_not_names(tmp_path):
    shard = open_shard(write(tmp_path / "a.tfrecords", [[1, 2, 3], [1, 2, 3], [1, 2, 4], [], []]))
    a, b, c, d, e = shard.fingerprints.tolist()
    assert a == b != c
    assert d == e


def test_an_empty_shard_has_no_documents(tmp_path):
    for path in (write(tmp_path / "a.tfrecords", []), write_raw(tmp_path / "b.tfrecords")):
        shard = open_shard(path)
        assert (len(shard), shard.max_id, decode([])) == (0, -1, [])


# Invalid documents.


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (document(b"n", [3, -1]), "the token id -1 is negative"),
        (document(b"n", [3, 2**31]), "the token id 2147483648 is negative or above 2147483647"),
        (example(feature_entry(b"hash", bytes_feature(b"n"))), r"no feature 'text' .*features found: hash"),
        (b"", "no feature 'text'"),
        (example(feature_entry(b"text", bytes_feature(b"Hello"))), "'text' is not a list of integers"),
        (example(feature_entry(b"text", field(3, field(1, b"\x05\x85")))), "ends in the middle of a number"),
        (example(feature_entry(b"text", field(3, field(1, b"\x85" * 11 + b"\1")))), "more than 64 bits"),
        (b"Once upon a time", "not a tf.train.Example"),
        (document(b"n", [3])[:-1], "not a tf.train.Example"),
    ],
)
def test_a_record_that_is_no_document_is_named(tmp_path, record, cause):
    good = document(b"n", [1, 2, 3])
    path = write_raw(tmp_path / "a.tfrecords", good, record)
    with pytest.raises(UserError, match=f"{path}: record 1 at byte {len(frame(good))}: .*{cause}"):
        open_shard(path)


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "a.tfrecords"
    path.write_text("To be, or not to be, that is the question.\n" * 100)
    with pytest.raises(UserError, match="not a TFRecord file"):
        open_shard(path)
    with pytest.raises(UserError, match="is a folder"):
        open_shard(tmp_path)


# Corruption.


def is_noticed(path, documents):
    """Returns whether reading raises an error that names the file; wrong token ids always fail the test."""
    message = ""
    try:
        assert read(path) == documents
    except UserError as error:
        message = str(error)
    return str(path) in message


@pytest.mark.parametrize("indexed", [True, False], ids=["with index", "without"])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, indexed):
    documents = [*some_documents(3), EDGES]
    path = write(tmp_path / "a.tfrecords", documents)
    contents, index = path.read_bytes(), index_path(path).read_bytes()
    for place in range(len(contents)):
        changed = bytearray(contents)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        index_path(path).unlink(missing_ok=True)
        if indexed:
            index_path(path).write_bytes(index)
        assert is_noticed(path, documents), place


def test_a_flipped_bit_far_from_both_ends_is_noticed(tmp_path):
    """The index seems valid, so only the checksum of the record can detect the change."""
    documents = some_documents(20, longest=2000)
    path = write(tmp_path / "a.tfrecords", documents)
    contents = path.read_bytes()
    for place in range(END_BYTES, len(contents) - END_BYTES, 197):
        changed = bytearray(contents)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"a.tfrecords: record \d+ at byte \d+: .*copy or make the shard again"):
            read(path)


@pytest.mark.parametrize("later", ["header", "data", "cut off"])
def test_of_several_damaged_records_the_first_is_named(tmp_path, later):
    path = write(tmp_path / "a.tfrecords", some_documents(6))
    offsets = [load_index(index_path(path)).row(i)[0] for i in range(6)]
    changed = bytearray(path.read_bytes())
    changed[offsets[3] - 5] ^= 1  # the last byte of the data of record 2
    if later != "cut off":
        changed[offsets[4] + (0 if later == "header" else 13)] ^= 1
    path.write_bytes(changed[:-3] if later == "cut off" else changed)
    index_path(path).unlink()
    with pytest.raises(UserError, match=rf"record 2 at byte {offsets[2]}: its data does not fit"):
        open_shard(path)


def test_a_shard_cut_off_anywhere_is_noticed(tmp_path):
    documents = [[*ids, 7] for ids in some_documents(4)]
    path = write(tmp_path / "a.tfrecords", documents)
    contents, index = path.read_bytes(), index_path(path).read_bytes()
    borders = {load_index(index_path(path)).row(i)[0] for i in range(4)}
    for size in range(len(contents)):
        path.write_bytes(contents[:size])
        index_path(path).write_bytes(index)
        with pytest.raises(UserError, match="cut off"):
            read(path)
        index_path(path).unlink()
        if size not in borders:
            with pytest.raises(UserError, match="cut off"):
                read(path)


def test_a_shard_cut_off_while_it_is_open_is_noticed(tmp_path):
    path = write(tmp_path / "a.tfrecords", some_documents(20, longest=2000))
    shard = open_shard(path)
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="cut off"):
        shard.tokens(15)


def test_an_index_of_another_shard_gives_no_wrong_ids(tmp_path):
    path = write(tmp_path / "a.tfrecords", [[1] * 5000, [2] * 10, [3] * 20, [4] * 5000])
    shard = open_shard(path)
    contents = write(tmp_path / "b.tfrecords", [[1] * 5000, [3] * 20, [2] * 10, [4] * 5000]).read_bytes()
    with open(path, "r+b") as file:
        file.write(contents)
    with pytest.raises(UserError, match="index next to the shard belongs to another shard; move"):
        shard.tokens(1)


# Index.


def test_a_missing_index_is_made_again(tmp_path):
    path = write(tmp_path / "a.tfrecords", some_documents())
    written = index_path(path).read_bytes()
    index_path(path).unlink()
    assert read(path) == some_documents()
    assert index_path(path).read_bytes() == written
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tfrecords", "a.tfrecords.index"]


def test_a_shard_written_anew_gets_a_new_index(tmp_path):
    path = write(tmp_path / "a.tfrecords", some_documents(10, seed=1))
    for documents in (some_documents(11, seed=1), [ids[::-1] for ids in some_documents(11, seed=1)]):
        write(tmp_path / "b.tfrecords", documents)
        shutil.copy(tmp_path / "b.tfrecords", path)  # by a program that does not write an index
        assert read(path) == documents


def test_a_damaged_index_is_made_again(tmp_path):
    path = write(tmp_path / "a.tfrecords", some_documents(5), tokenizer="a" * 64)
    index = index_path(path).read_bytes()
    for place in range(len(index)):
        changed = bytearray(index)
        changed[place] ^= 1 << place % 8
        index_path(path).write_bytes(changed)
        assert read(path) == some_documents(5)
        assert index_path(path).read_bytes()[200:] == index[200:]
    for size in range(0, len(index), 7):
        index_path(path).write_bytes(index[:size])
        assert read(path) == some_documents(5)


def test_a_copy_of_shard_and_index_knows_its_vocabulary(tmp_path):
    path = write(tmp_path / "a.tfrecords", some_documents(), tokenizer="a" * 64)
    copy = tmp_path / "b" / "c.tfrecords"
    copy.parent.mkdir()
    for source, target in ((path, copy), (index_path(path), index_path(copy))):
        target.write_bytes(source.read_bytes())
    os.utime(copy, (1, 1))
    assert open_shard(copy).tokenizer == "a" * 64
    index_path(copy).unlink()
    assert open_shard(copy).tokenizer is None


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache(tmp_path):
    path = write(tmp_path / "a.tfrecords", some_documents())
    index_path(path).unlink()
    index_path(path).mkdir()  # makes it impossible to write a file with this name, even for root
    assert read(path) == some_documents()
    assert read(path, cache=tmp_path / "new" / "cache") == some_documents()
    (cached,) = (tmp_path / "new" / "cache").iterdir()
    made = cached.stat().st_mtime_ns
    assert read(path, cache=tmp_path / "new" / "cache") == some_documents()
    assert cached.stat().st_mtime_ns == made
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []


# Compression.


def test_gzip_is_told_by_content_and_unpacked_once(tmp_path, capsys):
    documents = some_documents()
    plain = write(tmp_path / "a.tfrecords", documents).read_bytes()
    packed = tmp_path / "b.tfrecords"
    packed.write_bytes(gzip.compress(plain))
    cache = tmp_path / "cache"
    assert read(packed, cache=cache) == documents
    assert "unpacking" in capsys.readouterr().err
    assert read(packed, cache=cache) == documents
    assert capsys.readouterr().err == ""
    packed.write_bytes(gzip.compress(plain[: len(frame(document(b"00000", documents[0])))]))
    index_path(packed).unlink()
    assert read(packed, cache=cache) == documents[:1]


def test_the_index_of_a_compressed_shard_is_used(tmp_path):
    path = write(tmp_path / "a.tfrecords.gz", some_documents(), tokenizer="a" * 64)
    assert open_shard(path).tokenizer == "a" * 64
    assert gzip.decompress(path.read_bytes()) == write(tmp_path / "b.tfrecords", some_documents()).read_bytes()


def test_a_record_whose_length_looks_like_gzip_is_none(tmp_path):
    length = 0x088B1F  # the bytes 1f 8b 08 in little-endian order
    ids = [1] * (length - 100)
    ids += [1] * (length - len(document(b"00000", ids)))
    path = write(tmp_path / "a.tfrecords", [ids])
    assert path.read_bytes()[:3] == b"\x1f\x8b\x08"
    assert read(path) == [ids]


def test_a_damaged_compressed_shard_is_noticed(tmp_path):
    path = write(tmp_path / "a.tfrecords.gz", some_documents())
    contents = path.read_bytes()
    for damage in (contents[:-20], contents[:50], contents[:100] + b"\0\0\0" + contents[103:]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"a.tfrecords.gz: cannot be unpacked .*; copy or make the shard again"):
            open_shard(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tfrecords.gz", "a.tfrecords.gz.index"]


# Long documents.


@pytest.fixture(scope="module")
def long_document(tmp_path_factory):
    ids = np.random.default_rng(0).integers(0, 50257, 300_000)
    path = tmp_path_factory.mktemp("long") / "a.tfrecords"
    return write(path, [[5], ids.tolist(), [6, 7]]), ids


@pytest.mark.parametrize("rebuilt", [False, True])
def test_windows_of_a_long_document_are_right_and_read_little(long_document, rebuilt, monkeypatch):
    path, ids = long_document
    if rebuilt:
        index_path(path).unlink()
    shard = open_shard(path)
    assert shard.tokens(1).tolist() == ids.tolist()
    assert shard.record(1)[1].tolist() == ids.tolist()
    sizes = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: sizes.append(arguments[1]) or pread(*arguments))
    for start in [0, 1, len(ids) - 1000, *np.random.default_rng(1).integers(0, len(ids), 100).tolist()]:
        assert shard.tokens(1, start, start + 1025).tolist() == ids[start : start + 1025].tolist()
    assert max(sizes) < 2 * PIECE_BYTES


def test_a_flipped_bit_in_a_long_document_is_noticed_where_it_is_read(long_document, tmp_path):
    path = shutil.copy(long_document[0], tmp_path)
    shutil.copy(index_path(long_document[0]), tmp_path)
    with open(path, "r+b") as file:
        file.seek(400_000)
        byte = file.read(1)[0]
        file.seek(400_000)
        file.write(bytes([byte ^ 16]))
    shard = open_shard(path)
    assert shard.tokens(1, 0, 1000).tolist() == long_document[1][:1000].tolist()
    with pytest.raises(UserError, match=r"record 1 at byte .*checksum"):
        shard.tokens(1)
    with pytest.raises(UserError, match=r"record 1 at byte .*checksum"):
        shard.record(1)


# Writing.


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    old = write(tmp_path / "a.tfrecords", [[1]]).read_bytes()
    for suffix in ("", ".gz"):
        with pytest.raises(AttributeError), ShardWriter(tmp_path / f"a.tfrecords{suffix}") as writer:
            writer.write(b"", np.arange(100)).and_so_on()
    with pytest.raises(ValueError, match="negative or above"), ShardWriter(tmp_path / "b.tfrecords") as writer:
        writer.write(b"", np.array([1, -1]))
    assert (tmp_path / "a.tfrecords").read_bytes() == old
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tfrecords", "a.tfrecords.index"]


@pytest.mark.parametrize("bad", [[-1], [2**31], [2**32 + 5]])
def test_ids_that_are_none_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="negative or above"), ShardWriter(tmp_path / "a.tfrecords") as writer:
        writer.write(b"", np.array(bad, np.int64))


def test_a_writer_keeps_no_array_of_its_caller(tmp_path):
    ids = np.arange(10, dtype=np.uint32)
    with ShardWriter(tmp_path / "a.tfrecords") as writer:
        writer.write(b"", ids)
        ids[:] = 0
    assert read(tmp_path / "a.tfrecords") == [list(range(10))]


# Memory and threads.


def test_reading_takes_no_memory_that_grows_with_the_shard(tmp_path):
    peaks = []
    for size in (500, 2000):
        path = write(tmp_path / f"{size}.tfrecords", some_documents(size, longest=3000))
        shard = open_shard(path)
        shard.tokens(0)
        tracemalloc.start()
        for number in range(0, size, 3):
            shard.tokens(number)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        index_path(path).unlink()
    assert peaks[1] < 1.2 * peaks[0] < 2 << 20 < path.stat().st_size


def test_many_threads_read_at_once(tmp_path):
    documents = some_documents(200, longest=500)
    shard = open_shard(write(tmp_path / "a.tfrecords", documents))
    results = []

    def check():
        results.append(all(shard.tokens(i).tolist() == ids for i, ids in enumerate(documents)))

    threads = [threading.Thread(target=check) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
