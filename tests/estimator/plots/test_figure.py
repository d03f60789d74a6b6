"""Figures as Matplotlib lays them out."""

import pytest

pytest.importorskip("matplotlib")

from helpers.runs import write_run

from estimator.plots import figure, runs

LONG = "experiment-with-a-long-name-lr-0.003-batch-64-seed-"


@pytest.mark.parametrize("width", [3, 3.6, 5, 7.2, 11])
@pytest.mark.parametrize("names", [["a", "b", "c"], [f"{LONG}{seed}" for seed in range(3)]])
def test_the_legend_fits_into_the_figure(tmp_path, monkeypatch, width, names):
    monkeypatch.setattr(figure, "vocabularies_differ", lambda groups: True)
    groups = runs.load_groups([str(write_run(tmp_path / name)) for name in names], by_seed=False)
    with figure.style(figure.THEMES["light"]):
        canvas = figure.draw(groups, figure.Options(width=width))
    canvas.draw_without_rendering()
    (legend,) = canvas.legends
    assert legend.get_window_extent().x0 >= 0
    assert legend.get_window_extent().x1 <= width * canvas.dpi
    title = legend.get_title().get_text().split()
    assert " ".join(title).endswith("vocabularies differ: losses per token do not compare")
    loss = f"  {groups[0].last_losses.mean():.3f}"
    assert all(text.get_text().endswith(loss) for text in legend.get_texts())


@pytest.mark.parametrize("width", [3, 3.6, 5, 7.2])
def test_the_losses_of_groups_stay_in_a_narrow_legend(tmp_path, width):
    for seed in range(3):
        write_run(tmp_path / f"{LONG}{seed}", evaluations=seed < 2)
    groups = runs.load_groups([f"{LONG}{name}={tmp_path}/*" for name in "ab"], by_seed=False)
    with figure.style(figure.THEMES["light"]):
        canvas = figure.draw(groups, figure.Options(width=width))
    canvas.draw_without_rendering()
    (legend,) = canvas.legends
    assert legend.get_window_extent().x1 <= width * canvas.dpi
    result = f"(3 runs) {groups[0].last_losses.mean():.3f} ± 0.000 over 2 of 3 runs"
    assert all(" ".join(text.get_text().split()).endswith(result) for text in legend.get_texts())
