"""Starts programs of this repository as forks of a process that has imported them, which spares their start.

python -m benchmarks._faults_zygote main      a zygote that has imported JAX and everything behind main.py
python -m benchmarks._faults_zygote data      one without JAX, as the programs of datasets/ are

A fork runs one command line after the other, each as a process of its own would, down to the exit code and the message
of an error, until one of them ends it. JAX is imported but starts no backend, and so no threads, before the fork.
"""

import contextlib
import ctypes
import faulthandler
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.005
RESUME_SECONDS = 1.0
SHOW_STACKS = signal.SIGRTMIN  # programs of this repository do not use it
COUNTERS_BYTES = 128  # of the shim's counters
PROGRAMS = {
    "main": "main.py", "export": "export_model.py", "encode": "datasets/encode.py",
    "download": "datasets/openwebtext/download.py", "extract": "datasets/openwebtext/extract_text.py",
    "download_model": "download_model.py", "serve": "serve.py",
}  # fmt: skip
KINDS = {"main": ("main", "export"), "serve": ("serve",), "data": ("encode", "download", "extract", "download_model")}


class Ended(NamedTuple):
    """What became of a command. code: negative for the signal that ended its process; None where it did not end in
    time. output: of stdout and stderr together. counts: calls that each rule saw."""

    code: int | None
    output: str
    counts: list[int]

    @property
    def is_dead(self) -> bool:
        return self.code is None or self.code < 0


class Patience:
    """A limit of waiting. Each pause of this process itself, as by SIGSTOP, counts a second at most."""

    def __init__(self, seconds: float):
        self._left, self._seen = seconds, time.monotonic()

    def lasts(self) -> bool:
        now = time.monotonic()
        self._left -= min(now - self._seen, 1.0)
        self._seen = now
        return self._left > 0


class Child:
    """A fork that runs commands one after the other; their output is in `folder`."""

    def __init__(self, pid: int, folder: Path):
        self.pid, self.folder = pid, folder
        self.key = ""
        self._code: int | None = None
        self._number = 0
        self._requests = open(folder / "requests", "w")  # noqa: SIM115 (as long as the child)

    @property
    def is_alive(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is None

    def run(
        self,
        program: str,
        arguments: Sequence[str] = (),
        *,
        rules: Sequence[str] = (),
        memory: int | None = None,
        seconds: float = 120,
    ) -> Ended:
        """Runs a command of PROGRAMS or "digest". rules: see native/faults.cpp. memory: bytes of address space that it
        may add. A signal that stops the process is answered with SIGCONT a moment later."""
        self.begin(program, arguments, rules=rules, memory=memory)
        return self.result(seconds=seconds)

    def begin(
        self, program: str, arguments: Sequence[str] = (), *, rules: Sequence[str] = (), memory: int | None = None
    ) -> None:
        self._number += 1
        (self.folder / f"counts-{self._number}").write_bytes(bytes(COUNTERS_BYTES))
        request = {"number": self._number, "program": program, "arguments": list(arguments), "rules": list(rules),
                   "memory": memory}  # fmt: skip
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()

    def result(
        self, *, seconds: float, stopped: Callable[["Child"], None] | None = None, peers: Sequence["Child"] = ()
    ) -> Ended:
        """How the command ended. Where it does not, it is killed, and it and its peers add their stacks to their output
        before that."""
        resumed, patience = time.monotonic(), Patience(seconds)
        done = self.folder / f"code-{self._number}"
        while not done.exists() and self.is_alive and patience.lasts():
            if self.is_stopped():
                (stopped or Child.resume)(self)
            elif stopped is None and time.monotonic() > resumed + RESUME_SECONDS:  # of its workers, any may be stopped
                resumed = time.monotonic()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGCONT)
            time.sleep(POLL_SECONDS)
        code = int(done.read_text()) if done.exists() else self._code
        if not done.exists():
            if code is None:
                for child in (self, *peers):
                    child.show_stacks()
            self.kill()
        counters = memoryview((self.folder / f"counts-{self._number}").read_bytes()).cast("q")
        return Ended(code, self.output(), list(counters))

    def output(self) -> str:
        """Of the newest command so far."""
        path = self.folder / f"output-{self._number}"
        return path.read_text(errors="replace") if path.exists() else ""

    def show_stacks(self) -> None:
        """Lets the process add the Python stacks of its threads to its output."""
        for number in (signal.SIGCONT, SHOW_STACKS):
            self.signal(number)
        time.sleep(1)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        if self.is_alive:
            os.kill(self.pid, number)

    def is_stopped(self) -> bool:
        with contextlib.suppress(OSError):
            return "\nState:\tT" in Path(f"/proc/{self.pid}/status").read_text()
        return False

    def finish(self) -> None:
        """Lets the process exit with the code of its last command."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()

    def close(self, *, seconds: float = 60) -> int | None:
        """Waits until it has; returns that code, or None if it hangs."""
        self.finish()
        patience = Patience(seconds)
        while self.is_alive and patience.lasts():
            time.sleep(POLL_SECONDS)
        code = self._code
        self.kill()
        return code

    def kill(self) -> None:
        """Ends the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.is_alive:
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-self.pid, 0)


