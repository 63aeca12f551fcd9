//! Table `node`: what workers said of themselves when they came.

use wharf_types::node::NodeRegistration;
use wharf_types::{NodeId, Timestamp};

use super::codec::{from_json, json, number, parse};
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
}

pub(crate) async fn register(
    conn: &mut Conn,
    id: NodeId,
    node: &NodeRegistration,
    now: Timestamp,
) -> Result<()> {
    conn.note(News::Nodes);
    query(
        "INSERT INTO node (id, hostname, memory_bytes, cpus, version, labels, os, arch, role, registered_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, memory_bytes = excluded.memory_bytes,
             cpus = excluded.cpus, version = excluded.version, labels = excluded.labels, os = excluded.os,
             arch = excluded.arch, role = excluded.role, registered_at = excluded.registered_at",
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
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<(NodeId, NodeRegistration)>> {
    let rows: Vec<Row> = query_as(
        "SELECT id, hostname, memory_bytes, cpus, version, labels, os, arch, role FROM node ORDER BY id",
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
            };
            Ok((parse(&row.id)?, registration))
        })
        .collect()
}
