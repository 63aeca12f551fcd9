//! What files may say, which errors they get, and that no octets make a reader panic.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Map, Value};
use wharf_types::declare::document::{AppDocument, Document, document_of};
use wharf_types::declare::{AppResource, Resource};
use wharf_types::spec::AppSpec;
use wharf_types::{Digest, NamespaceName};

use super::load::Files;
use super::print::{self, Output};
use super::source::{Format, Source, resources};
use super::{check, schema};

fn source(name: &str, text: &str, format: Format) -> Source {
    Source { name: name.into(), folder: PathBuf::from("."), text: text.into(), format }
}

fn namespace() -> NamespaceName {
    NamespaceName::default_namespace()
}

fn read(text: &str, format: Format) -> anyhow::Result<Files> {
    Files::of(vec![source("app.yaml", text, format)], &namespace())
}

/// The lines of the error.
fn errors(text: &str) -> Vec<String> {
    let error = read(text, Format::Yaml).unwrap_err().to_string();
    let lines: Vec<String> = error.lines().map(|line| line.trim().to_owned()).collect();
    if lines.len() > 1 { lines[1..].to_vec() } else { lines }
}

#[test]
fn the_three_formats_say_the_same() {
    let yaml = "kind: app\nname: hello\nartifact: hello.wasm\nenv:\n  A: 'yes'\nscale:\n  replicas: 2\nlimits: {memory: 64MiB}\n";
    let json = r#"{"kind":"app","name":"hello","artifact":"hello.wasm","env":{"A":"yes"},"scale":{"replicas":2},"limits":{"memory":"64MiB"}}"#;
    let toml = "[[resources]]\nkind = \"app\"\nname = \"hello\"\nartifact = \"hello.wasm\"\nenv.A = \"yes\"\nscale.replicas = 2\nlimits.memory = \"64MiB\"\n";
    let document = |text, format| read(text, format).unwrap().resources.remove(0).document;
    let first = document(yaml, Format::Yaml);
    assert_eq!(first, document(json, Format::Json));
    assert_eq!(first, document(toml, Format::Toml));
    let Document::App(app) = first else { panic!("{first:?}") };
    assert_eq!(app.spec().scale.replicas, 2.into());
}

#[test]
fn the_keys_of_a_table_may_be_ports() {
    let head = "kind: app\nname: db\nimage: redis:7\ntcp: {ports: [7000]}\n";
    let yaml = format!("{head}container: {{tcp: {{7000: 6379}}}}\n");
    let json = r#"{"kind":"app","name":"db","image":"redis:7","tcp":{"ports":[7000]},"container":{"tcp":{"7000":6379}}}"#;
    let toml = "[[resources]]\nkind = \"app\"\nname = \"db\"\nimage = \"redis:7\"\ntcp.ports = [7000]\ncontainer.tcp.7000 = 6379\n";
    for (text, format) in [(&*yaml, Format::Yaml), (json, Format::Json), (toml, Format::Toml)] {
        let Document::App(app) = read(text, format).unwrap().resources.remove(0).document else {
            panic!("{text}")
        };
        assert_eq!(app.container.tcp, [(7000, 6379)].into(), "{text}");
    }
    let error = errors(&format!("{head}container: {{tcp: {{http: 80}}}}\n"));
    assert!(error[0].contains(":5:19: ") && error[0].contains("the text `http` stands where"), "{error:?}");
}

