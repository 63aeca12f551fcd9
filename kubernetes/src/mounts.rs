//! What a container mounts: volumes, files of configs and secrets, folders in memory and of the node.

use std::collections::{BTreeMap, BTreeSet};

use wharf_compose::problem::shown;
use wharf_types::name::VolumeName;
use wharf_types::secret::ValueKind;
use wharf_types::spec::{ContainerFileSpec, HostPathSpec, TmpfsSpec, VolumeSpec};
use wharf_types::suggest::nearest;

use crate::at::At;
use crate::claims::{Access, Claim, Claims, claim};
use crate::finding::Sink;
use crate::kind::Kind;
use crate::quantity::bytes;
use crate::values::{Referred, Values};
use crate::variables::{Variable, Variables};
use crate::workload::Workload;

#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) volumes: Vec<VolumeSpec>,
    pub(crate) tmpfs: Vec<TmpfsSpec>,
    pub(crate) files: Vec<ContainerFileSpec>,
    pub(crate) host_paths: Vec<HostPathSpec>,
}

/// What mounts are made of, beside the container.
pub(crate) struct Mounter<'a, 'b> {
    workload: &'b Workload<'a>,
    values: &'b mut Values,
    claims: &'b mut Claims,
    variables: &'b mut Variables,
    sink: &'b mut Sink,
    made: Mounts,
    /// Volumes that are mounted already.
    mounted: BTreeSet<String>,
    /// How often a variable of a file was given each name.
    numbers: BTreeMap<String, u32>,
}

/// A file that a value becomes.
struct File<'c> {
    kind: ValueKind,
    holder: &'c str,
    key: &'c str,
    path: String,
    mode: Option<&'c str>,
    is_optional: bool,
}

impl<'a, 'b> Mounter<'a, 'b> {
    pub(crate) fn new(
        workload: &'b Workload<'a>,
        (values, claims): (&'b mut Values, &'b mut Claims),
        variables: &'b mut Variables,
        sink: &'b mut Sink,
    ) -> Self {
        let (made, mounted, numbers) = (Mounts::default(), BTreeSet::new(), BTreeMap::new());
        Self { workload, values, claims, variables, sink, made, mounted, numbers }
    }

