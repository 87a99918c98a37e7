"""Mailbox and pool without Ray's processes: who is given which trial when workers, relays and nodes come and go."""

import asyncio
from types import SimpleNamespace

import pytest

from attnlab.sweep.slots import mailbox, pool
from attnlab.sweep.slots.mailbox import STARTS, Mailbox, Superseded
from attnlab.sweep.slots.pool import Pool

JOB = {"trial_id": "t000-a"}


class Calls:
    """An actor's handle: `handle.method.remote(...)` is the coroutine itself."""

    def __init__(self, actor):
        self._actor = actor

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._actor, name))


def pool_of(node_wait_s=600.0):
    return Pool.__ray_actor_class__(node_wait_s)


def box_of(pool=None, max_failures=1, hang_s=None):
    return Mailbox.__ray_actor_class__(0, Calls(pool or pool_of()), max_failures, hang_s)


async def started(box, words=None):
    """A group of one worker, as it is before its first trial."""
    group = await box.starting()
    await box.join(group, "worker", words)
    return group


async def dies(box, group, step=None):
    """The worker takes its trial, reports, and dies; the next group."""
    assert await box.take(group) == JOB
    await box.begun(group)
    if step is not None:
        await box.report(group, {"step": step})
    await box.died("of something")
    return await started(box)


async def soon(coroutine):
    return await asyncio.wait_for(coroutine, 300)


def test_a_trial_is_failed_when_its_worker_died_too_often_without_getting_further():
    async def run():
        box = box_of(max_failures=1)
        group = await started(box)
        await box.post("a/1", JOB, {})
        for step in (2, 4, 6, 8):  # it gets further each time
            group = await dies(box, group, step)
        group = await dies(box, group)
        task = asyncio.ensure_future(box.take(group))
        last = await soon(box.read("a/1", 4))
        assert last == {"state": "failed", "error": "its worker died 2 times, the last time: of something"}
        await asyncio.sleep(0)
        assert not task.done(), "the slot waits for its next trial"
        await box.close()
        assert await soon(task) is None

    asyncio.run(run())


def test_who_knows_best_says_what_a_worker_died_of(monkeypatch):
    killed = []
    monkeypatch.setattr(mailbox.ray, "kill", killed.append)

    async def error(words, hangs):
        box = box_of(max_failures=0, hang_s=9)
        group = await started(box)
        await box.join(group, "another rank", None)
        await box.post("a/1", JOB, {})
        await box.take(group)
        await box.begun(group)
        if hangs:
            assert await box.hangs(group, "m.py:3 in forward: wait()")
        await box.died("its process ended without a word")
        asyncio.ensure_future(box.take(await started(box, words)))
        return (await soon(box.read("a/1", 0)))["error"]

    assert asyncio.run(error(None, False)) == "its worker died: its process ended without a word"
    assert asyncio.run(error("Fatal Python error: Aborted", False)).endswith(": Fatal Python error: Aborted")
    assert not killed
    assert "no step was done in 9 s (resources.hang_s); it stood at m.py:3" in asyncio.run(error(None, True))
    assert killed == ["worker", "another rank"], "every rank is ended"


def test_a_worker_that_died_idle_takes_no_trial_with_it():
    async def run():
        box = box_of(max_failures=0)
        group = await started(box)
        ghost = asyncio.ensure_future(box.take(group))
        await asyncio.sleep(0)
        await box.died("of something")
        await box.post("a/1", JOB, {})
        with pytest.raises(Superseded):
            await soon(ghost)
        assert await soon(box.take(await started(box))) == JOB

    asyncio.run(run())


def test_workers_that_were_replaced_are_told_and_change_nothing():
    async def run():
        box = box_of()
        old = await started(box)
        await box.post("a/1", JOB, {})
        new = await dies(box, old)
        assert await box.take(new) == JOB
        await box.begun(new)
        assert not await box.heartbeat(old, 7) and await box.heartbeat(new, 7)
        for call in (box.report(old, {"step": 1}), box.end(old, {"state": "completed"}), box.take(old)):
            with pytest.raises(Superseded):
                await call
        await box.end(new, {"state": "completed"})
        assert await soon(box.read("a/1", 0)) == {"state": "completed"}

    asyncio.run(run())


def test_the_word_of_a_second_rank_is_not_the_next_trials():
    async def run():
        box = box_of()
        group = await started(box)
        await box.post("a/1", JOB, {})
        await box.take(group)
        await box.begun(group)
        await box.end(group, {"state": "failed", "error": "rank 1's"})
        await box.post("b/1", {"trial_id": "t000-b"}, {})
        await box.end(group, {"state": "failed", "error": "rank 0's, for the same trial"})
        await box.died("of something")
        assert (await soon(box.take(await started(box))))["trial_id"] == "t000-b"

    asyncio.run(run())


def test_workers_that_fail_to_start_are_given_up():
    async def run():
        box = box_of()
        for _ in range(STARTS):
            assert await box.starting() is not None
            await box.start_failed("ImportError: no")
        assert await box.broken() is None
        assert await box.starting() is None
        assert await box.broken() == f"failed to start {STARTS} times in a row: ImportError: no"

    asyncio.run(run())


