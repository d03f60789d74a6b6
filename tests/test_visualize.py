"""Figures of runs: file types, axes, numbers of runs, and error messages."""

import json
import math
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.runs import write_run

import visualize
from estimator.errors import UserError


def drawn(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, arguments)])
    visualize.main()


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("x", ["steps", "tokens", "flops", "time"])
def test_file_type_follows_the_suffix(tmp_path, monkeypatch, suffix, magic, x):
    pytest.importorskip("matplotlib")
    figure = tmp_path / f"curves.{suffix}"
    drawn(monkeypatch, "--run", write_run(tmp_path / "run"), "--figure", figure, "--x", x)
    assert figure.read_bytes().startswith(magic)
    assert sorted(path.name for path in tmp_path.iterdir()) == [figure.name, "run"]


def test_several_runs_on_one_figure_by_name(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / name / "model") for name in ("adam", "muon")]
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, "--run", runs[0], runs[1] / "metrics.jsonl", "--figure", figure, "--log_x", "--log_y")
    text = figure.read_text()
    assert "adam  2.225" in text
    assert "muon  2.225" in text
    assert "adam (40 steps, eval loss 2.2250), muon" in capsys.readouterr().out


@pytest.mark.parametrize(
    "run",
    [
        {"steps": 1, "evaluations": False},
        {"evaluations": False},
        {"changes": {"loss": None}},
        {"changes": {"loss": None, "grad_norm": None, "tokens_per_second": None, "lr": None}},
        {"changes": {"split": "eval", "perplexity": 1.0}},
    ],
    ids=["one point", "no evaluation", "diverged", "loss only", "evaluation only"],
)
def test_unusual_runs_are_drawn(tmp_path, monkeypatch, run):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "curves.png"
    drawn(monkeypatch, "--run", write_run(tmp_path / "run", **run), "--figure", figure)
    assert figure.stat().st_size > 1000


def test_numbers_that_are_no_measurements_are_left_out(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    odd = [
        {"tokens": -64, "loss": 1e308, "step_seconds": 1e300}, {"tokens": 0, "loss": -1.7e308, "step_seconds": -5},
        {"tokens": -1, "loss": math.inf, "lr": -math.inf, "grad_norm": "x"}, {"tokens": -2, "loss": -1.0},
    ]  # fmt: skip
    rows = [{"step": step, "split": "train"} | values for step, values in enumerate(odd)]
    rows += [{"step": 1, "split": "event", "event": "start", "start_seconds": 1e308}] * 2
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, tmp_path, "--report", "--figure", figure, "--x", "tokens", "--log_x", "--log_y")
    assert figure.stat().st_size > 1000
    assert "infinity" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "{0}/none", "--figure", "{0}/a.png"], "none: no such run"),
        (["{0}/none"], "none: no such run"),
        (["{0}/none", "--figure", "{0}/no/a.jpg", "--report"], "none: no such run"),
        (["--run", "{0}", "--figure", "{0}/a.png"], "not a run's folder"),
        (["--run", "{0}/empty", "--figure", "{0}/a.png"], "has no records"),
        (["--run", "{0}/run", "--figure", "{0}/no/a.png"], "no: no such folder.*mkdir"),
        (
            ["--run", "{0}/run", "--figure", "{0}/run/metrics.jsonl/a.png"],
            "metrics.jsonl is a file; name a file in",
        ),
        (
            ["--run", "{0}/run", "--figure", "gs://bucket/a.png"],
            "gs://bucket/a.png: a figure is written to",
        ),
        (["--run", "{0}/run", "--figure", "{0}/a.jpg"], "unknown figure format.*png"),
        (["--run", "{0}/run", "--figure", "{0}/a"], "unknown figure format"),
        (["--run", "{0}/run", "--figure", "{0}/a.png", "--smooth", "1"], "--smooth 1: .*below 1"),
        (["--run", "{0}/timeless", "--figure", "{0}/a.png", "--x", "time"], "use --x steps"),
        (["{0}/run", "--figure", "{0}/a.png", "--panels", "mfu", "--end", "0"], "--end 0: "),
        (["name={0}/no-*", "--figure", "{0}/a.png"], "no-.*: no run has such a name"),
        (["{0}/timeless", "--figure", "{0}/a.png", "--x", "flops"], "does not record its flops; use --x steps or"),
    ],
)
def test_what_a_person_can_get_wrong_is_said(tmp_path, monkeypatch, arguments, message):
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "run")
    write_run(tmp_path / "timeless", changes={"step_seconds": None, "flops": None})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=message):
        drawn(monkeypatch, *(argument.format(tmp_path) for argument in arguments))
    assert not list(tmp_path.glob("*a.*"))


