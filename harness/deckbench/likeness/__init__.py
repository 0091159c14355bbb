"""Near-duplicates: images of one moment, recompressed, resized, re-lit, shifted, mirrored, turned or cropped.

Perceptual hashes alone call any two views of one deck alike. So a coarse likeness only proposes, and pixels decide:

1. Every image becomes a gray 192x108 thumbnail, taken as logarithm (a change of brightness becomes a constant) and
   band-passed. At 32x18, shifted and scaled versions of each are compared with all others on principal components, and
   the most alike of each are its candidates (`candidates`).
2. Candidates are aligned in small batches, most alike first, by Gauss-Newton on shift and scale (Lucas and Kanade,
   1981), at 48x27, 96x54 and 192x108; most are given up at the first, cheap level, and what a batch settles is not
   looked at again (`search`, `align`).
3. Two numbers decide: the normalised cross-correlation of the aligned images, and the share of 8x6 textured blocks that
   agree on their own. A copy agrees everywhere; a moved arm or another plate shows as a hole (`decide`).
4. Mirrored, turned and cropped copies: windows of all images are described by gradient directions, and each image, in
   eight orientations, is looked up among them (`windows`). Pixels decide again (`views`).

COPY is the same moment. A scene (the same camera standing still) is used only where nothing is known about sessions, so
that the pool of one fixed camera counts as one group.
"""

from __future__ import annotations

from deckbench.likeness.candidates import coarse_vectors
from deckbench.likeness.compare import Copy, copies_across, thumbnails_of
from deckbench.likeness.decide import Pair
from deckbench.likeness.search import SMALL_SIDE, cluster, matches
from deckbench.likeness.thumbnails import fingerprint, thumbnail

__all__ = [
    "SMALL_SIDE",
    "Copy",
    "Pair",
    "cluster",
    "coarse_vectors",
    "copies_across",
    "fingerprint",
    "matches",
    "thumbnail",
    "thumbnails_of",
]
