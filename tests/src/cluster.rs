//! A cluster under test: one control plane, and workers on hosts of their own, which are network namespaces of this machine. Takes root.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use wharf_types::NodeId;
use wharf_types::api::{AppInfo, CreatedJoinToken, NodeInfo, Page, ServerInfo};
use wharf_types::protocol::VARIABLE;

use crate::logs::Logs;
use crate::process::resident_bytes;
use crate::{
    Client, Clock, Load, ObjectStorage, Proxy, Ran, SHORT, SmallDisk, Weather, Wharf, eventually, within,
    workspace,
};

/// Of this process: names and networks of two of them must differ.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Versions of the node protocol that processes speak which are started from now on, such as `1-1`. None: all that they can.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speak {
    pub servers: Option<&'static str>,
    pub workers: Option<&'static str>,
}

impl Speak {
    /// One version back, by itself: where `WHARF_OLDER_BIN` names a binary of that version, it is the one that is started.
    pub const OLDER: &'static str = "1-1";
}

/// A control plane with workers; it ends with the test, and takes its networks along.
#[derive(Debug)]
pub struct Cluster {
    pub hosts: Vec<Host>,
    network: Network,
    servers: Vec<Server>,
    database: Option<String>,
    /// The environment of servers whose artifacts are in a bucket.
    storage: Vec<(String, String)>,
    // Before the folder that they are in.
    _logs: Logs,
    home: TempDir,
    /// To each server, where a test makes the ways bad.
    ways: Vec<Proxy>,
    speak: Speak,
    clock: Option<Clock>,
}

/// A control plane.
#[derive(Debug)]
struct Server {
    child: Option<Child>,
    api: String,
    token: String,
}

#[derive(Deserialize)]
struct ReadyServer {
    api: String,
    token_file: PathBuf,
}

/// A worker on a host of its own.
#[derive(Debug)]
pub struct Host {
    pub node: NodeId,
    pub address: Ipv4Addr,
    /// Its front door.
    pub apps: Client,
    /// Its network namespace. Empty: this machine's own.
    name: String,
    link: String,
    /// For apps and for other workers.
    ports: (u16, u16),
    folder: PathBuf,
    /// The size of the disk that the folder is on, as `mount` takes it. None: it is this machine's.
    disk: Option<String>,
    worker: Option<Child>,
}

/// A bridge, and what names the hosts at it.
#[derive(Debug)]
struct Network {
    id: u32,
    hosts: u8,
}

#[derive(Deserialize)]
struct ReadyWorker {
    node: NodeId,
}

/// Runs a command that must work.
///
/// # Panics
///
/// When it does not.
fn sh(command: &str) {
    let ran = Command::new("sh").args(["-ec", command]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success(),
        "`{command}` failed; the tests of a cluster take root and iproute2: {said}"
    );
}

impl Network {
    /// Numbers below 2^14 make networks of 10.64.0.0/10, and names that are short enough for an interface.
    fn new() -> Self {
        let mut id =
            std::process::id().wrapping_mul(31).wrapping_add(CLUSTERS.fetch_add(1, Ordering::Relaxed));
        loop {
            id %= 1 << 14;
            let network = Self { id, hosts: 0 };
            let made = Command::new("ip").args(["link", "add", &network.bridge(), "type", "bridge"]).output();
            let made = made.expect("the tests of a cluster take iproute2");
            if made.status.success() {
                sh(&format!(
                    "ip addr add {}/24 dev {1}; ip link set {1} up",
                    network.address(1),
                    network.bridge()
                ));
                return network;
            }
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(said.contains("exists"), "the tests of a cluster take root: {said}");
            id += 1;
        }
    }

    fn bridge(&self) -> String {
        format!("whf{}", self.id)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        let [_, _, high, low] = self.id.to_be_bytes();
        Ipv4Addr::new(10, 64 + high, low, host)
    }

    /// The name of a host, which are counted from 1.
    fn name(&self, host: u8) -> String {
        format!("whf{}-{host}", self.id)
    }

    /// Connects another host; returns its name, its link at the bridge, and its address.
    fn add_host(&mut self) -> (String, String, Ipv4Addr) {
        self.hosts += 1;
        let (name, link) = (self.name(self.hosts), format!("whf{}p{}", self.id, self.hosts));
        let (bridge, gateway, address) = (self.bridge(), self.address(1), self.address(10 + self.hosts));
        sh(&format!(
            "ip netns add {name}
             ip link add {link} type veth peer name eth0 netns {name}
             ip link set {link} master {bridge} up
             ip -n {name} addr add {address}/24 dev eth0
             ip -n {name} link set eth0 up
             ip -n {name} link set lo up
             ip -n {name} route add default via {gateway}"
        ));
        (name, link, address)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 1..=self.hosts {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).output();
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge()]).output();
    }
}

