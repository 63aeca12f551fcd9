//! One component or module without a platform, through the same code as a worker's: `wharf run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_config::WasiConfigVariables;
use wharf_types::node::{AssignedInstance, ReasonKind};
use wharf_types::spec::AppSpec;
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{AppName, Digest, InstanceId, NamespaceName};

use super::app::{HttpApp, Outputs};
use super::code::{Fetch, Mapped};
use super::command::{CommandEnd, grant_sockets};
use super::failure::InvokeError;
use super::host::{Guest, WasmHost};
use super::keyvalue::KeyValueHost;
use super::meter::Meter;
use super::outbound::Outbound;
use super::pool::check_resources;
use super::profiler::Profiler;
use super::state::Template;
use super::stdio::GuestOutput;
use super::surface;
use super::tuning;
use crate::backend::Failure;
use crate::secrets::SecretStore;

/// What a guest of `wharf run` gets.
#[derive(Clone, Default)]
pub struct Options {
    pub name: String,
    /// Environment, outbound grants and limits.
    pub spec: AppSpec,
    pub args: Vec<String>,
    /// Folders of this machine and where the guest sees them; commands only.
    pub dirs: Vec<(PathBuf, String)>,
    /// Takes samples of what the guest does.
    pub profiler: Option<Arc<Profiler>>,
}

/// A guest that is ready to run; nothing of it has run yet.
pub enum Loaded {
    Http(Arc<HttpApp>),
    Command(Box<StandaloneCommand>),
}

/// A command with its arguments; its stdio is this process's.
pub struct StandaloneCommand {
    host: Arc<WasmHost>,
    mapped: Arc<Mapped>,
    template: Template,
    options: Options,
}

/// Compiles (or finds) and links `bytes`.
pub async fn load(host: Arc<WasmHost>, bytes: Bytes, options: Options) -> Result<Loaded, Failure> {
    let digest = Digest::of(&bytes);
    let namespace = NamespaceName::default_namespace();
    let wanted = tuning::first(options.spec.engine.profile, surface::is_http(&bytes));
    let fetch: Fetch = Arc::new(move || Box::pin(std::future::ready(Ok(bytes.clone()))));
    let code = host.code(&namespace, digest, wanted, fetch);
    let mapped = code.get().await?;
    check_resources(&mapped.compiled, options.spec.limits.memory.as_bytes())?;
    let app: AppName = options.name.parse().or_else(|_| "app".parse()).map_err(
        |error: wharf_types::name::InvalidName| Failure::new(ReasonKind::Platform, error.to_string()),
    )?;
    let is_http = !matches!(mapped.guest, Guest::Command(_));
    let env = options.spec.env.iter().map(|(key, value)| (key.clone(), value.clone()));
    let template = Template {
        config: Arc::new(env.collect::<WasiConfigVariables>()),
        keyvalue: KeyValueHost::local(namespace.clone(), app.clone()),
        outbound: Arc::new(Outbound::new(&options.spec.outbound.allow, None)),
        meter: Arc::new(Meter::default()),
        host_memory: host.shared.memory.clone(),
        memory_max_bytes: options.spec.limits.memory.as_bytes(),
        profiler: options.profiler.clone(),
        mount: None,
        volumes: None,
        cpu_max: if is_http { options.spec.limits.cpu.as_duration() } else { std::time::Duration::MAX },
    };
    match &mapped.guest {
        Guest::Http02(_) | Guest::Http03(_) => {
            let assigned = AssignedInstance {
                id: InstanceId::new(),
                wanted: Wanted::Run,
                observed: InstanceState::Assigned,
                namespace,
                app,
                release: 1,
                slot: 0,
                artifact: digest,
                world: World::HttpProxy,
                spec: Arc::new(options.spec.clone()),
                secrets: Arc::default(),
                volumes: Vec::new(),
                job: None,
            };
            let outputs = Outputs {
                stdout: GuestOutput::stderr(),
                stderr: GuestOutput::stderr(),
                platform: GuestOutput::stderr(),
            };
            let env = SecretStore::default().environment(&assigned)?;
            let app = HttpApp::new(template, code, &mapped, outputs, assigned.id, &assigned, env);
            Ok(Loaded::Http(app))
        }
        Guest::Command(_) => {
            Ok(Loaded::Command(Box::new(StandaloneCommand { host, mapped, template, options })))
        }
    }
}

impl HttpApp {
    /// Whether the guest can start at all. What it prints meanwhile goes to stderr.
    pub async fn start(self: &Arc<Self>) -> Result<(), Failure> {
        self.try_start().await.map_err(|error| Failure::from(error.reason()))
    }
}

impl StandaloneCommand {
    /// Whether it could make use of outbound grants.
    pub fn has_network(&self) -> bool {
        !matches!(&self.mapped.guest, Guest::Command(command) if !command.has_network())
    }

    /// Runs to the end; the exit code is the guest's.
    pub async fn run(self) -> Result<i32, Failure> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.inherit_stdio().allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        let env: Vec<(&str, &str)> =
            self.options.spec.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        wasi.envs(&env).arg(&self.options.name).args(&self.options.args);
        for (folder, guest_path) in &self.options.dirs {
            preopen(&mut wasi, folder, guest_path)?;
        }
        grant_sockets(&mut wasi, self.template.outbound.policy(), &[]);
        let held = self.host.shared.activity.hold();
        // Nobody else is here for whom it would have to make room, so it has no lanes to go through.
        let guest = tokio::spawn(async move {
            let _held = held;
            match &self.mapped.guest {
                Guest::Command(command) => command.run(wasi, &self.template, None).await,
                Guest::Http02(_) | Guest::Http03(_) => CommandEnd::Exit(0),
            }
        });
        match guest.await {
            Ok(CommandEnd::Exit(code)) => Ok(code),
            Ok(CommandEnd::Trap(InvokeError::Trap(text))) => Err(Failure::new(ReasonKind::Trap, text)),
            Ok(CommandEnd::Trap(error)) => Err(Failure::from(error.reason())),
            Err(_) => Err(Failure::new(ReasonKind::Platform, "the host failed while it ran the guest")),
        }
    }
}

fn preopen(wasi: &mut WasiCtxBuilder, folder: &Path, guest_path: &str) -> Result<(), Failure> {
    wasi.preopened_dir(folder, guest_path, FsPerms::ReadWrite).map(drop).map_err(|error| {
        let text = format!(
            "cannot give the guest the folder {}: {}",
            folder.display(),
            super::failure::chain(&error)
        );
        Failure::new(ReasonKind::Platform, text)
    })
}
