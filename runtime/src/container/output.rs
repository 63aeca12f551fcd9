//! What a container prints, on its way into the app's log.
//!
//! How far somebody has come is written beside the worker's other files about once a second, so that the next process goes on from there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tracing::debug;
use wharf_docker::{Engine, LogMark};
use wharf_types::InstanceId;
use wharf_types::log::LogStream;

use crate::wasm::app::Outputs;

/// How often the mark is written while lines come.
const MARK_PERIOD: Duration = Duration::from_secs(1);
/// Between tries while the engine is away. The first ones come sooner: an engine closes the log of a container a moment before it says that
/// it has ended.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// The folder of the marks.
#[derive(Clone, Debug)]
pub(super) struct Marks(PathBuf);

impl Marks {
    pub(super) fn new(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn file(&self, id: InstanceId) -> PathBuf {
        self.0.join(id.to_string())
    }

    fn read(&self, id: InstanceId) -> LogMark {
        let text = std::fs::read(self.file(id)).unwrap_or_default();
        // A mark that cannot be read makes lines come twice, and none be missing.
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, id: InstanceId, mark: LogMark) {
        if let Ok(text) = serde_json::to_vec(&mark)
            && let Err(error) = std::fs::write(self.file(id), text)
        {
            debug!("could not note how far the log of {id} was read: {error}");
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn forget(&self, id: InstanceId) {
        let _ = std::fs::remove_file(self.file(id));
    }
}

/// Follows a container until it has ended, and all that it printed was read.
pub(super) async fn follow(engine: Engine, id: InstanceId, outputs: Outputs, marks: Marks) {
    let mut mark = marks.read(id);
    let mut written = Instant::now();
    let mut pause = RETRY_FIRST;
    loop {
        let mut lines = engine.follow_logs(id, mark);
        let mut is_over = true;
        while let Some(line) = lines.next().await {
            match line {
                Ok(line) => {
                    let output =
                        if line.stream == LogStream::Stderr { &outputs.stderr } else { &outputs.stdout };
                    output.say(&line.text);
                    mark = line.mark;
                    pause = RETRY_FIRST;
                    if written.elapsed() > MARK_PERIOD {
                        marks.write(id, mark);
                        written = Instant::now();
                    }
                }
                Err(error) => {
                    debug!("the log of instance {id} broke off: {error}");
                    is_over = false;
                    break;
                }
            }
        }
        marks.write(id, mark);
        if is_over && !is_running(&engine, id).await {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

/// An engine that does not answer says nothing about that.
async fn is_running(engine: &Engine, id: InstanceId) -> bool {
    match engine.find(id).await {
        Ok(Some(found)) => found.state == wharf_docker::FoundState::Running,
        Ok(None) => false,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept_until_it_is_forgotten_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (marks, id) = (Marks::new(folder.path().join("marks")).unwrap(), InstanceId::new());
        assert_eq!(marks.read(id), LogMark::default());
        marks.write(id, LogMark::default());
        assert!(marks.file(id).exists());
        std::fs::write(marks.file(id), "{").unwrap();
        assert_eq!(marks.read(id), LogMark::default());
        marks.forget(id);
        assert!(!marks.file(id).exists());
    }
}
