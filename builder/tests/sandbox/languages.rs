//! Projects of other languages, built as a push builds them: with the tools that their package managers bring.

use std::path::{Path, PathBuf};

use wharf_builder::{Containers, Folder, Network, detect};

use crate::support::{Fixture, fixture};

/// None: there is no sandbox, or nobody wants to fetch anything here.
async fn connected() -> Option<Fixture> {
    if std::env::var("WHARF_TEST_REGISTRIES").is_ok_and(|value| value == "off") {
        eprintln!("skipped: WHARF_TEST_REGISTRIES=off");
        return None;
    }
    fixture().await
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Builds what its files say, and returns its artifact.
async fn build(fixture: &Fixture, tree: &Path) -> Vec<u8> {
    let detection = detect(&Folder::open(tree).unwrap(), Containers::Refused).unwrap();
    let mut plan = crate::support::plan(tree, "");
    plan.limits.wall_max *= 8;
    plan.network = Network::Machine;
    plan.steps = detection.recipe.steps(&fixture.sandbox.rust(tree).await.unwrap()).unwrap();
    let built = fixture.run(&plan).await.result.unwrap_or_else(|failed| panic!("{failed}. {FETCHES}"));
    std::fs::read(built.artifact).unwrap()
}

/// What a component begins with.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const FETCHES: &str = "this test fetches packages; where that is not possible, set WHARF_TEST_REGISTRIES=off";

#[tokio::test]
async fn a_javascript_project_is_built_with_the_tools_that_it_names() {
    let Some(fixture) = connected().await else { return };
    let (tree, example) = (fixture.tree("tree"), examples().join("javascript"));
    for file in ["app.js", "package-lock.json"] {
        std::fs::copy(example.join(file), tree.join(file)).unwrap();
    }
    copy(&examples().join("wit"), &tree.join("wit"));
    let package = std::fs::read_to_string(example.join("package.json")).unwrap();
    std::fs::write(tree.join("package.json"), package.replace("../wit", "wit")).unwrap();
    assert!(build(&fixture, &tree).await.starts_with(COMPONENT));
}

#[tokio::test]
async fn a_python_project_is_built_with_the_tools_that_it_names() {
    let Some(fixture) = connected().await else { return };
    let (tree, example) = (fixture.tree("tree"), examples().join("python"));
    for file in ["app.py", "requirements.txt"] {
        std::fs::copy(example.join(file), tree.join(file)).unwrap();
    }
    copy(&examples().join("wit"), &tree.join("wit"));
    assert!(build(&fixture, &tree).await.starts_with(COMPONENT));
}
