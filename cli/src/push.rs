//! What a control plane does with what was pushed with git: the same as `wharf deploy`, told to whoever pushed.
//!
//! Everything is asked for over the API, with the token of whoever pushed. So a push can do what its user can, it is recorded as that
//! user's doing, and it ends when the token is revoked. A Compose file makes several apps of a push: see [`stack`].

mod detection;
mod follow;
mod image;
mod stack;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wharf_builder::{
    Artifact, BuildLimits, BuildPlan, Detection, FailReason, Network, Recipe, RustWay, Sandbox,
    SandboxSettings, Steps,
};
use wharf_docker::Engine;
use wharf_platform_api::{Deployer, Deployment, NotDeployed, Pushed, Runs, Teller};
use wharf_types::AppId;
use wharf_types::api::{CreateRelease, Deployed};
use wharf_types::manifest::Manifest;
use wharf_types::spec::FilesSpec;

use self::follow::follow;
use self::image::{BUILD_ELSEWHERE, ImageBuilder, ImageSource};
use self::stack::Stack;
use crate::app_ref::AppRef;
use crate::artifact;
use crate::client::Client;
use crate::commands::deploy;
use crate::context::{NamespaceChoice, Origin, Target, TokenSource};
use crate::exit::{self, Exit, Failure};
use crate::exposed::settle_http_port;
use crate::files;
use crate::output;
use crate::project;
use crate::release_command;
use crate::secret::Secret;
use crate::session::Session;

/// The variable that tells a guest which commit it is of.
const GIT_REV: &str = "GIT_REV";
/// What a build that wanted something from elsewhere needs.
const NO_NETWORK: &str = "builds reach no network here: put dependencies into the repository, such as by `cargo vendor`, or ask an admin for \
                          `wharf namespace pushes NAMESPACE --build-network true`";
/// What is told of a build that somebody has ended.
const CANCELLED: &str = "the build was cancelled";
/// What is told of why nothing was deployed.
const MESSAGE_MAX_CHARS: usize = 2000;

/// Builds and deploys with the API of one control plane.
pub struct PushDeployer {
    api: String,
    caches: PathBuf,
    /// Found out by the first build that needs it.
    sandbox: OnceCell<Sandbox>,
    /// None: this host has no container engine.
    images: Option<ImageBuilder>,
    /// As many builds at once as there are processors.
    builds: Semaphore,
}

/// What a push came to.
struct Made {
    content: Bytes,
    /// Of an image that was built: the ports that it exposes.
    exposed: Option<Vec<u16>>,
}

impl PushDeployer {
    /// `caches` is a folder for what builds leave for the next ones.
    pub fn new(api: String, caches: PathBuf, engine: Option<Engine>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let images = engine.map(|engine| ImageBuilder::new(engine, caches.clone()));
        Self { api, caches, sandbox: OnceCell::new(), images, builds: Semaphore::new(cpus) }
    }

    async fn sandbox(&self) -> anyhow::Result<&Sandbox> {
        let found = self.sandbox.get_or_try_init(|| async {
            Sandbox::available(SandboxSettings::of_this_machine(self.caches.clone()).await).await
        });
        found.await.map_err(|error| {
            let message = format!("this control plane cannot build: {error}");
            Failure::new(Exit::Platform, message)
                .help("push what is built, a `.wasm` file, or have this mended by whoever runs the platform")
                .into()
        })
    }

