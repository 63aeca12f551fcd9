//! What a spec may ask for. The field types refuse what has no meaning; this refuses what would do harm.

use std::collections::HashSet;
use std::time::Duration;

use super::placement::{Constraint, InvalidConstraint, conflict};
use super::{
    AppSpec, ContainerSpec, EngineSpec, OutboundGrant, PlacementSpec, Portion, Ratio, ReuseMode, ReuseSpec,
    is_host,
};
use crate::node::is_label_key;
use crate::quantity::{ByteSize, CpuShare, Span};
use crate::route::RoutePattern;
use crate::world::World;

/// The most slots of an app.
pub const REPLICAS_MAX: u32 = 1000;

const ENV_MAX_BYTES: usize = 32 << 10;
const ARGS_MAX: usize = 256;
const ARGS_MAX_BYTES: usize = 32 << 10;
/// Each route is looked up among all others while nobody else can write.
const ROUTES_MAX: usize = 100;
/// Each takes a listener of the front door, and a port of the worker for each instance.
const PORTS_MAX: usize = 16;
/// The first public port of an app. Those below belong to the machine's own services.
pub const PORT_MIN: u16 = 1024;
/// Each is looked up when a release is made, and delivered with each instance.
const SECRETS_MAX: usize = 100;
/// As long as names of files usually may be.
const MOUNT_MAX_BYTES: usize = 255;
/// Of one app. Each is compared with each connection of the guest.
pub const GRANTS_MAX: usize = 256;
/// Of one app. Each is compared with each name that is asked for.
pub const NAMES_MAX: usize = 256;
/// A guest's stack and its first pages take as much.
const MEMORY_MIN: ByteSize = ByteSize::mib(1);
/// A 32-bit guest can address no more.
const MEMORY_MAX: ByteSize = ByteSize::mib(4096);
/// Each is remembered for as long as it counts.
const ATTEMPTS_MAX: u32 = 1000;
/// As many as a node takes connections.
const CONCURRENCY_MAX: u32 = 10_000;
/// Each is compared with each kind of node.
const CONSTRAINTS_MAX: usize = 32;
/// Region, zone, rack and one to spare.
const SPREAD_MAX: usize = 4;
/// No single machine has more.
const RESERVE_MEMORY_MAX: ByteSize = ByteSize::mib(1 << 20);
const RESERVE_CPU_MAX: CpuShare = CpuShare::millis(1_024_000);
/// Longer than anything waits, and short enough to be added to any time.
const SPAN_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a spec cannot be run, naming the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    pub field: String,
    pub problem: String,
    /// Which item of a list it is about, from 0. None: the field as a whole, or no list.
    pub item: Option<usize>,
}

impl InvalidSpec {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into(), item: None }
    }

    /// The way to what is wrong, such as `limits.memory` or `placement.constraints[2]`, counted from 1.
    pub fn path(&self) -> String {
        match self.item {
            Some(item) => format!("{}[{}]", self.field, item + 1),
            None => self.field.clone(),
        }
    }
}

pub(super) type Validated = Result<(), InvalidSpec>;

pub(super) fn invalid(field: &str, problem: impl Into<String>) -> Validated {
    Err(InvalidSpec::new(field, problem))
}

/// The same of one item of a list.
fn invalid_item(field: &str, item: usize, problem: impl Into<String>) -> Validated {
    Err(InvalidSpec { item: Some(item), ..InvalidSpec::new(field, problem) })
}

/// Checks the names and the size of variables, which `field` names in an error.
pub fn validate_env<'a>(
    field: &str,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), InvalidSpec> {
    let mut bytes = 0;
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) {
            return invalid(field, format!("`{}` is not a variable's name", name.escape_debug()));
        }
        if value.contains('\0') {
            return invalid(field, format!("the value of `{name}` contains a NUL character"));
        }
        // As a C program counts them: with the sign in between and the NUL at the end.
        bytes += name.len() + value.len() + 2;
    }
    at_most(field, "bytes", bytes, ENV_MAX_BYTES)
}

