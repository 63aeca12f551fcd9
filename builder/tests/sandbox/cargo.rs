//! Real Cargo projects, found out about and built.

use std::path::Path;

use wharf_builder::{Built, CacheUse, Containers, Folder, Recipe, detect};

use crate::support::{Fixture, fixture};

/// What a component begins with.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

fn write(tree: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn package(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{rest}")
}

/// Detects and builds a tree.
async fn build(fixture: &Fixture, app: wharf_types::AppId, tree: &Path) -> Built {
    let detection = detect(&Folder::open(tree).unwrap(), Containers::Refused).unwrap();
    assert!(matches!(detection.recipe, Recipe::Cargo(_)), "{detection}");
    let way = fixture.sandbox.rust(tree).await.unwrap();
    let mut plan = crate::support::plan(tree, "");
    plan.app = Some(app);
    plan.limits.wall_max *= 5;
    plan.steps = detection.recipe.steps(&way).unwrap();
    let built = fixture.run(&plan).await.built();
    let artifact = std::fs::read(&built.artifact).unwrap();
    assert_eq!(artifact[..8], COMPONENT);
    assert!(built.artifact.starts_with(tree.canonicalize().unwrap()), "{built:?}");
    built
}

#[tokio::test]
async fn a_program_and_a_cdylib_become_components() {
    let Some(fixture) = fixture().await else { return };
    let program = fixture.tree("program");
    write(
        &program,
        &[("Cargo.toml", &package("my-app", "")), ("src/main.rs", "fn main() { println!(\"hello\"); }")],
    );
    let app = wharf_types::AppId::new();
    let built = build(&fixture, app, &program).await;
    assert!(built.artifact.ends_with("target/wasm32-wasip2/release/my-app.wasm"));
    assert_eq!(built.cache, CacheUse::New);

    let library = fixture.tree("library");
    let manifest = package("my-lib", "[lib]\ncrate-type = [\"cdylib\"]\n");
    write(
        &library,
        &[("Cargo.toml", &manifest), ("src/lib.rs", "#[no_mangle] pub extern \"C\" fn x() -> i32 { 1 }")],
    );
    let built = build(&fixture, wharf_types::AppId::new(), &library).await;
    assert!(built.artifact.ends_with("target/wasm32-wasip2/release/my_lib.wasm"));
}

#[tokio::test]
async fn a_workspace_with_a_path_dependency_is_built_again_from_its_cache() {
    let Some(fixture) = fixture().await else { return };
    let app = wharf_types::AppId::new();
    let manifest = package("the-app", "[dependencies]\nmodel = { path = \"../model\" }\n");
    let model = package("model", "");
    for (name, word) in [("first", "one"), ("second", "two")] {
        let tree = fixture.tree(name);
        let source = format!("fn main() {{ println!(\"{word} {{}}\", model::answer()); }}");
        write(
            &tree,
            &[
                ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"crates/*\"]\n"),
                ("crates/the-app/Cargo.toml", &manifest),
                ("crates/the-app/src/main.rs", &source),
                ("crates/model/Cargo.toml", &model),
                ("crates/model/src/lib.rs", "pub fn answer() -> u32 { 42 }"),
            ],
        );
        let built = build(&fixture, app, &tree).await;
        assert!(built.artifact.ends_with("target/wasm32-wasip2/release/the-app.wasm"));
        assert_eq!(built.cache, if word == "one" { CacheUse::New } else { CacheUse::Used });
        // Of these sources, not of those that the cache knows.
        let artifact = std::fs::read(&built.artifact).unwrap();
        assert!(artifact.windows(4).any(|window| window == format!("{word} ").as_bytes()));
    }
}

#[tokio::test]
async fn a_build_script_is_in_the_sandbox_too() {
    let Some(fixture) = fixture().await else { return };
    let secret = fixture.folder.path().join("secret");
    std::fs::write(&secret, "hunter2").unwrap();
    let tree = fixture.tree("tree");
    let script = format!("fn main() {{ std::fs::read({:?}).expect(\"out of reach\"); }}", secret);
    write(
        &tree,
        &[("Cargo.toml", &package("a", "")), ("src/main.rs", "fn main() {}"), ("build.rs", &script)],
    );
    let mut plan = crate::support::plan(&tree, "cargo build --release --target wasm32-wasip2");
    plan.limits.wall_max *= 5;
    let failed = fixture.run(&plan).await.failed();
    assert!(
        failed.to_string().contains("out of reach") && failed.to_string().contains("NotFound"),
        "{failed}"
    );
}
