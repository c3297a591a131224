"""What the suites share. Their arguments: ENDPOINT OWNER_KEY OWNER_SECRET ALICE_KEY ALICE_SECRET BOB_KEY BOB_SECRET, where Alice
and Bob are users named alice and bob, and Bob's e-mail address is bob@example.org."""

import sys
import time

import boto3
from botocore import UNSIGNED
from botocore.config import Config

endpoint = sys.argv[1]


def client(pair, service="s3", token=None):
    signature = UNSIGNED if pair is None else "s3v4" if service == "s3" else "v4"
    config = Config(signature_version=signature, retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    key, secret = pair or (None, None)
    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", config=config,
        aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=token,
    )


pairs = [tuple(sys.argv[at : at + 2]) for at in (2, 4, 6)]
owner, alice, bob = map(client, pairs)
nobody = client(None)


def read(who, bucket, key, **more):
    return who.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


def run(*tests):
    for test in tests:
        started = time.monotonic()
        test()
        print(f"{test.__name__}: {time.monotonic() - started:.2f} s")
