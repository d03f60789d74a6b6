"""A detached process on a host: it outlives the connection that started it and leaves a trace on the host's disk.

Its folder holds `log` (all output of all attempts), `pid`, `wrapper` (a shell, which leads the group of all its
processes) and, once it has ended, `exit` (its code). All is done by short shell scripts, so any host that can run a
command will do.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from estimator.errors import UserError
from estimator.launch.interfaces import Host

MARK = "GPT2_WORKER"  # in the environment of a job: its run, attempt and number; main.py does not launch again there
PART = 1 << 20  # bytes of log that one look brings

# A number may belong to another process by now (the host was restarted), so the mark in its environment counts.
# Few commands besides the shell's own: this runs several times a second.
FUNCTIONS = f"""
live() {{
  [ -n "$1" ] && kill -0 "$1" 2>/dev/null || return 1
  [ ! -d /proc/self ] || grep -qaF "{MARK}=$mark/" "/proc/$1/environ" 2>/dev/null
}}
ended() {{ [ -s exit ] && read -r code < exit && echo "ended $code $attempt"; }}
state() {{
  if [ ! -s attempt ]; then echo none; return; fi
  read -r attempt < attempt
  if ended; then return; fi
  for file in wrapper pid; do
    if [ -s $file ] && read -r number < $file && live $number; then echo "alive 0 $attempt"; return; fi
  done
  ended || echo "ended -1 $attempt"
}}
"""


class JobStatus(NamedTuple):
    """What a look at a job shows. attempt: 0 when it was never started. code: of one that has ended, 128 + number for
    a signal, -1 where it vanished with its host or group; else None. log: bytes from where the caller has read to."""

    attempt: int
    code: int | None
    log: bytes

    @property
    def alive(self) -> bool:
        return self.attempt > 0 and self.code is None


class Job:
    """The process of a run on one host."""

    def __init__(self, host: Host, run: str):
        self.host = host
        self.run = run
        self.folder = f"{host.folder}/jobs/{run}"

    def start(
        self, command: Sequence[str], *, attempt: int, folder: str, environment: Mapping[str, str], index: int
    ) -> None:
        """Runs the command in `folder` with these variables added. Processes of an earlier attempt must have ended.

        The first attempt begins a new log.
        """
        variables = {**environment, MARK: f"{self.run}/{attempt}/{index}"}
        exports = "\n".join(f"export {name}={quoted(value)}" for name, value in variables.items())
        wrapper = f"""cd {quoted(self.folder)} || exit 1
echo $$ > wrapper
{exports}
here=$PWD
cd {quoted(folder)} || {{ echo "no folder {folder}" >> "$here/log"; echo 1 > "$here/exit"; exit 1; }}
{" ".join(map(quoted, command))} >> "$here/log" 2>&1 < /dev/null &
cd "$here"
echo $! > pid
wait $!
echo $? > exit.new && mv exit.new exit
"""
        script = f"""mkdir -p {quoted(self.folder)} && cd {quoted(self.folder)} || exit 1
rm -f exit pid wrapper {"log" if attempt == 1 else ""} && cat > command && echo {attempt} > attempt || exit 1
if command -v setsid > /dev/null; then set -- setsid; else set -- nohup; fi
{MARK}={shlex.quote(variables[MARK])} "$@" sh ./command < /dev/null > /dev/null 2>&1 &
for i in $(seq 150); do
  [ ! -s pid ] && [ ! -e exit ] || exit 0
  sleep 0.2
done
echo "its shell did not start within 30 s" >&2
exit 1
"""
        self._run(script, stdin=wrapper.encode())

    def look(self, seen: int | None) -> JobStatus:
        """seen: bytes of the log that were read already; None brings no log."""
        tail = "" if seen is None else f"tail -c +{seen + 1} log 2>/dev/null | head -c {PART}"
        output = self._run(f"cd {quoted(self.folder)} 2>/dev/null || {{ echo none; exit 0; }}\nstate\n{tail}\nexit 0\n")
        state, _, log = output.partition(b"\n")
        if state == b"none":
            return JobStatus(0, None, log)
        word, code, attempt = state.decode().split()
        return JobStatus(int(attempt), int(code) if word == "ended" else None, log)

    def log_size(self) -> int:
        return int(self._run(f"cat {quoted(self.folder)}/log 2>/dev/null | wc -c"))

    def terminate(self) -> None:
        """SIGTERM to the program: it saves and ends."""
        self._signal('for number in $(cat pid); do ! live $number || kill -TERM "$number"; done')

    def kill(self) -> None:
        """SIGKILL to all of the job's processes; returns when they are dead."""
        self._signal(
            """for number in $(cat wrapper pid); do
  if live $number; then kill -KILL "-$(cat wrapper)" 2>/dev/null; kill -KILL "$number" 2>/dev/null; fi
done
for i in $(seq 150); do
  case $(state) in alive*) sleep 0.2;; *) exit 0;; esac
done
echo "a process outlives SIGKILL by 30 s" >&2
exit 1"""
        )

    def _signal(self, script: str) -> None:
        self._run(f"cd {quoted(self.folder)} 2>/dev/null || exit 0\n{script}\n")

    def _run(self, script: str, *, stdin: bytes = b"") -> bytes:
        output = self.host.run(f"mark={shlex.quote(self.run)}\n{FUNCTIONS}\n{script}", stdin=stdin)
        if output.code:
            raise UserError(f"{self.host.name}: {output.error.strip() or 'a command failed'} (in {self.folder} there)")
        return output.out


def quoted(text: str) -> str:
    """For a shell; ~/ at the beginning stays the home folder of its user."""
    return f'"$HOME"/{shlex.quote(text[2:])}' if text.startswith("~/") else shlex.quote(text)
