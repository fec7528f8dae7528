"""Groups and settings whose steps are estimated."""

from gsae.autoencoders.registry import architecture
from gsae.training.groups import Point
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings

SITE = "mlp_out.1"


def points(name, width, members=1):
    return [Point(name, SITE, width, 0.1 * (i + 1), 1e-3, 0, architecture(name).Options()) for i in range(members)]


def settings(batch_size=4096, compute_dtype="bfloat16"):
    schedules = Schedules(total_steps=100, warmup_steps=5)
    return StepSettings(batch_size=batch_size, schedules=schedules, compute_dtype=compute_dtype)
