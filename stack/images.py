"""Which image a service runs, and where it is pulled from."""

from __future__ import annotations

from collections.abc import Iterator

from stack.errors import InvalidError, nearest
from stack.release import tag_of
from stack.settings import Settings

# One version set: a newer plugin daemon with an older api loses its plugins (dify-plugin-daemon#696), and so on.
TOGETHER = ("api", "web", "plugin_daemon", "sandbox")


def reference(settings: Settings, service: str) -> str:
    """The reference to pull: the operator's override, else the release's, at the mirror that `image_registry` names.

    Raises InvalidError for overrides that cannot be, ValueError for a service that the release has no image for.
    """
    if lines := [*_unknown(settings), *_mixed(settings)]:
        raise InvalidError(lines)
    image = settings.knobs.images.get(service) or settings.release.images.get(service)
    if not image:
        raise ValueError(f"stack/releases/{settings.release.version}/images.yaml names no image for {service}")
    return mirrored(image, settings.knobs.image_registry)


def _unknown(settings: Settings) -> Iterator[str]:
    known = settings.release.images
    for name in settings.knobs.images:
        if name not in known:
            yield f"images[{name!r}]: no such service; known: {', '.join(known)}{nearest(name, known)}"


def _mixed(settings: Settings) -> Iterator[str]:
    """Overrides of another version than the release's; a digest without a tag is the operator's word for the same one."""
    given, release = settings.knobs.images, settings.release
    for name in () if settings.knobs.allow_mixed_images else TOGETHER:
        image, wanted = given.get(name, ""), tag_of(release.images.get(name, ""))
        if image and tag_of(image) != wanted and not ("@" in image and not tag_of(image)):
            yield (
                f"images[{name!r}] = {image!r}: {', '.join(TOGETHER)} are one set, and Dify {release.version} has {wanted} "
                "here; choose another dify_version, or set allow_mixed_images = True"
            )


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
