#!/usr/bin/env bash
# evalica 0.4.2: of three models that win 9 of 10 games against the next one, eigen gives the best 0.20, the worst
#   0.88.
#
# Expected: the README lists eigen, by Bonacich's centrality, among the ways to rank models, and the result is sorted
#   with the highest score first. A model that wins more has a higher score, as by the other five ways of the package.
# Observed: the order is turned: the score of a model grows with the games that it loses, as the matrix is multiplied
#   from the wrong side. Both solvers agree. Of two models, both get 0.71, however the games end.
# Why it matters: leaderboards and arenas of language models are made of such comparisons by pairs. The first of this
#   table is the model to be left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q evalica==0.4.2 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import evalica
import numpy as np

print("evalica", version("evalica"))
WAYS = ["counting", "average_win_rate", "bradley_terry", "newman", "pagerank", "elo", "eigen"]


def scores(way: str, pairs: list[str], solver: str) -> dict[str, float]:
    """Scores of the models after ten games a pair, of which the first model wins all but the fifth."""
    games = [(*pair, evalica.Winner.Y if number == 4 else evalica.Winner.X) for number in range(10) for pair in pairs]
    xs, ys, winners = zip(*games)
    return getattr(evalica, way)(list(xs), list(ys), list(winners), solver=solver).scores.to_dict()


for way in WAYS:
    for solver in ("pyo3", "naive"):
        found = scores(way, ["ab", "bc", "ac"], solver)
        print(f"{way} ({solver}):", {model: round(score, 2) for model, score in found.items()})
        order = "cba" if way == "eigen" else "abc"
        assert "".join(found) == order, "the behavior has changed"
wins = np.array([[0, 9, 9], [1, 0, 9], [1, 1, 0]])
values, vectors = np.linalg.eig(wins)
right = np.abs(vectors[:, values.real.argmax()].real)
turned = np.abs(np.linalg.eig(wins.T)[1][:, np.linalg.eig(wins.T)[0].real.argmax()].real)
print("eigenvector of the wins:", right.round(2), "and of the losses:", turned.round(2))
assert np.allclose([scores("eigen", ["ab", "bc", "ac"], "pyo3")[model] for model in "abc"], turned, atol=1e-3)
two = scores("eigen", ["ab"], "pyo3")
print("two models:", two)
assert abs(two["a"] - two["b"]) < 1e-6, "the behavior has changed"
PY
