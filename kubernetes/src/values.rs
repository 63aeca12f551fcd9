//! ConfigMaps and Secrets as configs and secrets of a namespace: one value for each of their keys.
//!
//! No value of a Secret leaves this file: it is looked at, and only what is wrong with it is told.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use wharf_compose::problem::shown;
use wharf_types::Digest;
use wharf_types::name::{NAME_MAX_BYTES, SecretName};
use wharf_types::secret::{VALUE_MAX_BYTES, ValueKind};

use crate::at::{At, Manifest};
use crate::finding::Sink;
use crate::kind::Kind;
use crate::shell::{is_unprintable, printed, quoted};

/// Keys that are taken with all others of their holder, of all manifests together.
const LISTED_MAX: usize = 200_000;

/// What names a value: the namespace, which kind of holder, its name, and the key in it.
type Key = (Option<String>, ValueKind, String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Config(String),
    /// Nobody looks at it any more.
    Secret,
    /// Nothing is in it, which is no value of the platform.
    Empty,
    /// It cannot be taken, which was told.
    Refused,
}

#[derive(Debug, Default)]
pub(crate) struct Values {
    held: BTreeMap<Key, Held>,
    holders: BTreeSet<(Option<String>, ValueKind, String)>,
    /// Holders of which something was refused as they were read: not all of their keys are known.
    refused: BTreeSet<(Option<String>, ValueKind, String)>,
    names: BTreeMap<Key, SecretName>,
    taken: BTreeMap<(Option<String>, SecretName), Key>,
    /// Keys that were listed, each as often as somebody takes all of its holder.
    listed: usize,
}

/// A value that something refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Referred {
    Named(SecretName),
    Empty,
    Missing,
}

fn noun(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Secret => "Secret",
        ValueKind::Config => "ConfigMap",
    }
}

impl Values {
    pub(crate) fn of(manifests: &[Manifest], sink: &mut Sink) -> Self {
        let mut values = Self::default();
        for manifest in manifests {
            match manifest.kind {
                Kind::ConfigMap => values.take_config_map(manifest, sink),
                Kind::Secret => values.take_secret(manifest, sink),
                _ => {}
            }
        }
        values
    }

    fn take_config_map(&mut self, manifest: &Manifest, sink: &mut Sink) {
        let root = manifest.root();
        self.take_holder(manifest, ValueKind::Config, sink);
        for (key, at) in root.entries("data") {
            let held = match problem(at.word()) {
                _ if at.word().is_empty() => Held::Empty,
                Some(problem) => {
                    sink.refuse(&at, problem);
                    Held::Refused
                }
                None => Held::Config(at.word().to_owned()),
            };
            self.hold(manifest, ValueKind::Config, key, &at, held, sink);
        }
        for (key, at) in root.entries("binaryData") {
            let held = match decoded(at.word()) {
                Ok(text) if text.is_empty() => Held::Empty,
                Ok(text) => Held::Config(text),
                Err(problem) => {
                    sink.refuse(&at, problem);
                    Held::Refused
                }
            };
            self.hold(manifest, ValueKind::Config, key, &at, held, sink);
        }
    }

    fn take_secret(&mut self, manifest: &Manifest, sink: &mut Sink) {
        let root = manifest.root();
        let of_cluster = match root.text_or_empty("type") {
            "kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg" => {
                "the credentials of a registry are given to the platform, and not to an app"
            }
            "kubernetes.io/service-account-token" | "bootstrap.kubernetes.io/token" => {
                "it is about the API of a cluster, and there is none here"
            }
            _ => "",
        };
        if !of_cluster.is_empty() {
            root.tell();
            sink.notice(&root, format!("{of_cluster}; the Secret is left out"));
            return;
        }
        self.take_holder(manifest, ValueKind::Secret, sink);
        let written: BTreeSet<&str> = root.entries("stringData").iter().map(|(key, _)| *key).collect();
        for (key, at) in root.entries("data") {
            let problem = decoded(at.word()).map(|text| text.is_empty());
            if written.contains(key) {
                sink.notice(&at, "`stringData` says it as well, and goes before this");
                continue;
            }
            let held = match problem {
                Ok(true) => Held::Empty,
                Ok(false) => Held::Secret,
                Err(problem) => {
                    sink.refuse(&at, problem);
                    Held::Refused
                }
            };
            self.hold(manifest, ValueKind::Secret, key, &at, held, sink);
        }
        for (key, at) in root.entries("stringData") {
            let held = match problem(at.word()) {
                _ if at.word().is_empty() => Held::Empty,
                Some(problem) => {
                    sink.refuse(&at, problem);
                    Held::Refused
                }
                None => Held::Secret,
            };
            self.hold(manifest, ValueKind::Secret, key, &at, held, sink);
        }
    }

