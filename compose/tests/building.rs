//! What is to be built is taken out of a project, and the rest is translated as if it were there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{environment, project, project_of};
use wharf_compose::{Context, load, translate};
use wharf_types::declare::document::ArtifactSource;

#[test]
fn what_is_built_is_taken_out_and_stands_in_an_app_that_is_to_be_filled_in() {
    let mut project = project(
        "services:\n  web:\n    image: shop/web:1\n    build: {context: ./web, dockerfile: Dockerfile.prod, args: {A: x}}\n  \
         api:\n    platform: wasi/wasm\n    build: api\n  db:\n    image: redis:7\n",
    );
    let builds = project.take_builds().unwrap();
    let told: Vec<_> = builds
        .iter()
        .map(|build| (build.service.as_str(), build.context.as_str(), build.is_component, build.place.line))
        .collect();
    assert_eq!(told, [("api", "./api", true, 7), ("web", "./web", false, 4)]);
    assert_eq!(builds[1].dockerfile.as_deref(), Some("Dockerfile.prod"));
    assert_eq!(builds[1].args["A"], "x");
    assert!(project.notices.iter().any(|notice| notice.to_string().contains("not called `shop/web:1`")));
    let made = translate(&project, &Context::default()).unwrap();
    let app = |name: &str| made.apps.iter().find(|app| app.service == name).unwrap().document.clone();
    assert!(app("web").image.is_some() && app("web").artifact.is_none());
    assert!(matches!(app("api").artifact, Some(ArtifactSource::Pushed(_))));
    assert_eq!(app("db").image.as_deref(), Some("redis:7"));
}

#[test]
fn what_no_build_does_is_refused_with_its_place() {
    for (build, words) in [
        ("{context: ., target: prod}", &["compose.yaml:4:", "`target`", "name it as `image`"][..]),
        ("{dockerfile: x}", &["compose.yaml:4:", "`context` is needed"]),
        ("https://example.com/x.git", &["compose.yaml:4:", "nothing is fetched"]),
    ] {
        let text = format!("services:\n  web:\n    restart: always\n    build: {build}\n");
        let said = project(&text).take_builds().unwrap_err().to_string();
        for word in words {
            assert!(said.contains(word), "{build}: `{word}` is missing in {said}");
        }
    }
    let text = "services:\n  a:\n    platform: wasi/wasm\n    image: a.wasm\n    build: {context: ., args: {B: c}}\n";
    let said = project(text).take_builds().unwrap_err().to_string();
    assert!(said.contains("compose.yaml:4:5") && said.contains("`args`: a component is built"), "{said}");
}

#[test]
fn an_argument_alone_has_the_value_of_the_variable() {
    let files = [("compose.yaml", "services:\n  a:\n    build: {context: ., args: [REV, NOT_SET, B=c]}\n")];
    let reader = common::Memory::of(&files);
    let named = ["compose.yaml".to_owned()];
    let mut project = load(&named, &[], &environment(&[("REV", "7c1d")]), &reader).unwrap();
    let builds = project.take_builds().unwrap();
    let args: Vec<_> = builds[0].args.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(args, [("B", "c"), ("REV", "7c1d")]);
    assert!(project.notices.iter().any(|notice| notice.message.contains("`NOT_SET` is not set")));
}

#[test]
fn without_being_asked_for_nothing_is_built() {
    let project = project_of(&[("compose.yaml", "services:\n  web:\n    build: .\n")]).unwrap();
    let said = translate(&project, &Context::default()).unwrap_err().to_string();
    assert!(said.contains("compose.yaml:3:5") && said.contains("images are built before"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused_where_it_is_named() {
    struct Refusing(common::Memory);
    impl wharf_compose::Reader for Refusing {
        fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
            let refusal = || std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it leads out");
            if path.starts_with("..") || path.starts_with('/') { Err(refusal()) } else { self.0.read(path) }
        }
    }
    for line in ["env_file: ../x", "env_file: [{path: /etc/passwd, required: false}]"] {
        let text = format!("services:\n  web:\n    image: a.wasm\n    {line}\n");
        let reader = Refusing(common::Memory::of(&[("compose.yaml", text.as_str())]));
        let error =
            load(&["compose.yaml".to_owned()], &[], &environment(&[]), &reader).unwrap_err().to_string();
        assert!(error.starts_with("compose.yaml:4:") && error.contains("it leads out"), "{error}");
    }
}
