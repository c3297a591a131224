//! TLS of the S3 door. Certificates are read again when their files change: whoever renews them need not tell anybody.

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where certificate and key are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate first, then those that vouch for it.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why TLS cannot be spoken.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{0}: {1}")]
    Pem(PathBuf, rustls::pki_types::pem::Error),
    #[error("{0} has no certificate")]
    Empty(PathBuf),
    #[error("certificate and key of {0}: {1}")]
    Rustls(PathBuf, rustls::Error),
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::Pem(path, error)
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(pem(&files.certificate))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(pem(&files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| TlsError::Rustls(files.certificate.clone(), error))
}

fn changed(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    [&files.certificate, &files.key]
        .map(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok())
}

/// The certificate that is shown to clients now.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS with a certificate that may change.
#[derive(Clone)]
pub struct DoorTls {
    pub acceptor: TlsAcceptor,
    files: TlsFiles,
    shown: Arc<Shown>,
}

impl DoorTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Where they cannot be read, or do not belong together.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let shown = Arc::new(Shown(ArcSwap::from_pointee(read(&files)?)));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsError::Rustls(files.certificate.clone(), error))?;
        let mut config = config.with_no_client_auth().with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), files, shown })
    }

    /// Shows what the files hold, whenever they change, until the future is dropped. What cannot be used is said, and not shown.
    pub async fn follow(self) {
        let mut seen = changed(&self.files);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let now = changed(&self.files);
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(key) => {
                    self.shown.0.store(Arc::new(key));
                    seen = now;
                    tracing::info!(certificate = %self.files.certificate.display(), "another certificate is shown from now on");
                }
                // One of two files may be there before the other: it is looked at again.
                Err(error) => tracing::warn!(%error, "a new certificate cannot be used: the old one stays"),
            }
        }
    }
}
