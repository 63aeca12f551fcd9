//! A sandbox for a test, and builds in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wharf_builder::{
    Artifact, BuildFailed, BuildLimits, BuildPlan, Built, Network, Sandbox, SandboxSettings, Steps, run,
};
use wharf_types::AppId;

/// What anything that should happen soon may take on a machine with much else to do.
pub(crate) const SHORT: Duration = Duration::from_secs(60);

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) sandbox: Sandbox,
}

/// None: whoever runs the tests says that there is no bubblewrap.
pub(crate) async fn fixture() -> Option<Fixture> {
    if std::env::var("WHARF_TEST_BWRAP").is_ok_and(|value| value == "off") {
        eprintln!("skipped: WHARF_TEST_BWRAP=off");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = SandboxSettings::of_this_machine(folder.path().join("caches")).await;
    match Sandbox::available(settings).await {
        Ok(sandbox) => Some(Fixture { folder, sandbox }),
        Err(error) => panic!("{error}. To leave these tests out, set WHARF_TEST_BWRAP=off"),
    }
}

/// A build, and what it printed.
pub(crate) struct Outcome {
    pub(crate) result: Result<Built, BuildFailed>,
    pub(crate) lines: Vec<String>,
}

impl Outcome {
    pub(crate) fn built(self) -> Built {
        self.result.unwrap_or_else(|failed| {
            let causes = std::iter::successors(std::error::Error::source(&failed), |cause| cause.source());
            panic!("{failed}: {}", causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
        })
    }

    pub(crate) fn failed(self) -> BuildFailed {
        match self.result {
            Ok(built) => panic!("it was built: {built:?}: {:?}", self.lines),
            Err(failed) => failed,
        }
    }
}

impl Fixture {
    /// An empty tree.
    pub(crate) fn tree(&self, name: &str) -> PathBuf {
        let tree = self.folder.path().join(name);
        std::fs::create_dir_all(&tree).unwrap();
        tree
    }

    /// A plan whose artifact is `app.wasm`.
    pub(crate) fn plan(&self, command: &str) -> BuildPlan {
        plan(&self.tree("tree"), command)
    }

    pub(crate) async fn run(&self, plan: &BuildPlan) -> Outcome {
        build(plan, &self.sandbox, &CancellationToken::new()).await
    }

    /// Runs a command that is expected to make the artifact.
    pub(crate) async fn succeeds(&self, command: &str) -> Outcome {
        let outcome = self.run(&self.plan(command)).await;
        assert!(outcome.result.is_ok(), "{command}: {}", outcome.result.unwrap_err());
        outcome
    }
}

pub(crate) fn plan(tree: &Path, command: &str) -> BuildPlan {
    BuildPlan {
        app: Some(AppId::new()),
        part: None,
        tree: tree.to_owned(),
        steps: Steps {
            command: Some(command.to_owned()),
            artifact: Artifact::Path("app.wasm".to_owned()),
            kept: Vec::new(),
        },
        env: BTreeMap::new(),
        network: Network::None,
        limits: BuildLimits { wall_max: SHORT, disk_free_min_bytes: 0, ..BuildLimits::default() },
    }
}

pub(crate) async fn build(plan: &BuildPlan, sandbox: &Sandbox, cancel: &CancellationToken) -> Outcome {
    let mut lines = Vec::new();
    let result = run(plan, sandbox, &mut |line| lines.push(line.to_owned()), cancel).await;
    Outcome { result, lines }
}

/// A word that stands in the command lines of one build's processes, and in no others.
pub(crate) fn marker() -> String {
    format!("marker-{}", AppId::new())
}

/// Processes of this machine whose command line, or that of whose shell, has a word in it.
pub(crate) fn processes_with(word: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_ours = entry.file_name().to_string_lossy().parse() == Ok(std::process::id());
        if !is_ours && String::from_utf8_lossy(&line).contains(word) {
            count += 1;
        }
    }
    count
}

/// Asks until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SHORT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {SHORT:?} in vain for this: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
