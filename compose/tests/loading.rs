//! Files become one project: forms, merging, variables, what other files add, and what is refused where.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{json, loaded, project, project_of, refused, service};
use serde_json::{Value, json};

#[test]
fn every_short_form_becomes_its_long_form() {
    for (settings, path, expected) in [
        ("command: echo 'a b' c", "command", json!(["echo", "a b", "c"])),
        ("command: [echo, 1]", "command", json!(["echo", "1"])),
        ("entrypoint: /run", "entrypoint", json!(["/run"])),
        ("environment: [A=1, B=x=y]", "environment", json!({"A": "1", "B": "x=y"})),
        ("environment: {A: 1.10, B: yes, C: ''}", "environment", json!({"A": "1.10", "B": "yes", "C": ""})),
        ("labels: [a=1, b]", "labels", json!({"a": "1", "b": ""})),
        ("ports: [80]", "ports.0", json!({"target": 80, "protocol": "tcp", "mode": "ingress"})),
        ("ports: ['8080:80/udp']", "ports.0.published", json!("8080")),
        ("ports: [{target: 80, published: 8080}]", "ports.0.published", json!("8080")),
        ("build: .\ndeploy: {}", "build", json!({"context": "./"})),
        ("depends_on: [db]", "depends_on", json!({"db": {"condition": "service_started"}})),
        ("healthcheck: {test: curl -f x}", "healthcheck.test", json!(["CMD-SHELL", "curl -f x"])),
        ("healthcheck: {test: NONE}", "healthcheck.test", json!(["NONE"])),
        (
            "healthcheck: {disable: 'yes', retries: '3', interval: 90s}",
            "healthcheck",
            json!({"disable": true, "retries": 3, "interval": "1m30s"}),
        ),
        (
            "ulimits: {nofile: 1024, nproc: {soft: 1, hard: 2}}",
            "ulimits",
            json!({"nofile": {"soft": 1024, "hard": 1024}, "nproc": {"soft": 1, "hard": 2}}),
        ),
        ("mem_limit: 64m\nmem_reservation: 1048576", "mem_limit", json!("64MiB")),
        ("memswap_limit: -1", "memswap_limit", json!("-1")),
        ("shm_size: 1gb", "shm_size", json!("1GiB")),
        ("stop_grace_period: 1m30s", "stop_grace_period", json!("1m30s")),
        ("tmpfs: /run", "tmpfs", json!(["/run"])),
        ("dns: 1.1.1.1", "dns", json!(["1.1.1.1"])),
        ("extra_hosts: ['a:1.1.1.1', 'b=[::1]']", "extra_hosts", json!({"a": ["1.1.1.1"], "b": ["::1"]})),
        ("extra_hosts: {a: 1.1.1.1}", "extra_hosts", json!({"a": ["1.1.1.1"]})),
        (
            "devices: ['/dev/a:/dev/b:r']",
            "devices.0",
            json!({"source": "/dev/a", "target": "/dev/b", "permissions": "r"}),
        ),
        ("gpus: all", "gpus", json!([{"count": "all"}])),
        ("networks: [other]", "networks", json!({"other": {}})),
        ("networks: {other: }", "networks", json!({"other": {}})),
        ("secrets: [key]", "secrets.0", json!({"source": "key", "target": "key"})),
        (
            "secrets: [{source: key, mode: 0400}]",
            "secrets.0",
            json!({"source": "key", "target": "key", "mode": "0400"}),
        ),
        ("secrets: [{source: key, mode: 256}]", "secrets.0.mode", json!("0400")),
        ("configs: [conf]", "configs.0.target", json!("/conf")),
        (
            "volumes: ['data:/data:ro']",
            "volumes.0",
            json!({"type": "volume", "source": "data", "target": "/data", "read_only": true}),
        ),
        ("volumes: ['./src/../a:/a']", "volumes.0.source", json!("./a")),
        (
            "deploy: {replicas: '2', resources: {limits: {cpus: '0.50', memory: 50M}}}",
            "deploy",
            json!({"replicas": 2, "resources": {"limits": {"cpus": 0.5, "memory": "50MiB"}}}),
        ),
        ("post_start: [{command: a b}]", "post_start.0.command", json!(["a", "b"])),
        (
            "build: {context: x, ssh: default, args: {A: 1}}",
            "build",
            json!({"context": "./x", "ssh": {"default": null}, "args": {"A": "1"}}),
        ),
    ] {
        let text = service(settings)
            + "  db: {image: redis}\nnetworks: {other: {}}\nvolumes: {data: }\nsecrets: {key: {file: k}}\nconfigs: {conf: {content: c}}\n";
        assert_eq!(json(&project(&text), &format!("services.web.{path}")), expected, "{settings}");
    }
}