def test_seeds_share_a_curve_by_name_or_by_configuration(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    for index in range(3):
        folder = write_run(tmp_path / f"adam-{index}", changes={"loss": 2.0 + index})
        values = {"model_path": str(folder), "train_batch_size": 8, "seed": index, "lr": 0.1}
        (folder / "config.json").write_text(json.dumps(values))
    other = write_run(tmp_path / "$a_b$_c")  # must not be parsed as mathematics
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, f"adam={tmp_path}/adam-*", other, "--figure", figure, "--theme", "dark", "--title", "Two $")
    text = figure.read_text()
    assert "adam (3 seeds)  2.225 ± 0.000" in text
    assert "$a_b$_c  2.225" in text
    assert "Two $" in text
    assert capsys.readouterr().out.startswith(f"{figure}: adam (3 seeds, 40 steps, eval loss 2.2250), $a")
    drawn(monkeypatch, *sorted(tmp_path.glob("adam-*")), "--seeds", "--figure", figure)
    assert capsys.readouterr().out == f"{figure}: adam-0 (3 seeds, 40 steps, eval loss 2.2250)\n"


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ([{"lr": 0.1, "seed": 1}, {"lr": 0.1, "seed": 2}], "2 seeds, "),
        ([{"lr": 0.1, "seed": 1}, {"lr": 0.1, "seed": 1}], "2 runs, "),
        ([{"lr": 0.1, "n_layer": 1}, {"lr": 0.2, "n_layer": 2}], "2 runs that differ in lr, n_layer; "),
        ([{"lr": 0.1, "seed": 1}, {"seed": 2}], "2 runs that differ in lr; "),
        ([{"lr": 0.1, "seed": 1}, None], "2 runs, "),
        ([dict.fromkeys("abcdefg", value) for value in range(2)], "2 runs that differ in a, b, c, d, e and 2 more; "),
    ],
)
def test_runs_are_called_seeds_where_only_the_seed_differs(tmp_path, monkeypatch, capsys, configs, said):
    pytest.importorskip("matplotlib")
    for index, config in enumerate(configs):
        folder = write_run(tmp_path / f"run-{index}")
        if config:
            values = {"model_path": str(folder), "train_batch_size": 8} | config
            (folder / "config.json").write_text(json.dumps(values))
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, f"a={tmp_path}/run-*", "--figure", figure)
    assert capsys.readouterr().out == f"{figure}: a ({said}40 steps, eval loss 2.2250)\n"
    assert f"a ({said[:6]}" in figure.read_text()


