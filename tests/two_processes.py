"""A command line of ropevit in two processes, as torchrun starts them: `python two_processes.py PORT WORDS`."""

import multiprocessing
import os
import runpy
import sys


def start(rank, port, words):
    """Be one of two processes of a command line."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    sys.argv = ["ropevit", *words]
    runpy.run_module("ropevit", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    forks = multiprocessing.get_context("fork")
    children = [forks.Process(target=start, args=(rank, sys.argv[1], sys.argv[2:])) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(abs(child.exitcode) for child in children))
