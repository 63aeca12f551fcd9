//! `wharf up`: control plane, worker and ingress in one process.
//!
//! The three meet as they would on three hosts: the worker follows the control plane over HTTP. Only requests and connections
//! take a shorter way: the ingress calls the guests of this process through [`LocalGuests`], and [`LocalPlaces`].

mod announce;

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use http::Response;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_ingress::{
    CallError, Config as IngressConfig, ErrorCode, Ingress, IngressError, LocalCall, TcpConfig, TcpError,
    TcpPlace, TcpPlaces,
};
use wharf_platform_api::{Config, ControlPlane, Database, OpenError, SecretKeySource};
use wharf_runtime::control::ControlClient;
use wharf_runtime::logs::{LogShipper, LogSink};
use wharf_runtime::session::{Figures, Session, Takers};
use wharf_runtime::supervisor::{Shutdown, Supervisor};
use wharf_runtime::wasm::backend::WasmBackend;
use wharf_runtime::wasm::body::GuestBody;
use wharf_runtime::wasm::compiler::CompileCommand;
use wharf_runtime::wasm::compiler::key::key_in;
use wharf_runtime::wasm::failure::InvokeError;
use wharf_runtime::wasm::host::WasmHost;
use wharf_runtime::wasm::ports::Ports;
use wharf_runtime::wasm::table;
use wharf_runtime::wasm::table::{DispatchError, Table};
use wharf_runtime::wasm::volumes::Volumes;
use wharf_types::figures::NodeFigures;
use wharf_types::incarnation::Incarnation;
use wharf_types::log::{LogRecord, LogStream};
use wharf_types::node::{NodeRegistration, parse_label};
use wharf_types::quantity::Span;
use wharf_types::route::RouteTable;
use wharf_types::{AppName, InstanceId, NamespaceName, NodeId, ProcessId, Timestamp};

use crate::exit::{Exit, Failure};
use crate::file_handles;
use crate::local::{self, Local};

/// How long open requests may finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the parts behind the ingress may take to end, each.
const PART_GRACE: Duration = Duration::from_secs(5);

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
    /// Print one JSON object on stdout when ready, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// The worker's folder within the data directory.
pub const WORKER: &str = "worker";

pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    start_log();
    let registration = registration(args.labels)?;
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
        address: String::new(),
        domain: "localhost".into(),
        http_url: http.clone(),
        platform_ports: vec![api_at.port(), http_at.port()],
        secret_keys: secret_keys(args.secret_key_file)?,
    };
    let control_plane = ControlPlane::open(config).await.map_err(open_failure)?;
    let token_file = std::path::absolute(control_plane.admin_token_file())?;
    let node_token = control_plane.node_token().to_owned();

    let stop_control_plane = CancellationToken::new();
    let mut serving = tokio::spawn(control_plane.serve(api_listener, stop_control_plane.clone()));
    let worker = Worker::start(
        &data_dir.join(WORKER),
        &api,
        &node_token,
        http_listener,
        file_handles_max,
        args.unload_after.as_duration(),
        registration,
    )?;

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
        eprintln!("stopping: open requests may finish for up to {} s; Ctrl-C ends them now", DRAIN.as_secs());
    }
    let clean = tokio::select! {
        clean = worker.shutdown() => clean,
        _ = interrupt.recv() => false,
    };
    stop_control_plane.cancel();
    let ended = match ended_early {
        Some(ended) => Ok(ended),
        None => tokio::time::timeout(PART_GRACE + PART_GRACE, serving).await,
    };
    if let Err(error) = local::remove(&local) {
        tracing::warn!("{error:#}");
    }
    match ended {
        Ok(Ok(Err(error))) => return Err(error).context("the control plane ended with an error"),
        Ok(Err(fault)) => return Err(fault).context("the control plane ended by a fault"),
        // It ended in order, or was given up because its time was over.
        Ok(Ok(Ok(()))) | Err(_) => {}
    }
    if !clean && !args.json {
        eprintln!("stopped; some requests were cut");
    }
    Ok(ExitCode::SUCCESS)
}

/// To stderr, warnings and worse unless `RUST_LOG` says otherwise.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,wasmtime_wasi=error,wasmtime_wasi_http=error")
    });
    // A log that is there already serves as well.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

