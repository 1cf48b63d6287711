//! The rules for a node's configuration, alone and between keys. Pure: the file's values in, the
//! checked configuration or the first problem out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ottla_model::{NodeId, limits};

use super::endpoint::Endpoint;
use super::file::{ConfigFile, RoleName};
use super::node_config::{
    Advertise, BrokerSettings, ControllerSettings, Limits, Listen, LogSettings, NodeConfig, Roles,
    Voter,
};

/// A key, as a path, and what is wrong with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub key: String,
    pub message: String,
}

fn problem<T>(key: impl Into<String>, message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        key: key.into(),
        message: message.into(),
    })
}

/// Checks the whole file.
pub(super) fn check(file: &ConfigFile) -> Result<NodeConfig, Problem> {
    let id = node_id("node.id", file.node.id)?;
    let roles = roles(&file.node.roles)?;
    let Some(data_dir) = file.node.data_dir.clone() else {
        return problem(
            "node.data_dir",
            "is missing; name the directory where the node keeps its data",
        );
    };
    if data_dir.as_os_str().is_empty() {
        return problem("node.data_dir", "must not be empty");
    }
    let rack = file.node.rack.clone();
    if rack.as_deref() == Some("") {
        return problem("node.rack", "must not be empty; leave it out instead");
    }
    let listen = listen(file, roles)?;
    Ok(NodeConfig {
        id,
        roles,
        data_dir,
        rack,
        advertise: advertise(file, roles, listen)?,
        listen,
        controllers: voters(file, id, roles)?,
        controller: controller(file)?,
        broker: broker(file)?,
        log: log(file)?,
        limits: client_limits(file)?,
    })
}

fn node_id(key: &str, id: i32) -> Result<NodeId, Problem> {
    if id < 0 {
        return problem(key, format!("{id} is no node id; use a number from 0"));
    }
    Ok(NodeId(id))
}

fn roles(names: &[RoleName]) -> Result<Roles, Problem> {
    let roles = Roles {
        controller: names.contains(&RoleName::Controller),
        broker: names.contains(&RoleName::Broker),
    };
    if !roles.controller && !roles.broker {
        return problem("node.roles", "must name \"controller\", \"broker\" or both");
    }
    Ok(roles)
}

fn listen(file: &ConfigFile, roles: Roles) -> Result<Listen, Problem> {
    let parse = |key: &str, text: &str| match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => problem(
            key,
            format!("'{text}' is no IP:port to listen on, such as 0.0.0.0:9092"),
        ),
    };
    let listen = Listen {
        client: parse("listen.client", &file.listen.client)?,
        internal: parse("listen.internal", &file.listen.internal)?,
    };
    if roles.broker && listen.client == listen.internal {
        return problem(
            "listen.internal",
            format!(
                "must differ from listen.client ({}); clients and nodes use separate ports",
                listen.client
            ),
        );
    }
    Ok(listen)
}

fn advertise(file: &ConfigFile, roles: Roles, listen: Listen) -> Result<Advertise, Problem> {
    let pick = |key: &str, given: Option<&String>, bound: SocketAddr, told: bool| {
        let Some(text) = given else {
            if told && bound.ip().is_unspecified() {
                return problem(
                    key,
                    format!(
                        "is missing; set it to the host:port that others reach this node at, \
                         because it listens on every address ({bound})"
                    ),
                );
            }
            return Ok(Endpoint::from(bound));
        };
        let endpoint = endpoint(key, text)?;
        if endpoint.is_unspecified() {
            return problem(
                key,
                format!("nobody can connect to {endpoint}; name this host"),
            );
        }
        Ok(endpoint)
    };
    let given = &file.advertise;
    Ok(Advertise {
        client: pick(
            "advertise.client",
            given.client.as_ref(),
            listen.client,
            roles.broker,
        )?,
        internal: pick(
            "advertise.internal",
            given.internal.as_ref(),
            listen.internal,
            true,
        )?,
    })
}

fn endpoint(key: &str, text: &str) -> Result<Endpoint, Problem> {
    text.parse()
        .or_else(|error: super::endpoint::EndpointError| problem(key, error.to_string()))
}

fn voters(file: &ConfigFile, id: NodeId, roles: Roles) -> Result<Vec<Voter>, Problem> {
    if file.controllers.is_empty() {
        return problem(
            "controllers",
            "is missing; list id and address of every controller as [[controllers]]",
        );
    }
    let mut voters: BTreeMap<NodeId, Endpoint> = BTreeMap::new();
    for (index, entry) in file.controllers.iter().enumerate() {
        let id_key = format!("controllers[{index}].id");
        let address_key = format!("controllers[{index}].address");
        let voter = node_id(&id_key, entry.id)?;
        let address = endpoint(&address_key, &entry.address)?;
        if address.is_unspecified() {
            return problem(
                address_key,
                format!("nobody can connect to {address}; name the host"),
            );
        }
        if let Some((other, _)) = voters.iter().find(|(_, taken)| **taken == address) {
            return problem(
                address_key,
                format!("{address} is also controller {other}'s"),
            );
        }
        if voters.insert(voter, address).is_some() {
            return problem(id_key, format!("{voter} is listed twice; ids are unique"));
        }
    }
    match (roles.controller, voters.contains_key(&id)) {
        (true, false) => problem(
            "node.id",
            format!("{id} has the role controller but is not in [[controllers]]; add it there"),
        ),
        (false, true) => problem(
            "node.roles",
            format!("lacks \"controller\", although [[controllers]] lists node {id}"),
        ),
        _ => Ok(voters
            .into_iter()
            .map(|(id, address)| Voter { id, address })
            .collect()),
    }
}

