//! `wharf node`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use wharf_types::api::{CreateJoinToken, NodeInfo, NodePatch, Page};
use wharf_types::event::NodeEvent;
use wharf_types::node::parse_label;
use wharf_types::quantity::Span;
use wharf_types::suggest::nearest;
use wharf_types::{NodeId, Timestamp, TokenId};

use crate::args::{Global, NoArgs, With, parse_id};
use crate::exit::{Exit, Failure};
use crate::follow::follow;
use crate::output::{self, ago, coloured, short_id};
use crate::session::Session;
use crate::table::Table;

/// How often a node that is emptied is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(200);
/// Nodes that are named where somebody has named none.
const SIMILAR_MAX: usize = 3;

#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
}

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
    /// Show one node
    Show(With<NodeRef>),
    /// Empty a node: what is on it is started elsewhere first, and nothing new is placed on it
    Drain(With<DrainArgs>),
    /// Take back `drain`
    Resume(With<NodeRef>),
    /// Set labels of a node that apps can ask for in `placement`
    Label(With<LabelArgs>),
    /// Take a node out of the cluster; its host comes back only with a new join token
    Rm(With<NodeRef>),
    /// What became of the nodes, oldest first: which joined, fell silent, were drained, and so on
    Events(With<NodeEventsArgs>),
    /// Let hosts join
    #[command(subcommand)]
    Token(JoinTokenCommand),
}

#[derive(Subcommand, Debug)]
pub enum JoinTokenCommand {
    /// Print the line to paste on a new host
    Create(With<JoinTokenArgs>),
    /// List the join tokens
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
    /// Let nobody join with a token any more
    Revoke(With<JoinTokenRef>),
}

#[derive(Args, Debug)]
pub struct NodeRef {
    /// Hostname, id, or a beginning of the id: of the whole one, or of the digits that `wharf node ls` shows of it
    pub node: String,
}

#[derive(Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    pub node: NodeRef,
    /// Return at once, and not when the node is empty
    #[arg(long)]
    pub detach: bool,
    /// How long to wait for that
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: Span,
}

#[derive(Args, Debug)]
pub struct NodeEventsArgs {
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Args, Debug)]
pub struct LabelArgs {
    #[command(flatten)]
    pub node: NodeRef,
    /// KEY=VALUE to set, KEY- to take back what was set; the worker's own value counts again then
    #[arg(required = true, value_name = "LABEL")]
    pub labels: Vec<String>,
}

#[derive(Args, Debug)]
pub struct JoinTokenArgs {
    /// How long it lets hosts in, such as `10m` [default: 1h]
    #[arg(long, visible_alias = "expires", value_name = "TIME")]
    pub expires_in: Option<Span>,
    /// How many hosts it lets in [default: 1]
    #[arg(long)]
    pub uses: Option<u32>,
    /// Place nothing on the hosts until `wharf node resume`: a token that somebody else has found brings them nothing
    #[arg(long)]
    pub drained: bool,
    /// Lets this node back in, whose certificate has expired
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// What the hosts are then, for `node.role` in `placement` [default: worker]
    #[arg(long)]
    pub role: Option<String>,
}

#[derive(Args, Debug)]
pub struct JoinTokenRef {
    /// The token's id, as `wharf node token ls` shows it
    #[arg(value_parser = parse_token)]
    pub id: TokenId,
}

fn parse_token(text: &str) -> Result<TokenId, String> {
    parse_id(text, "wharf node token ls")
}

