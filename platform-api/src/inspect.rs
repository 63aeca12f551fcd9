//! Looks into an artifact before it is accepted: whether it is valid, what it imports, how it will run.
//!
//! Pure and bounded: bytes in, a verdict out, no guest code is run or compiled. The parser refuses what exceeds its limits.

use std::collections::BTreeSet;

use wasmparser::types::{EntityType, Types};
use wasmparser::{
    BinaryReaderError, ComponentExternalKind, ComponentTypeRef, Parser, Payload, Validator, WasmFeatures,
};
use wharf_types::image::{ImageDocument, InvalidDocument};
use wharf_types::world::{WASI_P1, World, is_provided, is_provided_function};

/// Octets that [`check_head`] wants to see.
pub(crate) const HEAD_BYTES: usize = TAR_MAGIC_AT + TAR_MAGIC.len();
/// How many octets of what is nothing that is known here are shown.
const SHOWN_BYTES: usize = 8;

/// What every tar archive has in its first header.
const TAR_MAGIC: &[u8] = b"ustar";
const TAR_MAGIC_AT: usize = 257;
/// The largest list of the images in an archive.
const IMAGES_MAX_BYTES: u64 = 1 << 20;

const MAGIC: &[u8] = b"\0asm";
/// Names of one kind that an error lists.
const NAMES_SHOWN: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inspected {
    pub(crate) world: World,
    pub(crate) imports: Vec<String>,
}

/// Why an artifact cannot run here. Each message says what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidArtifact {
    #[error("not a WebAssembly file: it begins with {begins}; push the .wasm that your build makes")]
    NotWasm { begins: String },
    #[error("not a WebAssembly file: it is empty; push the .wasm that your build makes")]
    Empty,
    #[error("is an archive, and none that `docker save` has written of one image: {0}")]
    ImageArchive(String),
    #[error("begins like the JSON document of an image, and is none: {0}; `wharf deploy --image` makes one")]
    Image(#[source] InvalidDocument),
    #[error(
        "the WebAssembly file is truncated or damaged: {problem} (at offset {offset}); build it again and push the whole file"
    )]
    Invalid { problem: String, offset: usize },
    #[error(
        "the component imports {}, which Wharf does not provide; build it for the WASI 0.2 or 0.3 worlds `wasi:http` or `wasi:cli`, \
         or link a component that provides the import",
        list(names)
    )]
    UnknownImports { names: Vec<String> },
    #[error(
        "the component exports {}, none of which Wharf can run; export `wasi:http/incoming-handler@0.2.x` or \
         `wasi:http/handler@0.3.x` for an HTTP app, or `wasi:cli/run` for a command",
        if names.is_empty() { "nothing".to_owned() } else { list(names) }
    )]
    NoWorld { names: Vec<String> },
    #[error(
        "the core module imports {}, and a core module gets nothing but WASI 0.1 (`{WASI_P1}`); leave it out, or make it a component \
         with `wharf componentize`",
        list(names)
    )]
    UnknownFunctions { names: Vec<String> },
    #[error(
        "the core module exports no function `_start` without parameters and results, so it is no command; build a program with a \
         `main`, or, for an HTTP app, make it a component with `wharf componentize`"
    )]
    NoStart,
}

/// Refuses what cannot be WebAssembly by its first octets, before the rest is read.
pub(crate) fn check_head(head: &[u8]) -> Result<(), InvalidArtifact> {
    if head.is_empty() {
        return Err(InvalidArtifact::Empty);
    }
    let known = head.len().min(MAGIC.len());
    if head[..known] == MAGIC[..known] || is_document(head) || is_archive(head) {
        return Ok(());
    }
    let shown = &head[..head.len().min(SHOWN_BYTES)];
    let begins = match std::str::from_utf8(shown) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => format!("`{text}`"),
        _ => {
            let hex: Vec<String> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("the octets {}", hex.join(" "))
        }
    };
    Err(InvalidArtifact::NotWasm { begins })
}

fn is_document(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'{')
}

pub(crate) fn is_archive(bytes: &[u8]) -> bool {
    bytes.get(TAR_MAGIC_AT..TAR_MAGIC_AT + TAR_MAGIC.len()) == Some(TAR_MAGIC)
}

