//! `wharf worker`: runs instances for the control plane of a cluster, and serves every app of it.
//!
//! The folder keeps who the node is: its key, its certificate, and the CAs that it believes. A join token is needed once.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use rustls::CertificateError;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};
use wharf_ingress::PeerTls;
use wharf_pki::{
    Identity, JoinToken, NodeKey, PkiError, Role, Roots, bundle_tag, client_config, joining_config, peer_of,
    pins, renew_at, server_config,
};
use wharf_runtime::control::{ControlClient, ControlError, join};
use wharf_types::Timestamp;
use wharf_types::api::NodeCertificate;
use wharf_types::node::parse_label;
use wharf_types::protocol::{self, Versions};
use wharf_types::quantity::{ByteSize, Span};

use crate::ending;
use crate::engine::{self, EngineArgs, InternalArgs};
use crate::exit::{Exit, Failure};
use crate::file_handles;
use crate::output;
use crate::server::local_ip_towards;
use crate::up::{default_data_dir, listen, start_log};
use crate::worker::{Worker, WorkerConfig, registration, write_whole};

/// The least time between two tries to renew.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// How often the clock is looked at until it is time: it may be set, and timers stand still while a machine sleeps.
const CLOCK_LOOK: Duration = Duration::from_secs(5);
/// What helps a node without a certificate that is valid.
const JOIN_AGAIN: &str = "on a host with an admin's token: `wharf node token create` (with `--node ID` to come back as the same node), and start this with `--join TOKEN@ADDR`";
/// Within how long nodes renew when they hear of another CA.
const OTHER_CAS: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// TOKEN@ADDR as `wharf node token create` prints it; several addresses separated by commas. Once joined it is not needed
    #[arg(long, value_name = "TOKEN@ADDR", env = "WHARF_JOIN", hide_env_values = true)]
    pub join: Option<JoinAt>,
    /// Folder for what this worker keeps [default: a folder of yours]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the apps are served
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub http: SocketAddr,
    /// Where the other workers come with requests for instances of this one
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7072")]
    pub peers: SocketAddr,
    /// How the other workers reach that, if not by this machine's own address
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<SocketAddr>,
    /// Let go of the code of apps that nobody has called for so long; the next request maps it again
    #[arg(long, value_name = "SPAN", default_value = "1m")]
    pub unload_after: Span,
    /// Keep at most so much of compiled code and artifacts, such as 10GiB; what no app here uses goes first [default: what the disk has room for]
    #[arg(long, value_name = "SIZE")]
    pub cache_max: Option<ByteSize>,
    /// A label of this machine, such as zone=eu-1, that apps can ask for in `placement`; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// On SIGTERM, how long what runs here may take to start on other nodes before this one ends; 0s: it ends at once
    #[arg(long, value_name = "SPAN", default_value = "30s")]
    pub drain: Span,
    /// Versions of the node protocol to speak, for tests of upgrades: docs/decisions/0048
    #[arg(long, value_name = "VERSIONS", env = protocol::VARIABLE, hide = true, default_value_t = protocol::SPOKEN)]
    pub protocol: Versions,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub internal: InternalArgs,
    /// Print one JSON object on stdout when ready, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// A join token, and where to go with it.
#[derive(Clone, Debug)]
pub struct JoinAt {
    token: JoinToken,
    servers: String,
}

impl FromStr for JoinAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (token, servers) = text.trim().rsplit_once('@').ok_or(
            "write TOKEN@ADDR, as `wharf node token create` prints it, such as wharf-join.….…@10.0.0.1:7071",
        )?;
        if servers.split(',').any(|server| server.rsplit_once(':').is_none_or(|(host, _)| host.is_empty())) {
            return Err(format!("`{servers}` is no address with a port, such as 10.0.0.1:7071"));
        }
        let token = token.parse().map_err(|error: wharf_pki::InvalidJoinToken| error.to_string())?;
        Ok(Self { token, servers: servers.to_owned() })
    }
}

