"""Downloads released models and vocabularies; resumes interrupted files and verifies each.

    python3 download_model.py 124M                      OpenAI's: 124M, 355M, 774M, 1558M (also 117M, 345M, 762M, 1.5B)
    python3 download_model.py openai-community/gpt2     any GPT-2 on Hugging Face, as org/model[@revision], by the
                                                        address of its page, or as gpt2, gpt2-medium, distilgpt2 ...
    python3 download_model.py PrettyBig                 ConnorJL's: PrettyBig, ConnorJL/117M, ConnorJL/1.5B
    python3 download_model.py encoder                   GPT-2's vocabulary alone

A model goes to pretrained/NAME, GPT-2's vocabulary to encoder as well; then "init_from": "NAME" begins with it.
--from names a folder or an address that has the same files.
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from estimator.arguments import Parser
from estimator.errors import run_program
from estimator.interop import hub
from estimator.storage import user_paths


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="see above")
    parser.add_argument(
        "--from", type=str, dest="mirror", metavar="DIR|URL", help="a folder or an address with the same files"
    )
    parser.add_argument(
        "--out", type=user_paths.argument, default=".", metavar="DIR", help="parent of pretrained/ and encoder/ (.)"
    )
    arguments = parser.parse_args()
    model = hub.find(arguments.name)
    with tqdm(unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def progress(name: str, done: int, total: int | None) -> None:
            bar.set_description(name, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        note = partial(bar.write, file=sys.stderr)
        folder = hub.fetch(model, Path(arguments.out), mirror=arguments.mirror, progress=progress, note=note)
    print(hub.describe(model, folder))


if __name__ == "__main__":
    run_program(main)
