//! The life of a container, each verb of which may be repeated.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, NetworkConnectRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures::StreamExt as _;
use tracing::warn;
use wharf_types::InstanceId;

use crate::engine::{Engine, LONG, SHORT, existing};
use crate::error::EngineError;
use crate::image::ImageId;
use crate::run::{Run, create_body, endpoint};
use crate::secret_files;

/// How long a container may take to end after its processes were killed.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// Between tries while the engine is away.
const AWAY_FIRST: Duration = Duration::from_millis(50);
const AWAY_MOST: Duration = Duration::from_secs(2);
/// Between looks at a container that is being removed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Ended {
        /// 128 and more: by a signal.
        code: i32,
        /// Whether one of its processes was killed because all of them had reached the memory limit.
        is_out_of_memory: bool,
        /// What the engine says if it could not run it.
        error: Option<String>,
    },
    /// Somebody else has removed it.
    Gone,
}

/// What it took to stop a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It had ended before, or did in time.
    ByItself,
    /// It did not end within the grace.
    Killed,
}

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("`{name}` of the container: {problem}")]
    Setting { name: &'static str, problem: String },
    #[error("the Docker engine refuses the container's settings: {message}")]
    Refused { message: String },
    #[error("the container's command cannot be run: {message}")]
    Command { message: String },
    #[error(
        "the container's user is not in its image: {message}; name one of its `/etc/passwd`, or a number, in `container.user`"
    )]
    User { message: String },
    #[error("the image {image} is not in the Docker engine any more")]
    ImageGone { image: ImageId },
    #[error("a network of the container is not in the Docker engine any more: {message}")]
    NetworkGone { message: String },
    #[error("a container named {name} is there that belongs to somebody else: remove it, or rename it")]
    NameTaken { name: String },
    #[error("could not prepare the folder {folder} of a volume", folder = folder.display())]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{folder} is on a disk, and files made of secrets must be in memory only: mount a tmpfs there, or choose a folder below /run",
        folder = folder.display()
    )]
    NotInMemory { folder: PathBuf },
    #[error("could not write {path} for the container", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl RunError {
    /// Whether the same call may succeed later without anyone changing the app.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_retryable(),
            Self::ImageGone { .. } | Self::NetworkGone { .. } | Self::Folder { .. } | Self::File { .. } => {
                true
            }
            Self::Setting { .. }
            | Self::Refused { .. }
            | Self::Command { .. }
            | Self::User { .. }
            | Self::NameTaken { .. }
            | Self::NotInMemory { .. } => false,
        }
    }
}

pub(crate) fn name_of(id: InstanceId) -> String {
    format!("wharf-{id}")
}

/// Of the container through which the instance's image is looked into.
pub(crate) fn look_name(id: InstanceId) -> String {
    format!("wharf-{id}-look")
}

impl Engine {
    /// Makes a container and starts it. One that was made before is started; one that runs or has ended is left as it is, so that
    /// an instance is never run twice.
    pub async fn create_and_start(&self, run: &Run<'_>) -> Result<(), RunError> {
        let name = name_of(run.id);
        if let Some(found) = self.inspect(&name).await? {
            if !self.is_ours(labels_of(&found)) {
                return Err(RunError::NameTaken { name });
            }
            if status(&found) != ContainerStateStatusEnum::CREATED {
                return Ok(());
            }
            // What was made by a try that was cut off may lack networks or files: it is made again.
            self.remove_container(&name).await?;
        }
        self.create(run, &name).await?;
        self.join_networks(run, &name).await?;
        let started = self.call("start the container", LONG, self.docker.start_container(&name, None)).await;
        started.map_err(why_not_started)
    }

    async fn create(&self, run: &Run<'_>, name: &str) -> Result<(), RunError> {
        // Refused before anything is made.
        create_body(run, &self.settings.platform, Vec::new())?;
        self.prepare_folders(run).await?;
        let files = secret_files::write(&self.settings.files, run.id, &run.files)?;
        let body = create_body(run, &self.settings.platform, files)?;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        match self.call("make the container", LONG, self.docker.create_container(Some(options), body)).await {
            Ok(created) => {
                for warning in created.warnings {
                    warn!(instance.id = %run.id, "the Docker engine says of instance {}: {warning}", run.id);
                }
                Ok(())
            }
            Err(EngineError::NotFound { message, .. }) if message.contains("network") => {
                Err(RunError::NetworkGone { message })
            }
            Err(EngineError::NotFound { .. }) => Err(RunError::ImageGone { image: run.image }),
            Err(EngineError::Refused { status: 409, .. }) => {
                Err(RunError::NameTaken { name: name.to_owned() })
            }
            Err(EngineError::Refused { status: 400, message, .. }) => Err(RunError::Refused { message }),
            Err(error) => Err(error.into()),
        }
    }

