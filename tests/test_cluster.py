"""The scripts for clusters, started on this machine: SLURM's own commands are stood in for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from torch.distributed.run import get_args_parser

from options import TINY_TRAINING
from ropevit.cli.train import read_config
from ropevit.tasks.training.checkpoints import list_checkpoints
from ropevit.tasks.training.metrics_log import read_metrics

CLUSTER = Path(__file__).parents[1] / "examples" / "cluster"
TINY = [*TINY_TRAINING, "--save-interval", "5"]


@pytest.fixture
def slurm(tmp_path):
    """Return a function that starts the script as SLURM would, with two processes."""
    commands = {
        "srun": 'exec "$@"',
        "scontrol": f'[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/requeued',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    port = str(20000 + os.getpid() % 20000)
    job = {"SLURM_JOB_ID": port, "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "here", "PROCESSES": "2", "PORT": port}
    started = []

    def start(*options):
        command = ["bash", CLUSTER / "slurm.sh", "fashion", "--out", tmp_path / "run", *TINY, *options]
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command, env=os.environ | job | {"PATH": path}, stdout=log, stderr=log))
        return started[0]

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
        process.wait()


def wait_for(condition, seconds=280):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
    return result


def trainers(process):
    """Find the processes that train."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.cmdline()[1:4] == ["-u", "-m", "ropevit"]]


#: Writes down what it is called with, and runs until it is asked to stop.
TORCHRUN = """#!/usr/bin/env bash
trap 'kill $!; echo stopped; exit 0' TERM
printf '%s\\n' "$@" > {folder}/words.part && mv {folder}/words.part {folder}/words
sleep 280 & wait $!
"""


def test_the_slurm_script_starts_a_training_that_the_command_line_takes_and_requeues_it(slurm, tmp_path):
    (tmp_path / "torchrun").write_text(TORCHRUN.format(folder=tmp_path))
    (tmp_path / "torchrun").chmod(0o755)
    process = slurm()
    wait_for((tmp_path / "words").exists)
    arguments = get_args_parser().parse_args((tmp_path / "words").read_text().splitlines())
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.max_restarts) == ("1:1", "2", 3)
    assert arguments.rdzv_endpoint.startswith("127.0.0.1:")
    assert (arguments.module, arguments.training_script) == (True, "ropevit")
    assert arguments.training_script_args[0] == "train"
    config = read_config(arguments.training_script_args[1:])
    assert (config.recipe, config.model.width, config.run.resume) == ("fashion", 16, True)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert (tmp_path / "requeued").read_text().startswith("requeue ")
    assert "stopped" in (tmp_path / "log").read_text()  # before it came back


@pytest.mark.full
def test_slurm_restarts_after_a_death_and_requeues_when_its_time_is_up(slurm, tmp_path):
    process = slurm()
    wait_for(lambda: list_checkpoints(tmp_path / "run" / "checkpoints"))
    trainers(process)[-1].send_signal(signal.SIGKILL)
    log = tmp_path / "log"
    wait_for(lambda: "resuming from step" in log.read_text(errors="replace"))
    steps = len(read_metrics(tmp_path / "run"))
    wait_for(lambda: len(read_metrics(tmp_path / "run")) > steps)  # all have joined, and train
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert (tmp_path / "requeued").read_text().startswith("requeue ")
    assert "as asked by SIGTERM" in log.read_text(errors="replace")


def test_the_kubernetes_manifest_starts_a_training_that_the_command_line_takes():
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    pods, name = job["spec"], job["metadata"]["name"]
    assert service["metadata"]["name"] == pods["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name}
    container = pods["template"]["spec"]["containers"][0]
    assert container["command"] == ["torchrun"]
    arguments = get_args_parser().parse_args(container["args"])
    assert arguments.nnodes == str(pods["completions"]) == str(pods["parallelism"])
    assert arguments.nproc_per_node == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert arguments.rdzv_endpoint.startswith(f"{name}-0.{pods['template']['spec']['subdomain']}:")
    assert (arguments.module, arguments.training_script) == (True, "ropevit")
    assert arguments.training_script_args[0] == "train"
    config = read_config(arguments.training_script_args[1:])
    assert (config.recipe, config.model.position, config.run.resume) == ("deit3_small", "rope_mixed", True)
    environment = {each["name"]: each["value"] for each in container["env"]}
    patience = int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])  # 30 seconds if left out, then processes are killed
    assert 60 <= patience < pods["template"]["spec"]["terminationGracePeriodSeconds"]
    assert f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={patience} " in (CLUSTER / "slurm.sh").read_text()
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {f"/{path.split('/')[1]}" for path in (config.data, str(config.run.out))} <= mounts
