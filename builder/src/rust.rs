//! Ways to build Rust for WebAssembly. Not every machine can add the target that one would want.

use std::path::{Path, PathBuf};

use crate::detect::{CargoBuild, shell};

/// How Cargo projects are built with the Rust that is there. The first that works is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RustWay {
    /// The target makes components by itself.
    Wasip2,
    /// Modules of WASI 0.1, made into components by the `wharf` command.
    Wasip1 { wharf: String },
    /// The same with Debian's Rust, which has no library for WebAssembly but its source.
    Debian { wharf: String },
}

/// Why no Cargo project can be built. The message says what to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRust {
    #[error(
        "there is no Rust here: install it from https://rustup.rs and add its target with `rustup target add wasm32-wasip2`"
    )]
    NoToolchain,
    #[error(
        "the Rust that is here cannot build for WebAssembly: `rustup target add wasm32-wasip2`, or on Debian \
         `apt-get install rustc-web cargo-web rust-web-src wasi-libc lld-19`"
    )]
    NoTarget,
}

/// What decides about the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RustFacts {
    pub has_cargo: bool,
    pub has_wasip2: bool,
    pub has_wasip1: bool,
    /// Debian's packages, with the C library linked to where rustc looks for it.
    pub has_debian: bool,
}

const DEBIAN_FILES: [&str; 6] = [
    "/usr/bin/cargo",
    "/usr/bin/rustc",
    "/usr/bin/wasm-ld-19",
    "/usr/lib/rustlib/src/rust/library/std",
    "/usr/lib/rustlib/wasm32-wasip1/lib/self-contained/crt1-command.o",
    "/usr/lib/rustlib/wasm32-wasip1/lib/self-contained/libc.a",
];

impl RustFacts {
    /// Of a toolchain's folder, such as `rustc --print sysroot` prints.
    pub fn of(sysroot: Option<&Path>) -> Self {
        let has = |target: &str| sysroot.is_some_and(|sysroot| has_library(sysroot, target));
        Self {
            has_cargo: sysroot.is_some_and(|sysroot| sysroot.join("bin/cargo").exists()),
            has_wasip2: has("wasm32-wasip2"),
            has_wasip1: has("wasm32-wasip1"),
            has_debian: DEBIAN_FILES.iter().all(|file| Path::new(file).exists()),
        }
    }

    /// The way to build, where `wharf` is the command that makes components.
    ///
    /// # Errors
    /// When there is none.
    pub fn way(self, wharf: &str) -> Result<RustWay, NoRust> {
        let wharf = wharf.to_owned();
        match self {
            Self { has_cargo: true, has_wasip2: true, .. } => Ok(RustWay::Wasip2),
            Self { has_cargo: true, has_wasip1: true, .. } => Ok(RustWay::Wasip1 { wharf }),
            Self { has_debian: true, .. } => Ok(RustWay::Debian { wharf }),
            Self { has_cargo: true, .. } => Err(NoRust::NoTarget),
            Self { has_cargo: false, .. } => Err(NoRust::NoToolchain),
        }
    }
}

impl RustWay {
    pub(crate) fn target(&self) -> &'static str {
        match self {
            Self::Wasip2 => "wasm32-wasip2",
            Self::Wasip1 { .. } | Self::Debian { .. } => "wasm32-wasip1",
        }
    }

    /// What a user should know of it. None: it is the usual one.
    pub fn note(&self) -> Option<&'static str> {
        match self {
            Self::Wasip2 => None,
            Self::Wasip1 { .. } => Some(
                "this Rust has no wasm32-wasip2: built for wasm32-wasip1, and made into a component by `wharf componentize`",
            ),
            Self::Debian { .. } => Some(
                "built with Debian's Rust and its own standard library for wasm32-wasip1, and made into a component by \
                 `wharf componentize`",
            ),
        }
    }

    /// The whole command, and the artifact's path.
    pub(crate) fn command(&self, build: &CargoBuild) -> (String, String) {
        let target = self.target();
        let arguments = build.arguments();
        let made = format!("target/{target}/release/{}.wasm", build.file_stem);
        let cargo = match self {
            Self::Wasip2 | Self::Wasip1 { .. } => {
                format!("cargo build --release --target {target}{arguments}")
            }
            // Building the standard library is a feature of nightly compilers; RUSTC_BOOTSTRAP lets a stable one do it.
            Self::Debian { .. } => format!(
                "RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld-19 /usr/bin/cargo build \
                 --release -Zbuild-std=std,panic_abort --target {target}{arguments}"
            ),
        };
        match self {
            Self::Wasip2 => (cargo, made),
            Self::Wasip1 { wharf } | Self::Debian { wharf } => {
                let component = format!("target/{target}/release/{}.component.wasm", build.file_stem);
                let [from, to, wharf] = [&made, &component, wharf].map(|word| shell::quote(word));
                (format!("{cargo} && {wharf} componentize {from} {to}"), component)
            }
        }
    }
}

fn has_library(sysroot: &Path, target: &str) -> bool {
    let folder = sysroot.join("lib/rustlib").join(target).join("lib");
    let Ok(mut names) = std::fs::read_dir(folder) else { return false };
    names.any(|name| {
        let name = name.map(|name| name.file_name().to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// The folder of the Rust that `rustc` stands for where a command is run. Only for folders whose files may choose what runs: those of the
/// user.
pub async fn sysroot(folder: &Path) -> Option<PathBuf> {
    let rustc = tokio::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let printed = tokio::time::timeout(std::time::Duration::from_secs(20), rustc).await.ok()?.ok()?;
    let path = String::from_utf8(printed.stdout).ok()?;
    printed.status.success().then(|| PathBuf::from(path.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: RustFacts =
        RustFacts { has_cargo: false, has_wasip2: false, has_wasip1: false, has_debian: false };

    #[test]
    fn the_best_way_that_works_is_taken_and_none_says_what_to_install() {
        let all = RustFacts { has_cargo: true, has_wasip2: true, has_wasip1: true, has_debian: true };
        let wharf = || "wharf".to_owned();
        assert_eq!(all.way("wharf"), Ok(RustWay::Wasip2));
        let all = RustFacts { has_wasip2: false, ..all };
        assert_eq!(all.way("wharf"), Ok(RustWay::Wasip1 { wharf: wharf() }));
        let all = RustFacts { has_wasip1: false, ..all };
        assert_eq!(all.way("wharf"), Ok(RustWay::Debian { wharf: wharf() }));
        assert_eq!(RustFacts { has_cargo: true, ..NONE }.way("wharf"), Err(NoRust::NoTarget));
        assert_eq!(NONE.way("wharf"), Err(NoRust::NoToolchain));
        assert!(NoRust::NoTarget.to_string().contains("rustup target add wasm32-wasip2"));
    }

    #[test]
    fn a_module_is_made_into_a_component() {
        let build = CargoBuild { package: None, target: None, file_stem: "a-b".into() };
        let (command, artifact) = RustWay::Wasip1 { wharf: "/opt/my wharf".into() }.command(&build);
        assert_eq!(
            command,
            "cargo build --release --target wasm32-wasip1 && '/opt/my wharf' componentize \
             target/wasm32-wasip1/release/a-b.wasm target/wasm32-wasip1/release/a-b.component.wasm"
        );
        assert_eq!(artifact, "target/wasm32-wasip1/release/a-b.component.wasm");
    }
}
