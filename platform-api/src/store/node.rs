//! Table `node`: what workers said of themselves when they came, and what admins say of them.

use std::collections::BTreeMap;

use wharf_types::node::NodeRegistration;
use wharf_types::protocol;
use wharf_types::{NodeId, Timestamp};

use super::codec::{from_json, json, number, parse, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    hostname: String,
    memory_bytes: i64,
    cpus: i64,
    version: String,
    labels: String,
    os: String,
    arch: String,
    role: String,
    incarnation: String,
    address: Option<String>,
    containers: Option<String>,
    draining: bool,
    set_labels: String,
    given_up: bool,
    seen_at: i64,
}

/// A node, as the database has it.
#[derive(Clone, Debug)]
pub struct StoredNode {
    pub id: NodeId,
    pub registration: NodeRegistration,
    pub settings: NodeSettings,
    /// Whether whoever led last had given it up.
    pub given_up: bool,
    /// To the minute, unless it was given up.
    pub seen_at: Timestamp,
}

/// What admins say of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// Whether it is to be emptied, and nothing new placed on it.
    pub draining: bool,
    /// They count before those of the worker.
    pub labels: BTreeMap<String, String>,
}

impl NodeSettings {
    /// Sets these labels beside and over those that the node came with. The platform's own stays as it is: what it keeps from the node the
    /// worker would not understand, whoever says otherwise.
    pub(crate) fn label(&self, registration: &mut NodeRegistration) {
        let labels = self.labels.iter().filter(|(key, _)| *key != protocol::LABEL);
        registration.labels.extend(labels.map(|(key, value)| (key.clone(), value.clone())));
    }
}

pub(crate) async fn register(
    conn: &mut Conn,
    id: NodeId,
    node: &NodeRegistration,
    now: Timestamp,
) -> Result<()> {
    conn.note(News::Nodes);
    query(
        "INSERT INTO node (id, hostname, memory_bytes, cpus, version, labels, os, arch, role, incarnation, address,
             registered_at, containers, seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, memory_bytes = excluded.memory_bytes,
             cpus = excluded.cpus, version = excluded.version, labels = excluded.labels, os = excluded.os,
             arch = excluded.arch, role = excluded.role, containers = excluded.containers,
             incarnation = excluded.incarnation, address = excluded.address, registered_at = excluded.registered_at,
             seen_at = excluded.seen_at, given_up = FALSE",
    )
    .bind(id.to_string())
    .bind(&node.hostname)
    .bind(i64::try_from(node.memory_bytes).unwrap_or(i64::MAX))
    .bind(i64::from(node.cpus))
    .bind(&node.version)
    .bind(json(&node.labels))
    .bind(&node.os)
    .bind(&node.arch)
    .bind(&node.role)
    .bind(json(&node.incarnation))
    .bind(node.address.map(|address| address.to_string()))
    .bind(now.as_microsecond())
    .bind(node.containers.as_ref().map(json))
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<StoredNode>> {
    let rows: Vec<Row> = query_as(
        "SELECT id, hostname, memory_bytes, cpus, version, labels, os, arch, role, incarnation, address, containers, draining, set_labels,
             given_up, seen_at
         FROM node ORDER BY id",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let registration = NodeRegistration {
                hostname: row.hostname,
                memory_bytes: number(row.memory_bytes)?,
                cpus: number(row.cpus)?,
                version: row.version,
                labels: from_json(&row.labels)?,
                os: row.os,
                arch: row.arch,
                role: row.role,
                incarnation: from_json(&row.incarnation)?,
                address: row.address.as_deref().and_then(|address| address.parse().ok()),
                containers: row.containers.as_deref().map(from_json).transpose()?,
            };
            let settings = NodeSettings { draining: row.draining, labels: from_json(&row.set_labels)? };
            let (id, seen_at) = (parse(&row.id)?, time(row.seen_at)?);
            Ok(StoredNode { id, registration, settings, given_up: row.given_up, seen_at })
        })
        .collect()
}

/// What admins say of a node. None: there is no such node.
pub(crate) async fn settings(conn: &mut Conn, id: NodeId) -> Result<Option<NodeSettings>> {
    let row: Option<(bool, String)> = query_as("SELECT draining, set_labels FROM node WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|(draining, labels)| Ok(NodeSettings { draining, labels: from_json(&labels)? })).transpose()
}

/// False: there is no such node.
pub(crate) async fn set(conn: &mut Conn, id: NodeId, settings: &NodeSettings) -> Result<bool> {
    conn.note(News::Nodes);
    let done = query("UPDATE node SET draining = $2, set_labels = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(settings.draining)
        .bind(json(&settings.labels))
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes note that a node was given up, or is back. Only whoever leads next asks for that.
pub(crate) async fn set_given_up(
    conn: &mut Conn,
    id: NodeId,
    given_up: bool,
    seen_at: Timestamp,
) -> Result<()> {
    query("UPDATE node SET given_up = $2, seen_at = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(given_up)
        .bind(seen_at.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes note that all that were not given up are heard of.
pub(crate) async fn set_all_seen(conn: &mut Conn, now: Timestamp) -> Result<()> {
    query("UPDATE node SET seen_at = $1 WHERE given_up = FALSE")
        .bind(now.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets a node.
pub(crate) async fn delete(conn: &mut Conn, id: NodeId) -> Result<()> {
    conn.note(News::Nodes);
    query("DELETE FROM node WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(())
}
