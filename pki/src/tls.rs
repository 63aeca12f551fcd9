//! TLS between nodes. Who answers is checked by the CA and the role, never by a hostname.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::PkiError;
use crate::identity::Identity;
use crate::peer::{Role, peer_of};
use crate::token::Pin;

/// The CAs whose certificates are believed: one, or two while one follows the other.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// From PEM.
    pub fn load(certificates: &str) -> Result<Self, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(certificates.as_bytes()) {
            roots.add(certificate.map_err(|error| PkiError::Pem(error.to_string()))?)?;
        }
        if roots.is_empty() {
            return Err(PkiError::Pem("there is none".into()));
        }
        Ok(Self(Arc::new(roots)))
    }
}

/// For connections to nodes of these roles, as `identity`. TLS 1.3.
pub fn client_config(identity: &Identity, roots: &Roots, roles: &[Role]) -> Result<ClientConfig, PkiError> {
    let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
    Ok(connecting(Trust::Roots(roots.0.clone()), roles)?.with_client_auth_cert(chain, key)?)
}

/// For the connection by which a host joins: it has no certificate yet, and knows the CA by its digest only.
pub fn joining_config(pin: Pin) -> Result<ClientConfig, PkiError> {
    Ok(connecting(Trust::Pinned(pin), &[Role::Server])?.with_no_client_auth())
}

