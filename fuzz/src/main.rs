//! One fuzzer for all parsers. `WHARF_FUZZ` says which: the name of a crate, a slash and the name of a parser in the crate's `fuzzing.rs`.
//! Without it, their names are printed.
//!
//! The seeds of a parser are written to the folder `WHARF_FUZZ_SEEDS`, from where libFuzzer takes them.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[path = "../parser.rs"]
mod parser;

type Parsers = &'static [parser::Parser];

const CRATES: &[(&str, Parsers)] = &[
    #[cfg(feature = "types")]
    ("types", wharf_types::fuzzing::PARSERS),
    #[cfg(feature = "pki")]
    ("pki", wharf_pki::fuzzing::PARSERS),
    #[cfg(feature = "git")]
    ("git", wharf_git::fuzzing::PARSERS),
    #[cfg(feature = "builder")]
    ("builder", wharf_builder::fuzzing::PARSERS),
    #[cfg(feature = "docker")]
    ("docker", wharf_docker::fuzzing::PARSERS),
    #[cfg(feature = "compose")]
    ("compose", wharf_compose::fuzzing::PARSERS),
    #[cfg(feature = "kubernetes")]
    ("kubernetes", wharf_kubernetes::fuzzing::PARSERS),
    #[cfg(feature = "platform-api")]
    ("platform-api", wharf_platform_api::fuzzing::PARSERS),
    #[cfg(feature = "ingress")]
    ("ingress", wharf_ingress::fuzzing::PARSERS),
    #[cfg(feature = "runtime")]
    ("runtime", wharf_runtime::fuzzing::PARSERS),
    #[cfg(feature = "cli")]
    ("cli", wharf::fuzzing::PARSERS),
];

static PARSER: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() {
    let wanted = std::env::var("WHARF_FUZZ").unwrap_or_default();
    let all = CRATES.iter().flat_map(|(name, parsers)| parsers.iter().map(move |parser| (name, parser)));
    let found = all.clone().find(|(name, (parser, ..))| format!("{name}/{parser}") == wanted);
    let Some((_, (_, parser, seeds))) = found else {
        all.for_each(|(name, (parser, ..))| println!("{name}/{parser}"));
        std::process::exit(i32::from(!wanted.is_empty()));
    };
    if let Ok(folder) = std::env::var("WHARF_FUZZ_SEEDS") {
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(format!("{folder}/seed-{number}"), seed)
                .expect("the folder of seeds can be written to");
        }
    }
    PARSER.set(*parser).expect("libFuzzer starts once");
}

fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(parser) = PARSER.get() {
        parser(data);
    }
});