impl Cluster {
    /// With so many hosts, all of them ready, and one control plane.
    pub async fn start(hosts: usize) -> Self {
        Self::start_with(hosts, 1, None).await
    }

    /// With so many equal control planes on one database.
    pub async fn start_with(hosts: usize, servers: usize, database: Option<String>) -> Self {
        Self::start_at(hosts, servers, database, None).await
    }

    /// The same, with artifacts in an object storage.
    pub async fn start_at(
        hosts: usize,
        servers: usize,
        database: Option<String>,
        storage: Option<&ObjectStorage>,
    ) -> Self {
        let cluster = Self::prepared(database, storage);
        cluster.start_all(hosts, servers).await
    }

    /// The same, with a proxy in front of every server, which all others go through.
    pub async fn start_with_ways(hosts: usize, servers: usize, database: Option<String>) -> Self {
        let mut cluster = Self::prepared(database, None);
        cluster.lay_ways(servers).await;
        cluster.start_all(hosts, servers).await
    }

    /// The same, with the folder of each worker on one of these disks, which outlast the worker.
    pub async fn start_with_ways_on(disks: &[SmallDisk], servers: usize, database: Option<String>) -> Self {
        let mut cluster = Self::prepared(database, None);
        cluster.lay_ways(servers).await;
        for (host, disk) in (1..).zip(disks) {
            std::fs::create_dir(disk.data()).unwrap();
            let folder = cluster.home.path().join(cluster.network.name(host));
            std::os::unix::fs::symlink(disk.data(), folder).unwrap();
        }
        cluster.start_all(disks.len(), servers).await
    }

    async fn lay_ways(&mut self, servers: usize) {
        let gateway = self.network.address(1);
        for server in 0..servers {
            let to = (gateway, self.worker_port(server)).into();
            self.ways.push(Proxy::start((gateway, self.worker_port(server) + 1000).into(), to).await);
        }
    }

    /// With so many hosts, and one control plane whose data folder is on that disk.
    pub async fn start_on(hosts: usize, disk: &SmallDisk) -> Self {
        let cluster = Self::prepared(None, None);
        std::fs::create_dir(disk.data()).unwrap();
        std::os::unix::fs::symlink(disk.data(), cluster.data(0)).unwrap();
        cluster.start_all(hosts, 1).await
    }

    /// With so many hosts, and one control plane, of versions that are said.
    pub async fn start_speaking(hosts: usize, speak: Speak) -> Self {
        let mut cluster = Self::prepared(None, None);
        cluster.speak(speak);
        cluster.start_all(hosts, 1).await
    }

    /// With so many hosts, and one control plane, whose clocks a test sets while they run.
    pub async fn start_with_clocks(hosts: usize) -> Self {
        let mut cluster = Self::prepared(None, None);
        cluster.set_clocks("+0");
        cluster.clock = Some(Clock::AsIn(cluster.clock_file()));
        cluster.start_all(hosts, 1).await
    }

    /// All of these are off by so much from now on, such as `+20h`.
    pub fn set_clocks(&self, off_by: &str) {
        Clock::set(&self.clock_file(), off_by);
    }

    fn clock_file(&self) -> PathBuf {
        self.home.path().join("clock")
    }

    /// What is started from now on, also again, speaks this.
    pub fn speak(&mut self, speak: Speak) {
        self.speak = speak;
    }

    /// The clock of what is started from now on, also again, is off by so much, such as `-10m`. None: it is right.
    pub fn clock_is(&mut self, off_by: Option<&'static str>) {
        self.clock = off_by.map(Clock::OffBy);
    }

    fn prepared(database: Option<String>, storage: Option<&ObjectStorage>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let environment = storage.into_iter().flat_map(ObjectStorage::environment);
        let storage = environment.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let (hosts, servers, ways, speak) = (Vec::new(), Vec::new(), Vec::new(), Speak::default());
        let (network, _logs) = (Network::new(), Logs::of(home.path()));
        Self { hosts, network, servers, database, storage, _logs, home, ways, speak, clock: None }
    }

