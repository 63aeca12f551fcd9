//! Rules of the tree that no compiler keeps: which crate may know which, and what the documents may say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use wharf_tests::workspace;

const OURS: [&str; 13] = [
    "wharf-types",
    "wharf-pki",
    "wharf-git",
    "wharf-builder",
    "wharf-compose",
    "wharf-docker",
    "wharf-kubernetes",
    "wharf-platform-api",
    "wharf-runtime",
    "wharf-ingress",
    "wharf",
    "wharf-sdk",
    "wharf-simulator",
];

/// The names of all that a crate depends on, but for its tests alone.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let file = workspace::root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let manifest: toml::Table = text.parse().unwrap();
    let mut names = BTreeSet::new();
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
    let tables = targets.filter_map(|(_, table)| table.as_table()).chain([&manifest]);
    for table in tables {
        for section in ["dependencies", "build-dependencies"] {
            for (name, value) in table.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                let real = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
                names.insert(real.to_owned());
            }
        }
    }
    names
}

fn ours(folder: &str) -> BTreeSet<String> {
    dependencies(folder).into_iter().filter(|name| name.starts_with("wharf")).collect()
}

fn only(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn types_knows_nothing_of_ours_and_no_engine_server_or_database() {
    assert_eq!(ours("types"), only(&[]));
    let forbidden = |name: &String| {
        ["tokio", "axum", "sqlx", "wasmtime", "hyper", "tower", "reqwest"]
            .iter()
            .any(|crate_name| name == crate_name || name.starts_with(&format!("{crate_name}-")))
    };
    let found: Vec<String> = dependencies("types").into_iter().filter(forbidden).collect();
    assert!(found.is_empty(), "types depends on {found:?}");
}

#[test]
fn control_plane_worker_and_ingress_do_not_know_each_other() {
    assert_eq!(ours("pki"), only(&["wharf-types"]));
    assert_eq!(ours("git"), only(&[]));
    assert_eq!(ours("builder"), only(&["wharf-types"]));
    assert_eq!(ours("compose"), only(&["wharf-types"]));
    assert_eq!(ours("kubernetes"), only(&["wharf-types", "wharf-compose"]));
    assert_eq!(ours("platform-api"), only(&["wharf-types", "wharf-pki", "wharf-git"]));
    assert_eq!(ours("docker"), only(&["wharf-types"]));
    assert_eq!(ours("runtime"), only(&["wharf-types", "wharf-docker"]));
    assert_eq!(ours("ingress"), only(&["wharf-types"]));
}

#[test]
fn the_simulator_knows_both_sides_and_nobody_knows_the_simulator() {
    assert_eq!(ours("simulator"), only(&["wharf-types", "wharf-platform-api", "wharf-runtime"]));
    for folder in ["types", "pki", "platform-api", "runtime", "ingress", "cli", "tests"] {
        assert!(!ours(folder).contains("wharf-simulator"), "{folder}");
    }
}

#[test]
fn the_tests_use_the_platform_from_outside() {
    assert_eq!(ours("tests"), only(&["wharf-types"]));
}

#[test]
fn what_guests_link_knows_nothing_of_the_platform() {
    for manifest in manifests(&workspace::root().join("sdk")) {
        let folder = manifest.parent().unwrap().strip_prefix(workspace::root()).unwrap().to_owned();
        let found = ours(folder.to_str().unwrap());
        let platform: Vec<&String> =
            found.iter().filter(|name| OURS.contains(&name.as_str()) && *name != "wharf-sdk").collect();
        assert!(platform.is_empty(), "{} depends on {platform:?}", folder.display());
    }
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|file| file.ends_with("Cargo.toml")).collect()
}

/// All files below a folder, but for what is built.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_symlink() || ["target", "node_modules"].contains(&name.as_str()) || name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_crate_follows_the_workspaces_lints() {
    let workspace_manifest: toml::Table =
        std::fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap().parse().unwrap();
    for member in workspace_manifest["workspace"]["members"].as_array().unwrap() {
        let folder = workspace::root().join(member.as_str().unwrap());
        let manifest: toml::Table =
            std::fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{}", folder.display());
    }
}

#[test]
fn a_crate_that_reads_what_others_write_gives_its_parsers_to_the_fuzzer() {
    let root = workspace::root();
    let text = |file: PathBuf| std::fs::read_to_string(&file).unwrap_or_default();
    let (features, table) = (text(root.join("fuzz/Cargo.toml")), text(root.join("fuzz/src/main.rs")));
    let script = text(root.join("scripts/fuzz.sh"));
    let crates = script.lines().find_map(|line| line.strip_prefix("CRATES=(")?.strip_suffix(')')).unwrap();
    let manifest: toml::Table = text(root.join("Cargo.toml")).parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    for name in members.iter().filter_map(toml::Value::as_str).filter(|name| *name != "tests") {
        let sources = files(&root.join(name).join("src"));
        let parser = sources.iter().find(|file| {
            let is_source = file.extension().is_some_and(|end| end == "rs") && !file.ends_with("tests.rs");
            let source = text(file.to_path_buf());
            let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            is_source && ["FromStr for", "fn parse("].iter().any(|words| code.contains(words))
        });
        let Some(parser) = parser else { continue };
        let has_table = root.join(name).join("src/fuzzing.rs").exists();
        let has_line = features.lines().any(|line| line.starts_with(&format!("{name} = [")))
            && table.contains(&format!("(\"{name}\", "))
            && crates.split(' ').any(|other| other == name);
        assert!(
            has_table && has_line,
            "{} reads something: give `{name}` a src/fuzzing.rs, and a line in fuzz/Cargo.toml, fuzz/src/main.rs and scripts/fuzz.sh",
            parser.display()
        );
    }
}

#[test]
fn no_document_names_a_path_of_the_machine_that_it_was_written_on() {
    let root = workspace::root();
    let mut documents = files(&root.join("docs"));
    documents.extend(files(root).into_iter().filter(|file| file.extension().is_some_and(|end| end == "md")));
    // Put together here, so that this file does not hold the words that it looks for.
    let words = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    for document in documents {
        let text = String::from_utf8_lossy(&std::fs::read(&document).unwrap()).into_owned();
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().find(|word| {
                line.match_indices(word.as_str()).any(|(at, _)| {
                    // Part of a longer path or an address, such as `target/work/x`, is fine.
                    !line[..at].ends_with(|before: char| before.is_alphanumeric() || "~._-}".contains(before))
                })
            });
            assert!(found.is_none(), "{}:{}: {line}", document.display(), number + 1);
        }
    }
}

/// Words of one line between backticks that look like the name of a test: a sentence of four words or more.
fn tests_named(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|words| {
        words.matches('_').count() >= 3
            && words.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
    })
}

#[test]
fn each_test_that_the_decision_about_faults_names_is_there_and_no_fault_is_left() {
    let root = workspace::root();
    let path = root.join("docs/decisions/0027-lessons-of-orchestrators.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let source: String = files(root)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|end| end == "rs"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    for (number, line) in document.lines().enumerate() {
        let at = format!("{}:{}", path.display(), number + 1);
        assert!(!line.contains("*not yet*") || line.starts_with("**Decision"), "{at}: {line}");
        for test in tests_named(line) {
            assert!(source.contains(&format!("fn {test}(")), "{at}: no test has the name {test}");
        }
    }
}
