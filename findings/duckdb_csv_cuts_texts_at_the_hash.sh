#!/usr/bin/env bash
# duckdb 2.0.1: one line that begins with "#" makes read_csv cut all texts of the file at "#": "C# is fun" is "C".
#
# Expected: "#" is a character like others, as in RFC 4180, and as pandas, polars and pyarrow read it, unless `comment` is
#   given. At most the line that begins with it is left out, or is an error.
# Observed: the sniffer, which is on unless told otherwise, also guesses a comment character. Where a line with "#" at
#   its start does not fit the types or the number of the columns, as "#100,..." among integers or a note of a resumed
#   run, it decides for comments. Then such rows are dropped, and in all other rows everything behind a "#" is, in
#   quotes too, which are no quotes any more. Neither a warning nor an error: the columns and types are right. Without
#   that one line the same texts are read as they are. The page on auto-detection names the delimiter, the quoting rule
#   and the escape as what is guessed. comment='' turns it off.
# Why it matters: texts for training are full of "#": C#, headings of Markdown, hashtags, issue numbers, URLs. One odd id
#   in a file of thousands of rows changes the texts of all others, and counts of rows nearly agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1
"$folder/venv/bin/python" - "$folder/texts.csv" <<'PY'
import csv
import io
import sys

import duckdb
import polars
import pyarrow.csv

print("duckdb", duckdb.__version__, "polars", polars.__version__, "pyarrow", pyarrow.__version__)
PATH = sys.argv[1]


def read(content: str, options: str = "") -> list[tuple]:
    """The rows that DuckDB reads."""
    with open(PATH, "w", newline="") as file:
        file.write(content)
    return duckdb.sql(f"from read_csv('{PATH}'{options})").fetchall()


def written(rows: list[tuple]) -> str:
    """The rows as Python's csv module writes them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("id", "text"), *rows])
    return buffer.getvalue()


texts = [(1, "C# is fun"), (2, "see issue #5"), (3, "plain"), (4, "C#, F# and others")]
content = written(texts)
print("four texts:", read(content))
assert read(content) == texts

odd = written([*texts, ("#100", "one more")])
found = read(odd)
print("with the id #100 in a fifth row:", found)
assert found == [(1, "C"), (2, "see issue "), (3, "plain"), (4, '"C')], "the behavior has changed"
sniffed = duckdb.sql(f"select comment from sniff_csv('{PATH}')").fetchall()
print("sniffed:", sniffed)
assert sniffed == [("#",)], "the behavior has changed"
others = polars.read_csv(PATH).rows(), [tuple(row.values()) for row in pyarrow.csv.read_csv(PATH).to_pylist()]
assert others[0] == others[1] == [(str(number), text) for number, text in [*texts, ("#100", "one more")]]
assert read(odd, ", comment=''") == others[0]

many = written([(number, f"text #{number}") for number in range(1000)])
whole, cut = read(many), read(many.replace("id,text\n", "id,text\n# made by hand\n"))
print(f"1,000 texts: {len({text for _, text in whole})} different; below a line '# made by hand': {len(cut):,} rows, "
      f"{len({text for _, text in cut})} different text: {cut[0][1]!r}")
assert len({text for _, text in whole}) == 1000
assert len(cut) == 1000 and {text for _, text in cut} == {"text "}, "the behavior has changed"
PY
