//! The platform under test: the real binary in a folder of its own.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use wharf_types::api::AppInfo;

use crate::logs::Logs;
use crate::process::resident_bytes;
use crate::{COMPILED, Client, Load, Ran, Reply, SHORT, Wharf, eventually, full, request, within, workspace};

/// The line that `wharf up --json` prints when it is ready.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    pub api: String,
    pub http: String,
    pub token_file: PathBuf,
}

/// How to start, where the defaults of a test are not right.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub data: Option<PathBuf>,
    /// More flags of `wharf up`.
    pub flags: Vec<String>,
    /// Environment variables of the platform.
    pub env: Vec<(String, String)>,
    /// Asks this name server and no other, which takes root.
    pub name_server: Option<IpAddr>,
}

/// A running platform; it ends with the test, however that ends.
#[derive(Debug)]
pub struct Platform {
    pub ready: Ready,
    pub token: String,
    /// Requests to apps.
    pub apps: Client,
    api: Client,
    child: Child,
    start: Start,
    // Before the folder that they are in.
    logs: Logs,
    home: TempDir,
}

impl Platform {
    pub async fn start() -> Self {
        Self::start_with(Start::default()).await
    }

    pub async fn start_with(start: Start) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (child, ready) = launch(home.path(), &start).await;
        let token = std::fs::read_to_string(&ready.token_file).unwrap().trim().to_owned();
        let (apps, api) = (Client::new(&ready.http), Client::new(&ready.api));
        let logs = Logs::of(home.path());
        Self { ready, token, apps, api, child, start, logs, home }
    }

    /// The same folder, started again after [`Self::kill`] or [`Self::terminate`].
    pub async fn start_again(&mut self) {
        self.logs.check();
        let (child, ready) = launch(self.home.path(), &self.start).await;
        (self.apps, self.api) = (Client::new(&ready.http), Client::new(&ready.api));
        (self.child, self.ready) = (child, ready);
    }

    /// What the next [`Self::start_again`] starts it with.
    pub fn start_mut(&mut self) -> &mut Start {
        &mut self.start
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("the platform runs");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        within(SHORT, "the end of the platform", self.child.wait()).await.unwrap()
    }

    /// Ends it with SIGTERM.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Resident memory now, in octets.
    pub fn memory_bytes(&self) -> u64 {
        resident_bytes(self.child.id().expect("the platform runs"))
    }

    /// Whether machine code of the cache is mapped into the platform's process.
    pub fn has_code(&self) -> bool {
        let pid = self.child.id().expect("the platform runs");
        std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains(".cwasm")
    }

    pub fn data(&self) -> PathBuf {
        data(self.home.path(), &self.start)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What the platform itself said on stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("platform.log")).unwrap()
    }

    /// The user of this machine, who is logged in.
    pub fn user(&self) -> Wharf {
        Wharf::at_home(self.home.path())
    }

    pub async fn wharf(&self, args: &[&str]) -> Ran {
        self.user().run(args).await
    }

    /// Deploys a guest under a name of its own with more flags. It serves when this returns.
    pub async fn deploy(&self, guest: &str, app: &str, flags: &[&str]) -> Value {
        let file = workspace::guest(guest);
        let args = ["deploy", file.to_str().unwrap(), "--app", app, "--json"];
        self.wharf(&[&args, flags].concat()).await.json()
    }

    /// The app answers the next request with this text: who was told that a release serves meets that release.
    ///
    /// # Panics
    ///
    /// When it answers with something else.
    pub async fn says(&self, app: &str, text: &str) {
        assert_eq!(self.text(app, "/").await, text);
    }

    /// Deploys a guest with the settings of this manifest.
    pub async fn deploy_manifest(&self, guest: &str, manifest: &str) -> Ran {
        self.deploy_manifest_with(guest, manifest, &[]).await
    }

    /// The same with more flags.
    pub async fn deploy_manifest_with(&self, guest: &str, manifest: &str, flags: &[&str]) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
        let file = workspace::guest(guest);
        let args = ["deploy", file.to_str().unwrap(), "--json"];
        self.user().in_folder(folder.path()).run(&[&args, flags].concat()).await
    }

    /// Deploys an artifact that is no built guest.
    pub async fn deploy_bytes(&self, artifact: &[u8], manifest: &str) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("wharf.toml"), manifest).unwrap();
        std::fs::write(folder.path().join("made.wasm"), artifact).unwrap();
        self.user().in_folder(folder.path()).run(&["deploy", "made.wasm", "--json"]).await
    }

    /// `GET` of an app in the default namespace.
    pub async fn get(&self, app: &str, path: &str) -> anyhow::Result<Reply> {
        self.apps.get(&hostname(app), path).await
    }

    /// The text of an app, which must answer with 200.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn text(&self, app: &str, path: &str) -> String {
        let reply = self.get(app, path).await.unwrap();
        assert_eq!(reply.status, 200, "{app}{path}: {}\n{}", reply.text(), self.log());
        reply.text()
    }

    /// Waits until the app answers with 200.
    pub async fn serves(&self, app: &str) -> String {
        self.serves_at(app, "/").await
    }

    /// The same of one of its paths.
    pub async fn serves_at(&self, app: &str, path: &str) -> String {
        let what = format!("{app} answers with 200");
        eventually(COMPILED, &what, || async {
            let reply = self.get(app, path).await.ok()?;
            (reply.status == 200).then(|| reply.text())
        })
        .await
    }

    pub fn load(&self, app: &str, path: &'static str) -> Load {
        Load::spawn(self.apps.clone(), hostname(app), path)
    }

    /// A call of the API with the admin's token.
    pub async fn api(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        self.api_as(&self.token, method, path, body).await
    }

    /// The same with another token.
    pub async fn api_as(&self, token: &str, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let mut call = request("localhost", path);
        *call.method_mut() = method;
        *call.body_mut() = full(body);
        let headers = call.headers_mut();
        headers.remove(HOST);
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        self.api.send(call).await.unwrap()
    }

    pub async fn app(&self, app: &str) -> AppInfo {
        self.wharf(&["status", app, "--json"]).await.json()
    }

    /// Waits until the app is as wanted.
    pub async fn app_is(&self, app: &str, what: &str, is: impl Fn(&AppInfo) -> bool) -> AppInfo {
        let what = format!("{app} is {what}");
        let path = format!("/v1/namespaces/default/apps/{app}");
        eventually(SHORT, &what, || async {
            let reply = self.api(Method::GET, &path, "").await;
            let info = serde_json::from_slice::<AppInfo>(&reply.body).ok()?;
            is(&info).then_some(info)
        })
        .await
    }
}

