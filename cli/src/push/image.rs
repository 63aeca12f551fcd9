//! What was pushed with a Dockerfile: an image, which the Docker engine of this host builds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;
use wharf_builder::{
    AtLine, BuildFailed, BuildLimits, ContextError, Dockerfile, FailReason, Folder, Limit, Output, Tree as _,
};
use wharf_docker::{
    BuildNetwork, BuildOwner, BuiltImage, Engine, ImageBuild, ImageBuildError, ImageBuildLimits, ImageError,
    ImageId, SaveError,
};
use wharf_platform_api::{Pushed, Teller};
use wharf_types::AppId;
use wharf_types::image::ImageReference;

use super::{GIT_REV, NO_NETWORK, cancelled};
use crate::exit::{Exit, Failure};
use crate::exposed::tcp_ports;
use crate::output;

/// In the folder of caches: what the images that were built for this control plane are known by.
const ID_FILE: &str = "images.id";
/// Images of the platform itself have names in this registry, which is none.
const OWN_REGISTRY: &str = "wharf.localhost";
/// A pull of which nothing has come for so long is given up.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// The most that one step gets.
const MEMORY_MAX_BYTES: u32 = 2_000 << 20;
const CPUS: u16 = 2;
const WRITTEN_MAX_BYTES: u64 = 4 << 30;
/// How a process ends that the kernel has killed, as it does where the limit of memory is reached.
const KILLED: i64 = 128 + 9;

/// What to do where a push cannot be built.
pub const BUILD_ELSEWHERE: &str = "build it where there is an engine, with `docker build -t NAME .`, and deploy it with \
                                   `wharf deploy --image NAME` from a registry, or with `docker save -o FILE NAME` and \
                                   `wharf deploy --image-archive FILE`";

/// Has images built for one control plane.
pub struct ImageBuilder {
    engine: Engine,
    caches: PathBuf,
    id: OnceCell<String>,
    /// Of each repository that is being built: one build after the other, so that none removes what another one saves.
    turns: Mutex<HashMap<AppId, Arc<tokio::sync::Mutex<()>>>>,
}

/// What an image is built of.
pub struct ImageSource {
    pub folder: PathBuf,
    /// The Dockerfile, in the folder.
    pub file: String,
    /// As messages name it.
    pub shown: String,
    pub args: BTreeMap<String, String>,
    /// Of a stack. None: the repository is one app's.
    pub service: Option<String>,
}

impl ImageSource {
    pub fn of_app(pushed: &Pushed, file: &str) -> Self {
        let (folder, file) = (pushed.folder.clone(), file.to_owned());
        Self { folder, shown: file.clone(), file, args: BTreeMap::new(), service: None }
    }
}

/// An image that was built.
pub struct MadeImage {
    /// As `docker save` writes it.
    pub archive: Bytes,
    /// TCP ports that it says it listens at.
    pub exposed: Vec<u16>,
}

impl ImageBuilder {
    pub fn new(engine: Engine, caches: PathBuf) -> Self {
        Self { engine, caches, id: OnceCell::new(), turns: Mutex::default() }
    }

