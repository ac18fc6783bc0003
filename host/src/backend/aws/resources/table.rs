//! The table: its keys, its two indexes, and the attribute by which items go.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, DeleteGlobalSecondaryIndexAction,
    GlobalSecondaryIndex, GlobalSecondaryIndexDescription, GlobalSecondaryIndexUpdate, IndexStatus, KeySchemaElement,
    KeyType, Projection, ProjectionType, ScalarAttributeType, TableDescription, TableStatus, Tag,
    TimeToLiveDescription, TimeToLiveSpecification, TimeToLiveStatus,
};
use tokio::time::{Instant, sleep};

use super::names::{
    CUSTOMER_INDEX, CUSTOMER_PARTITION, CUSTOMER_SORT, LOG_INDEX, LOG_PARTITION, LOG_SORT, PARTITION_KEY, PREFIX_TAG,
    SORT_KEY, TTL,
};
use super::settle::{Applied, PAUSE, SETTLED_MAX};
use super::{Change, Error, Resource, Setting, Step, Tags, tag_steps};
use crate::backend::aws::clients::{Clients, OpenError, Service};

const TABLE_KEY: Key =
    Key { partition: (PARTITION_KEY, ScalarAttributeType::S), sort: (SORT_KEY, ScalarAttributeType::S) };
/// By name. They hold keys alone: what else is needed is read from the table, which is never behind.
const INDEXES: [(&str, Key); 2] = [
    (LOG_INDEX, Key { partition: (LOG_PARTITION, ScalarAttributeType::S), sort: (LOG_SORT, ScalarAttributeType::N) }),
    (
        CUSTOMER_INDEX,
        Key { partition: (CUSTOMER_PARTITION, ScalarAttributeType::S), sort: (CUSTOMER_SORT, ScalarAttributeType::S) },
    ),
];

/// Attributes of a key, each with its type.
struct Key {
    partition: (&'static str, ScalarAttributeType),
    sort: (&'static str, ScalarAttributeType),
}

/// A table that is there and in use.
#[derive(Debug)]
pub struct Found {
    /// No other table has it, not one of the same name that is made anew either.
    pub id: Option<String>,
    arn: String,
    key: String,
    /// Key and projection, by name.
    indexes: BTreeMap<String, String>,
    ttl: Ttl,
    /// `None` where nobody looked.
    tags: Option<Tags>,
}

#[derive(Debug, PartialEq, Eq)]
enum Ttl {
    Off,
    /// By this attribute.
    By(String),
}

/// Looks until the table, and those of its indexes that count, are there for use or not there at all.
pub async fn look(clients: &Clients, name: &str, with_tags: bool) -> Result<Option<Found>, Error> {
    let deadline = Instant::now() + SETTLED_MAX;
    let mut told = false;
    let table = loop {
        let described = clients.dynamodb.describe_table().table_name(name).send().await;
        let table = match described {
            Ok(described) => described.table.unwrap_or_else(|| unreachable!("a description describes")),
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(None),
            Err(error) => return Err(failure(clients, format!("describe the table {name}"), &error)),
        };
        match unsettled(&table)? {
            None => break table,
            Some(what) if Instant::now() > deadline => return Err(Error::Slow { what }),
            Some(what) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%what, "waiting until the table can be used");
                }
                sleep(PAUSE).await;
            }
        }
    };
    let ttl = clients.dynamodb.describe_time_to_live().table_name(name).send().await;
    let ttl =
        ttl.map_err(|error| failure(clients, format!("describe the time to live of the table {name}"), &error))?;
    let arn = table.table_arn.clone().unwrap_or_default();
    let tags = if with_tags { Some(tags(clients, &arn).await?) } else { None };
    Ok(Some(Found {
        id: table.table_id.clone(),
        key: shown_key(table.key_schema(), &table),
        indexes: table.global_secondary_indexes().iter().map(|index| shown_index(index, &table)).collect(),
        ttl: shown_ttl(ttl.time_to_live_description),
        arn,
        tags,
    }))
}

