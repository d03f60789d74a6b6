"""What to raise about a damaged shard: each error names the file, the record and its place."""

from pathlib import Path

from estimator.errors import UserError


def damaged(path: Path, record: int, offset: int, cause: str, fix: str = "copy or make the shard again") -> UserError:
    """What to raise about record number `record` (from 0), whose first byte is at `offset` of the file."""
    return UserError(f"{path}: record {record} at byte {offset}: {cause}; {fix}")


def cut_off(path: Path, record: int, offset: int, size: int) -> UserError:
    """The error for a record that extends past the end of the file."""
    return damaged(path, record, offset, f"the shard is cut off, it ends at byte {size} within this record")


def bad_header(path: Path, record: int, offset: int) -> UserError:
    if record == 0:
        fix = (
            'give the path of a TFRecord file, or copy or make the shard again; text is trained on with "input": "text"'
        )
        return damaged(path, record, offset, "this is not a TFRecord file, or its first bytes are damaged", fix)
    return damaged(path, record, offset, "its length does not fit its checksum, bytes have changed")


def bad_data(path: Path, record: int, offset: int) -> UserError:
    return damaged(path, record, offset, "its data does not fit its checksum, bytes have changed")
