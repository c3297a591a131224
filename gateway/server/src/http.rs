//! Listeners: S3, and metrics on a port of its own.

mod asked;
mod heard;
mod links;
mod metrics_page;
mod patience;
mod refusals;
mod website;

pub use links::PREFIX as LINKS;
pub use metrics_page::serve_metrics;

use crate::{
    addressing::{self, Domains, Named, host_name},
    aws_chunked::Bounded,
    iam::{self, Iam},
    metrics::GatewayMetrics,
    s3::{BucketView, FORM_BYTES_MAX, FormFields, Query, S3Door, logging::FLUSH_EVERY},
    tls::DoorTls,
};
use asked::RequestBody;
use bytes::Bytes;
use futures::TryStreamExt;
use heard::{Answered, Heard};
use http_body_util::{BodyDataStream, BodyExt, Limited, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use links::Links;
use refusals::{
    as_s3_refuses, escaped, quote_etag, refusal_of, refuse, refused_at_once, rewritten, slow_down,
};
use s3s::service::S3Service;
use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tracing::Instrument;
use website::Visit;

/// Connections that are served at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;

/// How long a client may take over the head of a request, and leave a connection silent before the next.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave an answer unread: what it does not take holds memory that others wait for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a listener waits for descriptors to come free before it looks again.
const DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);

/// Requests that are worked on at once, of all connections together; more are asked to come again.
const REQUESTS_MAX: usize = 4096;

/// Requests of one connection of HTTP/2 at once.
const STREAMS_MAX: u32 = 128;

/// Bytes of headers that a request may have.
const HEADERS_MAX: u32 = 64 << 10;

/// How often a silent connection of HTTP/2 is asked whether its client is still there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Bytes that a client of HTTP/2 may send ahead: on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Forms that are taken at once: each is held in memory.
const FORMS_MAX: usize = 4;

/// Forms for the interfaces of identities that are read at once.
const QUERIES_MAX: usize = 128;

/// How long a form may take to come.
const FORM_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that a connection reads at once, at most: large bodies come in few pieces.
const READ_BUFFER: usize = 512 << 10;

/// How long requests may go on after the process was told to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// The listener failed.
#[derive(Debug, Error)]
#[error("accepting connections: {0}")]
pub struct ServeError(#[from] std::io::Error);

/// Where a connection comes from, and whether it is encrypted. What headers say of it is not believed.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
    pub secure: bool,
}

/// A status that an operation sets where s3s knows only its own.
#[derive(Debug, Clone, Copy)]
pub struct Status(pub StatusCode);

/// How a door is called, and whether it speaks TLS.
#[derive(Clone, Default)]
pub struct Doorway {
    pub domains: Domains,
    pub tls: Option<DoorTls>,
}

/// Serves S3 on `listener` until `stop` ends, then lets requests finish.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    door: S3Door,
    doorway: Doorway,
    metrics: GatewayMetrics,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let forms = Arc::new(Semaphore::new(FORMS_MAX));
    let Doorway { domains, tls } = doorway;
    let service = door.service(domains.clone());
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let queries = Arc::new(Semaphore::new(QUERIES_MAX));
    let iam = Iam::new(door.clone());
    let links = Links::new(door.clone());
    let front = Front { service, iam, links, door, domains, metrics, forms, queries, requests };
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stop = std::pin::pin!(stop);
    let mut tasks = JoinSet::new();
    if let Some(tls) = tls.clone() {
        tasks.spawn(tls.follow());
    }
    let log = front.door.clone();
    let (stop_writing, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(FLUSH_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The last lines are those of requests that were let finish.
                _ = &mut stopped => break,
            }
            log.flush_log().await;
        }
        log.flush_log().await;
    });
    loop {
        while tasks.try_join_next().is_some() {}
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let Some((stream, address)) = usable(accepted).await? else { continue };
        let (front, tls, watcher) = (front.clone(), tls.clone(), graceful.watcher());
        tasks.spawn(async move {
            let peer = Peer { address, secure: tls.is_some() };
            match tls {
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(HEADER_TIMEOUT, tls.acceptor.accept(stream)).await {
                        let is_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        front.converse(stream, is_2, peer, watcher).await;
                    }
                }
                None => {
                    let mut first = [0; 4];
                    let begun = timeout(HEADER_TIMEOUT, stream.peek(&mut first)).await;
                    if let Ok(Ok(_)) = begun {
                        // No method of version 1 begins so.
                        front.converse(stream, first.starts_with(b"PRI "), peer, watcher).await;
                    }
                }
            }
            drop(permit);
        });
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running when the process stopped");
    }
    tasks.shutdown().await;
    drop(stop_writing);
    if timeout(DRAIN, writing).await.is_err() {
        tracing::warn!("parts of access logs could not be written before the process stopped");
    }
    Ok(())
}

