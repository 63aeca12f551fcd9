//! Tables `quota` and `release_demand`: the limits of namespaces, and what they use.

use wharf_types::api::{Quota, QuotaUsed};
use wharf_types::route::RateLimit;
use wharf_types::{AppId, NamespaceId, ReleaseId};

use super::codec::{from_json, json, number, parse, parse_opt};
use super::query::{query, query_as, query_built, row_pieces, rows};
use super::{Conn, News, Result};
use crate::quota::{Demand, Resource, Standing};

/// None: the namespace has no limits.
pub(crate) async fn find(conn: &mut Conn, namespace: NamespaceId) -> Result<Option<Quota>> {
    let row: Option<(String,)> = query_as("SELECT limits FROM quota WHERE namespace = $1")
        .bind(namespace.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|(limits,)| from_json(&limits)).transpose()
}

/// The same, and nobody else gets it before this transaction has ended.
pub(crate) async fn lock(conn: &mut Conn, namespace: NamespaceId) -> Result<Option<Quota>> {
    let row: Option<(String,)> =
        query_as("UPDATE quota SET checks = checks + 1 WHERE namespace = $1 RETURNING limits")
            .bind(namespace.to_string())
            .fetch_optional(conn)
            .await?;
    row.map(|(limits,)| from_json(&limits)).transpose()
}

