//! What goes to a container and comes from it while it runs.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use wharf_docker::{Command, EngineError, LogLine, LogMark};
use wharf_types::InstanceId;
use wharf_types::log::LogStream;

use crate::support::{LIMIT, Test, ended, eventually, shell};

async fn lines(test: &Test, id: InstanceId, after: LogMark, count: usize) -> Vec<LogLine> {
    let lines = test.engine.follow_logs(id, after).take(count).map(Result::unwrap).collect();
    tokio::time::timeout(LIMIT, lines).await.expect("the lines come")
}

#[tokio::test]
async fn lines_come_while_they_are_printed() {
    let Some(test) = Test::begin().await else { return };
    let id =
        test.shell("echo one; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo three").await;
    let mut follow = test.engine.follow_logs(id, LogMark::default());
    let mut first = Vec::new();
    for _ in 0..2 {
        first.push(tokio::time::timeout(LIMIT, follow.next()).await.unwrap().unwrap().unwrap());
    }
    first.sort_by_key(|line| line.text.clone());
    assert_eq!((first[0].text.as_str(), first[0].stream), ("one", LogStream::Stdout));
    assert_eq!((first[1].text.as_str(), first[1].stream), ("two", LogStream::Stderr));
    let probe = test.engine.probe_command(id, &shell("touch /tmp/go"), LIMIT).await.unwrap();
    assert_eq!(probe.exit_code, Some(0));
    let third = tokio::time::timeout(LIMIT, follow.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(third.text, "three");
    assert!(
        tokio::time::timeout(LIMIT, follow.next()).await.unwrap().is_none(),
        "it ends with the container"
    );
}

#[tokio::test]
async fn whoever_goes_on_after_a_restart_gets_every_line_once() {
    let Some(test) = Test::begin().await else { return };
    let id =
        test.shell("for i in $(seq 1 400); do echo $i; [ $((i % 7)) = 0 ] && echo e$i >&2; done; :").await;
    test.wait(id).await;
    let (mut mark, mut seen) = (LogMark::default(), Vec::new());
    loop {
        let some = lines(&test, id, mark, 37).await;
        let Some(last) = some.last() else { break };
        // As a worker would keep it.
        mark = last.mark;
        seen.extend(some.into_iter().map(|line| line.text));
    }
    let of = |is_stderr: bool| {
        seen.iter().filter(|line| line.starts_with('e') == is_stderr).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(false), (1..=400).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(of(true), (1..=400).filter(|i| i % 7 == 0).map(|i| format!("e{i}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_that_never_ends_comes_in_parts() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("yes | tr '\\n' x | head -c 200000; echo; echo after").await;
    let all = lines(&test, id, LogMark::default(), 100).await;
    assert!(all.iter().all(|line| line.text.len() <= 64 << 10));
    assert_eq!(all.iter().filter(|line| line.is_unfinished).count(), 3);
    assert_eq!(all.iter().map(|line| line.text.len()).sum::<usize>(), 200_000 + "after".len());
}

#[tokio::test]
async fn a_check_tells_its_code_and_what_it_said_last() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exec sleep 1000").await;
    let probe =
        test.engine.probe_command(id, &shell("echo fine; echo bad >&2; exit 3"), LIMIT).await.unwrap();
    assert_eq!(probe.exit_code, Some(3));
    assert!(probe.output.contains("fine\n") && probe.output.contains("bad\n"), "{probe:?}");
    let probe = test.engine.probe_command(id, &shell("seq 1 100000"), LIMIT).await.unwrap();
    assert_eq!((probe.exit_code, probe.output.len()), (Some(0), 4096));
    assert!(probe.output.ends_with("100000\n"));
    match test.engine.probe_command(id, &["nope".to_owned()], LIMIT).await {
        Ok(probe) => assert!(matches!(probe.exit_code, Some(126 | 127)), "{probe:?}"),
        Err(error) => assert!(matches!(error, EngineError::Refused { .. }), "{error:?}"),
    }
}

#[tokio::test]
async fn checks_that_hang_do_not_pile_up() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exec sleep 1000").await;
    let began = Instant::now();
    for _ in 0..3 {
        let hanging = ["sleep".to_owned(), "1000".to_owned()];
        let probe = test.engine.probe_command(id, &hanging, Duration::from_millis(200)).await.unwrap();
        assert_eq!(probe.exit_code, None);
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    eventually("only the container's own process is left", async || {
        (test.engine.usage(id).await.unwrap()?.processes == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_check_of_what_does_not_run_fails() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exit 0").await;
    test.wait(id).await;
    assert!(test.engine.probe_command(id, &shell("true"), LIMIT).await.is_err());
    let nobody = test.engine.probe_command(InstanceId::new(), &shell("true"), LIMIT).await;
    assert!(matches!(nobody, Err(EngineError::NotFound { .. })), "{nobody:?}");
    assert_eq!(test.engine.usage(id).await.unwrap(), None);
    assert_eq!(test.engine.usage(InstanceId::new()).await.unwrap(), None);
}

#[tokio::test]
async fn a_command_reads_what_is_written_until_that_ends() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exec sleep 1000").await;
    let command = Command {
        words: shell("cat; echo $A; pwd; id -u; exit 9"),
        stdin: true,
        user: Some("app".into()),
        workdir: Some("/tmp".into()),
        env: vec!["A=b".into()],
        ..Command::default()
    };
    let mut exec = test.engine.exec(id, &command).await.unwrap();
    exec.input.write_all(b"hello\n").await.unwrap();
    exec.input.shutdown().await.unwrap();
    let output: Vec<u8> = {
        let parts = exec.output.by_ref().map(|part| part.unwrap().octets.to_vec()).collect::<Vec<_>>();
        tokio::time::timeout(LIMIT, parts).await.unwrap().concat()
    };
    assert_eq!(String::from_utf8(output).unwrap(), "hello\nb\n/tmp\n1000\n");
    assert_eq!(exec.process.exit_code().await.unwrap(), 9);
}

#[tokio::test]
async fn a_command_with_a_terminal_knows_its_size() {
    let Some(test) = Test::begin().await else { return };
    let id = test.shell("exec sleep 1000").await;
    let command = Command {
        words: shell("read go; test -t 0 && stty size"),
        tty: true,
        stdin: true,
        ..Command::default()
    };
    let mut exec = test.engine.exec(id, &command).await.unwrap();
    exec.process.resize(101, 37).await.unwrap();
    exec.input.write_all(b"go\n").await.unwrap();
    let mut output = Vec::new();
    while let Some(part) = tokio::time::timeout(LIMIT, exec.output.next()).await.unwrap() {
        output.extend(part.unwrap().octets);
    }
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.contains("37 101"), "{output}");
    assert_eq!(exec.process.exit_code().await.unwrap(), 0);
}

#[tokio::test]
async fn what_a_container_uses_is_measured() {
    let Some(test) = Test::begin().await else { return };
    let network = test.engine.ensure_network(&"a".parse().unwrap(), None).await.unwrap();
    let (spec, args) = (wharf_types::spec::ContainerSpec::default(), shell("while :; do :; done"));
    let mut run = test.run(&spec, &args);
    run.networks = vec![wharf_docker::NetworkJoin { network, aliases: Vec::new() }];
    test.engine.create_and_start(&run).await.unwrap();
    let usage = eventually("a tenth of a second of work", async || {
        test.engine.usage(run.id).await.unwrap().filter(|usage| usage.cpu_nanos > 100_000_000)
    })
    .await;
    assert_eq!(usage.processes, 1);
    assert!(usage.memory_bytes > 0 && usage.memory_bytes < 64 << 20, "{usage:?}");
    test.engine.stop(run.id, Duration::ZERO).await.unwrap();
    assert_eq!(test.wait(run.id).await, ended(137));
}
