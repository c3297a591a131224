"""Buckets as hosts, and as websites. Exits with 0 where every expectation holds."""

import json
import socket
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore.config import Config
from expectations import fails
from suite import alice, endpoint, pairs, read, run

# Names of hosts lead here, as they would with an operator's name server.
address, port = urllib.parse.urlsplit(endpoint).hostname, urllib.parse.urlsplit(endpoint).port
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **named: resolve(address, *more, **named)


def hosts():
    config = Config(signature_version="s3v4", retries={"max_attempts": 1}, s3={"addressing_style": "virtual"})
    virtual = boto3.client(
        "s3", endpoint_url=f"http://localhost:{port}", region_name="us-east-1", config=config,
        aws_access_key_id=pairs[1][0], aws_secret_access_key=pairs[1][1],
    )
    virtual.create_bucket(Bucket="a-host")
    virtual.put_object(Bucket="a-host", Key="dir/key with spaces", Body=b"by host", Metadata={"a": "b"})
    assert read(alice, "a-host", "dir/key with spaces") == b"by host"
    assert read(virtual, "a-host", "dir/key with spaces") == b"by host"
    assert [found["Key"] for found in virtual.list_objects_v2(Bucket="a-host")["Contents"]] == ["dir/key with spaces"]
    assert virtual.head_bucket(Bucket="a-host")["ResponseMetadata"]["HTTPStatusCode"] == 200
    url = virtual.generate_presigned_url("get_object", Params={"Bucket": "a-host", "Key": "dir/key with spaces"})
    assert url.startswith("http://a-host.localhost") and urllib.request.urlopen(url).read() == b"by host"
    fails("NoSuchBucket", 404, virtual.list_objects_v2, Bucket="no-such-host")
    made = virtual.generate_presigned_post("a-host", "formed")
    assert "a-host.localhost" in made["url"]
    virtual.delete_object(Bucket="a-host", Key="dir/key with spaces")
    # A domain of one's own: the bucket is called as it is.
    alice.create_bucket(Bucket="files.example.org")
    alice.put_object(Bucket="files.example.org", Key="k", Body=b"by a domain", ACL="public-read")
    assert urllib.request.urlopen(f"http://files.example.org:{port}/k").read() == b"by a domain"


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def visit(host, path="/", method="GET", **headers):
    opener = urllib.request.build_opener(Stay)
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method, headers=headers)
    try:
        answer = opener.open(request)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers, answer.read()


def websites():
    bucket, host = "a-site", "a-site.s3-website.localhost"
    alice.create_bucket(Bucket=bucket)
    fails("NoSuchWebsiteConfiguration", 404, alice.get_bucket_website, Bucket=bucket)
    assert visit(host)[0] == 404
    wanted = {
        "IndexDocument": {"Suffix": "index.html"}, "ErrorDocument": {"Key": "sorry.html"},
        "RoutingRules": [
            {"Condition": {"KeyPrefixEquals": "old/"}, "Redirect": {"ReplaceKeyPrefixWith": "new/", "HttpRedirectCode": "302"}},
            {"Condition": {"HttpErrorCodeReturnedEquals": "404", "KeyPrefixEquals": "gone/"}, "Redirect": {"HostName": "example.org", "ReplaceKeyWith": "gone"}},
        ],
    }
    fails("InvalidArgument", 400, alice.put_bucket_website, Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "a/b"}})
    alice.put_bucket_website(Bucket=bucket, WebsiteConfiguration=wanted)
    kept = alice.get_bucket_website(Bucket=bucket)
    assert kept["RoutingRules"] == wanted["RoutingRules"] and kept["IndexDocument"] == wanted["IndexDocument"]
    for key, body in (("index.html", b"home"), ("docs/index.html", b"docs"), ("sorry.html", b"sorry"), ("page", b"0123456789")):
        alice.put_object(Bucket=bucket, Key=key, Body=body, ContentType="text/html")
    # Nothing is public that nobody made public.
    assert visit(host)[0] == 403
    public = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}]}
    alice.put_bucket_policy(Bucket=bucket, Policy=json.dumps(public))
    status, headers, body = visit(host)
    assert (status, headers["Content-Type"], body) == (200, "text/html", b"home")
    assert visit("a-site.s3-website-us-east-1.localhost")[2] == b"home"
    assert visit(host, "/docs/")[2] == b"docs"
    status, headers, _ = visit(host, "/docs")
    assert (status, headers["Location"]) == (302, "/docs/")
    assert visit(host, "/page", Range="bytes=2-4")[::2] == (206, b"234")
    assert visit(host, "/page", "HEAD")[2] == b""
    etag = visit(host, "/page")[1]["ETag"]
    assert visit(host, "/page", **{"If-None-Match": etag})[0] == 304
    assert visit(host, "/nothing")[::2] == (403, b"sorry"), "who may not list is not told what is not there"
    public["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"})
    alice.put_bucket_policy(Bucket=bucket, Policy=json.dumps(public))
    assert visit(host, "/nothing")[::2] == (404, b"sorry")
    status, headers, _ = visit(host, "/old/a%20b")
    assert (status, headers["Location"]) == (302, f"http://{host}:{port}/new/a%20b")
    status, headers, _ = visit(host, "/gone/x")
    assert (status, headers["Location"]) == (301, "http://example.org/gone")
    assert visit(host, "/page", "PUT")[0] == 405 and visit(host, "/page", "DELETE")[0] == 405
    alice.put_object(Bucket=bucket, Key="moved", Body=b"", WebsiteRedirectLocation="/page")
    status, headers, _ = visit(host, "/moved")
    assert (status, headers["Location"]) == (301, "/page")
    # What is private stays so, on a public site too.
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/page"}
    alice.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": public["Statement"] + [deny]}))
    assert visit(host, "/page")[::2] == (403, b"sorry")
    alice.put_bucket_website(Bucket=bucket, WebsiteConfiguration={"RedirectAllRequestsTo": {"HostName": "example.org", "Protocol": "https"}})
    status, headers, _ = visit(host, "/any")
    assert (status, headers["Location"]) == (301, "https://example.org/any")
    alice.delete_bucket_website(Bucket=bucket)
    status, _, body = visit(host)
    assert status == 404 and b"NoSuchWebsiteConfiguration" in body
    assert visit("no-site.s3-website.localhost")[0] == 404


run(hosts, websites)