pub fn compare(name: &str, prefix: &str, found: Option<&Found>) -> Result<Vec<Step>, Error> {
    let on = || Resource::Table { name: name.to_owned() };
    let index = |index: &str| Resource::Index { name: index.to_owned(), table: name.to_owned() };
    let Some(found) = found else {
        let key = Setting::new("key", TABLE_KEY.to_string());
        let indexes = INDEXES.iter().map(|(name, key)| Setting::new(*name, wanted_index(key)));
        let settings = std::iter::once(key).chain(indexes).chain([Setting::new("time to live", TTL)]).collect();
        return Ok(vec![Step::needed(on(), Change::Create { settings })]);
    };
    if found.key != TABLE_KEY.to_string() {
        let what = format!(
            "the table {name} has the key {}, not {TABLE_KEY}: it is somebody else's; set another aws.prefix",
            found.key
        );
        return Err(Error::Unmendable { what });
    }
    let mut steps = Vec::new();
    for (name, key) in &INDEXES {
        let wanted = wanted_index(key);
        match found.indexes.get(*name) {
            Some(shown) if *shown == wanted => {}
            Some(shown) => {
                steps.push(Step::needed(index(name), Change::Replace { found: shown.clone(), wanted }));
            }
            None => {
                let settings = vec![Setting::new("key", wanted)];
                steps.push(Step::needed(index(name), Change::Create { settings }));
            }
        }
    }
    match &found.ttl {
        Ttl::By(attribute) if attribute == TTL => {}
        Ttl::By(other) => {
            let what = format!(
                "items of the table {name} go by the attribute {other}, not {TTL}: turn its time to live off, which \
                 takes up to an hour, and start again"
            );
            return Err(Error::Unmendable { what });
        }
        Ttl::Off => {
            let setting = Setting::new("time to live", TTL);
            // Without, what is old stays and is paid for; whoever reads it sees by itself that it is.
            steps.push(Step::useful(on(), Change::Set { setting, found: None }));
        }
    }
    steps.extend(tag_steps(&on(), found.tags.as_ref(), &[(PREFIX_TAG, prefix)]));
    Ok(steps)
}

/// Does a step of [`compare`].
pub async fn apply(
    clients: &Clients,
    table: &str,
    prefix: &str,
    found: Option<&Found>,
    step: &Step,
) -> Result<Applied, Error> {
    match (&step.on, &step.change) {
        (Resource::Index { name, .. }, Change::Replace { .. }) => drop_index(clients, table, name).await,
        (Resource::Index { name, .. }, _) => add_index(clients, table, name).await,
        (_, Change::Set { .. }) => enable_ttl(clients, table).await,
        (_, Change::Tag { tag, .. }) => {
            let arn = found.map(|found| found.arn.clone()).unwrap_or_default();
            let sent = clients.dynamodb.tag_resource().resource_arn(arn).tags(own_tag(tag)).send().await;
            done(clients, format!("tag the table {table}"), sent.map(|_| Applied::Taken))
        }
        _ => create(clients, table, prefix).await,
    }
}

async fn create(clients: &Clients, table: &str, prefix: &str) -> Result<Applied, Error> {
    let index = |(name, key): &(&str, Key)| {
        let index = GlobalSecondaryIndex::builder().index_name(*name).set_key_schema(Some(key.schema()));
        built(index.projection(keys_only()).build())
    };
    let definitions = INDEXES.iter().flat_map(|(_, key)| key.definitions()).chain(TABLE_KEY.definitions());
    let sent = clients
        .dynamodb
        .create_table()
        .table_name(table)
        .set_key_schema(Some(TABLE_KEY.schema()))
        .set_attribute_definitions(Some(definitions.collect()))
        .set_global_secondary_indexes(Some(INDEXES.iter().map(index).collect()))
        .billing_mode(BillingMode::PayPerRequest)
        .tags(own_tag(&Setting::new(PREFIX_TAG, prefix)))
        .send()
        .await;
    done(clients, format!("create the table {table}"), sent.map(|_| Applied::Done))
}