/// A value that must lie within bounds.
fn within<T: PartialOrd + std::fmt::Display + Copy>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<T, Problem> {
    if value < min || value > max {
        return problem(key, format!("{value} is out of range; use {min} to {max}"));
    }
    Ok(value)
}

/// A time that must lie within bounds, in milliseconds.
fn time(key: &str, value: u64, min: u64, max: u64) -> Result<Duration, Problem> {
    within(key, value, min, max).map(Duration::from_millis)
}

fn controller(file: &ConfigFile) -> Result<ControllerSettings, Problem> {
    let given = &file.controller;
    let heartbeat = time("controller.heartbeat_ms", given.heartbeat_ms, 10, 10_000)?;
    let key = "controller.election_timeout_ms";
    let [least, most] = given.election_timeout_ms;
    if least >= most {
        return problem(
            key,
            format!(
                "the first ({least}) must be less than the second ({most}): elections draw a \
                     random time between them"
            ),
        );
    }
    let floor = given.heartbeat_ms * 2;
    if least < floor {
        return problem(
            key,
            format!("{least} is too short; use at least {floor}, twice controller.heartbeat_ms"),
        );
    }
    let session_key = "controller.session_timeout_ms";
    let session_timeout = time(session_key, given.session_timeout_ms, 100, 600_000)?;
    if given.session_timeout_ms < file.broker.beat_interval_ms.saturating_mul(2) {
        return problem(
            session_key,
            format!(
                "{} is too short; use at least twice broker.beat_interval_ms ({})",
                given.session_timeout_ms, file.broker.beat_interval_ms
            ),
        );
    }
    Ok(ControllerSettings {
        heartbeat,
        election_timeout: time(key, least, 20, 60_000)?..=time(key, most, 20, 60_000)?,
        session_timeout,
        snapshot_interval_entries: within(
            "controller.snapshot_interval_entries",
            given.snapshot_interval_entries,
            100,
            10_000_000,
        )?,
    })
}

fn broker(file: &ConfigFile) -> Result<BrokerSettings, Problem> {
    const DAY: u64 = 86_400_000;
    let given = &file.broker;
    Ok(BrokerSettings {
        beat_interval: time(
            "broker.beat_interval_ms",
            given.beat_interval_ms,
            10,
            60_000,
        )?,
        replica_lag_time_max: time(
            "broker.replica_lag_time_max_ms",
            given.replica_lag_time_max_ms,
            500,
            600_000,
        )?,
        threads: within("broker.threads", given.threads, 1, 256)?,
        producer_expiration: time(
            "broker.producer_expiration_ms",
            given.producer_expiration_ms,
            1_000,
            3_650 * DAY,
        )?,
        retention_check_interval: time(
            "broker.retention_check_interval_ms",
            given.retention_check_interval_ms,
            100,
            DAY,
        )?,
        compaction_check_interval: time(
            "broker.compaction_check_interval_ms",
            given.compaction_check_interval_ms,
            100,
            DAY,
        )?,
    })
}

fn log(file: &ConfigFile) -> Result<LogSettings, Problem> {
    const GIB: u64 = 1 << 30;
    let given = &file.log;
    // Several of the largest batches must fit, or a journal file would be mostly padding.
    let least = 2 * limits::BATCH_BYTES_MAX as u64;
    let journal_file_bytes = within(
        "log.journal_file_bytes",
        given.journal_file_bytes,
        least,
        4 * GIB,
    )?;
    Ok(LogSettings {
        journal_file_bytes,
        checkpoint_bytes: within(
            "log.checkpoint_bytes",
            given.checkpoint_bytes,
            journal_file_bytes,
            1_024 * GIB,
        )?,
        tail_cache_bytes: within(
            "log.tail_cache_bytes",
            given.tail_cache_bytes,
            limits::BATCH_BYTES_MAX as u64,
            1_024 * GIB,
        )?,
        disk_reserve_bytes: within(
            "log.disk_reserve_bytes",
            given.disk_reserve_bytes,
            0,
            1_024 * GIB,
        )?,
        scrub_bytes_per_second: within(
            "log.scrub_bytes_per_second",
            given.scrub_bytes_per_second,
            4_096,
            1_024 * GIB,
        )?,
        scrub_interval: time(
            "log.scrub_interval_ms",
            given.scrub_interval_ms,
            100,
            365 * 86_400_000,
        )?,
        compaction_bytes_per_second: within(
            "log.compaction_bytes_per_second",
            given.compaction_bytes_per_second,
            64 << 10,
            1_024 * GIB,
        )?,
        compaction_memory_bytes: within(
            "log.compaction_memory_bytes",
            given.compaction_memory_bytes,
            64 << 10,
            16 * GIB,
        )?,
    })
}

fn client_limits(file: &ConfigFile) -> Result<Limits, Problem> {
    let given = &file.limits;
    Ok(Limits {
        connections: within(
            "limits.connections",
            given.connections,
            1,
            limits::CONNECTIONS_MAX,
        )?,
        streams_per_connection: within(
            "limits.streams_per_connection",
            given.streams_per_connection,
            1,
            limits::STREAMS_PER_CONNECTION_MAX,
        )?,
    })
}
