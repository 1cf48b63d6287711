//! The topic of a run: one that is there, or one of its own that goes when the run is over.

use std::time::Duration;

use ottla_client::{Client, NewTopic};

/// How a topic of the run's own is made.
#[derive(Debug, Clone)]
pub struct TopicShape {
    pub partitions: i32,
    /// `None`: the cluster's default.
    pub replication_factor: Option<i16>,
    /// Settings by their Kafka name.
    pub configs: Vec<(String, String)>,
    /// Leave the topic there when the run is over.
    pub keep: bool,
}

/// The topic of a run.
#[derive(Debug, Clone)]
pub struct BenchTopic {
    pub name: String,
    pub partitions: usize,
    /// Whether to delete it afterwards.
    remove: bool,
}

impl BenchTopic {
    /// The topic of that name, or one of its own.
    pub async fn open(
        client: &Client,
        name: Option<&str>,
        shape: &TopicShape,
        timeout: Duration,
    ) -> anyhow::Result<BenchTopic> {
        match name {
            Some(name) => Ok(BenchTopic {
                name: name.to_owned(),
                partitions: partitions(client, name).await?,
                remove: false,
            }),
            None => BenchTopic::create(client, shape, timeout).await,
        }
    }

    async fn create(
        client: &Client,
        shape: &TopicShape,
        timeout: Duration,
    ) -> anyhow::Result<BenchTopic> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("bench-{}", &id[..12]);
        let topic = NewTopic {
            partitions: Some(shape.partitions),
            replication_factor: shape.replication_factor,
            configs: shape.configs.clone(),
            ..NewTopic::new(name.as_str())
        };
        client.admin().create_topic(topic).await?;
        let partitions = usize::try_from(shape.partitions).unwrap_or_default();
        let created = BenchTopic {
            name,
            partitions,
            remove: !shape.keep,
        };
        if let Err(error) = created.wait_until_led(client, timeout).await {
            created.close(client).await?;
            return Err(error);
        }
        Ok(created)
    }

    async fn wait_until_led(&self, client: &Client, timeout: Duration) -> anyhow::Result<()> {
        let led = |cluster: &ottla_client::ClusterSnapshot| {
            cluster.topic(&self.name).is_some_and(|topic| {
                let led = topic.partitions.iter().filter(|p| p.leader.is_some());
                led.count() == self.partitions
            })
        };
        client.wait_for(led, timeout).await?;
        Ok(())
    }

    /// Deletes the topic, if it is the run's own and not to be kept.
    pub async fn close(&self, client: &Client) -> anyhow::Result<()> {
        if self.remove {
            client.admin().delete_topic(&self.name).await?;
        }
        Ok(())
    }
}

/// How many partitions a topic has.
pub async fn partitions(client: &Client, topic: &str) -> anyhow::Result<usize> {
    let described = client.admin().describe_topic(topic).await?;
    Ok(described.topic.map_or(0, |topic| topic.partitions.len()))
}