    async fn start_all(self, hosts: usize, servers: usize) -> Self {
        let mut cluster = self;
        for server in 0..servers {
            cluster.start_server(server).await;
        }
        for _ in 0..hosts {
            cluster.add_host().await;
        }
        let are_ready = |nodes: &[NodeInfo]| nodes.iter().filter(|node| node.ready).count() == hosts;
        cluster.nodes_are("they are ready", are_ready).await;
        cluster
    }

    /// Starts a control plane, for the first time or again.
    pub async fn start_server(&mut self, server: usize) {
        let data = self.data(server);
        if server > 0 && !data.exists() {
            self.share_keys(&data);
        }
        // One process that listens at every server's place would be no cluster.
        let workers = format!("{}:{}", self.network.address(1), self.worker_port(server));
        let mut user = at_clock(speaking(logging(self.user()), self.speak.servers), self.clock.as_ref());
        for (key, value) in &self.storage {
            user = user.env(key, value);
        }
        let mut command = user.command(&["server", "--data", data.to_str().unwrap(), "--json"]);
        command.args(["--workers", &workers, "--api", "127.0.0.1:0"]);
        let way = self.ways.get(server).map(|way| way.address.to_string());
        command.args(way.iter().flat_map(|way| ["--advertise", way]));
        command.args(self.database.iter().flat_map(|url| ["--database", url]));
        let (child, said) = ready::<ReadyServer>(&mut command, &self.server_log_file(server)).await;
        let token = std::fs::read_to_string(said.token_file).unwrap().trim().to_owned();
        let started = Server { child: Some(child), api: said.api, token };
        match self.servers.get_mut(server) {
            Some(known) => *known = started,
            None => self.servers.push(started),
        }
    }

    /// Control planes that are started from now on have their state there.
    pub fn moves_to(&mut self, database: String) {
        self.database = Some(database);
    }

    /// A folder for what a test makes.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// The data folder of a control plane.
    pub fn data(&self, server: usize) -> PathBuf {
        self.home.path().join(format!("data{server}"))
    }

    /// Where workers and other servers reach a control plane.
    fn address(&self, server: usize) -> String {
        let direct = || format!("{}:{}", self.network.address(1), self.worker_port(server));
        self.ways.get(server).map_or_else(direct, |way| way.address.to_string())
    }

    fn worker_port(&self, server: usize) -> u16 {
        7071 + 100 * u16::try_from(server).unwrap()
    }

    /// Makes the way to a server good or bad, for workers and other servers.
    pub fn way(&self, server: usize, weather: Weather) {
        self.ways[server].set(weather);
    }

    /// Whether a control plane has not been killed.
    pub fn is_running(&self, server: usize) -> bool {
        self.servers[server].child.is_some()
    }

    /// What control planes on one database have to share: the key for secrets, and the artifacts.
    fn share_keys(&self, data: &Path) {
        let first = self.home.path().join("data0");
        std::fs::create_dir_all(data).unwrap();
        std::fs::copy(first.join("secret.key"), data.join("secret.key")).unwrap();
        if self.storage.is_empty() {
            std::os::unix::fs::symlink(first.join("artifacts"), data.join("artifacts")).unwrap();
        }
    }

    /// Ends a control plane as `kill -9` does.
    pub async fn kill_server(&mut self, server: usize) {
        self.servers[server].child.take().expect("it runs").kill().await.unwrap();
    }

    /// Ends a control plane as an upgrade does, by SIGTERM.
    pub async fn stop_server(&mut self, server: usize) {
        let child = self.servers[server].child.take().expect("it runs");
        ends(child).await;
    }

