//! `wharf precompile`: prepares an upgrade while the platform runs.
//!
//! Run with the new binary, it compiles what the apps of a running platform use for the engine of the new binary, so that nobody waits
//! for that when the platform is started with it. It takes nothing from the platform but its API and files that never change: what is
//! compiled for one engine lies apart from what is compiled for another, and appears as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use wharf_platform_api::artifact_file;
use wharf_runtime::logs::LogSink;
use wharf_runtime::space::Space;
use wharf_runtime::wasm::compiler::CompileCommand;
use wharf_runtime::wasm::host::WasmHost;
use wharf_types::spec::EngineProfile;
use wharf_types::{Digest, NamespaceName};

use crate::app_ref::AppRef;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::local::{self, Local};
use crate::output;
use crate::secret::Secret;
use crate::up::{self, WORKER};
use crate::worker;

#[derive(Args, Debug)]
pub struct PrecompileArgs {
    /// Folder of the platform that runs [default: a folder of yours, as for `wharf up`]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    engine: String,
    compiled: usize,
    present: usize,
    /// Digest and reason.
    failed: BTreeMap<String, String>,
}

/// What apps use, each artifact once for each wish: for whom it is compiled, and how.
type Jobs = BTreeMap<(Digest, u8), (NamespaceName, EngineProfile)>;

pub async fn run(args: PrecompileArgs) -> anyhow::Result<()> {
    let data = args.data.map_or_else(up::default_data_dir, Ok)?;
    let local = running_in(&data)?;
    let token = std::fs::read_to_string(&local.token_file)
        .with_context(|| format!("could not read the token in {}", local.token_file.display()))?;
    let client = Client::with_token(&local.api, Some(Secret::from(token.trim().to_owned())))?;
    let jobs = jobs(&client).await?;
    let compile = CompileCommand::this_program().in_the_background();
    let folder = data.join(WORKER);
    // The platform that runs knows what it uses.
    let space = Space::of_others(folder.clone());
    let host = worker::host_in(&folder, compile, LogSink::new(), Duration::MAX, space)?;
    let mut outcome = Outcome { engine: host.engine(), ..Outcome::default() };
    // One at a time: the platform needs the machine more.
    for ((digest, _), (namespace, wish)) in jobs {
        match compile_one(&host, &data, &namespace, digest, wish).await {
            Ok(true) => outcome.compiled += 1,
            Ok(false) => outcome.present += 1,
            Err(error) => {
                output::note(format!("{digest}: {error:#}"));
                outcome.failed.insert(digest.to_string(), format!("{error:#}"));
            }
        }
    }
    tell(&outcome, args.json)
}

fn tell(outcome: &Outcome, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(outcome)?;
    } else {
        let Outcome { engine, compiled, present, .. } = outcome;
        let artifacts = if *compiled == 1 { "artifact" } else { "artifacts" };
        let were = if *present == 1 { "was" } else { "were" };
        output::line(format!(
            "{compiled} {artifacts} compiled for engine {engine}, {present} {were} there already"
        ))?;
    }
    match outcome.failed.len() {
        0 => Ok(()),
        failed => {
            let text =
                format!("{failed} could not be compiled: the new version would not run what uses them");
            Err(Failure::new(Exit::Invalid, text)
                .help("the lines above say why; leave the old version in place")
                .into())
        }
    }
}

/// The platform that runs on this folder.
fn running_in(data: &Path) -> anyhow::Result<Local> {
    let data = std::path::absolute(data)?;
    let found = local::read()?.into_iter().find(|local| local.token_file.starts_with(&data));
    found.ok_or_else(|| {
        Failure::new(Exit::Unreachable, format!("no platform of yours runs on {}", data.display()))
            .help("name its folder with --data DIR; one that is stopped compiles what is missing when it is started")
            .into()
    })
}

/// What the current releases of all apps use.
async fn jobs(client: &Client) -> anyhow::Result<Jobs> {
    let mut jobs = Jobs::new();
    for namespace in client.namespaces().await? {
        for app in client.apps(&namespace.name).await? {
            let app = AppRef { namespace: namespace.name.clone(), app: app.app };
            let releases = client.releases(&app).await?;
            for release in releases.into_iter().filter(|release| release.current) {
                let wish = release.spec.engine.profile;
                jobs.insert((release.digest, wish as u8), (namespace.name.clone(), wish));
            }
        }
    }
    Ok(jobs)
}

async fn compile_one(
    host: &WasmHost,
    data: &Path,
    namespace: &NamespaceName,
    digest: Digest,
    wish: EngineProfile,
) -> anyhow::Result<bool> {
    let file = artifact_file(data, digest);
    let bytes =
        Bytes::from(std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))?);
    anyhow::ensure!(
        Digest::of(&bytes) == digest,
        "{} was changed: its digest is another one",
        file.display()
    );
    host.precompile(namespace, wish, bytes).await.map_err(|failure| anyhow::anyhow!(failure.reason.message))
}
