//! S3 over one HTTP/1.1 connection at a time, signed with version 4.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// How long an answer may take, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client; clones share nothing.
#[derive(Clone)]
pub struct Client {
    address: String,
    access: String,
    secret: String,
    patience: Duration,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The content of all elements `name`.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        text.split(&open).skip(1).filter_map(|rest| rest.split(&close).next().map(str::to_owned)).collect()
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn encode(text: &str, slash: bool) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (!slash && byte == b'/');
    text.bytes()
        .map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Days since 1970 as a civil date (Howard Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn amz_date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    let seconds = now.as_secs() as i64;
    let (year, month, day) = civil(seconds / 86_400);
    let time = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

impl Client {
    pub fn with_keys(address: &str, access: &str, secret: &str) -> Self {
        Self {
            address: address.to_owned(),
            access: access.to_owned(),
            secret: secret.to_owned(),
            patience: PATIENCE,
        }
    }

    /// The same client, which waits so long for each answer.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same client with a secret that is not right.
    pub fn impostor(&self) -> Self {
        Self { secret: "not-the-secret".to_owned(), ..self.clone() }
    }

    /// The head of a signed request, but for its last lines.
    fn head(
        &self,
        service: &str,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        length: usize,
    ) -> String {
        let date = amz_date();
        let path = encode(path, false);
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name, true), encode(value, true)))
            .collect();
        let query = query.join("&");
        let mut signed: BTreeMap<String, String> =
            headers.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect();
        signed.insert("host".into(), self.address.clone());
        signed.insert("x-amz-date".into(), date.clone());
        signed.entry("x-amz-content-sha256".into()).or_insert_with(|| "UNSIGNED-PAYLOAD".into());
        let names: Vec<&str> = signed.keys().map(String::as_str).collect();
        let names = names.join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let payload = &signed["x-amz-content-sha256"];
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let scope = format!("{}/us-east-1/{service}/aws4_request", &date[..8]);
        let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
        let key = ["us-east-1", service, "aws4_request"]
            .iter()
            .fold(hmac(format!("AWS4{}", self.secret).as_bytes(), &date[..8]), |key, part| hmac(&key, part));
        let signature = hex::encode(hmac(&key, &to_sign));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
            self.access
        );
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let mut head = format!("{method} {target} HTTP/1.1\r\nauthorization: {authorization}\r\n");
        signed.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head + &format!("content-length: {length}\r\n")
    }

    /// A signed request on a connection of its own. `query` is sorted by name.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let head = self.head("s3", method, path, query, headers, body.len()) + "connection: close\r\n\r\n";
        exchange_within(self.patience, &self.address, head.as_bytes(), body, method == "HEAD")
    }

    /// Begins to fetch an object. What answers is read from the connection, as slowly as wanted.
    ///
    /// # Errors
    /// Where the server cannot be reached.
    pub fn open(&self, path: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address)?;
        let head = self.head("s3", "GET", path, &[], &[], 0) + "connection: close\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    }

    /// A form for IAM or STS.
    pub fn query(&self, service: &str, form: &str) -> Response {
        let hash = hex::encode(Sha256::digest(form.as_bytes()));
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("x-amz-content-sha256", hash.as_str())];
        let head = self.head(service, "POST", "/", &[], &headers, form.len()) + "connection: close\r\n\r\n";
        let answer = exchange_within(self.patience, &self.address, head.as_bytes(), form.as_bytes(), false);
        answer.expect("the server answers")
    }

    /// A connection that is kept.
    pub fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        Ok(Connection { client: self.clone(), reader: BufReader::with_capacity(1 << 18, stream) })
    }

    /// As [`Client::try_request`], where the server must answer.
    pub fn request(&self, method: &str, path: &str, query: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, path, query, &[], body).expect("the server answers")
    }

    pub fn with_headers(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, path, &[], headers, body).expect("the server answers")
    }

    pub fn create_bucket(&self, bucket: &str) {
        let response = self.request("PUT", &format!("/{bucket}"), &[], b"");
        assert_eq!(response.status, 200, "{}", response.text());
    }

    pub fn put(&self, path: &str, body: &[u8]) {
        let response = self.request("PUT", path, &[], body);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        let response = self.request("GET", path, &[], b"");
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.body
    }

    pub fn delete(&self, path: &str) {
        let response = self.request("DELETE", path, &[], b"");
        assert_eq!(response.status, 204, "{path}: {}", response.text());
    }

    /// All keys, page by page.
    pub fn list(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut token = String::new();
        loop {
            let mut query = vec![("list-type", "2"), ("max-keys", "700"), ("prefix", prefix)];
            if !token.is_empty() {
                query.push(("continuation-token", &token));
            }
            query.sort_unstable();
            let page = self.request("GET", &format!("/{bucket}"), &query, b"");
            assert_eq!(page.status, 200, "{}", page.text());
            keys.extend(page.elements("Key"));
            match page.elements("NextContinuationToken").pop() {
                Some(next) => token = next,
                None => return keys,
            }
        }
    }
}

/// An unsigned GET.
pub fn fetch(address: &str, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    exchange(address, head.as_bytes(), b"", false).map(|response| response.text()).unwrap_or_default()
}

/// Sends bytes as they are and reads one response.
pub fn exchange(address: &str, head: &[u8], body: &[u8], no_body: bool) -> io::Result<Response> {
    exchange_within(PATIENCE, address, head, body, no_body)
}

fn exchange_within(
    patience: Duration,
    address: &str,
    head: &[u8],
    body: &[u8],
    no_body: bool,
) -> io::Result<Response> {
    let address = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(head)?;
    // A server may answer and close before it has read everything.
    let sent = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    match read_response(&mut reader, no_body) {
        Err(_) if sent.is_err() => Err(sent.expect_err("it failed")),
        other => other,
    }
}

fn read_response(reader: &mut impl BufRead, no_body: bool) -> io::Result<Response> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no response"))?;
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    let mut body = Vec::new();
    let length = headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
    match length {
        _ if no_body || status == 204 => {}
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        None if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") => {
            read_chunks(reader, &mut body)?;
        }
        None => {
            reader.read_to_end(&mut body)?;
        }
    }
    Ok(Response { status, headers, body })
}

/// A kept connection, for load.
pub struct Connection {
    client: Client,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let head = self.client.head("s3", method, path, query, &[], body.len()) + "\r\n";
        self.reader.get_mut().write_all(head.as_bytes())?;
        self.reader.get_mut().write_all(body)?;
        read_response(&mut self.reader, method == "HEAD")
    }
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(());
        }
    }
}
