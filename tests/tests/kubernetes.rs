//! Manifests of Kubernetes, imported, applied and asked, in a real Docker engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use wharf_tests::{ANSWER, Ours, SHORT, WEB, eventually};

const MANIFESTS: &str = r#"apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: shop}
data: {WORD: "it's open"}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden, namespace: shop}
stringData: {word: hush}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: IMAGE
        resources: {limits: {memory: 64Mi}}
        env: [{name: WORD, valueFrom: {configMapKeyRef: {name: words, key: WORD}}}]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: ANSWER, port: http}, periodSeconds: 1}
        volumeMounts: [{name: hidden, mountPath: /run/secrets, readOnly: true}]
      volumes:
      - {name: hidden, secret: {secretName: hidden, items: [{key: word, path: word}]}}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: shop}
spec:
  rules:
  - host: shop.example.com
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: front, port: {name: http}}}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: greet, namespace: shop}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: greet
        image: IMAGE
        resources: {limits: {memory: 64Mi}}
        command: [sh, -c, "echo $GREETING, $WORD"]
        env:
        - {name: GREETING, value: hello}
        - {name: WORD, valueFrom: {configMapKeyRef: {name: words, key: WORD}}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn manifests_become_an_app_that_answers_and_a_job_that_is_run() {
    let Some(ours) = Ours::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let manifests = MANIFESTS.replace("IMAGE", WEB).replace("ANSWER", ANSWER);
    std::fs::write(folder.path().join("manifests.yaml"), manifests).unwrap();
    let user = ours.platform.user().in_folder(folder.path());
    let import = ["import", "kubernetes", "manifests.yaml", "--out", "shop.yaml", "--json"];
    let imported: Value = user.run(&import).await.json();
    let written = std::fs::read_to_string(folder.path().join("shop.yaml")).unwrap();
    assert_eq!(imported["yaml"], written);
    assert!(!imported.to_string().contains("hush"), "a secret's value is nowhere: {imported}");

    // What is to be run beside it, as it is written there, by a shell in which `wharf` is the command.
    let findings = imported["findings"].as_array().unwrap();
    let commands: Vec<(&str, &str)> = findings
        .iter()
        .filter(|finding| finding["level"] == "command")
        .map(|finding| (finding["manifest"].as_str().unwrap(), finding["text"].as_str().unwrap()))
        .collect();
    let run = async |subject: &str, input: &str| {
        let (_, command) = commands.iter().find(|(of, _)| *of == subject).expect("there is a command for it");
        let script = format!("wharf() {{ \"$0\" \"$@\"; }}\n{command}");
        user.clone().wrapped_in(&["sh", "-c", &script]).run_with_input(&[], input).await.ok()
    };
    assert_eq!(commands.len(), 3, "{commands:?}");
    ours.platform.wharf(&["namespace", "create", "shop"]).await.ok();
    ours.platform.wharf(&["quota", "set", "--containers", "isolated", "-n", "shop"]).await.ok();
    run("ConfigMap words", "").await;
    run("Secret hidden", "hush").await;
    user.run(&["apply", "-f", "shop.yaml"]).await.ok();

    let asks = async |query: &str| {
        let path = format!("{ANSWER}?{query}");
        let reply = ours.platform.apps.get("shop.example.com", &path).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.text().trim().to_owned()
    };
    assert_eq!(asks("").await, "it's open");
    assert_eq!(asks("secret").await, "hush");
    // By the name of the Service, from one of its containers.
    assert_eq!(asks(&format!("ask=front:8000{ANSWER}")).await, "it's open");
    assert_eq!(ours.containers("web").await.len(), 2);

    run("Job greet", "").await;
    eventually(SHORT, "the job has said its word", async || {
        let said = ours.platform.wharf(&["job", "logs", "greet", "-n", "shop"]).await;
        said.stdout.lines().any(|line| line == "hello, it's open").then_some(())
    })
    .await;
    let again = user.run(&["apply", "-f", "shop.yaml"]).await.ok();
    assert!(again.contains("nothing to do"), "{again}");
    ours.end().await;
}
