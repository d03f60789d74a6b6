#!/usr/bin/env bash
# prometheus_client 0.26.0: one observe(nan) makes the sum of a histogram NaN for the life of the process, uncounted.
#
# Expected: an observation is counted once in _count, and all series of a metric describe the same observations. At
#   worst an error, as Counter.inc raises for values below 0.
# Observed: NaN is in no bucket, not even +Inf, and so not in _count, but it is added to _sum, which stays NaN.
#   Counter.inc accepts NaN as well, and the counter stays NaN. A Summary counts it, and its sum is NaN.
# Why it matters: average values are _sum / _count. A single NaN loss or a 0/0 of a rate in a GPT-2 trainer or server
#   blanks the panel until the restart, while the count shows fewer observations than steps and names no culprit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q prometheus_client==0.26.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

print("prometheus_client", version("prometheus_client"))
registry = CollectorRegistry()
metrics = Histogram("loss", "Loss", buckets=(2, 4), registry=registry), Summary("summary", "Loss", registry=registry)
counter = Counter("tokens", "Tokens", registry=registry)
for value in (3.0, float("nan"), 3.0):
    for metric in metrics:
        metric.observe(value)
    counter.inc(value)
names = ("loss_sum", "loss_count", "summary_sum", "summary_count", "tokens_total")
found = {name: str(registry.get_sample_value(name)) for name in names}
found["+Inf bucket"] = str(registry.get_sample_value("loss_bucket", {"le": "+Inf"}))
print("3.0, NaN and 3.0 observed:", found)
expected = {"loss_sum": "nan", "loss_count": "2.0", "summary_sum": "nan", "summary_count": "3.0", "tokens_total": "nan"}
assert found == expected | {"+Inf bucket": "2.0"}, "the behavior has changed"
PY
