//! The life of a container.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use wharf_docker::{Exit, FoundState, MemoryFile, RunError, Stopped, VolumeMount};
use wharf_types::InstanceId;
use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::spec::{ContainerSpec, HostPathSpec, TmpfsSpec, UlimitSpec};

use crate::archive::{DATA_GID, DATA_UID, Image};
use crate::support::{Test, ended, shell};

#[tokio::test]
async fn a_container_gets_its_arguments_and_variables_and_ends_with_its_code() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) = (ContainerSpec::default(), shell("echo \"$A:$0\" && exit 7"));
    let mut run = test.run(&spec, &args);
    run.env = vec![("A", "b = c\nd")];
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!(test.wait(run.id).await, ended(7));
    assert_eq!(test.printed(run.id).await, "b = c\nd:/bin/sh");
}

#[tokio::test]
async fn a_containers_end_is_told_however_late_it_is_asked_for() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exit 0").await;
    assert_eq!(test.wait(id).await, ended(0));
    assert_eq!(test.wait(id).await, ended(0));
    assert_eq!(test.found(id).await.state, FoundState::Ended(ended(0)));
    test.engine.remove(id).await.unwrap();
    assert_eq!(test.wait(id).await, Exit::Gone);
}

#[tokio::test]
async fn every_verb_may_be_repeated() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) = (ContainerSpec::default(), shell("echo once; exec sleep 1000"));
    let run = test.run(&spec, &args);
    test.engine.create_and_start(&run).await.unwrap();
    let began = test.found(run.id).await.started_at.unwrap();
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!(test.found(run.id).await.started_at.unwrap(), began);
    test.engine.stop(run.id, Duration::ZERO).await.unwrap();
    test.engine.stop(run.id, Duration::from_secs(5)).await.unwrap();
    // What has ended is never run again.
    test.engine.create_and_start(&run).await.unwrap();
    assert!(matches!(test.found(run.id).await.state, FoundState::Ended(_)));
    test.engine.remove(run.id).await.unwrap();
    test.engine.remove(run.id).await.unwrap();
    assert_eq!(test.engine.stop(run.id, Duration::from_secs(5)).await.unwrap(), Stopped::ByItself);
    assert_eq!(test.engine.find(run.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_try_that_was_cut_off_is_begun_again() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) = (ContainerSpec::default(), shell("exit 4"));
    let run = test.run(&spec, &args);
    let labels = [("wharf.platform", test.platform()), ("wharf.instance", &run.id.to_string())];
    let body = ContainerCreateBody {
        image: Some(test.image.to_string()),
        cmd: Some(vec!["half-made".into()]),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        ..ContainerCreateBody::default()
    };
    let name = CreateContainerOptionsBuilder::new().name(&format!("wharf-{}", run.id)).build();
    test.raw.create_container(Some(name), body).await.unwrap();
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!(test.wait(run.id).await, ended(4));
}

#[tokio::test]
async fn the_stop_signal_is_the_specs() {
    let Some(test) = Test::begin().await else { return };
    let spec = ContainerSpec { stop_signal: Some("SIGUSR1".into()), ..ContainerSpec::default() };
    let id = test.shell_with(&spec, "trap 'exit 5' USR1; echo ready; while :; do sleep 0.1; done").await;
    crate::support::eventually("the trap", async || {
        test.engine.probe_command(id, &shell("true"), Duration::from_secs(5)).await.ok()
    })
    .await;
    let outcome = test.engine.stop(id, Duration::from_secs(10)).await.unwrap();
    assert_eq!((outcome, test.wait(id).await), (Stopped::ByItself, ended(5)));
}

