//! `git push` of a Dockerfile: built by a real Docker engine, and deployed like everything that is pushed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::Value;
use wharf_tests::{DockerEngine, Platform, Ran, Repository, SHORT, WEB, eventually, remote_lines};

const MANIFEST: &str = "app = \"web\"\n[stop]\ndrain = \"2s\"\n[update]\nmonitor = \"50ms\"\n";
/// A script that says what the container knows of its commit.
const SAID: &str = "#!/bin/sh\necho 'Content-Type: text/plain'\necho\necho said by $GIT_REV\n";

fn dockerfile(steps: &str) -> String {
    format!(
        "FROM {WEB}\nARG GIT_REV\nCOPY said.sh /www/cgi-bin/said\nRUN busybox chmod 755 /www/cgi-bin/said\n{steps}\nEXPOSE 8000\n"
    )
}

/// A platform, the engine that it builds with, and a repository whose remote is the app `web`.
struct Ours {
    platform: Platform,
    engine: DockerEngine,
    repository: Repository,
}

impl Ours {
    async fn start() -> Option<Self> {
        let engine = DockerEngine::of_this_machine().await?;
        let platform = Platform::start().await;
        let repository = Repository::new(&platform).await;
        repository.write("wharf.toml", MANIFEST);
        repository.write("said.sh", SAID);
        repository.user().run(&["git", "remote"]).await.ok();
        Some(Self { platform, engine, repository })
    }

    /// Commits a Dockerfile and pushes it; returns the commit as well.
    async fn push(&self, dockerfile: &str) -> (Ran, String) {
        self.repository.write("Dockerfile", dockerfile);
        let commit = self.repository.commit("Another Dockerfile").await;
        (self.repository.push(&["main"]).await, commit)
    }

    async fn builds(&self) -> Vec<Value> {
        let listed = self.platform.wharf(&["builds", "--json"]).await.json::<Value>();
        listed["items"].as_array().unwrap().clone()
    }

    /// What chooses the images that were built for this platform.
    fn built(&self) -> String {
        let id =
            std::fs::read_to_string(self.platform.data().join("build-cache/images.id")).unwrap_or_default();
        format!("label=wharf.builder={id}")
    }

    async fn end(mut self) {
        let node = std::fs::read_to_string(self.platform.data().join("worker/node.id")).unwrap();
        let built = self.built();
        self.platform.terminate().await;
        self.engine.clean(node.trim()).await;
        for image in self.engine.docker(&["images", "-q", "--no-trunc", "--filter", &built]).await.lines() {
            self.engine.docker(&["rmi", "-f", image]).await;
        }
    }
}

