"""What Dify and its plugin daemon need of a bucket."""

from __future__ import annotations

from typing import Any

from tasks.inside.report import PROBE, SECONDS, Check, Problem, Report, one_line, unreachable


def check_s3(check: Check, report: Report) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=check["endpoint"] or None,
        region_name=check["region"] or None,
        aws_access_key_id=check["access_key"] or None,
        aws_secret_access_key=check["secret_key"] or None,
        config=Config(
            s3={"addressing_style": check["style"]},
            connect_timeout=SECONDS,
            read_timeout=SECONDS,
            retries={"total_max_attempts": 1},
        ),
    )
    try:
        use_bucket(client, check["bucket"])
    except ClientError as error:
        if error.response["Error"].get("Code") != "NoSuchBucket":
            raise Problem(refused_by_s3(check, error.response["Error"])) from None
        report.lacks(f"bucket {check['bucket']}", lambda: make_bucket(client, check))
    except BotoCoreError as error:
        where = check["endpoint"] or "Amazon S3"
        setting = "PLUGIN_S3_ENDPOINT" if check["settings"] == "PLUGIN_AWS" else "S3_ENDPOINT"
        reason = unreachable(error) or one_line(error)
        raise Problem(f"{setting}: {where}, for {check['user']}: {reason}") from None


def use_bucket(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key=PROBE, Body=b"1")
    client.get_object(Bucket=bucket, Key=PROBE)["Body"].read()
    client.delete_object(Bucket=bucket, Key=PROBE)


def make_bucket(client: Any, check: Check) -> None:
    from botocore.exceptions import ClientError

    try:
        client.create_bucket(Bucket=check["bucket"])
        use_bucket(client, check["bucket"])
    except ClientError as error:
        raise Problem(refused_by_s3(check, error.response["Error"])) from None


def refused_by_s3(check: Check, error: dict[str, Any]) -> str:
    """A line for an answer that is none of what was asked for."""
    prefix, code = check["settings"], error.get("Code", "")
    where = f"bucket {check['bucket']} at {check['endpoint'] or 'Amazon S3'}, for {check['user']}"
    if code == "SignatureDoesNotMatch":
        return f"{prefix}_SECRET_KEY: {where}: the signature does not match: the secret key is wrong"
    if code in ("InvalidAccessKeyId", "InvalidClientTokenId"):
        return f"{prefix}_ACCESS_KEY: {where}: that access key is not known there"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return f"{prefix}_REGION: {where}: is in another region than {check['region'] or '(none)'}"
    if code in ("AccessDenied", "403"):
        return f"{prefix}_ACCESS_KEY: {where}: may not write, read and delete there (s3:PutObject, GetObject, DeleteObject)"
    return f"{prefix}_ACCESS_KEY: {where}: {code} {one_line(error.get('Message', ''))}".strip()
