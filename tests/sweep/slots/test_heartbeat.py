"""The rules by which workers are judged, and what a process is put back to between trials; no Ray is started."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest
import ray.exceptions

from attnlab.config.sweep import ResourcesConfig
from attnlab.sweep.slots import heartbeat
from attnlab.sweep.slots.heartbeat import FIRST_STEP_S, HEARTBEAT_S, HangClock, current_line
from attnlab.sweep.slots.worker_death import cause_of_death


def test_a_worker_may_take_hours_to_its_first_step_and_hang_s_after_it():
    vital = HangClock(60, heard=0)
    for now in range(0, 7200, 5):  # data prepared, kernels tuned: it lives, but does no step
        vital.heartbeat(0, now)
        assert vital.hung(now) is None
    vital.heartbeat(1, 7200)
    for now in range(7200, 7260, 5):
        vital.heartbeat(1, now)
        assert vital.hung(now) is None
    for now in range(7260, 7300, 5):  # it has a moment to say by itself where it stands
        vital.heartbeat(1, now)
    assert "no step was done in 60 s (resources.hang_s)" in vital.hung(7300)
    vital.heartbeat(2, 7300)
    assert vital.hung(7300) is None
    never = HangClock(60, heard=0)
    never.heartbeat(0, FIRST_STEP_S + 1)
    assert "no first step" in never.hung(FIRST_STEP_S + 1)


def test_a_process_that_says_nothing_hangs_even_before_its_first_step():
    vital = HangClock(60, heard=0)
    assert vital.hung(60) is None
    assert "no sign of life for 60 s" in vital.hung(61 + HEARTBEAT_S)


def test_without_a_limit_nothing_hangs():
    vital = HangClock(None, heard=0)
    vital.heartbeat(1, 1)
    assert vital.hung(1e9) is None
    assert ResourcesConfig(hang_s=None).hang_s is None
    assert ResourcesConfig().hang_s >= 1800, "shorter than torch.distributed's own limit"


@pytest.mark.parametrize("value", [0, -1, 0.5, "soon"])
def test_a_limit_that_is_none_is_one_line(write_sweep, value):
    from attnlab.plan.load import load
    from attnlab.util.errors import UserError

    with pytest.raises(UserError) as told:
        load(write_sweep(), [f"resources.hang_s={value}"])
    (line,) = told.value.problems
    assert line.startswith("resources.hang_s: ") and str(value) in line


def test_it_is_told_where_a_thread_stands():
    held = threading.Event()
    thread = threading.Thread(target=lambda: held.wait(60))
    thread.start()
    said = current_line(thread.ident)
    held.set()
    thread.join()
    assert "threading.py" in said and " in wait: " in said
    assert current_line(thread.ident) == "its thread is gone"


def test_what_ray_knows_of_a_death_is_one_line():
    gone = ray.exceptions.RayActorError(
        error_msg="The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file."
    )
    assert cause_of_death(gone).startswith("its process ended without a word")
    node = ray.exceptions.RayActorError(
        error_msg="The actor died unexpectedly before finishing this task.\n\tip: 10.0.0.7\n"
        "The actor died because its node has died. Node Id: 08d, the actor's node was preempted."
    )
    assert cause_of_death(node).startswith("The actor died because its node has died. Node Id: 08d")
    assert cause_of_death(ValueError("so it is")) == "ValueError: so it is"


def test_a_crash_leaves_its_traceback_for_the_next_process(tmp_path, monkeypatch):
    code = """
        import os, sys
        from pathlib import Path
        from types import SimpleNamespace
        from attnlab.sweep.slots.heartbeat import CrashLog, ray
        ray._private.worker._global_node = SimpleNamespace(get_logs_dir_path=lambda: sys.argv[1])
        crash = CrashLog("a-0", 0)
        print(crash.read_previous())
        crash.open()
        if sys.argv[2] == "crash":
            os.kill(os.getpid(), 11)
        crash.close()
    """

    def run(how):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), how]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("crash").returncode == -signal.SIGSEGV
    second = run("well")
    assert second.stdout.startswith("Fatal Python error: Segmentation fault") and "<module>" in second.stdout
    assert run("well").stdout == "None\n" and not list(tmp_path.iterdir())


def test_a_worker_that_nobody_answers_ends_itself(monkeypatch):
    """Cut off from its mailbox it must not train on: another worker is given its trial."""
    codes = []

    def exit(code):
        codes.append(code)
        pulse._over.set()  # the process would be gone

    call = SimpleNamespace(remote=lambda *args: True)
    box = SimpleNamespace(begun=call, heartbeat=call, hangs=call)

    def get(answer, timeout=None):
        if timeout:
            raise ray.exceptions.GetTimeoutError
        return answer

    monkeypatch.setattr(heartbeat.os, "_exit", exit)
    monkeypatch.setattr(heartbeat.ray, "get", get)
    pulse = heartbeat.Heartbeat(box, 1, 0.2)
    with pulse:
        pulse._thread.join(300)
    assert codes == [1]


def test_counting_a_step_asks_nobody(monkeypatch):
    monkeypatch.setattr(heartbeat, "ray", None)  # nobody is asked
    pulse = heartbeat.Heartbeat(None, 1, 60)
    for _ in range(1000):
        pulse()
    assert pulse.count == 1000


AFTER = """
import os, random, resource, sys
import numpy as np, torch
from torch.nn.modules import module
from attnlab.sweep.slots.process_reset import ProcessReset
from attnlab.util.errors import UserError

def seen():
    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
    flags = [torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.is_anomaly_enabled()]
    flags += [torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.backends.cudnn.benchmark]
    hooks = [str(value) for name, value in vars(module).items() if name.startswith("_global_")]
    draws = [random.random(), np.random.rand(), torch.rand(3).tolist()]
    return [dict(os.environ), os.getcwd(), list(sys.path), limits, flags, hooks, draws,
            torch.get_float32_matmul_precision(), torch.nn.Linear(2, 2)(torch.ones(1, 2)).tolist()]

clean = ProcessReset()
clean()
before = seen()
os.environ["CUBLAS_WORKSPACE_CONFIG"] = "x"; del os.environ["HOME"]
os.chdir("/"); sys.path.insert(0, "/nowhere")
resource.setrlimit(resource.RLIMIT_AS, (2**40, resource.getrlimit(resource.RLIMIT_AS)[1]))
module.register_module_forward_hook(lambda module, args, out: out * 2)
module.register_module_forward_pre_hook(lambda module, args: None)
module.register_module_full_backward_hook(lambda *args: None)
torch.set_default_dtype(torch.float64); torch.set_default_device("meta")
torch.set_grad_enabled(False); torch.autograd.set_detect_anomaly(True); torch.use_deterministic_algorithms(True)
torch.set_num_threads(2); torch.backends.cudnn.benchmark = True; torch.set_float32_matmul_precision("medium")
clean()
after = seen()
assert after == before, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""


def test_nothing_that_a_trial_changed_of_its_process_reaches_the_next():
    """In a process of its own; a bit-for-bit comparison of whole trials is in test_engine.py."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AFTER], capture_output=True, text=True, env={**os.environ, "HOME": "/"}
    )
    assert done.returncode == 0, done.stderr
