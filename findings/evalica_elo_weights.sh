#!/usr/bin/env bash
# evalica 0.4.2: a game of weight 0 takes two points from the winner of elo, and one of weight 2 gives the winner 6
#   points and takes 2 from the loser.
#
# Expected: a game of weight 2 counts as two, one of weight 0 not at all. What one model wins, the other one loses, so
#   the sum of the ratings stays.
# Observed: the weight multiplies the result of the game, 1 or 0, before the expected result is taken away, instead of
#   the whole change. The loser loses the same at all weights, and below a weight of 0.5 the winner loses too. The
#   documentation says "The example weights". bradley_terry and counting treat weights as numbers of games.
# Why it matters: votes of arenas are weighted, by the language, by duplicates of prompts or by how sure the judge is.
#   All ratings drift together, and models with many games of small weights sink although they win all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q evalica==0.4.2 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import evalica
from evalica import Winner

print("evalica", version("evalica"))


def ratings(results: list[Winner], weights: list[float], solver: str = "pyo3") -> list[float]:
    """Ratings of two models, which begin with 1000."""
    number = len(results)
    found = evalica.elo(["a"] * number, ["b"] * number, results, weights=weights, solver=solver)
    return [round(float(found.scores[model]), 6) for model in "ab"]


for weight, expected in [(1.0, [1002, 998]), (2.0, [1006, 998]), (0.5, [1000, 998]), (0.0, [998, 998])]:
    for solver in ("pyo3", "naive"):
        found = ratings([Winner.X], [weight], solver)
        print(f"a wins a game of weight {weight} ({solver}): {found}")
        assert found == expected, "the behavior has changed"
tie = ratings([Winner.Draw], [0.0])
print("a tie of weight 0:", tie)
assert tie == [998, 998], "the behavior has changed"
all_won = ratings([Winner.X] * 100, [0.1] * 100)
print("a wins 100 games of weight 0.1:", all_won)
assert max(all_won) < 1000, "the behavior has changed"
games = ["a"] * 10, ["b"] * 10, [Winner.X] * 9 + [Winner.Y]
weighted = evalica.bradley_terry(["a"] * 2, ["b"] * 2, [Winner.X, Winner.Y], weights=[9.0, 1.0]).scores
assert abs(weighted["a"] - evalica.bradley_terry(*games).scores["a"]) < 1e-6
PY
