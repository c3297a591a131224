//! The admin API's listeners, reached without an identity: by the cluster's authority.

use crate::{Target, tls::provider};
use holdfast_core::roles::Role;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, version::TLS13};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to `https://HOST:PORT`, which must be a metadata member that `authority` (PEM) vouches for.
///
/// # Errors
/// What went wrong, in words for an operator.
pub async fn connect(url: &str, authority: Option<&str>) -> Result<TlsStream<TcpStream>, String> {
    let Some(pem) = authority else {
        return Err("name the cluster's authority with --ca: OPERATOR/ca.pem".to_owned());
    };
    let address = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let address = address.filter(|address| address.contains(':'));
    let address = address.ok_or_else(|| format!("{url} is not https://HOST:PORT"))?;
    let mut roots = RootCertStore::empty();
    let certificate = pem::parse(pem).map_err(|error| format!("the authority's certificate: {error}"))?;
    roots
        .add(CertificateDer::from(certificate.into_contents()))
        .map_err(|error| format!("the authority's certificate: {error}"))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = Target::Any(Role::Meta).server_name().map_err(|error| error.to_string())?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let connected = timeout(CONNECT, connecting).await.map_err(|_| format!("{address} does not answer"))?;
    connected.map_err(|error| format!("{address}: {error}"))
}