pub async fn run(before: Global, args: NodeArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        None => list(&open(Global::default())?).await,
        Some(NodeCommand::Ls(with)) => list(&open(with.global)?).await,
        Some(NodeCommand::Show(with)) => {
            let session = open(with.global)?;
            let node = find(&session, &with.args.node).await?;
            show(&session, &node)
        }
        Some(NodeCommand::Drain(with)) => drain(&open(with.global)?, with.args).await,
        Some(NodeCommand::Resume(with)) => {
            let session = open(with.global)?;
            let node = find(&session, &with.args.node).await?;
            let patch = NodePatch { draining: Some(false), ..NodePatch::default() };
            show(&session, &session.client.patch_node(node.id, &patch).await?)
        }
        Some(NodeCommand::Label(with)) => {
            let session = open(with.global)?;
            let patch = NodePatch { labels: labels(&with.args.labels)?, ..NodePatch::default() };
            let node = find(&session, &with.args.node.node).await?;
            show(&session, &session.client.patch_node(node.id, &patch).await?)
        }
        Some(NodeCommand::Rm(with)) => {
            let session = open(with.global)?;
            let node = find(&session, &with.args.node).await?;
            session.client.remove_node(node.id).await?;
            output::note(format!("node {} ({}) is out of the cluster", node.id, node.hostname));
            Ok(())
        }
        Some(NodeCommand::Events(with)) => events(&open(with.global)?, &with.args).await,
        Some(NodeCommand::Token(command)) => match command {
            JoinTokenCommand::Create(with) => create_token(&open(with.global)?, with.args).await,
            JoinTokenCommand::Ls(with) => list_tokens(&open(with.global)?).await,
            JoinTokenCommand::Revoke(with) => {
                open(with.global)?.client.revoke_join_token(with.args.id).await?;
                output::note(format!("nobody joins with {} any more", with.args.id));
                Ok(())
            }
        },
    }
}

async fn find(session: &Session, wanted: &str) -> anyhow::Result<NodeInfo> {
    let all = session.client.nodes().await?;
    Ok(the_one(&all, wanted)?.clone())
}

/// The node that somebody means.
fn the_one<'a>(all: &'a [NodeInfo], wanted: &str) -> Result<&'a NodeInfo, Failure> {
    let is_it = |node: &&NodeInfo| node.hostname == wanted || node.id.to_string() == wanted;
    let begins = |id: String| id.starts_with(wanted);
    let starts = |node: &&NodeInfo| begins(short_id(node.id)) || begins(node.id.to_string());
    let mut found: Vec<&NodeInfo> = all.iter().filter(is_it).collect();
    if found.is_empty() && !wanted.is_empty() {
        found = all.iter().filter(starts).collect();
    }
    match found[..] {
        [node] => Ok(node),
        [] => {
            let near = similar(all, wanted);
            let help = match &near[..] {
                [] => "`wharf node ls` lists the nodes".to_owned(),
                near => format!("did you mean {}? `wharf node ls` lists all nodes", near.join(" or ")),
            };
            Err(Failure::new(Exit::NotFound, format!("there is no node `{wanted}`")).help(help))
        }
        _ => {
            let name = |node: &&NodeInfo| format!("{} ({})", node.id, node.hostname);
            let names: Vec<String> = found.iter().map(name).collect();
            Err(Failure::usage(format!("`{wanted}` may be any of {}", names.join(", ")))
                .help("name one by its id, or by more of it"))
        }
    }
}

/// Nodes that somebody may have meant, by what is shown of them.
fn similar(all: &[NodeInfo], wanted: &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    if wanted.is_empty() {
        return Vec::new();
    }
    let has = |node: &&NodeInfo| node.hostname.to_lowercase().contains(&wanted);
    let mut near: Vec<&NodeInfo> = all.iter().filter(has).take(SIMILAR_MAX).collect();
    if near.is_empty() {
        let ids: Vec<String> = all.iter().map(|node| short_id(node.id)).collect();
        let words = all.iter().map(|node| node.hostname.as_str()).chain(ids.iter().map(String::as_str));
        let nearest = nearest(&wanted, words);
        let is_near =
            |node: &&NodeInfo| nearest.is_some_and(|word| node.hostname == word || short_id(node.id) == word);
        near = all.iter().filter(is_near).take(SIMILAR_MAX).collect();
    }
    near.into_iter().map(|node| format!("`{}` ({})", node.hostname, short_id(node.id))).collect()
}

