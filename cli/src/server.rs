//! `wharf server`: the control plane of a cluster. Workers of other hosts join it; it runs nothing itself.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wharf_platform_api::{
    ArtifactsAt, BUILD_CACHES, BucketAt, BucketUrl, Config, ControlPlane, Database, Keys, Lost, PostgresUrl,
    Progress, Summary, backup, migrate_store, restore,
};
use wharf_types::protocol::{self, Versions};

use crate::args::{Global, NoArgs, With};
use crate::commands;
use crate::engine::{self, EngineArgs, EngineResolver};
use crate::file_handles;
use crate::local::{self, Local};
use crate::output;
use crate::push::PushDeployer;
use crate::session::Session;
use crate::up::{ImageArgs, conclude, default_data_dir, listen, open_failure, secret_keys, start_log};
use crate::worker::PART_GRACE;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServerArgs {
    #[command(subcommand)]
    pub command: Option<ServerCommand>,
    #[command(flatten)]
    pub at: StateArgs,
    /// Where the API listens; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub api: SocketAddr,
    /// Where workers come, over TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7071")]
    pub workers: SocketAddr,
    /// How workers reach that, if not by this machine's own address, such as cluster.example.com:7071
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// What the default hostnames of apps end in
    #[arg(long, default_value = "localhost")]
    pub domain: String,
    /// Where people reach the workers' front doors, for the URLs that are shown
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub http_url: String,
    /// A file with the key that seals secrets, 64 hexadecimal digits [default: `secret.key` in the data folder, made when there is none]
    #[arg(long, value_name = "FILE", env = "WHARF_SECRET_KEY_FILE")]
    pub secret_key_file: Option<PathBuf>,
    /// Where the key of the cluster's CA cannot be opened any more, make another CA; every worker has to join again
    #[arg(long)]
    pub new_ca: bool,
    /// Versions of the node protocol to speak, for tests of upgrades: docs/decisions/0048
    #[arg(long, value_name = "VERSIONS", env = protocol::VARIABLE, hide = true, default_value_t = protocol::SPOKEN)]
    pub protocol: Versions,
    #[command(flatten)]
    pub images: ImageArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print one JSON object on stdout when ready, and nothing else there
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum ServerCommand {
    /// Write everything that lasts to one file, also while the control plane runs
    Backup(BackupArgs),
    /// Bring back what `backup` has written, into an empty data folder or database
    Restore(RestoreArgs),
    /// Move the state from the data folder to PostgreSQL; the control plane has to be stopped
    MigrateStore(MigrateArgs),
    /// List the servers of a control plane that runs, and which of them leads
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
    /// Show the CAs of the cluster, or bring in another one
    Ca(CaArgs),
}

#[derive(Args, Debug)]
pub struct CaArgs {
    #[command(subcommand)]
    pub command: Option<CaCommand>,
}

#[derive(Subcommand, Debug)]
pub enum CaCommand {
    /// List the CAs, and the nodes that a rotation waits for
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
    /// Let another CA take the place of the one that signs, while everything runs
    Rotate(With<RotateArgs>),
}

#[derive(Args, Debug)]
pub struct RotateArgs {
    /// Wait for no node that is silent: it has to join again when it is back. Also of a rotation that is under way
    #[arg(long)]
    pub force: bool,
}

/// Where the state is.
#[derive(Args, Debug)]
pub struct StateArgs {
    /// Folder for artifacts, logs and keys, and for the state if there is no --database [default: a folder of yours]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A PostgreSQL database for the state, such as postgres://wharf@10.0.0.5/wharf; several control planes may share it
    #[arg(long, value_name = "URL", env = "WHARF_DATABASE_URL", hide_env_values = true)]
    pub database: Option<PostgresUrl>,
    /// An S3-compatible bucket for artifacts, such as s3://wharf or s3://wharf/prefix; several control planes may share it
    ///
    /// Where it is, and the keys, come from the variables that other programs use as well: AWS_ENDPOINT_URL, AWS_REGION,
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_ALLOW_HTTP=true where it is reached without TLS.
    #[arg(long, value_name = "URL", env = "WHARF_ARTIFACTS")]
    pub artifacts: Option<BucketUrl>,
}

/// The same, as the control plane takes it.
struct State {
    data: PathBuf,
    database: Database,
    artifacts: ArtifactsAt,
}

#[derive(Args, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    pub at: StateArgs,
    /// The file to write
    pub file: PathBuf,
    /// Also the keys that open secrets and sign certificates: whoever has the file then has everything
    #[arg(long)]
    pub with_keys: bool,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub at: StateArgs,
    /// The file that `backup` has written
    pub file: PathBuf,
}

#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// The data folder whose state moves [default: a folder of yours]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// An empty PostgreSQL database
    #[arg(long, value_name = "URL", env = "WHARF_DATABASE_URL", hide_env_values = true)]
    pub database: PostgresUrl,
}

impl StateArgs {
    fn resolve(self) -> anyhow::Result<State> {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Ok(State {
            data: self.data.map_or_else(default_data_dir, Ok)?,
            database: self.database.map_or(Database::DataDir, Database::Postgres),
            artifacts: self
                .artifacts
                .map_or(ArtifactsAt::DataDir, |url| ArtifactsAt::Bucket(BucketAt::new(url, variables))),
        })
    }
}

