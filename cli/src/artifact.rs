//! The artifact on this machine: where a build leaves it, and reading it after the checks that need no platform.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tempfile::TempPath;
use wharf_builder::ARTIFACT_FOLDERS;
use wharf_platform_api::IMAGE_ARCHIVE_MOST_BYTES;
use wharf_types::manifest::{BuildSpec, FILE_NAME};
use wharf_types::{AppName, Digest};

use crate::exit::{Exit, Failure};

/// The largest artifact that is pushed, but for the archive of an image, of which the platform says how large it may be.
const MAX_BYTES: u64 = 256 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What every tar archive has in its first header.
const TAR_MAGIC: &[u8] = b"ustar";
const TAR_MAGIC_AT: usize = 257;

/// What every module and component begins with.
const MAGIC: [u8; 4] = *b"\0asm";

/// What a core module begins with: a component has another version.
const MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";

/// The artifact of a folder: the one that the manifest names, or the only `.wasm` where builds leave theirs.
pub fn find_in(folder: &Path, build: Option<&BuildSpec>) -> anyhow::Result<PathBuf> {
    if let Some(artifact) = build.and_then(|build| build.artifact.as_ref()) {
        let path = folder.join(artifact);
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("there is no {}, which {FILE_NAME} names as the artifact", path.display());
        return Err(Failure::invalid(message)
            .help("does `build.command` write it? a CARGO_TARGET_DIR moves it")
            .into());
    }
    for candidate in candidates(folder) {
        let mut found = wasm_files(&candidate);
        match found.len() {
            0 => continue,
            1 => return Ok(found.remove(0)),
            _ => {
                let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
                let message = format!("there are several artifacts: {}", names.join(", "));
                return Err(Failure::invalid(message)
                    .help(format!(
                        "name one: `wharf deploy {}`, or `build.artifact` in {FILE_NAME}",
                        names[0]
                    ))
                    .into());
            }
        }
    }
    let looked = ARTIFACT_FOLDERS.map(|name| if name.is_empty() { "." } else { name }).join(", ");
    let message = format!("there is no .wasm file in {}; looked in {looked}", folder.display());
    Err(Failure::invalid(message)
        .help(format!(
            "build it first, set `build.command` in {FILE_NAME}, or name the file: `wharf deploy FILE.wasm`"
        ))
        .into())
}

fn wasm_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_wasm =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm") && path.is_file();
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_wasm).collect();
    found.sort();
    found
}

/// Opens a file, and says how many octets it has. `what` it should be is told of a folder.
fn open(path: &Path, what: &str) -> anyhow::Result<(File, u64)> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::NotFound, format!("there is no file {shown}")).into());
        }
        Err(error) => return Err(error).with_context(|| format!("could not read {shown}")),
    };
    let metadata = file.metadata().with_context(|| format!("could not read {shown}"))?;
    if metadata.is_dir() {
        return Err(Failure::invalid(format!("{shown} is a folder, not {what}")).into());
    }
    Ok((file, metadata.len()))
}

/// Reads an artifact after the checks that need no platform. No more than the largest artifact is ever held.
pub fn read(path: &Path) -> anyhow::Result<Bytes> {
    let shown = path.display();
    let (mut file, _) = open(path, "a .wasm file")?;
    let mut content = Vec::new();
    let mut read_more = |content: &mut Vec<u8>, bytes: u64| {
        file.by_ref()
            .take(bytes)
            .read_to_end(content)
            .map(drop)
            .with_context(|| format!("could not read {shown}"))
    };
    read_more(&mut content, MAGIC.len() as u64)?;
    check_start(&content).map_err(|problem| {
        let failure = Failure::invalid(format!("{shown} {problem}"));
        match suggestion(Path::new(".")) {
            Some(help) => failure.help(help),
            None => failure,
        }
    })?;
    // One octet more than is allowed tells that there is more.
    read_more(&mut content, MAX_BYTES + 1 - MAGIC.len() as u64)?;
    if content.len() as u64 > MAX_BYTES {
        let max = crate::output::bytes(MAX_BYTES);
        return Err(
            Failure::invalid(format!("{shown} is larger than {max}, the most for an artifact")).into()
        );
    }
    Ok(content.into())
}