    /// Lets a control plane stand still, or go on: SIGSTOP and SIGCONT.
    pub fn signal_server(&self, server: usize, signal: Signal) {
        let pid = self.servers[server].child.as_ref().and_then(Child::id).expect("it runs");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Which control plane leads, as one of them knows it. None: nobody does for now.
    pub async fn leader(&self, asked: usize) -> Option<usize> {
        let listed = self.user_at(asked).run(&["server", "ls", "--json"]).await;
        let listed: Page<ServerInfo> = serde_json::from_str(&listed.stdout).ok()?;
        let leads = listed.items.into_iter().find(|server| server.leads)?;
        (0..self.servers.len()).find(|server| self.address(*server) == leads.address)
    }

    /// Resident memory of a control plane, in octets.
    pub fn server_memory_bytes(&self, server: usize) -> u64 {
        resident_bytes(self.servers[server].child.as_ref().and_then(Child::id).expect("it runs"))
    }

    fn server_log_file(&self, server: usize) -> PathBuf {
        self.home.path().join(format!("server{server}.log"))
    }

    /// What a control plane said on stderr.
    pub fn server_log(&self, server: usize) -> String {
        std::fs::read_to_string(self.server_log_file(server)).unwrap()
    }

    /// The administrator, at one of the control planes.
    pub fn user_at(&self, server: usize) -> Wharf {
        let Server { api, token, .. } = &self.servers[server];
        self.user().env("WHARF_API", api).env("WHARF_TOKEN", token)
    }

    /// A join token with its address, as `wharf worker --join` takes it.
    pub async fn join_token(&self, flags: &[&str]) -> String {
        let args = [&["node", "token", "create", "--json"], flags].concat();
        let created: CreatedJoinToken = self.wharf(&args).await.json();
        let servers: Vec<String> = (0..self.servers.len()).map(|server| self.address(server)).collect();
        format!("{}@{}", created.token, servers.join(","))
    }

    /// Another host joins.
    pub async fn add_host(&mut self) -> &Host {
        self.add_host_with(None, &[]).await
    }

    /// The same with a disk of its own for the worker's folder, such as `8m`, and more flags.
    pub async fn add_host_with(&mut self, disk: Option<&str>, flags: &[&str]) -> &Host {
        let (name, link, address) = self.network.add_host();
        let folder = self.home.path().join(&name);
        let join = self.join_token(&[]).await;
        let apps = Client::new(&format!("http://{address}:8080"));
        let disk = disk.map(str::to_owned);
        let (node, ports) = (NodeId::new(), (8080, 7072));
        let mut host = Host { node, address, apps, name, link, ports, folder, disk, worker: None };
        host.start(self, &[&["--join", &join], flags].concat()).await;
        self.hosts.push(host);
        self.hosts.last().expect("it was put in")
    }

    /// A worker beside the servers joins, and so beside the engine of this machine, at ports of its own.
    pub async fn add_worker_here(&mut self, flags: &[&str]) -> &Host {
        let number = u16::try_from(self.hosts.len()).unwrap();
        let (address, ports) = (self.network.address(1), (8100 + number, 8200 + number));
        let folder = self.home.path().join(format!("here{number}"));
        let apps = Client::new(&format!("http://{address}:{}", ports.0));
        let join = self.join_token(&[]).await;
        let (node, name, link) = (NodeId::new(), String::new(), String::new());
        let mut host = Host { node, address, apps, name, link, ports, folder, disk: None, worker: None };
        host.start(self, &[&["--join", &join], flags].concat()).await;
        self.hosts.push(host);
        self.hosts.last().expect("it was put in")
    }

    /// Starts the worker of a host again.
    pub async fn start_again(&mut self, host: usize) {
        self.start_again_with(host, &[]).await;
    }

    /// The same with more flags.
    pub async fn start_again_with(&mut self, host: usize, flags: &[&str]) {
        let mut host = self.hosts.remove(host);
        host.start(self, flags).await;
        self.hosts.push(host);
        self.hosts.sort_by_key(|host| host.address);
    }

    /// Somebody on this machine who is not logged in.
    pub fn user(&self) -> Wharf {
        Wharf::at_home(self.home.path())
    }

    /// The same by the clock of what is started now.
    pub fn user_by_clock(&self) -> Wharf {
        at_clock(self.user(), self.clock.as_ref())
    }

    /// Runs a command as the administrator, at the first control plane that has not been killed.
    pub async fn wharf(&self, args: &[&str]) -> Ran {
        self.admin().run(args).await
    }

    fn admin(&self) -> Wharf {
        self.user_at(self.first_running())
    }

    fn first_running(&self) -> usize {
        self.servers.iter().position(|server| server.child.is_some()).expect("one runs")
    }

    pub async fn nodes(&self) -> Vec<NodeInfo> {
        self.wharf(&["node", "ls", "--json"]).await.json::<Page<NodeInfo>>().items
    }

    /// Waits until the nodes are as a test wants them.
    pub async fn nodes_are(&self, what: &str, are: impl Fn(&[NodeInfo]) -> bool) -> Vec<NodeInfo> {
        eventually(SHORT, what, async || Some(self.nodes().await).filter(|nodes| are(nodes))).await
    }

    /// Deploys a guest with the rest of a manifest, and waits until it serves.
    pub async fn deploy(&self, guest: &str, app: &str, rest: &str) -> Value {
        self.deploy_at(self.first_running(), guest, app, rest).await
    }

    /// The same at one of the control planes.
    pub async fn deploy_at(&self, server: usize, guest: &str, app: &str, rest: &str) -> Value {
        let folder = self.home.path().join(app);
        std::fs::create_dir_all(&folder).unwrap();
        let artifact = workspace::guest(guest);
        let artifact = artifact.display();
        let manifest = format!(
            "app = \"{app}\"\n[build]\nartifact = \"{artifact}\"\n[update]\nmonitor = \"50ms\"\n{rest}"
        );
        std::fs::write(folder.join("wharf.toml"), manifest).unwrap();
        self.user_at(server).in_folder(&folder).run(&["deploy", "--json"]).await.json()
    }

    pub async fn app(&self, app: &str) -> AppInfo {
        self.wharf(&["status", app, "--json"]).await.json()
    }

    pub async fn app_is(&self, app: &str, what: &str, is: impl Fn(&AppInfo) -> bool) -> AppInfo {
        eventually(SHORT, what, async || Some(self.app(app).await).filter(|info| is(info))).await
    }

    /// A load on an app through the front door of a host.
    pub fn load(&self, host: usize, app: &str, path: &'static str) -> Load {
        Load::spawn(self.hosts[host].apps.clone(), hostname(app), path)
    }

    /// What an app says at the front door of a host.
    pub async fn text(&self, host: usize, app: &str, path: &str) -> String {
        self.hosts[host].apps.get(&hostname(app), path).await.unwrap().text()
    }
}

/// Somebody whose processes say also in their logs what they do about certificates and addresses.
fn logging(user: Wharf) -> Wharf {
    user.env("RUST_LOG", "warn,wharf=info,wharf_platform_api::authority=info")
}

/// Somebody whose processes speak these versions.
fn speaking(user: Wharf, versions: Option<&'static str>) -> Wharf {
    let Some(versions) = versions else { return user };
    match workspace::older_binary().filter(|_| versions == Speak::OLDER) {
        Some(binary) => user.with_binary(binary),
        None => user.env(VARIABLE, versions),
    }
}

fn at_clock(user: Wharf, clock: Option<&Clock>) -> Wharf {
    match clock {
        Some(clock) => user.with_clock(clock),
        None => user,
    }
}

fn hostname(app: &str) -> String {
    format!("{app}.default.localhost")
}

impl Host {
    async fn start(&mut self, cluster: &Cluster, flags: &[&str]) {
        let (http, peers) =
            (format!("{}:{}", self.address, self.ports.0), format!("{}:{}", self.address, self.ports.1));
        let flags = [&["--http", &http, "--peers", &peers], flags].concat();
        let user = at_clock(speaking(logging(cluster.user()), cluster.speak.workers), cluster.clock.as_ref());
        let mut command = self.command(&user, &self.folder, &flags);
        let (child, ready) = ready::<ReadyWorker>(&mut command, &self.folder.with_extension("log")).await;
        (self.worker, self.node) = (Some(child), ready.node);
    }

