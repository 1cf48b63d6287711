//! Runs a producer's sender: hands it ready batches, answers, changes of the cluster and the time,
//! and carries out what it decides. All waiting is in one place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{Instant, ProducerEpoch, ProducerId};
use ottla_proto::messages::PRODUCE_PATH;
use ottla_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Buffer;
use super::sender::{Effect, REQUESTS_PER_BROKER_MAX, Sender, SenderSettings};
use crate::client::Client;
use crate::cluster::ClusterSnapshot;
use crate::stream::{BidiStream, StreamEvent};

/// How often timeouts of requests and records are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How many answers wait for the driver; streams stop reading beyond.
const EVENTS_MAX: usize = 1_024;
/// How long to wait before a producer id is asked for again.
const IDENTITY_PAUSE: Duration = Duration::from_millis(100);

type Event = StreamEvent<v1::ProduceResponse>;
type IdentityResult = Result<(ProducerId, ProducerEpoch), String>;

pub(super) struct Driver {
    client: Client,
    buffer: Arc<Buffer>,
    sender: Sender,
    streams: HashMap<u64, BidiStream<v1::ProduceRequest>>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    identities: (mpsc::Sender<IdentityResult>, mpsc::Receiver<IdentityResult>),
    identity_task: Option<JoinHandle<()>>,
    view: watch::Receiver<Arc<ClusterSnapshot>>,
}

impl Driver {
    pub(super) fn new(client: Client, buffer: Arc<Buffer>, settings: SenderSettings) -> Driver {
        let view = client.view().subscribe();
        Driver {
            client,
            buffer,
            sender: Sender::new(settings),
            streams: HashMap::new(),
            events: mpsc::channel(EVENTS_MAX),
            identities: mpsc::channel(1),
            identity_task: None,
            view,
        }
    }

    /// Runs until the producer is closed and everything is done, or the task is aborted.
    pub(super) async fn run(mut self, delivery_timeout: Duration) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.step();
            if self.buffer.is_closed() && self.buffer.is_drained() && !self.sender.is_busy() {
                return;
            }
            let due = self.next_wait();
            tokio::select! {
                () = self.buffer.wait_for_work() => {}
                event = self.events.1.recv() => self.on_events(event),
                identity = self.identities.1.recv() => {
                    if let Some(identity) = identity {
                        self.on_identity(identity);
                    }
                }
                // The watcher outlives this task, as the client does.
                _ = self.view.changed() => self.sender.on_view_changed(),
                _ = ticks.tick() => self.on_tick(delivery_timeout),
                () = sleep(due) => {}
            }
        }
    }

    fn next_wait(&self) -> Duration {
        let now = self.buffer.now();
        let deadlines = [self.sender.next_deadline(), self.buffer.next_deadline()];
        let next = deadlines.into_iter().flatten().min();
        next.map_or(Duration::from_secs(3_600), |next| next.since(now))
    }

    fn on_events(&mut self, first: Option<Event>) {
        let now = self.buffer.now();
        let mut next = first;
        while let Some(event) = next {
            match event {
                StreamEvent::Response(response) => self.sender.on_response(now, response),
                StreamEvent::Closed {
                    stream,
                    may_have_arrived,
                    reason,
                } => {
                    self.streams.remove(&stream);
                    self.sender
                        .on_stream_closed(now, stream, may_have_arrived, &reason);
                }
            }
            next = self.events.1.try_recv().ok();
        }
    }

    fn on_tick(&mut self, delivery_timeout: Duration) {
        let now = self.buffer.now();
        self.sender.on_tick(now);
        let age = u64::try_from(delivery_timeout.as_nanos()).unwrap_or(u64::MAX);
        if let Some(before) = now.0.checked_sub(age) {
            for (partition, batch) in self.buffer.take_expired(Instant(before)) {
                self.sender.expire_pending(partition, &batch);
            }
        }
    }

    /// Lets the sender decide and carries it out.
    fn step(&mut self) {
        let now = self.buffer.now();
        self.sender.on_ready(self.buffer.take_ready(now));
        let view = Arc::clone(&self.view.borrow());
        let buffer = &self.buffer;
        self.sender
            .drive(now, &view, &mut |partition| buffer.take(now, partition));
        for effect in self.sender.take_effects() {
            self.carry_out(effect);
        }
        self.buffer.release(self.sender.take_finished());
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send {
                stream,
                endpoint,
                request,
            } => {
                let opened = self.streams.entry(stream).or_insert_with(|| {
                    let connections = Arc::clone(self.client.connections());
                    let (capacity, events) = (REQUESTS_PER_BROKER_MAX * 2, self.events.0.clone());
                    let path = PRODUCE_PATH;
                    BidiStream::open(connections, path, stream, endpoint, capacity, events)
                });
                if !opened.send(request) {
                    tracing::trace!(stream, "a request met a stream that has just ended");
                }
            }
            Effect::Close { stream } => {
                self.streams.remove(&stream);
            }
            Effect::TakeIdentity => self.take_identity(),
            Effect::LearnLeader { partition, hint } => {
                let view = self.client.view();
                view.learn_leader(partition.topic, partition.partition, &hint);
            }
            Effect::SuspectView => self.client.view().suspect(),
        }
    }

    fn on_identity(&mut self, identity: IdentityResult) {
        if identity.is_ok() {
            self.identity_task = None;
        }
        self.sender.on_identity(identity);
    }

    fn take_identity(&mut self) {
        let (client, results) = (self.client.clone(), self.identities.0.clone());
        let again = self.identity_task.is_some();
        let task = tokio::spawn(async move {
            if again {
                sleep(IDENTITY_PAUSE).await;
            }
            let identity = client.init_producer_id().await;
            let _ = results
                .send(identity.map_err(|error| error.to_string()))
                .await;
        });
        self.identity_task = Some(task);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = &self.identity_task {
            task.abort();
        }
    }
}
