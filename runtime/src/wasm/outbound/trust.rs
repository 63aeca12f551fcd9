//! Which certificate authorities outbound calls trust: those of the web, and those that the operator adds in the file that
//! `SSL_CERT_FILE` names, as other programs do.

use std::path::Path;
use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The environment variable with the file of further authorities, in PEM.
const FILE_VARIABLE: &str = "SSL_CERT_FILE";

/// The settings of every outbound TLS connection.
pub(super) fn client_config() -> ClientConfig {
    static CONFIG: OnceLock<ClientConfig> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = std::env::var_os(FILE_VARIABLE) {
            match added(Path::new(&file)) {
                Ok(certificates) => {
                    let (_, unusable) = roots.add_parsable_certificates(certificates);
                    if unusable > 0 {
                        tracing::warn!("{unusable} certificates in {} are not usable", file.display());
                    }
                }
                Err(error) => {
                    tracing::warn!("{FILE_VARIABLE} is {}, which cannot be read: {error}", file.display());
                }
            }
        }
        // Nobody but us chooses the provider; where it is installed already, it is this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    };
    CONFIG.get_or_init(make).clone()
}

fn added(file: &Path) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_file_iter(file)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_adds_none_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("authorities.pem");
        std::fs::write(&file, "nothing that is a certificate\n").unwrap();
        assert!(added(&file).unwrap().is_empty());
        assert!(added(&folder.path().join("missing")).is_err());
    }
}
