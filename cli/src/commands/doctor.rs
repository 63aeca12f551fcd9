//! `wharf doctor`: checks this machine and the platform, and says what to do about what is missing.

mod cluster;

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::Serialize;
use tokio::process::Command;

use crate::args::Global;
use crate::client::Client;
use crate::context::{self, Origin, Target};
use crate::exit::{Exit, Failure};
use crate::output;

/// A tool that says nothing for so long is as good as missing.
const TOOL_TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks further apart than this make tokens and logs misleading.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 86_400);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// It works, or is not needed by everyone.
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), help: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, state: State::Warning, detail: detail.into(), help: Some(help.into()) }
    }

    fn failed(name: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, state: State::Failed, detail: detail.into(), help: Some(help.into()) }
    }
}

pub async fn run(global: Global) -> anyhow::Result<()> {
    let target = context::target(&global)?;
    let (platform, rust, python, javascript) =
        tokio::join!(check_platform(&target), check_rust(), check_python(), check_javascript());
    let (mut checks, reached) = platform;
    checks.extend([rust, python, javascript]);
    if global.json {
        output::json(&serde_json::json!({ "api": target.api, "checks": checks }))?;
    } else {
        checks.iter().try_for_each(print)?;
    }
    match checks.iter().find(|check| check.state == State::Failed) {
        None => Ok(()),
        Some(check) => {
            let exit = if reached { Exit::Platform } else { Exit::Unreachable };
            Err(Failure::new(exit, format!("the check `{}` failed", check.name)).into())
        }
    }
}

fn print(check: &Check) -> anyhow::Result<()> {
    let word = match check.state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Failed => "failed",
    };
    let word = output::state_style(word).apply_to(format!("{word:<7}"));
    output::line(format!("{word}  {:<12} {}", check.name, output::printable(&check.detail)))?;
    match &check.help {
        Some(help) => output::line(format!("{:9}{:<12} -> {help}", "", "")),
        None => Ok(()),
    }
}

/// The checks that ask the platform; and whether it answered at all.
async fn check_platform(target: &Target) -> (Vec<Check>, bool) {
    let client = match Client::new(target) {
        Ok(client) => client,
        Err(error) => {
            return (vec![Check::failed("platform", format!("{error:#}"), "check --api and --token")], false);
        }
    };
    let asked = Instant::now();
    let who = match client.whoami().await {
        Ok(who) => who,
        Err(error) if Exit::of(&error) == Exit::Unreachable => {
            let help = "start one with `wharf up`, or log in to another one with `wharf login URL`";
            let mut checks = vec![Check::failed("platform", error.to_string(), help)];
            checks.extend(check_ports(target));
            return (checks, false);
        }
        Err(error) => {
            let help = "log in with `wharf login`, or set WHARF_TOKEN";
            let reached = Check::ok("platform", format!("{} answers (from {})", target.api, target.origin));
            return (vec![reached, Check::failed("token", format!("{error:#}"), help)], true);
        }
    };
    let took = output::elapsed(asked.elapsed());
    let mut checks = vec![
        Check::ok("platform", format!("{} answers in {took} (from {})", target.api, target.origin)),
        check_version(&who.version),
        check_token(&who.name, who.role.as_str(), who.expires_at, Timestamp::now()),
    ];
    if let Ok(headers) = client.head().await {
        let date = headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
        checks.extend(date.and_then(|date| check_clock(date, Timestamp::now())));
    }
    let found = cluster::look(&client).await;
    checks.extend(found.checks);
    checks.push(check_ingress(&who.http, found.is_cluster).await);
    (checks, true)
}

fn check_version(platform: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    if platform == own {
        return Check::ok("version", format!("{own}, here and there"));
    }
    let detail = format!("the platform has {platform}, this command is {own}");
    Check::warning("version", detail, "use the same version on both sides")
}

fn check_token(name: &str, role: &str, expires_at: Option<Timestamp>, now: Timestamp) -> Check {
    let detail = match expires_at {
        Some(at) => format!("{name} ({role}), expires {}", output::ago(now, at)),
        None => format!("{name} ({role}), does not expire"),
    };
    match expires_at {
        Some(at) if at.as_second() - now.as_second() < EXPIRES_SOON.as_secs() as i64 => {
            Check::warning("token", detail, "ask an admin for a new one: `wharf token create`")
        }
        _ => Check::ok("token", detail),
    }
}

/// None: the platform's date cannot be read, which says nothing about a clock.
fn check_clock(date: &str, now: Timestamp) -> Option<Check> {
    let there = rfc2822::parse(date).ok()?.timestamp();
    let skew = Duration::from_secs(now.as_second().abs_diff(there.as_second()));
    Some(if skew <= CLOCK_SKEW_MAX {
        Check::ok("clock", "agrees with the platform's")
    } else {
        let detail = format!("is {} s away from the platform's", skew.as_secs());
        Check::warning(
            "clock",
            detail,
            "set both by NTP: tokens expire by the clock, and logs are read by it",
        )
    })
}

/// Whether the front door of the apps is open from here.
async fn check_ingress(http: &str, is_cluster: bool) -> Check {
    if is_cluster && is_this_machine(http) {
        // A server has no front door, and its workers have theirs elsewhere.
        let detail = format!("the servers say that apps are served at {http}, which is each machine itself");
        let help = "start `wharf server` with --http-url URL: where people reach the workers' front doors";
        return match connects(http).await {
            Ok(()) => Check::ok("ingress", format!("{http} is open, on this machine")),
            Err(_) => Check::warning("ingress", detail, help),
        };
    }
    let help = match is_cluster {
        true => {
            "apps are served there: check --http-url of the servers, --http of the workers, and firewalls in between"
        }
        false => "apps are served there: check the platform's --http and firewalls between here and there",
    };
    if host_and_port(http).is_none() {
        return Check::warning("ingress", format!("the platform says its address is `{http}`"), help);
    }
    match connects(http).await {
        Ok(()) => Check::ok("ingress", format!("{http} is open")),
        Err(why) => Check::failed("ingress", format!("{http}{why}"), help),
    }
}

