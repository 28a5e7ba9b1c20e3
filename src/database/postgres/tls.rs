//! Encrypted connections.
//!
//! Enters: the URL of a server, with `sslmode` and `sslrootcert` in its query, as libpq has them. Leaves: the URL without
//! them, and how the connection is made. Always holds: `verify-full` talks to nobody but the owner of a certificate of
//! that host; what asks for encryption never goes on without.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use crate::error::{Error, Result};

const MODES: &str = "sslmode is disable, prefer, require or verify-full";

/// How a connection is made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tls {
    /// Without encryption, with it where the server has it, or always.
    pub(super) mode: SslMode,
    /// The server has to show a certificate of its host.
    verified: bool,
    /// A file with the certificates that are trusted, in place of those of the system.
    roots: Option<String>,
}

impl Tls {
    /// Takes what a URL says of it out of its query.
    pub(super) fn of(url: &mut Url) -> Result<Self> {
        let mut this = Self { mode: SslMode::Prefer, verified: false, roots: None };
        let mut rest: Vec<(String, String)> = Vec::new();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "sslmode" => {
                    (this.mode, this.verified) = match value.as_ref() {
                        "disable" => (SslMode::Disable, false),
                        "prefer" | "allow" => (SslMode::Prefer, false),
                        "require" => (SslMode::Require, false),
                        "verify-full" => (SslMode::Require, true),
                        other => return Err(Error::sql(format!("sslmode cannot be '{other}'")).hint(MODES)),
                    }
                }
                "sslrootcert" => this.roots = Some(value.into_owned()).filter(|path| path != "system"),
                _ => rest.push((name.into_owned(), value.into_owned())),
            }
        }
        if this.roots.is_some() && this.mode == SslMode::Require {
            // As libpq does: who names certificates wants them looked at.
            this.verified = true;
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        Ok(this)
    }

    /// What encrypts a connection.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::query(format!("no encryption: {error}")))?;
        let config = match self.verified {
            true => builder.with_root_certificates(self.trusted()?).with_no_client_auth(),
            false => {
                let any = Arc::new(AnyCertificate(provider));
                builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn trusted(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        let Some(path) = &self.roots else {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(store);
        };
        let wrong = |error: &dyn std::fmt::Display| {
            Error::query(format!("{path} has no certificates that can be read: {error}"))
                .hint("sslrootcert names a file of PEM, with the certificate that has signed the server's")
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
        for certificate in certificates {
            let added = certificate.map_err(|error| wrong(&error)).map(|certificate| store.add(certificate))?;
            added.map_err(|error| wrong(&error))?;
        }
        if store.is_empty() {
            return Err(wrong(&"it is empty"));
        }
        Ok(store)
    }
}

/// Takes any certificate: the connection is encrypted, and with whom is not known.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_it_is_encrypted() {
        let of = |query: &str| {
            let mut url = Url::parse(&format!("postgres://me@host/db{query}")).expect("a URL");
            let tls = Tls::of(&mut url);
            (tls.map(|tls| (tls.mode, tls.verified, tls.roots)).ok(), url.to_string())
        };
        let plain = "postgres://me@host/db".to_owned();
        assert_eq!(of(""), (Some((SslMode::Prefer, false, None)), plain.clone()));
        assert_eq!(of("?sslmode=require"), (Some((SslMode::Require, false, None)), plain.clone()));
        assert_eq!(of("?sslmode=verify-full"), (Some((SslMode::Require, true, None)), plain.clone()));
        let roots = Some((SslMode::Require, true, Some("a.pem".to_owned())));
        assert_eq!(of("?sslmode=require&sslrootcert=a.pem&x=1"), (roots, format!("{plain}?x=1")));
        assert_eq!(of("?sslmode=maybe").0, None);
    }
}
