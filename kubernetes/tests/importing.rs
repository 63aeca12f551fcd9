//! What is said of manifests that cannot be taken as they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use wharf_kubernetes::{Import, Level, Source, import};

/// Of what would otherwise take hours; a machine may have much else to do.
const LIMIT: Duration = Duration::from_secs(240);

fn of(text: &str) -> Import {
    import(&[Source { name: "f.yaml".into(), octets: text.into() }])
}

fn said(made: &Import, level: Level) -> Vec<String> {
    made.findings.iter().filter(|finding| finding.level == level).map(ToString::to_string).collect()
}

/// What is refused of a text.
fn refused(text: &str) -> String {
    said(&of(text), Level::Refused).join("\n")
}

/// A Deployment, given by what its pod and its container have, in flow style.
fn deployment(pod: &str, container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    \
         metadata: {{labels: {{app: web}}}}\n    spec:\n      {pod}\n      containers:\n      - name: web\n        image: nginx:1\n        \
         resources: {{limits: {{memory: 64Mi}}}}\n        {container}\n"
    )
}

fn assert_refused(text: &str, expected: &str) {
    let refused = refused(text);
    assert!(refused.contains(expected), "{text}\n{refused}");
    assert!(!of(text).text.contains("kind: app"), "what is refused is left out of the text");
}

fn assert_noticed(text: &str, expected: &str) {
    let made = of(text);
    let noticed = said(&made, Level::Notice).join("\n");
    assert!(noticed.contains(expected), "{text}\n{noticed}");
    assert_eq!(made.refused(), 0, "{}", said(&made, Level::Refused).join("\n"));
}

#[test]
fn an_unknown_field_is_refused_by_its_place_with_the_nearest_name() {
    let text = deployment("", "enviroment: []\n        readinesProbe: {}");
    let refused = refused(&text);
    assert!(refused.contains("f.yaml:15:9: Deployment web, spec.template.spec.containers[0].readinesProbe: there is no key `readinesProbe` here; did you mean `readinessProbe`?"), "{refused}");
    assert!(
        refused.contains("f.yaml:14:9: Deployment web, spec.template.spec.containers[0].enviroment"),
        "{refused}"
    );
}

#[test]
fn what_an_app_cannot_have_is_refused_with_the_reason() {
    for (pod, container, expected) in [
        ("hostPID: true", "", "spec.template.spec.hostPID: an instance shares nothing"),
        ("initContainers: [{name: a, image: b}]", "", "an app is one program"),
        ("", "lifecycle: {postStart: {exec: {command: [a]}}}", "an app is one program"),
        ("", "lifecycle: {preStop: {exec: {command: [nginx, -s, quit]}}}", "let it do this on its signal"),
        ("", "livenessProbe: {grpc: {port: 1}}", "the platform asks over HTTP, or by a command"),
        ("", "livenessProbe: {tcpSocket: {port: 99}}", "is not asked"),
        ("", "readinessProbe: {httpGet: {port: nowhere}}", "it is no port of the container"),
        ("", "resources: {limits: {nvidia.com/gpu: 1}}", "nodes count memory and processors only"),
        ("", "tty: true", "an instance has no terminal"),
        ("", "stdin: false\n        image: No Image", "is here twice"),
        ("restartPolicy: Never", "", "what ends is a Job"),
        ("runtimeClassName: gvisor", "", "containers are run by the engine of their node"),
        ("", "volumeMounts: [{name: dta, mountPath: /a}]", "there is no volume `dta`"),
        ("volumes: [{name: a, nfs: {server: b, path: /c}}]", "", "let the nodes mount it"),
        ("", "env: [{name: A, value: b}, {name: A, value: c}]", "the variable `A` is here twice"),
        (
            "",
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]",
            "every instance would have another",
        ),
        ("", "envFrom: [{secretRef: {name: elsewhere}}]", "nobody knows its keys"),
        ("securityContext: {seccompProfile: {type: Unconfined}}", "", "the profile of its engine"),
        ("hostUsers: false", "", "a container has the users of its node"),
        ("activeDeadlineSeconds: 5", "", "what ends is a Job"),
    ] {
        if container.starts_with("resources") || container.contains("No Image") {
            assert!(!refused(&deployment(pod, container)).is_empty());
            continue;
        }
        assert_refused(&deployment(pod, container), expected);
    }
}

