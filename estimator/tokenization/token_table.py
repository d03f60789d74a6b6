"""Maps ids to bytes: decoding, which is the same for every kind of vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from estimator.errors import UserError

UNKNOWN = "\ufffd".encode()


class TokenTable:
    """The half of a `estimator.tokenization.tokenizer.Tokenizer` that turns ids back into text."""

    def __init__(
        self,
        table: list[bytes],
        *,
        special_tokens: dict[str, int],
        end_names: Sequence[str],
        source: str | Path,
    ):
        """table: the bytes of each id. end_names: what end-of-text may be called, the best name first."""
        self._table = table
        self._source = source
        self.n_vocab = len(table)
        self.special_tokens = special_tokens
        ends = [special_tokens[name] for name in end_names if name in special_tokens]
        self.end_of_text = ends[0] if ends else None

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        parts = [self._table[i] if 0 <= i < self.n_vocab else UNKNOWN for i in ids]
        return self._joined(parts).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.n_vocab:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise UserError(f"{self._source}: no token has the id {wrong}; there are {self.n_vocab}")
        return self._joined([self._table[i] for i in ids])

    def token_bytes(self) -> np.ndarray:
        lengths = np.array([len(token) for token in self._table], np.int32)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    def _joined(self, parts: list[bytes]) -> bytes:
        return b"".join(parts)
