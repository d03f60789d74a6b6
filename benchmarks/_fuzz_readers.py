"""The readers of outside bytes that the fuzzer tries: for each a small valid file, and how it is read.

A reader gives its content as one comparable string. `is_checked`: the format carries checksums over all that it gives,
so a changed file may be refused or give the same content, nothing else.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from benchmarks._fuzz_checkpoints import CHECKPOINTS, checkpoint, read_checkpoint
from benchmarks._fuzz_requests import REQUESTS
from crawler import robots, url_lists, warc
from estimator import config
from estimator.corpus import chat_files, documents
from estimator.corpus.parts import Part
from estimator.interop import gpt2_config, safetensors_io, tf_checkpoint, torch_pickle
from estimator.shards.framing import footers, header
from estimator.shards.npy_files import Ends
from estimator.shards.numpy_shards import NpzWriter, open_array
from estimator.shards.tfrecord import ShardWriter, index_path, open_shard
from estimator.tokenization import tokenizer
from estimator.tokenization.train_bpe import train_byte_bpe
from estimator.tokenization.train_sentencepiece import train_sentencepiece
from estimator.training import metrics_log, run_dir

WORDS = """the quick brown fox jumps over the lazy dog and packs my box with five dozen liquor jugs""".split()  # noqa: SIM905
PROBE = "the quick fox, \u00e9t\u00e9 12"


class Reader(NamedTuple):
    """make: writes a valid file, and what belongs to it, into a folder and returns the file that is changed.

    read: the content of that file as a string.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], str]
    is_checked: bool = False


def text(count: int) -> str:
    return " ".join(WORDS[i * i % len(WORDS)] for i in range(count))


def arrays() -> dict[str, np.ndarray]:
    return {name: np.arange(size, dtype=np.float32).reshape(-1, 4) for name, size in (("wte", 32), ("h/b", 12))}


def shown(mapping: Any) -> str:
    return repr([(name, array.tobytes(), array.shape) for name, array in sorted(mapping.items())])


def bytes_of(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def shard(folder: Path) -> Path:
    with ShardWriter(folder / "a_0.tfrecord") as writer:
        for number in range(6):
            writer.write(f"d{number}".encode(), np.arange(number * 40) * 7 % 50257)
    index_path(folder / "a_0.tfrecord").unlink(missing_ok=True)
    return folder / "a_0.tfrecord"


def read_shard(path: Path) -> str:
    opened = open_shard(path)
    return repr([(name, ids.tolist()) for name, ids in map(opened.record, range(len(opened)))])


def shard_index(folder: Path) -> Path:
    path = shard(folder)
    open_shard(path)  # which writes it
    return index_path(path)


def read_index(path: Path) -> str:
    return read_shard(next(path.parent.glob("*.tfrecord")))


def example(folder: Path) -> Path:
    data = shard(folder).read_bytes()
    size = int.from_bytes(data[:8], "little")
    (folder / "example").write_bytes(data[12 : 12 + size])
    return folder / "example"


def read_example(path: Path) -> str:
    data = path.read_bytes()
    framed = header(len(data)) + data + footers([crc32c(data)])[0]
    (path.parent / "b_0.tfrecord").write_bytes(framed)
    index_path(path.parent / "b_0.tfrecord").unlink(missing_ok=True)
    return read_shard(path.parent / "b_0.tfrecord")


def npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.arange(600, dtype=np.uint16) % 90)
    return folder / "a.npy"


def npz(folder: Path) -> Path:
    with NpzWriter(folder / "a.npz", end_of_text=0, n_vocab=90) as writer:
        for number in range(4):
            writer.write(b"d", 1 + np.arange(number * 50) % 80)
    return folder / "a.npz"


def read_array(path: Path) -> str:
    for leftover in path.parent.iterdir():
        if leftover != path and leftover.is_file():
            leftover.unlink()
    opened = open_array(path, Ends(0))
    return repr([opened.tokens(number).tolist() for number in range(len(opened))])


