//! A project becomes resources: what each key turns into, what is said, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{project, project_of};
use serde_json::{Value, json};
use wharf_compose::translate::ValueFrom;
use wharf_compose::{Context, Notice, Translation, components, translate};
use wharf_types::declare::document::AppDocument;

fn translated(text: &str) -> Translation {
    translate(&project(text), &Context::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    translate(&project(text), &Context::default()).unwrap_err().to_string()
}

fn document(made: &Translation, service: &str) -> AppDocument {
    made.apps.iter().find(|app| app.service == service).unwrap().document.clone()
}

/// The app with these settings, and what is said of it.
fn app_of(text: &str) -> (Value, Vec<String>) {
    let made = translated(text);
    let document = serde_json::to_value(document(&made, "web")).unwrap();
    (document, made.notices.iter().map(|notice| notice.message.clone()).collect())
}

/// A Wasm app with these settings.
fn app(settings: &str) -> (Value, Vec<String>) {
    app_of(&file(settings))
}

/// A container with these settings.
fn container(settings: &str) -> (Value, Vec<String>) {
    app_of(&container_file(settings))
}

fn file(settings: &str) -> String {
    file_with("a.wasm", settings)
}

fn container_file(settings: &str) -> String {
    file_with("nginx:1", settings) + "name: shop\n"
}

fn file_with(image: &str, settings: &str) -> String {
    let indented: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "services:\n  web:\n    image: {image}\n{indented}  db: {{image: redis, networks: [back]}}\nnetworks: {{front: , back: }}\n\
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
        ("networks: [back]", "/outbound/allow", json!(["tcp://db.internal:*", "tcp://db:*"])),
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
        ("deploy: {mode: global}", "/scale/replicas", json!("global")),
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
        (
            "deploy: {mode: global, placement: {preferences: [{spread: node.labels.a}]}}",
            "a service of `mode: global` is on every node",
        ),
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
        (
            "deploy: {mode: global, replicas: 3}",
            "compose.yaml:4:28: a service of `mode: global` has one instance on every node, and no number",
        ),
        (
            "scale: 2\ndeploy: {mode: global}",
            "compose.yaml:4:5: a service of `mode: global` has one instance",
        ),
        (
            "x-wharf: {scale: {max: 3, concurrency: 5}}\ndeploy: {mode: global}",
            "compose.yaml:4:15: a service of `mode: global` has one instance on every node, and no number",
        ),
        (
            "deploy: {mode: global, placement: {max_replicas_per_node: 1}}",
            "compose.yaml:4:40: a service of `mode: global` has one instance on every node; leave it out",
        ),
        (
            "deploy: {mode: global}\nvolumes: ['data:/a']",
            "compose.yaml:5:5: the app of the service `web`: volumes: an app has its volumes on one node, and a global app runs on every node",
        ),
        ("deploy: {mode: global-job}", "compose.yaml:4:14: `global-job`: a job has a number of runs"),
        ("x-wharf: {max_concurrent: 2}", "compose.yaml:4:15: `max_concurrent` is about jobs"),
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
        (
            "ports: ['127.0.0.1:7000:80']",
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
            "services: {a: {image: a.wasm, networks: [n]}}\nnetworks: {n: {external: true}}",
            "compose.yaml:2:16: `external`: a guest is in no network",
        ),
        (
            "services: {a: {image: x, restart: always}, b: {image: x, depends_on: {a: {condition: service_completed_successfully}}}}",
            "compose.yaml:1:26: others wait for the end of this service",
        ),
        (
            "services: {a: {image: x, x-wharf: {reuse: {mode: serial}}}}",
            "compose.yaml:1:36: `reuse`: it is about Wasm apps",
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
    ] {
        let made = translated(&format!("services:\n  a:\n    {settings}\n"));
        let document = document(&made, "a");
        assert_eq!((document.artifact.is_some(), document.image.is_none()), (is_wasm, is_wasm), "{settings}");
    }
}

fn voting() -> Translation {
    let project = project_of(&[("voting.yml", include_str!("fixtures/voting.yml"))]).unwrap();
    translate(&project, &Context { namespace: Some("team".parse().unwrap()), ..Context::default() })
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_whole_stack_is_translated() {
    let made = voting();
    let vote = document(&made, "vote");
    assert_eq!(vote.namespace.as_ref().unwrap().as_str(), "team");
    assert_eq!(vote.http.routes, ["vote.example.com"]);
    assert_eq!(vote.http.health.path.as_deref(), Some("/healthz"));
    assert_eq!(vote.args, ["--title", "Cats or dogs"]);
    let allowed = |grant: &str| vote.outbound.allow.iter().any(|allowed| allowed == grant);
    for name in ["redis", "redis.internal", "queue", "worker", "result"] {
        assert!(allowed(&format!("tcp://{name}:*")), "{name}: {:?}", vote.outbound.allow);
    }
    assert!(!allowed("tcp://db:*") && !vote.outbound.allow.iter().any(|grant| grant.starts_with("http")));

    let db = document(&made, "db");
    assert_eq!(
        db.placement.constraints,
        ["node.role == server", "node.labels.disk == ssd", "node.platform.arch == x86_64"]
    );
    assert_eq!(db.image.as_deref(), Some("postgres:16-alpine"));
    assert_eq!(db.limits.memory.to_string(), "1GiB");
    assert_eq!((db.container.cpus.unwrap().as_millis(), db.container.pids), (1500, 200));
    let [password] = &db.container.files[..] else { panic!("{:?}", db.container.files) };
    assert_eq!((&*password.path, password.mode.as_deref()), ("/run/secrets/db_password", Some("0400")));
    assert_eq!(db.secrets[&password.from].as_str(), "db-password");
    assert_eq!((db.volumes[0].name.as_str(), &*db.volumes[0].path), ("db-data", "/var/lib/postgresql/data"));
    assert_eq!(made.secrets[0].from, ValueFrom::File("./db_password.txt".into()));
    assert_eq!(db.container.health.unwrap().command, ["/bin/sh", "-c", "pg_isready -U postgres"]);

    let worker = document(&made, "worker");
    assert_eq!(worker.stop.drain.to_string(), "1m 30s");
    assert_eq!(document(&made, "redis").container.networks["voting_front"], ["queue"]);
    let said: Vec<&str> = made.notices.iter().map(|notice| notice.message.as_str()).collect();
    let limits = said.iter().filter(|said| said.starts_with("every container has a limit")).count();
    assert_eq!(limits, 1, "{said:#?}");
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
fn each_setting_of_a_container_has_its_place_in_the_document() {
    let usual = json!({
        "command": [], "disable": false, "interval": "1s", "timeout": "1s", "retries": 3, "start_period": "1m", "start_interval": "200ms"
    });
    let health = |change: Value| {
        let mut health = usual.clone();
        health.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        health
    };
    for (settings, path, expected) in [
        ("user: root", "/image", json!("nginx:1")),
        ("command: --x 'a b'", "/args", json!(["--x", "a b"])),
        ("entrypoint: /x -y\ncommand: z", "/container/entrypoint", json!(["/x", "-y"])),
        ("entrypoint: /x -y\ncommand: z", "/args", json!(["z"])),
        ("entrypoint: []\ncommand: /x y z", "/container/entrypoint", json!(["/x"])),
        ("entrypoint: []\ncommand: /x y z", "/args", json!(["y", "z"])),
        ("entrypoint: /x\ncommand: []", "/args", json!([])),
        ("environment: {PORT: 80}\nports: ['8080:80']", "/env", json!({"PORT": "80"})),
        ("mem_limit: 64m", "/limits/memory", json!("64MiB")),
        ("deploy: {resources: {limits: {memory: 8G}}}", "/limits/memory", json!("8GiB")),
        ("user: root", "/limits/memory", json!("512MiB")),
        ("mem_reservation: 1g", "/limits/memory", json!("1GiB")),
        ("x-wharf: {limits: {memory: 1GiB}}", "/limits/memory", json!("1GiB")),
        ("x-wharf: {limits: {concurrency: 7}}", "/limits/concurrency", json!(7)),
        ("cpus: 0.5", "/container/cpus", json!("500m")),
        ("cpus: 0", "/container/cpus", Value::Null),
        ("pids_limit: 9", "/container/pids", json!(9)),
        ("pids_limit: -1", "/container/pids", json!(4_194_304)),
        ("user: root", "/container/pids", json!(4096)),
        (
            "ulimits: {nofile: 9, core: {soft: 0, hard: -1}}",
            "/container/ulimits",
            json!({"nofile": {"soft": 9, "hard": 9}, "core": {"soft": 0, "hard": -1}}),
        ),
        ("shm_size: 1g", "/container/shm_size", json!("1GiB")),
        ("storage_opt: {size: 20G}", "/container/disk_max", json!("20GiB")),
        ("init: true", "/container/init", json!(true)),
        ("stop_signal: SIGINT", "/container/stop_signal", json!("SIGINT")),
        ("stop_grace_period: 1m", "/stop/drain", json!("1m")),
        ("user: 1000:1000", "/container/user", json!("1000:1000")),
        ("group_add: [video, 44]", "/container/groups", json!(["video", "44"])),
        ("working_dir: /srv", "/container/workdir", json!("/srv")),
        ("hostname: web.example.com", "/container/hostname", json!("web.example.com")),
        ("labels: {a: b}\nannotations: {c: d}", "/container/labels", json!({"a": "b", "c": "d"})),
        ("read_only: true", "/container/read_only", json!(true)),
        (
            "tmpfs: ['/tmp', '/run:size=64m,mode=1777']",
            "/container/tmpfs",
            json!([{"path": "/tmp"}, {"path": "/run", "size": "64MiB", "mode": "1777"}]),
        ),
        (
            "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}]",
            "/container/tmpfs",
            json!([{"path": "/t", "size": "1MiB", "mode": "0700"}]),
        ),
        ("cap_add: [NET_ADMIN]", "/container/capabilities_add", json!(["NET_ADMIN"])),
        ("cap_drop: [ALL]", "/container/capabilities_drop", json!(["ALL"])),
        ("security_opt: ['no-new-privileges:true']", "/container/new_privileges", json!(false)),
        ("security_opt: ['no-new-privileges:false']", "/container/new_privileges", json!(true)),
        ("security_opt: [no-new-privileges]", "/container/new_privileges", json!(false)),
        ("sysctls: [net.core.somaxconn=9]", "/container/sysctls", json!({"net.core.somaxconn": "9"})),
        ("privileged: true", "/container/privileged", json!(true)),
        (
            "devices: ['/dev/fuse', '/dev/a:/dev/b:r']",
            "/container/devices",
            json!(["/dev/fuse:/dev/fuse:rwm", "/dev/a:/dev/b:r"]),
        ),
        ("dns: 1.1.1.1", "/container/dns", json!(["1.1.1.1"])),
        (
            "extra_hosts: ['a.example.com:10.0.0.1', 'node=host-gateway']",
            "/container/extra_hosts",
            json!({"a.example.com": "10.0.0.1", "node": "host-gateway"}),
        ),
        ("network_mode: host", "/container/host_network", json!(true)),
        ("network_mode: bridge", "/container/networks", Value::Null),
        ("user: root", "/container/networks", json!({"shop_default": []})),
        (
            "container_name: the_web\nnetworks: {front: {aliases: [w, web]}}",
            "/container/networks",
            json!({"shop_front": ["the_web", "w"]}),
        ),
        ("healthcheck: {disable: true}", "/container/health", health(json!({"disable": true}))),
        ("healthcheck: {test: NONE}", "/container/health", health(json!({"disable": true}))),
        ("healthcheck: {test: [CMD, a, b]}", "/container/health", health(json!({"command": ["a", "b"]}))),
        (
            "healthcheck: {test: a || b, interval: 5s, timeout: 3s, retries: 2, start_period: 1m, start_interval: 2s}",
            "/container/health",
            json!({
                "command": ["/bin/sh", "-c", "a || b"], "disable": false, "interval": "5s", "timeout": "3s", "retries": 2,
                "start_period": "1m", "start_interval": "2s"
            }),
        ),
        ("healthcheck: {interval: 9s, timeout: 0s}", "/container/health", health(json!({"interval": "9s"}))),
        ("user: root", "/container/health", Value::Null),
        (
            "volumes: ['data:/data']",
            "/volumes/0",
            json!({"name": "data", "path": "/data", "size": "2GiB", "read_only": false, "shared": false}),
        ),
        ("volumes: [/var/cache]", "/volumes/0/name", json!("var-cache")),
        (
            "volumes: ['/srv/a:/a:ro']",
            "/container/host_paths",
            json!([{"host": "/srv/a", "path": "/a", "read_only": true}]),
        ),
        ("ports: ['7000:80', '7001:7001']", "/tcp/ports", json!([7000, 7001])),
        ("ports: ['7000:80', '7001:7001']", "/container/tcp", json!({"7000": 80})),
        ("ports: ['7000:80']", "/container/http_port", Value::Null),
        ("ports: ['8080:80', '7000:81']\nx-wharf: {http: {}}", "/container/http_port", json!(80)),
        ("ports: ['80:80', '7000:81']\nx-wharf: {http: {}}", "/tcp/ports", json!([7000])),
        (
            "ports: ['80']\nx-wharf: {http: {routes: [a.example.com]}}",
            "/http/routes",
            json!(["a.example.com"]),
        ),
        ("ports: ['7000:80']\nx-wharf: {tcp: {proxy_protocol: true}}", "/tcp/proxy_protocol", json!(true)),
        ("secrets: [db_password]", "/secrets", json!({"DB_PASSWORD": "db-password"})),
        (
            "secrets: [{source: db_password, target: key, mode: 0400, uid: '70', gid: '71'}]",
            "/container/files",
            json!([{"from": "KEY", "path": "/run/secrets/key", "mode": "0400", "uid": 70, "gid": 71}]),
        ),
        (
            "secrets: [db_password]\nenvironment: {DB_PASSWORD: x}",
            "/container/files/0/from",
            json!("DB_PASSWORD_2"),
        ),
        ("x-wharf: {registry_login: db_password}", "/container/registry_login", json!("REGISTRY_LOGIN")),
        (
            "x-wharf: {registry_login: db_password}\nenvironment: {REGISTRY_LOGIN: x}",
            "/secrets",
            json!({"REGISTRY_LOGIN_2": "db-password"}),
        ),
        ("configs: [motd]", "/configs", json!({"MOTD": "motd"})),
        (
            "configs: [{source: motd, target: /etc/motd}]",
            "/container/files",
            json!([{"from": "MOTD", "path": "/etc/motd"}]),
        ),
        ("restart: 'no'", "/restart/condition", json!("never")),
        ("scale: 3", "/scale/replicas", json!(3)),
        ("platform: linux/arm64/v8", "/placement/constraints", json!(["node.platform.arch == aarch64"])),
        ("user: root", "/outbound/allow", json!([])),
    ] {
        let (document, _) = container(settings);
        let found = document.pointer(path).cloned().unwrap_or_default();
        assert_eq!(found, expected, "{settings}");
    }
}

#[test]
fn what_a_container_has_otherwise_is_said() {
    for (settings, expected) in [
        (
            "user: root",
            "every container has a limit for its memory; where none is written it is `db` 512MiB, `web` 512MiB",
        ),
        ("platform: linux/amd64", "`linux/amd64`: it runs on nodes with `node.platform.arch == x86_64`"),
        ("annotations: {a: b}", "`annotations`: annotations become labels"),
        ("logging: {driver: x}", "`logging`: the platform keeps what every service prints"),
        ("tty: true", "`tty`: a container has no terminal"),
        ("memswap_limit: -1", "`memswap_limit`: a container gets no swap"),
        ("container_name: x", "`container_name`: instances are named by the platform; in its networks"),
        (
            "ports: ['8080:80']",
            "the port 8080 is open for connections, which are passed on as they are; if 80 takes HTTP",
        ),
        (
            "ports: ['80:80']\nx-wharf: {http: {}}",
            "requests come through the front door, by hostname, to the container's port 80; nothing is open for them at 80",
        ),
        ("ports: ['7000']", "the port 7000 is reached within the service's networks only"),
        (
            "ports: [{target: 7000, published: 7000, mode: host}]",
            "the port 7000 is public at every front door",
        ),
        ("volumes: ['/srv:/a']", "`create_host_path`: no folder of a node is made"),
        ("volumes: ['data:/a:nocopy']", "`nocopy`: nothing is copied from the image"),
        ("volumes: [/a]", "the volume has no name, and is called `a`"),
    ] {
        let (_, notices) = container(settings);
        assert!(notices.iter().any(|notice| notice.starts_with(expected)), "{settings}: {notices:#?}");
    }
    for mode in ["tmpfs: ['/tmp:mode=1777']", "volumes: [{type: tmpfs, target: /tmp, tmpfs: {mode: 1777}}]"] {
        let (_, notices) = container(mode);
        let is_said =
            |notice: &String| notice.starts_with("`mode`: it counts where the image has no such folder");
        assert!(notices.iter().any(is_said), "{mode}: {notices:#?}");
    }
    let (_, notices) = container("ports: ['7000:7000']\nmem_limit: 1g");
    assert!(
        !notices.iter().any(|notice| notice.contains("7000") || notice.contains("`web`")),
        "{notices:#?}"
    );
}

#[test]
fn what_a_container_cannot_have_is_refused_with_place_and_reason() {
    for (settings, expected) in [
        ("build: .", "4:5: `build`: images are built before"),
        ("entrypoint: []", "4:5: the image's entry point cannot be taken away alone"),
        ("command: []", "4:5: the image's own arguments cannot be taken away alone"),
        ("pids_limit: -7", "4:5: -7 is not a number of processes"),
        ("storage_opt: {inodes: 9}", "4:5: `inodes`: a container is held to a `size` only"),
        ("storage_opt: {size: much}", "4:5: `much` is not a size"),
        ("storage_opt: {size: 1k}", "4:5: the app of the service `web`: container.disk_max: 1KiB is less"),
        ("mem_limit: 100k", "4:5: the app of the service `web`: limits.memory: 100KiB is less"),
        ("x-wharf: {limits: {cpu: 1s}}", "4:15: `cpu` is about single requests"),
        (
            "security_opt: ['seccomp:unconfined']",
            "4:20: `seccomp:unconfined`: containers have their engine's own",
        ),
        ("hostname: a b", "4:5: `a b` is no name of a host"),
        ("networks: {front: {aliases: [a b]}}", "4:24: `a b` is no name of a host"),
        ("networks: {front: {mac_address: '02:42:ac:11:65:43'}}", "4:24: `mac_address`: the engine makes"),
        ("network_mode: none", "4:5: `none`: a container is in a network always"),
        ("network_mode: other", "4:5: `other`: networks are listed in `networks`"),
        ("network_mode: host\nports: ['7000:80']", "5:13: the container has the network of its node"),
        ("healthcheck: {test: [CMD]}", "4:19: a test is `CMD` and the words of a command"),
        ("healthcheck: {test: x, retries: -1}", "4:28: -1 is not a number of tries"),
        (
            "healthcheck: {test: x, interval: 1ms}",
            "4:5: the app of the service `web`: container.health.interval",
        ),
        ("volumes: ['./a:/a']", "4:15: `./a` is on the machine that deploys"),
        ("volumes: ['~/a:/a']", "4:15: `~/a` is on the machine that deploys"),
        ("volumes: ['/a:/a:z']", "4:15: `selinux`: nothing on a node gets another SELinux label"),
        (
            "volumes: [{type: image, source: x, target: /a}]",
            "4:15: `image`: no image is mounted into another",
        ),
        ("volumes: [{type: cluster, source: x, target: /a}]", "4:15: `cluster`: a volume is a folder"),
        (
            "volumes: [{type: tmpfs, target: /a, read_only: true}]",
            "4:15: a folder in memory that cannot be written to",
        ),
        (
            "volumes: [{type: volume, source: data, target: /a, volume: {subpath: b}}]",
            "4:65: `subpath`: a volume is seen as a whole",
        ),
        ("volumes: ['data:/a']\nscale: 2", "5:5: the app of the service `web`: scale.replicas: 2 instances"),
        ("tmpfs: ['/a:exec']", "4:13: `exec`: a folder in memory has a size and a mode"),
        ("devices: [vendor.com/gpu=0]", "4:15: `vendor.com/gpu=0` is no device of a node"),
        ("dns: resolver", "4:10: `resolver` is not an address"),
        ("extra_hosts: ['a:10.0.0.1', 'a:10.0.0.2']", "4:19: `a` has one address here"),
        ("extra_hosts: ['a:b']", "4:19: `b` is not an address"),
        ("labels: {wharf.app: x}", "4:5: the app of the service `web`: container.labels"),
        ("labels: {a: b}\nannotations: {a: c}", "5:5: `a` is a label as well"),
        ("links: ['db:database']", "4:13: `database`: a link gives no names here; give `db` the alias"),
        (
            "ports: ['80:80']",
            "4:13: the port 80 is below 1024, where only the machine's own services are. If 80 takes HTTP requests, write `x-wharf: {http: {}}`",
        ),
        ("ports: ['53:53/udp']", "4:13: `udp`: only TCP is public here"),
        ("ports: ['7000-7009:80']", "4:13: `7000-7009`: one port is needed"),
        ("ports: ['127.0.0.1:7000:80']", "4:13: `127.0.0.1`: public ports are at the addresses"),
        (
            "ports: ['127.0.0.1:8080:80']\nx-wharf: {http: {}}",
            "4:13: `127.0.0.1`: public ports are at the addresses",
        ),
        ("x-wharf: {registry_login: other}", "4:15: `other` is none of the `secrets` at the top of the file"),
        ("x-wharf: {http: {}}", "4:15: `http`: it needs the port that takes requests"),
        ("x-wharf: {outbound: {allow: ['https://example.com']}}", "4:15: `outbound`: it is about Wasm apps"),
        ("secrets: [{source: db_password, uid: root}]", "4:15: `uid`: `root` is not a number"),
        (
            "secrets: [db_password]\nconfigs: [{source: motd, target: /run/secrets/db_password}]",
            "5:15: there are two values for the file `/run/secrets/db_password`",
        ),
        ("gpus: all", "4:5: `gpus`: devices are given by their paths"),
        (
            "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
            "4:41: `devices`: devices are given by their paths",
        ),
        ("pid: host", "4:5: `pid`: a container shares its processes"),
        ("cpu_quota: 50000", "4:5: `cpu_quota`: write it as `cpus`"),
        ("post_start: [{command: x}]", "4:5: `post_start`: nothing is run in a container but its command"),
        ("dns_search: example.com", "4:5: `dns_search`: a container is told servers only"),
        ("domainname: example.com", "4:5: `domainname`: a container has a hostname alone"),
        ("volumes_from: [db]", "4:5: `volumes_from`: a volume belongs to one app"),
    ] {
        let error = refused(&container_file(settings));
        let expected = format!("compose.yaml:{expected}");
        assert!(error.starts_with(&expected), "{settings}\n  expected {expected}\n  was      {error}");
    }
    for (top, expected) in [
        ("volumes: {v: {driver: nfs}}", "2:15: `nfs`: a volume is a folder that the platform keeps"),
        (
            "volumes: {v: {driver_opts: {type: nfs}}}",
            "2:15: `driver_opts`: a volume is a folder that the platform keeps",
        ),
        ("volumes: {v: {external: true}}", "2:15: `external`: an app has volumes of its own only"),
    ] {
        let error = refused(&format!("services: {{a: {{image: x, volumes: ['v:/v']}}}}\n{top}"));
        let expected = format!("compose.yaml:{expected}");
        assert!(error.starts_with(&expected), "{top}\n  expected {expected}\n  was      {error}");
    }
}

#[test]
fn a_network_is_called_by_its_stack_unless_it_has_a_name_of_its_own() {
    let text = "name: shop\nservices: {a_b: {image: x, networks: [own, named, outside, of_others]}}\nnetworks:\n  own: {driver: overlay}\n  \
                named: {name: front}\n  outside: {external: true}\n  of_others: {external: true, name: proxy}\n";
    let names = |context: &Context| {
        let made = translate(&project(text), context).unwrap_or_else(|error| panic!("{error}"));
        document(&made, "a_b").container.networks
    };
    let of_file = names(&Context::default());
    assert_eq!(of_file.keys().collect::<Vec<_>>(), ["front", "outside", "proxy", "shop_own"]);
    // The service is known by the name that it has in the file.
    assert!(of_file.values().all(|aliases| aliases == &["a_b"]), "{of_file:?}");
    let stack = Context { stack: Some("other".to_owned()), ..Context::default() };
    assert!(names(&stack).contains_key("other_own"));
}

#[test]
fn a_network_is_internal_to_each_container_in_it() {
    let made = translated(
        "name: shop\nservices:\n  web: {image: w, networks: [front, back]}\n  db: {image: d, networks: [back]}\n  \
         alone: {image: a}\n  guest: {image: g.wasm, networks: [back]}\n\
         networks: {front: , back: {internal: true}, default: {internal: true, name: quiet}}\n",
    );
    let internal = |service| document(&made, service).container.internal_networks;
    assert_eq!(internal("web"), ["shop_back"]);
    assert_eq!(internal("db"), ["shop_back"]);
    assert_eq!(internal("alone"), ["quiet"]);
    assert!(internal("guest").is_empty());
    let said: Vec<&str> = made.notices.iter().map(|notice| notice.message.as_str()).collect();
    let is_said = |service: &str| {
        let words = format!("no network of the service `{service}` has a way out");
        said.iter().any(|said| said.starts_with(&words))
    };
    assert_eq!(["web", "db", "alone"].map(is_said), [false, true, true], "{said:?}");
    assert!(said.iter().any(|said| said.starts_with("`internal`: a guest reaches nothing")), "{said:?}");
    let of_guests =
        translated("services: {a: {image: a.wasm, networks: [n]}}\nnetworks: {n: {internal: true}}");
    let told: Vec<&Notice> =
        of_guests.notices.iter().filter(|notice| notice.message.starts_with("`internal`")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_guest_may_ask_whom_it_shares_a_network_with_in_the_way_that_it_answers() {
    let made = translated(
        "services:\n  web: {image: w.wasm, networks: [n]}\n  pages: {image: p, ports: ['80'], x-wharf: {http: {}}, networks: [n]}\n  \
         my_db: {image: d, networks: {n: {aliases: [store]}, m: {aliases: [elsewhere]}}}\n  api: {image: a.wasm, networks: [n]}\n  \
         queue: {image: q.wasm, x-wharf: {tcp: {}}, networks: [n]}\n  alone: {image: x}\nnetworks: {n: , m: }\n",
    );
    let expected = [
        "http://api.internal:*",
        "tcp://my-db.internal:*",
        "tcp://my-db:*",
        "tcp://my_db:*",
        "tcp://store:*",
        "http://pages.internal:*",
        "tcp://pages.internal:*",
        "tcp://pages:*",
        "tcp://queue.internal:*",
    ];
    assert_eq!(document(&made, "web").outbound.allow, expected);
    assert!(document(&made, "pages").outbound.allow.is_empty(), "a container's is not held to");
}

#[test]
fn a_module_is_granted_nobody_and_it_is_said_where_it_seems_to_ask_for_somebody() {
    let project = project(
        "services:\n  db: {image: redis, networks: [n, default]}\n  waits: {image: w.wasm, depends_on: [db]}\n  chooses: {image: c.wasm, networks: [n]}\n  \
         alone: {image: sub/a.wasm}\n  runs: {image: r.wasm, depends_on: [db], deploy: {mode: replicated-job}}\n  \
         asks: {image: w.wasm, depends_on: [db]}\nnetworks: {n: }\n",
    );
    let files: Vec<_> = components(&project).collect();
    let expected = [
        ("alone", "./sub/a.wasm"),
        ("asks", "./w.wasm"),
        ("chooses", "./c.wasm"),
        ("runs", "./r.wasm"),
        ("waits", "./w.wasm"),
    ];
    assert_eq!(files, expected);
    let modules = ["alone", "chooses", "runs", "waits"].map(str::to_owned).into();
    let made = translate(&project, &Context { modules, ..Context::default() }).unwrap();
    for service in ["alone", "chooses", "waits"] {
        assert!(document(&made, service).outbound.allow.is_empty(), "{service}");
    }
    assert!(made.jobs[0].spec.outbound.allow.is_empty());
    assert!(!document(&made, "asks").outbound.allow.is_empty());
    let said: Vec<&str> = made.notices.iter().map(|notice| notice.message.as_str()).collect();
    let said: Vec<&str> = said.into_iter().filter(|said| said.contains("reaches no address")).collect();
    let begins = |service: &str, key: &str| {
        let words = format!(
            "`{key}`: a module of WASI 0.1 reaches no address, so the service `{service}` is granted no other"
        );
        said.iter().any(|said| said.starts_with(&words))
    };
    assert!(begins("waits", "depends_on") && begins("chooses", "networks"), "{said:?}");
    assert!(begins("runs", "depends_on"), "{said:?}");
    assert_eq!(said.len(), 3, "{said:?}");
}

/// A job with these settings, as one line of YAML each.
fn job_file(image: &str, deploy: &str, settings: &str) -> String {
    format!(
        "services:\n  migrate:\n    image: {image}\n    deploy: {{mode: replicated-job{deploy}}}\n    {settings}\n"
    )
}

#[test]
fn a_replicated_job_is_run_to_its_end_as_often_as_it_has_replicas() {
    let settings = "command: [up]\n    stop_grace_period: 5s\n    x-wharf: {max_concurrent: 2}\n    networks: {default: {aliases: [m]}}";
    let deploy = ", replicas: 4, restart_policy: {condition: on-failure, max_attempts: 7, delay: 2s}";
    let made = translated(&job_file("migrate:1", deploy, settings));
    assert!(made.apps.is_empty());
    let [job] = &made.jobs[..] else { panic!("one job") };
    let spec = &job.spec;
    assert_eq!((job.image.as_deref(), job.name.as_str()), (Some("migrate:1"), "migrate"));
    assert_eq!((spec.completions, spec.parallelism, spec.retries), (4, 2, 7));
    assert_eq!((spec.args.as_slice(), spec.backoff.to_string()), (&["up".to_owned()][..], "2s".to_owned()));
    assert_eq!(spec.stop.drain.to_string(), "5s");
    assert!(spec.container.networks.values().all(Vec::is_empty), "{:?}", spec.container.networks);
    let said: Vec<&str> = made.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert!(said.iter().any(|said| said.contains("nobody reaches a run")), "{said:?}");
    let order: Vec<&str> = made.order.iter().map(|step| step.service.as_str()).collect();
    assert_eq!(order, ["migrate"]);

    let made = translated(&job_file("a.wasm", "", "restart: \"no\""));
    assert_eq!((made.jobs[0].spec.completions, made.jobs[0].spec.retries), (1, 0));
    assert!(made.jobs[0].artifact.is_some());
}

#[test]
fn what_a_job_does_not_have_is_refused_by_its_key() {
    for (deploy, settings, expected) in [
        ("", "ports: [\"80:80\"]", "`ports`: a job takes no connections"),
        ("", "healthcheck: {test: [CMD, a]}", "`healthcheck`: the end of a job"),
        ("", "volumes: [\"v:/v\"]\nvolumes: {v: {}}", "a job has no volumes"),
        ("", "restart: always", "`always`: what has succeeded is not run again"),
        (", restart_policy: {condition: any}", "tty: false", "`any`: what has succeeded"),
        (", restart_policy: {max_attempts: 0}", "tty: false", "`max_attempts`: 0 would be"),
        (", update_config: {parallelism: 1}", "tty: false", "`update_config`: a job is not rolled out"),
        (", replicas: 0", "tty: false", "completions: 0 is not between"),
    ] {
        let error = refused(&job_file("x", deploy, settings));
        assert!(error.contains(expected), "{settings}\n  expected {expected}\n  was      {error}");
    }
}

#[test]
fn a_service_that_others_wait_for_to_end_is_not_started_again_when_it_has() {
    let text = "services: {a: {image: x}, b: {image: x, depends_on: {a: {condition: service_completed_successfully}}}}";
    let made = translated(text);
    let restart = serde_json::to_value(document(&made, "a").restart).unwrap();
    assert_eq!(restart["condition"], "on-failure");
    let is_said = |words: &str| made.notices.iter().any(|notice| notice.message.contains(words));
    assert!(is_said("restarted only after a failure"), "{:?}", made.notices);
}

#[test]
fn the_voting_app_is_three_wasm_apps_and_two_containers_that_see_what_they_share() {
    let made = translated(include_str!("../../examples/voting-app/compose.yml"));
    let allowed = |service| document(&made, service).outbound.allow;
    assert!(allowed("vote").iter().any(|grant| grant == "tcp://redis.internal:*"), "{:?}", allowed("vote"));
    let reached_by_worker = allowed("worker");
    for server in ["tcp://redis.internal:*", "tcp://db.internal:*"] {
        assert!(reached_by_worker.iter().any(|grant| grant == server), "{reached_by_worker:?}");
    }
    assert!(!allowed("result").iter().any(|grant| grant.contains("redis")));
    assert!(document(&made, "worker").secrets.contains_key("DB_PASSWORD"));
    for server in ["redis", "db"] {
        assert_eq!(document(&made, server).placement.constraints.len(), 1);
        assert!(document(&made, server).image.is_some());
    }
    let order: Vec<&str> = made.order.iter().map(|step| step.service.as_str()).collect();
    let place = |service| order.iter().position(|step| *step == service).unwrap();
    assert!(place("redis") < place("vote") && place("db") < place("result"), "{order:?}");
    assert!(place("redis").max(place("db")) < place("worker"), "{order:?}");
}

/// Wasm apps, each in the network with this number.
fn many(count: usize, network: impl Fn(usize) -> usize) -> String {
    let services: String = (0..count)
        .map(|number| format!("  s{number}: {{image: a.wasm, networks: [n{}]}}\n", network(number)))
        .collect();
    let networks: String = (0..count)
        .map(&network)
        .map(|network| format!("  n{network}: \n"))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    format!("services:\n{services}networks:\n{networks}")
}

#[test]
fn a_network_of_more_services_than_an_app_can_be_granted_is_told_of_once() {
    let made = translated(&many(257, |_| 0));
    assert!(made.apps.iter().all(|app| app.document.outbound.allow.len() == 256));
    for count in [258, 5000] {
        let said = refused(&many(count, |_| 0));
        assert_eq!(said.lines().count(), 1, "{said}");
        for words in
            [format!("the network `n0` has {count} services").as_str(), "compose.yaml:", "network_mode: none"]
        {
            assert!(said.contains(words), "`{words}` is missing in {said}");
        }
    }
}

#[test]
fn thousands_of_services_in_networks_of_some_translate() {
    let made = translated(&many(5000, |number| number / 100));
    assert_eq!(made.apps.len(), 5000);
    assert!(made.apps.iter().all(|app| app.document.outbound.allow.len() == 99));
}

#[test]
fn networks_that_are_too_many_for_one_app_together_are_told_of_the_largest() {
    let others: String = (0..300)
        .map(|number| {
            format!("  s{number}: {{image: a.wasm, networks: [{}]}}\n", if number < 140 { "a" } else { "b" })
        })
        .collect();
    let said = refused(&format!(
        "services:\n  web: {{image: a.wasm, networks: [a, b]}}\n{others}networks: {{a: , b: }}\n"
    ));
    assert!(said.lines().count() == 1 && said.contains("the network `b` has 161 services"), "{said}");
}

/// As a preview of the stack `shop`.
fn preview() -> Context {
    let name = "shop-preview-a";
    Context { stack: Some(name.to_owned()), preview: Some(name.parse().unwrap()), ..Context::default() }
}

#[test]
fn a_preview_has_names_of_its_own_and_its_services_know_each_other_by_those_of_the_file() {
    let text = "name: shop\nservices:\n  web: {image: w.wasm, x-wharf: {http: {routes: [shop.example.com]}}, secrets: [key, known]}\n  \
                my_db: {image: d, ports: ['5432:5433'], networks: {default: {aliases: [store]}, proxy: {}}}\n  \
                mover: {image: m, deploy: {mode: replicated-job}, network_mode: bridge}\n\
                networks: {proxy: {external: true}}\nsecrets: {key: {file: key.txt}, known: {external: true}}\n";
    let made = translate(&project(text), &preview()).unwrap_or_else(|error| panic!("{error}"));
    let (web, db) = (document(&made, "web"), document(&made, "my_db"));
    assert_eq!((web.name.as_str(), db.name.as_str()), ("shop-preview-a-web", "shop-preview-a-my-db"));
    assert_eq!(made.jobs[0].name.as_str(), "shop-preview-a-mover");
    let secrets: Vec<&str> = made.secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(secrets, ["shop-preview-a-key", "known"], "what was set before is for all");
    assert_eq!(web.secrets["KEY"].as_str(), "shop-preview-a-key");
    // Whom it means by a name, and by which names containers are known in its own networks.
    let names = |names: &std::collections::BTreeMap<String, wharf_types::AppName>| {
        names.iter().map(|(name, app)| format!("{name} {app}")).collect::<Vec<_>>()
    };
    let everybody =
        ["mover shop-preview-a-mover", "my-db shop-preview-a-my-db", "my_db shop-preview-a-my-db"];
    let of_web = [&everybody[..], &["store shop-preview-a-my-db", "web shop-preview-a-web"]].concat();
    assert_eq!(names(&web.names), of_web);
    assert_eq!(names(&made.jobs[0].spec.names), [&everybody[..], &["web shop-preview-a-web"]].concat());
    let networks = &db.container.networks;
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["shop-preview-a_default", "shop-preview-a_proxy"]);
    assert_eq!(networks["shop-preview-a_default"], ["my-db", "my_db", "store"]);
    let of_job = &made.jobs[0].spec.container.networks;
    assert_eq!(of_job.keys().collect::<Vec<_>>(), ["shop-preview-a"], "and not the one of the namespace");
    for grant in ["tcp://my-db.internal:*", "tcp://my-db:*", "tcp://store:*"] {
        assert!(web.outbound.allow.iter().any(|it| it == grant), "{grant}: {:?}", web.outbound.allow);
    }
    // What there is once is the stack's.
    assert!(web.http.routes.is_empty() && db.tcp.ports.is_empty() && db.container.tcp.is_empty());
    let said: Vec<&str> = made.notices.iter().map(|notice| notice.message.as_str()).collect();
    for words in [
        "a preview does not take the routes shop.example.com",
        "a preview does not take the ports 5432: the services that share a network with it reach it",
        "a preview has a network of its own in the place of `proxy`",
    ] {
        assert!(said.contains(&words), "{words}: {said:?}");
    }
}

#[test]
fn a_preview_takes_nothing_of_its_node_that_the_stack_has() {
    let text = "services:\n  a: {image: x, volumes: ['/srv/a:/a']}\n  b: {image: x, volumes: ['/srv/b:/b:ro']}\n  c: {image: x, network_mode: host}\n";
    let error = translate(&project(text), &preview()).unwrap_err().to_string();
    assert!(error.contains("`/srv/a`: a preview would write"), "{error}");
    assert!(error.contains("`host`: a preview cannot have the ports of its node"), "{error}");
    assert!(!error.contains("/srv/b"), "{error}");
    assert!(translate(&project(text), &Context::default()).is_ok());
}
