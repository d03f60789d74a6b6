"""The line of JSON that ends a benchmark, the description of the machine, and tables."""

import importlib.metadata
import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks._workers import cores


def say(text: str) -> None:
    """Progress, for who waits."""
    print(text, file=sys.stderr, flush=True)


def finish(
    name: str,
    unit: str,
    ours: float | None,
    peers: dict[str, float],
    *,
    device: str,
    packages: tuple[str, ...],
    details: dict[str, Any],
    less_is_better: bool = False,
    ratio: float | None = None,
) -> dict[str, Any]:
    """Prints the line and returns its object. ratio: ours against the best peer, above 1 is better; by default from the
    figures, and None where there is no peer."""
    if ratio is None and ours and peers:
        ratio = min(peers.values()) / ours if less_is_better else ours / max(peers.values())
    result = {
        "name": name,
        "unit": unit,
        "ours": significant(ours),
        "peers": {peer: significant(value) for peer, value in peers.items()},
        "ratio": significant(ratio),
        "device": device,
        "versions": versions(*packages),
        "details": rounded(details),
    }
    print(json.dumps(result), flush=True)
    return result


def significant(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")


def rounded(value: Any) -> Any:
    """The same with four digits for every float in it."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return significant(value) if isinstance(value, float) else value


def versions(*packages: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The machine's processor and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{cores()} cores, {name}"


def installed(package: str) -> bool:
    """Whether a peer can be measured; says so where it cannot."""
    if importlib.util.find_spec(package):
        return True
    say(f"{package} is not installed: not compared with it")
    return False


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the same columns, aligned."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
