//! Files for whoever has a link: plain pages, and downloads. Nothing of what users store is ever shown here, it is only
//! handed out: a page that somebody stored must not act in the name of this one.

use super::{
    Peer,
    asked::RequestBody,
    refusals::{escaped, slow_down},
};
use crate::{
    clock::unix_ms,
    engine::EngineError,
    identity::{Who, devices},
    s3::{BucketView, S3Door, Scene},
    seats::{Seats, address_of},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::TryStreamExt;
use holdfast_core::ids::BucketId;
use holdfast_meta_raft_machine::{
    ask::{LinkOf, Listing, LookedUp, Object},
    command::{Command, Rejection},
    list::{Item, ListRequest},
    records::{ENCRYPTION, Link},
};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Frame,
    header::{self, HeaderValue},
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// What paths of links begin with: no bucket has such a name. `BUCKET/SECRET` follows, and a path.
pub const PREFIX: &str = "/-/links/";

/// Passwords that are checked at once, and of one address: each takes memory, and guessing is to be slow.
const GUESSES: usize = 2;
const GUESSES_OF_ONE: usize = 1;

/// Bytes of a form, and how long it may take to come.
const FORM_BYTES_MAX: usize = 4 << 10;
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Names on one page.
const NAMES: usize = 1000;

/// Seconds for which whoever has said a password is known.
const KNOWN_FOR: u32 = 3600;

/// Serves links.
#[derive(Clone)]
pub struct Links {
    door: S3Door,
    guesses: Arc<Semaphore>,
    of_one: Seats<IpAddr>,
}

/// A path below [`PREFIX`], taken apart.
struct Asked<'a> {
    bucket: &'a str,
    secret: [u8; 16],
    /// What of the link the path is about, decoded.
    rest: Vec<u8>,
    /// The path of the link's page.
    page: String,
}

/// A link that is good.
struct Found {
    link: Link,
    id: [u8; 32],
    view: Arc<BucketView>,
    scene: Scene,
}

impl<'a> Asked<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix(PREFIX)?.splitn(3, '/');
        let (bucket, text) = (parts.next()?, parts.next()?);
        let secret = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let rest = percent_decode_str(parts.next().unwrap_or_default()).collect();
        Some(Self { bucket, secret, rest, page: format!("{PREFIX}{bucket}/{text}") })
    }
}

