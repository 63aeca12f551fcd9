//! That no field is passed over: each one of the tables changes what is made, or is told of.

use serde_json::{Value, json};
use wharf_compose::keys::{Key, Kind as Shape};

use crate::keys::SECTIONS;
use crate::{Import, Source, import};

fn imported(manifests: &[Value]) -> Import {
    let text = manifests.iter().map(|manifest| format!("---\n{manifest}\n")).collect::<String>();
    import(&[Source { name: "f.yaml".into(), octets: text.into_bytes() }])
}

fn pod(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "containers": [{
                "name": "web", "image": image,
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "FIRST"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "text"}}],
        },
    })
}

/// The manifest that a section is about, in which its fields stand below a path.
fn base(title: &str, image: &str) -> (Value, &'static str) {
    let meta =
        |kind: &str, version: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}});
    let with = |mut manifest: Value, spec: Value| {
        manifest["spec"] = spec;
        manifest
    };
    let deployment = |pod: Value| {
        let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": pod});
        with(meta("Deployment", "apps/v1"), spec)
    };
    let job = json!({"spec": {"containers": [{"name": "a", "image": "a.wasm"}]}});
    let batch = |kind: &str, spec: Value| with(meta(kind, "batch/v1"), spec);
    match title {
        "Every manifest" | "Deployment" => (deployment(pod(image)), ""),
        "StatefulSet" => {
            let mut pod = pod(image);
            pod["spec"]["volumes"] = json!([]);
            let spec = json!({
                "selector": {"matchLabels": {"app": "web"}}, "template": pod,
                "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {}}],
            });
            (with(meta("StatefulSet", "apps/v1"), spec), "")
        }
        "DaemonSet" => {
            // What it mounts would have to be on every node.
            let mut pod = pod(image);
            pod["spec"]["volumes"] = json!([]);
            pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": pod});
            (with(meta("DaemonSet", "apps/v1"), spec), "")
        }
        "The template of pods" => (deployment(pod(image)), "spec.template"),
        "The pod" => (deployment(pod(image)), "spec.template.spec"),
        "A container of the pod" => (deployment(pod(image)), "spec.template.spec.containers.*"),
        "A probe" => (deployment(pod(image)), "spec.template.spec.containers.*.readinessProbe"),
        "A volume of the pod" => {
            let mut pod = pod(image);
            pod["spec"]["volumes"] = json!([{"name": "v"}]);
            (deployment(pod), "spec.template.spec.volumes.*")
        }
        "Job" => (batch("Job", json!({"template": job})), ""),
        "CronJob" => {
            let spec = json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": job}}});
            (batch("CronJob", spec), "")
        }
        "Service" => {
            (with(meta("Service", "v1"), json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})), "")
        }
        "Ingress" => {
            let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
            let rule =
                json!({"host": "a.example.com", "http": {"paths": [{"path": "/", "backend": backend}]}});
            (with(meta("Ingress", "networking.k8s.io/v1"), json!({"rules": [rule]})), "")
        }
        "ConfigMap" => (meta("ConfigMap", "v1"), ""),
        "Secret" => (meta("Secret", "v1"), ""),
        "Namespace" => (meta("Namespace", "v1"), ""),
        _ => (with(meta("PersistentVolumeClaim", "v1"), json!({})), ""),
    }
}

/// What stands around it: what it refers to.
fn around(title: &str, image: &str) -> Vec<Value> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}, {"name": "text", "port": 7}]}});
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "text"}, "data": {"text": "a", "b": "b"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "text"}, "stringData": {"text": "a", "b": "b"}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "text"}, "spec": {}});
    match title {
        "Service" => vec![base("Deployment", image).0],
        "Ingress" => vec![base("Deployment", image).0, service],
        "ConfigMap" | "Secret" | "Namespace" | "Job" | "CronJob" => Vec::new(),
        title if title.starts_with("PersistentVolumeClaim") => {
            let mut app = base("Deployment", image).0;
            app["spec"]["template"]["spec"]["volumes"] =
                json!([{"name": "v", "persistentVolumeClaim": {"claimName": "web"}}]);
            vec![app]
        }
        _ => vec![config, secret, claim],
    }
}

fn sample(path: &str, key: &Key) -> Value {
    let last = path.rsplit('.').find(|part| *part != "*").unwrap_or_default();
    match (path, last) {
        (_, "apiVersion" | "kind") => return Value::Null,
        ("metadata.name", _) => return json!("other"),
        ("hostUsers", _) => return json!(false),
        (_, "fieldPath") => return json!("metadata.labels['app']"),
        (_, "resource") => return json!("limits.memory"),
        (_, "divisor") => return json!("1Mi"),
        (_, "storage" | "sizeLimit") => return json!("77Mi"),
        (_, "limits" | "requests") if path.starts_with("resources") => return json!({"memory": "77Mi"}),
        (_, "maxSurge" | "maxUnavailable") => return json!(3),
        (_, "accessModes") => return json!(["ReadOnlyMany"]),
        (_, "supplementalGroups") => return json!(["77"]),
        (_, "schedule") => return json!("1 2 3 4 5"),
        (_, "binaryData") => return json!({"c": "YQ=="}),
        (_, "data") if key.path == "data" => return json!({"c": "YQ=="}),
        (_, "mountPath" | "path") => return json!("/text"),
        ("containers.*" | "spec.containers.*", _) => return json!({"name": "other", "image": "other"}),
        (_, "port" | "targetPort") if key.kind == Shape::Text => return json!(8080),
        _ => {}
    }
    match key.kind {
        Shape::Text => json!("text"),
        Shape::Texts => json!(["text"]),
        Shape::TextTable => json!({"text": "text"}),
        Shape::Bool => json!(true),
        Shape::Int => json!(77),
        Shape::Mode => json!("0700"),
        Shape::Word(words) => json!(words.last()),
        Shape::Any => json!({"text": "text"}),
        _ => Value::Null,
    }
}

