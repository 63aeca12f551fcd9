//! The connection to the engine.
//!
//! There is no connection to keep: each call opens what it needs, so an engine that went away and came back is used again by the next
//! call, and nothing runs here between calls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as ClientError;
use bollard::{API_DEFAULT_VERSION, Docker};
use http::HeaderValue;
use wharf_types::image::Platform;

use crate::error::{EngineError, OLDEST_API};
use crate::labels;

/// For what the engine answers from its memory.
pub(crate) const SHORT: Duration = Duration::from_secs(10);
/// For what it does on a disk that may be slow, or in the kernel.
pub(crate) const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Such as `/var/run/docker.sock`.
    pub socket: PathBuf,
    /// Which platform and node this is. What carries another is somebody else's.
    pub platform: String,
    /// A folder in memory (tmpfs), such as `/run/wharf/files`, for the files that containers are given. It is made if missing.
    pub files: PathBuf,
}

/// A Docker engine, and what one platform has in it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    pub(crate) settings: Arc<Settings>,
    /// The engine makes two networks of the same name if it is asked twice at once.
    pub(crate) making_network: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    pub version: String,
    pub api: String,
    pub platform: Platform,
    /// 1 or 2.
    pub cgroup_version: u8,
    pub storage_driver: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Whether containers go on while the engine is restarted.
    pub live_restore: bool,
}

impl Engine {
    /// Fails where no engine answers, or one that is too old.
    pub async fn connect(settings: Settings) -> Result<Self, EngineError> {
        let socket = settings.socket.to_string_lossy();
        // The client's own limit is for the head of an answer only, and would cut off what follows a log that is quiet.
        let no_limit = Duration::from_secs(365 * 86_400).as_secs();
        let docker = Docker::connect_with_unix(&socket, no_limit, API_DEFAULT_VERSION)
            .map_err(|error| EngineError::of("connect", &settings.socket, error))?
            .with_request_modifier(|mut request| {
                if let Some(header) = request.headers_mut().get_mut("x-registry-auth") {
                    *header = url_safe(header);
                }
                request
            });
        let engine = Self { docker, settings: Arc::new(settings), making_network: Arc::default() };
        engine.info().await?;
        Ok(engine)
    }

    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let doing = "ask for its version";
        let version = self.call(doing, SHORT, self.docker.version()).await?;
        let api = version.api_version.unwrap_or_default();
        let engine_version = version.version.unwrap_or_default();
        if parts(&api) < parts(OLDEST_API) {
            return Err(EngineError::TooOld { version: engine_version, api });
        }
        let info = self.call("ask for its state", SHORT, self.docker.info()).await?;
        Ok(EngineInfo {
            version: engine_version,
            api,
            platform: Platform {
                os: version.os.unwrap_or_default(),
                architecture: version.arch.unwrap_or_default(),
                variant: None,
            },
            cgroup_version: match info.cgroup_version {
                Some(bollard::models::SystemInfoCgroupVersionEnum::_2) => 2,
                _ => 1,
            },
            storage_driver: info.driver.unwrap_or_default(),
            cpus: info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(0),
            memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            live_restore: info.live_restore_enabled.unwrap_or(false),
        })
    }

    /// One call, which ends within `limit`.
    pub(crate) async fn call<T>(
        &self,
        doing: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| self.error(doing, error)),
            Err(_) => Err(EngineError::Silent { doing, limit }),
        }
    }

    pub(crate) fn error(&self, doing: &'static str, error: ClientError) -> EngineError {
        EngineError::of(doing, &self.settings.socket, error)
    }

    /// Chooses, of containers or networks, what this platform has made.
    pub(crate) fn ours(&self) -> HashMap<String, Vec<String>> {
        let label = format!("{}={}", labels::PLATFORM, self.settings.platform);
        HashMap::from([("label".to_owned(), vec![label])])
    }

    pub(crate) fn is_ours(&self, found: Option<&HashMap<String, String>>) -> bool {
        found.and_then(|labels| labels.get(labels::PLATFORM)) == Some(&self.settings.platform)
    }
}

/// Turns a 404 into `None`.
pub(crate) fn existing<T>(answer: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(EngineError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `1.9` is older than `1.41`.
fn parts(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The client writes credentials in the alphabet of Base64 that the engine does not read: with `+` and `/`, which it takes for no
/// credentials at all.
fn url_safe(header: &HeaderValue) -> HeaderValue {
    let octets = header.as_bytes().iter().map(|octet| match octet {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    });
    let mut value = HeaderValue::from_bytes(&octets.collect::<Vec<u8>>()).unwrap_or_else(|_| header.clone());
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(parts("1.9") < parts(OLDEST_API));
        assert!(parts("1.100") > parts(OLDEST_API));
        assert!(parts("") < parts(OLDEST_API));
    }

    #[test]
    fn credentials_are_written_in_the_engines_alphabet() {
        assert_eq!(url_safe(&HeaderValue::from_static("a+b/c=")), "a-b_c=");
    }
}