    /// Builds something of what was pushed, once there is a `place` for it.
    pub async fn build<P>(
        &self,
        source: &ImageSource,
        pushed: &Pushed,
        place: impl Future<Output = anyhow::Result<P>>,
        teller: &Teller,
        cancel: &CancellationToken,
    ) -> anyhow::Result<MadeImage> {
        let limits = &BuildLimits::default();
        let turn = self.turn(pushed.cache);
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        let _place = place.await?;
        teller.step("Building");
        let since = Instant::now();
        let mut ended = pin!(async {
            tokio::select! {
                () = cancel.cancelled() => cancelled(),
                () = tokio::time::sleep(limits.wall_max) => {
                    let reason = FailReason::from(Limit::WallClock(limits.wall_max));
                    Failure::invalid(reason.to_string()).into()
                }
            }
        });
        // Whatever ends this function ends the look, which may take long for a tree of many files.
        let looking = cancel.child_token();
        let _looking = looking.clone().drop_guard();
        let file = source.shown.as_str();
        let (folder, name, shown) = (source.folder.clone(), source.file.clone(), source.shown.clone());
        let looked =
            tokio::task::spawn_blocking(move || look(&folder, (name.as_str(), shown.as_str()), &looking));
        let Looked { text, dockerfile, files } = tokio::select! {
            looked = looked => looked??,
            error = &mut ended => return Err(error),
        };
        if let Some(arg) = source.args.keys().find(|name| dockerfile.args_of_images.contains(*name)) {
            return Err(given_to_from(file, arg).into());
        }
        if let Some(fetch) = dockerfile.fetches.first().filter(|_| !pushed.build_network) {
            return Err(fetches(&format!("{file}, line {}", fetch.line)).into());
        }
        let network = if pushed.build_network { BuildNetwork::Bridge } else { BuildNetwork::None };
        tokio::select! {
            are_there = self.bases(pushed, file, &dockerfile, teller) => are_there?,
            low = self.engine.until_disk_is_low(limits.disk_free_min_bytes) => {
                let told = Told { last_lines: Vec::new(), duration: since.elapsed(), passed: None };
                return Err(failure(low, told, network));
            }
            error = &mut ended => return Err(error),
        }
        let builder = self.id().await?.to_owned();
        let owner = BuildOwner { builder, repository: pushed.cache, service: source.service.clone() };
        let mut before = self.engine.built(&owner.builder).await?;
        before.retain(|image| image.repository == owner.repository && image.service == owner.service);
        let takes_commit = dockerfile.args.contains(GIT_REV);
        let mut args: BTreeMap<String, String> =
            takes_commit.then(|| (GIT_REV.to_owned(), pushed.commit.clone())).into_iter().collect();
        args.extend(source.args.clone());
        let build = ImageBuild {
            folder: source.folder.clone(),
            files,
            dockerfile: text,
            args,
            owner,
            cache: before.first().map(|image| image.id),
            network,
            limits: ImageBuildLimits {
                memory_max_bytes: MEMORY_MAX_BYTES,
                cpus: CPUS,
                written_max_bytes: WRITTEN_MAX_BYTES,
                disk_free_min_bytes: limits.disk_free_min_bytes,
            },
        };
        let image = self.run(&build, limits, teller, &mut ended).await?;
        let made = tokio::select! {
            made = self.made(image, limits) => made,
            error = &mut ended => Err(error),
        };
        let BuildOwner { repository, service, .. } = build.owner.clone();
        let built = BuiltImage { id: image, repository, service };
        self.remove(&unneeded(before, built, made.is_ok())).await;
        let made = made?;
        teller.detail(&format!("built in {}", output::elapsed(since.elapsed())));
        Ok(made)
    }

    /// What is taken of an image that was built.
    async fn made(&self, image: ImageId, limits: &BuildLimits) -> anyhow::Result<MadeImage> {
        let exposed = tcp_ports(&self.engine.image_config(image).await?.exposed_ports);
        let saved = self.engine.save(image, limits.artifact_max_bytes).await;
        let archive = saved.map_err(|error| not_saved(error, limits))?;
        Ok(MadeImage { archive, exposed })
    }

    /// Makes the images be there that a Dockerfile names.
    async fn bases(
        &self,
        pushed: &Pushed,
        file: &str,
        dockerfile: &Dockerfile,
        teller: &Teller,
    ) -> anyhow::Result<()> {
        for image in &dockerfile.images {
            let place = format!("{file}, line {}: ONBUILD of {}", image.line, image.text);
            for trigger in self.base(file, image, teller).await? {
                check_trigger(&place, &trigger, pushed.build_network)?;
            }
        }
        Ok(())
    }

