//! Images: which one a reference means, and how it gets into the engine.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error as ClientError;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures::StreamExt as _;
use tokio::time::Instant;
use wharf_types::Digest;
use wharf_types::digest::InvalidDigest;
use wharf_types::image::{ImageDocument, ImagePin, ImageReference, InvalidReference, Platform};
use wharf_types::secret::SecretValue;

use crate::archive::{self, ArchiveError};
use crate::engine::{Engine, LONG, SHORT, existing};
use crate::error::{EngineError, bounded};
use crate::pull::{PullProgress, Tally};

/// A registry that has not said within this time what a reference means is taken to be away.
const REGISTRY_LIMIT: Duration = Duration::from_secs(20);

/// An image in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageId(Digest);

/// What a registry asks for before it gives an image.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub username: String,
    pub password: SecretValue,
}

/// A text that is not what a registry could be asked with; what it is stays unsaid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the login of a registry is written as USER:PASSWORD")]
pub struct InvalidCredentials;

/// What an image says of how it is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// Empty: root.
    pub user: String,
    pub workdir: String,
    /// Such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Folders that the image wants to be kept.
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub health: Option<ImageHealth>,
}

/// An image's `HEALTHCHECK`. What is None has the default of whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHealth {
    /// A command of the shell is already given to `/bin/sh -c`.
    pub command: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
    pub retries: Option<u32>,
}

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    #[error("the registry {registry} has no image `{image}`: {message}")]
    NotFound { image: String, registry: String, message: String },
    #[error(
        "the registry {registry} has no more the image `{image}` that was deployed, and this node has not kept it: push it again, and deploy"
    )]
    Vanished { image: String, registry: String },
    #[error(
        "the registry {registry} gives nobody `{image}` without the right credentials, or does not have it: {message}"
    )]
    Denied { image: String, registry: String, message: String },
    #[error("the registry {registry} gives this node nothing more for now: {message}")]
    RateLimited { registry: String, message: String },
    #[error("the registry {registry} cannot be reached from this node's Docker engine: {message}")]
    RegistryAway { registry: String, message: String },
    #[error("the registry {registry} does not answer: nothing of `{image}` came within {limit:?}")]
    Stalled { image: String, registry: String, limit: Duration },
    #[error(
        "`{image}` is for {image_platforms}, and this node's Docker engine runs {engine_platform}: build it for that platform as well"
    )]
    OtherPlatform { image: String, image_platforms: String, engine_platform: String },
    #[error(
        "`{image}` was only in the Docker engine where it was built, and not in that of this node: push it to a registry, or deploy an archive of `docker save`"
    )]
    OnlyElsewhere { image: String },
    #[error("the Docker engine has no room for `{image}`: {message}")]
    DiskFull { image: String, message: String },
    #[error("could not load the archive of an image")]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ImageError {
    /// Whether the same call may succeed later without anyone changing the app.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::RegistryAway { .. }
            | Self::Stalled { .. }
            | Self::DiskFull { .. } => true,
            Self::Engine(error) => error.is_retryable(),
            Self::Archive(error) => error.is_retryable(),
            Self::Reference(_)
            | Self::NotFound { .. }
            | Self::Vanished { .. }
            | Self::Denied { .. }
            | Self::OtherPlatform { .. }
            | Self::OnlyElsewhere { .. } => false,
        }
    }
}