/// Looks at an archive with an image, as `docker save` writes it. One that is compressed with gzip is unpacked first, as `docker load` does.
pub fn find_image(path: &Path) -> anyhow::Result<Content> {
    find_image_within(path, IMAGE_ARCHIVE_MOST_BYTES)
}

fn find_image_within(path: &Path, most_bytes: u64) -> anyhow::Result<Content> {
    let shown = path.display();
    let reading = || format!("could not read {shown}");
    let (mut file, _) = open(path, "an archive of an image")?;
    let mut head = Vec::new();
    file.by_ref()
        .take((TAR_MAGIC_AT + TAR_MAGIC.len()) as u64)
        .read_to_end(&mut head)
        .with_context(reading)?;
    let help = "write one with `docker save -o FILE IMAGE`";
    if head.starts_with(&ZSTD_MAGIC) {
        let message = format!("{shown} is compressed with zstd");
        return Err(Failure::invalid(message).help("unpack it first: `zstd -d FILE`").into());
    }
    if !head.starts_with(&GZIP_MAGIC) {
        return match head.get(TAR_MAGIC_AT..) == Some(TAR_MAGIC) {
            true => Ok(Content::File(path.to_owned())),
            false => Err(Failure::invalid(format!("{shown} is no tar archive")).help(help).into()),
        };
    }
    file.rewind().with_context(reading)?;
    let unpacking = || format!("could not unpack {shown} into {}", std::env::temp_dir().display());
    let mut unpacked = tempfile::NamedTempFile::new().with_context(unpacking)?;
    let damaged = |error: io::Error| {
        Failure::invalid(format!("{shown} is compressed with gzip, and damaged or cut off: {error}"))
            .help(help)
    };
    // One octet more than is allowed tells that there is more.
    let mut from = MultiGzDecoder::new(BufReader::new(file)).take(most_bytes + 1);
    let mut start = Vec::new();
    from.by_ref().take((TAR_MAGIC_AT + TAR_MAGIC.len()) as u64).read_to_end(&mut start).map_err(damaged)?;
    if start.get(TAR_MAGIC_AT..) != Some(TAR_MAGIC) {
        let message = format!("{shown} is compressed with gzip, and what is in it is no tar archive");
        return Err(Failure::invalid(message).help(help).into());
    }
    io::Write::write_all(&mut unpacked, &start).with_context(unpacking)?;
    let more = match io::copy(&mut from, &mut unpacked) {
        Ok(more) => more,
        Err(error) if is_of_gzip(&error) => return Err(damaged(error).into()),
        Err(error) => return Err(error).with_context(unpacking),
    };
    let bytes = start.len() as u64 + more;
    if bytes > most_bytes {
        let most = crate::output::bytes(most_bytes);
        let message = format!("{shown} holds more than {most}, the most for an archive of an image");
        return Err(Failure::invalid(message).into());
    }
    Ok(Content::Unpacked(Arc::new(unpacked.into_temp_path())))
}

/// What is pushed.
#[derive(Clone, Debug)]
pub enum Content {
    Octets(Bytes),
    /// The archive of an image, which may be large: a piece of it at a time is in memory.
    File(PathBuf),
    /// The same, unpacked by this program: it is removed when nobody needs it any more.
    Unpacked(Arc<TempPath>),
}

impl From<Bytes> for Content {
    fn from(octets: Bytes) -> Self {
        Self::Octets(octets)
    }
}

impl Content {
    /// None: it is in memory.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Octets(_) => None,
            Self::File(path) => Some(path),
            Self::Unpacked(path) => Some(path),
        }
    }

    pub fn digest(&self) -> anyhow::Result<Digest> {
        match self {
            Self::Octets(octets) => Ok(Digest::of(octets)),
            Self::File(path) => digest_of(path),
            Self::Unpacked(path) => digest_of(path),
        }
    }

    pub fn bytes(&self) -> anyhow::Result<u64> {
        match self {
            Self::Octets(octets) => Ok(octets.len() as u64),
            Self::File(path) => length_of(path),
            Self::Unpacked(path) => length_of(path),
        }
    }
}

