//! The line that an operator pastes on a new host.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use crate::PkiError;

const PREFIX: &str = "wharf-join";

/// SHA-256 of a CA's certificate: whoever joins knows by it that it speaks to the right cluster, before it has anything else of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

/// Those of certificates in PEM.
pub fn pins(certificates: &str) -> Result<Vec<Pin>, PkiError> {
    let certificates = CertificateDer::pem_slice_iter(certificates.as_bytes());
    let pin = |certificate: Result<CertificateDer<'_>, _>| certificate.map(|it| Pin::of(&it));
    certificates.map(pin).collect::<Result<_, _>>().map_err(|error| PkiError::Pem(error.to_string()))
}

/// Tells one choice of CAs, and their order, from others; of certificates in PEM.
pub fn bundle_tag(certificates: &str) -> Result<String, PkiError> {
    let mut digest = Sha256::new();
    pins(certificates)?.iter().for_each(|pin| digest.update(pin.0));
    Ok(digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let digit = |at: usize| text.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let mut pin = [0; 32];
        for (index, byte) in pin.iter_mut().enumerate() {
            *byte = digit(2 * index).ok_or(InvalidJoinToken)?;
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(pin))
        } else {
            Err(InvalidJoinToken)
        }
    }
}

/// Lets a host become a node: `wharf-join.PIN.SECRET`, which opens nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub pin: Pin,
    pub secret: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: it begins with `wharf-join.`, and `wharf node token create` prints one. User tokens let nobody join"
)]
pub struct InvalidJoinToken;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}", self.pin, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let mut parts = text.trim().splitn(3, '.');
        let (Some(PREFIX), Some(pin), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidJoinToken);
        };
        let is_secret = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if secret.is_empty() || secret.len() > 200 || !secret.chars().all(is_secret) {
            return Err(InvalidJoinToken);
        }
        Ok(Self { pin: pin.parse()?, secret: secret.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_shows_no_secret() {
        let pin = Pin::of(&CertificateDer::from(vec![1, 2, 3]));
        let token = JoinToken { pin, secret: "wharf_ab12".into() };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("ab12"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let pin = "ab".repeat(32);
        for bad in [
            "".to_owned(),
            "wharf_0123".to_owned(),
            "wharf-join".to_owned(),
            format!("wharf-join.{pin}"),
            format!("wharf-join.{pin}."),
            format!("wharf-join.{}.s", &pin[2..]),
            format!("wharf-join.{pin}00.s"),
            format!("wharf-join.{}.s", "é".repeat(32)),
            format!("wharf-join.{}zz.s", &pin[2..]),
            format!("wharf-join.{pin}.a b"),
            format!("wharf-join.{pin}.{}", "a".repeat(201)),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(InvalidJoinToken), "{bad}");
        }
    }
}
