//! A broker put together: the one file here that knows all the parts.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ottla_log::{LogStore, RealDisk, StoreConfig};
use ottla_model::{BrokerEpoch, ClusterId};
use ottla_proto::v1::admin_service_server::AdminServiceServer;
use ottla_proto::v1::cluster_service_server::ClusterServiceServer;
use ottla_proto::v1::log_service_server::LogServiceServer;
use ottla_proto::v1::replica_service_server::ReplicaServiceServer;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::broker::{Broker, BrokerCell, PRODUCE_BYTES_IN_FLIGHT};
use crate::compaction::CompactionThread;
use crate::config::BrokerConfig;
use crate::controllers::Controllers;
use crate::damage::{DamageFound, DamageReports};
use crate::disk_space::DiskSpace;
use crate::image::ImageStore;
use crate::isr::IsrUpdates;
use crate::manager::ReplicaManager;
use crate::producer_ids::ProducerIds;
use crate::producer_state;
use crate::registration::Registration;
use crate::registration::refusal::what_to_do;
use crate::replica::{Alarms, ReplicaContext, chain};
use crate::replication::{LeaderLinkContext, LeaderLinks};
use crate::rpc::{
    AdminRpc, ClusterRpc, DiskReads, HoldUntilSent, LogRpc, ProbeIdentity, ReplicaRpc, UnreadRoom,
};
use crate::scrubber;
use crate::stop::Stop;
use crate::watcher::Watcher;

use ottla_model::limits::{
    ADMIN_MESSAGE_BYTES_MAX, CLIENT_MESSAGE_BYTES_MAX, CLUSTER_MESSAGE_BYTES_MAX,
    INTERNAL_MESSAGE_BYTES_MAX, SMALL_MESSAGE_BYTES_MAX,
};
use ottla_proto::messages::{PRODUCE_PATH, ReadByItself};
use ottla_shell::{Clock, told};

const TICK: Duration = Duration::from_millis(50);
/// How often every replica forgets what is too old.
const SWEEP: Duration = Duration::from_secs(60);
/// So many of them before others have their turn on the thread.
const SWEPT_TOGETHER: usize = 500;
/// How often old segments are looked for while the disk is full.
const SHORT_OF_ROOM_PAUSE: Duration = Duration::from_secs(1);
/// The file that says the last run ended cleanly, and under which broker epoch.
const CLEAN_SHUTDOWN_FILE: &str = "clean-shutdown";

/// Called once, with why, when the broker cannot go on.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// A broker on its way up, running, or on its way down.
pub struct BrokerNode {
    cell: BrokerCell,
    identity: ProbeIdentity,
    health: HealthReporter,
    health_routes: Mutex<Option<RoutesBuilder>>,
    store: Arc<OnceLock<Arc<LogStore>>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    config: BrokerConfig,
    background: Arc<Stop>,
    recovered: watch::Receiver<bool>,
}

