//! An engine of the test's own, which may be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long an engine may take to start or to end.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Daemon {
    process: Child,
    folder: TempDir,
    settings: Settings,
}

#[derive(Clone, Copy, Default)]
struct Settings {
    /// The size of a disk in memory, which is then all it has.
    disk: Option<&'static str>,
    has_few_subnets: bool,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_as(Settings::default())
    }

    pub(crate) fn start_on_disk_of(size: &'static str) -> Self {
        Self::start_as(Settings { disk: Some(size), ..Settings::default() })
    }

    pub(crate) fn start_with_few_subnets() -> Self {
        Self::start_as(Settings { has_few_subnets: true, ..Settings::default() })
    }

    fn start_as(settings: Settings) -> Self {
        let folder = TempDir::with_prefix("wharf-dockerd-").unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if let Some(size) = settings.disk {
            let options = format!("size={size}");
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&data).status();
            assert!(
                mounted.is_ok_and(|status| status.success()),
                "this test mounts a tmpfs, which takes root"
            );
        }
        let made = ip(&["link", "add", "name", &bridge(folder.path()), "type", "bridge"]);
        assert!(made, "this test makes a bridge, which takes root and iproute2");
        let process = spawn(folder.path(), settings);
        let daemon = Self { process, folder, settings };
        daemon.wait_for_answer();
        daemon
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// As an engine that crashes.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.folder.path(), self.settings);
        self.wait_for_answer();
    }

    fn wait_for_answer(&self) {
        let began = Instant::now();
        while !answers(&self.socket()) {
            assert!(began.elapsed() < LIMIT, "the second engine does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn answers(socket: &Path) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    let mut head = [0; 12];
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").and_then(|()| stream.read_exact(&mut head));
    asked.is_ok() && &head[9..] == b"200"
}

fn spawn(folder: &Path, settings: Settings) -> Child {
    // A containerd that went with its engine may be there as a zombie, which the next engine would take for alive.
    for pid in ["docker.pid", "exec/containerd/containerd.pid"] {
        let _ = std::fs::remove_file(folder.join(pid));
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    let few: &[&str] = &["--default-address-pool", "base=10.231.0.0/24,size=26"];
    Command::new("dockerd")
        .args(if settings.has_few_subnets { few } else { &[] })
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("docker.pid"))
        .arg("--host")
        .arg(format!("unix://{}", folder.join("docker.sock").display()))
        // Without a bridge of its own the engine takes that of the shared one away.
        .args(["--bridge", &bridge(folder), "--iptables=false", "--ip6tables=false", "--shutdown-timeout=1"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("this test starts a dockerd of its own: `scripts/docker.sh install` brings it")
}

/// The name of its bridge, which the kernel bounds to 15 octets.
fn bridge(folder: &Path) -> String {
    let name = folder.file_name().unwrap().to_string_lossy();
    format!("wharf{}", &name[name.len() - 6..])
}

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).status().is_ok_and(|status| status.success())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that was killed has left containers and a containerd, which only another one takes away.
        if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
            self.process = spawn(self.folder.path(), self.settings);
            let began = Instant::now();
            while !answers(&self.socket()) && began.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM);
        let began = Instant::now();
        while self.process.try_wait().is_ok_and(|ended| ended.is_none()) && began.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        ip(&["link", "delete", &bridge(self.folder.path())]);
        let _ = Command::new("umount").arg(self.folder.path().join("data")).status();
        if self.settings.disk.is_some() {
            let _ = Command::new("umount").arg(self.folder.path().join("data")).status();
        }
    }
}
