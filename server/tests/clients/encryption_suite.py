"""Server-side encryption of S3 through boto3. Exits with 0 where every expectation holds; the keys "ledger" and "archive" exist."""

import base64
import hashlib
import os

from expectations import fails
from suite import alice, bob, nobody, read, run

MARKER = b"the plain text of a secret ledger\n"
PART = 5 << 20


def customer(seed, prefix="SSECustomer"):
    key = hashlib.sha256(seed).digest()
    return {
        f"{prefix}Algorithm": "AES256",
        f"{prefix}Key": base64.b64encode(key).decode(),
        f"{prefix}KeyMD5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


def bodies():
    """Of each way in which bodies are kept: none, inline, in shared packs, in packs of their own."""
    for size in (0, 1, 1000, 5000, 300_000, 1 << 20, (3 << 20) + 17):
        yield (MARKER * (size // len(MARKER) + 1))[: size // 2] + os.urandom(size - size // 2)


def customers_keys():
    bucket, mine, other = "customers-keys", customer(b"mine"), customer(b"other")
    alice.create_bucket(Bucket=bucket)
    for body in bodies():
        put = alice.put_object(Bucket=bucket, Key="k", Body=body, **mine)
        assert put["SSECustomerAlgorithm"] == "AES256" and put["SSECustomerKeyMD5"] == mine["SSECustomerKeyMD5"]
        assert read(alice, bucket, "k", **mine) == body
        if len(body) > 100:
            for first, last in ((0, 0), (7, 70), (len(body) // 2, len(body) - 1)):
                part = read(alice, bucket, "k", Range=f"bytes={first}-{last}", **mine)
                assert part == body[first : last + 1]
    head = alice.head_object(Bucket=bucket, Key="k", **mine)
    assert head["ContentLength"] == len(body) and head["SSECustomerKeyMD5"] == mine["SSECustomerKeyMD5"]
    assert alice.list_objects_v2(Bucket=bucket)["Contents"][0]["Size"] == len(body)
    fails("InvalidRequest", 400, alice.get_object, Bucket=bucket, Key="k")
    fails("InvalidRequest", 400, alice.get_object, Bucket=bucket, Key="k", **other)
    fails("400", 400, alice.head_object, Bucket=bucket, Key="k")
    fails("InvalidRequest", 400, alice.get_object_attributes, Bucket=bucket, Key="k", ObjectAttributes=["Checksum"])
    wrong = mine | {"SSECustomerKeyMD5": other["SSECustomerKeyMD5"]}
    fails("InvalidArgument", 400, alice.put_object, Bucket=bucket, Key="k", Body=b"", **wrong)
    both = mine | {"ServerSideEncryption": "AES256"}
    fails("InvalidArgument", 400, alice.put_object, Bucket=bucket, Key="k", Body=b"", **both)
    alice.put_object(Bucket=bucket, Key="plain", Body=b"plain")
    fails("InvalidRequest", 400, alice.get_object, Bucket=bucket, Key="plain", **mine)
    # Copies: under another key, in the clear, and with the same key.
    source = {"Bucket": bucket, "Key": "k"}
    fails("InvalidRequest", 400, alice.copy_object, Bucket=bucket, Key="c", CopySource=source)
    opened = customer(b"mine", "CopySourceSSECustomer")
    for target in (other, {}, mine, {"ServerSideEncryption": "AES256"}):
        alice.copy_object(Bucket=bucket, Key="c", CopySource=source, **opened, **target)
        keys = target if "SSECustomerKey" in target else {}
        assert read(alice, bucket, "c", **keys) == body
    fails("InvalidRequest", 400, alice.get_object, Bucket=bucket, Key="c", **mine)


def uploads():
    bucket, mine, other = "sealed-uploads", customer(b"mine"), customer(b"other")
    alice.create_bucket(Bucket=bucket)
    for kind in (mine, {"ServerSideEncryption": "AES256"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "ledger"}):
        of_part = kind if kind is mine else {}
        parts = [MARKER * (PART // len(MARKER) + 1), os.urandom(PART), b"the end"]
        made = alice.create_multipart_upload(Bucket=bucket, Key="k", **kind)
        upload = {"Bucket": bucket, "Key": "k", "UploadId": made["UploadId"]}
        if kind is mine:
            fails("InvalidRequest", 400, alice.upload_part, PartNumber=1, Body=b"x", **upload)
            fails("InvalidRequest", 400, alice.upload_part, PartNumber=1, Body=b"x", **upload, **other)
        named = []
        for number, body in enumerate(parts, 1):
            sent = alice.upload_part(PartNumber=number, Body=body, **upload, **of_part)
            named.append({"PartNumber": number, "ETag": sent["ETag"]})
        alice.put_object(Bucket=bucket, Key="source", Body=b"s" * 100)
        copied = alice.upload_part_copy(PartNumber=4, CopySource=f"{bucket}/source", **upload, **of_part)
        named[2] = named[2] | {"PartNumber": 3}
        done = alice.complete_multipart_upload(MultipartUpload={"Parts": named}, **upload, **of_part)
        whole = b"".join(parts)
        assert read(alice, bucket, "k", **of_part) == whole and copied["CopyPartResult"]["ETag"]
        assert read(alice, bucket, "k", Range=f"bytes={PART - 9}-{PART + 99}", **of_part) == whole[PART - 9 : PART + 100]
        assert read(alice, bucket, "k", PartNumber=3, **of_part) == b"the end"
        if kind is not mine:
            assert done["ServerSideEncryption"] == kind["ServerSideEncryption"]
            assert alice.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == kind["ServerSideEncryption"]


def kept_keys():
    bucket = "kept-keys"
    alice.create_bucket(Bucket=bucket)
    fails("ServerSideEncryptionConfigurationNotFoundError", 404, alice.get_bucket_encryption, Bucket=bucket)
    for body in bodies():
        put = alice.put_object(Bucket=bucket, Key="s3", Body=body, ServerSideEncryption="AES256")
        assert put["ServerSideEncryption"] == "AES256" and read(alice, bucket, "s3") == body
        put = alice.put_object(Bucket=bucket, Key="kms", Body=body, ServerSideEncryption="aws:kms", SSEKMSKeyId="ledger")
        assert put["SSEKMSKeyId"] == "ledger" and read(alice, bucket, "kms") == body
    fails("KMS.NotFoundException", 400, alice.put_object, Bucket=bucket, Key="k", ServerSideEncryption="aws:kms", SSEKMSKeyId="none")
    fails("KMS.NotFoundException", 400, alice.put_object, Bucket=bucket, Key="k", ServerSideEncryption="aws:kms", SSEKMSKeyId="holdfast/s3")
    fails("InvalidArgument", 400, alice.put_object, Bucket=bucket, Key="k", SSEKMSKeyId="ledger")
    fails("InvalidArgument", 400, alice.put_object, Bucket=bucket, Key="k", ServerSideEncryption="ROT13")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "archive"}}
    alice.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    kept = alice.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert kept["ApplyServerSideEncryptionByDefault"] == rule["ApplyServerSideEncryptionByDefault"]
    alice.put_object(Bucket=bucket, Key="by-default", Body=MARKER)
    head = alice.head_object(Bucket=bucket, Key="by-default")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "archive")
    alice.put_object(Bucket=bucket, Key="by-choice", Body=MARKER, ServerSideEncryption="AES256")
    assert alice.head_object(Bucket=bucket, Key="by-choice")["ServerSideEncryption"] == "AES256"
    # Whoever may read the object may have it opened, but nobody at all is not somebody.
    for key in ("by-default", "by-choice"):
        alice.put_object_acl(Bucket=bucket, Key=key, ACL="public-read")
        assert read(bob, bucket, key) == MARKER
    assert read(nobody, bucket, "by-choice") == MARKER
    fails("AccessDenied", 403, nobody.get_object, Bucket=bucket, Key="by-default")
    alice.delete_bucket_encryption(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="plain", Body=b"x")
    assert "ServerSideEncryption" not in alice.head_object(Bucket=bucket, Key="plain")


run(customers_keys, uploads, kept_keys)
