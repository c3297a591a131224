//! Whom each side speaks to: gateways show a certificate that all of a cluster share, and clients remember it from the day
//! on which they were paired.

use crate::LinkError;
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use std::{
    fmt, io,
    str::FromStr,
    sync::{Arc, OnceLock},
};

/// What both sides must speak over QUIC.
pub(crate) const PROTOCOL: &[u8] = b"holdfast-sync/1";

/// Years that a certificate is good for: clients know it by itself, and not by its dates.
const YEARS: i64 = 50;

/// BLAKE3 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(*blake3::hash(certificate).as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes)
            .map_err(|_| LinkError::Tls("a fingerprint has 64 hexadecimal digits".to_owned()))?;
        Ok(Self(bytes))
    }
}

/// A gateway's certificate and its key.
#[derive(Clone)]
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Identity {
    /// A new one.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn make() -> Result<Self, LinkError> {
        let failed = |error: rcgen::Error| LinkError::Tls(error.to_string());
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut params = rcgen::CertificateParams::new(vec!["holdfast".to_owned()]).map_err(failed)?;
        params.not_after = params.not_before + time::Duration::days(365 * YEARS);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate: certificate.der().to_vec(), key: key.serialize_der() })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&CertificateDer::from(self.certificate.as_slice()))
    }

    pub(crate) fn server(&self, protocol: &[u8]) -> Result<ServerConfig, LinkError> {
        let failed = |error: rustls::Error| LinkError::Tls(error.to_string());
        let certificate = CertificateDer::from(self.certificate.clone());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(failed)?;
        // A change that is sent again must not be taken again.
        config.max_early_data_size = 0;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes the certificate that is known, or, where none is known yet, whichever is shown, and remembers it.
#[derive(Debug)]
pub(crate) struct Pinned {
    known: Option<Fingerprint>,
    pub shown: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub fn new(known: Option<Fingerprint>) -> Arc<Self> {
        Arc::new(Self { known, shown: OnceLock::new(), provider: provider() })
    }

    /// Why a connection did not come about.
    pub fn explain(&self, error: io::Error) -> LinkError {
        match (self.known, self.shown.get()) {
            (Some(known), Some(shown)) if *shown != known => LinkError::OtherServer(known),
            _ => error.into(),
        }
    }

    pub fn client(self: &Arc<Self>, protocol: &[u8]) -> Result<ClientConfig, LinkError> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| LinkError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.enable_early_data = false;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(certificate);
        let _known_already = self.shown.set(shown);
        match self.known {
            Some(known) if known != shown => {
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
            Some(_) | None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