    fn take_holder(&mut self, manifest: &Manifest, kind: ValueKind, sink: &Sink) {
        let holder = (manifest.namespace.clone(), kind, manifest.name.clone());
        if sink.is_refused(manifest.number) {
            self.refused.insert(holder.clone());
        }
        self.holders.insert(holder);
    }

    /// Whether a reference leads to something that was refused as a whole, which is then told.
    fn is_refused(&self, at: &At<'_>, kind: ValueKind, holder: &str, sink: &mut Sink) -> bool {
        let is_refused = self.refused.contains(&(at.manifest.namespace.clone(), kind, holder.to_owned()));
        if is_refused {
            let message = format!("the {} `{}` was refused, as is said there", noun(kind), shown(holder));
            sink.refuse(at, message);
        }
        is_refused
    }

    /// Gives a value its name, and tells the command that sets it.
    fn hold(
        &mut self,
        manifest: &Manifest,
        kind: ValueKind,
        key: &str,
        at: &At<'_>,
        held: Held,
        sink: &mut Sink,
    ) {
        let id: Key = (manifest.namespace.clone(), kind, manifest.name.clone(), key.to_owned());
        let name = self.name(&id);
        let flag = manifest.namespace_flag();
        match &held {
            Held::Config(text) => {
                let end = if text.starts_with('-') { "-- " } else { "" };
                let command = if is_unprintable(text) {
                    format!("{} | wharf config set{flag} {name}", printed(text))
                } else {
                    format!("wharf config set{flag} {end}{name} {}", quoted(text))
                };
                sink.command(at, command, "before the text is applied");
            }
            Held::Secret => {
                let form = if at.path.starts_with("data") { ", decoded from base64" } else { "" };
                let remark = format!("before the text is applied, and type what stands here{form}");
                sink.command(at, format!("wharf secret set{flag} {name}"), remark);
            }
            Held::Empty => {
                sink.notice(at, "there is no value without anything in it; a variable of it is empty")
            }
            Held::Refused => {}
        }
        self.held.insert(id, held);
    }

    /// `db` and `user.name` are `db-user-name`. What is too long, or taken, ends in letters of its digest.
    fn name(&mut self, id: &Key) -> SecretName {
        if let Some(name) = self.names.get(id) {
            return name.clone();
        }
        let (namespace, kind, holder, key) = id;
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let plain: String = format!("{holder}-{key}").chars().map(letter).collect();
        let plain = plain.trim_matches('-');
        let digest = Digest::of(format!("{}\n{holder}\n{key}", noun(*kind)).as_bytes()).to_string();
        let digest: String = digest.chars().rev().take(8).collect();
        let head: String = plain.chars().take(NAME_MAX_BYTES - 9).collect();
        let marked = format!("{}-{digest}", head.trim_matches('-'));
        let is_free = |name: &SecretName| !self.taken.contains_key(&(namespace.clone(), name.clone()));
        let name = SecretName::try_from(plain.to_owned()).ok().filter(is_free);
        let name = name.or_else(|| SecretName::try_from(marked.trim_matches('-').to_owned()).ok());
        let name = name.expect("letters, digits and inner dashes, at most 40 of them");
        self.taken.insert((namespace.clone(), name.clone()), id.clone());
        self.names.insert(id.clone(), name.clone());
        name
    }

