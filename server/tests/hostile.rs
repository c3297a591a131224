//! Attacks, one named test for each class.

mod common;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use common::{ACCESS_KEY, SECRET_KEY, Server, client::exchange, with_secret as server};
use sha2::{Digest, Sha256};

/// The path and query of a presigned URL.
fn presigned(server: &Server, operation: &str, key: &str) -> String {
    let script = "import boto3, sys\nfrom botocore.config import Config\n\
        c = boto3.client('s3', endpoint_url='http://' + sys.argv[1], region_name='us-east-1', \
        aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3], config=Config(signature_version='s3v4'))\n\
        print(c.generate_presigned_url(sys.argv[4], {'Bucket': 'box', 'Key': sys.argv[5]}))";
    let output = std::process::Command::new("python3")
        .args(["-c", script, &server.s3, ACCESS_KEY, SECRET_KEY, operation, key])
        .output()
        .expect("python3 runs");
    let url = String::from_utf8(output.stdout).expect("a URL");
    url.trim().strip_prefix(&format!("http://{}", server.s3)).expect("this server's URL").to_owned()
}

fn send(server: &Server, request_line: &str, headers: &str, body: &[u8]) -> u16 {
    let head = format!(
        "{request_line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        server.s3,
        body.len()
    );
    exchange(&server.s3, head.as_bytes(), body, request_line.starts_with("HEAD"))
        .map_or(0, |response| response.status)
}

#[test]
fn a_copy_source_cannot_be_added_to_a_presigned_put() {
    let (_dir, server) = server();
    let url = presigned(&server, "put_object", "mine");
    let copy = "x-amz-copy-source: /box/secret\r\n";
    let claimed = "authorization: x SignedHeaders=host;x-amz-copy-source\r\n";
    let hidden = url.replace("X-Amz-SignedHeaders", "X-Amz-%53ignedHeaders");
    for (url, headers) in
        [(&url, copy.to_owned()), (&url, format!("{copy}{claimed}")), (&hidden, copy.to_owned())]
    {
        let status = send(&server, &format!("PUT {url}"), &headers, b"");
        assert!((400..500).contains(&status), "{status} for {headers}");
        assert_eq!(server.client().request("GET", "/box/mine", &[], b"").status, 404);
    }
    assert_eq!(send(&server, &format!("PUT {url}"), "", b"mine"), 200);
}

#[test]
fn forms_of_nobody_and_forms_that_are_bent_store_nothing() {
    let (_dir, server) = server();
    let headers = "content-type: multipart/form-data; boundary=b\r\n";
    let refused = |body: &[u8]| {
        let status = send(&server, "POST /box", headers, body);
        assert!((400..500).contains(&status), "{status}");
    };
    refused(&[b'x'; 100_000]);
    let field = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file =
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nbytes\r\n--b--\r\n";
    // Without a policy and a signature it is nobody's.
    refused((field("key", "new") + file).as_bytes());
    refused((field("key", "new") + &field("policy", "e30=") + file).as_bytes());
    refused(
        (field("key", "new") + &field("policy", "!") + &field("x-amz-signature", "00") + file).as_bytes(),
    );
    refused((field("key", "new") + &field("junk", &"x".repeat(1 << 20)) + file).as_bytes());
    assert_eq!(server.client().list("box", ""), ["secret"]);
}

