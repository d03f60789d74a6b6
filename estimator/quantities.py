"""Counts and sizes as the programs print them."""


def numbered(count: int, noun: str) -> str:
    """A count and its noun, such as 1 file and 2,000 files."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(n_bytes: float) -> str:
    """Formats a byte count in decimal units, such as 12.3 GB."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} GB" if n_bytes < 1000 else f"{n_bytes:,.0f} GB"
