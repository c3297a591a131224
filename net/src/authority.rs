//! The cluster's certificate authority: made with the cluster, held in the metadata, used to let hosts in.
//!
//! A certificate's names say all that it stands for: `host-7.holdfast` is host 7, and `storage.role.holdfast` a
//! storage node. What a request for a certificate asks for is not looked at, except for its key.

use crate::TlsError;
use holdfast_core::{ids::HostId, roles::Roles};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use time::OffsetDateTime;

/// How long the authority itself is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// How long a host's certificate is valid. It is renewed at two thirds of it.
pub const HOST_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Clocks may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// A certificate and its private key, both DER.
#[derive(Clone)]
pub struct Signed {
    pub certificate: Vec<u8>,
    /// PKCS#8.
    pub key: Vec<u8>,
}

fn failed(error: rcgen::Error) -> TlsError {
    TlsError::Certificate(error.to_string())
}

/// The name that says which host a certificate is for.
pub fn host_name(host: HostId) -> String {
    format!("host-{host}.holdfast")
}

/// The name that says that a certificate's holder has a role.
pub fn role_name(role: holdfast_core::roles::Role) -> String {
    format!("{}.role.holdfast", role.name())
}

/// Makes an authority for the cluster that calls itself `cluster`.
///
/// # Errors
/// Where no key can be made.
pub fn make(cluster: &str) -> Result<Signed, TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Holdfast cluster {cluster}"));
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + AUTHORITY_LIFE;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Signed { certificate: certificate.der().to_vec(), key: key.serialize_der() })
}

/// A certificate as text.
pub fn to_pem(certificate: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate))
}

/// A new private key, PKCS#8 in DER, and a request to have it certified, PKCS#10 in DER.
///
/// # Errors
/// Where no key can be made.
pub fn request() -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let request = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    let request = request.serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_der(), request.der().to_vec()))
}

/// Certifies a request's key for a host in its roles, for `life`.
///
/// # Errors
/// Where the request or the authority cannot be read.
pub fn sign(
    authority: &Signed,
    request: &[u8],
    host: HostId,
    roles: Roles,
    life: Duration,
) -> Result<Vec<u8>, TlsError> {
    let key = PrivatePkcs8KeyDer::from(authority.key.as_slice());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(authority.certificate.as_slice()), key);
    let issuer = issuer.map_err(failed)?;
    let mut request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(failed)?;
    let names = std::iter::once(host_name(host)).chain(roles.iter().map(role_name));
    let names =
        names.map(|name| Ok(SanType::DnsName(name.try_into()?))).collect::<Result<Vec<_>, rcgen::Error>>();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Holdfast host {host}"));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
    request.params = params;
    Ok(request.signed_by(&issuer).map_err(failed)?.der().to_vec())
}