@pytest.mark.parametrize("name", ["", "a="])
def test_a_pattern_takes_the_runs_and_leaves_the_other_files(tmp_path, monkeypatch, capsys, name):
    pytest.importorskip("matplotlib")
    for index in range(2):
        write_run(tmp_path / f"000{index}")
        (tmp_path / f"000{index}.json").write_text('{"lr": 0.1}')
        (tmp_path / f"000{index}.log").write_bytes(b"\xff step 1\n")
    (tmp_path / "0002").mkdir()
    (tmp_path / "0003.jsonl").write_bytes((tmp_path / "0000" / "metrics.jsonl").read_bytes())
    (tmp_path / "0004").symlink_to("nothing")
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, f"{name}{tmp_path}/000*", "--figure", figure)
    said = capsys.readouterr()
    assert said.err == f"note: {tmp_path}/000*: left out 6 of its matches, which are no runs\n"
    assert said.out.count("0003.jsonl") == (not name)
    assert ("a (3 runs, 40 steps" in said.out) == bool(name)
    for path in sorted(tmp_path.glob("000*")):
        if path.suffix in (".json", ".log"):
            with pytest.raises(UserError, match=f"{path.name}: no metrics file; give a run's folder"):
                drawn(monkeypatch, path, "--figure", figure)
    with pytest.raises(UserError, match=r"\*.json: nothing with such a name is a run's folder or metrics file"):
        drawn(monkeypatch, f"{name}{tmp_path}/*.json", "--figure", figure)


@pytest.mark.parametrize("option", ["--figure", "--report"])
def test_a_pattern_that_the_shell_expands_draws_the_runs(tmp_path, monkeypatch, capsys, option):
    """`runs/*` names the cache of prepared text, which is next to the runs, and runs that have just begun."""
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        write_run(tmp_path / name)
    (tmp_path / "cache").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.jsonl").touch()
    others = [f"{index}.json" for index in range(5)]
    for name in others:
        (tmp_path / name).write_text("{}")
    made = [option, tmp_path / "z.svg"] if option == "--figure" else [option]
    paths = sorted(tmp_path.glob("*"))
    drawn(monkeypatch, *paths, *made)
    said = capsys.readouterr()
    assert said.out.count("a (40 steps" if option == "--figure" else "report.html") == (1 + (option == "--report"))
    first = ", ".join(f"{tmp_path}/{name}" for name in others)
    assert said.err == (
        f"note: left out {first} and 1 more: no runs\n"
        f"note: left out {tmp_path}/new: not at the first log line (log_steps) yet\n"
    )
    with pytest.raises(UserError, match=r"0\.json: no metrics file"):  # nothing is left
        drawn(monkeypatch, tmp_path / "0.json", tmp_path / "cache", *made)
    with pytest.raises(UserError, match="none: no such run"):
        drawn(monkeypatch, tmp_path / "a", tmp_path / "none", *made)


@pytest.mark.parametrize(
    ("vocabularies", "sizes", "differ"),
    [("aa", (512, 512), False), ("ab", (512, 512), True), ("a ", (512, 42), True), ("a ", (512, 512), False)],
)
def test_runs_of_other_vocabularies_are_said_not_to_compare(tmp_path, monkeypatch, capsys, vocabularies, sizes, differ):
    pytest.importorskip("matplotlib")
    for index, (digest, size) in enumerate(zip(vocabularies, sizes, strict=True)):
        folder = write_run(tmp_path / f"run-{index}")
        values = {"model_path": str(folder), "train_batch_size": 8, "n_vocab": size}
        (folder / "config.json").write_text(json.dumps(values))
        if digest != " ":
            (folder / "vocabulary.json").write_text(json.dumps({"digest": digest}))
        with (folder / "metrics.jsonl").open("a") as log:
            evaluation = {"split": "eval", "loss": 2.225, "bits_per_byte": 1.0 + index, "time": 0.0}
            log.write(json.dumps({"step": 40, "tokens": 2560} | evaluation) + "\n")
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, f"{tmp_path}/run-*", "--figure", figure)
    said = capsys.readouterr()
    assert ("vocabularies differ, so losses per token do not compare" in said.err) == differ
    assert ("2.2250, 2.0000 bits per byte" in said.out) == differ
    assert ("vocabularies differ: losses per token do not compare" in figure.read_text()) == differ


