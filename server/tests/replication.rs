//! Buckets that are copied to another cluster, whatever fails in between.

mod common;

use common::{
    ACCESS_KEY, Client, SECRET_KEY, Server,
    client::Response,
    eventually, noise,
    suites::{make_user, order},
};
use std::path::{Path, PathBuf};

fn keep_versions(client: &Client, bucket: &str) {
    let xml = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    client.create_bucket(bucket);
    assert_eq!(client.request("PUT", &format!("/{bucket}"), &[("versioning", "")], xml).status, 200);
}

fn remember(data: &Path, name: &str, remote: &Server, more: &[&str]) {
    let (way, url) = (data.display().to_string(), format!("http://{}", remote.s3));
    let order_of =
        ["remote", "create", name, "--url", &url, "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
    let told = order(&["--data", &way], &[&order_of, more].concat());
    assert!(!told.contains(SECRET_KEY), "{told}");
}

/// Two clusters, each with a bucket that keeps versions. The one here knows the other.
struct Pair {
    dir: tempfile::TempDir,
    here: PathBuf,
    there: PathBuf,
    near: Server,
    far: Server,
}

impl Pair {
    fn up(mine: &str, theirs: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let (near, far) = (Server::start(&here, options), Server::start(&there, &[]));
        keep_versions(&near.client(), mine);
        keep_versions(&far.client(), theirs);
        remember(&here, "far", &far, &[]);
        Self { dir, here, there, near, far }
    }

    /// Two clusters whose buckets `box` copy each other.
    fn both_ways() -> Self {
        let pair = Self::up("box", "box", &[]);
        remember(&pair.there, "near", &pair.near, &[]);
        for (client, target) in [(pair.near.client(), "far"), (pair.far.client(), "near")] {
            let answer = configure(&client, "box", &format!("arn:aws:s3:{target}::box"), "", "");
            assert_eq!(answer.status, 200);
        }
        pair
    }
}

/// One rule, for all keys that begin with a prefix.
fn configure(client: &Client, bucket: &str, target: &str, prefix: &str, more: &str) -> Response {
    let xml = format!(
        "<ReplicationConfiguration><Role>arn:aws:iam::000000000000:role/any</Role><Rule><ID>one</ID><Priority>1</Priority>\
         <Status>Enabled</Status><Filter><Prefix>{prefix}</Prefix></Filter>\
         <DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication>{more}\
         <Destination><Bucket>{target}</Bucket></Destination></Rule></ReplicationConfiguration>"
    );
    client.request("PUT", &format!("/{bucket}"), &[("replication", "")], xml.as_bytes())
}

fn status(client: &Client, path: &str) -> Option<String> {
    client.request("HEAD", path, &[], b"").headers.get("x-amz-replication-status").cloned()
}

fn is_copied(client: &Client, path: &str) -> bool {
    status(client, path).as_deref() == Some("COMPLETED")
}

/// How many versions and delete markers a bucket has.
fn versions(client: &Client, bucket: &str) -> (usize, usize) {
    let page = client.request("GET", &format!("/{bucket}"), &[("versions", "")], b"");
    (
        page.elements("VersionId").len() - page.text().matches("<DeleteMarker>").count(),
        page.text().matches("<DeleteMarker>").count(),
    )
}

/// An object of two parts.
fn put_parts(client: &Client, path: &str, parts: [&[u8]; 2]) {
    let begun = client.request("POST", path, &[("uploads", "")], b"");
    let id = begun.elements("UploadId").remove(0);
    let mut list = String::new();
    for (number, part) in ["1", "2"].into_iter().zip(parts) {
        let sent = client.request("PUT", path, &[("partNumber", number), ("uploadId", &id)], part);
        let tag = &sent.headers["etag"];
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
    }
    let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let done = client.request("POST", path, &[("uploadId", &id)], list.as_bytes());
    assert_eq!(done.status, 200, "{}", done.text());
}

#[test]
fn objects_are_copied_with_all_that_belongs_to_them() {
    let Pair { dir: _dir, near, far, .. } = Pair::up("box", "copy", &[]);
    let (client, other) = (near.client(), far.client());
    client.put("/box/in/before", b"not copied");
    assert_eq!(configure(&client, "box", "arn:aws:s3:far::copy", "in/", "").status, 200);

    let headers = [
        ("content-type", "text/plain"),
        ("cache-control", "no-cache"),
        ("x-amz-meta-colour", "blue"),
        ("x-amz-tagging", "a=1&b%20c=2%2F3"),
        ("x-amz-storage-class", "STANDARD_IA"),
    ];
    assert_eq!(client.with_headers("PUT", "/box/in/a b+ü", &headers, b"first").status, 200);
    let sealed = [("x-amz-server-side-encryption", "AES256")];
    assert_eq!(client.with_headers("PUT", "/box/in/sealed", &sealed, &noise(1, 300_000)).status, 200);
    client.put("/box/in/empty", b"");
    client.put("/box/in/large", &noise(2, 20 << 20));
    let parts = [noise(3, 5 << 20), noise(4, 100)];
    put_parts(&client, "/box/in/parts", [&parts[0], &parts[1]]);
    client.put("/box/out/elsewhere", b"not copied");
    for key in ["a b+ü", "sealed", "empty", "large", "parts"] {
        let path = format!("/box/in/{key}");
        eventually("an object is copied", || is_copied(&client, &path));
        let (mine, copy) = (
            client.request("GET", &path, &[], b""),
            other.request("GET", &format!("/copy/in/{key}"), &[], b""),
        );
        assert_eq!(copy.status, 200, "{key}");
        assert!(mine.body == copy.body, "{key}");
        for name in [
            "etag",
            "content-type",
            "cache-control",
            "x-amz-meta-colour",
            "x-amz-storage-class",
            "x-amz-tagging-count",
            "x-amz-server-side-encryption",
        ] {
            assert_eq!(mine.headers.get(name), copy.headers.get(name), "{name} of {key}");
        }
        assert_eq!(copy.headers["x-amz-replication-status"], "REPLICA", "{key}");
    }
    let tags = other.request("GET", "/copy/in/a b+ü", &[("tagging", "")], b"").text();
    assert!(tags.contains("<Key>b c</Key><Value>2/3</Value>"), "{tags}");
    assert_eq!(status(&client, "/box/out/elsewhere"), None);
    assert_eq!(status(&client, "/box/in/before"), None);

    client.put("/box/in/empty", b"second");
    client.delete("/box/in/large");
    eventually("a deletion is copied", || other.request("HEAD", "/copy/in/large", &[], b"").status == 404);
    eventually("a new version is copied", || other.get("/copy/in/empty") == b"second");
    assert_eq!(other.list("copy", "").len(), 4);
    // What is deleted for good stays there.
    assert_eq!(versions(&other, "copy"), (6, 1));

    let suspended = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    assert_eq!(client.request("PUT", "/box", &[("versioning", "")], suspended).status, 409);
    assert!(
        client.request("GET", "/box", &[("replication", "")], b"").text().contains("arn:aws:s3:far::copy")
    );
    assert_eq!(client.request("DELETE", "/box", &[("replication", "")], b"").status, 204);
    assert_eq!(client.request("GET", "/box", &[("replication", "")], b"").status, 404);
    client.put("/box/in/after", b"not copied");
    assert_eq!(status(&client, "/box/in/after"), None);
}

#[test]
fn copying_goes_on_where_it_stopped() {
    let Pair { dir: _dir, here, there, near, far } = Pair::up("box", "copy", &[]);
    let client = near.client();
    assert_eq!(configure(&client, "box", "arn:aws:s3:far::copy", "", "").status, 200);
    for number in 0..20 {
        client.put(&format!("/box/{number}"), &noise(number, 1000));
    }
    eventually("some are copied", || is_copied(&client, "/box/3"));
    // In the middle of it all.
    far.kill();
    for number in 20..40 {
        client.put(&format!("/box/{number}"), &noise(number, 1000));
    }
    assert_eq!(status(&client, "/box/39").as_deref(), Some("PENDING"));
    near.kill();
    let (near, far) = (Server::start(&here, &[]), Server::start(&there, &[]));
    remember(&here, "far", &far, &[]);
    let (client, other) = (near.client(), far.client());
    for number in 0..40 {
        let path = format!("/box/{number}");
        eventually("an object is copied", || is_copied(&client, &path));
        assert_eq!(other.get(&format!("/copy/{number}")), noise(number, 1000));
    }
    assert_eq!(versions(&other, "copy"), (40, 0), "each was copied once");
}

#[test]
fn rules_touch_nothing_that_is_still_to_be_copied() {
    let Pair { dir: _dir, here, there, near, far } = Pair::up("box", "copy", &["--lifecycle-day", "1"]);
    let client = near.client();
    assert_eq!(configure(&client, "box", "arn:aws:s3:far::copy", "in/", "").status, 200);
    far.kill();
    client.put("/box/in/waits", b"");
    client.put("/box/out/goes", b"");
    let rule = b"<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status><Filter></Filter>\
                 <Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>";
    assert_eq!(client.request("PUT", "/box", &[("lifecycle", "")], rule).status, 200);
    // It is the younger one: by then the other is due too.
    eventually("one expires", || client.request("HEAD", "/box/out/goes", &[], b"").status == 404);
    assert_eq!(status(&client, "/box/in/waits").as_deref(), Some("PENDING"));
    let far = Server::start(&there, &[]);
    remember(&here, "far", &far, &[]);
    eventually("the other is copied, and expires", || {
        client.request("HEAD", "/box/in/waits", &[], b"").status == 404
    });
    let copied = far.client().request("GET", "/copy", &[("versions", "")], b"").text();
    assert!(copied.contains("<Key>in/waits</Key>"), "{copied}");
}

#[test]
fn two_clusters_copy_each_other_and_come_to_rest() {
    let Pair { dir: _dir, near, far, .. } = Pair::both_ways();
    let (client, other) = (near.client(), far.client());
    client.put("/box/one", b"of here");
    other.put("/box/two", b"of there");
    eventually("both have both", || is_copied(&client, "/box/one") && is_copied(&other, "/box/two"));
    client.delete("/box/two");
    eventually("it is deleted there", || other.request("HEAD", "/box/two", &[], b"").status == 404);
    // What comes last has gone both ways by the time that all before it has.
    client.put("/box/last", b"of here");
    eventually("the last is copied", || is_copied(&client, "/box/last"));
    other.put("/box/very-last", b"of there");
    eventually("the very last is copied", || is_copied(&other, "/box/very-last"));
    assert_eq!(versions(&client, "box"), (4, 1));
    assert_eq!(versions(&other, "box"), (4, 1));
}

#[test]
fn a_deletion_does_not_hide_what_was_written_after_it() {
    let Pair { dir: _dir, there, near, far, .. } = Pair::both_ways();
    let (client, other) = (near.client(), far.client());
    client.put("/box/key", b"first");
    eventually("it is copied", || is_copied(&client, "/box/key"));
    // The way here is cut while it is deleted and written again.
    let way = ["--data", &there.display().to_string()];
    order(&way, &["remote", "delete", "near"]);
    client.delete("/box/key");
    client.put("/box/key", b"second");
    eventually("the new one is copied", || is_copied(&client, "/box/key"));
    other.put("/box/last", b"of there");
    remember(&there, "near", &near, &[]);
    eventually("all has come", || is_copied(&other, "/box/last"));
    client.put("/box/end", b"of here");
    eventually("the end is copied", || is_copied(&client, "/box/end"));
    assert_eq!(client.get("/box/key"), b"second");
    assert_eq!(other.get("/box/key"), b"second");
}

#[test]
fn one_bucket_that_is_not_there_keeps_no_other_from_its_copies() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let (near, far) = (Server::start(&here, &[]), Server::start(&there, &[]));
    let (client, other) = (near.client(), far.client());
    keep_versions(&client, "box");
    keep_versions(&other, "one");
    keep_versions(&other, "two");
    // Somebody who may write copies, and not much more.
    let way = ["--data", &there.display().to_string()];
    let (access, secret) = make_user(&way, "copier", &[]);
    let url = format!("http://{}", far.s3);
    let way = ["--data", &here.display().to_string()];
    order(
        &way,
        &["remote", "create", "far", "--url", &url, "--access-key", &access, "--secret-key", &secret],
    );
    for bucket in ["one", "two"] {
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"*"}},
            "Action":["s3:PutObject","s3:GetObject","s3:DeleteObject","s3:ReplicateObject","s3:PutObjectTagging","s3:GetBucketVersioning"],
            "Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}]}}"#
        );
        let set = other.request("PUT", &format!("/{bucket}"), &[("policy", "")], policy.as_bytes());
        assert_eq!(set.status, 204, "{}", set.text());
    }
    let rule = |number: u32, bucket: &str| {
        format!(
            "<Rule><ID>{bucket}</ID><Priority>{number}</Priority><Status>Enabled</Status><Filter></Filter>\
             <DeleteMarkerReplication><Status>Disabled</Status></DeleteMarkerReplication>\
             <Destination><Bucket>arn:aws:s3:far::{bucket}</Bucket></Destination></Rule>"
        )
    };
    let rules = rule(1, "one") + &rule(2, "two");
    let xml = format!("<ReplicationConfiguration><Role>any</Role>{rules}</ReplicationConfiguration>");
    let set = client.request("PUT", "/box", &[("replication", "")], xml.as_bytes());
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(other.request("DELETE", "/one", &[], b"").status, 204);
    // Metadata that is no plain text must not stop anything either.
    let strange = [("x-amz-meta-words", "=?UTF-8?B?w7wgIGEKYg==?="), ("x-amz-tagging", "a=b")];
    assert_eq!(client.with_headers("PUT", "/box/key", &strange, b"bytes").status, 200);
    eventually("the other has it", || other.request("HEAD", "/two/key", &[], b"").status == 200);
    assert_eq!(status(&client, "/box/key").as_deref(), Some("PENDING"));
    let (mine, copy) = (
        client.request("HEAD", "/box/key", &[], b"").headers.get("x-amz-meta-words").cloned(),
        other.request("HEAD", "/two/key", &[], b"").headers.get("x-amz-meta-words").cloned(),
    );
    assert_eq!(mine, copy);
    keep_versions(&other, "one");
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"s3:*","Resource":["arn:aws:s3:::one","arn:aws:s3:::one/*"]}]}"#;
    assert_eq!(other.request("PUT", "/one", &[("policy", "")], policy.as_bytes()).status, 204);
    eventually("both have it", || is_copied(&client, "/box/key"));
    assert_eq!(other.get("/one/key"), b"bytes");
    assert_eq!(versions(&other, "two"), (1, 0));
}

