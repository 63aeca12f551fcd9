//! Artifacts on this node: brought once, from another node that has them or from the control plane, and found right before anybody gets
//! them.
//!
//! On a host of its own a worker keeps copies, as long as there is room, so that an artifact is not brought again for another profile or
//! engine, and so that other nodes get it here. Who may have one is [`copies`]'s to say.

mod copies;
mod file;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use wharf_types::api::ArtifactSources;
use wharf_types::node::ReasonKind;
use wharf_types::{Digest, NodeId};

use self::copies::Copies;
use self::file::{NotBrought, put_into};
use crate::backend::Failure;
use crate::control::{ARTIFACT_MAX_BYTES, ControlClient};
use crate::space::Space;

/// The wait before the next try to bring an artifact doubles up to this, then bringing it has failed.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long another node may take to begin its answer, and then to go on with it. The control plane has it, too.
const PEER_ANSWER_MAX: Duration = Duration::from_millis(1500);
const PEER_STALL_MAX: Duration = Duration::from_secs(3);
/// How long the whole may take, and the same of what goes into a file, which may have gigabytes.
const PEER_MAX: Duration = Duration::from_secs(120);
const PEER_FILE_MAX: Duration = Duration::from_secs(900);

/// What another node sends, or why it does not.
pub type Asked = Result<BoxStream<'static, io::Result<Bytes>>, String>;

/// The ways to other nodes.
pub trait ArtifactPeers: Send + Sync {
    /// Asks a node for an artifact, with the key that says that it may be had.
    fn ask(&self, node: NodeId, digest: Digest, key: String) -> BoxFuture<'static, Asked>;
}

/// The artifacts of a node.
pub struct Artifacts {
    control: ControlClient,
    copies: Option<Copies>,
    peers: OnceLock<Arc<dyn ArtifactPeers>>,
    /// Many who want the same at once wait for one.
    under_way: Mutex<HashMap<Digest, Bringing>>,
    /// The same for those that go into a file.
    turns: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

type Bringing = Shared<BoxFuture<'static, Result<Bytes, Failure>>>;

impl Artifacts {
    /// For a worker beside its control plane, which has them all on the same disk.
    pub fn passing(control: ControlClient) -> Arc<Self> {
        Self::with(control, None)
    }

    /// With copies in a folder.
    pub fn keeping(control: ControlClient, folder: PathBuf, space: Arc<Space>) -> io::Result<Arc<Self>> {
        let copies = Some(Copies::open(folder, space)?);
        Ok(Self::with(control, copies))
    }

    fn with(control: ControlClient, copies: Option<Copies>) -> Arc<Self> {
        let (peers, under_way, turns) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Arc::new(Self { control, copies, peers, under_way, turns })
    }

    /// From now on other nodes are asked first.
    pub fn ask_peers(&self, peers: Arc<dyn ArtifactPeers>) {
        // There is one way to them, which stays.
        let _ = self.peers.set(peers);
    }

    /// The bytes of an artifact.
    pub async fn get(self: &Arc<Self>, digest: Digest) -> Result<Bytes, Failure> {
        let bringing = {
            let mut under_way = self.under_way();
            under_way.entry(digest).or_insert_with(|| self.clone().begin(digest)).clone()
        };
        bringing.await
    }

    /// A task of its own: whoever waits may go away at any moment, and what has begun must not stand still with what it holds.
    fn begin(self: Arc<Self>, digest: Digest) -> Bringing {
        let task = tokio::spawn(self.bring_and_tell(digest));
        let failed =
            |error| Failure::new(ReasonKind::Platform, format!("bringing it failed inside: {error}"));
        task.map(move |brought| brought.unwrap_or_else(|error| Err(failed(error)))).boxed().shared()
    }