#[test]
fn what_is_done_in_another_way_is_told() {
    for (pod, container, expected) in [
        ("tolerations: [{operator: Exists}]", "", "nodes have no taints"),
        ("serviceAccountName: web", "", "an app has no account"),
        ("", "imagePullPolicy: Always", "pinned to a digest"),
        ("", "lifecycle: {preStop: {exec: {command: [/bin/sh, -c, sleep 15]}}}", "nothing to wait for"),
        ("securityContext: {runAsNonRoot: true}", "", "nobody looks whether the user of the image is root"),
        ("hostNetwork: true", "", "only where the cluster's admin allows"),
        (
            "volumes: [{name: a, emptyDir: {}}]",
            "volumeMounts: [{name: a, mountPath: /a}]",
            "it is kept in memory",
        ),
        ("volumes: [{name: a, emptyDir: {}}]", "", "spec.template.spec.volumes[0].name: it has no effect"),
        ("", "readinessProbe: {httpGet: {path: /, port: 80}}", "the front door leads there, too"),
    ] {
        assert_noticed(&deployment(pod, container), expected);
    }
}

#[test]
fn several_containers_are_not_one_app() {
    let text = deployment("", "args: [a]\n      - {name: proxy, image: envoy}");
    assert_refused(&text, "spec.template.spec.containers[1]: an app is one program");
}

#[test]
fn variables_within_values_are_written_out() {
    let made = of(&deployment(
        "",
        "args: ['$(A)$(B)', '$$(A)', '$(C)', '$', 'a$b']\n        env: [{name: A, value: x}, {name: B, value: '$(A)y'}]",
    ));
    for expected in ["- xxy\n", "- \"$(A)\"\n", "- \"$(C)\"\n", "- \"$\"\n", "B: xy\n"] {
        assert!(made.text.contains(expected), "{expected}: {}", made.text);
    }
    let secret = "env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}, {name: B, value: 'x$(A)'}]";
    assert_refused(&deployment("", secret), "let the app put the two together");
    assert_refused(&deployment("", "args: ['$(REDIS_SERVICE_HOST)']"), "write the name of the app");
}

const SECRET: &str = "hunter2-geheim";

#[test]
fn the_value_of_a_secret_is_in_nothing_that_comes_out() {
    let encoded = "aHVudGVyMi1nZWhlaW0=";
    for data in [
        format!("stringData: {{a: {SECRET}}}"),
        format!("data: {{a: {encoded}}}"),
        format!("data: {{a: {SECRET}}}"),
        format!("stringData: {{a: [{SECRET}]}}"),
        format!("stringData: [{SECRET}]"),
        format!("stringData: {SECRET}"),
        format!("stringData: {{a: {{b: {SECRET}}}}}"),
        format!("stringData: {{a: !x {SECRET}}}"),
        format!("stringData: {{a: {SECRET}, a: {SECRET}}}"),
        format!("data: {{a: {encoded}}}\nstringData: {{a: {SECRET}}}"),
        format!("type: kubernetes.io/dockerconfigjson\nstringData: {{a: {SECRET}}}"),
        format!("stringData: {{a: \"{SECRET}\\0\"}}"),
    ] {
        let uses = deployment(
            "volumes: [{name: s, secret: {secretName: s}}]",
            "envFrom: [{secretRef: {name: s}}]\n        volumeMounts: [{name: s, mountPath: /s}]",
        );
        let made = of(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n---\n{uses}"));
        let all = format!("{}{:?}", made.text, made.findings);
        assert!(!all.contains(SECRET) && !all.contains(encoded), "{data}: {all}");
    }
}

#[test]
fn configs_and_secrets_are_set_by_commands_with_names_of_their_own() {
    let made = of(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: shop}\ndata: {a.b: -1, a_b: 'x', LONG_NAME_THAT_IS_LONGER_THAN_ALL_NAMES_MAY_BE: y}\n",
    );
    let commands = said(&made, Level::Command).join("\n");
    assert!(commands.contains("wharf config set -n shop -- c-a-b -1"), "{commands}");
    assert!(commands.contains("wharf config set -n shop c-a-b-"), "{commands}");
    let names: Vec<&str> = made
        .findings
        .iter()
        .flat_map(|finding| finding.text.split_whitespace().find(|word| word.starts_with("c-")))
        .collect();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.parse::<wharf_types::SecretName>().is_ok()), "{names:?}");
}

