"""The interfaces of IAM and STS through boto3. Exits with 0 where every expectation holds."""

import json
import urllib.request

from expectations import fails
from suite import alice, bob, client, nobody, owner, pairs, read, run

iam, sts = client(pairs[1], "iam"), client(pairs[1], "sts")
other_iam, other_sts = client(pairs[2], "iam"), client(pairs[2], "sts")


def policy(action, resource="*", effect="Allow", **more):
    statement = {"Effect": effect, "Action": action, **more}
    if resource:
        statement["Resource"] = resource
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def trust(principal, action="sts:AssumeRole", **more):
    return policy(action, None, Principal=principal, **more)


def key_of(name):
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def session(answer, service="s3"):
    given = answer["Credentials"]
    return client((given["AccessKeyId"], given["SecretAccessKey"]), service, given["SessionToken"])


def users():
    account = sts.get_caller_identity()["Account"]
    assert sts.get_caller_identity()["Arn"] == f"arn:aws:iam::{account}:root"
    made = iam.create_user(UserName="Carol", Path="/staff/", Tags=[{"Key": "team", "Value": "a&b"}])["User"]
    assert made["Arn"] == f"arn:aws:iam::{account}:user/staff/Carol" and made["UserId"].startswith("AIDA")
    fails("EntityAlreadyExists", 409, iam.create_user, UserName="carol")
    assert iam.get_user(UserName="CAROL")["User"]["Tags"] == [{"Key": "team", "Value": "a&b"}]
    fails("NoSuchEntity", 404, other_iam.get_user, UserName="Carol")
    fails("ValidationError", 400, iam.create_user, UserName="no/slash")
    assert [user["UserName"] for user in iam.list_users(PathPrefix="/staff/")["Users"]] == ["Carol"]
    pair = key_of("Carol")
    carol, as_carol = client(pair), client(pair, "iam")
    assert client(pair, "sts").get_caller_identity()["Arn"] == made["Arn"]
    # Who has no policies may do nothing, not even with what is the account's.
    alice.create_bucket(Bucket="iam-users")
    alice.put_object(Bucket="iam-users", Key="k", Body=b"of the account")
    fails("AccessDenied", 403, carol.get_object, Bucket="iam-users", Key="k")
    fails("AccessDenied", 403, carol.list_buckets)
    fails("AccessDenied", 403, as_carol.list_users)
    iam.put_user_policy(UserName="Carol", PolicyName="reads", PolicyDocument=policy("s3:GetObject", "arn:aws:s3:::iam-users/*"))
    assert read(carol, "iam-users", "k") == b"of the account"
    fails("AccessDenied", 403, carol.put_object, Bucket="iam-users", Key="k", Body=b"")
    assert iam.get_user_policy(UserName="Carol", PolicyName="reads")["PolicyDocument"]["Statement"][0]["Action"] == "s3:GetObject"
    assert iam.list_user_policies(UserName="Carol")["PolicyNames"] == ["reads"]
    fails("MalformedPolicyDocument", 400, iam.put_user_policy, UserName="Carol", PolicyName="bad", PolicyDocument="{}")
    # What the account owns, its users make.
    iam.attach_user_policy(UserName="Carol", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")
    carol.create_bucket(Bucket="carols")
    carol.put_object(Bucket="carols", Key="k", Body=b"carol")
    assert read(alice, "carols", "k") == b"carol"
    assert "carols" in [bucket["Name"] for bucket in alice.list_buckets()["Buckets"]]
    # What the bucket's policy denies, only the account itself may mend.
    shut = {"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:*BucketPolicy", "Resource": "arn:aws:s3:::carols"}]}
    alice.put_bucket_policy(Bucket="carols", Policy=json.dumps(shut))
    fails("AccessDenied", 403, carol.delete_bucket_policy, Bucket="carols")
    alice.delete_bucket_policy(Bucket="carols")
    # Her own policies let her make keys for herself, and for nobody else however that is said.
    iam.put_user_policy(UserName="Carol", PolicyName="self", PolicyDocument=policy("iam:*AccessKey*", f"arn:aws:iam::{account}:user/staff/Carol"))
    iam.create_user(UserName="Boss")
    for name in ("Boss", "BOSS"):
        fails("AccessDenied", 403, as_carol.create_access_key, UserName=name)
    assert as_carol.list_access_keys()["AccessKeyMetadata"][0]["AccessKeyId"] == pair[0]
    # Denials ask what every door knows.
    for condition in ({"Bool": {"aws:SecureTransport": "false"}}, {"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}):
        deny = policy("iam:*", effect="Deny", Condition=condition)
        iam.put_user_policy(UserName="Carol", PolicyName="no", PolicyDocument=deny)
        fails("AccessDenied", 403, as_carol.list_access_keys)
    for name in ("no", "self"):
        iam.delete_user_policy(UserName="Carol", PolicyName=name)
    iam.detach_user_policy(UserName="Carol", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")
    fails("AccessDenied", 403, carol.delete_object, Bucket="carols", Key="k")
    # A bucket's policy that names her is enough; one that names the account is the account's to pass on.
    for principal, may in ((made["Arn"], True), (f"arn:aws:iam::{account}:root", False)):
        document = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "s3:GetObject", "Resource": "arn:aws:s3:::carols/*"}]}
        alice.put_bucket_policy(Bucket="carols", Policy=json.dumps(document))
        if may:
            assert read(carol, "carols", "k") == b"carol"
        else:
            fails("AccessDenied", 403, carol.get_object, Bucket="carols", Key="k")
    fails("DeleteConflict", 409, iam.delete_user, UserName="Carol")
    iam.update_access_key(UserName="Carol", AccessKeyId=pair[0], Status="Inactive")
    fails("InvalidAccessKeyId", 403, carol.get_object, Bucket="iam-users", Key="k")
    iam.update_access_key(UserName="Carol", AccessKeyId=pair[0], Status="Active")
    iam.update_user(UserName="Carol", NewUserName="Caroline")
    assert read(carol, "iam-users", "k") == b"of the account"
    key_of("Caroline")
    fails("LimitExceeded", 409, iam.create_access_key, UserName="Caroline")
    for key in iam.list_access_keys(UserName="Caroline")["AccessKeyMetadata"]:
        iam.delete_access_key(UserName="Caroline", AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName="Caroline", PolicyName="reads")
    iam.delete_user(UserName="Caroline")
    fails("InvalidAccessKeyId", 403, carol.get_object, Bucket="iam-users", Key="k")


