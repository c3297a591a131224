"""Versions, locks, tags and access control of S3 through boto3. Exits with 0 where every expectation holds."""

import datetime
import json
import threading
import time
import urllib.error
import urllib.request

from botocore.exceptions import ClientError
from expectations import fails
from suite import alice, bob, endpoint, nobody, owner, read, run

LATER = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
MUCH_LATER = LATER + datetime.timedelta(days=1)


def versions():
    bucket = "versions"
    alice.create_bucket(Bucket=bucket)
    assert "Status" not in alice.get_bucket_versioning(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="k", Body=b"null")
    alice.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert alice.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    one = alice.put_object(Bucket=bucket, Key="k", Body=b"one")["VersionId"]
    two = alice.put_object(Bucket=bucket, Key="k", Body=b"two " * 1000)["VersionId"]
    assert read(alice, bucket, "k") == b"two " * 1000
    assert read(alice, bucket, "k", VersionId=one) == b"one"
    assert read(alice, bucket, "k", VersionId="null") == b"null"
    assert alice.head_object(Bucket=bucket, Key="k", VersionId=one)["VersionId"] == one
    fails("NoSuchVersion", 404, alice.get_object, Bucket=bucket, Key="k", VersionId="f" * 16)
    fails("InvalidArgument", 400, alice.get_object, Bucket=bucket, Key="k", VersionId="nonsense")
    gone = alice.delete_object(Bucket=bucket, Key="k")
    assert gone["DeleteMarker"] is True
    marker = gone["VersionId"]
    missing = fails("NoSuchKey", 404, alice.get_object, Bucket=bucket, Key="k")
    assert missing["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    fails("MethodNotAllowed", 405, alice.get_object, Bucket=bucket, Key="k", VersionId=marker)
    assert alice.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    listed = alice.list_object_versions(Bucket=bucket)
    assert [version["VersionId"] for version in listed["Versions"]] == [two, one, "null"]
    assert [(m["VersionId"], m["IsLatest"]) for m in listed["DeleteMarkers"]] == [(marker, True)]
    # Page by page.
    seen, more = [], {}
    while True:
        page = alice.list_object_versions(Bucket=bucket, MaxKeys=1, **more)
        seen += [v["VersionId"] for v in page.get("Versions", []) + page.get("DeleteMarkers", [])]
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    assert seen == [marker, two, one, "null"], seen
    assert alice.delete_object(Bucket=bucket, Key="k", VersionId=marker)["DeleteMarker"] is True
    assert read(alice, bucket, "k") == b"two " * 1000
    alice.delete_object(Bucket=bucket, Key="k", VersionId=two)
    assert read(alice, bucket, "k") == b"one"
    # A version as a copy's source.
    copied = alice.copy_object(
        Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k", "VersionId": "null"}
    )
    assert copied["CopySourceVersionId"] == "null" and read(alice, bucket, "copy") == b"null"
    alice.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert "VersionId" not in alice.put_object(Bucket=bucket, Key="k", Body=b"new null")
    listed = alice.list_object_versions(Bucket=bucket, Prefix="k")
    assert [version["VersionId"] for version in listed["Versions"]] == ["null", one]
    assert alice.delete_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    assert [v["VersionId"] for v in alice.list_object_versions(Bucket=bucket, Prefix="k")["Versions"]] == [one]
    fails("BucketNotEmpty", 409, alice.delete_bucket, Bucket=bucket)
    upload = alice.create_multipart_upload(Bucket=bucket, Key="unfinished")["UploadId"]
    page = alice.list_object_versions(Bucket=bucket)
    all_of_it = page.get("Versions", []) + page.get("DeleteMarkers", [])
    deleted = alice.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": v["Key"], "VersionId": v["VersionId"]} for v in all_of_it]}
    )
    assert "Errors" not in deleted and len(deleted["Deleted"]) == len(all_of_it), deleted
    alice.delete_bucket(Bucket=bucket)
    fails("NoSuchBucket", 404, alice.abort_multipart_upload, Bucket=bucket, Key="unfinished", UploadId=upload)


