//! `wharf quota`: what a namespace may use, and what it uses.

use std::str::FromStr;

use clap::{Args, Subcommand};
use wharf_types::api::{ContainerRights, Quota, QuotaInfo};
use wharf_types::problem::ProblemCode;
use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::spec::{InvalidDestination, Priority, PrivateDestination};
use wharf_types::{NamespaceName, Problem};

use crate::args::{Global, NoArgs, With};
use crate::client::Client;
use crate::exit::Failure;
use crate::output::{self, bytes};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct QuotaArgs {
    #[command(subcommand)]
    pub command: QuotaCommand,
}

#[derive(Subcommand, Debug)]
pub enum QuotaCommand {
    /// Show what the namespace may use, and what it uses
    Show(With<NoArgs>),
    /// Set limits of the namespace; those that are not named stay as they are, `none` takes one away
    Set(With<QuotaSetArgs>),
}

/// A limit, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T>(Option<T>);

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|limit| Self(Some(limit))) }
    }
}

#[derive(Args, Clone, Debug)]
pub struct QuotaSetArgs {
    /// Apps
    #[arg(long, value_name = "NUMBER")]
    pub apps: Option<Limit<u64>>,
    /// Instances of all apps together
    #[arg(long, value_name = "NUMBER")]
    pub instances: Option<Limit<u64>>,
    /// Memory that all instances reserve, and that guests hold at once on a node, such as `4GiB`
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Limit<ByteSize>>,
    /// Processors that all instances reserve, and that guests use on a node, such as `2` or `500m`
    #[arg(long, value_name = "CPUS")]
    pub cpu: Option<Limit<CpuShare>>,
    /// Sizes of all volumes together
    #[arg(long, value_name = "SIZE")]
    pub volumes: Option<Limit<ByteSize>>,
    /// Artifacts and files together
    #[arg(long, value_name = "SIZE")]
    pub artifacts: Option<Limit<ByteSize>>,
    /// Repositories that were pushed to
    #[arg(long, value_name = "SIZE")]
    pub repositories: Option<Limit<ByteSize>>,
    /// Secrets
    #[arg(long, value_name = "NUMBER")]
    pub secrets: Option<Limit<u64>>,
    /// Requests a second to all apps together; more get 429
    #[arg(long, visible_alias = "rps", value_name = "NUMBER")]
    pub requests_per_second: Option<Limit<u64>>,
    /// Octets a second that all apps together send from a node, such as 10MiB; more waits
    #[arg(long, value_name = "SIZE")]
    pub egress: Option<Limit<ByteSize>>,
    /// Whether containers may run, `isolated` or with parts of their `node`
    #[arg(long, value_name = "none|isolated|node", value_parser = parse_rights)]
    pub containers: Option<ContainerRights>,
    /// The highest priority that apps and jobs may be given; a cluster admin may give any
    #[arg(long, value_name = "low|normal|high", value_parser = parse_priority)]
    pub priority: Option<Priority>,
    /// Private destinations that `outbound.allow` may name, such as `127.0.0.1:5432`, `10.0.0.0/8` or `*`; a cluster admin may grant any
    #[arg(long, value_name = "none|DESTINATION", value_delimiter = ',', value_parser = parse_destination)]
    pub private_outbound: Option<Vec<Limit<PrivateDestination>>>,
}

fn parse_destination(text: &str) -> Result<Limit<PrivateDestination>, String> {
    text.parse().map_err(|error: InvalidDestination| error.to_string())
}

fn parse_priority(text: &str) -> Result<Priority, String> {
    let all = [Priority::Low, Priority::Normal, Priority::High];
    let named = all.into_iter().find(|priority| priority.as_str() == text);
    named.ok_or_else(|| "write `low`, `normal` or `high`".to_owned())
}

fn parse_rights(text: &str) -> Result<ContainerRights, String> {
    match text {
        "none" => Ok(ContainerRights::Denied),
        "isolated" => Ok(ContainerRights::Isolated),
        "node" => Ok(ContainerRights::Node),
        _ => Err("write `none`, `isolated` or `node`".to_owned()),
    }
}

fn rights(rights: Option<ContainerRights>) -> &'static str {
    match rights {
        None | Some(ContainerRights::Denied) => "none",
        Some(ContainerRights::Isolated) => "isolated",
        Some(ContainerRights::Node) => "node",
    }
}