fn labels(words: &[String]) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let label = |word: &String| match word.strip_suffix('-') {
        Some(key) if !word.contains('=') => Ok((key.to_owned(), None)),
        _ => parse_label(word)
            .map(|(key, value)| (key, Some(value)))
            .map_err(|error| Failure::usage(error.to_string()).into()),
    };
    words.iter().map(label).collect()
}

fn show(session: &Session, node: &NodeInfo) -> anyhow::Result<()> {
    if session.json {
        return output::json(node);
    }
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    for (what, value) in [
        ("node", node.id.to_string()),
        ("hostname", node.hostname.clone()),
        ("state", state(node).to_owned()),
        ("seen", ago(Timestamp::now(), node.seen_at)),
        ("instances", node.instances.to_string()),
        ("cpus", node.cpus.to_string()),
        ("memory", output::bytes(node.memory_bytes)),
        ("role", node.role.clone()),
        ("platform", format!("{}/{}", node.os, node.arch)),
        ("version", node.version.clone()),
        ("peers reach it at", node.address.clone().unwrap_or_else(|| "none do".to_owned())),
        ("labels", labels.join(", ")),
    ] {
        output::line(format!("{what:<18}{value}"))?;
    }
    Ok(())
}

fn state(node: &NodeInfo) -> &'static str {
    match (node.ready, node.draining) {
        (true, false) => "ready",
        (true, true) if node.instances == 0 => "drained",
        (true, true) => "draining",
        (false, _) => "silent",
    }
}

async fn drain(session: &Session, args: DrainArgs) -> anyhow::Result<()> {
    let node = find(session, &args.node.node).await?;
    let patch = NodePatch { draining: Some(true), ..NodePatch::default() };
    let mut node = session.client.patch_node(node.id, &patch).await?;
    let deadline = Instant::now() + args.timeout.as_duration();
    while node.instances > 0 && !args.detach {
        if Instant::now() >= deadline {
            let what =
                format!("node {} still has {} instances after {}", node.id, node.instances, args.timeout);
            return Err(Failure::new(Exit::Platform, what)
                .help("it goes on emptying. What has volumes stays where they are, and what fits nowhere else goes on here: `wharf why APP` says why; `wharf node resume` takes it back")
                .into());
        }
        tokio::time::sleep(DRAIN_LOOK).await;
        node = session.client.node(node.id).await?;
    }
    show(session, &node)
}

async fn events(session: &Session, args: &NodeEventsArgs) -> anyhow::Result<()> {
    let (path, all) = ("/v1/events", [("after", "0".to_owned())]);
    let print = |event: NodeEvent| {
        if session.json {
            return output::json(&event);
        }
        let time = output::style().dim().apply_to(format!("{:.3}", event.time));
        output::line(format!(
            "{time} {} {} {}",
            short_id(event.node),
            event.kind,
            output::printable(&event.message)
        ))
    };
    if args.follow {
        match follow(&session.client, path, &all, print).await? {}
    }
    let mut events: Vec<NodeEvent> = session.client.all_with(path, &all).await?;
    events.sort_by_key(|event| event.seq);
    events.into_iter().try_for_each(print)
}

async fn create_token(session: &Session, args: JoinTokenArgs) -> anyhow::Result<()> {
    let node = match args.node {
        None => None,
        Some(node) => Some(match node.parse::<NodeId>() {
            Ok(id) => id,
            Err(_) => find(session, &node).await?.id,
        }),
    };
    let JoinTokenArgs { expires_in, uses, role, drained, .. } = args;
    let request = CreateJoinToken { expires_in, uses, node, role, drained };
    let created = session.client.create_join_token(&request).await?;
    if session.json {
        return output::json(&created);
    }
    let uses = if created.uses == 1 { "one host".to_owned() } else { format!("{} hosts", created.uses) };
    let begins = if drained { " that nothing is placed on before `wharf node resume`" } else { "" };
    output::note(format!(
        "lets {uses} in{begins}, and expires {}; it is not shown again. On the new host:",
        ago(Timestamp::now(), created.expires_at)
    ));
    output::line(format!("wharf worker --join {}@{}", created.token, created.address))
}