/// A push that was refused, with these words somewhere in what the other side said.
fn refused(ran: &Ran, words: &[&str]) {
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is missing in:\n{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_built_and_what_it_makes_is_served() {
    let Some(ours) = Ours::start().await else { return };
    let (pushed, commit) = ours.push(&dockerfile("RUN echo made of $GIT_REV >/www/made")).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let lines = remote_lines(&pushed);
    let text = lines.join("\n");
    for words in [
        "found: Dockerfile",
        "-----> Building",
        "RUN echo made of",
        "port 8000 answers HTTP, as the image exposes no other",
        "-----> Artifact sha256:",
        "-----> Release 1 of web",
    ] {
        assert!(text.contains(words), "`{words}` is missing in:\n{text}");
    }
    let last = lines.iter().rev().find(|line| !line.trim().is_empty()).unwrap();
    assert!(last.trim().starts_with("http://web.default.localhost"), "{text}");
    assert_eq!(ours.platform.text("web", "/made").await, format!("made of {commit}\n"));
    assert_eq!(ours.platform.text("web", "/cgi-bin/said").await, format!("said by {commit}\n"));
    let id = ours.builds().await[0]["id"].as_str().unwrap().to_owned();
    let log = ours.platform.wharf(&["build", "logs", &id]).await.ok();
    assert!(log.contains("RUN echo made of"), "{log}");

    // The next one takes what it can from the one before, and leaves nothing of it behind that no release runs of.
    ours.repository.write(".dockerignore", "*\n!said.sh\n");
    let steps = "COPY . /www/all\nRUN busybox ls -A /www/all >/www/made";
    ours.push(&dockerfile(steps)).await.0.ok();
    let served = ours.platform.text("web", "/made").await;
    assert_eq!(served, "said.sh\n");
    let (again, _) = ours.push(&format!("{}LABEL further=1\n", dockerfile(steps))).await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("Using cache"), "{}", again.stderr);
    let built = ours.built();
    let nameless = ["images", "-q", "--filter", "dangling=true", "--filter", &built];
    assert!(ours.engine.docker(&nameless).await.lines().count() <= 1);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why_and_moves_nothing() {
    let Some(ours) = Ours::start().await else { return };
    let (pushed, first) = ours.push(&dockerfile("RUN echo first >/www/made")).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let fetches = "builds reach no network here";
    for (steps, words) in [
        ("RUN echo what is wrong && exit 7", &["what is wrong", "non-zero code: 7"][..]),
        ("RUN wget -T 2 -O- http://192.0.2.1/", &["non-zero code", fetches][..]),
        ("ADD http://127.0.0.1:7070/ /www/stolen", &["Dockerfile, line 5: ADD from an address", fetches][..]),
        ("FROM localhost:1/nobody/has:this", &["Dockerfile, line 5:", "localhost:1", "docker build"][..]),
        ("FROM $NOTHING", &["Dockerfile, line 5:", "`$NOTHING`"][..]),
        ("NONSENSE", &["NONSENSE"][..]),
    ] {
        let (pushed, _) = ours.push(&dockerfile(steps)).await;
        refused(&pushed, words);
        let id = ours.builds().await[0]["id"].as_str().unwrap().to_owned();
        refused(&pushed, &["nothing has moved, and release 1 is what runs", &id]);
    }
    let at = ours.repository.git(&["ls-remote", "wharf", "refs/heads/main"]).await.ok();
    assert!(at.starts_with(&first), "{at}");
    assert_eq!(ours.platform.text("web", "/made").await, "first\n");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_cancelled_ends_in_the_engine() {
    let Some(ours) = Ours::start().await else { return };
    ours.repository.write("Dockerfile", dockerfile("RUN sleep 4321"));
    ours.repository.commit("Endless").await;
    let mut pushing = ours.repository.command(&["push", "wharf", "main"]).spawn().unwrap();
    let runs = async || ours.engine.docker(&["ps", "--no-trunc"]).await.contains("sleep 4321");
    eventually(SHORT, "its step runs", async || runs().await.then_some(())).await;
    let id = ours.builds().await[0]["id"].as_str().unwrap().to_owned();
    ours.platform.wharf(&["build", "cancel", &id]).await.ok();
    let ended = tokio::time::timeout(Duration::from_secs(60), pushing.wait()).await.unwrap();
    assert!(!ended.unwrap().success());
    eventually(SHORT, "its step has gone", async || (!runs().await).then_some(())).await;
    assert_eq!(ours.builds().await[0]["state"], "cancelled");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_the_right_builds_no_image() {
    let Some(ours) = Ours::start().await else { return };
    ours.platform.wharf(&["namespace", "create", "team"]).await.ok();
    let repository = Repository::new(&ours.platform).await;
    repository.write("wharf.toml", format!("namespace = \"team\"\n{MANIFEST}"));
    repository.write("said.sh", SAID);
    repository.write("Dockerfile", dockerfile(""));
    repository.commit("A Dockerfile").await;
    repository.user().run(&["git", "remote"]).await.ok();
    let words =
        ["may not run containers", "wharf quota set --containers isolated -n team", "nothing has moved"];
    refused(&repository.push(&["main"]).await, &words);
    ours.platform.wharf(&["quota", "set", "--containers", "isolated", "-n", "team"]).await.ok();
    let pushed = repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_or_a_deploy_does_not_build_comes_with_what_to_run() {
    let Some(ours) = Ours::start().await else { return };
    let deploy = async || ours.repository.user().run(&["deploy"]).await;
    ours.repository.write("Dockerfile", dockerfile("RUN echo made >/www/made"));
    deploy().await.fails(6, &["docker build -t", "git push wharf"]);
    ours.repository.write("compose.yaml", "services:\n  web:\n    build: .\n");
    deploy().await.fails(6, &["wharf stack deploy -c compose.yaml NAME"]);
    ours.repository.commit("A compose file").await;
    let words = ["settings of one app", "[build] dockerfile", "nothing has moved"];
    refused(&ours.repository.push(&["main"]).await, &words);
    ours.repository.write("wharf.toml", format!("{MANIFEST}[build]\ndockerfile = \"Dockerfile\"\n"));
    ours.repository.commit("The Dockerfile of both").await;
    let pushed = ours.repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert_eq!(ours.platform.text("web", "/made").await, "made\n");
    let named =
        format!("image = \"{WEB}\"\n{MANIFEST}[env]\nWORD = \"named\"\n[container]\nhttp_port = 8000\n");
    ours.repository.write("wharf.toml", named);
    ours.repository.commit("An image by its name").await;
    let pushed = ours.repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert_eq!(ours.platform.text("web", "/cgi-bin/answer").await.trim(), "named");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_of_a_compose_file_are_built_each_from_its_folder() {
    let Some(ours) = Ours::start().await else { return };
    ours.repository.write("wharf.toml", "app = \"web\"\n");
    let service = |name: &str, rest: &str| {
        format!(
            "  {name}:\n    build: {{context: ./{name}, args: {{WORD: {name}}}}}\n    ports: [\"8000\"]\n    stop_grace_period: 2s\n    \
             deploy: {{update_config: {{monitor: 50ms}}}}\n    x-wharf: {{http: {{}}}}\n{rest}"
        )
    };
    let compose = format!("services:\n{}{}", service("one", ""), service("two", "    depends_on: [one]\n"));
    ours.repository.write("compose.yaml", &compose);
    for name in ["one", "two"] {
        let text = format!("FROM {WEB}\nARG WORD\nRUN echo made for $WORD >/www/made\nEXPOSE 8000\n");
        ours.repository.write(&format!("{name}/Dockerfile"), text);
    }
    ours.repository.commit("Two services").await;
    let pushed = ours.repository.push(&["main"]).await;
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let said = remote_lines(&pushed).join("\n");
    for words in ["-----> Service one", "-----> Building", "-----> Service two", "-----> Release 1 of two"] {
        assert!(said.contains(words), "`{words}` is missing in:\n{said}");
    }
    for name in ["one", "two"] {
        assert_eq!(ours.platform.text(name, "/made").await, format!("made for {name}\n"));
    }
    // Steps of the image before are taken for done, of each service its own.
    ours.repository.write("two/Dockerfile", format!("FROM {WEB}\nRUN exit 7\n"));
    ours.repository.commit("One that fails").await;
    let pushed = ours.repository.push(&["main"]).await;
    refused(&pushed, &["Using cache", "compose.yaml:9:5: the service `two`", "code: 7", "nothing has moved"]);
    assert_eq!(ours.platform.text("two", "/made").await, "made for two\n");
    ours.end().await;
}