impl QuotaSetArgs {
    /// The limits with those that were named. None: none was.
    fn apply(self, before: Quota) -> Option<Quota> {
        fn size(limit: Limit<ByteSize>) -> Limit<u64> {
            Limit(limit.0.map(ByteSize::as_bytes))
        }
        let cpu = self.cpu.map(|cpu| Limit(cpu.0.map(|share| u64::from(share.as_millis()))));
        let mut quota = before;
        let named = [
            (self.apps, &mut quota.apps),
            (self.instances, &mut quota.instances),
            (self.memory.map(size), &mut quota.memory_bytes),
            (cpu, &mut quota.cpu_millis),
            (self.volumes.map(size), &mut quota.volume_bytes),
            (self.artifacts.map(size), &mut quota.artifact_bytes),
            (self.repositories.map(size), &mut quota.repository_bytes),
            (self.secrets, &mut quota.secrets),
            (self.requests_per_second, &mut quota.requests_per_second),
            (self.egress.map(size), &mut quota.egress_bytes_per_second),
        ];
        let mut any = self.containers.is_some() || self.priority.is_some() || self.private_outbound.is_some();
        for (limit, field) in named {
            if let Some(Limit(limit)) = limit {
                *field = limit;
                any = true;
            }
        }
        quota.containers = self.containers.or(quota.containers);
        quota.priority = self.priority.or(quota.priority);
        if let Some(destinations) = self.private_outbound {
            let named = destinations.iter().filter_map(|Limit(destination)| *destination);
            quota.private_outbound = named.map(|destination| destination.to_string()).collect();
        }
        any.then_some(quota)
    }
}

pub async fn run(before: Global, args: QuotaArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        QuotaCommand::Show(with) => {
            let session = open(with.global)?;
            let namespace = session.namespace()?;
            let quota = session.client.quota(&namespace).await?;
            print(&session, &quota)
        }
        QuotaCommand::Set(with) => {
            let session = open(with.global)?;
            let namespace = session.namespace()?;
            set(&session, &namespace, with.args).await
        }
    }
}

async fn set(session: &Session, namespace: &NamespaceName, args: QuotaSetArgs) -> anyhow::Result<()> {
    let set = merge(&session.client, namespace, &args).await?;
    print(session, &set)?;
    if !session.json && !set.over.is_empty() {
        output::note(format!(
            "beyond the limit: {}; nothing is taken away, and only growth is refused",
            set.over.join("; ")
        ));
    }
    Ok(())
}

/// How often a quota is read again that others keep changing. Of those who change it at the same time one gets through each time.
const TRIES_MAX: usize = 20;

/// Sets the limits that were named, and leaves the others as they are, also those that somebody else sets meanwhile.
async fn merge(client: &Client, namespace: &NamespaceName, args: &QuotaSetArgs) -> anyhow::Result<QuotaInfo> {
    let mut tries = 1;
    loop {
        let (before, etag) = client.quota_to_change(namespace).await?;
        let Some(quota) = args.clone().apply(before.quota) else {
            return Err(Failure::usage("no limit was named")
                .help(
                    "such as `wharf quota set --apps 10 --memory 4GiB`; `wharf quota set --help` lists them",
                )
                .into());
        };
        match client.set_quota(namespace, &quota, etag.as_ref()).await {
            Err(error) if tries < TRIES_MAX && was_changed(&error) => tries += 1,
            set => return set,
        }
    }
}

fn was_changed(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Problem>();
    problem.is_some_and(|problem| problem.code == ProblemCode::PreconditionFailed)
}

fn print(session: &Session, quota: &QuotaInfo) -> anyhow::Result<()> {
    if session.json {
        return output::json(quota);
    }
    table(quota)
}