#[test]
fn kinds_that_are_not_taken_say_what_is() {
    for (head, expected) in [
        ("apiVersion: apps/v1\nkind: ReplicaSet", "write a Deployment"),
        ("apiVersion: apps/v1\nkind: Deploymnt", "did you mean `Deployment`?"),
        ("apiVersion: extensions/v1beta1\nkind: Ingress", "`apiVersion: networking.k8s.io/v1` only"),
        ("apiVersion: example.com/v1\nkind: Widget", "there is no kind `Widget` here"),
        ("apiVersion: v1\nkind: ServiceAccount", "an app has no account"),
        ("apiVersion: v1", "`kind` is needed"),
    ] {
        assert_refused(&format!("{head}\nmetadata: {{name: a}}\n"), expected);
    }
    assert_refused("apiVersion: v1\nkind: ConfigMap\n", "`metadata.name` is needed");
    assert_refused("- a\n", "a manifest is a table");
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    assert_refused(&format!("{twice}---\n{twice}"), "it is here twice; it stands in f.yaml:3:12 already");
}

#[test]
fn services_lead_to_one_app() {
    let app = deployment("", "ports: [{name: http, containerPort: 8080}]");
    let service = |name: &str, spec: &str| {
        format!("{app}---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    for (spec, expected) in [
        ("{ports: [{port: 80}]}", "needs a selector"),
        ("{selector: {app: other}, ports: [{port: 80}]}", "no app of these files has these labels"),
        ("{type: ExternalName, externalName: a.example.com}", "a name stands for apps only"),
        ("{type: LoadBalancer, selector: {app: web}, ports: [{port: 443}]}", "public ports begin at 1024"),
        ("{type: NodePort, selector: {app: web}, ports: [{port: 53, protocol: UDP}]}", "TCP only"),
        (
            "{selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80}]}",
            "a client is led to any instance",
        ),
        ("{selector: {app: web}, ports: [{port: 80, targetPort: htp}]}", "there are `http`"),
    ] {
        let refused = refused(&service("web", spec));
        assert!(refused.contains(expected), "{spec}: {refused}");
    }
    let made = of(&service("front", "{selector: {app: web}, ports: [{port: 80, targetPort: http}]}"));
    assert!(made.text.contains("  networks:\n    default:\n      - front\n"), "{}", made.text);
    assert!(
        !made.text.contains("http_port"),
        "what only others of the namespace reach is not led to by the front door"
    );
    let other = app.replace("name: web}", "name: front}").replace("app: web", "app: front");
    let text = format!("{other}---\n{}", service("front", "{selector: {app: web}, ports: [{port: 80}]}"));
    assert!(refused(&text).contains("an app is called so"));
    let both = app.replace("metadata: {name: web}", "metadata: {name: green}");
    let text = format!("{both}---\n{}", service("web", "{selector: {app: web}, ports: [{port: 80}]}"));
    assert!(refused(&text).contains("Deployment green and Deployment web among them"), "{}", refused(&text));
}

#[test]
fn an_ingress_becomes_routes() {
    let ingress = |spec: &str| {
        format!(
            "{}---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, ports: [{{name: a, port: 80, targetPort: 8080}}, {{port: 81}}]}}\n\
             ---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: in}}\nspec: {spec}\n",
            deployment("", "args: []")
        )
    };
    let rule = |host: &str, path: &str, kind: &str, port: &str| {
        format!(
            "{{{host} http: {{paths: [{{path: {path}, pathType: {kind}, backend: {{service: {{name: web, port: {port}}}}}}}]}}}}"
        )
    };
    let text =
        ingress(&format!("{{rules: [{}]}}", rule("host: a.example.com,", "/api/", "Exact", "{name: a}")));
    let made = of(&text);
    assert!(
        made.text.contains("- a.example.com/api\n") && made.text.contains("http_port: 8080"),
        "{}",
        made.text
    );
    assert_noticed(&text, "a route is a prefix");
    for (rules, expected) in [
        (rule("host: '*.example.com',", "/", "Prefix", "{number: 80}"), "is not a route"),
        (rule("", "/a", "Prefix", "{number: 80}"), "a route begins with a hostname"),
        (rule("host: a.example.com,", "/", "Prefix", "{number: 82}"), "has no such port"),
        (
            format!(
                "{}, {}",
                rule("host: a.example.com,", "/", "Prefix", "{number: 80}"),
                rule("host: b.example.com,", "/", "Prefix", "{number: 81}")
            ),
            "has one such port only",
        ),
    ] {
        let refused = refused(&ingress(&format!("{{rules: [{rules}]}}")));
        assert!(refused.contains(expected), "{rules}: {refused}");
    }
    let tls = ingress(&format!(
        "{{tls: [{{secretName: a}}], rules: [{}]}}",
        rule("host: a.example.com,", "/", "Prefix", "{number: 80}")
    ));
    assert!(refused(&tls).contains("the front door takes HTTP only"));
    let made = of(&tls).text;
    assert!(
        made.contains("kind: app") && !made.contains("routes") && made.contains("refused: Ingress in ("),
        "{made}"
    );
}

#[test]
fn a_volume_belongs_to_one_app() {
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 3Gi}}}\n";
    let pod = "volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]";
    let app = deployment(pod, "volumeMounts: [{name: v, mountPath: /data/}]");
    let made = of(&format!("{claim}---\n{app}"));
    assert!(
        made.text.contains("    path: /data\n    read_only: false\n    shared: true\n    size: \"3GiB\"\n"),
        "{}",
        made.text
    );
    let other = app.replace("metadata: {name: web}", "metadata: {name: other}");
    assert!(
        refused(&format!("{claim}---\n{app}---\n{other}")).contains("Deployment web has the claim already")
    );
    let exclusive = claim.replace("ReadWriteMany", "ReadWriteOnce");
    let many = app.replace("spec:\n  selector", "spec:\n  replicas: 2\n  selector");
    assert!(refused(&format!("{exclusive}---\n{many}")).contains("2 instances cannot write"));
    assert_noticed(claim, "no app of these files mounts it");
}

