//! How many files and connections the process may have open, and who gets them: connections that
//! take the last ones would keep the log from opening its files, which ends a node.

use ottla_model::limits::INTERNAL_CONNECTIONS_MAX;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Segments that shall stay open before clients get more connections.
const SEGMENTS_BEFORE_CLIENTS: usize = 1_024;
/// A segment that is opened anew for each batch costs more than one that stays open: as many
/// partitions as are written to in turn may have theirs, as long as the system allows it.
const SEGMENTS_MAX: usize = 16_384;
/// What everything else needs at most.
const OTHERS: usize = 512;
/// Below this a node does not get as far as serving.
const FILES_MIN: usize = 256;

/// How many of the open files who gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// Connections of clients.
    pub clients: usize,
    /// Connections of other nodes.
    pub internal: usize,
    /// Segments that the log keeps open.
    pub segments: usize,
}

impl OpenFiles {
    /// As many connections as are wanted, or as fit below a limit of open files.
    fn below(limit: usize, clients: usize) -> OpenFiles {
        let internal = INTERNAL_CONNECTIONS_MAX.min(limit / 8);
        let left = limit.saturating_sub(internal + OTHERS + SEGMENTS_BEFORE_CLIENTS);
        let clients = clients.min(left.max(limit / 4));
        let left = limit.saturating_sub(internal + clients + OTHERS);
        OpenFiles {
            clients,
            internal,
            segments: left.min(SEGMENTS_MAX),
        }
    }
}

/// Lets the process open as many files and connections as the system allows it to, and divides
/// them.
///
/// # Errors
/// If the system allows too few.
pub fn divide_open_files(clients: usize) -> Result<OpenFiles, String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    if limit < FILES_MIN {
        return Err(format!(
            "this process may open only {limit} files, and a node needs at least {FILES_MIN}: \
             raise the limit (ulimit -Hn, LimitNOFILE)"
        ));
    }
    let files = OpenFiles::below(limit, clients);
    if files.clients < clients {
        tracing::warn!(
            open_files = limit,
            connections = files.clients,
            "the limit of open files leaves fewer connections to clients than the {clients} of \
             limits.connections; raise it (ulimit -Hn, LimitNOFILE) to have them all"
        );
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_log_its_files() {
        let divided = |limit, clients| {
            let files = OpenFiles::below(limit, clients);
            let OpenFiles {
                clients,
                internal,
                segments,
            } = files;
            assert!(clients + internal + segments + OTHERS <= limit);
            (clients, internal, segments)
        };
        assert_eq!(divided(1 << 20, 10_000), (10_000, 2_000, 16_384));
        assert_eq!(divided(usize::MAX, 10_000), (10_000, 2_000, 16_384));
        assert_eq!(divided(20_000, 10_000), (10_000, 2_000, 7_488));
        assert_eq!(divided(8_192, 10_000), (5_632, 1_024, 1_024));
        assert_eq!(divided(4_096, 10_000), (2_048, 512, 1_024));
        assert_eq!(divided(1_024, 10_000), (256, 128, 128));
        assert_eq!(divided(4_096, 100), (100, 512, 2_972));
    }
}