impl BrokerNode {
    /// Begins to recover the logs on a thread of its own and, once that is done, to serve. The
    /// services answer from the start. Background work runs on `runtime`.
    pub fn start(config: BrokerConfig, runtime: &Handle, fatal: Fatal) -> BrokerNode {
        let cell = BrokerCell::default();
        let store = Arc::new(OnceLock::new());
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let (health, service) = tonic_health::server::health_reporter();
        let mut routes = RoutesBuilder::default();
        routes.add_service(service.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX));
        let identity = ProbeIdentity {
            node_id: config.node_id,
            incarnation: Some(config.incarnation),
            directory: config.identity.directory_id,
            roles: config.roles.clone(),
        };
        let (recovered_sender, recovered) = watch::channel(false);
        let background = Arc::new(Stop::default());
        let starter = Starter {
            config: config.clone(),
            background: Arc::clone(&background),
            cell: cell.clone(),
            store: Arc::clone(&store),
            tasks: Arc::clone(&tasks),
            runtime: runtime.clone(),
            health: health.clone(),
            fatal: Arc::clone(&fatal),
        };
        let spawned = std::thread::Builder::new()
            .name("recovery".to_owned())
            .spawn(move || match or_panic(|| starter.recover()) {
                Ok(()) => drop(recovered_sender.send_replace(true)),
                Err(reason) => (starter.fatal)(reason),
            });
        if let Err(error) = spawned {
            fatal(format!("cannot start the recovery thread: {error}"));
        }
        BrokerNode {
            cell,
            identity,
            health,
            health_routes: Mutex::new(Some(routes)),
            store,
            tasks,
            config,
            background,
            recovered,
        }
    }

    fn log_service(&self) -> HoldUntilSent<ReadByItself<LogServiceServer<LogRpc>>> {
        let service = LogServiceServer::new(LogRpc(self.cell.clone()))
            .max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CLIENT_MESSAGE_BYTES_MAX);
        HoldUntilSent::new(ReadByItself::new(service, PRODUCE_PATH))
    }

    /// What clients may call.
    pub fn client_routes(&self) -> Routes {
        let mut routes = self.health_routes.lock().take().unwrap_or_default();
        let cell = &self.cell;
        let admin = AdminServiceServer::new(AdminRpc(cell.clone()))
            .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX);
        let cluster = HoldUntilSent::new(
            ClusterServiceServer::new(ClusterRpc(cell.clone()))
                .max_decoding_message_size(CLUSTER_MESSAGE_BYTES_MAX),
        );
        routes
            .add_service(self.log_service())
            .add_service(admin)
            .add_service(cluster);
        add_reflection(&mut routes);
        routes.routes()
    }

    /// Adds what other nodes may call. They forward plain records here: a client's address of this
    /// broker need not be theirs.
    pub fn add_internal_services(&self, routes: &mut RoutesBuilder) {
        let service = ReplicaRpc {
            cell: self.cell.clone(),
            identity: self.identity.clone(),
        };
        routes.add_service(self.log_service());
        routes.add_service(HoldUntilSent::new(
            ReplicaServiceServer::new(service)
                .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX),
        ));
    }

    /// The cluster that the broker's directory belonged to when it started.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.config.identity.cluster_id
    }

    /// Whether the logs are recovered.
    pub fn recovered(&self) -> watch::Receiver<bool> {
        self.recovered.clone()
    }

    pub fn broker(&self) -> Option<Arc<Broker>> {
        self.cell.ready().cloned()
    }

    /// Moves leaders away, stops, and leaves the logs clean.
    pub async fn shutdown(&self) {
        self.background.stop();
        if let Some(broker) = self.cell.ready() {
            self.health
                .set_service_status("", ServingStatus::NotServing)
                .await;
            let granted = broker
                .registration
                .leave(self.config.shutdown_timeout)
                .await;
            if !granted {
                tracing::warn!(
                    "the controllers did not release this broker in time; stopping anyway"
                );
            }
        }
        self.stop().await;
    }

    /// Stops without asking anybody to lead in its place, as when the whole cluster stops. Leaves
    /// the logs clean all the same.
    pub async fn stop(&self) {
        let mut epoch = None;
        if let Some(broker) = self.cell.ready() {
            self.health
                .set_service_status("", ServingStatus::NotServing)
                .await;
            epoch = broker.registration.epoch();
            broker.leader_links.stop();
        }
        for task in std::mem::take(&mut *self.tasks.lock()) {
            task.abort();
        }
        self.background.stop();
        if let Some(store) = self.store.get().cloned() {
            let manager = self.cell.ready().map(|broker| Arc::clone(&broker.manager));
            let close = move || {
                if let Some(manager) = manager {
                    producer_state::save_all(&manager);
                }
                store.shutdown()
            };
            let stopped = tokio::task::spawn_blocking(close).await;
            match stopped {
                Ok(Ok(())) => self.mark_clean(epoch),
                Ok(Err(error)) => {
                    tracing::error!(error = %chain(&error), "the logs did not close cleanly")
                }
                Err(_) => tracing::error!("closing the logs panicked"),
            }
        }
    }

    fn mark_clean(&self, epoch: Option<BrokerEpoch>) {
        let Some(epoch) = epoch else { return };
        let written = std::fs::File::create(self.config.data_dir.join(CLEAN_SHUTDOWN_FILE))
            .and_then(|mut file| {
                file.write_all(epoch.to_string().as_bytes())?;
                file.sync_all()
            });
        if let Err(error) = written {
            tracing::warn!(%error, "cannot note the clean shutdown");
        }
    }
}