#[test]
fn a_stateful_set_of_several_is_refused() {
    let set = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {replicas: 3, template: {spec: {containers: [{name: db, image: postgres}]}}}\n";
    assert_refused(set, "spec.replicas: instances of an app have neither names nor volumes of their own");
}

#[test]
fn a_daemon_set_runs_on_every_node() {
    let set = |spec: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec:\n{spec}  template: {{spec: {{containers: [{{name: a, image: 'agent:1'}}]}}}}\n"
        )
    };
    let made = of(&set(""));
    assert!(made.text.contains("replicas: global\n"), "{}", made.text);
    assert!(
        made.text.contains("order: stop-first\n") && made.text.contains("parallelism: 1\n"),
        "{}",
        made.text
    );
    let surge = of(&set("  updateStrategy: {rollingUpdate: {maxSurge: 2, maxUnavailable: 0}}\n"));
    assert!(!surge.text.contains("stop-first") && surge.text.contains("parallelism: 2\n"), "{}", surge.text);
    assert_refused(&set("  updateStrategy: {type: OnDelete}\n"), "what is applied is rolled out");
    assert_refused(&set("  replicas: 2\n"), "spec.replicas: there is no key `replicas` here");
}

#[test]
fn a_component_is_an_artifact() {
    let text =
        deployment("runtimeClassName: wasmtime-spin-v2", "args: [a]").replace("nginx:1", "shop/web.wasm");
    let made = of(&text);
    assert!(
        made.text.contains("artifact: shop/web.wasm\n") && !made.text.contains("container:"),
        "{}",
        made.text
    );
    assert_noticed(&text, "it is a component");
    assert_refused(&text.replace("shop/web.wasm", "example.com/web:1"), "write the path of its `.wasm` file");
}

