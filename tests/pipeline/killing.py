"""Runs stages in forked children and kills them: in a process of its own, see test_kills.py.

`PYTHONPATH=tests python tests/pipeline/killing.py CONFIG FOLDER SEED KILLS` kills each stage so
often.

Everything is imported once before, and nothing computed, so that a child costs milliseconds and
starts with clean thread pools.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import imported  # noqa: F401
import torch

import trsr.pipeline
from trsr.config import load_config


def child(config_path: str, folder: Path, stage: str) -> None:
    """Does one stage and ends the process."""
    code = 1
    try:
        torch.set_num_threads(1)
        settings = [f"run.folder={folder}", f"run.cache={folder}/responses.sqlite"]
        trsr.pipeline.run_stage(load_config(config_path, settings), stage)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def attempt(config: str, folder: Path, stage: str, delay: float | None) -> str:
    """Runs a stage; kills it after `delay` seconds. Returns done or killed."""
    pid = os.fork()
    if pid == 0:
        child(config, folder, stage)
    end = None if delay is None else time.monotonic() + delay
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"{stage} failed with status {status}")
            return "done"
        if end is not None and time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "killed"
        time.sleep(0.002)


def kill_stages(config: str, work: Path, seed: int, most: int) -> None:
    """Runs the stages unbroken in one folder; in another, each is killed again and again.

    How often each was killed is in `kills.json` in the end.
    """
    draw = random.Random(seed)
    whole, broken = work / "whole", work / "broken"
    kills = {}
    for stage in trsr.pipeline.stage_names(load_config(config)):
        started = time.monotonic()
        attempt(config, whole, stage, None)
        seconds = time.monotonic() - started
        kills[stage] = 0
        before = work / "before"
        shutil.rmtree(before, ignore_errors=True)
        if broken.exists():
            shutil.copytree(broken, before)
        while kills[stage] < most:
            share = (kills[stage] + draw.random()) / most  # early and late moments alike
            if attempt(config, broken, stage, share * seconds) == "killed":
                kills[stage] += 1
                continue
            # It was done before the kill came: begin the stage again from its inputs.
            shutil.rmtree(broken)
            if before.exists():
                shutil.copytree(before, broken)
        attempt(config, broken, stage, None)
    (work / "kills.json").write_text(json.dumps(kills))


if __name__ == "__main__":
    kill_stages(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