def conditions():
    bucket = "conditions"
    alice.create_bucket(Bucket=bucket)
    etag = alice.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    fails("PreconditionFailed", 412, alice.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    fails("PreconditionFailed", 412, alice.delete_object, Bucket=bucket, Key="k", IfMatch='"' + "0" * 32 + '"')
    fails("PreconditionFailed", 412, alice.delete_object, Bucket=bucket, Key="k", IfMatchSize=7)
    fails("NoSuchKey", 404, alice.put_object, Bucket=bucket, Key="absent", Body=b"2", IfMatch=etag)
    alice.delete_object(Bucket=bucket, Key="k", IfMatch=etag, IfMatchSize=1)
    for versioned in (False, True):
        if versioned:
            alice.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        key, winners = f"race-{versioned}", []

        def race(at):
            try:
                alice.put_object(Bucket=bucket, Key=key, Body=str(at).encode(), IfNoneMatch="*")
                winners.append(at)
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)

        threads = [threading.Thread(target=race, args=(at,)) for at in range(12)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(winners) == 1 and read(alice, bucket, key) == str(winners[0]).encode(), winners


def locks():
    bucket = "locks"
    plain = "unlocked"
    alice.create_bucket(Bucket=plain)
    fails("ObjectLockConfigurationNotFoundError", 404, alice.get_object_lock_configuration, Bucket=plain)
    alice.put_object(Bucket=plain, Key="k", Body=b"x")
    fails(
        "InvalidRequest", 400, alice.put_object_retention, Bucket=plain, Key="k",
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": LATER},
    )
    alice.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    assert alice.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    fails(
        "InvalidBucketState", 409, alice.put_bucket_versioning, Bucket=bucket,
        VersioningConfiguration={"Status": "Suspended"},
    )
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    config = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    alice.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=config)
    assert alice.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"] == config
    version = alice.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    assert alice.get_object_retention(Bucket=bucket, Key="k")["Retention"]["Mode"] == "GOVERNANCE"
    assert alice.head_object(Bucket=bucket, Key="k")["ObjectLockMode"] == "GOVERNANCE"
    fails("AccessDenied", 403, alice.delete_object, Bucket=bucket, Key="k", VersionId=version)
    alice.delete_object(Bucket=bucket, Key="k", VersionId=version, BypassGovernanceRetention=True)
    version = alice.put_object(
        Bucket=bucket, Key="k", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=LATER
    )["VersionId"]
    for bypass in (False, True):
        fails(
            "AccessDenied", 403, alice.delete_object, Bucket=bucket, Key="k", VersionId=version,
            BypassGovernanceRetention=bypass,
        )
        fails(
            "AccessDenied", 403, owner.put_object_retention, Bucket=bucket, Key="k", VersionId=version,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": MUCH_LATER}, BypassGovernanceRetention=bypass,
        )
    alice.put_object_retention(
        Bucket=bucket, Key="k", VersionId=version, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": MUCH_LATER}
    )
    held = alice.put_object(Bucket=bucket, Key="held", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    assert alice.get_object_legal_hold(Bucket=bucket, Key="held")["LegalHold"]["Status"] == "ON"
    fails(
        "AccessDenied", 403, owner.delete_object, Bucket=bucket, Key="held", VersionId=held,
        BypassGovernanceRetention=True,
    )
    result = alice.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": version}, {"Key": "held", "VersionId": held}]}
    )
    assert [error["Code"] for error in result["Errors"]] == ["AccessDenied"] * 2, result