/// A connection with small answers sent at once; `None` where the client is gone again.
async fn usable(
    accepted: std::io::Result<(TcpStream, SocketAddr)>,
) -> std::io::Result<Option<(TcpStream, SocketAddr)>> {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    match accepted {
        Ok((stream, address)) => Ok(stream.set_nodelay(true).is_ok().then_some((stream, address))),
        Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) => Ok(None),
        // Out of descriptors: those that are served will give some back.
        Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
            tracing::warn!(%error, "connections wait: raise the limit of open files");
            tokio::time::sleep(DESCRIPTORS_PAUSE).await;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What answers requests.
#[derive(Clone)]
struct Front {
    service: S3Service,
    door: S3Door,
    domains: Domains,
    iam: Iam,
    links: Links,
    metrics: GatewayMetrics,
    forms: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

/// What a request is about, by its host and its path.
struct Place {
    /// Empty where it is about none.
    bucket: String,
    /// The path is the key's alone: the host names the bucket.
    by_host: bool,
    /// The host is no name under the service's domains, and a bucket's own.
    foreign: bool,
    /// The website that is visited.
    website: Option<Arc<BucketView>>,
}

impl Front {
    /// Answers the requests of one connection.
    async fn converse<I>(self, stream: I, is_2: bool, peer: Peer, watcher: Watcher)
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let answer = service_fn(move |request| {
            let front = self.clone();
            async move {
                let answer = front.answer(peer, request).await?;
                let patient = |body| if is_2 { patience::patient(body, WRITE_TIMEOUT) } else { body };
                Ok::<_, s3s::HttpError>(answer.map(patient))
            }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let stream = TokioIo::new(Box::pin(stream));
        let ended = if is_2 {
            let mut server = http2::Builder::new(TokioExecutor::new());
            server
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_EVERY)
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEADERS_MAX)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            watcher.watch(server.serve_connection(stream, answer)).await
        } else {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_BUFFER);
            watcher.watch(server.serve_connection(stream, answer)).await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }

    /// What a request's host and path are about.
    async fn place(&self, request: &Request<RequestBody>) -> s3s::S3Result<Place> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host_name(host.unwrap_or_default());
        let by_host = |bucket: &str, website| Place {
            bucket: bucket.to_owned(),
            by_host: true,
            foreign: false,
            website,
        };
        let by_path = || {
            let path = request.uri().path().trim_start_matches('/');
            let bucket = path.split('/').next().unwrap_or_default().to_owned();
            Place { bucket, by_host: false, foreign: false, website: None }
        };
        let no_bucket = || s3s::s3_error!(NoSuchBucket, "The specified bucket does not exist");
        Ok(match self.domains.named(&host) {
            Named::Nothing => by_path(),
            Named::Bucket(bucket) => by_host(bucket, None),
            Named::Website(bucket) => {
                let (view, _) = self.door.look(bucket, None).await?;
                by_host(bucket, Some(view.ok_or_else(no_bucket)?))
            }
            Named::Foreign(name) => match self.door.look(name, None).await?.0 {
                // Browsers visit; programs sign.
                Some(view) => {
                    let signed = request.headers().contains_key(header::AUTHORIZATION)
                        || request.uri().query().is_some_and(|query| query.contains("X-Amz-Signature"));
                    let visited = view.website.is_some() && !signed;
                    Place { foreign: true, ..by_host(name, Some(view).filter(|_| visited)) }
                }
                None => by_path(),
            },
        })
    }

    async fn answer(
        &self,
        peer: Peer,
        mut request: Request<Incoming>,
    ) -> Result<Response<s3s::Body>, s3s::HttpError> {
        let start = std::time::Instant::now();
        if !request.headers().contains_key(header::HOST)
            && let Some(authority) = request.uri().authority()
            && let Ok(host) = header::HeaderValue::from_str(authority.as_str())
        {
            // HTTP/2 says it elsewhere.
            request.headers_mut().insert(header::HOST, host);
        }
        let method = request.method().clone();
        // Who has a link's path has the link: no log has it.
        let path = request.uri().path();
        let path = if path.starts_with(LINKS) { LINKS } else { path }.to_owned();
        let id = format!("{:016X}", rand::random::<u64>());
        let origin = request.headers().get(header::ORIGIN).cloned();
        let wanted_method = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let wanted_method = wanted_method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
        request.extensions_mut().insert(peer);
        let _flight = InFlight::enter(&self.metrics);
        let span = tracing::info_span!("request", id, %method, path);
        let heard = Heard::of(&mut request);
        let (head, body) = request.into_parts();
        let (body, expectation) = RequestBody::of(body, head.version, &head.headers);
        let request = Request::from_parts(head, body);
        let mut bucket = String::new();
        let mut response = match self.requests.try_acquire() {
            Err(_) => slow_down(),
            Ok(_permit) => match self.place(&request).await {
                Err(refused) => refusal_of(&refused),
                Ok(place) => {
                    bucket.clone_from(&place.bucket);
                    let foreign = place.foreign.then(|| place.bucket.clone());
                    let carried = self.carry_out(request, &id, &place).instrument(span);
                    addressing::with_foreign(foreign, carried).await?
                }
            },
        };
        if let Some(Status(status)) = response.extensions_mut().remove::<Status>() {
            *response.status_mut() = status;
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .entry(header::RETRY_AFTER)
                .or_insert(header::HeaderValue::from_static("1"));
        }
        let mut code = None;
        let status = response.status();
        let is_xml =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/xml");
        if (status.is_client_error() || status.is_server_error()) && is_xml && method != Method::HEAD {
            let named = format!("<Resource>{}</Resource><RequestId>{id}</RequestId></Error>", escaped(&path));
            let edit = |text: &str| {
                let rest = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once('<'));
                code = rest.map(|(code, _)| code.to_owned());
                text.replacen("</Error>", &named, 1)
            };
            response = rewritten(response, edit).await;
        }
        if let Some(view) = self.door.seen(&bucket)
            && let Some(target) = &view.logging
        {
            let (code, took) = (code.as_deref(), start.elapsed());
            let answered = Answered { status, id: &id, code, took, sent: &response };
            heard.log(&self.door, &view, target, peer, &answered);
        }
        if let Some(origin) = origin.as_ref().and_then(|origin| origin.to_str().ok())
            && method != Method::OPTIONS
        {
            let meant = wanted_method.as_ref().unwrap_or(&method);
            self.door.tell_origin(&bucket, meant, origin, response.headers_mut());
        }
        if let Ok(id) = header::HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-amz-request-id", id);
        }
        if expectation.is_pending() {
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        let label = method_label(&method);
        self.metrics.requests.with_label_values(&[label, status.as_str()]).inc();
        self.metrics.request_seconds.with_label_values(&[label]).observe(start.elapsed().as_secs_f64());
        if status.is_server_error() {
            tracing::warn!(%method, path, %status, request_id = id, "a request failed");
        } else {
            tracing::debug!(%method, path, %status, request_id = id, "answered");
        }
        Ok(response)
    }

    /// A form is read into memory before anybody knows who sent it: few at a time, and none for long.
    async fn take_form(&self, request: Request<RequestBody>) -> Result<Response<s3s::Body>, s3s::HttpError> {
        let Ok(_permit) = self.forms.try_acquire() else { return Ok(slow_down()) };
        let answer = async {
            let (mut head, body) = request.into_parts();
            let Ok(body) = Limited::new(body, FORM_BYTES_MAX).collect().await else {
                return Ok(refuse(
                    StatusCode::BAD_REQUEST,
                    "EntityTooLarge",
                    "Your proposed upload exceeds the maximum allowed size",
                ));
            };
            let body = body.to_bytes();
            let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let (fields, body) = FormFields::resolve(kind.unwrap_or_default(), body).await;
            if fields.malformed {
                return Ok(refuse(
                    StatusCode::BAD_REQUEST,
                    "MalformedPOSTRequest",
                    "The body of your POST request is not well-formed multipart/form-data.",
                ));
            }
            if fields.misdated {
                return Ok(refuse(
                    StatusCode::BAD_REQUEST,
                    "InvalidPolicyDocument",
                    "Invalid Policy: Invalid 'expiration' value",
                ));
            }
            if fields.unsigned {
                return Ok(refuse(
                    StatusCode::BAD_REQUEST,
                    "InvalidArgument",
                    "Bucket POST must contain a field named 'x-amz-signature'. If it is specified, please check the order of the fields.",
                ));
            }
            head.headers.remove(header::CONTENT_LENGTH);
            head.extensions.insert(fields);
            let answer = self.service.call(Request::from_parts(head, s3s::Body::from(body))).await?;
            Ok(as_s3_refuses(quote_etag(answer)).await)
        };
        tokio::time::timeout(FORM_TIMEOUT, answer).await.unwrap_or_else(|_| Ok(slow_down()))
    }

    /// A form for the interfaces of identities.
    async fn take_query(&self, request: Request<RequestBody>, id: &str) -> Response<s3s::Body> {
        let Ok(permit) = self.queries.try_acquire() else { return slow_down() };
        let (head, body) = request.into_parts();
        let body = Limited::new(body, iam::FORM_BYTES_MAX).collect();
        let Ok(Ok(body)) = tokio::time::timeout(FORM_TIMEOUT, body).await else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "MalformedQueryString",
                "The form is too large or too slow",
            );
        };
        drop(permit);
        let Some(peer) = head.extensions.get::<Peer>().copied() else { return slow_down() };
        self.iam.answer(&head.headers, head.uri.path(), body.to_bytes(), peer, id).await
    }

    async fn carry_out(
        &self,
        mut request: Request<RequestBody>,
        id: &str,
        place: &Place,
    ) -> Result<Response<s3s::Body>, s3s::HttpError> {
        if request.method() == Method::OPTIONS {
            let answer = self.door.preflight(&place.bucket, request.headers()).await;
            return Ok(answer.unwrap_or_else(|refused| refusal_of(&refused)));
        }
        if let Some(bucket) = &place.website {
            let (head, _) = request.into_parts();
            let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let visit = Visit {
                method: &head.method,
                path: head.uri.path(),
                host: host.unwrap_or_default(),
                headers: &head.headers,
                secure: head.extensions.get::<Peer>().is_some_and(|peer| peer.secure),
                extensions: head.extensions.clone(),
            };
            return self.visit(visit, bucket).await;
        }
        if !place.by_host && request.uri().path().starts_with(LINKS) {
            return Ok(self.links.answer(request).await);
        }
        if is_form(&request) {
            return self.take_form(request).await;
        }
        if !place.by_host && iam::is_form(request.method(), request.uri().path(), request.headers()) {
            return Ok(self.take_query(request, id).await);
        }
        let path = request.uri().path().trim_start_matches('/');
        let key = if place.by_host { path } else { path.split_once('/').map_or("", |(_, key)| key) };
        let of_object = !key.is_empty();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        if let Some(refused) = refused_at_once(&request, &query, of_object) {
            return Ok(refused);
        }
        let attributes = of_object && request.method() == Method::GET && query.get("attributes").is_some();
        if !hoist(&mut request) {
            return Ok(refuse(
                StatusCode::BAD_REQUEST,
                "InvalidArgument",
                "A header in the query is malformed",
            ));
        }
        let mut response = self.service.call(bounded(request)).await?;
        if attributes && response.status() == StatusCode::OK {
            // Here alone S3 leaves an entity tag's quotes away.
            let bare = |text: &str| {
                let text = text.replace("&quot;", "\"");
                text.replace("<ETag>\"", "<ETag>").replace("\"</ETag>", "</ETag>")
            };
            response = rewritten(response, bare).await;
        }
        Ok(response)
    }
}

