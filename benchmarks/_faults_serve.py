"""A server under faults: each answer is its model's, or an error with a status and a code; restarts lose nothing.

Two models answer with one letter each, whatever they are asked (see `_serve_models`). While clients ask, stay and
leave, the server is killed, stopped, paused, given damaged weights to load, starved of memory, or its clock jumps.
"""

import contextlib
import errno
import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _faults_trial as trials
from benchmarks import _serve_models
from benchmarks._faults_kinds import MOST_MEMORY
from benchmarks._faults_train import ENVIRONMENT
from benchmarks._faults_trial import FOREVER, LOST, WRONG, Fault, Report, rule
from benchmarks._faults_zygote import Child, Ended, Patience, Zygote

LETTERS = "AB"
SECONDS = 120
# Statuses that a server may answer with while it is disturbed.
REFUSALS = (429, 503)
CLIENTS, REQUESTS = 4, 3
HALF_REQUEST = b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"


class ServerRoom:
    """The models' files and the zygote, for all trials."""

    def __init__(self, folder: Path, library: str):
        self.folder = folder
        (folder / "models").mkdir()
        _serve_models.write_server(folder / "models", LETTERS, memory_bytes=None)
        environment = ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "HOME": str(folder),
                                     "GPT2_CACHE": str(folder / "user-cache")}  # fmt: skip
        self.zygote = Zygote("serve", preload=library, environment=environment)

    def close(self) -> None:
        self.zygote.close()


class Outcome(NamedTuple):
    """Of a request. status: 0 without an answer."""

    letter: str
    status: int
    text: str


