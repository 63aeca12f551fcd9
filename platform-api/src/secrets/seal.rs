//! One key, and what is sealed with it.
//!
//! ChaCha20-Poly1305 with a random nonce for each sealing. Which version of a secret it is, and of which namespace, is
//! authenticated with it: a row whose content was exchanged with another's does not open. A nonce has 96 bits, so a key may seal
//! four billion values before a repetition becomes as likely as one in four billion.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use wharf_types::secret::{SecretValue, ValueKind};
use wharf_types::{NamespaceId, SecretVersionId};
use zeroize::Zeroizing;

/// Octets of a key, written as twice as many hexadecimal digits.
const KEY_BYTES: usize = 32;
/// Domains of what is derived or authenticated, so that nothing made for one purpose is of use for another.
const KEY_ID_DOMAIN: &str = "wharf 2026-11 id of a key for secrets";
const SEAL_DOMAIN: &[u8] = b"wharf secret 1";
const CONFIG_DOMAIN: &[u8] = b"wharf config 1";
const AUTHORITY_DOMAIN: &[u8] = b"wharf authority 1";
const REPLY_KEY_DOMAIN: &str = "wharf 2026-11 key for replies to the holder of a token";
const REPLY_DOMAIN: &[u8] = b"wharf reply 1";

/// A key for secrets. It shows its id and nothing else.
#[derive(Clone)]
pub(crate) struct Key {
    id: String,
    octets: Zeroizing<[u8; KEY_BYTES]>,
}

/// What is kept of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// The id of the key that opens it.
    pub(crate) key_id: String,
    /// The nonce, then the ciphertext with its tag.
    pub(crate) octets: Vec<u8>,
}

/// Why a value cannot be read. For people; it holds nothing of the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenSecretError {
    #[error(
        "was sealed with the key {key_id}, which this platform does not have: start it with that key in the file of \
         WHARF_SECRET_KEY_FILE, in WHARF_SECRET_KEY, or in `secret.key` of the data directory, or set the secret anew"
    )]
    MissingKey { key_id: String },
    #[error(
        "does not open: its row in the database was changed or is damaged; set the secret anew, or restore the database from a backup"
    )]
    Tampered,
}

impl Sealed {
    /// How much longer it is than the value.
    pub(crate) const OVERHEAD_BYTES: usize = NONCE_LEN + 16;
}

