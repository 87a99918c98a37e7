"""A user's mixer that breaks its process in the way it is told: at the sixth training step, and when the trial is taken
up again at the second (before a first one, a worker may take hours).

Tests copy it beside their sweep file, where a file of the way's name remembers that it has happened.
"""

import ctypes
import os
import resource
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
WAITING = ("wait", "wait_too")


class Breaks(torch.nn.Module):
    def __init__(self, d_model: int, how: str):
        super().__init__()
        self.add_module(f"w_{how}", torch.nn.Linear(d_model, d_model))  # no two ways are the same model
        self.how, self.calls = how, 0

    def forward(self, hidden_states, **extra):
        if self.training and hidden_states.shape[1] > 8:  # beyond what it is tried on before the sweep
            self.calls += 1
            mark = HERE / f"{self.how}.broke"
            at = 2 if mark.exists() else 6
            if self.calls == at or (self.calls > at and self.how in WAITING):
                self.again = mark.exists()
                mark.touch()
                getattr(self, self.how)()
        return self.get_submodule(f"w_{self.how}")(hidden_states), None, None

    def segfault(self):
        ctypes.string_at(0)  # a null pointer, read

    def leave(self):
        os._exit(3)

    def memory(self):
        raise MemoryError("no list is that long")

    def cuda_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    def device_assert(self):
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")]
        torch.cuda.synchronize()

    def limit(self):
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.getrlimit(resource.RLIMIT_AS)[1]))
        self.more = torch.ones(2**30)

    def mistake(self):
        raise ArithmeticError("no such luck")

    def wait(self):
        """At every step until the test, which finds this process's number in `wait.reached`, makes `wait.go`; with
        `wait.tick` it lets one step pass."""
        write = HERE / f"{self.how}.writing"
        write.write_text(str(os.getpid()))
        write.rename(HERE / f"{self.how}.reached")
        tick = HERE / f"{self.how}.tick"
        while not (HERE / f"{self.how}.go").exists():
            if tick.exists():
                tick.unlink()
                return
            time.sleep(0.05)

    wait_too = wait

    def hang(self):
        time.sleep(3600)

    def hang_once(self):
        if not self.again:
            self.hang()