/// Whether an archive is one with a single image. What is in its layers is the engine's to look at, and passes here without being kept.
pub(crate) fn inspect_archive(archive: impl std::io::Read) -> Result<Inspected, InvalidArtifact> {
    let broken = |error: std::io::Error| InvalidArtifact::ImageArchive(error.to_string());
    let mut images: Option<Vec<serde_json::Value>> = None;
    for entry in tar::Archive::new(archive).entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if entry.path_bytes().as_ref() == b"manifest.json" {
            let list = serde_json::from_reader(std::io::Read::take(&mut entry, IMAGES_MAX_BYTES));
            images = Some(
                list.map_err(|error| InvalidArtifact::ImageArchive(format!("its manifest.json: {error}")))?,
            );
        }
    }
    match images.map(|images| images.len()) {
        Some(1) => Ok(Inspected { world: World::Container, imports: Vec::new() }),
        Some(count) => Err(InvalidArtifact::ImageArchive(format!("it has {count} images"))),
        None => Err(InvalidArtifact::ImageArchive("it has no manifest.json".to_owned())),
    }
}

/// Validates the whole artifact and finds its world.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Inspected, InvalidArtifact> {
    check_head(bytes)?;
    if is_document(bytes) {
        ImageDocument::parse(bytes).map_err(InvalidArtifact::Image)?;
        return Ok(Inspected { world: World::Container, imports: Vec::new() });
    }
    if is_archive(bytes) {
        return inspect_archive(bytes);
    }
    let types = Validator::new_with_features(features()).validate_all(bytes).map_err(invalid)?;
    if Parser::is_component(bytes) { inspect_component(bytes) } else { inspect_module(&types) }
}

/// What the workers' engine accepts.
fn features() -> WasmFeatures {
    (WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL | WasmFeatures::CM_ASYNC) - WasmFeatures::THREADS
}

