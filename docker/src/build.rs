//! Images that the engine builds of a folder, of strangers as well.
//!
//! It is the engine's own builder of old that is used, because it needs nothing beside the engine, ends with its connection, and takes from its cache
//! only what the image before was made of. A build has no other network than the one that it is given, and bounds for each of its steps.
//! What the engine reads or fetches itself, such as the images that a Dockerfile begins with, is up to whoever calls: see [`Engine::ensure_base`].

mod context;
pub(crate) mod said;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use bollard::errors::Error as ClientError;
use bollard::query_parameters::{
    BuildImageOptions, InspectContainerOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use wharf_types::image::ImageReference;
use wharf_types::{AppId, Timestamp};

use crate::engine::{Engine, LONG, SHORT, existing};
use crate::error::{EngineError, bounded};
use crate::image::{ImageError, ImageId, built_for};
use crate::labels;
use context::{context, dockerfile_name};
use said::{Seen, code_of};

/// Between looks at how much a build has written.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// How long the engine may take to end a step that nobody waits for any more, and between looks at that.
const END_LIMIT: Duration = Duration::from_secs(20);
const END_PERIOD: Duration = Duration::from_millis(100);
/// For one piece of an image that is saved.
const PIECE_LIMIT: Duration = Duration::from_secs(120);
/// What the builder says where it cannot take steps from an image after all.
const NOT_RESTORED: &str = "failed to restore cached image";
const CPU_PERIOD_MICROS: i32 = 100_000;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct ImageBuild {
    pub folder: PathBuf,
    /// What of the folder is sent, by paths in it, each folder before what is in it.
    pub files: Vec<PathBuf>,
    /// What the Dockerfile says. Nothing in the folder is read in its stead.
    pub dockerfile: String,
    pub args: BTreeMap<String, String>,
    pub owner: BuildOwner,
    /// The only image whose steps are taken for done. None: everything is done anew.
    pub cache: Option<ImageId>,
    pub network: BuildNetwork,
    pub limits: ImageBuildLimits,
}

/// For whom an image was built, as it stands on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOwner {
    /// Which control plane has it built.
    pub builder: String,
    pub repository: AppId,
    /// Of a stack. None: the repository is one app's.
    pub service: Option<String>,
}

/// What the steps of a build may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildNetwork {
    None,
    /// The engine's default network.
    Bridge,
}

/// Bounds of each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageBuildLimits {
    /// Without swap. At most 2 GiB, as the client knows no more.
    pub memory_max_bytes: u32,
    pub cpus: u16,
    /// Looked at now and then, so that it may be passed for a moment.
    pub written_max_bytes: u64,
    /// What has to stay free on the engine's disk, where that can be seen.
    pub disk_free_min_bytes: u64,
}