    async fn bring_and_tell(self: Arc<Self>, digest: Digest) -> Result<Bytes, Failure> {
        let brought = self.bring(digest).await;
        self.under_way().remove(&digest);
        brought
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Digest, Bringing>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bring(&self, digest: Digest) -> Result<Bytes, Failure> {
        if let Some(copies) = &self.copies
            && let Some(bytes) = copies.read(digest).await
        {
            return Ok(bytes);
        }
        let mut wait = Duration::from_millis(100);
        // A control plane that restarts is away for a moment, which must not fail a rollout.
        loop {
            let sources = self.sources(digest).await;
            if let Some(sources) = &sources
                && let Some(bytes) = self.ask_them(digest, sources).await
            {
                self.keep(digest, &bytes, &sources.key).await;
                return Ok(bytes);
            }
            match self.control.artifact(digest).await {
                Ok(bytes) => {
                    if let Some(sources) = &sources {
                        self.keep(digest, &bytes, &sources.key).await;
                    }
                    return Ok(bytes);
                }
                Err(error) if error.is_retryable() && wait < WAIT_MAX => {
                    warn!("could not fetch {digest}, trying again in {wait:?}: {error}");
                    sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => {
                    let why = format!("could not fetch {digest}: {error}");
                    return Err(Failure::new(ReasonKind::Platform, why));
                }
            }
        }
    }

    /// Held by whoever brings an artifact into a file, so that others who want the same may find that it is there.
    pub(crate) async fn turn(&self, digest: Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(digest).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// Puts an artifact into a file. Nothing of it is held in memory: it may be the archive of an image.
    pub(crate) async fn get_into(&self, digest: Digest, to: &Path) -> Result<(), Failure> {
        if let Some(copies) = &self.copies
            && copies.read_into(digest, to).await
        {
            return Ok(());
        }
        let failed = |why: String| Failure::new(ReasonKind::Platform, why);
        let mut wait = Duration::from_millis(100);
        loop {
            let sources = self.sources(digest).await;
            let mut is_here = false;
            if let Some(sources) = &sources {
                is_here = self.ask_them_for_file(digest, sources, to).await.map_err(failed)?;
            }
            if !is_here {
                match file::bring(&self.control, digest, to).await {
                    Ok(()) => {}
                    Err(error) if error.is_retryable() && wait < WAIT_MAX => {
                        warn!("could not fetch {digest}, trying again in {wait:?}: {error}");
                        sleep(wait).await;
                        wait *= 2;
                        continue;
                    }
                    Err(error) => return Err(failed(format!("could not fetch {digest}: {error}"))),
                }
            }
            if let (Some(copies), Some(sources)) = (&self.copies, &sources) {
                copies.keep_file(digest, to, &sources.key).await;
            }
            return Ok(());
        }
    }

    /// Whether another node has given it. The error is about the disk of this one.
    async fn ask_them_for_file(
        &self,
        digest: Digest,
        sources: &ArtifactSources,
        to: &Path,
    ) -> Result<bool, String> {
        let Some(peers) = self.peers.get() else { return Ok(false) };
        for node in &sources.nodes {
            let asked = timeout(PEER_ANSWER_MAX, peers.ask(*node, digest, sources.key.clone())).await;
            let came = match asked.unwrap_or_else(|_| Err("it does not answer in time".to_owned())) {
                Ok(chunks) => {
                    let put = timeout(PEER_FILE_MAX, put_into(to, digest, chunks, PEER_STALL_MAX));
                    put.await.unwrap_or(Err(NotBrought::Slow(PEER_FILE_MAX)))
                }
                Err(why) => {
                    debug!(node.id = %node, "node {node} does not give {digest}: {why}");
                    continue;
                }
            };
            match came {
                Ok(()) => {
                    info!(node.id = %node, "brought {digest} from node {node}");
                    return Ok(true);
                }
                Err(NotBrought::Disk(error)) => {
                    return Err(format!("could not put {digest} on this node's disk: {error}"));
                }
                Err(NotBrought::Other { found, .. }) => {
                    warn!(node.id = %node, "node {node} has sent {found} when asked for {digest}; it is not used");
                }
                Err(error) => debug!(node.id = %node, "node {node} does not give {digest}: {error}"),
            }
        }
        Ok(false)
    }

    /// Who has it. None: nobody is asked, or the control plane does not say.
    async fn sources(&self, digest: Digest) -> Option<ArtifactSources> {
        self.peers.get()?;
        match self.control.artifact_sources(digest).await {
            Ok(sources) => Some(sources),
            Err(error) => {
                debug!("the control plane does not say which nodes have {digest}: {error}");
                None
            }
        }
    }

    async fn ask_them(&self, digest: Digest, sources: &ArtifactSources) -> Option<Bytes> {
        let peers = self.peers.get()?;
        for node in &sources.nodes {
            let asked = timeout(PEER_MAX, ask_one(&**peers, *node, digest, &sources.key)).await;
            match asked.unwrap_or_else(|_| Err("it was too slow".to_owned())) {
                Ok(bytes) => {
                    info!(node.id = %node, "brought {digest} from node {node}");
                    return Some(bytes);
                }
                Err(why) => debug!(node.id = %node, "node {node} does not give {digest}: {why}"),
            }
        }
        None
    }

    async fn keep(&self, digest: Digest, bytes: &Bytes, key: &str) {
        if let Some(copies) = &self.copies {
            copies.keep(digest, bytes.clone(), key).await;
        }
    }

    /// An artifact that another node asks for, and its length. None: it is not here, or `key` is not the one that goes with it.
    pub async fn give(&self, digest: Digest, key: &str) -> Option<(u64, tokio::fs::File)> {
        self.copies.as_ref()?.give(digest, key).await
    }
}

async fn ask_one(
    peers: &dyn ArtifactPeers,
    node: NodeId,
    digest: Digest,
    key: &str,
) -> Result<Bytes, String> {
    let late = |_| "it does not answer in time".to_owned();
    let mut chunks =
        timeout(PEER_ANSWER_MAX, peers.ask(node, digest, key.to_owned())).await.map_err(late)??;
    let mut bytes = Vec::new();
    while let Some(chunk) = timeout(PEER_STALL_MAX, chunks.next()).await.map_err(late)? {
        let chunk = chunk.map_err(|error| error.to_string())?;
        if bytes.len() + chunk.len() > ARTIFACT_MAX_BYTES {
            return Err("it sends more than an artifact may have".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    let found = Digest::of(&bytes);
    if found != digest {
        warn!(node.id = %node, "node {node} has sent {found} when asked for {digest}; it is not used");
        return Err(format!("it has sent {found}"));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures::stream;

    use super::*;
    use crate::session::fake_control::FakeControl;

    /// Nodes that give out what a test says.
    #[derive(Default)]
    struct FakePeers {
        content: HashMap<NodeId, Bytes>,
        asked: AtomicUsize,
    }

    impl ArtifactPeers for FakePeers {
        fn ask(&self, node: NodeId, _: Digest, key: String) -> BoxFuture<'static, Asked> {
            self.asked.fetch_add(1, Relaxed);
            assert_eq!(key, "key");
            let content = self.content.get(&node).cloned();
            async move {
                let content = content.ok_or("it is not there")?;
                // A moment, in which others come.
                sleep(Duration::from_millis(20)).await;
                let chunks: Vec<_> = content.chunks(2).map(|it| Ok(Bytes::copy_from_slice(it))).collect();
                Ok(stream::iter(chunks).boxed())
            }
            .boxed()
        }
    }

    fn artifacts(
        control: &FakeControl,
        folder: &std::path::Path,
        peers: FakePeers,
    ) -> (Arc<Artifacts>, Arc<FakePeers>) {
        let space = Space::new(folder.into(), None);
        let artifacts = Artifacts::keeping(control.client(), folder.join("artifacts"), space).unwrap();
        let peers = Arc::new(peers);
        artifacts.ask_peers(peers.clone());
        (artifacts, peers)
    }

    #[tokio::test]
    async fn many_who_want_the_same_bring_it_once_and_later_ones_find_the_copy() {
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let (digest, node) = (Digest::of(b"hello"), NodeId::new());
        control.name_sources(digest, vec![node]);
        let peers = FakePeers { content: HashMap::from([(node, "hello".into())]), ..FakePeers::default() };
        let (artifacts, peers) = artifacts(&control, folder.path(), peers);
        let got = futures::future::join_all((0..8).map(|_| artifacts.get(digest))).await;
        assert!(got.iter().all(|got| got.as_deref() == Ok(&b"hello"[..])));
        artifacts.get(digest).await.unwrap();
        assert_eq!((peers.asked.load(Relaxed), control.artifacts_given()), (1, 0));
        assert!(artifacts.give(digest, "key").await.is_some());
        for (digest, key) in [(digest, "other"), (digest, ""), (Digest::of(b"x"), "key")] {
            assert!(artifacts.give(digest, key).await.is_none());
        }
    }

    #[tokio::test]
    async fn what_has_begun_goes_on_when_nobody_waits_for_it_any_more() {
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let (digest, node) = (Digest::of(b"hello"), NodeId::new());
        control.name_sources(digest, vec![node]);
        let peers = FakePeers { content: HashMap::from([(node, "hello".into())]), ..FakePeers::default() };
        let (artifacts, _) = artifacts(&control, folder.path(), peers);
        let mut begun = Box::pin(artifacts.get(digest));
        assert!(futures::poll!(&mut begun).is_pending());
        drop(begun);
        let given = async {
            while artifacts.give(digest, "key").await.is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), given).await.expect("it is brought all the same");
    }

    #[tokio::test]
    async fn a_node_that_lies_or_has_nothing_costs_only_the_way_to_the_next() {
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let (digest, nodes) = (Digest::of(b"hello"), [NodeId::new(), NodeId::new()]);
        control.name_sources(digest, nodes.to_vec());
        control.store_artifact(digest, b"hello");
        let peers =
            FakePeers { content: HashMap::from([(nodes[1], "hullo".into())]), ..FakePeers::default() };
        let (artifacts, peers) = artifacts(&control, folder.path(), peers);
        assert_eq!(artifacts.get(digest).await.unwrap(), &b"hello"[..]);
        assert_eq!((peers.asked.load(Relaxed), control.artifacts_given()), (2, 1));
    }

    #[tokio::test]
    async fn what_comes_into_a_file_is_right_and_a_copy_is_kept() {
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let (digest, node) = (Digest::of(b"hello"), NodeId::new());
        control.name_sources(digest, vec![node]);
        control.store_artifact(digest, b"hello");
        let peers = FakePeers { content: HashMap::from([(node, "hullo".into())]), ..FakePeers::default() };
        let (artifacts, peers) = artifacts(&control, folder.path(), peers);
        let to = folder.path().join("to");
        for _ in 0..2 {
            artifacts.get_into(digest, &to).await.unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), b"hello");
            assert_eq!((peers.asked.load(Relaxed), control.artifacts_given()), (1, 1));
        }
        assert!(artifacts.give(digest, "key").await.is_some());
        std::fs::write(folder.path().join("artifacts").join(digest.hex()), "hullo").unwrap();
        artifacts.get_into(digest, &to).await.unwrap();
        assert_eq!((std::fs::read(&to).unwrap(), control.artifacts_given()), (b"hello".to_vec(), 2));
        let nowhere = artifacts.get_into(digest, &folder.path().join("no/folder")).await.unwrap_err();
        assert!(nowhere.to_string().contains("disk"), "{nowhere}");
    }

    #[tokio::test]
    async fn a_copy_is_the_file_itself_until_another_takes_its_place() {
        use std::os::unix::fs::MetadataExt as _;
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let (hello, other) = (Digest::of(b"hello"), Digest::of(b"other"));
        for (digest, content) in [(hello, b"hello"), (other, b"other")] {
            control.name_sources(digest, vec![]);
            control.store_artifact(digest, content);
        }
        let (artifacts, _) = artifacts(&control, folder.path(), FakePeers::default());
        let (to, copy) = (folder.path().join("to"), folder.path().join("artifacts").join(hello.hex()));
        artifacts.get_into(hello, &to).await.unwrap();
        let number = |path: &Path| std::fs::metadata(path).unwrap().ino();
        assert_eq!(number(&copy), number(&to), "it was copied, for which others wait");
        for digest in [other, hello, hello] {
            artifacts.get_into(digest, &to).await.unwrap();
            assert_eq!(std::fs::read(&copy).unwrap(), b"hello");
        }
        assert_eq!(control.artifacts_given(), 2);
    }

    #[tokio::test]
    async fn one_at_a_time_has_the_turn_of_an_artifact() {
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let (artifacts, _) = artifacts(&control, folder.path(), FakePeers::default());
        let turn = artifacts.turn(Digest::of(b"a")).await;
        let _other = artifacts.turn(Digest::of(b"b")).await;
        let mut waits = Box::pin(artifacts.turn(Digest::of(b"a")));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(turn);
        let _turn = waits.await;
    }

    #[tokio::test]
    async fn a_copy_that_was_changed_is_brought_again() {
        let (control, folder) = (FakeControl::start().await, tempfile::tempdir().unwrap());
        let digest = Digest::of(b"hello");
        control.name_sources(digest, vec![]);
        control.store_artifact(digest, b"hello");
        let (artifacts, _) = artifacts(&control, folder.path(), FakePeers::default());
        artifacts.get(digest).await.unwrap();
        std::fs::write(folder.path().join("artifacts").join(digest.hex()), "hullo").unwrap();
        assert_eq!(artifacts.get(digest).await.unwrap(), &b"hello"[..]);
        assert_eq!(control.artifacts_given(), 2);
    }
}
