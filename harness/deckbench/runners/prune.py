"""Remove what killed steps left behind, and images that newer builds have replaced."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from deckbench.containers.build import LAYERS, PACKAGES, packages_tag
from deckbench.containers.lock import BASES, WHEELS
from deckbench.containers.spec import load_images
from deckbench.machine.daemon import LABEL, REMOTE_JOB, failures
from deckbench.progress import say

if TYPE_CHECKING:
    from docker import DockerClient


def prune(client: DockerClient, *, store: bool = False, uncollected: bool = False) -> dict[str, Any]:
    """Remove DeckBench's leftovers from a daemon.

    Containers are removed whose caller has ended; those of running processes and of other machines stay. Images in use
    stay, as do the newest build of each and the packages of the current locks.

    Args:
        client: the daemon's.
        store: also remove the volume that caches inputs for later steps.
        uncollected: also remove finished steps whose output was not downloaded, if this machine started them.

    Returns:
        How many `containers` and `images` were removed.

    Raises:
        OutsideError: the daemon fails.
    """
    import docker.errors

    from deckbench.runners.local.cleanup import remove_dead
    from deckbench.runners.remote.cleanup import remove_old
    from deckbench.runners.remote.store import remove_store

    containers = len(remove_dead(client))
    with failures("cannot clean up"):
        containers += len(remove_old(client, uncollected=uncollected))
        jobs = client.api.containers(all=True, filters={"label": [f"{LABEL}={REMOTE_JOB}"]})
        if waiting := sum(job["State"] == "exited" for job in jobs):
            say(f"{waiting} finished steps stay: rerun their commands to download the output")
        # A running step reads the store by its path, so the daemon does not know that it is in use.
        if store and (jobs or not remove_store(client)):
            say("the store stays: a step is using it")
        images = 0
        current = wanted_tags()
        for kind in ("image", PACKAGES, LAYERS):
            for image in client.images.list(filters={"label": f"{LABEL}={kind}"}):
                if current & set(image.tags):
                    continue
                with contextlib.suppress(docker.errors.APIError):  # a container uses it
                    for name in image.tags or [image.id]:
                        client.images.remove(name)
                    images += 1
    return {"containers": containers, "images": images}


def wanted_tags() -> set[str]:
    """The tags of containers.toml's images, and of the packages of their current locks."""
    images = load_images().values()
    locked = [image for image in images if (image.folder / WHEELS).is_file()]
    return {image.tag for image in images} | {packages_tag(image, base) for image in locked for base in BASES}