/// An image that was built here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    pub id: ImageId,
    pub repository: AppId,
    pub service: Option<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageBuildError {
    /// In the engine's words. `code`: how the command of a step ended.
    #[error("{message}")]
    Step { message: String, code: Option<i64> },
    #[error("a step wrote more than {max_bytes} octets")]
    Written { max_bytes: u64 },
    #[error("there are less than {min_bytes} octets left on the engine's disk")]
    DiskFree { min_bytes: u64 },
    /// Whoever wanted it does not any more.
    #[error("it was ended")]
    Ended,
    #[error("could not read the folder that is built")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why an image was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// `bytes` as the engine counts them.
    #[error("the image has {bytes} octets")]
    TooLarge { bytes: u64 },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Engine {
    /// Makes the image that a reference means be in the engine, as it is there or in its registry; returns what it has for those that begin with it
    /// (`ONBUILD`). The builder finds it by the same reference then.
    pub async fn ensure_base(
        &self,
        reference: &str,
        stalled_after: Duration,
        on_pull: &mut (dyn FnMut() + Send),
    ) -> Result<Vec<String>, ImageError> {
        let parsed: ImageReference = reference.parse()?;
        let name = parsed.to_string();
        let found = match self.inspect_image(&name).await? {
            Some(found) => found,
            None => {
                on_pull();
                self.fetch(&parsed, None, stalled_after, &|_| {}).await?;
                let missing = || ImageError::NotFound {
                    image: name.clone(),
                    registry: parsed.registry().to_owned(),
                    message: "it was pulled, and has gone".to_owned(),
                };
                self.inspect_image(&name).await?.ok_or_else(missing)?
            }
        };
        self.check_platform(&name, &built_for(&found)).await?;
        Ok(found.config.and_then(|config| config.on_build).unwrap_or_default())
    }

    /// Builds an image. What the builder says goes to `say` as it comes, which ends the build by breaking off; so does the end of `until`.
    ///
    /// Nothing of a build that came to nothing stays but what other images are made of.
    pub async fn build(
        &self,
        build: &ImageBuild,
        say: &mut (dyn FnMut(&str) -> ControlFlow<()> + Send),
        until: impl Future<Output = ()> + Send,
    ) -> Result<ImageId, ImageBuildError> {
        let mut until = pin!(until);
        let built = self.attempt(build, say, until.as_mut()).await;
        if let (Some(_), Err(ImageBuildError::Step { message, .. })) = (build.cache, &built)
            && message.starts_with(NOT_RESTORED)
        {
            // As where the image to begin with does not say how it was made, and another one was made of it by the same step since.
            let anew = ImageBuild { cache: None, ..build.clone() };
            return self.attempt(&anew, say, until).await;
        }
        built
    }

    async fn attempt(
        &self,
        build: &ImageBuild,
        say: &mut (dyn FnMut(&str) -> ControlFlow<()> + Send),
        until: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<ImageId, ImageBuildError> {
        let since = Timestamp::now();
        let mut seen = Seen::default();
        let built = self.follow(build, &mut seen, say, until).await;
        if built.is_err() {
            self.wait_for_end(&seen).await;
        }
        self.remove_rest(&seen, since, built.as_ref().ok()).await;
        built
    }

    async fn follow(
        &self,
        build: &ImageBuild,
        seen: &mut Seen,
        say: &mut (dyn FnMut(&str) -> ControlFlow<()> + Send),
        mut until: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<ImageId, ImageBuildError> {
        let info = self.call("ask for its state", SHORT, self.docker.info()).await?;
        let root = info.docker_root_dir.map(PathBuf::from);
        let name = dockerfile_name();
        let (content, failed) = context(build, name.clone());
        let body = bollard::body_try_stream(content);
        // Dropping the stream is what makes the engine end the build, with the container of the step that it is at.
        let mut said = self.docker.build_image(options(build, name), None, Some(body));
        let mut look = tokio::time::interval(LOOK_PERIOD);
        let mut image = None;
        loop {
            let next = tokio::select! {
                next = said.next() => next,
                () = &mut until => return Err(ImageBuildError::Ended),
                _ = look.tick() => {
                    check_disk(root.as_deref(), build.limits.disk_free_min_bytes)?;
                    self.check_written(seen, &build.limits).await?;
                    continue;
                }
            };
            let info = match next {
                None => break,
                Some(Ok(info)) => info,
                Some(Err(error)) => {
                    return Err(match failed.lock().ok().and_then(|mut failed| failed.take()) {
                        Some(error) => ImageBuildError::Read(error),
                        None => self.step_error(error),
                    });
                }
            };
            seen.take(&info);
            image = info.aux.and_then(|aux| aux.id).or(image);
            if let Some(text) = info.stream
                && say(&text).is_break()
            {
                return Err(ImageBuildError::Ended);
            }
        }
        let unclear = || {
            EngineError::refused("build the image", 500, "the engine does not say which image it has built")
        };
        Ok(image.and_then(|id| id.parse().ok()).ok_or_else(unclear)?)
    }

    /// Looks at the engine's disk, as while images are pulled, and ends when less than this is left there, or when the engine does not answer.
    pub async fn until_disk_is_low(&self, free_min_bytes: u64) -> ImageBuildError {
        let root = match self.call("ask for its state", SHORT, self.docker.info()).await {
            Ok(info) => info.docker_root_dir.map(PathBuf::from),
            Err(error) => return error.into(),
        };
        let mut look = tokio::time::interval(LOOK_PERIOD);
        loop {
            look.tick().await;
            if let Err(error) = check_disk(root.as_deref(), free_min_bytes) {
                return error;
            }
        }
    }

    /// What the builder says of the Dockerfile or of one of its steps, and not of the engine.
    fn step_error(&self, error: ClientError) -> ImageBuildError {
        let message = match error {
            ClientError::DockerStreamError { error } => error,
            ClientError::DockerResponseServerError { status_code: 400..500, message } => message,
            error => return self.error("build the image", error).into(),
        };
        if message.contains("no space left on device") {
            return EngineError::refused("build the image", 500, &message).into();
        }
        ImageBuildError::Step { code: code_of(&message), message: bounded(&message) }
    }

    async fn check_written(&self, seen: &mut Seen, limits: &ImageBuildLimits) -> Result<(), ImageBuildError> {
        for id in seen.containers.clone() {
            match self.look_at_step(&id).await {
                Ok(None) => seen.containers.retain(|other| *other != id),
                Ok(Some(written)) if written > limits.written_max_bytes => {
                    return Err(ImageBuildError::Written { max_bytes: limits.written_max_bytes });
                }
                // It may be slow to count. The build itself says if the engine is away.
                Ok(Some(_)) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// How much the container of a step has written. None: it has gone.
    async fn look_at_step(&self, id: &str) -> Result<Option<u64>, EngineError> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let looked = self.docker.inspect_container(id, Some(options));
        let found = existing(self.call("look at a step of the build", SHORT, looked).await)?;
        Ok(found.map(|found| found.size_rw.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)))
    }

    /// Waits until the engine has removed the container of the step that it was at, as what that was made of stays until then.
    async fn wait_for_end(&self, seen: &Seen) {
        let gone = async {
            for id in &seen.containers {
                while matches!(self.look_at_step(id).await, Ok(Some(_))) {
                    tokio::time::sleep(END_PERIOD).await;
                }
            }
        };
        let _ = tokio::time::timeout(END_LIMIT, gone).await;
    }

    /// Removes what the steps of a build have left, unless it is part of something. What a step prints may look like an image of it, so only
    /// what nobody has given a name, and what is not older, is taken for that.
    async fn remove_rest(&self, seen: &Seen, since: Timestamp, keep: Option<&ImageId>) {
        for id in seen.images.iter().rev() {
            let Ok(Some(found)) = self.inspect_image(id).await else { continue };
            let is_named = [&found.repo_tags, &found.repo_digests]
                .iter()
                .any(|names| names.iter().flatten().next().is_some());
            let created = found.created.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
            let full = found.id.unwrap_or_default();
            if is_named
                || created.is_none_or(|at| at < since)
                || keep.is_some_and(|keep| keep.to_string() == full)
            {
                continue;
            }
            // What others are made of is refused.
            let options = RemoveImageOptionsBuilder::new().noprune(true).build();
            let _ =
                self.call("remove a step", LONG, self.docker.remove_image(&full, Some(options), None)).await;
        }
    }

    /// The images that were built for a control plane and are still here, the newest first.
    pub async fn built(&self, builder: &str) -> Result<Vec<BuiltImage>, EngineError> {
        let label = format!("{}={builder}", labels::BUILDER);
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let mut found = self.call("list images", SHORT, self.docker.list_images(Some(options))).await?;
        found.sort_by_key(|image| std::cmp::Reverse(image.created));
        let read = |image: &bollard::models::ImageSummary| {
            let repository = image.labels.get(labels::REPOSITORY)?.parse().ok()?;
            let service = image.labels.get(labels::SERVICE).filter(|service| !service.is_empty()).cloned();
            Some(BuiltImage { id: image.id.parse().ok()?, repository, service })
        };
        Ok(found.iter().filter_map(read).collect())
    }

    /// Removes an image that was built here, with what it alone was made of. One with a name is left, as an app may run of it.
    pub async fn remove_built(&self, image: ImageId) -> Result<(), EngineError> {
        let name = image.to_string();
        let found = self.inspect_image(&name).await?;
        if found.is_none_or(|found| found.repo_tags.is_some_and(|tags| !tags.is_empty())) {
            return Ok(());
        }
        let removed = self.docker.remove_image(&name, Some(RemoveImageOptionsBuilder::new().build()), None);
        match self.call("remove the image", LONG, removed).await {
            Ok(_) | Err(EngineError::NotFound { .. } | EngineError::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// An image as an archive, as `docker save` writes it. No more than `max_bytes` are ever held.
    pub async fn save(&self, image: ImageId, max_bytes: u64) -> Result<Bytes, SaveError> {
        let name = image.to_string();
        let mut pieces = self.docker.export_image(&name);
        let mut archive = BytesMut::new();
        while let Some(piece) =
            self.call("save the image", PIECE_LIMIT, async { pieces.next().await.transpose() }).await?
        {
            if archive.len() as u64 + piece.len() as u64 > max_bytes {
                drop(pieces);
                let size = self.inspect_image(&name).await?.and_then(|image| image.size);
                let bytes = size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
                return Err(SaveError::TooLarge { bytes: bytes.max(max_bytes + 1) });
            }
            archive.extend_from_slice(&piece);
        }
        Ok(archive.freeze())
    }
}

fn options(build: &ImageBuild, dockerfile: String) -> BuildImageOptions {
    let limits = &build.limits;
    let memory = i32::try_from(limits.memory_max_bytes).unwrap_or(i32::MAX);
    let owner = &build.owner;
    // All of them, so that none of the Dockerfile's own stays: of a repository that is one app's, the service is empty.
    let labels = [
        (labels::BUILDER, owner.builder.clone()),
        (labels::REPOSITORY, owner.repository.to_string()),
        (labels::SERVICE, owner.service.clone().unwrap_or_default()),
    ];
    let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value));
    let network = match build.network {
        BuildNetwork::None => "none",
        BuildNetwork::Bridge => "bridge",
    };
    BuildImageOptions {
        dockerfile,
        rm: true,
        forcerm: true,
        nocache: build.cache.is_none(),
        cachefrom: build.cache.map(|image| vec![image.to_string()]),
        memory: Some(memory),
        memswap: Some(memory),
        cpuperiod: Some(CPU_PERIOD_MICROS),
        cpuquota: Some(CPU_PERIOD_MICROS * i32::from(limits.cpus)),
        buildargs: Some(build.args.clone().into_iter().collect()),
        labels: Some(labels.collect()),
        networkmode: Some(network.to_owned()),
        ..BuildImageOptions::default()
    }
}

/// Looks at the engine's disk, unless the engine is elsewhere.
fn check_disk(root: Option<&Path>, free_min_bytes: u64) -> Result<(), ImageBuildError> {
    let figures = root.and_then(|root| nix::sys::statvfs::statvfs(root).ok());
    let free = figures.map(|figures| figures.blocks_available().saturating_mul(figures.fragment_size()));
    if free.is_some_and(|free| free < free_min_bytes) {
        return Err(ImageBuildError::DiskFree { min_bytes: free_min_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_on_the_disk_is_seen_where_the_disk_is_seen() {
        let low = check_disk(Some(Path::new("/")), u64::MAX);
        assert!(matches!(low, Err(ImageBuildError::DiskFree { min_bytes: u64::MAX })), "{low:?}");
        assert!(check_disk(Some(Path::new("/")), 0).is_ok());
        assert!(check_disk(None, u64::MAX).is_ok());
    }

    #[test]
    fn an_image_is_built_with_nothing_of_others() {
        let build = ImageBuild {
            folder: PathBuf::new(),
            files: Vec::new(),
            dockerfile: "FROM scratch\n".to_owned(),
            args: BTreeMap::new(),
            owner: BuildOwner { builder: "b".to_owned(), repository: AppId::new(), service: None },
            cache: None,
            network: BuildNetwork::None,
            limits: ImageBuildLimits {
                memory_max_bytes: 1 << 30,
                cpus: 2,
                written_max_bytes: 1,
                disk_free_min_bytes: 1,
            },
        };
        let first = options(&build, ".wharf-1".to_owned());
        assert_eq!(first.dockerfile, ".wharf-1");
        assert!(first.nocache && first.networkmode.as_deref() == Some("none"));
        let given = first.labels.as_ref().unwrap();
        assert_eq!(given.get(labels::SERVICE).map(String::as_str), Some(""), "a Dockerfile may have another");
        assert_eq!(
            (first.memory, first.memswap, first.cpuquota),
            (Some(1 << 30), Some(1 << 30), Some(200_000))
        );
        let image: ImageId = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let next = options(&ImageBuild { cache: Some(image), ..build }, String::new());
        assert_eq!((next.nocache, next.cachefrom), (false, Some(vec![image.to_string()])));
    }
}
