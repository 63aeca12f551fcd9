//! Statements, for whichever database a connection leads to.
//!
//! They look like those of sqlx, take the few types that both databases know, and become sqlx's own when it is known which of the
//! two they go to: nothing is converted that sqlx would not convert.

use std::marker::PhantomData;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Arguments, AssertSqlSafe, Database, Encode, Postgres, SqlSafeStr, SqlStr, Sqlite, Type};

use super::conn::{Conn, Link};

/// How long an answer may take. A database that went away without a word would never answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A statement whose rows nobody reads.
pub(crate) fn query(sql: &'static str) -> Query {
    Query { sql: sql.into_sql_str(), values: Vec::new() }
}

/// A statement whose rows become values of a type.
pub(crate) fn query_as<T: FromRow>(sql: &'static str) -> QueryAs<T> {
    QueryAs { query: query(sql), row: PhantomData }
}

/// The same for statements that were put together here, of nothing that comes from outside.
pub(super) fn query_built(sql: String) -> Query {
    Query { sql: AssertSqlSafe(sql).into_sql_str(), values: Vec::new() }
}

pub(super) fn query_as_built<T: FromRow>(sql: String) -> QueryAs<T> {
    QueryAs { query: query_built(sql), row: PhantomData }
}

/// What a list in a statement looks like: `$2, $3, $4` for three parameters from the second on.
pub(super) fn parameters(first: usize, count: usize) -> String {
    (first..first + count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

/// What the rows of an insertion look like: `($1, $2), ($3, $4)` for two rows of two columns.
pub(super) fn rows(columns: usize, count: usize) -> String {
    let row = |at: usize| format!("({})", parameters(at * columns + 1, columns));
    (0..count).map(row).collect::<Vec<_>>().join(", ")
}

/// The most that one statement is about.
const AT_ONCE: usize = 256;
/// The same of rows, each of which has several parameters: a connection keeps a program of some hundred octets for each of them.
const ROWS_AT_ONCE: usize = 128;
/// With so many parameters their names cost more than [`in_order`] does.
const IN_ORDER_FROM: usize = 8;

/// In pieces for one statement each. Their lengths are powers of two, so that there are few different statements, and a connection
/// parses each of them once.
pub(super) fn pieces<T>(all: &[T]) -> impl Iterator<Item = &[T]> {
    pieces_of(all, AT_ONCE)
}

/// The same for statements that write a row for each.
pub(super) fn row_pieces<T>(all: &[T]) -> impl Iterator<Item = &[T]> {
    pieces_of(all, ROWS_AT_ONCE)
}

fn pieces_of<T>(mut all: &[T], at_once: usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let most = all.len().min(at_once).checked_ilog2()?;
        let (piece, rest) = all.split_at(1 << most);
        all = rest;
        Some(piece)
    })
}

/// What can be read from a row of either database.
pub(crate) trait FromRow:
    for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T> FromRow for T where
    T: for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow> + Send + Unpin
{
}

/// A parameter.
pub(crate) enum Value {
    Number(Option<i64>),
    Bool(bool),
    Text(Option<String>),
    Octets(Vec<u8>),
}

macro_rules! value_from {
    ($($type:ty => |$value:ident| $made:expr;)+) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $made
            }
        }
    )+};
}

value_from! {
    i64 => |value| Self::Number(Some(value));
    Option<i64> => |value| Self::Number(value);
    bool => |value| Self::Bool(value);
    String => |value| Self::Text(Some(value));
    Option<String> => |value| Self::Text(value);
    &str => |value| Self::Text(Some(value.to_owned()));
    Option<&str> => |value| Self::Text(value.map(str::to_owned));
    &String => |value| Self::Text(Some(value.clone()));
    &Option<String> => |value| Self::Text(value.clone());
    &[u8] => |value| Self::Octets(value.to_vec());
    &Vec<u8> => |value| Self::Octets(value.clone());
}

#[must_use]
pub(crate) struct Query {
    sql: SqlStr,
    values: Vec<Value>,
}

/// What a statement did.
pub(crate) struct Done(u64);

impl Done {
    pub(crate) fn rows_affected(&self) -> u64 {
        self.0
    }
}

