//! A project becomes resources: what each key turns into, what is said, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{project, project_of};
use serde_json::{Value, json};
use wharf_compose::translate::{ContainerApp, ValueFrom, Workload};
use wharf_compose::{Context, Translation, translate};
use wharf_types::declare::document::AppDocument;

fn translated(text: &str) -> Translation {
    translate(&project(text), &Context::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    translate(&project(text), &Context::default()).unwrap_err().to_string()
}

fn wasm(made: &Translation, service: &str) -> AppDocument {
    match &made.apps.iter().find(|app| app.service == service).unwrap().workload {
        Workload::Wasm(document) => (**document).clone(),
        Workload::Container(_) => panic!("`{service}` is a container"),
    }
}

fn container(made: &Translation, service: &str) -> ContainerApp {
    match &made.apps.iter().find(|app| app.service == service).unwrap().workload {
        Workload::Container(container) => (**container).clone(),
        Workload::Wasm(_) => panic!("`{service}` is a Wasm app"),
    }
}

/// A Wasm app with these settings, without what is as it is by default.
fn app(settings: &str) -> (Value, Vec<String>) {
    let made = translated(&file(settings));
    let document = serde_json::to_value(wasm(&made, "web")).unwrap();
    (document, made.notices.iter().map(|notice| notice.message.clone()).collect())
}

fn file(settings: &str) -> String {
    let indented: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "services:\n  web:\n    image: a.wasm\n{indented}  db: {{image: redis, networks: [back]}}\nnetworks: {{front: , back: }}\n\
         volumes: {{data: {{x-wharf: {{size: 2GiB}}}}, many: {{x-wharf: {{shared: true}}}}}}\n\
         secrets: {{db_password: {{file: p}}}}\nconfigs: {{motd: {{content: hello}}}}\n"
    )
}

