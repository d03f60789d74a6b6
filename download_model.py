"""Downloads released models and vocabularies, each file verified and continued where it was cut off.

    python3 download_model.py 124M                      OpenAI's: 124M, 355M, 774M, 1558M (also 117M, 345M, 762M, 1.5B)
    python3 download_model.py openai-community/gpt2     any GPT-2 on Hugging Face, as org/model
    python3 download_model.py PrettyBig                 ConnorJL's: PrettyBig, ConnorJL/117M, ConnorJL/1.5B
    python3 download_model.py encoder                   GPT-2's vocabulary alone

A model goes to pretrained/NAME, GPT-2's vocabulary to encoder as well; then "init_from": "NAME" begins with it.
--from names a folder or an address that has the same files.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from runtime import pretrained, released
from runtime.errors import run_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="see above")
    parser.add_argument("--from", dest="mirror", metavar="DIR|URL", help="a folder or an address with the same files")
    parser.add_argument("--out", default=".", metavar="DIR", help="where pretrained and encoder lie (here)")
    arguments = parser.parse_args()
    model = released.find(arguments.name)
    with tqdm(unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def progress(name: str, done: int, total: int | None) -> None:
            bar.set_description(name, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        note = partial(bar.write, file=sys.stderr)
        folder = pretrained.fetch(model, Path(arguments.out), mirror=arguments.mirror, progress=progress, note=note)
    print(pretrained.describe(model, folder))


if __name__ == "__main__":
    run_program(main)