    async fn carry_out(
        &self,
        pushed: &Pushed,
        teller: &Teller,
        cancel: &CancellationToken,
        runs: &mut Runs,
    ) -> anyhow::Result<Deployment> {
        let began = Instant::now();
        let session = self.session(pushed)?;
        let app = AppRef { namespace: pushed.namespace.clone(), app: pushed.app.clone() };
        let manifest = project::read_manifest(&pushed.folder)?;
        if let Some(manifest) = &manifest {
            let whose = (&pushed.namespace, &pushed.repository);
            detection::other_names(manifest, whose).iter().for_each(|note| teller.detail(note));
        }
        let named = manifest.as_ref().and_then(|manifest| Some((manifest.image.as_ref()?, manifest.spec())));
        let Made { content, exposed } = match named {
            Some((image, spec)) => {
                teller.step(&format!("Looking for the image {image}, which wharf.toml names"));
                let login = spec.registry_login();
                let document = session.client.resolve_image(&app.namespace, image, login).await?;
                Made { content: document.to_octets().into(), exposed: None }
            }
            None => {
                let detection = detection::look(pushed, teller).await?;
                if let Recipe::Stack { file } = &detection.recipe {
                    let stack = Stack { deployer: self, session: &session, pushed, file, teller, cancel };
                    stack.deploy(manifest.as_ref(), runs).await?;
                    return Ok(Deployment::Stack);
                }
                let made = self.make(&detection, pushed, teller, cancel).await?;
                // A preview may be of an app while the repository is a stack's.
                if !pushed.is_preview {
                    self.keep_services(pushed, &HashSet::new()).await;
                }
                made
            }
        };
        if !pushed.may_make_apps {
            must_be_there(&session, &app).await?;
        }
        let digest = wharf_types::Digest::of(&content);
        let folder = manifest.as_ref().and_then(|manifest| manifest.files.as_ref());
        let packed = match folder {
            Some(files) => Some(pack(within(&pushed.folder, &files.path)?).await?),
            None => None,
        };
        let bytes = content.len() as u64;
        let known = deploy::push(&session, &app.namespace, digest, content).await?;
        teller.step(&format!("Artifact sha256:{} ({})", digest.short(), output::bytes(bytes)));
        let mut request = release_request(&session, &app, digest, manifest.as_ref(), pushed).await?;
        let settled = exposed.and_then(|exposed| settle_http_port(&mut request.spec, &exposed));
        settled.iter().for_each(|told| teller.detail(told));
        if pushed.is_preview {
            alone(&mut request, teller);
        }
        if let (Some(files), Some(archive)) = (folder, packed) {
            let digest = deploy::push_files(&session, &app, archive).await?;
            request.spec.files = Some(FilesSpec { digest, mount: files.mount.clone() });
        }
        if let Some(command) = manifest.as_ref().and_then(|manifest| manifest.release.as_ref()) {
            teller.step("Running the release command");
            if let Some(path) = &command.artifact {
                let wanted = Artifact::Path(path.clone());
                wharf_builder::find_pushed(
                    &pushed.folder,
                    &wanted,
                    BuildLimits::default().artifact_max_bytes,
                )
                .map_err(|error| Failure::invalid(format!("release.artifact: {error}")))?;
            }
            let artifact =
                release_command::artifact_of(&session, &app, command, &pushed.folder, known).await?;
            let say = &mut |line: &str| teller.detail(line);
            release_command::run(&session, &app, command, (artifact, &request.spec), say, cancel).await?;
        }
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let deployed = session.client.create_release(&app, &request).await?;
        if !teller.released(deployed.release).await {
            let _ = session.client.wish_of_rollout(&app, "abort").await;
            return Err(Failure::new(Exit::Conflict, "another control plane took over: push again").into());
        }
        tell_release(&deployed, teller);
        roll_out(&session, &app, &deployed, teller, cancel).await?;
        teller.detail(&format!("deployed after {}", output::elapsed(began.elapsed())));
        deployed.urls.iter().for_each(|url| teller.detail(url));
        Ok(Deployment::App)
    }

    fn session(&self, pushed: &Pushed) -> anyhow::Result<Session> {
        let token = Secret::from(pushed.secret.0.clone());
        let target = Target {
            api: self.api.clone(),
            token: TokenSource::Given(token.clone()),
            namespace: NamespaceChoice::Said(pushed.namespace.clone()),
            origin: Origin::Flag,
        };
        let client = Client::with_token(&self.api, Some(token))?;
        // As in `--json`, nothing is shown on this process's own terminal.
        Ok(Session { target, client, json: true, app_flag: None })
    }

    /// The artifact, which is built or was pushed.
    async fn make(
        &self,
        detection: &Detection,
        pushed: &Pushed,
        teller: &Teller,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Made> {
        if let Recipe::Containers { file } = &detection.recipe {
            let source = ImageSource::of_app(pushed, file);
            let made = self.images(file)?.build(&source, pushed, self.place(cancel), teller, cancel).await?;
            return Ok(Made { content: made.archive, exposed: Some(made.exposed) });
        }
        let built = self.build(detection, (pushed.folder.as_path(), None), pushed, teller, cancel).await?;
        Ok(Made { content: read(built).await?, exposed: None })
    }

    /// Removes images of services that what was pushed has no more.
    async fn keep_services(&self, pushed: &Pushed, services: &HashSet<&str>) {
        if let Some(images) = &self.images
            && let Err(error) = images.keep_services(pushed.cache, services).await
        {
            warn!("cannot remove images of services that have gone: {error:#}");
        }
    }

    /// What builds images, for a file of this name.
    fn images(&self, file: &str) -> Result<&ImageBuilder, Failure> {
        let no_engine = || {
            Failure::invalid(format!("{file}: this control plane's host has no Docker engine to build it"))
                .help(BUILD_ELSEWHERE)
        };
        self.images.as_ref().ok_or_else(no_engine)
    }

    /// Waits until few enough builds are under way.
    async fn place(&self, cancel: &CancellationToken) -> anyhow::Result<SemaphorePermit<'_>> {
        tokio::select! {
            place = self.builds.acquire() => Ok(place?),
            () = cancel.cancelled() => Err(cancelled()),
        }
    }