/// A page.
fn page(status: StatusCode, title: &str, body: &str) -> Response<s3s::Body> {
    let title = escaped(title);
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#222}}\
         h1{{font-size:1.4rem;overflow-wrap:anywhere}}table{{width:100%;border-collapse:collapse}}\
         td{{padding:.35rem .25rem;border-top:1px solid #ddd;overflow-wrap:anywhere}}\
         td+td{{text-align:right;white-space:nowrap;color:#666}}a{{color:#0b5394}}\
         input,button{{font:inherit;padding:.3rem .6rem}}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    );
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    guard(headers);
    response
}

/// Has browsers keep nothing, tell nobody where somebody came from, and take files for what they are said to be.
fn guard(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn nothing() -> Response<s3s::Body> {
    page(StatusCode::NOT_FOUND, "Nothing here", "<p>The link is wrong, or has ended.</p>")
}

fn ask_password(asked: &Asked<'_>, wrong: bool) -> Response<s3s::Body> {
    let wrong = if wrong { "<p>That is not the password.</p>" } else { "" };
    let form = format!(
        "{wrong}<form method=\"post\" action=\"{}\"><input type=\"password\" name=\"password\" autofocus> \
         <button>Open</button></form>",
        escaped(&asked.page)
    );
    page(StatusCode::FORBIDDEN, "A password is needed", &form)
}

/// What a browser is known by that has said the password: it depends on what only this side knows.
fn token(asked: &Asked<'_>, hash: &str) -> blake3::Hash {
    blake3::keyed_hash(blake3::hash(hash.as_bytes()).as_bytes(), &asked.secret)
}

fn is_known(asked: &Asked<'_>, headers: &HeaderMap, hash: &str) -> bool {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut values = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix("link="));
    values.any(|value| blake3::Hash::from_hex(value).is_ok_and(|given| given == token(asked, hash)))
}

/// The name of a path's last component, for a file that is kept.
fn name_of(path: &[u8]) -> String {
    let bare = path.strip_suffix(b"/").unwrap_or(path);
    String::from_utf8_lossy(bare.rsplit(|byte| *byte == b'/').next().unwrap_or_default()).into_owned()
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    let digits = bytes.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    format!("{} bytes", groups.join("\u{a0}"))
}

impl Links {
    pub fn new(door: S3Door) -> Self {
        Self { door, guesses: Arc::new(Semaphore::new(GUESSES)), of_one: Seats::new(GUESSES_OF_ONE) }
    }

    /// Answers a request for a path below [`PREFIX`].
    pub(super) async fn answer(&self, request: Request<RequestBody>) -> Response<s3s::Body> {
        let Some(peer) = request.extensions().get::<Peer>().copied() else { return nothing() };
        let path = request.uri().path().to_owned();
        let Some(asked) = Asked::parse(&path) else { return nothing() };
        let found = match self.find(&asked, peer).await {
            Ok(Some(found)) => found,
            Ok(None) => return nothing(),
            Err(error) => {
                tracing::warn!(%error, "a link was not looked up");
                return slow_down();
            }
        };
        if let Some(hash) = &found.link.password
            && !is_known(&asked, request.headers(), hash)
        {
            return match *request.method() {
                Method::POST => self.take_password(request, &asked, hash, peer).await,
                _ => ask_password(&asked, false),
            };
        }
        let head = match *request.method() {
            Method::GET => false,
            Method::HEAD => true,
            _ => return page(StatusCode::METHOD_NOT_ALLOWED, "That cannot be done here", ""),
        };
        let answer = self.serve(&asked, &found, head).await;
        answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "what a link leads to was not read");
            slow_down()
        })
    }

    /// The link that a path names, if it is good.
    async fn find(&self, asked: &Asked<'_>, peer: Peer) -> Result<Option<Found>, EngineError> {
        let Ok((Some(view), _)) = self.door.look(asked.bucket, None).await else { return Ok(None) };
        let id = *blake3::hash(&asked.secret).as_bytes();
        let link = self.door.engine.meta().ask(LinkOf { bucket: view.bucket.id, id }).await?;
        let Some(link) = link.filter(|link| link.until_ms.is_none_or(|until| unix_ms() < until)) else {
            return Ok(None);
        };
        let Some(creator) = self.door.directory.now().principal(&link.creator) else { return Ok(None) };
        let scene = Scene::of_peer(Who::User(creator), view.clone(), peer);
        Ok(Some(Found { link, id, view, scene }))
    }

    async fn take_password(
        &self,
        request: Request<RequestBody>,
        asked: &Asked<'_>,
        hash: &str,
        peer: Peer,
    ) -> Response<s3s::Body> {
        let Some(seat) = self.of_one.take(address_of(peer.address)) else { return slow_down() };
        let body = timeout(FORM_TIMEOUT, Limited::new(request.into_body(), FORM_BYTES_MAX).collect()).await;
        let Ok(Ok(body)) = body else { return ask_password(asked, true) };
        let body = body.to_bytes();
        let given = form_urlencoded::parse(&body).find(|(name, _)| name == "password");
        let (given, kept) = (given.map(|(_, value)| value.into_owned()).unwrap_or_default(), hash.to_owned());
        let Ok(Ok(turn)) = timeout(FORM_TIMEOUT, self.guesses.clone().acquire_owned()).await else {
            return slow_down();
        };
        // It goes on where whoever asks is gone: so does what it takes.
        let check = move || {
            let _while_it_lasts = (seat, turn);
            devices::verify_hash(&kept, &given)
        };
        let checked = tokio::task::spawn_blocking(check).await;
        if !checked.unwrap_or(false) {
            tracing::warn!(address = %peer.address, bucket = asked.bucket, "a wrong password for a link");
            return ask_password(asked, true);
        }
        let secure = if peer.secure { "; Secure" } else { "" };
        let cookie = format!(
            "link={}; Path={}; Max-Age={KNOWN_FOR}; HttpOnly; SameSite=Strict{secure}",
            token(asked, hash).to_hex(),
            asked.page
        );
        let mut response = page(StatusCode::SEE_OTHER, "Open", "");
        let headers = response.headers_mut();
        if let (Ok(cookie), Ok(to)) = (cookie.parse(), asked.page.parse()) {
            headers.insert(header::SET_COOKIE, cookie);
            headers.insert(header::LOCATION, to);
        }
        response
    }

    async fn serve(
        &self,
        asked: &Asked<'_>,
        found: &Found,
        head: bool,
    ) -> Result<Response<s3s::Body>, EngineError> {
        let path = &found.link.path;
        let is_directory = path.is_empty() || path.ends_with(b"/");
        if is_directory && (asked.rest.is_empty() || asked.rest.ends_with(b"/")) {
            return self.list(asked, found, &[path.as_slice(), &asked.rest].concat()).await;
        }
        let key = match is_directory {
            true => [path.as_slice(), &asked.rest].concat(),
            false => path.clone(),
        };
        let Some(object) = self.object(found, &key).await? else { return Ok(nothing()) };
        if object.extra.documents.contains_key(ENCRYPTION) {
            let text = "<p>It is encrypted, and can be read by S3 alone.</p>";
            return Ok(page(StatusCode::FORBIDDEN, &name_of(&key), text));
        }
        if is_directory || !asked.rest.is_empty() {
            return self.hand_out(found, &key, *object, head).await;
        }
        let row = row(&asked.page, name_of(&key).as_bytes(), Some(object.version.bytes));
        let left = match found.link.downloads {
            Some(left) => format!("<p>It can be downloaded {left} more times.</p>"),
            None => String::new(),
        };
        Ok(page(StatusCode::OK, &name_of(&key), &format!("<table>{row}</table>{left}")))
    }

    /// The file of a key, if it is there and the link's maker may read it.
    async fn object(&self, found: &Found, key: &[u8]) -> Result<Option<Box<Object>>, EngineError> {
        let name = &found.view.bucket.name;
        let Ok((_, LookedUp::Found(object))) = self.door.look(name, Some((key.to_vec(), None))).await else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(key);
        let may = found.scene.may_sync("s3:GetObject", Some(&text), Some(&object.extra), false);
        Ok(Some(object).filter(|object| may && !object.extra.marker))
    }

    async fn hand_out(
        &self,
        found: &Found,
        key: &[u8],
        object: Object,
        head: bool,
    ) -> Result<Response<s3s::Body>, EngineError> {
        let bucket: BucketId = found.view.bucket.id;
        let version = &object.version;
        let mut response = Response::new(s3s::Body::empty());
        if !head {
            if found.link.downloads.is_some() {
                match self.door.engine.run(Command::CountDownload { bucket, id: found.id }).await {
                    Ok(_) => {}
                    Err(EngineError::Rejected(Rejection::PreconditionFailed)) => {
                        let text = "<p>It was downloaded as often as it may be.</p>";
                        return Ok(page(StatusCode::GONE, &name_of(key), text));
                    }
                    Err(EngineError::Rejected(_)) => return Ok(nothing()),
                    Err(error) => return Err(error),
                }
            }
            let content = self.door.engine.content(bucket, version, 0..version.bytes, None).await?;
            let pieces = content.map_ok(Frame::data).map_err(std::io::Error::other);
            *response.body_mut() = s3s::Body::http_body_unsync(StreamBody::new(pieces));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(version.bytes));
        let name = name_of(key);
        let name = percent_encode(name.as_bytes(), NON_ALPHANUMERIC);
        if let Ok(kept) = format!("attachment; filename*=UTF-8''{name}").parse() {
            headers.insert(header::CONTENT_DISPOSITION, kept);
        }
        guard(headers);
        Ok(response)
    }

    /// The page of a directory.
    async fn list(
        &self,
        asked: &Asked<'_>,
        found: &Found,
        directory: &[u8],
    ) -> Result<Response<s3s::Body>, EngineError> {
        let text = String::from_utf8_lossy(directory);
        if !found.scene.may_sync("s3:GetObject", Some(&text), None, false) {
            return Ok(nothing());
        }
        let wanted = ListRequest {
            prefix: directory.to_vec(),
            delimiter: b"/".to_vec(),
            max: NAMES,
            ..ListRequest::default()
        };
        let listing = Listing { bucket: found.view.bucket.id, wanted };
        let listed = self.door.engine.meta().ask(listing).await?;
        let mut rows = String::new();
        for item in &listed.items {
            let (key, bytes) = match item {
                Item::Object { key, summary } => (key, Some(summary.bytes)),
                Item::CommonPrefix(key) => (key, None),
            };
            let Some(name) = key.strip_prefix(directory).filter(|name| !name.is_empty()) else { continue };
            rows.push_str(&row(&asked.page, &[asked.rest.as_slice(), name].concat(), bytes));
        }
        let more = match listed.truncated {
            true => format!("<p>These are the first {NAMES}.</p>"),
            false => String::new(),
        };
        let name = match directory.is_empty() {
            true => found.view.bucket.name.clone(),
            false => name_of(directory),
        };
        Ok(page(StatusCode::OK, &name, &format!("<table>{rows}</table>{more}")))
    }
}

/// A line of a page: something below it, and its size where it is a file.
fn row(page: &str, path: &[u8], bytes: Option<u64>) -> String {
    let mut href = String::new();
    for part in path.split_inclusive(|byte| *byte == b'/') {
        let name = part.strip_suffix(b"/").unwrap_or(part);
        let slash = if name.len() < part.len() { "/" } else { "" };
        // Writing to a string cannot fail.
        let _done = write!(href, "{}{slash}", percent_encode(name, NON_ALPHANUMERIC));
    }
    let slash = if bytes.is_none() { "/" } else { "" };
    let shown = bytes.map(size).unwrap_or_default();
    let (page, name) = (escaped(page), escaped(&name_of(path)));
    format!("<tr><td><a href=\"{page}/{href}\">{name}{slash}</a></td><td>{shown}</td></tr>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_written_back() {
        let secret = BASE64_URL_SAFE_NO_PAD.encode([7; 16]);
        let path = format!("{PREFIX}docs/{secret}/a%20b/%FFc");
        let asked = Asked::parse(&path).expect("a path");
        assert_eq!((asked.bucket, asked.secret), ("docs", [7; 16]));
        assert_eq!(asked.rest, b"a b/\xffc");
        assert!(row(&asked.page, &asked.rest, Some(1)).contains(&format!("href=\"{path}\"")));
        for bad in ["", "docs", "docs/short", "docs/!!!!"] {
            assert!(Asked::parse(&format!("{PREFIX}{bad}")).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_do_no_harm_on_a_page() {
        let line = row("/-/links/docs/x", b"<script>\"&/<b>.txt", Some(1_234_567));
        assert!(!line.contains("<script>") && !line.contains("<b>"), "{line}");
        assert!(line.contains("&lt;b&gt;.txt") && line.contains("1\u{a0}234\u{a0}567 bytes"));
    }

    #[test]
    fn whoever_has_the_link_cannot_say_that_it_said_the_password() {
        let path = format!("{PREFIX}docs/{}", BASE64_URL_SAFE_NO_PAD.encode([7; 16]));
        let asked = Asked::parse(&path).expect("a path");
        let with = |cookie: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().expect("a cookie"));
            headers
        };
        let good = token(&asked, "its hash").to_hex();
        assert!(is_known(&asked, &with(format!("other=1; link={good}")), "its hash"));
        assert!(!is_known(&asked, &with(format!("link={good}")), "another hash"));
        let guessed = blake3::hash(&asked.secret).to_hex();
        assert!(!is_known(&asked, &with(format!("link={guessed}")), "its hash"));
    }
}