#[tokio::test]
async fn a_container_that_ignores_its_signal_is_killed_after_the_grace() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("trap '' TERM; while :; do sleep 0.1; done").await;
    let (grace, began) = (Duration::from_secs(1), Instant::now());
    assert_eq!(test.engine.stop(id, grace).await.unwrap(), Stopped::Killed);
    assert!(began.elapsed() >= grace && began.elapsed() < 10 * grace, "{:?}", began.elapsed());
    assert_eq!(test.wait(id).await, ended(137));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_said_to_be_missing() {
    let Some(test) = Test::begin().await else { return };
    let spec = ContainerSpec::default();
    for command in ["nope", "/etc/passwd", "/etc"] {
        let args = [command.to_owned()];
        let run = test.run(&spec, &args);
        let error = test.engine.create_and_start(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Command { .. }) && !error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains(command), "{error}");
    }
}

#[tokio::test]
async fn settings_that_the_engine_does_not_take_are_not_tried_again() {
    let Some(test) = Test::begin().await else { return };
    let cases: [fn(&mut ContainerSpec); 6] = [
        |spec| spec.workdir = Some("not absolute".into()),
        |spec| spec.stop_signal = Some("SIGNOPE".into()),
        |spec| spec.capabilities_add = vec!["NOPE".into()],
        |spec| spec.ulimits = [("nope".into(), UlimitSpec { soft: 1, hard: 1 })].into(),
        |spec| spec.sysctls = [("kernel.nope".into(), "1".into())].into(),
        |spec| {
            spec.host_paths = vec![HostPathSpec { host: "/nope".into(), path: "/a".into(), read_only: true }];
        },
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut spec = ContainerSpec::default();
        change(&mut spec);
        let args = shell("true");
        let error = test.engine.create_and_start(&test.run(&spec, &args)).await.unwrap_err();
        assert!(!error.is_retryable(), "{index}: {error:?}");
    }
}

#[tokio::test]
async fn what_the_spec_says_is_what_the_container_gets() {
    let Some(test) = Test::begin().await else { return };
    let spec = ContainerSpec {
        user: Some("app".into()),
        groups: vec!["4242".into()],
        workdir: Some("/tmp".into()),
        hostname: Some("mine".into()),
        read_only: true,
        tmpfs: vec![TmpfsSpec {
            path: "/scratch".into(),
            size: Some(ByteSize::mib(1)),
            mode: Some("1777".into()),
        }],
        shm_size: Some(ByteSize::mib(2)),
        cpus: Some(CpuShare::millis(64_000)),
        ulimits: [("nofile".to_owned(), UlimitSpec { soft: 123, hard: 456 })].into(),
        extra_hosts: [("elsewhere".to_owned(), "192.0.2.1".to_owned())].into(),
        capabilities_drop: vec!["ALL".into()],
        health: None,
        ..ContainerSpec::default()
    };
    let line = "id; pwd; hostname; ulimit -n; grep elsewhere /etc/hosts; grep -E 'NoNewPrivs|CapBnd' /proc/1/status; \
                touch /scratch/a && echo scratch; touch /tmp/a || echo closed; \
                dd if=/dev/zero of=/scratch/b bs=1M count=2 2>/dev/null || echo full; mount | grep /dev/shm";
    let (exit, output) = test.output(&spec, line).await;
    assert_eq!(exit, ended(0), "{output}");
    for part in [
        "uid=1000(app) gid=1000",
        "4242",
        "/tmp\nmine\n123\n",
        "192.0.2.1",
        "NoNewPrivs:\t1",
        "CapBnd:\t0000000000000000",
        "scratch\nclosed\nfull",
        "size=2048k",
    ] {
        assert!(output.contains(part), "{part} is not in: {output}");
    }
}

#[tokio::test]
async fn the_entrypoint_is_followed_by_the_arguments_and_an_init_reaps() {
    let Some(test) = Test::begin().await else { return };
    let spec = ContainerSpec {
        entrypoint: Some(vec!["/bin/sh".into(), "-c".into()]),
        init: true,
        new_privileges: true,
        ..ContainerSpec::default()
    };
    let args = ["cat /proc/1/cmdline | tr '\\0' ' '; grep NoNewPrivs /proc/self/status".to_owned()];
    let run = test.run(&spec, &args);
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!(test.wait(run.id).await, ended(0));
    let output = test.printed(run.id).await;
    assert!(output.contains("init") && output.contains("NoNewPrivs:\t0"), "{output}");
}