def tags():
    bucket = "tags"
    alice.create_bucket(Bucket=bucket)
    fails("NoSuchTagSet", 404, alice.get_bucket_tagging, Bucket=bucket)
    wanted = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]
    alice.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": wanted})
    assert alice.get_bucket_tagging(Bucket=bucket)["TagSet"] == wanted
    alice.delete_bucket_tagging(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b=")
    assert alice.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == wanted
    assert alice.get_object(Bucket=bucket, Key="k")["TagCount"] == 2
    alice.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    assert alice.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == wanted
    alice.copy_object(
        Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", TaggingDirective="REPLACE", Tagging="c=3",
        MetadataDirective="REPLACE",
    )
    assert alice.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == [{"Key": "c", "Value": "3"}]
    many = [{"Key": str(at), "Value": "x"} for at in range(11)]
    fails("InvalidTag", 400, alice.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": many})
    long = [{"Key": "k" * 129, "Value": "x"}]
    fails("InvalidTag", 400, alice.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": long})
    alice.delete_object_tagging(Bucket=bucket, Key="k")
    assert alice.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


def strangers():
    bucket = "alices"
    alice.create_bucket(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="k", Body=b"secret")
    assert [b["Name"] for b in bob.list_buckets()["Buckets"]] == []
    assert bucket in [b["Name"] for b in alice.list_buckets()["Buckets"]]
    fails("BucketAlreadyExists", 409, bob.create_bucket, Bucket=bucket)
    for who in (bob, nobody):
        fails("AccessDenied", 403, who.get_object, Bucket=bucket, Key="k")
        fails("AccessDenied", 403, who.get_object, Bucket=bucket, Key="absent")
        fails("AccessDenied", 403, who.put_object, Bucket=bucket, Key="k", Body=b"x")
        fails("AccessDenied", 403, who.delete_object, Bucket=bucket, Key="k")
        fails("AccessDenied", 403, who.list_objects_v2, Bucket=bucket)
        fails("AccessDenied", 403, who.list_object_versions, Bucket=bucket)
        fails("AccessDenied", 403, who.get_bucket_policy, Bucket=bucket)
        fails("AccessDenied", 403, who.put_bucket_acl, Bucket=bucket, ACL="public-read")
        fails("AccessDenied", 403, who.delete_bucket, Bucket=bucket)
    result = bob.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]})
    assert [error["Code"] for error in result["Errors"]] == ["AccessDenied"], result
    assert read(alice, bucket, "k") == b"secret"
    bob.create_bucket(Bucket="bobs")
    fails("AccessDenied", 403, bob.copy_object, Bucket="bobs", Key="stolen", CopySource=f"{bucket}/k")
    upload = bob.create_multipart_upload(Bucket="bobs", Key="stolen")["UploadId"]
    fails(
        "AccessDenied", 403, bob.upload_part_copy, Bucket="bobs", Key="stolen", UploadId=upload, PartNumber=1,
        CopySource=f"{bucket}/k",
    )
    assert read(owner, bucket, "k") == b"secret", "the system's owner may"


