"""What signals do to a sweep, in its own process and in a user's."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from attnlab.sweep.ui.interrupt import SIGNALS, Interrupts
from attnlab.util.errors import Interrupted


@pytest.fixture(autouse=True)
def handlers():
    """Handlers that note what comes, and are back after it."""
    came, before = [], {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum in SIGNALS:
        signal.signal(signum, lambda number, frame: came.append(number))
    yield came
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_ends_what_only_checks_with_its_exit_code(signum):
    with pytest.raises(Interrupted) as interrupted, Interrupts(own_process=True) as interrupts:
        interrupts.handle()  # Ray is up
        signal.raise_signal(signum)
    assert interrupted.value.code == 128 + signum


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_while_trials_run_it_is_noted_and_coming_again_changes_nothing(handlers, signum):
    with Interrupts(own_process=True) as interrupts, interrupts.patient():
        interrupts.handle()
        for _ in range(3):
            signal.raise_signal(signum)
        assert interrupts.came == signum
    assert handlers == []


def test_in_a_users_process_the_signal_then_does_what_it_would_have_done(handlers):
    with Interrupts() as interrupts, interrupts.patient():
        signal.raise_signal(signal.SIGTERM)
        assert handlers == []
    assert handlers == [signal.SIGTERM]
    with pytest.raises(Interrupted), Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert handlers == [signal.SIGTERM], "Ctrl-C is the exception that was raised"


def test_a_second_ctrl_c_raises_in_a_users_process():
    with pytest.raises(Interrupted), Interrupts() as interrupts, interrupts.patient():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_process_started_with_nohup_outlives_its_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts(own_process=True) as interrupts:
        signal.raise_signal(signal.SIGHUP)
        assert not interrupts.came


def test_handlers_that_ray_replaced_are_put_back_and_the_users_own_are_there_afterwards():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    with Interrupts(own_process=True) as interrupts, interrupts.patient():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        interrupts.handle()
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.came == signal.SIGTERM
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == before


def test_a_sweep_in_another_thread_leaves_signals_alone():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    seen = []

    def run():
        with Interrupts() as interrupts, interrupts.patient():
            interrupts.handle()
            seen.append({signum: signal.getsignal(signum) for signum in SIGNALS})

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_second_ctrl_c_ends_a_sweeps_own_process_at_once():
    code = (
        "import signal\n"
        "from attnlab.sweep.ui.interrupt import Interrupts\n"
        "with Interrupts(own_process=True) as interrupts, interrupts.patient():\n"
        "    interrupts.handle()\n"
        "    signal.raise_signal(signal.SIGTERM); signal.raise_signal(signal.SIGINT)\n"
        "    print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith("interrupted twice; what ended is kept. Go on with --resume\n")
