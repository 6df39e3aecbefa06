"""Documents in JSON files, one file each, so that they outlive the container and can be looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

Document = dict[str, Any]


class Documents:
    """Collections of documents below one folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def make(self, collection: str) -> None:
        self._folder(collection).mkdir(parents=True, exist_ok=True)

    def has(self, collection: str) -> bool:
        return self._folder(collection).is_dir()

    def put(self, collection: str, key: str, document: Document) -> None:
        """Write beside the file and rename, so that a container killed half way leaves no torn document."""
        self.make(collection)
        path = self._path(collection, key)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"id": key, "document": document}))
        beside.replace(path)

    def get(self, collection: str, key: str) -> Document | None:
        path = self._path(collection, key)
        return json.loads(path.read_text())["document"] if path.exists() else None

    def remove(self, collection: str, key: str) -> bool:
        path = self._path(collection, key)
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    def all(self, collection: str) -> Iterator[tuple[str, Document]]:
        for path in sorted(self._folder(collection).glob("*.json")):
            found = json.loads(path.read_text())
            yield found["id"], found["document"]

    def nearest(self, collection: str, vector: list[float], field: str = "vector") -> list[tuple[str, Document]]:
        """All documents that have a vector, the nearest first."""
        found = [(key, doc) for key, doc in self.all(collection) if len(doc.get(field) or ()) == len(vector)]
        return sorted(found, key=lambda one: sum((a - b) ** 2 for a, b in zip(one[1][field], vector, strict=True)))

    def _folder(self, collection: str) -> Path:
        return self.root / safe(collection)

    def _path(self, collection: str, key: str) -> Path:
        return self._folder(collection) / f"{safe(key)}.json"


def safe(name: str) -> str:
    """A file name for any name; the length is limited because a file name's is."""
    return re.sub(r"^\.", "%2E", quote(name, safe=""))[:200]
