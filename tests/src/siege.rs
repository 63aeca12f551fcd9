//! A platform under attack by one of its apps, with a neighbour that goes on being asked.

use std::time::Duration;

use crate::{Load, Platform, Ran, Reply, eventually};

/// How long a line of an app's log may take to be there.
const FLOODED: std::time::Duration = std::time::Duration::from_secs(240);

/// How long memory may take to go back to the system, which the allocator does at its leisure.
const MEMORY_LIMIT: Duration = Duration::from_secs(30);

/// Answers that the neighbour still gives when the attack is over.
const AFTERWARDS: u64 = 20;

/// From before the attack until after it.
#[derive(Debug)]
pub struct Siege {
    pub platform: Platform,
    load: Load,
    memory_before: u64,
}

impl Siege {
    /// A platform whose app `hello` answers one request after the other from here on.
    pub async fn begin() -> Self {
        Self::begin_on(Platform::start().await).await
    }

    pub async fn begin_on(platform: Platform) -> Self {
        platform.deploy("hello", "hello", &[]).await;
        let mut load = platform.load("hello", "/");
        load.go_on_for(AFTERWARDS).await;
        let memory_before = platform.memory_bytes();
        Self { platform, load, memory_before }
    }

    /// An attack on an app, which the platform answers itself.
    pub async fn attack(&self, app: &str, path: &str) -> Reply {
        self.platform.get(app, path).await.unwrap()
    }

    /// Deploys this component, which must not come to serve, with these words as the reason.
    pub async fn deploy_fails(&self, component: &[u8], manifest: &str, words: &[&str]) -> Ran {
        let ran = self.platform.deploy_bytes(component, manifest).await;
        assert_ne!(ran.code, 0, "it was deployed: {}", ran.stdout);
        for word in words {
            assert!(ran.stderr.contains(word), "`{word}` is not told: {}", ran.stderr);
        }
        ran
    }

    /// The app's owner finds this text in its log.
    pub async fn is_logged(&self, app: &str, text: &str) {
        // A flood of lines before it takes its time to be written, and to be read for every look.
        eventually(FLOODED, text, || async {
            let logs = self.platform.wharf(&["logs", app]).await;
            logs.stdout.contains(text).then_some(())
        })
        .await;
    }

    /// The attack is over: no request of the neighbour has failed, and the platform gives back all memory but this much.
    ///
    /// # Panics
    ///
    /// When it is not so.
    pub async fn end(mut self, keeps_mib: u64) -> Platform {
        self.load.go_on_for(AFTERWARDS).await;
        let served = self.load.stop().await;
        assert!(served.failures.is_empty(), "the neighbour failed: {:?}", served.failures);
        let what = format!("the platform keeps less than {keeps_mib} MiB");
        let (platform, before) = (self.platform, self.memory_before);
        eventually(MEMORY_LIMIT, &what, || async {
            (platform.memory_bytes().saturating_sub(before) < keeps_mib << 20).then_some(())
        })
        .await;
        platform
    }
}