pub(crate) async fn put(conn: &mut Conn, namespace: NamespaceId, quota: &Quota) -> Result<()> {
    conn.note(News::Rates);
    query(
        "INSERT INTO quota (namespace, limits, checks) VALUES ($1, $2, 0)
         ON CONFLICT (namespace) DO UPDATE SET limits = excluded.limits",
    )
    .bind(namespace.to_string())
    .bind(json(quota))
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn delete(conn: &mut Conn, namespace: NamespaceId) -> Result<()> {
    conn.note(News::Rates);
    query("DELETE FROM quota WHERE namespace = $1").bind(namespace.to_string()).execute(conn).await?;
    Ok(())
}

/// What namespaces may have of each node, in the order of their names.
pub(crate) async fn rates(conn: &mut Conn) -> Result<Vec<RateLimit>> {
    let rows: Vec<(String, String)> = query_as(
        "SELECT namespace.name, quota.limits FROM quota JOIN namespace ON namespace.id = quota.namespace
         ORDER BY namespace.name",
    )
    .fetch_all(conn)
    .await?;
    let mut rates = Vec::new();
    for (name, limits) in rows {
        let Quota { requests_per_second, egress_bytes_per_second, memory_bytes, cpu_millis, .. } =
            from_json(&limits)?;
        let none = RateLimit::of(parse(&name)?);
        let limit = RateLimit {
            requests_per_second,
            egress_bytes_per_second,
            memory_bytes,
            cpu_millis,
            ..none.clone()
        };
        if limit != none {
            rates.push(limit);
        }
    }
    Ok(rates)
}

pub(crate) async fn put_demands(conn: &mut Conn, demands: &[(ReleaseId, Demand)]) -> Result<()> {
    for piece in row_pieces(demands) {
        let rows = rows(7, piece.len());
        let mut query = query_built(format!(
            "INSERT INTO release_demand (release, replicas, memory_bytes, cpu_millis, replicas_min, replicas_max, nodes)
             VALUES {rows} ON CONFLICT (release) DO NOTHING"
        ));
        for (release, demand) in piece {
            query = query
                .bind(release.to_string())
                .bind(i64::from(demand.replicas))
                .bind(bounded(demand.memory_bytes))
                .bind(i64::from(demand.cpu_millis))
                .bind(demand.range.map(|(min, _)| i64::from(min)))
                .bind(demand.range.map(|(_, max)| i64::from(max)))
                .bind(demand.nodes.map(i64::from));
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Says on how many nodes a global release would run.
pub(crate) async fn set_nodes(conn: &mut Conn, release: ReleaseId, nodes: Option<u32>) -> Result<()> {
    query("UPDATE release_demand SET nodes = $2 WHERE release = $1")
        .bind(release.to_string())
        .bind(nodes.map(i64::from))
        .execute(conn)
        .await?;
    Ok(())
}

/// Releases that apps of the namespace are on, and whose demand nobody has worked out yet.
pub(crate) async fn without_demand(conn: &mut Conn, namespace: NamespaceId) -> Result<Vec<ReleaseId>> {
    let rows: Vec<(String,)> = query_as(
        "SELECT app.target_release FROM app WHERE app.namespace = $1 AND app.target_release IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM release_demand WHERE release_demand.release = app.target_release)",
    )
    .bind(namespace.to_string())
    .fetch_all(conn)
    .await?;
    rows.iter().map(|(id,)| parse(id)).collect()
}

#[derive(sqlx::FromRow)]
struct OfApp {
    id: String,
    scaled_to: Option<i64>,
    autoscaled_to: Option<i64>,
    places: Option<String>,
    target_release: Option<String>,
    replicas_min: Option<i64>,
    replicas_max: Option<i64>,
    replicas: Option<i64>,
    memory_bytes: Option<i64>,
    cpu_millis: Option<i64>,
    nodes: Option<i64>,
}

impl OfApp {
    fn standing(self) -> Result<(AppId, Standing)> {
        let places = super::app::places(self.places.as_deref())?;
        let release: Option<ReleaseId> = parse_opt(self.target_release.as_deref())?;
        let least: Option<u32> = self.replicas_min.map(number).transpose()?;
        let most: Option<u32> = self.replicas_max.map(number).transpose()?;
        let demand = match self.replicas {
            Some(replicas) => Some(Demand {
                replicas: number(replicas)?,
                range: least.zip(most),
                nodes: self.nodes.map(number).transpose()?,
                memory_bytes: number(self.memory_bytes.unwrap_or(0))?,
                cpu_millis: number(self.cpu_millis.unwrap_or(0))?,
            }),
            None => None,
        };
        let standing = Standing {
            scaled_to: self.scaled_to.map(number).transpose()?,
            autoscaled_to: self.autoscaled_to.map(number).transpose()?,
            settled: release.filter(|release| places.of == Some(*release)).map(|_| places.count()),
            demand,
        };
        Ok((parse(&self.id)?, standing))
    }
}

/// The apps of a namespace, as far as they count.
pub(crate) async fn standings(conn: &mut Conn, namespace: NamespaceId) -> Result<Vec<(AppId, Standing)>> {
    let rows: Vec<OfApp> = query_as(
        "SELECT app.id, app.scaled_to, app.autoscaled_to, app.places, app.target_release,
             release_demand.replicas_min, release_demand.replicas_max,
             release_demand.replicas, release_demand.memory_bytes, release_demand.cpu_millis, release_demand.nodes
         FROM app LEFT JOIN release_demand ON release_demand.release = app.target_release WHERE app.namespace = $1",
    )
    .bind(namespace.to_string())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(OfApp::standing).collect()
}

/// What the namespace uses of these, and nothing of the others; releases without a demand count as nothing.
pub(crate) async fn used(conn: &mut Conn, namespace: NamespaceId, counted: &[Resource]) -> Result<QuotaUsed> {
    let of_apps = counted.iter().any(|resource| resource.is_of_apps());
    let apps = if of_apps { standings(conn, namespace).await? } else { Vec::new() };
    used_with(conn, namespace, &apps, counted).await
}

/// What it uses of these where its apps stand like this.
pub(crate) async fn used_with(
    conn: &mut Conn,
    namespace: NamespaceId,
    apps: &[(AppId, Standing)],
    counted: &[Resource],
) -> Result<QuotaUsed> {
    let mut used = QuotaUsed::default();
    let id = namespace.to_string();
    if counted.iter().any(|resource| resource.is_of_apps()) {
        for (_, app) in apps {
            app.add_to(&mut used);
        }
        add_jobs(conn, &id, &mut used).await?;
    }
    for resource in counted {
        match resource {
            Resource::Apps | Resource::Instances | Resource::Memory | Resource::Cpu => {}
            Resource::Volumes => used.volume_bytes = sum(conn, VOLUMES, &id).await?,
            Resource::Artifacts => {
                let artifacts = sum(conn, ARTIFACTS, &id).await?;
                used.artifact_bytes = artifacts.saturating_add(sum(conn, ARCHIVES, &id).await?);
            }
            Resource::Repositories => used.repository_bytes = sum(conn, REPOSITORIES, &id).await?,
            Resource::Secrets => used.secrets = super::secret::count(conn, namespace).await?,
        }
    }
    Ok(used)
}

const VOLUMES: &str = "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM volume WHERE namespace = $1";
const ARTIFACTS: &str = "SELECT CAST(COALESCE(SUM(artifact.bytes), 0) AS BIGINT) FROM namespace_artifact
     JOIN artifact ON artifact.digest = namespace_artifact.digest WHERE namespace_artifact.namespace = $1";
const ARCHIVES: &str = "SELECT CAST(COALESCE(SUM(archive.bytes), 0) AS BIGINT) FROM namespace_archive
     JOIN archive ON archive.digest = namespace_archive.digest WHERE namespace_archive.namespace = $1";
const REPOSITORIES: &str =
    "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM repository WHERE namespace = $1";

/// Adds what the jobs are to run that have not ended.
async fn add_jobs(conn: &mut Conn, namespace: &str, used: &mut QuotaUsed) -> Result<()> {
    let jobs: Vec<(i64, i64, i64)> = query_as(
        "SELECT instances, memory_bytes, cpu_millis FROM job WHERE namespace = $1 AND ended_at IS NULL",
    )
    .bind(namespace)
    .fetch_all(conn)
    .await?;
    for (instances, memory, cpu) in jobs {
        let (instances, memory, cpu): (u64, u64, u64) = (number(instances)?, number(memory)?, number(cpu)?);
        used.instances = used.instances.saturating_add(instances);
        used.memory_bytes = used.memory_bytes.saturating_add(memory.saturating_mul(instances));
        used.cpu_millis = used.cpu_millis.saturating_add(cpu.saturating_mul(instances));
    }
    Ok(())
}

async fn sum(conn: &mut Conn, query: &'static str, namespace: &str) -> Result<u64> {
    let (sum,): (i64,) = query_as(query).bind(namespace).fetch_one(conn).await?;
    number(sum)
}

fn bounded(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