fn inspect_component(bytes: &[u8]) -> Result<Inspected, InvalidArtifact> {
    let mut imports = BTreeSet::new();
    let mut exports = BTreeSet::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => {
                // The parser takes the end of the file for that of what is cut off.
                if bytes.get(unchecked_range).is_none() {
                    let problem = "unexpected end-of-file".to_owned();
                    return Err(InvalidArtifact::Invalid { problem, offset: bytes.len() });
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    // A type alone asks nothing of the host.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        imports.insert(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind != ComponentExternalKind::Type {
                        exports.insert(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    let unknown: Vec<String> = imports.iter().filter(|import| !is_provided(import)).cloned().collect();
    if !unknown.is_empty() {
        return Err(InvalidArtifact::UnknownImports { names: unknown });
    }
    match World::of_exports(exports.iter().map(String::as_str)) {
        Some(world) => Ok(Inspected { world, imports: imports.into_iter().collect() }),
        None => Err(InvalidArtifact::NoWorld { names: exports.into_iter().collect() }),
    }
}

fn inspect_module(types: &Types) -> Result<Inspected, InvalidArtifact> {
    let mut modules = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for (module, name, _) in types.as_ref().core_imports().into_iter().flatten() {
        if module != WASI_P1 || !is_provided_function(name) {
            unknown.insert(format!("{module}.{name}"));
        }
        modules.insert(module.to_owned());
    }
    if !unknown.is_empty() {
        return Err(InvalidArtifact::UnknownFunctions { names: unknown.into_iter().collect() });
    }
    if !is_command(types) {
        return Err(InvalidArtifact::NoStart);
    }
    Ok(Inspected { world: World::CommandP1, imports: modules.into_iter().collect() })
}

/// Whether a valid module exports `_start` as a command does.
fn is_command(types: &Types) -> bool {
    let exports = types.as_ref().core_exports();
    match exports.into_iter().flatten().find(|(name, _)| *name == "_start") {
        Some((_, EntityType::Func(start))) => {
            let start = types[start].unwrap_func();
            start.params().is_empty() && start.results().is_empty()
        }
        _ => false,
    }
}

fn invalid(error: BinaryReaderError) -> InvalidArtifact {
    InvalidArtifact::Invalid { problem: shorten(error.message()), offset: error.offset() }
}

/// Names come from the artifact, so they are bounded before a person sees them.
fn list(names: &[String]) -> String {
    let mut shown: Vec<String> =
        names.iter().take(NAMES_SHOWN).map(|name| format!("`{}`", shorten(name))).collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("{} more", names.len() - NAMES_SHOWN));
    }
    shown.join(", ")
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        inspect(&wat::parse_str(text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_wasm_is_shown_as_it_begins() {
        let refused = |bytes: &[u8]| check_head(bytes).unwrap_err().to_string();
        assert!(refused(b"#!/bin/sh\n").contains("begins with `#!/bin/s`"));
        assert!(refused(&[0; 8]).contains("00 00 00 00"));
        assert!(refused(b"").contains("empty"));
        assert!(check_head(b"\0as").is_ok(), "the rest may follow");
    }

    #[test]
    fn a_truncated_component_is_refused_with_the_offset() {
        let whole = wat::parse_str(HTTP).unwrap();
        let error = inspect(&whole[..whole.len() - 3]).unwrap_err().to_string();
        assert!(error.contains("truncated") && error.contains("offset"), "{error}");
    }

    const HTTP: &str = r#"(component
        (import "wasi:clocks/wall-clock@0.2.0" (instance))
        (instance $handler)
        (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))"#;

    #[test]
    fn a_component_that_ends_within_a_module_is_refused() {
        // The module would have 31 octets.
        let error = inspect(b"\0asm\x0d\0\x01\0\x01\x1f\0asm\x01\0\0\0").unwrap_err();
        assert!(error.to_string().contains("unexpected end-of-file (at offset 18)"), "{error}");
    }

    fn archive(manifest: Option<&str>) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content).unwrap();
        };
        add("layer.tar", b"anything");
        if let Some(manifest) = manifest {
            add("manifest.json", manifest.as_bytes());
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn an_image_is_a_container_and_half_of_one_is_refused() {
        let document = br#"{"image":"redis:7","digest":"sha256:abababababababababababababababababababababababababababababababab"}"#;
        assert_eq!(inspect(document).unwrap().world, World::Container);
        let refused = inspect(br#"{"image":"redis:7"}"#).unwrap_err().to_string();
        assert!(refused.contains("--image"), "{refused}");
        let saved = archive(Some(r#"[{"Config":"a.json","Layers":["layer.tar"]}]"#));
        assert_eq!(inspect(&saved).unwrap().world, World::Container);
        assert!(check_head(&saved[..HEAD_BYTES]).is_ok());
        for (archive, problem) in [
            (archive(None), "no manifest.json"),
            (archive(Some("[{},{}]")), "2 images"),
            (archive(Some("{")), "manifest.json"),
            (saved[..700].to_vec(), "archive"),
        ] {
            let refused = inspect(&archive).unwrap_err().to_string();
            assert!(refused.contains(problem), "{refused}");
        }
    }

    #[test]
    fn imports_and_world_are_found() {
        let inspected = inspect(&wat::parse_str(HTTP).unwrap()).unwrap();
        assert_eq!(inspected.world, World::HttpProxy);
        assert_eq!(inspected.imports, ["wasi:clocks/wall-clock@0.2.0"]);
    }

    #[test]
    fn an_import_that_the_host_lacks_is_named() {
        let error = refused(
            r#"(component (import "wasi:nn/tensor@0.2.0" (instance)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
        );
        assert!(error.contains("`wasi:nn/tensor@0.2.0`"), "{error}");
    }

    #[test]
    fn a_component_without_a_known_world_hears_what_it_exports() {
        let error = refused(r#"(component (instance $i) (export "my:own/thing@1.0.0" (instance $i)))"#);
        assert!(
            error.contains("`my:own/thing@1.0.0`") && error.contains("wasi:http/incoming-handler"),
            "{error}"
        );
        assert!(refused("(component)").contains("exports nothing"));
    }

    #[test]
    fn exports_of_nested_components_do_not_count() {
        let error =
            refused(r#"(component (component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i))))"#);
        assert!(error.contains("exports nothing"), "{error}");
    }

    #[test]
    fn core_modules_are_wasi_commands_or_refused() {
        let command = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#;
        assert_eq!(inspect(&wat::parse_str(command).unwrap()).unwrap().world, World::CommandP1);
        for (import, named) in [
            (r#"(import "env" "light" (func))"#, "`env.light`"),
            (r#"(import "wasi_unstable" "fd_write" (func))"#, "`wasi_unstable.fd_write`"),
            (r#"(import "wasi_snapshot_preview1" "sock_open" (func))"#, "`wasi_snapshot_preview1.sock_open`"),
            (r#"(import "wasi:http/types@0.2.0" "x" (func))"#, "with `wharf componentize`"),
        ] {
            let error = refused(&format!(r#"(module {import} (func (export "_start")))"#));
            assert!(error.contains(named), "{error}");
        }
        for start in ["", r#"(func (export "_start") (param i32))"#, r#"(memory (export "_start") 1)"#] {
            let error = refused(&format!("(module {start})"));
            assert!(error.contains("no function `_start`"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>()) {
            let _ = inspect(&bytes);
            let mut damaged = wat::parse_str(HTTP).unwrap();
            let index = at.index(damaged.len());
            damaged[index] = damaged[index].wrapping_add(1);
            let _ = inspect(&damaged);
            bytes.splice(0..0, *b"\0asm\x0d\0\x01\0");
            let _ = inspect(&bytes);
        }
    }
}
