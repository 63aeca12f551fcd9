//! A platform beside the Docker engine of this machine, and what of the engine is its own.

use http::Method;
use nix::sys::signal::Signal;
use wharf_types::job::JobInfo;

use crate::{DockerEngine, Platform, Ran, SHORT, WEB, eventually};

/// Where [`WEB`] answers.
pub const ANSWER: &str = "/cgi-bin/answer";

/// A platform, the engine, and the node that the platform is in it.
pub struct Ours {
    pub platform: Platform,
    pub engine: DockerEngine,
    pub node: String,
}

impl Ours {
    /// None: no engine is meant to be there.
    pub async fn start() -> Option<Self> {
        let engine = DockerEngine::of_this_machine().await?;
        let platform = Platform::start().await;
        let node = std::fs::read_to_string(platform.data().join("worker/node.id")).unwrap();
        Some(Self { platform, engine, node: node.trim().to_owned() })
    }

    pub async fn deploy(&self, manifest: &str) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
        self.platform.user().in_folder(folder.path()).run(&["deploy"]).await
    }

    /// The containers of an app that run.
    pub async fn containers(&self, app: &str) -> Vec<String> {
        self.engine.containers(&self.node, app).await
    }

    /// All that the engine has of this platform, also what has ended.
    pub async fn all_containers(&self) -> Vec<String> {
        let filter = format!("label=wharf.platform={}", self.node);
        let found = self.engine.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]).await;
        found.lines().map(str::to_owned).collect()
    }

    pub async fn nothing_is_left(&self) {
        eventually(SHORT, "no container is left", async || {
            self.all_containers().await.is_empty().then_some(())
        })
        .await;
    }

    /// What an app that runs [`WEB`] answers.
    pub async fn asks(&self, app: &str, query: &str) -> String {
        self.platform.text(app, &format!("{ANSWER}?{query}")).await.trim().to_owned()
    }

    /// Runs a line of shell as a job.
    pub async fn run(&self, flags: &[&str], line: &str) -> Ran {
        let command = ["job", "run", "--image", WEB, "--retries", "0"];
        self.platform.wharf(&[&command[..], flags, &["--", "sh", "-c", line]].concat()).await
    }

    /// # Panics
    ///
    /// When there is no such job.
    pub async fn job(&self, name: &str) -> JobInfo {
        let reply = self.platform.api(Method::GET, &format!("/v1/namespaces/default/jobs/{name}"), "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    pub async fn job_is(&self, name: &str, what: &str, is: impl Fn(&JobInfo) -> bool) -> JobInfo {
        eventually(SHORT, &format!("the job {name} is {what}"), async || {
            let info = self.job(name).await;
            is(&info).then_some(info)
        })
        .await
    }

    /// Waits until the job has printed a line.
    pub async fn has_said(&self, name: &str, line: &str) {
        eventually(SHORT, &format!("the job {name} says {line}"), async || {
            let said = self.platform.wharf(&["job", "logs", name]).await;
            said.stdout.lines().any(|said| said == line).then_some(())
        })
        .await;
    }

    /// Takes away what is left in the engine. Containers that do not heed their signal are not waited for.
    pub async fn end(mut self) {
        self.interrupt_twice().await;
        self.engine.clean(&self.node).await;
    }

    /// Ends the platform in order, and at once when it has begun with that.
    pub async fn interrupt_twice(&mut self) {
        self.platform.signal(Signal::SIGINT);
        eventually(SHORT, "the front door takes nothing any more", async || {
            self.platform.get("nobody", "/").await.is_err().then_some(())
        })
        .await;
        self.platform.signal(Signal::SIGINT);
        self.platform.ended().await;
    }
}
