//! All rows of a database, taken out of one and put into another, of either kind.
//!
//! Which tables are Wharf's is read in the migrations, so that none can be forgotten and none of somebody else is touched. Which columns they
//! have, and which refer to which, is asked of the database. A row goes as a JSON list, which both databases make themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sqlx::AssertSqlSafe;

use super::conn::{Conn, Link};
use super::query::{Value, query_as, query_built};
use super::{MIGRATOR, Result, StoreError, Tx};

/// What is each database's own: its version of the tables, who leads, and what other processes were told.
const NOT_TAKEN: [&str; 4] = ["_sqlx_migrations", "change", "lease", "server"];
/// Every table that a version of Wharf has had.
static OWN: LazyLock<BTreeSet<&'static str>> =
    LazyLock::new(|| MIGRATOR.iter().flat_map(|migration| made_by(migration.sql.as_str())).collect());
/// Rows of one statement: their values have to fit into the parameters that a statement may have.
const ROWS: usize = 100;

/// A table as it was when it was taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    columns: Vec<(String, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Number,
    Text,
    Bool,
    /// As hexadecimal digits.
    Octets,
}

impl Kind {
    fn of(declared: &str) -> Option<Self> {
        Some(match declared.to_ascii_uppercase().as_str() {
            "BIGINT" => Self::Number,
            "TEXT" => Self::Text,
            "BOOLEAN" => Self::Bool,
            "BYTEA" => Self::Octets,
            _ => return None,
        })
    }
}

/// The tables that the statements of a migration make.
fn made_by(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.lines().filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split([' ', '(']).next())
}

/// All tables that stand beside ours in the database, and ours.
async fn names(conn: &mut Conn) -> Result<Vec<String>> {
    let is_postgres = matches!(conn.link(), Link::Postgres(_));
    let names: Vec<(String,)> = query_as(if is_postgres {
        "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename"
    } else {
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    })
    .fetch_all(conn)
    .await?;
    Ok(names.into_iter().map(|(name,)| name).filter(|name| !NOT_TAKEN.contains(&name.as_str())).collect())
}

/// The tables that are not Wharf's: nothing is taken out of them, or put in.
pub(crate) async fn foreign(conn: &mut Conn) -> Result<Vec<String>> {
    Ok(names(conn).await?.into_iter().filter(|name| !OWN.contains(name.as_str())).collect())
}

/// The tables in an order in which each comes after those that it refers to.
pub(crate) async fn tables(conn: &mut Conn) -> Result<Vec<Table>> {
    let is_postgres = matches!(conn.link(), Link::Postgres(_));
    let mut waiting: BTreeMap<String, (Table, BTreeSet<String>)> = BTreeMap::new();
    for name in names(conn).await?.into_iter().filter(|name| OWN.contains(name.as_str())) {
        let columns: Vec<(String, String)> = query_as(if is_postgres {
            "SELECT CAST(column_name AS TEXT), CAST(data_type AS TEXT) FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
        } else {
            "SELECT name, type FROM pragma_table_info($1) ORDER BY cid"
        })
        .bind(&name)
        .fetch_all(conn)
        .await?;
        let parents: Vec<(String,)> = query_as(if is_postgres {
            "SELECT CAST(parent.relname AS TEXT) FROM pg_constraint JOIN pg_class AS parent ON parent.oid = pg_constraint.confrelid
             WHERE pg_constraint.contype = 'f' AND pg_constraint.conrelid = CAST($1 AS regclass)"
        } else {
            "SELECT \"table\" FROM pragma_foreign_key_list($1)"
        })
        .bind(&name)
        .fetch_all(conn)
        .await?;
        let columns = columns.into_iter().map(|(column, declared)| match Kind::of(&declared) {
            Some(kind) => Ok((column, kind)),
            None => Err(StoreError::Corrupt(format!(
                "the column `{column}` of the table `{name}` has the type {declared}, which nobody here knows"
            ))),
        });
        let table = Table { name: name.clone(), columns: columns.collect::<Result<_>>()? };
        waiting.insert(name, (table, parents.into_iter().map(|(parent,)| parent).collect()));
    }
    let mut ordered: Vec<Table> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let before = ordered.len();
        let is_free = |_: &String, (_, parents): &mut (Table, BTreeSet<String>)| {
            parents.iter().all(|parent| ordered.iter().any(|table| table.name == *parent))
        };
        let free: Vec<Table> = waiting.extract_if(.., is_free).map(|(_, (table, _))| table).collect();
        ordered.extend(free);
        if ordered.len() == before {
            return Err(StoreError::Corrupt("tables refer to each other in a circle".to_owned()));
        }
    }
    Ok(ordered)
}

/// The newest change of the tables that the database has.
pub(crate) async fn version(conn: &mut Conn) -> Result<i64> {
    let (version,): (i64,) =
        query_as("SELECT COALESCE(max(version), 0) FROM _sqlx_migrations").fetch_one(conn).await?;
    Ok(version)
}

