"""Unpacks compressed files and archives as streams: gzip, bzip2, xz, zstd, zip and tar, also within one another.

What a file is packed with is decided by its first bytes. Memory is bounded whatever a file claims: data is unpacked in
pieces, and what unpacks to far more than text ever does is refused.
"""

import bz2
import errno
import io
import lzma
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, Protocol

from estimator import invocation
from estimator.errors import UserError, import_failed

BLOCK_BYTES = 1 << 19  # read at a time: what stays in the processor's cache
HEAD_BYTES = 1 << 13  # of a file, by which its kind is decided
PACKED_BYTES = 1 << 16  # unpacked at a time
ZSTD_BYTES = 1 << 12  # the same of zstd, which cannot be asked for less than all: a byte gives at most 32 KiB
MAX_DEPTH = 4
MAX_RATIO, RATIO_FROM = 1000, 1 << 26  # unpacked to packed bytes, looked at beyond so many
MAX_COPY = 1 << 34  # bytes of a member that is copied to the disk because it must be read at random
XZ_MEMORY = 1 << 30
INSTALL = invocation.install("data")
# First bytes of a compressed file, and the endings of its name.
COMPRESSED = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
_SKIPPABLE = b"\x2a\x4d\x18"  # after the first byte of a zstd frame without data, as pzstd writes; also of lz4
ENDINGS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}
TARS = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
OFFICE = ("[Content_Types].xml", "mimetype", "META-INF/")  # members by which a zip is a document or a program
FAULTS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError, ValueError,
          OverflowError, LookupError, struct.error)  # fmt: skip  # of the archives' own readers
HIDDEN, NESTED = "hidden files", "packed too often"

OnFault = Callable[[str, UserError | None], None]


class Damaged(UserError):
    """A packed file that cannot be read to its end."""


class Opened(NamedTuple):
    """A file, or a member of an archive, unpacked.

    label: for errors, PATH or PATH/MEMBER. name: its own, without the endings of what it was packed with.
    tell: the place up to which the outermost file has been read.
    """

    label: str
    name: str
    file: IO[bytes]
    tell: Callable[[], int]
    is_packed: bool = False


def plain_name(name: str) -> str:
    """A file's name in lower case without the endings of compression: texts.tgz gives texts.tar."""
    name = name.lower()
    for short, long in TARS.items():
        if name.endswith(short):
            name = name.removesuffix(short) + long
    while (dot := name.rfind(".")) > 0 and name[dot:] in ENDINGS:
        name = name[:dot]
    return name


def packing(head: bytes, name: str, *, label: str) -> str | None:
    """With what a file is packed, by its first bytes; Damaged where the name promises what the bytes are not."""
    for kind, magic in COMPRESSED.items():
        if head.startswith(magic):
            return kind
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    if (promised := ENDINGS.get(ending)) and head:
        if promised == "zstd" and _is_skippable(head):
            return promised
        raise Damaged(f"{label}: damaged or incomplete {promised} file (its first bytes are not {promised}'s); "
                      "copy or fetch it again")  # fmt: skip
    if head[257:262] == b"ustar" or (ending == ".tar" and head):
        return "tar"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if ending == ".zip" and head:
        raise Damaged(f"{label}: damaged or incomplete zip file; copy or fetch it again")
    return None


def unpacked(opened: Opened, on_fault: OnFault, *, depth: int = 0) -> Iterator[Opened]:
    """The file itself if it is not packed, else its contents. on_fault: as for `readers.texts`.

    Raises UserError about a damaged file, and one that unpacks to more than MAX_RATIO times its size.
    """
    kind = packing(_peek(opened.file), opened.name, label=opened.label)
    if kind == "zip" and not opened.is_packed:
        is_zip = zipfile.is_zipfile(opened.file) or opened.name.lower().endswith(".zip")
        kind = kind if is_zip else None  # text may begin with these letters
        opened.file.seek(0)
    if kind is None:
        yield opened
    elif depth == MAX_DEPTH:
        on_fault(NESTED, UserError(f"{opened.label}: packed more than {MAX_DEPTH} times; unpack it first"))
    elif kind == "zip":
        yield from _of_zip(opened, on_fault, depth)
    elif kind == "tar":
        yield from _of_tar(opened, on_fault, depth)
    else:
        with io.BufferedReader(_Unpacked(opened, kind), BLOCK_BYTES) as file:
            name = plain_name(opened.name)
            yield from unpacked(opened._replace(name=name, file=file, is_packed=True), on_fault, depth=depth + 1)


