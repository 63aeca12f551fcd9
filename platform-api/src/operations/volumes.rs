//! Gives apps their volumes, and takes away those that nobody wants any more. Data goes only where somebody asked for just that.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_types::figures::VolumeFigures;
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::{NamespaceName, NodeId, Timestamp, VolumeId};

use super::{Result, commit, invalid_spec, problem};
use crate::audit;
use crate::context::Context;
use crate::store::app::App;
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
    let was = json!({"app": volume.app_name, "name": volume.name, "size_bytes": volume.size_bytes});
    audit::change(was, Value::Null);
    commit(context, tx, changed).await?;
    context.volumes_changed();
    Ok(())
}

/// Why an app needs the volume. None: what it runs, and what it may go back to by itself, has no use for it.
fn user_of(loaded: &Loaded, volume: &store::volume::Volume) -> Option<String> {
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
