//! What strangers and users may try with requests that are well signed, or not signed at all.

mod common;

use common::{
    Client, SECRET_KEY, Server,
    forger::Forgery,
    is_unharmed,
    suites::{make_user, order},
    with_secret as server,
};
use std::io::{Read, Write};

/// What the server says to these bytes until it closes the connection.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(&server.s3).expect("it listens");
    stream.set_read_timeout(Some(common::SOON)).expect("a socket");
    // It may answer and close before it has read all of it.
    let _sent = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn nobody_reaches_any_route() {
    let (_dir, server) = server();
    let of_buckets = [
        "acl",
        "accelerate",
        "analytics",
        "cors",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "lifecycle",
        "location",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "replication",
        "requestPayment",
        "tagging",
        "uploads",
        "versioning",
        "versions",
        "website",
        "list-type=2",
        "delete",
        "analytics&id=a",
        "inventory&id=a",
    ];
    let of_objects = [
        "acl",
        "attributes",
        "legal-hold",
        "retention",
        "tagging",
        "torrent",
        "uploads",
        "uploadId=a",
        "uploadId=a&partNumber=1",
        "versionId=null",
        "restore",
        "select&select-type=2",
        "partNumber=1",
    ];
    let mut routes = vec!["/".to_owned(), "/box".to_owned(), "/box/secret".to_owned(), "/new".to_owned()];
    routes.extend(of_buckets.map(|name| format!("/box?{name}")));
    routes.extend(of_objects.map(|name| format!("/box/secret?{name}")));
    for route in routes {
        for method in ["GET", "PUT", "POST", "DELETE", "HEAD"] {
            let (path, query) = route.split_once('?').unwrap_or((&route, ""));
            let mut request = Forgery::new(&server, method, path).body(b"x");
            request.query = query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let (status, text) = request.send();
            assert!((400..=501).contains(&status) || status == 0, "{method} {route}: {status} {text}");
        }
    }
    is_unharmed(&server);
}

#[test]
fn tricks_in_paths_name_keys_or_nothing() {
    let (_dir, server) = server();
    for path in [
        "/../box/secret",
        "/box/../../etc/passwd",
        "/box%2Fsecret",
        "/%2e%2e/box",
        "/box%00/secret",
        "/bo%ff/secret",
        "/BOX/secret",
        "/box/%ff%fe",
        "/box/%c0%ae%c0%ae/",
        "//box/secret",
        "/.holdfast/keys",
        "/box\\secret",
    ] {
        let (request, _) = Forgery::new(&server, "GET", path).by_header(|signature| signature);
        let (status, text) = request.send();
        assert!((400..500).contains(&status) || status == 0, "{path}: {status} {text}");
        assert!(text != "secret", "{path}");
    }
    let client = server.client();
    for key in ["../secret", "..%2Fsecret", "/box/secret", "secret\u{0}", "./secret", "secret/."] {
        let body = format!("<Delete><Object><Key>{}</Key></Object></Delete>", key.replace('\u{0}', "&#0;"));
        let answer = client.request("POST", "/box", &[("delete", "")], body.as_bytes());
        assert!([200, 400].contains(&answer.status), "{key}: {}", answer.text());
        is_unharmed(&server);
    }
    let invalid = b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>";
    assert_eq!(client.request("POST", "/box", &[("delete", "")], invalid).status, 400);
}

#[test]
fn a_copy_needs_leave_to_read_its_source() {
    let (dir, server) = server();
    let way = ["--data", &dir.path().join("data").display().to_string()];
    let (access, secret) = make_user(&way, "alice", &[]);
    let alice = Client::with_keys(&server.s3, &access, &secret);
    alice.create_bucket("hers");
    for source in
        ["/box/secret", "box/secret", "/box/secret?versionId=null", "%2Fbox%2Fsecret", "/hers/../box/secret"]
    {
        let copied = alice.with_headers("PUT", "/hers/copy", &[("x-amz-copy-source", source)], b"");
        assert!((400..500).contains(&copied.status), "{source}: {}", copied.status);
        let begun = alice.request("POST", "/hers/copy", &[("uploads", "")], b"");
        let id = begun.elements("UploadId").remove(0);
        let part = alice.try_request(
            "PUT",
            "/hers/copy",
            &[("partNumber", "1"), ("uploadId", &id)],
            &[("x-amz-copy-source", source)],
            b"",
        );
        let status = part.expect("the server answers").status;
        assert!((400..500).contains(&status), "{source}: {status}");
    }
    assert_eq!(alice.list("hers", ""), Vec::<String>::new());
}

