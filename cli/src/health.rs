//! Whether a cluster is healthy, and if not, what is wrong, in words. Pure: a view of the cluster
//! in, a verdict out.

use std::collections::BTreeSet;
use std::fmt;

use ottla_proto::v1::{ClusterView, PartitionView};
use serde::Serialize;

use crate::output::counted;

/// How many partitions a finding names before it only counts them.
const NAMED_MAX: usize = 5;

/// What is known about a cluster besides its own view.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Registered, unfenced brokers that did not answer when asked.
    pub unreachable_brokers: BTreeSet<i32>,
    /// Brokers that refuse producers for want of room on their disks.
    pub full_brokers: BTreeSet<i32>,
    /// Configured controllers that the active controller does not hear.
    pub silent_controllers: BTreeSet<i32>,
    /// Controllers that have no vote: they catch up, or the active one has not taken them in.
    pub voteless_controllers: BTreeSet<i32>,
    /// No controller said that the one leads that brokers take for the active one.
    pub leader_unconfirmed: bool,
    /// The fewest brokers and controllers that there shall be, if known.
    pub expected_brokers: usize,
    pub expected_controllers: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: FindingKind,
    /// How many partitions or nodes it is about.
    pub count: usize,
    /// A sentence for people.
    pub text: String,
}

/// What kind of thing is wrong; stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    NoAnswer,
    NoActiveController,
    MissingControllers,
    UnreachableBrokers,
    FullBrokers,
    FencedBrokers,
    MissingBrokers,
    /// Nobody may lead any more: what the partition held is gone.
    Lost,
    Leaderless,
    UnderMinIsr,
    UnderReplicated,
}

/// What a look at a cluster came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub healthy: bool,
    pub findings: Vec<Finding>,
    pub cluster_id: String,
    pub active_controller: Option<i32>,
    pub controllers: Vec<i32>,
    /// Brokers that are registered and not fenced.
    pub brokers_up: usize,
    pub brokers: usize,
    pub topics: usize,
    pub partitions: usize,
    pub leaderless: usize,
    pub under_replicated: usize,
    pub under_min_isr: usize,
}

/// What is told of a cluster of which nobody answered: nothing else is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unanswered {
    pub healthy: bool,
    pub findings: Vec<Finding>,
}

impl Unanswered {
    pub fn new(reason: &str) -> Unanswered {
        Unanswered {
            healthy: false,
            findings: vec![Finding {
                kind: FindingKind::NoAnswer,
                count: 1,
                text: reason.to_owned(),
            }],
        }
    }
}

/// Looks at a cluster. A fenced broker is a finding even if it leads and holds nothing.
pub fn verdict(view: &ClusterView, observed: &Observed) -> Verdict {
    let mut findings = Vec::new();
    node_findings(view, observed, &mut findings);
    let is_lost = |p: &PartitionView| p.isr.is_empty() && p.elr.is_empty();
    let lost = partitions_where(view, |p| p.leader_id.is_none() && is_lost(p));
    let leaderless = partitions_where(view, |p| p.leader_id.is_none() && !is_lost(p));
    let under_min = partitions_where(view, |p| {
        p.leader_id.is_some() && (p.isr.len() as i64) < i64::from(p.min_insync_replicas)
    });
    let under_replicated = partitions_where(view, |p| p.isr.len() < p.replicas.len());
    partition_finding(
        &mut findings,
        FindingKind::Lost,
        &lost,
        "no whole copy: every broker that could lead has found its data damaged, lost or replaced \
         by an older copy, or was unregistered. Set unclean.leader.election.enable=true on the \
         topic to go on with what the first of its brokers that is up has: nothing, from offset 0, \
         if its log was damaged or lost; or delete the topic. Damaged logs are kept, in \
         broker/log/quarantine of the data directory, for `ottla log dump --records`",
    );
    partition_finding(
        &mut findings,
        FindingKind::Leaderless,
        &leaderless,
        "no leader, so they can be neither written nor read",
    );
    partition_finding(
        &mut findings,
        FindingKind::UnderMinIsr,
        &under_min,
        "fewer in-sync replicas than min.insync.replicas, so they refuse writes",
    );
    partition_finding(
        &mut findings,
        FindingKind::UnderReplicated,
        &under_replicated,
        "replicas that are not in sync",
    );
    Verdict {
        healthy: findings.is_empty(),
        findings,
        cluster_id: view.cluster_id.clone(),
        active_controller: active_controller(view, observed),
        controllers: view.controllers.iter().map(|c| c.node_id).collect(),
        brokers_up: view.brokers.iter().filter(|broker| !broker.fenced).count(),
        brokers: view.brokers.len(),
        topics: view.topics.len(),
        partitions: view.topics.iter().map(|topic| topic.partitions.len()).sum(),
        leaderless: leaderless.len() + lost.len(),
        under_replicated: under_replicated.len(),
        under_min_isr: under_min.len(),
    }
}