    /// The artifact of a folder in what was pushed, of the whole of it or of one service.
    async fn build(
        &self,
        detection: &Detection,
        (folder, service): (&Path, Option<&str>),
        pushed: &Pushed,
        teller: &Teller,
        cancel: &CancellationToken,
    ) -> anyhow::Result<PathBuf> {
        let steps = self.steps(&detection.recipe, folder).await?;
        let plan = BuildPlan {
            app: Some(pushed.cache),
            part: service.map(str::to_owned),
            tree: folder.to_owned(),
            steps,
            env: [(GIT_REV.to_owned(), pushed.commit.clone())].into(),
            network: if pushed.build_network { Network::Machine } else { Network::None },
            limits: BuildLimits::default(),
        };
        let Some(command) = plan.steps.command.clone() else {
            // Nothing is run, so there is nothing to be kept from.
            let found =
                wharf_builder::find_pushed(&plan.tree, &plan.steps.artifact, plan.limits.artifact_max_bytes);
            return Ok(found.map_err(|error| Failure::invalid(error.to_string()))?);
        };
        let sandbox = self.sandbox().await?;
        let _place = self.place(cancel).await?;
        teller.step("Building");
        teller.detail(&format!("$ {command}"));
        let built = wharf_builder::run(&plan, sandbox, &mut |line| teller.detail(line), cancel).await;
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let built = built.map_err(|failed| {
            let failure = Failure::invalid(failed.to_string());
            let is_exit = matches!(failed.reason, FailReason::ExitCode(_));
            if pushed.build_network || !is_exit { failure } else { failure.help(NO_NETWORK) }
        })?;
        teller.detail(&format!("built in {}", output::elapsed(built.duration)));
        Ok(built.artifact)
    }

    async fn steps(&self, recipe: &Recipe, folder: &Path) -> anyhow::Result<Steps> {
        let rust = match recipe {
            Recipe::Cargo(_) => self.sandbox().await?.rust(folder).await?,
            _ => RustWay::Wasip2,
        };
        let for_an_engine = || Failure::invalid("nothing of this is built without a container engine");
        Ok(recipe.steps(&rust).ok_or_else(for_an_engine)?)
    }
}

#[async_trait]
impl Deployer for PushDeployer {
    async fn deploy(
        &self,
        pushed: Pushed,
        teller: Teller,
        cancel: CancellationToken,
    ) -> Result<Deployment, NotDeployed> {
        let mut runs = Runs::AsBefore;
        let carried_out = self.carry_out(&pushed, &teller, &cancel, &mut runs).await;
        carried_out.map_err(|error| {
            // Whoever pushed knows the files, and not where they are here.
            let (text, help) = exit::told(&error);
            let text = text.replace(&format!("{}/", pushed.folder.display()), "");
            let text = cut(&output::printable(&text));
            let why = help.map_or_else(|| text.clone(), |help| format!("{text}\n{help}"));
            NotDeployed { why, runs }
        })
    }

    async fn discard(&self, folder: PathBuf) -> std::io::Result<()> {
        tokio::task::spawn_blocking(move || wharf_builder::remove_tree(&folder))
            .await
            .map_err(std::io::Error::other)?
    }

    async fn keep_images_of(&self, repositories: HashSet<AppId>) {
        if let Some(images) = &self.images {
            images.keep_only(&repositories).await;
        }
    }
}

/// The stack of this name is there, which is why the push was taken, and it may make no app.
async fn must_be_there(session: &Session, app: &AppRef) -> anyhow::Result<()> {
    match session.client.app(app).await {
        Ok(_) => Ok(()),
        Err(error) if Exit::of(&error) == Exit::NotFound => {
            let AppRef { namespace, app } = app;
            let message = format!("there is no app `{app}`, and pushes make none in `{namespace}`");
            Err(Failure::new(Exit::NotFound, message)
                .help(format!("make it with `wharf deploy --app {app}`, or push a Compose file"))
                .into())
        }
        Err(error) => Err(error),
    }
}

