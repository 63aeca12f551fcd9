//! Gives apps their volumes, and takes away those that nobody wants any more. Data goes only where somebody asked for just that.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_types::figures::VolumeFigures;
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, VolumeSpec};
use wharf_types::transfer::{Owners, Transfer};
use wharf_types::{NamespaceName, NodeId, Timestamp, VolumeId};

use super::{Result, commit, containers, invalid_spec, problem};
use crate::audit;
use crate::context::Context;
use crate::plan::ReleaseView;
use crate::store::app::App;
use crate::store::volume::Volume;
use crate::store::{self, Conn};
use crate::view::{self, Loaded};

/// Makes the volumes of a release that is about to be rolled out, as far as the app has not got them.
pub(super) async fn claim(conn: &mut Conn, app: &App, spec: &AppSpec, now: Timestamp) -> Result<()> {
    // What `scale` has set says nothing while the app runs on every node, and stands again when it has a number.
    if let Some(replicas) = app.scaled_to.filter(|_| !spec.is_global()) {
        spec.validate_replicas("`wharf scale`", replicas).map_err(invalid_spec)?;
    }
    for volume in &spec.volumes {
        let size = volume.size.as_bytes();
        if store::volume::put(conn, app, &volume.name, size, now).await? {
            let message = format!("the volume `{}` of {} is made", volume.name, volume.size);
            store::event::append(conn, &app.namespace, Some(&app.name), "volume.created", &message, now)
                .await?;
        }
    }
    Ok(())
}

/// Removes a volume that no release in use has.
pub(crate) async fn remove(
    context: &Arc<Context>,
    namespace: &NamespaceName,
    id: VolumeId,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    let mut tx = context.store.write().await?;
    let Some(volume) = store::volume::find(&mut tx, namespace, id).await? else {
        let detail = format!("there is no volume {id} in the namespace `{namespace}`");
        return problem(ProblemCode::NotFound, detail);
    };
    let mut changed = None;
    if let Some(app) = volume.app
        && let Some(loaded) = view::load(&mut tx, &context.releases, app).await?
    {
        if let Some(detail) = user_of(&loaded, &volume) {
            return problem(ProblemCode::Conflict, detail);
        }
        store::change::touch(&mut tx, app, now).await?;
        changed = Some(app);
    }
    store::volume::remove(&mut tx, id).await?;
    store::volume::forget_unplaced(&mut tx).await?;
    let message = format!("the volume `{}` and its data are being removed, asked for by {by}", volume.name);
    let app = Some(&volume.app_name);
    store::event::append(&mut tx, namespace, app, "volume.removing", &message, now).await?;
    audit::change(shown(&volume), Value::Null);
    commit(context, tx, changed).await?;
    context.volumes_changed();
    Ok(())
}

/// A volume whose data is to be read, and what should be known of the archive.
pub(crate) async fn to_back_up(
    context: &Context,
    namespace: &NamespaceName,
    id: VolumeId,
) -> Result<(Volume, Option<String>)> {
    let mut tx = context.store.read().await?;
    let (volume, loaded) = to_transfer(&mut tx, context, namespace, id).await?;
    let is_written = |loaded: &Loaded| instances_with(loaded, &volume, |spec| !spec.read_only) > 0;
    let notice = loaded.filter(is_written).map(|_| {
        let app = &volume.app_name;
        format!(
            "`{app}` may write to the volume meanwhile: each file is as it was when it was read, as after a crash; for more stop the app first (`wharf stop {app}`), or have its program dump its data"
        )
    });
    Ok((volume, notice))
}

/// A volume that nobody has, which is to hold something else.
pub(crate) async fn to_restore(
    context: &Context,
    namespace: &NamespaceName,
    id: VolumeId,
) -> Result<(Volume, Transfer)> {
    let mut tx = context.store.read().await?;
    let (volume, loaded) = to_transfer(&mut tx, context, namespace, id).await?;
    if let Some(detail) = loaded.as_ref().and_then(|loaded| why_not_replaced(loaded, &volume)) {
        return problem(ProblemCode::Conflict, detail);
    }
    let with_volume = loaded.as_ref().and_then(|loaded| {
        let view = &loaded.view;
        let newest = view.target.iter().chain(&view.stable).chain(&view.latest);
        newest.into_iter().find(|release| has(release, &volume, |_| true))
    });
    let in_container = match with_volume {
        Some(release) => release.world.is_container(),
        // Who had the volume of an app that is gone nobody knows, and who has it next may be whatever the namespace may run.
        None => containers::are_allowed(&mut tx, namespace).await?,
    };
    // Owners of an archive's choice, and bits that hand on their rights, are only for containers.
    let owners = if in_container { Owners::Kept } else { Owners::Worker };
    let transfer = Transfer::Restore { size_bytes: volume.size_bytes, owners };
    Ok((volume, transfer))
}

