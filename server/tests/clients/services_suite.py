"""Access logs, and configurations that are only kept. Exits with 0 where every expectation holds."""

import time
import urllib.request

from expectations import fails
from suite import alice, bob, nobody, run


def logs():
    alice.create_bucket(Bucket="logged")
    alice.create_bucket(Bucket="the-logs")
    bob.create_bucket(Bucket="bobs-logs")
    assert "LoggingEnabled" not in alice.get_bucket_logging(Bucket="logged")
    wanted = {"LoggingEnabled": {"TargetBucket": "the-logs", "TargetPrefix": "in/"}}
    for target in ("bobs-logs", "no-such-bucket"):
        stray = {"LoggingEnabled": {"TargetBucket": target, "TargetPrefix": ""}}
        fails("InvalidTargetBucketForLogging", 400, alice.put_bucket_logging, Bucket="logged", BucketLoggingStatus=stray)
    alice.put_bucket_logging(Bucket="logged", BucketLoggingStatus=wanted)
    assert alice.get_bucket_logging(Bucket="logged")["LoggingEnabled"] == wanted["LoggingEnabled"]
    alice.put_object(Bucket="logged", Key="a key", Body=b"12345")
    fails("NoSuchKey", 404, alice.get_object, Bucket="logged", Key="nothing")
    fails("AccessDenied", 403, nobody.get_object, Bucket="logged", Key="a key")
    url = alice.generate_presigned_url("get_object", Params={"Bucket": "logged", "Key": "a key"})
    assert urllib.request.urlopen(url).read() == b"12345"
    lines = []
    for _ in range(300):
        time.sleep(0.1)
        found = alice.list_objects_v2(Bucket="the-logs", Prefix="in/").get("Contents", [])
        lines = [line for each in found for line in alice.get_object(Bucket="the-logs", Key=each["Key"])["Body"].read().decode().splitlines()]
        if sum("a%20key" in line or "nothing" in line for line in lines) >= 4:
            break
    put = next(line for line in lines if " REST.PUT.OBJECT " in line).split(" ")
    assert put[:2] == ["alice", "logged"] and put[5] == "alice" and put[8] == "a%20key", put
    assert any(" REST.GET.OBJECT nothing " in line and " 404 NoSuchKey " in line for line in lines), lines
    assert any(" - " in line and " 403 AccessDenied " in line for line in lines), lines
    signed = next(line for line in lines if "X-Amz-Signature" in line)
    assert "X-Amz-Signature=-" in signed and " 200 - 5 " in signed and " QueryString " in signed, signed
    alice.put_bucket_logging(Bucket="logged", BucketLoggingStatus={})
    assert "LoggingEnabled" not in alice.get_bucket_logging(Bucket="logged")


def kept():
    bucket = "kept-configurations"
    alice.create_bucket(Bucket=bucket)
    destination = {"S3BucketDestination": {"Bucket": "arn:aws:s3:::elsewhere", "Format": "CSV"}}
    kinds = {
        "analytics": ("AnalyticsConfiguration", {"StorageClassAnalysis": {}}),
        "intelligent_tiering": ("IntelligentTieringConfiguration", {"Status": "Enabled", "Tierings": [{"Days": 90, "AccessTier": "ARCHIVE_ACCESS"}]}),
        "inventory": ("InventoryConfiguration", {
            "Destination": destination, "IsEnabled": True, "IncludedObjectVersions": "Current", "Schedule": {"Frequency": "Daily"},
        }),
        "metrics": ("MetricsConfiguration", {"Filter": {"Prefix": "p/"}}),
    }
    for name, (field, config) in kinds.items():
        config = config | {"Id": "one"}
        call = lambda verb, plural="": getattr(alice, f"{verb}_bucket_{name}_configuration{plural}")
        fails("NoSuchConfiguration", 404, call("get"), Bucket=bucket, Id="one")
        call("put")(Bucket=bucket, Id="one", **{field: config})
        assert call("get")(Bucket=bucket, Id="one")[field] == config
        listed = call("list", "s")(Bucket=bucket)
        assert listed[f"{field}List"] == [config] and not listed["IsTruncated"]
        fails("AccessDenied", 403, getattr(bob, f"get_bucket_{name}_configuration"), Bucket=bucket, Id="one")
        call("delete")(Bucket=bucket, Id="one")
        fails("NoSuchConfiguration", 404, call("delete"), Bucket=bucket, Id="one")
    assert "Status" not in alice.get_bucket_accelerate_configuration(Bucket=bucket)
    alice.put_bucket_accelerate_configuration(Bucket=bucket, AccelerateConfiguration={"Status": "Enabled"})
    assert alice.get_bucket_accelerate_configuration(Bucket=bucket)["Status"] == "Enabled"


run(logs, kept)