/// Whether it is what is read that is at fault, and not the disk.
fn is_of_gzip(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

fn length_of(path: &Path) -> anyhow::Result<u64> {
    Ok(path.metadata().with_context(|| format!("could not read {}", path.display()))?.len())
}

fn digest_of(path: &Path) -> anyhow::Result<Digest> {
    File::open(path).and_then(Digest::of_reader).with_context(|| format!("could not read {}", path.display()))
}

/// Whether something that starts so may be an artifact.
fn check_start(start: &[u8]) -> Result<(), String> {
    if start.is_empty() {
        return Err("is empty: did the build finish?".to_owned());
    }
    if start == MAGIC {
        return Ok(());
    }
    let hint = if start.starts_with(b"(") {
        "it looks like the text format, which `wasm-tools parse` translates"
    } else {
        "a component or a WASI 0.1 module was expected"
    };
    Err(format!("is not WebAssembly (it does not begin with \\0asm): {hint}"))
}

/// Where builds in a folder leave their artifact.
fn candidates(folder: &Path) -> impl Iterator<Item = PathBuf> {
    ARTIFACT_FOLDERS
        .into_iter()
        .map(|name| if name.is_empty() { folder.to_owned() } else { folder.join(name) })
}

/// Where an artifact may be, for somebody in this folder who named something else.
fn suggestion(folder: &Path) -> Option<String> {
    let found = candidates(folder)
        .flat_map(|folder| wasm_files(&folder))
        .find(|path| starts_like_an_artifact(path))?;
    let found = found.strip_prefix(".").unwrap_or(&found);
    Some(format!("did you mean {}?", found.display()))
}

fn starts_like_an_artifact(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// Whether a file is a core module. One that cannot be read is none here: whoever pushes it says why.
pub fn is_module(path: &Path) -> bool {
    let mut start = [0; MODULE.len()];
    let read = |mut file: File| file.read_exact(&mut start);
    path.is_file() && File::open(path).and_then(read).is_ok() && start == MODULE
}

/// The name that an artifact's file suggests: `target/hello_world.wasm` gives `hello-world`.
pub fn app_name_of(path: &Path) -> Option<AppName> {
    let stem = path.file_stem()?.to_str()?;
    stem.to_ascii_lowercase().replace(['_', '.', ' '], "-").parse().ok()
}

/// The name that an image suggests: `registry.example.com/team/web:1` gives `web`.
pub fn app_name_of_image(image: &str) -> Option<AppName> {
    let name = image.rsplit('/').next()?.split([':', '@']).next()?;
    name.replace(['_', '.'], "-").parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_files_name_becomes_an_apps_name_where_it_is_one() {
        let name = |path: &str| app_name_of(Path::new(path)).map(|name| name.to_string());
        assert_eq!(name("hello.wasm").as_deref(), Some("hello"));
        assert_eq!(name("target/My_App.component.wasm").as_deref(), Some("my-app-component"));
        assert_eq!(name("über.wasm"), None);
        assert_eq!(name("_.wasm"), None);
        assert_eq!(name(&format!("{}.wasm", "x".repeat(60))), None);
        assert_eq!(name("/"), None);
    }

    #[test]
    fn only_what_may_be_webassembly_is_read() {
        assert!(check_start(b"\0asm").is_ok());
        assert!(check_start(b"").unwrap_err().contains("empty"));
        assert!(check_start(b"\0\0\0\0").unwrap_err().contains("not WebAssembly"));
        assert!(check_start(b"(com").unwrap_err().contains("text format"));
    }

    #[test]
    fn a_module_is_told_from_a_component_and_from_what_is_neither() {
        let folder = tempfile::tempdir().unwrap();
        let is_module_of = |octets: &[u8]| {
            let path = folder.path().join("a.wasm");
            std::fs::write(&path, octets).unwrap();
            is_module(&path)
        };
        assert!(is_module_of(b"\0asm\x01\0\0\0\0"));
        assert!(!is_module_of(b"\0asm\x0d\0\x01\0\0"));
        assert!(!is_module_of(b"\0asm\x01"));
        assert!(!is_module(folder.path()) && !is_module(&folder.path().join("missing.wasm")));
    }

    #[test]
    fn more_than_the_largest_artifact_is_refused_without_reading_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.wasm");
        std::fs::write(&path, MAGIC).unwrap();
        // A hole: it takes no room on the disk, and its end is never reached.
        File::options().append(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("larger than 256 MiB"), "{error}");
        assert_eq!(Exit::of(&error), Exit::Invalid);
        assert_eq!(Exit::of(&read(folder.path()).unwrap_err()), Exit::Invalid);
    }

    #[test]
    fn an_archive_of_an_image_is_known_by_its_head_and_may_be_large() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        let mut head = vec![0; 512];
        head[TAR_MAGIC_AT..TAR_MAGIC_AT + TAR_MAGIC.len()].copy_from_slice(TAR_MAGIC);
        std::fs::write(&path, &head).unwrap();
        assert_eq!(find_image(&path).unwrap().digest().unwrap(), Digest::of(&head));
        File::options().append(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(find_image(&path).unwrap().bytes().unwrap(), 1 << 40);
        let zstd = [&ZSTD_MAGIC[..], &[0; 300]].concat();
        for (octets, words) in
            [(&head[..100], "no tar archive"), (&[0; 512][..], "no tar archive"), (&zstd[..], "zstd")]
        {
            std::fs::write(&path, octets).unwrap();
            let error = find_image(&path).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_compressed_archive_of_an_image_is_unpacked_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar.gz");
        let mut plain = vec![0; 4096];
        plain[TAR_MAGIC_AT..TAR_MAGIC_AT + TAR_MAGIC.len()].copy_from_slice(TAR_MAGIC);
        let gzip = |octets: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(octets).unwrap();
            gzip.finish().unwrap()
        };
        let found = |octets: &[u8], most_bytes| {
            std::fs::write(&path, octets).unwrap();
            find_image_within(&path, most_bytes)
        };
        let content = found(&gzip(&plain), 4096).unwrap();
        assert_eq!((content.digest().unwrap(), content.bytes().unwrap()), (Digest::of(&plain), 4096));
        let unpacked = content.file().unwrap().to_owned();
        assert!(unpacked.exists() && unpacked != path);
        drop(content);
        assert!(!unpacked.exists(), "it is gone when nobody needs it");
        let whole = gzip(&plain);
        for (octets, most_bytes, words) in [
            (whole.clone(), 4095, "holds more than"),
            (gzip(&[0; 4096]), 4096, "what is in it is no tar archive"),
            (gzip(b""), 4096, "what is in it is no tar archive"),
            (whole[..whole.len() - 9].to_vec(), 4096, "cut off"),
        ] {
            let error = found(&octets, most_bytes).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_that_was_probably_meant_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("target/wasm32-wasip2/release");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::write(folder.path().join("text.wasm"), "text").unwrap();
        assert_eq!(suggestion(folder.path()), None);
        std::fs::write(release.join("hello.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        let help = suggestion(folder.path()).unwrap();
        assert!(help.ends_with("target/wasm32-wasip2/release/hello.wasm?"), "{help}");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = read(Path::new("/nowhere/x.wasm")).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
    }

    #[test]
    fn the_only_artifact_is_found_and_several_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = find_in(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("looked in ., target/wasm32-wasip2/release"), "{error}");
        let release = folder.path().join("target/wasm32-wasip2/release");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::write(release.join("a.wasm"), "").unwrap();
        assert_eq!(find_in(folder.path(), None).unwrap(), release.join("a.wasm"));
        std::fs::write(release.join("b.wasm"), "").unwrap();
        let error = find_in(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("a.wasm") && error.contains("b.wasm"), "{error}");
        let build = BuildSpec { artifact: Some("c.wasm".into()), ..BuildSpec::default() };
        let error = find_in(folder.path(), Some(&build)).unwrap_err().to_string();
        assert!(error.contains("c.wasm"), "{error}");
    }
}