#[test]
fn headers_of_proxies_are_not_believed() {
    let (_dir, server) = server();
    let statement = |condition: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"s3:GetObject",
            "Resource":"arn:aws:s3:::box/*","Condition":{condition}}}]}}"#
        )
    };
    let client = server.client();
    let block = b"<PublicAccessBlockConfiguration></PublicAccessBlockConfiguration>";
    assert_eq!(client.request("PUT", "/box", &[("publicAccessBlock", "")], block).status, 200);
    for condition in [
        r#"{"IpAddress":{"aws:SourceIp":"203.0.113.0/24"}}"#,
        r#"{"Bool":{"aws:SecureTransport":"true"}}"#,
        r#"{"StringLike":{"aws:Referer":"https://only.example/*"}}"#,
    ] {
        let policy = statement(condition);
        let set = client.request("PUT", "/box", &[("policy", "")], policy.as_bytes());
        assert_eq!(set.status, 204, "{}", set.text());
        let (status, text) = Forgery::new(&server, "GET", "/box/secret")
            .unsigned("x-forwarded-for", "203.0.113.7")
            .unsigned("x-real-ip", "203.0.113.7")
            .unsigned("forwarded", "for=203.0.113.7;proto=https")
            .unsigned("x-forwarded-proto", "https")
            .unsigned("x-forwarded-ssl", "on")
            .unsigned("front-end-https", "on")
            .send();
        assert_eq!(status, 403, "{condition}: {text}");
    }
}

#[test]
fn a_denial_counts_before_any_leave() {
    let (dir, server) = server();
    let way = ["--data", &dir.path().join("data").display().to_string()];
    let (access, secret) = make_user(&way, "alice", &[]);
    let alice = Client::with_keys(&server.s3, &access, &secret);
    alice.create_bucket("hers");
    alice.put("/hers/open", b"open");
    alice.put("/hers/shut/one", b"shut");
    let allow = r#"{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::hers/*"}"#;
    let deny =
        r#"{"Effect":"Deny","Principal":"*","Action":"s3:Get*","Resource":"arn:aws:s3:::hers/shut/*"}"#;
    for statements in [format!("{allow},{deny}"), format!("{deny},{allow}")] {
        let policy = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
        assert_eq!(alice.request("PUT", "/hers", &[("policy", "")], policy.as_bytes()).status, 204);
        assert_eq!(alice.get("/hers/open"), b"open");
        assert_eq!(alice.request("GET", "/hers/shut/one", &[], b"").status, 403, "{statements}");
    }
}

