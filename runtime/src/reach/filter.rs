//! The rules of this machine's packet filter that bring connections of containers to apps' addresses here.
//!
//! Each rule has a comment with the id of the node, so that a worker knows its own again, also those of a process that was killed, and no other's. They
//! stand before the engine's rules, which take connections to any address of this machine to whatever a container publishes there.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use wharf_types::NodeId;

use super::addresses::Block;

/// A node has so many addresses of the cluster's block: for some thousand apps.
const NODE_BITS: u8 = 20;
/// How long a command may take, with the wait for others who change the rules.
const COMMAND_MAX: Duration = Duration::from_secs(15);
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// The name of an abstract socket.
const LOCK: &str = "wharf-internal-addresses";
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// The bridges of an engine's networks. A datagram proves nothing by its sender's address, so none is taken of the rest of the world.
const BRIDGES: &str = "br-+";
/// Of the comment in front of the node's id.
const OURS: &str = "wharf-";

/// A rule as the packet filter lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    chain: Chain,
    node: String,
    destination: Option<String>,
    /// Where it leads.
    to: Option<SocketAddrV4>,
    /// Everything behind the name of the chain.
    words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Nat,
    Input,
}

impl Chain {
    fn words(self) -> [&'static str; 3] {
        match self {
            Self::Nat => ["-t", "nat", "PREROUTING"],
            Self::Input => ["-t", "filter", "INPUT"],
        }
    }
}

/// Where this process listens for the containers of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) tcp: u16,
    pub(super) dns: u16,
    /// None: datagrams lead nowhere.
    pub(super) datagrams: Option<Ports>,
}

/// Ports in a row, with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) first: u16,
    pub(super) last: u16,
}

/// The addresses of a node, and its rules for them.
#[derive(Debug)]
pub(super) struct Filter {
    node: NodeId,
    pub(super) block: Block,
}

impl Filter {
    /// Chooses addresses that no other worker of this machine has, and makes them this machine's own: what is sent there and met by no rule is refused at
    /// once.
    pub(super) async fn claim(node: NodeId, all: Block) -> Result<Self, String> {
        let rules = rules().await?;
        let block = match choose(all, node, &rules) {
            Some(block) => block,
            None => {
                let dead = dead(all, &rules).await.ok_or_else(|| {
                    format!("other workers of this machine have all of {all}: give each a larger block with --internal-addresses")
                })?;
                remove(rules.iter().filter(|rule| is_at(rule, dead))).await?;
                dead
            }
        };
        run("ip", &["route", "replace", "local", &block.to_string(), "dev", "lo"]).await?;
        Ok(Self { node, block })
    }

    /// Puts the rules in the place of those that there are of this node.
    pub(super) async fn install(&self, listening: Listening) -> Result<(), String> {
        self.remove_rules().await?;
        for (chain, words) in wanted(self.node, self.block, listening) {
            let [flag, table, name] = chain.words();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let args = [&["-w", "5", flag, table, "-I", name, "1"], &words[..]].concat();
            run("iptables", &args).await?;
        }
        Ok(())
    }

    /// Whether the rules are there, which whoever sets up the packet filter anew removes.
    pub(super) async fn is_whole(&self, listening: Listening) -> Result<bool, String> {
        let rules = rules().await?;
        let own = rules.iter().filter(|rule| rule.node == self.node.to_string());
        Ok(own.count() == wanted(self.node, self.block, listening).len())
    }

    pub(super) async fn remove_all(&self) -> Result<(), String> {
        self.remove_rules().await?;
        run("ip", &["route", "del", "local", &self.block.to_string(), "dev", "lo"]).await.map(drop)
    }

    async fn remove_rules(&self) -> Result<(), String> {
        let node = self.node.to_string();
        remove(rules().await?.iter().filter(|rule| rule.node == node)).await
    }
}

/// Held while a worker chooses its addresses, so that two that start at once never choose the same. It is of the network namespace, as the rules are, and goes
/// with the process.
pub(super) struct Alone(#[allow(dead_code, reason = "held until dropped")] UnixListener);

pub(super) async fn alone() -> Result<Alone, String> {
    let name = SocketAddr::from_abstract_name(LOCK).map_err(|error| error.to_string())?;
    let began = tokio::time::Instant::now();
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(held) => return Ok(Alone(held)),
            Err(error) if began.elapsed() >= COMMAND_MAX => {
                return Err(format!("another worker of this machine is choosing its addresses: {error}"));
            }
            Err(_) => tokio::time::sleep(LOCK_LOOK).await,
        }
    }
}