def on_disk(opened: Opened) -> IO[bytes]:
    """A file that can be read at random: the file itself, or a copy of a packed one that goes when it is closed."""
    if not opened.is_packed:
        return opened.file
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (the reader's)
    while block := opened.file.read(BLOCK_BYTES):
        copy.write(block)
        if copy.tell() > MAX_COPY:
            raise UserError(f"{opened.label}: more than {MAX_COPY >> 30} GiB to unpack; unpack it first")
    copy.seek(0)
    return copy


def _is_skippable(data: bytes) -> bool:
    return data[0] >> 4 == 5 and data[1:4] == _SKIPPABLE[: len(data) - 1]


def _peek(file: Any) -> bytes:
    return file.peek(HEAD_BYTES)[:BLOCK_BYTES]


# Compression.


class _Codec(Protocol):
    """What bz2 and lzma offer: at most so many bytes of output at a time."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._codec = zlib.decompressobj(31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._codec.eof

    @property
    def unused_data(self) -> bytes:
        return self._codec.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        found = self._codec.decompress(self._codec.unconsumed_tail + data, max_length)
        self.needs_input = len(found) < max_length and not self._codec.unconsumed_tail
        return found


class _Zstd:
    def __init__(self, label: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise import_failed(error, f"{label}: reading .zst files needs the package zstandard: {INSTALL}") from error
        self.error = zstandard.ZstdError
        self._codec = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._packed, self._ready = b"", memoryview(b"")
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        self._packed += data
        while not self._ready and self._packed and not self._codec.eof:
            piece, self._packed = self._packed[:ZSTD_BYTES], self._packed[ZSTD_BYTES:]
            try:
                self._ready = memoryview(self._codec.decompress(piece))
            except self.error as error:
                raise zlib.error(str(error)) from None
        found, self._ready = bytes(self._ready[:max_length]), self._ready[max_length:]
        if self._codec.eof and not self._ready:
            self.eof, self.unused_data = True, self._codec.unused_data + self._packed
        self.needs_input = not self._ready and not self._packed
        return found


class _Unpacked(io.RawIOBase):
    """The contents of a compressed file, of all its parts in turn. Raises Damaged where it is cut off."""

    def __init__(self, opened: Opened, kind: str):
        self._file, self._label, self._kind = opened.file, opened.label, kind
        self._codec: _Codec | None = None
        self._packed = b""  # read, and not yet unpacked
        self._read = self._given = 0  # bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (data := self._next(len(view) - filled)):
            view[filled : filled + len(data)] = data
            filled += len(data)
        self._given += filled
        if self._given > max(RATIO_FROM, MAX_RATIO * self._read):
            raise UserError(f"{self._label}: unpacks to more than {MAX_RATIO:,} times its size, which text never does; "
                            "leave it out")  # fmt: skip
        return filled

    def _next(self, limit: int) -> bytes:
        while True:
            if self._codec is None or self._codec.needs_input:
                self._packed = self._packed or self._file.read(PACKED_BYTES)
                if self._codec is None:
                    self._packed = self._packed.lstrip(b"\0") if self._read else self._packed  # padding
                if not self._packed:
                    if self._codec is not None:
                        raise self._damaged("it ends too early")
                    return b""
            self._codec = self._codec or self._new()
            data, self._packed = self._packed if self._codec.needs_input else b"", (
                b"" if self._codec.needs_input else self._packed)  # fmt: skip
            self._read += len(data)
            try:
                found = self._codec.decompress(data, limit)
            except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
                raise self._damaged(str(error)) from None
            if self._codec.eof:
                self._packed, self._codec = self._codec.unused_data, None
                self._read -= len(self._packed)
            if found:
                return found

    def _new(self) -> _Codec:
        known = self._packed.startswith(COMPRESSED[self._kind][: len(self._packed)])
        if self._read and not known and not (self._kind == "zstd" and _is_skippable(self._packed)):
            raise self._damaged("something else follows the compressed data")
        match self._kind:
            case "gzip":
                return _Gzip()
            case "bzip2":
                return bz2.BZ2Decompressor()
            case "xz":
                return lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            case _:
                return _Zstd(self._label)

    def _damaged(self, reason: str) -> Damaged:
        return Damaged(f"{self._label}: damaged or incomplete {self._kind} file ({reason}); copy or fetch it again")


# Archives.


def _of_zip(opened: Opened, on_fault: OnFault, depth: int) -> Iterator[Opened]:
    with on_disk(opened) as file:
        try:
            archive = zipfile.ZipFile(file)
            names = archive.namelist()
            if any(name.startswith(OFFICE) for name in names[:8]):
                yield opened._replace(name=f"{opened.name}.office", file=io.BufferedReader(io.BytesIO(b"PK\0")))
                return
            for info in archive.infolist():
                if info.is_dir():
                    continue
                label = f"{opened.label}/{info.filename}"
                if info.file_size > max(RATIO_FROM, MAX_RATIO * info.compress_size):
                    raise UserError(f"{label}: unpacks to more than {MAX_RATIO:,} times its size; leave it out")
                if is_hidden(info.filename):
                    on_fault(HIDDEN, None)
                    continue
                with io.BufferedReader(_Member(archive.open(info), label), BLOCK_BYTES) as member:
                    each = Opened(label, info.filename, member, opened.tell, is_packed=True)
                    yield from unpacked(each, on_fault, depth=depth + 1)
        except FAULTS as error:
            raise _damaged_archive(opened.label, error) from None


def _of_tar(opened: Opened, on_fault: OnFault, depth: int) -> Iterator[Opened]:
    try:
        with tarfile.open(fileobj=opened.file, mode="r|") as archive:
            for info in archive:
                if not info.isfile():
                    continue
                if is_hidden(info.name):
                    on_fault(HIDDEN, None)
                elif (found := archive.extractfile(info)) is not None:
                    label = f"{opened.label}/{info.name}"
                    with io.BufferedReader(_Member(found, label), BLOCK_BYTES) as member:
                        each = Opened(label, info.name, member, opened.tell, is_packed=True)
                        yield from unpacked(each, on_fault, depth=depth + 1)
    except FAULTS as error:
        raise _damaged_archive(opened.label, error) from None


class _Member(io.RawIOBase):
    """A member of an archive. Raises Damaged where it cannot be read to its end."""

    def __init__(self, file: IO[bytes], label: str):
        self._file, self._label = file, label

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except FAULTS as error:
            raise _damaged_archive(self._label, error) from None
        buffer[: len(data)] = data
        return len(data)


def _damaged_archive(label: str, error: Exception) -> Exception:
    """What to raise for an error within an archive; one of the system stays."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # which a damaged offset causes
        return error
    return Damaged(f"{label}: damaged, incomplete or encrypted archive ({error}); unpack it, or copy it again")


def is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in name.split("/"))
