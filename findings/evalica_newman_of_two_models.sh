#!/usr/bin/env bash
# evalica 0.4.2: newman gives two models the same score, 1.0, after 9 wins and 1 loss, if no game was a tie.
#
# Expected: Newman's iteration finds the scores of Bradley and Terry if there are no ties: 3.0 and 0.33 for nine to
#   one, as bradley_terry of the same package gives. With three models it does.
# Observed: with two models and no tie the iteration jumps between two points, of which the last one is 1.0 and 1.0
#   after any even number of steps, and `limit` is 100. The result has iterations=100; no error or warning tells that
#   it did not converge. One tie among the games, and the scores are right. Both solvers do so.
# Why it matters: "is the new model better than the old one" is a comparison of two, and judges that must choose give
#   no ties. The table says that both are equal, whatever was observed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q evalica==0.4.2 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" -W error - <<'PY'
from importlib.metadata import version

import evalica

print("evalica", version("evalica"))


def ratio(way: str, wins: int, losses: int, ties: int = 0, **options: object) -> float:
    """Score of the first model divided by that of the second one."""
    results = [evalica.Winner.X] * wins + [evalica.Winner.Y] * losses + [evalica.Winner.Draw] * ties
    number = len(results)
    found = getattr(evalica, way)(["a"] * number, ["b"] * number, results, **options)
    return found.scores["a"] / found.scores["b"]


for wins, losses in [(9, 1), (7, 3), (70, 30)]:
    for solver in ("pyo3", "naive"):
        found = ratio("newman", wins, losses, solver=solver)
        right = ratio("bradley_terry", wins, losses, solver=solver)
        print(f"{wins} wins, {losses} losses ({solver}): {found}, by Bradley and Terry {right:.3f}")
        assert abs(right - wins / losses) < 1e-3
        assert found == 1, "the behavior has changed"
    assert ratio("newman", wins, losses, limit=1000) == 1, "the behavior has changed"
    assert ratio("newman", wins, losses, ties=1) > 1.5
print("with limit=1, 2, 3, 4:", [round(ratio("newman", 9, 1, limit=limit), 3) for limit in range(1, 5)])
PY