#[test]
fn each_setting_of_a_wasm_app_has_its_place_in_the_document() {
    for (settings, path, expected) in [
        ("command: --x 'a b'", "/args", json!(["--x", "a b"])),
        ("environment: {A: b}", "/env", json!({"A": "b"})),
        (
            "image: ./b.wasm\nprofiles: []".trim_start_matches("image: ./b.wasm\n"),
            "/artifact",
            json!("./a.wasm"),
        ),
        ("scale: 3", "/scale/replicas", json!(3)),
        ("deploy: {replicas: 0}", "/scale/replicas", json!(0)),
        ("x-wharf: {scale: {min: 0, max: 9, concurrency: 5}}", "/scale/replicas/max", json!(9)),
        ("x-wharf: {singleton: true}", "/scale", json!({"replicas": 1, "singleton": true})),
        ("hostname: web", "/scale", Value::Null),
        ("mem_limit: 64m", "/limits/memory", json!("64MiB")),
        ("deploy: {resources: {limits: {memory: 32M}}}", "/limits/memory", json!("32MiB")),
        ("x-wharf: {limits: {timeout: 5s}}\nmem_limit: 1g", "/limits/timeout", json!("5s")),
        (
            "deploy: {resources: {reservations: {cpus: '0.25', memory: 20M}}}",
            "/reserve",
            json!({"memory": "20MiB", "cpu": "250m"}),
        ),
        ("mem_reservation: 8m", "/reserve/memory", json!("8MiB")),
        ("stop_grace_period: 1m30s", "/stop/drain", json!("1m 30s")),
        ("restart: 'no'", "/restart/condition", json!("never")),
        ("restart: on-failure:3", "/restart/attempts", json!(3)),
        ("restart: unless-stopped", "/restart/condition", json!("any")),
        (
            "deploy: {restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 120s}}",
            "/restart",
            json!({
                "condition": "on-failure", "delay": "5s", "backoff": "5s", "backoff_max": "5s", "reset_after": "1m", "attempts": 3, "window": "2m"
            }),
        ),
        ("deploy: {restart_policy: {delay: 200ms}}", "/restart/backoff_max", json!("1s")),
        ("deploy: {restart_policy: {max_attempts: 0}}", "/restart/attempts", Value::Null),
        (
            "deploy: {update_config: {parallelism: 2, delay: 10s, failure_action: pause, monitor: 1s, max_failure_ratio: 0.1, order: stop-first}}",
            "/update",
            json!({
                "parallelism": 2, "order": "stop-first", "delay": "10s", "monitor": "1s", "max_failure_ratio": 0.1, "progress_deadline": "1m", "on_failure": "pause"
            }),
        ),
        ("deploy: {update_config: {parallelism: 0}}", "/update/parallelism", json!("100%")),
        (
            "deploy: {rollback_config: {parallelism: 1, delay: 0s, order: start-first}}",
            "/update/rollback",
            json!({"parallelism": 1, "order": "start-first", "delay": "0s"}),
        ),
        (
            "deploy: {placement: {constraints: ['node.labels.zone==eu 1', node.hostname != b, node.platform.arch==amd64, node.role==worker]}}",
            "/placement/constraints",
            json!([
                "node.labels.zone == \"eu 1\"",
                "node.hostname != b",
                "node.platform.arch == x86_64",
                "node.role == worker"
            ]),
        ),
        (
            "deploy: {placement: {preferences: [{spread: node.labels.zone}], max_replicas_per_node: 2}}",
            "/placement/spread",
            json!(["zone"]),
        ),
        ("deploy: {placement: {max_replicas_per_node: 2}}", "/placement/max_per_node", json!(2)),
        (
            "healthcheck: {test: curl -f http://localhost/h, interval: 5s, timeout: 2s, retries: 4, start_interval: 1s}",
            "/http/health",
            json!({
                "path": "/h", "liveness_path": null, "period": "5s", "startup_period": "1s", "timeout": "2s", "threshold": 4
            }),
        ),
        ("healthcheck: {disable: true}", "/http/health/path", Value::Null),
        ("x-wharf: {http: {routes: [a.example.com/x]}}", "/http/routes", json!(["a.example.com/x"])),
        ("ports: ['7000:80', '7001:81']\nx-wharf: {tcp: {}}", "/tcp/ports", json!([7000, 7001])),
        ("ports: ['8080:80']", "/tcp/ports", json!([])),
        ("networks: [front]", "/outbound/allow", json!([])),
        ("networks: [back]", "/outbound/allow", json!(["http://db.internal:*", "tcp://db.internal:*"])),
        (
            "networks: [back]\nx-wharf: {outbound: {allow: ['https://example.com']}}",
            "/outbound/allow/0",
            json!("https://example.com"),
        ),
        ("network_mode: none", "/outbound/allow", json!([])),
        (
            "volumes: ['data:/data']",
            "/volumes/0",
            json!({"name": "data", "path": "/data", "size": "2GiB", "read_only": false, "shared": false}),
        ),
        ("volumes: ['many:/m']\nscale: 3", "/volumes/0/shared", json!(true)),
        ("volumes: [/var/cache]", "/volumes/0/name", json!("var-cache")),
        ("volumes: ['./public:/public:ro']", "/files", json!({"path": "./public", "mount": "/public"})),
        ("secrets: [db_password]", "/secrets", json!({"DB_PASSWORD": "db-password"})),
        (
            "secrets: [{source: db_password, target: /run/secrets/key}]",
            "/secrets",
            json!({"KEY": "db-password"}),
        ),
        ("configs: [motd]", "/configs", json!({"MOTD": "motd"})),
        ("x-wharf: {reuse: {mode: serial}, engine: {profile: long}}", "/reuse/mode", json!("serial")),
    ] {
        let (document, _) = app(settings);
        let found = document.pointer(path).cloned().unwrap_or_default();
        assert_eq!(found, expected, "{settings}");
    }
}

