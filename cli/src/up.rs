//! `wharf up`: control plane, worker and ingress in one process.
//!
//! The three meet as they would on three hosts: the worker follows the control plane over HTTP ([`crate::worker`]).

mod announce;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wharf_platform_api::{
    ArtifactsAt, BUILD_CACHES, Config, ControlPlane, Database, IMAGE_ARCHIVE_MOST_BYTES,
    IMAGE_ARCHIVE_USUAL_BYTES, OpenError, SecretKeySource,
};
use wharf_runtime::control::ControlClient;
use wharf_types::node::{NodeRegistration, parse_label};
use wharf_types::protocol::SPOKEN;
use wharf_types::quantity::{ByteSize, Span};

use crate::aside::Aside;
use crate::ending;
use crate::engine::{self, EngineArgs, EngineResolver, InternalArgs};
use crate::exit::{Exit, Failure};
use crate::file_handles;
use crate::local::{self, Local};
use crate::push::PushDeployer;
use crate::worker::{DRAIN_MOST, PART_GRACE, Worker, WorkerConfig, node_id, registration};

#[derive(Args, Debug)]
pub struct UpArgs {
    /// Folder for the platform's state and artifacts [default: a folder of yours]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the API listens; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub api: SocketAddr,
    /// Where the apps are served; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Let go of the code of apps that nobody has called for so long; the next request maps it again
    #[arg(long, value_name = "SPAN", default_value = "1m")]
    pub unload_after: Span,
    /// A label of this machine, such as zone=eu-1, that apps can ask for in `placement`; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// A file with the key that seals secrets, 64 hexadecimal digits [default: `secret.key` in the data folder, made when there is none]
    ///
    /// WHARF_SECRET_KEY holds the key itself. A key that replaces another stands in front of it.
    #[arg(long, value_name = "FILE", env = "WHARF_SECRET_KEY_FILE")]
    pub secret_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub images: ImageArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub internal: InternalArgs,
    /// Print one JSON object on stdout when ready, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// What the control plane takes of images.
#[derive(Args, Debug)]
pub struct ImageArgs {
    /// The largest archive of an image that is taken, up to 16GiB
    #[arg(long, value_name = "SIZE", env = "WHARF_IMAGE_ARCHIVE_MAX", value_parser = parse_archive_max)]
    pub image_archive_max: Option<ByteSize>,
}

fn parse_archive_max(text: &str) -> Result<ByteSize, String> {
    let size = text.parse::<ByteSize>().map_err(|error| error.to_string())?;
    let most = ByteSize::bytes(IMAGE_ARCHIVE_MOST_BYTES);
    if size > most { Err(format!("{size} is more than {most}")) } else { Ok(size) }
}

impl ImageArgs {
    pub fn archive_max_bytes(&self) -> u64 {
        self.image_archive_max.map_or(IMAGE_ARCHIVE_USUAL_BYTES, ByteSize::as_bytes)
    }
}

/// The worker's folder within the data directory.
pub const WORKER: &str = "worker";

pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    start_log();
    // The control plane runs in this process too.
    let registration = registration(args.labels, "server")?;
    let file_handles_max = file_handles::raise().context("cannot read the limit of open files")?;
    // Before anything is started, so that a signal is never missed.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let api_listener = listen(args.api, "--api").await?;
    let http_listener = listen(args.http, "--http").await?;
    let (api_at, http_at) = (api_listener.local_addr()?, http_listener.local_addr()?);
    let (api, http) = (format!("http://{api_at}"), format!("http://{http_at}"));

    let data_dir = args.data.map_or_else(default_data_dir, Ok)?;
    let config = Config {
        data_dir: data_dir.clone(),
        database: Database::DataDir,
        artifacts: ArtifactsAt::DataDir,
        address: String::new(),
        domain: "localhost".into(),
        http_url: http.clone(),
        platform_ports: vec![api_at.port(), http_at.port()],
        secret_keys: secret_keys(args.secret_key_file)?,
        speaks: SPOKEN,
        image_archive_max_bytes: args.images.archive_max_bytes(),
    };
    let aside = Aside::start("control-plane").context("cannot start the threads of the control plane")?;
    let opened = aside
        .spawn_local(|| ControlPlane::open(config))
        .await
        .context("the control plane ended by a fault")?;
    let control_plane = opened.map_err(open_failure)?;
    let token_file = std::path::absolute(control_plane.admin_token_file())?;
    let node_token = control_plane.node_token().to_owned();

    let folder = data_dir.join(WORKER);
    let node =
        node_id(&folder).with_context(|| format!("cannot use the worker's folder {}", folder.display()))?;
    let engine = engine::find(&args.engine, node).await?;
    let door = args.internal.open(engine.is_some(), node).await?;
    let (caches, builder) = (data_dir.join(BUILD_CACHES), engine.as_ref().map(|it| it.engine.clone()));
    control_plane.deploy_pushes(Arc::new(PushDeployer::new(api.clone(), caches, builder)));
    let registration =
        NodeRegistration { containers: engine.as_ref().map(|it| it.platform.clone()), ..registration };
    if let Some(found) = &engine {
        control_plane.resolve_images(EngineResolver::new(found));
        control_plane.allow_containers().await?;
    }

