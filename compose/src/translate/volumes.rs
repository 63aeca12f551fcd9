//! Volumes: each belongs to one app, which has it under the name of its key in the file.

use std::collections::BTreeMap;

use wharf_types::name::VolumeName;
use wharf_types::spec::VolumeSpec;

use super::sink::Sink;
use super::{One, label};
use crate::model::{Mount, Service, Volume};
use crate::problem::shown;
use crate::project::Project;

/// What is wrong with the volumes at the top of the file, whoever has them.
pub(super) fn check(project: &Project, sink: &mut Sink) {
    let users = users(project);
    for (key, volume) in &project.volumes {
        let place = project.place_of_name("volumes", key);
        match users.get(key.as_str()).map(Vec::as_slice).unwrap_or_default() {
            [] => sink.notice(place, format!("no service has the volume `{}`", shown(key))),
            [_] => {}
            [first, second, ..] => {
                let message = format!(
                    "the volume `{}` is of several services, `{first}` and `{second}` among them, and a volume belongs to one app; \
                     let one service have it, and the others ask that for what is in it",
                    shown(key)
                );
                sink.problem(place, message);
            }
        }
        let Volume { driver, driver_opts: _, external: _, labels: _, name: _, wharf: _ } = volume;
        if let Some(driver) = driver.as_ref().filter(|driver| *driver != "local") {
            let message = format!(
                "`{}`: a volume is a folder that the platform keeps; leave the driver out",
                shown(driver)
            );
            sink.problem(project.place_of(&format!("volumes.{key}.driver")), message);
        }
    }
}

/// The services that have each volume.
fn users(project: &Project) -> BTreeMap<&str, Vec<&str>> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, service) in &project.services {
        for source in of_service(service) {
            let users = users.entry(source).or_default();
            // One service may mount it at several places.
            if users.last() != Some(&name.as_str()) {
                users.push(name);
            }
        }
    }
    users
}

/// The volumes that a service names.
pub(super) fn of_service(service: &Service) -> impl Iterator<Item = &str> {
    let volumes = service.volumes.iter().filter(|mount| mount.kind == "volume");
    volumes.filter_map(|mount| mount.source.as_deref())
}

/// The volume of a mount, and what is to be said of it.
pub(super) fn of_mount(one: &One<'_>, mount: &Mount) -> Result<(VolumeSpec, Option<String>), String> {
    let (written, notice) = match mount.source.as_deref() {
        Some(source) => (source.to_owned(), None),
        None => {
            let name = label(&mount.target.trim_matches('/').replace('/', "-"));
            let notice = format!(
                "the volume has no name, and is called `{name}`; it outlives its instances all the same"
            );
            (name, Some(notice))
        }
    };
    let name: VolumeName =
        label(&written).parse().map_err(|error: wharf_types::name::InvalidName| error.to_string())?;
    let own = mount
        .source
        .as_deref()
        .and_then(|source| one.project.volumes.get(source))
        .map(|volume| &volume.wharf);
    let size = match own.and_then(|own| own.size.as_ref()) {
        Some(size) => {
            serde_json::from_value(size.clone()).map_err(|error| format!("`x-wharf.size`: {error}"))?
        }
        None => VolumeSpec::SIZE_DEFAULT,
    };
    let shared = own.is_some_and(|own| own.shared);
    Ok((
        VolumeSpec {
            name,
            path: mount.target.clone(),
            size,
            read_only: mount.read_only,
            shared: shared && !mount.read_only,
        },
        notice,
    ))
}
