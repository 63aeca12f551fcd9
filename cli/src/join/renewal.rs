//! Keeps a node what it is while it runs: another certificate whenever it is time, and the addresses of servers that come and go.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};
use wharf_ingress::PeerTls;
use wharf_pki::{NodeKey, bundle_tag, renew_at};
use wharf_runtime::control::{ControlClient, Heard};
use wharf_types::Timestamp;

use super::kept::Kept;
use super::servers::Servers;
use super::{Certificate, JOIN_AGAIN, addresses};

/// The least time between two tries to renew, and between two tries to write what the folder had no room for.
const RETRY: Duration = Duration::from_secs(60);
/// How often the clock is looked at until it is time: it may be set, and timers stand still while a machine sleeps.
const CLOCK_LOOK: Duration = Duration::from_secs(5);
/// Within how long nodes renew when they hear of another CA.
const OTHER_CAS: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    pub(super) kept: Kept,
    pub(super) control: ControlClient,
    pub(super) peers: Arc<PeerTls>,
    pub(super) certificate: Certificate,
    pub(super) servers: Servers,
    /// Whether the folder says the same as this process knows.
    pub(super) is_written: bool,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        if !std::mem::replace(&mut self.is_written, true) {
            self.write();
        }
        // One that is nearly over when this process starts does not wait.
        let (mut not_before, mut has_told) = (Instant::now(), false);
        loop {
            let now = Timestamp::now();
            let until = self.certificate.identity().map_or(now, |identity| identity.valid_until);
            self.wait(renew_at(now, until, rand::random()), not_before).await;
            let outcome = self.renew().await;
            not_before = Instant::now() + RETRY;
            match outcome {
                Ok(()) => {
                    let until = self.certificate.identity().map_or(now, |identity| identity.valid_until);
                    info!("this node has renewed its certificate, which is valid until {until} now");
                    has_told = false;
                }
                Err(error) if !self.certificate.has_expired() => {
                    warn!("this node's certificate, valid until {until}, could not be renewed: {error:#}");
                }
                // Nobody takes it, so this goes on until somebody does something.
                Err(error) if has_told => debug!("the expired certificate could not be renewed: {error:#}"),
                Err(error) => {
                    has_told = true;
                    error!(
                        "the certificate of node {} has expired at {until}: control plane and other workers refuse this node, and what runs goes on \
                         without them; {JOIN_AGAIN}; it could not be renewed: {error:#}",
                        self.certificate.issued.node
                    );
                }
            }
        }
    }

    /// Returns when the certificate is to be renewed. Meanwhile it takes note of servers.
    async fn wait(&mut self, at: Timestamp, not_before: Instant) {
        let tag = bundle_tag(&self.certificate.issued.authorities).unwrap_or_default();
        let control = self.control.clone();
        control.believe(tag.clone());
        let due = async {
            tokio::select! {
                () = is_time(at, not_before) => {}
                () = control.should_believe_others_than(&tag) => {
                    info!("the CAs of the cluster are to be others; this node renews its certificate");
                    // Every node hears of it at once. Where the answer is as before, the next try is not at once either.
                    sleep(OTHER_CAS.mul_f64(rand::random_range(0.1..1.0))).await;
                }
            }
        };
        let mut due = pin!(due);
        let mut heard = control.heard();
        // What was said before this began counts as well.
        heard.mark_changed();
        loop {
            tokio::select! {
                () = &mut due => return,
                Ok(()) = heard.changed() => {
                    let heard = heard.borrow_and_update().clone();
                    self.hear(&heard);
                }
                () = sleep(RETRY), if !self.is_written => self.write(),
            }
        }
    }

    /// The new certificate counts at once: on a full disk, which can be mended for a day, a node that has one goes on.
    async fn renew(&mut self) -> anyhow::Result<()> {
        let key = NodeKey::generate()?;
        let issued = self.control.renew(&key.request()?).await?;
        let renewed = Certificate { key: key.to_pem().to_string(), issued };
        let tls = renewed.tls(self.control.speaks())?;
        self.control.use_tls(tls.control)?;
        self.peers.renew(tls.peer_client, tls.peer_server);
        self.certificate = renewed;
        self.write();
        Ok(())
    }

    fn hear(&mut self, heard: &Heard) {
        let before = self.servers.all();
        if !self.servers.hear(heard) {
            return;
        }
        let all = self.servers.all();
        if all != before {
            info!("this node looks for the control plane at {} from now on", all.join(", "));
            if let Err(error) = self.control.use_servers(&addresses(&all)) {
                warn!("that cannot be used: {error}");
            }
        }
        self.write();
    }

    /// What cannot be written now is tried again later.
    fn write(&mut self) {
        match self.kept.write(&self.certificate, &self.servers) {
            Ok(()) => self.is_written = true,
            Err(error) => {
                if std::mem::take(&mut self.is_written) {
                    warn!(
                        "this node goes on with its newest certificate and servers, but a start would not know them, so this is tried every minute: {error:#}"
                    );
                }
            }
        }
    }
}

/// Returns when the clock says that it is time, and not before `not_before`.
async fn is_time(at: Timestamp, not_before: Instant) {
    sleep_until(not_before).await;
    loop {
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        sleep(left.min(CLOCK_LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use wharf_pki::{Authority, Peer, Role};
    use wharf_types::NodeId;
    use wharf_types::api::NodeCertificate;
    use wharf_types::protocol::SPOKEN;

    use super::*;

    fn certificate() -> Certificate {
        let now = Timestamp::now();
        let (authority, key) = (Authority::generate(now).unwrap(), NodeKey::generate().unwrap());
        let node = NodeId::new();
        let certificate =
            authority.issue(&key.request().unwrap(), &Peer { node, role: Role::Worker }, now).unwrap();
        let issued = NodeCertificate { node, certificate, authorities: authority.certificate().to_owned() };
        Certificate { key: key.to_pem().to_string(), issued }
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_is_used_all_the_same_and_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = certificate();
        let tls = certificate.tls(SPOKEN).unwrap();
        let servers = Servers::given(vec!["127.0.0.1:1".to_owned()]);
        let node = certificate.issued.node;
        let control = ControlClient::over_tls(&addresses(&servers.all()), tls.control, node).unwrap();
        let peers = Arc::new(PeerTls::new(tls.peer_client, tls.peer_server, |_| None));
        let kept = Kept::open(folder.path()).unwrap();
        let mut keeper = Keeper { kept, control, peers, certificate, servers, is_written: true };
        // As if the disk were full: nothing takes the place of a folder that has something in it.
        let in_the_way = folder.path().join("node.json");
        std::fs::create_dir_all(in_the_way.join("something")).unwrap();
        let said = vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        keeper.hear(&Heard { from: "127.0.0.1:1".to_owned(), servers: said.clone() });
        assert!(!keeper.is_written);
        assert!(keeper.control.has_several_servers(), "what it has heard counts");
        keeper.write();
        assert!(!keeper.is_written);
        std::fs::remove_dir_all(&in_the_way).unwrap();
        keeper.write();
        assert!(keeper.is_written);
        let (_, servers) = keeper.kept.read().unwrap().unwrap();
        assert_eq!(servers.all(), said);
    }
}
