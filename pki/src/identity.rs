//! A node's own key and certificate.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::{Peer, PkiError, peer_of};

/// A key that has no certificate yet. It never leaves its host.
pub struct NodeKey(KeyPair);

impl NodeKey {
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(PkiError::Make)
    }

    /// What [`Self::to_pem`] gave.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        KeyPair::from_pem(pem).map(Self).map_err(PkiError::Make)
    }

    /// In PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// A request for a certificate: PKCS #10 in PEM.
    pub fn request(&self) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0).and_then(|request| request.pem()).map_err(PkiError::Make)
    }
}

/// A key with its certificate.
#[derive(Debug)]
pub struct Identity {
    pub peer: Peer,
    pub valid_from: Timestamp,
    pub valid_until: Timestamp,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Both in PEM. `issuers` go along with the certificate, so that somebody who knows a CA by its digest only can check it.
    pub fn load(certificate: &str, key: &str, issuers: &str) -> Result<Self, PkiError> {
        let pem = |error: rustls::pki_types::pem::Error| PkiError::Pem(error.to_string());
        let own = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(pem)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem)?;
        let mut chain = vec![own];
        for issuer in CertificateDer::pem_slice_iter(issuers.as_bytes()) {
            chain.push(issuer.map_err(pem)?);
        }
        let peer = peer_of(&chain).ok_or_else(|| PkiError::Pem("it does not say whose it is".into()))?;
        let (_, parsed) =
            X509Certificate::from_der(&chain[0]).map_err(|error| PkiError::Pem(error.to_string()))?;
        let validity = parsed.validity();
        let at = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| PkiError::Pem(error.to_string()))
        };
        let (valid_from, valid_until) = (at(validity.not_before)?, at(validity.not_after)?);
        Ok(Self { peer, valid_from, valid_until, chain, key })
    }
}

/// When to renew: between half and four fifths of what was left at `now`, so that the nodes of a cluster that came up at once do not renew at
/// once. `chance` is from 0 to 1.
pub fn renew_at(now: Timestamp, valid_until: Timestamp, chance: f64) -> Timestamp {
    let left = Duration::try_from(valid_until.duration_since(now)).unwrap_or_default();
    let share = 0.3f64.mul_add(chance.clamp(0.0, 1.0), 0.5);
    now.checked_add(left.mul_f64(share)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_of;

    #[test]
    fn a_key_is_the_same_in_every_request_of_it_and_after_it_was_kept() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pem(&key.to_pem()).unwrap();
        let of = |key: &NodeKey| key_of(&key.request().unwrap()).unwrap();
        assert_eq!((of(&key).len(), of(&key)), (64, of(&again)));
        assert_ne!(of(&key), of(&NodeKey::generate().unwrap()));
        assert!(matches!(key_of("nonsense"), Err(PkiError::Request(_))));
    }

    #[test]
    fn it_is_renewed_between_half_and_four_fifths_of_its_time() {
        let now = Timestamp::UNIX_EPOCH;
        let day = Duration::from_secs(24 * 3600);
        let until = now.checked_add(day).unwrap();
        let hours = |chance| renew_at(now, until, chance).duration_since(now).as_secs_f64() / 3600.0;
        assert!((hours(0.0) - 12.0).abs() < 0.01, "{}", hours(0.0));
        assert!((hours(1.0) - 19.2).abs() < 0.01, "{}", hours(1.0));
        assert_eq!(renew_at(until, now, 0.5), until, "what has run out is renewed now");
    }
}
