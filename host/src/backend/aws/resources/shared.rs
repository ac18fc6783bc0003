//! Table and topic.

use async_trait::async_trait;

use super::settle::{Applied, Site};
use super::{Error, Plan, Resource, Step, names, table, topic};
use crate::backend::aws::clients::Clients;
use crate::backend::aws::settings::Settings;

pub struct SharedSite<'a> {
    clients: &'a Clients,
    settings: &'a Settings,
    with_tags: bool,
    pub table: String,
    topic: String,
}

pub struct FoundShared {
    pub table: Option<table::Found>,
    pub topic: Option<topic::Found>,
}

impl<'a> SharedSite<'a> {
    pub fn new(clients: &'a Clients, settings: &'a Settings, with_tags: bool) -> Self {
        let (table, topic) = (names::table(&settings.prefix), names::topic(&settings.prefix, settings.topic));
        Self { clients, settings, with_tags, table, topic }
    }
}

#[async_trait]
impl Site for SharedSite<'_> {
    type Found = FoundShared;

    fn clients(&self) -> &Clients {
        self.clients
    }

    async fn look(&self) -> Result<FoundShared, Error> {
        Ok(FoundShared {
            table: table::look(self.clients, &self.table, self.with_tags).await?,
            topic: topic::look(self.clients, &self.topic, self.with_tags).await?,
        })
    }

    fn compare(&self, found: &FoundShared) -> Result<Plan, Error> {
        let prefix = self.settings.prefix.as_str();
        let mut steps = table::compare(&self.table, prefix, found.table.as_ref())?;
        steps.extend(topic::compare(&self.topic, self.settings.topic, prefix, found.topic.as_ref()));
        Ok(Plan { steps })
    }

    async fn apply(&self, found: &FoundShared, step: &Step) -> Result<Applied, Error> {
        let (clients, prefix) = (self.clients, self.settings.prefix.as_str());
        match step.on {
            Resource::Topic { .. } => {
                topic::apply(clients, &self.topic, self.settings.topic, prefix, found.topic.as_ref(), step).await
            }
            _ => table::apply(clients, &self.table, prefix, found.table.as_ref(), step).await,
        }
    }
}
