//! What `wharf doctor` says of the servers, nodes and CAs of a platform.

use jiff::Timestamp;
use wharf_types::NodeId;
use wharf_types::api::{AuthorityInfo, AuthorityState, NodeInfo, ServerInfo};

use super::Check;
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{ago, count, short_id, some_of};

/// What was found of a platform.
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    /// Whether it takes workers of other hosts, so that its front doors are elsewhere.
    pub(super) is_cluster: bool,
}

/// Asks for servers, nodes and CAs. A token that may not see them is no fault.
pub(super) async fn look(client: &Client) -> Found {
    let (servers, nodes) = tokio::join!(client.servers(), client.nodes());
    let now = Timestamp::now();
    let mut checks = Vec::new();
    let servers = told("servers", servers, &mut checks);
    let is_cluster = servers.as_ref().is_some_and(|all| all.iter().any(|it| !it.address.is_empty()));
    checks.extend(servers.as_deref().map(check_servers));
    let nodes = told("nodes", nodes, &mut checks);
    checks.extend(nodes.as_deref().map(|all| check_nodes(all, is_cluster, now)));
    if is_cluster {
        let authorities = told("ca", client.authorities().await, &mut checks);
        checks.extend(
            authorities.map(|all| check_authorities(&all, nodes.as_deref().unwrap_or_default(), now)),
        );
    }
    Found { checks, is_cluster }
}

/// What the platform has answered; where it has not, that becomes a check.
fn told<T>(name: &'static str, answer: anyhow::Result<T>, checks: &mut Vec<Check>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if Exit::of(&error) == Exit::Refused => {
            checks.push(Check::ok(name, "not looked at: that needs the token of a cluster admin"));
            None
        }
        Err(error) => {
            let help = "look at the log of the platform";
            checks.push(Check::failed(name, format!("{error:#}"), help));
            None
        }
    }
}

fn check_servers(all: &[ServerInfo]) -> Check {
    let name = "servers";
    let there = all.iter().filter(|server| server.ready).count();
    let silent: Vec<String> = all.iter().filter(|server| !server.ready).map(named_server).collect();
    let Some(leader) = all.iter().find(|server| server.leads) else {
        let help = "another leads within three seconds of the leader's death: look again, and then at the logs of the servers";
        return Check::failed(name, format!("none of {} leads", count(all.len() as u64, "server")), help);
    };
    let detail = format!("{there} of {} there, {} leads", count(all.len() as u64, "server"), leader.hostname);
    if silent.is_empty() {
        return Check::ok(name, detail);
    }
    let help = "`wharf server ls` says since when; one that is gone for good is listed for a day";
    Check::warning(name, format!("{detail}; silent: {}", some_of(&silent)), help)
}

fn named_server(server: &ServerInfo) -> String {
    if server.address.is_empty() {
        return server.hostname.clone();
    }
    format!("{} ({})", server.hostname, server.address)
}

fn check_nodes(all: &[NodeInfo], is_cluster: bool, now: Timestamp) -> Check {
    let name = "nodes";
    let named = |node: &NodeInfo| format!("{} ({})", node.hostname, short_id(node.id));
    let ready = all.iter().filter(|node| node.ready).count();
    let silent: Vec<String> = all
        .iter()
        .filter(|node| !node.ready)
        .map(|node| format!("{}, seen {}", named(node), ago(now, node.seen_at)))
        .collect();
    let emptied: Vec<String> = all.iter().filter(|node| node.ready && node.draining).map(named).collect();
    let mut detail = format!("{ready} of {} ready", count(all.len() as u64, "node"));
    if !emptied.is_empty() {
        detail = format!("{detail}, of which nothing is placed on {}", some_of(&emptied));
    }
    if !silent.is_empty() {
        detail = format!("{detail}; silent: {}", some_of(&silent));
    }
    match (ready, silent.is_empty()) {
        (0, true) if is_cluster => {
            Check::failed(name, "no host has joined", "`wharf node token create` prints what to run on one")
        }
        (0, _) => {
            Check::failed(name, detail, "nothing can run: start a worker, whose log says what it needs")
        }
        (_, false) => Check::warning(
            name,
            detail,
            "their workers' logs say why; what is gone for good: `wharf node rm NODE`",
        ),
        (_, true) if emptied.len() == ready => Check::failed(
            name,
            detail,
            "nothing can be placed: `wharf node resume NODE` takes one back into service",
        ),
        (_, true) => Check::ok(name, detail),
    }
}

