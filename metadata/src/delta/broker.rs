//! What the records of the cluster, its brokers and its controllers change.

use ottla_model::{BrokerEpoch, NodeId};

use super::{MetadataDelta, ReplayError};
use crate::image::{Activation, BrokerRegistration, ControllerRegistration};
use crate::record::{
    BrokerChanged, BrokerRegistered, BrokerUnregistered, ClusterCreated, ControllerActivated,
    ControllerRegistered, FeatureLevelChanged, ProducerIdsAllocated,
};

impl MetadataDelta {
    pub(super) fn cluster_created(&mut self, record: &ClusterCreated) -> Result<(), ReplayError> {
        if let Some(existing) = self.image.cluster_id {
            return Err(ReplayError::AlreadyFounded { existing });
        }
        self.image.cluster_id = Some(record.cluster_id);
        Ok(())
    }

    pub(super) fn broker_registered(&mut self, record: &BrokerRegistered) {
        let amended = self
            .image
            .brokers
            .get(&record.broker)
            .filter(|old| old.incarnation == record.incarnation);
        let known = self.image.brokers.get(&record.broker);
        let same_directory = known.filter(|old| old.directory == record.directory);
        let registration = BrokerRegistration {
            broker: record.broker,
            epoch: amended.map_or(BrokerEpoch(self.image.offset.0), |old| old.epoch),
            incarnation: record.incarnation,
            directory: record.directory,
            client_endpoint: record.client_endpoint.clone(),
            internal_endpoint: record.internal_endpoint.clone(),
            rack: record.rack.clone(),
            version: record.version.clone(),
            fenced: amended.is_none_or(|old| old.fenced),
            in_controlled_shutdown: amended.is_some_and(|old| old.in_controlled_shutdown),
            served_epoch: same_directory.and_then(|old| old.served_epoch),
        };
        self.image.brokers.insert(record.broker, registration);
        self.changed_brokers.insert(record.broker);
    }

    pub(super) fn broker_changed(&mut self, record: &BrokerChanged) -> Result<(), ReplayError> {
        self.check_broker(record.broker, record.broker_epoch)?;
        if let Some(broker) = self.image.brokers.get_mut(&record.broker) {
            broker.fenced = record.fenced.unwrap_or(broker.fenced);
            if !broker.fenced {
                broker.served_epoch = Some(broker.epoch);
            }
            broker.in_controlled_shutdown = record
                .in_controlled_shutdown
                .unwrap_or(broker.in_controlled_shutdown);
        }
        self.changed_brokers.insert(record.broker);
        Ok(())
    }

    pub(super) fn broker_unregistered(
        &mut self,
        record: &BrokerUnregistered,
    ) -> Result<(), ReplayError> {
        self.check_broker(record.broker, record.broker_epoch)?;
        self.image.brokers.remove(&record.broker);
        self.changed_brokers.insert(record.broker);
        Ok(())
    }

    pub(super) fn feature_level_changed(&mut self, record: &FeatureLevelChanged) {
        if record.level == 0 {
            self.image.features.remove(&record.name);
        } else {
            self.image
                .features
                .insert(record.name.clone(), record.level);
        }
        self.features_changed = true;
    }

    pub(super) fn producer_ids_allocated(
        &mut self,
        record: &ProducerIdsAllocated,
    ) -> Result<(), ReplayError> {
        let (from, to) = (self.image.next_producer_id, record.next_producer_id);
        if to <= from {
            return Err(ReplayError::ProducerIdsGoBack { from, to });
        }
        self.image.next_producer_id = to;
        Ok(())
    }

    pub(super) fn controller_registered(&mut self, record: &ControllerRegistered) {
        let registration = ControllerRegistration {
            controller: record.controller,
            directory: record.directory,
            internal_endpoint: record.internal_endpoint.clone(),
            version: record.version.clone(),
        };
        self.image
            .controllers
            .insert(record.controller, registration);
        self.controllers_changed = true;
    }

    pub(super) fn controller_activated(&mut self, record: &ControllerActivated) {
        self.image.activations.push(Activation {
            offset: self.image.offset,
            id: record.activation_id,
        });
    }

    fn check_broker(&self, broker: NodeId, epoch: BrokerEpoch) -> Result<(), ReplayError> {
        match self.image.brokers.get(&broker) {
            Some(registration) if registration.epoch == epoch => Ok(()),
            _ => Err(ReplayError::NoSuchBroker { broker, epoch }),
        }
    }
}