#[test]
fn all_errors_of_a_file_are_told_with_place_resource_and_advice() {
    let text = "\
kind: app
name: hello
artifact: hello.wasm
scale:
  replica: 2
limits:
  memory: 128
  timeout: soon
env:
  PORT: 8080
restart:
  condition: alwys
colour: red
---
kind: ap
name: x
---
kind: namespace
name: Team
---
name: x
";
    assert_eq!(
        errors(text),
        [
            "app.yaml:5:3: app `hello`: scale: there is no key `replica` here; did you mean `replicas`?",
            "app.yaml:7:11: app `hello`: limits.memory: the number 128 stands where a text is needed; write it in quotes",
            "app.yaml:8:12: app `hello`: limits.timeout: `soon` is not a duration: write a number and a unit, such as `30s` or `500ms`",
            "app.yaml:10:9: app `hello`: env.PORT: the number 8080 stands where a text is needed; write it in quotes",
            "app.yaml:12:14: app `hello`: restart.condition: `alwys` is not known; write one of `any`, `on-failure`, `never`",
            "app.yaml:13:1: app `hello`: there is no key `colour` here; there are `kind`, `name`, `namespace`, `artifact`, `image`, `env`, `secrets`, `configs`, `args`, `http`, `tcp`, `files`, `volumes`, `scale`, `placement`, `reserve`, `limits`, `restart`, `update`, `stop`, `outbound`, `names`, `reuse`, `engine`, `container`",
            "app.yaml:15:7: there is no kind `ap`; did you mean `app`?",
            "app.yaml:19:7: namespace `Team`: name: `Team` is not a valid namespace name: use 1 to 40 lower-case letters, digits and inner dashes, such as `my-app`",
            "app.yaml:21:1: `kind` is missing; write `kind: namespace` or `kind: config` or `kind: app`",
        ]
    );
}

#[test]
fn settings_that_would_do_harm_are_told_at_their_place() {
    let text =
        "kind: app\nname: a\nartifact: a.wasm\nscale:\n  replicas: 5000\nupdate:\n  parallelism_percent: 0\n";
    assert_eq!(
        errors(text),
        [
            "app.yaml:5:3: app `a`: scale.replicas: 5000 is more than 1000",
            "app.yaml:6:1: app `a`: update.parallelism: 0% is not between 1% and 100%"
        ]
    );
}

#[test]
fn each_faulty_item_of_a_list_is_told_at_its_place() {
    let text = "\
kind: app
name: a
artifact: a.wasm
placement:
  constraints:
    - node.cpus >= 8
    - node.cpu > 1
    - node.role = worker
    - node.cpus < 4
http:
  routes: [ok.example.com, 'a b', c.example.com/x y]
";
    let found = errors(text);
    let begin = [
        "app.yaml:7:7: app `a`: placement.constraints[2]: `node.cpu > 1`, column 1: ",
        "app.yaml:8:7: app `a`: placement.constraints[3]: `node.role = worker`, column 11: ",
        "app.yaml:9:7: app `a`: placement.constraints[4]: no node can meet both `node.cpus >= 8` and `node.cpus < 4`",
        "app.yaml:11:28: app `a`: http.routes[2]: `a b` is not a route",
        "app.yaml:11:35: app `a`: http.routes[3]: `c.example.com/x y` is not a route",
    ];
    assert_eq!(found.len(), begin.len(), "{found:#?}");
    for (found, begin) in found.iter().zip(begin) {
        assert!(found.starts_with(begin), "{found}");
    }
}

#[test]
fn what_is_missing_is_one_error_and_not_two() {
    let text =
        "kind: app\nname: a\nartifact: a.wasm\nvolumes:\n  - name: Bad Name\n    path: /data\n  - path: /x\n";
    let found = errors(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains(":5:11: app `a`: volumes[1].name: `Bad Name`"), "{found:#?}");
    assert!(found[1].contains("`name` is missing"), "{found:#?}");
    assert_eq!(
        errors("kind: app\nname: a\n"),
        [
            "app.yaml:1:1: app `a`: artifact: write the path or the digest of a component, or `image` for a container"
        ]
    );
    assert_eq!(
        errors("kind: app\nartifact: a.wasm\n"),
        ["app.yaml:1:1: app without a name: `name` is missing"]
    );
}