/// What has to be beside a field so that it has a meaning.
fn beside(path: &str) -> Value {
    match path {
        "securityContext.runAsGroup" => json!({"securityContext": {"runAsUser": 7}}),
        "httpGet.port" => json!({"httpGet": {"path": "/"}}),
        "exec.command" => json!({}),
        "failureThreshold"
        | "periodSeconds"
        | "timeoutSeconds"
        | "initialDelaySeconds"
        | "successThreshold" => {
            json!({"httpGet": {"path": "/", "port": 8080}})
        }
        path if path.contains("ResourceFieldRef") || path.contains("resourceFieldRef") => {
            json!({"resources": {"limits": {"memory": "64Mi"}}, "env": [{"valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]})
        }
        path if path.contains("configMapKeyRef") => {
            json!({"env": [{"valueFrom": {"configMapKeyRef": {"name": "text", "key": "b"}}}]})
        }
        path if path.contains("secretKeyRef") => {
            json!({"env": [{"valueFrom": {"secretKeyRef": {"name": "text", "key": "b"}}}]})
        }
        path if path.starts_with("envFrom") => json!({"envFrom": [{"configMapRef": {"name": "text"}}]}),
        path if path.starts_with("configMap.") => json!({"configMap": {"name": "text"}}),
        path if path.starts_with("secret.") => json!({"secret": {"secretName": "text"}}),
        path if path.starts_with("projected.sources.*.configMap") => {
            json!({"projected": {"sources": [{"configMap": {"name": "text"}}]}})
        }
        path if path.starts_with("projected.sources.*.secret") => {
            json!({"projected": {"sources": [{"secret": {"name": "text"}}]}})
        }
        path if path.starts_with("projected") => {
            json!({"projected": {"sources": [{"secret": {"name": "text"}}]}})
        }
        path if path.starts_with("persistentVolumeClaim") => {
            json!({"persistentVolumeClaim": {"claimName": "text"}})
        }
        path if path.starts_with("hostAliases") => {
            json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]})
        }
        _ => json!({}),
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if !into.is_empty() => {
            into.iter_mut().zip(from).for_each(|(into, from)| merge(into, from));
        }
        (into, from) => *into = from.clone(),
    }
}

fn at<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').filter(|part| !part.is_empty()).fold(value, |value, part| match part {
        "*" => {
            if !value.is_array() {
                *value = json!([{}]);
            }
            &mut value[0]
        }
        part => {
            if !value.is_object() {
                *value = json!({});
            }
            &mut value[part]
        }
    })
}

/// Fields that name something for others, or say what holds anyway.
const SILENT: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "type",
    "ports.*.containerPort",
    "ports.*.name",
    "ports.*.protocol",
    "spec.ports.*.appProtocol",
    "spec.ports.*.name",
    "spec.ports.*.port",
    "spec.ports.*.protocol",
    "env.*.valueFrom.fieldRef.apiVersion",
    "env.*.valueFrom.resourceFieldRef.containerName",
];

/// Whether all of it was told together with what is around it.
fn is_told_as_a_whole(made: &Import, path: &str) -> bool {
    let path = path.replace(".*", "[0]");
    made.findings.iter().any(|finding| {
        let rest = path.strip_prefix(&finding.path).filter(|_| !finding.path.is_empty());
        rest.is_some_and(|rest| rest.starts_with(['.', '[']))
    })
}

#[test]
fn no_field_is_passed_over() {
    let mut passed = Vec::new();
    for section in SECTIONS {
        for key in section.keys {
            let value = sample(key.path, key);
            if value.is_null() || SILENT.contains(&key.path) || key.path.ends_with("optional") {
                continue;
            }
            passed.extend(
                ["example.com/web:1", "web.wasm"]
                    .iter()
                    .filter_map(|image| passes(section.title, key, &value, image)),
            );
        }
    }
    assert!(passed.is_empty(), "{}", passed.join("\n"));
}

/// The field, if nothing shows that it is there.
fn passes(title: &str, key: &Key, value: &Value, image: &str) -> Option<String> {
    let is_of_files = key.path.ends_with("defaultMode") || key.path.ends_with(".mode");
    if image.ends_with(".wasm") && (is_of_files || key.path == "spec.ports.*.targetPort") {
        return None;
    }
    let (mut manifest, below) = base(title, image);
    merge(at(&mut manifest, below), &beside(key.path));
    let others = around(title, image);
    let of = |manifest: &Value| imported(&[std::slice::from_ref(manifest), others.as_slice()].concat());
    let before = of(&manifest);
    let path = if below.is_empty() { key.path.to_owned() } else { format!("{below}.{}", key.path) };
    if *at(&mut manifest, &path) == *value {
        return None;
    }
    *at(&mut manifest, &path) = value.clone();
    let after = of(&manifest);
    let texts = |made: &Import| -> Vec<String> {
        made.findings.iter().map(|finding| format!("{} {}", finding.path, finding.text)).collect()
    };
    let is_same = before.text == after.text && texts(&before) == texts(&after);
    (is_same && !is_told_as_a_whole(&after, &path)).then(|| format!("{title}: {path} ({image})"))
}
