//! The Docker engine of this machine, as whoever administers it sees it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Stdio;

use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::{Child, Command};

use crate::{SHORT, eventually};

/// A web server of a few hundred kilobytes that answers with its variable `WORD`, or what is in `/data/word`.
pub const WEB: &str = "wharf-test/web:1";

/// Set to `off` where no engine is meant to be; tests of containers then test nothing.
const VARIABLE: &str = "WHARF_TEST_DOCKER";

/// What the container runs: every request is answered by a shell script, and nothing else is in the image.
const ANSWER: &str = "#!/bin/sh\n\
    echo 'Content-Type: text/plain'\n\
    echo\n\
    case \"$QUERY_STRING\" in\n\
    die) kill -9 1 ;;\n\
    ill) touch /tmp/ill ;;\n\
    say=*) echo \"${QUERY_STRING#say=}\" >/proc/1/fd/1 ;;\n\
    keep=*) echo \"${QUERY_STRING#keep=}\" >/data/word ;;\n\
    id) id -u; grep NoNewPrivs /proc/self/status; exit ;;\n\
    secret) cat /run/secrets/word; exit ;;\n\
    ask=*) wget -q -O - \"http://${QUERY_STRING#ask=}\"; exit ;;\n\
    esac\n\
    cat /data/word 2>/dev/null || echo \"$WORD\"\n";

pub struct DockerEngine(());

impl DockerEngine {
    /// None: there is meant to be none.
    ///
    /// # Panics
    ///
    /// Where an engine is missing that should be there.
    pub async fn of_this_machine() -> Option<Self> {
        if std::env::var(VARIABLE).is_ok_and(|value| value == "off") {
            eprintln!("{VARIABLE} is off: containers are not tested");
            return None;
        }
        let engine = Self(());
        let version = engine.try_docker(&["version"], &[]).await;
        assert!(
            version.is_some(),
            "no Docker engine answers: `scripts/docker.sh install && scripts/docker.sh start`, or set {VARIABLE}=off"
        );
        engine.make_images().await;
        Some(engine)
    }

    async fn make_images(&self) {
        if self.try_docker(&["image", "inspect", WEB], &[]).await.is_some() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = "mkdir -p bin www/cgi-bin tmp data run && cp /bin/busybox bin/ && \
             for name in sh cat echo kill httpd touch id grep wget nc test sleep; do ln -s busybox bin/$name; done && \
             cat >www/cgi-bin/answer && chmod 755 www/cgi-bin/answer && chmod 1777 tmp && tar -c .";
        let mut tar = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(ANSWER.as_bytes()).await.unwrap();
        let archive = tar.wait_with_output().await.unwrap().stdout;
        let command = r#"CMD ["/bin/busybox","httpd","-f","-vv","-p","8000","-h","/www"]"#;
        self.try_docker(&["import", "-c", command, "-c", "ENV PATH=/bin", "-", WEB], &archive)
            .await
            .expect("the image is made");
    }

    /// What the engine's own command prints.
    pub async fn docker(&self, args: &[&str]) -> String {
        self.try_docker(args, &[]).await.unwrap_or_else(|| panic!("docker {args:?}"))
    }

    async fn try_docker(&self, args: &[&str], input: &[u8]) -> Option<String> {
        let mut command = Command::new("docker");
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(input).await.ok()?;
        let output = child.wait_with_output().await.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The containers of an app that a node of ours has, by their ids. `node` is the worker's id.
    pub async fn containers(&self, node: &str, app: &str) -> Vec<String> {
        let (node, app) = (format!("label=wharf.platform={node}"), format!("label=wharf.app={app}"));
        let found = self.docker(&["ps", "-q", "--no-trunc", "--filter", &node, "--filter", &app]).await;
        found.lines().map(str::to_owned).collect()
    }

    /// The address that a container, known by its id, has for a name. None: the name is nobody's.
    pub async fn resolves(&self, container: &str, name: &str) -> Option<Ipv4Addr> {
        // It fails where the name has no address of another kind.
        let line = format!("/bin/busybox nslookup {name} || true");
        let said = self.docker(&["exec", container, "/bin/sh", "-c", &line]).await;
        let said = &said[said.find("Name:")?..];
        said.split_whitespace().find_map(|word| word.parse().ok())
    }

    /// A socket for datagrams as a program of a container would have it.
    pub async fn datagrams_in(&self, container: &str, port: u16) -> UdpSocket {
        let process = self.docker(&["inspect", "-f", "{{.State.Pid}}", container]).await;
        let bound = std::thread::spawn(move || {
            // Of this thread only, which ends; a socket stays where it was made.
            let network = File::open(format!("/proc/{process}/ns/net")).unwrap();
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
        });
        let socket = bound.join().expect("the network of the container is there");
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    }

    /// Puts [`WEB`] into a registry, under a name that is returned, and out of the engine again.
    pub async fn push_web(&self, registry: &PrivateRegistry) -> String {
        let (host, folder) = (registry.host(), registry.folder.path().join("client"));
        let (name, config) = (format!("{host}/web:1"), folder.to_str().unwrap().to_owned());
        let user = ["--username", PrivateRegistry::USER, "--password-stdin"];
        let login = [&["--config", &config, "login"], &user[..], &[&host]].concat();
        self.try_docker(&login, PrivateRegistry::PASSWORD.as_bytes()).await.expect("docker login");
        self.docker(&["tag", WEB, &name]).await;
        self.docker(&["--config", &config, "push", "--quiet", &name]).await;
        self.docker(&["rmi", &name]).await;
        name
    }

    /// Takes away what a platform has left.
    pub async fn clean(&self, node: &str) {
        let filter = format!("label=wharf.platform={node}");
        for id in self.docker(&["ps", "-aq", "--filter", &filter]).await.lines() {
            self.try_docker(&["rm", "-f", id], &[]).await;
        }
        for id in self.docker(&["network", "ls", "-q", "--filter", &filter]).await.lines() {
            self.try_docker(&["network", "rm", id], &[]).await;
        }
    }
}

/// A registry that gives nobody anything without a password.
pub struct PrivateRegistry {
    folder: TempDir,
    port: u16,
    _process: Child,
}

impl PrivateRegistry {
    pub const USER: &str = "ann";
    pub const PASSWORD: &str = "hush-hush";
    /// As `htpasswd -B` makes it.
    const ACCESS: &str = "ann:$2b$04$jL5UShtnSAPwKfrxcbAfsenX2u2XPX.MLTx0t2AqIXnI2OphZIdR2\n";

    /// # Panics
    ///
    /// Where the server is not installed.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("access"), Self::ACCESS).unwrap();
        let config = serde_json::json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": at("content")}},
            "http": {"addr": format!("127.0.0.1:{port}")},
            "auth": {"htpasswd": {"realm": "test", "path": at("access")}},
        });
        // JSON is YAML.
        std::fs::write(at("config.yml"), config.to_string()).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(at("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("docker-registry starts; `scripts/docker.sh install` installs it");
        eventually(SHORT, "the registry takes connections", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { folder, port, _process: process }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