async fn listen(addr: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
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
fn open_failure(error: OpenError) -> anyhow::Error {
    let exit = if matches!(error, OpenError::Full { .. }) { Exit::Full } else { Exit::Platform };
    let error = anyhow::Error::new(error);
    Failure::new(exit, format!("{error:#}")).into()
}

/// The flag, the file that the environment names, or the key that it holds. Two of them could be two different keys.
fn secret_keys(file: Option<PathBuf>) -> anyhow::Result<SecretKeySource> {
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

/// The guests' side of a worker with this folder.
pub fn host_in(
    folder: &Path,
    compile: CompileCommand,
    logs: LogSink,
    unload_after: Duration,
) -> anyhow::Result<Arc<WasmHost>> {
    let key =
        key_in(&folder.join("compiled.key")).context("cannot read the key of the compiled artifacts")?;
    Ok(WasmHost::new(&folder.join("compiled"), key, compile, logs, unload_after)?)
}

/// The worker and its ingress.
struct Worker {
    ingress: wharf_ingress::IngressHandle,
    session: Session,
    supervisor: Supervisor,
    shipper: LogShipper,
}

impl Worker {
    fn start(
        folder: &Path,
        api: &str,
        token: &str,
        listener: TcpListener,
        file_handles_max: u64,
        unload_after: Duration,
        registration: NodeRegistration,
    ) -> anyhow::Result<Self> {
        let failed = || format!("cannot use the worker's folder {}", folder.display());
        let node = node_id(folder).with_context(failed)?;
        let registration =
            NodeRegistration { incarnation: incarnation(folder).with_context(failed)?, ..registration };
        let logs = LogSink::new();
        let host = host_in(folder, CompileCommand::this_program(), logs.clone(), unload_after)?;
        host.give_up_old_engines();
        let control = ControlClient::new(api, token, node)?;
        let volumes =
            Volumes::new(folder.join("volumes")).context("cannot use the folder for the volumes of apps")?;
        let (removed_volumes, asked) = watch::channel(Vec::new());
        tokio::spawn(volumes.clone().remove_as_asked(asked));
        let backend = WasmBackend::new(host, control.clone(), folder.join("files"), volumes)
            .context("cannot use the folder for the files of apps")?;
        let supervisor = Supervisor::spawn(backend.clone(), rand::random());

        let (routes_to, routes) = watch::channel(Arc::new(RouteTable::default()));
        let routes = table::relay(backend.table(), routes);
        let mut config = IngressConfig::new(node);
        config.max_connections = wharf_ingress::connections_within(file_handles_max);
        config.tcp = TcpConfig {
            // Whoever reaches the apps' HTTP reaches their ports.
            host: listener.local_addr()?.ip(),
            max_connections: wharf_ingress::tcp_connections_within(file_handles_max),
            places: Arc::new(LocalPlaces(backend.ports())),
            on_error: Arc::new({
                let logs = logs.clone();
                move |error| tell_app_of_port(&logs, error)
            }),
        };
        config.on_error = Arc::new({
            let logs = logs.clone();
            move |error| tell_app(&logs, error)
        });
        let ingress = Ingress::spawn(vec![listener], config, routes, LocalGuests(backend.table()));
        let secrets = backend.secrets();
        let front_door = ingress.stats_reader();
        let figures = Arc::new(move || Figures {
            apps: backend.usage(),
            node: NodeFigures { front_door: front_door().into(), ..backend.figures() },
        });
        let takers = Takers { supervisor: supervisor.handle(), secrets, routes: routes_to, removed_volumes };
        let session = Session::spawn(
            control.clone(),
            registration,
            takers,
            (ingress.applied(), ingress.calls()),
            figures,
        );
        let shipper = LogShipper::spawn(logs, control);
        Ok(Self { ingress, session, supervisor, shipper })
    }

    /// Whether everything that was open has finished. The session ends before the instances do, so that the control plane
    /// does not take the end of this process for the end of the apps.
    async fn shutdown(self) -> bool {
        let ingress = self.ingress.shutdown(DRAIN).await;
        self.session.shutdown().await;
        let supervisor = self.supervisor.shutdown(PART_GRACE).await;
        self.shipper.shutdown(PART_GRACE).await;
        ingress == wharf_ingress::Shutdown::Clean && supervisor == Shutdown::Clean
    }
}

/// This node's id, the same after every start.
fn node_id(folder: &Path) -> anyhow::Result<NodeId> {
    let file = folder.join("node.id");
    match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} is damaged", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            let node = NodeId::new();
            let mut draft = tempfile::NamedTempFile::new_in(folder)?;
            writeln!(draft, "{node}")?;
            draft.persist(&file)?;
            Ok(node)
        }
        Err(error) => Err(error.into()),
    }
}