#[test]
fn documents_that_explode_are_refused() {
    let (_dir, server) = server();
    let client = server.client();
    let entities: String =
        (1..12).map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10))).collect();
    let bomb = format!(
        "<!DOCTYPE x [<!ENTITY e0 \"x\">{entities}]><Delete><Object><Key>&e11;</Key></Object></Delete>"
    );
    let outside = "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><Delete><Object><Key>&e;</Key></Object></Delete>";
    let deep = format!("{}{}", "<a>".repeat(200_000), "</a>".repeat(200_000));
    let many = format!("<Delete>{}</Delete>", "<Object><Key>k</Key></Object>".repeat(1001));
    let large = format!("<Delete><Object><Key>{}</Key></Object></Delete>", "k".repeat(5 << 20));
    let before = server.peak_memory();
    for body in [bomb.as_str(), outside, &deep, &many, &large] {
        for query in
            ["delete", "tagging", "cors", "lifecycle", "versioning", "replication", "notification", "website"]
        {
            let method = if query == "delete" { "POST" } else { "PUT" };
            let answer = client.try_request(method, "/box", &[(query, "")], &[], body.as_bytes());
            // A body that is too long is not read to its end.
            if let Ok(answer) = answer {
                assert!((400..500).contains(&answer.status), "{query} {}: {}", answer.status, answer.text());
                assert!(!answer.text().contains("root:"), "{}", answer.text());
            }
        }
    }
    for policy in
        ["[".repeat(500_000), format!("{}1{}", r#"{"Statement":"#.repeat(10_000), "}".repeat(10_000))]
    {
        let answer = client.try_request("PUT", "/box", &[("policy", "")], &[], policy.as_bytes());
        assert!(answer.map_or(true, |answer| (400..500).contains(&answer.status)));
    }
    let grown = server.peak_memory() - before;
    assert!(grown < 128 << 20, "documents took {grown} bytes of memory");
    is_unharmed(&server);
}

#[test]
fn requests_cannot_be_smuggled() {
    let (_dir, server) = server();
    let inner = "GET /box/next HTTP/1.1\r\nhost: h\r\n\r\n";
    let heads = [
        // Two lengths, two codings, and both.
        format!("content-length: 0\r\ncontent-length: {}\r\n", inner.len()),
        format!("content-length: {0}\r\ntransfer-encoding: chunked\r\n", inner.len()),
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".to_owned(),
        "transfer-encoding: identity, chunked, x\r\n".to_owned(),
        "transfer-encoding : chunked\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        format!("content-length: +{}\r\n", inner.len()),
        format!("content-length: {}, {}\r\n", inner.len(), inner.len() + 1),
        "content-length: -1\r\n".to_owned(),
        "content-length: 99999999999999999999999\r\n".to_owned(),
        "x: y\r\n content-length: 5\r\n".to_owned(),
        "x: y\ncontent-length: 5\r\n".to_owned(),
    ];
    for head in heads {
        let answers =
            raw(&server, format!("PUT /box/new HTTP/1.1\r\nhost: h\r\n{head}\r\n{inner}").as_bytes());
        let answers = answers.to_lowercase();
        // At most an answer to the one request, or that and a refusal of what follows; never one that named the second.
        assert!(!answers.contains("/box/next") || head.starts_with("x: y\n"), "{head:?}: {answers}");
        assert!(!answers.contains(" 200 "), "{head:?}: {answers}");
    }
    is_unharmed(&server);
}

#[test]
fn lines_cannot_be_put_into_headers() {
    let (_dir, server) = server();
    let same = |signature: String| signature;
    for (name, value) in [
        ("response-content-type", "text%2Fhtml%0D%0Aset-cookie%3A%20a%3Db"),
        ("response-content-disposition", "a%0Ab"),
        ("response-cache-control", "a%00b"),
    ] {
        let mut request = Forgery::new(&server, "GET", "/box/secret");
        request.query.push((name.to_owned(), value.to_owned()));
        let (status, text) = request.by_query("60", same).send();
        assert!((400..=500).contains(&status), "{name}: {status} {text}");
    }
    for (name, value) in [
        ("x-amz-meta-a", "1%0D%0Ax-amz-acl%3A%20public-read"),
        ("x-amz-meta-a%0D%0Ab", "1"),
        ("x-amz-tagging", "a%0D%0A=b"),
    ] {
        let mut request = Forgery::new(&server, "PUT", "/box/new").body(b"new");
        request.query.push((name.to_owned(), value.to_owned()));
        let (status, text) = request.by_query("60", same).send();
        assert!((400..500).contains(&status), "{name}: {status} {text}");
    }
    is_unharmed(&server);
    let client = server.client();
    let redirect = [("x-amz-website-redirect-location", "/a\tb")];
    client.with_headers("PUT", "/box/redirect", &redirect, b"");
    let answer = client.request("HEAD", "/box/redirect", &[], b"");
    assert!(!answer.headers.contains_key("set-cookie"));
}

#[test]
fn numbers_at_their_edges_are_answered() {
    let (_dir, server) = server();
    let client = server.client();
    let edges = [
        "-1",
        "0",
        "2147483647",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "18446744073709551616",
        "1e9",
        "NaN",
        " 1",
    ];
    for number in edges {
        for query in [
            &[("list-type", "2"), ("max-keys", number)][..],
            &[("max-keys", number), ("versions", "")],
            &[("max-uploads", number), ("uploads", "")],
        ] {
            let answer = client.request("GET", "/box", query, b"");
            assert!(
                answer.status == 200 || (400..500).contains(&answer.status),
                "{query:?}: {}",
                answer.status
            );
        }
        for query in [&[("partNumber", number)][..], &[("versionId", number)]] {
            let answer = client.request("GET", "/box/secret", query, b"");
            assert!(answer.status < 500, "{query:?}: {}", answer.status);
        }
        for range in [
            format!("bytes={number}-"),
            format!("bytes=-{number}"),
            format!("bytes=0-{number}"),
            format!("bytes={number}-{number}"),
        ] {
            let answer = client.with_headers("GET", "/box/secret", &[("range", &range)], b"");
            assert!(answer.status < 500, "{range}: {}", answer.status);
        }
        let days = format!(
            "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>{number}</Days></DefaultRetention></Rule>"
        );
        let lock = format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{days}</ObjectLockConfiguration>"
        );
        let answer = client.request("PUT", "/box", &[("object-lock", "")], lock.as_bytes());
        assert!(answer.status < 500, "{number}: {}", answer.text());
        let life = format!(
            "<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status><Filter><Prefix>none/</Prefix></Filter><Expiration><Days>{number}</Days></Expiration></Rule></LifecycleConfiguration>"
        );
        let answer = client.request("PUT", "/box", &[("lifecycle", "")], life.as_bytes());
        assert!(answer.status < 500, "{number}: {}", answer.text());
    }
    is_unharmed(&server);
}

