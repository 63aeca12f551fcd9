//! `wharf deploy`: find, build, check, push, release, wait.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wharf_builder::Kind;
use wharf_types::api::{ArtifactInfo, CreateRelease, Deployed, Keep};
use wharf_types::manifest::{BuildSpec, FILE_NAME, Manifest};
use wharf_types::spec::{AppSpec, FilesSpec};
use wharf_types::{AppName, Digest, NamespaceName};

use crate::app_ref::AppRef;
use crate::args::{WaitArgs, parse_assignment};
use crate::artifact::{self, Content};
use crate::exit::{Exit, Failure};
use crate::exposed;
use crate::files;
use crate::output;
use crate::project;
use crate::release_command;
use crate::rollout;
use crate::session::Session;
use crate::unpack;

#[derive(Args, Debug)]
pub struct DeployArgs {
    /// A .wasm file, or a folder, usually with a wharf.toml, or `-` for a tar archive of one on stdin [default: this folder]
    ///
    /// A file without --app belongs to the app of wharf.toml in this folder, and without a wharf.toml to the app with
    /// the file's name. A file with --app keeps the settings that the app has.
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Deploy a container of this image, such as `redis:7`, instead; settings come from a wharf.toml in this folder or stay as they are
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["path", "image_archive"])]
    pub image: Option<String>,
    /// The same of an archive that `docker save` has written, where no registry has the image
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    pub image_archive: Option<PathBuf>,
    /// Do not run the build command of wharf.toml
    #[arg(long)]
    pub no_build: bool,
    /// Set an environment variable in this release; may be repeated
    #[arg(short = 'e', long, value_name = "K=V", value_parser = parse_assignment)]
    pub env: Vec<(String, String)>,
}

/// What shorter waits than this may do without a progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is deployed: an artifact, and the manifest that goes with it.
#[derive(Debug)]
struct Source {
    /// Where the manifest lies.
    folder: PathBuf,
    artifact: Artifact,
    manifest: Option<Manifest>,
}

#[derive(Debug)]
enum Artifact {
    /// A .wasm file.
    File(PathBuf),
    /// The name of an image.
    Image(String),
    /// An archive with an image.
    Archive(PathBuf),
}

/// What is known of the ports that an artifact says it listens at.
#[derive(Debug)]
enum Ports {
    /// It is no image, or its settings are said to be the whole.
    Asked,
    Exposed(Vec<u16>),
    /// Of an image that nobody here has.
    Unknown,
}

impl Artifact {
    async fn read(
        &self,
        session: &Session,
        app: &AppRef,
        manifest: Option<&Manifest>,
    ) -> anyhow::Result<(Content, Ports)> {
        match self {
            Self::File(path) => Ok((Content::Octets(artifact::read(path)?), Ports::Asked)),
            Self::Archive(path) => {
                let content = artifact::find_image(path)?;
                let exposed = content.file().and_then(exposed::in_archive);
                Ok((content, exposed.map_or(Ports::Unknown, Ports::Exposed)))
            }
            Self::Image(image) => {
                let spec = match manifest {
                    Some(manifest) => manifest.spec(),
                    None => current_spec(session, app).await?,
                };
                let login = spec.registry_login();
                let resolved = session.client.resolve_image_with_ports(&app.namespace, image, login).await?;
                let (document, exposed) = resolved;
                // A wharf.toml that names the image says the rest as well.
                let ports = match manifest.is_some_and(|manifest| manifest.image.is_some()) {
                    true => Ports::Asked,
                    false => exposed.map_or(Ports::Unknown, Ports::Exposed),
                };
                Ok((Content::Octets(document.to_octets().into()), ports))
            }
        }
    }

    /// A name for the app, where nobody has given one.
    fn app_name(&self) -> Option<AppName> {
        match self {
            Self::File(path) | Self::Archive(path) => artifact::app_name_of(path),
            Self::Image(image) => artifact::app_name_of_image(image),
        }
    }
}

impl std::fmt::Display for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) | Self::Archive(path) => path.display().fmt(f),
            Self::Image(image) => f.write_str(image),
        }
    }
}