def lists_of_grants():
    bucket = "grants"
    alice.create_bucket(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="k", Body=b"x")
    shown = alice.get_object_acl(Bucket=bucket, Key="k")
    assert shown["Owner"]["ID"] == "alice" and len(shown["Grants"]) == 1
    alice.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
    assert read(nobody, bucket, "k") == b"x"
    fails("AccessDenied", 403, nobody.list_objects_v2, Bucket=bucket)
    alice.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert nobody.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    fails("NoSuchKey", 404, nobody.get_object, Bucket=bucket, Key="absent")
    alice.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    bob.put_object(Bucket=bucket, Key="bobs", Body=b"bob")
    assert bob.get_object_acl(Bucket=bucket, Key="bobs")["Owner"]["ID"] == "bob"
    fails("AccessDenied", 403, alice.get_object, Bucket=bucket, Key="bobs")
    bob.put_object(Bucket=bucket, Key="bobs", Body=b"bob", ACL="bucket-owner-full-control")
    assert read(alice, bucket, "bobs") == b"bob"
    alice.put_bucket_acl(Bucket=bucket, ACL="private")
    alice.put_bucket_acl(Bucket=bucket, GrantRead="id=bob", GrantFullControl="id=alice")
    bob.list_objects_v2(Bucket=bucket)
    alice.put_object_acl(Bucket=bucket, Key="k", GrantRead='emailAddress="bob@example.org"')
    assert read(bob, bucket, "k") == b"x"
    fails("AccessDenied", 403, nobody.get_object, Bucket=bucket, Key="k")
    fails(
        "UnresolvableGrantByEmailAddress", 400, alice.put_object_acl, Bucket=bucket, Key="k",
        GrantRead="emailAddress=who@example.org",
    )
    fails("InvalidArgument", 400, alice.put_object_acl, Bucket=bucket, Key="k", GrantRead="id=who")
    policy = alice.get_object_acl(Bucket=bucket, Key="k")
    group = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"}
    grants = [{"Grantee": group, "Permission": "READ"}]
    alice.put_object_acl(Bucket=bucket, Key="k", AccessControlPolicy={"Owner": policy["Owner"], "Grants": grants})
    assert read(bob, bucket, "k") == b"x"
    fails("AccessDenied", 403, nobody.get_object, Bucket=bucket, Key="k")
    # What may not be public, is not.
    alice.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
    block = {
        "BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": False,
    }
    alice.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert alice.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == block
    fails("AccessDenied", 403, nobody.get_object, Bucket=bucket, Key="k")
    fails("AccessDenied", 403, alice.put_object_acl, Bucket=bucket, Key="k", ACL="public-read")
    fails("AccessDenied", 403, alice.put_object, Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    public = statement("Allow", "*", "s3:GetObject", f"arn:aws:s3:::{bucket}/*")
    fails("AccessDenied", 403, alice.put_bucket_policy, Bucket=bucket, Policy=document(public))
    alice.delete_public_access_block(Bucket=bucket)
    assert read(nobody, bucket, "k") == b"x"
    fails(
        "InvalidBucketAclWithObjectOwnership", 400, alice.create_bucket, Bucket="enforced",
        ObjectOwnership="BucketOwnerEnforced", ACL="public-read",
    )
    alice.create_bucket(Bucket="enforced", ObjectOwnership="BucketOwnerEnforced")
    fails("AccessControlListNotSupported", 400, alice.put_bucket_acl, Bucket="enforced", ACL="public-read")
    fails("AccessControlListNotSupported", 400, alice.put_object, Bucket="enforced", Key="k", ACL="public-read")
    alice.put_object(Bucket="enforced", Key="k", ACL="bucket-owner-full-control")


def statement(effect, principal, action, resource, **condition):
    made = {"Effect": effect, "Principal": principal, "Action": action, "Resource": resource}
    return made | ({"Condition": condition} if condition else {})


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def policies():
    bucket = "policies"
    arn = f"arn:aws:s3:::{bucket}"
    alice.create_bucket(Bucket=bucket)
    fails("NoSuchBucketPolicy", 404, alice.get_bucket_policy, Bucket=bucket)
    for key in ("public/a", "private/b"):
        alice.put_object(Bucket=bucket, Key=key, Body=key.encode(), Tagging=f"security={key.split('/')[0]}")
    to_bob = {"AWS": "arn:aws:iam:::user/bob"}
    text = document(
        statement("Allow", "*", "s3:GetObject", f"{arn}/public/*"),
        statement("Allow", to_bob, ["s3:ListBucket"], arn, StringLike={"s3:prefix": "public/*"}),
        statement("Allow", to_bob, "s3:PutObject", f"{arn}/inbox/*"),
        statement("Deny", "*", "s3:PutObject", f"{arn}/inbox/locked*"),
    )
    alice.put_bucket_policy(Bucket=bucket, Policy=text)
    assert json.loads(alice.get_bucket_policy(Bucket=bucket)["Policy"]) == json.loads(text)
    assert alice.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    assert read(nobody, bucket, "public/a") == b"public/a"
    fails("AccessDenied", 403, nobody.get_object, Bucket=bucket, Key="private/b")
    assert bob.list_objects_v2(Bucket=bucket, Prefix="public/")["KeyCount"] == 1
    fails("AccessDenied", 403, bob.list_objects_v2, Bucket=bucket)
    fails("AccessDenied", 403, bob.list_objects_v2, Bucket=bucket, Prefix="private/")
    bob.put_object(Bucket=bucket, Key="inbox/x", Body=b"x")
    fails("AccessDenied", 403, bob.put_object, Bucket=bucket, Key="inbox/locked", Body=b"x")
    fails("AccessDenied", 403, alice.put_object, Bucket=bucket, Key="inbox/locked", Body=b"x")
    fails("AccessDenied", 403, bob.delete_object, Bucket=bucket, Key="inbox/x")
    fails("MalformedPolicy", 400, alice.put_bucket_policy, Bucket=bucket, Policy="{}")
    fails("MalformedPolicy", 400, alice.put_bucket_policy, Bucket=bucket, Policy="not JSON")
    # By the tags that an object has.
    alice.put_bucket_policy(
        Bucket=bucket,
        Policy=document(
            statement(
                "Allow", to_bob, "s3:GetObject", f"{arn}/*",
                StringEquals={"s3:ExistingObjectTag/security": "private"},
            )
        ),
    )
    assert read(bob, bucket, "private/b") == b"private/b"
    fails("AccessDenied", 403, bob.get_object, Bucket=bucket, Key="public/a")
    # By where the request comes from; a header changes nothing about that.
    fails(
        "MalformedPolicy", 400, alice.put_bucket_policy, Bucket=bucket,
        Policy=json.dumps({"Statement": {
            "Effect": "Allow", "NotPrincipal": {"AWS": "*"}, "Action": "s3:GetObject", "Resource": f"{arn}/*",
        }}),
    )
    for address, let_in in (("127.0.0.0/8", True), ("10.0.0.0/8", False)):
        condition = {"IpAddress": {"aws:SourceIp": address}}
        made = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"{arn}/*"}
        alice.put_bucket_policy(Bucket=bucket, Policy=document(made | {"Condition": condition}))
        url = f"{endpoint}/{bucket}/public/a"
        asked = urllib.request.Request(url, headers={"X-Forwarded-For": "10.0.0.1", "X-Real-IP": "10.0.0.1"})
        try:
            status = urllib.request.urlopen(asked).status
        except urllib.error.HTTPError as error:
            status = error.code
        assert (status == 200) == let_in, (address, status)
    # The owner can always mend what shut everybody out.
    alice.put_bucket_policy(Bucket=bucket, Policy=document(statement("Deny", "*", "s3:*", [arn, f"{arn}/*"])))
    fails("AccessDenied", 403, alice.get_object, Bucket=bucket, Key="public/a")
    fails("AccessDenied", 403, owner.get_object, Bucket=bucket, Key="public/a")
    fails("AccessDenied", 403, bob.delete_bucket_policy, Bucket=bucket)
    alice.delete_bucket_policy(Bucket=bucket)
    assert read(alice, bucket, "public/a") == b"public/a"


