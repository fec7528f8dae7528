"""What jax prints when it gives up, as jaxlib 0.10 and 0.12 word it, and which exceptions mean that a peer has gone."""

from gsae.errors import RunError
from gsae.processes import failing

MISSING = """E1125 coordination_service.cc:1199] Stopping coordination service as cluster registration
failed. Original error: DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0. This usually
# of tasks that reached the barrier: 2/5.
The first task at the barrier: 0. Some timed out task names:
1
3
/job:jax_worker/replica:0/task:4
 [type.googleapis.com/tensorflow.BarrierError='']
"""
SILENT = """E1125 UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
12
The tasks have crashed. Check the task logs for an earlier error, or scheduler events to debug further.
"""


def test_who_did_not_come():
    assert failing.arrived(MISSING) == (2, [1, 3, 4])
    assert failing.arrived(SILENT) is None
    assert failing.arrived(MISSING.replace("[Init]Wait_for_all_tasks_to_register", "gsae/logs")) is None


def test_who_is_silent():
    assert failing.silent(SILENT) == [1, 12]
    assert failing.silent(MISSING) == []


def test_which_errors_are_a_lost_peer():
    gone = ValueError("UNKNOWN: Gloo AllGather failed: [tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:39581")
    assert failing.is_lost_peer(gone)
    assert not failing.is_lost_peer(ValueError("operands could not be broadcast together"))
    assert not failing.is_lost_peer(RunError("the disk is full"))
