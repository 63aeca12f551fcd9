//! What apps use is counted, and told: on the metrics page, in the API, and by the command.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use wharf_tests::{Client, Platform, SHORT, eventually, full, request};

/// The samples of the page by name and labels, without the node, of which there is one.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Not a number, which equals nothing, where there is no such series yet.
    fn of(&self, app: &str, name: &str) -> f64 {
        self.get(&format!("wharf_app_{name}{{namespace=\"default\",app=\"{app}\",release=\"1\"}}"))
    }

    fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(f64::NAN)
    }
}

async fn page(platform: &Platform) -> Samples {
    let reply = platform.api(Method::GET, "/metrics", "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let lines = reply.text();
    let samples = lines.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (without_node(series), value.parse().unwrap_or_else(|error| panic!("{error}: {line}")))
    });
    Samples(samples.collect())
}

fn without_node(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else { return series.to_owned() };
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.starts_with("node="));
    format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","))
}

/// Waits until the page is as wanted: workers report twice a second.
async fn page_has(platform: &Platform, what: &str, is: impl Fn(&Samples) -> bool) -> Samples {
    eventually(SHORT, what, || async {
        let page = page(platform).await;
        is(&page).then_some(page)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn invocations_traps_cpu_time_and_traffic_of_each_app_are_counted() {
    const SENT: u64 = 3_000_000;
    const RECEIVED: usize = 1_500_000;
    let platform = Platform::start().await;
    for guest in ["hello", "crash", "stream"] {
        platform.deploy(guest, guest, &[]).await;
    }
    for _ in 0..3 {
        assert_eq!(platform.get("crash", "/trap").await.unwrap().status, 502);
    }
    let bytes = platform.get("stream", &format!("/bytes?n={SENT}")).await.unwrap();
    assert_eq!(bytes.body.len() as u64, SENT);
    let sum = Request::post("/sum").header(HOST, "stream.default.localhost");
    let sum = platform.apps.send(sum.body(full(vec![b'x'; RECEIVED])).unwrap()).await.unwrap();
    assert_eq!(sum.text(), format!("{RECEIVED}\n"));
    // By the clock: a machine with much else to do gives it a part of that only.
    platform.get("stream", "/work?ms=2000&n=1").await.unwrap();

    let page = page_has(&platform, "the traps and the bodies are counted", |page| {
        page.of("crash", "traps_total") == 3.0
            && page.of("stream", "received_bytes_total") == RECEIVED as f64
            && page.of("stream", "sent_bytes_total") >= SENT as f64
            && page.of("stream", "cpu_seconds_total") >= 0.1
    })
    .await;
    assert!(page.of("crash", "invocations_total") >= 3.0);
    assert!(page.of("hello", "invocations_total") >= 1.0, "the check before a deploy is done");
    assert!(page.of("stream", "sent_bytes_total") < 2.0 * SENT as f64);
    assert_eq!((page.of("hello", "traps_total"), page.of("hello", "received_bytes_total")), (0.0, 0.0));
    assert_eq!(page.get("wharf_ingress_errors_total{code=\"guest_failed\"}"), 3.0);
    assert!(page.get("wharf_ingress_requests_total{}") >= 6.0);

    let status = platform.wharf(&["status", "crash"]).await;
    assert!(status.stdout.contains("(3 traps)"), "{}", status.stdout);
    let usage = platform.app("stream").await.usage.unwrap();
    assert_eq!((usage.release, usage.received_bytes), (1, RECEIVED as u64));
    let top = platform.wharf(&["top"]).await;
    assert!(top.stdout.contains("1.4 MiB"), "{}", top.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_app_gives_back_its_memory_and_its_place_when_its_time_is_up() {
    let platform = Platform::start().await;
    for (guest, mode) in [("hello", "serial"), ("hello-p3", "concurrent")] {
        let manifest = format!("app = \"{guest}\"\n[reuse]\nmode = \"{mode}\"\nidle_timeout = \"3s\"\n");
        platform.deploy_manifest(guest, &manifest).await.ok();
    }
    for guest in ["hello", "hello-p3"] {
        platform.serves(guest).await;
        let warm = page_has(&platform, "a store that waits", |page| {
            page.get("wharf_stores_idle{}") >= 1.0 && page.of(guest, "memory_bytes") > 0.0
        })
        .await;
        assert!(
            warm.get("wharf_stores{}") >= 1.0 && warm.get("wharf_stores{}") <= warm.get("wharf_stores_max{}")
        );
        assert!(warm.get("wharf_guest_memory_bytes{}") >= warm.of(guest, "memory_bytes"));
        let idle = page_has(&platform, "no memory is in use", |page| {
            page.of(guest, "memory_bytes") == 0.0 && page.get("wharf_stores{}") == 0.0
        })
        .await;
        assert_eq!(idle.get("wharf_guest_memory_bytes{}"), 0.0);
        assert_eq!(idle.of(guest, "active_invocations"), 0.0);
    }
    let page = page_has(&platform, "no store waits", |page| page.get("wharf_stores_idle{}") == 0.0).await;
    assert_eq!(page.get("wharf_artifacts_loaded{}"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_find_no_place_are_counted_and_are_no_invocations() {
    let platform = Platform::start().await;
    let manifest = "app = \"crash\"\n[limits]\nconcurrency = 1\n";
    platform.deploy_manifest("crash", manifest).await.ok();
    let before =
        page_has(&platform, "the app is counted", |page| page.of("crash", "active_invocations") == 0.0).await;
    let sleeps = (0..5).map(|_| async { platform.get("crash", "/sleep?ms=1500").await.unwrap().status });
    let answers = futures::future::join_all(sleeps).await;
    let refused = answers.iter().filter(|status| status.as_u16() == 503).count();
    assert!((3..=4).contains(&refused), "{answers:?}");
    let page = page_has(&platform, "the refusals are counted", |page| {
        // An instance that was full is asked once only, as long as there is no other.
        page.of("crash", "refused_total") >= refused as f64
    })
    .await;
    assert_eq!(page.of("crash", "limited_total"), before.of("crash", "limited_total"));
    assert!(page.of("crash", "invocations_total") <= before.of("crash", "invocations_total") + 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_for_those_who_may_see_every_namespace() {
    let platform = Platform::start().await;
    let anybody = Client::new(&platform.ready.api).send(request("localhost", "/metrics")).await.unwrap();
    assert_eq!(anybody.status, 401);
    let token = async |args: &[&str]| {
        let args = [&["token", "create", "scraper", "--role", "viewer"], args].concat();
        platform.wharf(&args).await.stdout.trim().to_owned()
    };
    let bound = token(&["-n", "default"]).await;
    assert_eq!(platform.api_as(&bound, Method::GET, "/metrics", "").await.status, 403);
    let viewer = token(&[]).await;
    let reply = platform.api_as(&viewer, Method::GET, "/metrics", "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.headers[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
}
