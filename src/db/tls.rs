//! How connections to the database are encrypted, as `sslmode` and the settings beside it say.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{IpAddr, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, crypto};

use super::certificates::{self, Trusted, Verifier};
use crate::config::database::{SslMode, TlsSettings};

/// What a connection needs for TLS.
#[derive(Clone)]
pub(super) struct Tls {
    /// Whether a connection that is not encrypted is refused.
    pub(super) is_required: bool,
    /// Whether a connection that is not encrypted is tried first.
    pub(super) is_last_resort: bool,
    checks_name: bool,
    pub(super) client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files that the settings name; `None` for `sslmode=disable`.
    ///
    /// # Errors
    /// Which setting is wrong, and why.
    pub(super) fn load(settings: &TlsSettings) -> Result<Option<Tls>, String> {
        if settings.mode == SslMode::Disable {
            return Ok(None);
        }
        let provider = crypto::ring::default_provider();
        let checks_name = settings.mode == SslMode::VerifyFull;
        let verifier = Verifier {
            trusted: settings.authorities.as_ref().map(Trusted::load).transpose()?,
            checks_name,
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut client = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = certificates::in_file("sslcert", &files.certificate)?;
                let key = certificates::key_in_file("sslkey", &files.key)?;
                builder.with_client_auth_cert(chain, key).map_err(|e| match e {
                    rustls::Error::InconsistentKeys(_) => "sslkey is not the key of sslcert".to_owned(),
                    _ => format!("sslcert or sslkey: {e}"),
                })?
            }
        };
        // What PostgreSQL 17 asks for in `sslnegotiation=direct`; older ones ignore it.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
        // PostgreSQL resumes no sessions, so there is nothing to remember.
        client.resumption = Resumption::disabled();
        Ok(Some(Tls {
            is_required: settings.mode >= SslMode::Require,
            is_last_resort: settings.mode == SslMode::Allow,
            checks_name,
            client: Arc::new(client),
        }))
    }

    /// A host as TLS names it.
    ///
    /// # Errors
    /// It is no name that a certificate could be for, though one must be.
    pub(super) fn server_name(&self, host: &str) -> io::Result<ServerName<'static>> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            // An address is not sent to the server, and no name is checked here.
            Err(_) if !self.checks_name => Ok(ServerName::IpAddress(IpAddr::V4([0, 0, 0, 0].into()))),
            Err(_) => {
                Err(io::Error::other("sslmode=verify-full: the host is not a name for which there are certificates"))
            }
        }
    }
}

/// Puts an error of TLS into words that say which setting to look at. Others stay as they are.
pub(super) fn explain(e: io::Error) -> io::Error {
    let Some(fault) = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else { return e };
    let explained = match fault {
        rustls::Error::InvalidCertificate(problem) => explain_certificate(problem),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert),
        _ => format!("TLS: {fault}"),
    };
    io::Error::new(e.kind(), explained)
}

fn explain_certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "the database's certificate names no host in its subjectAltName, which sslmode=verify-full looks at".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the database's certificate is for another host than DATABASE_URL names, which sslmode=verify-full does not \
                allow"
                .to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => unknown_issuer(),
        // It is signed by itself.
        CertificateError::Other(inner) if inner.to_string().contains("CaUsedAsEndEntity") => unknown_issuer(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the database's certificate has expired".to_owned()
        }
        _ => format!("the database's certificate is not accepted: {problem}"),
    }
}

fn unknown_issuer() -> String {
    "the database's certificate is signed by no authority that sslrootcert names".to_owned()
}

fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the database asks for a client certificate: set sslcert and sslkey".to_owned()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => format!("the database refuses the certificate in sslcert ({alert:?})"),
        _ => format!("the database ended the TLS handshake ({alert:?})"),
    }
}
