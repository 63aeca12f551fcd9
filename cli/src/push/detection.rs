//! What was pushed, found out by its files, and by whether the repository is a stack's.
//!
//! `wharf_builder` knows projects, and nothing of what is in a Compose file; how much such a file counts is decided here.

use std::sync::Arc;

use wharf_builder::{ComposeRank, Containers, DetectError, Detection, Folder, Recipe, Tree};
use wharf_compose::yaml::{self, Budget, Tags};
use wharf_platform_api::{Pushed, Teller};
use wharf_types::manifest::Manifest;
use wharf_types::{AppName, NamespaceName};

use crate::exit::Failure;
use crate::output;

/// How a service says that it runs a component.
const COMPONENT: &str = ".wasm";

/// Finds out what was pushed, and says it.
pub(super) async fn look(pushed: &Pushed, teller: &Teller) -> anyhow::Result<Detection> {
    let tree = Folder::open(&pushed.folder)?;
    let containers = match pushed.no_containers {
        Some(_) => Containers::Refused,
        None => Containers::Allowed,
    };
    let stack = pushed.is_stack.then(|| pushed.repository.clone());
    let detected = tokio::task::spawn_blocking(move || {
        let compose = compose_rank(&tree, stack.as_ref());
        wharf_builder::detect_with(&tree, containers, compose)
    });
    let detection = detected.await?.map_err(|error| not_detected(error, pushed.no_containers.as_deref()))?;
    teller.step("Looking at what was pushed");
    teller.detail(&detection.to_string());
    detection.notes.iter().for_each(|note| teller.detail(note));
    if pushed.is_stack && !pushed.is_preview && !matches!(detection.recipe, Recipe::Stack { .. }) {
        let stack = &pushed.repository;
        teller
            .detail(&format!("note: the stack {stack} stays as it is; `wharf stack rm {stack}` removes it"));
    }
    Ok(detection)
}

/// What a manifest names otherwise than the address of the remote, which is what counts. A preview is called as the app that it is of.
pub(super) fn other_names(manifest: &Manifest, (namespace, app): (&NamespaceName, &AppName)) -> Vec<String> {
    let note = |key: &str, said: &str, counts: &str| {
        format!(
            "note: `{key} = \"{said}\"` in wharf.toml does not count in a push: by the remote's address it is `{counts}`"
        )
    };
    let other_app = (manifest.app != *app).then(|| note("app", manifest.app.as_str(), app.as_str()));
    let other = manifest.namespace.as_ref().filter(|said| *said != namespace);
    let other_namespace = other.map(|said| note("namespace", said.as_str(), namespace.as_str()));
    other_app.into_iter().chain(other_namespace).collect()
}

/// How much the Compose file of a tree counts. `stack`: the repository was deployed as that one.
fn compose_rank(tree: &dyn Tree, stack: Option<&AppName>) -> ComposeRank {
    let Some(file) = wharf_builder::compose_file(tree) else { return ComposeRank::Last };
    // What is wrong with it is told by whoever reads it as a Compose file.
    let text = tree.read(&file).ok().flatten().unwrap_or_default();
    match (rank_of(&file, &text), stack) {
        (rank @ ComposeRank::First(_), _) | (rank, None) => rank,
        (_, Some(stack)) => ComposeRank::First(format!("whose stack {stack} is there")),
    }
}

/// The same by its text alone. Services that run components, or are built, are what a repository is, also where the file of one has another
/// name by mistake; a service with an image may be the database of an app on a laptop.
fn rank_of(file: &str, text: &str) -> ComposeRank {
    let documents = yaml::parse(&Arc::from(file), text, Tags::Compose, &mut Budget::default());
    let documents = documents.unwrap_or_default();
    let services = || documents.iter().filter_map(|document| document.get("services"));
    let mut images = services().flat_map(|services| services.entries()).filter_map(|(_, service)| {
        service.node.get("image")?.text().filter(|image| image.ends_with(COMPONENT))
    });
    if let Some(image) = images.next() {
        let image = output::printable(image.trim_start_matches("./"));
        return ComposeRank::First(format!("which names {image}"));
    }
    let mut built = services()
        .flat_map(|services| services.entries())
        .filter(|(_, service)| service.node.get("build").is_some_and(|build| !build.says_nothing()));
    match built.next() {
        Some((name, _)) => ComposeRank::BeforeFiles(format!("which builds {}", output::printable(name))),
        None => ComposeRank::Last,
    }
}