    /// Builds until the end, or until it was `ended` for a reason.
    async fn run(
        &self,
        build: &ImageBuild,
        limits: &BuildLimits,
        teller: &Teller,
        ended: &mut (impl Future<Output = anyhow::Error> + Send + Unpin),
    ) -> anyhow::Result<ImageId> {
        let since = Instant::now();
        let mut output = Output::new(limits.lines_max, limits.output_max_bytes);
        let mut on_line = |line: &str| teller.detail(line);
        let (mut reason, mut is_too_much) = (None, false);
        let mut say = |text: &str| match output.take(text.as_bytes(), &mut on_line) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => {
                is_too_much = true;
                ControlFlow::Break(())
            }
        };
        let until = async { reason = Some(ended.await) };
        let built = self.engine.build(build, &mut say, until).await;
        output.finish(&mut on_line);
        let error = match (built, reason) {
            (Ok(image), _) => return Ok(image),
            (Err(ImageBuildError::Ended), Some(reason)) => return Err(reason),
            (Err(error), _) => error,
        };
        let passed = is_too_much.then_some(Limit::Output(limits.output_max_bytes));
        let told = Told { last_lines: output.into_last(), duration: since.elapsed(), passed };
        Err(failure(error, told, build.network))
    }

    /// Removes what was built of repositories that are no more.
    pub async fn keep_only(&self, repositories: &HashSet<AppId>) {
        if !self.caches.join(ID_FILE).exists() {
            return;
        }
        let built = async { anyhow::Ok(self.engine.built(self.id().await?).await?) };
        match built.await {
            Ok(built) => {
                let left = built.into_iter().filter(|image| !repositories.contains(&image.repository));
                self.remove(&left.collect::<Vec<_>>()).await;
            }
            Err(error) => tracing::debug!("cannot look for images of repositories that have gone: {error:#}"),
        }
    }

    /// Removes what was built of a repository for services that it has no more. While something of it is built, that is left to the next push.
    pub async fn keep_services(&self, repository: AppId, services: &HashSet<&str>) -> anyhow::Result<()> {
        if !self.caches.join(ID_FILE).exists() {
            return Ok(());
        }
        let turn = self.turn(repository);
        let Ok(_turn) = turn.try_lock() else { return Ok(()) };
        let mut built = self.engine.built(self.id().await?).await?;
        built.retain(|image| image.repository == repository && is_of_others(image, services));
        self.remove(&built).await;
        Ok(())
    }

    async fn remove(&self, images: &[BuiltImage]) {
        for image in images {
            if let Err(error) = self.engine.remove_built(image.id).await {
                warn!("cannot remove the image {}, which was built and is not needed: {error}", image.id);
            }
        }
    }

    /// Makes an image be there that a Dockerfile names; returns what it has for those that begin with it.
    async fn base(&self, file: &str, image: &AtLine, teller: &Teller) -> anyhow::Result<Vec<String>> {
        let place = format!("{file}, line {}", image.line);
        let reference: Result<ImageReference, _> = image.text.parse();
        if reference.is_ok_and(|reference| reference.registry() == OWN_REGISTRY) {
            return Err(
                Failure::invalid(format!("{place}: `{}` is of the platform itself", image.text)).into()
            );
        }
        let on_pull = &mut || teller.detail(&format!("pulling {}", image.text));
        let found = self.engine.ensure_base(&image.text, STALLED_AFTER, on_pull).await;
        found.map_err(|error| {
            let exit = if error.is_retryable() { Exit::Platform } else { Exit::Invalid };
            let failure = Failure::new(exit, format!("{place}: {error}"));
            match error {
                ImageError::Reference(_) | ImageError::OtherPlatform { .. } => failure.into(),
                _ => failure.help(BUILD_ELSEWHERE).into(),
            }
        })
    }

    fn turn(&self, repository: AppId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(repository).or_default().clone()
    }

    /// It stays the same over restarts, and is no other control plane's.
    async fn id(&self) -> anyhow::Result<&str> {
        let id = self.id.get_or_try_init(|| async { read_or_make_id(&self.caches) }).await;
        let unusable =
            |error| Failure::new(Exit::Platform, format!("cannot use {}: {error}", self.caches.display()));
        Ok(id.map_err(unusable)?)
    }
}