#[test]
fn rollouts_keep_their_dials() {
    let with = |strategy: &str| {
        let text = deployment("", "args: [a]")
            .replace("spec:\n  selector", &format!("spec:\n  strategy: {strategy}\n  selector"));
        of(&text)
    };
    for (strategy, expected) in [
        ("{type: Recreate}", "  order: stop-first\n  parallelism: \"100%\"\n"),
        ("{rollingUpdate: {maxSurge: 0, maxUnavailable: 2}}", "  order: stop-first\n  parallelism: 2\n"),
        ("{rollingUpdate: {maxSurge: 50%, maxUnavailable: 0}}", "update:\n  parallelism: \"50%\"\n"),
    ] {
        let made = with(strategy);
        assert!(made.text.contains(expected), "{strategy}: {}", made.text);
    }
    assert!(with("{rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}").refused() > 0);
}

#[test]
fn json_and_lists_are_manifests_too() {
    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"shop\"}}\n\t]\n}\n";
    let made = of(json);
    assert!(made.text.ends_with("kind: namespace\nname: shop\n"), "{:?}", made);
}

#[test]
fn what_is_no_text_and_what_never_ends_is_refused_in_good_time() {
    let start = Instant::now();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    for (octets, expected) in [
        (bomb.into_bytes(), "more than 2000000 values"),
        ("[".repeat(100_000).into_bytes(), "within each other"),
        (b"a: \xff\n".to_vec(), "f.yaml:1:4: the file is not UTF-8 from here on"),
        (b"a: 1\na: 2\n".to_vec(), "f.yaml:2:1: the key `a` is here twice"),
        (b"a: !reset x\n".to_vec(), "the tag `!reset` is not known here; leave it out"),
        (b"a: *b\n".to_vec(), "f.yaml:1:4: this is not YAML"),
        (vec![b' '; (32 << 20) + 1], "larger than 32 MiB"),
    ] {
        let made = import(&[Source { name: "f.yaml".into(), octets }]);
        let refused = said(&made, Level::Refused).join("\n");
        assert!(refused.contains(expected), "{expected}: {refused:.300}");
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}

#[test]
fn five_thousand_manifests_take_seconds() {
    let mut text = String::new();
    for number in 0..2500 {
        let app = deployment("", "ports: [{containerPort: 80}]").replace("web", &format!("web-{number}"));
        text.push_str(&format!(
            "---\n{app}---\napiVersion: v1\nkind: Service\nmetadata: {{name: s-{number}}}\nspec: {{selector: {{app: web-{number}}}, ports: [{{port: 80}}]}}\n"
        ));
    }
    let start = Instant::now();
    let made = of(&text);
    assert_eq!(made.refused(), 0, "{:?}", said(&made, Level::Refused).first());
    assert_eq!(made.text.matches("kind: app").count(), 2500);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &d {x: '1'}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: b}\ndata:\n  <<: {y: '2'}\n  z: '3'\n";
    let commands = said(&of(text), Level::Command).join("\n");
    for expected in ["wharf config set a-x 1", "wharf config set b-y 2", "wharf config set b-z 3"] {
        assert!(commands.contains(expected), "{commands}");
    }
}