def test_a_lost_slots_trial_moves_with_its_mark_and_its_deaths(monkeypatch):
    monkeypatch.setattr(mailbox, "LOST_S", 0.0)
    monkeypatch.setattr(mailbox, "POLL_S", 0.01)

    async def run():
        pool = pool_of()
        boxes = [box_of(pool, max_failures=1) for _ in range(2)]
        await pool.offer(0, boxes[0])
        box, key = await pool.lease("t000-a", "gla")
        assert box is boxes[0]
        watching = asyncio.ensure_future(box.watch())
        group = await started(box)
        await box.post(key, JOB, {})
        assert await box.take(group) == JOB
        await box.begun(group)
        await box.mark("t000-a")
        await box.died("its node has died")
        moved = await soon(box.read(key, 0))
        assert moved == {"moved": True, "marked": True, "failures": (1, 0)}
        assert await pool.up() == []

        await pool.release("t000-a")
        waiting = asyncio.ensure_future(pool.lease("t000-a", "gla"))
        await asyncio.sleep(0)
        await pool.offer(1, boxes[1])
        other, again = await soon(waiting)
        assert other is boxes[1] and again != key
        group = await started(other)
        await other.post(again, JOB, moved)
        group = await dies(other, group)
        asyncio.ensure_future(other.take(group))
        assert (await soon(other.read(again, 0)))["error"].startswith("its worker died 2 times")

        await pool.offer(0, boxes[0])  # its node is back
        assert await pool.up() == [1, 0]
        await box.close()
        assert await soon(watching) is None

    asyncio.run(run())


def test_a_trial_that_moves_back_to_a_slot_is_not_taken_for_the_one_that_left():
    async def run():
        pool, box = pool_of(), box_of()
        await pool.offer(0, box)
        keys = []
        for _ in range(2):
            _, key = await pool.lease("t000-a", "gla")
            assert (await pool.lease("t000-a", "gla"))[1] == key, "a relay that was started anew finds it there"
            keys.append(key)
            await pool.release("t000-a")
        assert keys[0] != keys[1]

    asyncio.run(run())


def test_a_relay_that_was_killed_while_it_waited_takes_no_second_slot():
    async def run():
        pool = pool_of()
        leases = [asyncio.ensure_future(pool.lease("t000-a", "gla")) for _ in range(2)]
        await asyncio.sleep(0)
        for slot in (0, 1):
            await pool.offer(slot, f"box {slot}")
        assert await soon(leases[0]) == await soon(leases[1])
        assert (await soon(pool.lease("t001-b", "gla")))[0] == "box 1"

    asyncio.run(run())


def test_a_slot_goes_on_with_the_arm_it_ran_last():
    async def run():
        pool = pool_of()
        for slot in (0, 1):
            await pool.offer(slot, slot)
        for trial, arm in (("a", "gla"), ("b", "retnet")):
            await pool.lease(trial, arm)
        for trial in ("a", "b"):
            await pool.release(trial)
        assert (await pool.lease("c", "retnet"))[0] == 1

    asyncio.run(run())


def test_the_sweep_ends_only_if_every_slot_was_lost_for_long(monkeypatch):
    monkeypatch.setattr(pool, "POLL_S", 0.01)

    async def run():
        pool = pool_of(node_wait_s=0.05)
        watching = asyncio.ensure_future(pool.watch())
        await asyncio.sleep(0.2)
        assert not watching.done(), "no slot was up yet: the cluster may still bring nodes"
        for slot in (0, 1):
            await pool.offer(slot, slot)
        await pool.withdraw(0)
        await asyncio.sleep(0.2)
        assert not watching.done()
        await pool.withdraw(1)
        assert "no node could run a slot's workers for 0.05 s (resources.node_wait_s)" in await soon(watching)

    asyncio.run(run())


def test_an_interrupted_trial_is_saved_and_no_other_is_given_out():
    async def run():
        box = box_of()
        group = await started(box)
        await box.post("a/1", JOB, {})
        assert await box.take(group) == JOB
        await box.begun(group)
        told, done = asyncio.ensure_future(box.interrupted(group)), asyncio.ensure_future(box.interrupt())
        assert await soon(told)
        await asyncio.sleep(0)
        assert not done.done(), "until the trial is saved"
        await box.saved(group)
        await soon(done)
        waiting = asyncio.ensure_future(box.take(group))
        await asyncio.sleep(0)
        assert not waiting.done()
        await box.close()
        assert await soon(waiting) is None

    asyncio.run(run())


def test_a_worker_that_saved_its_trial_for_a_sigterm_of_its_own_has_not_failed_it():
    async def run():
        box = box_of(max_failures=0)
        group = await started(box)
        await box.post("a/1", JOB, {})
        for _ in range(3):
            assert await box.take(group) == JOB
            await box.begun(group)
            await box.saved(group)
            await box.died("of SIGTERM")
            group = await started(box)
        assert await box.take(group) == JOB

    asyncio.run(run())