/// Checks where a guest is to see a folder; `field` names it in an error.
pub fn validate_mount(field: &str, mount: &str) -> Result<(), InvalidSpec> {
    let is_name = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    let below = mount.strip_prefix('/').filter(|_| mount.len() <= MOUNT_MAX_BYTES);
    match below {
        Some(below) if below.is_empty() || below.split('/').all(is_name) => Ok(()),
        _ => invalid(
            field,
            format!("`{}` is not a folder's absolute path, such as `/public`", mount.escape_debug()),
        ),
    }
}

impl AppSpec {
    /// What is outside the bounds that the schema has beside the field types. [`Self::validate`] refuses all of it.
    pub fn out_of_bounds(&self) -> Vec<InvalidSpec> {
        let checked = [self.validate_ports(), self.container.validate_http_port()];
        checked.into_iter().filter_map(Result::err).collect()
    }

    /// Checks what the field types alone do not.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        self.container.validate_http_port()?;
        self.validate_numbers()?;
        self.validate_scale()?;
        self.validate_spans()?;
        self.validate_memory()?;
        self.validate_lists()?;
        self.validate_tcp()?;
        self.validate_update()?;
        self.validate_placement()?;
        self.files.as_ref().map_or(Ok(()), |files| validate_mount("files.mount", &files.mount))?;
        self.validate_volumes()?;
        for path in [&self.http.health.path, &self.http.health.liveness_path].into_iter().flatten() {
            if !path.starts_with('/') {
                return invalid("http.health", format!("the path `{path}` does not start with `/`"));
            }
        }
        validate_env("env", self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        self.validate_secrets()
    }

    /// Checks what depends on the artifact.
    pub fn validate_for(&self, world: World) -> Result<(), InvalidSpec> {
        if world.is_container() {
            return self.validate_for_container(world);
        }
        if self.container != ContainerSpec::default() {
            return invalid("container", "is for images, and the artifact is WebAssembly; leave it out");
        }
        self.validate_told_ports()?;
        let memory = self.limits.memory;
        if memory > MEMORY_MAX {
            let problem = format!("{memory} is more than a 32-bit guest can address, {MEMORY_MAX}");
            return invalid("limits.memory", problem);
        }
        if world.is_http() && !self.tcp.ports.is_empty() {
            return invalid(
                "tcp.ports",
                "an HTTP app cannot listen, because it runs only while it answers; ports are for commands",
            );
        }
        if world == World::CommandP1 && !self.tcp.ports.is_empty() {
            return invalid(
                "tcp.ports",
                "a module of WASI 0.1 cannot listen; build a component of WASI 0.2 or 0.3",
            );
        }
        if world == World::CommandP1 && !self.outbound.allow.is_empty() {
            return invalid(
                "outbound.allow",
                "a module of WASI 0.1 reaches no address, whatever is granted; leave it out, or build a component of WASI 0.2 or 0.3",
            );
        }
        if world == World::CommandP1 && !self.volumes.is_empty() {
            return invalid(
                "volumes",
                "a module of WASI 0.1 cannot have volumes; build a component of WASI 0.2 or 0.3, or make one of it with `wharf componentize`",
            );
        }
        if !world.is_http() && self.update.canary.is_some() {
            return invalid(
                "update.canary",
                "is judged by what becomes of requests, and a command gets none; leave it out, or use `update.delay`",
            );
        }
        self.validate_scale_for(world)?;
        if world == World::HttpProxy && self.reuse.mode == Some(ReuseMode::Concurrent) {
            return invalid(
                "reuse.mode",
                "`concurrent` needs a WASI 0.3 component, and this is one of WASI 0.2; choose `serial`",
            );
        }
        let is_concurrent = match self.reuse.mode {
            Some(mode) => mode == ReuseMode::Concurrent,
            None => world == World::HttpService,
        };
        if self.reuse.max_concurrent.is_some() && !is_concurrent {
            return invalid("reuse.max_concurrent", "is of use with `reuse.mode` `concurrent` only");
        }
        Ok(())
    }