#[tokio::test]
async fn a_new_volume_belongs_to_whom_the_image_says_and_keeps_what_is_written() {
    let Some(test) = Test::begin().await else { return };
    let (known, unknown) = (test.folder.path().join("a/known"), test.folder.path().join("unknown"));
    let volumes = vec![
        VolumeMount { folder: known.clone(), path: "/data".into(), is_read_only: false },
        VolumeMount { folder: unknown.clone(), path: "/nowhere/else".into(), is_read_only: true },
    ];
    let (spec, args) =
        (ContainerSpec::default(), shell("echo kept > /data/a; touch /nowhere/else/b || echo closed"));
    let mut run = test.run(&spec, &args);
    run.volumes = volumes.clone();
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!(test.wait(run.id).await, ended(0));
    assert_eq!(test.printed(run.id).await.lines().last(), Some("closed"));
    let is_of = |folder: &std::path::Path| {
        let found = folder.metadata().unwrap();
        (found.uid(), found.gid(), found.permissions().mode() & 0o7777)
    };
    assert_eq!(is_of(&known), (DATA_UID, DATA_GID, 0o750));
    assert_eq!(is_of(&unknown), (0, 0, 0o755));
    test.engine.remove(run.id).await.unwrap();
    // What is in use keeps its owner.
    std::os::unix::fs::chown(&known, Some(5), Some(6)).unwrap();
    let args = shell("cat /data/a");
    let mut again = test.run(&spec, &args);
    again.volumes = volumes;
    test.engine.create_and_start(&again).await.unwrap();
    test.wait(again.id).await;
    assert_eq!(test.printed(again.id).await, "kept");
    assert_eq!(is_of(&known), (5, 6, 0o750));
    let names: Vec<_> = test
        .raw
        .list_containers(Some(
            bollard::query_parameters::ListContainersOptionsBuilder::new()
                .all(true)
                .filters(&std::collections::HashMap::from([(
                    "label",
                    vec![format!("wharf.platform={}", test.platform())],
                )]))
                .build(),
        ))
        .await
        .unwrap();
    assert_eq!(names.len(), 1, "nothing is left of looking into the image");
}

#[tokio::test]
async fn a_volume_of_the_image_is_the_apps_or_goes_with_the_container() {
    let Some(test) = Test::begin().await else { return };
    let config = serde_json::json!({"Volumes": {"/data": {}, "/tmp": {}}});
    let image = Image { label: format!("{} volumes", test.platform()), config, ..Image::default() };
    let image = image.load(&test.engine, test.folder.path()).await.unwrap();
    let folder = test.folder.path().join("data");
    let (spec, args) = (ContainerSpec::default(), shell("stat -c '%u %g %a' /data; exec sleep 1000"));
    let mut run = test.run(&spec, &args);
    run.image = image;
    run.volumes = vec![VolumeMount { folder: folder.clone(), path: "/data".into(), is_read_only: false }];
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!((folder.metadata().unwrap().uid(), folder.metadata().unwrap().gid()), (DATA_UID, DATA_GID));
    let found = test.raw.inspect_container(&format!("wharf-{}", run.id), None).await.unwrap();
    let volumes: Vec<String> = found.mounts.unwrap().into_iter().filter_map(|mount| mount.name).collect();
    assert_eq!(volumes.len(), 1, "that of /tmp");
    test.engine.remove(run.id).await.unwrap();
    assert!(test.raw.inspect_volume(&volumes[0]).await.is_err(), "it has gone");
    assert!(test.engine.remove_image(image).await.unwrap());
}