/// Whether nobody has used the database yet.
pub(crate) async fn is_unused(conn: &mut Conn) -> Result<bool> {
    let (rows,): (i64,) = query_as(
        "SELECT (SELECT count(*) FROM namespace) + (SELECT count(*) FROM token)
             + (SELECT count(*) FROM counter WHERE value > 0 AND name <> 'change')",
    )
    .fetch_one(conn)
    .await?;
    Ok(rows == 0)
}

/// The rows of a table, each as a JSON list in the order of its columns.
pub(crate) fn rows<'a>(conn: &'a mut Conn, table: &Table) -> BoxStream<'a, Result<String>> {
    let is_postgres = matches!(conn.link(), Link::Postgres(_));
    let columns: Vec<String> =
        table.columns.iter().map(|(name, kind)| expression(is_postgres, name, *kind)).collect();
    let make = if is_postgres { "json_build_array" } else { "json_array" };
    let cast = if is_postgres { "::text" } else { "" };
    let sql = format!("SELECT {make}({}){cast} FROM \"{}\"", columns.join(", "), table.name);
    let sql = AssertSqlSafe(sql);
    match conn.link() {
        Link::Sqlite(conn) => Box::pin(sqlx::query_scalar(sql).fetch(conn).map_err(StoreError::from)),
        Link::Postgres(conn) => Box::pin(sqlx::query_scalar(sql).fetch(conn).map_err(StoreError::from)),
    }
}

fn expression(is_postgres: bool, column: &str, kind: Kind) -> String {
    match (kind, is_postgres) {
        (Kind::Octets, true) => format!("encode(\"{column}\", 'hex')"),
        (Kind::Octets, false) => format!("lower(hex(\"{column}\"))"),
        (Kind::Bool, false) => {
            format!(
                "CASE WHEN \"{column}\" IS NULL THEN NULL WHEN \"{column}\" THEN json('true') ELSE json('false') END"
            )
        }
        _ => format!("\"{column}\""),
    }
}

/// Puts rows into a table, as [`rows`] has taken them out.
pub(crate) async fn put(conn: &mut Conn, table: &Table, rows: &[String]) -> Result<()> {
    let names: Vec<String> = table.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    for rows in rows.chunks(ROWS) {
        let width = table.columns.len();
        let places =
            (0..rows.len()).map(|row| format!("({})", super::query::parameters(row * width + 1, width)));
        let places = places.collect::<Vec<_>>().join(", ");
        let mut statement =
            query_built(format!("INSERT INTO \"{}\" ({}) VALUES {places}", table.name, names.join(", ")));
        for row in rows {
            let cells: Vec<Json> = serde_json::from_str(row).map_err(|_| unreadable(table))?;
            if cells.len() != width {
                return Err(unreadable(table));
            }
            for ((_, kind), cell) in table.columns.iter().zip(cells) {
                statement = statement.bind(value(*kind, cell).ok_or_else(|| unreadable(table))?);
            }
        }
        statement.execute(conn).await?;
    }
    Ok(())
}

/// Takes the rows away that every database has from its beginning.
pub(crate) async fn clear(conn: &mut Conn, tables: &[Table]) -> Result<()> {
    for table in tables.iter().rev() {
        query_built(format!("DELETE FROM \"{}\"", table.name)).execute(conn).await?;
    }
    Ok(())
}

pub(crate) async fn count(conn: &mut Conn, table: &Table) -> Result<u64> {
    let (count,): (i64,) = super::query::query_as_built(format!("SELECT count(*) FROM \"{}\"", table.name))
        .fetch_one(conn)
        .await?;
    super::codec::number(count)
}

/// Ends what was put in. Each database's own counter of changes begins anew: nobody has heard of any.
pub(crate) async fn finish(mut tx: Tx) -> Result<()> {
    super::query::query("UPDATE counter SET value = 0 WHERE name = 'change'").execute(&mut tx).await?;
    tx.commit().await
}

fn unreadable(table: &Table) -> StoreError {
    StoreError::Corrupt(format!("a row of the table `{}` is not as the table was described", table.name))
}

fn value(kind: Kind, cell: Json) -> Option<Value> {
    Some(match (kind, cell) {
        (Kind::Number, Json::Null) => Value::Number(None),
        (Kind::Number, Json::Number(number)) => Value::Number(Some(number.as_i64()?)),
        (Kind::Text, Json::Null) => Value::Text(None),
        (Kind::Text, Json::String(text)) => Value::Text(Some(text)),
        (Kind::Bool, Json::Bool(value)) => Value::Bool(value),
        (Kind::Octets, Json::String(hex)) => Value::Octets(octets(&hex)?),
        _ => return None,
    })
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query;
    use crate::tests::database;

    #[tokio::test]
    async fn the_migrations_say_which_tables_are_ours_and_others_are_passed_over() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        assert_eq!(foreign(&mut tx).await.unwrap(), Vec::<String>::new());
        let ours = tables(&mut tx).await.unwrap();
        let names = names(&mut tx).await.unwrap();
        assert!(ours.len() > 30 && ours.len() == names.len(), "{names:?}");
        query("CREATE TABLE inventory (number INTEGER)").execute(&mut tx).await.unwrap();
        assert_eq!(foreign(&mut tx).await.unwrap(), ["inventory"]);
        assert_eq!(tables(&mut tx).await.unwrap(), ours);
    }
}
