#!/usr/bin/env bash
# fire 0.7.1, hydra-core 1.3.8 and OmegaConf 2.3.1: the commit 12e3456 becomes inf, and 1234e56 becomes 1.234e+59.
#
# Expected: a short commit is a text. PyYAML 6.0.3, by which OmegaConf reads its files, keeps both, since YAML 1.1
#   wants a point and a sign in such a number.
# Observed: seven hexadecimal digits with one e among decimal ones are a number: --commit=12e3456 for fire,
#   commit=12e3456 for hydra, and "commit: 12e3456" in a file for OmegaConf, which has its own pattern for numbers.
#   What is saved is .inf or 1.234e+59, and nothing can be recovered from it. With only decimal digits it is an
#   integer. Of 100,000 random commits of 7 digits about 5.6 % become numbers.
# Why it matters: experiments are named and restored by commits. A sweep over commits, or a script that passes $(git
#   rev-parse --short HEAD), works for weeks, and then a run records a commit that is none. Two such runs have the
#   same name, inf.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q fire==0.7.1 hydra-core==1.3.8 \
  omegaconf==2.3.1 pyyaml==6.0.3
"$folder/venv/bin/python" - <<'PY'
import math
import random
from importlib.metadata import version

import fire
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

print({name: version(name) for name in ("fire", "hydra-core", "omegaconf", "pyyaml")})
hydra, received = OverridesParser.create(), []


def run(commit: object) -> None:
    """A command that gets a commit."""
    received.append(commit)


for commit, expected in (("12e3456", math.inf), ("1234e56", 1.234e59), ("1234567", 1234567), ("12f3456", "12f3456")):
    fire.Fire(run, command=[f"--commit={commit}"])
    config = OmegaConf.create(f"commit: {commit}")
    found = {
        "fire": received[-1],
        "hydra": hydra.parse_override(f"commit={commit}").value(),
        "OmegaConf": config.commit,
    }
    kept, saved = yaml.safe_load(f"commit: {commit}")["commit"], OmegaConf.to_yaml(config).strip()
    print(f"{commit}: {found}, PyYAML {kept!r}; OmegaConf saves {saved!r}")
    assert all(value == expected for value in found.values()), "the behavior has changed"
    assert kept == (1234567 if commit == "1234567" else commit)

generator = random.Random(0)
commits = ["".join(generator.choices("0123456789abcdef", k=7)) for _ in range(100_000)]
numbers = [commit for commit in commits if commit.replace("e", "", 1).isdecimal() and commit[0] != "e" != commit[-1]]
sample = [commit for commit in numbers if commit[0] != "0"][:50]
assert not any(isinstance(hydra.parse_override(f"commit={commit}").value(), str) for commit in sample)
print(f"{len(numbers)} of {len(commits)} look like numbers")
assert 0.05 < len(numbers) / len(commits) < 0.06
PY