fn read_or_make_id(caches: &Path) -> io::Result<String> {
    let file = caches.join(ID_FILE);
    let read = std::fs::read_to_string(&file).unwrap_or_default();
    if read.parse::<Uuid>().is_ok() {
        return Ok(read);
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(caches)?;
    let id = Uuid::now_v7().to_string();
    let written = caches.join(format!("{ID_FILE}.new"));
    std::fs::write(&written, &id)?;
    std::fs::rename(written, file)?;
    Ok(id)
}

/// The images that are removed after a build: the ones before, unless nothing came of the new one.
fn unneeded(mut before: Vec<BuiltImage>, built: BuiltImage, is_taken: bool) -> Vec<BuiltImage> {
    if !is_taken {
        let was_there = before.iter().any(|image| image.id == built.id);
        return if was_there { Vec::new() } else { vec![built] };
    }
    before.retain(|image| image.id != built.id);
    before
}

/// Whether an image was built for a service, and for none of these.
fn is_of_others(image: &BuiltImage, services: &HashSet<&str>) -> bool {
    image.service.as_ref().is_some_and(|service| !services.contains(service.as_str()))
}

/// What was pushed, as it is built.
struct Looked {
    /// Of the Dockerfile. The engine gets this, and reads no file that could be another one for it.
    text: String,
    dockerfile: Dockerfile,
    files: Vec<PathBuf>,
}

/// The Dockerfile is `file` in the folder, and messages call it `shown`.
fn look(folder: &Path, (file, shown): (&str, &str), cancel: &CancellationToken) -> anyhow::Result<Looked> {
    let read = Folder::open(folder)?.read(file).map_err(|error| Failure::invalid(error.to_string()))?;
    let text =
        read.ok_or_else(|| Failure::invalid(format!("there is no file {shown}, which is to be built")))?;
    let dockerfile =
        Dockerfile::parse(&text).map_err(|error| Failure::invalid(format!("{shown}, {error}")))?;
    let files = wharf_builder::context_files(folder, cancel).map_err(|error| match error {
        ContextError::Cancelled => cancelled(),
        error => Failure::invalid(error.to_string()).into(),
    })?;
    Ok(Looked { text, dockerfile, files })
}

/// What an image brings along is held to the same as what was pushed.
fn check_trigger(place: &str, trigger: &str, build_network: bool) -> Result<(), Failure> {
    let shown: String = trigger.chars().take(80).collect::<String>().escape_debug().to_string();
    let refused =
        || Failure::invalid(format!("{place}: `{shown}` is not understood, or copies from another image"));
    let wanted = Dockerfile::parse_trigger(trigger).map_err(|_| refused())?;
    match (wanted.images.is_empty(), wanted.fetches.is_empty() || build_network) {
        (true, true) => Ok(()),
        (true, false) => Err(fetches(place)),
        (false, _) => Err(refused().help("begin with an image that does not, or write the steps yourself")),
    }
}

/// The engine would look for an image that nobody has looked at.
fn given_to_from(file: &str, arg: &str) -> Failure {
    Failure::invalid(format!(
        "{file}: `ARG {arg}` stands before the first FROM, and what names an image is written in the file"
    ))
    .help(format!("leave `{arg}` out of `args`, and write its value there"))
}

fn fetches(place: &str) -> Failure {
    let message =
        format!("{place}: ADD from an address, or with a variable or a backslash in it, needs the network");
    Failure::invalid(message)
        .help(format!("write `COPY` for what is in the repository. Otherwise {NO_NETWORK}"))
}

/// How a build went until it failed.
struct Told {
    last_lines: Vec<String>,
    duration: Duration,
    /// Whether it was ended for what it printed.
    passed: Option<Limit>,
}

fn failure(error: ImageBuildError, told: Told, network: BuildNetwork) -> anyhow::Error {
    let Told { last_lines, duration, passed } = told;
    let mut help = None;
    let reason = match error {
        ImageBuildError::Ended => passed.map_or(FailReason::Cancelled, FailReason::from),
        ImageBuildError::Step { message, code } => {
            help = match code {
                Some(KILLED) => Some(format!(
                    "137 is how a process ends that the kernel has killed: a step may use {} of memory",
                    output::bytes(MEMORY_MAX_BYTES.into())
                )),
                Some(_) if network == BuildNetwork::None => Some(NO_NETWORK.to_owned()),
                _ => None,
            };
            FailReason::Engine(message)
        }
        ImageBuildError::Written { max_bytes } => {
            FailReason::Engine(format!("a step wrote more than {}", output::bytes(max_bytes)))
        }
        ImageBuildError::DiskFree { min_bytes } => Limit::DiskFree(min_bytes).into(),
        error @ (ImageBuildError::Read(_) | ImageBuildError::Engine(_)) => {
            let failure = Failure::new(Exit::Platform, format!("{:#}", anyhow::Error::new(error)));
            return failure.help("push again; whoever runs the platform can see to the engine").into();
        }
    };
    let failure = Failure::invalid(BuildFailed { reason, last_lines, duration }.to_string());
    match help {
        Some(help) => failure.help(help).into(),
        None => failure.into(),
    }
}

fn not_saved(error: SaveError, limits: &BuildLimits) -> anyhow::Error {
    let SaveError::TooLarge { bytes } = error else { return error.into() };
    let (bytes, max) = (output::bytes(bytes), output::bytes(limits.artifact_max_bytes));
    Failure::invalid(format!("the image has {bytes}, and one that is pushed may have {max}"))
        .help(format!(
            "make it smaller: a smaller image in the last FROM, and what only the build needs in a stage before it; or {BUILD_ELSEWHERE}"
        ))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_brings_along_is_held_to_the_same() {
        let check = |trigger: &str, network| check_trigger("Dockerfile, line 1", trigger, network);
        assert!(check("COPY . /app", false).is_ok() && check("ADD http://x /y", true).is_ok());
        for (trigger, network) in
            [("ADD http://x /y", false), ("COPY --from=4f / /x", true), ("COPY --from=$X / /", true)]
        {
            assert!(
                check(trigger, network).unwrap_err().to_string().starts_with("Dockerfile, line 1"),
                "{trigger}"
            );
        }
    }

    #[test]
    fn what_is_sent_is_what_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let text = "FROM alpine:3\n";
        std::fs::write(folder.path().join("real"), text).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("Dockerfile")).unwrap();
        std::fs::write(folder.path().join(".dockerignore"), "real\nDockerfile\n").unwrap();
        let looked = look(folder.path(), ("Dockerfile", "Dockerfile"), &CancellationToken::new()).unwrap();
        assert_eq!(looked.text, text);
        assert_eq!(looked.dockerfile, Dockerfile::parse(text).unwrap());
        assert_eq!(looked.files, [PathBuf::from(".dockerignore")]);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let error = look(folder.path(), ("Dockerfile", "Dockerfile"), &cancel).err().unwrap();
        assert!(error.to_string().contains("cancelled"), "{error}");
    }

    #[test]
    fn an_image_of_which_nothing_came_is_removed_and_the_one_before_stays() {
        let repository = AppId::new();
        let image = |digit: &str| {
            let id = format!("sha256:{}", digit.repeat(64)).parse().unwrap();
            BuiltImage { id, repository, service: None }
        };
        let before = || vec![image("1"), image("2")];
        assert_eq!(unneeded(before(), image("3"), true), before());
        assert_eq!(unneeded(before(), image("1"), true), [image("2")]);
        assert_eq!(unneeded(before(), image("3"), false), [image("3")]);
        assert!(unneeded(before(), image("1"), false).is_empty());
    }

    #[test]
    fn only_images_of_services_that_have_gone_are_of_others() {
        let of = |service: Option<&str>| BuiltImage {
            id: format!("sha256:{}", "1".repeat(64)).parse().unwrap(),
            repository: AppId::new(),
            service: service.map(str::to_owned),
        };
        let services = HashSet::from(["web"]);
        assert!(is_of_others(&of(Some("old")), &services));
        assert!(!is_of_others(&of(Some("web")), &services));
        assert!(!is_of_others(&of(None), &services), "a preview of one app may be about to save it");
        assert!(is_of_others(&of(Some("web")), &HashSet::new()));
    }

    #[test]
    fn a_control_plane_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let caches = folder.path().join("build-cache");
        let id = read_or_make_id(&caches).unwrap();
        assert_eq!(read_or_make_id(&caches).unwrap(), id);
        std::fs::write(caches.join(ID_FILE), "").unwrap();
        assert_ne!(read_or_make_id(&caches).unwrap(), id, "one that was not written to its end is none");
    }

    #[test]
    fn a_build_that_failed_is_told_with_its_last_lines_and_the_way_out() {
        let told =
            |passed| Told { last_lines: vec!["what is wrong".to_owned()], duration: Duration::ZERO, passed };
        let step = |code| ImageBuildError::Step {
            message: format!("returned a non-zero code: {code}"),
            code: Some(code),
        };
        let text = |error: anyhow::Error| {
            let (text, help) = crate::exit::told(&error);
            format!("{text}\n{}", help.unwrap_or_default())
        };
        let said = text(failure(step(7), told(None), BuildNetwork::None));
        assert!(
            said.contains("code: 7") && said.contains("what is wrong") && said.contains("no network"),
            "{said}"
        );
        assert!(!text(failure(step(7), told(None), BuildNetwork::Bridge)).contains("no network"));
        assert!(text(failure(step(137), told(None), BuildNetwork::None)).contains("memory"));
        let much = told(Some(Limit::Output(1 << 20)));
        assert!(
            text(failure(ImageBuildError::Ended, much, BuildNetwork::None)).contains("printed more than")
        );
        let large = SaveError::TooLarge { bytes: 300 << 20 };
        let said = text(not_saved(large, &BuildLimits::default()));
        assert!(said.contains("300 MiB") && said.contains("wharf deploy --image NAME"), "{said}");
    }
}
