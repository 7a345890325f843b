"""Command lines and scripts in processes of their own, without the seconds that each would spend on imports.

A process that has imported the libraries, and done nothing else, makes a copy of itself for every command line; the
copy then does what `python -m ropevit`, or `python SCRIPT`, does from its first line on. `python tests/commands.py FD`
is that process, which listens on an open socket; the fixture `run_command` starts one for all workers of pytest-xdist.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

#: What commands import at their start or later.
LIBRARIES = (
    *(f"ropevit.cli.{verb}" for verb in ("data", "eval", "export", "figures", "predict", "study", "train")),
    "timm.data.auto_augment",
    "timm.optim",
    "timm.scheduler",
    "torchvision.transforms.v2",
    "transformers.models.deformable_detr.modeling_deformable_detr",
    "transformers.models.mask2former.modeling_mask2former",
    "transformers.models.upernet.modeling_upernet",
    "transformers.loss.loss_for_object_detection",
    "accelerate",
    "scipy.optimize",
    "faster_coco_eval",
    "matplotlib.figure",
    "typeguard",
)

#: Seconds after which a command is given up.
PATIENCE = 240


@dataclass(frozen=True)
class Result:
    """What came of a command."""

    code: int
    output: str
    errors: str

    @property
    def printed(self):
        """What it wrote to its output and to its error output, one after the other."""
        return self.output + self.errors


@contextmanager
def command_lines(folder):
    """Connect to the process of which commands are copies; give a function that runs one in a folder."""
    with FileLock(folder / "commands.lock"):
        connection = connect(folder / "commands")
    with connection, connection.makefile("rw") as line:

        def run(where, words, ctrl_c_after=None, script=None):
            """Run ropevit, or a script, in a folder; where a file is named, press Ctrl-C as soon as that has grown."""
            logs = [str(where / f".{name}") for name in ("output", "errors")]
            before = size(where / ctrl_c_after) if ctrl_c_after else 0
            job = {"words": [str(word) for word in words], "folder": str(where), "logs": logs}
            line.write(json.dumps(job | {"script": script and str(script)}) + "\n")
            line.flush()
            pid = int(line.readline())
            if ctrl_c_after:
                wait_for(lambda: size(where / ctrl_c_after) > before)
                os.killpg(pid, signal.SIGINT)
            code = int(line.readline())
            return Result(code, *(Path(log).read_text(encoding="utf-8") for log in logs))

        yield run


def connect(path):
    """Connect to the process that listens at a path; start it where no worker has, or where it has ended."""
    connection = socket.socket(socket.AF_UNIX)
    with suppress(FileNotFoundError, ConnectionError):
        connection.connect(str(path))
        if connection.recv(1):  # it is not about to end
            return connection
    connection.close()
    path.unlink(missing_ok=True)
    with socket.create_server(str(path), family=socket.AF_UNIX) as listener:
        start(listener)
    return connect(path)


def start(listener):
    """Start the process, which ends once every worker has disconnected: nobody has to wait for it."""
    listener.set_inheritable(True)
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
    command = [sys.executable, __file__, str(listener.fileno())]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # as users have it
    os.posix_spawn(sys.executable, command, environment, file_actions=quiet)


def size(path):
    """Return the length of a file; that of one which is not there yet is 0."""
    return path.stat().st_size if path.exists() else 0


def wait_for(condition):
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def serve(listener):
    """Copy this process for each worker that connects, and end when all have disconnected; return in a command."""
    listener.settimeout(0.1)
    workers = set()
    while True:
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            pid = os.fork()
            if not pid:
                listener.close()
                return answer(connection)
            connection.close()
            workers.add(pid)
        workers = {pid for pid in workers if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        if not workers:
            sys.exit()


def answer(connection):
    """Copy this process for each line that a worker sends, and say how the copy ended; return in a copy."""
    connection.sendall(b" ")
    with connection, connection.makefile("rw") as line:
        while text := line.readline():
            pid = os.fork()
            if not pid:
                return json.loads(text)
            line.write(f"{pid}\n")
            line.flush()
            _, status = os.waitpid(pid, 0)
            line.write(f"{os.waitstatus_to_exitcode(status)}\n")
            line.flush()
    sys.exit()


def become(job):
    """Be what a shell would have started."""
    os.setpgid(0, 0)  # Ctrl-C reaches all processes of a command, and no other
    signal.alarm(PATIENCE)
    os.chdir(job["folder"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path in enumerate([os.devnull, *job["logs"]]):
        os.dup2(os.open(path, flags if number else os.O_RDONLY), number)
    sys.argv = [job["script"] or "ropevit", *job["words"]]
    if job["script"]:
        sys.path[0] = str(Path(job["script"]).parent)
        runpy.run_path(job["script"], run_name="__main__")
    else:
        runpy.run_module("ropevit", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for library in LIBRARIES:
        __import__(library)
    gc.freeze()  # or each copy would go through all of this once more as it ends
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