impl Drop for BrokerNode {
    fn drop(&mut self) {
        self.background.stop();
    }
}

/// Reflection of what clients may call, in both versions: older tools speak only the first.
pub fn add_reflection(routes: &mut RoutesBuilder) {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ottla_proto::CLIENT_DESCRIPTORS)
            .register_encoded_file_descriptor_set(ottla_proto::ERROR_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are our own and were checked when they were compiled.
    if let (Ok(v1), Ok(v1alpha)) = (builder().build_v1(), builder().build_v1alpha()) {
        routes
            .add_service(v1.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
            .add_service(v1alpha.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX));
    }
}

/// The broker epoch under which the last run ended cleanly; asked once, then forgotten, since this
/// run may not.
fn take_clean_epoch(dir: &Path) -> Option<BrokerEpoch> {
    let file = dir.join(CLEAN_SHUTDOWN_FILE);
    let text = std::fs::read_to_string(&file).ok()?;
    std::fs::remove_file(&file).ok()?;
    std::fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .ok()?;
    text.trim().parse().ok()
}

/// Everything the recovery thread needs.
struct Starter {
    config: BrokerConfig,
    background: Arc<Stop>,
    cell: BrokerCell,
    store: Arc<OnceLock<Arc<LogStore>>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    runtime: Handle,
    health: HealthReporter,
    fatal: Fatal,
}

impl Starter {
    /// Recovers the logs and puts the broker together. Blocks.
    fn recover(&self) -> Result<(), String> {
        let config = &self.config;
        let dir = &config.data_dir;
        std::fs::create_dir_all(dir)
            .map_err(|error| format!("cannot create {}: {}", dir.display(), told(&error)))?;
        let manager_cell: Arc<OnceLock<Arc<ReplicaManager>>> = Arc::new(OnceLock::new());
        let began = std::time::Instant::now();
        let store = self.open_store(&manager_cell)?;
        let (logs, logs_after) = (store.ids().len(), began.elapsed());
        // Set once, by this thread.
        let _ = self.store.set(Arc::clone(&store));
        let image = Arc::new(ImageStore::open(dir, config.identity.clone()));
        let controllers = Arc::new(Controllers::new(
            config.controllers.clone(),
            Arc::clone(&image),
        ));
        let registration = Registration::new(config.clone(), take_clean_epoch(dir));
        let registration = Arc::new(registration);
        let leader_links = Arc::new(LeaderLinks::new(self.runtime.clone()));
        let space = Arc::new(DiskSpace::new(config.disk_reserve_bytes));
        let context = Arc::new(ReplicaContext {
            clock: Clock::start(),
            isr: Arc::new(IsrUpdates::default()),
            leader_links: Arc::clone(&leader_links),
            damage: Arc::new(DamageFound::default()),
            alarms: Alarms::default(),
            fatal: Arc::clone(&self.fatal),
        });
        let manager = ReplicaManager::new(config, Arc::clone(&store), Arc::clone(&context));
        let manager = Arc::new(manager);
        let _ = manager_cell.set(Arc::clone(&manager));
        leader_links.set_context(LeaderLinkContext {
            manager: Arc::clone(&manager),
            image: Arc::clone(&image),
            registration: Arc::clone(&registration),
            space: Arc::clone(&space),
        });
        manager.apply(&crate::image::ImageChange {
            image: image.current(),
            delta: None,
        });
        tracing::info!(logs, ?logs_after, replicas_after = ?began.elapsed(), "recovered");
        let broker = Arc::new(Broker {
            config: config.clone(),
            clock: context.clock,
            image,
            manager,
            producer_ids: ProducerIds::new(),
            controllers,
            registration,
            leader_links,
            space,
            unread: Arc::default(),
            incoming: Arc::new(UnreadRoom::of_requests()),
            answers: Arc::new(UnreadRoom::of_answers()),
            disk_reads: DiskReads::default(),
            watches: Arc::default(),
            produce_bytes: Arc::new(Semaphore::new(PRODUCE_BYTES_IN_FLIGHT)),
        });
        self.cell.set(Arc::clone(&broker));
        let (damage, stop) = (Arc::clone(&context.damage), Arc::clone(&self.background));
        scrubber::start(Arc::clone(&store), damage, config.scrub, stop)
            .map_err(|error| format!("cannot start the scrubber: {error}"))?;
        let (manager, stop) = (Arc::clone(&broker.manager), Arc::clone(&self.background));
        producer_state::start(Arc::clone(&store), manager, stop)
            .map_err(|error| format!("cannot start the thread of the producers' state: {error}"))?;
        self.spawn(&broker, &context, store);
        self.start_compaction(&broker)
    }

