//! Forged requests: whatever part of a signature is bent, nothing is read and nothing is written.

mod common;

use common::{
    Server,
    forger::{Forgery, date},
    is_unharmed, with_secret as server,
};

fn as_it_is(signature: String) -> String {
    signature
}

/// The signature with one bit of one digit flipped.
fn flipped(signature: String) -> String {
    let (first, rest) = signature.split_at(1);
    let digit = u32::from_str_radix(first, 16).expect("a digit") ^ 1;
    format!("{digit:x}{rest}")
}

/// Refused, and nothing was written.
fn refused(server: &Server, request: &Forgery) {
    let (status, text) = request.send();
    assert!(status == 0 || (400..=501).contains(&status), "{status} {text}");
    assert!(!text.contains("secret") || text.contains("<Error>"), "{text}");
    is_unharmed(server);
}

fn get(server: &Server) -> Forgery {
    Forgery::new(server, "GET", "/box/secret")
}

fn put(server: &Server) -> Forgery {
    Forgery::new(server, "PUT", "/box/new").body(b"new")
}

#[test]
fn a_signature_with_a_flipped_bit_is_refused() {
    let (_dir, server) = server();
    assert_eq!(get(&server).by_header(as_it_is).0.send(), (200, "secret".to_owned()));
    assert_eq!(get(&server).by_query("60", as_it_is).send(), (200, "secret".to_owned()));
    let bent: [fn(String) -> String; 5] = [
        flipped,
        |signature| signature[..63].to_owned(),
        |signature| signature + "0",
        |_| String::new(),
        |signature| signature.to_uppercase() + "x",
    ];
    for bend in bent {
        refused(&server, &get(&server).by_header(bend).0);
        refused(&server, &put(&server).by_header(bend).0);
        refused(&server, &get(&server).by_query("60", bend));
        refused(&server, &put(&server).by_query("60", bend));
    }
}