#[test]
fn variables_that_grow_in_each_other_end_at_a_bound() {
    let mut env = String::from("{name: A0, value: xxxxxxxxxx}");
    for level in 1..30 {
        let value = format!("$(A{})", level - 1).repeat(10);
        env.push_str(&format!(", {{name: A{level}, value: '{value}'}}"));
    }
    assert_refused(&deployment("", &format!("env: [{env}]")), "this is longer than 64 KiB");
    let start = Instant::now();
    let open = "$(".repeat(1 << 20);
    assert_refused(&deployment("", &format!("args: ['{open}']")), "this is longer than 64 KiB");
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn keys_that_are_taken_again_and_again_end_at_a_bound() {
    let data: String = (0..1000).map(|number| format!("k{number}: v, ")).collect();
    let from = "{configMapRef: {name: c}}, ".repeat(300);
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{{data}}}\n");
    let text = format!("{map}---\n{}", deployment("", &format!("envFrom: [{from}]")));
    let start = Instant::now();
    assert!(refused(&text).contains("import fewer manifests at once"));
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn an_app_with_the_network_of_its_node_is_in_no_other() {
    let plain = deployment("", "ports: [{containerPort: 80}]");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";
    let agent = deployment("hostNetwork: true", "args: [a]").replace("web", "agent");
    let made = of(&format!("{plain}---\n{service}---\n{agent}"));
    assert_eq!(made.refused(), 0, "{}", said(&made, Level::Refused).join("\n"));
    assert_eq!(made.text.matches("  networks:\n").count(), 1, "{}", made.text);
    let named =
        format!("{plain}---\n{service}").replace("spec:\n      \n", "spec:\n      hostNetwork: true\n");
    assert_refused(&named, "and so none of `networks`");
}

#[test]
fn what_was_refused_is_not_replaced_by_something_empty() {
    let claim =
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {volumeMode: Block}\n";
    let pod = "volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]";
    let app = deployment(pod, "volumeMounts: [{name: v, mountPath: /data}]");
    assert_refused(
        &format!("{claim}---\n{app}"),
        "persistentVolumeClaim.claimName: the claim was refused, as is said there",
    );
    for kind in ["ConfigMap", "Secret"] {
        let field = if kind == "Secret" { "secret" } else { "configMap" };
        let holder = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: c}}\ndata: [a]\n");
        for container in [
            format!("envFrom: [{{{field}Ref: {{name: c}}}}]"),
            format!("env: [{{name: A, valueFrom: {{{field}KeyRef: {{name: c, key: a, optional: true}}}}}}]"),
        ] {
            let expected = format!("the {kind} `c` was refused, as is said there");
            assert_refused(&format!("{holder}---\n{}", deployment("", &container)), &expected);
        }
    }
}

#[test]
fn a_component_may_have_the_memory_that_it_asks_for() {
    let with = |resources: &str| {
        let text = deployment("", "args: [a]").replace("nginx:1", "web.wasm");
        of(&text.replace("{limits: {memory: 64Mi}}", resources)).text
    };
    let large = with("{requests: {memory: 300Mi}}");
    assert!(large.contains("limits:\n  memory: \"300MiB\"\n"), "{large}");
    let small = with("{requests: {memory: 10Mi}}");
    assert!(!small.contains("limits:"), "{small}");
    let job = |resources: &str| {
        let text = format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: a}}\nspec: {{template: {{spec: {{containers: [{{name: a, image: a.wasm, resources: {resources}}}]}}}}}}\n"
        );
        said(&of(&text), Level::Command).join("\n")
    };
    assert!(job("{requests: {memory: 300Mi}}").contains(" --memory 300MiB "));
    assert!(!job("{requests: {memory: 10Mi}}").contains("--memory"));
}

