//! Ports for the nodes of a cluster on this machine.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, bail};

/// The first port tried when none is asked for: the default of every client.
pub const DEFAULT_BASE: u16 = 9092;

/// The ports for a cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// A client and an internal port for each node.
    pub ports: Vec<(u16, u16)>,
    /// The default port that is in use, where that is why others were chosen.
    pub taken: Option<u16>,
}

/// A client and an internal port for each of `count` nodes: from `base` on if one is given; else
/// from the default on if those are free; else whichever are.
pub fn choose(count: usize, base: Option<u16>) -> anyhow::Result<Chosen> {
    if let Some(base) = base {
        let ports = from_base(count, base)
            .with_context(|| format!("there are too few ports above {base}"))?;
        for port in ports
            .iter()
            .flat_map(|(client, internal)| [*client, *internal])
        {
            require_free(port)?;
        }
        return Ok(Chosen { ports, taken: None });
    }
    from_default(count, DEFAULT_BASE)
}

/// From the default on, or if one of those is in use, whichever are free.
fn from_default(count: usize, default: u16) -> anyhow::Result<Chosen> {
    let Some(ports) = from_base(count, default) else {
        return Ok(Chosen {
            ports: any_free(count)?,
            taken: None,
        });
    };
    let mut all = ports
        .iter()
        .flat_map(|(client, internal)| [*client, *internal]);
    match all.find(|port| !is_free(*port)) {
        None => Ok(Chosen { ports, taken: None }),
        taken => Ok(Chosen {
            ports: any_free(count)?,
            taken,
        }),
    }
}

/// Refuses a port that somebody else listens on.
pub fn require_free(port: u16) -> anyhow::Result<()> {
    if !is_free(port) {
        bail!("port {port} is in use on this machine; stop what listens there or use other ports");
    }
    Ok(())
}

fn from_base(count: usize, base: u16) -> Option<Vec<(u16, u16)>> {
    let pair = |index: usize| {
        let client = base.checked_add(u16::try_from(2 * index).ok()?)?;
        Some((client, client.checked_add(1)?))
    };
    (0..count).map(pair).collect()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Ports that the system chooses, all different because all are held until the last is known.
fn any_free(count: usize) -> anyhow::Result<Vec<(u16, u16)>> {
    let listeners = (0..2 * count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("cannot find free ports")?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect::<anyhow::Result<Vec<u16>>>()?;
    Ok(ports
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_base_in_pairs() {
        assert_eq!(
            from_base(2, 19092),
            Some(vec![(19092, 19093), (19094, 19095)])
        );
        assert_eq!(from_base(2, u16::MAX - 2), None);
    }

    #[test]
    fn a_default_port_that_is_in_use_is_named_and_none_of_them_is_used() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let chosen = from_default(1, port).unwrap();
        assert_eq!(chosen.taken, Some(port));
        assert_ne!(chosen.ports[0].0, port);
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = require_free(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()), "{error}");
    }

    #[test]
    fn free_ports_are_all_different() {
        let mut ports: Vec<u16> = any_free(4)
            .unwrap()
            .into_iter()
            .flat_map(|(a, b)| [a, b])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
