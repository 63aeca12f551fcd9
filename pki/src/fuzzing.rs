//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::{Authority, Identity, JoinToken, Peer, Pin, Role, Roots, bundle_tag, peer_of, pins};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("join-tokens", join_tokens, &[
        b"wharf-join.0000000000000000000000000000000000000000000000000000000000abCDef.wharf_ab12", b"wharf-join.00.a", b"wharf_0123",
        b"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ]),
    ("peers", peers, &[b"wharf://worker/018f0000-0000-7000-8000-000000000000", b"wharf://server/018f00000000700080000000000000ff", b"server"]),
    ("certificates", certificates, &[include_bytes!("fuzzing/peer.der")]),
    ("bundles", bundles, &[include_bytes!("fuzzing/peer.pem"), include_bytes!("fuzzing/request.pem")]),
    ("requests", requests, &[include_bytes!("fuzzing/request.pem")]),
];

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

/// What is read is the same when it is written and read again, and shows no secret.
fn join_tokens(data: &[u8]) {
    let text = text(data);
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        let other = JoinToken { secret: "another".to_owned(), ..token.clone() };
        assert_eq!(format!("{token:?}"), format!("{other:?}"), "nothing of a secret is shown");
    }
    if let Ok(pin) = text.parse::<Pin>() {
        assert_eq!(pin.to_string().parse(), Ok(pin));
    }
}

fn peers(data: &[u8]) {
    let text = text(data);
    if let Some(peer) = Peer::from_uri(text) {
        assert_eq!(Peer::from_uri(&peer.to_uri()), Some(peer));
    }
    if let Ok(role) = text.parse::<Role>() {
        assert_eq!(role.as_str(), text);
    }
}

/// Whoever a certificate is of, it says so in the one way in which we write it.
fn certificates(data: &[u8]) {
    if let Some(peer) = peer_of(&[CertificateDer::from(data)]) {
        assert_eq!(Peer::from_uri(&peer.to_uri()), Some(peer));
    }
}

/// Certificates in PEM, as those of CAs and as those of a node.
fn bundles(data: &[u8]) {
    let text = text(data);
    if let Ok(pins) = pins(text) {
        assert!(pins.len() <= text.len());
        assert_eq!(bundle_tag(text).ok().map(|tag| tag.len()), Some(16));
    }
    drop(Roots::load(text));
    drop(Identity::load(text, text, text));
}

thread_local! {
    static AUTHORITY: Authority = Authority::generate(NOW).expect("a CA can be made");
}

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// Of a request nothing but the key counts: the certificate is of whom we say.
fn requests(data: &[u8]) {
    let uri = "wharf://worker/018f0000-0000-7000-8000-000000000000";
    let peer = Peer::from_uri(uri).expect("that is a peer");
    AUTHORITY.with(|authority| {
        if let Ok(issued) = authority.issue(text(data), &peer, NOW) {
            let certificate = CertificateDer::from_pem_slice(issued.as_bytes()).expect("it is in PEM");
            assert_eq!(peer_of(&[certificate]), Some(peer));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 2000);
    }

    #[test]
    fn the_certificate_and_the_request_that_are_changed_are_some() {
        let certificate = CertificateDer::from(&include_bytes!("fuzzing/peer.der")[..]);
        let peer = peer_of(std::slice::from_ref(&certificate)).unwrap();
        assert_eq!(peer.role, Role::Worker);
        let pem = include_str!("fuzzing/peer.pem");
        assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), certificate);
        let request = include_str!("fuzzing/request.pem");
        AUTHORITY.with(|authority| authority.issue(request, &peer, NOW)).unwrap();
    }
}