pub async fn run(session: &Session, args: DeployArgs) -> anyhow::Result<()> {
    if args.path.as_deref() != Some(Path::new("-")) {
        return deploy(session, args).await;
    }
    let folder = tempfile::tempdir().context("could not make a folder for what is on stdin")?;
    unpack::unpack(std::io::stdin().lock(), folder.path(), unpack::Limits::default())?;
    deploy(session, DeployArgs { path: Some(folder.path().to_owned()), ..args }).await
}

async fn deploy(session: &Session, args: DeployArgs) -> anyhow::Result<()> {
    let source = find_source(session, &args).await?;
    let app = app_of(session, &source)?;
    let (content, ports) = source.artifact.read(session, &app, source.manifest.as_ref()).await?;
    let since = Instant::now();
    let digest = content.digest()?;
    // Before anything is pushed, so that a folder that cannot be shipped leaves nothing behind.
    let files = source.manifest.as_ref().and_then(|manifest| manifest.files.as_ref());
    let packed = files.map(|files| files::pack(&source.folder.join(&files.path))).transpose()?;
    let pushed = push(session, &app.namespace, digest, content).await?;
    let mut request = release_request(session, &app, digest, source.manifest.as_ref(), &args.env).await?;
    if let Some(told) = settle_ports(session, &app, &mut request, &ports).await? {
        output::note(format!("note: {told}"));
    }
    if let (Some(files), Some(archive)) = (files, packed) {
        let digest = push_files(session, &app, archive).await?;
        request.spec.files = Some(FilesSpec { digest, mount: files.mount.clone() });
    }
    if let Some(command) = source.manifest.as_ref().and_then(|manifest| manifest.release.as_ref()) {
        let artifact = release_command::artifact_of(session, &app, command, &source.folder, pushed).await?;
        output::note("running the release command");
        let say = &mut |line: &str| output::note(format!("  | {}", output::printable(line)));
        let never = CancellationToken::new();
        release_command::run(session, &app, command, (artifact, &request.spec), say, &never).await?;
    }
    let deployed = session.client.create_release(&app, &request).await?;
    warn_about_shadowed(session, &app, deployed.release, &args.env).await;
    if !session.json {
        print_release(&deployed)?;
    }
    rollout::finish(session, &app, &deployed, args.wait, since).await
}

/// A folder is built, a file is taken as it is.
async fn find_source(session: &Session, args: &DeployArgs) -> anyhow::Result<Source> {
    let here = Path::new(".");
    let asked = match (&args.image, &args.image_archive) {
        (Some(image), _) => Some(Artifact::Image(image.clone())),
        (None, Some(archive)) => Some(Artifact::Archive(archive.clone())),
        (None, None) => None,
    };
    if let Some(artifact) = asked {
        let manifest = if session.app_flag.is_some() { None } else { project::read_manifest(here)? };
        return Ok(Source { folder: here.to_owned(), artifact, manifest });
    }
    let path = args.path.as_deref().unwrap_or(here);
    if !path.exists() {
        return Err(
            Failure::new(Exit::NotFound, format!("there is no file or folder {}", path.display())).into()
        );
    }
    if !path.is_dir() {
        let manifest = if session.app_flag.is_some() { None } else { project::read_manifest(here)? };
        let artifact = Artifact::File(path.to_owned());
        return Ok(Source { folder: here.to_owned(), artifact, manifest });
    }
    let manifest = project::read_manifest(path)?;
    if let Some(image) = manifest.as_ref().and_then(|manifest| manifest.image.clone()) {
        return Ok(Source { folder: path.to_owned(), artifact: Artifact::Image(image), manifest });
    }
    let build = manifest.as_ref().and_then(|manifest| manifest.build.as_ref());
    if let Some(file) = build.and_then(|build| build.dockerfile.as_deref()) {
        return Err(project::for_an_engine(file, Kind::Docker).into());
    }
    if let Some(file) = build.and_then(|build| build.compose.as_deref()) {
        return Err(project::for_an_engine(file, Kind::Compose).into());
    }
    if let Some(command) = build.and_then(|build| build.command.as_deref()).filter(|_| !args.no_build) {
        project::build(path, command).await?;
    }
    let is_told = args.no_build || build.is_some_and(|build| *build != BuildSpec::default());
    let made = if is_told { None } else { project::make(path).await? };
    let artifact = match made {
        Some(artifact) => artifact,
        None => artifact::find_in(path, build)?,
    };
    Ok(Source { folder: path.to_owned(), artifact: Artifact::File(artifact), manifest })
}