/// This process, as the control plane tells it from those before. The folder's lock is held, so no other process works with it.
fn incarnation(folder: &Path) -> anyhow::Result<Incarnation> {
    let file = folder.join("incarnation");
    let before = match std::fs::read_to_string(&file) {
        Ok(text) => {
            text.trim().parse().with_context(|| format!("{} is damaged: remove it", file.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    let clock = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let number = Incarnation::number_after(before, clock);
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(draft, "{number}")?;
    draft.persist(&file)?;
    let home = std::fs::metadata(folder)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let home = format!("{}:{}:{}", boot.trim(), home.dev(), home.ino());
    Ok(Incarnation { number, process: ProcessId::new(), home })
}

fn registration(labels: Vec<(String, String)>) -> anyhow::Result<NodeRegistration> {
    let hostname =
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // A quarter is left to the system and to this process itself.
    let memory_bytes = wharf_runtime::machine::memory_total_bytes().unwrap_or(1 << 30) / 4 * 3;
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let registration = NodeRegistration {
        hostname,
        memory_bytes,
        cpus,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: labels.into_iter().collect(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        // The control plane runs in this process too.
        role: "server".to_owned(),
        ..NodeRegistration::default()
    };
    registration.validate().context("--label")?;
    Ok(registration)
}

/// An error that the ingress made itself belongs into the log of the app that it was made for.
fn tell_app(logs: &LogSink, error: &IngressError) {
    let (Some(namespace), Some(app)) = (&error.namespace, &error.app) else { return };
    if error.code == ErrorCode::RateLimited && !is_first_of_second() {
        return;
    }
    let detail = error.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let message = format!(
        "{} {} answered {} ({}){detail} [request {}]",
        error.method,
        error.path,
        error.code.status().as_u16(),
        error.code.as_str(),
        error.request_id
    );
    logs.push(of_ingress(namespace, app, error.instance, message));
}

/// Requests beyond a quota come by the thousand, and would drive everything else out of the app's log; the metrics count them all.
fn is_first_of_second() -> bool {
    static TOLD: AtomicI64 = AtomicI64::new(i64::MIN);
    let now = Timestamp::now().as_second();
    TOLD.swap(now, Ordering::Relaxed) != now
}

/// The same for its ports.
fn tell_app_of_port(logs: &LogSink, error: &TcpError) {
    logs.push(of_ingress(&error.namespace, &error.app, error.instance, error.to_string()));
}

fn of_ingress(
    namespace: &NamespaceName,
    app: &AppName,
    instance: Option<InstanceId>,
    message: String,
) -> LogRecord {
    LogRecord {
        time: Timestamp::now(),
        namespace: namespace.clone(),
        app: app.clone(),
        job: None,
        release: 0,
        instance: instance.unwrap_or_else(|| InstanceId::from_uuid(uuid::Uuid::nil())),
        stream: LogStream::Platform,
        seq: 0,
        message,
    }
}

/// The guests of this process that listen, as the ingress sees them.
struct LocalPlaces(Arc<Ports>);

impl TcpPlaces for LocalPlaces {
    fn admit(&self, instance: InstanceId, port: u16) -> Option<TcpPlace> {
        let place = self.0.admit(instance, port)?;
        let (address, cut, gone) = (place.address, place.cut.clone(), place.gone.clone());
        Some(TcpPlace { address, cut, gone, held: Box::new(place) })
    }
}

/// The guests of this process, as the ingress sees them.
#[derive(Clone)]
struct LocalGuests(Arc<Table>);

impl tower::Service<LocalCall> for LocalGuests {
    type Response = Response<GuestBody>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: LocalCall) -> Self::Future {
        // The ingress holds its route table during this call only, so the request must have its place in the instance when
        // this returns: otherwise the instance may be stopped between the choice and the first poll.
        let admission = self.0.admit(call.instance);
        Box::pin(async move {
            admission.call(call.request).await.map_err(|error| match error {
                DispatchError::NotHere(request) => CallError::NotHere(request),
                DispatchError::Busy(request) => CallError::Busy(Some(request)),
                DispatchError::Invoke(error) => call_error(&error),
            })
        })
    }
}

fn call_error(error: &InvokeError) -> CallError {
    match error {
        InvokeError::Busy => CallError::Busy(None),
        InvokeError::Timeout(_) | InvokeError::Cpu(_) => CallError::Timeout(error.to_string()),
        InvokeError::BodyTooLarge => CallError::BodyTooLarge,
        InvokeError::BadRequest(text) => CallError::BadRequest(text.clone()),
        InvokeError::Stopped
        | InvokeError::Trap(_)
        | InvokeError::NoResponse
        | InvokeError::Guest(_)
        | InvokeError::Platform(_) => CallError::Failed(error.to_string()),
    }
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