@pytest.mark.parametrize("option", ["--figure", "--report"])
def test_a_pattern_leaves_out_runs_that_have_not_logged_a_step(tmp_path, monkeypatch, capsys, option):
    """As in a sweep that has begun another trial."""
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "0000")
    start = '{"step": 0, "tokens": 0, "split": "event", "event": "start", "time": 1.7e9}\n'
    for name, text in (("0001", start), ("0002", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text)
    made = [option, tmp_path / "curves.svg"] if option == "--figure" else [option]
    drawn(monkeypatch, f"{tmp_path}/000*", *made)
    said = capsys.readouterr()
    left = f"left out {tmp_path}/0001, {tmp_path}/0002: not at the first log line (log_steps) yet"
    assert said.err == f"note: {tmp_path}/000*: {left}\n"
    assert said.out.startswith(str(made[1] if option == "--figure" else tmp_path / "0000" / "report.html"))
    with pytest.raises(UserError, match="no run with such a name has reached its first log line"):
        drawn(monkeypatch, f"{tmp_path}/000[12]", *made)
    (tmp_path / "0002" / "metrics.jsonl").write_text("{}\n")  # damaged, which is an error
    with pytest.raises(UserError, match=r"0002/metrics\.jsonl, line 1: not a record"):
        drawn(monkeypatch, f"{tmp_path}/000*", *made)


def test_reports_of_a_pattern(tmp_path, monkeypatch, capsys):
    for index in range(2):
        write_run(tmp_path / f"run-{index}")
    drawn(monkeypatch, f"{tmp_path}/run-*", "--report")
    assert capsys.readouterr().out == "".join(f"{tmp_path}/run-{index}/report.html\n" for index in range(2))


def test_a_mean_says_how_many_runs_did_not_diverge(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    diverged = {1: 0, 2: 20}  # seed -> last step with a loss
    for seed in range(4):
        file = write_run(tmp_path / f"run-{seed}") / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            if row["split"] == "eval" and row["step"] > diverged.get(seed, 40):
                row["loss"] = math.nan
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, f"adam={tmp_path}/run-*", "--figure", figure)
    assert capsys.readouterr().out == f"{figure}: adam (4 runs, 40 steps, eval loss 2.2250 over 2 of 4 runs)\n"
    drawn(monkeypatch, f"adam={tmp_path}/run-*", tmp_path / "run-2", "--figure", figure)
    assert "adam (4 runs)  2.225 ± 0.000 over 2 of 4 runs" in figure.read_text()
    assert "run-2 (40 steps, eval loss nan)" in capsys.readouterr().out


def test_twelve_runs_have_twelve_looks_in_the_legend(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from xml.etree import ElementTree

    folders = [write_run(tmp_path / f"run {index} {'long ' * index * 3}") for index in range(12)]
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, *folders, "--figure", figure)
    root = ElementTree.fromstring(figure.read_text())
    legend = next(group for group in root.iter() if group.get("id") == "legend_1")
    looks = [path.get("style") for path in legend.iter() if path.tag.endswith("path")]
    assert len(set(looks)) == 12


def test_panels_without_data_are_left_out(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "curves.svg"
    run = write_run(tmp_path / "run", changes={"loss_8": 4.0, "loss_16": 3.0})
    drawn(monkeypatch, run, "--figure", figure)
    text = figure.read_text()
    for title in (
        "loss (nats per token)",
        "loss, last 30%",
        "loss, logarithmic axis",
        "mean loss of first N positions",
    ):
        assert f">{title}<" in text
    assert ">model FLOPs utilization<" not in text
    drawn(monkeypatch, run, "--figure", figure, "--panels", "lr", "grad_norm", "mfu")
    text = figure.read_text()
    assert ">learning rate<" in text
    assert "loss (nats" not in text
    assert capsys.readouterr().err == "note: no run has two points or more for the panel mfu\n"


@pytest.mark.parametrize("changes", [{"loss_8": 4.0}, {"mfu": None}])
def test_a_panel_of_a_single_point_is_left_out(tmp_path, monkeypatch, changes):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "curves.svg"
    folder = write_run(tmp_path / "run", steps=2, changes=changes)
    first, second = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(first + "\n" + second.replace('"mfu": null', '"mfu": 0.4') + "\n")
    drawn(monkeypatch, folder, "--figure", figure)
    text = figure.read_text()
    assert ">gradient norm<" in text
    assert ">mean loss of first N positions<" not in text
    assert ">model FLOPs utilization<" not in text


@pytest.mark.parametrize(
    ("steps", "losses", "is_drawn"),
    [
        ((40, 40), (0.0, 0.1), True),
        ((40, 32), (0.0, 0.1), True),
        ((40, 20), (0.0, 0.1), False),
        ((40, 40), (0.0, 9.0), False),
        ((40, 40), (0.0, math.nan), True),
    ],
)
def test_the_ends_of_runs_are_enlarged_where_they_are_close(tmp_path, monkeypatch, steps, losses, is_drawn):
    pytest.importorskip("matplotlib")
    for index, (last, added) in enumerate(zip(steps, losses, strict=True)):
        file = write_run(tmp_path / f"run-{index}", steps=last) / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row | {"loss": row["loss"] + (added if row["step"] > 2 else 0)} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = tmp_path / "curves.svg"
    drawn(monkeypatch, f"{tmp_path}/run-*", "--figure", figure)
    assert (">loss, last 30%<" in figure.read_text()) == is_drawn
    drawn(monkeypatch, f"{tmp_path}/run-*", "--figure", figure, "--panels", "loss", "zoom")
    assert ">loss, last 30%<" in figure.read_text()


@pytest.mark.parametrize(("width", "columns"), [(11, [2, 3, 2]), (6, [1, 2, 2, 2]), (4, [1] * 7)])
def test_panels_are_stacked_where_the_figure_is_narrow(tmp_path, width, columns):
    pytest.importorskip("matplotlib")
    from estimator.plots import figure, runs

    groups = runs.load_groups([str(write_run(tmp_path / "run", changes={"mfu": 0.4}))], by_seed=False)
    with figure.style(figure.THEMES["light"]):
        canvas = figure.draw(groups, figure.Options(width=width))
    canvas.draw_without_rendering()
    tops = [round(axes.get_position().y1, 2) for axes in canvas.axes]
    assert [tops.count(top) for top in sorted(set(tops), reverse=True)] == columns


def test_seeds_have_marks_where_they_were_evaluated_and_the_whole_band_is_seen(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from estimator.plots import figure, runs

    for index in range(3):
        write_run(tmp_path / f"run-{index}", changes={"tokens_per_second": 10.0**index})
    lines = [
        {"step": 40, "task": "eval_split", "loss_8": 4.0, "loss_16": 3.0},
        {"step": 41, "task": "x", "loss_8": 9.0},
    ]
    (tmp_path / "run-0" / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups = runs.load_groups([f"all={tmp_path}/run-*"], by_seed=False)
    with figure.style(figure.THEMES["light"]):
        canvas = figure.draw(groups, figure.Options())
    panels = {axes.get_title(loc="left"): axes for axes in canvas.axes}
    marks = next(line for line in panels["loss (nats per token)"].lines if line.get_marker() == "o")
    assert list(marks.get_xdata()) == list(groups[0].runs[0].evaluation["step"])
    assert panels["tokens per second"].get_ylim()[1] >= 100
    assert list(panels["mean loss of first N positions"].lines[0].get_xydata().ravel()) == [8, 4, 16, 3]


def test_missing_matplotlib_is_named_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        drawn(monkeypatch, "--run", write_run(tmp_path / "run"), "--figure", tmp_path / "a.png")


def test_the_program_ends_with_one_line_and_a_code(tmp_path):
    command = [sys.executable, str(ROOT / "visualize.py"), "--run", "nothing", "--figure", "a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing: no such run")
    assert done.stderr.count("\n") == 1