/// Whether something listens there; if not, what happened instead.
async fn connects(http: &str) -> Result<(), String> {
    let Some(address) = host_and_port(http) else {
        return Err(" is no address".to_owned());
    };
    match tokio::time::timeout(TOOL_TIMEOUT, tokio::net::TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!(": {error}")),
        Err(_) => Err(" does not answer".to_owned()),
    }
}

/// Whether an address means the machine of whoever reads it.
fn is_this_machine(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let Some(host) = url.host_str() else { return false };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.map_or(host == "localhost", |ip| ip.is_loopback())
}

fn host_and_port(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Whether `wharf up` could listen here, where no platform answers.
fn check_ports(target: &Target) -> Option<Check> {
    if !matches!(target.origin, Origin::Local | Origin::Default) {
        return None;
    }
    let is_taken = |port: &u16| {
        let address = SocketAddr::from(([127, 0, 0, 1], *port));
        TcpListener::bind(address).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    let taken: Vec<String> = [7070, 8080].iter().filter(|port| is_taken(port)).map(u16::to_string).collect();
    let resolves = ("hello.default.localhost", 8080).to_socket_addrs().is_ok();
    Some(match (taken.is_empty(), resolves) {
        (false, _) => Check::warning(
            "ports",
            format!("something else listens on {}", taken.join(" and ")),
            "choose others: `wharf up --api 127.0.0.1:0 --http 127.0.0.1:0`",
        ),
        (true, false) => Check::warning(
            "ports",
            "7070 and 8080 are free, but names under .localhost do not resolve",
            "browsers and curl resolve them by themselves; other programs need a Host header",
        ),
        (true, true) => Check::ok("ports", "7070 and 8080 are free"),
    })
}

async fn check_rust() -> Check {
    let help = "for Rust apps: `rustup target add wasm32-wasip2`";
    let Some(version) = output_of("rustc", &["--version"]).await else {
        return Check::warning("rust", "no rustc", "for Rust apps: install Rust from https://rustup.rs");
    };
    let sysroot = output_of("rustc", &["--print", "sysroot"]).await.unwrap_or_default();
    let targets = Path::new(&sysroot).join("lib/rustlib");
    let installed: Vec<&str> = ["wasm32-wasip2", "wasm32-wasip1"]
        .into_iter()
        .filter(|target| targets.join(target).join("lib").is_dir())
        .collect();
    match installed.as_slice() {
        [] => Check::warning("rust", format!("{version}, without a WASI target"), help),
        ["wasm32-wasip1"] => Check::warning("rust", format!("{version}, with wasm32-wasip1 only"), help),
        _ => Check::ok("rust", format!("{version}, with {}", installed.join(" and "))),
    }
}

async fn check_python() -> Check {
    // An app may have its own, in the place where the guide puts it.
    for program in ["componentize-py", ".venv/bin/componentize-py"] {
        if let Some(version) = output_of(program, &["--version"]).await {
            return Check::ok("python", version);
        }
    }
    let help = "only for Python apps: `pip install componentize-py`, in a `.venv` of the app's folder";
    Check::warning("python", "no componentize-py here", help)
}

async fn check_javascript() -> Check {
    match output_of("node", &["--version"]).await {
        Some(version) => Check::ok("javascript", format!("node {version}")),
        None => {
            Check::warning("javascript", "no node", "only for JavaScript apps: install Node.js 20 or later")
        }
    }
}

/// The first line that a tool prints. None: it is missing, fails or hangs.
async fn output_of(program: &str, args: &[&str]) -> Option<String> {
    let run = Command::new(program).args(args).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(TOOL_TIMEOUT, run).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told() {
        let now: Timestamp = "2026-11-24T06:31:22Z".parse().unwrap();
        assert_eq!(check_clock("Tue, 24 Nov 2026 06:31:20 GMT", now).unwrap().state, State::Ok);
        assert_eq!(check_clock("Tue, 24 Nov 2026 06:41:20 GMT", now).unwrap().state, State::Warning);
        assert!(check_clock("yesterday", now).is_none());
    }

    #[test]
    fn a_token_that_expires_soon_is_told() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let after = |secs: i64| Timestamp::from_second(1_000_000 + secs).ok();
        assert_eq!(check_token("a", "admin", after(86_400), now).state, State::Warning);
        assert_eq!(check_token("a", "admin", after(90 * 86_400), now).state, State::Ok);
        assert_eq!(check_token("a", "admin", None, now).state, State::Ok);
    }

    #[test]
    fn an_address_of_this_machine_is_told_from_others() {
        for own in ["http://127.0.0.1:8080", "http://localhost:8080/", "http://[::1]:80"] {
            assert!(is_this_machine(own), "{own}");
        }
        for other in ["http://apps.example:8080", "http://10.0.0.1", "nonsense"] {
            assert!(!is_this_machine(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_say_where_its_front_doors_are_is_no_failure() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        assert_eq!(check_ingress(&address, false).await.state, State::Failed);
        let check = check_ingress(&address, true).await;
        assert_eq!(check.state, State::Warning);
        assert!(check.help.unwrap().contains("--http-url"));
    }

    #[test]
    fn an_address_has_a_port_even_when_it_is_not_written() {
        assert_eq!(host_and_port("https://apps.example.com").as_deref(), Some("apps.example.com:443"));
        assert_eq!(host_and_port("http://127.0.0.1:8080/").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(host_and_port("nonsense"), None);
    }
}