    fn validate_for_container(&self, world: World) -> Validated {
        for (field, is_asked) in [
            ("reuse", self.reuse != ReuseSpec::default()),
            ("engine", self.engine != EngineSpec::default()),
            ("files", self.files.is_some()),
        ] {
            if is_asked {
                return invalid(field, "is for WebAssembly, and the artifact is an image; leave it out");
            }
        }
        if !self.outbound.allow.is_empty() {
            let problem =
                "is not held to by a container, which reaches what its networks reach; leave it out";
            return invalid("outbound.allow", problem);
        }
        if !world.is_http() && self.update.canary.is_some() {
            let problem = "is judged by what becomes of requests: say where the container takes them, `container.http_port`";
            return invalid("update.canary", problem);
        }
        if let Some(variable) = &self.container.registry_login
            && self.registry_login().is_none()
        {
            return invalid("container.registry_login", format!("`{variable}` is no variable of `secrets`"));
        }
        self.container.validate(&self.tcp, |variable| {
            self.secrets.contains_key(variable) || self.configs.contains_key(variable)
        })?;
        self.validate_scale_for(world)
    }

    fn validate_numbers(&self) -> Validated {
        let reuse = &self.reuse;
        for (field, number, least, most) in [
            ("http.health.threshold", Some(self.http.health.threshold), 1, 1000),
            ("restart.attempts", self.restart.attempts, 1, ATTEMPTS_MAX),
            ("placement.max_per_node", self.placement.max_per_node, 1, REPLICAS_MAX),
            ("limits.concurrency", Some(self.limits.concurrency), 1, CONCURRENCY_MAX),
            ("reuse.max_requests", reuse.max_requests, 1, u32::MAX),
            ("reuse.max_concurrent", reuse.max_concurrent, 1, CONCURRENCY_MAX),
        ] {
            match number {
                Some(number) if number < least => {
                    return invalid(field, format!("{number} is less than {least}"));
                }
                Some(number) if number > most => {
                    return invalid(field, format!("{number} is more than {most}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn validate_spans(&self) -> Validated {
        let (health, limits, restart, update) =
            (&self.http.health, &self.limits, &self.restart, &self.update);
        for (field, span, least_millis) in [
            ("http.health.period", health.period, 10),
            ("http.health.startup_period", health.startup_period, 10),
            ("http.health.timeout", health.timeout, 1),
            ("limits.timeout", limits.timeout, 1),
            ("limits.cpu", limits.cpu, 1),
            ("reuse.idle_timeout", self.reuse.idle_timeout.unwrap_or(Span::from_secs(0)), 0),
            ("restart.delay", restart.delay, 0),
            ("restart.backoff", restart.backoff, 1),
            // What fails at once would otherwise be started thousands of times a second.
            ("restart.backoff_max", restart.backoff_max, 1000),
            ("restart.reset_after", restart.reset_after, 0),
            ("restart.window", restart.window.unwrap_or(Span::from_secs(1)), 1),
            ("stop.drain", self.stop.drain, 0),
            ("update.monitor", update.monitor, 0),
            ("update.delay", update.delay, 0),
            ("update.rollback.monitor", update.rollback.monitor.unwrap_or(update.monitor), 0),
            ("update.rollback.delay", update.rollback.delay.unwrap_or(update.delay), 0),
            (
                "update.canary.duration",
                update.canary.as_ref().map_or(Span::from_secs(1), |canary| canary.duration),
                100,
            ),
            ("update.progress_deadline", update.progress_deadline, 100),
        ] {
            let least = Span::from_millis(least_millis);
            if span < least {
                return invalid(field, format!("{span} is less than {least}"));
            }
            if span.as_duration() > SPAN_MAX {
                return invalid(field, format!("{span} is more than 365 days"));
            }
        }
        Ok(())
    }

    fn validate_update(&self) -> Validated {
        let (update, rollback) = (&self.update, &self.update.rollback);
        for (field, portion) in [
            ("update.parallelism", Some(update.parallelism)),
            ("update.rollback.parallelism", rollback.parallelism),
        ] {
            match portion {
                Some(Portion::Count(count)) if !(1..=REPLICAS_MAX).contains(&count) => {
                    return invalid(field, format!("{count} is not between 1 and {REPLICAS_MAX}"));
                }
                Some(Portion::Percent(percent)) if !(1..=100).contains(&percent) => {
                    return invalid(field, format!("{percent}% is not between 1% and 100%"));
                }
                _ => {}
            }
        }
        for (field, ratio) in [
            ("update.max_failure_ratio", Some(update.max_failure_ratio)),
            ("update.rollback.max_failure_ratio", rollback.max_failure_ratio),
            ("update.canary.share", update.canary.as_ref().map(|canary| canary.share)),
            ("update.canary.max_error_ratio", update.canary.as_ref().map(|canary| canary.max_error_ratio)),
        ] {
            if let Some(ratio) = ratio.filter(|ratio| *ratio > Ratio::ONE) {
                return invalid(field, format!("{ratio} is more than 100%"));
            }
        }
        let Some(canary) = &update.canary else { return Ok(()) };
        if canary.share == Ratio::default() {
            return invalid("update.canary.share", "no request at all would go to the new release");
        }
        if canary.min_requests == 0 {
            return invalid("update.canary.min_requests", "0 is less than 1");
        }
        if let Some(ratio) = canary.max_latency_ratio.filter(|ratio| *ratio < Ratio::ONE) {
            let problem =
                format!("{} is less than 1, so the new release would have to be faster", ratio.as_f64());
            return invalid("update.canary.max_latency_ratio", problem);
        }
        if self.is_exclusive() {
            return invalid(
                "update.canary",
                "two releases cannot run beside each other while both would write to a volume that is not shared, or with `scale.singleton`",
            );
        }
        Ok(())
    }

    fn validate_memory(&self) -> Validated {
        let memory = self.limits.memory;
        if memory < MEMORY_MIN {
            return invalid("limits.memory", format!("{memory} is less than {MEMORY_MIN}"));
        }
        if memory > RESERVE_MEMORY_MAX {
            return invalid("limits.memory", format!("{memory} is more than {RESERVE_MEMORY_MAX}"));
        }
        Ok(())
    }

    fn validate_placement(&self) -> Validated {
        let PlacementSpec { constraints, spread, max_per_node: _, priority: _ } = &self.placement;
        at_most("placement.constraints", "constraints", constraints.len(), CONSTRAINTS_MAX)?;
        let mut parsed: Vec<Constraint> = Vec::new();
        for (item, text) in constraints.iter().enumerate() {
            match text.parse() {
                Ok(constraint) => parsed.push(constraint),
                Err(error) => {
                    let problem = InvalidConstraint::to_string(&error);
                    return invalid_item("placement.constraints", item, problem);
                }
            }
        }
        if let Some((a, b)) = conflict(&parsed) {
            let problem = format!("no node can meet both `{}` and `{}`", constraints[a], constraints[b]);
            return invalid_item("placement.constraints", b, problem);
        }
        at_most("placement.spread", "keys", spread.len(), SPREAD_MAX)?;
        for (index, key) in spread.iter().enumerate() {
            if let Some(bare) = key.strip_prefix("node.labels.") {
                let problem = format!("write the label's key alone: `{}`", bare.escape_debug());
                return invalid_item("placement.spread", index, problem);
            }
            if !is_label_key(key) {
                let problem = format!("`{}` is not a label's key", key.escape_debug());
                return invalid_item("placement.spread", index, problem);
            }
            if spread[..index].contains(key) {
                return invalid_item("placement.spread", index, format!("`{key}` is there twice"));
            }
        }
        if let Some(memory) = self.reserve.memory.filter(|memory| *memory > RESERVE_MEMORY_MAX) {
            return invalid("reserve.memory", format!("{memory} is more than {RESERVE_MEMORY_MAX}"));
        }
        if let Some(cpu) = self.reserve.cpu.filter(|cpu| *cpu > RESERVE_CPU_MAX) {
            return invalid("reserve.cpu", format!("{cpu} is more than {RESERVE_CPU_MAX}"));
        }
        Ok(())
    }

    fn validate_secrets(&self) -> Validated {
        for (table, named) in [("secrets", &self.secrets), ("configs", &self.configs)] {
            at_most(table, "variables", named.len(), SECRETS_MAX)?;
            validate_env(table, named.keys().map(|name| (name.as_str(), "")))?;
            if let Some(twice) = named.keys().find(|name| self.env.contains_key(*name)) {
                let problem = format!(
                    "`{twice}` is a variable of `env` as well; take it out of one of them (`wharf env reset {twice}` if it \
                     was set there)"
                );
                return invalid(table, problem);
            }
        }
        match self.configs.keys().find(|name| self.secrets.contains_key(*name)) {
            Some(twice) => invalid(
                "configs",
                format!("`{twice}` is a variable of `secrets` as well; take it out of one of them"),
            ),
            None => Ok(()),
        }
    }

    fn validate_tcp(&self) -> Validated {
        self.validate_ports()?;
        let ports = &self.tcp.ports;
        if self.tcp.proxy_protocol && ports.is_empty() {
            return invalid("tcp.proxy_protocol", "is of use with `tcp.ports` only");
        }
        let mut seen = HashSet::new();
        match ports.iter().find(|port| !seen.insert(**port)) {
            Some(twice) => invalid("tcp.ports", format!("port {twice} is there twice")),
            None => Ok(()),
        }
    }

    /// The bounds of the schema.
    fn validate_ports(&self) -> Validated {
        let ports = &self.tcp.ports;
        at_most("tcp.ports", "ports", ports.len(), PORTS_MAX)?;
        match ports.iter().position(|port| *port < PORT_MIN) {
            Some(item) => {
                let problem = format!(
                    "port {} is below {PORT_MIN}, where only the machine's own services are",
                    ports[item]
                );
                invalid_item("tcp.ports", item, problem)
            }
            None => Ok(()),
        }
    }

    /// A guest is told where to listen; a container listens where its image does.
    fn validate_told_ports(&self) -> Validated {
        for port in &self.tcp.ports {
            let variable = self.tcp.variable(*port);
            let set_by_value = self.values().find(|(name, ..)| **name == variable);
            let table = match set_by_value {
                Some((.., kind)) => Some(kind.table()),
                None => self.env.contains_key(&variable).then_some("env"),
            };
            if let Some(table) = table {
                let problem =
                    format!("`{variable}` cannot be set: it tells the guest where to listen for `tcp.ports`");
                return invalid(table, problem);
            }
        }
        Ok(())
    }

    fn validate_lists(&self) -> Validated {
        at_most("args", "arguments", self.args.len(), ARGS_MAX)?;
        at_most("args", "bytes", self.args.iter().map(|arg| arg.len() + 1).sum(), ARGS_MAX_BYTES)?;
        if let Some(item) = self.args.iter().position(|arg| arg.contains('\0')) {
            let problem = format!("`{}` contains a NUL character", self.args[item].escape_debug());
            return invalid_item("args", item, problem);
        }
        at_most("http.routes", "routes", self.http.routes.len(), ROUTES_MAX)?;
        for (item, route) in self.http.routes.iter().enumerate() {
            if let Err(error) = route.parse::<RoutePattern>() {
                return invalid_item("http.routes", item, error.to_string());
            }
        }
        at_most("outbound.allow", "grants", self.outbound.allow.len(), GRANTS_MAX)?;
        for (item, grant) in self.outbound.allow.iter().enumerate() {
            if let Err(error) = grant.parse::<OutboundGrant>() {
                return invalid_item("outbound.allow", item, error.to_string());
            }
        }
        at_most("names", "names", self.names.len(), NAMES_MAX)?;
        if let Some(name) = self.names.keys().find(|name| name.contains('.') || !is_host(name)) {
            let problem = format!("`{}` is no name of one label, such as `vote`", name.escape_debug());
            return invalid("names", problem);
        }
        Ok(())
    }
}

pub(super) fn at_most(field: &str, what: &str, count: usize, most: usize) -> Validated {
    if count > most {
        return invalid(field, format!("{count} {what} in all, more than {most}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::CanarySpec;

    /// The default spec with a change, as an error says what is wrong with it.
    fn refused(edit: impl FnOnce(&mut AppSpec)) -> String {
        let mut spec = AppSpec::default();
        edit(&mut spec);
        spec.validate().unwrap_err().to_string()
    }

    #[test]
    fn numbers_outside_their_bounds_name_their_field() {
        assert_eq!(
            refused(|spec| spec.scale.replicas = 1001.into()),
            "scale.replicas: 1001 is more than 1000"
        );
        assert_eq!(refused(|spec| spec.limits.concurrency = 0), "limits.concurrency: 0 is less than 1");
        assert_eq!(
            refused(|spec| spec.limits.concurrency = 10_001),
            "limits.concurrency: 10001 is more than 10000"
        );
        let zero = Some(0);
        assert_eq!(refused(|spec| spec.reuse.max_requests = zero), "reuse.max_requests: 0 is less than 1");
        assert_eq!(
            refused(|spec| spec.reuse.max_concurrent = zero),
            "reuse.max_concurrent: 0 is less than 1"
        );
        assert_eq!(
            refused(|spec| spec.update.parallelism = Portion::Percent(101)),
            "update.parallelism: 101% is not between 1% and 100%"
        );
        assert!(refused(|spec| spec.restart.attempts = zero).starts_with("restart.attempts: 0"));
    }

    #[test]
    fn a_canary_that_could_say_nothing_is_refused() {
        let canary = |edit: fn(&mut CanarySpec)| {
            refused(|spec| {
                let mut canary = CanarySpec::default();
                edit(&mut canary);
                spec.update.canary = Some(canary);
            })
        };
        assert!(
            canary(|canary| canary.share = Ratio::default()).starts_with("update.canary.share: no request")
        );
        assert!(canary(|canary| canary.share = Ratio::percent(101)).ends_with("101% is more than 100%"));
        assert!(canary(|canary| canary.min_requests = 0).starts_with("update.canary.min_requests: "));
        let faster = canary(|canary| canary.max_latency_ratio = Some(Ratio::percent(90)));
        assert!(faster.contains("0.9 is less than 1"), "{faster}");
        let mut spec = AppSpec::default();
        spec.update.canary = Some(CanarySpec::default());
        spec.validate_for(World::HttpProxy).unwrap();
        assert_eq!(spec.validate_for(World::CommandP2).unwrap_err().field, "update.canary");
    }

    #[test]
    fn a_crash_loop_without_a_wait_cannot_be_asked_for() {
        let none = Span::from_secs(0);
        assert_eq!(
            refused(|spec| spec.restart.backoff_max = none),
            "restart.backoff_max: 0s is less than 1s"
        );
        assert!(refused(|spec| spec.restart.backoff = none).starts_with("restart.backoff: "));
        let eternity = Span::from_secs(u64::MAX);
        assert!(refused(|spec| spec.limits.timeout = eternity).ends_with("is more than 365 days"));
    }

    #[test]
    fn memory_that_no_guest_could_run_in_is_refused() {
        let refused = |size| refused(|spec| spec.limits.memory = size);
        assert_eq!(refused(ByteSize::bytes(0)), "limits.memory: 0B is less than 1MiB");
        let mut large = AppSpec::default();
        large.limits.memory = ByteSize::mib(4097);
        large.validate().unwrap();
        large.validate_for(World::Container).unwrap();
        let refused = large.validate_for(World::CommandP2).unwrap_err().to_string();
        assert!(refused.contains("more than a 32-bit guest can address"), "{refused}");
    }

    #[test]
    fn lists_are_bounded_and_name_their_field() {
        let many = |text: &str, count: usize| vec![text.to_owned(); count];
        assert_eq!(
            refused(|spec| spec.http.routes = many("a.example.com/", 101)),
            "http.routes: 101 routes in all, more than 100"
        );
        assert_eq!(
            refused(|spec| spec.outbound.allow = many("https://a.example.com", 257)),
            "outbound.allow: 257 grants in all, more than 256"
        );
        assert_eq!(refused(|spec| spec.args = many("", 257)), "args: 257 arguments in all, more than 256");
        assert_eq!(
            refused(|spec| spec.args = many(&"x".repeat(1 << 15), 1)),
            "args: 32769 bytes in all, more than 32768"
        );
    }

    #[test]
    fn secrets_take_variables_that_nothing_else_sets() {
        let secret = |spec: &mut AppSpec, variable: &str| {
            spec.secrets.insert(variable.to_owned(), "db-password".parse().unwrap());
        };
        let twice = refused(|spec| {
            spec.env.insert("PASSWORD".to_owned(), "1".to_owned());
            secret(spec, "PASSWORD");
        });
        assert!(twice.starts_with("secrets:") && twice.contains("wharf env reset PASSWORD"), "{twice}");
        let mut listens = AppSpec::default();
        listens.tcp.ports = vec![7000];
        secret(&mut listens, "PORT");
        let port = listens.validate_for(World::CommandP2).unwrap_err().to_string();
        assert!(port.starts_with("secrets:") && port.contains("`PORT`"), "{port}");
        assert!(refused(|spec| secret(spec, "A=B")).contains("`A=B`"));
        let many = refused(|spec| (0..101).for_each(|number| secret(spec, &format!("S{number}"))));
        assert!(many.contains("101 variables"), "{many}");
    }

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        let with =
            |name: &str, value: &str| refused(|spec| spec.env.extend([(name.to_owned(), value.to_owned())]));
        assert_eq!(with("A=B", ""), "env: `A=B` is not a variable's name");
        assert_eq!(with("A", "x\0y"), "env: the value of `A` contains a NUL character");
        assert!(with("A", &"x".repeat(1 << 15)).contains("more than 32768"));
        assert_eq!(refused(|spec| spec.args.push("a\0".into())), "args: `a\\0` contains a NUL character");
    }

    #[test]
    fn only_networks_of_the_container_are_internal_to_it() {
        let mut spec = AppSpec::default();
        spec.container.networks.insert("back".to_owned(), Vec::new());
        spec.container.internal_networks = vec!["back".to_owned()];
        spec.validate_for(World::Container).unwrap();
        spec.container.internal_networks.push("bakc".to_owned());
        let refused = spec.validate_for(World::Container).unwrap_err().to_string();
        assert_eq!(refused, "container.internal_networks: `bakc` is none of `networks`");
    }

    #[test]
    fn ports_that_an_app_cannot_have_are_refused_with_the_reason() {
        let ports = |ports: &[u16]| refused(|spec| spec.tcp.ports = ports.to_vec());
        assert!(ports(&[80]).starts_with("tcp.ports: port 80 is below 1024"));
        assert_eq!(ports(&[7000, 7001, 7000]), "tcp.ports: port 7000 is there twice");
        assert!(ports(&(7000..7017).collect::<Vec<_>>()).contains("17 ports in all, more than 16"));
        assert!(refused(|spec| spec.tcp.proxy_protocol = true).starts_with("tcp.proxy_protocol: "));
        let variable = |ports: &[u16], name: &str, world: World| {
            let mut spec = AppSpec::default();
            spec.tcp.ports = ports.to_vec();
            spec.env.insert(name.to_owned(), "1".to_owned());
            spec.validate().unwrap();
            spec.validate_for(world).map_err(|error| error.to_string())
        };
        let of_guest = |ports: &[u16], name: &str| variable(ports, name, World::CommandP2).unwrap_err();
        assert!(of_guest(&[7000], "PORT").starts_with("env: `PORT` cannot be set"));
        assert!(of_guest(&[7000, 7001], "PORT_7001").starts_with("env: `PORT_7001` cannot be set"));
        assert_eq!(variable(&[7000], "PORT", World::Container), Ok(()));
    }

    #[test]
    fn a_placement_that_no_node_can_meet_is_refused() {
        let constraints = |texts: &[&str]| {
            refused(|spec| spec.placement.constraints = texts.iter().map(ToString::to_string).collect())
        };
        assert_eq!(
            constraints(&["node.lables.zone == eu-1"]),
            "placement.constraints: `node.lables.zone == eu-1`, column 1: unknown key `node.lables.zone`; did you mean `node.labels.zone`?"
        );
        assert_eq!(
            constraints(&["node.cpus >= 8", "node.cpus < 4"]),
            "placement.constraints: no node can meet both `node.cpus >= 8` and `node.cpus < 4`"
        );
        let spread = |keys: &[&str]| {
            refused(|spec| spec.placement.spread = keys.iter().map(ToString::to_string).collect())
        };
        assert_eq!(spread(&["node.labels.zone"]), "placement.spread: write the label's key alone: `zone`");
        assert_eq!(spread(&["zone", "zone"]), "placement.spread: `zone` is there twice");
        assert_eq!(spread(&["a b"]), "placement.spread: `a b` is not a label's key");
        let path = |texts: &[&str]| {
            let mut spec = AppSpec::default();
            spec.placement.constraints = texts.iter().map(ToString::to_string).collect();
            spec.validate().unwrap_err().path()
        };
        assert_eq!(path(&["node.cpus >= 8", "node.cpu > 1"]), "placement.constraints[2]");
        assert_eq!(
            path(&["node.cpus >= 8", "node.role == worker", "node.cpus < 4"]),
            "placement.constraints[3]"
        );
        assert!(
            refused(|spec| spec.placement.max_per_node = Some(0)).starts_with("placement.max_per_node: 0")
        );
        let too_much = |spec: &mut AppSpec| spec.reserve.cpu = Some(CpuShare::millis(2_000_000));
        assert_eq!(refused(too_much), "reserve.cpu: 2000 is more than 1024");
    }

    #[test]
    fn files_are_seen_in_a_folder_with_an_absolute_path() {
        for good in ["/", "/public", "/a/b"] {
            validate_mount("files.mount", good).unwrap();
        }
        for bad in ["", "public", "./x", "/a/", "//", "/../etc", "/a/./b", "/a\0"] {
            assert_eq!(validate_mount("files.mount", bad).unwrap_err().field, "files.mount", "{bad}");
        }
    }

    #[test]
    fn only_commands_that_have_sockets_can_listen() {
        let mut spec = AppSpec::default();
        spec.tcp.ports = vec![7000];
        spec.validate().unwrap();
        for world in [World::CommandP2, World::CommandP3] {
            spec.validate_for(world).unwrap();
        }
        for world in [World::HttpProxy, World::HttpService, World::CommandP1] {
            assert_eq!(spec.validate_for(world).unwrap_err().field, "tcp.ports", "{world:?}");
        }
    }

    #[test]
    fn what_the_schema_forbids_is_told_as_a_whole_and_refused_as_well() {
        let mut spec = AppSpec::default();
        assert!(spec.out_of_bounds().is_empty());
        spec.tcp.ports = vec![7000, 80];
        spec.container.http_port = Some(0);
        let fields: Vec<String> = spec.out_of_bounds().into_iter().map(|invalid| invalid.field).collect();
        assert_eq!(fields, ["tcp.ports", "container.http_port"]);
        assert_eq!(spec.validate().unwrap_err().field, "container.http_port");
        spec.container.http_port = None;
        assert_eq!(spec.validate().unwrap_err(), spec.out_of_bounds()[0]);
        // Which is a rule between settings, and none of the schema.
        spec.tcp.ports = vec![7000, 7000];
        assert!(spec.out_of_bounds().is_empty() && spec.validate().is_err());
    }

    #[test]
    fn grants_are_for_those_who_can_use_them() {
        let mut spec = AppSpec::default();
        spec.outbound.allow = vec!["https://api.example.com".to_owned()];
        spec.validate_for(World::CommandP2).unwrap();
        assert_eq!(spec.validate_for(World::CommandP1).unwrap_err().field, "outbound.allow");
    }

    #[test]
    fn volumes_are_for_components() {
        let volume = serde_json::from_str(r#"{"name": "data", "path": "/data"}"#).unwrap();
        let spec = AppSpec { volumes: vec![volume], ..AppSpec::default() };
        spec.validate_for(World::CommandP2).unwrap();
        assert_eq!(spec.validate_for(World::CommandP1).unwrap_err().field, "volumes");
    }

    #[test]
    fn reuse_must_suit_the_world() {
        let mut spec = AppSpec::default();
        spec.reuse.mode = Some(ReuseMode::Concurrent);
        assert_eq!(spec.validate_for(World::HttpProxy).unwrap_err().field, "reuse.mode");
        spec.validate_for(World::HttpService).unwrap();
        spec.reuse.max_concurrent = Some(4);
        spec.validate_for(World::HttpService).unwrap();
        spec.reuse.mode = None;
        spec.validate_for(World::HttpService).unwrap();
        for mode in [None, Some(ReuseMode::Serial)] {
            spec.reuse.mode = mode;
            assert_eq!(spec.validate_for(World::HttpProxy).unwrap_err().field, "reuse.max_concurrent");
        }
    }
}
