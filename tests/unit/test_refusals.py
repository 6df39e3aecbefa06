"""Wrong inputs of every kind: each is one line that names place, setting, value and what is allowed; nothing is contacted."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.checks import check
from stack.errors import InvalidError
from tasks.inventory import read
from tests.unit.wanted import REPOSITORY

INVENTORY = 'dify = ["web1"]\n'
# Stands in an expected line for what Python says in its own words.
ANY = "\0"
# Settings of each type, wrong values, and what the line says is allowed. Each is the first line of .env.
VALUES = [
    ("DEBUG", ["yes", "1", "on", "tru", "enabled", "0"], "must be true or false"),
    ("NGINX_HTTPS_ENABLED", ["y", "off"], "must be true or false"),
    ("SQLALCHEMY_ECHO", ["verbose"], "must be true or false or debug"),
    (
        "LOG_FILE_MAX_SIZE",
        ["0", "20MB", "-1", "1.5", "1_000", "+5", "twenty"],
        "must be a whole number of at least 1 (MB)",
    ),
    ("SQLALCHEMY_POOL_SIZE", ["-1", "30.0"], "must be a whole number of at least 0"),
    ("CODE_MIN_NUMBER", ["0", "5"], "must be a whole number of at most -1"),
    ("POSTGRES_MAX_CONNECTIONS", ["0", "3", "262144", "1e3"], "must be a whole number from 4 to 262143"),
    ("PM2_INSTANCES", ["all", "-2"], "must be a whole number of at least -1, or max"),
    ("NGINX_WORKER_PROCESSES", ["Auto", "0"], "must be a whole number of at least 1, or auto"),
    ("SSRF_DEFAULT_TIME_OUT", ["0", "5s", "-1", "inf", "nan"], "must be a number above 0 (seconds)"),
    ("OTEL_SAMPLING_RATE", ["1.1", "10%", "-0.1"], "must be a number from 0 to 1"),
    ("GRAPH_ENGINE_SCALE_DOWN_IDLE_TIME", ["0.05"], "must be a number of at least 0.1 (seconds)"),
    ("POSTGRES_SHARED_BUFFERS", ["128mb", "128M", "a lot"], "must be a size with kB, MB, GB or TB, as in 128MB"),
    ("MYSQL_INNODB_BUFFER_POOL_SIZE", ["512MB", "half"], "must be a size with K, M or G, as in 512M"),
    ("NGINX_CLIENT_MAX_BODY_SIZE", ["100MB", "-1"], "must be a size with k, m or g, as in 100M"),
    ("OPENSEARCH_JAVA_OPTS_MAX", ["1GB", "1" * 5000], "must be a size with k, m or g, as in 512m"),
    ("OCEANBASE_MEMORY_LIMIT", ["6 G", "6", "6B"], "must be a size with K, M or G, as in 6G"),
    (
        "POSTGRES_STATEMENT_TIMEOUT",
        ["5 minutes", "5m"],
        "must be a duration with ms, s, min, h or d; milliseconds without",
    ),
    ("NGINX_PROXY_READ_TIMEOUT", ["1min", "-1"], "must be a duration with ms, s, m, h or d; seconds without"),
    ("QDRANT_GRPC_PORT", ["0", "65536", "http", "6334/tcp", "-6334"], "must be a port from 1 to 65535"),
    ("EXPOSE_PLUGIN_DEBUGGING_PORT", ["127.0.0.1:5003"], "must be a port from 1 to 65535"),
    (
        "EXPOSE_NGINX_PORT",
        ["80-90", "localhost:", "8080:80", "http://web1", "localhost:80"],
        "must be a port from 1 to 65535, or IP address:port",
    ),
    (
        "CHECK_UPDATE_URL",
        ["updates.dify.ai", "ftp://updates.dify.ai", "https://"],
        "must be a URL that begins with http:// or https://",
    ),
    (
        "RESEND_API_URL",
        ["https://api.resend.com:99999", "https:/api.resend.com"],
        "must be a URL that begins with http",
    ),
    (
        "ENDPOINT_URL_TEMPLATE",
        ["http://localhost/e/"],
        "must be a URL that begins with http:// or https:// and has {hook_id} in it",
    ),
    (
        "SMTP_SERVER",
        ["smtp://mail.example.com", "mail.example.com:25", "a b", "mail/x"],
        "must be a host name or IP address alone",
    ),
    ("MINIO_ADDRESS", ["minio:99999", "minio:9000:9000"], "must be a host with or without scheme and port"),
    (
        "ETCD_ENDPOINTS",
        ["etcd:2379, etcd2:2379", "etcd:2379,"],
        "must be host:port, several with commas and without spaces",
    ),
    ("LOG_LEVEL", ["verbose", "debug", "5"], "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ("LOG_OUTPUT_FORMAT", ["xml"], "must be one of text, json"),
    ("STORAGE_TYPE", ["s3s", "S3"], "must be one of opendal, s3, aliyun-oss"),
    ("MAIL_TYPE", ["SMTP", "mailgun"], "must be one of resend, smtp, sendgrid"),
    ("ETL_TYPE", ["unstructured"], "must be one of dify, Unstructured; did you mean Unstructured?"),
    ("WEAVIATE_TOKENIZATION", ["words"], "must be one of word, lowercase"),
    ("MYSQL_INNODB_FLUSH_LOG_AT_TRX_COMMIT", ["3"], "must be one of 0, 1, 2"),
    ("DB_TYPE", ["postgres", "sqlite"], "must be one of postgresql, mysql, oceanbase, seekdb"),
    ("VECTOR_STORE", ["weavaite", "pinecone", "Weaviate"], "must be one of weaviate, qdrant"),
    (
        "NGINX_SSL_PROTOCOLS",
        ["TLSv1.4", "TLSv1", "TLSv1.1 TLSv1.2", "TLSv1.2,TLSv1.3", "SSLv3"],
        "must be some of TLSv1.2, TLSv1.3",
    ),
    (
        "WEB_API_CORS_ALLOW_ORIGINS",
        ["example.com", "https://a.example, https://b.example"],
        "must be * or http(s)://host",
    ),
    ("UPLOAD_FILE_EXTENSION_BLACKLIST", ["exe,,bat", ",exe"], "must be words with commas between, none empty"),
    ("LOG_TZ", ["Mars/Olympus", "Europe", "UTC+1", "Europe/Berln"], "must be a time zone, as Europe/Berlin or UTC"),
    (
        "CHECK_UPDATE_URL",
        ["http://[::::]", "http://[10.0.0.1]:6333"],
        "must be a URL that begins with http",
    ),
    ("REDIS_SENTINELS", ["[:]:26379"], "must be host:port, several with commas and without spaces"),
    ("MILVUS_ANALYZER_PARAMS", ["{type: chinese}", "chinese"], "must be JSON"),
    ("CERTBOT_EMAIL", ["me", "me@example", "me @example.com"], "must be an e-mail address"),
    ("NGINX_SSL_CERT_FILENAME", ["ssl/dify.crt", "/etc/dify.crt"], "must be the name of a file, without a folder"),
]
# What .env says, and how its line goes on after the place.
LINES = [
    ("LOG_LEVLE=DEBUG", "LOG_LEVLE is no setting of this Dify release; did you mean LOG_LEVEL?"),
    ("log_level=DEBUG", "log_level is no setting of this Dify release; did you mean LOG_LEVEL?"),
    ("DB_PASWORD=abcdefgh", "DB_PASWORD is no setting of this Dify release; did you mean DB_PASSWORD?"),
    ("XYZZY=1", "XYZZY is no setting of this Dify release"),
    ("abc1def=1", "its name is no setting of this Dify release"),
    ("LOG_LEVEL", "not NAME=value (LOG_LEVEL); a value with spaces, # or quotes must be quoted"),
    ("LOG_LEVEL: DEBUG", "not NAME=value (LOG_LEVEL)"),
    ("LOG_TZ='UTC", "not NAME=value (LOG_TZ)"),
    ("= 5", "not NAME=value"),
    (
        "PUBSUB_REDIS_URL=redis://redis:6379/0",
        "PUBSUB_REDIS_URL is called EVENT_BUS_REDIS_URL and known to Dify 1.13.3 only",
    ),
    (
        "EVENT_BUS_REDIS_CHANNEL_TYPE=streams",
        "EVENT_BUS_REDIS_CHANNEL_TYPE is known to Dify 1.13.3 only, and dify_version is 1.11.4",
    ),
    ("MILVUS_HOST=milvus", "MILVUS_HOST is called MILVUS_URI in Dify 1.11.4; give that one"),
    ("API_URL=https://dify.example.com", "API_URL is called SERVICE_API_URL in Dify 1.11.4; give that one"),
    ("STORAGE_LOCAL_PATH=/data", "STORAGE_LOCAL_PATH is called OPENDAL_FS_ROOT in Dify 1.11.4; give that one"),
    (
        "dify_version=1.13.3",
        "dify_version is a knob, not a setting of Dify: dify_version goes into group_data or the inventory",
    ),
    ("ROOT=/opt/x", "ROOT is a knob, not a setting of Dify: root goes into group_data or the inventory"),
    ("SECRET_KEY=sk-9f73s3ljTXVcMT3Blb3ljTqtsKiGHXVcMT3BlbkFJLK7U", "SECRET_KEY: this is a published default"),
    ("DB_PASSWORD=difyai123456", "DB_PASSWORD: this is a published default"),
    ("WEAVIATE_API_KEY=WVF5YThaHlkYwhGUSmCRgsX3tD5ngdN8pkih", "WEAVIATE_API_KEY: this is a published default"),
    (
        "DB_PASSWORD=minioadmin",
        "DB_PASSWORD: this is a published default of Dify 1.11.4, which everybody knows; give it a",
    ),
    ("DB_PASSWORD=Dify@123", "DB_PASSWORD: this is a published default"),
    ("REDIS_PASSWORD=admin", "REDIS_PASSWORD: this is a published default"),
    ("SECRET_KEY=elastic", "SECRET_KEY: this is a published default"),
    ("HTTP_PROXY=http://me:password@proxy.lan:3128", "HTTP_PROXY: this is a published default"),
    (
        "CELERY_BROKER_URL=redis://:Other1@redis:6379/1",
        "CELERY_BROKER_URL: its password is not REDIS_PASSWORD; leave it",
    ),
    # What a server of ours would not start with.
    (
        "OPENSEARCH_PASSWORD=Sh0rt-x\nVECTOR_STORE=opensearch",
        "OPENSEARCH_PASSWORD: VECTOR_STORE=opensearch does not start with this one, it needs at least 8 characters, a "
        "capital, a small letter, a digit and another sign; give it another value or leave it out",
    ),
    (
        "OPENSEARCH_PASSWORD=aaaaaaaa-1\nVECTOR_STORE=opensearch",
        "OPENSEARCH_PASSWORD: VECTOR_STORE=opensearch does not",
    ),
    (
        "OPENSEARCH_PASSWORD=AAAAAAAA-1\nVECTOR_STORE=opensearch",
        "OPENSEARCH_PASSWORD: VECTOR_STORE=opensearch does not",
    ),
    ("OPENSEARCH_PASSWORD=Aaaaaaaa-\nVECTOR_STORE=opensearch", "OPENSEARCH_PASSWORD: VECTOR_STORE=opensearch does not"),
    ("OPENSEARCH_PASSWORD=Aaaaaaaa1\nVECTOR_STORE=opensearch", "OPENSEARCH_PASSWORD: VECTOR_STORE=opensearch does not"),
    (
        "OPENSEARCH_INITIAL_ADMIN_PASSWORD=abc\nVECTOR_STORE=opensearch",
        "OPENSEARCH_INITIAL_ADMIN_PASSWORD: VECTOR_STORE=opensearch does not start with this one, it needs at least 8",
    ),
    (
        "OPENGAUSS_PASSWORD=Aaaaaaa1_\nVECTOR_STORE=opengauss",
        "OPENGAUSS_PASSWORD: VECTOR_STORE=opengauss does not start with this one, it needs at least 8 characters, a "
        "capital, a small letter, a digit and one of #?!@$%^&*-; give it another",
    ),
    (
        "MINIO_SECRET_KEY=1234567\nVECTOR_STORE=milvus",
        "MINIO_SECRET_KEY: VECTOR_STORE=milvus does not start with this one, it needs at least 8 characters; give it",
    ),
    (
        "MINIO_ACCESS_KEY=me\nVECTOR_STORE=milvus",
        "MINIO_ACCESS_KEY: VECTOR_STORE=milvus does not start with this one, it",
    ),
    (
        "COUCHBASE_PASSWORD=12345\nVECTOR_STORE=couchbase",
        "COUCHBASE_PASSWORD: VECTOR_STORE=couchbase does not start with",
    ),
    ("INIT_PASSWORD=abcdefghijklmnopqrstuvwxyz12345", "INIT_PASSWORD: longer than 30 characters"),
    ("MIGRATION_ENABLED=true", "MIGRATION_ENABLED: the migration is a step of the deployment"),
    ("COMPOSE_PROFILES=qdrant", "COMPOSE_PROFILES: follows from VECTOR_STORE and DB_TYPE"),
    ("PGDATA=/data", "PGDATA=/data: must be below /var/lib/postgresql/data/"),
    (
        "PGDATA=/var/lib/postgresql/data/../../x",
        "PGDATA=/var/lib/postgresql/data/../../x: must be below /var/lib/postgresql/data/, the only folder that outlives",
    ),
    # Dify adds these paths itself.
    (
        "CONSOLE_API_URL=http://x/console/api",
        "CONSOLE_API_URL=http://x/console/api: must end before /console/api: Dify itself puts that behind it",
    ),
    ("APP_API_URL=http://x/api/", "APP_API_URL=http://x/api/: must end before /api: Dify itself puts that behind it"),
    (
        "SERVICE_API_URL=http://x/v1",
        "SERVICE_API_URL=http://x/v1: must end before /v1: Dify itself puts that behind it",
    ),
    ("FILES_URL=http://x/files", "FILES_URL=http://x/files: must end before /files: Dify itself puts that behind it"),
    (
        "TRIGGER_URL=http://x/triggers",
        "TRIGGER_URL=http://x/triggers: must end before /triggers: Dify itself puts that",
    ),
    (
        "APP_WEB_URL=http://x/chat",
        "APP_WEB_URL=http://x/chat: must have no path: Dify's web image was built to lie at the",
    ),
    (
        "QDRANT_URL=http://a[b@qdrant",
        "QDRANT_URL: must be a host with or without scheme and port, as in db.example.com",
    ),
    # A value of two lines is shown on one.
    ("REDIS_USERNAME='a\nb'", r"REDIS_USERNAME=a\nb: contradicts REDIS_HOST, which brings up redis"),
    # A line is that of the first setting in it which was given.
    (
        "REDIS_SENTINELS=a:26379",
        "REDIS_SENTINELS: needs REDIS_SENTINEL_SERVICE_NAME (host:port,host:port and the master's name)",
    ),
    ("REDIS_CLUSTERS=a:6379", "REDIS_CLUSTERS: Dify's plugin daemon does not speak to a Redis Cluster"),
    (
        "CODE_EXECUTION_ENDPOINT=http://sandbox:8194",
        "CODE_EXECUTION_ENDPOINT=http://sandbox:8194: api and worker have no network in common with the sandbox",
    ),
    ("DB_TYPE=mysql\nDB_PORT=5432", ".env line 2: DB_PORT=5432: contradicts DB_TYPE=mysql"),
    ("DB_PORT=3306", "DB_PORT=3306: contradicts DB_TYPE=postgresql"),
    (
        "VECTOR_STORE=qdrant\nQDRANT_GRPC_PORT=6333",
        ".env line 2: QDRANT_GRPC_PORT=6333: contradicts VECTOR_STORE=qdrant",
    ),
    (
        "VECTOR_STORE=upstash",
        "VECTOR_STORE=upstash: runs elsewhere, so UPSTASH_VECTOR_URL and UPSTASH_VECTOR_TOKEN must be given",
    ),
    (
        "SANDBOX_API_KEY=abcdefghi\nCODE_EXECUTION_API_KEY=ihgfedcba",
        "SANDBOX_API_KEY and CODE_EXECUTION_API_KEY differ",
    ),
    (
        "NGINX_ENABLE_CERTBOT_CHALLENGE=true",
        "NGINX_ENABLE_CERTBOT_CHALLENGE=true: needs CERTBOT_DOMAIN and CERTBOT_EMAIL",
    ),
    (
        "NGINX_HTTPS_ENABLED=true\nNGINX_SSL_PORT=80",
        ".env line 2: NGINX_SSL_PORT=80: NGINX_PORT and NGINX_SSL_PORT are one port",
    ),
    (
        "NGINX_HTTPS_ENABLED=true\nEXPOSE_NGINX_PORT=443",
        ".env line 2: EXPOSE_NGINX_PORT=443: EXPOSE_NGINX_PORT and EXPOSE_NGINX",
    ),
    ("MAIL_TYPE=smtp", "MAIL_TYPE=smtp: needs SMTP_SERVER; give it too"),
    ("MAIL_TYPE=sendgrid", "MAIL_TYPE=sendgrid: needs SENDGRID_API_KEY; give it too"),
    ("NOTION_INTEGRATION_TYPE=internal", "NOTION_INTEGRATION_TYPE=internal: needs NOTION_INTERNAL_SECRET"),
    ("CLICKZETTA_VOLUME_TYPE=external", "CLICKZETTA_VOLUME_TYPE=external: needs CLICKZETTA_VOLUME_NAME"),
    ("PLUGIN_SENTRY_ENABLED=true", "PLUGIN_SENTRY_ENABLED=true: needs PLUGIN_SENTRY_DSN"),
    (
        "SMTP_OPPORTUNISTIC_TLS=true\nSMTP_USE_TLS=false",
        "SMTP_OPPORTUNISTIC_TLS=true: needs SMTP_USE_TLS=true, which is false",
    ),
    (
        "GRAPH_ENGINE_MIN_WORKERS=11",
        "GRAPH_ENGINE_MIN_WORKERS=11: GRAPH_ENGINE_MIN_WORKERS must not be above GRAPH_ENGINE_MAX_W",
    ),
    (
        "PGVECTOR_MAX_CONNECTION=5\nPGVECTOR_MIN_CONNECTION=6",
        ".env line 2: PGVECTOR_MIN_CONNECTION=6: PGVECTOR_MIN_CONNECTION must",
    ),
    (
        "OPENSEARCH_JAVA_OPTS_MIN=2g",
        "OPENSEARCH_JAVA_OPTS_MIN=2g: OPENSEARCH_JAVA_OPTS_MIN must not be above OPENSEARCH_JAVA_OPTS_MAX",
    ),
]
# Knobs in group_data/dify.py, and how the line begins.
KNOBS: list[tuple[str, str]] = [
    (
        'expose = {"plugin_daemon_debug": "5003"}',
        "expose['plugin_daemon_debug'] = {'plugin_daemon_debug': '5003'} in group_data/dify.py line 1: 5003: must be address:port",
    ),
    (
        'expose = {"plugin_daemon_debg": "10.0.0.5:5003"}',
        'expose["plugin_daemon_debg"]: no port is called so; did you mean plugin_daemon_debug?',
    ),
    ('expose = {"redis": "0.0.0.0:80"}', 'port 0.0.0.0:80: both EXPOSE_NGINX_PORT and expose["redis"] name it'),
    ('harden = "security"', "harden = 'security' in group_data/dify.py line 1: must be a valid boolean"),
    ('firewall = "on"', "firewall = 'on' in group_data/dify.py line 1: must be 'off' or 'docker-user'"),
    (
        'firewall_allow = ["8443 from 203.0.113.7/24"]',
        "firewall_allow = ['8443 from 203.0.113.7/24'] in group_data/dify.py line 1: '8443 from 203.0.113.7/24'",
    ),
    ('firewall_allow = ["redis"]', "firewall_allow: 'redis': no open port is called redis; there are nginx"),
    ('tls = "on"', "tls = 'on' in group_data/dify.py line 1: must be 'off', 'own', 'letsencrypt' or 'proxy'"),
    (
        'trusted_proxies = ["10.0.0.5", "10.0.0.1/24"]',
        "trusted_proxies = ['10.0.0.5', '10.0.0.1/24'] in group_data/dify.py line 1: 10.0.0.1/24: must be an IP address or",
    ),
    (
        'trusted_proxies = ["0.0.0.0/0"]',
        "trusted_proxies = ['0.0.0.0/0'] in group_data/dify.py line 1: 0.0.0.0/0: would have anybody believed",
    ),
    ('public_url = "https://x.lan"\ntls = "proxy"', 'tls = "proxy": needs trusted_proxies, the addresses that'),
    ('tls = "proxy"\ntrusted_proxies = ["10.0.0.5"]', 'tls = "proxy": needs public_url with https, as https://'),
    (
        'acme_server = "production"',
        "acme_server = 'production' in group_data/dify.py line 1: must be letsencrypt, staging or",
    ),
    ("hsts = -1", "hsts = -1 in group_data/dify.py line 1: must be greater than or equal to 0"),
    ("dify_version = 1.11", "dify_version = 1.11 in group_data/dify.py line 1: must be a valid string"),
    ('dify_version = "1.11.5"', "dify_version = '1.11.5': no such release here; known: 1.11.4"),
    ('root = "opt/dify"', "root = 'opt/dify' in group_data/dify.py line 1: must be an absolute path"),
    ('\n\nroot = "/opt/my dify"', "root = '/opt/my dify' in group_data/dify.py line 3: must be an absolute path"),
    *(
        (
            f'root = "{root}"',
            f"root = '{root}' in group_data/dify.py line 1: must have no .., no . and no // in it, as /opt/dify",
        )
        for root in ("/opt/../etc", "/opt/dify/../x", "/opt//dify", "//etc", "/./etc")
    ),
    *(
        (
            f'root = "{root}"',
            f"root = '{root}' in group_data/dify.py line 1: is the system's own folder; name one that only",
        )
        for root in (
            "/etc",
            "/usr",
            "/var",
            "/home",
            "/root",
            "/boot",
            "/proc",
            "/sys/x",
            "/run/dify",
            "/var/lib/docker",
        )
    ),
    ('project = "Dify"', "project = 'Dify' in group_data/dify.py line 1: must be small letters"),
    ('profiles = "qdrant"', "profiles = 'qdrant' in group_data/dify.py line 1: must be a valid list"),
    ("profiles = [['x']]", "profiles = [['x']] in group_data/dify.py line 1: must be a valid string"),
    (
        r'profiles = ["\udc80"]',
        "profiles in group_data/dify.py line 1: has a lone surrogate in it, which no file can hold",
    ),
    (
        r'expose = {5: "\udc80"}',
        "expose in group_data/dify.py line 1: has a lone surrogate in it, which no file can hold",
    ),
    ('profiles = ["qdrnt"]', "profiles: no service has the profile 'qdrnt'"),
    ('images = {"ngnix": "nginx:1.29.1"}', f"images['ngnix']: no such service; known: {ANY}; did you mean nginx?"),
    ("images = {'api': 1}", "images['api'] = {'api': 1} in group_data/dify.py line 1: must be a valid string"),
    (
        'image_registry = "https://registry.lan"',
        "image_registry = 'https://registry.lan' in group_data/dify.py line 1: must be host",
    ),
    (
        'registry_login = {"r": {"username": "me"}}',
        "registry_login['r']['password'] in group_data/dify.py line 1: Field required",
    ),
    (
        'docker_source = "apt"',
        "docker_source = 'apt' in group_data/dify.py line 1: must be 'distro', 'docker' or 'present'",
    ),
    (
        'docker_repository_key = "9DC8 5822"',
        "docker_repository_key = '9DC8 5822' in group_data/dify.py line 1: must be a fingerprint: 40 digits of 0-9 and A-F",
    ),
    (
        'docker_log_max_size = "50mb"',
        "docker_log_max_size = '50mb' in group_data/dify.py line 1: must be a size with k, m or g",
    ),
    (
        "docker_log_max_file = 0",
        "docker_log_max_file = 0 in group_data/dify.py line 1: must be greater than or equal to 1",
    ),
    (
        'docker_registry_mirrors = ["m.lan"]',
        "docker_registry_mirrors = ['m.lan'] in group_data/dify.py line 1: must begin with http",
    ),
    (
        'docker_proxy = {"ftp": "http://proxy"}',
        "docker_proxy['ftp'] in group_data/dify.py line 1: must be 'http', 'https' or 'no_proxy'",
    ),
    ("min_cpus = 'two'", "min_cpus = 'two' in group_data/dify.py line 1: must be a valid integer"),
    (
        'min_memory = "plenty"',
        "min_memory = 'plenty' in group_data/dify.py line 1: must be a size with a unit, as 4GiB",
    ),
    ("answer_timeout = 1", "answer_timeout = 1 in group_data/dify.py line 1: must be greater than or equal to 10"),
    ('size = "huge"', "size = 'huge' in group_data/dify.py line 1: must be '', 'small', 'medium', 'large' or 'auto'"),
    (
        'admin = {"email": "admin"}',
        "admin = {'email': 'admin'} in group_data/dify.py line 1: name is missing or no text; both email and name are needed",
    ),
    (
        '\nadmin = {"email": "a@b", "name": "A"}',
        "admin in group_data/dify.py line 2: email 'a@b' is no address that Dify takes",
    ),
    (
        'public_url = "dify.example.com"',
        "public_url = 'dify.example.com' in group_data/dify.py line 1: must begin with http:// or https://",
    ),
    (
        'public_url = "https://example.com/dify"',
        "public_url = 'https://example.com/dify' in group_data/dify.py line 1: must end after the host and port: Dify's",
    ),
    ('secrets = "vault"', "secrets = 'vault' in group_data/dify.py line 1: must be 'host' or 'file'"),
    (
        'secrets = "file"',
        'secrets in group_data/dify.py line 1: "file" needs age_identity, the file that your age key lies',
    ),
    ('\nage_identity = "k"', 'age_identity in group_data/dify.py line 2: nothing uses it while secrets = "host"; set'),
    (
        'age_identity = "AGE-SECRET-KEY-1QQ"',
        "age_identity in group_data/dify.py line 1: must be the file that the key lies in, not the key itself",
    ),
    (
        'age_recipients = ["age1abc", "me"]',
        "age_recipients in group_data/dify.py line 1: must be public keys: age1... or the line of an SSH key",
    ),
    ('secrets_command = "vault"', 'secrets_command in group_data/dify.py line 1: must be {"read": ..., "write": ...}'),
    ('secrets_command = {"read": "vault"}', "secrets_command in group_data/dify.py line 1: write is missing; both"),
    (
        'secrets_command = {"raed": "a", "write": "b"}',
        "secrets_command in group_data/dify.py line 1: unknown key 'raed'; did you mean read?; read and write are all",
    ),
    (
        'secrets_command = {"read": "a \'b", "write": "c"}',
        "secrets_command in group_data/dify.py line 1: read: a quote in it is not closed",
    ),
    (
        'secrets_command = {"read": [], "write": "c"}',
        "secrets_command in group_data/dify.py line 1: read: must be a program and its arguments, as text or as a list",
    ),
    (
        'ssrf_allow = ["10.0.0.5/8"]',
        "ssrf_allow = ['10.0.0.5/8'] in group_data/dify.py line 1: '10.0.0.5/8': is no network: 10.0.0.0/8 or 10.0.0.5 is",
    ),
    (
        'ssrf_allow = ["wiki:http"]',
        "ssrf_allow = ['wiki:http'] in group_data/dify.py line 1: 'wiki:http': http is no port",
    ),
    (
        "ssrf_connect_ports = [0]",
        "ssrf_connect_ports = [0] in group_data/dify.py line 1: must be greater than or equal to 1",
    ),
    (
        '\nssrf_allowed_domains = ["*.example.com"]',
        "ssrf_allowed_domains = ['*.example.com'] in group_data/dify.py line 2: '*.example.com': must be a domain",
    ),
    (
        'ssrf_upstream_proxy = "proxy.lan:3128"',
        "ssrf_upstream_proxy = 'proxy.lan:3128' in group_data/dify.py line 1: must be http://host:port",
    ),
    (
        'ssrf_upstream_proxy = "https://dify:geheim@proxy.lan:3128"',
        "ssrf_upstream_proxy in group_data/dify.py line 1: must be http://host:port",
    ),
    ('mode = "developer"', "mode = 'developer' in group_data/dify.py line 1: must be 'dify' or 'middleware'"),
    ('dify_versoin = "1.11.4"', "dify_versoin in group_data/dify.py line 1: unknown knob; did you mean dify_version?"),
    (
        'log_level = "DEBUG"',
        "log_level in group_data/dify.py line 1: unknown knob; did you mean Dify's setting LOG_LEVEL?",
    ),
    ('allow_unknown_settings = "X"', "allow_unknown_settings = 'X' in group_data/dify.py line 1: must be a valid list"),
    # Dify's settings among them.
    ('LOG_LEVEL = "loud"', "group_data/dify.py line 1: LOG_LEVEL=loud: must be one of DEBUG"),
    ("\nDB_PORT = 70000", "group_data/dify.py line 2: DB_PORT=70000: must be a port"),
    ('LOG_LEVEL = ["DEBUG"]', "group_data/dify.py line 1: LOG_LEVEL: must be text, a number, True or False, not list"),
    ("LOG_LEVEL = None", "group_data/dify.py line 1: LOG_LEVEL: must be text, a number, True or False, not NoneType"),
    (
        "GIGABYTE = 2**30",
        "group_data/dify.py line 1: GIGABYTE is no setting of this Dify release; begin a name of your own with _",
    ),
    (
        'LOG_LEVLE = "DEBUG"',
        "group_data/dify.py line 1: LOG_LEVLE is no setting of this Dify release; did you mean LOG_LEVEL?",
    ),
    ('DB_PASSWORD = "difyai123456"', "group_data/dify.py line 1: DB_PASSWORD: this is a published default"),
]
# Other files, whole.
FILES: list[tuple[str, str | bytes, str]] = [
    ("env/dify.env", "\nLOG_LEVEL=loud", "web1: env/dify.env line 2: LOG_LEVEL=loud: must be one of"),
    ("env/web1.env", "DB_PORT=x", "web1: env/web1.env line 1: DB_PORT=x: must be a port from 1 to 65535"),
    ("env/web1.env", b"LOG_TZ=UTC\nLOG_DATEFORMAT=caf\xe9", "web1: env/web1.env line 2: cannot be read: not UTF-8"),
    ("env/web1.env", "LOG_TZ=UTC\n".encode("utf-16"), "web1: env/web1.env line 1: cannot be read: not UTF-8"),
    ("env/wbe1.env", "LOG_TZ=UTC", "env/wbe1.env: the inventory has no group or host 'wbe1'; did you mean web1?"),
    ("env/all.env", "LOG_TZ=UTC", "env/all.env: the inventory has no group or host 'all'"),
    ("group_data/web1.py", "", "group_data/web1.py: the inventory has no group 'web1'"),
    ("group_data/dfiy.py", "", "group_data/dfiy.py: the inventory has no group 'dfiy'; did you mean dify?"),
    (
        "inventory.py",
        'dify = [("web1", {"LOG_LEVEL": "loud"})]',
        "web1: inventory.py line 1: LOG_LEVEL=loud: must be one of",
    ),
    (
        "inventory.py",
        'dify = [\n("web1", {"root": "x"})]',
        "web1: root = 'x' in inventory.py line 2: must be an absolute path",
    ),
    (
        "inventory.py",
        'dify = (["web1"], {"LOG_LEVEL": "loud"})',
        "web1: inventory.py line 1: LOG_LEVEL=loud: must be one of",
    ),
    # What is no inventory at all, and names and values that are no text.
    (
        "inventory.py",
        'dify = [("web1", {5: 1})]',
        "web1: 5 in inventory.py line 1: the name of a knob or setting must be",
    ),
    (
        "inventory.py",
        'dify = (["web1"], {5: 1})',
        "web1: 5 in inventory.py line 1: the name of a knob or setting must be",
    ),
    (
        "inventory.py",
        'dify = [("web1", "x")]',
        f"inventory.py: no inventory (dictionary update {ANY}): a group is a list",
    ),
    ("inventory.py", 'dify = [("web1", 5)]', f"inventory.py: no inventory ({ANY}): a group is a list"),
    (
        "inventory.py",
        "dify = [()]",
        f"inventory.py: no inventory ({ANY}): a group is a list of hosts, or (hosts, {{data}})",
    ),
    (
        "inventory.py",
        "dify = [(5, {})]",
        f"inventory.py: no inventory ({ANY}): a group is a list of hosts",
    ),
    ("inventory.py", 'dify = (["web1"], "x")', f"inventory.py: no inventory ({ANY}): a group is a list of hosts"),
    ("inventory.py", 'dify = ("web1", "web2")', f"inventory.py: no inventory ({ANY}): a group is a list of hosts"),
    ("inventory.py", b'\ndify = ["web1"]  # caf\xe9', "inventory.py line 2: not UTF-8; save it as that"),
    ("inventory.py", "dify =", "inventory.py line 1: invalid syntax"),
    ("inventory.py", b'dify = ["web1"]\0', f"inventory.py{ANY}: source code {ANY}null bytes"),
    ("inventory.py", 'int("x")', "inventory.py: invalid literal for int() with base 10: 'x'"),
    ("inventory.py", "import os\nos.nothing", "inventory.py: module 'os' has no attribute 'nothing'"),
    (
        "inventory.py",
        "raise SystemExit(3)",
        "inventory.py: it, or a file of group_data, ends the program (3): take that out",
    ),
    (
        "group_data/dify.py",
        "raise SystemExit(3)",
        "inventory.py: it, or a file of group_data, ends the program (3): take",
    ),
    ("group_data/dify.py", b"# caf\xe9", "group_data/dify.py line 1: not UTF-8; save it as that"),
    (
        "inventory.py",
        'dify = ["../../x"]',
        "host '../../x': a name must not begin with /, have no .. and no lone surrogate; give the",
    ),
    ("inventory.py", r'dify = ["\udc80"]', r"host '\udc80': a name must not begin with /, have no .. and no lone"),
    (
        "inventory.py",
        'dify = ["/x"]',
        "host '/x': a name must not begin with /, have no .. and no lone surrogate; give",
    ),
    (
        "inventory.py",
        r'dify = [("web1", {"LOG_TZ": "\udc80"})]',
        "web1: inventory.py line 1: LOG_TZ: has a lone surrogate in it, which no file can hold; give it another value",
    ),
]
TYPED = [
    ("LOG_LEVEL=loud", "web1: --data: LOG_LEVEL=loud: must be one of"),
    ("LOG_LEVLE=DEBUG", "web1: --data: LOG_LEVLE is no setting of this Dify release; did you mean LOG_LEVEL?"),
    ("DB_PASSWORD=abcdefgh", "web1: --data: DB_PASSWORD is a secret, which everybody on this machine could read there"),
    ("root=opt", "web1: root = 'opt' in --data: must be an absolute path"),
    ("LOG_LEVEL", "--data LOG_LEVEL: not NAME=value"),
    ("=x", "--data =x: not NAME=value"),
]
ROWS: list[tuple[str, str | bytes, str]] = [
    *(
        (".env", f"{name}='{value}'", f"web1: .env line 1: {name}={value}: {says}")
        for name, vs, says in VALUES
        for value in vs
    ),
    *((".env", text, f"web1: {'' if said.startswith('.env') else '.env line 1: '}{said}") for text, said in LINES),
    (".env", 'LOG_TZ="UTC" # why\nLOG_LEVEL', "web1: .env line 2: not NAME=value (LOG_LEVEL)"),
    *(("group_data/dify.py", text, f"web1: {said}") for text, said in KNOBS),
    *FILES,
    # It is DB_TYPE that lacks something, which nobody gave: there is no line to name.
    (".env", "DB_HOST=db.example.com", "web1: DB_TYPE=postgresql: runs elsewhere, so DB_PASSWORD must be given"),
]


@pytest.fixture(autouse=True)
def _no_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever connects to anything has failed the test."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield


def said_of(folder: Path, files: dict[str, str | bytes], typed: list[str] | None = None) -> list[str]:
    """What is wrong with a checkout whose inventory has one host, web1 in the group dify; paths as from its folder."""
    (folder / "env").mkdir(exist_ok=True)
    (folder / "group_data").mkdir(exist_ok=True)
    (folder / "group_data/all.py").write_text((REPOSITORY / "group_data/all.py").read_text())
    for path, text in {"inventory.py": INVENTORY, **files}.items():
        (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        check(read(folder / "inventory.py", typed or []), folder)
    except InvalidError as wrong:
        return [line.replace(f"{folder}/", "") for line in wrong.lines]
    return []


def begins(line: str, expected: str) -> bool:
    """Whether a line begins as expected."""
    return bool(re.match(".*?".join(map(re.escape, expected.split(ANY))), line))


def test_the_guard_against_connections_works() -> None:
    with pytest.raises(AssertionError, match="a connection to"), socket.socket() as one:
        one.connect(("127.0.0.1", 9))
    with pytest.raises(AssertionError, match="a connection to"):
        socket.create_connection(("127.0.0.1", 9))


@pytest.mark.parametrize(
    "text",
    [
        "CONSOLE_API_URL=https://gateway.example.com/dify\nCONSOLE_WEB_URL=https://gateway.example.com",
        "SERVICE_API_URL=https://gateway.example.com/tenant",
        "PGDATA=/var/lib/postgresql/data/a/../pgdata",
        "LOG_TZ=US/Eastern",
        "LOG_TZ=Asia/Calcutta",
        "LOG_TZ=etc/gmt+5",
        "DB_HOST=[2001:db8::1]\nDB_PASSWORD=OfTheDatabase",
    ],
)
def test_what_is_right_is_not_refused(tmp_path: Path, text: str) -> None:
    assert said_of(tmp_path, {".env": text}) == []


@pytest.mark.parametrize("root", ["/srv", "/opt/dify", "/var/lib/dify", "/home/me/dify", "/mnt/a..b"])
def test_a_folder_of_ones_own_is_a_root(tmp_path: Path, root: str) -> None:
    assert said_of(tmp_path, {"group_data/dify.py": f'root = "{root}"'}) == []


def test_a_checkout_without_a_mistake_is_right(tmp_path: Path) -> None:
    assert said_of(tmp_path, {".env": "LOG_LEVEL=DEBUG\n", "group_data/dify.py": 'root = "/srv/dify"\n'}) == []


def test_there_are_enough_of_them() -> None:
    assert len(ROWS) + len(TYPED) >= 120


@pytest.mark.parametrize(("path", "text", "line"), ROWS)
def test_a_wrong_input_is_one_line(tmp_path: Path, path: str, text: str | bytes, line: str) -> None:
    said = said_of(tmp_path, {path: text})
    assert len(said) == 1, said
    assert begins(said[0], line), said
    assert "\n" not in said[0]


@pytest.mark.parametrize(("word", "line"), TYPED)
def test_a_wrong_word_on_the_command_line_is_one_line(tmp_path: Path, word: str, line: str) -> None:
    try:
        said = said_of(tmp_path, {}, [word])
    except InvalidError as wrong:
        said = wrong.lines
    assert [one[: len(line)] for one in said] == [line]


def test_everything_of_all_hosts_is_said_at_once_from_the_top_of_each_file_to_its_end(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "inventory.py": 'dify = ["web1", ("web2", {"LOG_LEVEL": "loud"}), "web3", "web4"]\n',
        "group_data/dify.py": "answer_timeout = 1\n",
        ".env": "DB_PORT=x\nLOG_LEVLE=1\nMIGRATION_ENABLED=true\nDB_PASSWORD=difyai123456\noops\n",
        "env/web1.env": "QDRANT_URL=a b\n",
        "env/web9.env": "",
    }
    said = said_of(tmp_path, files)
    begins = [
        "env/web9.env: the inventory has no",
        "all 4 hosts: answer_timeout = 1 in group_data/dify.py line 1: must",
        "all 4 hosts: .env line 1: DB_PORT=x",
        "all 4 hosts: .env line 2: LOG_LEVLE is",
        "all 4 hosts: .env line 3: MIGRATION_ENABLED",
        "all 4 hosts: .env line 4: DB_PASSWORD",
        "all 4 hosts: .env line 5: not NAME=value",
        "web1: env/web1.env line 1: QDRANT_URL=a b",
        "web2: inventory.py line 1: LOG_LEVEL=loud",
    ]
    assert [line[: len(begin)] for line, begin in zip(said, begins, strict=True)] == begins


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("redis://:difyai123456@redis:6379/0", "EVENT_BUS_REDIS_URL: this is a published default of Dify 1.13.3"),
        (
            "redis://:Other1@redis:6379/0",
            "EVENT_BUS_REDIS_URL: its password is not REDIS_PASSWORD; leave it out, it follows",
        ),
        ("redis://redis:6379/0", "EVENT_BUS_REDIS_URL: its password is not REDIS_PASSWORD; leave it out, it follows"),
    ],
)
def test_the_redis_of_the_event_bus_is_judged_as_that_of_the_queues(tmp_path: Path, url: str, line: str) -> None:
    text = f"EVENT_BUS_REDIS_URL={url}\nREDIS_PASSWORD=OfThisRedis\n"
    said = said_of(tmp_path, {".env": text, "group_data/dify.py": 'dify_version = "1.13.3"'})
    assert len(said) == 1
    assert begins(said[0], f"web1: .env line 1: {line}")


def test_a_secret_of_the_wrong_kind_is_not_shown(tmp_path: Path) -> None:
    said = said_of(
        tmp_path, {".env": "EVENT_BUS_REDIS_URL=http://me:QXZJKV0123@redis\nOTLP_BASE_ENDPOINT=ftp://me:QXZJKV0123@x\n"}
    )
    assert len(said) == 2
    assert "QXZJKV0123" not in "".join(said)
