//! The endpoints' certificate: read at the start, and again when its files change. The home of `tokio_rustls`.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::endpoints::ServerTls;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// HTTP/2 in ALPN.
pub(super) const H2: &[u8] = b"h2";

/// The certificate as it is now.
pub(super) struct Certificate {
    files: ServerTls,
    /// Read by every connection, for moments.
    now: RwLock<Arc<ServerConfig>>,
}

/// The bytes of certificate and key.
type Pem = (Vec<u8>, Vec<u8>);

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or they are no certificate with its key; for people.
    pub(super) fn read(files: &ServerTls) -> Result<Certificate, String> {
        let now = config(files, &pem(files)?)?;
        Ok(Certificate { files: files.clone(), now: RwLock::new(Arc::new(now)) })
    }

    /// What a new connection is accepted with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reads the files again when they have changed, until `stop`. While they cannot be used, or do not belong together
    /// (one is written after the other), the certificate stays as it was.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut last = pem(&self.files).ok();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || pem(&files)).await;
            let Ok(Ok(found)) = read else { continue };
            if last.as_ref() == Some(&found) {
                continue;
            }
            match config(&self.files, &found) {
                Ok(config) => {
                    *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    let file = self.files.certificate.display();
                    tracing::info!(%file, "the certificate has changed: new connections get the new one");
                }
                Err(error) => tracing::warn!(
                    error,
                    "the certificate has changed, and cannot be used: the old one stays"
                ),
            }
            last = Some(found);
        }
    }
}

fn pem(files: &ServerTls) -> Result<Pem, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    Ok((read(&files.certificate)?, read(&files.key)?))
}

fn config(files: &ServerTls, (certificate, key): &Pem) -> Result<ServerConfig, String> {
    let wrong = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| wrong(&files.certificate, &e))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong(&files.key, &e))?;
    // The provider by name: another crate in the program may bring another one, and then there is no default.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| wrong(&files.certificate, &e))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
