//! Requests signed with version 4 (docs.aws.amazon.com, "Signature Version 4"), any part of which a test may bend.

use super::{ACCESS_KEY, SECRET_KEY, Server, client::exchange};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A moment so many seconds from now, as signatures write it.
pub fn date(offset_s: i64) -> String {
    let shift = Duration::from_secs(offset_s.unsigned_abs());
    let now = SystemTime::now();
    let at = if offset_s < 0 { now - shift } else { now + shift };
    humantime::format_rfc3339_seconds(at).to_string().replace(['-', ':'], "")
}

/// A request to be signed. Path and query are as they are sent.
#[derive(Clone)]
pub struct Forgery {
    pub address: String,
    pub method: &'static str,
    pub path: String,
    /// Sorted by name.
    pub query: Vec<(String, String)>,
    /// In lower case, in the order in which they are sent.
    pub headers: Vec<(String, String)>,
    /// The names that `SignedHeaders` has.
    pub signed: Vec<String>,
    pub date: String,
    /// Date, region, service, end.
    pub scope: [String; 4],
    pub payload: String,
    pub body: Vec<u8>,
}

impl Forgery {
    pub fn new(server: &Server, method: &'static str, path: &str) -> Self {
        let date = date(0);
        let scope = [&date[..8], "us-east-1", "s3", "aws4_request"].map(str::to_owned);
        Self {
            address: server.s3.clone(),
            method,
            path: path.to_owned(),
            query: Vec::new(),
            headers: vec![("host".to_owned(), server.s3.clone())],
            signed: vec!["host".to_owned()],
            date,
            scope,
            payload: "UNSIGNED-PAYLOAD".to_owned(),
            body: Vec::new(),
        }
    }

    /// With a header that is sent, and signed.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.signed.push(name.to_owned());
        self.signed.sort();
        self.unsigned(name, value)
    }

    /// With a header that is sent, and not signed.
    pub fn unsigned(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }

    fn query_text(&self) -> String {
        self.query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    fn key(&self) -> Vec<u8> {
        let first = format!("AWS4{SECRET_KEY}").into_bytes();
        self.scope.iter().fold(first, |key, part| hmac(&key, part))
    }

    fn sign(&self) -> String {
        let line = |name: &String| {
            let values =
                self.headers.iter().filter(|(sent, _)| sent == name).map(|(_, value)| value.as_str());
            format!("{name}:{}\n", values.collect::<Vec<_>>().join(","))
        };
        let lines: String = self.signed.iter().map(line).collect();
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{}\n{}",
            self.method,
            self.path,
            self.query_text(),
            self.signed.join(";"),
            self.payload
        );
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.date,
            self.scope.join("/"),
            hash(canonical.as_bytes())
        );
        hex::encode(hmac(&self.key(), &to_sign))
    }

    /// The request signed in a header. The signature goes through `bend`, and is returned, too.
    pub fn by_header(mut self, bend: impl Fn(String) -> String) -> (Self, String) {
        for (name, value) in
            [("x-amz-date", self.date.clone()), ("x-amz-content-sha256", self.payload.clone())]
        {
            if !self.headers.iter().any(|(sent, _)| sent == name) {
                self = self.with(name, &value);
            }
        }
        let signature = bend(self.sign());
        let header = format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{},SignedHeaders={},Signature={signature}",
            self.scope.join("/"),
            self.signed.join(";")
        );
        (self.unsigned("authorization", &header), signature)
    }

    /// The request signed in its query, for so many seconds.
    pub fn by_query(mut self, expires: &str, bend: impl Fn(String) -> String) -> Self {
        let credential = format!("{ACCESS_KEY}/{}", self.scope.join("/")).replace('/', "%2F");
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", credential),
            ("X-Amz-Date", self.date.clone()),
            ("X-Amz-Expires", expires.to_owned()),
            ("X-Amz-SignedHeaders", self.signed.join("%3B")),
        ] {
            self.query.push((name.to_owned(), value));
        }
        self.query.sort();
        let signature = bend(self.sign());
        self.query.push(("X-Amz-Signature".to_owned(), signature));
        self
    }

    /// A body in signed chunks, whose chain begins with the head's signature.
    pub fn chunks(&self, seed: &str, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (key, scope, empty) = (self.key(), self.scope.join("/"), hash(b""));
        let mut before = seed.to_owned();
        let sign = |piece: &[u8], before: &str| {
            let text = format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{scope}\n{before}\n{empty}\n{}",
                self.date,
                hash(piece)
            );
            hex::encode(hmac(&key, &text))
        };
        let all = pieces.iter().copied().chain([&b""[..]]);
        all.map(|piece| {
            before = sign(piece, &before);
            let head = format!("{:x};chunk-signature={before}\r\n", piece.len());
            [head.as_bytes(), piece, b"\r\n"].concat()
        })
        .collect()
    }

    /// Sends it: the answer's status and text; 0 where the server only closes the connection.
    pub fn send(&self) -> (u16, String) {
        let query = self.query_text();
        let target = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        let mut head = format!("{} {target} HTTP/1.1\r\nconnection: close\r\n", self.method);
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if !self.headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        exchange(&self.address, head.as_bytes(), &self.body, self.method == "HEAD")
            .map_or((0, String::new()), |answer| (answer.status, answer.text()))
    }
}
