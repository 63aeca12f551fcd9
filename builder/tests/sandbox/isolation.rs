//! What a build sees of the machine, and of others.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use wharf_builder::{Artifact, Bound, CacheUse, FailReason, Isolation, Network, Sandbox};
use wharf_types::AppId;

use crate::support::{build, eventually, fixture, marker, plan, processes_with};

const MADE: &str = "echo made > app.wasm";

#[tokio::test]
async fn nothing_but_the_tree_and_the_own_cache_can_be_written() {
    let Some(fixture) = fixture().await else { return };
    for path in [
        "/x",
        "/usr/x",
        "/etc/x",
        "/dev/x",
        "/toolchain/x",
        "/bin/x",
        "/etc/passwd",
        "/proc/sys/kernel/hostname",
    ] {
        let outcome = fixture.succeeds(&format!("if echo x > {path}; then exit 1; fi; {MADE}")).await;
        assert_eq!(outcome.lines.len(), 1, "{path}: {:?}", outcome.lines);
    }
    fixture.succeeds(&format!("echo x > $HOME/x && echo x > /tmp/x && {MADE}")).await;
    let Sandbox::Confined(confined) = &fixture.sandbox else { panic!() };
    // Or the test before proves nothing.
    assert!(!confined.enforced().to_string().is_empty());
}

#[tokio::test]
async fn secrets_of_the_platform_are_out_of_sight() {
    let Some(fixture) = fixture().await else { return };
    let data = fixture.tree("data");
    for (name, mode) in [("secret-0600.key", 0o600), ("secret-0644.key", 0o644)] {
        let file = data.join(name);
        std::fs::write(&file, "hunter2").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let path = file.display();
        let look = format!(
            "cat {path} /proc/1/root{path} /proc/self/root{path}; ls -d /root/.* /home/*; find / -name '{name}' 2>/dev/null; {MADE}"
        );
        let outcome = fixture.succeeds(&look).await;
        assert!(outcome.lines.iter().all(|line| line.contains("No such file")), "{:?}", outcome.lines);
    }
}

#[tokio::test]
async fn a_tree_that_links_out_of_itself_leads_nowhere() {
    let Some(fixture) = fixture().await else { return };
    let (tree, victim) = (fixture.tree("tree"), fixture.tree("victim"));
    std::fs::write(victim.join("file"), "kept").unwrap();
    let before = std::fs::metadata(&victim).unwrap();
    symlink(&victim, tree.join("target")).unwrap();
    let mut plan = fixture.plan(&format!("cat target/file; echo x > target/new; rm -rf target/*; {MADE}"));
    plan.steps.kept = vec!["target".to_owned()];
    fixture.run(&plan).await.built();
    let names: Vec<_> = std::fs::read_dir(&victim).unwrap().flatten().map(|it| it.file_name()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(std::fs::metadata(&victim).unwrap().uid(), before.uid());
    assert_eq!(std::fs::read_to_string(victim.join("file")).unwrap(), "kept");
}

#[tokio::test]
async fn a_folder_that_the_tree_brings_is_not_kept() {
    let Some(fixture) = fixture().await else { return };
    let tree = fixture.tree("tree");
    std::fs::create_dir(tree.join("target")).unwrap();
    symlink("/", tree.join("target/release")).unwrap();
    let mut plan = fixture.plan("echo x > target/x.wasm");
    plan.steps.kept = vec!["target".to_owned()];
    plan.steps.artifact = Artifact::Path("target/x.wasm".to_owned());
    let built = fixture.run(&plan).await.built();
    assert_eq!(built.artifact, tree.canonicalize().unwrap().join("target/x.wasm"));
}

#[tokio::test]
async fn no_app_sees_the_cache_of_another() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan(&format!("ls -A $HOME; echo mine > $HOME/own-secret; {MADE}"));
    let first = fixture.run(&plan).await;
    assert!(first.lines.is_empty(), "{:?}", first.lines);
    assert_eq!(first.built().cache, CacheUse::New);
    let again = fixture.run(&plan).await;
    assert_eq!(again.lines, ["own-secret"]);
    assert_eq!(again.built().cache, CacheUse::Used);
    plan.app = Some(AppId::new());
    plan.steps.command = Some(format!("find / -name own-secret 2>/dev/null; {MADE}"));
    let other = fixture.run(&plan).await;
    assert!(other.lines.is_empty(), "{:?}", other.lines);
    assert_eq!(other.built().cache, CacheUse::New);
}

#[tokio::test]
async fn a_cache_that_has_grown_too_large_is_emptied_and_none_is_kept_for_nobody() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan(&format!("ls -A $HOME; head -c 3000000 /dev/zero > $HOME/large; {MADE}"));
    plan.limits.cache_max_bytes = 2 << 20;
    fixture.run(&plan).await.built();
    let again = fixture.run(&plan).await;
    assert!(again.lines.is_empty(), "{:?}", again.lines);
    assert_eq!(again.built().cache, CacheUse::Emptied);
    plan.app = None;
    for _ in 0..2 {
        let outcome = fixture.run(&plan).await;
        assert!(outcome.lines.is_empty(), "{:?}", outcome.lines);
        assert_eq!(outcome.built().cache, CacheUse::None);
    }
}