/// For connections from nodes, which show their certificates. Without `required` one may show none, as a host that joins.
pub fn server_config(identity: &Identity, roots: &Roots, required: bool) -> Result<ServerConfig, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.0.clone(), provider());
    let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
    let verifier = verifier.build().map_err(|error| PkiError::Tls(Error::General(error.to_string())))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier);
    Ok(config.with_single_cert(identity.chain.clone(), identity.key.clone_key())?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn connecting(
    trust: Trust,
    roles: &[Role],
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, PkiError> {
    let config =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = Verifier { trust, roles: roles.to_vec(), provider: provider() };
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Whose certificates are believed.
#[derive(Debug)]
enum Trust {
    /// Of these CAs.
    Roots(Arc<RootCertStore>),
    /// Of the CA with this digest, which comes along.
    Pinned(Pin),
}

/// Believes nodes in some roles.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    roles: Vec<Role>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn roots(&self, others: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let pin = match &self.trust {
            Trust::Roots(roots) => return Ok(roots.clone()),
            Trust::Pinned(pin) => pin,
        };
        let pinned = others.iter().find(|other| Pin::of(other) == *pin);
        let pinned = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        Ok(Arc::new(roots))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(own)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let roots = self.roots(others)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, others, now, algorithms)?;
        match peer_of(std::slice::from_ref(own)) {
            Some(peer) if self.roles.contains(&peer.role) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use jiff::Timestamp;
    use rustls::{ClientConnection, ServerConnection};
    use wharf_types::NodeId;

    use super::*;
    use crate::{Authority, NodeKey, Peer};

    fn node(authority: &Authority, role: Role, from: Timestamp, lifetime: Duration) -> Identity {
        let key = NodeKey::generate().unwrap();
        let peer = Peer { node: NodeId::new(), role };
        let certificate = authority.issue_for(&key.request().unwrap(), &peer, from, lifetime).unwrap();
        let identity = Identity::load(&certificate, &key.to_pem(), authority.certificate()).unwrap();
        assert_eq!(identity.peer, peer);
        identity
    }

    fn fresh(authority: &Authority, role: Role) -> Identity {
        node(authority, role, Timestamp::now(), crate::NODE_LIFETIME)
    }

    fn roots(of: &[&Authority]) -> Roots {
        Roots::load(&of.iter().map(|authority| authority.certificate()).collect::<String>()).unwrap()
    }

    /// Shakes hands; returns whom the server and the client have found at the other end.
    fn meet(client: ClientConfig, server: ServerConfig) -> Result<(Option<Peer>, Option<Peer>), Error> {
        let name = ServerName::try_from("node.wharf").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking()
            || server.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            pass(&mut |to| client.write_tls(to), &mut |from| server.read_tls(from));
            server.process_new_packets()?;
            pass(&mut |to| server.write_tls(to), &mut |from| client.read_tls(from));
            client.process_new_packets()?;
        }
        let peer = |chain: Option<&[CertificateDer<'_>]>| chain.and_then(peer_of);
        Ok((peer(server.peer_certificates()), peer(client.peer_certificates())))
    }

    fn pass(
        write: &mut dyn FnMut(&mut Vec<u8>) -> io::Result<usize>,
        read: &mut dyn FnMut(&mut &[u8]) -> io::Result<usize>,
    ) {
        let mut octets = Vec::new();
        write(&mut octets).unwrap();
        let mut rest = octets.as_slice();
        while !rest.is_empty() {
            read(&mut rest).unwrap();
        }
    }

    #[test]
    fn nodes_of_one_cluster_know_each_other_by_their_certificates() {
        let authority = Authority::generate(Timestamp::now()).unwrap();
        let (worker, server) = (fresh(&authority, Role::Worker), fresh(&authority, Role::Server));
        let roots = roots(&[&authority]);
        let client = client_config(&worker, &roots, &[Role::Server]).unwrap();
        let met = meet(client, server_config(&server, &roots, true).unwrap());
        assert_eq!(met, Ok((Some(worker.peer), Some(server.peer))));
    }

    #[test]
    fn a_worker_is_no_server() {
        let authority = Authority::generate(Timestamp::now()).unwrap();
        let (one, other) = (fresh(&authority, Role::Worker), fresh(&authority, Role::Worker));
        let roots = roots(&[&authority]);
        let server = || server_config(&other, &roots, true).unwrap();
        assert!(meet(client_config(&one, &roots, &[Role::Server]).unwrap(), server()).is_err());
        assert!(meet(client_config(&one, &roots, &[Role::Worker]).unwrap(), server()).is_ok());
    }

    #[test]
    fn certificates_of_another_cluster_or_another_time_are_refused() {
        let (ours, theirs) =
            (Authority::generate(Timestamp::now()).unwrap(), Authority::generate(Timestamp::now()).unwrap());
        let long_ago = Timestamp::now() - Duration::from_secs(7 * 24 * 3600);
        let day = Duration::from_secs(24 * 3600);
        let (worker, server) = (fresh(&ours, Role::Worker), fresh(&ours, Role::Server));
        let known = roots(&[&ours]);
        let meet = |worker: &Identity, trusts: &Roots, server: &Identity| {
            let client = client_config(worker, trusts, &[Role::Server]).unwrap();
            meet(client, server_config(server, &known, true).unwrap())
        };
        assert!(meet(&worker, &known, &server).is_ok());
        assert!(meet(&fresh(&theirs, Role::Worker), &known, &server).is_err(), "a worker of another cluster");
        assert!(meet(&worker, &known, &fresh(&theirs, Role::Server)).is_err(), "a server of another cluster");
        assert!(meet(&worker, &roots(&[&theirs]), &server).is_err(), "the worker is of another cluster");
        let expired = node(&ours, Role::Worker, long_ago, day);
        assert!(meet(&expired, &known, &server).is_err(), "an old certificate");
        assert!(meet(&worker, &roots(&[&theirs, &ours]), &server).is_ok(), "while one CA follows the other");
    }

    #[test]
    fn whoever_joins_needs_the_digest_of_the_ca_only() {
        let (ours, theirs) =
            (Authority::generate(Timestamp::now()).unwrap(), Authority::generate(Timestamp::now()).unwrap());
        let (server, known) = (fresh(&ours, Role::Server), roots(&[&ours]));
        let joins = |pin| meet(joining_config(pin).unwrap(), server_config(&server, &known, false).unwrap());
        assert_eq!(joins(ours.pin()), Ok((None, Some(server.peer))));
        assert!(joins(theirs.pin()).is_err());
        let refuses = server_config(&server, &known, true).unwrap();
        assert!(meet(joining_config(ours.pin()).unwrap(), refuses).is_err(), "it has no certificate");
        let worker = fresh(&ours, Role::Worker);
        let pretends = server_config(&worker, &known, false).unwrap();
        assert!(meet(joining_config(ours.pin()).unwrap(), pretends).is_err(), "a worker lets nobody join");
    }

    #[test]
    fn a_ca_is_the_same_after_it_was_kept() {
        let made = Authority::generate(Timestamp::now()).unwrap();
        let kept = Authority::load(made.certificate(), &made.key()).unwrap();
        assert_eq!(kept.pin(), made.pin());
        let (worker, server) = (fresh(&kept, Role::Worker), fresh(&made, Role::Server));
        let roots = roots(&[&made]);
        let client = client_config(&worker, &roots, &[Role::Server]).unwrap();
        assert!(meet(client, server_config(&server, &roots, true).unwrap()).is_ok());
    }

    #[test]
    fn a_ca_with_the_key_of_another_is_none() {
        let make = || Authority::generate(Timestamp::now()).unwrap();
        let (one, other) = (make(), make());
        assert!(matches!(Authority::load(one.certificate(), &other.key()), Err(PkiError::OtherKey)));
    }

    #[test]
    fn what_a_request_says_of_itself_does_not_count_and_nonsense_is_refused() {
        let authority = Authority::generate(Timestamp::now()).unwrap();
        let peer = Peer { node: NodeId::new(), role: Role::Worker };
        for nonsense in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
        {
            assert!(authority.issue(nonsense, &peer, Timestamp::now()).is_err());
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["admin.wharf".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        if let Ok(certificate) = authority.issue(&request, &peer, Timestamp::now()) {
            let identity = Identity::load(&certificate, &key.serialize_pem(), "").unwrap();
            assert_eq!(identity.peer, peer);
            assert!(!certificate.contains("admin.wharf"));
        }
    }
}
