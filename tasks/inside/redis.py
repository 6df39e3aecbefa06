"""What Dify, Celery and the plugin daemon need of a Redis elsewhere."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from tasks.inside.report import PROBE, SECONDS, Check, Problem, Report, must_reach, one_line, unreachable

# Dify, Celery and the plugin daemon have prefixes of their own: the user needs every key.
KEYS = (PROBE, "_kombu.binding." + PROBE)


def check_redis(check: Check, report: Report) -> None:
    options: dict[str, Any] = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "decode_responses": True}
    host, port = check["host"], check["port"]
    if check["sentinels"]:
        host, port = master(check, options)
    where = f"Redis at {host}:{port}"
    if check["tls"]:
        verify_as_daemon(report, where, host, port)
        options |= {
            "ssl": True,
            "ssl_cert_reqs": getattr(ssl, check["verify"]),
            "ssl_ca_certs": check["authorities"] or None,
            "ssl_certfile": check["certificate"] or None,
            "ssl_keyfile": check["key"] or None,
        }
    login = {"username": check["user"] or None, "password": check["password"] or None}
    for number in check["databases"]:
        use_redis(check, where, {"host": host, "port": port, "db": number, **login, **options})


def use_redis(check: Check, where: str, options: dict[str, Any]) -> None:
    import redis

    client = redis.Redis(**options)
    try:
        client.ping()
        commands(check, where, client)
    except (redis.RedisError, OSError) as error:
        host, port = options["host"], options["port"]
        raise Problem(refused_by_redis(check, where, error, not check["tls"] and speaks_tls(host, port))) from None
    finally:
        client.close()


def refused_by_redis(
    check: Check,
    where: str,
    error: BaseException,
    has_tls: bool = False,
    password: str = "REDIS_PASSWORD",
    user: str = "REDIS_USERNAME",
) -> str:
    """A line for a login that did not come about."""
    text = one_line(error)
    if "certificate" in text.lower():
        return (
            f"REDIS_SSL_CERT_REQS: {where} has a certificate that Dify does not accept: set REDIS_SSL_CA_CERTS ({text})"
        )
    if has_tls:
        return f"REDIS_USE_SSL: {where} takes TLS only: set REDIS_USE_SSL=true"
    if check["tls"] and ("SSL" in text or "closed" in text.lower()):
        return f"REDIS_USE_SSL=true: {where} speaks no TLS: leave it out, or give the port that does"
    must_reach(error, "REDIS_HOST", where)
    if "without any password configured" in text:
        return f"{password}: {where} has no password: leave {password} out"
    if "invalid username-password" in text or "WRONGPASS" in text or "invalid password" in text:
        name = check["user"] if user == "REDIS_USERNAME" else check["sentinel_user"]
        return f"{password}: {where} refuses the login of {name or 'default'!r}: it or {user} is wrong"
    if "Authentication required" in text or "NOAUTH" in text:
        return f"{password}: {where} asks for a password: set {password}"
    if "DB index is out of range" in text:
        return f"REDIS_DB: {where} does not have that database, or not database 1, where Celery's queues are"
    return f"REDIS_HOST: {where} refuses: {text}"


def commands(check: Check, where: str, client: Any) -> None:
    """Try one command of each kind, and say which the user lacks."""
    import redis

    lacking = []

    def attempt(name: str, *words: str) -> None:
        try:
            client.execute_command(name, *words)
        except redis.exceptions.NoPermissionError as error:
            text = one_line(error)
            lacking.append(
                "~*" if "keys" in text or " key" in text else "&*" if "channel" in text else f"+{name.lower()}"
            )

    for key in KEYS:
        for command in (
            ("SET", key, "1", "EX", 60),
            ("GET", key),
            ("INCR", key),
            ("EXPIRE", key, 60),
            ("DEL", key),
            ("LPUSH", key, "1"),
            ("BRPOP", key, 1),
            ("SADD", key, "1"),
            ("SMEMBERS", key),
            ("DEL", key),
            ("ZADD", key, 1, "1"),
            ("ZREM", key, "1"),
            ("HSET", key, "1", "1"),
            ("HGETALL", key),
            ("EVAL", "return redis.call('del', KEYS[1])", 1, key),
            ("PUBLISH", key, "1"),
        ):
            attempt(*command)
    if lacking:
        user = check["user"] or "default"
        wanted = " ".join(dict.fromkeys(lacking))
        raise Problem(
            f"REDIS_USERNAME: {where}: {user!r} lacks rights. Its administrator can: ACL SETUSER {user} {wanted}"
        )


def speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), SECONDS) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        # Somebody spoke TLS who wants a certificate of ours.
        return "CERTIFICATE_REQUIRED" in str(error)
    except OSError:
        return False


def verify_as_daemon(report: Report, where: str, host: str, port: int) -> None:
    """The plugin daemon verifies Redis's certificate, whatever REDIS_SSL_CERT_REQS says (daemon#450)."""
    try:
        with socket.create_connection((host, port), SECONDS) as plain:
            report.trusted().wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        raise Problem(
            f"REDIS_USE_SSL: {where} has a certificate that the plugin daemon does not accept ({error.verify_message}): give "
            "the authority that signed it in the knob ca_certificates, or a certificate for this name"
        ) from None
    except OSError:
        return  # The login says it better.


def master(check: Check, options: dict[str, Any]) -> tuple[str, int]:
    """Where the Sentinels say that Redis is."""
    import redis

    found, problems = None, []
    for node in check["sentinels"]:
        host, _, port = node.rpartition(":")
        where = f"Sentinel at {node}"
        for user, password, setting in (
            (check["sentinel_user"], check["sentinel_password"], "REDIS_SENTINEL_PASSWORD"),
            ("", check["broker_sentinel_password"], "CELERY_SENTINEL_PASSWORD"),
        ):
            login = {"username": user or None, "password": password or None}
            client = redis.Redis(host=host, port=int(port), **login, **options)
            try:
                address = client.sentinel_get_master_addr_by_name(check["master"])
                if not address:
                    raise Problem(f"REDIS_SENTINEL_SERVICE_NAME: {where} knows no master {check['master']!r}")
                found = found or (address[0], int(address[1]))
            except (redis.RedisError, OSError) as error:
                if unreachable(error):
                    problems.append(f"REDIS_SENTINELS: {where}: {unreachable(error)}")
                    break  # One that is down is what the others are there for.
                raise Problem(
                    refused_by_redis(check, where, error, False, setting, "REDIS_SENTINEL_USERNAME")
                ) from None
    if not found:
        raise Problem("; ".join(problems))
    return found