impl Engine {
    /// Settles what a reference means now. An image that was built here and that no registry has is pinned by its ID.
    pub async fn resolve(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<ImageDocument, ImageError> {
        if let Ok(id) = reference.parse::<Digest>() {
            let found = self.inspect_image(&id.to_string()).await?;
            let found = found.ok_or_else(|| ImageError::OnlyElsewhere { image: reference.to_owned() })?;
            return Ok(only_here(reference, &found)?);
        }
        let parsed: ImageReference = reference.parse()?;
        let here = self.inspect_image(&parsed.to_string()).await?;
        if let Some(image) = here.as_ref().filter(|image| never_had_registry(image, &parsed)) {
            return Ok(only_here(reference, image)?);
        }
        let name = parsed.to_string();
        let asked = self.docker.inspect_registry_image(&name, credentials.map(|it| it.for_registry(&parsed)));
        let answer = match tokio::time::timeout(REGISTRY_LIMIT, asked).await {
            Ok(answer) => answer.map_err(|error| self.registry_error(&parsed, error)),
            Err(_) => Err(stalled(&parsed, REGISTRY_LIMIT)),
        };
        match (answer, here) {
            (Ok(answer), _) => {
                let digest = answer.descriptor.digest.unwrap_or_default();
                Ok(ImageDocument {
                    image: reference.to_owned(),
                    pin: ImagePin::Digest(digest.parse().map_err(not_understood)?),
                    platforms: answer.platforms.into_iter().filter_map(platform_of).collect(),
                })
            }
            // An engine that keeps images as registries do cannot tell one that was only built here until the registry was asked.
            (Err(ImageError::NotFound { .. } | ImageError::Denied { .. }), Some(image)) => {
                Ok(only_here(reference, &image)?)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Makes an image be in the engine: it is there, or pulled by its digest. Gives up when nothing has come for `stalled_after`.
    pub async fn ensure(
        &self,
        document: &ImageDocument,
        credentials: Option<&Credentials>,
        stalled_after: Duration,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<ImageId, ImageError> {
        let image = &document.image;
        let found = match document.pin {
            ImagePin::Id(id) => {
                let found = self.inspect_image(&id.to_string()).await?;
                found.ok_or_else(|| ImageError::OnlyElsewhere { image: image.clone() })?
            }
            ImagePin::Digest(digest) => {
                let reference = image.parse::<ImageReference>()?.at(digest);
                match self.inspect_image(&reference.to_string()).await? {
                    Some(found) => found,
                    None => {
                        self.check_platform(image, &document.platforms).await?;
                        let pulled = self.fetch(&reference, credentials, stalled_after, progress).await;
                        pulled.map_err(|error| match error {
                            ImageError::NotFound { .. } => vanished(&reference),
                            error => error,
                        })?;
                        let found = self.inspect_image(&reference.to_string()).await?;
                        found.ok_or_else(|| vanished(&reference))?
                    }
                }
            }
        };
        self.check_platform(image, built_for(&found).as_slice()).await?;
        Ok(id_of(&found)?)
    }

    /// Whether an image is in the engine already.
    pub async fn has(&self, document: &ImageDocument) -> Result<bool, ImageError> {
        Ok(self.inspect_image(&name_of(document)?).await?.is_some())
    }

    /// The ports that an image exposes, such as `80/tcp`. None: the engine does not have it.
    pub async fn exposed_ports(&self, document: &ImageDocument) -> Result<Option<Vec<String>>, ImageError> {
        let found = self.inspect_image(&name_of(document)?).await?;
        Ok(found.map(|found| read_config(found.config.unwrap_or_default()).exposed_ports))
    }

    /// Whether no name of an image, and no second digest, says that somebody else has brought or made it.
    pub async fn is_nobody_elses(&self, image: ImageId) -> Result<bool, EngineError> {
        let Some(found) = self.inspect_image(&image.to_string()).await? else { return Ok(true) };
        let digests = found.repo_digests.iter().flatten().count();
        Ok(digests <= 1 && found.repo_tags.iter().flatten().all(|tag| archive::is_our_name(tag)))
    }

    /// What the image says of how it is to be run.
    pub async fn image_config(&self, image: ImageId) -> Result<ImageConfig, ImageError> {
        let found = self.inspect_image(&image.to_string()).await?;
        let found = found.ok_or_else(|| ImageError::OnlyElsewhere { image: image.to_string() })?;
        Ok(read_config(found.config.unwrap_or_default()))
    }

    /// Removes an image, unless a container was made of it or somebody has given it a name. Returns whether it has gone.
    pub async fn remove_image(&self, image: ImageId) -> Result<bool, EngineError> {
        let name = image.to_string();
        let Some(found) = self.inspect_image(&name).await? else { return Ok(true) };
        if found.repo_tags.iter().flatten().any(|tag| !archive::is_our_name(tag)) {
            return Ok(false);
        }
        // Force takes it also from a container that does not run, which could not be started again.
        let of_it = HashMap::from([("ancestor".to_owned(), vec![name.clone()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&of_it).build();
        let containers = self.docker.list_containers(Some(options));
        if !self.call("list containers", SHORT, containers).await?.is_empty() {
            return Ok(false);
        }
        // By force, because it may be known by several digests.
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let removed = self.docker.remove_image(&name, Some(options), None);
        match self.call("remove the image", LONG, removed).await {
            Ok(_) | Err(EngineError::NotFound { .. }) => Ok(true),
            Err(EngineError::Refused { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        existing(self.call("look at the image", SHORT, self.docker.inspect_image(name)).await)
    }

    pub(crate) async fn check_platform(&self, image: &str, platforms: &[Platform]) -> Result<(), ImageError> {
        if platforms.is_empty() {
            return Ok(());
        }
        let engine = self.info().await?.platform;
        if platforms.iter().any(|platform| engine.executes(platform)) {
            return Ok(());
        }
        let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        Err(ImageError::OtherPlatform {
            image: image.to_owned(),
            image_platforms: names.join(", "),
            engine_platform: engine.to_string(),
        })
    }

    /// Pulls an image.
    pub(crate) async fn fetch(
        &self,
        reference: &ImageReference,
        credentials: Option<&Credentials>,
        stalled_after: Duration,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<(), ImageError> {
        let options = CreateImageOptionsBuilder::new().from_image(&reference.to_string()).build();
        let credentials = credentials.map(|it| it.for_registry(reference));
        let mut said = self.docker.create_image(Some(options), None, credentials);
        let (mut tally, mut further_at) = (Tally::default(), Instant::now());
        loop {
            // Dropping the stream is what makes the engine end the pull.
            let next = tokio::time::timeout_at(further_at + stalled_after, said.next()).await;
            match next.map_err(|_| stalled(reference, stalled_after))? {
                None => return Ok(()),
                Some(Err(error)) => return Err(self.registry_error(reference, error)),
                Some(Ok(info)) => {
                    if tally.take(&info) {
                        further_at = Instant::now();
                        progress(tally.progress());
                    }
                }
            }
        }
    }

    fn registry_error(&self, reference: &ImageReference, error: ClientError) -> ImageError {
        let (status, message) = match error {
            ClientError::DockerResponseServerError { status_code, message } => (status_code, message),
            ClientError::DockerStreamError { error } => (500, error),
            error => return self.error("ask the registry", error).into(),
        };
        classify(reference, status, &message)
    }
}

/// By which name the engine knows an image.
fn name_of(document: &ImageDocument) -> Result<String, ImageError> {
    Ok(match document.pin {
        ImagePin::Id(id) => id.to_string(),
        ImagePin::Digest(digest) => document.image.parse::<ImageReference>()?.at(digest).to_string(),
    })
}

/// What a registry's answer means. The engine passes it on as a text, and mostly with status 500.
pub(crate) fn classify(reference: &ImageReference, status: u16, message: &str) -> ImageError {
    let (image, registry) = (reference.to_string(), reference.registry().to_owned());
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let message_of = || bounded(message);
    if has(&["no space left on device"]) {
        return ImageError::DiskFull { image, message: message_of() };
    }
    if has(&["toomanyrequests", "Too Many Requests"]) {
        return ImageError::RateLimited { registry, message: message_of() };
    }
    if has(&["denied", "unauthorized", "authentication required", "no basic auth credentials"])
        || matches!(status, 401 | 403)
    {
        return ImageError::Denied { image, registry, message: message_of() };
    }
    if has(&["dial tcp", "i/o timeout", "no such host", "TLS", "x509", "connection re", "EOF", "deadline"]) {
        return ImageError::RegistryAway { registry, message: message_of() };
    }
    if has(&["manifest unknown", "not found", "no matching manifest", "name unknown"]) || status == 404 {
        return ImageError::NotFound { image, registry, message: message_of() };
    }
    ImageError::RegistryAway { registry, message: message_of() }
}

fn vanished(reference: &ImageReference) -> ImageError {
    ImageError::Vanished { image: reference.to_string(), registry: reference.registry().to_owned() }
}

fn stalled(reference: &ImageReference, limit: Duration) -> ImageError {
    ImageError::Stalled { image: reference.to_string(), registry: reference.registry().to_owned(), limit }
}

/// Whether no registry has given or taken the image by this name; by another one it may have been pushed elsewhere.
fn never_had_registry(image: &ImageInspect, reference: &ImageReference) -> bool {
    let is_it = |other: ImageReference| other.repository() == reference.repository();
    let digests = image.repo_digests.iter().flatten();
    digests.filter_map(|digest| digest.parse().ok()).all(|other| !is_it(other))
}

fn only_here(reference: &str, image: &ImageInspect) -> Result<ImageDocument, EngineError> {
    Ok(ImageDocument {
        image: reference.to_owned(),
        pin: ImagePin::Id(id_of(image)?.0),
        platforms: built_for(image),
    })
}

pub(crate) fn id_of(image: &ImageInspect) -> Result<ImageId, EngineError> {
    image.id.as_deref().unwrap_or_default().parse().map_err(not_understood)
}

fn not_understood(error: InvalidDigest) -> EngineError {
    EngineError::refused("look at the image", 500, &error.to_string())
}

pub(crate) fn built_for(image: &ImageInspect) -> Vec<Platform> {
    let platform = |architecture: &String| Platform {
        os: image.os.clone().unwrap_or_default(),
        architecture: architecture.clone(),
        variant: image.variant.clone().filter(|variant| !variant.is_empty()),
    };
    image.architecture.iter().filter(|architecture| !architecture.is_empty()).map(platform).collect()
}

/// Lists of manifests also name what is no image, such as how it was built, as of an unknown platform.
fn platform_of(platform: bollard::models::OciPlatform) -> Option<Platform> {
    let (os, architecture) = (platform.os?, platform.architecture?);
    let is_known = !os.is_empty() && os != "unknown" && !architecture.is_empty();
    let variant = platform.variant.filter(|variant| !variant.is_empty());
    is_known.then_some(Platform { os, architecture, variant })
}

pub(crate) fn read_config(config: bollard::models::ImageConfig) -> ImageConfig {
    ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        workdir: config.working_dir.unwrap_or_default(),
        exposed_ports: config.exposed_ports.unwrap_or_default(),
        volumes: config.volumes.unwrap_or_default(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        health: config.healthcheck.and_then(read_health),
    }
}

fn read_health(health: bollard::models::HealthConfig) -> Option<ImageHealth> {
    let mut words = health.test?.into_iter();
    let command = match words.next()?.as_str() {
        "CMD" => words.collect(),
        "CMD-SHELL" => ["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(words).collect(),
        _ => return None,
    };
    let span = |nanos: Option<i64>| {
        nanos.and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    };
    Some(ImageHealth {
        command,
        interval: span(health.interval),
        timeout: span(health.timeout),
        start_period: span(health.start_period),
        start_interval: span(health.start_interval),
        retries: health
            .retries
            .and_then(|retries| u32::try_from(retries).ok())
            .filter(|retries| *retries > 0),
    })
}

impl Credentials {
    /// Reads `USER:PASSWORD`. A line end after it, as an editor leaves it, is no part of it.
    pub fn parse(text: &str) -> Result<Self, InvalidCredentials> {
        let text = text.trim_end_matches(['\n', '\r']);
        let (username, password) = text.split_once(':').ok_or(InvalidCredentials)?;
        if username.is_empty() || password.is_empty() {
            return Err(InvalidCredentials);
        }
        Ok(Self { username: username.to_owned(), password: password.to_owned().into() })
    }

    fn for_registry(&self, reference: &ImageReference) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.reveal().to_owned()),
            serveraddress: Some(reference.registry().to_owned()),
            ..DockerCredentials::default()
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ImageId {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_pushed_by_another_name_is_still_this_engines() {
        let image = |digests: &[&str]| ImageInspect {
            repo_digests: Some(digests.iter().map(|it| format!("{it}@sha256:{}", "0".repeat(64))).collect()),
            ..Default::default()
        };
        let never =
            |digests: &[&str], name: &str| never_had_registry(&image(digests), &name.parse().unwrap());
        assert!(never(&[], "web:1") && never(&["127.0.0.1:5000/web"], "web:1"));
        assert!(
            !never(&["127.0.0.1:5000/web", "web"], "web:2") && !never(&["web"], "docker.io/library/web:1")
        );
    }

    #[test]
    fn a_login_has_a_user_and_a_password() {
        let login = Credentials::parse("ann:a:b\r\n").unwrap();
        assert_eq!((login.username.as_str(), login.password.reveal()), ("ann", "a:b"));
        for text in ["", "ann", "ann:", ":b", "\n"] {
            assert!(Credentials::parse(text).is_err(), "{text}");
        }
        assert!(!format!("{login:?}").contains("a:b"));
    }

    /// Words of registries and engines, as they came.
    #[test]
    fn a_registrys_answer_is_told_by_its_words() {
        let reference: ImageReference = "registry:5000/a:1".parse().unwrap();
        let kind = |status, message: &str| match classify(&reference, status, message) {
            ImageError::NotFound { .. } => "not found",
            ImageError::Denied { .. } => "denied",
            ImageError::RateLimited { .. } => "rate limited",
            ImageError::RegistryAway { .. } => "away",
            ImageError::DiskFull { .. } => "disk full",
            _ => "other",
        };
        for (status, message, expected) in [
            (
                404,
                "manifest for registry:5000/a:1 not found: manifest unknown: manifest unknown",
                "not found",
            ),
            (500, "no matching manifest for linux/amd64 in the manifest list entries", "not found"),
            (
                404,
                "pull access denied for a, repository does not exist or may require 'docker login': denied",
                "denied",
            ),
            (401, "unauthorized: authentication required", "denied"),
            (500, "Head \"http://registry:5000/v2/a/manifests/1\": no basic auth credentials", "denied"),
            (500, "toomanyrequests: You have reached your pull rate limit.", "rate limited"),
            (
                500,
                "Get \"http://registry:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
                "away",
            ),
            (500, "Get \"https://registry:5000/v2/\": dial tcp: lookup registry: no such host", "away"),
            (500, "failed to register layer: write /x: no space left on device", "disk full"),
            (500, "received unexpected HTTP status: 502 Bad Gateway", "away"),
        ] {
            assert_eq!(kind(status, message), expected, "{message}");
        }
    }

    #[test]
    fn a_shells_health_check_becomes_a_command() {
        let health = |test: &[&str]| {
            let test = Some(test.iter().map(|&word| word.to_owned()).collect());
            read_health(bollard::models::HealthConfig { test, ..Default::default() }).map(|it| it.command)
        };
        assert_eq!(health(&["CMD", "check", "-x"]), Some(vec!["check".into(), "-x".into()]));
        let shell = vec!["/bin/sh".into(), "-c".into(), "check -x".into()];
        assert_eq!(health(&["CMD-SHELL", "check -x"]), Some(shell));
        assert_eq!(health(&["NONE"]), None);
        assert_eq!(health(&[]), None);
    }
}