async fn to_transfer(
    conn: &mut Conn,
    context: &Context,
    namespace: &NamespaceName,
    id: VolumeId,
) -> Result<(Volume, Option<Loaded>)> {
    let Some(volume) = store::volume::find(conn, namespace, id).await? else {
        let detail = format!("there is no volume {id} in the namespace `{namespace}`");
        return problem(ProblemCode::NotFound, detail);
    };
    if volume.removing {
        let detail = format!("the volume `{}` and its data are being removed", volume.name);
        return problem(ProblemCode::Conflict, detail);
    }
    let loaded = match volume.app {
        Some(app) => view::load(conn, &context.releases, app).await?,
        None => None,
    };
    Ok((volume, loaded))
}

/// Why what a volume holds cannot be replaced now: an instance has it, or may have at any time.
fn why_not_replaced(loaded: &Loaded, volume: &Volume) -> Option<String> {
    let (view, name) = (&loaded.view, &volume.name);
    let app = &view.name;
    let is_active = view.stopped.is_none() && !view.deleting;
    let mut wanted = view.target.iter().chain(&view.stable);
    let uses_it = wanted.any(|release| has(release, volume, |_| true));
    if is_active && uses_it && (view.replicas() > 0 || view.range().is_some()) {
        return Some(format!(
            "the app `{app}` has the volume `{name}`, and its instances would lose what they have open: `wharf stop {app}`, restore, then `wharf start {app}`"
        ));
    }
    match instances_with(loaded, volume, |_| true) {
        0 => None,
        1 => Some(format!(
            "an instance of `{app}` that ends still has the volume `{name}`; try again in a moment"
        )),
        more => Some(format!(
            "{more} instances of `{app}` that end still have the volume `{name}`; try again in a moment"
        )),
    }
}

fn instances_with(loaded: &Loaded, volume: &Volume, how: impl Fn(&VolumeSpec) -> bool) -> usize {
    let live = loaded.view.instances.iter().filter(|instance| !instance.state.is_final());
    // Of a release that is not kept nobody knows what it has.
    live.filter(|instance| loaded.releases.get(&instance.release).is_none_or(|it| has(it, volume, &how)))
        .count()
}

fn has(release: &ReleaseView, volume: &Volume, how: impl Fn(&VolumeSpec) -> bool) -> bool {
    release.spec.volumes.iter().any(|spec| spec.name == volume.name && how(spec))
}

/// Records that somebody reads what a volume holds.
pub(crate) async fn record_backup(context: &Arc<Context>, volume: &Volume) -> Result<()> {
    audit::change(shown(volume), Value::Null);
    commit(context, context.store.write().await?, None).await
}

/// Records that somebody replaces what a volume holds.
pub(crate) async fn record_restore(
    context: &Arc<Context>,
    namespace: &NamespaceName,
    volume: &Volume,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    let mut tx = context.store.write().await?;
    let message = format!("the volume `{}` is being filled from an archive, asked for by {by}", volume.name);
    let app = Some(&volume.app_name);
    store::event::append(&mut tx, namespace, app, "volume.restoring", &message, now).await?;
    audit::change(shown(volume), Value::Null);
    commit(context, tx, None).await
}

fn shown(volume: &Volume) -> Value {
    json!({"app": volume.app_name, "name": volume.name, "size_bytes": volume.size_bytes})
}

/// Why an app needs the volume. None: what it runs, and what it may go back to by itself, has no use for it.
fn user_of(loaded: &Loaded, volume: &Volume) -> Option<String> {
    let view = &loaded.view;
    let of_instances = view.instances.iter().filter(|instance| !instance.state.is_final());
    let of_instances = of_instances.filter_map(|instance| loaded.releases.get(&instance.release));
    let in_use = view.target.iter().chain(&view.stable).chain(of_instances);
    let numbers: HashSet<u64> = in_use
        .filter(|release| release.spec.volumes.iter().any(|spec| spec.name == volume.name))
        .map(|release| release.number)
        .collect();
    let release = numbers.into_iter().max()?;
    Some(format!(
        "release {release} of the app `{}` has the volume `{}`; deploy without it first, or delete the app",
        view.name, volume.name
    ))
}

/// Takes in that folders which were to be removed are gone.
pub(crate) async fn gone(context: &Arc<Context>, node: NodeId, volumes: &[VolumeId]) -> Result<()> {
    if volumes.is_empty() {
        return Ok(());
    }
    let mut tx = context.write_as_leader().await?;
    for id in volumes {
        store::volume::forget(&mut tx, node, *id).await?;
    }
    commit(context, tx, None).await?;
    context.volumes_changed();
    Ok(())
}

/// Tells the owner that a volume has become full, or has room again.
pub(crate) async fn tell(context: &Context, volumes: &[VolumeFigures], now: Timestamp) -> Result<()> {
    if volumes.is_empty() {
        return Ok(());
    }
    let mut tx = context.write_as_leader().await?;
    for volume in volumes {
        let name = &volume.name;
        let (kind, message) = match volume.full {
            true => (
                "volume.full",
                format!(
                    "the volume `{name}` is full: it holds {} of {} bytes, and writes are refused; delete something, or deploy \
                     with a larger `size`",
                    volume.used_bytes, volume.size_bytes
                ),
            ),
            false => ("volume.has_room", format!("the volume `{name}` has room again")),
        };
        store::event::append(&mut tx, &volume.namespace, Some(&volume.app), kind, &message, now).await?;
    }
    Ok(tx.commit().await?)
}