/// As many lines of an error as are told, and how many there are beside them. One that is too long itself ends between two words.
fn cut(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let sums = lines.iter().scan(0, |sum, line| {
        // With the end of the line.
        *sum += line.chars().count() + 1;
        Some(*sum)
    });
    let told = sums.take_while(|sum| *sum <= MESSAGE_MAX_CHARS).count();
    let (told, rest) = lines.split_at(told);
    let Some((next, after)) = rest.split_first() else { return text.to_owned() };
    if !told.is_empty() {
        return format!("{}\nand {}", told.join("\n"), output::count(rest.len() as u64, "more line"));
    }
    let start: String = next.chars().take(MESSAGE_MAX_CHARS).collect();
    let words = start.rsplit_once(' ').map_or(start.as_str(), |(words, _)| words);
    match after {
        [] => format!("{words} …"),
        _ => format!("{words} …\nand {}", output::count(after.len() as u64, "more line")),
    }
}

/// A folder that the manifest names, which must not be one of this machine.
fn within(tree: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let missing = || Failure::invalid(format!("there is no folder {path}, which `files.path` names"));
    let folder = tree.join(path).canonicalize().map_err(|_| missing())?;
    if folder.starts_with(tree.canonicalize()?) {
        return Ok(folder);
    }
    Err(Failure::invalid(format!("`files.path` is {path}, which leads out of what was pushed")).into())
}

/// Reads an artifact, which may be large, while other tasks go on.
async fn read(artifact: PathBuf) -> anyhow::Result<Bytes> {
    tokio::task::spawn_blocking(move || artifact::read(&artifact)).await?
}

/// Packs a folder, which may be large, while other tasks go on.
async fn pack(folder: PathBuf) -> anyhow::Result<Bytes> {
    tokio::task::spawn_blocking(move || files::pack(&folder)).await?
}

fn cancelled() -> anyhow::Error {
    Failure::new(Exit::Conflict, CANCELLED).into()
}

async fn release_request(
    session: &Session,
    app: &AppRef,
    digest: wharf_types::Digest,
    manifest: Option<&Manifest>,
    pushed: &Pushed,
) -> anyhow::Result<CreateRelease> {
    let is_set = manifest.is_some_and(|manifest| manifest.env.contains_key(GIT_REV));
    let env: &[(String, String)] = if is_set { &[] } else { &[(GIT_REV.to_owned(), pushed.commit.clone())] };
    deploy::release_request(session, app, digest, manifest, env).await
}

/// What an app has for itself, a preview of it has not.
fn alone(request: &mut CreateRelease, teller: &Teller) {
    let spec = &mut request.spec;
    if !spec.http.routes.is_empty() {
        teller.detail(&format!("a preview does not take the routes {}", spec.http.routes.join(", ")));
        spec.http.routes.clear();
    }
    if !spec.tcp.ports.is_empty() {
        teller.detail(&format!("a preview does not take the ports {:?}", spec.tcp.ports));
        spec.tcp.ports.clear();
    }
}

fn tell_release(deployed: &Deployed, teller: &Teller) {
    teller.step(&format!("Release {} of {}", deployed.release, deployed.app));
    for line in deploy::capability_lines(deployed) {
        teller.detail(line.trim_start());
    }
}

/// Follows the rollout until it is decided.
async fn roll_out(
    session: &Session,
    app: &AppRef,
    deployed: &Deployed,
    teller: &Teller,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    if deployed.stopped {
        teller.detail(&format!("{} is stopped; it runs once `wharf start {0}` has started it", app.app));
        return Ok(());
    }
    follow(session, app, deployed.rollout, &|line: &str| teller.detail(line), cancel).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_to_be_told_ends_with_a_line_and_says_how_many_follow() {
        assert_eq!(cut("one\n  two"), "one\n  two");
        assert_eq!(cut(""), "");
        let line = "compose.yaml:3:5: `web.wasm`: it is not there";
        let many = vec![line; 500].join("\n");
        let told = cut(&many);
        let (lines, last) = told.rsplit_once('\n').unwrap();
        let shown = lines.lines().count();
        assert!(lines.lines().all(|it| it == line) && lines.chars().count() <= MESSAGE_MAX_CHARS, "{told}");
        assert!(
            cut(&"\n".repeat(10_000)).chars().count() <= MESSAGE_MAX_CHARS + 30,
            "lines of nothing count, too"
        );
        assert_eq!(last, format!("and {} more lines", 500 - shown));
        let long = "word ".repeat(1000);
        assert!(cut(&long).ends_with("word …") && cut(&long).chars().count() <= MESSAGE_MAX_CHARS + 2);
        assert!(cut(&format!("{long}\nlast")).ends_with("word …\nand 1 more line"));
        assert_eq!(cut(&"x".repeat(3000)).chars().count(), MESSAGE_MAX_CHARS + 2);
    }
}
