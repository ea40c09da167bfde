//! TLS to servers: whose certificates are believed, and which one we show. The one home of `rustls`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Problem;

/// How a connection is protected. That it stands there asks for TLS; the server's certificate is always verified, its
/// name too.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// File with the certificate of the authority that signed the server's, PEM. Default: the authorities that this
    /// machine trusts.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// File with our own certificate, PEM, where the server asks for one. Default: none.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// File with its private key, PEM. Default: none.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

impl Tls {
    /// The files that it names.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca, &mut self.certificate, &mut self.key].into_iter().flatten()
    }

    /// What cannot be, with fields counted from the connection.
    #[must_use]
    pub fn check(&self) -> Option<Problem> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => {
                Some(Problem::setting("tls.certificate", "it has no key", "add `key: FILE` beside it"))
            }
            (None, Some(_)) => Some(Problem::setting(
                "tls.key",
                "it has no certificate",
                "add `certificate: FILE` beside it",
            )),
            _ => None,
        }
    }

    /// The bytes of the files: authority, then certificate and key.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn pem(&self) -> Result<Pem, String> {
        let read = |path: &Option<PathBuf>| match path {
            Some(path) => std::fs::read(path).map(Some).map_err(|e| format!("{}: {e}", path.display())),
            None => Ok(None),
        };
        let own = read(&self.certificate)?.zip(read(&self.key)?);
        Ok(Pem { ca: read(&self.ca)?, own })
    }

    /// What `rustls` needs of it.
    ///
    /// # Errors
    /// A file cannot be read, or has nothing of its kind in it.
    pub(super) fn rustls(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(
                "this machine trusts no certificate authority: name one with `tls: { ca: FILE }`".into()
            );
        }
        // Ours by name: another crate in the program may bring another provider, and then there is no default.
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let private =
                    PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
                builder.with_client_auth_cert(certificates(certificate)?, private).map_err(|e| e.to_string())
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

/// The files of [`Tls`] as they are.
pub(super) struct Pem {
    pub(super) ca: Option<Vec<u8>>,
    pub(super) own: Option<(Vec<u8>, Vec<u8>)>,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(&e))?;
    if found.is_empty() { Err(wrong(&"no certificate in it")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let tls = Tls { ca: Some("/nowhere/ca.pem".into()), ..Tls::default() };
        assert!(tls.rustls().unwrap_err().starts_with("/nowhere/ca.pem: "));
        assert_eq!(tls.check(), None);
        let half = Tls { key: Some("k.pem".into()), ..Tls::default() };
        assert_eq!(half.check().map(|p| p.field).as_deref(), Some("tls.key"));
    }
}
