//! Where the text of declared resources comes from: files, folders, and stdin.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use wharf_types::declare::REQUEST_MAX_BYTES;

use super::node::{Fault, Node, Place, Value};
use super::{json, toml, yaml};
use crate::exit::{Exit, Failure};

/// Files of a folder that are taken.
const EXTENSIONS: [(&str, Format); 4] =
    [("yaml", Format::Yaml), ("yml", Format::Yaml), ("json", Format::Json), ("toml", Format::Toml)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
    Toml,
}

#[derive(Debug)]
pub struct Source {
    /// As errors name it.
    pub name: String,
    /// What paths in it are relative to.
    pub folder: PathBuf,
    pub text: String,
    pub format: Format,
}

/// What is in a file, or in stdin.
#[derive(Debug)]
pub struct Octets {
    /// As errors name it.
    pub name: String,
    /// Where it is. Of stdin the folder in which we run.
    pub folder: PathBuf,
    pub octets: Vec<u8>,
}

/// Reads what `-f` names, in its order; of a folder the files that have one of our endings, by name.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let endings = EXTENSIONS.map(|(ending, _)| ending);
    let files = octets(paths, &endings, REQUEST_MAX_BYTES as u64)?;
    files.into_iter().map(source).collect()
}

/// Reads files, folders and stdin in their order; of a folder the files that have one of these endings, by name. All together may have
/// `bytes_max`.
pub fn octets(paths: &[PathBuf], endings: &[&str], bytes_max: u64) -> anyhow::Result<Vec<Octets>> {
    let mut found = Vec::new();
    let mut room = Room { bytes_max, left: bytes_max };
    let mut stdin_taken = false;
    for path in paths {
        if path == Path::new("-") {
            if std::mem::replace(&mut stdin_taken, true) {
                return Err(Failure::usage("`-` is there twice, and stdin can be read once").into());
            }
            let octets = room.read(std::io::stdin().lock(), "stdin")?;
            found.push(Octets { name: "stdin".to_owned(), folder: PathBuf::from("."), octets });
        } else if path.is_dir() {
            for file in files_of(path, endings)? {
                found.push(read_file(&file, &mut room)?);
            }
        } else {
            found.push(read_file(path, &mut room)?);
        }
    }
    Ok(found)
}

fn files_of(folder: &Path, endings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("could not read the folder {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_file() && ending_of(&path).is_some_and(|ending| endings.contains(&ending.as_str())) {
            files.push(path);
        }
    }
    if files.is_empty() {
        let endings = endings.iter().map(|ending| format!(".{ending}")).collect::<Vec<_>>().join(", ");
        let message =
            format!("the folder {} has no file with one of the endings {endings}", folder.display());
        return Err(Failure::new(Exit::NotFound, message).into());
    }
    files.sort();
    Ok(files)
}

fn ending_of(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn format_of(path: &Path) -> Option<Format> {
    let ending = ending_of(path)?;
    EXTENSIONS.iter().find(|(known, _)| *known == ending).map(|(_, format)| *format)
}

fn read_file(path: &Path, room: &mut Room) -> anyhow::Result<Octets> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(Exit::NotFound, format!("there is no file or folder {name}")).into()
        }
        _ => anyhow::Error::new(error).context(format!("could not read {name}")),
    })?;
    let octets = room.read(file, &name)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(Octets { name, folder: folder.unwrap_or(Path::new(".")).to_owned(), octets })
}

/// What may still be read.
struct Room {
    bytes_max: u64,
    left: u64,
}

impl Room {
    fn read(&mut self, reader: impl std::io::Read, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut octets = Vec::new();
        reader
            .take(self.left + 1)
            .read_to_end(&mut octets)
            .with_context(|| format!("could not read {name}"))?;
        if octets.len() as u64 > self.left {
            let most = crate::output::bytes(self.bytes_max);
            let message = format!("{name}: the files are larger than {most} together, which is the most");
            return Err(Failure::invalid(message).help("take fewer of them at once").into());
        }
        self.left -= octets.len() as u64;
        Ok(octets)
    }
}

fn source(file: Octets) -> anyhow::Result<Source> {
    let Octets { name, folder, octets } = file;
    // A text from stdin has no ending.
    let format = format_of(Path::new(&name));
    let text = match String::from_utf8(octets) {
        Ok(text) => text,
        Err(error) => {
            let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            let (line, column) = end_of(&good);
            return Err(Failure::invalid(format!(
                "{name}:{line}:{column}: the file is not UTF-8 from here on"
            ))
            .into());
        }
    };
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let format = format.unwrap_or_else(|| guess(&text));
    Ok(Source { name, folder, text, format })
}

fn end_of(text: &str) -> (usize, usize) {
    let last = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, last.chars().count() + 1)
}

/// Of a text without a file's name, by how it begins.
pub fn guess(text: &str) -> Format {
    let lines = text.lines().map(str::trim);
    let first = lines.clone().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    if first.starts_with('{') {
        return Format::Json;
    }
    if let Some(rest) = first.strip_prefix('[') {
        let is_table = rest.starts_with('[')
            || rest.split(']').next().is_some_and(|name| {
                !name.trim().is_empty()
                    && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '))
            });
        return if is_table && rest.contains(']') { Format::Toml } else { Format::Json };
    }
    let is_key = |key: &str| {
        let key = key.trim();
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '"'))
    };
    match first.split_once('=') {
        Some((key, _)) if is_key(key) => Format::Toml,
        _ => Format::Yaml,
    }
}

