//! Data directories of earlier builds are brought up to date with all that they hold.

use std::borrow::Cow;

use sqlx::Connection;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use wharf_types::AppName;

use crate::store::{self, Location, Store};

/// The tables as they were after the first `count` migrations.
fn first(count: usize) -> Migrator {
    let all = sqlx::migrate!("./migrations");
    Migrator { migrations: Cow::Owned(all.migrations[..count].to_vec()), ..Migrator::DEFAULT }
}

#[tokio::test]
async fn what_scale_and_env_had_set_before_they_could_be_reset_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wharf.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    first(5).run(&mut old).await.unwrap();
    let rows = r#"
        INSERT INTO namespace VALUES ('01890000-0000-7000-8000-000000000001', 'default', 0);
        INSERT INTO artifact VALUES ('sha256:aa', 1, '"http-proxy"', '[]', 0);
        INSERT INTO app VALUES ('01890000-0000-7000-8000-000000000002', '01890000-0000-7000-8000-000000000001', 'scaled',
            FALSE, 5, TRUE, '{"A":"set","B":null}', 1, NULL, NULL, 1, 0, 0);
        INSERT INTO app VALUES ('01890000-0000-7000-8000-000000000003', '01890000-0000-7000-8000-000000000001', 'plain',
            FALSE, 2, FALSE, '{}', 0, NULL, NULL, 2, 0, 0);
        INSERT INTO release VALUES ('01890000-0000-7000-8000-000000000004', '01890000-0000-7000-8000-000000000002', 1,
            'sha256:aa', '{}', 'deploy', 'admin', TRUE, 0);
        INSERT INTO rollout VALUES ('01890000-0000-7000-8000-000000000005', '01890000-0000-7000-8000-000000000002', NULL,
            '01890000-0000-7000-8000-000000000004', 100, FALSE, 0, 0, 0, NULL, 0, NULL, NULL);
        INSERT INTO change VALUES (1, '01890000-0000-7000-8000-000000000002');"#;
    sqlx::raw_sql(rows).execute(&mut old).await.unwrap();
    old.close().await.unwrap();

    let store = Store::open(Location::File(&file)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let find = async |tx: &mut store::Conn, name: &str| {
        let name: AppName = name.parse().unwrap();
        store::app::find(tx, &"default".parse().unwrap(), &name).await.unwrap().unwrap()
    };
    let scaled = find(&mut tx, "scaled").await;
    assert_eq!(scaled.scaled_to, Some(5));
    assert_eq!(
        (scaled.env_overrides["A"].as_deref(), scaled.env_overrides["B"].as_deref()),
        (Some("set"), None)
    );
    assert_eq!(find(&mut tx, "plain").await.scaled_to, None);
    assert!(!store::rollout::newest(&mut tx, scaled.id).await.unwrap().unwrap().view.renews);
}

#[tokio::test]
async fn what_guests_have_kept_is_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wharf.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let before = sqlx::migrate!("./migrations").iter().take_while(|migration| migration.version < 80).count();
    first(before).run(&mut old).await.unwrap();
    let rows = r#"
        INSERT INTO namespace (id, name, created_at) VALUES
            ('01890000-0000-7000-8000-000000000001', 'kept', 0), ('01890000-0000-7000-8000-000000000002', 'none', 0);
        INSERT INTO app (id, namespace, name, deleting, env_overrides, last_release, revision, created_at, updated_at) VALUES
            ('01890000-0000-7000-8000-000000000003', '01890000-0000-7000-8000-000000000001', 'app', FALSE, '{}', 0, 1, 0, 0);
        INSERT INTO kv_entry (namespace, app, bucket, key, value) VALUES
            ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000003', 'default', 'a', x'00'),
            ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000003', 'other', 'ä', x'');
        INSERT INTO kv_usage VALUES
            ('01890000-0000-7000-8000-000000000001', 4), ('01890000-0000-7000-8000-000000000002', 0);"#;
    sqlx::raw_sql(rows).execute(&mut old).await.unwrap();
    old.close().await.unwrap();

    let store = Store::open(Location::File(&file)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    for (name, bytes) in [("kept", 2 * 256 + 7 + 5 + 1 + 1 + 2), ("none", 0)] {
        let id = store::namespace::find_id(&mut tx, &name.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(store::keyvalue::usage(&mut tx, id).await.unwrap(), bytes, "{name}");
    }
}
