"""Turns a published corpus into shards for training: downloads it, drops exact repeats, and encodes it.

    python3 datasets/openwebtext/prepare.py openwebtext --out data/openwebtext --encoder encoder
    python3 datasets/openwebtext/prepare.py fineweb-edu --max_files 2 --out data/fineweb --encoder encoder
    python3 datasets/openwebtext/prepare.py https://huggingface.co/datasets/ORG/NAME/tree/COMMIT/FOLDER --out data
    python3 datasets/openwebtext/prepare.py https://example.org/texts.jsonl.zst --out data --encoder encoder
    python3 datasets/openwebtext/prepare.py /mnt/parquet --out data --encoder encoder        without a network

SOURCE is openwebtext, fineweb, fineweb-edu or tinystories at a pinned commit of the Hugging Face Hub, a data set's page
on the Hub, the address of one file, or local files: Parquet, JSON lines or text, compressed or not. Interrupted at any
point, the same command continues: in the middle of a file, and in the middle of encoding.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import argparse
import glob
import json
import re
import shutil
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from estimator import json_text
from estimator.arguments import Parser, number
from estimator.corpus import archive_names, file_search, parts
from estimator.corpus.build import executors
from estimator.corpus.build.plan import Corpus, Options
from estimator.corpus.build.to_bucket import encode
from estimator.errors import UserError, run_program
from estimator.interop import downloads
from estimator.interop.downloads import Remote
from estimator.quantities import numbered
from estimator.storage import user_paths
from estimator.tokenization import tokenizer

PAGE = re.compile(r"https?://[^/]+/datasets/([^/?#]+/[^/?#]+)(?:/tree/([^/?#]+)(?:/([^?#]+?))?)?/?")
TEXT_FILE = re.compile(r".*\.(parquet|jsonl?|ndjson|txt|csv|tsv)(\.(gz|bz2|xz|zst))?", re.IGNORECASE)
LISTING = ".files.json"  # what the Hub said of a folder, so that a later start asks nothing
MAX_LISTED = 1000  # entries of one answer of the Hub


class HubFolder(NamedTuple):
    """A folder of a data set on the Hub. revision: commit, tag or branch."""

    repository: str
    revision: str
    folder: str = ""
    license: str = "see the data set's page"


CORPORA = {
    "openwebtext": HubFolder(
        "Skylion007/openwebtext",
        "79d93d786212f7344586290adb811d4ae6a1762c",
        "plain_text",
        "CC0-1.0 for the packaging; the texts belong to their authors",
    ),
    "fineweb": HubFolder(
        "HuggingFaceFW/fineweb",
        "9bb295ddab0e05d785b879661af7260fed5140fc",
        "sample/10BT",
        "ODC-BY 1.0, and Common Crawl's terms of use",
    ),
    "fineweb-edu": HubFolder(
        "HuggingFaceFW/fineweb-edu",
        "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
        "sample/10BT",
        "ODC-BY 1.0, and Common Crawl's terms of use",
    ),
    "tinystories": HubFolder(
        "roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", "data", "CDLA-Sharing-1.0"
    ),
}


def main() -> None:
    arguments = _parser().parse_args()
    executor = executors.from_arguments(arguments)
    n_vocab = tokenizer.load(arguments.encoder).n_vocab  # refused before anything is downloaded
    name = arguments.name or (arguments.source if arguments.source in CORPORA else "text")
    files = fetch(arguments.source, arguments.downloads, mirror=arguments.mirror, max_files=arguments.max_files)
    summaries = encode(
        [Corpus(name, tuple(files))],
        Options(
            reading=parts.reading_from(arguments),
            split=(arguments.valid, 0.0),
            format=arguments.format,
            skip_faults=arguments.on_error == "skip",
        ),
        encoder=arguments.encoder,
        out=arguments.out,
        executor=executor,
        overwrite=arguments.overwrite,
    )
    noted = dict.fromkeys(reason for summary in summaries or [] for reason in summary.noted)
    for line in archive_names.warnings(archive_names.notes(noted)):
        print(line, file=sys.stderr)
    for summary in summaries or []:
        shards, text = numbered(len(summary.shards), "shard"), numbered(summary.documents, "document")
        counts = f"{shards} of {text}, {numbered(summary.tokens, 'token')}"
        print(f"{summary.split:<17}{counts}; left out: {file_search.counted(summary.skipped) or 'none'}")
    if summaries:
        keys = {"input": "packed", "data_path": arguments.out, "encoder_path": arguments.encoder, "n_vocab": n_vocab}
        print(f"in the JSON file {json.dumps(keys)[1:-1]}")


def fetch(source: str, downloads_folder: str, *, mirror: str | None = None, max_files: int | None = None) -> list[str]:
    """Returns the local files of a source, downloaded and verified where they come from the web.

    mirror: a local folder with the files, or an address that serves what huggingface.co does. max_files: take only the
    first files by name. Raises UserError if a file cannot be had whole; what has arrived is kept for the next call.
    """
    page = PAGE.fullmatch(source)
    if mirror and "://" not in mirror:
        files = file_search.find([mirror])
    elif source in CORPORA or page:
        hub = CORPORA[source] if not page else HubFolder(page[1], page[2] or "main", page[3] or "")
        print(f"license          {hub.license} ({downloads.HUGGING_FACE}/datasets/{hub.repository})")
        root = (mirror or downloads.hub_address()).rstrip("/")
        folder = Path(downloads_folder, f"{hub.repository}@{hub.revision}")
        return _download(_list_hub(hub, root, folder)[:max_files], folder)
    elif source.startswith(("http://", "https://")):
        url = urllib.parse.urlsplit(source)
        path = _relative(urllib.parse.unquote(url.path).lstrip("/"))
        return _download([(path, Remote(source))], Path(downloads_folder, url.netloc))
    else:
        files = file_search.find([user_paths.argument(source)])
    return files[:max_files]


def _list_hub(hub: HubFolder, root: str, folder: Path) -> list[tuple[str, Remote]]:
    """The text files below a folder on the Hub: paths, sizes and hashes. An earlier start has kept the listing."""
    revision = urllib.parse.quote(hub.revision, safe="")
    below = urllib.parse.quote(hub.folder)
    url = f"{root}/api/datasets/{hub.repository}/tree/{revision}/{below}".rstrip("/") + "?recursive=true"
    listing = folder / hub.folder / LISTING
    downloads.download(Remote(url), listing)
    base = f"{root}/datasets/{hub.repository}/resolve/{revision}"
    try:
        entries = {entry["path"]: entry for entry in json_text.loads(listing.read_bytes()) if entry["type"] == "file"}
        files = [
            (path, downloads.listed_file(entry, f"{base}/{urllib.parse.quote(path)}"))
            for path, entry in sorted(entries.items())
            if TEXT_FILE.fullmatch(_relative(path))
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        listing.unlink()
        raise UserError(f"{url}: the answer is not a list of files; try again later") from None
    if len(entries) >= MAX_LISTED:
        raise UserError(f"{url}: {MAX_LISTED} files or more; name a folder with fewer")
    if not files:
        raise UserError(f"{url}: no Parquet, JSON, CSV or text file; name the folder of the files")
    return files


def _relative(path: str) -> str:
    """A path that a server named, which must not lead out of the folder of the downloads."""
    if not path or path.startswith("/") or "\\" in path or {"..", "."} & set(path.split("/")):
        raise UserError(f"the server names a file {path!r}; this is not a path below the data set")
    return path


def _download(files: Sequence[tuple[str, Remote]], folder: Path) -> list[str]:
    """Brings files into a folder, one after another, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / path for path, _ in files]
    present = sum(each.stat().st_size for path in paths for each in path.parent.glob(f"{glob.escape(path.name)}*"))
    missing, free = sum(remote.size or 0 for _, remote in files) - present, shutil.disk_usage(folder).free
    if missing > free:
        fix = "name another folder with --downloads, or take fewer files with --max_files"
        raise UserError(f"{folder}: {missing / 1e9:,.1f} GB are missing and {free / 1e9:,.1f} GB are free; {fix}")
    for index, ((_, remote), path) in enumerate(zip(files, paths, strict=True), 1):
        with tqdm(desc=f"{path.name} ({index}/{len(paths)})", unit="B", unit_scale=True, disable=None) as bar:

            def progress(done: int, total: int | None, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            downloads.download(remote, path, progress=progress)
    return [str(path) for path in paths]


def _parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("source", type=str, metavar="SOURCE", help=f"{', '.join(CORPORA)}, an address, or local files")
    add("--out", required=True, type=user_paths.argument, metavar="DIR", help="folder of the shards, or a bucket")
    add("--encoder", default="encoder", type=user_paths.argument, metavar="DIR", help="vocabulary (%(default)s)")
    add("--name", help="the shards are called NAME_0.tfrecords and so on (the corpus, or text)")
    add("--max_files", type=_positive, metavar="N", help="take only the first N files")
    add("--valid", type=number, default=0.0005, metavar="F", help="fraction of documents to evaluate on (%(default)s)")
    add(
        "--downloads", type=str, default="downloads", metavar="DIR", help="folder of the downloaded files (%(default)s)"
    )
    add(
        "--from",
        type=str,
        dest="mirror",
        metavar="DIR|URL",
        help="a folder with the files, or a mirror of huggingface.co",
    )
    add("--format", choices=("tfrecord", "npy", "npz"), default="tfrecord", help="of the shards (%(default)s)")
    add("--on_error", choices=("fail", "skip"), default="fail", help="at a damaged file or record (%(default)s)")
    add("--overwrite", action="store_true", help="replace shards of this name")
    parts.add_arguments(parser)
    executors.add_arguments(parser)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: write a number from 1")
    return int(text)


if __name__ == "__main__":
    run_program(main)
