//! `wharf worker`: runs instances for the control plane of a cluster, and serves every app of it.
//!
//! The folder keeps who the node is: its key, its certificate, and the CAs that it believes. A join token is needed once.

mod address;
mod failure;
mod kept;
mod renewal;
mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use wharf_ingress::PeerTls;
use wharf_pki::{
    Identity, NodeKey, PkiError, Role, Roots, client_config, joining_config, peer_of, pins, server_config,
};
use wharf_runtime::control::{ControlClient, ControlError, join};
use wharf_types::Timestamp;
use wharf_types::api::NodeCertificate;
use wharf_types::node::parse_label;
use wharf_types::protocol::{self, Versions};
use wharf_types::quantity::{ByteSize, Span};

pub use self::address::JoinAt;
use self::failure::could_not_join;
use self::kept::Kept;
use self::renewal::Keeper;
use self::servers::Servers;
use crate::ending;
use crate::engine::{self, EngineArgs, InternalArgs};
use crate::exit::Failure;
use crate::file_handles;
use crate::output;
use crate::server::local_ip_towards;
use crate::up::{default_data_dir, listen, start_log};
use crate::worker::{Worker, WorkerConfig, registration};

/// What helps a node without a certificate that is valid.
const JOIN_AGAIN: &str = "on a host with an admin's token: `wharf node token create` (with `--node ID` to come back as the same node), and start this with `--join TOKEN@ADDR`";

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
    let Known { certificate, servers, is_written } = identity(&kept, args.join).await?;
    let (all, given) = (servers.all(), servers.given.join(","));
    let speaks = args.protocol;
    let tls = certificate.tls(speaks)?;
    let node = certificate.issued.node;
    let control = ControlClient::over_tls(&addresses(&all), tls.control, node)?.speaking(speaks);
    let peer_tls = Arc::new(PeerTls::new(tls.peer_client, tls.peer_server, |chain| {
        peer_of(chain).filter(|peer| peer.role == Role::Worker).map(|peer| peer.node)
    }));
    let address = match args.advertise {
        Some(address) => address,
        None => advertised(peers_listener.local_addr()?, &all)?,
    };
    let http_at = http_listener.local_addr()?;
    // Containers have come with version 2.
    let engine = if speaks.knows(2) { engine::find(&args.engine, node).await? } else { None };
    let door = args.internal.open(engine.is_some(), node).await?;
    let containers = engine.as_ref().map(|it| it.platform.clone());
    let (control_too, peers) = (control.clone(), peer_tls.clone());
    let keeper = Keeper { kept, control: control_too, peers, certificate, servers, is_written };
    let keeping = tokio::spawn(keeper.run());
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
        output::line(format!("node {node} serves apps at http://{http_at}, for {given}"))?;
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
    keeping.abort();
    if let Some(told) = stopped.sentence().filter(|_| !args.json) {
        eprintln!("{told}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Who this host is.
struct Known {
    certificate: Certificate,
    servers: Servers,
    /// Whether the folder says so, too.
    is_written: bool,
}

/// What this host was, as long as the cluster knows it as that, or somebody new.
async fn identity(kept: &Kept, given: Option<JoinAt>) -> anyhow::Result<Known> {
    let known = kept.read()?;
    let expired = known.as_ref().is_some_and(|(certificate, _)| certificate.has_expired());
    let JoinAt { token, servers } = match (known.filter(|_| !expired), given) {
        (Some((certificate, servers)), None) => return Ok(Known { certificate, servers, is_written: true }),
        (Some((certificate, before)), Some(given)) => match standing(&certificate, &given).await? {
            Standing::Stranger => given,
            standing => return Ok(told_anew(certificate, before, given.servers, standing)),
        },
        (None, Some(given)) => given,
        (None, None) => return Err(no_token(expired)),
    };
    let key = kept.joining_key()?;
    let (request, tls) = (key.request()?, joining_config(token.pin)?);
    let issued = join(&addresses(&servers), tls, &token.secret, &request)
        .await
        .map_err(|error| could_not_join(error, &servers))?;
    info!("this host is node {} from now on", issued.node);
    let (certificate, servers) =
        (Certificate { key: key.to_pem().to_string(), issued }, Servers::given(servers));
    kept.write(&certificate, &servers)?;
    kept.has_joined();
    Ok(Known { certificate, servers, is_written: true })
}

/// A node that has joined, and is told where else the servers are.
fn told_anew(certificate: Certificate, before: Servers, given: Vec<String>, standing: Standing) -> Known {
    let mut servers = before.clone().replaced_by(given);
    if standing == Standing::Known {
        servers.are_right();
    } else {
        warn!(
            "none of the servers that --join names answers: {}; until one does, this node looks for them also where they were: {}",
            servers.given.join(", "),
            before.all().join(", ")
        );
    }
    let is_written = servers == before;
    Known { certificate, servers, is_written }
}

/// What the cluster that a token is of has to say of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A server has answered, and takes it as what it was.
    Known,
    /// It is nobody there.
    Stranger,
    /// No server answers, so it stays what it was.
    Unheard,
}

async fn standing(certificate: &Certificate, given: &JoinAt) -> anyhow::Result<Standing> {
    if !pins(&certificate.issued.authorities)?.contains(&given.token.pin) {
        return Ok(Standing::Stranger);
    }
    let node = certificate.issued.node;
    let tls = certificate.tls(protocol::SPOKEN)?;
    let control = ControlClient::over_tls(&addresses(&given.servers), tls.control, node)?;
    for _ in &given.servers {
        match control.renew(&NodeKey::generate()?.request()?).await {
            // The client goes on to the next one.
            Err(ControlError::Unreachable { .. }) => {}
            Err(ControlError::Refused(_)) => return Ok(Standing::Stranger),
            Ok(_) | Err(_) => return Ok(Standing::Known),
        }
    }
    Ok(Standing::Unheard)
}

fn no_token(expired: bool) -> anyhow::Error {
    let what = if expired {
        "the certificate of this node has expired, because it did not reach the control plane for a day"
    } else {
        "this host belongs to no cluster yet"
    };
    Failure::usage(what).help(JOIN_AGAIN).into()
}

fn addresses(servers: &[String]) -> Vec<String> {
    servers.iter().map(|server| format!("https://{server}")).collect()
}

/// The address by which this machine reaches the control plane is how other hosts reach this machine.
fn advertised(at: SocketAddr, servers: &[String]) -> anyhow::Result<SocketAddr> {
    if !at.ip().is_unspecified() {
        return Ok(at);
    }
    let ip = servers.iter().find_map(|server| local_ip_towards(server)).with_context(|| {
        let servers = servers.join(", ");
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