def bundle(part: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from tests.helpers.tf_bundles import write_bundle

        write_bundle(folder / "m", arrays())
        return folder / f"m.{part}"

    return make


def safetensors(folder: Path) -> Path:
    values = arrays()
    shapes = {name: array.shape for name, array in values.items()}
    safetensors_io.write(folder / "m.safetensors", shapes, values.__getitem__, dtype="F32", metadata={"a": "b"})
    return folder / "m.safetensors"


def torch_file(zipped: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import torch

        values = {name: torch.tensor(array) for name, array in arrays().items()}
        torch.save({"model": values, "step": 3}, folder / "m.pt", _use_new_zipfile_serialization=zipped)
        return folder / "m.pt"

    return make


def torch_pickled(folder: Path) -> Path:
    """The pickle within a torch file, so that its changes reach the unpickler behind the zip's checksums."""
    with zipfile.ZipFile(torch_file(True)(folder)) as archive:
        (folder / "data.pkl").write_bytes(archive.read("m/data.pkl"))
    return folder / "data.pkl"


def read_torch_pickled(path: Path) -> str:
    with zipfile.ZipFile(path.parent / "m.pt") as old, zipfile.ZipFile(path.parent / "b.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, path.read_bytes() if name.endswith("data.pkl") else old.read(name))
    return read_torch(path.parent / "b.pt")


def read_torch(path: Path) -> str:
    return shown(torch_pickle.state_dict(torch_pickle.read(path), path))


def hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "m.hdf5", "w") as file:
        for name, array in arrays().items():
            file.create_dataset(f"model/{name}:0", data=array)
    return folder / "m.hdf5"


def llm_c_model(folder: Path) -> Path:
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, 3, 4, 20, 1, 2, 8, 32)
    count = 32 * 8 + 4 * 8 + 4 * 8 + 24 * 8 + 24 + 72 + 8 * 32 + 32 + 32 * 8 + 8 + 16
    (folder / "m.bin").write_bytes(header.tobytes() + np.arange(count, dtype="<f4").tobytes())
    return folder / "m.bin"


def read_llm_c(path: Path) -> str:
    from models.gpt2.convert import llm_c

    return shown(llm_c.ModelFile(path))


def read_source(path: Path) -> str:
    from models.gpt2.convert.readers import open_source

    return shown(open_source(str(path)).arrays)


def bpe(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        train_byte_bpe([text(400)], n_vocab=300, out=folder)
        if name == "tokenizer.json":
            return folder / name
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "encoder.json").write_text(json.dumps(model["vocab"] | {"<|endoftext|>": len(model["vocab"])}))
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]))
        return folder / name

    return make


def unigram(folder: Path) -> Path:
    train_sentencepiece([text(2000)], n_vocab=330, out=folder)
    return next(folder.glob("*.model"))


def read_vocabulary(path: Path) -> str:
    loaded = tokenizer.load(path.parent)
    return repr((loaded.digest, np.asarray(loaded.encode(PROBE)).tolist(), loaded.n_vocab))


def read_documents(path: Path) -> str:
    return repr(list(documents.documents(str(path))))


