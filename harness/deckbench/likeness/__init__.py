"""Near-duplicates: pictures that show the same moment, whatever compression, size, brightness, shift or small crop.

Perceptual hashes alone call any two views of one deck alike. So a coarse likeness only proposes, and pixels decide:

1. Every picture becomes a grey 192x108 thumbnail, taken as logarithm (a change of brightness becomes a constant) and
   band-passed. At 32x18 the dot products with shifted and scaled versions of another picture propose pairs: blocks of
   matrix products, so that 10,000 pictures take a minute and little memory.
2. Proposed pairs are aligned in batches by Gauss-Newton on shift and scale (Lucas and Kanade, 1981), at 48x27, 96x54
   and 192x108; most are given up at the first, cheap level.
3. Two numbers decide at 192x108: the normalised cross-correlation of the aligned high-passed pictures, and the share of
   8x6 textured blocks that agree on their own. A copy agrees everywhere; a moved arm or another plate shows as a hole.

COPY is the same moment. SCENE (the same camera standing still) is used only where nothing is known about sessions, so
that the pool of one fixed camera counts as one group.
"""

from __future__ import annotations

from deckbench.likeness.candidates import Coarse
from deckbench.likeness.compare import Copy, copies_across
from deckbench.likeness.decide import Pair
from deckbench.likeness.search import SMALL_SIDE, cluster, matches
from deckbench.likeness.thumbnails import fingerprint, thumbnail

__all__ = ["SMALL_SIDE", "Coarse", "Copy", "Pair", "cluster", "copies_across", "fingerprint", "matches", "thumbnail"]
