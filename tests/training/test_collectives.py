"""What moves between devices: from shapes alone, on meshes that nobody has, and as other backends write it.

The compiled programs: test_step_sharded.py.
"""

import dataclasses

from test_step import SETTINGS, point

from gsae.collectives import Collective, compiled, totals
from gsae.mesh import DATA, FEATURE, SWEEP
from gsae.training.collectives import step_collectives
from gsae.training.groups import group_points


def test_a_mesh_that_nobody_has_and_rows_of_another_dtype():
    """The sizes of one published sweep on 4 x 4 x 16 chips, from shapes alone."""
    (group,) = group_points([point("gated", width=131072, sparsity_coefficient=c / 10) for c in range(1, 9)], 4)
    settings = dataclasses.replace(SETTINGS, batch_size=4096, compute_dtype="bfloat16")
    found = totals(step_collectives(group, 3072, settings, {SWEEP: 4, DATA: 4, FEATURE: 16}, "bfloat16"))
    assert found["all-gather", (SWEEP, FEATURE)] == 2 * 1024 * 3072
    assert found["all-reduce", (DATA,)] == 2 * 4 * (2 * 3072 * 8192 + 5 * 8192 + 2 * 3072 + 7)
    assert found["all-reduce", (FEATURE,)] == 2 * 4 * (2 * 1024 * 3072 + 3072 + 8)


TEXT = """HloModule jit_step, entry_computation_layout={()->f32[]}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %all-reduce-start.1 = (f32[4,8]{1,0:T(8,128)}, bf16[8]{0}) all-reduce-start(%a, %b), replica_groups={{0,2},{1,3}}
  %all-reduce-done.1 = (f32[4,8]{1,0:T(8,128)}, bf16[8]{0}) all-reduce-done(%all-reduce-start.1)
}

%fused (p: f32[4]) -> f32[2] {
  %reduce-scatter.2 = f32[2]{0} reduce-scatter(%p), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, to_apply=%add
}

%below (p: (s32[], f32[4,8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%once (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %all-reduce.9 = f32[]{:T(128)} all-reduce(%c), replica_groups=[1,4]<=[4], to_apply=%add
}

ENTRY %main (x: f32[4,8]) -> f32[] {
  %v = (s32[], f32[4,8]) while(%t), condition=%below, body=%once
  %w = (s32[], f32[4,8]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %ag = (f32[4,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
  %alone = f32[4]{0} all-reduce(%y), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %f = f32[2]{0} fusion(%z), kind=kCustom, calls=%fused
  %cp = f32[7]{0} collective-permute(%q), source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
}
"""


def test_started_instructions_loops_and_fusions_are_read():
    """As other backends write them: a start and a done, tiles, tuples, loops with a known number of trips."""
    found = compiled(TEXT, {SWEEP: 1, DATA: 2, FEATURE: 2})
    assert found == [
        Collective("all-reduce", (DATA, FEATURE), ((),), 4, 5),
        Collective("all-reduce", (DATA,), ((4, 8), (8,)), 4 * 32 + 2 * 8, 3),
        Collective("all-gather", (FEATURE,), ((8, 8),), 256, 1),
        Collective("reduce-scatter", (DATA,), ((2,),), 8, 1),
        Collective("collective-permute", (FEATURE,), ((7,),), 28, 1),
    ]
    assert totals(found)["all-reduce", (DATA,)] == 3 * 144