async fn add_index(clients: &Clients, table: &str, name: &str) -> Result<Applied, Error> {
    let Some((_, key)) = INDEXES.iter().find(|(known, _)| *known == name) else { return Ok(Applied::Done) };
    let action = CreateGlobalSecondaryIndexAction::builder().index_name(name).set_key_schema(Some(key.schema()));
    let action = built(action.projection(keys_only()).build());
    let definitions = key.definitions().into_iter().chain(TABLE_KEY.definitions()).collect();
    let update = clients.dynamodb.update_table().table_name(table).set_attribute_definitions(Some(definitions));
    let update = update.global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(action).build());
    done(clients, format!("add the index {name} to the table {table}"), update.send().await.map(|_| Applied::Done))
}

/// The next look finds it missing.
async fn drop_index(clients: &Clients, table: &str, name: &str) -> Result<Applied, Error> {
    let action = built(DeleteGlobalSecondaryIndexAction::builder().index_name(name).build());
    let update = GlobalSecondaryIndexUpdate::builder().delete(action).build();
    let sent = clients.dynamodb.update_table().table_name(table).global_secondary_index_updates(update).send().await;
    done(clients, format!("take the index {name} from the table {table}"), sent.map(|_| Applied::Done))
}

async fn enable_ttl(clients: &Clients, table: &str) -> Result<Applied, Error> {
    let specification = built(TimeToLiveSpecification::builder().enabled(true).attribute_name(TTL).build());
    let update = clients.dynamodb.update_time_to_live().table_name(table).time_to_live_specification(specification);
    match update.send().await {
        // Another host was quicker.
        Err(error) if error.message().is_some_and(|message| message.contains("already enabled")) => Ok(Applied::Taken),
        sent => done(clients, format!("set the time to live of the table {table}"), sent.map(|_| Applied::Taken)),
    }
}

/// What was sent, where another host changes the same table just now.
fn done<E>(clients: &Clients, action: String, sent: Result<Applied, SdkError<E>>) -> Result<Applied, Error>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match sent {
        Ok(applied) => Ok(applied),
        Err(error) => match error.code() {
            Some("ResourceInUseException" | "LimitExceededException") => Ok(Applied::Later),
            _ => Err(failure(clients, action, &error)),
        },
    }
}

fn failure<E>(clients: &Clients, action: String, error: &SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let failure: OpenError = clients.failure(Service::DynamoDb, action, error);
    failure.into()
}

/// What is to be waited for before the table can be used or changed.
fn unsettled(table: &TableDescription) -> Result<Option<String>, Error> {
    let name = table.table_name().unwrap_or_default();
    match table.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) | None => {}
        Some(status @ (TableStatus::Creating | TableStatus::Deleting)) => {
            return Ok(Some(format!("the table {name} is {status}")));
        }
        Some(other) => {
            return Err(Error::Unmendable { what: format!("the table {name} cannot be used: it is {other}") });
        }
    }
    let counts = |index: &&GlobalSecondaryIndexDescription| {
        INDEXES.iter().any(|(known, _)| index.index_name() == Some(known))
            && !matches!(index.index_status(), Some(IndexStatus::Active) | None)
    };
    Ok(table.global_secondary_indexes().iter().find(counts).map(|index| {
        let status = index.index_status().map(IndexStatus::as_str).unwrap_or_default();
        format!("the index {} of the table {name} is {status}", index.index_name().unwrap_or_default())
    }))
}

async fn tags(clients: &Clients, arn: &str) -> Result<Tags, Error> {
    let listed = clients.dynamodb.list_tags_of_resource().resource_arn(arn).send().await;
    let listed = listed.map_err(|error| failure(clients, format!("list the tags of {arn}"), &error))?;
    Ok(listed.tags().iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect())
}

