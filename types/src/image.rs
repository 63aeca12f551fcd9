//! Images of containers: how they are referred to, and the artifact that pins one.
//!
//! Parsing follows what `docker pull` takes: `redis` is `docker.io/library/redis:latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The longest name of an image with its registry, in octets, as registries have it.
const NAME_MAX_BYTES: usize = 255;
const TAG_MAX_BYTES: usize = 128;
/// The largest document, in octets.
pub const DOCUMENT_MAX_BYTES: usize = 64 << 10;

/// The header of the answer to [`ResolveImage`](crate::api::ResolveImage) that has the TCP ports which the image exposes, such as `80,443`. None: whoever
/// answers does not have the image, or is from before this. They are no part of the document, which older workers would not read then.
pub const EXPOSED_HEADER: &str = "wharf-exposed-ports";

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// Where an image is: `[REGISTRY/]NAME[:TAG][@DIGEST]`. What is left out is filled in, so two references to the same are equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    name: String,
    /// None only where there is a digest.
    tag: Option<String>,
    digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a reference to an image: {problem}. Write it as `redis`, `redis:7` or `registry.example.com:5000/team/app:1.2`"
)]
pub struct InvalidReference {
    text: String,
    problem: &'static str,
}

impl ImageReference {
    /// Its host, with the port if it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name with its registry, such as `docker.io/library/redis`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.name)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository at a digest: what never means something else later.
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |problem| InvalidReference { text: text.chars().take(80).collect(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse();
                (rest, Some(digest.map_err(|_| invalid("a digest is `sha256:` and 64 hexadecimal digits"))?))
            }
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("a tag has up to 128 letters, digits, `_`, `.` and `-`"));
        }
        let (registry, name) = split_registry(path);
        if !is_registry(&registry) {
            return Err(invalid("the registry is no host with an optional port"));
        }
        if !name.split('/').all(is_component) {
            return Err(invalid("a name has lower-case letters and digits, parted by `/`, `.`, `_` or `-`"));
        }
        if registry.len() + 1 + name.len() > NAME_MAX_BYTES {
            return Err(invalid("the name is longer than 255 octets"));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { registry, name, tag, digest })
    }
}

/// As Docker tells them apart: the first part is a registry if it could not be a part of a name of Docker Hub.
fn split_registry(path: &str) -> (String, String) {
    let hub = |name: &str| {
        let name = if name.contains('/') { name.to_owned() } else { format!("library/{name}") };
        (DEFAULT_REGISTRY.to_owned(), name)
    };
    match path.split_once('/') {
        Some(("docker.io" | "index.docker.io", name)) => hub(name),
        Some((first, name)) if first.contains(['.', ':']) || first == "localhost" => {
            (first.to_owned(), name.to_owned())
        }
        _ => hub(path),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => is_address(address),
        None => host.split('.').all(is_label),
    };
    is_host && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Letters and digits, parted by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    for byte in text.bytes() {
        if !is_word(byte) {
            separator.push(char::from(byte));
        } else if separator.is_empty() || is_separator(&separator) {
            separator.clear();
        } else {
            return false;
        }
    }
    let (first, last) = (text.bytes().next(), text.bytes().last());
    first.is_some_and(is_word) && last.is_some_and(is_word)
}

