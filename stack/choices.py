"""Every value that VECTOR_STORE and DB_TYPE can have, and what follows from it: the facts behind stack/wiring.py.

What the release's own Compose file has wrong (hosts that no container has, passwords that only one side knows) is right here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

Pair = tuple[str, str]
# Dify puts these passwords into a URL as they are: one ends there, the other begins a code.
IN_URL = "@%"


@dataclass(frozen=True)
class Choice:
    """A service that Dify uses: one of our own, or one that runs elsewhere.

    profile: brings up our own; empty when there is none.
    local: the settings that lead to our own and their only right values; what the service reads itself is not here.
    where: the settings that say where it runs; one that names another host means elsewhere.
    secrets: those of our own; made when the operator gives none, as stack/secrets.py says.
    same: (Dify's side, the service's side): one value, whoever it came from.
    needed: what must be given when it runs elsewhere.
    refused: the characters that our own cannot take, by setting.
    """

    profile: str = ""
    local: Mapping[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    same: tuple[Pair, ...] = ()
    needed: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def is_local(self, given: Mapping[str, str]) -> bool:
        """Whether our own is meant: no setting of the operator's names another host."""
        return bool(self.profile) and not any(
            given.get(name) and host_of(given[name]) != host_of(self.local.get(name, "")) for name in self.where
        )


def host_of(place: str) -> str:
    """The host in `host`, `host:port/path` or `scheme://user@host:port/path`; empty when there is none."""
    try:
        return urlsplit(place if "://" in place else f"//{place}").hostname or ""
    except ValueError:
        return ""


def _elsewhere(*needed: str) -> Choice:
    return Choice(where=needed[:1], needed=needed)


def _oceanbase(service: str, user: str) -> Choice:
    return Choice(
        profile=service,
        local={
            "OCEANBASE_VECTOR_HOST": service,
            "OCEANBASE_VECTOR_PORT": "2881",
            "OCEANBASE_VECTOR_USER": user,
        },
        where=("OCEANBASE_VECTOR_HOST",),
        secrets=("OCEANBASE_VECTOR_PASSWORD",),
    )


_ELASTICSEARCH = Choice(
    profile="elasticsearch",
    local={
        "ELASTICSEARCH_HOST": "elasticsearch",
        "ELASTICSEARCH_PORT": "9200",
        "ELASTICSEARCH_USERNAME": "elastic",
        "ELASTICSEARCH_USE_CLOUD": "false",
    },
    where=("ELASTICSEARCH_HOST",),
    secrets=("ELASTICSEARCH_PASSWORD", "KIBANA_PASSWORD", "KIBANA_ENCRYPTION_KEY"),
)