def demands():
    """Where more than one permission, or another one than comes first to mind, is asked for."""
    bucket = "demands"
    arn = f"arn:aws:s3:::{bucket}"
    alice.create_bucket(Bucket=bucket, ACL="public-read-write")
    alice.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = alice.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")["VersionId"]
    for who in (bob, nobody):
        fails("AccessDenied", 403, who.delete_object, Bucket=bucket, Key="k", VersionId=version)
        result = who.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": version}]})
        assert [error["Code"] for error in result["Errors"]] == ["AccessDenied"], result
    assert read(alice, bucket, "k") == b"x"
    alice.put_bucket_acl(Bucket=bucket, ACL="private")
    to_bob = {"AWS": "arn:aws:iam:::user/bob"}
    alice.put_bucket_policy(
        Bucket=bucket,
        Policy=document(statement("Allow", to_bob, ["s3:DeleteObject", "s3:GetObject"], f"{arn}/*")),
    )
    # A copy takes tags along only if they may be read.
    fails("AccessDenied", 403, bob.copy_object, Bucket="bobs", Key="c", CopySource=f"{bucket}/k")
    bob.copy_object(
        Bucket="bobs", Key="c", CopySource=f"{bucket}/k", TaggingDirective="REPLACE", Tagging="mine=1"
    )
    # Many deletes are each allowed as one is.
    result = bob.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "other"}]})
    assert len(result["Deleted"]) == 2 and "Errors" not in result, result
    # Which tags there may be.
    alice.put_object(Bucket=bucket, Key="t", Body=b"x")
    alice.put_bucket_policy(
        Bucket=bucket,
        Policy=document(
            statement(
                "Deny", "*", "s3:PutObjectTagging", f"{arn}/*",
                StringEquals={"s3:RequestObjectTag/security": "public"},
            )
        ),
    )
    public = {"TagSet": [{"Key": "security", "Value": "public"}]}
    fails("AccessDenied", 403, alice.put_object_tagging, Bucket=bucket, Key="t", Tagging=public)
    fails("AccessDenied", 403, alice.put_object, Bucket=bucket, Key="t", Tagging="security=public")
    alice.put_object_tagging(Bucket=bucket, Key="t", Tagging={"TagSet": [{"Key": "security", "Value": "none"}]})
    # Whose bucket it is meant to be.
    fails("AccessDenied", 403, alice.list_objects_v2, Bucket=bucket, ExpectedBucketOwner="bob")
    alice.list_objects_v2(Bucket=bucket, ExpectedBucketOwner="alice")
    fails(
        "AccessDenied", 403, alice.copy_object, Bucket=bucket, Key="c", CopySource=f"{bucket}/t",
        ExpectedSourceBucketOwner="bob",
    )
    # A lock on what is another's bucket is that one's to allow.
    alice.create_bucket(Bucket="lockable", ObjectLockEnabledForBucket=True, ACL="public-read-write")
    fails(
        "AccessDenied", 403, bob.put_object, Bucket="lockable", Key="k", ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=LATER,
    )


