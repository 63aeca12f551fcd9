use super::*;
use crate::tree::Listing;

const TIED: &str = "[workspace]\n";

type Files<'a> = &'a [(&'a str, &'a str)];

fn tree(files: Files<'_>) -> Listing {
    files.iter().map(|&(path, content)| (path, content)).collect()
}

fn found(files: Files<'_>) -> Detection {
    let tree = tree(files);
    detect(&tree, Containers::Refused).unwrap_or_else(|error| panic!("{files:?}: {error}"))
}

fn refused(files: Files<'_>) -> String {
    match detect(&tree(files), Containers::Refused) {
        Ok(detection) => panic!("{files:?}: {detection}"),
        Err(error) => {
            let first: &dyn std::error::Error = &error;
            let chain = std::iter::successors(Some(first), |error| error.source());
            chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        }
    }
}

/// The command and the artifact, as a user with the usual Rust gets them.
fn steps(files: Files<'_>) -> (String, String) {
    let steps = found(files).recipe.steps(&RustWay::Wasip2).unwrap();
    (steps.command.unwrap_or_default(), steps.artifact.to_string())
}

fn package(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{rest}")
}

#[test]
fn a_cargo_package_is_built_for_its_cdylib_or_its_program() {
    let release = "target/wasm32-wasip2/release";
    let build = "cargo build --release --target wasm32-wasip2";
    let lib = ("src/lib.rs", "");
    let main = ("src/main.rs", "");
    let cdylib = "[lib]\ncrate-type = [\"cdylib\"]\n";
    let named = "[lib]\nname = \"other\"\ncrate-type = [\"cdylib\", \"rlib\"]\n";
    let declared = "[[bin]]\nname = \"serve\"\npath = \"src/main.rs\"\n";
    let optional = "[[bin]]\nname = \"tool\"\npath = \"tool.rs\"\nrequired-features = [\"tool\"]\n";
    let default = "default-run = \"b\"\n";
    let cases: [(&str, Files<'_>, String, &str); 9] = [
        (cdylib, &[lib], build.to_owned(), "my_app.wasm"),
        (named, &[lib], build.to_owned(), "other.wasm"),
        ("", &[main], build.to_owned(), "my-app.wasm"),
        ("", &[main, lib], build.to_owned(), "my-app.wasm"),
        (declared, &[main], build.to_owned(), "serve.wasm"),
        (optional, &[main, ("tool.rs", "")], build.to_owned(), "my-app.wasm"),
        ("", &[("src/bin/one.rs", "")], build.to_owned(), "one.wasm"),
        (default, &[("src/bin/a.rs", ""), ("src/bin/b/main.rs", "")], format!("{build} --bin b"), "b.wasm"),
        (cdylib, &[main, lib], format!("{build} --lib"), "my_app.wasm"),
    ];
    for (rest, sources, command, file) in cases {
        let manifest = package("my-app", rest);
        let files: Vec<_> = sources.iter().copied().chain([("Cargo.toml", manifest.as_str())]).collect();
        assert_eq!(steps(&files), (command, format!("{release}/{file}")), "{files:?}");
    }
}

#[test]
fn a_detection_says_what_was_found_and_why() {
    let manifest =
        package("hello", "[lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\nwharf-sdk = \"0.1\"\n");
    let detection = found(&[("Cargo.toml", &manifest), ("src/lib.rs", "")]);
    assert_eq!(
        detection.to_string(),
        "found: Cargo.toml (package hello, cdylib, with wharf-sdk), so: cargo build --release --target wasm32-wasip2"
    );
    assert_eq!((detection.kind, detection.language), (Kind::Cargo, Language::Rust));
    let detection = found(&[("app.wasm", "")]);
    assert_eq!(detection.to_string(), "found: app.wasm, so: nothing is built");
    assert_eq!(steps(&[("app.wasm", "")]), (String::new(), "app.wasm".to_owned()));
}

#[test]
fn the_app_of_a_workspace_is_the_only_member_that_runs() {
    let app = package("app", "");
    let library = package("model", "");
    let other = package("other", "");
    let members = "[workspace]\nmembers = [\"crates/*\"]\nexclude = [\"crates/old\"]\n";
    let mut files = vec![
        ("Cargo.toml", members),
        ("crates/app/Cargo.toml", &app),
        ("crates/app/src/main.rs", ""),
        ("crates/model/Cargo.toml", &library),
        ("crates/model/src/lib.rs", ""),
        ("crates/old/Cargo.toml", &other),
        ("crates/old/src/main.rs", ""),
    ];
    let (command, artifact) = steps(&files);
    assert_eq!(command, "cargo build --release --target wasm32-wasip2 --package app");
    assert_eq!(artifact, "target/wasm32-wasip2/release/app.wasm");

    files.extend([("crates/z/Cargo.toml", other.as_str()), ("crates/z/src/main.rs", "")]);
    let error = refused(&files);
    assert!(error.contains("more than one package") && error.contains("app, other"), "{error}");
    assert!(
        error.contains("--package app\"\nartifact = \"target/wasm32-wasip2/release/app.wasm\""),
        "{error}"
    );

    files[0].1 = "[workspace]\nmembers = [\"crates/*\"]\ndefault-members = [\"crates/z\"]\n";
    assert_eq!(steps(&files).1, "target/wasm32-wasip2/release/other.wasm");
}

#[test]
fn a_root_package_comes_before_the_members_of_its_workspace() {
    let root = package("root", TIED);
    let (command, artifact) = steps(&[("Cargo.toml", &root), ("src/main.rs", "")]);
    assert_eq!(command, "cargo build --release --target wasm32-wasip2");
    assert_eq!(artifact, "target/wasm32-wasip2/release/root.wasm");
    let member = package("app", "");
    let root = package("root", "[workspace]\nmembers = [\"app\"]\n");
    let files = [
        ("Cargo.toml", root.as_str()),
        ("src/lib.rs", ""),
        ("app/Cargo.toml", &member),
        ("app/src/main.rs", ""),
    ];
    assert_eq!(steps(&files).1, "target/wasm32-wasip2/release/app.wasm");
}

#[test]
fn a_cargo_project_of_which_nothing_runs_is_refused_with_what_to_add() {
    let several = package("a", "");
    let cases: [(Files<'_>, &str); 6] = [
        (&[("Cargo.toml", &several), ("src/lib.rs", "")], "neither a program nor a cdylib"),
        (
            &[("Cargo.toml", &several), ("src/bin/x.rs", ""), ("src/bin/y.rs", "")],
            "more than one program: x, y",
        ),
        (&[("Cargo.toml", "[package\n")], "line 1"),
        (&[("Cargo.toml", "[workspace]\nmembers = [\"x\"]\n")], "no member"),
        (&[("Cargo.toml", "[profile.release]\n")], "neither a package nor a workspace"),
        (&[("Cargo.toml", "[package]\nname = \"a\\u001b[31m\"\n")], "no name of a package"),
    ];
    for (files, words) in cases {
        let error = refused(files);
        assert!(error.contains(words) && error.contains("Cargo.toml"), "{error}");
    }
}

#[test]
fn a_member_of_a_workspace_above_is_told_so() {
    let member = "[package]\nname = \"a\"\nversion.workspace = true\n";
    let notes = found(&[("Cargo.toml", member), ("src/main.rs", "")]).notes;
    assert!(notes.iter().any(|note| note.contains("a workspace above")), "{notes:?}");
    let own = format!("{member}[workspace.package]\nversion = \"1.0.0\"\n");
    assert!(found(&[("Cargo.toml", &own), ("src/main.rs", "")]).notes.is_empty());
}

#[test]
fn the_manifest_decides_before_everything_else_and_only_where_it_says_something() {
    let cargo = package("app", "");
    let with = |build: &str| {
        let manifest = format!("app = \"a\"\n{build}");
        steps(&[("wharf.toml", manifest.as_str()), ("Cargo.toml", &cargo), ("src/main.rs", "")])
    };
    let named = with("[build]\ncommand = \"make\"\nartifact = \"out/x.wasm\"\n");
    assert_eq!(named, ("make".to_owned(), "out/x.wasm".to_owned()));
    assert_eq!(with("[build]\nartifact = \"x.wasm\"\n"), (String::new(), "x.wasm".to_owned()));
    let (command, artifact) = with("[build]\ncommand = \"make\"\n");
    assert_eq!(command, "make");
    assert!(artifact.starts_with("*.wasm, target/wasm32-wasip2/release/*.wasm, "), "{artifact}");
    for silent in ["", "[build]\n"] {
        assert_eq!(with(silent).1, "target/wasm32-wasip2/release/app.wasm");
    }
    let error = refused(&[("wharf.toml", "app = \"a\"\nbuild = 3\n")]);
    assert!(error.contains("wharf.toml") && error.contains("line 2"), "{error}");
}

#[test]
fn python_projects_are_built_with_componentize_py() {
    let wit = ("wit/world.wit", "package a:b;\nworld http-app { }\n");
    let app = ("app.py", "");
    let install = "python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check";
    let make = |module: &str| {
        format!(".venv/bin/componentize-py -d wit -w http-app componentize {module} -o app.wasm")
    };
    let project = "[project]\nname = \"x\"\ndependencies = [\"componentize-py>=0.17\", \"attrs\"]\n";
    let groups = "[dependency-groups]\ndev = [\"componentize_py\"]\ntest = [\"pytest\"]\n";
    let poetry = "[tool.poetry.dependencies]\ncomponentize-py = \"^0.17\"\n";
    let cases: [(Files<'_>, &str, &str); 6] = [
        (&[("requirements.txt", "# c\ncomponentize-py==0.17.2\n"), app], "-r requirements.txt", "app"),
        (&[("requirements.txt", "Componentize_Py\n"), ("serve.py", "")], "-r requirements.txt", "serve"),
        (&[("pyproject.toml", project), app], "'componentize-py>=0.17' attrs", "app"),
        (&[("pyproject.toml", groups), app], "componentize_py", "app"),
        (&[("pyproject.toml", poetry), app], "componentize-py", "app"),
        (&[app], "componentize-py", "app"),
    ];
    for (files, packages, module) in cases {
        let files: Vec<_> = files.iter().copied().chain([wit]).collect();
        let expected = format!("{install} {packages} && {}", make(module));
        assert_eq!(steps(&files), (expected, "app.wasm".to_owned()), "{files:?}");
        assert_eq!(found(&files).kind, Kind::ComponentizePy);
    }
}

#[test]
fn a_python_project_says_what_it_lacks() {
    let tool = ("requirements.txt", "componentize-py\n");
    let world = ("wit/a.wit", "world a {}");
    let cases: [(Files<'_>, &str); 5] = [
        (&[tool, ("app.py", "")], "no folder `wit`"),
        (&[tool, ("app.py", ""), ("wit/x.wit", "interface y {}")], "define no world"),
        (&[tool, ("app.py", ""), ("wit/x.wit", "world b {}"), world], "more than one world in `wit`: a, b"),
        (&[tool, world], "no module"),
        (&[tool, world, ("x.py", ""), ("y.py", "")], "more than one module: x, y"),
    ];
    for (files, words) in cases {
        let error = refused(files);
        assert!(error.contains(words), "{error}");
    }
    // An app without the tool is not one of these projects.
    let error = refused(&[("requirements.txt", "flask\n"), ("app.py", "")]);
    assert!(error.contains("no Python project with componentize-py"), "{error}");
}

#[test]
fn javascript_projects_are_built_by_their_own_script_or_by_the_tool() {
    let wit = ("wit/world.wit", "world app { }");
    let jco = r#""devDependencies": { "@bytecodealliance/jco": "1.15.4" }"#;
    let script = format!(
        r#"{{ "name": "x", "scripts": {{ "build": "jco componentize -w wit -o dist/x.wasm app.js" }}, {jco} }}"#
    );
    let nested = format!(
        r#"{{ "scripts": {{ "build": "npm run build:js && npm run build:component", "build:js": "esbuild -o out.js",
            "build:component": "jco componentize out.js --out=\"./dist/y.wasm\"" }}, {jco} }}"#
    );
    let silent = format!(r#"{{ "scripts": {{ "build": "node build.mjs" }}, {jco} }}"#);
    let none = format!(r#"{{ "main": "./src/serve.js", {jco} }}"#);
    let componentize = r#"{ "dependencies": { "@bytecodealliance/componentize-js": "0.23.0" } }"#;
    let npm = "npm install --no-audit --no-fund";
    let cases: [(&str, Files<'_>, String, &str); 7] = [
        (&script, &[], format!("{npm} && npm run build"), "dist/x.wasm"),
        (&nested, &[], format!("{npm} && npm run build"), "dist/y.wasm"),
        (
            &script,
            &[("package-lock.json", "{}")],
            "npm ci --no-audit --no-fund && npm run build".to_owned(),
            "dist/x.wasm",
        ),
        (
            &script,
            &[("pnpm-lock.yaml", "")],
            "pnpm install --frozen-lockfile && pnpm run build".to_owned(),
            "dist/x.wasm",
        ),
        (
            &silent,
            &[("yarn.lock", "")],
            "yarn install --frozen-lockfile && yarn run build".to_owned(),
            "*.wasm, target/wasm32-wasip2/release/*.wasm, target/wasm32-wasip1/release/*.wasm, dist/*.wasm, build/*.wasm, \
             out/*.wasm",
        ),
        (
            &none,
            &[wit, ("src/serve.js", "")],
            format!(
                "{npm} && npx --no-install jco componentize src/serve.js --wit wit --world-name app -o app.wasm"
            ),
            "app.wasm",
        ),
        (
            componentize,
            &[wit, ("app.js", "")],
            format!(
                "{npm} && npx --no-install componentize-js app.js --wit wit --world-name app --out app.wasm"
            ),
            "app.wasm",
        ),
    ];
    for (package, others, command, artifact) in cases {
        let files: Vec<_> = others.iter().copied().chain([("package.json", package)]).collect();
        assert_eq!(steps(&files), (command, artifact.to_owned()), "{files:?}");
        assert_eq!(found(&files).language, Language::JavaScript);
    }
}

#[test]
fn a_javascript_project_says_what_it_lacks() {
    let error = refused(&[("package.json", r#"{ "dependencies": { "express": "4" } }"#)]);
    assert!(error.contains("names neither @bytecodealliance/jco nor"), "{error}");
    let error = refused(&[("package.json", r#"{ "dependencies": { "@bytecodealliance/jco": "1" } }"#)]);
    assert!(error.contains("no script `build`"), "{error}");
    let error = refused(&[("package.json", "{")]);
    assert!(error.contains("`package.json` is not valid") && error.contains("line 1"), "{error}");
}

#[test]
fn containers_are_for_whoever_may_run_them() {
    let files = [("Dockerfile", "FROM scratch\n")];
    let error = refused(&files);
    assert!(error.contains("may not run containers") && error.contains("[build]"), "{error}");
    let detection = detect(&tree(&files), Containers::Allowed).unwrap();
    assert_eq!(detection.kind, Kind::Docker);
    assert_eq!(detection.to_string(), "found: Dockerfile, so: a container engine takes Dockerfile");
    let compose = found(&[("docker-compose.yml", ""), ("Dockerfile", "")]);
    assert_eq!(compose.recipe, Recipe::Stack { file: "docker-compose.yml".into() });
    let told = compose.to_string();
    assert_eq!(told, "found: docker-compose.yml, so: the services of docker-compose.yml are deployed");
    assert!(compose.notes[0].contains("not used: Dockerfile"), "{:?}", compose.notes);
}

#[test]
fn a_manifest_chooses_a_dockerfile_before_everything_else() {
    let cargo = package("app", "");
    let manifest = "app = \"a\"\n[build]\ndockerfile = \"deploy/Dockerfile\"\n";
    let files = [("Cargo.toml", cargo.as_str()), ("src/main.rs", ""), ("wharf.toml", manifest)];
    assert!(refused(&files).contains("may not run containers"));
    let detection = detect(&tree(&files), Containers::Allowed).unwrap();
    assert_eq!(detection.kind, Kind::Docker);
    assert_eq!(detection.recipe, Recipe::Containers { file: "deploy/Dockerfile".into() });
    assert!(detection.to_string().starts_with("found: wharf.toml (dockerfile deploy/Dockerfile)"));
}

#[test]
fn a_compose_file_decides_where_its_services_are_the_artifacts() {
    let compose = "services:\n  a: {image: ./a.wasm}\n  b: {image: b.wasm}\n";
    let cargo = package("app", "");
    let files = [("compose.yaml", compose), ("a.wasm", ""), ("b.wasm", ""), ("Cargo.toml", cargo.as_str())];
    let detection = found(&files);
    assert_eq!(
        (detection.kind, detection.recipe),
        (Kind::Compose, Recipe::Stack { file: "compose.yaml".into() })
    );
    assert_eq!(detection.found, "compose.yaml, which names a.wasm");
    assert!(detection.notes[0].contains("not used: Cargo.toml"), "{:?}", detection.notes);
    // One for a database beside an app is only mentioned.
    let files = [("compose.yaml", "services: {db: {image: redis}}\n# data.wasm\n"), ("a.wasm", "")];
    let detection = found(&files);
    assert_eq!(detection.kind, Kind::Prebuilt);
    assert!(detection.notes[0].contains("not used: compose.yaml"), "{:?}", detection.notes);
}

#[test]
fn whoever_reads_a_compose_file_says_how_much_it_counts() {
    let cargo = package("app", "");
    let beside = [("compose.yaml", "services: {}\n"), ("a.wasm", "")];
    let sources = [("compose.yaml", "services: {}\n"), ("Cargo.toml", cargo.as_str()), ("src/main.rs", "")];
    let first = ComposeRank::First("which names b.wasm".to_owned());
    let before_files = ComposeRank::BeforeFiles("which builds api".to_owned());
    let cases: [(Files<'_>, &ComposeRank, Kind, &str); 6] = [
        (&beside, &ComposeRank::Last, Kind::Prebuilt, "a.wasm"),
        (&beside, &before_files, Kind::Compose, "compose.yaml, which builds api"),
        (&beside, &first, Kind::Compose, "compose.yaml, which names b.wasm"),
        (&sources, &before_files, Kind::Cargo, "Cargo.toml (package app"),
        (&sources, &first, Kind::Compose, "compose.yaml, which names b.wasm"),
        (&beside[1..], &first, Kind::Prebuilt, "a.wasm"),
    ];
    for (files, rank, kind, found) in cases {
        let detection = detect_with(&tree(files), Containers::Refused, rank.clone()).unwrap();
        assert_eq!(detection.kind, kind, "{files:?} {rank:?}");
        assert!(detection.found.starts_with(found), "{}", detection.found);
    }
    assert_eq!(compose_file(&tree(&beside)).as_deref(), Some("compose.yaml"));
    assert_eq!(compose_file(&tree(&beside[1..])), None);
    // `[build]` chooses before that.
    let told = [beside[0], beside[1], ("wharf.toml", "app = \"a\"\n[build]\nartifact = \"a.wasm\"\n")];
    let detection = detect_with(&tree(&told), Containers::Refused, first).unwrap();
    assert_eq!(detection.kind, Kind::Manifest);
}

#[test]
fn a_manifest_chooses_a_compose_file_before_everything_else() {
    let cargo = package("app", "");
    let manifest = "app = \"a\"\n[build]\ncompose = \"deploy/compose.yaml\"\n";
    let files = [("Cargo.toml", cargo.as_str()), ("src/main.rs", ""), ("wharf.toml", manifest)];
    let detection = found(&files);
    assert_eq!(detection.kind, Kind::Compose);
    assert_eq!(detection.recipe, Recipe::Stack { file: "deploy/compose.yaml".into() });
    assert!(detection.to_string().starts_with("found: wharf.toml (compose deploy/compose.yaml), so: "));
}

#[test]
fn what_is_not_used_is_named() {
    let cargo = package("app", "");
    let files =
        [("Cargo.toml", cargo.as_str()), ("src/main.rs", ""), ("package.json", "{}"), ("Dockerfile", "")];
    let notes = found(&files).notes;
    assert_eq!(notes, ["also here, and not used: package.json, Dockerfile; `[build]` in wharf.toml chooses"]);
}

#[test]
fn several_artifacts_are_refused_with_their_names() {
    let error = refused(&[("a.wasm", ""), ("b.wasm", ""), ("x/c.wasm", "")]);
    assert!(error.contains("several .wasm files: a.wasm, b.wasm. "), "{error}");
}

#[test]
fn where_nothing_fits_the_error_says_what_is_there_and_the_ways_out() {
    let error = refused(&[("README.md", ""), ("src/x", ""), ("evil\u{1b}[2J", "")]);
    for words in
        ["no Cargo.toml", "Here are README.md, ", "src/", "`[build]`", "push a built .wasm", "\\u{1b}"]
    {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(!error.contains('\u{1b}'));
    assert!(refused(&[]).contains("The folder is empty"));
    let names: Vec<String> = (0..20).map(|number| format!("file{number:02}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert!(refused(&many).contains("file07 and 12 more"));
}

proptest::proptest! {
    #[test]
    fn no_file_makes_detection_panic(
        name in proptest::sample::select(vec![
            "wharf.toml", "Cargo.toml", "requirements.txt", "pyproject.toml", "package.json", "wit/a.wit",
        ]),
        content in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        words in "[a-z\\[\\]{}=\"/* \n-]{0,200}",
    ) {
        for content in [content, words.into_bytes()] {
            let mut tree = tree(&[("app.py", ""), ("wit/b.wit", ""), ("src/main.rs", "")]);
            tree.insert(name, content);
            // What it says is of no interest here.
            let _ = detect(&tree, Containers::Allowed).map(|detection| detection.to_string());
        }
    }
}