fn check_authorities(all: &[AuthorityInfo], nodes: &[NodeInfo], now: Timestamp) -> Check {
    let name = "ca";
    let Some(moving) = all.iter().find(|ca| ca.state != AuthorityState::Signs) else {
        return Check::ok(name, "one, and no other is being brought in");
    };
    let hostname = |id: NodeId| nodes.iter().find(|node| node.id == id).map(|node| node.hostname.clone());
    let waits: Vec<String> =
        moving.waits_for.iter().map(|id| hostname(*id).unwrap_or_else(|| short_id(*id))).collect();
    let begun = ago(now, moving.changed_at);
    if waits.is_empty() {
        return Check::ok(name, format!("another one is being brought in; the last step was {begun}"));
    }
    let detail = format!(
        "another one is being brought in, whose last step was {begun}, and waits for {}",
        some_of(&waits)
    );
    let help = "start these nodes, or `wharf server ca rotate --force`, which waits for silent ones no longer: they have to join again then";
    Check::warning(name, detail, help)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn server(hostname: &str, ready: bool, leads: bool) -> ServerInfo {
        let at = Timestamp::UNIX_EPOCH;
        ServerInfo {
            id: hostname.to_owned(),
            hostname: hostname.to_owned(),
            address: format!("{hostname}:7071"),
            version: "0".to_owned(),
            ready,
            leads,
            leads_since: None,
            started_at: at,
            seen_at: at,
        }
    }

    fn node(hostname: &str, ready: bool, draining: bool) -> NodeInfo {
        let json = serde_json::json!({
            "id": NodeId::new(), "hostname": hostname, "ready": ready, "draining": draining, "instances": 0,
            "memory_bytes": 0, "cpus": 1, "version": "0", "seen_at": "1970-01-01T00:00:00Z",
        });
        serde_json::from_value(json).unwrap()
    }

    fn says(check: &Check, state: State, words: &[&str]) {
        let text = format!("{} {}", check.detail, check.help.as_deref().unwrap_or_default());
        assert_eq!(check.state, state, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn servers_that_are_silent_and_that_none_leads_are_told() {
        let all = [server("a", true, true), server("b", true, false)];
        says(&check_servers(&all), State::Ok, &["2 of 2 servers there", "a leads"]);
        let all = [server("a", true, true), server("b", false, false)];
        says(&check_servers(&all), State::Warning, &["1 of 2", "silent: b (b:7071)", "wharf server ls"]);
        says(&check_servers(&[server("a", true, false)]), State::Failed, &["none of 1 server leads"]);
    }

    #[test]
    fn nodes_that_are_silent_or_take_nothing_are_told() {
        let now = Timestamp::from_second(7200).unwrap();
        let check = |all: &[NodeInfo]| check_nodes(all, true, now);
        says(&check(&[]), State::Failed, &["no host has joined", "wharf node token create"]);
        says(&check(&[node("a", true, false)]), State::Ok, &["1 of 1 node ready"]);
        let one_silent = [node("a", true, false), node("b", false, false)];
        says(
            &check(&one_silent),
            State::Warning,
            &["1 of 2", "silent: b (", "seen 2 h ago", "wharf node rm"],
        );
        says(&check(&[node("b", false, false)]), State::Failed, &["0 of 1", "nothing can run"]);
        let one_drained = [node("a", true, false), node("c", true, true)];
        says(&check(&one_drained), State::Ok, &["nothing is placed on c ("]);
        says(&check(&[node("c", true, true)]), State::Failed, &["wharf node resume"]);
        let many: Vec<NodeInfo> =
            (0..9).map(|number| node(&format!("n{number}"), number == 0, false)).collect();
        says(&check(&many), State::Warning, &["n5", "and 3 more"]);
    }

    #[test]
    fn another_ca_that_waits_is_told_with_the_nodes_that_it_waits_for() {
        let now = Timestamp::from_second(60).unwrap();
        let nodes = [node("b", false, false)];
        let ca = |state, waits_for: &[NodeId]| AuthorityInfo {
            id: "ab".to_owned(),
            state,
            created_at: Timestamp::UNIX_EPOCH,
            changed_at: Timestamp::UNIX_EPOCH,
            waits_for: waits_for.to_vec(),
            forced: false,
        };
        let signs = ca(AuthorityState::Signs, &[]);
        says(&check_authorities(std::slice::from_ref(&signs), &nodes, now), State::Ok, &["no other"]);
        let next = ca(AuthorityState::Next, &[nodes[0].id]);
        let waits = check_authorities(&[signs.clone(), next], &nodes, now);
        says(&waits, State::Warning, &["1 min ago", "waits for b", "--force"]);
        let moves = check_authorities(&[signs, ca(AuthorityState::Old, &[])], &nodes, now);
        says(&moves, State::Ok, &["is being brought in"]);
    }
}
