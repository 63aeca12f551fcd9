//! Makes a build ready: its cache, its folders, its bounds, and the command that sets it all up.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::artifact::{Owner, Places};
use super::{FailReason, canonical, platform};
use crate::cache::{Cache, CacheError};
use crate::disk;
use crate::plan::{BuildPlan, Network};
use crate::sandbox::{Confined, Control, Enforced, Group, HOME, Launch, View, mounts};

/// A build that is ready to start.
pub(super) struct Prepared {
    pub(super) command: Command,
    pub(super) control: Option<Control>,
    pub(super) places: Places,
    pub(super) owner: Owner,
    /// Folders that are watched.
    pub(super) written: Vec<PathBuf>,
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) group: Option<Arc<Group>>,
    pub(super) enforced: Enforced,
}

/// As the user, with all that the user has.
pub(super) fn unconfined(plan: &BuildPlan, shell_command: &str) -> Result<Prepared, FailReason> {
    let tree = canonical(&plan.tree)?;
    let mut command = Command::new("sh");
    command.args(["-c", shell_command]).current_dir(&tree).envs(&plan.env).stdin(Stdio::null());
    // The artifact would be elsewhere.
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    // So that all that it starts can be ended together.
    command.process_group(0);
    Ok(Prepared {
        command,
        control: None,
        places: Places { tree, kept: Vec::new() },
        owner: Owner::User,
        written: Vec::new(),
        cache: None,
        group: None,
        enforced: Enforced::NOTHING,
    })
}

/// With a view of the machine that has nothing of others in it.
pub(super) fn confine(plan: &BuildPlan, confined: &Confined, command: &str) -> Result<Prepared, FailReason> {
    let tree = canonical(&plan.tree)?;
    let unusable = |source| FailReason::Tree { folder: plan.tree.clone(), source };
    let uid = confined.uids.map(|uids| uids.of(plan.app));
    let limits = &plan.limits;
    let caches = &confined.settings.caches;
    let cache = Cache::open(caches, plan.app, uid, limits.cache_max_bytes, limits.files_max);
    let cache = cache.map_err(|error| match error {
        CacheError::Busy => FailReason::Busy,
        CacheError::Io { .. } => platform(error),
    })?;
    if let Some(uid) = uid {
        disk::hand_over(&tree, uid).map_err(unusable)?;
    }
    let kept = kept_folders(plan, &tree, &cache, uid).map_err(platform)?;
    let places = Places { tree: tree.clone(), kept };
    places.forget(&plan.steps.artifact).map_err(platform)?;
    let group =
        confined.cgroups.as_ref().map(|cgroups| cgroups.make(limits)).transpose().map_err(platform)?;
    let doors = group.as_ref().map(Group::doors).transpose().map_err(platform)?.unwrap_or_default();
    let view = View {
        system: confined.system.clone(),
        mounts: mounts(&confined.settings.toolchains, &tree, &cache.home(), &places.kept),
        network: plan.network,
        tmp_max_bytes: limits.tmp_max_bytes,
        env: environment(plan, confined),
    };
    let launch = Launch {
        bwrap: &confined.bwrap,
        view,
        command,
        uid,
        limits,
        bound_each_memory: !group.as_ref().is_some_and(Group::has_memory),
        doors,
    };
    let (command, control) = launch.prepare().map_err(platform)?;
    let mut written = vec![tree, cache.home()];
    written.extend(places.kept.iter().map(|(_, folder)| folder.clone()));
    Ok(Prepared {
        command,
        control: Some(control),
        places,
        owner: Owner::Stranger,
        written,
        cache: Some(Arc::new(cache)),
        group: group.map(Arc::new),
        enforced: confined.enforced(),
    })
}

/// Folders of the cache that stand in the place of folders of the tree. One that the tree has something in is left alone, because it may
/// be anything, such as a link that leads elsewhere.
fn kept_folders(
    plan: &BuildPlan,
    tree: &Path,
    cache: &Cache,
    uid: Option<u32>,
) -> io::Result<Vec<(String, PathBuf)>> {
    let mut kept = Vec::new();
    for name in &plan.steps.kept {
        let place = tree.join(name);
        let is_free = match std::fs::symlink_metadata(&place) {
            Ok(metadata) => metadata.is_dir() && std::fs::read_dir(&place)?.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if let Some(kept_as) = kept_as(plan.part.as_deref(), name).filter(|_| is_free) {
            kept.push((name.clone(), cache.kept(&kept_as, uid)?));
        }
    }
    Ok(kept)
}

/// Tools that bring authorities of their own are told of this machine's, which may be those of a company's proxy.
fn trust() -> impl Iterator<Item = (&'static str, String)> {
    const BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
    const VARIABLES: [&str; 6] = [
        "SSL_CERT_FILE",
        "CARGO_HTTP_CAINFO",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
    ];
    let bundle = BUNDLES.into_iter().find(|bundle| Path::new(bundle).is_file());
    bundle.into_iter().flat_map(|bundle| VARIABLES.map(|variable| (variable, bundle.to_owned())))
}

/// The name of a kept folder in the cache. None: there is none of that name. Every part is built in the same place, `/src`, where Cargo knows
/// packages apart by their paths alone, so each part has folders of its own.
fn kept_as(part: Option<&str>, name: &str) -> Option<String> {
    let is_one_name = |name: &str| {
        let mut components = Path::new(name).components();
        matches!(components.next(), Some(Component::Normal(whole)) if whole == name)
            && components.next().is_none()
            && !name.contains("..")
    };
    let is_named = part.is_none_or(is_one_name) && is_one_name(name);
    is_named.then(|| part.map_or_else(|| name.to_owned(), |part| format!("{part}.{name}")))
}

fn environment(plan: &BuildPlan, confined: &Confined) -> Vec<(String, String)> {
    let mut path: Vec<String> = confined.settings.toolchains.iter().map(|it| it.path_entry()).collect();
    path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned));
    path.dedup();
    let in_home = |name: &str| format!("{HOME}/{name}");
    let mut env = vec![
        ("PATH", path.join(":")),
        ("HOME", HOME.to_owned()),
        ("USER", "build".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TERM", "dumb".to_owned()),
        ("CI", "true".to_owned()),
        ("CARGO_HOME", in_home("cargo")),
        ("CARGO_TERM_COLOR", "never".to_owned()),
        ("PIP_CACHE_DIR", in_home("pip")),
        ("npm_config_cache", in_home("npm")),
    ];
    match plan.network {
        Network::None => env.push(("CARGO_NET_OFFLINE", "true".to_owned())),
        Network::Machine => env.extend(trust()),
    }
    let mut env: Vec<(String, String)> =
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    env.extend(plan.env.clone());
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_keeps_a_folder_of_its_own_and_none_leads_elsewhere() {
        assert_eq!(kept_as(None, "target").unwrap(), "target");
        assert_eq!(kept_as(Some("api"), "target").unwrap(), "api.target");
        for (part, name) in [
            (None, ""),
            (None, "."),
            (None, ".."),
            (None, "a/b"),
            (None, "/a"),
            (None, "a/"),
            (Some(""), "target"),
            (Some("../x"), "target"),
            (Some("a/b"), "target"),
            (Some("/"), "target"),
        ] {
            assert_eq!(kept_as(part, name), None, "{part:?} {name}");
        }
    }
}