#[test]
fn secrets_are_not_in_logs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let mut command = common::command(&data, &[]);
    command.env("HOLDFAST_LOG", "trace,s3s=trace");
    let server = Server::spawn(command, &data);
    let way = ["--data", &data.display().to_string()];
    let client = server.client();
    client.create_bucket("box");
    client.put("/box/secret", b"the-words-of-an-object");
    let (access, secret) = make_user(&way, "alice", &[]);
    let alice = Client::with_keys(&server.s3, &access, &secret);
    alice.create_bucket("hers");
    alice.put("/hers/one", b"x");
    let session = alice.query("sts", "Action=GetSessionToken&Version=2011-06-15").text();
    let between = |name: &str| {
        let rest = session.split_once(&format!("<{name}>")).expect("it is there").1;
        rest.split_once('<').expect("it ends").0.to_owned()
    };
    order(&way, &["webhook", "create", "hook", "http://127.0.0.1:9/x", "--secret", "the-token-of-the-hook"]);
    order(
        &way,
        &[
            "remote",
            "create",
            "far",
            "--url",
            "http://127.0.0.1:9",
            "--access-key",
            "a",
            "--secret-key",
            "the-secret-of-the-remote",
        ],
    );
    let brought = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let own = [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption-customer-key", brought),
        ("x-amz-server-side-encryption-customer-key-md5", "hRasmdxgYDKV3nvbahU1MA=="),
    ];
    assert_eq!(client.with_headers("PUT", "/box/own", &own, b"x").status, 200);
    let presigned = Forgery::new(&server, "GET", "/box/secret").by_query("60", |signature| signature);
    assert_eq!(presigned.send().0, 200);
    client.impostor().request("GET", "/box/secret", &[], b"");
    let signature = presigned.query.last().expect("a signature").1.clone();
    let (session_secret, token) = (between("SecretAccessKey"), between("SessionToken"));
    drop(server);
    let log = std::fs::read_to_string(data.with_extension("log")).expect("a log");
    assert!(log.contains("DEBUG") && log.contains("/box/secret"), "the log is a full one");
    for secret in [
        SECRET_KEY,
        &secret,
        &session_secret,
        &token,
        "the-token-of-the-hook",
        "the-secret-of-the-remote",
        brought,
        &signature,
        "the-words-of-an-object",
        "not-the-secret",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