#[test]
fn signatures_of_version_2_are_refused() {
    let (_dir, server) = server();
    let header = format!(
        "authorization: AWS {ACCESS_KEY}:AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    );
    let status = send(&server, "GET /box/secret", &header, b"");
    assert!((400..500).contains(&status), "{status}");
    let query = format!("GET /box/secret?AWSAccessKeyId={ACCESS_KEY}&Expires=4000000000&Signature=AAAA");
    let status = send(&server, &query, "content-type: x\r\n", b"");
    assert!((400..500).contains(&status), "{status}");
}

#[test]
fn nobody_is_let_in_without_a_signature() {
    let (_dir, server) = server();
    for request in [
        "GET /",
        "GET /box",
        "GET /box/secret",
        "HEAD /box/secret",
        "PUT /box/x",
        "DELETE /box/secret",
        "POST /box?delete",
        "POST /box/x?uploads",
        "PUT /new",
        "DELETE /box",
        "GET /box?uploads",
        "GET /box?location",
    ] {
        let status = send(&server, request, "", b"");
        assert!((400..500).contains(&status), "{status} for {request}");
    }
    let status = server.client().impostor().request("GET", "/box/secret", &[], b"").status;
    assert_eq!(status, 403);
    assert_eq!(server.client().get("/box/secret"), b"secret");
}

#[test]
fn what_a_write_demands_and_cannot_have_is_refused() {
    let (_dir, server) = server();
    for (header, status) in [
        ("x-amz-object-lock-mode", 400),
        ("x-amz-object-lock-legal-hold", 400),
        ("x-amz-server-side-encryption-customer-algorithm", 400),
        ("x-amz-server-side-encryption", 400),
        ("x-amz-write-offset-bytes", 501),
    ] {
        let response = server.client().with_headers("PUT", "/box/secret", &[(header, "1")], b"other");
        assert_eq!(response.status, status, "{header}");
    }
    // A subresource that is not known must not become the operation below it.
    assert_eq!(server.client().request("PUT", "/box/secret", &[("renameObject", "")], b"").status, 501);
    assert_eq!(server.client().request("DELETE", "/box/secret", &[("versionId", "abc")], b"").status, 400);
    let body = b"<Delete><Object><Key>secret</Key><VersionId>abc</VersionId></Object></Delete>";
    let response = server.client().request("POST", "/box", &[("delete", "")], body);
    assert!(response.text().contains("NoSuchVersion"), "{}", response.text());
    assert_eq!(server.client().get("/box/secret"), b"secret");
}

#[test]
fn keys_are_never_file_names() {
    let (dir, server) = server();
    let client = server.client();
    for key in ["../../escape", "..", "a/../../b", "/etc/passwd", "a//b", "%2e%2e/x", "nul%00"] {
        client.put(&format!("/box/{key}"), key.as_bytes());
        assert_eq!(client.get(&format!("/box/{key}")), key.as_bytes(), "{key}");
    }
    let strangers = common::files(dir.path()).into_iter().filter(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.contains("escape") || name.contains("passwd"))
    });
    assert_eq!(strangers.count(), 0);
}

#[test]
fn malformed_requests_get_an_answer_and_harm_nobody() {
    let (_dir, server) = server();
    let long = format!("GET /box/{}", "k".repeat(5000));
    for request in [
        "GET /box/%ff%fe",
        "GET /box/%zz",
        "GARBAGE",
        "GET",
        "PUT /BAD_BUCKET",
        "GET /box?list-type=2&max-keys=-1",
        "GET /box?list-type=2&continuation-token=%21",
        long.as_str(),
    ] {
        let status = send(&server, request, "", b"");
        assert!(status == 0 || (400..500).contains(&status), "{status} for {request}");
    }
    let client = server.client();
    assert_eq!(client.request("GET", "/box", &[("list-type", "2"), ("max-keys", "-1")], b"").status, 400);
    assert_eq!(
        client.request("GET", "/box", &[("continuation-token", "!"), ("list-type", "2")], b"").status,
        400
    );
    assert_eq!(client.request("POST", "/box", &[("delete", "")], b"<Delete>").status, 400);
    assert_eq!(client.request("PUT", &format!("/box/{}", "k".repeat(1025)), &[], b"").status, 400);
    assert_eq!(client.get("/box/secret"), b"secret");
}