class ServeTrial:
    """A server with models of its own."""

    def __init__(self, room: ServerRoom, report: Report, draw: random.Random):
        self.room, self.report, self.draw = room, report, draw
        self.folder = room.folder / report.name
        shutil.copytree(room.folder / "models", self.folder)
        for path in self.folder.glob("*.json"):
            path.write_text(path.read_text().replace(str(room.folder / "models"), str(self.folder)))
        self._starts = 0
        self.child: Child | None = None
        self.address = ""

    def start(self, *rules: str, memory: int | None = None) -> None:
        """Starts the server and waits for its address; it may end before that."""
        self._starts += 1
        self.child = self.room.zygote.start(self.folder / f"process-{self._starts}")
        self.child.begin("serve", ["--config", str(self.folder / "server.json")], rules=rules, memory=memory)
        output, patience = self.child.folder / "output-1", Patience(SECONDS)
        self.address = ""
        while not self.address and self.child.is_alive and not self.has_ended() and patience.lasts():
            lines = output.read_text().splitlines() if output.exists() else []
            self.address = next((line for line in lines if line.startswith("http://")), "")
            time.sleep(0.01)

    def has_ended(self) -> bool:
        assert self.child
        return (self.child.folder / "code-1").exists()

    def wait(self, *, codes: tuple[int, ...] = (0,), dies_of: tuple[int, ...] = ()) -> Ended:
        """Waits for the server's end, which must be one that it may have."""
        assert self.child
        child, self.child = self.child, None
        ended = child.result(seconds=SECONDS)
        if trials.check(ended, codes=codes, dies_of=dies_of):
            self.report.refusals += 1
        if not ended.is_dead and child.close() is None:
            raise Fault(LOST, "the process did not exit")
        return ended

    def ask(self, letter: str, draw: random.Random) -> Outcome:
        """A request, streamed or not. The client may leave early, which counts as answered."""
        import httpx

        body = {"model": letter, "prompt": "x" * draw.randint(1, 40), "max_tokens": 8, "temperature": 0}
        stays = draw.random() < 0.8
        with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=self.address, timeout=SECONDS) as client:
            if draw.random() < 0.5:
                answer = client.post("/v1/completions", json=body)
                return Outcome(letter, answer.status_code, _text(answer.status_code, answer.text))
            with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
                text = ""
                for line in answer.iter_lines():
                    if not stays:
                        return Outcome(letter, 200, letter * 8)
                    event = line.removeprefix("data: ")
                    if event.startswith("{") and (found := _event(json.loads(event))) is not None:
                        text += found
                    elif event.startswith("{"):
                        return Outcome(letter, 503, "")
                return Outcome(letter, answer.status_code, text)
        return Outcome(letter, 0, "")

    @contextlib.contextmanager
    def clients(self, *, may_lose: bool = False) -> Iterator[None]:
        """Clients that ask while the block runs. may_lose: whether the server may go away meanwhile."""
        outcomes: list[Outcome] = []
        seeds = [self.draw.random() for _ in range(CLIENTS)]

        def talk(seed: float) -> None:
            draw = random.Random(seed)
            for _ in range(REQUESTS):
                outcomes.append(self.ask(draw.choice(LETTERS), draw))

        threads = [threading.Thread(target=talk, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join(SECONDS)
        if any(thread.is_alive() for thread in threads):
            raise Fault(LOST, "a request was not answered in time")
        for letter, status, text in outcomes:
            is_part = may_lose and not text.strip(letter)
            if status == 200 and text != letter * 8 and not is_part:
                raise Fault(WRONG, f"{letter} answered {text!r}")
            if status != 200 and not (may_lose and status in (0, *REFUSALS)):
                raise Fault(LOST if not status else WRONG, f"a request to {letter} ended with status {status}: {text}")

    def check(self) -> None:
        """All models answer."""
        for letter in LETTERS:
            if (found := self.ask(letter, random.Random(1))).text != letter * 8:
                raise Fault(WRONG, f"{letter} answers {found}")

    def later(self, action: Callable[[], Any]) -> None:
        time.sleep(self.draw.uniform(0, 0.3))
        action()

    # Faults.

    def killed(self) -> None:
        assert self.child
        with self.clients(may_lose=True):
            self.later(lambda: self.child.signal(signal.SIGKILL))  # type: ignore[union-attr]
        self.wait(dies_of=(signal.SIGKILL,))
        self.start()

    def stopped(self) -> None:
        with self.clients(may_lose=True):
            number = self.draw.choice((signal.SIGTERM, signal.SIGINT))
            self.later(lambda: self.child.signal(number))  # type: ignore[union-attr]
        self.wait(codes=(0, 130))
        self.start()

    def paused(self) -> None:
        child = self.child
        assert child
        with self.clients():
            self.later(lambda: child.signal(signal.SIGSTOP))
            self.later(child.resume)

    def half_requests(self) -> None:
        """Clients that send a part of a request and leave."""
        import socket

        host, port = self.address.removeprefix("http://").split(":")
        with self.clients():
            for _ in range(5):
                with socket.create_connection((host, int(port)), timeout=SECONDS) as line:
                    line.sendall(HALF_REQUEST[: self.draw.randint(1, len(HALF_REQUEST))])

    def damaged(self) -> None:
        """New weights that are damaged are refused, and the old ones answer."""
        self.check()  # which loads the models: without an old version there would be none to answer
        letter = self.draw.choice(LETTERS)
        path = self.draw.choice(sorted((self.folder / letter).iterdir()))
        how = self.draw.choice(("deleted", "cut", "emptied"))  # an export has no checksums
        damage = trials.damage(str(path), how, self.draw, root=str(self.folder))
        with self.clients():
            self.swap(letter)
        self.check()
        trials.write(damage.path, damage.before)
        if self.swap(letter) != 200:
            raise Fault(LOST, f"{letter} cannot be swapped after {path} was restored")

    def swap(self, letter: str) -> int:
        """Loads a model again; the status."""
        import httpx

        answer = httpx.post(f"{self.address}/admin/models/{letter}/swap", timeout=SECONDS)
        if answer.status_code != 200:
            self.report.refusals += 1
            if "message" not in answer.json().get("error", {}):
                raise Fault(WRONG, f"status {answer.status_code}: {answer.text}")
        return answer.status_code

    def read_errors(self) -> None:
        """A disk that fails while a model is loaded: that model is refused, and no other."""
        self.child.signal(signal.SIGTERM)  # type: ignore[union-attr]
        self.wait()
        at = self.draw.randint(1, 12)
        self.start(rule("read", self.folder / LETTERS[0], at=at, count=self.draw.choice((1, FOREVER)), action="errno",
                        value=errno.EIO))  # fmt: skip
        outcomes = {letter: self.ask(letter, random.Random(1)) for letter in LETTERS}
        if outcomes["B"].text != "B" * 8 or (outcomes["A"].status == 200) != (outcomes["A"].text == "A" * 8):
            raise Fault(WRONG, f"{outcomes}")
        self.child.signal(signal.SIGTERM)  # type: ignore[union-attr]
        self.wait()
        self.start()

    def memory(self) -> None:
        self.child.signal(signal.SIGTERM)  # type: ignore[union-attr]
        self.wait()
        self.start(memory=self.draw.randrange(MOST_MEMORY))
        if self.address:
            self.ask("A", random.Random(1))
            self.child.signal(signal.SIGTERM)  # type: ignore[union-attr]
        self.wait(codes=(0, 130), dies_of=(signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM))
        self.start()

    def clock(self) -> None:
        self.child.signal(signal.SIGTERM)  # type: ignore[union-attr]
        self.wait()
        seconds = self.draw.choice((-1, 1)) * self.draw.choice((3600, 10 * 365 * 86400))
        self.start(rule("clock", "", at=self.draw.randint(200, 2000), action="jump", value=seconds))
        with self.clients():
            pass


KINDS = {
    "killed": ServeTrial.killed, "stop signal": ServeTrial.stopped, "paused": ServeTrial.paused,
    "half requests": ServeTrial.half_requests, "damaged weights": ServeTrial.damaged,
    "read error": ServeTrial.read_errors, "out of memory": ServeTrial.memory, "clock jump": ServeTrial.clock,
}  # fmt: skip


def trial(room: ServerRoom, report: Report, draw: random.Random) -> None:
    """One trial: a server, up to three faults, and an orderly end."""
    server = ServeTrial(room, report, draw)
    try:
        server.start()
        for _ in range(draw.choice((1, 2, 3))):
            report.kinds.append(name := draw.choice(list(KINDS)))
            KINDS[name](server)
            server.check()
        assert server.child
        server.child.signal(signal.SIGTERM)
        server.wait()
    finally:
        if server.child:
            server.child.kill()
    shutil.rmtree(server.folder)


def _text(status: int, body: str) -> str:
    return json.loads(body)["choices"][0]["text"] if status == 200 else body


def _event(event: dict[str, Any]) -> str | None:
    """Text of an event of a stream; None for an error."""
    return None if "error" in event else event["choices"][0]["text"]