VECTOR_STORES: dict[str, Choice] = {
    "weaviate": Choice(
        profile="weaviate",
        local={"WEAVIATE_ENDPOINT": "http://weaviate:8080", "WEAVIATE_GRPC_ENDPOINT": "grpc://weaviate:50051"},
        where=("WEAVIATE_ENDPOINT", "WEAVIATE_GRPC_ENDPOINT"),
        secrets=("WEAVIATE_API_KEY",),
        same=(("WEAVIATE_API_KEY", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"),),
        needed=("WEAVIATE_ENDPOINT", "WEAVIATE_GRPC_ENDPOINT"),
    ),
    "qdrant": Choice(
        profile="qdrant",
        local={"QDRANT_URL": "http://qdrant:6333", "QDRANT_GRPC_PORT": "6334"},
        where=("QDRANT_URL",),
        secrets=("QDRANT_API_KEY",),
    ),
    "milvus": Choice(
        profile="milvus",
        local={
            "MILVUS_URI": "http://milvus-standalone:19530",
            "MILVUS_USER": "root",
            "ETCD_ENDPOINTS": "etcd:2379",
            "MINIO_ADDRESS": "minio:9000",
        },
        where=("MILVUS_URI",),
        secrets=("MILVUS_PASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
    ),
    "chroma": Choice(
        profile="chroma",
        local={"CHROMA_HOST": "chroma", "CHROMA_PORT": "8000"},
        where=("CHROMA_HOST",),
        secrets=("CHROMA_AUTH_CREDENTIALS",),
        same=(("CHROMA_AUTH_CREDENTIALS", "CHROMA_SERVER_AUTHN_CREDENTIALS"),),
    ),
    "pgvector": Choice(
        profile="pgvector",
        local={"PGVECTOR_HOST": "pgvector", "PGVECTOR_PORT": "5432"},
        where=("PGVECTOR_HOST",),
        secrets=("PGVECTOR_PASSWORD",),
        same=(
            ("PGVECTOR_PASSWORD", "PGVECTOR_POSTGRES_PASSWORD"),
            ("PGVECTOR_USER", "PGVECTOR_PGUSER"),
            ("PGVECTOR_DATABASE", "PGVECTOR_POSTGRES_DB"),
        ),
        needed=("PGVECTOR_PASSWORD",),
    ),
    # Upstream starts it with the settings of pgvector; here each has its own.
    "pgvecto-rs": Choice(
        profile="pgvecto-rs",
        local={"PGVECTO_RS_HOST": "pgvecto-rs", "PGVECTO_RS_PORT": "5432"},
        where=("PGVECTO_RS_HOST",),
        secrets=("PGVECTO_RS_PASSWORD",),
        refused={"PGVECTO_RS_PASSWORD": IN_URL},
        needed=("PGVECTO_RS_PASSWORD",),
    ),
    "opensearch": Choice(
        profile="opensearch",
        # The image makes itself a certificate that nobody signed.
        local={
            "OPENSEARCH_HOST": "opensearch",
            "OPENSEARCH_PORT": "9200",
            "OPENSEARCH_USER": "admin",
            "OPENSEARCH_SECURE": "true",
            "OPENSEARCH_VERIFY_CERTS": "false",
            "OPENSEARCH_AUTH_METHOD": "basic",
        },
        where=("OPENSEARCH_HOST",),
        secrets=("OPENSEARCH_PASSWORD",),
        same=(("OPENSEARCH_PASSWORD", "OPENSEARCH_INITIAL_ADMIN_PASSWORD"),),
    ),
    "elasticsearch": _ELASTICSEARCH,
    "elasticsearch-ja": Choice(
        profile="elasticsearch-ja",
        local=_ELASTICSEARCH.local,
        where=_ELASTICSEARCH.where,
        secrets=("ELASTICSEARCH_PASSWORD",),
    ),
    "oracle": Choice(
        profile="oracle",
        local={"ORACLE_DSN": "oracle:1521/FREEPDB1", "ORACLE_IS_AUTONOMOUS": "false"},
        where=("ORACLE_DSN",),
        secrets=("ORACLE_PASSWORD", "ORACLE_PWD"),
        needed=("ORACLE_PASSWORD",),
        # No password of Oracle's can hold one, however it is quoted.
        refused={"ORACLE_PASSWORD": '"', "ORACLE_PWD": '"'},
    ),
    "oceanbase": _oceanbase("oceanbase", "root@test"),
    "seekdb": _oceanbase("seekdb", "root"),
    "couchbase": Choice(
        profile="couchbase",
        local={"COUCHBASE_CONNECTION_STRING": "couchbase://couchbase-server"},
        where=("COUCHBASE_CONNECTION_STRING",),
        secrets=("COUCHBASE_PASSWORD",),
        needed=("COUCHBASE_PASSWORD",),
    ),
    "vastbase": Choice(
        profile="vastbase",
        local={"VASTBASE_HOST": "vastbase", "VASTBASE_PORT": "5432"},
        where=("VASTBASE_HOST",),
        secrets=("VASTBASE_PASSWORD",),
        needed=("VASTBASE_PASSWORD",),
    ),
    "iris": Choice(
        profile="iris",
        local={"IRIS_HOST": "iris", "IRIS_SUPER_SERVER_PORT": "1972", "IRIS_USER": "_SYSTEM"},
        where=("IRIS_HOST",),
        secrets=("IRIS_PASSWORD",),
        needed=("IRIS_PASSWORD",),
    ),
    "opengauss": Choice(
        profile="opengauss",
        local={"OPENGAUSS_HOST": "opengauss"},
        where=("OPENGAUSS_HOST",),
        secrets=("OPENGAUSS_PASSWORD",),
        needed=("OPENGAUSS_PASSWORD",),
    ),
    "myscale": Choice(
        profile="myscale",
        local={"MYSCALE_HOST": "myscale", "MYSCALE_PORT": "8123", "MYSCALE_USER": "default"},
        where=("MYSCALE_HOST",),
        secrets=("MYSCALE_PASSWORD",),
    ),
    "matrixone": Choice(
        profile="matrixone",
        local={"MATRIXONE_HOST": "matrixone", "MATRIXONE_PORT": "6001", "MATRIXONE_USER": "dump"},
        where=("MATRIXONE_HOST",),
        secrets=("MATRIXONE_PASSWORD",),
        refused={"MATRIXONE_PASSWORD": IN_URL},
        needed=("MATRIXONE_PASSWORD",),
    ),
    "tidb_vector": _elsewhere("TIDB_VECTOR_HOST", "TIDB_VECTOR_USER", "TIDB_VECTOR_PASSWORD"),
    "tidb_on_qdrant": _elsewhere("TIDB_ON_QDRANT_URL", "TIDB_ON_QDRANT_API_KEY"),
    "analyticdb": _elsewhere("ANALYTICDB_INSTANCE_ID", "ANALYTICDB_ACCOUNT", "ANALYTICDB_PASSWORD"),
    "relyt": _elsewhere("RELYT_HOST", "RELYT_PASSWORD"),
    "tencent": _elsewhere("TENCENT_VECTOR_DB_URL", "TENCENT_VECTOR_DB_API_KEY"),
    "lindorm": _elsewhere("LINDORM_URL", "LINDORM_USERNAME", "LINDORM_PASSWORD"),
    "baidu": _elsewhere("BAIDU_VECTOR_DB_ENDPOINT", "BAIDU_VECTOR_DB_API_KEY"),
    "vikingdb": _elsewhere("VIKINGDB_HOST", "VIKINGDB_ACCESS_KEY", "VIKINGDB_SECRET_KEY"),
    "upstash": _elsewhere("UPSTASH_VECTOR_URL", "UPSTASH_VECTOR_TOKEN"),
    "tablestore": _elsewhere(
        "TABLESTORE_ENDPOINT", "TABLESTORE_INSTANCE_NAME", "TABLESTORE_ACCESS_KEY_ID", "TABLESTORE_ACCESS_KEY_SECRET"
    ),
    "huawei_cloud": _elsewhere("HUAWEI_CLOUD_HOSTS", "HUAWEI_CLOUD_USER", "HUAWEI_CLOUD_PASSWORD"),
    "clickzetta": _elsewhere("CLICKZETTA_INSTANCE", "CLICKZETTA_USERNAME", "CLICKZETTA_PASSWORD"),
    "alibabacloud_mysql": _elsewhere("ALIBABACLOUD_MYSQL_HOST", "ALIBABACLOUD_MYSQL_PASSWORD"),
}


def _database(profile: str, host: str, port: str, **more: str) -> Choice:
    return Choice(
        profile=profile,
        local={"DB_HOST": host, "DB_PORT": port, **more},
        where=("DB_HOST",),
        secrets=("DB_PASSWORD",),
        needed=("DB_PASSWORD",) if profile == "postgresql" else ("DB_USERNAME", "DB_PASSWORD"),
        # The container knows one password only, whichever of its two uses it was made for.
        same=(("DB_PASSWORD", "OCEANBASE_VECTOR_PASSWORD"),) if port == "2881" else (),
    )


DATABASES: dict[str, Choice] = {
    "postgresql": _database("postgresql", "db_postgres", "5432"),
    "mysql": _database("mysql", "db_mysql", "3306", DB_USERNAME="root"),
    "oceanbase": _database("oceanbase", "oceanbase", "2881", DB_USERNAME="root@test"),
    "seekdb": _database("seekdb", "seekdb", "2881", DB_USERNAME="root"),
}
# What DB_PORT is when it is not given for a database that runs elsewhere.
DATABASE_PORTS = {name: choice.local["DB_PORT"] for name, choice in DATABASES.items()}

REDIS = Choice(
    profile="redis",
    local={
        "REDIS_HOST": "redis",
        "REDIS_PORT": "6379",
        "REDIS_USERNAME": "",
        "REDIS_USE_SSL": "false",
    },
    where=("REDIS_HOST", "REDIS_SENTINELS"),
    secrets=("REDIS_PASSWORD",),
)

UNSTRUCTURED = Choice(
    profile="unstructured",
    local={"UNSTRUCTURED_API_URL": "http://unstructured:8000/general/v0/general"},
    where=("UNSTRUCTURED_API_URL",),
)

SANDBOX_KEYS: Pair = ("SANDBOX_API_KEY", "CODE_EXECUTION_API_KEY")
# Both sides of these are lists: what Dify uses must be one of them.
LISTS = {"WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"}