#[test]
fn one_name_stands_for_one_resource() {
    let sources =
        ["kind: namespace\nname: a\n", "- {kind: namespace, name: b}\n- {kind: namespace, name: a}\n"];
    let sources: Vec<Source> = sources
        .iter()
        .enumerate()
        .map(|(at, text)| source(&format!("{at}.yaml"), text, Format::Yaml))
        .collect();
    let error = Files::of(sources, &namespace()).unwrap_err().to_string();
    assert_eq!(error, "1.yaml:2:3: the namespace a is declared twice; it stands at 0.yaml:1:1 already");
    // The namespace of the command and a namespace that is spelled out are one.
    let app = "kind: app\nname: a\nartifact: a.wasm\n";
    let twins = format!("{app}---\n{app}namespace: default\n");
    assert!(read(&twins, Format::Yaml).unwrap_err().to_string().contains("declared twice"));
    let apart = format!("{app}---\n{app}namespace: other\n");
    assert_eq!(read(&apart, Format::Yaml).unwrap().resources.len(), 2);
}

#[test]
fn twenty_errors_are_told_and_the_rest_is_counted() {
    let text = "- kind: app\n  name: A\n  artifact: a.wasm\n".repeat(30);
    let error = read(&text, Format::Yaml).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!((lines[0], lines.len(), lines[21]), ("there are 30 errors", 22, "  and 10 more"));
}

#[test]
fn a_file_without_resources_is_refused() {
    for text in ["", "# nothing\n", "[]", "resources: []"] {
        let error = read(text, Format::Yaml).unwrap_err().to_string();
        assert!(error.contains("no resource in app.yaml"), "{error}");
    }
}

#[test]
fn secrets_are_named_and_their_values_have_no_place_in_a_file() {
    let text = "kind: app\nname: a\nartifact: a.wasm\nsecrets:\n  DB: {value: hunter2}\n";
    assert!(
        errors(text)[0].contains("secrets.DB: a table stands where a text is needed"),
        "{:?}",
        errors(text)
    );
}

#[test]
fn a_config_is_declared_with_its_value_and_errors_have_their_place() {
    let text = "kind: config\nname: greeting\nvalue: good morning\n---\nkind: config\nname: page\nnamespace: team\nfile: page.html\n";
    let files = read(text, Format::Yaml).unwrap();
    let ids: Vec<String> = files.resources.iter().map(|declared| declared.id.to_string()).collect();
    assert_eq!(ids, ["config default/greeting", "config team/page"]);
    let Document::Config(config) = &files.resources[0].document else { panic!("no config") };
    assert_eq!(config.value.as_deref(), Some("good morning"));
    assert_eq!(
        errors(
            "kind: config\nname: a\nvalue: 8\n---\nkind: config\nname: b\nvalue: ''\n---\nkind: config\nname: c\nvalue: x\nfile: y\n---\nkind: config\nname: d\nvalu: x\n"
        ),
        [
            "app.yaml:3:8: config `a`: value: the number 8 stands where a text is needed; write it in quotes",
            "app.yaml:7:1: config `b`: value: the value is empty; `wharf secret rm` and `wharf config rm` take one away",
            "app.yaml:11:1: config `c`: value: `value` and `file` say two things; write one of them",
            "app.yaml:14:1: config `d`: value: write the value, or the path of a `file` that has it",
            "app.yaml:16:1: config `d`: there is no key `valu` here; did you mean `value`?",
        ]
    );
    let app = "kind: app\nname: a\nartifact: a.wasm\nvalue: x\n";
    assert!(
        errors(app)[0].contains("app.yaml:4:1: app `a`: there is no key `value` here"),
        "{:?}",
        errors(app)
    );
}

/// `UPDATE=1 cargo test -p wharf schema` writes the file anew.
#[test]
fn the_schema_is_the_golden_file() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema.json");
    let document = serde_json::to_string_pretty(&schema::schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, &document).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        golden == document,
        "docs/schema.json is out of date: run this test with UPDATE=1 and look at the change"
    );
}