impl Key {
    pub(crate) fn generate() -> Self {
        let mut octets = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *octets).expect("the kernel has random numbers");
        Self::new(octets)
    }

    /// None: it is not 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        let mut octets = Zeroizing::new([0; KEY_BYTES]);
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            *octet = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
        }
        Some(Self::new(octets))
    }

    fn new(octets: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        // Derived, so that a key needs no label beside it that could be the wrong one.
        let hash = Zeroizing::new(blake3::derive_key(KEY_ID_DOMAIN, &*octets));
        let id = hash[..6].iter().map(|octet| format!("{octet:02x}")).collect();
        Self { id, octets }
    }

    /// The key of whoever has this token. The platform has only the token's hash, so that nobody else opens what it seals.
    pub(crate) fn of_token(secret: &str) -> Self {
        Self::new(Zeroizing::new(blake3::derive_key(REPLY_KEY_DOMAIN, secret.as_bytes())))
    }

    /// Tells keys apart, and nothing of the key.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// As [`Self::parse`] reads it.
    pub(crate) fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        for octet in self.octets.iter() {
            for digit in [octet >> 4, octet & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
        }
        text
    }

    pub(crate) fn seal(&self, of: SecretOf, value: &SecretValue) -> Sealed {
        self.seal_for(of.to_aad(), value.reveal().as_bytes())
    }

    /// Seals the key of a CA with this id.
    pub(crate) fn seal_authority(&self, id: &str, key: &str) -> Sealed {
        self.seal_for(authority_aad(id), key.as_bytes())
    }

    /// Seals the reply to a request, by its `Idempotency-Key` and its hash.
    pub(crate) fn seal_reply(&self, (key, request_hash): (&str, &str), reply: &str) -> Vec<u8> {
        self.seal_for(reply_aad(key, request_hash), reply.as_bytes()).octets
    }

    pub(crate) fn open_reply(
        &self,
        (key, request_hash): (&str, &str),
        sealed: &[u8],
    ) -> Result<Zeroizing<String>, OpenSecretError> {
        self.open_for(reply_aad(key, request_hash), sealed)
    }

    fn seal_for(&self, aad: Vec<u8>, plain: &[u8]) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the kernel has random numbers");
        let mut content = Zeroizing::new(Vec::with_capacity(plain.len() + CHACHA20_POLY1305.tag_len()));
        content.extend_from_slice(plain);
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut *content)
            .expect("a value is far shorter than what the cipher can seal");
        Sealed { key_id: self.id.clone(), octets: [&nonce[..], &content].concat() }
    }

    pub(crate) fn open(&self, of: SecretOf, sealed: &[u8]) -> Result<SecretValue, OpenSecretError> {
        self.open_for(of.to_aad(), sealed).map(|text| text.to_string().into())
    }

    pub(crate) fn open_authority(
        &self,
        id: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<String>, OpenSecretError> {
        self.open_for(authority_aad(id), sealed)
    }

    fn open_for(&self, aad: Vec<u8>, sealed: &[u8]) -> Result<Zeroizing<String>, OpenSecretError> {
        let Some((nonce, content)) = sealed.split_first_chunk::<NONCE_LEN>() else {
            return Err(OpenSecretError::Tampered);
        };
        let mut content = Zeroizing::new(content.to_vec());
        let opened =
            self.cipher().open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut content);
        let value = opened.map_err(|_| OpenSecretError::Tampered)?;
        let text = std::str::from_utf8(value).map_err(|_| OpenSecretError::Tampered)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.octets);
        LessSafeKey::new(key.expect("the key has the cipher's length"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// A key of a CA in the row of another does not open, nor as a secret.
fn authority_aad(id: &str) -> Vec<u8> {
    [AUTHORITY_DOMAIN, id.as_bytes()].concat()
}

/// A reply in the row of another request does not open. A hash has a length of its own, so no key runs into it.
fn reply_aad(key: &str, request_hash: &str) -> Vec<u8> {
    [REPLY_DOMAIN, request_hash.as_bytes(), key.as_bytes()].concat()
}

/// What a sealed value is the value of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecretOf {
    pub(crate) namespace: NamespaceId,
    pub(crate) id: SecretVersionId,
    pub(crate) kind: ValueKind,
}

impl SecretOf {
    /// A secret whose row says that it is a config does not open.
    fn to_aad(self) -> Vec<u8> {
        let (namespace, id) = (self.namespace.as_uuid(), self.id.as_uuid());
        let domain = match self.kind {
            ValueKind::Secret => SEAL_DOMAIN,
            ValueKind::Config => CONFIG_DOMAIN,
        };
        [domain, namespace.as_bytes(), id.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of() -> SecretOf {
        SecretOf { namespace: NamespaceId::new(), id: SecretVersionId::new(), kind: ValueKind::Secret }
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(text in "\\PC{0,300}") {
            let (key, of, value) = (Key::generate(), of(), SecretValue::from(text));
            let sealed = key.seal(of, &value);
            prop_assert_eq!(&sealed.key_id, key.id());
            prop_assert_eq!(key.open(of, &sealed.octets).unwrap(), value);
        }

        #[test]
        fn any_bit_that_is_flipped_is_an_error(text in "\\PC{1,60}", at: prop::sample::Index, bit in 0..8_u8) {
            let (key, of) = (Key::generate(), of());
            let mut sealed = key.seal(of, &text.into()).octets;
            *at.get_mut(&mut sealed[..]) ^= 1 << bit;
            prop_assert_eq!(key.open(of, &sealed), Err(OpenSecretError::Tampered));
        }

        #[test]
        fn any_part_of_what_was_sealed_is_an_error(text in "\\PC{1,60}", at: prop::sample::Index) {
            let (key, of) = (Key::generate(), of());
            let sealed = key.seal(of, &text.into()).octets;
            let end = at.index(sealed.len());
            prop_assert_eq!(key.open(of, &sealed[..end]), Err(OpenSecretError::Tampered));
        }

        #[test]
        fn any_octets_are_survived(octets: Vec<u8>, text in "\\PC{0,70}") {
            prop_assert!(Key::generate().open(of(), &octets).is_err());
            let _ = Key::parse(&text);
        }
    }

    #[test]
    fn another_key_or_another_row_does_not_open_it() {
        let (key, row) = (Key::generate(), of());
        let sealed = key.seal(row, &"hush".to_owned().into());
        assert!(Key::generate().open(row, &sealed.octets).is_err());
        assert!(key.open(SecretOf { id: SecretVersionId::new(), ..row }, &sealed.octets).is_err());
        assert!(key.open(SecretOf { namespace: NamespaceId::new(), ..row }, &sealed.octets).is_err());
        assert!(key.open(SecretOf { kind: ValueKind::Config, ..row }, &sealed.octets).is_err());
        assert_ne!(sealed, key.seal(row, &"hush".to_owned().into()), "each sealing has a nonce of its own");
    }

    #[test]
    fn a_reply_is_for_whoever_has_the_token_and_of_one_request() {
        let (key, of) = (Key::of_token("wharf_1"), ("k", "0123"));
        let sealed = key.seal_reply(of, "{\"secret\":\"hush\"}");
        assert_eq!(&**Key::of_token("wharf_1").open_reply(of, &sealed).unwrap(), "{\"secret\":\"hush\"}");
        assert!(Key::of_token("wharf_2").open_reply(of, &sealed).is_err());
        assert!(key.open_reply(("l", "0123"), &sealed).is_err());
        assert!(key.open_reply(("k", "0124"), &sealed).is_err());
    }

    #[test]
    fn a_key_is_read_as_it_is_written_and_has_an_id_that_says_nothing_of_it() {
        let key = Key::generate();
        let read = Key::parse(&key.to_hex()).unwrap();
        assert_eq!((read.id(), &read.octets), (key.id(), &key.octets));
        assert!(!key.to_hex().contains(key.id()));
        assert!(!format!("{key:?}").contains(&key.to_hex()[..8]));
        let digits = "0".repeat(64);
        assert!(Key::parse(&digits).is_some() && Key::parse(&digits[1..]).is_none());
        assert!(Key::parse(&format!("g{}", &digits[1..])).is_none());
    }
}