/// The controller that brokers take for the active one, unless the controllers deny it.
fn active_controller(view: &ClusterView, observed: &Observed) -> Option<i32> {
    let active = view.active_controller_id;
    active.filter(|_| !observed.leader_unconfirmed)
}

fn node_findings(view: &ClusterView, observed: &Observed, findings: &mut Vec<Finding>) {
    if active_controller(view, observed).is_none() {
        findings.push(Finding {
            kind: FindingKind::NoActiveController,
            count: 1,
            text: "no controller is active, so nothing about the cluster can change".to_owned(),
        });
    }
    for (ids, state) in [
        (
            &observed.silent_controllers,
            "not heard of by the active controller",
        ),
        (
            &observed.voteless_controllers,
            "not a voter of the quorum yet",
        ),
    ] {
        let kind = FindingKind::MissingControllers;
        node_finding(findings, kind, ids, "controller", state);
    }
    missing(
        findings,
        FindingKind::MissingControllers,
        observed.expected_controllers,
        view.controllers.len(),
        "controllers",
    );
    let fenced = view.brokers.iter().filter(|broker| broker.fenced);
    let fenced: BTreeSet<i32> = fenced.map(|broker| broker.node_id).collect();
    node_finding(
        findings,
        FindingKind::FencedBrokers,
        &fenced,
        "broker",
        "fenced: gone, or not yet caught up",
    );
    node_finding(
        findings,
        FindingKind::FullBrokers,
        &observed.full_brokers,
        "broker",
        "out of room: too little is free beside log.disk_reserve_bytes, so writes are refused",
    );
    let unreachable: BTreeSet<i32> = observed
        .unreachable_brokers
        .difference(&fenced)
        .copied()
        .collect();
    node_finding(
        findings,
        FindingKind::UnreachableBrokers,
        &unreachable,
        "broker",
        "not reachable at the address given to clients",
    );
    // The broker that answered is one, even while the controllers do not know of it yet.
    missing(
        findings,
        FindingKind::MissingBrokers,
        observed.expected_brokers.max(1),
        view.brokers.len(),
        "brokers",
    );
    let answering = view.answered_by;
    if !view.brokers.is_empty() && !view.brokers.iter().any(|b| b.node_id == answering) {
        findings.push(Finding {
            kind: FindingKind::MissingBrokers,
            count: 1,
            text: format!("broker {answering}, which answered, is not registered"),
        });
    }
}

fn missing(
    findings: &mut Vec<Finding>,
    kind: FindingKind,
    expected: usize,
    have: usize,
    what: &str,
) {
    if have < expected {
        findings.push(Finding {
            kind,
            count: expected - have,
            text: format!("{have} of {expected} {what} are known"),
        });
    }
}

fn node_finding(
    findings: &mut Vec<Finding>,
    kind: FindingKind,
    ids: &BTreeSet<i32>,
    what: &str,
    state: &str,
) {
    let names: Vec<String> = ids.iter().map(i32::to_string).collect();
    let text = match names.as_slice() {
        [] => return,
        [one] => format!("{what} {one} is {state}"),
        _ => format!("{what}s {} are {state}", names.join(", ")),
    };
    findings.push(Finding {
        kind,
        count: names.len(),
        text,
    });
}