/// What is to be there, in the order in which each is put in front.
fn wanted(node: NodeId, block: Block, listening: Listening) -> Vec<(Chain, Vec<String>)> {
    let home = block.home();
    let comment = format!("{OURS}{node}");
    let rule = |text: String| text.split_whitespace().map(str::to_owned).collect();
    let marked = format!("-m comment --comment {comment}");
    let mut wanted = Vec::new();
    // Behind those that are put in front of them, of which one takes what is asked of the name server.
    if let Some(Ports { first, last }) = listening.datagrams {
        let brought = format!("-d {block} -i {BRIDGES} -p udp {marked}");
        wanted.push((Chain::Nat, rule(format!("{brought} -j DNAT --to-destination {home}:{first}-{last}"))));
        let taken = format!("-d {home}/32 -i {BRIDGES} -p udp --dport {first}:{last} {marked}");
        wanted.push((Chain::Input, rule(format!("{taken} -j ACCEPT"))));
    }
    wanted.extend([
        (
            Chain::Nat,
            rule(format!("-d {block} -p tcp {marked} -j DNAT --to-destination {home}:{}", listening.tcp)),
        ),
        (
            Chain::Nat,
            rule(format!(
                "-d {home}/32 -p udp --dport 53 {marked} -j DNAT --to-destination {home}:{}",
                listening.dns
            )),
        ),
        // For machines that take nothing of containers otherwise.
        (Chain::Input, rule(format!("-d {home}/32 -p tcp --dport {} {marked} -j ACCEPT", listening.tcp))),
        (Chain::Input, rule(format!("-d {home}/32 -p udp --dport {} {marked} -j ACCEPT", listening.dns))),
    ]);
    wanted
}

/// The part of a block for a node: the one that it had, or one that nobody has. None: all are taken.
fn choose(all: Block, node: NodeId, rules: &[Rule]) -> Option<Block> {
    let parts = all.parts(NODE_BITS);
    let node = node.to_string();
    let has = |part: &Block, is_own: bool| {
        rules.iter().any(|rule| (rule.node == node) == is_own && is_at(rule, *part))
    };
    if let Some(own) = parts.clone().find(|part| has(part, true) && !has(part, false)) {
        return Some(own);
    }
    let hash = blake3::hash(node.as_bytes());
    let count = parts.clone().count();
    let begin = usize::from(u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % count.max(1);
    parts.clone().cycle().skip(begin).take(count).find(|part| !has(part, false))
}

/// Whether a rule is about addresses of a part, or of a block around it.
fn is_at(rule: &Rule, part: Block) -> bool {
    let Some(destination) = &rule.destination else { return false };
    let (first, bits) = destination.split_once('/').unwrap_or((destination, "32"));
    let (Ok(first), Ok(bits)) = (first.parse::<Ipv4Addr>(), bits.parse::<u8>()) else { return false };
    part.contains(first) || (bits <= 32 && Block::new(first.octets(), bits).contains(part.at(0)))
}

/// A part whose worker has gone without removing its rules.
async fn dead(all: Block, rules: &[Rule]) -> Option<Block> {
    for part in all.parts(NODE_BITS) {
        let mut listens = false;
        for to in rules.iter().filter(|rule| is_at(rule, part)).filter_map(|rule| rule.to) {
            let connect = tokio::net::TcpStream::connect(to);
            listens |= matches!(tokio::time::timeout(CONNECT_MAX, connect).await, Ok(Ok(_)));
        }
        if !listens {
            return Some(part);
        }
    }
    None
}

async fn rules() -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    for chain in [Chain::Nat, Chain::Input] {
        let [flag, table, name] = chain.words();
        let listed = run("iptables", &["-w", "5", flag, table, "-S", name]).await?;
        rules.extend(listed.lines().filter_map(|line| read(chain, line)));
    }
    Ok(rules)
}

/// What `iptables -S` prints, as the rules of each chain: that of somebody else is none.
#[cfg(any(test, fuzzing))]
pub(crate) fn rules_of(printed: &str) {
    for chain in [Chain::Nat, Chain::Input] {
        let rules = printed.lines().filter_map(|line| read(chain, line));
        rules.for_each(|rule| assert!(rule.node.parse::<NodeId>().is_ok() && rule.chain == chain));
    }
}

