//! A platform in the engine that answers here, for one test.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt as _;
use tempfile::TempDir;
use wharf_docker::{Engine, Exit, Found, ImageId, LogLimit, Owner, Run, Settings};
use wharf_types::InstanceId;
use wharf_types::log::LogStream;
use wharf_types::quantity::ByteSize;
use wharf_types::spec::ContainerSpec;

use crate::archive::Image;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Test {
    pub(crate) engine: Engine,
    /// The engine's own words, for what is not ours.
    pub(crate) raw: Docker,
    pub(crate) image: ImageId,
    pub(crate) folder: TempDir,
    settings: Settings,
}

/// None: no tests with an engine are wanted.
pub(crate) fn socket() -> Option<PathBuf> {
    match std::env::var("WHARF_TEST_DOCKER") {
        Ok(word) if word == "off" => None,
        Ok(socket) => Some(socket.into()),
        Err(_) => Some("/var/run/docker.sock".into()),
    }
}

pub(crate) fn raw(socket: &std::path::Path) -> Docker {
    Docker::connect_with_unix(&socket.to_string_lossy(), 120, API_DEFAULT_VERSION).unwrap()
}

pub(crate) fn settings(socket: PathBuf) -> Settings {
    let platform = format!("test-{}", InstanceId::new());
    Settings { socket, files: format!("/dev/shm/wharf-{platform}").into(), platform }
}

impl Test {
    pub(crate) async fn begin() -> Option<Self> {
        Some(Self::on(socket()?).await)
    }

    pub(crate) async fn on(socket: PathBuf) -> Self {
        let settings = settings(socket);
        let engine = Engine::connect(settings.clone()).await.unwrap_or_else(|error| {
            panic!("{error}. `scripts/docker.sh install` and `scripts/docker.sh start` bring one; WHARF_TEST_DOCKER=off leaves these tests out")
        });
        let folder = TempDir::new().unwrap();
        let image = Image { label: settings.platform.clone(), ..Image::default() };
        let image = image.load(&engine, folder.path()).await.unwrap();
        Self { engine, raw: raw(&settings.socket), image, folder, settings }
    }

    pub(crate) fn platform(&self) -> &str {
        &self.settings.platform
    }

    pub(crate) fn files(&self) -> &std::path::Path {
        &self.settings.files
    }

    /// What a worker has that was started again, or another one of the same platform.
    pub(crate) async fn another(&self) -> Engine {
        Engine::connect(self.settings.clone()).await.unwrap()
    }

    pub(crate) fn run<'a>(&self, spec: &'a ContainerSpec, args: &'a [String]) -> Run<'a> {
        run(self.image, spec, args)
    }

    /// Starts a container that executes a line of the shell.
    pub(crate) async fn shell(&self, line: &str) -> InstanceId {
        self.shell_with(&ContainerSpec::default(), line).await
    }

    pub(crate) async fn shell_with(&self, spec: &ContainerSpec, line: &str) -> InstanceId {
        let args = shell(line);
        let run = self.run(spec, &args);
        self.engine.create_and_start(&run).await.unwrap();
        run.id
    }

    /// All that a container has printed on stdout until it ended, and how it did.
    pub(crate) async fn output(&self, spec: &ContainerSpec, line: &str) -> (Exit, String) {
        let id = self.shell_with(spec, line).await;
        let exit = self.wait(id).await;
        (exit, self.printed(id).await)
    }

    /// The same of a container that has been started.
    pub(crate) async fn printed(&self, id: InstanceId) -> String {
        let lines = self.engine.follow_logs(id, wharf_docker::LogMark::default()).map(Result::unwrap);
        let lines = lines.filter(|line| std::future::ready(line.stream == LogStream::Stdout));
        let lines = lines.map(|line| line.text).collect::<Vec<String>>();
        tokio::time::timeout(LIMIT, lines).await.unwrap().join("\n")
    }

    pub(crate) async fn wait(&self, id: InstanceId) -> Exit {
        tokio::time::timeout(LIMIT, self.engine.wait(id)).await.expect("the container ends")
    }

    pub(crate) async fn found(&self, id: InstanceId) -> Found {
        self.engine.find(id).await.unwrap().expect("the container is there")
    }
}

pub(crate) fn run<'a>(image: ImageId, spec: &'a ContainerSpec, args: &'a [String]) -> Run<'a> {
    let owner =
        Owner { namespace: "default".parse().unwrap(), app: "app".parse().unwrap(), release: 3, slot: 1 };
    Run {
        id: InstanceId::new(),
        owner,
        image,
        spec,
        args,
        env: Vec::new(),
        memory: ByteSize::mib(64),
        volumes: Vec::new(),
        networks: Vec::new(),
        files: Vec::new(),
        dns: Vec::new(),
        stop_grace: Duration::from_secs(5),
        log: LogLimit::default(),
    }
}

pub(crate) fn shell(line: &str) -> Vec<String> {
    ["/bin/sh", "-c", line].map(str::to_owned).to_vec()
}

pub(crate) fn ended(code: i32) -> Exit {
    Exit::Ended { code, is_out_of_memory: false, error: None }
}

/// Waits until there is a value.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        let (settings, image, engine_image) = (self.settings.clone(), self.image, self.image.to_string());
        // The runtime of the test cannot wait here.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let Ok(engine) = Engine::connect(settings.clone()).await else { return };
                let _ = engine.remove_unwanted(|_| false).await;
                let _ = engine.remove_unwanted_networks(&Default::default()).await;
                let _ = engine.remove_image(image).await;
                assert!(
                    raw(&settings.socket).inspect_image(&engine_image).await.is_err(),
                    "the image has gone"
                );
                let _ = std::fs::remove_dir_all(&settings.files);
            });
        });
        if cleaned.join().is_err() && !std::thread::panicking() {
            panic!("what the test made could not be taken away");
        }
    }
}
