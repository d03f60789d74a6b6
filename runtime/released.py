"""The catalogue of released models: under which names they are known, where they lie, which files they have.

OpenAI called the two smaller ones 117M and 345M first; both names mean the same files. ConnorJL's model of the name
117M is another one, called `ConnorJL/117M` here.
"""

from typing import NamedTuple

from runtime.errors import UserError

FOLDER = "pretrained"  # where downloads go, and where init_from looks for a name
ENCODER = "encoder"  # the folder of GPT-2's vocabulary, as the configs name it
OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
CONNORJL = "https://storage.googleapis.com/connors-models/public"
HUGGING_FACE = "https://huggingface.co"
OLD_NAMES = {"117M": "124M", "345M": "355M", "762M": "774M", "1.5B": "1558M"}
VOCABULARY = ("encoder.json", "vocab.bpe")
CHECKPOINT = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")
# Hugging Face: the weights are the first of these kinds that is there; the others are taken where they exist.
HF_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
HF_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
)  # fmt: skip
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


class Released(NamedTuple):
    """folder: below FOLDER, or ENCODER. base: URL that the files' names are appended to; None: Hugging Face's `folder`.

    files: all are needed. checkpoint: the name that TensorFlow's list of checkpoints is to give.
    """

    folder: str
    base: str | None
    files: tuple[str, ...] = ()
    checkpoint: str | None = None


OPENAI_NAMES = ("124M", "355M", "774M", "1558M")
CATALOGUE = {
    name: Released(name, f"{OPENAI}/{name}", (*VOCABULARY, "hparams.json", *CHECKPOINT), "model.ckpt")
    for name in OPENAI_NAMES
} | {
    name: Released(name, f"{CONNORJL}/{name.removeprefix('ConnorJL/')}", CHECKPOINT, "model.ckpt")
    for name in ("PrettyBig", "ConnorJL/117M", "ConnorJL/1.5B")
} | {"encoder": Released(ENCODER, f"{OPENAI}/124M", VOCABULARY)}  # fmt: skip


def folder_name(name: str) -> str:
    """The folder, below FOLDER, of a model by any of its names."""
    return OLD_NAMES.get(name, name)


def find(name: str) -> Released:
    """What a name means: an entry of the catalogue, or `org/model` on Hugging Face."""
    known = CATALOGUE.get(folder_name(name))
    if known:
        return known
    parts = name.split("/")
    if len(parts) == 2 and all(part and not part.startswith(".") for part in parts):
        return Released(name, None)
    raise UserError(
        f"no released model is called {name}; there are {', '.join(CATALOGUE)}, and any GPT-2 of Hugging Face as "
        "org/model, such as openai-community/gpt2"
    )