fn hostname(app: &str) -> String {
    format!("{app}.default.localhost")
}

fn data(home: &Path, start: &Start) -> PathBuf {
    start.data.clone().unwrap_or_else(|| home.join("data"))
}

/// Starts the binary and waits for its line.
async fn launch(home: &Path, start: &Start) -> (Child, Ready) {
    let log = home.join("platform.log");
    let data = data(home, start);
    let args =
        ["up", "--data", data.to_str().unwrap(), "--api", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json"];
    let mut user = Wharf::at_home(home);
    for (key, value) in &start.env {
        user = user.env(key, value);
    }
    if let Some(name_server) = start.name_server {
        let settings = home.join("resolv.conf");
        std::fs::write(&settings, format!("nameserver {name_server}\noptions timeout:2 attempts:2\n"))
            .unwrap();
        let settings = settings.to_str().unwrap();
        // Each step becomes the next one, so the process that is waited for is the platform.
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        user = user.wrapped_in(&["unshare", "--mount", "sh", "-c", mount, settings]);
    }
    let mut command = user.command(&args);
    command
        .args(&start.flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(SHORT, "the platform is ready", lines.next_line()).await.unwrap();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let line = line.unwrap_or_else(|| panic!("the platform ended before it was ready: {}", said()));
    (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
}
