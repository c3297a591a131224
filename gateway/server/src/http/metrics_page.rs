//! Metrics, on a port of their own.

use super::{HEADER_TIMEOUT, ServeError, usable};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use std::{convert::Infallible, future::Future};
use tokio::net::TcpListener;

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