    /// The keys of a holder that is in the files.
    pub(crate) fn keys(
        &mut self,
        at: &At<'_>,
        kind: ValueKind,
        holder: &str,
        sink: &mut Sink,
    ) -> Option<Vec<String>> {
        let namespace = at.manifest.namespace.clone();
        if !self.holders.contains(&(namespace.clone(), kind, holder.to_owned())) {
            return None;
        }
        if self.is_refused(at, kind, holder, sink) {
            return Some(Vec::new());
        }
        let first: Key = (namespace.clone(), kind, holder.to_owned(), String::new());
        let of_holder = self.held.range(first..).take_while(|((of, of_kind, of_holder, _), _)| {
            *of == namespace && *of_kind == kind && of_holder == holder
        });
        let keys: Vec<String> = of_holder.map(|((.., key), _)| key.clone()).collect();
        self.listed += keys.len();
        if self.listed > LISTED_MAX {
            let message = format!(
                "more than {LISTED_MAX} keys of ConfigMaps and Secrets are taken as a whole; import fewer manifests at once"
            );
            sink.refuse(at, message);
            return Some(Vec::new());
        }
        Some(keys)
    }

    /// Whether a value is there, and has nothing in it.
    pub(crate) fn is_empty(
        &self,
        namespace: Option<&str>,
        (kind, holder, key): (ValueKind, &str, &str),
    ) -> bool {
        let id: Key = (namespace.map(str::to_owned), kind, holder.to_owned(), key.to_owned());
        self.held.get(&id) == Some(&Held::Empty)
    }

    /// The text of a config, where the files have it.
    pub(crate) fn config(&self, namespace: Option<&str>, holder: &str, key: &str) -> Option<&str> {
        let id: Key = (namespace.map(str::to_owned), ValueKind::Config, holder.to_owned(), key.to_owned());
        match self.held.get(&id) {
            Some(Held::Config(text)) => Some(text),
            Some(Held::Empty) => Some(""),
            _ => None,
        }
    }

    /// What a reference leads to. One to something outside the files is a value that has to be set by hand, unless it may be missing.
    pub(crate) fn refer(
        &mut self,
        at: &At<'_>,
        (kind, holder, key): (ValueKind, &str, &str),
        is_optional: bool,
        sink: &mut Sink,
    ) -> Referred {
        if self.is_refused(at, kind, holder, sink) {
            return Referred::Missing;
        }
        let namespace = at.manifest.namespace.clone();
        let id: Key = (namespace.clone(), kind, holder.to_owned(), key.to_owned());
        match self.held.get(&id) {
            Some(Held::Empty) => return Referred::Empty,
            Some(Held::Refused) => {
                sink.refuse(at, format!("the value of `{}` cannot be taken, as is said there", shown(key)));
                return Referred::Missing;
            }
            Some(_) => return Referred::Named(self.name(&id)),
            None => {}
        }
        let is_here = self.holders.contains(&(namespace, kind, holder.to_owned()));
        if is_optional {
            sink.notice(
                at,
                format!("it may be missing, and is not in the {} of these files; it is left out", noun(kind)),
            );
            return Referred::Missing;
        }
        if is_here {
            let message = format!("the {} `{}` has no key `{}`", noun(kind), shown(holder), shown(key));
            sink.refuse(at, message);
            return Referred::Missing;
        }
        let name = self.name(&id);
        let (flag, holder, key) = (at.manifest.namespace_flag(), shown(holder), shown(key));
        let (word, end) = match kind {
            ValueKind::Secret => ("secret", ""),
            ValueKind::Config => ("config", " VALUE"),
        };
        let command = format!("wharf {word} set{flag} {name}{end}");
        let remark = format!(
            "before the text is applied, with the value of the key `{key}` of the {} `{holder}`, which is not in these files",
            noun(kind)
        );
        sink.command(at, command, remark);
        Referred::Named(name)
    }
}

/// What a value must not be.
fn problem(text: &str) -> Option<String> {
    if text.len() > VALUE_MAX_BYTES {
        return Some(format!(
            "a value may have {} KiB, and this is longer; put it into the image",
            VALUE_MAX_BYTES >> 10
        ));
    }
    text.contains('\0').then(|| "a value is text, and has no NUL character".to_owned())
}

/// The text that a value in base64 stands for.
fn decoded(text: &str) -> Result<String, String> {
    let letters: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    let octets = BASE64_STANDARD.decode(letters).map_err(|_| "the value is not base64".to_owned())?;
    let text = String::from_utf8(octets).map_err(|_| {
        "a value is text in UTF-8, and this is not; encode it, and let the app decode it".to_owned()
    })?;
    problem(&text).map_or(Ok(text), Err)
}
