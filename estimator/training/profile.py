"""Traces training steps, and says where their time goes by kind of operation: `--profile START:STOP`.

The trace is of `jax.profiler`: XProf opens the folder, ui.perfetto.dev the file perfetto_trace.json.gz in it. The kinds
come from the names that the compiled program gives to its instructions (`jax.named_scope` in the model and in the
training step); an event of the trace carries the name of its instruction on CPUs, GPUs and TPUs alike.
"""

import json
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from estimator import storage

FOLDER, TABLE = "profile", "steps.json"
SCOPES = ("optimizer", "attention", "normalization", "cross_entropy", "embedding")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-")
PRODUCTS = ("dot_general", "conv_general")
MOVES = ("copy", "transpose", "bitcast", "broadcast", "reshape", "slice", "concatenate", "pad")
HOST = "host and waiting"
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (?:\([^=]*?\)|\S+) ([\w-]+)\(")
MODULE = re.compile(r"^HloModule ([\w.-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
PRODUCT_CALL = re.compile(r'custom_call_target="\w*product"')  # of the C++ kernels


class Event(NamedTuple):
    """An instruction's span of time on one thread or stream, in ns."""

    start: float
    end: float
    kind: str


class ProfiledSteps:
    """The program of a training step that is traced while the steps of `window` run.

    folder: of the run, or a path in a bucket, to which the trace is copied. note: receives the table.
    """

    def __init__(self, program: Any, window: range, first_step: int, *, folder: str, note: Callable[[str], None]):
        self._program, self._window, self._step = program, window, first_step
        self._folder, self._note = folder, note
        self._local: Path | None = None
        self._first, self._start = first_step, 0.0
        self._text = ""

    def __call__(self, state: Any, batches: Any, count: int) -> Any:
        if self._local is None and self._step + count > self._window.start and self._step < self._window.stop:
            self._begin(state, batches, count)
        result = self._program(state, batches, count)
        self._step += count
        if self._local is not None and self._step >= self._window.stop:
            self._end(result)
        return result

    def close(self) -> None:
        """Ends a trace that the end of the run cut short."""
        if self._local is not None:
            self._end(())
        elif self._window:
            self._note(f"--profile {self._window.start}:{self._window.stop}: none of these steps was trained")

    def _begin(self, state: Any, batches: Any, count: int) -> None:
        lowered = self._program.lower(state, batches, count)
        programs = lowered if isinstance(lowered, list) else [lowered]
        self._text = "\n".join(program.compile().as_text() for program in programs)
        jax.block_until_ready(state)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # its events would be most of the file
        local = tempfile.mkdtemp(prefix="gpt2-profile-")
        jax.profiler.start_trace(local, create_perfetto_trace=True, profiler_options=options)
        self._local = Path(local)
        self._first, self._start = self._step, time.perf_counter()

    def _end(self, result: Any) -> None:
        assert self._local
        jax.block_until_ready(result)
        seconds, steps = time.perf_counter() - self._start, self._step - self._first
        jax.profiler.stop_trace()
        rows = table(self._local, self._text, seconds=seconds, steps=steps)
        out = storage.join(self._folder, FOLDER)
        (self._local / TABLE).write_text(
            json.dumps({"steps": steps, "milliseconds": rows}, indent=2) + "\n", encoding="utf-8"
        )
        for path in self._local.rglob("*"):
            if path.is_file():
                target = storage.join(out, path.relative_to(self._local).as_posix())
                if not storage.is_remote(target):
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                storage.write_bytes_atomic(target, path.read_bytes())
        shutil.rmtree(self._local)
        self._local, self._window = None, range(0)
        whole = sum(rows.values())
        lines = [f"{kind:<16} {ms:>9.2f} ms {100 * ms / whole:>5.1f} %" for kind, ms in rows.items()]
        self._note("\n".join([f"a step takes {whole:.2f} ms, of {steps} traced:", *lines]))
        self._note(f"trace: {out}: xprof {out}, or perfetto_trace.json.gz in ui.perfetto.dev")


def kinds(text: str) -> dict[str, str]:
    """MODULE/INSTRUCTION and INSTRUCTION of compiled programs, as HLO text -> kind of operation."""
    found, module = {}, ""
    for line in text.splitlines():
        if head := MODULE.match(line):
            module = f"{head[1]}/"
        if match := INSTRUCTION.match(line):
            name = OP_NAME.search(line)
            opcode = "dot" if PRODUCT_CALL.search(line) else match[2]
            kind = _kind(match[1], opcode, name[1] if name else "")
            found |= {match[1]: kind, module + match[1]: kind}
    return found


def _kind(instruction: str, opcode: str, op_name: str) -> str:
    """op_name: the scopes and the operation in JAX, such as jit(step)/transpose(jvp(attention))/dot_general."""
    if opcode.startswith(COLLECTIVES):
        return "collectives"
    if scope := next((scope for scope in SCOPES if scope in op_name), None):
        return scope.replace("_", "-")
    operation = op_name.rpartition("/")[2]
    if operation.startswith(PRODUCTS) or opcode in ("dot", "convolution"):
        return "matmul"
    if opcode.startswith(MOVES) or operation.startswith(MOVES) or (not op_name and _moves(instruction)):
        return "copy"
    return "elementwise"


def _moves(instruction: str) -> bool:
    """Whether a fusion without a name of JAX's is one of moves, such as wrapped_broadcast."""
    return instruction.removeprefix("wrapped_").startswith(MOVES)


def table(folder: Path, text: str, *, seconds: float, steps: int) -> dict[str, float]:
    """Milliseconds a step by kind of operation, the largest first; they add up to the wall time, `seconds` of `steps`.

    Operations that ran at the same time, on several threads or streams, share the time in which any of them ran.
    """
    kind_of = kinds(text)
    files = sorted(folder.rglob("*.xplane.pb"))
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes) if files else []
    devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
    lines = [[_events(line, kind_of) for line in plane.lines] for plane in devices]
    lines = [plane for plane in lines if any(plane)]
    totals: defaultdict[str, float] = defaultdict(float)
    busy = 0.0
    for plane in lines:
        own: defaultdict[str, float] = defaultdict(float)
        for events in plane:
            for kind, time_of_kind in self_times(events).items():
                own[kind] += time_of_kind
        covered = union([event for events in plane for event in events])
        busy += covered / len(lines)
        for kind, time_of_kind in own.items():
            totals[kind] += time_of_kind * covered / sum(own.values()) / len(lines)
    totals[HOST] = max(0.0, 1e9 * seconds - busy)
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return {kind: total / 1e6 / steps for kind, total in ranked}


def _events(line: Any, kind_of: dict[str, str]) -> list[Event]:
    """The instructions of a line of the trace, by time."""
    events = []
    for event in line.events:
        stats = dict(event.stats)
        name = str(stats.get("hlo_op") or event.name.lstrip("%").partition(" ")[0])
        if module := stats.get("hlo_module"):  # a TPU's operations do not name it, and its step is one program
            name = f"{module}/{name}"
        if event.duration_ns and name in kind_of and not event.name.startswith("end: "):
            events.append(Event(event.start_ns, event.start_ns + event.duration_ns, kind_of[name]))
    return sorted(events, key=lambda event: (event.start, -event.end))


def self_times(events: list[Event]) -> dict[str, float]:
    """Time by kind, without that of events inside of an event: those of a loop's body are not the loop's."""
    times: defaultdict[str, float] = defaultdict(float)
    open_events: list[Event] = []
    for event in events:
        while open_events and open_events[-1].end <= event.start:
            open_events.pop()
        if open_events:
            times[open_events[-1].kind] -= min(event.end, open_events[-1].end) - event.start
        times[event.kind] += event.end - event.start
        open_events.append(event)
    return dict(times)


def union(events: list[Event]) -> float:
    """Time in which at least one event ran."""
    covered, until = 0.0, float("-inf")
    for event in sorted(events):
        covered += max(0.0, event.end - max(event.start, until))
        until = max(until, event.end)
    return covered