impl Query {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it before the next statement of the connection, or with the commit, together with others: on SQLite each trip to the thread of a
    /// connection costs more than most statements do. For what always has the same text, and cannot fail but with the database.
    pub(crate) async fn later(self, conn: &mut Conn) -> sqlx::Result<()> {
        conn.put_off(self).await
    }

    pub(crate) async fn execute(self, conn: &mut Conn) -> sqlx::Result<Done> {
        conn.catch_up().await?;
        let Self { sql, values } = self;
        Ok(Done(match conn.link() {
            Link::Sqlite(conn) => {
                let sql = in_order(sql, values.len());
                sqlx::query_with(sql, arguments::<Sqlite>(values)?).execute(conn).await?.rows_affected()
            }
            Link::Postgres(conn) => {
                in_time(sqlx::query_with(sql, arguments::<Postgres>(without_nul(values))?).execute(conn))
                    .await?
                    .rows_affected()
            }
        }))
    }
}

#[must_use]
pub(crate) struct QueryAs<T> {
    query: Query,
    row: PhantomData<T>,
}

impl<T: FromRow> QueryAs<T> {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.query = self.query.bind(value);
        self
    }

    pub(crate) async fn fetch_one(self, conn: &mut Conn) -> sqlx::Result<T> {
        self.fetch_optional(conn).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(crate) async fn fetch_optional(self, conn: &mut Conn) -> sqlx::Result<Option<T>> {
        conn.catch_up().await?;
        let Query { sql, values } = self.query;
        match conn.link() {
            Link::Sqlite(conn) => {
                let sql = in_order(sql, values.len());
                sqlx::query_as_with(sql, arguments::<Sqlite>(values)?).fetch_optional(conn).await
            }
            Link::Postgres(conn) => {
                in_time(
                    sqlx::query_as_with(sql, arguments::<Postgres>(without_nul(values))?)
                        .fetch_optional(conn),
                )
                .await
            }
        }
    }

    pub(crate) async fn fetch_all(self, conn: &mut Conn) -> sqlx::Result<Vec<T>> {
        conn.catch_up().await?;
        let Query { sql, values } = self.query;
        match conn.link() {
            Link::Sqlite(conn) => {
                let sql = in_order(sql, values.len());
                sqlx::query_as_with(sql, arguments::<Sqlite>(values)?).fetch_all(conn).await
            }
            Link::Postgres(conn) => {
                in_time(sqlx::query_as_with(sql, arguments::<Postgres>(without_nul(values))?).fetch_all(conn))
                    .await
            }
        }
    }
}

/// Runs statements one after the other, and stops at the first that fails.
pub(super) async fn run_all(queries: Vec<Query>, link: Link<'_>) -> sqlx::Result<()> {
    match link {
        Link::Sqlite(conn) => {
            let Query { sql, values } = joined(queries);
            sqlx::query_with(sql, arguments::<Sqlite>(values)?).execute(conn).await?;
        }
        Link::Postgres(conn) => {
            for Query { sql, values } in queries {
                let arguments = arguments::<Postgres>(without_nul(values))?;
                in_time(sqlx::query_with(sql, arguments).execute(&mut *conn)).await?;
            }
        }
    }
    Ok(())
}

/// Several statements as one text, in which each parameter has a number of its own. PostgreSQL knows no such thing.
fn joined(queries: Vec<Query>) -> Query {
    let mut sql = String::new();
    let mut values = Vec::new();
    for query in queries {
        if !sql.is_empty() {
            sql.push_str(";\n");
        }
        renumbered(query.sql.as_str(), values.len(), &mut sql);
        values.extend(query.values);
    }
    Query { sql: AssertSqlSafe(sql).into_sql_str(), values }
}

/// Appends a statement whose parameters `$1`, `$2` … come after `by` others.
fn renumbered(statement: &str, by: usize, to: &mut String) {
    let mut parts = statement.split('$');
    to.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let number = part[..digits].parse().unwrap_or(0_usize);
        to.push_str(&format!("${}", number + by));
        to.push_str(&part[digits..]);
    }
}

