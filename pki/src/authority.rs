//! The cluster's CA: signs certificates of nodes, and nothing else.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::token::Pin;
use crate::{Peer, PkiError};

/// Ten years: a CA is replaced when somebody asks for it, not because it ran out over night.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Of a node's certificate. One that was stolen is of no use after that, also where nobody noticed.
pub const NODE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A certificate is valid from this long before it was made: clocks of hosts differ.
const SKEW: Duration = Duration::from_secs(3600);

/// A CA with its key.
pub struct Authority {
    certificate: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// Makes another CA.
    pub fn generate(now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = validity(now, CA_LIFETIME)?;
        // A name of its own, so that of two CAs each chain has one end.
        let name = format!("Wharf cluster {}", uuid::Uuid::now_v7().simple());
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(serial());
        let certificate = params.self_signed(&key).map_err(PkiError::Make)?;
        Ok(Self { certificate: certificate.pem(), der: certificate.der().clone(), key })
    }

    /// What [`Self::certificate`] and [`Self::key`] gave.
    pub fn load(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| PkiError::Pem(error.to_string()))?;
        let key = KeyPair::from_pem(key).map_err(PkiError::Make)?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| PkiError::Pem(error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(PkiError::OtherKey);
        }
        Ok(Self { certificate: certificate.to_owned(), der, key })
    }

    /// In PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// In PEM. Whoever has it can make nodes.
    pub fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// How a join token names this CA.
    pub fn pin(&self) -> Pin {
        Pin::of(&self.der)
    }

    /// Signs a request (PKCS #10, PEM). Of the request only the key counts: who the node is, is not for it to say. Returns PEM.
    pub fn issue(&self, request: &str, peer: &Peer, now: Timestamp) -> Result<String, PkiError> {
        self.issue_for(request, peer, now, NODE_LIFETIME)
    }

    /// The same, valid for another span.
    pub fn issue_for(
        &self,
        request: &str,
        peer: &Peer,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(PkiError::Request)?;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = validity(now, lifetime)?;
        params.distinguished_name = named(format!("{} {}", peer.role.as_str(), peer.node));
        let uri = peer.to_uri().try_into().map_err(PkiError::Make)?;
        // Some libraries refuse a server without a hostname.
        let host =
            format!("{}.{}.wharf", peer.node, peer.role.as_str()).try_into().map_err(PkiError::Make)?;
        params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(host)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.der, &self.key).map_err(PkiError::Make)?;
        let certificate = params.signed_by(&request.public_key, &issuer).map_err(PkiError::Make)?;
        Ok(certificate.pem())
    }
}

/// Tells the key of a request (PKCS #10, PEM) from any other: the SHA-256 of its public half, in hexadecimal digits. The request has to be signed
/// with that key.
pub fn key_of(request: &str) -> Result<String, PkiError> {
    let request = CertificateSigningRequestParams::from_pem(request).map_err(PkiError::Request)?;
    let digest = Sha256::digest(request.public_key.subject_public_key_info());
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn named(name: String) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn serial() -> SerialNumber {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).expect("the kernel has random numbers");
    // A positive number, as RFC 5280 §4.1.2.2 wants it.
    serial[0] &= 0x7f;
    serial[0] |= 0x40;
    SerialNumber::from_slice(&serial)
}

fn validity(now: Timestamp, lifetime: Duration) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
    let date = |at: Option<Timestamp>| {
        at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.as_second()).ok()).ok_or(PkiError::Date(now))
    };
    Ok((date(now.checked_sub(SKEW).ok())?, date(now.checked_add(lifetime).ok())?))
}
