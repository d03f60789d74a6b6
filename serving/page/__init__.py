"""The page: one HTML document with its style and scripts inside, which asks the server's own routes."""

import base64
import hashlib
from functools import cache
from pathlib import Path

SCRIPTS = ("api.js", "tokens.js", "write.js", "chat.js", "next.js", "score.js", "main.js")  # one scope, in this order


@cache
def document() -> tuple[bytes, dict[str, str]]:
    """The page in UTF-8, and headers that allow it its own script, style and server, and nothing else."""
    folder = Path(__file__).parent
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = "".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    html = (folder / "index.html").read_text(encoding="utf-8")
    html = html.replace("/*style*/", style).replace("/*script*/", script)
    policy = {
        "default-src": "'none'", "connect-src": "'self'", "img-src": "data:", "style-src": _hash(style),
        "script-src": _hash(script), "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    return html.encode(), {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
