"""The batches of a range of steps together with where each row comes from, on any mesh of any processes."""

import numpy as np
from tiny_harvest import SITES

from gsae.activations.batches import Batches
from gsae.training.step import batch_sharding

MESHES_OF_TWO = [(1, 4, 1), (2, 1, 2)]  # of two processes with two devices each
STEPS = (15, 25)  # from the middle of a superblock, over the end of an epoch
PROVENANCE = "provenance"


class WithProvenance:
    """A store with one more site: token, sequence and position of every row. So they go the way of the rows."""

    def __init__(self, store):
        self.store, self.sites = store, (*store.sites, PROVENANCE)
        self.superblock_rows, self.num_superblocks = store.superblock_rows, store.num_superblocks

    def width(self, site):
        return 3 if site == PROVENANCE else self.store.width(site)

    def read(self, site, k):
        if site != PROVENANCE:
            return self.store.read(site, k)
        found = self.store.provenance(k)
        return np.stack([found[name] for name in ("token_id", "sequence_id", "position")], axis=1)


def with_provenance(store, mesh):
    """Batches as the training reads them."""
    sites = (*map(str, SITES), PROVENANCE)
    return Batches(WithProvenance(store), sites, 128, 1, sharding=batch_sharding(mesh))


def flattened(batches):
    """By step and site, the bytes of [B, D] (NumPy's files know no bfloat16)."""
    return {
        f"{t} {site}": np.ascontiguousarray(np.asarray(arrays["x"])).view(np.uint8)
        for t, batch in zip(range(*STEPS), batches, strict=True)
        for site, arrays in batch.items()
    }
