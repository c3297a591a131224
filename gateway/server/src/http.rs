//! Listeners: S3, and metrics on a port of its own.

use crate::{
    aws_chunked::Bounded,
    iam::{self, Iam},
    metrics::GatewayMetrics,
    s3::{FORM_BYTES_MAX, FormFields, Query, REGION, S3Door, bucket_of},
};
use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyDataStream, BodyExt, Full, Limited, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use percent_encoding::percent_decode_str;
use prometheus::{Encoder as _, Registry, TextEncoder};
use s3s::service::S3Service;
use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tracing::Instrument;

/// Connections that are served at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;

/// How long a client may take over the head of a request, and leave a connection silent before the next.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave an answer unread: what it does not take holds memory that others wait for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a listener waits for descriptors to come free before it looks again.
const DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);

/// Forms that are taken at once: each is held in memory.
const FORMS_MAX: usize = 4;

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

/// Serves S3 on `listener` until `stop` ends, then lets requests finish.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    door: S3Door,
    metrics: GatewayMetrics,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let forms = Arc::new(Semaphore::new(FORMS_MAX));
    let front = Front { service: door.service(), iam: Iam::new(door.clone()), door, metrics, forms };
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_BUFFER);
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stop = std::pin::pin!(stop);
    let mut tasks = JoinSet::new();
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
        let (front, peer) = (front.clone(), Peer { address, secure: false });
        let answer = service_fn(move |request| {
            let front = front.clone();
            async move { front.answer(peer, request).await }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = graceful.watch(server.serve_connection(stream, answer));
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running when the process stopped");
    }
    tasks.shutdown().await;
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
    iam: Iam,
    metrics: GatewayMetrics,
    forms: Arc<Semaphore>,
}