    pub(crate) fn run(mut self) -> Mounts {
        // Not marked as read: what nobody mounts is to be told.
        let named = |list: Vec<At<'a>>, field: &str| -> BTreeMap<&'a str, At<'a>> {
            let name = |item: &At<'a>| item.get(field).and_then(|at| at.node.text()).unwrap_or_default();
            list.into_iter().map(|item| (name(&item), item)).collect()
        };
        let volumes = named(self.workload.pod.items("volumes"), "name");
        let templates = match self.workload.manifest.kind {
            Kind::StatefulSet => {
                named(self.workload.manifest.root().items("spec.volumeClaimTemplates"), "metadata.name")
            }
            _ => BTreeMap::new(),
        };
        for mount in self.workload.container.items("volumeMounts") {
            self.mount(&mount, &volumes, &templates);
        }
        self.made
    }

    fn mount(
        &mut self,
        mount: &At<'a>,
        volumes: &BTreeMap<&'a str, At<'a>>,
        templates: &BTreeMap<&'a str, At<'a>>,
    ) {
        if mount.text("mountPropagation").is_some_and(|mode| mode != "None") {
            let message = "nothing that is mounted elsewhere shows here; leave it out";
            self.sink.refuse(&mount.near("mountPropagation"), message);
        }
        for field in ["mountPath", "readOnly", "subPath"] {
            mount.near(field).see();
        }
        let name = mount.text_or_empty("name");
        if let Some(volume) = volumes.get(name) {
            volume.near("name").see();
            return self.volume(mount, volume);
        }
        if let Some(template) = templates.get(name) {
            template.near("metadata.name").see();
            let claim = claim(template, self.sink);
            return self.folder(mount, name, &claim, false);
        }
        let message = match nearest(name, volumes.keys().chain(templates.keys()).copied()) {
            Some(meant) => format!("there is no volume `{}`; did you mean `{meant}`?", shown(name)),
            None => format!("there is no volume `{}`; declare it below `volumes`", shown(name)),
        };
        self.sink.refuse(mount, message);
    }

    fn volume(&mut self, mount: &At<'a>, volume: &At<'a>) {
        if volume.own_entries().len() > 2 {
            self.sink.refuse(volume, "the volume has several sources; write one of them");
        }
        if let Some(source) = volume.get("configMap") {
            let holder = source.text_or_empty("name");
            self.files(mount, &source, ValueKind::Config, holder, source.text("defaultMode"));
        } else if let Some(source) = volume.get("secret") {
            let holder = source.text_or_empty("secretName");
            self.files(mount, &source, ValueKind::Secret, holder, source.text("defaultMode"));
        } else if let Some(projected) = volume.get("projected") {
            let mode = projected.text("defaultMode");
            for source in projected.items("sources") {
                for (field, kind) in [("configMap", ValueKind::Config), ("secret", ValueKind::Secret)] {
                    let Some(source) = source.get(field) else { continue };
                    self.files(mount, &source, kind, source.text_or_empty("name"), mode);
                }
            }
        } else if let Some(source) = volume.get("persistentVolumeClaim") {
            self.claimed(mount, &source);
        } else if self.workload.is_wasm {
            // The table has refused it.
        } else if let Some(source) = volume.get("hostPath") {
            self.host_path(mount, &source);
        } else if let Some(source) = volume.get("emptyDir") {
            self.empty_folder(mount, &source);
        } else if volume.own_entries().len() < 2 {
            self.sink.refuse(volume, "the volume has no source; write one, such as `emptyDir: {}`");
        }
    }

    /// Each key of a ConfigMap or a Secret as a file.
    fn files(&mut self, mount: &At<'a>, source: &At<'a>, kind: ValueKind, holder: &str, mode: Option<&str>) {
        let is_optional = source.flag("optional").unwrap_or_default();
        let items = source.items("items");
        let mut wanted: Vec<(String, String, Option<&str>)> = Vec::new();
        for item in &items {
            let key = item.text_or_empty("key").to_owned();
            wanted.push((key, item.text_or_empty("path").to_owned(), item.text("mode").or(mode)));
        }
        let sub_path = mount.text("subPath");
        if items.is_empty() {
            match (self.values.keys(source, kind, holder, self.sink), sub_path) {
                (Some(keys), _) => wanted.extend(keys.into_iter().map(|key| (key.clone(), key, mode))),
                (None, Some(key)) => wanted.push((key.to_owned(), key.to_owned(), mode)),
                (None, None) if is_optional => {
                    self.sink.notice(source, "it may be missing, and is not in these files; it is left out");
                    return;
                }
                (None, None) => {
                    let message = format!(
                        "`{}` is not in these files, so nobody knows its keys; import it together with this, or list `items`",
                        shown(holder)
                    );
                    self.sink.refuse(source, message);
                    return;
                }
            }
        }
        let folder = mount.text_or_empty("mountPath").trim_end_matches('/').to_owned();
        if let Some(sub_path) = sub_path {
            let within = |path: &str| path == sub_path || path.starts_with(&format!("{sub_path}/"));
            wanted.retain(|(_, path, _)| within(path));
            if wanted.is_empty() {
                self.sink.refuse(&mount.near("subPath"), "no file of the volume is called so");
            }
        }
        for (key, path, mode) in &wanted {
            let path = match sub_path.and_then(|sub_path| path.strip_prefix(sub_path)) {
                Some(rest) => format!("{folder}{rest}"),
                None => format!("{folder}/{path}"),
            };
            let file = File { kind, holder, key, path, mode: *mode, is_optional };
            self.file(mount, &file);
        }
    }

    fn file(&mut self, mount: &At<'_>, file: &File<'_>) {
        let File { kind, holder, key, path, mode, is_optional } = file;
        let is_empty = self.values.is_empty(mount.manifest.namespace.as_deref(), (*kind, holder, key));
        if is_empty {
            let message = format!(
                "`{}` has nothing in it, and a file of it cannot be made; leave the key out",
                shown(key)
            );
            return self.sink.refuse(mount, message);
        }
        let referred = self.values.refer(mount, (*kind, holder, key), *is_optional, self.sink);
        let Referred::Named(name) = referred else { return };
        let variable = self.free_variable(key);
        let value = match kind {
            ValueKind::Secret => Variable::Secret(name),
            ValueKind::Config => Variable::Config(name, None),
        };
        self.variables.insert(variable.clone(), value);
        if self.workload.is_wasm {
            let message =
                format!("the guest gets `{}` as the variable `{variable}`, and not as a file", shown(key));
            return self.sink.notice(mount, message);
        }
        let group =
            self.workload.pod.int("securityContext.fsGroup").and_then(|group| u32::try_from(group).ok());
        // A group that may read what nobody else may: that is what it is there for.
        let mode = mode.map(|mode| match u32::from_str_radix(mode, 8) {
            Ok(bits) if group.is_some() => format!("{:04o}", bits | 0o440),
            _ => mode.to_owned(),
        });
        self.made.files.push(ContainerFileSpec {
            from: variable,
            path: path.clone(),
            mode,
            uid: None,
            gid: group,
        });
    }

    /// `nginx.conf` is `NGINX_CONF`, or `NGINX_CONF_2` where that is something else.
    fn free_variable(&mut self, key: &str) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = key.chars().map(letter).collect();
        let number = self.numbers.entry(name.clone()).or_default();
        loop {
            *number += 1;
            let found = if *number == 1 { name.clone() } else { format!("{name}_{number}") };
            if !self.variables.contains_key(&found) {
                return found;
            }
        }
    }

    fn claimed(&mut self, mount: &At<'_>, source: &At<'_>) {
        let name = source.text_or_empty("claimName");
        let is_read_only = source.flag("readOnly").unwrap_or_default();
        let key = (mount.manifest.namespace.clone(), name.to_owned());
        let Some(claim) = self.claims.get_mut(&key) else {
            let size = VolumeSpec::SIZE_DEFAULT;
            let message = format!("the claim is not in these files; the volume has {size}, and one writer");
            self.sink.notice(&source.near("claimName"), message);
            let claim = Claim { size: None, access: Access::One, is_refused: false, user: None };
            return self.folder(mount, name, &claim, is_read_only);
        };
        if claim.is_refused {
            return self.sink.refuse(&source.near("claimName"), "the claim was refused, as is said there");
        }
        let (number, subject) = (self.workload.manifest.number, self.workload.manifest.subject());
        if let Some((_, other)) = claim.user.as_ref().filter(|(user, _)| *user != number) {
            let message = format!(
                "{other} has the claim already, and a volume belongs to one app; let one have it, and others ask that"
            );
            return self.sink.refuse(&source.near("claimName"), message);
        }
        claim.user = Some((number, subject));
        let claim = claim.clone();
        self.folder(mount, name, &claim, is_read_only);
    }

    /// A volume of the app.
    fn folder(&mut self, mount: &At<'_>, name: &str, claim: &Claim, is_read_only: bool) {
        if mount.get("subPath").is_some() {
            let message =
                "a volume is mounted as a whole; mount it at a folder above, or make several volumes";
            return self.sink.refuse(&mount.near("subPath"), message);
        }
        if !self.mounted.insert(name.to_owned()) {
            return self.sink.refuse(mount, "the volume is mounted already, and has one place");
        }
        let name = match VolumeName::try_from(name.replace('.', "-")) {
            Ok(name) => name,
            Err(error) => return self.sink.refuse(mount, error.to_string()),
        };
        let read_only =
            is_read_only || mount.flag("readOnly").unwrap_or_default() || claim.access == Access::ReadOnly;
        self.made.volumes.push(VolumeSpec {
            name,
            path: path_of(mount),
            size: claim.size.unwrap_or(VolumeSpec::SIZE_DEFAULT),
            read_only,
            shared: claim.access == Access::Many && !read_only,
        });
    }

    fn host_path(&mut self, mount: &At<'_>, source: &At<'_>) {
        if mount.get("subPath").is_some() {
            return self.sink.refuse(&mount.near("subPath"), "write the whole path below `hostPath`");
        }
        if source.text("type").is_some_and(|kind| !kind.is_empty()) {
            self.sink.notice(&source.near("type"), "it is not looked at: what is mounted has to be there");
        }
        self.made.host_paths.push(HostPathSpec {
            host: source.text_or_empty("path").to_owned(),
            path: path_of(mount),
            read_only: mount.flag("readOnly").unwrap_or_default(),
        });
    }

    fn empty_folder(&mut self, mount: &At<'_>, source: &At<'_>) {
        if mount.get("subPath").is_some() {
            return self.sink.refuse(&mount.near("subPath"), "a folder in memory is mounted as a whole");
        }
        match source.text("medium") {
            None | Some("") => {
                let message =
                    "it is kept in memory, and counts as the container's; give it a claim if it is large";
                self.sink.notice(source, message);
            }
            Some("Memory") => {}
            Some(_) => self.sink.refuse(&source.near("medium"), "there is `Memory` only"),
        }
        let size = source.get("sizeLimit").and_then(|size| bytes(&size, self.sink));
        self.made.tmpfs.push(TmpfsSpec { path: path_of(mount), size, mode: Some("0777".to_owned()) });
    }
}

/// Where it is mounted, without a slash at the end.
fn path_of(mount: &At<'_>) -> String {
    let path = mount.text_or_empty("mountPath");
    if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path.to_owned() }
}