    /// Compaction has a thread of its own, which ends when the store closes.
    fn start_compaction(&self, broker: &Broker) -> Result<(), String> {
        let Some(store) = self.store.get() else {
            return Ok(());
        };
        let thread = CompactionThread {
            manager: Arc::clone(&broker.manager),
            compactor: store.compactor(),
            clock: broker.clock,
            interval: self.config.compaction_check_interval,
            stop: Arc::clone(&self.background),
            paused: std::collections::BTreeMap::new(),
            told: crate::compaction::Unreadable::default(),
        };
        std::thread::Builder::new()
            .name("log-compaction".to_owned())
            .spawn(move || thread.run())
            .map(|_| ())
            .map_err(|error| format!("cannot start the compaction thread: {error}"))
    }

    fn open_store(
        &self,
        manager: &Arc<OnceLock<Arc<ReplicaManager>>>,
    ) -> Result<Arc<LogStore>, String> {
        let store_config = StoreConfig {
            journal_file_bytes: self.config.journal_file_bytes,
            journal_spare_files: StoreConfig::spare_files_for(
                self.config.checkpoint_bytes,
                self.config.journal_file_bytes,
            ),
            checkpoint_bytes: self.config.checkpoint_bytes,
            open_files_max: self.config.open_segments_max,
            cache_bytes: self.config.tail_cache_bytes as u64,
            // A broker that knows its cluster has had a store.
            must_exist: self.config.identity.cluster_id.is_some(),
            compaction_memory_bytes: self.config.compaction_memory_bytes,
            compaction_bytes_per_second: self.config.compaction_bytes_per_second,
            ..StoreConfig::default()
        };
        let manager = Arc::clone(manager);
        let flushed = Arc::new(move |parts: &[ottla_log::Flushed]| {
            // Nothing is appended before the manager is there.
            if let Some(manager) = manager.get() {
                manager.flushed(parts);
            }
        });
        let fatal = Arc::clone(&self.fatal);
        let failed = Arc::new(move |error: ottla_log::LogError| {
            fatal(format!(
                "the storage failed, and this node stops acknowledging: {}",
                told(&error)
            ));
        });
        let dir = self.config.data_dir.join("log");
        LogStore::open(Arc::new(RealDisk), &dir, store_config, flushed, failed)
            .map(Arc::new)
            .map_err(|error| {
                format!(
                    "cannot open the logs in {}: {}",
                    dir.display(),
                    told(&error)
                )
            })
    }