impl Front {
    async fn answer(
        &self,
        peer: Peer,
        mut request: Request<Incoming>,
    ) -> Result<Response<s3s::Body>, s3s::HttpError> {
        let start = std::time::Instant::now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let id = format!("{:016X}", rand::random::<u64>());
        let origin = request.headers().get(header::ORIGIN).cloned();
        let wanted_method = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let wanted_method = wanted_method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
        request.extensions_mut().insert(peer);
        let _flight = InFlight::enter(&self.metrics);
        let span = tracing::info_span!("request", id, %method, path);
        let mut response = self.carry_out(request, &id).instrument(span).await?;
        if let Some(Status(status)) = response.extensions_mut().remove::<Status>() {
            *response.status_mut() = status;
        }
        let status = response.status();
        let is_xml =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/xml");
        if (status.is_client_error() || status.is_server_error()) && is_xml && method != Method::HEAD {
            let named = format!("<Resource>{}</Resource><RequestId>{id}</RequestId></Error>", escaped(&path));
            response = rewritten(response, |text| text.replacen("</Error>", &named, 1)).await;
        }
        if let Some(origin) = origin.as_ref().and_then(|origin| origin.to_str().ok())
            && method != Method::OPTIONS
        {
            let meant = wanted_method.as_ref().unwrap_or(&method);
            self.door.tell_origin(bucket_of(&path), meant, origin, response.headers_mut());
        }
        if let Ok(id) = header::HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-amz-request-id", id);
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
    async fn take_form(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, s3s::HttpError> {
        let Ok(_permit) = self.forms.try_acquire() else { return Ok(refuse_form()) };
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
            Ok(as_s3_refuses(answer).await)
        };
        tokio::time::timeout(FORM_TIMEOUT, answer).await.unwrap_or_else(|_| Ok(refuse_form()))
    }

    /// A form for the interfaces of identities.
    async fn take_query(&self, request: Request<Incoming>, id: &str) -> Response<s3s::Body> {
        let Ok(_permit) = self.forms.try_acquire() else { return refuse_form() };
        let (head, body) = request.into_parts();
        let body = Limited::new(body, iam::FORM_BYTES_MAX).collect();
        let Ok(Ok(body)) = tokio::time::timeout(FORM_TIMEOUT, body).await else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "MalformedQueryString",
                "The form is too large or too slow",
            );
        };
        let Some(peer) = head.extensions.get::<Peer>().copied() else { return refuse_form() };
        self.iam.answer(&head.headers, head.uri.path(), body.to_bytes(), peer, id).await
    }

    async fn carry_out(
        &self,
        mut request: Request<Incoming>,
        id: &str,
    ) -> Result<Response<s3s::Body>, s3s::HttpError> {
        if request.method() == Method::OPTIONS {
            let bucket = bucket_of(request.uri().path());
            let answer = self.door.preflight(bucket, request.headers()).await;
            return Ok(answer.unwrap_or_else(|refused| refusal_of(&refused)));
        }
        if is_form(&request) {
            return self.take_form(request).await;
        }
        if iam::is_form(request.method(), request.uri().path(), request.headers()) {
            return Ok(self.take_query(request, id).await);
        }
        if signed_elsewhere(&request) {
            return Ok(refuse_region());
        }
        if request.headers().get(header::AUTHORIZATION).is_some_and(|value| value.is_empty()) {
            return Ok(refuse(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied"));
        }
        if request.headers().get("content-md5").is_some_and(|value| value.is_empty()) {
            return Ok(refuse(
                StatusCode::BAD_REQUEST,
                "InvalidDigest",
                "The Content-MD5 you specified was invalid.",
            ));
        }
        if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
            return Ok(refuse(StatusCode::BAD_REQUEST, "InvalidURI", "Couldn't parse the specified URI."));
        }
        let of_object = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split_once('/')
            .is_some_and(|(_, key)| !key.is_empty());
        let attributes = of_object
            && request.method() == Method::GET
            && Query::parse(request.uri().query().unwrap_or_default()).get("attributes").is_some();
        let unasked = expects_nothing(&request);
        if !hoist(&mut request) {
            return Ok(refuse(
                StatusCode::BAD_REQUEST,
                "InvalidArgument",
                "A header in the query is malformed",
            ));
        }
        let mut response = self.service.call(bounded(request)).await?;
        if unasked {
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
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

/// A path as XML may hold it.
fn escaped(path: &str) -> String {
    path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The bytes of an answer of ours that is known to be small.
async fn small(body: s3s::Body) -> Bytes {
    let all = Limited::new(body, READ_BUFFER).collect().await;
    all.map_or_else(|_| Bytes::new(), |all| all.to_bytes())
}

/// A small answer with another text.
async fn rewritten(answer: Response<s3s::Body>, edit: impl FnOnce(&str) -> String) -> Response<s3s::Body> {
    let (mut head, body) = answer.into_parts();
    let bytes = small(body).await;
    let text = edit(&String::from_utf8_lossy(&bytes));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, s3s::Body::from(text))
}

/// Presigned URLs may carry `x-amz-*` headers in their query, where they are signed like all of it. Here they become headers,
/// so that what judges a request and what carries it out read the same. Whether all of them could.
fn hoist(request: &mut Request<Incoming>) -> bool {
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
fn bounded(mut request: Request<Incoming>) -> Request<s3s::Body> {
    let framed = request.headers().get("x-amz-content-sha256");
    if framed.is_some_and(|kind| kind.as_bytes().starts_with(b"STREAMING-")) {
        return request.map(|body| {
            let bounded = Bounded::new(BodyDataStream::new(body));
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
    request.map(s3s::Body::from)
}

/// A form of a browser.
fn is_form(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    request.method() == Method::POST && kind.is_some_and(|kind| kind.starts_with(b"multipart/form-data"))
}

fn refuse_form() -> Response<s3s::Body> {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate");
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

/// A form that breaks its policy's conditions is denied; s3s calls its policy invalid.
async fn as_s3_refuses(answer: Response<s3s::Body>) -> Response<s3s::Body> {
    if answer.status() != StatusCode::BAD_REQUEST {
        return answer;
    }
    let (head, body) = answer.into_parts();
    let bytes = small(body).await;
    let text = String::from_utf8_lossy(&bytes);
    let broken = ["<Message>Policy condition ", "<Message>Bucket in form field "]
        .iter()
        .any(|part| text.contains(part));
    if broken {
        return refuse(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            "Invalid according to Policy: Policy Condition failed",
        );
    }
    Response::from_parts(head, s3s::Body::from(bytes))
}

/// A signature for a region that cannot be one's name. s3cmd begins with `US`, and signs anew once it is told the region.
fn signed_elsewhere(request: &Request<Incoming>) -> bool {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let region = header.and_then(|header| header.split("Credential=").nth(1)?.split('/').nth(2));
    let named = |region: &str| {
        region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    region.is_some_and(|region| !named(region))
}

fn refuse_region() -> Response<s3s::Body> {
    let text = format!(
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; the region is \
         wrong; expecting '{REGION}'</Message><Region>{REGION}</Region></Error>"
    );
    refusal(StatusCode::BAD_REQUEST, text)
}

/// An error of ours where s3s does not speak for us.
fn refusal_of(refused: &s3s::S3Error) -> Response<s3s::Body> {
    let (code, message) = (refused.code().as_str(), refused.message().unwrap_or_default());
    let status = refused.status_code().unwrap_or(StatusCode::BAD_REQUEST);
    refuse(status, code, message)
}

/// A refusal as S3 says it.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response<s3s::Body> {
    refusal(status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

/// An answer to a request whose body is not read.
fn refusal(status: StatusCode, text: String) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A request that waits for leave to send an empty body. It gets its answer without, which is right, but botocore then
/// takes the next answer on the connection for the same one: the connection ends here.
fn expects_nothing(request: &Request<Incoming>) -> bool {
    let empty = request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    empty && request.headers().contains_key(header::EXPECT)
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

/// Serves `/metrics` and `/health` until `stop` ends.
///
/// # Errors
/// Where the listener fails.
pub async fn serve_metrics(
    listener: TcpListener,
    registry: Registry,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => return Ok(()),
        };
        let Some((stream, _)) = usable(accepted).await? else { continue };
        let registry = registry.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let response = metrics_page(&registry, request.uri().path());
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
                tracing::debug!(%error, "a metrics connection ended");
            }
        });
    }
}

fn metrics_page(registry: &Registry, path: &str) -> Response<Full<Bytes>> {
    let page = |status, text: Vec<u8>| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; version=0.0.4"));
        response
    };
    match path {
        "/metrics" => {
            let mut text = Vec::new();
            match TextEncoder::new().encode(&registry.gather(), &mut text) {
                Ok(()) => page(StatusCode::OK, text),
                Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
            }
        }
        "/health" => page(StatusCode::OK, b"ok\n".to_vec()),
        _ => page(StatusCode::NOT_FOUND, b"here are /metrics and /health\n".to_vec()),
    }
}
