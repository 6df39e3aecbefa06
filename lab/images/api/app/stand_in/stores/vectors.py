"""Stores with an HTTP API for vectors: Weaviate, Qdrant, Milvus, Chroma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stand_in.stores.base import COLLECTION, VECTOR, Http, NotReached


class Weaviate:
    def __init__(self, env: Mapping[str, str]) -> None:
        headers = {"Authorization": f"Bearer {env.get('WEAVIATE_API_KEY', '')}"}
        self.api = Http(env.get("WEAVIATE_ENDPOINT", ""), headers)

    def write(self, key: str, text: str) -> None:
        document = {"class": "StandInProbe", "id": key, "properties": {"text": text}}
        self.api.ask("POST", "/v1/objects", document)

    def read(self, key: str) -> str | None:
        status, found = self.api.ask("GET", f"/v1/objects/StandInProbe/{key}", also=(404,))
        return str(found["properties"]["text"]) if status == 200 else None

    def remove(self, key: str) -> None:
        self.api.ask("DELETE", f"/v1/objects/StandInProbe/{key}")


class Qdrant:
    def __init__(self, env: Mapping[str, str]) -> None:
        self.api = Http(env.get("QDRANT_URL", ""), {"api-key": env.get("QDRANT_API_KEY", "")})
        vectors = {"size": len(VECTOR), "distance": "Cosine"}
        self.api.ask("PUT", f"/collections/{COLLECTION}", {"vectors": vectors}, also=(409,))

    def write(self, key: str, text: str) -> None:
        point = {"id": key, "vector": VECTOR, "payload": {"page_content": text}}
        self.api.ask("PUT", f"/collections/{COLLECTION}/points?wait=true", {"points": [point]})

    def read(self, key: str) -> str | None:
        wanted = {"vector": VECTOR, "limit": 100, "with_payload": True}
        _, found = self.api.ask("POST", f"/collections/{COLLECTION}/points/search", wanted)
        return next((hit["payload"]["page_content"] for hit in found["result"] if hit["id"] == key), None)

    def remove(self, key: str) -> None:
        self.api.ask("POST", f"/collections/{COLLECTION}/points/delete?wait=true", {"points": [key]})


class Milvus:
    """Its REST API, which is on the same port as the gRPC that Dify speaks."""

    def __init__(self, env: Mapping[str, str]) -> None:
        token = env.get("MILVUS_TOKEN") or f"{env.get('MILVUS_USER', '')}:{env.get('MILVUS_PASSWORD', '')}"
        self.api = Http(env.get("MILVUS_URI", ""), {"Authorization": f"Bearer {token}"})
        self.ask("collections/create", dimension=len(VECTOR), idType="VarChar", params={"max_length": 64})

    def ask(self, what: str, **document: Any) -> Any:
        """Milvus answers 200 and says in the body what it thinks of the request."""
        _, answer = self.api.ask("POST", f"/v2/vectordb/{what}", {"collectionName": COLLECTION, **document})
        if not isinstance(answer, dict) or answer.get("code") != 0:
            raise NotReached(f"{what}: {(answer or {}).get('message', 'no answer')}")
        return answer.get("data")

    def write(self, key: str, text: str) -> None:
        self.ask("entities/upsert", data=[{"id": key, "vector": VECTOR, "page_content": text}])

    def read(self, key: str) -> str | None:
        found = self.ask("entities/search", data=[VECTOR], limit=100, outputFields=["page_content"])
        return next((entity["page_content"] for entity in found if entity["id"] == key), None)

    def remove(self, key: str) -> None:
        self.ask("entities/delete", id=[key], filter=f'id == "{key}"')


class Chroma:
    def __init__(self, env: Mapping[str, str]) -> None:
        url = f"http://{env.get('CHROMA_HOST', '')}:{env.get('CHROMA_PORT') or '8000'}"
        self.api = Http(url, {"Authorization": f"Bearer {env.get('CHROMA_AUTH_CREDENTIALS', '')}"})
        tenant, database = env.get("CHROMA_TENANT", ""), env.get("CHROMA_DATABASE", "")
        self.path = f"/api/v2/tenants/{tenant}/databases/{database}/collections"
        wanted = {"name": COLLECTION, "get_or_create": True}
        self.path += f"/{self.api.ask('POST', self.path, wanted)[1]['id']}"

    def write(self, key: str, text: str) -> None:
        self.api.ask("POST", f"{self.path}/upsert", {"ids": [key], "embeddings": [VECTOR], "documents": [text]})

    def read(self, key: str) -> str | None:
        wanted = {"query_embeddings": [VECTOR], "n_results": 100, "include": ["documents"]}
        _, found = self.api.ask("POST", f"{self.path}/query", wanted)
        return dict(zip(found["ids"][0], found["documents"][0], strict=True)).get(key)

    def remove(self, key: str) -> None:
        self.api.ask("POST", f"{self.path}/delete", {"ids": [key]})
