//! What a component imports and exports, by the names that it says itself, before anything is compiled.

use wasmparser::{Parser, Payload};

/// A name at the outermost level of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) is_export: bool,
    pub(super) text: String,
}

impl Name {
    pub(super) fn is_wasi_03(&self) -> bool {
        self.text.starts_with("wasi:") && self.text.contains("@0.3.")
    }

    fn is_http_handler(&self) -> bool {
        self.is_export && self.text.starts_with("wasi:http/")
    }
}

/// The names of a component; of one that is damaged, those up to there.
pub(super) fn names(component: &[u8]) -> Vec<Name> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                let imports = section.into_iter().flatten();
                names.extend(imports.map(|it| Name { is_export: false, text: it.name.name.to_owned() }));
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                let exports = section.into_iter().flatten();
                names.extend(exports.map(|it| Name { is_export: true, text: it.name.name.to_owned() }));
            }
            _ => {}
        }
    }
    names
}

/// Whether it answers HTTP requests; otherwise it is a command, or nothing that runs here.
pub(super) fn is_http(component: &[u8]) -> bool {
    names(component).iter().any(Name::is_http_handler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_outermost_level_are_found() {
        let text = r#"(component
            (import "wasi:clocks/monotonic-clock@0.3.0" (instance $imported))
            (component (import "wasi:http/types@0.2.0" (instance)))
            (export "wasi:http/handler@0.3.0" (instance $imported)))"#;
        let component = wat::parse_str(text).unwrap();
        let found = names(&component);
        let texts: Vec<_> = found.iter().map(|name| (name.is_export, name.text.as_str())).collect();
        assert_eq!(texts, [(false, "wasi:clocks/monotonic-clock@0.3.0"), (true, "wasi:http/handler@0.3.0")]);
        assert!(is_http(&component) && found[0].is_wasi_03());
    }

    #[test]
    fn what_is_no_component_has_no_names() {
        assert!(names(b"hello").is_empty());
        assert!(names(&wat::parse_str("(module)").unwrap()).is_empty());
    }
}
