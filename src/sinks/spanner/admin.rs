//! Creates a database: for the emulator, which starts empty, and for tests.

use gcloud_gax::conn::Environment;
use gcloud_gax::grpc::{Code, Status};
use gcloud_googleapis::spanner::admin::database::v1::{CreateDatabaseRequest, UpdateDatabaseDdlRequest};
use gcloud_googleapis::spanner::admin::instance::v1::{CreateInstanceRequest, Instance};
use gcloud_spanner::admin::AdminClientConfig;
use gcloud_spanner::admin::client::Client;

use super::failure::{Failure, chain, judge};
use crate::sinks::SinkError;

/// Project, instance and database of `projects/P/instances/I/databases/D`.
///
/// # Errors
/// `Config`: the name has another form.
pub(super) fn parts(database: &str) -> Result<(&str, &str, &str), SinkError> {
    let words: Vec<&str> = database.split('/').collect();
    match words[..] {
        ["projects", project, "instances", instance, "databases", name]
            if [project, instance, name].iter().all(|part| !part.is_empty()) =>
        {
            Ok((project, instance, name))
        }
        _ => Err(SinkError::Config {
            message: format!(
                "`{database}` is no Spanner database: write `projects/P/instances/I/databases/D`"
            ),
            column: None,
        }),
    }
}

/// Creates the database and runs `ddl`, one statement each. What exists already stays as it is. On an emulator the
/// instance is created too; a real instance costs money, so it must exist.
///
/// # Errors
/// `Retry`: the server cannot be reached. `Config`: it refused.
pub async fn create_database(
    database: &str,
    emulator: Option<&str>,
    ddl: &[String],
) -> Result<(), SinkError> {
    let (project, instance, name) = parts(database)?;
    let mut config = AdminClientConfig::default();
    match emulator {
        Some(host) => config.environment = Environment::Emulator(host.to_owned()),
        None => config = config.with_auth().await.map_err(|e| super::login(&e))?,
    }
    let client = Box::pin(Client::new(config)).await.map_err(|e| SinkError::Retry {
        message: format!("Spanner is not reachable: {}", chain(&e)),
        after: None,
    })?;
    if emulator.is_some() {
        let request = CreateInstanceRequest {
            parent: format!("projects/{project}"),
            instance_id: instance.to_owned(),
            instance: Some(Instance {
                name: format!("projects/{project}/instances/{instance}"),
                config: format!("projects/{project}/instanceConfigs/emulator-config"),
                display_name: instance.to_owned(),
                node_count: 1,
                ..Instance::default()
            }),
        };
        match Box::pin(client.instance().create_instance(request, Some(super::retry()))).await {
            Ok(mut operation) => drop(operation.wait(None).await.map_err(refused)?),
            Err(status) => existing(status)?,
        }
    }
    let request = CreateDatabaseRequest {
        parent: format!("projects/{project}/instances/{instance}"),
        create_statement: format!("CREATE DATABASE `{name}`"),
        ..CreateDatabaseRequest::default()
    };
    match Box::pin(client.database().create_database(request, Some(super::retry()))).await {
        Ok(mut operation) => drop(operation.wait(None).await.map_err(refused)?),
        Err(status) => existing(status)?,
    }
    for statement in ddl {
        let request = UpdateDatabaseDdlRequest {
            database: database.to_owned(),
            statements: vec![statement.clone()],
            ..UpdateDatabaseDdlRequest::default()
        };
        let done = match Box::pin(client.database().update_database_ddl(request, Some(super::retry()))).await
        {
            Ok(mut operation) => operation.wait(None).await.map(drop),
            Err(status) => Err(status),
        };
        done.or_else(existing)?;
    }
    Ok(())
}

/// The statements of a DDL file, separated by `;`, without `--` comments. Neither may be inside a string.
#[must_use]
pub fn statements(sql: &str) -> Vec<String> {
    let code: Vec<&str> =
        sql.lines().map(|line| line.split("--").next().unwrap_or(line).trim_end()).collect();
    code.join("\n").split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// It is no error if it exists already.
fn existing(status: Status) -> Result<(), SinkError> {
    let duplicate = status.message().contains("Duplicate name in schema");
    if status.code() == Code::AlreadyExists || duplicate { Ok(()) } else { Err(refused(status)) }
}

fn refused(status: Status) -> SinkError {
    match judge(&status.into()) {
        Failure::Other(SinkError::Refused { message }) | Failure::Unauthenticated(message) => {
            SinkError::Config { message, column: None }
        }
        Failure::Other(other) => other,
        Failure::SessionLost(message) | Failure::Unresponsive(message) => {
            SinkError::Retry { message, after: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ddl_file_is_its_statements() {
        let sql = "-- a table; really\nCREATE TABLE A (\n  X INT64, -- the x\n) PRIMARY KEY (X);\n\nCREATE INDEX B ON A (X);\n";
        assert_eq!(
            statements(sql),
            ["CREATE TABLE A (\n  X INT64,\n) PRIMARY KEY (X)", "CREATE INDEX B ON A (X)"]
        );
        assert_eq!(statements(include_str!("../../../topology/account-sync.sql")).len(), 1);
    }

    #[test]
    fn a_database_has_three_parts() {
        assert_eq!(parts("projects/p/instances/i/databases/d").ok(), Some(("p", "i", "d")));
        for bad in [
            "",
            "d",
            "projects/p/instances/i",
            "projects/p/instances/i/databases/",
            "projects/p/instances/i/databases/d/e",
        ] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
