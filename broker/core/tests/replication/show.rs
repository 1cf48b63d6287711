//! What scripts print of a cluster.

use ottla_broker_core::{ProduceAck, ProduceError, ReplyId, Role};
use ottla_model::{LeaderEpoch, NodeId, Offset};

use super::cluster::{Cluster, Node};

impl Cluster {
    /// One line per node.
    pub fn status(&self) -> Vec<String> {
        let describe = |(id, node): (&NodeId, &Node)| {
            let Some(core) = &node.core else {
                return format!("{id}: down");
            };
            let shown = core.describe();
            let role = match shown.role {
                Role::Leader => "leader".to_owned(),
                Role::Follower { leader } => format!("follower of {leader}"),
                Role::None => "no role".to_owned(),
            };
            let proposed = shown.proposed_isr.map_or(String::new(), |proposed| {
                format!(" proposed={}", list(proposed))
            });
            format!(
                "{id}: {role} epoch={} hw={} durable={} end={} isr={}{proposed}",
                shown.leader_epoch,
                shown.high_watermark,
                shown.durable_end,
                shown.log_end,
                list(shown.isr)
            )
        };
        self.nodes.iter().map(describe).collect()
    }

    /// The log as ranges of offsets without a gap, each with its leader epoch.
    pub fn log(&self, id: NodeId) -> String {
        let log = &self.nodes[&id].disk.written;
        let mut ranges: Vec<(LeaderEpoch, Offset, Offset)> = Vec::new();
        for (header, _) in &log.batches {
            match ranges.last_mut() {
                Some((epoch, _, end))
                    if *epoch == header.leader_epoch && *end == header.base_offset =>
                {
                    *end = header.next_offset();
                }
                _ => ranges.push((
                    header.leader_epoch,
                    header.base_offset,
                    header.next_offset(),
                )),
            }
        }
        let texts: Vec<String> = ranges
            .iter()
            .map(|(epoch, from, to)| format!("[{from},{to})@{epoch}"))
            .collect();
        format!("{id}: start={} {}", log.start, texts.join(" "))
    }
}

pub fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let texts: Vec<String> = nodes.into_iter().map(|node| node.to_string()).collect();
    texts.join(",")
}

pub fn describe_reply(reply: ReplyId, result: &Result<ProduceAck, ProduceError>) -> String {
    match result {
        Ok(ack) if ack.duplicate => {
            format!("reply {}: offset {}, again", reply.0, ack.base_offset)
        }
        Ok(ack) => format!("reply {}: offset {}", reply.0, ack.base_offset),
        Err(error) => format!("reply {}: {}", reply.0, error.code),
    }
}