fn partition_finding(
    findings: &mut Vec<Finding>,
    kind: FindingKind,
    partitions: &[String],
    what: &str,
) {
    if partitions.is_empty() {
        return;
    }
    let count = partitions.len();
    let named = partitions[..count.min(NAMED_MAX)].join(", ");
    let more = match count.saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (noun, verb) = if count == 1 {
        ("partition", "has")
    } else {
        ("partitions", "have")
    };
    findings.push(Finding {
        kind,
        count,
        text: format!("{count} {noun} {verb} {what}: {named}{more}"),
    });
}

/// The names of the partitions that a condition holds for.
fn partitions_where(view: &ClusterView, holds: impl Fn(&PartitionView) -> bool) -> Vec<String> {
    let named = view.topics.iter().flat_map(|topic| {
        let affected = topic.partitions.iter().filter(|partition| holds(partition));
        affected.map(|partition| format!("{}-{}", topic.name, partition.partition))
    });
    named.collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.healthy { "healthy" } else { "unhealthy" };
        writeln!(f, "{:<20}{state}", "cluster")?;
        for finding in &self.findings {
            writeln!(f, "{:<20}{}", "  because", finding.text)?;
        }
        let active = match self.active_controller {
            Some(id) => id.to_string(),
            None => "none".to_owned(),
        };
        writeln!(f, "{:<20}{active}", "active controller")?;
        writeln!(
            f,
            "{:<20}{}",
            "controllers",
            crate::output::joined(&self.controllers)
        )?;
        writeln!(
            f,
            "{:<20}{} of {}",
            "brokers up", self.brokers_up, self.brokers
        )?;
        writeln!(
            f,
            "{:<20}{} in {}",
            "partitions",
            self.partitions,
            counted(self.topics, "topic")
        )?;
        writeln!(f, "{:<20}{}", "leaderless", self.leaderless)?;
        writeln!(f, "{:<20}{}", "under-replicated", self.under_replicated)?;
        writeln!(f, "{:<20}{}", "under min ISR", self.under_min_isr)
    }
}

#[cfg(test)]
mod tests {
    use ottla_proto::v1::{BrokerView, ControllerView, TopicView};

    use super::*;

    fn partition(partition: i32, leader: Option<i32>, isr: &[i32]) -> PartitionView {
        PartitionView {
            partition,
            leader_id: leader,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            min_insync_replicas: 2,
            ..PartitionView::default()
        }
    }

    fn view(partitions: Vec<PartitionView>) -> ClusterView {
        let node_ids = [1, 2, 3];
        ClusterView {
            active_controller_id: Some(1),
            answered_by: 1,
            brokers: node_ids
                .map(|node_id| BrokerView {
                    node_id,
                    ..BrokerView::default()
                })
                .to_vec(),
            controllers: node_ids
                .map(|node_id| ControllerView {
                    node_id,
                    internal_endpoint: None,
                })
                .to_vec(),
            topics: vec![TopicView {
                name: "orders".to_owned(),
                partitions,
                ..TopicView::default()
            }],
            ..ClusterView::default()
        }
    }

    fn kinds(verdict: &Verdict) -> Vec<FindingKind> {
        verdict
            .findings
            .iter()
            .map(|finding| finding.kind)
            .collect()
    }

    #[test]
    fn a_full_cluster_is_healthy() {
        let verdict = verdict(
            &view(vec![partition(0, Some(1), &[1, 2, 3])]),
            &Observed::default(),
        );
        assert!(verdict.healthy, "{:?}", verdict.findings);
    }