    fn spawn(&self, broker: &Arc<Broker>, context: &Arc<ReplicaContext>, store: Arc<LogStore>) {
        let mut tasks = self.tasks.lock();
        let mut spawn = |task: JoinHandle<()>| tasks.push(task);
        let refused = what_to_do(Arc::clone(&self.fatal));
        let watcher = Watcher {
            node_id: self.config.node_id,
            image: Arc::clone(&broker.image),
            manager: Arc::clone(&broker.manager),
            controllers: Arc::clone(&broker.controllers),
            refused: Arc::clone(&refused),
        };
        spawn(self.runtime.spawn(Arc::new(watcher).run()));
        spawn(self.runtime.spawn(Arc::clone(&broker.registration).run(
            Arc::clone(&broker.controllers),
            Arc::clone(&broker.image),
            refused,
        )));
        spawn(self.runtime.spawn(Arc::clone(&context.isr).run(
            Arc::clone(&broker.manager),
            Arc::clone(&broker.controllers),
            Arc::clone(&broker.registration),
        )));
        let space = Arc::clone(&broker.space);
        spawn(
            self.runtime
                .spawn(space.run(Arc::clone(&store), Arc::clone(&self.fatal))),
        );
        let damage = DamageReports {
            store,
            manager: Arc::clone(&broker.manager),
            controllers: Arc::clone(&broker.controllers),
            registration: Arc::clone(&broker.registration),
            image: Arc::clone(&broker.image),
            found: Arc::clone(&context.damage),
        };
        spawn(self.runtime.spawn(Arc::new(damage).run()));
        spawn(self.runtime.spawn(keep_producer_ids(Arc::clone(broker))));
        spawn(self.runtime.spawn(tick(Arc::clone(broker))));
        spawn(self.runtime.spawn(retention(Arc::clone(broker))));
        spawn(self.runtime.spawn(set_strays_aside(Arc::clone(broker))));
        spawn(
            self.runtime
                .spawn(report_health(Arc::clone(broker), self.health.clone())),
        );
    }
}

async fn keep_producer_ids(broker: Arc<Broker>) {
    let (controllers, registration) = (&broker.controllers, &broker.registration);
    broker
        .producer_ids
        .run(Arc::clone(controllers), Arc::clone(registration))
        .await;
}

async fn tick(broker: Arc<Broker>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = tokio::time::Instant::now() + SWEEP;
    loop {
        let now = ticks.tick().await;
        broker.manager.tick();
        if now >= sweep {
            sweep = now + SWEEP;
            for some in broker.manager.all().chunks(SWEPT_TOGETHER) {
                some.iter().for_each(|replica| replica.tick_always());
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn retention(broker: Arc<Broker>) {
    let mut ticks = interval(broker.config.retention_check_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Now is the time to look.
            () = broker.space.wait_for_shortage() => {}
        }
        let manager = Arc::clone(&broker.manager);
        let short = broker.space.is_short();
        if tokio::task::spawn_blocking(move || manager.apply_retention(short))
            .await
            .is_err()
        {
            tracing::error!("retention panicked");
        }
        if short {
            tokio::time::sleep(SHORT_OF_ROOM_PAUSE).await;
        }
    }
}

/// The work's failure, or its panic: without it, nobody would learn that it is not going on.
fn or_panic(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("recovering the logs panicked".to_owned()))
}

/// Waits until the metadata is at least as new as this run's registration; only then is a log that
/// it does not know a stray.
async fn set_strays_aside(broker: Arc<Broker>) {
    let mut standing = broker.registration.standing();
    let epoch = match standing.wait_for(|standing| standing.epoch.is_some()).await {
        Ok(standing) => standing.epoch,
        Err(_) => return,
    };
    let Some(epoch) = epoch else { return };
    broker
        .image
        .wait_for(ottla_model::MetadataOffset(epoch.0).next())
        .await;
    let manager = Arc::clone(&broker.manager);
    let image = broker.image.current();
    if tokio::task::spawn_blocking(move || manager.set_strays_aside(&image))
        .await
        .is_err()
    {
        tracing::error!("setting stray logs aside panicked");
    }
}

/// Health follows the controller's word: a fenced broker does not serve.
async fn report_health(broker: Arc<Broker>, health: HealthReporter) {
    let mut standing = broker.registration.standing();
    loop {
        let serving = {
            let standing = standing.borrow_and_update();
            !standing.fenced && standing.epoch.is_some()
        };
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in [
            "",
            "ottla.v1.LogService",
            "ottla.v1.AdminService",
            "ottla.v1.ClusterService",
        ] {
            health.set_service_status(service, status).await;
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The node stayed, fenced, and whoever starts it again when it ends never did.
    #[test]
    fn a_recovery_that_panics_has_failed() {
        assert_eq!(or_panic(|| Ok(())), Ok(()));
        assert!(or_panic(|| panic!("on purpose")).is_err());
    }
}
