//! Artifacts that nodes give each other, over the connections that requests take as well.
//!
//! Who may have one, and whether it is what it is called, is up to who gives it and who gets it: see [`PeerArtifacts`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use http::{Request, Uri};
use http_body_util::BodyExt as _;
use wharf_types::{Digest, NodeId};

use super::call::detail;
use super::link::Outgoing;
use super::peer::Peer;
use super::wire::{Ask, Verdict};
use crate::proxy::Shared;

/// An artifact on its way.
pub type ArtifactBytes = BoxStream<'static, io::Result<Bytes>>;

/// What this node gives to others.
pub trait PeerArtifacts: Send + Sync {
    /// An artifact and its length. None: it is not here, or is not given for this key.
    fn give(&self, digest: Digest, key: String) -> BoxFuture<'static, Option<(u64, ArtifactBytes)>>;
}

/// The way to the artifacts of other nodes.
#[derive(Clone)]
pub struct ArtifactReader(pub(crate) Arc<Shared>);

impl ArtifactReader {
    /// Asks a node of the newest route table. An error says why there is none. What comes is to be compared with the digest.
    pub async fn ask(&self, node: NodeId, digest: Digest, key: &str) -> Result<ArtifactBytes, String> {
        let peer = self.0.table.load().peer_of(node).ok_or("no way to it is known")?;
        peer.artifact(digest, key).await
    }
}

impl Peer {
    async fn artifact(self: Arc<Self>, digest: Digest, key: &str) -> Result<ArtifactBytes, String> {
        let held = self.hold().await.map_err(|why| why.to_string())?;
        let mut request = Request::new(Outgoing::Nothing);
        *request.uri_mut() = Uri::from_static("http://peer.internal/");
        Ask::Artifact { digest, key: key.to_owned() }.write(request.headers_mut());
        let response = held.send(request).await.map_err(|(error, _)| super::peer::chain(&error))?;
        self.answered();
        match Verdict::of(response.headers()) {
            None => {}
            Some(Verdict::NotHere) => return Err("it does not have it".to_owned()),
            Some(_) => return Err(detail(response).await),
        }
        let chunks = stream::unfold((response.into_body(), held), |(mut body, held)| async move {
            let frame = body.frame().await?;
            held.is_heard();
            let chunk = frame.map(|frame| frame.into_data().unwrap_or_default());
            Some((chunk.map_err(io::Error::other), (body, held)))
        });
        Ok(chunks.boxed())
    }
}