/// Code blocks of a page of the guide.
fn examples(page: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    page.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_examples_of_the_guide_are_read_and_fit_the_schema() {
    let page = include_str!("../../../docs/guide/declarative.md");
    let schema = schema::schema();
    let mut count = 0;
    for (language, format) in [("yaml", Format::Yaml), ("json", Format::Json), ("toml", Format::Toml)] {
        for text in examples(page, language) {
            read(&text, format).unwrap_or_else(|error| panic!("{error}:\n{text}"));
            for value in plain(&text, format) {
                assert_eq!(misfit(&schema, &schema, &value), None, "{text}");
            }
            count += 1;
        }
    }
    assert!(count >= 3, "the page has {count} examples");
    let wrong =
        serde_json::json!({"kind": "app", "name": "a", "artifact": "a.wasm", "scale": {"replica": 1}});
    assert!(misfit(&schema, &schema, &wrong).is_some_and(|error| error.contains("replica")));
    let config = |more: &str| serde_json::json!({"kind": "config", "name": "a", (more): "x"});
    assert_eq!(misfit(&schema, &schema, &config("value")), None);
    assert!(misfit(&schema, &schema, &config("artifact")).is_some_and(|error| error.contains("artifact")));
    let number =
        serde_json::json!({"kind": "app", "name": "a", "artifact": "a.wasm", "limits": {"memory": 1}});
    assert!(misfit(&schema, &schema, &number).is_some());
}

/// Why a value does not fit a schema, as far as ours use the words of JSON Schema. A word that is not known here is a failure.
fn misfit(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let fits = |schema: &Value, value: &Value| misfit(root, schema, value).is_none();
    for (word, rule) in schema.as_object().unwrap() {
        let all = || rule.as_array().unwrap().iter();
        let wrong = match word.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                misfit(root, &root["$defs"][name], value)
            }
            "type" => {
                let is = |kind: &Value| match kind.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "null" => value.is_null(),
                    kind => panic!("the type {kind}"),
                };
                let fits = if rule.is_array() { all().any(is) } else { is(rule) };
                (!fits).then(|| format!("{value} is not {rule}"))
            }
            "anyOf" | "oneOf" => {
                let misfits: Vec<String> = all().filter_map(|schema| misfit(root, schema, value)).collect();
                (misfits.len() == all().len()).then(|| misfits.join(" | "))
            }
            "allOf" => all().find_map(|schema| misfit(root, schema, value)),
            "if" => {
                let branch = if fits(rule, value) { "then" } else { "else" };
                schema.get(branch).and_then(|schema| misfit(root, schema, value))
            }
            "const" => (rule != value).then(|| format!("{value} is not {rule}")),
            "enum" => (!all().any(|known| known == value)).then(|| format!("{value} is not one of {rule}")),
            "required" if value.is_object() => all()
                .find(|key| value.get(key.as_str().unwrap()).is_none())
                .map(|key| format!("{key} is missing")),
            "properties" => rule
                .as_object()
                .unwrap()
                .iter()
                .find_map(|(key, schema)| misfit(root, schema, value.get(key)?)),
            "additionalProperties" if value.is_object() => {
                let known = schema.get("properties");
                let mut others = value
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(key, _)| known.is_none_or(|known| known.get(key.as_str()).is_none()));
                match rule {
                    Value::Bool(false) => others.next().map(|(key, _)| format!("there is no key {key}")),
                    schema => others.find_map(|(_, value)| misfit(root, schema, value)),
                }
            }
            "items" if value.is_array() => {
                value.as_array().unwrap().iter().find_map(|item| misfit(root, rule, item))
            }
            "minimum" if value.is_number() => {
                (value.as_f64() < rule.as_f64()).then(|| format!("{value} is less than {rule}"))
            }
            "maximum" if value.is_number() => {
                (value.as_f64() > rule.as_f64()).then(|| format!("{value} is more than {rule}"))
            }
            "$schema"
            | "$defs"
            | "title"
            | "description"
            | "then"
            | "else"
            | "format"
            | "pattern"
            | "example"
            | "examples"
            | "default"
            | "propertyNames"
            | "required"
            | "additionalProperties"
            | "items"
            | "minimum"
            | "maximum" => None,
            word => panic!("the schema uses `{word}`, which this test does not know"),
        };
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

/// The resources of a text as plain JSON.
fn plain(text: &str, format: Format) -> Vec<Value> {
    use serde::Deserialize as _;
    resources(text, format).unwrap().iter().map(|node| Value::deserialize(node).unwrap()).collect()
}