#[test]
fn a_service_without_networks_is_in_the_default_one() {
    let project = project("services: {a: {image: x}, b: {image: x, network_mode: none}}");
    assert_eq!(json(&project, "services.a.networks"), json!({"default": {}}));
    assert_eq!(json(&project, "services.b.networks"), Value::Null);
    assert!(project.networks.contains_key("default"));
    assert!(
        common::project("services: {a: {image: x, networks: [default]}}").networks.contains_key("default")
    );
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_column() {
    for (text, expected) in [
        (
            "services:\n  web:\n    imgae: x\n",
            "compose.yaml:3:5: there is no key `imgae` here; did you mean `image`?",
        ),
        (
            "services: {a: {image: x}}\nservice: {}\n",
            "compose.yaml:2:1: there is no key `service` here; did you mean `services`?",
        ),
        (
            "services:\n  a:\n    image: x\n    deploy: {replicas: two}\n",
            "compose.yaml:4:24: `two` is not a whole number",
        ),
        (
            "services: {a: {image: x, restart: [no]}}",
            "compose.yaml:1:35: the value of `restart` must be one text or number",
        ),
        ("services: {a: {image: x, ports: 80}}", "compose.yaml:1:33: the value of `ports` must be a list"),
        (
            "services: {a: {image: x, depends_on: {b: {condition: ready}}}, b: {image: x}}",
            "compose.yaml:1:54: `ready` is not one of `service_started`",
        ),
        (
            "services: {a: {image: x, command: \"a 'b\"}}",
            "compose.yaml:1:35: a quote of this command line is not closed",
        ),
        ("services: {a: {image: x, mem_limit: lots}}", "compose.yaml:1:37: `lots` is not a size"),
        ("services: {a: {image: x, stop_grace_period: 30}}", "compose.yaml:1:45: `30` is not a duration"),
        (
            "services: {a: {image: x, privileged: perhaps}}",
            "compose.yaml:1:38: `perhaps` is neither `true` nor `false`",
        ),
        (
            "services: {a: {image: x, volumes: ['C:\\data:/d']}}",
            "compose.yaml:1:36: `C:\\\\data:/d` is a path of Windows",
        ),
        (
            "services: {a: {image: x, volumes: [{type: npipe, source: x, target: /y}]}}",
            "compose.yaml:1:36: named pipes are there on Windows only",
        ),
        (
            "services: {a: {image: x, networks: [frnt]}}\nnetworks: {front: }\n",
            "compose.yaml:1:37: there is no network `frnt`; did you mean `front`?",
        ),
        (
            "services: {a: {image: x, volumes: ['data:/d']}}\n",
            "compose.yaml:1:36: there is no volume `data`; define it",
        ),
        ("services: {a: {image: x, secrets: [s]}}\n", "compose.yaml:1:36: there is no secret `s`; define it"),
        ("services: {a: {image: x, configs: [s]}}\n", "compose.yaml:1:36: there is no config `s`; define it"),
        (
            "services: {a: {image: x, depends_on: [bb]}, b: {image: x}}\n",
            "compose.yaml:1:39: there is no service `bb`; did you mean `b`?",
        ),
        (
            "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}\n",
            "compose.yaml:1:71: `a` waits for itself, by `a`, `b`",
        ),
        (
            "services:\n  a: {image: x, ports: ['80:80']}\n  b: {image: x, ports: ['127.0.0.1:80:1']}\n",
            "compose.yaml:3:25: the port 80 is published by the service `a` already, in compose.yaml:2:25",
        ),
        (
            "services: {a: {environment: {A: 1}}}\n",
            "compose.yaml:1:12: the service `a` has neither `image` nor `build`",
        ),
        ("services: {'a b': {image: x}}\n", "compose.yaml:1:12: `a b` is not a name here"),
        ("services: {}\n", "compose.yaml:1:1: there is no service"),
        ("- a\n", "compose.yaml:1:1: a compose file is a table with `services`"),
        (
            "services: {a: {image: x}}\nsecrets: {s: {}}\n",
            "compose.yaml:2:11: `s` has no value: write one of `file`, `environment`",
        ),
        (
            "services: {a: {image: x}}\nsecrets: {s: {file: x, environment: Y}}\n",
            "compose.yaml:2:11: `s` has several values",
        ),
        (
            "services: {a: {image: x}}\nnetworks: {n: {external: {name: y}}}\n",
            "compose.yaml:2:26: this is the old form",
        ),
        (
            "services: {a: {image: '${TAG:?say which}'}}\n",
            "compose.yaml:1:23: the variable `TAG` is needed: say which",
        ),
        (
            "services: {a: {image: x, network_mode: host, networks: [n]}}\nnetworks: {n: }\n",
            "compose.yaml:1:26: `networks` is in line 1 already",
        ),
        (
            "services: {a: {image: x, x-wharf: {htpp: {}}}}\n",
            "compose.yaml:1:36: there is no key `htpp` here; did you mean `http`?",
        ),
        (
            "services: {a: {image: x}}\nnetworks: {n: {x-wharf: {}}}\n",
            "compose.yaml:2:16: `x-wharf` says nothing here",
        ),
        (
            "services: {a: {image: x, volumes: ['/a', '/a']}}",
            "compose.yaml:1:42: `/a` is mounted in line 1 already",
        ),
        (
            "services: {a: {image: x, ulimits: {nofile: {soft: 1}}}}",
            "compose.yaml:1:12: the service `a`: missing field `hard`",
        ),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{text}\n  expected {expected}\n  was      {error}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once() {
    let error = refused("services:\n  a: {image: x, foo: 1}\n  b: {image: x, replicas: 2, init: perhaps}\n");
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn octets_that_are_no_text_are_refused_and_a_mark_of_order_is_skipped() {
    let load = |octets: &[u8]| {
        let mut memory = common::Memory::default();
        memory.0.insert("c.yaml".into(), octets.to_vec());
        wharf_compose::load(&["c.yaml".into()], &[], &Default::default(), &memory)
            .map_err(|error| error.to_string())
    };
    assert_eq!(load(b"services:\n  a\xff: x").unwrap_err(), "c.yaml:2:4: the file is not UTF-8 from here on");
    assert!(load(b"\xef\xbb\xbfservices: {a: {image: x}}").is_ok());
    assert!(load(b"services:\n\ta: {image: x}").unwrap_err().starts_with("c.yaml:2:"));
    assert!(load(b"").unwrap_err().contains("there is no service"));
}

#[test]
fn files_are_merged_by_the_rules_of_the_specification() {
    for (base, over, path, expected) in [
        (
            "environment: {A: 1, B: 1}",
            "environment: [B=2, C=2]",
            "environment",
            json!({"A": "1", "B": "2", "C": "2"}),
        ),
        ("command: [a, b]", "command: c", "command", json!(["c"])),
        ("entrypoint: [a, b]", "entrypoint: [c]", "entrypoint", json!(["c"])),
        (
            "healthcheck: {test: a, retries: 3}",
            "healthcheck: {test: b}",
            "healthcheck",
            json!({"test": ["CMD-SHELL", "b"], "retries": 3}),
        ),
        ("dns: 1.1.1.1", "dns: [1.1.1.1, 8.8.8.8]", "dns", json!(["1.1.1.1", "8.8.8.8"])),
        ("cap_add: [A]", "cap_add: [B]", "cap_add", json!(["A", "B"])),
        (
            "volumes: ['/a', 'v:/b']",
            "volumes: ['w:/b:ro']",
            "volumes.1",
            json!({"type": "volume", "source": "w", "target": "/b", "read_only": true}),
        ),
        (
            "volumes: ['./x:/b']",
            "volumes: ['w:/b']",
            "volumes.0",
            json!({"type": "volume", "source": "w", "target": "/b"}),
        ),
        ("ports: ['80:80']", "ports: ['80:80', '81:80']", "ports.1.published", json!("81")),
        (
            "secrets: [s]",
            "secrets: [{source: t, target: s}]",
            "secrets",
            json!([{"source": "t", "target": "s"}]),
        ),
        ("logging: {driver: a, options: {x: 1}}", "logging: {driver: b}", "logging", json!({"driver": "b"})),
        (
            "logging: {driver: a, options: {x: 1}}",
            "logging: {options: {y: 1}}",
            "logging.options",
            json!({"x": "1", "y": "1"}),
        ),
        ("ports: ['80:80']", "ports: !reset []", "ports", Value::Null),
        ("environment: {A: 1, B: 1}", "environment: {A: !reset null}", "environment", json!({"B": "1"})),
        ("ports: ['80:80']", "ports: !override ['81:81']", "ports.0.published", json!("81")),
        (
            "deploy: {replicas: 1, labels: {a: b}}",
            "deploy: !override {replicas: 2}",
            "deploy",
            json!({"replicas": 2}),
        ),
        ("networks: [n]", "networks: {n: {aliases: [x]}}", "networks", json!({"n": {"aliases": ["x"]}})),
        (
            "depends_on: [db]",
            "depends_on: {db: {condition: service_healthy}}",
            "depends_on",
            json!({"db": {"condition": "service_healthy"}}),
        ),
        ("hostname: a", "hostname: b", "hostname", json!("b")),
        (
            "deploy: {resources: {limits: {cpus: 1}}}",
            "deploy: {resources: {limits: {memory: 1g}}}",
            "deploy.resources.limits",
            json!({"cpus": 1, "memory": "1GiB"}),
        ),
    ] {
        let base = service(base)
            + "  db: {image: redis}\nvolumes: {v: , w: }\nnetworks: {n: }\nsecrets: {s: {file: s}, t: {file: t}}\n";
        let over = format!("services:\n  web:\n    {over}\n");
        let project = loaded(&["a.yml", "b.yml"], &[("a.yml", &base), ("b.yml", &over)], &[], &[]).unwrap();
        let found = json(&project, &format!("services.web.{path}"));
        assert_eq!(found, expected, "{over}");
    }
}

#[test]
fn variables_come_from_the_environment_before_the_file_beside_the_project() {
    let files = [
        ("s/c.yml", "services: {a: {image: '$IMAGE:${TAG:-1}', command: '$$HOME $NONE'}}"),
        ("s/.env", "IMAGE=a\nTAG=2\n"),
    ];
    let project = loaded(&["s/c.yml"], &files, &[], &[("TAG", "3")]).unwrap();
    assert_eq!(json(&project, "services.a.image"), "a:3");
    assert_eq!(json(&project, "services.a.command"), json!(["$HOME"]));
    assert_eq!(
        project.notices[0].to_string(),
        "s/c.yml:1:52: the variable `NONE` is not set; an empty text is used"
    );
    assert_eq!(project.folder, "s");
}

#[test]
fn files_of_variables_are_below_what_the_service_says_itself() {
    let text = "services:\n  a:\n    image: x\n    env_file:\n    - one.env\n    - {path: two.env, required: false}\n    - {path: raw.env, format: raw}\n    environment: {A: own, FROM: , GONE: }\n    label_file: l.env\n";
    let files =
        [("c.yml", text), ("one.env", "A=1\nB=1\nC=$B\n"), ("raw.env", "R='$B'\n"), ("l.env", "x=y\n")];
    let project = loaded(&["c.yml"], &files, &[], &[("FROM", "env")]).unwrap();
    let expected = json!({"A": "own", "B": "1", "C": "1", "R": "'$B'", "FROM": "env"});
    assert_eq!(json(&project, "services.a.environment"), expected);
    assert_eq!(json(&project, "services.a.labels"), json!({"x": "y"}));
    let notices: Vec<String> = project.notices.iter().map(ToString::to_string).collect();
    assert!(notices[0].contains("there is no file two.env"), "{notices:?}");
    assert!(notices[1].contains("the variable `GONE` is not set"), "{notices:?}");

    let error = project_of(&[("c.yml", "services: {a: {image: x, env_file: no.env}}")]).unwrap_err();
    assert_eq!(error, "c.yml:1:36: there is no file no.env; `required: false` lets it be missing");
    let error = project_of(&[("c.yml", "services: {a: {image: x, env_file: e}}"), ("e", "A=1\nB \"=2\n")])
        .unwrap_err();
    assert!(error.starts_with("e:2:1: `B \\\"` is not a variable's name"), "{error}");
}

#[test]
fn a_file_of_variables_counts_as_often_as_it_is_named() {
    let services: String = (0..400).map(|n| format!("  s{n}: {{image: x, env_file: e}}\n")).collect();
    let of = |file: &str| {
        project_of(&[("c.yml", &format!("services:\n{services}")), ("e", file)]).map(drop).unwrap_err()
    };
    let said = of(&format!("#{}\n", "x".repeat(100_000)));
    assert!(said.contains("larger than 32 MiB together, each as often as it is named"), "{said}");
    let said = of(&format!("A={}\nB={}\n", "x".repeat(1000), "$A".repeat(500)));
    assert!(said.contains("e:2:1: the values are too large in all"), "{said}");
    let many: String = (0..20_000).map(|n| format!("V{n}\n")).collect();
    let said = of(&many);
    assert!(said.contains("more than 2000000 values"), "{said}");
}

#[test]
fn there_are_no_more_notices_than_anybody_reads() {
    let many: String = (0..5000).map(|n| format!("$V{n}")).collect();
    let project = project(&format!("services: {{a: {{image: x, command: [a, '{many}']}}}}"));
    assert!((1000..1010).contains(&project.notices.len()), "{}", project.notices.len());
    assert!(project.notices.iter().any(|notice| notice.message.contains("more to say")));
}

#[test]
fn a_service_begins_with_what_the_one_that_it_extends_says() {
    let text = "services:\n  web:\n    extends: {service: base, file: sub/base.yml}\n    environment: {B: 2}\n    command: own\n  two:\n    extends: web\n    image: y\n";
    let base = "services:\n  base:\n    extends: root\n    environment: [A=1, B=1]\n    command: [theirs]\n    env_file: e.env\n    volumes: ['./d:/d']\n  root: {image: x}\n";
    let project = project_of(&[("c.yml", text), ("sub/base.yml", base), ("sub/e.env", "E=1")]).unwrap();
    assert_eq!(json(&project, "services.web.environment"), json!({"A": "1", "B": "2", "E": "1"}));
    assert_eq!(json(&project, "services.web.command"), json!(["own"]));
    assert_eq!(json(&project, "services.web.volumes.0.source"), "./sub/d");
    assert_eq!(
        (json(&project, "services.web.image"), json(&project, "services.two.image")),
        (json!("x"), json!("y"))
    );
    assert!(!project.to_yaml().contains("extends"));

    for (text, expected) in [
        ("services: {a: {extends: b}, b: {extends: a}}", "extends itself"),
        ("services: {a: {extends: a}}", "`a` extends itself"),
        ("services: {a: {extends: no}}", "c.yml:1:25: there is no service `no` in c.yml"),
        ("services: {a: {extends: {service: x, file: no.yml}}}", "c.yml:1:25: there is no file no.yml"),
        ("services: {a: {extends: {file: c.yml}}}", "`service` is needed"),
        (
            "services: {a: {extends: {service: x, file: 'https://a/b.yml'}}}",
            "c.yml:1:25: `https://a/b.yml`: files are read beside",
        ),
    ] {
        let error = project_of(&[("c.yml", text)]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn what_is_included_keeps_its_own_folder_and_variables() {
    let text = "include: [sub/c.yml]\nservices: {web: {image: 'x:$V', depends_on: [db]}}\n";
    let sub = "services: {db: {image: 'y:$V', volumes: ['./d:/d', 'data:/v'], env_file: e.env}}\nvolumes: {data: }\n";
    let files = [("c.yml", text), ("sub/c.yml", sub), ("sub/.env", "V=sub"), ("sub/e.env", "E=1")];
    let project = project_of(&files).unwrap();
    assert_eq!(
        (json(&project, "services.web.image"), json(&project, "services.db.image")),
        (json!("x:"), json!("y:sub"))
    );
    assert_eq!(json(&project, "services.db.volumes.0.source"), "./sub/d");
    assert_eq!(json(&project, "services.db.environment"), json!({"E": "1"}));
    assert!(project.volumes.contains_key("data"));

    let long = "include:\n- {path: [sub/c.yml, over.yml], project_directory: ., env_file: v.env}\nservices: {web: {image: x}}\n";
    let files = [
        ("c.yml", long),
        ("sub/c.yml", sub),
        ("over.yml", "services: {db: {image: z}}"),
        ("v.env", "V=9"),
        ("e.env", "E=2"),
    ];
    let project = project_of(&files).unwrap();
    assert_eq!(
        (json(&project, "services.db.image"), json(&project, "services.db.volumes.0.source")),
        (json!("z"), json!("./d"))
    );
}

#[test]
fn includes_in_a_circle_and_two_meanings_of_a_name_are_refused() {
    let circle = [
        ("c.yml", "include: [d.yml]\nservices: {a: {image: x}}"),
        ("d.yml", "include: [c.yml]\nservices: {b: {image: x}}"),
    ];
    assert!(project_of(&circle).unwrap_err().contains("d.yml:1:11: c.yml includes itself, by c.yml, d.yml"));
    let twice =
        [("c.yml", "include: [d.yml]\nservices: {a: {image: x}}"), ("d.yml", "services: {a: {image: y}}")];
    let error = project_of(&twice).unwrap_err();
    assert!(error.starts_with("d.yml:1:12: `services.a` is here and, otherwise, in c.yml:2:12"), "{error}");
}

#[test]
fn services_of_profiles_that_nobody_asks_for_are_left_out_and_said() {
    let text = "services:\n  a: {image: x, depends_on: {b: {condition: service_started, required: false}}}\n  b: {image: x, profiles: [debug]}\n";
    let with = |profiles: &[&str]| loaded(&["c.yml"], &[("c.yml", text)], profiles, &[]).unwrap();
    let without = with(&[]);
    assert_eq!(without.services.keys().collect::<Vec<_>>(), ["a"]);
    let notices: Vec<&str> = without.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert!(notices.contains(&"the service `b` is left out: none of its profiles is active"), "{notices:?}");
    assert!(
        notices.contains(&"the service `b` is not waited for: none of its profiles is active"),
        "{notices:?}"
    );
    assert_eq!(with(&["debug"]).services.len(), 2);
    assert_eq!(with(&["*"]).services.len(), 2);
    let needed = text.replace(", required: false", "");
    let error = loaded(&["c.yml"], &[("c.yml", &needed)], &[], &[]).unwrap_err();
    assert!(error.contains("the service `b` is left out"), "{error}");
}

#[test]
fn extensions_are_allowed_everywhere_and_kept_out() {
    let text = "x-a: &e {A: '1'}\nservices: {a: {image: x, x-b: 1, environment: *e, deploy: {x-c: {}}}}\nnetworks: {default: {x-d: 1}}\n";
    let project = project(text);
    assert!(!project.to_yaml().contains("x-"), "{}", project.to_yaml());
    assert_eq!(json(&project, "services.a.environment.A"), "1");
}

#[test]
fn what_is_obsolete_is_said() {
    let project = project("version: '3.8'\nservices: {a: {image: x}}\n");
    assert_eq!(
        project.notices[0].to_string(),
        "compose.yaml:1:1: `version`: it is obsolete, and says nothing; leave it out"
    );
}

#[test]
fn thousands_of_services_load() {
    let mut text =
        "x-base: &base {image: nginx, environment: {A: b, C: d}, deploy: {replicas: 2}}\nservices:\n"
            .to_owned();
    for number in 0..5000 {
        text.push_str(&format!("  s{number}:\n    <<: *base\n    ports: ['{}:80']\n", 10_000 + number));
        if number > 0 {
            text.push_str(&format!("    depends_on: [s{}]\n", number - 1));
        }
    }
    assert_eq!(project(&text).services.len(), 5000);
}

#[test]
fn services_that_extend_each_other_without_end_are_refused() {
    let mut text = "services:\n  s0: {image: x}\n".to_owned();
    for number in 1..200 {
        text.push_str(&format!("  s{number}: {{extends: s{}}}\n", number - 1));
    }
    assert!(refused(&text).contains("extend each other in a row"));
}

#[test]
fn values_that_variables_make_too_large_are_refused() {
    let env = format!("A={}\n", "x".repeat(1 << 19));
    let text = format!("services: {{a: {{image: x, command: [{}]}}}}", vec!["$A"; 100].join(", "));
    let error = loaded(&["c.yml"], &[("c.yml", &text), (".env", &env)], &[], &[]).unwrap_err();
    assert!(error.contains("too large in all"), "{error}");
}

/// `UPDATE=1 cargo test -p wharf-compose printed` writes the file anew.
#[test]
fn a_project_is_printed_in_its_long_form() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/voting.config.yml");
    let printed = project_of(&[("voting.yml", include_str!("fixtures/voting.yml"))]).unwrap().to_yaml();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, &printed).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap_or_default();
    assert!(golden == printed, "{file} is out of date: run this test with UPDATE=1 and look at the change");
}
