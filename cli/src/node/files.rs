//! How many files and connections the process may have open, and who gets them: connections that
//! take the last ones would keep the log from opening its files, which ends a node.

use ottla_model::limits::INTERNAL_CONNECTIONS_MAX;
use rustix::process::{Resource, getrlimit, setrlimit};

/// What the log and everything else needs at most.
const OTHERS: usize = 1_536;

/// How many connections each port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    pub clients: usize,
    pub internal: usize,
}

impl Connections {
    /// As many as are wanted, or as fit below a limit of open files.
    fn below(limit: usize, clients: usize) -> Connections {
        let internal = INTERNAL_CONNECTIONS_MAX.min(limit / 8);
        let left = limit.saturating_sub(internal + OTHERS);
        Connections {
            clients: clients.min(left.max(limit / 4)),
            internal,
        }
    }
}

/// Lets the process open as many files and connections as the system allows it to, and divides
/// them.
pub fn divide_open_files(clients: usize) -> Connections {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let connections = Connections::below(limit, clients);
    if connections.clients < clients {
        tracing::warn!(
            open_files = limit,
            connections = connections.clients,
            "the limit of open files leaves fewer connections to clients than the {clients} of \
             limits.connections; raise it (ulimit -Hn, LimitNOFILE) to have them all"
        );
    }
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_log_its_files() {
        let divided = |limit, clients| {
            let Connections { clients, internal } = Connections::below(limit, clients);
            assert!(clients + internal <= limit / 2 || clients + internal + OTHERS <= limit);
            (clients, internal)
        };
        assert_eq!(divided(1 << 20, 10_000), (10_000, 2_000));
        assert_eq!(divided(usize::MAX, 10_000), (10_000, 2_000));
        assert_eq!(divided(20_000, 10_000), (10_000, 2_000));
        assert_eq!(divided(8_192, 10_000), (5_632, 1_024));
        assert_eq!(divided(4_096, 10_000), (2_048, 512));
        assert_eq!(divided(1_024, 10_000), (256, 128));
        assert_eq!(divided(4_096, 100), (100, 512));
    }
}