/// A line of `iptables -S`. None: it is not a worker's.
fn read(chain: Chain, line: &str) -> Option<Rule> {
    let words: Vec<String> =
        line.split_whitespace().skip(2).map(|word| word.trim_matches('"').to_owned()).collect();
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).cloned()
    };
    let node = after("--comment")?.strip_prefix(OURS)?.to_owned();
    // Of somebody whose comments begin like ours.
    node.parse::<NodeId>().ok()?;
    let to = after("--to-destination").and_then(|to| to.parse().ok());
    Some(Rule { chain, node, destination: after("-d"), to, words })
}

async fn remove(rules: impl Iterator<Item = &Rule>) -> Result<(), String> {
    for rule in rules {
        let [flag, table, name] = rule.chain.words();
        let words: Vec<&str> = rule.words.iter().map(String::as_str).collect();
        run("iptables", &[&["-w", "5", flag, table, "-D", name], &words[..]].concat()).await?;
    }
    Ok(())
}

/// What a command prints.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let shown = || format!("`{program} {}`", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let output = match tokio::time::timeout(COMMAND_MAX, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("there is no `{program}` on this machine: install it"));
        }
        Ok(Err(error)) => return Err(format!("could not run {}: {error}", shown())),
        Err(_) => return Err(format!("{} did not end within {COMMAND_MAX:?}", shown())),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(300).collect();
        return Err(format!("{} failed, which takes root: {said}", shown()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Block {
        "198.18.0.0/15".parse().unwrap()
    }

    /// As the packet filter lists what was put in.
    fn listed(node: NodeId, block: Block) -> Vec<Rule> {
        let datagrams = Some(Ports { first: 5000, last: 5015 });
        let listening = Listening { tcp: 4000, dns: 4001, datagrams };
        let lines = wanted(node, block, listening).into_iter().map(|(chain, words)| {
            let [_, _, name] = chain.words();
            (chain, format!("-A {name} {}", words.join(" ").replace("--dport", "-m udp --dport")))
        });
        lines.map(|(chain, line)| read(chain, &line).unwrap()).collect()
    }

    #[test]
    fn a_worker_knows_its_rules_again_and_leaves_others_alone() {
        let node = NodeId::new();
        let block = choose(all(), node, &[]).unwrap();
        let rules = listed(node, block);
        let [datagrams, _, tcp, dns, ..] = &rules[..] else { panic!("there are more") };
        assert!(
            datagrams.words.ends_with(&["--to-destination".into(), format!("{}:5000-5015", block.home())])
        );
        assert_eq!((datagrams.to, datagrams.chain), (None, Chain::Nat));
        assert_eq!(tcp.to, Some(SocketAddrV4::new(block.home(), 4000)));
        assert_eq!(dns.to, Some(SocketAddrV4::new(block.home(), 4001)));
        assert_eq!(dns.words[..4], ["-d", &format!("{}/32", block.home()), "-p", "udp"]);
        assert!(rules.iter().all(|rule| rule.node == node.to_string() && is_at(rule, block)));
        let quoted = format!("-A INPUT -d 198.18.0.1/32 -m comment --comment \"wharf-{node}\" -j ACCEPT");
        assert_eq!(read(Chain::Input, &quoted).unwrap().node, node.to_string());
        for other in [
            "-P PREROUTING ACCEPT",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-A INPUT -m comment --comment wharf-side -j ACCEPT",
            "-A INPUT -m comment --comment \"of somebody\" -j ACCEPT",
            "",
        ] {
            assert_eq!(read(Chain::Nat, other), None, "{other}");
        }
    }

    #[test]
    fn workers_of_one_machine_have_different_addresses_and_each_keeps_its_own() {
        let (mut rules, mut blocks) = (Vec::new(), Vec::new());
        for _ in 0..32 {
            let node = NodeId::new();
            let block = choose(all(), node, &rules).unwrap();
            rules.extend(listed(node, block));
            blocks.push((node, block));
        }
        for (index, (node, block)) in blocks.iter().enumerate() {
            assert!(blocks[index + 1..].iter().all(|(_, other)| other != block));
            assert_eq!(choose(all(), *node, &rules), Some(*block));
        }
        assert_eq!(choose(all(), NodeId::new(), &rules), None);
    }
}
