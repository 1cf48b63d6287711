//! The searches for where partitions begin, and which partitions a topic was given since the
//! command began.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use ottla_client::{Client, ClientError, ClusterSnapshot};
use ottla_model::{PartitionIndex, TopicId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::lookup::{Lookup, Round};
use crate::exit::CommandResult;
use crate::position::{Position, Span};

/// The searches under way. They end when this is dropped.
#[derive(Debug)]
pub struct Searches {
    lookup: Lookup,
    tasks: JoinSet<()>,
    sender: mpsc::Sender<Result<Round, ClientError>>,
    rounds: mpsc::Receiver<Result<Round, ClientError>>,
}

impl Searches {
    pub fn new(lookup: Lookup) -> Searches {
        let (sender, rounds) = mpsc::channel(1);
        Searches {
            lookup,
            tasks: JoinSet::new(),
            sender,
            rounds,
        }
    }

    /// Begins to look for where these partitions are to be read.
    pub fn begin(&mut self, partitions: &[PartitionIndex]) {
        self.spawn(&self.lookup.clone(), partitions);
    }

    /// Begins to look for where partitions begin that were not there when the command began.
    pub fn begin_added(&mut self, partitions: &[PartitionIndex]) {
        let span = Span {
            from: Position::Earliest,
            to: None,
        };
        let lookup = Lookup {
            span,
            ..self.lookup.clone()
        };
        self.spawn(&lookup, partitions);
    }

    fn spawn(&mut self, lookup: &Lookup, partitions: &[PartitionIndex]) {
        // Apart, so that a leader that does not answer holds up none of the others.
        for group in by_leader(&lookup.client, &lookup.topic, partitions) {
            let search = lookup.clone().run(group, self.sender.clone());
            self.tasks.spawn(search);
        }
    }

    /// What one search has found next. Waits for ever if there is none. Cancelling loses nothing.
    pub async fn next(&mut self) -> CommandResult<Round> {
        loop {
            tokio::select! {
                Some(round) = self.rounds.recv() => return Ok(round?),
                Some(ended) = self.tasks.join_next() => ended.context("a search broke off")?,
            }
        }
    }
}

/// The partitions, those that share a leader together.
fn by_leader(client: &Client, topic: &str, all: &[PartitionIndex]) -> Vec<Vec<PartitionIndex>> {
    let cluster = client.cluster();
    let leader = |index| cluster.topic(topic)?.partition(index)?.leader;
    let mut groups: BTreeMap<_, Vec<PartitionIndex>> = BTreeMap::new();
    for index in all {
        groups.entry(leader(*index)).or_default().push(*index);
    }
    groups.into_values().collect()
}

/// A topic all of whose partitions are read, those too that it is given later.
#[derive(Debug)]
pub struct Followed {
    pub client: Client,
    pub topic: String,
    /// A topic that takes the name of a deleted one is another.
    pub id: TopicId,
    /// How many partitions are read or looked for.
    pub known: usize,
}

impl Followed {
    /// Waits at most so long for partitions that were added.
    pub async fn added(&self, at_most: Duration) -> Option<Vec<PartitionIndex>> {
        let has_more = |cluster: &ClusterSnapshot| !self.beyond(cluster).is_empty();
        let cluster = self.client.wait_for(has_more, at_most).await.ok()?;
        Some(self.beyond(&cluster))
    }

    fn beyond(&self, cluster: &ClusterSnapshot) -> Vec<PartitionIndex> {
        let topic = cluster.topic(&self.topic).filter(|it| it.id == self.id);
        let all = topic.into_iter().flat_map(|topic| &topic.partitions);
        all.map(|it| it.partition).skip(self.known).collect()
    }
}