def groups_and_policies():
    alice.create_bucket(Bucket="iam-groups")
    alice.put_object(Bucket="iam-groups", Key="k", Body=b"x")
    iam.create_user(UserName="dave")
    dave = client(key_of("dave"))
    shared = iam.create_policy(PolicyName="shared", PolicyDocument=policy("s3:ListBucket"), Description="d")["Policy"]
    iam.create_group(GroupName="readers")
    iam.attach_group_policy(GroupName="readers", PolicyArn=shared["Arn"])
    fails("AccessDenied", 403, dave.list_objects_v2, Bucket="iam-groups")
    iam.add_user_to_group(GroupName="readers", UserName="dave")
    assert dave.list_objects_v2(Bucket="iam-groups")["KeyCount"] == 1
    assert [group["GroupName"] for group in iam.list_groups_for_user(UserName="dave")["Groups"]] == ["readers"]
    assert [user["UserName"] for user in iam.get_group(GroupName="readers")["Users"]] == ["dave"]
    fails("AccessDenied", 403, dave.get_object, Bucket="iam-groups", Key="k")
    iam.create_policy_version(PolicyArn=shared["Arn"], PolicyDocument=policy("s3:GetObject"), SetAsDefault=True)
    assert read(dave, "iam-groups", "k") == b"x"
    fails("AccessDenied", 403, dave.list_objects_v2, Bucket="iam-groups")
    versions = iam.list_policy_versions(PolicyArn=shared["Arn"])["Versions"]
    assert [(version["VersionId"], version["IsDefaultVersion"]) for version in versions] == [("v2", True), ("v1", False)]
    document = iam.get_policy_version(PolicyArn=shared["Arn"], VersionId="v1")["PolicyVersion"]["Document"]
    assert document["Statement"][0]["Action"] == "s3:ListBucket"
    fails("DeleteConflict", 409, iam.delete_policy, PolicyArn=shared["Arn"])
    assert iam.list_entities_for_policy(PolicyArn=shared["Arn"])["PolicyGroups"][0]["GroupName"] == "readers"
    # An explicit denial is final, and a boundary bounds.
    iam.put_user_policy(UserName="dave", PolicyName="no", PolicyDocument=policy("s3:GetObject", effect="Deny"))
    fails("AccessDenied", 403, dave.get_object, Bucket="iam-groups", Key="k")
    iam.delete_user_policy(UserName="dave", PolicyName="no")
    iam.put_user_permissions_boundary(UserName="dave", PermissionsBoundary="arn:aws:iam::aws:policy/IAMReadOnlyAccess")
    fails("AccessDenied", 403, dave.get_object, Bucket="iam-groups", Key="k")
    iam.delete_user_permissions_boundary(UserName="dave")
    assert read(dave, "iam-groups", "k") == b"x"
    iam.remove_user_from_group(GroupName="readers", UserName="dave")
    fails("AccessDenied", 403, dave.get_object, Bucket="iam-groups", Key="k")
    iam.detach_group_policy(GroupName="readers", PolicyArn=shared["Arn"])
    iam.delete_group(GroupName="readers")
    iam.delete_policy(PolicyArn=shared["Arn"])


