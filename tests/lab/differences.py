"""Every wanted difference between the release's own Compose files and ours, with its reason.

A path is service.key..., networks.name... or volumes.name...; `*` stands for any part. `+name` is a service that only we have.
tests/lab/test_conformance.py fails for a difference that is not here, and for a line here that is no difference any more.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from stack import release, secrets
from stack.choices import DATABASES, SANDBOX_KEYS, VECTOR_STORES

Reasons = dict[str, str]

APART = (
    "with the sandbox there is the proxy and nobody else: upstream's can open connections to api, worker and the host"
)
CHECKED = "upstream has no health check"
FOLDER = "a folder, not a file: a replaced file is never seen through a mount of the file alone"
NO_PASSWORD_IN_ARGV = "no password in a command line: every user of the host would see it in ps"
OUR_START = "our own start script is mounted, instead of a build or a file of upstream's"
PINNED = "upstream floats: pinned in images.yaml"
NOT_PUBLISHED = "nothing but nginx is published, or what the operator opens by name"
RENDERED = "the files are filled in before they come to the host"
RESTARTS = "upstream's stays down after a reboot"
LOCAL_VOLUMES = "all data below ./volumes, where backups look for it"

HARDENED = ("security_opt.", "cap_drop.", "cap_add.", "pids_limit")
SEALED = "what breaks in changes no program there"
OFTEN_AT_FIRST = "each costs 50 to 100 ms of CPU: every 5 or 10 s while the service starts, then every 30 s"
REAPED = "what programs of others leave behind would stay as zombies, which count as processes"
LIMITED = "strangers send it what they like to"

# In every mode and release.
ALWAYS: Reasons = {
    "*.labels.dify.digest": "how a changed service is recognised",
    **{f"*.{key}*": "stack/hardening.py: upstream's containers may all that Docker lets them" for key in HARDENED},
    "plugin_daemon.init": REAPED,
    "sandbox.init": REAPED,
    "redis.read_only": SEALED,
    "redis.tmpfs.*": SEALED,
    "ssrf_proxy.read_only": SEALED,
    "ssrf_proxy.tmpfs.*": SEALED,
    "sandbox.mem_limit": LIMITED,
    "ssrf_proxy.mem_limit": LIMITED,
    "networks.default.driver": "said, not left to the engine",
    "redis.command": NO_PASSWORD_IN_ARGV,
    "redis.entrypoint": "the password comes on stdin",
    "redis.healthcheck.*": "the password comes by REDISCLI_AUTH; retries and times are said",
    "redis.profiles.0": "not brought up when Redis runs elsewhere",
    **{f"*.healthcheck.{key}": OFTEN_AT_FIRST for key in ("interval", "retries", "start_period", "start_interval")},
    "db_mysql.healthcheck.*": f"by TCP, which the first start does not offer yet; {NO_PASSWORD_IN_ARGV}",
    "db_mysql.entrypoint": OUR_START,
    "db_mysql.volumes./opt/dify": OUR_START,
    "plugin_daemon.healthcheck.*": CHECKED,
    "sandbox.healthcheck.*": "on the port that is set, and silent",
    "ssrf_proxy.healthcheck.*": CHECKED,
    "ssrf_proxy.environment.*": RENDERED,
    "ssrf_proxy.volumes.*": FOLDER,
    "ssrf_proxy.entrypoint": "no templates to fill in",
    "ssrf_proxy.user": "its log goes to stdout, which only the image's own user may then write",
    "ssrf_proxy.image": PINNED,
    "*.networks.ssrf_proxy_network": APART,
    "networks.ssrf_proxy_network*": APART,
    "*.networks.sandbox": APART,
    "networks.sandbox*": APART,
    "sandbox.dns.0": "what code looks up is asked of nobody",
    "weaviate.healthcheck.*": CHECKED,
}

# The whole of Dify.
DIFY: Reasons = {
    # What follows from a choice: upstream's defaults lead nowhere.
    "*.environment.CODE_EXECUTION_ENDPOINT": "by way of the proxy, the one that is with the sandbox",
    "*.environment.CHROMA_HOST": "upstream names the container itself",
    "*.environment.ELASTICSEARCH_HOST": "upstream names no host",
    "*.environment.MILVUS_URI": "upstream names the host, where no port is published",
    "*.environment.MILVUS_USER": "the user whose password is set",
    "*.environment.OPENSEARCH_VERIFY_CERTS": "OpenSearch makes its own certificate, which no authority has signed",
    "*.environment.MIGRATION_ENABLED": "the migration is a step of the deployment",
    "*.environment.WORKFLOW_LOG_CLEANUP_ENABLED": "the database would grow for ever: knob workflow_log_retention_days",
    **{
        f"*.environment.{prefix}*": "read by nginx and certbot alone: a change of theirs recreates nothing else"
        for prefix in release.NOT_SHARED
    },
    # Core.
    "api.healthcheck.*": CHECKED,
    "worker.healthcheck.*": CHECKED,
    "worker_beat.healthcheck.*": CHECKED,
    "web.healthcheck.*": CHECKED,
    "nginx.healthcheck.*": CHECKED,
    "*.depends_on.redis.condition": "healthy, not merely started: the backend ends when Redis does not answer",
    "*.depends_on.redis.required": "it may run elsewhere",
    "init_permissions.image": PINNED,
    "init_permissions.command": "the flag is set before the walk; says nothing; our own words",
    "nginx.image": PINNED,
    "nginx.environment.*": RENDERED,
    "nginx.read_only": SEALED,
    "nginx.tmpfs.*": SEALED,
    "nginx.mem_limit": LIMITED,
    "init_permissions.read_only": SEALED,
    "nginx.volumes.*": FOLDER,
    "nginx.entrypoint": "no templates to fill in",
    "nginx.command": "reads our folder",
    "nginx.ports.443": "published only when HTTPS is on",
    "plugin_daemon.ports.5003": f"{NOT_PUBLISHED}; the debugging port with the published key is a way in",
    "certbot.image": PINNED,
    "certbot.command": "a program to run that ends; upstream's only sleeps",
    "certbot.entrypoint": "the image's own",
    "certbot.restart": "ends when its job is done",
    "certbot.volumes.*": "no script of upstream's to mount; live is in conf",
    # Vector stores and databases.
    "*.container_name": "two instances fit on one host",
    "chroma.healthcheck.*": CHECKED,
    "couchbase-server.build.*": "the stock image",
    "couchbase-server.image": "the stock image",
    "couchbase-server.command": OUR_START,
    "couchbase-server.entrypoint": OUR_START,
    "couchbase-server.healthcheck.*": "asks for the bucket with the password that is set, which upstream's does not",
    "couchbase-server.stdin_open": "nobody types",
    "couchbase-server.tty": "nobody types",
    "couchbase-server.volumes.*": f"{OUR_START}; its configuration outlives the container too",
    "couchbase-server.working_dir": "of upstream's own image",
    "elasticsearch.entrypoint": OUR_START,
    "elasticsearch.environment.PLUGINS": "what elasticsearch-ja needs",
    "elasticsearch.environment.VECTOR_STORE": "PLUGINS says what it was looked at for",
    "elasticsearch.healthcheck.*": "logs in: upstream's is content with a refusal",
    "elasticsearch.ports.9200": NOT_PUBLISHED,
    "elasticsearch.deploy.resources.limits.pids": "stack/hardening.py",
    "elasticsearch.volumes./opt/dify": OUR_START,
    "elasticsearch.volumes./docker-entrypoint-mount.sh": OUR_START,
    "elasticsearch.volumes./usr/share/elasticsearch/data": LOCAL_VOLUMES,
    "etcd.healthcheck.*": "sooner",
    "etcd.restart": RESTARTS,
    "iris.entrypoint": OUR_START,
    "iris.environment.IRIS_PASSWORD": "upstream's own is in its script",
    "iris.healthcheck.*": CHECKED,
    "iris.ports.*": NOT_PUBLISHED,
    "iris.volumes./custom-entrypoint.sh": OUR_START,
    "iris.volumes./iris-init.script": OUR_START,
    "iris.volumes./opt/dify": OUR_START,
    "kibana.depends_on.elasticsearch.condition": "it logs in there",
    "kibana.entrypoint": OUR_START,
    "kibana.environment.XPACK_*": "stands in kibana.yml: the image would put it on a command line; and the key is published",
    "kibana.environment.ELASTICSEARCH_HOSTS": "stands in kibana.yml",
    "kibana.environment.I18N_LOCALE": "upstream's is Chinese",
    "kibana.environment.SERVER_PORT": "the image's own",
    "kibana.environment.*_PASSWORD": "sets the password of Kibana's own user, which upstream's never logs in with",
    "kibana.environment.KIBANA_ENCRYPTION_KEY": "upstream's is fixed and published",
    "kibana.healthcheck.*": "fails when the answer is an error",
    "kibana.ports.5601": NOT_PUBLISHED,
    "kibana.volumes./opt/dify": OUR_START,
    "+matrixone_init": "sets the passwords of the two built-in users, which everybody knows",
    "matrixone.healthcheck.*": CHECKED,
    "matrixone.ports.6001": NOT_PUBLISHED,
    "matrixone.volumes./ready": "healthy only when the passwords are set",
    "milvus-standalone.depends_on.*.condition": "it ends when they do not answer",
    "milvus-standalone.environment.COMMON_SECURITY_DEFAULTROOTPASSWORD": "upstream leaves the published one",
    "milvus-standalone.environment.MINIO_*": "upstream leaves the published ones on this side",
    "milvus-standalone.environment.HTTP_ENABLE*": "at 9091 everybody is answered, with what is in memory too",
    "milvus-standalone.healthcheck.*": "logs in",
    "milvus-standalone.networks.default": "upstream's is on no network of the api's",
    "milvus-standalone.ports.*": NOT_PUBLISHED,
    "milvus-standalone.restart": RESTARTS,
    "minio.healthcheck.*": "sooner, and silent",
    "minio.restart": RESTARTS,
    "myscale.environment.MYSCALE_PASSWORD": "upstream's user has none",
    "myscale.healthcheck.*": CHECKED,
    "myscale.ports.8123": NOT_PUBLISHED,
    "myscale.volumes./etc/clickhouse-server/users.d*": FOLDER,
    "oceanbase.entrypoint": OUR_START,
    "oceanbase.environment.DATABASES": "the databases that are to be made",
    "oceanbase.environment.OB_SYS_PASSWORD": "the start script derives one: the tenant's user must not be the cluster's",
    "oceanbase.healthcheck.*": f"{NO_PASSWORD_IN_ARGV}; the first start takes minutes",
    "oceanbase.ports.2881": NOT_PUBLISHED,
    "oceanbase.volumes./opt/dify": OUR_START,
    "oceanbase.volumes./root/boot/init.d": OUR_START,
    "opengauss.entrypoint": OUR_START,
    "opengauss.healthcheck.*": "logs in: upstream's is content with an open port",
    "opengauss.ports.6600": NOT_PUBLISHED,
    "opengauss.privileged": "a database has no need of the whole host",
    "opengauss.volumes./opt/dify": OUR_START,
    "opensearch-dashboards.depends_on.opensearch.condition": "it logs in there",
    "opensearch-dashboards.entrypoint": OUR_START,
    "opensearch-dashboards.environment.OPENSEARCH_HOSTS": "stands in the file that the start script writes",
    "opensearch-dashboards.environment.OPENSEARCH_INITIAL_ADMIN_PASSWORD": "for that file: in no mounted one",
    "opensearch-dashboards.healthcheck.*": CHECKED,
    "opensearch-dashboards.image": PINNED,
    "opensearch-dashboards.restart": RESTARTS,
    "opensearch-dashboards.volumes.*": OUR_START,
    "opensearch.entrypoint": OUR_START,
    "opensearch.environment.transport.host": "one node talks to itself only: the certificate for this is known to everybody",
    "opensearch.healthcheck.*": CHECKED,
    "opensearch.image": PINNED,
    "opensearch.networks.default": "upstream's is on no network of the api's",
    "opensearch.restart": RESTARTS,
    "opensearch.volumes./opt/dify": OUR_START,
    "oracle.environment.ORACLE_PWD": "the image's own way puts it in a command line",
    "oracle.environment.*_PASSWORD": "what the start scripts set instead",
    "oracle.environment.DIFY_USER": "the user that the start scripts make",
    "oracle.healthcheck.*": "waits for our own start script too",
    "oracle.image": PINNED,
    "oracle.volumes./opt/oracle/oradata": LOCAL_VOLUMES,
    "oracle.volumes./opt/oracle/scripts/startup": OUR_START,
    "pgvecto-rs.environment.POSTGRES_PASSWORD": "the setting that Dify logs in with; upstream reads another store's",
    "*.environment.POSTGRES_USER": "the user that Dify logs in as: PGUSER is for clients only",
    "pgvecto-rs.healthcheck.*": "by TCP, which the first start does not offer yet",
    "pgvector.entrypoint": OUR_START,
    "pgvector.healthcheck.*": "by TCP, which the first start does not offer yet; pg_bigm is built before",
    "pgvector.volumes./docker-entrypoint.sh": OUR_START,
    "pgvector.volumes./opt/dify": OUR_START,
    "qdrant.environment.QDRANT__SERVICE__API_KEY": "the name that Qdrant itself reads: upstream's server wants no key",
    "qdrant.healthcheck.*": CHECKED,
    "seekdb.entrypoint": OUR_START,
    "seekdb.environment.DATABASES": "the databases that are to be made",
    "seekdb.healthcheck.*": NO_PASSWORD_IN_ARGV,
    "seekdb.image": PINNED,
    "seekdb.ports.2881": NOT_PUBLISHED,
    "seekdb.volumes./opt/dify": OUR_START,
    "unstructured.healthcheck.*": CHECKED,
    "unstructured.image": PINNED,
    "vastbase.environment.VB_PASSWORD": "upstream's is fixed and published",
    "vastbase.healthcheck.*": "by TCP, which the first start does not offer yet",
    "vastbase.ports.5432": NOT_PUBLISHED,
    "vastbase.volumes.*": LOCAL_VOLUMES,
    "volumes.dify_es01_data*": LOCAL_VOLUMES,
    "volumes.oradata*": LOCAL_VOLUMES,
}

ONLY_1_11_4: Reasons = {
    "iris.environment.ISC_DATA_DIRECTORY": "as 1.13.3 does: upstream's 1.11.4 mounts over the program and keeps no data",
    "iris.volumes./durable": "as 1.13.3 does",
    "iris.volumes./opt/iris": "as 1.13.3 does",
}

# What a developer's own api, worker and web need around them.
MIDDLEWARE: Reasons = {
    "+*": "every database and vector store can be had for development",
    "networks.milvus*": "comes with Milvus",
    "networks.opensearch-net*": "comes with OpenSearch",
    "*.env_file": "every container would get every setting, the passwords of all others included",
    "db_postgres.environment.POSTGRES_USER": "DB_USERNAME is the user on both sides",
    "db_postgres.profiles.*": "not brought up when another database is chosen",
    "weaviate.profiles.*": "not brought up when another store is chosen",
    "plugin_daemon.depends_on.*": "it ends when its database does not answer",
    "plugin_daemon.environment.SENTRY_ENABLED": "as in the release's main file",
    "plugin_daemon.extra_hosts.0": "the developer's api runs on the host; Linux knows no such name by itself",
    "ssrf_proxy.extra_hosts.0": "the developer's api runs on the host; Linux knows no such name by itself",
    "weaviate.environment.AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "a store that anybody may write to is none to develop against",
    "weaviate.environment.ENABLE_TOKENIZER_*": "as in the release's main file",
}


def wanted(version: str, mode: str) -> Reasons:
    """{pattern: reason} for one release in one mode."""
    if mode == "middleware":
        return {**ALWAYS, **MIDDLEWARE}
    return {**ALWAYS, **DIFY, **_unset_secrets(version), **(ONLY_1_11_4 if version == "1.11.4" else {})}


def _unset_secrets(version: str) -> Reasons:
    """Every credential with a published default that is neither given nor made: it stays empty."""
    choices = (*DATABASES.values(), *VECTOR_STORES.values())
    follow = {name for choice in choices for pair in choice.same for name in pair}
    made = {*secrets.GENERATED, *follow, *SANDBOX_KEYS, "CELERY_BROKER_URL"}
    named = (name for name in secrets.published(release.load(version)) if name not in made)
    return {f"*.environment.{name}": "no published default" for name in named}


def split(differing: dict[str, str], version: str, mode: str) -> tuple[list[str], list[str]]:
    """The differences that are not wanted, and the wanted ones that are none."""
    patterns = wanted(version, mode)
    unwanted = [f"{path}: {said}" for path, said in differing.items() if not _matches(path, patterns)]
    return unwanted, [pattern for pattern in patterns if not any(fnmatchcase(path, pattern) for path in differing)]


def _matches(path: str, patterns: Reasons) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