fn app_of(session: &Session, source: &Source) -> anyhow::Result<AppRef> {
    let manifest = source.manifest.as_ref();
    let app: Option<AppName> = session
        .app_flag
        .clone()
        .or_else(|| manifest.map(|manifest| manifest.app.clone()))
        .or_else(|| source.artifact.app_name());
    let app = app.ok_or_else(|| {
        let file = &source.artifact;
        Failure::usage(format!("the app has no name, and {file} does not suggest one"))
            .help(format!("give one with `--app NAME`, or write `app = \"NAME\"` into a {FILE_NAME}"))
    })?;
    Ok(AppRef { namespace: session.target.namespace.with_manifest(manifest), app })
}

/// Uploads the artifact, unless the platform has it.
pub async fn push(
    session: &Session,
    namespace: &NamespaceName,
    digest: Digest,
    content: impl Into<Content>,
) -> anyhow::Result<ArtifactInfo> {
    let content = content.into();
    if let Some(known) = session.client.find_artifact(namespace, digest).await? {
        return Ok(known);
    }
    let bytes = content.bytes()?;
    let (bar, sent) = upload_progress(session, bytes);
    let pushed = session.client.put_artifact(namespace, digest, content, sent).await;
    bar.finish_and_clear();
    pushed.with_context(|| format!("could not push the artifact ({})", output::bytes(bytes)))
}

/// Uploads the files that the app is shipped with, unless the platform has them.
pub async fn push_files(session: &Session, app: &AppRef, archive: Bytes) -> anyhow::Result<Digest> {
    let (digest, bytes) = (Digest::of(&archive), archive.len() as u64);
    let (bar, sent) = upload_progress(session, bytes);
    let pushed = session.client.ensure_files(&app.namespace, digest, archive, sent).await;
    bar.finish_and_clear();
    pushed.with_context(|| format!("could not push the files ({})", output::bytes(bytes)))?;
    Ok(digest)
}

fn upload_progress(session: &Session, bytes: u64) -> (ProgressBar, impl FnMut(u64) + Send + use<>) {
    let shown = !session.json && output::stderr_is_terminal();
    let bar = ProgressBar::hidden();
    let mut progress = UploadProgress { bar: bar.clone(), bytes, shown, since: Instant::now() };
    (bar, move |so_far| progress.sent(so_far))
}

/// A bar that shows itself once the upload has taken longer than anyone likes to wait without one.
struct UploadProgress {
    bar: ProgressBar,
    bytes: u64,
    shown: bool,
    since: Instant,
}

impl UploadProgress {
    const TEMPLATE: &str = "{msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left";

