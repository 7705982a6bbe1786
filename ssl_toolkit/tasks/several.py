"""Runs of a sweep at the same time: a process each, with a device or a share of the cores of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import torch

from ssl_toolkit.checkpoints import STOPS, Interrupted, signals_given_back
from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import plain, refuse_objects
from ssl_toolkit.progress import say
from ssl_toolkit.runs import available_cores
from ssl_toolkit.tasks.sweeping import Trial
from ssl_toolkit.training import on_cuda


def check_several(devices: int, trials: Sequence[Trial]) -> None:
    """Refuse what cannot run at the same time.

    Raises:
        UsageError: There are fewer devices, or a setting is an object, which other processes do not get.
    """
    for trial in trials:
        on_gpu = on_cuda(trial.settings.get("accelerator", "auto"))
        there = torch.cuda.device_count() if on_gpu else available_cores()
        if devices > there:
            raise UsageError(f"--devices is {devices}: this machine has {there} {'GPUs' if on_gpu else 'cores'}")
        refuse_objects(
            plain({**trial.settings, **{name: (trial.scoring or {}).get(name) for name in ("train", "test")}})
        )


def several_at_once(trials: Sequence[Trial], devices: int, note: Callable[[Trial, str | None], None]) -> None:
    """Run trials in processes of their own, `devices` at a time; `note` gets each with its error.

    What a process says goes to a file beside the run's folder. A signal to stop is handed on to all.

    Raises:
        Interrupted: A signal asked for the end; the runs have saved themselves.
    """
    waiting, free = list(trials), list(range(devices))
    running: list[tuple[BaseProcess, Connection, Trial, int]] = []
    asked: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        for process, *_ in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signum)

    with signals_given_back():
        for signum in STOPS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, stop)
        while running or (waiting and not asked):
            while free and waiting and not asked:
                trial, device = waiting.pop(0), free.pop(0)
                say(f"run {len(trials) - len(waiting)} of {len(trials)} on device {device}: {trial.name}")
                running.append((*_start(trial, device, devices), trial, device))
            ended = wait([process.sentinel for process, *_ in running])
            for job in [job for job in running if job[0].sentinel in ended]:
                running.remove(job)
                process, answer, trial, device = job
                error = _answered(process, answer)
                say(f"FAILED {trial.name}: {error}" if error else f"done: {trial.name}")
                if not asked:
                    note(trial, error)
                free.append(device)
    if asked:
        name = signal.Signals(asked[0]).name
        raise Interrupted(f"stopped by {name}; the same command goes on with the sweep", asked[0])


def _start(trial: Trial, device: int, devices: int) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")  # a fork would share what CUDA and FAISS have set up
    answer, theirs = context.Pipe(duplex=False)
    quiet = replace(trial, settings={**trial.settings, "progress": False})
    visible = ""
    if on_cuda(trial.settings.get("accelerator", "auto")):
        there = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        visible = there[device] if there[0] else str(device)
    threads = max(1, available_cores() // devices)
    process = context.Process(target=_work, args=(quiet, visible, threads, theirs))
    process.start()
    theirs.close()
    return process, answer


def _work(trial: Trial, visible: str, threads: int, answer: Connection) -> None:
    """What the process of a trial does, with the GPU that is `visible`, or with so many threads."""
    os.setpgrp()  # a terminal's Ctrl-C is handed on by the sweep, and must not come twice
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    torch.set_num_threads(threads)
    log = Path(f"{trial.settings['out']}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
        try:
            answer.send(trial.error())
        except Interrupted as stop:
            answer.send(str(stop))


def _answered(process: BaseProcess, answer: Connection) -> str | None:
    """The error that a process has told, or how it ended without a word."""
    process.join()
    try:
        error: str | None = answer.recv()
    except EOFError:
        return f"its process ended with exit code {process.exitcode}"
    return error
