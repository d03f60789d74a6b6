#!/usr/bin/env bash
# torchmetrics 1.9.0: swapping the two references of an answer changes its BLEU from 1.0 to 0.867; sacrebleu gives 100.
#
# Expected: the order of the references means nothing, as in sacrebleu, whose computation SacreBLEUScore is documented
#   to follow.
# Observed: the brevity penalty compares the answer with the reference whose length is nearest. If one reference is as
#   much shorter as another is longer, torchmetrics takes the one that comes first, and sacrebleu the shorter one.
#   With the longer one first, the answer counts as too short. BLEUScore and SacreBLEUScore do it alike. With one
#   reference they agree with sacrebleu, and most tests have one.
# Why it matters: several references are what BLEU was made for, and the order in a file is arbitrary. Over a set of
#   answers the differences are of some points, as large as those between models, and published numbers are
#   sacrebleu's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 \
    sacrebleu==2.6.0
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sacrebleu
from torchmetrics.text import BLEUScore, SacreBLEUScore

print({name: version(name) for name in ("torchmetrics", "sacrebleu", "torch")})
answer = "the boats lie in the old harbor"
shorter, longer = "the boats lie in the old", "the boats lie in the old harbor today"


def scores(references: list[str]) -> list[float]:
    """BLEU by both classes of torchmetrics and by sacrebleu."""
    of_torchmetrics = [float(metric([answer], [references])) for metric in (SacreBLEUScore(), BLEUScore())]
    streams = [[reference] for reference in references]
    return [*of_torchmetrics, sacrebleu.corpus_bleu([answer], streams, smooth_method="none").score / 100]


found = {references: scores(list(references)) for references in ((shorter, longer), (longer, shorter), (longer,))}
for references, (one, other, of_sacrebleu) in found.items():
    print(f"{list(references)}: SacreBLEUScore {one:.4f}, BLEUScore {other:.4f}, sacrebleu {of_sacrebleu:.4f}")
assert all(abs(value - 1) < 1e-5 for value in found[shorter, longer])
assert all(abs(value - found[longer,][2]) < 1e-5 for value in found[longer,])
assert abs(found[longer, shorter][2] - 1) < 1e-5
assert all(abs(value - 0.8669) < 1e-3 for value in found[longer, shorter][:2]), "the behavior has changed"
PY
