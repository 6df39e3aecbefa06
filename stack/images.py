"""Which image a service runs, and where it is pulled from."""

from __future__ import annotations

from stack.errors import InvalidError, nearest
from stack.settings import Settings


def reference(settings: Settings, service: str) -> str:
    """The reference to pull: the operator's override, else the release's, at the mirror that `image_registry` names."""
    images, known = settings.knobs.images, settings.release.images
    for name in images:
        if name not in known:
            raise InvalidError(f"images[{name!r}]: no such service; known: {', '.join(known)}{nearest(name, known)}")
    return mirrored(images.get(service, known[service]), settings.knobs.image_registry)


def canonical(image: str) -> str:
    """The full name of an image: ``nginx:1.28.0`` is ``docker.io/library/nginx:1.28.0``."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image if first != "docker.io" else canonical(image.removeprefix("docker.io/"))
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def mirrored(image: str, mirrors: str | dict[str, str]) -> str:
    """The image at the mirror of its registry, or as it is when there is none.

    mirrors: a mirror for each registry, or one string for all of them.
    """
    registry, _, name = canonical(image).partition("/")
    mirror = mirrors if isinstance(mirrors, str) else mirrors.get(registry)
    return f"{mirror.rstrip('/')}/{name}" if mirror else image
