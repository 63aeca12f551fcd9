//! A client of PostgreSQL: one connection, one query at a time, and values as text.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Message};
use postgres_protocol::message::frontend;

use crate::error::{Error, Result};
use crate::variable;
use crate::wire::Wire;

/// Until the next message of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the database is, and who asks.
pub struct Login {
    pub address: String,
    pub user: String,
    pub database: String,
    pub password: String,
}

impl Login {
    /// - `DB_ADDR`: host and port. Default `db:5432`.
    /// - `DB_USER`, `DB_NAME`: the user and the database. Default `postgres`, both.
    /// - `DB_PASSWORD`: the user's password. Without it, the server has to take the user's word.
    pub fn from_variables() -> Self {
        Self {
            address: variable("DB_ADDR", "db:5432"),
            user: variable("DB_USER", "postgres"),
            database: variable("DB_NAME", "postgres"),
            // A file of one line is the usual source of it.
            password: variable("DB_PASSWORD", "").trim_end_matches(['\r', '\n']).to_owned(),
        }
    }
}

/// A value, or NULL.
pub type Value = Option<String>;

pub struct Postgres {
    wire: Wire,
}

impl Postgres {
    pub async fn connect(login: &Login) -> Result<Self> {
        let mut connection = Self { wire: Wire::connect(&login.address).await? };
        connection.log_in(login).await?;
        Ok(connection)
    }

    /// Runs statements that have no parameters, and answers nothing.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        self.send(|out| frontend::query(sql, out)).await?;
        self.answer().await.map(drop)
    }

    /// Runs one statement with values for `$1`, `$2` and so on.
    pub async fn query(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Vec<Value>>> {
        self.send(|out| {
            frontend::parse("", sql, [], out)?;
            bind(values, out)?;
            frontend::execute("", 0, out)?;
            frontend::sync(out);
            Ok(())
        })
        .await?;
        self.answer().await
    }

    async fn log_in(&mut self, login: &Login) -> Result<()> {
        let parameters = [
            ("user", login.user.as_str()),
            ("database", &login.database),
            ("application_name", "voting-app"),
            ("client_encoding", "UTF8"),
        ];
        self.send(|out| frontend::startup_message(parameters, out)).await?;
        match self.next().await? {
            Message::AuthenticationOk => {}
            Message::AuthenticationSasl(body) => {
                let mut mechanisms = body.mechanisms();
                let is_known = mechanisms.any(|mechanism| Ok(mechanism == SCRAM_SHA_256)).unwrap_or(false);
                if !is_known {
                    return Err(self.wire.unexpected("it has no SCRAM-SHA-256"));
                }
                self.prove(login).await?;
            }
            _ => return Err(self.wire.unexpected("it asks for another proof than SCRAM-SHA-256")),
        }
        self.answer().await.map(drop)
    }

    /// Proves to know the password, and has the server prove the same, by SCRAM-SHA-256.
    async fn prove(&mut self, login: &Login) -> Result<()> {
        let mut scram = ScramSha256::new(login.password.as_bytes(), ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
        let Message::AuthenticationSaslContinue(challenge) = self.next().await? else {
            return Err(self.wire.unexpected("it sends no challenge"));
        };
        scram.update(challenge.data()).map_err(|_| self.wire.unexpected("its challenge is not one"))?;
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        let Message::AuthenticationSaslFinal(proof) = self.next().await? else {
            return Err(self.wire.unexpected("it sends no proof"));
        };
        scram.finish(proof.data()).map_err(|_| self.wire.unexpected("it does not know the password"))?;
        match self.next().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.wire.unexpected("it asks for a second proof")),
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        let mut out = BytesMut::new();
        write(&mut out).map_err(|_| self.wire.unexpected("a query cannot be sent"))?;
        self.wire.send(&out).await
    }

    /// All rows up to where the server is ready for the next query.
    async fn answer(&mut self) -> Result<Vec<Vec<Value>>> {
        let mut rows = Vec::new();
        loop {
            match self.next().await? {
                Message::DataRow(row) => {
                    let values = values(&row).ok_or_else(|| self.wire.unexpected("a row is not text"))?;
                    rows.push(values);
                }
                Message::ReadyForQuery(_) => return Ok(rows),
                // Descriptions, completions and keys say nothing that this client needs.
                _ => {}
            }
        }
    }

    /// The next message that is about what was asked.
    async fn next(&mut self) -> Result<Message> {
        loop {
            match self.wire.receive(ANSWER_TIMEOUT, Message::parse).await? {
                Message::ErrorResponse(body) => return Err(self.refused(body.fields())),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                message => return Ok(message),
            }
        }
    }

    fn refused(&self, mut fields: ErrorFields<'_>) -> Error {
        let (mut code, mut message) = (String::new(), String::new());
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes());
            match field.type_() {
                b'C' => code = text.into_owned(),
                b'M' => message = text.into_owned(),
                _ => {}
            }
        }
        self.wire.refused(&code, &message)
    }
}

fn bind(values: &[&str], out: &mut BytesMut) -> std::io::Result<()> {
    const TEXT: i16 = 0;
    let value = |value: &&str, out: &mut BytesMut| {
        out.extend_from_slice(value.as_bytes());
        Ok(IsNull::No)
    };
    frontend::bind("", "", [TEXT], values, value, [TEXT], out).map_err(|error| match error {
        frontend::BindError::Conversion(error) => std::io::Error::other(error),
        frontend::BindError::Serialization(error) => error,
    })
}

/// None: a value is not UTF-8, or not in the row.
fn values(row: &DataRowBody) -> Option<Vec<Value>> {
    let buffer: &Bytes = row.buffer_bytes();
    let mut ranges = row.ranges();
    let mut values = Vec::new();
    while let Some(range) = ranges.next().ok()? {
        let value = match range {
            Some(range) => Some(String::from_utf8(buffer.get(range)?.to_vec()).ok()?),
            None => None,
        };
        values.push(value);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_row_of_texts_and_nothing_is_read() {
        // Two columns: `42`, and NULL.
        let octets = [&b"D\0\0\0\x10\0\x02\0\0\0\x0242"[..], b"\xff\xff\xff\xff"].concat();
        let Some(Message::DataRow(row)) = Message::parse(&mut BytesMut::from(&octets[..])).unwrap() else {
            panic!("this is a row");
        };
        assert_eq!(values(&row), Some(vec![Some("42".to_owned()), None]));
    }

    #[test]
    fn a_message_that_arrives_in_pieces_is_waited_for() {
        let whole = b"Z\0\0\0\x05I";
        for length in 0..whole.len() {
            assert!(Message::parse(&mut BytesMut::from(&whole[..length])).unwrap().is_none(), "{length}");
        }
    }

    #[test]
    fn values_are_bound_as_text() {
        let mut out = BytesMut::new();
        bind(&["a", ""], &mut out).unwrap();
        assert_eq!(&out[..], b"B\0\0\0\x19\0\0\0\x01\0\0\0\x02\0\0\0\x01a\0\0\0\0\0\x01\0\0");
    }
}
