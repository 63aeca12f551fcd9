//! Networks between containers.

use std::collections::HashSet;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_docker::{NetworkError, NetworkJoin, NetworkName};
use wharf_types::spec::ContainerSpec;
use wharf_types::{InstanceId, NamespaceName};

use crate::daemon::Daemon;
use crate::support::{Test, ended, eventually, shell};

const SERVE: &str = "while :; do echo hello | nc -l -p 8000; done";

fn namespace(name: &str) -> NamespaceName {
    name.parse().unwrap()
}

async fn start(test: &Test, line: &str, networks: &[(&NetworkName, &str)]) -> InstanceId {
    let (spec, args) = (ContainerSpec::default(), shell(line));
    let mut run = test.run(&spec, &args);
    run.networks = networks
        .iter()
        .map(|(network, alias)| NetworkJoin {
            network: (*network).clone(),
            aliases: vec![(*alias).to_owned()],
        })
        .collect();
    test.engine.create_and_start(&run).await.unwrap();
    run.id
}

/// One of the addresses that RFC 5737 keeps for documents.
const ELSEWHERE: &str = "198.51.100.2";

/// Another host, which answers at [`ELSEWHERE`].
struct Outside {
    name: String,
    server: Child,
}

impl Outside {
    fn begin() -> Self {
        let name = format!("whf-out-{}", std::process::id());
        let made = Command::new("sh")
            .args([
                "-ec",
                "ip netns add $0
                 ip link add whfout0 type veth peer name eth0 netns $0
                 ip address add 198.51.100.1/30 dev whfout0
                 ip link set whfout0 up
                 ip -n $0 address add 198.51.100.2/30 dev eth0
                 ip -n $0 link set eth0 up",
            ])
            .arg(&name)
            .status();
        assert!(made.unwrap().success(), "cannot make a network namespace, which takes root and iproute2");
        let serve = "import socket
door = socket.create_server(('', 8000))
print(flush=True)
while True: door.accept()[0].sendall(b'hello\\n')";
        let mut server = Command::new("ip")
            .args(["netns", "exec", &name, "python3", "-c", serve])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut listens = [0];
        server.stdout.take().unwrap().read_exact(&mut listens).unwrap();
        Self { name, server }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // With its end of the link, both ends are gone.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

#[tokio::test]
async fn the_host_reaches_a_container_at_its_address() {
    let Some(test) = Test::begin().await else { return };
    let network = test.engine.ensure_network(&namespace("a"), None).await.unwrap();
    let id = start(&test, SERVE, &[(&network, "web")]).await;
    let address = test.found(id).await.addresses[&network.to_string()];
    let answer = eventually("an answer", async || {
        let mut stream = tokio::net::TcpStream::connect((address, 8000)).await.ok()?;
        stream.shutdown().await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        (!answer.is_empty()).then_some(answer)
    })
    .await;
    assert_eq!(answer, "hello\n");
    test.engine.stop(id, Duration::ZERO).await.unwrap();
    assert!(test.found(id).await.addresses.is_empty());
}

#[tokio::test]
async fn containers_find_each_other_by_alias_within_their_networks_only() {
    let Some(test) = Test::begin().await else { return };
    let own = test.engine.ensure_network(&namespace("a"), None).await.unwrap();
    let back = test.engine.ensure_network(&namespace("a"), Some("back")).await.unwrap();
    let foreign = test.engine.ensure_network(&namespace("b"), None).await.unwrap();
    let server = start(&test, SERVE, &[(&own, "web"), (&back, "db")]).await;
    let found = test.found(server).await;
    assert_eq!(found.addresses.len(), 2);
    let ask = |name: &str| {
        format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do nc {name} 8000 -w 2 </dev/null && exit 0; sleep 0.2; done; exit 1"
        )
    };
    let one_of_own = start(&test, &ask("web"), &[(&own, "x")]).await;
    let one_of_back = start(&test, &ask("db"), &[(&back, "x")]).await;
    assert_eq!(test.wait(one_of_own).await, ended(0));
    assert_eq!(test.wait(one_of_back).await, ended(0));
    let address = found.addresses[&own.to_string()];
    let line = format!("nc web 8000 -w 1 </dev/null || nc {address} 8000 -w 2 </dev/null || echo alone");
    let stranger = start(&test, &line, &[(&foreign, "x")]).await;
    test.wait(stranger).await;
    assert!(test.printed(stranger).await.contains("alone"));
}

#[tokio::test]
async fn out_of_an_internal_network_no_way_leads_and_the_host_has_one_in() {
    let Some(test) = Test::begin().await else { return };
    let open = test.engine.ensure_network(&namespace("a"), Some("back")).await.unwrap();
    let network = test.engine.ensure_internal_network(&namespace("a"), "back").await.unwrap();
    assert_ne!(network, open, "one does not stand for the other");
    assert_eq!(test.engine.ensure_internal_network(&namespace("a"), "back").await.unwrap(), network);
    let server = start(&test, SERVE, &[(&network, "db")]).await;
    let address = test.found(server).await.addresses[&network.to_string()];
    eventually("an answer to the host", async || {
        let mut stream = tokio::net::TcpStream::connect((address, 8000)).await.ok()?;
        stream.shutdown().await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        (answer == "hello\n").then_some(())
    })
    .await;
    // In the network it is found by its name.
    let ask =
        "for i in 1 2 3 4 5 6 7 8 9 10; do nc db 8000 -w 2 </dev/null && exit 0; sleep 0.2; done; exit 1";
    let neighbour = start(&test, ask, &[(&network, "x")]).await;
    assert_eq!(test.wait(neighbour).await, ended(0));
    let outside = Outside::begin();
    let ask = format!("nc {ELSEWHERE} 8000 -w 2 </dev/null || echo alone");
    for (networks, printed) in [
        (&[(&network, "x")][..], "alone"),
        (&[(&open, "x")][..], "hello"),
        (&[(&network, "x"), (&open, "x")][..], "hello"),
    ] {
        let id = start(&test, &ask, networks).await;
        test.wait(id).await;
        assert_eq!(test.printed(id).await.trim(), printed, "{networks:?}");
    }
    drop(outside);
}

#[tokio::test]
async fn a_network_is_made_once_and_removed_when_nobody_is_in_it() {
    let Some(test) = Test::begin().await else { return };
    let namespace = namespace("a");
    let make = || test.engine.ensure_network(&namespace, Some("front"));
    let (first, second) = tokio::join!(make(), make());
    let (network, same) = (first.unwrap(), second.unwrap());
    assert_eq!(network, same);
    let id = start(&test, "exec sleep 1000", &[(&network, "x")]).await;
    assert_eq!(test.engine.remove_unwanted_networks(&HashSet::new()).await.unwrap(), 0);
    test.engine.remove(id).await.unwrap();
    assert_eq!(test.engine.remove_unwanted_networks(&HashSet::from([network.clone()])).await.unwrap(), 0);
    assert_eq!(test.engine.remove_unwanted_networks(&HashSet::new()).await.unwrap(), 1);
    let error = {
        let (spec, args) = (ContainerSpec::default(), shell("true"));
        let mut run = test.run(&spec, &args);
        run.networks = vec![NetworkJoin { network, aliases: Vec::new() }];
        test.engine.create_and_start(&run).await.unwrap_err()
    };
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("network"), "{error}");
}

#[tokio::test]
async fn one_without_a_network_reaches_nothing_and_one_with_the_hosts_everything() {
    let Some(test) = Test::begin().await else { return };
    let spec = ContainerSpec { host_network: true, ..ContainerSpec::default() };
    let id = test.shell_with(&spec, "exec sleep 1000").await;
    assert!(test.found(id).await.is_on_host_network);
    let (_, output) = test.output(&ContainerSpec::default(), "ls /sys/class/net").await;
    assert_eq!(output, "lo");
}

#[tokio::test]
async fn an_engine_that_has_no_subnet_left_says_what_to_do() {
    if crate::support::socket().is_none() {
        return;
    }
    let daemon = Daemon::start_with_few_subnets();
    let test = Test::on(daemon.socket()).await;
    let mut made = 0;
    let error = loop {
        match test.engine.ensure_network(&namespace("a"), Some(&made.to_string())).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made <= 4, "there are four subnets");
    };
    assert!(matches!(error, NetworkError::NoSubnet), "{error:?}");
    assert!(error.to_string().contains("default-address-pools"));
    drop(test);
}