pub async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    start_log();
    let registration = registration(args.labels, "worker")?;
    let file_handles_max = file_handles::raise().context("cannot read the limit of open files")?;
    // Before anything is started, so that a signal is never missed.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let folder = args.data.map_or_else(|| default_data_dir().map(|dir| dir.join("joined")), Ok)?;
    let (http_listener, peers_listener) =
        (listen(args.http, "--http").await?, listen(args.peers, "--peers").await?);
    let kept = Kept::open(&folder)?;
    let (certificate, servers) = identity(&kept, args.join).await?;
    kept.write(&certificate, &servers)?;
    let speaks = args.protocol;
    let tls = certificate.tls(speaks)?;
    let node = certificate.issued.node;
    let control = ControlClient::over_tls(&addresses(&servers), tls.control, node)?.speaking(speaks);
    let peer_tls = Arc::new(PeerTls::new(tls.peer_client, tls.peer_server, |chain| {
        peer_of(chain).filter(|peer| peer.role == Role::Worker).map(|peer| peer.node)
    }));
    let address = match args.advertise {
        Some(address) => address,
        None => advertised(peers_listener.local_addr()?, &servers)?,
    };
    let http_at = http_listener.local_addr()?;
    // Containers have come with version 2.
    let engine = if speaks.knows(2) { engine::find(&args.engine, node).await? } else { None };
    let door = args.internal.open(engine.is_some(), node).await?;
    let containers = engine.as_ref().map(|it| it.platform.clone());
    let renewing = tokio::spawn(renew(kept, control.clone(), peer_tls.clone(), certificate, servers.clone()));
    let worker = Worker::start(WorkerConfig {
        folder: &folder,
        control,
        listener: http_listener,
        peers: Some((peers_listener, peer_tls)),
        file_handles_max,
        unload_after: args.unload_after.as_duration(),
        cache_max_bytes: args.cache_max.map(ByteSize::as_bytes),
        registration: wharf_types::node::NodeRegistration {
            address: Some(address),
            containers,
            ..registration
        },
        keeps_assignment: true,
        engine: engine.map(|found| found.engine),
        door,
        leaves_containers: true,
    })?;
    if args.json {
        output::json(&json!({"node": node, "http": format!("http://{http_at}"), "peers": address}))?;
    } else {
        output::line(format!("node {node} serves apps at http://{http_at}, for {servers}"))?;
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {
            // Whoever does not want to wait says so again.
            tokio::select! {
                () = worker.leave(args.drain.as_duration()) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    }
    let tell = |told: String| {
        if !args.json {
            eprintln!("{told}")
        }
    };
    let stopped = ending::end(worker, &mut interrupt, tell).await;
    renewing.abort();
    if let Some(told) = stopped.sentence().filter(|_| !args.json) {
        eprintln!("{told}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Who this host is: what it was, as long as the cluster knows it as that, or somebody new.
async fn identity(kept: &Kept, given: Option<JoinAt>) -> anyhow::Result<(Certificate, String)> {
    let known = kept.read()?;
    let expired = known.as_ref().is_some_and(|(certificate, _)| certificate.has_expired());
    let known = known.filter(|_| !expired);
    let JoinAt { token, servers } = match (known, given) {
        (Some(known), None) => return Ok(known),
        (Some((certificate, _)), Some(given)) if is_still_known(&certificate, &given).await? => {
            return Ok((certificate, given.servers));
        }
        (_, Some(given)) => given,
        (None, None) => return Err(no_token(expired)),
    };
    let key = NodeKey::generate()?;
    let (request, tls) = (key.request()?, joining_config(token.pin)?);
    let issued = join(&addresses(&servers), tls, &token.secret, &request)
        .await
        .map_err(|error| could_not_join(error, &servers))?;
    info!("this host is node {} from now on", issued.node);
    Ok((Certificate { key: key.to_pem().to_string(), issued }, servers))
}

fn could_not_join(error: ControlError, servers: &str) -> anyhow::Error {
    let (why, help) = match bad_certificate(&error) {
        // The one that the token names did not come along.
        Some(CertificateError::UnknownIssuer) => (
            format!("the join token names another CA than {servers} shows"),
            "the token is of another cluster, or the CA was replaced since it was made; `wharf node token create` makes another",
        ),
        Some(why) if is_about_time(why) => (
            format!("by the clock of this host the certificate of {servers} is not valid now: {why}"),
            "set the clocks of both hosts, which may differ by less than an hour; the join token has not been used",
        ),
        _ => return anyhow::Error::new(error).context("could not join the cluster"),
    };
    Failure::new(Exit::Refused, format!("could not join the cluster: {why}")).help(help).into()
}

/// What is wrong with the certificate because of which a connection has failed.
fn bad_certificate<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return match tls {
            rustls::Error::InvalidCertificate(why) => Some(why),
            _ => None,
        };
    }
    // What an error of the system's kind wraps is not its source.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match wrapped {
        Some(wrapped) => bad_certificate(wrapped),
        None => error.source().and_then(bad_certificate),
    }
}

fn is_about_time(why: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// Whether the cluster that a token is of takes this node as what it was. Where nobody answers it stays that.
async fn is_still_known(certificate: &Certificate, given: &JoinAt) -> anyhow::Result<bool> {
    if !pins(&certificate.issued.authorities)?.contains(&given.token.pin) {
        return Ok(false);
    }
    let node = certificate.issued.node;
    let tls = certificate.tls(protocol::SPOKEN)?;
    let control = ControlClient::over_tls(&addresses(&given.servers), tls.control, node)?;
    let asked = control.renew(&NodeKey::generate()?.request()?).await;
    Ok(!matches!(asked, Err(ControlError::Refused(_))))
}

fn no_token(expired: bool) -> anyhow::Error {
    let what = if expired {
        "the certificate of this node has expired, because it did not reach the control plane for a day"
    } else {
        "this host belongs to no cluster yet"
    };
    Failure::usage(what).help(JOIN_AGAIN).into()
}

fn addresses(servers: &str) -> Vec<String> {
    servers.split(',').map(|server| format!("https://{}", server.trim())).collect()
}

/// The address by which this machine reaches the control plane is how other hosts reach this machine.
fn advertised(at: SocketAddr, servers: &str) -> anyhow::Result<SocketAddr> {
    if !at.ip().is_unspecified() {
        return Ok(at);
    }
    let ip = servers.split(',').find_map(|server| local_ip_towards(server.trim()));
    let ip = ip.with_context(|| {
        format!("no way leads to {servers}: say how others reach this host, with --advertise ADDR")
    })?;
    Ok(SocketAddr::new(ip, at.port()))
}

/// A key with its certificate, in PEM.
struct Certificate {
    key: String,
    issued: NodeCertificate,
}

struct Tls {
    control: rustls::ClientConfig,
    peer_client: Arc<rustls::ClientConfig>,
    peer_server: Arc<rustls::ServerConfig>,
}

impl Certificate {
    fn identity(&self) -> Result<Identity, PkiError> {
        Identity::load(&self.issued.certificate, &self.key, "")
    }

    fn has_expired(&self) -> bool {
        self.identity().is_ok_and(|identity| identity.valid_until <= Timestamp::now())
    }

    /// For connections with what speaks these versions.
    fn tls(&self, speaks: Versions) -> Result<Tls, PkiError> {
        let (identity, roots) = (self.identity()?, Roots::load(&self.issued.authorities)?);
        let mut peer_client = client_config(&identity, &roots, &[Role::Worker])?;
        let mut peer_server = server_config(&identity, &roots, true)?;
        peer_client.alpn_protocols = speaks.between_front_doors();
        peer_server.alpn_protocols = speaks.between_front_doors();
        Ok(Tls {
            control: client_config(&identity, &roots, &[Role::Server])?,
            peer_client: Arc::new(peer_client),
            peer_server: Arc::new(peer_server),
        })
    }
}

/// Gets another certificate whenever it is time.
async fn renew(
    kept: Kept,
    control: ControlClient,
    peers: Arc<PeerTls>,
    mut certificate: Certificate,
    servers: String,
) {
    // One that is nearly over when this process starts does not wait.
    let (mut not_before, mut has_told) = (Instant::now(), false);
    loop {
        let now = Timestamp::now();
        let until = certificate.identity().map_or(now, |identity| identity.valid_until);
        let at = renew_at(now, until, rand::random());
        let tag = bundle_tag(&certificate.issued.authorities).unwrap_or_default();
        control.believe(tag.clone());
        tokio::select! {
            () = is_time(at, not_before) => {}
            () = control.should_believe_others_than(&tag) => {
                info!("the CAs of the cluster are to be others; this node renews its certificate");
                // Every node hears of it at once. Where the answer is as before, the next try is not at once either.
                sleep(OTHER_CAS.mul_f64(rand::random_range(0.1..1.0))).await;
            }
        }
        let renewed = async {
            let key = NodeKey::generate()?;
            let issued = control.renew(&key.request()?).await?;
            let renewed = Certificate { key: key.to_pem().to_string(), issued };
            let tls = renewed.tls(control.speaks())?;
            kept.write(&renewed, &servers)?;
            control.use_tls(tls.control)?;
            peers.renew(tls.peer_client, tls.peer_server);
            anyhow::Ok(renewed)
        };
        let outcome = renewed.await;
        not_before = Instant::now() + RENEWAL_RETRY;
        match outcome {
            Ok(renewed) => {
                let until = renewed.identity().map_or(now, |identity| identity.valid_until);
                info!("this node has renewed its certificate, which is valid until {until} now");
                (certificate, has_told) = (renewed, false);
            }
            Err(error) if !certificate.has_expired() => {
                warn!("this node's certificate, valid until {until}, could not be renewed: {error:#}");
            }
            // Nobody takes it, so this goes on until somebody does something.
            Err(error) if has_told => debug!("the expired certificate could not be renewed: {error:#}"),
            Err(error) => {
                has_told = true;
                error!(
                    "the certificate of node {} has expired at {until}: control plane and other workers refuse this node, and what runs goes on \
                     without them; {JOIN_AGAIN}; it could not be renewed: {error:#}",
                    certificate.issued.node
                );
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

/// The folder, held by this process.
struct Kept {
    file: PathBuf,
    _lock: Flock<File>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct OnDisk {
    servers: String,
    key: String,
    issued: NodeCertificate,
}

impl Kept {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot use the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).with_context(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock =
            Flock::lock(lock.with_context(failed)?, FlockArg::LockExclusiveNonblock).map_err(|_| {
                Failure::new(Exit::Platform, format!("another worker works with {}", folder.display()))
                    .help("stop it, or give this one a folder of its own with --data DIR")
            })?;
        Ok(Self { file: folder.join("node.json"), _lock: lock })
    }

    fn read(&self) -> anyhow::Result<Option<(Certificate, String)>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", self.file.display()))?,
        };
        let OnDisk { servers, key, issued } = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: remove it, and join again with a new token", self.file.display())
        })?;
        Ok(Some((Certificate { key, issued }, servers)))
    }

    fn write(&self, certificate: &Certificate, servers: &str) -> anyhow::Result<()> {
        let Certificate { key, issued } = certificate;
        let kept = OnDisk { servers: servers.to_owned(), key: key.clone(), issued: issued.clone() };
        write_whole(&self.file, &serde_json::to_string(&kept)?)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::NodeId;

    use super::*;

    #[test]
    fn a_token_comes_with_the_addresses_of_the_cluster() {
        let token = format!("wharf-join.{}.wharf_ab", "ab".repeat(32));
        let join: JoinAt = format!("{token}@10.0.0.1:7071,[::1]:7071").parse().unwrap();
        assert_eq!(join.token.to_string(), token);
        assert_eq!(addresses(&join.servers), ["https://10.0.0.1:7071", "https://[::1]:7071"]);
        for (bad, word) in [
            (token.clone(), "TOKEN@ADDR"),
            (format!("{token}@"), "no address"),
            (format!("{token}@host"), "no address"),
            ("wharf_x@host:1".to_owned(), "no join token"),
        ] {
            let error = bad.parse::<JoinAt>().unwrap_err();
            assert!(error.contains(word) && !error.contains("wharf_ab"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_found_however_deep_it_is() {
        use std::io::Error;

        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = Error::other(Error::other(unknown()));
        assert_eq!(bad_certificate(&unknown()), Some(&CertificateError::UnknownIssuer));
        assert_eq!(bad_certificate(&wrapped), Some(&CertificateError::UnknownIssuer));
        assert_eq!(bad_certificate(&Error::other("no answer")), None);
        assert_eq!(bad_certificate(&Error::other(rustls::Error::DecryptError)), None);
        assert!(is_about_time(&CertificateError::NotValidYet) && is_about_time(&CertificateError::Expired));
        assert!(!is_about_time(&CertificateError::UnknownIssuer));
    }

    #[test]
    fn a_folder_has_one_worker_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::open(folder.path()).unwrap();
        assert!(kept.read().unwrap().is_none());
        let error = Kept::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains("another worker"), "{error}");
        let issued =
            NodeCertificate { node: NodeId::new(), certificate: "c".into(), authorities: "a".into() };
        kept.write(&Certificate { key: "k".into(), issued: issued.clone() }, "a:1").unwrap();
        let (read, servers) = kept.read().unwrap().unwrap();
        assert_eq!((read.issued, read.key.as_str(), servers.as_str()), (issued, "k", "a:1"));
        std::fs::write(&kept.file, "{").unwrap();
        assert!(format!("{:#}", kept.read().err().unwrap()).contains("join again"));
    }
}
