//! Who a certificate says that somebody is.

use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use wharf_types::NodeId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const SCHEME: &str = "wharf://";

/// What a node may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs instances, and takes requests to them from other nodes.
    Worker,
    /// The control plane: workers do as it says.
    Server,
}

/// The holder of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    pub node: NodeId,
    pub role: Role,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Server => "server",
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Worker, Self::Server].into_iter().find(|role| role.as_str() == text).ok_or(())
    }
}

impl Peer {
    pub(crate) fn to_uri(self) -> String {
        format!("{SCHEME}{}/{}", self.role.as_str(), self.node)
    }

    pub(crate) fn from_uri(uri: &str) -> Option<Self> {
        let (role, node) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        Some(Self { node: node.parse().ok()?, role: role.parse().ok()? })
    }
}

/// The holder of the first certificate of a chain that TLS has verified. None: it says nothing, or more than one thing.
pub fn peer_of(chain: &[CertificateDer<'_>]) -> Option<Peer> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let peer = Peer::from_uri(uris.next()?)?;
    uris.next().is_none().then_some(peer)
}