    fn sent(&mut self, so_far: u64) {
        if self.bar.is_hidden() && self.shown && self.since.elapsed() > PATIENCE {
            self.bar.set_style(
                ProgressStyle::with_template(Self::TEMPLATE)
                    .expect("the template is a constant that the tests parse"),
            );
            self.bar.set_length(self.bytes);
            self.bar.set_message("uploading");
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        self.bar.set_position(so_far);
        if so_far == self.bytes {
            self.bar.set_message("checking");
        }
    }
}

/// With a manifest its settings are the whole; without one the app keeps what it has.
pub async fn release_request(
    session: &Session,
    app: &AppRef,
    artifact: Digest,
    manifest: Option<&Manifest>,
    env: &[(String, String)],
) -> anyhow::Result<CreateRelease> {
    let (spec, keep) = match manifest {
        Some(manifest) => (manifest.spec(), Keep::Overrides),
        None if env.is_empty() => (AppSpec::default(), Keep::Spec),
        // The platform would keep the old variables too: take the settings as they are and add to them here.
        None => (current_spec(session, app).await?, Keep::Overrides),
    };
    Ok(CreateRelease { artifact, spec: with_env(spec, env), keep })
}

/// Lets the only port that an image exposes answer HTTP, where nobody has said which one does. Returns what is to be told.
async fn settle_ports(
    session: &Session,
    app: &AppRef,
    request: &mut CreateRelease,
    ports: &Ports,
) -> anyhow::Result<Option<String>> {
    if matches!(ports, Ports::Asked) {
        return Ok(None);
    }
    // What the app keeps may say it.
    let mut spec = match request.keep {
        Keep::Spec => current_spec(session, app).await?,
        Keep::Overrides => request.spec.clone(),
    };
    let before = spec.container.http_port;
    let told = match ports {
        Ports::Asked => None,
        Ports::Exposed(exposed) => exposed::settle_http_port(&mut spec, exposed),
        Ports::Unknown => exposed::untold(&spec),
    };
    if spec.container.http_port != before {
        *request = CreateRelease { artifact: request.artifact, spec, keep: Keep::Overrides };
    }
    Ok(told)
}

fn with_env(mut spec: AppSpec, env: &[(String, String)]) -> AppSpec {
    spec.env.extend(env.iter().cloned());
    spec
}

/// The settings of the app's current release; the defaults for a new app.
async fn current_spec(session: &Session, app: &AppRef) -> anyhow::Result<AppSpec> {
    match session.client.releases(app).await {
        Ok(releases) => {
            let current = releases.iter().find(|release| release.current).or(releases.first());
            Ok(current.map(|release| release.spec.clone()).unwrap_or_default())
        }
        Err(error) if Exit::of(&error) == Exit::NotFound => Ok(AppSpec::default()),
        Err(error) => Err(error),
    }
}

/// A variable of `wharf env set` is stronger than one given here: say so rather than leave the user wondering.
async fn warn_about_shadowed(session: &Session, app: &AppRef, release: u64, env: &[(String, String)]) {
    if env.is_empty() {
        return;
    }
    let Ok(releases) = session.client.releases(app).await else { return };
    let Some(made) = releases.iter().find(|info| info.release == release) else { return };
    for (key, value) in env {
        if made.spec.env.get(key) != Some(value) {
            output::note(format!(
                "note: {key} keeps the value of `wharf env set`; `wharf env reset {key}` undoes it"
            ));
        }
    }
}

fn print_release(deployed: &Deployed) -> anyhow::Result<()> {
    let Deployed { namespace, app, release, digest, .. } = deployed;
    output::line(format!("{app} in {namespace}: release {release} (sha256:{})", digest.short()))?;
    if deployed.capabilities.is_empty() {
        return Ok(());
    }
    output::line("It asks for:")?;
    capability_lines(deployed).into_iter().try_for_each(output::line)
}

/// One line each; what is new stands out, and so does what it asks for in vain.
pub fn capability_lines(deployed: &Deployed) -> Vec<String> {
    let line = |capability: &wharf_types::world::Capability| {
        let is_new = deployed.new_capabilities.contains(capability);
        let mark = if is_new { output::style().bold().apply_to("+").to_string() } else { "-".to_owned() };
        let kind = &capability.kind;
        let new = if is_new && deployed.release > 1 { " (new)" } else { "" };
        let refused = if capability.granted {
            String::new()
        } else {
            format!(
                "  {}",
                output::style().yellow().apply_to("NOT GRANTED: list what it may reach under [outbound]")
            )
        };
        format!("  {mark} {kind:<14} {}{new}{refused}", output::printable(&capability.description))
    };
    deployed.capabilities.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::world::Capability;

    #[test]
    fn capabilities_show_what_is_new_and_what_is_not_granted() {
        let capability =
            |kind: &str, granted| Capability { kind: kind.into(), description: "does".into(), granted };
        let deployed = Deployed {
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            release: 2,
            rollout: wharf_types::RolloutId::new(),
            digest: Digest::of(b""),
            url: String::new(),
            urls: Vec::new(),
            capabilities: vec![capability("keyvalue", true), capability("outbound-http", false)],
            stopped: false,
            new_capabilities: vec![capability("outbound-http", false)],
        };
        let lines = capability_lines(&deployed);
        assert_eq!(lines[0], "  - keyvalue       does");
        assert!(lines[1].starts_with("  + outbound-http  does (new)  NOT GRANTED"), "{}", lines[1]);
    }

    #[test]
    fn variables_of_the_command_line_win_over_the_manifests() {
        let manifest = Manifest::parse("app = \"a\"\n[env]\nA = \"1\"\nB = \"2\"\n").unwrap();
        let spec = with_env(manifest.spec(), &[("A".into(), "x".into())]);
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("x", "2"));
    }

    #[test]
    fn the_upload_bars_template_is_valid() {
        ProgressStyle::with_template(UploadProgress::TEMPLATE).unwrap();
    }
}
