"""S3 through boto3, as applications use it. Exits with 0 where every expectation holds.

usage: boto3_suite.py ENDPOINT ACCESS_KEY SECRET_KEY
"""

import base64
import hashlib
import os
import sys
import threading
import urllib.error
import urllib.request
import zlib

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from expectations import fails

endpoint, access, secret = sys.argv[1:4]
config = Config(signature_version="s3v4", retries={"max_attempts": 1}, s3={"addressing_style": "path"})
s3 = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1",
    aws_access_key_id=access, aws_secret_access_key=secret, config=config,
)


def buckets():
    s3.create_bucket(Bucket="suite")
    s3.create_bucket(Bucket="suite")
    fails("BucketAlreadyExists", 409, s3.create_bucket, Bucket="suite", ACL="public-read")
    fails("NoSuchBucket", 404, s3.list_objects_v2, Bucket="missing")
    fails("404", 404, s3.head_bucket, Bucket="missing")
    assert s3.get_bucket_location(Bucket="suite")["LocationConstraint"] is None
    assert "suite" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket="suite", Key="in the way", Body=b"x")
    fails("BucketNotEmpty", 409, s3.delete_bucket, Bucket="suite")
    s3.delete_object(Bucket="suite", Key="in the way")


def objects():
    body = os.urandom(300_000)
    put = s3.put_object(
        Bucket="suite", Key="dir/ä name+&", Body=body, ContentType="text/plain", CacheControl="no-cache",
        ContentDisposition="inline", ContentLanguage="de", Metadata={"colour": "blue"},
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket="suite", Key="dir/ä name+&")
    assert got["Body"].read() == body and got["ContentLength"] == len(body)
    assert (got["ContentType"], got["CacheControl"], got["ContentLanguage"]) == ("text/plain", "no-cache", "de")
    assert got["Metadata"] == {"colour": "blue"} and got["AcceptRanges"] == "bytes"
    head = s3.head_object(Bucket="suite", Key="dir/ä name+&")
    assert head["ETag"] == put["ETag"] and head["ContentLength"] == len(body)
    fails("NoSuchKey", 404, s3.get_object, Bucket="suite", Key="missing")
    fails("404", 404, s3.head_object, Bucket="suite", Key="missing")
    s3.put_object(Bucket="suite", Key="empty", Body=b"")
    assert s3.get_object(Bucket="suite", Key="empty")["Body"].read() == b""
    s3.delete_object(Bucket="suite", Key="missing")


def ranges():
    body = os.urandom(2_000_000)
    s3.put_object(Bucket="suite", Key="ranges", Body=body)
    for header, expected in [
        ("bytes=0-0", body[:1]), ("bytes=100-1999999", body[100:]), ("bytes=-7", body[-7:]),
        ("bytes=1000000-", body[1_000_000:]), ("bytes=1999990-5000000", body[1_999_990:]),
    ]:
        got = s3.get_object(Bucket="suite", Key="ranges", Range=header)
        assert got["Body"].read() == expected, header
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"].endswith("/2000000")
    fails("InvalidRange", 416, s3.get_object, Bucket="suite", Key="ranges", Range="bytes=2000000-")
    head = s3.head_object(Bucket="suite", Key="ranges")
    date = head["ResponseMetadata"]["HTTPHeaders"]["last-modified"]
    for condition, status in [
        (head["ETag"], 206), (date, 206), ('"0123456789abcdef0123456789abcdef"', 200),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 200), ("W/" + head["ETag"], 200),
    ]:
        extra = lambda params, **_: params["headers"].update({"If-Range": condition})
        s3.meta.events.register("before-call.s3.GetObject", extra)
        got = s3.get_object(Bucket="suite", Key="ranges", Range="bytes=5-9")
        s3.meta.events.unregister("before-call.s3.GetObject", extra)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == status, condition
        assert got["Body"].read() == (body[5:10] if status == 206 else body), condition


def conditions():
    first = s3.put_object(Bucket="suite", Key="if", Body=b"1")["ETag"]
    modified = s3.head_object(Bucket="suite", Key="if")["LastModified"]
    fails("PreconditionFailed", 412, s3.put_object, Bucket="suite", Key="if", Body=b"2", IfNoneMatch="*")
    second = s3.put_object(Bucket="suite", Key="if", Body=b"2", IfMatch=first)["ETag"]
    fails("PreconditionFailed", 412, s3.put_object, Bucket="suite", Key="if", Body=b"3", IfMatch=first)
    fails("NoSuchKey", 404, s3.put_object, Bucket="suite", Key="not there", Body=b"3", IfMatch=first)
    fails("PreconditionFailed", 412, s3.get_object, Bucket="suite", Key="if", IfMatch=first)
    fails("304", 304, s3.get_object, Bucket="suite", Key="if", IfNoneMatch=second)
    fails("304", 304, s3.get_object, Bucket="suite", Key="if", IfModifiedSince=modified.replace(year=2099))
    fails("PreconditionFailed", 412, s3.get_object, Bucket="suite", Key="if", IfUnmodifiedSince=modified.replace(year=2001))
    assert s3.get_object(Bucket="suite", Key="if", IfMatch=second)["Body"].read() == b"2"