/// What is used of each limit.
pub fn table(QuotaInfo { quota, used, .. }: &QuotaInfo) -> anyhow::Result<()> {
    let number: fn(u64) -> String = |amount| amount.to_string();
    let cpu: fn(u64) -> String =
        |millis| CpuShare::millis(u32::try_from(millis).unwrap_or(u32::MAX)).to_string();
    let size: fn(u64) -> String = bytes;
    let rows = [
        ("apps", Some(used.apps), quota.apps, number),
        ("instances", Some(used.instances), quota.instances, number),
        ("memory", Some(used.memory_bytes), quota.memory_bytes, size),
        ("cpu", Some(used.cpu_millis), quota.cpu_millis, cpu),
        ("volumes", Some(used.volume_bytes), quota.volume_bytes, size),
        ("artifacts", Some(used.artifact_bytes), quota.artifact_bytes, size),
        ("repositories", Some(used.repository_bytes), quota.repository_bytes, size),
        ("secrets", Some(used.secrets), quota.secrets, number),
        ("requests per second", None, quota.requests_per_second, number),
        ("egress per second", None, quota.egress_bytes_per_second, size),
    ];
    let mut table = Table::new(["QUOTA", ">USED", ">LIMIT"]);
    for (name, used, limit, text) in rows {
        let used = used.map_or_else(|| "-".to_owned(), text);
        table.row([name.to_owned(), used, limit.map_or_else(|| "none".to_owned(), text)]);
    }
    table.row(["containers".to_owned(), "-".to_owned(), rights(quota.containers).to_owned()]);
    let priority = quota.priority.unwrap_or_default();
    table.row(["priority".to_owned(), "-".to_owned(), priority.as_str().to_owned()]);
    let private = &quota.private_outbound;
    let private = if private.is_empty() { "none".to_owned() } else { private.join(", ") };
    table.row(["private outbound".to_owned(), "-".to_owned(), private]);
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::test_server::{self, TestServer};
    use clap::Parser as _;
    use wharf_types::api::QuotaUsed;

    fn set_args(line: &[&str]) -> QuotaSetArgs {
        let line = [&["wharf", "quota", "set"][..], line].concat();
        let Command::Quota(quota) = Cli::parse_from(line).command else { panic!("not quota") };
        let QuotaCommand::Set(set) = quota.args.command else { panic!("not set") };
        set.args
    }

    #[test]
    fn limits_that_are_not_named_stay_and_none_takes_one_away() {
        let set = set_args(&["--apps", "none", "--memory", "1GiB", "--cpu", "500m"]);
        let before = Quota { apps: Some(3), secrets: Some(4), ..Quota::default() };
        let after = set.apply(before).unwrap();
        let memory_bytes = Some(1 << 30);
        assert_eq!(
            after,
            Quota { memory_bytes, cpu_millis: Some(500), secrets: Some(4), ..Quota::default() }
        );
    }

    #[test]
    fn the_highest_priority_is_named_by_its_word() {
        let set = set_args(&["--priority", "high"]);
        let before = Quota { containers: Some(ContainerRights::Isolated), ..Quota::default() };
        let after = set.apply(before.clone()).unwrap();
        assert_eq!(after, Quota { priority: Some(Priority::High), ..before });
        assert!(parse_priority("highest").unwrap_err().contains("`high`"));
    }

    #[test]
    fn private_destinations_are_set_together_and_none_takes_them_away() {
        let set = set_args(&[
            "--private-outbound",
            "127.0.0.1:5432,10.0.0.0/8",
            "--private-outbound",
            "[fd00::/8]",
        ]);
        let after = set.apply(Quota::default()).unwrap();
        assert_eq!(after.private_outbound, ["127.0.0.1:5432", "10.0.0.0/8", "[fd00::/8]"]);
        let set = set_args(&["--private-outbound", "none"]);
        assert_eq!(set.apply(after).unwrap(), Quota::default());
        assert!(parse_destination("localhost").unwrap_err().contains("write an address"));
    }

    #[tokio::test]
    async fn what_somebody_else_has_set_meanwhile_stays() {
        let info = |quota: Quota| QuotaInfo { quota, used: QuotaUsed::default(), over: Vec::new() };
        let with_etag = |etag: &str, quota: &Quota| {
            let reply = test_server::json("200 OK", &info(quota.clone()));
            reply.replacen("\r\n", &format!("\r\netag: \"{etag}\"\r\n"), 1)
        };
        let (first, second) = (Quota::default(), Quota { secrets: Some(7), ..Quota::default() });
        let merged = Quota { apps: Some(3), ..second.clone() };
        let changed = Problem::new(ProblemCode::PreconditionFailed, "it was changed since it was read");
        let server = TestServer::spawn(vec![
            with_etag("1", &first),
            test_server::json("412 Precondition Failed", &changed),
            with_etag("2", &second),
            with_etag("3", &merged),
        ])
        .await;
        let namespace = NamespaceName::default_namespace();
        let set = merge(&server.client(), &namespace, &set_args(&["--apps", "3"])).await.unwrap();
        assert_eq!(set.quota, merged);
        let requests = server.requests();
        assert!(requests[1].contains("if-match: \"1\"") && requests[3].contains("if-match: \"2\""));
        assert!(
            requests[3].contains("\"apps\":3") && requests[3].contains("\"secrets\":7"),
            "{}",
            requests[3]
        );
    }
}