    /// A worker on this host, with this folder.
    pub fn command(&self, user: &Wharf, folder: &Path, flags: &[&str]) -> tokio::process::Command {
        let mut wrapper = match self.name.is_empty() {
            true => Vec::new(),
            false => vec!["ip", "netns", "exec", &self.name],
        };
        let mount = self.disk.as_ref().map(|disk| {
            let folder = folder.display();
            format!("mkdir -p {folder} && mount -t tmpfs -o size={disk} tmpfs {folder} && exec \"$0\" \"$@\"")
        });
        if let Some(mount) = &mount {
            // Nobody else sees the disk, and it goes with the worker.
            wrapper.extend(["unshare", "-m", "sh", "-ec", mount]);
        }
        let user = user.clone().wrapped_in(&wrapper);
        let args = ["worker", "--data", folder.to_str().unwrap(), "--json"];
        user.command(&[&args, flags].concat())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The worker's folder as the worker sees it.
    pub fn inside(&self) -> PathBuf {
        let pid = self.worker.as_ref().and_then(Child::id).expect("it runs");
        let folder = self.folder.strip_prefix("/").expect("it is absolute");
        Path::new("/proc").join(pid.to_string()).join("root").join(folder)
    }

    /// What the worker said on stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.with_extension("log")).unwrap()
    }