/// `no_containers`: why the namespace may run none.
fn not_detected(error: DetectError, no_containers: Option<&str>) -> Failure {
    match (error, no_containers) {
        (DetectError::ContainersRefused { file }, Some(reason)) => Failure::invalid(format!(
            "{file} is for a container, and {reason}"
        ))
        .help("otherwise push what makes a WebAssembly component, and say how with `[build]` in wharf.toml"),
        (error, _) => Failure::invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_builder::Listing;

    fn rank(text: &str, stack: Option<&str>) -> ComposeRank {
        let tree: Listing = [("compose.yaml", text), ("hello.wasm", "")].into_iter().collect();
        let stack: Option<AppName> = stack.map(|name| name.parse().unwrap());
        compose_rank(&tree, stack.as_ref())
    }

    #[test]
    fn other_names_in_a_manifest_are_told_with_those_that_count() {
        let told = |text: &str| {
            let manifest = Manifest::parse(text).unwrap();
            other_names(&manifest, (&"default".parse().unwrap(), &"bad".parse().unwrap()))
        };
        for fine in ["app = \"bad\"\n", "app = \"bad\"\nnamespace = \"default\"\n"] {
            assert!(told(fine).is_empty(), "{fine}");
        }
        let both = told("app = \"other\"\nnamespace = \"blue\"\n");
        assert_eq!(both.len(), 2);
        assert!(both[0].contains("`app = \"other\"`") && both[0].ends_with("it is `bad`"), "{both:?}");
        assert!(
            both[1].contains("`namespace = \"blue\"`") && both[1].ends_with("it is `default`"),
            "{both:?}"
        );
    }

    #[test]
    fn a_file_whose_services_are_components_comes_first_whether_or_not_they_are_there() {
        let first = |why: &str| ComposeRank::First(why.to_owned());
        for (text, why) in [
            ("services:\n  web:\n    image: helo.wasm\n", "which names helo.wasm"),
            ("services: {db: {image: redis}, web: {image: \"./a/b.wasm\"}}\n", "which names a/b.wasm"),
            ("services:\n  web: {image: ../x.wasm}\n", "which names ../x.wasm"),
            ("x-a: &a {image: \"${NAME}.wasm\"}\nservices:\n  web: *a\n", "which names ${NAME}.wasm"),
        ] {
            assert_eq!(rank(text, None), first(why), "{text}");
            assert_eq!(rank(text, Some("shop")), first(why), "{text}");
        }
    }

    #[test]
    fn a_file_that_builds_comes_before_files_and_one_for_a_database_last() {
        let built = "services:\n  api:\n    build: api\n  db:\n    image: redis\n";
        assert_eq!(rank(built, None), ComposeRank::BeforeFiles("which builds api".to_owned()));
        for text in ["services: {db: {image: redis}}\n# hello.wasm\n", "services: [", "a: 1\n", ""] {
            assert_eq!(rank(text, None), ComposeRank::Last, "{text}");
        }
    }

    #[test]
    fn of_a_repository_that_is_a_stack_the_compose_file_comes_first() {
        for text in ["services: {db: {image: redis}}\n", "services: [", "services: {api: {build: .}}\n"] {
            let why = "whose stack shop is there".to_owned();
            assert_eq!(rank(text, Some("shop")), ComposeRank::First(why), "{text}");
        }
        let tree: Listing = [("hello.wasm", "")].into_iter().collect();
        let stack: AppName = "shop".parse().unwrap();
        assert_eq!(compose_rank(&tree, Some(&stack)), ComposeRank::Last);
    }
}