#[tokio::test]
async fn files_are_in_memory_and_not_on_the_engines_disk() {
    let Some(test) = Test::begin().await else { return };
    let secret = format!("hunter2-{}", InstanceId::new());
    let (spec, args) = (
        ContainerSpec { read_only: true, user: Some("1000".into()), ..ContainerSpec::default() },
        shell(
            "stat -c '%a %u %g' /run/secrets/deep/key; cat /run/secrets/deep/key; echo; echo x > /run/secrets/deep/key || echo closed; cat /root-only || echo hidden",
        ),
    );
    let mut run = test.run(&spec, &args);
    let file = |path, mode, uid| MemoryFile { content: secret.as_bytes(), path, mode, uid, gid: 7 };
    run.files = vec![file("/run/secrets/deep/key", 0o440, 1000), file("/root-only", 0o400, 0)];
    test.engine.create_and_start(&run).await.unwrap();
    assert_eq!(test.wait(run.id).await, ended(0));
    let output = test.printed(run.id).await;
    assert!(output.starts_with(&format!("440 1000 7\n{secret}\n")), "{output}");
    assert!(output.contains("closed") && output.contains("hidden"), "{output}");
    assert!(!format!("{run:?}").contains(&secret));
    let root = test.raw.info().await.unwrap().docker_root_dir.unwrap();
    let changed = test.raw.inspect_container(&format!("wharf-{}", run.id), None).await.unwrap();
    let upper = changed.graph_driver.unwrap().data["UpperDir"].clone();
    for folder in [format!("{root}/containers/{}", changed.id.unwrap()), upper] {
        let found = std::process::Command::new("grep")
            .args(["-rl", "--exclude=*-json.log", &secret, &folder])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
    assert!(test.files().join(run.id.to_string()).exists());
    test.engine.remove(run.id).await.unwrap();
    assert!(!test.files().join(run.id.to_string()).exists());
}

#[tokio::test]
async fn files_are_refused_where_they_would_be_on_a_disk() {
    let Some(socket) = crate::support::socket() else { return };
    let Some(test) = Test::begin().await else { return };
    let folder = test.folder.path().join("files");
    let settings = wharf_docker::Settings { socket, platform: test.platform().into(), files: folder.clone() };
    let engine = wharf_docker::Engine::connect(settings).await.unwrap();
    let (spec, args) = (ContainerSpec::default(), shell("true"));
    let mut run = test.run(&spec, &args);
    run.files = vec![MemoryFile { content: b"hunter2", path: "/a", mode: 0o444, uid: 0, gid: 0 }];
    // Where the folder of temporary files is in memory itself, this asks nothing.
    let is_on_disk = !std::fs::read_to_string("/proc/mounts").unwrap().contains(" /tmp tmpfs");
    let outcome = engine.create_and_start(&run).await;
    assert_eq!(matches!(outcome, Err(RunError::NotInMemory { .. })), is_on_disk, "{outcome:?}");
    assert!(!is_on_disk || std::fs::read_dir(folder).unwrap().next().is_none(), "nothing was written");
}

#[tokio::test]
async fn a_worker_that_was_killed_finds_what_goes_on() {
    let Some(test) = Test::begin().await else { return };
    let running = test.shell("exec sleep 1000").await;
    let over = test.shell("exit 3").await;
    test.wait(over).await;
    let engine = test.another().await;
    let mut found = engine.list().await.unwrap();
    found.sort_by_key(|it| it.instance);
    assert_eq!(found.iter().map(|it| it.instance).collect::<Vec<_>>(), [running, over]);
    assert_eq!(found[0].state, FoundState::Running);
    assert_eq!(found[1].state, FoundState::Ended(ended(3)));
    assert!(found.iter().all(|it| it.started_at.is_some() && it.image == Some(test.image)));
    assert_eq!((found[0].owner.app.as_str(), found[0].owner.release, found[0].owner.slot), ("app", 3, 1));
    // The new one follows it, and the old one as well.
    let (old, new) = (test.engine.clone(), engine.clone());
    let waits = tokio::spawn(async move { tokio::join!(old.wait(running), new.wait(running)) });
    engine.stop(running, Duration::ZERO).await.unwrap();
    assert_eq!(waits.await.unwrap(), (ended(137), ended(137)));
}

#[tokio::test]
async fn only_what_is_ours_and_unwanted_is_removed() {
    let Some(test) = Test::begin().await else { return };
    let wanted = test.shell("exec sleep 1000").await;
    let unwanted = test.shell("exec sleep 1000").await;
    let foreign_name = format!("foreign-{}", test.platform());
    let other = [("wharf.platform", "another"), ("wharf.instance", &InstanceId::new().to_string())]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut foreign = Vec::new();
    for (index, labels) in [None, Some(other.into())].into_iter().enumerate() {
        let body = ContainerCreateBody {
            image: Some(test.image.to_string()),
            cmd: Some(shell("exec sleep 1000")),
            labels,
            host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let name = CreateContainerOptionsBuilder::new().name(&format!("{foreign_name}-{index}")).build();
        let id = test.raw.create_container(Some(name), body).await.unwrap().id;
        test.raw.start_container(&id, None).await.unwrap();
        foreign.push(id);
    }
    assert_eq!(test.engine.remove_unwanted(|id| id == wanted).await.unwrap(), 1);
    assert_eq!(test.engine.find(unwanted).await.unwrap(), None);
    assert_eq!(test.found(wanted).await.state, FoundState::Running);
    let mut running = Vec::new();
    for id in &foreign {
        running.push(test.raw.inspect_container(id, None).await.unwrap().state.unwrap().running);
        let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).build();
        test.raw.remove_container(id, Some(options)).await.unwrap();
    }
    assert_eq!(running, [Some(true), Some(true)]);
}

#[tokio::test]
async fn a_name_that_somebody_else_has_taken_is_left_to_him() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) = (ContainerSpec::default(), shell("true"));
    let run = test.run(&spec, &args);
    let name = format!("wharf-{}", run.id);
    let body = ContainerCreateBody {
        image: Some(test.image.to_string()),
        cmd: Some(shell("exec sleep 1000")),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    test.raw.create_container(Some(options), body).await.unwrap();
    test.raw.start_container(&name, None).await.unwrap();
    let error = test.engine.create_and_start(&run).await.unwrap_err();
    assert!(matches!(error, RunError::NameTaken { .. }), "{error:?}");
    test.engine.remove(run.id).await.unwrap();
    test.engine.stop(run.id, Duration::ZERO).await.unwrap();
    let running = test.raw.inspect_container(&name, None).await.unwrap().state.unwrap().running;
    let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).build();
    test.raw.remove_container(&name, Some(options)).await.unwrap();
    assert_eq!(running, Some(true));
}

#[tokio::test]
async fn an_image_that_is_gone_is_missed() {
    let Some(test) = Test::begin().await else { return };
    let (spec, args) = (ContainerSpec::default(), shell("true"));
    let mut run = test.run(&spec, &args);
    run.image = wharf_types::Digest::of(test.platform().as_bytes()).to_string().parse().unwrap();
    let error = test.engine.create_and_start(&run).await.unwrap_err();
    assert!(matches!(error, RunError::ImageGone { .. }) && error.is_retryable(), "{error:?}");
    run.volumes =
        vec![VolumeMount { folder: test.folder.path().join("v"), path: "/v".into(), is_read_only: false }];
    let error = test.engine.create_and_start(&run).await.unwrap_err();
    assert!(matches!(error, RunError::ImageGone { .. }), "{error:?}");
}

#[tokio::test]
async fn the_engine_says_what_it_is() {
    let Some(test) = Test::begin().await else { return };
    let info = test.engine.info().await.unwrap();
    assert_eq!(info.platform.os, "linux");
    assert!(!info.version.is_empty() && !info.storage_driver.is_empty(), "{info:?}");
    assert!(info.cpus > 0 && info.memory_bytes > 0 && [1, 2].contains(&info.cgroup_version), "{info:?}");
}