/// The same statement without the names of its parameters, if they stand in their order. For SQLite, which finds the name of each by looking at
/// those before it: with a hundred rows that is most of the work.
fn in_order(sql: SqlStr, values: usize) -> SqlStr {
    if values < IN_ORDER_FROM {
        return sql;
    }
    let mut parts = sql.as_str().split('$');
    let mut unnamed = String::with_capacity(sql.as_str().len());
    unnamed.push_str(parts.next().unwrap_or_default());
    for (place, part) in parts.enumerate() {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        if part[..digits].parse() != Ok(place + 1) {
            return sql;
        }
        unnamed.push('?');
        unnamed.push_str(&part[digits..]);
    }
    AssertSqlSafe(unnamed).into_sql_str()
}

fn arguments<DB: Database>(values: Vec<Value>) -> sqlx::Result<DB::Arguments>
where
    for<'q> Option<i64>: Encode<'q, DB> + Type<DB>,
    for<'q> bool: Encode<'q, DB> + Type<DB>,
    for<'q> Option<String>: Encode<'q, DB> + Type<DB>,
    for<'q> Vec<u8>: Encode<'q, DB> + Type<DB>,
{
    let mut arguments = DB::Arguments::default();
    arguments.reserve(values.len(), 0);
    for value in values {
        match value {
            Value::Number(value) => arguments.add(value),
            Value::Bool(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Octets(value) => arguments.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// PostgreSQL has no text with NUL in it. Names have none; what a guest has said last may, and its report must not be refused for ever.
fn without_nul(mut values: Vec<Value>) -> Vec<Value> {
    for value in &mut values {
        if let Value::Text(Some(text)) = value
            && text.contains('\0')
        {
            *text = text.replace('\0', "\u{fffd}");
        }
    }
    values
}

/// For what goes over a network.
pub(super) async fn in_time<T>(answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_run_together_keep_their_own_parameters() {
        let one = query("UPDATE a SET b = $2 WHERE c = $1").bind(1).bind("x");
        let other = query("UPDATE a SET d = $1 WHERE e = $12 OR e = $1").bind(2);
        let Query { sql, values } = joined(vec![one, query("DELETE FROM f"), other]);
        assert_eq!(
            sql.as_str(),
            "UPDATE a SET b = $2 WHERE c = $1;\nDELETE FROM f;\nUPDATE a SET d = $3 WHERE e = $14 OR e = $3"
        );
        assert_eq!(values.len(), 3);
    }

    #[test]
    fn parameters_lose_their_names_only_where_they_stand_in_order_and_are_many() {
        let unnamed = |sql: &'static str, values| in_order(sql.into_sql_str(), values).as_str().to_owned();
        assert_eq!(
            unnamed("INSERT INTO a VALUES ($1, $2), ($3, $4)", 8),
            "INSERT INTO a VALUES (?, ?), (?, ?)"
        );
        assert_eq!(
            unnamed("DELETE FROM a WHERE b = $1 AND c IN ($2)", 8),
            "DELETE FROM a WHERE b = ? AND c IN (?)"
        );
        for same in ["DELETE FROM a", "UPDATE a SET b = $2 WHERE c = $1", "UPDATE a SET b = $1 WHERE c = $1"]
        {
            assert_eq!(unnamed(same, 8), same);
        }
        assert_eq!(unnamed("DELETE FROM a WHERE b = $1", 1), "DELETE FROM a WHERE b = $1");
    }

    #[test]
    fn pieces_are_everything_in_its_order_and_of_few_lengths() {
        for count in 0..1000 {
            let all: Vec<usize> = (0..count).collect();
            let pieces: Vec<&[usize]> = pieces(&all).collect();
            assert_eq!(pieces.concat(), all);
            assert!(pieces.iter().all(|piece| piece.len().is_power_of_two() && piece.len() <= AT_ONCE));
            assert!(pieces.len() <= count / AT_ONCE + 9, "{count} in {} pieces", pieces.len());
            assert_eq!(row_pieces(&all).collect::<Vec<_>>().concat(), all);
            assert!(row_pieces(&all).all(|piece| piece.len() <= ROWS_AT_ONCE));
        }
    }

    #[test]
    fn rows_number_their_parameters_one_after_the_other() {
        assert_eq!(rows(2, 3), "($1, $2), ($3, $4), ($5, $6)");
        assert_eq!(rows(1, 1), "($1)");
    }
}