    #[test]
    fn without_any_answer_a_document_says_so_in_the_same_words() {
        let json = serde_json::to_value(Unanswered::new("no bootstrap address answered")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "healthy": false,
                "findings": [{
                    "kind": "no_answer",
                    "count": 1,
                    "text": "no bootstrap address answered",
                }],
            })
        );
    }

    #[test]
    fn a_cluster_whose_brokers_are_not_registered_yet_is_not_healthy() {
        let mut cluster = view(Vec::new());
        cluster.answered_by = 9;
        let one = verdict(&cluster, &Observed::default());
        assert_eq!(kinds(&one), [FindingKind::MissingBrokers]);
        assert!(one.to_string().contains("broker 9"), "{one}");
        cluster.brokers.clear();
        let none = verdict(&cluster, &Observed::default());
        assert_eq!(kinds(&none), [FindingKind::MissingBrokers]);
    }

    #[test]
    fn a_controller_that_no_controller_confirms_is_not_active() {
        let observed = Observed {
            leader_unconfirmed: true,
            ..Observed::default()
        };
        let verdict = verdict(&view(vec![partition(0, Some(1), &[1, 2, 3])]), &observed);
        assert_eq!(kinds(&verdict), [FindingKind::NoActiveController]);
        assert_eq!(verdict.active_controller, None);
        assert!(!verdict.healthy);
    }

    #[test]
    fn each_ailment_of_a_partition_is_named_once_with_its_partitions() {
        let view = view(vec![
            partition(0, None, &[3]),
            partition(1, Some(1), &[1]),
            partition(2, Some(1), &[1, 2]),
        ]);
        let verdict = verdict(&view, &Observed::default());
        assert!(!verdict.healthy);
        assert_eq!(
            kinds(&verdict),
            [
                FindingKind::Leaderless,
                FindingKind::UnderMinIsr,
                FindingKind::UnderReplicated
            ]
        );
        assert!(
            verdict.findings[0]
                .text
                .starts_with("1 partition has no leader")
        );
        assert!(
            verdict.findings[2]
                .text
                .ends_with("orders-0, orders-1, orders-2")
        );
    }

    #[test]
    fn a_partition_without_a_whole_copy_says_what_can_be_done() {
        let one = verdict(&view(vec![partition(0, None, &[])]), &Observed::default());
        assert_eq!(
            kinds(&one),
            [FindingKind::Lost, FindingKind::UnderReplicated]
        );
        let text = one.to_string();
        for part in ["orders-0", "damaged", "quarantine", "unclean.leader"] {
            assert!(text.contains(part), "{text}");
        }
        let in_elr = PartitionView {
            elr: vec![2],
            ..partition(0, None, &[])
        };
        let waiting = verdict(&view(vec![in_elr]), &Observed::default());
        assert_eq!(kinds(&waiting)[0], FindingKind::Leaderless);
    }

    #[test]
    fn many_partitions_are_counted_rather_than_listed() {
        let verdict = verdict(
            &view((0..8).map(|n| partition(n, None, &[])).collect()),
            &Observed::default(),
        );
        assert!(verdict.findings[0].text.ends_with("orders-4 and 3 more"));
    }

    #[test]
    fn nodes_that_are_missing_fenced_or_silent_are_named() {
        let mut view = view(Vec::new());
        view.active_controller_id = None;
        view.brokers[1].fenced = true;
        let observed = Observed {
            unreachable_brokers: [2, 3].into(),
            full_brokers: [1].into(),
            silent_controllers: [3].into(),
            voteless_controllers: BTreeSet::new(),
            leader_unconfirmed: false,
            expected_brokers: 4,
            expected_controllers: 3,
        };
        let verdict = verdict(&view, &observed);
        assert_eq!(
            kinds(&verdict),
            [
                FindingKind::NoActiveController,
                FindingKind::MissingControllers,
                FindingKind::FencedBrokers,
                FindingKind::FullBrokers,
                FindingKind::UnreachableBrokers,
                FindingKind::MissingBrokers,
            ]
        );
        // Broker 2 is fenced, so that nobody reaches it is no news.
        assert!(
            verdict.findings[4]
                .text
                .starts_with("broker 3 is not reachable")
        );
    }
}