def roles():
    account, other = (which.get_caller_identity()["Account"] for which in (sts, other_sts))
    alice.create_bucket(Bucket="iam-roles")
    alice.put_object(Bucket="iam-roles", Key="k", Body=b"x")
    document = trust({"AWS": f"arn:aws:iam::{other}:root"}, Condition={"StringEquals": {"sts:ExternalId": "ext"}})
    role = iam.create_role(RoleName="visitor", AssumeRolePolicyDocument=document, MaxSessionDuration=7200)["Role"]
    assert iam.get_role(RoleName="visitor")["Role"]["AssumeRolePolicyDocument"]["Statement"][0]["Effect"] == "Allow"
    asked = {"RoleArn": role["Arn"], "RoleSessionName": "visit"}
    fails("AccessDenied", 403, other_sts.assume_role, **asked)
    fails("AccessDenied", 403, sts.assume_role, ExternalId="ext", **asked)
    fails("ValidationError", 400, other_sts.assume_role, ExternalId="ext", DurationSeconds=7201, **asked)
    answer = other_sts.assume_role(ExternalId="ext", DurationSeconds=7200, **asked)
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{account}:assumed-role/visitor/visit"
    visitor = session(answer)
    assert session(answer, "sts").get_caller_identity()["Arn"] == answer["AssumedRoleUser"]["Arn"]
    fails("AccessDenied", 403, visitor.get_object, Bucket="iam-roles", Key="k")
    iam.put_role_policy(RoleName="visitor", PolicyName="p", PolicyDocument=policy("s3:*"))
    assert read(visitor, "iam-roles", "k") == b"x"
    # A session's own policy takes away, and never adds.
    limited = session(other_sts.assume_role(ExternalId="ext", Policy=policy("s3:ListBucket"), **asked))
    assert limited.list_objects_v2(Bucket="iam-roles")["KeyCount"] == 1
    fails("AccessDenied", 403, limited.get_object, Bucket="iam-roles", Key="k")
    managed = [{"arn": "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"}]
    fails("ValidationError", 400, other_sts.assume_role, ExternalId="ext", PolicyArns=managed, **asked)
    # The token is part of the credentials, whole and unchanged; and a presigned URL has it with it.
    given = answer["Credentials"]
    pair = given["AccessKeyId"], given["SecretAccessKey"]
    fails("InvalidToken", 400, client(pair).get_object, Bucket="iam-roles", Key="k")
    bent = given["SessionToken"][:-3] + "AAA"
    fails("InvalidToken", 400, client(pair, token=bent).get_object, Bucket="iam-roles", Key="k")
    theirs = other_sts.assume_role(ExternalId="ext", **asked)["Credentials"]["SessionToken"]
    fails("InvalidToken", 400, client(pair, token=theirs).get_object, Bucket="iam-roles", Key="k")
    fails("InvalidToken", 400, client(pairs[1], token=theirs).get_object, Bucket="iam-roles", Key="k")
    url = visitor.generate_presigned_url("get_object", Params={"Bucket": "iam-roles", "Key": "k"})
    assert urllib.request.urlopen(url).read() == b"x"
    fails("AccessDenied", 403, session(answer, "sts").get_session_token)
    # What the role may not any more, its sessions may not; nor are those of another role of the name its own.
    iam.delete_role_policy(RoleName="visitor", PolicyName="p")
    fails("AccessDenied", 403, visitor.get_object, Bucket="iam-roles", Key="k")
    iam.delete_role(RoleName="visitor")
    iam.create_role(RoleName="visitor", AssumeRolePolicyDocument=document)
    fails("InvalidToken", 400, visitor.get_object, Bucket="iam-roles", Key="k")
    iam.delete_role(RoleName="visitor")


def tokens():
    answer = sts.get_session_token(DurationSeconds=900)
    mine = session(answer)
    alice.create_bucket(Bucket="iam-tokens")
    mine.put_object(Bucket="iam-tokens", Key="k", Body=b"by a session")
    assert read(alice, "iam-tokens", "k") == b"by a session"
    fails("AccessDenied", 403, bob.get_object, Bucket="iam-tokens", Key="k")
    fails("AccessDenied", 403, session(answer, "iam").create_access_key)
    made = mine.generate_presigned_post("iam-tokens", "formed")
    boundary, lines = "b", []
    for name, value in made["fields"].items():
        lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
    lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"\r\n\r\nby a form\r\n--{boundary}--\r\n')
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(made["url"], data="".join(lines).encode(), headers=kind, method="POST")
    assert urllib.request.urlopen(request).status == 204 and read(alice, "iam-tokens", "formed") == b"by a form"
    root = client(pairs[0], "sts").get_session_token()
    assert read(session(root), "iam-tokens", "k") == b"by a session"
    fails("ValidationError", 400, sts.get_session_token, DurationSeconds=36 * 3600 + 1)
    impostor = client((pairs[1][0], "x" * 40), "sts")
    fails("SignatureDoesNotMatch", 403, impostor.get_caller_identity)
    fails("InvalidClientTokenId", 403, client(("HFNOBODY", "x" * 40), "iam").list_users)


run(users, groups_and_policies, roles, tokens)