#[test]
fn an_unsigned_trailer_does_not_excuse_a_bad_signature() {
    let (_dir, server) = server();
    let framed = b"3\r\nnew\r\n0\r\nx-amz-checksum-crc32:a+NERQ==\r\n\r\n";
    let streamed = || {
        let request = Forgery::new(&server, "PUT", "/box/new").body(framed);
        Forgery { payload: "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned(), ..request }
            .with("content-encoding", "aws-chunked")
            .with("x-amz-decoded-content-length", "3")
            .with("x-amz-trailer", "x-amz-checksum-crc32")
    };
    refused(&server, &streamed().by_header(flipped).0);
    let by_query = |bend: fn(String) -> String| {
        streamed().with("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER").by_query("60", bend)
    };
    refused(&server, &by_query(flipped));
    refused(&server, &streamed().unsigned("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"));
}

#[test]
fn x_amz_headers_that_are_not_signed_are_refused() {
    let (_dir, server) = server();
    for (name, value) in [
        ("x-amz-acl", "public-read"),
        ("x-amz-copy-source", "/box/secret"),
        ("x-amz-meta-colour", "red"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-security-token", "x"),
        ("x-amz-website-redirect-location", "/elsewhere"),
        ("x-amz-replication-status", "REPLICA"),
    ] {
        let added = |signed: Forgery| signed.unsigned(name, value);
        refused(&server, &added(put(&server).by_header(as_it_is).0));
        refused(&server, &added(put(&server).by_query("60", as_it_is)));
    }
}

#[test]
fn signed_headers_that_are_missing_or_doubled_are_refused() {
    let (_dir, server) = server();
    let names = |add: &[&str], remove: &str| {
        let mut request = get(&server);
        request.signed.extend(add.iter().map(|name| (*name).to_owned()));
        request.signed.retain(|name| name != remove);
        request
    };
    // It is not sent; it is named twice; the host is not signed.
    refused(&server, &names(&["x-amz-meta-absent"], "").by_header(as_it_is).0);
    refused(&server, &names(&["x-amz-meta-absent"], "").by_query("60", as_it_is));
    refused(&server, &names(&["host"], "").by_header(as_it_is).0);
    refused(&server, &names(&["host"], "").by_query("60", as_it_is));
    refused(&server, &names(&[], "host").by_header(as_it_is).0);
    refused(&server, &names(&[], "host").by_query("60", as_it_is));
    // Two values, of which one was signed.
    let (signed, _) = put(&server).with("x-amz-meta-a", "1").by_header(as_it_is);
    refused(&server, &signed.unsigned("x-amz-meta-a", "2"));
    let (signed, _) = put(&server).by_header(as_it_is);
    refused(&server, &signed.clone().unsigned("host", "elsewhere"));
    let header =
        signed.headers.iter().find(|(name, _)| name == "authorization").expect("it is signed").1.clone();
    refused(&server, &signed.clone().unsigned("authorization", &header));
    // By header and by query at once.
    let both = put(&server).by_query("60", as_it_is);
    refused(&server, &both.unsigned("authorization", &header));
}

#[test]
fn dates_that_are_skewed_are_refused() {
    let (_dir, server) = server();
    let at = |offset: i64| {
        let (mut request, date) = (get(&server), date(offset));
        request.scope[0] = date[..8].to_owned();
        Forgery { date, ..request }
    };
    for offset in [-20 * 60, 20 * 60, -8 * 24 * 3600, 8 * 24 * 3600] {
        refused(&server, &at(offset).by_header(as_it_is).0);
    }
    // A URL begins when it says, and ends.
    refused(&server, &at(-120).by_query("60", as_it_is));
    refused(&server, &at(30 * 60).by_query("60", as_it_is));
    assert_eq!(at(-120).by_query("300", as_it_is).send().0, 200);
    for expires in ["0", "-1", "604801", "18446744073709551616", "x", ""] {
        refused(&server, &at(0).by_query(expires, as_it_is));
    }
    // The signature's day is another one than the request's.
    let mut other_day = get(&server);
    other_day.scope[0] = date(-3 * 24 * 3600)[..8].to_owned();
    refused(&server, &other_day.clone().by_header(as_it_is).0);
    refused(&server, &other_day.by_query("60", as_it_is));
    for text in ["", "yesterday", "20260230T000000Z", "99999999T999999Z"] {
        let request = Forgery { date: text.to_owned(), ..get(&server) };
        refused(&server, &request.clone().by_header(as_it_is).0);
        refused(&server, &request.by_query("60", as_it_is));
    }
}

#[test]
fn signatures_for_something_else_are_refused() {
    let (_dir, server) = server();
    // Of regions there is one here, under any name that clients give it.
    for (place, other) in [(2, "sts"), (2, "iam"), (2, "ec2"), (3, "aws5_request"), (3, "")] {
        let mut request = get(&server);
        request.scope[place] = other.to_owned();
        refused(&server, &request.clone().by_header(as_it_is).0);
        refused(&server, &request.by_query("60", as_it_is));
    }
    // What was signed is another method, key, query or body.
    let (signed, _) = get(&server).by_header(as_it_is);
    refused(&server, &Forgery { method: "DELETE", ..signed.clone() });
    refused(&server, &Forgery { method: "PUT", path: "/box/new".to_owned(), ..signed.clone() });
    let query = vec![("tagging".to_owned(), String::new())];
    refused(&server, &Forgery { method: "DELETE", query, ..signed });
    let payload = "aca2c8c0d8a7a0ff6bfc5e3e5b0d9f8d3a1f2c7e6b5a49382716051423322110".to_owned();
    refused(&server, &Forgery { payload, ..put(&server) }.by_header(as_it_is).0);
}

/// A body of three signed chunks, and the last of none.
fn in_chunks(server: &Server) -> (Forgery, Vec<Vec<u8>>) {
    let pieces = [vec![b'a'; 8192], vec![b'b'; 8192], vec![b'c'; 100]];
    let request = Forgery {
        payload: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned(),
        ..Forgery::new(server, "PUT", "/box/new")
    };
    let request =
        request.with("content-encoding", "aws-chunked").with("x-amz-decoded-content-length", "16484");
    let (request, signature) = request.by_header(as_it_is);
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let chunks = request.chunks(&signature, &pieces);
    (request, chunks)
}

#[test]
fn chunks_that_are_swapped_cut_extended_or_bent_are_refused() {
    let (_dir, server) = server();
    let bend = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let (request, mut chunks) = in_chunks(&server);
        change(&mut chunks);
        refused(&server, &request.body(&chunks.concat()));
    };
    bend(&|chunks| chunks.swap(0, 1));
    bend(&|chunks| drop(chunks.remove(1)));
    bend(&|chunks| drop(chunks.remove(2)));
    bend(&|chunks| chunks.truncate(3));
    bend(&|chunks| chunks.truncate(2));
    bend(&|chunks| chunks.insert(1, chunks[0].clone()));
    bend(&|chunks| chunks.push(b"3;chunk-signature=00\r\nnew\r\n".to_vec()));
    bend(&|chunks| chunks.insert(3, b"3\r\nnew\r\n".to_vec()));
    bend(&|chunks| {
        let last = chunks[1].len() - 3;
        chunks[1][last] ^= 1;
    });
    bend(&|chunks| {
        let end = chunks[2].len();
        chunks[2].truncate(end - 50);
    });
    bend(&|chunks| {
        let text = String::from_utf8_lossy(&chunks[0]).replacen("chunk-signature=", "chunk-signature=0", 1);
        chunks[0] = text.into_bytes();
    });
    let (request, chunks) = in_chunks(&server);
    let answer = request.body(&chunks.concat()).send();
    assert_eq!(answer.0, 200, "{}", answer.1);
    assert_eq!(server.client().get("/box/new").len(), 16484);
}

#[test]
fn lengths_that_are_not_what_was_declared_are_refused() {
    let (_dir, server) = server();
    let framed = |decoded: &str, body: &[u8]| {
        let request = Forgery::new(&server, "PUT", "/box/new").body(body);
        let request = Forgery { payload: "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned(), ..request };
        request
            .with("content-encoding", "aws-chunked")
            .with("x-amz-decoded-content-length", decoded)
            .with("x-amz-trailer", "x-amz-checksum-crc32")
            .by_header(as_it_is)
            .0
    };
    let whole = b"3\r\nnew\r\n0\r\nx-amz-checksum-crc32:a+NERQ==\r\n\r\n";
    for decoded in ["0", "2", "4", "-3", "18446744073709551616", "9223372036854775808", "three", ""] {
        refused(&server, &framed(decoded, whole));
    }
    // Fewer bytes than the head says, and the connection ends.
    let (short, _) = put(&server).unsigned("content-length", "1000").by_header(as_it_is);
    {
        use std::io::{Read, Write};
        let mut head = "PUT /box/new HTTP/1.1\r\n".to_owned();
        short.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        let mut stream = std::net::TcpStream::connect(&server.s3).expect("it listens");
        stream.write_all(format!("{head}\r\nnew").as_bytes()).expect("it is open");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(server.client().list("box", ""), ["secret"]);
    assert_eq!(framed("3", whole).send(), (200, String::new()));
}

#[test]
fn heads_of_chunks_that_are_bent_are_refused() {
    let (_dir, server) = server();
    let long = "a".repeat(1 << 20);
    let heads = [
        "ffffffffffffffff\r\nnew\r\n0\r\n\r\n".to_owned(),
        "10000000000000003\r\nnew\r\n0\r\n\r\n".to_owned(),
        "-3\r\nnew\r\n0\r\n\r\n".to_owned(),
        "0x3\r\nnew\r\n0\r\n\r\n".to_owned(),
        "\r\nnew\r\n0\r\n\r\n".to_owned(),
        format!("3;{long}\r\nnew\r\n0\r\n\r\n"),
        format!("{}3\r\nnew\r\n0\r\n\r\n", "0".repeat(1 << 16)),
        format!("3\r\nnew\r\n0\r\nx-amz-checksum-crc32:{long}\r\n\r\n"),
        "3\r\nnewer\r\n0\r\n\r\n".to_owned(),
    ];
    for head in heads {
        let request = Forgery::new(&server, "PUT", "/box/new").body(head.as_bytes());
        let request = Forgery { payload: "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned(), ..request };
        let request =
            request.with("content-encoding", "aws-chunked").with("x-amz-decoded-content-length", "3");
        refused(&server, &request.by_header(as_it_is).0);
    }
}
