//! Certificates: which of a server's are accepted, and what a log-in is bound to.

use std::fmt;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::database::Authorities;

/// The certificates in a PEM file. `setting` is the one that names it.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn in_file(setting: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|e| unreadable(setting, path, &e))?;
    match found.is_empty() {
        true => Err(format!("{setting}={path}: the file holds no certificate")),
        false => Ok(found),
    }
}

/// The private key in a PEM file.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn key_in_file(setting: &str, path: &str) -> Result<PrivateKeyDer<'static>, String> {
    use rustls::pki_types::pem::Error::NoItemsFound;
    PrivateKeyDer::from_pem_file(path).map_err(|e| match e {
        NoItemsFound => format!("{setting}={path}: the file holds no private key, or an encrypted one"),
        _ => unreadable(setting, path, &e),
    })
}

fn unreadable(setting: &str, path: &str, e: &rustls::pki_types::pem::Error) -> String {
    match e {
        rustls::pki_types::pem::Error::Io(e) => format!("{setting}={path}: {e}"),
        // It may show a part of the file.
        _ => format!("{setting}={path}: the file is not PEM"),
    }
}

/// Checks the certificates of servers.
pub(super) struct Verifier {
    /// `None` accepts any certificate.
    pub(super) trusted: Option<Trusted>,
    /// Whether the certificate must be for the name of the host.
    pub(super) checks_name: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// The certificates that are trusted.
pub(super) struct Trusted {
    authorities: RootCertStore,
    /// A server's own certificate may be among them, which is trusted without an authority.
    named: Vec<CertificateDer<'static>>,
}

impl Trusted {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with `sslrootcert`.
    pub(super) fn load(from: &Authorities) -> Result<Trusted, String> {
        let mut authorities = RootCertStore::empty();
        match from {
            Authorities::System => {
                authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                match authorities.is_empty() {
                    true => Err("sslrootcert=system: this machine has no certificates of authorities".to_owned()),
                    false => Ok(Trusted { authorities, named: Vec::new() }),
                }
            }
            Authorities::File(path) => {
                let named = in_file("sslrootcert", path)?;
                for certificate in &named {
                    authorities.add(certificate.clone()).map_err(|e| format!("sslrootcert={path}: {e}"))?;
                }
                Ok(Trusted { authorities, named })
            }
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("checks_name", &self.checks_name).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        if trusted.named.contains(certificate) {
            check_validity(certificate, now)?;
        } else {
            let (authorities, algorithms) = (&trusted.authorities, self.algorithms.all);
            verify_server_cert_signed_by_trust_anchor(&parsed, authorities, intermediates, now, algorithms)?;
        }
        if self.checks_name {
            verify_server_name(&parsed, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // Also where no certificate is checked: that the server has the key is what channel binding rests on.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether now is within the times of a certificate.
fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate().validity();
    let now = now.as_secs();
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    match now > validity.not_after.to_unix_duration().as_secs() {
        true => Err(CertificateError::Expired.into()),
        false => Ok(()),
    }
}

/// The `tls-server-end-point` of a certificate (RFC 5929): its hash, by the function that its signature uses, or SHA-256 in
/// place of MD5 and SHA-1. `None` where the signature uses none, such as Ed25519.
pub(super) fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let function = match parsed.signature_algorithm().oid.to_string().as_str() {
        // RSA with MD5, SHA-1 and SHA-256; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        // RSA and ECDSA with SHA-384.
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        // RSA and ECDSA with SHA-512.
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(function, certificate).as_ref().to_vec())
}
