"""Sweeps: the parameters they choose, and identical results after kills of sweeps or trials."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import QUICK_COMPILE, ROOT
from helpers.launching import wait_for
from helpers.main_runs import call, options

from estimator import config
from estimator.errors import UserError
from estimator.search import sweep, sweep_results
from estimator.search.study import Study, rehearse
from estimator.search.sweep_config import Range, SweepConfig
from estimator.search.trials import Trial, TrialStore
from estimator.training.control_files import ControlFolder

# Replaces main.py: the loss falls from 9 to (log10(lr) + 2)^2 with one evaluation per step. It obeys "stop".
TRAINER = """
import fcntl, json, math, os, pathlib, sys, time
values = json.load(open(sys.argv[sys.argv.index("--model") + 1]))
run = pathlib.Path(values["model_path"])
run.mkdir(exist_ok=True)
lock = open(run / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with open(run / "starts", "a") as file:
    file.write("x")
if values["lr"] > 0.5:
    print("error: lr: too large")
    sys.exit(2)
if os.environ.get("FAIL") == run.name:
    print("error: No space left on device; free some space and run the same command again")
    sys.exit(int(os.environ["CODE"]))
if os.environ.get("KILL") == run.name:
    os.kill(os.getpid(), 9)
log = run / "metrics.jsonl"
done = len(log.read_text().splitlines()) if log.exists() else 0
for step in range(done + 1, values["max_steps"] + 1):
    if step == 3 and os.environ.get("HANG") == run.name:
        time.sleep(1000)
    loss = math.nan if step == 1 and values["lr"] == 0.03 else 9 / step + (math.log10(values["lr"]) + 2) ** 2
    with open(log, "a") as file:
        file.write(json.dumps({"step": step, "tokens": step, "split": "eval", "loss": loss, "time": 0.0}) + "\\n")
    while step == 2 and values["lr"] < 1e-4:
        if any('"stop"' in path.read_text() for path in (run / "control").glob("*.json")):
            sys.exit(4)
        time.sleep(0.01)
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Replaces main.py by the trainer above; returns a function that runs a sweep of `lr`, and its directory."""
    path = tmp_path / "trainer.py"
    path.write_text(TRAINER)
    monkeypatch.setattr(sweep, "MAIN", path)
    monkeypatch.setattr(sweep, "LOOK_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)

    def run(**values) -> int | None:
        (tmp_path / "lr.json").write_text(json.dumps(values))
        model = ["--model", str(ROOT / "configs" / "tiny.json"), "--set", "max_steps=4"]
        return call(monkeypatch, [*model, "--sweep", str(tmp_path / "lr.json")])

    return run, tmp_path / "runs" / "lr"


def test_a_grid_has_all_combinations_and_a_failed_trial_says_why(trainer, capsys):
    run, folder = trainer
    assert run(parameters={"lr": [0.001, 0.01, 1.0], "n_layer": [1, 2]}, parallel=3) == 0
    out = capsys.readouterr().out
    trials = TrialStore(folder).trials
    assert [trial.values for trial in trials] == [
        {"lr": lr, "n_layer": layers} for lr in (0.001, 0.01, 1.0) for layers in (1, 2)
    ]
    assert [trial.state for trial in trials] == ["complete"] * 4 + ["failed"] * 2
    assert [trial.loss for trial in trials[:4]] == pytest.approx([3.25, 3.25, 2.25, 2.25])
    assert trials[5].reason == "lr: too large"
    assert "trial 0005: failed, lr: too large" in out
    assert f"best: {folder.relative_to(folder.parents[1])}/0002.json, complete, loss 2.2500 at step 4" in out
    values = json.loads((folder / "0003.json").read_text())
    assert (values["lr"], values["n_layer"], values["n_vocab"]) == (0.01, 2, 512)
    assert values["predict_path"] == "auto"  # samples of a trial are in its run
    assert "trial 0003: lr 0.01, n_layer 2; output: runs/lr/0003.log\n" in out
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["0002", "0003", "0000", "0001", "0004", "0005"]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    run(parameters={"lr": [0.001, 0.01, 1.0], "n_layer": [1, 2]})
    assert (folder / "0000" / "starts").read_text() == "x"  # no trials remain
    before, now = '"lr": [0.001, 0.01, 1.0], "n_layer": [1, 2]', '"lr": [0.001]'
    with pytest.raises(UserError, match=re.escape(f"with parameters of the sweep {{{before}}}, not {{{now}}}; to con")):
        run(parameters={"lr": [0.001]})


def test_a_failed_trial_is_tried_again_once_the_others_are_done(trainer, monkeypatch):
    """As its error says: free some space and run the same command again."""
    run, folder = trainer
    monkeypatch.setenv("FAIL", "0000")
    monkeypatch.setenv("CODE", "2")
    plan = {"parameters": {"lr": [0.001, 0.01]}}
    assert run(**plan, trials=1) == 2
    assert run(**plan) == 0  # a trial that is left goes first
    states = lambda: [trial.state for trial in TrialStore(folder).trials]  # noqa: E731
    assert (states(), (folder / "0000" / "starts").read_text()) == (["failed", "complete"], "x")
    monkeypatch.setenv("KILL", "0000")
    monkeypatch.delenv("FAIL")
    assert run(**plan) == 0
    assert TrialStore(folder).trials[0].reason == "killed by SIGKILL; code -9"  # not the error of the start before
    monkeypatch.delenv("KILL")
    assert run(**plan) == 0
    assert states() == ["complete"] * 2
    assert TrialStore(folder).trials[0].reason == ""
    assert [(folder / name / "starts").read_text() for name in ("0000", "0001")] == ["xxx", "x"]


def test_a_diverged_trial_is_not_tried_again(trainer, monkeypatch):
    run, folder = trainer
    monkeypatch.setenv("FAIL", "0000")
    monkeypatch.setenv("CODE", "3")
    for _ in range(2):
        assert run(parameters={"lr": [0.001]}) == 2
    assert [trial.state for trial in TrialStore(folder).trials] == ["failed"]
    assert (folder / "0000" / "starts").read_text() == "x"


def test_another_model_is_told_by_the_keys_that_changed(trainer, tmp_path, monkeypatch):
    run, _ = trainer
    assert run(parameters={"lr": [0.01]}, seed=1) == 0
    model = ["--model", str(ROOT / "configs" / "tiny.json"), "--sweep", str(tmp_path / "lr.json")]
    fault = "holds a sweep that began with max_steps 4, not 5 and sample_steps unset, not 1; to continue it, take back"
    with pytest.raises(UserError, match=fault):
        call(monkeypatch, [*model, "--set", "max_steps=5", "--set", "sample_steps=1"])
    with pytest.raises(UserError, match=r"that began with seed of the sweep 1, not 2; .*set folder to a new one"):
        run(parameters={"lr": [0.01]}, seed=2)


def test_the_best_evaluation_is_the_lowest_that_is_a_number(trainer):
    run, folder = trainer
    assert run(parameters={"lr": [0.01, 0.03]}, objective="best") == 0
    expected = [2.25, 9 / 4 + (math.log10(0.03) + 2) ** 2]
    assert [trial.loss for trial in TrialStore(folder).trials] == pytest.approx(expected)


def test_a_damaged_log_fails_its_trial_alone(trainer):
    run, folder = trainer
    (folder / "0000").mkdir(parents=True)
    (folder / "0000" / "metrics.jsonl").write_text("{damaged\n")
    assert run(parameters={"lr": [0.001, 0.01]}) == 0
    trials = TrialStore(folder).trials
    assert [trial.state for trial in trials] == ["failed", "complete"]
    assert "metrics.jsonl, line 1: not a record" in trials[0].reason


def test_no_trial_outlives_a_sweep_that_cannot_write(trainer, monkeypatch):
    run, folder = trainer
    save, started = TrialStore.save, []

    def full(store):
        if len(store.trials) == 2:
            while not (folder / "0000" / "starts").exists():  # a new process has no command line in /proc yet
                time.sleep(0.01)
            started.extend(path for path in _processes() if str(folder / "0000") in path[1])
            raise OSError(28, "No space left on device")
        save(store)

    monkeypatch.setenv("HANG", "0000")
    monkeypatch.setattr(TrialStore, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(parameters={"lr": [0.001, 0.01]}, folder=str(folder), parallel=2)
    assert len(started) == 1
    assert not any(path in _processes() for path in started)


def test_a_pruner_stops_trials_by_the_control_folder(trainer):
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    run, folder = trainer
    pruner = {"name": "MedianPruner", "n_startup_trials": 1}
    assert run(parameters={"lr": [0.01, 1e-6, 0.02]}, pruner=pruner) == 0
    first, second, third = TrialStore(folder).trials
    assert (first.state, second.state, third.state) == ("complete", "pruned", "complete")
    assert second.step == 2
    assert second.reason == "stopped at step 2"
    assert ControlFolder(str(folder / "0001")).requests()[0].command == "stop"


def test_the_pruner_knows_evaluations_of_a_trial_that_ended_between_two_looks():
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    keys = {"parameters": {"lr": [0.01, 1e-6]}, "pruner": {"name": "MedianPruner", "n_startup_trials": 1}}
    (plan,) = config.parse_sections(keys, [SweepConfig], source="sweep.json")
    study = Study(plan, [])
    study.finish(Trial(0, study.next(0), state="complete", loss=3.0, reports=[(1, 9.0), (2, 4.5), (3, 3.0)]))
    worse = Trial(1, study.next(1), reports=[(1, 8.0)])
    assert not study.should_prune(worse)
    worse.reports.append((2, 20.5))
    assert study.should_prune(worse)


def test_an_evaluation_that_is_no_number_ends_no_sweep_and_no_resumed_one():
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    keys = {"parameters": {"lr": [0.01, 1e-6]}, "pruner": "MedianPruner"}
    (plan,) = config.parse_sections(keys, [SweepConfig], source="sweep.json")
    study = Study(plan, [])
    lost = Trial(0, study.next(0), state="complete", loss=math.nan, reports=[(1, 9.0), (2, math.nan)])
    study.finish(lost)
    other = Trial(1, Study(plan, [lost]).next(1), state="complete", loss=3.0, reports=[(1, 8.0)])
    for after in (study, Study(plan, [lost])):
        after.resume(1, other.values)
        assert not after.should_prune(other)
        after.finish(other)
        assert after.optuna_study.best_value == 3.0


def test_a_killed_sweep_continues_with_its_trials(trainer, tmp_path):
    _, folder = trainer
    (tmp_path / "lr.json").write_text(json.dumps({"parameters": {"lr": [0.001, 0.01]}, "parallel": 2}))
    command = ["--model", str(ROOT / "configs" / "tiny.json"), "--set", "max_steps=4", "--sweep", "lr.json"]
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT)!r}); import main; from estimator.search import sweep;"
        f"sweep.MAIN = pathlib.Path({str(tmp_path / 'trainer.py')!r}); sweep.LOOK_SECONDS = 0.01;"
        f"sys.argv = ['main.py', *{command!r}]; sys.exit(main.main())"
    )
    environment = os.environ | {"HANG": "0001"}
    first = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    log = folder / "0001" / "metrics.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) == 2):
        assert first.poll() is None
        time.sleep(0.02)
    wait_for(lambda: [trial.state for trial in TrialStore(folder).trials] == ["complete", "running"])
    first.kill()
    first.wait()
    orphan = next(path for path in _processes() if str(folder.name) in path[1] and "0001.json" in path[1])
    second = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    time.sleep(0.5)
    os.kill(orphan[0], signal.SIGKILL)  # until now, the second sweep was waiting for it
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0
    assert "trial 0001: complete, loss 2.2500 at step 4" in out
    assert "trial 0000" not in out.split("trial  state")[0]
    assert [(folder / name / "starts").read_text() for name in ("0000", "0001")] == ["x", "xx"]
    assert [trial.loss for trial in TrialStore(folder).trials] == pytest.approx([3.25, 2.25])


def _processes() -> list[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline") as file:
                    found.append((int(name), file.read()))
            except OSError:
                continue
    return found


def test_optuna_chooses_within_the_ranges_and_alike_after_a_restart():
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    parameters = {
        "lr": {"min": 1e-5, "max": 1.0, "log": True},
        "n_layer": {"min": 1, "max": 3},
        "mesh": [None, {"data": 2}],
    }
    (plan,) = config.parse_sections(
        {"parameters": parameters, "sampler": "TPESampler", "trials": 30, "seed": 3}, [SweepConfig], source="sweep.json"
    )
    study, trials = Study(plan, []), []
    for number in range(30):
        trial = Trial(number, study.next(number), state="complete")
        assert 1e-5 <= trial.values["lr"] <= 1
        assert trial.values["n_layer"] in (1, 2, 3)
        assert trial.values["mesh"] in (None, {"data": 2})
        trial.loss = (np.log10(trial.values["lr"]) + 2) ** 2 + trial.values["n_layer"]
        study.finish(trial)
        trials.append(trial)
        if number == 20:
            study = Study(plan, trials)
    assert min(trial.loss for trial in trials) < 1.1
    assert np.mean([trial.loss for trial in trials[20:]]) < np.mean([trial.loss for trial in trials[:10]])


@pytest.mark.parametrize("sampler", ["random", "RandomSampler", "TPESampler"])
def test_sweeps_with_neighboring_seeds_share_no_trial(sampler):
    if sampler != "random":
        pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    seen = []
    for seed in (3, 4):
        values = {"parameters": {"lr": {"min": 1e-5, "max": 1.0, "log": True}}, "sampler": sampler, "trials": 6}
        (plan,) = config.parse_sections({**values, "seed": seed}, [SweepConfig], source="sweep.json")
        study = Study(plan, [])
        for number in range(6):
            trial = Trial(number, study.next(number), state="complete", loss=1.0)
            study.finish(trial)
            seen.append(trial.values["lr"])
    assert len(set(seen)) == 12


def test_random_numbers_of_a_range_are_distributed_as_it_says():
    draws = np.random.default_rng(0).random(20_000)
    logarithmic = [np.log10(Range(min=1e-4, max=1.0, log=True).at(share)) for share in draws]
    assert np.histogram(logarithmic, 4, (-4, 0))[0] / 20_000 == pytest.approx([0.25] * 4, abs=0.02)
    integers = [Range(min=2, max=5).at(share) for share in draws]
    assert np.bincount(integers)[2:] / 20_000 == pytest.approx([0.25] * 4, abs=0.02)
    stepped = [Range(min=0.0, max=0.3, step=0.1).at(share) for share in draws]
    assert sorted({round(value, 6) for value in stepped}) == [0.0, 0.1, 0.2, 0.3]
    assert Range(min=1, max=100, log=True, count=3).points() == [1, 10, 100]
    assert Range(min=0, max=8, step=4).points() == Range(min=0, max=8, step=4.0).points() == [0, 4, 8]


@pytest.mark.parametrize("sampler", ["grid", "random", "TPESampler", "RandomSampler"])
def test_whole_limits_with_a_fractional_step_give_fractions(sampler):
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    keys = {"parameters": {"weight_decay": {"min": 0, "max": 1, "step": 0.25}}, "sampler": sampler, "trials": 30}
    (plan,) = config.parse_sections(keys, [SweepConfig], source="sweep.json")
    study = Study(plan, [])
    drawn = {study.next(number)["weight_decay"] for number in range(plan.count)}
    assert drawn == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_keys_that_a_trial_decides_are_refused_on_the_command_line(trainer, tmp_path, monkeypatch):
    run, folder = trainer
    assert run(parameters={"lr": [0.01]}) == 0
    again = [
        "--model",
        str(ROOT / "configs" / "tiny.json"),
        "--set",
        "max_steps=4",
        "--sweep",
        str(tmp_path / "lr.json"),
    ]
    for key, fix in {
        "model_path": "set folder or runs in .*lr.json instead",
        "predict_path": "into its run folder; leave it out",
        "lr": "the sweep chooses it; leave it out, or take lr out of parameters",
    }.items():
        with pytest.raises(UserError, match=f"^--set {key}: .*{fix}"):
            call(monkeypatch, [*again, "--set", f"{key}={0.1 if key == 'lr' else key}"])
    assert len(TrialStore(folder).trials) == 1


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"parameters": {"l": [1]}}, "no key l; did you mean lr"),
        ({"parameters": {"LR": [1]}}, "no key LR; did you mean lr"),
        ({"parameters": {"learning_rate": [1]}}, "no key learning_rate; write lr"),
        ({"parameters": {"model_path": ["a"]}}, "model_path follows from the trial"),
        ({"parameters": {"lr": {"min": 1, "max": 10**400}}}, "a range reaches from"),
        ({"parameters": {"lr": {"min": -1.7e308, "max": 1.7e308}}}, "a range reaches from"),
        ({"parameters": {"lr": {"min": 0, "max": 1, "step": 5e-324}}}, "step: 4.94066e-324 is too small"),
        (
            {"parameters": {"lr": {"min": 0, "max": 1, "step": 1e-12}}},
            "lr: step: 1,000,000,000,001 points",
        ),
        ({"parameters": {"lr": [1]}, "metric": "split"}, "split is no number"),
        ({"parameters": {"lr": [1]}, "metric": "nothing"}, 'log no "nothing"; write one of loss, perplexity, bits'),
        ({"parameters": {"lr": [1]}, "metric": "eval_loss"}, 'log no "eval_loss"; write one of loss'),
        ({"parameters": {"lr": [1]}, "folder": "gs://bucket/x"}, "name a folder of this machine"),
        ({"parameters": {"l": [1], "beta": [1]}, "metric": "event"}, "has 3 problems:\n.*no key l(.*\n)*.*event is no"),
        (
            {"parameters": {"lr": []}, "sampler": "random", "folder": "gs://b/x"},
            "has 3 problems:\n.*trials(.*\n)*.*gs:",
        ),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"lr": []}}, "parameters: lr: no values"),
        ({"parameters": {"lr": {"min": 1.0, "max": 0.1}}}, "a range needs min < max"),
        (
            {"parameters": {"lr": {"min": 2, "max": 1}, "n_layer": {"min": 1, "mx": 2}, "n_head": 4}, "seed": -1},
            r"has 5 problems:\n.* lr: min: a range needs.*\n.*: max: missing(.*\n)*.*mx: no such key(.*\n)*.*n_head: 4",
        ),
        (
            {"parameters": {"n_layr": [1]}, "seed": -1},
            "has 2 problems:\n.*no key n_layr; did you mean n_la.*\n.*seed:",
        ),
        ({"parameters": {"lr": {"min": 0.1, "max": 1.0}}}, 'needs "count" or "step"'),
        ({"parameters": {"lr": [1]}, "sampler": "random"}, "trials: missing"),
        ({"parameters": {"lr": [1]}, "sampler": "TPSampler", "trials": 1}, "did you mean TPESampler"),
        ({"parameters": {"lr": [1]}, "sampler": "Grid"}, 'sampler: "Grid": write "grid"'),
        ({"parameters": {"lr": [1]}, "sampler": {"name": "random", "seed": 1}, "trials": 1}, 'seed.*: write "random"'),
        (
            {"parameters": {"lr": [0.1, "0.2", None, math.nan]}},
            'problems:\n.*"0.2"; write it without(.*\n)*.*null.*\n.*NaN',
        ),
        ({"parameters": {"stop": ["a"], "n_layer": [1, 2.5]}}, 'n_layer: .*2.5(.*\n)*.*stop: .*write \\["a"\\]'),
        ({"parameters": {"n_layer": {"min": 1, "max": 2.5}}, "sampler": "random", "trials": 2}, "n_layer: .*integer"),
        ({"parameters": {"lr": {"min": -1, "max": 1, "count": 3}}}, "lr: .*greater than or equal to 0, but it is -1"),
    ],
)
def test_mistakes_in_the_file_are_named(values, fault, trainer):
    if "TPSampler" in str(values):
        pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    with pytest.raises(UserError, match=fault):
        trainer[0](**values)


@pytest.mark.parametrize("key", ["eval_steps", "eval_split"])
def test_trials_without_an_evaluation_are_refused_before_any_trains(key, trainer, monkeypatch, tmp_path):
    run, folder = trainer
    (tmp_path / "lr.json").write_text(json.dumps({"parameters": {"lr": [0.01]}}))
    command = ["--model", str(ROOT / "configs" / "tiny.json"), "--sweep", str(tmp_path / "lr.json")]
    with pytest.raises(UserError, match=f"metric: loss is of evaluations.*{key} 0"):
        call(monkeypatch, [*command, "--set", f"{key}=0"])
    assert not folder.exists()
    assert run(parameters={"lr": [0.01], "eval_steps": [0, 4]}) == 0  # a choice may be that


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_trials_of_other_vocabularies_are_not_ranked_by_losses_per_token(metric, trainer, monkeypatch, tmp_path):
    """A smaller vocabulary has less to choose from, so its loss per token is lower whatever the model has learned."""
    run, folder = trainer
    for key, choices in (("n_vocab", [300, 512]), ("encoder_path", ["a", "b"])):
        with pytest.raises(UserError, match=f'metric: {metric} is per token, and {key} gives.*"bits_per_byte"'):
            run(parameters={"lr": [0.01], key: choices}, metric=metric)
    assert not folder.exists()
    assert run(parameters={"lr": [0.01], "n_vocab": [300, 512]}, metric="bits_per_byte") is not None
    (tmp_path / "lr.json").write_text(json.dumps({"parameters": {"n_vocab": [512, 640]}, "folder": "padded"}))
    command = ["--model", str(ROOT / "configs" / "tiny.json"), "--sweep", str(tmp_path / "lr.json")]
    assert call(monkeypatch, [*command, "--set", "encoder_path=encoder", "--set", "max_steps=4"]) == 0  # same tokens


def test_values_that_are_wrong_only_with_others_fail_their_trial_alone(trainer):
    run, folder = trainer
    assert run(parameters={"lr": [0.01], "n_embd": [64, 65], "n_head": [2]}, sampler={"name": "grid"}) == 0
    assert len(TrialStore(folder).trials) == 2


def test_a_sweep_that_began_with_a_wrong_value_continues(trainer, monkeypatch):
    run, folder = trainer
    values = {"parameters": {"lr": [0.01], "seed": ["x"]}}
    with monkeypatch.context() as earlier:
        earlier.setattr(sweep, "_faults_of_trials", lambda plan, setup: [])
        assert run(**values) == 0
    assert run(**values) == 0
    assert (folder / "0000" / "starts").read_text() == "x"


TPE, LR = "TPESampler", {"lr": {"min": 0.001, "max": 0.1}}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"sampler": {"name": TPE, "n_startup_trials": "x"}}, r"TPESampler: .*; .* n_startup_trials \(int\) is \"x\""),
        ({"sampler": {"name": TPE, "gamma": 0.1}}, r"TPESampler: .*gamma \(Callable.* is 0.1"),
        ({"sampler": {"name": TPE, "n_ei_candidates": -1}}, r"TPESampler: .*n_ei_candidates \(int\) is -1"),
        ({"sampler": {"name": TPE, "seeds": 1}}, r"TPESampler: .*seeds \(unknown\) is 1"),
        ({"sampler": {"name": "QMCSampler", "independent_sampler": "x"}}, "independent_sampler: no 'x'; available: Br"),
        ({"sampler": {"name": "GridSampler", "search_space": {"l": [1]}}}, "GridSampler: .*lr, is not found"),
        ({"sampler": "BruteForceSampler"}, "BruteForceSampler: .*step must be given.*choose another sampler"),
        ({"pruner": "PercentilePruner"}, 'PercentilePruner: .*write {"name": "PercentilePruner", "percentile": ...}'),
        ({"pruner": {"name": "MedianPruner", "n_startup_trials": "x"}}, r"MedianPruner: .*n_startup_trials \(int\)"),
        ({"pruner": {"name": "HyperbandPruner", "reduction_factor": "x"}}, r"HyperbandPruner: .*factor \(int\)"),
        (
            {"pruner": {"name": "PatientPruner", "wrapped_pruner": "x", "patience": 1}},
            "wrapped_pruner: no 'x'; av",
        ),
        ({"pruner": {"name": "PatientPruner", "wrapped_pruner": {"n": 1}, "patience": 1}}, "wrapped_pruner: no ''; "),
        ({"pruner": {"name": "PatientPruner", "patience": 1}}, 'PatientPruner: .*write {.*"wrapped_pruner": ...}'),
    ],
)
def test_a_sampler_or_pruner_that_would_fail_later_is_named_before_anything_is_written(values, fault, trainer):
    """Most arguments are used first by the eleventh trial, or by the first evaluation."""
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    run, folder = trainer
    (key,) = values
    with pytest.raises(UserError, match=rf"^.*lr.json: {key}: {fault}.*$"):
        run(**{"parameters": LR, "sampler": TPE, "trials": 20} | values)
    assert not folder.exists()


def test_a_sampler_or_pruner_may_wrap_another():
    optuna = pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    wrapped = {"name": "PercentilePruner", "percentile": 25.0}
    pruner = {"name": "PatientPruner", "wrapped_pruner": wrapped, "patience": 2}
    sampler = {"name": "PartialFixedSampler", "fixed_params": {"lr": 0.01}, "base_sampler": "RandomSampler"}
    parameters = LR | {"lr_min": {"min": 0.0001, "max": 0.001}}
    studies = [Study(SweepConfig(parameters=parameters, sampler=sampler, pruner=pruner, trials=3), []) for _ in "ab"]
    assert isinstance(studies[0].optuna_study.pruner, optuna.pruners.PatientPruner)
    first, second = ([study.next(number) for number in range(3)] for study in studies)
    assert first == second
    assert [values["lr"] for values in first] == [0.01] * 3
    assert len({values["lr_min"] for values in first}) == 3


def test_trying_out_a_pruner_needs_no_permutations(monkeypatch):
    """SciPy's test of equal differences tries all their signs: a WilcoxonPruner would keep a sweep waiting a minute."""
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    stats = pytest.importorskip("scipy.stats")
    monkeypatch.setattr(stats, "permutation_test", lambda *arguments, **options: pytest.fail("equal differences"))
    rehearse(SweepConfig(parameters={"lr": [1, 2]}, sampler="random", pruner="WilcoxonPruner", trials=20))


@pytest.mark.parametrize("sampler", ["BruteForceSampler", {"name": "GridSampler", "search_space": {"lr": ["1", "2"]}}])
def test_a_sampler_that_has_tried_all_choices_ends_no_sweep(sampler):
    pytest.importorskip("optuna", reason="no Optuna; pip install -r requirements-sweep.txt")
    keys = {"parameters": {"lr": [1, 2]}, "sampler": sampler, "trials": 3}
    (plan,) = config.parse_sections(keys, [SweepConfig], source="sweep.json")
    study, drawn = Study(plan, []), []
    for number in range(3):
        drawn.append(study.next(number)["lr"])
        study.finish(Trial(number, {"lr": drawn[-1]}, state="complete", loss=1.0))
    assert {1, 2} == set(drawn[:2])


@pytest.mark.parametrize("name", ["trials.json", "sweep.json"])
@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[" * 5000,
        "[1]",
        '[{"number": "x", "values": {}}]',
        '[{"number": 3, "values": {}}]',
        "\xff",
        '{"model": 1}',
    ],
)
def test_damaged_files_of_a_sweep_are_named(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        TrialStore(tmp_path).require_same({})


def test_the_table_shows_the_best_first_and_shortens_long_reasons(tmp_path):
    (plan,) = config.parse_sections({"parameters": {"lr": [1, 2]}}, [SweepConfig], source="x.json")
    store = TrialStore(tmp_path)
    store.trials = [
        Trial(0, {"lr": 1}, "failed", reason="w" * 100),
        Trial(3, {"lr": 1}, "failed", reason="v" * 100),
        Trial(4, {"lr": 1}, "failed", reason="w" * 100),
        Trial(1, {"lr": 2}, "complete", 2.0, 5),
        Trial(2, {"lr": 1}, "complete", 1.0, 5),
    ]
    lines = sweep_results.report(plan, store).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0002", "0001", "0000"]
    assert max(map(len, lines[:6])) < 130
    assert lines[6:8] == [f"0000: {'w' * 100}", f"0003: {'v' * 100}"]


def test_real_trials_train_in_their_folders(corpus, tmp_path):
    """One trial completes; the other fails because the width is not divisible by the number of heads."""
    (tmp_path / "heads.json").write_text(
        json.dumps({"parameters": {"n_head": [2, 3]}, "folder": str(tmp_path / "sweep"), "parallel": 2})
    )
    own = ("--set=model_path=", "--set=predict_path=", "--set=n_head=")
    keys = [option for option in options(corpus, tmp_path) if not option.startswith(own)]
    command = [sys.executable, str(ROOT / "main.py"), *keys]
    done = subprocess.run(
        [*command, "--sweep", str(tmp_path / "heads.json")],
        env=os.environ | {"XLA_FLAGS": QUICK_COMPILE}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    complete, failed = TrialStore(tmp_path / "sweep").trials
    assert (complete.state, complete.step, failed.state) == ("complete", 12, "failed")
    assert "n_head" in failed.reason
    records = map(json.loads, (tmp_path / "sweep" / "0000" / "metrics.jsonl").read_text().splitlines())
    assert complete.loss == [record["loss"] for record in records if record["split"] == "eval"][-1]
    assert not (tmp_path / "run").exists()