    let stop_control_plane = CancellationToken::new();
    let mut serving = aside.spawn(control_plane.serve(api_listener, stop_control_plane.clone()));
    let worker = Worker::start(WorkerConfig {
        folder: &folder,
        control: ControlClient::new(&api, &node_token, node)?,
        listener: http_listener,
        peers: None,
        file_handles_max,
        unload_after: args.unload_after.as_duration(),
        cache_max_bytes: None,
        registration,
        keeps_assignment: false,
        engine: engine.map(|found| found.engine),
        door,
        leaves_containers: false,
    })?;

    let local = Local { api, http, token_file };
    if let Err(error) = local::write(&local) {
        tracing::warn!("clients on this machine will not find the platform by themselves: {error:#}");
    }
    announce::print(&local, args.json)?;

    let ended_early = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = &mut serving => Some(ended),
    };
    if ended_early.is_some() {
        tracing::error!("the control plane ended by itself; stopping");
    } else if !args.json {
        eprintln!(
            "stopping: what is open, and then each container, has the time that its app declares (`stop.drain`), up to {}; Ctrl-C ends all now",
            Span::from(DRAIN_MOST)
        );
    }
    let tell = |told: String| {
        if !args.json {
            eprintln!("{told}")
        }
    };
    let stopped = ending::end(worker, &mut interrupt, tell).await;
    stop_control_plane.cancel();
    conclude(ended_early, serving, &local).await?;
    if let Some(told) = stopped.sentence().filter(|_| !args.json) {
        eprintln!("{told}");
    }
    Ok(ExitCode::SUCCESS)
}

/// How the task of a control plane ended.
type Ended = Result<std::io::Result<()>, tokio::task::JoinError>;

/// Waits for the end of a control plane that was told to stop, unless it has ended by itself, and takes its address from the clients of this
/// machine.
pub async fn conclude(
    ended_early: Option<Ended>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    local: &Local,
) -> anyhow::Result<()> {
    let ended = match ended_early {
        Some(ended) => Ok(ended),
        None => tokio::time::timeout(PART_GRACE + PART_GRACE, serving).await,
    };
    if let Err(error) = local::remove(local) {
        tracing::warn!("{error:#}");
    }
    match ended {
        Ok(Ok(Err(error))) => Err(error).context("the control plane ended with an error"),
        Ok(Err(fault)) => Err(fault).context("the control plane ended by a fault"),
        // It ended in order, or was given up because its time was over.
        Ok(Ok(Ok(()))) | Err(_) => Ok(()),
    }
}

/// To stderr, warnings and worse unless `RUST_LOG` says otherwise.
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,wasmtime_wasi=error,wasmtime_wasi_http=error")
    });
    // A log that is there already serves as well.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

pub async fn listen(addr: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        let failure = Failure::new(Exit::Platform, format!("cannot listen on {addr}: {error}"));
        failure
            .help(format!(
                "stop what uses the address, or choose another with `{flag} ADDR`; port 0 takes any free one"
            ))
            .into()
    })
}

/// With the exit code of a full disk where that is the reason.
pub fn open_failure(error: OpenError) -> anyhow::Error {
    let exit = if matches!(error, OpenError::Full { .. }) { Exit::Full } else { Exit::Platform };
    let error = anyhow::Error::new(error);
    Failure::new(exit, format!("{error:#}")).into()
}

/// The flag, the file that the environment names, or the key that it holds. Two of them could be two different keys.
pub fn secret_keys(file: Option<PathBuf>) -> anyhow::Result<SecretKeySource> {
    let given = std::env::var("WHARF_SECRET_KEY").ok().filter(|keys| !keys.is_empty());
    match (file, given) {
        (Some(_), Some(_)) => {
            Err(Failure::usage("there is both a file with the key for secrets and WHARF_SECRET_KEY")
                .help("unset one of WHARF_SECRET_KEY and WHARF_SECRET_KEY_FILE")
                .into())
        }
        (Some(file), None) => Ok(SecretKeySource::File(file)),
        (None, Some(keys)) => Ok(SecretKeySource::Given(keys.into())),
        (None, None) => Ok(SecretKeySource::Own),
    }
}

pub fn default_data_dir() -> anyhow::Result<PathBuf> {
    let dirs = directories::ProjectDirs::from("", "", "wharf")
        .context("no home folder is known: name a folder with --data DIR")?;
    Ok(dirs.data_dir().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_its_own_exit_code_and_says_its_cause_once() {
        let source = || std::io::Error::other("no space left");
        let full = open_failure(OpenError::Full { dir: "/data".into(), source: source() });
        assert_eq!(Exit::of(&full), Exit::Full);
        assert!(full.to_string().ends_with(": no space left"), "{full}");
        let other = open_failure(OpenError::NotWritable { dir: "/data".into(), source: source() });
        assert_eq!(Exit::of(&other), Exit::Platform);
    }
}