fn shown_key(schema: &[KeySchemaElement], table: &TableDescription) -> String {
    let type_of = |name: &str| {
        let definition = table.attribute_definitions().iter().find(|definition| definition.attribute_name() == name);
        definition.map_or("?", |definition| definition.attribute_type().as_str())
    };
    // The partition key comes first.
    let mut parts: Vec<_> =
        schema.iter().map(|part| (part.key_type() != &KeyType::Hash, part.attribute_name())).collect();
    parts.sort_unstable();
    let shown: Vec<_> = parts.iter().map(|(_, name)| format!("{name} ({})", type_of(name))).collect();
    shown.join(" + ")
}

fn shown_index(index: &GlobalSecondaryIndexDescription, table: &TableDescription) -> (String, String) {
    let projection = index.projection().and_then(Projection::projection_type).map_or("?", ProjectionType::as_str);
    let name = index.index_name().unwrap_or_default().to_owned();
    (name, format!("{}, {projection}", shown_key(index.key_schema(), table)))
}

fn wanted_index(key: &Key) -> String {
    format!("{key}, {}", ProjectionType::KeysOnly.as_str())
}

fn shown_ttl(ttl: Option<TimeToLiveDescription>) -> Ttl {
    match ttl.map(|ttl| (ttl.time_to_live_status, ttl.attribute_name)) {
        Some((Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling), Some(attribute))) => Ttl::By(attribute),
        _ => Ttl::Off,
    }
}

fn keys_only() -> Projection {
    Projection::builder().projection_type(ProjectionType::KeysOnly).build()
}

fn own_tag(tag: &Setting) -> Tag {
    built(Tag::builder().key(&tag.name).value(&tag.value).build())
}

fn built<T>(built: Result<T, BuildError>) -> T {
    built.unwrap_or_else(|error| unreachable!("every field is set: {error}"))
}

impl Key {
    fn schema(&self) -> Vec<KeySchemaElement> {
        let part = |name: &str, kind| built(KeySchemaElement::builder().attribute_name(name).key_type(kind).build());
        vec![part(self.partition.0, KeyType::Hash), part(self.sort.0, KeyType::Range)]
    }

    fn definitions(&self) -> Vec<AttributeDefinition> {
        let part = |(name, kind): &(&str, ScalarAttributeType)| {
            built(AttributeDefinition::builder().attribute_name(*name).attribute_type(kind.clone()).build())
        };
        vec![part(&self.partition), part(&self.sort)]
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { partition, sort } = self;
        write!(f, "{} ({}) + {} ({})", partition.0, partition.1, sort.0, sort.1)
    }
}

/// Takes one index away, makes the other one otherwise, and lets items stay.
#[cfg(test)]
pub async fn spoil(clients: &Clients, table: &str) {
    for (name, _) in &INDEXES {
        assert_eq!(drop_index(clients, table, name).await.unwrap(), Applied::Done);
    }
    let key =
        Key { partition: (CUSTOMER_PARTITION, ScalarAttributeType::S), sort: (CUSTOMER_SORT, ScalarAttributeType::N) };
    let everything = Projection::builder().projection_type(ProjectionType::All).build();
    let action = CreateGlobalSecondaryIndexAction::builder().index_name(CUSTOMER_INDEX);
    let action = action.set_key_schema(Some(key.schema())).projection(everything).build().unwrap();
    let definitions = key.definitions().into_iter().chain(TABLE_KEY.definitions()).collect();
    let update = clients.dynamodb.update_table().table_name(table).set_attribute_definitions(Some(definitions));
    let update = update.global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(action).build());
    update.send().await.unwrap();
    let off = built(TimeToLiveSpecification::builder().enabled(false).attribute_name(TTL).build());
    clients.dynamodb.update_time_to_live().table_name(table).time_to_live_specification(off).send().await.unwrap();
}