fn is_separator(text: &str) -> bool {
    [".", "_", "__"].contains(&text) || text.bytes().all(|byte| byte == b'-')
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_MAX_BYTES
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

/// What an image was built for, in the words of image registries: `linux/amd64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether this platform executes what was built for the other one, without emulation.
    pub fn executes(&self, other: &Self) -> bool {
        let is_older = |ours, theirs| self.architecture == ours && other.architecture == theirs;
        self.os == other.os
            && (self.architecture == other.architecture
                || is_older("amd64", "386")
                || is_older("arm64", "arm"))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// An app's artifact where that is an image: which one, for ever. Written as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDocument {
    /// As the user wrote it.
    pub image: String,
    #[serde(flatten)]
    pub pin: ImagePin,
    /// What the image was built for. Empty: not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImagePin {
    /// Of the manifest, or the list of manifests, in the registry.
    Digest(Digest),
    /// The ID of an image that no registry has, only an engine.
    Id(Digest),
}

#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    #[error("the document of an image has {0} octets, and may have {DOCUMENT_MAX_BYTES}")]
    TooLong(usize),
    #[error("this is no document of an image")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

impl ImageDocument {
    pub fn parse(octets: &[u8]) -> Result<Self, InvalidDocument> {
        if octets.len() > DOCUMENT_MAX_BYTES {
            return Err(InvalidDocument::TooLong(octets.len()));
        }
        let document: Self = serde_json::from_slice(octets)?;
        if let ImagePin::Digest(_) = document.pin {
            document.image.parse::<ImageReference>()?;
        }
        Ok(document)
    }

    /// The octets of the artifact; the same document always has the same.
    pub fn to_octets(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_a_reference_is_filled_in() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, full) in [
            ("redis", "docker.io/library/redis:latest".to_owned()),
            ("redis:7", "docker.io/library/redis:7".to_owned()),
            ("docker.io/redis", "docker.io/library/redis:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("registry:5000/a/b", "registry:5000/a/b:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("quay.io/a/b__c/d--e.f:V_1.0-x", "quay.io/a/b__c/d--e.f:V_1.0-x".to_owned()),
            (&format!("registry:5000/a/b@{digest}"), format!("registry:5000/a/b@{digest}")),
            (&format!("redis:7@{digest}"), format!("docker.io/library/redis:7@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), full, "{text}");
            assert_eq!(full.parse::<ImageReference>().unwrap().to_string(), full, "{full}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_with_what_is_wrong() {
        let long = "a".repeat(250);
        for (bad, problem) in [
            ("", "lower-case"),
            ("Redis", "lower-case"),
            ("a//b", "lower-case"),
            ("a/../b", "lower-case"),
            ("a.-b", "lower-case"),
            ("-a", "lower-case"),
            ("ä", "lower-case"),
            ("a b", "lower-case"),
            ("redis:", "tag"),
            ("redis:.a", "tag"),
            ("a?x=y", "lower-case"),
            ("host:99999/a", "registry"),
            ("-host.com/a", "registry"),
            ("host:port/a", "registry"),
            ("redis@sha256:1", "digest"),
            ("redis@sha512:1", "digest"),
            (&long, "255"),
        ] {
            let error = bad.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(problem), "{bad}: {error}");
        }
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let platform =
            Platform { os: "linux".into(), architecture: "arm64".into(), variant: Some("v8".into()) };
        for pin in [ImagePin::Digest(Digest::of(b"a")), ImagePin::Id(Digest::of(b"b"))] {
            let document = ImageDocument { image: "redis:7".into(), pin, platforms: vec![platform.clone()] };
            assert_eq!(ImageDocument::parse(&document.to_octets()).unwrap(), document);
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let digest = Digest::of(b"a");
        for bad in [
            String::new(),
            "{}".into(),
            r#"{"image":"redis"}"#.into(),
            format!(r#"{{"image":"No Image","digest":"{digest}"}}"#),
            format!(r#"{{"image":"redis","digest":"{digest}","id":"{digest}"}}"#),
            format!(r#"{{"image":"redis","digest":"{digest}","more":1}}"#),
            format!(r#"{{"image":"{}","digest":"{digest}"}}"#, "a".repeat(DOCUMENT_MAX_BYTES)),
        ] {
            assert!(ImageDocument::parse(bad.as_bytes()).is_err(), "{:.80}", bad);
        }
    }

    #[test]
    fn a_platform_executes_its_own_and_its_predecessor() {
        let linux = |architecture: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        };
        assert!(linux("amd64").executes(&linux("amd64")) && linux("amd64").executes(&linux("386")));
        assert!(linux("arm64").executes(&linux("arm")));
        assert!(!linux("amd64").executes(&linux("arm64")) && !linux("386").executes(&linux("amd64")));
        assert!(!linux("amd64").executes(&Platform { os: "windows".into(), ..linux("amd64") }));
    }
}
