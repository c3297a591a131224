//! Who is who: certificates, and what they say.

use crate::{
    authority::{self, host_name, role_name},
    transport::{Tcp, Transport},
};
use arc_swap::ArcSwap;
use holdfast_core::{
    ids::HostId,
    roles::{Role, Roles},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use thiserror::Error;

/// A host's identity cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("a certificate or key cannot be used: {0}")]
    Certificate(String),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Whom a caller wants to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Host(HostId),
    /// Any host that has the role.
    Any(Role),
}

impl Target {
    /// What the certificate must say.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Host(host) => host_name(host),
            Self::Any(role) => role_name(role),
        }
    }

    pub(crate) fn server_name(self) -> Result<ServerName<'static>, TlsError> {
        ServerName::try_from(self.name()).map_err(|error| TlsError::Certificate(error.to_string()))
    }
}

/// Who calls, as the certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Host {
        host: HostId,
        roles: Roles,
    },
    /// Without a certificate: it may join.
    Stranger,
}

impl Caller {
    pub fn has(&self, role: Role) -> bool {
        match self {
            Self::Host { roles, .. } => roles.has(role),
            Self::Stranger => false,
        }
    }

    pub fn host(&self) -> Option<HostId> {
        match self {
            Self::Host { host, .. } => Some(*host),
            Self::Stranger => None,
        }
    }

    /// Reads a certificate whose signature was verified.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let (mut host, mut roles) = (None, Roles::NONE);
        for name in certificate.valid_dns_names() {
            if let Some(number) = name.strip_prefix("host-").and_then(|name| name.strip_suffix(".holdfast")) {
                host = number.parse().ok().map(HostId);
            } else if let Some(role) = name.strip_suffix(".role.holdfast") {
                roles = roles.with(role.parse().ok()?);
            }
        }
        Some(Self::Host { host: host?, roles })
    }
}

/// A private key and its certificate, which are exchanged while connections are served.
#[derive(Debug)]
struct Own(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One process's side of mutual TLS.
#[derive(Clone)]
pub struct Tls {
    own: Arc<Own>,
    pub(crate) server: Arc<ServerConfig>,
    /// For callers that are no hosts: HTTP.
    pub(crate) anybody: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// What carries it.
    pub(crate) transport: Arc<dyn Transport>,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certified(key: &[u8], certificate: &[u8], authority: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
    let key = provider().key_provider.load_private_key(key)?;
    // The authority comes along, for those who join and know only its hash.
    let chain = [certificate, authority].map(|der| CertificateDer::from(der.to_vec()));
    let certified = CertifiedKey::new(chain.to_vec(), key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

impl Tls {
    /// # Errors
    /// Where key and certificates do not belong together.
    pub fn new(key: &[u8], certificate: &[u8], authority: &[u8]) -> Result<Self, TlsError> {
        let own = Arc::new(Own(ArcSwap::new(certified(key, certificate, authority)?)));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.to_vec()))?;
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(own.clone());
        let anybody = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(own.clone());
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(own.clone());
        let (server, anybody) = (Arc::new(server), Arc::new(anybody));
        Ok(Self { own, server, anybody, client: Arc::new(client), transport: Arc::new(Tcp) })
    }

    /// The same identity over another transport.
    #[must_use]
    pub fn over(self, transport: Arc<dyn Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Takes another certificate for connections from now on.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn renew(&self, key: &[u8], certificate: &[u8], authority: &[u8]) -> Result<(), TlsError> {
        self.own.0.store(certified(key, certificate, authority)?);
        Ok(())
    }

    pub(crate) fn connector(
        &self,
        target: Target,
    ) -> Result<(tokio_rustls::TlsConnector, ServerName<'static>), TlsError> {
        Ok((self.client.clone().into(), target.server_name()?))
    }
}

/// A join token: the hash of the authority, so that whoever joins knows whom it speaks with, and a secret that is used
/// once. Written `hf1.HASH.SECRET`, in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    authority: [u8; 32],
    pub secret: String,
}

impl Secret {
    pub fn new(authority: &[u8], secret: [u8; 32]) -> Self {
        Self { authority: Sha256::digest(authority).into(), secret: hex::encode(secret) }
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hf1.{}.{}", hex::encode(self.authority), self.secret)
    }
}

impl std::str::FromStr for Secret {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        let wrong = || TlsError::Certificate("a join token looks like hf1.HASH.SECRET".to_owned());
        let mut parts = text.trim().split('.');
        let (Some("hf1"), Some(hash), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let mut authority = [0; 32];
        hex::decode_to_slice(hash, &mut authority).map_err(|_| wrong())?;
        if secret.len() != 64 || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        Ok(Self { authority, secret: secret.to_owned() })
    }
}

/// The TLS of a host that is not in the cluster yet: without a certificate, and with the authority's hash to know a
/// metadata member by.
///
/// # Errors
/// Where TLS cannot be set up.
pub fn join_client(secret: &Secret) -> Result<Tls, TlsError> {
    // A key pair that is never shown: servers are told nothing about who calls.
    let throwaway = authority::make("nobody")?;
    let mut tls = Tls::new(&throwaway.key, &throwaway.certificate, &throwaway.certificate)?;
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority: secret.authority }))
        .with_no_client_auth();
    tls.client = Arc::new(client);
    Ok(tls)
}

/// Trusts an authority by its hash.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |der: &&CertificateDer<'_>| Sha256::digest(der.as_ref())[..] == self.authority;
        let authority = intermediates.iter().find(pinned).ok_or_else(|| {
            rustls::Error::General("it belongs to another cluster than the token".to_owned())
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
