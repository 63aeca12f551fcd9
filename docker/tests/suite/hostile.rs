//! Containers that take what they can get.

use std::time::{Duration, Instant};

use wharf_docker::{Exit, FoundState, LogLimit, NetworkJoin, RunError};
use wharf_types::quantity::ByteSize;
use wharf_types::spec::ContainerSpec;

use crate::support::{Test, shell};

#[tokio::test]
async fn one_that_forks_without_end_reaches_its_limit_and_no_further() {
    let Some(test) = Test::begin().await else { return };
    let spec = ContainerSpec { pids: 30, ..ContainerSpec::default() };
    let id = test.shell_with(&spec, "exec sleep 1000").await;
    let forks = shell("while :; do sleep 1000 & done");
    // The shell gives up when it can make no more; what it made stays.
    let probe = test.engine.probe_command(id, &forks, Duration::from_secs(10)).await.unwrap();
    assert_eq!(probe.exit_code, Some(2), "{probe:?}");
    let usage = test.engine.usage(id).await.unwrap().unwrap();
    assert!((25..=30).contains(&usage.processes), "{usage:?}");
    let began = Instant::now();
    test.engine.stop(id, Duration::ZERO).await.unwrap();
    test.engine.remove(id).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn one_that_allocates_beyond_its_limit_is_killed_and_the_reason_told() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) = (
        ContainerSpec::default(),
        shell("a=$(yes | tr '\\n' x | dd bs=1M count=200 iflag=fullblock 2>/dev/null); echo ${#a}"),
    );
    let mut run = test.run(&spec, &args);
    run.memory = ByteSize::mib(32);
    test.engine.create_and_start(&run).await.unwrap();
    let exit = test.wait(run.id).await;
    assert!(matches!(exit, Exit::Ended { is_out_of_memory: true, .. }), "{exit:?}");
    assert!(exit.to_string().contains("memory"));
}

#[tokio::test]
async fn one_that_fills_its_log_does_not_fill_the_disk() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) =
        (ContainerSpec::default(), shell("yes 0123456789 | head -c 20000000; echo; echo last"));
    let mut run = test.run(&spec, &args);
    run.log = LogLimit { file_max: ByteSize::mib(1), files: 2 };
    test.engine.create_and_start(&run).await.unwrap();
    test.wait(run.id).await;
    let found = test.raw.inspect_container(&format!("wharf-{}", run.id), None).await.unwrap();
    let log = std::path::PathBuf::from(found.log_path.unwrap());
    let name = log.file_name().unwrap().to_string_lossy().into_owned();
    let files = std::fs::read_dir(log.parent().unwrap()).unwrap().map(|it| it.unwrap());
    let size: u64 = files
        .filter(|it| it.file_name().to_string_lossy().starts_with(&name))
        .map(|it| it.metadata().unwrap().len())
        .sum();
    assert!(size > 500_000 && size < 3 << 20, "{size}");
    assert!(test.printed(run.id).await.ends_with("\nlast"));
}

#[tokio::test]
async fn what_one_writes_outside_its_volumes_is_known() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exec sleep 1000").await;
    assert!(test.engine.written(id).await.unwrap().unwrap() < 1 << 20);
    let writes = shell("dd if=/dev/zero of=/large bs=1M count=20");
    let probe = test.engine.probe_command(id, &writes, Duration::from_secs(20)).await.unwrap();
    assert_eq!(probe.exit_code, Some(0), "{probe:?}");
    let written = test.engine.written(id).await.unwrap().unwrap();
    assert!((20 << 20..40 << 20).contains(&written), "{written}");
    test.engine.remove(id).await.unwrap();
    assert_eq!(test.engine.written(id).await.unwrap(), None);
    let folder = test.engine.folder().await.unwrap().unwrap();
    assert!(folder.is_absolute(), "{}", folder.display());
}

#[tokio::test]
async fn one_that_is_over_at_once_is_not_lost() {
    let Some(test) = Test::begin().await else { return };
    for code in [0, 1, 255] {
        let id = test.shell(&format!("echo {code}; exit {code}")).await;
        assert_eq!(test.wait(id).await, crate::support::ended(code));
        assert_eq!(test.printed(id).await, code.to_string());
    }
}

#[tokio::test]
async fn names_and_labels_may_be_anything_and_change_nothing_else() {
    let Some(test) = Test::begin().await else { return };
    let long = "x".repeat(5000);
    let labels =
        [("ünïcode 标签", "\u{202e}evil"), ("", "empty"), (&long, &long), ("a=b,c", "\n\t\"'`$(id)")];
    let spec = ContainerSpec {
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..ContainerSpec::default()
    };
    let args = shell("exec sleep 1000");
    let namespace = "default".parse().unwrap();
    let network = test.engine.ensure_network(&namespace, Some("网络 ../../\"x\" \n")).await.unwrap();
    let mut run = test.run(&spec, &args);
    run.networks = vec![NetworkJoin { network: network.clone(), aliases: vec!["x".repeat(253)] }];
    test.engine.create_and_start(&run).await.unwrap();
    let found = test.found(run.id).await;
    assert_eq!((found.state, found.instance), (FoundState::Running, run.id));
    assert_eq!(found.addresses.keys().collect::<Vec<_>>(), [&network.to_string()]);
    let raw = test.raw.inspect_container(&format!("wharf-{}", run.id), None).await.unwrap();
    let kept = raw.config.unwrap().labels.unwrap();
    assert!(labels.iter().all(|(name, value)| kept.get(*name).map(String::as_str) == Some(*value)));
    for (name, alias) in [("wharf.platform", "a"), ("a", "a b"), ("a", "ä"), ("a", "$(id)"), ("a", "")] {
        let spec =
            ContainerSpec { labels: [(name.to_owned(), "x".to_owned())].into(), ..ContainerSpec::default() };
        let mut run = test.run(&spec, &args);
        run.networks = vec![NetworkJoin { network: network.clone(), aliases: vec![alias.to_owned()] }];
        let error = test.engine.create_and_start(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Setting { .. }), "{error:?}");
        assert_eq!(test.engine.find(run.id).await.unwrap(), None);
    }
}