def eventually(what, check):
    until = time.monotonic() + 60
    while not check():
        assert time.monotonic() < until, f"{what} does not come about"
        time.sleep(0.1)


def lifecycles():
    """A day has a second here."""
    bucket = "lifecycles"
    alice.create_bucket(Bucket=bucket)
    alice.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    fails("NoSuchLifecycleConfiguration", 404, alice.get_bucket_lifecycle_configuration, Bucket=bucket)

    def rule(name, prefix, **actions):
        return {"ID": name, "Status": "Enabled", "Filter": {"Prefix": prefix}} | actions

    def put(*rules):
        alice.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})

    rules = [
        rule("expire", "old/", Expiration={"Days": 1}),
        rule("noncurrent", "many/", NoncurrentVersionExpiration={"NoncurrentDays": 1, "NewerNoncurrentVersions": 1}),
        rule("markers", "gone/", Expiration={"ExpiredObjectDeleteMarker": True}),
        rule("uploads", "", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}),
        rule("never", "never/", Expiration={"Days": 100_000}) | {"Status": "Disabled"},
    ]
    alice.put_object(Bucket=bucket, Key="old/a", Body=b"x")
    alice.put_object(Bucket=bucket, Key="new/a", Body=b"x")
    names = [alice.put_object(Bucket=bucket, Key="many/a", Body=str(at).encode())["VersionId"] for at in range(4)]
    marked = alice.put_object(Bucket=bucket, Key="gone/a", Body=b"x")["VersionId"]
    alice.delete_object(Bucket=bucket, Key="gone/a")
    alice.delete_object(Bucket=bucket, Key="gone/a", VersionId=marked)
    alice.create_multipart_upload(Bucket=bucket, Key="unfinished")
    put(*rules)
    kept = alice.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [one["ID"] for one in kept] == [one["ID"] for one in rules]
    told = alice.head_object(Bucket=bucket, Key="many/a")
    assert "Expiration" not in told

    def versions_of(prefix):
        page = alice.list_object_versions(Bucket=bucket, Prefix=prefix)
        return [v["VersionId"] for v in page.get("Versions", [])], len(page.get("DeleteMarkers", []))

    eventually("an object expires", lambda: "Contents" not in alice.list_objects_v2(Bucket=bucket, Prefix="old/"))
    assert len(versions_of("old/")[0]) == 1, "behind a marker"
    eventually("old versions go", lambda: versions_of("many/") == ([names[3], names[2]], 0))
    eventually("a marker goes", lambda: versions_of("gone/") == ([], 0))
    eventually("uploads go", lambda: "Uploads" not in alice.list_multipart_uploads(Bucket=bucket))
    assert alice.list_objects_v2(Bucket=bucket, Prefix="new/")["KeyCount"] == 1
    put(rule("later", "new/", Expiration={"Days": 1000}))
    told = alice.head_object(Bucket=bucket, Key="new/a")["Expiration"]
    assert told.startswith('expiry-date="') and told.endswith('rule-id="later"'), told
    for wrong in (
        rule("a", "", Expiration={"Days": 0}),
        rule("a" * 256, "", Expiration={"Days": 1}),
        rule("a", ""),
        rule("a", "", Expiration={"Days": 1}) | {"Status": "On"},
    ):
        try:
            put(wrong)
            raise AssertionError(f"{wrong} is taken")
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    alice.delete_bucket_lifecycle(Bucket=bucket)
    # No rule goes around a lock.
    alice.create_bucket(Bucket="kept", ObjectLockEnabledForBucket=True)
    version = alice.put_object(
        Bucket="kept", Key="k", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=LATER
    )["VersionId"]
    alice.put_object(Bucket="kept", Key="k")
    alice.put_object(Bucket="kept", Key="free")
    alice.put_object(Bucket="kept", Key="free")
    noncurrent = rule("noncurrent", "", NoncurrentVersionExpiration={"NoncurrentDays": 1})
    alice.put_bucket_lifecycle_configuration(Bucket="kept", LifecycleConfiguration={"Rules": [noncurrent]})

    def of(key):
        return [v["VersionId"] for v in alice.list_object_versions(Bucket="kept", Prefix=key)["Versions"]]

    eventually("what is not locked goes", lambda: len(of("free")) == 1)
    assert version in of("k")