/// Presigned URLs may carry `x-amz-*` headers in their query, where they are signed like all of it. Here they become headers,
/// so that what judges a request and what carries it out read the same. Whether all of them could.
fn hoist(request: &mut Request<RequestBody>) -> bool {
    const SIGNATURE: [&str; 7] = [
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-expires",
        "x-amz-signedheaders",
        "x-amz-signature",
        "x-amz-content-sha256",
    ];
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if query.get("X-Amz-Signature").is_none() {
        return true;
    }
    for (name, value) in query.pairs() {
        let name = name.to_ascii_lowercase();
        if !name.starts_with("x-amz-") || SIGNATURE.contains(&name.as_str()) {
            continue;
        }
        if name.contains("-customer-key") {
            // A URL is written down in too many places to hold a key.
            return false;
        }
        let (Ok(name), Ok(value)) =
            (header::HeaderName::from_bytes(name.as_bytes()), header::HeaderValue::from_str(value))
        else {
            return false;
        };
        request.headers_mut().entry(name).or_insert(value);
    }
    true
}

/// The bytes of a small body as they came, for whoever holds them against a digest in the request's head.
#[derive(Clone, Default)]
pub struct RawBody(Arc<Mutex<Vec<Bytes>>>);

impl RawBody {
    /// What has been read of the body so far, in pieces.
    pub fn pieces(&self) -> Vec<Bytes> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request with a body that s3s can take without growing beyond bounds.
fn bounded(mut request: Request<RequestBody>) -> Request<s3s::Body> {
    let framed = request.headers().get("x-amz-content-sha256").map(|kind| kind.as_bytes().to_vec());
    if let Some(kind) = framed.filter(|kind| kind.starts_with(b"STREAMING-")) {
        return request.map(|body| {
            let bounded = Bounded::new(BodyDataStream::new(body), kind.ends_with(b"-TRAILER"));
            s3s::Body::http_body_unsync(StreamBody::new(bounded.map_ok(Frame::data)))
        });
    }
    let query = request.uri().query().unwrap_or_default();
    if request.method() == Method::POST
        && query.split('&').any(|pair| pair.split('=').next() == Some("delete"))
    {
        let raw = RawBody::default();
        request.extensions_mut().insert(raw.clone());
        return request.map(|body| {
            let keep = move |piece: &Bytes| raw.lock().push(piece.clone());
            let kept = BodyDataStream::new(body).inspect_ok(keep).map_ok(Frame::data);
            s3s::Body::http_body_unsync(StreamBody::new(kept))
        });
    }
    request.map(s3s::Body::http_body)
}

/// A form of a browser.
fn is_form(request: &Request<RequestBody>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    request.method() == Method::POST && kind.is_some_and(|kind| kind.starts_with(b"multipart/form-data"))
}

/// A request's method as a label: what clients make up is not one.
fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET | Method::PUT | Method::POST | Method::DELETE | Method::HEAD | Method::OPTIONS => {
            method.as_str()
        }
        _ => "other",
    }
}

/// Counts a request as long as it is being served, however that ends.
struct InFlight<'a>(&'a GatewayMetrics);

impl<'a> InFlight<'a> {
    fn enter(metrics: &'a GatewayMetrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
