//! Artifacts that hosts give each other.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use wharf_ingress::{ArtifactBytes, PeerArtifacts};
use wharf_types::{Digest, NodeId};

use crate::fixture::within;
use crate::mesh::Mesh;

/// Gives one artifact to who has the key.
struct One(Bytes);

impl PeerArtifacts for One {
    fn give(&self, digest: Digest, key: String) -> BoxFuture<'static, Option<(u64, ArtifactBytes)>> {
        let content = self.0.clone();
        Box::pin(async move {
            (digest == Digest::of(&content) && key == "key").then(|| {
                let chunks: Vec<_> =
                    content.chunks(100_000).map(|it| Ok(Bytes::copy_from_slice(it))).collect();
                (content.len() as u64, stream::iter(chunks).boxed())
            })
        })
    }
}

#[tokio::test]
async fn a_host_gives_an_artifact_to_who_knows_its_key_and_goes_on_with_requests() {
    let content = Bytes::from_iter((0..3_000_000_u32).map(|number| (number % 251) as u8));
    let artifacts = Arc::new(One(content.clone()));
    let mut mesh = Mesh::configured(2, |config| config.artifacts = Some(artifacts.clone())).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    let (reader, digest) = (near.ingress.artifacts(), Digest::of(&content));
    let ask = async |node: NodeId, digest, key: &str| match within(reader.ask(node, digest, key)).await {
        Ok(chunks) => Ok(within(chunks.try_collect::<Vec<Bytes>>()).await.unwrap().concat()),
        Err(why) => Err(why),
    };
    assert_eq!(near.get("/").await.status, 200);
    assert_eq!(ask(far.node, digest, "key").await.unwrap(), content);
    for (digest, key) in [(digest, "other"), (digest, ""), (digest, "\n"), (Digest::of(b"other"), "key")] {
        assert_eq!(ask(far.node, digest, key).await.unwrap_err(), "it does not have it");
    }
    assert!(ask(NodeId::new(), digest, "key").await.unwrap_err().contains("no way"));
    assert_eq!(near.get("/").await.status, 200);
    assert_eq!(far.figures().served, 2, "only requests are counted as such");
}

#[tokio::test]
async fn a_host_that_has_none_says_so_and_no_more_are_given_at_once_than_is_good() {
    let mut mesh = Mesh::of(2).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    let asked = within(near.ingress.artifacts().ask(far.node, Digest::of(b""), "key")).await;
    assert_eq!(asked.err().unwrap(), "it does not have it");

    let content = Bytes::from_iter((0..3_000_000_u32).map(|number| (number % 251) as u8));
    let artifacts = Arc::new(One(content.clone()));
    let mut mesh = Mesh::configured(2, |config| config.artifacts = Some(artifacts.clone())).await;
    mesh.place(&[1]).await;
    let [near, far] = &mesh.hosts[..] else { panic!("there are two") };
    let (reader, digest) = (near.ingress.artifacts(), Digest::of(&content));
    let mut taken = Vec::new();
    // They are larger than what is sent before anybody reads.
    for _ in 0..8 {
        taken.push(within(reader.ask(far.node, digest, "key")).await.unwrap());
    }
    let refused = within(reader.ask(far.node, digest, "key")).await.err().unwrap();
    assert!(refused.contains("as many artifacts as it can"), "{refused}");
    assert_eq!(near.get("/").await.status, 200);
    drop(taken);
}