/// The resources of a text, each as a tree.
pub fn resources(text: &str, format: Format) -> Result<Vec<Node>, Vec<Fault>> {
    let documents = match format {
        Format::Yaml => yaml::parse(text)?,
        Format::Json => vec![json::parse(text)?],
        Format::Toml => match toml::parse(text)? {
            Node { value: Value::Table(entries), .. } if entries.is_empty() => Vec::new(),
            table => vec![table],
        },
    };
    let mut resources = Vec::new();
    let mut faults = Vec::new();
    for document in documents {
        let place = document.place;
        match document.value {
            Value::List(items) => resources.extend(items),
            Value::Table(mut entries) if is_list(&entries) => {
                let Some(list) = entries.pop() else { continue };
                match list.node.value {
                    Value::List(items) => resources.extend(items),
                    _ => faults.push(Fault::new(list.place, "`resources` is a list of resources")),
                }
            }
            value @ Value::Table(_) => resources.push(Node { place, value }),
            _ => faults.push(wrong_document(place)),
        }
    }
    if faults.is_empty() { Ok(resources) } else { Err(faults) }
}

fn is_list(entries: &[super::node::Entry]) -> bool {
    matches!(entries, [only] if only.key == "resources")
}

fn wrong_document(place: Place) -> Fault {
    Fault::new(
        place,
        "a file holds resources: tables with `kind` and `name`, a list of them, or `resources:` with a list",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_name_is_told_by_its_beginning() {
        for (text, format) in [
            ("kind: app\nname: a", Format::Yaml),
            ("# a\n\n- kind: app", Format::Yaml),
            ("---\na: b = c", Format::Yaml),
            ("  {\"kind\": 1}", Format::Json),
            ("[{\"kind\": 1}]", Format::Json),
            ("[\n]", Format::Json),
            ("[[resources]]\nkind = 1", Format::Toml),
            ("kind = \"app\"", Format::Toml),
            ("[env]\nA = 1", Format::Toml),
            ("", Format::Yaml),
        ] {
            assert_eq!(guess(text), format, "{text}");
        }
    }

    #[test]
    fn every_shape_of_a_file_gives_its_resources() {
        let names = |text: &str, format| -> Vec<String> {
            let name = |node: &Node| node.get("name").and_then(Node::text).unwrap_or_default().to_owned();
            resources(text, format).unwrap().iter().map(name).collect()
        };
        assert_eq!(names("name: a\n---\nname: b\n", Format::Yaml), ["a", "b"]);
        assert_eq!(
            names("- name: a\n- name: b\n---\nresources: [{name: c}]\n", Format::Yaml),
            ["a", "b", "c"]
        );
        assert_eq!(names("{\"name\": \"a\"}", Format::Json), ["a"]);
        assert_eq!(names("[{\"name\": \"a\"}, {\"name\": \"b\"}]", Format::Json), ["a", "b"]);
        assert_eq!(names("{\"resources\": [{\"name\": \"a\"}]}", Format::Json), ["a"]);
        assert_eq!(
            names("[[resources]]\nname = \"a\"\n[[resources]]\nname = \"b\"\n", Format::Toml),
            ["a", "b"]
        );
        assert_eq!(names("name = \"a\"\n", Format::Toml), ["a"]);
        assert!(names("", Format::Toml).is_empty() && names("# nothing\n", Format::Yaml).is_empty());
        assert!(resources("just words", Format::Yaml).is_err());
    }

    #[test]
    fn a_folder_gives_its_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("b.yaml", "kind: app"), ("a.json", "{}"), ("c.txt", "no"), ("d.toml", "")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let sources = read(&[folder.path().to_owned()]).unwrap();
        let formats: Vec<Format> = sources.iter().map(|source| source.format).collect();
        assert_eq!(formats, [Format::Json, Format::Yaml, Format::Toml]);
        let error = read(&[folder.path().join("nowhere.yaml")]).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
    }

    #[test]
    fn files_have_their_endings_in_any_letters_and_a_bound_together() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.YAML", "b.toml", "c.yml"] {
            std::fs::write(folder.path().join(name), "12345").unwrap();
        }
        let paths = [folder.path().to_owned()];
        let found = octets(&paths, &["yaml", "yml"], 10).unwrap();
        let names: Vec<&str> = found.iter().filter_map(|file| file.name.rsplit('/').next()).collect();
        assert_eq!(names, ["a.YAML", "c.yml"]);
        assert!(found.iter().all(|file| file.folder == paths[0] && file.octets == b"12345"));
        let error = octets(&paths, &["yaml", "yml"], 9).unwrap_err().to_string();
        assert!(error.contains("c.yml: the files are larger than"), "{error}");
        let error = octets(&paths, &["txt", "md"], 9).unwrap_err();
        assert!(error.to_string().ends_with("has no file with one of the endings .txt, .md"), "{error}");
        assert_eq!(Exit::of(&error), Exit::NotFound);
    }
}
