//! How long it takes. `cargo test -p wharf-docker measure -- --ignored --nocapture` prints it.

use std::time::{Duration, Instant};

use wharf_docker::NetworkJoin;
use wharf_types::InstanceId;
use wharf_types::spec::ContainerSpec;

use crate::support::{Test, shell};

const CONTAINERS: usize = 50;

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("median {:.0?}, most {:.0?}", times[times.len() / 2], times[times.len() - 1])
}

#[tokio::test]
#[ignore = "it measures"]
async fn starts_stops_and_lists() {
    let Some(test) = Test::begin().await else { return };
    let network = test.engine.ensure_network(&"a".parse().unwrap(), None).await.unwrap();
    let (spec, args) = (ContainerSpec::default(), shell("trap 'exit 0' TERM; sleep 1000 & wait"));
    let (mut ids, mut starts, mut alone): (Vec<InstanceId>, _, _) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..CONTAINERS {
        let mut run = test.run(&spec, &args);
        let is_alone = index % 2 == 1;
        if !is_alone {
            run.networks = vec![NetworkJoin { network: network.clone(), aliases: vec!["web".into()] }];
        }
        let began = Instant::now();
        test.engine.create_and_start(&run).await.unwrap();
        if is_alone { &mut alone } else { &mut starts }.push(began.elapsed());
        ids.push(run.id);
    }
    println!("create to running, in a network:   {}", spread(starts));
    println!("create to running, without one:    {}", spread(alone));
    let (mut lists, mut finds, mut usages) = (Vec::new(), Vec::new(), Vec::new());
    for id in ids.iter().take(20) {
        let began = Instant::now();
        assert_eq!(test.engine.list().await.unwrap().len(), CONTAINERS);
        lists.push(began.elapsed());
        let began = Instant::now();
        test.found(*id).await;
        finds.push(began.elapsed());
        let began = Instant::now();
        test.engine.usage(*id).await.unwrap();
        usages.push(began.elapsed());
    }
    println!("list of {CONTAINERS}:                        {}", spread(lists));
    println!("find of one:                       {}", spread(finds));
    println!("usage of one:                      {}", spread(usages));
    let (mut probes, mut stops, mut kills, mut removes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (index, id) in ids.iter().enumerate() {
        if index < 20 {
            let began = Instant::now();
            test.engine.probe_command(*id, &shell(":"), Duration::from_secs(10)).await.unwrap();
            probes.push(began.elapsed());
        }
        let grace = if index % 2 == 0 { Duration::from_secs(10) } else { Duration::ZERO };
        let began = Instant::now();
        test.engine.stop(*id, grace).await.unwrap();
        if grace.is_zero() { &mut kills } else { &mut stops }.push(began.elapsed());
        let began = Instant::now();
        test.engine.remove(*id).await.unwrap();
        removes.push(began.elapsed());
    }
    println!("check by a command:                {}", spread(probes));
    println!("stop of one that ends at once:     {}", spread(stops));
    println!("stop without grace:                {}", spread(kills));
    println!("remove:                            {}", spread(removes));
}
