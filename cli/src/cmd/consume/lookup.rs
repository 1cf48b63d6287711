//! Finds from where to where each partition is read, and goes on for those whose leader cannot be
//! asked, while the others are read already.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_client::{Client, ClientError, OffsetSpec};
use ottla_model::{Offset, PartitionIndex};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::position::{Extent, Position, Span};

/// How long to wait before the leaders that could not be asked are asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// What is looked up.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub client: Client,
    pub topic: String,
    pub span: Span,
    pub now_ms: i64,
    /// How long one leader may take to answer.
    pub limit: Duration,
}

/// What one attempt came to.
#[derive(Debug, Default)]
pub struct Round {
    /// From where to where. Without an end of the span, to the partition's present end.
    pub found: BTreeMap<PartitionIndex, (Offset, Offset)>,
    /// Why a partition's leader did not say.
    pub missing: BTreeMap<PartitionIndex, String>,
}

type Rounds = mpsc::Sender<Result<Round, ClientError>>;

impl Lookup {
    /// Tries until every partition is found, one cannot be, or nobody listens.
    pub async fn run(self, mut open: Vec<PartitionIndex>, rounds: Rounds) {
        loop {
            let round = self.round(&open).await;
            let failed = round.is_err();
            if let Ok(round) = &round {
                open.retain(|index| !round.found.contains_key(index));
            }
            if rounds.send(round).await.is_err() || failed || open.is_empty() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn round(&self, partitions: &[PartitionIndex]) -> Result<Round, ClientError> {
        let mut round = Round::default();
        let mut open = partitions.to_vec();
        // The end first: what comes meanwhile is none of ours.
        let ends = self.ask(OffsetSpec::Latest, &mut open, &mut round).await?;
        let firsts = self
            .ask(OffsetSpec::Earliest, &mut open, &mut round)
            .await?;
        let to = self.span.to.unwrap_or(Position::Latest);
        let mut times = [BTreeMap::new(), BTreeMap::new()];
        for (position, found) in [self.span.from, to].iter().zip(&mut times) {
            if let Some(spec) = position.asks_for(self.now_ms) {
                *found = self.ask(spec, &mut open, &mut round).await?;
            }
        }
        let known = |of: &BTreeMap<_, _>, index| of.get(&index).copied().flatten();
        for index in open {
            let first = known(&firsts, index).unwrap_or(Offset::ZERO);
            let extent = Extent {
                first,
                end: known(&ends, index).unwrap_or(first),
            };
            let start = self.span.from.resolve(extent, known(&times[0], index));
            let end = to.resolve(extent, known(&times[1], index));
            round.found.insert(index, (start, end));
        }
        Ok(round)
    }

    /// Asks for one offset of the open partitions, and closes those that have no answer.
    async fn ask(
        &self,
        spec: OffsetSpec,
        open: &mut Vec<PartitionIndex>,
        round: &mut Round,
    ) -> Result<BTreeMap<PartitionIndex, Option<Offset>>, ClientError> {
        let asked = open.iter().map(|index| (*index, spec)).collect();
        let admin = self.client.admin();
        let listed = admin.list_offsets_once(&self.topic, asked, self.limit);
        let mut found = BTreeMap::new();
        for (index, answer) in listed.await? {
            match answer {
                Ok(listed) => {
                    found.insert(index, listed.offset);
                }
                Err(error) if error.is_retriable() => {
                    let reason = self.reason(index, &error);
                    round.missing.insert(index, reason);
                }
                Err(error) => return Err(error),
            }
        }
        open.retain(|index| found.contains_key(index));
        Ok(found)
    }

    /// The error in words, which do not name again the partition that they are said of.
    fn reason(&self, index: PartitionIndex, error: &ClientError) -> String {
        let text = error.to_string();
        let name = format!("{}-{index} ", self.topic);
        text.strip_prefix(&name)
            .map_or_else(|| text.clone(), |rest| format!("it {rest}"))
    }
}