def tar(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name in ("a.txt", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(text(90))
            archive.addfile(info, io.BytesIO(text(90).encode()))
    return folder / "a.tar"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.txt", "b.jsonl"):
            archive.writestr(name, text(90) if name == "a.txt" else json.dumps({"text": text(60)}) + "\n")
    return folder / "a.zip"


def zstandard(folder: Path) -> Path:
    import zstandard as library

    data = library.ZstdCompressor(write_checksum=True).compress(text(200).encode())
    (folder / "a.txt.zst").write_bytes(data)
    return folder / "a.txt.zst"


def parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": [text(40), text(70)], "n": [1, 2]})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def read_chats(path: Path) -> str:
    return repr(list(chat_files.documents_of(Part(str(path)), voice="other")))


def read_robots(path: Path) -> str:
    rules = robots.ParsedRules(path.read_bytes(), agent="gpt2-bot")
    return repr([rules.allows(f"http://a.b/{page}") for page in ("", "x", "x/y?z=1", "\u00e9")])


def read_warc(path: Path) -> str:
    with open(path, "rb") as file:
        return repr(list(warc.records(file, name=str(path))))


def web_archive(folder: Path) -> Path:
    data = warc.information("a", [("x", "y")], date="2020-01-01T00:00:00Z") * 3
    (folder / "a.warc.gz").write_bytes(data)
    return folder / "a.warc.gz"


def read_metrics(path: Path) -> str:
    return repr(metrics_log.read(path))


def lines_of(values: Iterable[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


RECORDS = lines_of({"text": text(20 + i), "n": i} for i in range(4))
CHATS = lines_of(
    {"messages": [{"role": "user", "content": text(5)}, {"role": "assistant", "content": text(i + 6)}]}
    for i in range(3)
)
METRICS = lines_of(
    {"split": "train", "step": i, "tokens": i * 10, "loss": 3.0, "step_seconds": 0.1, "lr": 0.1} for i in range(1, 5)
)
SETTINGS = {"model": "GPT2", "n_embd": 64, "n_layer": 1, "lr": 0.001, "mesh": {"data": 1}, "model_path": "r"}
RUN = SETTINGS | {"train_batch_size": 4, "encoder_path": "e"}
HF_CONFIG = {"model_type": "gpt2", "n_head": 2, "n_embd": 8, "n_layer": 1, "layer_norm_epsilon": 1e-5}
ROBOTS = b"User-agent: *\nDisallow: /x\nAllow: /x/y\nCrawl-delay: 2\nSitemap: http://a.b/s.xml\n"
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
TABLE = "text,n\n" + "".join(f'"{text(9)}, ""q""",{i}\n' for i in range(4))


READERS: dict[str, Reader] = {
    "tfrecord": Reader(shard, read_shard, is_checked=True),
    "shard index": Reader(shard_index, read_index, is_checked=True),
    "example": Reader(example, read_example),
    "npy": Reader(npy, read_array),
    "npz": Reader(npz, read_array),
    "tensorflow index": Reader(bundle("index"), lambda path: shown(tf_checkpoint.Bundle(path.parent / "m")), True),
    "tensorflow data": Reader(
        bundle("data-00000-of-00001"), lambda path: shown(tf_checkpoint.Bundle(path.parent / "m")), True
    ),
    "safetensors": Reader(safetensors, lambda path: shown(safetensors_io.SafeTensors([path]))),
    "torch zip": Reader(torch_file(True), read_torch),
    "torch pickle": Reader(torch_pickled, read_torch_pickled),
    "torch before 1.6": Reader(torch_file(False), read_torch),
    "llm.c": Reader(llm_c_model, read_llm_c),
    "hdf5": Reader(hdf5, read_source),
    "Hugging Face config.json": Reader(
        bytes_of("config.json", json.dumps(HF_CONFIG).encode()), lambda path: repr(gpt2_config.run_keys(path))
    ),
    "tokenizer.json": Reader(bpe("tokenizer.json"), read_vocabulary),
    "encoder.json": Reader(bpe("encoder.json"), read_vocabulary),
    "vocab.bpe": Reader(bpe("vocab.bpe"), read_vocabulary),
    "SentencePiece": Reader(unigram, read_vocabulary),
    "WordPiece": Reader(
        bytes_of("vocab.txt", "\n".join([*SPECIAL, *sorted(set(WORDS)), "##s"]).encode()),
        read_vocabulary,
    ),
    "JSON model file": Reader(
        bytes_of("a.json", json.dumps(SETTINGS).encode()), lambda path: repr(config.read(path))
    ),
    "run config.json": Reader(
        bytes_of("config.json", json.dumps(RUN).encode()), lambda path: repr(run_dir.read_config(path.parent))
    ),
    "run vocabulary.json": Reader(
        bytes_of("vocabulary.json", b'{"digest": "0123"}'), lambda path: repr(run_dir.vocabulary_digest(path.parent))
    ),
    "metrics.jsonl": Reader(bytes_of(metrics_log.FILE_NAME, METRICS), read_metrics),
    "text": Reader(bytes_of("a.txt", text(300).encode()), read_documents),
    "JSON lines": Reader(bytes_of("a.jsonl", RECORDS), read_documents),
    "JSON array": Reader(bytes_of("a.json", json.dumps([{"text": text(30)}] * 3).encode()), read_documents),
    "CSV": Reader(bytes_of("a.csv", TABLE.encode()), read_documents),
    "HTML": Reader(bytes_of("a.html", f"<html><body><p>{text(80)}</p></body></html>".encode()), read_documents),
    "parquet": Reader(parquet, read_documents),
    "gz": Reader(bytes_of("a.txt.gz", gzip.compress(text(200).encode(), mtime=0)), read_documents, is_checked=True),
    "xz": Reader(bytes_of("a.txt.xz", lzma.compress(text(200).encode())), read_documents, is_checked=True),
    "bz2": Reader(bytes_of("a.txt.bz2", bz2.compress(text(200).encode())), read_documents),
    "zst": Reader(zstandard, read_documents),
    "zip": Reader(zipped, read_documents),
    "tar": Reader(tar, read_documents),
    "chats": Reader(bytes_of("a.jsonl", CHATS), read_chats),
    "chat history": Reader(bytes_of("a.txt", b"0|Ann|hello there <EOM>\n1|Ann|hi you <EOM>\n" * 4), read_chats),
    "WARC": Reader(web_archive, read_warc),
    "robots.txt": Reader(bytes_of("robots.txt", ROBOTS), read_robots),
    "URL list": Reader(
        bytes_of("a.txt", b"http://a.b/c\nhttps://d.e/f?g=h\n" * 5),
        lambda path: repr(list(url_lists.lines(str(path)))),
    ),
}  # fmt: skip
READERS |= {name: Reader(bytes_of(file, data), read) for name, (file, data, read) in REQUESTS.items()}
READERS |= {
    f"checkpoint {name}": Reader(
        lambda folder, name=name: checkpoint(folder, name, arrays()),
        lambda path: shown(read_checkpoint(path, arrays())),
        True,
    )
    for name in CHECKPOINTS
}