async fn list_tokens(session: &Session) -> anyhow::Result<()> {
    let items = session.client.join_tokens().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["TOKEN", ">USES LEFT", "EXPIRES", "CREATED", "ROLE", "BEGINS", "FOR"]);
    for token in items {
        table.row([
            token.id.to_string(),
            token.uses_left.to_string(),
            ago(now, token.expires_at),
            ago(now, token.created_at),
            token.role.unwrap_or_else(|| "worker".to_owned()),
            if token.drained { "drained" } else { "ready" }.to_owned(),
            token.node.map_or_else(|| "new nodes".to_owned(), |node| format!("node {node}")),
        ]);
    }
    table.print()
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.nodes().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new([
        "NODE",
        "~HOSTNAME",
        "STATE",
        ">INSTANCES",
        ">CPUS",
        ">MEMORY",
        "ROLE",
        "PLATFORM",
        "VERSION",
        "SEEN",
        "~LABELS",
    ]);
    for node in items {
        let state = state(&node);
        table.row([
            short_id(node.id),
            node.hostname,
            coloured(state),
            node.instances.to_string(),
            node.cpus.to_string(),
            output::bytes(node.memory_bytes),
            node.role,
            format!("{}/{}", node.os, node.arch),
            node.version,
            ago(now, node.seen_at),
            node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, hostname: &str) -> NodeInfo {
        let json = serde_json::json!({
            "id": id, "hostname": hostname, "ready": true, "instances": 0, "memory_bytes": 0, "cpus": 1, "version": "0",
            "seen_at": "1970-01-01T00:00:00Z",
        });
        serde_json::from_value(json).unwrap()
    }

    fn three() -> Vec<NodeInfo> {
        vec![
            node("01a228eb-b9df-7753-8280-182a03168ba7", "b.example"),
            node("01a228ec-0000-7000-8000-000056e97d29", "a.example"),
            node("01a228ed-0000-7000-8000-0000031ffd29", "edge-1"),
        ]
    }

    #[test]
    fn a_node_is_found_by_its_hostname_and_by_any_beginning_of_its_id_as_it_is_shown_or_as_a_whole() {
        let all = three();
        for (wanted, hostname) in [
            ("b.example", "b.example"),
            ("03168ba7", "b.example"),
            ("0316", "b.example"),
            ("031f", "edge-1"),
            ("56e9", "a.example"),
            ("01a228ec", "a.example"),
            ("01a228eb-b9df-7753-8280-182a03168ba7", "b.example"),
        ] {
            assert_eq!(
                the_one(&all, wanted).map(|node| node.hostname.as_str()).ok(),
                Some(hostname),
                "{wanted}"
            );
        }
    }

    #[test]
    fn who_names_no_node_or_several_is_told_which_there_are() {
        let all = three();
        let told = |wanted: &str| {
            let (why, help) = crate::exit::told(&the_one(&all, wanted).err().unwrap().into());
            format!("{why}; {}", help.unwrap_or_default())
        };
        for (wanted, words) in [
            ("031", &["any of", "b.example", "edge-1"][..]),
            ("edge", &["no node `edge`", "did you mean `edge-1` (031ffd29)?"][..]),
            ("c.exmple", &["did you mean `"][..]),
            ("something-else", &["no node", "`wharf node ls` lists"][..]),
            ("", &["no node ``"][..]),
        ] {
            let told = told(wanted);
            assert!(words.iter().all(|word| told.contains(word)), "{wanted}: {told}");
        }
        assert!(!told("").contains("did you mean"));
    }
}