#[test]
fn a_job_of_an_image_is_a_command_with_the_settings_of_its_container() {
    let text = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate}\nspec:\n  backoffLimit: 2\n  template:\n    spec:\n      \
                restartPolicy: Never\n      terminationGracePeriodSeconds: 5\n      \
                volumes: [{name: t, emptyDir: {medium: Memory}}]\n      containers:\n      - name: migrate\n        \
                image: registry.example.com/shop/migrate:3\n        command: [/bin/migrate]\n        args: [up]\n        \
                workingDir: /srv\n        securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true}\n        \
                resources: {limits: {memory: 64Mi}}\n        env: [{name: A, value: b}]\n        \
                volumeMounts: [{name: t, mountPath: /tmp}]\n";
    let made = of(text);
    assert_eq!(made.refused(), 0, "{}", said(&made, Level::Refused).join("\n"));
    let command = said(&made, Level::Command).join("\n");
    for part in [
        "wharf job run --detach --name migrate --env A=b --memory 64MiB ",
        r#" --container 'entrypoint = ["/bin/migrate"]'"#,
        r#" --container 'user = "1000"'"#,
        r#" --container 'workdir = "/srv"'"#,
        " --container 'read_only = true'",
        r#" --container 'tmpfs = [{ "#,
        " --grace 5s",
        " --retries 2",
        " --image registry.example.com/shop/migrate:3 -- up",
    ] {
        assert!(command.contains(part), "{part}: {command}");
    }
    let volume = text.replace("emptyDir: {medium: Memory}", "persistentVolumeClaim: {claimName: t}");
    assert!(refused(&volume).contains("a job has no volumes"), "{}", refused(&volume));
}

#[test]
fn no_number_of_a_probe_is_passed_over() {
    let two = |readiness: &str, liveness: &str| {
        let probe = |more: &str| format!("{{exec: {{command: [ask]}}{more}}}");
        let (readiness, liveness) = (probe(readiness), probe(liveness));
        deployment("", &format!("readinessProbe: {readiness}\n        livenessProbe: {liveness}"))
    };
    assert_noticed(
        &two(", successThreshold: 2", ""),
        "readinessProbe.successThreshold: one success is enough",
    );
    for number in ["periodSeconds: 7", "timeoutSeconds: 7", "failureThreshold: 7"] {
        assert_noticed(
            &two("", &format!(", {number}")),
            "livenessProbe.exec: one check by a command has one period",
        );
    }
    let late = of(&two(", initialDelaySeconds: 7", ", initialDelaySeconds: 90")).text;
    assert!(
        late.contains("start_period: \"1m 30s\"\n") || late.contains("start_period: \"90s\"\n"),
        "{late}"
    );
    let socket = |number: &str| {
        deployment("", &format!("readinessProbe: {{tcpSocket: {{port: 80}}, {number}}}"))
            + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 5000, targetPort: 80}]}\n"
    };
    for number in
        ["initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"]
    {
        assert_noticed(&socket(&format!("{number}: 7")), &format!("readinessProbe.{number}: it is tried"));
    }
}

#[test]
fn a_startup_probe_by_command_says_how_long_the_start_may_take() {
    let probe = "startupProbe: {exec: {command: [ask]}, initialDelaySeconds: 5, periodSeconds: 7, failureThreshold: 20}";
    let made = of(&deployment("", probe)).text;
    assert!(
        made.contains("start_period: \"2m 25s\"\n") || made.contains("start_period: \"145s\"\n"),
        "{made}"
    );
}

#[test]
fn a_public_port_leads_to_one_port_of_its_app() {
    let service = |name: &str, target: u16| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 5000, targetPort: {target}}}]}}\n"
        )
    };
    let app = deployment("", "args: [a]");
    let text = format!("{app}{}{}", service("web", 5001), service("other", 5002));
    let expected =
        "Service other, spec.ports[0]: the port 5000 is public already, and leads to another port of the app";
    assert!(refused(&text).contains(expected), "{}", refused(&text));
    let made = of(&text).text;
    assert!(made.contains("\"5000\": 5001\n") && !made.contains("5002"), "{made}");
    assert_eq!(of(&format!("{app}{}{}", service("web", 5001), service("other", 5001))).refused(), 0);
}