class Zygote:
    """The process from which programs are forked. preload: a library that it and they are started with."""

    def __init__(self, kind: str, *, preload: str = "", environment: Mapping[str, str] | None = None):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that `Child` can wait for the forks of our child
        # RUST_BACKTRACE: without memory, what prints a backtrace may wait for itself.
        variables = os.environ | {
            "RUST_BACKTRACE": "0",
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._faults_zygote", kind],
            cwd=ROOT,
            env={**variables, **(environment or {}), **({"LD_PRELOAD": preload} if preload else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._lock = threading.Lock()

    def start(
        self, folder: Path, *, environment: Mapping[str, str] | None = None, hooks: Mapping[str, Any] | None = None
    ) -> Child:
        """A fork; the new `folder` takes its output. hooks: see `_faults_state.hook`."""
        folder.mkdir(parents=True)
        os.mkfifo(folder / "requests")
        request = {"folder": str(folder), "environment": dict(environment or {}), "hooks": dict(hooks or {})}
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the zygote ended with code {self._process.wait()}")
        return Child(int(line), folder)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def load(program: str) -> Any:
    """The module of a program, by its file: "datasets" may be another package."""
    path = ROOT / PROGRAMS[program]
    spec = importlib.util.spec_from_file_location("main" if program == "main" else f"program_{program}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def arm(folder: str, request: Mapping[str, Any]) -> None:
    """Sets the rules and the limit of memory of the next command."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # the last one may have left nothing for what follows
    os.environ["FAULTS"] = "\n".join(request["rules"])
    os.environ["FAULTS_COUNTS"] = f"{folder}/counts-{request['number']}"
    if "LD_PRELOAD" in os.environ:
        ctypes.CDLL(None).faults_arm()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    more = request["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (hard if more is None else pages * resource.getpagesize() + more, hard))


def work(folder: str, programs: Mapping[str, Callable[[], int | None]]) -> int:
    """In the fork: runs commands as they come; returns the exit code of the last one."""
    from estimator.errors import run_program

    code = 0
    with open(f"{folder}/requests") as requests:
        for line in requests:
            request = json.loads(line)
            out = os.open(f"{folder}/output-{request['number']}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(out, descriptor)
            os.close(out)
            sys.argv = [PROGRAMS.get(request["program"], request["program"]), *request["arguments"]]
            faulthandler.register(SHOW_STACKS, file=2)
            arm(folder, request)
            try:
                run_program(programs[request["program"]])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:  # as the interpreter would
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            arm(folder, {"rules": [], "memory": None, "number": request["number"]})
            Path(f"{folder}/code-{request['number']}.new").write_text(str(code))
            os.rename(f"{folder}/code-{request['number']}.new", f"{folder}/code-{request['number']}")
    return code


def serve(kind: str) -> int | None:
    """Forks for each request, until there are no more; returns the exit code in a fork."""
    from benchmarks import _faults_state

    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    programs = {name: load(name).main for name in KINDS[kind]} | {"digest": _faults_state.write_digest}
    if kind == "main":
        _faults_state.import_all()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background processes ignore
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
    while line := requests.readline():
        pid = os.fork()
        if not pid:
            middle = os.getpid()
            if os.fork():
                os._exit(0)
            os.setsid()
            while os.getppid() == middle:  # until the zygote's parent has taken this fork over
                time.sleep(0.001)
            print(os.getpid(), file=answers, flush=True)
            answers.close()
            requests.close()
            request = json.loads(line)
            os.environ.update(request["environment"])
            _faults_state.hook(request["hooks"])
            return work(request["folder"], programs)
        os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