async fn carry_out(command: ServerCommand, json: bool) -> anyhow::Result<ExitCode> {
    let tell = |progress: Progress<'_>| match progress {
        Progress::Table { name, rows } if rows > 0 => output::note(format!("{name}: {rows} rows")),
        Progress::Table { .. } => {}
        Progress::Foreign { table } => output::note(format!(
            "the table `{table}` is not Wharf's, and is left out: give other programs a database, or a schema, of their own"
        )),
        Progress::Artifact { digest, bytes } => output::note(format!("{digest}: {}", output::bytes(bytes))),
    };
    let summary = match command {
        ServerCommand::Ls(with) => {
            let before = Global { json, ..Global::default() };
            commands::server::list(&Session::open(with.global.or(before))?).await?;
            return Ok(ExitCode::SUCCESS);
        }
        ServerCommand::Ca(args) => {
            let open = |global: Global| Session::open(global.or(Global { json, ..Global::default() }));
            match args.command {
                None => commands::server::authorities(&open(Global::default())?).await?,
                Some(CaCommand::Ls(with)) => commands::server::authorities(&open(with.global)?).await?,
                Some(CaCommand::Rotate(with)) => {
                    commands::server::rotate(&open(with.global)?, with.args.force).await?;
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        ServerCommand::Backup(args) => {
            let State { data, database, artifacts } = args.at.resolve()?;
            let keys = if args.with_keys { Keys::Included } else { Keys::LeftOut };
            backup(&data, &database, &artifacts, &args.file, keys, tell).await
        }
        ServerCommand::Restore(args) => {
            let State { data, database, artifacts } = args.at.resolve()?;
            restore(&args.file, &data, &database, &artifacts, tell).await
        }
        ServerCommand::MigrateStore(args) => {
            let data = args.data.map_or_else(default_data_dir, Ok)?;
            migrate_store(&data, &args.database, tell).await
        }
    };
    let Summary { tables, rows, artifacts } = summary?;
    if json {
        output::json(&json!({"tables": tables, "rows": rows, "artifacts": artifacts}))?;
    } else {
        output::line(format!("done: {rows} rows of {tables} tables, {artifacts} artifacts"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    start_log();
    if let Some(command) = args.command {
        return carry_out(command, args.json).await;
    }
    file_handles::raise().context("cannot read the limit of open files")?;
    // Before anything is started, so that a signal is never missed.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let api_listener = listen(args.api, "--api").await?;
    let workers_listener = listen(args.workers, "--workers").await?;
    let (api_at, workers_at) = (api_listener.local_addr()?, workers_listener.local_addr()?);
    let api = format!("http://{api_at}");
    let State { data: data_dir, database, artifacts } = args.at.resolve()?;
    let advertised = args.advertise.unwrap_or_else(|| reachable(workers_at).to_string());
    let caches = data_dir.join(BUILD_CACHES);
    let config = Config {
        data_dir,
        database,
        artifacts,
        address: advertised.clone(),
        domain: args.domain,
        http_url: args.http_url.trim_end_matches('/').to_owned(),
        // And those at which workers serve apps and each other, unless they are told otherwise.
        platform_ports: vec![api_at.port(), workers_at.port(), 8080, 7072],
        secret_keys: secret_keys(args.secret_key_file)?,
        speaks: args.protocol,
        image_archive_max_bytes: args.images.archive_max_bytes(),
    };
    let http = config.http_url.clone();
    let control_plane = ControlPlane::open(config).await.map_err(open_failure)?;
    let token_file = std::path::absolute(control_plane.admin_token_file())?;
    // It runs no containers here, and only says which image a name means, and builds what is pushed.
    let engine = engine::find(&args.engine, wharf_types::NodeId::new()).await?;
    if let Some(found) = &engine {
        control_plane.resolve_images(EngineResolver::new(found));
    }
    let engine = engine.map(|found| found.engine);
    control_plane.deploy_pushes(Arc::new(PushDeployer::new(api.clone(), caches, engine)));
    let stop = CancellationToken::new();
    let lost = if args.new_ca { Lost::MakeAnother } else { Lost::Fail };
    let workers =
        control_plane.serve_workers(workers_listener, advertised.clone(), lost, stop.clone()).await?;
    let mut serving = tokio::spawn(control_plane.serve(api_listener, stop.clone()));

    let local = Local { api: api.clone(), http, token_file: token_file.clone() };
    if let Err(error) = local::write(&local) {
        tracing::warn!("clients on this machine will not find the control plane by themselves: {error:#}");
    }
    if args.json {
        output::json(&json!({"api": api, "workers": advertised, "token_file": token_file}))?;
    } else {
        output::line(format!("the control plane is ready at {api}; workers come to {advertised}"))?;
        output::note("to add a host: `wharf node token create`, and paste what it prints on that host");
    }
    let ended_early = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = &mut serving => Some(ended),
    };
    stop.cancel();
    let _ = tokio::time::timeout(PART_GRACE, workers).await;
    conclude(ended_early, serving, &local).await?;
    Ok(ExitCode::SUCCESS)
}

/// An address that others can use of one that is listened at: instead of "every address", the one by which this machine reaches others.
pub fn reachable(at: SocketAddr) -> SocketAddr {
    if !at.ip().is_unspecified() {
        return at;
    }
    // Nothing is sent: the kernel only chooses a route. The address is of TEST-NET-1 (RFC 5737).
    SocketAddr::new(local_ip_towards("192.0.2.1:9").unwrap_or(IpAddr::from([127, 0, 0, 1])), at.port())
}

/// This machine's address on the way to another.
pub fn local_ip_towards(other: &str) -> Option<IpAddr> {
    let other = other.to_socket_addrs().ok()?.next()?;
    let any = if other.is_ipv6() { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(other).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}