#[test]
fn one_chunk_as_large_as_the_body_is_taken_in_pieces() {
    let (_dir, server) = server();
    let client = server.client();
    let body = common::noise(7, 128 << 20);
    let mut framed = format!("{:x}\r\n", body.len()).into_bytes();
    framed.extend_from_slice(&body);
    let sum = BASE64_STANDARD.encode(Sha256::digest(&body));
    framed.extend_from_slice(format!("\r\n0\r\nx-amz-checksum-sha256:{sum}\r\n\r\n").as_bytes());
    let length = body.len().to_string();
    let headers = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", length.as_str()),
        ("x-amz-trailer", "x-amz-checksum-sha256"),
    ];
    let before = server.peak_memory();
    let response = client.with_headers("PUT", "/box/one-chunk", &headers, &framed);
    assert_eq!(response.status, 200, "{}", response.text());
    let grown = server.peak_memory() - before;
    assert!(grown < 96 << 20, "one upload's chunk took {grown} bytes of memory");
    assert!(client.get("/box/one-chunk") == body);
    let signed = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("x-amz-decoded-content-length", length.as_str()),
    ];
    let head = format!("{:x};chunk-signature={}\r\n", body.len(), "0".repeat(64));
    let framed = [head.as_bytes(), &body, b"\r\n"].concat();
    let refused = client.try_request("PUT", "/box/signed", &[], &signed, &framed);
    assert!(refused.map_or(true, |response| (400..500).contains(&response.status)));
    assert_eq!(client.request("GET", "/box/signed", &[], b"").status, 404);
}

#[test]
fn a_list_of_deletions_that_was_changed_on_its_way_deletes_nothing() {
    let (_dir, server) = server();
    let client = server.client();
    let body = b"<Delete><Object><Key>secret</Key></Object></Delete>";
    let send = |name: &str, value: &str| {
        let response = client.try_request("POST", "/box", &[("delete", "")], &[(name, value)], body);
        response.expect("the server answers")
    };
    for (name, value) in [
        ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("content-md5", "?"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    ] {
        let response = send(name, value);
        assert_eq!(response.status, 400, "{name}");
        assert!(response.text().contains("BadDigest"), "{}", response.text());
    }
    assert_eq!(client.get("/box/secret"), b"secret");
    assert_eq!(send("content-md5", "RJX0cX/h65cUga2kpwL0Vw==").status, 200);
    assert_eq!(client.request("GET", "/box/secret", &[], b"").status, 404);
}

#[test]
fn connections_that_say_nothing_are_closed() {
    use std::io::{Read, Write};
    let (_dir, server) = server();
    let connect = |begun: &[u8]| {
        let mut stream = std::net::TcpStream::connect(&server.s3).expect("it listens");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(90))).expect("a socket");
        stream.write_all(begun).expect("it is open");
        stream
    };
    for mut stream in [&b""[..], b"P", b"GET / HTT"].map(connect) {
        let mut rest = Vec::new();
        // Closed, whether with a word or without; a time-out of ours would be an error.
        stream.read_to_end(&mut rest).expect("the server closes the connection");
    }
}

#[test]
fn a_body_that_was_never_asked_for_cannot_pass_for_a_request() {
    use std::io::{Read, Write};
    let (_dir, server) = server();
    for length in ["0", "1", "60"] {
        let mut stream = std::net::TcpStream::connect(&server.s3).expect("it listens");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(90))).expect("a socket");
        // A client that was refused before it sent the body goes on with its next request, though that is the body's place.
        let refused = format!(
            "PUT /box/key HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n\
             GET /box/next HTTP/1.1\r\nHost: h\r\n\r\n"
        );
        stream.write_all(refused.as_bytes()).expect("it is open");
        let mut answers = Vec::new();
        // The end may be a reset: what was sent after the head is thrown away unread.
        let _closed = stream.read_to_end(&mut answers);
        let answers = String::from_utf8_lossy(&answers).to_lowercase();
        assert!(answers.starts_with("http/1.1 403"), "{length}: {answers}");
        assert!(answers.contains("connection: close"), "{length}: {answers}");
        assert_eq!(answers.matches("http/1.1").count(), 1, "{length}: {answers}");
    }
}
