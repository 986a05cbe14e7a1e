"""Programs that start warm: forks of one process that has imported what costs seconds.

A fork is a process of its own, with the memory, the working folder, the environment and the exit of
one: it can be killed, and nothing that it does is seen by the next. What it spares is the import of
torch, scikit-learn and Great Expectations, some five processor seconds a program. Programs whose
start is itself in question (the README's blocks, Ctrl-C) are started cold.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIKENESS = "from pipelines.cli import main; main(prog_name='likeness')"
SERVER = """
import atexit, gc, json, os, sys, threading, types
import pipelines.audit, pipelines.cli, pipelines.steps, pipelines.requests.work
import pipelines.publication.verify, pipelines.protection.fake, validators.expectations
import torch._dynamo
from generators import GENERATORS
from validators import VALIDATORS

for registry in (GENERATORS, VALIDATORS):
    for name in registry:
        registry[name]
answers = os.dup(1)
gc.freeze()
for line in sys.stdin.buffer:
    if os.fork() == 0:
        break
    _, status = os.wait()
    os.write(answers, b"%d\\n" % os.waitstatus_to_exitcode(status))
else:
    sys.exit()

# From here on: the program, in its own process.
job = json.loads(line)
os.close(answers)
os.chdir(job["cwd"])
os.environ.clear()
os.environ.update(job["environment"])
for number, path in enumerate((os.devnull, job["output"], job["errors"])):
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, number)
    os.close(opened)
sys.argv = ["likeness", *job["arguments"]]
sys.modules["__main__"] = program = types.ModuleType("__main__")
try:
    exec(compile(job["code"], "<program>", "exec"), program.__dict__)
    status = 0
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else int(bool(end.code))
except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 1
# As the interpreter ends, except that it does not take all modules apart, which takes two seconds.
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)
"""


def likeness(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``likeness`` with these arguments, in this folder."""
    return run(LIKENESS, *arguments, cwd=cwd)


def run(program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code with these arguments, as ``subprocess.run`` would."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        output.touch()
        errors.touch()
        job = {
            "arguments": words,
            "code": program,
            "cwd": str(cwd),
            "environment": dict(os.environ),
            "output": str(output),
            "errors": str(errors),
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            words, status, output.read_text("utf-8"), errors.read_text("utf-8")
        )


@cache
def _server() -> subprocess.Popen[str]:
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
    atexit.register(server.communicate)
    return server