#[tokio::test]
async fn an_app_has_one_build_at_a_time() {
    let Some(fixture) = fixture().await else { return };
    let marker = marker();
    let first = fixture.plan(&format!("sleep 1000; : {marker}"));
    let second = plan(&fixture.tree("second"), MADE);
    let second = wharf_builder::BuildPlan { app: first.app, ..second };
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut running = Box::pin(build(&first, &fixture.sandbox, &cancel));
    tokio::select! {
        outcome = &mut running => panic!("it ended: {}", outcome.failed()),
        () = eventually("the first build", || processes_with(&marker) >= 1) => {}
    }
    let failed = fixture.run(&second).await.failed();
    assert!(matches!(failed.reason, FailReason::Busy), "{failed}");
    cancel.cancel();
    running.await.failed();
    fixture.run(&second).await.built();
}

#[tokio::test]
async fn what_listens_here_is_reached_only_where_the_network_is_granted() {
    let Some(fixture) = fixture().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'");
    let mut plan = fixture.plan(&format!("{connect} && exit 1; cat /etc/resolv.conf && exit 2; {MADE}"));
    let outcome = fixture.run(&plan).await;
    assert!(outcome.lines.iter().any(|line| line.contains("refused")), "{:?}", outcome.lines);
    outcome.built();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    plan.network = Network::Machine;
    plan.steps.command = Some(format!("{connect} && {MADE}"));
    fixture.run(&plan).await.built();
    listener.accept().unwrap();
}

#[tokio::test]
async fn a_build_has_no_rights_and_gets_none() {
    let Some(fixture) = fixture().await else { return };
    // Somebody has left a folder open to whatever is started.
    let open = std::fs::File::open("/").unwrap();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let outcome = fixture
        .succeeds(&format!(
            "grep -E 'Cap(Prm|Eff|Bnd|Inh|Amb)|NoNewPrivs' /proc/self/status; id -u; id -un; ls /proc/self/fd | wc -l; \
             unshare --user true 2>/dev/null && exit 1; su -c true </dev/null 2>/dev/null && exit 2; {MADE}"
        ))
        .await;
    let (numbers, rest) = outcome.lines.split_at(6);
    for line in &numbers[..5] {
        assert!(line.starts_with("Cap") && line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(numbers[5], "NoNewPrivs:\t1");
    // Standard streams, and the folder that is listed.
    assert_eq!(rest, ["1000", "build", "4"]);
}

#[tokio::test]
async fn a_build_sees_no_process_and_no_variable_of_others() {
    let Some(fixture) = fixture().await else { return };
    let mut plan = fixture.plan(&format!("ls -d /proc/[0-9]* | wc -l; env | sort; {MADE}"));
    plan.env = [("GIT_REV".to_owned(), "abc".to_owned())].into();
    let outcome = fixture.run(&plan).await;
    let processes: usize = outcome.lines[0].parse().unwrap();
    assert!(processes <= 6, "{:?}", outcome.lines);
    let names: Vec<&str> = outcome.lines[1..].iter().filter_map(|line| line.split('=').next()).collect();
    let known = [
        "CARGO_HOME",
        "CARGO_NET_OFFLINE",
        "CARGO_TERM_COLOR",
        "CI",
        "GIT_REV",
        "HOME",
        "LANG",
        "PATH",
        "PIP_CACHE_DIR",
        "PWD",
        "TERM",
        "USER",
        "npm_config_cache",
    ];
    assert_eq!(
        names
            .iter()
            .filter(|name| **name != "OLDPWD" && **name != "_" && **name != "SHLVL")
            .copied()
            .collect::<Vec<_>>(),
        known
    );
}

#[tokio::test]
async fn variables_of_a_build_are_not_those_of_what_makes_the_sandbox() {
    let Some(fixture) = fixture().await else { return };
    let marker = marker();
    let mut plan = fixture.plan(&format!("echo $TOKEN | wc -c; sleep 1000; : {marker}"));
    plan.env = [("TOKEN", "s3cret-value"), ("LD_PRELOAD", "/src/evil.so"), ("PATH", "/usr/bin:/bin")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut running = Box::pin(build(&plan, &fixture.sandbox, &cancel));
    tokio::select! {
        outcome = &mut running => panic!("it ended: {}", outcome.failed()),
        () = eventually("the build", || processes_with(&marker) >= 2) => {}
    }
    // Everybody here may read the command lines of others.
    assert_eq!(processes_with("s3cret-value"), 0);
    cancel.cancel();
    let outcome = running.await;
    // The loader complains in the build, and nowhere else.
    assert!(outcome.lines.iter().all(|line| line.contains("evil.so") || line == "13"), "{:?}", outcome.lines);
}

#[tokio::test]
async fn what_holds_is_said() {
    let Some(fixture) = fixture().await else { return };
    let built = fixture.succeeds(MADE).await.built();
    let Sandbox::Confined(confined) = &fixture.sandbox else { panic!() };
    assert_eq!(built.enforced, confined.enforced());
    let by_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let isolation = if by_root { Isolation::OwnUser } else { Isolation::Namespaces };
    assert_eq!(built.enforced.isolation, isolation);
    assert_eq!(built.memory_peak_bytes.is_some(), built.enforced.memory == Bound::Together);
    let owner = std::fs::metadata(&built.artifact).unwrap().uid();
    assert_eq!(owner >= 1_900_000_000 || owner == 30_000, by_root, "{owner}");
}
