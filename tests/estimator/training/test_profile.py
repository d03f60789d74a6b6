"""Profiles of training steps: the trace, and the breakdown of the time."""

import argparse
import gzip
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from helpers.main_runs import call, options

from estimator import arguments
from estimator.errors import UserError
from estimator.training import profile
from estimator.training.profile import Event, ProfiledSteps, self_times, union

HLO = """
ENTRY %main.1 (a.1: f32[8,8]) -> (f32[8,8], f32[]) {
  %dot.1 = f32[8,8]{1,0} dot(%a.1, %a.1), metadata={op_name="jit(step)/jvp()/dot_general" stack_frame_id=2}
  %custom-call.4 = (f32[8,8]{1,0}, f32[8]{0}) custom-call(%dot.1), metadata={op_name="jit(step)/jvp(attention)/ffi"}
  %ffi_call.5 = bf16[8,8]{1,0} custom-call(%a.1), custom_call_target="gpt2_tile_product", metadata={op_name="jit(step)"}
  %ffi_call.6 = bf16[8,8]{1,0} custom-call(%a.1), custom_call_target="gpt2_gelu", metadata={op_name="jit(step)/ffi"}
  %fusion.2 = f32[8,8]{1,0} fusion(%dot.1), kind=kLoop, metadata={op_name="jit(step)/transpose(jvp(normalization))/mul"}
  %fusion.3 = f32[8,8]{1,0} fusion(%dot.1), kind=kLoop, metadata={op_name="jit(step)/optimizer/dot_general"}
  %loss = f32[]{} reduce(%fusion.3), metadata={op_name="jit(step)/jvp(cross_entropy)/reduce_sum"}
  %all-reduce-start.1 = f32[8,8]{1,0} all-reduce-start(%fusion.3), metadata={op_name="jit(step)/optimizer/add"}
  %copy.7 = f32[8,8]{1,0} copy(%dot.1)
  %wrapped_broadcast = f32[8,8]{1,0} fusion(%loss), kind=kLoop, calls=%b
  ROOT %add.9 = f32[8,8]{1,0} add(%dot.1, %dot.1), metadata={op_name="jit(step)/add"}
}
"""


def test_instructions_have_kinds_on_every_platform():
    assert profile.kinds(HLO) == {
        "dot.1": "matmul", "custom-call.4": "attention", "fusion.2": "normalization", "fusion.3": "optimizer",
        "loss": "cross-entropy", "all-reduce-start.1": "collectives", "copy.7": "copy", "wrapped_broadcast": "copy",
        "add.9": "elementwise", "ffi_call.5": "matmul", "ffi_call.6": "elementwise",
    }  # fmt: skip


def test_programs_may_share_names_of_instructions_and_traces_of_tpus_name_no_program():
    kind_of = profile.kinds("HloModule jit_update, is_scheduled=true\n" + HLO)
    gradient = '  %fusion.3 = f32[8]{0} fusion(%a), metadata={op_name="jit(gradient_of)/jvp(attention)/mul"}\n'
    two = kind_of | profile.kinds("HloModule jit_gradient_of\n" + gradient)

    def kinds(kind_of: dict[str, str], name: str, **stats: str) -> list[str]:
        event = SimpleNamespace(name=name, start_ns=0, duration_ns=1, stats=stats.items())
        return [event.kind for event in profile._events(SimpleNamespace(events=[event]), kind_of)]

    assert kinds(two, "fusion.3", hlo_op="fusion.3", hlo_module="jit_update") == ["optimizer"]
    assert kinds(two, "fusion.3", hlo_op="fusion.3", hlo_module="jit_gradient_of") == ["attention"]
    assert kinds(two, "fusion.3", hlo_op="fusion.3", hlo_module="jit_loss") == []  # belongs to an evaluation
    assert kinds(kind_of, "%fusion.3 = f32[8,8]{1,0} fusion(%dot.1)", tf_op="mul") == ["optimizer"]


def test_the_time_of_nested_operations_is_counted_once():
    events = [Event(0, 100, "loop"), Event(10, 40, "a"), Event(20, 30, "b"), Event(50, 60, "a"), Event(120, 130, "c")]
    assert self_times(events) == {"loop": 60, "a": 30, "b": 10, "c": 10}
    assert union(events) == 110
    assert union([Event(0, 10, "x"), Event(5, 20, "y"), Event(30, 31, "x")]) == 21


def traced(folder, window: range, *, steps: int, first: int = 0) -> list[str]:
    """Profiles a program that runs once per step, and returns the notes."""

    def program(state, batch, count):
        with jax.named_scope("attention"):
            state = jnp.tanh(state @ batch)
        with jax.named_scope("optimizer"):
            return state / (1 + jnp.abs(state)), count

    notes: list[str] = []
    train = ProfiledSteps(jax.jit(program), window, first, folder=str(folder), note=notes.append)
    state = batch = jnp.ones((128, 128))
    for _ in range(steps):
        state, _ = train(state, batch, 1)
    train.close()
    return notes


def test_a_trace_opens_in_perfetto_and_its_table_adds_up(tmp_path):
    (text, where) = traced(tmp_path / "run", range(2, 4), steps=6)
    (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    names = {
        event.get("args", {}).get("hlo_op") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    }
    assert names - {None}
    assert str(tmp_path / "run" / "profile") in where
    table = json.loads((tmp_path / "run" / "profile" / "steps.json").read_text())
    assert table["steps"] == 2
    assert {"attention", "optimizer", profile.HOST} <= table["milliseconds"].keys()
    assert all(ms >= 0 for ms in table["milliseconds"].values())
    whole = float(text.split("a step takes ")[1].split(" ms")[0])
    assert whole == pytest.approx(sum(table["milliseconds"].values()), abs=0.01)


def test_windows_at_the_end_of_a_run_and_before_its_beginning(tmp_path):
    (text, _) = traced(tmp_path / "run", range(1, 9), steps=3)
    assert "of 2 traced" in text
    assert traced(tmp_path / "none", range(7, 9), steps=3) == ["--profile 7:9: none of these steps was trained"]
    assert traced(tmp_path / "late", range(2, 4), steps=1, first=5) == [
        "--profile 2:4: none of these steps was trained"
    ]


def test_steps_that_no_run_trains_are_refused_before_it_starts(corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="12:15: none of these steps is left; the run is at step 0 of 12"):
        call(monkeypatch, [*options(corpus, tmp_path), "--profile", "12:15"])
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("text", ["5", "5:", ":5", "7:3", "5:5", "a:b", "-1:4"])
def test_wrong_windows_name_the_form(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write START:STOP"):
        arguments.steps(text)
    assert arguments.steps("10:15") == range(10, 15)