#[test]
fn what_is_done_otherwise_is_said() {
    for (settings, expected) in [
        ("labels: {a: b}", "`labels`: Wharf keeps no labels"),
        ("deploy: {labels: {a: b}}", "`labels`: Wharf keeps no labels"),
        ("ports: ['8080:80']", "requests come through the front door, by hostname, and not at 8080"),
        (
            "secrets: [db_password]",
            "the guest gets `db_password` as the variable `DB_PASSWORD`, and not as a file",
        ),
        ("deploy: {resources: {limits: {cpus: 1}}}", "`cpus`: guests share the processors"),
        ("deploy: {placement: {constraints: [node.role == manager]}}", "`manager` is `server` here"),
        (
            "networks: {back: {aliases: [x]}}",
            "`aliases`: the app is known by its name only; others ask `http://web.internal`",
        ),
        (
            "restart: always\ndeploy: {restart_policy: {condition: any}}",
            "`restart`: `deploy.restart_policy` says it",
        ),
        ("healthcheck: {test: curl http://localhost/}", "`test`: the platform asks for `/` itself"),
        ("volumes: ['./a:/a:ro']", "the files of `./a` are shipped with the app"),
        (
            "secrets: [db_password]\nenvironment: {P_FILE: /run/secrets/db_password}",
            "there is no file `/run/secrets/db_password` for a guest to read; the value is in `DB_PASSWORD`",
        ),
        ("user: nobody", "`user`: a guest is nobody's process"),
        ("hostname: x", "`hostname`: a guest has no hostname"),
    ] {
        let (_, notices) = app(settings);
        assert!(notices.iter().any(|notice| notice.starts_with(expected)), "{settings}: {notices:#?}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_place_and_reason() {
    for (settings, expected) in [
        ("privileged: true", "compose.yaml:4:5: `privileged`: a guest has no privileges"),
        ("entrypoint: /x", "compose.yaml:4:5: `entrypoint`: a component has one entry point"),
        ("network_mode: host", "compose.yaml:4:5: `host`: a guest shares no network"),
        ("volumes: ['./a:/a']", "compose.yaml:4:15: `./a`: a guest writes to no folder of its node"),
        ("volumes: ['/etc:/a:ro']", "compose.yaml:4:15: `/etc`: a guest sees no folder of its node"),
        (
            "volumes: [{type: tmpfs, target: /t}]",
            "compose.yaml:4:15: `tmpfs`: a guest has volumes and shipped files only",
        ),
        (
            "volumes: ['data:/a']\nscale: 2",
            "compose.yaml:5:5: the app of the service `web`: scale.replicas: 2 instances cannot write",
        ),
        ("deploy: {mode: global}", "compose.yaml:4:14: `global`: an app has a number of instances"),
        ("deploy: {mode: replicated-job}", "compose.yaml:4:14: `replicated-job`: an app is not a job"),
        ("scale: 2\ndeploy: {replicas: 3}", "compose.yaml:4:5: `scale` and `deploy.replicas` say two things"),
        (
            "mem_limit: 1m\ndeploy: {resources: {limits: {memory: 2m}}}",
            "compose.yaml:4:5: `mem_limit` and `deploy.resources.limits.memory` say two things",
        ),
        (
            "mem_limit: 100k",
            "compose.yaml:4:5: the app of the service `web`: limits.memory: 100KiB is less than 1MiB",
        ),
        (
            "deploy: {placement: {constraints: ['node.color == red']}}",
            "compose.yaml:4:40: `node.color == red`, column 1",
        ),
        (
            "deploy: {placement: {preferences: [{spread: node.id}]}}",
            "compose.yaml:4:40: `node.id`: instances are spread over labels",
        ),
        ("healthcheck: {test: [CMD, pg_isready]}", "compose.yaml:4:19: `test`: nothing runs beside a guest"),
        ("ports: ['53:53/udp']", "compose.yaml:4:13: `udp`: a Wasm app takes HTTP requests"),
        (
            "ports: ['80:80']\nx-wharf: {tcp: {}}",
            "compose.yaml:4:5: the app of the service `web`: tcp.ports: port 80 is below 1024",
        ),
        (
            "ports: ['127.0.0.1:7000:80']\nx-wharf: {tcp: {}}",
            "compose.yaml:4:13: `127.0.0.1`: public ports are at the addresses of the front door",
        ),
        ("ports: [80]\nx-wharf: {tcp: {}}", "compose.yaml:4:13: a public port is needed"),
        ("x-wharf: {tcp: {}, http: {}}", "compose.yaml:4:24: an app takes either requests or connections"),
        ("x-wharf: {http: {route: []}}", "compose.yaml:4:15: unknown field `route`"),
        ("restart: sometimes", "compose.yaml:4:5: `sometimes` is not one of `no`"),
        ("platform: wasi/wasm64", "compose.yaml:4:5: `wasi/wasm64`: components are `wasi/wasm`"),
        (
            "deploy: {update_config: {max_failure_ratio: 2}}",
            "compose.yaml:4:30: 2 is not a share between 0 and 1",
        ),
        (
            "secrets: [db_password, {source: db_password, target: DB-PASSWORD}]",
            "compose.yaml:4:28: there are two values for the variable `DB_PASSWORD`",
        ),
    ] {
        let error = refused(&file(settings));
        assert!(error.starts_with(expected), "{settings}\n  expected {expected}\n  was      {error}");
    }
    for (text, expected) in [
        (
            "services: {a: {image: repo/x, platform: wasi/wasm}}",
            "compose.yaml:1:16: `repo/x`: components are not taken from registries",
        ),
        (
            "services: {a: {image: a.wasm, volumes: ['v:/v']}, b: {image: x, volumes: ['v:/v']}}\nvolumes: {v: }",
            "compose.yaml:2:11: the volume `v` is of several services",
        ),
        (
            "services: {a_b: {image: x}, a-b: {image: x}}",
            "the services `a-b` and `a_b` would both be the app `a-b`",
        ),
        (
            "services: {a: {image: x, network_mode: 'service:b'}, b: {image: x}}",
            "compose.yaml:1:26: `service:b`: instances of two services may run on two nodes",
        ),
        (
            "services: {a: {image: x, platform: windows/amd64}}",
            "compose.yaml:1:26: `windows/amd64`: workers run on Linux",
        ),
        (
            "services: {a: {image: x}}\nsecrets: {s: {file: f}}\nconfigs: {s: {file: f}}",
            "compose.yaml:3:11: a config cannot be called `s`, because a secret is",
        ),
        (
            "services: {a: {image: x, models: [m]}}\nmodels: {m: {model: x}}",
            "compose.yaml:1:26: `models`: Wharf runs no language models",
        ),
        (
            "services: {a: {image: x}}\nnetworks: {n: {external: true}}",
            "compose.yaml:2:16: `external`: no network outlives its stack",
        ),
        (
            "services: {a: {image: x, restart: always}, b: {image: x, depends_on: {a: {condition: service_completed_successfully}}}}",
            "compose.yaml:1:26: others wait for the end of this service",
        ),
        (
            "services: {a: {image: x, x-wharf: {reuse: {}}}}",
            "compose.yaml:1:36: `x-wharf.reuse` is about Wasm apps",
        ),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{text}\n  expected {expected}\n  was      {error}");
    }
}

#[test]
fn what_is_a_component_is_told_by_its_image_or_platform() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (settings, is_wasm) in [
        ("image: a/b.wasm".to_owned(), true),
        (format!("image: {digest}"), true),
        ("image: a.wasm\n    platform: wasi/wasm32".to_owned(), true),
        ("image: nginx".to_owned(), false),
        (format!("image: {digest}\n    platform: linux/amd64"), false),
        ("build: .".to_owned(), false),
    ] {
        let made = translated(&format!("services:\n  a:\n    {settings}\n"));
        assert_eq!(matches!(made.apps[0].workload, Workload::Wasm(_)), is_wasm, "{settings}");
    }
}

fn voting() -> Translation {
    let project = project_of(&[("voting.yml", include_str!("fixtures/voting.yml"))]).unwrap();
    translate(&project, &Context { namespace: Some("team".parse().unwrap()) })
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_whole_stack_is_translated() {
    let made = voting();
    let vote = wasm(&made, "vote");
    assert_eq!(vote.namespace.as_ref().unwrap().as_str(), "team");
    assert_eq!(vote.http.routes, ["vote.example.com"]);
    assert_eq!(vote.http.health.path.as_deref(), Some("/healthz"));
    assert_eq!(vote.args, ["--title", "Cats or dogs"]);
    let allowed = |name: &str| vote.outbound.allow.contains(&format!("http://{name}.internal:*"));
    assert!(
        allowed("redis") && allowed("worker") && allowed("result") && !allowed("db"),
        "{:?}",
        vote.outbound.allow
    );

    let db = container(&made, "db");
    assert_eq!(
        db.common.placement.constraints,
        ["node.role == server", "node.labels.disk == ssd", "node.platform.arch == x86_64"]
    );
    assert_eq!(db.container.memory.unwrap().to_string(), "1GiB");
    assert_eq!((db.container.cpus.unwrap().as_millis(), db.container.pids), (1500, Some(200)));
    assert_eq!(db.container.secrets[0].mode.as_deref(), Some("0400"));
    assert_eq!(db.container.mounts[0].source.as_deref(), Some("db-data"));
    assert_eq!(made.volumes[0].key, "db-data");
    assert_eq!(made.secrets[0].from, ValueFrom::File("./db_password.txt".into()));
    assert!(made.networks["back"].internal && !made.networks["front"].internal);

    let worker = container(&made, "worker");
    assert_eq!(worker.container.build.as_ref().unwrap().context.as_deref(), Some("./worker"));
    assert_eq!(worker.common.stop.drain.to_string(), "1m 30s");
    assert_eq!(container(&made, "redis").container.networks["front"].aliases, ["queue"]);
}

#[test]
fn every_service_comes_after_what_it_waits_for() {
    let made = voting();
    let at = |service: &str| made.order.iter().position(|step| step.service == service).unwrap();
    assert_eq!(made.order.len(), 6);
    for (before, after) in [("redis", "vote"), ("db", "migrate"), ("migrate", "worker"), ("db", "result")] {
        assert!(at(before) < at(after), "{before} {after}: {:?}", made.order);
    }
    let worker = &made.order[at("worker")];
    let waits: Vec<String> = worker
        .waits
        .iter()
        .map(|wait| format!("{} {:?} {} {}", wait.app, wait.condition, wait.required, wait.restart))
        .collect();
    assert_eq!(waits, ["db Healthy true true", "migrate Completed true false", "redis Healthy true false"]);
}

#[test]
fn settings_of_a_container_survive_json() {
    for app in voting().apps {
        if let Workload::Container(container) = app.workload {
            let written = serde_json::to_string(&container).unwrap();
            assert_eq!(serde_json::from_str::<ContainerApp>(&written).unwrap(), *container);
        }
    }
}

#[test]
fn a_service_that_others_wait_for_to_end_is_not_started_again_when_it_has() {
    let text = "services: {a: {image: x}, b: {image: x, depends_on: {a: {condition: service_completed_successfully}}}}";
    let made = translated(text);
    assert_eq!(
        serde_json::to_value(container(&made, "a").common.restart).unwrap()["condition"],
        "on-failure"
    );
    assert!(made.notices[0].message.contains("restarted only after a failure"), "{:?}", made.notices);
}

#[test]
fn the_voting_app_is_three_wasm_apps_and_two_containers_that_see_what_they_share() {
    let made = translated(include_str!("../../examples/voting-app/compose.yml"));
    let allowed = |service| wasm(&made, service).outbound.allow;
    assert_eq!(
        allowed("vote"),
        ["http://redis.internal:*", "tcp://redis.internal:*", "http://worker.internal:*"]
    );
    let reached_by_worker = allowed("worker");
    for server in ["tcp://redis.internal:*", "tcp://db.internal:*"] {
        assert!(reached_by_worker.iter().any(|grant| grant == server), "{reached_by_worker:?}");
    }
    assert!(!allowed("result").iter().any(|grant| grant.contains("redis")));
    assert!(wasm(&made, "worker").secrets.contains_key("DB_PASSWORD"));
    for server in ["redis", "db"] {
        assert_eq!(container(&made, server).common.placement.constraints.len(), 1);
    }
    let order: Vec<&str> = made.order.iter().map(|step| step.service.as_str()).collect();
    let place = |service| order.iter().position(|step| *step == service).unwrap();
    assert!(place("redis") < place("vote") && place("db") < place("result"), "{order:?}");
    assert!(place("redis").max(place("db")) < place("worker"), "{order:?}");
}