    /// The networks after the first, which the container was made in.
    async fn join_networks(&self, run: &Run<'_>, name: &str) -> Result<(), RunError> {
        if run.spec.host_network {
            return Ok(());
        }
        for join in run.networks.iter().skip(1) {
            let request =
                NetworkConnectRequest { container: name.to_owned(), endpoint_config: Some(endpoint(join)?) };
            let network = join.network.to_string();
            let joined = self.docker.connect_network(&network, request);
            match self.call("join a network", LONG, joined).await {
                Err(EngineError::NotFound { message, .. }) => {
                    return Err(RunError::NetworkGone { message });
                }
                joined => joined?,
            }
        }
        Ok(())
    }

    /// Waits until a container has ended, for as long as that takes. While the engine is away it waits for that, too.
    pub async fn wait(&self, id: InstanceId) -> Exit {
        let name = name_of(id);
        let mut pause = AWAY_FIRST;
        loop {
            match self.wait_once(&name).await {
                Ok(Some(exit)) => return exit,
                Ok(None) => pause = AWAY_FIRST,
                Err(error) => {
                    if pause == AWAY_FIRST {
                        warn!(instance.id = %id, "instance {id} is not followed until the Docker engine answers: {error}");
                    }
                    pause = (pause * 2).min(AWAY_MOST);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// None: the engine has stopped waiting before the container has ended.
    async fn wait_once(&self, name: &str) -> Result<Option<Exit>, EngineError> {
        let Some(found) = self.inspect(name).await? else { return Ok(Some(Exit::Gone)) };
        if let Some(exit) = exit_of(&found) {
            return Ok(Some(exit));
        }
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        // However this ends, the container itself says what happened.
        drop(self.docker.wait_container(name, Some(options)).next().await);
        let Some(found) = self.inspect(name).await? else { return Ok(Some(Exit::Gone)) };
        Ok(exit_of(&found))
    }

    /// Sends a container its stop signal, and kills it if it has not ended after `grace`.
    pub async fn stop(&self, id: InstanceId, grace: Duration) -> Result<Stopped, EngineError> {
        let name = name_of(id);
        let Some(found) = self.inspect(&name).await? else { return Ok(Stopped::ByItself) };
        let runs = status(&found) != ContainerStateStatusEnum::CREATED && exit_of(&found).is_none();
        if !runs || !self.is_ours(labels_of(&found)) {
            return Ok(Stopped::ByItself);
        }
        if !grace.is_zero() {
            let signal = found.config.and_then(|config| config.stop_signal).filter(|it| !it.is_empty());
            self.kill(&name, signal.as_deref().unwrap_or("SIGTERM")).await?;
            if tokio::time::timeout(grace, self.wait(id)).await.is_ok() {
                return Ok(Stopped::ByItself);
            }
        }
        self.kill(&name, "SIGKILL").await?;
        let ended = tokio::time::timeout(KILL_LIMIT, self.wait(id)).await;
        let silent = EngineError::Silent { doing: "kill the container", limit: KILL_LIMIT };
        ended.map(|_| Stopped::Killed).map_err(|_| silent)
    }

    async fn kill(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.call("signal the container", SHORT, self.docker.kill_container(name, Some(options))).await
        {
            // 409: it does not run any more.
            Ok(()) | Err(EngineError::NotFound { .. } | EngineError::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a container with whatever it has made outside its volumes, running or not, and its files in memory.
    pub async fn remove(&self, id: InstanceId) -> Result<(), EngineError> {
        for name in [name_of(id), look_name(id)] {
            if let Some(found) = self.inspect(&name).await?
                && self.is_ours(labels_of(&found))
            {
                self.remove_container(&name).await?;
            }
        }
        if let Err(error) = secret_files::remove(&self.settings.files, id) {
            warn!(instance.id = %id, "could not remove the files of instance {id}: {error}");
        }
        Ok(())
    }

    /// Returns when it is gone, whoever removes it.
    pub(crate) async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        let doing = "remove the container";
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.call(doing, LONG, self.docker.remove_container(name, Some(options))).await {
            Ok(()) | Err(EngineError::NotFound { .. }) => return Ok(()),
            // Somebody is at it.
            Err(EngineError::Refused { status: 409, .. }) => {}
            Err(error) => return Err(error),
        }
        let gone = async {
            while self.inspect(name).await?.is_some() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        let silent = EngineError::Silent { doing, limit: LONG };
        tokio::time::timeout(LONG, gone).await.unwrap_or(Err(silent))
    }

    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, EngineError> {
        existing(self.call("look at the container", SHORT, self.docker.inspect_container(name, None)).await)
    }
}

pub(crate) fn labels_of(found: &ContainerInspectResponse) -> Option<&HashMap<String, String>> {
    found.config.as_ref()?.labels.as_ref()
}

pub(crate) fn status(found: &ContainerInspectResponse) -> ContainerStateStatusEnum {
    let status = found.state.as_ref().and_then(|state| state.status);
    status.unwrap_or(ContainerStateStatusEnum::EMPTY)
}

/// How it ended, if it has.
pub(crate) fn exit_of(found: &ContainerInspectResponse) -> Option<Exit> {
    let has_ended =
        matches!(status(found), ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD);
    has_ended.then(|| ended(found.state.as_ref()))
}

fn ended(state: Option<&ContainerState>) -> Exit {
    Exit::Ended {
        code: state.and_then(|state| state.exit_code).and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        is_out_of_memory: state.and_then(|state| state.oom_killed).unwrap_or(false),
        error: state.and_then(|state| state.error.clone()).filter(|error| !error.is_empty()),
    }
}

/// What the engine and its runtime call a user or a group that the image does not have.
const NO_SUCH_USER: [&str; 2] = ["unable to find user ", "unable to find group "];

/// A command or a user that is not in the image is refused by the engine or its runtime, in words only.
fn why_not_started(error: EngineError) -> RunError {
    let (EngineError::Refused { message, .. } | EngineError::NotFound { message, .. }) = &error else {
        return error.into();
    };
    let message = message.clone();
    if message.starts_with("network ") && message.ends_with(" not found") {
        return RunError::NetworkGone { message };
    }
    if NO_SUCH_USER.iter().any(|words| message.contains(words)) {
        return RunError::User { message };
    }
    let is_about_command = message.contains("exec: ") || message.contains("exec format error");
    if is_about_command {
        return RunError::Command { message };
    }
    if message.contains("OCI runtime create failed") || message.contains("invalid mount") {
        return RunError::Refused { message };
    }
    error.into()
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("somebody has removed the container"),
            Self::Ended { error: Some(error), .. } => write!(f, "the container could not be run: {error}"),
            Self::Ended { is_out_of_memory: true, .. } => {
                f.write_str("the container's processes used more memory than its limit, and were killed")
            }
            Self::Ended { code: code @ 129..=192, .. } => {
                write!(f, "the container's command was ended by signal {}", code - 128)
            }
            Self::Ended { code, .. } => write!(f, "the container's command ended with exit code {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of runtimes, as they came.
    #[test]
    fn a_start_fails_for_a_reason() {
        let of =
            |status, message| why_not_started(EngineError::refused("start the container", status, message));
        let missing = "OCI runtime create failed: runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown";
        assert!(matches!(of(400, missing), RunError::Command { .. }));
        let sysctl = "OCI runtime create failed: runc create failed: sysctl \"a.b\" is not in a separate kernel namespace: unknown";
        assert!(matches!(of(400, sysctl), RunError::Refused { .. }));
        for (status, message) in [
            (500, "unable to find user nosuchuser: no matching entries in passwd file"),
            (400, "unable to find group nosuchgroup: no matching entries in group file"),
        ] {
            let error = of(status, message);
            assert!(matches!(error, RunError::User { .. }) && !error.is_retryable(), "{error:?}");
        }
        assert!(of(500, "containerd is not running").is_retryable());
    }

    #[test]
    fn an_end_is_said_in_words() {
        let ended = |code, is_out_of_memory| Exit::Ended { code, is_out_of_memory, error: None }.to_string();
        assert!(ended(137, true).contains("more memory"));
        assert!(ended(143, false).contains("signal 15"));
        assert!(ended(3, false).contains("exit code 3"));
    }
}