    /// The host's network, for a thread to enter.
    pub(crate) fn namespace(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }

    /// Asks an app at this host's front door, from the host itself: also while nobody else reaches it. None: it does not answer.
    ///
    /// # Panics
    ///
    /// When the host is gone.
    pub fn asks_itself(&self, app: &str) -> Option<u16> {
        self.sends_itself(app, "GET /", "", Duration::from_millis(200))
    }

    /// Sends a request such as `PUT /note` in the same way, and waits no longer than that for each part of the answer.
    pub fn sends_itself(&self, app: &str, what: &str, body: &str, limit: Duration) -> Option<u16> {
        let (namespace, address, host) = (self.namespace(), self.address, hostname(app));
        let length = body.len();
        let request = format!("{what} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
        let ask = move || {
            // Of this thread only, which ends with the request.
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut stream = std::net::TcpStream::connect_timeout(&(address, 8080).into(), limit).ok()?;
            stream.set_read_timeout(Some(limit)).ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).ok()?;
            std::str::from_utf8(&head[9..]).ok()?.parse().ok()
        };
        std::thread::spawn(ask).join().unwrap()
    }

    /// Resident memory of the worker, in octets.
    pub fn memory_bytes(&self) -> u64 {
        resident_bytes(self.worker.as_ref().and_then(Child::id).expect("it runs"))
    }

    /// Lets the worker stand still, or go on: SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) {
        let pid = self.worker.as_ref().and_then(Child::id).expect("it runs");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Nothing comes from the host or to it any more, and nobody is told.
    pub fn is_cut_off(&self) {
        sh(&format!("ip link set {} down", self.link));
    }

    /// The host goes on to send, and nothing that others send reaches it.
    pub fn hears_nobody(&self) {
        self.drop_at("input", "iifname", "INPUT -i");
    }

    /// The other way round.
    pub fn is_heard_by_nobody(&self) {
        self.drop_at("output", "oifname", "OUTPUT -o");
    }

    /// Has the host's own packet filter drop what passes there.
    fn drop_at(&self, hook: &str, interface: &str, chain: &str) {
        sh(&format!(
            "if command -v nft >/dev/null; then
                 rules='table inet cut {{ chain {hook} {{ type filter hook {hook} priority 0; {interface} eth0 drop; }} }}'
                 ip netns exec {name} nft \"$rules\"
             else
                 ip netns exec {name} iptables -w 5 -A {chain} eth0 -j DROP
             fi",
            name = self.name
        ));
    }

    pub fn is_connected(&self) {
        sh(&format!("ip link set {} up", self.link));
    }

    /// The same after one way was cut.
    pub fn hears_and_is_heard(&self) {
        sh(&format!(
            "if command -v nft >/dev/null; then
                 ip netns exec {name} nft delete table inet cut
             else
                 ip netns exec {name} iptables -w 5 -F
             fi",
            name = self.name
        ));
    }

    /// Its power goes off.
    pub async fn dies(&mut self) {
        self.is_cut_off();
        self.kill().await;
    }

    /// Ends the worker as an upgrade does, by SIGTERM, and waits until it has ended.
    pub async fn stop(&mut self) {
        ends(self.worker.take().expect("it runs")).await;
    }

    /// Waits until the worker has ended that got SIGTERM before.
    pub async fn has_ended(&mut self) {
        has_ended(self.worker.take().expect("it runs")).await;
    }

    /// Ends the worker as `kill -9` does; the host goes on.
    pub async fn kill(&mut self) {
        self.worker.take().expect("it runs").kill().await.unwrap();
    }
}

/// Sends SIGTERM, and waits.
async fn ends(child: Child) {
    let pid = child.id().expect("it runs");
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGTERM).unwrap();
    has_ended(child).await;
}

async fn has_ended(mut child: Child) {
    let ended = within(SHORT * 4, "it ends by SIGTERM", child.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

/// Starts a role and waits for its line.
async fn ready<T: serde::de::DeserializeOwned>(
    command: &mut tokio::process::Command,
    log: &Path,
) -> (Child, T) {
    let said = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(SHORT, "it is ready", lines.next_line()).await.unwrap();
    let line = line
        .unwrap_or_else(|| panic!("it ended before it was ready: {}", std::fs::read_to_string(log).unwrap()));
    (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
}
