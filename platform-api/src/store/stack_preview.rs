//! Tables `stack_preview` and `stack_preview_part`: stacks that show what a branch would be, and what was made for them.

use uuid::Uuid;
use wharf_types::secret::ValueKind;
use wharf_types::{NamespaceId, NamespaceName, SetName, Timestamp};

use super::codec::{parse, time};
use super::query::{query, query_as};
use super::{Conn, Result, StoreError};
use crate::git::PreviewPart;

const SECRET: i64 = 10;
const CONFIG: i64 = 20;
const JOB: i64 = 30;
const APP: i64 = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StackPreview {
    pub(crate) id: Uuid,
    pub(crate) namespace_id: NamespaceId,
    pub(crate) namespace: NamespaceName,
    pub(crate) repository: Uuid,
    /// What it is called, and the set of its apps.
    pub(crate) name: SetName,
    pub(crate) branch: String,
    pub(crate) expires_at: Timestamp,
}

/// One that is made, or pushed to again.
#[derive(Clone, Debug)]
pub(crate) struct NewStackPreview<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) repository: Uuid,
    pub(crate) name: &'a SetName,
    pub(crate) branch: &'a str,
    pub(crate) expires_at: Timestamp,
}

type Row = (String, String, String, String, String, String, i64);

fn of_row((id, namespace_id, namespace, repository, name, branch, expires_at): Row) -> Result<StackPreview> {
    Ok(StackPreview {
        id: parse(&id)?,
        namespace_id: parse(&namespace_id)?,
        namespace: parse(&namespace)?,
        repository: parse(&repository)?,
        name: parse(&name)?,
        branch,
        expires_at: time(expires_at)?,
    })
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT stack_preview.id, namespace.id, namespace.name, stack_preview.repository, stack_preview.name, stack_preview.branch,
             stack_preview.expires_at FROM stack_preview JOIN namespace ON namespace.id = stack_preview.namespace ",
            $rest
        )
    };
}

/// Makes it, or lets it last longer, with these parts beside those that it has had.
pub(crate) async fn put(conn: &mut Conn, new: &NewStackPreview<'_>, parts: &[PreviewPart]) -> Result<()> {
    let (id,): (String,) = query_as(
        "INSERT INTO stack_preview (id, namespace, repository, name, branch, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (namespace, name) DO UPDATE SET expires_at = excluded.expires_at
         RETURNING id",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(new.namespace.to_string())
    .bind(new.repository.to_string())
    .bind(new.name.as_str())
    .bind(new.branch)
    .bind(new.expires_at.as_microsecond())
    .fetch_one(&mut *conn)
    .await?;
    for part in parts {
        let (kind, name) = match part {
            PreviewPart::Value(ValueKind::Secret, name) => (SECRET, name.as_str()),
            PreviewPart::Value(ValueKind::Config, name) => (CONFIG, name.as_str()),
            PreviewPart::Job(name) => (JOB, name.as_str()),
            PreviewPart::App(name) => (APP, name.as_str()),
        };
        query(
            "INSERT INTO stack_preview_part (preview, kind, name) VALUES ($1, $2, $3)
             ON CONFLICT (preview, kind, name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(kind)
        .bind(name)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

pub(crate) async fn find(
    conn: &mut Conn,
    namespace: NamespaceId,
    name: &SetName,
) -> Result<Option<StackPreview>> {
    let row: Option<Row> =
        query_as(select!("WHERE stack_preview.namespace = $1 AND stack_preview.name = $2"))
            .bind(namespace.to_string())
            .bind(name.as_str())
            .fetch_optional(conn)
            .await?;
    row.map(of_row).transpose()
}

pub(crate) async fn of_repository(conn: &mut Conn, repository: Uuid) -> Result<Vec<StackPreview>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE stack_preview.repository = $1 ORDER BY stack_preview.branch"))
            .bind(repository.to_string())
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(of_row).collect()
}

/// Those whose time is over.
pub(crate) async fn expired(conn: &mut Conn, now: Timestamp) -> Result<Vec<StackPreview>> {
    let rows: Vec<Row> = query_as(select!("WHERE stack_preview.expires_at < $1 ORDER BY stack_preview.id"))
        .bind(now.as_microsecond())
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(of_row).collect()
}

/// Lets those of a branch last until then, which may be over.
pub(crate) async fn set_expiry(
    conn: &mut Conn,
    repository: Uuid,
    branch: &str,
    expires_at: Timestamp,
) -> Result<()> {
    query("UPDATE stack_preview SET expires_at = $3 WHERE repository = $1 AND branch = $2")
        .bind(repository.to_string())
        .bind(branch)
        .bind(expires_at.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}

/// What was made for it, the values last, which others of it may have.
pub(crate) async fn parts(conn: &mut Conn, preview: Uuid) -> Result<Vec<PreviewPart>> {
    let rows: Vec<(i64, String)> =
        query_as("SELECT kind, name FROM stack_preview_part WHERE preview = $1 ORDER BY kind DESC, name")
            .bind(preview.to_string())
            .fetch_all(conn)
            .await?;
    let part = |(kind, name): (i64, String)| match kind {
        SECRET => Ok(PreviewPart::Value(ValueKind::Secret, parse(&name)?)),
        CONFIG => Ok(PreviewPart::Value(ValueKind::Config, parse(&name)?)),
        JOB => Ok(PreviewPart::Job(parse(&name)?)),
        APP => Ok(PreviewPart::App(parse(&name)?)),
        _ => Err(StoreError::Corrupt(format!("{kind} is no kind of a part of a preview"))),
    };
    rows.into_iter().map(part).collect()
}

/// Forgets it, unless it was pushed to since it was seen to be over.
pub(crate) async fn delete(conn: &mut Conn, preview: &StackPreview) -> Result<()> {
    query("DELETE FROM stack_preview WHERE id = $1 AND expires_at = $2")
        .bind(preview.id.to_string())
        .bind(preview.expires_at.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}