#[test]
fn what_cannot_be_copied_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let (near, far) = (Server::start(&here, &[]), Server::start(&there, &[]));
    let (client, other) = (near.client(), far.client());
    let way = ["--data", &here.display().to_string()];
    client.create_bucket("plain");
    keep_versions(&client, "box");
    other.create_bucket("forgetful");
    keep_versions(&other, "copy");
    remember(&here, "far", &far, &[]);
    let refused = |bucket: &str, target: &str, more: &str, status: u16, why: &str| {
        let response = configure(&client, bucket, target, "", more);
        assert_eq!(response.status, status, "{target}: {}", response.text());
        assert!(response.text().contains(why), "{target}: {}", response.text());
    };
    refused("plain", "arn:aws:s3:far::copy", "", 400, "Versioning must be");
    refused("box", "arn:aws:s3:::copy", "", 400, "arn:aws:s3:REMOTE::BUCKET");
    refused("box", "arn:aws:s3:nowhere::copy", "", 400, "no remote nowhere");
    refused("box", "arn:aws:s3:far::forgetful", "", 400, "must have versioning enabled");
    refused("box", "arn:aws:s3:far::missing", "", 400, "must exist");
    let existing = "<ExistingObjectReplication><Status>Enabled</Status></ExistingObjectReplication>";
    refused("box", "arn:aws:s3:far::copy", existing, 501, "NotImplemented");

    // A remote is for those whom the operator names.
    let (access, secret) = make_user(&way, "alice", &[]);
    let alice = Client::with_keys(&near.s3, &access, &secret);
    keep_versions(&alice, "hers");
    assert_eq!(configure(&alice, "hers", "arn:aws:s3:far::copy", "", "").status, 400);
    remember(&here, "far", &far, &["--user", "alice"]);
    assert_eq!(configure(&alice, "hers", "arn:aws:s3:far::copy", "", "").status, 200);
    alice.put("/hers/one", b"hers");
    eventually("it is copied", || is_copied(&alice, "/hers/one"));

    // Who may write an object may not pretend that it is a copy.
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},
        "Action":"s3:PutObject","Resource":"arn:aws:s3:::hers/*"}]}"#;
    assert_eq!(alice.request("PUT", "/hers", &[("policy", "")], policy.as_bytes()).status, 204);
    let (access, secret) = make_user(&way, "bob", &[]);
    let bob = Client::with_keys(&near.s3, &access, &secret);
    let pretends = [("x-amz-replication-status", "REPLICA")];
    assert_eq!(bob.with_headers("PUT", "/hers/two", &pretends, b"x").status, 403);
    assert_eq!(bob.with_headers("PUT", "/hers/two", &[], b"x").status, 200);

    // An object under a key that only its owner has is never said to be copied.
    let (key, md5) = ("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "hRasmdxgYDKV3nvbahU1MA==");
    let own = [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption-customer-key", key),
        ("x-amz-server-side-encryption-customer-key-md5", md5),
    ];
    let put = alice.with_headers("PUT", "/hers/own", &own, b"x");
    assert_eq!(put.status, 200, "{}", put.text());
    let head = alice.with_headers("HEAD", "/hers/own", &own, b"");
    assert_eq!((head.status, head.headers.get("x-amz-replication-status")), (200, None));
}