fn printed(resource: &Resource, output: Output) -> (String, Format) {
    let format = match output {
        Output::Yaml => Format::Yaml,
        Output::Json => Format::Json,
        Output::Toml => Format::Toml,
    };
    (print::document(&document_of(resource), output).unwrap(), format)
}

prop_compose! {
    fn any_spec()(
        env in proptest::collection::btree_map("[^=\\x00]{1,9}", "[^\\x00]{0,20}", 0..4),
        args in proptest::collection::vec("\\PC{0,8}|[0-9]{1,4}|true|null|~|- x|#x", 0..4),
        replicas in 0_u32..9,
        memory in 1_u64..4000,
        routes in proptest::collection::vec("[a-z]{1,8}\\.example\\.com/[a-z]{0,3}", 0..3),
        ports in proptest::collection::hash_set(1024_u16.., 0..3),
        volume in proptest::option::of("[a-z]{1,5}"),
    ) -> AppSpec {
        let mut spec = AppSpec { env, args, ..AppSpec::default() };
        spec.scale.replicas = replicas.into();
        spec.limits.memory = wharf_types::quantity::ByteSize::mib(memory);
        spec.http.routes = routes;
        spec.container.tcp = ports.iter().map(|port| (*port, 80)).collect();
        spec.tcp.ports = ports.into_iter().collect();
        if let Some(name) = volume {
            spec.volumes = vec![serde_json::from_value(serde_json::json!({"name": name, "path": "/data", "shared": true})).unwrap()];
        }
        spec
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_printed_is_read_back_as_the_same(spec in any_spec()) {
        let app = AppResource {
            namespace: "team".parse().unwrap(),
            name: "hello".parse().unwrap(),
            artifact: Digest::of(b"x"),
            spec,
            keep_scale: false,
        };
        let resource = Resource::App(Box::new(app.clone()));
        for output in [Output::Yaml, Output::Json, Output::Toml] {
            let (text, format) = printed(&resource, output);
            let nodes = resources(&text, format).map_err(|faults| TestCaseError::fail(format!("{faults:?}\n{text}")))?;
            prop_assert_eq!(nodes.len(), 1);
            let document = check::document(&nodes[0]).map_err(|faults| TestCaseError::fail(format!("{faults:?}\n{text}")))?;
            let Document::App(document) = document else { return Err(TestCaseError::fail("no app")) };
            let AppDocument { name, namespace, .. } = &*document;
            prop_assert_eq!((name, namespace.as_ref()), (&app.name, Some(&app.namespace)));
            prop_assert_eq!(document.spec(), app.spec.clone(), "{}", text);
        }
    }

    #[test]
    fn any_text_is_printed_so_that_it_is_read_back(text: String, key in "\\PC{1,20}") {
        let mut table = Map::new();
        table.insert(key.clone(), Value::from(text.clone()));
        let printed = print::to_yaml(&table);
        let nodes = resources(&printed, Format::Yaml).map_err(|faults| TestCaseError::fail(format!("{faults:?}\n{printed}")))?;
        prop_assert_eq!(nodes[0].get(&key).and_then(|node| node.text()), Some(text.as_str()), "{}", printed);
    }

    #[test]
    fn no_octets_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            let _ = read(&text, format);
        }
    }

    #[test]
    fn no_words_that_look_like_a_file_make_a_reader_panic(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "kind: app\n", "name: a\n", "artifact: a.wasm\n", "  ", "- ", "env:", "{", "}", "[", "]", "[[resources]]\n", "\"", "'",
                "&a ", "*a", "? ", ": ", ", ", "\n", "---\n", "...\n", "|\n", ">\n", "#", "!!str ", "\\u", "1e999", "-0", "0x", "=",
                "kind = \"app\"\n", "\t", "\u{feff}", "%YAML 1.2\n", "limits", "scale", "null", "ä",
            ]),
            0..40,
        ),
    ) {
        let text = words.concat();
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            let _ = read(&text, format);
        }
    }
}