def one_winner():
    """If-None-Match: * has exactly one winner, and n increments by compare-and-swap come to n."""
    outcomes = []

    def create(n):
        try:
            s3.put_object(Bucket="suite", Key="race", Body=str(n).encode(), IfNoneMatch="*")
            outcomes.append(n)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"

    def increment():
        while True:
            got = s3.get_object(Bucket="suite", Key="counter")
            value = int(got["Body"].read())
            try:
                s3.put_object(Bucket="suite", Key="counter", Body=str(value + 1).encode(), IfMatch=got["ETag"])
                return
            except ClientError as error:
                assert error.response["Error"]["Code"] == "PreconditionFailed"

    s3.put_object(Bucket="suite", Key="counter", Body=b"0")
    threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
    threads += [threading.Thread(target=increment) for _ in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(outcomes) == 1, outcomes
    assert s3.get_object(Bucket="suite", Key="race")["Body"].read() == str(outcomes[0]).encode()
    assert s3.get_object(Bucket="suite", Key="counter")["Body"].read() == b"16"


def listing():
    keys = sorted(["a", "a-b", "a/b", "a/c/d", "a0", "z//x", "z/é", "z/日本"], key=str.encode)
    for key in keys:
        s3.put_object(Bucket="suite", Key=f"list/{key}", Body=b"")
    listed = s3.list_objects_v2(Bucket="suite", Prefix="list/")
    assert [entry["Key"] for entry in listed["Contents"]] == [f"list/{key}" for key in keys]
    assert listed["KeyCount"] == len(keys)
    top = s3.list_objects_v2(Bucket="suite", Prefix="list/", Delimiter="/")
    assert [entry["Prefix"] for entry in top["CommonPrefixes"]] == ["list/a/", "list/z/"]
    assert [entry["Key"] for entry in top["Contents"]] == ["list/a", "list/a-b", "list/a0"]
    for version in ["list_objects_v2", "list_objects"]:
        pages = s3.get_paginator(version).paginate(Bucket="suite", Prefix="list/", PaginationConfig={"PageSize": 2})
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == [f"list/{key}" for key in keys]
    after = s3.list_objects_v2(Bucket="suite", Prefix="list/", StartAfter="list/a/b")
    assert after["Contents"][0]["Key"] == "list/a/c/d"
    gone = s3.delete_objects(Bucket="suite", Delete={"Objects": [{"Key": f"list/{key}"} for key in keys + ["never"]]})
    assert len(gone["Deleted"]) == len(keys) + 1
    assert s3.list_objects_v2(Bucket="suite", Prefix="list/")["KeyCount"] == 0


def copies():
    body = os.urandom(3_000_000)
    s3.put_object(Bucket="suite", Key="source", Body=body, Metadata={"k": "v"}, ContentType="a/b")
    copied = s3.copy_object(Bucket="suite", Key="copy", CopySource="suite/source")
    assert copied["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket="suite", Key="copy")
    assert got["Body"].read() == body and got["Metadata"] == {"k": "v"} and got["ContentType"] == "a/b"
    s3.copy_object(Bucket="suite", Key="copy", CopySource="suite/source", MetadataDirective="REPLACE", Metadata={"n": "w"})
    assert s3.head_object(Bucket="suite", Key="copy")["Metadata"] == {"n": "w"}
    fails("InvalidRequest", 400, s3.copy_object, Bucket="suite", Key="source", CopySource="suite/source")
    fails("NoSuchKey", 404, s3.copy_object, Bucket="suite", Key="copy", CopySource="suite/missing")
    s3.delete_object(Bucket="suite", Key="source")
    assert s3.get_object(Bucket="suite", Key="copy")["Body"].read() == body


def multipart():
    parts = [os.urandom(5 << 20), os.urandom(5 << 20), b"the end"]
    upload = s3.create_multipart_upload(Bucket="suite", Key="parts", Metadata={"m": "p"})["UploadId"]
    where = {"Bucket": "suite", "Key": "parts", "UploadId": upload}
    done = []
    for number, part in enumerate(parts, 1):
        etag = s3.upload_part(PartNumber=number, Body=part, **where)["ETag"]
        assert etag == f'"{hashlib.md5(part).hexdigest()}"'
        done.append({"PartNumber": number, "ETag": etag})
    s3.upload_part(PartNumber=9, Body=b"not wanted", **where)
    listed = s3.list_parts(MaxParts=2, **where)
    assert [part["PartNumber"] for part in listed["Parts"]] == [1, 2] and listed["IsTruncated"]
    uploads = s3.list_multipart_uploads(Bucket="suite")["Uploads"]
    assert [(entry["Key"], entry["UploadId"]) for entry in uploads] == [("parts", upload)]
    fails("InvalidPart", 400, s3.complete_multipart_upload,
          MultipartUpload={"Parts": [{"PartNumber": 5, "ETag": done[0]["ETag"]}]}, **where)
    fails("InvalidPartOrder", 400, s3.complete_multipart_upload, MultipartUpload={"Parts": done[::-1]}, **where)
    fails("EntityTooSmall", 400, s3.complete_multipart_upload,
          MultipartUpload={"Parts": [done[2], {"PartNumber": 9, "ETag": f'"{hashlib.md5(b"not wanted").hexdigest()}"'}]}, **where)
    whole = s3.complete_multipart_upload(MultipartUpload={"Parts": done}, **where)
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    assert whole["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-3"'
    again = s3.complete_multipart_upload(MultipartUpload={"Parts": done}, **where)
    assert again["ETag"] == whole["ETag"], "a repeated completion answers the same"
    got = s3.get_object(Bucket="suite", Key="parts")
    assert got["Body"].read() == b"".join(parts) and got["Metadata"] == {"m": "p"}
    second = s3.get_object(Bucket="suite", Key="parts", PartNumber=2)
    assert second["Body"].read() == parts[1] and second["PartsCount"] == 3

    copy = s3.create_multipart_upload(Bucket="suite", Key="from parts")["UploadId"]
    where = {"Bucket": "suite", "Key": "from parts", "UploadId": copy}
    source = {"CopySource": "suite/parts", "CopySourceRange": f"bytes=1000-{(6 << 20) - 1}"}
    etag = s3.upload_part_copy(PartNumber=1, **source, **where)["CopyPartResult"]["ETag"]
    s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **where)
    assert s3.get_object(Bucket="suite", Key="from parts")["Body"].read() == b"".join(parts)[1000:6 << 20]

    gone = s3.create_multipart_upload(Bucket="suite", Key="aborted")["UploadId"]
    s3.abort_multipart_upload(Bucket="suite", Key="aborted", UploadId=gone)
    fails("NoSuchUpload", 404, s3.upload_part, Bucket="suite", Key="aborted", UploadId=gone, PartNumber=1, Body=b"")


def checksums():
    body = os.urandom(100_000)
    crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    sha = base64.b64encode(hashlib.sha256(body).digest()).decode()
    for algorithm, field, value in [("CRC32", "ChecksumCRC32", crc), ("SHA256", "ChecksumSHA256", sha)]:
        put = s3.put_object(Bucket="suite", Key="sums", Body=body, ChecksumAlgorithm=algorithm)
        assert put[field] == value
        got = s3.get_object(Bucket="suite", Key="sums", ChecksumMode="ENABLED")
        assert got["Body"].read() == body and got[field] == value
    s3.put_object(Bucket="suite", Key="sums", Body=body, ChecksumSHA1=base64.b64encode(hashlib.sha1(body).digest()).decode())
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    fails("BadDigest", 400, s3.put_object, Bucket="suite", Key="sums", Body=body, ChecksumSHA256=wrong)
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    fails("BadDigest", 400, s3.put_object, Bucket="suite", Key="sums", Body=body, ContentMD5=md5)
    fails("InvalidDigest", 400, s3.put_object, Bucket="suite", Key="sums", Body=body, ContentMD5="short")


def presigned():
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "suite", "Key": "signed"}, ExpiresIn=60)
    assert urllib.request.urlopen(urllib.request.Request(url, data=b"by URL", method="PUT")).status == 200
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "suite", "Key": "signed"}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"by URL"
    tampered = url[:-2] + ("00" if url[-2:] != "00" else "11")
    week = s3.generate_presigned_url("get_object", Params={"Bucket": "suite", "Key": "signed"}, ExpiresIn=604801)
    unsigned = urllib.request.Request(url, headers={"x-amz-meta-added": "by somebody"})
    for bad in [tampered, week, unsigned, url.split("?")[0]]:
        try:
            urllib.request.urlopen(bad)
        except urllib.error.HTTPError as error:
            assert error.code in (400, 403), error.code
        else:
            raise AssertionError(f"{bad} was let in")


def impostor():
    other = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access,
                         aws_secret_access_key="wrong" + secret, config=config)
    fails("SignatureDoesNotMatch", 403, other.list_buckets)
    other = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="nobody",
                         aws_secret_access_key=secret, config=config)
    fails("InvalidAccessKeyId", 403, other.list_buckets)


def cleaning_up():
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="suite"):
        s3.delete_objects(Bucket="suite", Delete={"Objects": [{"Key": entry["Key"]} for entry in page["Contents"]]})
    s3.delete_bucket(Bucket="suite")
    fails("404", 404, s3.head_bucket, Bucket="suite")


failed = 0
for check in [buckets, objects, ranges, conditions, one_winner, listing, copies, multipart, checksums, presigned, impostor, cleaning_up]:
    try:
        check()
        print(f"{check.__name__}: ok")
    except Exception as error:  # every check is run, whatever the others did
        failed += 1
        import traceback
        traceback.print_exc(limit=3)
        print(f"{check.__name__}: FAILED: {error}")
sys.exit(1 if failed else 0)
