"""Where Dify and its plugin daemon keep files, and what each kind of storage must be told.

Kinds: Dify's api/configs/middleware (STORAGE_TYPE) and the daemon's dify-cloud-kit/oss (PLUGIN_STORAGE_TYPE).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from stack.errors import nearest
from stack.release import Release

# What upstream's .env.example has where a value of one's own belongs.
PLACEHOLDER = re.compile(r"your-|<your|^difyai|^xxx", re.IGNORECASE)

_S3_KEYS = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
_PLUGIN_S3_KEYS = ("PLUGIN_AWS_ACCESS_KEY", "PLUGIN_AWS_SECRET_KEY")


def _all(prefix: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{part}" for part in parts)


API: dict[str, tuple[str, ...]] = {
    "opendal": (),
    "local": (),
    "s3": ("S3_BUCKET_NAME",),
    "azure-blob": _all("AZURE_BLOB", "ACCOUNT_NAME", "ACCOUNT_KEY", "CONTAINER_NAME", "ACCOUNT_URL"),
    "google-storage": ("GOOGLE_STORAGE_BUCKET_NAME",),
    "aliyun-oss": _all("ALIYUN_OSS", "BUCKET_NAME", "ACCESS_KEY", "SECRET_KEY", "ENDPOINT", "REGION", "PATH"),
    "tencent-cos": _all("TENCENT_COS", "BUCKET_NAME", "SECRET_KEY", "SECRET_ID", "REGION", "SCHEME", "CUSTOM_DOMAIN"),
    "oci-storage": _all("OCI", "ENDPOINT", "BUCKET_NAME", "ACCESS_KEY", "SECRET_KEY", "REGION"),
    "huawei-obs": _all("HUAWEI_OBS", "BUCKET_NAME", "SECRET_KEY", "ACCESS_KEY", "SERVER"),
    "volcengine-tos": _all("VOLCENGINE_TOS", "BUCKET_NAME", "SECRET_KEY", "ACCESS_KEY", "ENDPOINT", "REGION"),
    "baidu-obs": _all("BAIDU_OBS", "BUCKET_NAME", "SECRET_KEY", "ACCESS_KEY", "ENDPOINT"),
    "supabase": _all("SUPABASE", "BUCKET_NAME", "API_KEY", "URL"),
    "clickzetta-volume": _all("CLICKZETTA", "USERNAME", "PASSWORD", "INSTANCE"),
}
_BUCKET = "PLUGIN_STORAGE_OSS_BUCKET"
PLUGIN: dict[str, tuple[str, ...]] = {
    "local": (),
    "aws_s3": (_BUCKET, "PLUGIN_AWS_REGION"),
    "azure_blob": _all("PLUGIN_AZURE_BLOB_STORAGE", "CONNECTION_STRING", "CONTAINER_NAME"),
    "aliyun_oss": (
        _BUCKET,
        *_all("PLUGIN_ALIYUN_OSS", "ENDPOINT", "ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "REGION"),
    ),
    "tencent_cos": (_BUCKET, *_all("PLUGIN_TENCENT_COS", "SECRET_KEY", "SECRET_ID", "REGION")),
    "volcengine_tos": (_BUCKET, *_all("PLUGIN_VOLCENGINE_TOS", "ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "REGION")),
}
TYPES = {"STORAGE_TYPE": API, "PLUGIN_STORAGE_TYPE": PLUGIN}


def contradictions(release: Release, given: Mapping[str, str]) -> Iterator[str]:
    """A line for each kind of storage that is none, or that lacks what it must be told."""
    for name, kinds in TYPES.items():
        kind = given.get(name) or release.default(name)
        if kind not in kinds:
            yield f"{name}={kind}: not offered; allowed: {', '.join(sorted(kinds))}{nearest(kind, kinds)}"
        elif missing := [need for need in _needed(kind, given, kinds[kind]) if not _is_told(release, given, need)]:
            yield f"{name}={kind}: {', '.join(missing)} must be given"


def _needed(kind: str, given: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...]:
    if kind == "s3" and given.get("S3_USE_AWS_MANAGED_IAM", "").lower() != "true":
        return (*names, *_S3_KEYS)
    if kind == "aws_s3" and given.get("PLUGIN_S3_USE_AWS", "").lower() != "true":
        return (*names, "PLUGIN_S3_ENDPOINT", *_PLUGIN_S3_KEYS)
    return names


def _is_told(release: Release, given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "")
    if value:
        return value != release.default(name) or not PLACEHOLDER.search(value)
    default = release.default(name)
    return bool(default) and not PLACEHOLDER.search(default)


def buckets(get: Mapping[str, str]) -> list[dict[str, str]]:
    """The S3 buckets that are used: who uses each, where it is and with which settings it is reached.

    get: every setting, defaults included.
    """
    found = []
    if get["STORAGE_TYPE"] == "s3":
        managed = get["S3_USE_AWS_MANAGED_IAM"].lower() == "true"
        found.append(
            {
                "user": "Dify",
                "settings": "S3",
                "bucket": get["S3_BUCKET_NAME"],
                "endpoint": "" if managed else get["S3_ENDPOINT"],
                "region": get["S3_REGION"],
                "access_key": "" if managed else get["S3_ACCESS_KEY"],
                "secret_key": "" if managed else get["S3_SECRET_KEY"],
                "style": get["S3_ADDRESS_STYLE"],
            }
        )
    if get["PLUGIN_STORAGE_TYPE"] == "aws_s3":
        found.append(_plugin_bucket(get))
    return found


def _plugin_bucket(get: Mapping[str, str]) -> dict[str, str]:
    # With S3_USE_AWS the daemon's client does not look at S3_USE_PATH_STYLE.
    own = get["PLUGIN_S3_USE_AWS"].lower() != "true"
    return {
        "user": "the plugin daemon",
        "settings": "PLUGIN_AWS",
        "bucket": get[_BUCKET],
        "endpoint": get["PLUGIN_S3_ENDPOINT"],
        "region": get["PLUGIN_AWS_REGION"],
        "access_key": get["PLUGIN_AWS_ACCESS_KEY"],
        "secret_key": get["PLUGIN_AWS_SECRET_KEY"],
        "style": "path" if own and get["PLUGIN_S3_USE_PATH_STYLE"].lower() == "true" else "virtual",
    }