def attributes():
    bucket = "attributes"
    alice.create_bucket(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="k", Body=b"12345", ChecksumAlgorithm="SHA256", StorageClass="STANDARD_IA")
    found = alice.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "Checksum", "ObjectSize", "StorageClass", "ObjectParts"]
    )
    assert (found["ObjectSize"], found["StorageClass"]) == (5, "STANDARD_IA") and "ChecksumSHA256" in found["Checksum"]
    assert "ObjectParts" not in found
    upload = alice.create_multipart_upload(Bucket=bucket, Key="m", ChecksumAlgorithm="CRC32", Tagging="a=b")["UploadId"]
    parts = []
    for number, size in ((1, 5 << 20), (2, 100)):
        part = alice.upload_part(
            Bucket=bucket, Key="m", UploadId=upload, PartNumber=number, Body=b"x" * size, ChecksumAlgorithm="CRC32"
        )
        parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumCRC32": part["ChecksumCRC32"]})
    alice.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    found = alice.get_object_attributes(Bucket=bucket, Key="m", ObjectAttributes=["ObjectParts"], MaxParts=1)
    shown = found["ObjectParts"]
    assert (shown["TotalPartsCount"], shown["IsTruncated"], shown["Parts"][0]["Size"]) == (2, True, 5 << 20)
    assert alice.get_object_tagging(Bucket=bucket, Key="m")["TagSet"] == [{"Key": "a", "Value": "b"}]
    overridden = alice.get_object(Bucket=bucket, Key="k", ResponseContentType="a/b", ResponseCacheControl="no")
    assert (overridden["ContentType"], overridden["CacheControl"]) == ("a/b", "no")
    alice.put_object(Bucket=bucket, Key="r", WebsiteRedirectLocation="/there")
    assert alice.head_object(Bucket=bucket, Key="r")["WebsiteRedirectLocation"] == "/there"
    fails("InvalidStorageClass", 400, alice.put_object, Bucket=bucket, Key="k", StorageClass="PAPER")


def send(method, url, headers, body=None):
    asked = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        answer = urllib.request.urlopen(asked)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def origins():
    bucket = "origins"
    alice.create_bucket(Bucket=bucket)
    alice.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    url = f"{endpoint}/{bucket}/k"
    fails("NoSuchCORSConfiguration", 404, alice.get_bucket_cors, Bucket=bucket)
    asking = {"Origin": "https://a.example.org", "Access-Control-Request-Method": "GET"}
    assert send("OPTIONS", url, asking)[0] == 403
    rules = [
        {
            "AllowedOrigins": ["https://*.example.org"], "AllowedMethods": ["GET", "PUT"],
            "AllowedHeaders": ["x-amz-*"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 60,
        }
    ]
    alice.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    assert alice.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    status, headers, _ = send("OPTIONS", url, asking | {"Access-Control-Request-Headers": "x-amz-acl"})
    assert status == 200 and headers["access-control-allow-origin"] == asking["Origin"], headers
    assert headers["access-control-allow-headers"] == "x-amz-acl" and headers["access-control-max-age"] == "60"
    assert send("OPTIONS", url, asking | {"Access-Control-Request-Headers": "other"})[0] == 403
    assert send("OPTIONS", url, asking | {"Origin": "https://elsewhere"})[0] == 403
    assert send("OPTIONS", url, {})[0] == 400
    status, headers, body = send("GET", url, {"Origin": asking["Origin"]})
    assert (status, body) == (200, b"x") and headers["access-control-expose-headers"] == "ETag"
    assert "access-control-allow-origin" not in send("GET", url, {"Origin": "https://elsewhere"})[1]
    bad = [{"AllowedOrigins": ["*"], "AllowedMethods": ["FETCH"]}]
    fails("InvalidRequest", 400, alice.put_bucket_cors, Bucket=bucket, CORSConfiguration={"CORSRules": bad})
    alice.delete_bucket_cors(Bucket=bucket)
    assert send("OPTIONS", url, asking)[0] == 403


def form(fields, content):
    boundary = "a-boundary"
    lines = []
    for name, value in fields.items():
        lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'.encode())
    body = b"".join(lines) + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def forms():
    bucket = "forms"
    alice.create_bucket(Bucket=bucket)
    conditions = [["starts-with", "$key", "in/"], ["content-length-range", 1, 100], {"acl": "public-read"}]
    made = alice.generate_presigned_post(bucket, "in/k", Fields={"acl": "public-read"}, Conditions=conditions)

    def post(content=b"content", **fields):
        body, headers = form(made["fields"] | fields, content)
        return send("POST", f"{endpoint}/{bucket}", headers, body)[0]

    assert post() == 204 and read(nobody, bucket, "in/k") == b"content"
    named = alice.generate_presigned_post(bucket, "in/${filename}")
    body, headers = form(named["fields"], b"by its name")
    assert send("POST", f"{endpoint}/{bucket}", headers, body)[0] == 204
    assert read(alice, bucket, "in/f") == b"by its name"
    alice.delete_object(Bucket=bucket, Key="in/f")
    assert post(key="out/k") == 403
    assert post(acl="private") == 403
    assert post(b"x" * 101) == 400
    assert post(b"") == 400
    assert post(policy=made["fields"]["policy"][:-8] + "AAAAAAA=") in (400, 403)
    assert post(**{"x-amz-signature": "0" * 64}) == 403
    assert post(**{"x-amz-meta-extra": "1"}) == 403, "a field that the policy does not name"
    assert post(ACL="private") == 400, "a field that is said twice"
    # Bob may sign what he likes: it is Alice's bucket.
    stolen = bob.generate_presigned_post(bucket, "in/stolen")
    body, headers = form(stolen["fields"], b"x")
    assert send("POST", f"{endpoint}/{bucket}", headers, body)[0] == 403
    assert [found["Key"] for found in alice.list_objects_v2(Bucket=bucket)["Contents"]] == ["in/k"]


run(versions, conditions, locks, tags, strangers, lists_of_grants, policies, demands, attributes, origins, forms, lifecycles)
